/*
 * Whose is an exit of L2? (Linux: nested_vmx_reflect_vmexit, nested_vmx_l0_wants_exit,
 * nested_vmx_l1_wants_exit.) First L0's own, which L1 knows nothing of; then what L1
 * has asked for in vmcs12; the rest is L0's again, as for any guest.
 */
#include "mmu/mmu.h"
#include "sdm/regs.h"
#include "trace/trace.h"
#include "vmx/internal.h"

/* --- exceptions --- */

/* Linux nested_vmx_is_exception_vmexit: does L1 want this exception of L2's? */
bool nested_vmx_is_exception_vmexit(struct kvm_vcpu *vcpu, uint8_t vector, uint32_t error_code)
{
	const struct vmcs12 *v = get_vmcs12(vcpu);
	bool bit = v->exception_bitmap >> (vector & 31) & 1;

	if (vector != X86_TRAP_PF)
		return bit;
	/* SDM "Exception Bitmap": an error code that does not match turns the bit round */
	if ((error_code & v->page_fault_error_code_mask) != v->page_fault_error_code_match)
		return !bit;
	return bit;
}

static bool l0_wants_exception(struct kvm_vcpu *vcpu)
{
	uint32_t info = vmcs_read32(vcpu, VM_EXIT_INTR_INFO);
	uint32_t debug = vmx_services->guest_debug(vcpu);

	if (FIELD_GET(INTR_INFO_INTR_TYPE_MASK, info) == INTR_TYPE_NMI_INTR)
		return true;
	switch (info & INTR_INFO_VECTOR_MASK) {
	case X86_TRAP_PF: return !vmx_params()->ept;
	case X86_TRAP_DB: return debug & (KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP);
	case X86_TRAP_BP: return debug & KVM_GUESTDBG_USE_SW_BP;
	default: return false;
	}
}

static bool l0_wants_exit(struct kvm_vcpu *vcpu, uint32_t reason)
{
	switch (reason) {
	case EXIT_REASON_EXCEPTION_NMI:
		return l0_wants_exception(vcpu);
	case EXIT_REASON_EXTERNAL_INTERRUPT: /* a kick; L1's comes by kvm_check_nested_events() */
	case EXIT_REASON_MCE_DURING_VMENTRY:
	case EXIT_REASON_EPT_VIOLATION: /* L1's by nested_ept_inject_page_fault() */
	case EXIT_REASON_EPT_MISCONFIG:
	case EXIT_REASON_PREEMPTION_TIMER:
	case EXIT_REASON_PML_FULL:
	case EXIT_REASON_VMFUNC:
	case EXIT_REASON_BUS_LOCK:
	case EXIT_REASON_NOTIFY:
		return true;
	default:
		return false;
	}
}

/* --- bitmaps in L1's memory --- */

static bool l1_wants_port(struct kvm_vcpu *vcpu, const struct vmcs12 *v, uint32_t port, unsigned size)
{

	if (!nested_cpu_has(v, CPU_BASED_USE_IO_BITMAPS))
		return nested_cpu_has(v, CPU_BASED_UNCOND_IO_EXITING);
	for (; size; size--, port++) {
		uint8_t byte;

		/* an access that wraps round always exits */
		if (port > 0xffff)
			return true;
		if (kvm_vcpu_read_guest(vcpu, (port < 0x8000 ? v->io_bitmap_a : v->io_bitmap_b) +
					(port & 0x7fff) / 8, &byte, 1))
			return true;
		if (byte >> (port & 7) & 1)
			return true;
	}
	return false;
}

static bool l1_wants_io(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	uint64_t q = vmcs_readl(vcpu, EXIT_QUALIFICATION);

	return l1_wants_port(vcpu, v, (uint32_t)FIELD_GET(IO_QUAL_PORT_MASK, q),
			     (unsigned)FIELD_GET(IO_QUAL_SIZE_MASK, q) + 1);
}

static bool l1_wants_msr(struct kvm_vcpu *vcpu, const struct vmcs12 *v, bool write)
{
	uint32_t msr = (uint32_t)vmx_regs(vcpu)[RCX];
	gpa_t bitmap = v->msr_bitmap + (write ? 2048 : 0);
	uint8_t byte;

	if (!nested_cpu_has(v, CPU_BASED_USE_MSR_BITMAPS))
		return true;
	if (msr >= 0xc0000000U) {
		msr -= 0xc0000000U;
		bitmap += 1024;
	}
	if (msr >= 8192 || kvm_vcpu_read_guest(vcpu, bitmap + msr / 8, &byte, 1))
		return true;
	return byte >> (msr & 7) & 1;
}

/* --- control registers --- */

static bool l1_wants_mov_to_cr(const struct vmcs12 *v, unsigned cr, uint64_t val)
{
	switch (cr) {
	case 0: return v->cr0_guest_host_mask & (val ^ v->cr0_read_shadow);
	case 3: return nested_cpu_has(v, CPU_BASED_CR3_LOAD_EXITING);
	case 4: return v->cr4_guest_host_mask & (v->cr4_read_shadow ^ val);
	case 8: return nested_cpu_has(v, CPU_BASED_CR8_LOAD_EXITING);
	default: return false;
	}
}

