/*
 * What the files about segments, far transfers, event delivery, tasks and system
 * instructions share.
 *
 * Locks: none; all of it runs on the vCPU's thread.
 */
#ifndef USERKVM_CPU_SYSTEM_H
#define USERKVM_CPU_SYSTEM_H

#include "cpu/internal.h"

/*
 * --- shared by segment.c, far.c, event.c, task.c and sysinsn*.c ---
 *
 * Modes. Real-address and virtual-8086 mode share the segment arithmetic;
 * cpu_protected() is everything else.
 */
static inline bool cpu_v86(const struct vmx_cpu *cpu)
{
	return (cpu->cs.rflags & X86_FLAGS_VM) != 0;
}

static inline bool cpu_real(const struct vmx_cpu *cpu)
{
	return !(cpu->cs.cr0 & X86_CR0_PE);
}

static inline bool cpu_protected(const struct vmx_cpu *cpu)
{
	return !cpu_real(cpu) && !cpu_v86(cpu);
}

static inline bool cpu_ia32e(const struct vmx_cpu *cpu)
{
	return (cpu->cs.efer & EFER_LMA) != 0;
}

static inline bool cpu_code64(const struct vmx_cpu *cpu)
{
	return cpu->cs.code_mode == ISA_CODE64;
}

static inline unsigned cpu_iopl(const struct vmx_cpu *cpu)
{
	return (unsigned)FIELD_GET(X86_FLAGS_IOPL, cpu->cs.rflags);
}

/*
 * SDM Vol. 3, "Virtual-8086 Mode Extensions" and "Protected-Mode Virtual Interrupts": IOPL
 * forbids IF to this level, and VIF stands for it.
 */
static inline bool cpu_virtual_if(const struct vmx_cpu *cpu)
{
	if (cpu->cs.cpl != 3 || cpu_iopl(cpu) == 3)
		return false;
	return (cpu->cs.cr4 & (cpu_v86(cpu) ? X86_CR4_VME : X86_CR4_PVI)) != 0;
}

/* RFLAGS as a task of IOPL 3 would have them: IF shows VIF. */
static inline uint64_t cpu_virtual_flags(uint64_t rflags)
{
	return (rflags & ~X86_FLAGS_IF) | X86_FLAGS_IOPL | (rflags & X86_FLAGS_VIF ? X86_FLAGS_IF : 0);
}
/* FLAGS popped in virtual-8086 mode, IF standing for VIF: #GP for TF, and for IF while VIP is set. */
void cpu_check_virtual_flags(struct vmx_cpu *cpu, uint64_t flags);
void cpu_set_vif(struct vmx_cpu *cpu, bool vif);

/* 48-bit linear addresses (CR4.LA57 is not offered). */
static inline bool cpu_canonical(uint64_t lin)
{
	return (uint64_t)((int64_t)(lin << 16) >> 16) == lin;
}

static inline bool cpu_selector_null(uint16_t selector)
{
	return (selector & ~3) == 0;
}

/* A segment or system descriptor, taken apart. */
struct cpu_descriptor {
	uint64_t raw;
	gva_t lin;	/* where it lies */
	uint64_t base;	/* 64 bits for 16-byte system descriptors */
	uint32_t limit; /* in bytes, granularity applied */
	uint32_t ar;	/* VMCS format */
	uint16_t selector;
};

static inline unsigned cpu_ar_type(uint32_t ar)
{
	return ar & VMX_AR_TYPE_MASK;
}

static inline unsigned cpu_ar_dpl(uint32_t ar)
{
	return (unsigned)FIELD_GET(VMX_AR_DPL_MASK, ar);
}

static inline bool cpu_ar_code(uint32_t ar)
{
	return (ar & (VMX_AR_S | VMX_AR_TYPE_CODE)) == (VMX_AR_S | VMX_AR_TYPE_CODE);
}

static inline bool cpu_ar_conforming(uint32_t ar)
{
	return cpu_ar_code(ar) && (ar & VMX_AR_TYPE_EXPAND_DOWN);
}

static inline bool cpu_ar_writable_data(uint32_t ar)
{
	return (ar & (VMX_AR_S | VMX_AR_TYPE_CODE | VMX_AR_TYPE_WRITABLE)) ==
	       (VMX_AR_S | VMX_AR_TYPE_WRITABLE);
}

