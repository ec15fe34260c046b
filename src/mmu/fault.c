/*
 * Page faults of the guest-physical address space: EPT violations and
 * misconfigurations.
 *
 *   kvm_mmu_page_fault ─┬─ RSVD (reason 49) ─ handle_mmio_page_fault
 *                       └─ tdp_page_fault ─ fast_page_fault
 *                                         ─ kvm_faultin_page: slot, hva, level
 *                                         ─ kvm_tdp_mmu_map (mmu_lock, read)
 *
 * Invariants
 * 1. The client's page is waited for (userfaultfd, a slow file) with nothing
 *    held, no RCU section either: whoever brings it may change memslots and
 *    mappings first. (Linux stays in its SRCU section, so memslots there wait.)
 * 2. What was learned before the wait is used only if, in an RCU section and
 *    with mmu_lock, neither mmu_invalidate_seq nor the slots' generation has
 *    moved. Generations are never used again, so the slot is then the one that
 *    was found and stays until the section ends.
 */
#include "host/memory.h"
#include "lib/error.h"
#include "lib/own.h"
#include "lib/rcu.h"
#include "mmu/check.h"
#include "sdm/paging.h"
#include "trace/trace.h"
#include "virt/async_pf.h"

/* The generation of the slots the vCPU sees. */
static uint64_t current_generation(struct kvm_vcpu *vcpu)
{
	struct kvm_memslots *slots = __kvm_memslots(vcpu->kvm, (int)vcpu->as_id);

	return __atomic_load_n(&slots->generation, __ATOMIC_ACQUIRE);
}

static bool in_reach(const struct kvm_mmu_page *root, gpa_t gpa)
{
	return gpa >> PAGE_SHIFT < root_end_gfn(root);
}

int handle_mmio_page_fault(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	struct kvm_mmu_page *root = vcpu->mmu->root;
	uint64_t e, gen;
	int level;

	if (!root || !in_reach(root, gpa))
		return RET_PF_INVALID;
	lib_rcu_read_lock();
	e = __atomic_load_n(kvm_tdp_mmu_walk(root, gpa >> PAGE_SHIFT, &level), __ATOMIC_ACQUIRE);
	gen = current_generation(vcpu);
	lib_rcu_read_unlock();

	if (!spte_is_mmio(e)) {
		/* Gone or made good since the exit; anything else we never write. */
		if (!e || spte_is_present(e))
			return RET_PF_RETRY;
		return err_born(EINVAL, "reserved bits in EPT entry %#llx of gpa %#llx",
				(unsigned long long)e, (unsigned long long)gpa);
	}
	TRACE(kvmmmu, check_mmio_spte, (unsigned)mmio_gen(gen), (unsigned)mmio_spte_gen(e), e);
	if (gen & 1 || mmio_spte_gen(e) != mmio_gen(gen) || mmio_spte_gfn(e) != gpa >> PAGE_SHIFT)
		return RET_PF_INVALID;
	TRACE(kvmmmu, handle_mmio_page_fault, gpa, gpa >> PAGE_SHIFT, e & EPT_RWX);
	return RET_PF_EMULATE;
}

/*
 * The entry with the rights that were taken only to notice accesses and writes,
 * as far as the fault wants them. Writes to a logged slot need a leaf of 4 KiB.
 */
static uint64_t regained_spte(const struct kvm_mmu_page *root, const struct kvm_memory_slot *slot,
			      const struct kvm_page_fault *f, uint64_t e, int level)
{
	if (spte_is_access_tracked(e))
		e = restore_acc_track_spte(e);
	if (f->write && e & SPTE_MMU_WRITABLE && (level == 1 || !kvm_slot_dirty_track_enabled(slot)))
		e |= EPT_WRITE | (root_has_ad(root) ? EPT_DIRTY : 0);
	return e;
}

/*
 * Can the dirty log or access tracking alone be behind it (Linux page_fault_can_be_fast)?
 * With A and D flags nothing that is tracked loses all rights.
 */
static bool may_be_fast(const struct kvm_mmu_page *root, const struct kvm_page_fault *f)
{
	return !root_has_ad(root) || (f->present && f->write);
}

