/*
 * The synthetic interrupt controller (TLFS "Virtual Interrupt Controller"):
 * sixteen sources (SINTs) of one local APIC, a page of messages and a page of
 * event flags. The client raises SINTs by routes (KVM_IRQ_ROUTING_HV_SINT) and
 * has the event flags; messages from us are the synthetic timers' only.
 *
 * Invariants
 *  1. arch->hv.synic is set once, complete, and stays until the vCPU goes.
 *  2. synic->vectors follows the SINTs: vectors that an unmasked SINT has, and
 *     those of them that one wants ended by themselves.
 */
#include <errno.h>

#include "hyperv/internal.h"
#include "lib/error.h"
#include "lib/own.h"
#include "trace/trace.h"
#include "x86/apicv.h"

#define SYNIC_VERSION 1
#define SYNIC_ENABLE BIT_ULL(0) /* HV_MSR_SCONTROL */
#define SINT_VECTOR GENMASK_ULL(7, 0)
#define SINT_MASKED BIT_ULL(16)
#define SINT_AUTO_EOI BIT_ULL(17)
#define FIRST_VECTOR 16
#define MESSAGE_PENDING 1 /* hv_timer_message.flags */

static const struct hv_synic reset_state = {
	.version = SYNIC_VERSION,
	.sint = { [0 ... HV_NR_SINTS - 1] = SINT_MASKED },
};

/* --- life --- */

/* The processor would keep a vector in service that nobody ends: AutoEOI inhibits its interrupt delivery. */
static void note_auto_eoi(struct kvm_vcpu *vcpu, struct hv_synic *s, bool auto_eoi)
{
	if (s->auto_eoi == auto_eoi)
		return;
	s->auto_eoi = auto_eoi;
	kvm_apicv_auto_eoi(vcpu->kvm, auto_eoi);
}

int kvm_hv_activate_synic(struct kvm_vcpu *vcpu, bool clear_pages)
{
	struct hv_synic *s = vcpu->arch->hv.synic;
	int r;

	if (!vcpu->apic)
		return err_born(EINVAL, "a SynIC without an in-kernel APIC");
	if (!s) {
		s = own_malloc(sizeof(*s));
		if (!s)
			return err_born(ENOMEM, "no memory for a SynIC");
		*s = reset_state;
		r = hv_stimers_create(vcpu, s);
		if (r) {
			own_free(s);
			return r;
		}
		__atomic_store_n(&vcpu->arch->hv.synic, s, __ATOMIC_RELEASE);
		kvm_apic_set_synic(vcpu, &s->vectors);
	}
	s->clear_pages = clear_pages;
	s->control = SYNIC_ENABLE;
	return 0;
}

void kvm_hv_vcpu_uninit(struct kvm_vcpu *vcpu)
{
	struct hv_synic *s = vcpu->arch->hv.synic;

	if (!s)
		return;
	hv_stimers_destroy(s);
	note_auto_eoi(vcpu, s, false);
	kvm_apic_set_synic(vcpu, NULL);
	vcpu->arch->hv.synic = NULL;
	own_free(s);
}

/* --- interrupts --- */

/* -1: masked. */
static int vector_of(uint64_t sint)
{
	return sint & SINT_MASKED ? -1 : (int)(sint & SINT_VECTOR);
}

static int set_irq(struct kvm_vcpu *vcpu, const struct hv_synic *s, uint32_t sint)
{
	int vector, ret;

	if (sint >= HV_NR_SINTS)
		return -EINVAL;
	vector = vector_of(READ_ONCE(s->sint[sint]));
	if (vector < 0)
		return -ENOENT;
	ret = kvm_apic_set_irq(vcpu, (uint8_t)vector);
	TRACE(kvm, kvm_hv_synic_set_irq, (int)vcpu->vcpu_id, sint, vector, ret);
	return ret;
}

