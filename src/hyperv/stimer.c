/*
 * The synthetic timers (TLFS "Synthetic Timers"): four of each SynIC, which
 * count by the partition's reference time and end in a message to a SINT, or in
 * direct mode in an interrupt.
 *
 *   MSR written --> pending --> KVM_REQ_HV_STIMER: due? --yes--> message, interrupt
 *                      ^                            |                  |
 *                      |                            no            periodic: next
 *                 host timer <---- armed -----------'------------------'
 *
 * Invariants
 *  1. Only the owner changes a timer; the host's timer thread sets its bit in
 *     stimers_pending, makes KVM_REQ_HV_STIMER, and kicks. A bit that comes late,
 *     for a timer that was changed meanwhile, finds exp_time still ahead.
 *  2. exp_time is 0 unless the timer is enabled and has been started.
 *  3. A periodic timer whose slot is taken loses that tick ("lazy" for every
 *     timer, as KVM); a one-shot timer waits for EOM.
 */
#include "hyperv/internal.h"
#include "lib/error.h"
#include "trace/trace.h"

#define NS_PER_TICK 100

bool kvm_hv_has_stimer_pending(struct kvm_vcpu *vcpu)
{
	struct hv_synic *s = vcpu->arch->hv.synic;

	return s && __atomic_load_n(&s->stimers_pending, __ATOMIC_SEQ_CST);
}

/* Any thread. */
static void mark_pending(struct hv_stimer *t)
{
	struct hv_synic *s = container_of(t - t->index, struct hv_synic, stimer[0]);

	__atomic_fetch_or(&s->stimers_pending, 1u << t->index, __ATOMIC_SEQ_CST);
	kvm_make_request(KVM_REQ_HV_STIMER, t->vcpu);
}

/* The host's timer thread. */
static void ran_out(void *arg)
{
	struct hv_stimer *t = arg;

	TRACE(kvm, kvm_hv_stimer_callback, (int)t->vcpu->vcpu_id, (int)t->index);
	mark_pending(t);
	kvm_vcpu_kick(t->vcpu);
}

int hv_stimers_create(struct kvm_vcpu *vcpu, struct hv_synic *synic)
{
	for (uint32_t i = 0; i < HV_NR_STIMERS; i++) {
		struct hv_stimer *t = &synic->stimer[i];
		int r;

		t->vcpu = vcpu;
		t->index = i;
		r = host_timer_create(ran_out, t, &t->host);
		if (r) {
			hv_stimers_destroy(synic);
			return r;
		}
	}
	return 0;
}

void hv_stimers_destroy(struct hv_synic *synic)
{
	for (uint32_t i = 0; i < HV_NR_STIMERS; i++)
		if (synic->stimer[i].host)
			host_timer_destroy(synic->stimer[i].host);
}

/* --- starting and stopping --- */

static void stop(struct hv_synic *s, struct hv_stimer *t)
{
	TRACE(kvm, kvm_hv_stimer_cleanup, (int)t->vcpu->vcpu_id, (int)t->index);
	host_timer_disarm(t->host);
	__atomic_fetch_and(&s->stimers_pending, ~(1u << t->index), __ATOMIC_SEQ_CST);
	t->msg_pending = false;
	t->exp_time = 0;
}

/* In so many ticks; never comes what is further away than the clock goes. */
static void arm_in(struct hv_stimer *t, uint64_t ticks)
{
	uint64_t now = host_now_ns(), most = (INT64_MAX - now) / NS_PER_TICK;

	host_timer_arm(t->host, now + min_u64(ticks, most) * NS_PER_TICK);
}

/* The next time of a periodic timer that is after now: ticks nobody took are lost. */
static uint64_t next_period(const struct hv_stimer *t, uint64_t now)
{
	if (!t->exp_time)
		return now + t->count;
	if (now < t->exp_time)
		return t->exp_time;
	return now + t->count - (now - t->exp_time) % t->count;
}

/* Enabled, and its count is not 0. */
static void start(struct hv_stimer *t)
{
	uint64_t now = hv_reference_counter(t->vcpu);

	if (t->config & HV_STIMER_PERIODIC) {
		t->exp_time = next_period(t, now);
		TRACE(kvm, kvm_hv_stimer_start_periodic, (int)t->vcpu->vcpu_id, (int)t->index, now,
		      t->exp_time);
		arm_in(t, t->exp_time - now);
		return;
	}
	t->exp_time = t->count;
	if (now >= t->count) { /* TLFS: what is past expires immediately */
		mark_pending(t);
		return;
	}
	TRACE(kvm, kvm_hv_stimer_start_one_shot, (int)t->vcpu->vcpu_id, (int)t->index, now, t->count);
	arm_in(t, t->count - now);
}

/* --- running out --- */

