/*
 * One guest instruction as one host instruction: the guest's own encoding with
 * its general registers renamed and its memory operand exchanged.
 *
 * A guest register that lives in memory is operated on there where the form says
 * that this is the same operation (OP_MEM_SAME) at a size that leaves the rest
 * of it alone; else it is loaded into a scratch register before and stored
 * after, 64 bits each.
 *
 * AH, CH, DH and BH cannot be named beside a REX prefix. The memory operand is
 * [rbp] then (JIT_S0), and a register that would need REX goes through JIT_S0.
 *
 * Locks: none.
 */
#include "jit/internal.h"

#define OPC_LOAD 0x8b
#define OPC_LEA 0x8d
#define OPC_MOV 0x89

/* A guest register that takes part by way of a scratch register. */
struct borrowed {
	uint8_t guest, host;
	bool load, store;
};

struct operands {
	uint8_t reg, rm, vvvv; /* numbers as encoded */
	bool no_rex;	       /* one of AH..BH is among them */
	bool force_rex;	       /* SPL..DIL or a scratch as a byte */
	struct borrowed by[2];
	unsigned nr;
	uint8_t held[2];       /* guest registers that JIT_S0 and JIT_S1 hold; 0: none */
	struct host_mem mem;
	bool has_mem;
};

static bool is_high_byte(const struct jit_bytes *p, unsigned size, uint8_t guest)
{
	return size == 1 && !p->has_rex && !p->vex && !p->evex && guest >= 4 && guest < 8;
}

/* A free one of the pool: one that holds the guest register, or one that holds none, or any. */
static uint8_t choose(const struct operands *o, const uint8_t pool[2], uint8_t guest)
{
	uint8_t best = HOST_NONE;

	for (unsigned k = 0; k < 2; k++) {
		uint8_t holds = o->held[pool[k] == JIT_S1];

		if (pool[k] == HOST_NONE || (o->nr && o->by[0].host == pool[k]))
			continue;
		if (holds == guest)
			return pool[k];
		if (best == HOST_NONE || (o->held[best == JIT_S1] && !holds))
			best = pool[k];
	}
	return best;
}

/* A scratch register for a guest register; the same one for the same guest register. */
static uint8_t borrow(struct operands *o, const uint8_t pool[2], uint8_t guest, bool read,
		      bool write, unsigned size)
{
	unsigned n;

	for (n = 0; n < o->nr && o->by[n].guest != guest; n++)
		;
	if (n == o->nr) {
		uint8_t host = n < 2 ? choose(o, pool, guest) : HOST_NONE;

		if (host == HOST_NONE)
			return HOST_NONE;
		o->by[o->nr++] = (struct borrowed){ .guest = guest, .host = host };
	}
	o->by[n].load |= read || (write && size < 4);
	o->by[n].store |= write;
	return o->by[n].host;
}

/* The number to encode for a general register; HOST_NONE: no scratch register left. */
static uint8_t place(struct operands *o, const struct jit_bytes *p, const uint8_t pool[2],
		     uint8_t guest, bool read, bool write, unsigned size)
{
	uint8_t host;

	if (is_high_byte(p, size, guest)) {
		o->no_rex = true;
		return guest;
	}
	host = jit_host_reg[guest];
	if (host == HOST_NONE || (o->no_rex && host >= 8))
		host = borrow(o, pool, guest, read, write, size);
	if (size == 1 && host >= 4)
		o->force_rex = true;
	return host;
}

/* Can rm, a register in memory, be operated on where it is? */
static bool in_place(const struct jit_bytes *p, const struct jit_form *f)
{
	unsigned size = jit_rm_size(p, f->ops);

	if (!(f->ops & OP_MEM_SAME) || (f->ops & OP_NO_MEM) || jit_host_reg[p->rm] != HOST_NONE)
		return false;
	if ((f->ops & OP_RM_W) && (size == 4 || ((f->ops & OP_REG_W) && p->reg == p->rm)))
		return false;
	return true;
}

/* Is it? Not if its value is at hand. */
static bool worked_there(const struct operands *o, const struct jit_bytes *p, const struct jit_form *f)
{
	bool held = (o->held[0] == p->rm || o->held[1] == p->rm) && !(f->ops & (OP_VVVV_R | OP_VVVV_W));

	return in_place(p, f) && !held;
}

