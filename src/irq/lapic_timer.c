/*
 * The local APIC's timer: one-shot, periodic and TSC-deadline.
 * (SDM vol. 3, "APIC Timer".)
 *
 * The APIC bus runs at 1 GHz, as KVM's does: a count of one is `divide` ns.
 * The host's timer thread delivers LVTT straight into IRR.
 *
 * Invariants (timer_lock):
 *  1. armed: the host timer will fire at deadline_ns. A callback that finds
 *     itself early or disarmed was overtaken by a new programming and does nothing.
 *  2. mode follows LVTT; tscdeadline is 0 except in TSC-deadline mode while the
 *     deadline lies ahead.
 */
#include "irq/internal.h"

#define BUS_CYCLE_NS 1
/* A shorter periodic timer would only starve the machine (KVM: min_timer_period_us). */
#define MIN_PERIOD_NS 200000ULL

static void arm(struct kvm_lapic *apic, uint64_t deadline_ns)
{
	apic->timer.armed = true;
	apic->timer.deadline_ns = deadline_ns;
	host_timer_arm(apic->timer.host, deadline_ns);
}

static void disarm(struct kvm_lapic *apic)
{
	if (!apic->timer.armed)
		return;
	apic->timer.armed = false;
	host_timer_disarm(apic->timer.host);
}

static void expired(void *arg)
{
	struct kvm_lapic *apic = arg;
	struct lapic_timer *t = &apic->timer;
	uint64_t now = host_now_ns();
	bool fire;

	pthread_mutex_lock(&apic->timer_lock);
	fire = t->armed && t->deadline_ns <= now;
	if (fire) {
		t->armed = false;
		if (t->mode == APIC_LVT_TIMER_TSCDEADLINE)
			t->tscdeadline = 0;
		/* Ticks nobody could take are one tick: the vector is pending already. */
		if (t->mode == APIC_LVT_TIMER_PERIODIC && t->period_ns)
			arm(apic, t->deadline_ns +
					  ((now - t->deadline_ns) / t->period_ns + 1) * t->period_ns);
	}
	pthread_mutex_unlock(&apic->timer_lock);
	if (fire)
		lapic_local_deliver(apic, APIC_LVTT);
}

int lapic_timer_init(struct kvm_lapic *apic)
{
	pthread_mutex_init(&apic->timer_lock, NULL);
	apic->timer.divide = 2;
	return host_timer_create(expired, apic, &apic->timer.host);
}

void lapic_timer_free(struct kvm_lapic *apic)
{
	host_timer_destroy(apic->timer.host);
	pthread_mutex_destroy(&apic->timer_lock);
}

/* TDCR: bits 3, 1, 0 are a logarithm, one less than it says (7: divide by 1). */
static uint32_t divide_of(uint32_t tdcr)
{
	uint32_t log = ((tdcr & 3) | ((tdcr & 8) >> 1)) + 1;

	return 1U << (log & 7);
}

static uint64_t count_to_ns(struct kvm_lapic *apic, uint32_t count)
{
	return (uint64_t)count * BUS_CYCLE_NS * apic->timer.divide;
}

static void set_period(struct kvm_lapic *apic, uint32_t count)
{
	apic->timer.period_ns = count_to_ns(apic, count);
	if (apic->timer.mode == APIC_LVT_TIMER_PERIODIC && apic->timer.period_ns &&
	    apic->timer.period_ns < MIN_PERIOD_NS)
		apic->timer.period_ns = MIN_PERIOD_NS;
}

void lapic_timer_stop(struct kvm_lapic *apic)
{
	pthread_mutex_lock(&apic->timer_lock);
	disarm(apic);
	apic->timer.period_ns = 0;
	apic->timer.tscdeadline = 0;
	apic->timer.mode = lapic_get(apic, APIC_LVTT) & APIC_LVT_TIMER_MODE_MASK;
	apic->timer.divide = divide_of(lapic_get(apic, APIC_TDCR));
	pthread_mutex_unlock(&apic->timer_lock);
}

void lapic_timer_set_mode(struct kvm_lapic *apic)
{
	struct lapic_timer *t = &apic->timer;
	uint32_t mode = lapic_get(apic, APIC_LVTT) & APIC_LVT_TIMER_MODE_MASK;

	pthread_mutex_lock(&apic->timer_lock);
	if (mode != t->mode) {
		/* SDM: entering or leaving TSC-deadline mode disarms the timer. */
		if (mode == APIC_LVT_TIMER_TSCDEADLINE || t->mode == APIC_LVT_TIMER_TSCDEADLINE) {
			disarm(apic);
			lapic_set(apic, APIC_TMICT, 0);
			t->period_ns = 0;
			t->tscdeadline = 0;
		}
		t->mode = mode;
	}
	pthread_mutex_unlock(&apic->timer_lock);
}

void lapic_timer_set_initial(struct kvm_lapic *apic, uint32_t count)
{
	struct lapic_timer *t = &apic->timer;

	pthread_mutex_lock(&apic->timer_lock);
	if (t->mode != APIC_LVT_TIMER_TSCDEADLINE) {
		lapic_set(apic, APIC_TMICT, count);
		set_period(apic, count);
		if (t->period_ns)
			arm(apic, host_now_ns() + t->period_ns);
		else
			disarm(apic);
	}
	pthread_mutex_unlock(&apic->timer_lock);
}

