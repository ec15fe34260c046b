/*
 * The table of exit handlers (Linux: kvm_vmx_exit_handlers), indexed by the
 * basic exit reason.
 */
#include <string.h>

#include "lib/log.h"
#include "trace/trace.h"
#include "vmx/internal.h"

static vmx_exit_handler *const kvm_vmx_exit_handlers[EXIT_REASON_COUNT] = {
	[EXIT_REASON_EXCEPTION_NMI] = handle_exception_nmi,
	[EXIT_REASON_EXTERNAL_INTERRUPT] = handle_external_interrupt,
	[EXIT_REASON_TRIPLE_FAULT] = handle_triple_fault,
	[EXIT_REASON_INTERRUPT_WINDOW] = handle_interrupt_window,
	[EXIT_REASON_NMI_WINDOW] = handle_nmi_window,
	[EXIT_REASON_TASK_SWITCH] = handle_task_switch,
	[EXIT_REASON_CPUID] = handle_cpuid,
	[EXIT_REASON_HLT] = handle_halt,
	[EXIT_REASON_INVD] = handle_nop,
	[EXIT_REASON_INVLPG] = handle_invlpg,
	[EXIT_REASON_RDPMC] = handle_rdpmc,
	[EXIT_REASON_VMCALL] = handle_vmcall,
	[EXIT_REASON_VMCLEAR] = handle_vmclear,
	[EXIT_REASON_VMLAUNCH] = handle_vmlaunch,
	[EXIT_REASON_VMPTRLD] = handle_vmptrld,
	[EXIT_REASON_VMPTRST] = handle_vmptrst,
	[EXIT_REASON_VMREAD] = handle_vmread,
	[EXIT_REASON_VMRESUME] = handle_vmresume,
	[EXIT_REASON_VMWRITE] = handle_vmwrite,
	[EXIT_REASON_VMOFF] = handle_vmxoff,
	[EXIT_REASON_VMON] = handle_vmxon,
	[EXIT_REASON_CR_ACCESS] = handle_cr,
	[EXIT_REASON_DR_ACCESS] = handle_dr,
	[EXIT_REASON_IO_INSTRUCTION] = handle_io,
	[EXIT_REASON_MSR_READ] = handle_rdmsr,
	[EXIT_REASON_MSR_WRITE] = handle_wrmsr,
	[EXIT_REASON_MWAIT_INSTRUCTION] = handle_mwait,
	[EXIT_REASON_MONITOR_TRAP_FLAG] = handle_monitor_trap,
	[EXIT_REASON_MONITOR_INSTRUCTION] = handle_mwait,
	[EXIT_REASON_PAUSE_INSTRUCTION] = handle_pause,
	[EXIT_REASON_TPR_BELOW_THRESHOLD] = handle_tpr_below_threshold,
	[EXIT_REASON_APIC_ACCESS] = handle_apic_access,
	[EXIT_REASON_EOI_INDUCED] = handle_apic_eoi_induced,
	[EXIT_REASON_APIC_WRITE] = handle_apic_write,
	[EXIT_REASON_EPT_VIOLATION] = handle_ept_violation,
	[EXIT_REASON_EPT_MISCONFIG] = handle_ept_misconfig,
	[EXIT_REASON_INVEPT] = handle_invept,
	[EXIT_REASON_PREEMPTION_TIMER] = handle_preemption_timer,
	[EXIT_REASON_INVVPID] = handle_invvpid,
	[EXIT_REASON_WBINVD] = handle_nop,
	[EXIT_REASON_XSETBV] = handle_xsetbv,
	[EXIT_REASON_PML_FULL] = handle_pml_full,
	[EXIT_REASON_INVPCID] = handle_invpcid,
	[EXIT_REASON_RDRAND] = handle_insn_not_offered,
	[EXIT_REASON_RDSEED] = handle_insn_not_offered,
	[EXIT_REASON_VMFUNC] = handle_vmfunc,
	[EXIT_REASON_ENCLS] = handle_vmx_instruction,
	[EXIT_REASON_BUS_LOCK] = handle_bus_lock,
};

/* Exits that may happen in the middle of delivering an event (those of the delivery itself). */
static bool may_interrupt_delivery(uint32_t reason)
{
	switch (reason) {
	case EXIT_REASON_EXCEPTION_NMI:
	case EXIT_REASON_EXTERNAL_INTERRUPT: /* VMX_BUS_ERROR */
	case EXIT_REASON_TRIPLE_FAULT:
	case EXIT_REASON_TASK_SWITCH:
	case EXIT_REASON_EPT_VIOLATION:
	case EXIT_REASON_PML_FULL:
	case EXIT_REASON_APIC_ACCESS:
		return true;
	default:
		return false;
	}
}

