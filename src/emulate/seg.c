/*
 * Segments in the emulator: loads of segment registers, LDTR and TR. The
 * processor does them itself but for two cases: a descriptor whose accessed or
 * busy bit is to be set where nothing can be written (a GDT in a read-only
 * slot, in a device), and real mode without unrestricted guest.
 *
 * Invariants
 * 1. A check comes before everything that is written, memory or register.
 * 2. Descriptors are read and written as supervisor at any CPL, and written as
 *    a whole: the client sees one write of 8 bytes, as from Linux for LTR (whose
 *    emulator does not get past an accessed flag there).
 *
 * Source: SDM Vol. 2, MOV, POP, LDS/LES/LFS/LGS/LSS, LLDT, LTR; Vol. 3,
 * "Protection", "Segment Loading Instructions in IA-32e Mode".
 */
#include "emulate/internal.h"
#include "sdm/descriptor.h"

#define TYPE_BUSY 2U /* SYS_TSS16_BUSY, SYS_TSS32_BUSY */

static void fault(struct cpu_state *cs, enum exception_vector v, uint16_t selector)
	__attribute__((noreturn));
static void fault(struct cpu_state *cs, enum exception_vector v, uint16_t selector)
{
	isa_raise_error(cs, v, selector & 0xfffcU);
}

static unsigned dpl_of(uint32_t ar)
{
	return (unsigned)FIELD_GET(VMX_AR_DPL_MASK, ar);
}

static bool conforming(uint32_t ar)
{
	return (ar & VMX_AR_TYPE_CODE) && (ar & VMX_AR_TYPE_EXPAND_DOWN);
}

/* Linear address of the 8 bytes `skip` behind the descriptor's first; false: outside its table. */
static bool descriptor_address(struct cpu_state *cs, uint16_t selector, unsigned skip, gva_t *lin)
{
	unsigned first = (selector & 0xfff8U) + skip;
	bool ldt = selector & 4;

	if (ldt)
		kvm_emulator_load_tr_ldt(cs);
	if (ldt && (cs->ldtr.ar & VMX_AR_UNUSABLE))
		return false;
	if (first + 7 > (ldt ? cs->ldtr.limit : cs->gdtr.limit))
		return false;
	*lin = (ldt ? cs->ldtr.base : cs->gdtr.base) + first;
	if (!(cs->efer & EFER_LMA))
		*lin = (uint32_t)*lin;
	return true;
}

static bool read_descriptor(struct cpu_state *cs, uint16_t selector, struct emulator_descriptor *d)
{
	if (!descriptor_address(cs, selector, 0, &d->lin))
		return false;
	d->raw = kvm_emulator_system_load(cs, d->lin, 8);
	d->seg = (struct cpu_segment){
		.selector = selector,
		.base = sdm_descriptor_base(d->raw),
		.limit = sdm_descriptor_limit(d->raw),
		.ar = sdm_descriptor_rights(d->raw),
	};
	return true;
}

/* A bit of the type: accessed, busy. */
static void set_type_bit(struct cpu_state *cs, struct emulator_descriptor *d, unsigned bit)
{
	if (!d->raw || (d->seg.ar & bit))
		return;
	d->seg.ar |= bit;
	d->raw |= (uint64_t)bit << 40;
	kvm_emulator_system_store(cs, d->lin, 8, d->raw);
}

void kvm_emulator_set_accessed(struct cpu_state *cs, struct emulator_descriptor *d)
{
	set_type_bit(cs, d, VMX_AR_TYPE_ACCESSED);
}

void kvm_emulator_set_segment(struct cpu_state *cs, unsigned nr, const struct cpu_segment *s)
{
	cs->seg[nr] = *s;
	kvm_emulator_sys(cs)->dirty_segs |= 1U << nr;
}

/* Real and virtual-8086 mode: limit and rights stay in the former, which is what "big real mode" lives on. */
static struct emulator_descriptor real_segment(const struct cpu_state *cs, uint16_t selector, unsigned nr)
{
	struct emulator_descriptor d = { .seg = cs->seg[nr] };

	if (cs->rflags & X86_FLAGS_VM) {
		d.seg.limit = 0xffff;
		d.seg.ar = 0xf3; /* present, DPL 3, data, writable, accessed */
	}
	d.seg.selector = selector;
	d.seg.base = (uint64_t)selector << 4;
	return d;
}

static struct emulator_descriptor null_segment(struct cpu_state *cs, uint16_t selector, unsigned nr)
{
	unsigned dpl = 0;

	if (nr == SREG_SS) {
		if (cs->code_mode != ISA_CODE64 || cs->cpl == 3 || (selector & 3) != cs->cpl)
			isa_raise_error(cs, X86_TRAP_GP, 0);
		dpl = cs->cpl; /* CPL is SS.DPL */
	}
	return (struct emulator_descriptor){ .seg = {
		.selector = selector,
		.ar = (uint32_t)(VMX_AR_UNUSABLE | FIELD_PREP(VMX_AR_DPL_MASK, dpl)),
	} };
}

