/*
 * Aging, entry by entry. meson.build runs it with accessed bits and without. Under load, with the real processor:
 * test_age_load.c.
 */
#include "mmu/internal.h"

#include "fixture.h"

#include "use.h"

static char *mem;

/* 4 KiB leaves at 0..1 MiB, huge ones from 2 MiB on. */
static void make_memory(uint32_t flags)
{
	mem = get_memory(8 * MIB, 2 * MIB, PROT_READ | PROT_WRITE);
	assert_int_equal(set_slot(0, 0, 0, MIB, mem), 0);
	assert_int_equal(set_slot(1, flags, 2 * MIB, 4 * MIB, mem + 2 * MIB), 0);
	for (gpa_t gpa = 0; gpa < 16 * 4096; gpa += 4096)
		touch(gpa, PFERR_WRITE_MASK);
	touch(2 * MIB, PFERR_WRITE_MASK);
}

static void aged_pages_are_idle_until_they_are_used(void **state)
{
	make_memory(0);
	assert_int_equal(kvm_mmu_test_age(vm, 0, 0, ~0ULL), 16 + 512);
	assert_int_equal(kvm_mmu_test_age(vm, 0, 2, 5), 3);
	assert_int_equal(kvm_mmu_age(vm, 0, 4, 8), 4);
	assert_int_equal(kvm_mmu_test_age(vm, 0, 0, 16), 12);
	assert_int_equal(mmu_check(vm), 0);
	assert_int_equal(kvm_mmu_age(vm, 0, 0, ~0ULL), 12 + 512);
	assert_int_equal(kvm_mmu_age(vm, 0, 0, ~0ULL), 0);
	assert_int_equal(kvm_mmu_age(vm, 1, 0, ~0ULL), 0);
	assert_int_equal(mmu_check(vm), 0);
	use(0x3000, 0);
	use(0x4000, PFERR_WRITE_MASK);
	use(2 * MIB + 0x5000, 0);
	assert_int_equal(kvm_mmu_test_age(vm, 0, 3, 4), 1);
	assert_int_equal(kvm_mmu_test_age(vm, 0, 0, ~0ULL), 2 + 512);
	assert_int_equal(mmu_check(vm), 0);
	assert_int_equal(set_slot(1, 0, 2 * MIB, 0, NULL), 0);
	assert_int_equal(kvm_mmu_age(vm, 0, 0, ~0ULL), 2);
}

static void host_memory_is_aged_in_every_slot_that_has_it(void **state)
{
	make_memory(0);
	assert_int_equal(set_slot(2, 0, 16 * MIB, 0x4000, mem + 0x2000), 0);
	touch(16 * MIB, 0);
	kvm_mmu_age_hva_range((uintptr_t)mem + 0x2001, (uintptr_t)mem + 0x3001);
	assert_int_equal(kvm_mmu_test_age(vm, 0, 0, 16), 14);
	assert_int_equal(kvm_mmu_test_age(vm, 0, 16 * MIB >> 12, ~0ULL), 0);
}

static void aging_takes_no_write_access_for_good(void **state)
{
	uint64_t e;
	int level;

	make_memory(0);
	kvm_mmu_age(vm, 0, 0, ~0ULL);
	use(0x1000, 0); /* a read first */
	use(2 * MIB, 0);
	if (!ad()) {
		e = ept_entry(0x1000, &level);
		assert_true(e & EPT_READ && !(e & EPT_WRITE) && e & EPT_EXEC);
		touch(0x1000, PFERR_WRITE_MASK);
		touch(2 * MIB, PFERR_WRITE_MASK);
		assert_int_equal(vcpu->stat.pf_fast, 4);
	}
	assert_true(ept_entry(0x1000, &level) & EPT_WRITE);
	assert_true(ept_entry(2 * MIB, &level) & EPT_WRITE);
	assert_int_equal(level, 2);
}

static void dirty_log_misses_no_write_to_an_aged_page(void **state)
{
	uint64_t bits[16];
	struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = bits };

	make_memory(0);
	assert_int_equal(set_slot(1, KVM_MEM_LOG_DIRTY_PAGES, 2 * MIB, 4 * MIB, mem + 2 * MIB), 0);
	kvm_mmu_age(vm, 0, 0, ~0ULL);
	assert_int_equal(kvm_vm_ioctl_get_dirty_log(vm, &log), 0);
	touch(2 * MIB + 0x1000, 0);
	assert_int_equal(mmu_check(vm), 0);
	assert_int_equal(kvm_vm_ioctl_get_dirty_log(vm, &log), 0);
	assert_int_equal(bits[0], 0);
	kvm_mmu_age(vm, 0, 0, ~0ULL);
	touch(2 * MIB + 0x1000, PFERR_WRITE_MASK);
	touch(2 * MIB + 0x2000, 0);
	assert_int_equal(mmu_check(vm), 0);
	assert_int_equal(kvm_vm_ioctl_get_dirty_log(vm, &log), 0);
	assert_int_equal(bits[0], 2);
}

/* Aged, then split lazily by a write: the other 511 stay idle and writable. */
static void an_aged_huge_leaf_is_split_as_it_is(void **state)
{
	make_memory(0);
	kvm_mmu_age(vm, 0, 0, ~0ULL);
	assert_int_equal(set_slot(1, KVM_MEM_LOG_DIRTY_PAGES, 2 * MIB, 4 * MIB, mem + 2 * MIB), 0);
	touch(2 * MIB + 0x3000, PFERR_WRITE_MASK);
	use(2 * MIB + 0x3000, PFERR_WRITE_MASK);
	assert_int_equal(kvm_mmu_test_age(vm, 0, 512, ~0ULL), 1);
	touch(2 * MIB + 0x7000, PFERR_WRITE_MASK);
	use(2 * MIB + 0x7000, PFERR_WRITE_MASK);
	assert_int_equal(kvm_mmu_test_age(vm, 0, 512, ~0ULL), 2);
}

/* It has taken the accessed state, and not flushed: processors may go on with what they have. */
static void another_ager_in_between_is_flushed_for(void **state)
{
	uint64_t *requests = &vm->stat.remote_tlb_flush_requests, before;

	make_memory(0);
	kvm_mmu_age(vm, 0, 0, ~0ULL);
	before = *requests;
	mmu_age_begin(vm); /* the other */
	assert_int_equal(kvm_mmu_age(vm, 0, 0, ~0ULL), 0);
	assert_int_equal(*requests, before + 1);
	kvm_mmu_age_hva_range((uintptr_t)mem, (uintptr_t)mem + 4096);
	assert_int_equal(*requests, before + 2);
	mmu_age_end(vm, 0);
	assert_int_equal(kvm_mmu_age(vm, 0, 0, ~0ULL), 0);
	assert_int_equal(*requests, before + 2);
}

static const struct CMUnitTest tests[] = {
	TEST(aged_pages_are_idle_until_they_are_used),
	TEST(host_memory_is_aged_in_every_slot_that_has_it),
	TEST(aging_takes_no_write_access_for_good),
	TEST(dirty_log_misses_no_write_to_an_aged_page),
	TEST(an_aged_huge_leaf_is_split_as_it_is),
	TEST(another_ager_in_between_is_flushed_for),
};

int main(void)
{
	return cmocka_run_group_tests(tests, NULL, NULL);
}
