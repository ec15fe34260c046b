/*
 * USERKVM_JIT=check: each unit in lock-step with the interpreter, and
 * USERKVM_JIT=dump: what was emitted for what.
 *
 *   state and FPU kept ► interpreter runs the block, its writes journalled
 *     ► registers and memory put back ► unit runs ► compare
 *
 * Invariants
 * 1. While the interpreter's turn lasts every access goes through cpu_mem(): cs->tlb is
 *    the empty table. A turn that unwinds has happened (cpu_jit_unwound()).
 * 2. After a mismatch the guest goes on with the interpreter's result.
 * 3. Units with one processor only, of one block; what cannot be run twice
 *    (system instructions, REP, random numbers) is not compared.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/jit.h"
#include "lib/copy.h"
#include "lib/log.h"

#include <stdio.h>

#define JOURNAL_ENTRIES 128
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
	struct isa_xsave_image x;
};

static struct {
	struct cpu_journal journal;
	struct snapshot before, expected;
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
	if (likely(!cpu->journal))
		return;
	cpu->journal = NULL;
	cpu_mode_changed(cpu); /* cs->tlb again */
}

static void take(struct cpu_state *cs, struct snapshot *s)
{
	copy(s->gpr, cs->gpr, sizeof(s->gpr));
	s->rip = cs->rip;
	s->rflags = cs->rflags;
	s->cc = cs->cc;
	copy(&s->x, isa_fpu_image(cs), sizeof(s->x));
}

static void put_back(struct cpu_state *cs, const struct snapshot *s)
{
	isa_fpu_sync(cs);
	copy(cs->gpr, s->gpr, sizeof(s->gpr));
	cs->rip = s->rip;
	cs->rflags = s->rflags;
	cs->cc = s->cc;
	copy(cs->xsave, &s->x, sizeof(s->x));
}

static bool can_run_twice(const struct jit_unit *u)
{
	for (unsigned n = 0; n < u->nr_places; n++) {
		const struct isa_insn *i = u->places[n].isa;

		if (u->places[n].left)
			break;
		if (i->map == 0 && i->opcode == 0x9c) /* PUSHF */
			continue;
		if (i->system || (i->flags & (ISA_REP | ISA_REPNE)) || (i->map == 1 && i->opcode == 0xc7))
			return false;
	}
	return true;
}

/* The interpreter's turn; may unwind. */
static void interpret(struct vmx_cpu *cpu, const struct jit_unit *u)
{
	struct cpu_state *cs = &cpu->cs;
	const struct isa_insn *i = NULL;

	cpu->journal = &check.journal;
	cs->tlb = cpu->tlb->empty;
	for (unsigned n = 0; n < u->nr_places; n++) {
		if (u->places[n].left)
			break;
		i = u->places[n].isa;
		cs->block_rip = cs->page_lin + u->places[n].block_off;
		cs->cur = i;
		i->fn(cs, i);
	}
	if (!(i->flags & ISA_ENDS_BLOCK))
		cs->rip = isa_next_rip(cs, i) & cpu->code_mask;
	cpu->journal = NULL;
	cpu_mode_changed(cpu);
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

static bool registers_match(const struct cpu_state *cs, const struct snapshot *s, const struct jit_unit *u)
{
	bool ok = cs->rip == s->rip && cs->rflags == s->rflags &&
		  !((cs->cc ^ s->cc) & cc_mask(u->flags_out));

	for (unsigned n = 0; n < NR_GPRS; n++)
		ok &= cs->gpr[n] == s->gpr[n];
	return ok;
}

static bool fpu_matches(struct cpu_state *cs, const struct snapshot *s)
{
	const struct isa_xsave_image *x = isa_fpu_image(cs);

	return same(x, &s->x, offsetof(struct isa_xsave_image, mxcsr_mask)) &&
	       same(x->st, s->x.st, sizeof(x->st)) && same(x->xmm, s->x.xmm, sizeof(x->xmm)) &&
	       same(x->ymm_high, s->x.ymm_high, sizeof(x->ymm_high));
}

static bool memory_matches(const struct cpu_journal *l)
{
	for (uint32_t n = 0; n < l->n; n++)
		if (!same(l->e[n].p, l->e[n].new, l->e[n].size))
			return false;
	return true;
}

static void report(struct vmx_cpu *cpu, const struct jit_unit *u, bool regs, bool fpu, bool memory)
{
	struct cpu_state *cs = &cpu->cs;
	const struct snapshot *s = &check.expected;

	if (cpu->counters.jit_mismatches++ >= SHOWN)
		return;
	log_dump("translated code differs from the interpreter:%s%s%s", regs ? "" : " registers",
		   fpu ? "" : " fpu", memory ? "" : " memory");
	log_dump("  rip %lx is %lx, cc %x is %x (live %x)", (long)s->rip, (long)cs->rip, s->cc, cs->cc,
		   cc_mask(u->flags_out));
	for (unsigned n = 0; n < NR_GPRS; n++)
		log_dump("  r%u before %016lx after %016lx is %016lx%s", n, (long)check.before.gpr[n],
			   (long)s->gpr[n], (long)cs->gpr[n], s->gpr[n] == cs->gpr[n] ? "" : " <--");
	print_unit(u, cpu->jit);
}

/* cs->rip as the dispatcher will have it after exit `why`. */
static void set_rip(struct cpu_state *cs, const struct cpu_jit *j, uint32_t why)
{
	if (why >= JIT_EXIT_CELL)
		cs->rip = cs->page_lin + j->cells[why - JIT_EXIT_CELL].off;
}

uint32_t jit_check_enter(struct vmx_cpu *cpu, struct jit_unit *u, struct cpu_block *b)
{
	struct cpu_state *cs = &cpu->cs;
	struct cpu_jit *j = cpu->jit;
	bool loaded = cs->fpu_loaded, regs, fpu, memory;
	uint64_t ends;
	uint32_t why;

	if (READ_ONCE(cpu->machine->nr_cpus) > 1 || !can_run_twice(u) || cs->tlb != cpu->fetch_tlb)
		return j->enter(cs, u->code);
	check.journal.n = 0;
	check.journal.full = false;
	take(cs, &check.before);
	interpret(cpu, u);
	if (check.journal.full || u->dead) {
		cpu_at_boundary(cpu);
		return JIT_EXIT_LEFT;
	}
	take(cs, &check.expected);
	ends = cs->rip;
	undo(&check.journal);
	put_back(cs, &check.before);
	if (loaded)
		isa_fpu_load(cs);
	if (cs->sp_tag == TLB_NO_ACCESS)
		jit_fill_stack_slot(cs);
	cpu->counters.jit_checked++;
	why = j->enter(cs, u->code);
	set_rip(cs, j, why);
	if (cs->rip != ends && why == JIT_EXIT_LEFT)
		return why; /* left on the way: no matter */
	regs = registers_match(cs, &check.expected, u);
	fpu = fpu_matches(cs, &check.expected);
	memory = memory_matches(&check.journal);
	if (likely(regs && fpu && memory))
		return why;
	report(cpu, u, regs, fpu, memory);
	put_back(cs, &check.expected);
	for (uint32_t n = 0; n < check.journal.n; n++)
		copy(check.journal.e[n].p, check.journal.e[n].new, check.journal.e[n].size);
	cpu_at_boundary(cpu);
	return JIT_EXIT_LEFT;
}
