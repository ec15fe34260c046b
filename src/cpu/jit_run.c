/*
 * The translator's dispatcher: what cpu_run_blocks() is to the interpreter.
 *
 * Everything that can change under emitted code changes here, or in the
 * handlers of system instructions, which come back to here.
 *
 * Locks: none; runs on the vCPU's thread, general registers only.
 */
#include "cpu/jit.h"
#include "cpu/system.h"

#define KILLS_HALVE 65536 /* blocks interpreted until pages are forgiven half of their kills */

/* Flat segments: what 32-bit units take for granted. */
static bool flat32(const struct vmx_cpu *cpu)
{
	const struct cpu_state *cs = &cpu->cs;
	const struct cpu_segment *ss = &cs->seg[SREG_SS], *ds = &cs->seg[SREG_DS];

	return cs->stack_mode == ISA_CODE32 && !cpu->code_base && cpu->fetch_end == BIT_ULL(32) &&
	       (cs->cr0 & X86_CR0_PE) && !(cs->rflags & X86_FLAGS_VM) &&
	       !ss->base && ss->limit == ~0U && isa_plain_data(ss) &&
	       !ds->base && ds->limit == ~0U && isa_plain_data(ds);
}

uint8_t jit_mode(const struct vmx_cpu *cpu)
{
	const struct cpu_state *cs = &cpu->cs;
	uint64_t off = cs->cr0 & (X86_CR0_EM | X86_CR0_TS);
	uint8_t mode = 0;

	if (cs->code_mode == ISA_CODE64)
		mode |= JIT_NEEDS_CODE64;
	else if (cs->code_mode == ISA_CODE32 && flat32(cpu))
		mode |= JIT_NEEDS_FLAT32;
	if (!off)
		mode |= JIT_NEEDS_X87;
	if (!off && (cs->cr4 & X86_CR4_OSFXSR))
		mode |= JIT_NEEDS_SSE;
	if (!(cs->cr0 & X86_CR0_TS) && (cs->cr4 & X86_CR4_OSXSAVE) &&
	    (cs->xcr0 & (XFEATURE_MASK_SSE | XFEATURE_MASK_YMM)) ==
		    (XFEATURE_MASK_SSE | XFEATURE_MASK_YMM))
		mode |= JIT_NEEDS_AVX;
	if ((mode & JIT_NEEDS_AVX) && !(~cs->xcr0 & XFEATURE_MASK_AVX512))
		mode |= JIT_NEEDS_AVX512;
	if (!cpu->observed && !cpu->debug.code && !cpu->tlb->check &&
	    cpu->preemption_deadline == ~0ULL)
		mode |= JIT_NEEDS_UNWATCHED;
	if (!cpu->bus_lock_detection)
		mode |= JIT_NEEDS_NO_BUS_LOCK;
	return mode;
}

static bool for_units(uint8_t mode)
{
	return (mode & JIT_NEEDS_UNWATCHED) && (mode & (JIT_NEEDS_CODE64 | JIT_NEEDS_FLAT32));
}

/* Is any relative branch of this page to a canonical address? */
static bool far_from_hole(const struct cpu_state *cs, gva_t page)
{
	const uint64_t reach = BIT_ULL(31) + PAGE_SIZE;

	/* the hole is wider than both together; from the top to 0 there is none */
	return isa_canonical(cs, page + reach) && isa_canonical(cs, page - reach);
}

static void forgive(struct cpu_jit *j)
{
	j->nr_interpreted = 0;
	for (unsigned n = 0; n < JIT_KILL_BUCKETS; n++)
		j->kills[n] >>= 1;
}

/* A block without a unit is about to be interpreted: is it time to translate it? */
static struct jit_unit *warm(struct vmx_cpu *cpu, struct cpu_block *b, unsigned cls, uint8_t mode)
{
	struct cpu_jit *j = cpu->jit;
	hpa_t host = cpu_block_host(b);
	struct code_page *p;

	if (unlikely(++j->nr_interpreted >= KILLS_HALVE))
		forgive(j);
	if (b->heat == JIT_NEVER || !b->key || b->host2 || b->epoch != cpu->epoch)
		return NULL;
	if (++b->heat < j->threshold)
		return NULL;
	b->heat = (uint16_t)(j->threshold > 8 ? j->threshold - 8 : 0); /* if it is refused for now */
	p = code_page_find(cpu->blocks, host & PAGE_MASK);
	if (!p || *jit_kills_of(j, p->page) >= JIT_PAGE_KILLS || !jit_page_fresh(cpu, p) || !b->key)
		return NULL;
	return jit_translate(cpu, b, p, cls, mode);
}

static bool usable(struct vmx_cpu *cpu, struct jit_unit *u, unsigned cls, uint8_t mode)
{
	gva_t lin = cpu->cs.rip & PAGE_MASK;

	if (unlikely(u->needs & ~mode))
		return false;
	if (!jit_page_fresh(cpu, u->page))
		return false;
	if (unlikely(!far_from_hole(&cpu->cs, lin)))
		return false;
	if ((mode & JIT_NEEDS_FLAT32) && unlikely(cpu->cs.gpr[RSP] >> 32)) /* jit/stack.c, invariant 5 */
		return false;
	jit_own(cpu, cls, mode);
	(void)jit_claim(cpu->jit, cls, u->page, lin);
	jit_resume(cpu->jit, cls, u->page, lin);
	return !u->dead;
}

/*
 * A short unit led straight to an instruction that is never translated: the interpreter would have been as
 * fast with both. If that is what always happens (a loop of system calls), the dispatcher enters it no more;
 * other units may still lead to it.
 */
static void note_poor(struct jit_unit *u)
{
	if (u->poor < JIT_POOR && u->nr_places <= JIT_FEW_INSNS)
		u->poor++;
}

