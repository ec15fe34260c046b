/*
 * The choice of what runs next: a boundary, one instruction, or blocks.
 *
 *     +-> boundary: requests, injection, traps, windows, timer, HLT
 *     |      |              |
 *     |      v              v
 *     |   blocks, one    one instruction at a time (TF, MTF, shadow, RF)
 *     |   after another     |
 *     +------+--------------+
 * Exceptions and VM exits leave from any depth by one non-local jump to
 * cpu_interp() (unwind.c); system instructions that end their block, and MOV
 * where EPT refuses its access, exit by returning (cpu->left).
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/internal.h"

/* #DB for a breakpoint at cs->rip; is there one further on in its block? */
static bool breakpoint_near(struct vmx_cpu *cpu)
{
	if (likely(!cpu->debug.code))
		return false;
	if (!(cpu->cs.rflags & X86_FLAGS_RF) &&
	    !(cpu->interruptibility & GUEST_INTR_STATE_MOV_SS))
		cpu_debug_code(cpu);
	return cpu_debug_in_block(cpu, cpu_block_at_rip(cpu, NULL));
}

__attribute__((noinline)) void cpu_run(struct vmx_cpu *cpu)
{
	for (;;) {
		cpu_boundary(cpu);
		if (breakpoint_near(cpu) || cpu_single_step(cpu))
			cpu_run_one(cpu);
		else if (cpu->jit)
			cpu_jit_run_blocks(cpu);
		else
			cpu_run_blocks(cpu);
		if (cpu->left)
			return;
	}
}
