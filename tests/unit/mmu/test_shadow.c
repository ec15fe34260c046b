/*
 * Shadow paging (ept=0): random guest page tables, written by the guest through
 * its own mappings, against the hypervisor's walk of them as the model. The
 * processor is a walk of the shadow tables as the SDM has it, without a TLB.
 */
#include "mmu/shadow.h"

#include "fixture.h"

#include <stdlib.h>

#define RAM_PAGES 1536U /* three times 2 MiB: the first full of tables, the second with a few, the third with none */
#define FIRST_POOL 16U /* tables of level n: FIRST_POOL + n * 8 .. + 7 */
#define FAR_POOL 512U  /* one more of level n */
#define POOL 8U
#define FIRST_DATA 64U
#define SECOND 0x200000UL
#define THIRD 0x400000UL
#define WINDOW_4LEVEL 0x10000000000ULL /* maps all of RAM, for the guest's own stores */
#define WINDOW_32 0x80000000ULL

#define RWU (PTE_P | PTE_RW | PTE_US)

static char *ram;
static int mode; /* levels: 2, 3, 4 */
static struct kvm_page_fault_info injected;
static bool was_injected;
static uint64_t seed = 88172645463325252ULL;

static uint64_t rnd(uint64_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (seed >> 11) % n;
}

static void inject(struct kvm_vcpu *v, const struct kvm_page_fault_info *f)
{
	injected = *f;
	was_injected = true;
}

static void serve_requests(void)
{
	if (kvm_check_request(KVM_REQ_MMU_RELOAD, vcpu))
		kvm_mmu_unload(vcpu);
	if (kvm_check_request(KVM_REQ_MMU_SYNC, vcpu))
		vcpu->mmu->sync_roots(vcpu);
	vcpu->requests = 0;
	assert_int_equal(kvm_mmu_reload(vcpu), 0);
}

/* --- the processor --- */

enum access_result { ACCESS_OK, ACCESS_FAULT, ACCESS_EMULATE };

/* Paging through what CR3 points to, with CR0.WP and EFER.NX set. The error code, or 0 with *host. */
static uint32_t hardware_walk(gva_t gva, uint32_t access, uint64_t *host)
{
	uint32_t error = access;
	uint64_t table = fake.loaded_root & ~0xfffULL, rights = PTE_RW | PTE_US, xd = 0, page, e;
	int level = mode == 4 ? 4 : 2;

	if (level == 2) {
		assert_true(fake.loaded_root < 1ULL << 32);
		e = ((uint64_t *)table)[(gva >> 30) & 3];
		if (!(e & PTE_P))
			return error | 1U << 31;
		assert_false(e & (0x1e6 | ~((1ULL << 52) - 1)));
		table = e & PTE_ADDR_MASK;
	}
	for (;; level--) {
		e = ((uint64_t *)table)[(gva >> (12 + 9 * (level - 1))) & 511];
		if (!(e & PTE_P))
			return error | 1U << 31; /* not present: a mark, since the code may be 0 */
		if (mode != 4)
			assert_false(e & GENMASK_ULL(62, 52));
		rights &= e;
		xd |= e & PTE_XD;
		if (level == 1 || e & PTE_PS)
			break;
		table = e & PTE_ADDR_MASK;
	}
	page = BIT_ULL(12 + 9 * (level - 1)) - 1;
	assert_true(level <= 3 && !(e & PTE_ADDR_MASK & page));
	error |= PFERR_PRESENT_MASK;
	if (access & PFERR_USER_MASK && !(rights & PTE_US))
		return error;
	if (access & PFERR_WRITE_MASK && !(rights & PTE_RW))
		return error;
	if (access & PFERR_FETCH_MASK && (xd || (!(access & PFERR_USER_MASK) && rights & PTE_US &&
						 fake.cr4 & X86_CR4_SMEP)))
		return error;
	if (!(access & (PFERR_USER_MASK | PFERR_FETCH_MASK)) && rights & PTE_US &&
	    fake.cr4 & X86_CR4_SMAP)
		return error;
	*host = (e & PTE_ADDR_MASK) | (gva & page);
	return 0;
}

