/*
 * What every file of the room may need and needs nobody: the services that the rooms above have registered, and
 * what becomes of a VM whose VMCS cannot be accessed.
 *
 * Locks: none; the services are written once, before the first VM.
 */
#include "lib/log.h"
#include "vmx/internal.h"

const struct vmx_services *vmx_services;

void vmx_register_services(const struct vmx_services *s)
{
	vmx_services = s;
}

void vmcs_access_failed(struct kvm_vcpu *vcpu, const char *what, uint32_t field)
{
	log_always("vmx: %s of %s failed", what, vmcs_field_name(field));
	kvm_vm_bugged(vcpu->kvm, "access to the VMCS failed");
}
