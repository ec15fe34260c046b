/*
 * Which feature an instruction needs that this host (under USERKVM_HOST_CPUID)
 * lacks: such a form is skipped by the differential tests and counted as such,
 * as "both sides raise #UD" is no agreement.
 */
#ifndef USERKVM_TESTS_HOST_SETS_H
#define USERKVM_TESTS_HOST_SETS_H

#include <Zydis/Zydis.h>

#include "isa/host.h"
#include "isa/simd.h"

/* NULL: the host has all that the set needs, or the set is unknown here. */
static inline const char *host_lacks_set(ZydisISASet set)
{
	enum isa_host_feature f;

	switch (set) {
	case ZYDIS_ISA_SET_BMI1: f = HOST_BMI1; break;
	case ZYDIS_ISA_SET_BMI2: f = HOST_BMI2; break;
	case ZYDIS_ISA_SET_LZCNT: f = HOST_LZCNT; break; /* undefined flags are not the silicon's */
	case ZYDIS_ISA_SET_POPCNT: f = HOST_POPCNT; break;
	case ZYDIS_ISA_SET_ADOX_ADCX: f = HOST_ADX; break;
	case ZYDIS_ISA_SET_CMPXCHG16B: f = HOST_CX16; break;
	case ZYDIS_ISA_SET_RDRAND: f = HOST_RDRAND; break;
	case ZYDIS_ISA_SET_RDSEED: f = HOST_RDSEED; break;
	case ZYDIS_ISA_SET_SSE3X87: f = HOST_SSE3; break;
	default: return simd_set_lacks(set, &f) ? isa_host_feature_name(f) : NULL;
	}
	return isa_host_has(f) ? NULL : isa_host_feature_name(f);
}

static inline const char *host_lacks_insn(const uint8_t *bytes, unsigned n)
{
	ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction z;
	ZydisDecoder d;

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, bytes, n, &z, o)) ? host_lacks_set(z.meta.isa_set) : NULL;
}

/* At the start of a case of cmocka's that needs the feature. */
#define NEED(feature)                                                                  \
	do {                                                                           \
		if (!isa_host_has(HOST_##feature)) {                                   \
			print_message("this host has no %s\n",                         \
				      isa_host_feature_name(HOST_##feature));          \
			skip();                                                        \
		}                                                                      \
	} while (0)

#endif
