/* The 8254 against its datasheet and the real clock. */
#include "fixture.h"

#define MS 1000000ULL
#define PIT_HZ 1193182

static int setup(void **state)
{
	fix_start(FIX_KERNEL, 1);
	assert_int_equal(kvm_create_pit(vm, KVM_PIT_SPEAKER_DUMMY), 0);
	pic_init(0x01);
	return 0;
}

static void load(int channel, int mode, uint16_t count)
{
	outb(0x43, (uint8_t)(channel << 6 | 0x30 | mode << 1));
	outb((uint16_t)(0x40 + channel), (uint8_t)count);
	outb((uint16_t)(0x40 + channel), (uint8_t)(count >> 8));
}

static uint16_t latch(int channel)
{
	uint16_t lo;

	outb(0x43, (uint8_t)(channel << 6));
	lo = inb((uint16_t)(0x40 + channel));
	return (uint16_t)(lo | inb((uint16_t)(0x40 + channel)) << 8);
}

/* Ticks that arrive at the PIC within ns, each acknowledged. */
static int count_ticks(uint64_t ns)
{
	uint64_t end = host_now_ns() + ns;
	int ticks = 0;

	while (host_now_ns() < end) {
		if (kvm_cpu_has_interrupt(cpu[0]) && kvm_cpu_get_interrupt(cpu[0]) == 0x20) {
			ticks++;
			outb(0x20, 0x20);
		}
		sleep_ns(50000);
	}
	return ticks;
}

/*
 * A measurement of real time on a machine that others use too: one good try in
 * five is proof, a wrong rate never has one.
 */
#define ASSERT_ONE_TRY_IN_RANGE(setup, measured, low, high)                 \
	do {                                                                \
		uint64_t got = 0;                                           \
		for (int try = 0; try < 5; try++) {                         \
			setup;                                              \
			got = (uint64_t)(measured);                         \
			if (got >= (low) && got <= (high))                  \
				break;                                      \
		}                                                           \
		assert_in_range(got, low, high);                            \
	} while (0)

static void rate_generator_interrupts_at_its_frequency(void **state)
{
	ASSERT_ONE_TRY_IN_RANGE(load(0, 2, PIT_HZ / 250) /* 4 ms */, count_ticks(200 * MS), 44, 51);
}

static void square_wave_interrupts_at_its_frequency(void **state)
{
	ASSERT_ONE_TRY_IN_RANGE(load(0, 3, PIT_HZ / 100), count_ticks(200 * MS), 17, 21);
}

static void mode_0_interrupts_once(void **state)
{
	uint64_t patience = host_now_ns() + 10000 * MS;
	int ticks = 0;

	load(0, 0, PIT_HZ / 200);
	while (!ticks && host_now_ns() < patience)
		ticks = count_ticks(MS);
	assert_int_equal(ticks + count_ticks(30 * MS), 1);
}

static void unacknowledged_ticks_are_reinjected(void **state)
{
	/* One is in the PIC, the others wait: they follow quicker than the rate. */
	ASSERT_ONE_TRY_IN_RANGE(load(0, 2, PIT_HZ / 200) /* 5 ms */; sleep_ns(50 * MS), count_ticks(12 * MS), 7,
				16);
}

static void without_reinjection_lost_ticks_stay_lost(void **state)
{
	struct kvm_reinject_control c = { .pit_reinject = 0 };

	assert_int_equal(kvm_vm_ioctl_reinject(vm, &c), 0);
	ASSERT_ONE_TRY_IN_RANGE(load(0, 2, PIT_HZ / 100); sleep_ns(60 * MS), count_ticks(5 * MS), 1, 2);
}

static void latched_count_does_not_move(void **state)
{
	uint16_t a, b;

	load(2, 0, 0xffff);
	outb(0x43, 2 << 6);
	sleep_ns(2 * MS);
	a = inb(0x42);
	a |= (uint16_t)(inb(0x42) << 8);
	b = latch(2);
	assert_true(a > 0xfff0 - 1200);
	assert_true(a - b >= 2300);
}

static void channel_counts_down_in_real_time(void **state)
{
	uint16_t a, b;
	uint64_t ns, ticks;

	load(2, 2, 0);
	a = latch(2);
	ns = host_now_ns();
	sleep_ns(5 * MS);
	b = latch(2);
	ns = host_now_ns() - ns;
	ticks = ns * PIT_HZ / 1000000000;
	assert_in_range((uint16_t)(a - b), 5966, ticks + 600);
}

