/*
 * What the instruction semantics and the decoder ask of the processor, as one table. A processor has it by
 * cs->ops; the files that decode and run code do not need this one, which needs them all.
 *
 * Locks: none; constant.
 */
#include "cpu/internal.h"

static void cpu_pkru_changed(struct cpu_state *cs, uint32_t changed)
{
	cpu_tlb_pkru_changed(cpu_of(cs), changed);
}

const struct isa_ops cpu_isa_ops = {
	.mem = cpu_mem,
	.mem_commit = cpu_mem_commit,
	.raise = cpu_raise,
	.system = cpu_system_handler,
	.pkru_changed = cpu_pkru_changed,
};
