/*
 * USERKVM_CHECK=ept02: every entry of EPT02, the shadow of an L1's EPT tables (EPT12), is what
 * EPT12 composed with the memslots says.
 *
 *	EPT12 entry in L1's memory --> page of L1's --> memslot --> the client's page
 *	entry of EPT02 -----------------------------------------------^
 *
 * The other half, that a leaf is its memslot's page, is shadow_check.c's. An entry of EPT02 may be
 * absent, or have fewer rights; it may never lead elsewhere or allow more. Unsync pages may lag
 * and are left out. A client that writes EPT12 itself, behind L1's back, is told as a fault: no
 * processor would hear of it, either.
 *
 * Locks: the caller's slots_lock, track_lock (no write of L1's is half done) and mmu_lock.
 */
#include "lib/params.h"
#include "mmu/check.h"
#include "mmu/shadow.h"

struct entry12 {
	uint64_t e;
	int level;
	bool there;
};

static struct entry12 read_entry(struct kvm *kvm, const struct shadow_page *sp, unsigned index)
{
	struct entry12 r = { .level = sp_level(sp) };

	r.there = !kvm_read_guest(kvm, (int)FIELD_GET(ROLE_AS_ID_MASK, sp->role), (sp->gfn << PAGE_SHIFT) + index * 8,
				  &r.e, sizeof(r.e)) && r.e & EPT_RWX;
	return r;
}

static bool is_leaf12(const struct entry12 *t)
{
	return t->level == 1 || (t->level <= 3 && t->e & EPT_PAGE_SIZE);
}

static void fault(struct mmu_check_result *r, const char *what, const struct shadow_page *sp, unsigned index,
		  const struct entry12 *t)
{
	mmu_check_fault(r, "EPT02 %s: table of gfn %#llx level %d entry %u is %#llx, EPT12 has %#llx", what,
			(unsigned long long)sp->gfn, sp_level(sp), index, (unsigned long long)sp->spt[index],
			(unsigned long long)(t->there ? t->e : 0));
}

/* What the entry of EPT12 and those above it leave of the rights. */
static uint64_t rights12(const struct shadow_page *sp, const struct entry12 *t)
{
	unsigned acc = sp_access(sp);
	uint64_t above = (acc & ACC_USER_MASK ? EPT_READ : 0) | (acc & ACC_WRITE_MASK ? EPT_WRITE : 0) |
			 (acc & ACC_EXEC_MASK ? EPT_EXEC : 0);
	uint64_t rights = t->e & above & EPT_RWX;

	/* a clean page's first write has to be seen */
	if (!(sp->role & ROLE_AD_DISABLED) && !(t->e & EPT_DIRTY))
		rights &= ~EPT_WRITE;
	return rights;
}

static void check_leaf12(struct mmu_check_result *r, struct shadow_page *sp, unsigned i, const struct entry12 *t)
{
	gfn_t gfn = (t->e & EPT_ADDR_MASK) >> PAGE_SHIFT;

	if (!t->there || !is_leaf12(t))
		fault(r, "leaf without one in EPT12", sp, i, t);
	else if (ALIGN_DOWN(gfn, level_pages(t->level)) != sp->node[i].gfn)
		fault(r, "leaf of another page", sp, i, t);
	else if (sp->spt[i] & EPT_RWX & ~rights12(sp, t))
		fault(r, "leaf with more rights", sp, i, t);
}

/* A table below stands for one of EPT12, or for a large page that is cut. */
static void check_table12(struct mmu_check_result *r, struct shadow_page *sp, unsigned i, const struct entry12 *t)
{
	const struct shadow_page *child = sp->node[i].child;
	gfn_t gfn = (t->e & EPT_ADDR_MASK) >> PAGE_SHIFT;

	if (!t->there || is_leaf12(t) != sp_direct(child))
		fault(r, "table without one in EPT12", sp, i, t);
	else if ((sp_direct(child) ? ALIGN_DOWN(gfn, level_pages(t->level)) : gfn) != child->gfn)
		fault(r, "table of another gfn", sp, i, t);
}

void ept02_check(struct kvm *kvm, struct mmu_check_result *r)
{
	struct shadow_page *sp;

	for (sp = kvm->mmu_vm->shadow->active; sp; sp = sp->next) {
		if (!sp_ept(sp) || sp_direct(sp) || sp->unsync)
			continue;
		for (unsigned i = 0; i < SPTE_ENTRIES; i++) {
			struct entry12 t;

			if (!shadow_is_present(sp->spt[i]))
				continue;
			t = read_entry(kvm, sp, i);
			if (shadow_is_leaf(sp->spt[i], sp_level(sp)))
				check_leaf12(r, sp, i, &t);
			else
				check_table12(r, sp, i, &t);
		}
	}
}

bool ept02_check_wanted(void)
{
	return params_has_word("USERKVM_CHECK", "ept02");
}
