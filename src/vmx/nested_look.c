/*
 * What vmcs12 says, for those that neither enter L2 nor leave it.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "vmx/internal.h"

bool nested_exit_on_nmi(struct kvm_vcpu *vcpu)
{
	return get_vmcs12(vcpu)->pin_based_vm_exec_control & PIN_BASED_NMI_EXITING;
}

bool nested_exit_on_intr(struct kvm_vcpu *vcpu)
{
	return get_vmcs12(vcpu)->pin_based_vm_exec_control & PIN_BASED_EXT_INTR_MASK;
}

void nested_vmx_update_mtf(struct kvm_vcpu *vcpu, bool exception_pending)
{
	bool mtf = nested_cpu_has(get_vmcs12(vcpu), CPU_BASED_MONITOR_TRAP_FLAG) && !exception_pending;

	vcpu->vmx->nested.mtf_pending = mtf;
	if (mtf)
		kvm_make_request(KVM_REQ_EVENT, vcpu);
}

uint16_t nested_get_vpid02(struct kvm_vcpu *vcpu)
{
	const struct vcpu_vmx *vmx = vcpu->vmx;

	return vmx->nested.vpid02 && nested_cpu_has2(vmx->nested.cached_vmcs12, SECONDARY_EXEC_ENABLE_VPID) ? vmx->nested.vpid02
													   : vmx->vpid;
}
