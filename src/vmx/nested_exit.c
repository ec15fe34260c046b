/*
 * From L2 to L1: what L2 has become goes into vmcs12, L1's host state into VMCS01
 * (SDM Vol. 3, "VM Exits"; Linux: nested_vmx_vmexit, sync_vmcs02_to_vmcs12,
 * prepare_vmcs12, load_vmcs12_host_state).
 */
#include <string.h>

#include "lib/log.h"
#include "mmu/mmu.h"
#include "sdm/regs.h"
#include "trace/trace.h"
#include "vmx/internal.h"
#include "vmx/nested_check.h"

/* The exit cannot be completed. A processor would stop for good: L1 has a triple fault, as in Linux. */
static void nested_vmx_abort(struct kvm_vcpu *vcpu, uint32_t indicator)
{
	struct nested_vmx *n = &vcpu->vmx->nested;

	n->cached_vmcs12->abort = indicator;
	/* an enlightened one has it at the same place */
	nested_write_guest(vcpu, nested_vmptr12(n) + offsetof(struct vmcs12, abort), &indicator,
				   sizeof(indicator));
	kvm_make_request(KVM_REQ_TRIPLE_FAULT, vcpu);
}

/*
 * CR0 or CR4 of L2 as a processor would save it for L1. Three kinds of bits: L2's
 * own are in the hardware's register; those that L1 owns are as L1 set them; those
 * that only L0 owns are what L2 last wrote, which the read shadow has.
 */
static uint64_t guest_cr(uint64_t hw, uint64_t unmasked, uint64_t shadow, uint64_t v12, uint64_t mask12)
{
	return (hw & unmasked) | (v12 & mask12) | (shadow & ~(mask12 | unmasked));
}

static void sync_control_registers(struct kvm_vcpu *vcpu, struct vmcs12 *v)
{
	const struct vcpu_vmx *vmx = vcpu->vmx;
	bool pae = (vmx_get_cr0(vcpu) & X86_CR0_PG) && (vmx_get_cr4(vcpu) & X86_CR4_PAE) &&
		   !(vmx_get_efer(vcpu) & EFER_LMA);

	v->guest_cr0 = guest_cr(vmcs_readl(vcpu, GUEST_CR0), vmx->cr0_unmasked, vmcs_readl(vcpu, CR0_READ_SHADOW),
				v->guest_cr0, v->cr0_guest_host_mask);
	v->guest_cr4 = guest_cr(vmcs_readl(vcpu, GUEST_CR4), vmx->cr4_unmasked, vmcs_readl(vcpu, CR4_READ_SHADOW),
				v->guest_cr4, v->cr4_guest_host_mask);
	v->guest_cr3 = vmx_get_cr3(vcpu);
	if (nested_cpu_has_ept(v) && pae) {
		uint64_t p[4];

		vmx_get_pdptrs(vcpu, p);
		v->guest_pdptr0 = p[0];
		v->guest_pdptr1 = p[1];
		v->guest_pdptr2 = p[2];
		v->guest_pdptr3 = p[3];
	}
}

