/*
 * Inside the processor. Who owns what:
 *   vmcs.c caps.c entry.c exit.c  VMCS, capability MSRs, VM entry checks, VM exits
 *   walk.c ept.c tlb.c mem.c      two-dimensional walk, software TLB (tlb.h); isa_ops.c
 *   bus_lock.c                    split locks, and their detection
 *   tlb_check.c                   USERKVM_CHECK=tlb
 *   ghost*.c                      USERKVM_CHECK=guesttlb (ghost.h)
 *   l1vpid*.c                     USERKVM_CHECK=l1vpid (l1vpid.h)
 *   apic_*.c                      APIC virtualization (apic.h)
 *   blocks.c block_decode.c code_pages.c  decoded blocks (blocks.h)
 *   engine.c boundary.c           what runs between two blocks or instructions
 *   leave.c unwind.c              leaving an instruction, and where that arrives
 *   interp.c                      the interpreter's loop
 *   machine.c machine_cpus.c      what the processors of a machine share, and who they are
 *   vmx_isa.c trace_ring.c        the seam's remaining functions, debug aid
 *   event.c iret.c task.c sysinsn*.c  delivery through the IDT, system instructions (system.h); the rules
 *                                 of segments and far transfers are isa/segment.h's and isa/far.h's
 *
 * All of it runs on the vCPU's thread, mostly with the guest's SIMD state in
 * the registers (isa/fpu.h): general registers only, no libc mem*.
 */
#ifndef USERKVM_CPU_INTERNAL_H
#define USERKVM_CPU_INTERNAL_H

#include "cpu/apic.h"
#include "cpu/blocks.h"
#include "cpu/tlb.h"
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
	uint64_t lost_dbg;   /* of pending_dbg: ends when the delivery is complete (event.c) */
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

enum cpu_vendor { CPU_VENDOR_HOSTS, CPU_VENDOR_INTEL, CPU_VENDOR_AMD };

/* Breakpoints in force, by number (debug.c). */
struct cpu_debug {
	uint64_t address[4];
	uint8_t length[4];
	uint8_t code, write, read, io; /* sets of numbers; read is part of write */
	uint8_t hits;	 /* of the instruction that runs alone */
	bool alone;	 /* run_one() */
	bool next_alone; /* the next instruction is to */
};

/* seg[] to idtr of cpu_state. */
#define CPU_SEGMENT_WORDS ((offsetof(struct cpu_state, cr0) - offsetof(struct cpu_state, seg)) / 8)

struct vmx_cpu { /* (o), where no letter says otherwise */
	struct cpu_state cs; /* first: cs->owner == this */
	struct vmx_machine *machine; /* (c) */
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
	uint64_t address_reserved; /* vmx_set_guest_maxphyaddr(): bits 51:MAXPHYADDR */
	uint8_t vendor;		   /* vmx_set_guest_vendor(): enum cpu_vendor */
	uint64_t pending_dbg;
	uint32_t interruptibility; /* GUEST_INTR_STATE_* */
	uint32_t activity;	   /* enum guest_activity */
	uint64_t preemption_deadline; /* host TSC; ~0 none */

	struct cpu_event event; /* in delivery */
	void *unwind_buf[5];	/* of the interpreter loop */
	struct cpu_tlb *tlb;	   /* (c) tlb.c */
	struct cpu_blocks *blocks; /* (c) blocks.c */
	struct cpu_jit *jit;	   /* (c) jit_code.c; NULL: everything is interpreted */
	struct jit_slot *slots;	   /* that have a tag (jit_slot.c) */
	uint32_t slot_drops;	   /* counts cpu_jit_drop_slots() */
	int jit_pid;		   /* of the process that reserved code memory beside us, or 0 */
	struct cpu_journal *journal; /* of writes, while the lock-step needs it (jit_check.c) */
	hpa_t bus_error;
	/* cpu_bug_on(): NULL, or what is broken, and where; then the processor runs no guest any more */
	const char *broken, *broken_file;
	int broken_line;

