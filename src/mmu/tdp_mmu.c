/*
 * The TDP MMU: EPT tables as a data structure. (Linux: mmu/tdp_mmu.c.)
 *
 *   root ─→ 512 entries (level 4, 512 GiB each) ─→ level 3 (1 GiB) ─→ 2 (2 MiB) ─→ 1
 *
 * or one more of 256 TiB each before them, where the guest's MAXPHYADDR asks for it.
 *
 * Invariants:
 * 1. An entry goes from nothing (or MMIO) to a table or leaf by one
 *    compare-exchange; what it points to is complete by then. Whole subtables
 *    are built in private and published once.
 * 2. Under the lock for reading entries only gain: rights, or a finer table
 *    with the same translations. What takes away holds it for writing.
 * 3. A table that was reachable is freed only after every vCPU has dropped its
 *    translations and after a grace period: processors and the lockless walks
 *    may still be in it.
 * 4. The processor sets A and D behind our back, so a present entry is changed
 *    by atomic operations only.
 * 5. The counters follow the entries: reachable tables and leaves.
 *
 * Locks: mmu_lock as each function says.
 */

#include "host/memory.h"
#include "lib/own.h"
#include "lib/rcu.h"
#include "mmu/shadow.h"
#include "trace/trace.h"

static void count(uint64_t *counter, int64_t n)
{
	__atomic_fetch_add(counter, (uint64_t)n, __ATOMIC_RELAXED);
}

static uint64_t load_spte(const uint64_t *ptep)
{
	return __atomic_load_n(ptep, __ATOMIC_ACQUIRE);
}

static bool cmpxchg_spte(uint64_t *ptep, uint64_t old, uint64_t new)
{
	return __atomic_compare_exchange_n(ptep, &old, new, false, __ATOMIC_ACQ_REL,
					   __ATOMIC_RELAXED);
}

uint64_t *kvm_tdp_mmu_walk(struct kvm_mmu_page *root, gfn_t gfn, int *level)
{
	uint64_t *table = root->spt;
	int l = root_level(root);

	for (;;) {
		uint64_t *ptep = &table[spte_index(gfn, l)];
		uint64_t e = load_spte(ptep);

		if (!spte_is_table(e, l)) {
			*level = l;
			return ptep;
		}
		table = spte_table(e);
		l--;
	}
}

/* --- making entries --- */

/*
 * A leaf (Linux make_spte). Normal memory is write-back whatever the guest's
 * PAT says (IPAT): no device of the host looks at it. A and D are set at once,
 * as KVM does: the access that wants the entry is about to happen.
 */
static uint64_t make_spte(struct kvm *kvm, const struct kvm_mmu_page *root,
			  const struct kvm_page_fault *f, int level)
{
	hva_t page = ALIGN_DOWN(f->hva, level_pages(level) << PAGE_SHIFT);
	bool tracked = kvm_slot_dirty_track_enabled(f->slot);
	uint64_t e = (__pa(__va(page)) & EPT_ADDR_MASK) | SPTE_MMU_PRESENT | EPT_READ | EPT_EXEC |
		     FIELD_PREP(EPT_MEMTYPE_MASK, MT_WRBACK) | EPT_IPAT;

	if (level > 1)
		e |= EPT_PAGE_SIZE;
	if (level > 1 && is_nx_huge_page_enabled(kvm->mmu_vm))
		e &= ~EPT_EXEC;
	if (root_has_ad(root))
		e |= EPT_ACCESSED;
	if (f->map_writable && !f->tracked) {
		e |= SPTE_HOST_WRITABLE | SPTE_MMU_WRITABLE;
		/*
		 * Reads do not dirty a logged page: it becomes writable by a write only, or
		 * where the processor logs the first write itself, it stays clean.
		 */
		if (!tracked || fault_is_write(f) || root_has_pml(kvm, root))
			e |= EPT_WRITE;
		if (root_has_ad(root) && (!tracked || fault_is_write(f)))
			e |= EPT_DIRTY;
	}
	return e;
}

static uint64_t make_table_spte(const struct kvm_mmu_page *root, const uint64_t *table)
{
	return __pa(table) | SPTE_MMU_PRESENT | EPT_RWX | (root_has_ad(root) ? EPT_ACCESSED : 0);
}

/* What a table that takes the place of a huge page at `level` has beside that. */
static uint64_t nx_split(const struct kvm_page_fault *f, int level)
{
	return f->req_level > f->goal_level && level <= f->req_level ? SPTE_NX_SPLIT : 0;
}

