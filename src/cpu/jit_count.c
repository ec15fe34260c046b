/*
 * USERKVM_JIT=count: the number of instructions that a processor has run, in counters.retired.
 *
 *   block begins ► all its instructions are counted ─► … ─► it ends
 *                      └► it is left at one of them: what has not run is taken off (cpu_jit.not_run)
 *
 * Invariants
 * 1. retired - not_run is exact wherever C code runs; at a block's end, and after leaving emitted
 *    code, not_run is 0. An instruction counts when it has come to its end: not if it faults or exits, once if it is
 *    repeated (REP), and when it is run again after a fault of the host.
 * 2. Blocks that are interpreted count at their end, or as far as they came.
 * 3. Without `count` nothing is emitted, and `not_run` and `counted` stay 0.
 *
 * Locks: none; runs on the vCPU's thread, general registers only.
 */
#include "cpu/jit.h"

void jit_count_emit(struct jit_rewriter *r, struct vmx_cpu *cpu, unsigned nr)
{
	struct host_mem counter = { .absolute = true, .address = (uint64_t)(uintptr_t)&cpu->counters.retired };
	struct host_mem sum = { .base = JIT_S1, .index = HOST_NONE, .disp = (int32_t)nr };

	emit_op_mem(&r->e, true, 0x8b, JIT_S1, &counter);
	emit_op_mem(&r->e, true, 0x8d, JIT_S1, &sum);
	emit_op_mem(&r->e, true, 0x89, JIT_S1, &counter);
}

uint16_t jit_count_rest(const struct jit_unit *u, const struct jit_place *n)
{
	const struct cpu_block *b = n->block;
	uint16_t rest = 0;

	for (; n != u->places + u->nr_places && n->block == b && !n->left; n++)
		rest++;
	return rest;
}

void jit_count_settle(struct vmx_cpu *cpu)
{
	cpu->counters.retired -= cpu->jit->not_run;
	cpu->jit->not_run = 0;
}

void jit_count_unwound(struct vmx_cpu *cpu)
{
	struct cpu_jit *j = cpu->jit;

	jit_count_settle(cpu);
	if (j->counted && cpu->cs.cur >= j->counted->insns && cpu->cs.cur < j->counted->end)
		cpu->counters.retired += (uint64_t)(cpu->cs.cur - j->counted->insns);
	j->counted = NULL;
}

void cpu_jit_ran_one(struct vmx_cpu *cpu)
{
	if (cpu->jit && cpu->jit->count)
		cpu->counters.retired++;
}