/* #TS, #NP, #SS or #GP with a selector (RPL dropped) and EXT as error code. */
void cpu_selector_fault(struct vmx_cpu *cpu, enum exception_vector v, uint16_t selector)
	__attribute__((noreturn));
/* The EXT bit of error codes: 1 while an event that no INT instruction made is delivered. */
uint32_t cpu_ext_bit(const struct vmx_cpu *cpu);

void cpu_descriptor_parse(struct cpu_descriptor *d, uint64_t raw);
/* Read the descriptor of a non-null selector; false: outside its table. */
bool cpu_descriptor_read(struct vmx_cpu *cpu, uint16_t selector, struct cpu_descriptor *d);
/* Bits 127:64 of a 16-byte system descriptor; false: outside its table. */
bool cpu_descriptor_read_high(struct vmx_cpu *cpu, uint16_t selector, uint64_t *high);
/* Set accessed (or busy, for a TSS: bit = 2) in the descriptor in memory, with a locked access. */
void cpu_descriptor_set_bit(struct vmx_cpu *cpu, const struct cpu_descriptor *d, unsigned bit);
void cpu_descriptor_set_accessed(struct vmx_cpu *cpu, struct cpu_descriptor *d);
/* Commit a descriptor to a segment register; nothing can fault. */
void cpu_segment_commit(struct cpu_segment *seg, const struct cpu_descriptor *d,
			uint16_t selector);
/* Null selector: unusable; `dpl` is kept in the rights, as SS needs it. */
void cpu_segment_null(struct cpu_segment *seg, uint16_t selector, unsigned dpl);
/* Load ES CS SS DS FS GS as the mode says (real, v86, protected); not CS. */
void cpu_load_sreg(struct vmx_cpu *cpu, enum sreg nr, uint16_t selector);
/* Is [offset, offset + size) inside the segment (not used in 64-bit mode)? */
bool cpu_segment_covers(const struct cpu_segment *seg, uint64_t offset, unsigned size);
/* Check SS for privilege level `pl`; faults with `v` (#GP or #TS) or #SS. */
void cpu_check_ss(struct vmx_cpu *cpu, uint16_t selector, unsigned pl,
		  enum exception_vector v, struct cpu_descriptor *d);
/* LAR, LSL, VERR, VERW: may the descriptor be seen from here? */
bool cpu_descriptor_visible(struct vmx_cpu *cpu, uint16_t selector, struct cpu_descriptor *d);
void cpu_load_ldtr(struct vmx_cpu *cpu, uint16_t selector);
void cpu_load_tr(struct vmx_cpu *cpu, uint16_t selector);

/*
 * --- stack.c --- A stack that is pushed to or popped from before anything is
 * committed: the pointer lives here until cpu_stack_commit().
 */
struct cpu_stack {
	struct vmx_cpu *cpu;
	const struct cpu_segment *ss;
	uint64_t sp;
	uint64_t mask;	   /* of the stack pointer: 16, 32 or 64 bits */
	uint32_t ss_error; /* error code of the #SS its accesses raise */
	bool flat;	   /* 64-bit: no base, no limit */
	bool system;	   /* supervisor accesses, whatever CPL is now */
};
/* The current stack: SS:rSP. */
void cpu_stack_current(struct vmx_cpu *cpu, struct cpu_stack *st);
/* An inner stack (CPL becomes `pl`) in segment ss, which must outlive st. */
void cpu_stack_inner(struct vmx_cpu *cpu, struct cpu_stack *st, const struct cpu_segment *ss,
		     uint64_t sp, unsigned pl);
void cpu_stack_push(struct cpu_stack *st, unsigned size, uint64_t v);
uint64_t cpu_stack_pop(struct cpu_stack *st, unsigned size);
/* RSP as it will be: only the stack pointer's width changes. */
void cpu_stack_commit(const struct cpu_stack *st);
/*
 * The stack for privilege level pl out of the TSS, SS checked (#TS, #SS);
 * 64-bit TSS: SS null. ist: 1..7, or 0 for RSPn.
 */
void cpu_tss_stack(struct vmx_cpu *cpu, unsigned pl, unsigned ist, struct cpu_segment *ss,
		   uint64_t *sp);

/* --- far.c --- */
/* Targets are absolute; `next` is the return address; size is the operand size. */
void cpu_far_jmp(struct vmx_cpu *cpu, uint16_t selector, uint64_t offset, unsigned size);
void cpu_far_call(struct vmx_cpu *cpu, uint16_t selector, uint64_t offset, unsigned size,
		  uint64_t next);
