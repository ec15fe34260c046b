/*
 * The stack: accesses relative to RSP in groups with one check for all of a
 * group, and the instructions that push and pop.
 *
 *     lea S1,[rsp+lo]   sub S1,[sp_tag]   cmp S1,4096-extent   ja cold   mov S1,[sp_addend]
 *     then each access is [S1+rsp+off], with S1 loaded again where it was lost
 *
 * A group is a run of instructions in which RSP moves by constants. Its check
 * stands before the first access, earlier if flags are dead there and nothing
 * between may call C. Outside of groups each access has a probe of its own.
 *
 * Invariants
 * 1. Between a group's check and its last access RSP is the checked value plus
 *    a known constant, and every member lies within the checked extent.
 * 2. Groups do not overlap: a group's check stands behind the last access of
 *    the group before (cs->sp_addend is that of the last check).
 * 3. No constant is larger than MAX_OFFSET, so that their sum over a block fits 32 bits.
 * 4. A group ends at every instruction that writes RSP by other than a
 *    constant, and at each call of C (which may invalidate cs->sp_tag). LEAVE begins a
 *    group, relative to RBP.
 * 5. In 32-bit code RSP is cut to 32 bits at each move, and an access is at [S1+rsp+off] in 64
 *    bits: the checked extent holds every value that RSP has at an access, and the last page
 *    below 4 GiB is never in cs->sp_tag. So none of these values, nor one at the page's
 *    end, is cut differently from the address.
 *
 * Locks: none.
 */
#include "jit/internal.h"

#define OPC_LOAD 0x8b
#define OPC_LEA 0x8d
#define OPC_STORE 0x89
#define OPC_OR 0x09
#define OPC_SUB_LOAD 0x2b
#define EXT_OR 1
#define EXT_AND 4
#define EXT_CMP 7
#define COND_A 7
#define MAX_OFFSET (1 << 20)
#define MAX_EXTENT 2048

/* Bytes of a push. */
static int32_t word(const struct jit_bytes *p)
{
	return p->code32 ? 4 : 8;
}

/* Is the explicit memory operand [rsp+disp], with a displacement that groups can add up without overflow? */
static bool rsp_based(const struct jit_bytes *p)
{
	return p->mem && p->base == RSP && p->index == HOST_NONE && p->seg < SREG_FS && !p->p67 &&
	       p->disp >= -MAX_OFFSET && p->disp <= MAX_OFFSET;
}

bool jit_rsp_delta(const struct jit_bytes *p, const struct jit_form *f, int32_t *delta)
{
	*delta = 0;
	switch (f->how) {
	case HOW_PUSH_REG: case HOW_PUSH_IMM: case HOW_PUSH_RM: case HOW_PUSHF: case HOW_CALL:
	case HOW_CALL_RM:
		*delta = -word(p);
		return true;
	case HOW_POP_REG:
		*delta = word(p);
		return p->rm != RSP;
	case HOW_RET:
		return true; /* ends the block */
	case HOW_LEAVE:
		return false;
	case HOW_LEA:
		if (p->reg != RSP)
			return true;
		*delta = p->disp;
		return (p->code32 ? !p->p66 : p->w) && rsp_based(p);
	default:
		return !jit_writes(p, f, RSP);
	}
}

/* ADD or SUB RSP, imm is a constant too; its immediate is not in struct jit_bytes. */
static bool rsp_delta(const struct jit_insn *i, const struct jit_bytes *p,
		      const struct jit_form *f, int32_t *delta)
{
	const uint8_t *imm = i->bytes + p->imm;
	int32_t v;

	if (jit_rsp_delta(p, f, delta))
		return true;
	if (p->vex || p->map || (p->opcode != 0x81 && p->opcode != 0x83) || p->mem || p->rm != RSP ||
	    (p->code32 ? p->p66 : !p->w))
		return false;
	if (p->nr_imm == 1)
		v = (int8_t)imm[0];
	else
		v = (int32_t)(imm[0] | imm[1] << 8 | imm[2] << 16 | (uint32_t)imm[3] << 24);
	if (v > MAX_OFFSET || v < -MAX_OFFSET)
		return false;
	switch (p->modrm >> 3 & 7) {
	case 0: *delta = v; return true;
	case 5: *delta = -v; return true;
	default: return false;
	}
}

