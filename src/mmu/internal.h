/*
 * Inside mmu: the VM's and the vCPU's part, faults, and the operations on
 * tables.
 *
 * mmu_lock is a readers-writer lock: faults hold it for reading, whoever takes
 * something away for writing. Nothing sleeps or allocates under it. RCU is
 * outside of it; a grace period is never awaited under it.
 */
#ifndef USERKVM_MMU_INTERNAL_H
#define USERKVM_MMU_INTERNAL_H


#include "mmu/mmu.h"
#include "mmu/spte.h"
#include "sdm/paging.h"

#define PT64_ROOT_4LEVEL 4
#define PT64_ROOT_5LEVEL 5
/* The least that max_table_pages can be: what one instruction may need at a time, and more. */
#define MIN_TABLE_PAGES 256
#define KVM_MIN_ALLOC_MMU_PAGES 64 /* the least limit of shadow pages */
/* address spaces; 4 or 5 levels; L1 or L2 */
#define KVM_MMU_MAX_ROOTS (KVM_ADDRESS_SPACE_NUM * 2 * 2)

/* What makes two roots differ. */
#define ROLE_LEVEL_MASK GENMASK_ULL(3, 0)
#define ROLE_AS_ID_MASK GENMASK_ULL(4, 4)
#define ROLE_AD_DISABLED BIT_ULL(5)
/* What L2 without EPT12 runs on: L1's memory without the hypervisor's own slots. Shadow pages need no such bit. */
#define ROLE_GUEST_MODE BIT_ULL(21)

/* A root. Lower tables are bare frames: the way down to them says it all. */
struct kvm_mmu_page {
	uint64_t *spt;	   /* (c) */
	uint32_t role;	   /* (c) */
	uint32_t refcount; /* roots_lock: vCPUs that use it */
};

struct kvm_mmu_vm {
	struct kvm *kvm;       /* (c) */
	pthread_rwlock_t lock; /* mmu_lock: mmu_read_lock(), mmu_write_lock() (lock.c) */
	uint32_t writer;       /* (a) somebody holds it for writing, or waits for readers */
	pthread_mutex_t roots_lock;
	/* Only ever grows; kept until the VM goes, so that SMM switches are cheap. */
	struct kvm_mmu_page *roots[KVM_MMU_MAX_ROOTS]; /* roots_lock to add */
	uint32_t nr_roots;			       /* (a) */
	uint64_t table_pages; /* (a) reachable, or reserved by a fault on its way */
	gfn_t reclaim_hand;   /* mmu_lock for writing: where limit.c goes on */
	uint32_t reclaim_root; /* likewise */
	uint64_t nr_max_shadow_pages;	    /* (a) slots_lock to change */
	uint64_t nr_requested_shadow_pages; /* slots_lock; 0: the default */
	uint64_t *leaves; /* (c)->(a) by level, 1..3: the VM's pages_4k, _2m, _1g */
	uint64_t mmio_entries;			       /* (a) */
	struct shadow_vm *shadow;		       /* (a) shadow pages: (c) with ept=0, else [s] NULL until a VMXON */
	struct l1ept *l1ept; /* (c) USERKVM_CHECK=l1ept, or NULL */
	pthread_mutex_t track_lock;		       /* kvm_mmu_track_lock() */
	bool nx_disabled; /* (c) once there are vCPUs: KVM_CAP_VM_DISABLE_NX_HUGE_PAGES */
	struct nx_recovery *nx; /* roots_lock; NULL: no thread (nx_huge.c) */
	uint32_t agers; /* (a) between mmu_age_begin() and mmu_age_end() */
	struct kvm_mmu_vm *next_vm; /* vms_lock (slots.c) */
	uint64_t number;	    /* (c) once linked: VMs are counted from 1 */
};

/* Frames taken before the lock, so that no allocation happens under it. */
#define KVM_MMU_CACHE_FRAMES 8
struct kvm_mmu_memory_cache {
	unsigned nr;
	void *frame[KVM_MMU_CACHE_FRAMES];
};

struct kvm_mmu_vcpu {
	struct kvm_mmu root_mmu; /* (o) L1's */
	struct kvm_mmu guest_mmu, nested_mmu; /* (o) while L2 runs on EPT02: nested_mmu.h */
	struct kvm_mmu_memory_cache cache; /* (o) */
	struct mmu_reader *reader; /* (c) lock.c */
	int l1_maxphyaddr; /* (o) for EPT12, as a reader of core files needs it */
	struct shadow_vcpu *shadow;	   /* (c) of root_mmu with ept=0, of guest_mmu with nested=1 */
};

