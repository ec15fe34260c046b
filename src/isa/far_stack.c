/*
 * Stacks of far transfers and of event delivery.
 *
 * A transfer pushes or pops several items and may fault at each; RSP and SS
 * change only when all of it has worked. struct isa_stack carries the pointer
 * through this, with the addressing of its own SS: the present one or the one
 * of an inner privilege level, which is written with supervisor rights before
 * CPL has changed.
 *
 * Source: SDM Vol. 3, "Stack Switching", "Task-State Segment (TSS)", "64-Bit
 * Mode Stack Switching".
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "isa/far.h"

static void stack_mode(struct isa_stack *st)
{
	st->flat = false;
	st->mask = st->ss->ar & VMX_AR_DB ? 0xffffffff : 0xffff;
}

void isa_stack_current(struct cpu_state *cs, struct isa_stack *st)
{
	st->cs = cs;
	st->ss = &cs->seg[SREG_SS];
	st->system = false;
	st->selector = 0;
	if (isa_code64(cs)) {
		st->flat = true;
		st->mask = ~0ULL;
	} else {
		stack_mode(st);
	}
	st->sp = cs->gpr[RSP] & st->mask;
}

void isa_stack_inner(struct cpu_state *cs, struct isa_stack *st, const struct cpu_segment *ss,
		     uint64_t sp, unsigned pl)
{
	st->cs = cs;
	st->ss = ss;
	st->system = cs->cpl == 3 && pl < 3;
	st->selector = ss->selector;
	if (isa_ia32e(cs)) { /* all inner code is 64-bit there */
		st->flat = true;
		st->mask = ~0ULL;
	} else {
		stack_mode(st);
	}
	st->sp = sp & st->mask;
}

static gva_t stack_linear(const struct isa_stack *st, uint64_t sp, unsigned size)
{
	struct cpu_state *cs = st->cs;

	if (likely(st->flat)) {
		if (unlikely(!isa_canonical(cs, sp) || !isa_canonical(cs, sp + size - 1)))
			isa_selector_fault(cs, X86_TRAP_SS, st->selector);
		return sp;
	}
	if (!isa_segment_covers(st->ss, sp, size))
		isa_selector_fault(cs, X86_TRAP_SS, st->selector);
	return (uint32_t)(st->ss->base + sp);
}

void isa_stack_push(struct isa_stack *st, unsigned size, uint64_t v)
{
	uint64_t sp = (st->sp - size) & st->mask;
	gva_t lin = stack_linear(st, sp, size);

	if (st->system)
		isa_sys_store(st->cs, lin, size, v);
	else
		isa_store(st->cs, lin, size, v);
	st->sp = sp;
}

uint64_t isa_stack_pop(struct isa_stack *st, unsigned size)
{
	uint64_t v = isa_load(st->cs, stack_linear(st, st->sp, size), size);

	st->sp = (st->sp + size) & st->mask;
	return v;
}

void isa_stack_commit(const struct isa_stack *st)
{
	uint64_t *rsp = &st->cs->gpr[RSP];

	*rsp = (st->mask == 0xffff ? *rsp & ~0xffffULL : 0) | st->sp;
}

/* `size` bytes of the TSS at `offset`; #TS(TR) outside its limit. */
static uint64_t tss_load(struct cpu_state *cs, unsigned offset, unsigned size)
{
	const struct cpu_segment *tr = &cs->tr;

	if (offset + size - 1 > tr->limit)
		isa_selector_fault(cs, X86_TRAP_TS, tr->selector);
	return isa_sys_load(cs, tr->base + offset, size);
}

void isa_tss_stack(struct cpu_state *cs, unsigned pl, unsigned ist, struct cpu_segment *ss,
		   uint64_t *sp)
{
	struct isa_descriptor d;
	uint16_t selector;

	if (isa_ia32e(cs)) {
		*sp = ist ? tss_load(cs, 0x24 + 8 * (ist - 1), 8) : tss_load(cs, 4 + 8 * pl, 8);
		ss->limit = cs->seg[SREG_SS].limit;
		isa_segment_null(ss, (uint16_t)pl, pl);
		return;
	}
	if (cs->tr.ar & 8) { /* 32-bit TSS */
		selector = (uint16_t)tss_load(cs, 8 + 8 * pl, 2);
		*sp = tss_load(cs, 4 + 8 * pl, 4);
	} else {
		selector = (uint16_t)tss_load(cs, 4 + 4 * pl, 2);
		*sp = tss_load(cs, 2 + 4 * pl, 2);
	}
	isa_check_ss(cs, selector, pl, X86_TRAP_TS, &d);
	isa_descriptor_set_accessed(cs, &d);
	isa_segment_commit(ss, &d, selector);
}
