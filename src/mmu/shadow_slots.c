/*
 * Memslots and the shadow MMU: reverse maps by slot, and what news of slots,
 * of the dirty log and of the client's mappings take away.
 *
 * Locks: mmu_lock for writing, taken by shadow_zap_slot() itself.
 */
#include <stdlib.h>

#include "lib/error.h"
#include "mmu/shadow.h"

int shadow_prepare_slot(struct kvm_memory_slot *slot)
{
	slot->arch = calloc(slot->npages, sizeof(struct shadow_node *));
	return slot->arch ? 0 : err_born(ENOMEM, "no memory for the rmaps of slot %u", slot->id);
}

/* As Linux does: with a slot all shadow pages go, its tables may be anywhere in them. */
void shadow_zap_slot(struct kvm *kvm, const struct kvm_memory_slot *slot)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	struct shadow_zap z = { 0 };

	pthread_rwlock_wrlock(&vm->lock);
	shadow_zap_all(vm, &z);
	shadow_commit(kvm, &z);
	pthread_rwlock_unlock(&vm->lock);
}

bool shadow_zap_range(struct kvm_mmu_vm *vm, const struct kvm_memory_slot *slot, gfn_t start,
		      gfn_t end)
{
	bool any = false;
	gfn_t gfn;

	for (gfn = start; gfn < end; gfn++) {
		struct shadow_node **head = shadow_rmap(slot, gfn);

		while (head && *head) {
			struct shadow_page *sp = node_page(*head);

			shadow_drop_spte(vm, sp, (unsigned)(*head - sp->node));
			any = true;
		}
	}
	return any;
}

bool shadow_wrprot_range(const struct kvm_memory_slot *slot, gfn_t start, gfn_t end)
{
	bool any = false;
	gfn_t gfn;

	for (gfn = start; gfn < end; gfn++)
		any |= shadow_rmap_write_protect(slot, gfn);
	return any;
}
