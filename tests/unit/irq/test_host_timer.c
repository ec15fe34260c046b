/* The timer thread: order, re-arming, cancelling; the TSC's frequency. */
#include <signal.h>

#include "fixture.h"

#define MS 1000000ULL
#define NR 64

static int order[NR], nr_fired;
static bool signals_blocked;

static void note(void *arg)
{
	sigset_t set;

	pthread_sigmask(SIG_SETMASK, NULL, &set);
	signals_blocked = sigismember(&set, SIGTERM) && sigismember(&set, SIGUSR1);
	order[nr_fired] = *(int *)arg;
	__atomic_fetch_add(&nr_fired, 1, __ATOMIC_SEQ_CST);
}

static void timers_fire_in_order_of_their_deadlines(void **state)
{
	struct host_timer *t[NR];
	uint64_t start = host_now_ns() + 20 * MS;
	int ids[NR];

	nr_fired = 0;
	for (int i = 0; i < NR; i++) {
		ids[i] = i * 37 % NR;
		assert_int_equal(host_timer_create(note, &ids[i], &t[i]), 0);
		host_timer_arm(t[i], start + (uint64_t)ids[i] * 10000);
	}
	WAIT_FOR(__atomic_load_n(&nr_fired, __ATOMIC_SEQ_CST) == NR);
	assert_int_equal(nr_fired, NR);
	for (int i = 0; i < NR; i++)
		assert_int_equal(order[i], i);
	assert_true(signals_blocked);
	for (int i = 0; i < NR; i++)
		host_timer_destroy(t[i]);
}

static void rearming_replaces_the_deadline(void **state)
{
	struct host_timer *t;
	uint64_t start = host_now_ns();
	int id = 0;

	nr_fired = 0;
	assert_int_equal(host_timer_create(note, &id, &t), 0);
	host_timer_arm(t, start + 1000000 * MS);
	host_timer_arm(t, start + 5 * MS);
	WAIT_FOR(__atomic_load_n(&nr_fired, __ATOMIC_SEQ_CST));
	assert_int_equal(nr_fired, 1);
	host_timer_destroy(t);
}

static void cancelled_timer_does_not_fire(void **state)
{
	struct host_timer *t;
	int id = 0;

	nr_fired = 0;
	assert_int_equal(host_timer_create(note, &id, &t), 0);
	host_timer_arm(t, host_now_ns() + 5 * MS);
	host_timer_cancel(t);
	sleep_ns(12 * MS);
	assert_int_equal(nr_fired, 0);
	host_timer_destroy(t);
}

struct again {
	struct host_timer *t;
	int left;
};

static void rearm(void *arg)
{
	struct again *a = arg;

	if (__atomic_sub_fetch(&a->left, 1, __ATOMIC_SEQ_CST))
		host_timer_arm(a->t, host_now_ns() + 100000);
	else
		host_timer_destroy(a->t);
}

static void callback_may_rearm_and_destroy_its_own_timer(void **state)
{
	struct again a = { .left = 20 };

	assert_int_equal(host_timer_create(rearm, &a, &a.t), 0);
	host_timer_arm(a.t, 0);
	WAIT_FOR(__atomic_load_n(&a.left, __ATOMIC_SEQ_CST) == 0);
	assert_int_equal(a.left, 0);
}

static int slow_state; /* (a) */

static void slow(void *arg)
{
	__atomic_store_n(&slow_state, 1, __ATOMIC_SEQ_CST);
	sleep_ns(20 * MS);
	__atomic_store_n(&slow_state, 2, __ATOMIC_SEQ_CST);
}

static void cancel_waits_for_a_running_callback(void **state)
{
	struct host_timer *t;

	assert_int_equal(host_timer_create(slow, NULL, &t), 0);
	host_timer_arm(t, 0);
	WAIT_FOR(__atomic_load_n(&slow_state, __ATOMIC_SEQ_CST) == 1);
	host_timer_cancel(t);
	assert_int_equal(slow_state, 2);
	host_timer_destroy(t);
}

static void destroy_waits_for_a_running_callback_and_frees_once(void **state)
{
	struct host_timer *t, *next;

	slow_state = 0;
	assert_int_equal(host_timer_create(slow, NULL, &t), 0);
	host_timer_arm(t, 0);
	WAIT_FOR(__atomic_load_n(&slow_state, __ATOMIC_SEQ_CST) == 1);
	host_timer_destroy(t);
	assert_int_equal(slow_state, 2);
	/* had it been counted off twice, there would be no end of timers now */
	assert_int_equal(host_timer_create(slow, NULL, &next), 0);
	host_timer_destroy(next);
}

static void tsc_frequency_agrees_with_the_clock(void **state)
{
	uint64_t khz = host_tsc_khz(), ns = host_now_ns(), tsc = host_tsc(), seen;

	sleep_ns(50 * MS);
	tsc = host_tsc() - tsc;
	ns = host_now_ns() - ns;
	seen = tsc * 1000000 / ns;
	assert_in_range(seen, khz - khz / 100, khz + khz / 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(timers_fire_in_order_of_their_deadlines),
		cmocka_unit_test(rearming_replaces_the_deadline),
		cmocka_unit_test(cancelled_timer_does_not_fire),
		cmocka_unit_test(callback_may_rearm_and_destroy_its_own_timer),
		cmocka_unit_test(cancel_waits_for_a_running_callback),
		cmocka_unit_test(destroy_waits_for_a_running_callback_and_frees_once),
		cmocka_unit_test(tsc_frequency_agrees_with_the_clock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
