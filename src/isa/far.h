/*
 * Far transfers: JMP, CALL and RET between code segments, through call gates, to other privilege levels; and
 * the stacks of them, of IRET and of event delivery. Rules for the processor and the emulator, as isa/segment.h.
 *
 * Source: SDM Vol. 3, "Privilege Level Checking When Transferring Program Control Between Code Segments",
 * "Stack Switching". Locks: none; all of it runs on the vCPU's thread.
 */
#ifndef USERKVM_ISA_FAR_H
#define USERKVM_ISA_FAR_H

#include "isa/segment.h"

/*
 * --- far_stack.c --- A stack that is pushed to or popped from before anything is
 * committed: the pointer lives here until isa_stack_commit().
 */
struct isa_stack {
	struct cpu_state *cs;
	const struct cpu_segment *ss;
	uint64_t sp;
	uint64_t mask;	   /* of the stack pointer: 16, 32 or 64 bits */
	uint16_t selector; /* in the error code of the #SS that its accesses raise; 0: of the current stack */
	bool flat;	   /* 64-bit: no base, no limit */
	bool system;	   /* supervisor accesses, whatever CPL is now */
};
/* The current stack: SS:rSP. */
void isa_stack_current(struct cpu_state *cs, struct isa_stack *st);
/* An inner stack (CPL becomes `pl`) in segment ss, which must outlive st. */
void isa_stack_inner(struct cpu_state *cs, struct isa_stack *st, const struct cpu_segment *ss, uint64_t sp,
		     unsigned pl);
void isa_stack_push(struct isa_stack *st, unsigned size, uint64_t v);
uint64_t isa_stack_pop(struct isa_stack *st, unsigned size);
/* RSP as it will be: only the stack pointer's width changes. */
void isa_stack_commit(const struct isa_stack *st);
/*
 * The stack for privilege level pl out of the TSS, SS checked (#TS, #SS);
 * 64-bit TSS: SS null. ist: 1..7, or 0 for RSPn.
 */
void isa_tss_stack(struct cpu_state *cs, unsigned pl, unsigned ist, struct cpu_segment *ss, uint64_t *sp);

/* --- far.c --- */
/* Targets are absolute; `next` is the return address; size is the operand size; release: bytes of RET imm16. */
void isa_far_jmp(struct cpu_state *cs, uint16_t selector, uint64_t offset, unsigned size);
void isa_far_call(struct cpu_state *cs, uint16_t selector, uint64_t offset, unsigned size, uint64_t next);
void isa_far_ret(struct cpu_state *cs, unsigned size, unsigned release);
/* The m16:16, m16:32 or m16:64 operand, or the immediate pointer (i->disp, i->imm). */
uint16_t isa_far_pointer(struct cpu_state *cs, const struct isa_insn *i, uint64_t *offset);

/* What IRET and event delivery share with them. */
void isa_commit_cs(struct cpu_state *cs, const struct isa_descriptor *d, uint16_t selector, unsigned cpl, uint64_t rip);
/* Real-address and virtual-8086 mode: no descriptor, the limit stays. */
void isa_commit_cs_real(struct cpu_state *cs, uint16_t selector, uint64_t rip);
void isa_check_rip_real(struct cpu_state *cs, uint64_t offset);
/* The code segment that a return goes to; its RPL is the new CPL. */
void isa_check_return_code(struct cpu_state *cs, uint16_t selector, struct isa_descriptor *d);
/* The stack segment that a return goes to. A null SS is good for 64-bit code below level 3. */
void isa_check_return_ss(struct cpu_state *cs, uint16_t selector, unsigned pl, bool code64, struct cpu_segment *ss);
/*
 * Data segments that the outer level may not see become null. The base stays, as on
 * silicon: a 64-bit kernel that returns with such a selector in GS keeps its GS base.
 */
void isa_invalidate_inner_segments(struct cpu_state *cs, unsigned cpl);
/* RSP of an outer stack: its own width decides how much is replaced. */
void isa_commit_outer_rsp(struct cpu_state *cs, const struct cpu_segment *ss, bool code64, uint64_t sp);

#endif
