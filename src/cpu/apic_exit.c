/*
 * VM exits of APIC virtualization (SDM Vol. 3, "APIC-Access VM Exits", "APIC-Write VM Exits", "EOI Virtualization",
 * "TPR Virtualization").
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/internal.h"

/* Exit qualification of exit 44: type of access. */
enum { ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH, ACCESS_IN_DELIVERY, ACCESS_PHYSICAL_IN_DELIVERY = 10,
       ACCESS_PHYSICAL = 15 };
#define QUALIFICATION_TYPE GENMASK_ULL(15, 12)

void cpu_apic_exit_trap(struct vmx_cpu *cpu, uint32_t reason, uint64_t qualification)
{
	struct cpu_exit e = { .reason = reason, .qualification = qualification, .rip = cpu->cs.rip };

	cpu_vmexit(cpu, &e);
}

static __attribute__((noreturn)) void exit_access(struct vmx_cpu *cpu, uint64_t qualification)
{
	struct cpu_exit e = {
		.reason = EXIT_REASON_APIC_ACCESS,
		.qualification = qualification,
		.insn_len = cpu->event.active ? 0 : cpu->cs.cur->len, /* of a fetch: undefined */
		.rip = isa_rip(&cpu->cs),
	};

	cpu_vmexit(cpu, &e);
}

void cpu_apic_access_exit(struct vmx_cpu *cpu, gva_t lin, enum isa_access how)
{
	uint64_t type = how & ISA_WRITE ? ACCESS_WRITE : how & ISA_READ ? ACCESS_READ : ACCESS_FETCH;

	cpu_note_exit_access(cpu, how & (ISA_READ | ISA_WRITE) ? how & (ISA_READ | ISA_WRITE) : CPU_EXEC, lin, ~0ULL);
	if (cpu->event.active)
		type = ACCESS_IN_DELIVERY;
	exit_access(cpu, (lin & ~PAGE_MASK) | FIELD_PREP(QUALIFICATION_TYPE, type));
}

void cpu_apic_physical_exit(struct vmx_cpu *cpu)
{
	exit_access(cpu, FIELD_PREP(QUALIFICATION_TYPE, cpu->event.active ? ACCESS_PHYSICAL_IN_DELIVERY
									   : ACCESS_PHYSICAL));
}
