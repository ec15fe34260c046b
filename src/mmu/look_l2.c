/*
 * Looking at EPT02 from beside: see look.h.
 *
 * Shadow pages come and go under mmu_lock, so each table is copied with it held for reading: one
 * table, 4 KiB, at a time.
 *
 * Locks: mmu_lock for reading (the rwlock), nothing else.
 */
#include <string.h>

#include "mmu/look.h"
#include "mmu/nested_mmu.h"
#include "sdm/ept.h"

void kvm_mmu_look_l2(struct kvm_vcpu *vcpu, struct kvm_mmu_l2_view *v)
{
	const struct kvm_mmu *context = &vcpu->mmu_vcpu->guest_mmu;

	*v = (struct kvm_mmu_l2_view){
		.any = context->page_fault,
		.current = vcpu->mmu == context,
		.eptp12 = context->eptp12,
		.execonly = context->ept12_execonly,
		.maxphyaddr = mmu_guest_ops()->get_maxphyaddr(vcpu),
		.as_id = FIELD_GET(ROLE_AS_ID_MASK, context->role),
		.role = context->role,
	};
}

/* mmu_lock. NULL: none has been made, or it is gone. */
static struct shadow_page *find_root(struct kvm_mmu_vm *vm, const struct kvm_mmu_l2_view *v)
{
	struct shadow_page *sp;

	for_each_gfn_indirect_sp(vm, sp, (v->eptp12 & EPTP_ROOT_MASK) >> PAGE_SHIFT)
		if (sp->role == v->role && !sp->invalid)
			return sp;
	return NULL;
}

/* mmu_lock. The table of `level` on the way to gpa. */
static struct shadow_page *find_table(struct kvm_mmu_vm *vm, const struct kvm_mmu_l2_view *v, gpa_t gpa, int level)
{
	struct shadow_page *sp = find_root(vm, v);

	while (sp && sp_level(sp) > level) {
		unsigned i = shadow_index(gpa, sp_level(sp));

		if (!shadow_is_present(sp->spt[i]) || shadow_is_leaf(sp->spt[i], sp_level(sp)))
			return NULL;
		sp = sp->node[i].child;
	}
	return sp;
}

bool kvm_mmu_look_ept02(struct kvm *kvm, const struct kvm_mmu_l2_view *v, gpa_t gpa, int level,
			struct kvm_mmu_ept02_table *t)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	const struct shadow_page *sp = NULL;

	if (!vm || !__atomic_load_n(&vm->shadow, __ATOMIC_ACQUIRE))
		return false;
	pthread_rwlock_rdlock(&vm->lock);
	sp = find_table(vm, v, gpa, level);
	if (sp) {
		t->hpa = (hpa_t)(uintptr_t)sp->spt;
		t->unsync = sp->unsync;
		t->direct = sp_direct(sp);
		memcpy(t->entry, sp->spt, sizeof(t->entry));
	}
	pthread_rwlock_unlock(&vm->lock);
	return sp;
}

bool kvm_mmu_look_tracked(struct kvm *kvm, gpa_t gpa)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	bool tracked;

	if (!vm || !__atomic_load_n(&vm->shadow, __ATOMIC_ACQUIRE))
		return false;
	pthread_rwlock_rdlock(&vm->lock);
	tracked = shadow_gfn_is_tracked(vm, gpa >> PAGE_SHIFT);
	pthread_rwlock_unlock(&vm->lock);
	return tracked;
}
