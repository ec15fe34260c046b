/*
 * MSRs that live in the VMCS or in the processor, and the MSR bitmap (SDM
 * Vol. 3, "MSR-Bitmap Address": read-low, read-high, write-low, write-high,
 * 1 KiB each; a set bit exits).
 */
#include <string.h>

#include "vmx/internal.h"

#define BITMAP_READ_LOW 0
#define BITMAP_READ_HIGH 1024
#define BITMAP_WRITE_LOW 2048
#define BITMAP_WRITE_HIGH 3072

#define TSC_MULTIPLIER_FRAC_BITS 48
#define TSC_MULTIPLIER_ONE (1ULL << TSC_MULTIPLIER_FRAC_BITS)

/* MSRs the guest uses without an exit, as in KVM. */
static const uint32_t passthrough[] = {
	MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_STAR, MSR_LSTAR, MSR_CSTAR,
	MSR_SYSCALL_MASK, MSR_TSC_AUX, MSR_IA32_SYSENTER_CS, MSR_IA32_SYSENTER_ESP,
	MSR_IA32_SYSENTER_EIP,
};

static void set_bit(uint8_t *base, uint32_t nr, bool on)
{
	if (on)
		base[nr / 8] |= (uint8_t)(1U << (nr % 8));
	else
		base[nr / 8] &= (uint8_t)~(1U << (nr % 8));
}

void vmx_set_msr_intercept(struct kvm_vcpu *vcpu, uint32_t msr, bool read, bool write,
			   bool intercept)
{
	uint8_t *b = vcpu->vmx->vmcs01.msr_bitmap;
	bool high = msr >= 0xc0000000U;
	uint32_t nr = msr & 0x1fff;

	/* outside the two ranges every access exits */
	if ((msr & ~0xc0001fffU) || (!high && msr > 0x1fff))
		return;
	vcpu->vmx->nested.evmcs.bitmap_merged = false;
	if (read)
		set_bit(b + (high ? BITMAP_READ_HIGH : BITMAP_READ_LOW), nr, intercept);
	if (write)
		set_bit(b + (high ? BITMAP_WRITE_HIGH : BITMAP_WRITE_LOW), nr, intercept);
}

void vmx_init_msr_bitmap(struct kvm_vcpu *vcpu)
{
	memset(vcpu->vmx->vmcs01.msr_bitmap, 0xff, PAGE_SIZE);
	for (size_t i = 0; i < ARRAY_SIZE(passthrough); i++)
		vmx_set_msr_intercept(vcpu, passthrough[i], true, true, false);
	/* with offsetting and scaling in the VMCS a read gives the guest's value */
	vmx_set_msr_intercept(vcpu, MSR_IA32_TSC, true, false, false);
}

/* The VMCS field of an MSR, or 0. */
static uint32_t msr_field(uint32_t msr)
{
	switch (msr) {
	case MSR_FS_BASE: return GUEST_FS_BASE;
	case MSR_GS_BASE: return GUEST_GS_BASE;
	case MSR_IA32_SYSENTER_CS: return GUEST_SYSENTER_CS;
	case MSR_IA32_SYSENTER_ESP: return GUEST_SYSENTER_ESP;
	case MSR_IA32_SYSENTER_EIP: return GUEST_SYSENTER_EIP;
	case MSR_IA32_DEBUGCTLMSR: return GUEST_IA32_DEBUGCTL;
	case MSR_IA32_CR_PAT: return GUEST_IA32_PAT;
	default: return 0;
	}
}

static bool msr_in_processor(uint32_t msr)
{
	switch (msr) {
	case MSR_STAR:
	case MSR_LSTAR:
	case MSR_CSTAR:
	case MSR_SYSCALL_MASK:
	case MSR_KERNEL_GS_BASE:
	case MSR_TSC_AUX:
	case MSR_IA32_XSS:
		return true;
	default:
		return false;
	}
}

int vmx_get_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data)
{
	uint32_t field = msr_field(msr);

	if (msr == MSR_EFER) {
		*data = vmx_get_efer(vcpu);
		return 0;
	}
	if (field) {
		*data = vmcs_read64(vcpu, field);
		return 0;
	}
	if (msr_in_processor(msr))
		return vmx_rdmsr(vcpu->vmx->cpu, msr, data) ? 1 : 0;
	return 1;
}

int vmx_set_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data)
{
	uint32_t field = msr_field(msr);

	if (msr == MSR_EFER) {
		vmx_set_efer(vcpu, data);
		return 0;
	}
	if (field) {
		vmcs_write64(vcpu, field, data);
		return 0;
	}
	if (msr_in_processor(msr))
		return vmx_wrmsr(vcpu->vmx->cpu, msr, data) ? 1 : 0;
	return 1;
}

static uint64_t scale(uint64_t v, uint64_t multiplier)
{
	return (uint64_t)((unsigned __int128)v * multiplier >> TSC_MULTIPLIER_FRAC_BITS);
}

static uint64_t scale_signed(uint64_t v, uint64_t multiplier)
{
	return (int64_t)v < 0 ? -scale(-v, multiplier) : scale(v, multiplier);
}

/*
 * L2's TSC is L1's, scaled and offset once more: ((tsc * m1 + o1) * m2) + o2 =
 * tsc * (m1 * m2) + (o1 * m2 + o2). (Linux: kvm_calc_nested_tsc_offset, _multiplier.)
 */
void vmx_update_tsc(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	uint64_t offset = vmx->l1_tsc_offset, multiplier = vmx->l1_tsc_multiplier;

	if (vmx->head.guest_mode && nested_cpu_has(get_vmcs12(vcpu), CPU_BASED_USE_TSC_OFFSETTING)) {
		const struct vmcs12 *v = get_vmcs12(vcpu);
		uint64_t m2 = nested_cpu_has2(v, SECONDARY_EXEC_TSC_SCALING) ? v->tsc_multiplier
									     : TSC_MULTIPLIER_ONE;

		if (m2 != TSC_MULTIPLIER_ONE) {
			offset = scale_signed(offset, m2);
			multiplier = scale(multiplier, m2);
		}
		offset += v->tsc_offset;
	}
	vmcs_write64(vcpu, TSC_OFFSET, offset);
	if (vmx->loaded_vmcs->secondary & SECONDARY_EXEC_TSC_SCALING)
		vmcs_write64(vcpu, TSC_MULTIPLIER, multiplier);
}

void vmx_write_tsc_offset(struct kvm_vcpu *vcpu, uint64_t offset)
{
	vcpu->vmx->l1_tsc_offset = offset;
	vmx_update_tsc(vcpu);
}

void vmx_write_tsc_multiplier(struct kvm_vcpu *vcpu, uint64_t multiplier)
{
	vcpu->vmx->l1_tsc_multiplier = multiplier;
	vmx_update_tsc(vcpu);
}
