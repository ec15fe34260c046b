/*
 * What registers, MSRs, CPUID and clock of a vCPU are when it is made, and what
 * goes with it and with its VM.
 */

#include "lib/own.h"
#include "x86/msr_row.h"

void kvm_x86_state_init_vcpu(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_arch *a = vcpu->arch;

	a->maxphyaddr = 36; /* what a CPUID without leaf 80000008h means */
	a->pat = 0x0007040600070406ULL;
	a->arch_capabilities = kvm_supported_arch_capabilities();
	a->microcode_version = kvm_default_microcode();
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
	own_free(vcpu->arch->cpuid_entries);
	vcpu->arch->cpuid_entries = NULL;
	vcpu->arch->cpuid_nent = 0;
}
