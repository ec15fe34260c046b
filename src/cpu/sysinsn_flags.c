/*
 * Instructions on RFLAGS: CLI, STI, CLAC, STAC, PUSHF, POPF.
 *
 * CPUID offers neither VME nor PVI, so IOPL alone decides.
 * Source: SDM Vol. 2, these instructions. Locks: none.
 */
#include "cpu/system.h"

/* CLI and STI, PUSHF and POPF in virtual-8086 mode: sensitive to IOPL. */
static void require_iopl(struct cpu_state *cs)
{
	struct vmx_cpu *cpu = cpu_of(cs);

	if (!cpu_real(cpu) && cs->cpl > cpu_iopl(cpu))
		isa_raise_error(cs, X86_TRAP_GP, 0);
}

void sysinsn_cli(struct cpu_state *cs, const struct isa_insn *i)
{
	require_iopl(cs);
	cs->rflags &= ~X86_FLAGS_IF;
}

void sysinsn_sti(struct cpu_state *cs, const struct isa_insn *i)
{
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

void sysinsn_pushf(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t flags = cpu_rflags(cs) & ~(X86_FLAGS_RF | X86_FLAGS_VM);

	if (cpu_v86(cpu_of(cs)))
		require_iopl(cs);
	isa_push(cs, i->opsize, flags);
}

void sysinsn_popf(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	uint64_t mask = X86_FLAGS_ARITH | X86_FLAGS_TF | X86_FLAGS_DF | X86_FLAGS_NT;
	uint64_t old = cpu_rflags(cs), v;

	if (cpu_v86(cpu))
		require_iopl(cs);
	if (i->opsize != 2)
		mask |= X86_FLAGS_AC | X86_FLAGS_ID;
	if (cpu_real(cpu) || cs->cpl == 0)
		mask |= X86_FLAGS_IF | X86_FLAGS_IOPL;
	else if (cs->cpl <= cpu_iopl(cpu))
		mask |= X86_FLAGS_IF;
	v = isa_pop(cs, i->opsize);
	v = (old & ~(mask | X86_FLAGS_RF)) | (v & mask);
	cpu_set_rflags(cs, v);
	if ((old ^ v) & X86_FLAGS_AC)
		cpu_mode_changed(cpu);
	cpu_next(cs, i);
}
