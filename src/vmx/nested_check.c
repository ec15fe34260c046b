/*
 * What VM entry checks of a vmcs12 (SDM Vol. 3, "Checks on VMX Controls", "Checks
 * on Host-State Area", "Checks on Guest State").
 *
 * Controls and host state are all checked here: VMCS02 has L0's. Of the guest state
 * only what L0 rewrites or what depends on L1's CPUID: the rest goes into VMCS02 as
 * it is, and the processor's own entry refuses it (exit 33, which is reflected).
 *
 * Each failed check is noted; the first decides, all are counted (nested_explain.c).
 */
#include "mmu/mmu.h"
#include "sdm/ept.h"
#include "sdm/regs.h"
#include "vmx/internal.h"
#include "vmx/nested_check.h"

#define CHECK(f, id, cond) note(f, VMENTRY_CHECK_##id, cond)

static void note(struct nested_checks *f, enum vmentry_check id, bool passed)
{
	if (passed)
		return;
	if (!f->nr_failed++)
		f->first = id;
	if (f->all)
		vmentry_failed(f->all, id, 0);
}

/* --- helpers --- */

static bool control_allowed(struct kvm_vcpu *vcpu, uint32_t msr, uint32_t v)
{
	uint64_t cap = nested_vmx_cap(vcpu, msr);

	return (v & (uint32_t)cap) == (uint32_t)cap && !(v & ~(uint32_t)(cap >> 32));
}

static bool pat_ok(uint64_t pat)
{
	for (int n = 0; n < 8; n++, pat >>= 8)
		if ((uint8_t)pat > MT_UC_MINUS || (uint8_t)pat == 2 || (uint8_t)pat == 3)
			return false;
	return true;
}

static bool msr_area_ok(struct kvm_vcpu *vcpu, uint64_t addr, uint32_t count)
{
	int width = vmx_services->maxphyaddr(vcpu);

	if (!count)
		return true;
	return IS_ALIGNED(addr, 16ULL) && !(addr >> width) && !((addr + count * 16ULL - 1) >> width);
}

static bool fixed_ok(struct kvm_vcpu *vcpu, uint64_t v, uint32_t fixed0_msr, uint64_t not_required)
{
	uint64_t must = nested_vmx_cap(vcpu, fixed0_msr) & ~not_required;

	return (v & must) == must && !(v & ~nested_vmx_cap(vcpu, fixed0_msr + 1));
}

bool nested_host_cr0_valid(struct kvm_vcpu *vcpu, uint64_t v)
{
	return fixed_ok(vcpu, v, MSR_IA32_VMX_CR0_FIXED0, 0);
}

bool nested_guest_cr0_valid(struct kvm_vcpu *vcpu, uint64_t v)
{
	const struct vmcs12 *v12 = get_vmcs12(vcpu);
	bool free = nested_vmx_offers_secondary(vcpu, SECONDARY_EXEC_UNRESTRICTED_GUEST) &&
		    nested_cpu_has2(v12, SECONDARY_EXEC_UNRESTRICTED_GUEST);

	return fixed_ok(vcpu, v, MSR_IA32_VMX_CR0_FIXED0, free ? X86_CR0_PE | X86_CR0_PG : 0);
}

bool nested_cr4_valid(struct kvm_vcpu *vcpu, uint64_t v)
{
	return fixed_ok(vcpu, v, MSR_IA32_VMX_CR4_FIXED0, 0);
}

bool nested_cr3_valid(struct kvm_vcpu *vcpu, uint64_t v)
{
	return !(v >> vmx_services->maxphyaddr(vcpu));
}

bool nested_vmx_canonical(uint64_t v)
{
	return (uint64_t)((int64_t)(v << 16) >> 16) == v;
}

bool nested_vmx_offers_secondary(struct kvm_vcpu *vcpu, uint64_t bit)
{
	return nested_vmx_cap(vcpu, MSR_IA32_VMX_PROCBASED_CTLS2) >> 32 & bit;
}

/* --- controls: VM-instruction error 7 --- */