	bool load_rest;		 /* as VMCS_LOAD_REST, of what is not in the VMCS: the next entry loads everything */
	bool check_entry;	 /* (c) USERKVM_CHECK=entry: what entry and exit leave out is found to be the same */
	/* segments and tables, word by word, as they were when the VMCS had the same */
	uint64_t segments_kept[CPU_SEGMENT_WORDS];

	/* --- the engine's own (interp.c, mem.c) --- */
	uint32_t unwind_reason;	   /* enum cpu_unwind_reason */
	bool left;		   /* the exit of the instruction that has just run is in the VMCS: cpu_leave_insn() */
	bool may_leave;		   /* the access that is being translated is its instruction's last: ISA_LAST */
	uint32_t shadow;	   /* STI/MOV_SS blocking of the running instruction */
	uint64_t resume_flag;	   /* RFLAGS.RF as the running instruction found it */
	struct cpu_debug debug;
	bool iret_unblocked;	   /* an IRET that has ended blocking by NMI is running */
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
		bool locked;	   /* under machine->bus: */
		uint64_t was[2];   /* the aligned words with the parts, as they were read */
	} commit[4];
	uint32_t next_commit;
	struct cpu_ring *ring;	   /* (c) USERKVM_TRACE_INSN, or NULL */
	bool observed;		   /* (c) blocks go to cpu_observe() before they run */
	uint32_t wtags_seen;	   /* (a) machine->wtags_gen when write tags were last dropped */
	uint32_t wtags_known;	   /* every other processor has seen this one */
	bool bus_locked;	   /* holds machine->bus, for a locked access in two parts */
	uint32_t bus_cc;	   /* cs->cc as that instruction found it */
	bool bus_lock_detection;   /* the control, as the decoded blocks have it (bus_lock.c) */
	bool bus_lock_access;	   /* the running instruction's access is a bus lock */
	bool bus_lock_detected;	   /* by an instruction that has completed since VM entry */
	struct isa_tlb_entry *bus_lock_tlb; /* cs->tlb to go back to, while one is watched */
	struct vmx_cpu *next;	   /* [machine->lock] */
	/* requests by other threads [machine->lock], announced in cs.exit_request */
	struct { hpa_t start, end; } stale[16];
	uint32_t nr_stale;	   /* > 16: everything */
	struct cpu_exit last_exit;
	struct {
		unsigned nr;
		struct vmx_fault fault[VMX_FAULT_CHAIN];
	} chain; /* exceptions whose delivery has not succeeded yet (event.c) */
	struct cpu_apic apic;	   /* APIC virtualization (apic.h) */
	struct {		   /* what vmx_exit_insn() tells */
		bool valid;
		uint32_t access; /* enum cpu_access */
		gva_t gla;
		gpa_t gpa;
	} exit_access;
	/* What other threads write, on a line that the processor's own work does not write. */
	struct {
		uint64_t notified[4]; /* (a) vectors of interrupts for the processor, not taken yet (vmx_notify()) */
		uint32_t asleep;      /* (a) in the futex of an inactive state */
	} mail __attribute__((aligned(64)));
};

/* The VMX-preemption timer counts the TSC shifted right by this. */
#define CPU_PREEMPTION_TIMER_RATE 5

/* What acknowledging a kick as an external interrupt reports as its vector. */
#define CPU_KICK_VECTOR 0xfd