/* Fill in *o. false: too few scratch registers. pool: those there are. */
static bool assign(struct operands *o, const struct jit_bytes *p, const struct jit_form *f,
		   const uint8_t given[2])
{
	unsigned size = jit_operand_size(p, f->ops), rm_size = jit_rm_size(p, f->ops);
	bool rm_is_gpr = !p->mem && (f->ops & (OP_RM_R | OP_RM_W | OP_OPC_R | OP_OPC_W));
	bool opc = f->ops & (OP_OPC_R | OP_OPC_W);
	uint8_t pool[2] = { given[0], given[1] };

	o->reg = p->reg;
	o->rm = p->rm;
	o->vvvv = p->vvvv;
	if (rm_is_gpr && is_high_byte(p, opc ? size : rm_size, p->rm)) {
		o->no_rex = true;
		pool[0] = JIT_S0; /* rbp needs no REX */
		pool[1] = HOST_NONE;
	}
	if (f->ops & (OP_REG_R | OP_REG_W))
		o->reg = place(o, p, pool, p->reg, f->ops & OP_REG_R, f->ops & OP_REG_W, size);
	if (f->ops & (OP_VVVV_R | OP_VVVV_W))
		o->vvvv = place(o, p, pool, p->vvvv, f->ops & OP_VVVV_R, f->ops & OP_VVVV_W, size);
	if (opc)
		o->rm = place(o, p, pool, p->rm, f->ops & OP_OPC_R, f->ops & OP_OPC_W, size);
	else if (rm_is_gpr && !worked_there(o, p, f))
		o->rm = place(o, p, pool, p->rm, f->ops & OP_RM_R, f->ops & OP_RM_W, rm_size);
	return o->reg != HOST_NONE && o->rm != HOST_NONE && o->vvvv != HOST_NONE;
}

bool jit_copy_ok(const struct jit_bytes *p, const struct jit_form *f)
{
	struct operands o = { .nr = 0 };
	const uint8_t pool[2] = { JIT_S1, p->mem ? HOST_NONE : JIT_S0 };

	return assign(&o, p, f, pool);
}

bool jit_no_rex(const struct jit_bytes *p, const struct jit_form *f)
{
	return (f->ops & (OP_REG_R | OP_REG_W)) && p->mem &&
	       is_high_byte(p, jit_operand_size(p, f->ops), p->reg);
}

static void emit_legacy(struct emitter *e, const struct jit_bytes *p, const struct jit_form *f,
			const struct operands *o)
{
	static const uint8_t mandatory[4] = { 0, 0x66, 0xf3, 0xf2 };
	unsigned rex = p->w ? 8 : 0, opcode = p->opcode;

	if (p->lock)
		emit_byte(e, 0xf0);
	if (p->p66)
		emit_byte(e, 0x66);
	if ((f->ops & OP_MANDATORY) && p->pp >= 2)
		emit_byte(e, mandatory[p->pp]);
	if (p->has_modrm) {
		rex |= o->has_mem ? emit_rex_bits(o->reg, &o->mem) :
				    (o->reg & 8 ? 4u : 0) | (o->rm & 8 ? 1u : 0);
	} else if (f->ops & (OP_OPC_R | OP_OPC_W)) {
		rex |= o->rm & 8 ? 1 : 0;
		opcode = (opcode & 0xf8) | (o->rm & 7);
	}
	if (rex || o->force_rex)
		emit_byte(e, 0x40 | rex);
	if (p->map)
		emit_byte(e, 0x0f);
	if (p->map > JIT_MAP_0F)
		emit_byte(e, p->map == JIT_MAP_0F38 ? 0x38 : 0x3a);
	emit_byte(e, opcode);
}

/* The guest's own prefix but for bits that name general registers or an address. */
static void emit_evex(struct emitter *e, const struct jit_bytes *p, const struct jit_form *f,
		      const struct operands *o)
{
	unsigned rex = o->has_mem ? emit_rex_bits(o->reg, &o->mem) :
				    (o->reg & 8 ? 4u : 0) | (o->rm & 8 ? 1u : 0);
	unsigned changed = 0, p0 = p->evex[0];

	if (f->ops & (OP_REG_R | OP_REG_W))
		changed |= 0x80;
	if (f->ops & (OP_RM_R | OP_RM_W) || o->has_mem)
		changed |= 0x60;
	emit_byte(e, 0x62);
	emit_byte(e, (p0 & ~changed) | ((~rex & 7) << 5 & changed));
	emit_byte(e, p->evex[1]);
	emit_byte(e, p->evex[2]);
	emit_byte(e, p->opcode);
}