/* How f->addr was accessed. */
static inline bool fault_is_write(const struct kvm_page_fault *f)
{
	return f->error_code & PFERR_WRITE_MASK;
}

static inline bool fault_is_fetch(const struct kvm_page_fault *f)
{
	return f->error_code & PFERR_FETCH_MASK;
}

/* What a walk of the guest's tables is asked for. */
static inline uint32_t fault_access(const struct kvm_page_fault *f)
{
	return f->error_code & (PFERR_WRITE_MASK | PFERR_USER_MASK | PFERR_FETCH_MASK);
}

/* errno: 0 or negative, a result of another room. 0: RET_PF_CONTINUE. */
static inline enum ret_pf fault_result(struct kvm_page_fault *f, int error)
{
	f->error = error;
	return unlikely(error) ? RET_PF_ERROR : RET_PF_CONTINUE;
}

/* As tracepoints show it: enum ret_pf, or -errno. */
static inline int fault_shown(const struct kvm_page_fault *f, enum ret_pf r)
{
	return r == RET_PF_ERROR ? f->error : (int)r;
}

const struct kvm_mmu_guest_ops *mmu_guest_ops(void);
const struct kvm_mmu_vendor_ops *mmu_vendor_ops(void);

static inline bool root_has_ad(const struct kvm_mmu_page *root)
{
	return !(root->role & ROLE_AD_DISABLED);
}

/* Huge pages may not be executable (KVM's iTLB multihit workaround). */
static inline bool is_nx_huge_page_enabled(const struct kvm_mmu_vm *vm)
{
	return kvm_mmu_params()->nx_huge_pages && !vm->nx_disabled;
}

/* --- lock.c --- */
must_check int mmu_reader_create(struct kvm_mmu_vcpu *m); /* -ENOMEM */
void mmu_reader_destroy(struct kvm_mmu_vcpu *m);
/* A vCPU's page fault: beside others of its kind. Not nested; its thread. */
void mmu_read_lock(struct kvm_vcpu *vcpu);
void mmu_read_unlock(struct kvm_vcpu *vcpu);
/* Alone. Any thread, not inside a read section. */
void mmu_write_lock(struct kvm_mmu_vm *vm);
void mmu_write_unlock(struct kvm_mmu_vm *vm);
/* In a read section: n leaves more, or fewer, at the level (mmio: MMIO entries). */
void mmu_count_fault_leaf(struct kvm_vcpu *vcpu, int level, bool mmio, int64_t n);

/* Writes to clean leaves are logged by the processor (PML). */
static inline bool root_has_pml(const struct kvm *kvm, const struct kvm_mmu_page *root)
{
	return kvm->cpu_dirty_logging && root_has_ad(root);
}

/* No slot for an L2 (Linux: "Don't expose private memslots to L2"): its accesses are emulated, as L1's device. */
static inline bool mmu_hides_slot(const struct kvm_memory_slot *s, bool guest_mode)
{
	return unlikely(s->id >= KVM_USER_MEM_SLOTS) && guest_mode;
}

static inline int root_as_id(const struct kvm_mmu_page *root)
{
	return (int)FIELD_GET(ROLE_AS_ID_MASK, root->role);
}

static inline int root_level(const struct kvm_mmu_page *root)
{
	return (int)FIELD_GET(ROLE_LEVEL_MASK, root->role);
}

/* The first gfn that no table of the root reaches. */
static inline gfn_t root_end_gfn(const struct kvm_mmu_page *root)
{
	return level_pages(root_level(root) + 1);
}

static inline bool root_reaches(const struct kvm_mmu_page *root, gpa_t gpa)
{
	return gpa >> PAGE_SHIFT < root_end_gfn(root);
}

static inline uint32_t mmu_nr_roots(struct kvm_mmu_vm *vm)
{
	return __atomic_load_n(&vm->nr_roots, __ATOMIC_ACQUIRE);
}

/* --- mmu.c --- */
/* Before mmu_lock is taken: half a cache of frames at least. -ENOMEM. */
must_check int mmu_topup_memory_caches(struct kvm_vcpu *vcpu);

/* --- tdp_root.c --- */
/* A root of mmu->role for the current context (the seed's kvm_alloc_direct_roots). -ENOMEM. */
must_check int mmu_alloc_direct_roots(struct kvm_vcpu *vcpu);
void mmu_tdp_unload(struct kvm_vcpu *vcpu, struct kvm_mmu *mmu);

/* --- tdp_fault.c --- */
enum ret_pf tdp_page_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *f);

