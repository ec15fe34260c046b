/* The software TLB: what each invalidation drops, and what it keeps. */
#include "machine.h"

#define STATE struct machine *t = *state
#define GVA 0x55000UL
#define HOST(gpa) (t->ram + (gpa))

static void map(struct machine *t, gva_t gva, gpa_t gpa, uint64_t bits)
{
	guest64(t, GPA_PT)[gva >> 12] = gpa | PTE_P | PTE_RW | bits;
}

static uint8_t *at(struct machine *t, gva_t gva)
{
	return try_translate(t, gva, CPU_READ, PRIV_SUPER);
}

static void stale_entry_stays_until_invlpg(void **state)
{
	STATE;

	load_guest(t);
	assert_ptr_equal(at(t, GVA), HOST(0x55000));
	map(t, GVA, 0x66000, 0);
	assert_ptr_equal(at(t, GVA), HOST(0x55000));
	cpu_tlb_invlpg(t->cpu, GVA);
	assert_ptr_equal(at(t, GVA), HOST(0x66000));
}

static void invlpg_drops_every_fragment_of_a_large_page(void **state)
{
	STATE;

	*guest64(t, GPA_PD) = 0x200000 | PTE_P | PTE_RW | PTE_PS;
	load_guest(t);
	assert_ptr_equal(at(t, 0x55000), HOST(0x255000));
	assert_ptr_equal(at(t, 0x99000), HOST(0x299000));
	*guest64(t, GPA_PD) = 0x400000 | PTE_P | PTE_RW | PTE_PS;
	cpu_tlb_invlpg(t->cpu, 0x1000);
	assert_ptr_equal(at(t, 0x55000), HOST(0x455000));
	assert_ptr_equal(at(t, 0x99000), HOST(0x499000));
}

/* Pages that no look-up has been for yet, too: what a walk knows of 2 MiB of it goes. */
static void page_fault_drops_all_that_is_known_of_a_page_of_1_gib(void **state)
{
	STATE;

	*guest64(t, GPA_PDPT) = PTE_P | PTE_RW | PTE_PS;
	load_guest(t);
	assert_ptr_equal(at(t, 0x255000), HOST(0x255000));
	assert_ptr_equal(at(t, 0x655000), HOST(0x655000));
	*guest64(t, GPA_PDPT) = GPA_PD | PTE_P | PTE_RW | PTE_US;
	guest64(t, GPA_PD)[3] = 0x800000 | PTE_P | PTE_RW | PTE_PS;
	assert_ptr_equal(at(t, 0x656000), HOST(0x656000)); /* what is known may be used until then */
	guest64(t, GPA_PD)[1] = 0x200000 | PTE_P | PTE_RW | PTE_PS;
	assert_null(try_translate(t, 0x255000, CPU_READ, PRIV_USER)); /* #PF */
	assert_ptr_equal(at(t, 0x657000), HOST(0x857000));
}

/* A write through what is known of a larger page sets D all the same. */
static void first_write_to_a_large_page_sets_its_dirty_flag(void **state)
{
	STATE;
	uint64_t *pde = guest64(t, GPA_PD) + 1;

	*pde = 0x200000 | PTE_P | PTE_RW | PTE_PS;
	load_guest(t);
	assert_ptr_equal(at(t, 0x255000), HOST(0x255000));
	assert_ptr_equal(at(t, 0x256000), HOST(0x256000));
	assert_int_equal(*pde & (PTE_A | PTE_D), PTE_A);
	assert_ptr_equal(try_translate(t, 0x257000, CPU_WRITE, PRIV_SUPER), HOST(0x257000));
	assert_int_equal(*pde & (PTE_A | PTE_D), PTE_A | PTE_D);
	/* As with a TLB, what has D does not look for it again. */
	*pde &= ~PTE_D;
	assert_ptr_equal(try_translate(t, 0x258000, CPU_WRITE, PRIV_SUPER), HOST(0x258000));
	assert_int_equal(*pde & PTE_D, 0);
	cpu_tlb_invlpg(t->cpu, 0x200000);
	assert_ptr_equal(try_translate(t, 0x258000, CPU_WRITE, PRIV_SUPER), HOST(0x258000));
	assert_int_equal(*pde & PTE_D, PTE_D);
}

