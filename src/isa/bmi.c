/*
 * BMI1 and BMI2: the VEX-encoded instructions on general registers.
 *
 * dst is ModRM.reg or, for BLSR BLSMSK BLSI, VEX.vvvv; src is the other
 * register operand that is not ModRM.rm.
 *
 * Locks: none.
 */
#include "isa/decoder.h"
#include "isa/internal.h"

#define READ_RM(T) ((T)read_rm(cs, i, sizeof(T)))
#define SRC(T) ((T)cs->gpr[i->src])

/* d = op(rm, src), operands in AT&T order `text`; flags taken. */
#define BMI_FLAGS(op, text, bits, T)                                                   \
	HANDLER(op##bits)                                                              \
	{                                                                              \
		T m = READ_RM(T), s = SRC(T), r;                                       \
		uint16_t cc = (uint16_t)cs->cc;                                        \
		__asm__(SET_FLAGS #op " " text GET_FLAGS                               \
			: [r] "=&r"(r), "+&a"(cc) : [m] "r"(m), [s] "r"(s) : "cc");     \
		cs->cc = cc;                                                           \
		SET_REG(cs, 8 * i->dst, T, r);                                         \
	}

/* The same without flags. */
#define BMI_PLAIN(op, text, bits, T)                                                   \
	HANDLER(op##bits)                                                              \
	{                                                                              \
		T m = READ_RM(T), s = SRC(T), r;                                       \
		__asm__(#op " " text : [r] "=r"(r) : [m] "r"(m), [s] "r"(s));          \
		SET_REG(cs, 8 * i->dst, T, r);                                         \
	}

/* One source: ModRM.rm. */
#define BMI_ONE(op, bits, T)                                                           \
	HANDLER(op##bits)                                                              \
	{                                                                              \
		T m = READ_RM(T), r;                                                   \
		uint16_t cc = (uint16_t)cs->cc;                                        \
		__asm__(SET_FLAGS #op " %[m], %[r]" GET_FLAGS                          \
			: [r] "=&r"(r), "+&a"(cc) : [m] "r"(m) : "cc");                 \
		cs->cc = cc;                                                           \
		SET_REG(cs, 8 * i->dst, T, r);                                         \
	}

/* dst (ModRM.reg) takes the high half, src (vvvv) the low; the high one wins. */
#define BMI_SIZE(bits, T)                                                              \
	BMI_FLAGS(andn, "%[m], %[s], %[r]", bits, T)                                   \
	BMI_FLAGS(bextr, "%[s], %[m], %[r]", bits, T)                                  \
	BMI_FLAGS(bzhi, "%[s], %[m], %[r]", bits, T)                                   \
	BMI_PLAIN(pdep, "%[m], %[s], %[r]", bits, T)                                   \
	BMI_PLAIN(pext, "%[m], %[s], %[r]", bits, T)                                   \
	BMI_PLAIN(shlx, "%[s], %[m], %[r]", bits, T)                                   \
	BMI_PLAIN(shrx, "%[s], %[m], %[r]", bits, T)                                   \
	BMI_PLAIN(sarx, "%[s], %[m], %[r]", bits, T)                                   \
	BMI_ONE(blsr, bits, T) BMI_ONE(blsmsk, bits, T) BMI_ONE(blsi, bits, T)         \
	HANDLER(rorx##bits)                                                            \
	{                                                                              \
		T m = READ_RM(T);                                                      \
		unsigned n = i->imm & (bits - 1);                                      \
		T r = (T)((m >> n) | (m << (-n & (bits - 1))));                        \
		SET_REG(cs, 8 * i->dst, T, r);                                         \
	}                                                                              \
	HANDLER(mulx##bits)                                                            \
	{                                                                              \
		unsigned __int128 p = (unsigned __int128)READ_RM(T) * (T)cs->gpr[RDX]; \
		SET_REG(cs, 8 * i->src, T, (T)p);                                      \
		SET_REG(cs, 8 * i->dst, T, (T)(p >> bits));                            \
	}
BMI_SIZE(32, uint32_t)
BMI_SIZE(64, uint64_t)

/* VEX instructions of this room; NULL: not one of them */
isa_fn *isa_pick_bmi(const struct isa_decoded *d, struct isa_insn *i)
{
#define CASE(M, m, feature) \
	case ZYDIS_MNEMONIC_##M: f = feature; fn = i->opsize == 8 ? m##64 : m##32; break;
	enum isa_host_feature f;
	isa_fn *fn;

	switch (d->insn.mnemonic) {
	CASE(ANDN, andn, HOST_BMI1)
	CASE(BEXTR, bextr, HOST_BMI1)
	CASE(BLSR, blsr, HOST_BMI1)
	CASE(BLSMSK, blsmsk, HOST_BMI1)
	CASE(BLSI, blsi, HOST_BMI1)
	CASE(BZHI, bzhi, HOST_BMI2)
	CASE(PDEP, pdep, HOST_BMI2)
	CASE(PEXT, pext, HOST_BMI2)
	CASE(SHLX, shlx, HOST_BMI2)
	CASE(SHRX, shrx, HOST_BMI2)
	CASE(SARX, sarx, HOST_BMI2)
	CASE(RORX, rorx, HOST_BMI2)
	CASE(MULX, mulx, HOST_BMI2)
	default: return NULL;
	}
#undef CASE
	/* dst is the first operand; src the register that is neither it nor ModRM.rm. */
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_BEXTR:
	case ZYDIS_MNEMONIC_BZHI:
	case ZYDIS_MNEMONIC_SHLX:
	case ZYDIS_MNEMONIC_SHRX:
	case ZYDIS_MNEMONIC_SARX:
		i->src = (uint8_t)ZydisRegisterGetId(d->operands[2].reg.value);
		break;
	default:
		break;
	}
	return isa_host_has(f) ? fn : NULL;
}
