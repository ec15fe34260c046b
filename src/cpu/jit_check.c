/*
 * USERKVM_JIT=check: emitted code in lock-step with the interpreter, and
 * USERKVM_JIT=dump: what was emitted for what.
 *
 *   state and FPU kept ► interpreter runs up to TURN_BLOCKS blocks, its writes journalled
 *     ► registers and memory put back ► the unit, and what it leads to, runs as many ► compare
 *
 * Under `check` every block of a unit begins with a call of a stub (JIT_STUB_LOOK) that counts
 * blocks, and leaves where the interpreter's turn ended. Where emitted code leaves earlier (a
 * cell that leads nowhere yet, a stub that leaves) the interpreter has a second turn, up to
 * the same place.
 *
 * Invariants
 * 1. While the interpreter's first turn lasts every access goes through cpu_mem(): cs->tlb is
 *    the empty table. A turn that unwinds has happened (cpu_jit_unwound()).
 * 2. After a mismatch the guest goes on with the interpreter's result.
 * 3. Units with one processor only. Blocks with what cannot be run twice (system
 *    instructions, REP, random numbers) are not compared: they run alone.
 * 4. Flags that are dead where emitted code has left are not compared.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/jit.h"
#include "lib/copy.h"
#include "lib/log.h"

#include <stdio.h>

#define JOURNAL_ENTRIES 512
#define TURN_BLOCKS 32
#define TURN_UNITS 4 /* that a report shows */
#define IMAGE_BYTES 4096
#define SHOWN 20 /* mismatches that are printed */

struct cpu_journal {
	struct {
		uint8_t *p;
		uint32_t size;
		uint8_t old[64], new[64];
	} e[JOURNAL_ENTRIES];
	uint32_t n;
	bool full;
};

struct snapshot {
	uint64_t gpr[NR_GPRS], rip, rflags;
	uint32_t cc;
	union {
		struct isa_xsave_image x;
		uint8_t image[IMAGE_BYTES];
	} __attribute__((aligned(64)));
};

/* What the interpreter does in its turn. */
struct turn {
	const struct jit_unit *u; /* whose places it follows; a cell may lead to another's */
	unsigned cls;
	uint32_t blocks;	  /* begun */
	const struct cpu_block *last;
	const struct jit_unit *seen[TURN_UNITS];
	unsigned nr_seen;
};

static struct {
	struct cpu_journal journal;
	struct snapshot before, expected, actual;
} check __attribute__((aligned(64))); /* one processor at a time: nr_cpus is 1 */

