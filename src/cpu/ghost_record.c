/*
 * Records: translations that are held and that the tables grant no longer; when the guest's
 * operation that took them away has ended (settled). ghost.h has the invariants.
 *
 *	ghost_compare() ─► record_new(), OPEN
 *	      the writer's thread returns to user mode ─► SETTLED_RETURNED
 *	      the frame has got a new owner            ─► SETTLED_RECYCLED
 *	      =strict: nothing of the kernel's goes on  ─► SETTLED_QUIET
 *	the hold dies (hold_free), or the tables grant it again ─► record_free()
 *
 * Locks: ghost->lock, held by all callers.
 */
#include "cpu/ghost_internal.h"

#include <x86intrin.h>

static uint32_t record_alloc(struct ghost *g)
{
	uint32_t n;

	if (!g->free_record && g->used_records < RECORDS)
		return ++g->used_records;
	if (!g->free_record) {
		g->record_hand = g->record_hand % RECORDS + 1;
		record_free(g, g->record_hand);
		ghost_forgot(g, room);
	}
	n = g->free_record;
	g->free_record = g->record[n].next;
	return n;
}

void record_new(struct ghost_cpu *c, const struct batch_item *b, const struct pending *p, enum lost lost)
{
	struct ghost *g = c->g;
	uint32_t n = record_alloc(g), *bucket = record_open_chain(g, p->by.cr3, p->by.fs);
	struct hold *h = &g->hold[b->hold];
	struct record *r = &g->record[n];

	r->hold = b->hold;
	writer_copy(&r->by, &p->by);
	r->entry = h->e[b->level].gpa;
	r->old = h->e[b->level].val;
	r->new = b->now;
	r->level = (uint8_t)(h->nr - b->level);
	r->lost = (uint8_t)lost;
	r->settled = OPEN;
	r->said_use = r->said_reachable = r->said_table = r->said_size = r->in_reach = false;
	r->owed_to = 0;
	r->next = *bucket;
	*bucket = n;
	h->record = n;
	g->nr_open++;
	g->count.records++;
	if (h->kind != HOLD_LEAF)
		return;
	ghost_ask_drop(h->c, false, h->base);
	if (h->host && (g->strict || h->rights & PTE_US) && (!b->present || b->gpa != h->gpa))
		watch_add(g, b->hold);
}

/* --- settling --- */

void record_settle(struct ghost *g, struct record *r, enum settled how)
{
	uint32_t n = (uint32_t)(r - g->record), *chain = record_settled_chain(&g->hold[r->hold]);

	record_unlink(g, n);
	r->settled = (uint8_t)how;
	r->next = *chain;
	*chain = n;
	g->hold[r->hold].c->nr_settled++;
	g->count.settled++;
}

/* What =strict tells besides, though it may be no bug: a processor elsewhere holds it; it is the kernel's. */
static bool worth_telling(const struct record *r, const struct hold *h)
{
	return h->kind == HOLD_LEAF && (hold_is_users(h) || r->lost == LOST_TYPE || r->settled == SETTLED_RECYCLED);
}

void record_try_reachable(struct ghost_cpu *by, struct record *r)
{
	struct hold *h = &by->g->hold[r->hold];

	if (others_compare(by)) /* records_reachable() comes back to it */
		return;
	if (r->said_reachable || r->lost == LOST_DIRTY || !hold_live(h) || !(by->g->strict ? worth_telling(r, h) : hold_reachable(h)))
		return;
	r->said_reachable = true;
	ghost_report(by, GHOST_REACHABLE, r, h, h->base, 0, NULL);
}

void record_say_size(struct ghost_cpu *c, struct record *r, const struct batch_item *b)
{
	struct hold *h = &c->g->hold[r->hold];
	struct cpu_walk_result now = { .gpa = b->gpa, .page_shift = (uint8_t)b->shift };

	if (r->said_size || !hold_live(h) || others_compare(c))
		return;
	r->said_size = true;
	ghost_report(c, GHOST_SIZE, r, h, h->base, 0, &now);
}

/* Each processor has been in user mode since, or is halted: the operation is over, whoever it was. */
static bool is_quiet(const struct ghost *g, const struct record *r, uint64_t now)
{
	if (now - r->by.time < g->quiet)
		return false;
	for (const struct ghost_cpu *c = g->cpus; c; c = c->next)
		if (c->vpid && !c->user && !c->halted && c->calm <= r->by.time)
			return false;
	return true;
}

void records_quiet(struct ghost_cpu *c)
{
	struct ghost *g = c->g;
	uint64_t now = __rdtsc();

	if (now - g->quiet_looked < g->quiet / 4 || others_compare(c))
		return;
	g->quiet_looked = now;
	for (uint32_t n = 1; n <= g->used_records; n++) {
		struct record *r = &g->record[n];

		if (!r->hold || r->settled != OPEN || !hold_live(&g->hold[r->hold]) || !is_quiet(g, r, now))
			continue;
		record_settle(g, r, SETTLED_QUIET);
		record_try_reachable(c, r);
	}
}

void records_returned(struct ghost_cpu *c)
{
	struct ghost *g = c->g;
	const struct cpu_state *cs = &c->cpu->cs;
	uint32_t *link = record_open_chain(g, cs->cr3, cs->seg[SREG_FS].base);

	while (*link && !others_compare(c)) {
		struct record *r = &g->record[*link];

		if (!hold_live(&g->hold[r->hold])) {
			hold_free(g, r->hold); /* takes the record out of this chain */
			continue;
		}
		if (!writer_is(&r->by, cs->cr3, cs->seg[SREG_FS].base) || r->by.hypervisor) {
			link = &r->next;
			continue;
		}
		record_settle(g, r, SETTLED_RETURNED);
		record_try_reachable(c, r);
	}
}

void records_reachable(struct ghost_cpu *c)
{
	uint32_t chains[] = { c->pcid % SETTLED_CHAINS, SETTLED_CHAINS };
	struct ghost *g = c->g;

	for (unsigned k = 0; k < 2; k++) {
		uint32_t *link = &c->settled[chains[k]];

		while (*link) {
			struct record *r = &g->record[*link];

			if (!hold_live(&g->hold[r->hold])) {
				hold_free(g, r->hold); /* takes the record out of this chain */
				continue;
			}
			record_try_reachable(c, r);
			link = &r->next;
		}
	}
}
