/*
 * Far JMP, CALL, RET and IRET in every mode.
 *
 * Source: SDM Vol. 2, pseudo-code of these instructions; Vol. 3, "Privilege
 * Level Checking When Transferring Program Control Between Code Segments",
 * "Call Gates", "Returning from Virtual-8086 Mode".
 *
 * Invariants
 * 1. Nothing is committed before the last check and the last stack access: a
 *    fault leaves CS:RIP, SS:RSP, flags and CPL as they were.
 * 2. The functions end with cs->rip set and cpu_mode_changed() called.
 * 3. CPL changes only in commit_cs() and together with SS.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/system.h"

#define RPL(selector) ((unsigned)((selector) & 3))

static uint64_t truncate_size(uint64_t v, unsigned size)
{
	return size == 2 ? (uint16_t)v : size == 4 ? (uint32_t)v : v;
}

static void commit_cs(struct vmx_cpu *cpu, struct cpu_descriptor *d, uint16_t selector,
		      unsigned cpl, uint64_t rip)
{
	struct cpu_state *cs = &cpu->cs;

	cpu_segment_commit(&cs->seg[SREG_CS], d, (uint16_t)((selector & ~3) | cpl));
	cs->cpl = (uint8_t)cpl;
	cs->rip = rip;
	cpu_mode_changed(cpu);
}

/* Real-address and virtual-8086 mode: no descriptor, the limit stays. */
static void commit_cs_real(struct vmx_cpu *cpu, uint16_t selector, uint64_t rip)
{
	cpu_load_seg_real(cpu, SREG_CS, selector);
	cpu->cs.rip = rip;
	cpu_mode_changed(cpu);
}

static void check_rip_real(struct vmx_cpu *cpu, uint64_t offset)
{
	uint32_t limit = cpu_v86(cpu) ? 0xffff : cpu->cs.seg[SREG_CS].limit;

	if (offset > limit)
		isa_raise_error(&cpu->cs, X86_TRAP_GP, 0);
}

/* The descriptor a non-null code selector names: #GP otherwise. */
static void read_target(struct vmx_cpu *cpu, uint16_t selector, struct cpu_descriptor *d)
{
	if (cpu_selector_null(selector))
		cpu_selector_fault(cpu, X86_TRAP_GP, 0);
	if (!cpu_descriptor_read(cpu, selector, d))
		cpu_selector_fault(cpu, X86_TRAP_GP, selector);
}

/* L and D of a code segment may not both be set in IA-32e mode. */
static void check_l_d(struct vmx_cpu *cpu, const struct cpu_descriptor *d, uint16_t selector)
{
	if (cpu_ia32e(cpu) && d->ar & VMX_AR_L && d->ar & VMX_AR_DB)
		cpu_selector_fault(cpu, X86_TRAP_GP, selector);
}

/* JMP or CALL straight to a code segment: CPL does not change. */
static void check_direct_code(struct vmx_cpu *cpu, uint16_t selector,
			      const struct cpu_descriptor *d)
{
	unsigned cpl = cpu->cs.cpl, dpl = cpu_ar_dpl(d->ar);

	check_l_d(cpu, d, selector);
	if (cpu_ar_conforming(d->ar) ? dpl > cpl : (RPL(selector) > cpl || dpl != cpl))
		cpu_selector_fault(cpu, X86_TRAP_GP, selector);
	if (!(d->ar & VMX_AR_P))
		cpu_selector_fault(cpu, X86_TRAP_NP, selector);
}

/* --- call gates --- */

struct call_gate {
	uint16_t selector; /* of the code segment */
	uint64_t offset;
	unsigned size; /* of what is pushed: 2, 4 or 8 */
	unsigned params;
	struct cpu_descriptor code;
};

/* The rights of a gate of any kind: DPL and present. */
static void check_gate(struct vmx_cpu *cpu, const struct cpu_descriptor *gate)
{
	unsigned dpl = cpu_ar_dpl(gate->ar);

	if (dpl < cpu->cs.cpl || dpl < RPL(gate->selector))
		cpu_selector_fault(cpu, X86_TRAP_GP, gate->selector);
	if (!(gate->ar & VMX_AR_P))
		cpu_selector_fault(cpu, X86_TRAP_NP, gate->selector);
}

