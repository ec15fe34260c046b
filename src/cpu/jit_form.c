/*
 * Which blocks make a unit, where each goes on, and which flags are wanted there.
 *
 * Locks: none; runs on the vCPU's thread with the FPU unloaded.
 */
#include "cpu/jit_form.h"

#define FEW_PARTS 4 /* a unit has so many that other units have too */

/* The live block at a page offset, fit to be part of a unit or looked into. */
static struct cpu_block *block_at(struct jit_forming *f, int32_t off)
{
	uint64_t key;
	struct cpu_block *b;

	if (off < 0 || off >= (int32_t)PAGE_SIZE)
		return NULL;
	key = (f->page->page + (hpa_t)off) |
	      (uint64_t)(f->code32 ? ISA_CODE32 : ISA_CODE64) << BLOCK_MODE_SHIFT;
	for (b = f->cpu->blocks->hash[block_hash(key)]; b && b->key != key;)
		b = b->hash_next;
	return b && !b->host2 && b->epoch ? b : NULL; /* the page has been compared: jit_page_fresh() */
}

/*
 * An instruction that cpu_apic_quick() is asked for is a call in the middle of a unit: a system instruction, or a store
 * that is known to be one to the APIC-access page and would miss its probe each time.
 */
static void classify_quick(const struct jit_forming *f, struct jit_insn *x)
{
	enum cpu_apic_form form = cpu_apic_form(x->isa);

	if (form == CPU_APIC_NONE || f->j->check)
		return;
	if (form == CPU_APIC_STORE && (x->kind != JIT_EMIT || !cpu_apic_writer(f->cpu, f->page->page + x->page_off)))
		return;
	x->kind = JIT_CALL;
	x->access = x->flags_read = x->flags_killed = x->flags_written = 0;
}

bool jit_is_quick(const struct jit_insn *x)
{
	return x->kind == JIT_CALL && cpu_apic_form(x->isa) != CPU_APIC_NONE;
}

/* Classified instructions of a block up to the one that the interpreter has to run. */
static unsigned classify(const struct jit_forming *f, const struct cpu_block *b, struct jit_insn *insn,
			 unsigned max)
{
	unsigned off = (unsigned)(cpu_block_host(b) & ~PAGE_MASK), n = 0;

	for (const struct isa_insn *i = b->insns; i != b->end && n < max; i++) {
		struct jit_insn *x = &insn[n++];

		*x = (struct jit_insn){ .isa = i, .bytes = b->bytes + i->off,
					.page_off = (uint16_t)(off + i->off), .code32 = f->code32 };
		jit_classify(x);
		classify_quick(f, x);
		if (x->kind == JIT_LEAVE)
			break;
	}
	return n;
}

static int32_t relative_target(const struct jit_insn *x)
{
	return (int32_t)(x->page_off + x->isa->len) + (int32_t)x->isa->imm;
}

/* How a block that ends with the instruction goes on. */
static enum jit_end_kind end_kind(const struct jit_insn *x)
{
	const struct isa_insn *i = x->isa;

	if (x->kind == JIT_LEAVE)
		return JIT_END_LEAVE;
	if (!(i->flags & ISA_ENDS_BLOCK) || x->kind == JIT_CALL)
		return JIT_END_NEXT;
	if ((i->map == 0 && ((i->opcode & 0xf0) == 0x70 || (i->opcode & 0xfc) == 0xe0)) ||
	    (i->map == 1 && (i->opcode & 0xf0) == 0x80))
		return JIT_END_COND; /* Jcc, LOOPcc, JRCXZ */
	if (i->map == 0 && (i->opcode == 0xe8 || i->opcode == 0xe9 || i->opcode == 0xeb))
		return JIT_END_JUMP;
	return JIT_END_INDIRECT;
}

/* Where a block may go on within the page. */
static void successors(struct jit_part *p)
{
	const struct jit_insn *last = &p->insn[p->nr - 1];
	int32_t next = last->page_off + last->isa->len;

	p->succ[0] = p->succ[1] = -1;
	p->end = end_kind(last);
	if (p->end == JIT_END_NEXT || p->end == JIT_END_COND)
		p->succ[0] = next;
	if (p->end == JIT_END_COND || p->end == JIT_END_JUMP)
		p->succ[1] = relative_target(last);
	for (int k = 0; k < 2; k++)
		if (p->succ[k] >= (int32_t)PAGE_SIZE || p->succ[k] < 0)
			p->succ[k] = -1;
}

int jit_part_at(const struct jit_forming *f, int32_t off)
{
	for (unsigned n = 0; off >= 0 && n < f->nr_parts; n++)
		if (f->part[n].off == off)
			return (int)n;
	return -1;
}

