/*
 * One block: its flags kept, one instruction after the other, its cold paths.
 *
 * Flags stay in RFLAGS. A probe destroys them: where they are live they are
 * saved to cs->cc before (jit_flags_give_up()), and loaded when an instruction
 * reads them, or changes only some of the live ones, or the block ends.
 *
 * Invariants
 * 1. ctx.flags says where the live flags are. At a block's beginning that is RFLAGS, or
 *    cs->cc behind a poll; at its end RFLAGS, or cs->cc before an indirect branch, whose
 *    target compares before it needs them.
 *    Where only the carry is live before an INC or DEC and a conditional jump follows, the carry stays in cs->cc
 *    and the others are in RFLAGS (jit_end.carry_in_cc): a loop that passes it on does not carry it about.
 * 2. A cold path finds in cs->cc all flags that are live before its first
 *    instruction, and continues where they may be in RFLAGS, in cs->cc, or both: the stub
 *    returns with both the same.
 *
 * Locks: none.
 */
#include <errno.h>

#include "jit/internal.h"
#include "lib/bug.h"

#define OPC_LOAD 0x8b
#define OPC_STORE 0x89
#define NO_RESUME (~0u)
#define RESUME_PENDING (~1u)
#define RESUME_GROUP (~2u)
#define COND_NE 5
#define COND_NC 3
#define CC_CARRY 0x100 /* CF in cs->cc */

void jit_rewriter_init(struct jit_rewriter *r)
{
	r->nr_calls = r->nr_recover = r->nr_cold = r->nr_slots = 0;
	r->failed = false;
}

/* --- classification --- */

static uint8_t access_of(const struct jit_bytes *p, const struct jit_form *f)
{
	switch (f->how) {
	case HOW_PUSH_REG: case HOW_PUSH_IMM: case HOW_PUSHF: case HOW_CALL:
		return ISA_WRITE;
	case HOW_POP_REG: case HOW_RET: case HOW_LEAVE:
		return ISA_READ;
	case HOW_LEA: case HOW_NOTHING:
		return 0;
	default:
		if (!p->mem)
			return 0;
		return (uint8_t)((f->ops & OP_RM_R ? ISA_READ : 0) |
				 (f->ops & OP_RM_W ? ISA_WRITE : 0));
	}
}

/*
 * x87 to AVX-512: the decoder says what the memory operand is, the handler whether the
 * host's instruction is all there is to it.
 */
static bool classify_vector(struct jit_insn *i, const struct jit_bytes *p)
{
	struct isa_silicon s;

	if (!isa_silicon_insn(i->isa, &s))
		return false;
	i->access = !p->mem ? 0 : s.store ? ISA_WRITE : ISA_READ;
	i->size = p->mem ? i->isa->memsize : 0;
	i->needs |= s.state == ISA_SILICON_X87 ? JIT_NEEDS_X87 :
		    s.state == ISA_SILICON_SSE ? JIT_NEEDS_SSE :
		    s.state == ISA_SILICON_AVX ? JIT_NEEDS_AVX : JIT_NEEDS_AVX512;
	return !p->mem || i->size;
}

static bool emittable(struct jit_insn *i, const struct jit_bytes *p, const struct jit_form *f)
{
	int64_t target = i->page_off + i->isa->len + (int64_t)i->isa->imm;

	if (f->how == HOW_REFUSE || isa_raises_ud(i->isa))
		return false;
	if (i->isa->system && f->how != HOW_PUSHF)
		return false;
	if ((f->ops & OP_SIZE64) && p->p66) /* 16-bit pushes and branches */
		return false;
	if (p->code32 && !jit_form_ok32(i, p, f))
		return false;
	if (p->mem && f->how != HOW_NOTHING && !jit_address_ok(i, p))
		return false;
	if (p->mem && i->access && i->isa->memsize != i->size)
		return false;
	switch (f->how) {
	case HOW_COPY: case HOW_X87: return jit_copy_ok(p, f);
	case HOW_CALL: case HOW_JMP: case HOW_JCC: case HOW_LOOP:
		return target == (int32_t)target;
	default: return true;
	}
}