/* Bytes [lo, hi) relative to RSP (LEAVE: RBP) that an instruction accesses; false: none. */
static bool stack_bytes(const struct jit_insn *i, const struct jit_bytes *p,
			const struct jit_form *f, int32_t *lo, int32_t *hi)
{
	bool explicit = i->access && rsp_based(p);
	int32_t w = word(p);

	switch (f->how) {
	case HOW_PUSH_REG: case HOW_PUSH_IMM: case HOW_PUSHF: case HOW_CALL:
		*lo = -w;
		*hi = 0;
		return true;
	case HOW_PUSH_RM: case HOW_CALL_RM:
		*lo = explicit && p->disp < -w ? p->disp : -w;
		*hi = explicit && p->disp + w > 0 ? p->disp + w : 0;
		return true;
	case HOW_POP_REG: case HOW_RET: case HOW_LEAVE:
		*lo = 0;
		*hi = w;
		return true;
	default:
		if (!explicit)
			return false;
		*lo = p->disp;
		*hi = p->disp + i->size;
		if (p->code32) { /* RSP itself (invariant 5) */
			*lo = *lo < 0 ? *lo : 0;
			*hi = *hi > 0 ? *hi : 0;
		}
		return true;
	}
}

/* A group in the making. */
struct group {
	bool open, rbp;
	unsigned first_access, earliest; /* where the check may stand */
	int32_t moved;			 /* RSP now, relative to RSP at the group's beginning */
	int32_t moved_at[JIT_BLOCK_INSNS + 1];
	int32_t lo, hi;			 /* relative to RSP (RBP) at the beginning */
};

/* Place the check of a finished group: the last place not behind its first access where flags are dead. */
static void close_group(struct jit_ctx *c, struct group *g)
{
	unsigned at = g->first_access;
	struct jit_stack *s;

	if (!g->open)
		return;
	g->open = false;
	for (unsigned k = at + 1; k-- > g->earliest;)
		if (!c->live[k]) {
			at = k;
			break;
		}
	s = &c->stack[at];
	s->check = true;
	s->check_rbp = g->rbp;
	s->lo = g->lo - (g->rbp ? 0 : g->moved_at[at]);
	s->extent = g->hi - g->lo;
}

/* Widen the group by [lo, hi) relative to RSP now. false: it would become too large. */
static bool widen(struct group *g, int32_t lo, int32_t hi)
{
	lo += g->moved;
	hi += g->moved;
	if (g->open) {
		lo = lo < g->lo ? lo : g->lo;
		hi = hi > g->hi ? hi : g->hi;
	}
	if (hi - lo > MAX_EXTENT || lo < -MAX_OFFSET || hi > MAX_OFFSET)
		return false;
	g->lo = lo;
	g->hi = hi;
	return true;
}

void jit_plan_stack(struct jit_ctx *c)
{
	const struct jit_block *b = c->b;
	struct group g = { .open = false };

	for (unsigned k = 0; k < b->nr; k++) {
		const struct jit_insn *i = &b->insn[k];
		struct jit_bytes p;
		struct jit_form f;
		int32_t lo, hi, delta;

		c->stack[k] = (struct jit_stack){ 0 };
		if (i->kind != JIT_EMIT || !jit_parse(&p, i)) {
			close_group(c, &g);
			g = (struct group){ .earliest = k + 1 };
			continue;
		}
		f = jit_find_form(&p);
		g.moved_at[k] = g.moved;
		if (!b->no_group && stack_bytes(i, &p, &f, &lo, &hi)) {
			if (f.how == HOW_LEAVE || !widen(&g, lo, hi)) {
				close_group(c, &g);
				g = (struct group){ .rbp = f.how == HOW_LEAVE, .earliest = k };
			}
			if (widen(&g, lo, hi)) {
				if (!g.open)
					g.first_access = k;
				g.open = true;
				c->stack[k].member = true;
			}
		}
		if (f.how == HOW_LEAVE) {
			g.moved = word(&p);
		} else if (rsp_delta(i, &p, &f, &delta)) {
			g.moved += delta;
		} else {
			close_group(c, &g);
			g = (struct group){ .earliest = k + 1 };
		}
	}
	close_group(c, &g);
}