static bool add_part(struct jit_forming *f, struct cpu_block *b)
{
	struct jit_part *p = &f->part[f->nr_parts];

	if (f->nr_parts == JIT_MAX_BLOCKS || f->nr_insns + b->nr > JIT_UNIT_INSNS)
		return false;
	*p = (struct jit_part){ .block = b, .insn = &f->j->insn[f->nr_insns],
			    .first = (uint16_t)f->nr_insns,
			    .off = (int32_t)(cpu_block_host(b) & ~PAGE_MASK) };
	p->nr = classify(f, b, p->insn, b->nr);
	successors(p);
	f->nr_insns += p->nr;
	f->nr_parts++;
	return true;
}

/* Flags that the code at a page offset of another unit needs. */
static uint8_t live_ahead(struct jit_forming *f, int32_t off)
{
	struct cpu_block *b = block_at(f, off);

	if (!b)
		return JIT_FLAGS_ALL;
	return jit_flags_live(f->j->ahead, classify(f, b, f->j->ahead, ARRAY_SIZE(f->j->ahead)),
			      JIT_FLAGS_ALL);
}

/* Does the block go elsewhere than to succ[]? */
static bool leaves_page(const struct jit_part *p)
{
	int ways = (p->succ[0] >= 0) + (p->succ[1] >= 0);

	return ways < (p->end == JIT_END_COND ? 2 : 1);
}

void jit_find_live(struct jit_forming *f)
{
	bool changed = true;

	for (unsigned n = 0; n < f->nr_parts; n++) {
		struct jit_part *p = &f->part[n];

		p->live_out = leaves_page(p) ? JIT_FLAGS_ALL : 0;
		for (int k = 0; k < 2; k++)
			if (p->succ[k] >= 0 && jit_part_at(f, p->succ[k]) < 0)
				p->live_out |= live_ahead(f, p->succ[k]);
	}
	while (changed) {
		changed = false;
		for (unsigned n = f->nr_parts; n--;) {
			struct jit_part *p = &f->part[n];
			uint8_t out = p->live_out, in;

			for (int k = 0; k < 2; k++) {
				int to = jit_part_at(f, p->succ[k]);

				if (to >= 0)
					out |= f->part[to].live_in;
			}
			in = jit_flags_live(p->insn, p->nr, out);
			changed |= in != p->live_in || out != p->live_out;
			p->live_in = in;
			p->live_out = out;
		}
	}
}

static int32_t branch_off(const struct jit_part *p)
{
	return p->insn[p->nr - 1].page_off;
}

/*
 * Is a block that runs behind this unit's to be a part of it? Each unit that has it has a copy of its code:
 * a compiler's code would not fit, if each had all that follows.
 */
static bool wanted_part(const struct jit_forming *f, const struct cpu_block *s)
{
	if (s->heat == JIT_NEVER || s->unit[f->cls])
		return false;
	if (f->j->threshold > 8 && (uint32_t)s->heat * 8 < f->j->threshold)
		return false;
	return !(s->in_units & 1u << f->cls) || f->nr_parts < FEW_PARTS;
}

/* The parts between the page offsets are in a loop. */
static void note_loop(struct jit_forming *f, int32_t first, int32_t last)
{
	for (unsigned n = 0; n < f->nr_parts; n++)
		if (f->part[n].off >= first && f->part[n].off <= last)
			f->part[n].in_loop = true;
}

void jit_form(struct jit_forming *f, struct cpu_block *b)
{
	add_part(f, b);
	for (unsigned n = 0; n < f->nr_parts; n++)
		for (int k = 0; k < 2; k++) {
			struct cpu_block *s = NULL;

			if (f->part[n].succ[k] >= 0 && jit_part_at(f, f->part[n].succ[k]) < 0)
				s = block_at(f, f->part[n].succ[k]);
			if (s && wanted_part(f, s))
				add_part(f, s);
		}
	f->part[0].head = f->j->check; /* every poll behind a look: jit_check.c counts by them */
	for (unsigned n = 0; n < f->nr_parts; n++)
		for (int k = 0; k < 2; k++) {
			int to = jit_part_at(f, f->part[n].succ[k]);

			if (to >= 0 && (to <= (int)n || f->part[to].off <= branch_off(&f->part[n])))
				f->part[to].head = true;
			if (to >= 0 && f->part[to].off <= branch_off(&f->part[n]))
				note_loop(f, f->part[to].off, branch_off(&f->part[n]));
		}
}

bool jit_worth_it(const struct jit_forming *f)
{
	const struct jit_part *p = &f->part[0];
	unsigned emitted = 0;

	for (unsigned n = 0; n < p->nr; n++)
		emitted += p->insn[n].kind == JIT_EMIT || jit_is_quick(&p->insn[n]);
	return emitted >= (p->end == JIT_END_LEAVE ? f->j->least_before_leave : 1) && p->insn[0].kind != JIT_LEAVE;
}

uint8_t jit_needs(const struct jit_forming *f)
{
	uint8_t all = (f->code32 ? JIT_NEEDS_FLAT32 : JIT_NEEDS_CODE64) | JIT_NEEDS_UNWATCHED;

	for (unsigned n = 0; n < f->nr_insns; n++)
		if (f->j->insn[n].kind == JIT_EMIT)
			all |= f->j->insn[n].needs;
	return all;
}
