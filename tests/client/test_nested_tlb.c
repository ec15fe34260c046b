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

/* --- what is dropped --- */

#define AT_OTHER_TABLES 0x90000
#define GLOBAL 0x100u
#define L2_PTE(c, page) ((uint64_t *)((c)->mem + 0x13000) + (page))

/* L2 reads 60000h and 62000h, and exits: what it has read. Of its page tables no INVLPG of its own says that they changed. */
#define READ_BOTH "\x48\x8b\x1c\x25\x00\x00\x06\x00\x48\x8b\x0c\x25\x00\x20\x06\x00\x0f\xa2"

static void assert_l2_reads(struct client *c, enum snippet how, uint64_t at_60000, uint64_t at_62000)
{
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, how), EXIT_REASON_CPUID);
	assert_int_equal(nested_at_exit.rbx, at_60000);
	assert_int_equal(nested_at_exit.rcx, at_62000);
}

static void l1_invvpid(struct client *c, unsigned type, uint64_t vpid, uint64_t address)
{
	uint64_t *op = nested_operand(c);

	op[0] = vpid;
	op[1] = address;
	assert_succeeds(nested_do(c, INVVPID, type, AT_TEST));
}

/* L1's INVVPID drops what the manual says and nothing else. (Linux drops all of the VPID: the test is userkvm's.) */
NESTED_TEST(invvpid_drops_by_vpid_address_and_global_flag, open_vpid)
{
	if (!on_userkvm())
		skip();
	for (unsigned page = 0x70; page < 0x78; page++)
		*(uint64_t *)(c->mem + page * 4096) = page;
	nested_l2_code(c, READ_BOTH, sizeof(READ_BOTH) - 1);
	nested_set_bits(c, GUEST_CR4, CR4_PGE);
	*L2_PTE(c, 0x60) = 0x70000 | PG_ALL | PG_A | PG_D | GLOBAL;
	*L2_PTE(c, 0x62) = 0x71000 | PG_ALL | PG_A | PG_D;
	assert_l2_reads(c, VMLAUNCH, 0x70, 0x71);
	*L2_PTE(c, 0x60) += 0x2000;
	*L2_PTE(c, 0x62) += 0x2000;
	assert_l2_reads(c, VMRESUME, 0x70, 0x71);
	for (unsigned type = 0; type < 4; type++)
		if (type != 2)
			l1_invvpid(c, type, 2, 0x60000); /* another VPID's */
	l1_invvpid(c, 0, 1, 0x61000); /* another page's */
	assert_l2_reads(c, VMRESUME, 0x70, 0x71);
	l1_invvpid(c, 0, 1, 0x62000);
	assert_l2_reads(c, VMRESUME, 0x70, 0x73);
	*L2_PTE(c, 0x62) += 0x1000;
	assert_l2_reads(c, VMRESUME, 0x70, 0x73);
	l1_invvpid(c, 3, 1, 0);
	assert_l2_reads(c, VMRESUME, 0x70, 0x74);
	l1_invvpid(c, 1, 1, 0);
	assert_l2_reads(c, VMRESUME, 0x72, 0x74);
	*L2_PTE(c, 0x60) += 0x1000;
	l1_invvpid(c, 2, 0, 0);
	assert_l2_reads(c, VMRESUME, 0x73, 0x74);
}

/* An L2 without VPID on the same EPT12 comes in between, with tables of its own: its translations are no other's. */
NESTED_TEST(an_l2_without_vpid_leaves_nothing_to_one_that_has_one, open_vpid)
{
	uint64_t *other = (uint64_t *)(c->mem + AT_OTHER_TABLES);

	*(uint64_t *)(c->mem + 0x70000) = 1;
	*(uint64_t *)(c->mem + 0x71000) = 2;
	nested_l2_code(c, READ_BOTH, sizeof(READ_BOTH) - 1);
	memcpy(other, c->mem + 0x10000, 0x4000);
	for (unsigned level = 0; level < 3; level++)
		other[512 * level] += AT_OTHER_TABLES - 0x10000;
	*L2_PTE(c, 0x60) = *L2_PTE(c, 0x62) = 0x70000 | PG_ALL;
	other[512 * 3 + 0x60] = other[512 * 3 + 0x62] = 0x71000 | PG_ALL;
	/* with a VPID L2 has not read 62000h yet when the other one does */
	nested_l2_code(c, "\x48\x8b\x1c\x25\x00\x00\x06\x00\x48\x89\xd9\x0f\xa2", 13);
	assert_l2_reads(c, VMLAUNCH, 1, 1);
	nested_l2_code(c, READ_BOTH, sizeof(READ_BOTH) - 1);
	assert_succeeds(nested_ptr(c, VMCLEAR, AT_VMCS2));
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS2));
	nested_fill_vmcs(c);
	nested_set_bits(c, SECONDARY, 1u << 1);
	nested_vmwrite(c, EPT_POINTER, AT_EPT | 3u << 3 | 6);
	nested_vmwrite(c, GUEST_CR3, AT_OTHER_TABLES);
	assert_l2_reads(c, VMLAUNCH, 2, 2);
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS));
	assert_l2_reads(c, VMRESUME, 1, 1);
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
		cmocka_unit_test(invvpid_drops_by_vpid_address_and_global_flag),
		cmocka_unit_test(an_l2_without_vpid_leaves_nothing_to_one_that_has_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
