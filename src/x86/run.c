/*
 * KVM_RUN: requests (request.c), events, the MMU, one VM entry, one exit; again, until
 * the client is wanted.
 *
 * The order in vcpu_enter_guest() is what makes it right:
 *   requests -> events into the VMCS -> kvm_mmu_reload -> IN_GUEST_MODE ->
 *   look at requests and signals once more -> vmx_vcpu_run -> OUTSIDE.
 * Whoever makes a request either sees IN_GUEST_MODE and kicks, or is seen.
 *
 * Locks: vcpu->mutex is held by the caller; none is taken in guest mode.
 */
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "host/timer.h"
#include "lib/error.h"
#include "trace/trace.h"
#include "virt/dirty_ring.h"
#include "virt/exit_stats.h"
#include "x86/apicv.h"
#include "x86/debugger.h"
#include "x86/run.h"

/* --- what counts as an event for a vCPU that sleeps --- */

bool kvm_vcpu_has_events(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_arch *a = vcpu->arch;

	if (vcpu->apic && kvm_apic_init_sipi_pending(vcpu) && !a->smm && !kvm_init_is_held_back(vcpu))
		return true;
	/* an L2 that waits for a SIPI: all else is blocked, and stays pending for L1 */
	if (unlikely(is_guest_mode(vcpu)) && a->mp_state == KVM_MP_STATE_INIT_RECEIVED)
		return false;
	if (kvm_test_request(KVM_REQ_SMI, vcpu) || kvm_smi_deliverable(vcpu))
		return true;
	/* an APIC that is enabled makes the request, too, with nothing there to be told */
	if (kvm_test_request(KVM_REQ_APF_READY, vcpu) && (vcpu->async_pf || a->apf.wakeup_all) &&
	    (a->apf.halted || a->mp_state == KVM_MP_STATE_HALTED))
		return true;
	if (__atomic_load_n(&a->pv_unhalted, __ATOMIC_SEQ_CST))
		return true;
	if (unlikely(is_guest_mode(vcpu)) && kvm_has_nested_events(vcpu))
		return true;
	if (a->exception.pending || kvm_test_request(KVM_REQ_TRIPLE_FAULT, vcpu))
		return true;
	if (kvm_test_request(KVM_REQ_NMI, vcpu) || (a->nmi_pending && vmx_nmi_allowed(vcpu)))
		return true;
	if (vmx_interrupt_allowed(vcpu) && kvm_event_has_interrupt(vcpu))
		return true;
	return false;
}

static bool vcpu_running(struct kvm_vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->arch->mp_state, __ATOMIC_SEQ_CST) == KVM_MP_STATE_RUNNABLE &&
	       !vcpu->arch->apf.halted;
}

/* A timer to be looked at ends the sleep, and HLT only where an interrupt comes of it. */
static bool halted_with_stimer(struct kvm_vcpu *vcpu)
{
	return vcpu->arch->mp_state == KVM_MP_STATE_HALTED && kvm_hyperv_ops->has_stimer_pending(vcpu);
}

bool kvm_arch_vcpu_runnable(struct kvm_vcpu *vcpu)
{
	return vcpu_running(vcpu) || kvm_vcpu_has_events(vcpu) || halted_with_stimer(vcpu);
}

/* --- interrupts of a client that has the interrupt controller itself --- */

static bool ready_for_interrupt_injection(struct kvm_vcpu *vcpu)
{
	if (!vmx_interrupt_allowed(vcpu) || vcpu->arch->interrupt.injected ||
	    vcpu->arch->exception.injected || vcpu->arch->exception.pending)
		return false;
	if (!vcpu->apic)
		return true;
	return vcpu->arch->pending_external_vector < 0 && kvm_apic_accept_pic_intr(vcpu);
}

/*
 * An interrupt window is worth an exit only where the client's interrupt could
 * go in: with LVT0 masked it never could, and the vCPU would not get past it.
 */
static bool accept_dm_intr(struct kvm_vcpu *vcpu)
{
	return !vcpu->apic || kvm_apic_accept_pic_intr(vcpu);
}

/* "dm": device model, the client. */
static bool dm_request_for_irq_injection(struct kvm_vcpu *vcpu)
{
	return vcpu->run->request_interrupt_window && !pic_in_kernel(vcpu->kvm);
}

