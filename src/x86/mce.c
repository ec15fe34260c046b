/*
 * Machine-check banks: storage the guest can look at and the client can raise
 * errors in (KVM API: KVM_X86_SETUP_MCE, KVM_X86_SET_MCE; SDM Vol. 3,
 * "Machine-Check Architecture"). This machine never fails by itself.
 *
 * Locks: vcpu->mutex.
 */
#include "irq/irq.h"
#include "lib/error.h"
#include "x86/x86.h"

#define MCG_CTL_P BIT_ULL(8)
#define MCG_CMCI_P BIT_ULL(10)
#define MCG_STATUS_MCIP BIT_ULL(2)
#define MCI_STATUS_VAL BIT_ULL(63)
#define MCI_STATUS_OVER BIT_ULL(62)
#define MCI_STATUS_UC BIT_ULL(61)
#define MCI_STATUS_PCC BIT_ULL(57)
#define MCI_STATUS_S BIT_ULL(56)
#define MCI_STATUS_AR BIT_ULL(55)
#define MCI_CTL2_CMCI_EN BIT_ULL(30)
#define MCI_CTL2_VALID (MCI_CTL2_CMCI_EN | GENMASK_ULL(14, 0))
#define HWCR_MCSTATUS_WREN BIT_ULL(18)
#define MSR_MC0_CTL2 0x280

enum { BANK_CTL, BANK_STATUS, BANK_ADDR, BANK_MISC, BANK_REGS };

static uint32_t nr_banks(struct kvm_vcpu *vcpu)
{
	return vcpu->arch->mcg_cap & 0xff;
}

int kvm_vcpu_ioctl_x86_setup_mce(struct kvm_vcpu *vcpu, uint64_t mcg_cap)
{
	uint32_t banks = mcg_cap & 0xff;

	if (!banks || banks > KVM_MAX_MCE_BANKS)
		return err_born(EINVAL, "%u machine-check banks", banks);
	if (mcg_cap & ~(KVM_MCE_CAP_SUPPORTED | 0xff | 0xff0000))
		return err_born(EINVAL, "MCG_CAP %#lx", (unsigned long)mcg_cap);
	vcpu->arch->mcg_cap = mcg_cap;
	if (mcg_cap & MCG_CTL_P)
		vcpu->arch->mcg_ctl = ~0ULL;
	for (uint32_t i = 0; i < banks; i++) {
		vcpu->arch->mce_banks[i * BANK_REGS + BANK_CTL] = ~0ULL;
		if (mcg_cap & MCG_CMCI_P)
			vcpu->arch->mci_ctl2[i] = 0;
	}
	kvm_apic_set_cmci(vcpu, mcg_cap & MCG_CMCI_P);
	return 0;
}

/* Uncorrected, no action required: no exception (SDM "UCR Error Classification"). */
static bool is_ucna(const struct kvm_x86_mce *mce)
{
	return !mce->mcg_status && (mce->status & MCI_STATUS_UC) &&
	       !(mce->status & (MCI_STATUS_PCC | MCI_STATUS_S | MCI_STATUS_AR));
}

/* SDM "Corrected Machine Check Interrupt": each one reaches the threshold. */
static void signal_ucna(struct kvm_vcpu *vcpu, const struct kvm_x86_mce *mce, uint64_t *bank)
{
	bank[BANK_STATUS] = mce->status;
	bank[BANK_ADDR] = mce->addr;
	bank[BANK_MISC] = mce->misc;
	vcpu->arch->mcg_status = mce->mcg_status;
	if (vcpu->arch->mci_ctl2[mce->bank] & MCI_CTL2_CMCI_EN)
		kvm_apic_cmci(vcpu);
}

