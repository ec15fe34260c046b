/*
 * Events into the guest (SDM Vol. 3, "Event Injection") and back out of it
 * when an exit came before they were delivered ("Information for VM Exits That
 * Occur During Event Delivery").
 */
#include "vmx/internal.h"

uint32_t vmx_get_interrupt_shadow(struct kvm_vcpu *vcpu)
{
	uint32_t intr = vmcs_read32(vcpu, GUEST_INTERRUPTIBILITY_INFO);

	return (intr & GUEST_INTR_STATE_STI ? KVM_X86_SHADOW_INT_STI : 0U) |
	       (intr & GUEST_INTR_STATE_MOV_SS ? KVM_X86_SHADOW_INT_MOV_SS : 0U);
}

void vmx_set_interrupt_shadow(struct kvm_vcpu *vcpu, uint32_t mask)
{
	uint32_t old = vmcs_read32(vcpu, GUEST_INTERRUPTIBILITY_INFO);
	uint32_t new = old & ~(uint32_t)(GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS);

	/* VM entry refuses both at once */
	if (mask & KVM_X86_SHADOW_INT_MOV_SS)
		new |= GUEST_INTR_STATE_MOV_SS;
	else if (mask & KVM_X86_SHADOW_INT_STI)
		new |= GUEST_INTR_STATE_STI;
	if (new != old)
		vmcs_write32(vcpu, GUEST_INTERRUPTIBILITY_INFO, new);
}

bool vmx_interrupt_allowed(struct kvm_vcpu *vcpu)
{
	/* L2 cannot block what L1 exits on */
	if (unlikely(is_guest_mode(vcpu)) && nested_exit_on_intr(vcpu))
		return true;
	return (vmx_get_rflags(vcpu) & X86_FLAGS_IF) &&
	       !(vmcs_read32(vcpu, GUEST_INTERRUPTIBILITY_INFO) &
		 (GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS));
}

bool vmx_nmi_allowed(struct kvm_vcpu *vcpu)
{
	if (unlikely(is_guest_mode(vcpu)) && nested_exit_on_nmi(vcpu))
		return true;
	return !(vmcs_read32(vcpu, GUEST_INTERRUPTIBILITY_INFO) &
		 (GUEST_INTR_STATE_MOV_SS | GUEST_INTR_STATE_STI | GUEST_INTR_STATE_NMI));
}

bool vmx_get_nmi_mask(struct kvm_vcpu *vcpu)
{
	return vmcs_read32(vcpu, GUEST_INTERRUPTIBILITY_INFO) & GUEST_INTR_STATE_NMI;
}

void vmx_set_nmi_mask(struct kvm_vcpu *vcpu, bool masked)
{
	uint32_t old = vmcs_read32(vcpu, GUEST_INTERRUPTIBILITY_INFO);
	uint32_t new = masked ? old | (uint32_t)GUEST_INTR_STATE_NMI
			      : old & ~(uint32_t)GUEST_INTR_STATE_NMI;

	if (new != old)
		vmcs_write32(vcpu, GUEST_INTERRUPTIBILITY_INFO, new);
}

/* Few events may be injected into HLT (SDM "Checks on Guest Non-Register State"); RIP is behind it. */
void vmx_clear_hlt(struct kvm_vcpu *vcpu)
{
	if (unlikely(vcpu->vmx->hlt_in_guest))
		vmcs_write32(vcpu, GUEST_ACTIVITY_STATE, GUEST_ACTIVITY_ACTIVE);
}

static void inject(struct kvm_vcpu *vcpu, uint8_t vector, enum intr_type type, bool has_error_code,
		   uint32_t error_code)
{
	uint64_t info = vector | FIELD_PREP(INTR_INFO_INTR_TYPE_MASK, type) | INTR_INFO_VALID_MASK;

	vmx_clear_hlt(vcpu);
	if (has_error_code) {
		/* VM entry refuses more than 16 bits, which a client may have given */
		vmcs_write32(vcpu, VM_ENTRY_EXCEPTION_ERROR_CODE, error_code & 0xffff);
		info |= INTR_INFO_DELIVER_CODE_MASK;
	}
	if (type == INTR_TYPE_SOFT_INTR || type == INTR_TYPE_SOFT_EXCEPTION)
		vmcs_write32(vcpu, VM_ENTRY_INSTRUCTION_LEN, vcpu->vmx->event_exit_inst_len);
	vmcs_write32(vcpu, VM_ENTRY_INTR_INFO_FIELD, (uint32_t)info);
}

