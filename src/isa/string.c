/*
 * MOVS STOS LODS CMPS SCAS, alone and with REP.
 *
 * Invariants
 * 1. rCX, rSI and rDI are committed after every chunk or element: a fault finds
 *    them at the element that faults. The flags of CMPS and SCAS are committed
 *    at the end only (SDM Vol. 2, "REP": a fault restores EFLAGS).
 * 2. A repetition ends its block. It leaves early, to run again, when somebody
 *    asks (exit_request), after REP_BUDGET bytes, and after one element when
 *    single-stepped.
 * 3. The bulk path runs the host's own instruction of the same element size and
 *    direction, within one page on either side: overlap behaves as the guest's.
 *    STOS goes on over further pages.
 *    (LODS has nothing to run: the last element is what remains.)
 *
 * Locks: none.
 */
#include "isa/decoder.h"
#include "isa/internal.h"

#define REP_BUDGET 65536 /* bytes between two looks at the world */

ISA_INLINE uint64_t address_mask(const struct isa_insn *i)
{
	return i->adsize == 8 ? ~0ULL : i->adsize == 4 ? 0xffffffff : 0xffff;
}

ISA_INLINE uint64_t step(const struct cpu_state *cs, unsigned size)
{
	return (cs->rflags & X86_FLAGS_DF) ? 0 - (uint64_t)size : size;
}

ISA_INLINE void advance(struct cpu_state *cs, const struct isa_insn *i, unsigned reg,
			uint64_t by)
{
	isa_set_gpr(cs, reg, i->adsize, cs->gpr[reg] + by);
}

/* Linear addresses of the element at seg:rSI (override applied) and ES:rDI. */
ISA_INLINE uint64_t source(struct cpu_state *cs, const struct isa_insn *i, unsigned size)
{
	return isa_linear(cs, i->seg, cs->gpr[RSI] & address_mask(i), size, ISA_READ);
}

ISA_INLINE uint64_t destination(struct cpu_state *cs, const struct isa_insn *i, unsigned size,
				enum isa_access how)
{
	return isa_linear(cs, SREG_ES, cs->gpr[RDI] & address_mask(i), size, how);
}

/* --- one element --- */
#define COMPARE(bits, T, sfx)                                                          \
	ISA_INLINE uint16_t compare##bits(T a, T b)                                    \
	{                                                                              \
		uint16_t cc;                                                           \
		__asm__("cmp" sfx " %[b], %[a]" GET_FLAGS                              \
			: "=a"(cc) : [a] "r"(a), [b] "r"(b) : "cc");                   \
		return cc;                                                             \
	}

