/*
 * Requests about an L2's memory: EPT12, the tables that L1 has made; EPT02, what the processor
 * walks; and L2's own page tables.
 *
 * EPT12 lies in L1's memory and is read as guest tables are (guest.c), EPT02 through mmu/look.h.
 * Neither is one moment's picture.
 */
#include <stdlib.h>

#include "control/internal.h"
#include "lib/own.h"
#include "mmu/look.h"
#include "mmu/spte.h"
#include "sdm/ept.h"
#include "sdm/regs.h"
#include "vmx/look.h"

#define MAX_RUNS 100000
#define MAX_TABLES 40000 /* of EPT12's, which may lead in circles */

typedef unsigned long long ull;

struct l2 {
	struct kvm *kvm;
	struct kvm_mmu_l2_view view;
	struct vmx_look_state state;
	struct vmx_vmcs_copy vmcs02; /* L2's registers, of its last exit */
};

static void take(struct kvm_vcpu *vcpu, void *arg)
{
	struct l2 *l2 = arg;

	kvm_mmu_look_l2(vcpu, &l2->view);
	vmx_look_state(vcpu, &l2->state);
	vmx_look_vmcs(vcpu, VMX_LOOK_02, &l2->vmcs02);
}

/* What there is none of, in words; NULL: there is an L2 on EPT02. */
static const char *missing(const struct l2 *l2)
{
	if (!l2->state.vmxon)
		return "is not in VMX operation: there is no L2";
	if (l2->state.guest_mode && !l2->view.current)
		return "runs an L2 without EPT: its guest-physical addresses are L1's, without --l2";
	if (!l2->vmcs02.there || !l2->view.any)
		return "has run no L2 with EPT yet";
	return NULL;
}

/* NULL: told. To be freed. */
static struct l2 *look_at(struct reply *r, struct kvm *kvm, uint64_t id)
{
	struct kvm_vcpu *vcpu = id < KVM_MAX_VCPU_IDS ? kvm_get_vcpu_by_id(kvm, (uint32_t)id) : NULL;
	struct l2 *l2 = vcpu ? own_calloc(1, sizeof(*l2)) : NULL;
	const char *why = NULL;

	if (!vcpu) {
		reply_error(r, "the VM has no vCPU %llu", (ull)id);
	} else if (!l2) {
		reply_error(r, "no memory");
	} else if (kvm_vcpu_call(vcpu, take, l2)) {
		reply_error(r, "vCPU %llu does not come to rest", (ull)id);
	} else {
		why = missing(l2);
		if (!why) {
			l2->kvm = kvm;
			return l2;
		}
		reply_error(r, "vCPU %llu %s", (ull)id, why);
	}
	own_free(l2);
	return NULL;
}

static int root_level(const struct l2 *l2)
{
	return (int)FIELD_GET(EPTP_WALK_MASK, l2->view.eptp12) + 1;
}

static void l2_line(struct reply *r, const struct l2 *l2)
{
	struct kvm_mmu_ept02_table t;
	bool has = kvm_mmu_look_ept02(l2->kvm, &l2->view, 0, root_level(l2), &t);

	reply_line(r, "l2 %d %llx %llx %d %d %u", l2->view.current, (ull)l2->view.eptp12, (ull)(has ? t.hpa : 0),
		   l2->view.execonly, l2->view.maxphyaddr, l2->view.as_id);
}

/* --- one address --- */

/* False: the walk of EPT12 ends without a page. r NULL: nothing is told. */
static bool walk_ept12(struct reply *r, const struct l2 *l2, gpa_t gpa, gpa_t *out)
{
	gpa_t table = l2->view.eptp12 & EPTP_ROOT_MASK;

	if (gpa >> (PAGE_SHIFT + 9 * root_level(l2)))
		return false;
	for (int level = root_level(l2);; level--) {
		uint64_t size = level_pages(level) << PAGE_SHIFT, e;
		gpa_t at = table + (gpa / size & 511) * 8;
		enum ept_entry_kind kind;

		if (!control_read_guest(l2->kvm, l2->view.as_id, at, &e, sizeof(e))) {
			if (r)
				reply_line(r, "nowhere %d %llx", level, (ull)at);
			return false;
		}
		kind = ept_entry_kind(e, level, l2->view.maxphyaddr, l2->view.execonly);
		if (r)
			reply_line(r, "e12 %d %llx %llx %d", level, (ull)at, (ull)e, kind);
		table = e & EPT_ADDR_MASK;
		if (kind == EPT_ENTRY_LEAF)
			*out = (table & ~(size - 1)) | (gpa & (size - 1));
		if (kind != EPT_ENTRY_TABLE)
			return kind == EPT_ENTRY_LEAF;
	}
}

