/*
 * Near branches: Jcc JMP CALL RET LOOP JCXZ, and the group FF.
 *
 * Invariants
 * 1. Every handler here ends its block and sets cs->rip, on both ways.
 * 2. The target is checked (canonical in 64-bit mode, CS limit elsewhere)
 *    before anything is committed: the #GP belongs to the branch.
 *
 * 64-bit mode and the others have handlers of their own.
 *
 * Locks: none.
 */
#include "isa/decoder.h"
#include "isa/internal.h"

ISA_INLINE void check64(struct cpu_state *cs, uint64_t target)
{
	if (unlikely(!isa_canonical(cs, target)))
		isa_raise_error(cs, X86_TRAP_GP, 0);
}

ISA_INLINE void check_legacy(struct cpu_state *cs, uint64_t target)
{
	if (unlikely(target > cs->seg[SREG_CS].limit))
		isa_raise_error(cs, X86_TRAP_GP, 0);
}

/* EIP arithmetic at operand size. */
ISA_INLINE uint64_t truncate_ip(const struct isa_insn *i, uint64_t ip)
{
	return i->opsize == 2 ? (uint16_t)ip : (uint32_t)ip;
}

ISA_INLINE uint64_t relative64(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t t = isa_next_rip(cs, i) + i->imm;

	check64(cs, t);
	return t;
}

static uint64_t relative_legacy(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t t = truncate_ip(i, isa_next_rip(cs, i) + i->imm);

	check_legacy(cs, t);
	return t;
}

ISA_INLINE uint64_t next_legacy(const struct cpu_state *cs, const struct isa_insn *i)
{
	return (uint32_t)isa_next_rip(cs, i);
}

