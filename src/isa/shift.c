/*
 * ROL ROR RCL RCR SHL SHR SAR, SHLD SHRD.
 *
 * The guest's flags are loaded before the host's instruction runs, so that a
 * zero count leaves them, a rotate touches only CF and OF, and what the manual
 * leaves undefined is the silicon's.
 *
 * Invariant: the encoding the host runs is the guest's own. Forms by an
 * immediate, by one and by CL, and those with registers and with memory, may
 * differ in undefined flags (OF of ROL and ROR: seen on Intel's family 6 model
 * 207), so each form has a core of its own. An immediate cannot be a variable: the host jumps into a table with one
 * copy of the instruction for each count that the operand size's mask leaves
 * (SDM Vol. 2, "RCL/RCR/ROL/ROR", "SAL/SAR/SHL/SHR").
 *
 * Locks: none.
 */
#include "isa/decoder.h"
#include "isa/internal.h"

/* What BY_IMMEDIATE has slots for: the counts that are left of an operand size's mask. */
#define NR_COUNTS_8 32
#define NR_COUNTS_16 32
#define NR_COUNTS_32 32
#define NR_COUNTS_64 64

/*
 * asm text: run `insn`, given as bytes, followed by the byte [n]. Each copy is
 * in a slot of 16 bytes; [t] is clobbered. Flags go in and out as in cpu_state.cc.
 */
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
#define BY_IMMEDIATE(insn, nr)                                                         \
	"shll $4, %[n]\n\tleaq 77f(%%rip), %[t]\n\taddq %q[n], %[t]\n\t" SET_FLAGS     \
	"notrack jmp *%[t]\n\t.balign 16\n77:\n\t.set .Lcount, 0\n\t.rept " TEXT(nr)   \
	"\n\t.byte " insn ", .Lcount\n\tjmp 78f\n\t.balign 16\n\t"                     \
	".set .Lcount, .Lcount + 1\n\t.endr\n78:" GET_FLAGS

/* The instruction at `opcode` (of the byte form) but for ModRM. */
#define SHIFT_BYTES_8(opcode) #opcode
#define SHIFT_BYTES_16(opcode) "0x66, " #opcode " + 1"
#define SHIFT_BYTES_32(opcode) #opcode " + 1"
#define SHIFT_BYTES_64(opcode) "0x48, " #opcode " + 1"
#define DOUBLE_BYTES_16(opcode) "0x66, 0x0f, " #opcode
#define DOUBLE_BYTES_32(opcode) "0x0f, " #opcode
#define DOUBLE_BYTES_64(opcode) "0x48, 0x0f, " #opcode
/* ModRM.rm: the operand is in rDX, or where RDX points. */
#define IN_DX(reg) ", 0xc2 + 8 * " #reg
#define AT_DX(reg) ", 0x02 + 8 * " #reg

/*
 * op_i (by an immediate), op_o (by one), op_c (by CL): d is the operand, or its
 * address where op ends in _at; v is the second operand of SHLD and SHRD.
 */
