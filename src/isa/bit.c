/*
 * BT BTS BTR BTC, BSF BSR TZCNT LZCNT POPCNT, CRC32, ADCX ADOX.
 *
 * The guest's flags are loaded before the host's instruction runs where it
 * leaves some of them alone.
 *
 * Locks: none.
 */
#include "isa/decoder.h"
#include "isa/internal.h"

/* --- BT*: by immediate (bit number modulo size) or by register (a bit string in memory) --- */

/*
 * Address of the element that holds the bit: the register is a signed bit
 * number relative to the operand (SDM Vol. 1, "Bit String").
 */
ISA_INLINE uint64_t bit_linear(struct cpu_state *cs, const struct isa_insn *i, int64_t bit,
			       unsigned size, enum isa_access how)
{
	uint64_t ea = isa_ea(cs, i) + (uint64_t)(bit >> (size == 2 ? 4 : size == 4 ? 5 : 6)) * size;

	if (i->adsize != 8)
		ea = i->adsize == 4 ? (uint32_t)ea : (uint16_t)ea;
	return isa_linear(cs, i->seg, ea, size, how);
}

/* With a register bit number below the operand's size, the instruction stays in its element. */
#define BIT_OP(op, lock, name, bits, T, S, sfx)                                        \
	ISA_INLINE void name(struct cpu_state *cs, T *p, T n)                          \
	{                                                                              \
		uint16_t cc = (uint16_t)cs->cc;                                        \
		__asm__ volatile(SET_FLAGS lock #op sfx " %[n], %[p]" GET_FLAGS        \
				 : [p] "+m"(*p), "+&a"(cc)                              \
				 : [n] "r"((T)(n & (bits - 1))) : "cc", "memory");     \
		cs->cc = cc;                                                           \
	}

