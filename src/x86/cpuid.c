/*
 * A guest's CPUID: what the client chooses (KVM_SET_CPUID2) and what the guest's CPUID instruction answers. What
 * is offered to choose from is cpuid_supported.c's, what it means for the vCPU cpuid_guest.c's.
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
