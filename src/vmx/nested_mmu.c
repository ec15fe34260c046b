/*
 * The MMU contexts of a vCPU that runs an L2 (mmu/nested_mmu.h): which are chosen when, and
 * what an access that EPT12 forbids becomes.
 */
#include "mmu/mmu.h"
#include "sdm/regs.h"
#include "trace/trace.h"
#include "vmx/internal.h"

#define EPT_CAP_EXECONLY BIT_ULL(0)

void nested_ept_init_mmu_context(struct kvm_vcpu *vcpu)
{
	TRACE_CALL(nested_ept_init_mmu_context, get_vmcs12(vcpu)->ept_pointer);
	kvm_init_shadow_ept_mmu(vcpu, get_vmcs12(vcpu)->ept_pointer,
				nested_vmx_cap(vcpu, MSR_IA32_VMX_EPT_VPID_CAP) & EPT_CAP_EXECONLY);
}

void nested_ept_uninit_mmu_context(struct kvm_vcpu *vcpu)
{
	kvm_mmu_leave_nested(vcpu);
}

void nested_free_guest_roots(struct kvm_vcpu *vcpu)
{
	kvm_mmu_free_guest_roots(vcpu, true, 0);
}

/*
 * SDM "Page-Modification Logging", with vmcs12's index and page (Linux: nested_vmx_write_pml_buffer). A page that
 * is not there takes the entry as any bus does.
 */
bool nested_vmx_log_write(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	struct vmcs12 *v = get_vmcs12(vcpu);

	if (!nested_cpu_has2(v, SECONDARY_EXEC_ENABLE_PML))
		return true;
	if (v->guest_pml_index >= PML_ENTITY_NUM)
		return false;
	gpa &= PAGE_MASK;
	nested_write_guest(vcpu, v->pml_address + v->guest_pml_index * sizeof(gpa), &gpa, sizeof(gpa));
	v->guest_pml_index--;
	return true;
}

/* SDM table "Exit Qualification for EPT Violations". Bits 8:7 are the real exit's, or of the walk of ours. */
void nested_ept_inject_page_fault(struct kvm_vcpu *vcpu, const struct kvm_page_fault_info *fault)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	struct vmcs12 *v = get_vmcs12(vcpu);
	uint64_t q = fault->exit_qualification, linear = EPT_VIOLATION_GVA_IS_VALID | EPT_VIOLATION_GVA_TRANSLATED;

	TRACE_CALL(nested_ept_inject_page_fault, fault->address);
	if (fault->pml_full) {
		/* of the exit's qualification nothing but an IRET's unblocking of NMIs is defined */
		nested_vmx_vmexit(vcpu, EXIT_REASON_PML_FULL, 0,
				  fault->from_walk ? 0 : vmx->exit_qualification & EPT_VIOLATION_NMI_UNBLOCK);
		return;
	}
	if (!fault->from_walk)
		q |= vmx->exit_qualification & linear;
	v->guest_physical_address = fault->address;
	nested_vmx_vmexit(vcpu, fault->misconfigured ? EXIT_REASON_EPT_MISCONFIG : EXIT_REASON_EPT_VIOLATION, 0,
			  fault->misconfigured ? 0 : q);
	if (fault->from_walk)
		v->guest_linear_address = fault->gva;
}
