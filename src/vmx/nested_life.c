/*
 * VMX operation of L1's processor: what it needs from VMXON to VMXOFF.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "host/memory.h"
#include "lib/error.h"
#include "lib/own.h"
#include "mmu/mmu.h"
#include "vmx/internal.h"

static void free_vmx_operation(struct kvm_vcpu *vcpu)
{
	struct nested_vmx *n = &vcpu->vmx->nested;

	own_free(n->cached_vmcs12);
	own_free(n->cached_shadow_vmcs12);
	n->cached_vmcs12 = n->cached_shadow_vmcs12 = NULL;
	host_frame_free(n->vmcs02.vmcs);
	host_frame_free(n->vmcs02.msr_bitmap);
	host_frame_free(n->virtual_apic);
	nested_shadowing_destroy(vcpu);
	n->virtual_apic = NULL;
	n->vmcs02 = (struct loaded_vmcs){ 0 };
	free_vpid(n->vpid02);
	n->vpid02 = 0;
	nested_timer_destroy(vcpu);
}

int enter_vmx_operation(struct kvm_vcpu *vcpu)
{
	struct nested_vmx *n = &vcpu->vmx->nested;
	int r = kvm_mmu_prepare_nested(vcpu->kvm);

	if (r)
		return r;
	n->cached_vmcs12 = own_calloc(1, VMCS12_SIZE);
	n->cached_shadow_vmcs12 = own_calloc(1, VMCS12_SIZE);
	n->vmcs02.vmcs = host_frame_alloc();
	n->vmcs02.msr_bitmap = host_frame_alloc();
	n->virtual_apic = host_frame_alloc();
	if (!n->cached_vmcs12 || !n->cached_shadow_vmcs12 || !n->vmcs02.vmcs || !n->vmcs02.msr_bitmap ||
	    !n->virtual_apic) {
		free_vmx_operation(vcpu);
		return err_born(ENOMEM, "nested VMX operation");
	}
	r = nested_timer_create(vcpu);
	if (!r)
		r = nested_shadowing_create(vcpu);
	if (r) {
		free_vmx_operation(vcpu);
		return r;
	}
	*(uint32_t *)n->vmcs02.vmcs = (uint32_t)vmx_capability_msr(MSR_IA32_VMX_BASIC) & 0x7fffffffU;
	if (vmclear(vcpu->vmx->cpu, __pa(n->vmcs02.vmcs)) != VMX_SUCCEED)
		kvm_vm_bugged(vcpu->kvm, "VMCLEAR of VMCS02 failed");
	n->vpid02 = vcpu->vmx->vpid ? allocate_vpid() : 0;
	n->last_vpid = 0;
	n->current_vmptr = INVALID_VMPTR;
	nested_evmcs_release(vcpu);
	n->vmcs02_constant = false;
	vcpu->vmx->head.vmxon = true;
	return 0;
}

void free_nested(struct kvm_vcpu *vcpu)
{
	struct nested_vmx *n = &vcpu->vmx->nested;

	if (!vcpu->vmx->head.vmxon && !n->cached_vmcs12)
		return;
	nested_shadowing_switch(vcpu, false);
	vcpu->vmx->head.vmxon = n->run_pending = n->mtf_pending = false;
	n->smm.vmxon = n->smm.guest_mode = n->pages_stale = n->shadow_stale = false;
	n->current_vmptr = INVALID_VMPTR;
	nested_evmcs_release(vcpu);
	nested_free_guest_roots(vcpu);
	if (n->vmcs02.vmcs && vmclear(vcpu->vmx->cpu, __pa(n->vmcs02.vmcs)) != VMX_SUCCEED)
		kvm_vm_bugged(vcpu->kvm, "VMCLEAR of VMCS02 failed");
	/* the VPID's next owner must not find mappings of this one */
	if (n->vpid02 && invvpid(vcpu->vmx->cpu, INVVPID_SINGLE_CONTEXT, n->vpid02, 0) != VMX_SUCCEED)
		kvm_vm_bugged(vcpu->kvm, "INVVPID failed");
	free_vmx_operation(vcpu);
}
