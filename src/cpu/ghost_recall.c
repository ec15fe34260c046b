/*
 * How much of what is missing does the sanitizer of translations find? USERKVM_GHOST_DEAF=N hides each N-th
 * invalidation from it, not from the processor: a kernel that forgets it, so to speak, and goes on as if it had not.
 *
 *	an invalidation is hidden ─► what it covers and has a record is owed to it     ghost_hidden()
 *	the processor could use the old translation after that ─► it was in reach      ghost_in_reach(), records_used()
 *	the record ends ─► was it told?                                                record_count_hidden()
 *
 * A hidden invalidation that no record is owed to was not needed, as far as anybody could tell. One whose records
 * were never in reach did no harm, nor did one whose records another invalidation covered in time, before the
 * kernel's operation was over. The share that was told of the others is the recall.
 *
 * Invariants
 * 1. In reach is what the processor could do after the hidden invalidation, and by the old translation only: it was
 *    in user mode in that address space, with a page of programs; or it made an access that now fails, or goes elsewhere.
 * 2. Nothing of this plays a part in what is reported.
 *
 * Locks: ghost->lock, held by all callers.
 */
#include "cpu/ghost_internal.h"

static bool covers(const struct tlb_scope *s, const struct hold *h)
{
	bool table = h->kind == HOLD_TABLE;

	if (s->one_address && !(table && s->every_pde) && (h->base ^ s->gva) >> h->shift)
		return false;
	if (h->global && !table)
		return !s->keeps_globals && (s->every_pcid || s->one_address);
	return s->every_pcid || h->pcid == s->pcid;
}

void ghost_hidden(struct ghost_cpu *c, const struct tlb_scope *s)
{
	struct ghost *g = c->g;
	bool any = false;

	g->count.hidden++;
	for (uint32_t n = 1; n <= g->used_records; n++) {
		struct record *r = &g->record[n];
		const struct hold *h = &g->hold[r->hold];

		if (!r->hold || r->owed_to || h->c != c || !hold_live(h) || !covers(s, h))
			continue;
		r->owed_to = (uint32_t)g->count.hidden;
		any = true;
	}
	g->count.hidden_owed += any;
}

void ghost_in_reach(struct ghost_cpu *c)
{
	struct ghost *g = c->g;

	for (uint32_t n = 1; n <= g->used_records; n++) {
		struct record *r = &g->record[n];
		const struct hold *h = &g->hold[r->hold];

		if (r->hold && r->owed_to && !r->in_reach && h->c == c && r->lost != LOST_DIRTY && hold_live(h) && hold_reachable(h))
			r->in_reach = true;
	}
}

/* Counts an invalidation once for each of what its records were. */
static uint64_t first_of(struct ghost *g, uint32_t event, uint8_t what)
{
	uint8_t *e = &g->hidden[event % GHOST_HIDDEN];

	if (*e & what)
		return 0;
	*e |= what;
	return 1;
}

void record_count_hidden(struct ghost *g, const struct record *r)
{
	bool told = r->said_use || r->said_reachable || r->said_table;
	/* another invalidation came before the operation was over: no fault of the kernel's */
	bool in_time = !told && r->settled == OPEN;

	if (!g->deaf || !r->owed_to)
		return;
	g->count.records_owed++;
	g->count.records_in_reach += r->in_reach || told;
	g->count.records_told += told;
	g->count.records_in_time += r->in_reach && in_time;
	if ((r->in_reach && !in_time) || told)
		g->count.hidden_in_reach += first_of(g, r->owed_to, 1);
	if (told)
		g->count.hidden_told += first_of(g, r->owed_to, 2);
}
