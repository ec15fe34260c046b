/*
 * VM entry: VMLAUNCH and VMRESUME (SDM Vol. 3, "VM Entries").
 *
 *   launch state -> controls (7) -> host state (8) -> guest state (33)
 *     -> load -> MSR area (34) -> injection -> the interpreter
 *
 * Invariants
 * 1. Nothing of the processor changes before all checks have passed.
 * 2. Event injection happens inside the interpreter (cpu->inject), because
 *    delivery may fault and exit.
 * 3. A group of checks is left out where it has passed and no field that it
 *    looks at has got another value since (vmcs->stale); likewise the loading of
 *    segments that the processor still holds.
 * 4. So is the loading of controls and control registers, and of what follows from them
 *    (mode, TLB context): the processor holds them since the last exit, which saved what the
 *    guest had changed, and no field of theirs has got another value (VMCS_LOAD_REST). Where an
 *    exit does not save what entry loads, and after root operation has changed something that
 *    counts (cpu->load_rest), all is loaded. USERKVM_CHECK=entry loads it always and
 *    compares.
 */
#include "cpu/ghost.h"
#include "cpu/internal.h"
#include "cpu/tlb_check.h"
#include "cpu/tlb_context.h"
#include "host/fault.h"
#include "host/memory.h"

#include <x86intrin.h>

static void load_segments(struct vmx_cpu *cpu, struct vmcs *v)
{
	struct cpu_state *cs = &cpu->cs;

	if (!(v->stale & VMCS_LOAD_GUEST))
		return; /* as the last exit saved them */
	v->stale &= ~(uint32_t)VMCS_LOAD_GUEST;
#define LOAD(S, seg_)                                        \
	(seg_).selector = (uint16_t)v->GUEST_##S##_SELECTOR; \
	(seg_).base = v->GUEST_##S##_BASE;                   \
	(seg_).limit = (uint32_t)v->GUEST_##S##_LIMIT;       \
	(seg_).ar = (uint32_t)v->GUEST_##S##_AR_BYTES
	LOAD(ES, cs->seg[SREG_ES]);
	LOAD(CS, cs->seg[SREG_CS]);
	LOAD(SS, cs->seg[SREG_SS]);
	LOAD(DS, cs->seg[SREG_DS]);
	LOAD(FS, cs->seg[SREG_FS]);
	LOAD(GS, cs->seg[SREG_GS]);
	LOAD(LDTR, cs->ldtr);
	LOAD(TR, cs->tr);
#undef LOAD
	cs->gdtr.base = v->GUEST_GDTR_BASE;
	cs->gdtr.limit = (uint32_t)v->GUEST_GDTR_LIMIT;
	cs->idtr.base = v->GUEST_IDTR_BASE;
	cs->idtr.limit = (uint32_t)v->GUEST_IDTR_LIMIT;
	cpu_keep_segments(cpu);
}

/* The execution controls, cached for as long as the guest runs. */
static void load_execution_controls(struct vmx_cpu *cpu, const struct vmcs *v)
{
	cpu->pin = (uint32_t)v->PIN_BASED_VM_EXEC_CONTROL;
	cpu->primary = (uint32_t)v->CPU_BASED_VM_EXEC_CONTROL;
	cpu->secondary = cpu->primary & CPU_BASED_ACTIVATE_SECONDARY_CONTROLS
				 ? (uint32_t)v->SECONDARY_VM_EXEC_CONTROL : 0;
	cpu->cs.no_xsaves = !(cpu->secondary & SECONDARY_EXEC_ENABLE_XSAVES);
	cpu->entry_controls = (uint32_t)v->VM_ENTRY_CONTROLS;
	cpu->exit_controls = (uint32_t)v->VM_EXIT_CONTROLS;
	cpu->exception_bitmap = (uint32_t)v->EXCEPTION_BITMAP;
	cpu->pf_mask = (uint32_t)v->PAGE_FAULT_ERROR_CODE_MASK;
	cpu->pf_match = (uint32_t)v->PAGE_FAULT_ERROR_CODE_MATCH;
	cpu->cr0_mask = v->CR0_GUEST_HOST_MASK;
	cpu->cr0_shadow = v->CR0_READ_SHADOW;
	cpu->cr4_mask = v->CR4_GUEST_HOST_MASK;
	cpu->cr4_shadow = v->CR4_READ_SHADOW;
	cpu->tsc_offset = cpu->primary & CPU_BASED_USE_TSC_OFFSETTING ? v->TSC_OFFSET : 0;
	cpu->tsc_multiplier = cpu->secondary & SECONDARY_EXEC_TSC_SCALING
				      ? v->TSC_MULTIPLIER : BIT_ULL(48);
	cpu->io_bitmap_a = cpu->io_bitmap_b = cpu->msr_bitmap = NULL;
	if (cpu->primary & CPU_BASED_USE_IO_BITMAPS) {
		cpu->io_bitmap_a = __va(v->IO_BITMAP_A);
		cpu->io_bitmap_b = __va(v->IO_BITMAP_B);
	}
	if (cpu->primary & CPU_BASED_USE_MSR_BITMAPS)
		cpu->msr_bitmap = __va(v->MSR_BITMAP);
	cpu_tlb_new_eptp(cpu, cpu->secondary & SECONDARY_EXEC_ENABLE_EPT ? v->EPT_POINTER : 0);
	cpu->vpid = cpu->secondary & SECONDARY_EXEC_ENABLE_VPID
			    ? (uint16_t)v->VIRTUAL_PROCESSOR_ID : 0;
}