void sync_vmcs02_to_vmcs12(struct kvm_vcpu *vcpu, struct vmcs12 *v)
{
	sync_control_registers(vcpu, v);
	v->guest_rsp = vmx_regs(vcpu)[RSP];
	v->guest_rip = vmx_get_rip(vcpu);
	v->guest_rflags = vmx_get_rflags(vcpu);
	nested_sync_rare(vcpu, v);
	v->guest_interruptibility_info = vmcs_read32(vcpu, GUEST_INTERRUPTIBILITY_INFO);
	v->guest_activity_state = vmx_services->activity(vcpu);
	v->guest_linear_address = vmcs_readl(vcpu, GUEST_LINEAR_ADDRESS);
	if (nested_cpu_has_preemption_timer(v) && v->vm_exit_controls & VM_EXIT_SAVE_VMX_PREEMPTION_TIMER &&
	    !vcpu->vmx->nested.run_pending)
		v->vmx_preemption_timer_value = nested_timer_left(vcpu);
	v->vm_entry_controls = (v->vm_entry_controls & ~(uint32_t)VM_ENTRY_IA32E_MODE) |
			       (vmx_get_efer(vcpu) & EFER_LMA ? (uint32_t)VM_ENTRY_IA32E_MODE : 0);
	if (v->vm_exit_controls & VM_EXIT_SAVE_DEBUG_CONTROLS) {
		v->guest_dr7 = vmx_services->get_dr(vcpu, 7);
		v->guest_ia32_debugctl = vmcs_read64(vcpu, GUEST_IA32_DEBUGCTL);
	}
	if (v->vm_exit_controls & VM_EXIT_SAVE_IA32_EFER)
		v->guest_ia32_efer = vmx_get_efer(vcpu);
	if (v->vm_exit_controls & VM_EXIT_SAVE_IA32_PAT)
		v->guest_ia32_pat = vmcs_read64(vcpu, GUEST_IA32_PAT);
}

/* An event that was on its way into L2 (SDM "Information for VM Exits That Occur During Event Delivery"). */
static void save_pending_event(struct kvm_vcpu *vcpu, struct vmcs12 *v, uint32_t reason, uint32_t intr_info)
{
	struct vmx_event e = { 0 };
	uint64_t info;

	v->idt_vectoring_info_field = 0;
	if ((uint16_t)reason == EXIT_REASON_TRIPLE_FAULT)
		return;
	if ((uint16_t)reason == EXIT_REASON_EXCEPTION_NMI &&
	    (intr_info & (INTR_INFO_VECTOR_MASK | INTR_INFO_INTR_TYPE_MASK)) ==
		    (X86_TRAP_DF | FIELD_PREP(INTR_INFO_INTR_TYPE_MASK, INTR_TYPE_HARD_EXCEPTION)))
		return;
	if (!vmx_services->injected_event(vcpu, &e))
		return;
	info = e.vector | FIELD_PREP(INTR_INFO_INTR_TYPE_MASK, e.type) | INTR_INFO_VALID_MASK;
	if (e.has_error_code) {
		info |= INTR_INFO_DELIVER_CODE_MASK;
		v->idt_vectoring_error_code = e.error_code;
	}
	v->idt_vectoring_info_field = (uint32_t)info;
}

static void prepare_vmcs12(struct kvm_vcpu *vcpu, struct vmcs12 *v, uint32_t reason, uint32_t intr_info,
			   uint64_t qualification)
{
	v->vm_exit_reason = reason;
	v->exit_qualification = qualification;
	v->launch_state = 1;
	v->vm_entry_intr_info_field &= ~(uint32_t)INTR_INFO_VALID_MASK;
	save_pending_event(vcpu, v, reason, intr_info);
	v->vm_exit_intr_info = intr_info;
	v->vm_exit_instruction_len = vmcs_read32(vcpu, VM_EXIT_INSTRUCTION_LEN);
	v->vmx_instruction_info = vmcs_read32(vcpu, VMX_INSTRUCTION_INFO);
	if (!nested_vmx_store_msr(vcpu, v->vm_exit_msr_store_addr, v->vm_exit_msr_store_count))
		nested_vmx_abort(vcpu, ABORT_SAVE_GUEST_MSR);
}

/* --- L1's state --- */

