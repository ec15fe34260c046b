/*
 * What processors may hold: leaves and references to tables, found by page and by each entry on
 * their paths; and which frames serve as tables. ghost.h has the invariants.
 *
 *	by_page[hash(base, size)]  ─► hold ─► hold …            next, prev
 *	by_entry[hash(entry's gpa)] ─► hold * 8 + level ─► …     e[].next, e[].prev
 *
 * An invalidation of many holds moves a time (struct ghost_times): a hold that was
 * born before is dead, and goes when somebody comes across it.
 *
 * Locks: ghost->lock, held by all callers.
 */
#include "cpu/ghost_internal.h"

#define EVICT_LOOKS 256

static bool live_by(const struct ghost_times *t, const struct hold *h)
{
	if (h->kind == HOLD_TABLE)
		return h->born > t->table_all && h->born > t->table_pcid[h->pcid];
	return h->kind == HOLD_LEAF && h->born > t->leaf_all &&
	       (h->global || (h->born > t->leaf_nonglobal && h->born > t->leaf_pcid[h->pcid]));
}

bool hold_live(const struct hold *h)
{
	return live_by(&h->c->t, h);
}

bool hold_hidden(const struct hold *h)
{
	return h->hidden || !live_by(&h->c->hidden, h);
}

static uint32_t *page_bucket(struct ghost *g, gva_t base, unsigned shift)
{
	return &g->by_page[ghost_hash((base >> shift) * 64 + shift)];
}

static uint32_t *entry_bucket(struct ghost *g, gpa_t entry)
{
	return &g->by_entry[ghost_hash(entry)];
}

/* --- chains --- */

static void link_page(struct ghost *g, uint32_t n)
{
	struct hold *h = &g->hold[n];
	uint32_t *b = page_bucket(g, h->base, h->shift);

	h->prev = 0;
	h->next = *b;
	if (*b)
		g->hold[*b].prev = n;
	*b = n;
}

static void unlink_page(struct ghost *g, uint32_t n)
{
	struct hold *h = &g->hold[n];

	if (h->prev)
		g->hold[h->prev].next = h->next;
	else
		*page_bucket(g, h->base, h->shift) = h->next;
	if (h->next)
		g->hold[h->next].prev = h->prev;
}

static void link_entry(struct ghost *g, uint32_t n, unsigned k)
{
	uint32_t node = n * 8 + k, *b = entry_bucket(g, g->hold[n].e[k].gpa);

	g->hold[n].e[k].prev = 0;
	g->hold[n].e[k].next = *b;
	if (*b)
		g->hold[*b / 8].e[*b % 8].prev = node;
	*b = node;
}

static void unlink_entry(struct ghost *g, uint32_t n, unsigned k)
{
	uint32_t next = g->hold[n].e[k].next, prev = g->hold[n].e[k].prev;

	if (prev)
		g->hold[prev / 8].e[prev % 8].next = next;
	else
		*entry_bucket(g, g->hold[n].e[k].gpa) = next;
	if (next)
		g->hold[next / 8].e[next % 8].prev = prev;
}

void hold_free(struct ghost *g, uint32_t n)
{
	struct hold *h = &g->hold[n];
	struct table *t;

	if (h->record)
		record_free(g, h->record);
	h->record = 0;
	unlink_page(g, n);
	for (unsigned k = 0; k < h->nr; k++)
		unlink_entry(g, n, k);
	if (h->kind == HOLD_TABLE) {
		if (h->tprev)
			g->hold[h->tprev].tnext = h->tnext;
		else if ((t = table_find(g, h->host)) && t->first == n)
			t->first = h->tnext;
		if (h->tnext)
			g->hold[h->tnext].tprev = h->tprev;
	}
	h->kind = HOLD_FREE;
	h->next = g->free_hold;
	g->free_hold = n;
}

/* One that is dead, or the next in turn. */
static void make_room(struct ghost *g)
{
	for (unsigned k = 0; k < EVICT_LOOKS; k++) {
		g->hand = g->hand % HOLDS + 1;
		if (!hold_live(&g->hold[g->hand]) && g->hold[g->hand].kind != HOLD_FREE) {
			hold_free(g, g->hand);
			return;
		}
	}
	ghost_forgot(g, room);
	hold_free(g, g->hand);
}

static uint32_t hold_alloc(struct ghost *g)
{
	uint32_t n;

	if (!g->free_hold && g->used_holds < HOLDS)
		return ++g->used_holds;
	while (!g->free_hold)
		make_room(g);
	n = g->free_hold;
	g->free_hold = g->hold[n].next;
	return n;
}

