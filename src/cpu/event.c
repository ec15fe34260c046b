/*
 * Events: exceptions, interrupts and software interrupts on their way through
 * the IDT.
 *
 *   ops->raise ──► cpu_exception ──► exception bitmap ──► VM exit
 *                       │ merge with an event in delivery: #DF, triple fault
 *   INT n ─► cpu_software_event ─►  cpu_deliver_event ◄── VM entry, interrupts
 *
 * Invariants
 * 1. cpu->event is active exactly from the beginning of a delivery to its
 *    completion. A VM exit on the way reports it as IDT-vectoring information;
 *    an exception on the way is merged with it.
 * 2. cs->rip is the interrupted address throughout (the instruction itself for
 *    faults and software events), and cs->cur is a dummy with off 0 at that
 *    address, so that isa_rip() holds whoever asks.
 * 3. Nothing is committed before all of the frame is written.
 * 4. Debug traps that blocking by MOV SS holds back are lost when anything but a
 *    software interrupt or exception has been delivered: #DB comes once. Those two
 *    take the traps along, to before their handler's first instruction.
 *
 * Source: SDM Vol. 3, "Interrupt and Exception Handling", "Interrupt 8—Double
 * Fault Exception", "Information for VM Exits During Event Delivery", "Delivery
 * of Pending Debug Exceptions after VM Entry"; Vol. 2,
 * INT n.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/system.h"

#define IDT_ERROR(vector) ((uint16_t)((vector) << 3 | 2))
#define TSS_IO_MAP_BASE 0x66
#define TSS_REDIRECTION_BYTES 32

/* What isa_rip() sees while an event is delivered. */
static const struct isa_insn delivery_insn;

/* --- exceptions: intercept, merge --- */

enum exception_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum exception_class classify(unsigned vector)
{
	switch (vector) {
	case X86_TRAP_DE:
	case X86_TRAP_TS:
	case X86_TRAP_NP:
	case X86_TRAP_SS:
	case X86_TRAP_GP:
		return CONTRIBUTORY;
	case X86_TRAP_PF:
	case X86_TRAP_VE:
		return PAGE_FAULT;
	case X86_TRAP_DF:
		return DOUBLE_FAULT;
	default:
		return BENIGN;
	}
}

/* SDM table "Conditions for Generating a Double Fault"; second while delivering first. */
static bool makes_double_fault(enum exception_class first, enum exception_class second)
{
	return (first == CONTRIBUTORY && second == CONTRIBUTORY) ||
	       (first == PAGE_FAULT && (second == CONTRIBUTORY || second == PAGE_FAULT));
}

static bool intercepted(const struct vmx_cpu *cpu, unsigned vector, uint32_t error_code)
{
	bool bit = (cpu->exception_bitmap >> vector) & 1;

	if (vector == X86_TRAP_PF)
		return bit == ((error_code & cpu->pf_mask) == cpu->pf_match);
	return bit;
}

/* The interruption information of an event, for exits. */
static uint32_t intr_info(const struct vmx_cpu *cpu, unsigned vector, enum intr_type type,
			  bool has_error_code)
{
	uint32_t info = (uint32_t)(INTR_INFO_VALID_MASK | vector |
				   FIELD_PREP(INTR_INFO_INTR_TYPE_MASK, type));

	if (has_error_code && !isa_real(&cpu->cs))
		info |= (uint32_t)INTR_INFO_DELIVER_CODE_MASK;
	return info;
}

static void exit_exception(struct vmx_cpu *cpu, const struct isa_exception *ex)
	__attribute__((noreturn));
static void exit_exception(struct vmx_cpu *cpu, const struct isa_exception *ex)
{
	struct cpu_exit e = { .reason = EXIT_REASON_EXCEPTION_NMI, .rip = cpu->cs.rip };

	e.intr_info = intr_info(cpu, ex->vector, INTR_TYPE_HARD_EXCEPTION, ex->has_error_code);
	if (ex->has_error_code && !isa_real(&cpu->cs))
		e.intr_error = ex->error_code;
	if (ex->vector == X86_TRAP_PF || ex->vector == X86_TRAP_DB)
		e.qualification = ex->payload;
	if (cpu->iret_unblocked && !cpu->event.active && ex->vector != X86_TRAP_DF)
		e.intr_info |= (uint32_t)INTR_INFO_UNBLOCK_NMI;
	cpu_vmexit(cpu, &e);
}