/* --- Jcc --- */
#define JCC(c)                                                                         \
	HANDLER(jcc##c##_64)                                                           \
	{                                                                              \
		if (cc_test(cs->cc, c))                                                \
			cs->rip = relative64(cs, i);                                   \
		else                                                                   \
			cs->rip = isa_next_rip(cs, i);                                 \
	}                                                                              \
	HANDLER(jcc##c##_legacy)                                                       \
	{                                                                              \
		if (cc_test(cs->cc, c))                                                \
			cs->rip = relative_legacy(cs, i);                              \
		else                                                                   \
			cs->rip = next_legacy(cs, i);                                  \
	}
ISA_CONDS(JCC)
#define JCC_ROW(c) { jcc##c##_legacy, jcc##c##_64 },

/* 70..7f, 0f 80..8f */
isa_fn *isa_pick_jcc(const struct isa_decoded *d, struct isa_insn *i)
{
	static isa_fn *const fn[16][2] = { ISA_CONDS(JCC_ROW) };

	i->flags |= ISA_ENDS_BLOCK;
	return fn[i->cond][d->mode == ISA_CODE64];
}

/* --- JMP, CALL, RET --- */
HANDLER(jmp_rel_64) { cs->rip = relative64(cs, i); }
HANDLER(jmp_rel_legacy) { cs->rip = relative_legacy(cs, i); }

ISA_INLINE uint64_t target64(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t t;

	if (i->flags & ISA_MEM)
		t = isa_load(cs, isa_operand(cs, i, 8, ISA_READ), 8);
	else
		t = ISA_REG(cs, i->rm_off, uint64_t);
	check64(cs, t);
	return t;
}

ISA_INLINE uint64_t target_legacy(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t t = isa_read_rm(cs, i, i->opsize);

	check_legacy(cs, t);
	return t;
}

HANDLER(jmp_rm_64) { cs->rip = target64(cs, i); }
HANDLER(jmp_rm_legacy) { cs->rip = target_legacy(cs, i); }

ISA_INLINE void call64(struct cpu_state *cs, const struct isa_insn *i, uint64_t target)
{
	uint64_t sp = cs->gpr[RSP] - 8;

	isa_store(cs, sp, 8, isa_next_rip(cs, i));
	cs->gpr[RSP] = sp;
	cs->rip = target;
}

ISA_INLINE void call_legacy(struct cpu_state *cs, const struct isa_insn *i, uint64_t target)
{
	isa_push(cs, i->opsize, next_legacy(cs, i));
	cs->rip = target;
}

HANDLER(call_rel_64) { call64(cs, i, relative64(cs, i)); }
HANDLER(call_rel_legacy) { call_legacy(cs, i, relative_legacy(cs, i)); }
HANDLER(call_rm_64) { call64(cs, i, target64(cs, i)); }
HANDLER(call_rm_legacy) { call_legacy(cs, i, target_legacy(cs, i)); }

/* RET and RET imm16 (imm is 0 for the former). */
HANDLER(ret_64)
{
	uint64_t sp = cs->gpr[RSP];
	uint64_t t = isa_load(cs, sp, 8);

	check64(cs, t);
	cs->gpr[RSP] = sp + 8 + i->imm;
	cs->rip = t;
}

HANDLER(ret_legacy)
{
	uint64_t sp = stack_offset(cs, 0);
	uint64_t t = isa_load(cs, stack_linear(cs, sp, i->opsize, ISA_READ), i->opsize);

	check_legacy(cs, t);
	stack_set(cs, stack_offset(cs, (int64_t)(i->opsize + i->imm)));
	cs->rip = t;
}

static isa_fn *pick_mode(const struct isa_decoded *d, struct isa_insn *i, isa_fn *fn64,
			 isa_fn *legacy)
{
	i->flags |= ISA_ENDS_BLOCK;
	return d->mode == ISA_CODE64 ? fn64 : legacy;
}

/* e9 eb */
isa_fn *isa_pick_jmp(const struct isa_decoded *d, struct isa_insn *i)
{
	return pick_mode(d, i, jmp_rel_64, jmp_rel_legacy);
}

/* e8 */
isa_fn *isa_pick_call(const struct isa_decoded *d, struct isa_insn *i)
{
	return pick_mode(d, i, call_rel_64, call_rel_legacy);
}

/* c2 c3 */
isa_fn *isa_pick_ret(const struct isa_decoded *d, struct isa_insn *i)
{
	if (i->opcode == 0xc3)
		i->imm = 0;
	return pick_mode(d, i, ret_64, ret_legacy);
}

/* ff: INC DEC, near CALL and JMP, PUSH; the far ones are system instructions */
isa_fn *isa_pick_grp5(const struct isa_decoded *d, struct isa_insn *i)
{
	switch ((i->modrm >> 3) & 7) {
	case 0:
	case 1: return isa_pick_grp4(d, i);
	case 2: return pick_mode(d, i, call_rm_64, call_rm_legacy);
	case 4: return pick_mode(d, i, jmp_rm_64, jmp_rm_legacy);
	case 6: return isa_pick_push_rm(d, i);
	default: return NULL;
	}
}

/* --- LOOPNE LOOPE LOOP JCXZ (e0..e3): rCX at address size, no flags --- */
ISA_INLINE uint64_t count(const struct cpu_state *cs, const struct isa_insn *i, uint64_t delta)
{
	uint64_t c = cs->gpr[RCX] - delta;

	return i->adsize == 8 ? c : i->adsize == 4 ? (uint32_t)c : (uint16_t)c;
}

HANDLER(loop)
{
	bool code64 = cs->code_mode == ISA_CODE64, taken;
	uint64_t c = 0, target;

	if (i->opcode == 0xe3) {
		taken = count(cs, i, 0) == 0;
	} else {
		c = count(cs, i, 1);
		taken = c != 0;
		if (i->opcode != 0xe2)
			taken = taken && cc_test(cs->cc, 4) == (i->opcode & 1);
	}
	if (taken)
		target = code64 ? relative64(cs, i) : relative_legacy(cs, i);
	else
		target = code64 ? isa_next_rip(cs, i) : next_legacy(cs, i);
	if (i->opcode != 0xe3)
		isa_set_gpr(cs, RCX, i->adsize, c);
	cs->rip = target;
}

isa_fn *isa_pick_loop(const struct isa_decoded *d, struct isa_insn *i)
{
	i->flags |= ISA_ENDS_BLOCK;
	return loop;
}
