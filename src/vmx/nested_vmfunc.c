/*
 * VMFUNC of L2 (SDM Vol. 3, "VM Functions"; Linux: handle_vmfunc, nested_vmx_eptp_switching). VMCS02 enables no
 * function, so that each VMFUNC exits; EPTP switching, the one that L1 may enable, is done here: L2 goes on with
 * another EPTP12 out of L1's list, without L1.
 *
 * Locks: none; the vCPU's thread.
 */
#include "mmu/mmu.h"
#include "sdm/regs.h"
#include "vmx/internal.h"

#define EPTP_LIST_ENTRIES 512

/* False: L1 gets the exit. */
static bool switch_eptp(struct kvm_vcpu *vcpu, struct vmcs12 *v)
{
	uint32_t index = (uint32_t)vmx_regs(vcpu)[RCX];
	uint64_t eptp;

	if (index >= EPTP_LIST_ENTRIES ||
	    kvm_vcpu_read_guest(vcpu, v->eptp_list_address + index * sizeof(eptp), &eptp, sizeof(eptp)))
		return false;
	if (eptp == v->ept_pointer)
		return true;
	if (!nested_vmx_eptp_valid(vcpu, eptp))
		return false;
	v->ept_pointer = eptp;
	nested_ept_init_mmu_context(vcpu);
	kvm_mmu_load_pgd(vcpu);
	if (!nested_cpu_has2(v, SECONDARY_EXEC_ENABLE_VPID))
		vcpu->vmx->loaded_vmcs->flush_guest = true;
	nested_tell_checkers(vcpu, v);
	return true;
}

int handle_vmfunc(struct kvm_vcpu *vcpu)
{
	uint32_t function = (uint32_t)vmx_regs(vcpu)[RAX];
	struct vmcs12 *v = get_vmcs12(vcpu);

	/* the processor has raised #UD of a number above 63; VMCS01 has the control never */
	if (!(v->vm_function_control & VMFUNC_EPTP_SWITCHING) || function || !switch_eptp(vcpu, v)) {
		nested_vmx_vmexit(vcpu, vcpu->vmx->exit_reason, 0, 0);
		return 1;
	}
	vmx_skip_emulated_instruction(vcpu);
	return 1;
}