static void read_call_gate(struct vmx_cpu *cpu, const struct cpu_descriptor *d,
			   struct call_gate *g)
{
	uint64_t high = 0;

	check_gate(cpu, d);
	g->selector = (uint16_t)(d->raw >> 16);
	g->offset = d->raw & 0xffff;
	g->params = (unsigned)(d->raw >> 32) & 31;
	g->size = cpu_ar_type(d->ar) == SYS_CALL_GATE16 ? 2 : 4;
	if (g->size == 4)
		g->offset |= (d->raw >> 32) & 0xffff0000;
	if (cpu_ia32e(cpu)) {
		if (!cpu_descriptor_read_high(cpu, d->selector, &high) ||
		    high & GENMASK_ULL(44, 40))
			cpu_selector_fault(cpu, X86_TRAP_GP, d->selector);
		g->offset |= high << 32;
		g->size = 8;
		g->params = 0;
	}
	read_target(cpu, g->selector, &g->code);
	if (!cpu_ar_code(g->code.ar) || cpu_ar_dpl(g->code.ar) > cpu->cs.cpl)
		cpu_selector_fault(cpu, X86_TRAP_GP, g->selector);
	if (cpu_ia32e(cpu) &&
	    (g->code.ar & (VMX_AR_L | VMX_AR_DB)) != VMX_AR_L)
		cpu_selector_fault(cpu, X86_TRAP_GP, g->selector);
}

/*
 * A target that is no code segment: gates and TSSs. Returns only for call
 * gates, read and checked.
 */
static void read_system_target(struct vmx_cpu *cpu, const struct cpu_descriptor *d,
			       enum task_switch_source source, struct call_gate *g)
{
	unsigned type = cpu_ar_type(d->ar);

	if (d->ar & VMX_AR_S) /* a data segment */
		cpu_selector_fault(cpu, X86_TRAP_GP, d->selector);
	if (cpu_ia32e(cpu) && type != SYS_CALL_GATE32)
		cpu_selector_fault(cpu, X86_TRAP_GP, d->selector);
	switch (type) {
	case SYS_CALL_GATE16:
	case SYS_CALL_GATE32:
		read_call_gate(cpu, d, g);
		return;
	case SYS_TASK_GATE:
		check_gate(cpu, d);
		cpu_task_gate(cpu, d, source);
	case SYS_TSS16:
	case SYS_TSS32:
		if (cpu_ar_dpl(d->ar) < cpu->cs.cpl || cpu_ar_dpl(d->ar) < RPL(d->selector))
			cpu_selector_fault(cpu, X86_TRAP_GP, d->selector);
		cpu_task_switch(cpu, d->selector, source);
	default:
		cpu_selector_fault(cpu, X86_TRAP_GP, d->selector);
	}
}

/* --- JMP --- */

void cpu_far_jmp(struct vmx_cpu *cpu, uint16_t selector, uint64_t offset, unsigned size)
{
	struct cpu_descriptor d;
	struct call_gate g;

	offset = truncate_size(offset, size);
	if (!cpu_protected(cpu)) {
		check_rip_real(cpu, offset);
		commit_cs_real(cpu, selector, offset);
		return;
	}
	read_target(cpu, selector, &d);
	if (!cpu_ar_code(d.ar)) {
		read_system_target(cpu, &d, TASK_SWITCH_JMP, &g);
		if (!cpu_ar_conforming(g.code.ar) && cpu_ar_dpl(g.code.ar) != cpu->cs.cpl)
			cpu_selector_fault(cpu, X86_TRAP_GP, g.selector);
		if (!(g.code.ar & VMX_AR_P))
			cpu_selector_fault(cpu, X86_TRAP_NP, g.selector);
		d = g.code;
		selector = g.selector;
		offset = g.offset;
	} else {
		check_direct_code(cpu, selector, &d);
	}
	cpu_check_rip(cpu, d.ar, d.limit, offset);
	cpu_descriptor_set_accessed(cpu, &d);
	commit_cs(cpu, &d, selector, cpu->cs.cpl, offset);
}