static void ept02_lines(struct reply *r, const struct l2 *l2, gpa_t gpa)
{
	struct kvm_mmu_ept02_table t;

	for (int level = root_level(l2); level; level--) {
		unsigned i = (unsigned)(gpa >> (PAGE_SHIFT + 9 * (level - 1))) & 511;

		if (!kvm_mmu_look_ept02(l2->kvm, &l2->view, gpa, level, &t))
			return;
		reply_line(r, "e02 %d %u %llx %llx %d %d", level, i, (ull)t.hpa, (ull)t.entry[i], t.unsync, t.direct);
	}
}

static void address_lines(struct reply *r, const struct l2 *l2, gpa_t gpa)
{
	gpa_t gpa1 = 0;

	if (walk_ept12(r, l2, gpa, &gpa1)) {
		reply_line(r, "gpa1 %llx %d", (ull)gpa1, kvm_mmu_look_tracked(l2->kvm, gpa1));
		control_step_lines(r, l2->kvm, l2->view.as_id, gpa1);
	}
	ept02_lines(r, l2, gpa);
}

void control_walk2(struct reply *r, struct kvm *kvm, const uint64_t *args)
{
	struct l2 *l2 = look_at(r, kvm, args[0]);

	if (!l2)
		return;
	l2_line(r, l2);
	address_lines(r, l2, args[1]);
	own_free(l2);
}

/* --- L2's own tables --- */

struct l2_memory {
	struct guest_memory m; /* first */
	const struct l2 *l2;
};

static void l2_steps(const struct guest_memory *m, struct reply *r, gpa_t gpa)
{
	const struct l2 *l2 = ((const struct l2_memory *)m)->l2;
	gpa_t gpa1;

	if (walk_ept12(NULL, l2, gpa, &gpa1))
		reply_line(r, "by %llx", (ull)gpa1);
}

static bool l2_read(const struct guest_memory *m, gpa_t gpa, void *to, size_t n)
{
	const struct l2 *l2 = ((const struct l2_memory *)m)->l2;
	gpa_t gpa1;

	return walk_ept12(NULL, l2, gpa, &gpa1) && control_read_guest(l2->kvm, l2->view.as_id, gpa1, to, n);
}

static uint64_t field(const struct l2 *l2, uint32_t encoding)
{
	for (unsigned n = 0; n < NR_VMCS_FIELDS; n++)
		if (l2->vmcs02.field[n].encoding == encoding)
			return l2->vmcs02.field[n].value;
	return 0;
}

/* As of its last exit: L2's paging. */
static struct kvm_mmu_guest_view paging_of(const struct l2 *l2)
{
	struct kvm_mmu_guest_view g = {
		.cr0 = field(l2, GUEST_CR0), .cr3 = field(l2, GUEST_CR3), .cr4 = field(l2, GUEST_CR4),
		.efer = field(l2, GUEST_IA32_EFER), .maxphyaddr = l2->view.maxphyaddr, .as_id = l2->view.as_id,
	};

	if (g.cr0 & X86_CR0_PG)
		g.level = g.efer & EFER_LMA ? 4 : g.cr4 & X86_CR4_PAE ? 3 : 2;
	for (unsigned n = 0; n < 4; n++)
		g.pdptr[n] = field(l2, GUEST_PDPTR0 + 2 * n);
	return g;
}

void control_guest2(struct reply *r, struct kvm *kvm, const uint64_t *args)
{
	struct l2 *l2 = look_at(r, kvm, args[0]);
	struct kvm_mmu_guest_view g;

	if (!l2)
		return;
	g = paging_of(l2);
	control_guest_walk(r, &(struct l2_memory){ { l2_steps, l2_read }, l2 }.m, &g, args[1]);
	own_free(l2);
}

