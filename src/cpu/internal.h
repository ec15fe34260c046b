/*
 * Inside the processor. Who owns what:
 *   vmcs.c caps.c entry.c exit.c  VMCS, capability MSRs, VM entry checks, VM exits
 *   walk.c tlb.c mem.c            two-dimensional walk, software TLB, isa_ops
 *   blocks.c interp.c             decoded blocks, the interpreter loop
 *   vmx_isa.c trace_ring.c        the seam's remaining functions, debug aid
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

/* A VM exit, as its cause describes it (exit.c). */
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

	/* --- the engine's own (interp.c, mem.c) --- */
	uint32_t unwind_reason;	   /* enum cpu_unwind_reason */
	uint32_t shadow;	   /* STI/MOV_SS blocking of the running instruction */
	uint64_t resume_flag;	   /* RFLAGS.RF as the running instruction found it */
	uint32_t asleep;	   /* (a) in the futex of an inactive state */
	bool in_guest;		   /* between entry and exit */
	bool inject;		   /* cpu->event waits for delivery after entry */
	bool mtf_pending;	   /* injected, or due after this instruction */
	bool smap_table;	   /* supervisor accesses are checked against SMAP */
	struct isa_tlb_entry *fetch_tlb; /* cs->tlb, even while that is the empty one */
	uint64_t code_base, code_mask, fetch_end; /* linear = (rip + base) & mask; limit + 1 */
	uint64_t epoch;		   /* blocks of another epoch are verified before use */
	struct cpu_commit {	   /* writes through a bounce buffer, until mem_commit() */
		uint64_t lin;
		uint8_t *part[2];
		uint32_t size, first;
	} commit[4];
	uint32_t next_commit;
	struct cpu_ring *ring;	   /* USERKVM_TRACE_INSN, or NULL */
	struct vmx_cpu *next;	   /* [machine->lock] */
	/* requests by other threads [machine->lock], announced in cs.exit_request */
	struct { hpa_t start, end; } stale[16];
	uint32_t nr_stale;	   /* > 16: everything */
	struct cpu_exit last_exit;
};

/* The VMX-preemption timer counts the TSC shifted right by this. */
#define CPU_PREEMPTION_TIMER_RATE 5

/* What acknowledging a kick as an external interrupt reports as its vector. */
#define CPU_KICK_VECTOR 0xf2

/* Bits of cs->exit_request. */
#define CPU_REQ_KICK 0x4u   /* vmx_kick() */
#define CPU_REQ_STALE 0x2u  /* cpu->stale[] to be worked off */
#define CPU_REQ_CHECK 0x1u  /* own: look at windows, traps, activity */
#define CPU_REQ_WTAGS 0x8u  /* a page became code elsewhere: drop write tags */

enum cpu_unwind_reason {
	CPU_UNWIND_CONTINUE = 1, /* cpu_unwind(): go on at cs->rip */
	CPU_UNWIND_EXCEPTION,	 /* cs->exception is to be delivered */
	CPU_UNWIND_EXIT,	 /* cpu_vmexit() has filled the VMCS */
	CPU_UNWIND_BUS_ERROR,	 /* client memory faulted at cpu->bus_error */
};

/* What the logical processors of a machine share: who is there, what is code. */
#define MACHINE_CODE_BUCKETS 4096
struct machine_code_page {
	struct machine_code_page *next;
	hpa_t page;
};
struct vmx_machine {
	void *lock_storage;	/* pthread_mutex_t */
	struct vmx_cpu *cpus;	/* [lock] */
	uint32_t nr_cpus;
	struct machine_code_page *code[MACHINE_CODE_BUCKETS]; /* [lock] */
};
void machine_lock(struct vmx_machine *m);
void machine_unlock(struct vmx_machine *m);

/* A VMCS region: private layout, a 64-bit cell for each field (vmcs.c). */
struct vmcs {
	uint32_t revision_id;
	uint32_t abort_indicator;
	uint32_t launched;
	uint32_t reserved;
#define VMCS_CELL(name, enc) uint64_t name;
	VMCS_FIELDS(VMCS_CELL)
#undef VMCS_CELL
};
static_assert(sizeof(struct vmcs) <= 4096, "a VMCS region is one page");

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

