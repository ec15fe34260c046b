/*
 * A form made into a case: registers, addressing mode, immediate and prefixes
 * at random, then a state in which every memory operand lies in the window.
 */
#include <string.h>

#include "silicon.h"

uint64_t window_base(enum isa_code_mode mode)
{
	uint64_t at = PAGE_SIZE - WINDOW_BYTES / 2;

	return mode == ISA_CODE16 ? at : (uint64_t)(uintptr_t)harness_mem + at;
}

static uint64_t mode_mask(enum isa_code_mode mode)
{
	return mode == ISA_CODE64 ? ~0ULL : 0xffffffff;
}

/* Number of a general register of any width, or -1. */
static int gpr_number(ZydisRegister r)
{
	ZydisRegister wide = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r);

	return ZydisRegisterGetClass(wide) == ZYDIS_REGCLASS_GPR64 ? ZydisRegisterGetId(wide) : -1;
}

/* --- the bytes --- */

static unsigned put_modrm(uint8_t *b, unsigned n, uint8_t modrm, enum isa_code_mode mode, bool a16)
{
	unsigned mod = (unsigned)(rnd() % 3), rm = rnd() & 7, bytes;

	if (modrm >= 0xc0) {
		b[n++] = modrm;
		return n;
	}
	if (a16 ? mod == 0 && rm == 6 : mod == 0 && rm == 5)
		mod = 1; /* no absolute addresses */
	b[n++] = (uint8_t)(mod << 6 | (modrm & 0x38) | rm);
	if (!a16 && rm == 4) {
		uint8_t sib = (uint8_t)rnd();

		if (mod == 0 && (sib & 7) == 5)
			sib ^= 1;
		b[n++] = sib;
	}
	bytes = mod == 0 ? 0 : mod == 1 ? 1 : a16 ? 2 : 4;
	while (bytes--)
		b[n++] = (uint8_t)rnd();
	return n;
}

static void build(const struct encoding *e0, const struct form *f, enum isa_code_mode mode,
                  struct insn *i)
{
	struct encoding e = *e0;
	uint8_t plain[24];
	unsigned head = encoding_bytes(&e, mode, plain) - 1, n = 0, from = 0;
	bool a16 = mode == ISA_CODE16;

	if (!(rnd() & 7)) { /* address-size prefix: where it leads to addresses we have */
		if (mode == ISA_CODE64)
			i->b[n++] = 0x67;
	}
	if (!e.vex && !e.pp && !(rnd() & 7) && e.modrm < 0xc0)
		i->b[n++] = 0xf0; /* LOCK, where it is allowed: make_case() */
	if (!(rnd() & 1)) {       /* any register, if the form stays the same */
		if (e.modrm >= 0xc0)
			e.modrm = (uint8_t)(0xc0 | (rnd() & 0x3f));
		else
			e.modrm = (uint8_t)((e.modrm & 7) | (rnd() & 0x38));
		if (e.vex && e.vvvv != 15)
			e.vvvv = mode == ISA_CODE64 ? rnd() & 15 : 8 | (rnd() & 7);
		if (e.aaa)
			e.aaa = 1 + rnd() % 7;
		(void)encoding_bytes(&e, mode, plain);
	}
	if (mode == ISA_CODE64 && e.vex) {
		plain[1] ^= (uint8_t)(rnd() & (e.vex == 2 ? 0xf0 : 0xe0));
		if (e.vex == 2 && e.vvvv != 15)
			plain[3] ^= (uint8_t)(rnd() & 8);
	} else if (mode == ISA_CODE64 && (rnd() & 1)) {
		if (e.pp)
			i->b[n++] = plain[from++];
		if (plain[from] == 0x48 && e.w)
			from++;
		i->b[n++] = (uint8_t)(0x40 | e.w << 3 | (rnd() & 7));
	}
	while (from < head)
		i->b[n++] = plain[from++];
	n = put_modrm(i->b, n, e.modrm, mode, a16);
	while (n < sizeof(i->b))
		i->b[n++] = (uint8_t)rnd();
}

/* --- addresses --- */

static uint64_t reg_value(const struct state *s, ZydisRegister r)
{
	int nr = gpr_number(r);
	uint64_t v = nr < 0 ? 0 : s->gpr[nr];

	switch (ZydisRegisterGetClass(r)) {
	case ZYDIS_REGCLASS_GPR8:
		return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH ? 0 : v & 0xff;
	case ZYDIS_REGCLASS_GPR16: return v & 0xffff;
	case ZYDIS_REGCLASS_GPR32: return v & 0xffffffff;
	default: return v;
	}
}