static enum access_result access_guest(gva_t gva, uint32_t access, uint64_t *host)
{
	was_injected = false;
	fake.cpl = access & PFERR_USER_MASK ? 3 : 0;
	for (int tries = 0; tries < 8; tries++) {
		uint32_t error;
		enum ret_pf r;

		serve_requests();
		error = hardware_walk(gva, access, host);
		if (!error)
			return ACCESS_OK;
		r = take_fault(vcpu, gva, error & ~(1U << 31));
		if (r == RET_PF_EMULATE)
			return ACCESS_EMULATE;
		assert_true(goes_on(r));
		if (was_injected)
			return ACCESS_FAULT;
	}
	fail_msg("the guest makes no progress at %#llx, access %#x", (unsigned long long)gva, access);
	return ACCESS_FAULT;
}

/* --- the guest --- */

static void guest_store(gpa_t gpa, const void *data, size_t len)
{
	gva_t gva = (mode == 4 ? WINDOW_4LEVEL : WINDOW_32) + gpa;
	struct kvm_page_fault_info e;
	uint64_t host;

	switch (access_guest(gva, PFERR_WRITE_MASK, &host)) {
	case ACCESS_OK:
		assert_int_equal(host, (uintptr_t)ram + gpa);
		memcpy((void *)(uintptr_t)host, data, len);
		break;
	case ACCESS_EMULATE:
		assert_int_equal(kvm_mmu_gva_to_gpa(vcpu, gva, PFERR_WRITE_MASK, &e), gpa);
		assert_int_equal(kvm_vcpu_write_guest(vcpu, gpa, data, len), 0);
		kvm_mmu_track_write(vcpu, gpa, data, len);
		break;
	case ACCESS_FAULT:
		fail_msg("the guest's window faults at gpa %#llx", (unsigned long long)gpa);
	}
}

static unsigned entry_size(void)
{
	return mode == 2 ? 4 : 8;
}

static void put(gpa_t table, unsigned index, uint64_t e)
{
	memcpy(ram + table + index * entry_size(), &e, entry_size());
}

static gpa_t pool(int level, uint64_t n)
{
	if (n == POOL / 2 - 1)
		return (FAR_POOL + (unsigned)level) << PAGE_SHIFT;
	return (FIRST_POOL + (unsigned)level * POOL + n) << PAGE_SHIFT;
}

/* An entry of a table of `level`: absent, a table, a large page, a page of data or of a table. */
static uint64_t random_entry(int level)
{
	uint64_t e = RWU, r = rnd(16);

	if (r == 0)
		return rnd(2) ? 0 : rnd(1 << 20) << 12;
	if (!rnd(4))
		e &= ~PTE_RW;
	if (!rnd(4))
		e &= ~PTE_US;
	if (mode != 2 && !rnd(5) && fake.efer & EFER_NX)
		e |= PTE_XD;
	if (!rnd(3))
		e |= PTE_A | (level == 1 && rnd(2) ? PTE_D : 0);
	if (level == 1)
		return e | (r < 12 ? FIRST_DATA + rnd(RAM_PAGES - FIRST_DATA + 8) : rnd(FIRST_DATA)) << 12;
	/* 4 MiB pages: the second is half in RAM */
	if (level == 2 && r < 5)
		return e | PTE_PS | (rnd(2) ? PTE_D : 0) | (mode == 2 ? rnd(2) << 22 : rnd(3) << 21);
	return e | pool(level - 1, rnd(POOL / 2));
}

static unsigned few_indices(int level)
{
	return level == 1 ? 4 : 2;
}

/* The n-th of them. A 32-bit page table is shadowed by two pages: some in each half. */
static unsigned index_of(int level, uint64_t n)
{
	return (unsigned)(mode == 2 && level == 1 && n >= 2 ? n + 510 : n);
}

static gva_t random_gva(void)
{
	unsigned bits = mode == 2 ? 10 : 9;
	gva_t gva = rnd(PAGE_SIZE);

	for (int level = 1; level <= mode; level++)
		gva |= (gva_t)index_of(level, rnd(few_indices(level))) << (12 + bits * (unsigned)(level - 1));
	return gva;
}