/* LMSW changes bits 3:0 and can set PE only. */
static bool l1_wants_lmsw(const struct vmcs12 *v, uint64_t val)
{
	uint64_t mask = v->cr0_guest_host_mask, shadow = v->cr0_read_shadow;

	if (mask & 0xe & (val ^ shadow))
		return true;
	return (mask & X86_CR0_PE) && !(shadow & X86_CR0_PE) && (val & X86_CR0_PE);
}

static bool l1_wants_cr(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	uint64_t q = vmcs_readl(vcpu, EXIT_QUALIFICATION);
	unsigned cr = (unsigned)FIELD_GET(CR_ACCESS_NUM_MASK, q);

	switch ((enum cr_access_type)FIELD_GET(CR_ACCESS_TYPE_MASK, q)) {
	case CR_ACCESS_MOV_TO:
		return l1_wants_mov_to_cr(v, cr, nested_vmx_read_reg(vcpu, (unsigned)FIELD_GET(CR_ACCESS_REG_MASK, q)));
	case CR_ACCESS_MOV_FROM:
		return (cr == 3 && nested_cpu_has(v, CPU_BASED_CR3_STORE_EXITING)) ||
		       (cr == 8 && nested_cpu_has(v, CPU_BASED_CR8_STORE_EXITING));
	case CR_ACCESS_CLTS:
		return v->cr0_guest_host_mask & v->cr0_read_shadow & X86_CR0_TS;
	case CR_ACCESS_LMSW:
		return l1_wants_lmsw(v, FIELD_GET(CR_ACCESS_LMSW_DATA_MASK, q) & 0xf);
	}
	return true;
}

/* --- VMREAD and VMWRITE under VMCS shadowing --- */

static bool l1_wants_vmcs_access(struct kvm_vcpu *vcpu, const struct vmcs12 *v, bool write)
{
	uint32_t info = vmcs_read32(vcpu, VMX_INSTRUCTION_INFO);
	uint64_t field = nested_vmx_read_reg(vcpu, info >> 28);
	uint8_t byte;

	if (!nested_cpu_has2(v, SECONDARY_EXEC_SHADOW_VMCS) || field >> 15)
		return true;
	if (kvm_vcpu_read_guest(vcpu, (write ? v->vmwrite_bitmap : v->vmread_bitmap) + field / 8, &byte, 1))
		return true;
	return byte >> (field & 7) & 1;
}

/* --- the table --- */

/* Exits that L1 gets where a control of vmcs12 is set. */
static const struct {
	uint8_t reason;
	bool secondary;
	uint64_t control;
} by_control[] = {
	{ EXIT_REASON_INTERRUPT_WINDOW, false, CPU_BASED_INTR_WINDOW_EXITING },
	{ EXIT_REASON_NMI_WINDOW, false, CPU_BASED_NMI_WINDOW_EXITING },
	{ EXIT_REASON_HLT, false, CPU_BASED_HLT_EXITING },
	{ EXIT_REASON_INVLPG, false, CPU_BASED_INVLPG_EXITING },
	{ EXIT_REASON_RDPMC, false, CPU_BASED_RDPMC_EXITING },
	{ EXIT_REASON_RDTSC, false, CPU_BASED_RDTSC_EXITING },
	{ EXIT_REASON_RDTSCP, false, CPU_BASED_RDTSC_EXITING },
	{ EXIT_REASON_DR_ACCESS, false, CPU_BASED_MOV_DR_EXITING },
	{ EXIT_REASON_MWAIT_INSTRUCTION, false, CPU_BASED_MWAIT_EXITING },
	{ EXIT_REASON_MONITOR_INSTRUCTION, false, CPU_BASED_MONITOR_EXITING },
	{ EXIT_REASON_MONITOR_TRAP_FLAG, false, CPU_BASED_MONITOR_TRAP_FLAG },
	{ EXIT_REASON_PAUSE_INSTRUCTION, false, CPU_BASED_PAUSE_EXITING },
	{ EXIT_REASON_TPR_BELOW_THRESHOLD, false, CPU_BASED_TPR_SHADOW },
	{ EXIT_REASON_GDTR_IDTR, true, SECONDARY_EXEC_DESC },
	{ EXIT_REASON_LDTR_TR, true, SECONDARY_EXEC_DESC },
	{ EXIT_REASON_WBINVD, true, SECONDARY_EXEC_WBINVD_EXITING },
	{ EXIT_REASON_RDRAND, true, SECONDARY_EXEC_RDRAND_EXITING },
	{ EXIT_REASON_RDSEED, true, SECONDARY_EXEC_RDSEED_EXITING },
	{ EXIT_REASON_XSAVES, true, SECONDARY_EXEC_ENABLE_XSAVES },
	{ EXIT_REASON_XRSTORS, true, SECONDARY_EXEC_ENABLE_XSAVES },
};

