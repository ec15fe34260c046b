/*
 * What run.c, event.c, vcpu.c, pio.c and mmio.c share, also with the emulate room.
 *
 * Context: the vCPU's owner thread.
 */
#ifndef USERKVM_X86_RUN_H
#define USERKVM_X86_RUN_H

#include <string.h>

#include "trace/trace.h"
#include "x86/x86.h"

/* --- event.c --- */
/* -EBUSY: something must wait until the guest has taken what it is given: it is to leave at once then. */
int inject_pending_event(struct kvm_vcpu *vcpu, bool req_int_win);
/* Is something to be delivered again? */
bool kvm_event_needs_reinjection(struct kvm_vcpu *vcpu);
int kvm_take_interrupt(struct kvm_vcpu *vcpu); /* a vector, or -1 */
/* A pending exception's effect on CR2 and DR6, now. */
void kvm_deliver_exception_payload(struct kvm_vcpu *vcpu, struct kvm_queued_exception *ex);

/* SDM "INIT in VMX operation": root operation holds it back; from L2 it is an exit. */
static inline bool kvm_init_is_held_back(struct kvm_vcpu *vcpu)
{
	return unlikely(vmx_in_vmx_operation(vcpu)) && !is_guest_mode(vcpu);
}

/* --- nested_event.c: events while L2 runs --- */
/* Exits to L1 that are due. -EBUSY: one must wait for L2's next exit. */
int kvm_check_nested_events(struct kvm_vcpu *vcpu);
/* Does L1 have one coming that no interrupt, NMI or SMI stands for? */
bool kvm_has_nested_events(struct kvm_vcpu *vcpu);
void kvm_nested_triple_fault(struct kvm_vcpu *vcpu);
void kvm_queue_exception_vmexit(struct kvm_vcpu *vcpu, uint8_t vector, bool has_error_code, uint32_t error_code,
				bool has_payload, uint64_t payload);
/* KVM_RUN: the exception that the client has set may be one that L1 wants. */
void kvm_sort_userspace_exception(struct kvm_vcpu *vcpu);
/* For vmx: the event to deliver again; all of them void. */
bool kvm_injected_event(struct kvm_vcpu *vcpu, struct vmx_event *e);
void kvm_clear_events(struct kvm_vcpu *vcpu);
void kvm_process_nmi(struct kvm_vcpu *vcpu);
void kvm_events_entered(struct kvm_vcpu *vcpu);
/* An interrupt waits, deliverable or not. */
bool kvm_event_has_interrupt(struct kvm_vcpu *vcpu);
/* One that is ours to inject: not one that the processor delivers by itself. */
bool kvm_event_has_injectable(struct kvm_vcpu *vcpu);
void kvm_event_queue(struct kvm_vcpu *vcpu, uint8_t vector, bool has_error_code,
		     uint32_t error_code, bool has_payload, uint64_t payload);
void kvm_event_requeue_exception(struct kvm_vcpu *vcpu, uint8_t vector, bool has_error_code,
				 uint32_t error_code);
void kvm_event_requeue_interrupt(struct kvm_vcpu *vcpu, uint8_t vector, bool soft);
void kvm_event_requeue_nmi(struct kvm_vcpu *vcpu);

/* --- run.c --- */
bool kvm_vcpu_has_events(struct kvm_vcpu *vcpu);
bool kvm_arch_vcpu_runnable(struct kvm_vcpu *vcpu);

/* --- request.c --- */
/* 1 go on; 0 leave with run->exit_reason; < 0 KVM_RUN's error: -EIO, the VM is dead. */
must_check int kvm_serve_requests(struct kvm_vcpu *vcpu);

/* --- pio.c --- */
/* 0 all of it done by devices of ours; 1 the client must: run->io is filled. */
int kvm_pio_out(struct kvm_vcpu *vcpu, uint16_t port, int size, const void *data, unsigned count);
int kvm_pio_in(struct kvm_vcpu *vcpu, uint16_t port, int size, void *data, unsigned count);
/* The data page of run->io. */
void *kvm_pio_data(struct kvm_vcpu *vcpu);
/* Linear address of the instruction at CS:RIP. */
uint64_t kvm_get_linear_rip(struct kvm_vcpu *vcpu);

