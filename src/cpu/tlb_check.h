/*
 * USERKVM_CHECK=tlb: is every translation that is used one that the SDM lets a
 * processor still have? (Vol. 3, "Caching Translation Information" of "Paging"
 * and of "VMX Support for Address Translation".)
 *
 * A cached translation may differ from the tables in memory until an operation
 * that has to invalidate it. So the model is not the tables' history but one bit
 * beside each slot of the caches (TLB, PDEs, guest-physical): `gone`, set by
 * every operation whose architectural scope covers the slot's mapping, cleared
 * when the slot is filled. A use is a bug of ours when
 *   - the mapping is gone, or was made under another VPID, PCID (unless global),
 *     EP4TA or paging mode than it is used under, and
 *   - a walk of the tables, with nothing cached and nothing changed, says
 *     otherwise: another page, fewer rights, or an A or D flag yet to be set.
 * While nothing has been invalidated there is nothing to walk for, and an
 * invalidation that was forgotten but changes nothing is not visible to a guest.
 *
 * Scopes come from the operation's operands and from watching CR0 and CR4, not
 * from what tlb.c drops. They are the least that the SDM requires: tlb.c may
 * drop more.
 *
 * On: every data access takes the slow path (cs->tlb is the empty one) and every
 * block is looked at before it runs (cpu->observed), the blocks that follow by
 * succ[] too. Off: cpu->tlb->check is NULL, looked at on slow paths only.
 */
#ifndef USERKVM_CPU_TLB_CHECK_H
#define USERKVM_CPU_TLB_CHECK_H

#include "cpu/internal.h"

/* What an operation invalidates: linear and combined mappings, or guest-physical ones. */
struct tlb_scope {
	bool guest_physical;
	bool combined;		/* linear mappings stay: INVEPT */
	bool every_vpid, but_zero; /* INVVPID spares VPID 0000H */
	bool every_pcid;
	bool globals_of_every_pcid; /* INVLPG */
	bool keeps_globals;
	bool every_ep4ta;
	bool one_address;	/* of gva, or gpa where guest_physical */
	bool every_pde;		/* one_address, and all PDEs of the PCID: INVLPG */
	uint16_t vpid, pcid;
	uint64_t eptp;
	gva_t gva;
	gpa_t gpa;
};

/*
 * SDM "Operations that Invalidate TLBs and Paging-Structure Caches": MOV to CR0
 * that clears PG, MOV to CR4 that changes PGE or clears PCIDE; of the current
 * PCID, MOV to CR4 that changes PAE or sets SMEP. From these values to those of
 * the processor; false: nothing is invalidated.
 */
static inline bool tlb_scope_of_registers(const struct vmx_cpu *cpu, uint64_t old_cr0, uint64_t old_cr4,
					  struct tlb_scope *s)
{
	uint64_t cr0 = cpu->cs.cr0, cr4 = cpu->cs.cr4, changed = cr4 ^ old_cr4;

	*s = (struct tlb_scope){ .vpid = cpu->vpid, .every_ep4ta = true, .pcid = cpu_pcid(&cpu->cs, cpu->cs.cr3) };
	s->every_pcid = (old_cr0 & ~cr0 & X86_CR0_PG) || (changed & X86_CR4_PGE) || (changed & old_cr4 & X86_CR4_PCIDE);
	return s->every_pcid || (changed & X86_CR4_PAE) || (changed & cr4 & X86_CR4_SMEP);
}

struct tlb_checker;
/* -ENOMEM */
must_check int tlb_check_create(struct vmx_cpu *cpu);
void tlb_check_destroy(struct vmx_cpu *cpu);

/* An operation of this scope takes place. */
void tlb_check_invalidated(struct vmx_cpu *cpu, const struct tlb_scope *s);
/* VM entry has loaded guest state: changes of CR0 and CR4 by it invalidate nothing. */
void tlb_check_entered(struct vmx_cpu *cpu);

/* A slot of cpu->tlb->cur has been filled; a translation is used. */
void tlb_check_filled(struct vmx_cpu *cpu, enum cpu_priv priv, gva_t gva);
void tlb_check_used(struct vmx_cpu *cpu, enum cpu_priv priv, gva_t gva, uint32_t access);
void tlb_check_pde_filled(struct vmx_cpu *cpu, gva_t gva);
void tlb_check_pde_used(struct vmx_cpu *cpu, gva_t gva);
void tlb_check_ept_filled(struct vmx_cpu *cpu, gpa_t gpa);
void tlb_check_ept_used(struct vmx_cpu *cpu, gpa_t gpa, uint32_t access);
/* The block at cs->rip is about to run. State becomes canonical. */
void tlb_check_block(struct vmx_cpu *cpu, const struct cpu_block *b);

#endif
