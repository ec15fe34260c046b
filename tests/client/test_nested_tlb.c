/*
 * What L1's and L2's translations cost each other: nothing, where L1 uses VPIDs (SDM Vol. 3, "Caching Translation
 * Information": VM entries and exits invalidate nothing then).
 */
#include "nested_ept.h"
#include "stats.h"

#define EFER_NX (1ULL << 11)
#define MSR_EFER 0xc0000080
#define VPID (1u << 5)
#define ENTRY_LOAD_EFER (1u << 15)
#define EXIT_LOAD_EFER (1u << 21)
#define ROUNDS 50

static bool open_vpid(struct client *c)
{
	if (!nested_open_ept(c))
		return false;
	nested_set_bits(c, SECONDARY, VPID);
	nested_vmwrite(c, VIRTUAL_PROCESSOR_ID, 1);
	return true;
}

/* How often KVM_RUN flushed something in ROUNDS exits of L2's to L1. */
static uint64_t flushes(struct client *c)
{
	struct stats s;
	uint64_t before;

	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	open_stats(&s, c->vcpu);
	before = value(&s, "tlb_flush");
	for (int i = 0; i < ROUNDS; i++) {
		nested_do(c, VMWRITE, GUEST_RIP, AT_L2);
		assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
	}
	before = value(&s, "tlb_flush") - before;
	close_stats(&s);
	return before;
}

NESTED_TEST(with_vpids_nothing_is_flushed, open_vpid)
{
	assert_int_equal(flushes(c), 0);
}

/* Another EFER is another paging mode, but of another processor's context: not a change of one. */
NESTED_TEST(an_l2_with_another_efer_flushes_nothing, open_vpid)
{
	uint64_t efer = client_msr(c, MSR_EFER);

	nested_set_bits(c, VM_ENTRY_CONTROLS, ENTRY_LOAD_EFER);
	nested_set_bits(c, VM_EXIT_CONTROLS, EXIT_LOAD_EFER);
	nested_vmwrite(c, GUEST_IA32_EFER, efer ^ EFER_NX);
	nested_vmwrite(c, HOST_IA32_EFER, efer);
	assert_int_equal(flushes(c), 0);
}

NESTED_TEST(another_vpid_flushes_once_an_entry, open_vpid)
{
	struct stats s;
	uint64_t before;

	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	open_stats(&s, c->vcpu);
	before = value(&s, "tlb_flush");
	nested_vmwrite(c, VIRTUAL_PROCESSOR_ID, 2);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
	assert_int_equal(value(&s, "tlb_flush"), before + 1);
	close_stats(&s);
}

NESTED_TEST(without_vpids_each_entry_and_exit_flushes, nested_open_ept)
{
	assert_true(flushes(c) >= 2 * ROUNDS);
}

/* Two VMCSs with one VPID and one EPTP: each VMPTRLD finds the tables of the other's, and nothing of them is dropped. */
NESTED_TEST(another_vmcs_on_the_same_tables_flushes_nothing, open_vpid)
{
	struct stats s;
	uint64_t before;

	nested_l2_code(c, "\x0f\xa2", 2);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	assert_succeeds(nested_ptr(c, VMCLEAR, AT_VMCS2));
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS2));
	nested_fill_vmcs(c);
	nested_set_bits(c, SECONDARY, VPID | 1u << 1);
	nested_vmwrite(c, EPT_POINTER, AT_EPT | 3u << 3 | 6);
	nested_vmwrite(c, VIRTUAL_PROCESSOR_ID, 1);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	open_stats(&s, c->vcpu);
	before = value(&s, "tlb_flush");
	for (int i = 0; i < ROUNDS; i++) {
		assert_succeeds(nested_ptr(c, VMPTRLD, i & 1 ? AT_VMCS2 : AT_VMCS));
		assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
	}
	assert_int_equal(value(&s, "tlb_flush"), before);
	close_stats(&s);
}

#define AT_OLD 0x70000
#define AT_NEW 0x72000

/* What L2 reads at AT_OLD, whose page L1 has moved to AT_NEW, after an INVVPID of this type. */
static uint32_t read_after_invvpid(struct client *c, uint64_t type, uint64_t vpid, uint64_t address)
{
	nested_l2_code(c, "\x8b\x04\x25\x00\x00\x07\x00\x0f\xa2", 9); /* mov AT_OLD, %eax; cpuid */
	*(uint32_t *)(c->mem + AT_OLD) = 1;
	*(uint32_t *)(c->mem + AT_NEW) = 2;
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	assert_int_equal((uint32_t)nested_at_exit.rax, 1);
	paging_pte_set(c, PAGING_LONG, AT_OLD, AT_NEW | PG_ALL);
	nested_operand(c)[0] = vpid;
	nested_operand(c)[1] = address;
	assert_succeeds(nested_do(c, INVVPID, type, AT_TEST));
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
	return (uint32_t)nested_at_exit.rax;
}

NESTED_TEST(invvpid_of_an_address_drops_it, open_vpid)
{
	assert_int_equal(read_after_invvpid(c, 0, 1, AT_OLD), 2);
}

NESTED_TEST(invvpid_of_a_context_drops_all_of_it, open_vpid)
{
	assert_int_equal(read_after_invvpid(c, 1, 1, 0), 2);
}

NESTED_TEST(invvpid_of_all_contexts_drops_all, open_vpid)
{
	assert_int_equal(read_after_invvpid(c, 2, 0, 0), 2);
}

NESTED_TEST(invvpid_of_a_context_but_its_globals_drops_the_rest, open_vpid)
{
	assert_int_equal(read_after_invvpid(c, 3, 1, 0), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(with_vpids_nothing_is_flushed),
		cmocka_unit_test(an_l2_with_another_efer_flushes_nothing),
		cmocka_unit_test(another_vpid_flushes_once_an_entry),
		cmocka_unit_test(another_vmcs_on_the_same_tables_flushes_nothing),
		cmocka_unit_test(without_vpids_each_entry_and_exit_flushes),
		cmocka_unit_test(invvpid_of_an_address_drops_it),
		cmocka_unit_test(invvpid_of_a_context_drops_all_of_it),
		cmocka_unit_test(invvpid_of_all_contexts_drops_all),
		cmocka_unit_test(invvpid_of_a_context_but_its_globals_drops_the_rest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