/* Level 2 and level 3: the page's other parts go with the one that faults. */
static void page_fault_drops_every_fragment_of_a_large_page(void **state)
{
	STATE;

	for (int level = 2; level <= 3; level++) {
		if (level == 3)
			*guest64(t, GPA_PDPT) = PTE_P | PTE_RW | PTE_PS;
		else
			guest64(t, GPA_PD)[1] = 0x200000 | PTE_P | PTE_RW | PTE_PS;
		load_guest(t);
		cpu_tlb_flush_all(t->cpu);
		assert_ptr_equal(at(t, 0x255000), HOST(0x255000));
		assert_ptr_equal(at(t, 0x299000), HOST(0x299000));
		*guest64(t, GPA_PDPT) = GPA_PD | PTE_P | PTE_RW | PTE_US;
		guest64(t, GPA_PD)[1] = 0x400000 | PTE_P | PTE_RW | PTE_PS;
		assert_null(try_translate(t, 0x255000, CPU_READ, PRIV_USER)); /* #PF */
		assert_int_equal(t->cpu->unwind_reason, CPU_UNWIND_EXCEPTION);
		assert_ptr_equal(at(t, 0x299000), HOST(0x499000));
		assert_ptr_equal(at(t, 0x255000), HOST(0x455000));
	}
}

/* As SDM "Operations that Invalidate Cached Mappings" asks, and no more: violations are to be cheap. */
static void ept_violation_drops_its_own_fragment_for_every_privilege(void **state)
{
	STATE;

	*guest64(t, GPA_PD) = 0x200000 | PTE_P | PTE_RW | PTE_US | PTE_PS | PTE_D;
	*ept_leaf(t, 0x255000) &= ~EPT_WRITE;
	load_guest(t);
	for (enum cpu_priv p = PRIV_SUPER; p <= PRIV_USER; p++) {
		assert_ptr_equal(try_translate(t, 0x55000, CPU_READ, p), HOST(0x255000));
		assert_ptr_equal(try_translate(t, 0x99000, CPU_READ, p), HOST(0x299000));
	}
	*ept_leaf(t, 0x255000) = (uint64_t)HOST(0x666000) | EPT_READ;
	*ept_leaf(t, 0x299000) = (uint64_t)HOST(0x777000) | EPT_READ;
	assert_null(try_translate(t, 0x55000, CPU_WRITE, PRIV_SUPER));
	assert_int_equal(t->cpu->unwind_reason, CPU_UNWIND_EXIT);
	assert_int_equal(R(t, VM_EXIT_REASON), EXIT_REASON_EPT_VIOLATION);
	for (enum cpu_priv p = PRIV_SUPER; p <= PRIV_USER; p++) {
		assert_ptr_equal(try_translate(t, 0x55000, CPU_READ, p), HOST(0x666000));
		assert_ptr_equal(try_translate(t, 0x99000, CPU_READ, p), HOST(0x299000));
	}
}

static void mov_cr3_keeps_globals_only(void **state)
{
	STATE;

	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_PGE);
	map(t, 0x55000, 0x55000, PTE_G);
	load_guest(t);
	at(t, 0x55000);
	at(t, 0x56000);
	map(t, 0x55000, 0x66000, PTE_G);
	map(t, 0x56000, 0x66000, 0);
	cpu_tlb_flush_cr3(t->cpu, GPA_PML4);
	assert_ptr_equal(at(t, 0x55000), HOST(0x55000));
	assert_ptr_equal(at(t, 0x56000), HOST(0x66000));
	cpu_tlb_flush_all(t->cpu);
	assert_ptr_equal(at(t, 0x55000), HOST(0x66000));
}

