/*
 * VMCS02: what the processor runs L2 with, made of VMCS01 and vmcs12 (Linux:
 * prepare_vmcs02_early, prepare_vmcs02 and their _rare parts).
 *
 * Controls are the union of what L0 needs and what L1 asks for, so that whoever wants
 * an exit gets it (nested_reflect.c sorts them). Guest state is vmcs12's. Fields that
 * only a VMWRITE of L1 can have changed are copied when there was one (dirty_vmcs12).
 *
 * Locks: none; VMCS02 is current throughout.
 */
#include "host/memory.h"
#include "mmu/mmu.h"
#include "sdm/ept.h"
#include "sdm/regs.h"
#include "trace/trace.h"
#include "vmx/internal.h"
#include "vmx/nested_check.h"

/* Controls of L0 that are not for L2 unless L1 asks for them. */
#define PRIMARY_NOT_INHERITED                                                       \
	(CPU_BASED_INTR_WINDOW_EXITING | CPU_BASED_NMI_WINDOW_EXITING | CPU_BASED_TPR_SHADOW | \
	 CPU_BASED_MONITOR_TRAP_FLAG)
#define SECONDARY_NOT_INHERITED                                                             \
	(SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES | SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE |  \
	 SECONDARY_EXEC_ENABLE_INVPCID | SECONDARY_EXEC_ENABLE_RDTSCP |                     \
	 SECONDARY_EXEC_ENABLE_XSAVES | SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY |              \
	 SECONDARY_EXEC_APIC_REGISTER_VIRT | SECONDARY_EXEC_ENABLE_VMFUNC |                 \
	 SECONDARY_EXEC_DESC | SECONDARY_EXEC_UNRESTRICTED_GUEST | SECONDARY_EXEC_SHADOW_VMCS)

/* What never changes; and the rest of an earlier L2's rare state is L1's to set. */
static void prepare_constant(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;

	vmx_set_constant_host_state(vcpu);
	vmcs_write64(vcpu, VMCS_LINK_POINTER, ~0ULL);
	vmcs_write32(vcpu, VM_EXIT_CONTROLS, vmcs_config()->vmexit);
	vmcs_write32(vcpu, VM_EXIT_MSR_STORE_COUNT, 0);
	vmcs_write32(vcpu, VM_EXIT_MSR_LOAD_COUNT, 0);
	vmcs_write32(vcpu, VM_ENTRY_MSR_LOAD_COUNT, 0);
	vmcs_write32(vcpu, CR3_TARGET_COUNT, 0);
	vmcs_write64(vcpu, MSR_BITMAP, __pa(vmx->nested.vmcs02.msr_bitmap));
	vmcs_write64(vcpu, VIRTUAL_APIC_PAGE_ADDR, __pa(vmx->nested.virtual_apic));
	vmcs_write32(vcpu, GUEST_ACTIVITY_STATE, GUEST_ACTIVITY_ACTIVE);
	if (vmx->pml) {
		vmcs_write64(vcpu, PML_ADDRESS, __pa(vmx->pml));
		vmcs_write16(vcpu, GUEST_PML_INDEX, PML_ENTITY_NUM - 1);
	}
	if (vmcs_config()->secondary & SECONDARY_EXEC_PAUSE_LOOP_EXITING) {
		vmcs_write32(vcpu, PLE_GAP, VMX_PLE_GAP);
		vmcs_write32(vcpu, PLE_WINDOW, VMX_PLE_WINDOW);
	}
	if (vmx_capability_msr(MSR_IA32_VMX_PROCBASED_CTLS2) >> 32 & SECONDARY_EXEC_ENABLE_VMFUNC)
		vmcs_write64(vcpu, VM_FUNCTION_CONTROL, 0);
	vmx->nested.vmcs02.eptp = 0;
	vmx->nested.vmcs02_constant = true;
}