static void triple_fault(struct vmx_cpu *cpu) __attribute__((noreturn));
static void triple_fault(struct vmx_cpu *cpu)
{
	struct cpu_exit e = { .reason = EXIT_REASON_TRIPLE_FAULT, .rip = cpu->cs.rip };

	cpu->event.active = false; /* such an exit is not "during event delivery" */
	cpu_vmexit(cpu, &e);
}

/* The registers that carry news of an exception which the guest will see. */
static void exception_payload(struct vmx_cpu *cpu, const struct isa_exception *ex)
{
	struct cpu_state *cs = &cpu->cs;

	if (ex->vector == X86_TRAP_PF) {
		cs->cr2 = ex->payload;
	} else if (ex->vector == X86_TRAP_DB) {
		cs->dr6 = (cs->dr6 & ~0xfULL) |
			  (ex->payload & (0xf | DR6_BD | DR6_BS | DR6_BT)) | DR6_ACTIVE_LOW;
		cs->dr7 &= ~DR7_GD;
		cpu->debugctl &= ~3ULL; /* LBR, BTF */
	}
}

/* --- the chain that may end in a triple fault --- */

static void chain_add(struct vmx_cpu *cpu, const struct vmx_fault *f)
{
	if (cpu->chain.nr == VMX_FAULT_CHAIN) {
		for (unsigned n = 1; n < VMX_FAULT_CHAIN; n++)
			cpu->chain.fault[n - 1] = cpu->chain.fault[n];
		cpu->chain.nr--;
	}
	cpu->chain.fault[cpu->chain.nr++] = *f;
}

/* An exception comes up, and `first` is the class of the exception in delivery. */
static void chain_note(struct vmx_cpu *cpu, const struct isa_exception *ex, enum exception_class first)
{
	const struct cpu_event *ev = &cpu->event;

	if (!ev->active)
		cpu->chain.nr = 0;
	/* injected by the hypervisor, or an interrupt: its delivery is what fails */
	if (ev->active && ev->type == INTR_TYPE_HARD_EXCEPTION && !cpu->chain.nr)
		chain_add(cpu, &(struct vmx_fault){ .vector = ev->vector, .has_error_code = ev->has_error_code,
						    .error_code = ev->error_code, .during = -1,
						    .payload = cpu->cs.cr2 });
	chain_add(cpu, &(struct vmx_fault){ .vector = ex->vector, .has_error_code = ex->has_error_code,
					    .error_code = ex->error_code, .payload = ex->payload,
					    .double_fault = makes_double_fault(first, classify(ex->vector)),
					    .during = ev->active ? ev->vector : -1 });
}

unsigned vmx_fault_chain(const struct vmx_cpu *cpu, struct vmx_fault out[VMX_FAULT_CHAIN])
{
	for (unsigned n = 0; n < cpu->chain.nr; n++)
		out[n] = cpu->chain.fault[n];
	return cpu->chain.nr;
}

/* --- the exception itself --- */

void cpu_exception(struct vmx_cpu *cpu, const struct isa_exception *exception)
{
	struct isa_exception ex = *exception; /* may be cs->exception, which delivery overwrites */
	struct cpu_event ev = { 0 };
	enum exception_class first = BENIGN;

	if (intercepted(cpu, ex.vector, ex.error_code)) {
		if (ex.vector == X86_TRAP_DB)
			cpu->pending_dbg = 0; /* such an exit saves none */
		exit_exception(cpu, &ex);
	}
	cpu->iret_unblocked = false;
	if (cpu->event.active && cpu->event.type == INTR_TYPE_HARD_EXCEPTION)
		first = classify(cpu->event.vector);
	chain_note(cpu, &ex, first);
	exception_payload(cpu, &ex);
	if (first == DOUBLE_FAULT && classify(ex.vector) != BENIGN)
		triple_fault(cpu);
	if (makes_double_fault(first, classify(ex.vector))) {
		ex = (struct isa_exception){ .vector = X86_TRAP_DF, .has_error_code = true };
		if (intercepted(cpu, X86_TRAP_DF, 0)) {
			cpu->event.active = false; /* nor is this one */
			exit_exception(cpu, &ex);
		}
	}
	ev.vector = ex.vector;
	ev.type = INTR_TYPE_HARD_EXCEPTION;
	ev.has_error_code = ex.has_error_code;
	ev.error_code = ex.error_code;
	cpu_deliver_event(cpu, &ev);
}

