/*
 * Model-specific registers: one table says who keeps each and what may be
 * written; the ioctls, the guest's RDMSR and WRMSR and the index lists all
 * come from it.
 *
 * Invariants
 * 1. A row is found by number (ranges allowed, first match). A row without a
 *    get (set) function cannot be read (written).
 * 2. Row functions answer 0, KVM_MSR_INVAL or KVM_MSR_UNKNOWN. `host` is true
 *    for the client's ioctls, which may do more than the guest.
 * 3. MSR_SAVE rows are KVM_GET_MSR_INDEX_LIST, MSR_FEATURE rows
 *    KVM_GET_MSR_FEATURE_INDEX_LIST. Every MSR_SAVE row can be read and
 *    written back by the client.
 *
 * Locks: vcpu->mutex (owner thread).
 */
#include <stdlib.h>
#include <string.h>

#include "host/timer.h"
#include "lib/error.h"
#include "trace/trace.h"
#include "x86/x86.h"

#define MSR_SAVE 1u
#define MSR_FEATURE 2u

struct msr_row;
typedef int msr_get_fn(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
		       uint64_t *data, bool host);
typedef int msr_set_fn(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
		       uint64_t data, bool host);

struct msr_row {
	uint32_t first, last;
	msr_get_fn *get;
	msr_set_fn *set;
	uint32_t flags;
	uint64_t value;	   /* fixed answer, or writable bits of a stored MSR */
	size_t offset;	   /* of a stored MSR in struct kvm_vcpu_arch */
};

/* MSRs that sdm/regs.h has no name for: old or model-specific ones guests still probe. */
#define MSR_EBL_CR_POWERON 0x2a
#define MSR_SMI_COUNT 0x34
#define MSR_IA32_UCODE_WRITE 0x79
#define MSR_P6_PERFCTR0 0xc1
#define MSR_FSB_FREQ 0xcd
#define MSR_EBC_FREQUENCY_ID 0x2c
#define MSR_BBL_CR_CTL3 0x11e
#define MSR_P6_EVNTSEL0 0x186
#define MSR_PERF_STATUS 0x198
#define MSR_PERF_CTL 0x199
#define MSR_LASTBRANCHFROMIP 0x1db
#define MSR_LASTINTTOIP 0x1de
#define MSR_POWER_CTL 0x1fc
#define MSR_MC0_CTL2 0x280
#define MSR_IA32_PERF_CAPABILITIES 0x345
#define MSR_RAPL_POWER_UNIT 0x606
#define MSR_PKG_ENERGY_STATUS 0x611
#define MSR_DRAM_ENERGY_STATUS 0x619
#define MSR_PP0_ENERGY_STATUS 0x639
#define MSR_PP1_ENERGY_STATUS 0x641
#define MSR_K7_EVNTSEL0 0xc0010000
#define MSR_K7_PERFCTR3 0xc0010007
#define MSR_K7_CLK_CTL 0xc001001b
#define MSR_AMD64_NB_CFG 0xc001001f
#define MSR_AMD64_PATCH_LOADER 0xc0010020
#define MSR_K8_INT_PENDING_MSG 0xc0010055
#define MSR_FAM10H_MMIO_CONF_BASE 0xc0010058
#define MSR_K8_TSEG_ADDR 0xc0010112
#define MSR_K8_TSEG_MASK 0xc0010113
#define MSR_AMD64_DC_CFG 0xc0011022
#define MSR_AMD64_TW_CFG 0xc0011023
#define MSR_AMD64_BU_CFG2 0xc001102a
#define MSR_F15H_EX_CFG 0xc001102c

/* Bits of IA32_ARCH_CAPABILITIES (SDM Vol. 4): see invariant 2 of cpuid.c. */
#define ARCH_CAP_SUPPORTED                                                             \
	(BIT_ULL(0) /* RDCL_NO */ | BIT_ULL(1) /* IBRS_ALL */ | BIT_ULL(3) /* SKIP_L1DFL */ | \
	 BIT_ULL(4) /* SSB_NO */ | BIT_ULL(5) /* MDS_NO */ | BIT_ULL(6) /* PSCHANGE_MC_NO */ | \
	 BIT_ULL(8) /* TAA_NO */ | BIT_ULL(13) /* SBDR_SSDP_NO */ |                      \
	 BIT_ULL(14) /* FBSDP_NO */ | BIT_ULL(15) /* PSDP_NO */ | BIT_ULL(20) /* BHI_NO */ | \
	 BIT_ULL(24) /* PBRSB_NO */ | BIT_ULL(26) /* GDS_NO */ | BIT_ULL(27) /* RFDS_NO */ | \
	 BIT_ULL(62) /* ITS_NO */)

