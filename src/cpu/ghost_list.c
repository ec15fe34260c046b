/*
 * The chains that records are in: open ones by the thread that stored, settled ones by the PCID of what they are about.
 *
 * Locks: ghost->lock, held by all callers.
 */
#include "cpu/ghost_internal.h"

/* --- who stores --- */

static uint64_t space_of(uint64_t cr3)
{
	return cr3 & PTE_ADDR_MASK & ~0x1000ULL; /* Linux's user tables lie 4 KiB behind the kernel's */
}

bool writer_is(const struct writer *a, uint64_t cr3, uint64_t fs)
{
	return space_of(a->cr3) == space_of(cr3) && a->fs == fs;
}

uint32_t *record_open_chain(struct ghost *g, uint64_t cr3, uint64_t fs)
{
	return &g->by_thread[ghost_hash(space_of(cr3) ^ fs * 3)];
}

/* --- records --- */

uint32_t *record_settled_chain(const struct hold *h)
{
	return &h->c->settled[h->global ? SETTLED_CHAINS : h->pcid % SETTLED_CHAINS];
}

void record_unlink(struct ghost *g, uint32_t n)
{
	struct record *r = &g->record[n];
	struct hold *h = &g->hold[r->hold];
	uint32_t *link = r->settled == OPEN ? record_open_chain(g, r->by.cr3, r->by.fs) : record_settled_chain(h);

	while (*link && *link != n)
		link = &g->record[*link].next;
	if (*link)
		*link = r->next;
	if (r->settled == OPEN)
		g->nr_open--;
	else
		h->c->nr_settled--;
}

void record_free(struct ghost *g, uint32_t n)
{
	struct record *r = &g->record[n];

	if (!r->hold)
		return;
	record_unlink(g, n);
	record_count_hidden(g, r);
	g->hold[r->hold].record = 0;
	r->hold = 0;
	r->next = g->free_record;
	g->free_record = n;
	g->count.closed++;
}
