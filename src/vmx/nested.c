/*
 * What the other rooms ask about nested VMX, and events of L2 that become exits.
 */
#include "sdm/regs.h"
#include "vmx/internal.h"

bool vmx_nested_run_pending(struct kvm_vcpu *vcpu)
{
	return vcpu->vmx->nested.run_pending;
}

bool vmx_is_valid_cr0(struct kvm_vcpu *vcpu, uint64_t v)
{
	if (is_guest_mode(vcpu))
		return nested_guest_cr0_valid(vcpu, v);
	return !vcpu->vmx->head.vmxon || nested_host_cr0_valid(vcpu, v);
}

bool vmx_is_valid_cr4(struct kvm_vcpu *vcpu, uint64_t v)
{
	return !vcpu->vmx->head.vmxon || nested_cr4_valid(vcpu, v);
}

bool nested_mtf_pending(struct kvm_vcpu *vcpu)
{
	return vcpu->vmx->nested.mtf_pending;
}

/* SDM "Monitor Trap Flag": after the instruction, unless it ended by an exception. */

void nested_vmx_exception_vmexit(struct kvm_vcpu *vcpu, uint8_t vector, bool has_error_code, uint32_t error_code,
				 uint64_t qualification)
{
	struct vmcs12 *v = get_vmcs12(vcpu);
	bool soft = vector == X86_TRAP_BP || vector == X86_TRAP_OF;
	uint64_t info = vector | INTR_INFO_VALID_MASK |
			FIELD_PREP(INTR_INFO_INTR_TYPE_MASK, soft ? INTR_TYPE_SOFT_EXCEPTION
								  : INTR_TYPE_HARD_EXCEPTION);

	if (has_error_code) {
		v->vm_exit_intr_error_code = (uint16_t)error_code;
		info |= INTR_INFO_DELIVER_CODE_MASK;
	}
	if (!(v->idt_vectoring_info_field & INTR_INFO_VALID_MASK) && vmx_get_nmi_mask(vcpu))
		info |= INTR_INFO_UNBLOCK_NMI;
	nested_vmx_vmexit(vcpu, EXIT_REASON_EXCEPTION_NMI, (uint32_t)info, qualification);
}

void nested_vmx_exception_vmexit_nmi(struct kvm_vcpu *vcpu)
{
	nested_vmx_vmexit(vcpu, EXIT_REASON_EXCEPTION_NMI,
			  (uint32_t)(X86_TRAP_NMI | INTR_INFO_VALID_MASK |
				     FIELD_PREP(INTR_INFO_INTR_TYPE_MASK, INTR_TYPE_NMI_INTR)), 0);
}

void nested_vmx_clear_run_pending(struct kvm_vcpu *vcpu)
{
	vcpu->vmx->nested.run_pending = false;
}

void vmx_pre_enter_smm(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;

	vmx->nested.smm.guest_mode = vmx->head.guest_mode;
	if (vmx->head.guest_mode)
		nested_vmx_vmexit(vcpu, NESTED_EXIT_NONE, 0, 0);
	nested_shadowing_from_l1(vcpu);
	nested_shadowing_switch(vcpu, false);
	vmx->nested.smm.vmxon = vmx->head.vmxon;
	vmx->head.vmxon = false;
}

bool vmx_pre_leave_smm(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	bool guest_mode = vmx->nested.smm.guest_mode;

	vmx->head.vmxon |= vmx->nested.smm.vmxon;
	vmx->nested.smm.vmxon = vmx->nested.smm.guest_mode = false;
	if (vmx->head.vmxon && vmx->nested.current_vmptr != INVALID_VMPTR)
		nested_shadowing_switch(vcpu, true);
	if (!guest_mode)
		return true;
	if (nested_vmx_enter_non_root_mode(vcpu, false) != NVMX_VMENTRY_SUCCESS)
		return false;
	vmx->nested.run_pending = true;
	return true;
}
