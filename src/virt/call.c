/*
 * Having something done while a vCPU is at rest, from a thread that is none of it: a look at
 * its VMCS, for example.
 *
 *	the vCPU's mutex is free      fn runs here, with the mutex held
 *	its thread is in an ioctl     KVM_REQ_CALL and a kick: its thread runs fn before its next
 *	                              entry, or in between two sleeps of HLT
 *
 * Invariants: 1. fn runs at most once, by whoever takes the call out of vcpu->call. 2. When
 * kvm_vcpu_call() returns, nobody knows of the call any more.
 *
 * Locks: vcpu->mutex is tried, never waited for: a vCPU may be in KVM_RUN for ever.
 */
#include <errno.h>
#include <time.h>

#include "lib/error.h"
#include "lib/futex.h"
#include "virt/kvm.h"

#define TRY_NS 5000000ULL /* until it is kicked again: it may have been on its way to sleep */
#define TRIES 600

struct kvm_vcpu_call {
	void (*fn)(struct kvm_vcpu *vcpu, void *arg);
	void *arg;
	uint32_t done; /* (a) futex */
};

void kvm_vcpu_serve_call(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_call *c = __atomic_exchange_n(&vcpu->call, NULL, __ATOMIC_ACQ_REL);

	if (!c)
		return;
	c->fn(vcpu, c->arg);
	__atomic_store_n(&c->done, 1, __ATOMIC_RELEASE);
	futex_wake_all(&c->done);
}

static bool done(const struct kvm_vcpu_call *c)
{
	return __atomic_load_n(&c->done, __ATOMIC_ACQUIRE);
}

/* The thread that is in an ioctl is asked. True: it has run fn. */
static bool ask_owner(struct kvm_vcpu *vcpu, struct kvm_vcpu_call *c)
{
	struct kvm_vcpu_call *none = NULL, *mine = c;

	if (!__atomic_compare_exchange_n(&vcpu->call, &none, c, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
		/* somebody else's call stands there */
		nanosleep(&(struct timespec){ .tv_nsec = (long)TRY_NS }, NULL);
		return false;
	}
	kvm_make_request(KVM_REQ_CALL, vcpu);
	kvm_vcpu_kick(vcpu);
	futex_wait(&c->done, 0, TRY_NS);
	if (__atomic_compare_exchange_n(&vcpu->call, &mine, NULL, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		return false;
	while (!done(c))
		futex_wait(&c->done, 0, TRY_NS);
	return true;
}

int kvm_vcpu_call(struct kvm_vcpu *vcpu, void (*fn)(struct kvm_vcpu *vcpu, void *arg), void *arg)
{
	struct kvm_vcpu_call c = { .fn = fn, .arg = arg };

	for (int i = 0; i < TRIES; i++) {
		if (pthread_mutex_trylock(&vcpu->mutex) == 0) {
			fn(vcpu, arg);
			pthread_mutex_unlock(&vcpu->mutex);
			return 0;
		}
		if (ask_owner(vcpu, &c))
			return 0;
	}
	return err_born(EBUSY, "vCPU %u does not come to rest", vcpu->vcpu_id);
}