static void start_preemption_timer(struct vmx_cpu *cpu, const struct vmcs *v)
{
	cpu->preemption_deadline = ~0ULL;
	if (cpu->pin & PIN_BASED_VMX_PREEMPTION_TIMER)
		cpu->preemption_deadline =
			__rdtsc() + (v->VMX_PREEMPTION_TIMER_VALUE << CPU_PREEMPTION_TIMER_RATE);
}

static void load_control_registers(struct vmx_cpu *cpu, const struct vmcs *v)
{
	struct cpu_state *cs = &cpu->cs;

	cs->cr0 = v->GUEST_CR0 | X86_CR0_ET;
	cs->cr3 = v->GUEST_CR3;
	cs->cr4 = v->GUEST_CR4;
	if (cpu->entry_controls & VM_ENTRY_LOAD_DEBUG_CONTROLS) {
		cs->dr7 = (v->GUEST_DR7 & ~0xd000ULL) | DR7_FIXED_1;
		cpu->debugctl = v->GUEST_IA32_DEBUGCTL;
	}
	cpu->sysenter_cs = v->GUEST_SYSENTER_CS;
	cpu->sysenter_esp = v->GUEST_SYSENTER_ESP;
	cpu->sysenter_eip = v->GUEST_SYSENTER_EIP;
	if (cpu->entry_controls & VM_ENTRY_LOAD_IA32_PAT)
		cpu->pat = v->GUEST_IA32_PAT;
	if (cpu->entry_controls & VM_ENTRY_LOAD_IA32_EFER) {
		cs->efer = v->GUEST_IA32_EFER;
	} else {
		cs->efer &= ~(EFER_LMA | (cs->cr0 & X86_CR0_PG ? EFER_LME : 0));
		if (cpu->entry_controls & VM_ENTRY_IA32E_MODE)
			cs->efer |= EFER_LMA | EFER_LME;
	}
}

static void load_pdptrs(struct vmx_cpu *cpu, const struct vmcs *v)
{
	const struct cpu_state *cs = &cpu->cs;

	if (!(cs->cr0 & X86_CR0_PG) || !(cs->cr4 & X86_CR4_PAE) || (cs->efer & EFER_LMA))
		return;
	if (cpu->secondary & SECONDARY_EXEC_ENABLE_EPT) {
		cpu->pdptr[0] = v->GUEST_PDPTR0;
		cpu->pdptr[1] = v->GUEST_PDPTR1;
		cpu->pdptr[2] = v->GUEST_PDPTR2;
		cpu->pdptr[3] = v->GUEST_PDPTR3;
	} else {
		const uint64_t *table = __va(cs->cr3 & 0xffffffe0);

		for (int n = 0; n < 4; n++)
			cpu->pdptr[n] = table[n];
	}
}

