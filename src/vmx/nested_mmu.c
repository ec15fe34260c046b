/*
 * The MMU contexts of a vCPU that runs an L2 (mmu/mmu.h): which are chosen when, and
 * what an access that EPT12 forbids becomes.
 */
#include "mmu/mmu.h"
#include "vmx/internal.h"

void nested_ept_init_mmu_context(struct kvm_vcpu *vcpu)
{
}

void nested_ept_uninit_mmu_context(struct kvm_vcpu *vcpu)
{
}

void nested_free_guest_roots(struct kvm_vcpu *vcpu)
{
}
