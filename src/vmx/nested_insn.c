/*
 * L1's VMXON, VMXOFF, VMCLEAR, VMPTRLD, VMPTRST, VMREAD and VMWRITE (SDM Vol. 3,
 * "VMX Instruction Reference"). The processor has raised #UD for modes in which
 * VMX instructions do not exist; the checks that are left stand here in the order
 * in which the SDM makes them.
 *
 * VMLAUNCH and VMRESUME: nested_enter.c. INVEPT and INVVPID: nested_invalidate.c.
 */

#include "mmu/mmu.h"
#include "sdm/regs.h"
#include "vmx/internal.h"

#define INFO_REG1_MASK GENMASK_ULL(6, 3)
#define INFO_REG2_MASK GENMASK_ULL(31, 28)

/* What of the access rights a segment register has (bits 16:12, 8:0 without 11:9). */
#define AR_BYTES_WRITABLE 0x1f0ffU

/* --- VMXON, VMXOFF --- */

static bool feature_control_allows(struct kvm_vcpu *vcpu)
{
	uint64_t want = FEAT_CTL_LOCKED | FEAT_CTL_VMX_ENABLED_OUTSIDE_SMX;

	return (vmx_services->feature_control(vcpu) & want) == want;
}

int handle_vmxon(struct kvm_vcpu *vcpu)
{
	struct nested_vmx *n = &vcpu->vmx->nested;
	uint32_t revision;
	gpa_t vmptr;
	int r;

	if (!vmx_params()->nested || !(vmx_get_cr4(vcpu) & X86_CR4_VMXE)) {
		vmx_services->queue_exception(vcpu, X86_TRAP_UD, false, 0, false, 0);
		return 1;
	}
	if (vmx_get_cpl(vcpu))
		goto protection;
	if (vcpu->vmx->head.vmxon)
		return nested_vmx_fail(vcpu, VMXERR_VMXON_IN_VMX_ROOT_OPERATION);
	if (!nested_host_cr0_valid(vcpu, vmx_get_cr0(vcpu)) || !nested_cr4_valid(vcpu, vmx_get_cr4(vcpu)) ||
	    !feature_control_allows(vcpu))
		goto protection;
	if (!nested_vmx_read_operand(vcpu, &vmptr, sizeof(vmptr), &r))
		return r;
	if (!nested_vmx_page_valid(vcpu, vmptr) ||
	    kvm_vcpu_read_guest(vcpu, vmptr, &revision, sizeof(revision)) || revision != VMCS12_REVISION)
		return nested_vmx_fail_invalid(vcpu);
	n->vmxon_ptr = vmptr;
	r = enter_vmx_operation(vcpu);
	return r ? r : nested_vmx_succeed(vcpu);

protection:
	vmx_services->queue_exception(vcpu, X86_TRAP_GP, true, 0, false, 0);
	return 1;
}

int handle_vmxoff(struct kvm_vcpu *vcpu)
{
	if (!nested_vmx_check_permission(vcpu))
		return 1;
	free_nested(vcpu);
	/* an INIT that waited is looked at again */
	kvm_make_request(KVM_REQ_EVENT, vcpu);
	return nested_vmx_succeed(vcpu);
}

/* --- the current VMCS --- */

int handle_vmclear(struct kvm_vcpu *vcpu)
{
	struct nested_vmx *n = &vcpu->vmx->nested;
	uint32_t clear = 0;
	gpa_t vmptr, evmptr;
	int r;

	if (!nested_vmx_check_permission(vcpu))
		return 1;
	if (!nested_vmx_read_operand(vcpu, &vmptr, sizeof(vmptr), &r))
		return r;
	if (!nested_vmx_page_valid(vcpu, vmptr))
		return nested_vmx_fail(vcpu, VMXERR_VMCLEAR_INVALID_ADDRESS);
	if (vmptr == n->vmxon_ptr)
		return nested_vmx_fail(vcpu, VMXERR_VMCLEAR_VMXON_POINTER);
	if (unlikely(nested_evmcs_offered(vcpu)) && nested_evmcs_entry_is_enlightened(vcpu, &evmptr)) {
		/* it may be an enlightened one, of which no byte is a launch state */
		if (vmptr == n->evmcs.vmptr)
			nested_evmcs_release(vcpu);
		return nested_vmx_succeed(vcpu);
	}
	if (vmptr == n->current_vmptr)
		nested_release_vmcs12(vcpu);
	/* memory that is not there takes the write as any bus does */
	nested_write_guest(vcpu, vmptr + offsetof(struct vmcs12, launch_state), &clear, sizeof(clear));
	return nested_vmx_succeed(vcpu);
}

