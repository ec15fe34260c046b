/*
 * An instruction's bytes taken apart, and where the host has its registers. Source: SDM Vol. 2, "Instruction Format".
 *
 * The decoder has found the bytes to be a valid instruction, so
 * nothing is checked here but what the rewriter could not represent.
 *
 * Locks: none.
 */
#include "jit/internal.h"

const uint8_t jit_host_reg[NR_GPRS] = {
	[RAX] = HOST_RAX, [RCX] = HOST_RCX, [RDX] = HOST_RDX, [RBX] = HOST_RBX,
	[RSP] = HOST_R10, [RBP] = HOST_R9,  [RSI] = HOST_RSI, [RDI] = HOST_RDI,
	[R8] = HOST_R8,	  [R9] = HOST_NONE, [R10] = HOST_NONE, [R11] = HOST_NONE,
	[R12] = HOST_R12, [R13] = HOST_R13, [R14] = HOST_R14, [R15] = HOST_R15,
};

static int32_t signed_bytes(const uint8_t *b, unsigned n)
{
	uint32_t v = 0;

	if (n == 1)
		return (int8_t)b[0];
	for (unsigned k = 0; k < n; k++)
		v |= (uint32_t)b[k] << 8 * k;
	return (int32_t)v;
}

/* Legacy prefixes and REX; returns how many bytes. A REX counts directly before the opcode only. */
static unsigned parse_prefixes(struct jit_bytes *p, const uint8_t *b, unsigned nr, uint8_t *rex)
{
	unsigned n;

	*rex = 0;
	for (n = 0; n < nr; n++) {
		switch (b[n]) {
		case 0x66: p->p66 = true; break;
		case 0x67: p->p67 = true; break;
		case 0xf0: p->lock = true; break;
		case 0xf2: case 0xf3: p->rep = b[n]; break;
		case 0x64: p->seg = SREG_FS; break;
		case 0x65: p->seg = SREG_GS; break;
		case 0x26: case 0x2e: case 0x36: case 0x3e: break;
		default:
			if ((b[n] & 0xf0) != 0x40)
				return n;
			*rex = b[n];
			continue;
		}
		*rex = 0;
	}
	return n;
}

static unsigned parse_vex(struct jit_bytes *p, const uint8_t *b, unsigned n, uint8_t *rex)
{
	bool three = b[n] == 0xc4;
	uint8_t last = three ? b[n + 2] : b[n + 1];

	p->vex = true;
	*rex = 0x40 | (b[n + 1] & 0x80 ? 0 : 4);
	p->map = JIT_MAP_0F;
	if (three) {
		*rex |= (b[n + 1] & 0x40 ? 0 : 2) | (b[n + 1] & 0x20 ? 0 : 1);
		*rex |= last & 0x80 ? 8 : 0;
		p->map = b[n + 1] & 0x1f;
	}
	p->vvvv = (uint8_t)(~last >> 3 & 15);
	p->l = last & 4;
	p->pp = last & 3;
	return n + (three ? 3 : 2);
}

/*
 * Vector registers 16 to 31 are in bits that stay as they are: reg and rm hold what a
 * general register's number would be.
 */
static unsigned parse_evex(struct jit_bytes *p, const uint8_t *b, unsigned n, uint8_t *rex)
{
	p->evex = b + n + 1;
	*rex = 0x40 | (~p->evex[0] >> 5 & 7) | (p->evex[1] & 0x80 ? 8 : 0);
	p->map = p->evex[0] & 7;
	p->vvvv = (uint8_t)(~p->evex[1] >> 3 & 15);
	p->pp = p->evex[1] & 3;
	return n + 4;
}

unsigned jit_parse_modrm(struct jit_bytes *p, const uint8_t *b, unsigned n, uint8_t rex)
{
	unsigned mod, nr_disp;

	p->has_modrm = true;
	p->modrm = b[n++];
	mod = p->modrm >> 6;
	p->reg = (uint8_t)((p->modrm >> 3 & 7) | (rex & 4) << 1);
	p->rm = (uint8_t)((p->modrm & 7) | (rex & 1) << 3);
	p->mem = mod != 3;
	if (!p->mem)
		return n;
	nr_disp = mod == 1 ? 1 : mod == 2 ? 4 : 0;
	p->base = p->rm;
	if ((p->modrm & 7) == 4) {
		uint8_t sib = b[n++];

		p->shift = sib >> 6;
		p->index = (uint8_t)((sib >> 3 & 7) | (rex & 2) << 2);
		if (p->index == 4)
			p->index = HOST_NONE;
		p->base = (uint8_t)((sib & 7) | (rex & 1) << 3);
		if ((sib & 7) == 5 && mod == 0) {
			p->base = HOST_NONE;
			nr_disp = 4;
		}
	} else if ((p->modrm & 7) == 5 && mod == 0) {
		p->base = HOST_NONE;
		p->rip_relative = true;
		nr_disp = 4;
	}
	if (p->index == HOST_NONE)
		p->shift = 0;
	p->disp = nr_disp ? signed_bytes(b + n, nr_disp) : 0;
	return n + nr_disp;
}

bool jit_parse(struct jit_bytes *p, const struct jit_insn *i)
{
	const uint8_t *b = i->bytes;
	unsigned nr = i->isa->len, n;
	uint8_t rex;

	if (i->code32)
		return jit_parse32(p, i);
	*p = (struct jit_bytes){ .seg = SREG_DS, .base = HOST_NONE, .index = HOST_NONE };
	n = parse_prefixes(p, b, nr, &rex);
	if (n + 1 > nr)
		return false;
	if (b[n] == 0xc4 || b[n] == 0xc5) {
		if (n + 4 > nr || rex)
			return false;
		n = parse_vex(p, b, n, &rex);
		p->opcode = b[n++];
	} else if (b[n] == 0x62) {
		if (n + 6 > nr || rex)
			return false;
		n = parse_evex(p, b, n, &rex);
		if (p->map < JIT_MAP_0F || p->map > JIT_MAP_0F3A)
			return false;
		p->opcode = b[n++];
	} else {
		p->has_rex = rex;
		p->pp = p->rep == 0xf2 ? 3 : p->rep == 0xf3 ? 2 : p->p66 ? 1 : 0;
		if (b[n] == 0x0f && n + 1 < nr) {
			n++;
			p->map = JIT_MAP_0F;
			if (b[n] == 0x38 || b[n] == 0x3a)
				p->map = b[n++] == 0x38 ? JIT_MAP_0F38 : JIT_MAP_0F3A;
		}
		if (n >= nr)
			return false;
		p->opcode = b[n++];
	}
	p->w = rex & 8;
	if (jit_has_modrm(p->map, p->opcode)) {
		if (n >= nr)
			return false;
		n = jit_parse_modrm(p, b, n, rex);
		if (p->evex && p->mem && p->modrm >> 6 == 1)
			p->disp = (int32_t)i->isa->disp; /* disp8 counts in operands */
	} else {
		p->rm = (uint8_t)((p->opcode & 7) | (rex & 1) << 3);
	}
	if (n > nr)
		return false;
	p->imm = (uint8_t)n;
	p->nr_imm = (uint8_t)(nr - n);
	return true;
}

static bool in_memory(uint8_t guest)
{
	return guest != HOST_NONE && jit_host_reg[guest] == HOST_NONE;
}

bool jit_direct(const struct jit_bytes *p)
{
	return !p->rip_relative && !p->p67 && p->seg < SREG_FS && !in_memory(p->base) &&
	       !in_memory(p->index);
}
