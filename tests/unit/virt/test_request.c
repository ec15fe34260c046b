/*
 * Requests and kicks: a shoot-down returns only when every vCPU in guest mode
 * has left it; a sleeper wakes for a kick, for work, and for a signal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "virt/kvm.h"

static struct kvm *vm;
static uint32_t runnable;

static bool is_runnable(struct kvm_vcpu *vcpu)
{
	return __atomic_load_n(&runnable, __ATOMIC_SEQ_CST);
}

static const struct kvm_arch_ops arch = { .vcpu_runnable = is_runnable };

static int setup(void **state)
{
	runnable = 0;
	kvm_register_arch(&arch);
	return kvm_create_vm(&vm);
}

static int teardown(void **state)
{
	kvm_put_kvm(vm);
	return 0;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static struct kvm_vcpu *new_vcpu(uint32_t id)
{
	struct kvm_vcpu *v = NULL;

	assert_int_equal(kvm_create_vcpu(vm, id, &v), 0);
	return v;
}

/* A run loop whose guest does nothing but look at `kicked` and use `stale`. */
static uint32_t kicked[2], stop, translation, stale_uses;

static void fake_kick(struct kvm_vcpu *v)
{
	__atomic_store_n(&kicked[v->vcpu_idx], 1, __ATOMIC_SEQ_CST);
}

static void *run_loop(void *arg)
{
	struct kvm_vcpu *v = arg;

	kvm_vcpu_load(v);
	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
		uint32_t tlb;

		kvm_check_request(KVM_REQ_TLB_FLUSH, v);
		tlb = __atomic_load_n(&translation, __ATOMIC_SEQ_CST);
		kvm_vcpu_enter_guest_mode(v);
		while (!kvm_vcpu_exit_request(v) && !__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
			if (__atomic_exchange_n(&kicked[v->vcpu_idx], 0, __ATOMIC_SEQ_CST))
				break;
			/* "translation" was zapped and the shoot-down has returned. */
			if (tlb + 2 <= __atomic_load_n(&translation, __ATOMIC_SEQ_CST))
				__atomic_fetch_add(&stale_uses, 1, __ATOMIC_SEQ_CST);
		}
		kvm_vcpu_leave_guest_mode(v);
	}
	kvm_vcpu_put(v);
	return NULL;
}