#define FEAT_CTL_LOCKED BIT_ULL(0)
#define PLATFORM_INFO_CPUID_FAULT BIT_ULL(31)
#define MISC_ENABLE_EMON BIT_ULL(7)
#define MISC_ENABLE_PMU_RO (BIT_ULL(11) | BIT_ULL(12)) /* BTS and PEBS unavailable */
#define MISC_ENABLE_MWAIT BIT_ULL(18)
#define HWCR_MCSTATUS_WREN BIT_ULL(18)
#define HWCR_TSC_FREQ_SEL BIT_ULL(24) /* the TSC counts at a constant rate: it does */
#define DE_CFG_LFENCE_SERIALIZE BIT_ULL(1)

uint64_t kvm_supported_arch_capabilities(void)
{
	return ARCH_CAP_SUPPORTED;
}

static bool canonical(uint64_t v)
{
	return (uint64_t)((int64_t)(v << 16) >> 16) == v;
}

static uint64_t *stored(struct kvm_vcpu *vcpu, const struct msr_row *row)
{
	return (uint64_t *)((char *)vcpu->arch + row->offset);
}

/* --- general ways to get and set --- */

static int get_fixed(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		     bool host)
{
	*data = row->value;
	return 0;
}

static int set_ignored(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
		       uint64_t data, bool host)
{
	return 0;
}

/* Writes of zero only. */
static int set_zero(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		    bool host)
{
	return data ? KVM_MSR_INVAL : 0;
}

static int get_stored(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
		      uint64_t *data, bool host)
{
	*data = *stored(vcpu, row);
	return 0;
}

static int set_stored(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		      bool host)
{
	if (data & ~row->value)
		return KVM_MSR_INVAL;
	*stored(vcpu, row) = data;
	return 0;
}

static int get_stored_host(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			   uint64_t *data, bool host)
{
	return host ? get_stored(vcpu, row, msr, data, host) : KVM_MSR_INVAL;
}

static int set_stored_host(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			   uint64_t data, bool host)
{
	return host ? set_stored(vcpu, row, msr, data, host) : KVM_MSR_INVAL;
}

/* MSRs of the processor or the VMCS. */
static int get_vmx(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		   bool host)
{
	return vmx_get_msr(vcpu, msr, data) ? KVM_MSR_UNKNOWN : 0;
}

static int set_vmx(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		   bool host)
{
	return vmx_set_msr(vcpu, msr, data) ? KVM_MSR_INVAL : 0;
}

/* Those that hold a linear address. */
static int set_vmx_address(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			   uint64_t data, bool host)
{
	/*
	 * SYSENTER_ESP/EIP: Intel raises #GP, AMD drops the upper bits; Linux
	 * answers with the sign-extended address for both.
	 */
	if (msr == MSR_IA32_SYSENTER_ESP || msr == MSR_IA32_SYSENTER_EIP)
		data = (uint64_t)((int64_t)(data << 16) >> 16);
	else if (!canonical(data))
		return KVM_MSR_INVAL;
	return set_vmx(vcpu, row, msr, data, host);
}

/* --- MSRs with rules of their own --- */

static bool has_tsc_aux(struct kvm_vcpu *vcpu)
{
	return guest_cpuid_bit(vcpu, 0x80000001, 0, CPUID_EDX, 27) || /* RDTSCP */
	       guest_cpuid_bit(vcpu, 7, 0, CPUID_ECX, 22);	       /* RDPID */
}

static int get_tsc_aux(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
		       uint64_t *data, bool host)
{
	if (!host && !has_tsc_aux(vcpu))
		return KVM_MSR_INVAL;
	return get_vmx(vcpu, row, msr, data, host);
}

static int set_tsc_aux(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		       bool host)
{
	if (!host && !has_tsc_aux(vcpu))
		return KVM_MSR_INVAL;
	if (guest_cpuid_is_intel(vcpu) && data >> 32)
		return KVM_MSR_INVAL;
	return set_vmx(vcpu, row, msr, (uint32_t)data, host);
}

static int get_efer(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		    bool host)
{
	*data = vmx_get_efer(vcpu);
	return 0;
}

static int set_efer(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		    bool host)
{
	return kvm_set_efer(vcpu, data, host);
}

static int set_pat(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		   bool host)
{
	if (!kvm_pat_valid(data))
		return KVM_MSR_INVAL;
	vcpu->arch->pat = data;
	/* GUEST_IA32_PAT, where the VMCS switches it; without, this is its only home. */
	if (vmx_set_msr(vcpu, msr, data))
		return 0;
	return 0;
}

static int get_tsc(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		   bool host)
{
	*data = kvm_read_guest_tsc(vcpu);
	return 0;
}

static int set_tsc(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		   bool host)
{
	if (host)
		kvm_synchronize_tsc(vcpu, data);
	else
		kvm_write_guest_tsc(vcpu, data);
	return 0;
}

