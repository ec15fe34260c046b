/*
 * Inside the shadow MMU: the guest's page tables are not the ones the processor
 * walks. (With ept=0; and with nested=1 for EPT12, an L1's EPT tables, which EPT02
 * shadows beside the TDP MMU: ROLE_EPT, nested_mmu.h.) For each guest table there is a page of ours (a *shadow
 * page*) that translates linear to host-physical addresses, and the processor's
 * CR3 is the root of those. (Linux: mmu/mmu.c, mmu/paging_tmpl.h.)
 *
 *   guest CR3 -> guest PML4 -> PDPT -> PD -> PT -> gfn       what the guest wrote
 *                   |           |      |     |      | memslots
 *   GUEST_CR3  ->  sp(4)  ->  sp(3) -> sp(2) -> sp(1) -> host page
 *
 * A shadow page is found by (gfn, role). The role is all that makes the same
 * guest table mean different things: level, combined rights on the way to it,
 * CR0.WP, EFER.NX ..., and which part of a 32-bit table (1024 entries) it is.
 * A *direct* page shadows no table: a large guest page cut into smaller ones, or
 * memory without paging; gfn is then the first it maps.
 *
 * Where a large guest page (or memory without paging) meets a mapping of the
 * client's that one leaf may cover, a leaf of 2 MiB or 1 GiB stands in the page of
 * that level (invariant 5).
 *
 * Invariants
 * 1. A present leaf is in the list of its gfn's mappings (rmap), a present table
 *    entry in its child's list of parents; both through the node beside it.
 * 2. A gfn that has shadow pages is mapped writable nowhere, unless all of them
 *    are *unsync*: level 1, in vm->unsync, allowed to lag behind the guest as
 *    a TLB does until CR3 is loaded or INVLPG comes (shadow_sync.c).
 * 3. A leaf is writable only if the guest's entry is dirty, the host's page may
 *    be written, and the dirty log, if there is one, has the page.
 * 4. A page that was reachable is freed after a flush of every vCPU; a root in
 *    use (root_count) when its last user lets go.
 * 5. No shadow page is of a gfn that a leaf above level 1 has writable: where there
 *    is one, leaves are smaller (shadow_allows_level()); where one comes, invariant
 *    2 takes the right away, and the next write's fault makes the leaf smaller.
 *
 * Locks: mmu_lock for writing, everywhere here. Nodes and heads need no memory
 * of their own, so nothing is allocated under it.
 */
#ifndef USERKVM_MMU_SHADOW_H
#define USERKVM_MMU_SHADOW_H

#include "mmu/internal.h"
#include "sdm/paging.h"

/* Rights collected on the way through the guest's tables. */
#define ACC_EXEC_MASK 1U
#define ACC_WRITE_MASK 2U
#define ACC_USER_MASK 4U
#define ACC_ALL 7U

/* More of kvm_mmu_page's role, above internal.h's. */
#define ROLE_DIRECT BIT_ULL(6)
#define ROLE_ACCESS_MASK GENMASK_ULL(9, 7)
#define ROLE_QUADRANT_MASK GENMASK_ULL(11, 10)
#define ROLE_4_BYTE_GPTE BIT_ULL(12)
#define ROLE_NX BIT_ULL(13)
#define ROLE_WP BIT_ULL(14)
#define ROLE_SMEP_ANDNOT_WP BIT_ULL(15)
#define ROLE_SMAP_ANDNOT_WP BIT_ULL(16)
#define ROLE_PSE BIT_ULL(17)
#define ROLE_LMA BIT_ULL(18)
/* The guest's table is one of EPT, an L1's for its L2, and so is ours. */
#define ROLE_EPT BIT_ULL(19)
#define ROLE_EXECONLY BIT_ULL(20)

/*
 * Our entries are the SDM's 8-byte ones; software bits are those that are
 * ignored in PAE paging as well, where 62:52 are reserved.
 */
#define SHADOW_HOST_WRITABLE BIT_ULL(9)
#define SHADOW_PRESENT BIT_ULL(11)