static void check_stack_segment(struct cpu_state *cs, const struct cpu_segment *s)
{
	if ((s->ar & (VMX_AR_S | VMX_AR_TYPE_CODE | VMX_AR_TYPE_WRITABLE)) != (VMX_AR_S | VMX_AR_TYPE_WRITABLE) ||
	    (s->selector & 3U) != cs->cpl || dpl_of(s->ar) != cs->cpl)
		fault(cs, X86_TRAP_GP, s->selector);
	if (!(s->ar & VMX_AR_P))
		fault(cs, X86_TRAP_SS, s->selector);
}

static void check_data_segment(struct cpu_state *cs, const struct cpu_segment *s)
{
	unsigned dpl = dpl_of(s->ar), rpl = s->selector & 3U;

	/* data, or code that can be read */
	if (!(s->ar & VMX_AR_S) || ((s->ar & VMX_AR_TYPE_CODE) && !(s->ar & VMX_AR_TYPE_WRITABLE)))
		fault(cs, X86_TRAP_GP, s->selector);
	if (!conforming(s->ar) && (rpl > dpl || cs->cpl > dpl))
		fault(cs, X86_TRAP_GP, s->selector);
	if (!(s->ar & VMX_AR_P))
		fault(cs, X86_TRAP_NP, s->selector);
}

/* What a data segment register or SS would hold. */
static struct emulator_descriptor check_segment(struct cpu_state *cs, uint16_t selector, unsigned nr)
{
	struct emulator_descriptor d;

	if (!kvm_emulator_protected(cs))
		return real_segment(cs, selector, nr);
	if (!(selector & 0xfffcU))
		return null_segment(cs, selector, nr);
	if (!read_descriptor(cs, selector, &d))
		fault(cs, X86_TRAP_GP, selector);
	if (nr == SREG_SS)
		check_stack_segment(cs, &d.seg);
	else
		check_data_segment(cs, &d.seg);
	return d;
}

static void check_code_privilege(struct cpu_state *cs, const struct cpu_segment *s, bool ret)
{
	unsigned dpl = dpl_of(s->ar), rpl = s->selector & 3U;

	if (ret && rpl > cs->cpl)
		kvm_emulator_unsupported(cs); /* to an outer level */
	if (ret ? rpl < cs->cpl : !conforming(s->ar) && rpl > cs->cpl)
		fault(cs, X86_TRAP_GP, s->selector);
	if (conforming(s->ar) ? dpl > cs->cpl : dpl != cs->cpl)
		fault(cs, X86_TRAP_GP, s->selector);
}

struct emulator_descriptor kvm_emulator_check_code(struct cpu_state *cs, uint16_t selector, uint64_t offset,
						   bool ret)
{
	struct emulator_descriptor d;
	bool code64;

	if (!kvm_emulator_protected(cs)) {
		d = real_segment(cs, selector, SREG_CS);
		if (offset > d.seg.limit)
			isa_raise_error(cs, X86_TRAP_GP, 0);
		return d;
	}
	if (!(selector & 0xfffcU))
		isa_raise_error(cs, X86_TRAP_GP, 0);
	if (!read_descriptor(cs, selector, &d))
		fault(cs, X86_TRAP_GP, selector);
	if (!(d.seg.ar & VMX_AR_S) && !ret)
		kvm_emulator_unsupported(cs); /* a gate */
	code64 = (cs->efer & EFER_LMA) && (d.seg.ar & VMX_AR_L);
	if (!(d.seg.ar & VMX_AR_S) || !(d.seg.ar & VMX_AR_TYPE_CODE) || (code64 && (d.seg.ar & VMX_AR_DB)))
		fault(cs, X86_TRAP_GP, selector);
	check_code_privilege(cs, &d.seg, ret);
	if (!(d.seg.ar & VMX_AR_P))
		fault(cs, X86_TRAP_NP, selector);
	if (code64 ? !isa_canonical(cs, offset) : offset > d.seg.limit)
		isa_raise_error(cs, X86_TRAP_GP, 0);
	d.seg.selector = (uint16_t)((selector & ~3U) | cs->cpl);
	return d;
}

static void load_segment(struct cpu_state *cs, unsigned nr, uint16_t selector)
{
	struct emulator_descriptor d = check_segment(cs, selector, nr);

	kvm_emulator_set_accessed(cs, &d);
	kvm_emulator_set_segment(cs, nr, &d.seg);
}

static void shadow_after_ss(struct cpu_state *cs, unsigned nr)
{
	if (nr == SREG_SS)
		kvm_emulator_sys(cs)->shadow = KVM_X86_SHADOW_INT_MOV_SS;
}

