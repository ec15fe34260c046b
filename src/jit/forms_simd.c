/*
 * The table of forms, continued: x87, MMX, SSE, AVX and AVX-512.
 *
 * Registers of these sets keep their numbers, so a row says no more than that an
 * opcode may be copied, and which field, if any, is a general register.
 * jit_classify() asks besides whether the interpreter runs the instruction by one
 * silicon stub: what needs more (masked moves, gathers, images) is refused there.
 * Source: SDM Vol. 2, "Opcode Map".
 *
 * Locks: none; constant.
 */
#include "jit/internal.h"

/* Prefixes, as sets of jit_bytes.pp. */
#define P0 1u
#define P66 2u
#define PF3 4u
#define PF2 8u
#define P_ALL 15u

enum { LEGACY = 1, VEX = 2, BOTH = 3, EVEX = 4 };

/* Opcodes first..last of a map, with these prefixes, legacy or VEX. */
struct simd_row {
	uint8_t map, first, last, pp, enc;
	uint8_t flags; /* enum jit_flag_class */
	uint32_t gpr;  /* OP_* beyond OP_MODRM */
};

#define RM_IN OP_RM_R | OP_MEM_SAME
#define RM_OUT OP_RM_W | OP_MEM_SAME
/* Zero-extends into a register, not in memory. */
#define RM_OUT_NARROW OP_RM_W
#define REG_OUT OP_REG_W