/* --- faultin.c --- */
/* Of the slots that the vCPU sees. */
uint64_t mmu_current_generation(struct kvm_vcpu *vcpu);
/*
 * From f->gfn to a host page that is there; may wait for it, so no lock and no
 * RCU section. RET_PF_CONTINUE: f is complete. RET_PF_ERROR: -EFAULT, -EIO.
 */
must_check enum ret_pf kvm_faultin_page(struct kvm_vcpu *vcpu, struct kvm_page_fault *f);
/* Tracepoints for what it found; r is what it returned. */
void mmu_trace_faultin(const struct kvm_page_fault *f, enum ret_pf r);
/* RCU, mmu_lock. What f knows of slots or the client's mapping is out of date. */
bool is_page_fault_stale(struct kvm_vcpu *vcpu, const struct kvm_page_fault *f);

/* --- tdp_mmu.c --- */
/* mmu_lock for reading, at least KVM_MMU_CACHE_FRAMES / 2 frames in the cache. */
enum ret_pf kvm_tdp_mmu_map(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault);
/* RCU. The lowest entry on the way to gfn, and its level. */
uint64_t *kvm_tdp_mmu_walk(struct kvm_mmu_page *root, gfn_t gfn, int *level);

/* Tables unlinked by a zap, to be freed when nobody can walk them any more. */
struct zap_list {
	struct zapped_table *tables;
	bool flush; /* some translation is gone: TLBs must know */
	uint8_t as_id; /* of the root at hand, for tracepoints */
};
/* mmu_lock for writing. The table below *ptep goes. False: no memory to remember it. */
bool kvm_tdp_mmu_unlink_table(struct kvm_mmu_vm *vm, uint64_t *ptep, int level, struct zap_list *z);
/* mmu_lock for writing. Every translation in [start, end). */
void kvm_tdp_mmu_zap_range(struct kvm_mmu_vm *vm, struct kvm_mmu_page *root, gfn_t start, gfn_t end,
			   struct zap_list *z);
/* mmu_lock for writing. No leaf of any root lets gfn be written; true: one did, a flush is due. */
bool kvm_tdp_mmu_write_protect_gfn(struct kvm_mmu_vm *vm, gfn_t gfn);
/* No lock. Shoot-down, grace period, free. */
void kvm_tdp_mmu_zap_finish(struct kvm *kvm, struct zap_list *z);
/*
 * mmu_lock. A huge leaf becomes a table of 512 that say the same: `table`, a
 * frame of the caller's, which is used up unless the entry has changed (false).
 * Reserved by the caller.
 * TLBs may keep the huge entry, it grants nothing the new ones do not. 4 KiB
 * leaves may be run. for_nx: because somebody wants to, in nx_lpage_splits.
 */
bool kvm_tdp_mmu_split_leaf(struct kvm_mmu_vm *vm, struct kvm_mmu_page *root, uint64_t *ptep,
			    uint64_t old, int level, uint64_t *table, bool for_nx);
/*
 * mmu_lock for writing. Unlink up to *n tables that stand for huge pages since
 * something in them is run, from *gfn upwards; the next gfn to begin with is
 * left in *gfn, 0 at the end. False: no memory to remember one.
 */
bool kvm_tdp_mmu_zap_nx_splits(struct kvm_mmu_vm *vm, struct kvm_mmu_page *root, gfn_t *gfn,
			       uint64_t *n, struct zap_list *z);
/* The VM is going: the root's tables, without the root's frame. */
void kvm_tdp_mmu_free_tables(struct kvm_mmu_vm *vm, struct kvm_mmu_page *root);

/* --- reserve.c --- */
/* mmu_lock for reading, or none: n tables more. False, and nothing reserved: max_table_pages does not allow them. */
must_check bool mmu_reserve_tables(struct kvm_mmu_vm *vm, unsigned n);
void mmu_unreserve_tables(struct kvm_mmu_vm *vm, unsigned n);

/* --- limit.c --- */
/*
 * No lock, no RCU. Make room below the limit: -ENOMEM when nothing can be taken.
 * Others may have used it up by the time the caller tries again.
 */
must_check int mmu_reclaim_tables(struct kvm *kvm);
/* slots_lock. Memslots have come or gone: the default of KVM_GET_NR_MMU_PAGES follows. */
void mmu_slots_changed(struct kvm *kvm);

/* --- age.c --- */
/*
 * Around aging in one VM; young: pages that had been accessed. After the end no processor holds a
 * translation from before the begin, be it that another ager has taken the accessed state.
 */