static uint32_t enter(struct vmx_cpu *cpu, struct jit_unit *u, unsigned cls, struct cpu_block *b)
{
	struct cpu_state *cs = &cpu->cs;
	struct cpu_jit *j = cpu->jit;

	cs->page_lin = cs->rip & PAGE_MASK;
	if (!cs->fpu_loaded && ((u->needs & JIT_NEEDS_FPU) || j->cls[cls].simd))
		isa_fpu_load(cs);
	if (cs->sp_tag == TLB_NO_ACCESS)
		jit_fill_stack_slot(cs);
	cpu->counters.jit_entries++;
	if (unlikely(j->check))
		return jit_check_enter(cpu, u, b);
	return j->enter(cs, u->code);
}

/* The target of an indirect branch is not canonical: the interpreter is to run the branch. */
static void roll_back(struct vmx_cpu *cpu)
{
	struct cpu_state *cs = &cpu->cs;
	const struct jit_call *c = &cpu->jit->branches[(uint32_t)cs->spill[3]];
	const struct jit_place *n = &c->unit->places[c->first];

	cs->gpr[RSP] -= c->rsp_undo;
	cs->rip = cs->page_lin + n->block_off + n->isa->off;
	cpu->jit->interpret = true;
	cpu->counters.retired -= cpu->jit->count; /* the branch, which is run again */
}

/* False: one of its instructions has left. */
static bool interpret(struct vmx_cpu *cpu, const struct cpu_block *b)
{
	struct cpu_state *cs = &cpu->cs;
	const struct isa_insn *i = b->insns, *end = b->end;

	if (unlikely(cpu->jit->count))
		cpu->jit->counted = b;
	cs->block_rip = cs->rip;
	do {
		cs->cur = i;
		i->fn(cs, i);
	} while (++i != end && likely(!cpu->left));
	if (unlikely(cpu->left))
		return false;
	if (!b->jumps) {
		cs->rip = isa_next_rip(cs, i - 1);
		if (cs->code_mode != ISA_CODE64)
			cs->rip = (uint32_t)cs->rip;
	}
	if (unlikely(cpu->jit->count)) {
		cpu->jit->counted = NULL;
		cpu->counters.retired += b->nr;
	}
	cpu->counters.instructions += b->nr;
	cpu->counters.blocks_run++;
	return true;
}

void cpu_jit_run_blocks(struct vmx_cpu *cpu)
{
	struct cpu_state *cs = &cpu->cs;
	struct cpu_jit *j = cpu->jit;
	struct cpu_block *b = NULL;
	struct jit_cell *cell = NULL;
	struct jit_unit *left = NULL; /* alone, through an unbound cell */
	bool indirect = false, skip = j->interpret;
	uint8_t mode = jit_mode(cpu);
	const unsigned world = jit_world_now(cpu) * 2; /* VM entry alone chooses VPID and EPTP */
	unsigned cls = world + (cs->cpl == 3);
	uint32_t drops = j->drops, budget = cpu_timer_budget(cpu);

	j->interpret = false;
	while (likely(!READ_ONCE(cs->exit_request))) {
		struct jit_unit *u = NULL;
		uint32_t why;

		b = cpu_block_at_rip(cpu, b);
		if (unlikely(cpu->debug.code) && cpu_debug_in_block(cpu, b)) {
			cpu_at_boundary(cpu);
			return;
		}
		if (unlikely(cpu->observed))
			cpu_observe(cpu, b);
		if (unlikely(skip))
			skip = false;
		else if (likely(for_units(mode))) {
			u = b->unit[cls];
			if (!u)
				u = warm(cpu, b, cls, mode);
			if (u && (unlikely(u->poor == JIT_POOR && !cell && !indirect) ||
				  unlikely(!usable(cpu, u, cls, mode))))
				u = NULL;
		}
		if (left && !u && b->heat == JIT_NEVER)
			note_poor(left);
		left = NULL;
		if (u) {
			if (cell && drops == j->drops)
				jit_bind(cpu, cell, u);
			else if (indirect)
				jit_bind_indirect(cpu, u);
			drops = j->drops;
			why = enter(cpu, u, cls, b);
			if (unlikely(cpu->left))
				return;
			b = NULL;
			cell = NULL;
			indirect = false;
			if (why >= JIT_EXIT_CELL) {
				cell = &j->cells[why - JIT_EXIT_CELL];
				cs->rip = cs->page_lin + cell->off;
				left = cell->from == u ? u : NULL;
				cpu->counters.jit_exit_cell += !cell->leaves;
				if (cell->leaves) {
					cpu->counters.jit_exit_insn++;
					if (left)
						note_poor(left);
					cell = NULL;
					skip = true;
				}
				continue;
			}
			if (why == JIT_EXIT_INDIRECT) {
				cpu->counters.jit_exit_indirect++;
				indirect = isa_canonical(cs, cs->rip);
				if (unlikely(!indirect)) {
					roll_back(cpu);
					j->interpret = false;
					skip = true;
				}
				continue;
			}
			cpu->counters.jit_left++;
			if (cpu_need_care(cpu))
				return;
			mode = jit_mode(cpu);
			cls = world + (cs->cpl == 3);
			continue;
		}
		cell = NULL;
		indirect = false;
		drops = j->drops;
		if (!interpret(cpu, b))
			return;
		if (unlikely(b->sys)) {
			b = NULL;
			if (cpu_after_system(cpu))
				return;
			mode = jit_mode(cpu);
			cls = world + (cs->cpl == 3);
		}
		if (unlikely(--budget == 0)) {
			if (cpu_timer_expired(cpu))
				return;
			budget = cpu_timer_budget(cpu);
		}
	}
}
