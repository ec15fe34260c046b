/*
 * Page-modification logging: the processor notes the guest-physical address of
 * each write that sets a dirty flag (SDM Vol. 3, "Page-Modification Logging").
 *
 *	index counts down:   511 ... index+1 | index ... 0
 *	                       logged        |   free          FFFFh: full
 *
 * Invariant: outside guest mode the log is empty, so whoever has waited for a
 * vCPU to leave the guest finds every write in the dirty log.
 */
#include "lib/rcu.h"
#include "vmx/internal.h"

void vmx_flush_pml_buffer(struct kvm_vcpu *vcpu)
{
	uint16_t index = vmcs_read16(vcpu, GUEST_PML_INDEX);
	struct kvm_memory_slot *slot;
	unsigned i;

	if (likely(index == PML_ENTITY_NUM - 1))
		return;
	lib_rcu_read_lock();
	for (i = index >= PML_ENTITY_NUM ? 0 : index + 1U; i < PML_ENTITY_NUM; i++) {
		gfn_t gfn = vcpu->vmx->pml[i] >> PAGE_SHIFT;

		slot = kvm_vcpu_gfn_to_memslot(vcpu, gfn);
		mark_page_dirty_in_slot(vcpu->kvm, slot, gfn);
	}
	lib_rcu_read_unlock();
	vmcs_write16(vcpu, GUEST_PML_INDEX, PML_ENTITY_NUM - 1);
}

/* The log is flushed by every exit; what is left is an IRET that was cut short. */
int handle_pml_full(struct kvm_vcpu *vcpu)
{
	if (!(vcpu->vmx->idt_vectoring_info & INTR_INFO_VALID_MASK) &&
	    (vmcs_readl(vcpu, EXIT_QUALIFICATION) & EPT_VIOLATION_NMI_UNBLOCK))
		vmx_set_nmi_mask(vcpu, true);
	return 1;
}
