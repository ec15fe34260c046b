/*
 * Looking at the tables from beside: what is told agrees with an independent
 * walk and with the counters, whatever the guest did, and while it does it.
 */
#include "fixture.h"

#include <pthread.h>

#include "mmu/look.h"
#include "mmu/spte.h"

static void touch(gpa_t gpa, bool write)
{
	enum ret_pf r = take_fault(vcpu, gpa, write ? PFERR_WRITE_MASK : PFERR_USER_MASK);

	assert_true(goes_on(r) || r == RET_PF_EMULATE);
}

struct seen {
	uint64_t leaves[5], mmio, bytes;
	gpa_t last_end;
	unsigned limit; /* say enough after so many; 0: never */
	unsigned nr;
	bool compare;
};

static bool see(void *arg, gpa_t gpa, int level, uint64_t entry)
{
	struct seen *s = arg;
	int there;

	assert_true(gpa >= s->last_end);
	s->last_end = gpa + (level_pages(level) << PAGE_SHIFT);
	if (spte_is_mmio(entry))
		s->mmio++;
	else
		s->leaves[level]++;
	if (s->compare) {
		assert_int_equal(ept_entry(gpa, &there), entry);
		assert_int_equal(there, level);
	}
	return ++s->nr != s->limit;
}

static void leaves_told_are_those_counted(void **state)
{
	char *m = get_memory(8 * MIB, 2 * MIB, PROT_READ | PROT_WRITE);
	struct seen s = { .compare = true };

	assert_int_equal(set_slot(0, 0, 0, 8 * MIB, m), 0);
	assert_int_equal(set_slot(1, 0, 5 * GIB, MIB, m), 0);
	for (gpa_t gpa = 0; gpa < 8 * MIB; gpa += MIB)
		touch(gpa, true);
	touch(5 * GIB, true);
	touch(5 * GIB + 0x3000, false);
	touch(0xfee00000, false);
	touch(1ULL << 46, false);
	kvm_mmu_look_leaves(vm, 0, 0, ~0ULL, see, &s);
	assert_int_equal(s.leaves[1], vm->stat.pages_4k);
	assert_int_equal(s.leaves[2], vm->stat.pages_2m);
	assert_int_equal(s.mmio, 2);
	assert_true(s.leaves[1] >= 2 && s.leaves[1] + s.leaves[2] >= 6);
}

static void range_and_limit_are_kept(void **state)
{
	char *m = get_memory(MIB, PAGE_SIZE, PROT_READ | PROT_WRITE) + PAGE_SIZE;
	struct seen s = { .compare = true };

	/* Off by a page: 4 KiB leaves. */
	assert_int_equal(set_slot(0, 0, 2 * PAGE_SIZE, 16 * PAGE_SIZE, m), 0);
	for (gpa_t gpa = 2 * PAGE_SIZE; gpa < 18 * PAGE_SIZE; gpa += PAGE_SIZE)
		touch(gpa, true);
	kvm_mmu_look_leaves(vm, 0, 4 * PAGE_SIZE, 7 * PAGE_SIZE, see, &s);
	assert_int_equal(s.leaves[1], 3);
	assert_int_equal(s.last_end, 7 * PAGE_SIZE);
	s = (struct seen){ .limit = 5 };
	kvm_mmu_look_leaves(vm, 0, 0, ~0ULL, see, &s);
	assert_int_equal(s.nr, 5);
	s = (struct seen){ 0 };
	kvm_mmu_look_leaves(vm, 7, 0, ~0ULL, see, &s);
	assert_int_equal(s.nr, 0);
}

static void walk_ends_where_the_processors_would(void **state)
{
	char *m = get_memory(MIB, PAGE_SIZE, PROT_READ | PROT_WRITE);
	static const gpa_t at[] = { 0x1000, 0x5000, 0xfee00000, 0x123456789000, 0 };
	struct kvm_mmu_step step[KVM_MMU_MAX_STEPS];
	struct kvm_mmu_root_view root;

	assert_int_equal(set_slot(0, 0, 0x1000, MIB / 2, m), 0);
	touch(0x1000, true);
	touch(0xfee00000, false);
	assert_true(kvm_mmu_look_root(vm, 0, &root));
	assert_int_equal(root.hpa, fake.loaded_root);
	assert_false(kvm_mmu_look_root(vm, 1, &root));
	for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
		int level, n = kvm_mmu_look_walk(vm, 0, at[i], step);
		uint64_t e = ept_entry(at[i], &level);

		assert_true(n >= 1 && n <= 4);
		assert_int_equal(step[0].table, fake.loaded_root);
		assert_int_equal(step[n - 1].entry, e);
		if (e)
			assert_int_equal(step[n - 1].level, level);
	}
	assert_int_equal(kvm_mmu_look_walk(vm, 0, 1ULL << 48, step), 0);
	assert_int_equal(kvm_mmu_look_walk(vm, 3, 0, step), 0);
}

static bool stop;
static uint64_t looks;

static void *look_on(void *arg)
{
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		struct kvm_mmu_step step[KVM_MMU_MAX_STEPS];
		struct seen s = { 0 };

		kvm_mmu_look_leaves(vm, 0, 0, ~0ULL, see, &s);
		kvm_mmu_look_walk(vm, 0, (looks * 37 % 512) << PAGE_SHIFT, step);
		__atomic_fetch_add(&looks, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void looking_while_tables_come_and_go_is_safe(void **state)
{
	char *m = get_memory(4 * MIB, PAGE_SIZE, PROT_READ | PROT_WRITE) + PAGE_SIZE;
	pthread_t t;

	__atomic_store_n(&stop, false, __ATOMIC_RELAXED);
	assert_int_equal(pthread_create(&t, NULL, look_on, NULL), 0);
	/* however late the machine starts the other thread, it looks while we change */
	for (int round = 0; round < 200 || __atomic_load_n(&looks, __ATOMIC_RELAXED) < 20; round++) {
		assert_int_equal(set_slot(0, 0, 0, 2 * MIB, m), 0);
		for (gpa_t gpa = 0; gpa < 2 * MIB; gpa += 16 * PAGE_SIZE)
			touch(gpa, true);
		assert_int_equal(set_slot(0, 0, 0, 0, m), 0);
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(t, NULL);
	assert_int_equal(vm->stat.pages_4k, 0);
}

static void guest_view_follows_the_registers(void **state)
{
	struct kvm_mmu_guest_view v;

	kvm_mmu_look_guest(vcpu, &v);
	assert_int_equal(v.level, 0);
	fake.cr0 = X86_CR0_PG | X86_CR0_PE;
	fake.cr3 = 0x5000;
	kvm_mmu_look_guest(vcpu, &v);
	assert_int_equal(v.level, 2);
	assert_int_equal(v.cr3, 0x5000);
	fake.cr4 = X86_CR4_PAE;
	fake.pdptr[2] = 0x7001;
	kvm_mmu_look_guest(vcpu, &v);
	assert_int_equal(v.level, 3);
	assert_int_equal(v.pdptr[2], 0x7001);
	fake.efer = EFER_LMA;
	kvm_mmu_look_guest(vcpu, &v);
	assert_int_equal(v.level, 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(leaves_told_are_those_counted),
		TEST(range_and_limit_are_kept),
		TEST(walk_ends_where_the_processors_would),
		TEST(looking_while_tables_come_and_go_is_safe),
		TEST(guest_view_follows_the_registers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
