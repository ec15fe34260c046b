/*
 * What the host's processor has: one table, filled once, that everything asks.
 *
 * The table is the host's CPUID and XCR0 less what USERKVM_HOST_CPUID takes
 * away, so that the library can be tried as it would run on a lesser machine.
 * A masked feature is gone everywhere: from the CPUID offered to guests, from
 * the instructions that decode, and from the state that is loaded and saved.
 *
 * Invariants
 * 1. A feature is present only if everything it needs is (ISA_HOST_NEEDS), and
 *    if the host's operating system enabled its state in XCR0.
 * 2. The table never changes once `filled` is set.
 *
 * USERKVM_HOST_CPUID is a comma list, read from left to right: -NAME takes a
 * feature away; the name of a processor (isa_host_processors) takes away what
 * that processor lacks. Names are compared without case, '.', '-' and '_'.
 *
 * Locks: none; any thread. The first call executes CPUID (slow in a virtual
 * machine) and calls libc: not while a guest's FPU state is loaded.
 */
#ifndef USERKVM_ISA_HOST_H
#define USERKVM_ISA_HOST_H

#include "lib/types.h"
#include "sdm/regs.h"

enum isa_cpuid_reg { ISA_EAX, ISA_EBX, ISA_ECX, ISA_EDX };

/* X(NAME, "name", leaf, subleaf, register, bit). SDM Vol. 2, "CPUID"; AMD64 Vol. 3, appendix E. */
#define ISA_HOST_FEATURES(X)                                   \
	X(SSE3, "sse3", 1, 0, ECX, 0)                          \
	X(PCLMULQDQ, "pclmulqdq", 1, 0, ECX, 1)                \
	X(SSSE3, "ssse3", 1, 0, ECX, 9)                        \
	X(FMA, "fma", 1, 0, ECX, 12)                           \
	X(CX16, "cx16", 1, 0, ECX, 13)                         \
	X(SSE41, "sse4.1", 1, 0, ECX, 19)                      \
	X(SSE42, "sse4.2", 1, 0, ECX, 20)                      \
	X(MOVBE, "movbe", 1, 0, ECX, 22)                       \
	X(POPCNT, "popcnt", 1, 0, ECX, 23)                     \
	X(AES, "aes", 1, 0, ECX, 25)                           \
	X(XSAVE, "xsave", 1, 0, ECX, 26)                       \
	X(AVX, "avx", 1, 0, ECX, 28)                           \
	X(F16C, "f16c", 1, 0, ECX, 29)                         \
	X(RDRAND, "rdrand", 1, 0, ECX, 30)                     \
	X(FSGSBASE, "fsgsbase", 7, 0, EBX, 0)                  \
	X(BMI1, "bmi1", 7, 0, EBX, 3)                          \
	X(AVX2, "avx2", 7, 0, EBX, 5)                          \
	X(BMI2, "bmi2", 7, 0, EBX, 8)                          \
	X(ERMS, "erms", 7, 0, EBX, 9)                          \
	X(RTM, "rtm", 7, 0, EBX, 11)                           \
	X(AVX512F, "avx512f", 7, 0, EBX, 16)                   \
	X(AVX512DQ, "avx512dq", 7, 0, EBX, 17)                 \
	X(RDSEED, "rdseed", 7, 0, EBX, 18)                     \
	X(ADX, "adx", 7, 0, EBX, 19)                           \
	X(AVX512IFMA, "avx512ifma", 7, 0, EBX, 21)             \
	X(CLFLUSHOPT, "clflushopt", 7, 0, EBX, 23)             \
	X(CLWB, "clwb", 7, 0, EBX, 24)                         \
	X(AVX512CD, "avx512cd", 7, 0, EBX, 28)                 \
	X(SHA, "sha", 7, 0, EBX, 29)                           \
	X(AVX512BW, "avx512bw", 7, 0, EBX, 30)                 \
	X(AVX512VL, "avx512vl", 7, 0, EBX, 31)                 \
	X(AVX512VBMI, "avx512vbmi", 7, 0, ECX, 1)              \
	X(UMIP, "umip", 7, 0, ECX, 2)                          \
	X(PKU, "pku", 7, 0, ECX, 3)                            \
	X(AVX512VBMI2, "avx512vbmi2", 7, 0, ECX, 6)            \
	X(GFNI, "gfni", 7, 0, ECX, 8)                          \
	X(VAES, "vaes", 7, 0, ECX, 9)                          \
	X(VPCLMULQDQ, "vpclmulqdq", 7, 0, ECX, 10)             \
	X(AVX512VNNI, "avx512vnni", 7, 0, ECX, 11)             \
	X(AVX512BITALG, "avx512bitalg", 7, 0, ECX, 12)         \
	X(AVX512VPOPCNTDQ, "avx512vpopcntdq", 7, 0, ECX, 14)   \
	X(LA57, "la57", 7, 0, ECX, 16)                         \
	X(RDPID, "rdpid", 7, 0, ECX, 22)                       \
	X(CLDEMOTE, "cldemote", 7, 0, ECX, 25)                 \
	X(MOVDIRI, "movdiri", 7, 0, ECX, 27)                   \
	X(MOVDIR64B, "movdir64b", 7, 0, ECX, 28)               \
	X(FSRM, "fsrm", 7, 0, EDX, 4)                          \
	X(AVX512VP2INTERSECT, "avx512vp2intersect", 7, 0, EDX, 8) \
	X(SERIALIZE, "serialize", 7, 0, EDX, 14)               \
	X(AMX_TILE, "amx-tile", 7, 0, EDX, 24)                 \
	X(AVX512FP16, "avx512fp16", 7, 0, EDX, 23)             \
	X(AVX_VNNI, "avx-vnni", 7, 1, EAX, 4)                  \
	X(AVX512BF16, "avx512bf16", 7, 1, EAX, 5)              \
	X(LAHF, "lahf-lm", 0x80000001, 0, ECX, 0)              \
	X(LZCNT, "lzcnt", 0x80000001, 0, ECX, 5)               \
	X(SSE4A, "sse4a", 0x80000001, 0, ECX, 6)               \
	X(PREFETCHW, "3dnowprefetch", 0x80000001, 0, ECX, 8)   \
	X(INVTSC, "invtsc", 0x80000007, 0, EDX, 8)