static int set_tsc_adjust(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			  uint64_t data, bool host)
{
	if (!guest_cpuid_bit(vcpu, 7, 0, CPUID_EBX, 1))
		return 0;
	if (!host)
		kvm_adjust_guest_tsc(vcpu, (int64_t)(data - vcpu->arch->tsc_adjust));
	vcpu->arch->tsc_adjust = data;
	return 0;
}

static int get_apic_base(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			 uint64_t *data, bool host)
{
	*data = vcpu->apic ? kvm_get_apic_base(vcpu) : vcpu->arch->apic_base;
	return 0;
}

static int set_apic_base(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			 uint64_t data, bool host)
{
	if (vcpu->apic)
		return kvm_set_apic_base(vcpu, data, host);
	if (!kvm_apic_base_valid(vcpu, data))
		return KVM_MSR_INVAL;
	vcpu->arch->apic_base = data;
	return 0;
}

static int get_x2apic(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
		      uint64_t *data, bool host)
{
	return vcpu->apic ? kvm_x2apic_msr_read(vcpu, msr, data) : KVM_MSR_INVAL;
}

static int set_x2apic(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		      bool host)
{
	return vcpu->apic ? kvm_x2apic_msr_write(vcpu, msr, data) : KVM_MSR_INVAL;
}

static int get_tsc_deadline(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			    uint64_t *data, bool host)
{
	*data = vcpu->apic ? kvm_get_lapic_tscdeadline_msr(vcpu) : 0;
	return 0;
}

static int set_tsc_deadline(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			    uint64_t data, bool host)
{
	if (vcpu->apic)
		kvm_set_lapic_tscdeadline_msr(vcpu, data);
	return 0;
}

static int set_feat_ctl(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			uint64_t data, bool host)
{
	if (data & ~FEAT_CTL_LOCKED)
		return KVM_MSR_INVAL;
	if (!host && (vcpu->arch->feat_ctl & FEAT_CTL_LOCKED))
		return KVM_MSR_INVAL;
	vcpu->arch->feat_ctl = data;
	return 0;
}

static bool has_spec_ctrl(struct kvm_vcpu *vcpu)
{
	return guest_cpuid_bit(vcpu, 7, 0, CPUID_EDX, 26) || guest_cpuid_bit(vcpu, 7, 0, CPUID_EDX, 27) ||
	       guest_cpuid_bit(vcpu, 7, 0, CPUID_EDX, 31) ||
	       guest_cpuid_bit(vcpu, 0x80000008, 0, CPUID_EBX, 14) ||
	       guest_cpuid_bit(vcpu, 0x80000008, 0, CPUID_EBX, 15) ||
	       guest_cpuid_bit(vcpu, 0x80000008, 0, CPUID_EBX, 24);
}

static int get_spec_ctrl(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			 uint64_t *data, bool host)
{
	if (!host && !has_spec_ctrl(vcpu))
		return KVM_MSR_INVAL;
	*data = vcpu->arch->spec_ctrl;
	return 0;
}

static int set_spec_ctrl(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			 uint64_t data, bool host)
{
	if ((!host && !has_spec_ctrl(vcpu)) || data & ~7ULL) /* IBRS, STIBP, SSBD */
		return KVM_MSR_INVAL;
	vcpu->arch->spec_ctrl = data;
	return 0;
}

static int set_pred_cmd(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			uint64_t data, bool host)
{
	if (!host && !has_spec_ctrl(vcpu) && !guest_cpuid_bit(vcpu, 0x80000008, 0, CPUID_EBX, 12))
		return KVM_MSR_INVAL;
	return data & ~1ULL ? KVM_MSR_INVAL : 0; /* nothing is predicted */
}

static int set_flush_cmd(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			 uint64_t data, bool host)
{
	if (!host && !guest_cpuid_bit(vcpu, 7, 0, CPUID_EDX, 28))
		return KVM_MSR_INVAL;
	return data & ~1ULL ? KVM_MSR_INVAL : 0; /* there is no cache to flush */
}

static int get_arch_capabilities(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
				 uint64_t *data, bool host)
{
	if (!host && !guest_cpuid_bit(vcpu, 7, 0, CPUID_EDX, 29))
		return KVM_MSR_INVAL;
	*data = vcpu->arch->arch_capabilities;
	return 0;
}

static int set_ucode_rev(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			 uint64_t data, bool host)
{
	if (host)
		vcpu->arch->microcode_version = data;
	return 0;
}

static int set_misc_enable(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			   uint64_t data, bool host)
{
	uint64_t old = vcpu->arch->ia32_misc_enable;

	if (!host) {
		if ((old ^ data) & MISC_ENABLE_PMU_RO)
			return KVM_MSR_INVAL;
		data = (data & ~MISC_ENABLE_EMON) | (old & MISC_ENABLE_EMON);
	}
	if (!(vcpu->kvm->arch->disabled_quirks & KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT) &&
	    ((old ^ data) & MISC_ENABLE_MWAIT) && !guest_cpuid_bit(vcpu, 1, 0, CPUID_ECX, 0))
		return KVM_MSR_INVAL;
	vcpu->arch->ia32_misc_enable = data;
	return 0;
}

