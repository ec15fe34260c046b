/*
 * Everything that is translated goes: units, cells, what blocks and pages know of them. The stubs stay.
 *
 * Locks: none; runs on the vCPU's thread, or with no guest.
 */
#include "cpu/jit.h"

static void forget_units(struct vmx_cpu *cpu)
{
	struct cpu_blocks *c = cpu->blocks;

	for (size_t n = 0; c && n < PAGE_BUCKETS; n++)
		for (struct code_page *p = c->pages[n]; p; p = p->next) {
			p->units = NULL;
			p->jit_epoch = 0;
			for (struct cpu_block *b = p->blocks; b; b = b->page_next) {
				b->in_units = 0;
				for (unsigned k = 0; k < ARRAY_SIZE(b->unit); k++)
					b->unit[k] = NULL;
			}
		}
}

void jit_drop_all(struct cpu_jit *j)
{
	forget_units(j->cpu);
	for (unsigned k = 0; k < ARRAY_SIZE(j->cls); k++) {
		jit_class_reset(j, &j->cls[k]);
		j->cls[k].has_ind = false;
	}
	j->e.n = j->stubs_end;
	j->e.full = false;
	cpu_jit_drop_slots(j->cpu);
	j->nr_slots = 0;
	j->nr_units = j->nr_cells = j->nr_calls = j->nr_branches = j->bulk_used = 0;
	j->drops++;
}