/* --- entering --- */

/* Registers VMX leaves alone. */
static void load_guest_state(struct kvm_vcpu *vcpu)
{
	struct vmx_cpu *cpu = vmx_processor(vcpu);
	struct kvm_vcpu_arch *a = vcpu->arch;

	if (vmx_get_xcr0(cpu) != a->xcr0)
		vmx_set_xcr0(cpu, a->xcr0);
	if (unlikely(vmx_get_dr7(vcpu) & 0xff))
		for (unsigned i = 0; i < 4; i++)
			vmx_set_dr(cpu, i, a->eff_db[i]);
	vmx_set_dr(cpu, 6, a->dr6);
}

/* Take back what inject_pending_event() put into the VMCS, and what the guest was told of its APIC. */
static void cancel_injection(struct kvm_vcpu *vcpu)
{
	kvm_lapic_cancel_pv_eoi(vcpu);
	kvm_events_entered(vcpu);
	vmx_cancel_injection(vcpu);
}

static int vcpu_enter_guest(struct kvm_vcpu *vcpu)
{
	bool req_int_win = dm_request_for_irq_injection(vcpu) && accept_dm_intr(vcpu);
	bool immediate_exit = false;
	uint64_t rip;
	int r;

	TRACE_CALL(vcpu_enter_guest, vcpu->vcpu_id);
	if (unlikely(kvm_dirty_ring_soft_full(vcpu))) {
		vcpu->run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
		TRACE(kvm, kvm_dirty_ring_exit, (int)vcpu->vcpu_id);
		return 0;
	}
	r = kvm_serve_requests(vcpu);
	if (r <= 0)
		return r;
	if (unlikely(vcpu->arch->apf.halted))
		return 1;

	kvm_record_steal_time(vcpu);
	if (kvm_check_request(KVM_REQ_EVENT, vcpu) || req_int_win ||
	    kvm_event_has_injectable(vcpu) || vcpu->arch->nmi_pending ||
	    kvm_smi_deliverable(vcpu)) {
		vcpu->stat.req_event++;
		immediate_exit = inject_pending_event(vcpu, req_int_win) < 0;
		if (kvm_test_request(KVM_REQ_TRIPLE_FAULT, vcpu)) {
			cancel_injection(vcpu);
			return 1; /* served first thing next time */
		}
	}

	if (vmx_wants_tpr_threshold(vcpu))
		vmx_set_tpr_threshold(vcpu, kvm_apic_tpr_threshold(vcpu));

	if (unlikely(vmx_emulation_required(vcpu)) && is_guest_mode(vcpu)) {
		/* an L2 that no processor could be in; as Linux, it ends */
		kvm_nested_triple_fault(vcpu);
		return 1;
	}
	if (unlikely(vmx_emulation_required(vcpu)))
		return kvm_emulator_ops->invalid_guest_state(vcpu);

	kvm_lapic_sync_to_vapic(vcpu);
	r = kvm_mmu_reload(vcpu);
	if (unlikely(r)) {
		cancel_injection(vcpu);
		return r;
	}
	kvm_msr_filter_sync(vcpu);
	load_guest_state(vcpu);

	kvm_vcpu_enter_guest_mode(vcpu);
	/* after the mode, before the requests: a sender of a posted interrupt reads the mode last */
	kvm_apic_sync_before_entry(vcpu);
	if (unlikely(kvm_vcpu_exit_request(vcpu))) {
		kvm_vcpu_leave_guest_mode(vcpu);
		cancel_injection(vcpu);
		return 1;
	}
	if (unlikely(immediate_exit)) {
		/* in for what is injected, out before the first instruction: then what waits is looked at again */
		kvm_make_request(KVM_REQ_EVENT, vcpu);
		vmx_kick(vmx_processor(vcpu));
	}
	TRACE(kvm, kvm_entry, vcpu->vcpu_id, vmx_get_rip(vcpu), immediate_exit);
	kvm_exit_stats_entry(vcpu);
	r = vmx_vcpu_run(vcpu);
	kvm_exit_stats_exit(vcpu, (uint16_t)vmx_exit_reason(vcpu), is_guest_mode(vcpu));
	kvm_vcpu_leave_guest_mode(vcpu);
	if (unlikely(r)) {
		cancel_injection(vcpu);
		return 0;
	}

	vcpu->arch->dr6 = vmx_get_dr(vmx_processor(vcpu), 6);
	if (unlikely(vmx_entry_failed(vcpu))) {
		/* nothing was delivered: put it back, the client may repair the state */
		cancel_injection(vcpu);
		return vmx_handle_exit(vcpu);
	}
	kvm_events_entered(vcpu);
	vmx_complete_interrupts(vcpu);
	kvm_lapic_sync_from_vapic(vcpu);
	rip = vmx_get_rip(vcpu);
	r = vmx_handle_exit(vcpu);
	/* an emulated instruction never meets the monitor trap */
	if (unlikely(vcpu->arch->guest_debug & KVM_GUESTDBG_SINGLESTEP) && r == 1 &&
	    vmx_get_rip(vcpu) != rip && kvm_singlestep_exit(vcpu))
		return 0;
	return r;
}

