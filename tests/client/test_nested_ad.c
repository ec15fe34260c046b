/*
 * Accessed and dirty flags of an L1's EPT, its page-modification log (SDM "Page-Modification
 * Logging"), and tables of five levels.
 */
#include "nested_ept.h"

#define AT_PML 0x56000
#define AT_LEVEL5 0x57000
#define EPTP_AD (1u << 6)
#define EPT_A (1u << 8)
#define EPT_D (1u << 9)
#define PML (1u << 17)

/* mov [0x61000], rbx; mov [0x62000], rbx; mov [0x61000], rbx; cpuid */
static bool open_ad(struct client *c)
{
	if (!nested_open_ept(c))
		return false;
	nested_vmwrite(c, EPT_POINTER, AT_EPT | 3u << 3 | 6 | EPTP_AD);
	nested_l2_code(c, "\x48\x89\x1c\x25\x00\x10\x06\x00\x48\x89\x1c\x25\x00\x20\x06\x00\x48\x89\x1c\x25\x00\x10\x06\x00\x0f\xa2", 26);
	return true;
}

static bool open_pml(struct client *c)
{
	if (!open_ad(c))
		return false;
	memset(c->mem + AT_PML, 0, 4096);
	nested_set_bits(c, SECONDARY, PML);
	nested_vmwrite(c, PML_ADDRESS, AT_PML);
	nested_vmwrite(c, GUEST_PML_INDEX, 511);
	return true;
}

static unsigned times_logged(struct client *c, uint64_t gpa)
{
	const uint64_t *log = (uint64_t *)(c->mem + AT_PML);
	unsigned n = 0;

	for (unsigned i = 0; i < 512; i++)
		n += log[i] == gpa;
	return n;
}

NESTED_TEST(flags_say_what_l2_has_touched, open_ad)
{
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	assert_int_equal(ept_level1(c)[0x61] & (EPT_A | EPT_D), EPT_A | EPT_D);
	assert_int_equal(ept_level1(c)[AT_L2 >> 12] & (EPT_A | EPT_D), EPT_A);
	assert_int_equal(ept_level1(c)[0x63] & (EPT_A | EPT_D), 0);
	/* a table of L2's counts as written */
	assert_int_equal(ept_level1(c)[0x10] & (EPT_A | EPT_D), EPT_A | EPT_D);
	assert_int_equal(*(uint64_t *)(c->mem + AT_EPT) & (EPT_A | EPT_D), EPT_A);
}

NESTED_TEST(a_clean_page_is_logged_at_its_first_write, open_pml)
{
	uint64_t index;

	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	assert_int_equal(times_logged(c, 0x61000), 1);
	assert_int_equal(times_logged(c, 0x62000), 1);
	assert_int_equal(times_logged(c, AT_L2), 0);
	index = nested_vmread(c, GUEST_PML_INDEX);
	assert_int_equal(((uint64_t *)(c->mem + AT_PML))[index], 0);
	assert_int_not_equal(((uint64_t *)(c->mem + AT_PML))[index + 1], 0);
	/* L1 clears the flag: logged again, and the other one is not */
	ept_change(c, 0x61, ept_level1(c)[0x61] & ~(uint64_t)EPT_D);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
	assert_int_equal(times_logged(c, 0x61000), 2);
	assert_int_equal(times_logged(c, 0x62000), 1);
	assert_int_equal(nested_vmread(c, GUEST_PML_INDEX), index - 1);
}

NESTED_TEST(a_full_log_is_an_exit_before_the_write, open_pml)
{
	/* what is needed to come to the first write is dirty already */
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	ept_change(c, 0x61, ept_level1(c)[0x61] & ~(uint64_t)EPT_D);
	*(uint64_t *)(c->mem + 0x61000) = 42;
	nested_vmwrite(c, GUEST_PML_INDEX, 0xffff);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_PML_FULL);
	assert_int_equal(nested_vmread(c, EXIT_QUALIFICATION), 0);
	assert_int_equal(nested_vmread(c, GUEST_RIP), AT_L2);
	assert_int_equal(*(uint64_t *)(c->mem + 0x61000), 42);
	assert_int_equal(ept_level1(c)[0x61] & EPT_D, 0);
	nested_vmwrite(c, GUEST_PML_INDEX, 511);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
	assert_int_equal(((uint64_t *)(c->mem + AT_PML))[511], 0x61000);
}

NESTED_TEST(without_the_control_nothing_is_logged, open_pml)
{
	nested_vmwrite(c, SECONDARY, nested_vmread(c, SECONDARY) & ~(uint64_t)PML);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	assert_int_equal(times_logged(c, 0x61000), 0);
	assert_int_equal(nested_vmread(c, GUEST_PML_INDEX), 511);
}

/* One more level above, and through its second entry the same 4 KiB again. */
NESTED_TEST(tables_have_four_levels_or_five, nested_open_ept)
{
	uint64_t *level5 = (uint64_t *)(c->mem + AT_LEVEL5);
	unsigned width = 0;

	if (!(client_msr(c, MSR_VMX(12)) & 1 << 7)) {
		print_message("no EPT of five levels\n");
		return;
	}
	for (int bit = 0; bit < 8; bit++)
		width |= (unsigned)client_cpuid_bit(c, 0x80000008, CPUID_EAX, bit) << bit;
	memset(level5, 0, 4096);
	level5[0] = level5[1] = AT_EPT | EPT_ALL;
	nested_vmwrite(c, EPT_POINTER, AT_LEVEL5 | 4u << 3 | 6);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	assert_int_equal(nested_at_exit.rbx, 0x1122334455667788);
	if (width <= 48)
		return;
	paging_pte_set(c, PAGING_LONG, 0x60000, 1ULL << 48 | 0x62000 | 3);
	*(uint64_t *)(c->mem + 0x62000) = 43;
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
	assert_int_equal(nested_at_exit.rbx, 43);
	/* with four levels there is nothing above 2^48 */
	nested_vmwrite(c, EPT_POINTER, AT_EPT | 3u << 3 | 6);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_EPT_VIOLATION);
	assert_int_equal(nested_vmread(c, GUEST_PHYSICAL_ADDRESS), 1ULL << 48 | 0x62000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(flags_say_what_l2_has_touched),
		cmocka_unit_test(a_clean_page_is_logged_at_its_first_write),
		cmocka_unit_test(a_full_log_is_an_exit_before_the_write),
		cmocka_unit_test(without_the_control_nothing_is_logged),
		cmocka_unit_test(tables_have_four_levels_or_five),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
