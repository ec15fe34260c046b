/*
 * System management mode: entering it, RSM, and the state-save area between
 * (SDM Vol. 3, "System Management Mode"; the 64-bit area is laid out as in
 * AMD64 Vol. 2, "SMM State-Save Area", the 32-bit one as in the SDM's "SMRAM
 * State Save Map": those are the areas KVM's guests know).
 *
 * Invariants
 * 1. Everything an SMI handler may find in the area, or change there, is a row
 *    of the tables below: entry and RSM use the same rows.
 * 2. In SMM the vCPU sees address space 1; the area lies there.
 * 3. RSM of an area that describes no state a processor can be in shuts down
 *    (triple fault), having changed nothing but what the area is read through.
 *
 * The area has the 64-bit form where the guest's CPUID has long mode.
 *
 * Locks: vcpu->mutex (owner thread), but for kvm_inject_smi().
 */
#include <string.h>

#include "trace/trace.h"
#include "x86/run.h"

#define SMM_AREA_OFFSET 0xfe00u /* from SMBASE; what manuals call 7e00h from SMBASE + 8000h */
#define SMM_AREA_BYTES 512u
#define SMM_AREA_FIRST 0x7e00u
#define SMM_ENTRY_IP 0x8000u
#define SMM_REVISION_32 0x00020000u /* bit 17: SMBASE relocation */
#define SMM_REVISION_64 0x00020064u

/* What the area holds. */
struct smm_state {
	struct kvm_regs regs;
	struct kvm_sregs2 sregs;
	uint64_t dr6, dr7;
	uint32_t smbase, revision;
	uint8_t shadow; /* KVM_X86_SHADOW_INT_*, in bytes the manuals leave to the processor */
};

struct smm_field {
	uint16_t offset; /* in the area, as manuals count */
	uint8_t size;
	uint8_t member_size;
	uint16_t member;
};

struct smm_segment {
	uint16_t selector, rights, limit, base; /* offsets; a segment's selector has 2 bytes */
	uint16_t member;
};

struct smm_layout {
	const struct smm_field *fields;
	const struct smm_segment *segments;
	uint32_t revision;
	unsigned nr_fields, nr_segments;
	uint8_t rights_size, rights_shift; /* bytes; the VMCS's form is shifted left by so much */
	uint8_t base_size;
};

#define F(off, bytes, m)                                                               \
	{ off, bytes, sizeof(((struct smm_state *)0)->m), offsetof(struct smm_state, m) }
#define S(sel, ar, lim, bas, m) { sel, ar, lim, bas, offsetof(struct smm_state, sregs.m) }

static const struct smm_field fields_64[] = {
	F(0x7ff8, 8, regs.rax), F(0x7ff0, 8, regs.rcx), F(0x7fe8, 8, regs.rdx),
	F(0x7fe0, 8, regs.rbx), F(0x7fd8, 8, regs.rsp), F(0x7fd0, 8, regs.rbp),
	F(0x7fc8, 8, regs.rsi), F(0x7fc0, 8, regs.rdi), F(0x7fb8, 8, regs.r8),
	F(0x7fb0, 8, regs.r9),	F(0x7fa8, 8, regs.r10), F(0x7fa0, 8, regs.r11),
	F(0x7f98, 8, regs.r12), F(0x7f90, 8, regs.r13), F(0x7f88, 8, regs.r14),
	F(0x7f80, 8, regs.r15), F(0x7f78, 8, regs.rip), F(0x7f70, 4, regs.rflags),
	F(0x7f68, 8, dr6),	F(0x7f60, 8, dr7),	F(0x7f58, 8, sregs.cr0),
	F(0x7f50, 8, sregs.cr3), F(0x7f48, 8, sregs.cr4), F(0x7f00, 4, smbase),
	F(0x7efc, 4, revision), F(0x7ed0, 8, sregs.efer), F(0x7ecb, 1, shadow),
	F(0x7e84, 2, sregs.idt.limit), F(0x7e88, 8, sregs.idt.base),
	F(0x7e64, 2, sregs.gdt.limit), F(0x7e68, 8, sregs.gdt.base),
};