/* --- blocking --- */

/* False: it was not what has ended the sleep. */
static bool serve_call_of_sleeper(struct kvm_vcpu *vcpu)
{
	if (likely(!kvm_check_request(KVM_REQ_CALL, vcpu)))
		return false;
	kvm_vcpu_serve_call(vcpu);
	return true;
}

/* A vCPU that does not run: HLT, a page, waiting for INIT or SIPI. 1 look again; < 0 KVM_RUN's error. */
static int vcpu_block(struct kvm_vcpu *vcpu)
{
	uint64_t since = host_tsc();
	int r = 0;

	if (!kvm_arch_vcpu_runnable(vcpu)) {
		r = vcpu->arch->mp_state == KVM_MP_STATE_HALTED ? kvm_vcpu_halt(vcpu)
								: kvm_vcpu_block(vcpu);
		kvm_steal_time_halted(vcpu, since);
	}
	(void)serve_call_of_sleeper(vcpu);
	if (halted_with_stimer(vcpu) && kvm_check_request(KVM_REQ_HV_STIMER, vcpu))
		kvm_hyperv_ops->serve_stimers(vcpu);
	kvm_apic_accept_events(vcpu);
	/* while it is still halted: an exit to L1 tells so */
	if (unlikely(is_guest_mode(vcpu)))
		(void)kvm_check_nested_events(vcpu);
	switch (vcpu->arch->mp_state) {
	case KVM_MP_STATE_HALTED:
	case KVM_MP_STATE_AP_RESET_HOLD:
		if (!kvm_vcpu_has_events(vcpu))
			break;
		__atomic_store_n(&vcpu->arch->pv_unhalted, false, __ATOMIC_SEQ_CST);
		__atomic_store_n(&vcpu->arch->mp_state, KVM_MP_STATE_RUNNABLE, __ATOMIC_SEQ_CST);
		kvm_make_request(KVM_REQ_EVENT, vcpu);
		break;
	case KVM_MP_STATE_RUNNABLE: /* it waits for a page: an event it may take all the same */
		if (kvm_vcpu_has_events(vcpu))
			vcpu->arch->apf.halted = false;
		break;
	default:
		break;
	}
	return r ? r : 1;
}

static bool signal_pending(struct kvm_vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->signal_seen, __ATOMIC_SEQ_CST);
}

static int vcpu_run(struct kvm_vcpu *vcpu)
{
	int r;

	for (;;) {
		if (unlikely(READ_ONCE(vcpu->arch->debugger.on)) && kvm_debugger_park(vcpu) < 0)
			break;
		if (vcpu->apic && kvm_apic_init_sipi_pending(vcpu))
			kvm_apic_accept_events(vcpu);
		if (unlikely(is_guest_mode(vcpu)))
			(void)kvm_check_nested_events(vcpu); /* a halted L2 may be L1's to go on with */
		if (likely(vcpu_running(vcpu)))
			r = vcpu_enter_guest(vcpu);
		else
			r = vcpu_block(vcpu);
		if (r == -EINTR)
			break;
		if (unlikely(r == 0 && READ_ONCE(vcpu->arch->debugger.on)) && kvm_debugger_takes(vcpu))
			continue;
		if (r <= 0)
			return r;
		if (vcpu->apic && kvm_cpu_has_pending_timer(vcpu))
			kvm_inject_pending_timer_irqs(vcpu);
		if (dm_request_for_irq_injection(vcpu) && ready_for_interrupt_injection(vcpu)) {
			vcpu->run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
			vcpu->stat.request_irq_exits++;
			return 0;
		}
		if (signal_pending(vcpu))
			break;
	}
	vcpu->run->exit_reason = KVM_EXIT_INTR;
	vcpu->stat.signal_exits++;
	return -EINTR;
}

