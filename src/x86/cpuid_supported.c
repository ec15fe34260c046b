/*
 * What CPUID is offered: KVM_GET_SUPPORTED_CPUID, KVM_GET_EMULATED_CPUID.
 *
 * Invariants
 * 1. What is offered is the processor's own CPUID (vmx_cpuid), cut down by the
 *    masks of the table below to what the hypervisor virtualises as well, plus
 *    the few bits that are the hypervisor's work (x2APIC, TSC_ADJUST, the
 *    0x40000000 leaves). Not the TSC deadline timer: it needs the VM's own
 *    local APIC, so it is KVM_CAP_TSC_DEADLINE_TIMER that offers it.
 * 2. The processor does not speculate: no load or branch is executed that the
 *    program did not ask for. Every "not affected by ..." bit is therefore
 *    true of it, and guests that read them skip their mitigations.
 *
 * Locks: none, it is stateless.
 */
#include <string.h>

#include "lib/error.h"
#include "sdm/ept.h"
#include "x86/x86.h"

#define KVM_CPUID_SIGNATURE 0x40000000u
#define KVM_FEATURE_CLOCKSOURCE 0
#define KVM_FEATURE_NOP_IO_DELAY 1
#define KVM_FEATURE_CLOCKSOURCE2 3
#define KVM_FEATURE_STEAL_TIME 5
#define KVM_FEATURE_PV_SEND_IPI 11
#define KVM_FEATURE_CLOCKSOURCE_STABLE_BIT 24

#define BASIC_MAX 0x1fu
#define EXTENDED_MAX 0x80000021u

/* Feature bits by register. Vol. 2, "CPUID"; AMD64 Vol. 3, appendix E. */
#define F(n) (1u << (n))
/* 1:ECX all but DTES64 MONITOR DS-CPL VMX SMX EIST TM2 CNXT-ID SDBG xTPR PDCM DCA OSXSAVE */
#define MASK_1_ECX                                                              \
	(F(0) | F(1) | F(9) | F(12) | F(13) | F(17) | F(19) | F(20) | F(22) | F(23) | \
	 F(25) | F(26) | F(28) | F(29) | F(30))
#define ADD_1_ECX (F(21) /* x2APIC */ | F(31) /* hypervisor */)
/* 1:EDX FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2 SS */
#define MASK_1_EDX 0x0f8bfbffu
/*
 * 7.0:EBX FSGSBASE BMI1 AVX2 SMEP BMI2 ERMS INVPCID FCS/FDS AVX512F AVX512DQ RDSEED ADX SMAP
 * AVX512_IFMA CLFLUSHOPT CLWB AVX512CD SHA AVX512BW AVX512VL
 */
#define MASK_7_0_EBX                                                                  \
	(F(0) | F(3) | F(5) | F(7) | F(8) | F(9) | F(10) | F(13) | F(16) | F(17) | F(18) | \
	 F(19) | F(20) | F(21) | F(23) | F(24) | F(28) | F(29) | F(30) | F(31))
#define ADD_7_0_EBX F(1) /* TSC_ADJUST */
/*
 * 7.0:ECX AVX512_VBMI UMIP PKU AVX512_VBMI2 GFNI VAES VPCLMULQDQ AVX512_VNNI AVX512_BITALG
 * AVX512_VPOPCNTDQ RDPID CLDEMOTE MOVDIRI MOVDIR64B
 */
#define MASK_7_0_ECX                                                                  \
	(F(1) | F(2) | F(3) | F(6) | F(8) | F(9) | F(10) | F(11) | F(12) | F(14) | F(22) | F(25) | \
	 F(27) | F(28))
/* 7.0:EDX FSRM SERIALIZE AVX512_FP16 */
#define MASK_7_0_EDX (F(4) | F(14) | F(23))
/*
 * 7.0:EDX MD_CLEAR (VERW, for those who look), SPEC_CTRL and ARCH_CAPABILITIES MSRs, STIBP and
 * SSBD: SPEC_CTRL takes their bits, and invariant 2 obeys them.
 */
