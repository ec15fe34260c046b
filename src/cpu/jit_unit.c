/*
 * Units: which blocks make one, and how they are put together.
 *
 *   indirect:  (flags are in cc) cs->rip == expect?; exit_request?; page_lin
 *   code:      block 0 … block n, each ended by a jump within the unit, a cell or
 *              an indirect branch
 *   polled:    exit_request?; to code
 *              the cells' stubs, the cold paths (src/jit)
 *
 * Invariants
 * 1. Blocks of a unit are live blocks of one page, verified in this epoch; so are
 *    those whose use of flags was looked at. Killing any of them kills the unit
 *    (jit.h, invariant 4).
 * 2. A jump within the unit to a block that is not behind it, in the emitted order
 *    or by address, passes a poll. Cells compare addresses (jit_cell.backward): so
 *    every cycle of the guest's code, which has a jump backward, passes one.
 *
 * Locks: none; runs on the vCPU's thread with the FPU unloaded.
 */
#include "cpu/jit.h"
#include "lib/log.h"

#include <stdio.h>
#include <unistd.h>

#define MAX_PATCHES (2 * JIT_MAX_BLOCKS)
#define FEW_PARTS 4 /* a unit has so many that other units have too */

struct part {
	struct cpu_block *block;
	struct jit_insn *insn;
	unsigned nr;
	uint16_t first;
	int32_t off;	    /* of its first byte in the page */
	int32_t succ[2];    /* page offsets it may go on at; -1: elsewhere */
	enum jit_end_kind end;
	uint8_t live_in, live_out;
	bool head;	    /* a jump from behind leads here */
	uint32_t label;	    /* host offset */
};

struct forming {
	struct vmx_cpu *cpu;
	struct cpu_jit *j;
	struct code_page *page;
	struct jit_unit *u;
	struct part part[JIT_MAX_BLOCKS];
	unsigned nr_parts, nr_insns;
	struct { uint32_t at; int to; } patch[MAX_PATCHES]; /* forward jumps within the unit */
	unsigned nr_patches;
	uint32_t first_cell;
	unsigned cls;
	bool code32;
};

/* The live block at a page offset, fit to be part of a unit or looked into. */
static struct cpu_block *block_at(struct forming *f, int32_t off)
{
	uint64_t key;
	struct cpu_block *b;

	if (off < 0 || off >= (int32_t)PAGE_SIZE)
		return NULL;
	key = (f->page->page + (hpa_t)off) |
	      (uint64_t)(f->code32 ? ISA_CODE32 : ISA_CODE64) << BLOCK_MODE_SHIFT;
	for (b = f->cpu->blocks->hash[block_hash(key)]; b && b->key != key;)
		b = b->hash_next;
	return b && !b->host2 && b->epoch ? b : NULL; /* the page has been compared: jit_page_fresh() */
}

/* Classified instructions of a block up to the one that the interpreter has to run. */
static unsigned classify(const struct forming *f, const struct cpu_block *b, struct jit_insn *insn,
			 unsigned max)
{
	unsigned off = (unsigned)(cpu_block_host(b) & ~PAGE_MASK), n = 0;

	for (const struct isa_insn *i = b->insns; i != b->end && n < max; i++) {
		struct jit_insn *x = &insn[n++];

		*x = (struct jit_insn){ .isa = i, .bytes = b->bytes + i->off,
					.page_off = (uint16_t)(off + i->off), .code32 = f->code32 };
		jit_classify(x);
		if (x->kind == JIT_LEAVE)
			break;
	}
	return n;
}

static int32_t relative_target(const struct jit_insn *x)
{
	return (int32_t)(x->page_off + x->isa->len) + (int32_t)x->isa->imm;
}

/* How a block that ends with the instruction goes on. */
static enum jit_end_kind end_kind(const struct jit_insn *x)
{
	const struct isa_insn *i = x->isa;

	if (x->kind == JIT_LEAVE)
		return JIT_END_LEAVE;
	if (!(i->flags & ISA_ENDS_BLOCK))
		return JIT_END_NEXT;
	if ((i->map == 0 && ((i->opcode & 0xf0) == 0x70 || (i->opcode & 0xfc) == 0xe0)) ||
	    (i->map == 1 && (i->opcode & 0xf0) == 0x80))
		return JIT_END_COND; /* Jcc, LOOPcc, JRCXZ */
	if (i->map == 0 && (i->opcode == 0xe8 || i->opcode == 0xe9 || i->opcode == 0xeb))
		return JIT_END_JUMP;
	return JIT_END_INDIRECT;
}