static uint64_t effective(const struct insn *i, const ZydisDecodedOperand *o, const struct state *s)
{
	uint64_t ea = reg_value(s, o->mem.base) + (uint64_t)o->mem.disp.value;

	ea += reg_value(s, o->mem.index) * o->mem.scale;
	return i->z.address_width == 64   ? ea
	       : i->z.address_width == 32 ? (uint32_t)ea
	                                  : (uint16_t)ea;
}

static bool inside(uint64_t ea, unsigned size, enum isa_code_mode mode)
{
	return ea - window_base(mode) <= WINDOW_BYTES - size;
}

static bool is_locked(const struct insn *i)
{
	return i->z.mnemonic == ZYDIS_MNEMONIC_XCHG || (i->z.attributes & ZYDIS_ATTRIB_HAS_LOCK);
}

/* Every memory operand into the window, by way of its base register. */
static bool place_operands(const struct insn *i, enum isa_code_mode mode, struct state *s)
{
	uint64_t mask = i->z.address_width == 64   ? ~0ULL
	                : i->z.address_width == 32 ? 0xffffffff
	                                           : 0xffff;
	uint32_t fixed = 1 << RSP;

	for (unsigned n = 0; n < i->z.operand_count; n++) {
		const ZydisDecodedOperand *o = &i->o[n];
		uint64_t want;
		int base;

		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.type != ZYDIS_MEMOP_TYPE_MEM)
			continue;
		if (o->mem.segment == ZYDIS_REGISTER_FS || o->mem.segment == ZYDIS_REGISTER_GS ||
		    o->mem.segment == ZYDIS_REGISTER_CS)
			return false;
		base = gpr_number(o->mem.base);
		if (base < 0 && inside(effective(i, o, s), 64, mode))
			continue;
		if (base < 0)
			return false;
		if ((fixed >> base) & 1)
			continue;
		/* aligned more often than not */
		want = window_base(mode) + 64 + (rnd() & 3 ? rnd() % 5 * 16 : rnd() % 72);
		if (is_locked(i)) /* no split locks of the host's (cpu/bus_lock.c) */
			want &= ~15ULL;
		s->gpr[base] += want - effective(i, o, s);
		if (mode != ISA_CODE64 || mask != ~0ULL)
			s->gpr[base] = (uint32_t)s->gpr[base];
		if (mode == ISA_CODE16)
			s->gpr[base] &= 0xffff;
		fixed |= 1U << base;
	}
	for (unsigned n = 0; n < i->z.operand_count; n++) {
		const ZydisDecodedOperand *o = &i->o[n];

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type == ZYDIS_MEMOP_TYPE_MEM &&
		    !inside(effective(i, o, s), 64, mode) && gpr_number(o->mem.base) != RSP)
			return false;
		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type == ZYDIS_MEMOP_TYPE_MEM &&
		    gpr_number(o->mem.base) == RSP && !inside(effective(i, o, s) - 8, 64, mode))
			return false;
	}
	return true;
}

static bool is_bit_test(const struct insn *i)
{
	return i->z.mnemonic == ZYDIS_MNEMONIC_BT || i->z.mnemonic == ZYDIS_MNEMONIC_BTS ||
	       i->z.mnemonic == ZYDIS_MNEMONIC_BTR || i->z.mnemonic == ZYDIS_MNEMONIC_BTC;
}

