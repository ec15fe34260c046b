/*
 * Memory-type range registers and PAT (SDM Vol. 3, "Memory Type Range
 * Registers (MTRRs)"). They are kept and checked; guest memory is write-back
 * whatever they say, as on a KVM without non-coherent DMA.
 *
 * Locks: vcpu->mutex.
 */
#include "x86/x86.h"

#define MTRR_CAP_VALUE (BIT_ULL(10) /* WC */ | BIT_ULL(8) /* fixed */ | NR_VAR)
#define NR_VAR 8
#define DEFTYPE_VALID (BIT_ULL(11) | BIT_ULL(10) | 0xff)

static bool mtrr_type_ok(uint8_t t)
{
	return t < 8 && (1 << t & 0x73); /* UC WC WT WP WB */
}

bool kvm_pat_valid(uint64_t pat)
{
	for (int i = 0; i < 8; i++, pat >>= 8)
		if ((pat & 0xff) > 7 || !(1 << (pat & 0xff) & 0xf3)) /* and UC- */
			return false;
	return true;
}

/* Position among the fixed-range registers, -1 none. */
static int fixed_index(uint32_t index)
{
	if (index == MSR_MTRRfix64K_00000)
		return 0;
	if (index == MSR_MTRRfix16K_80000 || index == MSR_MTRRfix16K_A0000)
		return 1 + (int)(index - MSR_MTRRfix16K_80000);
	if (index >= MSR_MTRRfix4K_C0000 && index < MSR_MTRRfix4K_C0000 + 8)
		return 3 + (int)(index - MSR_MTRRfix4K_C0000);
	return -1;
}

static uint64_t *mtrr_slot(struct kvm_vcpu *vcpu, uint32_t index)
{
	int f = fixed_index(index);

	if (f >= 0)
		return &vcpu->arch->mtrr_fixed[f];
	if (index >= MSR_MTRRphysBase0 && index < MSR_MTRRphysBase0 + 2 * NR_VAR)
		return &vcpu->arch->mtrr_var[index - MSR_MTRRphysBase0];
	if (index == MSR_MTRRdefType)
		return &vcpu->arch->mtrr_deftype;
	return NULL;
}

static bool mtrr_valid(struct kvm_vcpu *vcpu, uint32_t index, uint64_t data)
{
	uint64_t reserved = ~GENMASK_ULL(vcpu->arch->maxphyaddr - 1, 0);

	if (fixed_index(index) >= 0) {
		for (int i = 0; i < 8; i++)
			if (!mtrr_type_ok((uint8_t)(data >> i * 8)))
				return false;
		return true;
	}
	if (index == MSR_MTRRdefType)
		return !(data & ~DEFTYPE_VALID) && mtrr_type_ok((uint8_t)data);
	if (index & 1) /* PHYSMASK: valid bit 11 */
		return !(data & (reserved | 0x7ff));
	return !(data & (reserved | 0xf00)) && mtrr_type_ok((uint8_t)data);
}

int kvm_mtrr_get_msr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t *data)
{
	const uint64_t *p;

	if (index == MSR_MTRRcap) {
		*data = MTRR_CAP_VALUE;
		return 0;
	}
	p = mtrr_slot(vcpu, index);
	if (!p)
		return KVM_MSR_INVAL;
	*data = *p;
	return 0;
}

int kvm_mtrr_set_msr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t data)
{
	uint64_t *p = mtrr_slot(vcpu, index);

	if (!p || !mtrr_valid(vcpu, index, data))
		return KVM_MSR_INVAL;
	*p = data;
	return 0;
}
