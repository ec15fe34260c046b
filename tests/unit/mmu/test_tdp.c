/*
 * TDP faults: leaf sizes and bits, rights, what takes translations away.
 */
#include "fixture.h"

#include <stdio.h>

static void first_load_gives_a_root_and_flushes(void **state)
{
	assert_int_not_equal(fake.loaded_root, 0);
	assert_int_equal(fake.loaded_root & 0xfff, 0);
	assert_int_equal(vcpu->mmu->root_hpa, fake.loaded_root);
	assert_int_equal(fake.flushes, 1);
	assert_true(vcpu->mmu->direct_map);
}

static void vcpus_share_a_root_and_smm_has_its_own(void **state)
{
	struct kvm_vcpu *other;
	hpa_t root = vcpu->mmu->root_hpa;

	assert_int_equal(kvm_create_vcpu(vm, 1, &other), 0);
	assert_int_equal(kvm_mmu_reload(other), 0);
	assert_int_equal(other->mmu->root_hpa, root);
	fake.smm = true;
	kvm_mmu_reset_context(other);
	assert_int_equal(other->mmu->root_hpa, INVALID_PAGE);
	assert_int_equal(kvm_mmu_reload(other), 0);
	assert_int_not_equal(other->mmu->root_hpa, root);
	assert_int_equal(other->as_id, 1);
	fake.smm = false;
	kvm_mmu_reset_context(other);
	assert_int_equal(kvm_mmu_reload(other), 0);
	assert_int_equal(other->mmu->root_hpa, root);
}

static void paging_mode_change_keeps_the_root(void **state)
{
	hpa_t root = vcpu->mmu->root_hpa;

	fake.cr0 = X86_CR0_PE | X86_CR0_PG;
	kvm_mmu_reset_context(vcpu);
	assert_int_equal(vcpu->mmu->root_hpa, root);
	assert_int_equal(vcpu->mmu->guest_level, 2);
}

static void read_fault_maps_one_page_of_a_small_slot(void **state)
{
	char *m = get_memory(0x4000, 4096, PROT_READ | PROT_WRITE);
	uint64_t e;
	int level;

	assert_int_equal(set_slot(0, 0, 0x1000, 0x4000, m), 0);
	assert_int_equal(take_fault(vcpu, 0x2345, 0), RET_PF_FIXED);
	e = ept_entry(0x2000, &level);
	assert_int_equal(level, 1);
	assert_int_equal(e & EPT_ADDR_MASK, (uintptr_t)m + 0x1000);
	assert_int_equal(e & EPT_RWX, EPT_RWX);
	assert_int_equal(FIELD_GET(EPT_MEMTYPE_MASK, e), MT_WRBACK);
	assert_true(e & EPT_IPAT && e & EPT_ACCESSED && e & EPT_DIRTY);
	assert_int_equal(ept_entry(0x3000, &level), 0);
	assert_int_equal(vcpu->stat.pf_fixed, 1);
	/* Again: nothing to do. */
	assert_int_equal(take_fault(vcpu, 0x2345, PFERR_WRITE_MASK), RET_PF_SPURIOUS);
	assert_int_equal(vcpu->stat.pf_spurious, 1);
}

/* A write that faults, as the processor reports it. */
static int level_after_fault(gpa_t gpa)
{
	int level;
	uint64_t present = ept_entry(gpa, &level) & EPT_RWX ? PFERR_PRESENT_MASK : 0;

	assert_int_equal(take_fault(vcpu, gpa, PFERR_WRITE_MASK | present), RET_PF_FIXED);
	assert_true(ept_entry(gpa, &level) & EPT_PAGE_SIZE || level == 1);
	return level;
}

static void leaf_size_follows_alignment_and_slot_bounds(void **state)
{
	char *m = get_memory(3 * GIB, GIB, PROT_READ | PROT_WRITE);

	/* 1 GiB inside, 2 MiB at the ragged start, 4 KiB at the very edge */
	assert_int_equal(set_slot(0, 0, GIB - 2 * MIB - 4096, GIB + 4 * MIB + 8192,
				  m + GIB - 2 * MIB - 4096), 0);
	assert_int_equal(level_after_fault(GIB - 2 * MIB - 4096), 1);
	assert_int_equal(level_after_fault(GIB - MIB), 2);
	assert_int_equal(level_after_fault(GIB + 5 * MIB + 123), 3);
	assert_int_equal(level_after_fault(2 * GIB + MIB), 2);
	assert_int_equal(level_after_fault(2 * GIB + 2 * MIB), 1);
	/* guest and host not alike modulo 2 MiB */
	assert_int_equal(set_slot(1, 0, 8 * GIB, 8 * MIB, m + 4096), 0);
	assert_int_equal(level_after_fault(8 * GIB + 2 * MIB), 1);
	munmap(m, 3 * GIB);
}

