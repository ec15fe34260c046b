/*
 * What the instruction semantics and the decoder ask of the processor, as one table. A processor has it by
 * cs->ops; the files that decode and run code do not need this one, which needs them all.
 *
 * Locks: none; constant.
 */
#include "cpu/system.h"

static void cpu_pkru_changed(struct cpu_state *cs, uint32_t changed)
{
	cpu_tlb_pkru_changed(cpu_of(cs), changed);
}

static uint32_t cpu_ext_bit(const struct cpu_state *cs)
{
	const struct cpu_event *ev = &((const struct vmx_cpu *)cs->owner)->event;

	return ev->active && ev->type != INTR_TYPE_SOFT_INTR && ev->type != INTR_TYPE_SOFT_EXCEPTION;
}

/* The byte with type, S, DPL and P: one byte crosses no page, so the access is locked where it lies. */
static void cpu_descriptor_bit(struct cpu_state *cs, gva_t lin, uint64_t raw, unsigned bit)
{
	uint8_t *p = cpu_mem(cs, lin + 5, 1, ISA_RMW | ISA_IMPLICIT, NULL);

	__atomic_fetch_or(p, (uint8_t)bit, __ATOMIC_SEQ_CST);
}

static void segments_changed(struct cpu_state *cs)
{
	cpu_mode_changed(cpu_of(cs));
}

static void __attribute__((noreturn)) task_switch(struct cpu_state *cs, uint16_t selector, enum task_switch_source source)
{
	cpu_task_switch(cpu_of(cs), selector, source);
}

const struct isa_ops cpu_isa_ops = {
	.mem = cpu_mem,
	.mem_commit = cpu_mem_commit,
	.raise = cpu_raise,
	.system = cpu_system_handler,
	.pkru_changed = cpu_pkru_changed,
	.ext_bit = cpu_ext_bit,
	.descriptor_bit = cpu_descriptor_bit,
	.mode_changed = segments_changed,
	.task_switch = task_switch,
};
