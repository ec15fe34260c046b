/*
 * News that takes translations away: memslots change, the client changes its
 * mappings. (The dirty log: dirty.c.)
 *
 * The pattern is the same everywhere: lock for writing, change entries, unlock,
 * then shoot down, wait for a grace period and free (kvm_tdp_mmu_zap_finish).
 *
 * Locks: vms_lock guards the list of VMs and keeps them alive while an
 * invalidation works on them; outside of mmu_lock. It is never taken with a
 * lock of a VM held.
 */
#include <pthread.h>

#include "host/memory.h"
#include "lib/error.h"
#include "lib/fork.h"
#include "lib/own.h"
#include "lib/rcu.h"
#include "mmu/check.h"
#include "mmu/look.h"
#include "mmu/shadow.h"
#include "trace/trace.h"

static pthread_mutex_t vms_lock = PTHREAD_MUTEX_INITIALIZER;
static struct kvm_mmu_vm *vms; /* vms_lock to change, atomic to look whether there are any */
static uint64_t last_vm;       /* vms_lock */
static uint64_t vms_mm;	       /* (a) whose VMs they are: not those of a child that was made by a bare clone() */

static void forget_in_child(void)
{
	vms = NULL;
	pthread_mutex_init(&vms_lock, NULL);
}
LIB_IN_FORKED_CHILD(forget_in_child)

bool mmu_have_vms(void)
{
	return __atomic_load_n(&vms, __ATOMIC_ACQUIRE) && READ_ONCE(vms_mm) == host_mm_id();
}

struct kvm_mmu_vm *mmu_vms_lock(void)
{
	pthread_mutex_lock(&vms_lock);
	return vms;
}

void mmu_vms_unlock(void)
{
	pthread_mutex_unlock(&vms_lock);
}

const void *kvm_mmu_look_vms(void)
{
	return &vms;
}

void mmu_vm_link(struct kvm_mmu_vm *vm)
{
	mmu_vms_lock();
	vm->next_vm = vms;
	vm->number = ++last_vm;
	WRITE_ONCE(vms_mm, vm->kvm->mm_id);
	__atomic_store_n(&vms, vm, __ATOMIC_RELEASE);
	mmu_vms_unlock();
}

/* Host memory of every slot of the VM. fn is inside an RCU section. */
static void each_range(struct kvm *kvm, kvm_mmu_range_fn *fn, void *arg)
{
	lib_rcu_read_lock();
	for (int as = 0; as < KVM_ADDRESS_SPACE_NUM; as++) {
		struct kvm_memslots *slots = __kvm_memslots(kvm, as);

		for (uint32_t i = 0; i < slots->used_slots; i++) {
			const struct kvm_memory_slot *s = slots->slots[i];

			fn(arg, s->userspace_addr, s->userspace_addr + (s->npages << PAGE_SHIFT));
		}
	}
	lib_rcu_read_unlock();
}

static void forget_idle(void *arg, hva_t start, hva_t end)
{
	mmu_idle_forget(start, end);
}

void mmu_vm_unlink(struct kvm_mmu_vm *vm)
{
	struct kvm_mmu_vm **p = &vms;

	mmu_vms_lock();
	while (*p && *p != vm)
		p = &(*p)->next_vm;
	if (*p)
		__atomic_store_n(p, vm->next_vm, __ATOMIC_RELEASE);
	mmu_vms_unlock();
	/* What its guest has accessed goes with its tables, unasked. */
	each_range(vm->kvm, forget_idle, NULL);
}

void kvm_mmu_each_guest_range(kvm_mmu_range_fn *fn, void *arg)
{
	struct kvm_mmu_vm *vm;

	if (!mmu_have_vms())
		return;
	for (vm = mmu_vms_lock(); vm; vm = vm->next_vm)
		if (vm->kvm->mm_id == host_mm_id())
			each_range(vm->kvm, fn, arg);
	mmu_vms_unlock();
}

/* mmu_lock for writing. [start, end) in every root of the address space. */
static void zap_as_range(struct kvm_mmu_vm *vm, int as_id, gfn_t start, gfn_t end, struct zap_list *z)
{
	uint32_t i;

	for (i = 0; i < mmu_nr_roots(vm); i++)
		if (root_as_id(vm->roots[i]) == as_id)
			kvm_tdp_mmu_zap_range(vm, vm->roots[i], start, end, z);
}

static void zap_slot(struct kvm *kvm, const struct kvm_memory_slot *slot)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	struct zap_list z = { 0 };

	if (vm->shadow)
		shadow_zap_slot(kvm, slot);
	if (!kvm_mmu_params()->ept)
		return;
	mmu_write_lock(vm);
	zap_as_range(vm, slot->as_id, slot->base_gfn, slot->base_gfn + slot->npages, &z);
	mmu_write_unlock(vm);
	kvm_tdp_mmu_zap_finish(kvm, &z);
}

