/*
 * Data movement without flags: MOV, MOVZX MOVSX MOVSXD, LEA, CMOVcc, SETcc,
 * CBW CWD and their kin, XLAT, MOVNTI, BSWAP, MOVBE.
 *
 * Locks: none.
 */
#include "isa/decoder.h"
#include "isa/internal.h"

#define LOAD(T) ((T)isa_load(cs, isa_operand(cs, i, sizeof(T), ISA_READ), sizeof(T)))
#define LOAD_LAST(T, v) likely(isa_load_last(cs, isa_operand(cs, i, sizeof(T), ISA_READ), sizeof(T), (v)))
#define STORE(T, v) isa_store(cs, isa_operand(cs, i, sizeof(T), ISA_WRITE), sizeof(T), (v))
#define STORE_LAST(T, v) isa_store_last(cs, isa_operand(cs, i, sizeof(T), ISA_WRITE), sizeof(T), (v))

/* --- MOV --- */
#define MOV_SIZE(bits, T, S, sfx)                                                      \
	HANDLER(mov_rr##bits)                                                          \
	{                                                                              \
		SET_REG(cs, i->rm_off, T, ISA_REG(cs, i->reg_off, T));                 \
	}                                                                              \
	HANDLER(mov_ri##bits)                                                          \
	{                                                                              \
		SET_REG(cs, i->rm_off, T, i->imm);                                     \
	}                                                                              \
	HANDLER(mov_rm##bits)                                                          \
	{                                                                              \
		uint64_t v;                                                            \
                                                                                       \
		if (LOAD_LAST(T, &v))                                                  \
			SET_REG(cs, i->reg_off, T, v);                                 \
	}                                                                              \
	HANDLER(mov_mr##bits)                                                          \
	{                                                                              \
		STORE_LAST(T, ISA_REG(cs, i->reg_off, T));                             \
	}                                                                              \
	HANDLER(mov_mi##bits)                                                          \
	{                                                                              \
		STORE_LAST(T, (T)i->imm);                                              \
	}
ISA_SIZES(MOV_SIZE)

static const struct by_size mov_rr = BY_SIZE(mov_rr), mov_ri = BY_SIZE(mov_ri),
			    mov_rm = BY_SIZE(mov_rm), mov_mr = BY_SIZE(mov_mr),
			    mov_mi = BY_SIZE(mov_mi);

/* 88..8b */
isa_fn *isa_pick_mov(const struct isa_decoded *d, struct isa_insn *i)
{
	uint8_t t;

	if (i->flags & ISA_MEM)
		return by_size((i->opcode & 2) ? &mov_rm : &mov_mr, i->opsize);
	if (i->opcode & 2) {
		t = i->rm_off;
		i->rm_off = i->reg_off;
		i->reg_off = t;
	}
	return by_size(&mov_rr, i->opsize);
}

/* c6 c7 /0 */
isa_fn *isa_pick_mov_imm(const struct isa_decoded *d, struct isa_insn *i)
{
	if ((i->modrm >> 3) & 7)
		return NULL;
	return by_size((i->flags & ISA_MEM) ? &mov_mi : &mov_ri, i->opsize);
}

/* b0..bf */
isa_fn *isa_pick_mov_reg_imm(const struct isa_decoded *d, struct isa_insn *i)
{
	return by_size(&mov_ri, i->opsize);
}

/* a0..a3 */
isa_fn *isa_pick_mov_moffs(const struct isa_decoded *d, struct isa_insn *i)
{
	i->reg_off = 0;
	return by_size((i->opcode & 2) ? &mov_mr : &mov_rm, i->opsize);
}

/* --- MOVZX, MOVSX, MOVSXD: from type F to type T; FS converts to it --- */
#define MOVX(name, T, F, C)                                                            \
	HANDLER(name##_r)                                                              \
	{                                                                              \
		T v = (T)(C)ISA_REG(cs, i->rm_off, F);                                 \
		SET_REG(cs, i->reg_off, T, v);                                         \
	}                                                                              \
	HANDLER(name##_m)                                                              \
	{                                                                              \
		uint64_t v;                                                            \
                                                                                       \
		if (LOAD_LAST(F, &v))                                                  \
			SET_REG(cs, i->reg_off, T, (T)(C)v);                           \
	}

#define MOVX_SIZE(bits, T, S, sfx)                                                     \
	MOVX(movzx8_##bits, T, uint8_t, uint8_t) MOVX(movsx8_##bits, T, uint8_t, int8_t) \
	MOVX(movzx16_##bits, T, uint16_t, uint16_t) MOVX(movsx16_##bits, T, uint16_t, int16_t)
ISA_SIZES_WLQ(MOVX_SIZE)
MOVX(movsxd16, uint16_t, uint16_t, uint16_t)
MOVX(movsxd32, uint32_t, uint32_t, uint32_t)
MOVX(movsxd64, uint64_t, uint32_t, int32_t)

/* [sign][source is a word][memory][opsize] */
#define MOVX_ROW(n, f) { NULL, n##_16##f, n##_32##f, n##_64##f }
static isa_fn *const movx[2][2][2][4] = {
	{ { MOVX_ROW(movzx8, _r), MOVX_ROW(movzx8, _m) },
	  { MOVX_ROW(movzx16, _r), MOVX_ROW(movzx16, _m) } },
	{ { MOVX_ROW(movsx8, _r), MOVX_ROW(movsx8, _m) },
	  { MOVX_ROW(movsx16, _r), MOVX_ROW(movsx16, _m) } },
};

/* 0f b6 b7 be bf */
isa_fn *isa_pick_movx(const struct isa_decoded *d, struct isa_insn *i)
{
	if (!(i->opcode & 1))
		i->rm_off = isa_byte_off(d, i->rm);
	return movx[(i->opcode >> 3) & 1][i->opcode & 1][(i->flags & ISA_MEM) != 0]
		   [__builtin_ctz(i->opsize)];
}

/* 63 in 64-bit mode (ARPL elsewhere) */
isa_fn *isa_pick_movsxd(const struct isa_decoded *d, struct isa_insn *i)
{
	static isa_fn *const fn[2][3] = {
		{ movsxd16_r, movsxd32_r, movsxd64_r }, { movsxd16_m, movsxd32_m, movsxd64_m }
	};

	if (d->mode != ISA_CODE64)
		return NULL;
	return fn[(i->flags & ISA_MEM) != 0][__builtin_ctz(i->opsize) - 1];
}

/* --- LEA --- */
HANDLER(lea16) { SET_REG(cs, i->reg_off, uint16_t, isa_ea(cs, i)); }
HANDLER(lea32) { SET_REG(cs, i->reg_off, uint32_t, isa_ea(cs, i)); }
HANDLER(lea64) { SET_REG(cs, i->reg_off, uint64_t, isa_ea(cs, i)); }

HANDLER(lea64_base)
{
	ISA_REG(cs, i->reg_off, uint64_t) = ISA_REG(cs, i->base_off, uint64_t) + (uint64_t)i->disp;
}

/* 8d; segment overrides mean nothing */
isa_fn *isa_pick_lea(const struct isa_decoded *d, struct isa_insn *i)
{
	static const struct by_size lea = BY_SIZE_WLQ(lea);

	if (!(i->flags & ISA_MEM))
		return isa_raise_ud;
	if (i->opsize == 8 && i->ea_form == ISA_EA_BASE)
		return lea64_base;
	return by_size(&lea, i->opsize);
}

/* --- CMOVcc: a memory operand is read, and a 32-bit result zero-extended, either way --- */
#define CMOV(c)                                                                        \
	HANDLER(cmov##c##_32)                                                          \
	{                                                                              \
		uint32_t v = ISA_REG(cs, i->rm_off, uint32_t);                         \
		if (!cc_test(cs->cc, c))                                               \
			v = ISA_REG(cs, i->reg_off, uint32_t);                         \
		SET_REG(cs, i->reg_off, uint32_t, v);                                  \
	}                                                                              \
	HANDLER(cmov##c##_64)                                                          \
	{                                                                              \
		if (cc_test(cs->cc, c))                                                \
			ISA_REG(cs, i->reg_off, uint64_t) = ISA_REG(cs, i->rm_off, uint64_t); \
	}                                                                              \
	HANDLER(setcc##c##_r)                                                          \
	{                                                                              \
		ISA_REG(cs, i->rm_off, uint8_t) = cc_test(cs->cc, c);                  \
	}
ISA_CONDS(CMOV)

HANDLER(cmov_slow)
{
	uint64_t v = isa_read_rm(cs, i, i->opsize);

	if (!cc_test(cs->cc, i->cond))
		v = cs->gpr[i->reg];
	isa_set_gpr(cs, i->reg, i->opsize, v);
}

#define CMOV_ROW(c) { cmov##c##_32, cmov##c##_64 },
#define SETCC_ROW(c) setcc##c##_r,

/* 0f 40..4f */
isa_fn *isa_pick_cmov(const struct isa_decoded *d, struct isa_insn *i)
{
	static isa_fn *const fn[16][2] = { ISA_CONDS(CMOV_ROW) };

	if ((i->flags & ISA_MEM) || i->opsize == 2)
		return cmov_slow;
	return fn[i->cond][i->opsize == 8];
}

HANDLER(setcc_m)
{
	STORE(uint8_t, cc_test(cs->cc, i->cond));
}

/* 0f 90..9f */
isa_fn *isa_pick_setcc(const struct isa_decoded *d, struct isa_insn *i)
{
	static isa_fn *const fn[16] = { ISA_CONDS(SETCC_ROW) };

	if (i->flags & ISA_MEM)
		return setcc_m;
	i->rm_off = isa_byte_off(d, i->rm);
	return fn[i->cond];
}

/* --- CBW CWDE CDQE (98), CWD CDQ CQO (99) --- */
HANDLER(cbw16) { SET_REG(cs, 0, uint16_t, (int8_t)cs->gpr[RAX]); }
HANDLER(cbw32) { SET_REG(cs, 0, uint32_t, (int16_t)cs->gpr[RAX]); }
HANDLER(cbw64) { SET_REG(cs, 0, uint64_t, (int64_t)(int32_t)cs->gpr[RAX]); }
HANDLER(cwd16) { SET_REG(cs, 8 * RDX, uint16_t, (int16_t)cs->gpr[RAX] >> 15); }
HANDLER(cwd32) { SET_REG(cs, 8 * RDX, uint32_t, (int32_t)cs->gpr[RAX] >> 31); }
HANDLER(cwd64) { SET_REG(cs, 8 * RDX, uint64_t, (int64_t)cs->gpr[RAX] >> 63); }

isa_fn *isa_pick_convert(const struct isa_decoded *d, struct isa_insn *i)
{
	static const struct by_size cbw = BY_SIZE_WLQ(cbw), cwd = BY_SIZE_WLQ(cwd);

	return by_size(i->opcode == 0x98 ? &cbw : &cwd, i->opsize);
}

/* AL = [seg:rBX + AL] */
HANDLER(xlat)
{
	uint64_t ea = cs->gpr[RBX] + (uint8_t)cs->gpr[RAX];

	if (i->adsize != 8)
		ea = i->adsize == 4 ? (uint32_t)ea : (uint16_t)ea;
	ISA_REG(cs, 0, uint8_t) =
		(uint8_t)isa_load(cs, isa_linear(cs, i->seg, ea, 1, ISA_READ), 1);
}

isa_fn *isa_pick_xlat(const struct isa_decoded *d, struct isa_insn *i)
{
	return xlat;
}

/* 0f c3: the non-temporal hint is only a hint; never 16 bits, in 16-bit code neither */
isa_fn *isa_pick_movnti(const struct isa_decoded *d, struct isa_insn *i)
{
	i->opsize = i->opsize == 8 ? 8 : 4;
	return (i->flags & ISA_MEM) ? by_size(&mov_mr, i->opsize) : isa_raise_ud;
}

/* --- BSWAP, MOVBE --- */
HANDLER(bswap16) { ISA_REG(cs, i->rm_off, uint16_t) = 0; } /* undefined; what silicon does */
HANDLER(bswap32) { SET_REG(cs, i->rm_off, uint32_t, __builtin_bswap32(ISA_REG(cs, i->rm_off, uint32_t))); }
HANDLER(bswap64) { SET_REG(cs, i->rm_off, uint64_t, __builtin_bswap64(ISA_REG(cs, i->rm_off, uint64_t))); }

/* 0f c8..cf */
isa_fn *isa_pick_bswap(const struct isa_decoded *d, struct isa_insn *i)
{
	static const struct by_size bswap = BY_SIZE_WLQ(bswap);

	return by_size(&bswap, i->opsize);
}

#define MOVBE_SIZE(bits, T, S, sfx)                                                    \
	HANDLER(movbe_rm##bits)                                                        \
	{                                                                              \
		T v = __builtin_bswap##bits(LOAD(T));                                  \
		SET_REG(cs, i->reg_off, T, v);                                         \
	}                                                                              \
	HANDLER(movbe_mr##bits)                                                        \
	{                                                                              \
		STORE(T, __builtin_bswap##bits(ISA_REG(cs, i->reg_off, T)));           \
	}
ISA_SIZES_WLQ(MOVBE_SIZE)

/* 0f38 f0 f1 without F2 */
isa_fn *isa_pick_movbe(const struct isa_decoded *d, struct isa_insn *i)
{
	static const struct by_size rm = BY_SIZE_WLQ(movbe_rm), mr = BY_SIZE_WLQ(movbe_mr);

	if (!(i->flags & ISA_MEM))
		return NULL;
	return by_size(i->opcode == 0xf0 ? &rm : &mr, i->opsize);
}
