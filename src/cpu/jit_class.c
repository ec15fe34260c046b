/*
 * Classes: which emitted code may lead to which without the dispatcher.
 *
 *   class ── owner: address space, code_gen, epoch, mode word
 *     │
 *     └── lin[] by linear page ─┬► cells bound to units of that page
 *                               └► units of it that indirect branches find (expect)
 *
 * cpu/jit.h has the invariants.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/jit.h"

static unsigned lin_hash(gva_t page)
{
	return (unsigned)((page >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ULL >> 53);
}
static_assert(JIT_LIN_ENTRIES == 1u << 11, "lin_hash() has 11 bits");

static struct jit_lin *lin_find(struct jit_class *c, gva_t page)
{
	unsigned n = lin_hash(page);

	while (c->lin[n].used && c->lin[n].page != page)
		n = (n + 1) & (JIT_LIN_ENTRIES - 1);
	return c->lin[n].used ? &c->lin[n] : NULL;
}

static void forget(struct jit_lin *l)
{
	struct jit_cell *cell, *next;
	struct jit_unit *u, *next_u;

	for (cell = l->cells; cell; cell = next) {
		next = cell->next;
		cell->target = cell->stub;
		cell->next = NULL;
	}
	for (u = l->units; u; u = next_u) {
		next_u = u->next_expect;
		u->expect = JIT_NO_RIP;
		u->next_expect = NULL;
	}
	l->cells = NULL;
	l->units = NULL;
}

void jit_class_reset(struct cpu_jit *j, struct jit_class *c)
{
	for (uint32_t n = 0; n < c->nr_lin; n++) {
		struct jit_lin *l = &c->lin[c->filled[n]];

		forget(l);
		l->used = false;
	}
	c->nr_lin = 0;
	c->gen++;
	c->simd = false;
	j->cpu->counters.jit_resets++;
}

/* The entry of the page, made where there is none; may reset the class for room. */
static struct jit_lin *lin_make(struct cpu_jit *j, struct jit_class *c, gva_t page)
{
	unsigned n = lin_hash(page);

	while (c->lin[n].used && c->lin[n].page != page)
		n = (n + 1) & (JIT_LIN_ENTRIES - 1);
	if (c->lin[n].used)
		return &c->lin[n];
	if (c->nr_lin >= JIT_LIN_ENTRIES * 3 / 4)
		return NULL;
	c->lin[n] = (struct jit_lin){ .page = page, .used = true };
	c->filled[c->nr_lin++] = (uint16_t)n;
	return &c->lin[n];
}

void jit_forget_lin(struct cpu_jit *j, gva_t gva)
{
	for (unsigned k = 0; k < ARRAY_SIZE(j->cls); k++) {
		struct jit_lin *l = j->cls[k].nr_lin ? lin_find(&j->cls[k], gva & PAGE_MASK) : NULL;

		if (l)
			forget(l);
	}
}

void jit_forget_all(struct cpu_jit *j)
{
	for (unsigned k = 0; k < ARRAY_SIZE(j->cls); k++)
		jit_class_reset(j, &j->cls[k]);
}

/* --- owners --- */

unsigned jit_world_now(struct vmx_cpu *cpu)
{
	struct cpu_jit *j = cpu->jit;
	struct jit_world *w = &j->world[j->cur_world];

	if (likely(w->vpid == cpu->vpid && w->eptp == cpu->eptp))
		return j->cur_world;
	j->cur_world ^= 1;
	w = &j->world[j->cur_world];
	if (w->vpid != cpu->vpid || w->eptp != cpu->eptp)
		*w = (struct jit_world){ .vpid = cpu->vpid, .eptp = cpu->eptp };
	return j->cur_world;
}

static uint32_t code_gen(const struct tlb_context *c, unsigned cls)
{
	if (cls & 1)
		return c->sub[PRIV_USER].code_gen;
	return c->sub[PRIV_SUPER].code_gen + c->sub[PRIV_SUPER_SMAP].code_gen;
}