static const struct smm_segment segments_64[] = {
	S(0x7e00, 0x7e02, 0x7e04, 0x7e08, es), S(0x7e10, 0x7e12, 0x7e14, 0x7e18, cs),
	S(0x7e20, 0x7e22, 0x7e24, 0x7e28, ss), S(0x7e30, 0x7e32, 0x7e34, 0x7e38, ds),
	S(0x7e40, 0x7e42, 0x7e44, 0x7e48, fs), S(0x7e50, 0x7e52, 0x7e54, 0x7e58, gs),
	S(0x7e70, 0x7e72, 0x7e74, 0x7e78, ldt), S(0x7e90, 0x7e92, 0x7e94, 0x7e98, tr),
};

static const struct smm_field fields_32[] = {
	F(0x7ffc, 4, sregs.cr0), F(0x7ff8, 4, sregs.cr3), F(0x7ff4, 4, regs.rflags),
	F(0x7ff0, 4, regs.rip),	 F(0x7fec, 4, regs.rdi),  F(0x7fe8, 4, regs.rsi),
	F(0x7fe4, 4, regs.rbp),	 F(0x7fe0, 4, regs.rsp),  F(0x7fdc, 4, regs.rbx),
	F(0x7fd8, 4, regs.rdx),	 F(0x7fd4, 4, regs.rcx),  F(0x7fd0, 4, regs.rax),
	F(0x7fcc, 4, dr6),	 F(0x7fc8, 4, dr7),	  F(0x7f74, 4, sregs.gdt.base),
	F(0x7f70, 2, sregs.gdt.limit), F(0x7f58, 4, sregs.idt.base),
	F(0x7f54, 2, sregs.idt.limit), F(0x7f1a, 1, shadow),
	F(0x7f14, 4, sregs.cr4), F(0x7efc, 4, revision),  F(0x7ef8, 4, smbase),
};

static const struct smm_segment segments_32[] = {
	S(0x7fa8, 0x7f84, 0x7f88, 0x7f8c, es), S(0x7fac, 0x7f90, 0x7f94, 0x7f98, cs),
	S(0x7fb0, 0x7f9c, 0x7fa0, 0x7fa4, ss), S(0x7fb4, 0x7f2c, 0x7f30, 0x7f34, ds),
	S(0x7fb8, 0x7f38, 0x7f3c, 0x7f40, fs), S(0x7fbc, 0x7f44, 0x7f48, 0x7f4c, gs),
	S(0x7fc0, 0x7f78, 0x7f7c, 0x7f80, ldt), S(0x7fc4, 0x7f5c, 0x7f60, 0x7f64, tr),
};
#undef F
#undef S

static const struct smm_layout layout_64 = {
	.fields = fields_64, .nr_fields = ARRAY_SIZE(fields_64),
	.segments = segments_64, .nr_segments = ARRAY_SIZE(segments_64),
	.revision = SMM_REVISION_64, .rights_size = 2, .base_size = 8,
};

static const struct smm_layout layout_32 = {
	.fields = fields_32, .nr_fields = ARRAY_SIZE(fields_32),
	.segments = segments_32, .nr_segments = ARRAY_SIZE(segments_32),
	.revision = SMM_REVISION_32, .rights_size = 4, .rights_shift = 8, .base_size = 4,
};

static bool guest_has_long_mode(struct kvm_vcpu *vcpu)
{
	return guest_cpuid_bit(vcpu, 0x80000001, 0, CPUID_EDX, 29);
}

static const struct smm_layout *layout_of(struct kvm_vcpu *vcpu)
{
	return guest_has_long_mode(vcpu) ? &layout_64 : &layout_32;
}

/* --- between a state and its area --- */

static void put(uint8_t *area, uint16_t offset, const void *v, size_t size)
{
	memcpy(area + (offset - SMM_AREA_FIRST), v, size);
}

static uint64_t get(const uint8_t *area, uint16_t offset, size_t size)
{
	uint64_t v = 0;

	memcpy(&v, area + (offset - SMM_AREA_FIRST), size);
	return v;
}

static void *member(struct smm_state *s, uint16_t offset)
{
	return (char *)s + offset;
}