void vmx_inject_exception(struct kvm_vcpu *vcpu, uint8_t vector, bool has_error_code,
			  uint32_t error_code)
{
	bool soft = vector == X86_TRAP_BP || vector == X86_TRAP_OF;

	/* a queued #BP/#OF of ours that no instruction length belongs to: it is a 1-byte INT3/INTO */
	if (soft && vcpu->vmx->event_exit_inst_len == 0)
		vcpu->vmx->event_exit_inst_len = 1;
	inject(vcpu, vector, soft ? INTR_TYPE_SOFT_EXCEPTION : INTR_TYPE_HARD_EXCEPTION,
	       has_error_code, error_code);
}

void vmx_inject_irq(struct kvm_vcpu *vcpu, uint8_t vector, bool soft)
{
	vcpu->stat.irq_injections++;
	if (soft && vcpu->vmx->event_exit_inst_len == 0)
		vcpu->vmx->event_exit_inst_len = 2;
	inject(vcpu, vector, soft ? INTR_TYPE_SOFT_INTR : INTR_TYPE_EXT_INTR, false, 0);
}

void vmx_inject_nmi(struct kvm_vcpu *vcpu)
{
	vcpu->stat.nmi_injections++;
	inject(vcpu, X86_TRAP_NMI, INTR_TYPE_NMI_INTR, false, 0);
}

void vmx_enable_irq_window(struct kvm_vcpu *vcpu)
{
	cpu_based_assign(vcpu, CPU_BASED_INTR_WINDOW_EXITING, true);
}

void vmx_enable_nmi_window(struct kvm_vcpu *vcpu)
{
	/* an STI shadow hides NMIs for one instruction: an interrupt window comes after it */
	if (vmcs_read32(vcpu, GUEST_INTERRUPTIBILITY_INFO) & GUEST_INTR_STATE_STI)
		vmx_enable_irq_window(vcpu);
	else
		cpu_based_assign(vcpu, CPU_BASED_NMI_WINDOW_EXITING, true);
}

/* Hand an event back to its queue. info: interruption information, as the VMCS has it. */
static void requeue(struct kvm_vcpu *vcpu, uint32_t info, uint32_t error_code, uint32_t insn_len)
{
	uint8_t vector = (uint8_t)(info & INTR_INFO_VECTOR_MASK);

	vcpu->vmx->event_exit_inst_len = 0;
	if (!(info & INTR_INFO_VALID_MASK))
		return;
	switch ((enum intr_type)FIELD_GET(INTR_INFO_INTR_TYPE_MASK, info)) {
	case INTR_TYPE_NMI_INTR:
		/* delivery will block NMIs again */
		vmx_set_nmi_mask(vcpu, false);
		vmx_services->requeue_nmi(vcpu);
		break;
	case INTR_TYPE_SOFT_EXCEPTION:
	case INTR_TYPE_PRIV_SW_EXCEPTION:
		vcpu->vmx->event_exit_inst_len = insn_len;
		vmx_services->requeue_exception(vcpu, vector, false, 0);
		break;
	case INTR_TYPE_HARD_EXCEPTION:
		vmx_services->requeue_exception(vcpu, vector, info & INTR_INFO_DELIVER_CODE_MASK,
						error_code);
		break;
	case INTR_TYPE_SOFT_INTR:
		vcpu->vmx->event_exit_inst_len = insn_len;
		vmx_services->requeue_interrupt(vcpu, vector, true);
		break;
	case INTR_TYPE_EXT_INTR:
		vmx_services->requeue_interrupt(vcpu, vector, false);
		break;
	case INTR_TYPE_OTHER_EVENT:
		break;
	}
}

/*
 * "VM exits due to faults caused by IRET": the processor has unblocked NMIs
 * although the IRET will run again (SDM "Exit Qualification", bit 12 of the
 * interruption information).
 */
static void recover_nmi_blocking(struct kvm_vcpu *vcpu)
{
	uint32_t info;

	if (vmx_basic_exit_reason(vcpu->vmx) != EXIT_REASON_EXCEPTION_NMI)
		return;
	info = vmcs_read32(vcpu, VM_EXIT_INTR_INFO);
	if ((info & INTR_INFO_UNBLOCK_NMI) && (info & INTR_INFO_VECTOR_MASK) != X86_TRAP_DF &&
	    !(vcpu->vmx->idt_vectoring_info & INTR_INFO_VALID_MASK))
		vmx_set_nmi_mask(vcpu, true);
}

