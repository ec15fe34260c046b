/*
 * userkvm ept walk --l2, explain --l2: an address of L2's through EPT12, EPT01 and EPT02.
 */
#include <stdlib.h>
#include <string.h>

#include "mmu/spte.h"
#include "sdm/paging.h"
#include "tools/see/l2.h"
#include "tools/see/parts.h"

/* --- side by side --- */

static void row(const char *name, const char *entry, int level, uint64_t e, bool ad, const char *to, uint64_t address)
{
	char rights[6];

	printf("  %s  %-5s %-3s %s %c %c  %s 0x%llx\n", name, entry, see_page_size(level), l2_rights(e, rights),
	       !ad ? '.' : e & EPT_ACCESSED ? 'A' : '-', !ad ? '.' : e & EPT_DIRTY ? 'D' : '-', to, (ull)address);
}

static void side_by_side(const struct l2_walk *w)
{
	const struct see_step *one = w->ept01.nr ? &w->ept01.step[w->ept01.nr - 1] : NULL;
	const struct l2_step12 *e12 = l2_leaf12(w);
	const struct l2_step02 *e02 = l2_leaf02(w);
	bool ad = w->head.eptp12 & EPTP_AD_ENABLE;

	puts("side by side, the rights of all levels together");
	if (e12)
		row("EPT12", see_level(e12->level), e12->level, (e12->entry & ~EPT_RWX) | l2_rights12(w), ad, "L1 guest-physical", w->gpa1);
	else
		puts("  EPT12  maps nothing");
	if (w->mapped && one && spte_is_leaf(one->entry, one->level))
		row("EPT01", see_level(one->level), one->level, one->entry, w->ept01.root.ad, "host-virtual",
		    (one->entry & EPT_ADDR_MASK) | (w->gpa1 & ((4096ULL << 9 * (one->level - 1)) - 1)));
	else if (w->mapped)
		puts("  EPT01  maps nothing: L1 itself has not touched the page yet");
	if (e02)
		row("EPT02", see_level(e02->level), e02->level, e02->entry, ad, "host-virtual",
		    (e02->entry & EPT_ADDR_MASK) | (w->gpa & ((4096ULL << 9 * (e02->level - 1)) - 1)));
	else
		puts("  EPT02  maps nothing");
}

static void print_verdict(const struct l2_walk *w)
{
	char why[320];
	enum l2_verdict v = l2_verdict(w, why, sizeof(why));

	printf("=> EPT02, against EPT12: %s (%s)\n", l2_verdict_name(v), why);
}

static void print_end(const struct l2_walk *w)
{
	if (!w->mapped) {
		printf("=> L2 guest-physical 0x%llx is not mapped by L1\n", (ull)w->gpa);
		return;
	}
	printf("=> L2 guest-physical 0x%llx is L1 guest-physical 0x%llx", (ull)w->gpa, (ull)w->gpa1);
	if (!w->slot) {
		puts(", in no memslot");
		return;
	}
	printf(" is host-virtual 0x%llx of the client\n", (ull)w->hva);
	printf("   %s\n", *w->mapping ? w->mapping : "nothing is mapped there");
}

static void print_ept12(const struct l2_walk *w)
{
	printf("EPT12, L1's: EPTP 0x%llx, table at L1 0x%llx, %llu levels, A/D %s\n", (ull)w->head.eptp12,
	       (ull)(w->head.eptp12 & EPTP_ROOT_MASK), (ull)FIELD_GET(EPTP_WALK_MASK, w->head.eptp12) + 1,
	       w->head.eptp12 & EPTP_AD_ENABLE ? "on" : "off");
	for (int n = 0; n < w->nr12; n++)
		l2_print12(w, &w->step12[n]);
	if (!w->nr12)
		puts("  beyond the reach of its tables: an EPT violation for L1");
}

static void print_all(const struct l2_walk *w)
{
	print_ept12(w);
	if (w->mapped) {
		printf("EPT01, for L1 guest-physical 0x%llx\n", (ull)w->gpa1);
		see_print_steps(&w->ept01, "  ");
	}
	if (w->head.root02)
		printf("EPT02, what the processor walks: root 0x%llx\n", (ull)w->head.root02);
	else
		puts("EPT02: there is no root, the next entry of L2 makes one");
	for (int n = 0; n < w->nr02; n++)
		l2_print02(w, &w->step02[n]);
	side_by_side(w);
	print_verdict(w);
	print_end(w);
}

/* --- with L2's own tables in front --- */