static void state_to_area(const struct smm_layout *l, struct smm_state *s, uint8_t *area)
{
	const uint32_t rights_mask = (uint32_t)~VMX_AR_UNUSABLE;

	memset(area, 0, SMM_AREA_BYTES);
	for (unsigned i = 0; i < l->nr_fields; i++)
		put(area, l->fields[i].offset, member(s, l->fields[i].member), l->fields[i].size);
	for (unsigned i = 0; i < l->nr_segments; i++) {
		const struct smm_segment *row = &l->segments[i];
		const struct kvm_segment *seg = member(s, row->member);
		uint32_t ar = (vmx_segment_access_rights(seg) & rights_mask) << l->rights_shift;

		put(area, row->selector, &seg->selector, 2);
		put(area, row->rights, &ar, l->rights_size);
		put(area, row->limit, &seg->limit, 4);
		put(area, row->base, &seg->base, l->base_size);
	}
}

/* What the area has no room for stays as it is in s. */
static void area_to_state(const struct smm_layout *l, const uint8_t *area, struct smm_state *s)
{
	for (unsigned i = 0; i < l->nr_fields; i++) {
		uint64_t v = get(area, l->fields[i].offset, l->fields[i].size);

		memcpy(member(s, l->fields[i].member), &v, l->fields[i].member_size);
	}
	for (unsigned i = 0; i < l->nr_segments; i++) {
		const struct smm_segment *row = &l->segments[i];
		struct kvm_segment *seg = member(s, row->member);
		uint32_t ar = (uint32_t)(get(area, row->rights, l->rights_size) >> l->rights_shift);

		seg->selector = (uint16_t)get(area, row->selector, 2);
		seg->limit = (uint32_t)get(area, row->limit, 4);
		seg->base = get(area, row->base, l->base_size);
		vmx_segment_set_access_rights(seg, ar & VMX_AR_P ? ar : ar | (uint32_t)VMX_AR_UNUSABLE);
	}
}

static void read_state(struct kvm_vcpu *vcpu, struct smm_state *s)
{
	memset(s, 0, sizeof(*s));
	kvm_vcpu_ioctl_get_regs(vcpu, &s->regs);
	kvm_vcpu_ioctl_get_sregs2(vcpu, &s->sregs);
	s->dr6 = kvm_get_dr(vcpu, 6);
	s->dr7 = kvm_get_dr(vcpu, 7);
	s->smbase = (uint32_t)vcpu->arch->smbase;
	s->shadow = (uint8_t)vmx_get_interrupt_shadow(vcpu);
}

/* --- entering --- */

void kvm_smm_changed(struct kvm_vcpu *vcpu, bool entering)
{
	TRACE(kvm, kvm_smm_transition, vcpu->vcpu_id, vcpu->arch->smbase, entering);
	vcpu->arch->smm = entering;
	if (!entering) {
		vcpu->arch->smm_inside_nmi = false;
		/* an INIT or SMI may have waited for this */
		kvm_make_request(KVM_REQ_EVENT, vcpu);
	}
	kvm_mmu_reset_context(vcpu);
}

/* SDM "SMI Handler Execution Environment": flat, 4 GiB limits, real-address mode. */
static void load_entry_segments(struct kvm_vcpu *vcpu, uint32_t smbase)
{
	struct kvm_segment data = { .limit = ~0u, .type = 3, .s = 1, .present = 1, .g = 1 };
	struct kvm_segment code = data;

	code.selector = (uint16_t)(smbase >> 4);
	code.base = smbase;
	for (unsigned nr = 0; nr < NR_SREGS; nr++)
		vmx_set_segment(vcpu, nr == SREG_CS ? &code : &data, (enum sreg)nr);
}

static void load_entry_state(struct kvm_vcpu *vcpu)
{
	static const struct kvm_dtable no_idt;
	uint64_t cr0 = vmx_get_cr0(vcpu) & ~(X86_CR0_PE | X86_CR0_EM | X86_CR0_TS | X86_CR0_PG);
	struct kvm_dtable gdt, idt;

	vmx_set_rflags(vcpu, X86_FLAGS_FIXED);
	vmx_set_rip(vcpu, SMM_ENTRY_IP);
	vmx_set_interrupt_shadow(vcpu, 0);
	vmx_set_efer(vcpu, 0);
	vmx_set_cr0(vcpu, cr0);
	vmx_set_cr4(vcpu, 0);
	vmx_get_gdt_idt(vcpu, &gdt, &idt);
	vmx_set_gdt_idt(vcpu, &gdt, &no_idt);
	vcpu->arch->dr7 = DR7_FIXED_1;
	kvm_update_dr7(vcpu);
	load_entry_segments(vcpu, (uint32_t)vcpu->arch->smbase);
}

