/*
 * MSRs that are more than a stored value: those that depend on the guest's
 * CPUID, have bits of their own, or belong to the clock, the APIC, the MTRRs
 * or the machine-check banks. Rows of msr.c's table point here.
 *
 * Invariant: as for every row, 0, KVM_MSR_INVAL or KVM_MSR_UNKNOWN; `host` is
 * true for the client's ioctls.
 *
 * Locks: vcpu->mutex (owner thread).
 */
#include "x86/msr_row.h"

int msr_get_tsc_aux(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
		       uint64_t *data, bool host)
{
	if (!host && !guest_has_tsc_aux(vcpu))
		return KVM_MSR_INVAL;
	return msr_get_vmx(vcpu, row, msr, data, host);
}

int msr_set_tsc_aux(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		       bool host)
{
	if (!host && !guest_has_tsc_aux(vcpu))
		return KVM_MSR_INVAL;
	if (guest_cpuid_is_intel(vcpu) && data >> 32)
		return KVM_MSR_INVAL;
	return msr_set_vmx(vcpu, row, msr, (uint32_t)data, host);
}

int msr_get_efer(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		    bool host)
{
	*data = vmx_get_efer(vcpu);
	return 0;
}

int msr_set_efer(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		    bool host)
{
	return kvm_set_efer(vcpu, data, host);
}

