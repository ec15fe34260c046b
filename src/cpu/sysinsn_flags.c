/*
 * Instructions on RFLAGS: CLI, STI, CLAC, STAC, PUSHF, POPF.
 *
 * IOPL decides who may change IF. Below it CR4.VME (virtual-8086 mode) and CR4.PVI
 * (protected mode at CPL 3) put VIF in its place, and VIP calls the monitor.
 * Source: SDM Vol. 2, these instructions; Vol. 3, "Virtual-8086 Mode Extensions",
 * "Protected-Mode Virtual Interrupts". Locks: none.
 */
#include "cpu/system.h"

void cpu_set_vif(struct vmx_cpu *cpu, bool vif)
{
	cpu->cs.rflags = (cpu->cs.rflags & ~X86_FLAGS_VIF) | (vif ? X86_FLAGS_VIF : 0);
}

void cpu_check_virtual_flags(struct vmx_cpu *cpu, uint64_t flags)
{
	if (flags & X86_FLAGS_TF || (flags & X86_FLAGS_IF && cpu->cs.rflags & X86_FLAGS_VIP))
		isa_raise_error(&cpu->cs, X86_TRAP_GP, 0);
}

/* CLI and STI, PUSHF and POPF in virtual-8086 mode: sensitive to IOPL. */
static void require_iopl(struct cpu_state *cs)
{
	if (!isa_real(cs) && cs->cpl > isa_iopl(cs))
		isa_raise_error(cs, X86_TRAP_GP, 0);
}

void sysinsn_cli(struct cpu_state *cs, const struct isa_insn *i)
{
	if (isa_virtual_if(cs)) {
		cpu_set_vif(cpu_of(cs), false);
		return;
	}
	require_iopl(cs);
	cs->rflags &= ~X86_FLAGS_IF;
}

void sysinsn_sti(struct cpu_state *cs, const struct isa_insn *i)
{
	if (isa_virtual_if(cs)) {
		if (cs->rflags & X86_FLAGS_VIP)
			isa_raise_error(cs, X86_TRAP_GP, 0);
		cpu_set_vif(cpu_of(cs), true);
		cpu_next(cs, i);
		return;
	}
	require_iopl(cs);
	if (!(cs->rflags & X86_FLAGS_IF)) {
		cs->rflags |= X86_FLAGS_IF;
		cpu_of(cs)->interruptibility |= (uint32_t)GUEST_INTR_STATE_STI;
	}
	cpu_next(cs, i);
}

static void set_ac(struct cpu_state *cs, uint64_t ac)
{
	if (cs->cpl != 0)
		isa_raise(cs, X86_TRAP_UD);
	if ((cs->rflags & X86_FLAGS_AC) == ac)
		return;
	cs->rflags ^= X86_FLAGS_AC;
	if (cs->cr4 & X86_CR4_SMAP)
		cpu_mode_changed(cpu_of(cs));
}

void sysinsn_clac(struct cpu_state *cs, const struct isa_insn *i)
{
	set_ac(cs, 0);
}

void sysinsn_stac(struct cpu_state *cs, const struct isa_insn *i)
{
	set_ac(cs, X86_FLAGS_AC);
}

/* PUSHF and POPF with an image in which IF is VIF: of 16 bits only, those of 32 bits are the monitor's. */
static bool virtual_image(const struct vmx_cpu *cpu, const struct isa_insn *i)
{
	return isa_v86(&cpu->cs) && i->opsize == 2 && isa_virtual_if(&cpu->cs);
}

void sysinsn_pushf(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t flags = cpu_rflags(cs) & ~(X86_FLAGS_RF | X86_FLAGS_VM);

	if (virtual_image(cpu_of(cs), i))
		flags = isa_virtual_flags(flags);
	else if (isa_v86(cs))
		require_iopl(cs);
	isa_push(cs, i->opsize, flags);
}

#define POPF_ALWAYS (X86_FLAGS_ARITH | X86_FLAGS_TF | X86_FLAGS_DF | X86_FLAGS_NT)

static void popf_virtual(struct vmx_cpu *cpu, const struct isa_insn *i)
{
	struct isa_stack st;
	uint64_t v;

	isa_stack_current(&cpu->cs, &st);
	v = isa_stack_pop(&st, 2);
	cpu_check_virtual_flags(cpu, v);
	isa_stack_commit(&st);
	cpu_set_rflags(&cpu->cs, (cpu_rflags(&cpu->cs) & ~(POPF_ALWAYS | X86_FLAGS_RF)) | (v & POPF_ALWAYS));
	cpu_set_vif(cpu, v & X86_FLAGS_IF);
	cpu_next(&cpu->cs, i);
}

void sysinsn_popf(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	uint64_t mask = POPF_ALWAYS;
	uint64_t old = cpu_rflags(cs), v;

	if (virtual_image(cpu, i)) {
		popf_virtual(cpu, i);
		return;
	}
	if (isa_v86(cs))
		require_iopl(cs);
	if (i->opsize != 2)
		mask |= X86_FLAGS_AC | X86_FLAGS_ID;
	if (isa_real(cs) || cs->cpl == 0)
		mask |= X86_FLAGS_IF | X86_FLAGS_IOPL;
	else if (cs->cpl <= isa_iopl(cs))
		mask |= X86_FLAGS_IF;
	v = isa_pop(cs, i->opsize);
	v = (old & ~(mask | X86_FLAGS_RF)) | (v & mask);
	cpu_set_rflags(cs, v);
	if ((old ^ v) & X86_FLAGS_AC)
		cpu_mode_changed(cpu);
	cpu_next(cs, i);
}