static void count_table(struct kvm_mmu_vm *vm, uint64_t e, int64_t n)
{
	count(&vm->table_pages, n);
	if (e & SPTE_NX_SPLIT)
		count(&vm->kvm->stat.nx_lpage_splits, n);
}

/* What the fault wants to see at `level`. */
static uint64_t wanted_spte(struct kvm *kvm, struct kvm_mmu_page *root,
			    const struct kvm_page_fault *f, int level)
{
	return f->slot ? make_spte(kvm, root, f, level) : make_mmio_spte(f->gfn, f->generation);
}

static void count_leaf(struct kvm_mmu_vm *vm, uint64_t e, int level, int64_t n)
{
	if (spte_is_present(e))
		count(&vm->leaves[level], n);
	else if (spte_is_mmio(e))
		count(&vm->mmio_entries, n);
}

static void count_fault_leaf(struct kvm_vcpu *vcpu, uint64_t e, int level, int64_t n)
{
	if (spte_is_present(e))
		mmu_count_fault_leaf(vcpu, level, false, n);
	else if (spte_is_mmio(e))
		mmu_count_fault_leaf(vcpu, level, true, n);
}

static void leaf_gone(struct kvm_mmu_vm *vm, uint64_t e, int level)
{
	count_leaf(vm, e, level, -1);
	mmu_leaf_forgotten(e, level);
}

/* Where the leaf is that `new`, at level, leads to over `tables` new tables. */
static hpa_t leaf_entry(const uint64_t *ptep, uint64_t new, gfn_t gfn, int level, unsigned tables)
{
	for (; tables; tables--) {
		ptep = &spte_table(new)[spte_index(gfn, --level)];
		new = load_spte(ptep);
	}
	return __pa(ptep);
}

/* *ptep (at level) went from old to new; the leaf is in it or `tables` below it. */
static void trace_mapped(const struct kvm_mmu_page *root, const struct kvm_page_fault *f,
			 const uint64_t *ptep, int level, uint64_t old, uint64_t new, uint64_t leaf,
			 unsigned tables)
{
	int at = level - (int)tables;

	TRACE(kvmmmu, kvm_tdp_mmu_spte_changed, f->gfn & ~(level_pages(level) - 1), old, new,
	      (uint8_t)level, (uint8_t)root_as_id(root));
	/* the new tables' entries, which were in place before that one */
	if (TRACE_ON(kvmmmu, kvm_tdp_mmu_spte_changed)) {
		uint64_t e = new;

		for (int l = level - 1; l >= at; l--) {
			e = load_spte(&spte_table(e)[spte_index(f->gfn, l)]);
			TRACE(kvmmmu, kvm_tdp_mmu_spte_changed, f->gfn & ~(level_pages(l) - 1), 0, e, (uint8_t)l,
			      (uint8_t)root_as_id(root));
		}
	}
	if (spte_is_mmio(leaf))
		TRACE(kvmmmu, mark_mmio_spte, __pa(ptep), f->gfn, leaf & EPT_RWX,
		      (unsigned)mmio_spte_gen(leaf));
	else
		TRACE(kvmmmu, kvm_mmu_set_spte, f->gfn & ~(level_pages(at) - 1), leaf,
		      leaf_entry(ptep, new, f->gfn, level, tables), (uint8_t)at, leaf & EPT_READ, (leaf & EPT_EXEC) != 0,
		      -1);
	TRACE_LINE(kvm_tdp_mmu_map, f->gfn, (uint32_t)at, tables, leaf);
}

/*
 * Nothing is mapped at *ptep (level above the goal; its tables are reserved): build the tables from the
 * goal upwards with the leaf in the lowest, publish them in one go. False when
 * somebody was faster.
 */
