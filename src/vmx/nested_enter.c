/*
 * VMLAUNCH and VMRESUME of L1 (SDM Vol. 3, "VM Entries"; Linux: nested_vmx_run,
 * nested_vmx_enter_non_root_mode).
 *
 *	checks -> VMCS02 current -> controls -> guest state checks -> guest_mode
 *	-> guest state -> MSRs loaded -> the run loop enters L2
 *
 * An entry that fails before "guest state checks" is a VMfail; later it is an exit of
 * L1's with bit 31 of the reason, which loads L1's host state and stores nothing.
 */
#include "host/memory.h"
#include "lib/error.h"
#include "lib/log.h"
#include "mmu/mmu.h"
#include "sdm/regs.h"
#include "trace/trace.h"
#include "vmx/internal.h"
#include "vmx/nested_check.h"

/* The entry has failed after L2's state began to be loaded: an exit to L1 that is none of L2's. */
static int entry_failure_exit(struct kvm_vcpu *vcpu, struct vmcs12 *v, bool from_vmentry, uint32_t reason,
			      uint64_t qualification)
{
	nested_set_guest_mode(vcpu, false);
	vmx_switch_vmcs(vcpu, &vcpu->vmx->vmcs01);
	vmx_update_tsc(vcpu);
	if (!from_vmentry) {
		/* the client's state is no good: L1 goes on as the client has set it */
		nested_ept_uninit_mmu_context(vcpu);
		kvm_mmu_reset_context(vcpu);
		return NVMX_VMENTRY_VMEXIT;
	}
	load_vmcs12_host_state(vcpu, v);
	v->vm_exit_reason = reason | VMX_EXIT_REASONS_FAILED_VMENTRY;
	v->exit_qualification = qualification;
	return NVMX_VMENTRY_VMEXIT;
}

static bool pae_paging(struct kvm_vcpu *vcpu)
{
	return (vmx_get_cr0(vcpu) & X86_CR0_PG) && (vmx_get_cr4(vcpu) & X86_CR4_PAE) &&
	       !(vmx_get_efer(vcpu) & EFER_LMA);
}

static void prepare_msr_bitmap(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	cpu_based_assign(vcpu, CPU_BASED_USE_MSR_BITMAPS, nested_vmx_prepare_msr_bitmap(vcpu, v));
}

/*
 * The processor knows the APIC-access page by where it lies in the client's memory, and never touches it. A
 * new root of EPT02 may be one since the client has moved it (vmx_set_cr3). False: there is no memory.
 */
static bool prepare_apic_access(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	hva_t hva;

	if (!nested_cpu_has2(v, SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES))
		return true;
	hva = kvm_vcpu_gpa_to_hva(vcpu, v->apic_access_addr, false);
	/* a frame that is in no guest's tables: what would be the page is a device's then */
	vmcs_write64(vcpu, APIC_ACCESS_ADDR, __pa(hva ? __va(hva) : (void *)vcpu->vmx->nested.vmcs02.msr_bitmap));
	return hva;
}

/*
 * Linux's rule for a virtual-APIC page in no memory: the processor never asks it where CR8's accesses exit and no
 * APIC-access page leads to it; else it refuses the entry. False: that.
 */
static bool prepare_virtual_apic(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	if (nested_tpr_load(vcpu, v))
		return true;
	if (nested_cpu_has(v, CPU_BASED_CR8_LOAD_EXITING) && nested_cpu_has(v, CPU_BASED_CR8_STORE_EXITING) &&
	    !nested_cpu_has2(v, SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES)) {
		cpu_based_assign(vcpu, CPU_BASED_TPR_SHADOW, false);
		return true;
	}
	log_told("vCPU %u: VM entry of L1's VMCS %#llx failed (error 7): VIRTUAL_APIC_PAGE_ADDR (%xh) = %#llx: there is no memory",
		 vcpu->vcpu_id, (unsigned long long)nested_vmptr12(&vcpu->vmx->nested), VIRTUAL_APIC_PAGE_ADDR,
		 (unsigned long long)v->virtual_apic_page_addr);
	return false;
}

static int tell_internal_error(struct kvm_vcpu *vcpu)
{
	vcpu->run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	vcpu->run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
	vcpu->run->internal.ndata = 0;
	return 0;
}

bool nested_get_vmcs12_pages(struct kvm_vcpu *vcpu)
{
	const struct vmcs12 *v = get_vmcs12(vcpu);

	if (!nested_evmcs_get_page(vcpu)) {
		(void)tell_internal_error(vcpu);
		return false;
	}
	vcpu->vmx->nested.pages_stale = false;
	if (!is_guest_mode(vcpu))
		return true;
	(void)prepare_apic_access(vcpu, v);
	(void)nested_tpr_load(vcpu, v);
	prepare_msr_bitmap(vcpu, v);
	if (!nested_cpu_has_ept(v) && pae_paging(vcpu) && !vmx_services->load_pdptrs(vcpu, vmx_get_cr3(vcpu)))
		kvm_make_request(KVM_REQ_TRIPLE_FAULT, vcpu);
	return true;
}

