/*
 * The hypervisor's MMU: guest-physical memory as page tables of our own.
 * (Linux: arch/x86/kvm/mmu.)
 *
 * A vCPU's MMU context (struct kvm_mmu) is a table of operations chosen by
 * kvm_init_mmu(): init_kvm_tdp_mmu (EPT) or init_kvm_softmmu (shadow paging).
 * Nothing outside asks "is this EPT?".
 *
 * TDP MMU: one root per (address space, level, A/D) is shared by the VM's
 * vCPUs. Faults are handled in parallel: mmu_lock for reading, entries changed
 * by compare-exchange, tables freed after a grace period. Zapping a slot takes
 * the lock for writing.
 *
 * Shadow MMU (ept=0): shadow.h. One writer at a time.
 *
 * Files: mmu.c (contexts, life), params.c (knobs), ops.c (what the rooms above do), tdp_root.c (roots), fault.c
 * (page faults, MMIO), tdp_fault.c, faultin.c (slot, host page), tdp_mmu.c (tables: map, zap, split), age.c
 * (access tracking), idle_bits.c, idle.c (idle flags), reserve.c, limit.c (how many tables), nx_huge.c (recovery
 * of split pages), slots.c (memslot listener, invalidation by host address), dirty.c (noticing writes: eager
 * split, protection), guest_walk.c, check.c, check_report.c, dump.c; spte.h is the entry format. shadow_find.c
 * (indexes), shadow_page.c (pages, rmaps), shadow_fault.c, shadow_sync.c, shadow_root.c, shadow_slots.c,
 * shadow_check.c.
 */
#ifndef USERKVM_MMU_MMU_H
#define USERKVM_MMU_MMU_H

#include "trace/trace.h"
#include "virt/kvm.h"

#define INVALID_PAGE (~(hpa_t)0)

/* What a page fault came to (Linux RET_PF_*). */
enum ret_pf {
	RET_PF_CONTINUE, /* inside mmu only: no answer yet */
	RET_PF_RETRY,	 /* start the guest again, it will fault again or not */
	RET_PF_EMULATE,	 /* MMIO: emulate the instruction */
	RET_PF_INVALID,	 /* of handle_mmio_page_fault(): the MMIO entry is stale, treat as a fault */
	RET_PF_FIXED,
	RET_PF_SPURIOUS,
	RET_PF_ERROR, /* the fault's `error` is what KVM_RUN returns */
};

/*
 * One fault (Linux: struct kvm_page_fault). The room that takes the exit sets the first part; the MMU passes
 * the structure down and fills in the rest. What became of it comes back as enum ret_pf.
 */
struct kvm_page_fault {
	uint64_t addr; /* what the processor named: guest-physical; with shadow paging linear (CR2) */
	uint64_t error_code; /* PFERR_*: how addr was accessed, what stood in the way, whether for a page table */
	bool prefetch; /* no access of the guest's waits for it */
	int error; /* with RET_PF_ERROR: -errno */
	/* the MMU's own */
	gpa_t gpa;
	gfn_t gfn;
	struct kvm_memory_slot *slot; /* NULL: MMIO. (r) believe it after is_page_fault_stale() */
	uint16_t slot_id;
	uint64_t mmu_seq;
	hva_t hva; /* of gfn */
	bool map_writable;
	bool tracked; /* gfn has a table of the guest's that is shadowed: not writable */
	bool short_of_tables; /* max_table_pages is reached */
	int goal_level;
	int req_level; /* what goal_level was before huge pages were ruled out for being run */
	uint64_t generation; /* of the slots looked at */
};

struct kvm_page_fault_info { /* x86_exception of the guest walk */
	uint8_t vector;
	uint16_t error_code;
	uint64_t address; /* linear; nested: L2's guest-physical */
	/* EPT12 forbids it: an exit to L1 instead of an exception of L2's */
	bool nested, misconfigured, from_walk;
	bool pml_full; /* nested: allowed, but L1's log of L2's writes has no room for it */
	uint64_t exit_qualification; /* of a violation; bits 8:7 too if from_walk */
	gva_t gva;		     /* from_walk: what was walked for */
};