void cpu_debug_trap(struct vmx_cpu *cpu, uint64_t dr6_bits)
{
	struct isa_exception ex = { .vector = X86_TRAP_DB, .payload = dr6_bits };

	cpu_exception(cpu, &ex);
}

void cpu_software_event(struct vmx_cpu *cpu, unsigned vector, enum intr_type type,
			unsigned insn_len)
{
	struct cpu_event ev = { .vector = (uint8_t)vector, .type = (uint8_t)type,
				.insn_len = insn_len };
	bool single_step = (cpu->cs.rflags & X86_FLAGS_TF) != 0;

	/* INT n with a vector below 32 is no exception: no intercept. */
	if (type != INTR_TYPE_SOFT_INTR && intercepted(cpu, vector, 0)) {
		struct cpu_exit e = { .reason = EXIT_REASON_EXCEPTION_NMI, .rip = cpu->cs.rip,
				      .insn_len = insn_len };

		e.intr_info = intr_info(cpu, vector, type, false);
		if (vector == X86_TRAP_DB)
			cpu->pending_dbg = 0;
		cpu_vmexit(cpu, &e);
	}
	cpu_deliver_event(cpu, &ev);
	/* The transfer cleared TF: no single-step trap follows the instruction. */
	if (single_step) {
		cpu->resume_flag = 0;
		cpu_unwind(cpu);
	}
}

/* --- delivery --- */

/* A delivery in progress. */
struct delivery {
	const struct cpu_event *ev;
	uint64_t rip;	/* to be pushed */
	uint64_t flags; /* to be pushed */
	uint64_t offset;
	uint16_t selector;
	unsigned gate_type;
	unsigned ist;
	bool error_code;
	struct isa_descriptor code;
};

static bool software(const struct cpu_event *ev)
{
	return ev->type == INTR_TYPE_SOFT_INTR || ev->type == INTR_TYPE_SOFT_EXCEPTION ||
	       ev->type == INTR_TYPE_PRIV_SW_EXCEPTION;
}

/* RF in the pushed flags: set for faults, so that the restart passes its breakpoint. */
static bool sets_rf(const struct cpu_event *ev)
{
	return ev->type == INTR_TYPE_HARD_EXCEPTION && ev->vector != X86_TRAP_DB &&
	       ev->vector != X86_TRAP_DF && ev->vector != X86_TRAP_MC;
}

static void finish(struct vmx_cpu *cpu, uint64_t clear_flags)
{
	struct cpu_state *cs = &cpu->cs;

	cs->rflags &= ~clear_flags;
	cpu->pending_dbg &= ~cpu->event.lost_dbg;
	if (cpu->pending_dbg & 0xf) /* of the frame's own writes */
		cpu->pending_dbg |= PENDING_DBG_ENABLED_BP;
	cpu->event.active = false;
	cpu->chain.nr = 0;
	cpu->interruptibility &= ~(uint32_t)(GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS);
	cpu->activity = GUEST_ACTIVITY_ACTIVE;
	cpu_mode_changed(cpu);
}

static void deliver_real(struct vmx_cpu *cpu, const struct delivery *d)
{
	isa_enter_real(&cpu->cs, isa_vector_real(&cpu->cs, d->ev->vector), d->flags, d->rip);
	finish(cpu, ISA_REAL_DELIVERY_CLEARS);
}

/*
 * CR4.VME: the interrupt redirection map, 32 bytes below the TSS's I/O permission map,
 * says which INT n of virtual-8086 mode go to the 8086 program's own table (bit clear).
 */
