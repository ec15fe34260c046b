/*
 * VMCS shadowing for L1 (SDM Vol. 3, "VMCS Types: Ordinary and Shadow", "VMREAD", "VMWRITE"; Linux:
 * copy_shadow_to_vmcs12, copy_vmcs12_to_shadow): the fields of vmcs12 that a hypervisor reads and writes at each exit are
 * the processor's affair. Each other VMREAD and VMWRITE of L1 exits, to cached_vmcs12.
 *
 *	exit of L2 to L1 --> cached_vmcs12 ==== before L1 runs ====> shadow VMCS, VMCS01's link pointer
 *	                          ^                                        |  L1: VMREAD, VMWRITE
 *	                          '======== VMLAUNCH, VMCLEAR ... ========='
 *
 * Invariants
 * 1. While shadow_stale is set, cached_vmcs12 counts; else, of WRITABLE fields, the shadow VMCS. L1 does not run while
 *    it is set.
 * 2. WRITABLE fields are such that prepare_vmcs02() takes over at each entry, or that VMCS02 does not have: a write of
 *    theirs sets no dirty_vmcs12.
 *
 * Locks: none; the vCPU's thread. VMCS01 is current, unless a function says so.
 */
#include <pthread.h>

#include "host/memory.h"
#include "lib/error.h"
#include "vmx/internal.h"

/* Of access rights VMWRITE stores some bits only (handle_vmwrite). */
#define READ_ONLY(F)                                                       \
	F(guest_cs_ar_bytes, GUEST_CS_AR_BYTES)                            \
	F(guest_ss_ar_bytes, GUEST_SS_AR_BYTES)                            \
	F(vm_exit_reason, VM_EXIT_REASON)                                  \
	F(exit_qualification, EXIT_QUALIFICATION)                          \
	F(vm_exit_intr_info, VM_EXIT_INTR_INFO)                            \
	F(vm_exit_intr_error_code, VM_EXIT_INTR_ERROR_CODE)                \
	F(idt_vectoring_info_field, IDT_VECTORING_INFO_FIELD)              \
	F(idt_vectoring_error_code, IDT_VECTORING_ERROR_CODE)              \
	F(vm_exit_instruction_len, VM_EXIT_INSTRUCTION_LEN)                \
	F(vmx_instruction_info, VMX_INSTRUCTION_INFO)                      \
	F(guest_linear_address, GUEST_LINEAR_ADDRESS)                      \
	F(guest_physical_address, GUEST_PHYSICAL_ADDRESS)
#define WRITABLE(F)                                                        \
	F(guest_rip, GUEST_RIP) F(guest_rsp, GUEST_RSP)                    \
	F(guest_rflags, GUEST_RFLAGS)                                      \
	F(guest_cr0, GUEST_CR0) F(guest_cr3, GUEST_CR3)                    \
	F(guest_cr4, GUEST_CR4)                                            \
	F(cr0_read_shadow, CR0_READ_SHADOW)                                \
	F(cr4_read_shadow, CR4_READ_SHADOW)                                \
	F(guest_interruptibility_info, GUEST_INTERRUPTIBILITY_INFO)        \
	F(cpu_based_vm_exec_control, CPU_BASED_VM_EXEC_CONTROL)            \
	F(exception_bitmap, EXCEPTION_BITMAP)                              \
	F(vm_entry_intr_info_field, VM_ENTRY_INTR_INFO_FIELD)              \
	F(vm_entry_exception_error_code, VM_ENTRY_EXCEPTION_ERROR_CODE)    \
	F(vm_entry_instruction_len, VM_ENTRY_INSTRUCTION_LEN)              \
	F(tpr_threshold, TPR_THRESHOLD)                                    \
	F(vmx_preemption_timer_value, VMX_PREEMPTION_TIMER_VALUE)          \
	F(host_fs_selector, HOST_FS_SELECTOR)                              \
	F(host_gs_selector, HOST_GS_SELECTOR)                              \
	F(host_fs_base, HOST_FS_BASE) F(host_gs_base, HOST_GS_BASE)

#define REVISION_SHADOW BIT_ULL(31)

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct {
	uint8_t *read, *write; /* one frame each, for all vCPUs; NULL: no memory for them */
} bitmaps;

static void let_pass(uint8_t *bitmap, uint32_t field)
{
	bitmap[field >> 3] &= (uint8_t)~(1U << (field & 7));
}