/* Where a block may go on within the page. */
static void successors(struct part *p)
{
	const struct jit_insn *last = &p->insn[p->nr - 1];
	int32_t next = last->page_off + last->isa->len;

	p->succ[0] = p->succ[1] = -1;
	p->end = end_kind(last);
	if (p->end == JIT_END_NEXT || p->end == JIT_END_COND)
		p->succ[0] = next;
	if (p->end == JIT_END_COND || p->end == JIT_END_JUMP)
		p->succ[1] = relative_target(last);
	for (int k = 0; k < 2; k++)
		if (p->succ[k] >= (int32_t)PAGE_SIZE || p->succ[k] < 0)
			p->succ[k] = -1;
}

static int part_at(const struct forming *f, int32_t off)
{
	for (unsigned n = 0; off >= 0 && n < f->nr_parts; n++)
		if (f->part[n].off == off)
			return (int)n;
	return -1;
}

static bool add_part(struct forming *f, struct cpu_block *b)
{
	struct part *p = &f->part[f->nr_parts];

	if (f->nr_parts == JIT_MAX_BLOCKS || f->nr_insns + b->nr > JIT_UNIT_INSNS)
		return false;
	*p = (struct part){ .block = b, .insn = &f->j->insn[f->nr_insns],
			    .first = (uint16_t)f->nr_insns,
			    .off = (int32_t)(cpu_block_host(b) & ~PAGE_MASK) };
	p->nr = classify(f, b, p->insn, b->nr);
	successors(p);
	f->nr_insns += p->nr;
	f->nr_parts++;
	return true;
}

/* Flags that the code at a page offset of another unit needs. */
static uint8_t live_ahead(struct forming *f, int32_t off)
{
	struct cpu_block *b = block_at(f, off);

	if (!b)
		return JIT_FLAGS_ALL;
	return jit_flags_live(f->j->ahead, classify(f, b, f->j->ahead, ARRAY_SIZE(f->j->ahead)),
			      JIT_FLAGS_ALL);
}

/* Does the block go elsewhere than to succ[]? */
static bool leaves_page(const struct part *p)
{
	int ways = (p->succ[0] >= 0) + (p->succ[1] >= 0);

	return ways < (p->end == JIT_END_COND ? 2 : 1);
}

static void find_live(struct forming *f)
{
	bool changed = true;

	for (unsigned n = 0; n < f->nr_parts; n++) {
		struct part *p = &f->part[n];

		p->live_out = leaves_page(p) ? JIT_FLAGS_ALL : 0;
		for (int k = 0; k < 2; k++)
			if (p->succ[k] >= 0 && part_at(f, p->succ[k]) < 0)
				p->live_out |= live_ahead(f, p->succ[k]);
	}
	while (changed) {
		changed = false;
		for (unsigned n = f->nr_parts; n--;) {
			struct part *p = &f->part[n];
			uint8_t out = p->live_out, in;

			for (int k = 0; k < 2; k++) {
				int to = part_at(f, p->succ[k]);

				if (to >= 0)
					out |= f->part[to].live_in;
			}
			in = jit_flags_live(p->insn, p->nr, out);
			changed |= in != p->live_in || out != p->live_out;
			p->live_in = in;
			p->live_out = out;
		}
	}
}

/* --- emitting --- */

static struct host_mem at(const void *p)
{
	return (struct host_mem){ .absolute = true, .address = (uint64_t)(uintptr_t)p };
}

static void op_state(struct emitter *e, bool wide, unsigned opcode, unsigned reg, const void *p)
{
	struct host_mem m = at(p);

	emit_op_mem(e, wide, opcode, reg, &m);
}