void jit_classify(struct jit_insn *i)
{
	struct jit_form f = { 0 };
	struct jit_bytes p;

	i->kind = i->isa->flags & ISA_ENDS_BLOCK ? JIT_LEAVE : JIT_CALL;
	i->needs = (i->code32 ? JIT_NEEDS_FLAT32 : JIT_NEEDS_CODE64) | JIT_NEEDS_UNWATCHED;
	i->flags_read = JIT_FLAGS_ALL;
	i->flags_killed = i->flags_written = 0;
	i->access = i->size = 0;
	if (!jit_parse(&p, i))
		return;
	f = jit_find_form(&p);
	i->access = access_of(&p, &f);
	if (i->access)
		i->size = (uint8_t)(p.mem ? jit_rm_size(&p, f.ops) : p.code32 ? 4 : 8);
	if (((f.ops & OP_VECTOR) && !classify_vector(i, &p)) || !emittable(i, &p, &f)) {
		i->access = i->size = 0;
		return;
	}
	i->kind = JIT_EMIT;
	if (i->access && (i->isa->flags & ISA_LOCK))
		i->needs |= JIT_NEEDS_NO_BUS_LOCK;
	jit_find_flags(i, &p, &f);
}

/* --- flags --- */

void jit_note_recover(struct jit_ctx *c)
{
	struct jit_rewriter *r = c->r;
	struct jit_recover now = { .offset = c->e->n, .insn = (uint16_t)(c->b->first + c->k),
				   .flags_in_cc = c->flags != AT_HOST };
	struct jit_recover *last = r->nr_recover ? &r->recover[r->nr_recover - 1] : NULL;

	if (last && last->insn == now.insn && last->flags_in_cc == now.flags_in_cc)
		return;
	if (last && last->offset == now.offset)
		*last = now;
	else if (r->nr_recover == JIT_UNIT_RECOVER)
		r->failed = true;
	else
		r->recover[r->nr_recover++] = now;
}

static void state_op(struct jit_rewriter *r, bool wide, unsigned opcode, unsigned reg, size_t offset)
{
	struct host_mem m = jit_state_operand(r, offset);

	emit_op_mem(&r->e, wide, opcode, reg, &m);
}

void jit_emit_save_flags(struct jit_rewriter *r, unsigned scratch)
{
	emit_op_reg(&r->e, true, OPC_STORE, scratch, HOST_RAX);
	emit_bytes(&r->e, "\x9f\x0f\x90\xc0\x0f\xb7\xc0", 7); /* lahf; seto al; movzx eax, ax */
	state_op(r, false, OPC_STORE, HOST_RAX, offsetof(struct cpu_state, cc));
	emit_op_reg(&r->e, true, OPC_STORE, HOST_RAX, scratch);
}

void jit_emit_load_flags(struct jit_rewriter *r, unsigned scratch)
{
	emit_op_reg(&r->e, true, OPC_STORE, scratch, HOST_RAX);
	state_op(r, false, OPC_LOAD, HOST_RAX, offsetof(struct cpu_state, cc));
	emit_bytes(&r->e, "\x04\x7f\x9e", 3); /* add al, 7fh (OF); sahf */
	emit_op_reg(&r->e, true, OPC_STORE, HOST_RAX, scratch);
}

/*
 * The carry alone, to its bit of cs->cc (RFLAGS are anything afterwards) and from there: what DEC and INC pass on is often
 * all that is live. The store is as wide as the load, or it would not be forwarded.
 */
static void save_carry(struct jit_rewriter *r, unsigned scratch)
{
	emit_op_reg(&r->e, false, 0x19, scratch, scratch); /* sbb */
	emit_op_imm(&r->e, false, 4, scratch, CC_CARRY); /* and */
	state_op(r, false, OPC_STORE, scratch, offsetof(struct cpu_state, cc));
}

static void load_carry(struct jit_rewriter *r)
{
	struct host_mem m = jit_state_operand(r, offsetof(struct cpu_state, cc));

	emit_bytes(&r->e, "\x0f\xba", 2); /* bt dword [cc], 8 */
	emit_modrm_mem(&r->e, 4, &m, 1);
	emit_byte(&r->e, 8);
}

/* Of the flags those that are live. */
static void save_live(struct jit_rewriter *r, unsigned scratch, uint8_t live)
{
	if (live == JIT_CF)
		save_carry(r, scratch);
	else
		jit_emit_save_flags(r, scratch);
}

