/*
 * What emulate.c (the loop), emulate_mem.c (guest memory and devices),
 * emulate_io.c (ports), emulate_state.c (registers in and out) and emulate_sys.c
 * (system instructions) share.
 *
 * Context: the vCPU's owner thread, while an instruction is being emulated.
 */
#ifndef USERKVM_X86_EMULATOR_H
#define USERKVM_X86_EMULATOR_H

#include "isa/decoder.h"
#include "isa/isa.h"
#include "x86/run.h"

/* What a system instruction did beside general registers, flags and memory. */
struct emulator_sys {
	uint32_t dirty_segs;   /* bits of enum sreg: cs.seg[] goes back to the vCPU */
	bool dirty_tables;     /* GDTR, IDTR */
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

struct kvm_emulator {
	struct cpu_state cs; /* first: cs.owner is the vCPU */
	struct isa_insn insn;
	uint8_t bytes[INSN_MAX];
	unsigned nr_bytes;
	enum isa_code_mode mode;      /* of the vCPU now */
	enum isa_code_mode insn_mode; /* insn is bytes[] decoded for this one, if insn_valid */
	bool insn_valid;
	uint64_t rip;	 /* where the instruction in progress is */
	bool active;	 /* waits for the client's data */

	void *unwind[5];
	enum outcome outcome;
	int error;

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

	struct emulator_sys sys;
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

/* Back to emulate.c's loop, from any depth. */
void kvm_emulator_leave(struct kvm_emulator *e, enum outcome o) __attribute__((noreturn));

/* --- emulate_mem.c --- */

/* isa_ops.mem: always through `bounce`. May leave. */
void *kvm_emulator_mem(struct cpu_state *cs, uint64_t lin, unsigned size, enum isa_access how,
		       void *bounce);
/* isa_ops.mem_commit: cannot leave; what goes wrong is in e->error. */
void kvm_emulator_mem_commit(struct cpu_state *cs, uint64_t lin, unsigned size, const void *bounce);
void kvm_emulator_raise(struct cpu_state *cs) __attribute__((noreturn));
void kvm_emulator_begin_iteration(struct kvm_emulator *e);
/* RAM that may be accessed so; anything else is a device's. */
bool kvm_emulator_is_ram(struct kvm_vcpu *vcpu, gpa_t gpa, bool write);

/* The handler of IN, OUT, INS and OUTS (emulate_io.c), NULL for others. */
isa_fn *kvm_emulator_io(const struct isa_decoded *d, struct isa_insn *i);

/* Registers of the vCPU into cs, with code_mode and stack_mode; and what was emulated back. */
void kvm_emulator_load(struct kvm_vcpu *vcpu, struct cpu_state *cs);
void kvm_emulator_store(struct kvm_vcpu *vcpu, const struct cpu_state *cs, const struct emulator_sys *sys);

struct emulator_sys *kvm_emulator_sys(struct cpu_state *cs);
/* Not an instruction (or not a case of it) that we emulate: unwinds. */
void kvm_emulator_unsupported(struct cpu_state *cs) __attribute__((noreturn));

/* The instruction has put another state into the vCPU, which stays: unwinds. */
void kvm_emulator_replaced(struct cpu_state *cs) __attribute__((noreturn));

/*
 * The handler of a system instruction outside 64-bit mode, NULL where there is
 * none. Real mode is complete; protected mode has what leads from one to the
 * other at CPL 0 (docs/shadow.md).
 */
isa_fn *kvm_emulator_system(const struct isa_decoded *d, struct isa_insn *i);
/* Real-mode interrupt i->imm, which returns to the instruction i->len bytes on. */
void kvm_emulate_int_real(struct cpu_state *cs, const struct isa_insn *i);

#endif
