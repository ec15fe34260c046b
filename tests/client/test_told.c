/*
 * What a client's author is told on standard error though logging is off: a
 * refused memory region, and a run that ends in KVM_EXIT_INTERNAL_ERROR.
 */
#include "client.h"

/* Standard error of what `fn` does: a pipe stands in place of descriptor 2. */
static const char *said(void (*fn)(struct client *), struct client *c)
{
	static char buf[8192];
	int saved = dup(STDERR_FILENO), p[2];
	ssize_t n;

	assert_int_equal(pipe(p), 0);
	dup2(p[1], STDERR_FILENO);
	close(p[1]);
	fn(c);
	dup2(saved, STDERR_FILENO);
	close(saved);
	n = read(p[0], buf, sizeof(buf) - 1);
	close(p[0]);
	buf[n > 0 ? n : 0] = 0;
	return buf;
}

static void overlapping_slot(struct client *c)
{
	struct kvm_userspace_memory_region r = {
		.slot = 1, .guest_phys_addr = 0x1000, .memory_size = 0x1000, .userspace_addr = (uintptr_t)c->mem,
	};

	assert_int_equal(ioctl(c->vm, KVM_SET_USER_MEMORY_REGION, &r), -1);
	assert_int_equal(errno, EEXIST);
}

static void run(struct client *c)
{
	assert_int_equal(ioctl(c->vcpu, KVM_RUN, 0), 0);
	assert_int_equal(c->run->exit_reason, KVM_EXIT_INTERNAL_ERROR);
}

static void refused_memory_region_says_why(void **state)
{
	struct client c;
	const char *text;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	text = said(overlapping_slot, &c);
	assert_non_null(strstr(text, "memory region: slot 0x1 overlaps another: File exists\n"));
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
	client_close(&c);
}

static void internal_error_says_where(void **state)
{
	struct client c;
	const char *text;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, "\xb8\0\0\0\x40\xff\xe0", 7); /* mov $0x40000000, %eax; jmp *%eax: nothing is there */
	text = said(run, &c);
	assert_non_null(strstr(text, "KVM_EXIT_INTERNAL_ERROR: vCPU 0"));
	assert_non_null(strstr(text, "rip 0x40000000"));
	client_close(&c);
}

static void overlap_often(struct client *c)
{
	for (int i = 0; i < 100; i++)
		overlapping_slot(c);
}

static void one_that_tries_on_purpose_is_not_drowned(void **state)
{
	struct client c;
	const char *text;
	int lines = 0;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	text = said(overlap_often, &c);
	for (const char *p = text; (p = strchr(p, '\n')); p++)
		lines++;
	assert_in_range(lines, 1, 17);
	assert_non_null(strstr(text, "USERKVM_LOG=errors"));
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refused_memory_region_says_why),
		cmocka_unit_test(internal_error_says_where),
		cmocka_unit_test(one_that_tries_on_purpose_is_not_drowned),
	};

	if (!getenv("LD_PRELOAD"))
		return 77; /* a kernel's KVM tells nothing */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