/* Counts left. timer_lock held. */
static uint32_t remaining(struct kvm_lapic *apic)
{
	struct lapic_timer *t = &apic->timer;
	uint64_t now = host_now_ns(), left;

	if (t->mode == APIC_LVT_TIMER_TSCDEADLINE || !t->period_ns || !t->armed)
		return 0;
	left = t->deadline_ns > now ? t->deadline_ns - now : 0;
	if (t->mode == APIC_LVT_TIMER_PERIODIC)
		left = left ? left : t->period_ns - (now - t->deadline_ns) % t->period_ns;
	return (uint32_t)(left / (BUS_CYCLE_NS * (uint64_t)t->divide));
}

uint32_t lapic_timer_current(struct kvm_lapic *apic)
{
	uint32_t count;

	pthread_mutex_lock(&apic->timer_lock);
	count = remaining(apic);
	pthread_mutex_unlock(&apic->timer_lock);
	return count;
}

void lapic_timer_set_divide(struct kvm_lapic *apic)
{
	struct lapic_timer *t = &apic->timer;
	uint32_t left;

	pthread_mutex_lock(&apic->timer_lock);
	left = remaining(apic);
	t->divide = divide_of(lapic_get(apic, APIC_TDCR));
	/* What is left to count takes longer or shorter from now on. */
	if (t->armed && t->mode != APIC_LVT_TIMER_TSCDEADLINE) {
		set_period(apic, lapic_get(apic, APIC_TMICT));
		arm(apic, host_now_ns() + min_u64(count_to_ns(apic, left), t->period_ns));
	}
	pthread_mutex_unlock(&apic->timer_lock);
}

void lapic_timer_restore(struct kvm_lapic *apic)
{
	struct lapic_timer *t = &apic->timer;
	uint32_t initial = lapic_get(apic, APIC_TMICT), current = lapic_get(apic, APIC_TMCCT);

	lapic_timer_stop(apic);
	pthread_mutex_lock(&apic->timer_lock);
	if (t->mode != APIC_LVT_TIMER_TSCDEADLINE) {
		set_period(apic, initial);
		/*
		 * A one-shot timer that has run out expires at once, as in Linux 6.1: QEMU restores TMICT without a
		 * TMCCT, and an interrupt too many is harmless where one too few stops the guest.
		 */
		if (t->period_ns)
			arm(apic, host_now_ns() + (current || t->mode == APIC_LVT_TIMER_ONESHOT ?
							   min_u64(count_to_ns(apic, current), t->period_ns) : t->period_ns));
	}
	pthread_mutex_unlock(&apic->timer_lock);
}

/* Guest TSC ticks from now, in ns; 0 for what has passed. */
static uint64_t tsc_delta_ns(struct kvm_vcpu *vcpu, uint64_t deadline)
{
	uint64_t now = lapic_ops->read_guest_tsc(vcpu);
	uint64_t khz = lapic_ops->guest_tsc_khz(vcpu);
	unsigned __int128 ns;

	if (deadline <= now || !khz)
		return 0;
	ns = (unsigned __int128)(deadline - now) * 1000000 / khz;
	/* Three centuries are for ever, and keep the sum within 64 bits. */
	return ns > INT64_MAX ? INT64_MAX : (uint64_t)ns;
}

uint64_t kvm_get_lapic_tscdeadline_msr(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic *apic = vcpu->apic;
	uint64_t deadline = 0;

	if (!apic)
		return 0;
	pthread_mutex_lock(&apic->timer_lock);
	if (apic->timer.mode == APIC_LVT_TIMER_TSCDEADLINE)
		deadline = apic->timer.tscdeadline;
	pthread_mutex_unlock(&apic->timer_lock);
	return deadline;
}

void kvm_set_lapic_tscdeadline_msr(struct kvm_vcpu *vcpu, uint64_t data)
{
	struct kvm_lapic *apic = vcpu->apic;
	bool now = false;

	if (!apic)
		return;
	pthread_mutex_lock(&apic->timer_lock);
	if (apic->timer.mode == APIC_LVT_TIMER_TSCDEADLINE) {
		uint64_t delta = data ? tsc_delta_ns(vcpu, data) : 0;

		apic->timer.tscdeadline = data;
		if (delta) {
			arm(apic, host_now_ns() + delta);
		} else {
			disarm(apic);
			now = data != 0;
			apic->timer.tscdeadline = 0;
		}
	}
	pthread_mutex_unlock(&apic->timer_lock);
	if (now)
		lapic_local_deliver(apic, APIC_LVTT);
}

/* Expiry goes straight into IRR: nothing is ever left pending outside it. */
bool kvm_cpu_has_pending_timer(struct kvm_vcpu *vcpu)
{
	return false;
}

void kvm_inject_pending_timer_irqs(struct kvm_vcpu *vcpu)
{
}
