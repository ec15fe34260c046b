/*
 * A vCPU's VMCSs for those who look from beside (control): copies, and what VM entry's
 * checks say of them.
 *
 * Context: where the vCPU is at rest, on its own thread or with vcpu->mutex held
 * (kvm_vcpu_call()). No client memory is touched, so any thread will do.
 */
#ifndef USERKVM_VMX_LOOK_H
#define USERKVM_VMX_LOOK_H

#include "sdm/vmentry_checks.h"

struct kvm_vcpu;

/* L0's for its guest; L1's for its L2, in L1's memory; what the processor runs L2 with. */
enum vmx_look { VMX_LOOK_01, VMX_LOOK_12, VMX_LOOK_02, NR_VMX_LOOKS };

#define VMCS_FIELD_ONE(name, enc) +1
#define NR_VMCS_FIELDS (0 VMCS_FIELDS(VMCS_FIELD_ONE))

struct vmx_vmcs_copy {
	bool there;    /* vmcs12: one is current; VMCS02: it has been prepared */
	bool launched;
	struct {
		uint32_t encoding;
		bool has; /* the VMCS has the field */
		uint64_t value;
	} field[NR_VMCS_FIELDS]; /* in the order of VMCS_FIELDS */
};

struct vmx_look_state {
	bool vmxon, guest_mode; /* L1 is in VMX operation; L2 runs */
	bool run_pending;	/* L1's VMLAUNCH has succeeded, L2 has run nothing yet */
	uint64_t vmxon_ptr, vmptr12; /* ~0: none */
};

void vmx_look_state(struct kvm_vcpu *vcpu, struct vmx_look_state *s);
void vmx_look_vmcs(struct kvm_vcpu *vcpu, enum vmx_look which, struct vmx_vmcs_copy *copy);
/*
 * Every check that a VM entry with this VMCS would fail now, VMX_LOOK_01 or VMX_LOOK_12, and what the
 * processor that checks it is. What a link pointer of vmcs12's leads to, and its virtual TPR, are in L1's
 * memory and not looked at.
 */
void vmx_look_checks(struct kvm_vcpu *vcpu, enum vmx_look which, struct vmentry_failures *f, struct vmentry_limits *l);

#endif
