/*
 * Guest memory operands: the address, the probe of the software TLB, and the
 * host operand that the access goes through.
 *
 *     lea  S1,[linear]      lea S0,[S1+size-1]          (LOCK: mov S0,S1)
 *     shr  S1,7             and S1d,(entries-1)*32      add S1,[tlb]
 *     and  S0,-4096         cmp S0,[S1+tag]             jne cold
 *     mov  S1,[S1+addend]                               (LOCK: and S0,-4096|size-1)
 *     op   reg,[S1+base+disp]        or: lea S0,[linear]; lea S0,[S0+S1]; op reg,[S0]
 *
 * Invariants
 * 1. The slot is chosen by the first byte's address, the tag compared with the
 *    last byte's page (isa/mem.h, invariant 1), which is computed from the
 *    first one's address and not from the operand again: disp + size - 1 may
 *    not fit a displacement.
 * 2. The access goes through guest registers only where the linear address is
 *    exactly base + (index << shift) + disp in 64 bits; else through JIT_S0, the
 *    linear address computed once more.
 * 3. A LOCKed access that is not aligned to its size always takes the cold path (isa/mem.h, invariant 4).
 * 4. In 32-bit code the second is never so: the linear address is one LEA to 32 bits, whatever the
 *    upper halves of registers are, and the access is at [S1+S0].
 *
 * Locks: none.
 */
#include "jit/internal.h"

#define OPC_LOAD 0x8b
#define OPC_LEA 0x8d
#define OPC_ADD_LOAD 0x03
#define OPC_SUB_LOAD 0x2b
#define OPC_CMP_LOAD 0x3b
#define OPC_MOV 0x89
#define EXT_AND 4
#define COND_NC 3
#define COND_NE 5
#define EXT_CMP 7
#define COND_A 7

static uint8_t host_of(uint8_t guest)
{
	return guest == HOST_NONE ? HOST_NONE : jit_host_reg[guest];
}

static bool in_memory(uint8_t guest)
{
	return guest != HOST_NONE && jit_host_reg[guest] == HOST_NONE;
}

struct host_mem jit_state_operand(const struct jit_rewriter *r, size_t offset)
{
	return (struct host_mem){ .absolute = true, .address = (uint64_t)(uintptr_t)r->cs + offset };
}

struct host_mem jit_gpr_operand(const struct jit_rewriter *r, unsigned guest)
{
	return jit_state_operand(r, offsetof(struct cpu_state, gpr) + guest * 8);
}

void jit_load_gpr(struct jit_ctx *c, unsigned host, unsigned guest)
{
	struct host_mem m = jit_gpr_operand(c->r, guest);

	emit_op_mem(c->e, true, OPC_LOAD, host, &m);
}

void jit_store_gpr(struct jit_ctx *c, unsigned host, unsigned guest)
{
	struct host_mem m = jit_gpr_operand(c->r, guest);

	emit_op_mem(c->e, true, OPC_MOV, host, &m);
}

uint8_t jit_held(const struct jit_ctx *c, unsigned guest)
{
	if (c->held_at != c->e->n || !guest)
		return HOST_NONE;
	return c->held[1] == guest ? JIT_S1 : c->held[0] == guest ? JIT_S0 : HOST_NONE;
}

/* RIP-relative: displacement from the page's first byte. */
static int64_t page_displacement(const struct jit_insn *i, const struct jit_bytes *p)
{
	return (int64_t)i->page_off + i->isa->len + p->disp;
}

bool jit_address_ok(const struct jit_insn *i, const struct jit_bytes *p)
{
	int64_t d = page_displacement(i, p);

	return !p->rip_relative || d == (int32_t)d;
}

/* Is the operand's linear address known from the code alone? */
static bool constant_address(const struct jit_bytes *p)
{
	return p->code32 && p->base == HOST_NONE && p->index == HOST_NONE && p->seg < SREG_FS;
}