int msr_set_pat(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
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

int msr_get_tsc(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		   bool host)
{
	*data = kvm_read_guest_tsc(vcpu);
	return 0;
}

int msr_set_tsc(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		   bool host)
{
	if (host)
		kvm_synchronize_tsc(vcpu, data);
	else
		kvm_write_guest_tsc(vcpu, data);
	return 0;
}

int msr_set_tsc_adjust(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			  uint64_t data, bool host)
{
	if (!guest_cpuid_bit(vcpu, 7, 0, CPUID_EBX, 1))
		return 0;
	if (!host)
		kvm_adjust_guest_tsc(vcpu, (int64_t)(data - vcpu->arch->tsc_adjust));
	vcpu->arch->tsc_adjust = data;
	return 0;
}

int msr_get_apic_base(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			 uint64_t *data, bool host)
{
	*data = vcpu->apic ? kvm_get_apic_base(vcpu) : vcpu->arch->apic_base;
	return 0;
}

int msr_set_apic_base(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			 uint64_t data, bool host)
{
	if (vcpu->apic)
		return kvm_set_apic_base(vcpu, data, host);
	if (!kvm_apic_base_valid(vcpu, data))
		return KVM_MSR_INVAL;
	vcpu->arch->apic_base = data;
	return 0;
}

int msr_get_x2apic(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
		      uint64_t *data, bool host)
{
	return vcpu->apic ? kvm_x2apic_msr_read(vcpu, msr, data) : KVM_MSR_INVAL;
}

int msr_set_x2apic(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		      bool host)
{
	return vcpu->apic ? kvm_x2apic_msr_write(vcpu, msr, data) : KVM_MSR_INVAL;
}

int msr_get_tsc_deadline(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			    uint64_t *data, bool host)
{
	*data = vcpu->apic ? kvm_get_lapic_tscdeadline_msr(vcpu) : 0;
	return 0;
}

int msr_set_tsc_deadline(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			    uint64_t data, bool host)
{
	if (vcpu->apic)
		kvm_set_lapic_tscdeadline_msr(vcpu, data);
	return 0;
}

static bool guest_has_vmx(struct kvm_vcpu *vcpu)
{
	return guest_cpuid_bit(vcpu, 1, 0, CPUID_ECX, 5);
}

/* Firmware unlocks VMX here, and locks. The client that writes 0 resets the vCPU: it leaves VMX operation. */
int msr_set_feat_ctl(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			uint64_t data, bool host)
{
	uint64_t valid = FEAT_CTL_LOCKED | (guest_has_vmx(vcpu) ? FEAT_CTL_VMX_OUTSIDE_SMX : 0);

	if (data & ~valid)
		return KVM_MSR_INVAL;
	if (!host && (vcpu->arch->feat_ctl & FEAT_CTL_LOCKED))
		return KVM_MSR_INVAL;
	vcpu->arch->feat_ctl = data;
	if (host && data == 0)
		vmx_leave_nested(vcpu);
	return 0;
}

/* IA32_VMX_*: what VMX the guest has; it can write none of them. */
int msr_get_vmx_cap(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data, bool host)
{
	if (!host && !guest_has_vmx(vcpu))
		return KVM_MSR_UNKNOWN;
	return vmx_get_nested_msr(vcpu, msr, data, host) ? KVM_MSR_UNKNOWN : 0;
}

int msr_set_vmx_cap(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data, bool host)
{
	if (!host)
		return KVM_MSR_UNKNOWN;
	return vmx_set_nested_msr(vcpu, msr, data) ? KVM_MSR_INVAL : 0;
}

static bool has_spec_ctrl(struct kvm_vcpu *vcpu)
{
	return guest_cpuid_bit(vcpu, 7, 0, CPUID_EDX, 26) || guest_cpuid_bit(vcpu, 7, 0, CPUID_EDX, 27) ||
	       guest_cpuid_bit(vcpu, 7, 0, CPUID_EDX, 31) ||
	       guest_cpuid_bit(vcpu, 0x80000008, 0, CPUID_EBX, 14) ||
	       guest_cpuid_bit(vcpu, 0x80000008, 0, CPUID_EBX, 15) ||
	       guest_cpuid_bit(vcpu, 0x80000008, 0, CPUID_EBX, 24);
}

/* SDM Vol. 4, "IA32_SPEC_CTRL": each bit beside IBRS, STIBP and SSBD has a feature of its own. */
static uint64_t spec_ctrl_bits(struct kvm_vcpu *vcpu, bool host)
{
	static const struct {
		int feature; /* of CPUID 7.2:EDX */
		uint64_t bits;
	} by_feature[] = {
		{ 0, BIT_ULL(7) },		/* PSFD */
		{ 1, BIT_ULL(3) | BIT_ULL(4) }, /* IPRED_DIS_U, IPRED_DIS_S */
		{ 2, BIT_ULL(5) | BIT_ULL(6) }, /* RRSBA_DIS_U, RRSBA_DIS_S */
		{ 3, BIT_ULL(8) },		/* DDPD_U */
		{ 4, BIT_ULL(10) },		/* BHI_DIS_S */
	};
	uint64_t bits = 7; /* IBRS, STIBP, SSBD */

	for (unsigned n = 0; n < ARRAY_SIZE(by_feature); n++)
		if (host || guest_cpuid_bit(vcpu, 7, 2, CPUID_EDX, by_feature[n].feature))
			bits |= by_feature[n].bits;
	if (guest_cpuid_bit(vcpu, 0x80000008, 0, CPUID_EBX, 28)) /* AMD's PSFD */
		bits |= BIT_ULL(7);
	return bits;
}

int msr_get_spec_ctrl(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			 uint64_t *data, bool host)
{
	if (!host && !has_spec_ctrl(vcpu))
		return KVM_MSR_INVAL;
	*data = vcpu->arch->spec_ctrl;
	return 0;
}

int msr_set_spec_ctrl(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			 uint64_t data, bool host)
{
	if ((!host && !has_spec_ctrl(vcpu)) || data & ~spec_ctrl_bits(vcpu, host))
		return KVM_MSR_INVAL;
	vcpu->arch->spec_ctrl = data;
	return 0;
}

int msr_set_pred_cmd(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			uint64_t data, bool host)
{
	if (!host && !has_spec_ctrl(vcpu) && !guest_cpuid_bit(vcpu, 0x80000008, 0, CPUID_EBX, 12))
		return KVM_MSR_INVAL;
	return data & ~1ULL ? KVM_MSR_INVAL : 0; /* nothing is predicted */
}

int msr_set_flush_cmd(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			 uint64_t data, bool host)
{
	if (!host && !guest_cpuid_bit(vcpu, 7, 0, CPUID_EDX, 28))
		return KVM_MSR_INVAL;
	return data & ~1ULL ? KVM_MSR_INVAL : 0; /* there is no cache to flush */
}

/* KVM API: MSR_KVM_POLL_CONTROL. Nothing polls before a HLT here: the bit is kept for the guest. */
int msr_get_poll_control(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			 uint64_t *data, bool host)
{
	if (!guest_pv_has(vcpu, KVM_FEATURE_POLL_CONTROL))
		return KVM_MSR_UNKNOWN;
	*data = vcpu->arch->poll_control;
	return 0;
}

int msr_set_poll_control(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			 uint64_t data, bool host)
{
	if (!guest_pv_has(vcpu, KVM_FEATURE_POLL_CONTROL))
		return KVM_MSR_UNKNOWN;
	if (data & ~1ULL)
		return KVM_MSR_INVAL;
	vcpu->arch->poll_control = data;
	return 0;
}

int msr_get_arch_capabilities(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
				 uint64_t *data, bool host)
{
	if (!host && !guest_cpuid_bit(vcpu, 7, 0, CPUID_EDX, 29))
		return KVM_MSR_INVAL;
	*data = vcpu->arch->arch_capabilities;
	return 0;
}

int msr_set_ucode_rev(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			 uint64_t data, bool host)
{
	if (host)
		vcpu->arch->microcode_version = data;
	return 0;
}

int msr_set_misc_enable(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			   uint64_t data, bool host)
{
	uint64_t old = vcpu->arch->ia32_misc_enable;

	if (!host) {
		if ((old ^ data) & MISC_ENABLE_PMU_RO)
			return KVM_MSR_INVAL;
		data = (data & ~MISC_ENABLE_EMON) | (old & MISC_ENABLE_EMON);
	}
	if ((vcpu->kvm->arch->disabled_quirks & KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT) &&
	    ((old ^ data) & MISC_ENABLE_MWAIT) && !guest_cpuid_bit(vcpu, 1, 0, CPUID_ECX, 0))
		return KVM_MSR_INVAL;
	vcpu->arch->ia32_misc_enable = data;
	return 0;
}

int msr_get_platform_info(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			     uint64_t *data, bool host)
{
	if (!host && !vcpu->kvm->arch->platform_info_readable)
		return KVM_MSR_INVAL;
	*data = vcpu->arch->platform_info;
	return 0;
}

int msr_set_platform_info(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			     uint64_t data, bool host)
{
	if (!host || (!(data & PLATFORM_INFO_CPUID_FAULT) && (vcpu->arch->misc_features & 1)))
		return KVM_MSR_INVAL;
	vcpu->arch->platform_info = data;
	return 0;
}

int msr_set_misc_features(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			     uint64_t data, bool host)
{
	if (data & ~1ULL || ((data & 1) && !(vcpu->arch->platform_info & PLATFORM_INFO_CPUID_FAULT)))
		return KVM_MSR_INVAL;
	vcpu->arch->misc_features = data;
	return 0;
}

/* IA32_XSS: no supervisor components are offered, so zero is the only value. */
int msr_get_xss(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		   bool host)
{
	if (!host && !guest_cpuid_bit(vcpu, 0xd, 1, CPUID_EAX, 3))
		return KVM_MSR_INVAL;
	*data = vcpu->arch->ia32_xss;
	return 0;
}

int msr_set_xss(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		   bool host)
{
	if ((!host && !guest_cpuid_bit(vcpu, 0xd, 1, CPUID_EAX, 3)) || data)
		return KVM_MSR_INVAL;
	vcpu->arch->ia32_xss = data;
	return 0;
}

int msr_get_debugctl(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			uint64_t *data, bool host)
{
	*data = 0;
	return 0;
}

/* LBR and BTF are accepted and do nothing, as on a KVM without LBR virtualisation. */
int msr_set_debugctl(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			uint64_t data, bool host)
{
	return data & ~3ULL ? KVM_MSR_INVAL : 0;
}

int msr_set_hwcr(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		    bool host)
{
	/* Flush-filter, IGNNE and TLB-cache disable are ignored. */
	data &= ~(BIT_ULL(6) | BIT_ULL(8) | BIT_ULL(3));
	if (data & ~(HWCR_MCSTATUS_WREN | HWCR_TSC_FREQ_SEL))
		return KVM_MSR_INVAL;
	vcpu->arch->hwcr = data;
	return 0;
}

int msr_get_de_cfg(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
		      uint64_t *data, bool host)
{
	if (!host && !guest_cpuid_is_amd(vcpu))
		return KVM_MSR_UNKNOWN;
	*data = vcpu->arch->de_cfg;
	return 0;
}

int msr_set_de_cfg(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
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

int msr_get_osvw(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		    bool host)
{
	if (!guest_cpuid_bit(vcpu, 0x80000001, 0, CPUID_ECX, 9))
		return KVM_MSR_INVAL;
	return msr_get_stored(vcpu, row, msr, data, host);
}

int msr_set_osvw(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		    bool host)
{
	if (!guest_cpuid_bit(vcpu, 0x80000001, 0, CPUID_ECX, 9))
		return KVM_MSR_INVAL;
	return msr_set_stored(vcpu, row, msr, data, host);
}

int msr_get_mce(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		   bool host)
{
	return kvm_mce_get_msr(vcpu, msr, data, host);
}

int msr_set_mce(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		   bool host)
{
	return kvm_mce_set_msr(vcpu, msr, data, host);
}

int msr_get_mtrr(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		    bool host)
{
	return kvm_mtrr_get_msr(vcpu, msr, data);
}

int msr_set_mtrr(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		    bool host)
{
	return kvm_mtrr_set_msr(vcpu, msr, data);
}

int msr_get_pv_eoi(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		   bool host)
{
	*data = vcpu->apic ? kvm_lapic_get_pv_eoi(vcpu) : vcpu->arch->pv_eoi_msr;
	return guest_pv_has(vcpu, (int)row->value) ? 0 : KVM_MSR_UNKNOWN;
}

int msr_set_pv_eoi(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		   bool host)
{
	if (!guest_pv_has(vcpu, (int)row->value))
		return KVM_MSR_UNKNOWN;
	if (!kvm_pv_eoi_valid(vcpu, data))
		return KVM_MSR_INVAL;
	if (vcpu->apic)
		kvm_lapic_set_pv_eoi(vcpu, data);
	else /* the client's APIC gets every EOI: nothing follows from it */
		vcpu->arch->pv_eoi_msr = data;
	return 0;
}

static int clock_feature(uint32_t msr)
{
	return msr == MSR_KVM_WALL_CLOCK || msr == MSR_KVM_SYSTEM_TIME ? 0 : 3;
}

int msr_get_wall_clock(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			  uint64_t *data, bool host)
{
	if (!guest_pv_has(vcpu, clock_feature(msr)))
		return KVM_MSR_UNKNOWN;
	*data = vcpu->kvm->arch->wall_clock_msr;
	return 0;
}

int msr_get_system_time(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
			   uint64_t *data, bool host)
{
	if (!guest_pv_has(vcpu, clock_feature(msr)))
		return KVM_MSR_UNKNOWN;
	*data = vcpu->arch->pv_time_msr;
	return 0;
}

int msr_set_pvclock(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr,
		       uint64_t data, bool host)
{
	if (!guest_pv_has(vcpu, clock_feature(msr)))
		return KVM_MSR_UNKNOWN;
	return kvm_clock_set_msr(vcpu, msr, data);
}