#define EPT_CAP_EXECONLY BIT_ULL(0)
#define EPT_CAP_WALK_4 BIT_ULL(6)
#define EPT_CAP_UC BIT_ULL(8)
#define EPT_CAP_WB BIT_ULL(14)
#define EPT_CAP_AD BIT_ULL(21)

static void check_eptp(struct kvm_vcpu *vcpu, struct nested_checks *f, uint64_t eptp)
{
	uint64_t cap = nested_vmx_cap(vcpu, MSR_IA32_VMX_EPT_VPID_CAP), type = eptp & EPTP_MEMTYPE_MASK;
	uint64_t walk = FIELD_GET(EPTP_WALK_MASK, eptp);

	CHECK(f, CTL_EPTP_MEMTYPE, (type == MT_WRBACK && cap & EPT_CAP_WB) ||
					   (type == MT_UNCACHEABLE && cap & EPT_CAP_UC));
	CHECK(f, CTL_EPTP_WALK, (walk == 3 && cap & EPT_CAP_WALK_4) || (walk == 4 && cap & EPT_CAP_5LEVELS));
	CHECK(f, CTL_EPTP_RESERVED, !(eptp & GENMASK_ULL(11, 7)) && !(eptp >> vmx_services->maxphyaddr(vcpu)));
	CHECK(f, CTL_EPTP_AD, !(eptp & EPTP_AD_ENABLE) || cap & EPT_CAP_AD);
}

bool nested_vmx_eptp_valid(struct kvm_vcpu *vcpu, uint64_t eptp)
{
	struct nested_checks f = { 0 };

	check_eptp(vcpu, &f, eptp);
	return !f.nr_failed;
}

#define APICV_CONTROLS                                                                  \
	(SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE | SECONDARY_EXEC_APIC_REGISTER_VIRT |     \
	 SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY)

static void check_secondary(struct kvm_vcpu *vcpu, const struct vmcs12 *v, struct nested_checks *f)
{
	if (nested_cpu_has2(v, SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES))
		CHECK(f, CTL_APIC_ACCESS, nested_vmx_page_valid(vcpu, v->apic_access_addr));
	if (nested_cpu_has2(v, SECONDARY_EXEC_ENABLE_VPID))
		CHECK(f, CTL_VPID, v->virtual_processor_id);
	if (nested_cpu_has_ept(v))
		check_eptp(vcpu, f, v->ept_pointer);
	if (nested_cpu_has2(v, SECONDARY_EXEC_UNRESTRICTED_GUEST))
		CHECK(f, CTL_UNRESTRICTED, nested_cpu_has_ept(v));
	if (nested_cpu_has2(v, SECONDARY_EXEC_ENABLE_PML))
		CHECK(f, CTL_PML, nested_cpu_has_ept(v) && nested_vmx_page_valid(vcpu, v->pml_address));
	if (nested_cpu_has2(v, SECONDARY_EXEC_SHADOW_VMCS)) {
		CHECK(f, CTL_VMREAD_BITMAP, nested_vmx_page_valid(vcpu, v->vmread_bitmap));
		CHECK(f, CTL_VMWRITE_BITMAP, nested_vmx_page_valid(vcpu, v->vmwrite_bitmap));
	}
	if (nested_cpu_has2(v, SECONDARY_EXEC_ENABLE_VMFUNC)) {
		CHECK(f, CTL_VMFUNC, !(v->vm_function_control & ~nested_vmx_cap(vcpu, MSR_IA32_VMX_VMFUNC)));
		if (v->vm_function_control & VMFUNC_EPTP_SWITCHING)
			CHECK(f, CTL_EPTP_LIST, nested_cpu_has_ept(v) && nested_vmx_page_valid(vcpu, v->eptp_list_address));
	}
}

/* Of memory that is not there the threshold cannot be above: nested_enter.c says what becomes of such an entry. */
static void check_tpr_threshold(struct kvm_vcpu *vcpu, const struct vmcs12 *v, struct nested_checks *f)
{
	uint32_t vtpr;

	CHECK(f, CTL_TPR_THRESHOLD, !(v->tpr_threshold & ~0xfU));
	/* a look from another thread touches no memory of L1's */
	if (!f->all && !nested_cpu_has2(v, SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES) && nested_tpr_read(vcpu, v, &vtpr))
		CHECK(f, CTL_TPR_OVER_VTPR, (v->tpr_threshold & 0xf) <= (vtpr >> 4 & 0xf));
}