static void leaf_size_stops_at_a_change_of_host_permissions(void **state)
{
	char *m = get_memory(8 * MIB, 2 * MIB, PROT_READ | PROT_WRITE);

	mprotect(m + 2 * MIB + 8192, 4096, PROT_READ);
	host_mapping_stale();
	assert_int_equal(set_slot(0, 0, 0, 8 * MIB, m), 0);
	assert_int_equal(level_after_fault(0), 2);
	assert_int_equal(level_after_fault(2 * MIB), 1);
	assert_int_equal(level_after_fault(4 * MIB), 2);
	/* The page itself can be read, and a write is the client's mistake. */
	assert_int_equal(take_fault(vcpu, 2 * MIB + 8192, 0), RET_PF_FIXED);
	assert_int_equal(fault_errno(vcpu, 2 * MIB + 8192, PFERR_WRITE_MASK), -EFAULT);
}

static void wrong_picture_heals_after_an_invalidation(void **state)
{
	char *m = get_memory(4 * MIB, 2 * MIB, PROT_READ | PROT_WRITE);

	assert_int_equal(set_slot(0, 0, 0, 4 * MIB, m), 0);
	assert_int_equal(level_after_fault(0), 2);
	munmap(m + 0x5000, 0x1000); /* nobody told us, a processor met the hole */
	host_mapping_update(&(struct host_mapping_change){ (hva_t)(uintptr_t)m + 0x5000, (hva_t)(uintptr_t)m + 0x6000,
							   HOST_MAPPING_GONE, 0 });
	kvm_mmu_invalidate_hva_range((hva_t)(uintptr_t)m + 0x5000, (hva_t)(uintptr_t)m + 0x6000);
	assert_int_equal(fault_errno(vcpu, 0x5000, 0), -EFAULT);
	assert_int_equal(level_after_fault(0), 1);
	assert_int_equal(level_after_fault(2 * MIB), 2);
}

static void unmapped_client_memory_gives_efault(void **state)
{
	char *m = get_memory(0x2000, 4096, PROT_NONE);

	assert_int_equal(set_slot(0, 0, 0, 0x2000, m), 0);
	assert_int_equal(fault_errno(vcpu, 0, 0), -EFAULT);
	munmap(m, 0x2000);
	assert_int_equal(fault_errno(vcpu, 0, PFERR_FETCH_MASK), -EFAULT);
}

static void readonly_slot_reads_and_runs_but_a_write_is_emulated(void **state)
{
	char *m = get_memory(0x2000, 4096, PROT_READ | PROT_WRITE);
	uint64_t e;
	int level;

	assert_int_equal(set_slot(0, KVM_MEM_READONLY, 0, 0x2000, m), 0);
	assert_int_equal(take_fault(vcpu, 0, PFERR_WRITE_MASK), RET_PF_EMULATE);
	assert_int_equal(ept_entry(0, &level), 0);
	assert_int_equal(take_fault(vcpu, 0, PFERR_FETCH_MASK), RET_PF_FIXED);
	e = ept_entry(0, &level);
	assert_int_equal(e & EPT_RWX, EPT_READ | EPT_EXEC);
	assert_int_equal(take_fault(vcpu, 0, PFERR_PRESENT_MASK | PFERR_WRITE_MASK),
			 RET_PF_EMULATE);
}