static void print_guest_tables(const struct see_guest_walk *g)
{
	static const char *const mode[] = { "off", "?", "32-bit, 2 levels", "PAE, 3 levels", "4 levels", "5 levels" };

	printf("L2's paging %s: CR0 0x%llx CR3 0x%llx CR4 0x%llx EFER 0x%llx\n", mode[g->mode >= 0 && g->mode <= 5 ? g->mode : 1],
	       (ull)g->cr0, (ull)g->cr3, (ull)g->cr4, (ull)g->efer);
	for (int n = 0; n < g->nr; n++) {
		const struct see_guest_step *s = &g->step[n];
		char text[80];

		see_guest_attributes(s->entry, s->level ? s->level : 3, g->mode, text, sizeof(text));
		if (!s->level) {
			printf("  PDPTE register %llu = 0x%016llx  %s\n", (ull)s->at, (ull)s->entry, s->entry & PTE_P ? "P" : "not present");
			continue;
		}
		printf("  %-5s at L2 0x%llx", see_level(s->level), (ull)s->at);
		if (s->ept.has_by)
			printf(" (L1 0x%llx)", (ull)s->ept.by);
		printf(" = 0x%0*llx  %s\n", g->mode == 2 ? 8 : 16, (ull)s->entry, text);
	}
}

/* False: it ends before EPT12 is asked for a page, or failed; *status says which. j NULL: as text. */
static bool through_guest(struct see_options *o, struct json *j, gva_t gva, gpa_t *gpa, int *status)
{
	struct see_guest_walk g;
	char why[256];
	bool refused;

	*status = 1;
	if (!see_ask_guest_walk(o, gva, &g))
		return false;
	*status = 0;
	refused = !see_guest_address(&g, gva, "An access of L2 to", why, sizeof(why));
	if (j) {
		json_u64(j, "gva", gva);
		json_guest(j, &g);
		*gpa = g.gpa;
		if (refused)
			json_string(j, "why", why);
		if (refused || g.end == SEE_NOT_PRESENT)
			json_string(j, "result", refused ? "refused" : "guest page fault");
		else
			json_bool(j, "unreadable_table", g.end == SEE_UNREADABLE);
		return !refused && g.end != SEE_NOT_PRESENT;
	}
	if (refused) {
		puts(why);
		return false;
	}
	printf("L2 guest-virtual 0x%llx on vCPU %u of VM %llu, process %d\n", (ull)gva, o->vcpu, (ull)o->vm, (int)o->pid);
	print_guest_tables(&g);
	*gpa = g.gpa;
	switch (g.end) {
	case SEE_NOT_PRESENT: puts("=> L2's own tables end here: L2 gets #PF, no EPT is asked"); return false;
	case SEE_UNREADABLE:
		printf("=> L2's next table would be at L2 guest-physical 0x%llx, which cannot be read through EPT12:\n", (ull)g.gpa);
		break;
	case SEE_RESULT: break;
	}
	return true;
}

static int walk_json(struct see_options *o, gpa_t address)
{
	struct l2_walk w;
	char *text = NULL;
	size_t size;
	struct json j = { .f = open_memstream(&text, &size) }; /* a refusal leaves no half of an object */
	int status = 0;

	if (!j.f)
		return !see_fail("no memory");
	json_object(&j, NULL, true);
	l2_json_place(&j, o);
	if (!o->gva || through_guest(o, &j, address, &address, &status)) {
		status = !l2_take(o, address, &w);
		if (!status) {
			l2_json_walk(&j, &w);
			l2_free(&w);
		}
	}
	if (!status)
		json_end(&j);
	fclose(j.f);
	if (!status)
		fputs(text, stdout);
	free(text);
	return status;
}

int see_l2_walk(struct see_options *o, gpa_t address)
{
	struct l2_walk w;
	int status;

	if (o->json)
		return walk_json(o, address);
	if (o->gva && !through_guest(o, NULL, address, &address, &status))
		return status;
	if (!l2_take(o, address, &w))
		return 1;
	printf("L2 guest-physical 0x%llx on vCPU %u of VM %llu, process %d; %s\n", (ull)address, o->vcpu, (ull)o->vm,
	       (int)o->pid, l2_head_words(&w.head));
	print_all(&w);
	l2_free(&w);
	return 0;
}

/* --- explain --- */

struct access {
	char kind;
	uint64_t bit;
	const char *name;
};
static const struct access accesses[] = {
	{ 'r', EPT_READ, "0 (R)" }, { 'w', EPT_WRITE, "1 (W)" }, { 'x', EPT_EXEC, "2 (X)" },
};

/* The entry of EPT12 that takes the right away. */
static const struct l2_step12 *refuses(const struct l2_walk *w, uint64_t bit)
{
	for (int n = 0; n < w->nr12; n++)
		if (!(w->step12[n].entry & bit))
			return &w->step12[n];
	return NULL;
}

/* What L1 hears of; the outcome in a word. */
static const char *say_l1(FILE *f, const struct l2_walk *w, const struct access *a, const char *what)
{
	const struct l2_step12 *last = w->nr12 ? &w->step12[w->nr12 - 1] : NULL, *no = refuses(w, a->bit);
	unsigned q = (unsigned)(a->bit | (w->mapped ? l2_rights12(w) << 3 : 0));

	if (last && last->kind == EPT_ENTRY_BAD && !last->nowhere) {
		fprintf(f, "%s makes L1 an EPT misconfiguration (exit reason 49): EPT12's %s has %s.\n", what, see_level(last->level),
			l2_misconfigured(w, last));
		return "L1's misconfiguration";
	}
	fprintf(f, "%s makes L1 an EPT violation (exit reason 48, exit qualification bits 5:0 %#x): ", what, q);
	if (!last)
		fputs("it is beyond EPT12's reach.\n", f);
	else if (last->nowhere)
		fprintf(f, "EPT12's %s would be at L1 guest-physical 0x%llx, where there is no memory.\n", see_level(last->level),
			(ull)last->at);
	else if (last->kind == EPT_ENTRY_ABSENT)
		fprintf(f, "EPT12's %s is not present.\n", see_level(last->level));
	else
		fprintf(f, "EPT12's %s lacks bit %s.\n", see_level(no->level), a->name);
	return "L1's violation";
}

