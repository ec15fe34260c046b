/*
 * Writes to guest memory that the guest takes for its own processor's: by an
 * instruction that is emulated, a task switch, SMM's entry, code put into a page.
 * What the processor and the MMU have made of that memory follows at once.
 */
#include <string.h>

#include "host/fault.h"
#include "lib/error.h"
#include "lib/rcu.h"
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

/* Neighbours of the bytes may change at any time: only theirs decide. */
static int cmpxchg_bytes(hva_t at, const void *old, const void *data, size_t len)
{
	unsigned offset;
	uint64_t *word = word_around(at, &offset), was, is;
	int r;

	do {
		r = host_copy_from(&was, word, sizeof(was));
		if (r)
			return r;
		if (memcmp((uint8_t *)&was + offset, old, len) != 0)
			return 0;
		is = was;
		memcpy((uint8_t *)&is + offset, data, len);
		r = host_cmpxchg64(word, was, is);
	} while (r == 0);
	return r;
}

int kvm_cmpxchg_guest_as_processor(struct kvm_vcpu *vcpu, gpa_t gpa, const void *old, const void *data, size_t len)
{
	gfn_t gfn = gpa >> PAGE_SHIFT;
	struct kvm_memory_slot *slot;
	int r;

	if (kvm_bug_on(vcpu->kvm, len > sizeof(uint64_t) || gpa % LINE_BYTES + len > LINE_BYTES))
		return -EIO;
	lib_rcu_read_lock();
	slot = kvm_vcpu_gfn_to_memslot(vcpu, gfn);
	if (!slot || slot->flags & (KVM_MEM_READONLY | KVM_MEMSLOT_INVALID))
		r = err_born(EFAULT, "no memory for a locked access at %#llx", (unsigned long long)gpa);
	else
		r = cmpxchg_bytes(gfn_to_hva_memslot(slot, gfn) + (gpa & ~PAGE_MASK), old, data, len);
	if (r > 0)
		mark_page_dirty_in_slot(vcpu->kvm, slot, gfn);
	lib_rcu_read_unlock();
	if (r > 0) {
		code_written(vcpu, gpa, len);
		kvm_mmu_track_write(vcpu, gpa, data, len);
	}
	return r;
}
