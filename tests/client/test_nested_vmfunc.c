/*
 * VMFUNC of an L2: EPTP switching goes on without L1, with another of the EPTPs in L1's list; whatever is wrong is
 * L1's exit 59.
 */
#include "nested_ept.h"

#define AT_LIST AT_MSR_AREA
#define AT_EPT2 0x58000 /* four tables, as AT_EPT */
#define EPTP(at) ((at) | 3u << 3 | 6)

/* mov rbx, [0x60000]; vmfunc; mov rsi, [0x60000]; cpuid */
static const char read_switch_read[] = "\x48\x8b\x1c\x25\x00\x00\x06\x00\x0f\x01\xd4\x48\x8b\x34\x25\x00\x00\x06\x00\x0f\xa2";

static uint64_t *list(struct client *c)
{
	return (uint64_t *)(c->mem + AT_LIST);
}

/* L2's page 60000h is L1's 60000h by the first EPTP and 70000h by the second, which are 0 and 1 of the list. */
static bool open_vmfunc(struct client *c)
{
	if (!nested_open_ept(c))
		return false;
	if (!(client_msr(c, MSR_VMX(11)) >> 32 & 1u << 13)) {
		assert_false(on_userkvm());
		client_close(c);
		return false;
	}
	memcpy(c->mem + AT_EPT2, c->mem + AT_EPT, 0x4000);
	for (unsigned i = 0; i < 3; i++)
		*(uint64_t *)(c->mem + AT_EPT2 + i * 0x1000) += AT_EPT2 - AT_EPT;
	((uint64_t *)(c->mem + AT_EPT2 + 0x3000))[0x60] = 0x70000 | EPT_ALL | EPT_WB;
	*(uint64_t *)(c->mem + 0x60000) = 11;
	*(uint64_t *)(c->mem + 0x70000) = 22;
	memset(list(c), 0, 0x1000);
	list(c)[0] = EPTP(AT_EPT);
	list(c)[1] = list(c)[511] = EPTP(AT_EPT2);
	nested_set_bits(c, SECONDARY, 1u << 13);
	nested_vmwrite(c, VM_FUNCTION_CONTROL, 1);
	nested_vmwrite(c, EPTP_LIST_ADDRESS, AT_LIST);
	nested_l2_code(c, read_switch_read, sizeof(read_switch_read) - 1);
	return true;
}

/* L2 runs with that function and index; the exit reason. */
static uint64_t run(struct client *c, enum snippet how, uint64_t function, uint64_t index)
{
	struct kvm_regs r = {.rip = AT_CODE + 32 * (uint64_t)how, .rsp = 0x8000, .rflags = 2, .rax = function, .rcx = index};

	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(nested_run(c).port, PORT_EXIT);
	return nested_vmread(c, VM_EXIT_REASON);
}

NESTED_TEST(l2_goes_on_with_another_eptp_of_the_list, open_vmfunc)
{
	assert_int_equal(client_msr(c, MSR_VMX(17)), 1);
	assert_int_equal(run(c, VMLAUNCH, 0, 1), EXIT_REASON_CPUID);
	assert_int_equal(nested_at_exit.rbx, 11);
	assert_int_equal(nested_at_exit.rsi, 22);
	assert_int_equal(nested_vmread(c, EPT_POINTER), EPTP(AT_EPT2));
	assert_int_equal(nested_vmread(c, GUEST_RIP), AT_L2 + 19);
	/* and back; upper halves of the registers say nothing */
	assert_int_equal(run(c, VMRESUME, 1ull << 32, 7ull << 32), EXIT_REASON_CPUID);
	assert_int_equal(nested_at_exit.rbx, 22);
	assert_int_equal(nested_at_exit.rsi, 11);
	assert_int_equal(nested_vmread(c, EPT_POINTER), EPTP(AT_EPT));
	/* the last one, and the one that is in use */
	assert_int_equal(run(c, VMRESUME, 0, 511), EXIT_REASON_CPUID);
	assert_int_equal(nested_at_exit.rsi, 22);
	assert_int_equal(run(c, VMRESUME, 0, 1), EXIT_REASON_CPUID);
	assert_int_equal(nested_at_exit.rbx, 22);
	assert_int_equal(nested_at_exit.rsi, 22);
}

/* With VPIDs the processor keeps what it has of each EPTP. */
NESTED_TEST(a_hundred_switches_with_vpid, open_vmfunc)
{
	nested_set_bits(c, SECONDARY, 1u << 5);
	nested_vmwrite(c, VIRTUAL_PROCESSOR_ID, 7);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(run(c, i ? VMRESUME : VMLAUNCH, 0, i & 1), EXIT_REASON_CPUID);
		assert_int_equal(nested_at_exit.rsi, i & 1 ? 22 : 11);
	}
	/* L1 changes the table that is not in use */
	nested_do(c, STORE, AT_EPT + 0x3000 + 0x60 * 8, 0x71000 | EPT_ALL | EPT_WB);
	*nested_operand(c) = EPTP(AT_EPT);
	assert_succeeds(nested_do(c, INVEPT, 1, AT_TEST));
	*(uint64_t *)(c->mem + 0x71000) = 33;
	assert_int_equal(run(c, VMRESUME, 0, 0), EXIT_REASON_CPUID);
	assert_int_equal(nested_at_exit.rsi, 33);
}

