/*
 * The checks of a vmcs12 and what came of them. After a group of checks nr_failed
 * tells whether the entry fails.
 */
#ifndef USERKVM_VMX_NESTED_CHECK_H
#define USERKVM_VMX_NESTED_CHECK_H

#include "sdm/vmentry_checks.h"
#include "virt/kvm.h"
#include "vmx/vmcs12.h"

/* Exit qualifications of reason 33 (SDM "VM-Entry Failures During or After Loading Guest State"). */
enum { ENTRY_FAIL_DEFAULT = 0, ENTRY_FAIL_PDPTE = 2, ENTRY_FAIL_NMI = 3, ENTRY_FAIL_VMCS_LINK_PTR = 4 };

struct nested_checks {
	enum vmentry_check first; /* that failed, in the order in which the checks are made */
	unsigned nr_failed;
	struct vmentry_failures *all; /* where all of them are noted, without a look into L1's memory; NULL: an entry's */
	uint64_t qualification; /* of exit 33 */
};

void nested_vmx_check_controls(struct kvm_vcpu *vcpu, const struct vmcs12 *v, struct nested_checks *f);
void nested_vmx_check_address_space_size(struct kvm_vcpu *vcpu, const struct vmcs12 *v, struct nested_checks *f);
void nested_vmx_check_host_state(struct kvm_vcpu *vcpu, const struct vmcs12 *v, struct nested_checks *f);
void nested_vmx_check_guest_state(struct kvm_vcpu *vcpu, const struct vmcs12 *v, struct nested_checks *f);
/* The same for a look at a vmcs12 that nobody enters with: nothing of L1's memory is read. */
void nested_vmx_check_guest_registers(struct kvm_vcpu *vcpu, const struct vmcs12 *v, struct nested_checks *f);
/* A check made elsewhere has failed. */
void nested_check_failed(struct nested_checks *f, enum vmentry_check id, uint64_t qualification);

/* --- nested_explain.c --- */
/* L1's VM entry has failed: a tracepoint, and for the first ones of a vCPU a line on stderr. error 0: exit 33 or 34. */
/* What L1's processor is, for the wording. */
void nested_vmx_limits(struct kvm_vcpu *vcpu, struct vmentry_limits *l);
void nested_vmx_explain(struct kvm_vcpu *vcpu, const struct nested_checks *f, unsigned error);
/* VMX-abort indicators (SDM "VMX Aborts"). */
enum vmx_abort { ABORT_SAVE_GUEST_MSR = 1, ABORT_LOAD_HOST_PDPTE = 2, ABORT_LOAD_HOST_MSR = 4 };
/* The same for an entry of an area of MSRs: the abort that comes of it, 0: exit 34; the area's name, where it is, the entry from 0. */
void nested_vmx_explain_msr(struct kvm_vcpu *vcpu, unsigned abort, const char *area, gpa_t gpa, uint32_t n,
			    uint32_t index, uint64_t value, const char *why);

#endif
