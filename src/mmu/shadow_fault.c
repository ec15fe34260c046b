/*
 * Page faults under shadow paging: what the processor reports for a linear
 * address, or, without paging, for a guest-physical one.
 *
 *   shadow_page_fault ── mmu_guest_walk ── the guest's own fault: inject it
 *                     ── kvm_faultin_page: slot, host page
 *                     ── fetch (mmu_lock): shadow pages down to the leaf
 *
 * A walk is only as good as the tables it read. Under the lock every entry is
 * looked at again: after that, upper tables cannot change without the lock
 * (they are write-protected), and a level-1 table may lag as a TLB may.
 *
 * Locks: none while the client's page is waited for (fault.c); then RCU, and
 * mmu_lock for writing from fetch to map.
 */
#include "host/memory.h"
#include "lib/error.h"
#include "lib/rcu.h"
#include "mmu/l1ept.h"
#include "mmu/nested_mmu.h"
#include "mmu/shadow_vcpu.h"
#include "sdm/regs.h"
#include "trace/trace.h"

/* Without paging nothing stands between the address and the page: all is "large". */
static void nonpaging_walk(gpa_t gpa, struct guest_walker *gw)
{
	*gw = (struct guest_walker){
		.level = PT64_ROOT_4LEVEL + 1,
		.pte_access = ACC_ALL,
		.gfn = gpa >> PAGE_SHIFT,
	};
}

/*
 * CR0.WP clear in the guest, set in hardware: a supervisor's write to a
 * read-only user page gets an entry that is writable and the supervisor's
 * only. Until the user comes and gets a read-only one.
 */
static void emulate_wp_off(struct kvm_vcpu *vcpu, struct guest_walker *gw, uint32_t access)
{
	const struct kvm_mmu_guest_ops *g = mmu_guest_ops();

	if (!(access & PFERR_WRITE_MASK) || access & PFERR_USER_MASK ||
	    gw->pte_access & ACC_WRITE_MASK || g->get_cr0(vcpu) & X86_CR0_WP)
		return;
	gw->pte_access |= ACC_WRITE_MASK;
	gw->pte_access &= ~ACC_USER_MASK;
	/* for the supervisor to run a user page it would have to be one */
	if (g->get_cr4(vcpu) & X86_CR4_SMEP)
		gw->pte_access &= ~ACC_EXEC_MASK;
}

static bool walk_changed(struct kvm_vcpu *vcpu, const struct guest_walker *gw, int from)
{
	int level;

	for (level = from; level >= gw->level; level--)
		if (mmu_guest_walk_changed(vcpu, gw, level))
			return true;
	return false;
}

/* The role of the page below `parent` on the way to gva. */
static uint32_t child_role(const struct shadow_page *parent, gva_t gva, bool direct, unsigned access)
{
	int level = sp_level(parent) - 1;
	uint32_t role = parent->role &
			~(uint32_t)(ROLE_LEVEL_MASK | ROLE_ACCESS_MASK | ROLE_QUADRANT_MASK |
				    ROLE_DIRECT);

	role |= (uint32_t)FIELD_PREP(ROLE_LEVEL_MASK, (unsigned)level);
	role |= (uint32_t)FIELD_PREP(ROLE_ACCESS_MASK, access);
	if (direct)
		return (role | (uint32_t)ROLE_DIRECT) & ~(uint32_t)ROLE_4_BYTE_GPTE;
	/* a 32-bit page table fills two of ours */
	if (role & ROLE_4_BYTE_GPTE)
		role |= (uint32_t)FIELD_PREP(ROLE_QUADRANT_MASK, (gva >> 21) & 1);
	return role;
}

/* The page below `sp` for gva, as the walk has it. NULL: the walk is out of date. */
static struct shadow_page *fetch_child(struct kvm_vcpu *vcpu, struct shadow_page *sp, gva_t gva,
				       const struct guest_walker *gw, struct shadow_zap *z)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	int level = sp_level(sp);
	unsigned index = shadow_index(gva, level);
	bool direct = level <= gw->level, fresh;
	gfn_t gfn = direct ? ALIGN_DOWN(gw->gfn, level_pages(level)) : gw->table_gfn[level - 1];
	unsigned access = direct ? gw->pte_access : gw->pt_access[level];
	uint32_t role;
	struct shadow_page *child;

	role = child_role(sp, gva, direct, access);
	if (shadow_is_present(sp->spt[index])) {
		child = shadow_is_leaf(sp->spt[index], level) ? NULL : sp->node[index].child;
		if (child && child->gfn == gfn && child->role == role)
			return child;
		z->flush |= shadow_drop_spte(vm, sp, index);
	}
	child = shadow_get_page(vcpu, gfn, role, z, &fresh);
	if (fresh && !direct && walk_changed(vcpu, gw, level - 1))
		return NULL;
	if (!fresh && level > 2 && vm->shadow->unsync)
		shadow_sync_below(vcpu, child);
	shadow_link_child(sp, index, child);
	return child;
}

