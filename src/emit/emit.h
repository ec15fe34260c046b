/*
 * Machine code for the host, as bytes.
 *
 * A struct emitter is a cursor in a buffer of x86-64 code that will run at the
 * address `run`, which need not be where the bytes are written (emit/exec.h
 * maps code twice). Writers append; they know encodings, not meanings.
 *
 * Invariants
 * 1. Nothing is written at or past `size`: what does not fit is dropped and
 *    `full` is set for good. A user looks at `full` once, at the end.
 * 2. A buffer's bytes depend on what was emitted only; there is no other state.
 *
 * Context: any; no allocation, no libc.
 */
#ifndef USERKVM_EMIT_EMIT_H
#define USERKVM_EMIT_EMIT_H

#include "lib/types.h"

struct emitter {
	uint8_t *b;    /* the writable bytes */
	uint32_t n;    /* bytes emitted */
	uint32_t size; /* bytes of room */
	bool full;     /* something did not fit */
	uint64_t run;  /* address at which b[0] runs */
};

/* Numbers of the general registers as instructions encode them (HOST_RSP is a VMCS field). */
enum host_reg {
	HOST_RAX, HOST_RCX, HOST_RDX, HOST_RBX, HOST_SP, HOST_RBP, HOST_RSI, HOST_RDI,
	HOST_R8, HOST_R9, HOST_R10, HOST_R11, HOST_R12, HOST_R13, HOST_R14, HOST_R15,
	HOST_NONE = 0xff,
};

static inline void emit_byte(struct emitter *e, unsigned b)
{
	if (unlikely(e->n >= e->size))
		e->full = true;
	else
		e->b[e->n++] = (uint8_t)b;
}

static inline void emit_bytes(struct emitter *e, const void *p, unsigned n)
{
	const uint8_t *b = p;

	while (n--)
		emit_byte(e, *b++);
}

static inline void emit_u32(struct emitter *e, uint32_t v)
{
	emit_bytes(e, &v, 4);
}

static inline void emit_u64(struct emitter *e, uint64_t v)
{
	emit_bytes(e, &v, 8);
}

/* Address at which the next byte runs. */
static inline uint64_t emit_here(const struct emitter *e)
{
	return e->run + e->n;
}

/* Can a RIP-relative operand near here reach `address`? (With 64 KiB to spare.) */
static inline bool emit_reaches(const struct emitter *e, uint64_t address)
{
	int64_t d = (int64_t)(address - e->run);

	return d > INT32_MIN + 65536LL && d < INT32_MAX - 65536LL;
}

/* A memory operand: [base + (index << shift) + disp]; either register may be HOST_NONE. */
struct host_mem {
	uint8_t base, index, shift;
	bool absolute;	 /* `address`, reached RIP-relatively; nothing else counts */
	bool wide_disp;	 /* no displacement of 8 bits but 0: EVEX would scale it */
	int32_t disp;
	uint64_t address;
};

/*
 * ModRM, SIB and displacement of an operand, with `reg` (its low three bits) in
 * ModRM.reg. nr_after: bytes of the instruction that follow (immediates).
 */
void emit_modrm_mem(struct emitter *e, unsigned reg, const struct host_mem *m,
		    unsigned nr_after);
/* REX bits (R, X, B as 4, 2, 1) that `reg` and the operand need. */
unsigned emit_rex_bits(unsigned reg, const struct host_mem *m);

/* op reg, [m] with an opcode of one byte: 8b load, 89 store, 8d lea, 03 add, 3b cmp … */
void emit_op_mem(struct emitter *e, bool wide, unsigned opcode, unsigned reg,
		 const struct host_mem *m);
/* op rm, reg between registers: 89 mov, 01 add, 29 sub, 31 xor, 39 cmp … */
void emit_op_reg(struct emitter *e, bool wide, unsigned opcode, unsigned rm, unsigned reg);
/* 81 /ext: add 0, or 1, and 4, sub 5, xor 6, cmp 7 with imm32. */
void emit_op_imm(struct emitter *e, bool wide, unsigned ext, unsigned rm, int32_t imm);
/* mov reg32, imm32: zero-extends. */
void emit_mov_imm32(struct emitter *e, unsigned reg, uint32_t imm);

/* jmp rel32 and jcc rel32 (cond 0..15) with an open target: the offset of rel32, for emit_patch(). */
uint32_t emit_jmp(struct emitter *e);
uint32_t emit_jcc(struct emitter *e, unsigned cond);
/* Let the rel32 at offset `at` lead to offset `to`. */
void emit_patch(struct emitter *e, uint32_t at, uint32_t to);
/* jmp [address], call [address]: RIP-relative. */
void emit_jmp_via(struct emitter *e, uint64_t address);
void emit_call_via(struct emitter *e, uint64_t address);

#endif
