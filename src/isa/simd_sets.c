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

static const struct set sets[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
	SET(PENTIUMMMX, SIMD_MMX, 0),
	LEGACY0(SSE), LEGACY0(SSE2), LEGACY0(SSE2MMX), LEGACY0(SSEMXCSR),
	LEGACY(SSE3, SSE3), LEGACY(SSSE3, SSSE3), LEGACY(SSSE3MMX, SSSE3), LEGACY(SSE4, SSE41),
	LEGACY(SSE42, SSE42), LEGACY(SSE4A, SSE4A), LEGACY(AES, AES), LEGACY(PCLMULQDQ, PCLMULQDQ),
	LEGACY(SHA, SHA), LEGACY(GFNI, GFNI),
	VEX1(AVX, AVX), VEX1(AVX2, AVX2), VEX1(AVX2GATHER, AVX2), VEX2(AVXAES, AVX, AES),
	VEX1(FMA, FMA), VEX1(F16C, F16C), VEX1(VAES, VAES), VEX1(VPCLMULQDQ, VPCLMULQDQ),
	VEX2(AVX_GFNI, AVX, GFNI), VEX1(AVX_VNNI, AVX_VNNI),
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