/* --- vmcs.c, caps.c --- */
enum vmx_result vmx_fail(struct vmx_cpu *cpu, enum vm_instruction_error e);
/* Are the bits of a control field allowed by its (TRUE) capability MSR? */
bool cpu_control_allowed(uint32_t msr, uint32_t v);

/* --- entry_checks.c --- */
/* NULL when the check passes, otherwise why not (for the log). */
const char *cpu_check_controls(const struct vmcs *v);
const char *cpu_check_host_state(const struct vmcs *v);
/* *qualification: exit qualification of the failed entry. */
const char *cpu_check_guest_state(const struct vmcs *v, uint64_t *qualification);
/* --- vmx_isa.c: an MSR for the VM-exit MSR-store area; 0 or -EINVAL. --- */
int cpu_msr_area_read(struct vmx_cpu *cpu, uint32_t msr, uint64_t *value);
/* --- entry.c, exit.c --- */
void cpu_load_guest(struct vmx_cpu *cpu);
/* Save guest state and exit fields without unwinding (failed entries, bus errors). */
void cpu_save_exit(struct vmx_cpu *cpu, const struct cpu_exit *e);
/* Reason 33 or 34: exit fields only, guest state of the VMCS unchanged. */
void cpu_failed_entry(struct vmx_cpu *cpu, uint32_t reason, uint64_t qualification);

/* --- walk.c --- */
enum cpu_access { CPU_READ = 1, CPU_WRITE = 2, CPU_EXEC = 4 }; /* EPT bit order */
/* Which rights apply: the sub-tables of a TLB context. */
enum cpu_priv { PRIV_SUPER_SMAP, PRIV_SUPER, PRIV_USER, NR_PRIVS };
struct cpu_ept_result {
	hpa_t host;	/* of the 4 KiB page */
	uint32_t rights; /* enum cpu_access; CPU_WRITE only if no D bit has to be set first */
	uint64_t *leaf;	/* NULL without EPT */
};
struct cpu_walk_result {
	hpa_t host;	/* of the 4 KiB page */
	gpa_t gpa;	/* of the 4 KiB page */
	uint64_t *ept_leaf;
	uint32_t rights; /* for `priv`; CPU_WRITE only if every D bit is set */
	uint8_t page_shift; /* of the guest's mapping */
	bool global;
};
#define CPU_NO_GLA (~0ULL)
/* Guest-physical to host; VM exit on violation and misconfiguration. */
void cpu_ept_translate(struct vmx_cpu *cpu, gpa_t gpa, uint32_t access, gva_t gla, bool final,
		       struct cpu_ept_result *out);
/* Linear to host; #PF or VM exit when the access is not allowed. Sets A and D. */
void cpu_walk(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv,
	      struct cpu_walk_result *out);

