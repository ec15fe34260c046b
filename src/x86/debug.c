/*
 * The guest debugger (KVM API: KVM_SET_GUEST_DEBUG).
 *
 * Single steps use the monitor trap flag: the guest's own RFLAGS.TF stays as
 * it is. An instruction that the hypervisor emulates never reaches the trap;
 * kvm_singlestep_exit() ends its step. Hardware breakpoints of the debugger
 * take the place of the guest's debug registers while they are in use.
 */
#include <string.h>

#include "lib/error.h"
#include "x86/apicv.h"
#include "x86/run.h"

#define GUESTDBG_VALID                                                                     \
	(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP |          \
	 KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_INJECT_BP | KVM_GUESTDBG_INJECT_DB |        \
	 KVM_GUESTDBG_BLOCKIRQ)

static void debug_exit(struct kvm_vcpu *vcpu, uint32_t exception, uint64_t dr6)
{
	struct kvm_run *run = vcpu->run;

	run->exit_reason = KVM_EXIT_DEBUG;
	run->debug.arch.exception = exception;
	run->debug.arch.pc = kvm_get_linear_rip(vcpu);
	run->debug.arch.dr6 = dr6 | DR6_ACTIVE_LOW;
	run->debug.arch.dr7 = vmx_get_dr7(vcpu);
}

bool kvm_guest_debug_exit(struct kvm_vcpu *vcpu, uint8_t vector, uint64_t dr6)
{
	uint32_t dbg = vcpu->arch->guest_debug;

	if (!(dbg & KVM_GUESTDBG_ENABLE))
		return false;
	if (vector == X86_TRAP_BP) {
		if (!(dbg & KVM_GUESTDBG_USE_SW_BP))
			return false;
		debug_exit(vcpu, X86_TRAP_BP, 0);
		return true;
	}
	if (!(dbg & (KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP)))
		return false;
	debug_exit(vcpu, X86_TRAP_DB, dr6);
	return true;
}

bool kvm_singlestep_exit(struct kvm_vcpu *vcpu)
{
	if (!(vcpu->arch->guest_debug & KVM_GUESTDBG_SINGLESTEP))
		return false;
	debug_exit(vcpu, X86_TRAP_DB, DR6_BS);
	return true;
}

/* -EINVAL flags; -EBUSY an exception waits where one is to be injected. */
int kvm_vcpu_ioctl_set_guest_debug(struct kvm_vcpu *vcpu, const struct kvm_guest_debug *d)
{
	struct kvm_vcpu_arch *a = vcpu->arch;
	uint32_t control = d->control;

	if (control & ~(uint32_t)GUESTDBG_VALID)
		return err_born(EINVAL, "guest debug control %x", control);
	if (control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP)) {
		if (a->exception.pending || kvm_test_request(KVM_REQ_TRIPLE_FAULT, vcpu))
			return err_born(EBUSY, "an exception is pending");
		kvm_queue_exception(vcpu, control & KVM_GUESTDBG_INJECT_DB ? X86_TRAP_DB
									    : X86_TRAP_BP);
	}
	if (!(control & KVM_GUESTDBG_ENABLE))
		control = 0;
	a->guest_debug = control & ~(uint32_t)(KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP);
	if (control & KVM_GUESTDBG_USE_HW_BP) {
		memcpy(a->eff_db, d->arch.debugreg, sizeof(a->eff_db));
		a->guest_debug_dr7 = d->arch.debugreg[7];
	} else {
		memcpy(a->eff_db, a->db, sizeof(a->eff_db));
	}
	kvm_apicv_update_guest_debug(vcpu->kvm);
	kvm_update_dr7(vcpu);
	vmx_set_monitor_trap(vcpu, control & KVM_GUESTDBG_SINGLESTEP);
	vmx_update_exception_bitmap(vcpu);
	return 0;
}
