/*
 * Groups of accesses by one address, planned: operands of a block that have base and index in common, and differ by their
 * displacement only, have one check together.
 *
 *     lea S1,[base+index+lo]     the probe of the TLB (operand.c) for all bytes of the group
 *     or, where the embedding gives a slot:
 *     lea S1,[base+index+lo]     sub S1,[slot.tag]   cmp S1,4096-extent   ja cold   mov S1,[slot.addend]
 *
 *     then each access is [S1+base+disp], or [S1+index+disp] behind lea S1,[S1+base]
 *
 * A slot knows one page, as cs->sp_tag does: it is what pays in a loop whose accesses stay in a page for a while.
 *
 * Invariants
 * 1. Base and index do not change between a group's check and its last access, and no handler is called by the
 *    code itself (JIT_CALL): a cold path that returns has invalidated nothing (rewrite.h).
 * 2. The checked extent holds every byte of every member, and the access that is asked for is that of all of them:
 *    a group with a member that writes asks for write access.
 * 3. A check has no effect. Where it fails handlers run up to the group's last member, or to the block's end if
 *    another check is on the way: behind a check that was left out nothing may be reached that relies on it.
 * 4. Members are what operand.c calls direct, in 64-bit code, and not LOCKed.
 * 5. Without a slot nothing else accesses memory between the members: JIT_S1 is all that a check leaves.
 *
 * operand.c emits what is planned here.
 *
 * Locks: none.
 */
#include "jit/internal.h"

#define MAX_EXTENT 128 /* more would lie in two pages too often */

/* Groups that may have more members, by their numbers. */
struct open_groups {
	uint8_t nr[JIT_BLOCK_INSNS];
	unsigned n;
};

static bool may_be_member(const struct jit_ctx *c, unsigned k, const struct jit_bytes *p, const struct jit_form *f)
{
	const struct jit_insn *i = &c->b->insn[k];

	return i->access && p->mem && (f->how == HOW_COPY || f->how == HOW_X87) && !p->code32 && jit_direct(p) &&
	       p->base != RSP && (p->base != HOST_NONE || p->index != HOST_NONE) && !c->stack[k].member &&
	       !(i->isa->flags & (ISA_LOCK | ISA_ENDS_BLOCK));
}

/* May the group with instruction k have a slot? */
static bool may_have_slot(const struct jit_ctx *c, unsigned k)
{
	return c->r->fill && k < 32 && (c->b->slots >> k & 1) && c->r->nr_slots < c->r->max_slots;
}

static bool join(struct jit_group *g, const struct jit_bytes *p, const struct jit_insn *i, uint8_t k)
{
	int64_t lo = p->disp < g->lo ? p->disp : g->lo;
	int64_t hi = (int64_t)p->disp + i->size, end = (int64_t)g->lo + g->extent;

	if (g->base != p->base || g->index != p->index || g->shift != p->shift)
		return false;
	hi = hi > end ? hi : end;
	if (hi - lo > MAX_EXTENT)
		return false;
	g->lo = (int32_t)lo;
	g->extent = (uint16_t)(hi - lo);
	g->access |= i->access;
	g->nr++;
	g->last = k;
	return true;
}

static void close_all_but_slotted(struct jit_ctx *c, struct open_groups *o)
{
	unsigned kept = 0;

	for (unsigned n = 0; n < o->n; n++)
		if (c->group[o->nr[n]].slot)
			o->nr[kept++] = o->nr[n];
	o->n = kept;
}

static void close_written(struct jit_ctx *c, struct open_groups *o, const struct jit_bytes *p, const struct jit_form *f)
{
	unsigned kept = 0;

	for (unsigned n = 0; n < o->n; n++) {
		const struct jit_group *g = &c->group[o->nr[n]];

		if ((g->base != HOST_NONE && jit_writes(p, f, g->base)) ||
		    (g->index != HOST_NONE && jit_writes(p, f, g->index)))
			continue;
		o->nr[kept++] = o->nr[n];
	}
	o->n = kept;
}

/* The group of instruction k's operand: an open one, or a new one. */
static void add_member(struct jit_ctx *c, struct open_groups *o, unsigned k, const struct jit_bytes *p)
{
	const struct jit_insn *i = &c->b->insn[k];
	struct jit_group *g;

	for (unsigned n = 0; n < o->n && !c->b->apart; n++)
		if (join(&c->group[o->nr[n]], p, i, (uint8_t)k)) {
			c->member[k] = (uint8_t)(o->nr[n] + 1);
			return;
		}
	g = &c->group[c->nr_groups];
	*g = (struct jit_group){ .base = p->base, .index = p->index, .shift = p->shift, .lo = p->disp,
				 .extent = i->size, .access = i->access, .nr = 1, .first = (uint8_t)k,
				 .last = (uint8_t)k };
	if (may_have_slot(c, k)) {
		struct jit_slot *s = &c->r->slots[c->r->nr_slots++];

		*s = (struct jit_slot){ .tag = TLB_NO_ACCESS, .next = NULL, .insn = (uint16_t)(c->b->first + k) };
		g->slot = s;
	}
	c->member[k] = (uint8_t)(++c->nr_groups);
	o->nr[o->n++] = (uint8_t)(c->nr_groups - 1);
}

/* What a member on its own leaves to operand.c: nothing is gained. */
static void drop_single(struct jit_ctx *c)
{
	for (unsigned k = 0; k < c->b->nr; k++) {
		const struct jit_group *g = c->member[k] ? &c->group[c->member[k] - 1] : NULL;

		if (g && g->nr == 1 && !g->slot)
			c->member[k] = 0;
	}
}

/* Is no other check, and no access that may have one, between the members? */
static bool is_alone(const struct jit_ctx *c, unsigned number)
{
	const struct jit_group *g = &c->group[number - 1];

	for (unsigned k = g->first + 1u; k <= g->last; k++)
		if (c->stack[k].check || (c->b->insn[k].access && c->member[k] != number))
			return false;
	return true;
}

void jit_plan_groups(struct jit_ctx *c)
{
	struct open_groups o = { .n = 0 };

	c->nr_groups = 0;
	for (unsigned k = 0; k < c->b->nr; k++) {
		const struct jit_insn *i = &c->b->insn[k];
		struct jit_bytes p;
		struct jit_form f;

		c->member[k] = 0;
		if (i->kind != JIT_EMIT || c->b->reads_window || !jit_parse(&p, i)) {
			o.n = 0;
			continue;
		}
		f = jit_find_form(&p);
		if (c->stack[k].check)
			close_all_but_slotted(c, &o);
		if (may_be_member(c, k, &p, &f)) {
			unsigned open = c->nr_groups;

			add_member(c, &o, k, &p);
			if (c->nr_groups != open) { /* a new one */
				close_all_but_slotted(c, &o);
				if (!c->group[open].slot)
					o.nr[o.n++] = (uint8_t)open;
			}
		} else if (i->access) {
			close_all_but_slotted(c, &o);
		}
		close_written(c, &o, &p, &f);
	}
	drop_single(c);
	for (unsigned n = 0; n < c->nr_groups; n++) {
		struct jit_group *g = &c->group[n];

		g->alone = is_alone(c, n + 1);
		if (!g->slot)
			continue;
		g->slot->room = (uint16_t)(PAGE_SIZE - g->extent);
		g->slot->write = g->access & ISA_WRITE;
	}
}
