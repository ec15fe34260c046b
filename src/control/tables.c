/*
 * Requests about page tables: the EPT's, and a guest's own through it (guest.c).
 */
#include "control/internal.h"
#include "mmu/look.h"
#include "mmu/spte.h"

#define MAX_RUNS 200000
#define NO_ROOT ~0u

typedef unsigned long long ull;

static bool has_ept(struct reply *r)
{
	if (!kvm_mmu_params()->ept)
		reply_error(r, "the VM has no EPT: it runs on shadow page tables (ept=0)");
	return kvm_mmu_params()->ept;
}

static void root_line(struct reply *r, const struct kvm_mmu_root_view *v)
{
	reply_line(r, "root %d %d %d %llx", v->as_id, v->level, v->ad, (ull)v->hpa);
}

/* --- ept --- */

struct run {
	gpa_t start, end; /* end 0: none */
	int level;
	uint64_t entry; /* of the first */
};

struct runs {
	struct reply *r;
	struct run run;
	unsigned nr;
};

static void flush_run(struct runs *s)
{
	const struct run *n = &s->run;

	if (!n->end)
		return;
	s->nr++;
	if (spte_is_mmio(n->entry))
		reply_line(s->r, "mmio %llx %llx %llx", (ull)n->start, (ull)n->end,
			   (ull)mmio_spte_gen(n->entry));
	else
		reply_line(s->r, "leaf %llx %llx %d %llx", (ull)n->start, (ull)n->end, n->level,
			   (ull)n->entry);
	s->run.end = 0;
}

static bool continues(const struct run *n, gpa_t gpa, int level, uint64_t entry)
{
	if (n->end != gpa || n->level != level || spte_is_mmio(n->entry) != spte_is_mmio(entry))
		return false;
	if (spte_is_mmio(entry))
		return mmio_spte_gen(n->entry) == mmio_spte_gen(entry);
	return ((n->entry ^ entry) & ~EPT_ADDR_MASK) == 0 &&
	       (n->entry & EPT_ADDR_MASK) + (gpa - n->start) == (entry & EPT_ADDR_MASK);
}

static bool add_leaf(void *arg, gpa_t gpa, int level, uint64_t entry)
{
	struct runs *s = arg;
	gpa_t end = gpa + (level_pages(level) << PAGE_SHIFT);

	if (s->run.end && continues(&s->run, gpa, level, entry)) {
		s->run.end = end;
		return true;
	}
	flush_run(s);
	s->run = (struct run){ gpa, end, level, entry };
	return s->nr < MAX_RUNS && !s->r->full;
}

void control_ept(struct reply *r, struct kvm *kvm, const uint64_t *args)
{
	struct kvm_mmu_root_view v;
	struct runs s = { .r = r };

	if (!has_ept(r))
		return;
	for (unsigned i = 0; s.nr < MAX_RUNS && kvm_mmu_look_root(kvm, i, &v); i++) {
		root_line(r, &v);
		kvm_mmu_look_leaves(kvm, i, 0, ~0ULL, add_leaf, &s);
		flush_run(&s);
	}
	if (s.nr >= MAX_RUNS)
		reply_line(r, "truncated");
}

/* --- age --- */

void control_age(struct reply *r, struct kvm *kvm, const uint64_t *args)
{
	uint64_t young = 0;

	if (!has_ept(r))
		return;
	for (int as = 0; as < KVM_ADDRESS_SPACE_NUM; as++)
		young += kvm_mmu_age(kvm, as, 0, ~0ULL);
	reply_line(r, "young %llu", (ull)young);
}

/* --- walk --- */

/*
 * A VM has roots of several depths where a guest's CPUID widened its addresses
 * after it had run: the deepest reaches all that the others do.
 */
static unsigned find_root(struct kvm *kvm, uint64_t as_id, struct kvm_mmu_root_view *v)
{
	struct kvm_mmu_root_view each;
	unsigned found = NO_ROOT;

	for (unsigned i = 0; kvm_mmu_look_root(kvm, i, &each); i++) {
		if ((uint64_t)each.as_id != as_id || (found != NO_ROOT && each.level <= v->level))
			continue;
		found = i;
		*v = each;
	}
	return found;
}

void control_step_lines(struct reply *r, struct kvm *kvm, uint64_t as_id, gpa_t gpa)
{
	struct kvm_mmu_step step[KVM_MMU_MAX_STEPS];
	struct kvm_mmu_root_view v;
	unsigned root = find_root(kvm, as_id, &v);
	int n = root == NO_ROOT ? 0 : kvm_mmu_look_walk(kvm, root, gpa, step);

	if (root != NO_ROOT)
		root_line(r, &v);
	for (int i = 0; i < n; i++)
		reply_line(r, "step %d %u %llx %llx", step[i].level, step[i].index,
			   (ull)step[i].table, (ull)step[i].entry);
}

void control_walk(struct reply *r, struct kvm *kvm, const uint64_t *args)
{
	if (has_ept(r))
		control_step_lines(r, kvm, args[0], args[1]);
}

/* --- guest --- */

/* The VM's own guest-physical memory. */
struct l1_memory {
	struct guest_memory m; /* first */
	struct kvm *kvm;
	uint32_t as_id;
};

static void l1_steps(const struct guest_memory *m, struct reply *r, gpa_t gpa)
{
	const struct l1_memory *l1 = (const struct l1_memory *)m;

	control_step_lines(r, l1->kvm, l1->as_id, gpa);
}

static bool l1_read(const struct guest_memory *m, gpa_t gpa, void *to, size_t n)
{
	const struct l1_memory *l1 = (const struct l1_memory *)m;

	return control_read_guest(l1->kvm, l1->as_id, gpa, to, n);
}

void control_guest(struct reply *r, struct kvm *kvm, const uint64_t *args)
{
	struct kvm_vcpu *vcpu = args[0] < KVM_MAX_VCPU_IDS ?
					kvm_get_vcpu_by_id(kvm, (uint32_t)args[0]) : NULL;
	struct kvm_mmu_guest_view g;

	if (!has_ept(r))
		return;
	if (!vcpu) {
		reply_error(r, "the VM has no vCPU %llu", (ull)args[0]);
		return;
	}
	kvm_mmu_look_guest(vcpu, &g);
	control_guest_walk(r, &(struct l1_memory){ { l1_steps, l1_read }, kvm, g.as_id }.m, &g, args[1]);
}
