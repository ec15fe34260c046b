/*
 * Task switches. VMX non-root operation does not do them: every attempt leaves
 * with exit reason 9, after the checks that the SDM puts before the exit
 * ("Treatment of Task Switches"): the gate's rights, then the new TSS's
 * selector, type, presence and limit. The hypervisor does the switch.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/system.h"

static void check_new_tss(struct vmx_cpu *cpu, uint16_t selector, enum task_switch_source source)
{
	/* A return finds its task busy; everybody else must find it available. */
	enum exception_vector v = source == TASK_SWITCH_IRET ? X86_TRAP_TS : X86_TRAP_GP;
	unsigned busy = source == TASK_SWITCH_IRET ? 2 : 0, type;
	struct isa_descriptor d;

	if (isa_selector_null(selector) || selector & 4 ||
	    !isa_descriptor_read(&cpu->cs, selector, &d))
		isa_selector_fault(&cpu->cs, v, selector);
	type = isa_ar_type(d.ar);
	if (d.ar & VMX_AR_S || (type != (SYS_TSS16 | busy) && type != (SYS_TSS32 | busy)))
		isa_selector_fault(&cpu->cs, v, selector);
	if (!(d.ar & VMX_AR_P))
		isa_selector_fault(&cpu->cs, X86_TRAP_NP, selector);
	if (d.limit < sdm_tss_least_limit(type))
		isa_selector_fault(&cpu->cs, X86_TRAP_TS, selector);
}

void cpu_task_switch(struct vmx_cpu *cpu, uint16_t selector, enum task_switch_source source)
{
	struct cpu_exit e = { .reason = EXIT_REASON_TASK_SWITCH };

	check_new_tss(cpu, selector, source);
	e.qualification = FIELD_PREP(TASK_SWITCH_SELECTOR_MASK, selector) |
			  FIELD_PREP(TASK_SWITCH_SOURCE_MASK, source);
	if (cpu->event.active) { /* through the IDT */
		e.rip = cpu->cs.rip;
		e.insn_len = cpu->event.insn_len;
	} else {
		e.rip = isa_rip(&cpu->cs);
		e.insn_len = cpu->cs.cur->len;
	}
	cpu_vmexit(cpu, &e);
}
