/*
 * MMU contexts: what a vCPU has, how it is chosen, how it is made ready for the
 * next entry. (Roots: tdp_root.c, shadow_root.c; knobs: params.c.)
 *
 * Locks: none; everything is the owner's.
 */
#include <string.h>

#include "host/memory.h"
#include "lib/error.h"
#include "lib/own.h"
#include "mmu/l1ept.h"
#include "mmu/nested_mmu.h"
#include "sdm/regs.h"
#include "trace/trace.h"

int kvm_mmu_init_vm(struct kvm *kvm)
{
	struct kvm_mmu_vm *vm = own_calloc(1, sizeof(*vm));
	pthread_rwlockattr_t attr;

	TRACE_CALL(kvm_mmu_init_vm, (uintptr_t)kvm);
	if (!vm)
		return err_born(ENOMEM, "no memory for a VM's MMU");
	vm->kvm = kvm;
	vm->leaves = &kvm->stat.pages_4k - 1;
	vm->nr_max_shadow_pages = KVM_MIN_ALLOC_MMU_PAGES;
	/* Faults come without a pause while vCPUs run; a zap must not wait for the last. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&vm->lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	pthread_mutex_init(&vm->roots_lock, NULL);
	pthread_mutex_init(&vm->track_lock, NULL);
	if (!kvm_mmu_params()->ept && shadow_vm_create(vm)) {
		pthread_mutex_destroy(&vm->track_lock);
		pthread_mutex_destroy(&vm->roots_lock);
		pthread_rwlock_destroy(&vm->lock);
		own_free(vm);
		return -ENOMEM;
	}
	vm->l1ept = l1ept_create();
	kvm->mmu_vm = vm;
	mmu_register_slot_listener();
	mmu_vm_link(vm);
	return 0;
}

void kvm_mmu_uninit_vm(struct kvm *kvm)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	uint32_t i;

	if (!vm)
		return;
	mmu_nx_recovery_stop(vm);
	mmu_vm_unlink(vm);
	l1ept_destroy(vm->l1ept);
	shadow_vm_destroy(vm);
	for (i = 0; i < vm->nr_roots; i++) {
		kvm_tdp_mmu_free_tables(vm, vm->roots[i]);
		host_frame_free(vm->roots[i]->spt);
		own_free(vm->roots[i]);
	}
	pthread_mutex_destroy(&vm->track_lock);
	pthread_mutex_destroy(&vm->roots_lock);
	pthread_rwlock_destroy(&vm->lock);
	own_free(vm);
	kvm->mmu_vm = NULL;
}

void kvm_mmu_hold(struct kvm *kvm)
{
	mmu_write_lock(kvm->mmu_vm);
}

void kvm_mmu_release(struct kvm *kvm)
{
	mmu_write_unlock(kvm->mmu_vm);
}

int mmu_topup_memory_caches(struct kvm_vcpu *vcpu)
{
	struct kvm_mmu_memory_cache *c = &vcpu->mmu_vcpu->cache;

	if (likely(c->nr >= KVM_MMU_CACHE_FRAMES / 2))
		return 0;
	while (c->nr < KVM_MMU_CACHE_FRAMES) {
		void *frame = host_frame_alloc();

		if (!frame)
			break;
		c->frame[c->nr++] = frame;
	}
	return c->nr >= KVM_MMU_CACHE_FRAMES / 2 ? 0 : err_born(ENOMEM, "no frames for page tables");
}

/* --- contexts --- */

/* The guest's CR3, by way of the x86 room. */
static uint64_t get_cr3(struct kvm_vcpu *vcpu)
{
	return mmu_guest_ops()->get_cr3(vcpu);
}

/* Levels of the guest's own paging: 0 none, 2 (32-bit), 3 (PAE), 4. */
static int guest_paging_level(struct kvm_vcpu *vcpu)
{
	if (!(mmu_guest_ops()->get_cr0(vcpu) & X86_CR0_PG))
		return 0;
	if (mmu_guest_ops()->get_efer(vcpu) & EFER_LMA)
		return 4;
	return mmu_guest_ops()->get_cr4(vcpu) & X86_CR4_PAE ? 3 : 2;
}

/*
 * Five levels if and only if they are of use: guest-physical addresses are wider
 * than 48 bits (Linux kvm_mmu_get_tdp_level). The processor has both.
 */
static int mmu_tdp_level(struct kvm_vcpu *vcpu)
{
	return mmu_guest_ops()->get_maxphyaddr(vcpu) <= 48 ? PT64_ROOT_4LEVEL : PT64_ROOT_5LEVEL;
}

static uint32_t tdp_role(struct kvm_vcpu *vcpu)
{
	return (uint32_t)(FIELD_PREP(ROLE_LEVEL_MASK, (unsigned)mmu_tdp_level(vcpu)) |
			  FIELD_PREP(ROLE_AS_ID_MASK, vcpu->as_id) |
			  (kvm_mmu_params()->eptad ? 0 : ROLE_AD_DISABLED) |
			  (mmu_guest_ops()->is_guest_mode && mmu_guest_ops()->is_guest_mode(vcpu) ? ROLE_GUEST_MODE : 0));
}

/* Two-dimensional paging: the guest has its page tables to itself. */
static void init_kvm_tdp_mmu(struct kvm_vcpu *vcpu)
{
	const struct kvm_mmu_vendor_ops *kvm_x86_ops = mmu_vendor_ops();
	struct kvm_mmu *context = &vcpu->mmu_vcpu->root_mmu;

	TRACE_CALL(init_kvm_tdp_mmu, vcpu->vcpu_id);
	TRACE_SET(context, page_fault, tdp_page_fault, context_page_fault);
	TRACE_SET(context, direct_map, true, context_direct_map);
	TRACE_SET(context, set_cr3, kvm_x86_ops->set_tdp_cr3, context_set_cr3); /* vmx_set_cr3() */
	TRACE_SET(context, get_cr3, get_cr3, context_get_cr3);
	context->sync_roots = NULL; /* our tables shadow nothing */
	context->alloc_roots = mmu_alloc_direct_roots;
	context->unload = mmu_tdp_unload;
	context->root_level = mmu_tdp_level(vcpu);
	context->gva_to_gpa = context->guest_level ? paging_gva_to_gpa : nonpaging_gva_to_gpa;
	context->role = tdp_role(vcpu);
	context->eptp_ad = kvm_mmu_params()->eptad;
	vcpu->mmu = context;
}

void kvm_init_mmu(struct kvm_vcpu *vcpu)
{
	TRACE_CALL(kvm_init_mmu, vcpu->vcpu_id);
	vcpu->as_id = mmu_guest_ops()->is_smm && mmu_guest_ops()->is_smm(vcpu) ? 1 : 0;
	vcpu->walk_mmu->guest_level = guest_paging_level(vcpu);
	if (unlikely(vcpu->walk_mmu == &vcpu->mmu_vcpu->nested_mmu))
		init_kvm_nested_mmu(vcpu);
	else if (kvm_mmu_params()->ept)
		init_kvm_tdp_mmu(vcpu);
	else
		init_kvm_softmmu(vcpu);
}

int kvm_mmu_create(struct kvm_vcpu *vcpu)
{
	struct kvm_mmu_vcpu *m;
	int r;

	TRACE_CALL(kvm_mmu_create, vcpu->vcpu_id);
	r = mmu_nx_recovery_start(vcpu->kvm->mmu_vm);
	if (r)
		return r;
	m = own_calloc(1, sizeof(*m));
	if (!m)
		return err_born(ENOMEM, "no memory for a vCPU's MMU");
	m->root_mmu.root_hpa = INVALID_PAGE;
	r = mmu_reader_create(m);
	if (r) {
		own_free(m);
		return r;
	}
	vcpu->mmu_vcpu = m;
	m->guest_mmu.root_hpa = m->nested_mmu.root_hpa = INVALID_PAGE;
	vcpu->mmu = vcpu->walk_mmu = &m->root_mmu;
	if ((!kvm_mmu_params()->ept || kvm_mmu_params()->nested) && shadow_vcpu_create(vcpu)) {
		mmu_reader_destroy(m);
		own_free(m);
		vcpu->mmu_vcpu = NULL;
		vcpu->mmu = vcpu->walk_mmu = NULL;
		return -ENOMEM;
	}
	return 0;
}

void kvm_mmu_destroy(struct kvm_vcpu *vcpu)
{
	struct kvm_mmu_vcpu *m = vcpu->mmu_vcpu;

	if (!m)
		return;
	/*
	 * The VM itself is going: no invalidation and no recovery may begin a
	 * shoot-down among vCPUs that are being freed.
	 */
	if (__atomic_load_n(&vcpu->kvm->refcount, __ATOMIC_ACQUIRE) == 0) {
		mmu_nx_recovery_stop(vcpu->kvm->mmu_vm);
		mmu_vm_unlink(vcpu->kvm->mmu_vm);
	}
	kvm_mmu_unload(vcpu);
	shadow_vcpu_destroy(vcpu);
	while (m->cache.nr)
		host_frame_free(m->cache.frame[--m->cache.nr]);
	mmu_reader_destroy(m);
	own_free(m);
	vcpu->mmu_vcpu = NULL;
	vcpu->mmu = vcpu->walk_mmu = NULL;
}

static void unload(struct kvm_vcpu *vcpu, struct kvm_mmu *mmu)
{
	if (mmu->unload) /* the context has been chosen once */
		mmu->unload(vcpu, mmu);
}

void kvm_mmu_unload(struct kvm_vcpu *vcpu)
{
	unload(vcpu, &vcpu->mmu_vcpu->root_mmu);
	unload(vcpu, &vcpu->mmu_vcpu->guest_mmu);
}

/* --- tables of the guest that are shadowed --- */

static bool has_shadow_pages(const struct kvm_mmu_vm *vm)
{
	const struct shadow_vm *s = READ_ONCE(vm->shadow);

	return s && READ_ONCE(s->nr_pages);
}

void kvm_mmu_track_write(struct kvm_vcpu *vcpu, gpa_t gpa, const void *data, size_t len)
{
	if (unlikely(vcpu->kvm->mmu_vm->l1ept))
		l1ept_written(vcpu, gpa, len);
	if (unlikely(has_shadow_pages(vcpu->kvm->mmu_vm)))
		shadow_pte_write(vcpu, gpa, data, len);
}

void kvm_mmu_l1_enters_l2(struct kvm_vcpu *vcpu, uint64_t eptp)
{
	l1ept_enters_l2(vcpu, eptp);
}

void kvm_mmu_l1_invept(struct kvm_vcpu *vcpu, bool all, uint64_t eptp)
{
	l1ept_invept(vcpu, all, eptp);
}

bool kvm_mmu_gpa_is_tracked(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	bool tracked;

	if (likely(!has_shadow_pages(vm)))
		return false;
	pthread_rwlock_rdlock(&vm->lock);
	tracked = shadow_gfn_is_tracked(vm, gpa >> PAGE_SHIFT);
	pthread_rwlock_unlock(&vm->lock);
	return tracked;
}

bool kvm_mmu_unprotect_gpa(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct shadow_zap z = { 0 };
	bool any;

	if (likely(!has_shadow_pages(vm)))
		return false;
	mmu_write_lock(vm);
	any = shadow_unprotect_gfn(vm, gpa >> PAGE_SHIFT, &z);
	shadow_commit(vcpu->kvm, &z);
	mmu_write_unlock(vm);
	return any;
}

void kvm_mmu_track_lock(struct kvm *kvm)
{
	pthread_mutex_lock(&kvm->mmu_vm->track_lock);
}

void kvm_mmu_track_unlock(struct kvm *kvm)
{
	pthread_mutex_unlock(&kvm->mmu_vm->track_lock);
}

void kvm_mmu_reset_context(struct kvm_vcpu *vcpu)
{
	TRACE_CALL(kvm_mmu_reset_context, vcpu->vcpu_id, (uint32_t)vcpu->walk_mmu->guest_level,
		   (uint32_t)guest_paging_level(vcpu));
	/* A shadow root is one of the guest's CR3 and mode, always another one now. */
	if (vcpu->mmu->new_cr3)
		kvm_mmu_unload(vcpu);
	kvm_init_mmu(vcpu);
	if (vcpu->mmu->root && vcpu->mmu->root->role != vcpu->mmu->role)
		kvm_mmu_unload(vcpu);
}

/* --- entering with a root --- */

/* mmu_alloc_direct_roots, or shadow_alloc_roots. */
static int mmu_alloc_roots(struct kvm_vcpu *vcpu)
{
	TRACE_CALL(mmu_alloc_roots, vcpu->mmu->direct_map);
	return vcpu->mmu->alloc_roots(vcpu);
}

/* Shadow and nested contexts have pages that may lag behind the guest's. */
static void kvm_mmu_sync_roots(struct kvm_vcpu *vcpu)
{
	TRACE_CALL(kvm_mmu_sync_roots, vcpu->mmu->sync_roots != NULL);
	if (vcpu->mmu->sync_roots)
		vcpu->mmu->sync_roots(vcpu);
}

/* Linux now: kvm_mmu_load_pgd. The argument is our root's address, not the guest's CR3. */
static void kvm_mmu_load_cr3(struct kvm_vcpu *vcpu)
{
	TRACE_CALL(kvm_mmu_load_cr3, vcpu->mmu->root_hpa);
	vcpu->mmu->set_cr3(vcpu, vcpu->mmu->root_hpa, vcpu->mmu->root_level);
}

int kvm_mmu_load(struct kvm_vcpu *vcpu)
{
	int r;

	TRACE_CALL(kvm_mmu_load, vcpu->vcpu_id);
	r = mmu_topup_memory_caches(vcpu);
	if (!r)
		r = mmu_alloc_roots(vcpu);
	if (r)
		return r;
	kvm_mmu_sync_roots(vcpu);
	kvm_mmu_load_cr3(vcpu);
	mmu_vendor_ops()->flush_tlb_current(vcpu);
	return 0;
}
