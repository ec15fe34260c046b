/*
 * The hypervisor's walk of the guest's page tables: modes, rights, reserved
 * bits, error codes, accessed and dirty bits.
 */
#include "fixture.h"

static char *ram; /* gpa 0..1 MiB */

static int walk_setup(void **state)
{
	setup(state);
	ram = get_memory(MIB, 4096, PROT_READ | PROT_WRITE);
	return set_slot(0, 0, 0, MIB, ram);
}

static uint64_t *entry64(gpa_t table, unsigned index)
{
	return (uint64_t *)(ram + table) + index;
}

static uint32_t *entry32(gpa_t table, unsigned index)
{
	return (uint32_t *)(ram + table) + index;
}

#define RWU (PTE_P | PTE_RW | PTE_US)

/* 4 levels at 0x1000.. 0x4000; gva 0x400000 + n * 4 KiB by entry n of the table at 0x4000. */
static void long_mode(void)
{
	fake.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP;
	fake.cr4 = X86_CR4_PAE;
	fake.efer = EFER_LME | EFER_LMA | EFER_NX;
	fake.cr3 = 0x1000;
	*entry64(0x1000, 0) = 0x2000 | RWU;
	*entry64(0x2000, 0) = 0x3000 | RWU;
	*entry64(0x3000, 2) = 0x4000 | RWU;
	kvm_mmu_reset_context(vcpu);
}

static struct kvm_page_fault_info e;

static gpa_t walk(gva_t gva, uint32_t access)
{
	memset(&e, 0, sizeof(e));
	return kvm_mmu_gva_to_gpa(vcpu, gva, access, &e);
}

static void expect_fault(gva_t gva, uint32_t access, uint32_t code)
{
	assert_int_equal(walk(gva, access), INVALID_PAGE);
	assert_int_equal(e.vector, X86_TRAP_PF);
	assert_int_equal(e.error_code, code);
	assert_int_equal(e.address, gva);
}

static void no_paging_is_the_identity(void **state)
{
	kvm_mmu_reset_context(vcpu);
	assert_int_equal(walk(0xfff0, PFERR_FETCH_MASK), 0xfff0);
}

static void long_mode_translates_and_sets_a_and_d(void **state)
{
	long_mode();
	*entry64(0x4000, 0) = 0x55000 | RWU;
	assert_int_equal(walk(0x400123, 0), 0x55123);
	assert_int_equal(*entry64(0x4000, 0), 0x55000 | RWU | PTE_A);
	assert_int_equal(*entry64(0x1000, 0), 0x2000 | RWU | PTE_A);
	assert_int_equal(walk(0x400123, PFERR_WRITE_MASK), 0x55123);
	assert_int_equal(*entry64(0x4000, 0), 0x55000 | RWU | PTE_A | PTE_D);
	assert_int_equal(*entry64(0x3000, 2), 0x4000 | RWU | PTE_A);
}

static void large_pages_translate(void **state)
{
	long_mode();
	*entry64(0x3000, 1) = 0x40000000 | RWU | PTE_PS;
	*entry64(0x2000, 1) = 0x80000000 | RWU | PTE_PS;
	assert_int_equal(walk(0x212345, 0), 0x40012345);
	assert_int_equal(walk(0x7fffffff, 0), 0xbfffffff);
}

static void not_present_gives_p_0(void **state)
{
	long_mode();
	expect_fault(0x400000, 0, 0);
	expect_fault(0x400000, PFERR_WRITE_MASK | PFERR_USER_MASK, 6);
	expect_fault(0x400000, PFERR_FETCH_MASK, 0x10);
	fake.efer &= ~EFER_NX;
	expect_fault(0x400000, PFERR_FETCH_MASK, 0);
	assert_int_equal(*entry64(0x4000, 0), 0);
}

static void user_and_write_rights_are_the_and_of_all_levels(void **state)
{
	long_mode();
	*entry64(0x4000, 0) = 0x55000 | PTE_P | PTE_RW;
	*entry64(0x4000, 1) = 0x55000 | PTE_P | PTE_US;
	*entry64(0x4000, 2) = 0x55000 | RWU;
	expect_fault(0x400000, PFERR_USER_MASK, 5);
	expect_fault(0x401000, PFERR_USER_MASK | PFERR_WRITE_MASK, 7);
	expect_fault(0x401000, PFERR_WRITE_MASK, 3);
	assert_int_equal(*entry64(0x4000, 1) & PTE_A, 0);
	fake.cr0 &= ~X86_CR0_WP;
	assert_int_equal(walk(0x401000, PFERR_WRITE_MASK), 0x55000);
	expect_fault(0x401000, PFERR_USER_MASK | PFERR_WRITE_MASK, 7);
	*entry64(0x2000, 0) &= ~PTE_US;
	expect_fault(0x402000, PFERR_USER_MASK, 5);
}

static void nx_smep_and_smap(void **state)
{
	long_mode();
	*entry64(0x4000, 0) = 0x55000 | RWU | PTE_XD;
	*entry64(0x4000, 1) = 0x55000 | RWU;
	expect_fault(0x400000, PFERR_FETCH_MASK, 0x11);
	fake.efer &= ~EFER_NX;
	expect_fault(0x400000, 0, 9); /* XD is reserved without NX */
	fake.efer |= EFER_NX;
	assert_int_equal(walk(0x401000, PFERR_FETCH_MASK), 0x55000);
	fake.cr4 |= X86_CR4_SMEP;
	expect_fault(0x401000, PFERR_FETCH_MASK, 0x11);
	assert_int_equal(walk(0x401000, PFERR_FETCH_MASK | PFERR_USER_MASK), 0x55000);
	fake.cr4 |= X86_CR4_SMAP;
	expect_fault(0x401000, 0, 1);
	fake.rflags = X86_FLAGS_AC;
	assert_int_equal(walk(0x401000, 0), 0x55000);
	fake.cpl = 3; /* an implicit supervisor access: AC does not help */
	expect_fault(0x401000, 0, 1);
	assert_int_equal(walk(0x401000, PFERR_USER_MASK), 0x55000);
}

