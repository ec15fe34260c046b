/*
 * APIC virtualization of a VM: on, or inhibited and why. apicv.c has the invariants.
 */
#ifndef USERKVM_X86_APICV_H
#define USERKVM_X86_APICV_H

#include "virt/kvm.h"

#define APIC_DEFAULT_PHYS_BASE 0xfee00000ULL

/* Linux's numbers (enum kvm_apicv_inhibit); those between and behind are other processors' reasons. */
enum apicv_inhibit {
	APICV_INHIBIT_REASON_DISABLE = 0, /* enable_apicv=0 */
	APICV_INHIBIT_REASON_HYPERV = 1,  /* a SINT ends its interrupts by itself */
	APICV_INHIBIT_REASON_ABSENT = 2,  /* no in-process APIC */
	APICV_INHIBIT_REASON_BLOCKIRQ = 3, /* KVM_GUESTDBG_BLOCKIRQ */
	APICV_INHIBIT_REASON_APIC_ID_MODIFIED = 4, /* never cleared */
	APICV_INHIBIT_REASON_APIC_BASE_MODIFIED = 5, /* never cleared */
};

/* X(name of the reason, its number). */
#define APICV_INHIBIT_REASONS(X)                                                               \
	X(disable, APICV_INHIBIT_REASON_DISABLE) X(hyperv, APICV_INHIBIT_REASON_HYPERV)         \
	X(absent, APICV_INHIBIT_REASON_ABSENT) X(blockirq, APICV_INHIBIT_REASON_BLOCKIRQ)       \
	X(apic_id_modified, APICV_INHIBIT_REASON_APIC_ID_MODIFIED)                              \
	X(apic_base_modified, APICV_INHIBIT_REASON_APIC_BASE_MODIFIED)

/* The reasons that hold, by their bits. Any thread. */
uint64_t kvm_apicv_inhibits(const struct kvm *kvm);
void kvm_apicv_init_vm(struct kvm *kvm);
void kvm_apicv_destroy_vm(struct kvm *kvm);
/* Any thread, outside guest mode; kvm->lock may be held. Waits until every vCPU has left the guest. */
void kvm_set_or_clear_apicv_inhibit(struct kvm *kvm, enum apicv_inhibit reason, bool set);
/* The private slot in both address spaces: once for a VM. -EEXIST: the client has one there; -ENOMEM. */
must_check int kvm_alloc_apic_access_page(struct kvm *kvm);
/* After the APIC's creation; nothing without one. */
void kvm_apicv_init_vcpu(struct kvm_vcpu *vcpu);
/* IA32_APIC_BASE changed. Owner thread. */
void kvm_apicv_base_changed(struct kvm_vcpu *vcpu);
void kvm_xapic_id_modified(struct kvm_vcpu *vcpu);
/* Some vCPU's guest_debug changed. */
void kvm_apicv_update_guest_debug(struct kvm *kvm);
/* One more, or one less, of the VM's SynICs has a SINT with AutoEOI. */
void kvm_apicv_auto_eoi(struct kvm *kvm, bool more);
/* KVM_REQ_APICV_UPDATE, KVM_REQ_SCAN_IOAPIC. */
int kvm_serve_apicv_update(struct kvm_vcpu *vcpu);
int kvm_serve_scan_ioapic(struct kvm_vcpu *vcpu);

#endif