void jit_group_check(struct jit_ctx *c)
{
	const struct jit_stack *s = &c->stack[c->k];
	struct emitter *e = c->e;
	struct host_mem low = { .base = s->check_rbp ? HOST_R9 : HOST_R10, .index = HOST_NONE,
				.disp = s->lo };
	struct host_mem tag = STATE(c->r, sp_tag), addend = STATE(c->r, sp_addend);

	uint32_t again;

	jit_flags_give_up(c, JIT_S0);
	again = e->n;
	emit_op_mem(e, true, OPC_LEA, JIT_S1, &low);
	emit_op_mem(e, true, OPC_SUB_LOAD, JIT_S1, &tag);
	emit_op_imm(e, true, EXT_CMP, JIT_S1, (int32_t)PAGE_SIZE - s->extent);
	jit_cold_group(c, COND_A, s, again);
	emit_op_mem(e, true, OPC_LOAD, JIT_S1, &addend);
	c->s1 = S1_STACK;
}

static void member_operand(struct jit_ctx *c, uint8_t base, int32_t off, struct host_mem *m)
{
	if (c->s1 != S1_STACK) {
		struct host_mem addend = STATE(c->r, sp_addend);

		emit_op_mem(c->e, true, OPC_LOAD, JIT_S1, &addend);
		c->s1 = S1_STACK;
	}
	*m = (struct host_mem){ .base = JIT_S1, .index = jit_host_reg[base], .disp = off };
}

/* Bytes of a push. */
static int32_t width(const struct jit_ctx *c)
{
	return c->code32 ? 4 : 8;
}

/* The word of the stack at guest register `base` + off, to be read or written. */
static void stack_operand(struct jit_ctx *c, uint8_t base, int32_t off, enum isa_access access,
			  struct host_mem *m)
{
	const struct jit_bytes p = { .code32 = c->code32, .mem = true, .base = base, .index = HOST_NONE,
				     .seg = SREG_SS, .disp = off };
	uint8_t spare;

	if (c->stack[c->k].member)
		member_operand(c, base, off, m);
	else
		jit_probe(c, &p, (unsigned)width(c), access, false, m, &spare);
	if (!c->stack[c->k].member && c->code32) { /* the value that is pushed is in JIT_S0 */
		emit_op_mem(c->e, true, OPC_LEA, JIT_S1, m);
		*m = (struct host_mem){ .base = JIT_S1, .index = HOST_NONE };
	}
}

void jit_operand(struct jit_ctx *c, const struct jit_bytes *p, bool no_rex, struct host_mem *m,
		 uint8_t *spare)
{
	const struct host_mem linear = { .base = HOST_R10, .index = HOST_NONE, .disp = p->disp };

	if (c->member[c->k]) {
		jit_member_operand(c, p, no_rex, m, spare);
		return;
	}
	if (!c->stack[c->k].member || !rsp_based(p)) {
		const struct jit_insn *i = &c->b->insn[c->k];

		jit_probe(c, p, i->size, i->access, no_rex, m, spare);
		return;
	}
	jit_probe_alignment(c, &linear);
	member_operand(c, RSP, p->disp, m);
	*spare = JIT_S0;
	if (no_rex) {
		emit_op_mem(c->e, true, OPC_LEA, JIT_S0, m);
		*m = (struct host_mem){ .base = JIT_S0, .index = HOST_NONE };
		*spare = JIT_S1;
	}
}

/* A word of the stack, which is zero-extended. */
static void load(struct jit_ctx *c, unsigned reg, const struct host_mem *m)
{
	emit_op_mem(c->e, !c->code32, OPC_LOAD, reg, m);
}

static void store(struct jit_ctx *c, unsigned reg, const struct host_mem *m)
{
	emit_op_mem(c->e, !c->code32, OPC_STORE, reg, m);
}

static void move_rsp(struct jit_ctx *c, int32_t delta)
{
	struct host_mem m = { .base = HOST_R10, .index = HOST_NONE, .disp = delta };

	emit_op_mem(c->e, !c->code32, OPC_LEA, HOST_R10, &m);
}

/* push of a register; JIT_S0 is used for one that lives in memory. */
static void push_reg(struct jit_ctx *c, unsigned guest)
{
	unsigned host = jit_host_reg[guest];
	struct host_mem m;

	stack_operand(c, RSP, -width(c), ISA_WRITE, &m);
	if (host == HOST_NONE) {
		host = JIT_S0;
		jit_load_gpr(c, host, guest);
	}
	store(c, host, &m);
	move_rsp(c, -width(c));
}

