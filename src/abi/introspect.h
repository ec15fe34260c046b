/*
 * The VMs of this process, for whoever looks at them from beside (control).
 *
 * Context: any thread; no lock of a VM held.
 */
#ifndef USERKVM_ABI_INTROSPECT_H
#define USERKVM_ABI_INTROSPECT_H

#include "lib/types.h"

struct kvm;
struct kvm_vcpu;

/*
 * The VMs with a descriptor, oldest first, a reference on each taken: how many,
 * at most max. kvm_put_kvm() gives one back; should it be the last one, the VM
 * goes there and then.
 */
unsigned abi_vms_get(struct kvm **vms, unsigned max);
/* The VM of this serial number, with a reference; NULL: none, or no longer. */
struct kvm *abi_vm_get(uint64_t serial);

/* Calls fn with the name of each reason that keeps the VM's APICs from being the processor's affair. */
void abi_vm_apicv_inhibits(struct kvm *kvm, void (*fn)(void *arg, const char *reason), void *arg);

/* Calls fn with each counter of the vCPU's processor: kvm_vcpu_processor_counters(). */
void abi_vcpu_processor_counters(struct kvm_vcpu *vcpu, void (*fn)(void *arg, const char *name, uint64_t value),
				 void *arg);

/* fn runs before each KVM_CREATE_VM's VM exists; set once, at load time. */
void abi_set_vm_hook(void (*fn)(void));

#endif