static void load_pdptrs(void)
{
	for (int i = 0; i < 4; i++)
		memcpy(&fake.pdptr[i], ram + (fake.cr3 & ~31ULL) + i * 8, 8);
}

static void load_cr3(uint64_t cr3)
{
	fake.cr3 = cr3;
	if (mode == 3)
		load_pdptrs();
	kvm_mmu_new_cr3(vcpu, cr3, false);
	serve_requests();
}

/* What keeps translations true after a store: every address, or CR3. */
static void invalidate(bool leaf)
{
	unsigned bits = mode == 2 ? 10 : 9;

	if (!leaf || rnd(2)) {
		load_cr3(fake.cr3);
		return;
	}
	for (unsigned n = 0; n < 4U << (mode - 1); n++) {
		gva_t gva = (gva_t)index_of(1, n & 3) << 12;

		for (int level = 2; level <= mode; level++)
			gva |= (gva_t)(n >> level & 1) << (12 + bits * (unsigned)(level - 1));
		kvm_mmu_invlpg(vcpu, gva);
	}
}

static void random_store(void)
{
	int top = mode == 3 ? 2 : mode; /* PDPTEs are registers */
	int level = 1 + (int)rnd((uint64_t)top);
	uint64_t e = random_entry(level);
	gpa_t table = level == mode ? fake.cr3 : pool(level, rnd(POOL / 2));
	gpa_t at = table + index_of(level, rnd(few_indices(level))) * entry_size();

	/* often the same page with other rights: what fork and mprotect do */
	if (rnd(2)) {
		e = 0;
		memcpy(&e, ram + at, entry_size());
		e ^= rnd(2) ? PTE_RW : rnd(2) ? PTE_US : PTE_P;
		if (!rnd(4))
			e &= ~(level == 1 ? PTE_D : PTE_A);
	}
	guest_store(at, &e, entry_size());
	invalidate(level == 1);
}

static void random_access(void)
{
	static const uint32_t kinds[] = { 0, PFERR_WRITE_MASK, PFERR_USER_MASK,
					  PFERR_USER_MASK | PFERR_WRITE_MASK, PFERR_FETCH_MASK,
					  PFERR_USER_MASK | PFERR_FETCH_MASK };
	uint32_t access = kinds[rnd(ARRAY_SIZE(kinds))];
	struct kvm_page_fault_info e = { 0 };
	gva_t gva = random_gva();
	enum access_result r;
	uint64_t host = 0;
	gpa_t gpa;

	r = access_guest(gva, access, &host);
	gpa = kvm_mmu_gva_to_gpa(vcpu, gva, access, &e);
	if (gpa == INVALID_PAGE) {
		assert_int_equal(r, ACCESS_FAULT);
		assert_int_equal(injected.error_code, e.error_code);
		assert_int_equal(injected.address, gva);
	} else if (gpa >= RAM_PAGES << PAGE_SHIFT) {
		assert_int_equal(r, ACCESS_EMULATE);
	} else if (r == ACCESS_EMULATE) {
		/* only a write, only to a table */
		assert_true(access & PFERR_WRITE_MASK);
		assert_true(gpa >> PAGE_SHIFT < FIRST_DATA || (gpa >> PAGE_SHIFT) - FAR_POOL <= 4);
	} else {
		assert_int_equal(r, ACCESS_OK);
		assert_int_equal(host, (uintptr_t)ram + gpa);
	}
}

/* RAM at the window: all that a guest needs to write its own tables. */
static void map_window(gpa_t root)
{
	gpa_t pdpt = 0x1000, pd = 0x2000, pt = 0x3000;

	for (unsigned i = 0; i < PAGE_SIZE / entry_size(); i++)
		put(pt, i, (uint64_t)i << 12 | PTE_P | PTE_RW);
	if (mode == 2) {
		put(root, 512, pt | PTE_P | PTE_RW);
		return;
	}
	put(pd, 0, pt | PTE_P | PTE_RW);
	put(pd, 1, SECOND | PTE_P | PTE_RW | PTE_PS);
	put(pd, 2, THIRD | PTE_P | PTE_RW | PTE_PS);
	if (mode == 3) {
		put(root, 2, pd | PTE_P);
		return;
	}
	put(pdpt, 0, pd | PTE_P | PTE_RW);
	put(root, 2, pdpt | PTE_P | PTE_RW);
}

