/*
 * CPUID as the engines implement it: the host's leaves, masked to what runs
 * here. The masks are lists of what is offered, so a feature nobody has
 * implemented cannot slip through on a newer host.
 *
 * What depends on the machine or on guest state is the hypervisor's to fill:
 * APIC ids and counts, OSXSAVE, the current XSAVE size (0Dh:0 EBX), topology
 * (0Bh, 1Fh: absent here), hypervisor leaves (absent).
 *
 * Sources: SDM Vol. 2, "CPUID"; AMD64 Manual Vol. 3, "Obtaining Processor
 * Information Via the CPUID Instruction".
 *
 * Locks: none.
 */
#include "isa/fpu.h"
#include "isa/isa.h"

enum { EAX, EBX, ECX, EDX };

#define B(n) (1u << (n))

/* Leaf 1 ECX: SSE3 PCLMULQDQ SSSE3 FMA CX16 PCID SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX F16C RDRAND */
#define L1_ECX (B(0) | B(1) | B(9) | B(12) | B(13) | B(17) | B(19) | B(20) | B(22) | B(23) | \
		B(25) | B(26) | B(28) | B(29) | B(30))
/*
 * Leaf 1 EDX: FPU DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH
 * MMX FXSR SSE SSE2 (HTT: the hypervisor; VME, SS, ACPI, … no).
 */
#define L1_EDX (B(0) | B(2) | B(3) | B(4) | B(5) | B(6) | B(7) | B(8) | B(9) | B(11) | \
		B(12) | B(13) | B(14) | B(15) | B(16) | B(17) | B(19) | B(23) | B(24) | B(25) | B(26))
/*
 * Leaf 7 EBX: FSGSBASE BMI1 AVX2 SMEP BMI2 ERMS INVPCID FCS/FDS-deprecated RDSEED ADX SMAP
 * CLFLUSHOPT CLWB SHA
 */
#define L7_EBX (B(0) | B(3) | B(5) | B(7) | B(8) | B(9) | B(10) | B(13) | B(18) | B(19) | B(20) | \
		B(23) | B(24) | B(29))
/* Leaf 7 ECX: UMIP GFNI VAES VPCLMULQDQ RDPID */
#define L7_ECX (B(2) | B(8) | B(9) | B(10) | B(22))
/* Leaf 7 EDX: FSRM */
#define L7_EDX B(4)
/* System features of these words that the software processor has whatever the host. */
#define L1_ECX_ALWAYS B(17)		      /* PCID */
#define L7_EBX_ALWAYS (B(0) | B(7) | B(10) | B(13) | B(20)) /* FSGSBASE SMEP INVPCID FCS SMAP */
#define L7_ECX_ALWAYS (B(2) | B(22))	      /* UMIP RDPID */
/* Leaf 80000001h ECX: LAHF-in-64-bit ABM SSE4A 3DNOWPREFETCH */
#define X1_ECX (B(0) | B(5) | B(6) | B(8))
/* Leaf 80000001h EDX: SYSCALL NX PDPE1GB RDTSCP LM, and on AMD the copies of leaf 1. */
#define X1_EDX (B(11) | B(20) | B(26) | B(27) | B(29))
#define X1_EDX_COPIES (B(0) | B(2) | B(3) | B(4) | B(5) | B(6) | B(7) | B(8) | B(9) | \
		       B(12) | B(13) | B(14) | B(15) | B(16) | B(17) | B(23) | B(24))
#define X1_EDX_AMD B(22) /* MMXEXT */

#define X1_EDX_ALWAYS (B(11) | B(20) | B(26) | B(27) | B(29))

#define MAX_BASIC 0xdu
#define MAX_EXTENDED 0x8000001du
#define MAX_EXTENDED_INTEL 0x80000008u

static void host_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	__asm__ volatile("cpuid"
			 : "=a"(r[EAX]), "=b"(r[EBX]), "=c"(r[ECX]), "=d"(r[EDX])
			 : "a"(leaf), "c"(subleaf));
}

static void zero(uint32_t r[4])
{
	for (unsigned n = 0; n < 4; n++)
		r[n] = 0;
}

static bool host_is_amd(void)
{
	uint32_t r[4];

	host_cpuid(0, 0, r);
	return r[ECX] == 0x444d4163 /* cAMD */ || r[ECX] == 0x656e6975 /* uine: Hygon */;
}

/* Does the host's operating system let programs use AVX? Without, nothing VEX is offered. */
static bool host_has_ymm(void)
{
	uint32_t r[4], lo, hi;

	host_cpuid(1, 0, r);
	if (!(r[ECX] & B(27)))
		return false;
	__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (r[ECX] & B(28)) &&
	       (lo & (XFEATURE_MASK_SSE | XFEATURE_MASK_YMM)) ==
		       (XFEATURE_MASK_SSE | XFEATURE_MASK_YMM);
}

