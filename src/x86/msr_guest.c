/*
 * The guest's RDMSR and WRMSR: the exits, the client's share in them
 * (KVM_CAP_X86_USER_SPACE_MSR), and the MSRs that make no exit.
 *
 * Locks: vcpu->mutex (owner thread).
 */
#include <string.h>

#include "trace/trace.h"
#include "x86/x86.h"

/* --- RDMSR and WRMSR of the guest --- */

static bool exit_to_client(struct kvm_vcpu *vcpu, uint32_t exit_reason, uint32_t msr, uint64_t data,
			   int why, int (*complete)(struct kvm_vcpu *vcpu))
{
	uint32_t reason = why == KVM_MSR_FILTERED ? KVM_MSR_EXIT_REASON_FILTER :
			  why == KVM_MSR_UNKNOWN  ? KVM_MSR_EXIT_REASON_UNKNOWN :
						    KVM_MSR_EXIT_REASON_INVAL;
	struct kvm_run *run = vcpu->run;

	if (!(vcpu->kvm->arch->user_space_msr_mask & reason))
		return false;
	run->exit_reason = exit_reason;
	run->msr.error = 0;
	memset(run->msr.pad, 0, sizeof(run->msr.pad));
	run->msr.reason = reason;
	run->msr.index = msr;
	run->msr.data = data;
	vcpu->arch->complete_userspace_io = complete;
	return true;
}

static void put_edx_eax(struct kvm_vcpu *vcpu, uint64_t data)
{
	uint64_t *regs = vmx_regs(vcpu);

	regs[RAX] = (uint32_t)data;
	regs[RDX] = data >> 32;
}

/* The client has answered: #GP if it says so, else on with the next instruction. */
static int complete_wrmsr(struct kvm_vcpu *vcpu)
{
	if (vcpu->run->msr.error)
		kvm_inject_gp(vcpu, 0);
	else
		vmx_skip_emulated_instruction(vcpu);
	return 1;
}

static int complete_rdmsr(struct kvm_vcpu *vcpu)
{
	if (!vcpu->run->msr.error)
		put_edx_eax(vcpu, vcpu->run->msr.data);
	return complete_wrmsr(vcpu);
}

int kvm_emulate_rdmsr(struct kvm_vcpu *vcpu)
{
	uint32_t msr = (uint32_t)vmx_regs(vcpu)[RCX];
	uint64_t data = 0;
	int r = kvm_get_msr(vcpu, msr, &data, false);

	TRACE(kvm, kvm_msr, 0, msr, data, r != 0);
	if (r && exit_to_client(vcpu, KVM_EXIT_X86_RDMSR, msr, 0, r, complete_rdmsr))
		return 0;
	if (r) {
		kvm_inject_gp(vcpu, 0);
		return 1;
	}
	put_edx_eax(vcpu, data);
	vmx_skip_emulated_instruction(vcpu);
	return 1;
}

int kvm_emulate_wrmsr(struct kvm_vcpu *vcpu)
{
	uint64_t *regs = vmx_regs(vcpu);
	uint32_t msr = (uint32_t)regs[RCX];
	uint64_t data = (uint32_t)regs[RAX] | regs[RDX] << 32;
	int r = kvm_set_msr(vcpu, msr, data, false);

	if (r < 0)
		return r;
	TRACE(kvm, kvm_msr, 1, msr, data, r != 0);
	if (r && exit_to_client(vcpu, KVM_EXIT_X86_WRMSR, msr, data, r, complete_wrmsr))
		return 0;
	if (r) {
		kvm_inject_gp(vcpu, 0);
		return 1;
	}
	vmx_skip_emulated_instruction(vcpu);
	return 1;
}

/* --- MSRs the guest touches without an exit --- */

static const struct {
	uint32_t msr;
	bool write;
} passthrough[] = {
	{ MSR_IA32_TSC, false },       { MSR_FS_BASE, true },	      { MSR_GS_BASE, true },
	{ MSR_KERNEL_GS_BASE, true },  { MSR_IA32_SYSENTER_CS, true }, { MSR_IA32_SYSENTER_ESP, true },
	{ MSR_IA32_SYSENTER_EIP, true }, { MSR_STAR, true },	      { MSR_LSTAR, true },
	{ MSR_CSTAR, true },	       { MSR_SYSCALL_MASK, true },    { MSR_TSC_AUX, true },
};

void kvm_msr_update_intercepts(struct kvm_vcpu *vcpu)
{
	for (size_t i = 0; i < ARRAY_SIZE(passthrough); i++) {
		uint32_t msr = passthrough[i].msr;

		vmx_set_msr_intercept(vcpu, msr, true, false,
				      !kvm_msr_allowed(vcpu, msr, KVM_MSR_FILTER_READ));
		if (passthrough[i].write)
			vmx_set_msr_intercept(vcpu, msr, false, true,
					      !kvm_msr_allowed(vcpu, msr, KVM_MSR_FILTER_WRITE));
	}
}