int nested_vmx_enter_non_root_mode(struct kvm_vcpu *vcpu, bool from_vmentry)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	struct vmcs12 *v = vmx->nested.cached_vmcs12;
	struct nested_checks f = { 0 };
	uint64_t pat01 = vmcs_read64(vcpu, GUEST_IA32_PAT), failed;

	TRACE_CALL(nested_vmx_enter_non_root_mode, vcpu->vcpu_id);
	if (kvm_check_request(KVM_REQ_TLB_FLUSH_GUEST, vcpu))
		vmx_flush_tlb_guest(vcpu);
	vmx->nested.vmcs01_debugctl = vmcs_read64(vcpu, GUEST_IA32_DEBUGCTL);
	vmx_switch_vmcs(vcpu, &vmx->nested.vmcs02);
	prepare_vmcs02_early(vcpu, v);
	if (from_vmentry) {
		bool access = prepare_apic_access(vcpu, v);

		if (!access || !prepare_virtual_apic(vcpu, v)) {
			vmx_switch_vmcs(vcpu, &vmx->vmcs01);
			return access ? NVMX_VMENTRY_VMFAIL : NVMX_VMENTRY_KVM_INTERNAL_ERROR;
		}
		prepare_msr_bitmap(vcpu, v);
		nested_vmx_check_guest_state(vcpu, v, &f);
		if (f.nr_failed) {
			nested_vmx_explain(vcpu, &f, 0);
			return entry_failure_exit(vcpu, v, true, EXIT_REASON_INVALID_STATE, f.qualification);
		}
	}
	nested_set_guest_mode(vcpu, true);
	if (!prepare_vmcs02(vcpu, v, pat01, from_vmentry, &f)) {
		nested_vmx_explain(vcpu, &f, 0);
		return entry_failure_exit(vcpu, v, from_vmentry, EXIT_REASON_INVALID_STATE, f.qualification);
	}
	if (from_vmentry) {
		failed = nested_vmx_load_msr(vcpu, v->vm_entry_msr_load_addr, v->vm_entry_msr_load_count);
		if (failed)
			return entry_failure_exit(vcpu, v, true, EXIT_REASON_MSR_LOAD_FAIL, failed);
	}
	vmx->nested.pages_stale = !from_vmentry;
	if (from_vmentry)
		nested_load_shadow_vmcs12(vcpu, v);
	nested_timer_start(vcpu, v);
	nested_evmcs_entered(vcpu);
	/* what waits for L1 may have to leave L2 at once */
	kvm_make_request(KVM_REQ_EVENT, vcpu);
	return NVMX_VMENTRY_SUCCESS;
}

/* L2 begins in HLT, and nothing that the entry brings wakes it (SDM "Activity State"). */
static bool begins_halted(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	return v->guest_activity_state == GUEST_ACTIVITY_HLT &&
	       !(v->vm_entry_intr_info_field & INTR_INFO_VALID_MASK) &&
	       !nested_cpu_has(v, CPU_BASED_NMI_WINDOW_EXITING) &&
	       !(nested_cpu_has(v, CPU_BASED_INTR_WINDOW_EXITING) && (v->guest_rflags & X86_FLAGS_IF));
}

static void trace_vmenter(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	TRACE(kvm, kvm_nested_vmenter, vmx_get_rip(vcpu), nested_vmptr12(&vcpu->vmx->nested), v->guest_rip, 0,
	      v->vm_entry_intr_info_field, nested_cpu_has_ept(v), nested_cpu_has_ept(v) ? v->ept_pointer : v->guest_cr3,
	      1);
}

void nested_tell_checkers(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	const struct vmx_check_l2 with = {
		.vcpu = vcpu->vcpu_id, .vpid = nested_cpu_has2(v, SECONDARY_EXEC_ENABLE_VPID) ? v->virtual_processor_id : 0,
		.eptp = nested_cpu_has_ept(v) ? v->ept_pointer : 0, .cr3 = v->guest_cr3, .cr4 = v->guest_cr4, .l1_rip = vmx_get_rip(vcpu),
	};

	vmx_check_l2_enters(vcpu->vmx->cpu, &with);
	kvm_mmu_l1_enters_l2(vcpu, with.eptp);
}