/* Does the access name, by the code alone, a slot of the TLB that it may hit? */
static bool constant_slot(const struct jit_bytes *p, unsigned size, bool locked)
{
	uint32_t first = (uint32_t)p->disp;

	return constant_address(p) && (first & ~(uint32_t)PAGE_MASK) + size <= PAGE_SIZE &&
	       !(locked && (first & (size - 1)));
}

static bool is_locked(const struct jit_insn *i)
{
	return i->isa->flags & ISA_LOCK;
}

/* A scratch register that holds the guest register: the given one, if it has to be loaded. */
static uint8_t in_scratch(struct jit_ctx *c, unsigned scratch, unsigned guest)
{
	uint8_t held = jit_held(c, guest);

	if (held == HOST_NONE)
		jit_load_gpr(c, scratch, guest);
	return held == HOST_NONE ? (uint8_t)scratch : held;
}

void jit_effective(struct jit_ctx *c, const struct jit_bytes *p, unsigned scratch)
{
	struct emitter *e = c->e;
	struct host_mem m = { .base = host_of(p->base), .index = host_of(p->index),
			      .shift = p->shift, .disp = p->disp };

	if (constant_address(p)) {
		emit_mov_imm32(e, scratch, (uint32_t)p->disp);
		return;
	}
	if (p->rip_relative) {
		struct host_mem page = STATE(c->r, page_lin);

		emit_op_mem(e, true, OPC_LOAD, scratch, &page);
		m.base = (uint8_t)scratch;
		m.disp = (int32_t)page_displacement(&c->b->insn[c->k], p);
	} else if (in_memory(p->base) && in_memory(p->index)) {
		struct host_mem base = jit_gpr_operand(c->r, p->base);

		jit_load_gpr(c, scratch, p->index);
		m.base = HOST_NONE;
		m.index = (uint8_t)scratch;
		emit_op_mem(e, true, OPC_LEA, scratch, &m);
		emit_op_mem(e, true, OPC_ADD_LOAD, scratch, &base);
		if (p->p67)
			emit_op_reg(e, false, OPC_MOV, scratch, scratch);
		return;
	} else if (in_memory(p->base)) {
		m.base = in_scratch(c, scratch, p->base);
	} else if (in_memory(p->index)) {
		m.index = in_scratch(c, scratch, p->index);
	}
	emit_op_mem(e, !p->p67 && !p->code32, OPC_LEA, scratch, &m);
}

static void add_base(struct jit_ctx *c, const struct jit_bytes *p, unsigned scratch)
{
	if (p->seg >= SREG_FS) {
		struct host_mem base = jit_state_operand(
			c->r, offsetof(struct cpu_state, seg) +
				      p->seg * sizeof(struct cpu_segment) +
				      offsetof(struct cpu_segment, base));

		emit_op_mem(c->e, !p->code32, OPC_ADD_LOAD, scratch, &base);
	}
}

static void linear(struct jit_ctx *c, const struct jit_bytes *p, unsigned scratch)
{
	jit_effective(c, p, scratch);
	add_base(c, p, scratch);
}

static void shr_imm(struct emitter *e, unsigned reg, unsigned n)
{
	emit_byte(e, reg & 8 ? 0x49 : 0x48);
	emit_byte(e, 0xc1);
	emit_byte(e, 0xe8 | (reg & 7));
	emit_byte(e, n);
}

static void probe_cold(struct jit_ctx *c, unsigned cond)
{
	bool ends = c->b->insn[c->k].isa->flags & ISA_ENDS_BLOCK;
	unsigned nr = c->hoisted ? c->hoisted - c->k + 1 : 1; /* the handlers of a miss */

	jit_cold(c, cond, ends ? JIT_STUB_REST : JIT_STUB_RUN, c->k, nr);
}

static void op_reg_mem(struct jit_ctx *c, bool wide, unsigned opcode, unsigned reg, size_t offset)
{
	struct host_mem m = jit_state_operand(c->r, offset);

	emit_op_mem(c->e, wide, opcode, reg, &m);
}

