/*
 * Encodings (emit/emit.h). Source: SDM Vol. 2, "Instruction Format".
 *
 * Invariants
 * 1. A memory operand gets the shortest displacement it can have; RSP and R12
 *    as base get a SIB byte, RBP and R13 a displacement.
 *
 * Locks: none; no state.
 */
#include "emit/emit.h"

#define MOD_DISP8 0x40u
#define MOD_DISP32 0x80u
#define MOD_REG 0xc0u
#define RM_SIB 4u
#define RM_DISP32 5u /* with mod 0: RIP-relative; as SIB base: none */

static void emit_sib(struct emitter *e, const struct host_mem *m)
{
	unsigned index = m->index == HOST_NONE ? 4u : m->index & 7u;
	unsigned base = m->base == HOST_NONE ? RM_DISP32 : m->base & 7u;

	emit_byte(e, (unsigned)m->shift << 6 | index << 3 | base);
}

void emit_modrm_mem(struct emitter *e, unsigned reg, const struct host_mem *m,
		    unsigned nr_after)
{
	unsigned r = (reg & 7u) << 3, mod;

	if (m->absolute) {
		emit_byte(e, r | RM_DISP32);
		emit_u32(e, (uint32_t)(m->address - (emit_here(e) + 4 + nr_after)));
		return;
	}
	if (m->base == HOST_NONE) {
		emit_byte(e, r | RM_SIB);
		emit_sib(e, m);
		emit_u32(e, (uint32_t)m->disp);
		return;
	}
	if (!m->disp && (m->base & 7) != HOST_RBP)
		mod = 0;
	else
		mod = m->disp == (int8_t)m->disp && !(m->wide_disp && m->disp) ? MOD_DISP8 : MOD_DISP32;
	if (m->index == HOST_NONE && (m->base & 7) != HOST_SP) {
		emit_byte(e, mod | r | (m->base & 7u));
	} else {
		emit_byte(e, mod | r | RM_SIB);
		emit_sib(e, m);
	}
	if (mod == MOD_DISP8)
		emit_byte(e, (uint8_t)m->disp);
	else if (mod == MOD_DISP32)
		emit_u32(e, (uint32_t)m->disp);
}

unsigned emit_rex_bits(unsigned reg, const struct host_mem *m)
{
	unsigned rex = reg & 8 ? 4 : 0;

	if (m->absolute)
		return rex;
	if (m->index != HOST_NONE && (m->index & 8))
		rex |= 2;
	if (m->base != HOST_NONE && (m->base & 8))
		rex |= 1;
	return rex;
}

static void emit_rex(struct emitter *e, bool wide, unsigned bits)
{
	if (wide)
		bits |= 8;
	if (bits)
		emit_byte(e, 0x40 | bits);
}

void emit_op_mem(struct emitter *e, bool wide, unsigned opcode, unsigned reg,
		 const struct host_mem *m)
{
	emit_rex(e, wide, emit_rex_bits(reg, m));
	emit_byte(e, opcode);
	emit_modrm_mem(e, reg, m, 0);
}

void emit_op_reg(struct emitter *e, bool wide, unsigned opcode, unsigned rm, unsigned reg)
{
	emit_rex(e, wide, (reg & 8 ? 4u : 0) | (rm & 8 ? 1u : 0));
	emit_byte(e, opcode);
	emit_byte(e, MOD_REG | (reg & 7u) << 3 | (rm & 7u));
}

void emit_op_imm(struct emitter *e, bool wide, unsigned ext, unsigned rm, int32_t imm)
{
	emit_rex(e, wide, rm & 8 ? 1u : 0);
	emit_byte(e, 0x81);
	emit_byte(e, MOD_REG | ext << 3 | (rm & 7u));
	emit_u32(e, (uint32_t)imm);
}

void emit_mov_imm32(struct emitter *e, unsigned reg, uint32_t imm)
{
	emit_rex(e, false, reg & 8 ? 1u : 0);
	emit_byte(e, 0xb8 | (reg & 7u));
	emit_u32(e, imm);
}

uint32_t emit_jmp(struct emitter *e)
{
	emit_byte(e, 0xe9);
	emit_u32(e, 0);
	return e->n - 4;
}

uint32_t emit_jcc(struct emitter *e, unsigned cond)
{
	emit_byte(e, 0x0f);
	emit_byte(e, 0x80 | cond);
	emit_u32(e, 0);
	return e->n - 4;
}

void emit_patch(struct emitter *e, uint32_t at, uint32_t to)
{
	uint32_t rel = to - (at + 4);

	if (e->full)
		return;
	for (unsigned k = 0; k < 4; k++)
		e->b[at + k] = (uint8_t)(rel >> 8 * k);
}

static void emit_via(struct emitter *e, unsigned ext, uint64_t address)
{
	const struct host_mem m = { .absolute = true, .address = address };

	emit_byte(e, 0xff);
	emit_modrm_mem(e, ext, &m, 0);
}

void emit_jmp_via(struct emitter *e, uint64_t address)
{
	emit_via(e, 4, address);
}

void emit_call_via(struct emitter *e, uint64_t address)
{
	emit_via(e, 2, address);
}
