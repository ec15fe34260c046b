/*
 * A vCPU on hold for its VM's debugger: the vCPU's side of debugger.h.
 *
 * Invariant: `parked` is true only while the vCPU's thread is in wait_parked(), which leaves by way of the
 * lock, so that the debugger keeps it there for as long as it holds that.
 */
#include "x86/debugger.h"

#include <pthread.h>

#include "lib/futex.h"
#include "lib/params.h"
#include "x86/x86.h"

/* Finite, so that a wake-up that went elsewhere costs this at most. */
#define PARK_SLICE_NS (1000ULL * 1000 * 1000)

static uint32_t waiting_is_over; /* (a) a debugger has come: new vCPUs run at once */

uint32_t *kvm_debugger_event_word(struct kvm *kvm)
{
	return &kvm->arch->debugger.event_word;
}

static void tell(struct kvm *kvm)
{
	__atomic_fetch_add(&kvm->arch->debugger.event_word, 1, __ATOMIC_SEQ_CST);
	futex_wake_all(&kvm->arch->debugger.event_word);
}

static void set_parked(struct kvm_vcpu *vcpu, bool parked)
{
	struct kvm_debugger_vm *d = &vcpu->kvm->arch->debugger;

	pthread_mutex_lock(&d->lock);
	vcpu->arch->debugger.parked = parked;
	pthread_mutex_unlock(&d->lock);
}

static bool on_hold(struct kvm_vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->arch->debugger.hold, __ATOMIC_SEQ_CST);
}

/* As kvm_vcpu_block(): a kick moves wake_word, and a signal's handler sets signal_seen. */
static void wait_parked(struct kvm_vcpu *vcpu)
{
	__atomic_store_n(&vcpu->blocked, true, __ATOMIC_SEQ_CST);
	for (;;) {
		uint32_t word = __atomic_load_n(&vcpu->wake_word, __ATOMIC_SEQ_CST);

		if (!on_hold(vcpu) || __atomic_load_n(&vcpu->signal_seen, __ATOMIC_SEQ_CST) || kvm_test_request(KVM_REQ_CALL, vcpu))
			break;
		if (futex_wait(&vcpu->wake_word, word, PARK_SLICE_NS) == -EINTR)
			__atomic_store_n(&vcpu->signal_seen, 1, __ATOMIC_SEQ_CST);
	}
	__atomic_store_n(&vcpu->blocked, false, __ATOMIC_SEQ_CST);
}

int kvm_debugger_park(struct kvm_vcpu *vcpu)
{
	while (on_hold(vcpu) && !__atomic_load_n(&vcpu->signal_seen, __ATOMIC_SEQ_CST)) {
		set_parked(vcpu, true);
		wait_parked(vcpu);
		set_parked(vcpu, false);
		if (kvm_check_request(KVM_REQ_CALL, vcpu))
			kvm_vcpu_serve_call(vcpu);
	}
	return on_hold(vcpu) ? -EINTR : 1;
}

bool kvm_debugger_takes(struct kvm_vcpu *vcpu)
{
	struct kvm_debugger_vm *d = &vcpu->kvm->arch->debugger;
	struct kvm_debugger_vcpu *v = &vcpu->arch->debugger;

	if (vcpu->run->exit_reason != KVM_EXIT_DEBUG)
		return false;
	pthread_mutex_lock(&d->lock);
	if (v->on) { /* else it was detached since: the stop is nobody's, and the guest goes on */
		v->hit = true;
		v->vector = (uint8_t)vcpu->run->debug.arch.exception;
		v->dr6 = vcpu->run->debug.arch.dr6;
		__atomic_store_n(&v->hold, true, __ATOMIC_SEQ_CST);
	}
	pthread_mutex_unlock(&d->lock);
	tell(vcpu->kvm);
	return true;
}

void kvm_debugger_init_vcpu(struct kvm_vcpu *vcpu)
{
	bool wait = params_has_word("USERKVM_GDB", "wait") && !__atomic_load_n(&waiting_is_over, __ATOMIC_RELAXED);

	vcpu->arch->debugger.hold = wait;
	vcpu->arch->debugger.on = wait;
}

void kvm_debugger_wait_no_more(struct kvm *kvm)
{
	struct kvm_debugger_vm *d = &kvm->arch->debugger;
	struct kvm_vcpu *vcpu;
	uint32_t i;

	__atomic_store_n(&waiting_is_over, 1, __ATOMIC_RELAXED);
	pthread_mutex_lock(&d->lock);
	kvm_for_each_vcpu(i, vcpu, kvm) {
		if (d->attached)
			break;
		__atomic_store_n(&vcpu->arch->debugger.hold, false, __ATOMIC_SEQ_CST);
		__atomic_store_n(&vcpu->arch->debugger.on, false, __ATOMIC_SEQ_CST);
		kvm_vcpu_kick(vcpu);
	}
	pthread_mutex_unlock(&d->lock);
}
