/*
 * News that takes translations away: memslots change, the client changes its
 * mappings, the dirty log is read.
 *
 * The pattern is the same everywhere: lock for writing, change entries, unlock,
 * then shoot down, wait for a grace period and free (kvm_tdp_mmu_zap_finish).
 *
 * Locks: vms_lock guards the list of VMs and keeps them alive while an
 * invalidation works on them; outside of mmu_lock. It is never taken with a
 * lock of a VM held.
 */
#include <stdlib.h>

#include "host/memory.h"
#include "lib/error.h"
#include "lib/rcu.h"
#include "mmu/internal.h"
#include "trace/trace.h"

static pthread_mutex_t vms_lock = PTHREAD_MUTEX_INITIALIZER;
static struct kvm_mmu_vm *vms; /* vms_lock to change, atomic to look whether there are any */

void mmu_vm_link(struct kvm_mmu_vm *vm)
{
	pthread_mutex_lock(&vms_lock);
	vm->next_vm = vms;
	__atomic_store_n(&vms, vm, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&vms_lock);
}

void mmu_vm_unlink(struct kvm_mmu_vm *vm)
{
	struct kvm_mmu_vm **p = &vms;

	pthread_mutex_lock(&vms_lock);
	while (*p && *p != vm)
		p = &(*p)->next_vm;
	if (*p)
		__atomic_store_n(p, vm->next_vm, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&vms_lock);
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

	pthread_rwlock_wrlock(&vm->lock);
	zap_as_range(vm, slot->as_id, slot->base_gfn, slot->base_gfn + slot->npages, &z);
	pthread_rwlock_unlock(&vm->lock);
	kvm_tdp_mmu_zap_finish(kvm, &z);
}

static void wrprot_range(struct kvm *kvm, const struct kvm_memory_slot *slot, gfn_t start, gfn_t end,
			 bool *flush)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	uint32_t i;

	pthread_rwlock_wrlock(&vm->lock);
	for (i = 0; i < mmu_nr_roots(vm); i++)
		if (root_as_id(vm->roots[i]) == slot->as_id)
			*flush |= kvm_tdp_mmu_wrprot_range(vm->roots[i], start, end);
	pthread_rwlock_unlock(&vm->lock);
}

/* --- memslot listener --- */

static int slot_prepare(struct kvm *kvm, const struct kvm_memory_slot *old,
			struct kvm_memory_slot *new, enum kvm_mr_change change)
{
	if ((change == KVM_MR_CREATE || change == KVM_MR_MOVE) &&
	    new->base_gfn + new->npages - 1 > TDP_MAX_GFN)
		return err_born(EINVAL, "slot %u reaches beyond guest-physical bit 47", new->id);
	return 0;
}

static void slot_flush_shadow(struct kvm *kvm, struct kvm_memory_slot *old)
{
	if (kvm->mmu_vm)
		zap_slot(kvm, old);
}

static void slot_commit(struct kvm *kvm, const struct kvm_memory_slot *old,
			const struct kvm_memory_slot *new, enum kvm_mr_change change)
{
	bool was, is, flush = false;

	if (change != KVM_MR_FLAGS_ONLY || !kvm->mmu_vm)
		return;
	was = old->flags & KVM_MEM_LOG_DIRTY_PAGES;
	is = new->flags & KVM_MEM_LOG_DIRTY_PAGES;
	if (!was && is) {
		wrprot_range(kvm, new, new->base_gfn, new->base_gfn + new->npages, &flush);
		if (flush)
			kvm_flush_remote_tlbs(kvm);
	} else if (was && !is) {
		/* Small leaves were for the log only: with the next faults huge ones come back. */
		zap_slot(kvm, new);
	}
}

/* MMIO entries carry a part of the generation: when it comes round, none may be left. */
static void slot_generation(struct kvm *kvm, uint64_t gen)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	struct zap_list z = { 0 };
	int as;

	if (!vm || mmio_gen(gen) >= KVM_ADDRESS_SPACE_NUM * 2 || gen >> 1 <= MMIO_GEN_MASK)
		return;
	pthread_rwlock_wrlock(&vm->lock);
	for (as = 0; as < KVM_ADDRESS_SPACE_NUM; as++)
		zap_as_range(vm, as, 0, TDP_MAX_GFN + 1, &z);
	pthread_rwlock_unlock(&vm->lock);
	kvm_tdp_mmu_zap_finish(kvm, &z);
}

/* KVM_GET_DIRTY_LOG has taken these bits; the flush is the caller's. */
static void slot_write_protect(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t offset,
			       uint64_t mask)
{
	gfn_t base = slot->base_gfn + offset;
	bool flush = false;

	if (kvm->mmu_vm)
		wrprot_range(kvm, slot, base + (unsigned)__builtin_ctzll(mask),
			     base + 64 - (unsigned)__builtin_clzll(mask), &flush);
}

static const struct kvm_memslot_listener listener = {
	.prepare = slot_prepare,
	.flush_shadow = slot_flush_shadow,
	.commit = slot_commit,
	.generation = slot_generation,
};

void mmu_register_slot_listener(void)
{
	kvm_register_memslot_listener(&listener);
	kvm_register_write_protect(slot_write_protect);
}

/* --- invalidation by host address --- */

/* RCU, mmu_lock for writing. */
static void zap_slot_hva(struct kvm_mmu_vm *vm, const struct kvm_memory_slot *s, hva_t start,
			 hva_t end, struct zap_list *z)
{
	hva_t slot_end = s->userspace_addr + (s->npages << PAGE_SHIFT);
	hva_t lo = max_u64(start, s->userspace_addr), hi = min_u64(end, slot_end);
	gfn_t first = s->base_gfn + ((lo - s->userspace_addr) >> PAGE_SHIFT);
	gfn_t last = s->base_gfn + ((hi - 1 - s->userspace_addr) >> PAGE_SHIFT);

	zap_as_range(vm, s->as_id, first, last + 1, z);
}

/* vms_lock. Is any of [start, end) memory of the VM? */
static bool vm_uses_hva(struct kvm *kvm, hva_t start, hva_t end)
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
	pthread_rwlock_wrlock(&vm->lock);
	__atomic_fetch_add(&kvm->mmu_invalidate_seq, 1, __ATOMIC_ACQ_REL);
	for (as = 0; as < KVM_ADDRESS_SPACE_NUM; as++) {
		struct kvm_memslots *slots = __kvm_memslots(kvm, as);
		struct kvm_memory_slot *s;
		uint32_t pos = 0;

		while ((s = memslots_next_in_hva_range(slots, start, end, &pos)) != NULL)
			zap_slot_hva(vm, s, start, end, &z);
	}
	pthread_rwlock_unlock(&vm->lock);
	lib_rcu_read_unlock();
	kvm_tdp_mmu_zap_finish(kvm, &z);
}

void kvm_mmu_invalidate_hva_range(hva_t start, hva_t end)
{
	struct kvm_mmu_vm *vm;
	bool forgotten = false;

	start = ALIGN_DOWN(start, PAGE_SIZE);
	if (start >= end || !__atomic_load_n(&vms, __ATOMIC_ACQUIRE))
		return;
	pthread_mutex_lock(&vms_lock);
	for (vm = vms; vm; vm = vm->next_vm) {
		if (!vm_uses_hva(vm->kvm, start, end))
			continue;
		if (!forgotten)
			host_mapping_changed();
		forgotten = true;
		TRACE(kvm, kvm_unmap_hva_range, start, end);
		invalidate_vm(vm, start, end);
	}
	pthread_mutex_unlock(&vms_lock);
}
