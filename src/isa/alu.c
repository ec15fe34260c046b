/*
 * ADD OR ADC SBB AND SUB XOR CMP and TEST, in every operand form.
 *
 * Forms: rr (both registers, rm_off the destination), rm (register from
 * memory), mr (memory from register), ri and mi (immediate), Lmr and Lmi
 * (LOCK). Memory forms operate on the guest's memory in place, by the same
 * instruction the guest used; LOCK is the host's LOCK.
 *
 * Locks: none.
 */
#include "isa/decoder.h"
#include "isa/internal.h"

/* op d, v with flags; ADC and SBB take the guest's carry in first. */
#define ALU_CORE(op, carry, bits, T, sfx)                                              \
	ISA_INLINE T op##_val##bits(struct cpu_state *cs, T d, T v)                    \
	{                                                                              \
		uint16_t cc;                                                           \
		__asm__(carry #op sfx " %[v], %[d]" GET_FLAGS                          \
			: [d] "+r"(d), "=a"(cc)                                        \
			: [v] "r"(v), [in] "r"(cs->cc)                                 \
			: "cc");                                                       \
		cs->cc = cc;                                                           \
		return d;                                                              \
	}                                                                              \
	ISA_INLINE void op##_mem##bits(struct cpu_state *cs, T *p, T v)                \
	{                                                                              \
		uint16_t cc;                                                           \
		__asm__ volatile(carry #op sfx " %[v], %[p]" GET_FLAGS                 \
				 : [p] "+m"(*p), "=a"(cc)                              \
				 : [v] "r"(v), [in] "r"(cs->cc)                        \
				 : "cc", "memory");                                    \
		cs->cc = cc;                                                           \
	}                                                                              \
	ISA_INLINE void op##_lock##bits(struct cpu_state *cs, T *p, T v)               \
	{                                                                              \
		uint16_t cc;                                                           \
		__asm__ volatile(carry "lock; " #op sfx " %[v], %[p]" GET_FLAGS        \
				 : [p] "+m"(*p), "=a"(cc)                              \
				 : [v] "r"(v), [in] "r"(cs->cc)                        \
				 : "cc", "memory");                                    \
		cs->cc = cc;                                                           \
	}

#define RMW(access, cs, i, T, call)                                                    \
	do {                                                                           \
		uint64_t lin = isa_operand(cs, i, sizeof(T), ISA_RMW);                 \
		T *p = access(cs, lin, sizeof(T));                                     \
		call;                                                                  \
		isa_rmw_end(cs, lin, sizeof(T), p);                                    \
	} while (0)