static void load_live(struct jit_rewriter *r, unsigned scratch, uint8_t live)
{
	if (live == JIT_CF)
		load_carry(r);
	else
		jit_emit_load_flags(r, scratch);
}

void jit_emit_carry(struct jit_rewriter *r, uint8_t live)
{
	if (!(live & JIT_CF))
		return;
	if (live == JIT_CF) {
		load_carry(r);
		return;
	}
	emit_op_reg(&r->e, true, OPC_STORE, JIT_S0, HOST_RAX);
	emit_bytes(&r->e, "\x9f\x0f\x90\xc0\x0f\xb7\xc0", 7); /* lahf; seto al; movzx eax, ax */
	state_op(r, false, OPC_LOAD, JIT_S1, offsetof(struct cpu_state, cc));
	emit_op_imm(&r->e, false, 4, HOST_RAX, ~CC_CARRY); /* and */
	emit_op_imm(&r->e, false, 4, JIT_S1, CC_CARRY);
	emit_op_reg(&r->e, false, 0x09, HOST_RAX, JIT_S1); /* or */
	emit_bytes(&r->e, "\x04\x7f\x9e", 3); /* add al, 7fh (OF); sahf */
	emit_op_reg(&r->e, true, OPC_STORE, HOST_RAX, JIT_S0);
}

/* Is it a conditional jump that does not look at the carry? */
static bool jumps_without_carry(const struct jit_insn *i)
{
	bool jcc = (i->isa->map == 0 && (i->isa->opcode & 0xf0) == 0x70) ||
		   (i->isa->map == 1 && (i->isa->opcode & 0xf0) == 0x80);

	return jcc && i->kind == JIT_EMIT && !(i->flags_read & JIT_CF);
}

/*
 * Does instruction k write all flags but the carry, of which alone cs->cc has the live value, and may that stay
 * there to the end of the block? Nothing behind it destroys RFLAGS, nor is there a fault, which would have to find
 * both.
 */
static bool carry_stays(const struct jit_ctx *c)
{
	const struct jit_insn *i = &c->b->insn[c->k], *end = &c->b->insn[c->b->nr];

	if (i->flags_read || i->flags_killed != (JIT_FLAGS_ALL & ~JIT_CF) || i->flags_written != i->flags_killed ||
	    c->live[c->k] != JIT_CF || !jumps_without_carry(end - 1))
		return false;
	for (unsigned k = c->k + 1; k < c->b->nr - 1; k++) {
		i = &c->b->insn[k];
		if (i->kind != JIT_EMIT || i->access || i->flags_written || (i->flags_read & JIT_CF) || c->stack[k].check)
			return false;
	}
	return c->k + 1 < c->b->nr;
}

void jit_flags_give_up(struct jit_ctx *c, unsigned scratch)
{
	if (c->flags != AT_HOST)
		return;
	if (c->live[c->k]) {
		save_live(c->r, scratch, c->live[c->k]);
		c->flags = AT_CC;
	} else {
		c->flags = AT_NONE;
	}
	jit_note_recover(c);
}

bool jit_flags_wanted(const struct jit_ctx *c)
{
	const struct jit_insn *i = &c->b->insn[c->k];

	return c->flags == AT_CC && !carry_stays(c) &&
	       (i->flags_read || (i->flags_written && (c->live[c->k + 1] & ~i->flags_killed)));
}

void jit_flags_want(struct jit_ctx *c, unsigned scratch)
{
	if (!jit_flags_wanted(c))
		return;
	load_live(c->r, scratch, c->live[c->k]);
	if (scratch == JIT_S1)
		c->s1 = S1_ANY;
	c->flags = AT_HOST;
	jit_note_recover(c);
}

void jit_flags_after(struct jit_ctx *c)
{
	if (c->flags == AT_CC && carry_stays(c))
		c->flags = AT_SPLIT;
	else if (c->b->insn[c->k].flags_written)
		c->flags = AT_HOST;
	else if (c->flags == AT_CC && !c->live[c->k + 1])
		c->flags = AT_NONE;
}

/* --- stubs --- */

