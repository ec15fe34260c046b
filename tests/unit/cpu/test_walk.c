/* The two-dimensional walk: exit qualifications, error codes, A and D bits. */
#include "machine.h"

#define STATE struct machine *t = *state
#define GVA 0x55008UL /* identity: gpa 0x55008, guest PTE at GPA_PT + 0x55 * 8 */
#define PTE (guest64(t, GPA_PT)[GVA >> 12])
#define GVA_FINAL (EPT_VIOLATION_GVA_IS_VALID | EPT_VIOLATION_GVA_TRANSLATED)

struct rights_case {
	uint64_t leaf, access;
	bool allowed;
};

static void expect_violation(struct machine *t, uint64_t qualification, gpa_t gpa)
{
	assert_int_equal(t->cpu->unwind_reason, CPU_UNWIND_EXIT);
	assert_int_equal(R(t, VM_EXIT_REASON), EXIT_REASON_EPT_VIOLATION);
	assert_int_equal(R(t, EXIT_QUALIFICATION), qualification);
	assert_int_equal(R(t, GUEST_PHYSICAL_ADDRESS), gpa);
	assert_int_equal(R(t, GUEST_LINEAR_ADDRESS), GVA);
}

static void leaf_rights_decide_and_are_reported_in_bits_5_3(void **state)
{
	STATE;
	static const uint64_t rights[] = { 0, EPT_READ, EPT_EXEC, EPT_READ | EPT_WRITE,
					   EPT_READ | EPT_EXEC, EPT_RWX };
	struct cpu_walk_result r;

	for (size_t n = 0; n < ARRAY_SIZE(rights); n++) {
		for (uint32_t access = 1; access <= 4; access <<= 1) {
			uint64_t old = *ept_leaf(t, GVA);

			*ept_leaf(t, GVA) = rights[n] ? (old & ~EPT_RWX) | rights[n] : 0;
			cpu_tlb_drop_ept(t->cpu, 0, true);
			if (rights[n] & access) {
				assert_true(try_walk(t, GVA, access, PRIV_SUPER, &r));
				assert_int_equal(r.host, (hpa_t)t->ram + 0x55000);
			} else {
				assert_false(try_walk(t, GVA, access, PRIV_SUPER, &r));
				expect_violation(t, access | rights[n] << 3 | GVA_FINAL, GVA);
			}
			*ept_leaf(t, GVA) = old;
		}
	}
}

static void rights_are_the_and_of_all_levels(void **state)
{
	STATE;
	struct cpu_walk_result r;

	t->ept_pd[0] &= ~EPT_WRITE;
	t->ept_pdpt[0] &= ~EPT_EXEC;
	assert_false(try_walk(t, GVA, CPU_WRITE, PRIV_SUPER, &r));
	/* guest entries have their A bits to be set: a write into the read-only half */
	expect_violation(t, EPT_VIOLATION_ACC_WRITE | EPT_VIOLATION_READABLE |
			 EPT_VIOLATION_GVA_IS_VALID, GPA_PML4);
}