#define PT32_ROOT_LEVEL 2
#define PT32E_ROOT_LEVEL 3
#define NR_PAE_ROOTS 4

/* What stands beside each entry: its place in a list of the thing it points to. */
struct shadow_node {
	struct shadow_node *next, **pprev; /* pprev NULL: in none */
	union {
		gfn_t gfn;		   /* of a leaf */
		struct shadow_page *child; /* of a table entry */
	};
};

/* Levels 2 and 3. */
#define NR_HUGE_LEVELS 2

/* Aligned to its size, so that a node tells its page. */
#define SHADOW_PAGE_SIZE 16384U
struct shadow_page {
	struct shadow_node node[SPTE_ENTRIES];
	uint64_t *spt;
	gfn_t gfn;
	uint32_t role;
	uint32_t root_count;
	uint32_t write_flooding_count;
	bool unsync, invalid;
	struct shadow_node *parents;
	struct shadow_page *hash_next, **hash_pprev;
	struct shadow_region_link {
		struct shadow_page *next, **pprev;
	} region[NR_HUGE_LEVELS]; /* not direct: vm->region */
	struct shadow_page *unsync_next, **unsync_pprev;
	struct shadow_page *next, **pprev; /* vm->active, newest first */
};
static_assert(sizeof(struct shadow_page) <= SHADOW_PAGE_SIZE, "a shadow page's size");

#define SHADOW_HASH_BITS 12
struct shadow_vm {
	struct shadow_page *hash[1 << SHADOW_HASH_BITS];
	struct shadow_page *region[NR_HUGE_LEVELS][1 << SHADOW_HASH_BITS]; /* by the 2 MiB, 1 GiB of gfn */
	struct shadow_page *active, *oldest; /* newest first */
	struct shadow_page *unsync;
	uint32_t nr_pages;
};

/* Pages unlinked, to be freed by shadow_commit(); flush: some right is gone. */
struct shadow_zap {
	struct shadow_page *pages; /* by ->next */
	bool flush;
	bool reload; /* a root is among them: vCPUs must leave it */
};

static inline struct shadow_page *node_page(struct shadow_node *n)
{
	return (struct shadow_page *)((uintptr_t)n & ~(uintptr_t)(SHADOW_PAGE_SIZE - 1));
}

static inline uint64_t *node_sptep(struct shadow_node *n)
{
	struct shadow_page *sp = node_page(n);

	return &sp->spt[n - sp->node];
}

static inline int sp_level(const struct shadow_page *sp)
{
	return (int)FIELD_GET(ROLE_LEVEL_MASK, sp->role);
}

static inline unsigned sp_access(const struct shadow_page *sp)
{
	return (unsigned)FIELD_GET(ROLE_ACCESS_MASK, sp->role);
}

static inline bool sp_direct(const struct shadow_page *sp)
{
	return sp->role & ROLE_DIRECT;
}

static inline bool sp_ept(const struct shadow_page *sp)
{
	return sp->role & ROLE_EPT;
}

/* Of an entry of the page: the dirty flag, and what a table entry consists of beside the address. */
static inline uint64_t sp_dirty_mask(const struct shadow_page *sp)
{
	return sp_ept(sp) ? EPT_DIRTY : PTE_D;
}

static inline uint64_t sp_table_bits(const struct shadow_page *sp)
{
	return SHADOW_PRESENT | (sp_ept(sp) ? EPT_RWX | EPT_ACCESSED : PTE_P | PTE_RW | PTE_US | PTE_A);
}

/* That the client's page may be written: a software bit of each format. */
static inline uint64_t sp_host_writable(const struct shadow_page *sp)
{
	return sp_ept(sp) ? SPTE_HOST_WRITABLE : SHADOW_HOST_WRITABLE;
}

static inline bool shadow_is_present(uint64_t e)
{
	return e & SHADOW_PRESENT;
}