/* Registers with a meaning of their own. */
static void special_registers(const struct insn *i, enum isa_code_mode mode, struct state *s)
{
	for (unsigned n = 0; n < NR_GPRS; n++)
		s->gpr[n] &= mode_mask(mode);
	s->gpr[RSP] = window_base(mode) + 112 + rnd() % 4 * 8;
	if (i->z.mnemonic == ZYDIS_MNEMONIC_LEAVE)
		s->gpr[RBP] = window_base(mode) + 96 + rnd() % 4 * 8;
	if (i->z.mnemonic == ZYDIS_MNEMONIC_ENTER) { /* room for 19 frame pointers below both */
		s->gpr[RSP] = window_base(mode) + 184 + rnd() % 3 * 8;
		s->gpr[RBP] = window_base(mode) + 152 + rnd() % 10 * 8;
	}
	if (i->z.attributes &
	    (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
		s->gpr[RCX] = rnd() % 8;
	if (is_bit_test(i))
		if (i->o[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    i->o[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
			s->gpr[gpr_number(i->o[1].reg.value)] =
			    (rnd() % 512 - 256) & mode_mask(mode);
}

/* An immediate with a meaning: where a branch goes, how deep ENTER nests. */
static void special_immediate(struct insn *i, enum isa_code_mode mode)
{
	unsigned at = i->z.raw.imm[0].offset, n = i->z.raw.imm[0].size / 8;

	if (i->z.mnemonic == ZYDIS_MNEMONIC_ENTER) {
		i->b[at] &= 0x1f;
		i->b[at + 1] = 0;
		i->b[i->z.raw.imm[1].offset] &= 0x13;
	}
	if (!i->z.opcode_map && (i->z.opcode & 0xfc) == 0xa0) { /* moffs */
		uint64_t want = window_base(mode) + 64 + rnd() % 72;

		memcpy(i->b + i->z.raw.disp.offset, &want, i->z.raw.disp.size / 8);
	}
	if (i->z.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE || !n || !i->z.raw.imm[0].is_relative)
		return;
	memset(i->b + at, 0, n);
	i->b[at] = (uint8_t)harness_marker_size(mode);
}

/* A bit string's offset may be in a register that has become an address. */
static bool bit_offset_ok(const struct insn *i, const struct state *s)
{
	int64_t v;

	if (!is_bit_test(i) || i->o[1].type != ZYDIS_OPERAND_TYPE_REGISTER ||
	    i->o[0].type != ZYDIS_OPERAND_TYPE_MEMORY)
		return true;
	v = (int64_t)s->gpr[gpr_number(i->o[1].reg.value)];
	v = i->z.operand_width == 16 ? (int16_t)v : i->z.operand_width == 32 ? (int32_t)v : v;
	return v >= -256 && v < 256;
}

/*
 * Where this silicon does what no manual says: F2 and F3 turn LOOPNE and LOOPE
 * into each other on AMD's. And 66 before a near branch in 64-bit code is
 * ignored on Intel's silicon (and here), but truncates RIP to 16 bits on AMD's.
 */
static bool odd_branch(const struct insn *i, enum isa_code_mode mode)
{
	if (i->z.mnemonic == ZYDIS_MNEMONIC_LOOPE || i->z.mnemonic == ZYDIS_MNEMONIC_LOOPNE)
		for (unsigned n = 0; n < i->z.raw.prefix_count; n++)
			if ((i->z.raw.prefixes[n].value & 0xfe) == 0xf2)
				return true;
	return mode == ISA_CODE64 && i->z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE &&
	       (i->z.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE);
}

bool make_case(const struct form *f, enum isa_code_mode mode, struct insn *i, struct state *s)
{
	const struct encoding *e = &f->e[rnd() % f->nr_encodings];

	build(e, f, mode, i);
	if (!insn_decode(i, mode) || insn_key(i) != f->key)
		return false;
	special_immediate(i, mode);
	if (!insn_decode(i, mode))
		return false;
	for (unsigned n = 0; n < i->z.operand_count; n++) /* RSP has to stay where it is */
		if (i->o[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    i->o[n].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT &&
		    (i->o[n].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
		    gpr_number(i->o[n].reg.value) == RSP && (rnd() & 15))
			return false;
	random_state(s);
	for (unsigned n = 0; n < NR_GPRS; n++) {
		static const uint64_t edges[] = {0,
		                                 1,
		                                 0x7f,
		                                 0x80,
		                                 0xff,
		                                 0x7fff,
		                                 0x8000,
		                                 0xffff,
		                                 0x7fffffff,
		                                 0x80000000,
		                                 0xffffffff,
		                                 0x7fffffffffffffff,
		                                 0x8000000000000000,
		                                 ~0ULL};

		if (!(rnd() & 3))
			s->gpr[n] = edges[rnd() % ARRAY_SIZE(edges)];
	}
	if (!(rnd() & 3))
		s->flags |= X86_FLAGS_DF;
	special_registers(i, mode, s);
	return place_operands(i, mode, s) && bit_offset_ok(i, s) && !odd_branch(i, mode);
}