static void read_back_gives_status_then_count(void **state)
{
	load(2, 3, 0xffff);
	outb(0x43, 0xc0 | 2 << 2); /* both, channel 2 */
	assert_int_equal(inb(0x42), 0x80 | 0x30 | 3 << 1);
	assert_true((inb(0x42) | inb(0x42) << 8) > 0xf000);
}

static void low_byte_access_reads_one_byte(void **state)
{
	outb(0x43, 2 << 6 | 0x10 | 4 << 1);
	outb(0x42, 0xf0);
	outb(0x43, 0xc0 | 0x20 | 2 << 2); /* status only */
	assert_int_equal(inb(0x42) & 0x3f, 0x10 | 4 << 1);
}

static void speaker_port_shows_gate_out_and_refresh(void **state)
{
	uint8_t a = inb(0x61);
	bool toggled = false;

	assert_int_equal(a & 3, 0);
	for (int i = 0; i < 100000 && !toggled; i++)
		toggled = (inb(0x61) ^ a) & 0x10;
	assert_true(toggled);
	load(2, 0, 1193 * 5); /* OUT2 rises after 5 ms */
	outb(0x61, 3);
	load(2, 0, 1193 * 5);
	assert_int_equal(inb(0x61) & 0x23, 3);
	sleep_ns(6 * MS);
	assert_int_equal(inb(0x61) & 0x23, 0x23);
}

static void state_survives_and_hpet_legacy_stops_the_interrupt(void **state)
{
	struct kvm_pit_state2 s;

	load(0, 2, PIT_HZ / 500);
	assert_int_equal(kvm_vm_ioctl_get_pit2(vm, &s), 0);
	assert_int_equal(s.channels[0].mode, 2);
	assert_int_equal(s.channels[0].count, PIT_HZ / 500);
	s.flags |= KVM_PIT_FLAGS_HPET_LEGACY;
	assert_int_equal(kvm_vm_ioctl_set_pit2(vm, &s), 0);
	count_ticks(5 * MS);
	assert_int_equal(count_ticks(20 * MS), 0);
	s.flags = 0;
	assert_int_equal(kvm_vm_ioctl_set_pit2(vm, &s), 0);
	ASSERT_ONE_TRY_IN_RANGE(, count_ticks(40 * MS), 14, 21);
}

static int count_ioapic_ticks(uint64_t ns)
{
	uint64_t end = host_now_ns() + ns;
	int ticks = 0;

	while (host_now_ns() < end) {
		if (kvm_cpu_get_interrupt(cpu[0]) == 0x30) {
			ticks++;
			apic_write(0, APIC_EOI, 0);
		}
		sleep_ns(50000);
	}
	return ticks;
}

static void ticks_reach_the_ioapic_and_are_acknowledged_there(void **state)
{
	outb(0x21, 0xff);
	apic_enable(0);
	apic_write(0, APIC_LVT0, APIC_LVT_MASKED);
	ioapic_route(0, 0x30, 0);
	ASSERT_ONE_TRY_IN_RANGE(load(0, 2, PIT_HZ / 250), count_ioapic_ticks(100 * MS), 20, 26);
}

static void pit_is_created_once_and_only_with_a_pic(void **state)
{
	struct kvm *other;

	assert_int_equal(kvm_create_pit(vm, 0), -EEXIST);
	assert_int_equal(kvm_create_vm(&other), 0);
	assert_int_equal(kvm_create_pit(other, 0), -ENOENT);
	kvm_put_kvm(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, fix_stop)
		T(rate_generator_interrupts_at_its_frequency),
		T(square_wave_interrupts_at_its_frequency),
		T(mode_0_interrupts_once),
		T(unacknowledged_ticks_are_reinjected),
		T(without_reinjection_lost_ticks_stay_lost),
		T(latched_count_does_not_move),
		T(channel_counts_down_in_real_time),
		T(read_back_gives_status_then_count),
		T(low_byte_access_reads_one_byte),
		T(speaker_port_shows_gate_out_and_refresh),
		T(state_survives_and_hpet_legacy_stops_the_interrupt),
		T(ticks_reach_the_ioapic_and_are_acknowledged_there),
		T(pit_is_created_once_and_only_with_a_pic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