/* --- CALL --- */

static void push_return(struct vmx_cpu *cpu, struct cpu_stack *st, unsigned size, uint64_t next)
{
	cpu_stack_push(st, size, cpu->cs.seg[SREG_CS].selector);
	cpu_stack_push(st, size, next);
}

/* CALL through a gate to a more privileged segment: stack switch. */
static void call_inner(struct vmx_cpu *cpu, struct call_gate *g, uint64_t next)
{
	struct cpu_state *cs = &cpu->cs;
	unsigned pl = cpu_ar_dpl(g->code.ar), n;
	struct cpu_stack old, st;
	struct cpu_segment ss;
	uint64_t sp, params[31];

	cpu_tss_stack(cpu, pl, 0, &ss, &sp);
	cpu_stack_current(cpu, &old);
	for (n = 0; n < g->params; n++)
		params[n] = cpu_stack_pop(&old, g->size);
	cpu_stack_inner(cpu, &st, &ss, sp, pl);
	cpu_stack_push(&st, g->size, cs->seg[SREG_SS].selector);
	cpu_stack_push(&st, g->size, cs->gpr[RSP]);
	while (n--)
		cpu_stack_push(&st, g->size, params[n]);
	push_return(cpu, &st, g->size, next);
	cpu_check_rip(cpu, g->code.ar, g->code.limit, g->offset);
	cpu_descriptor_set_accessed(cpu, &g->code);
	cs->seg[SREG_SS] = ss;
	cs->gpr[RSP] = st.sp | (st.mask == 0xffff ? cs->gpr[RSP] & ~0xffffULL : 0);
	commit_cs(cpu, &g->code, g->selector, pl, g->offset);
}

static void call_gate(struct vmx_cpu *cpu, struct call_gate *g, uint64_t next)
{
	struct cpu_stack st;

	if (!(g->code.ar & VMX_AR_P))
		cpu_selector_fault(cpu, X86_TRAP_NP, g->selector);
	if (!cpu_ar_conforming(g->code.ar) && cpu_ar_dpl(g->code.ar) < cpu->cs.cpl) {
		call_inner(cpu, g, next);
		return;
	}
	cpu_stack_current(cpu, &st);
	if (cpu_ia32e(cpu)) { /* also from compatibility mode */
		st.flat = true;
		st.mask = ~0ULL;
	}
	push_return(cpu, &st, g->size, next);
	cpu_check_rip(cpu, g->code.ar, g->code.limit, g->offset);
	cpu_descriptor_set_accessed(cpu, &g->code);
	cpu_stack_commit(&st);
	commit_cs(cpu, &g->code, g->selector, cpu->cs.cpl, g->offset);
}

void cpu_far_call(struct vmx_cpu *cpu, uint16_t selector, uint64_t offset, unsigned size,
		  uint64_t next)
{
	struct cpu_descriptor d;
	struct cpu_stack st;
	struct call_gate g;

	offset = truncate_size(offset, size);
	if (!cpu_protected(cpu)) {
		cpu_stack_current(cpu, &st);
		push_return(cpu, &st, size, next);
		check_rip_real(cpu, offset);
		cpu_stack_commit(&st);
		commit_cs_real(cpu, selector, offset);
		return;
	}
	read_target(cpu, selector, &d);
	if (!cpu_ar_code(d.ar)) {
		read_system_target(cpu, &d, TASK_SWITCH_CALL, &g);
		call_gate(cpu, &g, next);
		return;
	}
	check_direct_code(cpu, selector, &d);
	cpu_stack_current(cpu, &st);
	push_return(cpu, &st, size, next);
	cpu_check_rip(cpu, d.ar, d.limit, offset);
	cpu_descriptor_set_accessed(cpu, &d);
	cpu_stack_commit(&st);
	commit_cs(cpu, &d, selector, cpu->cs.cpl, offset);
}

/* --- RET and IRET --- */