static bool redirected(struct vmx_cpu *cpu, unsigned vector)
{
	const struct cpu_segment *tr = &cpu->cs.tr;
	uint32_t at;

	if (!(cpu->cs.cr4 & X86_CR4_VME))
		return false;
	if (tr->ar & VMX_AR_UNUSABLE || !(tr->ar & 8) || tr->limit < TSS_IO_MAP_BASE + 1)
		isa_raise_error(&cpu->cs, X86_TRAP_GP, 0);
	at = (uint32_t)isa_sys_load(&cpu->cs, tr->base + TSS_IO_MAP_BASE, 2) - TSS_REDIRECTION_BYTES + vector / 8;
	if (at > tr->limit) /* and where it would lie below the TSS */
		isa_raise_error(&cpu->cs, X86_TRAP_GP, 0);
	return !(isa_sys_load(&cpu->cs, tr->base + at, 1) >> (vector % 8) & 1);
}

/* As in real mode, by the table at linear address 0; below IOPL 3 VIF stands for IF. */
static void deliver_redirected(struct vmx_cpu *cpu, const struct delivery *d)
{
	uint32_t entry = (uint32_t)isa_sys_load(&cpu->cs, d->ev->vector * 4U, 4);
	bool virtual = isa_virtual_if(&cpu->cs);

	isa_enter_real(&cpu->cs, entry, virtual ? isa_virtual_flags(d->flags) : d->flags, d->rip);
	finish(cpu, X86_FLAGS_TF | X86_FLAGS_RF | (virtual ? X86_FLAGS_VIF : X86_FLAGS_IF));
}

/* INT n, INT3, INTO: the gate's DPL; then presence, of gates of every kind. */
static void check_idt_gate(struct vmx_cpu *cpu, const struct delivery *d, uint32_t ar)
{
	uint16_t error = IDT_ERROR(d->ev->vector);

	if ((d->ev->type == INTR_TYPE_SOFT_INTR || d->ev->type == INTR_TYPE_SOFT_EXCEPTION) &&
	    isa_ar_dpl(ar) < cpu->cs.cpl)
		isa_raise_error(&cpu->cs, X86_TRAP_GP, error);
	if (!(ar & VMX_AR_P))
		isa_raise_error(&cpu->cs, X86_TRAP_NP, error | isa_ext_bit(&cpu->cs));
}

/* The code segment of an interrupt or trap gate. */
static void check_handler_code(struct vmx_cpu *cpu, struct delivery *d)
{
	if (isa_selector_null(d->selector))
		isa_selector_fault(&cpu->cs, X86_TRAP_GP, 0);
	if (!isa_descriptor_read(&cpu->cs, d->selector, &d->code))
		isa_selector_fault(&cpu->cs, X86_TRAP_GP, d->selector);
	if (!isa_ar_code(d->code.ar) || isa_ar_dpl(d->code.ar) > cpu->cs.cpl)
		isa_selector_fault(&cpu->cs, X86_TRAP_GP, d->selector);
	if (isa_ia32e(&cpu->cs) && (d->code.ar & (VMX_AR_L | VMX_AR_DB)) != VMX_AR_L)
		isa_selector_fault(&cpu->cs, X86_TRAP_GP, d->selector);
	if (!(d->code.ar & VMX_AR_P))
		isa_selector_fault(&cpu->cs, X86_TRAP_NP, d->selector);
}

static bool goes_inward(const struct vmx_cpu *cpu, const struct delivery *d)
{
	return !isa_ar_conforming(d->code.ar) && isa_ar_dpl(d->code.ar) < cpu->cs.cpl;
}

static void commit_handler(struct vmx_cpu *cpu, struct delivery *d, unsigned cpl)
{
	struct cpu_state *cs = &cpu->cs;
	uint64_t clear = X86_FLAGS_TF | X86_FLAGS_NT | X86_FLAGS_RF | X86_FLAGS_VM;

	if (!(d->gate_type & 1)) /* interrupt gate */
		clear |= X86_FLAGS_IF;
	isa_segment_commit(&cs->seg[SREG_CS], &d->code, (uint16_t)((d->selector & ~3) | cpl));
	cs->cpl = (uint8_t)cpl;
	cs->rip = d->offset;
	finish(cpu, clear);
}

/* --- protected mode, 16- and 32-bit gates --- */