static void check_execution_controls(struct kvm_vcpu *vcpu, const struct vmcs12 *v, struct nested_checks *f)
{
	uint64_t targets = nested_vmx_cap(vcpu, MSR_IA32_VMX_MISC) >> 16 & 0x1ff;

	CHECK(f, CTL_PIN_ALLOWED, control_allowed(vcpu, MSR_IA32_VMX_TRUE_PINBASED_CTLS,
						  v->pin_based_vm_exec_control));
	CHECK(f, CTL_PRIMARY_ALLOWED, control_allowed(vcpu, MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
						      v->cpu_based_vm_exec_control));
	if (nested_cpu_has(v, CPU_BASED_ACTIVATE_SECONDARY_CONTROLS))
		CHECK(f, CTL_SECONDARY_ALLOWED, control_allowed(vcpu, MSR_IA32_VMX_PROCBASED_CTLS2,
								v->secondary_vm_exec_control));
	CHECK(f, CTL_CR3_TARGET_COUNT, v->cr3_target_count <= targets);
	if (nested_cpu_has(v, CPU_BASED_USE_IO_BITMAPS)) {
		CHECK(f, CTL_IO_BITMAP_A, nested_vmx_page_valid(vcpu, v->io_bitmap_a));
		CHECK(f, CTL_IO_BITMAP_B, nested_vmx_page_valid(vcpu, v->io_bitmap_b));
	}
	if (nested_cpu_has(v, CPU_BASED_USE_MSR_BITMAPS))
		CHECK(f, CTL_MSR_BITMAP, nested_vmx_page_valid(vcpu, v->msr_bitmap));
	if (nested_cpu_has(v, CPU_BASED_TPR_SHADOW)) {
		CHECK(f, CTL_VIRTUAL_APIC, nested_vmx_page_valid(vcpu, v->virtual_apic_page_addr));
		check_tpr_threshold(vcpu, v, f);
	} else {
		CHECK(f, CTL_APICV_WITHOUT_TPR_SHADOW, !nested_cpu_has2(v, APICV_CONTROLS));
	}
	CHECK(f, CTL_VIRTUAL_NMI, !(v->pin_based_vm_exec_control & PIN_BASED_VIRTUAL_NMIS) ||
					  v->pin_based_vm_exec_control & PIN_BASED_NMI_EXITING);
	CHECK(f, CTL_NMI_WINDOW, !nested_cpu_has(v, CPU_BASED_NMI_WINDOW_EXITING) ||
					 v->pin_based_vm_exec_control & PIN_BASED_VIRTUAL_NMIS);
	check_secondary(vcpu, v, f);
}

static void check_exit_controls(struct kvm_vcpu *vcpu, const struct vmcs12 *v, struct nested_checks *f)
{
	CHECK(f, CTL_EXIT_ALLOWED, control_allowed(vcpu, MSR_IA32_VMX_TRUE_EXIT_CTLS, v->vm_exit_controls));
	CHECK(f, CTL_SAVE_TIMER, v->pin_based_vm_exec_control & PIN_BASED_VMX_PREEMPTION_TIMER ||
					 !(v->vm_exit_controls & VM_EXIT_SAVE_VMX_PREEMPTION_TIMER));
	CHECK(f, CTL_EXIT_STORE, msr_area_ok(vcpu, v->vm_exit_msr_store_addr, v->vm_exit_msr_store_count));
	CHECK(f, CTL_EXIT_LOAD, msr_area_ok(vcpu, v->vm_exit_msr_load_addr, v->vm_exit_msr_load_count));
}

/* Exceptions that push an error code. */
#define ERROR_CODE_VECTORS                                                                   \
	(BIT_ULL(X86_TRAP_DF) | BIT_ULL(X86_TRAP_TS) | BIT_ULL(X86_TRAP_NP) |                \
	 BIT_ULL(X86_TRAP_SS) | BIT_ULL(X86_TRAP_GP) | BIT_ULL(X86_TRAP_PF) |                \
	 BIT_ULL(X86_TRAP_AC))