static int get_platform_info(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			     uint64_t *data, bool host)
{
	if (!host && !vcpu->kvm->arch->platform_info_readable)
		return KVM_MSR_INVAL;
	*data = vcpu->arch->platform_info;
	return 0;
}

static int set_platform_info(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			     uint64_t data, bool host)
{
	if (!host || (!(data & PLATFORM_INFO_CPUID_FAULT) && (vcpu->arch->misc_features & 1)))
		return KVM_MSR_INVAL;
	vcpu->arch->platform_info = data;
	return 0;
}

static int set_misc_features(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			     uint64_t data, bool host)
{
	if (data & ~1ULL || ((data & 1) && !(vcpu->arch->platform_info & PLATFORM_INFO_CPUID_FAULT)))
		return KVM_MSR_INVAL;
	vcpu->arch->misc_features = data;
	return 0;
}

/* IA32_XSS: no supervisor components are offered, so zero is the only value. */
static int get_xss(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		   bool host)
{
	if (!host && !guest_cpuid_bit(vcpu, 0xd, 1, CPUID_EAX, 3))
		return KVM_MSR_INVAL;
	*data = vcpu->arch->ia32_xss;
	return 0;
}

static int set_xss(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		   bool host)
{
	if ((!host && !guest_cpuid_bit(vcpu, 0xd, 1, CPUID_EAX, 3)) || data)
		return KVM_MSR_INVAL;
	vcpu->arch->ia32_xss = data;
	return 0;
}

static int get_debugctl(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			uint64_t *data, bool host)
{
	*data = 0;
	return 0;
}

/* LBR and BTF are accepted and do nothing, as on a KVM without LBR virtualisation. */
static int set_debugctl(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			uint64_t data, bool host)
{
	return data & ~3ULL ? KVM_MSR_INVAL : 0;
}

static int set_hwcr(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		    bool host)
{
	/* Flush-filter, IGNNE and TLB-cache disable are ignored. */
	data &= ~(BIT_ULL(6) | BIT_ULL(8) | BIT_ULL(3));
	if (data & ~(HWCR_MCSTATUS_WREN | HWCR_TSC_FREQ_SEL))
		return KVM_MSR_INVAL;
	vcpu->arch->hwcr = data;
	return 0;
}

static int get_de_cfg(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
		      uint64_t *data, bool host)
{
	if (!host && !guest_cpuid_is_amd(vcpu))
		return KVM_MSR_UNKNOWN;
	*data = vcpu->arch->de_cfg;
	return 0;
}

static int set_de_cfg(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		      bool host)
{
	if (!host && !guest_cpuid_is_amd(vcpu))
		return KVM_MSR_UNKNOWN;
	/* The guest may try to change what it cannot: only unknown bits fault. */
	if (data & ~DE_CFG_LFENCE_SERIALIZE)
		return KVM_MSR_INVAL;
	vcpu->arch->de_cfg = data;
	return 0;
}

static int get_osvw(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		    bool host)
{
	if (!guest_cpuid_bit(vcpu, 0x80000001, 0, CPUID_ECX, 9))
		return KVM_MSR_INVAL;
	return get_stored(vcpu, row, msr, data, host);
}

static int set_osvw(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		    bool host)
{
	if (!guest_cpuid_bit(vcpu, 0x80000001, 0, CPUID_ECX, 9))
		return KVM_MSR_INVAL;
	return set_stored(vcpu, row, msr, data, host);
}

static int get_mce(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		   bool host)
{
	return kvm_mce_get_msr(vcpu, msr, data, host);
}

static int set_mce(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		   bool host)
{
	return kvm_mce_set_msr(vcpu, msr, data, host);
}

static int get_mtrr(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		    bool host)
{
	return kvm_mtrr_get_msr(vcpu, msr, data);
}

static int set_mtrr(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		    bool host)
{
	return kvm_mtrr_set_msr(vcpu, msr, data);
}

/* Paravirtual MSRs exist when the guest's leaf 0x40000001 says so, if that is enforced. */
static bool pv_has(struct kvm_vcpu *vcpu, int feature)
{
	return !vcpu->arch->pv_enforce_cpuid ||
	       guest_cpuid_bit(vcpu, 0x40000001, 0, CPUID_EAX, feature);
}

static int clock_feature(uint32_t msr)
{
	return msr == MSR_KVM_WALL_CLOCK || msr == MSR_KVM_SYSTEM_TIME ? 0 : 3;
}

