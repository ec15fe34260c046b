/*
 * Flag instructions (LAHF SAHF CLC STC CMC CLD STD), decimal adjustments,
 * BOUND, NOP and its kin, UD0 UD1 UD2.
 *
 * Locks: none.
 */
#include "isa/decoder.h"
#include "isa/internal.h"

/* --- flags --- */
HANDLER(lahf)
{
	ISA_REG(cs, 1, uint8_t) = (uint8_t)(((cs->cc >> 8) & 0xd5) | X86_FLAGS_FIXED);
}

HANDLER(sahf)
{
	cs->cc = (uint32_t)((cs->cc & CC_OF) | (cs->gpr[RAX] & 0xd500));
}

HANDLER(clc) { cs->cc &= (uint32_t)~CC_CF; }
HANDLER(stc) { cs->cc |= CC_CF; }
HANDLER(cmc) { cs->cc ^= CC_CF; }
HANDLER(cld) { cs->rflags &= ~X86_FLAGS_DF; }
HANDLER(std) { cs->rflags |= X86_FLAGS_DF; }

/* 9e 9f f5 f8 f9 fc fd */
isa_fn *isa_pick_flag(const struct isa_decoded *d, struct isa_insn *i)
{
	switch (i->opcode) {
	case 0x9e: return sahf;
	case 0x9f: return lahf;
	case 0xf5: return cmc;
	case 0xf8: return clc;
	case 0xf9: return stc;
	case 0xfc: return cld;
	case 0xfd: return std;
	default: return NULL;
	}
}

/* --- decimal adjustments: 16- and 32-bit code only, so there is no silicon to ask --- */

/* SF, ZF and PF of a byte, with these AF and CF; OF (undefined) cleared. */
static uint32_t cc_of_byte(uint8_t v, bool af, bool cf)
{
	return (uint32_t)((v & 0x80 ? CC_SF : 0) | (v ? 0 : CC_ZF) |
			  (__builtin_parity(v) ? 0 : CC_PF) | (af ? CC_AF : 0) | (cf ? CC_CF : 0));
}

/* SDM Vol. 2, "DAA", "DAS": sign is +1 or -1. */
ISA_INLINE void decimal_adjust(struct cpu_state *cs, int sign)
{
	uint8_t al = (uint8_t)cs->gpr[RAX], old = al;
	bool cf = cs->cc & CC_CF, low = (al & 15) > 9 || (cs->cc & CC_AF);
	bool high = old > 0x99 || cf;
	bool carry = false;

	if (low) {
		carry = cf || (sign > 0 ? al > 0xff - 6 : al < 6);
		al = (uint8_t)(al + sign * 6);
	}
	if (high) {
		al = (uint8_t)(al + sign * 0x60);
		carry = true;
	}
	ISA_REG(cs, 0, uint8_t) = al;
	cs->cc = cc_of_byte(al, low, carry);
}

HANDLER(daa) { decimal_adjust(cs, 1); }
HANDLER(das) { decimal_adjust(cs, -1); }

/* SDM Vol. 2, "AAA", "AAS": AX moves by 106h, AL keeps its low digit. */
ISA_INLINE void ascii_adjust(struct cpu_state *cs, int sign)
{
	uint16_t ax = (uint16_t)cs->gpr[RAX];
	bool adjust = (ax & 15) > 9 || (cs->cc & CC_AF);

	if (adjust)
		ax = (uint16_t)(ax + sign * 0x106);
	ax &= 0xff0f;
	ISA_REG(cs, 0, uint16_t) = ax;
	cs->cc = cc_of_byte((uint8_t)ax, adjust, adjust);
}

HANDLER(aaa) { ascii_adjust(cs, 1); }
HANDLER(aas) { ascii_adjust(cs, -1); }

HANDLER(aam)
{
	uint8_t al = (uint8_t)cs->gpr[RAX], base = (uint8_t)i->imm;

	if (!base)
		isa_raise(cs, X86_TRAP_DE);
	ISA_REG(cs, 0, uint16_t) = (uint16_t)((al / base) << 8 | al % base);
	cs->cc = cc_of_byte(al % base, false, false);
}

HANDLER(aad)
{
	uint16_t ax = (uint16_t)cs->gpr[RAX];
	uint8_t al = (uint8_t)(ax + (ax >> 8) * (uint8_t)i->imm);

	ISA_REG(cs, 0, uint16_t) = al;
	cs->cc = cc_of_byte(al, false, false);
}

/* SALC: in no manual of Intel's but in all of its processors, and AMD's */
HANDLER(salc) { ISA_REG(cs, 0, uint8_t) = cs->cc & CC_CF ? 0xff : 0; }

/* 27 2f 37 3f d4 d5 d6; none in 64-bit mode */
isa_fn *isa_pick_bcd(const struct isa_decoded *d, struct isa_insn *i)
{
	if (d->mode == ISA_CODE64)
		return NULL;
	switch (i->opcode) {
	case 0x27: return daa;
	case 0x2f: return das;
	case 0x37: return aaa;
	case 0x3f: return aas;
	case 0xd4: return aam;
	case 0xd5: return aad;
	case 0xd6: return salc;
	default: return NULL;
	}
}

/* --- BOUND: signed index against a pair in memory --- */
HANDLER(bound)
{
	unsigned size = i->opsize;
	uint64_t lin = isa_operand(cs, i, size * 2, ISA_READ);
	uint64_t lo = isa_load(cs, lin, size), hi = isa_load(cs, (uint32_t)(lin + size), size);
	uint64_t v = cs->gpr[i->reg];
	bool out = size == 2 ? (int16_t)v < (int16_t)lo || (int16_t)v > (int16_t)hi :
			       (int32_t)v < (int32_t)lo || (int32_t)v > (int32_t)hi;

	if (out)
		isa_raise(cs, X86_TRAP_BR);
}

/* 62 outside 64-bit mode */
isa_fn *isa_pick_bound(const struct isa_decoded *d, struct isa_insn *i)
{
	if (d->mode == ISA_CODE64)
		return NULL;
	return (i->flags & ISA_MEM) ? bound : isa_raise_ud;
}

/* --- nothing, and less than nothing --- */
HANDLER(nop) { }

/* 0f 0d, 0f 18..1f: hints, and what a processor without MPX and CET takes for NOP */
isa_fn *isa_pick_nop(const struct isa_decoded *d, struct isa_insn *i)
{
	if (i->map == 1 && i->opcode == 0x0d && !(i->flags & ISA_MEM) && !isa_host()->prefetchw_takes_registers)
		return isa_pick_ud(d, i);
	return nop;
}

void isa_raise_ud(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_raise(cs, X86_TRAP_UD);
}

bool isa_raises_ud(const struct isa_insn *i)
{
	return i->fn == isa_raise_ud;
}

void isa_raise_gp(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_raise_error(cs, X86_TRAP_GP, 0);
}

/* 0f 0b, 0f b9, 0f ff */
isa_fn *isa_pick_ud(const struct isa_decoded *d, struct isa_insn *i)
{
	i->flags |= ISA_ENDS_BLOCK;
	return isa_raise_ud;
}
