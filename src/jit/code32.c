/*
 * 32-bit code with flat segments: its encodings as those of 64-bit mode.
 *
 * The fields that jit_parse32() fills in describe an instruction of 64-bit mode that does
 * the same: INC and DEC 40..4f become FF /0 and /1, MOV with an address in the
 * instruction (A0..A3) becomes 88..8b with ModRM, an address without base is no
 * RIP-relative one. Operand sizes need nothing: 32 bits are the default in both modes, and
 * an instruction that has 64 by default there (stack, branches) has a form of its own.
 *
 * Invariants
 * 1. What has no equal in 64-bit mode is refused, so that its handler runs: addresses of
 *    16 bits, CS and ES as overrides, EVEX, VEX.W beside general registers, the opcodes that are
 *    other instructions there (LES, LDS, BOUND, ARPL).
 * 2. The stack, DS and CS are flat (JIT_NEEDS_FLAT32). FS and GS may have any base; their
 *    limit and rights are looked at in emitted code (operand.c).
 *
 * Source: SDM Vol. 2, "Instruction Format", "VEX Prefix Instruction Encoding".
 * Locks: none.
 */
#include "jit/internal.h"

/* Legacy prefixes; how many, or -1 if one of them is not for emitted code. */
static int parse_prefixes(struct jit_bytes *p, const uint8_t *b, unsigned nr)
{
	for (unsigned n = 0; n < nr; n++) {
		switch (b[n]) {
		case 0x66: p->p66 = true; break;
		case 0xf0: p->lock = true; break;
		case 0xf2: case 0xf3: p->rep = b[n]; break;
		case 0x36: case 0x3e: p->seg = SREG_DS; break; /* as flat as SS */
		case 0x64: p->seg = SREG_FS; break;
		case 0x65: p->seg = SREG_GS; break;
		case 0x67: case 0x26: case 0x2e: return -1;
		default: return (int)n;
		}
	}
	return (int)nr;
}

/*
 * VEX: the inverted R and X are 1 (else it is LES or LDS); B and the highest bit of
 * vvvv are ignored.
 */
static unsigned parse_vex(struct jit_bytes *p, const uint8_t *b, unsigned n)
{
	bool three = b[n] == 0xc4;
	uint8_t last = three ? b[n + 2] : b[n + 1];

	p->vex = true;
	p->map = three ? b[n + 1] & 0x1f : JIT_MAP_0F;
	p->w = three && (last & 0x80);
	p->vvvv = (uint8_t)(~last >> 3 & 7);
	p->l = last & 4;
	p->pp = last & 3;
	n += three ? 3 : 2;
	p->opcode = b[n];
	return n + 1;
}

static unsigned parse_opcode(struct jit_bytes *p, const uint8_t *b, unsigned n, unsigned nr)
{
	p->pp = p->rep == 0xf2 ? 3 : p->rep == 0xf3 ? 2 : p->p66 ? 1 : 0;
	if (b[n] == 0x0f && n + 1 < nr) {
		n++;
		p->map = JIT_MAP_0F;
		if (b[n] == 0x38 || b[n] == 0x3a)
			p->map = b[n++] == 0x38 ? JIT_MAP_0F38 : JIT_MAP_0F3A;
	}
	if (n < nr)
		p->opcode = b[n];
	return n + 1;
}

/* MOV between rAX and a constant address: as if with ModRM. */
static unsigned parse_moffs(struct jit_bytes *p, const uint8_t *b, unsigned n)
{
	static const uint8_t as[4] = { 0x8a, 0x8b, 0x88, 0x89 };

	p->opcode = as[p->opcode & 3];
	p->has_modrm = p->mem = true;
	p->modrm = 5; /* [disp32], rAX */
	p->disp = (int32_t)(b[n] | b[n + 1] << 8 | b[n + 2] << 16 | (uint32_t)b[n + 3] << 24);
	return n + 4;
}

static void parse_inc_dec(struct jit_bytes *p)
{
	p->reg = p->opcode >> 3 & 1;
	p->rm = p->opcode & 7;
	p->modrm = (uint8_t)(0xc0 | p->reg << 3 | p->rm);
	p->has_modrm = true;
	p->opcode = 0xff;
}

static bool other_instruction(const struct jit_bytes *p)
{
	return !p->vex && p->map == JIT_MAP_ONE && p->opcode == 0x63; /* ARPL */
}

bool jit_parse32(struct jit_bytes *p, const struct jit_insn *i)
{
	const uint8_t *b = i->bytes;
	unsigned nr = i->isa->len, n;
	int prefixes;

	*p = (struct jit_bytes){ .code32 = true, .seg = SREG_DS, .base = HOST_NONE, .index = HOST_NONE };
	prefixes = parse_prefixes(p, b, nr);
	if (prefixes < 0 || (unsigned)prefixes >= nr)
		return false;
	n = (unsigned)prefixes;
	if (b[n] == 0xc4 || b[n] == 0xc5) {
		if (n + 4 > nr || (b[n + 1] & 0xc0) != 0xc0)
			return false;
		n = parse_vex(p, b, n);
	} else if (b[n] == 0x62) {
		return false;
	} else {
		n = parse_opcode(p, b, n, nr);
		if (n > nr || other_instruction(p))
			return false;
	}
	if (!p->vex && p->map == JIT_MAP_ONE && (p->opcode & 0xfc) == 0xa0) {
		if (n + 4 > nr)
			return false;
		n = parse_moffs(p, b, n);
	} else if (!p->vex && p->map == JIT_MAP_ONE && (p->opcode & 0xf0) == 0x40) {
		parse_inc_dec(p);
	} else if (jit_has_modrm(p->map, p->opcode)) {
		if (n >= nr)
			return false;
		n = jit_parse_modrm(p, b, n, 0);
		p->rip_relative = false;
	} else {
		p->rm = p->opcode & 7;
	}
	if (n > nr)
		return false;
	p->imm = (uint8_t)n;
	p->nr_imm = (uint8_t)(nr - n);
	return true;
}

/*
 * VEX.W is ignored for general registers in 32-bit mode (EAX and EDX of VPCMPESTRx too), and so is the highest bit of a
 * register number in an immediate (VBLENDVPx, VPBLENDVB): not so in 64-bit mode.
 */
bool jit_form_ok32(const struct jit_insn *i, const struct jit_bytes *p, const struct jit_form *f)
{
	const uint32_t gpr = OP_REG_R | OP_REG_W | OP_RM_R | OP_RM_W | OP_VVVV_R | OP_VVVV_W |
			     OP_AX_R;

	if (p->vex && p->w && (f->ops & gpr))
		return false;
	if (p->vex && p->map == JIT_MAP_0F3A && p->opcode >= 0x4a && p->opcode <= 0x4c)
		return !(i->bytes[p->imm] & 0x80);
	return true;
}
