/*
 * EPT violations and misconfigurations: which of them is an access to no memory, and who handles the others.
 *
 *   kvm_mmu_page_fault ─┬─ RSVD (reason 49) ─ handle_mmio_page_fault
 *                       └─ the context's: tdp_fault.c, shadow_fault.c
 *
 * Locks: none; RCU for a look at one entry.
 */
#include "lib/error.h"
#include "lib/rcu.h"
#include "mmu/check.h"
#include "sdm/paging.h"
#include "trace/trace.h"

enum ret_pf handle_mmio_page_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *f)
{
	struct kvm_mmu_page *root = vcpu->mmu->root;
	gpa_t gpa = f->addr;
	uint64_t e, gen;
	int level;

	if (!root || !root_reaches(root, gpa))
		return RET_PF_INVALID;
	lib_rcu_read_lock();
	e = __atomic_load_n(kvm_tdp_mmu_walk(root, gpa >> PAGE_SHIFT, &level), __ATOMIC_ACQUIRE);
	gen = mmu_current_generation(vcpu);
	lib_rcu_read_unlock();

	if (!spte_is_mmio(e)) {
		/* Gone or made good since the exit; anything else we never write. */
		if (!e || spte_is_present(e))
			return RET_PF_RETRY;
		return fault_result(f, err_born(EINVAL, "reserved bits in EPT entry %#llx of gpa %#llx",
						(unsigned long long)e, (unsigned long long)gpa));
	}
	TRACE(kvmmmu, check_mmio_spte, (unsigned)mmio_gen(gen), (unsigned)mmio_spte_gen(e), e);
	if (gen & 1 || mmio_spte_gen(e) != mmio_gen(gen) || mmio_spte_gfn(e) != gpa >> PAGE_SHIFT)
		return RET_PF_INVALID;
	TRACE(kvmmmu, handle_mmio_page_fault, gpa, gpa >> PAGE_SHIFT, e & EPT_RWX);
	return RET_PF_EMULATE;
}

enum ret_pf kvm_mmu_page_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *f)
{
	enum ret_pf r = RET_PF_INVALID;

	TRACE_CALL(kvm_mmu_page_fault, f->addr, f->error_code);
	if (f->error_code & PFERR_RSVD_MASK) {
		r = handle_mmio_page_fault(vcpu, f);
		f->error_code &= ~PFERR_RSVD_MASK;
	}
	if (r == RET_PF_INVALID) {
		vcpu->stat.pf_taken++;
		r = vcpu->mmu->page_fault(vcpu, f);
		vcpu->stat.pf_fixed += r == RET_PF_FIXED;
		vcpu->stat.pf_emulate += r == RET_PF_EMULATE;
		vcpu->stat.pf_spurious += r == RET_PF_SPURIOUS;
		mmu_verify(vcpu->kvm, "a page fault");
	}
	/* the processor writes its flags into a page table of the guest's, in the page of one that is shadowed */
	if (r == RET_PF_EMULATE && vcpu->mmu->direct_map && f->error_code & PFERR_GUEST_PAGE_MASK &&
	    kvm_mmu_unprotect_gpa(vcpu, f->addr))
		return RET_PF_RETRY;
	return r;
}

int kvm_mmu_pre_fault(struct kvm_vcpu *vcpu, gpa_t gpa, uint64_t size, uint64_t *done)
{
	struct kvm_page_fault f = { .addr = gpa, .error_code = PFERR_USER_MASK, .prefetch = true };
	enum ret_pf ret;
	uint64_t reach;
	int r, level;

	*done = 0;
	if (vcpu->mmu->page_fault != tdp_page_fault)
		return err_born(EOPNOTSUPP, "pre-fault without EPT");
	r = kvm_mmu_reload(vcpu);
	if (r)
		return r;
	ret = tdp_page_fault(vcpu, &f);
	kvm_mmu_settle(vcpu);
	mmu_verify(vcpu->kvm, "a pre-fault");
	if (ret == RET_PF_ERROR)
		return f.error;
	if (ret == RET_PF_EMULATE)
		return err_born(ENOENT, "pre-fault of %#llx, which is no memory",
				(unsigned long long)gpa);
	if (ret != RET_PF_FIXED && ret != RET_PF_SPURIOUS)
		return 0; /* once more */
	lib_rcu_read_lock();
	kvm_tdp_mmu_walk(vcpu->mmu->root, gpa >> PAGE_SHIFT, &level);
	lib_rcu_read_unlock();
	reach = ALIGN_DOWN(gpa, level_pages(level) << PAGE_SHIFT) + (level_pages(level) << PAGE_SHIFT);
	*done = min_u64(size, reach - gpa);
	return 0;
}
