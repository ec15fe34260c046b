/*
 * Roots of the shadow MMU, and the context that uses them.
 *
 *   guest            GUEST_CR3 (the processor pages in PAE or 4-level mode always)
 *   no paging        pae_root -> 4 direct pages of level 2: linear = physical
 *   32-bit           pae_root -> 4 quarters of the page directory
 *   PAE              pae_root -> the page directories of the PDPTEs that are present
 *   4-level          the PML4's shadow page
 *
 * A 4-level root stays with the vCPU when CR3 moves on (prev): back on it with
 * the no-flush bit of a PCID, not even the unsync pages need a look.
 *
 * Locks: owner thread; mmu_lock for writing around root_count and pages.
 */
#include <string.h>

#include "host/memory.h"
#include "lib/error.h"
#include "lib/own.h"
#include "lib/rcu.h"
#include "mmu/nested_mmu.h"
#include "trace/trace.h"
#include "mmu/shadow_vcpu.h"
#include "sdm/regs.h"

int shadow_vcpu_create(struct kvm_vcpu *vcpu)
{
	struct shadow_vcpu *s = own_calloc(1, sizeof(*s));

	if (!s)
		return err_born(ENOMEM, "no memory for a vCPU's shadow MMU");
	if (!kvm_mmu_params()->ept)
		s->pae_root = host_low_frame_alloc();
	if (!kvm_mmu_params()->ept && !s->pae_root) {
		own_free(s);
		return err_born(ENOMEM, "no frame below 4 GiB for PAE roots");
	}
	vcpu->mmu_vcpu->shadow = s;
	return 0;
}

void shadow_vcpu_destroy(struct kvm_vcpu *vcpu)
{
	struct shadow_vcpu *s = vcpu->mmu_vcpu->shadow;

	if (!s)
		return;
	shadow_drain_cache(vcpu);
	if (s->pae_root)
		host_low_frame_free(s->pae_root);
	own_free(s);
	vcpu->mmu_vcpu->shadow = NULL;
}

/* --- roles --- */

static uint32_t shadow_role(struct kvm_vcpu *vcpu, int guest_level)
{
	const struct kvm_mmu_guest_ops *g = mmu_guest_ops();
	bool wp = g->get_cr0(vcpu) & X86_CR0_WP;
	uint64_t cr4 = g->get_cr4(vcpu), efer = g->get_efer(vcpu);
	uint64_t role = FIELD_PREP(ROLE_AS_ID_MASK, vcpu->as_id) |
			FIELD_PREP(ROLE_ACCESS_MASK, ACC_ALL) |
			FIELD_PREP(ROLE_LEVEL_MASK, guest_level == PT64_ROOT_4LEVEL
							    ? PT64_ROOT_4LEVEL : PT32_ROOT_LEVEL);

	if (guest_level == 0)
		return (uint32_t)(role | ROLE_DIRECT);
	if (wp)
		role |= ROLE_WP;
	else
		role |= (cr4 & X86_CR4_SMEP ? ROLE_SMEP_ANDNOT_WP : 0) |
			(cr4 & X86_CR4_SMAP ? ROLE_SMAP_ANDNOT_WP : 0);
	if (guest_level == 2)
		role |= ROLE_4_BYTE_GPTE | (cr4 & X86_CR4_PSE ? ROLE_PSE : 0);
	else if (efer & EFER_NX)
		role |= ROLE_NX;
	if (guest_level == PT64_ROOT_4LEVEL)
		role |= ROLE_LMA;
	return (uint32_t)role;
}

/* --- taking and leaving roots; mmu_lock --- */

static void put_pae_roots(struct kvm_vcpu *vcpu, struct shadow_zap *z)
{
	struct shadow_vcpu *s = vcpu->mmu_vcpu->shadow;

	for (unsigned i = 0; i < NR_PAE_ROOTS && s->pae_root; i++) {
		__atomic_store_n(&s->pae_root[i], 0, __ATOMIC_RELEASE);
		if (s->pae[i])
			shadow_put_root(vcpu->kvm->mmu_vm, s->pae[i], z);
		s->pae[i] = NULL;
	}
}

static void put_root(struct kvm_vcpu *vcpu, struct shadow_root *r, struct shadow_zap *z)
{
	if (r->sp)
		shadow_put_root(vcpu->kvm->mmu_vm, r->sp, z);
	r->sp = NULL;
}

