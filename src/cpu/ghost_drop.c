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

/* Everything in the table is to be compared: this processor may have stored to it. */
static void note_unseen(struct ghost_cpu *c, const struct table *t)
{
	struct ghost *g = c->g;
	struct pending *p = pending_add(g, t->host, t->gpa);

	if (!p) {
		ghost_forget_entries(g, t, 0, 511);
		return;
	}
	p->unseen = true;
	for (unsigned k = 0; k < 8; k++)
		p->mask[k] = ~0ULL;
	p->by.c = c;
	p->by.hypervisor = false;
	p->by.rip = p->by.cr3 = p->by.fs = p->by.time = 0;
	p->by.cpl = 0;
}

/* Its write tags of these frames are gone: with what came before compared, it can no longer store unseen. */
static void stores_are_seen(struct ghost_cpu *c, unsigned nr)
{
	uint64_t own = BIT_ULL(c->nr % 64);
	struct ghost *g = c->g;
	bool any = nr > GHOST_DROPS;
	struct table *t;

	ghost_lock(g);
	for (unsigned n = 0; n < nr && nr <= GHOST_DROPS; n++) {
		t = c->take[n].frame ? table_find(g, c->take[n].address) : NULL;
		if (!t || !(t->unseen & own))
			continue;
		note_unseen(c, t);
		any = true;
	}
	ghost_unlock(g);
	if (!any)
		return;
	ghost_compare(c);
	ghost_lock(g);
	if (nr > GHOST_DROPS) {
		/* which they were is not known: none of them is blamed for what it has lost */
		for (uint32_t n = 1; n <= g->used_tables; n++) {
			if (g->table[n].host && g->table[n].unseen & own)
				ghost_forget_entries(g, &g->table[n], 0, 511);
			g->table[n].unseen &= ~own;
		}
	}
	for (unsigned n = 0; n < nr && nr <= GHOST_DROPS; n++)
		if (c->take[n].frame && (t = table_find(g, c->take[n].address)))
			t->unseen &= ~own;
	ghost_unlock(g);
}

void ghost_work_off(struct vmx_cpu *cpu)
{
	struct ghost_cpu *c = ghost_of(cpu);
	unsigned nr;

	ghost_lock(c->g);
	nr = c->nr_drops;
	for (unsigned n = 0; n < nr && n < GHOST_DROPS; n++) {
		c->take[n].frame = c->drops[n].frame;
		c->take[n].address = c->drops[n].address;
	}
	c->nr_drops = 0;
	ghost_unlock(c->g);
	if (!nr)
		return;
	c->g->ops->drop(cpu, c->take, nr);
	stores_are_seen(c, nr);
}