static uint64_t l2_memory_refused(struct client *c)
{
	assert_int_equal(nested_vmread(c, GUEST_RIP), AT_L2 + 8);
	assert_int_equal(nested_vmread(c, VM_EXIT_INSTRUCTION_LEN), 3);
	assert_int_equal(nested_vmread(c, EXIT_QUALIFICATION), 0);
	return nested_vmread(c, EPT_POINTER);
}

NESTED_TEST(what_is_wrong_is_l1s_exit, open_vmfunc)
{
	static const uint64_t bad_eptps[] = {0, EPTP(AT_EPT2) | 0x80, AT_EPT2 | 3u << 3 | 1, AT_EPT2 | 2u << 3 | 6, EPTP(1ull << 60)};

	assert_int_equal(run(c, VMLAUNCH, 0, 512), EXIT_REASON_VMFUNC);
	assert_int_equal(l2_memory_refused(c), EPTP(AT_EPT));
	assert_int_equal(run(c, VMRESUME, 0, ~0u), EXIT_REASON_VMFUNC);
	assert_int_equal(run(c, VMRESUME, 1, 1), EXIT_REASON_VMFUNC); /* a function that is not enabled */
	assert_int_equal(run(c, VMRESUME, 63, 1), EXIT_REASON_VMFUNC);
	for (size_t i = 0; i < sizeof(bad_eptps) / sizeof(*bad_eptps); i++) {
		list(c)[1] = bad_eptps[i];
		assert_int_equal(run(c, VMRESUME, 0, 1), EXIT_REASON_VMFUNC);
		assert_int_equal(l2_memory_refused(c), EPTP(AT_EPT));
	}
	list(c)[1] = EPTP(AT_EPT2);
	nested_vmwrite(c, EPTP_LIST_ADDRESS, 0x8000000); /* no memory */
	assert_int_equal(run(c, VMRESUME, 0, 1), EXIT_REASON_VMFUNC);
	nested_vmwrite(c, EPTP_LIST_ADDRESS, AT_LIST);
	nested_vmwrite(c, VM_FUNCTION_CONTROL, 0);
	assert_int_equal(run(c, VMRESUME, 0, 1), EXIT_REASON_VMFUNC);
	nested_vmwrite(c, VM_FUNCTION_CONTROL, 1);
	assert_int_equal(run(c, VMRESUME, 0, 1), EXIT_REASON_CPUID);
}

NESTED_TEST(a_number_above_63_and_the_control_off_are_l2s_ud, open_vmfunc)
{
	nested_vmwrite(c, EXCEPTION_BITMAP, 1u << 6);
	assert_int_equal(run(c, VMLAUNCH, 64, 1), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(nested_vmread(c, VM_EXIT_INTR_INFO) & 0xff, 6);
	nested_vmwrite(c, SECONDARY, nested_vmread(c, SECONDARY) & ~(1ull << 13));
	assert_int_equal(run(c, VMRESUME, 0, 1), EXIT_REASON_EXCEPTION_NMI);
}

NESTED_TEST(the_controls_fields_are_checked, open_vmfunc)
{
	nested_vmwrite(c, VM_FUNCTION_CONTROL, 3);
	assert_vmfail(c, nested_do(c, VMLAUNCH, 0, 0), 7);
	nested_vmwrite(c, VM_FUNCTION_CONTROL, 1);
	nested_vmwrite(c, EPTP_LIST_ADDRESS, AT_LIST + 8);
	assert_vmfail(c, nested_do(c, VMLAUNCH, 0, 0), 7);
	nested_vmwrite(c, EPTP_LIST_ADDRESS, 1ull << 60);
	assert_vmfail(c, nested_do(c, VMLAUNCH, 0, 0), 7);
	nested_vmwrite(c, EPTP_LIST_ADDRESS, AT_LIST);
	nested_vmwrite(c, SECONDARY, nested_vmread(c, SECONDARY) & ~2ull);
	assert_vmfail(c, nested_do(c, VMLAUNCH, 0, 0), 7);
	nested_vmwrite(c, VM_FUNCTION_CONTROL, 0);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_VMFUNC); /* without EPT there is no function */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(l2_goes_on_with_another_eptp_of_the_list),
		cmocka_unit_test(a_hundred_switches_with_vpid),
		cmocka_unit_test(what_is_wrong_is_l1s_exit),
		cmocka_unit_test(a_number_above_63_and_the_control_off_are_l2s_ud),
		cmocka_unit_test(the_controls_fields_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
