/*
 * The invariants of shadow.h, looked at one by one; and the pages as text.
 *
 * Locks: slots_lock and mmu_lock for writing, the caller's.
 */
#include <stdio.h>

#include "host/memory.h"
#include "lib/rcu.h"
#include "mmu/check.h"
#include "mmu/shadow.h"

static void fault(struct mmu_check_result *r, const char *what, const struct shadow_page *sp,
		  unsigned index)
{
	mmu_check_fault(r, "%s in shadow page of gfn %#llx role %#x entry %u %#llx", what,
			(unsigned long long)sp->gfn, sp->role, index,
			(unsigned long long)sp->spt[index]);
}

static bool in_list(const struct shadow_node *head, const struct shadow_node *n)
{
	while (head && head != n)
		head = head->next;
	return head != NULL;
}

static bool is_active(struct kvm_mmu_vm *vm, const struct shadow_page *wanted)
{
	struct shadow_page *sp;

	for_each_gfn_sp(vm, sp, wanted->gfn)
		if (sp == wanted)
			return true;
	return false;
}

static void check_child(struct kvm_mmu_vm *vm, struct shadow_page *sp, unsigned i, struct mmu_check_result *r)
{
	struct shadow_page *child = sp->node[i].child;
	if (!is_active(vm, child)) {
		fault(r, "child that is not active", sp, i);
		return;
	}
	if (sp->spt[i] != (__pa(child->spt) | sp_table_bits(sp)))
		fault(r, "table entry of a wrong format", sp, i);
	if (sp_level(child) != sp_level(sp) - 1)
		fault(r, "child of a wrong level", sp, i);
	if (!in_list(child->parents, &sp->node[i]))
		fault(r, "parent unknown to its child", sp, i);
}

/* Invariants 2 and 5. */
static void check_write_protection(struct kvm_mmu_vm *vm, struct shadow_page *sp, unsigned i,
				   struct mmu_check_result *r)
{
	struct shadow_page *table;
	uint64_t pages = level_pages(sp_level(sp));

	for (table = pages > 1 ? vm->shadow->active : NULL; table; table = table->next)
		if (!sp_direct(table) && table->gfn / pages == sp->node[i].gfn / pages &&
		    !((table->role ^ sp->role) & ROLE_AS_ID_MASK))
			fault(r, "writable large leaf over a table", sp, i);
	for_each_gfn_indirect_sp(vm, table, sp->node[i].gfn)
		if (!table->unsync)
			fault(r, "writable leaf over a synced table", sp, i);
}

static void check_leaf(struct kvm *kvm, struct shadow_page *sp, unsigned i, struct mmu_check_result *r)
{
	uint64_t e = sp->spt[i], pages = level_pages(sp_level(sp));
	uint64_t must = sp_ept(sp) ? EPT_ACCESSED | EPT_IPAT : PTE_P | PTE_A;
	uint64_t may = PTE_ADDR_MASK | must | PTE_RW | PTE_US | SHADOW_PRESENT | sp_host_writable(sp) |
		       sp_dirty_mask(sp) | (pages > 1 ? PTE_PS : 0) |
		       (sp_ept(sp) ? EPT_READ | EPT_MEMTYPE_MASK : PTE_XD);
	gfn_t gfn = sp->node[i].gfn, rel;
	struct kvm_memory_slot *s = gfn_to_memslot_as(kvm, (int)FIELD_GET(ROLE_AS_ID_MASK, sp->role),
						      gfn);
	struct shadow_node **head = shadow_rmap(s, gfn, sp_level(sp));

	if (e & ~may || (e & must) != must || (e & PTE_ADDR_MASK) % (pages << PAGE_SHIFT))
		fault(r, "leaf of a wrong format", sp, i);
	if (!head || !in_list(*head, &sp->node[i])) {
		fault(r, "leaf that is not in its rmap", sp, i);
		return;
	}
	if ((e & PTE_ADDR_MASK) != gfn_to_hva_memslot(s, gfn))
		fault(r, "leaf with a wrong address", sp, i);
	if (gfn % pages || gfn + pages > s->base_gfn + s->npages)
		fault(r, "leaf beyond its slot", sp, i);
	if (sp_direct(sp) && gfn != sp->gfn + i * pages)
		fault(r, "direct leaf of a wrong gfn", sp, i);
	if (!(e & PTE_RW))
		return;
	if (s->flags & KVM_MEM_READONLY || !(e & sp_host_writable(sp)))
		fault(r, "leaf writable against slot or host", sp, i);
	for (rel = gfn - s->base_gfn; kvm_slot_uses_bitmap(kvm, s) && rel < gfn - s->base_gfn + pages; rel++)
		if (!(READ_ONCE(s->dirty_bitmap[rel / 64]) & BIT_ULL(rel % 64)))
			mmu_check_suspect(r, s, s->base_gfn + rel);
	check_write_protection(kvm->mmu_vm, sp, i, r);
}

