/*
 * What system instructions do with registers and memory alone, for the processor and the emulator: their
 * operands, segment and descriptor-table registers, RFLAGS, the real-mode forms of IRET and of delivery. VM exits, RIP and
 * what a control register's write does are the embedding's.
 *
 * Source: SDM Vol. 2, the instructions. Locks: none; all of it runs on the vCPU's thread.
 */
#ifndef USERKVM_ISA_SYSTEM_H
#define USERKVM_ISA_SYSTEM_H

#include "isa/far.h"
#include "sdm/paging.h"

/* The operand that ModRM.rm names: memory, or register i->dst (isa_ops.system has put it there). */
uint64_t isa_system_read_rm(struct cpu_state *cs, const struct isa_insn *i, unsigned size);
void isa_system_write_rm(struct cpu_state *cs, const struct isa_insn *i, unsigned size, uint64_t v);
/* MOV from sreg, SLDT, STR, SMSW: memory gets 16 bits, a register the operand size. */
void isa_store_word(struct cpu_state *cs, const struct isa_insn *i, uint64_t v);

/* POP sreg: RSP moves after the load has worked, by the stack width from before it. */
void isa_pop_sreg(struct cpu_state *cs, const struct isa_insn *i, enum sreg nr);
/* LDS, LES, LFS, LGS, LSS */
void isa_load_far_pointer(struct cpu_state *cs, const struct isa_insn *i, enum sreg nr);

/* SGDT, SIDT; LGDT, LIDT: #GP(0) for a base that is not canonical. */
void isa_store_table(struct cpu_state *cs, const struct isa_insn *i, const struct cpu_dtable *table);
void isa_load_table(struct cpu_state *cs, const struct isa_insn *i, struct cpu_dtable *table);

/* CLI, STI: #GP(0) unless CPL may change IF, or VIF in its place. isa_sti(): true if STI's shadow begins. */
void isa_cli(struct cpu_state *cs);
bool isa_sti(struct cpu_state *cs);
/*
 * PUSHF, POPF, with what virtual-8086 mode makes of them: IOPL is asked, or VIF stands for IF. A change of AC is
 * told by isa_ops.mode_changed().
 */
void isa_pushf(struct cpu_state *cs, const struct isa_insn *i);
void isa_popf(struct cpu_state *cs, const struct isa_insn *i);
/* RFLAGS as IRET with an operand of `size` bytes takes them over, at the CPL and IOPL from before it. */
void isa_commit_iret_flags(struct cpu_state *cs, uint64_t flags, unsigned size);

/* --- real-address and virtual-8086 mode --- */
/* IRET with an operand of `size` bytes. */
void isa_iret_real(struct cpu_state *cs, unsigned size);
/* The entry of a vector in real mode's interrupt table: offset below, selector above. #GP outside it. */
uint32_t isa_vector_real(struct cpu_state *cs, unsigned vector);
/* FLAGS, CS and IP are pushed, CS:IP becomes the entry's. IF, TF, AC are the caller's to clear. */
void isa_enter_real(struct cpu_state *cs, uint32_t entry, uint64_t flags, uint64_t rip);
/* What delivery in real mode clears of RFLAGS. */
#define ISA_REAL_DELIVERY_CLEARS (X86_FLAGS_IF | X86_FLAGS_TF | X86_FLAGS_AC | X86_FLAGS_RF)

/* --- privilege --- */
/* SGDT, SIDT, SLDT, STR and SMSW are #GP(0): outside level 0, under CR4.UMIP. */
static inline bool isa_umip_forbids(const struct cpu_state *cs)
{
	return cs->cpl > 0 && cs->cr4 & X86_CR4_UMIP;
}
/* RDTSC and RDTSCP are #GP(0): outside level 0, under CR4.TSD. */
static inline bool isa_tsd_forbids(const struct cpu_state *cs)
{
	return cs->cpl > 0 && cs->cr4 & X86_CR4_TSD;
}

/* --- control and debug registers --- */
#define ISA_CR0_MSW (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS)
/* What MOV to CR or DR writes: register i->dst, as wide as the mode. */
uint64_t isa_control_operand(const struct cpu_state *cs, const struct isa_insn *i);
/* MOV from CR or DR. */
void isa_set_control_operand(struct cpu_state *cs, const struct isa_insn *i, uint64_t v);
/* CR0 after LMSW of `word`, which cannot clear PE. */
uint64_t isa_lmsw(uint64_t cr0, uint16_t word);
/*
 * The debug register that MOV DR names, 4 and 5 being 6 and 7. #UD for those with CR4.DE, #GP(0) outside level 0,
 * #DB where DR7.GD guards them.
 */
unsigned isa_debug_register(struct cpu_state *cs, const struct isa_insn *i);

/* --- INVPCID --- */
struct isa_invpcid {
	enum invpcid_type type;
	uint16_t pcid;
	uint64_t address;
};
/* Its descriptor, from memory. #GP(0) for one that is not valid. */
struct isa_invpcid isa_invpcid_operand(struct cpu_state *cs, const struct isa_insn *i);

#endif
