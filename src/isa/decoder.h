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

#endif
