/*
 * Events on their way to the guest: exceptions, NMIs, interrupts.
 *
 * Invariants
 * 1. At most one event is `injected` (in the VMCS, or to be put there again):
 *    an exception, an NMI or an interrupt. `pending` ones have had no effect yet.
 * 2. A second exception before the first was delivered makes #DF or, on top of
 *    #DF, a triple fault (SDM Vol. 3, "Interrupt 8 - Double Fault Exception").
 * 3. Priority at an entry: what was interrupted in delivery, then exceptions,
 *    then SMI, NMI, and external interrupts.
 *
 * Context: the vCPU's owner, except kvm_inject_nmi().
 */
#include <string.h>

#include "lib/error.h"
#include "trace/trace.h"
#include "x86/run.h"
#include "x86/x86.h"

enum exception_class { EXC_BENIGN, EXC_CONTRIBUTORY, EXC_PAGE_FAULT };

static enum exception_class exception_class(uint8_t vector)
{
	switch (vector) {
	case X86_TRAP_PF:
		return EXC_PAGE_FAULT;
	case X86_TRAP_DE:
	case X86_TRAP_TS:
	case X86_TRAP_NP:
	case X86_TRAP_SS:
	case X86_TRAP_GP:
		return EXC_CONTRIBUTORY;
	default:
		return EXC_BENIGN;
	}
}

/* Faults return to the instruction, so RF must be set in the image they push. */
static bool exception_is_fault(uint8_t vector)
{
	return vector != X86_TRAP_NMI && vector != X86_TRAP_DB && vector != X86_TRAP_BP &&
	       vector != X86_TRAP_OF && vector != X86_TRAP_DF && vector != X86_TRAP_MC;
}

/* CR2 and DR6 change when the exception is certain to be delivered, not before. */
void kvm_deliver_exception_payload(struct kvm_vcpu *vcpu, struct kvm_queued_exception *ex)
{
	if (!ex->has_payload)
		return;
	switch (ex->vector) {
	case X86_TRAP_DB:
		/*
		 * B0-B3, BD, BS and BT are set as they come; RTM and BLD are
		 * active low. The payload has positive polarity.
		 */
		vcpu->arch->dr6 &= ~0xfULL;
		vcpu->arch->dr6 |= DR6_FIXED_1 | ex->payload;
		vcpu->arch->dr6 ^= ex->payload & DR6_ACTIVE_LOW;
		break;
	case X86_TRAP_PF:
		vmx_set_cr2(vmx_processor(vcpu), ex->payload);
		break;
	}
	ex->has_payload = false;
	ex->payload = 0;
}

static void deliver_payload(struct kvm_vcpu *vcpu)
{
	kvm_deliver_exception_payload(vcpu, &vcpu->arch->exception);
}

static void set_exception(struct kvm_vcpu *vcpu, uint8_t vector, bool has_error_code,
			  uint32_t error_code, bool has_payload, uint64_t payload, bool reinject)
{
	struct kvm_queued_exception *ex = &vcpu->arch->exception;

	ex->pending = !reinject;
	ex->injected = reinject;
	ex->vector = vector;
	ex->has_error_code = has_error_code;
	ex->error_code = error_code;
	ex->has_payload = has_payload;
	ex->payload = payload;
	/* a client without KVM_CAP_EXCEPTION_PAYLOAD sees the registers changed at once */
	if (!reinject && !vcpu->kvm->arch->exception_payload_enabled)
		deliver_payload(vcpu);
}

static void queue_exception(struct kvm_vcpu *vcpu, uint8_t vector, bool has_error_code,
			    uint32_t error_code, bool has_payload, uint64_t payload, bool reinject)
{
	struct kvm_queued_exception *ex = &vcpu->arch->exception;
	enum exception_class first, second;

	kvm_make_request(KVM_REQ_EVENT, vcpu);
	/* one that was injected has been sorted when it was new */
	if (unlikely(is_guest_mode(vcpu)) && !reinject &&
	    nested_vmx_is_exception_vmexit(vcpu, vector, error_code)) {
		kvm_queue_exception_vmexit(vcpu, vector, has_error_code, error_code, has_payload, payload);
		return;
	}
	if (!ex->pending && !ex->injected) {
		set_exception(vcpu, vector, has_error_code, error_code, has_payload, payload,
			      reinject);
		return;
	}
	if (ex->vector == X86_TRAP_DF) {
		ex->pending = ex->injected = false;
		kvm_make_request(KVM_REQ_TRIPLE_FAULT, vcpu);
		return;
	}
	first = exception_class(ex->vector);
	second = exception_class(vector);
	if ((first == EXC_CONTRIBUTORY && second == EXC_CONTRIBUTORY) ||
	    (first == EXC_PAGE_FAULT && second != EXC_BENIGN)) {
		ex->pending = ex->injected = false;
		queue_exception(vcpu, X86_TRAP_DF, true, 0, false, 0, false);
	} else /* the newer replaces the older, which will happen again */
		set_exception(vcpu, vector, has_error_code, error_code, has_payload, payload,
			      reinject);
}