static void deleting_a_slot_zaps_and_flushes(void **state)
{
	char *m = get_memory(4 * MIB, 2 * MIB, PROT_READ | PROT_WRITE);
	int level;

	assert_int_equal(set_slot(0, 0, 0, 4 * MIB, m), 0);
	assert_int_equal(set_slot(1, 0, 6 * MIB + 4096, 0x4000, m), 0);
	level_after_fault(0);
	level_after_fault(6 * MIB + 4096);
	assert_int_equal(set_slot(0, 0, 0, 0, NULL), 0);
	assert_int_equal(ept_entry(0, &level) & EPT_RWX, 0);
	assert_true(kvm_test_request(KVM_REQ_TLB_FLUSH, vcpu));
	assert_int_not_equal(ept_entry(6 * MIB + 4096, &level), 0); /* its neighbour stays */
}

static void moving_a_slot_takes_its_translations_along(void **state)
{
	char *m = get_memory(0x4000, 4096, PROT_READ | PROT_WRITE);
	int level;

	assert_int_equal(set_slot(0, 0, 0, 0x4000, m), 0);
	level_after_fault(0x1000);
	assert_int_equal(set_slot(0, 0, 0x100000, 0x4000, m), 0);
	assert_int_equal(ept_entry(0x1000, &level), 0);
	assert_int_equal(take_fault(vcpu, 0x1000, 0), RET_PF_EMULATE);
	level_after_fault(0x101000);
	assert_int_equal(ept_entry(0x101000, &level) & EPT_ADDR_MASK, (uintptr_t)m + 0x1000);
}

static void invalidation_by_host_address_reaches_every_slot_there(void **state)
{
	char *m = get_memory(0x4000, 4096, PROT_READ | PROT_WRITE);
	uint64_t seq = vm->mmu_invalidate_seq;
	int level;

	assert_int_equal(set_slot(0, 0, 0, 0x4000, m), 0);
	assert_int_equal(set_slot(1, 0, 0x100000, 0x2000, m + 0x1000), 0);
	level_after_fault(0x0);
	level_after_fault(0x1000);
	level_after_fault(0x100000);
	kvm_mmu_invalidate_hva_range((hva_t)(uintptr_t)m + 0x1000, (hva_t)(uintptr_t)m + 0x2000);
	assert_int_not_equal(ept_entry(0x0, &level), 0);
	assert_int_equal(ept_entry(0x1000, &level), 0);
	assert_int_equal(ept_entry(0x100000, &level), 0);
	assert_int_not_equal(vm->mmu_invalidate_seq, seq);
	seq = vm->mmu_invalidate_seq;
	kvm_mmu_invalidate_hva_range((hva_t)(uintptr_t)m + 0x4000, (hva_t)(uintptr_t)m + 0x5000);
	assert_int_equal(vm->mmu_invalidate_seq, seq); /* not the VM's memory */
}

static void dirty_log_splits_and_protects_and_heals(void **state)
{
	char *m = get_memory(4 * MIB, 2 * MIB, PROT_READ | PROT_WRITE);
	uint64_t bits[4 * MIB / 4096 / 64];
	struct kvm_dirty_log log = { .slot = 0, .dirty_bitmap = bits };
	int level;

	assert_int_equal(set_slot(0, 0, 0, 4 * MIB, m), 0);
	assert_int_equal(level_after_fault(0), 2);
	assert_int_equal(set_slot(0, KVM_MEM_LOG_DIRTY_PAGES, 0, 4 * MIB, m), 0);
	assert_false(ept_entry(0, &level) & EPT_WRITE);
	assert_int_equal(level, 1); /* eager split */
	assert_int_equal(level_after_fault(0x3000), 1);
	assert_true(ept_entry(0x3000, &level) & EPT_WRITE);
	assert_false(ept_entry(0x4000, &level) & EPT_WRITE);
	assert_true(ept_entry(0x4000, &level) & EPT_READ);
	assert_int_equal(mmu_check(vm), 0);
	assert_int_equal(kvm_vm_ioctl_get_dirty_log(vm, &log), 0);
	assert_int_equal(bits[0], 8);
	assert_int_equal(bits[1], 0);
	assert_false(ept_entry(0x3000, &level) & EPT_WRITE);
	/* The fast path gives it back, as it did the first time: the split was eager. */
	assert_int_equal(level_after_fault(0x3000), 1);
	assert_int_equal(vcpu->stat.pf_fast, 2);
	assert_int_equal(kvm_vm_ioctl_get_dirty_log(vm, &log), 0);
	assert_int_equal(bits[0], 8);
	/* One that found nothing there has come too late for it, and does as much. */
	assert_false(ept_entry(0x3000, &level) & EPT_WRITE);
	assert_int_equal(take_fault(vcpu, 0x3000, PFERR_WRITE_MASK), RET_PF_FIXED);
	assert_true(ept_entry(0x3000, &level) & EPT_WRITE);
	assert_int_equal(vcpu->stat.pf_fast, 2);
	assert_int_equal(kvm_vm_ioctl_get_dirty_log(vm, &log), 0);
	assert_int_equal(bits[0], 8);
	/* A read dirties nothing. */
	assert_int_equal(take_fault(vcpu, 2 * MIB, 0), RET_PF_FIXED);
	assert_false(ept_entry(2 * MIB, &level) & EPT_WRITE);
	assert_int_equal(kvm_vm_ioctl_get_dirty_log(vm, &log), 0);
	assert_int_equal(bits[2 * MIB / 4096 / 64], 0);
	/* Huge leaves come back with the end of the log. */
	assert_int_equal(set_slot(0, 0, 0, 4 * MIB, m), 0);
	assert_int_equal(level_after_fault(0x3000), 2);
}

