/*
 * Units: how the blocks of one (jit_form.c) are put together.
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
#include "cpu/jit_form.h"
#include "lib/log.h"

#include <stdio.h>
#include <unistd.h>

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
static void emit_exit(struct jit_forming *f, int32_t to, int32_t from, bool leaves)
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
static uint32_t note_branch(struct jit_forming *f, unsigned insn, unsigned rsp_undo)
{
	struct cpu_jit *j = f->j;
	uint32_t number = j->nr_branches++;

	j->branches[number] = (struct jit_call){ .unit = f->u, .first = (uint16_t)insn, .nr = 1,
					      .rsp_undo = rsp_undo };
	return number;
}

/* To the address in JIT_S0, by the class's table. */
static void emit_indirect(struct jit_forming *f, unsigned insn, const struct jit_end *end)
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

/* jmp or jcc (its rel32 at `rel`) to a part; cc: to its label_cc. */
static void link_part(struct jit_forming *f, uint32_t rel, int to, bool cc, unsigned current)
{
	if (to <= (int)current) {
		emit_patch(&f->j->rw.e, rel, cc ? f->part[to].label_cc : f->part[to].label);
		return;
	}
	f->patch[f->nr_patches].at = rel;
	f->patch[f->nr_patches].cc = cc;
	f->patch[f->nr_patches++].to = to;
}

/* The part at a page offset, which may be of another page; -1: none. */
static int part_in_page(const struct jit_forming *f, int32_t to)
{
	return to >= 0 && to < (int32_t)PAGE_SIZE ? jit_part_at(f, to) : -1;
}

static void emit_way(struct jit_forming *f, int32_t to, unsigned current, int32_t from)
{
	int part = part_in_page(f, to);

	if (part < 0)
		emit_exit(f, to, from, false);
	else if (part != (int)current + 1)
		link_part(f, emit_jmp(&f->j->rw.e), part, false, current);
}

/* Does the part begin with a poll to which the carry may come in cs->cc? */
static bool takes_carry(const struct jit_forming *f, int part)
{
	return part >= 0 && f->part[part].head && f->part[part].live_in == JIT_CF && !f->j->check;
}

/* One way of a block that leaves the carry in cs->cc, by a jump. */
static void emit_way_with_carry(struct jit_forming *f, int32_t to, unsigned current, int32_t from)
{
	struct jit_rewriter *r = &f->j->rw;
	int part = part_in_page(f, to);
	bool takes = takes_carry(f, part);

	if (!takes)
		jit_emit_carry(r, part < 0 ? JIT_FLAGS_ALL : f->part[part].live_in);
	if (part < 0)
		emit_exit(f, to, from, false);
	else
		link_part(f, emit_jmp(&r->e), part, takes, current);
}

static void emit_cond_with_carry(struct jit_forming *f, const struct jit_end *end, unsigned current, int32_t from)
{
	uint32_t rel = jit_emit_cond(&f->j->rw, end);
	int part = part_in_page(f, end->target);

	if (takes_carry(f, part))
		link_part(f, rel, part, true, current);
	emit_way_with_carry(f, end->next, current, from);
	if (!takes_carry(f, part)) {
		emit_patch(&f->j->rw.e, rel, f->j->rw.e.n);
		emit_way_with_carry(f, end->target, current, from);
	}
}

