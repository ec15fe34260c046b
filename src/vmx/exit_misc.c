/*
 * The remaining exits: exceptions, windows, HLT, CPUID, hypercalls, task
 * switches, and instructions with nothing to do.
 */

#include "lib/futex.h"
#include "mmu/mmu.h"
#include "trace/trace.h"
#include "vmx/internal.h"

/* Soft exceptions keep the length of their instruction for re-injection. */
static int reflect_exception(struct kvm_vcpu *vcpu, uint32_t info)
{
	uint8_t vector = (uint8_t)(info & INTR_INFO_VECTOR_MASK);
	bool has_error_code = info & INTR_INFO_DELIVER_CODE_MASK;

	vmx_services->queue_exception(vcpu, vector, has_error_code,
				      has_error_code ? vmcs_read32(vcpu, VM_EXIT_INTR_ERROR_CODE)
						     : 0,
				      false, 0);
	return 1;
}

/*
 * #PF under shadow paging: mostly an entry of ours that is not there yet
 * (Linux kvm_handle_page_fault). The exit qualification is the linear address.
 */
static int handle_page_fault(struct kvm_vcpu *vcpu)
{
	gva_t gva = vmcs_readl(vcpu, EXIT_QUALIFICATION);
	uint32_t error_code = vmcs_read32(vcpu, VM_EXIT_INTR_ERROR_CODE);
	struct kvm_page_fault f = { .addr = gva, .error_code = error_code };

	TRACE_CALL(kvm_handle_page_fault, vcpu->vcpu_id, vmx_get_rip(vcpu), gva, error_code);
	/* event delivery cannot be emulated: what it writes to may be no page table */
	if (vcpu->vmx->idt_vectoring_info & INTR_INFO_VALID_MASK)
		kvm_mmu_unprotect(vcpu, gva);
	switch (kvm_mmu_page_fault(vcpu, &f)) {
	case RET_PF_EMULATE:
		return vmx_services->emulate_instruction(vcpu, false, gva);
	case RET_PF_ERROR:
		return f.error;
	default:
		return 1;
	}
}

/*
 * An exit by #DB saves no pending debug exceptions; with TF and a shadow VM entry wants
 * the single step among them (SDM "Checks on Guest Non-Register State").
 */
static void keep_single_step(struct kvm_vcpu *vcpu)
{
	if (vmx_get_rflags(vcpu) & X86_FLAGS_TF && vmx_get_interrupt_shadow(vcpu))
		vmcs_writel(vcpu, GUEST_PENDING_DBG_EXCEPTIONS,
			    vmcs_readl(vcpu, GUEST_PENDING_DBG_EXCEPTIONS) | DR6_BS);
}

int handle_exception_nmi(struct kvm_vcpu *vcpu)
{
	uint32_t info = vmcs_read32(vcpu, VM_EXIT_INTR_INFO);
	uint8_t vector = (uint8_t)(info & INTR_INFO_VECTOR_MASK);
	uint64_t dr6;

	if (!(info & INTR_INFO_VALID_MASK) ||
	    FIELD_GET(INTR_INFO_INTR_TYPE_MASK, info) == INTR_TYPE_NMI_INTR)
		return 1; /* the host's own */
	switch (vector) {
	case X86_TRAP_PF:
		return handle_page_fault(vcpu);
	case X86_TRAP_UD:
		/* the other vendor's hypercall instruction is one here as well */
		return vmx_services->handle_ud(vcpu);
	case X86_TRAP_DB:
		dr6 = vmcs_readl(vcpu, EXIT_QUALIFICATION);
		keep_single_step(vcpu);
		if (vmx_services->guest_debug_exit(vcpu, X86_TRAP_DB, dr6))
			return 0;
		if (FIELD_GET(INTR_INFO_INTR_TYPE_MASK, info) == INTR_TYPE_PRIV_SW_EXCEPTION)
			vmx_skip_emulated_instruction(vcpu); /* INT1: its #DB is a trap */
		vmx_services->queue_exception(vcpu, X86_TRAP_DB, false, 0, true, dr6);
		return 1;
	case X86_TRAP_BP:
		vcpu->vmx->event_exit_inst_len = vmcs_read32(vcpu, VM_EXIT_INSTRUCTION_LEN);
		if (vmx_services->guest_debug_exit(vcpu, X86_TRAP_BP, 0))
			return 0;
		return reflect_exception(vcpu, info);
	default:
		return reflect_exception(vcpu, info);
	}
}