/* page_lin += pages, modulo 4 GiB in 32-bit code; changes JIT_S0, no flags. */
static void emit_move_page(struct jit_rewriter *r, int32_t pages, bool code32)
{
	struct host_mem m = { .base = JIT_S0, .index = HOST_NONE, .disp = pages * (int32_t)PAGE_SIZE };

	op_state(&r->e, true, 0x8b, JIT_S0, &r->cs->page_lin);
	emit_op_mem(&r->e, !code32, 0x8d, JIT_S0, &m);
	op_state(&r->e, true, 0x89, JIT_S0, &r->cs->page_lin);
}

/* Through a new cell to page offset `to` (which may be of another page). */
static void emit_exit(struct forming *f, int32_t to, int32_t from, bool leaves)
{
	struct cpu_jit *j = f->j;
	struct jit_rewriter *r = &j->rw;
	struct jit_cell *c = &j->cells[j->nr_cells++];
	int32_t pages = to >> PAGE_SHIFT;

	*c = (struct jit_cell){ .from = f->u, .pages = pages, .off = (uint16_t)(to & ~(int32_t)PAGE_MASK),
				.backward = to <= from, .leaves = leaves };
	if (pages)
		emit_move_page(r, pages, f->code32);
	emit_jmp_via(&r->e, (uint64_t)(uintptr_t)&c->target);
}

/* A number for the record of something that may be run again. */
static uint32_t note_branch(struct forming *f, unsigned insn, unsigned rsp_undo)
{
	struct cpu_jit *j = f->j;
	uint32_t number = j->nr_branches++;

	j->branches[number] = (struct jit_call){ .unit = f->u, .first = (uint16_t)insn, .nr = 1,
					      .rsp_undo = rsp_undo };
	return number;
}

/* To the address in JIT_S0, by the class's table. */
static void emit_indirect(struct forming *f, unsigned insn, const struct jit_end *end)
{
	struct jit_rewriter *r = &f->j->rw;
	struct emitter *e = &r->e;
	struct host_mem spill = at(&r->cs->spill[3]);

	emit_byte(e, 0xc7); /* mov dword [spill[3]], number */
	emit_modrm_mem(e, 0, &spill, 4);
	emit_u32(e, note_branch(f, insn, end->rsp_undo));
	op_state(e, true, 0x89, JIT_S0, &r->cs->rip);
	emit_bytes(e, "\x44\x0f\xb7\xdd", 4); /* movzx r11d,bp */
	op_state(e, true, 0x8d, JIT_S0, f->j->ind[f->u->cls]);
	emit_bytes(e, "\x42\xff\x64\xdd\x00", 5); /* jmp [rbp+r11*8] */
}

/* jmp or jcc (its rel32 at `rel`) to a part. */
static void link_part(struct forming *f, uint32_t rel, int to, unsigned current)
{
	if (to <= (int)current) {
		emit_patch(&f->j->rw.e, rel, f->part[to].label);
		return;
	}
	f->patch[f->nr_patches].at = rel;
	f->patch[f->nr_patches++].to = to;
}

static void emit_way(struct forming *f, int32_t to, unsigned current, int32_t from)
{
	int part = to >= 0 && to < (int32_t)PAGE_SIZE ? part_at(f, to) : -1;

	if (part < 0)
		emit_exit(f, to, from, false);
	else if (part != (int)current + 1)
		link_part(f, emit_jmp(&f->j->rw.e), part, current);
}

static bool emit_end(struct forming *f, unsigned n, const struct jit_end *end)
{
	struct jit_rewriter *r = &f->j->rw;
	const struct part *p = &f->part[n];
	int32_t from = p->insn[p->nr - 1].page_off;
	uint32_t rel;
	int part;

	if (end->kind != p->end) /* liveness and polls were planned for another one */
		return false;

	switch (end->kind) {
	case JIT_END_NEXT:
		emit_way(f, end->next, n, from);
		return true;
	case JIT_END_JUMP:
		emit_way(f, end->target, n, from);
		return true;
	case JIT_END_COND:
		rel = jit_emit_cond(r, end);
		part = end->target >= 0 && end->target < (int32_t)PAGE_SIZE ? part_at(f, end->target) : -1;
		if (part >= 0)
			link_part(f, rel, part, n);
		if (part >= 0) {
			emit_way(f, end->next, n, from);
			return true;
		}
		/* the exit stands out of line, behind the way on where that is a jump too */
		if (part_at(f, end->next) == (int)n + 1) {
			uint32_t over = emit_jmp(&r->e);

			emit_patch(&r->e, rel, r->e.n);
			emit_exit(f, end->target, from, false);
			emit_patch(&r->e, over, r->e.n);
			return true;
		}
		emit_way(f, end->next, n, from);
		emit_patch(&r->e, rel, r->e.n);
		emit_exit(f, end->target, from, false);
		return true;
	case JIT_END_INDIRECT:
		emit_indirect(f, (unsigned)(p->first + p->nr - 1), end);
		return true;
	case JIT_END_LEAVE:
		emit_exit(f, p->insn[end->insn - p->first].page_off, from, true);
		return true;
	}
	return false;
}

