/*
 * Writes to guest memory that the guest takes for its own processor's: by an
 * instruction that is emulated, a task switch, SMM's entry, code put into a page.
 * What the processor and the MMU have made of that memory follows at once.
 */
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
