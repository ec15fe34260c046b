/*
 * max_table_pages: the tables are never more, those in the way are taken back
 * at every level, and what is left is whole (mmu_check).
 */
#include "fixture.h"

#include <stdlib.h>

#define LIMIT 256
#define CHUNK (2 * MIB)

static uint64_t tables(void)
{
	struct kvm_mmu_usage u;

	kvm_mmu_usage(vm, &u);
	return u.table_pages;
}

static void fault_in(gpa_t gpa)
{
	uint64_t e;
	int level, tries = 0;

	do {
		assert_true(goes_on(take_fault(vcpu, gpa, PFERR_WRITE_MASK)));
		assert_true(tables() <= LIMIT);
		e = ept_entry(gpa, &level);
		assert_true(++tries < 4);
	} while (!(e & EPT_WRITE));
}

static void tables_of_4k_leaves_are_taken_back(void **state)
{
	char *m = get_memory(2 * GIB + 4096, CHUNK, PROT_READ | PROT_WRITE) + 4096;

	madvise(m, 2 * GIB, MADV_NOHUGEPAGE);
	assert_int_equal(set_slot(0, 0, 0, 2 * GIB, m), 0);
	for (int round = 0; round < 2; round++) {
		for (gpa_t gpa = 0; gpa < 2 * GIB; gpa += CHUNK)
			fault_in(gpa);
		assert_int_equal(mmu_check(vm), 0);
	}
	assert_true(vm->stat.mmu_recycled > 1024);
	assert_true(host_frames_in_use() - frames_before <= LIMIT + 64);
}

/* One page in each 512 GiB: every one wants three tables. */
static void upper_tables_are_taken_back_when_none_is_below(void **state)
{
	char *m = get_memory(4096, 4096, PROT_READ | PROT_WRITE);

	for (uint32_t i = 0; i < 250; i++)
		assert_int_equal(set_slot(i, 0, i * 512 * GIB, 4096, m), 0);
	for (int round = 0; round < 2; round++)
		for (uint32_t i = 0; i < 250; i++)
			fault_in(i * 512 * GIB);
	assert_true(vm->stat.mmu_recycled > 250);
}

static void huge_leaves_are_split_as_far_as_the_limit_goes(void **state)
{
	char *m = get_memory(2 * GIB, 1 * GIB, PROT_READ | PROT_WRITE);
	struct kvm_mmu_usage u;

	madvise(m, 2 * GIB, MADV_NOHUGEPAGE);
	/* not a multiple of 1 GiB from its end: 2 MiB leaves */
	assert_int_equal(set_slot(0, 0, 512 * MIB, 2 * GIB - 512 * MIB, m + 512 * MIB), 0);
	for (gpa_t gpa = 512 * MIB; gpa < GIB; gpa += CHUNK)
		fault_in(gpa);
	for (gpa_t gpa = 1 * GIB; gpa < 2 * GIB; gpa += CHUNK)
		fault_in(gpa);
	assert_int_equal(set_slot(0, KVM_MEM_LOG_DIRTY_PAGES, 512 * MIB, 2 * GIB - 512 * MIB, m + 512 * MIB), 0);
	kvm_mmu_usage(vm, &u);
	assert_true(u.table_pages <= LIMIT && u.leaves[1] > 0);
	assert_int_equal(mmu_check(vm), 0);
	for (gpa_t gpa = 512 * MIB; gpa < 2 * GIB; gpa += CHUNK)
		fault_in(gpa);
	assert_true(vm->stat.mmu_recycled > 0);
}

/* A vCPU's first root is a table too: the limit is reached, so one is taken back for it. */
static void a_root_takes_a_table_back(void **state)
{
	char *m = get_memory(2 * GIB + 4096, CHUNK, PROT_READ | PROT_WRITE) + 4096;
	struct kvm_vcpu *second;

	madvise(m, 2 * GIB, MADV_NOHUGEPAGE);
	assert_int_equal(set_slot(0, 0, 0, 2 * GIB, m), 0);
	kvm_mmu_unload(vcpu);
	assert_int_equal(kvm_mmu_reload(vcpu), 0);
	for (gpa_t gpa = 0; tables() < LIMIT; gpa += CHUNK)
		fault_in(gpa);
	fake.maxphyaddr = 52; /* five levels: another root than the first one's */
	assert_int_equal(kvm_create_vcpu(vm, 1, &second), 0);
	assert_int_equal(kvm_mmu_reload(second), 0);
	assert_non_null(second->mmu->root);
	assert_true(second->mmu->root != vcpu->mmu->root);
	assert_true(tables() <= LIMIT);
	assert_int_equal(mmu_check(vm), 0);
}

static void limits_below_the_least_are_the_least(void **state)
{
	assert_int_equal(kvm_mmu_params()->max_table_pages, LIMIT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(tables_of_4k_leaves_are_taken_back),
		TEST(upper_tables_are_taken_back_when_none_is_below),
		TEST(huge_leaves_are_split_as_far_as_the_limit_goes),
		TEST(a_root_takes_a_table_back),
		TEST(limits_below_the_least_are_the_least),
	};

	setenv("USERKVM_PARAMS", "max_table_pages=3", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
