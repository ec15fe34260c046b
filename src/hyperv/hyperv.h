/*
 * Microsoft's hypervisor interface to guests (Hypervisor Top Level Functional
 * Specification, "TLFS"), as far as Linux's KVM offers it (docs/hyperv.md).
 *
 * Files: hyperv.c (MSRs, exits to the client), cpuid.c, tsc.c (reference counter
 * and page), synic.c (synthetic interrupt controller), stimer.c (its timers),
 * syndbg.c (the debugger's MSRs), hypercall.c, event.c (KVM_HYPERV_EVENTFD).
 *
 * A vCPU that never turns its SynIC on has none: arch->hv.synic is NULL, and
 * the APIC's and the run loop's questions about it end there.
 *
 * The x86 room lies below and calls by struct kvm_hyperv_ops.
 *
 * Context: the vCPU's owner thread, where nothing else is said.
 */
#ifndef USERKVM_HYPERV_HYPERV_H
#define USERKVM_HYPERV_HYPERV_H

#include "x86/x86.h"

/* Registers the room with the x86 room. Before kvm_x86_init(); idempotent. */
void hyperv_init(void);

/* KVM API: KVM_GET_SUPPORTED_HV_CPUID: *nent entries of room; -E2BIG. vcpu NULL: of /dev/kvm. */
#define KVM_HV_CPUID_ENTRIES 10
int kvm_get_hv_cpuid(struct kvm_vcpu *vcpu, struct kvm_cpuid_entry2 *entries, uint32_t *nent);
/* The guest's CPUID is new. */
void kvm_hv_set_cpuid(struct kvm_vcpu *vcpu);
void kvm_hv_init_vm(struct kvm *kvm);
void kvm_hv_destroy_vm(struct kvm *kvm);
void kvm_hv_vcpu_uninit(struct kvm_vcpu *vcpu); /* before kvm_free_lapic() */
/* KVM API: KVM_CAP_HYPERV_SYNIC (clear_pages), KVM_CAP_HYPERV_SYNIC2. -EINVAL (no irqchip), -ENOMEM, -EAGAIN. */
must_check int kvm_hv_activate_synic(struct kvm_vcpu *vcpu, bool clear_pages);
/* KVM_IRQ_ROUTING_HV_SINT: as struct kvm_kernel_irq_routing_entry's set. Any thread. */
int kvm_hv_synic_set_irq(struct kvm *kvm, uint32_t vp_index, uint32_t sint);
/* The guest's EOI of a vector that is in its kvm_apic_synic. Owner thread. */
void kvm_hv_synic_eoi(struct kvm_vcpu *vcpu, uint8_t vector);
/* KVM API: KVM_HYPERV_EVENTFD. -EINVAL, -EBADF, -EMFILE, -EEXIST, -ENOENT, -ENOMEM. May wait for a grace period. */
must_check int kvm_vm_ioctl_hv_eventfd(struct kvm *kvm, const struct kvm_hyperv_eventfd *args);
/* A synthetic timer has run out and is to be looked at. */
bool kvm_hv_has_stimer_pending(struct kvm_vcpu *vcpu);
/* KVM_REQ_CLOCK_UPDATE of vCPU 0: the reference TSC page from its kvmclock. */
void kvm_hv_update_tsc_page(struct kvm_vcpu *vcpu, const struct pvclock_vcpu_time_info *clock);
/* The guest has said who it is: its hypercalls are Hyper-V's. */
bool kvm_hv_hypercall_enabled(struct kvm_vcpu *vcpu);
int kvm_hv_hypercall(struct kvm_vcpu *vcpu, bool skip);
/* KVM_REQ_HV_*: as every request handler, 1 go on, 0 leave. */
int kvm_hv_serve_crash(struct kvm_vcpu *vcpu);
int kvm_hv_serve_reset(struct kvm_vcpu *vcpu);
int kvm_hv_serve_exit(struct kvm_vcpu *vcpu);
int kvm_hv_serve_stimers(struct kvm_vcpu *vcpu);
/* HV_MSR_*: 0, KVM_MSR_INVAL; host: by the client's ioctl. */
int kvm_hv_get_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host);
int kvm_hv_set_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data, bool host);

#endif