static const struct simd_row rows[] = {
	{ JIT_MAP_0F, 0x10, 0x17, P_ALL, BOTH },
	{ JIT_MAP_0F, 0x28, 0x29, P_ALL, BOTH },
	{ JIT_MAP_0F, 0x2a, 0x2a, P0 | P66, LEGACY },		   /* CVTPI2PS, CVTPI2PD */
	{ JIT_MAP_0F, 0x2a, 0x2a, PF3 | PF2, BOTH, 0, RM_IN },	   /* CVTSI2SS, CVTSI2SD */
	{ JIT_MAP_0F, 0x2b, 0x2b, P0 | P66, BOTH },
	{ JIT_MAP_0F, 0x2c, 0x2d, P0 | P66, LEGACY },		   /* CVT(T)PS2PI, CVT(T)PD2PI */
	{ JIT_MAP_0F, 0x2c, 0x2d, PF3 | PF2, BOTH, 0, REG_OUT },   /* CVT(T)SS2SI, CVT(T)SD2SI */
	{ JIT_MAP_0F, 0x2e, 0x2f, P0 | P66, BOTH, FLAGS_ALL },	   /* UCOMISx, COMISx */
	{ JIT_MAP_0F, 0x50, 0x50, P0 | P66, BOTH, 0, REG_OUT },	   /* MOVMSKPx */
	{ JIT_MAP_0F, 0x51, 0x6d, P_ALL, BOTH },
	{ JIT_MAP_0F, 0x6e, 0x6e, P0 | P66, BOTH, 0, RM_IN },	   /* MOVD, MOVQ */
	{ JIT_MAP_0F, 0x6f, 0x76, P_ALL, BOTH },
	{ JIT_MAP_0F, 0x77, 0x77, P0, BOTH },			   /* EMMS, VZEROxxx */
	{ JIT_MAP_0F, 0x7c, 0x7d, P66 | PF2, BOTH },
	{ JIT_MAP_0F, 0x7e, 0x7e, P0 | P66, BOTH, 0, RM_OUT },
	{ JIT_MAP_0F, 0x7e, 0x7e, PF3, BOTH },			   /* MOVQ xmm */
	{ JIT_MAP_0F, 0x7f, 0x7f, P_ALL, BOTH },
	{ JIT_MAP_0F, 0xc2, 0xc2, P_ALL, BOTH },
	{ JIT_MAP_0F, 0xc4, 0xc4, P0 | P66, BOTH, 0, RM_IN },	   /* PINSRW */
	{ JIT_MAP_0F, 0xc5, 0xc5, P0 | P66, BOTH, 0, REG_OUT },	   /* PEXTRW */
	{ JIT_MAP_0F, 0xc6, 0xc6, P0 | P66, BOTH },
	{ JIT_MAP_0F, 0xd0, 0xd6, P_ALL, BOTH },
	{ JIT_MAP_0F, 0xd7, 0xd7, P0 | P66, BOTH, 0, REG_OUT },	   /* PMOVMSKB */
	{ JIT_MAP_0F, 0xd8, 0xef, P_ALL, BOTH },
	{ JIT_MAP_0F, 0xf0, 0xf0, PF2, BOTH },			   /* LDDQU */
	{ JIT_MAP_0F, 0xf1, 0xf6, P0 | P66, BOTH },
	{ JIT_MAP_0F, 0xf8, 0xfe, P0 | P66, BOTH },

	{ JIT_MAP_0F38, 0x00, 0x0b, P0 | P66, BOTH },
	{ JIT_MAP_0F38, 0x0c, 0x0d, P66, VEX },			   /* VPERMILPx */
	{ JIT_MAP_0F38, 0x0e, 0x0f, P66, VEX, FLAGS_ALL },	   /* VTESTPx */
	{ JIT_MAP_0F38, 0x10, 0x10, P66, LEGACY },
	{ JIT_MAP_0F38, 0x13, 0x13, P66, VEX },			   /* VCVTPH2PS */
	{ JIT_MAP_0F38, 0x14, 0x15, P66, LEGACY },
	{ JIT_MAP_0F38, 0x16, 0x16, P66, VEX },			   /* VPERMPS */
	{ JIT_MAP_0F38, 0x17, 0x17, P66, BOTH, FLAGS_ALL },	   /* PTEST */
	{ JIT_MAP_0F38, 0x18, 0x1a, P66, VEX },			   /* VBROADCASTxx */
	{ JIT_MAP_0F38, 0x1c, 0x1e, P0 | P66, BOTH },
	{ JIT_MAP_0F38, 0x20, 0x25, P66, BOTH },
	{ JIT_MAP_0F38, 0x28, 0x2b, P66, BOTH },
	{ JIT_MAP_0F38, 0x30, 0x35, P66, BOTH },
	{ JIT_MAP_0F38, 0x36, 0x36, P66, VEX },			   /* VPERMD */
	{ JIT_MAP_0F38, 0x37, 0x41, P66, BOTH },
	{ JIT_MAP_0F38, 0x45, 0x47, P66, VEX },			   /* VPSRLVx VPSRAVD VPSLLVx */
	{ JIT_MAP_0F38, 0x58, 0x5a, P66, VEX },
	{ JIT_MAP_0F38, 0x78, 0x79, P66, VEX },
	{ JIT_MAP_0F38, 0x96, 0x9f, P66, VEX },			   /* FMA */
	{ JIT_MAP_0F38, 0xa6, 0xaf, P66, VEX },
	{ JIT_MAP_0F38, 0xb6, 0xbf, P66, VEX },
	{ JIT_MAP_0F38, 0xc8, 0xcd, P0, LEGACY },		   /* SHA */
	{ JIT_MAP_0F38, 0xcf, 0xcf, P66, BOTH },
	{ JIT_MAP_0F38, 0xdb, 0xdf, P66, BOTH },		   /* AES */

	{ JIT_MAP_0F3A, 0x00, 0x06, P66, VEX },
	{ JIT_MAP_0F3A, 0x08, 0x0e, P66, BOTH },
	{ JIT_MAP_0F3A, 0x0f, 0x0f, P0 | P66, BOTH },
	{ JIT_MAP_0F3A, 0x14, 0x15, P66, BOTH, 0, RM_OUT_NARROW }, /* PEXTRB, PEXTRW */
	{ JIT_MAP_0F3A, 0x16, 0x16, P66, BOTH, 0, RM_OUT },	   /* PEXTRD, PEXTRQ */
	{ JIT_MAP_0F3A, 0x17, 0x17, P66, BOTH, 0, RM_OUT_NARROW }, /* EXTRACTPS */
	{ JIT_MAP_0F3A, 0x18, 0x19, P66, VEX },
	{ JIT_MAP_0F3A, 0x1d, 0x1d, P66, VEX },			   /* VCVTPS2PH */
	{ JIT_MAP_0F3A, 0x20, 0x20, P66, BOTH, 0, RM_IN },	   /* PINSRB */
	{ JIT_MAP_0F3A, 0x21, 0x21, P66, BOTH },
	{ JIT_MAP_0F3A, 0x22, 0x22, P66, BOTH, 0, RM_IN },	   /* PINSRD, PINSRQ */
	{ JIT_MAP_0F3A, 0x38, 0x39, P66, VEX },
	{ JIT_MAP_0F3A, 0x40, 0x42, P66, BOTH },
	{ JIT_MAP_0F3A, 0x44, 0x44, P66, BOTH },
	{ JIT_MAP_0F3A, 0x46, 0x46, P66, VEX },
	{ JIT_MAP_0F3A, 0x4a, 0x4c, P66, VEX },
	{ JIT_MAP_0F3A, 0x60, 0x63, P66, BOTH, FLAGS_ALL, OP_AX_R | OP_CX_W }, /* PCMPxSTRx */
	{ JIT_MAP_0F3A, 0xcc, 0xcc, P0, LEGACY },
	{ JIT_MAP_0F3A, 0xce, 0xcf, P66, BOTH },
	{ JIT_MAP_0F3A, 0xdf, 0xdf, P66, BOTH },

	/* opmasks */
	{ JIT_MAP_0F, 0x41, 0x4b, P0 | P66, VEX },
	{ JIT_MAP_0F, 0x90, 0x91, P0 | P66, VEX },
	{ JIT_MAP_0F, 0x92, 0x92, P0 | P66 | PF2, VEX, 0, OP_RM_R }, /* KMOV k, r */
	{ JIT_MAP_0F, 0x93, 0x93, P0 | P66 | PF2, VEX, 0, REG_OUT }, /* KMOV r, k */
	{ JIT_MAP_0F, 0x98, 0x99, P0 | P66, VEX, FLAGS_ALL },	   /* KORTEST, KTEST */
	{ JIT_MAP_0F3A, 0x30, 0x33, P66, VEX },			   /* KSHIFT */

	{ JIT_MAP_0F, 0x10, 0x17, P_ALL, EVEX },
	{ JIT_MAP_0F, 0x28, 0x29, P_ALL, EVEX },
	{ JIT_MAP_0F, 0x2a, 0x2a, PF3 | PF2, EVEX, 0, OP_RM_R },   /* VCVTSI2Sx */
	{ JIT_MAP_0F, 0x2b, 0x2b, P_ALL, EVEX },
	{ JIT_MAP_0F, 0x2c, 0x2d, PF3 | PF2, EVEX, 0, REG_OUT },   /* VCVT(T)Sx2SI */
	{ JIT_MAP_0F, 0x2e, 0x2f, P_ALL, EVEX, FLAGS_ALL },	   /* VUCOMISx VCOMISx */
	{ JIT_MAP_0F, 0x51, 0x6d, P_ALL, EVEX },
	{ JIT_MAP_0F, 0x6e, 0x6e, P66, EVEX, 0, OP_RM_R },	   /* VMOVD VMOVQ */
	{ JIT_MAP_0F, 0x6f, 0x76, P_ALL, EVEX },
	{ JIT_MAP_0F, 0x78, 0x79, P0 | P66, EVEX },
	{ JIT_MAP_0F, 0x78, 0x79, PF3 | PF2, EVEX, 0, REG_OUT },   /* VCVT(T)Sx2USI */
	{ JIT_MAP_0F, 0x7a, 0x7a, P_ALL, EVEX },
	{ JIT_MAP_0F, 0x7b, 0x7b, P66, EVEX },
	{ JIT_MAP_0F, 0x7b, 0x7b, PF3 | PF2, EVEX, 0, OP_RM_R },   /* VCVTUSI2Sx */
	{ JIT_MAP_0F, 0x7e, 0x7e, P66, EVEX, 0, OP_RM_W },	   /* VMOVD VMOVQ */
	{ JIT_MAP_0F, 0x7e, 0x7e, PF3, EVEX },
	{ JIT_MAP_0F, 0x7f, 0x7f, P_ALL, EVEX },
	{ JIT_MAP_0F, 0xc2, 0xc2, P_ALL, EVEX },
	{ JIT_MAP_0F, 0xc4, 0xc4, P66, EVEX, 0, OP_RM_R },	   /* VPINSRW */
	{ JIT_MAP_0F, 0xc5, 0xc5, P66, EVEX, 0, REG_OUT },	   /* VPEXTRW */
	{ JIT_MAP_0F, 0xc6, 0xc6, P_ALL, EVEX },
	{ JIT_MAP_0F, 0xd1, 0xd6, P_ALL, EVEX },
	{ JIT_MAP_0F, 0xd8, 0xfe, P_ALL, EVEX },

	{ JIT_MAP_0F38, 0x00, 0x79, P66 | PF3 | PF2, EVEX },
	{ JIT_MAP_0F38, 0x7a, 0x7c, P66, EVEX, 0, OP_RM_R | OP_NO_MEM }, /* VPBROADCASTx of a general register */
	{ JIT_MAP_0F38, 0x7d, 0x8f, P66, EVEX },
	{ JIT_MAP_0F38, 0x96, 0x9f, P66, EVEX },
	{ JIT_MAP_0F38, 0xa6, 0xaf, P66, EVEX },
	{ JIT_MAP_0F38, 0xb4, 0xbf, P66, EVEX },
	{ JIT_MAP_0F38, 0xc4, 0xc4, P66, EVEX },
	{ JIT_MAP_0F38, 0xc8, 0xcf, P66, EVEX },
	{ JIT_MAP_0F38, 0xdc, 0xdf, P66, EVEX },
	{ JIT_MAP_0F3A, 0x00, 0x0f, P66, EVEX },
	{ JIT_MAP_0F3A, 0x14, 0x17, P66, EVEX, 0, OP_RM_W },	   /* VPEXTRx VEXTRACTPS */
	{ JIT_MAP_0F3A, 0x18, 0x1f, P66, EVEX },
	{ JIT_MAP_0F3A, 0x20, 0x20, P66, EVEX, 0, OP_RM_R },	   /* VPINSRB */
	{ JIT_MAP_0F3A, 0x21, 0x21, P66, EVEX },
	{ JIT_MAP_0F3A, 0x22, 0x22, P66, EVEX, 0, OP_RM_R },	   /* VPINSRD VPINSRQ */
	{ JIT_MAP_0F3A, 0x23, 0x27, P66, EVEX },
	{ JIT_MAP_0F3A, 0x38, 0x3f, P66, EVEX },
	{ JIT_MAP_0F3A, 0x42, 0x44, P66, EVEX },
	{ JIT_MAP_0F3A, 0x50, 0x57, P66, EVEX },
	{ JIT_MAP_0F3A, 0x66, 0x67, P66, EVEX },
	{ JIT_MAP_0F3A, 0x70, 0x73, P66, EVEX },
	{ JIT_MAP_0F3A, 0xce, 0xcf, P66, EVEX },
};

