/*
 * Programming a VMCS: the controls, and the fields that never change.
 *
 * Locks: none; everything is the owner's.
 */
#include "host/memory.h"
#include "lib/log.h"
#include "vmx/internal.h"

/* Of a vCPU with an in-process APIC, and on by apicv.c. */
#define APIC_CONTROLS                                                                              \
	(SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES | SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE |         \
	 SECONDARY_EXEC_APIC_REGISTER_VIRT | SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY)
/* RDRAND and RDSEED are the other way round: those that are not offered exit, and raise #UD then. */
#define EXITING_INSNS (SECONDARY_EXEC_RDRAND_EXITING | SECONDARY_EXEC_RDSEED_EXITING)
#define OFFERED_INSNS                                                                  \
	(SECONDARY_EXEC_ENABLE_RDTSCP | SECONDARY_EXEC_ENABLE_INVPCID | SECONDARY_EXEC_ENABLE_XSAVES | \
	 EXITING_INSNS)

void vmx_set_constant_host_state(struct kvm_vcpu *vcpu)
{
	const struct vmcs_config *c = vmcs_config();
	static const uint32_t zero[] = {
		HOST_CR3, HOST_ES_SELECTOR, HOST_DS_SELECTOR, HOST_FS_SELECTOR, HOST_GS_SELECTOR,
		HOST_FS_BASE, HOST_GS_BASE, HOST_TR_BASE, HOST_GDTR_BASE, HOST_IDTR_BASE,
		HOST_IA32_SYSENTER_CS, HOST_IA32_SYSENTER_ESP, HOST_IA32_SYSENTER_EIP, HOST_RSP,
	};

	for (size_t i = 0; i < ARRAY_SIZE(zero); i++)
		vmcs_writel(vcpu, zero[i], 0);
	vmcs_writel(vcpu, HOST_CR0, ((X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE |
				      X86_CR0_WP | X86_CR0_AM | X86_CR0_PG) | c->cr0_fixed0) &
					    c->cr0_fixed1);
	vmcs_writel(vcpu, HOST_CR4, ((X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_VMXE) |
				     c->cr4_fixed0) & c->cr4_fixed1);
	vmcs_write16(vcpu, HOST_CS_SELECTOR, 0x10);
	vmcs_write16(vcpu, HOST_SS_SELECTOR, 0x18);
	vmcs_write16(vcpu, HOST_TR_SELECTOR, 0x40);
	vmcs_writel(vcpu, HOST_RIP, (uintptr_t)vmx_vcpu_run);
	vmcs_write64(vcpu, HOST_IA32_EFER, EFER_SCE | EFER_LME | EFER_LMA | EFER_NX);
	vmcs_write64(vcpu, HOST_IA32_PAT, VMX_PAT_RESET);
}

