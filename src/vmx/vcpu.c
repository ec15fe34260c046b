/*
 * Life of the vCPU's VMX part, and its state after RESET.
 *
 * Invariant: a VMCS is current on the vCPU's own logical processor from creation
 * to death.
 * Locks: none; everything is the owner's.
 */
#include <string.h>

#include "host/memory.h"
#include "lib/error.h"
#include "lib/own.h"
#include "mmu/mmu.h"
#include "trace/trace.h"
#include "vmx/internal.h"

static void kick_processor(struct kvm_vcpu *vcpu)
{
	vmx_kick(vcpu->vmx->cpu);
}

int vmx_create_vcpu(struct kvm_vcpu *vcpu, struct vmx_machine *machine)
{
	struct vcpu_vmx *vmx;
	hpa_t vmcs;
	int r;

	TRACE_CALL(vmx_create_vcpu, vcpu->vcpu_id);
	if (!vmcs_config()->usable)
		return err_born(EOPNOTSUPP, "the processor cannot be used with these parameters");
	vmx = own_calloc(1, sizeof(*vmx));
	if (!vmx)
		return err_born(ENOMEM, "vcpu_vmx");
	vmx->loaded_vmcs = &vmx->vmcs01;
	vmx->l1_tsc_multiplier = 1ULL << 48;
	vmx->nested.current_vmptr = vmx->nested.vmxon_ptr = vmx->nested.evmcs.vmptr = INVALID_VMPTR;
	vmx->vmcs01.vmcs = host_frame_alloc();
	vmx->vmcs01.msr_bitmap = host_frame_alloc();
	if (vmx_params()->pml)
		vmx->pml = host_frame_alloc();
	if (!vmx->vmcs01.vmcs || !vmx->vmcs01.msr_bitmap || (vmx_params()->pml && !vmx->pml)) {
		r = err_born(ENOMEM, "no frame for the VMCS");
		goto out_frames;
	}
	r = vmx_cpu_create(machine, &vmx->cpu);
	if (r)
		goto out_frames;

	vmx->vpid = allocate_vpid();
	TRACE_LINE(allocate_vpid, vmx->vpid);
	*(uint32_t *)vmx->vmcs01.vmcs = (uint32_t)vmx_capability_msr(MSR_IA32_VMX_BASIC) & 0x7fffffffU;
	vmcs = __pa(vmx->vmcs01.vmcs);
	if (vmclear(vmx->cpu, vmcs) != VMX_SUCCEED || vmptrld(vmx->cpu, vmcs) != VMX_SUCCEED) {
		r = err_born(EIO, "VMCLEAR/VMPTRLD failed");
		goto out_cpu;
	}
	vcpu->vmx = vmx;
	vcpu->kick_processor = kick_processor;
	vmx_init_msr_bitmap(vcpu);
	vmx_init_controls(vcpu);
	vmx_set_constant_host_state(vcpu);
	nested_vmx_init_msrs(vcpu);
	r = kvm_vcpu_init(vcpu);
	if (r)
		vmx_free_vcpu(vcpu);
	return r;

out_cpu:
	free_vpid(vmx->vpid);
	vmx_cpu_destroy(vmx->cpu);
out_frames:
	host_frame_free(vmx->pml);
	host_frame_free(vmx->vmcs01.msr_bitmap);
	host_frame_free(vmx->vmcs01.vmcs);
	own_free(vmx);
	return r;
}

void vmx_free_vcpu(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;

	if (!vmx)
		return;
	/* L2, if it runs, ends unseen: nothing of its state is wanted any more */
	vmx_switch_vmcs(vcpu, &vmx->vmcs01);
	free_nested(vcpu);
	if (vmclear(vmx->cpu, __pa(vmx->vmcs01.vmcs)) != VMX_SUCCEED)
		kvm_vm_bugged(vcpu->kvm, "VMCLEAR of a live VMCS failed");
	/* the VPID's next owner must not find mappings of this one: its processor dies here */
	vmx_cpu_destroy(vmx->cpu);
	free_vpid(vmx->vpid);
	host_frame_free(vmx->pml);
	host_frame_free(vmx->vmcs01.msr_bitmap);
	host_frame_free(vmx->vmcs01.vmcs);
	own_free(vmx);
	vcpu->vmx = NULL;
}

struct vmx_cpu *vmx_processor(struct kvm_vcpu *vcpu)
{
	return vcpu->vmx->cpu;
}

/* SDM Vol. 3, "Processor State After Reset": segments and tables. */
static void reset_segments(struct kvm_vcpu *vcpu)
{
	static const struct kvm_segment code = {
		.base = 0xffff0000, .limit = 0xffff, .selector = 0xf000, .type = 0xb,
		.present = 1, .s = 1,
	};
	static const struct kvm_segment data = { .limit = 0xffff, .type = 3, .present = 1, .s = 1 };
	static const struct kvm_segment tr = { .limit = 0xffff, .type = 0xb, .present = 1 };
	static const struct kvm_segment ldt = { .limit = 0xffff, .type = 2, .present = 1 };
	static const struct kvm_dtable table = { .limit = 0xffff };

	for (int i = 0; i < NR_SREGS; i++)
		vmx_set_segment(vcpu, i == SREG_CS ? &code : &data, (enum sreg)i);
	vmx_set_tr_ldt(vcpu, &tr, &ldt);
	vmx_set_gdt_idt(vcpu, &table, &table);
}

void vmx_vcpu_reset(struct kvm_vcpu *vcpu, bool init_event)
{
	reset_segments(vcpu);
	vmcs_write32(vcpu, GUEST_SYSENTER_CS, 0);
	vmcs_writel(vcpu, GUEST_SYSENTER_ESP, 0);
	vmcs_writel(vcpu, GUEST_SYSENTER_EIP, 0);
	vmcs_write64(vcpu, GUEST_IA32_DEBUGCTL, 0);
	vmcs_writel(vcpu, GUEST_DR7, DR7_FIXED_1);
	vmcs_write32(vcpu, GUEST_ACTIVITY_STATE, GUEST_ACTIVITY_ACTIVE);
	vmcs_write32(vcpu, GUEST_INTERRUPTIBILITY_INFO, 0);
	vmcs_writel(vcpu, GUEST_PENDING_DBG_EXCEPTIONS, 0);
	vmcs_write32(vcpu, VM_ENTRY_INTR_INFO_FIELD, 0);
	if (!init_event)
		vmcs_write64(vcpu, GUEST_IA32_PAT, VMX_PAT_RESET);
	cpu_based_assign(vcpu, CPU_BASED_INTR_WINDOW_EXITING | CPU_BASED_NMI_WINDOW_EXITING, false);
	vcpu->vmx->loaded_vmcs->flush_guest = true;
	vmx_update_exception_bitmap(vcpu);
}
