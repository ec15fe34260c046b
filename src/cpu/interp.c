/*
 * The interpreter: the reference engine.
 *
 * Invariants
 * 1. At a boundary cs->rip is the next instruction and isa_rip() == cs->rip.
 * 2. Requests are looked at between blocks only; a block is short.
 * 3. A block that ends in a system instruction is followed by a look around
 *    (cpu_after_system()): only such instructions open windows, set TF or a shadow.
 * 4. While an instruction runs in the shadow of STI or MOV SS, the shadow is
 *    in cpu->shadow; cpu->interruptibility holds what the instruction sets.
 */
#include "cpu/internal.h"

static void next_rip(struct cpu_state *cs, const struct isa_insn *i)
{
	cs->rip = isa_next_rip(cs, i);
	if (cs->code_mode != ISA_CODE64)
		cs->rip = (uint32_t)cs->rip;
}

/* Does TF trap after the instruction? With BTF after branches that are taken. */
static bool traps(const struct vmx_cpu *cpu, const struct isa_insn *i, uint64_t rip)
{
	if (!(cpu->debugctl & DEBUGCTLMSR_BTF))
		return true;
	return (i->flags & ISA_ENDS_BLOCK) && cpu->cs.rip != rip && cpu->cs.rip != rip + i->len;
}

/* SYSCALL and SYSRET: TF counts as they leave it, so that IA32_FMASK keeps a kernel's entry from trapping. */
static bool tf_counts_at_end(const struct isa_insn *i)
{
	return i->map == 1 && (i->opcode == 0x05 || i->opcode == 0x07);
}

void cpu_run_one(struct vmx_cpu *cpu)
{
	struct cpu_state *cs = &cpu->cs;
	bool trap = cs->rflags & X86_FLAGS_TF;
	uint64_t rf = cs->rflags & X86_FLAGS_RF, rip = cs->rip;
	const struct isa_insn *i;
	struct cpu_block *b;

	b = cpu_block_at_rip(cpu, NULL);
	i = b->insns;
	cpu->debug.hits = 0;
	cpu->debug.next_alone = false;
	cpu->debug.alone = true;

	if (unlikely(cpu->observed))
		cpu_observe(cpu, b);
	cpu->shadow = cpu->interruptibility & (uint32_t)INTR_SHADOW;
	cpu->interruptibility &= ~(uint32_t)INTR_SHADOW;
	cs->rflags &= ~X86_FLAGS_RF;
	cpu->resume_flag = rf;
	cs->block_rip = cs->rip;
	cs->cur = i;
	/* the monitor trap comes after one iteration of a repeated string instruction */
	if (cpu->primary & CPU_BASED_MONITOR_TRAP_FLAG)
		__atomic_fetch_or(&cs->exit_request, CPU_REQ_CHECK, __ATOMIC_RELAXED);
	i->fn(cs, i);
	if (cpu->left)
		return;
	if (!(i->flags & ISA_ENDS_BLOCK))
		next_rip(cs, i);
	cpu->debug.alone = false;
	cpu->shadow = 0;
	cpu->resume_flag = 0;
	if (unlikely(cpu->debug.code) && cs->rip == rip && (i->flags & (ISA_REP | ISA_REPNE)))
		cs->rflags |= X86_FLAGS_RF; /* between iterations, its breakpoint has been met */
	cpu->counters.instructions++;
	cpu_jit_ran_one(cpu);
	cpu_at_boundary(cpu);
	if (cpu->primary & CPU_BASED_MONITOR_TRAP_FLAG)
		cpu->mtf_pending = true;
	if (unlikely(tf_counts_at_end(i)))
		trap = cs->rflags & X86_FLAGS_TF;
	if (trap && traps(cpu, i, rip))
		cpu->pending_dbg |= DR6_BS;
	if (unlikely(cpu->debug.hits)) {
		cpu->pending_dbg |= cpu->debug.hits | PENDING_DBG_ENABLED_BP;
		cpu->debug.hits = 0;
	}
}

void cpu_run_blocks(struct vmx_cpu *cpu)
{
	struct cpu_state *cs = &cpu->cs;
	struct cpu_block *b = NULL;
	uint32_t budget = cpu_timer_budget(cpu);

	while (likely(!READ_ONCE(cs->exit_request))) {
		const struct isa_insn *i, *end;

		b = cpu_block_at_rip(cpu, b);
		if (unlikely(cpu->debug.code) && cpu_debug_in_block(cpu, b)) {
			cpu_at_boundary(cpu);
			return;
		}
		if (unlikely(cpu->observed))
			cpu_observe(cpu, b);
		cs->block_rip = cs->rip;
		i = b->insns;
		end = b->end;
		do {
			cs->cur = i;
			i->fn(cs, i);
		} while (++i != end && likely(!cpu->left));
		if (unlikely(cpu->left))
			return;
		if (!b->jumps)
			next_rip(cs, i - 1);
		cpu->counters.instructions += b->nr;
		cpu->counters.blocks_run++;
		if (unlikely(b->sys)) {
			b = NULL;
			if (cpu_after_system(cpu))
				return;
		}
		if (unlikely(--budget == 0)) {
			if (cpu_timer_expired(cpu))
				return;
			budget = cpu_timer_budget(cpu);
		}
	}
}