/* An MTF exit that L1 injected (type 7) is L1's with the control clear. */
static bool mtf_was_injected(const struct vmcs12 *v)
{
	uint64_t info = v->vm_entry_intr_info_field;

	return (info & INTR_INFO_VALID_MASK) && FIELD_GET(INTR_INFO_INTR_TYPE_MASK, info) == INTR_TYPE_OTHER_EVENT;
}

static bool l1_wants_exit(struct kvm_vcpu *vcpu, uint32_t reason)
{
	const struct vmcs12 *v = get_vmcs12(vcpu);
	uint32_t info;

	switch (reason) {
	case EXIT_REASON_EXCEPTION_NMI:
		info = vmcs_read32(vcpu, VM_EXIT_INTR_INFO);
		return nested_vmx_is_exception_vmexit(vcpu, (uint8_t)(info & INTR_INFO_VECTOR_MASK),
						      vmcs_read32(vcpu, VM_EXIT_INTR_ERROR_CODE));
	case EXIT_REASON_EXTERNAL_INTERRUPT:
		return v->pin_based_vm_exec_control & PIN_BASED_EXT_INTR_MASK;
	case EXIT_REASON_VMREAD:
		return l1_wants_vmcs_access(vcpu, v, false);
	case EXIT_REASON_VMWRITE:
		return l1_wants_vmcs_access(vcpu, v, true);
	case EXIT_REASON_CR_ACCESS:
		return l1_wants_cr(vcpu, v);
	case EXIT_REASON_IO_INSTRUCTION:
		return l1_wants_io(vcpu, v);
	case EXIT_REASON_MSR_READ:
		return l1_wants_msr(vcpu, v, false);
	case EXIT_REASON_MSR_WRITE:
		return l1_wants_msr(vcpu, v, true);
	case EXIT_REASON_INVPCID:
		return nested_cpu_has2(v, SECONDARY_EXEC_ENABLE_INVPCID) && nested_cpu_has(v, CPU_BASED_INVLPG_EXITING);
	case EXIT_REASON_MONITOR_TRAP_FLAG:
		if (mtf_was_injected(v))
			return true;
		break;
	}
	for (size_t i = 0; i < ARRAY_SIZE(by_control); i++)
		if (by_control[i].reason == reason)
			return by_control[i].secondary ? nested_cpu_has2(v, by_control[i].control)
						       : nested_cpu_has(v, by_control[i].control);
	return true;
}

/* --- instructions of L2 that the emulator runs (Linux: vmx_check_intercept) --- */

bool nested_vmx_l1_wants_port(struct kvm_vcpu *vcpu, uint16_t port, unsigned size)
{
	return l1_wants_port(vcpu, get_vmcs12(vcpu), port, size);
}

bool nested_vmx_l1_wants_insn(struct kvm_vcpu *vcpu, uint32_t reason)
{
	return l1_wants_exit(vcpu, reason);
}

bool nested_vmx_reflect_lmsw(struct kvm_vcpu *vcpu, uint16_t value, bool memory)
{
	uint64_t q = FIELD_PREP(CR_ACCESS_TYPE_MASK, (uint64_t)CR_ACCESS_LMSW) |
		     FIELD_PREP(CR_ACCESS_LMSW_DATA_MASK, (uint64_t)value) | (memory ? CR_ACCESS_LMSW_MEM : 0);

	if (!l1_wants_lmsw(get_vmcs12(vcpu), value & 0xf))
		return false;
	nested_vmx_vmexit(vcpu, EXIT_REASON_CR_ACCESS, 0, q);
	return true;
}

static void trace_vmexit(struct kvm_vcpu *vcpu)
{
	uint64_t info[5];

	vmx_get_exit_info(vcpu, info);
	TRACE(kvm, kvm_nested_vmexit, (uint32_t)info[0], vmx_get_rip(vcpu), 1, info[1], info[2],
	      (uint32_t)info[3], (uint32_t)info[4], vcpu->vcpu_id);
}

bool nested_vmx_reflect_vmexit(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	uint32_t reason = vmx_basic_exit_reason(vmx), intr_info;

	trace_vmexit(vcpu);
	if (vmx->exit_reason & VMX_EXIT_REASONS_FAILED_VMENTRY) {
		vmx_tell_failed_entry(vcpu);
		nested_vmx_vmexit(vcpu, vmx->exit_reason, 0, vmcs_readl(vcpu, EXIT_QUALIFICATION));
		return true;
	}
	if (l0_wants_exit(vcpu, reason) || !l1_wants_exit(vcpu, reason))
		return false;
	intr_info = reason == EXIT_REASON_EXCEPTION_NMI ? vmcs_read32(vcpu, VM_EXIT_INTR_INFO) : 0;
	if (intr_info & INTR_INFO_DELIVER_CODE_MASK)
		vmx->nested.cached_vmcs12->vm_exit_intr_error_code = vmcs_read32(vcpu, VM_EXIT_INTR_ERROR_CODE);
	nested_vmx_vmexit(vcpu, vmx->exit_reason, intr_info, vmcs_readl(vcpu, EXIT_QUALIFICATION));
	return true;
}
