/*
 * Model-specific registers: one table says who keeps each and what may be
 * written; the ioctls, the guest's RDMSR and WRMSR (msr_guest.c) and the index
 * lists all come from it. MSRs with rules of their own are in msr_rules.c.
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

#include "lib/error.h"
#include "sdm/hyperv.h"
#include "x86/msr_row.h"

#define MSR_SAVE 1u
#define MSR_FEATURE 2u
#define MSR_NESTED 4u /* in the lists only where VMX is offered */

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

/* Bits of IA32_ARCH_CAPABILITIES (SDM Vol. 4): see invariant 2 of cpuid_supported.c. */
#define ARCH_CAP_SUPPORTED                                                             \
	(BIT_ULL(0) /* RDCL_NO */ | BIT_ULL(1) /* IBRS_ALL */ | BIT_ULL(3) /* SKIP_L1DFL */ | \
	 BIT_ULL(4) /* SSB_NO */ | BIT_ULL(5) /* MDS_NO */ | BIT_ULL(6) /* PSCHANGE_MC_NO */ | \
	 BIT_ULL(8) /* TAA_NO */ | BIT_ULL(13) /* SBDR_SSDP_NO */ |                      \
	 BIT_ULL(14) /* FBSDP_NO */ | BIT_ULL(15) /* PSDP_NO */ | BIT_ULL(20) /* BHI_NO */ | \
	 BIT_ULL(24) /* PBRSB_NO */ | BIT_ULL(26) /* GDS_NO */ | BIT_ULL(27) /* RFDS_NO */ | \
	 BIT_ULL(62) /* ITS_NO */)

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

int msr_get_stored(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
		      uint64_t *data, bool host)
{
	*data = *stored(vcpu, row);
	return 0;
}

int msr_set_stored(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
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
	return host ? msr_get_stored(vcpu, row, msr, data, host) : KVM_MSR_INVAL;
}

static int set_stored_host(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			   uint64_t data, bool host)
{
	return host ? msr_set_stored(vcpu, row, msr, data, host) : KVM_MSR_INVAL;
}

/* MSRs of the processor or the VMCS. */
int msr_get_vmx(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		   bool host)
{
	return vmx_get_msr(vcpu, msr, data) ? KVM_MSR_UNKNOWN : 0;
}

int msr_set_vmx(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
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
	return msr_set_vmx(vcpu, row, msr, data, host);
}

/* The hyperv room's. */
static int get_hyperv(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		      bool host)
{
	return kvm_hyperv_ops->get_msr(vcpu, msr, data, host);
}

static int set_hyperv(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		      bool host)
{
	return kvm_hyperv_ops->set_msr(vcpu, msr, data, host);
}

/* --- the table --- */

#define AT(f) .offset = offsetof(struct kvm_vcpu_arch, f)
#define ALL ~0ULL
#define ONE(msr) .first = (msr), .last = (msr)
#define HV_SAVED(name) { ONE(HV_MSR_##name), get_hyperv, set_hyperv, MSR_SAVE }

