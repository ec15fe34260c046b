/*
 * TSC and kvmclock: what the guest computes is what KVM_GET_CLOCK says.
 */
#include "vcpu_fixture.h"

#include "host/timer.h"
#include "x86/pvclock.h"

#define CLOCK_PAGE 0x3000
#define WALL_PAGE 0x4000
#define MSEC 1000000LL

/* As a guest reads it. */
static uint64_t guest_clock(void)
{
	const struct pvclock_vcpu_time_info *p = (void *)(memory + CLOCK_PAGE);
	uint64_t delta = kvm_read_guest_tsc(vcpu) - p->tsc_timestamp;

	assert_int_equal(p->version & 1, 0);
	delta = p->tsc_shift < 0 ? delta >> -p->tsc_shift : delta << p->tsc_shift;
	return p->system_time + (uint64_t)((unsigned __int128)delta * p->tsc_to_system_mul >> 32);
}

static void enable(void)
{
	assert_int_equal(kvm_set_msr(vcpu, MSR_KVM_SYSTEM_TIME_NEW, CLOCK_PAGE | 1, false), 0);
	assert_true(kvm_check_request(KVM_REQ_CLOCK_UPDATE, vcpu));
	kvm_guest_time_update(vcpu);
}

static void guest_and_client_read_the_same_clock(void **state)
{
	struct kvm_clock_data c;
	uint64_t before, after;

	enable();
	before = guest_clock();
	assert_int_equal(userkvm_ioctl(vm_fd, KVM_GET_CLOCK, (unsigned long)&c), 0);
	after = guest_clock();
	assert_in_range(c.clock + 10, before, after + 20); /* rounding of the 32-bit factor */
	assert_int_equal(c.flags, KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC);
}

static void clock_runs_at_the_hosts_rate(void **state)
{
	uint64_t g0, h0, g1, h1;
	int64_t drift;

	enable();
	g0 = guest_clock(), h0 = host_now_ns();
	while ((h1 = host_now_ns()) - h0 < 50 * MSEC)
		;
	g1 = guest_clock();
	drift = (int64_t)(g1 - g0) - (int64_t)(h1 - h0);
	assert_true(drift > -5 * MSEC && drift < 5 * MSEC);
}

static void set_clock_moves_the_guests_clock(void **state)
{
	struct kvm_clock_data c = { .clock = 77000000000000ULL };

	enable();
	assert_int_equal(userkvm_ioctl(vm_fd, KVM_SET_CLOCK, (unsigned long)&c), 0);
	assert_true(kvm_check_request(KVM_REQ_CLOCK_UPDATE, vcpu));
	kvm_guest_time_update(vcpu);
	assert_in_range(guest_clock(), c.clock, c.clock + 1000 * MSEC);
	c.flags = 1 << 30;
	assert_int_equal(userkvm_ioctl(vm_fd, KVM_SET_CLOCK, (unsigned long)&c), -1);
	assert_int_equal(errno, EINVAL);
}

static void update_leaves_an_even_version_that_moved_on(void **state)
{
	struct pvclock_vcpu_time_info *p = (void *)(memory + CLOCK_PAGE);
	uint32_t version;

	enable();
	version = p->version;
	kvm_guest_time_update(vcpu);
	assert_int_equal(p->version & 1, 0);
	assert_int_equal(p->version, version + 2);
	assert_true(p->flags & PVCLOCK_TSC_STABLE_BIT);
}

static void kvmclock_ctrl_raises_guest_stopped_once(void **state)
{
	struct pvclock_vcpu_time_info *p = (void *)(memory + CLOCK_PAGE);

	enable();
	assert_int_equal(vcpu_ioctl(KVM_KVMCLOCK_CTRL, NULL), 0);
	kvm_guest_time_update(vcpu);
	assert_true(p->flags & PVCLOCK_GUEST_STOPPED);
	kvm_guest_time_update(vcpu);
	assert_false(p->flags & PVCLOCK_GUEST_STOPPED);
	assert_int_equal(kvm_set_msr(vcpu, MSR_KVM_SYSTEM_TIME_NEW, 0, false), 0);
	assert_int_equal(vcpu_ioctl(KVM_KVMCLOCK_CTRL, NULL), -1);
	assert_int_equal(errno, EINVAL);
}