#define ONE_SIZE(bits, T, S, sfx)                                                      \
	COMPARE(bits, T, sfx)                                                          \
	HANDLER(movs##bits)                                                            \
	{                                                                              \
		uint64_t v = isa_load(cs, source(cs, i, sizeof(T)), sizeof(T));        \
		isa_store(cs, destination(cs, i, sizeof(T), ISA_WRITE), sizeof(T), v); \
		advance(cs, i, RSI, step(cs, sizeof(T)));                              \
		advance(cs, i, RDI, step(cs, sizeof(T)));                              \
	}                                                                              \
	HANDLER(stos##bits)                                                            \
	{                                                                              \
		isa_store(cs, destination(cs, i, sizeof(T), ISA_WRITE), sizeof(T),     \
			  cs->gpr[RAX]);                                               \
		advance(cs, i, RDI, step(cs, sizeof(T)));                              \
	}                                                                              \
	HANDLER(lods##bits)                                                            \
	{                                                                              \
		T v = (T)isa_load(cs, source(cs, i, sizeof(T)), sizeof(T));            \
		SET_REG(cs, 0, T, v);                                                  \
		advance(cs, i, RSI, step(cs, sizeof(T)));                              \
	}                                                                              \
	ISA_INLINE uint16_t cmps_cc##bits(struct cpu_state *cs, const struct isa_insn *i) \
	{                                                                              \
		T a = (T)isa_load(cs, source(cs, i, sizeof(T)), sizeof(T));            \
		T b = (T)isa_load(cs, destination(cs, i, sizeof(T), ISA_READ), sizeof(T)); \
		advance(cs, i, RSI, step(cs, sizeof(T)));                              \
		advance(cs, i, RDI, step(cs, sizeof(T)));                              \
		return compare##bits(a, b);                                            \
	}                                                                              \
	ISA_INLINE uint16_t scas_cc##bits(struct cpu_state *cs, const struct isa_insn *i) \
	{                                                                              \
		T b = (T)isa_load(cs, destination(cs, i, sizeof(T), ISA_READ), sizeof(T)); \
		advance(cs, i, RDI, step(cs, sizeof(T)));                              \
		return compare##bits((T)cs->gpr[RAX], b);                              \
	}                                                                              \
	HANDLER(cmps##bits) { cs->cc = cmps_cc##bits(cs, i); }                         \
	HANDLER(scas##bits) { cs->cc = scas_cc##bits(cs, i); }
ISA_SIZES(ONE_SIZE)

/* --- repetition --- */

/* Must a repetition that has `done` bytes behind it let go? */
ISA_INLINE bool leave_early(const struct cpu_state *cs, uint64_t done)
{
	return READ_ONCE(cs->exit_request) || (cs->rflags & X86_FLAGS_TF) || done >= REP_BUDGET;
}

/*
 * Elements that may be done at once from seg:offset, upwards or (DF) downwards:
 * within the page, the address size and the segment. 0: go by element. *lin is
 * where the first of them is.
 */
static uint64_t chunk(struct cpu_state *cs, const struct isa_insn *i, enum sreg seg,
		      uint64_t offset, unsigned size, uint64_t count, enum isa_access how,
		      uint64_t *lin)
{
	bool down = cs->rflags & X86_FLAGS_DF;
	uint64_t room, n = count, lowest;

	if (!isa_linear_ok(cs, seg, offset, size, how, lin))
		return 0;
	room = *lin & ~PAGE_MASK;
	if (room + size > PAGE_SIZE)
		return 0;
	room = down ? room + size : PAGE_SIZE - room;
	if (i->adsize != 8)
		room = min_u64(room, down ? offset + size : address_mask(i) - offset + 1);
	n = min_u64(n, room / size);
	if (!n || !isa_linear_ok(cs, seg, down ? offset - (n - 1) * size : offset, n * size, how, &lowest))
		return 0;
	return n;
}

static uint64_t chunk_source(struct cpu_state *cs, const struct isa_insn *i, unsigned size,
			     uint64_t count, const void **p)
{
	uint64_t lin, n = chunk(cs, i, i->seg, cs->gpr[RSI] & address_mask(i), size, count,
				ISA_READ, &lin);

	*p = n ? isa_tlb_read(cs, lin, 1) : NULL;
	return *p ? n : 0;
}

/* ES:rDI of CMPS and SCAS: read only. */
static uint64_t chunk_compared(struct cpu_state *cs, const struct isa_insn *i, unsigned size,
			       uint64_t count, const void **p)
{
	uint64_t lin, n = chunk(cs, i, SREG_ES, cs->gpr[RDI] & address_mask(i), size, count,
				ISA_READ, &lin);

	*p = n ? isa_tlb_read(cs, lin, 1) : NULL;
	return *p ? n : 0;
}

static uint64_t chunk_destination(struct cpu_state *cs, const struct isa_insn *i,
				  unsigned size, uint64_t count, void **p)
{
	uint64_t lin, n = chunk(cs, i, SREG_ES, cs->gpr[RDI] & address_mask(i), size, count,
				ISA_WRITE, &lin);

	*p = n ? isa_tlb_write(cs, lin, 1) : NULL;
	return *p ? n : 0;
}

/*
 * ES:rDI of STOS, upwards: on over the pages that follow on the host too. Where one of them
 * faults, rDI is still at the first element, and storing the others again changes nothing.
 */
static uint64_t chunk_filled(struct cpu_state *cs, const struct isa_insn *i, unsigned size,
			     uint64_t count, void **p)
{
	uint64_t n = chunk_destination(cs, i, size, count, p), lin, more;

	if (cs->rflags & X86_FLAGS_DF)
		return n;
	while (n && n < count && n * size < REP_BUDGET) {
		more = chunk(cs, i, SREG_ES, (cs->gpr[RDI] + n * size) & address_mask(i), size,
			     count - n, ISA_WRITE, &lin);
		if (!more || isa_tlb_write(cs, lin, 1) != (char *)*p + n * size)
			break;
		n += more;
	}
	return n;
}

ISA_INLINE bool bulk_allowed(const struct cpu_state *cs)
{
	return !(cs->rflags & X86_FLAGS_TF) && !READ_ONCE(cs->exit_request);
}

/* Run the host's own in the guest's direction; DF is clear in our code. */
#define DIRECTED(cs, insn, outputs, inputs)                                            \
	do {                                                                           \
		if ((cs)->rflags & X86_FLAGS_DF)                                       \
			__asm__ volatile("std; " insn "; cld" : outputs : inputs : "memory", "cc"); \
		else                                                                   \
			__asm__ volatile(insn : outputs : inputs : "memory", "cc");    \
	} while (0)
#define OUT(...) __VA_ARGS__

#define BULK_SIZE(bits, T, S, sfx)                                                     \
	static uint64_t bulk_movs##bits(struct cpu_state *cs, const struct isa_insn *i, \
					uint64_t count)                                \
	{                                                                              \
		const void *src;                                                       \
		void *dst;                                                             \
		uint64_t n, c;                                                         \
		n = chunk_source(cs, i, sizeof(T), count, &src);                       \
		if (n)                                                                 \
			n = chunk_destination(cs, i, sizeof(T), n, &dst);              \
		if (!n)                                                                \
			return 0;                                                      \
		c = n;                                                                 \
		DIRECTED(cs, "rep movs" sfx, OUT("+S"(src), "+D"(dst), "+c"(c)), OUT()); \
		advance(cs, i, RSI, n * step(cs, sizeof(T)));                          \
		advance(cs, i, RDI, n * step(cs, sizeof(T)));                          \
		return n;                                                              \
	}                                                                              \
	static uint64_t bulk_stos##bits(struct cpu_state *cs, const struct isa_insn *i, \
					uint64_t count)                                \
	{                                                                              \
		void *dst;                                                             \
		uint64_t n = chunk_filled(cs, i, sizeof(T), count, &dst), c = n;       \
		if (!n)                                                                \
			return 0;                                                      \
		DIRECTED(cs, "rep stos" sfx, OUT("+D"(dst), "+c"(c)), OUT("a"(cs->gpr[RAX]))); \
		advance(cs, i, RDI, n * step(cs, sizeof(T)));                          \
		return n;                                                              \
	}                                                                              \
	static uint64_t bulk_lods##bits(struct cpu_state *cs, const struct isa_insn *i, \
					uint64_t count)                                \
	{                                                                              \
		const void *src;                                                       \
		uint64_t n = chunk_source(cs, i, sizeof(T), count, &src);              \
		if (n < 2)                                                             \
			return 0;                                                      \
		src = (const char *)src + (n - 1) * step(cs, sizeof(T));               \
		SET_REG(cs, 0, T, (T)isa_host_load(src, sizeof(T)));                   \
		advance(cs, i, RSI, n * step(cs, sizeof(T)));                          \
		return n;                                                              \
	}                                                                              \
	/* Up to `count` elements, or to the first that ends the repetition. */        \
	static uint64_t bulk_cmps##bits(struct cpu_state *cs, const struct isa_insn *i, \
					uint64_t count, uint32_t *cc)                  \
	{                                                                              \
		const void *src, *dst;                                                 \
		uint64_t c, n = chunk_source(cs, i, sizeof(T), count, &src);           \
		uint16_t flags;                                                        \
		if (n)                                                                 \
			n = chunk_compared(cs, i, sizeof(T), n, &dst);                 \
		if (!n)                                                                \
			return 0;                                                      \
		c = n;                                                                 \
		if (i->flags & ISA_REPNE)                                              \
			DIRECTED(cs, "repne cmps" sfx GET_FLAGS,                       \
				 OUT("+S"(src), "+D"(dst), "+c"(c), "=a"(flags)), OUT()); \
		else                                                                   \
			DIRECTED(cs, "repe cmps" sfx GET_FLAGS,                        \
				 OUT("+S"(src), "+D"(dst), "+c"(c), "=a"(flags)), OUT()); \
		*cc = flags;                                                           \
		advance(cs, i, RSI, (n - c) * step(cs, sizeof(T)));                    \
		advance(cs, i, RDI, (n - c) * step(cs, sizeof(T)));                    \
		return n - c;                                                          \
	}                                                                              \
	static uint64_t bulk_scas##bits(struct cpu_state *cs, const struct isa_insn *i, \
					uint64_t count, uint32_t *cc)                  \
	{                                                                              \
		const void *dst;                                                       \
		uint64_t n = chunk_compared(cs, i, sizeof(T), count, &dst), c = n;     \
		uint64_t a = cs->gpr[RAX];                                             \
		if (!n)                                                                \
			return 0;                                                      \
		if (i->flags & ISA_REPNE)                                              \
			DIRECTED(cs, "repne scas" sfx GET_FLAGS,                       \
				 OUT("+D"(dst), "+c"(c), "+a"(a)), OUT());             \
		else                                                                   \
			DIRECTED(cs, "repe scas" sfx GET_FLAGS,                        \
				 OUT("+D"(dst), "+c"(c), "+a"(a)), OUT());             \
		*cc = (uint16_t)a;                                                     \
		advance(cs, i, RDI, (n - c) * step(cs, sizeof(T)));                    \
		return n - c;                                                          \
	}
