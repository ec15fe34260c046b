/*
 * System instructions as they are decoded: operands, operand size, and which of the forms that share a mnemonic
 * with others (MOV, PUSH, POP, JMP, CALL, RET) are of segment, control and debug registers or far. Both embeddings, the
 * processor and the emulator, choose their handlers by it.
 *
 * Invariant: operands come from the bytes alone; privilege and CPL are the handlers' to ask.
 * Locks: none; runs on the thread that decodes. Source: SDM Vol. 2, "Opcode Map" and the instructions.
 */
#include "isa/decoder.h"
#include "isa/isa.h"

/* Effective operand size: stack instructions default to 64 bits in 64-bit mode. */
static uint8_t operand_size(const struct isa_decoded *d)
{
	bool prefix66 = (d->insn.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) != 0;

	if (d->mode != ISA_CODE64)
		return (d->mode == ISA_CODE32) != prefix66 ? 4 : 2;
	if (d->insn.raw.rex.W)
		return 8;
	if (prefix66)
		return 2;
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_PUSHFQ:
	case ZYDIS_MNEMONIC_POPFQ:
		return 8;
	default:
		return 4;
	}
}

void isa_system_operands(const struct isa_decoded *d, struct isa_insn *i)
{
	const ZydisDecodedInstruction *z = &d->insn;

	if (z->attributes & ZYDIS_ATTRIB_HAS_MODRM) {
		i->src = z->raw.modrm.reg;
		if (z->mnemonic != ZYDIS_MNEMONIC_MOV || i->map != 0) /* segment registers take no REX.R */
			i->src |= (uint8_t)(z->raw.rex.R << 3);
		i->dst = (uint8_t)(z->raw.modrm.rm | z->raw.rex.B << 3);
	}
	i->opsize = operand_size(d);
}

bool isa_system_form(const struct isa_decoded *d, const struct isa_insn *i)
{
	if (d->insn.attributes & ZYDIS_ATTRIB_HAS_LOCK) /* none of them can be locked */
		return false;
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_LDS:
	case ZYDIS_MNEMONIC_LES:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS:
	case ZYDIS_MNEMONIC_LSS:
	case ZYDIS_MNEMONIC_LGDT:
	case ZYDIS_MNEMONIC_LIDT:
	case ZYDIS_MNEMONIC_SGDT:
	case ZYDIS_MNEMONIC_SIDT:
	case ZYDIS_MNEMONIC_INVLPG:
	case ZYDIS_MNEMONIC_INVPCID:
	case ZYDIS_MNEMONIC_CLFLUSH:
	case ZYDIS_MNEMONIC_CLFLUSHOPT:
	case ZYDIS_MNEMONIC_CLWB:
		return (i->flags & ISA_MEM) != 0;
	default:
		return true;
	}
}

enum isa_system_mov isa_system_mov(struct isa_insn *i)
{
	if (i->map == 0 && i->opcode == 0x8c)
		return i->src <= SREG_GS ? ISA_MOV_FROM_SREG : ISA_MOV_NONE;
	if (i->map == 0 && i->opcode == 0x8e)
		return i->src <= SREG_GS && i->src != SREG_CS ? ISA_MOV_TO_SREG : ISA_MOV_NONE;
	if (i->map != 1 || (i->opcode & ~3) != 0x20)
		return ISA_MOV_NONE;
	i->flags &= (uint8_t)~ISA_MEM; /* ModRM.mod is ignored */
	if (i->opcode & 1) {
		if (i->src > 7) /* no DR8 and up */
			return ISA_MOV_NONE;
		return i->opcode & 2 ? ISA_MOV_TO_DR : ISA_MOV_FROM_DR;
	}
	if (i->src != 0 && i->src != 2 && i->src != 3 && i->src != 4 && i->src != 8)
		return ISA_MOV_NONE;
	return i->opcode & 2 ? ISA_MOV_TO_CR : ISA_MOV_FROM_CR;
}

bool isa_push_pop_sreg(struct isa_insn *i)
{
	if (i->map == 0 && (i->opcode & ~0x1f) == 0 && (i->opcode & 7) >= 6)
		i->src = i->opcode >> 3;
	else if (i->map == 1 && (i->opcode & 0xf6) == 0xa0)
		i->src = i->opcode & 8 ? SREG_GS : SREG_FS;
	else
		return false;
	return true;
}

bool isa_far_form(const struct isa_decoded *d, struct isa_insn *i)
{
	const uint8_t *p = d->bytes + d->insn.length - 2 - i->opsize;

	if (d->insn.mnemonic == ZYDIS_MNEMONIC_RET)
		return i->opcode == 0xca || i->opcode == 0xcb;
	if (d->insn.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR)
		return false;
	if (i->opcode != 0x9a && i->opcode != 0xea)
		return (i->flags & ISA_MEM) != 0;
	i->imm = 0;
	for (unsigned n = 0; n < i->opsize; n++)
		i->imm |= (uint64_t)p[n] << (8 * n);
	i->disp = p[i->opsize] | p[i->opsize + 1] << 8;
	i->flags &= (uint8_t)~ISA_MEM;
	return true;
}