static bool publish_chain(struct kvm_vcpu *vcpu, struct kvm_page_fault *f, uint64_t *ptep,
			  uint64_t old, int level)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct kvm_mmu_memory_cache *c = &vcpu->mmu_vcpu->cache;
	struct kvm_mmu_page *root = vcpu->mmu->root;
	uint64_t leaf = wanted_spte(vcpu->kvm, root, f, f->goal_level), e = leaf;
	unsigned before = c->nr, splits = 0;
	int l;

	for (l = f->goal_level; l < level; l++) {
		uint64_t *table = c->frame[--c->nr];

		table[spte_index(f->gfn, l)] = e;
		e = make_table_spte(root, table) | nx_split(f, l + 1);
		splits += (e & SPTE_NX_SPLIT) != 0;
	}
	if (!cmpxchg_spte(ptep, old, e)) {
		/* Back into the cache, clean again. */
		for (l = level - 1; l >= f->goal_level; l--)
			((uint64_t *)c->frame[c->nr++])[spte_index(f->gfn, l)] = 0;
		mmu_unreserve_tables(vm, (unsigned)(level - f->goal_level));
		return false;
	}
	if (splits)
		count(&vcpu->kvm->stat.nx_lpage_splits, splits);
	trace_mapped(root, f, ptep, level, old, e, leaf, before - c->nr);
	count_fault_leaf(vcpu, leaf, f->goal_level, 1);
	count_fault_leaf(vcpu, old, level, -1);
	return true;
}

bool kvm_tdp_mmu_split_leaf(struct kvm_mmu_vm *vm, struct kvm_mmu_page *root, uint64_t *ptep,
			    uint64_t old, int level, uint64_t *table, bool for_nx)
{
	uint64_t run = spte_is_access_tracked(old) ? EPT_EXEC << SPTE_SAVED_SHIFT : EPT_EXEC;
	uint64_t e = level == 2 ? (old & ~EPT_PAGE_SIZE) | run : old, new;
	unsigned i;

	for (i = 0; i < SPTE_ENTRIES; i++)
		table[i] = e + i * (level_pages(level - 1) << PAGE_SHIFT);
	new = make_table_spte(root, table) | (for_nx ? SPTE_NX_SPLIT : 0);
	if (!cmpxchg_spte(ptep, old, new))
		return false;
	if (for_nx)
		count(&vm->kvm->stat.nx_lpage_splits, 1);
	count(&vm->leaves[level], -1);
	count(&vm->leaves[level - 1], SPTE_ENTRIES);
	return true;
}

/* A huge leaf stands where the fault needs finer ones. A table is reserved. */
static void split_leaf(struct kvm_vcpu *vcpu, const struct kvm_page_fault *f, uint64_t *ptep,
		       uint64_t old, int level)
{
	struct kvm_mmu_memory_cache *c = &vcpu->mmu_vcpu->cache;
	uint64_t *table = c->frame[--c->nr];

	if (!kvm_tdp_mmu_split_leaf(vcpu->kvm->mmu_vm, vcpu->mmu->root, ptep, old, level, table,
				    nx_split(f, level))) {
		host_frame_free(table);
		mmu_unreserve_tables(vcpu->kvm->mmu_vm, 1);
	}
}

/* The entry at the level where the leaf belongs. False: it changed, look again. */
static bool install_leaf(struct kvm_vcpu *vcpu, struct kvm_page_fault *f, uint64_t *ptep,
			 uint64_t old, int level, enum ret_pf *ret)
{
	uint64_t new = wanted_spte(vcpu->kvm, vcpu->mmu->root, f, level);

	if (spte_is_present(old)) {
		/* Memory cannot have become MMIO without a zap: somebody is between the two. */
		if (!f->slot) {
			*ret = RET_PF_RETRY;
			return true;
		}
		/* Keep what the processor and others have granted meanwhile. */
		if ((old & EPT_ADDR_MASK) == (new & EPT_ADDR_MASK))
			new |= old & (EPT_WRITE | EPT_DIRTY | EPT_ACCESSED);
	}
	if (!cmpxchg_spte(ptep, old, new))
		return false;
	count_fault_leaf(vcpu, old, level, -1);
	count_fault_leaf(vcpu, new, level, 1);
	trace_mapped(vcpu->mmu->root, f, ptep, level, old, new, new, 0);
	*ret = f->slot ? RET_PF_FIXED : RET_PF_EMULATE;
	return true;
}

/*
 * Tables of the guest's that are shadowed: the page of one is not writable, and no larger
 * page around it. False: it is to be written.
 */
static bool adjust_for_tables(struct kvm_mmu_vm *vm, struct kvm_page_fault *f)
{
	int level = f->goal_level;

	if (likely(!vm->shadow || !vm->shadow->nr_pages))
		return true;
	f->tracked = shadow_gfn_is_tracked(vm, f->gfn);
	if (f->tracked && fault_is_write(f))
		return false;
	while (!shadow_allows_level(vm, f->gfn, level))
		level--;
	f->req_level = f->req_level > level ? level : f->req_level;
	f->goal_level = level;
	return true;
}