#define ADD_7_0_EDX (F(10) | F(26) | F(27) | F(29) | F(31))
/* 7.1:EAX AVX-VNNI AVX512_BF16 FZRM FSRS FSRC */
#define MASK_7_1_EAX (F(4) | F(5) | F(10) | F(11) | F(12))
/*
 * 7.2:EDX PSFD IPRED_CTRL RRSBA_CTRL DDPD_U BHI_CTRL MCDT_NO: bits of SPEC_CTRL again. Without
 * BHI_CTRL Linux clears the branch history by a loop at each system call.
 */
#define ADD_7_2_EDX (F(0) | F(1) | F(2) | F(3) | F(4) | F(5))
/* d.1:EAX XSAVEOPT XSAVEC XGETBV1 XSAVES */
#define MASK_D_1_EAX (F(0) | F(1) | F(2) | F(3))
/* 80000001:ECX LAHF ABM SSE4A 3DNOWPREFETCH; CR8_LEGACY and OSVW (its MSRs) on AMD */
#define MASK_8_1_ECX (F(0) | F(4) | F(5) | F(6) | F(8))
#define ADD_8_1_ECX_AMD F(9)
/* 80000001:EDX the AMD copies of 1:EDX, SYSCALL NX MMXEXT GBPAGES RDTSCP LM (not FXSR_OPT) */
#define MASK_8_1_EDX 0x2dd3fbffu
#define MASK_8_7_EDX F(8) /* invariant TSC */
/*
 * 80000008:EBX: CLZERO, XSAVEERPTR, WBNOINVD are the processor's. IBPB, IBRS, STIBP and SSBD are
 * AMD's bits of MSRs that are there, offered on Intel's hosts too as KVM does; PSFD and SSB_NO,
 * and on AMD BTC_NO: see invariant 2.
 */
#define MASK_8_8_EBX (F(0) | F(2) | F(9))
#define ADD_8_8_EBX (F(12) | F(14) | F(15) | F(24) | F(26) | F(28))
#define ADD_8_8_EBX_AMD F(29)
/*
 * 80000021:EAX NO_NESTED_DATA_BP, LFENCE always serialising, VERW clears, NULL
 * selector clears base, no SMM_CTL MSR, SRSO_NO; ECX TSA_SQ_NO, TSA_L1_NO.
 */
#define ADD_8_21_EAX (F(0) | F(2) | F(5) | F(6) | F(9) | F(29))
#define ADD_8_21_ECX (F(1) | F(2))

static bool vendor_is(const uint32_t r[4], uint32_t ebx, uint32_t ecx, uint32_t edx)
{
	return r[CPUID_EBX] == ebx && r[CPUID_ECX] == ecx && r[CPUID_EDX] == edx;
}

bool kvm_cpuid_regs_are_amd(const uint32_t r[4])
{
	return vendor_is(r, 0x68747541, 0x444d4163, 0x69746e65) || /* AuthenticAMD */
	       vendor_is(r, 0x6f677948, 0x656e6975, 0x6e65476e);   /* HygonGenuine */
}

static bool processor_is_amd(void)
{
	uint32_t r[4];

	vmx_cpuid(0, 0, r);
	return kvm_cpuid_regs_are_amd(r);
}

/* As in KVM, shadow tables do not carry protection keys. */
static bool keys_work(void)
{
	return vmx_params()->ept;
}

uint64_t kvm_supported_xcr0(void)
{
	uint32_t r[4];

	vmx_cpuid(0xd, 0, r);
	return (r[CPUID_EAX] | (uint64_t)r[CPUID_EDX] << 32) &
	       (XFEATURE_MASK_FP | XFEATURE_MASK_SSE | XFEATURE_MASK_YMM | XFEATURE_MASK_AVX512 |
		(keys_work() ? XFEATURE_MASK_PKRU : 0));
}

bool kvm_xstate_component(unsigned n, uint32_t *offset, uint32_t *size, bool *aligned)
{
	uint32_t r[4];

	if (n < 2 || n > 62 || !(kvm_supported_xcr0() & BIT_ULL(n)))
		return false;
	vmx_cpuid(0xd, n, r);
	*size = r[CPUID_EAX];
	*offset = r[CPUID_EBX];
	*aligned = r[CPUID_ECX] & 2;
	return true;
}

