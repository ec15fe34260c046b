/*
 * Operands, table registers and flags of system instructions.
 *
 * Invariant: RFLAGS, RSP and table registers change after the last access that may fault.
 * Locks: none.
 */
#include "isa/system.h"

uint64_t isa_system_read_rm(struct cpu_state *cs, const struct isa_insn *i, unsigned size)
{
	uint64_t v;

	if (i->flags & ISA_MEM)
		return isa_load(cs, isa_linear(cs, i->seg, isa_ea(cs, i), size, ISA_READ), size);
	v = cs->gpr[i->dst];
	return size == 2 ? (uint16_t)v : size == 4 ? (uint32_t)v : v;
}

void isa_system_write_rm(struct cpu_state *cs, const struct isa_insn *i, unsigned size, uint64_t v)
{
	if (i->flags & ISA_MEM)
		isa_store(cs, isa_linear(cs, i->seg, isa_ea(cs, i), size, ISA_WRITE), size, v);
	else
		isa_set_gpr(cs, i->dst, size, v);
}

/* --- table registers --- */

void isa_store_table(struct cpu_state *cs, const struct isa_insn *i, const struct cpu_dtable *table)
{
	unsigned size = cs->code_mode == ISA_CODE64 ? 8 : 4;
	gva_t lin = isa_linear(cs, i->seg, isa_ea(cs, i), 2 + size, ISA_WRITE);
	uint8_t image[10];

	image[0] = (uint8_t)table->limit;
	image[1] = (uint8_t)(table->limit >> 8);
	for (unsigned n = 0; n < 8; n++)
		image[2 + n] = (uint8_t)(table->base >> (8 * n));
	isa_store_bytes(cs, lin, image, 2 + size);
}

void isa_load_table(struct cpu_state *cs, const struct isa_insn *i, struct cpu_dtable *table)
{
	unsigned size = cs->code_mode == ISA_CODE64 ? 8 : 4;
	gva_t lin = isa_linear(cs, i->seg, isa_ea(cs, i), 2 + size, ISA_READ);
	uint16_t limit = (uint16_t)isa_load(cs, lin, 2);
	uint64_t base = isa_load(cs, lin + 2, size);

	if (size == 8 && !isa_canonical(cs, base))
		isa_raise_error(cs, X86_TRAP_GP, 0);
	if (i->opsize == 2 && size == 4)
		base &= 0xffffff;
	table->limit = limit;
	table->base = base;
}

/* --- RFLAGS --- */

void isa_require_iopl(struct cpu_state *cs)
{
	if (!isa_real(cs) && cs->cpl > isa_iopl(cs))
		isa_raise_error(cs, X86_TRAP_GP, 0);
}

void isa_set_vif(struct cpu_state *cs, bool vif)
{
	cs->rflags = (cs->rflags & ~X86_FLAGS_VIF) | (vif ? X86_FLAGS_VIF : 0);
}

void isa_check_virtual_flags(struct cpu_state *cs, uint64_t flags)
{
	if (flags & X86_FLAGS_TF || (flags & X86_FLAGS_IF && cs->rflags & X86_FLAGS_VIP))
		isa_raise_error(cs, X86_TRAP_GP, 0);
}

/* PUSHF and POPF with an image in which IF is VIF: of 16 bits only, those of 32 bits are the monitor's. */
static bool virtual_image(const struct cpu_state *cs, const struct isa_insn *i)
{
	return isa_v86(cs) && i->opsize == 2 && isa_virtual_if(cs);
}

void isa_pushf(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t flags = cpu_rflags(cs) & ~(X86_FLAGS_RF | X86_FLAGS_VM);

	if (virtual_image(cs, i))
		flags = isa_virtual_flags(flags);
	else if (isa_v86(cs))
		isa_require_iopl(cs);
	isa_push(cs, i->opsize, flags);
}

#define POPF_ALWAYS (X86_FLAGS_ARITH | X86_FLAGS_TF | X86_FLAGS_DF | X86_FLAGS_NT)

/* The bits that a popped image of `size` bytes may change, of POPF's and IRET's. */
static uint64_t popped_mask(const struct cpu_state *cs, unsigned size)
{
	uint64_t mask = POPF_ALWAYS;

	if (size != 2)
		mask |= X86_FLAGS_AC | X86_FLAGS_ID;
	if (isa_real(cs) || cs->cpl == 0)
		mask |= X86_FLAGS_IF | X86_FLAGS_IOPL;
	else if (cs->cpl <= isa_iopl(cs))
		mask |= X86_FLAGS_IF;
	return mask;
}

static void popf_virtual(struct cpu_state *cs)
{
	struct isa_stack st;
	uint64_t v;

	isa_stack_current(cs, &st);
	v = isa_stack_pop(&st, 2);
	isa_check_virtual_flags(cs, v);
	isa_stack_commit(&st);
	cpu_set_rflags(cs, (cpu_rflags(cs) & ~(POPF_ALWAYS | X86_FLAGS_RF)) | (v & POPF_ALWAYS));
	isa_set_vif(cs, v & X86_FLAGS_IF);
}

void isa_popf(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t mask = popped_mask(cs, i->opsize), old = cpu_rflags(cs), v;

	if (virtual_image(cs, i)) {
		popf_virtual(cs);
		return;
	}
	if (isa_v86(cs))
		isa_require_iopl(cs);
	v = isa_pop(cs, i->opsize);
	v = (old & ~(mask | X86_FLAGS_RF)) | (v & mask);
	cpu_set_rflags(cs, v);
	if ((old ^ v) & X86_FLAGS_AC)
		cs->ops->mode_changed(cs);
}

void isa_commit_iret_flags(struct cpu_state *cs, uint64_t flags, unsigned size)
{
	uint64_t mask = popped_mask(cs, size), old = cpu_rflags(cs);

	if (size != 2)
		mask |= X86_FLAGS_RF;
	if (size != 2 && !isa_real(cs) && cs->cpl == 0)
		mask |= X86_FLAGS_VIF | X86_FLAGS_VIP;
	/* RF matters to instruction breakpoints only; nobody else would clear it. */
	if (!(cs->dr7 & 0xff))
		flags &= ~X86_FLAGS_RF;
	cpu_set_rflags(cs, (old & ~mask) | (flags & mask));
}