static int get_wall_clock(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			  uint64_t *data, bool host)
{
	if (!pv_has(vcpu, clock_feature(msr)))
		return KVM_MSR_UNKNOWN;
	*data = vcpu->kvm->arch->wall_clock_msr;
	return 0;
}

static int get_system_time(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			   uint64_t *data, bool host)
{
	if (!pv_has(vcpu, clock_feature(msr)))
		return KVM_MSR_UNKNOWN;
	*data = vcpu->arch->pv_time_msr;
	return 0;
}

static int set_pvclock(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
		       uint64_t data, bool host)
{
	if (!pv_has(vcpu, clock_feature(msr)))
		return KVM_MSR_UNKNOWN;
	return kvm_clock_set_msr(vcpu, msr, data);
}

/* --- the table --- */

#define AT(f) .offset = offsetof(struct kvm_vcpu_arch, f)
#define ALL ~0ULL
#define ONE(msr) .first = (msr), .last = (msr)

static const struct msr_row msr_table[] = {
	{ ONE(MSR_IA32_P5_MC_ADDR), get_fixed, NULL },
	{ ONE(MSR_IA32_P5_MC_TYPE), get_fixed, NULL },
	{ ONE(MSR_IA32_TSC), get_tsc, set_tsc, MSR_SAVE },
	{ ONE(MSR_KVM_WALL_CLOCK), get_wall_clock, set_pvclock, MSR_SAVE },
	{ ONE(MSR_KVM_SYSTEM_TIME), get_system_time, set_pvclock, MSR_SAVE },
	{ ONE(MSR_IA32_PLATFORM_ID), get_fixed, NULL },
	{ ONE(MSR_IA32_APICBASE), get_apic_base, set_apic_base },
	{ ONE(MSR_EBL_CR_POWERON), get_fixed, NULL },
	{ ONE(MSR_EBC_FREQUENCY_ID), get_fixed, NULL, .value = BIT_ULL(24) },
	{ ONE(MSR_SMI_COUNT), get_stored, set_stored_host, MSR_SAVE, ALL, AT(smi_count) },
	{ ONE(MSR_IA32_FEAT_CTL), get_stored, set_feat_ctl, MSR_SAVE, .value = 1, AT(feat_ctl) },
	{ ONE(MSR_IA32_TSC_ADJUST), get_stored, set_tsc_adjust, MSR_SAVE, ALL, AT(tsc_adjust) },
	{ ONE(MSR_IA32_SPEC_CTRL), get_spec_ctrl, set_spec_ctrl, MSR_SAVE },
	{ ONE(MSR_IA32_PRED_CMD), NULL, set_pred_cmd },
	{ ONE(MSR_IA32_UCODE_WRITE), NULL, set_ignored },
	{ ONE(MSR_IA32_UCODE_REV), get_stored, set_ucode_rev, MSR_SAVE | MSR_FEATURE, ALL,
	  AT(microcode_version) },
	{ ONE(MSR_IA32_SMBASE), get_stored_host, set_stored_host, MSR_SAVE, ALL, AT(smbase) },
	{ .first = MSR_P6_PERFCTR0, .last = MSR_P6_PERFCTR0 + 1, get_fixed, set_ignored },
	{ ONE(MSR_FSB_FREQ), get_fixed, NULL, .value = 3 },
	{ ONE(MSR_PLATFORM_INFO), get_platform_info, set_platform_info, MSR_SAVE },
	{ ONE(MSR_MTRRcap), get_mtrr, NULL },
	{ ONE(MSR_IA32_ARCH_CAPABILITIES), get_arch_capabilities, set_stored_host,
	  MSR_SAVE | MSR_FEATURE, ALL, AT(arch_capabilities) },
	{ ONE(MSR_IA32_FLUSH_CMD), NULL, set_flush_cmd },
	{ ONE(MSR_BBL_CR_CTL3), get_fixed, set_ignored, .value = 0xbe702111 },
	{ ONE(MSR_MISC_FEATURES_ENABLES), get_stored, set_misc_features, MSR_SAVE, 1,
	  AT(misc_features) },
	{ ONE(MSR_IA32_SYSENTER_CS), get_vmx, set_vmx, MSR_SAVE },
	{ ONE(MSR_IA32_SYSENTER_ESP), get_vmx, set_vmx_address, MSR_SAVE },
	{ ONE(MSR_IA32_SYSENTER_EIP), get_vmx, set_vmx_address, MSR_SAVE },
	{ ONE(MSR_IA32_MCG_CAP), get_mce, NULL },
	{ ONE(MSR_IA32_MCG_STATUS), get_mce, set_mce, MSR_SAVE },
	{ ONE(MSR_IA32_MCG_CTL), get_mce, set_mce, MSR_SAVE },
	{ .first = MSR_P6_EVNTSEL0, .last = MSR_P6_EVNTSEL0 + 1, get_fixed, set_ignored },
	{ ONE(MSR_PERF_STATUS), get_fixed, NULL, .value = 1000 | 4ULL << 40 },
	{ ONE(MSR_PERF_CTL), get_fixed, NULL },
	{ ONE(MSR_IA32_MISC_ENABLE), get_stored, set_misc_enable, MSR_SAVE, ALL,
	  AT(ia32_misc_enable) },
	{ ONE(MSR_IA32_DEBUGCTLMSR), get_debugctl, set_debugctl },
	{ .first = MSR_LASTBRANCHFROMIP, .last = MSR_LASTINTTOIP, get_fixed, NULL },
	{ ONE(MSR_POWER_CTL), get_stored, set_stored, MSR_SAVE, ALL, AT(power_ctl) },
	{ .first = MSR_MC0_CTL2, .last = MSR_MC0_CTL2 + KVM_MAX_MCE_BANKS - 1, get_mce, set_mce },
	{ ONE(MSR_IA32_CR_PAT), get_stored, set_pat, MSR_SAVE, ALL, AT(pat) },
	{ .first = MSR_MTRRphysBase0, .last = MSR_MTRRdefType, get_mtrr, set_mtrr },
	{ .first = MSR_IA32_MC0_CTL, .last = MSR_IA32_MC0_CTL + 4 * KVM_MAX_MCE_BANKS - 1, get_mce,
	  set_mce },
	{ ONE(MSR_RAPL_POWER_UNIT), get_fixed, NULL },
	{ ONE(MSR_PKG_ENERGY_STATUS), get_fixed, NULL },
	{ ONE(MSR_DRAM_ENERGY_STATUS), get_fixed, NULL },
	{ ONE(MSR_PP0_ENERGY_STATUS), get_fixed, NULL },
	{ ONE(MSR_PP1_ENERGY_STATUS), get_fixed, NULL },
	{ ONE(MSR_IA32_TSC_DEADLINE), get_tsc_deadline, set_tsc_deadline, MSR_SAVE },
	{ .first = MSR_IA32_X2APIC_FIRST, .last = MSR_IA32_X2APIC_LAST, get_x2apic, set_x2apic },
	{ ONE(MSR_IA32_XSS), get_xss, set_xss },
	{ ONE(MSR_KVM_WALL_CLOCK_NEW), get_wall_clock, set_pvclock, MSR_SAVE },
	{ ONE(MSR_KVM_SYSTEM_TIME_NEW), get_system_time, set_pvclock, MSR_SAVE },
	/*
	 * Asynchronous page faults, steal time and PV EOI are not offered:
	 * disabled is the only state they have.
	 */
	{ ONE(MSR_KVM_ASYNC_PF_EN), get_fixed, set_zero },
	{ ONE(MSR_KVM_STEAL_TIME), get_fixed, set_zero },
	{ ONE(MSR_KVM_PV_EOI_EN), get_fixed, set_zero },
	{ ONE(MSR_EFER), get_efer, set_efer },
	{ ONE(MSR_STAR), get_vmx, set_vmx, MSR_SAVE },
	{ ONE(MSR_LSTAR), get_vmx, set_vmx_address, MSR_SAVE },
	{ ONE(MSR_CSTAR), get_vmx, set_vmx_address, MSR_SAVE },
	{ ONE(MSR_SYSCALL_MASK), get_vmx, set_vmx, MSR_SAVE },
	{ ONE(MSR_FS_BASE), get_vmx, set_vmx_address },
	{ ONE(MSR_GS_BASE), get_vmx, set_vmx_address },
	{ ONE(MSR_KERNEL_GS_BASE), get_vmx, set_vmx_address, MSR_SAVE },
	{ ONE(MSR_TSC_AUX), get_tsc_aux, set_tsc_aux, MSR_SAVE },
	{ .first = MSR_K7_EVNTSEL0, .last = MSR_K7_PERFCTR3, get_fixed, set_ignored },
	{ ONE(MSR_AMD64_SYSCFG), get_fixed, NULL },
	{ ONE(MSR_AMD64_HWCR), get_stored, set_hwcr, 0, ALL, AT(hwcr) },
	{ ONE(MSR_K7_CLK_CTL), get_fixed, set_ignored, .value = 0x20000000 },
	{ ONE(MSR_AMD64_NB_CFG), get_fixed, set_ignored },
	{ ONE(MSR_AMD64_PATCH_LOADER), NULL, set_ignored },
	{ ONE(MSR_K8_INT_PENDING_MSG), get_fixed, NULL },
	{ ONE(MSR_FAM10H_MMIO_CONF_BASE), get_fixed, set_zero },
	{ ONE(MSR_K8_TSEG_ADDR), get_fixed, NULL },
	{ ONE(MSR_K8_TSEG_MASK), get_fixed, NULL },
	{ ONE(MSR_AMD64_VM_HSAVE_PA), get_fixed, set_ignored },
	{ ONE(MSR_AMD64_OSVW_ID_LENGTH), get_osvw, set_osvw, 0, ALL, AT(osvw_length) },
	{ ONE(MSR_AMD64_OSVW_STATUS), get_osvw, set_osvw, 0, ALL, AT(osvw_status) },
	{ ONE(MSR_AMD64_DC_CFG), get_fixed, set_ignored },
	{ ONE(MSR_AMD64_TW_CFG), get_fixed, set_ignored },
	{ ONE(MSR_AMD64_DE_CFG), get_de_cfg, set_de_cfg, MSR_FEATURE },
	{ ONE(MSR_AMD64_BU_CFG2), get_fixed, set_ignored },
	{ ONE(MSR_F15H_EX_CFG), get_fixed, set_ignored },
};