static unsigned new_call(struct jit_rewriter *r, enum jit_stub_kind kind, unsigned first,
			 unsigned nr)
{
	if (r->nr_calls == JIT_UNIT_CALLS) {
		r->failed = true;
		return 0;
	}
	r->calls[r->nr_calls] = (struct jit_stub_call){ .first = (uint16_t)first,
							.nr = (uint16_t)nr,
							.kind = (uint8_t)kind };
	return r->nr_calls++;
}

static void new_cold(struct jit_rewriter *r, uint32_t at, unsigned call, uint32_t resume)
{
	if (r->nr_cold == JIT_UNIT_CALLS) {
		r->failed = true;
		return;
	}
	r->cold[r->nr_cold++] = (struct jit_cold){ .at = at, .resume = resume,
						   .call = (uint16_t)call };
}

void jit_cold(struct jit_ctx *c, unsigned cond, enum jit_stub_kind kind, unsigned first, unsigned nr)
{
	unsigned call = new_call(c->r, kind, c->b->first + first, nr);

	new_cold(c->r, emit_jcc(c->e, cond), call,
		 kind == JIT_STUB_RUN ? RESUME_PENDING : NO_RESUME);
}

/*
 * The handlers of all from the check to the last member, and on behind it; or, where other checks are among them,
 * the rest of the block.
 */
void jit_cold_together(struct jit_ctx *c, unsigned cond, unsigned group)
{
	const struct jit_group *g = &c->group[group - 1];
	unsigned nr = g->alone ? g->last - c->k + 1u : c->b->nr - c->k;
	unsigned call = new_call(c->r, g->alone ? JIT_STUB_RUN : JIT_STUB_REST, c->b->first + c->k, nr);

	c->r->calls[call].together = g->nr > 1;
	new_cold(c->r, emit_jcc(c->e, cond), call, g->alone ? RESUME_GROUP : NO_RESUME);
	if (!c->r->failed)
		c->r->cold[c->r->nr_cold - 1].group = (uint8_t)group;
}

void jit_cold_slot(struct jit_ctx *c, struct jit_slot *slot, const struct host_mem *low, uint32_t again)
{
	struct jit_cold *cold = &c->r->cold[c->r->nr_cold - 1];

	if (c->r->failed)
		return;
	cold->slot = slot;
	cold->low = *low;
	cold->again = again;
}

static void resume_here(struct jit_ctx *c, struct jit_cold *cold)
{
	cold->resume = c->e->n;
	for (unsigned n = 0; n < ARRAY_SIZE(c->held); n++)
		cold->held[n] = c->held_at == c->e->n ? c->held[n] : 0;
	c->s1 = S1_ANY; /* a stub has been here: what JIT_S1 holds depends on the way */
}

void jit_groups_resume(struct jit_ctx *c)
{
	for (uint32_t n = c->first_cold; n < c->r->nr_cold; n++) {
		struct jit_cold *cold = &c->r->cold[n];

		if (cold->resume == RESUME_GROUP && c->group[cold->group - 1].last == c->k)
			resume_here(c, cold);
	}
}

void jit_cold_refill(struct jit_ctx *c, bool write)
{
	if (c->r->nr_cold)
		c->r->cold[c->r->nr_cold - 1].refill = write ? 2 : 1;
}

void jit_cold_group(struct jit_ctx *c, unsigned cond, const struct jit_stack *s, uint32_t again)
{
	unsigned call = new_call(c->r, JIT_STUB_GROUP, c->b->first + c->k, c->b->nr - c->k);

	c->r->calls[call].rbp = s->check_rbp;
	c->r->calls[call].lo = s->lo;
	c->r->calls[call].extent = (uint16_t)s->extent;
	new_cold(c->r, emit_jcc(c->e, cond), call, again);
}

void jit_cold_resume(struct jit_ctx *c, uint32_t from)
{
	for (; from < c->r->nr_cold; from++)
		if (c->r->cold[from].resume == RESUME_PENDING)
			resume_here(c, &c->r->cold[from]);
}

static void call_stub(struct jit_rewriter *r, unsigned call, uint64_t stub)
{
	emit_mov_imm32(&r->e, JIT_S1, r->first_call + call);
	emit_call_via(&r->e, stub);
}

