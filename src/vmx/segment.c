/*
 * Segment registers between KVM's form (struct kvm_segment) and the VMCS's
 * (selector, base, limit, access rights; SDM Vol. 3, "Guest Register State").
 *
 * The fields of ES CS SS DS FS GS LDTR TR follow one another by two in every
 * group, in this order, so that a number stands for a register.
 */
#include <string.h>

#include "vmx/internal.h"

#define VMCS_SEG_LDTR 6
#define VMCS_SEG_TR 7
#define SEG_FIELD(group, nr) ((uint32_t)(GUEST_ES_##group) + 2U * (uint32_t)(nr))

static_assert(SEG_FIELD(SELECTOR, VMCS_SEG_TR) == GUEST_TR_SELECTOR, "VMCS order");
static_assert(SEG_FIELD(BASE, VMCS_SEG_LDTR) == GUEST_LDTR_BASE, "VMCS order");
static_assert(SEG_FIELD(LIMIT, SREG_GS) == GUEST_GS_LIMIT, "VMCS order");
static_assert(SEG_FIELD(AR_BYTES, SREG_SS) == GUEST_SS_AR_BYTES, "VMCS order");

uint32_t vmx_segment_access_rights(const struct kvm_segment *s)
{
	uint64_t ar = FIELD_PREP(VMX_AR_TYPE_MASK, s->type) | FIELD_PREP(VMX_AR_S, s->s) |
		      FIELD_PREP(VMX_AR_DPL_MASK, s->dpl) | FIELD_PREP(VMX_AR_P, s->present) |
		      FIELD_PREP(VMX_AR_AVL, s->avl) | FIELD_PREP(VMX_AR_L, s->l) |
		      FIELD_PREP(VMX_AR_DB, s->db) | FIELD_PREP(VMX_AR_G, s->g);

	if (s->unusable || !s->present)
		ar |= VMX_AR_UNUSABLE;
	return (uint32_t)ar;
}

void vmx_segment_set_access_rights(struct kvm_segment *s, uint32_t ar)
{
	s->unusable = !!(ar & VMX_AR_UNUSABLE);
	s->type = (uint8_t)FIELD_GET(VMX_AR_TYPE_MASK, ar);
	s->s = !!(ar & VMX_AR_S);
	s->dpl = (uint8_t)FIELD_GET(VMX_AR_DPL_MASK, ar);
	/* an unusable segment is reported as not present, as KVM does */
	s->present = !s->unusable;
	s->avl = !!(ar & VMX_AR_AVL);
	s->l = !!(ar & VMX_AR_L);
	s->db = !!(ar & VMX_AR_DB);
	s->g = !!(ar & VMX_AR_G);
}

static void read_segment(struct kvm_vcpu *vcpu, struct kvm_segment *s, unsigned nr)
{
	memset(s, 0, sizeof(*s));
	s->base = vmcs_readl(vcpu, SEG_FIELD(BASE, nr));
	s->limit = vmcs_read32(vcpu, SEG_FIELD(LIMIT, nr));
	s->selector = vmcs_read16(vcpu, SEG_FIELD(SELECTOR, nr));
	vmx_segment_set_access_rights(s, vmcs_read32(vcpu, SEG_FIELD(AR_BYTES, nr)));
}

static void write_segment(struct kvm_vcpu *vcpu, const struct kvm_segment *s, unsigned nr)
{
	uint32_t ar = vmx_segment_access_rights(s);

	vcpu->vmx->state_unchecked = true;
	/*
	 * VM entry wants usable segments accessed; clients often leave the bit
	 * clear. LDTR's type is fixed, its bit 0 means something else.
	 */
	if (nr != VMCS_SEG_LDTR && !(ar & VMX_AR_UNUSABLE))
		ar |= VMX_AR_TYPE_ACCESSED;
	vmcs_writel(vcpu, SEG_FIELD(BASE, nr), s->base);
	vmcs_write32(vcpu, SEG_FIELD(LIMIT, nr), s->limit);
	vmcs_write16(vcpu, SEG_FIELD(SELECTOR, nr), s->selector);
	vmcs_write32(vcpu, SEG_FIELD(AR_BYTES, nr), ar);
}

void vmx_get_segment(struct kvm_vcpu *vcpu, struct kvm_segment *s, enum sreg nr)
{
	read_segment(vcpu, s, (unsigned)nr);
}

/* `nr` is a constant wherever this comes to: then so is where a field stands. */
static inline __attribute__((always_inline)) void read_raw(struct kvm_vcpu *vcpu, struct vmx_raw_segment *s, unsigned nr)
{
	s->base = vmcs_readl(vcpu, SEG_FIELD(BASE, nr));
	s->limit = vmcs_read32(vcpu, SEG_FIELD(LIMIT, nr));
	s->selector = vmcs_read16(vcpu, SEG_FIELD(SELECTOR, nr));
	s->ar = vmcs_read32(vcpu, SEG_FIELD(AR_BYTES, nr));
}

void vmx_get_raw_segments(struct kvm_vcpu *vcpu, struct vmx_raw_segment s[NR_SREGS])
{
	read_raw(vcpu, &s[SREG_ES], SREG_ES);
	read_raw(vcpu, &s[SREG_CS], SREG_CS);
	read_raw(vcpu, &s[SREG_SS], SREG_SS);
	read_raw(vcpu, &s[SREG_DS], SREG_DS);
	read_raw(vcpu, &s[SREG_FS], SREG_FS);
	read_raw(vcpu, &s[SREG_GS], SREG_GS);
}

