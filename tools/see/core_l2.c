/*
 * An L2's memory in a core file: what src/control/l2.c says of a live one, by the same lines. EPT12 is found in L1's
 * memory, which has to be in the core; EPT02 by the list of shadow pages.
 */
#include <stdlib.h>
#include <string.h>

#include "mmu/shadow.h"
#include "sdm/ept.h"
#include "tools/see/core.h"

#define MAX_PAGES 1000000 /* of the list of shadow pages, which may lead in circles */
#define MAX_TABLES 40000
#define MAX_LEAVES 4000000

struct l2 {
	const struct core_vm *v;
	FILE *f;
	struct kvm_mmu context; /* the vCPU's guest_mmu */
	bool current;
	int maxphyaddr, as;
	const char *wrong; /* what cannot be told, in the end */
};

/* --- where it is --- */

static bool get_vcpu(const struct core_vm *v, uint32_t id, struct kvm_vcpu *vcpu)
{
	for (uint32_t i = 0; i < v->kvm.nr_vcpus && i < KVM_MAX_VCPUS; i++)
		if (core_copy((uintptr_t)v->kvm.vcpus[i], vcpu, sizeof(*vcpu)) && vcpu->vcpu_id == id)
			return true;
	return false;
}

/* False: told. */
static bool look_at(FILE *f, const struct core_vm *v, uint32_t id, struct l2 *l2)
{
	struct kvm_mmu_vcpu m;
	struct kvm_vcpu vcpu;

	if (!get_vcpu(v, id, &vcpu)) {
		fprintf(f, "error the VM has no vCPU %u\n", id);
		return false;
	}
	if (!core_copy((uintptr_t)vcpu.mmu_vcpu, &m, sizeof(m)) || !m.guest_mmu.page_fault) {
		fprintf(f, "error vCPU %u has run no L2 with EPT yet\n", id);
		return false;
	}
	*l2 = (struct l2){
		.v = v, .context = m.guest_mmu, .maxphyaddr = m.l1_maxphyaddr,
		.current = (uintptr_t)vcpu.mmu == (uintptr_t)vcpu.mmu_vcpu + offsetof(struct kvm_mmu_vcpu, guest_mmu),
		.as = (int)FIELD_GET(ROLE_AS_ID_MASK, m.guest_mmu.role),
	};
	if (vcpu.stat.guest_mode && !l2->current) {
		fprintf(f, "error vCPU %u runs an L2 without EPT: its guest-physical addresses are L1's, without --l2\n", id);
		return false;
	}
	return true;
}

static int root12_level(const struct l2 *l2)
{
	return (int)FIELD_GET(EPTP_WALK_MASK, l2->context.eptp12) + 1;
}

/* --- EPT12 --- */

/* L1's memory. NULL: it has none there, or (wrong) the core has not. */
static const void *l1_memory(struct l2 *l2, gpa_t gpa, size_t n)
{
	struct kvm_memory_slot s;
	uint32_t i = 0;

	while (core_next_slot(l2->v, l2->as, &i, &s)) {
		uint64_t start = s.base_gfn << PAGE_SHIFT;
		const void *p;

		if (gpa < start || gpa - start >= s.npages << PAGE_SHIFT)
			continue;
		p = core_at(s.userspace_addr + (gpa - start), n);
		if (!p)
			l2->wrong = "L1's memory is not in the core (core(5): coredump_filter)";
		return p;
	}
	return NULL;
}

/* False: the walk ends without a page. */
static bool walk_ept12(struct l2 *l2, gpa_t gpa, gpa_t *out)
{
	gpa_t table = l2->context.eptp12 & EPTP_ROOT_MASK;

	if (gpa >> (PAGE_SHIFT + 9 * root12_level(l2)))
		return false;
	for (int level = root12_level(l2); level >= 1; level--) {
		uint64_t size = level_pages(level) << PAGE_SHIFT;
		gpa_t at = table + (gpa / size & 511) * 8;
		const uint64_t *e = l1_memory(l2, at, sizeof(*e));
		enum ept_entry_kind kind;

		if (!e) {
			fprintf(l2->f, "nowhere %d %llx\n", level, (ull)at);
			return false;
		}
		kind = ept_entry_kind(*e, level, l2->maxphyaddr, l2->context.ept12_execonly);
		fprintf(l2->f, "e12 %d %llx %llx %d\n", level, (ull)at, (ull)*e, kind);
		table = *e & EPT_ADDR_MASK;
		if (kind == EPT_ENTRY_LEAF)
			*out = (table & ~(size - 1)) | (gpa & (size - 1));
		if (kind != EPT_ENTRY_TABLE)
			return kind == EPT_ENTRY_LEAF;
	}
	return false;
}