#define CORES(op, D, imm, one, cl, bits)                                               \
	static __attribute__((noinline)) D op##_i##bits(struct cpu_state *cs, D d,     \
							uint64_t v, unsigned n)        \
	{                                                                              \
		uint16_t cc = (uint16_t)cs->cc;                                        \
		uint64_t t;                                                            \
		n &= NR_COUNTS_##bits - 1;                                             \
		__asm__ volatile(BY_IMMEDIATE(imm, NR_COUNTS_##bits)                   \
				 : "+d"(d), "+&a"(cc), [n] "+&c"(n), [t] "=&r"(t)      \
				 : "S"(v) : "cc", "memory");                           \
		cs->cc = cc;                                                           \
		return d;                                                              \
	}                                                                              \
	ISA_INLINE D op##_o##bits(struct cpu_state *cs, D d, uint64_t v, unsigned n)   \
	{                                                                              \
		uint16_t cc = (uint16_t)cs->cc;                                        \
		__asm__ volatile(SET_FLAGS ".byte " one GET_FLAGS                      \
				 : "+d"(d), "+&a"(cc) : "S"(v) : "cc", "memory");      \
		cs->cc = cc;                                                           \
		return d;                                                              \
	}                                                                              \
	ISA_INLINE D op##_c##bits(struct cpu_state *cs, D d, uint64_t v, unsigned n)   \
	{                                                                              \
		uint16_t cc = (uint16_t)cs->cc;                                        \
		__asm__ volatile(SET_FLAGS ".byte " cl GET_FLAGS                       \
				 : "+d"(d), "+&a"(cc) : "c"(n), "S"(v) : "cc", "memory"); \
		cs->cc = cc;                                                           \
		return d;                                                              \
	}

#define SHIFT_FORMS(op, form, second, count, bits, T)                                  \
	HANDLER(op##_r##form##bits)                                                    \
	{                                                                              \
		T v = op##_##form##bits(cs, ISA_REG(cs, i->rm_off, T), second,         \
					(uint8_t)(count));                             \
		SET_REG(cs, i->rm_off, T, v);                                          \
	}                                                                              \
	HANDLER(op##_m##form##bits)                                                    \
	{                                                                              \
		uint64_t lin = isa_operand(cs, i, sizeof(T), ISA_RMW);                 \
		T *p = isa_rmw(cs, lin, sizeof(T));                                    \
		(void)op##_at_##form##bits(cs, p, second, (uint8_t)(count));           \
		isa_rmw_end(cs, lin, sizeof(T), p);                                    \
	}

#define SHIFT(op, digit, bits, T)                                                      \
	CORES(op, T, SHIFT_BYTES_##bits(0xc0) IN_DX(digit),                            \
	      SHIFT_BYTES_##bits(0xd0) IN_DX(digit),                                   \
	      SHIFT_BYTES_##bits(0xd2) IN_DX(digit), bits)                             \
	CORES(op##_at, T *, SHIFT_BYTES_##bits(0xc0) AT_DX(digit),                     \
	      SHIFT_BYTES_##bits(0xd0) AT_DX(digit),                                   \
	      SHIFT_BYTES_##bits(0xd2) AT_DX(digit), bits)                             \
	SHIFT_FORMS(op, i, 0, i->imm, bits, T)                                         \
	SHIFT_FORMS(op, o, 0, 1, bits, T)                                              \
	SHIFT_FORMS(op, c, 0, cs->gpr[RCX], bits, T)

#define SHIFT_SIZE(bits, T, S, sfx)                                                    \
	SHIFT(rol, 0, bits, T) SHIFT(ror, 1, bits, T)                                  \
	SHIFT(rcl, 2, bits, T) SHIFT(rcr, 3, bits, T)                                  \
	SHIFT(shl, 4, bits, T) SHIFT(shr, 5, bits, T)                                  \
	SHIFT(sar, 7, bits, T)
ISA_SIZES(SHIFT_SIZE)

/* Register or memory, by an immediate, by one, by CL. */
struct shift_forms {
	struct by_size ri, ro, rc, mi, mo, mc;
};
#define FORMS(op)                                                                      \
	{ BY_SIZE(op##_ri), BY_SIZE(op##_ro), BY_SIZE(op##_rc),                        \
	  BY_SIZE(op##_mi), BY_SIZE(op##_mo), BY_SIZE(op##_mc) }

/* By ModRM.reg; /6 is SHL too. */
static const struct shift_forms shifts[8] = {
	FORMS(rol), FORMS(ror), FORMS(rcl), FORMS(rcr),
	FORMS(shl), FORMS(shr), FORMS(shl), FORMS(sar),
};

/* c0 c1 imm8, d0 d1 by one, d2 d3 by CL */
isa_fn *isa_pick_shift(const struct isa_decoded *d, struct isa_insn *i)
{
	const struct shift_forms *f = &shifts[(i->modrm >> 3) & 7];
	bool mem = i->flags & ISA_MEM;

	if ((i->opcode & 0xfe) == 0xd2)
		return by_size(mem ? &f->mc : &f->rc, i->opsize);
	if ((i->opcode & 0xfe) == 0xd0)
		return by_size(mem ? &f->mo : &f->ro, i->opsize);
	return by_size(mem ? &f->mi : &f->ri, i->opsize);
}

#define DOUBLE(op, by_imm, by_cl, bits, T)                                             \
	CORES(op, T, DOUBLE_BYTES_##bits(by_imm) IN_DX(6), "0xcc",                     \
	      DOUBLE_BYTES_##bits(by_cl) IN_DX(6), bits)                               \
	CORES(op##_at, T *, DOUBLE_BYTES_##bits(by_imm) AT_DX(6), "0xcc",              \
	      DOUBLE_BYTES_##bits(by_cl) AT_DX(6), bits)                               \
	SHIFT_FORMS(op, i, ISA_REG(cs, i->reg_off, T), i->imm, bits, T)                \
	SHIFT_FORMS(op, c, ISA_REG(cs, i->reg_off, T), cs->gpr[RCX], bits, T)

#define DOUBLE_SIZE(bits, T, S, sfx)                                                   \
	DOUBLE(shld, 0xa4, 0xa5, bits, T) DOUBLE(shrd, 0xac, 0xad, bits, T)
ISA_SIZES_WLQ(DOUBLE_SIZE)

#define DOUBLES(op) { .ri = BY_SIZE_WLQ(op##_ri), .rc = BY_SIZE_WLQ(op##_rc), \
		      .mi = BY_SIZE_WLQ(op##_mi), .mc = BY_SIZE_WLQ(op##_mc) }
static const struct shift_forms shld = DOUBLES(shld), shrd = DOUBLES(shrd);

/* 0f a4 a5 SHLD, 0f ac ad SHRD; odd opcodes by CL */
isa_fn *isa_pick_double_shift(const struct isa_decoded *d, struct isa_insn *i)
{
	const struct shift_forms *f = i->opcode < 0xa8 ? &shld : &shrd;
	bool mem = i->flags & ISA_MEM;

	if (i->opcode & 1)
		return by_size(mem ? &f->mc : &f->rc, i->opsize);
	return by_size(mem ? &f->mi : &f->ri, i->opsize);
}