static uint32_t secondary_controls(const struct vcpu_vmx *vmx, const struct vmcs12 *v)
{
	uint64_t s = vmx->vmcs01.secondary & ~(uint64_t)SECONDARY_NOT_INHERITED;

	if (nested_cpu_has(v, CPU_BASED_ACTIVATE_SECONDARY_CONTROLS))
		s |= v->secondary_vm_exec_control & ~(uint64_t)(SECONDARY_EXEC_ENABLE_PML | SECONDARY_EXEC_SHADOW_VMCS);
	/* it would log L2's addresses; on EPT01 they are L1's, and our log wants them */
	if (nested_cpu_has_ept(v))
		s &= ~SECONDARY_EXEC_ENABLE_PML;
	s &= ~SECONDARY_EXEC_ENABLE_VPID;
	if (vmx->vpid)
		s |= SECONDARY_EXEC_ENABLE_VPID;
	return (uint32_t)s;
}

/* Linux nested_vmx_calc_efer. */
static uint64_t calc_efer(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	if (vcpu->vmx->nested.run_pending && (v->vm_entry_controls & VM_ENTRY_LOAD_IA32_EFER))
		return v->guest_ia32_efer;
	if (v->vm_entry_controls & VM_ENTRY_IA32E_MODE)
		return vmx_get_efer(vcpu) | EFER_LMA | EFER_LME;
	return vmx_get_efer(vcpu) & ~(EFER_LMA | EFER_LME);
}

static void prepare_controls(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	struct loaded_vmcs *l = &vmx->nested.vmcs02;
	uint64_t pin = v->pin_based_vm_exec_control & ~(uint64_t)(PIN_BASED_VMX_PREEMPTION_TIMER | PIN_BASED_POSTED_INTR);
	uint64_t primary = vmx->vmcs01.cpu_based & ~(uint64_t)PRIMARY_NOT_INHERITED;

	vmcs_write32(vcpu, PIN_BASED_VM_EXEC_CONTROL,
		     (vmcs_config()->pin_based & ~(uint32_t)PIN_BASED_POSTED_INTR) | (uint32_t)pin);
	primary &= ~(uint64_t)(CPU_BASED_CR8_LOAD_EXITING | CPU_BASED_CR8_STORE_EXITING);
	primary |= v->cpu_based_vm_exec_control & ~(uint64_t)CPU_BASED_USE_MSR_BITMAPS;
	primary |= CPU_BASED_UNCOND_IO_EXITING | CPU_BASED_ACTIVATE_SECONDARY_CONTROLS;
	/* CR8 is L1's own TPR, unless L1 has set another in its place */
	if (nested_cpu_has(v, CPU_BASED_TPR_SHADOW))
		vmcs_write32(vcpu, TPR_THRESHOLD, v->tpr_threshold);
	else
		primary |= CPU_BASED_CR8_LOAD_EXITING | CPU_BASED_CR8_STORE_EXITING;
	primary &= ~(CPU_BASED_USE_IO_BITMAPS | CPU_BASED_USE_MSR_BITMAPS);
	l->cpu_based = (uint32_t)primary;
	vmcs_write32(vcpu, CPU_BASED_VM_EXEC_CONTROL, l->cpu_based);
	l->secondary = secondary_controls(vmx, v);
	vmcs_write32(vcpu, SECONDARY_VM_EXEC_CONTROL, l->secondary);
	/* vmx_load_guest_efer() follows and sets IA-32e mode */
	vmcs_write32(vcpu, VM_ENTRY_CONTROLS,
		     (vmcs_config()->vmentry | v->vm_entry_controls) & ~(uint32_t)VM_ENTRY_IA32E_MODE);
	if (l->secondary & SECONDARY_EXEC_ENABLE_VPID)
		vmcs_write16(vcpu, VIRTUAL_PROCESSOR_ID, nested_get_vpid02(vcpu));
}

