/*
 * KVM_GET_SREGS, KVM_SET_SREGS and their second form, which carries the
 * PDPTEs of PAE paging.
 *
 * Everything is checked before anything is changed: -EINVAL leaves the vCPU
 * as it was.
 *
 * Locks: vcpu->mutex.
 */
#include <string.h>

#include "lib/error.h"
#include "x86/x86.h"

#define CR0_ROLE_BITS (X86_CR0_PG | X86_CR0_WP)

/* The part both structures share, field by field in the same order. */
static_assert(offsetof(struct kvm_sregs, interrupt_bitmap) == offsetof(struct kvm_sregs2, flags),
	      "kvm_sregs2 begins as kvm_sregs");

static void get_common(struct kvm_vcpu *vcpu, struct kvm_sregs2 *s)
{
	vmx_get_segment(vcpu, &s->cs, SREG_CS);
	vmx_get_segment(vcpu, &s->ds, SREG_DS);
	vmx_get_segment(vcpu, &s->es, SREG_ES);
	vmx_get_segment(vcpu, &s->fs, SREG_FS);
	vmx_get_segment(vcpu, &s->gs, SREG_GS);
	vmx_get_segment(vcpu, &s->ss, SREG_SS);
	vmx_get_tr_ldt(vcpu, &s->tr, &s->ldt);
	vmx_get_gdt_idt(vcpu, &s->gdt, &s->idt);
	s->cr0 = vmx_get_cr0(vcpu);
	s->cr2 = vmx_get_cr2(vmx_processor(vcpu));
	s->cr3 = vmx_get_cr3(vcpu);
	s->cr4 = vmx_get_cr4(vcpu);
	s->cr8 = kvm_get_cr8(vcpu);
	s->efer = vmx_get_efer(vcpu);
	s->apic_base = vcpu->apic ? kvm_get_apic_base(vcpu) : vcpu->arch->apic_base;
}

static bool sregs_pae_paging(const struct kvm_sregs2 *s)
{
	return (s->cr0 & X86_CR0_PG) && (s->cr4 & X86_CR4_PAE) && !(s->efer & EFER_LMA);
}

int kvm_vcpu_ioctl_get_sregs(struct kvm_vcpu *vcpu, struct kvm_sregs *s)
{
	struct kvm_sregs2 s2 = { 0 };

	get_common(vcpu, &s2);
	memset(s, 0, sizeof(*s));
	memcpy(s, &s2, offsetof(struct kvm_sregs, interrupt_bitmap));
	if (vcpu->arch->interrupt.injected && !vcpu->arch->interrupt.soft)
		s->interrupt_bitmap[vcpu->arch->interrupt.nr / 64] |=
			BIT_ULL(vcpu->arch->interrupt.nr % 64);
	return 0;
}

int kvm_vcpu_ioctl_get_sregs2(struct kvm_vcpu *vcpu, struct kvm_sregs2 *s)
{
	uint64_t pdptrs[4];

	memset(s, 0, sizeof(*s));
	get_common(vcpu, s);
	if (sregs_pae_paging(s)) {
		vmx_get_pdptrs(vcpu, pdptrs);
		memcpy(s->pdptrs, pdptrs, sizeof(pdptrs));
		s->flags |= KVM_SREGS2_FLAGS_PDPTRS_VALID;
	}
	return 0;
}

static bool sregs_valid(struct kvm_vcpu *vcpu, const struct kvm_sregs2 *s)
{
	uint64_t cr4_reserved = kvm_cr4_host_reserved_bits() | kvm_cr4_guest_reserved_bits(vcpu);

	if ((s->efer & EFER_LME) && (s->cr0 & X86_CR0_PG)) {
		/* Long mode, whole: LMA and PAE with it. */
		if (!(s->cr4 & X86_CR4_PAE) || !(s->efer & EFER_LMA))
			return false;
		if (s->cr3 & ~GENMASK_ULL(vcpu->arch->maxphyaddr - 1, 0))
			return false;
	} else if ((s->efer & EFER_LMA) || s->cs.l) {
		return false;
	}
	if (s->cr0 >> 32 || ((s->cr0 & X86_CR0_NW) && !(s->cr0 & X86_CR0_CD)) ||
	    ((s->cr0 & X86_CR0_PG) && !(s->cr0 & X86_CR0_PE)))
		return false;
	return !(s->cr4 & cr4_reserved) && vmx_is_valid_cr0(vcpu, s->cr0) && vmx_is_valid_cr4(vcpu, s->cr4);
}

static int set_apic_base(struct kvm_vcpu *vcpu, uint64_t base)
{
	if (vcpu->apic ? kvm_set_apic_base(vcpu, base, true) : !kvm_apic_base_valid(vcpu, base))
		return err_born(EINVAL, "APIC base %#lx", (unsigned long)base);
	if (!vcpu->apic)
		vcpu->arch->apic_base = base;
	return 0;
}

