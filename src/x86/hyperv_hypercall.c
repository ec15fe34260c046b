/*
 * Hyper-V's hypercalls (TLFS "Hypercall Interface").
 */
#include "x86/hyperv.h"
#include "x86/run.h"

#define HVCALL_NOTIFY_LONG_SPIN_WAIT 8
#define HV_STATUS_SUCCESS 0
#define HV_STATUS_INVALID_HYPERCALL_CODE 2

bool kvm_hv_hypercall_enabled(struct kvm_vcpu *vcpu)
{
	return unlikely(READ_ONCE(vcpu->kvm->arch->hv.guest_os_id)) && vcpu->arch->hv.cpuid.enabled;
}

/* Input value in RCX, or EDX:EAX; the status comes back in RAX, or EDX:EAX. */
int kvm_hv_hypercall(struct kvm_vcpu *vcpu, bool skip)
{
	uint64_t *regs = vmx_regs(vcpu);
	bool wide = vmx_is_64bit_code(vcpu);
	uint64_t input = wide ? regs[RCX] : (uint32_t)regs[RAX] | regs[RDX] << 32, status;

	if (vmx_get_cpl(vcpu) != 0 || !(vmx_get_cr0(vcpu) & X86_CR0_PE)) {
		kvm_queue_exception(vcpu, X86_TRAP_UD);
		return 1;
	}
	status = (input & 0xffff) == HVCALL_NOTIFY_LONG_SPIN_WAIT ? HV_STATUS_SUCCESS
								 : HV_STATUS_INVALID_HYPERCALL_CODE;
	regs[RAX] = status;
	if (!wide)
		regs[RDX] = 0;
	if (skip)
		vmx_skip_emulated_instruction(vcpu);
	return 1;
}
