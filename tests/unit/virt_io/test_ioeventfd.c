/* ioeventfds: who ticks for which write, and what is refused. */
#include <sys/eventfd.h>
#include <unistd.h>

#include "fixture.h"

static int setup(void **state)
{
	fix_start(FIX_NONE, 1);
	return 0;
}

static uint64_t ticks(int fd)
{
	uint64_t n = 0;

	return read(fd, &n, 8) == 8 ? n : 0;
}

static int assign(int fd, gpa_t addr, uint32_t len, uint32_t flags, uint64_t match)
{
	struct kvm_ioeventfd a = {
		.fd = fd, .addr = addr, .len = len, .flags = flags, .datamatch = match
	};

	return kvm_ioeventfd(vm, &a);
}

static int poke(enum kvm_bus_id bus, gpa_t addr, int len, uint64_t val)
{
	return kvm_io_bus_write(cpu[0], bus, addr, len, &val);
}

static void only_the_matching_datum_ticks(void **state)
{
	int a = eventfd(0, EFD_NONBLOCK), b = eventfd(0, EFD_NONBLOCK);

	assert_int_equal(assign(a, 0x2000, 2, KVM_IOEVENTFD_FLAG_DATAMATCH, 1), 0);
	assert_int_equal(assign(b, 0x2000, 2, KVM_IOEVENTFD_FLAG_DATAMATCH, 2), 0);
	assert_int_equal(poke(KVM_MMIO_BUS, 0x2000, 2, 2), 0);
	assert_int_equal(poke(KVM_MMIO_BUS, 0x2000, 2, 2), 0);
	assert_int_equal(ticks(a), 0);
	assert_int_equal(ticks(b), 2);
	assert_int_equal(poke(KVM_MMIO_BUS, 0x2000, 2, 3), -EOPNOTSUPP);
	assert_int_equal(poke(KVM_MMIO_BUS, 0x2000, 4, 1), -EOPNOTSUPP);
	close(a);
	close(b);
}

static void pio_and_mmio_are_separate(void **state)
{
	int fd = eventfd(0, EFD_NONBLOCK);

	assert_int_equal(assign(fd, 0xc050, 2, KVM_IOEVENTFD_FLAG_PIO, 0), 0);
	assert_int_equal(poke(KVM_MMIO_BUS, 0xc050, 2, 0), -EOPNOTSUPP);
	assert_int_equal(poke(KVM_PIO_BUS, 0xc050, 2, 7), 0);
	assert_int_equal(ticks(fd), 1);
	close(fd);
}

static void length_zero_takes_any_length_and_the_fast_bus(void **state)
{
	int fd = eventfd(0, EFD_NONBLOCK);

	assert_int_equal(assign(fd, 0x3000, 0, 0, 0), 0);
	assert_int_equal(poke(KVM_FAST_MMIO_BUS, 0x3000, 0, 0), 0);
	assert_int_equal(poke(KVM_MMIO_BUS, 0x3000, 1, 0), 0);
	assert_int_equal(poke(KVM_MMIO_BUS, 0x3000, 8, 0), 0);
	assert_int_equal(ticks(fd), 3);
	assert_int_equal(assign(fd, 0x3000, 0, KVM_IOEVENTFD_FLAG_DEASSIGN, 0), 0);
	assert_int_equal(poke(KVM_FAST_MMIO_BUS, 0x3000, 0, 0), -EOPNOTSUPP);
	assert_int_equal(poke(KVM_MMIO_BUS, 0x3000, 4, 0), -EOPNOTSUPP);
	close(fd);
}

static void collisions_are_refused(void **state)
{
	int a = eventfd(0, EFD_NONBLOCK), b = eventfd(0, EFD_NONBLOCK);

	assert_int_equal(assign(a, 0x2000, 2, 0, 0), 0);
	assert_int_equal(assign(b, 0x2000, 2, KVM_IOEVENTFD_FLAG_DATAMATCH, 5), -EEXIST);
	assert_int_equal(assign(b, 0x2000, 0, 0, 0), -EEXIST);
	assert_int_equal(assign(b, 0x2000, 4, 0, 0), 0);
	close(a);
	close(b);
}

static void wrong_arguments_are_refused(void **state)
{
	int fd = eventfd(0, EFD_NONBLOCK);

	assert_int_equal(assign(fd, 0x2000, 3, 0, 0), -EINVAL);
	assert_int_equal(assign(fd, 0x2000, 16, 0, 0), -EINVAL);
	assert_int_equal(assign(fd, ~0ULL - 1, 4, 0, 0), -EINVAL);
	assert_int_equal(assign(fd, 0x2000, 4, 1 << 5, 0), -EINVAL);
	assert_int_equal(assign(fd, 0x2000, 0, KVM_IOEVENTFD_FLAG_DATAMATCH, 1), -EINVAL);
	assert_int_equal(assign(9999, 0x2000, 4, 0, 0), -EBADF);
	assert_int_equal(assign(0, 0x2000, 4, 0, 0), -EINVAL);
	assert_int_equal(assign(fd, 0x2000, 4, KVM_IOEVENTFD_FLAG_DEASSIGN, 0), -ENOENT);
	close(fd);
}

static void deassignment_needs_the_same_description(void **state)
{
	int fd = eventfd(0, EFD_NONBLOCK), same = dup(fd);
	uint32_t match = KVM_IOEVENTFD_FLAG_DATAMATCH, de = KVM_IOEVENTFD_FLAG_DEASSIGN;

	assert_int_equal(assign(fd, 0x2000, 2, match, 9), 0);
	assert_int_equal(assign(fd, 0x2000, 2, match | de, 8), -ENOENT);
	assert_int_equal(assign(fd, 0x2000, 2, de, 9), -ENOENT);
	assert_int_equal(assign(same, 0x2000, 2, match | de, 9), 0);
	assert_int_equal(poke(KVM_MMIO_BUS, 0x2000, 2, 9), -EOPNOTSUPP);
	close(fd);
	close(same);
}

static void eventfd_lives_on_after_the_client_closed_its_descriptor(void **state)
{
	int fd = eventfd(0, EFD_NONBLOCK), other = dup(fd);

	assert_int_equal(assign(fd, 0x2000, 4, 0, 0), 0);
	close(fd);
	assert_int_equal(poke(KVM_MMIO_BUS, 0x2000, 4, 9), 0);
	assert_int_equal(ticks(other), 1);
	close(other);
}

/* write(2) would wait for a reader: the vCPU, and a signal with it. */
static void a_full_counter_does_not_hold_the_vcpu_up(void **state)
{
	uint64_t almost = UINT64_MAX - 2;
	int fd = eventfd(0, 0);

	assert_int_equal(write(fd, &almost, 8), 8);
	assert_int_equal(assign(fd, 0x2000, 4, 0, 0), 0);
	alarm(10);
	for (int i = 0; i < 3; i++)
		assert_int_equal(poke(KVM_MMIO_BUS, 0x2000, 4, 9), 0);
	alarm(0);
	assert_int_equal(ticks(fd), UINT64_MAX - 1);
	assert_int_equal(poke(KVM_MMIO_BUS, 0x2000, 4, 9), 0);
	assert_int_equal(ticks(fd), 1);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, fix_stop)
		T(only_the_matching_datum_ticks),
		T(pio_and_mmio_are_separate),
		T(length_zero_takes_any_length_and_the_fast_bus),
		T(collisions_are_refused),
		T(wrong_arguments_are_refused),
		T(deassignment_needs_the_same_description),
		T(eventfd_lives_on_after_the_client_closed_its_descriptor),
		T(a_full_counter_does_not_hold_the_vcpu_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
