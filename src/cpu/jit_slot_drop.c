/*
 * The end of all slots' pages (jit_slot.c), which every invalidation asks for: it knows nothing of the TLB.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/jit.h"

void cpu_jit_drop_slots(struct vmx_cpu *cpu)
{
	struct jit_slot *next;

	for (struct jit_slot *s = cpu->slots; s; s = next) {
		next = s->next;
		s->tag = TLB_NO_ACCESS;
		s->listed = false;
	}
	cpu->slots = NULL;
	cpu->slot_drops++;
	if (cpu->jit)
		cpu->jit->nr_tagged = 0;
}
