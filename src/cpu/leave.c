/*
 * Leaving an instruction from any depth: the jump to run_until_unwound() (unwind.c), which learns why. What ends the
 * processor because an invariant is broken.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/internal.h"

static void no_instruction(struct cpu_state *cs, const struct isa_insn *i)
{
	cpu_unwind(cpu_of(cs));
}

const struct isa_insn cpu_boundary_insn = { .fn = no_instruction };

void cpu_unwind(struct vmx_cpu *cpu)
{
	cpu->unwind_reason = CPU_UNWIND_CONTINUE;
	__builtin_longjmp(cpu->cs.unwind, 1);
}

void cpu_unwind_left(struct vmx_cpu *cpu)
{
	cpu->left = false;
	cpu->unwind_reason = CPU_UNWIND_EXIT;
	__builtin_longjmp(cpu->cs.unwind, 1);
}

void cpu_broken(struct vmx_cpu *cpu, const char *what, const char *file, int line)
{
	cpu->broken = what;
	cpu->broken_file = file;
	cpu->broken_line = line;
	cpu->bus_error = ~0ULL;
	cpu->unwind_reason = CPU_UNWIND_BUS_ERROR;
	__builtin_longjmp(cpu->cs.unwind, 1);
}

void cpu_left_out(struct vmx_cpu *cpu, const char *what, int nr)
{
	cpu->broken = what;
	cpu->broken_file = __FILE__;
	cpu->broken_line = nr;
	cpu->bus_error = ~0ULL;
}