/* Guest registers the MMU must look at, supplied by the x86 room. */
struct kvm_mmu_guest_ops {
	uint64_t (*get_cr0)(struct kvm_vcpu *vcpu);
	uint64_t (*get_cr3)(struct kvm_vcpu *vcpu);
	uint64_t (*get_cr4)(struct kvm_vcpu *vcpu);
	uint64_t (*get_efer)(struct kvm_vcpu *vcpu);
	uint64_t (*get_rflags)(struct kvm_vcpu *vcpu);
	uint32_t (*get_pkru)(struct kvm_vcpu *vcpu);
	uint64_t (*get_pdptr)(struct kvm_vcpu *vcpu, int index);
	int (*get_maxphyaddr)(struct kvm_vcpu *vcpu); /* guest CPUID 80000008h */
	int (*get_cpl)(struct kvm_vcpu *vcpu);
	bool (*is_smm)(struct kvm_vcpu *vcpu);
	/* The guest's own #PF, found by a walk of its tables (shadow paging). */
	void (*inject_page_fault)(struct kvm_vcpu *vcpu, const struct kvm_page_fault_info *fault);
	/* EPT12 forbids what L2 does: an exit to L1. */
	void (*inject_nested_fault)(struct kvm_vcpu *vcpu, const struct kvm_page_fault_info *fault);
	/* L2's first write to a page that is clean in EPT12, by L2's address: into L1's log. False: no room. */
	bool (*log_l2_write)(struct kvm_vcpu *vcpu, gpa_t gpa);
	bool (*is_guest_mode)(struct kvm_vcpu *vcpu); /* an L2 runs; NULL: never */
	uint64_t (*get_rip)(struct kvm_vcpu *vcpu); /* for reports; NULL: 0 */
	/* Since then (TSC) the vCPU has been in user mode, halted or in an L2, for checkers; any thread; NULL: unknown. */
	bool (*calm_since)(const struct kvm_vcpu *vcpu, uint64_t when);
	void (*get_thread)(struct kvm_vcpu *vcpu, uint64_t *cr3, uint64_t *fs_base); /* who runs, for checkers; NULL: unknown */
	uint64_t (*l1_lstar)(const struct kvm_vcpu *vcpu); /* L1's own, not its L2's, for checkers; 0: unknown yet; NULL: unknown */
};

/* What the MMU asks of the vendor room (vmx), so that it knows no VMCS. */
struct kvm_mmu_vendor_ops {
	/*
	 * set_tdp_cr3 / vmx_set_cr3: root_hpa is the *host-physical address of
	 * the EPT root*; with ept=0 of the shadow root, and goes into GUEST_CR3.
	 */
	void (*set_tdp_cr3)(struct kvm_vcpu *vcpu, hpa_t root_hpa, int root_level);
	void (*flush_tlb_current)(struct kvm_vcpu *vcpu); /* INVEPT of the current EPTP */
	/* What processors have decoded from host memory [start, start + size) is void. NULL: nothing. */
	void (*invalidate_code)(struct kvm *kvm, hva_t start, uint64_t size_bytes);
};

struct kvm_mmu_page;

