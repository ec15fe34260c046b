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

/* --- who stores --- */

static uint64_t space_of(uint64_t cr3)
{
	return cr3 & PTE_ADDR_MASK & ~0x1000ULL; /* Linux's user tables lie 4 KiB behind the kernel's */
}

bool writer_is(const struct writer *a, uint64_t cr3, uint64_t fs)
{
	return space_of(a->cr3) == space_of(cr3) && a->fs == fs;
}

static uint32_t *thread_bucket(struct ghost *g, uint64_t cr3, uint64_t fs)
{
	return &g->by_thread[ghost_hash(space_of(cr3) ^ fs * 3)];
}

/* --- records --- */

static uint32_t *settled_chain(const struct hold *h)
{
	return &h->c->settled[h->global ? SETTLED_CHAINS : h->pcid % SETTLED_CHAINS];
}

/* Out of its chain, and out of the number that has it. */
static void unlink_record(struct ghost *g, uint32_t n)
{
	struct record *r = &g->record[n];
	struct hold *h = &g->hold[r->hold];
	uint32_t *link = r->settled == OPEN ? thread_bucket(g, r->by.cr3, r->by.fs) : settled_chain(h);

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
	unlink_record(g, n);
	g->hold[r->hold].record = 0;
	r->hold = 0;
	r->next = g->free_record;
	g->free_record = n;
	g->count.closed++;
}

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
	uint32_t n = record_alloc(g), *bucket = thread_bucket(g, p->by.cr3, p->by.fs);
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
	r->said_use = r->said_reachable = r->said_table = false;
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
	uint32_t n = (uint32_t)(r - g->record), *chain = settled_chain(&g->hold[r->hold]);

	unlink_record(g, n);
	r->settled = (uint8_t)how;
	r->next = *chain;
	*chain = n;
	g->hold[r->hold].c->nr_settled++;
	g->count.settled++;
}

/* A page of programs. */
static bool is_users(const struct hold *h)
{
	bool lower = !(h->c->cpu->cs.efer & EFER_LMA) || !(h->base >> 47);

	return h->kind == HOLD_LEAF && (h->rights & PTE_US) && lower;
}

/* The processor that may use it is in user mode, in its address space, and allowed to. */
static bool reachable(const struct hold *h)
{
	const struct ghost_cpu *v = h->c;

	return is_users(h) && v->in_guest && v->user && (h->global || h->pcid == v->pcid);
}

/* What =strict tells besides, though it may be no bug: a processor elsewhere holds it; it is the kernel's. */
static bool worth_telling(const struct record *r, const struct hold *h)
{
	return h->kind == HOLD_LEAF && (is_users(h) || r->lost == LOST_TYPE || r->settled == SETTLED_RECYCLED);
}

void record_try_reachable(struct ghost_cpu *by, struct record *r)
{
	struct hold *h = &by->g->hold[r->hold];

	if (others_compare(by)) /* records_reachable() comes back to it */
		return;
	if (r->said_reachable || r->lost == LOST_DIRTY || !hold_live(h) || !(by->g->strict ? worth_telling(r, h) : reachable(h)))
		return;
	r->said_reachable = true;
	ghost_report(by, GHOST_REACHABLE, r, h, h->base, 0, NULL);
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
	uint32_t *link = thread_bucket(g, cs->cr3, cs->seg[SREG_FS].base);

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
