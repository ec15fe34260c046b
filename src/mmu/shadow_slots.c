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
	void *arch;

	for (int level = 1; level < 2 + NR_HUGE_LEVELS; level++)
		heads += shadow_nr_rmaps(slot, level);
	arch = own_calloc(heads, sizeof(struct shadow_node *));
	WRITE_ONCE(slot->arch, arch);
	return arch ? 0 : err_born(ENOMEM, "no memory for the rmaps of slot %u", slot->id);
}

/* slots_lock. The slots that were made without rmaps. Those of a round that failed stay. */
static int prepare_slots(struct kvm *kvm)
{
	for (int as_id = 0; as_id < KVM_ADDRESS_SPACE_NUM; as_id++) {
		struct kvm_memslots *slots = __kvm_memslots(kvm, as_id);

		for (uint32_t i = 0; i < slots->used_slots; i++) {
			int r = slots->slots[i]->arch ? 0 : shadow_prepare_slot(slots->slots[i]);

			if (r)
				return r;
		}
	}
	return 0;
}

int kvm_mmu_prepare_nested(struct kvm *kvm)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	int r = 0;

	if (likely(READ_ONCE(vm->shadow)))
		return 0;
	pthread_mutex_lock(&kvm->slots_lock);
	if (!vm->shadow) {
		r = prepare_slots(kvm);
		/* published last: whoever sees it finds rmaps in every slot */
		if (!r)
			r = shadow_vm_create(vm);
	}
	pthread_mutex_unlock(&kvm->slots_lock);
	return r;
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
