/*
 * XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B, with and without LOCK.
 *
 * All of them work in place on the memory the TLB points at, by the host's own
 * instruction: a guest's atomic is an atomic of this process. The bounce buffer
 * (device memory, an operand across two cache lines) gives no atomicity: that is its giver's.
 *
 * Locks: none.
 */
#include "isa/decoder.h"
#include "isa/internal.h"

/* --- XCHG: LOCK is implied for memory --- */
#define XCHG_SIZE(bits, T, S, sfx)                                                     \
	HANDLER(xchg_r##bits)                                                          \
	{                                                                              \
		T a = ISA_REG(cs, i->rm_off, T), b = ISA_REG(cs, i->reg_off, T);       \
		SET_REG(cs, i->rm_off, T, b);                                          \
		SET_REG(cs, i->reg_off, T, a);                                         \
	}                                                                              \
	HANDLER(xchg_m##bits)                                                          \
	{                                                                              \
		uint64_t lin = isa_operand(cs, i, sizeof(T), ISA_RMW);                 \
		T *p = isa_rmw_locked(cs, lin, sizeof(T)), v = ISA_REG(cs, i->reg_off, T); \
		__asm__ volatile("xchg" sfx " %[v], %[p]"                              \
				 : [v] "+r"(v), [p] "+m"(*p) : : "memory");            \
		isa_rmw_end(cs, lin, sizeof(T), p);                                    \
		SET_REG(cs, i->reg_off, T, v);                                         \
	}
ISA_SIZES(XCHG_SIZE)

static const struct by_size xchg_r = BY_SIZE(xchg_r), xchg_m = BY_SIZE(xchg_m);

/* 86 87 */
isa_fn *isa_pick_xchg(const struct isa_decoded *d, struct isa_insn *i)
{
	if (!(i->flags & ISA_MEM))
		return by_size(&xchg_r, i->opsize);
	i->flags |= ISA_LOCK;
	return by_size(&xchg_m, i->opsize);
}

/* 90..97: with rAX; 90 without REX.B is NOP or PAUSE */
isa_fn *isa_pick_xchg_ax(const struct isa_decoded *d, struct isa_insn *i)
{
	if (d->insn.mnemonic == ZYDIS_MNEMONIC_NOP)
		return isa_pick_nop(d, i);
	if (d->insn.mnemonic != ZYDIS_MNEMONIC_XCHG)
		return NULL;
	i->reg_off = 0;
	return by_size(&xchg_r, i->opsize);
}

/* --- XADD --- */
#define XADD_MEM(name, lock, access, T, sfx)                                           \
	HANDLER(name)                                                                  \
	{                                                                              \
		uint64_t lin = isa_operand(cs, i, sizeof(T), ISA_RMW);                 \
		T *p = access(cs, lin, sizeof(T)), v = ISA_REG(cs, i->reg_off, T);     \
		uint16_t cc;                                                           \
		__asm__ volatile(lock "xadd" sfx " %[v], %[p]" GET_FLAGS               \
				 : [v] "+r"(v), [p] "+m"(*p), "=a"(cc)                 \
				 : : "cc", "memory");                                  \
		isa_rmw_end(cs, lin, sizeof(T), p);                                    \
		cs->cc = cc;                                                           \
		SET_REG(cs, i->reg_off, T, v);                                         \
	}

/* Registers: the source is written first, the sum last (they may be the same). */
#define XADD_SIZE(bits, T, S, sfx)                                                     \
	HANDLER(xadd_r##bits)                                                          \
	{                                                                              \
		T d = ISA_REG(cs, i->rm_off, T), v = ISA_REG(cs, i->reg_off, T);       \
		T old = d;                                                             \
		uint16_t cc;                                                           \
		__asm__("add" sfx " %[v], %[d]" GET_FLAGS                              \
			: [d] "+r"(d), "=a"(cc) : [v] "r"(v) : "cc");                  \
		cs->cc = cc;                                                           \
		SET_REG(cs, i->reg_off, T, old);                                       \
		SET_REG(cs, i->rm_off, T, d);                                          \
	}                                                                              \
	XADD_MEM(xadd_m##bits, "", isa_rmw, T, sfx)                                    \
	XADD_MEM(xadd_Lm##bits, "lock; ", isa_rmw_locked, T, sfx)
ISA_SIZES(XADD_SIZE)

/* 0f c0 c1 */
isa_fn *isa_pick_xadd(const struct isa_decoded *d, struct isa_insn *i)
{
	static const struct by_size r = BY_SIZE(xadd_r), m = BY_SIZE(xadd_m),
				    lock_m = BY_SIZE(xadd_Lm);

	if (!(i->flags & ISA_MEM))
		return by_size(&r, i->opsize);
	return by_size((i->flags & ISA_LOCK) ? &lock_m : &m, i->opsize);
}

/*
 * --- CMPXCHG: memory is written back even when the comparison fails ---
 * 32 bits: only the register that takes a new value is zero-extended, as
 * observed on silicon (SDM Vol. 2, "CMPXCHG", does not say).
 */
#define NAME8 "%b"
#define NAME16 "%w"
#define NAME32 "%k"
#define NAME64 "%q"
#define CMPXCHG_MEM(name, lock, access, bits, T, sfx)                                  \
	HANDLER(name)                                                                  \
	{                                                                              \
		uint64_t lin = isa_operand(cs, i, sizeof(T), ISA_RMW);                 \
		T *p = access(cs, lin, sizeof(T)), v = ISA_REG(cs, i->reg_off, T), old; \
		uint64_t ax = cs->gpr[RAX];                                            \
		__asm__ volatile(lock "cmpxchg" sfx " %[v], %[p]\n\t"                  \
				 "mov " NAME##bits "[ax], %[old]" GET_FLAGS            \
				 : [p] "+m"(*p), [old] "=&r"(old), [ax] "+a"(ax)       \
				 : [v] "r"(v)                                          \
				 : "cc", "memory");                                    \
		isa_rmw_end(cs, lin, sizeof(T), p);                                    \
		cs->cc = (uint16_t)ax;                                                 \
		if (!(ax & CC_ZF))                                                     \
			SET_REG(cs, 0, T, old);                                        \
	}

#define CMPXCHG_SIZE(bits, T, S, sfx)                                                  \
	HANDLER(cmpxchg_r##bits)                                                       \
	{                                                                              \
		T d = ISA_REG(cs, i->rm_off, T), acc = ISA_REG(cs, 0, T);              \
		uint16_t cc;                                                           \
		__asm__("cmp" sfx " %[d], %[acc]" GET_FLAGS                            \
			: "=a"(cc) : [d] "r"(d), [acc] "r"(acc) : "cc");               \
		cs->cc = cc;                                                           \
		if (cc & CC_ZF) {                                                      \
			SET_REG(cs, i->rm_off, T, ISA_REG(cs, i->reg_off, T));         \
		} else {                                                               \
			SET_REG(cs, 0, T, d);                                          \
		}                                                                      \
	}                                                                              \
	CMPXCHG_MEM(cmpxchg_m##bits, "", isa_rmw, bits, T, sfx)                        \
	CMPXCHG_MEM(cmpxchg_Lm##bits, "lock; ", isa_rmw_locked, bits, T, sfx)
ISA_SIZES(CMPXCHG_SIZE)

/* 0f b0 b1 */
isa_fn *isa_pick_cmpxchg(const struct isa_decoded *d, struct isa_insn *i)
{
	static const struct by_size r = BY_SIZE(cmpxchg_r), m = BY_SIZE(cmpxchg_m),
				    lock_m = BY_SIZE(cmpxchg_Lm);

	if (!(i->flags & ISA_MEM))
		return by_size(&r, i->opsize);
	return by_size((i->flags & ISA_LOCK) ? &lock_m : &m, i->opsize);
}

/* --- CMPXCHG8B, CMPXCHG16B: ZF only --- */
ISA_INLINE void set_zf(struct cpu_state *cs, bool zf)
{
	cs->cc = (uint32_t)((cs->cc & ~CC_ZF) | (zf ? CC_ZF : 0));
}

#define CMPXCHG8B(name, lock, access)                                                  \
	HANDLER(name)                                                                  \
	{                                                                              \
		uint64_t lin = isa_operand(cs, i, 8, ISA_RMW), *p = access(cs, lin, 8); \
		uint32_t lo = (uint32_t)cs->gpr[RAX], hi = (uint32_t)cs->gpr[RDX];     \
		bool zf;                                                               \
		__asm__ volatile(lock "cmpxchg8b %[p]"                                 \
				 : [p] "+m"(*p), "+a"(lo), "+d"(hi), "=@ccz"(zf)       \
				 : "b"((uint32_t)cs->gpr[RBX]), "c"((uint32_t)cs->gpr[RCX]) \
				 : "memory");                                          \
		isa_rmw_end(cs, lin, 8, p);                                            \
		if (!zf) {                                                             \
			cs->gpr[RAX] = lo;                                             \
			cs->gpr[RDX] = hi;                                             \
		}                                                                      \
		set_zf(cs, zf);                                                        \
	}
CMPXCHG8B(cmpxchg8b, "", isa_rmw)
CMPXCHG8B(cmpxchg8b_L, "lock; ", isa_rmw_locked)

HANDLER(cmpxchg16b)
{
	uint64_t lin = isa_operand(cs, i, 16, ISA_RMW), *p;
	uint64_t lo = cs->gpr[RAX], hi = cs->gpr[RDX];
	bool zf;

	if (lin & 15)
		isa_raise_error(cs, X86_TRAP_GP, 0);
	p = isa_rmw(cs, lin, 16);
	__asm__ volatile("lock; cmpxchg16b %[p]"
			 : [p] "+m"(*(uint64_t (*)[2])p), "+a"(lo), "+d"(hi), "=@ccz"(zf)
			 : "b"(cs->gpr[RBX]), "c"(cs->gpr[RCX])
			 : "memory");
	isa_rmw_end(cs, lin, 16, p);
	if (!zf) {
		cs->gpr[RAX] = lo;
		cs->gpr[RDX] = hi;
	}
	set_zf(cs, zf);
}

/* RDRAND, RDSEED: CF says whether there was a number; the other flags are cleared. */
#define RANDOM(op)                                                                     \
	HANDLER(op)                                                                    \
	{                                                                              \
		uint64_t v;                                                            \
		bool cf;                                                               \
		__asm__ volatile(#op " %0" : "=r"(v), "=@ccc"(cf));                    \
		isa_set_gpr(cs, i->rm, i->opsize, cf ? v : 0);                         \
		cs->cc = cf ? CC_CF : 0;                                               \
	}
RANDOM(rdrand)
RANDOM(rdseed)

void isa_random(struct cpu_state *cs, const struct isa_insn *i, bool seed)
{
	if (!isa_host_has(seed ? HOST_RDSEED : HOST_RDRAND))
		isa_raise(cs, X86_TRAP_UD);
	(seed ? rdseed : rdrand)(cs, i);
}

/* 0f c7: /1 with memory; the rest is the embedding's (isa_random()), VMX's and XSAVE's */
isa_fn *isa_pick_grp9(const struct isa_decoded *d, struct isa_insn *i)
{
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_CMPXCHG8B: return (i->flags & ISA_LOCK) ? cmpxchg8b_L : cmpxchg8b;
	case ZYDIS_MNEMONIC_CMPXCHG16B: return isa_host_has(HOST_CX16) ? cmpxchg16b : NULL;
	default: return NULL;
	}
}