static const struct msr_row *find_row(uint32_t msr)
{
	for (size_t i = 0; i < ARRAY_SIZE(msr_table); i++)
		if (msr >= msr_table[i].first && msr <= msr_table[i].last)
			return &msr_table[i];
	return NULL;
}

int kvm_get_msr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t *data, bool host_initiated)
{
	const struct msr_row *row = find_row(index);

	if (!host_initiated && !kvm_msr_allowed(vcpu, index, KVM_MSR_FILTER_READ))
		return KVM_MSR_FILTERED;
	if (!row || !row->get)
		return KVM_MSR_UNKNOWN;
	return row->get(vcpu, row, index, data, host_initiated);
}

int kvm_set_msr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t data, bool host_initiated)
{
	const struct msr_row *row = find_row(index);

	if (!host_initiated && !kvm_msr_allowed(vcpu, index, KVM_MSR_FILTER_WRITE))
		return KVM_MSR_FILTERED;
	if (!row || !row->set)
		return KVM_MSR_UNKNOWN;
	return row->set(vcpu, row, index, data, host_initiated);
}

/* --- features of the host (KVM_GET_MSRS on /dev/kvm) and the lists --- */

static uint64_t default_microcode(void)
{
	uint32_t r[4];

	vmx_cpuid(0, 0, r);
	return r[CPUID_EBX] == 0x756e6547 ? 0x100000000ULL : 0x01000065;
}

