/*
 * Looking things up in the shadow MMU's indexes: which guest tables lie in a page or in a huge page, and which
 * leaves map one. Nothing is changed here.
 *
 * Locks: mmu_lock, reading is enough.
 */
#include "mmu/shadow.h"

bool shadow_gfn_is_tracked(struct kvm_mmu_vm *vm, gfn_t gfn)
{
	struct shadow_page *sp;

	for_each_gfn_indirect_sp(vm, sp, gfn)
		if (!sp->unsync)
			return true;
	return false;
}

static gfn_t region_of(gfn_t gfn, int level)
{
	return gfn / level_pages(level);
}

struct shadow_page **shadow_region(struct shadow_vm *s, gfn_t gfn, int level)
{
	return &s->region[level - 2][shadow_hash(region_of(gfn, level))];
}

bool shadow_allows_level(struct kvm_mmu_vm *vm, gfn_t gfn, int level)
{
	struct shadow_page *sp;

	if (level == 1)
		return true;
	sp = *shadow_region(vm->shadow, gfn, level);
	while (sp && region_of(sp->gfn, level) != region_of(gfn, level))
		sp = sp->region[level - 2].next;
	return !sp;
}

uint64_t shadow_nr_rmaps(const struct kvm_memory_slot *slot, int level)
{
	return level == 1 ? slot->npages : slot->npages / level_pages(level) + 2;
}

struct shadow_node **shadow_rmap(const struct kvm_memory_slot *slot, gfn_t gfn, int level)
{
	struct shadow_node **heads;

	if (!slot || !READ_ONCE(slot->arch) || gfn < slot->base_gfn || gfn >= slot->base_gfn + slot->npages)
		return NULL;
	heads = slot->arch;
	for (int l = 1; l < level; l++)
		heads += shadow_nr_rmaps(slot, l);
	return &heads[gfn / level_pages(level) - slot->base_gfn / level_pages(level)];
}
