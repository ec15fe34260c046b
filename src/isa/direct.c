/*
 * MOVDIRI, MOVDIR64B, CLZERO and SERIALIZE: stores of whole units, and the
 * barrier that is nothing else.
 *
 * Invariants
 * 1. The 64 bytes of MOVDIR64B are stored at once, by the host's own
 *    instruction: a device in another thread never sees part of them.
 * 2. MOVDIR64B reads its source before it asks for its destination.
 *
 * Sources: SDM Vol. 2, "MOVDIRI", "MOVDIR64B", "SERIALIZE"; AMD64 APM Vol. 3,
 * "CLZERO". Locks: none.
 */
#include "isa/decoder.h"
#include "isa/internal.h"

#define UNIT 64u

HANDLER(movdiri)
{
	uint64_t lin = isa_operand(cs, i, i->opsize, ISA_WRITE);

	isa_store(cs, lin, i->opsize, cs->gpr[i->reg]);
}

/* Linear address of ES:[reg], at the address size. */
static uint64_t destination(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t ea = cs->gpr[i->reg];

	if (i->adsize != 8)
		ea = i->adsize == 4 ? (uint32_t)ea : (uint16_t)ea;
	return cs->code_mode == ISA_CODE64 ? ea : isa_linear(cs, SREG_ES, ea, UNIT, ISA_WRITE);
}

HANDLER(movdir64b)
{
	uint64_t to, from[UNIT / 8] __attribute__((aligned(64)));
	void *p;

	isa_load_bytes(cs, isa_operand(cs, i, UNIT, ISA_READ), from, UNIT);
	to = destination(cs, i);
	if (to & (UNIT - 1))
		isa_raise_error(cs, X86_TRAP_GP, 0);
	p = isa_tlb_write(cs, to, UNIT);
	if (unlikely(!p))
		p = cs->ops->mem(cs, to, UNIT, ISA_WRITE, cs->bounce);
	__asm__ volatile(".byte 0x66, 0x0f, 0x38, 0xf8, 0x02" /* movdir64b rax, [rdx] */
			 : : "a"(p), "d"(from) : "memory");
	isa_rmw_end(cs, to, UNIT, p);
}

/* The line that rAX points into; nothing says that its stores are at once. */
HANDLER(clzero)
{
	static const uint64_t zeros[UNIT / 8];
	uint64_t ea = cs->gpr[RAX];

	if (i->adsize != 8)
		ea = i->adsize == 4 ? (uint32_t)ea : (uint16_t)ea;
	ea &= ~(uint64_t)(UNIT - 1);
	isa_store_bytes(cs, isa_linear(cs, i->seg, ea, UNIT, ISA_WRITE), zeros, UNIT);
}

/* Whatever is fetched after it, is so from the next block. */
HANDLER(serialize)
{
	__sync_synchronize();
	cs->rip = isa_next_rip(cs, i);
}

/* 0f 01 e8, 0f 01 fc; 0f38 f8 with 66, 0f38 f9 */
isa_fn *isa_pick_direct(const struct isa_decoded *d, struct isa_insn *i)
{
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_MOVDIRI:
		i->opsize = i->opsize == 8 ? 8 : 4;
		return movdiri;
	case ZYDIS_MNEMONIC_MOVDIR64B:
		return isa_host_has(HOST_MOVDIR64B) ? movdir64b : NULL;
	case ZYDIS_MNEMONIC_CLZERO:
		return isa_host()->vendor == HOST_AMD ? clzero : NULL;
	case ZYDIS_MNEMONIC_SERIALIZE:
		i->flags |= ISA_ENDS_BLOCK;
		return serialize;
	default:
		return NULL;
	}
}