static void put_all(struct kvm_vcpu *vcpu, struct shadow_zap *z)
{
	struct shadow_vcpu *s = vcpu->mmu_vcpu->shadow;

	put_pae_roots(vcpu, z);
	put_root(vcpu, &s->root, z);
	for (unsigned i = 0; i < KVM_MMU_NUM_PREV_ROOTS; i++)
		put_root(vcpu, &s->prev[i], z);
	s->loaded = false;
}

void shadow_unload(struct kvm_vcpu *vcpu, struct kvm_mmu *mmu)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct shadow_zap z = { 0 };

	mmu_write_lock(vm);
	put_all(vcpu, &z);
	/* nobody walks them: the request that made us leave came with a flush */
	shadow_commit(vcpu->kvm, &z);
	mmu_write_unlock(vm);
	mmu->root_hpa = INVALID_PAGE;
}

static struct shadow_page *take_root(struct kvm_vcpu *vcpu, gfn_t gfn, uint32_t role,
				     struct shadow_zap *z)
{
	bool fresh;
	struct shadow_page *sp = shadow_get_page(vcpu, gfn, role, z, &fresh);

	sp->root_count++;
	return sp;
}

/* The page and role behind PAE root `i`. False: not present. */
static bool pae_root_gfn(struct kvm_vcpu *vcpu, unsigned i, gfn_t *gfn, uint32_t *role)
{
	uint64_t pdpte;

	*role = vcpu->mmu->role;
	switch (vcpu->mmu->guest_level) {
	case 0:
		*gfn = (gfn_t)i << (30 - PAGE_SHIFT);
		return true;
	case 2:
		*gfn = (mmu_guest_ops()->get_cr3(vcpu) & 0xfffff000ULL) >> PAGE_SHIFT;
		*role |= (uint32_t)FIELD_PREP(ROLE_QUADRANT_MASK, i);
		return true;
	default:
		pdpte = mmu_guest_ops()->get_pdptr(vcpu, (int)i);
		*gfn = (pdpte & PTE_ADDR_MASK) >> PAGE_SHIFT;
		return pdpte & PTE_P;
	}
}

static void alloc_pae_roots(struct kvm_vcpu *vcpu, struct shadow_zap *z)
{
	struct shadow_vcpu *s = vcpu->mmu_vcpu->shadow;

	for (unsigned i = 0; i < NR_PAE_ROOTS; i++) {
		uint32_t role;
		gfn_t gfn;

		if (!pae_root_gfn(vcpu, i, &gfn, &role))
			continue;
		s->pae[i] = take_root(vcpu, gfn, role, z);
		__atomic_store_n(&s->pae_root[i], __pa(s->pae[i]->spt) | PTE_P, __ATOMIC_RELEASE);
	}
	vcpu->mmu->root_hpa = __pa(s->pae_root);
}

/* Linux mmu_alloc_shadow_roots, and its direct sister for a guest without paging. */
static int shadow_alloc_roots(struct kvm_vcpu *vcpu)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct shadow_vcpu *s = vcpu->mmu_vcpu->shadow;
	struct shadow_zap z = { 0 };
	int r;

	TRACE_CALL(mmu_alloc_shadow_roots, (uint32_t)vcpu->mmu->root_level);
	r = shadow_topup(vcpu);

	if (r)
		return r;
	lib_rcu_read_lock();
	mmu_write_lock(vm);
	put_pae_roots(vcpu, &z);
	put_root(vcpu, &s->root, &z);
	r = shadow_make_pages_available(vm, &z);
	if (r) {
		vcpu->mmu->root_hpa = INVALID_PAGE;
	} else if (vcpu->mmu->root_level == PT64_ROOT_4LEVEL) {
		s->root.cr3 = mmu_guest_ops()->get_cr3(vcpu);
		s->root.sp = take_root(vcpu, (s->root.cr3 & PTE_ADDR_MASK) >> PAGE_SHIFT,
				       vcpu->mmu->role, &z);
		vcpu->mmu->root_hpa = __pa(s->root.sp->spt);
	} else {
		alloc_pae_roots(vcpu, &z);
	}
	s->loaded = !r;
	shadow_commit(vcpu->kvm, &z);
	mmu_write_unlock(vm);
	lib_rcu_read_unlock();
	return r;
}

struct shadow_page *shadow_root_for(struct kvm_vcpu *vcpu, gva_t gva)
{
	struct shadow_vcpu *s = vcpu->mmu_vcpu->shadow;

	if (!s->loaded)
		return NULL;
	return s->root.sp ? s->root.sp : s->pae[(gva >> 30) % NR_PAE_ROOTS];
}