static void slot_beyond_maxphyaddr_is_refused(void **state)
{
	char *m = get_memory(0x2000, 4096, PROT_READ | PROT_WRITE);

	assert_int_equal(set_slot(0, 0, (1ULL << 52) - 0x1000, 0x2000, m), -EINVAL);
	assert_int_equal(set_slot(0, 0, (1ULL << 52) - 0x2000, 0x2000, m), 0);
	/* a guest of 48 bits does not reach it but by emulation */
	assert_int_equal(take_fault(vcpu, (1ULL << 52) - 0x1000, 0), RET_PF_EMULATE);
	assert_int_equal(set_slot(1, 0, (1ULL << 48) - 0x1000, 0x2000, m), 0);
	assert_int_equal(level_after_fault((1ULL << 48) - 0x1000), 1);
	assert_int_equal(take_fault(vcpu, 1ULL << 48, 0), RET_PF_EMULATE);
}

#define HIGH (1ULL << 50) /* the same place in a table of four levels as 0 */

/* vcpu has four levels, this one five. */
static struct kvm_vcpu *add_wide_vcpu(void)
{
	struct kvm_vcpu *wide;

	fake.maxphyaddr = 52;
	assert_int_equal(kvm_create_vcpu(vm, 1, &wide), 0);
	assert_int_equal(fake.loaded_level, 4);
	assert_int_equal(kvm_mmu_reload(wide), 0);
	assert_int_equal(fake.loaded_level, 5);
	return wide;
}

static void wide_guests_have_five_levels(void **state)
{
	char *m = get_memory(8 * MIB, 2 * MIB, PROT_READ | PROT_WRITE);
	hpa_t narrow_root = fake.loaded_root, wide_root;
	struct kvm_vcpu *wide = add_wide_vcpu();
	struct kvm_mmu_usage u;
	int level;

	wide_root = fake.loaded_root;
	assert_int_not_equal(wide_root, narrow_root);
	assert_int_equal(set_slot(0, 0, 0, 4 * MIB, m), 0);
	assert_int_equal(set_slot(1, 0, HIGH, 4 * MIB, m + 4 * MIB), 0);
	assert_int_equal(take_fault(vcpu, 0x1000, PFERR_WRITE_MASK), RET_PF_FIXED);
	assert_int_equal(take_fault(wide, HIGH + 0x1000, PFERR_WRITE_MASK), RET_PF_FIXED);
	assert_int_equal(ept_entry(HIGH, &level) & EPT_ADDR_MASK, (hva_t)m + 4 * MIB);
	assert_int_equal(level, 2);
	kvm_mmu_usage(vm, &u);
	assert_int_equal(u.table_pages, 3 + 4);
	assert_int_equal(take_fault(wide, 1ULL << 51, 0), RET_PF_EMULATE);
	assert_int_equal(ept_entry(1ULL << 51, &level) & EPT_RWX, EPT_WRITE | EPT_EXEC);
	assert_int_equal(mmio_fault(wide, 1ULL << 51), RET_PF_EMULATE);
	/* Logging and deletion up there are nothing to the tables of four levels. */
	assert_int_equal(set_slot(1, KVM_MEM_LOG_DIRTY_PAGES, HIGH, 4 * MIB, m + 4 * MIB), 0);
	assert_false(ept_entry(HIGH, &level) & EPT_WRITE);
	assert_int_equal(level, 1);
	assert_int_equal(set_slot(1, 0, HIGH, 0, NULL), 0);
	assert_int_equal(ept_entry(HIGH, &level), 0);
	fake.loaded_root = narrow_root;
	fake.loaded_level = 4;
	assert_true(ept_entry(0x1000, &level) & EPT_WRITE);
	assert_int_equal(level, 2);
	assert_int_equal(mmu_check(vm), 0);
}