static void prepare_injection(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	if (!vcpu->vmx->nested.run_pending) {
		vmcs_write32(vcpu, VM_ENTRY_INTR_INFO_FIELD, 0);
		return;
	}
	vmcs_write32(vcpu, VM_ENTRY_INTR_INFO_FIELD, v->vm_entry_intr_info_field);
	vmcs_write32(vcpu, VM_ENTRY_EXCEPTION_ERROR_CODE, v->vm_entry_exception_error_code);
	vmcs_write32(vcpu, VM_ENTRY_INSTRUCTION_LEN, v->vm_entry_instruction_len);
	vmcs_write32(vcpu, GUEST_INTERRUPTIBILITY_INFO, v->guest_interruptibility_info);
}

void prepare_vmcs02_early(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	if (!vcpu->vmx->nested.vmcs02_constant)
		prepare_constant(vcpu);
	prepare_controls(vcpu, v);
	prepare_injection(vcpu, v);
}

/* Guest state that L1 changes by VMWRITE only. */
#define RARE_FIELDS(F)                                                                        \
	F(guest_es_selector, GUEST_ES_SELECTOR) F(guest_cs_selector, GUEST_CS_SELECTOR)       \
	F(guest_ss_selector, GUEST_SS_SELECTOR) F(guest_ds_selector, GUEST_DS_SELECTOR)       \
	F(guest_fs_selector, GUEST_FS_SELECTOR) F(guest_gs_selector, GUEST_GS_SELECTOR)       \
	F(guest_ldtr_selector, GUEST_LDTR_SELECTOR) F(guest_tr_selector, GUEST_TR_SELECTOR)   \
	F(guest_es_limit, GUEST_ES_LIMIT) F(guest_cs_limit, GUEST_CS_LIMIT)                   \
	F(guest_ss_limit, GUEST_SS_LIMIT) F(guest_ds_limit, GUEST_DS_LIMIT)                   \
	F(guest_fs_limit, GUEST_FS_LIMIT) F(guest_gs_limit, GUEST_GS_LIMIT)                   \
	F(guest_ldtr_limit, GUEST_LDTR_LIMIT) F(guest_tr_limit, GUEST_TR_LIMIT)               \
	F(guest_gdtr_limit, GUEST_GDTR_LIMIT) F(guest_idtr_limit, GUEST_IDTR_LIMIT)           \
	F(guest_es_ar_bytes, GUEST_ES_AR_BYTES) F(guest_ds_ar_bytes, GUEST_DS_AR_BYTES)       \
	F(guest_fs_ar_bytes, GUEST_FS_AR_BYTES) F(guest_gs_ar_bytes, GUEST_GS_AR_BYTES)       \
	F(guest_ldtr_ar_bytes, GUEST_LDTR_AR_BYTES) F(guest_tr_ar_bytes, GUEST_TR_AR_BYTES)   \
	F(guest_es_base, GUEST_ES_BASE) F(guest_cs_base, GUEST_CS_BASE)                       \
	F(guest_ss_base, GUEST_SS_BASE) F(guest_ds_base, GUEST_DS_BASE)                       \
	F(guest_fs_base, GUEST_FS_BASE) F(guest_gs_base, GUEST_GS_BASE)                       \
	F(guest_ldtr_base, GUEST_LDTR_BASE) F(guest_tr_base, GUEST_TR_BASE)                   \
	F(guest_gdtr_base, GUEST_GDTR_BASE) F(guest_idtr_base, GUEST_IDTR_BASE)               \
	F(guest_sysenter_cs, GUEST_SYSENTER_CS) F(guest_sysenter_esp, GUEST_SYSENTER_ESP)     \
	F(guest_sysenter_eip, GUEST_SYSENTER_EIP)                                             \
	F(guest_pending_dbg_exceptions, GUEST_PENDING_DBG_EXCEPTIONS)                         \
	F(page_fault_error_code_mask, PAGE_FAULT_ERROR_CODE_MASK)                             \
	F(page_fault_error_code_match, PAGE_FAULT_ERROR_CODE_MATCH)

