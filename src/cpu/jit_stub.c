/*
 * C's half of what emitted code calls, and host faults in emitted code.
 *
 * Invariants
 * 1. A stub has stored all registers before it comes here; cs->cc holds the flags, or
 *    they are dead. Handlers may unwind at any time.
 * 2. Handlers run with cs->cur and cs->block_rip as in the interpreter, so that
 *    isa_rip() is theirs.
 * 3. A handler that has killed the running unit, or after which there is a request or
 *    something to look at, is followed by the dispatcher, not by the unit.
 *
 * Locks: none; runs on the vCPU's thread, general registers only.
 */
#include "cpu/jit.h"

#include <signal.h>
#include <ucontext.h>

static void fill_slot(struct cpu_state *cs, uint64_t lin)
{
	const struct isa_tlb_entry *e = isa_tlb_slot(cs, lin);
	uint64_t page = lin & PAGE_MASK;

	if (cs->code_mode != ISA_CODE64 && lin >= BIT_ULL(32) - PAGE_SIZE)
		return; /* jit/stack.c, invariant 5 */
	/* a write tag implies a read tag; the slot is used for both */
	if (e->write_tag != page || e->read_tag != page)
		return;
	cs->sp_tag = page;
	cs->sp_addend = e->addend;
}

void jit_fill_stack_slot(struct cpu_state *cs)
{
	fill_slot(cs, cs->gpr[RSP]);
}

/* Under a sanitizer any C code may use vector registers. */
static inline bool unload_for_c(struct cpu_state *cs)
{
	bool loaded = cs->fpu_loaded;

	isa_fpu_leave(cs);
	return loaded;
}

static void leave_at(struct cpu_state *cs, const struct jit_unit *u, const struct jit_place *n, unsigned skip)
{
	cs->rip = cs->page_lin + n->block_off + n->isa->off + skip;
	if (cs->code_mode != ISA_CODE64)
		cs->rip = (uint32_t)cs->rip;
	if (unlikely(cpu_of(cs)->jit->check))
		jit_check_left(cpu_of(cs)->jit, u, n, skip);
	cpu_at_boundary(cpu_of(cs));
}

/*
 * The slot held another page (true, now it holds this one), or a frame lies across two: where it is so
 * again and again, the block's accesses are to be probed one by one.
 */
static bool group_found(struct cpu_state *cs, const struct jit_call *c, struct cpu_block *b)
{
	uint64_t low = cs->gpr[c->rbp ? RBP : RSP] + (uint64_t)(int64_t)c->lo;
	uint64_t was = cs->sp_tag;

	fill_slot(cs, low);
	if (low - cs->sp_tag <= PAGE_SIZE - c->extent) /* as in the emitted check */
		return true;
	if (cs->sp_tag == was && b->crosses < JIT_CROSSINGS && ++b->crosses == JIT_CROSSINGS)
		jit_kill_page(cpu_of(cs), c->unit->page);
	return false;
}

/* Before a load's handler runs: those of the APIC's window are counted. From some number on the unit looks there first. */
static void note_window(struct cpu_state *cs, const struct jit_place *n, const struct jit_unit *u)
{
	struct cpu_block *b = n->block;

	if (n->isa->map || n->isa->opcode != 0x8b || b->window >= JIT_WINDOW_LOADS)
		return;
	cs->block_rip = cs->page_lin + n->block_off;
	if ((isa_ea(cs, n->isa) & PAGE_MASK) == cs->apic_lin && ++b->window == JIT_WINDOW_LOADS)
		jit_kill_page(cpu_of(cs), u->page);
}

/* Has a system instruction of 32-bit code loaded a segment that is not as flat, or the like? */
static bool mode_changed(const struct vmx_cpu *cpu, const struct jit_unit *u)
{
	return (u->needs & JIT_NEEDS_FLAT32) && jit_mode(cpu) != cpu->jit->cls[u->cls].mode;
}

