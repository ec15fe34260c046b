/*
 * Noticing writes, for the dirty log.
 *
 *	            logging begins, or bits are taken
 *	  leaf W,D ──────────────────────────────────→ leaf without W   (a fault tells)
 *	           ──────────────────────────────────→ leaf W without D (PML tells)
 *
 * Invariants
 * 1. Only 4 KiB leaves tell one page's write. So a huge leaf of a logged slot
 *    loses W whatever the processor can do, and is split: eagerly here, or by
 *    the fault that wants to write.
 * 2. Splitting changes no right: it happens under the lock for reading, beside
 *    faults. Taking W or D away holds it for writing.
 * 3. Frames are taken without the lock (Linux: tdp_mmu_alloc_sp_for_split); a
 *    lack of memory, or the limit of tables, means a later split by a fault,
 *    not a failure.
 *
 * With the log initially all set, nothing happens when logging begins; pages
 * are split and protected as their bits are cleared.
 */
#include "host/memory.h"
#include "mmu/shadow.h"
#include "trace/trace.h"

#define SPLIT_STOCK 32

/* Frames at hand, and where a walk that ran out of them stopped. */
struct split {
	struct kvm_mmu_vm *vm;
	struct kvm_mmu_page *root;
	void *frame[SPLIT_STOCK];
	unsigned nr;
	bool full; /* the limit of tables is met */
	gfn_t next;
};

static uint64_t load_spte(const uint64_t *ptep)
{
	return __atomic_load_n(ptep, __ATOMIC_ACQUIRE);
}

/* The entries of a table at `level` with gfn base that meet [start, end). */
static unsigned first_index(int level, gfn_t base, gfn_t start)
{
	return spte_index(max_u64(base, start), level);
}

static unsigned last_index(int level, gfn_t base, gfn_t end)
{
	return spte_index(min_u64(base + level_pages(level + 1), end) - 1, level);
}

/* --- eager split --- */

/* mmu_lock for reading. False: out of frames at s->next. */
static bool split_in_table(struct split *s, uint64_t *table, int level, gfn_t base, gfn_t start,
			   gfn_t end)
{
	unsigned i = first_index(level, base, start), last = last_index(level, base, end);

	while (i <= last) {
		gfn_t gfn = base + i * level_pages(level);
		uint64_t e = load_spte(&table[i]);

		if (spte_is_leaf(e, level)) {
			if (!s->nr || s->full) {
				s->next = max_u64(gfn, start);
				return false;
			}
			s->full = !mmu_reserve_tables(s->vm, 1);
			if (s->full)
				continue;
			if (kvm_tdp_mmu_split_leaf(s->vm, s->root, &table[i], e, level,
						   s->frame[s->nr - 1], false)) {
				s->nr--;
				TRACE(kvmmmu, kvm_mmu_split_huge_page, gfn, e, level, 0);
			} else {
				mmu_unreserve_tables(s->vm, 1);
			}
			continue; /* look again: it is a table now, or somebody was faster */
		}
		if (level > 2 && spte_is_table(e, level) &&
		    !split_in_table(s, spte_table(e), level - 1, gfn, start, end))
			return false;
		i++;
	}
	return true;
}

/* No lock. Every huge leaf in [start, end) becomes 4 KiB ones, memory permitting. */
static void split_range(struct kvm_mmu_vm *vm, struct kvm_mmu_page *root, gfn_t start, gfn_t end)
{
	struct split s = { .vm = vm, .root = root, .next = start };
	bool done = false;

	while (!done) {
		pthread_rwlock_rdlock(&vm->lock);
		done = split_in_table(&s, root->spt, root_level(root), 0, s.next, end);
		pthread_rwlock_unlock(&vm->lock);
		done |= s.full;
		while (!done && s.nr < SPLIT_STOCK && (s.frame[s.nr] = host_frame_alloc()) != NULL)
			s.nr++;
		if (!s.nr)
			break;
	}
	while (s.nr)
		host_frame_free(s.frame[--s.nr]);
}

/* --- taking W or D --- */

/* mmu_lock for writing. True: some processor may know more than the tables allow now. */
static bool protect_in_table(uint64_t *table, int level, gfn_t base, gfn_t start, gfn_t end,
			     bool pml, int as_id)
{
	unsigned i, last = last_index(level, base, end);
	bool any = false;

	for (i = first_index(level, base, start); i <= last; i++) {
		uint64_t e = load_spte(&table[i]), take = EPT_WRITE | EPT_DIRTY;

		if (spte_is_table(e, level)) {
			any |= protect_in_table(spte_table(e), level - 1,
						base + i * level_pages(level), start, end, pml, as_id);
			continue;
		}
		if (pml && level == 1)
			take = EPT_DIRTY;
		if (spte_is_present(e) && e & EPT_WRITE && e & take) {
			e = __atomic_fetch_and(&table[i], ~take, __ATOMIC_ACQ_REL);
			any |= (e & take) != 0;
			TRACE(kvmmmu, kvm_tdp_mmu_spte_changed, base + i * level_pages(level), e,
			      e & ~take, (uint8_t)level, (uint8_t)as_id);
		}
	}
	return any;
}

/* No lock. Writes to [start, end) are noticed again after a flush; true: it is needed. */
static bool protect_range(struct kvm *kvm, const struct kvm_memory_slot *slot, gfn_t start, gfn_t end,
			  bool split)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	bool any = false;
	uint32_t i;

	if (vm->shadow) {
		mmu_write_lock(vm);
		any = shadow_wrprot_range(slot, start, end);
		mmu_write_unlock(vm);
	}
	for (i = 0; i < mmu_nr_roots(vm); i++) {
		struct kvm_mmu_page *root = vm->roots[i];

		gfn_t root_end = min_u64(end, root_end_gfn(root));

		if (root_as_id(root) != slot->as_id || start >= root_end)
			continue;
		if (split)
			split_range(vm, root, start, root_end);
		mmu_write_lock(vm);
		any |= protect_in_table(root->spt, root_level(root), 0, start, root_end,
					root_has_pml(kvm, root), slot->as_id);
		mmu_write_unlock(vm);
	}
	return any;
}

static bool initially_set(const struct kvm *kvm)
{
	return kvm->manual_dirty_log_protect & KVM_DIRTY_LOG_INITIALLY_SET;
}

void mmu_slot_enable_log_dirty(struct kvm *kvm, const struct kvm_memory_slot *slot)
{
	if (initially_set(kvm) && !kvm->dirty_ring_size)
		return;
	if (protect_range(kvm, slot, slot->base_gfn, slot->base_gfn + slot->npages,
			  kvm_mmu_params()->eager_page_split))
		kvm_flush_remote_tlbs(kvm);
}

void mmu_slot_protect_masked(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t offset,
			     uint64_t mask)
{
	gfn_t base = slot->base_gfn + offset;

	/* The flush is the caller's, for all of its bits at once. */
	if (kvm->mmu_vm)
		(void)protect_range(kvm, slot, base + (unsigned)__builtin_ctzll(mask),
				    base + 64 - (unsigned)__builtin_clzll(mask),
				    initially_set(kvm) && kvm_mmu_params()->eager_page_split);
}
