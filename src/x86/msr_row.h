/*
 * Rows of the MSR table, shared by the table (msr.c) and the MSRs that have
 * rules of their own (msr_rules.c).
 */
#ifndef USERKVM_X86_MSR_ROW_H
#define USERKVM_X86_MSR_ROW_H

#include "x86/x86.h"

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

#define FEAT_CTL_LOCKED BIT_ULL(0)
#define FEAT_CTL_VMX_OUTSIDE_SMX BIT_ULL(2)
#define PLATFORM_INFO_CPUID_FAULT BIT_ULL(31)
#define MISC_ENABLE_EMON BIT_ULL(7)
#define MISC_ENABLE_PMU_RO (BIT_ULL(11) | BIT_ULL(12)) /* BTS and PEBS unavailable */
#define MISC_ENABLE_MWAIT BIT_ULL(18)
#define HWCR_MCSTATUS_WREN BIT_ULL(18)
#define HWCR_TSC_FREQ_SEL BIT_ULL(24) /* the TSC counts at a constant rate: it does */
#define DE_CFG_LFENCE_SERIALIZE BIT_ULL(1)

/* General ways: a value in struct kvm_vcpu_arch, one of the processor or the VMCS. */
msr_get_fn msr_get_stored, msr_get_vmx_cap, msr_get_vmx;
msr_set_fn msr_set_stored, msr_set_vmx;

/* The MSRs with rules of their own. */
msr_get_fn msr_get_tsc_aux, msr_get_efer, msr_get_tsc, msr_get_apic_base, msr_get_x2apic,
	msr_get_tsc_deadline, msr_get_spec_ctrl, msr_get_arch_capabilities,
	msr_get_platform_info, msr_get_xss, msr_get_debugctl, msr_get_de_cfg, msr_get_osvw,
	msr_get_mce, msr_get_mtrr, msr_get_wall_clock, msr_get_system_time,
	msr_get_async_pf, msr_get_pv_eoi, msr_get_steal_time, msr_get_poll_control;
msr_set_fn msr_set_tsc_aux, msr_set_efer, msr_set_pat, msr_set_tsc, msr_set_tsc_adjust,
	msr_set_apic_base, msr_set_x2apic, msr_set_tsc_deadline, msr_set_feat_ctl, msr_set_vmx_cap,
	msr_set_spec_ctrl, msr_set_pred_cmd, msr_set_flush_cmd, msr_set_ucode_rev,
	msr_set_misc_enable, msr_set_platform_info, msr_set_misc_features, msr_set_xss,
	msr_set_debugctl, msr_set_hwcr, msr_set_de_cfg, msr_set_osvw, msr_set_mce, msr_set_mtrr,
	msr_set_pvclock, msr_set_async_pf, msr_set_pv_eoi, msr_set_steal_time,
	msr_set_poll_control;

#endif