/* Part of a probe of 32-bit code: FS or GS is plain data of 4 GiB, for `size` bytes at offset JIT_S1. */
static void check_segment32(struct jit_ctx *c, const struct jit_bytes *p, unsigned size)
{
	size_t seg = offsetof(struct cpu_state, seg) + p->seg * sizeof(struct cpu_segment);
	struct host_mem limit = jit_state_operand(c->r, seg + offsetof(struct cpu_segment, limit));
	struct emitter *e = c->e;

	op_reg_mem(c, false, OPC_LOAD, JIT_S0, seg + offsetof(struct cpu_segment, ar));
	emit_op_imm(e, false, EXT_AND, JIT_S0, (int32_t)ISA_AR_PLAIN_MASK);
	emit_op_imm(e, false, EXT_CMP, JIT_S0, (int32_t)ISA_AR_PLAIN);
	probe_cold(c, COND_NE);
	emit_byte(e, 0x83); /* cmp dword [limit], -1 */
	emit_modrm_mem(e, EXT_CMP, &limit, 1);
	emit_byte(e, 0xff);
	probe_cold(c, COND_NE);
	emit_op_imm(e, false, EXT_CMP, JIT_S1, -(int32_t)size); /* the last byte's offset wraps */
	probe_cold(c, COND_A);
}

/*
 * A constant address has a constant slot: S0 := its page, S1 := the addend.
 *
 *     mov S1,[tlb]   mov S0,page   cmp S0,[S1+slot+tag]   jne cold   mov S1,[S1+slot+addend]
 *
 * false: the general probe is needed.
 */
static bool look_up_constant(struct jit_ctx *c, const struct jit_bytes *p, unsigned size, unsigned access,
			     bool locked)
{
	uint32_t first = (uint32_t)p->disp, page = first & (uint32_t)PAGE_MASK;
	int32_t slot = (int32_t)((first >> PAGE_SHIFT & (ISA_TLB_ENTRIES - 1)) * sizeof(struct isa_tlb_entry));
	struct host_mem entry = { .base = JIT_S1, .index = HOST_NONE };

	if (!constant_slot(p, size, locked))
		return false;
	op_reg_mem(c, true, OPC_LOAD, JIT_S1, offsetof(struct cpu_state, tlb));
	emit_mov_imm32(c->e, JIT_S0, page);
	entry.disp = slot + (int32_t)(access & ISA_WRITE ? offsetof(struct isa_tlb_entry, write_tag) :
							   offsetof(struct isa_tlb_entry, read_tag));
	emit_op_mem(c->e, true, OPC_CMP_LOAD, JIT_S0, &entry);
	probe_cold(c, COND_NE);
	entry.disp = slot + (int32_t)offsetof(struct isa_tlb_entry, addend);
	emit_op_mem(c->e, true, OPC_LOAD, JIT_S1, &entry);
	return true;
}

/* The probe for `size` bytes at the linear address in JIT_S1, of a group where that is not 0: JIT_S1 := addend. */
static void look_up_linear(struct jit_ctx *c, unsigned size, unsigned access, bool locked, unsigned group)
{
	struct emitter *e = c->e;
	struct host_mem last = { .base = JIT_S1, .index = HOST_NONE, .disp = (int32_t)size - 1 };
	struct host_mem tlb = STATE(c->r, tlb), entry = { .base = JIT_S1, .index = HOST_NONE };

	static_assert(sizeof(struct isa_tlb_entry) == 32, "the shift below");
	if (size > 1 && !locked)
		emit_op_mem(e, true, OPC_LEA, JIT_S0, &last);
	else
		emit_op_reg(e, true, OPC_MOV, JIT_S0, JIT_S1);
	shr_imm(e, JIT_S1, PAGE_SHIFT - 5);
	emit_op_imm(e, false, EXT_AND, JIT_S1, (ISA_TLB_ENTRIES - 1) << 5);
	emit_op_mem(e, true, OPC_ADD_LOAD, JIT_S1, &tlb);
	emit_op_imm(e, true, EXT_AND, JIT_S0, -(int32_t)PAGE_SIZE | (locked ? (int32_t)size - 1 : 0));
	entry.disp = access & ISA_WRITE ? offsetof(struct isa_tlb_entry, write_tag)
					   : offsetof(struct isa_tlb_entry, read_tag);
	emit_op_mem(e, true, OPC_CMP_LOAD, JIT_S0, &entry);
	if (group)
		jit_cold_together(c, COND_NE, group);
	else
		probe_cold(c, COND_NE);
	jit_cold_refill(c, access & ISA_WRITE);
	entry.disp = offsetof(struct isa_tlb_entry, addend);
	emit_op_mem(e, true, OPC_LOAD, JIT_S1, &entry);
}

