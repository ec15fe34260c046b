/*
 * The TPR shadow that an L1 gives its L2 (SDM Vol. 3, "Virtualizing the TPR"): CR8 of L2, and offset 80h of its
 * APIC-access page, are four bytes of a page of L1's memory.
 *
 *	L1's virtual-APIC page --- entry of L2 ---> VMCS02's, a frame of ours
 *	          ^-------------- after each run, if L2 has changed it ---'
 *
 * The processor reads and writes the page that the VMCS names with no way to fail; L1's memory may be away at any time.
 *
 * Invariants
 * 1. Between two runs of L2 both pages have the same TPR: whoever saves L1's memory has it.
 * 2. L1's page is read when L1 enters L2, and before the first run of an L2 that was restored. What another of L1's
 *    processors writes into it meanwhile is lost to L2, as the SDM allows for what a VMCS refers to.
 *
 * Locks: none; the vCPU's thread.
 */
#include "mmu/mmu.h"
#include "vmx/internal.h"

#define VTPR 0x80U /* SDM "Virtual APIC State" */

static uint32_t *shadow(struct kvm_vcpu *vcpu)
{
	return (uint32_t *)(void *)(vcpu->vmx->nested.virtual_apic + VTPR);
}

bool nested_tpr_read(struct kvm_vcpu *vcpu, const struct vmcs12 *v, uint32_t *vtpr)
{
	return !kvm_vcpu_read_guest(vcpu, v->virtual_apic_page_addr + VTPR, vtpr, sizeof(*vtpr));
}

bool nested_tpr_load(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	struct nested_vmx *n = &vcpu->vmx->nested;

	if (!nested_cpu_has(v, CPU_BASED_TPR_SHADOW))
		return true;
	if (!nested_tpr_read(vcpu, v, &n->vtpr))
		return false;
	*shadow(vcpu) = n->vtpr;
	return true;
}

void nested_tpr_save(struct kvm_vcpu *vcpu)
{
	struct nested_vmx *n = &vcpu->vmx->nested;

	if (likely(*shadow(vcpu) == n->vtpr))
		return;
	n->vtpr = *shadow(vcpu);
	nested_write_guest(vcpu, get_vmcs12(vcpu)->virtual_apic_page_addr + VTPR, &n->vtpr, sizeof(n->vtpr));
}