void kvm_queue_exception(struct kvm_vcpu *vcpu, uint8_t vector)
{
	queue_exception(vcpu, vector, false, 0, false, 0, false);
}

void kvm_queue_exception_e(struct kvm_vcpu *vcpu, uint8_t vector, uint32_t error_code)
{
	queue_exception(vcpu, vector, true, error_code, false, 0, false);
}

void kvm_queue_exception_p(struct kvm_vcpu *vcpu, uint8_t vector, uint64_t payload)
{
	queue_exception(vcpu, vector, false, 0, true, payload, false);
}

void kvm_inject_page_fault(struct kvm_vcpu *vcpu, const struct kvm_page_fault_info *fault)
{
	if (unlikely(fault->nested)) {
		nested_ept_inject_page_fault(vcpu, fault);
		return;
	}
	vcpu->stat.pf_guest++;
	if (fault->vector == X86_TRAP_PF)
		queue_exception(vcpu, X86_TRAP_PF, true, fault->error_code, true, fault->address,
				false);
	else
		queue_exception(vcpu, fault->vector, true, fault->error_code, false, 0, false);
}

void kvm_inject_gp(struct kvm_vcpu *vcpu, uint32_t error_code)
{
	queue_exception(vcpu, X86_TRAP_GP, true, error_code, false, 0, false);
}

void kvm_inject_nmi(struct kvm_vcpu *vcpu)
{
	__atomic_fetch_add(&vcpu->arch->nmi_queued, 1, __ATOMIC_SEQ_CST);
	kvm_make_request(KVM_REQ_NMI, vcpu);
	kvm_vcpu_kick(vcpu);
}

/* --- services of the vmx room --- */

void kvm_event_queue(struct kvm_vcpu *vcpu, uint8_t vector, bool has_error_code,
		     uint32_t error_code, bool has_payload, uint64_t payload)
{
	queue_exception(vcpu, vector, has_error_code, error_code, has_payload, payload, false);
}

void kvm_event_requeue_exception(struct kvm_vcpu *vcpu, uint8_t vector, bool has_error_code,
				 uint32_t error_code)
{
	queue_exception(vcpu, vector, has_error_code, error_code, false, 0, true);
}

void kvm_event_requeue_interrupt(struct kvm_vcpu *vcpu, uint8_t vector, bool soft)
{
	vcpu->arch->interrupt.injected = true;
	vcpu->arch->interrupt.nr = vector;
	vcpu->arch->interrupt.soft = soft;
	kvm_make_request(KVM_REQ_EVENT, vcpu);
}

void kvm_event_requeue_nmi(struct kvm_vcpu *vcpu)
{
	vcpu->arch->nmi_injected = true;
	kvm_make_request(KVM_REQ_EVENT, vcpu);
}

/* What an entry has taken over is no longer ours (an exit tells if it did not arrive). */
void kvm_events_entered(struct kvm_vcpu *vcpu)
{
	vcpu->arch->exception.injected = false;
	vcpu->arch->interrupt.injected = false;
	vcpu->arch->nmi_injected = false;
}

/* --- injection --- */

static void process_nmi(struct kvm_vcpu *vcpu)
{
	/* one in service and one latched: the second of two at once counts only then */
	uint32_t limit = vmx_get_nmi_mask(vcpu) || vcpu->arch->nmi_injected ? 1 : 2;
	uint32_t n = __atomic_exchange_n(&vcpu->arch->nmi_queued, 0, __ATOMIC_SEQ_CST);

	vcpu->arch->nmi_pending += n;
	if (vcpu->arch->nmi_pending > limit)
		vcpu->arch->nmi_pending = limit;
	kvm_make_request(KVM_REQ_EVENT, vcpu);
}

void kvm_process_nmi(struct kvm_vcpu *vcpu)
{
	process_nmi(vcpu);
}

static bool has_injectable_intr(struct kvm_vcpu *vcpu)
{
	if (vcpu->arch->pending_external_vector >= 0 && kvm_apic_accept_pic_intr(vcpu))
		return true;
	/* L1's interrupt is an exit from L2: no processor delivers it by itself */
	if (unlikely(is_guest_mode(vcpu)))
		return kvm_cpu_has_interrupt(vcpu);
	return kvm_cpu_has_injectable_intr(vcpu);
}

