/*
 * A guest's CPUID: what the client chose (KVM_SET_CPUID2), what the guest's
 * CPUID instruction answers, and what of CR4 and EFER follows from it. What is
 * offered to choose from is cpuid_supported.c's.
 *
 * Invariant: arch->cpuid_entries is what the client gave. Bits that follow the
 * guest's state (OSXSAVE, APIC, OSPKE, XSAVE sizes, MWAIT) are put in at every
 * look-up, so nothing can be stale.
 *
 * Locks: vcpu->mutex.
 */
#include <string.h>

#include "lib/error.h"
#include "lib/own.h"
#include "trace/trace.h"
#include "x86/x86.h"

#define F(n) (1u << (n))

/* --- KVM_SET_CPUID2 --- */

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

static uint32_t with_bit(uint32_t reg, int bit, bool set)
{
	return set ? reg | F(bit) : reg & ~F(bit);
}

/* The bits that follow the guest's state (see above). */
static void apply_runtime(struct kvm_vcpu *vcpu, struct kvm_cpuid_entry2 *e)
{
	struct kvm_vcpu_arch *a = vcpu->arch;

	if (e->function == 1) {
		uint64_t apic_base = vcpu->apic ? kvm_get_apic_base(vcpu) : a->apic_base;

		if (e->ecx & F(26))
			e->ecx = with_bit(e->ecx, 27, vmx_get_cr4(vcpu) & X86_CR4_OSXSAVE);
		e->edx = with_bit(e->edx, 9, apic_base & BIT_ULL(11));
		/* By the quirk MWAIT is what CPUID was told, whatever MISC_ENABLE says. */
		if (vcpu->kvm->arch->disabled_quirks & KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT)
			e->ecx = with_bit(e->ecx, 3, a->ia32_misc_enable & BIT_ULL(18));
	} else if (e->function == KVM_CPUID_FEATURES && (vcpu->kvm->arch->disabled_exits & KVM_X86_DISABLE_EXITS_HLT)) {
		/* nobody is told that a vCPU halts: KVM_HC_KICK_CPU would find none */
		e->eax = with_bit(e->eax, KVM_FEATURE_PV_UNHALT, false);
	} else if (e->function == 7 && e->index == 0 && (e->ecx & F(3))) {
		e->ecx = with_bit(e->ecx, 4, vmx_get_cr4(vcpu) & X86_CR4_PKE);
	} else if (e->function == 0xd && e->index == 0) {
		e->ebx = kvm_xstate_size(a->xcr0, false);
	} else if (e->function == 0xd && e->index == 1 && (e->eax & (F(1) | F(3)))) {
		e->ebx = kvm_xstate_size(a->xcr0 | a->ia32_xss, true);
	}
}

/* CPUID may be set again after KVM_RUN only to what it is already. */
static int check_equal(struct kvm_vcpu *vcpu, const struct kvm_cpuid_entry2 *e, uint32_t nent)
{
	if ((int)nent != vcpu->arch->cpuid_nent)
		return err_born(EINVAL, "CPUID changed after KVM_RUN");
	for (uint32_t i = 0; i < nent; i++) {
		struct kvm_cpuid_entry2 a = e[i], b = vcpu->arch->cpuid_entries[i];

		apply_runtime(vcpu, &a);
		apply_runtime(vcpu, &b);
		if (a.function != b.function || a.index != b.index || a.flags != b.flags ||
		    a.eax != b.eax || a.ebx != b.ebx || a.ecx != b.ecx || a.edx != b.edx)
			return err_born(EINVAL, "CPUID leaf %#x changed after KVM_RUN", a.function);
	}
	return 0;
}

static const struct kvm_cpuid_entry2 *find_in(const struct kvm_cpuid_entry2 *e, uint32_t nent,
					      uint32_t function)
{
	for (uint32_t i = 0; i < nent; i++)
		if (e[i].function == function)
			return &e[i];
	return NULL;
}

bool guest_has_tsc_aux(struct kvm_vcpu *vcpu)
{
	return guest_cpuid_bit(vcpu, 0x80000001, 0, CPUID_EDX, 27) || /* RDTSCP */
	       guest_cpuid_bit(vcpu, 7, 0, CPUID_ECX, 22);	       /* RDPID */
}