int kvm_get_msr_feature(uint32_t index, uint64_t *data)
{
	switch (index) {
	case MSR_IA32_ARCH_CAPABILITIES:
		*data = ARCH_CAP_SUPPORTED;
		return 0;
	case MSR_IA32_UCODE_REV:
		*data = default_microcode();
		return 0;
	case MSR_AMD64_DE_CFG:
		*data = DE_CFG_LFENCE_SERIALIZE; /* LFENCE always serialises here */
		return 0;
	default:
		return KVM_MSR_UNKNOWN;
	}
}

static int fill_list(uint32_t flag, uint32_t *indices, uint32_t *nmsrs)
{
	uint32_t n = 0, room = *nmsrs;

	for (size_t i = 0; i < ARRAY_SIZE(msr_table); i++) {
		if (!(msr_table[i].flags & flag))
			continue;
		if (n < room)
			indices[n] = msr_table[i].first;
		n++;
	}
	*nmsrs = n;
	return n > room ? err_born(E2BIG, "%u MSR indices, room for %u", n, room) : 0;
}

int kvm_msr_index_list(uint32_t *indices, uint32_t *nmsrs)
{
	return fill_list(MSR_SAVE, indices, nmsrs);
}

int kvm_msr_feature_index_list(uint32_t *indices, uint32_t *nmsrs)
{
	return fill_list(MSR_FEATURE, indices, nmsrs);
}

/* --- RDMSR and WRMSR of the guest --- */

static bool exit_to_client(struct kvm_vcpu *vcpu, uint32_t exit_reason, uint32_t msr, uint64_t data,
			   int why, int (*complete)(struct kvm_vcpu *vcpu))
{
	uint32_t reason = why == KVM_MSR_FILTERED ? KVM_MSR_EXIT_REASON_FILTER :
			  why == KVM_MSR_UNKNOWN  ? KVM_MSR_EXIT_REASON_UNKNOWN :
						    KVM_MSR_EXIT_REASON_INVAL;
	struct kvm_run *run = vcpu->run;

	if (!(vcpu->kvm->arch->user_space_msr_mask & reason))
		return false;
	run->exit_reason = exit_reason;
	run->msr.error = 0;
	memset(run->msr.pad, 0, sizeof(run->msr.pad));
	run->msr.reason = reason;
	run->msr.index = msr;
	run->msr.data = data;
	vcpu->arch->complete_userspace_io = complete;
	return true;
}