int kvm_vcpu_ioctl_x86_set_mce(struct kvm_vcpu *vcpu, const struct kvm_x86_mce *mce)
{
	uint64_t *bank, status = mce->status;

	if (mce->bank >= nr_banks(vcpu) || !(status & MCI_STATUS_VAL))
		return err_born(EINVAL, "machine check in bank %u, status %#lx", mce->bank,
				(unsigned long)status);
	bank = &vcpu->arch->mce_banks[mce->bank * BANK_REGS];
	if (is_ucna(mce)) {
		signal_ucna(vcpu, mce, bank);
		return 0;
	}
	if (status & MCI_STATUS_UC) {
		/* Reporting can be off, for all banks or for this one. */
		if ((vcpu->arch->mcg_cap & MCG_CTL_P) && vcpu->arch->mcg_ctl != ~0ULL)
			return 0;
		if (bank[BANK_CTL] != ~0ULL)
			return 0;
		if ((vcpu->arch->mcg_status & MCG_STATUS_MCIP) ||
		    !(vmx_get_cr4(vcpu) & X86_CR4_MCE)) {
			kvm_make_request(KVM_REQ_TRIPLE_FAULT, vcpu);
			return 0;
		}
	} else if ((bank[BANK_STATUS] & MCI_STATUS_VAL) && (bank[BANK_STATUS] & MCI_STATUS_UC)) {
		/* A corrected error does not overwrite an uncorrected one. */
		bank[BANK_STATUS] |= MCI_STATUS_OVER;
		return 0;
	}
	if (bank[BANK_STATUS] & MCI_STATUS_VAL)
		status |= MCI_STATUS_OVER;
	bank[BANK_ADDR] = mce->addr;
	bank[BANK_MISC] = mce->misc;
	bank[BANK_STATUS] = status;
	if (status & MCI_STATUS_UC) {
		vcpu->arch->mcg_status = mce->mcg_status;
		kvm_queue_exception(vcpu, X86_TRAP_MC);
	}
	return 0;
}

/* Where a bank MSR lives; NULL when the vCPU has no such bank. */
static uint64_t *bank_msr(struct kvm_vcpu *vcpu, uint32_t index)
{
	if (index >= MSR_IA32_MC0_CTL && index < MSR_IA32_MC0_CTL + BANK_REGS * nr_banks(vcpu))
		return &vcpu->arch->mce_banks[index - MSR_IA32_MC0_CTL];
	if (index >= MSR_MC0_CTL2 && index < MSR_MC0_CTL2 + nr_banks(vcpu))
		return &vcpu->arch->mci_ctl2[index - MSR_MC0_CTL2];
	return NULL;
}

int kvm_mce_get_msr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t *data, bool host_initiated)
{
	const uint64_t *p;

	switch (index) {
	case MSR_IA32_MCG_CAP:
		*data = vcpu->arch->mcg_cap;
		return 0;
	case MSR_IA32_MCG_STATUS:
		*data = vcpu->arch->mcg_status;
		return 0;
	case MSR_IA32_MCG_CTL:
		if (!(vcpu->arch->mcg_cap & MCG_CTL_P) && !host_initiated)
			return KVM_MSR_INVAL;
		*data = vcpu->arch->mcg_ctl;
		return 0;
	default:
		p = bank_msr(vcpu, index);
		if (!p)
			return KVM_MSR_INVAL;
		if (index < MSR_IA32_MC0_CTL && !(vcpu->arch->mcg_cap & MCG_CMCI_P) &&
		    !host_initiated)
			return KVM_MSR_INVAL;
		*data = *p;
		return 0;
	}
}

static bool bank_value_ok(struct kvm_vcpu *vcpu, uint32_t index, uint64_t data, bool host)
{
	if (index < MSR_IA32_MC0_CTL) {
		if (!(vcpu->arch->mcg_cap & MCG_CMCI_P) && (data || !host))
			return false;
		return !(data & ~MCI_CTL2_VALID);
	}
	switch ((index - MSR_IA32_MC0_CTL) % BANK_REGS) {
	case BANK_CTL:
		/* All or nothing; guests may leave out bit 10 (K8 errata) or 0. */
		return data == 0 || (data | BIT_ULL(10) | 1) == ~0ULL;
	case BANK_STATUS:
		return host || data == 0 ||
		       (guest_cpuid_is_amd(vcpu) && (vcpu->arch->hwcr & HWCR_MCSTATUS_WREN));
	default:
		return true;
	}
}

int kvm_mce_set_msr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t data, bool host_initiated)
{
	uint64_t *p;

	switch (index) {
	case MSR_IA32_MCG_STATUS:
		vcpu->arch->mcg_status = data;
		return 0;
	case MSR_IA32_MCG_CTL:
		if (!(vcpu->arch->mcg_cap & MCG_CTL_P) && (data || !host_initiated))
			return KVM_MSR_INVAL;
		if (data != 0 && data != ~0ULL)
			return KVM_MSR_INVAL;
		vcpu->arch->mcg_ctl = data;
		return 0;
	default:
		p = bank_msr(vcpu, index);
		if (!p || !bank_value_ok(vcpu, index, data, host_initiated))
			return KVM_MSR_INVAL;
		*p = data;
		return 0;
	}
}
