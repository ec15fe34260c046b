/*
 * Segments: descriptors, loads of segment registers, LDTR and TR. The processor and the emulator load theirs
 * by these rules; how a bit gets into a descriptor in memory is the embedding's (isa_ops.descriptor_bit).
 *
 * Source: SDM Vol. 3, "Protection" (checking of selectors, privilege levels
 * and types) and the pseudo-code of MOV, LLDT and LTR in Vol. 2.
 *
 * Invariants
 * 1. Every check and every memory access comes before the first change of a
 *    register; a fault leaves the segment register as it was.
 * 2. CPL == SS.DPL in every mode, null SS included (isa_segment_null keeps the
 *    level in the rights), so that CPL can be saved and found in the VMCS.
 * 3. Hidden parts hold what the descriptor said; that 64-bit mode ignores
 *    bases and limits is the business of those who use them.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "isa/segment.h"

uint32_t isa_ext_bit(const struct cpu_state *cs)
{
	return cs->ops->ext_bit ? cs->ops->ext_bit(cs) : 0;
}

uint64_t isa_sys_load(struct cpu_state *cs, gva_t lin, unsigned size)
{
	uint64_t bounce = 0;
	const void *p = cs->ops->mem(cs, lin, size, ISA_READ | ISA_IMPLICIT, &bounce);

	return isa_host_load(p, size);
}

void isa_sys_store(struct cpu_state *cs, gva_t lin, unsigned size, uint64_t v)
{
	uint64_t bounce = 0;
	void *p = cs->ops->mem(cs, lin, size, ISA_WRITE | ISA_IMPLICIT, &bounce);

	isa_host_store(p, size, v);
	if (p == &bounce)
		cs->ops->mem_commit(cs, lin, size, &bounce);
}

void isa_selector_fault(struct cpu_state *cs, enum exception_vector v, uint16_t selector)
{
	isa_raise_error(cs, v, (selector & 0xfffcU) | isa_ext_bit(cs));
}

void isa_descriptor_parse(struct isa_descriptor *d, uint64_t raw)
{
	d->raw = raw;
	d->base = sdm_descriptor_base(raw);
	d->limit = sdm_descriptor_limit(raw);
	d->ar = sdm_descriptor_rights(raw);
}

/* Linear address of `size` bytes of descriptor at the selector's index. */
static bool descriptor_address(struct cpu_state *cs, uint16_t selector, unsigned skip,
			       gva_t *lin)
{
	uint32_t first = (selector & ~7U) + skip;

	if (selector & 4) {
		if (cs->ldtr.ar & VMX_AR_UNUSABLE || first + 7 > cs->ldtr.limit)
			return false;
		*lin = cs->ldtr.base + first;
	} else {
		if (first + 7 > cs->gdtr.limit)
			return false;
		*lin = cs->gdtr.base + first;
	}
	if (!isa_ia32e(cs))
		*lin = (uint32_t)*lin;
	return true;
}

bool isa_descriptor_read(struct cpu_state *cs, uint16_t selector, struct isa_descriptor *d)
{
	gva_t lin;

	if (!descriptor_address(cs, selector, 0, &lin))
		return false;
	isa_descriptor_parse(d, isa_sys_load(cs, lin, 8));
	d->lin = lin;
	d->selector = selector;
	return true;
}

bool isa_descriptor_read_high(struct cpu_state *cs, uint16_t selector, uint64_t *high)
{
	gva_t lin;

	if (!descriptor_address(cs, selector, 8, &lin))
		return false;
	*high = isa_sys_load(cs, lin, 8);
	return true;
}

void isa_descriptor_set_accessed(struct cpu_state *cs, struct isa_descriptor *d)
{
	if (d->ar & VMX_AR_TYPE_ACCESSED)
		return;
	cs->ops->descriptor_bit(cs, d->lin, d->raw, VMX_AR_TYPE_ACCESSED);
	d->ar |= VMX_AR_TYPE_ACCESSED;
}

void isa_segment_commit(struct cpu_segment *seg, const struct isa_descriptor *d,
			uint16_t selector)
{
	seg->base = d->base;
	seg->limit = d->limit;
	seg->ar = d->ar;
	seg->selector = selector;
}

void isa_segment_null(struct cpu_segment *seg, uint16_t selector, unsigned dpl)
{
	seg->selector = selector;
	seg->base = 0;
	seg->ar = (uint32_t)(VMX_AR_UNUSABLE | FIELD_PREP(VMX_AR_DPL_MASK, dpl));
}

bool isa_segment_covers(const struct cpu_segment *seg, uint64_t offset, unsigned size)
{
	uint64_t last = offset + size - 1;

	if (seg->ar & VMX_AR_UNUSABLE)
		return false;
	if ((seg->ar & (VMX_AR_TYPE_CODE | VMX_AR_TYPE_EXPAND_DOWN)) == VMX_AR_TYPE_EXPAND_DOWN)
		return offset > seg->limit &&
		       last <= (seg->ar & VMX_AR_DB ? 0xffffffffU : 0xffffU);
	return last <= seg->limit;
}

