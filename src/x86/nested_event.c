/*
 * Events while an L2 runs (Linux: vmx_check_nested_events): which of them are L1's,
 * as exits, and in which order (SDM Vol. 3, "Priority Among Simultaneous Events").
 *
 * An exit to L1 must wait while L1's own VMLAUNCH has yet to reach L2, and all but
 * exceptions while an event of L2's is to be delivered again: -EBUSY. The run loop
 * then enters L2 for that delivery, leaves before its first instruction, and asks again.
 *
 * Locks: none; owner thread.
 */
#include <errno.h>

#include "sdm/regs.h"
#include "x86/run.h"

/* What the monitor trap or an INIT finds of a #DB that waits goes into the exit's pending debug exceptions. */
static void update_pending_dbg(struct kvm_vcpu *vcpu)
{
	struct kvm_queued_exception *ex = &vcpu->arch->exception;

	if (ex->pending && ex->vector == X86_TRAP_DB && ex->has_payload)
		vmx_set_pending_dbg(vcpu, ex->payload);
}

/* A #DB that comes after its instruction gives way to what the monitor trap flag wants. */
static bool is_trap(const struct kvm_queued_exception *ex)
{
	return ex->vector == X86_TRAP_DB && ex->has_payload && !(ex->payload & DR6_BD);
}

static void exception_exit(struct kvm_vcpu *vcpu)
{
	struct kvm_queued_exception ex = vcpu->arch->exception_vmexit;
	uint64_t qualification = 0;

	vcpu->arch->exception_vmexit.pending = false;
	if (ex.has_payload)
		qualification = ex.payload;
	else if (ex.vector == X86_TRAP_PF)
		qualification = vmx_get_cr2(vmx_processor(vcpu));
	else if (ex.vector == X86_TRAP_DB)
		qualification = vcpu->arch->dr6 ^ DR6_ACTIVE_LOW;
	nested_vmx_exception_vmexit(vcpu, ex.vector, ex.has_error_code, ex.error_code, qualification);
}

/* SDM "Activity State": what waits for a SIPI has INITs blocked, and nothing else hears of a SIPI. */
static int init_sipi(struct kvm_vcpu *vcpu, bool blocked)
{
	bool waits = vcpu->arch->mp_state == KVM_MP_STATE_INIT_RECEIVED;
	uint8_t vector = 0;
	unsigned taken;

	if (blocked)
		return -EBUSY;
	taken = kvm_apic_take_init_sipi(vcpu, &vector);
	if (waits) {
		if (taken & 2)
			nested_vmx_vmexit(vcpu, EXIT_REASON_SIPI_SIGNAL, 0, vector);
	} else if (taken & 1) {
		update_pending_dbg(vcpu);
		nested_vmx_vmexit(vcpu, EXIT_REASON_INIT_SIGNAL, 0, 0);
	}
	return 0;
}

static int nmi(struct kvm_vcpu *vcpu, bool blocked)
{
	if (blocked)
		return -EBUSY;
	if (!nested_exit_on_nmi(vcpu))
		return 0;
	nested_vmx_exception_vmexit_nmi(vcpu);
	vcpu->arch->nmi_pending = 0;
	/* its delivery is the exit, in which NMIs are blocked as by any delivery */
	vmx_set_nmi_mask(vcpu, true);
	return 0;
}

static int interrupt(struct kvm_vcpu *vcpu, bool blocked)
{
	if (blocked)
		return -EBUSY;
	if (!nested_exit_on_intr(vcpu))
		return 0;
	TRACE(kvm, kvm_nested_intr_vmexit, vmx_get_rip(vcpu));
	nested_vmx_vmexit(vcpu, EXIT_REASON_EXTERNAL_INTERRUPT, 0, 0);
	return 0;
}

/* Exceptions, those that come before the monitor trap first. *done: nothing more is to be looked at. */
static int exceptions(struct kvm_vcpu *vcpu, bool traps, bool run_pending, bool blocked, bool *done)
{
	struct kvm_vcpu_arch *a = vcpu->arch;

	*done = true;
	if (a->exception_vmexit.pending && is_trap(&a->exception_vmexit) == traps) {
		if (run_pending)
			return -EBUSY;
		exception_exit(vcpu);
		return 0;
	}
	if (a->exception.pending && is_trap(&a->exception) == traps)
		return blocked ? -EBUSY : 0;
	*done = false;
	return 0;
}

static int mtf(struct kvm_vcpu *vcpu, bool blocked)
{
	if (blocked)
		return -EBUSY;
	update_pending_dbg(vcpu);
	nested_vmx_vmexit(vcpu, EXIT_REASON_MONITOR_TRAP_FLAG, 0, 0);
	return 0;
}