/* EPT12 allows it; the outcome in a word. */
static const char *say_l0(FILE *f, const struct l2_walk *w, const struct access *a, const char *what)
{
	const struct l2_step02 *e02 = l2_leaf02(w);
	char why[320];
	enum l2_verdict v = l2_verdict(w, why, sizeof(why));

	if (v == L2_DEVICE) {
		fprintf(f, "%s is emulated: EPT12 leads to L1 guest-physical 0x%llx, which no memslot holds; an in-process device answers, "
			   "or KVM_RUN returns KVM_EXIT_MMIO with L1's address.\n", what, (ull)w->gpa1);
		return "mmio";
	}
	if (!*w->mapping) {
		fprintf(f, "%s makes KVM_RUN fail with EFAULT: the client has nothing mapped at host-virtual 0x%llx.\n", what,
			(ull)w->hva);
		return "EFAULT";
	}
	if (e02 && e02->entry & a->bit) {
		fprintf(f, "%s succeeds without a VM exit: EPT02's %s maps a %s page and its bit %s is set.\n", what,
			see_level(e02->level), see_page_size(e02->level), a->name);
		return "no exit";
	}
	if (!e02) {
		fprintf(f, "%s causes an EPT violation that userkvm settles alone, L1 does not hear of it: EPT12 allows it, EPT02 has no "
			   "entry yet; ept_page_fault walks EPT12, faults the client's page in, installs the entry and L2 tries again.\n",
			what);
		return "faulted in";
	}
	if (a->kind == 'w' && w->tracked) {
		fprintf(f, "%s causes an EPT violation that userkvm settles alone: the write is emulated, since L1's page is a table of "
			   "EPT12's.\n", what);
		return "emulated";
	}
	fprintf(f, "%s causes an EPT violation that userkvm settles alone, L1 does not hear of it: EPT12 allows it, EPT02 lacks bit %s "
		   "(%s).\n", what, a->name, why);
	return "right given back";
}

static void slot_fact(const struct l2_walk *w)
{
	char size[24];

	if (!w->slot) {
		if (w->mapped)
			puts("  memslot: none holds L1's address");
		return;
	}
	printf("  memslot %u: L1 guest-physical 0x%llx-0x%llx (%s), %s, host-virtual from 0x%llx\n", w->slot->id,
	       (ull)w->slot->start, (ull)(w->slot->start + w->slot->size), see_size(w->slot->size, size, sizeof(size)),
	       see_slot_flags(w->slot->flags), (ull)w->slot->hva);
	printf("  client's mapping of host-virtual 0x%llx: %s\n", (ull)w->hva, *w->mapping ? w->mapping : "none");
}

static void explain_text(const struct l2_walk *w, const char *sentence)
{
	fputs(sentence, stdout);
	print_ept12(w);
	if (w->nr02)
		puts("EPT02, the processor's");
	for (int n = 0; n < w->nr02; n++)
		l2_print02(w, &w->step02[n]);
	slot_fact(w);
	print_verdict(w);
}

static void explain_json(const struct see_options *o, const struct l2_walk *w, const struct access *a, char *sentence, const char *outcome)
{
	char access[] = { a->kind, '\0' };
	struct json j = { .f = stdout };

	sentence[strcspn(sentence, "\n")] = '\0';
	json_object(&j, NULL, true);
	l2_json_place(&j, o);
	json_string(&j, "access", access);
	if (o->gva) {
		uint64_t gva = 0;

		(void)see_number(o->arg[0], &gva); /* it has been read before */
		json_u64(&j, "gva", gva);
	}
	json_string(&j, "explanation", sentence);
	json_string(&j, "outcome", outcome);
	l2_json_walk(&j, w);
	json_end(&j);
}

int see_l2_explain(struct see_options *o, gpa_t gpa, char kind, const char *what)
{
	const struct access *a = &accesses[kind == 'r' ? 0 : kind == 'w' ? 1 : 2];
	char *sentence = NULL;
	const char *outcome;
	struct l2_walk w;
	size_t size;
	FILE *f;

	if (!l2_take(o, gpa, &w))
		return 1;
	f = open_memstream(&sentence, &size);
	if (!f) {
		l2_free(&w);
		return !see_fail("no memory");
	}
	outcome = !w.mapped || refuses(&w, a->bit) ? say_l1(f, &w, a, what) : say_l0(f, &w, a, what);
	fclose(f);
	if (o->json)
		explain_json(o, &w, a, sentence, outcome);
	else
		explain_text(&w, sentence);
	free(sentence);
	l2_free(&w);
	return 0;
}
