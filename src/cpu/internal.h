/*
 * Inside the processor. Who owns what:
 *   vmcs.c caps.c entry.c exit.c  VMCS, capability MSRs, VM entry checks, VM exits
 *   walk.c ept.c tlb.c mem.c      two-dimensional walk, software TLB, isa_ops
 *   bus_lock.c                    split locks, and their detection
 *   tlb_check.c                   USERKVM_CHECK=tlb
 *   blocks.c interp.c             decoded blocks, the interpreter loop
 *   vmx_isa.c trace_ring.c        the seam's remaining functions, debug aid
 *   segment.c stack.c far.c event.c task.c sysinsn*.c  segments, far transfers, event
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
#include "sdm/descriptor.h"
#include "sdm/paging.h"

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

/* Breakpoints in force, by number (debug.c). */
struct cpu_debug {
	uint64_t address[4];
	uint8_t length[4];
	uint8_t code, write, read, io; /* sets of numbers; read is part of write */
	uint8_t hits;	 /* of the instruction that runs alone */
	bool alone;	 /* run_one() */
	bool next_alone; /* the next instruction is to */
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
	uint64_t ple_first, ple_last; /* TSC of PAUSEs in a loop */
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
	struct cpu_debug debug;
	bool iret_unblocked;	   /* an IRET that has ended blocking by NMI is running */
	uint32_t asleep;	   /* (a) in the futex of an inactive state */
	bool in_guest;		   /* (a) between entry and exit */
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
	bool observed;		   /* blocks go to cpu_observe() before they run */
	uint32_t wtags_seen;	   /* (a) machine->wtags_gen when write tags were last dropped */
	uint32_t wtags_known;	   /* every other processor has seen this one */
	bool bus_locked;	   /* holds machine->bus, for a locked access in two parts */
	bool bus_lock_detection;   /* the control, as the decoded blocks have it (bus_lock.c) */
	bool bus_lock_access;	   /* the running instruction's access is a bus lock */
	bool bus_lock_detected;	   /* by an instruction that has completed since VM entry */
	struct isa_tlb_entry *bus_lock_tlb; /* cs->tlb to go back to, while one is watched */
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
#define MACHINE_CODE_BUCKETS 32768
struct machine_code_page {
	struct machine_code_page *next;
	hpa_t page;
};
struct vmx_machine {
	void *lock_storage;	/* pthread_mutex_t */
	struct vmx_cpu *cpus;	/* [lock] */
	uint32_t nr_cpus;
	uint64_t epoch;	    /* (a) moves when code may have been written from outside */
	uint32_t wtags_gen; /* (a) counts the pages that became code */
	uint32_t bus;	    /* (a) a locked access in two parts is under way */
	struct machine_code_page *code[MACHINE_CODE_BUCKETS]; /* [lock] to change */
};
void machine_lock(struct vmx_machine *m);
void machine_unlock(struct vmx_machine *m);

/*
 * What VM entry has to do again. Set by vmptrld() and by VMWRITE to a field that it
 * depends on; CHECK_GUEST also by a VM exit that saves such a field with another value.
 */
enum vmcs_stale {
	VMCS_CHECK_CONTROLS = 1, /* cpu_check_controls() */
	VMCS_CHECK_HOST = 2,	 /* cpu_check_host_state() */
	VMCS_CHECK_GUEST = 4,	 /* cpu_check_guest_registers() */
	VMCS_LOAD_GUEST = 8,	 /* segments and descriptor tables: not in the processor */
	VMCS_STALE_ALL = 15,
};

/* A VMCS region: private layout, a 64-bit cell for each field (vmcs.c). */
struct vmcs {
	uint32_t revision_id;
	uint32_t abort_indicator;
	uint32_t launched;
	uint32_t stale; /* enum vmcs_stale; of a current VMCS */
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
/* Debug traps that are due between two instructions: single step, data breakpoints. */
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
/*
 * NULL when the check passes, otherwise why not (for the log). Controls and host
 * state look at fields of their own kind only, the guest's registers also at controls.
 */
const char *cpu_check_controls(const struct vmcs *v);
/* The event to be injected: part of the controls. */
const char *cpu_check_injection(const struct vmcs *v);
/* NULL: an EPTP that VM entry takes. */
const char *cpu_check_eptp(uint64_t eptp);
const char *cpu_check_host_state(const struct vmcs *v);
/* Control, debug and segment registers and MSRs of the guest. */
const char *cpu_check_guest_registers(const struct vmcs *v);
/* The other guest state. *qualification: exit qualification of the failed entry. */
const char *cpu_check_guest_state(const struct vmcs *v, uint64_t *qualification);
/* --- vmx_isa.c: an MSR for the VM-exit MSR-store area; 0 or -EINVAL. --- */
int cpu_msr_area_read(struct vmx_cpu *cpu, uint32_t msr, uint64_t *value);
/* --- entry.c, exit.c --- */
void cpu_load_guest(struct vmx_cpu *cpu);
/* Save guest state and exit fields without unwinding (failed entries, bus errors). */
void cpu_save_exit(struct vmx_cpu *cpu, const struct cpu_exit *e);
/* Reason 33 or 34: exit fields only, guest state of the VMCS unchanged. */
void cpu_failed_entry(struct vmx_cpu *cpu, uint32_t reason, uint64_t qualification);

/* --- ept.c --- */
enum cpu_access { CPU_READ = 1, CPU_WRITE = 2, CPU_EXEC = 4 }; /* EPT bit order */
struct cpu_ept_result {
	hpa_t host;	/* of the 4 KiB page */
	uint32_t rights; /* enum cpu_access; CPU_WRITE only if no D bit has to be set first */
	bool write_back, ignore_pat; /* memory type of the leaf */
};
#define CPU_NO_GLA (~0ULL)
/*
 * Guest-physical to host; VM exit on violation and misconfiguration. gla: the
 * linear address on whose account, or CPU_NO_GLA; final: gpa is its translation,
 * not that of a paging-structure entry. Sets accessed and dirty flags.
 */
struct cpu_ept_result cpu_ept_translate(struct vmx_cpu *cpu, gpa_t gpa, uint32_t access, gva_t gla, bool final);
/* How single entries are read. Levels as in the SDM's tables: 1 is the PTE's. */
bool cpu_ept_is_leaf(uint64_t e, int level);
bool cpu_ept_entry_bad(uint64_t e, int level); /* misconfigured, if it is present */
/* Set bits in an entry that still is `old`; false: it has changed. */
static inline bool cpu_entry_or(uint64_t *p, uint64_t old, uint64_t bits)
{
	return __atomic_compare_exchange_n(p, &old, old | bits, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

/* --- walk.c --- */
/* Which rights apply: the sub-tables of a TLB context. */
enum cpu_priv { PRIV_SUPER_SMAP, PRIV_SUPER, PRIV_USER, NR_PRIVS };
struct cpu_walk_result {
	hpa_t host;	/* of the 4 KiB page */
	gpa_t gpa;	/* of the 4 KiB page */
	uint32_t rights; /* for `priv`; CPU_WRITE only if every D bit is set */
	uint8_t page_shift; /* of the guest's mapping */
	bool global;
	bool write_back; /* memory type, CR0.CD aside */
};
/* Linear to host; #PF or VM exit when the access is not allowed. Sets A and D. */
void cpu_walk(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv,
	      struct cpu_walk_result *out);
/* How single entries of the guest's are read. */
bool cpu_pte_is_leaf(const struct cpu_state *cs, uint64_t e, int level);
uint64_t cpu_pte_reserved(const struct cpu_state *cs, int level, bool leaf);
gpa_t cpu_leaf_gpa(const struct cpu_state *cs, uint64_t e, int level, gva_t gva); /* of the 4 KiB page */
/* The rights (enum cpu_access) of `priv` to a page whose entries combine to these bits. */
uint32_t cpu_page_rights(const struct vmx_cpu *cpu, uint64_t bits, enum cpu_priv priv);

/* --- tlb.c --- */
#define TLB_NR_CONTEXTS 8
#define PDE_CACHE_ENTRIES 64
#define EPT_CACHE_ENTRIES 2048
struct tlb_side {
	uint8_t page_shift;
	bool global;
	bool listed;
	bool write_back;
};
struct tlb_sub {
	struct isa_tlb_entry e[ISA_TLB_ENTRIES];
	struct tlb_side side[ISA_TLB_ENTRIES];
	uint16_t filled[ISA_TLB_ENTRIES];
	uint32_t nr_filled;
};
/*
 * What a walk has learned of 2 MiB of linear addresses: the PDE that refers to
 * their page table, or the entry of the larger page that maps them.
 */
struct pde_cache_entry {
	uint64_t tag; /* (gva >> 21) + 1; 0: empty */
	uint64_t e;
	uint64_t rights; /* PTE_RW, PTE_US, PTE_XD combined: of the larger page, or of all above its PTEs */
	int level; /* of the table that e refers to, or of the larger page: 1, or 2 and 3 */
};
struct tlb_context {
	bool used;
	uint16_t vpid, pcid;
	uint64_t eptp, mode, last_use;
	uint64_t large[8]; /* a set, by hash, of larger pages that have fragments here (tlb.c) */
	struct tlb_sub sub[NR_PRIVS];
	struct pde_cache_entry pde[PDE_CACHE_ENTRIES];
};
/* A guest-physical mapping of the EPTP in use. */
struct ept_cache_entry {
	uint64_t tag;  /* gpa of the page | generation; 0: empty */
	uint64_t host; /* of the page | the rest of struct cpu_ept_result (ept.c) */
};
struct cpu_tlb {
	struct tlb_context *cur;
	struct tlb_checker *check; /* USERKVM_CHECK=tlb (tlb_check.c), or NULL */
	uint64_t clock;
	uint64_t ept_gen; /* 1 .. PAGE_SIZE - 1 */
	struct tlb_context ctx[TLB_NR_CONTEXTS];
	struct ept_cache_entry ept[EPT_CACHE_ENTRIES];
	struct isa_tlb_entry empty[ISA_TLB_ENTRIES]; /* never hits */
};
must_check int cpu_tlb_create(struct vmx_cpu *cpu);
/* Host pointer of the byte at gva for an access that is now allowed; fills the TLB. */
uint8_t *cpu_translate(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv);
void cpu_tlb_entry_flush(struct vmx_cpu *cpu); /* VPID 0: entries end at entry and exit */
void cpu_tlb_drop_ept(struct vmx_cpu *cpu, uint64_t eptp, bool all);
/* Another EPTP: ept[] knows of one only. */
void cpu_tlb_new_eptp(struct vmx_cpu *cpu, uint64_t eptp);
/* A page fault, and an EPT violation (gla: CPU_NO_GLA unless gpa is its translation). */
void cpu_tlb_page_fault(struct vmx_cpu *cpu, gva_t gva);
void cpu_tlb_ept_violation(struct vmx_cpu *cpu, gpa_t gpa, gva_t gla);
void cpu_tlb_drop_vpid(struct vmx_cpu *cpu, unsigned type, uint16_t vpid, gva_t gla);
/* A page became code (0: any page may have): its write tags go. */
void cpu_tlb_drop_write(struct vmx_cpu *cpu, hpa_t page);
/* Data accesses are to be looked at again: all read and write tags go. */
void cpu_tlb_drop_data(struct vmx_cpu *cpu);
/* Memory type WB (CR0.CD aside) of the page of a translation that was just made. */
bool cpu_tlb_write_back(const struct vmx_cpu *cpu, gva_t gva, enum cpu_priv priv);
/* Every entry is reachable, listed, and aligned; for tests. */
bool cpu_tlb_check(const struct cpu_tlb *t);
enum cpu_priv cpu_data_priv(const struct vmx_cpu *cpu, enum isa_access how);
/* The PCID that a value of CR3 selects. */
static inline uint16_t cpu_pcid(const struct cpu_state *cs, uint64_t cr3)
{
	return cs->cr4 & X86_CR4_PCIDE ? (uint16_t)(cr3 & CR3_PCID_MASK) : 0;
}
/* The registers that decide how tables are read: CR0, CR4, EFER. */
uint64_t cpu_paging_mode(const struct cpu_state *cs);

/* --- mem.c --- */
extern const struct isa_ops cpu_isa_ops;

/* --- bus_lock.c --- */
/* Exclude the machine's other locked accesses in two parts. Unwinds where a kick comes first. */
void cpu_bus_lock(struct vmx_cpu *cpu);
void cpu_bus_unlock(struct vmx_cpu *cpu); /* harmless when it is not held */
/* Is the running instruction's access one that LOCK makes atomic? */
bool cpu_is_locked_access(const struct vmx_cpu *cpu, enum isa_access how);
/* The VM-execution controls were loaded: "VMM bus-lock detection" may have changed. */
void cpu_bus_lock_control(struct vmx_cpu *cpu);
/* An instruction was decoded; true: it is watched, and the last of its block. */
bool cpu_bus_lock_watch(const struct vmx_cpu *cpu, struct isa_insn *i);
/* The slow path's part: an access that has passed every check. */
void cpu_bus_lock_access(struct vmx_cpu *cpu, gva_t lin, unsigned size, enum cpu_priv priv,
			 enum isa_access how);
/* A watched instruction may have been left by unwinding. */
void cpu_bus_lock_unwound(struct vmx_cpu *cpu);

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
	uint32_t wtags_gen; /* invariant 6 of blocks.c */
	uint16_t nr_bytes;
	uint8_t nr, turn;
	bool jumps;	    /* the last instruction sets cs->rip */
	bool sys;	    /* the last one is a system instruction: look around after it */
	struct isa_insn insns[];
};
must_check int cpu_blocks_create(struct vmx_cpu *cpu);
void cpu_blocks_destroy(struct vmx_cpu *cpu);
/* Host address of its first byte. */
#define BLOCK_MODE_SHIFT 56
static inline hpa_t cpu_block_host(const struct cpu_block *b)
{
	return b->key & GENMASK_ULL(BLOCK_MODE_SHIFT - 1, 0);
}
/* The block at cs->rip, decoded if need be; `prev` (or NULL) ran just before. */
struct cpu_block *cpu_block_at_rip(struct vmx_cpu *cpu, struct cpu_block *prev);
bool cpu_page_is_code(struct vmx_cpu *cpu, hpa_t page);
/* A write is about to happen: drop what was decoded from there. */
void cpu_code_written(struct vmx_cpu *cpu, hpa_t start, unsigned size);
void cpu_blocks_drop(struct vmx_cpu *cpu, hpa_t start, hpa_t end);
void cpu_blocks_work_off(struct vmx_cpu *cpu); /* cpu->stale[] */
/* CPU_REQ_WTAGS: drop every write tag, and say so. */
void cpu_blocks_drop_wtags(struct vmx_cpu *cpu);

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

/* --- debug.c --- */
/* DR0-3, DR7 or CR4.DE may have changed. */
void cpu_debug_update(struct vmx_cpu *cpu);
static inline bool cpu_debug_watches(const struct vmx_cpu *cpu)
{
	return cpu->debug.write != 0;
}
/* Does the page hold a watched byte? */
bool cpu_debug_page(const struct vmx_cpu *cpu, gva_t page);
/* An access that is about to happen. Unwinds where its instruction does not run alone. */
void cpu_debug_data(struct vmx_cpu *cpu, gva_t lin, unsigned size, enum isa_access how);
void cpu_debug_io(struct vmx_cpu *cpu, uint16_t port, unsigned size);
/* Is a breakpoint on an instruction of the block at cs->rip? */
bool cpu_debug_in_block(const struct vmx_cpu *cpu, const struct cpu_block *b);
/* At a boundary: #DB if there is one at cs->rip. */
void cpu_debug_code(struct vmx_cpu *cpu);

/* --- trace_ring.c --- */
void cpu_ring_create(struct vmx_cpu *cpu);
void cpu_ring_block(struct vmx_cpu *cpu, const struct cpu_block *b);
/* For the ring and for the TLB's checker. */
void cpu_observe(struct vmx_cpu *cpu, const struct cpu_block *b);
void cpu_ring_dump(struct vmx_cpu *cpu, const char *why);
/*
 * --- shared by segment.c, far.c, event.c, task.c and sysinsn*.c ---
 *
 * Modes. Real-address and virtual-8086 mode share the segment arithmetic;
 * cpu_protected() is everything else.
 */
static inline bool cpu_v86(const struct vmx_cpu *cpu)
{
	return (cpu->cs.rflags & X86_FLAGS_VM) != 0;
}

static inline bool cpu_real(const struct vmx_cpu *cpu)
{
	return !(cpu->cs.cr0 & X86_CR0_PE);
}

static inline bool cpu_protected(const struct vmx_cpu *cpu)
{
	return !cpu_real(cpu) && !cpu_v86(cpu);
}

static inline bool cpu_ia32e(const struct vmx_cpu *cpu)
{
	return (cpu->cs.efer & EFER_LMA) != 0;
}

static inline bool cpu_code64(const struct vmx_cpu *cpu)
{
	return cpu->cs.code_mode == ISA_CODE64;
}

static inline unsigned cpu_iopl(const struct vmx_cpu *cpu)
{
	return (unsigned)FIELD_GET(X86_FLAGS_IOPL, cpu->cs.rflags);
}

/* 48-bit linear addresses (CR4.LA57 is not offered). */
static inline bool cpu_canonical(uint64_t lin)
{
	return (uint64_t)((int64_t)(lin << 16) >> 16) == lin;
}

static inline bool cpu_selector_null(uint16_t selector)
{
	return (selector & ~3) == 0;
}

/* A segment or system descriptor, taken apart. */
struct cpu_descriptor {
	uint64_t raw;
	gva_t lin;	/* where it lies */
	uint64_t base;	/* 64 bits for 16-byte system descriptors */
	uint32_t limit; /* in bytes, granularity applied */
	uint32_t ar;	/* VMCS format */
	uint16_t selector;
};

static inline unsigned cpu_ar_type(uint32_t ar)
{
	return ar & VMX_AR_TYPE_MASK;
}

static inline unsigned cpu_ar_dpl(uint32_t ar)
{
	return (unsigned)FIELD_GET(VMX_AR_DPL_MASK, ar);
}

static inline bool cpu_ar_code(uint32_t ar)
{
	return (ar & (VMX_AR_S | VMX_AR_TYPE_CODE)) == (VMX_AR_S | VMX_AR_TYPE_CODE);
}

static inline bool cpu_ar_conforming(uint32_t ar)
{
	return cpu_ar_code(ar) && (ar & VMX_AR_TYPE_EXPAND_DOWN);
}

static inline bool cpu_ar_writable_data(uint32_t ar)
{
	return (ar & (VMX_AR_S | VMX_AR_TYPE_CODE | VMX_AR_TYPE_WRITABLE)) ==
	       (VMX_AR_S | VMX_AR_TYPE_WRITABLE);
}

/* #TS, #NP, #SS or #GP with a selector (RPL dropped) and EXT as error code. */
void cpu_selector_fault(struct vmx_cpu *cpu, enum exception_vector v, uint16_t selector)
	__attribute__((noreturn));
/* The EXT bit of error codes: 1 while an event that no INT instruction made is delivered. */
uint32_t cpu_ext_bit(const struct vmx_cpu *cpu);

void cpu_descriptor_parse(struct cpu_descriptor *d, uint64_t raw);
/* Read the descriptor of a non-null selector; false: outside its table. */
bool cpu_descriptor_read(struct vmx_cpu *cpu, uint16_t selector, struct cpu_descriptor *d);
/* Bits 127:64 of a 16-byte system descriptor; false: outside its table. */
bool cpu_descriptor_read_high(struct vmx_cpu *cpu, uint16_t selector, uint64_t *high);
/* Set accessed (or busy, for a TSS: bit = 2) in the descriptor in memory, with a locked access. */
void cpu_descriptor_set_bit(struct vmx_cpu *cpu, const struct cpu_descriptor *d, unsigned bit);
void cpu_descriptor_set_accessed(struct vmx_cpu *cpu, struct cpu_descriptor *d);
/* Commit a descriptor to a segment register; nothing can fault. */
void cpu_segment_commit(struct cpu_segment *seg, const struct cpu_descriptor *d,
			uint16_t selector);
/* Null selector: unusable; `dpl` is kept in the rights, as SS needs it. */
void cpu_segment_null(struct cpu_segment *seg, uint16_t selector, unsigned dpl);
/* Load ES CS SS DS FS GS as the mode says (real, v86, protected); not CS. */
void cpu_load_sreg(struct vmx_cpu *cpu, enum sreg nr, uint16_t selector);
/* Is [offset, offset + size) inside the segment (not used in 64-bit mode)? */
bool cpu_segment_covers(const struct cpu_segment *seg, uint64_t offset, unsigned size);
/* Check SS for privilege level `pl`; faults with `v` (#GP or #TS) or #SS. */
void cpu_check_ss(struct vmx_cpu *cpu, uint16_t selector, unsigned pl,
		  enum exception_vector v, struct cpu_descriptor *d);
/* LAR, LSL, VERR, VERW: may the descriptor be seen from here? */
bool cpu_descriptor_visible(struct vmx_cpu *cpu, uint16_t selector, struct cpu_descriptor *d);
void cpu_load_ldtr(struct vmx_cpu *cpu, uint16_t selector);
void cpu_load_tr(struct vmx_cpu *cpu, uint16_t selector);

/*
 * --- stack.c --- A stack that is pushed to or popped from before anything is
 * committed: the pointer lives here until cpu_stack_commit().
 */
struct cpu_stack {
	struct vmx_cpu *cpu;
	const struct cpu_segment *ss;
	uint64_t sp;
	uint64_t mask;	   /* of the stack pointer: 16, 32 or 64 bits */
	uint32_t ss_error; /* error code of the #SS its accesses raise */
	bool flat;	   /* 64-bit: no base, no limit */
	bool system;	   /* supervisor accesses, whatever CPL is now */
};
/* The current stack: SS:rSP. */
void cpu_stack_current(struct vmx_cpu *cpu, struct cpu_stack *st);
/* An inner stack (CPL becomes `pl`) in segment ss, which must outlive st. */
void cpu_stack_inner(struct vmx_cpu *cpu, struct cpu_stack *st, const struct cpu_segment *ss,
		     uint64_t sp, unsigned pl);
void cpu_stack_push(struct cpu_stack *st, unsigned size, uint64_t v);
uint64_t cpu_stack_pop(struct cpu_stack *st, unsigned size);
/* RSP as it will be: only the stack pointer's width changes. */
void cpu_stack_commit(const struct cpu_stack *st);
/*
 * The stack for privilege level pl out of the TSS, SS checked (#TS, #SS);
 * 64-bit TSS: SS null. ist: 1..7, or 0 for RSPn.
 */
void cpu_tss_stack(struct vmx_cpu *cpu, unsigned pl, unsigned ist, struct cpu_segment *ss,
		   uint64_t *sp);

/* --- far.c --- */
/* Targets are absolute; `next` is the return address; size is the operand size. */
void cpu_far_jmp(struct vmx_cpu *cpu, uint16_t selector, uint64_t offset, unsigned size);
void cpu_far_call(struct vmx_cpu *cpu, uint16_t selector, uint64_t offset, unsigned size,
		  uint64_t next);
void cpu_far_ret(struct vmx_cpu *cpu, unsigned size, unsigned release);
void cpu_iret(struct vmx_cpu *cpu, unsigned size);
/* #GP(0) (with EXT) unless `offset` may be RIP in the code segment with rights ar and limit. */
void cpu_check_rip(struct vmx_cpu *cpu, uint32_t ar, uint32_t limit, uint64_t offset);
/* Rights and base of the flat CS and SS that SYSCALL and its like load. */
void cpu_flat_cs(struct vmx_cpu *cpu, uint16_t selector, unsigned cpl, bool code64);
void cpu_flat_ss(struct vmx_cpu *cpu, uint16_t selector, unsigned cpl);

/* --- task.c --- */
/* A task switch to the TSS of `selector`: its checks, then a VM exit, always. */
void cpu_task_switch(struct vmx_cpu *cpu, uint16_t selector, enum task_switch_source source)
	__attribute__((noreturn));
/* Through a task gate (already read from GDT, LDT or IDT). */
void cpu_task_gate(struct vmx_cpu *cpu, const struct cpu_descriptor *gate,
		   enum task_switch_source source) __attribute__((noreturn));

/* --- event.c --- */
/*
 * INT n, INT1, INT3, INTO: intercepts, then delivery. cs->rip must be the
 * instruction's own address; the return address adds its length.
 */
void cpu_software_event(struct vmx_cpu *cpu, unsigned vector, enum intr_type type,
			unsigned insn_len);

/* --- sysinsn_cr.c --- (used by the hypervisor-visible side too) */
/* A write that passed the masks: #GP checks, side effects. */
void cpu_write_cr0(struct vmx_cpu *cpu, uint64_t v);
void cpu_write_cr4(struct vmx_cpu *cpu, uint64_t v);

/* --- sysinsn_msr.c --- false: #GP(0). */
bool cpu_read_msr(struct vmx_cpu *cpu, uint32_t msr, uint64_t *v);
bool cpu_write_msr(struct vmx_cpu *cpu, uint32_t msr, uint64_t v);
/* The guest's time-stamp counter: offset and multiplier applied. */
uint64_t cpu_guest_tsc(const struct vmx_cpu *cpu);

/* --- sysinsn.c --- helpers of the handlers */
/* Set cs->rip to the next instruction. */
static inline void cpu_next(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t rip = isa_next_rip(cs, i);

	cs->rip = cs->code_mode == ISA_CODE64 ? rip : (uint32_t)rip;
}
/* #GP(0) unless CPL is 0. */
static inline void cpu_require_cpl0(struct cpu_state *cs)
{
	if (unlikely(cs->cpl != 0))
		isa_raise_error(cs, X86_TRAP_GP, 0);
}
/* Register fields of the ModRM byte: i->src is reg, i->dst is rm (sysinsn.c sees to it). */
uint64_t cpu_read_rm(struct cpu_state *cs, const struct isa_insn *i, unsigned size);
void cpu_write_rm(struct cpu_state *cs, const struct isa_insn *i, unsigned size, uint64_t v);
/* Exit with VM-exit instruction information and displacement as qualification. */
void cpu_vmexit_mem(struct vmx_cpu *cpu, uint32_t reason, uint32_t identity)
	__attribute__((noreturn));
/* VM-exit instruction information: the memory operand's part. */
uint32_t cpu_insn_info_mem(const struct isa_insn *i);

/*
 * Handlers of system instructions, once: SYSINSNS(F) expands
 * F(handler, Zydis mnemonic, sets cs->rip). Forms that share a mnemonic with
 * the integer instructions (MOV, PUSH, POP, JMP, CALL, RET) are picked by opcode.
 */
#define SYSINSNS(F)                                                        \
	/* sysinsn_flags.c */                                              \
	F(cli, CLI, 0) F(sti, STI, 1) F(clac, CLAC, 0) F(stac, STAC, 0)    \
	F(pushf, PUSHF, 0) F(pushf, PUSHFD, 0) F(pushf, PUSHFQ, 0)         \
	F(popf, POPF, 1) F(popf, POPFD, 1) F(popf, POPFQ, 1)               \
	/* sysinsn_seg.c */                                                \
	F(lds, LDS, 0) F(lds, LES, 0) F(lds, LFS, 0) F(lds, LGS, 0)        \
	F(lss, LSS, 1) F(lar, LAR, 0) F(lsl, LSL, 0) F(verr, VERR, 0)      \
	F(verw, VERW, 0) F(arpl, ARPL, 0)                                  \
	F(sgdt, SGDT, 0) F(sidt, SIDT, 0) F(lgdt, LGDT, 1) F(lidt, LIDT, 1) \
	F(sldt, SLDT, 0) F(str, STR, 0) F(lldt, LLDT, 1) F(ltr, LTR, 1)    \
	F(swapgs, SWAPGS, 0) F(rdfsbase, RDFSBASE, 0)                      \
	F(rdgsbase, RDGSBASE, 0) F(wrfsbase, WRFSBASE, 0)                  \
	F(wrgsbase, WRGSBASE, 0)                                           \
	/* sysinsn_far.c */                                                \
	F(iret, IRET, 1) F(iret, IRETD, 1) F(iret, IRETQ, 1)               \
	F(int_n, INT, 1) F(int1, INT1, 1) F(int3, INT3, 1)                 \
	F(into, INTO, 1)                                                   \
	/* sysinsn_cr.c */                                                 \
	F(clts, CLTS, 1) F(lmsw, LMSW, 1) F(smsw, SMSW, 0)                 \
	F(xsetbv, XSETBV, 1)                                               \
	/* sysinsn_msr.c */                                                \
	F(rdmsr, RDMSR, 0) F(wrmsr, WRMSR, 1) F(rdtsc, RDTSC, 0)           \
	F(rdtscp, RDTSCP, 0) F(rdpid, RDPID, 0) F(rdpmc, RDPMC, 0)         \
	/* sysinsn_io.c */                                                 \
	F(in, IN, 1) F(out, OUT, 1) F(ins, INSB, 1) F(ins, INSW, 1)        \
	F(ins, INSD, 1) F(outs, OUTSB, 1) F(outs, OUTSW, 1)                \
	F(outs, OUTSD, 1)                                                  \
	/* sysinsn_syscall.c */                                            \
	F(syscall, SYSCALL, 1) F(sysret, SYSRET, 1)                        \
	F(sysenter, SYSENTER, 1) F(sysexit, SYSEXIT, 1)                    \
	/* sysinsn_misc.c */                                               \
	F(hlt, HLT, 1) F(pause, PAUSE, 0) F(cpuid, CPUID, 0)               \
	F(invlpg, INVLPG, 1) F(invpcid, INVPCID, 1) F(wbinvd, WBINVD, 0)   \
	F(invd, INVD, 0) F(clflush, CLFLUSH, 0) F(clflush, CLFLUSHOPT, 0)  \
	F(clflush, CLWB, 0)                                                \
	F(monitor, MONITOR, 0) F(mwait, MWAIT, 0)                          \
	F(fence, LFENCE, 0) F(fence, SFENCE, 0) F(fence, MFENCE, 0)        \
	/* sysinsn_vmx.c */                                                \
	F(vmcall, VMCALL, 0) F(vmx_plain, VMLAUNCH, 0)                     \
	F(vmx_plain, VMRESUME, 0) F(vmx_plain, VMXOFF, 0)                  \
	F(vmx_mem, VMCLEAR, 0) F(vmx_mem, VMPTRLD, 0)                      \
	F(vmx_mem, VMPTRST, 0) F(vmx_mem, VMXON, 0)                        \
	F(vmx_mem, INVEPT, 0) F(vmx_mem, INVVPID, 0)                       \
	F(vmx_rw, VMREAD, 0) F(vmx_rw, VMWRITE, 0)

/* Handlers picked by opcode. */
#define SYSINSNS_BY_OPCODE(F)                                              \
	F(mov_to_sreg) F(mov_to_ss) F(mov_from_sreg) F(push_sreg)          \
	F(pop_sreg) F(pop_ss) F(mov_to_cr) F(mov_from_cr) F(mov_to_dr)     \
	F(mov_from_dr) F(jmp_far) F(call_far) F(ret_far)

#define SYSINSN_DECLARE(handler, mnemonic, ends) isa_fn sysinsn_##handler;
#define SYSINSN_DECLARE1(handler) isa_fn sysinsn_##handler;
SYSINSNS(SYSINSN_DECLARE)
SYSINSNS_BY_OPCODE(SYSINSN_DECLARE1)
#undef SYSINSN_DECLARE
#undef SYSINSN_DECLARE1

#endif