uint32_t kvm_xstate_size(uint64_t xcr0, bool compacted)
{
	uint32_t size = 576; /* legacy area and header */

	for (unsigned n = 2; n < 63; n++) {
		uint32_t offset, bytes;
		bool aligned;

		if (!(xcr0 & BIT_ULL(n)) || !kvm_xstate_component(n, &offset, &bytes, &aligned))
			continue;
		if (compacted)
			offset = aligned ? ALIGN_UP(size, 64u) : size;
		if (offset + bytes > size)
			size = offset + bytes;
	}
	return size;
}

/* Guest-physical address bits: 4-level EPT reaches 48 and no further, 5-level all. */
static uint32_t guest_phys_bits(void)
{
	uint64_t ept = vmx_capability_msr(MSR_IA32_VMX_EPT_VPID_CAP);
	uint32_t r[4], bits;

	vmx_cpuid(0x80000008, 0, r);
	bits = r[CPUID_EAX] & 0xff;
	return bits > 48 && !(ept & EPT_CAP_5LEVELS) ? 48 : bits;
}

static void leaf_hypervisor(uint32_t function, uint32_t r[4])
{
	static const char signature[12] = "KVMKVMKVM\0\0\0";

	memset(r, 0, 4 * sizeof(*r));
	if (function == KVM_CPUID_SIGNATURE) {
		r[CPUID_EAX] = KVM_CPUID_FEATURES;
		memcpy(&r[CPUID_EBX], signature, 4);
		memcpy(&r[CPUID_ECX], signature + 4, 4);
		memcpy(&r[CPUID_EDX], signature + 8, 4);
	} else if (function == KVM_CPUID_FEATURES) {
		r[CPUID_EAX] = F(KVM_FEATURE_CLOCKSOURCE) | F(KVM_FEATURE_NOP_IO_DELAY) |
			       F(KVM_FEATURE_CLOCKSOURCE2) | F(KVM_FEATURE_ASYNC_PF) |
			       F(KVM_FEATURE_PV_EOI) | F(KVM_FEATURE_PV_UNHALT) |
			       F(KVM_FEATURE_ASYNC_PF_VMEXIT) | F(KVM_FEATURE_PV_SEND_IPI) |
			       F(KVM_FEATURE_POLL_CONTROL) | F(KVM_FEATURE_PV_SCHED_YIELD) |
			       F(KVM_FEATURE_ASYNC_PF_INT) |
			       F(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT) |
			       (kvm_has_steal_time() ? F(KVM_FEATURE_STEAL_TIME) : 0);
	}
}

static void leaf_xsave(uint32_t index, uint32_t r[4])
{
	uint64_t xcr0 = kvm_supported_xcr0();

	switch (index) {
	case 0:
		r[CPUID_EAX] = (uint32_t)xcr0;
		r[CPUID_EBX] = r[CPUID_ECX] = kvm_xstate_size(xcr0, false);
		r[CPUID_EDX] = (uint32_t)(xcr0 >> 32);
		break;
	case 1:
		r[CPUID_EAX] &= MASK_D_1_EAX;
		r[CPUID_EBX] = r[CPUID_EAX] & (F(1) | F(3)) ? kvm_xstate_size(xcr0, true) : 0;
		r[CPUID_ECX] = r[CPUID_EDX] = 0; /* no supervisor components */
		break;
	default:
		if (index >= 64 || !(xcr0 & BIT_ULL(index)))
			memset(r, 0, 4 * sizeof(*r));
	}
}

