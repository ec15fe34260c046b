/*
 * What an L2 may have cached: translations, found by page and by the table that has their last entry.
 *
 *	by_page[hash(page, size)] ─► hold ─► …	    next, prev
 *	by_table[hash(table)] ─► dir ─► …	    dir.first ─► hold ─► …   dnext, dprev
 *
 * Invariant: a dir is in use while it has a hold.
 *
 * Locks: none: a processor's own thread.
 */
#include "cpu/l1vpid_internal.h"

static uint32_t hash(uint64_t key)
{
	return (uint32_t)(key * 0x9e3779b97f4a7c15ULL >> 50);
}
static_assert(L1VPID_BUCKETS == 1U << (64 - 50), "hash() has as many values as there are buckets");

static uint32_t *page_bucket(struct l1vpid *l, gva_t gva, unsigned shift)
{
	return &l->by_page[hash((gva >> shift) * 64 + shift)];
}

/* --- tables --- */

static void dir_free(struct l1vpid *l, uint32_t n)
{
	uint32_t *link = &l->by_table[hash(l->dir[n].host)];

	while (*link != n)
		link = &l->dir[*link].next;
	*link = l->dir[n].next;
	l->dir[n].used = false;
	l->dir[n].next = l->free_dir;
	l->free_dir = n;
}

void l1vpid_free(struct l1vpid *l, uint32_t n)
{
	struct l1vpid_hold *h = &l->hold[n];

	*(h->prev ? &l->hold[h->prev].next : page_bucket(l, h->gva, h->shift)) = h->next;
	if (h->next)
		l->hold[h->next].prev = h->prev;
	*(h->dprev ? &l->hold[h->dprev].dnext : &l->dir[h->dir].first) = h->dnext;
	if (h->dnext)
		l->hold[h->dnext].dprev = h->dprev;
	if (!l->dir[h->dir].first)
		dir_free(l, h->dir);
	h->live = false;
	h->next = l->free_hold;
	l->free_hold = n;
}

/* The next in turn goes. */
static void make_room(struct l1vpid *l)
{
	l->hand = l->hand % L1VPID_HOLDS + 1;
	if (!l->hold[l->hand].live)
		return;
	l->m->forgotten++;
	l1vpid_free(l, l->hand);
}

static uint32_t hold_alloc(struct l1vpid *l)
{
	uint32_t n;

	if (!l->free_hold && l->used_holds < L1VPID_HOLDS)
		return ++l->used_holds;
	while (!l->free_hold)
		make_room(l);
	n = l->free_hold;
	l->free_hold = l->hold[n].next;
	return n;
}

static uint32_t dir_alloc(struct l1vpid *l)
{
	uint32_t n;

	if (!l->free_dir && l->used_dirs < L1VPID_DIRS)
		return ++l->used_dirs;
	while (!l->free_dir)
		make_room(l);
	n = l->free_dir;
	l->free_dir = l->dir[n].next;
	return n;
}

static bool dir_is(const struct l1vpid *l, const struct l1vpid_dir *d, const struct ghost_walk *w, unsigned entry_size)
{
	if (d->host != (w->host[w->nr - 1] & PAGE_MASK) || d->nr != w->nr - 1 || d->entry_size != entry_size || !l1vpid_is_current(l, d))
		return false;
	for (unsigned k = 0; k < d->nr; k++)
		if (d->e[k].host != w->host[k] || (d->e[k].val ^ w->val[k]) & ~(PTE_A | PTE_D))
			return false;
	return true;
}

static uint32_t dir_make(struct l1vpid *l, const struct ghost_walk *w, unsigned entry_size)
{
	hpa_t host = w->host[w->nr - 1] & PAGE_MASK;
	uint32_t n = l->by_table[hash(host)];
	struct l1vpid_dir *d;

	while (n && !dir_is(l, &l->dir[n], w, entry_size))
		n = l->dir[n].next;
	if (n)
		return n;
	n = dir_alloc(l);
	d = &l->dir[n];
	d->used = true;
	d->nr = (uint8_t)(w->nr - 1);
	d->entry_size = (uint8_t)entry_size;
	d->vpid = l->now.vpid;
	d->eptp = l->now.eptp;
	d->table = w->gpa[w->nr - 1] & PAGE_MASK;
	d->host = host;
	d->first = 0;
	for (unsigned k = 0; k < d->nr; k++) {
		d->e[k].gpa = w->gpa[k];
		d->e[k].host = w->host[k];
		d->e[k].val = w->val[k];
	}
	d->next = l->by_table[hash(host)];
	l->by_table[hash(host)] = n;
	return n;
}

/* --- translations --- */

uint32_t l1vpid_next(const struct l1vpid *l, gva_t gva, unsigned shift, uint32_t n)
{
	for (n = n ? l->hold[n].next : l->by_page[hash((gva >> shift) * 64 + shift)]; n; n = l->hold[n].next)
		if (l->hold[n].shift == shift && l1vpid_at(&l->hold[n], gva))
			return n;
	return 0;
}

struct l1vpid_hold *l1vpid_add(struct l1vpid *l, gva_t gva, const struct ghost_walk *w, const struct cpu_walk_result *r,
			       unsigned entry_size)
{
	uint32_t n = hold_alloc(l), dir = dir_make(l, w, entry_size), *b;
	struct l1vpid_hold *h = &l->hold[n];

	h->live = true;
	h->open = h->settled = h->lost = h->reached = h->hidden = false;
	h->global = r->global;
	h->gva = gva & PAGE_MASK;
	h->gpa = r->gpa & PAGE_MASK;
	h->rights = w->rights;
	h->shift = r->page_shift;
	h->val = w->val[w->nr - 1];
	h->offset = (uint16_t)(w->host[w->nr - 1] & ~PAGE_MASK);
	h->dir = dir;
	b = page_bucket(l, gva, h->shift);
	h->prev = 0;
	h->next = *b;
	if (*b)
		l->hold[*b].prev = n;
	*b = n;
	h->dprev = 0;
	h->dnext = l->dir[dir].first;
	if (h->dnext)
		l->hold[h->dnext].dprev = n;
	l->dir[dir].first = n;
	return h;
}