uint64_t vmx_get_cs_base(struct kvm_vcpu *vcpu)
{
	return vmcs_readl(vcpu, GUEST_CS_BASE);
}

void vmx_set_segment(struct kvm_vcpu *vcpu, const struct kvm_segment *s, enum sreg nr)
{
	write_segment(vcpu, s, (unsigned)nr);
}

void vmx_get_tr_ldt(struct kvm_vcpu *vcpu, struct kvm_segment *tr, struct kvm_segment *ldt)
{
	read_segment(vcpu, tr, VMCS_SEG_TR);
	read_segment(vcpu, ldt, VMCS_SEG_LDTR);
}

void vmx_set_tr_ldt(struct kvm_vcpu *vcpu, const struct kvm_segment *tr,
		    const struct kvm_segment *ldt)
{
	struct kvm_segment busy = *tr;

	/* in the VMCS the running task's TSS is always busy */
	busy.type |= 2;
	write_segment(vcpu, &busy, VMCS_SEG_TR);
	write_segment(vcpu, ldt, VMCS_SEG_LDTR);
}

void vmx_get_gdt_idt(struct kvm_vcpu *vcpu, struct kvm_dtable *gdt, struct kvm_dtable *idt)
{
	memset(gdt, 0, sizeof(*gdt));
	memset(idt, 0, sizeof(*idt));
	gdt->base = vmcs_readl(vcpu, GUEST_GDTR_BASE);
	gdt->limit = vmcs_read16(vcpu, GUEST_GDTR_LIMIT);
	idt->base = vmcs_readl(vcpu, GUEST_IDTR_BASE);
	idt->limit = vmcs_read16(vcpu, GUEST_IDTR_LIMIT);
}

void vmx_set_gdt_idt(struct kvm_vcpu *vcpu, const struct kvm_dtable *gdt,
		     const struct kvm_dtable *idt)
{
	vmcs_writel(vcpu, GUEST_GDTR_BASE, gdt->base);
	vmcs_write32(vcpu, GUEST_GDTR_LIMIT, gdt->limit);
	vmcs_writel(vcpu, GUEST_IDTR_BASE, idt->base);
	vmcs_write32(vcpu, GUEST_IDTR_LIMIT, idt->limit);
}

int vmx_get_cpl(struct kvm_vcpu *vcpu)
{
	return (int)FIELD_GET(VMX_AR_DPL_MASK, vmcs_read32(vcpu, GUEST_SS_AR_BYTES));
}

bool vmx_is_64bit_code(struct kvm_vcpu *vcpu)
{
	return (vmx_get_efer(vcpu) & EFER_LMA) &&
	       (vmcs_read32(vcpu, GUEST_CS_AR_BYTES) & VMX_AR_L);
}

/* --- may the processor run this? (SDM "Checks on Guest Segment Registers") --- */

static bool code_segment_valid(const struct kvm_segment *cs, const struct kvm_segment *ss)
{
	if (cs->unusable || !cs->s || !cs->present || !(cs->type & 8))
		return false;
	/* conforming code runs at the caller's level, other code at its own */
	return cs->type & 4 ? cs->dpl <= ss->dpl : cs->dpl == ss->dpl;
}

static bool stack_segment_valid(const struct kvm_segment *ss, const struct kvm_segment *cs)
{
	if ((ss->selector & 3) != (cs->selector & 3) || ss->dpl != (ss->selector & 3))
		return false;
	return ss->unusable || (ss->s && ss->present && (ss->type == 3 || ss->type == 7));
}

static bool data_segment_valid(const struct kvm_segment *s)
{
	if (s->unusable)
		return true;
	if (!s->s || !s->present || (s->type & 0xa) == 8)
		return false;
	return s->type >= 12 || s->dpl >= (s->selector & 3);
}

static bool v86_segment_valid(const struct kvm_segment *s)
{
	return s->base == (uint64_t)s->selector << 4 && s->limit == 0xffff && s->type == 3 && s->s &&
	       s->dpl == 3 && s->present && !s->l && !s->db && !s->g;
}

static bool guest_state_valid(struct kvm_vcpu *vcpu)
{
	bool v86 = vmx_get_rflags(vcpu) & X86_FLAGS_VM;
	struct kvm_segment cs, ss, s;

	if (!(vmx_get_cr0(vcpu) & X86_CR0_PE))
		return false;
	read_segment(vcpu, &cs, SREG_CS);
	read_segment(vcpu, &ss, SREG_SS);
	if (!v86 && (!code_segment_valid(&cs, &ss) || !stack_segment_valid(&ss, &cs)))
		return false;
	for (unsigned nr = 0; nr < NR_SREGS; nr++) {
		read_segment(vcpu, &s, nr);
		if (v86 ? !v86_segment_valid(&s)
			: nr != SREG_CS && nr != SREG_SS && !data_segment_valid(&s))
			return false;
	}
	read_segment(vcpu, &s, VMCS_SEG_TR);
	return !s.unusable && !(s.selector & 4);
}

bool vmx_emulation_required(struct kvm_vcpu *vcpu)
{
	/* an L2 has it where its L1 has asked for it */
	if (likely(vmx_params()->unrestricted_guest &&
		   (!is_guest_mode(vcpu) || nested_cpu_has2(get_vmcs12(vcpu), SECONDARY_EXEC_UNRESTRICTED_GUEST))))
		return false;
	/* what the guest does while it runs keeps the state valid */
	if (vcpu->vmx->state_unchecked)
		vcpu->vmx->state_unchecked = !guest_state_valid(vcpu);
	return vcpu->vmx->state_unchecked;
}