static bool emit_end(struct jit_forming *f, unsigned n, const struct jit_end *end)
{
	struct jit_rewriter *r = &f->j->rw;
	const struct jit_part *p = &f->part[n];
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
		if (end->carry_in_cc) {
			emit_cond_with_carry(f, end, n, from);
			return true;
		}
		rel = jit_emit_cond(r, end);
		part = part_in_page(f, end->target);
		if (part >= 0)
			link_part(f, rel, part, false, n);
		if (part >= 0) {
			emit_way(f, end->next, n, from);
			return true;
		}
		/* the exit stands out of line, behind the way on where that is a jump too */
		if (jit_part_at(f, end->next) == (int)n + 1) {
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
static void emit_indirect_entry(struct jit_forming *f)
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
	emit_op_mem(e, false, 0x8b, JIT_S1, &request);
	emit_bytes(e, "\x45\x85\xdb", 3); /* test r11d, r11d */
	emit_patch(e, emit_jcc(e, 5), j->ind_miss_at);
	emit_op_mem(e, true, 0x8d, JIT_S0, &back);
	op_state(e, true, 0x89, JIT_S0, &r->cs->page_lin);
	if (f->part[0].live_in)
		jit_emit_load_flags(r, JIT_S0);
}

static bool emit_parts(struct jit_forming *f)
{
	struct cpu_jit *j = f->j;
	struct jit_rewriter *r = &j->rw;
	uint32_t code;

	emit_indirect_entry(f);
	f->u->code = (const uint8_t *)(uintptr_t)emit_here(&r->e);
	code = r->e.n;
	for (unsigned n = 0; n < f->nr_parts; n++) {
		struct jit_part *p = &f->part[n];
		struct jit_block b = { .insn = p->insn, .nr = p->nr, .first = p->first,
				       .live_out = p->live_out,
				       .flags_in_cc = p->head && p->live_in,
				       .no_group = p->block->crosses >= JIT_CROSSINGS,
				       .apart = p->block->apart,
				       .slots = p->in_loop ? ~p->block->scattered : 0,
				       .reads_window = p->block->window >= JIT_WINDOW_LOADS };
		struct jit_end end;

		p->label = r->e.n;
		if (unlikely(j->check))
			jit_emit_look(r, p->first, p->live_in);
		if (p->head)
			p->label_cc = jit_emit_poll(r, p->first, p->live_in);
		if (unlikely(j->count))
			jit_count_emit(r, f->cpu, p->nr - (p->end == JIT_END_LEAVE));
		if (jit_emit_block(r, &b, &end) || !emit_end(f, n, &end))
			return false;
	}
	for (unsigned n = 0; n < f->nr_patches; n++)
		emit_patch(&r->e, f->patch[n].at,
			   f->patch[n].cc ? f->part[f->patch[n].to].label_cc : f->part[f->patch[n].to].label);
	f->u->polled = (const uint8_t *)(uintptr_t)emit_here(&r->e);
	if (!f->part[0].head) { /* else it polls itself */
		(void)jit_emit_poll(r, 0, f->part[0].live_in);
		if (f->part[0].live_in)
			jit_emit_load_flags(r, JIT_S0);
	}
	emit_patch(&r->e, emit_jmp(&r->e), code);
	return true;
}

static void emit_cell_stubs(struct jit_forming *f)
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
static bool keep_records(struct jit_forming *f)
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
		const struct jit_part *p = &f->part[n];

		for (unsigned i = 0; i < p->nr; i++) {
			places[k] = (struct jit_place){ .isa = p->insn[i].isa, .block = p->block,
							.block_off = (uint16_t)p->off,
							.left = p->insn[i].kind == JIT_LEAVE,
							.quick = jit_is_quick(&p->insn[i]), .live_out = p->live_out };
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
								 .rbp = r->calls[n].rbp,
								 .together = r->calls[n].together, .lo = r->calls[n].lo,
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
	struct jit_forming f = { .cpu = cpu, .j = j, .page = p, .cls = cls, .code32 = mode & JIT_NEEDS_FLAT32 };
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
	jit_form(&f, b);
	if (!jit_worth_it(&f)) {
		b->heat = JIT_NEVER;
		return NULL;
	}
	u = &j->units[j->nr_units];
	*u = (struct jit_unit){ .page = p, .cls = (uint8_t)cls, .expect = JIT_NO_RIP,
				.page_off = (uint16_t)f.part[0].off, .needs = jit_needs(&f) };
	if (u->needs & ~mode)
		return NULL;
	if (j->made < j->bisect_first || j->made > j->bisect_last) {
		j->made++;
		b->heat = JIT_NEVER;
		return NULL;
	}
	f.u = u;
	f.first_cell = j->nr_cells;
	jit_find_live(&f);
	u->start = j->e.n;
	r->e = j->e;
	r->cs = &cpu->cs;
	r->miss = (uint64_t)(uintptr_t)&j->miss;
	r->slot = (uint64_t)(uintptr_t)&j->slot;
	r->call = (uint64_t)(uintptr_t)&j->call;
	for (unsigned n = 0; n < ARRAY_SIZE(r->refill); n++)
		r->refill[n] = j->refill[n] ? (uint64_t)(uintptr_t)&j->refill[n] : 0;
	r->fill = j->fill ? (uint64_t)(uintptr_t)&j->fill : 0;
	r->slots = &j->slots[j->nr_slots];
	r->max_slots = (uint32_t)min_u64(JIT_UNIT_SLOTS, JIT_MAX_SLOTS - j->nr_slots);
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
	jit_slots_keep(j, u, r->nr_slots);
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