/* --- tlb.c --- */
#define TLB_NR_CONTEXTS 8
#define PDE_CACHE_ENTRIES 64
#define EPT_CACHE_ENTRIES 2048
struct tlb_side {
	gpa_t gpa;
	uint64_t *ept_leaf;
	uint8_t page_shift;
	bool global;
	bool listed;
};
struct tlb_sub {
	struct isa_tlb_entry e[ISA_TLB_ENTRIES];
	struct tlb_side side[ISA_TLB_ENTRIES];
	uint16_t filled[ISA_TLB_ENTRIES];
	uint32_t nr_filled;
};
/* A cached guest PDE: where the page table is and what its parents allow. */
struct pde_cache_entry {
	uint64_t tag; /* (gva >> 21) + 1; 0: empty */
	gpa_t table;
	uint64_t rights; /* PTE_RW, PTE_US, PTE_XD combined */
};
struct tlb_context {
	bool used;
	uint16_t vpid, pcid;
	uint64_t eptp, mode, last_use;
	struct tlb_sub sub[NR_PRIVS];
	struct pde_cache_entry pde[PDE_CACHE_ENTRIES];
};
struct ept_cache_entry {
	uint64_t tag; /* gpa of the page + 1; 0: empty */
	uint64_t eptp, gen;
	struct cpu_ept_result r;
};
struct cpu_tlb {
	struct tlb_context *cur;
	uint64_t clock, ept_gen;
	struct tlb_context ctx[TLB_NR_CONTEXTS];
	struct ept_cache_entry ept[EPT_CACHE_ENTRIES];
	struct isa_tlb_entry empty[ISA_TLB_ENTRIES]; /* never hits */
};
must_check int cpu_tlb_create(struct vmx_cpu *cpu);
/* Host pointer of the byte at gva for an access that is now allowed; fills the TLB. */
uint8_t *cpu_translate(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv);
void cpu_tlb_entry_flush(struct vmx_cpu *cpu); /* VPID 0: entries end at entry and exit */
void cpu_tlb_drop_ept(struct vmx_cpu *cpu, uint64_t eptp, bool all);
void cpu_tlb_drop_vpid(struct vmx_cpu *cpu, unsigned type, uint16_t vpid, gva_t gla);
/* A page became code (0: any page may have): its write tags go. */
void cpu_tlb_drop_write(struct vmx_cpu *cpu, hpa_t page);
/* Every entry is reachable, listed, and aligned; for tests. */
bool cpu_tlb_check(const struct cpu_tlb *t);
enum cpu_priv cpu_data_priv(const struct vmx_cpu *cpu, enum isa_access how);

/* --- mem.c --- */
extern const struct isa_ops cpu_isa_ops;

/* --- blocks.c --- */
isa_fn *cpu_block_system(const struct isa_decoded *d, struct isa_insn *i);
struct cpu_block {
	uint64_t key;	    /* host address of the first byte | mode << 56; 0: dead */
	struct isa_insn *end; /* insns[nr] */
	uint64_t epoch;
	struct cpu_block *succ[2];
	struct cpu_block *hash_next, *page_next;
	const uint8_t *bytes; /* as decoded */
	hpa_t host2;	    /* second page of a crossing instruction, or 0 */
	uint16_t nr_bytes;
	uint8_t nr, turn;
	bool jumps;	    /* the last instruction sets cs->rip */
	bool sys;	    /* the last one is a system instruction: look around after it */
	struct isa_insn insns[];
};
must_check int cpu_blocks_create(struct vmx_cpu *cpu);
void cpu_blocks_destroy(struct vmx_cpu *cpu);
/* The block at cs->rip, decoded if need be; `prev` (or NULL) ran just before. */
struct cpu_block *cpu_block_at_rip(struct vmx_cpu *cpu, struct cpu_block *prev);
bool cpu_page_is_code(struct vmx_cpu *cpu, hpa_t page);
/* A write is about to happen: drop what was decoded from there. */
void cpu_code_written(struct vmx_cpu *cpu, hpa_t start, unsigned size);
void cpu_blocks_drop(struct vmx_cpu *cpu, hpa_t start, hpa_t end);
void cpu_blocks_work_off(struct vmx_cpu *cpu); /* cpu->stale[] */

/* --- interp.c --- */
extern const struct isa_insn cpu_boundary_insn;
/* State is canonical at cs->rip: isa_rip() == cs->rip from here on. */
static inline void cpu_at_boundary(struct vmx_cpu *cpu)
{
	cpu->cs.block_rip = cpu->cs.rip;
	cpu->cs.cur = &cpu_boundary_insn;
}
/* Run until a VM exit (true) or a bus error (false). */
bool cpu_interp(struct vmx_cpu *cpu);

/* --- trace_ring.c --- */
void cpu_ring_create(struct vmx_cpu *cpu);
void cpu_ring_block(struct vmx_cpu *cpu, const struct cpu_block *b);
void cpu_ring_dump(struct vmx_cpu *cpu, const char *why);

#endif
