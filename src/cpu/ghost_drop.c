/*
 * What processors are asked to drop from their software TLB, and what is known once they have: a
 * frame that became a page table is stored to unseen until then.
 *
 * Locks: ghost->lock; ghost_work_off() takes it, the callers of the others hold it.
 */
#include "cpu/ghost_internal.h"

void ghost_ask_drop(struct ghost_cpu *c, bool frame, uint64_t address)
{
	if (c->nr_drops < GHOST_DROPS) {
		c->drops[c->nr_drops].frame = frame;
		c->drops[c->nr_drops].address = address;
	}
	if (c->nr_drops <= GHOST_DROPS)
		c->nr_drops++;
	__atomic_fetch_or(&c->cpu->cs.exit_request, CPU_REQ_GHOST, __ATOMIC_SEQ_CST);
}

void ghost_ask_all(struct ghost *g, bool frame, uint64_t address)
{
	for (struct ghost_cpu *c = g->cpus; c; c = c->next)
		ghost_ask_drop(c, frame, address);
}

/* Everything in the table is to be compared: this processor may have stored to it. false: no room. */
static bool note_unseen(struct ghost_cpu *c, const struct table *t)
{
	struct pending *p = pending_add(c->g, t->host, t->gpa);

	if (!p)
		return false;
	p->unseen = true;
	for (unsigned k = 0; k < ARRAY_SIZE(p->mask); k++)
		p->mask[k] = ~0ULL;
	p->by.c = c;
	p->by.hypervisor = false;
	p->by.rip = p->by.cr3 = p->by.fs = p->by.time = 0;
	p->by.cpl = 0;
	return true;
}

/*
 * The next table that was asked for and that this processor may store to unseen; *at goes from 0. Where more
 * was asked for than c->take has room for, it is one of all tables.
 */
static struct table *next_dropping(struct ghost_cpu *c, unsigned nr, uint32_t *at)
{
	uint64_t own = BIT_ULL(c->nr % 64);
	struct ghost *g = c->g;
	struct table *t;

	while (*at < (nr > GHOST_DROPS ? g->used_tables : nr)) {
		uint32_t n = (*at)++;

		if (nr > GHOST_DROPS)
			t = &g->table[n + 1];
		else
			t = c->take[n].frame ? table_find(g, c->take[n].address) : NULL;
		if (t && t->host && t->dropping & own)
			return t;
	}
	return NULL;
}

/* Its write tags of these frames are gone: with what came before compared, it can no longer store unseen. */
static void stores_are_seen(struct ghost_cpu *c, unsigned nr)
{
	uint64_t own = BIT_ULL(c->nr % 64);
	uint32_t at = 0, from, to;
	struct ghost *g = c->g;
	struct table *t;

	do {
		from = to = at;
		ghost_lock(g);
		while ((t = next_dropping(c, nr, &at)) && note_unseen(c, t))
			to = at;
		if (t && to == from && !c->in_guest) {
			/* nothing can be compared now */
			ghost_forget_entries(g, t, 0, 511);
			to = at;
		} else if (t) {
			at = to;
		}
		ghost_unlock(g);
		if (to != from || t)
			ghost_compare(c);
		ghost_lock(g);
		for (uint32_t k = from; (t = next_dropping(c, nr, &k)) && k <= to;) {
			t->unseen &= ~own;
			t->dropping &= ~own;
		}
		ghost_unlock(g);
	} while (t);
}

/* What is in the ring goes to c->take; tables of which it drops write tags are marked. */
static unsigned take_drops(struct ghost_cpu *c)
{
	uint64_t own = BIT_ULL(c->nr % 64);
	unsigned nr = c->nr_drops;
	struct ghost *g = c->g;

	for (unsigned n = 0; n < nr && n < GHOST_DROPS; n++) {
		struct table *t = c->drops[n].frame ? table_find(g, c->drops[n].address) : NULL;

		c->take[n].frame = c->drops[n].frame;
		c->take[n].address = c->drops[n].address;
		if (t)
			t->dropping |= t->unseen & own;
	}
	for (uint32_t n = 1; nr > GHOST_DROPS && n <= g->used_tables; n++)
		g->table[n].dropping |= g->table[n].unseen & own;
	c->nr_drops = 0;
	return nr;
}

void ghost_work_off(struct vmx_cpu *cpu)
{
	struct ghost_cpu *c = ghost_of(cpu);
	unsigned nr;

	ghost_lock(c->g);
	nr = take_drops(c);
	ghost_unlock(c->g);
	if (!nr)
		return;
	c->g->ops->drop(cpu, c->take, nr);
	stores_are_seen(c, nr);
}