static int enter_l2(struct kvm_vcpu *vcpu)
{
	struct nested_vmx *n = &vcpu->vmx->nested;

	trace_vmenter(vcpu, n->cached_vmcs12);
	n->run_pending = true;
	n->timer.has_deadline = false;
	vcpu->stat.nested_run++;
	nested_tell_checkers(vcpu, n->cached_vmcs12);
	switch ((enum nvmx_vmentry_status)nested_vmx_enter_non_root_mode(vcpu, true)) {
	case NVMX_VMENTRY_SUCCESS:
		break;
	case NVMX_VMENTRY_VMFAIL:
		n->run_pending = false;
		return nested_vmx_fail(vcpu, VMXERR_ENTRY_INVALID_CONTROL_FIELD);
	case NVMX_VMENTRY_VMEXIT:
		n->run_pending = false;
		return 1;
	case NVMX_VMENTRY_KVM_INTERNAL_ERROR:
		/* as Linux: memory that vmcs12 names and the client has not given */
		n->run_pending = false;
		return tell_internal_error(vcpu);
	}
	if (n->cached_vmcs12->guest_activity_state == GUEST_ACTIVITY_WAIT_SIPI) {
		n->run_pending = false;
		vmx_services->wait_for_sipi(vcpu);
		return 1;
	}
	if (begins_halted(vcpu, n->cached_vmcs12)) {
		n->run_pending = false;
		return vmx_services->emulate_halt(vcpu);
	}
	return 1;
}

/* L1 may enter with an enlightened VMCS. False: *r is the exit handler's answer. */
static bool load_enlightened(struct kvm_vcpu *vcpu, bool launch, int *r)
{
	enum nested_evmptrld how = nested_evmcs_load(vcpu, launch);

	if (how == EVMPTRLD_DISABLED || (how == EVMPTRLD_SUCCEEDED && nested_evmcs_from_l1(vcpu, launch)))
		return true;
	if (how == EVMPTRLD_VMFAIL) {
		*r = nested_vmx_fail_invalid(vcpu);
	} else { /* there is no memory: as Linux */
		vmx_services->queue_exception(vcpu, X86_TRAP_UD, false, 0, false, 0);
		*r = 1;
	}
	return false;
}

static int nested_vmx_run(struct kvm_vcpu *vcpu, bool launch)
{
	struct nested_vmx *n = &vcpu->vmx->nested;
	struct vmcs12 *v = n->cached_vmcs12;
	struct nested_checks f = { 0 };
	int r;

	TRACE_CALL(nested_vmx_run, n->current_vmptr);
	if (!nested_vmx_check_permission(vcpu))
		return 1;
	if (unlikely(n->evmcs.enabled) && !load_enlightened(vcpu, launch, &r))
		return r;
	nested_shadowing_from_l1(vcpu);
	if (nested_vmptr12(n) == INVALID_VMPTR || (v->revision_id & VMCS12_SHADOW))
		return nested_vmx_fail_invalid(vcpu);
	if (vmx_get_interrupt_shadow(vcpu) & KVM_X86_SHADOW_INT_MOV_SS)
		return nested_vmx_fail(vcpu, VMXERR_ENTRY_EVENTS_BLOCKED_BY_MOV_SS);
	if (launch ? v->launch_state != 0 : v->launch_state != 1)
		return nested_vmx_fail(vcpu, launch ? VMXERR_VMLAUNCH_NONCLEAR_VMCS
						    : VMXERR_VMRESUME_NONLAUNCHED_VMCS);
	nested_vmx_check_controls(vcpu, v, &f);
	if (f.nr_failed) {
		nested_vmx_explain(vcpu, &f, VMXERR_ENTRY_INVALID_CONTROL_FIELD);
		return nested_vmx_fail(vcpu, VMXERR_ENTRY_INVALID_CONTROL_FIELD);
	}
	nested_vmx_check_address_space_size(vcpu, v, &f);
	nested_vmx_check_host_state(vcpu, v, &f);
	if (f.nr_failed) {
		nested_vmx_explain(vcpu, &f, VMXERR_ENTRY_INVALID_HOST_STATE_FIELD);
		return nested_vmx_fail(vcpu, VMXERR_ENTRY_INVALID_HOST_STATE_FIELD);
	}
	return enter_l2(vcpu);
}

int handle_vmlaunch(struct kvm_vcpu *vcpu)
{
	TRACE_CALL(handle_vmlaunch, vcpu->vcpu_id, vmx_get_rip(vcpu), true);
	return nested_vmx_run(vcpu, true);
}

int handle_vmresume(struct kvm_vcpu *vcpu)
{
	TRACE_CALL(handle_vmlaunch, vcpu->vcpu_id, vmx_get_rip(vcpu), false);
	return nested_vmx_run(vcpu, false);
}
