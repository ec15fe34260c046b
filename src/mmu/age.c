/*
 * Access tracking: which pages has the guest used since it was last asked?
 * (Linux: kvm_age_gfn, kvm_test_age_gfn.)
 *
 *	              age                        the guest accesses the page
 *	A/D   leaf A ─────→ leaf without A    ──→ the processor sets A
 *	else  leaf RWX ───→ leaf without rights, ──→ EPT violation: fast_page_fault gives
 *	                    R and X saved         back R and X, to a write W too
 *
 * Invariants
 * 1. When aging returns no processor holds a translation from before: whatever
 *    the guest accesses from now on is seen as accessed.
 * 2. Without A/D a leaf that lost W gets it back by a write's fault only, so that the
 *    dirty log misses nothing; what the log takes away meanwhile stays taken.
 *
 * 3. Idle flags (idle.c) of a leaf's pages go with its accessed state.
 *
 * EPT leaves only: shadow pages (ept=0) are not tracked.
 */
#include "host/memory.h"
#include "lib/rcu.h"
#include "mmu/check.h"
#include "trace/trace.h"

/* How much is looked at under one hold of the lock. */
#define CHUNK_PAGES level_pages(3)

struct age {
	struct kvm_mmu_page *root;
	gfn_t start, end;
	bool test;	/* leave it as it is */
	uint64_t young; /* 4 KiB pages that had been accessed */
};

static void age_leaf(struct age *a, uint64_t *ptep, uint64_t e, int level, gfn_t gfn)
{
	uint64_t new;

	if (!spte_is_accessed(e, root_has_ad(a->root)))
		return;
	a->young += level_pages(level);
	if (a->test)
		return;
	/* Beside us are the processor (A, D) and the fast path, which gives rights. */
	do {
		new = root_has_ad(a->root) ? e & ~EPT_ACCESSED : mark_spte_for_access_track(e);
	} while (!__atomic_compare_exchange_n(ptep, &e, new, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
	mmu_leaf_forgotten(e, level);
	TRACE(kvmmmu, kvm_tdp_mmu_spte_changed, gfn, e, new, (uint8_t)level, (uint8_t)root_as_id(a->root));
}

static void age_table(struct age *a, uint64_t *table, int level, gfn_t base)
{
	unsigned i = spte_index(max_u64(base, a->start), level);
	unsigned last = spte_index(min_u64(base + level_pages(level + 1), a->end) - 1, level);

	for (; i <= last; i++) {
		gfn_t gfn = base + i * level_pages(level);
		uint64_t e = __atomic_load_n(&table[i], __ATOMIC_ACQUIRE);

		if (spte_is_table(e, level))
			age_table(a, spte_table(e), level - 1, gfn);
		else if (spte_is_leaf(e, level))
			age_leaf(a, &table[i], e, level, gfn);
	}
}

/* The first gfn from `gfn` on below which the root has a table or leaf at all; `end`: none. */
static gfn_t next_used(const struct kvm_mmu_page *root, gfn_t gfn, gfn_t end)
{
	int level = root_level(root);

	while (gfn < end && !__atomic_load_n(&root->spt[spte_index(gfn, level)], __ATOMIC_ACQUIRE))
		gfn = ALIGN_DOWN(gfn, level_pages(level)) + level_pages(level);
	return min_u64(gfn, end);
}

static uint64_t age_root(struct kvm_mmu_vm *vm, struct kvm_mmu_page *root, gfn_t start, gfn_t end, bool test)
{
	struct age a = { .root = root, .test = test };
	gfn_t gfn = next_used(root, start, end);

	for (; gfn < end; gfn = next_used(root, a.end, end)) {
		a.start = gfn;
		a.end = min_u64(end, ALIGN_DOWN(gfn, CHUNK_PAGES) + CHUNK_PAGES);
		mmu_write_lock(vm);
		age_table(&a, root->spt, root_level(root), 0);
		mmu_write_unlock(vm);
	}
	return a.young;
}

static uint64_t age_as(struct kvm *kvm, int as_id, gfn_t start, gfn_t end, bool test)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	uint64_t young = 0;

	for (uint32_t i = 0; i < mmu_nr_roots(vm); i++)
		if (root_as_id(vm->roots[i]) == as_id)
			young += age_root(vm, vm->roots[i], start, min_u64(end, root_end_gfn(vm->roots[i])),
					  test);
	return young;
}

void mmu_age_begin(struct kvm *kvm)
{
	__atomic_fetch_add(&kvm->mmu_vm->agers, 1, __ATOMIC_SEQ_CST);
}

/* What another has found accessed, and not yet flushed, looks old to us: so we flush too. */
void mmu_age_end(struct kvm *kvm, uint64_t young)
{
	uint32_t *agers = &kvm->mmu_vm->agers;

	if (young || __atomic_load_n(agers, __ATOMIC_SEQ_CST) > 1)
		kvm_flush_remote_tlbs(kvm);
	__atomic_fetch_sub(agers, 1, __ATOMIC_SEQ_CST);
}

uint64_t kvm_mmu_age(struct kvm *kvm, int as_id, gfn_t start, gfn_t end)
{
	uint64_t young;

	mmu_age_begin(kvm);
	young = age_as(kvm, as_id, start, end, false);
	mmu_age_end(kvm, young);
	mmu_verify(kvm, "aging");
	return young;
}

uint64_t kvm_mmu_test_age(struct kvm *kvm, int as_id, gfn_t start, gfn_t end)
{
	return age_as(kvm, as_id, start, end, true);
}

/* --- aging by host address --- */

bool mmu_age_hva(struct kvm *kvm, hva_t start, hva_t end, bool test, uint64_t *young)
{
	bool found = false;

	if (kvm->mm_id != host_mm_id())
		return false; /* a forked child has copies of its parent's, locked perhaps */
	lib_rcu_read_lock();
	for (int as = 0; as < KVM_ADDRESS_SPACE_NUM; as++) {
		struct kvm_memslots *slots = __kvm_memslots(kvm, as);
		struct kvm_memory_slot *s;
		uint32_t pos = 0;

		while ((s = memslots_next_in_hva_range(slots, start, end, &pos)) != NULL) {
			gfn_t first, beyond;

			found = true;
			mmu_hva_to_gfns(s, start, end, &first, &beyond);
			*young += age_as(kvm, as, first, beyond, test);
		}
	}
	lib_rcu_read_unlock();
	return found;
}

void kvm_mmu_age_hva_range(hva_t start, hva_t end)
{
	struct kvm_mmu_vm *vm;

	start = ALIGN_DOWN(start, PAGE_SIZE);
	if (start >= end || !mmu_have_vms())
		return;
	for (vm = mmu_vms_lock(); vm; vm = vm->next_vm) {
		uint64_t young = 0;

		mmu_age_begin(vm->kvm);
		mmu_age_hva(vm->kvm, start, end, false, &young);
		mmu_age_end(vm->kvm, young);
	}
	mmu_vms_unlock();
}
