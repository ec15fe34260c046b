/*
 * Accesses to TPR and EOI that emulation ends with: no VM exit can follow of them. Emitted code has them
 * done between two instructions of a unit; their handlers do everything else (apic_access.c).
 *
 *   MOV CR8 · WRMSR 808h, 80bh · store of 32 bits at the window ─► cpu_apic_quick()
 *             true:  done, and cpu->apic.recognised is what it has to be
 *             false: nothing has happened
 *
 * Invariants
 * 1. What an access does is the same as by its handler and the boundary behind it: the emulation is apic_virt.c's.
 * 2. A store is quick only while cs->apic_writes says that a write of the page has passed paging and EPT, and
 *    nothing has been dropped since.
 *
 * Locks: none; runs on the vCPU's thread, general registers only.
 */
#include "cpu/system.h"

#define OPCODE_OF(map, opcode) ((map) << 8 | (opcode))
#define MOV_STORE OPCODE_OF(0, 0x89)
#define MOV_STORE_IMM OPCODE_OF(0, 0xc7)
#define MOV_FROM_CR OPCODE_OF(1, 0x20)
#define MOV_TO_CR OPCODE_OF(1, 0x22)
#define WRMSR OPCODE_OF(1, 0x30)

static bool write_tpr(struct vmx_cpu *cpu, uint64_t v, unsigned size)
{
	struct cpu_apic *a = &cpu->apic;

	if (!a->vid && (v >> 4 & 0xf) < a->threshold)
		return false;
	isa_host_store(a->page + VAPIC_TPR, size, v);
	cpu_apic_tpr_written(cpu);
	return true;
}

static bool write_eoi(struct vmx_cpu *cpu, unsigned size)
{
	struct cpu_apic *a = &cpu->apic;

	if (!a->vid || (a->eoi_exit[a->svi >> 6] & BIT_ULL(a->svi & 63)))
		return false;
	isa_host_store(a->page + VAPIC_EOI, size, 0);
	cpu_apic_eoi(cpu);
	return true;
}

static bool store(struct vmx_cpu *cpu, uint64_t v)
{
	const struct cpu_state *cs = &cpu->cs;

	/* DS and SS are flat, or units would not run */
	if (!cs->apic_writes || (cs->cur->seg != SREG_DS && cs->cur->seg != SREG_SS))
		return false;
	switch (isa_ea(cs, cs->cur) - cs->apic_lin) {
	case VAPIC_TPR: return write_tpr(cpu, v & 0xff, 4);
	case VAPIC_EOI: return write_eoi(cpu, 4);
	default: return false;
	}
}

static bool write_msr(struct vmx_cpu *cpu)
{
	const struct cpu_state *cs = &cpu->cs;
	uint32_t msr = (uint32_t)cs->gpr[RCX];
	uint64_t v = cs->gpr[RDX] << 32 | (uint32_t)cs->gpr[RAX];

	if (cs->cpl || !cpu->apic.x2apic || cpu_msr_exits(cpu, msr, true))
		return false;
	switch (msr) {
	case X2APIC_TPR: return !(v >> 8) && write_tpr(cpu, v, 8);
	case X2APIC_EOI: return !v && write_eoi(cpu, 8);
	default: return false;
	}
}

static bool write_cr8(struct vmx_cpu *cpu, uint64_t v)
{
	return !cpu->cs.cpl && !(cpu->primary & CPU_BASED_CR8_LOAD_EXITING) && !(v >> 4) && write_tpr(cpu, v << 4, 4);
}

static bool read_cr8(struct vmx_cpu *cpu, const struct isa_insn *i)
{
	if (cpu->cs.cpl || (cpu->primary & CPU_BASED_CR8_STORE_EXITING))
		return false;
	isa_set_control_operand(&cpu->cs, i, cpu_apic_read_cr8(cpu));
	return true;
}

bool cpu_apic_quick(struct vmx_cpu *cpu, const struct isa_insn *i)
{
	if (!cpu->apic.page)
		return false;
	cpu->cs.cur = i;
	switch (OPCODE_OF(i->map, i->opcode)) {
	case MOV_STORE: return store(cpu, cpu->cs.gpr[i->reg]);
	case MOV_STORE_IMM: return store(cpu, i->imm);
	case MOV_FROM_CR: return read_cr8(cpu, i);
	case MOV_TO_CR: return write_cr8(cpu, isa_control_operand(&cpu->cs, i));
	case WRMSR: return write_msr(cpu);
	default: return false;
	}
}

enum cpu_apic_form cpu_apic_form(const struct isa_insn *i)
{
	if (isa_raises_ud(i) || (i->flags & (ISA_LOCK | ISA_REP | ISA_REPNE)))
		return CPU_APIC_NONE;
	switch (OPCODE_OF(i->map, i->opcode)) {
	case MOV_STORE: case MOV_STORE_IMM:
		return (i->flags & ISA_MEM) && !(i->flags & ISA_RIP_RELATIVE) && i->opsize == 4 ? CPU_APIC_STORE
												  : CPU_APIC_NONE;
	case MOV_FROM_CR: case MOV_TO_CR:
		return i->src == 8 ? CPU_APIC_SYSTEM : CPU_APIC_NONE;
	case WRMSR:
		return CPU_APIC_SYSTEM;
	default:
		return CPU_APIC_NONE;
	}
}