/*
 * The indirect entry. A request leaves by the way of a miss: cs->rip is the target, and
 * the dispatcher looks.
 */
static void emit_indirect_entry(struct forming *f)
{
	struct cpu_jit *j = f->j;
	struct jit_rewriter *r = &j->rw;
	struct emitter *e = &r->e;
	struct host_mem request = at(&r->cs->exit_request);
	struct host_mem back = { .base = JIT_S0, .index = HOST_NONE, .disp = -f->part[0].off };

	f->u->indirect = (const uint8_t *)(uintptr_t)emit_here(e);
	op_state(e, true, 0x8b, JIT_S0, &r->cs->rip);
	op_state(e, true, 0x3b, JIT_S0, &f->u->expect);
	emit_patch(e, emit_jcc(e, 5), j->ind_miss_at);
	emit_byte(e, 0x83); /* cmp dword [exit_request],0 */
	emit_modrm_mem(e, 7, &request, 1);
	emit_byte(e, 0);
	emit_patch(e, emit_jcc(e, 5), j->ind_miss_at);
	emit_op_mem(e, true, 0x8d, JIT_S0, &back);
	op_state(e, true, 0x89, JIT_S0, &r->cs->page_lin);
	if (f->part[0].live_in)
		jit_emit_load_flags(r, JIT_S0);
}

static bool emit_parts(struct forming *f)
{
	struct cpu_jit *j = f->j;
	struct jit_rewriter *r = &j->rw;
	uint32_t code;

	emit_indirect_entry(f);
	f->u->code = (const uint8_t *)(uintptr_t)emit_here(&r->e);
	code = r->e.n;
	for (unsigned n = 0; n < f->nr_parts; n++) {
		struct part *p = &f->part[n];
		struct jit_block b = { .insn = p->insn, .nr = p->nr, .first = p->first,
				       .live_out = p->live_out,
				       .flags_in_cc = p->head && p->live_in,
				       .no_group = p->block->crosses >= JIT_CROSSINGS,
				       .reads_window = p->block->window >= JIT_WINDOW_LOADS };
		struct jit_end end;

		p->label = r->e.n;
		if (unlikely(j->check))
			jit_emit_look(r, p->first, p->live_in);
		if (p->head)
			jit_emit_poll(r, p->first, p->live_in);
		if (unlikely(j->count))
			jit_count_emit(r, f->cpu, p->nr - (p->end == JIT_END_LEAVE));
		if (jit_emit_block(r, &b, &end) || !emit_end(f, n, &end))
			return false;
	}
	for (unsigned n = 0; n < f->nr_patches; n++)
		emit_patch(&r->e, f->patch[n].at, f->part[f->patch[n].to].label);
	f->u->polled = (const uint8_t *)(uintptr_t)emit_here(&r->e);
	if (!f->part[0].head) { /* else it polls itself */
		jit_emit_poll(r, 0, f->part[0].live_in);
		if (f->part[0].live_in)
			jit_emit_load_flags(r, JIT_S0);
	}
	emit_patch(&r->e, emit_jmp(&r->e), code);
	return true;
}

static void emit_cell_stubs(struct forming *f)
{
	struct cpu_jit *j = f->j;
	struct emitter *e = &j->rw.e;

	for (uint32_t n = f->first_cell; n < j->nr_cells; n++) {
		j->cells[n].stub = j->cells[n].target = (const uint8_t *)(uintptr_t)emit_here(e);
		emit_mov_imm32(e, JIT_S1, JIT_EXIT_CELL + n);
		emit_patch(e, emit_jmp(e), j->leave_at);
	}
}

