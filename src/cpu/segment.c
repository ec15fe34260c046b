/*
 * Segments: descriptors, loads of segment registers, LDTR and TR.
 *
 * Source: SDM Vol. 3, "Protection" (checking of selectors, privilege levels
 * and types) and the pseudo-code of MOV, LLDT and LTR in Vol. 2.
 *
 * Invariants
 * 1. Every check and every memory access comes before the first change of a
 *    register; a fault leaves the segment register as it was.
 * 2. CPL == SS.DPL in every mode, null SS included (cpu_segment_null keeps the
 *    level in the rights), so that CPL can be saved and found in the VMCS.
 * 3. Hidden parts hold what the descriptor said; that 64-bit mode ignores
 *    bases and limits is the business of those who use them.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/system.h"

uint32_t cpu_ext_bit(const struct vmx_cpu *cpu)
{
	if (!cpu->event.active)
		return 0;
	return cpu->event.type != INTR_TYPE_SOFT_INTR &&
	       cpu->event.type != INTR_TYPE_SOFT_EXCEPTION;
}

void cpu_selector_fault(struct vmx_cpu *cpu, enum exception_vector v, uint16_t selector)
{
	isa_raise_error(&cpu->cs, v, (selector & 0xfffcU) | cpu_ext_bit(cpu));
}

void cpu_descriptor_parse(struct cpu_descriptor *d, uint64_t raw)
{
	d->raw = raw;
	d->base = sdm_descriptor_base(raw);
	d->limit = sdm_descriptor_limit(raw);
	d->ar = sdm_descriptor_rights(raw);
}

/* Linear address of `size` bytes of descriptor at the selector's index. */
static bool descriptor_address(struct vmx_cpu *cpu, uint16_t selector, unsigned skip,
			       gva_t *lin)
{
	uint32_t first = (selector & ~7U) + skip;

	if (selector & 4) {
		if (cpu->cs.ldtr.ar & VMX_AR_UNUSABLE || first + 7 > cpu->cs.ldtr.limit)
			return false;
		*lin = cpu->cs.ldtr.base + first;
	} else {
		if (first + 7 > cpu->cs.gdtr.limit)
			return false;
		*lin = cpu->cs.gdtr.base + first;
	}
	if (!cpu_ia32e(cpu))
		*lin = (uint32_t)*lin;
	return true;
}

bool cpu_descriptor_read(struct vmx_cpu *cpu, uint16_t selector, struct cpu_descriptor *d)
{
	gva_t lin;

	if (!descriptor_address(cpu, selector, 0, &lin))
		return false;
	cpu_descriptor_parse(d, cpu_sys_load(cpu, lin, 8));
	d->lin = lin;
	d->selector = selector;
	return true;
}

bool cpu_descriptor_read_high(struct vmx_cpu *cpu, uint16_t selector, uint64_t *high)
{
	gva_t lin;

	if (!descriptor_address(cpu, selector, 8, &lin))
		return false;
	*high = cpu_sys_load(cpu, lin, 8);
	return true;
}

void cpu_descriptor_set_bit(struct vmx_cpu *cpu, const struct cpu_descriptor *d, unsigned bit)
{
	/* the byte with type, S, DPL and P: one byte crosses no page, so it is where it lies */
	uint8_t *p = cpu->cs.ops->mem(&cpu->cs, d->lin + 5, 1, ISA_RMW | ISA_IMPLICIT, NULL);

	__atomic_fetch_or(p, (uint8_t)bit, __ATOMIC_SEQ_CST);
}

void cpu_descriptor_set_accessed(struct vmx_cpu *cpu, struct cpu_descriptor *d)
{
	if (d->ar & VMX_AR_TYPE_ACCESSED)
		return;
	cpu_descriptor_set_bit(cpu, d, VMX_AR_TYPE_ACCESSED);
	d->ar |= VMX_AR_TYPE_ACCESSED;
}

void cpu_segment_commit(struct cpu_segment *seg, const struct cpu_descriptor *d,
			uint16_t selector)
{
	seg->base = d->base;
	seg->limit = d->limit;
	seg->ar = d->ar;
	seg->selector = selector;
}