/*
 * How large the leaf may be: as the host's page is, and the guest's, which begins
 * with the entries of `sp`, where no table of the guest's is inside. (Linux
 * kvm_mmu_hugepage_adjust(): after the tables on the way are known for what they
 * are.)
 */
static int leaf_level(struct kvm_mmu_vm *vm, const struct shadow_page *sp,
		      const struct kvm_page_fault *f)
{
	int level = f->goal_level;

	if (is_nx_huge_page_enabled(vm))
		return 1;
	if (level > sp_level(sp))
		level = sp_level(sp);
	while (!shadow_allows_level(vm, f->gfn, level))
		level--;
	return level;
}

/* A leaf's rights to read and to run, in the page's format. ACC_USER_MASK is EPT's right to read. */
static uint64_t leaf_rights(const struct shadow_page *sp, unsigned access)
{
	if (sp_ept(sp))
		return (access & ACC_USER_MASK ? EPT_READ : 0) | (access & ACC_EXEC_MASK ? EPT_EXEC : 0) |
		       EPT_ACCESSED | FIELD_PREP(EPT_MEMTYPE_MASK, MT_WRBACK) | EPT_IPAT;
	return PTE_P | PTE_A | (access & ACC_USER_MASK ? PTE_US : 0) | (access & ACC_EXEC_MASK ? 0 : PTE_XD);
}

static uint64_t make_shadow_spte(struct kvm_mmu_vm *vm, const struct shadow_page *sp,
				 const struct kvm_page_fault *f, unsigned access, bool *wrprot)
{
	int level = sp_level(sp);
	bool tracked = kvm_slot_dirty_track_enabled(f->slot);
	hva_t hva = ALIGN_DOWN(f->hva, level_pages(level) << PAGE_SHIFT);
	uint64_t e = __pa(__va(hva)) | SHADOW_PRESENT | leaf_rights(sp, access) | (level > 1 ? PTE_PS : 0);

	if (!f->map_writable)
		return e;
	e |= sp_host_writable(sp);
	if (!(access & ACC_WRITE_MASK) || (tracked && !fault_is_write(f)))
		return e;
	if (level > 1 || shadow_try_to_unsync(vm, f->gfn, fault_is_write(f)))
		e |= PTE_RW | sp_dirty_mask(sp);
	else
		*wrprot = true;
	return e;
}

static bool lost_rights(const struct shadow_page *sp, uint64_t old, uint64_t e)
{
	if (sp_ept(sp))
		return old & ~e & EPT_RWX;
	return (old & PTE_RW && !(e & PTE_RW)) || (!(old & PTE_XD) && e & PTE_XD) ||
	       (old & PTE_US && !(e & PTE_US));
}

/* The leaf for gva in `sp`. */
static enum ret_pf map_leaf(struct kvm_vcpu *vcpu, struct shadow_page *sp, gva_t gva,
		    const struct guest_walker *gw, const struct kvm_page_fault *f,
		    struct shadow_zap *z)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	int level = sp_level(sp);
	unsigned index = shadow_index(gva, level);
	uint64_t old = sp->spt[index], e;
	gfn_t gfn = ALIGN_DOWN(f->gfn, level_pages(level));
	struct shadow_node **rmap = shadow_rmap(f->slot, gfn, level);
	bool wrprot = false;

	if (!rmap)
		return RET_PF_RETRY;
	e = make_shadow_spte(vm, sp, f, gw->pte_access, &wrprot);
	if (shadow_is_present(old)) {
		if (!shadow_is_leaf(old, level) || sp->node[index].gfn != gfn || (old ^ e) & PTE_ADDR_MASK)
			z->flush |= shadow_drop_spte(vm, sp, index);
		else
			z->flush |= lost_rights(sp, old, e);
	}
	shadow_set_leaf(vm, sp, index, e, gfn, rmap);
	TRACE_LINE(shadow_map, gfn, (uint32_t)level, e, sp_ept(sp));
	if (wrprot && fault_is_write(f))
		return RET_PF_EMULATE;
	return old == e ? RET_PF_SPURIOUS : RET_PF_FIXED;
}

/* mmu_lock, RCU. */
static enum ret_pf fetch(struct kvm_vcpu *vcpu, gva_t gva, const struct guest_walker *gw,
		 const struct kvm_page_fault *f, struct shadow_zap *z)
{
	struct shadow_page *sp = shadow_root_for(vcpu, gva);
	int level = 0; /* of the leaf, once the guest's tables are behind */

	if (!sp || sp->invalid || walk_changed(vcpu, gw, gw->max_level))
		return RET_PF_RETRY;
	for (;;) {
		sp->write_flooding_count = 0;
		if (!level && sp_level(sp) <= gw->level)
			level = leaf_level(vcpu->kvm->mmu_vm, sp, f);
		if (sp_level(sp) == level)
			break;
		sp = fetch_child(vcpu, sp, gva, gw, z);
		if (!sp)
			return RET_PF_RETRY;
	}
	return map_leaf(vcpu, sp, gva, gw, f, z);
}

