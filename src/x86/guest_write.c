/*
 * Writes to guest memory that the guest takes for its own processor's: by an
 * instruction that is emulated, a task switch, SMM's entry, code put into a page.
 * What the processor and the MMU have made of that memory follows at once.
 */
#include <errno.h>
#include <string.h>

#include "host/fault.h"
#include "x86/run.h"

/* Within one page. */
static void code_written(struct kvm_vcpu *vcpu, gpa_t gpa, size_t n)
{
	hva_t hva = kvm_vcpu_gpa_to_hva(vcpu, gpa, true);

	if (hva) /* else the slot has gone since, and its code with it */
		vmx_code_written(vmx_processor(vcpu), hva, n);
}

int kvm_write_guest_as_processor(struct kvm_vcpu *vcpu, gpa_t gpa, const void *data, size_t len)
{
	const char *p = data;
	int r;

	for (size_t n; len; gpa += n, p += n, len -= n) {
		n = min_u64(len, PAGE_SIZE - (gpa & ~PAGE_MASK));
		r = kvm_vcpu_write_guest(vcpu, gpa, p, n);
		if (r)
			return r;
		code_written(vcpu, gpa, n);
		kvm_mmu_track_write(vcpu, gpa, p, n);
	}
	return 0;
}

#define LINE_BYTES 64U /* of a cache: an access inside one is atomic without a bus lock */

/* 8 bytes of the line that hold [at, at + len); where `len` bytes are in it. */
static uint64_t *word_around(hva_t at, unsigned *offset)
{
	hva_t word = min_u64(at, ALIGN_DOWN(at, LINE_BYTES) + LINE_BYTES - sizeof(uint64_t));

	*offset = (unsigned)(at - word);
	return (uint64_t *)(uintptr_t)word;
}

struct bytes {
	const void *old, *val;
	size_t len;
};

/* Neighbours of the bytes may change at any time: only theirs decide. */
static int exchange_bytes(void *at, const void *what)
{
	const struct bytes *b = what;
	unsigned offset;
	uint64_t *word = word_around((hva_t)(uintptr_t)at, &offset), was, is;
	int r;

	do {
		r = host_copy_from(&was, word, sizeof(was));
		if (r)
			return r;
		if (memcmp((uint8_t *)&was + offset, b->old, b->len) != 0)
			return 0;
		is = was;
		memcpy((uint8_t *)&is + offset, b->val, b->len);
		r = host_cmpxchg64(word, was, is);
	} while (r == 0);
	return r;
}

int kvm_cmpxchg_guest_as_processor(struct kvm_vcpu *vcpu, gpa_t gpa, const void *old, const void *data, size_t len)
{
	int r;

	if (kvm_bug_on(vcpu->kvm, len > sizeof(uint64_t) || gpa % LINE_BYTES + len > LINE_BYTES))
		return -EIO;
	r = kvm_vcpu_exchange_guest(vcpu, gpa, exchange_bytes, &(struct bytes){ old, data, len });
	if (r > 0) {
		code_written(vcpu, gpa, len);
		kvm_mmu_track_write(vcpu, gpa, data, len);
	}
	return r;
}
