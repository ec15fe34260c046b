/*
 * Asynchronous page faults: what ends or moves while one is under way.
 */
#include "async_pf.h"
#include "filter.h"
#include "state.h"

static void disabled_meanwhile_nothing_is_told_any_more(void **state)
{
	struct kvm_regs r;
	struct client c;

	OPEN_OR_SKIP();
	START(&c, touch, 3, TOUCH_BYTES, EN);
	assert_int_equal(client_next_out(&c), 0x50);
	client_set_msr(&c, MSR_EN, 0);
	bring(wanted_page());
	assert_int_equal(client_next_out(&c), 0x51);
	x2apic_msi(&c, OTHER_VECTOR); /* what is to come has come */
	assert_int_equal(client_next_out(&c), 0x53);
	r = client_regs(&c);
	assert_int_equal(r.r12, 1); /* the broadcast */
	assert_int_equal(guest32(&c, AT_APF + 4), 0);
	client_set_msr(&c, MSR_EN, AT_APF | EN);
	x2apic_msi(&c, OTHER_VECTOR);
	assert_int_equal(client_next_out(&c), 0x53);
	x2apic_msi(&c, OTHER_VECTOR);
	assert_int_equal(client_next_out(&c), 0x53);
	r = client_regs(&c);
	assert_int_equal(r.r12, 2); /* another broadcast, no token of before */
	assert_int_equal(r.r13, BROADCAST);
	client_close(&c);
	close_data();
}

static void a_slot_may_go_meanwhile(void **state)
{
	struct client c;

	OPEN_OR_SKIP();
	START(&c, touch, 3, 0, EN);
	assert_int_equal(client_next_out(&c), 0x50);
	client_slot(&c, 1, 0, DATA_GPA, data, 0);
	bring(wanted_page());
	assert_run_exits(&c, KVM_EXIT_MMIO); /* told that it is there, the guest tries again */
	assert_int_equal(c.run->mmio.phys_addr, DATA_GPA);
	assert_int_equal(client_regs(&c).r13, client_regs(&c).r8);
	client_close(&c);
	close_data();
}

static void a_vm_may_go_meanwhile(void **state)
{
	struct client c;
	uint64_t page = 0;

	/* brought before the VM goes, after, never */
	for (int n = 0; n < 3 * (THREADS + 4); n++) {
		OPEN_OR_SKIP();
		START(&c, touch, 3, 0, EN);
		assert_int_equal(client_next_out(&c), 0x50);
		page = wanted_page();
		if (n % 3 == 0)
			bring(page);
		client_close(&c);
		if (n % 3 == 1)
			bring(page);
		close_data();
	}
}

static void a_mapping_may_go_meanwhile(void **state)
{
	struct uffdio_range range;
	struct client c;

	OPEN_OR_SKIP();
	START(&c, touch, 3, 0, EN);
	assert_int_equal(client_next_out(&c), 0x50);
	range = (struct uffdio_range){.start = wanted_page(), .len = PAGE};
	assert_int_equal(munmap(data, PAGE), 0);
	assert_int_equal(ioctl(uffd, UFFDIO_WAKE, &range), 0); /* whoever waits finds nothing there */
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EFAULT); /* the guest tries again, as after any page */
	assert_int_equal(client_regs(&c).r13, client_regs(&c).r8);
	client_close(&c);
	close_data();
}

static void run_one_guest(void)
{
	struct client c;

	assert_true(open_data());
	START(&c, touch, 3, 0, EN);
	assert_int_equal(client_next_out(&c), 0x50);
	bring(wanted_page());
	assert_int_equal(client_next_out(&c), 0x51);
	client_close(&c);
	close_data();
}

static void a_forked_child_has_its_own(void **state)
{
	struct client c;
	int status;
	pid_t child;

	OPEN_OR_SKIP();
	START(&c, touch, 3, 0, EN);
	assert_int_equal(client_next_out(&c), 0x50);
	child = fork();
	if (child == 0) {
		alarm(DEADLOCK_S);
		run_one_guest();
		_exit(0);
	}
	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	bring(wanted_page());
	assert_int_equal(client_next_out(&c), 0x51);
	client_close(&c);
	close_data();
}