/* Read back by each exit: what L2 may have changed of them without one. */
void nested_sync_rare(struct kvm_vcpu *vcpu, struct vmcs12 *v)
{
#define READ_BACK(member, field)                                        \
	if (vmcs_field_kind(field) == VMCS_KIND_GUEST)                  \
		v->member = (typeof(v->member))vmcs_read64(vcpu, field);
	RARE_FIELDS(READ_BACK)
#undef READ_BACK
	v->guest_cs_ar_bytes = vmcs_read32(vcpu, GUEST_CS_AR_BYTES);
	v->guest_ss_ar_bytes = vmcs_read32(vcpu, GUEST_SS_AR_BYTES);
}

static void prepare_rare(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
#define COPY(member, field) vmcs_write64(vcpu, field, v->member);
	RARE_FIELDS(COPY)
#undef COPY
	if (nested_cpu_has2(v, SECONDARY_EXEC_ENABLE_XSAVES) &&
	    (vmcs_config()->secondary & SECONDARY_EXEC_ENABLE_XSAVES))
		vmcs_write64(vcpu, XSS_EXIT_BITMAP, v->xss_exit_bitmap);
	if (nested_cpu_has_ept(v)) {
		vmcs_write64(vcpu, GUEST_PDPTR0, v->guest_pdptr0);
		vmcs_write64(vcpu, GUEST_PDPTR1, v->guest_pdptr1);
		vmcs_write64(vcpu, GUEST_PDPTR2, v->guest_pdptr2);
		vmcs_write64(vcpu, GUEST_PDPTR3, v->guest_pdptr3);
	}
}

/* Linux nested_vmx_transition_tlb_flush: what the SDM's rules on VPIDs take from the TLB. */
void nested_vmx_transition_tlb_flush(struct kvm_vcpu *vcpu, const struct vmcs12 *v, bool entry)
{
	struct vcpu_vmx *vmx = vcpu->vmx;

	if (!nested_cpu_has2(v, SECONDARY_EXEC_ENABLE_VPID)) {
		vmx->loaded_vmcs->flush_guest = true; /* without VPIDs each transition drops all of them */
		return;
	}
	if (unlikely(vmx_checks_l1vpid(vmx->cpu)))
		vmx->loaded_vmcs->flush_guest = true;
	if (entry && v->virtual_processor_id != vmx->nested.last_vpid) {
		vmx->nested.last_vpid = v->virtual_processor_id;
		vmx->loaded_vmcs->flush_guest = true;
	} else if (!vmx->nested.vpid02) {
		vmx->loaded_vmcs->flush_guest = true; /* L1 and L2 have one tag */
	}
}

bool nested_vmx_load_cr3(struct kvm_vcpu *vcpu, uint64_t cr3, bool keep_pdptrs, struct nested_checks *f)
{
	bool pae = (vmx_get_cr0(vcpu) & X86_CR0_PG) && (vmx_get_cr4(vcpu) & X86_CR4_PAE) &&
		   !(vmx_get_efer(vcpu) & EFER_LMA);

	if (!nested_cr3_valid(vcpu, cr3)) {
		nested_check_failed(f, VMENTRY_CHECK_GUEST_CR3_WIDTH, ENTRY_FAIL_DEFAULT);
		return false;
	}
	if (!keep_pdptrs && pae && !vmx_services->load_pdptrs(vcpu, cr3)) {
		nested_check_failed(f, VMENTRY_CHECK_GUEST_PDPTES, ENTRY_FAIL_PDPTE);
		return false;
	}
	vmcs_writel(vcpu, GUEST_CR3, cr3);
	vcpu->vmx->loaded_vmcs->cr3 = cr3;
	vcpu->vmx->loaded_vmcs->cr3_stale = false;
	kvm_mmu_reset_context(vcpu);
	kvm_mmu_load_pgd(vcpu);
	return true;
}