static void leaf_basic(uint32_t function, uint32_t index, uint32_t r[4])
{
	switch (function) {
	case 0:
		if (r[CPUID_EAX] > BASIC_MAX)
			r[CPUID_EAX] = BASIC_MAX;
		if (r[CPUID_EAX] < 0xd && kvm_supported_xcr0())
			r[CPUID_EAX] = 0xd;
		break;
	case 1:
		r[CPUID_EBX] &= 0x0000ffff; /* APIC id and thread count are the client's */
		r[CPUID_ECX] = (r[CPUID_ECX] & MASK_1_ECX) | ADD_1_ECX | (vmx_params()->nested ? F(5) /* VMX */ : 0);
		r[CPUID_EDX] &= MASK_1_EDX;
		break;
	case 2:
		break;
	case 4:
		/* Cache geometry; how many share it is the client's. */
		r[CPUID_EAX] &= ~(GENMASK_ULL(31, 14));
		break;
	case 6:
		r[CPUID_EAX] = F(2); /* ARAT: the APIC timer never stops */
		r[CPUID_EBX] = r[CPUID_ECX] = r[CPUID_EDX] = 0;
		break;
	case 7:
		if (index == 0) {
			r[CPUID_EAX] = 2;
			r[CPUID_EBX] = (r[CPUID_EBX] & MASK_7_0_EBX) | ADD_7_0_EBX;
			r[CPUID_ECX] &= keys_work() ? MASK_7_0_ECX : MASK_7_0_ECX & ~F(3);
			r[CPUID_EDX] = (r[CPUID_EDX] & MASK_7_0_EDX) | ADD_7_0_EDX;
		} else if (index == 1) {
			r[CPUID_EAX] &= MASK_7_1_EAX;
			r[CPUID_EBX] = r[CPUID_ECX] = r[CPUID_EDX] = 0;
		} else if (index == 2) {
			r[CPUID_EAX] = r[CPUID_EBX] = r[CPUID_ECX] = 0;
			r[CPUID_EDX] = ADD_7_2_EDX;
		} else {
			memset(r, 0, 4 * sizeof(*r));
		}
		break;
	case 0xd:
		leaf_xsave(index, r);
		break;
	default:
		/*
		 * MONITOR, DCA, PMU, topology, QoS, PT, TSC/crystal, frequency:
		 * not virtualised, or the client's to describe.
		 */
		memset(r, 0, 4 * sizeof(*r));
	}
}

static void leaf_extended(uint32_t function, uint32_t r[4])
{
	bool amd = processor_is_amd();

	switch (function) {
	case 0x80000000:
		if (amd || r[CPUID_EAX] > EXTENDED_MAX)
			r[CPUID_EAX] = EXTENDED_MAX;
		if (r[CPUID_EAX] < 0x80000008)
			r[CPUID_EAX] = 0x80000008;
		break;
	case 0x80000001:
		r[CPUID_EBX] &= ~0x0fffffffu;
		r[CPUID_ECX] = (r[CPUID_ECX] & MASK_8_1_ECX) | (amd ? ADD_8_1_ECX_AMD : 0);
		r[CPUID_EDX] &= MASK_8_1_EDX;
		break;
	case 0x80000002 ... 0x80000006:
		break;
	case 0x80000007:
		r[CPUID_EAX] = r[CPUID_EBX] = r[CPUID_ECX] = 0;
		r[CPUID_EDX] &= MASK_8_7_EDX;
		break;
	case 0x80000008: {
		uint32_t virt_bits = (r[CPUID_EAX] >> 8) & 0xff;

		if (virt_bits < 48)
			virt_bits = 48;
		r[CPUID_EAX] = guest_phys_bits() | virt_bits << 8;
		r[CPUID_EBX] = (r[CPUID_EBX] & MASK_8_8_EBX) | ADD_8_8_EBX | (amd ? ADD_8_8_EBX_AMD : 0);
		r[CPUID_ECX] = r[CPUID_EDX] = 0;
		break;
	}
	case 0x80000019:
		r[CPUID_ECX] = r[CPUID_EDX] = 0;
		break;
	case 0x8000001a:
		r[CPUID_EAX] &= 7;
		r[CPUID_EBX] = r[CPUID_ECX] = r[CPUID_EDX] = 0;
		break;
	case 0x80000021:
		memset(r, 0, 4 * sizeof(*r));
		if (amd) {
			r[CPUID_EAX] = ADD_8_21_EAX;
			r[CPUID_ECX] = ADD_8_21_ECX;
		}
		break;
	default: /* SVM, IBS, topology, SEV, QoS */
		memset(r, 0, 4 * sizeof(*r));
	}
}

