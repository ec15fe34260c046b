/*
 * INC DEC NOT NEG, on registers and memory, LOCK included; dispatch of the
 * unary groups F6/F7 and FE.
 *
 * Locks: none.
 */
#include "isa/decoder.h"
#include "isa/internal.h"

#define UNARY_MEM(name, op, before, after, lock, access, bits, T, sfx)                 \
	HANDLER(name)                                                                  \
	{                                                                              \
		uint64_t lin = isa_operand(cs, i, sizeof(T), ISA_RMW);                 \
		T *p = access(cs, lin, sizeof(T));                                     \
		uint16_t cc = (uint16_t)cs->cc;                                        \
		__asm__ volatile(before lock op sfx " %[p]" after                      \
				 : [p] "+m"(*p), [cc] "+&a"(cc) : : "cc", "memory");    \
		cs->cc = cc;                                                           \
		isa_rmw_end(cs, lin, sizeof(T), p);                                    \
	}

#define UNARY(op, before, after, bits, T, sfx)                                         \
	HANDLER(op##_r##bits)                                                          \
	{                                                                              \
		T d = ISA_REG(cs, i->rm_off, T);                                       \
		uint16_t cc = (uint16_t)cs->cc;                                        \
		__asm__(before #op sfx " %[d]" after                                   \
			: [d] "+r"(d), [cc] "+&a"(cc) : : "cc");                        \
		cs->cc = cc;                                                           \
		SET_REG(cs, i->rm_off, T, d);                                          \
	}                                                                              \
	UNARY_MEM(op##_m##bits, #op, before, after, "", isa_rmw, bits, T, sfx)         \
	UNARY_MEM(op##_Lm##bits, #op, before, after, "lock; ", isa_rmw_locked, bits, T, sfx)

/* INC and DEC keep CF; NOT keeps every flag. */
#define UNARY_SIZE(bits, T, S, sfx)                                                    \
	UNARY(inc, SET_CF("%k[cc]"), GET_FLAGS, bits, T, sfx)                          \
	UNARY(dec, SET_CF("%k[cc]"), GET_FLAGS, bits, T, sfx)                          \
	UNARY(neg, "", GET_FLAGS, bits, T, sfx)                                        \
	UNARY(not, "", "", bits, T, sfx)
ISA_SIZES(UNARY_SIZE)

struct unary_forms {
	struct by_size r, m, lock_m;
};
#define FORMS(op) { BY_SIZE(op##_r), BY_SIZE(op##_m), BY_SIZE(op##_Lm) }
static const struct unary_forms inc = FORMS(inc), dec = FORMS(dec), neg = FORMS(neg),
				not = FORMS(not);

static isa_fn *pick(const struct unary_forms *f, const struct isa_insn *i)
{
	if (!(i->flags & ISA_MEM))
		return by_size(&f->r, i->opsize);
	return by_size((i->flags & ISA_LOCK) ? &f->lock_m : &f->m, i->opsize);
}

/* 40..4f outside 64-bit mode */
isa_fn *isa_pick_incdec_reg(const struct isa_decoded *d, struct isa_insn *i)
{
	return pick(i->opcode < 0x48 ? &inc : &dec, i);
}

/* f6 f7 */
isa_fn *isa_pick_grp3(const struct isa_decoded *d, struct isa_insn *i)
{
	switch ((i->modrm >> 3) & 7) {
	case 0:
	case 1: return isa_pick_test(d, i);
	case 2: return pick(&not, i);
	case 3: return pick(&neg, i);
	default: return isa_pick_muldiv(d, i);
	}
}

/* fe, and ff /0 /1 */
isa_fn *isa_pick_grp4(const struct isa_decoded *d, struct isa_insn *i)
{
	switch ((i->modrm >> 3) & 7) {
	case 0: return pick(&inc, i);
	case 1: return pick(&dec, i);
	default: return NULL;
	}
}