static inline bool shadow_is_leaf(uint64_t e, int level)
{
	return shadow_is_present(e) && (level == 1 || e & PTE_PS);
}

static inline unsigned shadow_index(gva_t gva, int level)
{
	return (unsigned)(gva >> (PAGE_SHIFT + SPTE_LEVEL_BITS * (level - 1))) % SPTE_ENTRIES;
}

#define for_each_gfn_sp(vm, sp, wanted)                                                   \
	for ((sp) = (vm)->shadow->hash[shadow_hash(wanted)]; (sp); (sp) = (sp)->hash_next) \
		if ((sp)->gfn == (wanted))

#define for_each_gfn_indirect_sp(vm, sp, wanted) \
	for_each_gfn_sp(vm, sp, wanted) if (!sp_direct(sp))

static inline unsigned shadow_hash(gfn_t gfn)
{
	return (unsigned)((gfn * 0x9e3779b97f4a7c15ULL) >> (64 - SHADOW_HASH_BITS));
}

/* --- shadow_find.c --- */
/* mmu_lock, reading is enough. A table of the guest's in gfn is shadowed and has to stay protected. */
bool shadow_gfn_is_tracked(struct kvm_mmu_vm *vm, gfn_t gfn);
/* The leaves of `level` that map gfn; NULL where slot (which may be NULL) has no such page. */
struct shadow_node **shadow_rmap(const struct kvm_memory_slot *slot, gfn_t gfn, int level);
/* Has the page of `level` around gfn no guest table in it, so that a leaf of that size may map it? Always of level 1. */
bool shadow_allows_level(struct kvm_mmu_vm *vm, gfn_t gfn, int level);
/* Heads of rmaps of one level that a slot needs, wherever it is moved to. */
uint64_t shadow_nr_rmaps(const struct kvm_memory_slot *slot, int level);
/* The list that the tables within gfn's page of `level` (2 and up) are in, with others of the same hash. */
struct shadow_page **shadow_region(struct shadow_vm *s, gfn_t gfn, int level);

/* --- shadow_page.c --- */
must_check int shadow_vm_create(struct kvm_mmu_vm *vm); /* -ENOMEM */
void shadow_vm_destroy(struct kvm_mmu_vm *vm);
/* Before the lock: pages for the longest way down. -ENOMEM. */
must_check int shadow_topup(struct kvm_vcpu *vcpu);
void shadow_drain_cache(struct kvm_vcpu *vcpu);
/*
 * RCU. The page for (gfn, role), made where there is none: then the guest's
 * table has been write-protected and every vCPU flushed. An unsync one is
 * brought up to date, or replaced.
 */
struct shadow_page *shadow_get_page(struct kvm_vcpu *vcpu, gfn_t gfn, uint32_t role,
				    struct shadow_zap *z, bool *fresh);
void shadow_link_child(struct shadow_page *parent, unsigned index, struct shadow_page *child);
void shadow_set_leaf(struct kvm_mmu_vm *vm, struct shadow_page *sp, unsigned index, uint64_t e,
		     gfn_t gfn, struct shadow_node **rmap);
/* True if something was there. */
bool shadow_drop_spte(struct kvm_mmu_vm *vm, struct shadow_page *sp, unsigned index);
void shadow_zap_page(struct kvm_mmu_vm *vm, struct shadow_page *sp, struct shadow_zap *z);
void shadow_zap_all(struct kvm_mmu_vm *vm, struct shadow_zap *z);
/* Every shadow page of gfn: true if there was one. */
bool shadow_unprotect_gfn(struct kvm_mmu_vm *vm, gfn_t gfn, struct shadow_zap *z);
/* nr pages, oldest first; how many went (Linux kvm_mmu_zap_oldest_mmu_pages). */
uint64_t shadow_zap_oldest(struct kvm_mmu_vm *vm, uint64_t nr, struct shadow_zap *z);
/* Room for the longest way down, below the limit of pages. -ENOSPC: too many are roots in use. */
must_check int shadow_make_pages_available(struct kvm_mmu_vm *vm, struct shadow_zap *z);
/* Flush and free. With mmu_lock held or not; not in guest mode. */
void shadow_commit(struct kvm *kvm, struct shadow_zap *z);
void shadow_put_root(struct kvm_mmu_vm *vm, struct shadow_page *sp, struct shadow_zap *z);
/*
 * May gfn become writable? Its level-1 shadow pages become unsync; false
 * (write-protect it) where it has others, or can_unsync is false.
 */