void jit_own(struct vmx_cpu *cpu, unsigned cls, uint8_t mode)
{
	struct jit_class *c = &cpu->jit->cls[cls];
	const struct tlb_context *ctx = cpu->tlb->cur;
	uint32_t gen = code_gen(ctx, cls);

	if (likely(c->ctx == ctx && c->code_gen == gen && c->epoch == cpu->epoch && c->mode == mode))
		return;
	jit_class_reset(cpu->jit, c);
	c->ctx = ctx;
	c->code_gen = gen;
	c->epoch = cpu->epoch;
	c->mode = mode;
}

bool jit_claim(struct cpu_jit *j, unsigned cls, struct code_page *p, gva_t lin)
{
	struct jit_class *c = &j->cls[cls];
	bool other = p->lin_gen[cls] == c->gen && p->lin[cls] != lin;

	if (unlikely(other))
		jit_class_reset(j, c);
	p->lin_gen[cls] = c->gen;
	p->lin[cls] = lin;
	return !other;
}

/* --- binding --- */

void jit_bind(struct vmx_cpu *cpu, struct jit_cell *cell, struct jit_unit *u)
{
	struct cpu_jit *j = cpu->jit;
	struct jit_class *c = &j->cls[u->cls];
	gva_t lin = cpu->cs.rip & PAGE_MASK;
	gva_t from_lin = (lin - (uint64_t)((int64_t)cell->pages << PAGE_SHIFT)) & cpu->code_mask;
	const uint8_t *entry = cell->backward ? u->polled : u->code;
	struct jit_unit *from = cell->from;
	struct jit_lin *l;

	if (from->dead || u->dead || from->cls != u->cls || cell->target != cell->stub)
		return;
	cpu->counters.jit_binds++;
	if (from->page == u->page && !cell->pages && !(u->needs & ~from->needs)) {
		cell->target = entry;
		return;
	}
	if (!jit_claim(j, u->cls, from->page, from_lin) ||
	    !jit_claim(j, u->cls, u->page, lin))
		return;
	l = lin_make(j, c, lin);
	if (!l) {
		jit_class_reset(j, c);
		return;
	}
	cell->next = l->cells;
	l->cells = cell;
	cell->target = entry;
	c->simd |= u->needs & JIT_NEEDS_FPU;
}

void jit_bind_indirect(struct vmx_cpu *cpu, struct jit_unit *u)
{
	struct cpu_jit *j = cpu->jit;
	struct jit_class *c = &j->cls[u->cls];
	uint64_t rip = cpu->cs.rip;
	struct jit_lin *l;

	if (u->dead || !jit_claim(j, u->cls, u->page, rip & PAGE_MASK))
		return;
	cpu->counters.jit_binds++;
	if (u->expect == JIT_NO_RIP) {
		l = lin_make(j, c, rip & PAGE_MASK);
		if (!l) {
			jit_class_reset(j, c);
			return;
		}
		u->next_expect = l->units;
		l->units = u;
		u->expect = rip;
	}
	c->ind[rip & 0xffff] = u->indirect;
	c->simd |= u->needs & JIT_NEEDS_FPU;
}

/* --- killing --- */

void jit_kill_page(struct vmx_cpu *cpu, struct code_page *p)
{
	struct cpu_jit *j = cpu->jit;
	struct jit_unit *u, *next;

	if (likely(!p->units))
		return;
	for (u = p->units; u; u = next) {
		next = u->page_next;
		u->dead = true;
	}
	p->units = NULL;
	for (struct cpu_block *b = p->blocks; b; b = b->page_next) {
		b->in_units = 0;
		for (unsigned k = 0; k < ARRAY_SIZE(b->unit); k++)
			b->unit[k] = NULL;
	}
	for (unsigned k = 0; k < ARRAY_SIZE(j->cls); k++) {
		struct jit_lin *l;

		if (p->lin_gen[k] != j->cls[k].gen)
			continue;
		l = lin_find(&j->cls[k], p->lin[k]);
		if (l)
			forget(l);
	}
	cpu->counters.jit_kills++;
}