/* --- memslot listener --- */

static int slot_prepare(struct kvm *kvm, const struct kvm_memory_slot *old,
			struct kvm_memory_slot *new, enum kvm_mr_change change)
{
	if ((change == KVM_MR_CREATE || change == KVM_MR_MOVE) &&
	    new->base_gfn + new->npages - 1 > TDP_MAX_GFN)
		return err_born(EINVAL, "slot %u reaches beyond guest-physical bit 51", new->id);
	if (change == KVM_MR_CREATE && kvm->mmu_vm && kvm->mmu_vm->shadow)
		return shadow_prepare_slot(new);
	return 0;
}

static void slot_free(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	own_free(slot->arch);
	slot->arch = NULL;
}

static void slot_flush_shadow(struct kvm *kvm, struct kvm_memory_slot *old)
{
	if (kvm->mmu_vm)
		zap_slot(kvm, old);
}

static void commit_tables(struct kvm *kvm, const struct kvm_memory_slot *old,
			  const struct kvm_memory_slot *new, enum kvm_mr_change change)
{
	bool was, is;

	/* Read the process's mappings now: a client may confine itself before it runs (docs/ci.md). */
	if (change == KVM_MR_CREATE || change == KVM_MR_MOVE)
		host_mapping_look(new->userspace_addr, new->userspace_addr + new->npages * PAGE_SIZE);
	if (!kvm->mmu_vm)
		return;
	if (change == KVM_MR_CREATE || change == KVM_MR_DELETE)
		mmu_slots_changed(kvm);
	if (change != KVM_MR_FLAGS_ONLY)
		return;
	was = old->flags & KVM_MEM_LOG_DIRTY_PAGES;
	is = new->flags & KVM_MEM_LOG_DIRTY_PAGES;
	if (!was && is) {
		mmu_slot_enable_log_dirty(kvm, new);
	} else if (was && !is) {
		/* Small leaves were for the log only: with the next faults huge ones come back. */
		zap_slot(kvm, new);
	}
}

static void slot_commit(struct kvm *kvm, const struct kvm_memory_slot *old,
			const struct kvm_memory_slot *new, enum kvm_mr_change change)
{
	commit_tables(kvm, old, new, change);
	mmu_verify_locked(kvm, "a change of memslots");
}

static void slot_log_taken(struct kvm *kvm)
{
	mmu_verify_locked(kvm, "a harvest of the dirty log");
}

/* MMIO entries carry a part of the generation: when it comes round, none may be left. */
static void slot_generation(struct kvm *kvm, uint64_t gen)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	struct zap_list z = { 0 };
	int as;

	if (!vm || !kvm_mmu_params()->ept || mmio_gen(gen) >= KVM_ADDRESS_SPACE_NUM * 2 || gen >> 1 <= MMIO_GEN_MASK)
		return;
	mmu_write_lock(vm);
	for (as = 0; as < KVM_ADDRESS_SPACE_NUM; as++)
		zap_as_range(vm, as, 0, TDP_MAX_GFN + 1, &z);
	mmu_write_unlock(vm);
	kvm_tdp_mmu_zap_finish(kvm, &z);
}

static const struct kvm_memslot_listener listener = {
	.prepare = slot_prepare,
	.flush_shadow = slot_flush_shadow,
	.commit = slot_commit,
	.free_slot = slot_free,
	.generation = slot_generation,
	.log_taken = slot_log_taken,
};

void mmu_register_slot_listener(void)
{
	kvm_register_memslot_listener(&listener);
	kvm_register_write_protect(mmu_slot_protect_masked);
}

/* --- invalidation by host address --- */

void mmu_hva_to_gfns(const struct kvm_memory_slot *s, hva_t start, hva_t end, gfn_t *first,
		     gfn_t *beyond)
{
	hva_t slot_end = s->userspace_addr + (s->npages << PAGE_SHIFT);
	hva_t lo = max_u64(start, s->userspace_addr), hi = min_u64(end, slot_end);

	*first = s->base_gfn + ((lo - s->userspace_addr) >> PAGE_SHIFT);
	*beyond = s->base_gfn + ((hi - 1 - s->userspace_addr) >> PAGE_SHIFT) + 1;
}

/* RCU, mmu_lock for writing. */
static void zap_slot_hva(struct kvm_mmu_vm *vm, const struct kvm_memory_slot *s, hva_t start,
			 hva_t end, struct zap_list *z)
{
	gfn_t first, beyond;

	mmu_hva_to_gfns(s, start, end, &first, &beyond);
	if (vm->shadow)
		z->flush |= shadow_zap_range(vm, s, first, beyond);
	zap_as_range(vm, s->as_id, first, beyond, z);
}