static int send_message(struct hv_stimer *t)
{
	struct hv_timer_message msg = {
		.type = HV_MESSAGE_TIMER_EXPIRED,
		.payload_size = sizeof(msg) - offsetof(struct hv_timer_message, timer_index),
		.timer_index = t->index,
		.expiration_time = t->exp_time,
		.delivery_time = hv_reference_counter(t->vcpu),
	};

	return hv_synic_deliver(t->vcpu, (uint32_t)FIELD_GET(HV_STIMER_SINTX, t->config), &msg,
				t->config & HV_STIMER_PERIODIC);
}

static void expire(struct hv_stimer *t)
{
	bool direct = t->config & HV_STIMER_DIRECT_MODE;
	int r;

	if (direct)
		r = !kvm_apic_set_irq(t->vcpu, (uint8_t)FIELD_GET(HV_STIMER_APIC_VECTOR, t->config));
	else
		r = send_message(t);
	TRACE(kvm, kvm_hv_stimer_expiration, (int)t->vcpu->vcpu_id, (int)t->index, direct, r);
	t->msg_pending = r != 0;
	if (!r && !(t->config & HV_STIMER_PERIODIC))
		t->config &= ~HV_STIMER_ENABLE;
}

static void look_at(struct hv_synic *s, struct hv_stimer *t)
{
	if (!(t->config & HV_STIMER_ENABLE))
		return;
	if (t->exp_time && hv_reference_counter(t->vcpu) >= t->exp_time)
		expire(t);
	if (!(t->config & HV_STIMER_ENABLE) || !t->count)
		stop(s, t);
	else if (!t->msg_pending)
		start(t);
}

int kvm_hv_serve_stimers(struct kvm_vcpu *vcpu)
{
	struct hv_synic *s = vcpu->arch->hv.synic;
	uint32_t pending = __atomic_exchange_n(&s->stimers_pending, 0, __ATOMIC_SEQ_CST);

	for (; pending; pending &= pending - 1)
		look_at(s, &s->stimer[__builtin_ctz(pending)]);
	return 1;
}

void hv_stimers_retry(struct kvm_vcpu *vcpu, uint32_t sints)
{
	struct hv_synic *s = vcpu->arch->hv.synic;

	for (uint32_t i = 0; i < HV_NR_STIMERS; i++) {
		struct hv_stimer *t = &s->stimer[i];

		if (t->msg_pending && (t->config & HV_STIMER_ENABLE) && !(t->config & HV_STIMER_DIRECT_MODE) &&
		    (sints & 1u << FIELD_GET(HV_STIMER_SINTX, t->config)))
			mark_pending(t);
	}
}

/* --- MSRs --- */

static uint32_t timer_of(uint32_t msr)
{
	return (msr - HV_MSR_STIMER0_CONFIG) / 2;
}

static bool is_count(uint32_t msr)
{
	return (msr - HV_MSR_STIMER0_CONFIG) % 2;
}

int hv_stimer_get_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host)
{
	const struct hv_synic *s = vcpu->arch->hv.synic;
	const struct hv_stimer *t;

	*data = 0;
	if (s) {
		t = &s->stimer[timer_of(msr)];
		*data = is_count(msr) ? t->count : t->config;
	}
	return 0;
}

static int set_config(struct kvm_vcpu *vcpu, struct hv_synic *s, struct hv_stimer *t, uint64_t config, bool host)
{
	const struct kvm_vcpu_hv *hv = &vcpu->arch->hv;

	if (!host && hv->enforce_cpuid && (config & HV_STIMER_DIRECT_MODE) &&
	    !(hv->cpuid.features_edx & HV_STIMER_DIRECT))
		return KVM_MSR_INVAL;
	TRACE(kvm, kvm_hv_stimer_set_config, (int)vcpu->vcpu_id, (int)t->index, config, host);
	stop(s, t);
	/* TLFS: SINT 0 is no place for a running timer's messages */
	if ((t->config & HV_STIMER_ENABLE) && !(config & (HV_STIMER_DIRECT_MODE | HV_STIMER_SINTX)))
		config &= ~HV_STIMER_ENABLE;
	t->config = config;
	return 0;
}

static void set_count(struct kvm_vcpu *vcpu, struct hv_synic *s, struct hv_stimer *t, uint64_t count, bool host)
{
	TRACE(kvm, kvm_hv_stimer_set_count, (int)vcpu->vcpu_id, (int)t->index, count, host);
	stop(s, t);
	t->count = count;
	if (host)
		return;
	if (!count)
		t->config &= ~HV_STIMER_ENABLE;
	else if (t->config & HV_STIMER_AUTO_ENABLE)
		t->config |= HV_STIMER_ENABLE;
}

int hv_stimer_set_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data, bool host)
{
	struct hv_synic *s = vcpu->arch->hv.synic;
	struct hv_stimer *t;

	if (!s)
		return host && !data ? 0 : KVM_MSR_INVAL;
	t = &s->stimer[timer_of(msr)];
	if (is_count(msr))
		set_count(vcpu, s, t, data, host);
	else if (set_config(vcpu, s, t, data, host))
		return KVM_MSR_INVAL;
	if (t->config & HV_STIMER_ENABLE)
		mark_pending(t);
	return 0;
}
