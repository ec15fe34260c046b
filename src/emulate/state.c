/*
 * The vCPU's registers to and from the register file that instructions are
 * emulated on.
 *
 * Context: the vCPU's owner thread.
 */
#include <string.h>

#include "emulate/internal.h"

static struct cpu_segment segment_in(const struct kvm_segment *s)
{
	return (struct cpu_segment){
		.base = s->base, .limit = s->limit, .selector = s->selector, .ar = vmx_segment_access_rights(s),
	};
}

static struct kvm_segment segment_out(const struct cpu_segment *s)
{
	struct kvm_segment out = { .base = s->base, .limit = s->limit, .selector = s->selector };

	vmx_segment_set_access_rights(&out, s->ar);
	return out;
}

static void load_segments(struct cpu_state *cs, struct kvm_vcpu *vcpu)
{
	struct vmx_raw_segment s[NR_SREGS];

	/* as the VMCS has them; an unusable one is not present, as it would come by KVM's form */
	vmx_get_raw_segments(vcpu, s);
	for (unsigned n = 0; n < NR_SREGS; n++) {
		if (s[n].ar & VMX_AR_UNUSABLE)
			s[n].ar &= ~(uint32_t)VMX_AR_P;
		cs->seg[n] = (struct cpu_segment){ .base = s[n].base, .limit = s[n].limit, .selector = s[n].selector, .ar = s[n].ar };
	}
}

void kvm_emulator_load_tr_ldt(struct cpu_state *cs)
{
	struct kvm_segment tr, ldt;

	vmx_get_tr_ldt(kvm_emulator_vcpu(cs), &tr, &ldt);
	cs->tr = segment_in(&tr);
	cs->ldtr = segment_in(&ldt);
}

void kvm_emulator_load_tables(struct cpu_state *cs)
{
	struct kvm_dtable gdt, idt;

	vmx_get_gdt_idt(kvm_emulator_vcpu(cs), &gdt, &idt);
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

void kvm_emulator_mode_changed(struct cpu_state *cs)
{
	cs->code_mode = (uint8_t)code_mode(cs);
	cs->stack_mode = cs->code_mode == ISA_CODE64		   ? ISA_CODE64
			 : cs->seg[SREG_SS].ar & VMX_AR_DB ? ISA_CODE32
							      : ISA_CODE16;
}

void kvm_emulator_load(struct kvm_vcpu *vcpu, struct cpu_state *cs)
{
	memcpy(cs->gpr, vmx_regs(vcpu), sizeof(cs->gpr));
	cs->rip = vmx_get_rip(vcpu);
	cpu_set_rflags(cs, vmx_get_rflags(vcpu));
	load_segments(cs, vcpu);
	cs->cr0 = vmx_get_cr0(vcpu);
	cs->cr3 = vmx_get_cr3(vcpu);
	cs->cr4 = vmx_get_cr4(vcpu);
	cs->efer = vmx_get_efer(vcpu);
	cs->xcr0 = vmx_get_xcr0(vmx_processor(vcpu));
	cs->pkru = vmx_get_pkru(vmx_processor(vcpu));
	cs->cpl = (uint8_t)vmx_get_cpl(vcpu);
	kvm_emulator_mode_changed(cs);
	cs->xsave = vmx_xsave_area(vmx_processor(vcpu), NULL);
}

/* What a system instruction changed. */
static void store_system(struct kvm_vcpu *vcpu, const struct cpu_state *cs, const struct emulator_sys *sys)
{
	struct kvm_dtable gdt = { .base = cs->gdtr.base, .limit = (uint16_t)cs->gdtr.limit };
	struct kvm_dtable idt = { .base = cs->idtr.base, .limit = (uint16_t)cs->idtr.limit };

	struct kvm_segment s, ldt;

	for (unsigned n = 0; n < NR_SREGS; n++) {
		if (!(sys->dirty_segs & 1U << n))
			continue;
		s = segment_out(&cs->seg[n]);
		vmx_set_segment(vcpu, &s, (enum sreg)n);
	}
	if (sys->dirty_system_segs) {
		s = segment_out(&cs->tr);
		ldt = segment_out(&cs->ldtr);
		vmx_set_tr_ldt(vcpu, &s, &ldt);
	}
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
	vmx_set_pkru(vmx_processor(vcpu), cs->pkru);
	if (unlikely(sys->dirty_segs || sys->dirty_tables || sys->dirty_system_segs))
		store_system(vcpu, cs, sys);
}

bool kvm_emulator_state_kept(const struct kvm_emulator *e, struct kvm_vcpu *vcpu)
{
	return e->stamp == vmx_state_stamp(vcpu) && e->cs.xcr0 == vmx_get_xcr0(vmx_processor(vcpu)) &&
	       e->cs.pkru == vmx_get_pkru(vmx_processor(vcpu)) &&
	       memcmp(e->cs.gpr, vmx_regs(vcpu), sizeof(e->cs.gpr)) == 0;
}

bool kvm_emulator_loads_the_same(const struct kvm_emulator *e, struct kvm_vcpu *vcpu)
{
	struct cpu_state now = e->cs;
	bool same;

	kvm_emulator_load(vcpu, &now);
	same = now.rip == e->rip && cpu_rflags(&now) == cpu_rflags(&e->cs) && now.cr0 == e->cs.cr0 && now.cr3 == e->cs.cr3 &&
	       now.cr4 == e->cs.cr4 && now.efer == e->cs.efer && now.cpl == e->cs.cpl &&
	       now.code_mode == e->cs.code_mode && now.stack_mode == e->cs.stack_mode;
	for (unsigned n = 0; n < NR_SREGS; n++)
		same = same && now.seg[n].base == e->cs.seg[n].base && now.seg[n].limit == e->cs.seg[n].limit &&
		       now.seg[n].ar == e->cs.seg[n].ar && now.seg[n].selector == e->cs.seg[n].selector;
	return same;
}
