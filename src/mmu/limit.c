/*
 * How many tables a VM may have, and which go when it wants more.
 *
 * EPT tables (USERKVM_PARAMS max_table_pages; KVM has no such limit) are taken
 * as a clock does: a hand goes round the guest-physical addresses and unlinks
 * tables of leaves, then the tables above them that have become empty of
 * tables. The accessed flag of the entry above gives a table a second chance.
 * What goes is only a translation: the next access makes it again by a fault.
 *
 * Shadow pages have KVM's own limit, KVM_SET_NR_MMU_PAGES.
 *
 * Invariant: vm->table_pages <= max_table_pages, always: who makes a table has
 * reserved it. Roots are reserved too, and never taken.
 */
#include "lib/error.h"
#include "mmu/check.h"
#include "mmu/shadow.h"

/* Linux: a memslot page needs one MMU page in so many. */
#define MEMSLOT_PAGES_TO_MMU_PAGES_RATIO 50
/* What is free after a reclaim: one table in so many. */
#define RECLAIM_FRACTION 8
/* Round once to take the second chances, once to take, and to where the hand began. */
#define RECLAIM_ROUNDS 3

/* --- EPT tables --- */

struct reclaim {
	struct kvm_mmu_vm *vm;
	struct zap_list z;
	uint64_t goal; /* of table_pages */
	uint64_t gone;
};

static bool enough(const struct reclaim *r)
{
	return READ_ONCE(r->vm->table_pages) <= r->goal;
}

static bool has_tables(const uint64_t *table, int level)
{
	for (unsigned i = 0; i < SPTE_ENTRIES; i++)
		if (spte_is_table(READ_ONCE(table[i]), level))
			return true;
	return false;
}

/* The table below *ptep goes, unless tables depend on it or it has a second chance. */
static void take_table(struct reclaim *r, uint64_t *ptep, uint64_t e, int level)
{
	if (level > 2 && has_tables(spte_table(e), level - 1))
		return;
	if (e & EPT_ACCESSED)
		__atomic_fetch_and(ptep, ~EPT_ACCESSED, __ATOMIC_ACQ_REL);
	else
		r->gone += kvm_tdp_mmu_unlink_table(r->vm, ptep, level, &r->z);
}

/* mmu_lock for writing. The tables below `table` (at level, from gfn base), from the hand on. */
static void reclaim_below(struct reclaim *r, uint64_t *table, int level, gfn_t base)
{
	unsigned i = spte_index(max_u64(base, r->vm->reclaim_hand), level);

	for (; i < SPTE_ENTRIES; i++) {
		gfn_t gfn = base + i * level_pages(level);
		uint64_t e = READ_ONCE(table[i]);

		if (spte_is_table(e, level)) {
			if (level > 2)
				reclaim_below(r, spte_table(e), level - 1, gfn);
			if (enough(r))
				return;
			take_table(r, &table[i], e, level);
		}
		r->vm->reclaim_hand = gfn + level_pages(level);
		if (enough(r))
			return;
	}
}

int mmu_reclaim_tables(struct kvm *kvm)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	uint64_t max = kvm_mmu_params()->max_table_pages;
	struct reclaim r = { .vm = vm, .goal = max - max / RECLAIM_FRACTION };
	uint32_t turns;
	bool found;

	mmu_write_lock(vm);
	found = enough(&r); /* somebody was here before */
	for (turns = RECLAIM_ROUNDS * mmu_nr_roots(vm); turns && !enough(&r); turns--) {
		struct kvm_mmu_page *root = vm->roots[vm->reclaim_root];

		r.z.as_id = (uint8_t)root_as_id(root);
		reclaim_below(&r, root->spt, root_level(root), 0);
		if (enough(&r))
			break;
		vm->reclaim_hand = 0;
		vm->reclaim_root = (vm->reclaim_root + 1) % mmu_nr_roots(vm);
	}
	mmu_write_unlock(vm);
	kvm_stat_add(&kvm->stat.mmu_recycled, r.gone);
	kvm_tdp_mmu_zap_finish(kvm, &r.z);
	mmu_verify(kvm, "a reclaim of tables");
	return found || r.gone ? 0 : err_born(ENOMEM, "no memory to take tables back");
}

/* --- shadow pages --- */

/* slots_lock. Linux kvm_mmu_change_mmu_pages. */
static void change_mmu_pages(struct kvm *kvm, uint64_t nr)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	struct shadow_zap z = { 0 };

	mmu_write_lock(vm);
	WRITE_ONCE(vm->nr_max_shadow_pages, min_u64(nr, kvm_mmu_params()->max_table_pages));
	if (vm->shadow && vm->shadow->nr_pages > vm->nr_max_shadow_pages) {
		shadow_zap_oldest(vm, vm->shadow->nr_pages - vm->nr_max_shadow_pages, &z);
		shadow_commit(kvm, &z);
	}
	mmu_write_unlock(vm);
}

/* The default is Linux's kvm_mmu_calculate_default_mmu_pages. */
void mmu_slots_changed(struct kvm *kvm)
{
	if (!kvm->mmu_vm->nr_requested_shadow_pages)
		change_mmu_pages(kvm, max_u64(kvm->nr_memslot_pages / MEMSLOT_PAGES_TO_MMU_PAGES_RATIO,
					      KVM_MIN_ALLOC_MMU_PAGES));
}

int kvm_mmu_set_nr_mmu_pages(struct kvm *kvm, uint64_t nr)
{
	if (nr < KVM_MIN_ALLOC_MMU_PAGES)
		return err_born(EINVAL, "%lu MMU pages", nr);
	pthread_mutex_lock(&kvm->slots_lock);
	change_mmu_pages(kvm, nr);
	kvm->mmu_vm->nr_requested_shadow_pages = nr;
	pthread_mutex_unlock(&kvm->slots_lock);
	return 0;
}

uint64_t kvm_mmu_nr_mmu_pages(struct kvm *kvm)
{
	return READ_ONCE(kvm->mmu_vm->nr_max_shadow_pages);
}
