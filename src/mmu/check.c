/*
 * The checker and the counters: what must be true of the tables at any moment
 * at which slots_lock is held, and mmu_lock for writing.
 *
 *  1. Every entry is nothing, a table, a leaf or an MMIO entry, in exactly the
 *     format of mmu/spte.h; the processor's bits as the SDM wants them.
 *  2. A leaf translates memory of one valid slot to the client's address of it,
 *     inside the slot; write access only where slot and host allow it.
 *  3. MMIO entries are at level 1, carry their gfn, and one of the present
 *     generation stands where no slot is.
 *  4. A page of a logged slot that can be written unnoticed is dirty already,
 *     or will be before whoever made it so is out of the guest and of RCU.
 *  5. A table is reachable once, and the counters say what the tables say.
 *  6. The sets of slots are in order (kvm_memslots_check).
 */
#include <stdio.h>
#include <stdlib.h>

#include "host/memory.h"
#include "lib/log.h"
#include "lib/own.h"
#include "lib/params.h"
#include "lib/rcu.h"
#include "mmu/check.h"
#include "mmu/shadow.h"

struct check {
	struct kvm *kvm;
	struct mmu_check_result *result;
	struct kvm_mmu_page *root;
	struct kvm_memslots *slots;
	uint64_t tables, leaves[4], mmio, nx_splits;
	const void **seen; /* table frames met, for "once" */
	size_t nr_seen, max_seen;
};

static void fault(struct check *c, const char *what, gfn_t gfn, int level, uint64_t e)
{
	mmu_check_fault(c->result, "%s at gfn %#llx level %d entry %#llx", what,
			(unsigned long long)gfn, level, (unsigned long long)e);
}

static void check_table_format(struct check *c, gfn_t gfn, int level, uint64_t e)
{
	uint64_t must = EPT_RWX | SPTE_MMU_PRESENT, may = must | EPT_ADDR_MASK;

	if (root_has_ad(c->root))
		may |= EPT_ACCESSED;
	if (level > 1 && level <= 3 && is_nx_huge_page_enabled(c->kvm->mmu_vm))
		may |= SPTE_NX_SPLIT;
	c->nx_splits += (e & SPTE_NX_SPLIT) != 0;
	if ((e & must) != must || e & ~may)
		fault(c, "table entry of a wrong format", gfn, level, e);
}

static bool is_dirty(const struct kvm_memory_slot *s, gfn_t gfn)
{
	gfn_t rel = gfn - s->base_gfn;

	return READ_ONCE(s->dirty_bitmap[rel / 64]) & BIT_ULL(rel % 64);
}

/* A leaf that lets writes through unnoticed: then its pages are dirty already. */
static void check_logged(struct check *c, const struct kvm_memory_slot *s, gfn_t gfn, int level,
			 uint64_t e)
{
	gfn_t i;

	if (!kvm_slot_uses_bitmap(c->kvm, s) ||
	    (level == 1 && root_has_pml(c->kvm, c->root) && !(e & EPT_DIRTY)))
		return;
	for (i = gfn; i < gfn + level_pages(level) && i < s->base_gfn + s->npages; i++)
		if (!is_dirty(s, i)) {
			mmu_check_suspect(c->result, s, i);
			return;
		}
}

static void check_rights(struct check *c, const struct kvm_memory_slot *s, gfn_t gfn, int level,
			 uint64_t e)
{
	if (e & SPTE_MMU_WRITABLE && !(e & SPTE_HOST_WRITABLE))
		fault(c, "leaf that may become writable against the host", gfn, level, e);
	if (e & EPT_DIRTY && !(e & EPT_WRITE))
		fault(c, "dirty leaf that cannot be written", gfn, level, e);
	if (level > 1 && e & EPT_EXEC && is_nx_huge_page_enabled(c->kvm->mmu_vm))
		fault(c, "huge page that can be run, against nx_huge_pages", gfn, level, e);
	if (!(e & EPT_WRITE))
		return;
	if (s->flags & KVM_MEM_READONLY || !(e & SPTE_MMU_WRITABLE))
		fault(c, "leaf writable against slot or host", gfn, level, e);
	if (c->kvm->mmu_vm->shadow && (level == 1 ? shadow_gfn_is_tracked(c->kvm->mmu_vm, gfn)
						  : !shadow_allows_level(c->kvm->mmu_vm, gfn, level)))
		fault(c, "leaf writable over a table that is shadowed", gfn, level, e);
	if (kvm_slot_dirty_track_enabled(s))
		check_logged(c, s, gfn, level, e);
}

/* The slot that c->root may map there. */
static struct kvm_memory_slot *slot_of_root(const struct check *c, gfn_t gfn)
{
	struct kvm_memory_slot *s = search_memslots(c->slots, gfn);

