/*
 * Inside the isa room: how handlers are written and chosen.
 *
 * A pick function turns a decoded instruction into the handler made for its
 * operand form and size, so that a handler itself never asks. Handlers are
 * stamped out by macros over ISA_SIZES; arithmetic is done by the host's own
 * instruction, whose flags are taken with LAHF and SETO, so that results and
 * flags (undefined ones too) are the silicon's.
 */
#ifndef USERKVM_ISA_INTERNAL_H
#define USERKVM_ISA_INTERNAL_H

#include "isa/host.h"
#include "isa/isa.h"

/* X(bits, type, signed type, AT&T suffix) */
#define ISA_SIZES(X)                    \
	X(8, uint8_t, int8_t, "b")      \
	X(16, uint16_t, int16_t, "w")   \
	X(32, uint32_t, int32_t, "l")   \
	X(64, uint64_t, int64_t, "q")
#define ISA_SIZES_WLQ(X)                \
	X(16, uint16_t, int16_t, "w")   \
	X(32, uint32_t, int32_t, "l")   \
	X(64, uint64_t, int64_t, "q")

#define HANDLER(name) \
	static void name(struct cpu_state *cs, const struct isa_insn *i)

/* Write a register of type T by offset: 32-bit results are zero-extended. */
#define SET_REG(cs, off, T, v)                                           \
	do {                                                             \
		if (sizeof(T) == 4)                                      \
			ISA_REG(cs, off, uint64_t) = (uint32_t)(v);      \
		else                                                     \
			ISA_REG(cs, off, T) = (T)(v);                    \
	} while (0)

/* isa_read_rm() where the size is a constant. */
ISA_INLINE uint64_t read_rm(struct cpu_state *cs, const struct isa_insn *i, unsigned size)
{
	if (i->flags & ISA_MEM)
		return isa_load(cs, isa_operand(cs, i, size, ISA_READ), size);
	return isa_host_load(&ISA_REG(cs, i->rm_off, uint8_t), size);
}

/* asm text: AX <- flags, as cpu_state.cc holds them. */
#define GET_FLAGS "\n\tlahf\n\tseto %%al"
/* asm text: flags <- AX in that form (OF by an overflowing addition). */
#define SET_FLAGS "addb $0x7f, %%al\n\tsahf\n\t"
/* asm text: CF <- cc. */
#define SET_CF(cc) "btl $8, " cc "\n\t"

/* Handlers of one operation by operand size 1, 2, 4, 8. */
struct by_size {
	isa_fn *fn[4];
};
#define BY_SIZE(name) { { name##8, name##16, name##32, name##64 } }
#define BY_SIZE_WLQ(name) { { NULL, name##16, name##32, name##64 } }

ISA_INLINE isa_fn *by_size(const struct by_size *t, unsigned size)
{
	return t->fn[__builtin_ctz(size)];
}

/* --- the stack, SDM Vol. 1, "Stack Behavior in 64-Bit Mode", "Address-Size Attributes for Stack" --- */
ISA_INLINE uint64_t stack_mask(const struct cpu_state *cs)
{
	if (likely(cs->stack_mode == ISA_CODE64))
		return ~0ULL;
	return cs->stack_mode == ISA_CODE32 ? 0xffffffff : 0xffff;
}

/* Stack pointer plus delta, at the stack's width. */
ISA_INLINE uint64_t stack_offset(const struct cpu_state *cs, int64_t delta)
{
	return (cs->gpr[RSP] + (uint64_t)delta) & stack_mask(cs);
}

/* Linear address of [SS:sp]. */
ISA_INLINE uint64_t stack_linear(struct cpu_state *cs, uint64_t sp, unsigned size,
				 enum isa_access how)
{
	return likely(cs->stack_mode == ISA_CODE64) ? sp : isa_linear(cs, SREG_SS, sp, size, how);
}

ISA_INLINE void set_at_stack_width(struct cpu_state *cs, unsigned reg, uint64_t v)
{
	if (unlikely(cs->stack_mode == ISA_CODE16))
		isa_set_gpr(cs, reg, 2, v);
	else
		cs->gpr[reg] = v & stack_mask(cs);
}

ISA_INLINE void stack_set(struct cpu_state *cs, uint64_t sp)
{
	set_at_stack_width(cs, RSP, sp);
}

/* --- conditions 0..15 on cc, in opcode order --- */
ISA_INLINE bool cc_test(uint32_t cc, unsigned cond)
{
	bool r;

	switch (cond >> 1) {
	case 0: r = cc & CC_OF; break;
	case 1: r = cc & CC_CF; break;
	case 2: r = cc & CC_ZF; break;
	case 3: r = cc & (CC_CF | CC_ZF); break;
	case 4: r = cc & CC_SF; break;
	case 5: r = cc & CC_PF; break;
	case 6: r = ((cc >> 15) ^ cc) & 1; break;
	default: r = (((cc >> 15) ^ cc) & 1) || (cc & CC_ZF); break;
	}
	return r != (cond & 1);
}

#define ISA_CONDS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) \
		     X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

/* --- pick functions: NULL where the instruction is somebody else's --- */
typedef isa_fn *isa_pick(const struct isa_decoded *d, struct isa_insn *i);

/* alu.c, unary.c */
isa_pick isa_pick_alu, isa_pick_alu_imm, isa_pick_test, isa_pick_incdec_reg;
isa_pick isa_pick_grp3, isa_pick_grp4;
/* shift.c, muldiv.c */
isa_pick isa_pick_shift, isa_pick_double_shift, isa_pick_imul;
isa_pick isa_pick_muldiv; /* F6, F7 /4../7 */
/* mov.c */
isa_pick isa_pick_mov, isa_pick_mov_imm, isa_pick_mov_reg_imm, isa_pick_mov_moffs;
isa_pick isa_pick_movx, isa_pick_movsxd, isa_pick_lea, isa_pick_cmov, isa_pick_setcc;
isa_pick isa_pick_convert, isa_pick_xlat, isa_pick_movnti, isa_pick_bswap, isa_pick_movbe;
/* stack.c */
isa_pick isa_pick_push_reg, isa_pick_pop_reg, isa_pick_push_imm, isa_pick_pop_rm;
isa_pick isa_pick_pusha, isa_pick_enter, isa_pick_push_rm;
/* branch.c */
isa_pick isa_pick_jcc, isa_pick_jmp, isa_pick_call, isa_pick_ret, isa_pick_loop;
isa_pick isa_pick_grp5; /* FE, FF: branches, pushes, inc and dec */
/* string.c */
isa_pick isa_pick_string;
/* bit.c, bmi.c */
isa_pick isa_pick_bt, isa_pick_scan, isa_pick_bmi;
isa_pick isa_pick_crc32, isa_pick_adx;
/* direct.c */
isa_pick isa_pick_direct;
/* atomic.c */
isa_pick isa_pick_xchg, isa_pick_xchg_ax, isa_pick_xadd, isa_pick_cmpxchg, isa_pick_grp9;
/* misc.c */
isa_pick isa_pick_flag, isa_pick_bcd, isa_pick_bound, isa_pick_nop, isa_pick_ud;
isa_fn isa_raise_ud, isa_raise_gp;

/* Offset of byte register r of an instruction with or without a REX prefix. */
uint8_t isa_byte_off(const struct isa_decoded *d, unsigned r);
bool isa_has_rex(const struct isa_decoded *d);

#endif