static bool is_current_root(const struct shadow_vcpu *s, const struct shadow_page *sp)
{
	if (s->root.sp)
		return sp == s->root.sp;
	return sp == s->pae[0] || sp == s->pae[1] || sp == s->pae[2] || sp == s->pae[3];
}

bool shadow_reachable(struct kvm_vcpu *vcpu, const struct shadow_page *sp,
		      const struct shadow_page *top)
{
	struct shadow_node *n;

	if (top ? sp == top : is_current_root(vcpu->mmu_vcpu->shadow, sp))
		return true;
	for (n = sp->parents; n; n = n->next)
		if (shadow_reachable(vcpu, node_page(n), top))
			return true;
	return false;
}

/* --- CR3 --- */

/* The root for cr3 comes to the front, the current one goes back. True if it was there. */
static bool cached_root(struct shadow_vcpu *s, uint64_t cr3, uint32_t role)
{
	unsigned i;

	for (i = 0; i < KVM_MMU_NUM_PREV_ROOTS; i++) {
		struct shadow_root r = s->prev[i];

		if (!r.sp || r.cr3 != cr3 || r.sp->role != role || r.sp->invalid)
			continue;
		s->prev[i] = s->root;
		s->root = r;
		return true;
	}
	return false;
}

static void new_cr3_4level(struct kvm_vcpu *vcpu, uint64_t cr3, bool skip_sync)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct shadow_vcpu *s = vcpu->mmu_vcpu->shadow;
	struct shadow_zap z = { 0 };

	/* a root may be zapped by somebody else: look at it under the lock only */
	mmu_write_lock(vm);
	if (cached_root(s, cr3, vcpu->mmu->role)) {
		vcpu->mmu->root_hpa = __pa(s->root.sp->spt);
		vcpu->mmu->set_cr3(vcpu, vcpu->mmu->root_hpa, vcpu->mmu->root_level);
		if (!skip_sync)
			kvm_make_request(KVM_REQ_MMU_SYNC, vcpu);
	} else {
		put_root(vcpu, &s->prev[KVM_MMU_NUM_PREV_ROOTS - 1], &z);
		memmove(&s->prev[1], &s->prev[0], sizeof(s->prev) - sizeof(s->prev[0]));
		s->prev[0] = s->root;
		s->root.sp = NULL;
		vcpu->mmu->root_hpa = INVALID_PAGE;
	}
	shadow_commit(vcpu->kvm, &z);
	mmu_write_unlock(vm);
}

/* The guest has loaded CR3. A root that is not here comes with the next kvm_mmu_reload(). */
static void shadow_new_cr3(struct kvm_vcpu *vcpu, uint64_t cr3, bool skip_sync)
{
	struct shadow_vcpu *s = vcpu->mmu_vcpu->shadow;

	if (vcpu->mmu->root_hpa == INVALID_PAGE)
		return;
	if (vcpu->mmu->root_level != PT64_ROOT_4LEVEL) {
		/* PDPTEs may have changed at the same CR3 */
		vcpu->mmu->root_hpa = INVALID_PAGE;
		return;
	}
	if (s->root.sp && s->root.cr3 == cr3) {
		if (!skip_sync)
			kvm_make_request(KVM_REQ_MMU_SYNC, vcpu);
		return;
	}
	new_cr3_4level(vcpu, cr3, skip_sync);
}

/* --- EPT02: the key is the whole of EPTP12 --- */

int shadow_alloc_ept_root(struct kvm_vcpu *vcpu)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct shadow_vcpu *s = vcpu->mmu_vcpu->shadow;
	struct shadow_zap z = { 0 };
	int r = shadow_topup(vcpu);

	TRACE_CALL(mmu_alloc_shadow_roots, (uint32_t)vcpu->mmu->root_level);
	if (r)
		return r;
	lib_rcu_read_lock();
	mmu_write_lock(vm);
	put_root(vcpu, &s->root, &z);
	r = shadow_make_pages_available(vm, &z);
	if (!r) {
		s->root.cr3 = vcpu->mmu->eptp12;
		s->root.sp = take_root(vcpu, (vcpu->mmu->eptp12 & PTE_ADDR_MASK) >> PAGE_SHIFT, vcpu->mmu->role, &z);
		vcpu->mmu->root_hpa = __pa(s->root.sp->spt);
	} else {
		vcpu->mmu->root_hpa = INVALID_PAGE;
	}
	s->loaded = !r;
	shadow_commit(vcpu->kvm, &z);
	mmu_write_unlock(vm);
	lib_rcu_read_unlock();
	return r;
}