#define BIT_REG(op, bits, T, sfx)                                                      \
	ISA_INLINE void op##_reg##bits(struct cpu_state *cs, const struct isa_insn *i, T n) \
	{                                                                              \
		T d = ISA_REG(cs, i->rm_off, T);                                       \
		uint16_t cc = (uint16_t)cs->cc;                                        \
		__asm__(SET_FLAGS #op sfx " %[n], %[d]" GET_FLAGS                      \
			: [d] "+r"(d), "+&a"(cc) : [n] "r"(n) : "cc");                  \
		cs->cc = cc;                                                           \
		SET_REG(cs, i->rm_off, T, d);                                          \
	}                                                                              \
	HANDLER(op##_rr##bits) { op##_reg##bits(cs, i, ISA_REG(cs, i->reg_off, T)); }  \
	HANDLER(op##_ri##bits) { op##_reg##bits(cs, i, (T)i->imm); }

#define BIT_MEM(fn, access, mr, mi, bits, T, S)                                        \
	HANDLER(mr)                                                                    \
	{                                                                              \
		S n = ISA_REG(cs, i->reg_off, S);                                      \
		uint64_t lin = bit_linear(cs, i, n, sizeof(T), ISA_RMW);               \
		T *p = access(cs, lin, sizeof(T));                                     \
		fn(cs, p, (T)n);                                                       \
		isa_rmw_end(cs, lin, sizeof(T), p);                                    \
	}                                                                              \
	HANDLER(mi)                                                                    \
	{                                                                              \
		uint64_t lin = isa_operand(cs, i, sizeof(T), ISA_RMW);                 \
		T *p = access(cs, lin, sizeof(T));                                     \
		fn(cs, p, (T)i->imm);                                                  \
		isa_rmw_end(cs, lin, sizeof(T), p);                                    \
	}

#define BIT_ALL(op, bits, T, S, sfx)                                                   \
	BIT_REG(op, bits, T, sfx)                                                      \
	BIT_OP(op, "", op##_mem##bits, bits, T, S, sfx)                                \
	BIT_OP(op, "lock; ", op##_lock##bits, bits, T, S, sfx)                         \
	BIT_MEM(op##_mem##bits, isa_rmw, op##_mr##bits, op##_mi##bits, bits, T, S)     \
	BIT_MEM(op##_lock##bits, isa_rmw_locked, op##_Lmr##bits, op##_Lmi##bits, bits, T, S)

/* BT only reads. */
#define BT_ALL(bits, T, S, sfx)                                                        \
	ISA_INLINE void bt_val##bits(struct cpu_state *cs, T d, T n)                   \
	{                                                                              \
		uint16_t cc = (uint16_t)cs->cc;                                        \
		__asm__(SET_FLAGS "bt" sfx " %[n], %[d]" GET_FLAGS                     \
			: "+&a"(cc) : [d] "r"(d), [n] "r"(n) : "cc");                   \
		cs->cc = cc;                                                           \
	}                                                                              \
	HANDLER(bt_rr##bits)                                                           \
	{                                                                              \
		bt_val##bits(cs, ISA_REG(cs, i->rm_off, T), ISA_REG(cs, i->reg_off, T)); \
	}                                                                              \
	HANDLER(bt_ri##bits)                                                           \
	{                                                                              \
		bt_val##bits(cs, ISA_REG(cs, i->rm_off, T), (T)i->imm);                \
	}                                                                              \
	HANDLER(bt_mr##bits)                                                           \
	{                                                                              \
		S n = ISA_REG(cs, i->reg_off, S);                                      \
		uint64_t lin = bit_linear(cs, i, n, sizeof(T), ISA_READ);              \
		bt_val##bits(cs, (T)isa_load(cs, lin, sizeof(T)), (T)n);               \
	}                                                                              \
	HANDLER(bt_mi##bits)                                                           \
	{                                                                              \
		uint64_t lin = isa_operand(cs, i, sizeof(T), ISA_READ);                \
		bt_val##bits(cs, (T)isa_load(cs, lin, sizeof(T)), (T)i->imm);          \
	}

#define BIT_SIZE(bits, T, S, sfx)                                                      \
	BT_ALL(bits, T, S, sfx)                                                        \
	BIT_ALL(bts, bits, T, S, sfx) BIT_ALL(btr, bits, T, S, sfx) BIT_ALL(btc, bits, T, S, sfx)
ISA_SIZES_WLQ(BIT_SIZE)

struct bit_forms {
	struct by_size rr, ri, mr, mi, lock_mr, lock_mi;
};
#define FORMS(op) { BY_SIZE_WLQ(op##_rr), BY_SIZE_WLQ(op##_ri), BY_SIZE_WLQ(op##_mr), \
		    BY_SIZE_WLQ(op##_mi), BY_SIZE_WLQ(op##_Lmr), BY_SIZE_WLQ(op##_Lmi) }

/* In the order of opcode bits 4:3 and of ModRM.reg - 4. */
static const struct bit_forms bit_forms[4] = {
	{ BY_SIZE_WLQ(bt_rr), BY_SIZE_WLQ(bt_ri), BY_SIZE_WLQ(bt_mr), BY_SIZE_WLQ(bt_mi),
	  { { NULL } }, { { NULL } } },
	FORMS(bts), FORMS(btr), FORMS(btc),
};

/* 0f a3 ab b3 bb by register; 0f ba /4../7 by immediate */
isa_fn *isa_pick_bt(const struct isa_decoded *d, struct isa_insn *i)
{
	bool imm = i->opcode == 0xba, lock = i->flags & ISA_LOCK;
	unsigned op = ((imm ? i->modrm : i->opcode) >> 3) & 3;
	const struct bit_forms *f = &bit_forms[op];

	if (imm && ((i->modrm >> 3) & 7) < 4)
		return NULL;
	if (!(i->flags & ISA_MEM))
		return by_size(imm ? &f->ri : &f->rr, i->opsize);
	if (imm)
		return by_size(lock ? &f->lock_mi : &f->mi, i->opsize);
	return by_size(lock ? &f->lock_mr : &f->mr, i->opsize);
}

/* --- one source, one destination, flags; BSF and BSR of 0 leave the destination --- */
#define SCAN(op, bits, T, sfx)                                                         \
	HANDLER(op##bits)                                                              \
	{                                                                              \
		T v = (T)read_rm(cs, i, sizeof(T)), d = ISA_REG(cs, i->reg_off, T); \
		uint16_t cc = (uint16_t)cs->cc;                                        \
		__asm__(SET_FLAGS #op sfx " %[v], %[d]" GET_FLAGS                      \
			: [d] "+r"(d), "+&a"(cc) : [v] "r"(v) : "cc");                  \
		cs->cc = cc;                                                           \
		SET_REG(cs, i->reg_off, T, d);                                         \
	}

/*
 * BSF and BSR keep a 32-bit destination's upper half when the source is 0:
 * silicon does, and the manual leaves it undefined.
 */
#define SCAN_KEEP(op, bits, T, sfx)                                                    \
	HANDLER(op##bits)                                                              \
	{                                                                              \
		T v = (T)read_rm(cs, i, sizeof(T)), d = ISA_REG(cs, i->reg_off, T); \
		uint16_t cc = (uint16_t)cs->cc;                                        \
		__asm__(SET_FLAGS #op sfx " %[v], %[d]" GET_FLAGS                      \
			: [d] "+r"(d), "+&a"(cc) : [v] "r"(v) : "cc");                  \
		cs->cc = cc;                                                           \
		if (v)                                                                 \
			SET_REG(cs, i->reg_off, T, d);                                 \
	}

/*
 * LZCNT on a host that has none: ZF and CF as the manual says, the other flags,
 * which it leaves undefined, cleared.
 */
#define LZCNT_OWN(bits, T)                                                             \
	HANDLER(lzcnt_own##bits)                                                       \
	{                                                                              \
		T v = (T)read_rm(cs, i, sizeof(T));                                    \
		unsigned n = v ? (unsigned)__builtin_clzll(v) - (64 - bits) : bits;    \
		cs->cc = (uint32_t)((n ? 0 : CC_ZF) | (v ? 0 : CC_CF));                \
		SET_REG(cs, i->reg_off, T, n);                                         \
	}

#define SCAN_SIZE(bits, T, S, sfx)                                                     \
	SCAN_KEEP(bsf, bits, T, sfx) SCAN_KEEP(bsr, bits, T, sfx)                      \
	SCAN(tzcnt, bits, T, sfx) SCAN(lzcnt, bits, T, sfx) SCAN(popcnt, bits, T, sfx)  \
	LZCNT_OWN(bits, T)
ISA_SIZES_WLQ(SCAN_SIZE)

/* 0f bc bd, and with F3 (b8 too): TZCNT is BSF where the host has no BMI1 */
isa_fn *isa_pick_scan(const struct isa_decoded *d, struct isa_insn *i)
{
	static const struct by_size bsf = BY_SIZE_WLQ(bsf), bsr = BY_SIZE_WLQ(bsr),
				    tzcnt = BY_SIZE_WLQ(tzcnt), lzcnt = BY_SIZE_WLQ(lzcnt),
				    lzcnt_own = BY_SIZE_WLQ(lzcnt_own),
				    popcnt = BY_SIZE_WLQ(popcnt);

	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_BSF: return by_size(&bsf, i->opsize);
	case ZYDIS_MNEMONIC_BSR: return by_size(&bsr, i->opsize);
	case ZYDIS_MNEMONIC_TZCNT:
		return by_size(isa_host_has(HOST_BMI1) ? &tzcnt : &bsf, i->opsize);
	case ZYDIS_MNEMONIC_LZCNT:
		return by_size(isa_host_has(HOST_LZCNT) ? &lzcnt : &lzcnt_own, i->opsize);
	case ZYDIS_MNEMONIC_POPCNT:
		return isa_host_has(HOST_POPCNT) ? by_size(&popcnt, i->opsize) : NULL;
	default: return NULL;
	}
}

/* --- CRC32: no flags, 32-bit result --- */
#define CRC_SIZE(bits, T, S, sfx)                                                      \
	HANDLER(crc32_##bits)                                                          \
	{                                                                              \
		T v = (T)read_rm(cs, i, sizeof(T));                                \
		uint64_t c = (uint32_t)cs->gpr[i->reg];                                \
		__asm__("crc32" sfx " %[v], %" CRC_REG##bits "[c]" : [c] "+r"(c) : [v] "r"(v)); \
		cs->gpr[i->reg] = (uint32_t)c;                                         \
	}
#define CRC_REG8 "k"
#define CRC_REG16 "k"
#define CRC_REG32 "k"
#define CRC_REG64 "q"
ISA_SIZES(CRC_SIZE)

/* f2 0f38 f0 f1; aux: bytes of the source */
isa_fn *isa_pick_crc32(const struct isa_decoded *d, struct isa_insn *i)
{
	static const struct by_size crc = BY_SIZE(crc32_);

	if (!isa_host_has(HOST_SSE42))
		return NULL;
	i->aux = i->opcode == 0xf0 ? 1 : i->opsize;
	if (i->aux == 1)
		i->rm_off = isa_byte_off(d, i->rm);
	return by_size(&crc, i->aux);
}

/* --- ADCX (CF only), ADOX (OF only) --- */
#define ADX(op, bits, T, sfx)                                                          \
	HANDLER(op##bits)                                                              \
	{                                                                              \
		T v = (T)read_rm(cs, i, sizeof(T)), d = ISA_REG(cs, i->reg_off, T); \
		uint16_t cc = (uint16_t)cs->cc;                                        \
		__asm__(SET_FLAGS #op " %[v], %[d]" GET_FLAGS                          \
			: [d] "+r"(d), "+&a"(cc) : [v] "r"(v) : "cc");                  \
		cs->cc = cc;                                                           \
		SET_REG(cs, i->reg_off, T, d);                                         \
	}
ADX(adcx, 32, uint32_t, "l") ADX(adcx, 64, uint64_t, "q")
ADX(adox, 32, uint32_t, "l") ADX(adox, 64, uint64_t, "q")

/* 0f38 f6 with 66 or F3 */
isa_fn *isa_pick_adx(const struct isa_decoded *d, struct isa_insn *i)
{
	if (!isa_host_has(HOST_ADX))
		return NULL;
	if (d->insn.mnemonic == ZYDIS_MNEMONIC_ADCX)
		return i->opsize == 8 ? adcx64 : adcx32;
	if (d->insn.mnemonic == ZYDIS_MNEMONIC_ADOX)
		return i->opsize == 8 ? adox64 : adox32;
	return NULL;
}