/* VM_ENTRY_INTR_INFO_FIELD -> cpu->event, to be delivered by the interpreter. */
static void load_injection(struct vmx_cpu *cpu, const struct vmcs *v)
{
	uint64_t info = v->VM_ENTRY_INTR_INFO_FIELD;
	uint8_t type = (uint8_t)FIELD_GET(INTR_INFO_INTR_TYPE_MASK, info);
	bool soft = type == INTR_TYPE_SOFT_INTR || type == INTR_TYPE_SOFT_EXCEPTION ||
		    type == INTR_TYPE_PRIV_SW_EXCEPTION;

	cpu->inject = false;
	cpu->event.active = false;
	if (!(info & INTR_INFO_VALID_MASK))
		return;
	cpu->event = (struct cpu_event){
		.active = true,
		.has_error_code = info & INTR_INFO_DELIVER_CODE_MASK,
		.vector = (uint8_t)info,
		.type = type,
		.error_code = (uint32_t)v->VM_ENTRY_EXCEPTION_ERROR_CODE,
		.insn_len = soft ? (uint32_t)v->VM_ENTRY_INSTRUCTION_LEN : 0,
	};
	cpu->inject = true;
	/* SDM "Monitor Trap Flag": due before the first instruction after the event */
	cpu->mtf_pending = cpu->primary & CPU_BASED_MONITOR_TRAP_FLAG;
	/* a device may have written memory and announce it now, to one processor for all */
	if (type == INTR_TYPE_EXT_INTR)
		vmx_sync_machine_code(cpu->machine);
}

/* Does an exit leave in the VMCS whatever of load_rest() the guest may change? PDPTEs are in memory without EPT. */
static bool exit_saves_all(const struct vmx_cpu *cpu)
{
	uint32_t entry = cpu->entry_controls, exit = cpu->exit_controls;

	return (!(entry & VM_ENTRY_LOAD_DEBUG_CONTROLS) || (exit & VM_EXIT_SAVE_DEBUG_CONTROLS)) &&
	       (!(entry & VM_ENTRY_LOAD_IA32_PAT) || (exit & VM_EXIT_SAVE_IA32_PAT)) &&
	       (!(entry & VM_ENTRY_LOAD_IA32_EFER) || (exit & VM_EXIT_SAVE_IA32_EFER)) &&
	       (cpu->secondary & SECONDARY_EXEC_ENABLE_EPT) && cpu->vpid;
}

static void load_rest(struct vmx_cpu *cpu, struct vmcs *v)
{
	struct cpu_state *cs = &cpu->cs;

	load_execution_controls(cpu, v);
	cpu_apic_load_controls(cpu, v);
	load_control_registers(cpu, v);
	cs->cpl = (uint8_t)FIELD_GET(VMX_AR_DPL_MASK, cs->seg[SREG_SS].ar);
	load_pdptrs(cpu, v);
	cpu_bus_lock_control(cpu);
	v->stale &= ~(uint32_t)VMCS_LOAD_REST;
	cpu->load_rest = !exit_saves_all(cpu);
}

/* What load_rest() and cpu_mode_changed() may have changed. */
struct loaded {
	uint64_t words[40];
};

static struct loaded what_is_loaded(const struct vmx_cpu *cpu)
{
	const struct cpu_state *cs = &cpu->cs;

	return (struct loaded){ {
		cpu->pin, cpu->primary, cpu->secondary, cpu->entry_controls, cpu->exit_controls, cpu->exception_bitmap,
		cpu->pf_mask, cpu->pf_match, cpu->cr0_mask, cpu->cr0_shadow, cpu->cr4_mask, cpu->cr4_shadow, cpu->tsc_offset,
		cpu->tsc_multiplier, (uintptr_t)cpu->io_bitmap_a, (uintptr_t)cpu->io_bitmap_b, (uintptr_t)cpu->msr_bitmap,
		cpu->eptp, cpu->vpid, cs->cr0, cs->cr3, cs->cr4, cs->efer, cs->dr7, cpu->debugctl, cpu->pat, cpu->sysenter_cs,
		cpu->sysenter_esp, cpu->sysenter_eip, cs->cpl, cs->code_mode, cs->stack_mode, (uintptr_t)cs->tlb,
		(uintptr_t)cpu->fetch_tlb, cpu->code_base, cpu->code_mask, cpu->fetch_end, (uintptr_t)cpu->tlb->cur,
		(uintptr_t)cs->vapic,
	} };
}

/* USERKVM_CHECK=entry. The processor is not entered any more where it finds a difference. */
static __attribute__((noinline)) void check_loaded(struct vmx_cpu *cpu, struct vmcs *v)
{
	struct loaded before = what_is_loaded(cpu), after;

	load_rest(cpu, v);
	cpu_mode_changed(cpu);
	after = what_is_loaded(cpu);
	for (size_t n = 0; n < ARRAY_SIZE(after.words); n++)
		if (before.words[n] != after.words[n])
			cpu_left_out(cpu, "VM entry leaves out what is not loaded", (int)n);
}

