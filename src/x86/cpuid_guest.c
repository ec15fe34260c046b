/*
 * What a guest's CPUID says: single features, the vendor, and which bits of CR4 and EFER are reserved by it.
 *
 * Locks: vcpu->mutex.
 */
#include <string.h>

#include "x86/x86.h"

const struct kvm_cpuid_entry2 *kvm_find_cpuid_entry(struct kvm_vcpu *vcpu, uint32_t function,
						    uint32_t index)
{
	for (int i = 0; i < vcpu->arch->cpuid_nent; i++) {
		const struct kvm_cpuid_entry2 *e = &vcpu->arch->cpuid_entries[i];

		if (e->function == function &&
		    (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == index))
			return e;
	}
	return NULL;
}

static uint32_t entry_reg(const struct kvm_cpuid_entry2 *e, enum cpuid_reg reg)
{
	return reg == CPUID_EAX ? e->eax : reg == CPUID_EBX ? e->ebx : reg == CPUID_ECX ? e->ecx : e->edx;
}

bool guest_cpuid_bit(struct kvm_vcpu *vcpu, uint32_t function, uint32_t index, enum cpuid_reg reg,
		     int bit)
{
	const struct kvm_cpuid_entry2 *e = kvm_find_cpuid_entry(vcpu, function, index);

	return e && (entry_reg(e, reg) >> bit & 1);
}

/* First leaf of KVM's own in the guest's CPUID; 0: it has none. Beside Hyper-V's they are not the first. */
static uint32_t kvm_leaves(struct kvm_vcpu *vcpu)
{
	static const char signature[12] = "KVMKVMKVM\0\0\0";
	const uint32_t first = 0x40000000, end = 0x40010000, step = 0x100;

	for (uint32_t base = first; base < end; base += step) {
		const struct kvm_cpuid_entry2 *e = kvm_find_cpuid_entry(vcpu, base, 0);

		if (e && memcmp((const uint32_t[3]){ e->ebx, e->ecx, e->edx }, signature, 12) == 0)
			return base;
	}
	return 0;
}

bool guest_pv_has(struct kvm_vcpu *vcpu, int feature)
{
	uint32_t base;

	if (!vcpu->arch->pv_enforce_cpuid)
		return true;
	base = kvm_leaves(vcpu);
	return base && guest_cpuid_bit(vcpu, base + 1, 0, CPUID_EAX, feature);
}

bool guest_cpuid_is_amd(struct kvm_vcpu *vcpu)
{
	const struct kvm_cpuid_entry2 *e = kvm_find_cpuid_entry(vcpu, 0, 0);

	return e && kvm_cpuid_regs_are_amd((const uint32_t[4]){ e->eax, e->ebx, e->ecx, e->edx });
}

bool guest_cpuid_is_intel(struct kvm_vcpu *vcpu)
{
	const struct kvm_cpuid_entry2 *e = kvm_find_cpuid_entry(vcpu, 0, 0);

	return e && e->ebx == 0x756e6547 && e->edx == 0x49656e69 && e->ecx == 0x6c65746e;
}

bool guest_has_tsc_aux(struct kvm_vcpu *vcpu)
{
	return guest_cpuid_bit(vcpu, 0x80000001, 0, CPUID_EDX, 27) || /* RDTSCP */
	       guest_cpuid_bit(vcpu, 7, 0, CPUID_ECX, 22);	       /* RDPID */
}

/* --- control-register bits by CPUID --- */

static const struct cr4_feature {
	uint64_t bit;
	uint32_t function;
	enum cpuid_reg reg;
	int feature;
} cr4_features[] = {
	{ X86_CR4_OSXSAVE, 1, CPUID_ECX, 26 },	 { X86_CR4_SMEP, 7, CPUID_EBX, 7 },
	{ X86_CR4_SMAP, 7, CPUID_EBX, 20 },	 { X86_CR4_FSGSBASE, 7, CPUID_EBX, 0 },
	{ X86_CR4_PKE, 7, CPUID_ECX, 3 },	 { X86_CR4_LA57, 7, CPUID_ECX, 16 },
	{ X86_CR4_UMIP, 7, CPUID_ECX, 2 },	 { X86_CR4_VMXE, 1, CPUID_ECX, 5 },
	{ X86_CR4_PCIDE, 1, CPUID_ECX, 17 },
};

#define CR4_ALWAYS                                                                        \
	(X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE | \
	 X86_CR4_MCE | X86_CR4_PGE | X86_CR4_PCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT)

uint64_t kvm_cr4_guest_reserved_bits(struct kvm_vcpu *vcpu)
{
	uint64_t allowed = CR4_ALWAYS;

	/* A vCPU without any CPUID yet is bound by the processor alone. */
	if (!vcpu->arch->cpuid_nent)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(cr4_features); i++) {
		const struct cr4_feature *f = &cr4_features[i];

		if (guest_cpuid_bit(vcpu, f->function, 0, f->reg, f->feature))
			allowed |= f->bit;
	}
	return ~allowed;
}

uint64_t kvm_cr4_host_reserved_bits(void)
{
	static uint64_t cached; /* a constant, computed at most once a thread races */
	uint64_t allowed = CR4_ALWAYS, r = READ_ONCE(cached);

	if (r)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(cr4_features); i++) {
		const struct cr4_feature *f = &cr4_features[i];

		if (kvm_supported_cpuid(f->function, 0, f->reg) & BIT_ULL(f->feature))
			allowed |= f->bit;
	}
	WRITE_ONCE(cached, ~allowed);
	return ~allowed;
}

uint64_t kvm_efer_reserved_bits(struct kvm_vcpu *vcpu)
{
	uint64_t allowed = EFER_SCE;

	if (guest_cpuid_bit(vcpu, 0x80000001, 0, CPUID_EDX, 29))
		allowed |= EFER_LME | EFER_LMA;
	if (guest_cpuid_bit(vcpu, 0x80000001, 0, CPUID_EDX, 20))
		allowed |= EFER_NX;
	return ~allowed;
}

uint64_t kvm_efer_host_reserved_bits(void)
{
	return ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NX);
}