static void load_debug_and_pat(struct kvm_vcpu *vcpu, const struct vmcs12 *v, uint64_t pat01)
{
	bool pending = vcpu->vmx->nested.run_pending;

	if (pending && (v->vm_entry_controls & VM_ENTRY_LOAD_DEBUG_CONTROLS)) {
		(void)vmx_services->set_dr(vcpu, 7, (uint32_t)v->guest_dr7);
		vmcs_write64(vcpu, GUEST_IA32_DEBUGCTL, v->guest_ia32_debugctl);
	} else {
		(void)vmx_services->set_dr(vcpu, 7, vmx_services->get_dr(vcpu, 7));
		vmcs_write64(vcpu, GUEST_IA32_DEBUGCTL, vcpu->vmx->nested.vmcs01_debugctl);
	}
	if (pending && (v->vm_entry_controls & VM_ENTRY_LOAD_IA32_PAT))
		(void)vmx_services->set_msr(vcpu, MSR_IA32_CR_PAT, v->guest_ia32_pat);
	else
		vmcs_write64(vcpu, GUEST_IA32_PAT, pat01);
}

static uint64_t read_view(uint64_t guest, uint64_t shadow, uint64_t mask)
{
	return (guest & ~mask) | (shadow & mask);
}

uint64_t nested_read_cr0(const struct vmcs12 *v)
{
	return read_view(v->guest_cr0, v->cr0_read_shadow, v->cr0_guest_host_mask);
}

uint64_t nested_read_cr4(const struct vmcs12 *v)
{
	return read_view(v->guest_cr4, v->cr4_read_shadow, v->cr4_guest_host_mask);
}

bool prepare_vmcs02(struct kvm_vcpu *vcpu, const struct vmcs12 *v, uint64_t pat01, bool from_vmentry,
		    struct nested_checks *f)
{
	struct vcpu_vmx *vmx = vcpu->vmx;

	TRACE_CALL(prepare_vmcs02, v->guest_rip, v->guest_cr3, nested_cpu_has_ept(v));
	if (vmx->nested.dirty_vmcs12) {
		prepare_rare(vcpu, v);
		vmx->nested.dirty_vmcs12 = false;
	}
	vmcs_write32(vcpu, GUEST_CS_AR_BYTES, v->guest_cs_ar_bytes);
	vmcs_write32(vcpu, GUEST_SS_AR_BYTES, v->guest_ss_ar_bytes);
	load_debug_and_pat(vcpu, v, pat01);
	vmx_set_rflags(vcpu, v->guest_rflags);
	vmcs_writel(vcpu, GUEST_RFLAGS, v->guest_rflags); /* as it is: bit 1 clear has to fail */
	vmx_update_exception_bitmap(vcpu);
	vmx_update_tsc(vcpu);
	nested_vmx_transition_tlb_flush(vcpu, v, true);
	if (nested_cpu_has_ept(v))
		nested_ept_init_mmu_context(vcpu);
	/* EFER before CR0, which would take LMA for its own to set */
	vmx_load_guest_efer(vcpu, calc_efer(vcpu, v));
	vmx_load_guest_crs(vcpu, v->guest_cr0, v->guest_cr4);
	vmcs_writel(vcpu, CR0_READ_SHADOW, nested_read_cr0(v));
	vmcs_writel(vcpu, CR4_READ_SHADOW, nested_read_cr4(v));
	if (from_vmentry && vmx_emulation_required(vcpu)) {
		nested_check_failed(f, VMENTRY_CHECK_GUEST_SEGMENTS, ENTRY_FAIL_DEFAULT);
		return false;
	}
	if (!nested_vmx_load_cr3(vcpu, v->guest_cr3, nested_cpu_has_ept(v) || !from_vmentry, f))
		return false;
	vmx_set_rsp(vcpu, v->guest_rsp);
	vmx_set_rip(vcpu, v->guest_rip);
	return true;
}
