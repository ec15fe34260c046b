/*
 * Inside virt: what its files share about the VM's life.
 */
#ifndef USERKVM_VIRT_INTERNAL_H
#define USERKVM_VIRT_INTERNAL_H

#include "virt/kvm.h"

/* The x86 room's hooks; an empty table before kvm_register_arch(). */
const struct kvm_arch_ops *kvm_arch_ops(void);
/* The vCPU and what it owns; it is not, or no longer, in kvm->vcpus. */
void kvm_vcpu_destroy(struct kvm_vcpu *vcpu);

#endif