void jit_emit_call(struct jit_ctx *c)
{
	unsigned call = new_call(c->r, JIT_STUB_RUN, c->b->first + c->k, 1);

	if (!c->live[c->k] && c->flags == AT_HOST)
		c->flags = AT_NONE;
	jit_note_recover(c);
	call_stub(c->r, call, c->flags == AT_HOST ? c->r->call : c->r->miss);
	c->s1 = S1_ANY;
	c->flags = AT_HOST;
}

uint32_t jit_emit_poll(struct jit_rewriter *r, uint16_t insn, uint8_t live)
{
	unsigned call = new_call(r, JIT_STUB_POLL, insn, 0);
	uint32_t saved;

	if (live)
		save_live(r, JIT_S0, live);
	saved = r->e.n;
	/* CMP of memory with an immediate is three operations of the host, as it fuses with no jump; these are two */
	state_op(r, false, OPC_LOAD, JIT_S0, offsetof(struct cpu_state, exit_request));
	emit_bytes(&r->e, "\x85\xed", 2); /* test ebp, ebp */
	new_cold(r, emit_jcc(&r->e, COND_NE), call, NO_RESUME);
	return saved;
}

void jit_emit_look(struct jit_rewriter *r, uint16_t insn, uint8_t live)
{
	unsigned call = new_call(r, JIT_STUB_LOOK, insn, 0);

	if (live)
		jit_emit_save_flags(r, JIT_S0);
	call_stub(r, call, r->miss);
}

/* A group's check has failed: mostly since the slot held another page. */
static void emit_slot(struct jit_rewriter *r, const struct jit_stub_call *call, uint32_t again)
{
	struct host_mem low = { .base = call->rbp ? HOST_R9 : HOST_R10, .index = HOST_NONE, .disp = call->lo };

	emit_op_mem(&r->e, true, 0x8d, JIT_S1, &low);
	emit_mov_imm32(&r->e, JIT_S0, PAGE_SIZE - call->extent);
	emit_call_via(&r->e, r->slot);
	emit_patch(&r->e, emit_jcc(&r->e, COND_NC), again);
}

/* A probe has missed: mostly since the entry is of another page. It goes on behind its jump. */
static void emit_refill(struct jit_rewriter *r, const struct jit_cold *cold)
{
	emit_call_via(&r->e, r->refill[cold->refill - 1]);
	emit_patch(&r->e, emit_jcc(&r->e, COND_NC), cold->at + 4);
}

/* A slot's check has failed: mostly since it held another page. */
static void emit_fill(struct jit_rewriter *r, const struct jit_cold *cold)
{
	struct host_mem slot = { .absolute = true, .address = (uint64_t)(uintptr_t)cold->slot };

	emit_op_mem(&r->e, true, 0x8d, JIT_S1, &cold->low);
	emit_op_mem(&r->e, true, 0x8d, JIT_S0, &slot);
	emit_call_via(&r->e, r->fill);
	emit_patch(&r->e, emit_jcc(&r->e, COND_NC), cold->again);
}

int jit_emit_cold(struct jit_rewriter *r)
{
	for (uint32_t n = 0; n < r->nr_cold; n++) {
		const struct jit_cold *cold = &r->cold[n];

		emit_patch(&r->e, cold->at, r->e.n);
		if (r->slot && r->calls[cold->call].kind == JIT_STUB_GROUP)
			emit_slot(r, &r->calls[cold->call], cold->resume);
		if (cold->slot)
			emit_fill(r, cold);
		if (cold->refill && r->refill[cold->refill - 1])
			emit_refill(r, cold);
		call_stub(r, cold->call, r->miss);
		for (unsigned k = 0; k < ARRAY_SIZE(cold->held); k++)
			if (cold->held[k]) {
				struct host_mem m = jit_gpr_operand(r, cold->held[k]);

				emit_op_mem(&r->e, true, OPC_LOAD, k ? JIT_S1 : JIT_S0, &m);
			}
		if (cold->resume != NO_RESUME)
			emit_patch(&r->e, emit_jmp(&r->e), cold->resume);
	}
	r->nr_cold = 0;
	return r->failed || r->e.full ? -ENOSPC : 0;
}

/* --- the block --- */

