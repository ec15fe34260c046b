/*
 * Times of VM exits: which part is the client's, leases, and a lease that follows the end of another.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "virt/exit_stats.h"

#define REASON 12
#define TICKS 200000 /* of a wait */

static struct kvm *vm;
static struct kvm_vcpu *vcpu;
static const struct kvm_arch_ops arch;

static int setup(void **state)
{
	kvm_register_arch(&arch);
	return kvm_create_vm(&vm) || kvm_create_vcpu(vm, 0, &vcpu);
}

static int teardown(void **state)
{
	kvm_put_kvm(vm);
	return 0;
}

static void wait_ticks(uint64_t n)
{
	uint64_t begin = host_tsc();

	while (host_tsc() - begin < n)
		;
}

static void exit_and_entry(uint32_t reason, bool l2)
{
	kvm_exit_stats_exit(vcpu, reason, l2);
	wait_ticks(TICKS);
	kvm_exit_stats_entry(vcpu);
}

static struct kvm_exit_time host_of(uint32_t reason, bool l2)
{
	return kvm_exit_stats_of(vcpu)->row[l2][reason].host;
}

static struct kvm_exit_time client_of(uint32_t reason)
{
	return kvm_exit_stats_of(vcpu)->row[0][reason].client;
}

static void nothing_is_counted_before_the_first_question(void **state)
{
	exit_and_entry(REASON, false);
	assert_null(kvm_exit_stats_of(vcpu));
	assert_int_equal(kvm_exit_stats_ask(vcpu, 0), 0); /* who ends what has not begun */
	assert_null(kvm_exit_stats_of(vcpu));
}

static void exits_are_counted_by_reason_and_level(void **state)
{
	struct kvm_exit_time t;

	assert_int_equal(kvm_exit_stats_ask(vcpu, 3600), 0);
	exit_and_entry(REASON, false);
	exit_and_entry(REASON, false);
	exit_and_entry(REASON, true);
	exit_and_entry(KVM_EXIT_STATS_REASONS, false); /* has no row */
	t = host_of(REASON, false);
	assert_int_equal(t.count, 2);
	assert_true(t.min >= TICKS && t.min <= t.max && t.total >= t.min + t.max);
	assert_int_equal(host_of(REASON, true).count, 1);
	assert_int_equal(client_of(REASON).count, 0);
	kvm_exit_stats_entry(vcpu); /* without an exit */
	assert_int_equal(host_of(REASON, false).count, 2);
}

static void time_outside_kvm_run_is_the_clients(void **state)
{
	assert_int_equal(kvm_exit_stats_ask(vcpu, 3600), 0);
	kvm_exit_stats_note_run(kvm_exit_stats_of(vcpu), false); /* no exit is open */
	kvm_exit_stats_exit(vcpu, REASON, false);
	kvm_exit_stats_note_run(kvm_exit_stats_of(vcpu), true); /* it has not been left */
	kvm_exit_stats_note_run(kvm_exit_stats_of(vcpu), false);
	wait_ticks(50 * TICKS);
	kvm_exit_stats_note_run(kvm_exit_stats_of(vcpu), true);
	kvm_exit_stats_entry(vcpu);
	assert_int_equal(client_of(REASON).count, 1);
	assert_true(client_of(REASON).total >= 50 * TICKS);
	assert_int_equal(host_of(REASON, false).count, 1);
}

static void counting_ends_with_the_lease(void **state)
{
	assert_int_equal(kvm_exit_stats_ask(vcpu, KVM_EXIT_STATS_MAX_LEASE_S + 1), 0);
	assert_true(kvm_exit_stats_of(vcpu)->until <=
		    host_tsc() + KVM_EXIT_STATS_MAX_LEASE_S * 1000ULL * host_tsc_khz());
	exit_and_entry(REASON, false);
	assert_int_equal(kvm_exit_stats_ask(vcpu, 0), 0);
	exit_and_entry(REASON, false);
	assert_int_equal(host_of(REASON, false).count, 1);
}

static void a_lease_after_another_begins_at_0(void **state)
{
	assert_int_equal(kvm_exit_stats_ask(vcpu, 3600), 0);
	exit_and_entry(REASON, false);
	assert_int_equal(kvm_exit_stats_ask(vcpu, 3600), 0); /* one that goes on does not */
	exit_and_entry(REASON, false);
	assert_int_equal(host_of(REASON, false).count, 2);
	assert_int_equal(kvm_exit_stats_ask(vcpu, 0), 0);
	assert_int_equal(kvm_exit_stats_ask(vcpu, 3600), 0);
	exit_and_entry(REASON, false);
	assert_int_equal(host_of(REASON, false).count, 1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(nothing_is_counted_before_the_first_question),
		TEST(exits_are_counted_by_reason_and_level),
		TEST(time_outside_kvm_run_is_the_clients),
		TEST(counting_ends_with_the_lease),
		TEST(a_lease_after_another_begins_at_0),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
