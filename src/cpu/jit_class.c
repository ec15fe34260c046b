/*
 * Classes: which emitted code may lead to which without the dispatcher.
 *
 *   class ── owner: address space, code_gen, epoch, mode word
 *     │
 *     └── lin[] by linear page ─┬► cells bound to units of that page
 *                               └► units of it that indirect branches find (expect)
 *
 * A page is active, or put aside: its cells lead to their stubs, and know where they led. When the dispatcher
 * comes to the page, by a translation that is valid then, and finds the same code there, all of them lead on again.
 *
 * Beside those of cpu/jit.h these are invariants:
 * 1. A page that stays active when the owner changes by a flush that keeps global pages (MOV CR3) is global, or
 *    the entries of its path (tlb.h) have the values that they had: a walk would find what it found.
 * 2. All active pages are in the lists of the class, which may name others too.
 *
 * Locks: none; runs on the vCPU's thread. Guest memory that vanishes ends a look at paths anywhere in it.
 */
#include "cpu/jit.h"

static unsigned lin_hash(gva_t page)
{
	return (unsigned)((page >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ULL >> 52);
}
static_assert(JIT_LIN_ENTRIES == 1u << 12, "lin_hash() has 12 bits");

static struct jit_lin *lin_find(struct jit_class *c, gva_t page)
{
	unsigned n = lin_hash(page);

	while (c->lin[n].used && c->lin[n].page != page)
		n = (n + 1) & (JIT_LIN_ENTRIES - 1);
	return c->lin[n].used ? &c->lin[n] : NULL;
}

/* Put it aside. */
static void put_aside(struct jit_lin *l)
{
	if (!l->active)
		return;
	for (struct jit_cell *cell = l->cells; cell; cell = cell->next)
		cell->target = cell->stub;
	for (struct jit_unit *u = l->units; u; u = u->next_expect)
		u->expect = JIT_NO_RIP;
	l->active = false;
}

/* Nothing is bound to it any more. */
static void forget(struct jit_lin *l)
{
	struct jit_cell *cell, *next;
	struct jit_unit *u, *next_u;

	for (cell = l->cells; cell; cell = next) {
		next = cell->next;
		cell->target = cell->stub;
		cell->entry = NULL;
		cell->next = NULL;
	}
	for (u = l->units; u; u = next_u) {
		next_u = u->next_expect;
		u->expect = JIT_NO_RIP;
		u->listed = false;
		u->next_expect = NULL;
	}
	l->cells = NULL;
	l->units = NULL;
	l->active = false;
}

static void put_list_aside(struct jit_class *c, unsigned global)
{
	for (uint32_t n = 0; n < c->nr_active[global]; n++) {
		struct jit_lin *l = &c->lin[c->active[global][n]];

		put_aside(l);
		l->listed[global] = false;
	}
	c->nr_active[global] = 0;
}

static void put_all_aside(struct jit_class *c)
{
	put_list_aside(c, false);
	put_list_aside(c, true);
}

void jit_class_reset(struct cpu_jit *j, struct jit_class *c)
{
	for (uint32_t n = 0; n < c->nr_lin; n++) {
		struct jit_lin *l = &c->lin[c->filled[n]];

		forget(l);
		l->used = false;
	}
	c->nr_lin = c->nr_active[0] = c->nr_active[1] = 0;
	c->gen++;
	c->simd = false;
	j->cpu->counters.jit_resets++;
}

/* Of instruction fetches: whose table they use. */
static enum cpu_priv fetch_priv(const struct vmx_cpu *cpu)
{
	enum cpu_priv priv = PRIV_SUPER_SMAP;

	while (cpu->fetch_tlb != cpu->tlb->cur->sub[priv].e && priv < PRIV_USER)
		priv++;
	return priv;
}

/*
 * The page at the processor's RIP is translated to the host's page, by a translation for execution that is valid now:
 * what is bound to it may lead to it.
 */
static void activate(struct vmx_cpu *cpu, struct jit_class *c, struct jit_lin *l)
{
	unsigned index = (unsigned)(l->page >> PAGE_SHIFT) & (ISA_TLB_ENTRIES - 1);
	enum cpu_priv priv = fetch_priv(cpu);
	const struct tlb_sub *s = &cpu->tlb->cur->sub[priv];
	bool global = s->side[index].global && s->e[index].exec_tag == l->page;

	l->path.nr = 0;
	if (!global && cpu_walk_path(cpu, l->page, priv, &l->path) != l->host)
		l->path.nr = 0;
	if (!l->listed[global]) {
		if (c->nr_active[global] == JIT_LIN_ENTRIES)
			return;
		l->listed[global] = true;
		c->active[global][c->nr_active[global]++] = (uint16_t)(l - c->lin);
	}
	l->active = true;
	for (struct jit_cell *cell = l->cells; cell; cell = cell->next)
		cell->target = cell->entry;
	for (struct jit_unit *u = l->units; u; u = u->next_expect)
		u->expect = l->page + u->page_off;
}

/* Invariant 1, after a flush that kept global pages. */
static void look_again(struct vmx_cpu *cpu, struct jit_class *c)
{
	const uint64_t *root = cpu_path_root(cpu);
	uint32_t kept = 0;

	for (uint32_t n = 0; n < c->nr_active[false]; n++) {
		struct jit_lin *l = &c->lin[c->active[false][n]];

		if (!l->active || !root || !cpu_path_same(&l->path, root, l->page)) {
			put_aside(l);
			l->listed[false] = false;
			continue;
		}
		c->active[false][kept++] = c->active[false][n];
	}
	c->nr_active[false] = kept;
}

void jit_resume(struct cpu_jit *j, unsigned cls, const struct code_page *p, gva_t lin)
{
	struct jit_class *c = &j->cls[cls];
	struct jit_lin *l = lin_find(c, lin);

	if (!l || likely(l->active && l->host == p->page))
		return;
	if (l->host != p->page) {
		forget(l);
		l->host = p->page;
	}
	activate(j->cpu, c, l);
	j->cpu->counters.jit_resumes++;
}

/* The active entry of the page p at the linear page; NULL where there is no room. */
static struct jit_lin *lin_make(struct cpu_jit *j, struct jit_class *c, const struct code_page *p, gva_t page)
{
	unsigned n = lin_hash(page);

	while (c->lin[n].used && c->lin[n].page != page)
		n = (n + 1) & (JIT_LIN_ENTRIES - 1);
	if (!c->lin[n].used) {
		if (c->nr_lin >= JIT_LIN_ENTRIES * 3 / 4)
			return NULL;
		c->lin[n] = (struct jit_lin){ .page = page, .host = p->page, .used = true };
		c->filled_page[c->nr_lin] = page;
		c->filled[c->nr_lin++] = (uint16_t)n;
	}
	if (!c->lin[n].active)
		activate(j->cpu, c, &c->lin[n]);
	return c->lin[n].active && c->lin[n].host == p->page ? &c->lin[n] : NULL;
}

void jit_forget_lin(struct cpu_jit *j, gva_t gva)
{
	for (unsigned k = 0; k < ARRAY_SIZE(j->cls); k++) {
		struct jit_lin *l = j->cls[k].nr_lin ? lin_find(&j->cls[k], gva & PAGE_MASK) : NULL;

		if (l)
			put_aside(l);
	}
}

void jit_forget_around(struct cpu_jit *j, gva_t gva, unsigned shift)
{
	for (unsigned k = 0; k < ARRAY_SIZE(j->cls); k++) {
		struct jit_class *c = &j->cls[k];

		for (uint32_t n = 0; n < c->nr_lin; n++)
			if (!((c->filled_page[n] ^ gva) >> shift))
				put_aside(&c->lin[c->filled[n]]);
	}
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

static uint32_t cr3_gen(const struct tlb_context *c, unsigned cls)
{
	if (cls & 1)
		return c->sub[PRIV_USER].cr3_gen;
	return c->sub[PRIV_SUPER].cr3_gen + c->sub[PRIV_SUPER_SMAP].cr3_gen;
}

void jit_own(struct vmx_cpu *cpu, unsigned cls, uint8_t mode)
{
	struct jit_class *c = &cpu->jit->cls[cls];
	const struct tlb_context *ctx = cpu->tlb->cur;
	uint32_t gen = code_gen(ctx, cls), flushes = cr3_gen(ctx, cls), paths = cpu->tlb->path_gen;
	bool same = c->ctx == ctx && c->code_gen == gen && c->epoch == cpu->epoch;

	if (likely(same && c->cr3_gen == flushes && c->mode == mode))
		return;
	c->ctx = NULL; /* none, if memory vanishes while it is looked at */
	if (c->mode != mode)
		jit_class_reset(cpu->jit, c);
	else if (!same)
		put_all_aside(c);
	else if (c->path_gen != paths)
		put_list_aside(c, false);
	else
		look_again(cpu, c);
	c->ctx = ctx;
	c->code_gen = gen;
	c->cr3_gen = flushes;
	c->path_gen = paths;
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
	gva_t from_lin = (lin - (uint64_t)((int64_t)cell->pages * (int64_t)PAGE_SIZE)) & cpu->code_mask;
	const uint8_t *entry = cell->backward ? u->polled : u->code;
	struct jit_unit *from = cell->from;
	struct jit_lin *l;

	if (from->dead || u->dead || from->cls != u->cls || cell->target != cell->stub || cell->entry)
		return;
	cpu->counters.jit_binds++;
	if (from->page == u->page && !cell->pages && !(u->needs & ~from->needs)) {
		cell->target = entry;
		return;
	}
	if (!jit_claim(j, u->cls, from->page, from_lin) ||
	    !jit_claim(j, u->cls, u->page, lin))
		return;
	l = lin_make(j, c, u->page, lin);
	if (!l) {
		jit_class_reset(j, c);
		return;
	}
	cell->next = l->cells;
	l->cells = cell;
	cell->target = cell->entry = entry;
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
	if (u->expect == rip && c->ind[rip & 0xffff] == u->indirect)
		return; /* the dispatcher has just resumed its page */
	cpu->counters.jit_binds++;
	if (!u->listed) {
		l = lin_make(j, c, u->page, rip & PAGE_MASK);
		if (!l) {
			jit_class_reset(j, c);
			return;
		}
		u->next_expect = l->units;
		l->units = u;
		u->listed = true;
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