static void read_gate_legacy(struct vmx_cpu *cpu, struct delivery *d)
{
	uint16_t error = IDT_ERROR(d->ev->vector);
	struct isa_descriptor gate;

	if (d->ev->vector * 8 + 7U > cpu->cs.idtr.limit)
		isa_raise_error(&cpu->cs, X86_TRAP_GP, error | isa_ext_bit(&cpu->cs));
	isa_descriptor_parse(&gate, isa_sys_load(&cpu->cs, cpu->cs.idtr.base + d->ev->vector * 8, 8));
	d->gate_type = isa_ar_type(gate.ar);
	if (gate.ar & VMX_AR_S ||
	    (d->gate_type != SYS_TASK_GATE && (d->gate_type & 6) != 6))
		isa_raise_error(&cpu->cs, X86_TRAP_GP, error | isa_ext_bit(&cpu->cs));
	check_idt_gate(cpu, d, gate.ar);
	if (d->gate_type == SYS_TASK_GATE)
		cpu->cs.ops->task_switch(&cpu->cs, (uint16_t)(gate.raw >> 16), TASK_SWITCH_GATE);
	d->selector = (uint16_t)(gate.raw >> 16);
	d->offset = gate.raw & 0xffff;
	if (d->gate_type & 8)
		d->offset |= (gate.raw >> 32) & 0xffff0000;
}

static void push_frame_legacy(struct vmx_cpu *cpu, struct isa_stack *st, struct delivery *d)
{
	unsigned size = d->gate_type & 8 ? 4 : 2;

	isa_stack_push(st, size, d->flags);
	isa_stack_push(st, size, cpu->cs.seg[SREG_CS].selector);
	isa_stack_push(st, size, d->rip);
	if (d->error_code)
		isa_stack_push(st, size, d->ev->error_code);
	isa_check_rip(&cpu->cs, d->code.ar, d->code.limit, d->offset);
	isa_descriptor_set_accessed(&cpu->cs, &d->code);
}

static void deliver_inner(struct vmx_cpu *cpu, struct delivery *d)
{
	static const uint8_t v86_order[] = { SREG_GS, SREG_FS, SREG_DS, SREG_ES };
	struct cpu_state *cs = &cpu->cs;
	unsigned pl = isa_ar_dpl(d->code.ar), size = d->gate_type & 8 ? 4 : 2;
	struct cpu_segment ss;
	struct isa_stack st;
	uint64_t sp;
	bool v86 = isa_v86(cs);

	if (v86 && pl != 0)
		isa_selector_fault(cs, X86_TRAP_GP, d->selector);
	isa_tss_stack(cs, pl, 0, &ss, &sp);
	isa_stack_inner(cs, &st, &ss, sp, pl);
	for (unsigned n = 0; v86 && n < ARRAY_SIZE(v86_order); n++)
		isa_stack_push(&st, size, cs->seg[v86_order[n]].selector);
	isa_stack_push(&st, size, cs->seg[SREG_SS].selector);
	isa_stack_push(&st, size, cs->gpr[RSP]);
	push_frame_legacy(cpu, &st, d);

	for (unsigned n = 0; v86 && n < ARRAY_SIZE(v86_order); n++)
		isa_segment_null(&cs->seg[v86_order[n]], 0, 0);
	cs->seg[SREG_SS] = ss;
	isa_stack_commit(&st);
	commit_handler(cpu, d, pl);
}

static void deliver_legacy(struct vmx_cpu *cpu, struct delivery *d)
{
	struct isa_stack st;

	read_gate_legacy(cpu, d);
	check_handler_code(cpu, d);
	if (goes_inward(cpu, d)) {
		deliver_inner(cpu, d);
		return;
	}
	if (isa_v86(&cpu->cs))
		isa_selector_fault(&cpu->cs, X86_TRAP_GP, d->selector);
	isa_stack_current(&cpu->cs, &st);
	push_frame_legacy(cpu, &st, d);
	isa_stack_commit(&st);
	commit_handler(cpu, d, cpu->cs.cpl);
}

/* --- IA-32e mode --- */