int kvm_check_nested_events(struct kvm_vcpu *vcpu)
{
	bool run_pending = vmx_nested_run_pending(vcpu), done;
	bool blocked = run_pending || kvm_event_needs_reinjection(vcpu);
	int r;

	if (kvm_test_request(KVM_REQ_TRIPLE_FAULT, vcpu)) {
		(void)kvm_check_request(KVM_REQ_TRIPLE_FAULT, vcpu);
		kvm_nested_triple_fault(vcpu);
		return 0;
	}
	if (vcpu->apic && kvm_apic_init_sipi_pending(vcpu))
		return init_sipi(vcpu, blocked);
	if (vcpu->arch->mp_state == KVM_MP_STATE_INIT_RECEIVED)
		return 0;
	r = exceptions(vcpu, false, run_pending, blocked, &done);
	if (done)
		return r;
	if (nested_mtf_pending(vcpu))
		return mtf(vcpu, blocked);
	r = exceptions(vcpu, true, run_pending, blocked, &done);
	if (done)
		return r;
	if (nested_preemption_timer_expired(vcpu)) {
		if (blocked)
			return -EBUSY;
		nested_vmx_vmexit(vcpu, EXIT_REASON_PREEMPTION_TIMER, 0, 0);
		return 0;
	}
	if (vcpu->arch->smi_pending && !vcpu->arch->smm)
		return blocked ? -EBUSY : 0;
	if (vcpu->arch->nmi_pending && vmx_nmi_allowed(vcpu))
		return nmi(vcpu, blocked);
	if (kvm_event_has_interrupt(vcpu) && vcpu->apic && vmx_interrupt_allowed(vcpu))
		return interrupt(vcpu, blocked);
	return 0;
}

bool kvm_has_nested_events(struct kvm_vcpu *vcpu)
{
	return nested_mtf_pending(vcpu) || nested_preemption_timer_expired(vcpu) || vcpu->arch->exception_vmexit.pending;
}

void kvm_nested_triple_fault(struct kvm_vcpu *vcpu)
{
	nested_vmx_clear_run_pending(vcpu);
	nested_vmx_vmexit(vcpu, EXIT_REASON_TRIPLE_FAULT, 0, 0);
}

void kvm_queue_exception_vmexit(struct kvm_vcpu *vcpu, uint8_t vector, bool has_error_code, uint32_t error_code,
				bool has_payload, uint64_t payload)
{
	vcpu->arch->exception_vmexit = (struct kvm_queued_exception){
		.pending = true, .vector = vector, .has_error_code = has_error_code, .error_code = error_code,
		.has_payload = has_payload, .payload = payload,
	};
	kvm_make_request(KVM_REQ_EVENT, vcpu);
}

void kvm_sort_userspace_exception(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_arch *a = vcpu->arch;
	struct kvm_queued_exception *ex = &a->exception;

	if (likely(!a->exception_from_userspace))
		return;
	a->exception_from_userspace = false;
	if (!is_guest_mode(vcpu) || !ex->pending || !nested_vmx_is_exception_vmexit(vcpu, ex->vector, ex->error_code))
		return;
	kvm_queue_exception_vmexit(vcpu, ex->vector, ex->has_error_code, ex->error_code, ex->has_payload, ex->payload);
	ex->pending = ex->injected = false;
}

bool kvm_injected_event(struct kvm_vcpu *vcpu, struct vmx_event *e)
{
	struct kvm_vcpu_arch *a = vcpu->arch;

	*e = (struct vmx_event){ 0 };
	if (a->exception.injected) {
		bool soft = a->exception.vector == X86_TRAP_BP || a->exception.vector == X86_TRAP_OF;

		e->type = soft ? INTR_TYPE_SOFT_EXCEPTION : INTR_TYPE_HARD_EXCEPTION;
		e->vector = a->exception.vector;
		e->has_error_code = a->exception.has_error_code;
		e->error_code = a->exception.error_code;
	} else if (a->nmi_injected) {
		e->type = INTR_TYPE_NMI_INTR;
		e->vector = X86_TRAP_NMI;
	} else if (a->interrupt.injected) {
		e->type = a->interrupt.soft ? INTR_TYPE_SOFT_INTR : INTR_TYPE_EXT_INTR;
		e->vector = a->interrupt.nr;
	} else {
		return false;
	}
	return true;
}

void kvm_clear_events(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_arch *a = vcpu->arch;

	a->nmi_injected = false;
	a->interrupt.injected = false;
	a->exception.pending = a->exception.injected = false;
	a->exception_vmexit.pending = false;
}