/* Bits of cs->exit_request. */
#define CPU_REQ_KICK 0x4u   /* vmx_kick() */
#define CPU_REQ_STALE 0x2u  /* cpu->stale[] to be worked off */
#define CPU_REQ_CHECK 0x1u  /* own: look at windows, traps, activity */
#define CPU_REQ_WTAGS 0x8u  /* a page became code elsewhere: drop write tags */
#define CPU_REQ_POSTED 0x10u /* vmx_notify() */
#define CPU_REQ_GHOST 0x20u /* the sanitizer asks to drop translations (ghost.h) */

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
	struct ghost *ghost; /* (c) USERKVM_CHECK=guesttlb, or NULL */
	struct l1vpid_machine *l1vpid; /* (c) USERKVM_CHECK=l1vpid, or NULL */
	struct machine_code_page *code[MACHINE_CODE_BUCKETS]; /* [lock] to change */
};
void machine_add(struct vmx_machine *m, struct vmx_cpu *cpu);
void machine_remove(struct vmx_machine *m, struct vmx_cpu *cpu);
void machine_lock(struct vmx_machine *m);
void machine_unlock(struct vmx_machine *m);

/*
 * What VM entry has to do again. Set by the first vmptrld() of a region, and by VMWRITE to a field that it
 * depends on; LOAD_GUEST and LOAD_REST by each vmptrld(); CHECK_GUEST also by a VM exit that saves such a field with another value.
 */
enum vmcs_stale {
	VMCS_CHECK_CONTROLS = 1, /* cpu_check_controls() */
	VMCS_CHECK_HOST = 2,	 /* cpu_check_host_state() */
	VMCS_CHECK_GUEST = 4,	 /* cpu_check_guest_registers() */
	VMCS_LOAD_GUEST = 8,	 /* segments and descriptor tables: not in the processor */
	VMCS_LOAD_REST = 16,	 /* nor controls, control registers and what follows from them (entry.c, invariant 4) */
	VMCS_STALE_ALL = 31,
};

/* A VMCS region: private layout, a 64-bit cell for each field (vmcs.c). */
struct vmcs {
	uint32_t revision_id;
	uint32_t abort_indicator;
	uint32_t launched;
	uint32_t stale; /* enum vmcs_stale */
	hpa_t home;	/* where the region was when `stale` was kept; 0: not since VMCLEAR */
#define VMCS_CELL(name, enc) uint64_t name;
	VMCS_FIELDS(VMCS_CELL)
#undef VMCS_CELL
};
static_assert(sizeof(struct vmcs) <= 4096, "a VMCS region is one page");

/* VMREAD and VMWRITE of any region (vmcs.c). False: there is no such field. */
#define VMCS_REVISION_SHADOW BIT_ULL(31)
bool cpu_vmcs_read(struct vmcs *v, uint32_t field, uint64_t *value);
bool cpu_vmcs_write(struct vmcs *v, uint32_t field, uint64_t value);

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
/*
 * The same for a system instruction that ends its block (ISA_ENDS_BLOCK), whose handler returns at once: whatever
 * runs handlers finds cpu->left and returns, too. A jump past returns would leave the host's return predictor with
 * wrong guesses for each function up to the client.
 */
void cpu_leave_insn(struct vmx_cpu *cpu, uint32_t reason, uint64_t qualification);
/* An access of the running instruction's is about to make an exit (exit_insn.c). */
void cpu_note_exit_access(struct vmx_cpu *cpu, uint32_t access, gva_t gla, gpa_t gpa);
/* Unwind to the interpreter loop, state canonical (cs->rip is where to go on). */
void cpu_unwind(struct vmx_cpu *cpu) __attribute__((noreturn));
/* After cpu_leave_insn(), from where nothing can return. */
void cpu_unwind_left(struct vmx_cpu *cpu) __attribute__((noreturn));

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

/* --- sysinsn*.c --- */
/* isa_ops.system of the processor. */
isa_fn *cpu_system_handler(const struct isa_decoded *d, struct isa_insn *i);

/* --- vmcs.c, caps.c --- */
enum vmx_result vmx_fail(struct vmx_cpu *cpu, enum vm_instruction_error e);
/* Are the bits of a control field allowed by its (TRUE) capability MSR? */
bool cpu_control_allowed(uint32_t msr, uint32_t v);

/* --- entry_checks.c --- */
/*
 * Checks that fail are added to *f. Controls and host state look at fields of their own
 * kind only, the guest's registers also at controls.
 */
