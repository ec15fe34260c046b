/*
 * USERKVM_CHECK=l1vpid: has a hypervisor in the guest (L1) forgotten an INVVPID? (docs/sanitizers.md; SDM Vol. 3,
 * "Operations that Invalidate Cached Mappings", "Guidelines for Use of the INVVPID Instruction".)
 *
 * L2's translations are tagged with L1's VPID, and a VM entry invalidates none of them. Beside the processor stands
 * what it may have cached: each translation that L2 has used, with the entries that the walk read.
 *
 *	L2's walk succeeds       ─► l1vpid_filled()     it is held, under L1's VPID
 *	L2 leaves to L1          ─► vmx_check_l2_left()   what L2 may have changed itself and has changed by now: held no longer
 *	L1's VM entry            ─► vmx_check_l2_enters() what has changed by now, and GUEST_CR3, L1 has changed: open
 *	INVVPID of L1's; L2's own MOV CR3, INVLPG, …  ─► what it covers is held no longer
 *	L2's next use            ─► l1vpid_filled(), l1vpid_fault()   of an open, settled one: a report
 *
 * Each VM entry of L2's drops the software TLB, so that the first use of each page behind it comes to the walk.
 * Another vCPU's L1 may have made the change, its shoot-down on the way: a change is settled when every other
 * processor has entered an L2, been in user mode or halted since.
 *
 * Invariants
 * 1. What is held only shrinks by the scopes that the SDM gives; what L0 drops besides plays no part.
 * 2. A change of tables that an L2 may have stored to, made while an L2 ran, here or on another processor, may be that
 *    one's: it is forgotten, which is a miss and no report. Shadow page tables are no such tables.
 * 3. Memory is read by host_copy_from(), outside the guest.
 *
 * Locks: a processor's part is its thread's; `calm` and `times` are atomic; the machine's lock to look at the others.
 */
#ifndef USERKVM_CPU_L1VPID_H
#define USERKVM_CPU_L1VPID_H

#include "cpu/ghost.h"

struct l1vpid;
struct l1vpid_machine;

/* NULL and 0: USERKVM_CHECK asks neither for it nor for l1ept, which asks when processors were calm. -ENOMEM. */
must_check int l1vpid_create(struct l1vpid_machine **out);
void l1vpid_destroy(struct l1vpid_machine *m); /* tells the counts */
must_check int l1vpid_cpu_create(struct vmx_cpu *cpu);
void l1vpid_cpu_destroy(struct vmx_cpu *cpu);

/* --- the processor's thread; cpu->tlb->l1vpid is not NULL --- */

/* The walk, whose path cpu->tlb->path has, has ended at r. */
void l1vpid_filled(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv, const struct cpu_walk_result *r);
/* The access is about to be a page fault. */
void l1vpid_fault(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv);
/* An operation of this scope is about to take place: counts where the guest's own instruction is it. */
void l1vpid_scope(struct vmx_cpu *cpu, const struct tlb_scope *s);
/* CPL or the like may have changed; a VM exit. */
void l1vpid_mode_changed(struct vmx_cpu *cpu);
void l1vpid_left(struct vmx_cpu *cpu, bool halted);

#endif
