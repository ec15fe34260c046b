/*
 * What the rooms above do for this one: the guest's registers, and the vendor's EPTP.
 *
 * Locks: none; written once, before the first VM.
 */
#include "mmu/internal.h"

static const struct kvm_mmu_guest_ops *guest_ops;
static const struct kvm_mmu_vendor_ops *vendor_ops;

void kvm_mmu_register_guest(const struct kvm_mmu_guest_ops *g, const struct kvm_mmu_vendor_ops *v)
{
	guest_ops = g;
	vendor_ops = v;
}

const struct kvm_mmu_guest_ops *mmu_guest_ops(void)
{
	return guest_ops;
}

const struct kvm_mmu_vendor_ops *mmu_vendor_ops(void)
{
	return vendor_ops;
}