static void emit_vex(struct emitter *e, const struct jit_bytes *p, const struct operands *o)
{
	unsigned rex = o->has_mem ? emit_rex_bits(o->reg, &o->mem) :
				    (o->reg & 8 ? 4u : 0) | (o->rm & 8 ? 1u : 0);

	emit_byte(e, 0xc4);
	emit_byte(e, (~rex & 7) << 5 | p->map);
	emit_byte(e, (p->w ? 0x80u : 0) | (~o->vvvv & 15u) << 3 | (p->l ? 4u : 0) | p->pp);
	emit_byte(e, p->opcode);
}

static bool in_memory(uint8_t guest)
{
	return jit_host_reg[guest] == HOST_NONE;
}

/*
 * What the scratch registers hold behind an instruction that was emitted from `from` on: the registers that it
 * borrowed, and those that they held before it where it leaves both alone.
 */
static void note_held(struct jit_ctx *c, const struct jit_bytes *p, const struct jit_form *f, const struct operands *o,
		      uint32_t from)
{
	uint8_t before[2] = { c->held[0], c->held[1] };
	bool kept = c->held_at == from && !p->mem && f->how == HOW_COPY;

	for (unsigned k = 0; k < 2; k++) {
		/* on a register in memory it may have worked there */
		bool stale = !kept || !before[k] || (o->has_mem && p->rm == before[k]);

		for (unsigned n = 0; n < o->nr; n++)
			stale |= o->by[n].host == (k ? JIT_S1 : JIT_S0) || o->by[n].guest == before[k];
		c->held[k] = stale ? 0 : before[k];
	}
	for (unsigned n = 0; n < o->nr; n++) {
		/* read for its old value, and written where it is: sbb r10, r10 */
		bool written_there = !p->mem && o->has_mem && (f->ops & OP_RM_W) && o->by[n].guest == p->rm;

		if (in_memory(o->by[n].guest) && !written_there)
			c->held[o->by[n].host == JIT_S1] = o->by[n].guest;
	}
	c->held_at = c->e->n;
}

void jit_copy(struct jit_ctx *c, const struct jit_bytes *p, const struct jit_form *f,
	      const struct host_mem *m, uint8_t spare)
{
	const uint8_t *bytes = c->b->insn[c->k].bytes;
	const uint8_t pool[2] = { m ? spare : c->s1 ? JIT_S0 : JIT_S1,
				  m ? HOST_NONE : c->s1 ? JIT_S1 : JIT_S0 };
	struct operands o = { .has_mem = m };
	struct emitter *e = c->e;
	uint32_t from = e->n;
	bool known = c->held_at == from;

	if (m)
		o.mem = *m;
	for (unsigned k = 0; k < 2; k++)
		o.held[k] = known ? c->held[k] : 0;
	if (!assign(&o, p, f, pool))
		c->r->failed = true; /* jit_classify() has asked jit_copy_ok() */
	if (!p->mem && p->has_modrm && (f->ops & (OP_RM_R | OP_RM_W)) && worked_there(&o, p, f)) {
		o.has_mem = true;
		o.mem = jit_gpr_operand(c->r, p->rm);
	}
	for (unsigned n = 0; n < o.nr; n++) {
		if (o.by[n].host == JIT_S1)
			c->s1 = S1_ANY;
		if (!o.by[n].load || o.held[o.by[n].host == JIT_S1] == o.by[n].guest)
			continue;
		if (in_memory(o.by[n].guest))
			jit_load_gpr(c, o.by[n].host, o.by[n].guest);
		else
			emit_op_reg(e, true, OPC_MOV, o.by[n].host, jit_host_reg[o.by[n].guest]);
	}
	o.mem.wide_disp = p->evex;
	if (p->vex)
		emit_vex(e, p, &o);
	else if (p->evex)
		emit_evex(e, p, f, &o);
	else
		emit_legacy(e, p, f, &o);
	if (p->has_modrm && o.has_mem)
		emit_modrm_mem(e, o.reg, &o.mem, p->nr_imm);
	else if (p->has_modrm)
		emit_byte(e, 0xc0u | (o.reg & 7u) << 3 | (o.rm & 7u));
	emit_bytes(e, bytes + p->imm, p->nr_imm);
	for (unsigned n = 0; n < o.nr; n++) {
		if (!o.by[n].store)
			continue;
		if (in_memory(o.by[n].guest))
			jit_store_gpr(c, o.by[n].host, o.by[n].guest);
		else
			emit_op_reg(e, true, OPC_MOV, jit_host_reg[o.by[n].guest], o.by[n].host);
	}
	note_held(c, p, f, &o, from);
}