void kvm_enter_smm(struct kvm_vcpu *vcpu)
{
	const struct smm_layout *l = layout_of(vcpu);
	struct kvm_vcpu_arch *a = vcpu->arch;
	uint8_t area[SMM_AREA_BYTES];
	struct smm_state s;

	vmx_clear_hlt(vcpu);
	a->smi_pending = false;
	a->smi_count++;
	read_state(vcpu, &s);
	s.revision = l->revision;
	state_to_area(l, &s, area);
	vmx_pre_enter_smm(vcpu); /* the area has L2's state, if it was L2 */
	kvm_smm_changed(vcpu, true);
	/* where there is no memory the write is lost, as on a bus without RAM */
	(void)kvm_write_guest_as_processor(vcpu, a->smbase + SMM_AREA_OFFSET, area, sizeof(area));
	if (vmx_get_nmi_mask(vcpu))
		a->smm_inside_nmi = true;
	else
		vmx_set_nmi_mask(vcpu, true);
	load_entry_state(vcpu);
	vmx_flush_tlb_guest(vcpu);
	kvm_mmu_reset_context(vcpu);
}

/* --- RSM --- */

static bool state_valid(struct kvm_vcpu *vcpu, struct smm_state *s)
{
	struct kvm_sregs2 *sr = &s->sregs;
	bool lma = (sr->efer & EFER_LME) && (sr->cr0 & X86_CR0_PG);

	/* LMA is not the handler's to set */
	sr->efer = lma ? sr->efer | EFER_LMA : sr->efer & ~EFER_LMA;
	if (s->dr6 >> 32 || s->dr7 >> 32 || ((sr->cr4 & X86_CR4_PCIDE) && !lma))
		return false;
	if (!lma && (sr->cr0 & X86_CR0_PG) && (sr->cr4 & X86_CR4_PAE))
		return kvm_load_pdptrs(vcpu, sr->cr3);
	return true;
}

/* The vCPU as the area describes it; false where it cannot be that. */
static bool load_state(struct kvm_vcpu *vcpu, struct smm_state *s)
{
	if (!state_valid(vcpu, s))
		return false;
	/* the PDPTEs are memory's, not those of another address space */
	s->sregs.flags = 0;
	if (kvm_vcpu_ioctl_set_sregs2(vcpu, &s->sregs))
		return false;
	if (kvm_set_dr(vcpu, 6, s->dr6) || kvm_set_dr(vcpu, 7, s->dr7))
		return false;
	kvm_vcpu_ioctl_set_regs(vcpu, &s->regs);
	vmx_set_interrupt_shadow(vcpu, s->shadow);
	return true;
}

bool kvm_leave_smm(struct kvm_vcpu *vcpu)
{
	const struct smm_layout *l = layout_of(vcpu);
	struct kvm_vcpu_arch *a = vcpu->arch;
	uint8_t area[SMM_AREA_BYTES];
	struct smm_state s;

	if (kvm_vcpu_read_guest(vcpu, a->smbase + SMM_AREA_OFFSET, area, sizeof(area)))
		return false;
	if (!a->smm_inside_nmi)
		vmx_set_nmi_mask(vcpu, false);
	read_state(vcpu, &s);
	/* a 32-bit area has no EFER: a guest without long mode has none to keep */
	s.sregs.efer = 0;
	area_to_state(l, area, &s);
	kvm_smm_changed(vcpu, false);
	a->smbase = s.smbase;
	if (!vmx_pre_leave_smm(vcpu) || !load_state(vcpu, &s))
		kvm_make_request(KVM_REQ_TRIPLE_FAULT, vcpu);
	return true;
}

/* --- the interrupt --- */

void kvm_inject_smi(struct kvm_vcpu *vcpu)
{
	kvm_make_request(KVM_REQ_SMI, vcpu);
	kvm_vcpu_kick(vcpu);
}

void kvm_process_smi(struct kvm_vcpu *vcpu)
{
	vcpu->arch->smi_pending = true;
	kvm_make_request(KVM_REQ_EVENT, vcpu);
}