static void protection_keys_refuse_data_accesses_to_user_pages(void **state)
{
	const uint64_t key = 4ULL << 59;

	long_mode();
	fake.cr4 |= X86_CR4_PKE;
	*entry64(0x4000, 0) = 0x55000 | RWU | key;
	*entry64(0x4000, 1) = 0x55000 | PTE_P | PTE_RW | key;
	*entry64(0x4000, 2) = 0x55000 | PTE_P | PTE_US | key;
	fake.pkru = PKRU_WD(4);
	assert_int_equal(walk(0x400000, PFERR_USER_MASK), 0x55000);
	expect_fault(0x400000, PFERR_USER_MASK | PFERR_WRITE_MASK, 0x27);
	expect_fault(0x400000, PFERR_WRITE_MASK, 0x23);
	expect_fault(0x402000, PFERR_USER_MASK | PFERR_WRITE_MASK, 0x27); /* the page is read-only as well */
	assert_int_equal(walk(0x401000, PFERR_WRITE_MASK), 0x55000);
	fake.cr0 &= ~X86_CR0_WP;
	assert_int_equal(walk(0x400000, PFERR_WRITE_MASK), 0x55000);
	fake.pkru = PKRU_AD(4);
	expect_fault(0x400000, PFERR_WRITE_MASK, 0x23);
	expect_fault(0x400000, PFERR_USER_MASK, 0x25);
	assert_int_equal(walk(0x400000, PFERR_USER_MASK | PFERR_FETCH_MASK), 0x55000);
	expect_fault(0x403000, PFERR_USER_MASK, 4);
	fake.cr4 &= ~X86_CR4_PKE;
	assert_int_equal(walk(0x400000, PFERR_USER_MASK), 0x55000);
}

static void reserved_bits_give_rsvd(void **state)
{
	long_mode();
	*entry64(0x4000, 0) = 0x55000 | RWU | BIT_ULL(46);
	expect_fault(0x400000, 0, 9);
	*entry64(0x3000, 1) = 0x40002000 | RWU | PTE_PS;
	expect_fault(0x200000, PFERR_WRITE_MASK, 0xb);
	*entry64(0x1000, 1) = 0x2000 | RWU | PTE_PS;
	expect_fault(1ULL << 39, 0, 9);
	*entry64(0x4000, 0) = 0x55000 | RWU | GENMASK_ULL(58, 52);
	assert_int_equal(walk(0x400000, 0), 0x55000); /* ignored bits */
}

static void two_level_paging_with_and_without_pse(void **state)
{
	fake.cr0 = X86_CR0_PE | X86_CR0_PG;
	fake.cr3 = 0x1000;
	*entry32(0x1000, 1) = 0x2000 | RWU;
	*entry32(0x2000, 3) = 0x55000 | RWU;
	*entry32(0x1000, 2) = 0x00c00000 | RWU | PTE_PS | 1 << 13; /* address bit 32 */
	kvm_mmu_reset_context(vcpu);
	assert_int_equal(walk(0x403456, PFERR_WRITE_MASK), 0x55456);
	assert_int_equal(*entry32(0x2000, 3), 0x55000 | RWU | PTE_A | PTE_D);
	fake.cr4 = X86_CR4_PSE;
	assert_int_equal(walk(0x812345, 0), 0x100c12345ULL);
	*entry32(0x1000, 2) |= 1U << 21;
	expect_fault(0x812345, 0, 9);
}

static void pae_takes_its_pdptes_from_registers(void **state)
{
	fake.cr0 = X86_CR0_PE | X86_CR0_PG;
	fake.cr4 = X86_CR4_PAE;
	fake.pdptr[3] = 0x3000 | PTE_P;
	*entry64(0x3000, 0) = 0x4000 | RWU;
	*entry64(0x3000, 1) = 0x40200000 | RWU | PTE_PS;
	*entry64(0x4000, 5) = 0x66000 | RWU;
	kvm_mmu_reset_context(vcpu);
	assert_int_equal(vcpu->mmu->guest_level, 3);
	assert_int_equal(walk(0xc0005678, PFERR_USER_MASK), 0x66678);
	assert_int_equal(walk(0xc0212345, 0), 0x40212345);
	expect_fault(0x5678, 0, 0);
	*entry64(0x4000, 5) |= BIT_ULL(55); /* reserved here, ignored in long mode */
	expect_fault(0xc0005678, 0, 9);
}

static void tables_outside_memory_fault(void **state)
{
	long_mode();
	fake.cr3 = 0x40000000;
	expect_fault(0x400000, PFERR_USER_MASK, 4);
}

int main(void)
{
#define WALK(f) cmocka_unit_test_setup_teardown(f, walk_setup, teardown)
	const struct CMUnitTest tests[] = {
		WALK(no_paging_is_the_identity),
		WALK(long_mode_translates_and_sets_a_and_d),
		WALK(large_pages_translate),
		WALK(not_present_gives_p_0),
		WALK(user_and_write_rights_are_the_and_of_all_levels),
		WALK(nx_smep_and_smap),
		WALK(protection_keys_refuse_data_accesses_to_user_pages),
		WALK(reserved_bits_give_rsvd),
		WALK(two_level_paging_with_and_without_pse),
		WALK(pae_takes_its_pdptes_from_registers),
		WALK(tables_outside_memory_fault),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
