/*
 * What emulate.c (memory, devices, the loop), emulate_state.c (registers in and
 * out) and emulate_sys.c (system instructions) share.
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
