/*
 * A debugger of the VM's that is not its client: another process's, by the control room.
 *
 *	         kvm_debugger_hold()                 kvm_debugger_run()
 *	 runs ───────────────────────→ on hold ──────────────────────────→ runs
 *	   └── a breakpoint, a step ──→ on hold, a hit to be fetched ─────↗
 *
 * A vCPU on hold does not enter the guest. Its thread waits in KVM_RUN ("parked"), or is with the client; a
 * client's signal ends the waiting and KVM_RUN as it would have ended the guest's running, and the next KVM_RUN
 * waits again. The client sees no KVM_EXIT_DEBUG of this debugger's.
 *
 * Invariants
 * 1. A VM has one debugger at most, and none beside a client that uses KVM_SET_GUEST_DEBUG.
 * 2. A vCPU's state is used by the debugger between kvm_debugger_begin() and _end() only: its thread is parked,
 *    and cannot leave, or is not in KVM_RUN, and its mutex is ours.
 * 3. Without a debugger a vCPU reads one byte a VM exit for it.
 *
 * Locks: vcpu->mutex > kvm_debugger_vm.lock > what the functions of x86.h take. The debugger's side takes
 * the mutex by trying only.
 */
#ifndef USERKVM_X86_DEBUGGER_H
#define USERKVM_X86_DEBUGGER_H

#include <linux/kvm.h>

#include "lib/types.h"

struct kvm;
struct kvm_vcpu;

/* --- the vCPU's side: debug_park.c; owner thread, vcpu->mutex held, not in guest mode --- */

/* Waits while the vCPU is on hold. 1 it may run; -EINTR a signal came. */
must_check int kvm_debugger_park(struct kvm_vcpu *vcpu);
/* KVM_RUN is to return 0: true, it is a KVM_EXIT_DEBUG of the debugger's, and the vCPU is on hold. */
must_check bool kvm_debugger_takes(struct kvm_vcpu *vcpu);
/* Moves with each hit: a futex for who waits for one. */
uint32_t *kvm_debugger_event_word(struct kvm *kvm);
/*
 * A new vCPU of a VM that waits for its debugger is on hold from the start (USERKVM_GDB=wait); until a debugger
 * has been attached to some VM of the process and has called kvm_debugger_wait_no_more().
 */
void kvm_debugger_init_vcpu(struct kvm_vcpu *vcpu);

/* --- the debugger's side: debugger.c; any thread that is not a vCPU's, with a reference on the VM --- */

/*
 * What XSAVE's components 2 and 5 to 7 hold, each at its place whatever the host's layout; zero what the guest has
 * not (SDM Vol. 1, "XSAVE-Supported Features and State-Component Bitmaps").
 */
struct kvm_debugger_vectors {
	uint64_t components; /* the bits of XCR0 that the vCPU's CPUID offers; not to be set */
	uint8_t ymm_high[16][16];
	uint64_t k[8];
	uint8_t zmm_high[16][32];
	uint8_t zmm16[16][64]; /* ZMM16 to ZMM31 */
};

/* Of a vCPU, as KVM_GET_REGS and its like give them. */
struct kvm_debugger_regs {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_fpu fpu;
	uint64_t kernel_gs_base;
	struct kvm_debugger_vectors vectors;
};

/* What a vCPU does when it runs on; dr7 0: no hardware breakpoints. */
struct kvm_debugger_plan {
	bool step; /* one instruction, without interrupts */
	uint64_t db[4], dr7;
};

struct kvm_debugger_hit {
	uint32_t vcpu_id;
	uint8_t vector; /* 1 or 3 */
	uint64_t dr6;
};

/* -EBUSY: it has a debugger, or the client is one. Nothing is on hold by it. */
must_check int kvm_debugger_attach(struct kvm *kvm);
/* Every vCPU runs on, with nothing of the debugger's left but what it has written to memory. */
void kvm_debugger_detach(struct kvm *kvm);
/* Releases the vCPUs that USERKVM_GDB=wait keeps, of this VM, which is not the debugger's. */
void kvm_debugger_wait_no_more(struct kvm *kvm);
/* Puts every vCPU on hold, those included that were made meanwhile. -ETIMEDOUT: one has not left the guest in 5 s. */
must_check int kvm_debugger_hold(struct kvm *kvm);
/* The state of a vCPU on hold is the caller's from begin (0) to end; it may not block meanwhile. -ETIMEDOUT as above. */
must_check int kvm_debugger_begin(struct kvm_vcpu *vcpu);
void kvm_debugger_end(struct kvm_vcpu *vcpu);
/* One that has not been fetched; false: none. */
bool kvm_debugger_fetch(struct kvm *kvm, struct kvm_debugger_hit *hit);
/* Takes a vCPU off hold. Between begin and end. */
must_check int kvm_debugger_run(struct kvm_vcpu *vcpu, const struct kvm_debugger_plan *plan);
/* The exception of a hit that was the guest's own is delivered when the vCPU runs on. Between begin and end. */
void kvm_debugger_give_back(struct kvm_vcpu *vcpu, const struct kvm_debugger_hit *hit);

/* The rest stands between begin and end too. */
void kvm_debugger_get_regs(struct kvm_vcpu *vcpu, struct kvm_debugger_regs *r);
/* -EINVAL as KVM_SET_REGS and its like: what does not differ is not set. */
must_check int kvm_debugger_set_regs(struct kvm_vcpu *vcpu, const struct kvm_debugger_regs *r);
bool kvm_debugger_has_long_mode(struct kvm_vcpu *vcpu);
/* Any time: a HLT that lasts, or waiting for INIT or SIPI; its thread waits in KVM_RUN on hold. */
bool kvm_debugger_is_halted(struct kvm_vcpu *vcpu);
bool kvm_debugger_is_parked(struct kvm_vcpu *vcpu);
/* The guest-physical address behind a linear one; false: its tables have none. */
bool kvm_debugger_translate(struct kvm_vcpu *vcpu, gva_t gva, gpa_t *gpa);
/* By guest-physical address, within a page. -EFAULT: no memory, or it cannot be written. */
must_check int kvm_debugger_read(struct kvm_vcpu *vcpu, gpa_t gpa, void *data, size_t n);
must_check int kvm_debugger_write(struct kvm_vcpu *vcpu, gpa_t gpa, const void *data, size_t n);

#endif