static void wall_clock_and_kvmclock_add_up_to_real_time(void **state)
{
	const struct pvclock_wall_clock *w = (void *)(memory + WALL_PAGE);
	int64_t error;

	enable();
	assert_int_equal(kvm_set_msr(vcpu, MSR_KVM_WALL_CLOCK_NEW, WALL_PAGE, false), 0);
	error = (int64_t)(host_realtime_ns() - (w->sec * 1000000000ULL + w->nsec + guest_clock()));
	assert_true(error > -20 * MSEC && error < 20 * MSEC);
}

static void guest_tsc_write_moves_tsc_adjust_along(void **state)
{
	uint64_t adjust = vcpu->arch->tsc_adjust, tsc = kvm_read_guest_tsc(vcpu);

	assert_int_equal(kvm_set_msr(vcpu, MSR_IA32_TSC, tsc + (1ULL << 40), false), 0);
	assert_in_range(kvm_read_guest_tsc(vcpu), tsc + (1ULL << 40), tsc + (1ULL << 41));
	assert_in_range(vcpu->arch->tsc_adjust - adjust, 1ULL << 39, 1ULL << 40);
	assert_int_equal(kvm_set_msr(vcpu, MSR_IA32_TSC_ADJUST, adjust, false), 0);
	assert_in_range(kvm_read_guest_tsc(vcpu), tsc, tsc + (1ULL << 38));
}

static void second_vcpu_gets_the_first_ones_tsc(void **state)
{
	int fd = userkvm_ioctl(vm_fd, KVM_CREATE_VCPU, 1);
	struct kvm_vcpu *second = kvm_get_vcpu(kvm, 1);
	uint64_t zero = 0;

	assert_int_equal(kvm_set_msr(vcpu, MSR_IA32_TSC, zero, true), 0);
	assert_int_equal(kvm_set_msr(second, MSR_IA32_TSC, zero, true), 0);
	assert_int_equal(second->arch->tsc_offset, vcpu->arch->tsc_offset);
	userkvm_close(fd);
}

static void tsc_khz_within_tolerance_is_accepted_and_told(void **state)
{
	unsigned long khz = host_tsc_khz();

	assert_int_equal(userkvm_ioctl(vcpu_fd, KVM_GET_TSC_KHZ, 0), khz);
	assert_int_equal(userkvm_ioctl(vcpu_fd, KVM_SET_TSC_KHZ, khz + khz / 10000), 0);
	assert_int_equal(userkvm_ioctl(vcpu_fd, KVM_GET_TSC_KHZ, 0), khz + khz / 10000);
	if (!kvm_has_tsc_control()) {
		assert_int_equal(userkvm_ioctl(vcpu_fd, KVM_SET_TSC_KHZ, khz * 2), -1);
		assert_int_equal(errno, EINVAL);
	}
	assert_int_equal(userkvm_ioctl(vcpu_fd, KVM_SET_TSC_KHZ, 0), 0);
}

/* A TSC whose rate is 1 GHz times a power of two is where the factor of 32 bits would be 2^32. */
static void clocks_of_round_rates_run(void **state)
{
	/* the scaled rate is rounded down: one of each pair is the round one */
	static const uint32_t khz[] = { 500000, 500001, 1000000, 1000001, 2000000, 2000001 };

	if (!kvm_has_tsc_control())
		skip();
	for (size_t n = 0; n < ARRAY_SIZE(khz); n++) {
		const struct pvclock_vcpu_time_info *p = (void *)(memory + CLOCK_PAGE);

		assert_int_equal(userkvm_ioctl(vcpu_fd, KVM_SET_TSC_KHZ, khz[n]), 0);
		enable();
		assert_true(p->tsc_to_system_mul >= BIT_ULL(31));
		guest_and_client_read_the_same_clock(state);
	}
	assert_int_equal(userkvm_ioctl(vcpu_fd, KVM_SET_TSC_KHZ, 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(guest_and_client_read_the_same_clock),
		cmocka_unit_test(clock_runs_at_the_hosts_rate),
		cmocka_unit_test(set_clock_moves_the_guests_clock),
		cmocka_unit_test(update_leaves_an_even_version_that_moved_on),
		cmocka_unit_test(kvmclock_ctrl_raises_guest_stopped_once),
		cmocka_unit_test(wall_clock_and_kvmclock_add_up_to_real_time),
		cmocka_unit_test(guest_tsc_write_moves_tsc_adjust_along),
		cmocka_unit_test(second_vcpu_gets_the_first_ones_tsc),
		cmocka_unit_test(tsc_khz_within_tolerance_is_accepted_and_told),
		cmocka_unit_test(clocks_of_round_rates_run),
	};

	return cmocka_run_group_tests(tests, make_vcpu, end_vcpu);
}