int handle_triple_fault(struct kvm_vcpu *vcpu)
{
	vmx_tell_triple_fault(vcpu);
	vcpu->run->exit_reason = KVM_EXIT_SHUTDOWN;
	return 0;
}

int handle_interrupt_window(struct kvm_vcpu *vcpu)
{
	cpu_based_assign(vcpu, CPU_BASED_INTR_WINDOW_EXITING, false);
	kvm_make_request(KVM_REQ_EVENT, vcpu);
	vcpu->stat.irq_window_exits++;
	return 1;
}

int handle_nmi_window(struct kvm_vcpu *vcpu)
{
	cpu_based_assign(vcpu, CPU_BASED_NMI_WINDOW_EXITING, false);
	kvm_make_request(KVM_REQ_EVENT, vcpu);
	vcpu->stat.nmi_window_exits++;
	return 1;
}

int handle_cpuid(struct kvm_vcpu *vcpu)
{
	return vmx_services->emulate_cpuid(vcpu);
}

int handle_halt(struct kvm_vcpu *vcpu)
{
	vmx_skip_emulated_instruction(vcpu);
	vcpu->stat.halt_exits++;
	return vmx_services->emulate_halt(vcpu);
}

/* INVD, WBINVD, MONITOR, MWAIT: nothing of ours is cached or waits. */
int handle_nop(struct kvm_vcpu *vcpu)
{
	vmx_skip_emulated_instruction(vcpu);
	return 1;
}

int handle_mwait(struct kvm_vcpu *vcpu)
{
	if (!vmx_services->mwait_faults || !vmx_services->mwait_faults(vcpu))
		return handle_nop(vcpu);
	vmx_services->queue_exception(vcpu, X86_TRAP_UD, false, 0, false, 0);
	return 1;
}

/* The guest spins: let whoever it waits for have this processor (kvm_vcpu_on_spin). */
int handle_pause(struct kvm_vcpu *vcpu)
{
	futex_yield();
	vmx_skip_emulated_instruction(vcpu);
	return 1;
}

/* A processor may leave the flag out here, where the reason says it. */
int handle_bus_lock(struct kvm_vcpu *vcpu)
{
	vcpu->vmx->exit_reason |= VMX_EXIT_REASONS_BUS_LOCK;
	return 1;
}

int handle_vmcall(struct kvm_vcpu *vcpu)
{
	vcpu->stat.hypercalls++;
	return vmx_services->emulate_hypercall(vcpu);
}

/* VMX is not offered to guests: as if CR4.VMXE could not be set. */
int handle_vmx_instruction(struct kvm_vcpu *vcpu)
{
	vmx_services->queue_exception(vcpu, X86_TRAP_UD, false, 0, false, 0);
	return 1;
}

/* It exits because the guest's CPUID lacks it (vmx_offer_insns()). */
int handle_insn_not_offered(struct kvm_vcpu *vcpu)
{
	vmx_services->queue_exception(vcpu, X86_TRAP_UD, false, 0, false, 0);
	return 1;
}