static bool injected_vector_ok(uint64_t type, uint64_t vector)
{
	switch (type) {
	case INTR_TYPE_NMI_INTR: return vector == X86_TRAP_NMI;
	case INTR_TYPE_HARD_EXCEPTION: return vector < 32;
	case INTR_TYPE_OTHER_EVENT: return vector == 0;
	default: return true;
	}
}

static void check_injection(struct kvm_vcpu *vcpu, const struct vmcs12 *v, struct nested_checks *f)
{
	uint64_t info = v->vm_entry_intr_info_field, vector = info & INTR_INFO_VECTOR_MASK;
	uint64_t type = FIELD_GET(INTR_INFO_INTR_TYPE_MASK, info);
	bool protected_mode = !nested_cpu_has2(v, SECONDARY_EXEC_UNRESTRICTED_GUEST) || v->guest_cr0 & X86_CR0_PE;
	bool error_code = type == INTR_TYPE_HARD_EXCEPTION && protected_mode && vector < 32 &&
			  (ERROR_CODE_VECTORS & BIT_ULL(vector));
	bool zero_length = nested_vmx_cap(vcpu, MSR_IA32_VMX_MISC) & BIT_ULL(30);

	if (!(info & INTR_INFO_VALID_MASK))
		return;
	CHECK(f, CTL_INJECT_TYPE, type != 1 && (type != INTR_TYPE_OTHER_EVENT ||
						nested_vmx_cap(vcpu, MSR_IA32_VMX_TRUE_PROCBASED_CTLS) >> 32 &
							CPU_BASED_MONITOR_TRAP_FLAG));
	CHECK(f, CTL_INJECT_VECTOR, injected_vector_ok(type, vector));
	CHECK(f, CTL_INJECT_HAS_ERROR, !!(info & INTR_INFO_DELIVER_CODE_MASK) == error_code);
	if (error_code)
		CHECK(f, CTL_INJECT_ERROR, !(v->vm_entry_exception_error_code & GENMASK_ULL(31, 16)));
	CHECK(f, CTL_INJECT_RESERVED, !(info & GENMASK_ULL(30, 12)));
	if (type >= INTR_TYPE_SOFT_INTR && type <= INTR_TYPE_SOFT_EXCEPTION)
		CHECK(f, CTL_INJECT_LENGTH, v->vm_entry_instruction_len <= 15 &&
						    (v->vm_entry_instruction_len || zero_length));
}

static void check_entry_controls(struct kvm_vcpu *vcpu, const struct vmcs12 *v, struct nested_checks *f)
{
	CHECK(f, CTL_ENTRY_ALLOWED, control_allowed(vcpu, MSR_IA32_VMX_TRUE_ENTRY_CTLS, v->vm_entry_controls));
	check_injection(vcpu, v, f);
	CHECK(f, CTL_ENTRY_LOAD, msr_area_ok(vcpu, v->vm_entry_msr_load_addr, v->vm_entry_msr_load_count));
}

void nested_vmx_check_controls(struct kvm_vcpu *vcpu, const struct vmcs12 *v, struct nested_checks *f)
{
	check_execution_controls(vcpu, v, f);
	check_exit_controls(vcpu, v, f);
	check_entry_controls(vcpu, v, f);
}

/* --- host state: VM-instruction error 8 --- */

void nested_vmx_check_address_space_size(struct kvm_vcpu *vcpu, const struct vmcs12 *v, struct nested_checks *f)
{
	CHECK(f, HOST_SIZE, !!(v->vm_exit_controls & VM_EXIT_HOST_ADDR_SPACE_SIZE) ==
				    !!(vmx_get_efer(vcpu) & EFER_LMA));
}