static void leaf_1(uint32_t r[4])
{
	r[EBX] &= 0x0000ff00; /* CLFLUSH line; APIC id and count: hypervisor */
	r[ECX] = (r[ECX] & L1_ECX) | L1_ECX_ALWAYS;
	r[EDX] &= L1_EDX;
	if (!host_has_ymm())
		r[ECX] &= ~(B(12) | B(28) | B(29)); /* FMA AVX F16C */
}

static void leaf_7(uint32_t subleaf, uint32_t r[4])
{
	if (subleaf) {
		zero(r);
		return;
	}
	r[EAX] = 0;
	r[EBX] = (r[EBX] & L7_EBX) | L7_EBX_ALWAYS;
	r[ECX] = (r[ECX] & L7_ECX) | L7_ECX_ALWAYS;
	r[EDX] &= L7_EDX;
	if (!host_has_ymm()) {
		r[EBX] &= ~B(5);	    /* AVX2 */
		r[ECX] &= ~(B(9) | B(10)); /* VAES VPCLMULQDQ */
	}
}

/* Processor Extended State Enumeration. */
static void leaf_d(uint32_t subleaf, uint32_t r[4])
{
	bool ymm = host_has_ymm();

	zero(r);
	switch (subleaf) {
	case 0:
		r[EAX] = XFEATURE_MASK_FP | XFEATURE_MASK_SSE | (ymm ? XFEATURE_MASK_YMM : 0);
		r[EBX] = ymm ? ISA_XSAVE_SIZE : 576; /* all enabled; XCR0's: hypervisor */
		r[ECX] = ymm ? ISA_XSAVE_SIZE : 576;
		break;
	case 1: /* XSAVEOPT XSAVEC XGETBV(1) XSAVES: done in C, whatever the host has */
		r[EAX] = B(0) | B(1) | B(2) | B(3);
		r[EBX] = ymm ? ISA_XSAVE_SIZE : 576;
		break;
	case 2:
		if (ymm) {
			r[EAX] = sizeof(((struct isa_xsave_image *)0)->ymm_high);
			r[EBX] = offsetof(struct isa_xsave_image, ymm_high);
		}
		break;
	default:
		break;
	}
}

static void leaf_80000001(uint32_t r[4])
{
	bool amd = host_is_amd();

	r[EBX] &= amd ? 0xf0000000 : 0; /* package type */
	r[ECX] &= X1_ECX;
	r[EDX] = (r[EDX] & (X1_EDX | (amd ? X1_EDX_COPIES | X1_EDX_AMD : 0))) | X1_EDX_ALWAYS;

}

static void extended(uint32_t leaf, uint32_t r[4])
{
	switch (leaf) {
	case 0x80000000:
		r[EAX] = (uint32_t)min_u64(r[EAX], host_is_amd() ? MAX_EXTENDED
								  : MAX_EXTENDED_INTEL);
		break;
	case 0x80000001:
		leaf_80000001(r);
		break;
	case 0x80000002: /* brand string */
	case 0x80000003:
	case 0x80000004:
	case 0x80000005: /* L1 caches and TLBs (AMD) */
	case 0x80000006: /* L2 */
		break;
	case 0x80000007: /* invariant TSC */
		r[EAX] = r[EBX] = r[ECX] = 0;
		r[EDX] &= B(8);
		break;
	case 0x80000008: {
		uint32_t phys = r[EAX] & 0xff;

		r[EAX] = (phys < 36 ? 36 : phys > 52 ? 52 : phys) | 48 << 8;
		r[EBX] = r[ECX] = r[EDX] = 0;
		break;
	}
	case 0x8000001d: /* cache topology (AMD), needs TOPOEXT to be looked at */
		break;
	default:
		zero(r);
		break;
	}
}

void isa_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	uint32_t highest[4];

	/* A host without the leaf would answer with another leaf's data. */
	host_cpuid(leaf & 0x80000000, 0, highest);
	if (leaf > highest[EAX] && leaf != 0xd && leaf != 7) {
		zero(regs);
		return;
	}
	if (leaf > highest[EAX])
		zero(regs);
	else
		host_cpuid(leaf, subleaf, regs);
	if (leaf & 0x80000000) {
		extended(leaf, regs);
		return;
	}
	switch (leaf) {
	case 0:
		regs[EAX] = MAX_BASIC;
		break;
	case 1:
		leaf_1(regs);
		break;
	case 2: /* cache descriptors */
		break;
	case 4: /* deterministic caches; cores and threads: hypervisor */
		break;
	case 7:
		leaf_7(subleaf, regs);
		break;
	case 0xd:
		leaf_d(subleaf, regs);
		break;
	default: /* 3, 5 (MONITOR), 6, 9, 0Ah (no PMU), 0Bh: nothing */
		zero(regs);
		break;
	}
}
