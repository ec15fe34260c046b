/*
 * Building the code of silicon stubs (isa/stub.h). Used while decoding only.
 */
#ifndef USERKVM_ISA_SIMD_ENCODE_H
#define USERKVM_ISA_SIMD_ENCODE_H

#include "isa/decoder.h"

struct emitter {
	uint8_t b[128];
	unsigned n;
};

/* The whole stub of an instruction: registers in, instruction, registers out, return. */
void emit_silicon(struct emitter *e, const struct isa_decoded *d);

/* Pieces of the helpers of gathers and masked moves. */
void emit_vmovdqu(struct emitter *e, unsigned opcode, unsigned nr, bool ymm);
#define VMOVDQU_LOAD 0x6f
#define VMOVDQU_STORE 0x7f
void emit_vzero(struct emitter *e, unsigned nr);
void emit_legacy_spill(struct emitter *e, unsigned nr, bool mmx);
void emit_return(struct emitter *e);

bool operand_is_gpr(const ZydisDecodedOperand *o);

#endif
