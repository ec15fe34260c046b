/*
 * System instructions: from mnemonic to handler, and what the handlers share.
 *
 * The decoder asks cpu_system_handler() for what the integer and SIMD code do
 * not own. It normalises the operands: i->src is ModRM.reg and i->dst ModRM.rm
 * (with REX.R and REX.B), i->opsize the effective operand size of the system
 * instruction in this mode.
 *
 * Order of events in a handler (SDM "Relative Priority of Faults and VM
 * Exits"): #UD, faults by privilege level, the I/O permission map; then VM
 * exits; then every other fault; then the instruction itself.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/system.h"
#include "isa/decoder.h"

struct sysinsn {
	isa_fn *fn;
	bool ends_block;
};

#define SYSINSN_ROW(handler, mnemonic, ends) \
	[ZYDIS_MNEMONIC_##mnemonic] = { sysinsn_##handler, ends },
static const struct sysinsn sysinsns[ZYDIS_MNEMONIC_MAX_VALUE + 1] = { SYSINSNS(SYSINSN_ROW) };
#undef SYSINSN_ROW

/* --- shared by the handlers --- */

/*
 * SDM tables "Format of the VM-Exit Instruction-Information Field": scaling
 * 1:0, address size 9:7, segment 17:15, index 21:18 (22: none), base 26:23
 * (27: none).
 */
uint32_t cpu_insn_info_mem(const struct isa_insn *i)
{
	uint32_t info = i->adsize == 8 ? 2U << 7 : i->adsize == 4 ? 1U << 7 : 0;

	info |= (uint32_t)i->seg << 15;
	if (i->index != ISA_NO_REG)
		info |= (uint32_t)__builtin_ctz(i->scale ? i->scale : 1U) |
			(uint32_t)(i->index & 15) << 18;
	else
		info |= 1U << 22;
	if (i->base != ISA_NO_REG && !(i->flags & ISA_RIP_RELATIVE))
		info |= (uint32_t)(i->base & 15) << 23;
	else
		info |= 1U << 27;
	return info;
}

void cpu_vmexit_mem(struct vmx_cpu *cpu, uint32_t reason, uint32_t identity)
{
	const struct isa_insn *i = cpu->cs.cur;
	struct cpu_exit e = {
		.reason = reason,
		.insn_len = i->len,
		.insn_info = identity,
		.rip = isa_rip(&cpu->cs),
	};

	if (i->flags & ISA_MEM) {
		e.insn_info |= cpu_insn_info_mem(i);
		e.qualification = (uint64_t)i->disp;
		if (i->flags & ISA_RIP_RELATIVE)
			e.qualification += isa_next_rip(&cpu->cs, i);
	} else {
		e.insn_info |= 1U << 10 | (uint32_t)i->dst << 3;
	}
	cpu_vmexit(cpu, &e);
}

/* --- choosing a handler --- */

static isa_fn *ends(struct isa_insn *i, isa_fn *fn)
{
	i->flags |= ISA_ENDS_BLOCK;
	return fn;
}

/* MOV with a segment, control or debug register. */
static isa_fn *mov_handler(struct isa_insn *i)
{
	if (i->map == 0 && i->opcode == 0x8c)
		return i->src <= SREG_GS ? sysinsn_mov_from_sreg : NULL;
	if (i->map == 0 && i->opcode == 0x8e) {
		if (i->src == SREG_SS)
			return ends(i, sysinsn_mov_to_ss);
		return i->src <= SREG_GS && i->src != SREG_CS ? sysinsn_mov_to_sreg : NULL;
	}
	if (i->map != 1 || (i->opcode & ~3) != 0x20)
		return NULL;
	i->flags &= (uint8_t)~ISA_MEM; /* ModRM.mod is ignored */
	if (i->opcode & 1) {
		if (i->src > 7) /* no DR8 and up */
			return NULL;
		return i->opcode & 2 ? ends(i, sysinsn_mov_to_dr) : sysinsn_mov_from_dr;
	}
	if (i->src != 0 && i->src != 2 && i->src != 3 && i->src != 4 && i->src != 8)
		return NULL;
	return i->opcode & 2 ? ends(i, sysinsn_mov_to_cr) : sysinsn_mov_from_cr;
}

