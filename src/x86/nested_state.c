/*
 * KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE, for the table of ioctls. (vmx/nested_state.c)
 */
#include "x86/x86.h"

uint32_t kvm_vcpu_ioctl_get_nested_state(struct kvm_vcpu *vcpu, struct vmx_nested_state *out)
{
	return vmx_get_nested_state(vcpu, out);
}

int kvm_vcpu_ioctl_set_nested_state(struct kvm_vcpu *vcpu, const struct vmx_nested_state *in)
{
	return vmx_set_nested_state(vcpu, in);
}
