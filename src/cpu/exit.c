/*
 * VM exits: saving guest state and recording why (SDM Vol. 3, "VM Exits").
 *
 * Invariants
 * 1. cpu_save_exit() is the only place that writes the guest-state area and
 *    the exit-information fields of a completed entry.
 * 2. An event in delivery (cpu->event.active) becomes the IDT-vectoring
 *    information; nothing else does.
 * 3. Guest SIMD state is back in cs->xsave before anybody else runs.
 *
 * Host state is not loaded: the caller of vmlaunch() is the host.
 */
#include "cpu/ghost.h"
#include "cpu/l1vpid.h"
#include "cpu/internal.h"
#include "host/memory.h"

#include <x86intrin.h>

/* Save one field; `changed` gathers what is different from what VM entry has checked. */
#define SAVE(name, value)                  \
	do {                               \
		uint64_t now_ = (value);   \
		changed |= v->name ^ now_; \
		v->name = now_;            \
	} while (0)

static const uint64_t *segment_words(const struct cpu_state *cs)
{
	return (const uint64_t *)(const void *)cs->seg;
}

void cpu_keep_segments(struct vmx_cpu *cpu)
{
	const uint64_t *now = segment_words(&cpu->cs);

	for (size_t n = 0; n < CPU_SEGMENT_WORDS; n++)
		cpu->segments_kept[n] = now[n];
}

/* Between the bytes of the registers are some of none, which may make this false. */
static bool segments_are_kept(const struct vmx_cpu *cpu)
{
	const uint64_t *now = segment_words(&cpu->cs);
	uint64_t changed = 0;

#pragma GCC unroll 32
	for (size_t n = 0; n < CPU_SEGMENT_WORDS; n++)
		changed |= now[n] ^ cpu->segments_kept[n];
	return !changed;
}