/* PUSH and POP of a segment register, which goes to i->src. */
static isa_fn *push_pop_handler(struct isa_insn *i, bool pop)
{
	if (i->map == 0 && (i->opcode & ~0x1f) == 0 && (i->opcode & 7) >= 6)
		i->src = i->opcode >> 3;
	else if (i->map == 1 && (i->opcode & 0xf6) == 0xa0)
		i->src = i->opcode & 8 ? SREG_GS : SREG_FS;
	else
		return NULL;
	if (!pop)
		return sysinsn_push_sreg;
	return i->src == SREG_SS ? ends(i, sysinsn_pop_ss) : sysinsn_pop_sreg;
}

/* Far JMP and CALL: the offset goes to i->imm, an immediate selector to i->disp. */
static isa_fn *far_handler(const struct isa_decoded *d, struct isa_insn *i, isa_fn *fn)
{
	if (d->insn.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR)
		return NULL;
	if (i->opcode == 0x9a || i->opcode == 0xea) {
		const uint8_t *p = d->bytes + d->insn.length - 2 - i->opsize;

		i->imm = 0;
		for (unsigned n = 0; n < i->opsize; n++)
			i->imm |= (uint64_t)p[n] << (8 * n);
		i->disp = p[i->opsize] | p[i->opsize + 1] << 8;
		i->flags &= (uint8_t)~ISA_MEM;
	} else if (!(i->flags & ISA_MEM)) {
		return NULL;
	}
	return ends(i, fn);
}

static isa_fn *ret_handler(struct isa_insn *i)
{
	return i->opcode == 0xca || i->opcode == 0xcb ? ends(i, sysinsn_ret_far) : NULL;
}

/* Forms that only memory, or only a register, has. */
static bool form_allowed(const struct isa_decoded *d, const struct isa_insn *i)
{
	bool mem = (i->flags & ISA_MEM) != 0;

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
		return mem;
	default:
		return true;
	}
}

/* Effective operand size: stack instructions default to 64 bits in 64-bit mode. */
static uint8_t system_opsize(const struct isa_decoded *d)
{
	bool prefix66 = (d->insn.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) != 0;

	if (d->mode == ISA_CODE64) {
		if (d->insn.raw.rex.W)
			return 8;
		if (prefix66)
			return 2;
		switch (d->insn.mnemonic) {
		case ZYDIS_MNEMONIC_PUSH:
		case ZYDIS_MNEMONIC_POP:
		case ZYDIS_MNEMONIC_PUSHF:
		case ZYDIS_MNEMONIC_PUSHFD:
		case ZYDIS_MNEMONIC_PUSHFQ:
		case ZYDIS_MNEMONIC_POPF:
		case ZYDIS_MNEMONIC_POPFD:
		case ZYDIS_MNEMONIC_POPFQ:
			return 8;
		default:
			return 4;
		}
	}
	return (d->mode == ISA_CODE32) != prefix66 ? 4 : 2;
}

isa_fn *cpu_system_handler(const struct isa_decoded *d, struct isa_insn *i)
{
	const ZydisDecodedInstruction *z = &d->insn;
	const struct sysinsn *s = &sysinsns[z->mnemonic];

	if (z->attributes & ZYDIS_ATTRIB_HAS_LOCK) /* none of them can be locked */
		return NULL;
	if (z->attributes & ZYDIS_ATTRIB_HAS_MODRM) {
		i->src = (uint8_t)(z->raw.modrm.reg | z->raw.rex.R << 3);
		i->dst = (uint8_t)(z->raw.modrm.rm | z->raw.rex.B << 3);
	}
	i->opsize = system_opsize(d);
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		if (i->map == 0) /* segment registers take no REX.R */
			i->src = z->raw.modrm.reg;
		return mov_handler(i);
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
		return push_pop_handler(i, z->mnemonic == ZYDIS_MNEMONIC_POP);
	case ZYDIS_MNEMONIC_JMP:
		return far_handler(d, i, sysinsn_jmp_far);
	case ZYDIS_MNEMONIC_CALL:
		return far_handler(d, i, sysinsn_call_far);
	case ZYDIS_MNEMONIC_RET:
		return ret_handler(i);
	default:
		if (!s->fn || !form_allowed(d, i))
			return NULL;
		return s->ends_block ? ends(i, s->fn) : s->fn;
	}
}
