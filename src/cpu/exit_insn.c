/*
 * The instruction behind an exit that its access to memory has made: what an emulator would else
 * fetch, translate and find out again. The bytes are those that the processor has decoded and run.
 *
 * Locks: none; the processor's thread, outside the guest.
 */
#include "cpu/internal.h"

void cpu_note_exit_access(struct vmx_cpu *cpu, uint32_t access, gva_t gla, gpa_t gpa)
{
	cpu->exit_access.valid = !cpu->event.active && !(access & CPU_EXEC);
	cpu->exit_access.access = access;
	cpu->exit_access.gla = gla;
	cpu->exit_access.gpa = gpa;
}

/* The block that was running; NULL where it is gone, or was never kept. */
static const struct cpu_block *running_block(const struct vmx_cpu *cpu)
{
	const struct cpu_state *cs = &cpu->cs;
	gva_t lin = (cs->block_rip + cpu->code_base) & cpu->code_mask;
	const struct isa_tlb_entry *e = &cpu->fetch_tlb[(lin >> PAGE_SHIFT) & (ISA_TLB_ENTRIES - 1)];
	const struct cpu_block *b;
	uint64_t key;

	if (e->exec_tag != (lin & PAGE_MASK))
		return NULL;
	key = (lin + e->addend) | (uint64_t)cs->code_mode << BLOCK_MODE_SHIFT;
	b = *block_jump_slot(cpu->blocks, key);
	if (b && b->key == key)
		return b;
	for (b = cpu->blocks->hash[block_hash(key)]; b && b->key != key;)
		b = b->hash_next;
	return b;
}

bool vmx_exit_insn(struct vmx_cpu *cpu, struct vmx_exit_insn *out)
{
	const struct isa_insn *i = cpu->cs.cur;
	const struct cpu_block *b;

	if (!cpu->exit_access.valid)
		return false;
	b = running_block(cpu);
	if (!b || i < b->insns || i >= b->end)
		return false;
	out->len = i->len;
	for (unsigned n = 0; n < i->len; n++)
		out->bytes[n] = b->bytes[i->off + n];
	out->read = cpu->exit_access.access & CPU_READ;
	out->write = cpu->exit_access.access & CPU_WRITE;
	out->gla = cpu->exit_access.gla;
	out->gpa = cpu->exit_access.gpa;
	return true;
}