static void put_edx_eax(struct kvm_vcpu *vcpu, uint64_t data)
{
	uint64_t *regs = vmx_regs(vcpu);

	regs[RAX] = (uint32_t)data;
	regs[RDX] = data >> 32;
}

/* The client has answered: #GP if it says so, else on with the next instruction. */
static int complete_wrmsr(struct kvm_vcpu *vcpu)
{
	if (vcpu->run->msr.error)
		kvm_inject_gp(vcpu, 0);
	else
		vmx_skip_emulated_instruction(vcpu);
	return 1;
}

static int complete_rdmsr(struct kvm_vcpu *vcpu)
{
	if (!vcpu->run->msr.error)
		put_edx_eax(vcpu, vcpu->run->msr.data);
	return complete_wrmsr(vcpu);
}

int kvm_emulate_rdmsr(struct kvm_vcpu *vcpu)
{
	uint32_t msr = (uint32_t)vmx_regs(vcpu)[RCX];
	uint64_t data = 0;
	int r = kvm_get_msr(vcpu, msr, &data, false);

	TRACE(kvm, kvm_msr, 0, msr, data, r != 0);
	if (r && exit_to_client(vcpu, KVM_EXIT_X86_RDMSR, msr, 0, r, complete_rdmsr))
		return 0;
	if (r) {
		kvm_inject_gp(vcpu, 0);
		return 1;
	}
	put_edx_eax(vcpu, data);
	vmx_skip_emulated_instruction(vcpu);
	return 1;
}

int kvm_emulate_wrmsr(struct kvm_vcpu *vcpu)
{
	uint64_t *regs = vmx_regs(vcpu);
	uint32_t msr = (uint32_t)regs[RCX];
	uint64_t data = (uint32_t)regs[RAX] | regs[RDX] << 32;
	int r = kvm_set_msr(vcpu, msr, data, false);

	if (r < 0)
		return r;
	TRACE(kvm, kvm_msr, 1, msr, data, r != 0);
	if (r && exit_to_client(vcpu, KVM_EXIT_X86_WRMSR, msr, data, r, complete_wrmsr))
		return 0;
	if (r) {
		kvm_inject_gp(vcpu, 0);
		return 1;
	}
	vmx_skip_emulated_instruction(vcpu);
	return 1;
}

/* --- MSRs the guest touches without an exit --- */

static const struct {
	uint32_t msr;
	bool write;
} passthrough[] = {
	{ MSR_IA32_TSC, false },       { MSR_FS_BASE, true },	      { MSR_GS_BASE, true },
	{ MSR_KERNEL_GS_BASE, true },  { MSR_IA32_SYSENTER_CS, true }, { MSR_IA32_SYSENTER_ESP, true },
	{ MSR_IA32_SYSENTER_EIP, true },
};

void kvm_msr_update_intercepts(struct kvm_vcpu *vcpu)
{
	for (size_t i = 0; i < ARRAY_SIZE(passthrough); i++) {
		uint32_t msr = passthrough[i].msr;

		vmx_set_msr_intercept(vcpu, msr, true, false,
				      !kvm_msr_allowed(vcpu, msr, KVM_MSR_FILTER_READ));
		if (passthrough[i].write)
			vmx_set_msr_intercept(vcpu, msr, false, true,
					      !kvm_msr_allowed(vcpu, msr, KVM_MSR_FILTER_WRITE));
	}
}

/* --- life --- */

void kvm_x86_state_init_vcpu(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_arch *a = vcpu->arch;

	a->maxphyaddr = 36; /* what a CPUID without leaf 80000008h means */
	a->pat = 0x0007040600070406ULL;
	a->arch_capabilities = ARCH_CAP_SUPPORTED;
	a->microcode_version = default_microcode();
	a->platform_info = PLATFORM_INFO_CPUID_FAULT;
	a->ia32_misc_enable = MISC_ENABLE_PMU_RO;
	a->de_cfg = DE_CFG_LFENCE_SERIALIZE;
	a->mcg_cap = KVM_MAX_MCE_BANKS;
	a->hwcr = HWCR_TSC_FREQ_SEL;
	a->poll_control = 1;
	a->xcr0 = XFEATURE_MASK_FP;
	a->dr6 = DR6_ACTIVE_LOW;
	a->dr7 = DR7_FIXED_1;
	a->tsc_scaling_ratio = 1ULL << 48;
	if (kvm_set_tsc_khz(vcpu, 0))
		a->virtual_tsc_khz = vcpu->kvm->arch->default_tsc_khz;
	kvm_synchronize_tsc(vcpu, 0);
	kvm_msr_update_intercepts(vcpu);
}

void kvm_x86_state_destroy_vcpu(struct kvm_vcpu *vcpu)
{
	free(vcpu->arch->cpuid_entries);
	vcpu->arch->cpuid_entries = NULL;
	vcpu->arch->cpuid_nent = 0;
}
