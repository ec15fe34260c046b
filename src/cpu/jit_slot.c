/*
 * Slots: each is one page in which the accesses of one place in a loop are made (jit/group.c), as cs->sp_tag is
 * the stack's.
 *
 * Invariants
 * 1. A slot's tag and addend are those of an entry that stood in cs->tlb when the slot was filled. Slots with a tag
 *    are in cpu->slots, and all are dropped wherever the stack slot is: with every invalidation, every change of
 *    privilege and mode, and every VM entry. What replaces the entry by another page leaves them.
 * 2. A drop changes the tag only: between a check and the accesses that rely on it the addend stays.
 * 3. A slot that is filled too often has none any more: its block's units are made again without.
 *
 * Locks: none; runs on the vCPU's thread, general registers only.
 */
#include "cpu/jit.h"

#include <x86intrin.h>

#define MAX_TAGGED 64	/* a drop looks at all of them */
#define FILLS 16	/* are looked at together: */
#define FILL_CYCLES 2000 /* that each has to last, in cycles of the TSC */

void jit_slots_keep(struct cpu_jit *j, const struct jit_unit *u, uint32_t nr)
{
	for (uint32_t n = 0; n < nr; n++) {
		struct jit_slot *s = &j->slots[j->nr_slots + n];
		const struct jit_place *place = &u->places[s->insn];

		s->block = place->block;
		s->insn = (uint16_t)(place->isa - place->block->insns);
		s->since = __rdtsc();
	}
	j->nr_slots += nr;
}

/* Is it filled again and again? */
static bool wasted(struct jit_slot *s)
{
	uint64_t now;

	if (++s->fills < FILLS)
		return false;
	now = __rdtsc();
	s->fills = 0;
	if (now - s->since < FILLS * FILL_CYCLES)
		return true;
	s->since = now;
	return false;
}

uint32_t jit_slot_fill(struct cpu_state *cs, gva_t lin, struct jit_slot *s)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	struct cpu_jit *j = cpu->jit;
	struct isa_tlb_entry *e = isa_tlb_slot(cs, lin);
	struct cpu_block *b = s->block;
	gva_t page = lin & PAGE_MASK;

	if (unlikely(wasted(s))) {
		b->scattered |= 1u << s->insn;
		jit_kill_page(cpu, b->page);
		return 0;
	}
	if ((lin & ~PAGE_MASK) > s->room)
		return 0;
	if ((s->write ? e->write_tag : e->read_tag) != page &&
	    !cpu_tlb_refill(cpu, page, e, s->write ? CPU_READ | CPU_WRITE : CPU_READ))
		return 0;
	if (!s->listed) {
		if (j->nr_tagged == MAX_TAGGED)
			cpu_jit_drop_slots(cpu);
		j->nr_tagged++;
		s->listed = true;
		s->next = cpu->slots;
		cpu->slots = s;
	}
	s->tag = page;
	s->addend = e->addend;
	return 1;
}

void jit_note_apart(struct vmx_cpu *cpu, struct cpu_block *b)
{
	struct cpu_jit *j = cpu->jit;
	uint64_t now = __rdtsc();

	if (j->apart.block != b || now - j->apart.since > FILLS * FILL_CYCLES) {
		j->apart.block = b;
		j->apart.since = now;
		j->apart.n = 0;
	}
	if (++j->apart.n < FILLS || b->apart)
		return;
	b->apart = true;
	jit_kill_page(cpu, b->page);
}
