/*
 * The decoded form of an instruction, and the decoder.
 *
 * One decoded form feeds the interpreter, the MMIO emulator and later the
 * translator. A form depends on the bytes and the code mode only, never on
 * register values, so that it can be cached by physical page.
 *
 * A handler (`fn`) runs one instruction completely or not at all: it commits
 * no register, flag or memory before the last point at which it can leave by
 * isa_raise() or by a callback that unwinds (invariant "restart").
 * Handlers do not touch cs->rip, except those of instructions with
 * ISA_ENDS_BLOCK, which set it to the address of the next instruction to run
 * (a REP that wants to go on later sets it to its own address).
 */
#ifndef USERKVM_ISA_INSN_H
#define USERKVM_ISA_INSN_H

#include "isa/cpu_state.h"

typedef void isa_fn(struct cpu_state *cs, const struct isa_insn *i);

/* isa_insn.flags */
#define ISA_ENDS_BLOCK 0x01  /* the handler sets cs->rip; nothing follows in the block */
#define ISA_LOCK 0x02	     /* LOCK prefix, or XCHG with memory */
#define ISA_REP 0x04	     /* F3 as REP/REPE */
#define ISA_REPNE 0x08	     /* F2 as REPNE */
#define ISA_MEM 0x10	     /* rm is memory: base/index/scale/disp/seg below */
#define ISA_RIP_RELATIVE 0x20 /* disp is relative to the next instruction */
#define ISA_HIGH_DST 0x40    /* dst is AH/CH/DH/BH (dst = 0..3) */
#define ISA_HIGH_SRC 0x80    /* src is AH/CH/DH/BH (src = 0..3) */

#define ISA_NO_REG 0xff

struct isa_insn {
	isa_fn *fn;
	uint64_t imm;	   /* immediate, sign- or zero-extended as the opcode does;
			      displacement from the next RIP of relative branches;
			      far pointer: selector << 32 | offset;
			      ENTER: level << 16 | size */
	int64_t disp;	   /* displacement, or the whole moffs */
	void *extra;	   /* handler's own: silicon stub, second-level data */
	uint16_t mnemonic; /* ZydisMnemonic */
	uint16_t off;	   /* from the block's first instruction, bytes */
	uint8_t len;	   /* bytes, 1..15 */
	uint8_t flags;
	uint8_t opsize;	   /* operand size in bytes: 1 2 4 8 */
	uint8_t adsize;	   /* address size in bytes: 2 4 8 */
	uint8_t dst;	   /* number of the first explicit operand, if a register of
			      any kind (segment, control, …), else ISA_NO_REG */
	uint8_t src;	   /* the next explicit register operand after the first operand */
	uint8_t base;	   /* ISA_NO_REG where absent */
	uint8_t index;
	uint8_t scale;	   /* 1 2 4 8 */
	uint8_t seg;	   /* enum sreg, override applied */
	uint8_t opcode;	   /* last opcode byte */
	uint8_t map;	   /* opcode map: 0 one byte, 1 0f, 2 0f38, 3 0f3a */
	uint8_t modrm;	   /* raw, where there is one */
	uint8_t cond;	   /* condition code 0..15 of Jcc, SETcc, CMOVcc */
	uint8_t memsize;   /* bytes of the memory operand; 0: register form */
	uint8_t aux;	   /* handler's own */

	/*
	 * For the handlers of this room. reg and rm are ModRM's fields with the
	 * REX bits (without ModRM: rm is the opcode's register); *_off are byte
	 * offsets from cs->gpr[0], those of AH..BH included where opsize is 1.
	 */
	uint8_t reg;
	uint8_t rm;
	uint8_t reg_off;
	uint8_t rm_off;
	uint8_t ea_form;   /* enum isa_ea_form */
	uint8_t base_off;  /* offset of base and index, of cpu_state.zero where absent */
	uint8_t index_off;
	uint8_t shift;	   /* log2(scale) */
	bool system;	   /* the handler is the embedding's (isa_ops.system) */
};
static_assert(sizeof(struct isa_insn) == 64, "one cache line");

/* How the linear address of the memory operand is computed (isa/mem.h). */
enum isa_ea_form {
	ISA_EA_BASE, /* 64-bit, flat segment: base + disp */
	ISA_EA_SIB,  /* 64-bit, flat segment: base + (index << shift) + disp */
	ISA_EA_RIP,  /* 64-bit, flat segment: next RIP + disp */
	ISA_EA_SLOW, /* everything else */
};

enum isa_decode_result {
	ISA_DECODE_OK,
	ISA_DECODE_UD,	    /* no such instruction: out->fn raises #UD, out->len says how long */
	ISA_DECODE_PARTIAL, /* the bytes end within the instruction */
	ISA_DECODE_TOO_LONG, /* over 15 bytes: out->fn raises #GP(0) */
};

/*
 * Decode the instruction that starts at bytes[0].
 * bytes: at least one, nr_bytes of them readable; at most 15 are looked at.
 * ops:   supplies handlers of system instructions (ops->system).
 * out:   filled (off = 0) unless ISA_DECODE_PARTIAL.
 * Calls Zydis, hence libc: cs->fpu_loaded must be 0 on this thread.
 */
must_check enum isa_decode_result isa_decode(const uint8_t *bytes, size_t nr_bytes,
				  enum isa_code_mode mode, const struct isa_ops *ops,
				  struct isa_insn *out);

/* Does its handler do nothing but raise #UD? */
bool isa_raises_ud(const struct isa_insn *i);

/* What the host's own instruction does as a whole, registers and memory operand exchanged. */
struct isa_silicon {
	enum { ISA_SILICON_X87 /* MMX and FWAIT too */, ISA_SILICON_SSE, ISA_SILICON_AVX,
	       ISA_SILICON_AVX512 } state;
	bool store; /* its memory operand is written, else read; never both */
	bool notes_ip; /* cs->x87 tells about it afterwards */
};
/* false: not an x87, MMX, SSE, AVX or AVX-512 instruction, or its handler does more than run it. */
bool isa_silicon_insn(const struct isa_insn *i, struct isa_silicon *s);

/*
 * The instruction's text in Intel syntax, for traces: `buf` of size `size`
 * always ends up a string. Returns the instruction's length, 0 if there is
 * none ("(bad)"). Calls Zydis: as isa_decode().
 */
unsigned isa_insn_text(const uint8_t *bytes, size_t nr_bytes, enum isa_code_mode mode,
		       uint64_t rip, char *buf, size_t size);

#endif
