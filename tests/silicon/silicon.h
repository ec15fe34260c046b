/*
 * The differential test against this machine's processor.
 *
 *   forms.c    every instruction form the decoder's tables know, found by
 *              asking the decoder about every opcode, prefix and ModRM
 *   cases.c    a form made into an instruction and a processor state
 *   main.c     runs cases both ways, compares, minimises, writes the coverage
 *   units.c    cases of 64-bit and 32-bit code, by handlers and as the translator rewrites them
 *   isa_simd/harness.c  the two ways (shared with the unit tests)
 */
#ifndef TESTS_SILICON_H
#define TESTS_SILICON_H

#include "../unit/isa_simd/harness.h"
#include "isa/decoder.h"

/* One encoding of a form; cases.c fills in the rest. */
struct encoding {
	uint8_t vex; /* 0: legacy, 1: VEX, 2: EVEX */
	uint8_t pp;  /* 0 none, 1 66, 2 F3, 3 F2 */
	uint8_t map; /* 0 one byte, 1 0F, 2 0F38, 3 0F3A; 5 and 6 of EVEX */
	uint8_t opcode;
	uint8_t w, l; /* REX.W or VEX.W; VEX.L, EVEX.L'L */
	uint8_t b, z, aaa; /* EVEX: broadcast or rounding, zeroing, opmask */
	uint8_t modrm;
	uint8_t vvvv; /* inverted: 15 is none */
};

#define FORM_ENCODINGS 16
struct form {
	uint64_t key;        /* of mnemonic and operands */
	const char *why_not; /* it never runs natively; NULL: it does */
	char text[80];
	struct encoding e[FORM_ENCODINGS];
	unsigned nr_encodings, nr_seen;
	uint64_t runs, faults;
};

struct form_table {
	struct form *f;
	unsigned nr, runnable;
};

/* A decoded instruction. */
struct insn {
	uint8_t b[24];
	ZydisDecodedInstruction z;
	ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
};
bool insn_decode(struct insn *i, enum isa_code_mode mode);
uint64_t insn_key(const struct insn *i);
/* Bytes of the encoding, zero-filled behind it. */
unsigned encoding_bytes(const struct encoding *e, enum isa_code_mode mode, uint8_t *b);

void forms_enumerate(struct form_table *t, enum isa_code_mode mode);

#define WINDOW_BYTES 256u /* state.mem, around the page boundary */
/* Address of state.mem as the code sees it. */
uint64_t window_base(enum isa_code_mode mode);
/* A random instruction of the form and a state for it; false: try again. */
bool make_case(const struct form *f, enum isa_code_mode mode, struct insn *i, struct state *s);

#endif
