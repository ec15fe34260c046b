/*
 * The emulator: instructions that no processor can complete alone. An exit
 * brings one here because it reaches a device (MMIO, INS and OUTS), because it
 * writes to a page table that is shadowed, or because the guest is in a state
 * that a VM entry refuses (unrestricted_guest=0). (Linux: arch/x86/kvm/emulate.c)
 *
 * What an instruction does is the isa room's, as in the processor. This room
 * has the memory behind it (guest RAM, devices, the client), the system
 * instructions (segments, far transfers, control registers), and task switches.
 *
 * Files: emulate.c (the loop, its invariants), fetch.c (the bytes at RIP), mem.c (guest memory and devices),
 * io.c (ports), state.c (registers in and out), table.c (which system
 * instructions, and who may run them), sys.c (system instructions),
 * seg.c (segments), far.c (far transfers), task.c (task switches).
 *
 * The x86 room lies below and calls by struct kvm_emulator_ops.
 *
 * Context: the vCPU's owner thread, outside the guest, vcpu->mutex held; no other
 * lock. A function that an exit handler returns by answers 1 (enter the guest
 * again), 0 (leave KVM_RUN with run->exit_reason) or KVM_RUN's -errno.
 */
#ifndef USERKVM_EMULATE_EMULATE_H
#define USERKVM_EMULATE_EMULATE_H

#include "x86/x86.h"

/* Registers the room with the x86 room. Before kvm_x86_init(); idempotent. */
void emulate_init(void);

/* A vCPU's emulator, vcpu->arch->emulator. -ENOMEM. */
must_check int kvm_emulator_create(struct kvm_vcpu *vcpu);
void kvm_emulator_destroy(struct kvm_vcpu *vcpu);

/* Emulates the instruction at RIP; see struct vmx_services. */
int kvm_emulate_instruction(struct kvm_vcpu *vcpu, bool has_gpa, gpa_t gpa);

/* The instruction at RIP as text, "" where its bytes cannot be read; see struct vmx_services. */
void kvm_insn_text(struct kvm_vcpu *vcpu, char *buf, size_t size);

/*
 * In place of a VM entry where vmx_emulation_required(): some instructions, the
 * event that was to be injected first.
 */
int kvm_emulate_invalid_guest_state(struct kvm_vcpu *vcpu);

/* The exit of an invalid opcode: VMMCALL and RSM, #UD for all others. */
int kvm_handle_ud(struct kvm_vcpu *vcpu);

/* SDM Vol. 3, "Task Switching", by exit reason 9; source: enum task_switch_source. */
int kvm_task_switch(struct kvm_vcpu *vcpu, uint16_t selector, int source, bool has_error_code,
		    uint32_t error_code, int idt_vector);

/* Where the instruction begins whose accesses are being made: its writes come when RIP has moved on. */
uint64_t kvm_emulator_rip(struct kvm_vcpu *vcpu);

/* KVM_EXIT_INTERNAL_ERROR / EMULATION with the bytes looked at. Returns 0 (leave) or 1 (#UD for CPL 3). */
int kvm_emulation_failed(struct kvm_vcpu *vcpu, const uint8_t *bytes, unsigned len);

/* Up to `len` bytes of code at CS:RIP; their number, which is 0 with *fault filled. */
unsigned kvm_fetch_code(struct kvm_vcpu *vcpu, uint8_t *bytes, unsigned len,
			struct kvm_page_fault_info *fault);

#endif