/* What KVM_RUN needs (docs/ci.md), and what this client needs to bring a page. */
static void confine(void)
{
	struct sock_filter rules[] = {
		FILTER_NUMBER,
		ALLOW(futex), ALLOW(mincore), ALLOW(mmap), ALLOW(munmap), ALLOW(madvise), ALLOW(membarrier),
		ALLOW(rt_sigprocmask), ALLOW(rt_sigreturn), ALLOW(exit_group), ALLOW(poll), ALLOW(read), ALLOW(ioctl),
		FILTER_EFFECT(SECCOMP_RET_KILL_PROCESS),
	};

	assert_int_equal(FILTER_SET(rules, 0), 0);
}

static void run_confined_guest(void)
{
	struct kvm_regs r;
	struct client c;

	assert_true(open_data());
	START(&c, touch_all, 3, 0, EN);
	r = client_regs(&c);
	r.rdi = 2;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(client_next_out(&c), 0x50); /* mappings have been looked at */
	bring(wanted_page());
	confine();
	assert_int_equal(client_next_out(&c), 0x50);
	bring(wanted_page());
	assert_int_equal(client_next_out(&c), 0x51);
	_exit(0);
}

static void a_confined_client_needs_mincore_and_no_more(void **state)
{
	int status;
	pid_t child;

	if (getenv("SANITIZE"))
		skip(); /* its runtime makes system calls of its own */
	OPEN_OR_SKIP();
	close_data();
	child = fork();
	if (child == 0)
		run_confined_guest();
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static void init_turns_it_off(void **state)
{
	uint8_t *top = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct client c;

	assert_true(top != MAP_FAILED);
	memcpy(top + 0xff0, "\xe6\x94\xf4", 3); /* out 94h, al; hlt */
	OPEN_OR_SKIP();
	START(&c, touch, 3, 0, EN);
	client_slot(&c, 2, 0, 0xfffff000, top, PAGE);
	assert_int_equal(client_next_out(&c), 0x50);
	x2apic_msi(&c, 0x4500); /* INIT: the boot processor begins again */
	assert_int_equal(client_next_out(&c), 0x94);
	assert_int_equal(client_msr(&c, MSR_EN), 0);
	assert_int_equal(client_msr(&c, MSR_INT), 0);
	bring(wanted_page());
	client_close(&c);
	close_data();
	munmap(top, PAGE);
}

/* What was missing in one VM is none of the other's business: it tells the guest to try everything again. */
static void moved_to_another_vm_the_guest_tries_again(void **state)
{
	static struct vm_state s;
	struct client c, d;

	OPEN_OR_SKIP();
	START(&c, twice, 3, TOUCH_BYTES, EN);
	assert_int_equal(client_next_out(&c), 0x50);
	c.run->immediate_exit = 1; /* the OUT is over */
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	state_save(&c, &s);
	open_vm(&d);
	memcpy(d.mem, c.mem, c.mem_size);
	client_all_cpuid(&d);
	state_restore(&d, &s);
	client_close(&c);
	bring(wanted_page());
	assert_int_equal(client_msr(&d, MSR_EN), AT_APF | EN);
	assert_int_equal(client_next_out(&d), 0x51);
	x2apic_msi(&d, OTHER_VECTOR);
	assert_int_equal(client_next_out(&d), 0x53);
	assert_int_equal(client_regs(&d).r12, 2);
	assert_int_equal(client_regs(&d).r13, BROADCAST);
	client_close(&d);
	close_data();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(disabled_meanwhile_nothing_is_told_any_more),
		cmocka_unit_test(a_slot_may_go_meanwhile),
		cmocka_unit_test(a_vm_may_go_meanwhile),
		cmocka_unit_test(a_mapping_may_go_meanwhile),
		cmocka_unit_test(a_forked_child_has_its_own),
		cmocka_unit_test(a_confined_client_needs_mincore_and_no_more),
		cmocka_unit_test(init_turns_it_off),
		cmocka_unit_test(moved_to_another_vm_the_guest_tries_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
