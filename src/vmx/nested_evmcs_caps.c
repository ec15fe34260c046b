/*
 * Whether an L1 is offered enlightened VMCSs (nested_evmcs.c), and what it is not offered then.
 *
 * Locks: none; the vCPU's thread.
 */
#include "lib/error.h"
#include "vmx/evmcs.h"
#include "vmx/internal.h"

/* Controls whose fields it does not have. */
#define EVMCS_NO_PIN (PIN_BASED_POSTED_INTR | PIN_BASED_VMX_PREEMPTION_TIMER)
#define EVMCS_NO_SECONDARY                                                             \
	(SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY | SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES | \
	 SECONDARY_EXEC_APIC_REGISTER_VIRT | SECONDARY_EXEC_ENABLE_PML | SECONDARY_EXEC_ENABLE_VMFUNC | \
	 SECONDARY_EXEC_SHADOW_VMCS | SECONDARY_EXEC_TSC_SCALING | SECONDARY_EXEC_PAUSE_LOOP_EXITING)
#define EVMCS_NO_EXIT VM_EXIT_SAVE_VMX_PREEMPTION_TIMER

bool nested_evmcs_offered(struct kvm_vcpu *vcpu)
{
	return unlikely(vcpu->vmx->nested.evmcs.enabled) && vmx_services->hyperv_enabled(vcpu);
}

uint16_t vmx_evmcs_version(struct kvm_vcpu *vcpu)
{
	if (!vmx_params()->nested || (vcpu && !vcpu->vmx->nested.evmcs.enabled))
		return 0;
	return EVMCS_VERSION << 8 | 1; /* the highest version, the lowest */
}

int vmx_enable_evmcs(struct kvm_vcpu *vcpu)
{
	if (!vmx_params()->nested)
		return err_born(EINVAL, "an enlightened VMCS with nested=0");
	vcpu->vmx->nested.evmcs.enabled = true;
	return 0;
}

uint64_t nested_evmcs_filter(uint32_t msr, uint64_t v)
{
	switch (msr) {
	case MSR_IA32_VMX_PINBASED_CTLS:
	case MSR_IA32_VMX_TRUE_PINBASED_CTLS:
		return v & ~((uint64_t)EVMCS_NO_PIN << 32);
	case MSR_IA32_VMX_PROCBASED_CTLS2:
		return v & ~((uint64_t)EVMCS_NO_SECONDARY << 32);
	case MSR_IA32_VMX_EXIT_CTLS:
	case MSR_IA32_VMX_TRUE_EXIT_CTLS:
		return v & ~((uint64_t)EVMCS_NO_EXIT << 32);
	case MSR_IA32_VMX_VMFUNC:
		return v & ~(uint64_t)VMFUNC_EPTP_SWITCHING; /* there is no list's address */
	default:
		return v;
	}
}