enum isa_host_feature {
#define X(name, text, leaf, subleaf, reg, bit) HOST_##name,
	ISA_HOST_FEATURES(X)
#undef X
	NR_HOST_FEATURES
};

/* X(feature, what it needs). Source: what each feature's instructions are defined on. */
#define ISA_HOST_NEEDS(X)                                                  \
	X(SSSE3, SSE3) X(SSE41, SSSE3) X(SSE42, SSE41)                     \
	X(AVX, XSAVE) X(FMA, AVX) X(F16C, AVX) X(AVX2, AVX)                \
	X(VAES, AVX) X(VAES, AES) X(VPCLMULQDQ, AVX) X(VPCLMULQDQ, PCLMULQDQ) \
	X(BMI2, BMI1) /* no processor has one alone, and glibc asks for BMI2 only */ \
	X(AVX_VNNI, AVX2) X(PKU, XSAVE) X(AMX_TILE, XSAVE)                 \
	X(AVX512F, AVX2) X(AVX512F, FMA) X(AVX512F, F16C)                  \
	X(AVX512DQ, AVX512F) X(AVX512IFMA, AVX512F) X(AVX512CD, AVX512F)   \
	X(AVX512BW, AVX512F) X(AVX512VL, AVX512F)                          \
	X(AVX512VBMI, AVX512BW) X(AVX512VBMI2, AVX512BW) X(AVX512VNNI, AVX512F) \
	X(AVX512BITALG, AVX512BW) X(AVX512VPOPCNTDQ, AVX512F)              \
	X(AVX512VP2INTERSECT, AVX512F) X(AVX512BF16, AVX512BW)             \
	X(AVX512FP16, AVX512BW)

enum isa_host_vendor { HOST_OTHER, HOST_INTEL, HOST_AMD /* and Hygon */ };

#define ISA_HOST_COMPONENTS 10 /* state components 0..9: SDM Vol. 1, "XSAVE-Supported Features" */

struct isa_host {
	enum isa_host_vendor vendor;
	bool has[NR_HOST_FEATURES];
	/*
	 * State components guests can use, as XCR0 has them: x87 and SSE, with
	 * AVX or AVX-512 where host and mask allow. Valid without XSAVE too.
	 */
	uint64_t xfeatures;
	/*
	 * Components that guests can use beside those, kept in C: PKRU, which the host's XSAVE and
	 * XRSTOR must never touch, for the host's own is in it.
	 */
	uint64_t own_xfeatures;
	uint32_t xsave_bytes; /* standard-format area of all of them */
	/*
	 * Places in the standard format are the host's: CPUID.0Dh, sub-leaf n. Where the host has no
	 * PKRU its place is the one that Intel's processors give it.
	 */
	struct {
		uint32_t offset, size;
		bool aligned; /* to 64 bytes in the compacted format */
	} component[ISA_HOST_COMPONENTS];
	uint32_t lar_mask; /* what LAR shows: bits 19:16 are undefined, hence the silicon's */
	/*
	 * What manuals leave to the processor (host_probe.c): asked of the silicon, or the vendor's way.
	 * A PUSH of a segment register with a 32-bit operand writes 16 bits; VEX.W = 1 is ignored by
	 * VPINSRD and VPEXTRD outside 64-bit code (else #UD); PREFETCHW with a register is a NOP (else
	 * #UD); SHA's operands in memory have to be aligned.
	 */
	bool asked;
	bool push_sreg_writes_16, vpinsrd_ignores_w, prefetchw_takes_registers, sha_wants_alignment;
	bool filled; /* set last */
};

extern struct isa_host isa_host_table;
const struct isa_host *isa_host_fill(void);

/* After the first call no function is called: it may be asked with the guest's FPU state loaded. */
static inline const struct isa_host *isa_host(void)
{
	return likely(__atomic_load_n(&isa_host_table.filled, __ATOMIC_ACQUIRE)) ? &isa_host_table :
										  isa_host_fill();
}

/* Does the host have this feature, less the mask? */
static inline bool isa_host_has(enum isa_host_feature f)
{
	return isa_host()->has[f];
}

/* --- host_probe.c --- vendor and has[] are filled. */
void isa_host_probe(struct isa_host *h);

/* The host's CPUID, less the features that the table lacks. */
void isa_host_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4]);

/*
 * --- the mask (host_mask.c) ---
 * Clears what USERKVM_HOST_CPUID takes away in has[NR_HOST_FEATURES]. Returns
 * the first word that means nothing, with its length in *len; NULL: none.
 */
const char *isa_host_mask(bool *has, size_t *len);
/*
 * One line on standard error and false where USERKVM_HOST_CPUID has a word that
 * means nothing: no VM may be made then.
 */
bool isa_host_mask_valid(void);
/* The name of a feature; of the nr-th processor that a mask may name (NULL: no more). */
const char *isa_host_feature_name(enum isa_host_feature f);
const char *isa_host_processor_name(unsigned nr);

#endif