void vmx_complete_interrupts(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;

	recover_nmi_blocking(vcpu);
	requeue(vcpu, vmx->idt_vectoring_info,
		vmx->idt_vectoring_info & INTR_INFO_VALID_MASK
			? vmcs_read32(vcpu, IDT_VECTORING_ERROR_CODE) : 0,
		vmx->idt_vectoring_info & INTR_INFO_VALID_MASK
			? vmcs_read32(vcpu, VM_EXIT_INSTRUCTION_LEN) : 0);
}

/* An event of L1's entry that no queue of ours holds: it stays where it is. */
static bool stays_in_vmcs(struct kvm_vcpu *vcpu)
{
	uint64_t type = FIELD_GET(INTR_INFO_INTR_TYPE_MASK, vmcs_read32(vcpu, VM_ENTRY_INTR_INFO_FIELD));

	return vcpu->vmx->nested.run_pending &&
	       (type == INTR_TYPE_OTHER_EVENT || type == INTR_TYPE_PRIV_SW_EXCEPTION);
}

void vmx_cancel_injection(struct kvm_vcpu *vcpu)
{
	if (unlikely(stays_in_vmcs(vcpu)))
		return;
	requeue(vcpu, vmcs_read32(vcpu, VM_ENTRY_INTR_INFO_FIELD),
		vmcs_read32(vcpu, VM_ENTRY_EXCEPTION_ERROR_CODE),
		vmcs_read32(vcpu, VM_ENTRY_INSTRUCTION_LEN));
	vmcs_write32(vcpu, VM_ENTRY_INTR_INFO_FIELD, 0);
}

bool vmx_take_injection(struct kvm_vcpu *vcpu, uint8_t *vector, unsigned *insn_len)
{
	uint32_t info = vmcs_read32(vcpu, VM_ENTRY_INTR_INFO_FIELD);
	enum intr_type type = (enum intr_type)FIELD_GET(INTR_INFO_INTR_TYPE_MASK, info);

	if (!(info & INTR_INFO_VALID_MASK))
		return false;
	*vector = (uint8_t)(info & INTR_INFO_VECTOR_MASK);
	*insn_len = type == INTR_TYPE_SOFT_INTR || type == INTR_TYPE_SOFT_EXCEPTION
			    ? vmcs_read32(vcpu, VM_ENTRY_INSTRUCTION_LEN) : 0;
	vmcs_write32(vcpu, VM_ENTRY_INTR_INFO_FIELD, 0);
	if (type == INTR_TYPE_NMI_INTR)
		vmx_set_nmi_mask(vcpu, true);
	return true;
}

void vmx_update_exception_bitmap(struct kvm_vcpu *vcpu)
{
	/* #AC: its delivery may raise #AC, for ever; between exits the client is heard */
	uint32_t eb = BIT_ULL(X86_TRAP_UD) | BIT_ULL(X86_TRAP_MC) | BIT_ULL(X86_TRAP_AC);
	uint32_t debug = vmx_services && vmx_services->guest_debug
				 ? vmx_services->guest_debug(vcpu) : 0;

	if (!vmx_params()->ept)
		eb |= BIT_ULL(X86_TRAP_PF);
	if (debug & KVM_GUESTDBG_ENABLE) {
		if (debug & (KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP))
			eb |= BIT_ULL(X86_TRAP_DB);
		if (debug & KVM_GUESTDBG_USE_SW_BP)
			eb |= BIT_ULL(X86_TRAP_BP);
	}
	if (unlikely(is_guest_mode(vcpu)))
		eb |= get_vmcs12(vcpu)->exception_bitmap;
	vmcs_write32(vcpu, EXCEPTION_BITMAP, eb);
}

void vmx_set_monitor_trap(struct kvm_vcpu *vcpu, bool on)
{
	cpu_based_assign(vcpu, CPU_BASED_MONITOR_TRAP_FLAG, on);
}

void vmx_set_pending_dbg(struct kvm_vcpu *vcpu, uint64_t payload)
{
	vmcs_writel(vcpu, GUEST_PENDING_DBG_EXCEPTIONS, payload | vmcs_readl(vcpu, GUEST_PENDING_DBG_EXCEPTIONS));
}