/* lea reg, [m] at the operand size; an address of 32 bits is a result of 32 bits. */
static void emit_lea(struct jit_ctx *c, const struct jit_bytes *p, uint8_t reg,
		     const struct host_mem *m)
{
	if (p->p66 && !p->w)
		emit_byte(c->e, 0x66);
	emit_op_mem(c->e, p->w && !p->p67, OPC_LEA, reg, m);
}

/* The host register of a part of an address: `scratch`, if it has to be loaded. */
static uint8_t part(struct jit_ctx *c, uint8_t guest, uint8_t scratch)
{
	uint8_t held;

	if (!in_memory(guest))
		return jit_host_reg[guest];
	held = jit_held(c, guest);
	if (held != HOST_NONE)
		return held;
	jit_load_gpr(c, scratch, guest);
	if (scratch == JIT_S1)
		c->s1 = S1_ANY;
	return scratch;
}

/*
 * Base, index and displacement of an effective address; those that live in memory are
 * loaded into JIT_S0 and JIT_S1. Changes no flags.
 */
static struct host_mem effective(struct jit_ctx *c, const struct jit_bytes *p)
{
	struct host_mem m = { .base = HOST_NONE, .index = HOST_NONE, .shift = p->shift,
			      .disp = p->disp };

	if (p->rip_relative) {
		const struct jit_insn *i = &c->b->insn[c->k];
		struct host_mem page = STATE(c->r, page_lin);

		emit_op_mem(c->e, true, OPC_LOAD, JIT_S0, &page);
		m.base = JIT_S0;
		m.disp = (int32_t)((int64_t)i->page_off + i->isa->len + p->disp);
	} else if (p->base != HOST_NONE) {
		uint8_t other = p->index != HOST_NONE && in_memory(p->index) ? jit_held(c, p->index) : HOST_NONE;

		m.index = other;
		m.base = part(c, p->base, other == JIT_S0 ? JIT_S1 : JIT_S0);
	}
	if (p->index != HOST_NONE && m.index == HOST_NONE)
		m.index = part(c, p->index, m.base == JIT_S1 ? JIT_S0 : JIT_S1);
	return m;
}

void jit_lea(struct jit_ctx *c, const struct jit_bytes *p)
{
	uint32_t from = c->e->n;
	bool known = c->held_at == from;
	struct host_mem m = effective(c, p);
	bool to_memory = in_memory(p->reg), nothing_loaded = c->e->n == from;

	emit_lea(c, p, to_memory ? JIT_S0 : jit_host_reg[p->reg], &m);
	if (to_memory) {
		struct host_mem gpr = jit_gpr_operand(c->r, p->reg);

		if (p->p66 && !p->w)
			emit_byte(c->e, 0x66);
		emit_op_mem(c->e, !(p->p66 && !p->w), OPC_MOV, JIT_S0, &gpr);
		c->held[0] = p->p66 && !p->w ? 0 : p->reg;
		if (!known || !nothing_loaded || c->held[1] == p->reg)
			c->held[1] = 0;
		c->held_at = c->e->n;
	} else if (known && nothing_loaded) {
		c->held_at = c->e->n;
	}
}

void jit_note_x87(struct jit_ctx *c, const struct jit_bytes *p)
{
	const struct jit_insn *i = &c->b->insn[c->k];
	struct host_mem page = STATE(c->r, page_lin), ip = STATE(c->r, x87.ip);
	struct host_mem dp = STATE(c->r, x87.dp), op = STATE(c->r, x87.op);
	struct host_mem here = { .base = JIT_S0, .index = HOST_NONE, .disp = i->page_off };
	unsigned code = (p->opcode & 7u) << 8 | p->modrm;
	struct isa_silicon s;

	if (!isa_silicon_insn(i->isa, &s) || !s.notes_ip)
		return;
	if (p->mem) {
		struct host_mem m = effective(c, p);

		emit_op_mem(c->e, !p->p67 && !p->code32, OPC_LEA, JIT_S0, &m);
		emit_op_mem(c->e, true, OPC_MOV, JIT_S0, &dp);
	}
	emit_op_mem(c->e, true, OPC_LOAD, JIT_S0, &page);
	emit_op_mem(c->e, true, OPC_LEA, JIT_S0, &here);
	emit_op_mem(c->e, true, OPC_MOV, JIT_S0, &ip);
	emit_bytes(c->e, "\x66\xc7", 2); /* mov word [op], imm16 */
	emit_modrm_mem(c->e, 0, &op, 2);
	emit_byte(c->e, code);
	emit_byte(c->e, code >> 8);
}
