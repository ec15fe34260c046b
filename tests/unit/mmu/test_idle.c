/*
 * Idle flags of host pages. meson.build runs it with accessed bits and without.
 */
#include <stdlib.h>
#include <sys/resource.h>

#include "mmu/internal.h"

#include "use.h"

#define PAGE(n) ((hva_t)(uintptr_t)mem + (n) * PAGE_SIZE)
#define SECOND_GPA (16 * MIB)

static char *mem;

/* 4 KiB leaves at 0..64 KiB, a huge one at 2 MiB; all just accessed. */
static void make_memory(void)
{
	mem = get_memory(8 * MIB, 2 * MIB, PROT_READ | PROT_WRITE);
	assert_int_equal(set_slot(0, 0, 0, MIB, mem), 0);
	assert_int_equal(set_slot(1, 0, 2 * MIB, 4 * MIB, mem + 2 * MIB), 0);
	for (gpa_t gpa = 0; gpa < 16 * 4096; gpa += 4096)
		touch(gpa, PFERR_WRITE_MASK);
	touch(2 * MIB, PFERR_WRITE_MASK);
}

static void set_idle(uint64_t page)
{
	hva_t hva = PAGE(page);

	assert_int_equal(kvm_mmu_set_idle(&hva, 1), 0);
}

static bool is_idle(uint64_t page)
{
	hva_t hva = PAGE(page);

	return kvm_mmu_test_idle(&hva, 1);
}

static void a_page_is_idle_from_its_mark_to_its_use(void **state)
{
	hva_t hva[] = { PAGE(1), PAGE(2), PAGE(3) };

	make_memory();
	for (int i = 0; i < 3; i++)
		hva[i] = PAGE(1 + i);
	assert_int_equal(kvm_mmu_test_idle(hva, 3), 0);
	assert_int_equal(kvm_mmu_set_idle(hva, 3), 0);
	assert_int_equal(kvm_mmu_test_idle(hva, 3), 7);
	assert_int_equal(mmu_check(vm), 0);
	use(0x2000, 0);
	use(0x4000, 0);
	assert_int_equal(kvm_mmu_test_idle(hva, 3), 5);
	kvm_mmu_age(vm, 0, 0, ~0ULL);
	assert_int_equal(kvm_mmu_test_idle(hva, 3), 5); /* once seen, the flag is gone */
	kvm_mmu_clear_idle(hva[0]);
	assert_int_equal(kvm_mmu_test_idle(hva, 3), 4);
}

static void what_somebody_else_ages_or_drops_counts_as_accessed(void **state)
{
	make_memory();
	set_idle(1);
	set_idle(2);
	set_idle(3);
	use(0x1000, 0);
	kvm_mmu_age(vm, 0, 0, ~0ULL);
	assert_false(is_idle(1));
	assert_true(is_idle(2));
	use(0x2000, 0);
	assert_int_equal(set_slot(0, 0, 0, 0, NULL), 0); /* the leaves go */
	assert_int_equal(set_slot(0, 0, 0, MIB, mem), 0);
	assert_false(is_idle(2));
	assert_true(is_idle(3));
}

static void a_whole_table_that_goes_takes_the_flags_of_what_was_accessed(void **state)
{
	make_memory();
	/* 4 KiB leaves, as guest and host are out of step; their table is unlinked in one. */
	assert_int_equal(set_slot(2, 0, GIB, 4 * MIB, mem + 0x1000), 0);
	assert_int_equal(set_slot(0, 0, 0, 0, NULL), 0);
	touch(GIB + 0x4000, PFERR_WRITE_MASK);
	touch(GIB + 0x5000, PFERR_WRITE_MASK);
	set_idle(5);
	set_idle(6);
	use(GIB + 0x4000, 0);
	assert_int_equal(set_slot(2, 0, GIB, 0, NULL), 0);
	assert_int_equal(set_slot(2, 0, GIB, 4 * MIB, mem + 0x1000), 0);
	assert_false(is_idle(5));
	assert_true(is_idle(6));
}

/* The A bit is the whole leaf's: what it is taken for from one page, the others must not lose. */
static void pages_of_a_huge_leaf_are_accessed_together(void **state)
{
	make_memory();
	set_idle(512 + 7);
	set_idle(512 + 8);
	assert_true(is_idle(512 + 7) && is_idle(512 + 8));
	assert_false(is_idle(512 + 9));
	use(2 * MIB + 0x9000, 0);
	set_idle(512 + 9); /* ages the leaf */
	assert_false(is_idle(512 + 7));
	assert_false(is_idle(512 + 8));
	assert_true(is_idle(512 + 9));
	use(2 * MIB, 0);
	assert_false(is_idle(512 + 9));
}

static void memory_in_two_slots_is_accessed_by_either(void **state)
{
	make_memory();
	assert_int_equal(set_slot(2, 0, SECOND_GPA, 0x4000, mem), 0);
	touch(SECOND_GPA + 0x1000, 0);
	set_idle(1);
	assert_true(is_idle(1));
	use(SECOND_GPA + 0x1000, 0);
	assert_false(is_idle(1));
	set_idle(1);
	use(0x1000, 0);
	assert_false(is_idle(1));
}

