/*
 * Errors on demand (USERKVM_INJECT), and that a call which fails so has had no
 * effect. The test sets the variable itself, before it first opens /dev/kvm.
 */
#include "client.h"

#define RULES "KVM_CREATE_VCPU=ENOMEM@2,KVM_RUN=EINTR%3,KVM_SET_TSS_ADDR=EFAULT@2+,KVM_GET_VCPU_EVENTS=EBUSY," \
	      "KVM_GET_CLOCK=EINVAL@99,"
/* 27 more are all that there is room for; the name of no request takes none. */
#define FILL3 "KVM_GET_CLOCK=EINVAL@99,KVM_GET_CLOCK=EINVAL@99,KVM_GET_CLOCK=EINVAL@99,"
#define FILL9 FILL3 FILL3 FILL3
#define TOO_MANY RULES "KVM_NO_SUCH=EIO," FILL9 FILL9 FILL9 "KVM_GET_API_VERSION=EIO"

static struct client c;

static int setup(void **state)
{
	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	return 0;
}

static void nth_call_fails_once(void **state)
{
	int other;

	assert_int_equal(ioctl(c.vm, KVM_CREATE_VCPU, 1), -1);
	assert_int_equal(errno, ENOMEM);
	other = ioctl(c.vm, KVM_CREATE_VCPU, 1); /* the id was not used up */
	assert_true(other >= 0);
	close(other);
}

static void from_the_nth_call_on_all_fail(void **state)
{
	assert_int_equal(ioctl(c.vm, KVM_SET_TSS_ADDR, 0x100000), 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(ioctl(c.vm, KVM_SET_TSS_ADDR, 0x100000), -1);
		assert_int_equal(errno, EFAULT);
	}
}

static void each_nth_run_is_interrupted_before_it_began(void **state)
{
	int interrupted = 0, outs = 0;

	client_real_mode(&c, 0x1000, "\xe6\x42\xeb\xfc", 4); /* 1: out %al, $0x42; jmp 1b */
	for (int i = 0; i < 30; i++) {
		if (ioctl(c.vcpu, KVM_RUN, 0) == 0) {
			assert_int_equal(c.run->exit_reason, KVM_EXIT_IO);
			outs++;
			continue;
		}
		assert_int_equal(errno, EINTR);
		assert_int_equal(c.run->exit_reason, KVM_EXIT_INTR);
		interrupted++;
	}
	assert_int_equal(interrupted, 10);
	assert_int_equal(outs, 20);
}

static void a_rule_beyond_the_last_is_none(void **state)
{
	assert_int_equal(ioctl(c.kvm, KVM_GET_API_VERSION, 0), 12);
}

static void without_a_number_each_call_fails(void **state)
{
	struct kvm_vcpu_events events;

	for (int i = 0; i < 3; i++) {
		assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &events), -1);
		assert_int_equal(errno, EBUSY);
	}
}

static void what_no_rule_names_works(void **state)
{
	struct kvm_clock_data clock;

	assert_int_equal(ioctl(c.vm, KVM_GET_CLOCK, &clock), 0);
	assert_true(client_regs(&c).rflags & 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nth_call_fails_once),
		cmocka_unit_test(from_the_nth_call_on_all_fail),
		cmocka_unit_test(each_nth_run_is_interrupted_before_it_began),
		cmocka_unit_test(without_a_number_each_call_fails),
		cmocka_unit_test(a_rule_beyond_the_last_is_none),
		cmocka_unit_test(what_no_rule_names_works),
	};

	if (!getenv("LD_PRELOAD"))
		return 77; /* a kernel's KVM knows of no rules */
	setenv("USERKVM_INJECT", TOO_MANY, 1);
	return cmocka_run_group_tests(tests, setup, NULL);
}
