/*
 * Instructions on RFLAGS: CLI, STI, CLAC, STAC, PUSHF, POPF.
 *
 * The rules of IF, IOPL and VIF are isa/system.h's; the blocking after STI is ours.
 * Source: SDM Vol. 2, these instructions. Locks: none.
 */
#include "cpu/system.h"

void sysinsn_cli(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_cli(cs);
}

void sysinsn_sti(struct cpu_state *cs, const struct isa_insn *i)
{
	if (isa_sti(cs))
		cpu_of(cs)->interruptibility |= (uint32_t)GUEST_INTR_STATE_STI;
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
	isa_pushf(cs, i);
}

void sysinsn_popf(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_popf(cs, i);
	cpu_next(cs, i);
}