static uint64_t save_segments(struct vmx_cpu *cpu, struct vmcs *v)
{
	const struct cpu_state *cs = &cpu->cs;
	bool kept = segments_are_kept(cpu);
	uint64_t changed = 0;

	if (likely(kept) && likely(!cpu->check_entry))
		return 0;

#define SAVE_SEGMENT(S, seg_)                        \
	SAVE(GUEST_##S##_SELECTOR, (seg_).selector); \
	SAVE(GUEST_##S##_BASE, (seg_).base);         \
	SAVE(GUEST_##S##_LIMIT, (seg_).limit);       \
	SAVE(GUEST_##S##_AR_BYTES, (seg_).ar)
	SAVE_SEGMENT(ES, cs->seg[SREG_ES]);
	SAVE_SEGMENT(CS, cs->seg[SREG_CS]);
	SAVE_SEGMENT(SS, cs->seg[SREG_SS]);
	SAVE_SEGMENT(DS, cs->seg[SREG_DS]);
	SAVE_SEGMENT(FS, cs->seg[SREG_FS]);
	SAVE_SEGMENT(GS, cs->seg[SREG_GS]);
	SAVE_SEGMENT(LDTR, cs->ldtr);
	SAVE_SEGMENT(TR, cs->tr);
#undef SAVE_SEGMENT
	SAVE(GUEST_GDTR_BASE, cs->gdtr.base);
	SAVE(GUEST_GDTR_LIMIT, cs->gdtr.limit);
	SAVE(GUEST_IDTR_BASE, cs->idtr.base);
	SAVE(GUEST_IDTR_LIMIT, cs->idtr.limit);
	if (unlikely(kept && changed))
		cpu_left_out(cpu, "a VM exit leaves out segments that have changed", 0);
	cpu_keep_segments(cpu);
	return changed;
}

static uint64_t save_controls(struct vmx_cpu *cpu, struct vmcs *v)
{
	const struct cpu_state *cs = &cpu->cs;
	uint64_t changed = (v->GUEST_CR3 ^ cs->cr3) >> VMX_HOST_MAXPHYADDR; /* what is checked of it */

	SAVE(GUEST_CR0, cs->cr0);
	v->GUEST_CR3 = cs->cr3;
	SAVE(GUEST_CR4, cs->cr4);
	if (cpu->exit_controls & VM_EXIT_SAVE_DEBUG_CONTROLS) {
		SAVE(GUEST_DR7, cs->dr7);
		v->GUEST_IA32_DEBUGCTL = cpu->debugctl;
	}
	v->GUEST_SYSENTER_CS = cpu->sysenter_cs;
	SAVE(GUEST_SYSENTER_ESP, cpu->sysenter_esp);
	SAVE(GUEST_SYSENTER_EIP, cpu->sysenter_eip);
	if (cpu->exit_controls & VM_EXIT_SAVE_IA32_PAT)
		SAVE(GUEST_IA32_PAT, cpu->pat);
	if (cpu->exit_controls & VM_EXIT_SAVE_IA32_EFER)
		SAVE(GUEST_IA32_EFER, cs->efer);
	SAVE(VM_ENTRY_CONTROLS, (v->VM_ENTRY_CONTROLS & ~VM_ENTRY_IA32E_MODE) |
					(cs->efer & EFER_LMA ? VM_ENTRY_IA32E_MODE : 0));
	if (cpu->secondary & SECONDARY_EXEC_ENABLE_EPT) {
		v->GUEST_PDPTR0 = cpu->pdptr[0];
		v->GUEST_PDPTR1 = cpu->pdptr[1];
		v->GUEST_PDPTR2 = cpu->pdptr[2];
		v->GUEST_PDPTR3 = cpu->pdptr[3];
	}
	if (cpu->exit_controls & VM_EXIT_SAVE_VMX_PREEMPTION_TIMER) {
		uint64_t now = __rdtsc(), left = 0;

		if (cpu->preemption_deadline > now)
			left = (cpu->preemption_deadline - now) >> CPU_PREEMPTION_TIMER_RATE;
		if (cpu->preemption_deadline != ~0ULL)
			v->VMX_PREEMPTION_TIMER_VALUE = (uint32_t)left;
	}
	return changed;
}

/* SDM "Saving RIP, RSP, RFLAGS, and SSP": fault-like exits save RF as 1. */
static bool saves_resume_flag(const struct vmx_cpu *cpu, const struct cpu_exit *e)
{
	if (cpu->event.active)
		return false;
	switch (e->reason) {
	case EXIT_REASON_APIC_ACCESS:
	case EXIT_REASON_EPT_VIOLATION:
	case EXIT_REASON_EPT_MISCONFIG:
	case EXIT_REASON_PML_FULL:
		return true;
	case EXIT_REASON_EXCEPTION_NMI:
		return FIELD_GET(INTR_INFO_INTR_TYPE_MASK, e->intr_info) ==
			       INTR_TYPE_HARD_EXCEPTION &&
		       FIELD_GET(INTR_INFO_VECTOR_MASK, e->intr_info) != X86_TRAP_DB;
	default:
		return false;
	}
}

/* The same: an instruction that exits, always or as it was configured to, saves RF as 0, whatever it was. */
static bool clears_resume_flag(const struct vmx_cpu *cpu, const struct cpu_exit *e)
{
	return e->insn_len && !cpu->event.active;
}

static uint64_t save_non_register(struct vmx_cpu *cpu, struct vmcs *v, const struct cpu_exit *e)
{
	uint64_t rflags = clears_resume_flag(cpu, e) ? cpu_rflags(&cpu->cs) & ~X86_FLAGS_RF :
						       cpu_rflags(&cpu->cs) | cpu->resume_flag;
	uint64_t changed = (v->GUEST_RFLAGS ^ rflags) & X86_FLAGS_VM; /* decides what segments must be */

	v->GUEST_RSP = cpu->cs.gpr[RSP];
	v->GUEST_RIP = e->rip;
	v->GUEST_RFLAGS = rflags;
	if (saves_resume_flag(cpu, e))
		v->GUEST_RFLAGS |= X86_FLAGS_RF;
	v->GUEST_INTERRUPTIBILITY_INFO = cpu->interruptibility | cpu->shadow;
	v->GUEST_ACTIVITY_STATE = cpu->activity;
	v->GUEST_PENDING_DBG_EXCEPTIONS = cpu->pending_dbg;
	return changed;
}

static void save_vectoring(struct vmx_cpu *cpu, struct vmcs *v, const struct cpu_exit *e)
{
	const struct cpu_event *ev = &cpu->event;

	v->IDT_VECTORING_INFO_FIELD = 0;
	v->VM_EXIT_INSTRUCTION_LEN = e->insn_len;
	if (!ev->active || e->reason == EXIT_REASON_TRIPLE_FAULT)
		return;
	v->IDT_VECTORING_INFO_FIELD = INTR_INFO_VALID_MASK | ev->vector |
				      FIELD_PREP(INTR_INFO_INTR_TYPE_MASK, ev->type);
	if (ev->has_error_code) {
		v->IDT_VECTORING_INFO_FIELD |= INTR_INFO_DELIVER_CODE_MASK;
		v->IDT_VECTORING_ERROR_CODE = ev->error_code;
	}
	if (!e->insn_len)
		v->VM_EXIT_INSTRUCTION_LEN = ev->insn_len;
}

/* SDM "VM-Exit MSR Areas": 16 bytes an entry, index in the first four. */
static void msr_areas(struct vmx_cpu *cpu, struct vmcs *v)
{
	struct msr_slot {
		uint32_t index, reserved;
		uint64_t value;
	} *store = __va(v->VM_EXIT_MSR_STORE_ADDR), *load = __va(v->VM_EXIT_MSR_LOAD_ADDR);

	/* a failure here would be a VMX abort; these MSRs are the hypervisor's choice */
	for (uint32_t n = 0; n < v->VM_EXIT_MSR_STORE_COUNT; n++)
		if (cpu_msr_area_read(cpu, store[n].index, &store[n].value))
			v->abort_indicator = 1;
	for (uint32_t n = 0; n < v->VM_EXIT_MSR_LOAD_COUNT; n++)
		if (vmx_wrmsr(cpu, load[n].index, load[n].value))
			v->abort_indicator = 4;
}

static void save_apic(struct vmx_cpu *cpu, struct vmcs *v)
{
	struct cpu_apic *a = &cpu->apic;

	isa_close_window(&cpu->cs);
	a->write.pending = false;
	if (a->vid)
		v->GUEST_INTR_STATUS = (uint64_t)a->svi << 8 | a->rvi;
}

void cpu_save_exit(struct vmx_cpu *cpu, const struct cpu_exit *e)
{
	struct vmcs *v = cpu->vmcs;
	uint64_t changed;

	isa_fpu_sync(&cpu->cs);
	if (unlikely(cpu->tlb->ghost))
		ghost_left(cpu, e->reason == EXIT_REASON_HLT);
	if (unlikely(cpu->tlb->l1vpid))
		l1vpid_left(cpu, e->reason == EXIT_REASON_HLT);
	cpu->counters.exits++;
	if (e->reason == EXIT_REASON_TRIPLE_FAULT)
		cpu_ring_dump(cpu, "triple fault");
	v->VM_EXIT_REASON = e->reason;
	if (cpu->bus_lock_detected)
		v->VM_EXIT_REASON |= VMX_EXIT_REASONS_BUS_LOCK;
	cpu->bus_lock_detected = false;
	v->EXIT_QUALIFICATION = e->qualification;
	v->GUEST_PHYSICAL_ADDRESS = e->gpa;
	v->GUEST_LINEAR_ADDRESS = e->gla;
	v->VMX_INSTRUCTION_INFO = e->insn_info;
	v->VM_EXIT_INTR_INFO = e->intr_info;
	v->VM_EXIT_INTR_ERROR_CODE = e->intr_error;
	save_vectoring(cpu, v, e);
	v->VM_ENTRY_INTR_INFO_FIELD &= ~INTR_INFO_VALID_MASK;

	changed = save_segments(cpu, v);
	changed |= save_controls(cpu, v);
	changed |= save_non_register(cpu, v, e);
	if (changed)
		v->stale |= VMCS_CHECK_GUEST;
	save_apic(cpu, v);
	msr_areas(cpu, v);
	cpu->event.active = false;
	cpu->inject = false;
	cpu->shadow = 0;
	cpu->resume_flag = 0;
	__atomic_store_n(&cpu->in_guest, false, __ATOMIC_RELEASE);
	if (!(cpu->secondary & SECONDARY_EXEC_ENABLE_VPID))
		cpu_tlb_entry_flush(cpu);
}

void cpu_failed_entry(struct vmx_cpu *cpu, uint32_t reason, uint64_t qualification)
{
	cpu->counters.exits++;
	cpu->vmcs->VM_EXIT_REASON = reason | VMX_EXIT_REASONS_FAILED_VMENTRY;
	cpu->vmcs->EXIT_QUALIFICATION = qualification;
}

void cpu_vmexit(struct vmx_cpu *cpu, const struct cpu_exit *e)
{
	cpu_save_exit(cpu, e);
	cpu->unwind_reason = CPU_UNWIND_EXIT;
	__builtin_longjmp(cpu->cs.unwind, 1);
}

static struct cpu_exit exit_of_insn(const struct vmx_cpu *cpu, uint32_t reason, uint64_t qualification)
{
	return (struct cpu_exit){
		.reason = reason,
		.qualification = qualification,
		.insn_len = cpu->cs.cur->len,
		.rip = isa_rip(&cpu->cs),
	};
}

void cpu_vmexit_insn(struct vmx_cpu *cpu, uint32_t reason, uint64_t qualification)
{
	struct cpu_exit e = exit_of_insn(cpu, reason, qualification);

	cpu_vmexit(cpu, &e);
}

void cpu_leave_insn(struct vmx_cpu *cpu, uint32_t reason, uint64_t qualification)
{
	struct cpu_exit e = exit_of_insn(cpu, reason, qualification);

	cpu_bug_on(cpu, !(cpu->cs.cur->flags & ISA_ENDS_BLOCK));
	cpu_save_exit(cpu, &e);
	cpu->left = true;
}