/* --- kvm_run, both ways --- */

#define SYNC_VALID (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS)

/* KVM API: kvm_valid_regs, kvm_dirty_regs. */
static int sync_regs(struct kvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	struct kvm_sync_regs *s = &run->s.regs;
	int r = 0;

	if (run->kvm_dirty_regs & KVM_SYNC_X86_REGS)
		r = kvm_vcpu_ioctl_set_regs(vcpu, &s->regs);
	if (!r && (run->kvm_dirty_regs & KVM_SYNC_X86_SREGS))
		r = kvm_vcpu_ioctl_set_sregs(vcpu, &s->sregs);
	if (!r && (run->kvm_dirty_regs & KVM_SYNC_X86_EVENTS))
		r = kvm_vcpu_ioctl_set_events(vcpu, &s->events);
	if (!r)
		run->kvm_dirty_regs = 0;
	return r ? -EINVAL : 0;
}

static void store_regs(struct kvm_vcpu *vcpu)
{
	struct kvm_sync_regs *s = &vcpu->run->s.regs;

	if (vcpu->run->kvm_valid_regs & KVM_SYNC_X86_REGS)
		kvm_vcpu_ioctl_get_regs(vcpu, &s->regs);
	if (vcpu->run->kvm_valid_regs & KVM_SYNC_X86_SREGS)
		kvm_vcpu_ioctl_get_sregs(vcpu, &s->sregs);
	if (vcpu->run->kvm_valid_regs & KVM_SYNC_X86_EVENTS)
		kvm_vcpu_ioctl_get_events(vcpu, &s->events);
}

static void post_kvm_run_save(struct kvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	run->if_flag = (vmx_get_rflags(vcpu) & X86_FLAGS_IF) != 0;
	if (vcpu->arch->smm)
		run->flags |= KVM_RUN_X86_SMM;
	run->cr8 = kvm_get_cr8(vcpu);
	run->apic_base = vcpu->apic ? kvm_get_apic_base(vcpu) : vcpu->arch->apic_base;
	run->ready_for_interrupt_injection =
		pic_in_kernel(vcpu->kvm) || ready_for_interrupt_injection(vcpu);
}

/* A vCPU that waits for INIT or SIPI: as long as that takes, -EAGAIN once it came. */
static int run_uninitialized(struct kvm_vcpu *vcpu)
{
	bool debugged = false;
	int r;

	if (vcpu->run->immediate_exit)
		return -EINTR;
	do {
		debugged |= READ_ONCE(vcpu->arch->debugger.on);
		r = debugged && kvm_debugger_park(vcpu) < 0 ? -EINTR : kvm_arch_vcpu_runnable(vcpu) ? 0 : kvm_vcpu_block(vcpu);
		/* what a debugger wakes it for is no event, and so it is not the client's */
	} while (!r && (serve_call_of_sleeper(vcpu) || (debugged && !kvm_arch_vcpu_runnable(vcpu))));
	kvm_apic_accept_events(vcpu);
	(void)kvm_check_request(KVM_REQ_UNBLOCK, vcpu);
	if (r || signal_pending(vcpu)) {
		vcpu->run->exit_reason = KVM_EXIT_INTR;
		vcpu->stat.signal_exits++;
		return -EINTR;
	}
	return -EAGAIN;
}