/* --- EPT02 --- */

static bool is_root02(const struct l2 *l2, const struct shadow_page *sp)
{
	return sp->role == l2->context.role && !sp->invalid && !sp_direct(sp) &&
	       sp->gfn == (l2->context.eptp12 & EPTP_ROOT_MASK) >> PAGE_SHIFT;
}

static bool is_tracked(const struct l2 *l2, const struct shadow_page *sp, gfn_t gfn)
{
	return sp->gfn == gfn && !sp_direct(sp) && !sp->unsync;
}

/* The first page that passes. gfn: of is_tracked(); else the root is looked for. */
static bool find_page(const struct l2 *l2, const gfn_t *gfn, struct shadow_page *sp)
{
	struct shadow_vm vm;
	uint64_t next;

	if (!l2->v->mmu.shadow || !core_copy((uintptr_t)l2->v->mmu.shadow, &vm, sizeof(vm)))
		return false;
	next = (uintptr_t)vm.active;
	for (unsigned n = 0; next && n < MAX_PAGES && core_copy(next, sp, sizeof(*sp)); n++) {
		if (gfn ? is_tracked(l2, sp, *gfn) : is_root02(l2, sp))
			return true;
		next = (uintptr_t)sp->next;
	}
	return false;
}

static bool get_child(const struct shadow_page *sp, unsigned i, const uint64_t *entries, struct shadow_page *child)
{
	int level = sp_level(sp);

	return shadow_is_present(entries[i]) && !shadow_is_leaf(entries[i], level) &&
	       core_copy((uintptr_t)sp->node[i].child, child, sizeof(*child)) && sp_level(child) == level - 1;
}

static void ept02_lines(const struct l2 *l2, gpa_t gpa)
{
	struct shadow_page sp, child;

	if (!find_page(l2, NULL, &sp))
		return;
	for (;;) {
		const uint64_t *e = core_at((uintptr_t)sp.spt, PAGE_SIZE);
		unsigned i = (unsigned)(gpa >> (PAGE_SHIFT + 9 * (sp_level(&sp) - 1))) & 511;

		if (!e)
			return;
		fprintf(l2->f, "e02 %d %u %llx %llx %d %d\n", sp_level(&sp), i, (ull)(uintptr_t)sp.spt, (ull)e[i], sp.unsync,
			sp_direct(&sp));
		if (!get_child(&sp, i, e, &child))
			return;
		sp = child;
	}
}

static void l2_line(const struct l2 *l2)
{
	struct shadow_page root;
	bool has = find_page(l2, NULL, &root);

	fprintf(l2->f, "l2 %d %llx %llx %d %d %d\n", l2->current, (ull)l2->context.eptp12,
		(ull)(has ? (uintptr_t)root.spt : 0), l2->context.ept12_execonly, l2->maxphyaddr, l2->as);
}

/* The lines, or why they cannot be told. */
static void answer(FILE *f, void (*tell)(struct l2 *l2, gpa_t gpa), struct l2 *l2, gpa_t gpa)
{
	char *text = NULL;
	size_t size;

	l2->f = open_memstream(&text, &size);
	if (!l2->f) {
		fputs("error no memory\n", f);
		return;
	}
	tell(l2, gpa);
	fclose(l2->f);
	if (l2->wrong)
		fprintf(f, "error %s\n", l2->wrong);
	else
		fputs(text, f);
	free(text);
}