void cpu_check_controls(const struct vmcs *v, struct vmentry_failures *f);
/* The event to be injected: part of the controls. */
void cpu_check_injection(const struct vmcs *v, struct vmentry_failures *f);
/* An EPTP that VM entry takes. */
bool cpu_eptp_valid(uint64_t eptp);
void cpu_check_host_state(const struct vmcs *v, struct vmentry_failures *f);
/* Control, debug and segment registers and MSRs of the guest. */
void cpu_check_guest_registers(const struct vmcs *v, struct vmentry_failures *f);
/* The other guest state. */
void cpu_check_guest_state(const struct vmcs *v, struct vmentry_failures *f);
/* --- vmx_isa.c: an MSR for the VM-exit MSR-store area; 0 or -EINVAL. --- */
int cpu_msr_area_read(struct vmx_cpu *cpu, uint32_t msr, uint64_t *value);
/* --- leave.c --- */
/*
 * A broken invariant of the processor's: the guest is left, by VMX_BUS_ERROR, and vmx_broken() says why.
 * Inside the guest only (cs.unwind is set); calls no libc.
 */
#define cpu_bug_on(cpu, broken)                                          \
	do {                                                             \
		if (unlikely(broken))                                    \
			cpu_broken((cpu), #broken, __FILE__, __LINE__); \
	} while (0)
void cpu_broken(struct vmx_cpu *cpu, const char *what, const char *file, int line)
	__attribute__((noreturn, cold));
/* USERKVM_CHECK=entry: `what` was left out wrongly, the nr'th word of it. No guest runs here any more. */
void cpu_left_out(struct vmx_cpu *cpu, const char *what, int nr);
/* --- entry.c, exit.c --- */
void cpu_load_guest(struct vmx_cpu *cpu);
/* The VMCS has the segments and tables that the processor has. */
void cpu_keep_segments(struct vmx_cpu *cpu);
/* Save guest state and exit fields without unwinding (failed entries, bus errors). */
void cpu_save_exit(struct vmx_cpu *cpu, const struct cpu_exit *e);
/* Reason 33 or 34: exit fields only, guest state of the VMCS unchanged. */
void cpu_failed_entry(struct vmx_cpu *cpu, uint32_t reason, uint64_t qualification);

/* --- mem.c, as struct isa_ops describes them --- */
void *cpu_mem(struct cpu_state *cs, uint64_t lin, unsigned size, enum isa_access how, void *bounce);
void cpu_mem_commit(struct cpu_state *cs, uint64_t lin, unsigned size, const void *bounce);
__attribute__((noreturn)) void cpu_raise(struct cpu_state *cs);

/* --- isa_ops.c --- */
extern const struct isa_ops cpu_isa_ops;

/* --- bus_lock.c --- */
#define CPU_LINE_BYTES 64u
/*
 * A locked access across two cache lines (c->part[0] ends where one does, c->part[1] begins where the other
 * does; size <= 8): its bytes, read after everybody's like it is excluded. Unwinds where a kick comes first.
 */
void cpu_bus_read(struct vmx_cpu *cpu, struct cpu_commit *c, void *bounce);
/* What the instruction made of them. Unwinds to the instruction's beginning where they have been changed since. */
void cpu_bus_write(struct vmx_cpu *cpu, const struct cpu_commit *c, const void *bounce);
/* The instruction that did the former may have been left by unwinding. */
void cpu_bus_unwound(struct vmx_cpu *cpu);
/* Is the running instruction's access one that LOCK makes atomic, and across two cache lines? */
bool cpu_is_split_lock(const struct vmx_cpu *cpu, gva_t lin, unsigned size, enum isa_access how);
/* The VM-execution controls were loaded: "VMM bus-lock detection" may have changed. */
void cpu_bus_lock_control(struct vmx_cpu *cpu);
/* An instruction was decoded; true: it is watched, and the last of its block. */
bool cpu_bus_lock_watch(const struct vmx_cpu *cpu, struct isa_insn *i);
/* The slow path's part: an access that has passed every check. */
void cpu_bus_lock_access(struct vmx_cpu *cpu, gva_t lin, unsigned size, enum cpu_priv priv,
			 enum isa_access how);
/* A watched instruction may have been left by unwinding. */
void cpu_bus_lock_unwound(struct vmx_cpu *cpu);

/* --- engine.c, interp.c, boundary.c, unwind.c --- */
extern const struct isa_insn cpu_boundary_insn;
/* State is canonical at cs->rip: isa_rip() == cs->rip from here on. */
static inline void cpu_at_boundary(struct vmx_cpu *cpu)
{
	cpu->cs.block_rip = cpu->cs.rip;
	cpu->cs.cur = &cpu_boundary_insn;
}
/* Run until a VM exit (true) or a bus error (false). */
bool cpu_interp(struct vmx_cpu *cpu);
/* Run until something unwinds, or returns by cpu_leave_insn(). */
void cpu_run(struct vmx_cpu *cpu);
/* One instruction, and what is due after it, unless it has left. */
void cpu_run_one(struct vmx_cpu *cpu);
/* Block after block, until something else has to be looked at, or an instruction has left. */
void cpu_run_blocks(struct vmx_cpu *cpu);
/*
 * Everything that can happen between two instructions, in the order of SDM
 * "Priority Among Concurrent Events" as VMX non-root operation has it.
 */
void cpu_boundary(struct vmx_cpu *cpu);
#define INTR_SHADOW (GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS)
/* Does the next instruction run alone? */
bool cpu_single_step(const struct vmx_cpu *cpu);
/* After a system instruction: is there more to do than to go on? */
bool cpu_need_care(const struct vmx_cpu *cpu);
/*
 * Behind a block with a system instruction, or one that ends for a write to the APIC: what the write does
 * (may exit), and cpu_need_care().
 */
bool cpu_after_system(struct vmx_cpu *cpu);
/* The preemption timer: has it expired; blocks until the next look, fewer the nearer it is. */
bool cpu_timer_expired(const struct vmx_cpu *cpu);
uint32_t cpu_timer_budget(const struct vmx_cpu *cpu);

/* --- jit_*.c: the translator; cpu/jit.h has the rest --- */
/* cpu_run_blocks() where there is a translator. */
void cpu_jit_run_blocks(struct vmx_cpu *cpu);
/*
 * A host fault: in emitted code? Then the guest's state at the start of the
 * instruction has been stored. Async-signal context.
 */
bool cpu_jit_fault(struct vmx_cpu *cpu, void *ucontext);
/*
 * Memory has vanished under a walk that emitted code asked for: the walk has failed, and the instruction's handler
 * will meet the same. False: there is none. Async-signal context.
 */
bool cpu_jit_refill_fault(struct vmx_cpu *cpu, void *ucontext);
/* Unwinds so that the interpreter runs the instruction that faulted. */
void cpu_jit_interpret_next(struct vmx_cpu *cpu);
/* One instruction was interpreted outside of cpu_jit_run_blocks(). */
void cpu_jit_ran_one(struct vmx_cpu *cpu);
/* The slots of emitted code, which are translations, have no page any more (jit_slot.c). */
void cpu_jit_drop_slots(struct vmx_cpu *cpu);
/* After every unwinding. */
void cpu_jit_unwound(struct vmx_cpu *cpu);
/* A write through p is about to happen: for the lock-step. */
void cpu_journal_note(struct vmx_cpu *cpu, uint8_t *p, unsigned size);

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

/* --- tlb_check.c --- */
/* A block that is about to run: for the ring and for the TLB's checker. */
void cpu_observe(struct vmx_cpu *cpu, const struct cpu_block *b);

/* --- trace_ring.c --- */
void cpu_ring_create(struct vmx_cpu *cpu);
void cpu_ring_block(struct vmx_cpu *cpu, const struct cpu_block *b);
void cpu_ring_dump(struct vmx_cpu *cpu, const char *why);

#endif
