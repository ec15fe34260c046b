/*
 * What L1's VMX instructions have in common but their operands: permission, the three ways they end (SDM Vol. 3,
 * "VMX Instruction Reference", "Conventions"), and L1's memory where a failure has no consequence.
 *
 * Locks: none.
 */
#include <string.h>

#include "mmu/mmu.h"
#include "sdm/regs.h"
#include "vmx/internal.h"

#define ARITHMETIC_FLAGS                                                              \
	(X86_FLAGS_CF | X86_FLAGS_PF | X86_FLAGS_AF | X86_FLAGS_ZF | X86_FLAGS_SF | \
	 X86_FLAGS_OF)

bool nested_vmx_check_permission(struct kvm_vcpu *vcpu)
{
	if (!vcpu->vmx->head.vmxon) {
		vmx_services->queue_exception(vcpu, X86_TRAP_UD, false, 0, false, 0);
		return false;
	}
	if (vmx_get_cpl(vcpu)) {
		vmx_services->queue_exception(vcpu, X86_TRAP_GP, true, 0, false, 0);
		return false;
	}
	return true;
}

static int end(struct kvm_vcpu *vcpu, uint64_t set)
{
	vmx_set_rflags(vcpu, (vmx_get_rflags(vcpu) & ~(uint64_t)ARITHMETIC_FLAGS) | set);
	vmx_skip_emulated_instruction(vcpu);
	return 1;
}

int nested_vmx_succeed(struct kvm_vcpu *vcpu)
{
	return end(vcpu, 0);
}

int nested_vmx_fail_invalid(struct kvm_vcpu *vcpu)
{
	return end(vcpu, X86_FLAGS_CF);
}

int nested_vmx_fail(struct kvm_vcpu *vcpu, enum vm_instruction_error error)
{
	struct nested_vmx *n = &vcpu->vmx->nested;

	if (nested_vmptr12(n) == INVALID_VMPTR)
		return nested_vmx_fail_invalid(vcpu);
	n->cached_vmcs12->vm_instruction_error = error;
	if (unlikely(nested_evmcs_is_active(n)))
		n->shadow_stale = true;
	return end(vcpu, X86_FLAGS_ZF);
}

uint64_t nested_vmx_read_reg(struct kvm_vcpu *vcpu, unsigned reg)
{
	uint64_t v = vmx_regs(vcpu)[reg];

	return vmx_is_64bit_code(vcpu) ? v : (uint32_t)v;
}

bool nested_vmx_page_valid(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	return IS_ALIGNED(gpa, PAGE_SIZE) && !(gpa >> vmx_services->maxphyaddr(vcpu));
}

void nested_write_guest(struct kvm_vcpu *vcpu, gpa_t gpa, const void *data, size_t len)
{
	if (kvm_vcpu_write_guest(vcpu, gpa, data, len))
		return;
	kvm_mmu_track_write(vcpu, gpa, data, len);
}

void nested_read_guest(struct kvm_vcpu *vcpu, gpa_t gpa, void *data, size_t len)
{
	if (kvm_vcpu_read_guest(vcpu, gpa, data, len))
		memset(data, 0xff, len);
}
