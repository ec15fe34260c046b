/*
 * Far JMP, CALL and RET in every mode, and what IRET shares with them. Processor and emulator both.
 *
 * Source: SDM Vol. 2, pseudo-code of these instructions; Vol. 3, "Privilege
 * Level Checking When Transferring Program Control Between Code Segments",
 * "Call Gates", "Returning from Virtual-8086 Mode".
 *
 * Invariants
 * 1. Nothing is committed before the last check and the last stack access: a
 *    fault leaves CS:RIP, SS:RSP, flags and CPL as they were.
 * 2. The functions end with cs->rip set and isa_ops.mode_changed() called.
 * 3. CPL changes only in isa_commit_cs() and together with SS.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "isa/far.h"

#define RPL(selector) ((unsigned)((selector) & 3))

static uint64_t truncate_size(uint64_t v, unsigned size)
{
	return size == 2 ? (uint16_t)v : size == 4 ? (uint32_t)v : v;
}

void isa_commit_cs(struct cpu_state *cs, const struct isa_descriptor *d, uint16_t selector, unsigned cpl, uint64_t rip)
{
	isa_segment_commit(&cs->seg[SREG_CS], d, (uint16_t)((selector & ~3) | cpl));
	cs->cpl = (uint8_t)cpl;
	cs->rip = rip;
	cs->ops->mode_changed(cs);
}

void isa_commit_cs_real(struct cpu_state *cs, uint16_t selector, uint64_t rip)
{
	isa_load_seg_real(cs, SREG_CS, selector);
	cs->rip = rip;
	cs->ops->mode_changed(cs);
}

void isa_check_rip_real(struct cpu_state *cs, uint64_t offset)
{
	uint32_t limit = isa_v86(cs) ? 0xffff : cs->seg[SREG_CS].limit;

	if (offset > limit)
		isa_raise_error(cs, X86_TRAP_GP, 0);
}

/* The descriptor a non-null code selector names: #GP otherwise. */
static void read_target(struct cpu_state *cs, uint16_t selector, struct isa_descriptor *d)
{
	if (isa_selector_null(selector))
		isa_selector_fault(cs, X86_TRAP_GP, 0);
	if (!isa_descriptor_read(cs, selector, d))
		isa_selector_fault(cs, X86_TRAP_GP, selector);
}

/* L and D of a code segment may not both be set in IA-32e mode. */
static void check_l_d(struct cpu_state *cs, const struct isa_descriptor *d, uint16_t selector)
{
	if (isa_ia32e(cs) && d->ar & VMX_AR_L && d->ar & VMX_AR_DB)
		isa_selector_fault(cs, X86_TRAP_GP, selector);
}

/* JMP or CALL straight to a code segment: CPL does not change. */
static void check_direct_code(struct cpu_state *cs, uint16_t selector,
			      const struct isa_descriptor *d)
{
	unsigned cpl = cs->cpl, dpl = isa_ar_dpl(d->ar);

	check_l_d(cs, d, selector);
	if (isa_ar_conforming(d->ar) ? dpl > cpl : (RPL(selector) > cpl || dpl != cpl))
		isa_selector_fault(cs, X86_TRAP_GP, selector);
	if (!(d->ar & VMX_AR_P))
		isa_selector_fault(cs, X86_TRAP_NP, selector);
}

/* --- call gates --- */

struct call_gate {
	uint16_t selector; /* of the code segment */
	uint64_t offset;
	unsigned size; /* of what is pushed: 2, 4 or 8 */
	unsigned params;
	struct isa_descriptor code;
};

/* The rights of a gate of any kind: DPL and present. */
static void check_gate(struct cpu_state *cs, const struct isa_descriptor *gate)
{
	unsigned dpl = isa_ar_dpl(gate->ar);

	if (dpl < cs->cpl || dpl < RPL(gate->selector))
		isa_selector_fault(cs, X86_TRAP_GP, gate->selector);
	if (!(gate->ar & VMX_AR_P))
		isa_selector_fault(cs, X86_TRAP_NP, gate->selector);
}

