/*
 * IRET. Its form in real-address and virtual-8086 mode is isa/system.h's, the rules that it shares with RET are isa/far.h's.
 *
 * Source: SDM Vol. 2, "IRET/IRETD/IRETQ"; Vol. 3, "Returning from Virtual-8086 Mode".
 *
 * Invariants
 * 1. Nothing is committed before the last check and the last stack access: a
 *    fault leaves CS:RIP, SS:RSP, flags and CPL as they were.
 * 2. The functions end with cs->rip set and cpu_mode_changed() called.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/system.h"

#define RPL(selector) ((unsigned)((selector) & 3))

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

/* From level 0 into virtual-8086 mode: ESP SS ES DS FS GS follow EFLAGS. */
static void iret_to_v86(struct vmx_cpu *cpu, struct isa_stack *st, uint64_t rip,
			uint16_t selector, uint64_t flags)
{
	static const uint8_t order[] = { SREG_SS, SREG_ES, SREG_DS, SREG_FS, SREG_GS };
	struct cpu_state *cs = &cpu->cs;
	uint16_t sel[ARRAY_SIZE(order)];
	uint64_t sp = isa_stack_pop(st, 4);

	for (unsigned n = 0; n < ARRAY_SIZE(order); n++)
		sel[n] = (uint16_t)isa_stack_pop(st, 4);
	if (rip > 0xffff)
		isa_raise_error(cs, X86_TRAP_GP, 0);
	isa_commit_iret_flags(&cpu->cs, flags, 4);
	cs->rflags |= X86_FLAGS_VM;
	cs->cpl = 3;
	for (unsigned n = 0; n < ARRAY_SIZE(order); n++)
		isa_load_seg_real(cs, order[n], sel[n]);
	cs->gpr[RSP] = (uint32_t)sp;
	cpu->iret_unblocked = false;
	isa_commit_cs_real(cs, selector, (uint16_t)rip);
}

/* NT set: back to the task whose TSS is linked from this one. */
static void iret_task(struct vmx_cpu *cpu)
{
	if (isa_ia32e(&cpu->cs))
		isa_raise_error(&cpu->cs, X86_TRAP_GP, 0);
	cpu_task_switch(cpu, (uint16_t)isa_sys_load(&cpu->cs, cpu->cs.tr.base, 2), TASK_SWITCH_IRET);
}

void cpu_iret(struct vmx_cpu *cpu, unsigned size)
{
	struct cpu_state *cs = &cpu->cs;
	struct isa_descriptor d;
	struct cpu_segment ss;
	struct isa_stack st;
	uint64_t rip, flags, sp;
	uint16_t selector;
	bool with_ss, code64;
	unsigned cpl;

	unblock_nmi(cpu);
	if (!isa_protected(cs)) {
		isa_iret_real(cs, size);
		cpu->iret_unblocked = false;
		return;
	}
	if (cs->rflags & X86_FLAGS_NT)
		iret_task(cpu);
	isa_stack_current(cs, &st);
	rip = isa_stack_pop(&st, size);
	selector = (uint16_t)isa_stack_pop(&st, size);
	flags = isa_stack_pop(&st, size);
	if (flags & X86_FLAGS_VM && size == 4 && cs->cpl == 0 && !isa_ia32e(cs)) {
		iret_to_v86(cpu, &st, rip, selector, flags);
		return;
	}
	isa_check_return_code(cs, selector, &d);
	cpl = RPL(selector);
	code64 = isa_ia32e(cs) && d.ar & VMX_AR_L;
	with_ss = cpl != cs->cpl || isa_code64(cs);
	if (with_ss) {
		sp = isa_stack_pop(&st, size);
		isa_check_return_ss(cs, (uint16_t)isa_stack_pop(&st, size), cpl, code64, &ss);
	}
	isa_check_rip(cs, d.ar, d.limit, rip);
	isa_descriptor_set_accessed(cs, &d);

	isa_commit_iret_flags(&cpu->cs, flags, size);
	if (with_ss) {
		cs->seg[SREG_SS] = ss;
		isa_commit_outer_rsp(cs, &ss, code64, sp);
	} else {
		isa_stack_commit(&st);
	}
	if (cpl != cs->cpl)
		isa_invalidate_inner_segments(cs, cpl);
	cpu->iret_unblocked = false;
	isa_commit_cs(cs, &d, selector, cpl, rip);
}