static void wider_cpuid_takes_another_root(void **state)
{
	assert_int_equal(fake.loaded_level, 4);
	fake.maxphyaddr = 48;
	kvm_mmu_reset_context(vcpu);
	assert_int_not_equal(vcpu->mmu->root_hpa, INVALID_PAGE);
	fake.maxphyaddr = 49;
	kvm_mmu_reset_context(vcpu);
	assert_int_equal(vcpu->mmu->root_hpa, INVALID_PAGE);
	assert_int_equal(kvm_mmu_reload(vcpu), 0);
	assert_int_equal(fake.loaded_level, 5);
}

static void tables_cost_what_the_format_needs(void **state)
{
	uint64_t size = 64 * MIB, i;
	char *m = get_memory(size + 4096, 2 * MIB, PROT_READ | PROT_WRITE);
	struct kvm_mmu_usage u;

	assert_int_equal(set_slot(0, 0, 0, size, m + 4096), 0); /* off by a page: 4 KiB leaves */
	for (i = 0; i < size; i += 4096)
		assert_int_equal(take_fault(vcpu, i, PFERR_WRITE_MASK), RET_PF_FIXED);
	kvm_mmu_usage(vm, &u);
	assert_int_equal(u.leaves[1], size / 4096);
	assert_int_equal(u.table_pages, size / (2 * MIB) + 3);
	munmap(m, size);
}

static char dumped[4][160];
static int nr_dumped;

static void on_line(void *arg, const char *text)
{
	if (nr_dumped < 4)
		snprintf(dumped[nr_dumped], sizeof(dumped[0]), "%s", text);
	nr_dumped++;
}

static void dump_merges_what_continues(void **state)
{
	char *m = get_memory(0x4000, 4096, PROT_READ | PROT_WRITE), expected[160];

	assert_int_equal(set_slot(0, 0, 0x10000, 0x4000, m), 0);
	level_after_fault(0x10000);
	level_after_fault(0x11000);
	level_after_fault(0x13000);
	assert_int_equal(take_fault(vcpu, 0xfee00000, 0), RET_PF_EMULATE);
	nr_dumped = 0;
	kvm_mmu_dump(vm, on_line, NULL);
	assert_int_equal(nr_dumped, 4);
	assert_string_equal(dumped[0], "root as 0, 4 levels, A/D");
	snprintf(expected, sizeof(expected), "000000010000-000000011fff -> %012llx  4K rwx WB AD",
		 (unsigned long long)(uintptr_t)m);
	assert_string_equal(dumped[1], expected);
	assert_non_null(strstr(dumped[3], "mmio"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(first_load_gives_a_root_and_flushes),
		TEST(vcpus_share_a_root_and_smm_has_its_own),
		TEST(paging_mode_change_keeps_the_root),
		TEST(read_fault_maps_one_page_of_a_small_slot),
		TEST(leaf_size_follows_alignment_and_slot_bounds),
		TEST(leaf_size_stops_at_a_change_of_host_permissions),
		TEST(wrong_picture_heals_after_an_invalidation),
		TEST(unmapped_client_memory_gives_efault),
		TEST(readonly_slot_reads_and_runs_but_a_write_is_emulated),
		TEST(deleting_a_slot_zaps_and_flushes),
		TEST(moving_a_slot_takes_its_translations_along),
		TEST(invalidation_by_host_address_reaches_every_slot_there),
		TEST(dirty_log_splits_and_protects_and_heals),
		TEST(slot_beyond_maxphyaddr_is_refused),
		TEST(wide_guests_have_five_levels),
		TEST(wider_cpuid_takes_another_root),
		TEST(tables_cost_what_the_format_needs),
		TEST(dump_merges_what_continues),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
