/*
 * What system instructions do with registers and memory alone, for the processor and the emulator: their
 * operand, the descriptor-table registers, RFLAGS by PUSHF, POPF and IRET. Exits, privilege and RIP are the embedding's.
 *
 * Source: SDM Vol. 2, the instructions. Locks: none; all of it runs on the vCPU's thread.
 */
#ifndef USERKVM_ISA_SYSTEM_H
#define USERKVM_ISA_SYSTEM_H

#include "isa/far.h"

/* The operand that ModRM.rm names: memory, or register i->dst (isa_ops.system has put it there). */
uint64_t isa_system_read_rm(struct cpu_state *cs, const struct isa_insn *i, unsigned size);
void isa_system_write_rm(struct cpu_state *cs, const struct isa_insn *i, unsigned size, uint64_t v);

/* SGDT, SIDT; LGDT, LIDT: #GP(0) for a base that is not canonical. */
void isa_store_table(struct cpu_state *cs, const struct isa_insn *i, const struct cpu_dtable *table);
void isa_load_table(struct cpu_state *cs, const struct isa_insn *i, struct cpu_dtable *table);

/* #GP(0) unless CPL may change IF. */
void isa_require_iopl(struct cpu_state *cs);
/* FLAGS popped in virtual-8086 mode, IF standing for VIF: #GP for TF, and for IF while VIP is set. */
void isa_check_virtual_flags(struct cpu_state *cs, uint64_t flags);
void isa_set_vif(struct cpu_state *cs, bool vif);
/*
 * PUSHF, POPF, with what virtual-8086 mode makes of them: IOPL is asked, or VIF stands for IF. A change of AC is
 * told by isa_ops.mode_changed().
 */
void isa_pushf(struct cpu_state *cs, const struct isa_insn *i);
void isa_popf(struct cpu_state *cs, const struct isa_insn *i);
/* RFLAGS as IRET with an operand of `size` bytes takes them over, at the CPL and IOPL from before it. */
void isa_commit_iret_flags(struct cpu_state *cs, uint64_t flags, unsigned size);

#endif