static void fill_tables(gpa_t root)
{
	for (int level = 1; level < mode; level++)
		for (unsigned n = 0; n < POOL / 2; n++)
			for (unsigned i = 0; i < few_indices(level); i++)
				put(pool(level, n), index_of(level, i), random_entry(level));
	for (unsigned i = 0; i < 2; i++)
		put(root, i, mode == 3 ? pool(2, i) | PTE_P : random_entry(mode) | PTE_P);
	map_window(root);
}

static void start(int levels, uint64_t cr0, uint64_t cr4)
{
	mode = levels;
	fake.cr0 = X86_CR0_PE | X86_CR0_PG | cr0;
	fake.cr4 = (levels == 2 ? X86_CR4_PSE : X86_CR4_PAE) | cr4;
	fake.efer = levels == 4 ? EFER_LME | EFER_LMA | EFER_NX : levels == 3 ? EFER_NX : 0;
	memset(ram, 0, RAM_PAGES << PAGE_SHIFT);
	fill_tables(0x4000);
	fill_tables(0x5000);
	fake.cr3 = 0x4000;
	load_pdptrs();
	kvm_mmu_reset_context(vcpu);
	serve_requests();
}

static uint64_t leaves(int level)
{
	struct kvm_mmu_usage u;

	kvm_mmu_usage(vm, &u);
	return u.leaves[level];
}

static void random_run(int levels, uint64_t cr0, uint64_t cr4)
{
	uint64_t large = 0;

	start(levels, cr0, cr4);
	for (int n = 0; n < 6000; n++) {
		uint64_t what = rnd(64);

		if (what < 16)
			random_store();
		else if (what == 16)
			load_cr3(fake.cr3 ^ 0x1000);
		else if (what == 17)
			kvm_mmu_invalidate_hva_range((uintptr_t)ram + (rnd(RAM_PAGES) << PAGE_SHIFT),
						     (uintptr_t)ram + (RAM_PAGES << PAGE_SHIFT));
		else if (what == 18 && !rnd(8))
			assert_int_equal(set_slot(0, n & 1 ? KVM_MEM_LOG_DIRTY_PAGES : 0, 0,
						  RAM_PAGES << PAGE_SHIFT, ram), 0);
		else
			random_access();
		large += leaves(2);
		if (n % 64 == 0)
			assert_int_equal(mmu_check(vm), 0);
	}
	assert_true(leaves(1) > 0);
	assert_true(large > 0);
}

static void four_level_tables_at_random_translate_as_the_guest_walk(void **state)
{
	random_run(4, X86_CR0_WP, 0);
}

static void four_level_tables_without_wp_and_with_smep(void **state)
{
	random_run(4, 0, X86_CR4_SMEP);
}

static void four_level_tables_with_smep_and_smap(void **state)
{
	random_run(4, X86_CR0_WP, X86_CR4_SMEP | X86_CR4_SMAP);
}

static void pae_tables_at_random_translate_as_the_guest_walk(void **state)
{
	random_run(3, X86_CR0_WP, 0);
}

static void tables_of_32_bit_entries_translate_as_the_guest_walk(void **state)
{
	random_run(2, X86_CR0_WP, 0);
}

static void tables_of_32_bit_entries_without_wp(void **state)
{
	random_run(2, 0, 0);
}

/* --- one thing each --- */

static void without_paging_linear_is_physical(void **state)
{
	uint64_t host;

	mode = 3; /* the processor's, whatever the guest's */
	fake.cr0 = X86_CR0_PE;
	fake.cr4 = fake.efer = 0;
	kvm_mmu_reset_context(vcpu);
	assert_int_equal(access_guest(0x41234, PFERR_WRITE_MASK, &host), ACCESS_OK);
	assert_int_equal(host, (uintptr_t)ram + 0x41234);
	assert_int_equal(access_guest(0xc0000000, PFERR_WRITE_MASK, &host), ACCESS_EMULATE);
}