/* --- instructions --- */

void kvm_emulate_mov_from_sreg(struct cpu_state *cs, const struct isa_insn *i)
{
	kvm_emulator_write_rm(cs, i, i->flags & ISA_MEM ? 2 : i->opsize, cs->seg[i->src].selector);
	kvm_emulator_next(cs, i);
}

void kvm_emulate_mov_to_sreg(struct cpu_state *cs, const struct isa_insn *i)
{
	load_segment(cs, i->src, (uint16_t)kvm_emulator_read_rm(cs, i, 2));
	shadow_after_ss(cs, i->src);
	kvm_emulator_next(cs, i);
}

void kvm_emulate_push_sreg(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_push(cs, i->opsize, cs->seg[i->src].selector);
	kvm_emulator_next(cs, i);
}

void kvm_emulate_pop_sreg(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t selector;

	kvm_emulator_stack_peek(cs, 1, i->opsize, &selector);
	load_segment(cs, i->src, (uint16_t)selector);
	kvm_emulator_stack_move(cs, i->opsize);
	shadow_after_ss(cs, i->src);
	kvm_emulator_next(cs, i);
}

void kvm_emulate_load_far_pointer(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t offset;
	uint16_t selector = kvm_emulator_far_pointer(cs, i, &offset);

	load_segment(cs, i->aux, selector);
	isa_set_gpr(cs, i->src, i->opsize, offset);
	kvm_emulator_next(cs, i);
}

/* Of IA-32e mode: the second half of an LDT's or TSS's descriptor. */
static void extend(struct cpu_state *cs, struct emulator_descriptor *d)
{
	uint64_t high;
	gva_t lin;

	if (!(cs->efer & EFER_LMA))
		return;
	if (!descriptor_address(cs, d->seg.selector, 8, &lin))
		fault(cs, X86_TRAP_GP, d->seg.selector);
	high = kvm_emulator_system_load(cs, lin, 8);
	if (high & GENMASK_ULL(44, 40)) /* the type of the upper half must be 0 */
		fault(cs, X86_TRAP_GP, d->seg.selector);
	d->seg.base |= high << 32;
	if (!isa_canonical(cs, d->seg.base))
		fault(cs, X86_TRAP_GP, d->seg.selector);
}

/* An LDT's or TSS's descriptor, of a type whose bit is in `types`. */
static struct emulator_descriptor system_segment(struct cpu_state *cs, uint16_t selector, unsigned types)
{
	struct emulator_descriptor d;

	if ((selector & 4) || !read_descriptor(cs, selector, &d))
		fault(cs, X86_TRAP_GP, selector);
	if ((d.seg.ar & VMX_AR_S) || !(types >> (d.seg.ar & VMX_AR_TYPE_MASK) & 1))
		fault(cs, X86_TRAP_GP, selector);
	if (!(d.seg.ar & VMX_AR_P))
		fault(cs, X86_TRAP_NP, selector);
	extend(cs, &d);
	return d;
}

void kvm_emulate_lldt(struct cpu_state *cs, const struct isa_insn *i)
{
	uint16_t selector;

	selector = (uint16_t)kvm_emulator_read_rm(cs, i, 2);
	kvm_emulator_load_tr_ldt(cs);
	if (selector & 0xfffcU)
		cs->ldtr = system_segment(cs, selector, 1U << SYS_LDT).seg;
	else
		cs->ldtr = (struct cpu_segment){ .selector = selector, .ar = VMX_AR_UNUSABLE };
	kvm_emulator_sys(cs)->dirty_system_segs = true;
	kvm_emulator_next(cs, i);
}

void kvm_emulate_ltr(struct cpu_state *cs, const struct isa_insn *i)
{
	unsigned types = cs->efer & EFER_LMA ? 1U << SYS_TSS32 : 1U << SYS_TSS32 | 1U << SYS_TSS16;
	struct emulator_descriptor d;
	uint16_t selector;

	selector = (uint16_t)kvm_emulator_read_rm(cs, i, 2);
	if (!(selector & 0xfffcU))
		isa_raise_error(cs, X86_TRAP_GP, 0);
	d = system_segment(cs, selector, types);
	set_type_bit(cs, &d, TYPE_BUSY);
	kvm_emulator_load_tr_ldt(cs);
	cs->tr = d.seg;
	kvm_emulator_sys(cs)->dirty_system_segs = true;
	kvm_emulator_next(cs, i);
}

/* SLDT, STR: i->aux says which. */
void kvm_emulate_store_system_selector(struct cpu_state *cs, const struct isa_insn *i)
{
	kvm_emulator_load_tr_ldt(cs);
	kvm_emulator_write_rm(cs, i, i->flags & ISA_MEM ? 2 : i->opsize, i->aux ? cs->tr.selector : cs->ldtr.selector);
	kvm_emulator_next(cs, i);
}
