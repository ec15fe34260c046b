/*
 * Inside the processor. Who owns what:
 *   vmcs.c caps.c entry.c exit.c  VMCS, capability MSRs, VM entry checks, VM exits
 *   walk.c tlb.c                  two-dimensional walk, software TLB
 *   blocks.c interp.c             decoded blocks, the interpreter loop
 *   segment.c far.c event.c task.c sysinsn_*.c   segments, far transfers, event
 *                                 delivery through the IDT, system instructions
 *
 * All of it runs on the vCPU's thread, mostly with the guest's SIMD state in
 * the registers (isa/fpu.h): general registers only, no libc mem*.
 */
#ifndef USERKVM_CPU_INTERNAL_H
#define USERKVM_CPU_INTERNAL_H

#include "cpu/vmx_isa.h"
#include "isa/fpu.h"
#include "isa/isa.h"

/* MSRs the guest shares with the hypervisor (not switched by VMX). */
struct cpu_msrs {
	uint64_t star, lstar, cstar, fmask, kernel_gs_base, tsc_aux, xss;
};

/* An event being delivered: what IDT-vectoring information reports on an exit. */
struct cpu_event {
	bool active;
	bool has_error_code;
	uint8_t vector;
	uint8_t type;	     /* enum intr_type */
	uint32_t error_code;
	uint32_t insn_len;   /* software events */
};

struct vmx_cpu {
	struct cpu_state cs; /* first: cs->owner == this */
	struct vmx_machine *machine;
	struct cpu_msrs msr;
	struct vmx_counters counters;

	/* VMCS of the running guest, cached at entry (valid in non-root operation) */
	struct vmcs *vmcs;   /* current, NULL without one (vmcs.c) */
	uint32_t pin, primary, secondary, entry_controls, exit_controls;
	uint32_t exception_bitmap, pf_mask, pf_match;
	uint64_t cr0_mask, cr0_shadow, cr4_mask, cr4_shadow;
	uint64_t tsc_offset, tsc_multiplier;
	const uint8_t *io_bitmap_a, *io_bitmap_b, *msr_bitmap; /* NULL: not in use */
	uint64_t eptp;
	uint16_t vpid;
	/* guest state with no place in cpu_state */
	uint64_t pat, debugctl, sysenter_cs, sysenter_esp, sysenter_eip, pdptr[4];
	uint64_t pending_dbg;
	uint32_t interruptibility; /* GUEST_INTR_STATE_* */
	uint32_t activity;	   /* enum guest_activity */
	uint64_t preemption_deadline; /* host TSC; ~0 none */

	struct cpu_event event; /* in delivery */
	uint32_t kick;		/* (a) vmx_kick() */
	void *unwind_buf[5];	/* of the interpreter loop */
	struct cpu_tlb *tlb;	   /* tlb.c */
	struct cpu_blocks *blocks; /* blocks.c */
	hpa_t bus_error;
};

static inline struct vmx_cpu *cpu_of(struct cpu_state *cs)
{
	return (struct vmx_cpu *)cs;
}

/* --- exit.c --- */
/*
 * Leave non-root operation: saves guest state as of the start of cs->cur
 * (or after it where trap-like, see `rip`), fills the exit fields, unwinds to
 * vmlaunch/vmresume. Clears nothing of the event in delivery: it becomes the
 * IDT-vectoring information.
 */
struct cpu_exit {
	uint32_t reason;	/* enum exit_reason */
	uint64_t qualification;
	uint32_t insn_len;	/* 0 where undefined */
	uint32_t insn_info;	/* VMX_INSTRUCTION_INFO */
	uint32_t intr_info;	/* VM_EXIT_INTR_INFO, valid bit included */
	uint32_t intr_error;
	uint64_t gpa, gla;
	uint64_t rip;		/* guest RIP to save */
};
void cpu_vmexit(struct vmx_cpu *cpu, const struct cpu_exit *e) __attribute__((noreturn));
/* The common case: an instruction that exits before it does anything. */
void cpu_vmexit_insn(struct vmx_cpu *cpu, uint32_t reason, uint64_t qualification)
	__attribute__((noreturn));
/* Unwind to the interpreter loop, state canonical (cs->rip is where to go on). */
void cpu_unwind(struct vmx_cpu *cpu) __attribute__((noreturn));

/* --- walk.c, tlb.c --- */
/* Mode, CPL, AC, paging controls changed: choose cs->tlb again, recompute code_mode and stack_mode. */
void cpu_mode_changed(struct vmx_cpu *cpu);
/* TLB invalidations of the instructions: see tlb.c. */
void cpu_tlb_flush_all(struct vmx_cpu *cpu);			/* CR0.PG, CR4.PAE/PGE/PSE/… changes */
void cpu_tlb_flush_cr3(struct vmx_cpu *cpu, uint64_t new_cr3);	/* MOV CR3, bit 63 included */
void cpu_tlb_invlpg(struct vmx_cpu *cpu, gva_t gva);
void cpu_tlb_invpcid(struct vmx_cpu *cpu, unsigned type, uint16_t pcid, gva_t gva);
/* PAE PDPTEs from CR3 (through EPT), checked: false leaves everything unchanged (#GP). */
bool cpu_load_pdptrs(struct vmx_cpu *cpu, uint64_t cr3);
/* Implicit supervisor accesses (descriptor tables, TSS), by linear address. */
uint64_t cpu_sys_load(struct vmx_cpu *cpu, gva_t lin, unsigned size);
void cpu_sys_store(struct vmx_cpu *cpu, gva_t lin, unsigned size, uint64_t v);

/* --- event.c: delivery --- */
/*
 * Deliver an event through the IDT of the current mode (real, protected, long;
 * privilege change, IST, task gate). For faults cs->rip is the return address.
 * Contributory and page faults during delivery become #DF, then a triple-fault
 * exit. Intercepts (exception bitmap) have been looked at by the caller.
 * Returns with the handler's first instruction as cs->rip.
 */
void cpu_deliver_event(struct vmx_cpu *cpu, const struct cpu_event *ev);
/*
 * ops->raise lands here, in the interpreter loop after unwinding: exception
 * bitmap (VM exit), merging with cpu->event into #DF/shutdown, delivery.
 */
void cpu_exception(struct vmx_cpu *cpu, const struct isa_exception *ex);
/* Debug traps due after an instruction (TF, data breakpoints, pending_dbg). */
void cpu_debug_trap(struct vmx_cpu *cpu, uint64_t dr6_bits);

/* --- segment.c, far.c, task.c --- */
/* Real-mode style load: base = selector << 4, limit and rights kept. */
void cpu_load_seg_real(struct vmx_cpu *cpu, enum sreg nr, uint16_t selector);
/* MOV/POP/Lxx to a data segment or SS with all protected-mode checks. */
void cpu_load_seg(struct vmx_cpu *cpu, enum sreg nr, uint16_t selector);
/* --- sysinsn*.c --- */
/* isa_ops.system of the processor. */
isa_fn *cpu_system_handler(const struct isa_decoded *d, struct isa_insn *i);

#endif
