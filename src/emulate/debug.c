/*
 * Breakpoints of instructions that are emulated in the processor's place (real mode without unrestricted guest): what its
 * debug registers would have done. The processor's own are src/cpu/debug.c.
 *
 * Invariants
 * 1. Instructions of an exit are not concerned: the processor has looked at its breakpoints before they exited.
 * 2. A hit on data is noted while the instruction runs, is told when it completes, and forgotten when it faults or
 *    begins again.
 * 3. Implicit accesses (descriptor tables, TSS, stacks of deliveries) do not match. I/O breakpoints do not either.
 *
 * Source: SDM Vol. 3, "Debug Registers", "Instruction-Breakpoint Exception Condition", "Data Memory and I/O Breakpoint
 * Exception Conditions". KVM's emulator looks at instruction breakpoints only (kvm_vcpu_check_code_breakpoint()).
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "emulate/internal.h"

#define CLIENT_DEBUGS (KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP)

enum { BP_CODE, BP_WRITE, BP_IO, BP_ACCESS }; /* DR7.R/Wn */

static bool armed(uint64_t dr7, unsigned n)
{
	return dr7 >> (2 * n) & 3;
}

static unsigned kind(uint64_t dr7, unsigned n)
{
	return dr7 >> (16 + 4 * n) & 3;
}

/* DR7.LENn: 1, 2, 8 or 4 bytes, at an address that is a multiple of that. */
static uint64_t length(uint64_t dr7, unsigned n)
{
	static const uint8_t bytes[] = { 1, 2, 8, 4 };

	return bytes[dr7 >> (18 + 4 * n) & 3];
}

void kvm_emulator_arm(struct kvm_emulator *e, struct kvm_vcpu *vcpu, bool from_exit)
{
	uint64_t dr7 = from_exit ? 0 : vmx_get_dr7(vcpu);

	e->dr7 = dr7 & DR7_BP_EN_MASK ? dr7 : 0;
	e->hits = 0;
}

/* The exception, or KVM_EXIT_DEBUG: 0, and KVM_RUN returns. */
static int tell(struct kvm_vcpu *vcpu, uint64_t dr6)
{
	if (kvm_guest_debug_exit(vcpu, X86_TRAP_DB, dr6))
		return 0;
	kvm_queue_exception_p(vcpu, X86_TRAP_DB, dr6);
	return 1;
}

bool kvm_emulator_code_breakpoint(struct kvm_emulator *e, struct kvm_vcpu *vcpu, int *r)
{
	uint64_t at, hits = 0;

	if (likely(!e->dr7) || vmx_get_rflags(vcpu) & X86_FLAGS_RF ||
	    vmx_get_interrupt_shadow(vcpu) & KVM_X86_SHADOW_INT_MOV_SS)
		return false;
	at = kvm_get_linear_rip(vcpu);
	for (unsigned n = 0; n < 4; n++)
		if (armed(e->dr7, n) && kind(e->dr7, n) == BP_CODE && vcpu->arch->eff_db[n] == at)
			hits |= BIT_ULL(n);
	if (!hits)
		return false;
	*r = tell(vcpu, hits);
	return true;
}

void kvm_emulator_watch(struct kvm_emulator *e, uint64_t lin, unsigned size, enum isa_access how)
{
	const uint64_t *db = kvm_emulator_vcpu(&e->cs)->arch->eff_db;

	if (how & ISA_IMPLICIT)
		return;
	for (unsigned n = 0; n < 4; n++) {
		uint64_t bytes = length(e->dr7, n), start = db[n] & ~(bytes - 1);
		bool watched = kind(e->dr7, n) == BP_ACCESS || (kind(e->dr7, n) == BP_WRITE && how & ISA_WRITE);

		if (armed(e->dr7, n) && watched && lin < start + bytes && start < lin + size)
			e->hits |= BIT_ULL(n);
	}
}

uint64_t kvm_emulator_traps(struct kvm_emulator *e, struct kvm_vcpu *vcpu)
{
	/* the client's are told when all of the instruction is done: kvm_emulator_watched() */
	return vcpu->arch->guest_debug & CLIENT_DEBUGS ? 0 : e->hits;
}

bool kvm_emulator_watched(struct kvm_emulator *e, struct kvm_vcpu *vcpu)
{
	return unlikely(e->hits) && vcpu->arch->guest_debug & CLIENT_DEBUGS && !tell(vcpu, e->hits);
}