static void push_imm(struct jit_ctx *c, const struct jit_bytes *p)
{
	const uint8_t *b = c->b->insn[c->k].bytes + p->imm;
	struct host_mem m;

	stack_operand(c, RSP, -width(c), ISA_WRITE, &m);
	emit_byte(c->e, (c->code32 ? 0x40u : 0x48u) | emit_rex_bits(0, &m));
	emit_byte(c->e, 0xc7);
	emit_modrm_mem(c->e, 0, &m, 4);
	if (p->nr_imm == 1)
		emit_u32(c->e, (uint32_t)(int8_t)b[0]);
	else
		emit_bytes(c->e, b, 4);
	move_rsp(c, -width(c));
}

static void pop_reg(struct jit_ctx *c, unsigned guest)
{
	unsigned host = jit_host_reg[guest];
	struct host_mem m;

	stack_operand(c, RSP, 0, ISA_READ, &m);
	load(c, host == HOST_NONE ? JIT_S0 : host, &m);
	if (host == HOST_NONE)
		jit_store_gpr(c, JIT_S0, guest);
	if (guest != RSP)
		move_rsp(c, width(c));
}

static void leave(struct jit_ctx *c)
{
	struct host_mem m, above = { .base = HOST_R9, .index = HOST_NONE, .disp = width(c) };

	stack_operand(c, RBP, 0, ISA_READ, &m);
	load(c, JIT_S0, &m);
	emit_op_mem(c->e, !c->code32, OPC_LEA, HOST_R10, &above);
	emit_op_reg(c->e, true, OPC_STORE, HOST_R9, JIT_S0);
}

/* JIT_S0 := r/m, 64 bits. */
static void load_rm(struct jit_ctx *c, const struct jit_bytes *p)
{
	struct host_mem m;
	uint8_t spare;

	if (p->mem) {
		jit_operand(c, p, false, &m, &spare);
		load(c, JIT_S0, &m);
	} else if (jit_host_reg[p->rm] == HOST_NONE) {
		jit_load_gpr(c, JIT_S0, p->rm);
	} else {
		emit_op_reg(c->e, !c->code32, OPC_STORE, JIT_S0, jit_host_reg[p->rm]);
	}
}

/* The value in JIT_S0 waits in memory where the push has to probe for itself. */
static void push_s0(struct jit_ctx *c)
{
	struct host_mem spill = jit_state_operand(c->r, offsetof(struct cpu_state, spill[1])), m;
	bool member = c->stack[c->k].member;

	if (!member)
		store(c, JIT_S0, &spill);
	stack_operand(c, RSP, -width(c), ISA_WRITE, &m);
	if (!member)
		load(c, JIT_S0, &spill);
	store(c, JIT_S0, &m);
	move_rsp(c, -width(c));
}

/*
 * PUSHF outside of virtual-8086 mode: no privilege, no exit. The arithmetic flags come
 * from cc, where they are afterwards too; the others from cs->rflags.
 */
static void pushf(struct jit_ctx *c)
{
	struct host_mem cc = STATE(c->r, cc), rflags = STATE(c->r, rflags);
	struct emitter *e = c->e;

	jit_flags_give_up(c, JIT_S0);
	emit_op_mem(e, false, OPC_LOAD, JIT_S0, &cc);
	emit_op_mem(e, false, OPC_LOAD, JIT_S1, &rflags);
	c->s1 = S1_ANY;
	emit_op_imm(e, false, EXT_AND, JIT_S1, (int32_t)~(X86_FLAGS_ARITH | X86_FLAGS_RF | X86_FLAGS_VM));
	emit_op_imm(e, false, EXT_OR, JIT_S1, (int32_t)X86_FLAGS_FIXED);
	/* OF: bit 0 to 11; the others: bits 15:8 to 7:0 */
	static_assert(CC_OF == 1 && CC_CF == 1 << 8 && X86_FLAGS_CF == 1 && CC_SF >> 8 == X86_FLAGS_SF,
		      "cc is made of LAHF and SETO");
	emit_bytes(e, "\x0f\xba\xe5\x00\x73\x07", 6); /* bt ebp,0; jnc over the next */
	emit_op_imm(e, false, EXT_OR, JIT_S1, (int32_t)X86_FLAGS_OF);
	emit_bytes(e, "\xc1\xed\x08", 3); /* shr ebp,8 */
	emit_op_imm(e, false, EXT_AND, JIT_S0, (int32_t)(X86_FLAGS_ARITH & ~X86_FLAGS_OF));
	emit_op_reg(e, false, OPC_OR, JIT_S0, JIT_S1);
	push_s0(c);
}

