/*
 * L1's VMX-preemption timer (SDM "VMX-Preemption Timer").
 */
#include "nested_saved.h"

#define TIMER (1u << 6)
#define SAVE_TIMER (1u << 22)
#define RATE 5

static void set_timer(struct client *c, uint32_t ticks)
{
	nested_set_bits(c, PIN_BASED_VM_EXEC_CONTROL, TIMER);
	nested_vmwrite(c, VMX_PREEMPTION_TIMER_VALUE, ticks);
}

static uint32_t ticks_of_ms(struct client *c, unsigned ms)
{
	return (uint32_t)((uint64_t)ioctl(c->vcpu, KVM_GET_TSC_KHZ, 0) * ms >> RATE);
}

NESTED_TEST(the_capability_names_timer_and_rate, nested_open)
{
	assert_true(client_msr(c, MSR_VMX(13)) >> 32 & TIMER);
	assert_true(client_msr(c, MSR_VMX(15)) >> 32 & SAVE_TIMER);
	assert_int_equal(client_msr(c, MSR_VMX(5)) & 31, RATE);
}

NESTED_TEST(zero_is_an_exit_before_the_first_instruction, nested_open_l2)
{
	nested_l2_code(c, "\x0f\xa2", 2);
	set_timer(c, 0);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_PREEMPTION_TIMER);
	assert_int_equal(nested_vmread(c, GUEST_RIP), AT_L2);
}

/* An event that L1 injects with it is delivered, and no instruction of the handler runs. */
NESTED_TEST(zero_comes_behind_an_injected_event, nested_open_l2)
{
	nested_l2_code(c, "\x0f\xa2", 2);
	nested_vmwrite(c, VM_ENTRY_INTR_INFO_FIELD, 1u << 31 | 3u << 8 | 6);
	set_timer(c, 0);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_PREEMPTION_TIMER);
	assert_int_not_equal(nested_vmread(c, GUEST_RIP), AT_L2);
	assert_int_equal(nested_vmread(c, IDT_VECTORING_INFO_FIELD) >> 31, 0);
}

NESTED_TEST(a_loop_ends_when_the_time_is_over, nested_open_l2)
{
	nested_l2_code(c, "\xeb\xfe", 2);
	set_timer(c, ticks_of_ms(c, 5));
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_PREEMPTION_TIMER);
	assert_int_equal(nested_vmread(c, GUEST_RIP), AT_L2);
	/* not saved: the next entry has all of it again */
	assert_int_equal(nested_vmread(c, VMX_PREEMPTION_TIMER_VALUE), ticks_of_ms(c, 5));
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_PREEMPTION_TIMER);
}

NESTED_TEST(what_is_left_is_saved_where_l1_asks, nested_open_l2)
{
	uint32_t all = ticks_of_ms(c, 60000), left;

	nested_l2_code(c, "\x0f\xa2", 2);
	set_timer(c, all);
	nested_set_bits(c, VM_EXIT_CONTROLS, SAVE_TIMER);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	left = (uint32_t)nested_vmread(c, VMX_PREEMPTION_TIMER_VALUE);
	assert_true(left < all && left > all / 2);
	nested_l2_code(c, "\xeb\xfe", 2);
	nested_vmwrite(c, VMX_PREEMPTION_TIMER_VALUE, ticks_of_ms(c, 1));
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_PREEMPTION_TIMER);
	assert_int_equal(nested_vmread(c, VMX_PREEMPTION_TIMER_VALUE), 0);
}

/* With a local APIC KVM_RUN halts by itself. */
static bool open_l2_irqchip(struct client *c)
{
	bool r;

	nested_irqchip = true;
	r = nested_open_l2(c);
	nested_irqchip = false;
	return r;
}

NESTED_TEST(it_wakes_an_l2_that_halts, open_l2_irqchip)
{
	nested_vmwrite(c, GUEST_ACTIVITY_STATE, 1);
	set_timer(c, ticks_of_ms(c, 2));
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_PREEMPTION_TIMER);
	assert_int_equal(nested_vmread(c, GUEST_ACTIVITY_STATE), 1);
}

/* Saved and set again, L2 has what was left, not all. */
NESTED_TEST(the_deadline_is_part_of_the_state, nested_open_l2)
{
	struct nested_image s;
	uint64_t deadline;

	nested_l2_code(c, "\xe6\x55\xeb\xfe", 4);
	nested_vmwrite(c, CPU_BASED_VM_EXEC_CONTROL, nested_vmread(c, CPU_BASED_VM_EXEC_CONTROL) & ~(3ULL << 24));
	set_timer(c, ticks_of_ms(c, 60000));
	assert_int_equal(nested_do(c, VMLAUNCH, 0, 0).port, 0x55);
	nested_out_is_over(c);
	nested_get_state(c, &s);
	assert_int_equal(s.head.hdr.vmx.flags, KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE);
	deadline = s.head.hdr.vmx.preemption_timer_deadline;
	assert_int_not_equal(deadline, 0);
	s.head.hdr.vmx.preemption_timer_deadline -= ticks_of_ms(c, 59500);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_NESTED_STATE, &s), 0);
	assert_int_equal(nested_run(c).port, PORT_EXIT);
	assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_PREEMPTION_TIMER);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_capability_names_timer_and_rate),
		cmocka_unit_test(zero_is_an_exit_before_the_first_instruction),
		cmocka_unit_test(zero_comes_behind_an_injected_event),
		cmocka_unit_test(a_loop_ends_when_the_time_is_over),
		cmocka_unit_test(what_is_left_is_saved_where_l1_asks),
		cmocka_unit_test(it_wakes_an_l2_that_halts),
		cmocka_unit_test(the_deadline_is_part_of_the_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
