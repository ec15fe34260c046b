/*
 * The VMX-preemption timer that an L1 sets for its L2 (SDM Vol. 3, "VMX-Preemption
 * Timer"; Linux: vmx_calc_preemption_timer_value, vmx_start_preemption_timer).
 *
 * L0 does not use the processor's timer for it: VMCS02 has the control clear, a timer of
 * the host runs while L2 does, and its end is an event like any other
 * (x86/nested_event.c).
 *
 *	VMLAUNCH, VMRESUME: deadline = vmcs12's value + (L1's TSC >> rate)
 *	each entry of L2    the host's timer is set for what is left of it
 *	each exit to L1     it is stopped; what is left goes into vmcs12 where L1 saves it
 *
 * Invariants
 * 1. The deadline is made by L1's VM entry only. RSM and KVM_SET_NESTED_STATE go on
 *    with the one that there was, so the time away counts.
 * 2. Outside guest mode the timer does not run and `expired` is false.
 *
 * Locks: none. `expired` is written by the timer's thread, all else is the owner's.
 */
#include "host/timer.h"
#include "vmx/internal.h"

static void ran_out(void *arg)
{
	struct kvm_vcpu *vcpu = arg;

	__atomic_store_n(&vcpu->vmx->nested.timer.expired, true, __ATOMIC_RELEASE);
	kvm_make_request(KVM_REQ_EVENT, vcpu);
	kvm_vcpu_kick(vcpu);
}

int nested_timer_create(struct kvm_vcpu *vcpu)
{
	return host_timer_create(ran_out, vcpu, &vcpu->vmx->nested.timer.host);
}

void nested_timer_destroy(struct kvm_vcpu *vcpu)
{
	struct nested_timer *t = &vcpu->vmx->nested.timer;

	if (t->host)
		host_timer_destroy(t->host);
	*t = (struct nested_timer){ 0 };
}

bool nested_cpu_has_preemption_timer(const struct vmcs12 *v)
{
	return v->pin_based_vm_exec_control & PIN_BASED_VMX_PREEMPTION_TIMER;
}

static uint64_t scaled(uint64_t v, uint64_t multiplier)
{
	return (uint64_t)(((unsigned __int128)v * multiplier) >> 48);
}

/* In the timer's units. */
static uint64_t l1_tsc(const struct vcpu_vmx *vmx)
{
	return (scaled(host_tsc(), vmx->l1_tsc_multiplier) + vmx->l1_tsc_offset) >> NESTED_PREEMPTION_TIMER_RATE;
}

static uint64_t l1_tsc_khz(const struct vcpu_vmx *vmx)
{
	uint64_t khz = scaled(host_tsc_khz(), vmx->l1_tsc_multiplier);

	return khz ? khz : 1;
}

void nested_timer_start(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	struct nested_timer *t = &vmx->nested.timer;
	uint64_t now, left;

	if (!nested_cpu_has_preemption_timer(v))
		return;
	now = l1_tsc(vmx);
	if (!t->has_deadline)
		t->deadline = now + v->vmx_preemption_timer_value;
	t->has_deadline = true;
	left = t->deadline > now ? t->deadline - now : 0;
	if (!left) {
		/* L2 is left before its first instruction */
		t->expires_ns = 0;
		__atomic_store_n(&t->expired, true, __ATOMIC_RELEASE);
		kvm_make_request(KVM_REQ_EVENT, vcpu);
		return;
	}
	left = min_u64(left, UINT32_MAX) << NESTED_PREEMPTION_TIMER_RATE;
	t->expires_ns = host_now_ns() + left * 1000000 / l1_tsc_khz(vmx);
	host_timer_arm(t->host, t->expires_ns);
}

void nested_timer_stop(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	struct nested_timer *t = &vcpu->vmx->nested.timer;

	if (!nested_cpu_has_preemption_timer(v))
		return;
	host_timer_cancel(t->host);
	__atomic_store_n(&t->expired, false, __ATOMIC_RELEASE);
}

uint32_t nested_timer_left(struct kvm_vcpu *vcpu)
{
	const struct vcpu_vmx *vmx = vcpu->vmx;
	uint64_t now = host_now_ns(), end = vmx->nested.timer.expires_ns;

	if (end <= now || __atomic_load_n(&vmx->nested.timer.expired, __ATOMIC_ACQUIRE))
		return 0;
	return (uint32_t)((end - now) * l1_tsc_khz(vmx) / 1000000 >> NESTED_PREEMPTION_TIMER_RATE);
}

bool nested_preemption_timer_expired(struct kvm_vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->vmx->nested.timer.expired, __ATOMIC_ACQUIRE);
}