static void pcids_keep_their_own_entries_with_bit_63(void **state)
{
	STATE;

	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_PCIDE);
	W(GUEST_CR3, GPA_PML4 | 1);
	load_guest(t);
	at(t, GVA);
	map(t, GVA, 0x66000, 0);
	cpu_tlb_flush_cr3(t->cpu, GPA_PML4 | 2 | CR3_NOFLUSH);
	assert_ptr_equal(at(t, GVA), HOST(0x66000));
	map(t, GVA, 0x77000, 0);
	cpu_tlb_flush_cr3(t->cpu, GPA_PML4 | 1 | CR3_NOFLUSH);
	assert_ptr_equal(at(t, GVA), HOST(0x55000));
	cpu_tlb_flush_cr3(t->cpu, GPA_PML4 | 2);
	assert_ptr_equal(at(t, GVA), HOST(0x77000));
	cpu_tlb_flush_cr3(t->cpu, GPA_PML4 | 1);
	assert_ptr_equal(at(t, GVA), HOST(0x77000));
}

static void invept_drops_combined_mappings(void **state)
{
	STATE;

	load_guest(t);
	at(t, GVA);
	*ept_leaf(t, GVA) = (uint64_t)HOST(0x66000) | LEAF_RWX;
	assert_ptr_equal(at(t, GVA), HOST(0x55000));
	assert_int_equal(invept(t->cpu, INVEPT_SINGLE_CONTEXT, R(t, EPT_POINTER)), VMX_SUCCEED);
	assert_ptr_equal(at(t, GVA), HOST(0x66000));
}

/* However many there are: what they ended does not come back. */
static void any_number_of_invepts_drops_guest_physical_mappings(void **state)
{
	STATE;

	load_guest(t);
	for (unsigned many = PAGE_SIZE - 3; many < PAGE_SIZE + 3; many++) {
		gpa_t host = 0x60000 + (many & 1) * PAGE_SIZE;

		at(t, GVA);
		*ept_leaf(t, GVA) = (uint64_t)HOST(host) | LEAF_RWX;
		for (unsigned n = 0; n < many; n++)
			assert_int_equal(invept(t->cpu, INVEPT_ALL_CONTEXT, 0), VMX_SUCCEED);
		assert_ptr_equal(at(t, GVA), HOST(host));
	}
}

static void invvpid_of_another_vpid_keeps_ours(void **state)
{
	STATE;

	load_guest(t);
	at(t, GVA);
	map(t, GVA, 0x66000, 0);
	assert_int_equal(invvpid(t->cpu, INVVPID_SINGLE_CONTEXT, 2, 0), VMX_SUCCEED);
	assert_ptr_equal(at(t, GVA), HOST(0x55000));
	assert_int_equal(invvpid(t->cpu, INVVPID_INDIVIDUAL_ADDRESS, 1, GVA), VMX_SUCCEED);
	assert_ptr_equal(at(t, GVA), HOST(0x66000));
}

static void bad_operands_fail_with_28(void **state)
{
	STATE;

	assert_int_equal(invept(t->cpu, 0, 0), VMX_FAIL_VALID);
	assert_int_equal(R(t, VM_INSTRUCTION_ERROR), VMXERR_INVALID_OPERAND_TO_INVEPT_INVVPID);
	assert_int_equal(invvpid(t->cpu, INVVPID_SINGLE_CONTEXT, 0, 0), VMX_FAIL_VALID);
	assert_int_equal(invvpid(t->cpu, 4, 1, 0), VMX_FAIL_VALID);
	assert_int_equal(invvpid(t->cpu, INVVPID_INDIVIDUAL_ADDRESS, 1, 1UL << 50), VMX_FAIL_VALID);
}

static void without_vpid_entries_end_at_the_next_entry(void **state)
{
	STATE;

	W(SECONDARY_VM_EXEC_CONTROL, R(t, SECONDARY_VM_EXEC_CONTROL) & ~SECONDARY_EXEC_ENABLE_VPID);
	load_guest(t);
	at(t, GVA);
	map(t, GVA, 0x66000, 0);
	load_guest(t);
	assert_ptr_equal(at(t, GVA), HOST(0x66000));
}