static void supported_regs(uint32_t function, uint32_t index, uint32_t r[4])
{
	if ((function & 0xffff0000) == KVM_CPUID_SIGNATURE) {
		leaf_hypervisor(function, r);
		return;
	}
	vmx_cpuid(function, index, r);
	if (function < 0x80000000)
		leaf_basic(function, index, r);
	else
		leaf_extended(function, r);
}

uint32_t kvm_supported_cpuid(uint32_t function, uint32_t index, enum cpuid_reg reg)
{
	uint32_t r[4];

	supported_regs(function, index, r);
	return r[reg];
}

/* --- KVM_GET_SUPPORTED_CPUID --- */

struct cpuid_list {
	struct kvm_cpuid_entry2 *entries;
	uint32_t nent, max;
};

/* false: the list is full. */
static bool list_add(struct cpuid_list *l, uint32_t function, uint32_t index, bool indexed,
		     const uint32_t r[4])
{
	if (l->nent == l->max)
		return false;
	l->entries[l->nent++] = (struct kvm_cpuid_entry2){
		.function = function,
		.index = index,
		.flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
		.eax = r[CPUID_EAX],
		.ebx = r[CPUID_EBX],
		.ecx = r[CPUID_ECX],
		.edx = r[CPUID_EDX],
	};
	return true;
}

/* The last subleaf of a leaf with subleaves, given its subleaf 0; -1: no subleaves. */
static int last_subleaf(uint32_t function, const uint32_t first[4])
{
	switch (function) {
	case 4:
		return 31; /* ends at the first null cache type */
	case 7:
		return (int)first[CPUID_EAX];
	case 0xb:
	case 0x12:
	case 0x14:
	case 0x1d:
	case 0x1f:
	case 0x8000001d:
		return 0;
	case 0xd:
		return 63;
	default:
		return -1;
	}
}

static bool list_add_leaf(struct cpuid_list *l, uint32_t function)
{
	uint32_t r[4];
	int last;

	supported_regs(function, 0, r);
	last = last_subleaf(function, r);
	if (!list_add(l, function, 0, last >= 0, r))
		return false;
	if (function == 4 && (r[CPUID_EAX] & 0x1f) == 0)
		return true;
	for (int i = 1; i <= last; i++) {
		supported_regs(function, (uint32_t)i, r);
		if (function == 4 && (r[CPUID_EAX] & 0x1f) == 0)
			break;
		if (function == 0xd && i > 1 && !r[CPUID_EAX])
			continue;
		if (!list_add(l, function, (uint32_t)i, true, r))
			return false;
	}
	return true;
}

static bool list_supported(struct cpuid_list *l)
{
	static const uint32_t bases[] = { 0, KVM_CPUID_SIGNATURE, 0x80000000 };

	for (size_t b = 0; b < ARRAY_SIZE(bases); b++) {
		uint32_t limit = kvm_supported_cpuid(bases[b], 0, CPUID_EAX);

		for (uint32_t f = bases[b]; f <= limit; f++)
			if (!list_add_leaf(l, f))
				return false;
	}
	return true;
}

/*
 * What the instruction emulator could do for a processor without it: MOVBE
 * and RDPID. Offered so that clients see the same answer as from Linux.
 */
static bool list_emulated(struct cpuid_list *l)
{
	static const uint32_t leaf0[4] = { [CPUID_EAX] = 7 };
	static const uint32_t leaf1[4] = { [CPUID_ECX] = F(22) };
	static const uint32_t leaf7[4] = { [CPUID_ECX] = F(22) };

	return list_add(l, 0, 0, false, leaf0) && list_add(l, 1, 0, false, leaf1) &&
	       list_add(l, 7, 0, true, leaf7);
}

int kvm_dev_ioctl_get_cpuid(struct kvm_cpuid_entry2 *entries, uint32_t *nent, bool emulated)
{
	struct cpuid_list l = { .entries = entries, .max = *nent };

	if (*nent < 1)
		return err_born(E2BIG, "no room for a single CPUID entry");
	if (l.max > KVM_MAX_CPUID_ENTRIES)
		l.max = KVM_MAX_CPUID_ENTRIES;
	if (!(emulated ? list_emulated(&l) : list_supported(&l)))
		return err_born(E2BIG, "%u CPUID entries are too few", *nent);
	*nent = l.nent;
	return 0;
}