static void make_bitmaps(void)
{
	bitmaps.read = host_frame_alloc();
	bitmaps.write = host_frame_alloc();
	if (!bitmaps.read || !bitmaps.write)
		return;
	for (unsigned i = 0; i < PAGE_SIZE; i++)
		bitmaps.read[i] = bitmaps.write[i] = 0xff;
#define PASS_READ(member, field) let_pass(bitmaps.read, field);
	READ_ONLY(PASS_READ)
	WRITABLE(PASS_READ)
#undef PASS_READ
#define PASS_WRITE(member, field) let_pass(bitmaps.write, field);
	WRITABLE(PASS_WRITE)
#undef PASS_WRITE
}

int nested_shadowing_create(struct kvm_vcpu *vcpu)
{
	struct loaded_vmcs *s = &vcpu->vmx->nested.shadow;

	if (!vmx_params()->enable_shadow_vmcs)
		return 0;
	pthread_once(&once, make_bitmaps);
	s->vmcs = bitmaps.read && bitmaps.write ? host_frame_alloc() : NULL;
	if (!s->vmcs)
		return err_born(ENOMEM, "no memory for a shadow VMCS");
	*(uint32_t *)s->vmcs = ((uint32_t)vmx_capability_msr(MSR_IA32_VMX_BASIC) & 0x7fffffffU) | (uint32_t)REVISION_SHADOW;
	if (vmclear(vcpu->vmx->cpu, __pa(s->vmcs)) != VMX_SUCCEED)
		kvm_vm_bugged(vcpu->kvm, "VMCLEAR of a shadow VMCS failed");
	return 0;
}

void nested_shadowing_destroy(struct kvm_vcpu *vcpu)
{
	host_frame_free(vcpu->vmx->nested.shadow.vmcs);
	vcpu->vmx->nested.shadow = (struct loaded_vmcs){ 0 };
}

void nested_shadowing_switch(struct kvm_vcpu *vcpu, bool on)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	uint32_t bit = (uint32_t)SECONDARY_EXEC_SHADOW_VMCS;

	if (!vmx->nested.shadow.vmcs)
		return;
	vmx->nested.shadow_stale = on;
	if (!on == !(vmx->vmcs01.secondary & bit))
		return;
	if (on) {
		vmcs_write64(vcpu, VMREAD_BITMAP, __pa(bitmaps.read));
		vmcs_write64(vcpu, VMWRITE_BITMAP, __pa(bitmaps.write));
	}
	vmcs_write64(vcpu, VMCS_LINK_POINTER, on ? __pa(vmx->nested.shadow.vmcs) : ~0ULL);
	vmx->vmcs01.secondary ^= bit;
	vmcs_write32(vcpu, SECONDARY_VM_EXEC_CONTROL, vmx->vmcs01.secondary);
}

void nested_shadowing_from_l1(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	struct vmcs12 *v = vmx->nested.cached_vmcs12;

	if (!(vmx->vmcs01.secondary & SECONDARY_EXEC_SHADOW_VMCS) || vmx->nested.shadow_stale || vmx->head.guest_mode)
		return;
	vmx_switch_vmcs(vcpu, &vmx->nested.shadow);
#define TAKE(member, field) v->member = (typeof(v->member))vmcs_read64(vcpu, field);
	WRITABLE(TAKE)
#undef TAKE
	vmx_switch_vmcs(vcpu, &vmx->vmcs01);
}

void nested_shadowing_changed(struct kvm_vcpu *vcpu, uint32_t field)
{
	struct vcpu_vmx *vmx = vcpu->vmx;

	if (vmx->head.guest_mode || !(vmx->vmcs01.secondary & SECONDARY_EXEC_SHADOW_VMCS) ||
	    bitmaps.read[field >> 3] >> (field & 7) & 1)
		return;
	nested_shadowing_from_l1(vcpu);
	vmx->nested.shadow_stale = true;
}

void nested_shadowing_to_l1(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	const struct vmcs12 *v = vmx->nested.cached_vmcs12;

	vmx->nested.shadow_stale = false;
	vmx_switch_vmcs(vcpu, &vmx->nested.shadow);
#define GIVE(member, field) vmcs_write64(vcpu, field, v->member);
	READ_ONLY(GIVE)
	WRITABLE(GIVE)
#undef GIVE
	vmx_switch_vmcs(vcpu, &vmx->vmcs01);
}

void nested_release_vmcs12(struct kvm_vcpu *vcpu)
{
	struct nested_vmx *n = &vcpu->vmx->nested;

	if (n->current_vmptr == INVALID_VMPTR)
		return;
	nested_shadowing_from_l1(vcpu);
	nested_shadowing_switch(vcpu, false);
	/* where the page is gone, so is what L1 had in it */
	nested_write_guest(vcpu, n->current_vmptr, n->cached_vmcs12, VMCS12_SIZE);
	n->current_vmptr = INVALID_VMPTR;
}
