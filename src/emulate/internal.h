/*
 * What emulate.c (the loop), fetch.c (bytes at RIP), mem.c (guest memory and devices), io.c (ports),
 * state.c (registers in and out), debug.c (breakpoints), sys.c (system instructions), seg.c (segments),
 * far.c (far transfers) and task.c (task switches) share.
 *
 * Context: the vCPU's owner thread, while an instruction is being emulated.
 */
#ifndef USERKVM_EMULATE_INTERNAL_H
#define USERKVM_EMULATE_INTERNAL_H

#include "emulate/emulate.h"
#include "isa/decoder.h"
#include "isa/system.h"
#include "x86/run.h"

/* What a system instruction did beside general registers, flags and memory. */
struct emulator_sys {
	uint32_t dirty_segs;   /* bits of enum sreg: cs.seg[] goes back to the vCPU */
	bool dirty_tables;     /* GDTR, IDTR */
	bool dirty_system_segs; /* LDTR, TR */
	uint32_t shadow;       /* KVM_X86_SHADOW_INT_* from the next instruction on */
	bool halt;	       /* HLT */
};

#define INSN_MAX 15
#define MAX_FRAGMENTS 32 /* of one instruction: 64 bytes and a page crossing, twice */

/* A piece of a device access. */
struct fragment {
	gpa_t gpa;
	unsigned len;
	uint8_t data[8];
};

enum outcome {
	OUT_DONE,	 /* instruction or iteration complete */
	OUT_EXCEPTION,	 /* cs.exception, for the guest */
	OUT_EXIT,	 /* run->exit_reason set: read data wanted */
	OUT_WRITES,	 /* iteration complete, its device writes must go out first */
	OUT_REPLACED,	 /* complete, and the registers are the vCPU's already: RSM */
	OUT_UNSUPPORTED, /* not an instruction we emulate */
	OUT_ERROR,	 /* error: KVM_RUN's value */
};

/* Instructions that were emulated before: device loops come back to the same few. */
#define NR_DECODED 16
struct decoded {
	uint8_t bytes[INSN_MAX], len; /* 0: none */
	uint8_t mode;
	struct isa_insn insn;
};

/* A task switch in progress (task.c). */
struct emulator_task {
	uint16_t selector; /* of the new TSS */
	enum task_switch_source source;
	bool has_error_code;
	uint32_t error_code;
};

struct kvm_emulator {
	struct cpu_state cs; /* first: cs.owner is the vCPU */
	struct isa_insn insn;
	uint8_t bytes[INSN_MAX];
	unsigned nr_bytes;
	enum isa_code_mode mode;      /* of the vCPU now */
	enum isa_code_mode insn_mode; /* insn is bytes[] decoded for this one, if insn_valid */
	bool insn_valid;
	struct decoded decoded[NR_DECODED]; /* by RIP; never believed but by bytes and mode */
	struct vmx_exit_insn assist;  /* of the exit, while has_assist: until the client or another instruction */
	bool has_assist;
	bool check; /* (c) USERKVM_CHECK=emulate: what the exit has told is found out again */
	uint64_t rip;	 /* where the instruction in progress is */
	bool active;	 /* waits for the client's data */
	uint64_t stamp;	 /* vmx_state_stamp() when it began to wait */

	void *unwind[5];
	enum outcome outcome;
	int error;
	bool too_long; /* more device writes than writes[] holds: not one that we emulate */

	struct fragment reads[MAX_FRAGMENTS];
	unsigned nr_reads, next_read;
	struct fragment writes[MAX_FRAGMENTS];
	unsigned nr_writes, next_write;
	/* the string registers when the current iteration began */
	uint64_t it_rcx, it_rsi, it_rdi;

	uint8_t pio_in[PAGE_SIZE]; /* elements of a string IN not yet stored */
	unsigned pio_avail, pio_next; /* bytes */
	bool pio_wait;		      /* the client fills run->io */
	bool pio_exit;		      /* an OUT goes to the client */