int kvm_take_interrupt(struct kvm_vcpu *vcpu)
{
	int v = vcpu->arch->pending_external_vector;

	if (v >= 0 && kvm_apic_accept_pic_intr(vcpu)) {
		vcpu->arch->pending_external_vector = -1;
		return v;
	}
	return kvm_cpu_get_interrupt(vcpu);
}

bool kvm_event_has_injectable(struct kvm_vcpu *vcpu)
{
	return vcpu->apic ? has_injectable_intr(vcpu) : vcpu->arch->interrupt.injected;
}

bool kvm_event_has_interrupt(struct kvm_vcpu *vcpu)
{
	if (!vcpu->apic)
		return vcpu->arch->interrupt.injected;
	if (vcpu->arch->pending_external_vector >= 0 && kvm_apic_accept_pic_intr(vcpu))
		return true;
	return kvm_cpu_has_interrupt(vcpu);
}

static void inject_exception(struct kvm_vcpu *vcpu)
{
	struct kvm_queued_exception *ex = &vcpu->arch->exception;
	/* real mode pushes no error codes */
	bool error_code = ex->has_error_code && (vmx_get_cr0(vcpu) & X86_CR0_PE);

	TRACE(kvm, kvm_inj_exception, ex->vector, error_code, ex->error_code, ex->injected);
	vmx_inject_exception(vcpu, ex->vector, error_code, ex->error_code);
}

/* Deliver again what an exit interrupted. True: there was something. */
static bool reinject(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_arch *a = vcpu->arch;

	if (a->exception.injected) {
		inject_exception(vcpu);
		return true;
	}
	/* an exception on top of it comes first, the event is delivered after */
	if (a->exception.pending)
		return a->nmi_injected || a->interrupt.injected;
	if (a->nmi_injected) {
		vmx_inject_nmi(vcpu);
		return true;
	}
	if (a->interrupt.injected) {
		/*
		 * With the client's interrupt controller new ones come this way,
		 * too; it has asked ready_for_interrupt_injection first.
		 */
		TRACE(kvm, kvm_inj_virq, a->interrupt.nr, a->interrupt.soft, true);
		vmx_inject_irq(vcpu, a->interrupt.nr, a->interrupt.soft);
		return true;
	}
	return false;
}

static void inject_pending_exception(struct kvm_vcpu *vcpu)
{
	struct kvm_queued_exception *ex = &vcpu->arch->exception;
	uint64_t dr7;

	if (exception_is_fault(ex->vector))
		vmx_set_rflags(vcpu, vmx_get_rflags(vcpu) | X86_FLAGS_RF);
	if (ex->vector == X86_TRAP_DB) {
		deliver_payload(vcpu);
		dr7 = vcpu->arch->dr7;
		if (dr7 & DR7_GD) {
			vcpu->arch->dr7 = dr7 & ~DR7_GD;
			kvm_update_dr7(vcpu);
		}
	}
	deliver_payload(vcpu);
	inject_exception(vcpu);
	ex->pending = false;
	ex->injected = true;
}

/* The guest debugger holds interrupts back while it steps. */
static bool irq_blocked_by_debugger(struct kvm_vcpu *vcpu)
{
	return (vcpu->arch->guest_debug & KVM_GUESTDBG_BLOCKIRQ) &&
	       (vcpu->arch->guest_debug & KVM_GUESTDBG_SINGLESTEP);
}

bool kvm_event_needs_reinjection(struct kvm_vcpu *vcpu)
{
	return vcpu->arch->exception.injected || vcpu->arch->interrupt.injected || vcpu->arch->nmi_injected;
}