/* The code segment a return goes to; its RPL is the new CPL. */
static void check_return_code(struct vmx_cpu *cpu, uint16_t selector, struct cpu_descriptor *d)
{
	unsigned rpl = RPL(selector), dpl;

	read_target(cpu, selector, d);
	dpl = cpu_ar_dpl(d->ar);
	if (!cpu_ar_code(d->ar) || rpl < cpu->cs.cpl ||
	    (cpu_ar_conforming(d->ar) ? dpl > rpl : dpl != rpl))
		cpu_selector_fault(cpu, X86_TRAP_GP, selector);
	check_l_d(cpu, d, selector);
	if (!(d->ar & VMX_AR_P))
		cpu_selector_fault(cpu, X86_TRAP_NP, selector);
}

/* The stack segment a return goes to. A null SS is good for 64-bit code below level 3. */
static void check_return_ss(struct vmx_cpu *cpu, uint16_t selector, unsigned pl, bool code64,
			    struct cpu_segment *ss)
{
	struct cpu_descriptor d;

	if (cpu_selector_null(selector)) {
		if (!code64 || pl == 3)
			isa_raise_error(&cpu->cs, X86_TRAP_GP, 0);
		ss->limit = cpu->cs.seg[SREG_SS].limit;
		cpu_segment_null(ss, selector, pl);
		return;
	}
	cpu_check_ss(cpu, selector, pl, X86_TRAP_GP, &d);
	cpu_descriptor_set_accessed(cpu, &d);
	cpu_segment_commit(ss, &d, selector);
}

/*
 * Data segments that the outer level may not see become null. The base stays, as on
 * silicon: a 64-bit kernel that returns with such a selector in GS keeps its GS base.
 */
static void invalidate_inner_segments(struct vmx_cpu *cpu, unsigned cpl)
{
	static const uint8_t regs[] = { SREG_ES, SREG_DS, SREG_FS, SREG_GS };

	for (unsigned n = 0; n < ARRAY_SIZE(regs); n++) {
		struct cpu_segment *seg = &cpu->cs.seg[regs[n]];
		uint64_t base = seg->base;

		if (!(seg->ar & VMX_AR_UNUSABLE) && !cpu_ar_conforming(seg->ar) &&
		    cpu_ar_dpl(seg->ar) < cpl) {
			cpu_segment_null(seg, 0, 0);
			seg->base = base;
		} else if (seg->ar & VMX_AR_UNUSABLE && cpl > 0) {
			seg->selector = 0; /* null with an RPL */
		}
	}
}

/* RSP of an outer stack: its own width decides how much is replaced. */
static void commit_outer_rsp(struct vmx_cpu *cpu, const struct cpu_segment *ss, bool code64,
			     uint64_t sp)
{
	uint64_t *rsp = &cpu->cs.gpr[RSP];

	if (code64)
		*rsp = sp;
	else if (ss->ar & VMX_AR_DB)
		*rsp = (uint32_t)sp;
	else
		*rsp = (*rsp & ~0xffffULL) | (sp & 0xffff);
}

void cpu_far_ret(struct vmx_cpu *cpu, unsigned size, unsigned release)
{
	struct cpu_state *cs = &cpu->cs;
	struct cpu_descriptor d;
	struct cpu_segment ss;
	struct cpu_stack st;
	uint64_t rip, sp;
	uint16_t selector;
	unsigned cpl;
	bool code64;

	cpu_stack_current(cpu, &st);
	rip = cpu_stack_pop(&st, size);
	selector = (uint16_t)cpu_stack_pop(&st, size);
	st.sp = (st.sp + release) & st.mask;
	if (!cpu_protected(cpu)) {
		check_rip_real(cpu, rip);
		cpu_stack_commit(&st);
		commit_cs_real(cpu, selector, rip);
		return;
	}
	check_return_code(cpu, selector, &d);
	cpl = RPL(selector);
	if (cpl == cs->cpl) {
		cpu_check_rip(cpu, d.ar, d.limit, rip);
		cpu_descriptor_set_accessed(cpu, &d);
		cpu_stack_commit(&st);
		commit_cs(cpu, &d, selector, cpl, rip);
		return;
	}
	code64 = cpu_ia32e(cpu) && d.ar & VMX_AR_L;
	sp = cpu_stack_pop(&st, size);
	check_return_ss(cpu, (uint16_t)cpu_stack_pop(&st, size), cpl, code64, &ss);
	cpu_check_rip(cpu, d.ar, d.limit, rip);
	cpu_descriptor_set_accessed(cpu, &d);
	cs->seg[SREG_SS] = ss;
	commit_outer_rsp(cpu, &ss, code64, sp + release);
	invalidate_inner_segments(cpu, cpl);
	commit_cs(cpu, &d, selector, cpl, rip);
}