struct kvm_mmu {
	/* chosen at init */
	enum ret_pf (*page_fault)(struct kvm_vcpu *vcpu, struct kvm_page_fault *f);
	gpa_t (*gva_to_gpa)(struct kvm_vcpu *vcpu, gva_t gva, uint32_t access,
			    struct kvm_page_fault_info *exception);
	void (*set_cr3)(struct kvm_vcpu *vcpu, hpa_t root_hpa, int root_level);
	uint64_t (*get_cr3)(struct kvm_vcpu *vcpu);
	void (*sync_roots)(struct kvm_vcpu *vcpu); /* NULL: nothing can be unsync */
	int (*alloc_roots)(struct kvm_vcpu *vcpu);
	void (*unload)(struct kvm_vcpu *vcpu, struct kvm_mmu *mmu);
	/* What the guest does to its translations; NULL: the processor sees to it itself. */
	void (*new_cr3)(struct kvm_vcpu *vcpu, uint64_t cr3, bool skip_sync);
	void (*invalidate_pcid)(struct kvm_vcpu *vcpu, bool all, uint16_t pcid);
	void (*invlpg)(struct kvm_vcpu *vcpu, gva_t gva);
	bool (*unprotect)(struct kvm_vcpu *vcpu, gva_t gva);
	bool direct_map;
	bool eptp_ad; /* accessed and dirty flags are on in our EPTP */
	uint64_t eptp12; /* guest_mmu: L1's EPTP, whose tables ours shadow */
	bool ept12_execonly; /* it may have execute-only entries */

	struct kvm_mmu_page *root; /* (o) of ours, TDP: what root_hpa belongs to; NULL without one */
	hpa_t root_hpa; /* (o) INVALID_PAGE: kvm_mmu_load() before the next entry */
	int root_level; /* of our tables: 4 or 5 */
	int guest_level; /* of the guest's: 0 (no paging), 2, 3, 4 */
	uint32_t role;
};

/* Module knobs (USERKVM_PARAMS), read once. */
struct kvm_mmu_params {
	bool nested; /* guests may have EPT tables of their own; never without ept */
	bool ept, eptad, tdp_mmu, eager_page_split;
	bool nx_huge_pages; /* no huge page is executable: the workaround for iTLB multihit */
	uint32_t nx_huge_pages_recovery_ratio, nx_huge_pages_recovery_period_ms;
	uint64_t max_table_pages; /* of one VM; ours, KVM leaves this to the memory cgroup */
};
const struct kvm_mmu_params *kvm_mmu_params(void);

/* Once, before the first VM. The tables must live for ever. */
void kvm_mmu_register_guest(const struct kvm_mmu_guest_ops *g, const struct kvm_mmu_vendor_ops *v);
/* The VM's part: roots, counters, its place among the VMs that follow client memory. -ENOMEM. */
must_check int kvm_mmu_init_vm(struct kvm *kvm);
/*
 * KVM API: KVM_CAP_VM_DISABLE_NX_HUGE_PAGES. Before the first vCPU; nothing to
 * undo where nx_huge_pages is off.
 */
void kvm_mmu_disable_nx_huge_pages(struct kvm *kvm);
/* After the last vCPU's kvm_mmu_destroy(): frees every table. */
void kvm_mmu_uninit_vm(struct kvm *kvm);
/* The vCPU's part, context not yet chosen (kvm_init_mmu). -ENOMEM. */
must_check int kvm_mmu_create(struct kvm_vcpu *vcpu);
void kvm_mmu_destroy(struct kvm_vcpu *vcpu);
/*
 * Choose the context for the guest's mode: paging mode of gva_to_gpa, address
 * space (vcpu->as_id, from is_smm). Drops nothing.
 */
void kvm_init_mmu(struct kvm_vcpu *vcpu);
/*
 * After CR0/CR4/EFER or SMM changes, or a CR3 set from outside: kvm_init_mmu(),
 * and the root is dropped where it is no longer the right one (Linux drops it
 * always; a TDP root does not depend on the guest's paging mode).
 */
void kvm_mmu_reset_context(struct kvm_vcpu *vcpu);
/* The vendor's pointer to the tables is another VMCS's: where there is a root, hand it over again. */
static inline void kvm_mmu_load_pgd(struct kvm_vcpu *vcpu)
{
	if (vcpu->mmu->root_hpa != INVALID_PAGE)
		vcpu->mmu->set_cr3(vcpu, vcpu->mmu->root_hpa, vcpu->mmu->root_level);
}
/*
 * Nested VMX: the VM's first VMXON. What shadow pages need beside the TDP MMU, so that a VM without an L1
 * pays for none of it (Linux: mmu_first_shadow_root_alloc). Takes slots_lock; owner thread. -ENOMEM.
 */
