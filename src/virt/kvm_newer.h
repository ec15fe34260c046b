/*
 * Parts of the KVM API that are newer than <linux/kvm.h> of Linux 6.1, by
 * number (KVM API: KVM_SET_USER_MEMORY_REGION2, since 6.8; KVM_PRE_FAULT_MEMORY,
 * since 6.11). A newer header defines the same.
 */
#ifndef USERKVM_VIRT_KVM_NEWER_H
#define USERKVM_VIRT_KVM_NEWER_H

#include <linux/kvm.h>

#ifndef KVM_CAP_USER_MEMORY2
#define KVM_CAP_USER_MEMORY2 231
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
struct kvm_userspace_memory_region2 {
	__u32 slot, flags;
	__u64 guest_phys_addr, memory_size, userspace_addr;
	__u64 guest_memfd_offset; /* with KVM_MEM_GUEST_MEMFD only */
	__u32 guest_memfd, pad1;
	__u64 pad2[14];
};
#endif

#ifndef KVM_CAP_PRE_FAULT_MEMORY
#define KVM_CAP_PRE_FAULT_MEMORY 236
#define KVM_PRE_FAULT_MEMORY _IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)
struct kvm_pre_fault_memory {
	__u64 gpa, size; /* what is left, on return */
	__u64 flags;
	__u64 padding[5];
};
#endif

_Static_assert(sizeof(struct kvm_userspace_memory_region2) == 160, "KVM's layout");
_Static_assert(sizeof(struct kvm_pre_fault_memory) == 64, "KVM's layout");

#endif
