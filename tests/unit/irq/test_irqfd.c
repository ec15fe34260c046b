/* irqfds end to end: a tick of an eventfd to a vector in IRR, and EOI back. */
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fixture.h"

static int setup(void **state)
{
	fix_start(FIX_KERNEL, 1);
	apic_enable(0);
	ioapic_route(20, 0x70, 0);
	return 0;
}

static void tick(int fd)
{
	uint64_t one = 1;

	assert_int_equal(write(fd, &one, 8), 8);
}

static bool readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

static void tick_becomes_a_vector_in_irr(void **state)
{
	int fd = eventfd(0, 0);
	struct kvm_irqfd a = { .fd = (uint32_t)fd, .gsi = 20 };

	assert_int_equal(kvm_irqfd(vm, &a), 0);
	tick(fd);
	WAIT_FOR(irr_has(0, 0x70));
	assert_true(irr_has(0, 0x70));
	WAIT_FOR(!readable(fd));
	assert_false(readable(fd));
	/* A pulse: the line is down again, so the next tick is a new edge. */
	assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), 0x70);
	apic_write(0, APIC_EOI, 0);
	tick(fd);
	WAIT_FOR(irr_has(0, 0x70));
	assert_true(irr_has(0, 0x70));
	close(fd);
}

static void tick_before_assignment_counts(void **state)
{
	int fd = eventfd(1, EFD_NONBLOCK);
	struct kvm_irqfd a = { .fd = (uint32_t)fd, .gsi = 20 };

	assert_int_equal(kvm_irqfd(vm, &a), 0);
	WAIT_FOR(irr_has(0, 0x70));
	assert_true(irr_has(0, 0x70));
	close(fd);
}

static void deassigned_eventfd_drives_nothing(void **state)
{
	int fd = eventfd(0, 0), same = dup(fd);
	struct kvm_irqfd a = { .fd = (uint32_t)fd, .gsi = 20 };

	assert_int_equal(kvm_irqfd(vm, &a), 0);
	a.fd = (uint32_t)same; /* another descriptor of the same eventfd */
	a.flags = KVM_IRQFD_FLAG_DEASSIGN;
	assert_int_equal(kvm_irqfd(vm, &a), 0);
	tick(fd);
	sleep_ns(10000000);
	assert_false(irr_has(0, 0x70));
	assert_true(readable(fd));
	close(fd);
	close(same);
}

static void resample_keeps_the_line_up_until_eoi_and_tells(void **state)
{
	int fd = eventfd(0, 0), resample = eventfd(0, 0);
	struct kvm_irqfd a = { .fd = (uint32_t)fd,
			       .gsi = 20,
			       .flags = KVM_IRQFD_FLAG_RESAMPLE,
			       .resamplefd = (uint32_t)resample };

	ioapic_route(20, 0x71 | 1 << 15, 0);
	assert_int_equal(kvm_irqfd(vm, &a), 0);
	tick(fd);
	WAIT_FOR(irr_has(0, 0x71));
	assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), 0x71);
	assert_false(readable(resample));
	apic_write(0, APIC_EOI, 0);
	assert_true(readable(resample));
	/* The line fell with the EOI: nothing asks again. */
	assert_false(irr_has(0, 0x71));
	a.flags = KVM_IRQFD_FLAG_DEASSIGN;
	assert_int_equal(kvm_irqfd(vm, &a), 0);
	assert_false(kvm_irq_has_notifier(vm, KVM_IRQCHIP_IOAPIC, 20));
	close(fd);
	close(resample);
}

static void wrong_arguments_are_refused(void **state)
{
	int fd = eventfd(0, 0), p[2];
	struct kvm_irqfd a = { .fd = (uint32_t)fd, .gsi = 20 };
	struct kvm *other;

	assert_int_equal(kvm_irqfd(vm, &a), 0);
	a.gsi = 21;
	assert_int_equal(kvm_irqfd(vm, &a), -EBUSY);
	a.flags = 0x10;
	assert_int_equal(kvm_irqfd(vm, &a), -EINVAL);
	a.flags = 0;
	a.fd = 9999;
	assert_int_equal(kvm_irqfd(vm, &a), -EBADF);
	assert_int_equal(pipe(p), 0);
	a.fd = (uint32_t)p[0];
	assert_int_equal(kvm_irqfd(vm, &a), -EINVAL);
	assert_int_equal(kvm_create_vm(&other), 0);
	a.fd = (uint32_t)fd;
	assert_int_equal(kvm_irqfd(other, &a), -EINVAL);
	kvm_put_kvm(other);
	close(p[0]);
	close(p[1]);
	close(fd);
}

static void many_irqfds_each_reach_their_gsi(void **state)
{
	int fd[16];

	for (int i = 0; i < 16; i++) {
		struct kvm_irqfd a = { .gsi = (uint32_t)i };

		ioapic_route(i, 0x80 + (uint32_t)i, 0);
		a.fd = (uint32_t)(fd[i] = eventfd(0, 0));
		assert_int_equal(kvm_irqfd(vm, &a), 0);
	}
	for (int i = 15; i >= 0; i--) {
		tick(fd[i]);
		WAIT_FOR(irr_has(0, 0x80 + (unsigned)i));
		assert_true(irr_has(0, 0x80 + (unsigned)i));
		close(fd[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, fix_stop)
		T(tick_becomes_a_vector_in_irr),
		T(tick_before_assignment_counts),
		T(deassigned_eventfd_drives_nothing),
		T(resample_keeps_the_line_up_until_eoi_and_tells),
		T(wrong_arguments_are_refused),
		T(many_irqfds_each_reach_their_gsi),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
