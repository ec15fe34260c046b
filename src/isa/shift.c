/*
 * ROL ROR RCL RCR SHL SHR SAR, SHLD SHRD.
 *
 * The guest's flags are loaded before the host's instruction runs, so that a
 * zero count leaves them, a rotate touches only CF and OF, and what the manual
 * leaves undefined is the silicon's.
 *
 * Locks: none.
 */
#include "isa/decoder.h"
#include "isa/internal.h"

#define SHIFT_CORE(op, bits, T, sfx)                                                   \
	ISA_INLINE T op##_val##bits(struct cpu_state *cs, T d, uint8_t n)              \
	{                                                                              \
		uint16_t cc = (uint16_t)cs->cc;                                        \
		__asm__(SET_FLAGS #op sfx " %%cl, %[d]" GET_FLAGS                      \
			: [d] "+r"(d), "+&a"(cc) : "c"(n) : "cc");                      \
		cs->cc = cc;                                                           \
		return d;                                                              \
	}

#define SHIFT_FORMS(op, form, count, bits, T)                                          \
	HANDLER(op##_r##form##bits)                                                    \
	{                                                                              \
		T v = op##_val##bits(cs, ISA_REG(cs, i->rm_off, T), (uint8_t)(count)); \
		SET_REG(cs, i->rm_off, T, v);                                          \
	}                                                                              \
	HANDLER(op##_m##form##bits)                                                    \
	{                                                                              \
		uint64_t lin = isa_operand(cs, i, sizeof(T), ISA_RMW);                 \
		void *p = isa_rmw(cs, lin, sizeof(T));                                 \
		T v = (T)isa_host_load(p, sizeof(T));                                  \
		isa_host_store(p, sizeof(T), op##_val##bits(cs, v, (uint8_t)(count))); \
		isa_rmw_end(cs, lin, sizeof(T), p);                                    \
	}

#define SHIFT(op, bits, T, sfx)                                                        \
	SHIFT_CORE(op, bits, T, sfx)                                                   \
	SHIFT_FORMS(op, i, i->imm, bits, T)                                            \
	SHIFT_FORMS(op, c, cs->gpr[RCX], bits, T)

#define SHIFT_SIZE(bits, T, S, sfx)                                                    \
	SHIFT(rol, bits, T, sfx) SHIFT(ror, bits, T, sfx)                              \
	SHIFT(rcl, bits, T, sfx) SHIFT(rcr, bits, T, sfx)                              \
	SHIFT(shl, bits, T, sfx) SHIFT(shr, bits, T, sfx)                              \
	SHIFT(sar, bits, T, sfx)
ISA_SIZES(SHIFT_SIZE)

struct shift_forms {
	struct by_size ri, rc, mi, mc;
};
#define FORMS(op) { BY_SIZE(op##_ri), BY_SIZE(op##_rc), BY_SIZE(op##_mi), BY_SIZE(op##_mc) }

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
		i->imm = 1;
	return by_size(mem ? &f->mi : &f->ri, i->opsize);
}

#define DOUBLE_CORE(op, bits, T, sfx)                                                  \
	ISA_INLINE T op##_val##bits(struct cpu_state *cs, T d, T v, uint8_t n)         \
	{                                                                              \
		uint16_t cc = (uint16_t)cs->cc;                                        \
		__asm__(SET_FLAGS #op sfx " %%cl, %[v], %[d]" GET_FLAGS                \
			: [d] "+r"(d), "+&a"(cc) : [v] "r"(v), "c"(n) : "cc");          \
		cs->cc = cc;                                                           \
		return d;                                                              \
	}

#define DOUBLE_FORMS(op, form, count, bits, T)                                         \
	HANDLER(op##_r##form##bits)                                                    \
	{                                                                              \
		T v = op##_val##bits(cs, ISA_REG(cs, i->rm_off, T),                    \
				     ISA_REG(cs, i->reg_off, T), (uint8_t)(count));    \
		SET_REG(cs, i->rm_off, T, v);                                          \
	}                                                                              \
	HANDLER(op##_m##form##bits)                                                    \
	{                                                                              \
		uint64_t lin = isa_operand(cs, i, sizeof(T), ISA_RMW);                 \
		void *p = isa_rmw(cs, lin, sizeof(T));                                 \
		T v = op##_val##bits(cs, (T)isa_host_load(p, sizeof(T)),               \
				     ISA_REG(cs, i->reg_off, T), (uint8_t)(count));    \
		isa_host_store(p, sizeof(T), v);                                       \
		isa_rmw_end(cs, lin, sizeof(T), p);                                    \
	}

#define DOUBLE_SIZE(bits, T, S, sfx)                                                   \
	DOUBLE_CORE(shld, bits, T, sfx) DOUBLE_CORE(shrd, bits, T, sfx)                \
	DOUBLE_FORMS(shld, i, i->imm, bits, T) DOUBLE_FORMS(shld, c, cs->gpr[RCX], bits, T) \
	DOUBLE_FORMS(shrd, i, i->imm, bits, T) DOUBLE_FORMS(shrd, c, cs->gpr[RCX], bits, T)
ISA_SIZES_WLQ(DOUBLE_SIZE)

#define DOUBLES(op) { BY_SIZE_WLQ(op##_ri), BY_SIZE_WLQ(op##_rc), BY_SIZE_WLQ(op##_mi), \
		      BY_SIZE_WLQ(op##_mc) }
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