must_check int kvm_mmu_prepare_nested(struct kvm *kvm);
/*
 * Nested VMX, EPT12 on: L2 is about to run (guest_mmu, nested_mmu), or no longer. The
 * caller chooses the paging mode (kvm_mmu_reset_context) and loads the root after it.
 */
void kvm_init_shadow_ept_mmu(struct kvm_vcpu *vcpu, uint64_t eptp12, bool execonly);
void kvm_mmu_leave_nested(struct kvm_vcpu *vcpu);
/* INVEPT by L1: what is remembered of EPTP12s with the same root, or of all. */
void kvm_mmu_free_guest_roots(struct kvm_vcpu *vcpu, bool all, uint64_t eptp);
/* Drop this vCPU's roots; the next entry loads one. */
void kvm_mmu_unload(struct kvm_vcpu *vcpu);

/*
 * A root for the next entry, handed to the vendor (set_cr3), and the TLB
 * flushed: the root may have changed while we did not use it.
 * kvm_mmu_reload: only when root_hpa == INVALID_PAGE. -ENOMEM.
 */
must_check int kvm_mmu_load(struct kvm_vcpu *vcpu);
must_check static inline int kvm_mmu_reload(struct kvm_vcpu *vcpu)
{
	TRACE_CALL(kvm_mmu_reload, vcpu->vcpu_id, vcpu->mmu->root_hpa);
	if (likely(vcpu->mmu->root_hpa != INVALID_PAGE))
		return 0;
	return kvm_mmu_load(vcpu);
}

/*
 * The way in for EPT violations and misconfigurations (PFERR_RSVD_MASK); with ept=0 for #PF.
 * RET_PF_EMULATE: MMIO, a write to read-only memory or to a shadowed table; the caller emulates the
 * instruction. RET_PF_ERROR: f->error is -EFAULT (the client's memory is gone), -ENOMEM, -EINVAL (an entry
 * that the MMU never writes), -EIO (the VM is bugged). RET_PF_RETRY, _FIXED, _SPURIOUS: re-enter the guest.
 * Owner thread, no lock; may wait for the client's page.
 */
must_check enum ret_pf kvm_mmu_page_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *f);
/*
 * KVM API: KVM_PRE_FAULT_MEMORY, one step of it: maps gpa as a read by the
 * guest would, *done is how far that reaches. -ENOENT (no memory), -EFAULT,
 * -ENOMEM, -EOPNOTSUPP (no EPT). Owner thread; nothing done on an error.
 */
must_check int kvm_mmu_pre_fault(struct kvm_vcpu *vcpu, gpa_t gpa, uint64_t size, uint64_t *done);
/*
 * EPT misconfiguration at f->addr: RET_PF_EMULATE; RET_PF_RETRY, the entry has changed since; RET_PF_INVALID,
 * it is of an older generation of memslots; RET_PF_ERROR with -EINVAL, the entry is none of the MMU's.
 */
must_check enum ret_pf handle_mmio_page_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *f);

/*
 * What the guest does to its own translations, told by whoever handles the exit
 * or emulates the instruction. Nothing to do with EPT. The processor's TLB is
 * the caller's to flush. Owner thread, outside guest mode.
 */
