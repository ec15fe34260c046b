/*
 * The shadow VMCS of L1: L2's VMREAD and VMWRITE of fields that L1's bitmaps let pass
 * act on the VMCS that vmcs12's link pointer names (SDM Vol. 3, "VMCS Types: Ordinary
 * and Shadow"). It is copied for the time L2 runs, as vmcs12 is.
 */
#include "mmu/mmu.h"
#include "vmx/internal.h"

static bool linked(const struct vmcs12 *v)
{
	return nested_cpu_has2(v, SECONDARY_EXEC_SHADOW_VMCS) && v->vmcs_link_pointer != INVALID_VMPTR;
}

void nested_load_shadow_vmcs12(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	if (linked(v))
		nested_read_guest(vcpu, v->vmcs_link_pointer, vcpu->vmx->nested.cached_shadow_vmcs12,
					  VMCS12_SIZE);
}

void nested_flush_shadow_vmcs12(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	if (linked(v))
		nested_write_guest(vcpu, v->vmcs_link_pointer, vcpu->vmx->nested.cached_shadow_vmcs12,
					   VMCS12_SIZE);
}