	return s && mmu_hides_slot(s, c->root->role & ROLE_GUEST_MODE) ? NULL : s;
}

static void check_leaf(struct check *c, gfn_t gfn, int level, uint64_t e)
{
	struct kvm_memory_slot *s = slot_of_root(c, gfn);
	uint64_t may = EPT_ADDR_MASK | EPT_RWX | EPT_MEMTYPE_MASK | EPT_IPAT | SPTE_MMU_PRESENT |
		       SPTE_HOST_WRITABLE | SPTE_MMU_WRITABLE;
	bool readable = e & EPT_READ;

	c->leaves[level]++;
	if (level > 1)
		may |= EPT_PAGE_SIZE;
	if (root_has_ad(c->root)) {
		may |= EPT_ACCESSED | EPT_DIRTY;
	} else if (spte_is_access_tracked(e)) {
		may |= SPTE_SAVED_MASK;
		readable = e & EPT_READ << SPTE_SAVED_SHIFT;
	}
	if (e & ~may || !readable || FIELD_GET(EPT_MEMTYPE_MASK, e) != MT_WRBACK ||
	    !(e & EPT_IPAT) || level > 3)
		fault(c, "leaf of a wrong format", gfn, level, e);
	if (!s || s->flags & KVM_MEMSLOT_INVALID) {
		fault(c, "leaf without a slot", gfn, level, e);
		return;
	}
	if (gfn + level_pages(level) > s->base_gfn + s->npages)
		fault(c, "leaf reaches out of its slot", gfn, level, e);
	if ((e & EPT_ADDR_MASK) != gfn_to_hva_memslot(s, gfn))
		fault(c, "leaf with a wrong address", gfn, level, e);
	check_rights(c, s, gfn, level, e);
}

static void check_mmio(struct check *c, gfn_t gfn, int level, uint64_t e)
{
	c->mmio++;
	if (level != 1 || mmio_spte_gfn(e) != gfn || e & (BIT_ULL(63) | SPTE_MMU_PRESENT))
		fault(c, "MMIO entry of a wrong format", gfn, level, e);
	if (mmio_spte_gen(e) == mmio_gen(c->slots->generation) && slot_of_root(c, gfn))
		fault(c, "current MMIO entry over a slot", gfn, level, e);
}

static void check_table(struct check *c, uint64_t *table, int level, gfn_t base)
{
	unsigned i;

	c->tables++;
	if (c->nr_seen < c->max_seen)
		c->seen[c->nr_seen++] = table;
	for (i = 0; i < SPTE_ENTRIES; i++) {
		uint64_t e = __atomic_load_n(&table[i], __ATOMIC_ACQUIRE);
		gfn_t gfn = base + i * level_pages(level);

		if (!e)
			continue;
		if (spte_is_table(e, level)) {
			check_table_format(c, gfn, level, e);
			check_table(c, spte_table(e), level - 1, gfn);
		} else if (spte_is_present(e)) {
			check_leaf(c, gfn, level, e);
		} else if (spte_is_mmio(e)) {
			check_mmio(c, gfn, level, e);
		} else {
			fault(c, "entry that is nothing we make", gfn, level, e);
		}
	}
}

static int by_address(const void *a, const void *b)
{
	const char *x = *(const char *const *)a, *y = *(const char *const *)b;

	return (x > y) - (x < y);
}

static void check_seen_once(struct check *c)
{
	size_t i;

	qsort(c->seen, c->nr_seen, sizeof(*c->seen), by_address);
	for (i = 1; i < c->nr_seen; i++)
		if (c->seen[i] == c->seen[i - 1])
			fault(c, "table reachable twice", 0, 0, __pa(c->seen[i]));
}

static void check_counters(struct check *c, const struct kvm_mmu_vm *vm)
{
	int level;

	if (c->mmio != READ_ONCE(vm->mmio_entries))
		fault(c, "mmio_entries is wrong", 0, 0, READ_ONCE(vm->mmio_entries));
	if (c->nx_splits != READ_ONCE(vm->kvm->stat.nx_lpage_splits))
		fault(c, "nx_lpage_splits is wrong", 0, 0, READ_ONCE(vm->kvm->stat.nx_lpage_splits));
	if (vm->shadow)
		return; /* shadow_check() adds what both kinds of tables have */
	if (c->tables != READ_ONCE(vm->table_pages))
		fault(c, "table_pages is wrong", 0, 0, READ_ONCE(vm->table_pages));
	for (level = 1; level <= 3; level++)
		if (c->leaves[level] != READ_ONCE(vm->leaves[level]))
			fault(c, "leaves is wrong", 0, level, READ_ONCE(vm->leaves[level]));
}