static void what_is_no_guest_memory_is_never_idle(void **state)
{
	make_memory();
	set_idle(256 + 16); /* between the slots */
	assert_false(is_idle(256 + 16));
	assert_int_equal(set_slot(2, 0, SECOND_GPA, 0x1000, (void *)(uintptr_t)PAGE(256 + 16)), 0);
	assert_false(is_idle(256 + 16)); /* it was not remembered either */
	set_idle(3);
	assert_int_equal(set_slot(0, 0, 0, 0, NULL), 0);
	assert_false(is_idle(3));
}

static void a_change_of_the_mapping_takes_the_flags(void **state)
{
	struct kvm_mmu_invalidation inv;

	make_memory();
	for (uint64_t page = 0; page < 8; page++)
		set_idle(page);
	kvm_mmu_invalidate_hva_range(PAGE(1), PAGE(2));
	kvm_mmu_invalidate_begin(&inv, PAGE(3), PAGE(5));
	assert_false(is_idle(3));
	set_idle(4); /* in between: what is there may be of before or after */
	kvm_mmu_invalidate_end(&inv);
	for (uint64_t page = 0; page < 8; page++)
		assert_int_equal(is_idle(page), page != 1 && page != 3 && page != 4);
	/* memory that no VM has at the time, too */
	assert_int_equal(set_slot(0, 0, 0, 0, NULL), 0);
	kvm_mmu_invalidate_begin(&inv, PAGE(6), PAGE(7));
	kvm_mmu_invalidate_end(&inv);
	assert_int_equal(set_slot(0, 0, 0, MIB, mem), 0);
	assert_false(is_idle(6));
	assert_true(is_idle(7));
}

/* Its tables go without anybody looking at them. */
static void a_vm_that_ends_takes_the_flags_of_its_memory(void **state)
{
	struct kvm_userspace_memory_region m = { 0 };
	struct kvm *other;

	make_memory();
	m = (struct kvm_userspace_memory_region){ 0, 0, 0, 0x2000, PAGE(0) };
	assert_int_equal(kvm_create_vm(&other), 0);
	assert_int_equal(kvm_vm_ioctl_set_memory_region(other, &m), 0);
	set_idle(1);
	set_idle(2);
	kvm_put_kvm(other);
	assert_false(is_idle(1));
	assert_true(is_idle(2));
}

static void no_memory_for_a_flag_gives_enomem_and_leaves_it_clear(void **state)
{
	struct rlimit before, none;
	hva_t far = 0x5a5a00000000;

	assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
	none = (struct rlimit){ 1, before.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_AS, &none), 0);
	assert_int_equal(mmu_idle_set(far), -ENOMEM);
	assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
	assert_false(mmu_idle_test(far));
	assert_int_equal(mmu_idle_set(far), 0);
	assert_true(mmu_idle_test(far));
	mmu_idle_clear(far, far + PAGE_SIZE);
}

/* Random ranges over the border of two chunks, and beyond the last, against an array of bool. */
static void flags_are_those_of_a_naive_model(void **state)
{
	enum { PAGES = 1024 };
	const hva_t base = 0x600000000000 - PAGES / 2 * PAGE_SIZE, end = 1ULL << 47;
	bool model[PAGES] = { false };

	srand(1);
	for (int round = 0; round < 4000; round++) {
		unsigned a = (unsigned)rand() % PAGES, n = 1 + (unsigned)rand() % (PAGES - a);

		if (rand() % 8) {
			assert_int_equal(mmu_idle_set(base + a * PAGE_SIZE), 0);
			model[a] = true;
		} else {
			n = rand() % 2 ? n : 1;
			mmu_idle_clear(base + a * PAGE_SIZE, base + (a + n) * PAGE_SIZE);
			memset(&model[a], 0, n * sizeof(model[0]));
		}
		for (unsigned i = 0; i < PAGES; i++)
			assert_int_equal(mmu_idle_test(base + i * PAGE_SIZE), model[i]);
	}
	assert_int_equal(mmu_idle_set(end), 0);
	assert_false(mmu_idle_test(end));
	assert_int_equal(mmu_idle_set(end - PAGE_SIZE), 0);
	assert_true(mmu_idle_test(end - PAGE_SIZE));
	mmu_idle_clear(0, ~0ULL);
	assert_false(mmu_idle_test(end - PAGE_SIZE));
	assert_false(mmu_idle_test(base));
}

static const struct CMUnitTest tests[] = {
	TEST(a_page_is_idle_from_its_mark_to_its_use),
	TEST(what_somebody_else_ages_or_drops_counts_as_accessed),
	TEST(a_whole_table_that_goes_takes_the_flags_of_what_was_accessed),
	TEST(pages_of_a_huge_leaf_are_accessed_together),
	TEST(memory_in_two_slots_is_accessed_by_either),
	TEST(what_is_no_guest_memory_is_never_idle),
	TEST(a_change_of_the_mapping_takes_the_flags),
	TEST(a_vm_that_ends_takes_the_flags_of_its_memory),
	TEST(no_memory_for_a_flag_gives_enomem_and_leaves_it_clear),
	TEST(flags_are_those_of_a_naive_model),
};

int main(void)
{
	return cmocka_run_group_tests(tests, NULL, NULL);
}