void cpu_load_guest(struct vmx_cpu *cpu)
{
	struct vmcs *v = cpu->vmcs;
	struct cpu_state *cs = &cpu->cs;
	bool whole = (v->stale & VMCS_LOAD_REST) || cpu->load_rest || unlikely(cpu->tlb->check || cpu->tlb->path || cpu->tlb->l1vpid);

	cpu->exit_access.valid = false;
	load_segments(cpu, v);
	if (whole)
		load_rest(cpu, v);
	start_preemption_timer(cpu, v);
	cpu_apic_load(cpu, v);
	cs->gpr[RSP] = v->GUEST_RSP;
	cs->rip = v->GUEST_RIP;
	cpu_set_rflags(cs, v->GUEST_RFLAGS);
	cpu->interruptibility = (uint32_t)v->GUEST_INTERRUPTIBILITY_INFO;
	cpu->activity = (uint32_t)v->GUEST_ACTIVITY_STATE;
	cpu->pending_dbg = v->GUEST_PENDING_DBG_EXCEPTIONS;
	cpu->mtf_pending = false;
	cpu->shadow = 0;
	cpu->resume_flag = 0;
	load_injection(cpu, v);
	cpu->iret_unblocked = false;
	cpu_debug_update(cpu);
	if (!cpu->vpid)
		cpu_tlb_entry_flush(cpu);
	if (unlikely(cpu->tlb->ghost))
		ghost_entered(cpu);
	tlb_drop_stack_slot(cs);
	if (whole)
		cpu_mode_changed(cpu);
	else if (unlikely(cpu->check_entry))
		check_loaded(cpu, v);
	if (unlikely(cpu->tlb->check))
		tlb_check_entered(cpu);
	cpu_at_boundary(cpu);
}

/* Index of the first MSR (from 1) that cannot be loaded; 0: all were. */
static uint32_t load_msr_area(struct vmx_cpu *cpu)
{
	const struct vmcs *v = cpu->vmcs;
	const struct {
		uint32_t index, reserved;
		uint64_t value;
	} *area = __va(v->VM_ENTRY_MSR_LOAD_ADDR);

	for (uint32_t n = 0; n < v->VM_ENTRY_MSR_LOAD_COUNT; n++)
		if (area[n].reserved || vmx_wrmsr(cpu, area[n].index, area[n].value))
			return n + 1;
	return 0;
}

/*
 * First chance at the thread's SEGV, BUS, FPE and ILL while the guest runs.
 * The context is changed rather than left by a jump: the guest's SIMD state is
 * in the frame and comes back with it.
 */
static void bus_error_landing(struct vmx_cpu *cpu)
{
	cpu->unwind_reason = CPU_UNWIND_BUS_ERROR;
	__builtin_longjmp(cpu->cs.unwind, 1);
}

#define LOWEST_CLIENT_ADDRESS 0x10000
#define RED_ZONE 128

static bool guest_fault(void *owner, int signo, siginfo_t *si, void *ucontext)
{
	struct vmx_cpu *cpu = owner;
	greg_t *regs = ((ucontext_t *)ucontext)->uc_mcontext.gregs;
	bool memory = (signo == SIGSEGV || signo == SIGBUS) && si->si_code > 0 &&
		      si->si_code != SI_KERNEL &&
		      (uintptr_t)si->si_addr >= LOWEST_CLIENT_ADDRESS;
	bool emitted;

	if (memory && cpu_jit_refill_fault(cpu, ucontext))
		return true;
	emitted = cpu->jit && cpu_jit_fault(cpu, ucontext);
	if (!emitted && (!memory || (uintptr_t)si->si_addr == (uintptr_t)regs[REG_RIP]))
		return isa_silicon_fault(&cpu->cs, signo, ucontext);
	if (memory)
		cpu->bus_error = (hpa_t)(uintptr_t)si->si_addr;
	regs[REG_RDI] = (greg_t)(uintptr_t)cpu;
	regs[REG_RSP] = ((regs[REG_RSP] - RED_ZONE) & ~15LL) - 8;
	regs[REG_RIP] = memory ? (greg_t)(uintptr_t)bus_error_landing :
				 (greg_t)(uintptr_t)cpu_jit_interpret_next;
	regs[REG_EFL] &= ~(greg_t)X86_FLAGS_DF; /* of a string instruction of the host's */
	return true;
}

static enum vmx_result enter(struct vmx_cpu *cpu)
{
	struct cpu_exit e = { .reason = EXIT_REASON_EXTERNAL_INTERRUPT };
	bool exited = false;