/* slots_lock, mmu_lock for writing. */
static void check_roots(struct check *c, struct kvm_mmu_vm *vm)
{
	uint32_t i;

	/* A root counts as soon as it is in the list. */
	pthread_mutex_lock(&vm->roots_lock);
	for (i = 0; i < mmu_nr_roots(vm); i++) {
		c->root = vm->roots[i];
		c->slots = __kvm_memslots(c->kvm, root_as_id(c->root));
		check_table(c, c->root->spt, root_level(c->root), 0);
	}
	check_seen_once(c);
	check_counters(c, vm);
	pthread_mutex_unlock(&vm->roots_lock);
}

/* slots_lock. Who was about to mark the suspects has done it once all are out of guest and RCU. */
static void confirm_suspects(struct kvm *kvm, struct mmu_check_result *r)
{
	unsigned i;

	if (!r->nr_suspects)
		return;
	kvm_make_all_cpus_request(kvm, KVM_REQ_OUTSIDE_GUEST);
	lib_rcu_synchronize();
	for (i = 0; i < r->nr_suspects; i++) {
		gfn_t gfn = r->suspect[i].gfn;
		struct kvm_memory_slot *s =
			search_memslots(__kvm_memslots(kvm, r->suspect[i].as_id), gfn);

		if (!is_dirty(s, gfn))
			mmu_check_fault(r, "clean page can be written unnoticed at gfn %#llx",
					(unsigned long long)gfn);
	}
}

static bool with_ept02; /* set once, with `verify` */

/* slots_lock: a slot that is being deleted is in both worlds. */
static void check_locked(struct kvm *kvm, struct mmu_check_result *r)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	struct check c = { .kvm = kvm, .result = r };
	bool compose;

	/* Room for every table there can be between here and the lock, and more. */
	c.max_seen = READ_ONCE(vm->table_pages) * 2 + 1024;
	c.seen = own_malloc(c.max_seen * sizeof(*c.seen));
	if (!c.seen)
		c.max_seen = 0;
	compose = READ_ONCE(with_ept02) && !pthread_mutex_trylock(&vm->track_lock);
	mmu_write_lock(vm);
	check_roots(&c, vm);
	if (vm->shadow)
		shadow_check(kvm, r, c.tables, c.leaves);
	if (vm->shadow && compose) {
		lib_rcu_read_lock();
		ept02_check(kvm, r);
		lib_rcu_read_unlock();
	}
	mmu_write_unlock(vm);
	/* else somebody is writing a table just now: the next look is as good */
	if (compose)
		pthread_mutex_unlock(&vm->track_lock);
	own_free(c.seen);
	if (kvm_memslots_check(kvm))
		mmu_check_fault(r, "the sets of memslots are not in order");
	confirm_suspects(kvm, r);
}

int mmu_check(struct kvm *kvm)
{
	struct mmu_check_result r = { 0 };

	pthread_mutex_lock(&kvm->slots_lock);
	check_locked(kvm, &r);
	pthread_mutex_unlock(&kvm->slots_lock);
	return r.faults;
}

/* --- after each operation --- */

static bool verify;
static pthread_once_t verify_once = PTHREAD_ONCE_INIT;

static void read_verify(void)
{
	with_ept02 = ept02_check_wanted();
	verify = with_ept02 || params_has_word("USERKVM_CHECK", "1");
}

static bool verify_wanted(const struct kvm *kvm)
{
	pthread_once(&verify_once, read_verify);
	return unlikely(verify) && kvm->mmu_vm;
}

static void verify_or_abort(struct kvm *kvm, const char *after)
{
	struct mmu_check_result r = { .after = after };

	check_locked(kvm, &r);
	if (!r.faults)
		return;
	log_always("mmu_check after %s: %d faults, the process ends (USERKVM_CHECK)", after, r.faults);
	abort();
}

void mmu_verify_locked(struct kvm *kvm, const char *after)
{
	if (verify_wanted(kvm))
		verify_or_abort(kvm, after);
}

void mmu_verify(struct kvm *kvm, const char *after)
{
	if (!verify_wanted(kvm) || pthread_mutex_trylock(&kvm->slots_lock))
		return;
	verify_or_abort(kvm, after);
	pthread_mutex_unlock(&kvm->slots_lock);
}

void kvm_mmu_usage(struct kvm *kvm, struct kvm_mmu_usage *u)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	int level;

	*u = (struct kvm_mmu_usage){ .table_pages = READ_ONCE(vm->table_pages) };
	for (level = 1; level <= 3; level++)
		u->leaves[level] = READ_ONCE(vm->leaves[level]);
}
