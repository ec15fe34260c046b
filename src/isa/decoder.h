/*
 * The decoder's own view of an instruction while it is being turned into a
 * struct isa_insn: Zydis's, untouched, plus the bytes.
 */
#ifndef USERKVM_ISA_DECODER_H
#define USERKVM_ISA_DECODER_H

#include <Zydis/Zydis.h>

#include "isa/insn.h"

struct isa_decoded {
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	const uint8_t *bytes;
	enum isa_code_mode mode;
};

/*
 * Handler of an x87, MMX, SSE or AVX instruction: makes (or finds) its silicon
 * stub and stores it in i->extra. NULL: not offered here, raise #UD. (simd.c)
 */
isa_fn *isa_simd_handler(const struct isa_decoded *d, struct isa_insn *i);

/*
 * --- system_decode.c --- for isa_ops.system, which chooses the handlers of system instructions.
 */
/* ModRM.reg into i->src and ModRM.rm into i->dst, with their REX bits; the effective operand size into i->opsize. */
void isa_system_operands(const struct isa_decoded *d, struct isa_insn *i);
/* False: a LOCK prefix, or a register where the instruction wants memory: #UD. */
bool isa_system_form(const struct isa_decoded *d, const struct isa_insn *i);

enum isa_system_mov { ISA_MOV_NONE, ISA_MOV_FROM_SREG, ISA_MOV_TO_SREG, ISA_MOV_FROM_CR, ISA_MOV_TO_CR, ISA_MOV_FROM_DR, ISA_MOV_TO_DR };
/* Which MOV with a segment, control or debug register, i->src; ISA_MOV_NONE: of none that exists. After isa_system_operands(). */
enum isa_system_mov isa_system_mov(struct isa_insn *i);
/* PUSH and POP of a segment register, which goes to i->src. False: of something else. */
bool isa_push_pop_sreg(struct isa_insn *i);
/* Far JMP, CALL, RET; an immediate pointer's offset goes to i->imm, its selector to i->disp. False: near. */
bool isa_far_form(const struct isa_decoded *d, struct isa_insn *i);

#endif