enum ret_pf kvm_tdp_mmu_map(struct kvm_vcpu *vcpu, struct kvm_page_fault *f)
{
	struct kvm_mmu_page *root = vcpu->mmu->root;
	uint64_t *table = root->spt;
	int level = root_level(root);
	bool split = false;
	enum ret_pf ret;

	if (f->slot && !adjust_for_tables(vcpu->kvm->mmu_vm, f))
		return RET_PF_EMULATE;
	for (;;) {
		uint64_t *ptep = &table[spte_index(f->gfn, level)];
		uint64_t old = load_spte(ptep);

		if (spte_is_table(old, level)) {
			/* A table at the goal means finer leaves are in it already: stay with them. */
			table = spte_table(old);
			level--;
		} else if (f->slot && spte_permits(old, fault_is_write(f), fault_is_fetch(f))) {
			return split ? RET_PF_FIXED : RET_PF_SPURIOUS;
		} else if (level <= f->goal_level) {
			if (install_leaf(vcpu, f, ptep, old, level, &ret))
				return ret;
		} else if (spte_is_present(old) && vcpu->mmu_vcpu->cache.nr == 0) {
			return RET_PF_RETRY;
		} else if (!mmu_reserve_tables(vcpu->kvm->mmu_vm, spte_is_present(old)
						? 1 : (unsigned)(level - f->goal_level))) {
			f->short_of_tables = true;
			return RET_PF_RETRY;
		} else if (spte_is_present(old)) {
			TRACE(kvmmmu, kvm_mmu_split_huge_page, f->gfn & ~(level_pages(level) - 1), old, level, 0);
			split_leaf(vcpu, f, ptep, old, level);
			split = true;
		} else if (publish_chain(vcpu, f, ptep, old, level)) {
			return f->slot ? RET_PF_FIXED : RET_PF_EMULATE;
		}
	}
}

/* --- taking away --- */

struct zapped_table {
	struct zapped_table *next;
	uint64_t *table;
	int level;
};

/* Take the table below `entry`, and its content, out of the counters when it becomes unreachable. */
static void uncount_subtree(struct kvm_mmu_vm *vm, uint64_t entry, int level)
{
	const uint64_t *table = spte_table(entry);
	unsigned i;

	count_table(vm, entry, -1);
	for (i = 0; i < SPTE_ENTRIES; i++) {
		uint64_t e = load_spte(&table[i]);

		if (spte_is_table(e, level))
			uncount_subtree(vm, e, level - 1);
		else if (e)
			leaf_gone(vm, e, level);
	}
}

static void free_subtree(uint64_t *table, int level)
{
	unsigned i;

	for (i = 0; i < SPTE_ENTRIES && level > 1; i++)
		if (spte_is_table(table[i], level))
			free_subtree(spte_table(table[i]), level - 1);
	host_frame_free(table);
}

bool kvm_tdp_mmu_unlink_table(struct kvm_mmu_vm *vm, uint64_t *ptep, int level, struct zap_list *z)
{
	struct zapped_table *t = own_malloc(sizeof(*t));
	uint64_t old;

	if (!t)
		return false;
	old = __atomic_exchange_n(ptep, 0, __ATOMIC_ACQ_REL);
	t->table = spte_table(old);
	t->level = level - 1;
	t->next = z->tables;
	z->tables = t;
	z->flush = true;
	uncount_subtree(vm, old, t->level);
	return true;
}

static void zap_leaf(struct kvm_mmu_vm *vm, uint64_t *ptep, int level, struct zap_list *z)
{
	uint64_t old = __atomic_exchange_n(ptep, 0, __ATOMIC_ACQ_REL);

	leaf_gone(vm, old, level);
	z->flush |= old != 0; /* MMIO entries too: the processor may have cached the misconfiguration */
}

static void trace_zap(const struct zap_list *z, gfn_t gfn, uint64_t old, int level)
{
	TRACE(kvmmmu, kvm_tdp_mmu_spte_changed, gfn, old, 0, (uint8_t)level, z->as_id);
	if (spte_is_table(old, level))
		TRACE(kvmmmu, kvm_mmu_prepare_zap_page, 0, gfn,
		      trace_mmu_role(level - 1, true, 7, false, z->as_id), 0, false);
}

