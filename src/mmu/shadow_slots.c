/*
 * Memslots and the shadow MMU: reverse maps by slot, and what news of slots,
 * of the dirty log and of the client's mappings take away.
 *
 * Locks: mmu_lock for writing, taken by shadow_zap_slot() itself.
 */

#include "lib/error.h"
#include "lib/own.h"
#include "mmu/shadow.h"

int shadow_prepare_slot(struct kvm_memory_slot *slot)
{
	uint64_t heads = 0;

	for (int level = 1; level < 2 + NR_HUGE_LEVELS; level++)
		heads += shadow_nr_rmaps(slot, level);
	slot->arch = own_calloc(heads, sizeof(struct shadow_node *));
	return slot->arch ? 0 : err_born(ENOMEM, "no memory for the rmaps of slot %u", slot->id);
}

/* As Linux does: with a slot all shadow pages go, its tables may be anywhere in them. */
void shadow_zap_slot(struct kvm *kvm, const struct kvm_memory_slot *slot)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	struct shadow_zap z = { 0 };

	mmu_write_lock(vm);
	shadow_zap_all(vm, &z);
	shadow_commit(kvm, &z);
	mmu_write_unlock(vm);
}

/* The next gfn after the page of `level` around gfn. */
static gfn_t next_gfn(gfn_t gfn, int level)
{
	return ALIGN_DOWN(gfn, level_pages(level)) + level_pages(level);
}

static bool zap_rmap(struct kvm_mmu_vm *vm, struct shadow_node **head)
{
	bool any = false;

	while (head && *head) {
		struct shadow_page *sp = node_page(*head);

		shadow_drop_spte(vm, sp, (unsigned)(*head - sp->node));
		any = true;
	}
	return any;
}

bool shadow_zap_range(struct kvm_mmu_vm *vm, const struct kvm_memory_slot *slot, gfn_t start,
		      gfn_t end)
{
	bool any = false;
	gfn_t gfn;

	for (int level = 1; level < 2 + NR_HUGE_LEVELS; level++)
		for (gfn = start; gfn < end; gfn = next_gfn(gfn, level))
			any |= zap_rmap(vm, shadow_rmap(slot, gfn, level));
	return any;
}

static bool wrprot_rmap(struct shadow_node **head)
{
	struct shadow_node *n;
	bool any = false;

	for (n = head ? *head : NULL; n; n = n->next)
		any |= (__atomic_fetch_and(node_sptep(n), ~(PTE_RW | sp_dirty_mask(node_page(n))),
					   __ATOMIC_ACQ_REL) & PTE_RW) != 0;
	return any;
}

bool shadow_wrprot_range(const struct kvm_memory_slot *slot, gfn_t start, gfn_t end)
{
	bool any = false;
	gfn_t gfn;

	for (int level = 1; level < 2 + NR_HUGE_LEVELS; level++)
		for (gfn = start; gfn < end; gfn = next_gfn(gfn, level))
			any |= wrprot_rmap(shadow_rmap(slot, gfn, level));
	return any;
}