/*
 * RCU. Give access back where only the dirty log or access tracking took it.
 * False: the slow way.
 */
static bool fast_page_fault(struct kvm_vcpu *vcpu, const struct kvm_page_fault *f)
{
	struct kvm_memory_slot *slot;
	uint64_t *ptep, e, new;
	int level;

	ptep = kvm_tdp_mmu_walk(vcpu->mmu->root, f->gfn, &level);
	e = __atomic_load_n(ptep, __ATOMIC_ACQUIRE);
	if (!spte_is_leaf(e, level))
		return false;
	slot = kvm_vcpu_gfn_to_memslot(vcpu, f->gfn);
	if (!slot)
		return false;
	new = regained_spte(vcpu->mmu->root, slot, f, e, level);
	if (new == e || !spte_permits(new, f->write, f->exec))
		return false;
	if (!__atomic_compare_exchange_n(ptep, &e, new, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		return false;
	if (f->write)
		mark_page_dirty_in_slot(vcpu->kvm, slot, f->gfn);
	vcpu->stat.pf_fast++;
	TRACE_LINE(fast_page_fault, f->gfn, e, new);
	TRACE(kvmmmu, fast_page_fault, (int)vcpu->vcpu_id, f->gpa, f->write ? PFERR_WRITE_MASK : 0,
	      (uintptr_t)ptep, e,
	      new, RET_PF_FIXED);
	return true;
}

/* RCU. Largest leaf that the slot allows (Linux kvm_mmu_hugepage_adjust). */
static int slot_level(const struct kvm_page_fault *f)
{
	const struct kvm_memory_slot *s = f->slot;
	int level = 3;

	/* Writes are logged page by page. */
	if (kvm_slot_dirty_track_enabled(s))
		return 1;
	/* A leaf needs guest and host address alike modulo its size. */
	while (level > 1) {
		gfn_t first = ALIGN_DOWN(f->gfn, level_pages(level));

		if (((f->hva >> PAGE_SHIFT) ^ f->gfn) % level_pages(level) == 0 &&
		    first >= s->base_gfn && first + level_pages(level) <= s->base_gfn + s->npages)
			break;
		level--;
	}
	return level;
}

/* What kvm_faultin_page() still needs of the slot when it may be gone. */
struct slot_bounds {
	hva_t start;
	uint64_t size_bytes;
	bool readonly;
};

/* RCU. Which slot, which host address. RET_PF_CONTINUE: f is complete up to goal_level. */
static int find_page(struct kvm_vcpu *vcpu, struct kvm_page_fault *f, struct slot_bounds *bounds)
{
	struct kvm_memslots *slots = __kvm_memslots(vcpu->kvm, (int)vcpu->as_id);
	struct kvm_memory_slot *s;

	f->generation = __atomic_load_n(&slots->generation, __ATOMIC_ACQUIRE);
	f->mmu_seq = __atomic_load_n(&vcpu->kvm->mmu_invalidate_seq, __ATOMIC_ACQUIRE);
	s = search_memslots(slots, f->gfn);
	if (s && mmu_hides_slot(s, mmu_guest_ops()->is_guest_mode && mmu_guest_ops()->is_guest_mode(vcpu)))
		s = NULL;
	f->slot = s;
	f->slot_id = 0;
	f->goal_level = f->req_level = 1;
	if (!s)
		return RET_PF_CONTINUE;
	/* On its way out: what it becomes will be seen when the guest tries again. */
	if (s->flags & KVM_MEMSLOT_INVALID)
		return RET_PF_RETRY;
	if (f->write && s->flags & KVM_MEM_READONLY)
		return RET_PF_EMULATE;
	/* of the slots that are the hypervisor's own: nothing is cached, so that nothing is to be dropped */
	if (unlikely(s->id >= KVM_USER_MEM_SLOTS) &&
	    __atomic_load_n(&vcpu->kvm->apic_access_closed, __ATOMIC_SEQ_CST))
		return RET_PF_EMULATE;
	f->slot_id = s->id;
	f->hva = gfn_to_hva_memslot(s, f->gfn);
	f->goal_level = slot_level(f);
	*bounds = (struct slot_bounds){
		.start = s->userspace_addr,
		.size_bytes = s->npages << PAGE_SHIFT,
		.readonly = s->flags & KVM_MEM_READONLY,
	};
	return RET_PF_CONTINUE;
}

/* What a leaf for the fault may map: memory of its slot, the same distance into it, and none of the library's. */
static bool leaf_is_the_slots(const struct kvm_page_fault *f, const struct slot_bounds *bounds)
{
	uint64_t size = PAGE_SIZE << (9 * (f->goal_level - 1));
	hva_t first = ALIGN_DOWN(f->hva, size);

	return first >= bounds->start && first + size <= bounds->start + bounds->size_bytes &&
	       ((f->gfn << PAGE_SHIFT) & (size - 1)) == (f->hva & (size - 1) & PAGE_MASK) && !own_overlaps(first, size);
}

int kvm_faultin_page(struct kvm_vcpu *vcpu, struct kvm_page_fault *f)
{
	struct slot_bounds bounds = { 0 };
	int r;

	lib_rcu_read_lock();
	r = find_page(vcpu, f, &bounds);
	lib_rcu_read_unlock();
	if (r != RET_PF_CONTINUE || !f->slot)
		return r;
	if (!f->prefetch && kvm_try_async_pf(vcpu, f->addr, f->gfn, f->hva))
		return RET_PF_RETRY;
	r = host_fault_in(f->hva, f->write, &f->map_writable);
	if (r)
		return r;
	if (bounds.readonly)
		f->map_writable = false;
	f->goal_level = host_mapping_level(f->hva, bounds.start, bounds.size_bytes, f->goal_level);
	f->req_level = f->goal_level;
	if (f->exec && is_nx_huge_page_enabled(vcpu->kvm->mmu_vm))
		f->goal_level = 1;
	if (kvm_bug_on(vcpu->kvm, !leaf_is_the_slots(f, &bounds)))
		return -EIO;
	return RET_PF_CONTINUE;
}

bool is_page_fault_stale(struct kvm_vcpu *vcpu, const struct kvm_page_fault *f)
{
	struct kvm *kvm = vcpu->kvm;

	return __atomic_load_n(&kvm->mmu_invalidate_in_progress, __ATOMIC_ACQUIRE) ||
	       __atomic_load_n(&kvm->mmu_invalidate_seq, __ATOMIC_ACQUIRE) != f->mmu_seq ||
	       current_generation(vcpu) != f->generation;
}

void mmu_trace_faultin(const struct kvm_page_fault *f, int r)
{
	TRACE_LINE(kvm_faultin_page, f->gfn, f->slot_id, (uint32_t)f->goal_level, f->hva,
		   f->slot != NULL, f->map_writable, r);
	if (f->slot)
		TRACE(kvmmmu, kvm_mmu_spte_requested, f->gfn, f->hva >> PAGE_SHIFT,
		      (uint8_t)f->goal_level);
}

/* f is complete; is it still true? enum ret_pf. */
static int map_page(struct kvm_vcpu *vcpu, struct kvm_page_fault *f)
{
	int r;

	lib_rcu_read_lock();
	mmu_read_lock(vcpu);
	r = is_page_fault_stale(vcpu, f) ? RET_PF_RETRY : (int)kvm_tdp_mmu_map(vcpu, f);
	mmu_read_unlock(vcpu);
	if (!f->slot && r == RET_PF_EMULATE)
		vcpu->stat.pf_mmio_spte_created++;
	if (f->slot && f->write && (r == RET_PF_FIXED || r == RET_PF_SPURIOUS))
		mark_page_dirty_in_slot(vcpu->kvm, f->slot, f->gfn);
	lib_rcu_read_unlock();
	return r;
}

/* enum ret_pf, or -errno. */
static int direct_page_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *f)
{
	bool fixed = false;
	int r;

	if (may_be_fast(vcpu->mmu->root, f)) {
		lib_rcu_read_lock();
		fixed = fast_page_fault(vcpu, f);
		lib_rcu_read_unlock();
	}
	if (fixed)
		return RET_PF_FIXED;
	r = mmu_topup_memory_caches(vcpu);
	if (r)
		return r;
	r = kvm_faultin_page(vcpu, f);
	mmu_trace_faultin(f, r);
	return r == RET_PF_CONTINUE ? map_page(vcpu, f) : r;
}

/* Linux now: kvm_tdp_page_fault. enum ret_pf, or -errno. */
int tdp_page_fault(struct kvm_vcpu *vcpu, gpa_t gpa, uint64_t error_code, bool prefault)
{
	struct kvm_page_fault f = {
		.addr = gpa,
		.gpa = gpa,
		.gfn = gpa >> PAGE_SHIFT,
		.present = error_code & PFERR_PRESENT_MASK,
		.write = error_code & PFERR_WRITE_MASK,
		.exec = error_code & PFERR_FETCH_MASK,
		.prefetch = prefault,
	};
	int r;

	TRACE_CALL(tdp_page_fault, gpa, error_code);
	if (!vcpu->mmu->root)
		return RET_PF_RETRY;
	/* No table reaches it: a slot there can be emulated only. */
	if (!in_reach(vcpu->mmu->root, gpa))
		return RET_PF_EMULATE;
	r = direct_page_fault(vcpu, &f);
	if (unlikely(vcpu->mmu_vcpu->short_of_tables)) {
		vcpu->mmu_vcpu->short_of_tables = false;
		r = mmu_reclaim_tables(vcpu->kvm);
		if (!r)
			r = RET_PF_RETRY;
	}
	TRACE_LINE(ret_pf, r);
	return r;
}

int kvm_mmu_page_fault(struct kvm_vcpu *vcpu, gpa_t gpa, uint64_t error_code)
{
	int r = RET_PF_INVALID;

	TRACE_CALL(kvm_mmu_page_fault, gpa, error_code);
	if (error_code & PFERR_RSVD_MASK) {
		r = handle_mmio_page_fault(vcpu, gpa);
		error_code &= ~PFERR_RSVD_MASK;
	}
	if (r == RET_PF_INVALID) {
		vcpu->stat.pf_taken++;
		r = vcpu->mmu->page_fault(vcpu, gpa, error_code, false);
		vcpu->stat.pf_fixed += r == RET_PF_FIXED;
		vcpu->stat.pf_emulate += r == RET_PF_EMULATE;
		vcpu->stat.pf_spurious += r == RET_PF_SPURIOUS;
		mmu_verify(vcpu->kvm, "a page fault");
	}
	if (r < 0)
		return r;
	/* the processor writes its flags into a page table of the guest's, in the page of one that is shadowed */
	if (r == RET_PF_EMULATE && vcpu->mmu->direct_map && error_code & PFERR_GUEST_PAGE_MASK &&
	    kvm_mmu_unprotect_gpa(vcpu, gpa))
		return 1;
	return r == RET_PF_EMULATE ? KVM_MMU_EMULATE : 1;
}

int kvm_mmu_pre_fault(struct kvm_vcpu *vcpu, gpa_t gpa, uint64_t size, uint64_t *done)
{
	uint64_t reach;
	int r, level;

	*done = 0;
	if (vcpu->mmu->page_fault != tdp_page_fault)
		return err_born(EOPNOTSUPP, "pre-fault without EPT");
	r = kvm_mmu_reload(vcpu);
	if (r)
		return r;
	r = tdp_page_fault(vcpu, gpa, PFERR_USER_MASK, true);
	kvm_mmu_settle(vcpu);
	mmu_verify(vcpu->kvm, "a pre-fault");
	if (r < 0)
		return r;
	if (r == RET_PF_EMULATE)
		return err_born(ENOENT, "pre-fault of %#llx, which is no memory",
				(unsigned long long)gpa);
	if (r != RET_PF_FIXED && r != RET_PF_SPURIOUS)
		return 0; /* once more */
	lib_rcu_read_lock();
	kvm_tdp_mmu_walk(vcpu->mmu->root, gpa >> PAGE_SHIFT, &level);
	lib_rcu_read_unlock();
	reach = ALIGN_DOWN(gpa, level_pages(level) << PAGE_SHIFT) + (level_pages(level) << PAGE_SHIFT);
	*done = min_u64(size, reach - gpa);
	return 0;
}
