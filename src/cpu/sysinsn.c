/*
 * System instructions: from mnemonic to handler, and what the handlers share.
 *
 * The decoder asks cpu_system_handler() for what the integer and SIMD code do
 * not own. Operands and forms are isa/decoder.h's.
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

static isa_fn *mov_handler(struct isa_insn *i)
{
	switch (isa_system_mov(i)) {
	case ISA_MOV_FROM_SREG: return sysinsn_mov_from_sreg;
	case ISA_MOV_TO_SREG: return i->src == SREG_SS ? ends(i, sysinsn_mov_to_ss) : sysinsn_mov_to_sreg;
	case ISA_MOV_FROM_CR: return sysinsn_mov_from_cr;
	case ISA_MOV_TO_CR: return ends(i, sysinsn_mov_to_cr);
	case ISA_MOV_FROM_DR: return sysinsn_mov_from_dr;
	case ISA_MOV_TO_DR: return ends(i, sysinsn_mov_to_dr);
	default: return NULL;
	}
}

static isa_fn *push_pop_handler(struct isa_insn *i, bool pop)
{
	if (!isa_push_pop_sreg(i))
		return NULL;
	if (!pop)
		return sysinsn_push_sreg;
	return i->src == SREG_SS ? ends(i, sysinsn_pop_ss) : sysinsn_pop_sreg;
}

isa_fn *cpu_system_handler(const struct isa_decoded *d, struct isa_insn *i)
{
	const struct sysinsn *s = &sysinsns[d->insn.mnemonic];

	isa_system_operands(d, i);
	if (!isa_system_form(d, i))
		return NULL;
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		return mov_handler(i);
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
		return push_pop_handler(i, d->insn.mnemonic == ZYDIS_MNEMONIC_POP);
	case ZYDIS_MNEMONIC_JMP:
		return isa_far_form(d, i) ? ends(i, sysinsn_jmp_far) : NULL;
	case ZYDIS_MNEMONIC_CALL:
		return isa_far_form(d, i) ? ends(i, sysinsn_call_far) : NULL;
	case ZYDIS_MNEMONIC_RET:
		return isa_far_form(d, i) ? ends(i, sysinsn_ret_far) : NULL;
	default:
		if (!s->fn)
			return NULL;
		return s->ends_block ? ends(i, s->fn) : s->fn;
	}
}