/* MOV to CR3, done: skip_sync with the no-flush bit of PCIDs. */
static inline void kvm_mmu_new_cr3(struct kvm_vcpu *vcpu, uint64_t cr3, bool skip_sync)
{
	if (vcpu->mmu->new_cr3)
		vcpu->mmu->new_cr3(vcpu, cr3, skip_sync);
}
/* INVPCID of one PCID or all, CR4.PGE: what was remembered of them is out of date. */
static inline void kvm_mmu_invalidate_pcid(struct kvm_vcpu *vcpu, bool all, uint16_t pcid)
{
	if (vcpu->mmu->invalidate_pcid)
		vcpu->mmu->invalidate_pcid(vcpu, all, pcid);
}
static inline void kvm_mmu_invlpg(struct kvm_vcpu *vcpu, gva_t gva)
{
	if (vcpu->mmu->invlpg)
		vcpu->mmu->invlpg(vcpu, gva);
}
/* Guest memory was written by emulation (Linux kvm_page_track_write): it may be a page table. */
void kvm_mmu_track_write(struct kvm_vcpu *vcpu, gpa_t gpa, const void *data, size_t len);
/* Is the page of gpa protected, since the guest's tables in it are shadowed? Any thread. */
bool kvm_mmu_gpa_is_tracked(struct kvm_vcpu *vcpu, gpa_t gpa);
/* L1 is about to enter L2: for USERKVM_CHECK=l1ept. */
void kvm_mmu_l1_enters_l2(struct kvm_vcpu *vcpu, uint64_t eptp);
/* L1 has executed INVEPT, or was reset (all): for USERKVM_CHECK=l1ept. */
void kvm_mmu_l1_invept(struct kvm_vcpu *vcpu, bool all, uint64_t eptp);
/* End that. True: it was; try again. */
bool kvm_mmu_unprotect_gpa(struct kvm_vcpu *vcpu, gpa_t gpa);
/*
 * Around the emulation of a write to a tracked page, so that a locked instruction is one
 * among the vCPUs: who else writes there comes this way too. The outermost lock but
 * vcpu->mutex.
 */
void kvm_mmu_track_lock(struct kvm *kvm);
void kvm_mmu_track_unlock(struct kvm *kvm);
/*
 * gva is to be written by something that cannot be emulated: if its page was
 * protected as a page table, it is no longer. True: it was; try again.
 */
static inline bool kvm_mmu_unprotect(struct kvm_vcpu *vcpu, gva_t gva)
{
	return vcpu->mmu->unprotect && vcpu->mmu->unprotect(vcpu, gva);
}

/*
 * Drop every translation of host memory [start, end), of every VM of this
 * process: the client has changed, or is about to change, its mapping; or the
 * processor met a bus error there. Any thread outside guest mode and RCU
 * sections, no lock of a VM held. May sleep.
 */
void kvm_mmu_invalidate_hva_range(hva_t start, hva_t end);
/* Is any of [start, end) memory of the VM? Any thread. */
bool kvm_mmu_uses_hva(struct kvm *kvm, hva_t start, hva_t end);

/*
 * The same around a change of the client's mapping that is about to be made
 * (Linux: mmu_invalidate_range_start and _end). In between no fault of a VM
 * that uses the range is completed, so none believes the mapping as it was.
 * Every begin needs its end, on the same thread; signals are not taken inside
 * of either.
 */
struct kvm_mmu_invalidation {
	hva_t start, end;
	uint64_t last_vm; /* 0: no VM has memory there */
};
void kvm_mmu_invalidate_begin(struct kvm_mmu_invalidation *inv, hva_t start, hva_t end);
void kvm_mmu_invalidate_end(const struct kvm_mmu_invalidation *inv);

/*
 * The hypervisor's walk of the guest's page tables (for emulation).
 * access: PFERR_USER/WRITE/FETCH bits; no USER at CPL 3 is an implicit
 * supervisor access (RFLAGS.AC does not help it). Sets accessed and dirty bits.
 * The address is taken as canonical. INVALID_PAGE with *exception filled
 * when the guest would get #PF.
 */
#define kvm_mmu_gva_to_gpa(vcpu, gva, access, e) ((vcpu)->walk_mmu->gva_to_gpa((vcpu), (gva), (access), (e)))

/* What the vCPU's faults have mapped goes into the VM's counters: at the end of KVM_RUN. Owner thread. */
void kvm_mmu_settle(struct kvm_vcpu *vcpu);

