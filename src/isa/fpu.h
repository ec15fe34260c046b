/*
 * The guest's x87, MMX, SSE and AVX state, executed on the host's own silicon.
 *
 * The guest's state is loaded into the host's registers when the first such
 * instruction runs (isa_fpu_load) and goes back into cs->xsave when the
 * processor leaves for code that may use these registers itself
 * (isa_fpu_unload): a VM exit, decoding, libc. Between the two the thread runs
 * only code compiled -mgeneral-regs-only.
 */
#ifndef USERKVM_ISA_FPU_H
#define USERKVM_ISA_FPU_H

#include "isa/cpu_state.h"

/* Bytes of cs->xsave (x87, SSE, AVX: XCR0 = 7), a multiple of 64. */
#define ISA_XSAVE_SIZE 832

/* The state after RESET/INIT of the FPU: FCW 37fh (INIT: 40h kept), MXCSR 1f80h. */
void isa_fpu_init(struct cpu_state *cs);
void isa_fpu_load(struct cpu_state *cs);
void isa_fpu_unload(struct cpu_state *cs);

static inline void isa_fpu_sync(struct cpu_state *cs)
{
	if (unlikely(cs->fpu_loaded))
		isa_fpu_unload(cs);
}

/*
 * Called by the process's SIGFPE/SIGILL/… dispatcher (host/fault.h): when the
 * program counter is inside a silicon stub of this thread's running
 * cpu_state, arranges that the guest gets #XM, #MF, #DE or #UD and returns true.
 */
bool isa_silicon_fault(struct cpu_state *cs, int signo, void *ucontext);

#endif