	__atomic_store_n(&cpu->in_guest, true, __ATOMIC_SEQ_CST); /* before the first look at requests */
	cpu->epoch = READ_ONCE(cpu->machine->epoch);
	host_fault_set_hook(guest_fault, cpu);
	if (likely(!cpu->broken))
		exited = cpu_interp(cpu);
	host_fault_set_hook(NULL, NULL);
	if (exited)
		return VMX_SUCCEED;
	e.rip = isa_rip(&cpu->cs);
	cpu_save_exit(cpu, &e);
	return VMX_BUS_ERROR;
}

/* Those of the checks whose outcome is not known from an entry before: invariant 3. False: *f has why. */
static bool check_controls(struct vmcs *v, struct vmentry_failures *f)
{
	if (v->stale & VMCS_CHECK_CONTROLS)
		cpu_check_controls(v, f);
	if (likely(!f->nr))
		cpu_check_tpr_threshold(v, f);
	cpu_check_injection(v, f);
	if (unlikely(f->nr))
		return false;
	v->stale &= ~(uint32_t)VMCS_CHECK_CONTROLS;
	return true;
}

static bool check_host_state(struct vmcs *v, struct vmentry_failures *f)
{
	if (v->stale & VMCS_CHECK_HOST)
		cpu_check_host_state(v, f);
	if (unlikely(f->nr))
		return false;
	v->stale &= ~(uint32_t)VMCS_CHECK_HOST;
	return true;
}

static bool check_guest_state(struct vmcs *v, struct vmentry_failures *f)
{
	if (v->stale & VMCS_CHECK_GUEST)
		cpu_check_guest_registers(v, f);
	if (likely(!f->nr))
		v->stale &= ~(uint32_t)VMCS_CHECK_GUEST;
	cpu_check_guest_state(v, f);
	return likely(!f->nr);
}

void vmx_entry_checks(const struct vmx_cpu *cpu, struct vmentry_failures *f)
{
	struct vmcs v;

	f->nr = 0;
	if (!cpu->vmcs)
		return;
	/* a copy: what is stale has to stay so */
	v = *cpu->vmcs;
	v.stale = VMCS_STALE_ALL;
	(void)check_controls(&v, f);
	cpu_check_host_state(&v, f);
	(void)check_guest_state(&v, f);
}

/* Exit qualification of reason 33 (SDM "VM-Entry Failures During or After Loading Guest State"). */
static uint64_t failure_qualification(const struct vmentry_failures *f)
{
	switch (f->at[0].check) {
	case VMENTRY_CHECK_GUEST_PDPTES: return 2;
	case VMENTRY_CHECK_GUEST_LINK_NONE:
	case VMENTRY_CHECK_GUEST_LINK_ALIGNED:
	case VMENTRY_CHECK_GUEST_LINK_REVISION: return 4;
	default: return 0;
	}
}

static enum vmx_result vm_entry(struct vmx_cpu *cpu, bool launch)
{
	struct vmentry_failures f;
	struct vmcs *v = cpu->vmcs;
	uint32_t bad_msr;

	f.nr = 0;
	if (!v || v->revision_id & VMCS_REVISION_SHADOW)
		return VMX_FAIL_INVALID;
	if (launch && v->launched)
		return vmx_fail(cpu, VMXERR_VMLAUNCH_NONCLEAR_VMCS);
	if (!launch && !v->launched)
		return vmx_fail(cpu, VMXERR_VMRESUME_NONLAUNCHED_VMCS);
	if (unlikely(!check_controls(v, &f)))
		return vmx_fail(cpu, VMXERR_ENTRY_INVALID_CONTROL_FIELD);
	if (unlikely(!check_host_state(v, &f)))
		return vmx_fail(cpu, VMXERR_ENTRY_INVALID_HOST_STATE_FIELD);
	if (unlikely(!check_guest_state(v, &f))) {
		cpu_ring_dump(cpu, vmentry_rows[f.at[0].check].name);
		cpu_failed_entry(cpu, EXIT_REASON_INVALID_STATE, failure_qualification(&f));
		return VMX_SUCCEED;
	}
	cpu_load_guest(cpu);
	bad_msr = load_msr_area(cpu);
	if (bad_msr) {
		cpu_failed_entry(cpu, EXIT_REASON_MSR_LOAD_FAIL, bad_msr);
		return VMX_SUCCEED;
	}
	v->launched = 1;
	return enter(cpu);
}

enum vmx_result vmlaunch(struct vmx_cpu *cpu)
{
	return vm_entry(cpu, true);
}

enum vmx_result vmresume(struct vmx_cpu *cpu)
{
	return vm_entry(cpu, false);
}