/* What IRET may change in RFLAGS, at the old CPL and IOPL. */
static void commit_iret_flags(struct vmx_cpu *cpu, uint64_t flags, unsigned size)
{
	struct cpu_state *cs = &cpu->cs;
	uint64_t mask = X86_FLAGS_ARITH | X86_FLAGS_TF | X86_FLAGS_DF | X86_FLAGS_NT;
	uint64_t old = cpu_rflags(cs);

	if (size != 2)
		mask |= X86_FLAGS_RF | X86_FLAGS_AC | X86_FLAGS_ID;
	if (cpu_real(cpu) || cs->cpl == 0) {
		mask |= X86_FLAGS_IF | X86_FLAGS_IOPL;
		if (size != 2 && !cpu_real(cpu))
			mask |= X86_FLAGS_VIF | X86_FLAGS_VIP;
	} else if (cs->cpl <= cpu_iopl(cpu)) {
		mask |= X86_FLAGS_IF;
	}
	/* RF matters to instruction breakpoints only; nobody else would clear it. */
	if (!(cs->dr7 & 0xff))
		flags &= ~X86_FLAGS_RF;
	cpu_set_rflags(cs, (old & ~mask) | (flags & mask));
}

/*
 * IRET ends blocking by NMI, virtual or not, before anything of it can fault;
 * an exit that a fault of it causes says so in bit 12 (SDM Vol. 3,
 * "Information About NMI Unblocking Due to IRET").
 */
static void unblock_nmi(struct vmx_cpu *cpu)
{
	bool ends = cpu->pin & PIN_BASED_VIRTUAL_NMIS || !(cpu->pin & PIN_BASED_NMI_EXITING);

	if (!ends || !(cpu->interruptibility & GUEST_INTR_STATE_NMI))
		return;
	cpu->interruptibility &= ~(uint32_t)GUEST_INTR_STATE_NMI;
	cpu->iret_unblocked = true;
}

/* Real-address and virtual-8086 mode. */
static void iret_real(struct vmx_cpu *cpu, unsigned size)
{
	bool virtual = cpu_v86(cpu) && size == 2 && cpu_virtual_if(cpu);
	struct cpu_stack st;
	uint64_t rip, flags;
	uint16_t selector;

	if (cpu_v86(cpu) && cpu_iopl(cpu) < 3 && !virtual)
		isa_raise_error(&cpu->cs, X86_TRAP_GP, 0);
	cpu_stack_current(cpu, &st);
	rip = cpu_stack_pop(&st, size);
	selector = (uint16_t)cpu_stack_pop(&st, size);
	flags = cpu_stack_pop(&st, size);
	check_rip_real(cpu, rip);
	if (virtual)
		cpu_check_virtual_flags(cpu, flags);
	cpu_stack_commit(&st);
	commit_iret_flags(cpu, flags, size);
	if (virtual)
		cpu_set_vif(cpu, flags & X86_FLAGS_IF);
	cpu->iret_unblocked = false;
	commit_cs_real(cpu, selector, rip);
}

/* From level 0 into virtual-8086 mode: ESP SS ES DS FS GS follow EFLAGS. */
static void iret_to_v86(struct vmx_cpu *cpu, struct cpu_stack *st, uint64_t rip,
			uint16_t selector, uint64_t flags)
{
	static const uint8_t order[] = { SREG_SS, SREG_ES, SREG_DS, SREG_FS, SREG_GS };
	struct cpu_state *cs = &cpu->cs;
	uint16_t sel[ARRAY_SIZE(order)];
	uint64_t sp = cpu_stack_pop(st, 4);

	for (unsigned n = 0; n < ARRAY_SIZE(order); n++)
		sel[n] = (uint16_t)cpu_stack_pop(st, 4);
	if (rip > 0xffff)
		isa_raise_error(cs, X86_TRAP_GP, 0);
	commit_iret_flags(cpu, flags, 4);
	cs->rflags |= X86_FLAGS_VM;
	cs->cpl = 3;
	for (unsigned n = 0; n < ARRAY_SIZE(order); n++)
		cpu_load_seg_real(cpu, order[n], sel[n]);
	cs->gpr[RSP] = (uint32_t)sp;
	cpu->iret_unblocked = false;
	commit_cs_real(cpu, selector, (uint16_t)rip);
}