int inject_pending_event(struct kvm_vcpu *vcpu, bool req_int_win)
{
	struct kvm_vcpu_arch *a = vcpu->arch;
	int vector, r = 0;
	bool busy;

	if (unlikely(is_guest_mode(vcpu)))
		r = kvm_check_nested_events(vcpu);
	busy = reinject(vcpu);
	if (unlikely(r < 0))
		return r;
	if (unlikely(is_guest_mode(vcpu)) && vmx_nested_run_pending(vcpu))
		return 0; /* L1's own event is in the VMCS, or there is nothing for L2 */
	if (a->exception.pending && !a->exception.injected) {
		inject_pending_exception(vcpu);
		busy = true;
	}
	if (irq_blocked_by_debugger(vcpu))
		return 0;
	if (kvm_smi_deliverable(vcpu)) {
		/* after the event on its way, before the instruction that follows it */
		if (busy && is_guest_mode(vcpu))
			return -EBUSY;
		if (busy)
			vmx_set_monitor_trap(vcpu, true);
		else
			kvm_enter_smm(vcpu);
		busy = true;
	}
	if (a->nmi_pending) {
		/* for L1: it has come since kvm_check_nested_events() looked */
		if (unlikely(is_guest_mode(vcpu)) && nested_exit_on_nmi(vcpu))
			return -EBUSY;
		if (!busy && vmx_nmi_allowed(vcpu)) {
			a->nmi_pending--;
			a->nmi_injected = true;
			vmx_inject_nmi(vcpu);
			busy = true;
		}
		if (a->nmi_pending)
			vmx_enable_nmi_window(vcpu);
	}
	if (vcpu->apic && has_injectable_intr(vcpu)) {
		if (unlikely(is_guest_mode(vcpu)) && nested_exit_on_intr(vcpu))
			return -EBUSY;
		if (!busy && vmx_interrupt_allowed(vcpu)) {
			vector = kvm_take_interrupt(vcpu);
			if (vector >= 0) {
				a->interrupt.injected = true;
				a->interrupt.nr = (uint8_t)vector;
				a->interrupt.soft = false;
				TRACE(kvm, kvm_inj_virq, a->interrupt.nr, false, false);
				vmx_inject_irq(vcpu, a->interrupt.nr, false);
			}
		}
		if (has_injectable_intr(vcpu))
			vmx_enable_irq_window(vcpu);
	}
	if (req_int_win)
		vmx_enable_irq_window(vcpu);
	return unlikely(is_guest_mode(vcpu)) && kvm_has_nested_events(vcpu) ? -EBUSY : 0;
}

/* --- ioctls --- */

/* KVM API: KVM_INTERRUPT. -EINVAL vector, -ENXIO in-kernel PIC, -EEXIST one is waiting. */
int kvm_vcpu_ioctl_interrupt(struct kvm_vcpu *vcpu, const struct kvm_interrupt *irq)
{
	if (irq->irq >= 256)
		return err_born(EINVAL, "vector %u", irq->irq);
	if (!irqchip_in_kernel(vcpu->kvm)) {
		kvm_event_requeue_interrupt(vcpu, (uint8_t)irq->irq, false);
		return 0;
	}
	if (pic_in_kernel(vcpu->kvm))
		return err_born(ENXIO, "the PIC is in-kernel");
	if (vcpu->arch->pending_external_vector >= 0)
		return err_born(EEXIST, "an external vector is pending");
	vcpu->arch->pending_external_vector = (int)irq->irq;
	kvm_make_request(KVM_REQ_EVENT, vcpu);
	return 0;
}

/* KVM API: KVM_GET_VCPU_EVENTS. */
int kvm_vcpu_ioctl_get_events(struct kvm_vcpu *vcpu, struct kvm_vcpu_events *e)
{
	struct kvm_vcpu_arch *a = vcpu->arch;
	struct kvm_queued_exception *ex = &a->exception;

	if (a->exception_vmexit.pending && !a->exception.pending)
		ex = &a->exception_vmexit;
	process_nmi(vcpu);
	if (kvm_check_request(KVM_REQ_SMI, vcpu))
		kvm_process_smi(vcpu);
	/* a client that knows no payloads must see their effect now */
	if (!vcpu->kvm->arch->exception_payload_enabled && ex->pending && ex->has_payload)
		kvm_deliver_exception_payload(vcpu, ex);
	memset(e, 0, sizeof(*e));
	if (ex->vector != X86_TRAP_BP && ex->vector != X86_TRAP_OF) {
		/* soft exceptions happen again when their instruction runs again */
		e->exception.injected = ex->injected;
		e->exception.pending = ex->pending;
		if (!vcpu->kvm->arch->exception_payload_enabled)
			e->exception.injected |= ex->pending;
	}
	e->exception.nr = ex->vector;
	e->exception.has_error_code = ex->has_error_code;
	e->exception.error_code = ex->error_code;
	e->exception_has_payload = ex->has_payload;
	e->exception_payload = ex->payload;
	e->interrupt.injected = a->interrupt.injected && !a->interrupt.soft;
	e->interrupt.nr = a->interrupt.nr;
	e->interrupt.shadow = (uint8_t)vmx_get_interrupt_shadow(vcpu);
	e->nmi.injected = a->nmi_injected;
	e->nmi.pending = a->nmi_pending != 0;
	e->nmi.masked = vmx_get_nmi_mask(vcpu);
	e->smi.smm = a->smm;
	e->smi.pending = a->smi_pending;
	e->smi.smm_inside_nmi = a->smm_inside_nmi;
	e->smi.latched_init = kvm_lapic_latched_init(vcpu);
	e->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW |
		   KVM_VCPUEVENT_VALID_SMM;
	if (vcpu->kvm->arch->exception_payload_enabled)
		e->flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	if (vcpu->kvm->arch->triple_fault_event) {
		e->triple_fault.pending = kvm_test_request(KVM_REQ_TRIPLE_FAULT, vcpu);
		e->flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	}
	return 0;
}