/*
 * The tables as text for people, one call of line() for each run of alike
 * leaves. Takes mmu_lock.
 */
void kvm_mmu_dump(struct kvm *kvm, void (*line)(void *arg, const char *text), void *arg);

/*
 * Every table reachable once, counters true, leaves inside slots, formats
 * legal: number of faults found (each told with USERKVM_LOG=info). Takes
 * slots_lock and mmu_lock; not inside an RCU section. With USERKVM_CHECK=1 it
 * runs after each operation, and a fault aborts the process (mmu/check.h).
 */
int mmu_check(struct kvm *kvm);

/*
 * Linux kvm_age_gfn: how many 4 KiB pages of [start, end) has the guest accessed
 * since they were mapped or last aged? They are idle from now on, until it does
 * so again. Test: the same question, nothing changed. What the hypervisor and
 * the client access themselves does not count. 0 with ept=0. Any thread outside
 * guest mode, no lock; kvm_mmu_age() waits for vCPUs to leave the guest once.
 */
uint64_t kvm_mmu_age(struct kvm *kvm, int as_id, gfn_t start, gfn_t end);
uint64_t kvm_mmu_test_age(struct kvm *kvm, int as_id, gfn_t start, gfn_t end);
/* kvm_mmu_age() of host memory in every VM that uses it. As kvm_mmu_invalidate_hva_range(). */
void kvm_mmu_age_hva_range(hva_t start, hva_t end);

/*
 * Idle flags of host pages, for idle page tracking (Linux mm/page_idle.c): n pages
 * by their addresses, at most 64. Set: kvm_mmu_age() of each in every VM, then its
 * flag; what is no VM's memory is left out. -ENOMEM: some may be set. Test: bit i,
 * page i has its flag and no guest has accessed it since; otherwise the flag is
 * gone. A flag also goes, and its page counts as accessed, where it cannot be known:
 * the client changes the mapping, a VM that uses it ends. EPT only, nothing is ever
 * idle with ept=0. As kvm_mmu_invalidate_hva_range(), with every signal blocked.
 */
must_check int kvm_mmu_prepare_idle(void); /* before the first: -ENOMEM */
must_check int kvm_mmu_set_idle(const hva_t *hva, unsigned n);
uint64_t kvm_mmu_test_idle(const hva_t *hva, unsigned n);
/* Without a look at the tables, and without a lock. */
bool kvm_mmu_has_idle_flag(hva_t hva);
void kvm_mmu_clear_idle(hva_t hva);

/*
 * fn for the host memory of every slot of every VM of this process; several may
 * overlap. It is called with the list of VMs locked and every signal blocked. As
 * kvm_mmu_invalidate_hva_range().
 */
typedef void kvm_mmu_range_fn(void *arg, hva_t start, hva_t end);
void kvm_mmu_each_guest_range(kvm_mmu_range_fn *fn, void *arg);

/*
 * KVM API: KVM_SET_NR_MMU_PAGES, KVM_GET_NR_MMU_PAGES: the most shadow pages
 * (ept=0) there may be; those beyond go at once, the oldest first. Without the
 * call it is 2 % of the memslots' pages. -EINVAL below KVM_MIN_ALLOC_MMU_PAGES.
 * Set takes slots_lock.
 */
must_check int kvm_mmu_set_nr_mmu_pages(struct kvm *kvm, uint64_t nr);
uint64_t kvm_mmu_nr_mmu_pages(struct kvm *kvm);

/* No entry is made or taken, and none of the VM's counters of them moves, in between. */
void kvm_mmu_hold(struct kvm *kvm);
void kvm_mmu_release(struct kvm *kvm);

/* Bytes of page tables, and leaves by level (1..3), for people and the bench. */
struct kvm_mmu_usage {
	uint64_t table_pages;
	uint64_t leaves[4];
};
void kvm_mmu_usage(struct kvm *kvm, struct kvm_mmu_usage *u);

#endif
