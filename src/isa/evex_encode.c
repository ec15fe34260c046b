/*
 * EVEX: the prefix of a re-encoded instruction, and the moves between memory and
 * vector or opmask registers that the masked handlers are made of.
 *
 * The prefix is the guest's own, but for the bits that named a general register
 * or an address (rdi stands for the memory operand, rax and rcx for general
 * registers: simd_encode.c) and, outside 64-bit code, those that mean nothing
 * there. Mask, zeroing, broadcast or rounding, vector length, W and vvvv are
 * kept. A displacement is never emitted, so disp8*N plays no part.
 *
 * Source: SDM Vol. 2, "Intel AVX-512 Encoding". Locks: none; while decoding only.
 */
#include "isa/host.h"
#include "isa/simd_encode.h"

/* In the order of the bytes behind 62h; inverted bits are marked ~. */
#define P0_R 0x80	/* ~ModRM.reg bit 3 */
#define P0_X 0x40	/* ~ModRM.rm bit 4 of a register, index bit 3 */
#define P0_B 0x20	/* ~ModRM.rm bit 3 */
#define P0_R2 0x10	/* ~ModRM.reg bit 4 */
#define P1_W 0x80
#define P1_VVVV3 0x40	/* ~vvvv bit 3 */
#define P1_FIXED 0x04
#define P2_V2 0x08	/* ~vvvv bit 4 */
#define P2_512 0x40	/* L'L = 2 */

void emit_evex_prefix(struct emitter *e, const struct isa_decoded *d, const struct evex_operands *o)
{
	const uint8_t *v = d->bytes + d->insn.raw.evex.offset;
	unsigned p0 = v[1], p1 = v[2], p2 = v[3];

	if (d->mode != ISA_CODE64) {
		p0 |= P0_R | P0_X | P0_B | P0_R2;
		p1 |= P1_VVVV3;
		p2 |= P2_V2;
		if (o->gpr_reg || o->gpr_rm || o->ignores_w)
			p1 &= (unsigned)~P1_W;
	}
	if (o->gpr_reg)
		p0 |= P0_R | P0_R2;
	if (o->gpr_rm || o->memory)
		p0 |= P0_X | P0_B;
	emit_byte(e, 0x62);
	emit_byte(e, p0);
	emit_byte(e, p1);
	emit_byte(e, p2);
}

/* vmovdqu64 between zmm nr and [rdi] */
void emit_zmm_move(struct emitter *e, unsigned opcode, unsigned nr)
{
	emit_byte(e, 0x62);
	emit_byte(e, (nr & 8 ? 0 : P0_R) | P0_X | P0_B | (nr & 16 ? 0 : P0_R2) | 1); /* map 0f */
	emit_byte(e, P1_W | 0x78 | P1_FIXED | 2);				      /* F3 */
	emit_byte(e, P2_512 | P2_V2);
	emit_byte(e, opcode);
	emit_byte(e, (nr & 7) << 3 | 7);
}

/* kmovq (kmovw where the host has no AVX512BW) between k nr and [rdi + disp8] */
void emit_kmov(struct emitter *e, unsigned opcode, unsigned nr, unsigned disp8)
{
	bool wide = isa_host_has(HOST_AVX512BW);

	emit_byte(e, 0xc4);
	emit_byte(e, 0xe1);		      /* R X B, map 0f */
	emit_byte(e, (wide ? 0x80 : 0) | 0x78); /* W, vvvv unused, L0, no prefix */
	emit_byte(e, opcode);
	emit_byte(e, 0x40 | nr << 3 | 7);
	emit_byte(e, disp8);
}