	enum isa_access access; /* of the last kvm_emulator_mem(), for its commit */
	uint8_t locked_old[8];	/* what a LOCKed instruction has read, which memory must still hold when it writes */
	unsigned locked_len;	/* 0: it has read nothing, or what cannot be exchanged as one */
	struct emulator_sys sys;
	struct emulator_task task;
	uint64_t dr7;	/* in force for the instruction; 0: no breakpoint is (debug.c) */
	uint64_t hits;	/* DR6's bits of the data breakpoints that it has met */
	struct kvm_page_fault_info nested_fault; /* of cs.exception, where EPT12 is behind it */
	gpa_t fault_gpa; /* ~0: none. As fault_gva, with EPT */
	gva_t fault_gva; /* ~0: none. The write that brought us here, perhaps to a page table */
};

static inline struct kvm_emulator *kvm_emulator_of(struct cpu_state *cs)
{
	return container_of(cs, struct kvm_emulator, cs);
}

static inline struct kvm_vcpu *kvm_emulator_vcpu(struct cpu_state *cs)
{
	return cs->owner;
}

/* The guest tries again. */
void kvm_emulator_retry(struct cpu_state *cs) __attribute__((noreturn));
/* Back to emulate.c's loop, from any depth. */
void kvm_emulator_leave(struct kvm_emulator *e, enum outcome o) __attribute__((noreturn));

/*
 * Runs fn once as an instruction's handler over the vCPU's registers, which it commits itself: kvm_emulator_store().
 * 1: done, or its exception is queued. -EFAULT: what it needs is no memory.
 */
must_check int kvm_emulator_run_alone(struct kvm_vcpu *vcpu, isa_fn *fn);

/* --- fetch.c --- */

/* The instruction at RIP into e->insn. OUT_DONE, or why there is none to run. */
enum outcome kvm_emulator_decode(struct kvm_emulator *e, struct kvm_vcpu *vcpu);

/* --- mem.c --- */

/* isa_ops.mem: always through `bounce`. May leave. */
void *kvm_emulator_mem(struct cpu_state *cs, uint64_t lin, unsigned size, enum isa_access how,
		       void *bounce);
/* isa_ops.mem_commit: cannot leave; what goes wrong is in e->error. */
void kvm_emulator_mem_commit(struct cpu_state *cs, uint64_t lin, unsigned size, const void *bounce);
void kvm_emulator_raise(struct cpu_state *cs) __attribute__((noreturn));
void kvm_emulator_begin_iteration(struct kvm_emulator *e);
/* USERKVM_CHECK=emulate: `known` (INVALID_PAGE: nothing) is to be what the walk has found. The latter. */
gpa_t kvm_emulator_checked(struct kvm_emulator *e, gpa_t walked, gpa_t known);
/* RAM that may be accessed so; anything else is a device's. */
bool kvm_emulator_is_ram(struct kvm_vcpu *vcpu, gpa_t gpa, bool write);

/* The handler of IN, OUT, INS or OUTS (io.c). */
isa_fn *kvm_emulator_io(const struct isa_decoded *d, struct isa_insn *i);

/* Registers of the vCPU into cs, with code_mode and stack_mode; and what was emulated back. */
void kvm_emulator_load(struct kvm_vcpu *vcpu, struct cpu_state *cs);
void kvm_emulator_mode_changed(struct cpu_state *cs); /* isa_ops.mode_changed */
/* What kvm_emulator_load() leaves out: GDTR and IDTR, for system instructions; TR and LDTR, for few of those. */
void kvm_emulator_load_tables(struct cpu_state *cs);
void kvm_emulator_load_tr_ldt(struct cpu_state *cs);
/* The vCPU's registers are, or are not, what kvm_emulator_store() or kvm_emulator_load() left in both. */
bool kvm_emulator_state_kept(const struct kvm_emulator *e, struct kvm_vcpu *vcpu);
/* USERKVM_CHECK=emulate: found by loading them. */
bool kvm_emulator_loads_the_same(const struct kvm_emulator *e, struct kvm_vcpu *vcpu);
void kvm_emulator_store(struct kvm_vcpu *vcpu, const struct cpu_state *cs, const struct emulator_sys *sys);