/* A window page and its PTE, for the tests below. */
static void simple(void)
{
	start(4, X86_CR0_WP, 0);
}

static void leaf_table_goes_unsync_by_a_write_and_syncs_on_cr3(void **state)
{
	uint64_t host, first = FIRST_DATA << 12, e;
	gva_t gva = WINDOW_4LEVEL + first;

	simple();
	assert_int_equal(access_guest(gva, 0, &host), ACCESS_OK);
	/* the PTE of `gva`, by the window: an ordinary store, without a trap from the second on */
	e = (FIRST_DATA + 1) << 12 | PTE_P | PTE_RW | PTE_A;
	guest_store(0x3000 + FIRST_DATA * 8, &e, 8);
	assert_int_equal(hardware_walk(WINDOW_4LEVEL + 0x3000, PFERR_WRITE_MASK, &host), 0);
	/* as a TLB: stale until told */
	assert_int_equal(hardware_walk(gva, 0, &host), 0);
	assert_int_equal(host, (uintptr_t)ram + first);
	load_cr3(fake.cr3);
	assert_int_equal(access_guest(gva, 0, &host), ACCESS_OK);
	assert_int_equal(host, (uintptr_t)ram + first + PAGE_SIZE);
	/* sync again: protected again */
	assert_int_not_equal(hardware_walk(WINDOW_4LEVEL + 0x3000, PFERR_WRITE_MASK, &host), 0);
}

static void write_to_an_upper_table_is_emulated_and_drops_the_entry(void **state)
{
	uint64_t host, zero = 0;

	simple();
	assert_int_equal(access_guest(WINDOW_4LEVEL, 0, &host), ACCESS_OK);
	assert_int_equal(access_guest(WINDOW_4LEVEL + 0x2000, PFERR_WRITE_MASK, &host), ACCESS_EMULATE);
	assert_int_equal(kvm_vcpu_write_guest(vcpu, 0x2000, &zero, 8), 0);
	kvm_mmu_track_write(vcpu, 0x2000, &zero, 8);
	serve_requests();
	assert_int_not_equal(hardware_walk(WINDOW_4LEVEL, 0, &host), 0);
	assert_int_equal(access_guest(WINDOW_4LEVEL, 0, &host), ACCESS_FAULT);
	assert_int_equal(injected.error_code, 0);
}

static void three_writes_in_a_row_end_a_tables_protection(void **state)
{
	uint64_t host, zero = 0;

	simple();
	assert_int_equal(access_guest(WINDOW_4LEVEL, 0, &host), ACCESS_OK);
	for (int i = 1; i < 4; i++)
		kvm_mmu_track_write(vcpu, 0x2000 + 8 * (gpa_t)i, &zero, 8);
	serve_requests();
	assert_int_not_equal(hardware_walk(WINDOW_4LEVEL, 0, &host), 0);
	assert_int_equal(mmu_check(vm), 0);
}

static void dirty_log_of_a_slot_sees_each_page_again(void **state)
{
	uint64_t bitmap[RAM_PAGES / 64], host;
	struct kvm_dirty_log log = { .slot = 0, .dirty_bitmap = bitmap };
	gva_t gva = WINDOW_4LEVEL + (FIRST_DATA << 12);

	simple();
	assert_int_equal(set_slot(0, KVM_MEM_LOG_DIRTY_PAGES, 0, RAM_PAGES << PAGE_SHIFT, ram), 0);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(access_guest(gva, PFERR_WRITE_MASK, &host), ACCESS_OK);
		assert_int_equal(kvm_vm_ioctl_get_dirty_log(vm, &log), 0);
		assert_true(bitmap[FIRST_DATA / 64] & BIT_ULL(FIRST_DATA % 64));
		assert_int_equal(kvm_vm_ioctl_get_dirty_log(vm, &log), 0);
		assert_false(bitmap[FIRST_DATA / 64] & BIT_ULL(FIRST_DATA % 64));
	}
}

