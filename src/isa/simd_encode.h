/*
 * Building the code of silicon stubs (isa/stub.h). Used while decoding only.
 */
#ifndef USERKVM_ISA_SIMD_ENCODE_H
#define USERKVM_ISA_SIMD_ENCODE_H

#include "emit/emit.h"
#include "isa/decoder.h"

/* Declares an emitter with room for one stub. */
#define STUB_BYTES 128u
#define STUB_EMITTER(e)                  \
	uint8_t e##_bytes[STUB_BYTES];   \
	struct emitter e = { .b = e##_bytes, .size = STUB_BYTES }

/* The whole stub of an instruction: registers in, instruction, registers out, return. */
void emit_silicon(struct emitter *e, const struct isa_decoded *d);

/* Pieces of the helpers of gathers and masked moves. */
void emit_vmovdqu(struct emitter *e, unsigned opcode, unsigned nr, bool ymm);
#define VMOVDQU_LOAD 0x6f
#define VMOVDQU_STORE 0x7f
void emit_vzero(struct emitter *e, unsigned nr);
void emit_legacy_spill(struct emitter *e, unsigned nr, bool mmx);
void emit_return(struct emitter *e);

/* --- evex_encode.c --- */

/* What an EVEX instruction's fields name, for what is left of its prefix. */
struct evex_operands {
	bool gpr_reg, gpr_rm, memory; /* ModRM.reg, ModRM.rm is a general register; memory */
	bool ignores_w;		      /* W means nothing outside 64-bit code */
};
void emit_evex_prefix(struct emitter *e, const struct isa_decoded *d, const struct evex_operands *o);
/* 64 bytes between [rdi] and a vector register, 0..31. */
void emit_zmm_move(struct emitter *e, unsigned opcode, unsigned nr);
#define ZMM_LOAD 0x6f
#define ZMM_STORE 0x7f
/* An opmask register and [rdi + disp8]: 8 bytes, 2 where the host has no AVX512BW. */
void emit_kmov(struct emitter *e, unsigned opcode, unsigned nr, unsigned disp8);
#define KMOV_LOAD 0x90
#define KMOV_STORE 0x91

bool operand_is_gpr(const ZydisDecodedOperand *o);

#endif