int handle_vmptrld(struct kvm_vcpu *vcpu)
{
	struct nested_vmx *n = &vcpu->vmx->nested;
	uint32_t revision;
	gpa_t vmptr;
	int r;

	if (!nested_vmx_check_permission(vcpu))
		return 1;
	if (!nested_vmx_read_operand(vcpu, &vmptr, sizeof(vmptr), &r))
		return r;
	if (!nested_vmx_page_valid(vcpu, vmptr))
		return nested_vmx_fail(vcpu, VMXERR_VMPTRLD_INVALID_ADDRESS);
	if (vmptr == n->vmxon_ptr)
		return nested_vmx_fail(vcpu, VMXERR_VMPTRLD_VMXON_POINTER);
	/* while an enlightened one is active, the instruction is not supported (TLFS "Enlightened VMCS") */
	if (unlikely(nested_evmcs_is_active(n)))
		return nested_vmx_fail_invalid(vcpu);
	if (vmptr == n->current_vmptr)
		return nested_vmx_succeed(vcpu);
	if (kvm_vcpu_read_guest(vcpu, vmptr, &revision, sizeof(revision)) ||
	    (revision & ~VMCS12_SHADOW) != VMCS12_REVISION ||
	    ((revision & VMCS12_SHADOW) && !nested_vmx_offers_secondary(vcpu, SECONDARY_EXEC_SHADOW_VMCS)))
		return nested_vmx_fail(vcpu, VMXERR_VMPTRLD_INCORRECT_VMCS_REVISION_ID);
	nested_release_vmcs12(vcpu);
	if (kvm_vcpu_read_guest(vcpu, vmptr, n->cached_vmcs12, VMCS12_SIZE))
		return nested_vmx_fail_invalid(vcpu);
	n->current_vmptr = vmptr;
	n->dirty_vmcs12 = true;
	nested_shadowing_switch(vcpu, true);
	return nested_vmx_succeed(vcpu);
}

int handle_vmptrst(struct kvm_vcpu *vcpu)
{
	int r;

	if (!nested_vmx_check_permission(vcpu))
		return 1;
	if (unlikely(nested_evmcs_is_active(&vcpu->vmx->nested)))
		return nested_vmx_fail_invalid(vcpu);
	if (!nested_vmx_write_operand(vcpu, &vcpu->vmx->nested.current_vmptr, sizeof(gpa_t), &r))
		return r;
	return nested_vmx_succeed(vcpu);
}

/* --- fields --- */

/* The vmcs12 that VMREAD and VMWRITE are about; in L2 it is the one that L1 has linked. NULL: none, or an enlightened VMCS. */
static struct vmcs12 *operand_vmcs12(struct kvm_vcpu *vcpu)
{
	struct nested_vmx *n = &vcpu->vmx->nested;

	if (n->current_vmptr == INVALID_VMPTR)
		return NULL;
	if (!vcpu->vmx->head.guest_mode)
		return n->cached_vmcs12;
	return n->cached_vmcs12->vmcs_link_pointer == INVALID_VMPTR ? NULL : n->cached_shadow_vmcs12;
}

/* Windows 11 reads fields of an enlightened VMCS so, which the TLFS does not support; as Linux does, it is served. */
static bool read_field(struct kvm_vcpu *vcpu, const struct vmcs12 *v, uint64_t field, uint64_t *value)
{
	return v ? vmcs12_read_field(v, field, value) : nested_evmcs_read_field(vcpu, field, value);
}

