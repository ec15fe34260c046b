/*
 * KVM_GET_STATS_FD as a client reads it: the layout, the kinds, and counters
 * that move with what the guest does, while the descriptor stays open.
 */
#include "stats.h"

#include <stdio.h>

static void id_names_the_process_and_the_vcpu(void **state)
{
	char id[64] = "", want[64];
	struct client c;
	struct stats s;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	open_stats(&s, c.vcpu);
	assert_true(s.h.name_size <= sizeof(id));
	assert_int_equal(pread(s.fd, id, s.h.name_size, s.h.id_offset), s.h.name_size);
	snprintf(want, sizeof(want), "kvm-%d/vcpu-0", (int)getpid());
	assert_string_equal(id, want);
	close_stats(&s);
	open_stats(&s, c.vm);
	assert_int_equal(pread(s.fd, id, s.h.name_size, s.h.id_offset), s.h.name_size);
	snprintf(want, sizeof(want), "kvm-%d", (int)getpid());
	assert_string_equal(id, want);
	close_stats(&s);
	client_close(&c);
}

static void counters_follow_the_guest_while_the_file_is_open(void **state)
{
	static const uint8_t code[] = {
		0xba, 0xf8, 0x03, /* mov dx, 3f8h */
		0xee,		  /* out dx, al */
		0xeb, 0xfd,	  /* jmp to the out */
	};
	uint64_t exits, io;
	struct client c;
	struct stats s, v;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	open_stats(&s, c.vcpu);
	open_stats(&v, c.vm);
	assert_int_equal(value(&s, "exits"), 0);
	assert_int_equal(value(&v, "pages_4k") + value(&v, "pages_2m"), 0);
	assert_int_equal(ioctl(c.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(c.run->exit_reason, KVM_EXIT_IO);
	exits = value(&s, "exits");
	io = value(&s, "io_exits");
	assert_int_equal(io, 1);
	assert_true(exits >= 1);
	for (int i = 0; i < 10; i++)
		assert_int_equal(ioctl(c.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(value(&s, "io_exits"), 11);
	assert_true(value(&s, "exits") >= exits + 10);
	assert_true(value(&v, "pages_4k") + value(&v, "pages_2m") + value(&v, "pages_1g") > 0);
	close_stats(&s);
	/* Opened again: the same counters, not new ones. */
	open_stats(&s, c.vcpu);
	assert_int_equal(value(&s, "io_exits"), 11);
	close_stats(&s);
	close_stats(&v);
	client_close(&c);
}

static void counters_are_for_reading(void **state)
{
	struct client c;
	struct stats s;
	uint64_t x = 1;

	client_open_vm(&c, 1 << 20);
	open_stats(&s, c.vm);
	assert_int_equal(write(s.fd, &x, 8), -1);
	assert_int_equal(errno, EBADF);
	close_stats(&s);
	client_close(&c);
}

static void capability_is_told_and_works(void **state)
{
	struct client c;

	client_open_vm(&c, 1 << 20);
	assert_int_equal(ioctl(c.vm, KVM_CHECK_EXTENSION, KVM_CAP_BINARY_STATS_FD), 1);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(id_names_the_process_and_the_vcpu),
		cmocka_unit_test(counters_follow_the_guest_while_the_file_is_open),
		cmocka_unit_test(counters_are_for_reading),
		cmocka_unit_test(capability_is_told_and_works),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