bool kvm_mmu_uses_hva(struct kvm *kvm, hva_t start, hva_t end)
{
	bool uses = false;
	int as;

	lib_rcu_read_lock();
	for (as = 0; as < KVM_ADDRESS_SPACE_NUM && !uses; as++) {
		uint32_t pos = 0;

		uses = memslots_next_in_hva_range(__kvm_memslots(kvm, as), start, end, &pos) != NULL;
	}
	lib_rcu_read_unlock();
	return uses;
}

/*
 * vms_lock. The sequence moves under the lock: a fault that looked at the
 * mapping before either has published its entry (and we zap it) or finds the
 * sequence moved.
 */
static void invalidate_vm(struct kvm_mmu_vm *vm, hva_t start, hva_t end)
{
	struct kvm *kvm = vm->kvm;
	struct zap_list z = { 0 };
	int as;

	lib_rcu_read_lock();
	mmu_write_lock(vm);
	__atomic_fetch_add(&kvm->mmu_invalidate_seq, 1, __ATOMIC_ACQ_REL);
	for (as = 0; as < KVM_ADDRESS_SPACE_NUM; as++) {
		struct kvm_memslots *slots = __kvm_memslots(kvm, as);
		struct kvm_memory_slot *s;
		uint32_t pos = 0;

		while ((s = memslots_next_in_hva_range(slots, start, end, &pos)) != NULL)
			zap_slot_hva(vm, s, start, end, &z);
	}
	mmu_write_unlock(vm);
	lib_rcu_read_unlock();
	kvm_tdp_mmu_zap_finish(kvm, &z);
	mmu_verify(kvm, "an invalidation");
}

/* vms_lock. True when a VM has memory there. */
static bool invalidate_vms(hva_t start, hva_t end)
{
	struct kvm_mmu_vm *vm;
	bool some = false;

	for (vm = vms; vm; vm = vm->next_vm) {
		if (!kvm_mmu_uses_hva(vm->kvm, start, end))
			continue;
		some = true;
		TRACE(kvm, kvm_unmap_hva_range, start, end);
		invalidate_vm(vm, start, end);
	}
	return some;
}

void kvm_mmu_invalidate_hva_range(hva_t start, hva_t end)
{
	start = ALIGN_DOWN(start, PAGE_SIZE);
	mmu_idle_forget(start, end);
	if (start >= end || !mmu_have_vms())
		return;
	mmu_vms_lock();
	(void)invalidate_vms(start, end);
	mmu_vms_unlock();
}

/* vms_lock. */
static bool any_vm_uses_hva(hva_t start, hva_t end)
{
	struct kvm_mmu_vm *vm = vms;

	while (vm && !kvm_mmu_uses_hva(vm->kvm, start, end))
		vm = vm->next_vm;
	return vm;
}

void kvm_mmu_invalidate_begin(struct kvm_mmu_invalidation *inv, hva_t start, hva_t end)
{
	struct kvm_mmu_vm *vm;

	*inv = (struct kvm_mmu_invalidation){ ALIGN_DOWN(start, PAGE_SIZE), ALIGN_UP(end, PAGE_SIZE), 0 };
	mmu_idle_forget(inv->start, inv->end);
	if (inv->start >= inv->end || !mmu_have_vms())
		return;
	mmu_vms_lock();
	if (any_vm_uses_hva(inv->start, inv->end)) {
		/* All VMs, whatever they use: slots may change before the end. */
		inv->last_vm = last_vm;
		for (vm = vms; vm; vm = vm->next_vm)
			__atomic_fetch_add(&vm->kvm->mmu_invalidate_in_progress, 1, __ATOMIC_ACQ_REL);
		(void)invalidate_vms(inv->start, inv->end);
	}
	mmu_vms_unlock();
}

void kvm_mmu_invalidate_end(const struct kvm_mmu_invalidation *inv)
{
	const struct kvm_mmu_vendor_ops *vendor = mmu_vendor_ops();
	struct kvm_mmu_vm *vm;

	if (!inv->last_vm)
		return;
	mmu_vms_lock();
	mmu_idle_forget(inv->start, inv->end); /* whoever has marked it meanwhile may have meant what was there */
	for (vm = vms; vm; vm = vm->next_vm) {
		if (vm->number > inv->last_vm)
			continue;
		if (vendor->invalidate_code)
			vendor->invalidate_code(vm->kvm, inv->start, inv->end - inv->start);
		/* The sequence first: a fault that sees nothing in progress must see it moved. */
		__atomic_fetch_add(&vm->kvm->mmu_invalidate_seq, 1, __ATOMIC_ACQ_REL);
		__atomic_fetch_sub(&vm->kvm->mmu_invalidate_in_progress, 1, __ATOMIC_ACQ_REL);
	}
	mmu_vms_unlock();
}
