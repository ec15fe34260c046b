/*
 * The vCPU's registers to and from the register file that instructions are
 * emulated on.
 *
 * Context: the vCPU's owner thread.
 */
#include <string.h>

#include "x86/emulator.h"

static void load_segment(struct kvm_vcpu *vcpu, struct cpu_segment *out, unsigned nr)
{
	struct kvm_segment s;

	vmx_get_segment(vcpu, &s, (enum sreg)nr);
	out->base = s.base;
	out->limit = s.limit;
	out->selector = s.selector;
	out->ar = vmx_segment_access_rights(&s);
}

static void load_tables(struct cpu_state *cs, struct kvm_vcpu *vcpu)
{
	struct kvm_dtable gdt, idt;

	vmx_get_gdt_idt(vcpu, &gdt, &idt);
	cs->gdtr = (struct cpu_dtable){ gdt.base, gdt.limit };
	cs->idtr = (struct cpu_dtable){ idt.base, idt.limit };
}

/* Of the code segment (SDM Vol. 3, "Segment Descriptors", L and D/B). */
static enum isa_code_mode code_mode(const struct cpu_state *cs)
{
	if ((cs->efer & EFER_LMA) && (cs->seg[SREG_CS].ar & VMX_AR_L))
		return ISA_CODE64;
	return cs->seg[SREG_CS].ar & VMX_AR_DB ? ISA_CODE32 : ISA_CODE16;
}

void kvm_emulator_load(struct kvm_vcpu *vcpu, struct cpu_state *cs)
{
	load_tables(cs, vcpu);
	memcpy(cs->gpr, vmx_regs(vcpu), sizeof(cs->gpr));
	cs->rip = vmx_get_rip(vcpu);
	cpu_set_rflags(cs, vmx_get_rflags(vcpu));
	for (unsigned n = 0; n < NR_SREGS; n++)
		load_segment(vcpu, &cs->seg[n], n);
	cs->cr0 = vmx_get_cr0(vcpu);
	cs->cr3 = vmx_get_cr3(vcpu);
	cs->cr4 = vmx_get_cr4(vcpu);
	cs->efer = vmx_get_efer(vcpu);
	cs->xcr0 = vmx_get_xcr0(vmx_processor(vcpu));
	cs->cpl = (uint8_t)vmx_get_cpl(vcpu);
	cs->code_mode = (uint8_t)code_mode(cs);
	cs->stack_mode = cs->code_mode == ISA_CODE64		   ? ISA_CODE64
			 : cs->seg[SREG_SS].ar & VMX_AR_DB ? ISA_CODE32
							      : ISA_CODE16;
	cs->xsave = vmx_xsave_area(vmx_processor(vcpu), NULL);
}

static void store_segment(struct kvm_vcpu *vcpu, const struct cpu_segment *in, unsigned nr)
{
	struct kvm_segment s = {
		.base = in->base,
		.limit = in->limit,
		.selector = in->selector,
	};

	vmx_segment_set_access_rights(&s, in->ar);
	vmx_set_segment(vcpu, &s, (enum sreg)nr);
}

/* What a system instruction changed. */
static void store_system(struct kvm_vcpu *vcpu, const struct cpu_state *cs, const struct emulator_sys *sys)
{
	struct kvm_dtable gdt = { .base = cs->gdtr.base, .limit = (uint16_t)cs->gdtr.limit };
	struct kvm_dtable idt = { .base = cs->idtr.base, .limit = (uint16_t)cs->idtr.limit };

	for (unsigned n = 0; n < NR_SREGS; n++)
		if (sys->dirty_segs & 1U << n)
			store_segment(vcpu, &cs->seg[n], n);
	if (sys->dirty_tables)
		vmx_set_gdt_idt(vcpu, &gdt, &idt);
}

void kvm_emulator_store(struct kvm_vcpu *vcpu, const struct cpu_state *cs, const struct emulator_sys *sys)
{
	bool code64 = cs->code_mode == ISA_CODE64;

	memcpy(vmx_regs(vcpu), cs->gpr, sizeof(cs->gpr));
	vmx_set_rsp(vcpu, cs->gpr[RSP]);
	vmx_set_rip(vcpu, code64 ? cs->rip : (uint32_t)cs->rip);
	vmx_set_rflags(vcpu, cpu_rflags(cs));
	if (unlikely(sys->dirty_segs || sys->dirty_tables))
		store_system(vcpu, cs, sys);
}