static void set_segments(struct kvm_vcpu *vcpu, const struct kvm_sregs2 *s)
{
	vmx_set_segment(vcpu, &s->cs, SREG_CS);
	vmx_set_segment(vcpu, &s->ds, SREG_DS);
	vmx_set_segment(vcpu, &s->es, SREG_ES);
	vmx_set_segment(vcpu, &s->fs, SREG_FS);
	vmx_set_segment(vcpu, &s->gs, SREG_GS);
	vmx_set_segment(vcpu, &s->ss, SREG_SS);
	vmx_set_tr_ldt(vcpu, &s->tr, &s->ldt);
	vmx_set_gdt_idt(vcpu, &s->gdt, &s->idt);
}

/* A boot processor put at the reset vector by a client that sets no MP state. */
static void run_boot_processor(struct kvm_vcpu *vcpu, const struct kvm_sregs2 *s)
{
	if (vcpu->vcpu_id == vcpu->kvm->arch->bsp_vcpu_id && vmx_get_rip(vcpu) == 0xfff0 &&
	    s->cs.selector == 0xf000 && s->cs.base == 0xffff0000 && !(s->cr0 & X86_CR0_PE))
		WRITE_ONCE(vcpu->arch->mp_state, KVM_MP_STATE_RUNNABLE);
}

/* pdptrs: NULL to load them from memory where PAE paging is on. */
static int set_common(struct kvm_vcpu *vcpu, const struct kvm_sregs2 *s, const uint64_t *pdptrs)
{
	bool reset;
	int r;

	if (!sregs_valid(vcpu, s))
		return err_born(EINVAL, "cr0 %#llx cr3 %#llx cr4 %#llx efer %#llx do not go together",
				s->cr0, s->cr3, s->cr4, s->efer);
	if (s->efer & kvm_efer_host_reserved_bits())
		return err_born(EINVAL, "EFER %#llx", s->efer);
	r = set_apic_base(vcpu, s->apic_base);
	if (r)
		return r;
	reset = ((vmx_get_cr0(vcpu) ^ s->cr0) & CR0_ROLE_BITS) || vmx_get_cr4(vcpu) != s->cr4 ||
		vmx_get_efer(vcpu) != s->efer || vmx_get_cr3(vcpu) != s->cr3;
	vmx_set_cr2(vmx_processor(vcpu), s->cr2);
	if (kvm_set_cr8(vcpu, s->cr8 & 15))
		return err_born(EINVAL, "CR8 %#llx", s->cr8);
	vmx_set_efer(vcpu, s->efer);
	vmx_set_cr0(vcpu, s->cr0 | X86_CR0_ET);
	vmx_set_cr4(vcpu, s->cr4);
	vmx_set_guest_cr3(vcpu, s->cr3);
	set_segments(vcpu, s);
	if (sregs_pae_paging(s)) {
		if (pdptrs)
			vmx_set_pdptrs(vcpu, pdptrs);
		else if (!kvm_load_pdptrs(vcpu, s->cr3))
			reset = true; /* as Linux: the guest will find out at its next load */
	}
	if (reset)
		kvm_mmu_reset_context(vcpu);
	else
		kvm_mmu_invalidate_pcid(vcpu, true, 0);
	vmx_flush_tlb_guest(vcpu);
	run_boot_processor(vcpu, s);
	kvm_make_request(KVM_REQ_EVENT, vcpu);
	return 0;
}

/* The highest vector set in the bitmap is an interrupt on its way. */
static void set_interrupt_bitmap(struct kvm_vcpu *vcpu, const struct kvm_sregs *s)
{
	for (int i = 3; i >= 0; i--) {
		if (!s->interrupt_bitmap[i])
			continue;
		vcpu->arch->interrupt.injected = true;
		vcpu->arch->interrupt.soft = false;
		vcpu->arch->interrupt.nr =
			(uint8_t)(i * 64 + 63 - __builtin_clzll(s->interrupt_bitmap[i]));
		kvm_make_request(KVM_REQ_EVENT, vcpu);
		return;
	}
}

int kvm_vcpu_ioctl_set_sregs(struct kvm_vcpu *vcpu, const struct kvm_sregs *s)
{
	struct kvm_sregs2 s2 = { 0 };
	int r;

	memcpy(&s2, s, offsetof(struct kvm_sregs, interrupt_bitmap));
	r = set_common(vcpu, &s2, NULL);
	if (r == 0)
		set_interrupt_bitmap(vcpu, s);
	return r;
}

int kvm_vcpu_ioctl_set_sregs2(struct kvm_vcpu *vcpu, const struct kvm_sregs2 *s)
{
	bool valid = s->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID;
	uint64_t pdptrs[4];

	if (s->flags & ~(uint64_t)KVM_SREGS2_FLAGS_PDPTRS_VALID)
		return err_born(EINVAL, "sregs2 flags %#llx", s->flags);
	if (valid && !sregs_pae_paging(s))
		return err_born(EINVAL, "PDPTEs without PAE paging");
	memcpy(pdptrs, s->pdptrs, sizeof(pdptrs));
	return set_common(vcpu, s, valid ? pdptrs : NULL);
}