void cpu_far_ret(struct vmx_cpu *cpu, unsigned size, unsigned release);
void cpu_iret(struct vmx_cpu *cpu, unsigned size);
/* #GP(0) (with EXT) unless `offset` may be RIP in the code segment with rights ar and limit. */
void cpu_check_rip(struct vmx_cpu *cpu, uint32_t ar, uint32_t limit, uint64_t offset);
/* Rights and base of the flat CS and SS that SYSCALL and its like load. */
void cpu_flat_cs(struct vmx_cpu *cpu, uint16_t selector, unsigned cpl, bool code64);
void cpu_flat_ss(struct vmx_cpu *cpu, uint16_t selector, unsigned cpl);

/* --- task.c --- */
/* A task switch to the TSS of `selector`: its checks, then a VM exit, always. */
void cpu_task_switch(struct vmx_cpu *cpu, uint16_t selector, enum task_switch_source source)
	__attribute__((noreturn));
/* Through a task gate (already read from GDT, LDT or IDT). */
void cpu_task_gate(struct vmx_cpu *cpu, const struct cpu_descriptor *gate,
		   enum task_switch_source source) __attribute__((noreturn));

/* --- event.c --- */
/*
 * INT n, INT1, INT3, INTO: intercepts, then delivery. cs->rip must be the
 * instruction's own address; the return address adds its length.
 */
void cpu_software_event(struct vmx_cpu *cpu, unsigned vector, enum intr_type type,
			unsigned insn_len);

/* --- sysinsn_cr.c --- (used by the hypervisor-visible side too) */
/* A write that passed the masks: #GP checks, side effects. */
void cpu_write_cr0(struct vmx_cpu *cpu, uint64_t v);
void cpu_write_cr4(struct vmx_cpu *cpu, uint64_t v);

/* --- sysinsn_msr.c --- false: #GP(0). */
bool cpu_read_msr(struct vmx_cpu *cpu, uint32_t msr, uint64_t *v);
bool cpu_write_msr(struct vmx_cpu *cpu, uint32_t msr, uint64_t v);
/* The guest's time-stamp counter: offset and multiplier applied. */
uint64_t cpu_guest_tsc(const struct vmx_cpu *cpu);

/* --- sysinsn.c --- helpers of the handlers */
/* Set cs->rip to the next instruction. */
static inline void cpu_next(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t rip = isa_next_rip(cs, i);

	cs->rip = cs->code_mode == ISA_CODE64 ? rip : (uint32_t)rip;
}
/* #GP(0) unless CPL is 0. */
static inline void cpu_require_cpl0(struct cpu_state *cs)
{
	if (unlikely(cs->cpl != 0))
		isa_raise_error(cs, X86_TRAP_GP, 0);
}
/* Register fields of the ModRM byte: i->src is reg, i->dst is rm (sysinsn.c sees to it). */
uint64_t cpu_read_rm(struct cpu_state *cs, const struct isa_insn *i, unsigned size);
void cpu_write_rm(struct cpu_state *cs, const struct isa_insn *i, unsigned size, uint64_t v);
/* Exit with VM-exit instruction information and displacement as qualification. */
void cpu_vmexit_mem(struct vmx_cpu *cpu, uint32_t reason, uint32_t identity)
	__attribute__((noreturn));
/* VM-exit instruction information: the memory operand's part. */
uint32_t cpu_insn_info_mem(const struct isa_insn *i);

/*
 * Handlers of system instructions, once: SYSINSNS(F) expands
 * F(handler, Zydis mnemonic, sets cs->rip). Forms that share a mnemonic with
 * the integer instructions (MOV, PUSH, POP, JMP, CALL, RET) are picked by opcode.
 */
