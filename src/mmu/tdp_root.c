/*
 * Roots of the TDP MMU: how a vCPU comes to one and lets go of it.
 *
 * Invariants: 1. mmu->root_hpa is the frame of mmu->root, or INVALID_PAGE and
 * root is NULL. 2. A root lives as long as its VM; refcount tells how many vCPUs
 * use it. 3. A vCPU that begins to use a root flushes what it remembers of it:
 * shoot-downs reach only the root in use.
 *
 * Locks: roots_lock (a leaf) to find or add a root; all else is the owner's.
 */

#include "host/memory.h"
#include "lib/error.h"
#include "lib/own.h"
#include "mmu/internal.h"
#include "trace/trace.h"

/* roots_lock held, a frame in the cache. A new root with an empty table. NULL: no memory. */
static struct kvm_mmu_page *kvm_mmu_alloc_page(struct kvm_vcpu *vcpu, uint32_t role)
{
	struct kvm_mmu_memory_cache *c = &vcpu->mmu_vcpu->cache;
	struct kvm_mmu_page *sp = own_calloc(1, sizeof(*sp));

	if (!sp)
		return NULL;
	sp->spt = c->frame[--c->nr];
	sp->role = role;
	TRACE_LINE(kvm_mmu_alloc_page, __pa(sp->spt));
	return sp;
}

/* As KVM's union kvm_mmu_page_role has it. */
static uint32_t trace_role(const struct kvm_mmu_page *sp)
{
	return trace_mmu_role(root_level(sp), true, 7, !root_has_ad(sp), (uint32_t)root_as_id(sp));
}

/* A table is reserved. The VM's root of this role, made when it is the first time. NULL: no memory. */
static struct kvm_mmu_page *kvm_mmu_get_page(struct kvm_vcpu *vcpu, uint32_t role)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct kvm_mmu_page *sp = NULL;
	bool created;
	uint32_t i;

	TRACE_CALL(kvm_mmu_get_page, (uint32_t)FIELD_GET(ROLE_LEVEL_MASK, role),
		   (uint32_t)FIELD_GET(ROLE_AS_ID_MASK, role), (role & ROLE_AD_DISABLED) != 0);
	pthread_mutex_lock(&vm->roots_lock);
	for (i = 0; i < vm->nr_roots && !sp; i++)
		if (vm->roots[i]->role == role)
			sp = vm->roots[i];
	created = !sp;
	if (created) {
		sp = kvm_mmu_alloc_page(vcpu, role);
		if (sp) {
			vm->roots[vm->nr_roots] = sp;
			__atomic_store_n(&vm->nr_roots, vm->nr_roots + 1, __ATOMIC_RELEASE);
		}
	}
	if (sp) {
		sp->refcount++;
		TRACE(kvmmmu, kvm_mmu_get_page, 0, 0, trace_role(sp), sp->refcount, false, created);
	}
	pthread_mutex_unlock(&vm->roots_lock);
	if (!created || !sp)
		mmu_unreserve_tables(vm, 1);
	return sp;
}

int mmu_alloc_direct_roots(struct kvm_vcpu *vcpu)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct kvm_mmu_page *sp;

	TRACE_CALL(mmu_alloc_direct_roots, (uint32_t)vcpu->mmu->root_level);
	/* The lock: who counts tables must find the root if it is counted. */
	pthread_rwlock_rdlock(&vm->lock);
	while (!mmu_reserve_tables(vm, 1)) {
		int r;

		pthread_rwlock_unlock(&vm->lock);
		r = mmu_reclaim_tables(vcpu->kvm);
		if (r)
			return r;
		pthread_rwlock_rdlock(&vm->lock);
	}
	sp = kvm_mmu_get_page(vcpu, vcpu->mmu->role);
	pthread_rwlock_unlock(&vm->lock);
	if (!sp)
		return err_born(ENOMEM, "no memory for an EPT root");
	vcpu->mmu->root = sp;
	vcpu->mmu->root_hpa = __pa(sp->spt);
	TRACE_LINE(root_hpa, vcpu->mmu->root_hpa, sp->refcount);
	return 0;
}

void mmu_tdp_unload(struct kvm_vcpu *vcpu, struct kvm_mmu *mmu)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;

	if (mmu->root) {
		pthread_mutex_lock(&vm->roots_lock);
		mmu->root->refcount--;
		pthread_mutex_unlock(&vm->roots_lock);
	}
	mmu->root = NULL;
	mmu->root_hpa = INVALID_PAGE;
}