static void read_call_gate(struct cpu_state *cs, const struct isa_descriptor *d,
			   struct call_gate *g)
{
	uint64_t high = 0;

	check_gate(cs, d);
	g->selector = (uint16_t)(d->raw >> 16);
	g->offset = d->raw & 0xffff;
	g->params = (unsigned)(d->raw >> 32) & 31;
	g->size = isa_ar_type(d->ar) == SYS_CALL_GATE16 ? 2 : 4;
	if (g->size == 4)
		g->offset |= (d->raw >> 32) & 0xffff0000;
	if (isa_ia32e(cs)) {
		if (!isa_descriptor_read_high(cs, d->selector, &high) ||
		    high & GENMASK_ULL(44, 40))
			isa_selector_fault(cs, X86_TRAP_GP, d->selector);
		g->offset |= high << 32;
		g->size = 8;
		g->params = 0;
	}
	read_target(cs, g->selector, &g->code);
	if (!isa_ar_code(g->code.ar) || isa_ar_dpl(g->code.ar) > cs->cpl)
		isa_selector_fault(cs, X86_TRAP_GP, g->selector);
	if (isa_ia32e(cs) &&
	    (g->code.ar & (VMX_AR_L | VMX_AR_DB)) != VMX_AR_L)
		isa_selector_fault(cs, X86_TRAP_GP, g->selector);
}

/*
 * A target that is no code segment: gates and TSSs. Returns only for call
 * gates, read and checked.
 */
static void read_system_target(struct cpu_state *cs, const struct isa_descriptor *d,
			       enum task_switch_source source, struct call_gate *g)
{
	unsigned type = isa_ar_type(d->ar);

	if (d->ar & VMX_AR_S) /* a data segment */
		isa_selector_fault(cs, X86_TRAP_GP, d->selector);
	if (isa_ia32e(cs) && type != SYS_CALL_GATE32)
		isa_selector_fault(cs, X86_TRAP_GP, d->selector);
	switch (type) {
	case SYS_CALL_GATE16:
	case SYS_CALL_GATE32:
		read_call_gate(cs, d, g);
		return;
	case SYS_TASK_GATE:
		check_gate(cs, d);
		cs->ops->task_switch(cs, (uint16_t)(d->raw >> 16), source);
	case SYS_TSS16:
	case SYS_TSS32:
		if (isa_ar_dpl(d->ar) < cs->cpl || isa_ar_dpl(d->ar) < RPL(d->selector))
			isa_selector_fault(cs, X86_TRAP_GP, d->selector);
		cs->ops->task_switch(cs, d->selector, source);
	default:
		isa_selector_fault(cs, X86_TRAP_GP, d->selector);
	}
}

/* --- JMP --- */

uint16_t isa_far_pointer(struct cpu_state *cs, const struct isa_insn *i, uint64_t *offset)
{
	gva_t lin;

	if (!(i->flags & ISA_MEM)) {
		*offset = i->imm;
		return (uint16_t)i->disp;
	}
	lin = isa_linear(cs, i->seg, isa_ea(cs, i), i->opsize + 2U, ISA_READ);
	*offset = isa_load(cs, lin, i->opsize);
	return (uint16_t)isa_load(cs, lin + i->opsize, 2);
}

void isa_far_jmp(struct cpu_state *cs, uint16_t selector, uint64_t offset, unsigned size)
{
	struct isa_descriptor d;
	struct call_gate g;

	offset = truncate_size(offset, size);
	if (!isa_protected(cs)) {
		isa_check_rip_real(cs, offset);
		isa_commit_cs_real(cs, selector, offset);
		return;
	}
	read_target(cs, selector, &d);
	if (!isa_ar_code(d.ar)) {
		read_system_target(cs, &d, TASK_SWITCH_JMP, &g);
		if (!isa_ar_conforming(g.code.ar) && isa_ar_dpl(g.code.ar) != cs->cpl)
			isa_selector_fault(cs, X86_TRAP_GP, g.selector);
		if (!(g.code.ar & VMX_AR_P))
			isa_selector_fault(cs, X86_TRAP_NP, g.selector);
		d = g.code;
		selector = g.selector;
		offset = g.offset;
	} else {
		check_direct_code(cs, selector, &d);
	}
	isa_check_rip(cs, d.ar, d.limit, offset);
	isa_descriptor_set_accessed(cs, &d);
	isa_commit_cs(cs, &d, selector, cs->cpl, offset);
}

