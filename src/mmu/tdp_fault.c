/*
 * EPT violations of a direct root: rights that were taken to notice something are given back, or the page is found
 * and mapped.
 *
 *   tdp_page_fault ─ fast_page_fault (RCU)
 *                  ─ kvm_faultin_page: slot, hva, level (nothing held)
 *                  ─ kvm_tdp_mmu_map (mmu_lock, read)
 *
 * Invariant: a fault that is stale by the time it holds mmu_lock maps nothing (faultin.c).
 * Locks: mmu_lock for reading.
 */
#include "lib/rcu.h"
#include "mmu/internal.h"
#include "sdm/paging.h"
#include "trace/trace.h"

/*
 * The entry with the rights that were taken only to notice accesses and writes,
 * as far as the fault wants them. Writes to a logged slot need a leaf of 4 KiB.
 */
static uint64_t regained_spte(const struct kvm_mmu_page *root, const struct kvm_memory_slot *slot,
			      const struct kvm_page_fault *f, uint64_t e, int level)
{
	if (spte_is_access_tracked(e))
		e = restore_acc_track_spte(e);
	if (fault_is_write(f) && e & SPTE_MMU_WRITABLE && (level == 1 || !kvm_slot_dirty_track_enabled(slot)))
		e |= EPT_WRITE | (root_has_ad(root) ? EPT_DIRTY : 0);
	return e;
}

/*
 * Can the dirty log or access tracking alone be behind it (Linux page_fault_can_be_fast)?
 * With A and D flags nothing that is tracked loses all rights.
 */
static bool may_be_fast(const struct kvm_mmu_page *root, const struct kvm_page_fault *f)
{
	return !root_has_ad(root) || (f->error_code & PFERR_PRESENT_MASK && fault_is_write(f));
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
	if (new == e || !spte_permits(new, fault_is_write(f), fault_is_fetch(f)))
		return false;
	if (!__atomic_compare_exchange_n(ptep, &e, new, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		return false;
	if (fault_is_write(f))
		mark_page_dirty_in_slot(vcpu->kvm, slot, f->gfn);
	vcpu->stat.pf_fast++;
	TRACE_LINE(fast_page_fault, f->gfn, e, new);
	TRACE(kvmmmu, fast_page_fault, (int)vcpu->vcpu_id, f->gpa, f->error_code & PFERR_WRITE_MASK,
	      (uintptr_t)ptep, e,
	      new, RET_PF_FIXED);
	return true;
}

/* f is complete; is it still true? */
static enum ret_pf map_page(struct kvm_vcpu *vcpu, struct kvm_page_fault *f)
{
	enum ret_pf r;

	lib_rcu_read_lock();
	mmu_read_lock(vcpu);
	r = is_page_fault_stale(vcpu, f) ? RET_PF_RETRY : kvm_tdp_mmu_map(vcpu, f);
	mmu_read_unlock(vcpu);
	if (!f->slot && r == RET_PF_EMULATE)
		vcpu->stat.pf_mmio_spte_created++;
	if (f->slot && fault_is_write(f) && (r == RET_PF_FIXED || r == RET_PF_SPURIOUS))
		mark_page_dirty_in_slot(vcpu->kvm, f->slot, f->gfn);
	lib_rcu_read_unlock();
	return r;
}

static enum ret_pf direct_page_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *f)
{
	bool fixed = false;
	enum ret_pf r;

	if (may_be_fast(vcpu->mmu->root, f)) {
		lib_rcu_read_lock();
		fixed = fast_page_fault(vcpu, f);
		lib_rcu_read_unlock();
	}
	if (fixed)
		return RET_PF_FIXED;
	r = fault_result(f, mmu_topup_memory_caches(vcpu));
	if (r != RET_PF_CONTINUE)
		return r;
	r = kvm_faultin_page(vcpu, f);
	mmu_trace_faultin(f, r);
	return r == RET_PF_CONTINUE ? map_page(vcpu, f) : r;
}

/* Linux now: kvm_tdp_page_fault. */
enum ret_pf tdp_page_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *f)
{
	enum ret_pf r;

	TRACE_CALL(tdp_page_fault, f->addr, f->error_code);
	f->gpa = f->addr;
	f->gfn = f->gpa >> PAGE_SHIFT;
	if (!vcpu->mmu->root)
		return RET_PF_RETRY;
	/* No table reaches it: a slot there can be emulated only. */
	if (!root_reaches(vcpu->mmu->root, f->gpa))
		return RET_PF_EMULATE;
	r = direct_page_fault(vcpu, f);
	if (unlikely(f->short_of_tables)) {
		r = fault_result(f, mmu_reclaim_tables(vcpu->kvm));
		if (r == RET_PF_CONTINUE)
			r = RET_PF_RETRY;
	}
	TRACE_LINE(ret_pf, fault_shown(f, r));
	return r;
}