/* JIT_S1 := addend of the page that the access lies in, or off to the cold path. */
static void look_up(struct jit_ctx *c, const struct jit_bytes *p, unsigned size, unsigned access, bool locked)
{
	if (look_up_constant(c, p, size, access, locked))
		return;
	jit_effective(c, p, JIT_S1);
	if (p->code32 && p->seg >= SREG_FS)
		check_segment32(c, p, size);
	add_base(c, p, JIT_S1);
	look_up_linear(c, size, access, locked, 0);
}

/*
 * The host operand behind a probe of 32-bit code; ahead: the probe has been emitted ahead
 * of others. Returns the scratch register that is free, or HOST_NONE: no register of 32-bit
 * code needs one.
 */
static uint8_t operand32(struct jit_ctx *c, const struct jit_bytes *p, unsigned size, bool ahead,
			 bool no_rex, struct host_mem *m)
{
	uint32_t off = (uint32_t)p->disp & ~(uint32_t)PAGE_MASK;

	*m = (struct host_mem){ .base = JIT_S1, .index = JIT_S0 };
	if (!ahead && constant_slot(p, size, is_locked(&c->b->insn[c->k])))
		m->disp = (int32_t)off; /* JIT_S0 is the page */
	else
		linear(c, p, JIT_S0);
	if (!no_rex && !jit_flags_wanted(c))
		return HOST_NONE;
	emit_op_mem(c->e, true, OPC_LEA, JIT_S0, m);
	*m = (struct host_mem){ .base = JIT_S0, .index = HOST_NONE };
	return JIT_S1;
}

void jit_probe_alignment(struct jit_ctx *c, const struct host_mem *at)
{
	const struct jit_insn *i = &c->b->insn[c->k];

	if (!is_locked(i) || i->size == 1)
		return;
	jit_flags_give_up(c, JIT_S0);
	emit_op_mem(c->e, true, OPC_LEA, JIT_S0, at);
	emit_bytes(c->e, "\xf7\xc5", 2); /* test ebp, imm32 */
	emit_u32(c->e, i->size - 1u);
	probe_cold(c, COND_NE);
}

void jit_probe(struct jit_ctx *c, const struct jit_bytes *p, unsigned size, unsigned access,
	       bool no_rex, struct host_mem *m, uint8_t *spare)
{
	bool ahead = c->hoisted == c->k && c->k;

	if (!ahead) {
		jit_flags_give_up(c, JIT_S0);
		c->s1 = S1_ANY;
		look_up(c, p, size, access, is_locked(&c->b->insn[c->k]));
	}
	if (p->code32) {
		*spare = operand32(c, p, size, ahead, no_rex, m);
		return;
	}
	*m = (struct host_mem){ .base = JIT_S1, .index = host_of(p->index), .shift = p->shift,
				.disp = p->disp };
	*spare = JIT_S0;
	if (!jit_direct(p) || no_rex) {
		struct host_mem sum = { .base = JIT_S0, .index = JIT_S1 };

		linear(c, p, JIT_S0);
		emit_op_mem(c->e, true, OPC_LEA, JIT_S0, &sum);
		*m = (struct host_mem){ .base = JIT_S0, .index = HOST_NONE };
		*spare = JIT_S1;
	} else if (p->base != HOST_NONE && p->index == HOST_NONE) {
		m->index = host_of(p->base);
		m->shift = 0;
	} else if (p->base != HOST_NONE) {
		struct host_mem sum = { .base = JIT_S1, .index = host_of(p->base) };

		emit_op_mem(c->e, true, OPC_LEA, JIT_S1, &sum);
	}
}