/* --- CALL --- */

static void push_return(struct cpu_state *cs, struct isa_stack *st, unsigned size, uint64_t next)
{
	isa_stack_push(st, size, cs->seg[SREG_CS].selector);
	isa_stack_push(st, size, next);
}

/* CALL through a gate to a more privileged segment: stack switch. */
static void call_inner(struct cpu_state *cs, struct call_gate *g, uint64_t next)
{
	unsigned pl = isa_ar_dpl(g->code.ar), n;
	struct isa_stack old, st;
	struct cpu_segment ss;
	uint64_t sp, params[31];

	isa_tss_stack(cs, pl, 0, &ss, &sp);
	isa_stack_current(cs, &old);
	for (n = 0; n < g->params; n++)
		params[n] = isa_stack_pop(&old, g->size);
	isa_stack_inner(cs, &st, &ss, sp, pl);
	isa_stack_push(&st, g->size, cs->seg[SREG_SS].selector);
	isa_stack_push(&st, g->size, cs->gpr[RSP]);
	while (n--)
		isa_stack_push(&st, g->size, params[n]);
	push_return(cs, &st, g->size, next);
	isa_check_rip(cs, g->code.ar, g->code.limit, g->offset);
	isa_descriptor_set_accessed(cs, &g->code);
	cs->seg[SREG_SS] = ss;
	cs->gpr[RSP] = st.sp | (st.mask == 0xffff ? cs->gpr[RSP] & ~0xffffULL : 0);
	isa_commit_cs(cs, &g->code, g->selector, pl, g->offset);
}

static void call_gate(struct cpu_state *cs, struct call_gate *g, uint64_t next)
{
	struct isa_stack st;

	if (!(g->code.ar & VMX_AR_P))
		isa_selector_fault(cs, X86_TRAP_NP, g->selector);
	if (!isa_ar_conforming(g->code.ar) && isa_ar_dpl(g->code.ar) < cs->cpl) {
		call_inner(cs, g, next);
		return;
	}
	isa_stack_current(cs, &st);
	if (isa_ia32e(cs)) { /* also from compatibility mode */
		st.flat = true;
		st.mask = ~0ULL;
	}
	push_return(cs, &st, g->size, next);
	isa_check_rip(cs, g->code.ar, g->code.limit, g->offset);
	isa_descriptor_set_accessed(cs, &g->code);
	isa_stack_commit(&st);
	isa_commit_cs(cs, &g->code, g->selector, cs->cpl, g->offset);
}

void isa_far_call(struct cpu_state *cs, uint16_t selector, uint64_t offset, unsigned size,
		  uint64_t next)
{
	struct isa_descriptor d;
	struct isa_stack st;
	struct call_gate g;

	offset = truncate_size(offset, size);
	if (!isa_protected(cs)) {
		isa_stack_current(cs, &st);
		push_return(cs, &st, size, next);
		isa_check_rip_real(cs, offset);
		isa_stack_commit(&st);
		isa_commit_cs_real(cs, selector, offset);
		return;
	}
	read_target(cs, selector, &d);
	if (!isa_ar_code(d.ar)) {
		read_system_target(cs, &d, TASK_SWITCH_CALL, &g);
		call_gate(cs, &g, next);
		return;
	}
	check_direct_code(cs, selector, &d);
	isa_stack_current(cs, &st);
	push_return(cs, &st, size, next);
	isa_check_rip(cs, d.ar, d.limit, offset);
	isa_descriptor_set_accessed(cs, &d);
	isa_stack_commit(&st);
	isa_commit_cs(cs, &d, selector, cs->cpl, offset);
}

/* --- RET, and what IRET shares with it --- */

