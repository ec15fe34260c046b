/*
 * PUSH, POP, PUSHA, POPA, ENTER, LEAVE (general registers, memory, immediates).
 *
 * Invariants
 * 1. rSP changes only after the last access that may fault.
 * 2. POP to memory computes its address with the incremented rSP; PUSH of
 *    memory with the old one (SDM Vol. 2, "POP", "PUSH").
 *
 * Locks: none.
 */
#include "isa/decoder.h"
#include "isa/internal.h"

HANDLER(push_reg64)
{
	uint64_t sp = cs->gpr[RSP] - 8;

	isa_store(cs, sp, 8, ISA_REG(cs, i->rm_off, uint64_t));
	cs->gpr[RSP] = sp;
}

HANDLER(pop_reg64)
{
	uint64_t sp = cs->gpr[RSP];
	uint64_t v = isa_load(cs, sp, 8);

	cs->gpr[RSP] = sp + 8;
	ISA_REG(cs, i->rm_off, uint64_t) = v;
}

HANDLER(push_reg)
{
	isa_push(cs, i->opsize, cs->gpr[i->rm]);
}

HANDLER(pop_reg)
{
	uint64_t v = isa_pop(cs, i->opsize);

	isa_set_gpr(cs, i->rm, i->opsize, v);
}

HANDLER(push_imm)
{
	isa_push(cs, i->opsize, i->imm);
}

HANDLER(push_rm)
{
	isa_push(cs, i->opsize, isa_read_rm(cs, i, i->opsize));
}

HANDLER(pop_mem)
{
	uint64_t sp = stack_offset(cs, 0), ea = isa_ea(cs, i);
	uint64_t v = isa_load(cs, stack_linear(cs, sp, i->opsize, ISA_READ), i->opsize);

	if (i->base == RSP) {
		ea += i->opsize;
		if (i->adsize == 4)
			ea = (uint32_t)ea;
	}
	isa_store(cs, isa_linear(cs, i->seg, ea, i->opsize, ISA_WRITE), i->opsize, v);
	stack_set(cs, stack_offset(cs, i->opsize));
}

/* 50..57 */
isa_fn *isa_pick_push_reg(const struct isa_decoded *d, struct isa_insn *i)
{
	return d->mode == ISA_CODE64 && i->opsize == 8 ? push_reg64 : push_reg;
}

/* 58..5f */
isa_fn *isa_pick_pop_reg(const struct isa_decoded *d, struct isa_insn *i)
{
	return d->mode == ISA_CODE64 && i->opsize == 8 ? pop_reg64 : pop_reg;
}

/* 68 6a */
isa_fn *isa_pick_push_imm(const struct isa_decoded *d, struct isa_insn *i)
{
	return push_imm;
}

/* ff /6 */
isa_fn *isa_pick_push_rm(const struct isa_decoded *d, struct isa_insn *i)
{
	return push_rm;
}

/* 8f /0 */
isa_fn *isa_pick_pop_rm(const struct isa_decoded *d, struct isa_insn *i)
{
	if ((i->modrm >> 3) & 7)
		return NULL;
	return (i->flags & ISA_MEM) ? pop_mem : pop_reg;
}

/* The old SP is what is pushed for SP. */
HANDLER(pusha)
{
	unsigned size = i->opsize, r;
	uint64_t sp;

	for (r = 0; r < 8; r++) {
		sp = stack_offset(cs, -(int64_t)(size * (r + 1)));
		isa_store(cs, stack_linear(cs, sp, size, ISA_WRITE), size, cs->gpr[r]);
	}
	stack_set(cs, stack_offset(cs, -(int64_t)(size * 8)));
}

/* The value for SP is read and dropped. */
HANDLER(popa)
{
	unsigned size = i->opsize, r;
	uint64_t v[8], sp;

	for (r = 0; r < 8; r++) {
		sp = stack_offset(cs, size * (7 - r));
		v[r] = isa_load(cs, stack_linear(cs, sp, size, ISA_READ), size);
	}
	for (r = 0; r < 8; r++)
		if (r != RSP)
			isa_set_gpr(cs, r, size, v[r]);
	stack_set(cs, stack_offset(cs, size * 8));
}

/* 60 61 */
isa_fn *isa_pick_pusha(const struct isa_decoded *d, struct isa_insn *i)
{
	if (d->mode == ISA_CODE64)
		return NULL;
	return i->opcode == 0x60 ? pusha : popa;
}

/* ENTER size, level: saved frame pointers, then room for the locals. */
HANDLER(enter)
{
	unsigned size = i->opsize, level = (i->imm >> 16) & 31, n;
	uint64_t mask = stack_mask(cs), sp = stack_offset(cs, -(int64_t)size);
	uint64_t frame = sp, bp = cs->gpr[RBP] & mask, v, lin;

	isa_store(cs, stack_linear(cs, sp, size, ISA_WRITE), size, cs->gpr[RBP]);
	for (n = 1; n < level; n++) {
		bp = (bp - size) & mask;
		v = isa_load(cs, stack_linear(cs, bp, size, ISA_READ), size);
		sp = (sp - size) & mask;
		isa_store(cs, stack_linear(cs, sp, size, ISA_WRITE), size, v);
	}
	if (level) {
		sp = (sp - size) & mask;
		isa_store(cs, stack_linear(cs, sp, size, ISA_WRITE), size, frame);
	}
	sp = (sp - (uint16_t)i->imm) & mask;
	/* The final stack pointer must be writable (SDM Vol. 2, "ENTER"). */
	lin = stack_linear(cs, sp, size, ISA_WRITE);
	if (!isa_tlb_write(cs, lin, size))
		cs->ops->mem(cs, lin, size, ISA_RMW, cs->bounce); /* for its checks only */
	isa_set_gpr(cs, RBP, size, frame);
	stack_set(cs, sp);
}

HANDLER(leave)
{
	unsigned size = i->opsize;
	uint64_t sp = cs->gpr[RBP] & stack_mask(cs);
	uint64_t v = isa_load(cs, stack_linear(cs, sp, size, ISA_READ), size);

	stack_set(cs, (sp + size) & stack_mask(cs));
	isa_set_gpr(cs, RBP, size, v);
}

/* c8 c9 */
isa_fn *isa_pick_enter(const struct isa_decoded *d, struct isa_insn *i)
{
	return i->opcode == 0xc8 ? enter : leave;
}