/* JIT_S0 := linear address of the next instruction. */
static void return_address(struct jit_ctx *c)
{
	const struct jit_insn *i = &c->b->insn[c->k];
	struct host_mem page = STATE(c->r, page_lin);
	struct host_mem next = { .base = JIT_S0, .index = HOST_NONE,
				 .disp = i->page_off + i->isa->len };

	load(c, JIT_S0, &page);
	emit_op_mem(c->e, !c->code32, OPC_LEA, JIT_S0, &next);
}

static void push_return_address(struct jit_ctx *c)
{
	struct host_mem m;

	stack_operand(c, RSP, -width(c), ISA_WRITE, &m);
	return_address(c);
	store(c, JIT_S0, &m);
	move_rsp(c, -width(c));
}

/*
 * A target that is not canonical for 48 bits goes to the handler, before the
 * push: that #GP is the CALL's, and memory is as it was.
 */
static void check_canonical(struct jit_ctx *c)
{
	struct emitter *e = c->e;

	jit_flags_give_up(c, JIT_S1);
	c->s1 = S1_ANY;
	emit_op_reg(e, true, OPC_STORE, JIT_S1, JIT_S0);
	emit_bytes(e, "\x49\xc1\xfb\x2f", 4);	  /* sar r11, 47 */
	emit_op_imm(e, true, 0, JIT_S1, 1);	  /* add */
	emit_op_imm(e, true, EXT_CMP, JIT_S1, 1); /* 0 and 1 are canonical */
	jit_cold(c, COND_A, JIT_STUB_REST, c->k, 1);
}

static void call_rm(struct jit_ctx *c, const struct jit_bytes *p)
{
	struct host_mem spill = jit_state_operand(c->r, offsetof(struct cpu_state, spill[1]));

	load_rm(c, p);
	if (!c->code32) /* all of 32 bits are within the flat CS */
		check_canonical(c);
	store(c, JIT_S0, &spill);
	push_return_address(c);
	load(c, JIT_S0, &spill);
}

static int32_t relative_target(const struct jit_insn *i)
{
	return (int32_t)(i->page_off + i->isa->len + (int64_t)i->isa->imm);
}

static void ret(struct jit_ctx *c, const struct jit_bytes *p, struct jit_end *end)
{
	const uint8_t *b = c->b->insn[c->k].bytes + p->imm;
	unsigned n = (unsigned)width(c) + (p->nr_imm == 2 ? b[0] | (unsigned)b[1] << 8 : 0);
	struct host_mem m;

	stack_operand(c, RSP, 0, ISA_READ, &m);
	load(c, JIT_S0, &m);
	move_rsp(c, (int32_t)n);
	end->kind = JIT_END_INDIRECT;
	end->rsp_undo = n;
}

void jit_stack_insn(struct jit_ctx *c, const struct jit_bytes *p, const struct jit_form *f,
		    struct jit_end *end)
{
	const struct jit_insn *i = &c->b->insn[c->k];

	end->next = i->page_off + i->isa->len;
	switch ((enum jit_how)f->how) {
	case HOW_PUSH_REG: push_reg(c, p->rm); break;
	case HOW_PUSH_IMM: push_imm(c, p); break;
	case HOW_PUSH_RM:
		load_rm(c, p);
		push_s0(c);
		break;
	case HOW_PUSHF: pushf(c); break;
	case HOW_POP_REG: pop_reg(c, p->rm); break;
	case HOW_LEAVE: leave(c); break;
	case HOW_CALL:
		push_return_address(c);
		end->kind = JIT_END_JUMP;
		end->target = relative_target(i);
		break;
	case HOW_CALL_RM:
		call_rm(c, p);
		end->kind = JIT_END_INDIRECT;
		end->checked = true;
		break;
	case HOW_RET: ret(c, p, end); break;
	case HOW_JMP:
		end->kind = JIT_END_JUMP;
		end->target = relative_target(i);
		break;
	case HOW_JMP_RM:
		load_rm(c, p);
		end->kind = JIT_END_INDIRECT;
		break;
	case HOW_JCC: case HOW_LOOP:
		end->kind = JIT_END_COND;
		end->target = relative_target(i);
		end->cond = f->how == HOW_JCC ? p->opcode & 15 : 16 + (p->opcode & 3);
		end->narrow = p->p67 || p->code32;
		break;
	default:
		c->r->failed = true;
	}
}