void isa_load_seg_real(struct cpu_state *cs, enum sreg nr, uint16_t selector)
{
	struct cpu_segment *seg = &cs->seg[nr];

	if (isa_v86(cs)) {
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

void isa_check_ss(struct cpu_state *cs, uint16_t selector, unsigned pl,
		  enum exception_vector v, struct isa_descriptor *d)
{
	if (isa_selector_null(selector))
		isa_selector_fault(cs, v, 0);
	if (!isa_descriptor_read(cs, selector, d))
		isa_selector_fault(cs, v, selector);
	if (!isa_ar_fits_ss(d->ar, selector & 3, pl))
		isa_selector_fault(cs, v, selector);
	if (!(d->ar & VMX_AR_P))
		isa_selector_fault(cs, X86_TRAP_SS, selector);
}

static void load_ss(struct cpu_state *cs, uint16_t selector)
{
	struct isa_descriptor d;

	if (isa_selector_null(selector)) {
		if (!isa_code64(cs) || cs->cpl == 3 || (selector & 3) != cs->cpl)
			isa_raise_error(cs, X86_TRAP_GP, 0);
		isa_segment_null(&cs->seg[SREG_SS], selector, cs->cpl);
		return;
	}
	isa_check_ss(cs, selector, cs->cpl, X86_TRAP_GP, &d);
	isa_descriptor_set_accessed(cs, &d);
	isa_segment_commit(&cs->seg[SREG_SS], &d, selector);
}

void isa_load_seg(struct cpu_state *cs, enum sreg nr, uint16_t selector)
{
	struct isa_descriptor d;

	if (nr == SREG_SS) {
		load_ss(cs, selector);
		return;
	}
	if (isa_selector_null(selector)) {
		isa_segment_null(&cs->seg[nr], selector, 0);
		return;
	}
	if (!isa_descriptor_read(cs, selector, &d))
		isa_selector_fault(cs, X86_TRAP_GP, selector);
	if (!isa_ar_fits_data(d.ar, selector & 3, cs->cpl))
		isa_selector_fault(cs, X86_TRAP_GP, selector);
	if (!(d.ar & VMX_AR_P))
		isa_selector_fault(cs, X86_TRAP_NP, selector);
	isa_descriptor_set_accessed(cs, &d);
	isa_segment_commit(&cs->seg[nr], &d, selector);
}

void isa_load_sreg(struct cpu_state *cs, enum sreg nr, uint16_t selector)
{
	if (isa_protected(cs))
		isa_load_seg(cs, nr, selector);
	else
		isa_load_seg_real(cs, nr, selector);
}

/* Base and limit of an LDT or TSS, whose descriptors have 16 bytes in IA-32e mode. */
static void extend_system_descriptor(struct cpu_state *cs, struct isa_descriptor *d)
{
	uint64_t high;

	if (!isa_ia32e(cs))
		return;
	if (!isa_descriptor_read_high(cs, d->selector, &high))
		isa_selector_fault(cs, X86_TRAP_GP, d->selector);
	if (high & GENMASK_ULL(44, 40)) /* the type of the upper half must be 0 */
		isa_selector_fault(cs, X86_TRAP_GP, d->selector);
	d->base |= high << 32;
	if (!isa_canonical(cs, d->base))
		isa_selector_fault(cs, X86_TRAP_GP, d->selector);
}

void isa_load_ldtr(struct cpu_state *cs, uint16_t selector)
{
	struct isa_descriptor d;

	if (isa_selector_null(selector)) {
		isa_segment_null(&cs->ldtr, selector, 0);
		return;
	}
	if (selector & 4 || !isa_descriptor_read(cs, selector, &d))
		isa_selector_fault(cs, X86_TRAP_GP, selector);
	if (d.ar & VMX_AR_S || isa_ar_type(d.ar) != SYS_LDT)
		isa_selector_fault(cs, X86_TRAP_GP, selector);
	if (!(d.ar & VMX_AR_P))
		isa_selector_fault(cs, X86_TRAP_NP, selector);
	extend_system_descriptor(cs, &d);
	isa_segment_commit(&cs->ldtr, &d, selector);
}

void isa_load_tr(struct cpu_state *cs, uint16_t selector)
{
	struct isa_descriptor d;
	unsigned type;

	if (isa_selector_null(selector))
		isa_selector_fault(cs, X86_TRAP_GP, 0);
	if (selector & 4 || !isa_descriptor_read(cs, selector, &d))
		isa_selector_fault(cs, X86_TRAP_GP, selector);
	type = isa_ar_type(d.ar);
	if (d.ar & VMX_AR_S ||
	    (type != SYS_TSS32 && (isa_ia32e(cs) || type != SYS_TSS16)))
		isa_selector_fault(cs, X86_TRAP_GP, selector);
	if (!(d.ar & VMX_AR_P))
		isa_selector_fault(cs, X86_TRAP_NP, selector);
	extend_system_descriptor(cs, &d);
	cs->ops->descriptor_bit(cs, d.lin, d.raw, SYS_TSS_BUSY);
	d.ar |= SYS_TSS_BUSY;
	isa_segment_commit(&cs->tr, &d, selector);
}

bool isa_descriptor_visible(struct cpu_state *cs, uint16_t selector, struct isa_descriptor *d)
{
	unsigned dpl;

	if (isa_selector_null(selector) || !isa_descriptor_read(cs, selector, d))
		return false;
	if (isa_ar_conforming(d->ar))
		return true;
	dpl = isa_ar_dpl(d->ar);
	return cs->cpl <= dpl && (unsigned)(selector & 3) <= dpl;
}

void isa_check_rip(struct cpu_state *cs, uint32_t ar, uint32_t limit, uint64_t offset)
{
	if (isa_ia32e(cs) && ar & VMX_AR_L) {
		if (!isa_canonical(cs, offset))
			isa_raise_error(cs, X86_TRAP_GP, isa_ext_bit(cs));
	} else if (offset > limit) {
		isa_raise_error(cs, X86_TRAP_GP, isa_ext_bit(cs));
	}
}