/* Records that outlive the rewriter's buffers. */
static bool keep_records(struct forming *f)
{
	struct cpu_jit *j = f->j;
	struct jit_rewriter *r = &j->rw;
	struct jit_unit *u = f->u;
	struct jit_place *places = jit_bulk(j, f->nr_insns * sizeof(*places));
	struct jit_recover *recover = jit_bulk(j, r->nr_recover * sizeof(*recover));
	unsigned k = 0;

	if (!places || !recover)
		return false;
	for (unsigned n = 0; n < f->nr_parts; n++) {
		const struct part *p = &f->part[n];

		for (unsigned i = 0; i < p->nr; i++) {
			places[k] = (struct jit_place){ .isa = p->insn[i].isa, .block = p->block,
							.block_off = (uint16_t)p->off,
							.left = p->insn[i].kind == JIT_LEAVE, .live_out = p->live_out };
			if (unlikely(j->check))
				places[k].live = jit_flags_live(&p->insn[i], p->nr - i, p->live_out);
			k++;
		}
	}
	for (uint32_t n = 0; n < r->nr_recover; n++)
		recover[n] = r->recover[n];
	for (uint32_t n = 0; n < r->nr_calls; n++)
		j->calls[r->first_call + n] = (struct jit_call){ .unit = u, .first = r->calls[n].first,
								 .nr = r->calls[n].nr, .kind = r->calls[n].kind,
								 .rbp = r->calls[n].rbp, .lo = r->calls[n].lo,
								 .extent = r->calls[n].extent };
	u->places = places;
	u->nr_places = (uint16_t)f->nr_insns;
	u->recover = recover;
	u->nr_recover = r->nr_recover;
	return true;
}

static bool room(const struct cpu_jit *j)
{
	return j->nr_units < JIT_MAX_UNITS && j->nr_cells + 2 * JIT_MAX_BLOCKS < JIT_MAX_CELLS &&
	       j->nr_calls + JIT_UNIT_CALLS < JIT_MAX_CALLS &&
	       j->nr_branches + JIT_MAX_BLOCKS < JIT_MAX_UNITS &&
	       j->e.size - j->e.n > j->room && JIT_BULK_BYTES - j->bulk_used > (64u << 10);
}

static int32_t branch_off(const struct part *p)
{
	return p->insn[p->nr - 1].page_off;
}

/*
 * Is a block that runs behind this unit's to be a part of it? Each unit that has it has a copy of its code:
 * a compiler's code would not fit, if each had all that follows.
 */
static bool wanted_part(const struct forming *f, const struct cpu_block *s)
{
	if (s->heat == JIT_NEVER || s->unit[f->cls])
		return false;
	if (f->j->threshold > 8 && (uint32_t)s->heat * 8 < f->j->threshold)
		return false;
	return !(s->in_units & 1u << f->cls) || f->nr_parts < FEW_PARTS;
}

static void form(struct forming *f, struct cpu_block *b)
{
	add_part(f, b);
	for (unsigned n = 0; n < f->nr_parts; n++)
		for (int k = 0; k < 2; k++) {
			struct cpu_block *s = NULL;

			if (f->part[n].succ[k] >= 0 && part_at(f, f->part[n].succ[k]) < 0)
				s = block_at(f, f->part[n].succ[k]);
			if (s && wanted_part(f, s))
				add_part(f, s);
		}
	f->part[0].head = f->j->check; /* every poll behind a look: jit_check.c counts by them */
	for (unsigned n = 0; n < f->nr_parts; n++)
		for (int k = 0; k < 2; k++) {
			int to = part_at(f, f->part[n].succ[k]);

			if (to >= 0 && (to <= (int)n || f->part[to].off <= branch_off(&f->part[n])))
				f->part[to].head = true;
		}
}

/*
 * The way in and out of a unit costs as much as the interpreter takes for some instructions: code
 * between two system instructions is often shorter.
 */
static bool worth_it(const struct forming *f)
{
	const struct part *p = &f->part[0];
	unsigned emitted = 0;

	for (unsigned n = 0; n < p->nr; n++)
		emitted += p->insn[n].kind == JIT_EMIT;
	return emitted >= (p->end == JIT_END_LEAVE ? f->j->least_before_leave : 1) && p->insn[0].kind != JIT_LEAVE;
}