ISA_SIZES(BULK_SIZE)

/* MOVS, STOS, LODS: until rCX is 0. */
#define REP(op, bits, T)                                                               \
	HANDLER(rep_##op##bits)                                                        \
	{                                                                              \
		uint64_t count = cs->gpr[RCX] & address_mask(i), done = 0, n;          \
		while (count) {                                                        \
			n = bulk_allowed(cs) ? bulk_##op##bits(cs, i, count) : 0;      \
			if (!n) {                                                      \
				op##bits(cs, i);                                       \
				n = 1;                                                 \
			}                                                              \
			count -= n;                                                    \
			done += n * sizeof(T);                                         \
			isa_set_gpr(cs, RCX, i->adsize, count);                        \
			if (count && leave_early(cs, done)) {                          \
				cs->rip = isa_rip(cs);                                 \
				return;                                                \
			}                                                              \
		}                                                                      \
		cs->rip = isa_next_rip(cs, i);                                         \
	}

/* CMPS, SCAS: until rCX is 0 or ZF says stop. */
#define REP_COMPARE(op, bits, T)                                                       \
	HANDLER(rep_##op##bits)                                                        \
	{                                                                              \
		uint64_t count = cs->gpr[RCX] & address_mask(i), done = 0, n;          \
		uint32_t cc = cs->cc, stop = (i->flags & ISA_REPNE) ? CC_ZF : 0;       \
		cs->rip = isa_next_rip(cs, i);                                         \
		while (count) {                                                        \
			n = bulk_allowed(cs) ? bulk_##op##bits(cs, i, count, &cc) : 0; \
			if (!n) {                                                      \
				cc = op##_cc##bits(cs, i);                             \
				n = 1;                                                 \
			}                                                              \
			count -= n;                                                    \
			done += n * sizeof(T);                                         \
			isa_set_gpr(cs, RCX, i->adsize, count);                        \
			if ((cc & CC_ZF) == stop)                                      \
				break;                                                 \
			if (count && leave_early(cs, done)) {                          \
				cs->rip = isa_rip(cs);                                 \
				break;                                                 \
			}                                                              \
		}                                                                      \
		cs->cc = cc;                                                           \
	}

#define REP_SIZE(bits, T, S, sfx)                                                      \
	REP(movs, bits, T) REP(stos, bits, T) REP(lods, bits, T)                       \
	REP_COMPARE(cmps, bits, T) REP_COMPARE(scas, bits, T)
ISA_SIZES(REP_SIZE)

struct string_forms {
	struct by_size one, rep;
};
#define FORMS(op) { BY_SIZE(op), BY_SIZE(rep_##op) }

/* a4 a5 MOVS, a6 a7 CMPS, aa ab STOS, ac ad LODS, ae af SCAS */
isa_fn *isa_pick_string(const struct isa_decoded *d, struct isa_insn *i)
{
	static const struct string_forms forms[6] = {
		[0] = FORMS(movs), [1] = FORMS(cmps), [3] = FORMS(stos),
		[4] = FORMS(lods), [5] = FORMS(scas),
	};
	const struct string_forms *f = &forms[(i->opcode - 0xa4) >> 1];

	if (!(i->flags & (ISA_REP | ISA_REPNE)))
		return by_size(&f->one, i->opsize);
	i->flags |= ISA_ENDS_BLOCK;
	return by_size(&f->rep, i->opsize);
}