static void a_read_leaves_its_page_clean(void **state)
{
	uint64_t bitmap[RAM_PAGES / 64], host;
	struct kvm_dirty_log log = { .slot = 0, .dirty_bitmap = bitmap };
	gva_t gva = WINDOW_4LEVEL + ((FIRST_DATA + 1) << 12);

	simple();
	assert_int_equal(set_slot(0, KVM_MEM_LOG_DIRTY_PAGES, 0, RAM_PAGES << PAGE_SHIFT, ram), 0);
	assert_int_equal(access_guest(gva, 0, &host), ACCESS_OK);
	assert_int_equal(kvm_vm_ioctl_get_dirty_log(vm, &log), 0);
	assert_false(bitmap[(FIRST_DATA + 1) / 64] & BIT_ULL((FIRST_DATA + 1) % 64));
}

/* --- large leaves --- */

/* Page `n` of the third 2 MiB, by the window's large page. */
static gva_t third(unsigned n)
{
	return WINDOW_4LEVEL + THIRD + n * PAGE_SIZE;
}

static void large_page_of_guest_and_host_is_one_leaf(void **state)
{
	uint64_t host;

	simple();
	assert_int_equal(access_guest(third(5), PFERR_WRITE_MASK, &host), ACCESS_OK);
	assert_int_equal(hardware_walk(third(511), PFERR_WRITE_MASK, &host), 0);
	assert_int_equal(host, (uintptr_t)ram + THIRD + 511 * PAGE_SIZE);
	assert_int_equal(leaves(2), 1);
	/* the host's mapping of one page goes, and with it the leaf */
	kvm_mmu_invalidate_hva_range((uintptr_t)ram + THIRD + 7 * PAGE_SIZE, (uintptr_t)ram + THIRD + 8 * PAGE_SIZE);
	assert_int_equal(leaves(2), 0);
	assert_int_equal(mmu_check(vm), 0);
}

static void without_paging_leaves_are_large_where_there_are_no_tables(void **state)
{
	uint64_t host;

	mode = 3;
	fake.cr0 = X86_CR0_PE;
	fake.cr4 = fake.efer = 0;
	kvm_mmu_reset_context(vcpu);
	assert_int_equal(access_guest(THIRD + 0x1234, PFERR_WRITE_MASK, &host), ACCESS_OK);
	assert_int_equal(host, (uintptr_t)ram + THIRD + 0x1234);
	assert_int_equal(leaves(2), 1);
	assert_int_equal(mmu_check(vm), 0);
}

/* The slot ends within the guest's 2 MiB; the guest's page is one of 4 KiB. */
static void small_page_on_either_side_is_a_small_leaf(void **state)
{
	uint64_t host;

	simple();
	assert_int_equal(set_slot(0, 0, 0, 0, NULL), 0);
	assert_int_equal(set_slot(0, 0, 0, (RAM_PAGES - 1) << PAGE_SHIFT, ram), 0);
	assert_int_equal(access_guest(third(5), PFERR_WRITE_MASK, &host), ACCESS_OK);
	assert_int_equal(leaves(2), 0);
	assert_int_equal(set_slot(0, 0, 0, 0, NULL), 0);
	assert_int_equal(set_slot(0, 0, 0, RAM_PAGES << PAGE_SHIFT, ram), 0);
	simple();
	assert_int_equal(access_guest(third(5), PFERR_WRITE_MASK, &host), ACCESS_OK);
	assert_int_equal(leaves(2), 1);
	assert_int_equal(access_guest(WINDOW_4LEVEL + (FIRST_DATA << 12), PFERR_WRITE_MASK, &host), ACCESS_OK);
	assert_int_equal(leaves(2), 1);
}