void isa_check_return_code(struct cpu_state *cs, uint16_t selector, struct isa_descriptor *d)
{
	read_target(cs, selector, d);
	if (RPL(selector) < cs->cpl || !isa_ar_fits_cs(d->ar, RPL(selector)))
		isa_selector_fault(cs, X86_TRAP_GP, selector);
	check_l_d(cs, d, selector);
	if (!(d->ar & VMX_AR_P))
		isa_selector_fault(cs, X86_TRAP_NP, selector);
}

void isa_check_return_ss(struct cpu_state *cs, uint16_t selector, unsigned pl, bool code64, struct cpu_segment *ss)
{
	struct isa_descriptor d;

	if (isa_selector_null(selector)) {
		if (!code64 || pl == 3)
			isa_raise_error(cs, X86_TRAP_GP, 0);
		ss->limit = cs->seg[SREG_SS].limit;
		isa_segment_null(ss, selector, pl);
		return;
	}
	isa_check_ss(cs, selector, pl, X86_TRAP_GP, &d);
	isa_descriptor_set_accessed(cs, &d);
	isa_segment_commit(ss, &d, selector);
}

void isa_invalidate_inner_segments(struct cpu_state *cs, unsigned cpl)
{
	static const uint8_t regs[] = { SREG_ES, SREG_DS, SREG_FS, SREG_GS };

	for (unsigned n = 0; n < ARRAY_SIZE(regs); n++) {
		struct cpu_segment *seg = &cs->seg[regs[n]];
		uint64_t base = seg->base;

		if (!(seg->ar & VMX_AR_UNUSABLE) && !isa_ar_conforming(seg->ar) &&
		    isa_ar_dpl(seg->ar) < cpl) {
			isa_segment_null(seg, 0, 0);
			seg->base = base;
		} else if (seg->ar & VMX_AR_UNUSABLE && cpl > 0) {
			seg->selector = 0; /* null with an RPL */
		}
	}
}

void isa_commit_outer_rsp(struct cpu_state *cs, const struct cpu_segment *ss, bool code64, uint64_t sp)
{
	uint64_t *rsp = &cs->gpr[RSP];

	if (code64)
		*rsp = sp;
	else if (ss->ar & VMX_AR_DB)
		*rsp = (uint32_t)sp;
	else
		*rsp = (*rsp & ~0xffffULL) | (sp & 0xffff);
}

void isa_far_ret(struct cpu_state *cs, unsigned size, unsigned release)
{
	struct isa_descriptor d;
	struct cpu_segment ss;
	struct isa_stack st;
	uint64_t rip, sp;
	uint16_t selector;
	unsigned cpl;
	bool code64;

	isa_stack_current(cs, &st);
	rip = isa_stack_pop(&st, size);
	selector = (uint16_t)isa_stack_pop(&st, size);
	st.sp = (st.sp + release) & st.mask;
	if (!isa_protected(cs)) {
		isa_check_rip_real(cs, rip);
		isa_stack_commit(&st);
		isa_commit_cs_real(cs, selector, rip);
		return;
	}
	isa_check_return_code(cs, selector, &d);
	cpl = RPL(selector);
	if (cpl == cs->cpl) {
		isa_check_rip(cs, d.ar, d.limit, rip);
		isa_descriptor_set_accessed(cs, &d);
		isa_stack_commit(&st);
		isa_commit_cs(cs, &d, selector, cpl, rip);
		return;
	}
	code64 = isa_ia32e(cs) && d.ar & VMX_AR_L;
	sp = isa_stack_pop(&st, size);
	isa_check_return_ss(cs, (uint16_t)isa_stack_pop(&st, size), cpl, code64, &ss);
	isa_check_rip(cs, d.ar, d.limit, rip);
	isa_descriptor_set_accessed(cs, &d);
	cs->seg[SREG_SS] = ss;
	isa_commit_outer_rsp(cs, &ss, code64, sp + release);
	isa_invalidate_inner_segments(cs, cpl);
	isa_commit_cs(cs, &d, selector, cpl, rip);
}
