/*
 * Frames that were taken away while a processor held them: the kernel's stores to them are seen,
 * until most of their lines were stored to (the frame has a new owner) or no record needs them.
 *
 * Locks: ghost->lock, held by all callers.
 */
#include "cpu/ghost_internal.h"

uint32_t watch_find(struct ghost *g, hpa_t host)
{
	uint32_t n = g->by_watch[ghost_hash(host)];

	while (n && g->watch[n].host != host)
		n = g->watch[n].next;
	return n;
}

static void watch_free(struct ghost *g, uint32_t n)
{
	uint32_t *link = &g->by_watch[ghost_hash(g->watch[n].host)];

	while (*link && *link != n)
		link = &g->watch[*link].next;
	if (*link)
		*link = g->watch[n].next;
	g->watch[n].host = 0;
}

/* The frame has no write tags from now on, so that stores to it are seen. */
void watch_add(struct ghost *g, uint32_t hold)
{
	hpa_t host = g->hold[hold].host;
	uint32_t *b = &g->by_watch[ghost_hash(host)], n = watch_find(g, host);
	struct watch *w;

	if (!n) {
		if (g->used_watches < WATCHES) {
			n = ++g->used_watches;
		} else {
			n = g->watch_hand = g->watch_hand % WATCHES + 1;
			if (g->watch[n].host)
				watch_free(g, n);
		}
		g->watch[n].host = host;
		g->watch[n].next = *b;
		*b = n;
		for (unsigned k = 0; k < 4; k++)
			g->watch[n].of[k].hold = 0;
		g->count.watches++;
	}
	w = &g->watch[n];
	w->lines = 0;
	for (unsigned k = 0; k < 4; k++) {
		if (w->of[k].hold && w->of[k].hold != hold && k < 3 && g->hold[w->of[k].hold].born == w->of[k].born)
			continue;
		w->of[k].hold = hold;
		w->of[k].born = g->hold[hold].born;
		break;
	}
	ghost_ask_all(g, true, host);
}

/* The frame is somebody else's now. */
static void recycled(struct ghost_cpu *c, struct watch *w)
{
	struct ghost *g = c->g;

	g->count.recycled++;
	for (unsigned k = 0; k < 4; k++) {
		struct hold *h = &g->hold[w->of[k].hold];
		struct record *r;

		if (!w->of[k].hold || h->born != w->of[k].born || h->kind == HOLD_FREE || !h->record || !hold_live(h))
			continue;
		r = &g->record[h->record];
		if (r->settled != OPEN)
			continue;
		record_settle(g, r, SETTLED_RECYCLED);
		record_try_reachable(c, r);
	}
}

/* Is a record open, or settled, for the frame? */
static bool watch_needed(struct ghost *g, const struct watch *w)
{
	for (unsigned k = 0; k < 4; k++) {
		const struct hold *h = &g->hold[w->of[k].hold];

		if (w->of[k].hold && h->kind != HOLD_FREE && h->born == w->of[k].born && h->record && hold_live(h))
			return true;
	}
	return false;
}

void watch_stored(struct ghost_cpu *c, hpa_t host, unsigned size, gva_t gva)
{
	struct ghost *g = c->g;
	uint32_t n = watch_find(g, host & PAGE_MASK);
	struct watch *w = &g->watch[n];

	if (!n)
		return;
	if (!watch_needed(g, w)) {
		watch_free(g, n);
		return;
	}
	if (c->cpu->cs.cpl == 3 || !(gva >> 47))
		return; /* not by the kernel's own mapping */
	w->lines |= GENMASK_ULL((host + size - 1) >> 6 & 63, host >> 6 & 63);
	w->rip = isa_rip(&c->cpu->cs);
	if (__builtin_popcountll(w->lines) >= RECYCLED_LINES) {
		recycled(c, w);
		watch_free(g, n);
	}
}

void watch_is_table(struct ghost_cpu *c, hpa_t host)
{
	uint32_t n = watch_find(c->g, host);

	if (!n)
		return;
	recycled(c, &c->g->watch[n]);
	watch_free(c->g, n);
}
