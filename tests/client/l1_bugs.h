/*
 * Tests of USERKVM_CHECK=l1ept and l1vpid: hypervisors with one bug each, which is reported exactly once, and the
 * same without it, which is silent.
 */
#ifndef TESTS_L1_BUGS_H
#define TESTS_L1_BUGS_H

#include "nested_ept.h"
#include "said.h"

/* How many reports of `check` ("l1ept", "l1vpid") the text has. */
static inline unsigned l1_reports(const char *text, const char *check)
{
	char line[64];
	unsigned n = 0;

	snprintf(line, sizeof(line), "USERKVM_CHECK=%s: L2", check);
	while ((text = strstr(text, line))) {
		n++;
		text++;
	}
	return n;
}

/* The vCPU goes on to something else: it executes a HLT outside L2. */
static inline void l1_halts(struct client *o)
{
	struct kvm_regs r = {.rip = AT_L2 + 0x800, .rsp = 0x8000, .rflags = 2};

	o->mem[r.rip] = 0xf4;
	assert_int_equal(ioctl(o->vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(ioctl(o->vcpu, KVM_RUN, 0), 0);
	assert_int_equal(o->run->exit_reason, KVM_EXIT_HLT);
}

/* Reports of frames 1 to 2 are not asked for, then those of 2 to 3: run(1 or 0) makes a bug in the former and wants as many reports. */
static inline void l1_suppressed(void (*run)(unsigned want))
{
	setenv("USERKVM_CHECK_SUPPRESS", "1000-2000", 1);
	run(0);
	setenv("USERKVM_CHECK_SUPPRESS", "2000-3000", 1);
	run(1);
	unsetenv("USERKVM_CHECK_SUPPRESS");
}

/* A test and its twin, in which the bug is not made. */
#define BOTH(f) cmocka_unit_test(f), cmocka_unit_test(f##_flushed)

#define l1_bugs_main(check, tests) \
	(!getenv("LD_PRELOAD") ? 77 /* a kernel's KVM has no such check */ \
			       : (setenv("USERKVM_CHECK", check, 1), cmocka_run_group_tests(tests, NULL, NULL)))

#endif