#define VMX_CAP(name, flags) \
	{ ONE(MSR_IA32_VMX_##name), msr_get_vmx_cap, msr_set_vmx_cap, (flags) | MSR_FEATURE | MSR_NESTED }

static const struct msr_row msr_table[] = {
	{ ONE(MSR_IA32_P5_MC_ADDR), get_fixed, NULL },
	{ ONE(MSR_IA32_P5_MC_TYPE), get_fixed, NULL },
	{ ONE(MSR_IA32_TSC), msr_get_tsc, msr_set_tsc, MSR_SAVE },
	{ ONE(MSR_KVM_WALL_CLOCK), msr_get_wall_clock, msr_set_pvclock, MSR_SAVE },
	{ ONE(MSR_KVM_SYSTEM_TIME), msr_get_system_time, msr_set_pvclock, MSR_SAVE },
	{ ONE(MSR_IA32_PLATFORM_ID), get_fixed, NULL },
	{ ONE(MSR_IA32_APICBASE), msr_get_apic_base, msr_set_apic_base },
	{ ONE(MSR_EBL_CR_POWERON), get_fixed, NULL },
	{ ONE(MSR_EBC_FREQUENCY_ID), get_fixed, NULL, .value = BIT_ULL(24) },
	{ ONE(MSR_SMI_COUNT), msr_get_stored, set_stored_host, MSR_SAVE, ALL, AT(smi_count) },
	{ ONE(MSR_IA32_FEAT_CTL), msr_get_stored, msr_set_feat_ctl, MSR_SAVE, .value = 1, AT(feat_ctl) },
	{ ONE(MSR_IA32_TSC_ADJUST), msr_get_stored, msr_set_tsc_adjust, MSR_SAVE, ALL, AT(tsc_adjust) },
	{ ONE(MSR_IA32_SPEC_CTRL), msr_get_spec_ctrl, msr_set_spec_ctrl, MSR_SAVE },
	{ ONE(MSR_IA32_PRED_CMD), NULL, msr_set_pred_cmd },
	{ ONE(MSR_IA32_UCODE_WRITE), NULL, set_ignored },
	{ ONE(MSR_IA32_UCODE_REV), msr_get_stored, msr_set_ucode_rev, MSR_SAVE | MSR_FEATURE, ALL,
	  AT(microcode_version) },
	{ ONE(MSR_IA32_SMBASE), get_stored_host, set_stored_host, MSR_SAVE, ALL, AT(smbase) },
	{ .first = MSR_P6_PERFCTR0, .last = MSR_P6_PERFCTR0 + 1, get_fixed, set_ignored },
	{ ONE(MSR_FSB_FREQ), get_fixed, NULL, .value = 3 },
	{ ONE(MSR_PLATFORM_INFO), msr_get_platform_info, msr_set_platform_info, MSR_SAVE },
	{ ONE(MSR_MTRRcap), msr_get_mtrr, NULL },
	{ ONE(MSR_IA32_ARCH_CAPABILITIES), msr_get_arch_capabilities, set_stored_host,
	  MSR_SAVE | MSR_FEATURE, ALL, AT(arch_capabilities) },
	{ ONE(MSR_IA32_FLUSH_CMD), NULL, msr_set_flush_cmd },
	{ ONE(MSR_BBL_CR_CTL3), get_fixed, set_ignored, .value = 0xbe702111 },
	{ ONE(MSR_MISC_FEATURES_ENABLES), msr_get_stored, msr_set_misc_features, MSR_SAVE, 1,
	  AT(misc_features) },
	{ ONE(MSR_IA32_SYSENTER_CS), msr_get_vmx, msr_set_vmx, MSR_SAVE },
	{ ONE(MSR_IA32_SYSENTER_ESP), msr_get_vmx, set_vmx_address, MSR_SAVE },
	{ ONE(MSR_IA32_SYSENTER_EIP), msr_get_vmx, set_vmx_address, MSR_SAVE },
	{ ONE(MSR_IA32_MCG_CAP), msr_get_mce, NULL },
	{ ONE(MSR_IA32_MCG_STATUS), msr_get_mce, msr_set_mce, MSR_SAVE },
	{ ONE(MSR_IA32_MCG_CTL), msr_get_mce, msr_set_mce, MSR_SAVE },
	{ .first = MSR_P6_EVNTSEL0, .last = MSR_P6_EVNTSEL0 + 1, get_fixed, set_ignored },
	{ ONE(MSR_PERF_STATUS), get_fixed, NULL, .value = 1000 | 4ULL << 40 },
	{ ONE(MSR_PERF_CTL), get_fixed, NULL },
	{ ONE(MSR_IA32_MISC_ENABLE), msr_get_stored, msr_set_misc_enable, MSR_SAVE, ALL,
	  AT(ia32_misc_enable) },
	{ ONE(MSR_IA32_DEBUGCTLMSR), msr_get_debugctl, msr_set_debugctl },
	{ .first = MSR_LASTBRANCHFROMIP, .last = MSR_LASTINTTOIP, get_fixed, NULL },
	{ ONE(MSR_POWER_CTL), msr_get_stored, msr_set_stored, MSR_SAVE, ALL, AT(power_ctl) },
	{ .first = MSR_MC0_CTL2, .last = MSR_MC0_CTL2 + KVM_MAX_MCE_BANKS - 1, msr_get_mce, msr_set_mce },
	{ ONE(MSR_IA32_CR_PAT), msr_get_stored, msr_set_pat, MSR_SAVE, ALL, AT(pat) },
	{ .first = MSR_MTRRphysBase0, .last = MSR_MTRRdefType, msr_get_mtrr, msr_set_mtrr },
	{ .first = MSR_IA32_MC0_CTL, .last = MSR_IA32_MC0_CTL + 4 * KVM_MAX_MCE_BANKS - 1, msr_get_mce,
	  msr_set_mce },
	{ ONE(MSR_RAPL_POWER_UNIT), get_fixed, NULL },
	{ ONE(MSR_PKG_ENERGY_STATUS), get_fixed, NULL },
	{ ONE(MSR_DRAM_ENERGY_STATUS), get_fixed, NULL },
	{ ONE(MSR_PP0_ENERGY_STATUS), get_fixed, NULL },
	{ ONE(MSR_PP1_ENERGY_STATUS), get_fixed, NULL },
	{ ONE(MSR_IA32_TSC_DEADLINE), msr_get_tsc_deadline, msr_set_tsc_deadline, MSR_SAVE },
	{ .first = MSR_IA32_X2APIC_FIRST, .last = MSR_IA32_X2APIC_LAST, msr_get_x2apic, msr_set_x2apic },
	{ ONE(MSR_IA32_XSS), msr_get_xss, msr_set_xss },
	/* in this order: a guest OS id comes before its hypercall page */
	HV_SAVED(GUEST_OS_ID), HV_SAVED(HYPERCALL), HV_SAVED(VP_INDEX), HV_SAVED(RESET), HV_SAVED(VP_RUNTIME),
	HV_SAVED(TIME_REF_COUNT), HV_SAVED(REFERENCE_TSC), HV_SAVED(TSC_FREQUENCY), HV_SAVED(APIC_FREQUENCY),
	{ .first = HV_MSR_EOI, .last = HV_MSR_TPR, get_hyperv, set_hyperv },
	HV_SAVED(VP_ASSIST_PAGE),
	/* the first of each stands for the rest */
	{ .first = HV_MSR_SCONTROL, .last = HV_MSR_EOM, get_hyperv, set_hyperv, MSR_SAVE },
	{ .first = HV_MSR_SINT0, .last = HV_MSR_SINT15, get_hyperv, set_hyperv },
	{ .first = HV_MSR_STIMER0_CONFIG, .last = HV_MSR_STIMER3_COUNT, get_hyperv, set_hyperv, MSR_SAVE },
	HV_SAVED(SYNDBG_CONTROL), HV_SAVED(SYNDBG_STATUS), HV_SAVED(SYNDBG_SEND_BUFFER),
	HV_SAVED(SYNDBG_RECV_BUFFER), HV_SAVED(SYNDBG_PENDING_BUFFER), HV_SAVED(SYNDBG_OPTIONS),
	HV_SAVED(CRASH_P0), HV_SAVED(CRASH_P0 + 1), HV_SAVED(CRASH_P0 + 2), HV_SAVED(CRASH_P0 + 3),
	HV_SAVED(CRASH_P4), HV_SAVED(CRASH_CTL),
	HV_SAVED(REENLIGHTENMENT), HV_SAVED(TSC_EMULATION_CONTROL), HV_SAVED(TSC_EMULATION_STATUS),
	{ ONE(MSR_KVM_WALL_CLOCK_NEW), msr_get_wall_clock, msr_set_pvclock, MSR_SAVE },
	{ ONE(MSR_KVM_SYSTEM_TIME_NEW), msr_get_system_time, msr_set_pvclock, MSR_SAVE },
	{ ONE(MSR_KVM_STEAL_TIME), msr_get_steal_time, msr_set_steal_time, MSR_SAVE, .value = 5 },
	{ ONE(MSR_KVM_POLL_CONTROL), msr_get_poll_control, msr_set_poll_control, MSR_SAVE },
	{ ONE(MSR_KVM_PV_EOI_EN), msr_get_pv_eoi, msr_set_pv_eoi, MSR_SAVE, .value = KVM_FEATURE_PV_EOI },
	{ ONE(MSR_KVM_ASYNC_PF_EN), msr_get_async_pf, msr_set_async_pf, MSR_SAVE, .value = KVM_FEATURE_ASYNC_PF },
	{ ONE(MSR_KVM_ASYNC_PF_INT), msr_get_async_pf, msr_set_async_pf, MSR_SAVE, .value = KVM_FEATURE_ASYNC_PF_INT },
	{ ONE(MSR_KVM_ASYNC_PF_ACK), msr_get_async_pf, msr_set_async_pf, MSR_SAVE, .value = KVM_FEATURE_ASYNC_PF_INT },
	VMX_CAP(BASIC, MSR_SAVE), VMX_CAP(PINBASED_CTLS, 0), VMX_CAP(PROCBASED_CTLS, 0), VMX_CAP(EXIT_CTLS, 0),
	VMX_CAP(ENTRY_CTLS, 0), VMX_CAP(MISC, MSR_SAVE), VMX_CAP(CR0_FIXED0, MSR_SAVE), VMX_CAP(CR0_FIXED1, 0),
	VMX_CAP(CR4_FIXED0, MSR_SAVE), VMX_CAP(CR4_FIXED1, 0), VMX_CAP(VMCS_ENUM, MSR_SAVE),
	VMX_CAP(PROCBASED_CTLS2, MSR_SAVE), VMX_CAP(EPT_VPID_CAP, MSR_SAVE), VMX_CAP(TRUE_PINBASED_CTLS, MSR_SAVE),
	VMX_CAP(TRUE_PROCBASED_CTLS, MSR_SAVE), VMX_CAP(TRUE_EXIT_CTLS, MSR_SAVE),
	VMX_CAP(TRUE_ENTRY_CTLS, MSR_SAVE), VMX_CAP(VMFUNC, MSR_SAVE),
	{ ONE(MSR_EFER), msr_get_efer, msr_set_efer },
	{ ONE(MSR_STAR), msr_get_vmx, msr_set_vmx, MSR_SAVE },
	{ ONE(MSR_LSTAR), msr_get_vmx, set_vmx_address, MSR_SAVE },
	{ ONE(MSR_CSTAR), msr_get_vmx, set_vmx_address, MSR_SAVE },
	{ ONE(MSR_SYSCALL_MASK), msr_get_vmx, msr_set_vmx, MSR_SAVE },
	{ ONE(MSR_FS_BASE), msr_get_vmx, set_vmx_address },
	{ ONE(MSR_GS_BASE), msr_get_vmx, set_vmx_address },
	{ ONE(MSR_KERNEL_GS_BASE), msr_get_vmx, set_vmx_address, MSR_SAVE },
	{ ONE(MSR_TSC_AUX), msr_get_tsc_aux, msr_set_tsc_aux, MSR_SAVE },
	{ .first = MSR_K7_EVNTSEL0, .last = MSR_K7_PERFCTR3, get_fixed, set_ignored },
	{ ONE(MSR_AMD64_SYSCFG), get_fixed, NULL },
	{ ONE(MSR_AMD64_HWCR), msr_get_stored, msr_set_hwcr, 0, ALL, AT(hwcr) },
	{ ONE(MSR_K7_CLK_CTL), get_fixed, set_ignored, .value = 0x20000000 },
	{ ONE(MSR_AMD64_NB_CFG), get_fixed, set_ignored },
	{ ONE(MSR_AMD64_PATCH_LOADER), NULL, set_ignored },
	{ ONE(MSR_K8_INT_PENDING_MSG), get_fixed, NULL },
	{ ONE(MSR_FAM10H_MMIO_CONF_BASE), get_fixed, set_zero },
	{ ONE(MSR_K8_TSEG_ADDR), get_fixed, NULL },
	{ ONE(MSR_K8_TSEG_MASK), get_fixed, NULL },
	{ ONE(MSR_AMD64_VM_HSAVE_PA), get_fixed, set_ignored },
	{ ONE(MSR_AMD64_OSVW_ID_LENGTH), msr_get_osvw, msr_set_osvw, 0, ALL, AT(osvw_length) },
	{ ONE(MSR_AMD64_OSVW_STATUS), msr_get_osvw, msr_set_osvw, 0, ALL, AT(osvw_status) },
	{ ONE(MSR_AMD64_DC_CFG), get_fixed, set_ignored },
	{ ONE(MSR_AMD64_TW_CFG), get_fixed, set_ignored },
	{ ONE(MSR_AMD64_DE_CFG), msr_get_de_cfg, msr_set_de_cfg, MSR_FEATURE },
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

uint64_t kvm_default_microcode(void)
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
		*data = kvm_default_microcode();
		return 0;
	case MSR_IA32_PERF_CAPABILITIES:
		*data = 0; /* no PMU */
		return 0;
	case MSR_AMD64_DE_CFG:
		*data = DE_CFG_LFENCE_SERIALIZE; /* LFENCE always serialises here */
		return 0;
	default:
		return vmx_get_nested_msr_feature(index, data) ? KVM_MSR_UNKNOWN : 0;
	}
}

static int fill_list(uint32_t flag, uint32_t *indices, uint32_t *nmsrs)
{
	uint32_t n = 0, room = *nmsrs;

	for (size_t i = 0; i < ARRAY_SIZE(msr_table); i++) {
		if (!(msr_table[i].flags & flag) || ((msr_table[i].flags & MSR_NESTED) && !vmx_params()->nested))
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