void cpu_segment_null(struct cpu_segment *seg, uint16_t selector, unsigned dpl)
{
	seg->selector = selector;
	seg->base = 0;
	seg->ar = (uint32_t)(VMX_AR_UNUSABLE | FIELD_PREP(VMX_AR_DPL_MASK, dpl));
}

bool cpu_segment_covers(const struct cpu_segment *seg, uint64_t offset, unsigned size)
{
	uint64_t last = offset + size - 1;

	if (seg->ar & VMX_AR_UNUSABLE)
		return false;
	if ((seg->ar & (VMX_AR_TYPE_CODE | VMX_AR_TYPE_EXPAND_DOWN)) == VMX_AR_TYPE_EXPAND_DOWN)
		return offset > seg->limit &&
		       last <= (seg->ar & VMX_AR_DB ? 0xffffffffU : 0xffffU);
	return last <= seg->limit;
}

void cpu_load_seg_real(struct vmx_cpu *cpu, enum sreg nr, uint16_t selector)
{
	struct cpu_segment *seg = &cpu->cs.seg[nr];

	if (cpu_v86(cpu)) {
		seg->limit = 0xffff;
		seg->ar = 0xf3; /* present, DPL 3, read/write data, accessed */
	} else if (seg->ar & VMX_AR_UNUSABLE) {
		/* A null selector from protected mode becomes usable again. */
		seg->ar = 0x93;
		if (seg->limit < 0xffff)
			seg->limit = 0xffff;
	}
	seg->selector = selector;
	seg->base = (uint64_t)selector << 4;
}

void cpu_check_ss(struct vmx_cpu *cpu, uint16_t selector, unsigned pl,
		  enum exception_vector v, struct cpu_descriptor *d)
{
	if (cpu_selector_null(selector))
		cpu_selector_fault(cpu, v, 0);
	if (!cpu_descriptor_read(cpu, selector, d))
		cpu_selector_fault(cpu, v, selector);
	if ((selector & 3) != pl || !cpu_ar_writable_data(d->ar) || cpu_ar_dpl(d->ar) != pl)
		cpu_selector_fault(cpu, v, selector);
	if (!(d->ar & VMX_AR_P))
		cpu_selector_fault(cpu, X86_TRAP_SS, selector);
}

static void load_ss(struct vmx_cpu *cpu, uint16_t selector)
{
	struct cpu_state *cs = &cpu->cs;
	struct cpu_descriptor d;

	if (cpu_selector_null(selector)) {
		if (!cpu_code64(cpu) || cs->cpl == 3 || (selector & 3) != cs->cpl)
			isa_raise_error(cs, X86_TRAP_GP, 0);
		cpu_segment_null(&cs->seg[SREG_SS], selector, cs->cpl);
		return;
	}
	cpu_check_ss(cpu, selector, cs->cpl, X86_TRAP_GP, &d);
	cpu_descriptor_set_accessed(cpu, &d);
	cpu_segment_commit(&cs->seg[SREG_SS], &d, selector);
}

void cpu_load_seg(struct vmx_cpu *cpu, enum sreg nr, uint16_t selector)
{
	struct cpu_state *cs = &cpu->cs;
	struct cpu_descriptor d;
	unsigned dpl, rpl = selector & 3;

	if (nr == SREG_SS) {
		load_ss(cpu, selector);
		return;
	}
	if (cpu_selector_null(selector)) {
		cpu_segment_null(&cs->seg[nr], selector, 0);
		return;
	}
	if (!cpu_descriptor_read(cpu, selector, &d))
		cpu_selector_fault(cpu, X86_TRAP_GP, selector);
	/* Data, or code that can be read. */
	if (!(d.ar & VMX_AR_S) ||
	    (cpu_ar_code(d.ar) && !(d.ar & VMX_AR_TYPE_WRITABLE)))
		cpu_selector_fault(cpu, X86_TRAP_GP, selector);
	dpl = cpu_ar_dpl(d.ar);
	if (!cpu_ar_conforming(d.ar) && (rpl > dpl || cs->cpl > dpl))
		cpu_selector_fault(cpu, X86_TRAP_GP, selector);
	if (!(d.ar & VMX_AR_P))
		cpu_selector_fault(cpu, X86_TRAP_NP, selector);
	cpu_descriptor_set_accessed(cpu, &d);
	cpu_segment_commit(&cs->seg[nr], &d, selector);
}