static void check_host_selectors(const struct vmcs12 *v, bool ia32e, struct nested_checks *f)
{
	CHECK(f, HOST_SELECTORS, !((v->host_es_selector | v->host_cs_selector | v->host_ss_selector |
				    v->host_ds_selector | v->host_fs_selector | v->host_gs_selector |
				    v->host_tr_selector) & 7));
	CHECK(f, HOST_CS_ZERO, v->host_cs_selector);
	CHECK(f, HOST_TR_ZERO, v->host_tr_selector);
	CHECK(f, HOST_SS_ZERO, v->host_ss_selector || ia32e);
	CHECK(f, HOST_FS_BASE_CANONICAL, nested_vmx_canonical(v->host_fs_base));
	CHECK(f, HOST_GS_BASE_CANONICAL, nested_vmx_canonical(v->host_gs_base));
	CHECK(f, HOST_GDTR_BASE_CANONICAL, nested_vmx_canonical(v->host_gdtr_base));
	CHECK(f, HOST_IDTR_BASE_CANONICAL, nested_vmx_canonical(v->host_idtr_base));
	CHECK(f, HOST_TR_BASE_CANONICAL, nested_vmx_canonical(v->host_tr_base));
}

#define EFER_RESERVED (~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NX))

void nested_vmx_check_host_state(struct kvm_vcpu *vcpu, const struct vmcs12 *v, struct nested_checks *f)
{
	bool ia32e = v->vm_exit_controls & VM_EXIT_HOST_ADDR_SPACE_SIZE;

	CHECK(f, HOST_CR0_FIXED, nested_host_cr0_valid(vcpu, v->host_cr0));
	CHECK(f, HOST_CR4_FIXED, nested_cr4_valid(vcpu, v->host_cr4));
	CHECK(f, HOST_CR3_WIDTH, nested_cr3_valid(vcpu, v->host_cr3));
	CHECK(f, HOST_SYSENTER_ESP, nested_vmx_canonical(v->host_ia32_sysenter_esp));
	CHECK(f, HOST_SYSENTER_EIP, nested_vmx_canonical(v->host_ia32_sysenter_eip));
	if (v->vm_exit_controls & VM_EXIT_LOAD_IA32_PAT)
		CHECK(f, HOST_PAT_TYPES, pat_ok(v->host_ia32_pat));
	if (ia32e) {
		CHECK(f, HOST_PAE, v->host_cr4 & X86_CR4_PAE);
		CHECK(f, HOST_RIP_WIDTH, nested_vmx_canonical(v->host_rip));
	} else {
		CHECK(f, HOST_SIZE_32, !(v->vm_entry_controls & VM_ENTRY_IA32E_MODE));
		CHECK(f, HOST_PCIDE, !(v->host_cr4 & X86_CR4_PCIDE));
		CHECK(f, HOST_RIP_WIDTH, !(v->host_rip >> 32));
	}
	check_host_selectors(v, ia32e, f);
	if (v->vm_exit_controls & VM_EXIT_LOAD_IA32_EFER)
		CHECK(f, HOST_EFER_BITS, !(v->host_ia32_efer & EFER_RESERVED) &&
						 !!(v->host_ia32_efer & EFER_LMA) == ia32e &&
						 !!(v->host_ia32_efer & EFER_LME) == ia32e);
}

/* --- guest state: exit reason 33 --- */

static void check_link_pointer(struct kvm_vcpu *vcpu, const struct vmcs12 *v, struct nested_checks *f)
{
	uint32_t revision;

	if (v->vmcs_link_pointer == INVALID_VMPTR)
		return;
	CHECK(f, GUEST_LINK_ALIGNED, nested_vmx_page_valid(vcpu, v->vmcs_link_pointer));
	if (!nested_vmx_page_valid(vcpu, v->vmcs_link_pointer))
		return;
	if (kvm_vcpu_read_guest(vcpu, v->vmcs_link_pointer, &revision, sizeof(revision)))
		revision = ~VMCS12_REVISION;
	CHECK(f, GUEST_LINK_REVISION, (revision & ~VMCS12_SHADOW) == VMCS12_REVISION &&
					      !!(revision & VMCS12_SHADOW) ==
						      nested_cpu_has2(v, SECONDARY_EXEC_SHADOW_VMCS));
}

static bool may_enter_hlt(uint64_t info)
{
	uint64_t type = FIELD_GET(INTR_INFO_INTR_TYPE_MASK, info), vector = info & INTR_INFO_VECTOR_MASK;

	return !(info & INTR_INFO_VALID_MASK) || type == INTR_TYPE_EXT_INTR || type == INTR_TYPE_NMI_INTR ||
	       (type == INTR_TYPE_HARD_EXCEPTION && (vector == X86_TRAP_DB || vector == X86_TRAP_MC)) ||
	       (type == INTR_TYPE_OTHER_EVENT && vector == 0);
}

