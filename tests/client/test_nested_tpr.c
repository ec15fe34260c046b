/*
 * The TPR shadow that L1 gives L2: four bytes of a page of L1's, which CR8 and the APIC-access page stand for.
 */
#include "nested_ept.h"
#include "nested_saved.h"

#define PRIMARY CPU_BASED_VM_EXEC_CONTROL
#define TPR_SHADOW (1u << 21)
#define CR8_EXITS (3u << 19)
#define AT_VAPIC 0x70000
#define AT_ACCESS 0x61000
#define NOWHERE 0x8000000

static uint32_t *vtpr(struct client *c)
{
	return (uint32_t *)(c->mem + AT_VAPIC + 0x80);
}

static bool open_tpr_on(struct client *c, bool irqchip)
{
	bool opened;

	nested_irqchip = irqchip;
	opened = nested_open_ept(c);
	nested_irqchip = false;
	if (!opened)
		return false;
	nested_vmwrite(c, PRIMARY, (nested_vmread(c, PRIMARY) & ~(uint64_t)CR8_EXITS) | TPR_SHADOW);
	nested_vmwrite(c, VIRTUAL_APIC_PAGE_ADDR, AT_VAPIC);
	*vtpr(c) = 0x50;
	return true;
}

static bool open_tpr(struct client *c)
{
	return open_tpr_on(c, true);
}

/* The client has CR8 of L1; an L2 with a shadow has its own all the same. (Linux 6.1 asks the client.) */
static bool open_tpr_without_apic(struct client *c)
{
	return on_userkvm() && open_tpr_on(c, false);
}

static uint64_t l1_tpr(struct client *c)
{
	struct kvm_sregs s;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	return s.cr8;
}

/* mov rbx, cr8; mov eax, 3; mov cr8, rax; cpuid */
#define READ_AND_WRITE "\x44\x0f\x20\xc3\xb8\x03\x00\x00\x00\x44\x0f\x22\xc0\x0f\xa2"

NESTED_TEST(cr8_of_l2_is_in_l1s_page, open_tpr)
{
	nested_l2_code(c, READ_AND_WRITE, sizeof(READ_AND_WRITE) - 1);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	assert_int_equal(nested_at_exit.rbx, 5);
	assert_int_equal(*vtpr(c), 0x30);
	assert_int_equal(l1_tpr(c), 0);
	/* what L1 has written since */
	*vtpr(c) = 0xa0;
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
	assert_int_equal(nested_at_exit.rbx, 10);
}

NESTED_TEST(without_a_shadow_cr8_is_l1s_own, nested_open_ept)
{
	nested_vmwrite(c, PRIMARY, nested_vmread(c, PRIMARY) & ~(uint64_t)CR8_EXITS);
	*vtpr(c) = 0x50;
	nested_l2_code(c, READ_AND_WRITE, sizeof(READ_AND_WRITE) - 1);
	/* there is no APIC in the process: the client has CR8 */
	c->run->cr8 = 2;
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	assert_int_equal(*vtpr(c), 0x50);
}

NESTED_TEST(below_the_threshold_l2_exits_behind_its_write, open_tpr)
{
	nested_vmwrite(c, TPR_THRESHOLD, 4);
	nested_l2_code(c, READ_AND_WRITE, sizeof(READ_AND_WRITE) - 1);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_TPR_BELOW_THRESHOLD);
	assert_int_equal(nested_vmread(c, GUEST_RIP), AT_L2 + 13);
	assert_int_equal(*vtpr(c), 0x30);
}

NESTED_TEST(with_cr8_exits_the_shadow_is_not_asked, open_tpr)
{
	nested_set_bits(c, PRIMARY, CR8_EXITS);
	nested_l2_code(c, READ_AND_WRITE, sizeof(READ_AND_WRITE) - 1);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CR_ACCESS);
	assert_int_equal(nested_vmread(c, GUEST_RIP), AT_L2);
}

/* mov ebx, [access + 80h]; mov dword [access + 80h], 70h; mov ebx, [access + 20h] */
#define BY_THE_PAGE "\x8b\x1c\x25\x80\x10\x06\x00\xc7\x04\x25\x80\x10\x06\x00\x70\x00\x00\x00\x8b\x0c\x25\x20\x10\x06\x00"