void vmx_init_controls(struct kvm_vcpu *vcpu)
{
	const struct vmcs_config *c = vmcs_config();
	struct vcpu_vmx *vmx = vcpu->vmx;

	vmx->loaded_vmcs->cpu_based = c->cpu_based & ~(uint32_t)CPU_BASED_TPR_SHADOW;
	vmx->loaded_vmcs->secondary =
		c->secondary & ~(uint32_t)(SECONDARY_EXEC_BUS_LOCK_DETECTION | (OFFERED_INSNS & ~EXITING_INSNS) |
					   APIC_CONTROLS);
	if (vmx->vpid == 0)
		vmx->loaded_vmcs->secondary &= ~(uint32_t)SECONDARY_EXEC_ENABLE_VPID;
	vmcs_write32(vcpu, PIN_BASED_VM_EXEC_CONTROL, c->pin_based & ~(uint32_t)PIN_BASED_POSTED_INTR);
	vmcs_write32(vcpu, CPU_BASED_VM_EXEC_CONTROL, vmx->loaded_vmcs->cpu_based);
	vmcs_write32(vcpu, SECONDARY_VM_EXEC_CONTROL, vmx->loaded_vmcs->secondary);
	vmcs_write32(vcpu, VM_EXIT_CONTROLS, c->vmexit);
	vmcs_write32(vcpu, VM_ENTRY_CONTROLS, c->vmentry & ~(uint32_t)VM_ENTRY_IA32E_MODE);
	vmcs_write16(vcpu, VIRTUAL_PROCESSOR_ID, vmx->vpid);

	vmcs_write32(vcpu, PAGE_FAULT_ERROR_CODE_MASK, 0);
	vmcs_write32(vcpu, PAGE_FAULT_ERROR_CODE_MATCH, 0);
	vmcs_write32(vcpu, CR3_TARGET_COUNT, 0);
	vmcs_write32(vcpu, VM_EXIT_MSR_STORE_COUNT, 0);
	vmcs_write32(vcpu, VM_EXIT_MSR_LOAD_COUNT, 0);
	vmcs_write32(vcpu, VM_ENTRY_MSR_LOAD_COUNT, 0);
	vmcs_write64(vcpu, VMCS_LINK_POINTER, ~0ULL);
	vmcs_write64(vcpu, TSC_OFFSET, 0);
	if (vmx->loaded_vmcs->secondary & SECONDARY_EXEC_PAUSE_LOOP_EXITING) {
		vmcs_write32(vcpu, PLE_GAP, VMX_PLE_GAP);
		vmcs_write32(vcpu, PLE_WINDOW, VMX_PLE_WINDOW);
	}
	if (vmx->loaded_vmcs->secondary & SECONDARY_EXEC_TSC_SCALING)
		vmcs_write64(vcpu, TSC_MULTIPLIER, 1ULL << 48);
	if (c->secondary & SECONDARY_EXEC_ENABLE_XSAVES)
		vmcs_write64(vcpu, XSS_EXIT_BITMAP, 0);
	if (vmx->loaded_vmcs->cpu_based & CPU_BASED_USE_MSR_BITMAPS)
		vmcs_write64(vcpu, MSR_BITMAP, __pa(vmx->vmcs01.msr_bitmap));
	if (vmx->pml) {
		vmcs_write64(vcpu, PML_ADDRESS, __pa(vmx->pml));
		vmcs_write16(vcpu, GUEST_PML_INDEX, PML_ENTITY_NUM - 1);
	}
	vmx->loaded_vmcs->eptp = 0;
	if (vmx_params()->ept)
		vmcs_write64(vcpu, EPT_POINTER, 0);
}

void vmx_disable_exits(struct kvm_vcpu *vcpu, bool hlt, bool pause)
{
	struct vcpu_vmx *vmx = vcpu->vmx;

	vmx->hlt_in_guest = hlt;
	if (hlt)
		cpu_based_assign(vcpu, CPU_BASED_HLT_EXITING, false);
	if (!pause)
		return;
	vmx->loaded_vmcs->secondary &= ~(uint32_t)SECONDARY_EXEC_PAUSE_LOOP_EXITING;
	vmcs_write32(vcpu, SECONDARY_VM_EXEC_CONTROL, vmx->loaded_vmcs->secondary);
}

bool vmx_has_bus_lock_detection(void)
{
	return vmcs_config()->secondary & SECONDARY_EXEC_BUS_LOCK_DETECTION;
}

void vmx_detect_bus_locks(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;

	vmx->loaded_vmcs->secondary |= vmcs_config()->secondary & SECONDARY_EXEC_BUS_LOCK_DETECTION;
	vmcs_write32(vcpu, SECONDARY_VM_EXEC_CONTROL, vmx->loaded_vmcs->secondary);
}

void vmx_offer_insns(struct kvm_vcpu *vcpu, struct vmx_offered_insns offered)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	uint64_t wanted = (offered.rdtscp ? SECONDARY_EXEC_ENABLE_RDTSCP : 0) |
			  (offered.invpcid ? SECONDARY_EXEC_ENABLE_INVPCID : 0) |
			  (offered.xsaves ? SECONDARY_EXEC_ENABLE_XSAVES : 0) |
			  (offered.rdrand ? 0 : SECONDARY_EXEC_RDRAND_EXITING) |
			  (offered.rdseed ? 0 : SECONDARY_EXEC_RDSEED_EXITING);

	vmx->loaded_vmcs->secondary &= ~(uint32_t)OFFERED_INSNS;
	vmx->loaded_vmcs->secondary |= vmcs_config()->secondary & (uint32_t)wanted;
	vmcs_write32(vcpu, SECONDARY_VM_EXEC_CONTROL, vmx->loaded_vmcs->secondary);
	nested_vmx_after_set_cpuid(vcpu, offered);
}

void vmx_set_maxphyaddr(struct kvm_vcpu *vcpu, int bits)
{
	if (vmx_params()->ept)
		vmx_set_guest_maxphyaddr(vcpu->vmx->cpu, (unsigned)bits);
}

void vmx_set_vendor(struct kvm_vcpu *vcpu, bool amd)
{
	vmx_set_guest_vendor(vcpu->vmx->cpu, amd);
}