/* leaves: by level, counted up. */
static void check_page(struct kvm *kvm, struct shadow_page *sp, struct mmu_check_result *r,
		       uint64_t *leaves)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	int level = sp_level(sp);
	unsigned i;

	if (!is_active(vm, sp) || sp->invalid)
		fault(r, "page that cannot be found", sp, 0);
	if (sp->unsync && (sp_level(sp) != 1 || sp_direct(sp)))
		fault(r, "unsync page that may not be", sp, 0);
	for (i = 0; i < SPTE_ENTRIES; i++) {
		if (!shadow_is_present(sp->spt[i])) {
			if (sp->spt[i] || sp->node[i].pprev)
				fault(r, "absent entry that is not empty", sp, i);
		} else if (!shadow_is_leaf(sp->spt[i], level)) {
			check_child(vm, sp, i, r);
		} else if (level > 1 + NR_HUGE_LEVELS) {
			fault(r, "leaf too large", sp, i);
		} else {
			leaves[level]++;
			check_leaf(kvm, sp, i, r);
		}
	}
}

void shadow_check(struct kvm *kvm, struct mmu_check_result *r, uint64_t tables, const uint64_t *tdp_leaves)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	uint64_t leaves[2 + NR_HUGE_LEVELS] = { 0 }, pages = 0;
	struct shadow_page *sp;

	lib_rcu_read_lock();
	for (sp = vm->shadow->active; sp; sp = sp->next) {
		check_page(kvm, sp, r, leaves);
		pages++;
	}
	lib_rcu_read_unlock();
	if (pages != vm->shadow->nr_pages || pages + tables != READ_ONCE(vm->table_pages) ||
	    leaves[1] + tdp_leaves[1] != READ_ONCE(vm->leaves[1]) ||
	    leaves[2] + tdp_leaves[2] != READ_ONCE(vm->leaves[2]) ||
	    leaves[3] + tdp_leaves[3] != READ_ONCE(vm->leaves[3]))
		mmu_check_fault(r, "counters of shadow pages are wrong");
}

void shadow_dump(struct kvm *kvm, void (*line)(void *arg, const char *text), void *arg)
{
	struct shadow_page *sp;
	char text[128];
	unsigned i, used;

	for (sp = kvm->mmu_vm->shadow->active; sp; sp = sp->next) {
		for (i = used = 0; i < SPTE_ENTRIES; i++)
			used += shadow_is_present(sp->spt[i]);
		snprintf(text, sizeof(text), "shadow gfn %012llx level %d %s%c%c%c%s%s, %u entries",
			 (unsigned long long)sp->gfn, sp_level(sp), sp_direct(sp) ? "direct " : "",
			 sp_access(sp) & ACC_WRITE_MASK ? 'w' : '-',
			 sp_access(sp) & ACC_EXEC_MASK ? 'x' : '-',
			 sp_access(sp) & ACC_USER_MASK ? 'u' : '-', sp->root_count ? " root" : "",
			 sp->unsync ? " unsync" : "", used);
		line(arg, text);
	}
}