static void emit_insn(struct jit_ctx *c, struct jit_end *end)
{
	const struct jit_insn *i = &c->b->insn[c->k];
	struct jit_bytes p;
	struct jit_form f;
	struct host_mem m;
	uint8_t spare = JIT_S0;
	uint32_t over = 0;

	if (!jit_parse(&p, i)) {
		c->r->failed = true;
		return;
	}
	f = jit_find_form(&p);
	switch ((enum jit_how)f.how) {
	case HOW_NOTHING:
		break;
	case HOW_LEA:
		jit_lea(c, &p);
		break;
	case HOW_COPY: case HOW_X87:
		if (c->b->reads_window)
			over = jit_window_load(c, &p);
		if (p.mem)
			jit_operand(c, &p, jit_no_rex(&p, &f), &m, &spare);
		jit_flags_want(c, spare);
		jit_copy(c, &p, &f, p.mem ? &m : NULL, spare);
		if (over)
			emit_patch(c->e, over, c->e->n);
		if (f.how == HOW_X87)
			jit_note_x87(c, &p);
		break;
	case HOW_PUSHF: /* from cc */
		jit_stack_insn(c, &p, &f, end);
		break;
	default:
		jit_stack_insn(c, &p, &f, end);
		jit_flags_want(c, JIT_S1);
		break;
	}
}

int jit_emit_block(struct jit_rewriter *r, const struct jit_block *b, struct jit_end *end)
{
	struct jit_ctx c = { .r = r, .e = &r->e, .b = b, .flags = b->flags_in_cc ? AT_CC : AT_HOST,
			     .code32 = b->nr && b->insn[0].code32 };
	uint32_t hoisted_from = 0;

	*end = (struct jit_end){ .kind = JIT_END_NEXT };
	if (bug_on(!b->nr || b->nr > JIT_BLOCK_INSNS))
		return -EINVAL;
	c.live[b->nr] = b->live_out;
	for (unsigned k = b->nr; k--;)
		c.live[k] = jit_flags_live(&b->insn[k], 1, c.live[k + 1]);
	jit_plan_stack(&c);
	jit_plan_groups(&c);
	c.first_cold = r->nr_cold;
	for (c.k = 0; c.k < b->nr && !r->failed; c.k++) {
		const struct jit_insn *i = &b->insn[c.k];
		uint32_t from = c.hoisted ? hoisted_from : r->nr_cold;

		end->next = i->page_off + i->isa->len;
		jit_note_recover(&c);
		if (c.stack[c.k].check)
			jit_group_check(&c);
		if (i->kind == JIT_LEAVE) {
			end->kind = JIT_END_LEAVE;
			end->insn = (uint16_t)(b->first + c.k);
			break;
		}
		if (i->kind == JIT_CALL) {
			jit_emit_call(&c);
			continue;
		}
		if (!c.hoisted) {
			jit_hoist(&c);
			hoisted_from = from;
		}
		emit_insn(&c, end);
		if (c.hoisted <= c.k) {
			jit_cold_resume(&c, from);
			c.hoisted = 0;
		}
		if (c.nr_groups)
			jit_groups_resume(&c);
		jit_flags_after(&c);
	}
	if (c.flags == AT_SPLIT)
		end->carry_in_cc = true;
	if (end->kind == JIT_END_INDIRECT) {
		if (c.flags == AT_HOST)
			jit_emit_save_flags(r, JIT_S1); /* JIT_S0 is where it goes on */
	} else if (c.flags == AT_CC && (end->kind == JIT_END_LEAVE || c.live[b->nr])) {
		load_live(r, JIT_S0, end->kind == JIT_END_LEAVE ? JIT_FLAGS_ALL : c.live[b->nr]);
	}
	return r->failed || r->e.full ? -ENOSPC : 0;
}

uint32_t jit_emit_cond(struct jit_rewriter *r, const struct jit_end *end)
{
	uint32_t at;

	if (end->cond < 16)
		return emit_jcc(&r->e, end->cond);
	/* e0..e3 reach 127 bytes only: around a jump */
	if (end->narrow)
		emit_byte(&r->e, 0x67);
	emit_byte(&r->e, 0xe0 | (end->cond & 3));
	emit_byte(&r->e, 2);
	emit_byte(&r->e, 0xeb); /* not taken: over the jump */
	emit_byte(&r->e, 5);
	at = emit_jmp(&r->e);
	return at;
}