static void offer_insns(struct kvm_vcpu *vcpu)
{
	vmx_offer_insns(vcpu, (struct vmx_offered_insns){
		.rdtscp = guest_has_tsc_aux(vcpu),
		.invpcid = guest_cpuid_bit(vcpu, 7, 0, CPUID_EBX, 10),
		.xsaves = guest_cpuid_bit(vcpu, 1, 0, CPUID_ECX, 26) && guest_cpuid_bit(vcpu, 0xd, 1, CPUID_EAX, 3),
		.rdrand = guest_cpuid_bit(vcpu, 1, 0, CPUID_ECX, 30),
		.rdseed = guest_cpuid_bit(vcpu, 7, 0, CPUID_EBX, 18),
	});
}

static void after_set_cpuid(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_arch *a = vcpu->arch;
	const struct kvm_cpuid_entry2 *e;

	e = kvm_find_cpuid_entry(vcpu, 0x80000000, 0);
	if (e && e->eax >= 0x80000008)
		e = kvm_find_cpuid_entry(vcpu, 0x80000008, 0);
	else
		e = NULL;
	/* Masks are made of it: no less than 32-bit paging has, no more than the processor. */
	a->maxphyaddr = e ? (int)(e->eax & 0xff) : 36;
	a->maxphyaddr = a->maxphyaddr < 32 ? 32 : a->maxphyaddr > 52 ? 52 : a->maxphyaddr;
	vmx_set_maxphyaddr(vcpu, a->maxphyaddr);
	if (kvm_find_cpuid_entry(vcpu, 0, 0))
		vmx_set_vendor(vcpu, guest_cpuid_is_amd(vcpu));
	kvm_apic_after_set_cpuid(vcpu);
	e = kvm_find_cpuid_entry(vcpu, 0xd, 0);
	a->guest_supported_xcr0 =
		e ? (e->eax | (uint64_t)e->edx << 32) & kvm_supported_xcr0() : 0;
	kvm_hyperv_ops->set_cpuid(vcpu);
	kvm_msr_update_intercepts(vcpu);
	offer_insns(vcpu);
	/* enabled since the vCPU was made: the VM-execution controls follow here, as KVM's do */
	if (vcpu->kvm->arch->bus_lock_detection_enabled)
		vmx_detect_bus_locks(vcpu);
	kvm_mmu_reset_context(vcpu);
}

/* Takes entries over when it succeeds. */
static int set_cpuid(struct kvm_vcpu *vcpu, struct kvm_cpuid_entry2 *entries, uint32_t nent)
{
	const struct kvm_cpuid_entry2 *e = find_in(entries, nent, 0x80000008);
	uint32_t virt_bits = e ? (e->eax >> 8) & 0xff : 0;
	int r;

	if (virt_bits != 0 && virt_bits != 48 && virt_bits != 57)
		return err_born(EINVAL, "%u linear-address bits", virt_bits);
	if (vcpu->arch->has_run) {
		r = check_equal(vcpu, entries, nent);
		if (r == 0)
			own_free(entries);
		return r;
	}
	own_free(vcpu->arch->cpuid_entries);
	vcpu->arch->cpuid_entries = entries;
	vcpu->arch->cpuid_nent = (int)nent;
	after_set_cpuid(vcpu);
	return 0;
}

int kvm_vcpu_ioctl_set_cpuid2(struct kvm_vcpu *vcpu, const struct kvm_cpuid_entry2 *e, uint32_t nent)
{
	struct kvm_cpuid_entry2 *copy;
	int r;

	if (nent > KVM_MAX_CPUID_ENTRIES)
		return err_born(E2BIG, "%u CPUID entries", nent);
	copy = own_calloc(nent ? nent : 1, sizeof(*copy));
	if (!copy)
		return err_born(ENOMEM, "CPUID entries");
	if (nent)
		memcpy(copy, e, nent * sizeof(*copy));
	r = set_cpuid(vcpu, copy, nent);
	if (r)
		own_free(copy);
	return r;
}

int kvm_vcpu_ioctl_set_cpuid(struct kvm_vcpu *vcpu, const struct kvm_cpuid_entry *e, uint32_t nent)
{
	struct kvm_cpuid_entry2 *wide = NULL;
	int r;

	if (nent <= KVM_MAX_CPUID_ENTRIES) {
		wide = own_calloc(nent ? nent : 1, sizeof(*wide));
		if (!wide)
			return err_born(ENOMEM, "CPUID entries");
	}
	for (uint32_t i = 0; wide && i < nent; i++)
		wide[i] = (struct kvm_cpuid_entry2){
			.function = e[i].function,
			.eax = e[i].eax,
			.ebx = e[i].ebx,
			.ecx = e[i].ecx,
			.edx = e[i].edx,
		};
	r = kvm_vcpu_ioctl_set_cpuid2(vcpu, wide, nent);
	own_free(wide);
	return r;
}