static int internal_error(struct kvm_vcpu *vcpu, uint32_t suberror, const uint64_t *data, uint32_t n)
{
	struct kvm_run *run = vcpu->run;

	log_told("KVM_EXIT_INTERNAL_ERROR: vCPU %u, suberror %u, VM exit %u (%s) at rip %#llx; --log errors,info says more",
		 vcpu->vcpu_id, suberror, vcpu->vmx->exit_reason,
		 exit_reason_name(vmx_basic_exit_reason(vcpu->vmx)), (unsigned long long)vmx_get_rip(vcpu));
	run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	run->internal.suberror = suberror;
	run->internal.ndata = n;
	memcpy(run->internal.data, data, n * sizeof(*data));
	return 0;
}

static int delivery_failed(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	uint64_t data[5];
	uint32_t n = 0;

	data[n++] = vmx->idt_vectoring_info;
	data[n++] = vmx->exit_reason;
	data[n++] = vmcs_readl(vcpu, EXIT_QUALIFICATION);
	if (vmx_basic_exit_reason(vmx) == EXIT_REASON_EPT_MISCONFIG)
		data[n++] = vmcs_read64(vcpu, GUEST_PHYSICAL_ADDRESS);
	data[n++] = 0; /* last processor entered on: there is one */
	return internal_error(vcpu, KVM_INTERNAL_ERROR_DELIVERY_EV, data, n);
}

/* VMLAUNCH said no: the client gets the processor's own reason. */
static int fail_entry(struct kvm_vcpu *vcpu, uint64_t reason)
{
	vmx_tell_failed_entry(vcpu);
	log_line(LOG_INFO, "vmx: VM entry of vCPU %u failed, reason %llx", vcpu->vcpu_id,
		 (unsigned long long)reason);
	vcpu->run->exit_reason = KVM_EXIT_FAIL_ENTRY;
	vcpu->run->fail_entry.hardware_entry_failure_reason = reason;
	vcpu->run->fail_entry.cpu = 0;
	return 0;
}

static void trace_exit(struct kvm_vcpu *vcpu, struct trace_kvm_kvm_exit *rec)
{
	uint64_t info[5];

	vmx_get_exit_info(vcpu, info);
	rec->exit_reason = (uint32_t)info[0];
	rec->guest_rip = vmx_get_rip(vcpu);
	rec->isa = 1; /* VMX */
	rec->info1 = info[1];
	rec->info2 = info[2];
	rec->intr_info = (uint32_t)info[3];
	rec->error_code = (uint32_t)info[4];
	rec->vcpu_id = vcpu->vcpu_id;
}

/* The exit of an entry that succeeded. */
static int handle_by_reason(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	uint32_t reason = vmx_basic_exit_reason(vmx);
	uint64_t data[2];

	if (unlikely((vmx->idt_vectoring_info & INTR_INFO_VALID_MASK) &&
		     !may_interrupt_delivery(reason)))
		return delivery_failed(vcpu);
	if (likely(reason < EXIT_REASON_COUNT && kvm_vmx_exit_handlers[reason]))
		return kvm_vmx_exit_handlers[reason](vcpu);

	data[0] = vmx->exit_reason;
	data[1] = 0;
	return internal_error(vcpu, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, data, 2);
}

/* The client hears of a bus lock, whatever the exit was about. */
static int report_bus_lock(struct kvm_vcpu *vcpu, int r)
{
	if (r < 0)
		return r;
	if (r > 0)
		vcpu->run->exit_reason = KVM_EXIT_X86_BUS_LOCK;
	vcpu->run->flags |= KVM_RUN_X86_BUS_LOCK;
	return 0;
}

int vmx_handle_exit(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	int r;

	TRACE_FILL(kvm, kvm_exit, rec, trace_exit(vcpu, rec));
	if (unlikely(is_guest_mode(vcpu)) && vmx->result == VMX_SUCCEED && nested_vmx_reflect_vmexit(vcpu))
		return 1;
	if (unlikely(vmx->result == VMX_FAIL_VALID || vmx->result == VMX_FAIL_INVALID))
		return fail_entry(vcpu, vmx->instruction_error);
	if (unlikely(vmx->exit_reason & VMX_EXIT_REASONS_FAILED_VMENTRY))
		return fail_entry(vcpu, vmx->exit_reason);
	r = handle_by_reason(vcpu);
	if (unlikely(vmx->exit_reason & VMX_EXIT_REASONS_BUS_LOCK))
		return report_bus_lock(vcpu, r);
	return r;
}