/* --- members of groups (group.c) --- */

static struct host_mem slot_operand(const struct jit_slot *s, size_t offset)
{
	return (struct host_mem){ .absolute = true, .address = (uint64_t)(uintptr_t)s + offset };
}

/* JIT_S1 := the group's addend, checked; or, with an index, the addend and the base. */
static void check_group(struct jit_ctx *c, unsigned number)
{
	const struct jit_group *g = &c->group[number - 1];
	struct host_mem low = { .base = host_of(g->base), .index = host_of(g->index), .shift = g->shift,
				.disp = g->lo };
	struct emitter *e = c->e;

	jit_flags_give_up(c, JIT_S0);
	if (g->slot) {
		struct host_mem tag = slot_operand(g->slot, offsetof(struct jit_slot, tag));
		struct host_mem addend = slot_operand(g->slot, offsetof(struct jit_slot, addend));
		uint32_t again = e->n;

		emit_op_mem(e, true, OPC_LEA, JIT_S1, &low);
		emit_op_mem(e, true, OPC_SUB_LOAD, JIT_S1, &tag);
		emit_op_imm(e, true, EXT_CMP, JIT_S1, (int32_t)PAGE_SIZE - g->extent);
		jit_cold_together(c, COND_A, number);
		jit_cold_slot(c, g->slot, &low, again);
		emit_op_mem(e, true, OPC_LOAD, JIT_S1, &addend);
		return;
	}
	emit_op_mem(e, true, OPC_LEA, JIT_S1, &low);
	look_up_linear(c, g->extent, g->access, false, number);
}

static void add_host_base(struct jit_ctx *c, const struct jit_group *g)
{
	struct host_mem sum = { .base = JIT_S1, .index = host_of(g->base) };

	if (g->base != HOST_NONE && g->index != HOST_NONE)
		emit_op_mem(c->e, true, OPC_LEA, JIT_S1, &sum);
}

void jit_member_operand(struct jit_ctx *c, const struct jit_bytes *p, bool no_rex, struct host_mem *m, uint8_t *spare)
{
	unsigned number = c->member[c->k];
	struct jit_group *g = &c->group[number - 1];

	if (c->s1 != S1_GROUP + number) {
		if (g->slot && g->checked) {
			struct host_mem addend = slot_operand(g->slot, offsetof(struct jit_slot, addend));

			emit_op_mem(c->e, true, OPC_LOAD, JIT_S1, &addend);
		} else {
			check_group(c, number);
		}
		g->checked = true;
		add_host_base(c, g);
		c->s1 = (uint8_t)(S1_GROUP + number);
	}
	*m = (struct host_mem){ .base = JIT_S1, .index = host_of(g->index), .shift = g->shift, .disp = p->disp };
	if (g->index == HOST_NONE)
		m->index = host_of(g->base);
	*spare = JIT_S0;
	if (no_rex) {
		emit_op_mem(c->e, true, OPC_LEA, JIT_S0, m);
		*m = (struct host_mem){ .base = JIT_S0, .index = HOST_NONE };
		*spare = JIT_S1;
	}
}

/*
 * A register of the window is 16 bytes: its first 4 are read if its bit of apic_ok is set.
 *
 *     lea S0,[linear]   sub S0,[apic_lin]   test S0,~3f0h   jne 1f
 *     shr S0,4          mov S1,[apic_ok]    bt S1,S0        jnc 1f
 *     shl S0,4          add S0,[vapic]      mov reg,[S0]    jmp over      1:
 */
