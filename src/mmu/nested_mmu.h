/*
 * Inside mmu: the contexts of a vCPU that runs an L2.
 *
 *	            processor runs on    walk_mmu (kvm_mmu_gva_to_gpa)
 *	L1          root_mmu             root_mmu
 *	L2, no EPT12  root_mmu           root_mmu      (L2's CR3 leads to L1's own shadow tables)
 *	L2, EPT12   guest_mmu            nested_mmu
 *
 * guest_mmu shadows EPT12: its tables, EPT02, are shadow pages (shadow.h) of the EPT
 * format, which lead from L2's guest-physical addresses to the client's memory.
 * nested_mmu is never loaded: it is how the hypervisor walks L2's own page tables,
 * each table and the page at the end through EPT12.
 */
#ifndef USERKVM_MMU_NESTED_MMU_H
#define USERKVM_MMU_NESTED_MMU_H

#include "mmu/shadow.h"

/* --- ept_walk.c --- */
/*
 * access: PFERR_USER (read), WRITE, FETCH. gw may be NULL. INVALID_PAGE: *fault (may be
 * NULL) is what L1 has to hear.
 */
gpa_t mmu_ept12_walk(struct kvm_vcpu *vcpu, gpa_t gpa, uint32_t access, struct guest_walker *gw,
		     struct kvm_page_fault_info *fault);
/* A level-1 entry as the processor would take it. */
bool mmu_ept12_entry_valid(struct kvm_vcpu *vcpu, uint64_t e);

/* --- nested_mmu.c --- */
void init_kvm_nested_mmu(struct kvm_vcpu *vcpu);
/* L2's guest-physical address to L1's, for a table of L2's or (final) the page at the end. */
gpa_t translate_nested_gpa(struct kvm_vcpu *vcpu, gpa_t gpa, gva_t gva, uint32_t access, bool final,
			   struct kvm_page_fault_info *fault);

/* --- shadow_fault.c --- */
enum ret_pf ept_page_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *f);

/* --- shadow_root.c --- */
/* EPT02's root for the EPTP12 of now. -ENOMEM; -ENOSPC: too many shadow pages are roots in use. */
must_check int shadow_alloc_ept_root(struct kvm_vcpu *vcpu);
void shadow_unload(struct kvm_vcpu *vcpu, struct kvm_mmu *mmu);
/* The root for the guest_mmu's EPTP12, where it is remembered; else the next reload makes it. */
void shadow_new_eptp(struct kvm_vcpu *vcpu);
/* Forget roots of EPTP12s with these bits 51:12, or all. */
void shadow_free_ept_roots(struct kvm_vcpu *vcpu, bool all, uint64_t eptp);

#endif
