/*
 * Dirty rings: the dirty log as a queue for each vCPU (KVM API:
 * KVM_CAP_DIRTY_LOG_RING_ACQ_REL).
 *
 *	         reset_index        harvested by      dirty_index
 *	              │             the client             │
 *	  ... free ...│ RESET RESET RESET │ DIRTY DIRTY DIRTY │ ... free ...
 *
 * The entries are pages of the vCPU's file at KVM_DIRTY_LOG_PAGE_OFFSET; the
 * client turns DIRTY into RESET, KVM_RESET_DIRTY_RINGS gives those back and
 * protects their pages again. Entries are data of the client's: what it writes
 * there can only make its own VM protect the wrong pages.
 *
 * Invariants: 1. dirty_index - reset_index <= size. 2. A vCPU does not enter
 * the guest with soft_limit entries or more waiting; the rest is room for what
 * one stay in the guest can still add.
 */
#ifndef USERKVM_VIRT_DIRTY_RING_H
#define USERKVM_VIRT_DIRTY_RING_H

#include "virt/kvm.h"

#define KVM_DIRTY_RING_MAX_ENTRIES 65536
/* What may be added after the last check: a full page-modification log and then some. */
#define KVM_DIRTY_RING_RSVD_ENTRIES (64 + 512)

/*
 * KVM API: KVM_ENABLE_CAP(KVM_CAP_DIRTY_LOG_RING). size_bytes: a power of 2.
 * -EINVAL (size, second time, vCPUs exist), -E2BIG. Takes kvm->lock.
 */
must_check int kvm_enable_dirty_ring(struct kvm *kvm, uint64_t size_bytes);
/* For a vCPU in the making; its file has KVM_DIRTY_LOG_PAGE_OFFSET pages before. -ENOMEM. */
must_check int kvm_dirty_ring_alloc(struct kvm_vcpu *vcpu);
void kvm_dirty_ring_free(struct kvm_vcpu *vcpu);
/* Page `offset` of the slot was written. Goes to the running vCPU's ring. Any thread. */
void kvm_dirty_ring_push(struct kvm *kvm, const struct kvm_memory_slot *slot, uint64_t offset);
/* Too full to enter the guest: KVM_EXIT_DIRTY_RING_FULL. */
bool kvm_dirty_ring_soft_full(struct kvm_vcpu *vcpu);
/* KVM API: KVM_RESET_DIRTY_RINGS: the number of entries given back. -EINVAL without rings. */
must_check int kvm_vm_ioctl_reset_dirty_rings(struct kvm *kvm);

#endif
