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
	if (!root_reaches(vcpu->mmu->root, gpa))
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