/* f is complete; are it and the walk still true? */
static enum ret_pf map_walked(struct kvm_vcpu *vcpu, const struct guest_walker *gw, struct kvm_page_fault *f)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct shadow_zap z = { 0 };
	enum ret_pf r = RET_PF_RETRY;

	lib_rcu_read_lock();
	mmu_write_lock(vm);
	if (!is_page_fault_stale(vcpu, f)) {
		r = fault_result(f, shadow_make_pages_available(vm, &z));
		if (r == RET_PF_CONTINUE)
			r = fetch(vcpu, f->addr, gw, f, &z);
	}
	shadow_commit(vcpu->kvm, &z);
	mmu_write_unlock(vm);
	if (fault_is_write(f) && (r == RET_PF_FIXED || r == RET_PF_SPURIOUS))
		mark_page_dirty_in_slot(vcpu->kvm, f->slot, f->gfn);
	lib_rcu_read_unlock();
	return r;
}

static enum ret_pf fault_in_and_map(struct kvm_vcpu *vcpu, const struct guest_walker *gw, struct kvm_page_fault *f)
{
	enum ret_pf r;

	f->gfn = gw->gfn;
	f->gpa = gw->gfn << PAGE_SHIFT;
	if (f->gfn > TDP_MAX_GFN)
		return RET_PF_EMULATE;
	r = fault_result(f, shadow_topup(vcpu));
	if (r != RET_PF_CONTINUE)
		return r;
	r = kvm_faultin_page(vcpu, f);
	mmu_trace_faultin(f, r);
	if (r != RET_PF_CONTINUE)
		return r;
	/* No entry for MMIO: with 52 address bits there is none that faults for sure and is not "absent". */
	if (!f->slot)
		return RET_PF_EMULATE;
	return map_walked(vcpu, gw, f);
}

enum ret_pf shadow_page_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *f)
{
	struct kvm_page_fault_info fault = { 0 };
	gva_t gva = f->addr;
	struct guest_walker gw;
	enum ret_pf r;

	TRACE_CALL(shadow_page_fault, gva, f->error_code);
	if (mmu_guest_walk(vcpu, gva, fault_access(f), &gw, &fault) == INVALID_PAGE) {
		TRACE_LINE(guest_walk, gva, 0, 0, false);
		if (!f->prefetch)
			mmu_guest_ops()->inject_page_fault(vcpu, &fault);
		return RET_PF_RETRY;
	}
	TRACE_LINE(guest_walk, gva, gw.gfn << PAGE_SHIFT, (uint32_t)gw.level, true);
	emulate_wp_off(vcpu, &gw, fault_access(f));
	r = fault_in_and_map(vcpu, &gw, f);
	TRACE_LINE(ret_pf, fault_shown(f, r));
	return r;
}

/* L2 has met nothing in EPT02, or too few rights. f->addr is L2's; EPT12 decides whose affair that is. */
enum ret_pf ept_page_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *f)
{
	struct kvm_page_fault_info fault = { 0 };
	uint32_t access = fault_access(f);
	struct guest_walker gw;
	gpa_t gpa = f->addr;
	enum ret_pf r;

	TRACE_CALL(ept_page_fault, gpa, f->error_code);
	if (!vcpu->mmu_vcpu->shadow->root.sp)
		return RET_PF_RETRY;
	if (mmu_ept12_walk(vcpu, gpa, access, &gw, &fault) == INVALID_PAGE) {
		TRACE_LINE(ept12_walk, gpa, 0, 0, false);
		if (unlikely(vcpu->kvm->mmu_vm->l1ept) && !f->prefetch)
			l1ept_used(vcpu, gpa, access, NULL);
		if (!f->prefetch)
			mmu_guest_ops()->inject_nested_fault(vcpu, &fault);
		return RET_PF_RETRY;
	}
	if (unlikely(vcpu->kvm->mmu_vm->l1ept) && !f->prefetch)
		l1ept_used(vcpu, gpa, access, &gw);
	TRACE_LINE(ept12_walk, gpa, gw.gfn << PAGE_SHIFT | (gpa & ~PAGE_MASK), (uint32_t)gw.level, true);
	r = fault_in_and_map(vcpu, &gw, f);
	TRACE_LINE(ret_pf, fault_shown(f, r));
	return r;
}

enum ret_pf nonpaging_page_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *f)
{
	struct guest_walker gw;
	enum ret_pf r;

	TRACE_CALL(nonpaging_page_fault, f->addr, f->error_code);
	nonpaging_walk(f->addr, &gw);
	r = fault_in_and_map(vcpu, &gw, f);
	TRACE_LINE(ret_pf, fault_shown(f, r));
	return r;
}

bool shadow_unprotect_gva(struct kvm_vcpu *vcpu, gva_t gva)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct shadow_zap z = { 0 };
	gpa_t gpa = vcpu->mmu->gva_to_gpa(vcpu, gva, 0, NULL);
	bool any;

	if (gpa == INVALID_PAGE)
		return false;
	lib_rcu_read_lock();
	mmu_write_lock(vm);
	any = shadow_unprotect_gfn(vm, gpa >> PAGE_SHIFT, &z);
	shadow_commit(vcpu->kvm, &z);
	mmu_write_unlock(vm);
	lib_rcu_read_unlock();
	return any;
}