bool shadow_try_to_unsync(struct kvm_mmu_vm *vm, gfn_t gfn, bool can_unsync);
void shadow_unlink_unsync(struct kvm_mmu_vm *vm, struct shadow_page *sp);

/* --- shadow_sync.c --- */
/* RCU. Bring an unsync page up to date; gptes are read after protection and flush. */
void shadow_sync_page(struct kvm_vcpu *vcpu, struct shadow_page *sp);
/*
 * RCU. The same for the unsync pages below `top` (NULL: the current root). An
 * existing table must not come back into use with pages that have lagged while
 * nobody could reach them: no INVLPG and no CR3 load speaks of those.
 */
void shadow_sync_below(struct kvm_vcpu *vcpu, const struct shadow_page *top);
void shadow_sync_roots(struct kvm_vcpu *vcpu);
void shadow_invlpg(struct kvm_vcpu *vcpu, gva_t gva);
void shadow_pte_write(struct kvm_vcpu *vcpu, gpa_t gpa, const void *data, size_t len);
/* The first entry of `sp` that the guest's bytes [offset, ...) of its table stand for. -1: none. */
int shadow_written_sptes(const struct shadow_page *sp, unsigned offset, unsigned *count);

/* --- shadow_fault.c --- */
enum ret_pf shadow_page_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *f);
/* CR0.PG clear: linear is guest-physical. */
enum ret_pf nonpaging_page_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *f);
/* The guest cannot be emulated writing gva: end its page's being a table. */
bool shadow_unprotect_gva(struct kvm_vcpu *vcpu, gva_t gva);

/* --- shadow_root.c --- */
must_check int shadow_vcpu_create(struct kvm_vcpu *vcpu); /* -ENOMEM */
void shadow_vcpu_destroy(struct kvm_vcpu *vcpu);
void init_kvm_softmmu(struct kvm_vcpu *vcpu);
/* The page to begin a walk of gva with. NULL: nothing there. */
struct shadow_page *shadow_root_for(struct kvm_vcpu *vcpu, gva_t gva);
/* Is `sp` `top` or below it (NULL: the current root)? */
bool shadow_reachable(struct kvm_vcpu *vcpu, const struct shadow_page *sp,
		      const struct shadow_page *top);

/* --- shadow_slots.c --- */
/* slot->arch: the heads of its rmaps. -ENOMEM. */
must_check int shadow_prepare_slot(struct kvm_memory_slot *slot);
/* The slot goes: everything that maps or shadows it. */
void shadow_zap_slot(struct kvm *kvm, const struct kvm_memory_slot *slot);
/* mmu_lock. The mappings of [start, end), likewise; true if there were any. */
bool shadow_zap_range(struct kvm_mmu_vm *vm, const struct kvm_memory_slot *slot, gfn_t start,
		      gfn_t end);
/* mmu_lock. Write access to [start, end), larger leaves that reach into it included; true if there was any. */
bool shadow_wrprot_range(const struct kvm_memory_slot *slot, gfn_t start, gfn_t end);

/* --- shadow_check.c --- */
/* mmu_lock, slots_lock. The invariants of shadow.h. */
struct mmu_check_result;
/* tables, leaves (by level): what the TDP MMU has, counted in the same counters. */
void shadow_check(struct kvm *kvm, struct mmu_check_result *r, uint64_t tables, const uint64_t *leaves);
/* mmu_lock. One line for each page. */
void shadow_dump(struct kvm *kvm, void (*line)(void *arg, const char *text), void *arg);

#endif