static void check_activity(struct kvm_vcpu *vcpu, const struct vmcs12 *v, struct nested_checks *f)
{
	bool wait_sipi = nested_vmx_cap(vcpu, MSR_IA32_VMX_MISC) & BIT_ULL(8);

	CHECK(f, GUEST_ACTIVITY, v->guest_activity_state <= GUEST_ACTIVITY_HLT ||
					 (v->guest_activity_state == GUEST_ACTIVITY_WAIT_SIPI && wait_sipi));
	if (v->guest_activity_state != GUEST_ACTIVITY_HLT)
		return;
	CHECK(f, GUEST_HLT_DPL, !FIELD_GET(VMX_AR_DPL_MASK, v->guest_ss_ar_bytes));
	CHECK(f, GUEST_HLT_SHADOW,
	      !(v->guest_interruptibility_info & (GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS)));
	CHECK(f, GUEST_HLT_EVENT, may_enter_hlt(v->vm_entry_intr_info_field));
}

static void check_guest_state(struct kvm_vcpu *vcpu, const struct vmcs12 *v, bool entry, struct nested_checks *f)
{
	bool ia32e = v->vm_entry_controls & VM_ENTRY_IA32E_MODE, pg = v->guest_cr0 & X86_CR0_PG;

	f->qualification = 0;
	CHECK(f, GUEST_CR0_FIXED, nested_guest_cr0_valid(vcpu, v->guest_cr0));
	CHECK(f, GUEST_CR0_PG_PE, !pg || v->guest_cr0 & X86_CR0_PE);
	CHECK(f, GUEST_CR4_FIXED, nested_cr4_valid(vcpu, v->guest_cr4));
	if (v->vm_entry_controls & VM_ENTRY_LOAD_DEBUG_CONTROLS) {
		CHECK(f, GUEST_DR7_WIDTH, !(v->guest_dr7 >> 32));
		CHECK(f, GUEST_DEBUGCTL, !(v->guest_ia32_debugctl & ~0xffc3ULL));
	}
	if (v->vm_entry_controls & VM_ENTRY_LOAD_IA32_PAT)
		CHECK(f, GUEST_PAT_TYPES, pat_ok(v->guest_ia32_pat));
	CHECK(f, GUEST_IA32E_PAGING, !ia32e || (pg && v->guest_cr4 & X86_CR4_PAE));
	/* of an L2 that is restored EFER is the client's to set */
	if (entry && (v->vm_entry_controls & VM_ENTRY_LOAD_IA32_EFER))
		CHECK(f, GUEST_EFER_BITS, !(v->guest_ia32_efer & EFER_RESERVED) &&
						  !!(v->guest_ia32_efer & EFER_LMA) == ia32e &&
						  (!pg || !!(v->guest_ia32_efer & EFER_LME) == ia32e));
	check_activity(vcpu, v, f);
}

void nested_vmx_check_guest_registers(struct kvm_vcpu *vcpu, const struct vmcs12 *v, struct nested_checks *f)
{
	check_guest_state(vcpu, v, true, f);
	if (v->vmcs_link_pointer != INVALID_VMPTR)
		CHECK(f, GUEST_LINK_ALIGNED, nested_vmx_page_valid(vcpu, v->vmcs_link_pointer));
	CHECK(f, GUEST_CR3_WIDTH, nested_cr3_valid(vcpu, v->guest_cr3));
}

void nested_vmx_check_guest_state(struct kvm_vcpu *vcpu, const struct vmcs12 *v, struct nested_checks *f)
{
	check_guest_state(vcpu, v, vcpu->vmx->nested.run_pending, f);
	if (!f->nr_failed) {
		check_link_pointer(vcpu, v, f);
		if (f->nr_failed)
			f->qualification = ENTRY_FAIL_VMCS_LINK_PTR;
	}
}

void nested_check_failed(struct nested_checks *f, enum vmentry_check id, uint64_t qualification)
{
	note(f, id, false);
	f->qualification = qualification;
}