void shadow_new_eptp(struct kvm_vcpu *vcpu)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct shadow_vcpu *s = vcpu->mmu_vcpu->shadow;
	struct kvm_mmu *mmu = vcpu->mmu;
	struct shadow_zap z = { 0 };

	mmu_write_lock(vm);
	if (!s->root.sp || s->root.cr3 != mmu->eptp12 || s->root.sp->role != mmu->role || s->root.sp->invalid) {
		if (!cached_root(s, mmu->eptp12, mmu->role)) {
			put_root(vcpu, &s->prev[KVM_MMU_NUM_PREV_ROOTS - 1], &z);
			memmove(&s->prev[1], &s->prev[0], sizeof(s->prev) - sizeof(s->prev[0]));
			s->prev[0] = s->root;
			s->root.sp = NULL;
		}
	}
	mmu->root_hpa = s->root.sp ? __pa(s->root.sp->spt) : INVALID_PAGE;
	s->loaded = s->root.sp;
	shadow_commit(vcpu->kvm, &z);
	mmu_write_unlock(vm);
}

static bool same_root(uint64_t a, uint64_t b)
{
	return !((a ^ b) & PTE_ADDR_MASK);
}

void shadow_free_ept_roots(struct kvm_vcpu *vcpu, bool all, uint64_t eptp)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct shadow_vcpu *s = vcpu->mmu_vcpu->shadow;
	struct shadow_zap z = { 0 };

	mmu_write_lock(vm);
	if (all || same_root(s->root.cr3, eptp)) {
		put_root(vcpu, &s->root, &z);
		s->loaded = false;
		vcpu->mmu_vcpu->guest_mmu.root_hpa = INVALID_PAGE;
	}
	for (unsigned i = 0; i < KVM_MMU_NUM_PREV_ROOTS; i++)
		if (all || same_root(s->prev[i].cr3, eptp))
			put_root(vcpu, &s->prev[i], &z);
	shadow_commit(vcpu->kvm, &z);
	mmu_write_unlock(vm);
}

static void shadow_invalidate_pcid(struct kvm_vcpu *vcpu, bool all, uint16_t pcid)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct shadow_vcpu *s = vcpu->mmu_vcpu->shadow;
	struct shadow_zap z = { 0 };

	kvm_make_request(KVM_REQ_MMU_SYNC, vcpu);
	mmu_write_lock(vm);
	for (unsigned i = 0; i < KVM_MMU_NUM_PREV_ROOTS; i++)
		if (all || (s->prev[i].cr3 & CR3_PCID_MASK) == pcid)
			put_root(vcpu, &s->prev[i], &z);
	shadow_commit(vcpu->kvm, &z);
	mmu_write_unlock(vm);
}

/* --- the context --- */

static uint64_t get_cr3(struct kvm_vcpu *vcpu)
{
	return mmu_guest_ops()->get_cr3(vcpu);
}

/* The argument is our root: the guest's own CR3 is not for the processor. */
static void set_shadow_cr3(struct kvm_vcpu *vcpu, hpa_t root_hpa, int level)
{
	mmu_vendor_ops()->set_tdp_cr3(vcpu, root_hpa, level);
}

void init_kvm_softmmu(struct kvm_vcpu *vcpu)
{
	struct kvm_mmu *context = &vcpu->mmu_vcpu->root_mmu;
	int level = context->guest_level;

	TRACE_CALL(init_kvm_softmmu, vcpu->vcpu_id);
	if (level) {
		TRACE_SET(context, page_fault, shadow_page_fault, context_page_fault);
		TRACE_SET(context, direct_map, false, context_direct_map);
	} else {
		TRACE_SET(context, page_fault, nonpaging_page_fault, context_page_fault);
		TRACE_SET(context, direct_map, true, context_direct_map);
	}
	TRACE_SET(context, set_cr3, set_shadow_cr3, context_set_cr3);
	TRACE_SET(context, get_cr3, get_cr3, context_get_cr3);
	context->gva_to_gpa = level ? paging_gva_to_gpa : nonpaging_gva_to_gpa;
	context->sync_roots = shadow_sync_roots;
	context->alloc_roots = shadow_alloc_roots;
	context->unload = shadow_unload;
	context->new_cr3 = shadow_new_cr3;
	context->invalidate_pcid = shadow_invalidate_pcid;
	context->invlpg = shadow_invlpg;
	context->unprotect = shadow_unprotect_gva;
	context->root_level = level == PT64_ROOT_4LEVEL ? PT64_ROOT_4LEVEL : PT32E_ROOT_LEVEL;
	context->role = shadow_role(vcpu, level);
	vcpu->mmu = vcpu->walk_mmu = context;
}