int kvm_hv_synic_set_irq(struct kvm *kvm, uint32_t vp_index, uint32_t sint)
{
	struct kvm_vcpu *vcpu = hv_vcpu_by_vp_index(kvm, vp_index);
	const struct hv_synic *s = vcpu ? __atomic_load_n(&vcpu->arch->hv.synic, __ATOMIC_ACQUIRE) : NULL;

	return s ? set_irq(vcpu, s, sint) : -EINVAL;
}

struct ack {
	struct kvm *kvm;
	uint32_t vp_index, sints;
};

static bool ack_route(const struct kvm_kernel_irq_routing_entry *e, void *arg)
{
	const struct ack *a = arg;

	if (e->hv_sint.vcpu == a->vp_index && e->hv_sint.sint < HV_NR_SINTS &&
	    (a->sints & 1u << e->hv_sint.sint))
		kvm_notify_acked_gsi(a->kvm, (int)e->gsi);
	return false;
}

/* The guest is done with what these SINTs (bits) brought. */
static void sints_acked(struct kvm_vcpu *vcpu, uint32_t sints)
{
	struct ack a = { vcpu->kvm, hv_vp_index(vcpu), sints };

	if (TRACE_ON(kvm, kvm_hv_notify_acked_sint))
		for (uint32_t bits = sints; bits; bits &= bits - 1)
			TRACE(kvm, kvm_hv_notify_acked_sint, (int)vcpu->vcpu_id,
			      (uint32_t)__builtin_ctz(bits));
	hv_stimers_retry(vcpu, sints);
	if (READ_ONCE(vcpu->kvm->irq_ack_notifiers))
		kvm_irq_for_each_route(vcpu->kvm, KVM_IRQ_ROUTING_HV_SINT, KVM_MAX_IRQ_ROUTES, ack_route, &a);
}

void kvm_hv_synic_eoi(struct kvm_vcpu *vcpu, uint8_t vector)
{
	const struct hv_synic *s = vcpu->arch->hv.synic;
	uint32_t sints = 0;

	TRACE(kvm, kvm_hv_synic_send_eoi, (int)vcpu->vcpu_id, vector);
	for (uint32_t i = 0; i < HV_NR_SINTS; i++)
		if (vector_of(s->sint[i]) == vector)
			sints |= 1u << i;
	sints_acked(vcpu, sints);
}

/* --- messages --- */

int hv_synic_deliver(struct kvm_vcpu *vcpu, uint32_t sint, const struct hv_timer_message *msg,
		     bool no_retry)
{
	const struct hv_synic *s = vcpu->arch->hv.synic;
	gpa_t slot = (s->msg_page & HV_MSR_PAGE) + (gpa_t)sint * HV_MESSAGE_SIZE;
	uint8_t pending = MESSAGE_PENDING;
	uint32_t type;
	int r;

	if (!(s->msg_page & HV_MSR_ENABLE))
		return -ENOENT;
	r = kvm_vcpu_read_guest(vcpu, slot, &type, sizeof(type));
	if (r)
		return r;
	if (type) {
		if (no_retry)
			return 0;
		r = kvm_vcpu_write_guest(vcpu, slot + offsetof(struct hv_timer_message, flags), &pending,
					 sizeof(pending));
		return r ? r : -EAGAIN;
	}
	r = kvm_vcpu_write_guest(vcpu, slot, msg, sizeof(*msg));
	if (r)
		return r;
	r = set_irq(vcpu, s, sint);
	return r < 0 ? r : r ? 0 : -EFAULT;
}

/* --- MSRs --- */

int hv_synic_get_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host)
{
	const struct hv_synic *s = vcpu->arch->hv.synic;

	if (!s && !host)
		return KVM_MSR_INVAL;
	if (!s)
		s = &reset_state;
	switch (msr) {
	case HV_MSR_SCONTROL: *data = s->control; return 0;
	case HV_MSR_SVERSION: *data = s->version; return 0;
	case HV_MSR_SIEFP: *data = s->evt_page; return 0;
	case HV_MSR_SIMP: *data = s->msg_page; return 0;
	case HV_MSR_EOM: *data = 0; return 0;
	default: *data = s->sint[msr - HV_MSR_SINT0]; return 0;
	}
}