static void write_tag_waits_for_the_dirty_bit(void **state)
{
	STATE;
	unsigned index = (GVA >> 12) & (ISA_TLB_ENTRIES - 1);

	load_guest(t);
	at(t, GVA);
	assert_int_equal(t->cpu->tlb->cur->sub[PRIV_SUPER].e[index].read_tag, GVA);
	assert_int_equal(t->cpu->tlb->cur->sub[PRIV_SUPER].e[index].write_tag, TLB_NO_ACCESS);
	assert_non_null(try_translate(t, GVA, CPU_WRITE, PRIV_SUPER));
	assert_int_equal(t->cpu->tlb->cur->sub[PRIV_SUPER].e[index].write_tag, GVA);
	assert_int_equal(guest64(t, GPA_PT)[GVA >> 12] & PTE_D, PTE_D);
}

static void changed_paging_mode_empties_the_context(void **state)
{
	STATE;

	load_guest(t);
	at(t, GVA);
	map(t, GVA, 0x66000, 0);
	W(GUEST_CR0, R(t, GUEST_CR0) & ~X86_CR0_WP);
	load_guest(t);
	assert_ptr_equal(at(t, GVA), HOST(0x66000));
}

/*
 * Random operations against a model that knows, for each page, the set of
 * translations a TLB may still hold: the current one, and older ones since the
 * last invalidation.
 */
static void random_operations_never_show_an_invalidated_translation(void **state)
{
	STATE;
	enum { PAGES = 64, VALUES = 4 };
	uint8_t allowed[PAGES], value[PAGES] = { 0 };

	load_guest(t);
	srandom(1);
	for (unsigned p = 0; p < PAGES; p++) {
		map(t, (0x80 + p) << 12, 0x200000 + value[p] * 0x1000UL, 0);
		allowed[p] = 1;
	}
	for (unsigned n = 0; n < 200000; n++) {
		unsigned p = (unsigned)random() % PAGES;
		gva_t gva = (0x80UL + p) << 12;
		long seen;

		switch (random() % 16) {
		case 0: case 1: case 2:
			value[p] = (uint8_t)(random() % VALUES);
			allowed[p] |= (uint8_t)(1 << value[p]);
			map(t, gva, 0x200000 + value[p] * 0x1000UL, 0);
			break;
		case 3: case 4:
			cpu_tlb_invlpg(t->cpu, gva);
			allowed[p] = (uint8_t)(1 << value[p]);
			break;
		case 5:
			if (random() % 50)
				break;
			cpu_tlb_flush_cr3(t->cpu, GPA_PML4);
			for (unsigned k = 0; k < PAGES; k++)
				allowed[k] = (uint8_t)(1 << value[k]);
			break;
		default:
			seen = at(t, gva) - HOST(0x200000);
			assert_true(allowed[p] & (1 << (seen >> 12)));
		}
		if (n % 1000 == 0)
			assert_true(cpu_tlb_check(t->cpu->tlb));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_LONG(stale_entry_stays_until_invlpg),
		TEST_LONG(invlpg_drops_every_fragment_of_a_large_page),
		TEST_LONG(page_fault_drops_all_that_is_known_of_a_page_of_1_gib),
		TEST_LONG(first_write_to_a_large_page_sets_its_dirty_flag),
		TEST_LONG(page_fault_drops_every_fragment_of_a_large_page),
		TEST_LONG(ept_violation_drops_its_own_fragment_for_every_privilege),
		TEST_LONG(mov_cr3_keeps_globals_only),
		TEST_LONG(pcids_keep_their_own_entries_with_bit_63),
		TEST_LONG(invept_drops_combined_mappings),
		TEST_LONG(any_number_of_invepts_drops_guest_physical_mappings),
		TEST_LONG(invvpid_of_another_vpid_keeps_ours),
		TEST_LONG(bad_operands_fail_with_28),
		TEST_LONG(without_vpid_entries_end_at_the_next_entry),
		TEST_LONG(write_tag_waits_for_the_dirty_bit),
		TEST_LONG(changed_paging_mode_empties_the_context),
		TEST_LONG(random_operations_never_show_an_invalidated_translation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