/* x87: d8..df. What touches no image and no environment is one instruction of the host's. */
static struct jit_form find_x87(const struct jit_bytes *p)
{
	struct jit_form f = { .how = HOW_X87, .ops = OP_MODRM | OP_VECTOR };
	unsigned group = p->modrm & 0xf8;

	if (p->mem)
		return f;
	if ((p->opcode & 0xfe) == 0xda && group < 0xe0) /* FCMOVcc: conditions 2 4 6 10, negated */
		f.flags = FLAGS_FCMOV;
	if (p->opcode == 0xdb && (group == 0xe8 || group == 0xf0))
		f.flags = FLAGS_FCOMI;
	if (p->opcode == 0xdf && (group == 0xe8 || group == 0xf0))
		f.flags = FLAGS_FCOMI;
	if (p->opcode == 0xdf && p->modrm == 0xe0) /* FNSTSW AX */
		f.ops |= OP_AX_W;
	return f;
}

struct jit_form jit_find_simd_form(const struct jit_bytes *p)
{
	const struct jit_form refuse = { 0 }, fence = { .how = HOW_COPY, .ops = OP_MODRM };

	if (p->map == JIT_MAP_ONE && !p->vex) {
		if (p->opcode == 0x9b) /* FWAIT */
			return (struct jit_form){ .how = HOW_COPY, .ops = OP_VECTOR };
		return (p->opcode & 0xf8) == 0xd8 ? find_x87(p) : refuse;
	}
	if (p->map == JIT_MAP_0F && p->opcode == 0xae && !p->evex) {
		if (!p->mem && !p->vex && !p->pp && p->modrm >= 0xe8)
			return fence;
		if (p->mem && !p->pp && (p->modrm & 0x38) == 0x18) /* STMXCSR */
			return (struct jit_form){ .how = HOW_COPY,
						  .ops = OP_MODRM | OP_VECTOR | OP_MANDATORY };
		return refuse;
	}
	if (!p->vex && !p->evex && p->rep && p->p66)
		return refuse; /* which of them counts is not for us to know */
	for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
		const struct simd_row *r = &rows[n];

		if (r->map == p->map && p->opcode >= r->first && p->opcode <= r->last &&
		    (r->pp >> p->pp & 1) && (r->enc & (p->evex ? EVEX : p->vex ? VEX : LEGACY)))
			return (struct jit_form){
				.how = HOW_COPY, .flags = r->flags,
				.ops = OP_MODRM | OP_VECTOR | OP_MANDATORY | r->gpr,
			};
	}
	return refuse;
}