#define ALU_FORMS(op, bits, T)                                                         \
	HANDLER(op##_rr##bits)                                                         \
	{                                                                              \
		T v = op##_val##bits(cs, ISA_REG(cs, i->rm_off, T),                    \
				     ISA_REG(cs, i->reg_off, T));                      \
		SET_REG(cs, i->rm_off, T, v);                                          \
	}                                                                              \
	HANDLER(op##_ri##bits)                                                         \
	{                                                                              \
		T v = op##_val##bits(cs, ISA_REG(cs, i->rm_off, T), (T)i->imm);        \
		SET_REG(cs, i->rm_off, T, v);                                          \
	}                                                                              \
	HANDLER(op##_rm##bits)                                                         \
	{                                                                              \
		T m = (T)isa_load(cs, isa_operand(cs, i, sizeof(T), ISA_READ),         \
				  sizeof(T));                                          \
		T v = op##_val##bits(cs, ISA_REG(cs, i->reg_off, T), m);               \
		SET_REG(cs, i->reg_off, T, v);                                         \
	}                                                                              \
	HANDLER(op##_mr##bits)                                                         \
	{                                                                              \
		RMW(isa_rmw, cs, i, T, op##_mem##bits(cs, p, ISA_REG(cs, i->reg_off, T))); \
	}                                                                              \
	HANDLER(op##_mi##bits)                                                         \
	{                                                                              \
		RMW(isa_rmw, cs, i, T, op##_mem##bits(cs, p, (T)i->imm));              \
	}                                                                              \
	HANDLER(op##_Lmr##bits)                                                        \
	{                                                                              \
		RMW(isa_rmw_locked, cs, i, T, op##_lock##bits(cs, p, ISA_REG(cs, i->reg_off, T))); \
	}                                                                              \
	HANDLER(op##_Lmi##bits)                                                        \
	{                                                                              \
		RMW(isa_rmw_locked, cs, i, T, op##_lock##bits(cs, p, (T)i->imm));      \
	}

/* CMP and TEST write nothing. */
#define COMPARE_FORMS(op, bits, T, sfx)                                                \
	ISA_INLINE void op##_val##bits(struct cpu_state *cs, T d, T v)                 \
	{                                                                              \
		uint16_t cc;                                                           \
		__asm__(#op sfx " %[v], %[d]" GET_FLAGS                                \
			: "=a"(cc) : [d] "r"(d), [v] "r"(v) : "cc");                   \
		cs->cc = cc;                                                           \
	}                                                                              \
	HANDLER(op##_rr##bits)                                                         \
	{                                                                              \
		op##_val##bits(cs, ISA_REG(cs, i->rm_off, T), ISA_REG(cs, i->reg_off, T)); \
	}                                                                              \
	HANDLER(op##_ri##bits)                                                         \
	{                                                                              \
		op##_val##bits(cs, ISA_REG(cs, i->rm_off, T), (T)i->imm);              \
	}                                                                              \
	HANDLER(op##_rm##bits)                                                         \
	{                                                                              \
		T m = (T)isa_load(cs, isa_operand(cs, i, sizeof(T), ISA_READ),         \
				  sizeof(T));                                          \
		op##_val##bits(cs, ISA_REG(cs, i->reg_off, T), m);                     \
	}                                                                              \
	HANDLER(op##_mr##bits)                                                         \
	{                                                                              \
		T m = (T)isa_load(cs, isa_operand(cs, i, sizeof(T), ISA_READ),         \
				  sizeof(T));                                          \
		op##_val##bits(cs, m, ISA_REG(cs, i->reg_off, T));                     \
	}                                                                              \
	HANDLER(op##_mi##bits)                                                         \
	{                                                                              \
		T m = (T)isa_load(cs, isa_operand(cs, i, sizeof(T), ISA_READ),         \
				  sizeof(T));                                          \
		op##_val##bits(cs, m, (T)i->imm);                                      \
	}

#define ALU_SIZE(bits, T, S, sfx)                                                      \
	ALU_CORE(add, "", bits, T, sfx) ALU_FORMS(add, bits, T)                        \
	ALU_CORE(or, "", bits, T, sfx) ALU_FORMS(or, bits, T)                          \
	ALU_CORE(adc, SET_CF("%k[in]"), bits, T, sfx) ALU_FORMS(adc, bits, T)          \
	ALU_CORE(sbb, SET_CF("%k[in]"), bits, T, sfx) ALU_FORMS(sbb, bits, T)          \
	ALU_CORE(and, "", bits, T, sfx) ALU_FORMS(and, bits, T)                        \
	ALU_CORE(sub, "", bits, T, sfx) ALU_FORMS(sub, bits, T)                        \
	ALU_CORE(xor, "", bits, T, sfx) ALU_FORMS(xor, bits, T)                        \
	COMPARE_FORMS(cmp, bits, T, sfx)                                               \
	COMPARE_FORMS(test, bits, T, sfx)
ISA_SIZES(ALU_SIZE)

struct alu_forms {
	struct by_size rr, ri, rm, mr, mi, lock_mr, lock_mi;
};

#define FORMS(op) { BY_SIZE(op##_rr), BY_SIZE(op##_ri), BY_SIZE(op##_rm), BY_SIZE(op##_mr), \
		    BY_SIZE(op##_mi), BY_SIZE(op##_Lmr), BY_SIZE(op##_Lmi) }
#define FORMS_COMPARE(op) { BY_SIZE(op##_rr), BY_SIZE(op##_ri), BY_SIZE(op##_rm), \
			    BY_SIZE(op##_mr), BY_SIZE(op##_mi), { { NULL } }, { { NULL } } }

/* In the order of opcode bits 5:3, and of ModRM.reg of 80..83. */
static const struct alu_forms alu[8] = {
	FORMS(add), FORMS(or), FORMS(adc), FORMS(sbb),
	FORMS(and), FORMS(sub), FORMS(xor), FORMS_COMPARE(cmp),
};
static const struct alu_forms test_forms = FORMS_COMPARE(test);

static isa_fn *pick_imm(const struct alu_forms *f, const struct isa_insn *i)
{
	if (!(i->flags & ISA_MEM))
		return by_size(&f->ri, i->opsize);
	return by_size((i->flags & ISA_LOCK) ? &f->lock_mi : &f->mi, i->opsize);
}

/* 00..3d: bits 2:0 are the form (rm,reg / reg,rm / accumulator,imm). */
isa_fn *isa_pick_alu(const struct isa_decoded *d, struct isa_insn *i)
{
	const struct alu_forms *f = &alu[(i->opcode >> 3) & 7];
	uint8_t t;

	if (i->opcode & 4) {
		i->rm_off = 0;
		return by_size(&f->ri, i->opsize);
	}
	if (i->flags & ISA_MEM) {
		if (i->opcode & 2)
			return by_size(&f->rm, i->opsize);
		return by_size((i->flags & ISA_LOCK) ? &f->lock_mr : &f->mr, i->opsize);
	}
	if (i->opcode & 2) {
		t = i->rm_off;
		i->rm_off = i->reg_off;
		i->reg_off = t;
	}
	return by_size(&f->rr, i->opsize);
}

/* 80..83 */
isa_fn *isa_pick_alu_imm(const struct isa_decoded *d, struct isa_insn *i)
{
	return pick_imm(&alu[(i->modrm >> 3) & 7], i);
}

/* 84 85 a8 a9, and f6 f7 /0 /1 */
isa_fn *isa_pick_test(const struct isa_decoded *d, struct isa_insn *i)
{
	if (i->opcode == 0xa8 || i->opcode == 0xa9) {
		i->rm_off = 0;
		return by_size(&test_forms.ri, i->opsize);
	}
	if (i->opcode >= 0xf6)
		return pick_imm(&test_forms, i);
	return by_size((i->flags & ISA_MEM) ? &test_forms.mr : &test_forms.rr, i->opsize);
}
