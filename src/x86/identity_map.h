/*
 * The identity-map page table: what pages for a guest that does not, where the processor cannot run it unpaged
 * (ept=1 with unrestricted_guest=0).
 */
#ifndef USERKVM_X86_IDENTITY_MAP_H
#define USERKVM_X86_IDENTITY_MAP_H

#include "virt/kvm.h"

/* KVM API: KVM_SET_IDENTITY_MAP_ADDR: the page's address where the client has not said another. */
#define VMX_EPT_IDENTITY_PAGETABLE_ADDR 0xfffbc000ULL

/*
 * The page and its slots, once for a VM; nothing where it is not needed. Before the VM's first vCPU runs. -EEXIST: the
 * client has a slot at that address; -EINVAL: the address is not a page's; -ENOMEM. (Linux: init_rmode_identity_map)
 */
must_check int kvm_alloc_identity_map(struct kvm *kvm);
void kvm_free_identity_map(struct kvm *kvm);
/* Its guest-physical address. */
gpa_t kvm_identity_map_addr(const struct kvm *kvm);

#endif
