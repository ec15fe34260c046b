/*
 * Which instruction sets the silicon runs, what each needs of the host, and
 * what makes its instructions available to a guest (isa/simd.h).
 *
 * An instruction whose set needs a feature that isa/host.h does not have is not
 * decoded: #UD, as on a processor without it. Source: SDM Vol. 2, the "CPUID
 * Feature Flag" column of each instruction.
 *
 * Locks: none; called while decoding.
 */
#include "isa/host.h"
#include "isa/simd.h"

struct set {
	uint8_t known, class, nr_needs, needs[3];
};

#define SET(name, class, nr, ...) [ZYDIS_ISA_SET_##name] = { 1, class, nr, { __VA_ARGS__ } }
#define LEGACY0(name) SET(name, SIMD_SSE, 0)
#define LEGACY(name, a) SET(name, SIMD_SSE, 1, HOST_##a)
#define VEX1(name, a) SET(name, SIMD_AVX, 1, HOST_##a)
#define VEX2(name, a, b) SET(name, SIMD_AVX, 2, HOST_##a, HOST_##b)

/* A set of EVEX instructions with its three vector lengths; shorter ones need VL as well. */
#define EVEX(name, a)                                                \
	SET(name##_512, SIMD_AVX512, 1, HOST_##a),                   \
	SET(name##_256, SIMD_AVX512, 2, HOST_##a, HOST_AVX512VL),    \
	SET(name##_128, SIMD_AVX512, 2, HOST_##a, HOST_AVX512VL)
#define EVEX_WITH(name, a)                                           \
	SET(name##_512, SIMD_AVX512, 2, HOST_##a, HOST_AVX512F),     \
	SET(name##_256, SIMD_AVX512, 3, HOST_##a, HOST_AVX512F, HOST_AVX512VL), \
	SET(name##_128, SIMD_AVX512, 3, HOST_##a, HOST_AVX512F, HOST_AVX512VL)
/* Scalars, moves of one element and opmasks: there is one length. */
#define EVEX_ONE(name, a) SET(name, SIMD_AVX512, 1, HOST_##a)

static const struct set sets[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
	SET(PENTIUMMMX, SIMD_MMX, 0),
	LEGACY0(SSE), LEGACY0(SSE2), LEGACY0(SSE2MMX), LEGACY0(SSEMXCSR),
	LEGACY(SSE3, SSE3), LEGACY(SSSE3, SSSE3), LEGACY(SSSE3MMX, SSSE3), LEGACY(SSE4, SSE41),
	LEGACY(SSE42, SSE42), LEGACY(SSE4A, SSE4A), LEGACY(AES, AES), LEGACY(PCLMULQDQ, PCLMULQDQ),
	LEGACY(SHA, SHA), LEGACY(GFNI, GFNI),
	VEX1(AVX, AVX), VEX1(AVX2, AVX2), VEX1(AVX2GATHER, AVX2), VEX2(AVXAES, AVX, AES),
	VEX1(FMA, FMA), VEX1(F16C, F16C), VEX1(VAES, VAES), VEX1(VPCLMULQDQ, VPCLMULQDQ),
	VEX2(AVX_GFNI, AVX, GFNI), VEX1(AVX_VNNI, AVX_VNNI),
	EVEX(AVX512F, AVX512F), EVEX_ONE(AVX512F_128N, AVX512F), EVEX_ONE(AVX512F_SCALAR, AVX512F),
	EVEX_ONE(AVX512F_KOP, AVX512F),
	EVEX(AVX512BW, AVX512BW), EVEX_ONE(AVX512BW_128N, AVX512BW), EVEX_ONE(AVX512BW_KOP, AVX512BW),
	EVEX(AVX512DQ, AVX512DQ), EVEX_ONE(AVX512DQ_128N, AVX512DQ),
	EVEX_ONE(AVX512DQ_SCALAR, AVX512DQ), EVEX_ONE(AVX512DQ_KOP, AVX512DQ),
	EVEX(AVX512CD, AVX512CD), EVEX(AVX512_IFMA, AVX512IFMA), EVEX(AVX512_VBMI, AVX512VBMI),
	EVEX(AVX512_VBMI2, AVX512VBMI2), EVEX(AVX512_VNNI, AVX512VNNI),
	EVEX(AVX512_BITALG, AVX512BITALG), EVEX(AVX512_VPOPCNTDQ, AVX512VPOPCNTDQ),
	EVEX(AVX512_BF16, AVX512BF16), EVEX(AVX512_FP16, AVX512FP16),
	EVEX_ONE(AVX512_FP16_128N, AVX512FP16), EVEX_ONE(AVX512_FP16_SCALAR, AVX512FP16),
	EVEX_WITH(AVX512_GFNI, GFNI), EVEX_WITH(AVX512_VAES, VAES),
	EVEX_WITH(AVX512_VPCLMULQDQ, VPCLMULQDQ),
};

bool simd_set_lacks(ZydisISASet set, enum isa_host_feature *missing)
{
	const struct set *s = &sets[set];

	for (unsigned n = 0; n < s->nr_needs; n++)
		if (!isa_host_has(s->needs[n])) {
			*missing = s->needs[n];
			return true;
		}
	return false;
}

bool simd_find_class(const struct isa_decoded *d, enum simd_class *class)
{
	const struct set *s = &sets[d->insn.meta.isa_set];
	enum isa_host_feature missing;

	if (!s->known || (s->class == SIMD_AVX && d->insn.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX) ||
	    simd_set_lacks(d->insn.meta.isa_set, &missing))
		return false;
	*class = s->class;
	return true;
}