/* NT set: back to the task whose TSS is linked from this one. */
static void iret_task(struct vmx_cpu *cpu)
{
	if (cpu_ia32e(cpu))
		isa_raise_error(&cpu->cs, X86_TRAP_GP, 0);
	cpu_task_switch(cpu, (uint16_t)cpu_sys_load(cpu, cpu->cs.tr.base, 2), TASK_SWITCH_IRET);
}

void cpu_iret(struct vmx_cpu *cpu, unsigned size)
{
	struct cpu_state *cs = &cpu->cs;
	struct cpu_descriptor d;
	struct cpu_segment ss;
	struct cpu_stack st;
	uint64_t rip, flags, sp;
	uint16_t selector;
	bool with_ss, code64;
	unsigned cpl;

	unblock_nmi(cpu);
	if (!cpu_protected(cpu)) {
		iret_real(cpu, size);
		return;
	}
	if (cs->rflags & X86_FLAGS_NT)
		iret_task(cpu);
	cpu_stack_current(cpu, &st);
	rip = cpu_stack_pop(&st, size);
	selector = (uint16_t)cpu_stack_pop(&st, size);
	flags = cpu_stack_pop(&st, size);
	if (flags & X86_FLAGS_VM && size == 4 && cs->cpl == 0 && !cpu_ia32e(cpu)) {
		iret_to_v86(cpu, &st, rip, selector, flags);
		return;
	}
	check_return_code(cpu, selector, &d);
	cpl = RPL(selector);
	code64 = cpu_ia32e(cpu) && d.ar & VMX_AR_L;
	with_ss = cpl != cs->cpl || cpu_code64(cpu);
	if (with_ss) {
		sp = cpu_stack_pop(&st, size);
		check_return_ss(cpu, (uint16_t)cpu_stack_pop(&st, size), cpl, code64, &ss);
	}
	cpu_check_rip(cpu, d.ar, d.limit, rip);
	cpu_descriptor_set_accessed(cpu, &d);

	commit_iret_flags(cpu, flags, size);
	if (with_ss) {
		cs->seg[SREG_SS] = ss;
		commit_outer_rsp(cpu, &ss, code64, sp);
	} else {
		cpu_stack_commit(&st);
	}
	if (cpl != cs->cpl)
		invalidate_inner_segments(cpu, cpl);
	cpu->iret_unblocked = false;
	commit_cs(cpu, &d, selector, cpl, rip);
}

/* --- the fixed segments of SYSCALL, SYSRET, SYSENTER, SYSEXIT --- */

void cpu_flat_cs(struct vmx_cpu *cpu, uint16_t selector, unsigned cpl, bool code64)
{
	struct cpu_segment *seg = &cpu->cs.seg[SREG_CS];

	seg->selector = selector;
	seg->base = 0;
	seg->limit = 0xffffffff;
	seg->ar = (uint32_t)(VMX_AR_G | VMX_AR_P | VMX_AR_S | 0xb |
			     FIELD_PREP(VMX_AR_DPL_MASK, cpl) | (code64 ? VMX_AR_L : VMX_AR_DB));
	cpu->cs.cpl = (uint8_t)cpl;
}

void cpu_flat_ss(struct vmx_cpu *cpu, uint16_t selector, unsigned cpl)
{
	struct cpu_segment *seg = &cpu->cs.seg[SREG_SS];

	seg->selector = selector;
	seg->base = 0;
	seg->limit = 0xffffffff;
	seg->ar = (uint32_t)(VMX_AR_G | VMX_AR_DB | VMX_AR_P | VMX_AR_S | 0x3 |
			     FIELD_PREP(VMX_AR_DPL_MASK, cpl));
}