static int check_events(struct kvm_vcpu *vcpu, const struct kvm_vcpu_events *e)
{
	uint32_t known = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
			 KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM |
			 KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT;

	if (e->flags & ~known)
		return err_born(EINVAL, "event flags %x", e->flags);
	if (e->flags & KVM_VCPUEVENT_VALID_PAYLOAD) {
		if (!vcpu->kvm->arch->exception_payload_enabled)
			return err_born(EINVAL, "KVM_CAP_EXCEPTION_PAYLOAD is off");
		if (e->exception.pending && e->exception.injected)
			return err_born(EINVAL, "exception both pending and injected");
	}
	/* Without the payload flag a pending exception is not looked at. */
	if ((e->exception.injected || ((e->flags & KVM_VCPUEVENT_VALID_PAYLOAD) && e->exception.pending)) &&
	    (e->exception.nr > 31 || e->exception.nr == X86_TRAP_NMI))
		return err_born(EINVAL, "exception %u", e->exception.nr);
	if ((e->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) && !vcpu->kvm->arch->triple_fault_event)
		return err_born(EINVAL, "KVM_CAP_X86_TRIPLE_FAULT_EVENT is off");
	if ((e->flags & KVM_VCPUEVENT_VALID_SMM) && (e->smi.smm || e->smi.pending) &&
	    vcpu->arch->mp_state == KVM_MP_STATE_INIT_RECEIVED)
		return err_born(EINVAL, "SMM while waiting for a SIPI");
	return 0;
}

static void set_smi_events(struct kvm_vcpu *vcpu, const struct kvm_vcpu_events *e)
{
	struct kvm_vcpu_arch *a = vcpu->arch;

	if (a->smm != (e->smi.smm != 0)) {
		vmx_leave_nested(vcpu);
		kvm_smm_changed(vcpu, e->smi.smm);
	}
	a->smi_pending = e->smi.pending;
	a->smm_inside_nmi = e->smi.smm && e->smi.smm_inside_nmi;
	kvm_lapic_set_latched_init(vcpu, e->smi.latched_init);
}

/* KVM API: KVM_SET_VCPU_EVENTS. */
int kvm_vcpu_ioctl_set_events(struct kvm_vcpu *vcpu, const struct kvm_vcpu_events *e)
{
	struct kvm_vcpu_arch *a = vcpu->arch;
	bool payload = e->flags & KVM_VCPUEVENT_VALID_PAYLOAD;
	int r = check_events(vcpu, e);

	if (r)
		return r;
	process_nmi(vcpu);
	a->exception_vmexit.pending = false;
	a->exception_from_userspace = payload && e->exception.pending;
	a->exception.injected = e->exception.injected;
	a->exception.pending = payload && e->exception.pending;
	a->exception.vector = e->exception.nr;
	a->exception.has_error_code = e->exception.has_error_code;
	a->exception.error_code = e->exception.error_code;
	a->exception.has_payload = payload && e->exception_has_payload;
	a->exception.payload = payload ? e->exception_payload : 0;
	a->interrupt.injected = e->interrupt.injected;
	a->interrupt.nr = e->interrupt.nr;
	a->interrupt.soft = e->interrupt.soft;
	if (e->flags & KVM_VCPUEVENT_VALID_SHADOW)
		vmx_set_interrupt_shadow(vcpu, e->interrupt.shadow);
	a->nmi_injected = e->nmi.injected;
	if (e->flags & KVM_VCPUEVENT_VALID_NMI_PENDING)
		a->nmi_pending = e->nmi.pending;
	vmx_set_nmi_mask(vcpu, e->nmi.masked);
	if (e->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR)
		kvm_apic_set_sipi_vector(vcpu, (uint8_t)e->sipi_vector);
	if (e->flags & KVM_VCPUEVENT_VALID_SMM)
		set_smi_events(vcpu, e);
	if (e->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) {
		if (e->triple_fault.pending)
			kvm_make_request(KVM_REQ_TRIPLE_FAULT, vcpu);
		else
			(void)kvm_check_request(KVM_REQ_TRIPLE_FAULT, vcpu);
	}
	kvm_make_request(KVM_REQ_EVENT, vcpu);
	return 0;
}