/* --- mmio.c --- */
/* One access of at most 8 bytes. 0 taken by a device of ours, -EOPNOTSUPP nobody's. */
int kvm_device_mmio_read(struct kvm_vcpu *vcpu, gpa_t gpa, int len, void *val);
int kvm_device_mmio_write(struct kvm_vcpu *vcpu, gpa_t gpa, int len, const void *val);
void kvm_mmio_exit(struct kvm_vcpu *vcpu, gpa_t gpa, unsigned len, bool is_write,
		   const void *data);

/* --- guest_write.c --- */
/*
 * As kvm_vcpu_write_guest(), for a write that the guest takes for its own processor's: code that it
 * changes runs as written, shadowed page tables follow. 0 or -EFAULT, part of it done.
 */
int kvm_write_guest_as_processor(struct kvm_vcpu *vcpu, gpa_t gpa, const void *data, size_t len);
/*
 * The same as one locked access: `data` is written where memory still holds `old`. At most 8 bytes of one cache line.
 * 1 written, 0 it holds something else, -EFAULT.
 */
must_check int kvm_cmpxchg_guest_as_processor(struct kvm_vcpu *vcpu, gpa_t gpa, const void *old, const void *data, size_t len);

/* --- hypercall.c --- */
/* skip: RIP is still at the instruction, whose length the exit gave. */
int kvm_hypercall(struct kvm_vcpu *vcpu, bool skip);
/* #UD in its place. */
void kvm_hypercall_undefined(struct kvm_vcpu *vcpu, bool skip);
extern const uint8_t kvm_vmmcall[3];
/* The instruction the guest's vendor has for it: 3 bytes. */
const uint8_t *kvm_native_hypercall(struct kvm_vcpu *vcpu);
/* VMMCALL at RIP, an invalid opcode to the processor. */
int kvm_emulate_vmmcall(struct kvm_vcpu *vcpu);

/* --- smm.c --- */
/* KVM_REQ_SMI: an SMI has come; it waits until the vCPU can take it. */
void kvm_process_smi(struct kvm_vcpu *vcpu);
static inline bool kvm_smi_deliverable(struct kvm_vcpu *vcpu)
{
	return vcpu->arch->smi_pending && !vcpu->arch->smm;
}
/* Take the SMI: the state goes to the area at SMBASE, the handler's comes. */
void kvm_enter_smm(struct kvm_vcpu *vcpu);
/* RSM in SMM. False: the area cannot be read, nothing has changed. */
must_check bool kvm_leave_smm(struct kvm_vcpu *vcpu);
/* The vCPU is in SMM from now on, or no more: the address space follows. */
void kvm_smm_changed(struct kvm_vcpu *vcpu, bool entering);

/* --- ops.c --- */
/* The emulate room's services; (c) from kvm_register_emulator() on. */
extern const struct kvm_emulator_ops *kvm_emulator_ops;

/* --- debug.c --- */
bool kvm_guest_debug_exit(struct kvm_vcpu *vcpu, uint8_t vector, uint64_t dr6);
/* The instruction was emulated and the debugger steps: run->exit_reason is set, true. */
bool kvm_singlestep_exit(struct kvm_vcpu *vcpu);

/* What kvm_mmio says; val NULL: nothing yet. */
enum { KVM_TRACE_MMIO_READ_UNSATISFIED, KVM_TRACE_MMIO_READ, KVM_TRACE_MMIO_WRITE };

static inline void kvm_trace_mmio(unsigned type, unsigned len, gpa_t gpa, const void *val)
{
	uint64_t v = 0;

	if (TRACE_ON(kvm, kvm_mmio)) {
		if (val)
			memcpy(&v, val, len < sizeof(v) ? len : sizeof(v));
		TRACE(kvm, kvm_mmio, type, len, gpa, v);
	}
}

#endif
