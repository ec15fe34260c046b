/*
 * Stacks of far transfers and of event delivery.
 *
 * A transfer pushes or pops several items and may fault at each; RSP and SS
 * change only when all of it has worked. struct cpu_stack carries the pointer
 * through this, with the addressing of its own SS: the present one or the one
 * of an inner privilege level, which is written with supervisor rights before
 * CPL has changed.
 *
 * Source: SDM Vol. 3, "Stack Switching", "Task-State Segment (TSS)", "64-Bit
 * Mode Stack Switching".
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/system.h"

static void stack_mode(struct cpu_stack *st)
{
	st->flat = false;
	st->mask = st->ss->ar & VMX_AR_DB ? 0xffffffff : 0xffff;
}

void cpu_stack_current(struct vmx_cpu *cpu, struct cpu_stack *st)
{
	st->cpu = cpu;
	st->ss = &cpu->cs.seg[SREG_SS];
	st->system = false;
	st->ss_error = cpu_ext_bit(cpu);
	if (cpu_code64(cpu)) {
		st->flat = true;
		st->mask = ~0ULL;
	} else {
		stack_mode(st);
	}
	st->sp = cpu->cs.gpr[RSP] & st->mask;
}

void cpu_stack_inner(struct vmx_cpu *cpu, struct cpu_stack *st, const struct cpu_segment *ss,
		     uint64_t sp, unsigned pl)
{
	st->cpu = cpu;
	st->ss = ss;
	st->system = cpu->cs.cpl == 3 && pl < 3;
	st->ss_error = (ss->selector & 0xfffcU) | cpu_ext_bit(cpu);
	if (cpu_ia32e(cpu)) { /* all inner code is 64-bit there */
		st->flat = true;
		st->mask = ~0ULL;
	} else {
		stack_mode(st);
	}
	st->sp = sp & st->mask;
}

static gva_t stack_linear(const struct cpu_stack *st, uint64_t sp, unsigned size)
{
	struct cpu_state *cs = &st->cpu->cs;

	if (likely(st->flat)) {
		if (unlikely(!cpu_canonical(sp) || !cpu_canonical(sp + size - 1)))
			isa_raise_error(cs, X86_TRAP_SS, st->ss_error);
		return sp;
	}
	if (!cpu_segment_covers(st->ss, sp, size))
		isa_raise_error(cs, X86_TRAP_SS, st->ss_error);
	return (uint32_t)(st->ss->base + sp);
}

void cpu_stack_push(struct cpu_stack *st, unsigned size, uint64_t v)
{
	uint64_t sp = (st->sp - size) & st->mask;
	gva_t lin = stack_linear(st, sp, size);

	if (st->system)
		cpu_sys_store(st->cpu, lin, size, v);
	else
		isa_store(&st->cpu->cs, lin, size, v);
	st->sp = sp;
}

uint64_t cpu_stack_pop(struct cpu_stack *st, unsigned size)
{
	uint64_t v = isa_load(&st->cpu->cs, stack_linear(st, st->sp, size), size);

	st->sp = (st->sp + size) & st->mask;
	return v;
}

void cpu_stack_commit(const struct cpu_stack *st)
{
	uint64_t *rsp = &st->cpu->cs.gpr[RSP];

	*rsp = (st->mask == 0xffff ? *rsp & ~0xffffULL : 0) | st->sp;
}

/* `size` bytes of the TSS at `offset`; #TS(TR) outside its limit. */
static uint64_t tss_load(struct vmx_cpu *cpu, unsigned offset, unsigned size)
{
	const struct cpu_segment *tr = &cpu->cs.tr;

	if (offset + size - 1 > tr->limit)
		cpu_selector_fault(cpu, X86_TRAP_TS, tr->selector);
	return cpu_sys_load(cpu, tr->base + offset, size);
}

void cpu_tss_stack(struct vmx_cpu *cpu, unsigned pl, unsigned ist, struct cpu_segment *ss,
		   uint64_t *sp)
{
	struct cpu_descriptor d;
	uint16_t selector;

	if (cpu_ia32e(cpu)) {
		*sp = ist ? tss_load(cpu, 0x24 + 8 * (ist - 1), 8) : tss_load(cpu, 4 + 8 * pl, 8);
		ss->limit = cpu->cs.seg[SREG_SS].limit;
		cpu_segment_null(ss, (uint16_t)pl, pl);
		return;
	}
	if (cpu->cs.tr.ar & 8) { /* 32-bit TSS */
		selector = (uint16_t)tss_load(cpu, 8 + 8 * pl, 2);
		*sp = tss_load(cpu, 4 + 8 * pl, 4);
	} else {
		selector = (uint16_t)tss_load(cpu, 4 + 4 * pl, 2);
		*sp = tss_load(cpu, 2 + 4 * pl, 2);
	}
	cpu_check_ss(cpu, selector, pl, X86_TRAP_TS, &d);
	cpu_descriptor_set_accessed(cpu, &d);
	cpu_segment_commit(ss, &d, selector);
}
