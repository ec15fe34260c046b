/*
 * Requests about page tables: the EPT's, and a guest's own through it.
 *
 * Guest tables are read by process_vm_readv() on ourselves: no signal when the
 * page is gone, and outside of RCU sections, since it may wait for a
 * userfaultfd. An address that has become another mapping's by then gives a
 * wrong entry in a picture, nothing else.
 */
#include <sys/uio.h>
#include <unistd.h>

#include "control/internal.h"
#include "lib/rcu.h"
#include "mmu/look.h"
#include "mmu/spte.h"
#include "sdm/paging.h"
#include "sdm/regs.h"

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

static void step_lines(struct reply *r, struct kvm *kvm, uint64_t as_id, gpa_t gpa)
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
		step_lines(r, kvm, args[0], args[1]);
}

/* --- guest --- */

/* False: no memory there, or not any more. */
static bool read_guest(struct kvm *kvm, uint32_t as_id, gpa_t gpa, void *to, size_t n)
{
	struct kvm_memory_slot *slot;
	hva_t hva = 0;
	struct iovec here = { to, n }, there = { NULL, n };

	lib_rcu_read_lock();
	slot = gfn_to_memslot_as(kvm, (int)as_id, gpa >> PAGE_SHIFT);
	if (slot)
		hva = gfn_to_hva_memslot(slot, gpa >> PAGE_SHIFT) + gpa % PAGE_SIZE;
	lib_rcu_read_unlock();
	there.iov_base = (void *)(uintptr_t)hva;
	return hva && process_vm_readv(getpid(), &here, 1, &there, 1, 0) == (ssize_t)n;
}

/* Where the walk of the guest's tables begins; false: it ends there already. */
static bool top_of(struct reply *r, const struct kvm_mmu_guest_view *g, gva_t gva, gpa_t *table,
		   int *level)
{
	unsigned i = (unsigned)(gva >> 30) & 3;

	*level = g->level == 3 ? 2 : g->level;
	*table = g->level == 2 ? g->cr3 & 0xfffff000ULL : g->cr3 & PTE_ADDR_MASK;
	if (g->level != 3)
		return true;
	reply_line(r, "pdpte %u %llx", i, (ull)g->pdptr[i]);
	*table = g->pdptr[i] & PTE_ADDR_MASK;
	if (!(g->pdptr[i] & PTE_P))
		reply_line(r, "none");
	return g->pdptr[i] & PTE_P;
}

static void guest_tables(struct reply *r, struct kvm *kvm, const struct kvm_mmu_guest_view *g,
			 gva_t gva)
{
	unsigned bits = g->level == 2 ? 10 : 9, size = g->level == 2 ? 4 : 8;
	bool pse = g->level > 2 || g->cr4 & X86_CR4_PSE;
	gpa_t table;
	int level;

	if (!top_of(r, g, gva, &table, &level))
		return;
	for (;; level--) {
		unsigned shift = PAGE_SHIFT + bits * (unsigned)(level - 1);
		gpa_t at = table + ((gva >> shift) & (BIT_ULL(bits) - 1)) * size;
		uint64_t e = 0, low = BIT_ULL(shift) - 1;

		reply_line(r, "at %llx", (ull)at);
		step_lines(r, kvm, g->as_id, at);
		if (!read_guest(kvm, g->as_id, at, &e, size)) {
			reply_line(r, "unreadable %llx", (ull)at);
			return;
		}
		reply_line(r, "gpte %d %llx %llx", level, (ull)at, (ull)e);
		if (!(e & PTE_P)) {
			reply_line(r, "none");
			return;
		}
		table = g->level == 2 ? e & 0xfffff000ULL : e & PTE_ADDR_MASK;
		if (level == 1 || (level < 4 && pse && e & PTE_PS)) {
			if (g->level == 2 && level == 2) /* PSE-36 */
				table |= FIELD_GET(GENMASK_ULL(20, 13), e) << 32;
			low = BIT_ULL(shift) - 1;
			table = (table & ~low) | (gva & low);
			reply_line(r, "result %llx", (ull)table);
			step_lines(r, kvm, g->as_id, table);
			return;
		}
	}
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
	reply_line(r, "mode %d %llx %llx %llx %llx %x %u", g.level, (ull)g.cr0, (ull)g.cr3,
		   (ull)g.cr4, (ull)g.efer, (unsigned)g.maxphyaddr, g.as_id);
	if (g.level) {
		guest_tables(r, kvm, &g, args[1]);
	} else {
		reply_line(r, "result %llx", (ull)args[1]);
		step_lines(r, kvm, g.as_id, args[1]);
	}
}
