/*
 * CPUID as the engines implement it: the host's leaves, masked to what runs
 * here. The masks are lists of what is offered, so a feature nobody has
 * implemented cannot slip through on a newer host. "The host's" is what
 * isa/host.h leaves of it.
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
#include "isa/host.h"
#include "isa/isa.h"

enum { EAX, EBX, ECX, EDX };

#define B(n) (1u << (n))

/*
 * Two lists a word: SILICON is run by the host's own instructions, and offered
 * where the host has it; OWN is done in C, and offered on every host. What is
 * in neither is never offered (docs/processor.md says why).
 */
/* Leaf 1 ECX: SSE3 PCLMULQDQ SSSE3 FMA CX16 SSE4.1 SSE4.2 POPCNT AES XSAVE AVX F16C RDRAND */
#define L1_ECX_SILICON (B(0) | B(1) | B(9) | B(12) | B(13) | B(19) | B(20) | B(23) | B(25) | \
			B(26) | B(28) | B(29) | B(30))
#define L1_ECX_OWN (B(17) | B(22)) /* PCID MOVBE */
/*
 * Leaf 1 EDX: FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH
 * MMX FXSR SSE SSE2 (HTT: the hypervisor; ACPI, … no): every x86-64 has them.
 * SS is a bit of self-snooping, and memory is coherent here.
 */
#define L1_EDX_OWN (B(0) | B(1) | B(2) | B(3) | B(4) | B(5) | B(6) | B(7) | B(8) | B(9) | B(11) | \
		    B(12) | B(13) | B(14) | B(15) | B(16) | B(17) | B(19) | B(23) | B(24) | \
		    B(25) | B(26) | B(27))
/* Leaf 7 EBX: BMI1 AVX2 BMI2 AVX512F AVX512DQ RDSEED ADX AVX512_IFMA AVX512CD SHA AVX512BW AVX512VL */
#define L7_EBX_SILICON (B(3) | B(5) | B(8) | B(16) | B(17) | B(18) | B(19) | B(21) | B(28) | B(29) | \
			B(30) | B(31))
/*
 * FSGSBASE SMEP ERMS INVPCID FCS/FDS-deprecated SMAP CLFLUSHOPT CLWB. ERMS comes with FSRM
 * (EDX) or not at all: Linux's memmove() takes FSRM for a promise of both.
 */
#define L7_EBX_OWN (B(0) | B(7) | B(9) | B(10) | B(13) | B(20) | B(23) | B(24))
/* Leaf 7 ECX: AVX512_VBMI AVX512_VBMI2 GFNI VAES VPCLMULQDQ AVX512_VNNI _BITALG _VPOPCNTDQ MOVDIR64B */
#define L7_ECX_SILICON (B(1) | B(6) | B(8) | B(9) | B(10) | B(11) | B(12) | B(14) | B(28))
#define L7_ECX_OWN (B(2) | B(22) | B(25) | B(27)) /* UMIP RDPID CLDEMOTE MOVDIRI */
#define L7_ECX_PKU B(3)				  /* own, but see isa/host.c */
#define L7_EDX_OWN (B(4) | B(14))		  /* FSRM SERIALIZE */
#define L7_EDX_SILICON B(23)			  /* AVX512_FP16 */
#define L7_1_EAX_SILICON (B(4) | B(5))		  /* AVX-VNNI AVX512_BF16 */
#define L7_1_EAX_OWN (B(10) | B(11) | B(12))	  /* FZRM FSRS FSRC, of the kind of FSRM */
#define X8_EBX_OWN B(9)				  /* WBNOINVD, which runs as WBINVD */
#define X8_EBX_AMD (B(0) | B(2)) /* CLZERO; XSAVEERPTR: FOP, FIP and FDP are always saved */
/* Leaf 80000001h ECX: SSE4A */
#define X1_ECX_SILICON B(6)
#define X1_ECX_OWN (B(0) | B(5) | B(8)) /* LAHF-in-64-bit ABM 3DNOWPREFETCH */
/* Leaf 80000001h EDX: SYSCALL NX PDPE1GB RDTSCP LM, and on AMD the copies of leaf 1. */
#define X1_EDX_OWN (B(11) | B(20) | B(26) | B(27) | B(29))
#define X1_EDX_COPIES (B(0) | B(1) | B(2) | B(3) | B(4) | B(5) | B(6) | B(7) | B(8) | B(9) | \
		       B(12) | B(13) | B(14) | B(15) | B(16) | B(17) | B(23) | B(24))