static void copy(void *dst, const void *src, size_t n)
{
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

static bool same(const void *a, const void *b, size_t n)
{
	const uint8_t *x = a, *y = b;

	while (n--)
		if (*x++ != *y++)
			return false;
	return true;
}

void cpu_journal_note(struct vmx_cpu *cpu, uint8_t *p, unsigned size)
{
	struct cpu_journal *l = cpu->journal;

	if (l->n == JOURNAL_ENTRIES || size > sizeof(l->e[0].old)) {
		l->full = true;
		return;
	}
	l->e[l->n].p = p;
	l->e[l->n].size = size;
	copy(l->e[l->n].old, p, size);
	l->n++;
}

void cpu_jit_unwound(struct vmx_cpu *cpu)
{
	if (cpu->jit && unlikely(cpu->jit->count))
		jit_count_unwound(cpu);
	if (likely(!cpu->journal))
		return;
	cpu->journal = NULL;
	cpu_mode_changed(cpu); /* cs->tlb again */
}

static size_t image_bytes(void)
{
	return isa_xsave_size() < IMAGE_BYTES ? isa_xsave_size() : IMAGE_BYTES;
}

static void take(struct cpu_state *cs, struct snapshot *s)
{
	copy(s->gpr, cs->gpr, sizeof(s->gpr));
	s->rip = cs->rip;
	s->rflags = cs->rflags;
	s->cc = cs->cc;
	copy(s->image, isa_fpu_image(cs), image_bytes());
}

static void put_back(struct cpu_state *cs, const struct snapshot *s)
{
	isa_fpu_sync(cs);
	copy(cs->gpr, s->gpr, sizeof(s->gpr));
	cs->rip = s->rip;
	cs->rflags = s->rflags;
	cs->cc = s->cc;
	copy(cs->xsave, s->image, image_bytes());
}

static bool can_run_twice(const struct jit_place *place, unsigned nr)
{
	for (unsigned n = 0; n < nr && !place[n].left; n++) {
		const struct isa_insn *i = place[n].isa;

		if (i->map == 0 && i->opcode == 0x9c) /* PUSHF */
			continue;
		if (i->system || (i->flags & (ISA_REP | ISA_REPNE)) || (i->map == 1 && i->opcode == 0xc7))
			return false;
	}
	return true;
}

/* The places of a block in a unit; NULL: it is no part of it. */
static const struct jit_place *places_in(const struct jit_unit *u, const struct cpu_block *b, unsigned *nr)
{
	const struct jit_place *first = NULL;

	*nr = 0;
	for (unsigned n = 0; n < u->nr_places; n++) {
		if (u->places[n].block != b)
			continue;
		if (!first)
			first = &u->places[n];
		++*nr;
	}
	return first;
}

/* As emitted code goes: on within the unit if the block is a part of it, else to the block's own unit. */
static const struct jit_place *places_of(struct turn *t, const struct cpu_block *b, unsigned *nr)
{
	const struct jit_place *p = places_in(t->u, b, nr);

	if (p || !b->unit[t->cls])
		return p;
	t->u = b->unit[t->cls];
	if (t->nr_seen < TURN_UNITS)
		t->seen[t->nr_seen++] = t->u;
	return places_in(t->u, b, nr);
}

/* A turn that leaves unwinds. */
static void run_handler(struct cpu_state *cs, const struct isa_insn *i)
{
	cs->cur = i;
	i->fn(cs, i);
	if (unlikely(cpu_of(cs)->left))
		cpu_unwind_left(cpu_of(cs));
}

/* The block at cs->rip; true: its end was reached. */
static bool interpret_block(struct vmx_cpu *cpu, const struct jit_place *p, unsigned nr)
{
	struct cpu_state *cs = &cpu->cs;
	const struct isa_insn *i = NULL;

	cs->block_rip = cs->rip;
	for (unsigned n = 0; n < nr; n++) {
		uint64_t rip = (cs->block_rip + p[n].isa->off) & cpu->code_mask;

		if (p[n].left) {
			cs->rip = rip;
			return false;
		}
		i = p[n].isa;
		run_handler(cs, i);
		if (unlikely(cpu->apic.write.pending)) /* what it does would be done twice */
			check.journal.full = true;
	}
	if (!(i->flags & ISA_ENDS_BLOCK))
		cs->rip = isa_next_rip(cs, i) & cpu->code_mask;
	return true;
}

/* The interpreter's first turn from the block b on; may unwind. */
static void first_turn(struct vmx_cpu *cpu, struct turn *t, struct cpu_block *b)
{
	uint32_t drops = cpu->jit->drops;

	for (;;) {
		unsigned nr;
		const struct jit_place *p = places_of(t, b, &nr);

		if (!p || !can_run_twice(p, nr))
			break;
		t->blocks++;
		t->last = b;
		if (!interpret_block(cpu, p, nr) || t->blocks == TURN_BLOCKS || check.journal.full || t->u->dead)
			break;
		b = cpu_block_at_rip(cpu, NULL);
		if (t->u->dead || drops != cpu->jit->drops)
			break;
	}
}

static void undo(struct cpu_journal *l)
{
	for (uint32_t n = 0; n < l->n; n++)
		copy(l->e[n].new, l->e[n].p, l->e[n].size);
	for (uint32_t n = l->n; n--;)
		copy(l->e[n].p, l->e[n].old, l->e[n].size);
}

static void print_unit(const struct jit_unit *u, const struct cpu_jit *j)
{
	char text[96];
	const uint8_t *code = j->mem.run;

	for (unsigned n = 0; n < u->nr_places; n++) {
		const struct isa_insn *i = u->places[n].isa;
		const struct cpu_block *b;

		for (b = u->page->blocks; b; b = b->page_next)
			if (i >= b->insns && i < b->end)
				break;
		if (b && isa_insn_text(b->bytes + i->off, i->len,
				       u->needs & JIT_NEEDS_FLAT32 ? ISA_CODE32 : ISA_CODE64, 0, text, sizeof(text)))
			log_dump("  guest %03x: %s", u->places[n].block_off + i->off, text);
	}
	for (uint32_t at = u->start; at < u->end;) {
		unsigned len = isa_insn_text(code + at, u->end - at, ISA_CODE64, at, text, sizeof(text));
		char hex[48] = "";

		len = len ? len : 1;
		for (unsigned k = 0; k < len && k < 15; k++)
			snprintf(hex + 2 * k, sizeof(hex) - 2 * k, "%02x", code[at + k]);
		log_dump("  host %06x: %-30s %s", at, hex, text);
		at += len;
	}
}

void jit_dump_unit(struct cpu_jit *j, const struct jit_unit *u)
{
	log_dump("unit %u: page %lx, class %u, needs %x, %u instructions, %u bytes", j->made - 1,
		   (long)u->page->page, u->cls, u->needs, u->nr_places, u->end - u->start);
	print_unit(u, j);
}

/* Flags as bits of cc that are live when the unit ends. */
static uint32_t cc_mask(uint8_t flags)
{
	return (uint32_t)(((flags & JIT_CF ? 1 : 0) | (flags & JIT_PF ? 4 : 0) | (flags & JIT_AF ? 16 : 0) |
			   (flags & JIT_ZF ? 64 : 0) | (flags & JIT_SF ? 128 : 0)) << 8 |
			  (flags & JIT_OF ? 1 : 0));
}

static bool registers_match(const struct snapshot *a, const struct snapshot *b, uint8_t live)
{
	bool ok = a->rip == b->rip && a->rflags == b->rflags && !((a->cc ^ b->cc) & cc_mask(live));

	for (unsigned n = 0; n < NR_GPRS; n++)
		ok &= a->gpr[n] == b->gpr[n];
	return ok;
}

/* Opmasks and the parts of ZMM registers too, where the host has them. */
static bool fpu_matches(const struct snapshot *a, const struct snapshot *b)
{
	const struct isa_xsave_image *x = &a->x, *y = &b->x;
	bool ok = same(x, y, offsetof(struct isa_xsave_image, mxcsr_mask)) && same(x->st, y->st, sizeof(x->st)) &&
		  same(x->xmm, y->xmm, sizeof(x->xmm)) && same(x->ymm_high, y->ymm_high, sizeof(x->ymm_high));

	for (unsigned n = XFEATURE_OPMASK; n <= XFEATURE_HI16_ZMM; n++) {
		uint32_t offset = isa_host()->component[n].offset, size = isa_host()->component[n].size;

		if (size && offset + size <= image_bytes())
			ok &= same(a->image + offset, b->image + offset, size);
	}
	return ok;
}

static bool memory_matches(const struct cpu_journal *l)
{
	for (uint32_t n = 0; n < l->n; n++)
		if (!same(l->e[n].p, l->e[n].new, l->e[n].size))
			return false;
	return true;
}

static void report(struct vmx_cpu *cpu, const struct turn *t, uint8_t live, bool regs, bool fpu, bool memory)
{
	const struct snapshot *s = &check.expected, *is = &check.actual;

	if (cpu->counters.jit_mismatches++ >= SHOWN)
		return;
	log_dump("translated code differs from the interpreter:%s%s%s", regs ? "" : " registers",
		   fpu ? "" : " fpu", memory ? "" : " memory");
	log_dump("  from rip %lx, %u blocks, rip %lx is %lx, cc %x is %x (live %x)", (long)check.before.rip, t->blocks,
		 (long)s->rip, (long)is->rip, s->cc, is->cc, cc_mask(live));
	for (unsigned n = 0; n < NR_GPRS; n++)
		log_dump("  r%u before %016lx after %016lx is %016lx%s", n, (long)check.before.gpr[n],
			   (long)s->gpr[n], (long)is->gpr[n], s->gpr[n] == is->gpr[n] ? "" : " <--");
	for (unsigned n = 0; n < t->nr_seen; n++)
		print_unit(t->seen[n], cpu->jit);
}

/* cs->rip as the dispatcher will have it after exit `why`. */
static void set_rip(struct cpu_state *cs, const struct cpu_jit *j, uint32_t why)
{
	if (why >= JIT_EXIT_CELL)
		cs->rip = cs->page_lin + j->cells[why - JIT_EXIT_CELL].off;
}

bool jit_check_look(struct cpu_jit *j, const struct jit_place *n)
{
	if (j->check_blocks) {
		j->check_blocks--;
		return true;
	}
	return false;
}

void jit_check_left(struct cpu_jit *j, const struct jit_unit *u, const struct jit_place *n, bool behind)
{
	const struct jit_place *next = n + 1;
	bool within = next != u->places + u->nr_places && next->block == n->block;

	j->check_live = !behind ? n->live : within ? next->live : n->live_out;
	j->check_stop = behind && within ? j->cpu->cs.rip : JIT_NO_RIP;
}

static uint32_t run_unit(struct vmx_cpu *cpu, const struct jit_unit *u, uint32_t blocks)
{
	cpu->jit->check_blocks = blocks;
	cpu->jit->check_stop = JIT_NO_RIP;
	return cpu->jit->enter(&cpu->cs, u->code);
}

/*
 * Emitted code has left before the interpreter's turn was over: that has another one, as long as this. The
 * units may have died on the way.
 */
static void second_turn(struct vmx_cpu *cpu, struct turn *t, struct cpu_block *b, uint32_t blocks, uint64_t stop)
{
	struct cpu_state *cs = &cpu->cs;

	for (uint32_t n = 0; n < check.journal.n; n++)
		copy(check.journal.e[n].new, check.journal.e[n].p, check.journal.e[n].size);
	for (uint32_t n = check.journal.n; n--;)
		copy(check.journal.e[n].p, check.journal.e[n].old, check.journal.e[n].size);
	put_back(cs, &check.before);
	for (t->blocks = 1;; t->blocks++) {
		const struct isa_insn *i = b->insns;

		t->last = b;
		cs->block_rip = cs->rip;
		do {
			run_handler(cs, i);
			cs->rip = i->flags & ISA_ENDS_BLOCK ? cs->rip : isa_next_rip(cs, i) & cpu->code_mask;
		} while (++i != b->end && !(t->blocks == blocks && cs->rip == stop));
		if (t->blocks == blocks)
			break;
		b = cpu_block_at_rip(cpu, NULL);
	}
	take(cs, &check.expected);
}

/* Flags that are live where emitted code has left, by its exit `why`. */
static uint8_t live_at_exit(const struct cpu_jit *j, const struct turn *t, uint32_t why)
{
	const struct jit_cell *cell;
	const struct jit_place *p;
	unsigned nr;

	if (why == JIT_EXIT_LEFT)
		return j->check_live;
	if (why == JIT_EXIT_INDIRECT)
		return JIT_FLAGS_ALL;
	cell = &j->cells[why - JIT_EXIT_CELL];
	p = places_in(cell->from, t->last, &nr);
	if (!p)
		return 0;
	return cell->leaves ? p[nr - 1].live : p->live_out;
}

static bool cell_leaves(const struct cpu_jit *j, uint32_t why)
{
	return why >= JIT_EXIT_CELL && j->cells[why - JIT_EXIT_CELL].leaves;
}

static bool comparable(const struct vmx_cpu *cpu)
{
	return READ_ONCE(cpu->machine->nr_cpus) == 1 && cpu->cs.tlb == cpu->fetch_tlb;
}

uint32_t jit_check_enter(struct vmx_cpu *cpu, struct jit_unit *u, struct cpu_block *b)
{
	struct cpu_state *cs = &cpu->cs;
	struct cpu_jit *j = cpu->jit;
	struct turn t = { .u = u, .cls = u->cls, .seen = { u }, .nr_seen = 1 };
	bool loaded = cs->fpu_loaded, regs, fpu, memory, early;
	uint32_t why, drops = j->drops, begun;
	uint64_t page_lin = cs->page_lin;
	uint8_t live;

	if (!comparable(cpu))
		return run_unit(cpu, u, ~0u);
	check.journal.n = 0;
	check.journal.full = false;
	take(cs, &check.before);
	cpu->journal = &check.journal;
	cs->tlb = cpu->tlb->empty;
	first_turn(cpu, &t, b);
	cpu->journal = NULL;
	cpu_mode_changed(cpu);
	if (check.journal.full || u->dead || t.u->dead || drops != j->drops) {
		cpu_at_boundary(cpu);
		return JIT_EXIT_LEFT;
	}
	take(cs, &check.expected);
	undo(&check.journal);
	put_back(cs, &check.before);
	cs->page_lin = page_lin;
	if (loaded)
		isa_fpu_load(cs);
	if (cs->sp_tag == TLB_NO_ACCESS)
		jit_fill_stack_slot(cs);
	if (!t.blocks)
		return run_unit(cpu, u, 1);
	why = run_unit(cpu, u, t.blocks);
	set_rip(cs, j, why);
	begun = t.blocks - j->check_blocks;
	if (!begun) /* a poll left before the first */
		return why;
	cpu->counters.jit_checked += begun;
	take(cs, &check.actual);
	early = begun != t.blocks || cs->rip != check.expected.rip;
	if (early)
		second_turn(cpu, &t, b, begun, cell_leaves(j, why) ? check.actual.rip : j->check_stop);
	live = live_at_exit(j, &t, why);
	regs = registers_match(&check.actual, &check.expected, live);
	fpu = fpu_matches(&check.actual, &check.expected);
	memory = memory_matches(&check.journal);
	if (unlikely(!regs || !fpu || !memory))
		report(cpu, &t, live, regs, fpu, memory);
	else
		return why;
	if (!early) {
		put_back(cs, &check.expected);
		for (uint32_t n = 0; n < check.journal.n; n++)
			copy(check.journal.e[n].p, check.journal.e[n].new, check.journal.e[n].size);
	}
	cpu_at_boundary(cpu);
	return JIT_EXIT_LEFT;
}
