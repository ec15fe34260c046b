/*
 * Operands, segment and table registers, flags, control registers' operands of system instructions; IRET and delivery
 * of real-address mode.
 *
 * Invariant: a register changes after the last check and the last access that may fault.
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

void isa_store_word(struct cpu_state *cs, const struct isa_insn *i, uint64_t v)
{
	isa_system_write_rm(cs, i, i->flags & ISA_MEM ? 2 : i->opsize, v);
}

/* --- segment registers --- */

void isa_pop_sreg(struct cpu_state *cs, const struct isa_insn *i, enum sreg nr)
{
	struct isa_stack st;
	uint16_t selector;

	isa_stack_current(cs, &st);
	selector = (uint16_t)isa_stack_pop(&st, i->opsize);
	isa_load_sreg(cs, nr, selector);
	isa_stack_commit(&st);
}

void isa_load_far_pointer(struct cpu_state *cs, const struct isa_insn *i, enum sreg nr)
{
	uint64_t offset;
	uint16_t selector = isa_far_pointer(cs, i, &offset);

	isa_load_sreg(cs, nr, selector);
	isa_set_gpr(cs, i->src, i->opsize, offset);
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

static void gp0(struct cpu_state *cs) __attribute__((noreturn));
static void gp0(struct cpu_state *cs)
{
	isa_raise_error(cs, X86_TRAP_GP, 0);
}

/* #GP(0) unless CPL may change IF. */
static void require_iopl(struct cpu_state *cs)
{
	if (!isa_real(cs) && cs->cpl > isa_iopl(cs))
		gp0(cs);
}

static void set_vif(struct cpu_state *cs, bool vif)
{
	cs->rflags = (cs->rflags & ~X86_FLAGS_VIF) | (vif ? X86_FLAGS_VIF : 0);
}

void isa_cli(struct cpu_state *cs)
{
	if (isa_virtual_if(cs)) {
		set_vif(cs, false);
		return;
	}
	require_iopl(cs);
	cs->rflags &= ~X86_FLAGS_IF;
}

bool isa_sti(struct cpu_state *cs)
{
	bool before = cs->rflags & X86_FLAGS_IF;

	if (isa_virtual_if(cs)) {
		if (cs->rflags & X86_FLAGS_VIP)
			gp0(cs);
		set_vif(cs, true);
		return false;
	}
	require_iopl(cs);
	cs->rflags |= X86_FLAGS_IF;
	return !before;
}

/* FLAGS popped in virtual-8086 mode, IF standing for VIF: #GP for TF, and for IF while VIP is set. */
static void check_virtual_flags(struct cpu_state *cs, uint64_t flags)
{
	if (flags & X86_FLAGS_TF || (flags & X86_FLAGS_IF && cs->rflags & X86_FLAGS_VIP))
		gp0(cs);
}

/* PUSHF, POPF and IRET with an image in which IF is VIF: of 16 bits only, those of 32 bits are the monitor's. */
static bool virtual_image(const struct cpu_state *cs, unsigned size)
{
	return isa_v86(cs) && size == 2 && isa_virtual_if(cs);
}

void isa_pushf(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t flags = cpu_rflags(cs) & ~(X86_FLAGS_RF | X86_FLAGS_VM);

	if (virtual_image(cs, i->opsize))
		flags = isa_virtual_flags(flags);
	else if (isa_v86(cs))
		require_iopl(cs);
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
	check_virtual_flags(cs, v);
	isa_stack_commit(&st);
	cpu_set_rflags(cs, (cpu_rflags(cs) & ~(POPF_ALWAYS | X86_FLAGS_RF)) | (v & POPF_ALWAYS));
	set_vif(cs, v & X86_FLAGS_IF);
}

void isa_popf(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t mask = popped_mask(cs, i->opsize), old = cpu_rflags(cs), v;

	if (virtual_image(cs, i->opsize)) {
		popf_virtual(cs);
		return;
	}
	if (isa_v86(cs))
		require_iopl(cs);
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

/* --- real-address and virtual-8086 mode --- */

void isa_iret_real(struct cpu_state *cs, unsigned size)
{
	bool virtual = virtual_image(cs, size);
	struct isa_stack st;
	uint64_t rip, flags;
	uint16_t selector;

	if (isa_v86(cs) && !virtual)
		require_iopl(cs);
	isa_stack_current(cs, &st);
	rip = isa_stack_pop(&st, size);
	selector = (uint16_t)isa_stack_pop(&st, size);
	flags = isa_stack_pop(&st, size);
	isa_check_rip_real(cs, rip);
	if (virtual)
		check_virtual_flags(cs, flags);
	isa_stack_commit(&st);
	isa_commit_iret_flags(cs, flags, size);
	if (virtual)
		set_vif(cs, flags & X86_FLAGS_IF);
	isa_commit_cs_real(cs, selector, rip);
}

uint32_t isa_vector_real(struct cpu_state *cs, unsigned vector)
{
	if (vector * 4 + 3 > cs->idtr.limit)
		isa_raise_error(cs, X86_TRAP_GP, (vector << 3 | 2) | isa_ext_bit(cs));
	return (uint32_t)isa_sys_load(cs, (uint32_t)(cs->idtr.base + vector * 4), 4);
}

void isa_enter_real(struct cpu_state *cs, uint32_t entry, uint64_t flags, uint64_t rip)
{
	struct isa_stack st;

	isa_stack_current(cs, &st);
	isa_stack_push(&st, 2, flags);
	isa_stack_push(&st, 2, cs->seg[SREG_CS].selector);
	isa_stack_push(&st, 2, rip);
	isa_stack_commit(&st);
	isa_commit_cs_real(cs, (uint16_t)(entry >> 16), (uint16_t)entry);
}

/* --- control and debug registers --- */

uint64_t isa_control_operand(const struct cpu_state *cs, const struct isa_insn *i)
{
	return isa_code64(cs) ? cs->gpr[i->dst] : (uint32_t)cs->gpr[i->dst];
}

void isa_set_control_operand(struct cpu_state *cs, const struct isa_insn *i, uint64_t v)
{
	isa_set_gpr(cs, i->dst, isa_code64(cs) ? 8 : 4, v);
}

uint64_t isa_lmsw(uint64_t cr0, uint16_t word)
{
	return (cr0 & ~(ISA_CR0_MSW & ~X86_CR0_PE)) | (word & ISA_CR0_MSW);
}

unsigned isa_debug_register(struct cpu_state *cs, const struct isa_insn *i)
{
	unsigned nr = i->src;

	if (nr == 4 || nr == 5) {
		if (cs->cr4 & X86_CR4_DE)
			isa_raise(cs, X86_TRAP_UD);
		nr += 2;
	}
	if (cs->cpl != 0)
		gp0(cs);
	if (cs->dr7 & DR7_GD) {
		cs->exception = (struct isa_exception){ .vector = X86_TRAP_DB, .payload = DR6_BD };
		cs->ops->raise(cs);
	}
	return nr;
}

/* --- INVPCID --- */

struct isa_invpcid isa_invpcid_operand(struct cpu_state *cs, const struct isa_insn *i)
{
	gva_t lin = isa_linear(cs, i->seg, isa_ea(cs, i), 16, ISA_READ);
	uint64_t pcid = isa_load(cs, lin, 8), address = isa_load(cs, lin + 8, 8);
	uint64_t type = isa_code64(cs) ? cs->gpr[i->src] : (uint32_t)cs->gpr[i->src];

	if (type > INVPCID_ALL || pcid >> 12 || (type == INVPCID_ADDRESS && !isa_canonical(cs, address)) ||
	    (type <= INVPCID_CONTEXT && pcid && !(cs->cr4 & X86_CR4_PCIDE)))
		gp0(cs);
	return (struct isa_invpcid){ .type = (enum invpcid_type)type, .pcid = (uint16_t)pcid, .address = address };
}
