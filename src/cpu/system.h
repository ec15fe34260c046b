/*
 * What the files about IRET, event delivery, tasks and system instructions share. The
 * rules of segments and far transfers are isa/segment.h's and isa/far.h's. Of the fields of the
 * ModRM byte, i->src is reg and i->dst is rm (sysinsn.c sees to it).
 *
 * Locks: none; all of it runs on the vCPU's thread.
 */
#ifndef USERKVM_CPU_SYSTEM_H
#define USERKVM_CPU_SYSTEM_H

#include "cpu/internal.h"
#include "isa/system.h"

/* --- iret.c --- */
void cpu_iret(struct vmx_cpu *cpu, unsigned size);

/* --- task.c --- */
/* A task switch to the TSS of `selector`: its checks, then a VM exit, always. */
void cpu_task_switch(struct vmx_cpu *cpu, uint16_t selector, enum task_switch_source source)
	__attribute__((noreturn));

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
/* Does the MSR bitmap make the access a VM exit? */
bool cpu_msr_exits(const struct vmx_cpu *cpu, uint32_t msr, bool write);
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
	F(hlt, HLT, 1) F(pause, PAUSE, 0) F(cpuid, CPUID, 1)               \
	F(invlpg, INVLPG, 1) F(invpcid, INVPCID, 1) F(wbinvd, WBINVD, 0)   \
	F(invd, INVD, 0) F(clflush, CLFLUSH, 0) F(clflush, CLFLUSHOPT, 0)  \
	F(clflush, CLWB, 0) F(rdrand, RDRAND, 0) F(rdseed, RDSEED, 0)      \
	F(monitor, MONITOR, 0) F(mwait, MWAIT, 0)                          \
	F(fence, LFENCE, 0) F(fence, SFENCE, 0) F(fence, MFENCE, 0)        \
	/* sysinsn_vmx.c */                                                \
	F(vmcall, VMCALL, 1) F(vmfunc, VMFUNC, 1)                          \
	F(vmx_plain, VMLAUNCH, 1)                                          \
	F(vmx_plain, VMRESUME, 1) F(vmx_plain, VMXOFF, 1)                  \
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