static uint8_t needs(const struct forming *f)
{
	uint8_t all = (f->code32 ? JIT_NEEDS_FLAT32 : JIT_NEEDS_CODE64) | JIT_NEEDS_UNWATCHED;

	for (unsigned n = 0; n < f->nr_insns; n++)
		if (f->j->insn[n].kind == JIT_EMIT)
			all |= f->j->insn[n].needs;
	return all;
}

static void perf_line(struct cpu_jit *j, const struct jit_unit *u, uint64_t rip)
{
	char line[96];
	int n = snprintf(line, sizeof(line), "%lx %x jit_%lx_%u\n", (long)(uintptr_t)u->indirect,
			 u->end - u->start, (long)rip, u->nr_places);

	if (n > 0 && write(j->perf_fd, line, (size_t)n) != n)
		j->perf = false;
}

struct jit_unit *jit_translate(struct vmx_cpu *cpu, struct cpu_block *b, struct code_page *p,
			       unsigned cls, uint8_t mode)
{
	struct cpu_jit *j = cpu->jit;
	struct forming f = { .cpu = cpu, .j = j, .page = p, .cls = cls, .code32 = mode & JIT_NEEDS_FLAT32 };
	struct jit_rewriter *r = &j->rw;
	struct jit_unit *u;
	uint32_t first_call, branches, bulk;

	isa_fpu_sync(&cpu->cs);
	if (!room(j)) {
		jit_drop_all(j);
		cpu->counters.jit_drops++;
	}
	jit_need_ind(j, cls);
	first_call = j->nr_calls;
	branches = j->nr_branches;
	bulk = j->bulk_used;
	form(&f, b);
	if (!worth_it(&f)) {
		b->heat = JIT_NEVER;
		return NULL;
	}
	u = &j->units[j->nr_units];
	*u = (struct jit_unit){ .page = p, .cls = (uint8_t)cls, .expect = JIT_NO_RIP,
				.page_off = (uint16_t)f.part[0].off, .needs = needs(&f) };
	if (u->needs & ~mode)
		return NULL;
	if (j->made < j->bisect_first || j->made > j->bisect_last) {
		j->made++;
		b->heat = JIT_NEVER;
		return NULL;
	}
	f.u = u;
	f.first_cell = j->nr_cells;
	find_live(&f);
	u->start = j->e.n;
	r->e = j->e;
	r->cs = &cpu->cs;
	r->miss = (uint64_t)(uintptr_t)&j->miss;
	r->slot = (uint64_t)(uintptr_t)&j->slot;
	r->call = (uint64_t)(uintptr_t)&j->call;
	for (unsigned n = 0; n < ARRAY_SIZE(r->refill); n++)
		r->refill[n] = j->refill[n] ? (uint64_t)(uintptr_t)&j->refill[n] : 0;
	r->first_call = first_call;
	jit_rewriter_init(r);
	if (!emit_parts(&f)) {
		b->heat = JIT_NEVER;
		goto out_refused;
	}
	emit_cell_stubs(&f);
	if (jit_emit_cold(r) || r->e.full || !keep_records(&f)) {
		b->heat = JIT_NEVER;
		goto out_refused;
	}
	j->e.n = r->e.n;
	j->nr_calls += r->nr_calls;
	u->end = j->e.n;
	u->page_next = p->units;
	p->units = u;
	b->unit[cls] = u;
	for (unsigned n = 0; n < f.nr_parts; n++)
		f.part[n].block->in_units |= (uint8_t)(1u << cls);
	j->nr_units++;
	j->made++;
	cpu->counters.jit_units++;
	cpu->counters.jit_insns += f.nr_insns;
	cpu->counters.jit_bytes = j->e.n;
	if (unlikely(j->perf))
		perf_line(j, u, cpu->cs.rip);
	if (unlikely(j->dump))
		jit_dump_unit(j, u);
	exec_memory_sync();
	return u;
out_refused:
	j->nr_cells = f.first_cell;
	j->nr_branches = branches;
	j->bulk_used = bulk;
	return NULL;
}
