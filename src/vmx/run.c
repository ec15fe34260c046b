/*
 * One VM entry and what it left behind.
 */
#include "vmx/internal.h"

int vmx_vcpu_run(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;

	if (unlikely(vmx->nested.pages_stale) && !nested_get_vmcs12_pages(vcpu))
		return 1;
	if (unlikely(vmx->stuck.nr))
		vmx_stuck_entry(vcpu);
	if (unlikely(vmx->nested.shadow_stale) && !vmx->head.guest_mode) {
		if (unlikely(nested_evmcs_is_active(&vmx->nested)))
			nested_evmcs_to_l1(vcpu);
		else
			nested_shadowing_to_l1(vcpu);
	}
	vmx_flush_dirty_translation(vcpu);
	vmx->result = vmx->loaded_vmcs->launched ? vmresume(vmx->cpu) : vmlaunch(vmx->cpu);
	vcpu->stat.exits++;
	vmx->nested.run_pending = false;
	if (unlikely(vmx->loaded_vmcs == &vmx->nested.vmcs02) && vmx->loaded_vmcs->cpu_based & CPU_BASED_TPR_SHADOW)
		nested_tpr_save(vcpu);
	if (vmx->loaded_vmcs->secondary & SECONDARY_EXEC_ENABLE_PML)
		vmx_flush_pml_buffer(vcpu);
	vmx_gprs(vmx->cpu)[RSP] = vmcs_readl(vcpu, GUEST_RSP);

	if (unlikely(vmx->result != VMX_SUCCEED && vmx->result != VMX_BUS_ERROR)) {
		vmx->idt_vectoring_info = 0;
		vmx->exit_reason = 0xdead;
		vmx->instruction_error = vmx->result == VMX_FAIL_VALID
						 ? vmcs_read32(vcpu, VM_INSTRUCTION_ERROR) : 0;
		return 0;
	}
	vmx->exit_reason = vmcs_read32(vcpu, VM_EXIT_REASON);
	if (unlikely(vmx->exit_reason & VMX_EXIT_REASONS_FAILED_VMENTRY)) {
		/* an entry that failed delivered nothing and reports nothing */
		vmx->idt_vectoring_info = 0;
		return 0;
	}
	vmx->loaded_vmcs->launched = true;
	vmx->idt_vectoring_info = vmcs_read32(vcpu, IDT_VECTORING_INFO_FIELD);
	return 0;
}

uint32_t vmx_exit_reason(struct kvm_vcpu *vcpu)
{
	return vcpu->vmx->exit_reason;
}

void vmx_get_exit_info(struct kvm_vcpu *vcpu, uint64_t info[5])
{
	info[0] = vcpu->vmx->exit_reason;
	info[1] = vmcs_readl(vcpu, EXIT_QUALIFICATION);
	info[2] = vcpu->vmx->idt_vectoring_info;
	info[3] = vmcs_read32(vcpu, VM_EXIT_INTR_INFO);
	info[4] = vmcs_read32(vcpu, VM_EXIT_INTR_ERROR_CODE);
}

bool vmx_entry_failed(struct kvm_vcpu *vcpu)
{
	const struct vcpu_vmx *vmx = vcpu->vmx;

	return (vmx->result != VMX_SUCCEED && vmx->result != VMX_BUS_ERROR) ||
	       (vmx->exit_reason & VMX_EXIT_REASONS_FAILED_VMENTRY);
}