/* SDM "Loading Host Segment and Descriptor-Table Registers": flat, but for the bases of FS, GS and TR. */
#define AR_CODE (FIELD_PREP(VMX_AR_TYPE_MASK, 11) | VMX_AR_S | VMX_AR_P | VMX_AR_G)
#define AR_DATA (FIELD_PREP(VMX_AR_TYPE_MASK, 3) | VMX_AR_S | VMX_AR_P | VMX_AR_G | VMX_AR_DB)
#define AR_TSS (FIELD_PREP(VMX_AR_TYPE_MASK, 11) | VMX_AR_P)
#define HOST_SEGMENTS(F, code)                                            \
	F(CS, v->host_cs_selector, 0, 0xffffffff, code)                   \
	F(SS, v->host_ss_selector, 0, 0xffffffff, AR_DATA)                \
	F(DS, v->host_ds_selector, 0, 0xffffffff, AR_DATA)                \
	F(ES, v->host_es_selector, 0, 0xffffffff, AR_DATA)                \
	F(FS, v->host_fs_selector, v->host_fs_base, 0xffffffff, AR_DATA)  \
	F(GS, v->host_gs_selector, v->host_gs_base, 0xffffffff, AR_DATA)  \
	F(TR, v->host_tr_selector, v->host_tr_base, 0x67, AR_TSS)         \
	F(LDTR, 0, 0, 0, VMX_AR_UNUSABLE)