/* The client may have what is in the pages, so it hears of where they are. */
static void tell_client(struct kvm_vcpu *vcpu, const struct hv_synic *s, uint32_t msr)
{
	struct kvm_hyperv_exit *exit = &vcpu->arch->hv.exit;

	*exit = (struct kvm_hyperv_exit){ .type = KVM_EXIT_HYPERV_SYNIC };
	exit->u.synic.msr = msr;
	exit->u.synic.control = s->control;
	exit->u.synic.evt_page = s->evt_page;
	exit->u.synic.msg_page = s->msg_page;
	kvm_make_request(KVM_REQ_HV_EXIT, vcpu);
}

/* SCONTROL, SIEFP, SIMP; a page that the guest enables begins empty, but for SYNIC2. */
static int set_told(struct kvm_vcpu *vcpu, struct hv_synic *s, uint32_t msr, uint64_t data, bool host)
{
	static const uint8_t zeros[PAGE_SIZE];

	if (msr != HV_MSR_SCONTROL && (data & HV_MSR_ENABLE) && !host && s->clear_pages &&
	    kvm_vcpu_write_guest(vcpu, data & HV_MSR_PAGE, zeros, sizeof(zeros)))
		return KVM_MSR_INVAL;
	*(msr == HV_MSR_SCONTROL ? &s->control : msr == HV_MSR_SIEFP ? &s->evt_page : &s->msg_page) = data;
	if (!host)
		tell_client(vcpu, s, msr);
	return 0;
}

/* Is there one that ends its interrupts by itself? */
static bool connect_vectors(struct hv_synic *s)
{
	struct kvm_apic_synic v = { 0 };
	bool auto_eoi = false;

	for (uint32_t i = 0; i < HV_NR_SINTS; i++) {
		int vector = vector_of(s->sint[i]);

		if (vector < FIRST_VECTOR)
			continue;
		v.vectors[vector / 64] |= BIT_ULL(vector % 64);
		if (s->sint[i] & SINT_AUTO_EOI)
			v.auto_eoi[vector / 64] |= BIT_ULL(vector % 64), auto_eoi = true;
	}
	s->vectors = v;
	return auto_eoi;
}

/* Guests reset a SINT to "masked, vector 0", clients to 0. */
static int set_sint(struct kvm_vcpu *vcpu, struct hv_synic *s, uint32_t sint, uint64_t data, bool host)
{
	if ((data & SINT_VECTOR) < FIRST_VECTOR && !host && !(data & SINT_MASKED))
		return KVM_MSR_INVAL;
	WRITE_ONCE(s->sint[sint], data);
	note_auto_eoi(vcpu, s, connect_vectors(s));
	/* which EOIs are to be heard of may have changed */
	kvm_make_request(KVM_REQ_SCAN_IOAPIC, vcpu);
	return 0;
}

int hv_synic_set_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data, bool host)
{
	struct hv_synic *s = vcpu->arch->hv.synic;

	if (!s) /* a client that restores nothing is heard */
		return host && !data ? 0 : KVM_MSR_INVAL;
	TRACE(kvm, kvm_hv_synic_set_msr, (int)vcpu->vcpu_id, msr, data, host);
	switch (msr) {
	case HV_MSR_SCONTROL:
	case HV_MSR_SIEFP:
	case HV_MSR_SIMP:
		return set_told(vcpu, s, msr, data, host);
	case HV_MSR_SVERSION:
		if (!host)
			return KVM_MSR_INVAL;
		s->version = data;
		return 0;
	case HV_MSR_EOM:
		sints_acked(vcpu, (1u << HV_NR_SINTS) - 1);
		return 0;
	default:
		return set_sint(vcpu, s, msr - HV_MSR_SINT0, data, host);
	}
}
