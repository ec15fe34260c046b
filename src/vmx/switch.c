/*
 * Which of a vCPU's VMCSs is the processor's current one: VMCS01, or with nested VMX another (nested.h).
 *
 * Locks: none; the vCPU's thread.
 */
#include "host/memory.h"
#include "vmx/internal.h"

void vmx_switch_vmcs(struct kvm_vcpu *vcpu, struct loaded_vmcs *to)
{
	struct vcpu_vmx *vmx = vcpu->vmx;

	if (vmx->loaded_vmcs == to)
		return;
	if (vmptrld(vmx->cpu, __pa(to->vmcs)) != VMX_SUCCEED)
		kvm_vm_bugged(vcpu->kvm, "VMPTRLD of a VMCS of ours failed");
	vmx->loaded_vmcs = to;
	vmx->stamp++;
	if (to == &vmx->vmcs01)
		vmx_apicv_vmcs01_loaded(vcpu);
}
