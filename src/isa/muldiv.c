/*
 * MUL IMUL DIV IDIV.
 *
 * Division errors are found here, before the host divides: #DE is the guest's,
 * never a SIGFPE.
 *
 * Locks: none.
 */
#include "isa/decoder.h"
#include "isa/internal.h"

#define SRC(T) ((T)read_rm(cs, i, sizeof(T)))

/*
 * One-operand multiply. Of the flags only CF and OF are defined; some silicon
 * leaves the others alone, some computes them: the guest's are loaded first.
 */
#define MUL8(op)                                                                       \
	HANDLER(op##8)                                                                 \
	{                                                                              \
		uint8_t v = SRC(uint8_t);                                              \
		uint16_t ax = (uint16_t)cs->gpr[RAX], cc = (uint16_t)cs->cc, r;        \
		__asm__(SET_FLAGS "movw %[ax], %%ax\n\t" #op "b %[v]"                  \
			"\n\tmovw %%ax, %[r]" GET_FLAGS                                \
			: [r] "=&r"(r), "+&a"(cc) : [v] "r"(v), [ax] "r"(ax) : "cc");   \
		ISA_REG(cs, 0, uint16_t) = r;                                          \
		cs->cc = cc;                                                           \
	}
MUL8(mul)
MUL8(imul)

/* xDX:xAX = xAX * src. */
#define MUL_WIDE(op, bits, T, sfx)                                                     \
	HANDLER(op##bits)                                                              \
	{                                                                              \
		T v = SRC(T), acc = (T)cs->gpr[RAX], lo, hi;                           \
		uint16_t cc = (uint16_t)cs->cc;                                        \
		__asm__(SET_FLAGS "mov %[acc], %%" AX_NAME##bits "\n\t" #op sfx " %[v]" \
			"\n\tmov %%" AX_NAME##bits ", %[lo]" GET_FLAGS                 \
			: [lo] "=&r"(lo), "=&d"(hi), "+&a"(cc)                          \
			: [v] "r"(v), [acc] "r"(acc) : "cc");                          \
		SET_REG(cs, 8 * RAX, T, lo);                                           \
		SET_REG(cs, 8 * RDX, T, hi);                                           \
		cs->cc = cc;                                                           \
	}
#define AX_NAME16 "ax"
#define AX_NAME32 "eax"
#define AX_NAME64 "rax"

/* Two- and three-operand IMUL. */
#define IMUL_REG(bits, T, sfx)                                                         \
	ISA_INLINE T imul_val##bits(struct cpu_state *cs, T d, T v)                    \
	{                                                                              \
		uint16_t cc = (uint16_t)cs->cc;                                        \
		__asm__(SET_FLAGS "imul" sfx " %[v], %[d]" GET_FLAGS                   \
			: [d] "+r"(d), "+&a"(cc) : [v] "r"(v) : "cc");                  \
		cs->cc = cc;                                                           \
		return d;                                                              \
	}                                                                              \
	HANDLER(imul_reg##bits)                                                        \
	{                                                                              \
		T v = imul_val##bits(cs, ISA_REG(cs, i->reg_off, T), SRC(T));          \
		SET_REG(cs, i->reg_off, T, v);                                         \
	}                                                                              \
	HANDLER(imul_imm##bits)                                                        \
	{                                                                              \
		T v = imul_val##bits(cs, SRC(T), (T)i->imm);                           \
		SET_REG(cs, i->reg_off, T, v);                                         \
	}

#define MUL_SIZE(bits, T, S, sfx) \
	MUL_WIDE(mul, bits, T, sfx) MUL_WIDE(imul, bits, T, sfx) IMUL_REG(bits, T, sfx)
ISA_SIZES_WLQ(MUL_SIZE)

/* The host's division, once it is known not to fault. */
#define DIV_HOST(op, bits, T, sfx)                                                     \
	do {                                                                           \
		T lo = (T)cs->gpr[RAX], hi = (T)cs->gpr[RDX];                          \
		uint16_t cc = (uint16_t)cs->cc;                                        \
		T q;                                                                   \
		__asm__(SET_FLAGS "mov %[lo], %%" AX_NAME##bits "\n\t" #op sfx " %[v]" \
			"\n\tmov %%" AX_NAME##bits ", %[q]" GET_FLAGS                  \
			: "+&a"(cc), "+d"(hi), [q] "=&r"(q)                             \
			: [lo] "r"(lo), [v] "r"(v) : "cc");                            \
		SET_REG(cs, 8 * RAX, T, q);                                            \
		SET_REG(cs, 8 * RDX, T, hi);                                           \
		cs->cc = cc;                                                           \
	} while (0)

#define DIV_HOST8(op)                                                                  \
	do {                                                                           \
		uint16_t ax = (uint16_t)cs->gpr[RAX], cc = (uint16_t)cs->cc, q;        \
		__asm__(SET_FLAGS "movw %[ax], %%ax\n\t" #op "b %[v]"                  \
			"\n\tmovw %%ax, %[q]" GET_FLAGS                                \
			: "+&a"(cc), [q] "=&r"(q) : [ax] "r"(ax), [v] "r"(v) : "cc");   \
		ISA_REG(cs, 0, uint16_t) = q;                                          \
		cs->cc = cc;                                                           \
	} while (0)

#define DIVIDE_ERROR_IF(cond)                                                          \
	do {                                                                           \
		if (unlikely(cond))                                                    \
			isa_raise(cs, X86_TRAP_DE);                                    \
	} while (0)

HANDLER(div8)
{
	uint8_t v = SRC(uint8_t);

	DIVIDE_ERROR_IF((uint8_t)(cs->gpr[RAX] >> 8) >= v);
	DIV_HOST8(div);
}

HANDLER(idiv8)
{
	int8_t v = SRC(int8_t);
	int n = (int16_t)cs->gpr[RAX];

	DIVIDE_ERROR_IF(v == 0 || n / v != (int8_t)(n / v));
	DIV_HOST8(idiv);
}

/* Unsigned: the quotient fits iff the high half is below the divisor. */
#define DIV_SIZE(bits, T, S, sfx)                                                      \
	HANDLER(div##bits)                                                             \
	{                                                                              \
		T v = SRC(T);                                                          \
		DIVIDE_ERROR_IF((T)cs->gpr[RDX] >= v);                                 \
		DIV_HOST(div, bits, T, sfx);                                           \
	}
ISA_SIZES_WLQ(DIV_SIZE)

HANDLER(idiv16)
{
	int16_t v = SRC(int16_t);
	int64_t n = (int32_t)((uint32_t)(cs->gpr[RDX] << 16) | (uint16_t)cs->gpr[RAX]);

	DIVIDE_ERROR_IF(v == 0 || n / v != (int16_t)(n / v));
	DIV_HOST(idiv, 16, uint16_t, "w");
}

HANDLER(idiv32)
{
	int32_t v = SRC(int32_t);
	int64_t n = (int64_t)((cs->gpr[RDX] << 32) | (uint32_t)cs->gpr[RAX]);

	DIVIDE_ERROR_IF(v == 0 || (n == INT64_MIN && v == -1) || n / v != (int32_t)(n / v));
	DIV_HOST(idiv, 32, uint32_t, "l");
}

/* Signed 128 by 64: by magnitudes, |n| / |v| against 2^63 or 2^63 - 1. */
HANDLER(idiv64)
{
	int64_t v = SRC(int64_t);
	uint64_t nlo = cs->gpr[RAX], nhi = cs->gpr[RDX];
	bool neg = (int64_t)nhi < 0;
	uint64_t mag = v < 0 ? 0 - (uint64_t)v : (uint64_t)v, quot, rem;

	if (neg) {
		nlo = 0 - nlo;
		nhi = ~nhi + (nlo == 0);
	}
	DIVIDE_ERROR_IF(nhi >= mag);
	__asm__("divq %[m]" : "=a"(quot), "=d"(rem) : [m] "r"(mag), "a"(nlo), "d"(nhi) : "cc");
	DIVIDE_ERROR_IF(quot > (uint64_t)INT64_MAX + (neg != (v < 0)));
	DIV_HOST(idiv, 64, uint64_t, "q");
}

static const struct by_size muldiv[4] = {
	BY_SIZE(mul), BY_SIZE(imul), BY_SIZE(div), BY_SIZE(idiv),
};

isa_fn *isa_pick_muldiv(const struct isa_decoded *d, struct isa_insn *i)
{
	return by_size(&muldiv[(i->modrm >> 3) & 3], i->opsize);
}

/* 0f af, and 69 6b with an immediate */
isa_fn *isa_pick_imul(const struct isa_decoded *d, struct isa_insn *i)
{
	static const struct by_size reg = BY_SIZE_WLQ(imul_reg), imm = BY_SIZE_WLQ(imul_imm);

	return by_size(i->map == 1 ? &reg : &imm, i->opsize);
}