void cpu_load_sreg(struct vmx_cpu *cpu, enum sreg nr, uint16_t selector)
{
	if (cpu_protected(cpu))
		cpu_load_seg(cpu, nr, selector);
	else
		cpu_load_seg_real(cpu, nr, selector);
}

/* Base and limit of an LDT or TSS, whose descriptors have 16 bytes in IA-32e mode. */
static void extend_system_descriptor(struct vmx_cpu *cpu, struct cpu_descriptor *d)
{
	uint64_t high;

	if (!cpu_ia32e(cpu))
		return;
	if (!cpu_descriptor_read_high(cpu, d->selector, &high))
		cpu_selector_fault(cpu, X86_TRAP_GP, d->selector);
	if (high & GENMASK_ULL(44, 40)) /* the type of the upper half must be 0 */
		cpu_selector_fault(cpu, X86_TRAP_GP, d->selector);
	d->base |= high << 32;
	if (!cpu_canonical(d->base))
		cpu_selector_fault(cpu, X86_TRAP_GP, d->selector);
}

void cpu_load_ldtr(struct vmx_cpu *cpu, uint16_t selector)
{
	struct cpu_descriptor d;

	if (cpu_selector_null(selector)) {
		cpu_segment_null(&cpu->cs.ldtr, selector, 0);
		return;
	}
	if (selector & 4 || !cpu_descriptor_read(cpu, selector, &d))
		cpu_selector_fault(cpu, X86_TRAP_GP, selector);
	if (d.ar & VMX_AR_S || cpu_ar_type(d.ar) != SYS_LDT)
		cpu_selector_fault(cpu, X86_TRAP_GP, selector);
	if (!(d.ar & VMX_AR_P))
		cpu_selector_fault(cpu, X86_TRAP_NP, selector);
	extend_system_descriptor(cpu, &d);
	cpu_segment_commit(&cpu->cs.ldtr, &d, selector);
}

void cpu_load_tr(struct vmx_cpu *cpu, uint16_t selector)
{
	struct cpu_descriptor d;
	unsigned type;

	if (cpu_selector_null(selector))
		cpu_selector_fault(cpu, X86_TRAP_GP, 0);
	if (selector & 4 || !cpu_descriptor_read(cpu, selector, &d))
		cpu_selector_fault(cpu, X86_TRAP_GP, selector);
	type = cpu_ar_type(d.ar);
	if (d.ar & VMX_AR_S ||
	    (type != SYS_TSS32 && (cpu_ia32e(cpu) || type != SYS_TSS16)))
		cpu_selector_fault(cpu, X86_TRAP_GP, selector);
	if (!(d.ar & VMX_AR_P))
		cpu_selector_fault(cpu, X86_TRAP_NP, selector);
	extend_system_descriptor(cpu, &d);
	cpu_descriptor_set_bit(cpu, &d, 2);
	d.ar |= 2; /* busy */
	cpu_segment_commit(&cpu->cs.tr, &d, selector);
}

bool cpu_descriptor_visible(struct vmx_cpu *cpu, uint16_t selector, struct cpu_descriptor *d)
{
	unsigned dpl;

	if (cpu_selector_null(selector) || !cpu_descriptor_read(cpu, selector, d))
		return false;
	if (cpu_ar_conforming(d->ar))
		return true;
	dpl = cpu_ar_dpl(d->ar);
	return cpu->cs.cpl <= dpl && (unsigned)(selector & 3) <= dpl;
}

void cpu_check_rip(struct vmx_cpu *cpu, uint32_t ar, uint32_t limit, uint64_t offset)
{
	if (cpu_ia32e(cpu) && ar & VMX_AR_L) {
		if (!cpu_canonical(offset))
			isa_raise_error(&cpu->cs, X86_TRAP_GP, cpu_ext_bit(cpu));
	} else if (offset > limit) {
		isa_raise_error(&cpu->cs, X86_TRAP_GP, cpu_ext_bit(cpu));
	}
}
