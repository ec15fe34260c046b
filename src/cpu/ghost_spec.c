/*
 * USERKVM_CHECK=guesttlb,spec: a processor may cache a translation that it has not used, at any
 * time, if it could have walked to it: the tables are loaded and each entry has its accessed flag
 * set (SDM "Details of TLB Use"). So an entry of the last level that is about to be stored to
 * counts as held by each processor whose CR3 leads to its table, by a path that some processor has
 * walked and that is in memory still.
 *
 * Invariant: guest memory is read without the lock, and before the store; the read may unwind as
 * the store would.
 *
 * Locks: ghost->lock, for each entry that may be cached.
 */
#include "cpu/ghost_internal.h"

static bool loaded(const struct ghost_cpu *v, const struct hold *table)
{
	return v->vpid && !v->off && (v->cr3 & PTE_ADDR_MASK & PAGE_MASK) == (table->e[0].gpa & PAGE_MASK) &&
	       ghost_walk_mode(&v->cpu->cs) == table->mode;
}

/* The path of the table, and the entry behind it. */
static void make_path(const struct hold *table, gpa_t entry, uint64_t val, struct ghost_walk *w)
{
	bool pae = (table->mode & X86_CR4_PAE) && !(table->mode >> 32);
	uint64_t rights = PTE_RW | PTE_US;

	for (unsigned k = 0; k < table->nr; k++) {
		w->gpa[k] = table->e[k].gpa;
		w->val[k] = table->e[k].val;
	}
	w->gpa[table->nr] = entry;
	w->val[table->nr] = val;
	w->nr = table->nr + 1;
	for (unsigned k = pae ? 1 : 0; k < w->nr; k++)
		rights = (rights & (w->val[k] | ~(PTE_RW | PTE_US))) | (w->val[k] & PTE_XD);
	w->rights = rights;
	w->leaf = val;
}

/* A path to the table that was seen, of tables that some processor has loaded. */
struct candidate {
	uint32_t n;
	uint64_t born;
	unsigned nr;
	gpa_t gpa[GHOST_LEVELS];
	uint64_t val[GHOST_LEVELS];
};
#define CANDIDATES 8

static unsigned find_candidates(struct ghost *g, const struct table *t, struct candidate *to)
{
	unsigned nr = 0;

	for (uint32_t n = t->first; n && nr < CANDIDATES; n = g->hold[n].tnext) {
		const struct hold *h = &g->hold[n];
		const struct ghost_cpu *v = g->cpus;
		bool known = false;

		while (v && !loaded(v, h))
			v = v->next;
		for (unsigned k = 0; k < nr; k++)
			known |= to[k].gpa[0] == h->e[0].gpa && g->hold[to[k].n].base == h->base;
		if (!v || known || h->record || h->nr == GHOST_LEVELS || !hold_live(h))
			continue;
		to[nr].n = n;
		to[nr].born = h->born;
		to[nr].nr = h->nr;
		for (unsigned k = 0; k < h->nr; k++) {
			to[nr].gpa[k] = h->e[k].gpa;
			to[nr].val[k] = h->e[k].val;
		}
		nr++;
	}
	return nr;
}

/* Is it a path still? Its entries were accessed when it was seen. A frame that was a table may be anything now. */
static bool still_a_path(struct ghost_cpu *c, const struct candidate *p, unsigned size)
{
	for (unsigned k = 0; k < p->nr; k++) {
		hpa_t host;

		if (!ghost_host_of(c, p->gpa[k], &host) ||
		    (isa_host_load((const void *)host, size) ^ p->val[k]) & ~(PTE_A | PTE_D))
			return false;
	}
	return true;
}

static void hold_everywhere(struct ghost_cpu *c, const struct table *t, const struct candidate *p, unsigned index, uint64_t val,
			    hpa_t host)
{
	struct ghost *g = c->g;
	const struct hold *h = &g->hold[p->n];
	unsigned bits = h->mode & X86_CR4_PAE ? 9 : 10, shift = h->shift - bits, size = bits == 9 ? 8 : 4;
	gva_t gva = h->base + ((uint64_t)index << shift);
	gpa_t page = (bits == 9 ? val & PTE_ADDR_MASK : val & 0xfffff000) & (~0ULL << shift);
	struct ghost_walk w;

	if (shift > 30 || (shift > 12 && !(val & PTE_PS)) || (shift == 22 && bits == 10))
		return; /* a reference to a table, or a page of 4 MiB */
	make_path(h, t->gpa + index * size, val, &w);
	for (struct ghost_cpu *v = g->cpus; v; v = v->next) {
		if (loaded(v, h))
			hold_spec(v, h, gva, &w, page, shift == PAGE_SHIFT ? host : 0);
		if (h->kind != HOLD_TABLE || h->born != p->born)
			return; /* its room was needed */
	}
}

/* The accessed entry at `at` is about to be stored to. */
static void speculate(struct ghost_cpu *c, hpa_t at, unsigned size, uint64_t val)
{
	hpa_t page = at & PAGE_MASK, frame = 0;
	struct candidate p[CANDIDATES];
	struct ghost *g = c->g;
	const struct table *t;
	unsigned nr;

	ghost_lock(g);
	t = table_find(g, page);
	nr = t ? find_candidates(g, t, p) : 0;
	ghost_unlock(g);
	if (!nr)
		return;
	if (!ghost_host_of(c, size == 8 ? val & PTE_ADDR_MASK : val & 0xfffff000, &frame))
		return; /* not an entry, or of a device's page */
	for (unsigned k = 0; k < nr; k++) {
		if (!still_a_path(c, &p[k], size))
			continue;
		ghost_lock(g);
		t = table_find(g, page);
		if (t && g->hold[p[k].n].kind == HOLD_TABLE && g->hold[p[k].n].born == p[k].born && g->hold[p[k].n].host == page)
			hold_everywhere(c, t, &p[k], (unsigned)(at - page) / size, val, frame & PAGE_MASK);
		ghost_unlock(g);
	}
}

void ghost_speculate(struct ghost_cpu *c, hpa_t host, unsigned size)
{
	unsigned each = c->cpu->cs.cr4 & X86_CR4_PAE ? 8 : 4;
	struct ghost *g = c->g;
	const struct table *t;
	bool any;

	if (!c->in_guest)
		return;
	ghost_lock(g);
	t = table_find(g, host & PAGE_MASK);
	any = t && t->first;
	ghost_unlock(g);
	for (hpa_t at = host & ~(hpa_t)(each - 1); any && at < host + size; at += each) {
		uint64_t val = isa_host_load((const void *)at, each);

		if ((val & (PTE_P | PTE_A)) == (PTE_P | PTE_A))
			speculate(c, at, each, val);
	}
}
