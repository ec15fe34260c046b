/*
 * nx_huge_pages: what is run is mapped by 4 KiB pages, and becomes huge again
 * when it is not run any more. The variants say in USERKVM_PARAMS whether the
 * workaround is deployed; by default it is not.
 */
#include <linux/capability.h>
#include <sys/syscall.h>
#include <time.h>

#include "guest_code.h"
#include "stats.h"

#define CODE_GPA 0x400000
#define HUGE 0x200000
#define RET 0xc3

static struct client c;
static struct stats s;
static uint8_t *pages;

/* Read two huge pages, run the first, run a third, read the first and the third. */
GUEST_CODE(visit, 32, "mov 0x400000, %eax\n"
		      "mov 0x600000, %eax\n"
		      "out %al, $0x42\n"
		      "mov $0x400000, %ebx\n"
		      "call *%ebx\n"
		      "out %al, $0x42\n"
		      "mov $0x800000, %ebx\n"
		      "call *%ebx\n"
		      "mov 0x400000, %eax\n"
		      "out %al, $0x42\n"
		      "mov 0x400000, %eax\n"
		      "mov 0x800000, %eax\n"
		      "out %al, $0x42\n"
		      "1: jmp 1b");

static bool deployed(void)
{
	const char *params = getenv("USERKVM_PARAMS");

	return params && strstr(params, "nx_huge_pages=force");
}

static int disable(uint64_t arg)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, .args = {arg}};

	return ioctl(c.vm, KVM_ENABLE_CAP, &cap);
}

static bool may_reboot(void)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[_LINUX_CAPABILITY_U32S_3];
	char ns[64] = "";

	assert_int_equal(syscall(SYS_capget, &h, d), 0);
	return d[0].effective & 1u << CAP_SYS_BOOT && readlink("/proc/self/ns/user", ns, sizeof(ns) - 1) > 0 &&
	       !strcmp(ns, "user:[4026531837]");
}

static void run_to(unsigned huge, unsigned splits)
{
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(value(&s, "pages_2m"), huge);
	assert_int_equal(value(&s, "nx_lpage_splits"), splits);
}

static void open_guest(bool disabled)
{
	client_open_vm(&c, 1 << 20);
	if (disabled)
		assert_int_equal(disable(0), 0);
	client_add_vcpu(&c);
	open_stats(&s, c.vm);
	pages = mmap((void *)0x200000000000, 3 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(pages != MAP_FAILED && (uintptr_t)pages % HUGE == 0);
	for (unsigned i = 0; i < 3; i++)
		pages[i * HUGE] = RET;
	client_slot(&c, 1, 0, CODE_GPA, pages, 3 * HUGE);
	client_flat_mode(&c, 0x1000, visit, GUEST_CODE_SIZE(visit));
}

static void close_guest(void)
{
	close_stats(&s);
	munmap(pages, 3 * HUGE);
	client_close(&c);
}

static void run_pages_are_split_and_recovered(void **state)
{
	bool on = deployed();
	time_t end = time(NULL) + 60;

	open_guest(false);
	run_to(2, 0);
	run_to(on ? 1 : 2, on ? 1 : 0);
	run_to(on ? 1 : 3, on ? 2 : 0);
	while (value(&s, "nx_lpage_splits")) {
		assert_true(time(NULL) < end);
		usleep(1000);
	}
	run_to(3, 0);
	/* And again, after the recovery. */
	if (on) {
		struct kvm_regs r = client_regs(&c);

		r.rip = 0x1000;
		assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
		run_to(3, 0);
		run_to(2, 1);
	}
	close_guest();
}

static void a_vm_may_do_without(void **state)
{
	if (!may_reboot())
		skip();
	open_guest(true);
	run_to(2, 0);
	run_to(2, 0);
	run_to(3, 0);
	run_to(3, 0);
	close_guest();
}

static void wrong_requests_have_kvms_errors(void **state)
{
	client_open_vm(&c, 1 << 20);
	assert_int_equal(ioctl(c.vm, KVM_CHECK_EXTENSION, KVM_CAP_VM_DISABLE_NX_HUGE_PAGES), 1);
	if (may_reboot()) {
		assert_fails(disable(1), EINVAL);
		client_add_vcpu(&c);
		assert_fails(disable(0), EINVAL);
	} else {
		assert_fails(disable(0), EPERM);
		assert_fails(disable(1), EPERM);
	}
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(run_pages_are_split_and_recovered),
		cmocka_unit_test(a_vm_may_do_without),
		cmocka_unit_test(wrong_requests_have_kvms_errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
