/*
 * Accesses by translations that have a record, and stores to frames that processors may still
 * walk as tables: what is a report.
 *
 * Locks: ghost->lock, held by all callers.
 */
#include "cpu/ghost_internal.h"

/* The same thread of the kernel, later in its own program, by an address of the kernel's. */
static bool own_order(struct ghost_cpu *c, const struct record *r, gva_t gva)
{
	const struct cpu_state *cs = &c->cpu->cs;

	return r->by.c == c && !r->by.hypervisor && cs->cpl != 3 && r->by.cpl == cs->cpl && gva >> 47 &&
	       writer_is(&r->by, cs->cr3, cs->seg[SREG_FS].base);
}

static void used(struct ghost_cpu *c, struct hold *h, gva_t gva, uint32_t access, enum cpu_priv priv,
		 const struct cpu_walk_result *now)
{
	struct ghost *g = c->g;
	struct record *r = &g->record[h->record];
	uint32_t old = g->ops->page_rights(c->cpu, h->rights, priv);
	gpa_t page = h->gpa + ((gva & PAGE_MASK) - h->base);

	if (access & ~old)
		return;
	if ((access & CPU_WRITE) && !h->dirty)
		return; /* the processor walks again to set D */
	if (now && now->gpa == page && !(r->lost == LOST_DIRTY && (access & CPU_WRITE)))
		return; /* allowed now, and at the same page: nobody could tell */
	r->in_reach |= !!r->owed_to;
	if (r->settled == OPEN && own_order(c, r, gva)) {
		/* only for this use: the thread has not come back */
		g->count.uses_settled++;
		if (!r->said_use) {
			r->said_use = true;
			r->settled = SETTLED_OWN;
			ghost_report(c, r->lost == LOST_DIRTY ? GHOST_LOST_DIRTY : GHOST_USE, r, h, gva, access, now);
			r->settled = OPEN;
		}
		return;
	}
	if (r->settled == OPEN) {
		g->count.uses_in_window++;
		return;
	}
	g->count.uses_settled++;
	if (r->said_use)
		return;
	r->said_use = true;
	ghost_report(c, r->lost == LOST_DIRTY ? GHOST_LOST_DIRTY : GHOST_USE, r, h, gva, access, now);
}

void records_used(struct ghost_cpu *c, gva_t gva, uint32_t access, enum cpu_priv priv,
		  const struct cpu_walk_result *now)
{
	static const uint8_t shifts[] = { 12, 21, 22, 30 };
	struct ghost *g = c->g;

	for (unsigned s = 0; s < ARRAY_SIZE(shifts); s++) {
		uint32_t n = 0;

		while ((n = hold_next(g, c, HOLD_LEAF, gva, shifts[s], n)))
			if (g->hold[n].record && (g->hold[n].global || g->hold[n].pcid == c->pcid))
				used(c, &g->hold[n], gva, access, priv, now);
	}
}

/* The frame is stored to: does a processor whose current PCID may still walk it exist, though it was taken out? */
void tables_stored(struct ghost_cpu *c, struct table *t, gva_t gva, hpa_t host, unsigned size)
{
	struct ghost *g = c->g;

	for (struct ghost_cpu *v = g->cpus; v; v = v->next) {
		if (!v->in_guest || v == c || (v->cr3 & PTE_ADDR_MASK) != t->gpa || v->said_root || !(gva >> 47) || gva == ~0ULL)
			continue;
		v->root_lines |= GENMASK_ULL((host + size - 1) >> 6 & 63, host >> 6 & 63);
		if (__builtin_popcountll(v->root_lines) < RECYCLED_LINES)
			continue;
		v->said_root = true;
		ghost_report_root(c, v);
	}
	if (!t->first)
		return;
	for (uint32_t n = t->first; n; n = g->hold[n].tnext) {
		struct hold *h = &g->hold[n];
		struct record *r = &g->record[h->record];

		if (!h->record || r->said_table || !hold_live(h) || !h->c->in_guest || h->pcid != h->c->pcid)
			continue;
		r->said_table = true;
		ghost_report(c, GHOST_TABLE, r, h, h->base, 0, NULL);
	}
}