static void table_inside_a_large_page_makes_it_small(void **state)
{
	gpa_t table = THIRD + 9 * PAGE_SIZE;
	uint64_t host, e = table | PTE_P | PTE_RW;

	simple();
	assert_int_equal(access_guest(third(5), PFERR_WRITE_MASK, &host), ACCESS_OK);
	assert_int_equal(leaves(2), 1);
	put(fake.cr3, 3, e); /* a PDPT there, which is empty */
	assert_int_equal(access_guest(3ULL << 39, 0, &host), ACCESS_FAULT);
	assert_int_equal(leaves(2), 1);
	put(table, 0, 0x2000 | PTE_P | PTE_RW); /* now the window's PD is below it */
	assert_int_equal(access_guest(3ULL << 39, 0, &host), ACCESS_OK);
	assert_false(shadow_allows_level(vm->mmu_vm, table >> PAGE_SHIFT, 2));
	assert_true(shadow_allows_level(vm->mmu_vm, table >> PAGE_SHIFT, 1));
	assert_int_equal(hardware_walk(third(5), 0, &host), 0);
	assert_int_not_equal(hardware_walk(third(5), PFERR_WRITE_MASK, &host), 0);
	assert_int_equal(mmu_check(vm), 0);
	assert_int_equal(access_guest(third(5), PFERR_WRITE_MASK, &host), ACCESS_OK);
	assert_int_equal(host, (uintptr_t)ram + THIRD + 5 * PAGE_SIZE);
	assert_int_equal(access_guest(third(9), PFERR_WRITE_MASK, &host), ACCESS_EMULATE);
	assert_int_equal(mmu_check(vm), 0);
	/* nobody has it as a table any more: large again, once the small ones have gone */
	assert_int_equal(set_slot(0, KVM_MEM_LOG_DIRTY_PAGES, 0, RAM_PAGES << PAGE_SHIFT, ram), 0);
	assert_int_equal(set_slot(0, 0, 0, RAM_PAGES << PAGE_SHIFT, ram), 0);
	assert_int_equal(access_guest(third(9), PFERR_WRITE_MASK, &host), ACCESS_OK);
	assert_int_equal(leaves(2), 1);
}

static void dirty_log_makes_large_leaves_small_until_it_ends(void **state)
{
	uint64_t bitmap[RAM_PAGES / 64], host, dirty = 0;
	struct kvm_dirty_log log = { .slot = 0, .dirty_bitmap = bitmap };

	simple();
	assert_int_equal(access_guest(third(5), PFERR_WRITE_MASK, &host), ACCESS_OK);
	assert_int_equal(set_slot(0, KVM_MEM_LOG_DIRTY_PAGES, 0, RAM_PAGES << PAGE_SHIFT, ram), 0);
	assert_int_not_equal(hardware_walk(third(5), PFERR_WRITE_MASK, &host), 0);
	assert_int_equal(access_guest(third(6), PFERR_WRITE_MASK, &host), ACCESS_OK);
	assert_int_equal(leaves(2), 0);
	assert_int_equal(kvm_vm_ioctl_get_dirty_log(vm, &log), 0);
	for (unsigned i = 0; i < RAM_PAGES / 64; i++)
		dirty += (uint64_t)__builtin_popcountll(bitmap[i]);
	assert_int_equal(dirty, 1);
	assert_true(bitmap[(THIRD >> 12) / 64] & BIT_ULL(6));
	assert_int_equal(set_slot(0, 0, 0, RAM_PAGES << PAGE_SHIFT, ram), 0);
	assert_int_equal(access_guest(third(6), PFERR_WRITE_MASK, &host), ACCESS_OK);
	assert_int_equal(leaves(2), 1);
	assert_int_equal(mmu_check(vm), 0);
}

static void page_of_1_gib_is_one_leaf_until_a_table_is_inside(void **state)
{
	const uint64_t gib = 1ULL << 30;
	char *m = get_memory(gib, gib, PROT_READ | PROT_WRITE);
	gva_t gva = WINDOW_4LEVEL + gib;
	uint64_t host;

	simple();
	assert_int_equal(set_slot(1, 0, gib, gib, m), 0);
	put(0x1000, 1, gib | PTE_P | PTE_RW | PTE_PS);
	assert_int_equal(access_guest(gva + 0x123456, PFERR_WRITE_MASK, &host), ACCESS_OK);
	assert_int_equal(leaves(3), 1);
	assert_int_equal(hardware_walk(gva + gib - 8, PFERR_WRITE_MASK, &host), 0);
	assert_int_equal(host, (uintptr_t)m + gib - 8);
	*(uint64_t *)(void *)m = 0x2000 | PTE_P | PTE_RW;
	put(fake.cr3, 3, gib | PTE_P | PTE_RW); /* its first page is a PDPT */
	assert_int_equal(access_guest(3ULL << 39, 0, &host), ACCESS_OK);
	assert_int_not_equal(hardware_walk(gva + gib - 8, PFERR_WRITE_MASK, &host), 0);
	assert_int_equal(access_guest(gva + gib - 8, PFERR_WRITE_MASK, &host), ACCESS_OK);
	assert_int_equal(host, (uintptr_t)m + gib - 8);
	assert_int_equal(leaves(3), 0);
	assert_int_equal(leaves(2), 1);
	assert_int_equal(access_guest(gva, PFERR_WRITE_MASK, &host), ACCESS_EMULATE);
	assert_int_equal(mmu_check(vm), 0);
	assert_int_equal(set_slot(1, 0, gib, 0, NULL), 0);
	munmap(m, gib);
}