uint32_t hold_next(struct ghost *g, struct ghost_cpu *c, enum hold_kind kind, gva_t gva, unsigned shift, uint32_t n)
{
	uint32_t next;

	for (n = n ? g->hold[n].next : *page_bucket(g, gva, shift); n; n = next) {
		struct hold *h = &g->hold[n];

		next = h->next;
		if (h->c != c || h->kind != kind || h->shift != shift || (h->base ^ gva) >> shift)
			continue;
		if (hold_live(h))
			return n;
		hold_free(g, n);
	}
	return 0;
}

/* The next node of another hold: with linear page tables a path has an entry twice, one node behind the other. */
static uint32_t next_by_entry(const struct ghost *g, uint32_t node)
{
	uint32_t next = g->hold[node / 8].e[node % 8].next;

	while (next && next / 8 == node / 8)
		next = g->hold[next / 8].e[next % 8].next;
	return next;
}

uint32_t hold_of_entry(struct ghost *g, gpa_t entry, uint32_t node)
{
	uint32_t next;

	for (node = node ? next_by_entry(g, node) : *entry_bucket(g, entry); node; node = next) {
		struct hold *h = &g->hold[node / 8];

		if (h->e[node % 8].gpa != entry) {
			next = h->e[node % 8].next;
			continue;
		}
		if (hold_live(h))
			return node;
		next = next_by_entry(g, node);
		hold_free(g, node / 8);
	}
	return 0;
}

/* --- adding --- */

/* Is it the same path, but for accessed and dirty bits? */
static bool same_path(const struct hold *h, const struct ghost_walk *w, unsigned nr)
{
	if (h->nr != nr)
		return false;
	for (unsigned k = 0; k < nr; k++)
		if (h->e[k].gpa != w->gpa[k] || (h->e[k].val ^ w->val[k]) & ~(PTE_A | PTE_D))
			return false;
	return true;
}

static uint32_t hold_add(struct ghost_cpu *c, enum hold_kind kind, gva_t gva, unsigned shift, const struct ghost_walk *w,
			 unsigned nr, uint16_t pcid, uint64_t mode)
{
	struct ghost *g = c->g;
	uint32_t n = hold_alloc(g);
	struct hold *h = &g->hold[n];

	h->c = c;
	h->born = c->clock;
	h->base = gva >> shift << shift;
	h->rights = PTE_RW | PTE_US;
	h->mode = mode;
	h->record = 0;
	h->pcid = pcid;
	h->kind = (uint8_t)kind;
	h->shift = (uint8_t)shift;
	h->nr = (uint8_t)nr;
	h->global = h->dirty = h->hidden = h->spec = false;
	h->tnext = h->tprev = 0;
	for (unsigned k = 0; k < nr; k++) {
		h->e[k].gpa = w->gpa[k];
		h->e[k].val = w->val[k];
		link_entry(g, n, k);
	}
	link_page(g, n);
	g->count.holds++;
	return n;
}

static unsigned table_shift(const struct ghost_cpu *c, unsigned levels_below)
{
	return c->cpu->cs.cr4 & X86_CR4_PAE ? 12 + 9 * levels_below : 12 + 10 * levels_below;
}

/* References to tables: the path's entries but the leaf. */
static void hold_tables(struct ghost_cpu *c, gva_t gva, unsigned leaf_shift)
{
	const struct ghost_walk *w = &c->walk;
	unsigned below = leaf_shift == 12 ? 0 : leaf_shift <= 22 ? 1 : 2;
	struct ghost *g = c->g;

	for (unsigned k = w->nr - 1; k-- > 0;) {
		unsigned shift = table_shift(c, below + w->nr - 1 - k);
		uint32_t n = 0;
		struct table *t;

		while ((n = hold_next(g, c, HOLD_TABLE, gva, shift, n)))
			if (g->hold[n].pcid == c->pcid && same_path(&g->hold[n], w, k + 1))
				break;
		if (n)
			return; /* with those above it */
		n = hold_add(c, HOLD_TABLE, gva, shift, w, k + 1, c->pcid, ghost_walk_mode(&c->cpu->cs));
		g->hold[n].gpa = w->gpa[k + 1] & PAGE_MASK;
		g->hold[n].host = w->host[k + 1] & PAGE_MASK;
		t = table_find(g, g->hold[n].host);
		if (!t)
			continue;
		g->hold[n].tnext = t->first;
		if (t->first)
			g->hold[t->first].tprev = n;
		t->first = n;
	}
}

/* The live hold of this very translation, without a record; 0: none. */
static uint32_t same_leaf(struct ghost_cpu *c, gva_t gva, unsigned shift, const struct ghost_walk *w, uint16_t pcid, bool global)
{
	struct ghost *g = c->g;
	uint32_t n = 0;

	while ((n = hold_next(g, c, HOLD_LEAF, gva, shift, n)))
		if ((global || g->hold[n].pcid == pcid) && !g->hold[n].record && same_path(&g->hold[n], w, w->nr))
			break;
	return n;
}