int kvm_vcpu_ioctl_get_cpuid2(struct kvm_vcpu *vcpu, struct kvm_cpuid_entry2 *e, uint32_t *nent)
{
	uint32_t have = (uint32_t)vcpu->arch->cpuid_nent, room = *nent;

	*nent = have;
	if (room < have)
		return err_born(E2BIG, "%u CPUID entries, room for %u", have, room);
	for (uint32_t i = 0; i < have; i++) {
		e[i] = vcpu->arch->cpuid_entries[i];
		apply_runtime(vcpu, &e[i]);
	}
	return 0;
}

/* --- the CPUID instruction --- */

/*
 * Intel answers a basic leaf above the maximum with the highest basic leaf;
 * the hypervisor's and the extended leaves are classes of their own.
 */
static const struct kvm_cpuid_entry2 *out_of_range(struct kvm_vcpu *vcpu, uint32_t *function,
						   uint32_t index)
{
	const struct kvm_cpuid_entry2 *basic = kvm_find_cpuid_entry(vcpu, 0, 0), *class;

	if (!basic || guest_cpuid_is_amd(vcpu))
		return NULL;
	if (*function >= 0x40000000 && *function <= 0x4fffffff)
		class = kvm_find_cpuid_entry(vcpu, *function & 0xffffff00, 0);
	else if (*function >= 0xc0000000)
		class = kvm_find_cpuid_entry(vcpu, 0xc0000000, 0);
	else
		class = kvm_find_cpuid_entry(vcpu, *function & 0x80000000, 0);
	if (class && *function <= class->eax)
		return NULL;
	*function = basic->eax;
	return kvm_find_cpuid_entry(vcpu, basic->eax, index);
}

void kvm_cpuid(struct kvm_vcpu *vcpu, uint32_t *eax, uint32_t *ebx, uint32_t *ecx, uint32_t *edx)
{
	uint32_t function = *eax, index = *ecx;
	const struct kvm_cpuid_entry2 *e = kvm_find_cpuid_entry(vcpu, function, index), *next;
	struct kvm_cpuid_entry2 copy = { 0 };

	if (!e)
		e = out_of_range(vcpu, &function, index);
	if (e) {
		copy = *e;
		apply_runtime(vcpu, &copy);
	} else if (function == 0xb || function == 0x1f) {
		/* Beyond the last topology level: the level asked for and the x2APIC id. */
		next = kvm_find_cpuid_entry(vcpu, function, 1);
		if (next) {
			copy.ecx = index & 0xff;
			copy.edx = next->edx;
		}
	}
	*eax = copy.eax;
	*ebx = copy.ebx;
	*ecx = copy.ecx;
	*edx = copy.edx;
}

int kvm_emulate_cpuid(struct kvm_vcpu *vcpu)
{
	uint64_t *regs = vmx_regs(vcpu);
	uint32_t eax = (uint32_t)regs[RAX], ecx = (uint32_t)regs[RCX], ebx, edx;

	if ((vcpu->arch->misc_features & MISC_FEATURES_CPUID_FAULT) && vmx_get_cpl(vcpu) > 0 && !vcpu->arch->smm) {
		kvm_inject_gp(vcpu, 0);
		return 1;
	}
	kvm_cpuid(vcpu, &eax, &ebx, &ecx, &edx);
	TRACE(kvm, kvm_cpuid, (uint32_t)regs[RAX], (uint32_t)regs[RCX], eax, ebx, ecx, edx,
	      kvm_find_cpuid_entry(vcpu, (uint32_t)regs[RAX], (uint32_t)regs[RCX]) != NULL, false);
	regs[RAX] = eax;
	regs[RBX] = ebx;
	regs[RCX] = ecx;
	regs[RDX] = edx;
	vmx_skip_emulated_instruction(vcpu);
	return 1;
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

		if (kvm_supported_cpuid(f->function, 0, f->reg) & F(f->feature))
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