static void zap_in_table(struct kvm_mmu_vm *vm, uint64_t *table, int level, gfn_t base, gfn_t start,
			 gfn_t end, struct zap_list *z)
{
	gfn_t first = max_u64(base, start), last = min_u64(base + level_pages(level + 1), end) - 1;
	unsigned i;

	for (i = spte_index(first, level); i <= spte_index(last, level); i++) {
		gfn_t gfn = base + i * level_pages(level);
		uint64_t e = load_spte(&table[i]);

		if (!e)
			continue;
		if (!spte_is_table(e, level)) {
			trace_zap(z, gfn, e, level);
			zap_leaf(vm, &table[i], level, z);
			continue;
		}
		if (start <= gfn && gfn + level_pages(level) <= end &&
		    kvm_tdp_mmu_unlink_table(vm, &table[i], level, z)) {
			trace_zap(z, gfn, e, level);
			continue;
		}
		zap_in_table(vm, spte_table(e), level - 1, gfn, start, end, z);
	}
}

void kvm_tdp_mmu_zap_range(struct kvm_mmu_vm *vm, struct kvm_mmu_page *root, gfn_t start, gfn_t end,
			   struct zap_list *z)
{
	end = min_u64(end, root_end_gfn(root));
	z->as_id = (uint8_t)root_as_id(root);
	if (start < end)
		zap_in_table(vm, root->spt, root_level(root), 0, start, end, z);
}

/* False: stopped at *gfn. */
static bool zap_nx_splits_in(struct kvm_mmu_vm *vm, uint64_t *table, int level, gfn_t base, gfn_t *gfn,
			     uint64_t *n, struct zap_list *z)
{
	unsigned i = spte_index(max_u64(base, *gfn), level);

	for (; i < SPTE_ENTRIES; i++) {
		uint64_t e = load_spte(&table[i]);
		gfn_t at = base + i * level_pages(level);

		if (!spte_is_table(e, level))
			continue;
		if (!*n) {
			*gfn = max_u64(at, *gfn);
			return false;
		}
		if (e & SPTE_NX_SPLIT) {
			if (!kvm_tdp_mmu_unlink_table(vm, &table[i], level, z)) {
				*gfn = at;
				*n = 0;
				return false;
			}
			trace_zap(z, at, e, level);
			--*n;
		} else if (level > 2 && !zap_nx_splits_in(vm, spte_table(e), level - 1, at, gfn, n, z)) {
			return false;
		}
	}
	return true;
}

bool kvm_tdp_mmu_zap_nx_splits(struct kvm_mmu_vm *vm, struct kvm_mmu_page *root, gfn_t *gfn,
			       uint64_t *n, struct zap_list *z)
{
	z->as_id = (uint8_t)root_as_id(root);
	return zap_nx_splits_in(vm, root->spt, root_level(root), 0, gfn, n, z);
}

bool kvm_tdp_mmu_write_protect_gfn(struct kvm_mmu_vm *vm, gfn_t gfn)
{
	uint64_t take = EPT_WRITE | EPT_DIRTY | SPTE_MMU_WRITABLE;
	bool any = false;

	for (uint32_t i = 0; i < mmu_nr_roots(vm); i++) {
		uint64_t *ptep;
		int level;

		if (gfn >= root_end_gfn(vm->roots[i]))
			continue;
		ptep = kvm_tdp_mmu_walk(vm->roots[i], gfn, &level);
		if (!spte_is_leaf(load_spte(ptep), level))
			continue;
		any |= (__atomic_fetch_and(ptep, ~take, __ATOMIC_ACQ_REL) & EPT_WRITE) != 0;
	}
	return any;
}

void kvm_tdp_mmu_zap_finish(struct kvm *kvm, struct zap_list *z)
{
	if (z->flush)
		kvm_flush_remote_tlbs(kvm);
	if (!z->tables)
		return;
	lib_rcu_synchronize();
	while (z->tables) {
		struct zapped_table *t = z->tables;

		z->tables = t->next;
		free_subtree(t->table, t->level);
		own_free(t);
	}
}

void kvm_tdp_mmu_free_tables(struct kvm_mmu_vm *vm, struct kvm_mmu_page *root)
{
	int level = root_level(root);
	unsigned i;

	for (i = 0; i < SPTE_ENTRIES; i++)
		if (spte_is_table(root->spt[i], level))
			free_subtree(spte_table(root->spt[i]), level - 1);
}