NESTED_TEST(the_access_page_has_the_tpr_and_exits_else, open_tpr)
{
	nested_set_bits(c, SECONDARY, 1);
	nested_vmwrite(c, APIC_ACCESS_ADDR, AT_ACCESS);
	memset(c->mem + AT_ACCESS, 0, 4096);
	nested_l2_code(c, BY_THE_PAGE, sizeof(BY_THE_PAGE) - 1);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_APIC_ACCESS);
	assert_int_equal(nested_at_exit.rbx, 0x50);
	assert_int_equal(*vtpr(c), 0x70);
	assert_int_equal(nested_vmread(c, EXIT_QUALIFICATION), 0x20);
	assert_int_equal(*(uint32_t *)(c->mem + AT_ACCESS + 0x80), 0);
}

/* With the page a threshold above the virtual TPR is no failure: L2 leaves before its first instruction. */
NESTED_TEST(a_threshold_above_the_tpr_exits_at_once, open_tpr)
{
	nested_set_bits(c, SECONDARY, 1);
	nested_vmwrite(c, APIC_ACCESS_ADDR, AT_ACCESS);
	nested_vmwrite(c, TPR_THRESHOLD, 6);
	nested_l2_code(c, "\x0f\xa2", 2);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_TPR_BELOW_THRESHOLD);
	assert_int_equal(nested_vmread(c, GUEST_RIP), AT_L2);
}

NESTED_TEST(the_shadow_needs_no_apic_in_the_process, open_tpr_without_apic)
{
	nested_l2_code(c, READ_AND_WRITE, sizeof(READ_AND_WRITE) - 1);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	assert_int_equal(nested_at_exit.rbx, 5);
	assert_int_equal(*vtpr(c), 0x30);
}

/* As Linux: a VMfail, but where L1 takes CR8's accesses itself and the page is for nothing. */
NESTED_TEST(a_page_that_is_not_there_fails_the_entry, open_tpr)
{
	nested_vmwrite(c, VIRTUAL_APIC_PAGE_ADDR, NOWHERE);
	nested_l2_code(c, READ_AND_WRITE, sizeof(READ_AND_WRITE) - 1);
	assert_vmfail(c, nested_do(c, VMLAUNCH, 0, 0), 7);
	nested_set_bits(c, PRIMARY, CR8_EXITS);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CR_ACCESS);
	nested_vmwrite(c, PRIMARY, nested_vmread(c, PRIMARY) & ~(uint64_t)CR8_EXITS);
	assert_vmfail(c, nested_do(c, VMRESUME, 0, 0), 7);
	nested_vmwrite(c, VIRTUAL_APIC_PAGE_ADDR, AT_VAPIC);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
	assert_int_equal(nested_at_exit.rbx, 5);
}

/* L2 lowers its TPR and is saved before it exits to L1: L1's memory has it, and the other VM's L2. */
NESTED_TEST(it_goes_with_l1s_memory, open_tpr)
{
	struct nested_saved s;
	struct client d;

	/* mov eax, 3; mov cr8, rax; out 55h; mov rbx, cr8; cpuid */
	nested_l2_code(c, "\xb8\x03\x00\x00\x00\x44\x0f\x22\xc0\xe6\x55\x44\x0f\x20\xc3\x0f\xa2", 17);
	nested_vmwrite(c, PRIMARY, nested_vmread(c, PRIMARY) & ~(3ULL << 24));
	assert_int_equal(nested_do(c, VMLAUNCH, 0, 0).port, 0x55);
	nested_out_is_over(c);
	assert_int_equal(*vtpr(c), 0x30);
	nested_save(c, &s);

	nested_irqchip = true;
	assert_true(nested_open(&d));
	nested_irqchip = false;
	memcpy(d.mem, c->mem, c->mem_size);
	nested_load(&d, &s);
	assert_int_equal(nested_run(&d).port, PORT_EXIT);
	assert_int_equal(nested_at_exit.rbx, 3);
	client_close(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cr8_of_l2_is_in_l1s_page),
		cmocka_unit_test(without_a_shadow_cr8_is_l1s_own),
		cmocka_unit_test(below_the_threshold_l2_exits_behind_its_write),
		cmocka_unit_test(with_cr8_exits_the_shadow_is_not_asked),
		cmocka_unit_test(the_access_page_has_the_tpr_and_exits_else),
		cmocka_unit_test(a_threshold_above_the_tpr_exits_at_once),
		cmocka_unit_test(the_shadow_needs_no_apic_in_the_process),
		cmocka_unit_test(a_page_that_is_not_there_fails_the_entry),
		cmocka_unit_test(it_goes_with_l1s_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
