/* The APIC timer against the real clock; tolerances allow a busy machine. */
#include "fixture.h"

#define MS 1000000ULL

static int setup(void **state)
{
	fix_start(FIX_KERNEL, 1);
	apic_enable(0);
	apic_write(0, APIC_TDCR, 0xb); /* divide by 1 */
	return 0;
}

static void one_shot_fires_once_and_not_early(void **state)
{
	uint64_t start = host_now_ns();

	apic_write(0, APIC_LVTT, 0xee);
	apic_write(0, APIC_TMICT, 5 * MS);
	assert_false(irr_has(0, 0xee));
	WAIT_FOR(irr_has(0, 0xee));
	assert_true(irr_has(0, 0xee));
	assert_true(host_now_ns() - start >= 5 * MS);
	assert_int_equal(apic_read(0, APIC_TMCCT), 0);
	assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), 0xee);
	sleep_ns(12 * MS);
	assert_false(irr_has(0, 0xee));
}

static void divider_stretches_the_count(void **state)
{
	uint64_t start = host_now_ns();

	apic_write(0, APIC_TDCR, 0x3); /* divide by 16 */
	apic_write(0, APIC_LVTT, 0xee);
	apic_write(0, APIC_TMICT, MS);
	WAIT_FOR(irr_has(0, 0xee));
	assert_true(host_now_ns() - start >= 16 * MS);
}

static void current_count_falls_in_real_time(void **state)
{
	uint32_t a, b;

	apic_write(0, APIC_LVTT, APIC_LVT_MASKED | 0xee);
	apic_write(0, APIC_TMICT, 4000000000U);
	a = apic_read(0, APIC_TMCCT);
	sleep_ns(10 * MS);
	b = apic_read(0, APIC_TMCCT);
	assert_true(a <= 4000000000U && a > 3900000000U);
	assert_true(a - b >= 10 * MS && a - b < 900 * MS);
}

static void periodic_keeps_its_rate(void **state)
{
	uint64_t start = host_now_ns(), elapsed;
	int ticks = 0;

	apic_write(0, APIC_LVTT, APIC_LVT_TIMER_PERIODIC | 0xed);
	apic_write(0, APIC_TMICT, 4 * MS);
	while (ticks < 10 && host_now_ns() - start < 1000 * MS) {
		if (kvm_cpu_get_interrupt(cpu[0]) == 0xed) {
			ticks++;
			apic_write(0, APIC_EOI, 0);
		}
		sleep_ns(100000);
	}
	elapsed = host_now_ns() - start;
	assert_int_equal(ticks, 10);
	assert_true(elapsed >= 40 * MS);
	assert_true(apic_read(0, APIC_TMCCT) > 0);
	apic_write(0, APIC_TMICT, 0);
	sleep_ns(10 * MS);
	kvm_cpu_get_interrupt(cpu[0]);
	apic_write(0, APIC_EOI, 0);
	sleep_ns(10 * MS);
	assert_false(irr_has(0, 0xed));
}

static void masked_timer_stays_silent(void **state)
{
	apic_write(0, APIC_LVTT, APIC_LVT_MASKED | 0xee);
	apic_write(0, APIC_TMICT, MS);
	sleep_ns(5 * MS);
	assert_false(irr_has(0, 0xee));
}

static void tsc_deadline_fires_at_the_guests_tsc(void **state)
{
	uint64_t five_ms = host_tsc_khz() * 5, deadline = fix_tsc(cpu[0]) + five_ms;

	apic_write(0, APIC_LVTT, APIC_LVT_TIMER_TSCDEADLINE | 0xec);
	apic_write(0, APIC_TMICT, 1000); /* ignored in this mode */
	assert_int_equal(apic_read(0, APIC_TMCCT), 0);
	kvm_set_lapic_tscdeadline_msr(cpu[0], deadline);
	assert_int_equal(kvm_get_lapic_tscdeadline_msr(cpu[0]), deadline);
	assert_false(irr_has(0, 0xec));
	WAIT_FOR(irr_has(0, 0xec));
	assert_true(irr_has(0, 0xec));
	/* Two clocks: allow the frequencies' difference over 5 ms. */
	assert_true(fix_tsc(cpu[0]) + host_tsc_khz() / 20 >= deadline);
	assert_int_equal(kvm_get_lapic_tscdeadline_msr(cpu[0]), 0);
}