static void walk2(struct l2 *l2, gpa_t gpa)
{
	struct shadow_page sp;
	gpa_t gpa1;

	l2_line(l2);
	if (walk_ept12(l2, gpa, &gpa1)) {
		gfn_t gfn = gpa1 >> PAGE_SHIFT;

		fprintf(l2->f, "gpa1 %llx %d\n", (ull)gpa1, find_page(l2, &gfn, &sp));
		core_walk(l2->f, l2->v, l2->as, gpa1);
	}
	ept02_lines(l2, gpa);
}

void core_walk2(FILE *f, const struct core_vm *v, uint32_t vcpu, gpa_t gpa)
{
	struct l2 l2;

	if (look_at(f, v, vcpu, &l2))
		answer(f, walk2, &l2, gpa);
}

/* --- all of it: a line for each leaf --- */

struct scan {
	struct l2 *l2;
	unsigned nr_tables, nr_leaves;
};

static void leaf(struct scan *s, const char *word, gpa_t gpa, int level, uint64_t e)
{
	fprintf(s->l2->f, "%s %llx %llx %d %llx\n", word, (ull)gpa, (ull)(gpa + (level_pages(level) << PAGE_SHIFT)), level, (ull)e);
	s->nr_leaves++;
}

/* rights: what the entries above leave. */
static void scan_ept12(struct scan *s, gpa_t table, int level, gpa_t gpa, uint64_t rights)
{
	const uint64_t *e = ++s->nr_tables > MAX_TABLES ? NULL : l1_memory(s->l2, table, PAGE_SIZE);
	uint64_t size = level_pages(level) << PAGE_SHIFT;

	for (unsigned i = 0; e && i < 512 && s->nr_leaves < MAX_LEAVES; i++, gpa += size) {
		uint64_t left = e[i] & rights & EPT_RWX;

		switch (ept_entry_kind(e[i], level, s->l2->maxphyaddr, s->l2->context.ept12_execonly)) {
		case EPT_ENTRY_LEAF: leaf(s, "leaf12", gpa, level, (e[i] & ~EPT_RWX) | left); break;
		case EPT_ENTRY_TABLE: scan_ept12(s, e[i] & EPT_ADDR_MASK, level - 1, gpa, left); break;
		case EPT_ENTRY_BAD: leaf(s, "leaf12", gpa, level, e[i] & ~EPT_RWX); break; /* no right: misconfigured */
		case EPT_ENTRY_ABSENT: break;
		}
	}
}

static void scan_ept02(struct scan *s, const struct shadow_page *sp, gpa_t gpa)
{
	uint64_t size = level_pages(sp_level(sp)) << PAGE_SHIFT;
	const uint64_t *e = ++s->nr_tables > MAX_TABLES ? NULL : core_at((uintptr_t)sp->spt, PAGE_SIZE);
	struct shadow_page *child = e ? malloc(sizeof(*child)) : NULL;

	for (unsigned i = 0; child && i < 512 && s->nr_leaves < MAX_LEAVES; i++, gpa += size) {
		if (!(e[i] & EPT_RWX))
			continue;
		if (sp_level(sp) == 1 || e[i] & EPT_PAGE_SIZE)
			leaf(s, "leaf02", gpa, sp_level(sp), e[i]);
		else if (get_child(sp, i, e, child))
			scan_ept02(s, child, gpa);
	}
	free(child);
}

static void ept2(struct l2 *l2, gpa_t gpa)
{
	struct scan s = { l2, 0, 0 };
	struct shadow_page root;
	bool cut;

	l2_line(l2);
	scan_ept12(&s, l2->context.eptp12 & EPTP_ROOT_MASK, root12_level(l2), 0, EPT_RWX);
	cut = s.nr_tables > MAX_TABLES || s.nr_leaves >= MAX_LEAVES;
	s.nr_tables = s.nr_leaves = 0;
	if (find_page(l2, NULL, &root))
		scan_ept02(&s, &root, 0);
	if (cut || s.nr_tables > MAX_TABLES || s.nr_leaves >= MAX_LEAVES)
		fputs("truncated\n", l2->f);
}

void core_ept2(FILE *f, const struct core_vm *v, uint32_t vcpu)
{
	struct l2 l2;

	if (look_at(f, v, vcpu, &l2))
		answer(f, ept2, &l2, 0);
}