static void shoot_down_returns_after_every_running_vcpu_has_left(void **state)
{
	struct kvm_vcpu *v[2] = { new_vcpu(0), new_vcpu(1) };
	pthread_t t[2];
	uint64_t end = now_ns() + 300000000;
	int i;

	stop = stale_uses = translation = 0;
	for (i = 0; i < 2; i++) {
		v[i]->kick_processor = fake_kick;
		assert_int_equal(pthread_create(&t[i], NULL, run_loop, v[i]), 0);
	}
	/* Each flush is followed by another step: who is two behind missed one. */
	while (now_ns() < end) {
		__atomic_fetch_add(&translation, 1, __ATOMIC_SEQ_CST);
		kvm_flush_remote_tlbs(vm);
	}
	__atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
	for (i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	assert_true(translation > 100);
	assert_int_equal(stale_uses, 0);
}

static void shoot_down_does_not_wait_for_a_vcpu_outside_guest_mode(void **state)
{
	struct kvm_vcpu *v = new_vcpu(0);

	kvm_flush_remote_tlbs(vm);
	assert_true(kvm_check_request(KVM_REQ_TLB_FLUSH, v));
	assert_false(kvm_check_request(KVM_REQ_TLB_FLUSH, v));
}

static void shoot_down_by_a_vcpu_thread_leaves_its_own_request_pending(void **state)
{
	struct kvm_vcpu *v = new_vcpu(0);

	kvm_vcpu_load(v);
	kvm_flush_remote_tlbs(vm);
	assert_true(kvm_vcpu_exit_request(v));
	kvm_vcpu_put(v);
}

static void request_on_some_vcpus_is_theirs_alone(void **state)
{
	struct kvm_vcpu *v[3] = { new_vcpu(0), new_vcpu(1), new_vcpu(2) };
	uint64_t mask[KVM_VCPU_MASK_WORDS] = { BIT_ULL(0) | BIT_ULL(2) };
	uint32_t word = v[2]->wake_word;

	kvm_make_vcpus_request_mask(vm, KVM_REQ_TLB_FLUSH_GUEST, mask);
	for (int i = 0; i < 3; i++)
		assert_int_equal(kvm_check_request(KVM_REQ_TLB_FLUSH_GUEST, v[i]), i != 1);
	assert_int_equal(v[2]->wake_word, word); /* a TLB is flushed before the next entry, whenever that is */
	kvm_make_vcpus_request_mask(vm, KVM_REQ_EVENT, mask);
	assert_int_not_equal(v[2]->wake_word, word);
	assert_false(kvm_test_request(KVM_REQ_EVENT, v[1]));
}

static void *mask_run_loop(void *arg)
{
	struct kvm_vcpu *v = arg;

	kvm_vcpu_load(v);
	kvm_vcpu_enter_guest_mode(v);
	__atomic_store_n(&translation, 1, __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(&kicked[v->vcpu_idx], __ATOMIC_SEQ_CST) && !__atomic_load_n(&stop, __ATOMIC_SEQ_CST))
		;
	usleep(20000);
	__atomic_store_n(&translation, 2, __ATOMIC_SEQ_CST);
	kvm_vcpu_leave_guest_mode(v);
	kvm_vcpu_put(v);
	return NULL;
}

static void request_on_some_vcpus_waits_for_those(void **state)
{
	uint64_t mask[KVM_VCPU_MASK_WORDS] = { BIT_ULL(0) };
	struct kvm_vcpu *v[2] = { new_vcpu(0), new_vcpu(1) };
	pthread_t t;

	stop = translation = kicked[1] = 0;
	v[1]->kick_processor = fake_kick;
	assert_int_equal(pthread_create(&t, NULL, mask_run_loop, v[1]), 0);
	while (!__atomic_load_n(&translation, __ATOMIC_SEQ_CST))
		;
	kvm_make_vcpus_request_mask(vm, KVM_REQ_TLB_FLUSH_GUEST, mask);
	assert_int_equal(kicked[1], 0); /* it runs on */
	mask[0] = BIT_ULL(1);
	kvm_make_vcpus_request_mask(vm, KVM_REQ_TLB_FLUSH_GUEST, mask);
	assert_int_equal(translation, 2);
	pthread_join(t, NULL);
}

static void *waker(void *arg)
{
	struct kvm_vcpu *v = arg;

	usleep(30000);
	__atomic_store_n(&runnable, 1, __ATOMIC_SEQ_CST);
	kvm_vcpu_kick(v);
	return NULL;
}

static void block_sleeps_until_a_kick(void **state)
{
	struct kvm_vcpu *v = new_vcpu(0);
	struct timespec before, after;
	uint64_t start = now_ns();
	pthread_t t;

	kvm_vcpu_load(v);
	assert_int_equal(pthread_create(&t, NULL, waker, v), 0);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
	while (!runnable)
		assert_int_equal(kvm_vcpu_block(v), 0);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
	pthread_join(t, NULL);
	kvm_vcpu_put(v);
	assert_true(now_ns() - start >= 25000000);
	/* It slept: no processor time to speak of. */
	assert_true((after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec < 10000000);
}

static void block_returns_at_once_when_runnable(void **state)
{
	struct kvm_vcpu *v = new_vcpu(0);

	runnable = 1;
	assert_int_equal(kvm_vcpu_block(v), 0);
}

static void on_signal(int signo)
{
}

static void on_signal_wrapped(int signo)
{
	kvm_running_vcpu_signal();
}

static pthread_t sleeper;

static void *signaller(void *arg)
{
	usleep(30000);
	pthread_kill(sleeper, SIGUSR1);
	return NULL;
}

static void block_with(void (*handler)(int))
{
	struct sigaction sa = { .sa_handler = handler, .sa_flags = SA_RESTART };
	struct kvm_vcpu *v = new_vcpu(0);
	pthread_t t;

	sigaction(SIGUSR1, &sa, NULL);
	sleeper = pthread_self();
	kvm_vcpu_load(v);
	assert_int_equal(pthread_create(&t, NULL, signaller, NULL), 0);
	assert_int_equal(kvm_vcpu_block(v), -EINTR);
	assert_int_equal(v->signal_seen, 1);
	pthread_join(t, NULL);
	kvm_vcpu_put(v);
}

static void handler_that_tells_us_ends_the_sleep_with_eintr(void **state)
{
	block_with(on_signal_wrapped);
}

static void handler_we_know_nothing_of_ends_the_sleep_with_eintr(void **state)
{
	block_with(on_signal);
}

static void signal_in_guest_mode_kicks_the_processor(void **state)
{
	struct kvm_vcpu *v = new_vcpu(0);

	v->kick_processor = fake_kick;
	kicked[0] = 0;
	kvm_running_vcpu_signal(); /* not in KVM_RUN: nobody's business */
	assert_int_equal(v->signal_seen, 0);
	kvm_vcpu_load(v);
	kvm_vcpu_enter_guest_mode(v);
	kvm_running_vcpu_signal();
	assert_int_equal(kicked[0], 1);
	assert_true(kvm_vcpu_exit_request(v));
	kvm_vcpu_leave_guest_mode(v);
	kvm_vcpu_put(v);
}

static void broken_vm_is_dead_and_its_vcpus_are_told(void **state)
{
	struct kvm_vcpu *v = new_vcpu(0);

	kvm_vm_bugged(vm, "a test says so");
	assert_true(vm->dead);
	assert_true(kvm_test_request(KVM_REQ_VM_DEAD, v));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(shoot_down_returns_after_every_running_vcpu_has_left),
		T(shoot_down_does_not_wait_for_a_vcpu_outside_guest_mode),
		T(shoot_down_by_a_vcpu_thread_leaves_its_own_request_pending),
		T(request_on_some_vcpus_is_theirs_alone),
		T(request_on_some_vcpus_waits_for_those),
		T(block_sleeps_until_a_kick),
		T(block_returns_at_once_when_runnable),
		T(handler_that_tells_us_ends_the_sleep_with_eintr),
		T(handler_we_know_nothing_of_ends_the_sleep_with_eintr),
		T(signal_in_guest_mode_kicks_the_processor),
		T(broken_vm_is_dead_and_its_vcpus_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