#define X1_EDX_AMD B(22) /* MMXEXT */

#define MAX_BASIC 0xdu
#define MAX_EXTENDED 0x8000001du
#define MAX_EXTENDED_INTEL 0x80000008u

static void zero(uint32_t r[4])
{
	for (unsigned n = 0; n < 4; n++)
		r[n] = 0;
}

static bool host_is_amd(void)
{
	return isa_host()->vendor == HOST_AMD;
}

static void leaf_1(uint32_t r[4])
{
	r[EBX] &= 0x0000ff00; /* CLFLUSH line; APIC id and count: hypervisor */
	r[ECX] = (r[ECX] & L1_ECX_SILICON) | L1_ECX_OWN;
	r[EDX] = L1_EDX_OWN;
}

static void leaf_7(uint32_t subleaf, uint32_t r[4])
{
	if (subleaf) {
		uint32_t eax = subleaf == 1 ? (r[EAX] & L7_1_EAX_SILICON) | L7_1_EAX_OWN : 0;

		zero(r);
		r[EAX] = eax;
		return;
	}
	r[EAX] = 1;
	r[EBX] = (r[EBX] & L7_EBX_SILICON) | L7_EBX_OWN;
	r[ECX] = (r[ECX] & L7_ECX_SILICON) | L7_ECX_OWN |
		 (isa_host()->own_xfeatures & XFEATURE_MASK_PKRU ? L7_ECX_PKU : 0);
	r[EDX] = (r[EDX] & L7_EDX_SILICON) | L7_EDX_OWN;
}

/* Processor Extended State Enumeration: nothing without XSAVE. */
static void leaf_d(uint32_t subleaf, uint32_t r[4])
{
	const struct isa_host *h = isa_host();

	zero(r);
	if (!h->has[HOST_XSAVE])
		return;
	switch (subleaf) {
	case 0:
		r[EAX] = (uint32_t)(h->xfeatures | h->own_xfeatures);
		r[EBX] = h->xsave_bytes; /* all enabled; XCR0's: hypervisor */
		r[ECX] = h->xsave_bytes;
		break;
	case 1: /* XSAVEOPT XSAVEC XGETBV(1) XSAVES: done in C, whatever the host has */
		r[EAX] = B(0) | B(1) | B(2) | B(3);
		r[EBX] = h->xsave_bytes;
		break;
	default:
		if (subleaf < ISA_HOST_COMPONENTS) {
			r[EAX] = h->component[subleaf].size;
			r[EBX] = h->component[subleaf].offset;
			r[ECX] = h->component[subleaf].aligned ? 2 : 0;
		}
		break;
	}
}

static void leaf_80000001(uint32_t r[4])
{
	bool amd = host_is_amd();

	r[EBX] &= amd ? 0xf0000000 : 0; /* package type */
	r[ECX] = (r[ECX] & X1_ECX_SILICON) | X1_ECX_OWN;
	r[EDX] = (r[EDX] & (amd ? X1_EDX_COPIES | X1_EDX_AMD : 0)) | X1_EDX_OWN;
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
		r[EBX] = X8_EBX_OWN | (host_is_amd() ? X8_EBX_AMD : 0);
		r[ECX] = r[EDX] = 0;
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

	if (leaf == 0xd) {
		leaf_d(subleaf, regs);
		return;
	}
	/* A host without the leaf would answer with another leaf's data. */
	isa_host_cpuid(leaf & 0x80000000, 0, highest);
	if (leaf > highest[EAX] && leaf != 7) {
		zero(regs);
		return;
	}
	if (leaf > highest[EAX])
		zero(regs);
	else
		isa_host_cpuid(leaf, subleaf, regs);
	if (leaf & 0x80000000) {
		extended(leaf, regs);
		return;
	}
	switch (leaf) {
	case 0:
		regs[EAX] = isa_host_has(HOST_XSAVE) ? MAX_BASIC : 7;
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
	default: /* 3, 5 (MONITOR), 6, 9, 0Ah (no PMU), 0Bh: nothing */
		zero(regs);
		break;
	}
}