void mmu_age_begin(struct kvm *kvm);
void mmu_age_end(struct kvm *kvm, uint64_t young);
/*
 * vms_lock. Ages host memory [start, end) in one VM (test: asks only); *young is
 * raised by the 4 KiB pages that its guest had accessed. Between begin and end. True: it is memory of the VM.
 */
bool mmu_age_hva(struct kvm *kvm, hva_t start, hva_t end, bool test, uint64_t *young);

/* --- idle_bits.c --- */
extern bool mmu_idle_in_use; /* (a) some page has had a flag */
/* Flags of single host pages; any thread, no lock. -ENOMEM. */
must_check int mmu_idle_set(hva_t hva);
bool mmu_idle_test(hva_t hva);
void mmu_idle_clear(hva_t start, hva_t end);
/* Other memory may come to be at [start, end). */
static inline void mmu_idle_forget(hva_t start, hva_t end)
{
	if (unlikely(READ_ONCE(mmu_idle_in_use)) && start < end)
		mmu_idle_clear(start, end);
}
/* mmu_lock for writing. An EPT leaf goes, or is no longer accessed. */
static inline void mmu_leaf_forgotten(uint64_t e, int level)
{
	hva_t hva = e & EPT_ADDR_MASK;

	if (unlikely(READ_ONCE(mmu_idle_in_use)) && spte_is_accessed(e, kvm_mmu_params()->eptad))
		mmu_idle_clear(hva, hva + (level_pages(level) << PAGE_SHIFT));
}

/* --- dirty.c --- */
/* Logging of the slot begins. slots_lock held, no other; flushes by itself. */
void mmu_slot_enable_log_dirty(struct kvm *kvm, const struct kvm_memory_slot *slot);
/* kvm_write_protect_fn: the client has taken these bits of the log. */
void mmu_slot_protect_masked(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t offset,
			     uint64_t mask);

/* --- nx_huge.c --- */
/*
 * The VM's thread that gives split pages back for huge ones, where the parameters
 * ask for it; made by the first vCPU. -EAGAIN, -ENOMEM. stop waits for its end;
 * both may be called again.
 */
must_check int mmu_nx_recovery_start(struct kvm_mmu_vm *vm);
void mmu_nx_recovery_stop(struct kvm_mmu_vm *vm);

/* --- slots.c --- */
void mmu_register_slot_listener(void);
/* In or out of the list of VMs that follow the client's mappings; out waits for work in progress. */
void mmu_vm_link(struct kvm_mmu_vm *vm);
void mmu_vm_unlink(struct kvm_mmu_vm *vm);
/*
 * The VMs of this process, the first of the list, which stays as it is until the unlock. Not with
 * a lock of a VM held, and only where there have been VMs.
 */
bool mmu_have_vms(void);
struct kvm_mmu_vm *mmu_vms_lock(void);
void mmu_vms_unlock(void);
/* The part of the slot that host memory [start, end), which intersects it, is. */
void mmu_hva_to_gfns(const struct kvm_memory_slot *s, hva_t start, hva_t end, gfn_t *first, gfn_t *beyond);

/* --- guest_walk.c --- */
/* What a walk went through, by level of the guest's tables. */
struct guest_walker {
	int max_level; /* of the tables in memory: PAE begins at 2 */
	int level;     /* of the entry that maps the page */
	gfn_t table_gfn[6];
	gpa_t pte_gpa[6];
	uint64_t pte[6];	/* as left by the walk, A and D set */
	unsigned pt_access[6]; /* ACC_*: rights down to and with this entry */
	unsigned pte_access;	/* of the page; no write while its entry is clean */
	gfn_t gfn;		/* of the 4 KiB page */
};
/* As paging_gva_to_gpa(), which is this without `gw`. */
gpa_t mmu_guest_walk(struct kvm_vcpu *vcpu, gva_t gva, uint32_t access, struct guest_walker *gw,
		     struct kvm_page_fault_info *exception);
/* RCU. Some entry of the walk is no longer what it was. */
bool mmu_guest_walk_changed(struct kvm_vcpu *vcpu, const struct guest_walker *gw, int level);
/* An entry of the guest's (level 1, `pte` present) as the processor would take it: false if reserved bits are set. */
bool mmu_guest_pte_valid(struct kvm_vcpu *vcpu, uint64_t pte);
gpa_t nonpaging_gva_to_gpa(struct kvm_vcpu *vcpu, gva_t gva, uint32_t access,
			   struct kvm_page_fault_info *exception);
gpa_t paging_gva_to_gpa(struct kvm_vcpu *vcpu, gva_t gva, uint32_t access,
			struct kvm_page_fault_info *exception);

#endif