static int run_vcpu(struct kvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	int (*complete)(struct kvm_vcpu *vcpu);
	uint64_t rip;
	int r;

	if (unlikely(vcpu->arch->mp_state == KVM_MP_STATE_UNINITIALIZED))
		return run_uninitialized(vcpu);
	if ((run->kvm_valid_regs | run->kvm_dirty_regs) & ~(uint64_t)SYNC_VALID)
		return err_born(EINVAL, "kvm_valid_regs %llx, kvm_dirty_regs %llx",
				(unsigned long long)run->kvm_valid_regs,
				(unsigned long long)run->kvm_dirty_regs);
	if (run->kvm_dirty_regs) {
		r = sync_regs(vcpu);
		if (r)
			return r;
	}
	kvm_sort_userspace_exception(vcpu);
	/* without an in-process APIC the client has the TPR */
	if (!vcpu->apic && kvm_set_cr8(vcpu, run->cr8))
		return err_born(EINVAL, "run->cr8 %llx", (unsigned long long)run->cr8);

	complete = vcpu->arch->complete_userspace_io;
	if (unlikely(complete)) {
		vcpu->arch->complete_userspace_io = NULL;
		rip = vmx_get_rip(vcpu);
		r = complete(vcpu);
		if (r <= 0)
			return r;
		/* the instruction is over, so a debugger's step is */
		if ((vcpu->arch->guest_debug & KVM_GUESTDBG_SINGLESTEP) &&
		    vmx_get_rip(vcpu) != rip && kvm_singlestep_exit(vcpu) &&
		    !(READ_ONCE(vcpu->arch->debugger.on) && kvm_debugger_takes(vcpu)))
			return 0;
	}
	if (run->immediate_exit)
		return -EINTR;
	vcpu->arch->has_run = true;
	return vcpu_run(vcpu);
}

/* --- the signal mask of KVM_SET_SIGNAL_MASK --- */

static void sigset_of(uint64_t bits, sigset_t *set)
{
	sigemptyset(set);
	for (int sig = 1; sig <= 64; sig++)
		if (bits & BIT_ULL(sig - 1))
			sigaddset(set, sig); /* libc refuses its own two, rightly */
	/* Raised by our own work; blocked they would end the process. */
	sigdelset(set, SIGSEGV);
	sigdelset(set, SIGBUS);
	sigdelset(set, SIGFPE);
	sigdelset(set, SIGILL);
}

/* What the thread blocks in KVM_RUN, where it is not what it blocks outside. */
static __thread struct {
	bool active;
	uint64_t set;
} thread_sigset;

void kvm_set_thread_sigset(uint64_t blocked)
{
	thread_sigset.active = true;
	thread_sigset.set = blocked;
}

bool kvm_signal_blocked_outside(int signo)
{
	struct kvm_vcpu *vcpu = kvm_get_running_vcpu();

	return vcpu && vcpu->sigset_active && sigismember(&vcpu->arch->outer_sigset, signo) == 1;
}

int kvm_arch_vcpu_ioctl_run(struct kvm_vcpu *vcpu)
{
	bool other_signals = vcpu->sigset_active || thread_sigset.active;
	sigset_t set, old;
	int r;

	if (__atomic_load_n(&vcpu->kvm->dead, __ATOMIC_ACQUIRE))
		return err_born(EIO, "the VM is dead");
	/* from here on a handler of the client that runs on this thread is noticed */
	kvm_vcpu_load(vcpu);
	kvm_exit_stats_run(vcpu, true);
	if (other_signals) {
		sigset_of(vcpu->sigset_active ? vcpu->sigset : thread_sigset.set, &set);
		pthread_sigmask(SIG_SETMASK, NULL, &old);
		vcpu->arch->outer_sigset = old;
		pthread_sigmask(SIG_SETMASK, &set, NULL);
	}
	vmx_sync_code(vmx_processor(vcpu));
	kvm_steal_time_run_begins(vcpu);
	vcpu->run->flags = 0;
	r = run_vcpu(vcpu);
	kvm_mmu_settle(vcpu);
	kvm_steal_time_run_ends(vcpu, r == -EINTR && vcpu_running(vcpu));
	if (vcpu->run->kvm_valid_regs)
		store_regs(vcpu);
	post_kvm_run_save(vcpu);
	if (other_signals)
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	kvm_exit_stats_run(vcpu, false);
	kvm_vcpu_put(vcpu);
	return r;
}