static void guest_table_not_mapped_clears_bit_8(void **state)
{
	STATE;
	struct cpu_walk_result r;

	*ept_leaf(t, GPA_PD) = 0;
	assert_false(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	expect_violation(t, EPT_VIOLATION_ACC_READ | EPT_VIOLATION_GVA_IS_VALID, GPA_PD);
}

static void with_ept_ad_a_table_access_reports_read_and_write(void **state)
{
	STATE;
	struct cpu_walk_result r;

	W(EPT_POINTER, R(t, EPT_POINTER) | EPTP_AD_ENABLE);
	*ept_leaf(t, GPA_PT) &= ~EPT_WRITE;
	assert_false(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	expect_violation(t, EPT_VIOLATION_ACC_READ | EPT_VIOLATION_ACC_WRITE |
			 EPT_VIOLATION_READABLE | EPT_VIOLATION_EXECUTABLE |
			 EPT_VIOLATION_GVA_IS_VALID, GPA_PT + (GVA >> 12) * 8);
}

static void ept_a_and_d_follow_the_access(void **state)
{
	STATE;
	struct cpu_walk_result r;

	W(EPT_POINTER, R(t, EPT_POINTER) | EPTP_AD_ENABLE);
	assert_true(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	assert_int_equal(*ept_leaf(t, GVA) & (EPT_ACCESSED | EPT_DIRTY), EPT_ACCESSED);
	assert_int_equal(t->ept_root[0] & EPT_ACCESSED, EPT_ACCESSED);
	assert_int_equal(r.rights & CPU_WRITE, 0);
	assert_true(try_walk(t, GVA, CPU_WRITE, PRIV_SUPER, &r));
	assert_int_equal(*ept_leaf(t, GVA) & EPT_DIRTY, EPT_DIRTY);
	assert_int_equal(r.rights & CPU_WRITE, CPU_WRITE);
	assert_int_equal(*ept_leaf(t, GPA_PT) & EPT_DIRTY, EPT_DIRTY);
}

static void misconfigurations_exit_with_49(void **state)
{
	STATE;
	struct cpu_walk_result r;
	uint64_t *leaf = ept_leaf(t, GVA), old = *leaf;
	const uint64_t bad[] = { EPT_WRITE, EPT_WRITE | EPT_EXEC, old | FIELD_PREP(EPT_MEMTYPE_MASK, 7),
				 (old & ~EPT_MEMTYPE_MASK) | FIELD_PREP(EPT_MEMTYPE_MASK, 2) };

	for (size_t n = 0; n < ARRAY_SIZE(bad); n++) {
		*leaf = bad[n];
		assert_false(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
		assert_int_equal(R(t, VM_EXIT_REASON), EXIT_REASON_EPT_MISCONFIG);
		assert_int_equal(R(t, GUEST_PHYSICAL_ADDRESS), GVA);
	}
	*leaf = old;
	t->ept_pdpt[0] |= FIELD_PREP(EPT_MEMTYPE_MASK, 1); /* reserved in a table pointer */
	assert_false(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	assert_int_equal(R(t, VM_EXIT_REASON), EXIT_REASON_EPT_MISCONFIG);
}

static void expect_misconfiguration(struct machine *t)
{
	struct cpu_walk_result r;

	cpu_tlb_drop_ept(t->cpu, 0, true);
	assert_false(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	assert_int_equal(R(t, VM_EXIT_REASON), EXIT_REASON_EPT_MISCONFIG);
}

/* No page is larger than 1 GiB. */
static void page_size_bit_above_level_3_is_a_misconfiguration(void **state)
{
	STATE;
	struct cpu_walk_result r;

	t->ept_root[0] |= EPT_PAGE_SIZE;
	expect_misconfiguration(t);
	t->ept_root[0] &= ~EPT_PAGE_SIZE;
	five_levels(t);
	assert_true(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	t->ept_pml5[0] |= EPT_PAGE_SIZE;
	expect_misconfiguration(t);
}

/* Each GPA whose dirty flag goes from 0 to 1, from the index down: the guest's tables, then the page. */
static void pml_names_what_became_dirty_once(void **state)
{
	STATE;
	static const gpa_t expected[] = { GPA_PML4, GPA_PDPT, GPA_PD, GPA_PT, GVA & PAGE_MASK };
	uint64_t *log = test_pages(4096);
	struct cpu_walk_result r;

	W(EPT_POINTER, R(t, EPT_POINTER) | EPTP_AD_ENABLE);
	W(SECONDARY_VM_EXEC_CONTROL, R(t, SECONDARY_VM_EXEC_CONTROL) | SECONDARY_EXEC_ENABLE_PML);
	W(PML_ADDRESS, (uint64_t)log);
	W(GUEST_PML_INDEX, 511);
	log[506] = ~0ULL;
	for (int again = 0; again < 2; again++)
		assert_true(try_walk(t, GVA, CPU_WRITE, PRIV_SUPER, &r));
	assert_int_equal(R(t, GUEST_PML_INDEX), 506);
	for (unsigned n = 0; n < ARRAY_SIZE(expected); n++)
		assert_int_equal(log[511 - n], expected[n]);
	assert_int_equal(log[506], ~0ULL);
	munmap(log, 4096);
}

static void large_ept_leaves_translate(void **state)
{
	STATE;
	struct cpu_walk_result r;
	uint64_t base = ((uint64_t)t->ram + 0x1fffff) & ~0x1fffffULL;

	t->ept_pd[1] = base | LEAF_RWX | EPT_PAGE_SIZE;
	guest64(t, GPA_PT)[GVA >> 12] = 0x234000 | PTE_P | PTE_RW;
	assert_true(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	assert_int_equal(r.host, base + 0x34000);
	t->ept_pd[1] |= 0x1000; /* reserved address bit */
	cpu_tlb_drop_ept(t->cpu, 0, true);
	assert_false(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	assert_int_equal(R(t, VM_EXIT_REASON), EXIT_REASON_EPT_MISCONFIG);
}

struct pf_case {
	const char *name;
	uint64_t pte_set, pte_clear, cr0_clear, cr4_set;
	uint32_t access;
	enum cpu_priv priv;
	int error; /* -1: allowed */
};

#define NX_I 0x10
static const struct pf_case pf_cases[] = {
	{ "not present", 0, PTE_P, 0, 0, CPU_READ, PRIV_SUPER, 0 },
	{ "not present, user write", 0, PTE_P, 0, 0, CPU_WRITE, PRIV_USER, 6 },
	{ "supervisor page from user", 0, 0, 0, 0, CPU_READ, PRIV_USER, 5 },
	{ "user page from user", PTE_US, 0, 0, 0, CPU_WRITE, PRIV_USER, -1 },
	{ "read-only under WP", 0, PTE_RW, 0, 0, CPU_WRITE, PRIV_SUPER, 3 },
	{ "read-only without WP", 0, PTE_RW, X86_CR0_WP, 0, CPU_WRITE, PRIV_SUPER, -1 },
	{ "read-only without WP, user", PTE_US, PTE_RW, X86_CR0_WP, 0, CPU_WRITE, PRIV_USER, 7 },
	{ "execute-disable", PTE_XD, 0, 0, 0, CPU_EXEC, PRIV_SUPER, 1 | NX_I },
	{ "execute-disable read", PTE_XD, 0, 0, 0, CPU_READ, PRIV_SUPER, -1 },
	{ "SMEP", PTE_US, 0, 0, X86_CR4_SMEP, CPU_EXEC, PRIV_SUPER, 1 | NX_I },
	{ "no SMEP", PTE_US, 0, 0, 0, CPU_EXEC, PRIV_SUPER, -1 },
	{ "SMAP", PTE_US, 0, 0, X86_CR4_SMAP, CPU_READ, PRIV_SUPER_SMAP, 1 },
	{ "SMAP with AC", PTE_US, 0, 0, X86_CR4_SMAP, CPU_READ, PRIV_SUPER, -1 },
	{ "SMAP, supervisor page", 0, 0, 0, X86_CR4_SMAP, CPU_WRITE, PRIV_SUPER_SMAP, -1 },
};

static void fifth_level_reaches_beyond_48_bits(void **state)
{
	STATE;
	struct cpu_walk_result r;

	PTE = FIVE_ALIAS | 0x55000 | PTE_P | PTE_RW;
	assert_false(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	expect_violation(t, EPT_VIOLATION_ACC_READ | GVA_FINAL, FIVE_ALIAS | GVA);
	five_levels(t);
	assert_true(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	assert_int_equal(r.gpa, FIVE_ALIAS | 0x55000);
	assert_int_equal(r.host, (hpa_t)t->ram + 0x55000);
	W(EPT_POINTER, R(t, EPT_POINTER) | EPTP_AD_ENABLE);
	assert_true(try_walk(t, GVA, CPU_WRITE, PRIV_SUPER, &r));
	assert_int_equal(t->ept_pml5[FIVE_ALIAS >> 48] & (EPT_ACCESSED | EPT_DIRTY), EPT_ACCESSED);
	t->ept_pml5[FIVE_ALIAS >> 48] &= ~EPT_WRITE;
	cpu_tlb_drop_ept(t->cpu, 0, true);
	assert_false(try_walk(t, GVA, CPU_WRITE, PRIV_SUPER, &r));
	expect_violation(t, EPT_VIOLATION_ACC_WRITE | EPT_VIOLATION_READABLE | EPT_VIOLATION_EXECUTABLE | GVA_FINAL,
			 FIVE_ALIAS | GVA);
	t->ept_pml5[FIVE_ALIAS >> 48] |= EPT_PAGE_SIZE; /* reserved at this level */
	assert_false(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	assert_int_equal(R(t, VM_EXIT_REASON), EXIT_REASON_EPT_MISCONFIG);
	t->ept_pml5[FIVE_ALIAS >> 48] = 0;
	assert_false(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	expect_violation(t, EPT_VIOLATION_ACC_READ | GVA_FINAL, FIVE_ALIAS | GVA);
}

static void guest_rights_give_the_right_error_code(void **state)
{
	STATE;
	struct cpu_walk_result r;
	uint64_t pte = PTE, cr0 = R(t, GUEST_CR0), cr4 = R(t, GUEST_CR4);

	for (size_t n = 0; n < ARRAY_SIZE(pf_cases); n++) {
		const struct pf_case *c = &pf_cases[n];
		bool ok;

		PTE = (pte & ~c->pte_clear) | c->pte_set;
		W(GUEST_CR0, cr0 & ~c->cr0_clear);
		W(GUEST_CR4, cr4 | c->cr4_set);
		ok = try_walk(t, GVA, c->access, c->priv, &r);
		if (ok != (c->error < 0))
			fail_msg("%s: allowed %d", c->name, ok);
		if (!ok && (int)t->cpu->cs.exception.error_code != c->error)
			fail_msg("%s: error code %#x", c->name, t->cpu->cs.exception.error_code);
		if (!ok)
			assert_int_equal(t->cpu->cs.exception.payload, GVA);
	}
}

static void reserved_bits_set_rsvd(void **state)
{
	STATE;
	struct cpu_walk_result r;

	*guest64(t, GPA_PD) = 0x1000 | (1UL << 13) | PTE_P | PTE_RW | PTE_PS;
	assert_false(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	assert_int_equal(t->cpu->cs.exception.error_code, PFERR_PRESENT_MASK | PFERR_RSVD_MASK);
	*guest64(t, GPA_PD) = GPA_PT | PTE_P | PTE_RW | PTE_XD;
	W(GUEST_IA32_EFER, R(t, GUEST_IA32_EFER) & ~EFER_NX);
	assert_false(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	assert_int_equal(t->cpu->cs.exception.error_code, PFERR_PRESENT_MASK | PFERR_RSVD_MASK);
}

static void guest_a_and_d_are_set_only_when_allowed(void **state)
{
	STATE;
	struct cpu_walk_result r;

	PTE &= ~PTE_RW;
	assert_false(try_walk(t, GVA, CPU_WRITE, PRIV_SUPER, &r));
	assert_int_equal(PTE & (PTE_A | PTE_D), 0);
	assert_int_equal(*guest64(t, GPA_PML4) & PTE_A, 0);
	PTE |= PTE_RW;
	assert_true(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	assert_int_equal(PTE & (PTE_A | PTE_D), PTE_A);
	assert_int_equal(*guest64(t, GPA_PML4) & PTE_A, PTE_A);
	assert_int_equal(r.rights & CPU_WRITE, 0);
	assert_true(try_walk(t, GVA, CPU_WRITE, PRIV_SUPER, &r));
	assert_int_equal(PTE & (PTE_A | PTE_D), PTE_A | PTE_D);
	assert_int_equal(*guest64(t, GPA_PD) & PTE_D, 0);
}

static void large_guest_pages_translate(void **state)
{
	STATE;
	struct cpu_walk_result r;

	*guest64(t, GPA_PD) = 0x200000 | PTE_P | PTE_RW | PTE_PS | PTE_G;
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_PGE);
	assert_true(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	assert_int_equal(r.gpa, 0x255000);
	assert_int_equal(r.page_shift, 21);
	assert_true(r.global);
	*guest64(t, GPA_PDPT) = PTE_P | PTE_RW | PTE_PS;
	cpu_tlb_flush_all(t->cpu);
	assert_true(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	assert_int_equal(r.page_shift, 30);
	assert_int_equal(r.gpa, 0x55000);
}

static void without_pae_pse36_gives_40_bit_addresses(void **state)
{
	STATE;
	struct cpu_walk_result r;
	uint32_t *pd = (uint32_t *)guest64(t, GPA_PD);

	set_segment(t, SREG_CS, 8, 0, 0xffffffff, 0xc09b);
	W(VM_ENTRY_CONTROLS, R(t, VM_ENTRY_CONTROLS) & ~VM_ENTRY_IA32E_MODE);
	W(GUEST_IA32_EFER, 0);
	W(GUEST_CR3, GPA_PD);
	W(GUEST_CR4, X86_CR4_VMXE | X86_CR4_PSE);
	pd[0] = 0x400000 | PTE_P | PTE_RW | PTE_PS;
	assert_true(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	assert_int_equal(r.gpa, 0x455000);
	pd[0] |= 1U << 13;
	cpu_tlb_flush_all(t->cpu);
	assert_false(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	assert_int_equal(R(t, GUEST_PHYSICAL_ADDRESS), 0x100455008);
}

static void pae_uses_the_loaded_pdptes(void **state)
{
	STATE;
	struct cpu_walk_result r;

	set_segment(t, SREG_CS, 8, 0, 0xffffffff, 0xc09b);
	W(VM_ENTRY_CONTROLS, R(t, VM_ENTRY_CONTROLS) & ~VM_ENTRY_IA32E_MODE);
	W(GUEST_IA32_EFER, 0);
	W(GUEST_PDPTR0, GPA_PD | PTE_P);
	assert_true(try_walk(t, GVA, CPU_WRITE, PRIV_SUPER, &r));
	assert_int_equal(r.gpa, 0x55000);
	W(GUEST_PDPTR0, GPA_PD); /* what it points to does not matter then */
	cpu_tlb_flush_all(t->cpu);
	assert_false(try_walk(t, GVA, CPU_READ, PRIV_SUPER, &r));
	assert_int_equal(t->cpu->cs.exception.error_code, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_LONG(leaf_rights_decide_and_are_reported_in_bits_5_3),
		TEST_LONG(rights_are_the_and_of_all_levels),
		TEST_LONG(guest_table_not_mapped_clears_bit_8),
		TEST_LONG(with_ept_ad_a_table_access_reports_read_and_write),
		TEST_LONG(ept_a_and_d_follow_the_access),
		TEST_LONG(misconfigurations_exit_with_49),
		TEST_LONG(page_size_bit_above_level_3_is_a_misconfiguration),
		TEST_LONG(pml_names_what_became_dirty_once),
		TEST_LONG(large_ept_leaves_translate),
		TEST_LONG(fifth_level_reaches_beyond_48_bits),
		TEST_LONG(guest_rights_give_the_right_error_code),
		TEST_LONG(reserved_bits_set_rsvd),
		TEST_LONG(guest_a_and_d_are_set_only_when_allowed),
		TEST_LONG(large_guest_pages_translate),
		TEST_LONG(without_pae_pse36_gives_40_bit_addresses),
		TEST_LONG(pae_uses_the_loaded_pdptes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