static void read_gate_long(struct vmx_cpu *cpu, struct delivery *d)
{
	uint16_t error = IDT_ERROR(d->ev->vector);
	gva_t lin = cpu->cs.idtr.base + d->ev->vector * 16U;
	struct isa_descriptor gate;

	if (d->ev->vector * 16 + 15U > cpu->cs.idtr.limit)
		isa_raise_error(&cpu->cs, X86_TRAP_GP, error | isa_ext_bit(&cpu->cs));
	isa_descriptor_parse(&gate, isa_sys_load(&cpu->cs, lin, 8));
	d->gate_type = isa_ar_type(gate.ar);
	if (gate.ar & VMX_AR_S || (d->gate_type & 14) != 14)
		isa_raise_error(&cpu->cs, X86_TRAP_GP, error | isa_ext_bit(&cpu->cs));
	check_idt_gate(cpu, d, gate.ar);
	d->selector = (uint16_t)(gate.raw >> 16);
	d->ist = (unsigned)(gate.raw >> 32) & 7;
	d->offset = (gate.raw & 0xffff) | ((gate.raw >> 32) & 0xffff0000) |
		    isa_sys_load(&cpu->cs, lin + 8, 8) << 32;
}

static void deliver_long(struct vmx_cpu *cpu, struct delivery *d)
{
	struct cpu_state *cs = &cpu->cs;
	struct cpu_segment ss;
	struct isa_stack st;
	unsigned cpl = cs->cpl;
	uint64_t sp;
	bool inward;

	read_gate_long(cpu, d);
	check_handler_code(cpu, d);
	inward = goes_inward(cpu, d);
	if (inward)
		cpl = isa_ar_dpl(d->code.ar);
	if (inward || d->ist)
		isa_tss_stack(cs, cpl, d->ist, &ss, &sp);
	if (!inward)
		ss = cs->seg[SREG_SS];
	if (!inward && !d->ist)
		sp = cs->gpr[RSP];
	isa_stack_inner(cs, &st, &ss, sp & ~15ULL, cpl);
	st.selector = 0;

	isa_stack_push(&st, 8, cs->seg[SREG_SS].selector);
	isa_stack_push(&st, 8, cs->gpr[RSP]);
	isa_stack_push(&st, 8, d->flags);
	isa_stack_push(&st, 8, cs->seg[SREG_CS].selector);
	isa_stack_push(&st, 8, d->rip);
	if (d->error_code)
		isa_stack_push(&st, 8, d->ev->error_code);
	isa_check_rip(cs, d->code.ar, d->code.limit, d->offset);
	isa_descriptor_set_accessed(cs, &d->code);

	cs->seg[SREG_SS] = ss;
	cs->gpr[RSP] = st.sp;
	commit_handler(cpu, d, cpl);
}

void cpu_deliver_event(struct vmx_cpu *cpu, const struct cpu_event *event)
{
	struct cpu_state *cs = &cpu->cs;
	struct delivery d = { 0 };

	cpu->event = *event;
	cpu->event.active = true;
	if (isa_real(cs))
		cpu->event.has_error_code = false;
	cs->cur = &delivery_insn;
	cs->block_rip = cs->rip;
	if (event->type != INTR_TYPE_SOFT_INTR && event->type != INTR_TYPE_SOFT_EXCEPTION)
		cpu->event.lost_dbg = cpu->pending_dbg;
	if (event->type == INTR_TYPE_NMI_INTR)
		cpu->interruptibility |= (uint32_t)GUEST_INTR_STATE_NMI;

	d.ev = &cpu->event;
	d.error_code = cpu->event.has_error_code;
	d.rip = cs->rip + (software(event) ? event->insn_len : 0);
	if (!isa_code64(cs))
		d.rip = (uint32_t)d.rip;
	d.flags = cpu_rflags(cs) | (sets_rf(event) ? X86_FLAGS_RF : 0);

	if (isa_v86(cs) && event->type == INTR_TYPE_SOFT_INTR) {
		if (redirected(cpu, event->vector)) {
			deliver_redirected(cpu, &d);
			return;
		}
		/* to the monitor: INT n needs IOPL 3 */
		if (isa_iopl(cs) < 3)
			isa_raise_error(cs, X86_TRAP_GP, 0);
	}

	if (isa_real(cs))
		deliver_real(cpu, &d);
	else if (isa_ia32e(cs))
		deliver_long(cpu, &d);
	else
		deliver_legacy(cpu, &d);
}