/* What devices write is announced by their interrupts; of the timer's own ticks, and of IPIs, one in 64 announces it too. */
static void few_ticks_and_ipis_announce_memory_and_every_message_does(void **state)
{
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x60 };
	unsigned before = announcements;

	apic_write(0, APIC_LVTT, APIC_LVT_TIMER_TSCDEADLINE | 0xec);
	for (unsigned n = 0; n < 640; n++)
		kvm_set_lapic_tscdeadline_msr(cpu[0], 1);
	assert_int_equal(announcements - before, 10);
	assert_int_equal(kvm_send_userspace_msi(vm, &msi), 1);
	assert_int_equal(announcements - before, 11);
	for (unsigned n = 0; n < 640; n++)
		apic_write(0, APIC_ICR, APIC_DEST_SELF | 0x61);
	assert_int_equal(announcements - before, 21);
	apic_write(0, APIC_ICR, APIC_DEST_SELF | APIC_DM_NMI); /* no fixed one */
	assert_int_equal(announcements - before, 22);
}

static void past_tsc_deadline_fires_at_once(void **state)
{
	apic_write(0, APIC_LVTT, APIC_LVT_TIMER_TSCDEADLINE | 0xec);
	kvm_set_lapic_tscdeadline_msr(cpu[0], 1);
	assert_true(irr_has(0, 0xec));
	assert_int_equal(kvm_get_lapic_tscdeadline_msr(cpu[0]), 0);
}

static void tsc_deadline_of_zero_disarms(void **state)
{
	apic_write(0, APIC_LVTT, APIC_LVT_TIMER_TSCDEADLINE | 0xec);
	kvm_set_lapic_tscdeadline_msr(cpu[0], fix_tsc(cpu[0]) + host_tsc_khz() * 3);
	kvm_set_lapic_tscdeadline_msr(cpu[0], 0);
	sleep_ns(8 * MS);
	assert_false(irr_has(0, 0xec));
}

static void deadline_msr_is_ignored_outside_its_mode(void **state)
{
	apic_write(0, APIC_LVTT, 0xec);
	kvm_set_lapic_tscdeadline_msr(cpu[0], 1);
	assert_false(irr_has(0, 0xec));
	assert_int_equal(kvm_get_lapic_tscdeadline_msr(cpu[0]), 0);
}

static void leaving_tsc_deadline_mode_disarms(void **state)
{
	apic_write(0, APIC_LVTT, APIC_LVT_TIMER_TSCDEADLINE | 0xec);
	kvm_set_lapic_tscdeadline_msr(cpu[0], fix_tsc(cpu[0]) + host_tsc_khz() * 3);
	apic_write(0, APIC_LVTT, 0xec);
	sleep_ns(8 * MS);
	assert_false(irr_has(0, 0xec));
}

static void restored_state_goes_on_counting(void **state)
{
	struct kvm_lapic_state s;

	apic_write(0, APIC_LVTT, 0xeb);
	apic_write(0, APIC_TMICT, 20 * MS);
	assert_int_equal(kvm_apic_get_state(cpu[0], &s), 0);
	kvm_lapic_reset(cpu[0], false);
	sleep_ns(30 * MS);
	assert_false(irr_has(0, 0xeb));
	assert_int_equal(kvm_apic_set_state(cpu[0], &s), 0);
	assert_true(apic_read(0, APIC_TMCCT) > 0);
	WAIT_FOR(irr_has(0, 0xeb));
	assert_true(irr_has(0, 0xeb));
}

/* QEMU's image has no current count. */
static void restored_one_shot_without_a_current_count_fires(void **state)
{
	struct kvm_lapic_state s;

	apic_write(0, APIC_LVTT, 0xeb);
	apic_write(0, APIC_TMICT, 4000 * (uint32_t)MS / 16);
	assert_int_equal(kvm_apic_get_state(cpu[0], &s), 0);
	memset(s.regs + APIC_TMCCT, 0, 4);
	kvm_lapic_reset(cpu[0], false);
	assert_int_equal(kvm_apic_set_state(cpu[0], &s), 0);
	WAIT_FOR(irr_has(0, 0xeb));
	assert_true(irr_has(0, 0xeb));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, fix_stop)
		T(one_shot_fires_once_and_not_early),
		T(divider_stretches_the_count),
		T(current_count_falls_in_real_time),
		T(periodic_keeps_its_rate),
		T(masked_timer_stays_silent),
		T(tsc_deadline_fires_at_the_guests_tsc),
		T(past_tsc_deadline_fires_at_once),
		T(few_ticks_and_ipis_announce_memory_and_every_message_does),
		T(tsc_deadline_of_zero_disarms),
		T(deadline_msr_is_ignored_outside_its_mode),
		T(leaving_tsc_deadline_mode_disarms),
		T(restored_state_goes_on_counting),
		T(restored_one_shot_without_a_current_count_fires),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
