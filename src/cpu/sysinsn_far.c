/*
 * Handlers of far transfers: JMP, CALL, RET, IRET, INT n, INT1, INT3, INTO.
 * The work is in isa/far.c, iret.c and event.c.
 *
 * Source: SDM Vol. 2, these instructions. Locks: none.
 */
#include "cpu/system.h"

void sysinsn_jmp_far(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t offset;
	uint16_t selector = isa_far_pointer(cs, i, &offset);

	isa_far_jmp(cs, selector, offset, i->opsize);
}

void sysinsn_call_far(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t offset;
	uint16_t selector = isa_far_pointer(cs, i, &offset);

	isa_far_call(cs, selector, offset, i->opsize, isa_next_rip(cs, i));
}

void sysinsn_ret_far(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_far_ret(cs, i->opsize, i->opcode == 0xca ? (uint16_t)i->imm : 0);
}

void sysinsn_iret(struct cpu_state *cs, const struct isa_insn *i)
{
	cpu_iret(cpu_of(cs), i->opsize);
}

static void software_event(struct cpu_state *cs, const struct isa_insn *i, unsigned vector,
			   enum intr_type type)
{
	cs->rip = isa_rip(cs);
	cpu_software_event(cpu_of(cs), vector, type, i->len);
}

void sysinsn_int_n(struct cpu_state *cs, const struct isa_insn *i)
{
	/* Before anything else: virtual-8086 mode leaves INT n to the monitor, which CR4.VME asks first. */
	if (isa_v86(cs) && isa_iopl(cs) < 3 && !(cs->cr4 & X86_CR4_VME))
		isa_raise_error(cs, X86_TRAP_GP, 0);
	software_event(cs, i, (uint8_t)i->imm, INTR_TYPE_SOFT_INTR);
}

void sysinsn_int1(struct cpu_state *cs, const struct isa_insn *i)
{
	software_event(cs, i, X86_TRAP_DB, INTR_TYPE_PRIV_SW_EXCEPTION);
}

void sysinsn_int3(struct cpu_state *cs, const struct isa_insn *i)
{
	software_event(cs, i, X86_TRAP_BP, INTR_TYPE_SOFT_EXCEPTION);
}

void sysinsn_into(struct cpu_state *cs, const struct isa_insn *i)
{
	if (cs->cc & CC_OF)
		software_event(cs, i, X86_TRAP_OF, INTR_TYPE_SOFT_EXCEPTION);
	else
		cpu_next(cs, i);
}
