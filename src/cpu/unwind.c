/*
 * Where the jumps of leave.c arrive: run_until_unwound(), whose caller learns why an instruction was left, and goes on.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/internal.h"

/* The exception in cs->exception, whose instruction is at cs->rip. */
static __attribute__((noinline)) void take_exception(struct vmx_cpu *cpu)
{
	struct isa_exception ex = cpu->cs.exception;

	cpu_at_boundary(cpu);
	cpu->cs.rflags |= cpu->resume_flag;
	cpu->resume_flag = 0;
	cpu->debug.alone = false;
	cpu_exception(cpu, &ex);
	cpu->event.active = false;
	cpu->shadow = 0;
	cpu->interruptibility &= ~(uint32_t)INTR_SHADOW;
}

/* Has a frame of its own: __builtin_setjmp keeps no registers. */
static __attribute__((noinline)) uint32_t run_until_unwound(struct vmx_cpu *cpu, bool exception)
{
	struct vmx_cpu *volatile keep = cpu;

	cpu->cs.unwind = cpu->unwind_buf;
	if (__builtin_setjmp(cpu->unwind_buf))
		return keep->unwind_reason;
	if (exception)
		take_exception(cpu);
	cpu_run(cpu);
	cpu->left = false;
	return CPU_UNWIND_EXIT;
}

bool cpu_interp(struct vmx_cpu *cpu)
{
	uint32_t why = CPU_UNWIND_CONTINUE;

	for (;;) {
		why = run_until_unwound(cpu, why == CPU_UNWIND_EXCEPTION);
		cpu->debug.alone = false;
		cpu->may_leave = false;
		cpu_bus_unwound(cpu);
		cpu_bus_lock_unwound(cpu);
		cpu_jit_unwound(cpu);
		if (why == CPU_UNWIND_CONTINUE && cpu->shadow)
			cpu->shadow = 0;
		if (why == CPU_UNWIND_EXIT)
			return true;
		if (why == CPU_UNWIND_BUS_ERROR)
			return false;
	}
}
