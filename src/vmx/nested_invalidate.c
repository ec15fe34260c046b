/*
 * L1's INVEPT and INVVPID (SDM Vol. 3, "INVEPT", "INVVPID"). EPT02's tables follow every
 * write of EPT12 at once, so INVEPT has only roots to forget.
 *
 * Invariant: vpid02 tags mappings of one of L1's VPIDs only, the last that was entered with (an entry with another
 * drops them). So INVVPID of another one has nothing to drop, and that of this one is the processor's of the same type.
 */
#include "mmu/mmu.h"
#include "sdm/regs.h"
#include "vmx/internal.h"

#define INFO_REG2_MASK GENMASK_ULL(31, 28)
#define CAP_INVEPT BIT_ULL(20)
#define CAP_INVEPT_TYPE(type) BIT_ULL(24 + (type))
#define CAP_INVVPID BIT_ULL(32)
#define CAP_INVVPID_TYPE(type) BIT_ULL(40 + (type))

static int undefined(struct kvm_vcpu *vcpu)
{
	vmx_services->queue_exception(vcpu, X86_TRAP_UD, false, 0, false, 0);
	return 1;
}

static uint64_t type_of_instruction(struct kvm_vcpu *vcpu)
{
	uint32_t info = vmcs_read32(vcpu, VMX_INSTRUCTION_INFO);

	return nested_vmx_read_reg(vcpu, (unsigned)FIELD_GET(INFO_REG2_MASK, info));
}

int handle_invept(struct kvm_vcpu *vcpu)
{
	uint64_t cap = nested_vmx_cap(vcpu, MSR_IA32_VMX_EPT_VPID_CAP), type;
	uint64_t operand[2];
	int r;

	if (!vmx_params()->nested || !(cap & CAP_INVEPT) ||
	    !nested_vmx_offers_secondary(vcpu, SECONDARY_EXEC_ENABLE_EPT))
		return undefined(vcpu);
	if (!nested_vmx_check_permission(vcpu))
		return 1;
	type = type_of_instruction(vcpu);
	if ((type != INVEPT_SINGLE_CONTEXT && type != INVEPT_ALL_CONTEXT) || !(cap & CAP_INVEPT_TYPE(type)))
		return nested_vmx_fail(vcpu, VMXERR_INVALID_OPERAND_TO_INVEPT_INVVPID);
	if (!nested_vmx_read_operand(vcpu, operand, sizeof(operand), &r))
		return r;
	if (type == INVEPT_SINGLE_CONTEXT && !nested_vmx_eptp_valid(vcpu, operand[0]))
		return nested_vmx_fail(vcpu, VMXERR_INVALID_OPERAND_TO_INVEPT_INVVPID);
	kvm_mmu_l1_invept(vcpu, type == INVEPT_ALL_CONTEXT, operand[0]);
	vmx_check_l1_invept(vcpu->vmx->cpu, type == INVEPT_ALL_CONTEXT, operand[0]);
	kvm_mmu_free_guest_roots(vcpu, type == INVEPT_ALL_CONTEXT, operand[0]);
	return nested_vmx_succeed(vcpu);
}

/* The operand: a VPID and, for type 0, a linear address. */
static bool operand_ok(uint64_t type, const uint64_t operand[2])
{
	if (operand[0] >> 16)
		return false;
	if (type != INVVPID_ALL_CONTEXT && !operand[0])
		return false;
	return type != INVVPID_INDIVIDUAL_ADDRESS || nested_vmx_canonical(operand[1]);
}

static void invalidate_vpid(struct kvm_vcpu *vcpu, uint64_t type, const uint64_t operand[2])
{
	const struct nested_vmx *n = &vcpu->vmx->nested;
	uint16_t vpid = n->vpid02 ? n->vpid02 : vcpu->vmx->vpid;

	if (!vpid || (n->vpid02 && type != INVVPID_ALL_CONTEXT && operand[0] != n->last_vpid))
		return;
	if (type == INVVPID_ALL_CONTEXT)
		type = INVVPID_SINGLE_CONTEXT; /* L1's own mappings have VPID 0, which no INVVPID drops */
	if (invvpid(vcpu->vmx->cpu, type, vpid, type == INVVPID_INDIVIDUAL_ADDRESS ? operand[1] : 0) != VMX_SUCCEED)
		kvm_vm_bugged(vcpu->kvm, "INVVPID failed");
}

int handle_invvpid(struct kvm_vcpu *vcpu)
{
	uint64_t cap = nested_vmx_cap(vcpu, MSR_IA32_VMX_EPT_VPID_CAP), type;
	uint64_t operand[2];
	int r;

	if (!vmx_params()->nested || !(cap & CAP_INVVPID) ||
	    !nested_vmx_offers_secondary(vcpu, SECONDARY_EXEC_ENABLE_VPID))
		return undefined(vcpu);
	if (!nested_vmx_check_permission(vcpu))
		return 1;
	type = type_of_instruction(vcpu);
	if (type > INVVPID_SINGLE_CONTEXT_RETAINING_GLOBALS || !(cap & CAP_INVVPID_TYPE(type)))
		return nested_vmx_fail(vcpu, VMXERR_INVALID_OPERAND_TO_INVEPT_INVVPID);
	if (!nested_vmx_read_operand(vcpu, operand, sizeof(operand), &r))
		return r;
	if (!operand_ok(type, operand))
		return nested_vmx_fail(vcpu, VMXERR_INVALID_OPERAND_TO_INVEPT_INVVPID);
	vmx_check_l1_invvpid(vcpu->vmx->cpu, type, (uint16_t)operand[0], operand[1]);
	invalidate_vpid(vcpu, type, operand);
	return nested_vmx_succeed(vcpu);
}