static uint32_t run_stub(struct cpu_state *cs, uint32_t number)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	const struct jit_call *c = &cpu->jit->calls[number];
	const struct jit_unit *u = c->unit;
	const struct jit_place *n = &u->places[c->first];
	uint64_t sp_tag = cs->sp_tag;
	uint32_t slot_drops = cpu->slot_drops;
	bool loaded = unload_for_c(cs), system = false;

	if (n->quick && c->kind == JIT_STUB_RUN && c->nr == 1 && cpu_apic_quick(cpu, n->isa)) {
		if (likely(!cpu->apic.recognised || !cpu_need_care(cpu)))
			goto out_resume;
		leave_at(cs, u, n, n->isa->len);
		return 1;
	}
	if (unlikely(c->kind == JIT_STUB_LOOK)) {
		if (jit_check_look(cpu->jit, n))
			goto out_resume;
		leave_at(cs, u, n, 0);
		return 1;
	}
	if (unlikely(c->kind == JIT_STUB_POLL)) {
		cpu->counters.jit_polls++;
		cpu->jit->check_blocks += cpu->jit->check; /* this one has not run */
		leave_at(cs, u, n, 0);
		return 1;
	}
	cpu->counters.jit_stubs++;
	if (c->kind == JIT_STUB_GROUP && group_found(cs, c, n->block))
		goto out_resume;
	if (c->together)
		jit_note_apart(cpu, n->block);
	if (cs->apic_ok)
		note_window(cs, n, u);
	if (unlikely(cpu->jit->count))
		cpu->jit->not_run = jit_count_rest(u, n);
	for (unsigned k = 0;; n++) {
		const struct isa_insn *i = n->isa;
		isa_fn *fn = i->fn;

		cs->block_rip = cs->page_lin + n->block_off;
		cs->cur = i;
		fn(cs, i);
		if (unlikely(cpu->left)) {
			if (unlikely(cpu->jit->check)) /* which compares what returns */
				cpu_unwind_left(cpu);
			return 1;
		}
		cpu->jit->not_run -= cpu->jit->count;
		system |= i->system;
		if (i->flags & ISA_ENDS_BLOCK) {
			if (unlikely(cpu->jit->check))
				jit_check_left(cpu->jit, u, n, true);
			cpu_at_boundary(cpu);
			cpu_apic_boundary(cpu);
			return 1;
		}
		if (unlikely(cpu->apic.write.pending)) {
			/* what the write does comes before the next instruction, and may be an exit */
			leave_at(cs, u, n, i->len);
			cpu_apic_boundary(cpu);
			if (c->kind != JIT_STUB_RUN || k + 1 != c->nr || cpu_need_care(cpu))
				return 1;
		}
		if (++k == c->nr)
			break;
		if (unlikely(u->dead)) {
			leave_at(cs, u, n, i->len);
			return 1;
		}
	}
	if (unlikely(c->kind != JIT_STUB_RUN || u->dead || READ_ONCE(cs->exit_request) ||
		     (system ? cpu_need_care(cpu) || mode_changed(cpu, u) :
			       cs->sp_tag != sp_tag || cpu->slot_drops != slot_drops))) {
		leave_at(cs, u, n, n->isa->len);
		return 1;
	}
out_resume:
	if (unlikely(loaded && !cs->fpu_loaded))
		isa_fpu_load(cs);
	return 0;
}

uint32_t jit_stub(struct cpu_state *cs, uint32_t number)
{
	struct cpu_jit *j = cpu_of(cs)->jit;
	uint32_t left = run_stub(cs, number);

	if (unlikely(j->not_run)) {
		if (left)
			jit_count_settle(j->cpu);
		j->not_run = 0;
	}
	return left;
}

uint32_t jit_refill(struct cpu_state *cs, gva_t page, const struct isa_tlb_entry *slot, uint32_t access)
{
	return cpu_tlb_refill(cpu_of(cs), page, slot, access);
}

/* --- host faults --- */

bool cpu_jit_refill_fault(struct vmx_cpu *cpu, void *ucontext)
{
	struct cpu_jit *j = cpu->jit;
	greg_t *regs = ((ucontext_t *)ucontext)->uc_mcontext.gregs;

	if (likely(!j || !j->refill_sp))
		return false;
	regs[REG_RSP] = (greg_t)j->refill_sp;
	regs[REG_RIP] = (greg_t)(uintptr_t)j->refill_failed;
	return true;
}

static const struct jit_unit *unit_at(const struct cpu_jit *j, uint32_t offset)
{
	uint32_t low = 0, high = j->nr_units;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (j->units[mid].end <= offset)
			low = mid + 1;
		else
			high = mid;
	}
	return low < j->nr_units && j->units[low].start <= offset ? &j->units[low] : NULL;
}

static const struct jit_recover *recover_at(const struct jit_unit *u, uint32_t offset)
{
	uint32_t low = 0, high = u->nr_recover;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (u->recover[mid].offset <= offset)
			low = mid + 1;
		else
			high = mid;
	}
	return low ? &u->recover[low - 1] : NULL;
}

bool cpu_jit_fault(struct vmx_cpu *cpu, void *ucontext)
{
	static const uint8_t greg[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
					  REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11,
					  REG_R12, REG_R13, REG_R14, REG_R15 };
	struct cpu_jit *j = cpu->jit;
	struct cpu_state *cs = &cpu->cs;
	greg_t *regs = ((ucontext_t *)ucontext)->uc_mcontext.gregs;
	uint64_t offset = (uint64_t)regs[REG_RIP] - (uint64_t)(uintptr_t)j->mem.run;
	const struct jit_unit *u = offset < j->mem.size ? unit_at(j, (uint32_t)offset) : NULL;
	const struct jit_recover *r = u ? recover_at(u, (uint32_t)offset) : NULL;
	uint64_t flags = (uint64_t)regs[REG_EFL];

	if (!r)
		return false;
	for (unsigned g = 0; g < NR_GPRS; g++)
		if (jit_host_reg[g] != HOST_NONE)
			cs->gpr[g] = (uint64_t)regs[greg[jit_host_reg[g]]];
	if (!r->flags_in_cc)
		cs->cc = (uint32_t)((flags & 0xd5) << 8 | ((flags >> 11) & 1));
	cs->block_rip = cs->page_lin + u->places[r->insn].block_off;
	cs->cur = u->places[r->insn].isa;
	if (j->count)
		j->not_run = jit_count_rest(u, &u->places[r->insn]);
	cpu->counters.jit_faults++;
	return true;
}

void cpu_jit_interpret_next(struct vmx_cpu *cpu)
{
	cpu->jit->interpret = true;
	cpu->cs.rip = isa_rip(&cpu->cs);
	cpu_unwind(cpu);
}