int handle_invlpg(struct kvm_vcpu *vcpu)
{
	uint16_t vpid = is_guest_mode(vcpu) ? nested_get_vpid02(vcpu) : vcpu->vmx->vpid;

	kvm_mmu_invlpg(vcpu, vmcs_readl(vcpu, EXIT_QUALIFICATION));
	if (vpid &&
	    invvpid(vcpu->vmx->cpu, INVVPID_INDIVIDUAL_ADDRESS, vpid,
		    vmcs_readl(vcpu, EXIT_QUALIFICATION)) != VMX_SUCCEED)
		vcpu->vmx->loaded_vmcs->flush_guest = true; /* not canonical: nothing was cached */
	vcpu->stat.invlpg++;
	vmx_skip_emulated_instruction(vcpu);
	return 1;
}

int handle_rdpmc(struct kvm_vcpu *vcpu)
{
	return vmx_services->emulate_rdpmc(vcpu);
}

int handle_xsetbv(struct kvm_vcpu *vcpu)
{
	return vmx_services->emulate_xsetbv(vcpu);
}

/* Never with EPT (INVLPG exiting is off). The processor has not read the descriptor. */
int handle_invpcid(struct kvm_vcpu *vcpu)
{
	return vmx_services->emulate_instruction(vcpu, false, ~0ULL);
}

int handle_monitor_trap(struct kvm_vcpu *vcpu)
{
	/* also set for one boundary, after which an SMI is taken */
	if (vmx_services->guest_debug(vcpu) & KVM_GUESTDBG_SINGLESTEP) {
		/*
		 * A guest with TF of its own has its trap pending here: the debugger's step is the one that is
		 * told, as KVM's, which steps by TF. VM entry wants the bit while there is a shadow, which ends
		 * (Linux does so too).
		 */
		if (vmx_get_rflags(vcpu) & X86_FLAGS_TF) {
			vmx_set_interrupt_shadow(vcpu, 0);
			vmcs_writel(vcpu, GUEST_PENDING_DBG_EXCEPTIONS,
				    vmcs_readl(vcpu, GUEST_PENDING_DBG_EXCEPTIONS) & ~DR6_BS);
		}
		if (vmx_services->guest_debug_exit(vcpu, X86_TRAP_DB, DR6_BS))
			return 0;
	}
	vmx_set_monitor_trap(vcpu, false);
	return 1;
}

int handle_preemption_timer(struct kvm_vcpu *vcpu)
{
	return 1;
}

int handle_task_switch(struct kvm_vcpu *vcpu)
{
	uint64_t q = vmcs_readl(vcpu, EXIT_QUALIFICATION);
	uint32_t vectoring = vcpu->vmx->idt_vectoring_info;
	int source = (int)FIELD_GET(TASK_SWITCH_SOURCE_MASK, q);
	bool has_error_code = false;
	uint32_t error_code = 0;
	int vector = -1;

	if (source == TASK_SWITCH_GATE && (vectoring & INTR_INFO_VALID_MASK)) {
		vector = (int)(vectoring & INTR_INFO_VECTOR_MASK);
		has_error_code = vectoring & INTR_INFO_DELIVER_CODE_MASK;
		if (has_error_code)
			error_code = vmcs_read32(vcpu, IDT_VECTORING_ERROR_CODE);
		vmx_services->event_delivered(vcpu);
		vcpu->vmx->event_exit_inst_len = 0;
	}
	/* a fault or interrupt returns to the instruction, the others past it */
	if (vector < 0 || FIELD_GET(INTR_INFO_INTR_TYPE_MASK, vectoring) == INTR_TYPE_SOFT_INTR ||
	    FIELD_GET(INTR_INFO_INTR_TYPE_MASK, vectoring) == INTR_TYPE_SOFT_EXCEPTION)
		vmx_set_rip(vcpu, vmx_get_rip(vcpu) + vmcs_read32(vcpu, VM_EXIT_INSTRUCTION_LEN));
	return vmx_services->task_switch(vcpu, (uint16_t)FIELD_GET(TASK_SWITCH_SELECTOR_MASK, q),
					 source, has_error_code, error_code, vector);
}