static void slot_deletion_drops_every_shadow_page(void **state)
{
	struct kvm_mmu_usage u;
	uint64_t host;

	simple();
	assert_int_equal(access_guest(WINDOW_4LEVEL, 0, &host), ACCESS_OK);
	assert_int_equal(set_slot(0, 0, 0, 0, NULL), 0);
	kvm_mmu_usage(vm, &u);
	assert_int_equal(u.table_pages, 0);
	assert_int_equal(u.leaves[1], 0);
	assert_true(kvm_test_request(KVM_REQ_MMU_RELOAD, vcpu));
}

static void returning_to_a_cr3_with_no_flush_keeps_its_root(void **state)
{
	hpa_t first;

	simple();
	first = fake.loaded_root;
	load_cr3(0x5000);
	assert_true(fake.loaded_root != first);
	fake.cr3 = 0x4000;
	kvm_mmu_new_cr3(vcpu, fake.cr3, true);
	assert_int_equal(fake.loaded_root, first);
	assert_false(kvm_test_request(KVM_REQ_MMU_SYNC, vcpu));
}

static int shadow_setup(void **state)
{
	static struct kvm_mmu_guest_ops with_inject;

	setup(state);
	with_inject = guest;
	with_inject.inject_page_fault = inject;
	kvm_mmu_register_guest(&with_inject, &vendor);
	ram = get_memory(RAM_PAGES << PAGE_SHIFT, 2UL << 20, PROT_READ | PROT_WRITE);
	return set_slot(0, 0, 0, RAM_PAGES << PAGE_SHIFT, ram);
}

#define SHADOW(f) cmocka_unit_test_setup_teardown(f, shadow_setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SHADOW(without_paging_linear_is_physical),
		SHADOW(leaf_table_goes_unsync_by_a_write_and_syncs_on_cr3),
		SHADOW(write_to_an_upper_table_is_emulated_and_drops_the_entry),
		SHADOW(three_writes_in_a_row_end_a_tables_protection),
		SHADOW(dirty_log_of_a_slot_sees_each_page_again),
		SHADOW(large_page_of_guest_and_host_is_one_leaf),
		SHADOW(without_paging_leaves_are_large_where_there_are_no_tables),
		SHADOW(small_page_on_either_side_is_a_small_leaf),
		SHADOW(table_inside_a_large_page_makes_it_small),
		SHADOW(dirty_log_makes_large_leaves_small_until_it_ends),
		SHADOW(page_of_1_gib_is_one_leaf_until_a_table_is_inside),
		SHADOW(slot_deletion_drops_every_shadow_page),
		SHADOW(returning_to_a_cr3_with_no_flush_keeps_its_root),
		SHADOW(four_level_tables_at_random_translate_as_the_guest_walk),
		SHADOW(four_level_tables_without_wp_and_with_smep),
		SHADOW(four_level_tables_with_smep_and_smap),
		SHADOW(pae_tables_at_random_translate_as_the_guest_walk),
		SHADOW(tables_of_32_bit_entries_translate_as_the_guest_walk),
		SHADOW(tables_of_32_bit_entries_without_wp),
		SHADOW(a_read_leaves_its_page_clean),
	};

	setenv("USERKVM_PARAMS", "ept=0", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