uint32_t jit_window_load(struct jit_ctx *c, const struct jit_bytes *p)
{
	struct host_mem base = STATE(c->r, apic_lin), ok = STATE(c->r, apic_ok), vapic = STATE(c->r, vapic);
	struct host_mem m = { .base = JIT_S0, .index = HOST_NONE };
	struct emitter *e = c->e;
	uint32_t not_there, not_ok, over;

	if (p->map != JIT_MAP_ONE || p->opcode != 0x8b || !p->mem || p->vex || p->p66 || p->w || p->rip_relative ||
	    p->base == HOST_NONE || p->seg >= SREG_FS || jit_host_reg[p->reg] == HOST_NONE ||
	    (c->hoisted && c->hoisted == c->k) || c->stack[c->k].member)
		return 0;
	jit_flags_give_up(c, JIT_S0);
	c->s1 = S1_ANY;
	linear(c, p, JIT_S0);
	emit_op_mem(e, true, OPC_SUB_LOAD, JIT_S0, &base);
	emit_bytes(e, "\x48\xf7\xc5\x0f\xfc\xff\xff", 7); /* test rbp, ~3f0h */
	not_there = emit_jcc(e, COND_NE);
	emit_bytes(e, "\xc1\xed\x04", 3); /* shr ebp,4 */
	emit_op_mem(e, true, OPC_LOAD, JIT_S1, &ok);
	emit_bytes(e, "\x49\x0f\xa3\xeb", 4); /* bt r11,rbp */
	not_ok = emit_jcc(e, COND_NC);
	emit_bytes(e, "\xc1\xe5\x04", 3); /* shl ebp,4 */
	emit_op_mem(e, true, OPC_ADD_LOAD, JIT_S0, &vapic);
	emit_op_mem(e, false, OPC_LOAD, jit_host_reg[p->reg], &m);
	over = emit_jmp(e);
	emit_patch(e, not_there, e->n);
	emit_patch(e, not_ok, e->n);
	return over;
}

#define HOIST_DISTANCE 6

/* May a probe move ahead of this instruction? */
static bool passes(const struct jit_bytes *p, const struct jit_form *f)
{
	uint32_t o = f->ops;

	switch (f->how) {
	case HOW_NOTHING:
		return true;
	case HOW_LEA:
		return !in_memory(p->index);
	case HOW_COPY:
		return !p->mem && !(o & OP_VECTOR) && f->flags != FLAGS_DIV &&
		       !((o & (OP_REG_R | OP_REG_W)) && in_memory(p->reg)) &&
		       !((o & (OP_RM_R | OP_RM_W | OP_OPC_R | OP_OPC_W)) && in_memory(p->rm)) &&
		       !((o & (OP_VVVV_R | OP_VVVV_W)) && in_memory(p->vvvv));
	default:
		return false;
	}
}

/* Instruction k's parts, if it is emitted. */
static bool parts(const struct jit_ctx *c, unsigned k, struct jit_bytes *p, struct jit_form *f)
{
	const struct jit_insn *i = &c->b->insn[k];

	if (i->kind != JIT_EMIT || !jit_parse(p, i))
		return false;
	*f = jit_find_form(p);
	return true;
}

void jit_hoist(struct jit_ctx *c)
{
	unsigned last = c->k + HOIST_DISTANCE < c->b->nr ? c->k + HOIST_DISTANCE : c->b->nr - 1;
	const struct jit_insn *i;
	struct jit_bytes p, q;
	struct jit_form f, g;
	unsigned k = c->k;

	if (c->live[c->k])
		return;
	while (k <= last && parts(c, k, &p, &f) && passes(&p, &f) && !(k > c->k && c->stack[k].check))
		k++;
	i = &c->b->insn[k];
	if (k == c->k || k > last || !c->live[k] || c->stack[k].check || c->stack[k].member || c->member[k] ||
	    !parts(c, k, &p, &f) || (f.how != HOW_COPY && f.how != HOW_X87) || !p.mem ||
	    !(p.code32 ? p.seg < SREG_FS : jit_direct(&p)) || jit_no_rex(&p, &f) || (i->isa->flags & ISA_ENDS_BLOCK))
		return;
	for (unsigned n = c->k; n < k; n++)
		if (parts(c, n, &q, &g) && ((p.base != HOST_NONE && jit_writes(&q, &g, p.base)) ||
					    (p.index != HOST_NONE && jit_writes(&q, &g, p.index))))
			return;
	c->hoisted = k;
	c->flags = AT_NONE;
	c->s1 = S1_ANY;
	jit_note_recover(c);
	look_up(c, &p, i->size, i->access, is_locked(i));
}