int handle_vmread(struct kvm_vcpu *vcpu)
{
	bool enlightened = nested_evmcs_is_active(&vcpu->vmx->nested) && !is_guest_mode(vcpu);
	uint32_t info = vmcs_read32(vcpu, VMX_INSTRUCTION_INFO);
	const struct vmcs12 *v;
	uint64_t field, value;
	int r;

	if (!nested_vmx_check_permission(vcpu))
		return 1;
	v = operand_vmcs12(vcpu);
	if (!v && likely(!enlightened))
		return nested_vmx_fail_invalid(vcpu);
	field = nested_vmx_read_reg(vcpu, (unsigned)FIELD_GET(INFO_REG2_MASK, info));
	if (!read_field(vcpu, v, field, &value))
		return nested_vmx_fail(vcpu, VMXERR_UNSUPPORTED_VMCS_COMPONENT);
	if (info & VMX_INSN_INFO_REGISTER) {
		unsigned reg = (unsigned)FIELD_GET(INFO_REG1_MASK, info);

		if (!vmx_is_64bit_code(vcpu))
			value = (uint32_t)value;
		if (reg == RSP)
			vmx_set_rsp(vcpu, value);
		else
			vmx_regs(vcpu)[reg] = value;
	} else if (!nested_vmx_write_operand(vcpu, &value, vmx_is_64bit_code(vcpu) ? 8 : 4, &r)) {
		return r;
	}
	return nested_vmx_succeed(vcpu);
}

/* Fields that prepare_vmcs02() takes over at each entry. */
static bool is_taken_over_always(uint64_t field)
{
	switch (field) {
	case GUEST_RIP: case GUEST_RSP: case GUEST_RFLAGS: case GUEST_CR0: case GUEST_CR3: case GUEST_CR4:
	case GUEST_CS_AR_BYTES: case GUEST_SS_AR_BYTES: case GUEST_INTERRUPTIBILITY_INFO:
	case CR0_READ_SHADOW: case CR4_READ_SHADOW: case CPU_BASED_VM_EXEC_CONTROL:
	case EXCEPTION_BITMAP: case VM_ENTRY_EXCEPTION_ERROR_CODE: case VM_ENTRY_INTR_INFO_FIELD:
	case VM_ENTRY_INSTRUCTION_LEN: case GUEST_ACTIVITY_STATE: case VMX_PREEMPTION_TIMER_VALUE:
	case TPR_THRESHOLD: case GUEST_PML_INDEX:
		return true;
	default:
		return false;
	}
}

int handle_vmwrite(struct kvm_vcpu *vcpu)
{
	uint32_t info = vmcs_read32(vcpu, VMX_INSTRUCTION_INFO);
	struct nested_vmx *n = &vcpu->vmx->nested;
	uint64_t field, value = 0;
	struct vmcs12 *v;
	int r;

	if (!nested_vmx_check_permission(vcpu))
		return 1;
	v = operand_vmcs12(vcpu);
	if (!v)
		return nested_vmx_fail_invalid(vcpu);
	if (info & VMX_INSN_INFO_REGISTER)
		value = nested_vmx_read_reg(vcpu, (unsigned)FIELD_GET(INFO_REG1_MASK, info));
	else if (!nested_vmx_read_operand(vcpu, &value, vmx_is_64bit_code(vcpu) ? 8 : 4, &r))
		return r;
	field = nested_vmx_read_reg(vcpu, (unsigned)FIELD_GET(INFO_REG2_MASK, info));
	if (!vmcs12_has_field(field))
		return nested_vmx_fail(vcpu, VMXERR_UNSUPPORTED_VMCS_COMPONENT);
	if (vmcs_field_kind((uint32_t)field) == VMCS_KIND_RO &&
	    !(nested_vmx_cap(vcpu, MSR_IA32_VMX_MISC) & BIT_ULL(29)))
		return nested_vmx_fail(vcpu, VMXERR_VMWRITE_READ_ONLY_VMCS_COMPONENT);
	if (field >= GUEST_ES_AR_BYTES && field <= GUEST_TR_AR_BYTES)
		value &= AR_BYTES_WRITABLE;
	if (!vmcs12_write_field(v, field, value))
		return nested_vmx_fail(vcpu, VMXERR_UNSUPPORTED_VMCS_COMPONENT);
	nested_shadowing_changed(vcpu, (uint32_t)field & ~1U);
	if (!vcpu->vmx->head.guest_mode && !is_taken_over_always(field))
		n->dirty_vmcs12 = true;
	return nested_vmx_succeed(vcpu);
}