static void load_host_segments(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	bool ia32e = v->vm_exit_controls & VM_EXIT_HOST_ADDR_SPACE_SIZE;

#define LOAD(S, selector, base, limit, ar)                          \
	vmcs_write16(vcpu, GUEST_##S##_SELECTOR, (uint16_t)(selector)); \
	vmcs_writel(vcpu, GUEST_##S##_BASE, base);                  \
	vmcs_write32(vcpu, GUEST_##S##_LIMIT, limit);               \
	vmcs_write32(vcpu, GUEST_##S##_AR_BYTES, (uint32_t)(ar));
	HOST_SEGMENTS(LOAD, AR_CODE | (ia32e ? VMX_AR_L : VMX_AR_DB))
#undef LOAD
	vmcs_writel(vcpu, GUEST_GDTR_BASE, v->host_gdtr_base);
	vmcs_write32(vcpu, GUEST_GDTR_LIMIT, 0xffff);
	vmcs_writel(vcpu, GUEST_IDTR_BASE, v->host_idtr_base);
	vmcs_write32(vcpu, GUEST_IDTR_LIMIT, 0xffff);
}

static uint64_t host_efer(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	if (v->vm_exit_controls & VM_EXIT_LOAD_IA32_EFER)
		return v->host_ia32_efer;
	if (v->vm_exit_controls & VM_EXIT_HOST_ADDR_SPACE_SIZE)
		return vmx_get_efer(vcpu) | EFER_LMA | EFER_LME;
	return vmx_get_efer(vcpu) & ~(EFER_LMA | EFER_LME);
}

void load_vmcs12_host_state(struct kvm_vcpu *vcpu, struct vmcs12 *v)
{
	struct nested_checks f = { 0 };

	vmx_load_guest_efer(vcpu, host_efer(vcpu, v));
	vmx_set_rsp(vcpu, v->host_rsp);
	vmx_set_rip(vcpu, v->host_rip);
	vmx_set_rflags(vcpu, X86_FLAGS_FIXED);
	vmx_set_interrupt_shadow(vcpu, 0);
	vmx_load_guest_crs(vcpu, v->host_cr0, v->host_cr4);
	nested_ept_uninit_mmu_context(vcpu);
	if (!nested_vmx_load_cr3(vcpu, v->host_cr3, false, &f)) {
		log_told("vCPU %u: L1's VMCS %#llx: VMX abort %u, L1 shuts down: HOST_CR3 (%xh) = %#llx leads to PDPTEs with reserved "
			 "bits [SDM \"VMX Aborts\"]", vcpu->vcpu_id, (unsigned long long)nested_vmptr12(&vcpu->vmx->nested),
			 ABORT_LOAD_HOST_PDPTE, HOST_CR3, (unsigned long long)v->host_cr3);
		nested_vmx_abort(vcpu, ABORT_LOAD_HOST_PDPTE);
	}
	nested_vmx_transition_tlb_flush(vcpu, v, false);
	vmcs_write32(vcpu, GUEST_SYSENTER_CS, v->host_ia32_sysenter_cs);
	vmcs_writel(vcpu, GUEST_SYSENTER_ESP, v->host_ia32_sysenter_esp);
	vmcs_writel(vcpu, GUEST_SYSENTER_EIP, v->host_ia32_sysenter_eip);
	if (v->vm_exit_controls & VM_EXIT_LOAD_IA32_PAT)
		(void)vmx_services->set_msr(vcpu, MSR_IA32_CR_PAT, v->host_ia32_pat);
	load_host_segments(vcpu, v);
	(void)vmx_services->set_dr(vcpu, 7, DR7_FIXED_1);
	vmcs_write64(vcpu, GUEST_IA32_DEBUGCTL, 0);
	if (nested_vmx_load_msr(vcpu, v->vm_exit_msr_load_addr, v->vm_exit_msr_load_count))
		nested_vmx_abort(vcpu, ABORT_LOAD_HOST_MSR);
}

static void ack_interrupt(struct kvm_vcpu *vcpu, struct vmcs12 *v)
{
	int vector = vmx_services->take_interrupt(vcpu);

	if (vector >= 0)
		v->vm_exit_intr_info = (uint32_t)(vector | INTR_INFO_VALID_MASK |
						  FIELD_PREP(INTR_INFO_INTR_TYPE_MASK, INTR_TYPE_EXT_INTR));
}

void nested_vmx_vmexit(struct kvm_vcpu *vcpu, uint32_t reason, uint32_t intr_info, uint64_t qualification)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	struct vmcs12 *v = vmx->nested.cached_vmcs12;
	bool failed_entry = reason != NESTED_EXIT_NONE && (reason & VMX_EXIT_REASONS_FAILED_VMENTRY);

	TRACE_CALL(nested_vmx_vmexit, vcpu->vcpu_id, reason, qualification);
	if (kvm_check_request(KVM_REQ_TLB_FLUSH_GUEST, vcpu))
		vmx_flush_tlb_guest(vcpu);
	/* where it cannot be found, L1's next VM entry says so */
	if (unlikely(vmx->nested.pages_stale))
		nested_evmcs_get_page(vcpu);
	vmx->nested.mtf_pending = vmx->nested.pages_stale = false;
	if (failed_entry) {
		/* the processor refused L2's state: vmcs12's guest state stays as L1 made it */
		v->vm_exit_reason = reason;
		v->exit_qualification = qualification;
	} else {
		sync_vmcs02_to_vmcs12(vcpu, v);
		if (reason != NESTED_EXIT_NONE)
			prepare_vmcs12(vcpu, v, reason, intr_info, qualification);
		nested_flush_shadow_vmcs12(vcpu, v);
	}
	vmx_check_l2_left(vmx->cpu, v->guest_cr3, v->guest_cr4, reason == EXIT_REASON_EPT_VIOLATION, v->guest_linear_address);
	if (reason != NESTED_EXIT_NONE)
		TRACE(kvm, kvm_nested_vmexit_inject, reason, qualification, v->idt_vectoring_info_field, intr_info,
		      v->vm_exit_intr_error_code, 1);
	nested_timer_stop(vcpu, v);
	vmx_services->clear_events(vcpu);
	vmx->event_exit_inst_len = 0;
	nested_set_guest_mode(vcpu, false);
	vmx_switch_vmcs(vcpu, &vmx->vmcs01);
	vmx_update_tsc(vcpu);
	vmx_services->wake(vcpu);
	if ((uint16_t)reason == EXIT_REASON_EXTERNAL_INTERRUPT && (v->vm_exit_controls & VM_EXIT_ACK_INTR_ON_EXIT))
		ack_interrupt(vcpu, v);
	load_vmcs12_host_state(vcpu, v);
}

void vmx_leave_nested(struct kvm_vcpu *vcpu)
{
	struct nested_vmx *n = &vcpu->vmx->nested;

	if (vcpu->vmx->head.guest_mode) {
		n->run_pending = false;
		nested_vmx_vmexit(vcpu, NESTED_EXIT_NONE, 0, 0);
	}
	free_nested(vcpu);
}
