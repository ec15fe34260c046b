/*
 * USERKVM_CHECK=l1ept: has a hypervisor in the guest (L1) forgotten an INVEPT? (docs/sanitizers.md;
 * SDM Vol. 3, "Operations that Invalidate Cached Mappings", "Guidelines for Use of the INVEPT
 * Instruction".)
 *
 * EPT02 follows each of L1's writes to EPT12, so that such a bug never shows here. Silicon
 * goes on with what it has cached. Beside the MMU stands what a vCPU may have cached: each
 * mapping that its L2 has used.
 *
 *	L2 faults, EPT12 allows it ─► l1ept_used()     it is held by the vCPU
 *	L1 writes an EPT12 entry   ─► l1ept_written()  a held mapping that lost something: a record
 *	INVEPT of L1's             ─► l1ept_invept()   what it covers is held no longer, until L2 runs there again
 *	L2 faults                  ─► l1ept_used()     by a mapping with a record, settled: a report
 *
 * Between the write and the INVEPT on another vCPU a use is legal. A record is settled where
 * the thread of L1's that has written (known by CR3 and FS base) enters a guest on that vCPU; where it
 * has no FS base, any thread; and where that vCPU has been in user mode, halted or in another L2 since, whose writer
 * may be a thread that enters no guest.
 *
 * Invariants
 * 1. Only INVEPT, an EPT violation that L1 hears of, and reset close: not INVVPID, VM entries, MOV CR3,
 *    VMCLEAR or VMXOFF.
 * 2. Mappings are compared by effect, along the whole path.
 * 3. A vCPU whose L2 has not faulted for a mapping that another one's has used may have it cached all the same: it
 *    counts as held where the vCPU has entered a guest by the written entry since its last INVEPT.
 * 4. What is forgotten for room is a miss, never a report.
 *
 * Locks: one of its own, a leaf; guest memory is read with it held. The vCPU's thread, outside the guest.
 */
#ifndef USERKVM_MMU_L1EPT_H
#define USERKVM_MMU_L1EPT_H

#include "mmu/nested_mmu.h"

struct l1ept;

/* NULL without USERKVM_CHECK=l1ept, or without memory for it (told). */
struct l1ept *l1ept_create(void);
void l1ept_destroy(struct l1ept *k); /* tells the counts */

/* The first two only where kvm_mmu_vm.l1ept is not NULL. L2 of the vCPU has faulted at gpa: gw is EPT12's walk; NULL: EPT12 does not allow it, L1 hears of it. */
void l1ept_used(struct kvm_vcpu *vcpu, gpa_t gpa, uint32_t access, const struct guest_walker *gw);
/* L1's processor has written there. */
void l1ept_written(struct kvm_vcpu *vcpu, gpa_t gpa, size_t len);
/* L1's VMLAUNCH or VMRESUME is about to take place: L1's registers are the vCPU's still. eptp: 0 without EPT. */
void l1ept_enters_l2(struct kvm_vcpu *vcpu, uint64_t eptp);
void l1ept_invept(struct kvm_vcpu *vcpu, bool all, uint64_t eptp);

#endif