#define SYSINSNS(F)                                                        \
	/* sysinsn_flags.c */                                              \
	F(cli, CLI, 0) F(sti, STI, 1) F(clac, CLAC, 0) F(stac, STAC, 0)    \
	F(pushf, PUSHF, 0) F(pushf, PUSHFD, 0) F(pushf, PUSHFQ, 0)         \
	F(popf, POPF, 1) F(popf, POPFD, 1) F(popf, POPFQ, 1)               \
	/* sysinsn_seg.c */                                                \
	F(lds, LDS, 0) F(lds, LES, 0) F(lds, LFS, 0) F(lds, LGS, 0)        \
	F(lss, LSS, 1) F(lar, LAR, 0) F(lsl, LSL, 0) F(verr, VERR, 0)      \
	F(verw, VERW, 0) F(arpl, ARPL, 0)                                  \
	F(sgdt, SGDT, 0) F(sidt, SIDT, 0) F(lgdt, LGDT, 1) F(lidt, LIDT, 1) \
	F(sldt, SLDT, 0) F(str, STR, 0) F(lldt, LLDT, 1) F(ltr, LTR, 1)    \
	F(swapgs, SWAPGS, 0) F(rdfsbase, RDFSBASE, 0)                      \
	F(rdgsbase, RDGSBASE, 0) F(wrfsbase, WRFSBASE, 0)                  \
	F(wrgsbase, WRGSBASE, 0)                                           \
	/* sysinsn_far.c */                                                \
	F(iret, IRET, 1) F(iret, IRETD, 1) F(iret, IRETQ, 1)               \
	F(int_n, INT, 1) F(int1, INT1, 1) F(int3, INT3, 1)                 \
	F(into, INTO, 1)                                                   \
	/* sysinsn_cr.c */                                                 \
	F(clts, CLTS, 1) F(lmsw, LMSW, 1) F(smsw, SMSW, 0)                 \
	F(xsetbv, XSETBV, 1)                                               \
	/* sysinsn_msr.c */                                                \
	F(rdmsr, RDMSR, 0) F(wrmsr, WRMSR, 1) F(rdtsc, RDTSC, 0)           \
	F(rdtscp, RDTSCP, 0) F(rdpid, RDPID, 0) F(rdpmc, RDPMC, 0)         \
	/* sysinsn_io.c */                                                 \
	F(in, IN, 1) F(out, OUT, 1) F(ins, INSB, 1) F(ins, INSW, 1)        \
	F(ins, INSD, 1) F(outs, OUTSB, 1) F(outs, OUTSW, 1)                \
	F(outs, OUTSD, 1)                                                  \
	/* sysinsn_syscall.c */                                            \
	F(syscall, SYSCALL, 1) F(sysret, SYSRET, 1)                        \
	F(sysenter, SYSENTER, 1) F(sysexit, SYSEXIT, 1)                    \
	/* sysinsn_misc.c */                                               \
	F(hlt, HLT, 1) F(pause, PAUSE, 0) F(cpuid, CPUID, 0)               \
	F(invlpg, INVLPG, 1) F(invpcid, INVPCID, 1) F(wbinvd, WBINVD, 0)   \
	F(invd, INVD, 0) F(clflush, CLFLUSH, 0) F(clflush, CLFLUSHOPT, 0)  \
	F(clflush, CLWB, 0) F(rdrand, RDRAND, 0) F(rdseed, RDSEED, 0)      \
	F(monitor, MONITOR, 0) F(mwait, MWAIT, 0)                          \
	F(fence, LFENCE, 0) F(fence, SFENCE, 0) F(fence, MFENCE, 0)        \
	/* sysinsn_vmx.c */                                                \
	F(vmcall, VMCALL, 0) F(vmx_plain, VMLAUNCH, 0)                     \
	F(vmx_plain, VMRESUME, 0) F(vmx_plain, VMXOFF, 0)                  \
	F(vmx_mem, VMCLEAR, 0) F(vmx_mem, VMPTRLD, 0)                      \
	F(vmx_mem, VMPTRST, 0) F(vmx_mem, VMXON, 0)                        \
	F(vmx_mem, INVEPT, 0) F(vmx_mem, INVVPID, 0)                       \
	F(vmx_rw, VMREAD, 0) F(vmx_rw, VMWRITE, 0)

/* Handlers picked by opcode. */
#define SYSINSNS_BY_OPCODE(F)                                              \
	F(mov_to_sreg) F(mov_to_ss) F(mov_from_sreg) F(push_sreg)          \
	F(pop_sreg) F(pop_ss) F(mov_to_cr) F(mov_from_cr) F(mov_to_dr)     \
	F(mov_from_dr) F(jmp_far) F(call_far) F(ret_far)

#define SYSINSN_DECLARE(handler, mnemonic, ends) isa_fn sysinsn_##handler;
#define SYSINSN_DECLARE1(handler) isa_fn sysinsn_##handler;
SYSINSNS(SYSINSN_DECLARE)
SYSINSNS_BY_OPCODE(SYSINSN_DECLARE1)
#undef SYSINSN_DECLARE
#undef SYSINSN_DECLARE1

#endif