void hold_leaf(struct ghost_cpu *c, gva_t gva, const struct cpu_walk_result *r)
{
	const struct ghost_walk *w = &c->walk;
	struct ghost *g = c->g;
	struct hold *h;
	uint32_t n;

	hold_tables(c, gva, r->page_shift);
	n = same_leaf(c, gva, r->page_shift, w, c->pcid, r->global);
	if (n) {
		g->hold[n].dirty |= !!(w->leaf & PTE_D);
		g->hold[n].spec = false;
		return;
	}
	n = hold_add(c, HOLD_LEAF, gva, r->page_shift, w, w->nr, c->pcid, ghost_walk_mode(&c->cpu->cs));
	h = &g->hold[n];
	h->gpa = (r->gpa & PAGE_MASK) - ((gva & PAGE_MASK) - h->base);
	h->host = r->page_shift == PAGE_SHIFT ? r->host & PAGE_MASK : 0;
	h->rights = w->rights;
	h->global = r->global;
	h->dirty = w->leaf & PTE_D;
}

void hold_spec(struct ghost_cpu *v, const struct hold *table, gva_t gva, const struct ghost_walk *w, gpa_t page, hpa_t host)
{
	unsigned shift = table->shift - (table->mode & X86_CR4_PAE ? 9 : 10);
	bool global = (w->leaf & PTE_G) && (v->cpu->cs.cr4 & X86_CR4_PGE);
	uint64_t mode = table->mode;
	uint16_t pcid = v->pcid; /* for the same tables another one than that of the processor that walked them */
	struct hold *h;

	if (same_leaf(v, gva, shift, w, pcid, global))
		return;
	h = &v->g->hold[hold_add(v, HOLD_LEAF, gva, shift, w, w->nr, pcid, mode)]; /* `table` may be no more */
	h->gpa = page;
	h->host = host;
	h->rights = w->rights;
	h->global = global;
	h->dirty = w->leaf & PTE_D;
	h->spec = true;
	v->g->count.speculative++;
}

/* --- tables --- */

struct table *table_find(struct ghost *g, hpa_t host)
{
	uint32_t n = g->by_table[ghost_hash(host)];

	while (n && g->table[n].host != host)
		n = g->table[n].next;
	return n ? &g->table[n] : NULL;
}

struct table *table_make(struct ghost *g, hpa_t host, gpa_t gpa, bool *new)
{
	struct table *t = table_find(g, host);
	uint32_t n;

	*new = !t;
	if (t) {
		t->gpa = gpa;
		return t;
	}
	n = g->free_table;
	if (n)
		g->free_table = g->table[n].next;
	else if (g->used_tables < TABLES)
		n = ++g->used_tables;
	if (!n) {
		ghost_forgot(g, room);
		return NULL;
	}
	t = &g->table[n];
	t->host = host;
	t->gpa = gpa;
	t->first = t->misses = 0;
	t->unseen = t->dropping = 0;
	t->next = g->by_table[ghost_hash(host)];
	g->by_table[ghost_hash(host)] = n;
	return t;
}

bool table_needed(struct ghost *g, struct table *t)
{
	for (unsigned k = 0; k < PAGE_SIZE / 4; k++)
		if (hold_of_entry(g, t->gpa + k * 4, 0))
			return true;
	while (t->first) {
		if (hold_live(&g->hold[t->first]))
			return true;
		hold_free(g, t->first);
	}
	return false;
}

void table_free(struct ghost *g, struct table *t)
{
	uint32_t n = (uint32_t)(t - g->table), *link = &g->by_table[ghost_hash(t->host)];

	while (*link && *link != n)
		link = &g->table[*link].next;
	if (*link)
		*link = t->next;
	t->host = 0;
	t->next = g->free_table;
	g->free_table = n;
}

/* --- forgetting --- */

/* No room to note the store: what is held by way of these entries is forgotten. */
void ghost_forget_entries(struct ghost *g, const struct table *t, unsigned first, unsigned last)
{
	for (unsigned q = 2 * first; t && q <= 2 * last + 1; q++) {
		uint32_t node;

		while ((node = hold_of_entry(g, t->gpa + q * 4, 0))) {
			ghost_forgot(g, room);
			hold_free(g, node / 8);
		}
	}
}

void ghost_forget_cpu(struct ghost *g, struct ghost_cpu *c)
{
	for (uint32_t n = 1; n <= g->used_holds; n++)
		if (g->hold[n].kind != HOLD_FREE && g->hold[n].c == c)
			hold_free(g, n);
}

void ghost_forget_all(struct ghost *g)
{
	for (struct ghost_cpu *c = g->cpus; c; c = c->next) {
		c->t.leaf_all = c->t.table_all = c->clock;
		c->clock++;
	}
}