/* --- all of it --- */

/* Like leaves that continue each other. */
struct runs {
	struct reply *r;
	const char *word; /* the line's */
	gpa_t start, end; /* end 0: none */
	int level;
	uint64_t entry; /* of the first */
	unsigned nr;
};

static void flush_run(struct runs *s)
{
	if (!s->end)
		return;
	s->nr++;
	reply_line(s->r, "%s %llx %llx %d %llx", s->word, (ull)s->start, (ull)s->end, s->level, (ull)s->entry);
	s->end = 0;
}

static void add_leaf(struct runs *s, gpa_t gpa, int level, uint64_t entry)
{
	gpa_t end = gpa + (level_pages(level) << PAGE_SHIFT);

	if (s->end == gpa && s->end && s->level == level && ((s->entry ^ entry) & ~EPT_ADDR_MASK) == 0 &&
	    (s->entry & EPT_ADDR_MASK) + (gpa - s->start) == (entry & EPT_ADDR_MASK)) {
		s->end = end;
		return;
	}
	flush_run(s);
	s->start = gpa, s->end = end, s->level = level, s->entry = entry;
}

struct scan12 {
	const struct l2 *l2;
	struct runs runs;
	unsigned nr_tables;
};

/* rights: what the entries above leave. */
static void scan_ept12(struct scan12 *s, gpa_t table, int level, gpa_t gpa, uint64_t rights)
{
	uint64_t size = level_pages(level) << PAGE_SHIFT, *entry = own_malloc(PAGE_SIZE);

	if (!entry || ++s->nr_tables > MAX_TABLES || s->runs.nr > MAX_RUNS ||
	    !control_read_guest(s->l2->kvm, s->l2->view.as_id, table, entry, PAGE_SIZE)) {
		own_free(entry);
		return;
	}
	for (unsigned i = 0; i < 512; i++, gpa += size) {
		uint64_t e = entry[i], left = e & rights & EPT_RWX;

		switch (ept_entry_kind(e, level, s->l2->view.maxphyaddr, s->l2->view.execonly)) {
		case EPT_ENTRY_LEAF: add_leaf(&s->runs, gpa, level, (e & ~EPT_RWX) | left); break;
		case EPT_ENTRY_TABLE: scan_ept12(s, e & EPT_ADDR_MASK, level - 1, gpa, left); break;
		case EPT_ENTRY_BAD: add_leaf(&s->runs, gpa, level, e & ~EPT_RWX); break; /* no right: misconfigured */
		case EPT_ENTRY_ABSENT: break;
		}
	}
	own_free(entry);
}

static void scan_ept02(const struct l2 *l2, struct runs *runs, int level, gpa_t gpa)
{
	uint64_t size = level_pages(level) << PAGE_SHIFT;
	struct kvm_mmu_ept02_table *t = own_malloc(sizeof(*t));

	if (!t || runs->nr > MAX_RUNS || !kvm_mmu_look_ept02(l2->kvm, &l2->view, gpa, level, t)) {
		own_free(t);
		return;
	}
	for (unsigned i = 0; i < 512; i++, gpa += size) {
		if (!(t->entry[i] & EPT_RWX))
			continue;
		if (level == 1 || t->entry[i] & EPT_PAGE_SIZE)
			add_leaf(runs, gpa, level, t->entry[i]);
		else
			scan_ept02(l2, runs, level - 1, gpa);
	}
	own_free(t);
}

void control_ept2(struct reply *r, struct kvm *kvm, const uint64_t *args)
{
	struct l2 *l2 = look_at(r, kvm, args[0]);
	struct scan12 s = { l2, { .r = r, .word = "leaf12" }, 0 };
	struct runs runs = { .r = r, .word = "leaf02" };

	if (!l2)
		return;
	l2_line(r, l2);
	scan_ept12(&s, l2->view.eptp12 & EPTP_ROOT_MASK, root_level(l2), 0, EPT_RWX);
	flush_run(&s.runs);
	scan_ept02(l2, &runs, root_level(l2), 0);
	flush_run(&runs);
	if (s.nr_tables > MAX_TABLES || s.runs.nr > MAX_RUNS || runs.nr > MAX_RUNS)
		reply_line(r, "truncated");
	own_free(l2);
}