struct emulator_sys *kvm_emulator_sys(struct cpu_state *cs);
/* Not an instruction (or not a case of it) that we emulate: unwinds. */
void kvm_emulator_unsupported(struct cpu_state *cs) __attribute__((noreturn));

/* The instruction has put another state into the vCPU, which stays: unwinds. */
void kvm_emulator_replaced(struct cpu_state *cs) __attribute__((noreturn));

/* --- debug.c --- */

/* Before an instruction: which breakpoints are in force for it. */
void kvm_emulator_arm(struct kvm_emulator *e, struct kvm_vcpu *vcpu, bool from_exit);
/* One on the instruction at RIP: it is not to run, and *r is KVM_RUN's loop's: 0 KVM_EXIT_DEBUG, 1 #DB is queued. */
must_check bool kvm_emulator_code_breakpoint(struct kvm_emulator *e, struct kvm_vcpu *vcpu, int *r);
/* An access of the instruction's, while e->dr7. */
void kvm_emulator_watch(struct kvm_emulator *e, uint64_t lin, unsigned size, enum isa_access how);
/* What the instruction, or iteration, that has completed has met, for the guest's #DB: DR6's bits. */
uint64_t kvm_emulator_traps(struct kvm_emulator *e, struct kvm_vcpu *vcpu);
/* The same for the client: true, run is filled with KVM_EXIT_DEBUG. */
must_check bool kvm_emulator_watched(struct kvm_emulator *e, struct kvm_vcpu *vcpu);

/* --- table.c --- */

/*
 * The handler of a system instruction, NULL where there is none. Real mode is
 * complete; protected mode at CPL 0 has what leads from one to the other
 * (docs/shadow.md), every mode what may have to write where nothing can be
 * written, and what reaches devices.
 */
isa_fn *kvm_emulator_system(const struct isa_decoded *d, struct isa_insn *i);
/* Before the handler of one (i->system): #GP or #UD unless the vCPU may run it. May leave. */
void kvm_emulator_check_privilege(struct cpu_state *cs, const struct isa_insn *i);

/* --- sys.c: what the handlers share --- */

static inline void kvm_emulator_next(struct cpu_state *cs, const struct isa_insn *i)
{
	cs->rip = isa_next_rip(cs, i);
}

/* The instructions. load_table, store_table: of IDTR if i->aux; int_fixed: vector i->aux. */
isa_fn kvm_insn_int_fixed, kvm_insn_cli, kvm_insn_sti, kvm_insn_pushf, kvm_insn_popf,
	kvm_insn_load_table, kvm_insn_store_table, kvm_insn_mov_to_cr, kvm_insn_mov_from_cr,
	kvm_insn_lmsw, kvm_insn_smsw, kvm_insn_clts, kvm_insn_mov_dr, kvm_insn_hlt, kvm_insn_cpuid,
	kvm_insn_rdmsr, kvm_insn_rdtsc, kvm_insn_wrmsr, kvm_insn_invpcid, kvm_insn_nothing,
	kvm_insn_rsm, kvm_insn_hint, kvm_insn_not_in_real_mode, kvm_insn_flush;

/* --- seg.c --- */

/* isa_ops.descriptor_bit */
void kvm_emulator_descriptor_bit(struct cpu_state *cs, gva_t lin, uint64_t raw, unsigned bit);
isa_fn kvm_emulate_mov_from_sreg, kvm_emulate_mov_to_sreg, kvm_emulate_push_sreg, kvm_emulate_pop_sreg;
isa_fn kvm_emulate_load_far_pointer; /* of the segment register i->aux */
isa_fn kvm_emulate_lldt, kvm_emulate_ltr;
isa_fn kvm_emulate_store_system_selector; /* STR if i->aux, else SLDT */

/* --- far.c --- */

isa_fn kvm_emulate_jmp_far, kvm_emulate_call_far, kvm_emulate_ret_far, kvm_emulate_iret_real;
/* Real-mode interrupt i->imm, which returns to the instruction i->len bytes on. */
isa_fn kvm_emulate_int_real;

#endif
