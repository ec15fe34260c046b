/*
 * The vCPU's VMX part: VPID, VMCS region, the fields that never change, the
 * state after RESET.
 *
 * Invariants
 * 1. The VMCS is current on its own logical processor from creation to death.
 * 2. A VPID other than 0 belongs to one vCPU of the process.
 * Locks: vpid_lock for the VPID bitmap; the rest is the owner's.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "host/memory.h"
#include "lib/error.h"
#include "lib/fork.h"
#include "lib/log.h"
#include "mmu/mmu.h"
#include "trace/trace.h"
#include "vmx/internal.h"

/* TSC ticks; wider than Linux's defaults, because an interpreted loop is slower. */
#define VMX_PLE_GAP 4096
#define VMX_PLE_WINDOW 32768
#define OFFERED_INSNS \
	(SECONDARY_EXEC_ENABLE_RDTSCP | SECONDARY_EXEC_ENABLE_INVPCID | SECONDARY_EXEC_ENABLE_XSAVES)
#define VMX_NR_VPIDS (1U << 16)

static pthread_mutex_t vpid_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t vpid_bitmap[VMX_NR_VPIDS / 64];

static void forget_in_child(void)
{
	memset(vpid_bitmap, 0, sizeof(vpid_bitmap));
	pthread_mutex_init(&vpid_lock, NULL);
}
LIB_IN_FORKED_CHILD(forget_in_child)

const struct vmx_services *vmx_services;

void vmx_register_services(const struct vmx_services *s)
{
	vmx_services = s;
}

/* A VPID nobody has; 0 (not tagged) with vpid=0 or when none is left. */
static uint16_t allocate_vpid(void)
{
	unsigned vpid = 0;

	if (!vmx_params()->vpid)
		return 0;
	pthread_mutex_lock(&vpid_lock);
	vpid_bitmap[0] |= 1; /* 0 is the host's */
	for (unsigned i = 0; i < ARRAY_SIZE(vpid_bitmap); i++) {
		if (vpid_bitmap[i] == ~0ULL)
			continue;
		vpid = i * 64 + (unsigned)__builtin_ctzll(~vpid_bitmap[i]);
		vpid_bitmap[i] |= BIT_ULL(vpid % 64);
		break;
	}
	pthread_mutex_unlock(&vpid_lock);
	return (uint16_t)vpid;
}

static void free_vpid(uint16_t vpid)
{
	if (vpid == 0)
		return;
	pthread_mutex_lock(&vpid_lock);
	vpid_bitmap[vpid / 64] &= ~BIT_ULL(vpid % 64);
	pthread_mutex_unlock(&vpid_lock);
}

void vmcs_access_failed(struct kvm_vcpu *vcpu, const char *what, uint32_t field)
{
	log_always("vmx: %s of %s failed", what, vmcs_field_name(field));
	kvm_vm_bugged(vcpu->kvm, "access to the VMCS failed");
}

/*
 * Host state. Nothing of it is ever loaded (the C caller is the host), but a
 * processor checks it on every entry.
 */
static void vmx_set_constant_host_state(struct kvm_vcpu *vcpu)
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

static void init_controls(struct kvm_vcpu *vcpu)
{
	const struct vmcs_config *c = vmcs_config();
	struct vcpu_vmx *vmx = vcpu->vmx;

	vmx->cpu_based = c->cpu_based;
	vmx->secondary = c->secondary & ~(uint32_t)(SECONDARY_EXEC_BUS_LOCK_DETECTION | OFFERED_INSNS);
	if (vmx->vpid == 0)
		vmx->secondary &= ~(uint32_t)SECONDARY_EXEC_ENABLE_VPID;
	vmcs_write32(vcpu, PIN_BASED_VM_EXEC_CONTROL, c->pin_based);
	vmcs_write32(vcpu, CPU_BASED_VM_EXEC_CONTROL, vmx->cpu_based);
	vmcs_write32(vcpu, SECONDARY_VM_EXEC_CONTROL, vmx->secondary);
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
	if (vmx->secondary & SECONDARY_EXEC_PAUSE_LOOP_EXITING) {
		vmcs_write32(vcpu, PLE_GAP, VMX_PLE_GAP);
		vmcs_write32(vcpu, PLE_WINDOW, VMX_PLE_WINDOW);
	}
	if (vmx->secondary & SECONDARY_EXEC_TSC_SCALING)
		vmcs_write64(vcpu, TSC_MULTIPLIER, 1ULL << 48);
	if (c->secondary & SECONDARY_EXEC_ENABLE_XSAVES)
		vmcs_write64(vcpu, XSS_EXIT_BITMAP, 0);
	if (vmx->cpu_based & CPU_BASED_USE_MSR_BITMAPS)
		vmcs_write64(vcpu, MSR_BITMAP, __pa(vmx->msr_bitmap));
	if (vmx->pml) {
		vmcs_write64(vcpu, PML_ADDRESS, __pa(vmx->pml));
		vmcs_write16(vcpu, GUEST_PML_INDEX, PML_ENTITY_NUM - 1);
	}
	vmx->eptp = 0;
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
	vmx->secondary &= ~(uint32_t)SECONDARY_EXEC_PAUSE_LOOP_EXITING;
	vmcs_write32(vcpu, SECONDARY_VM_EXEC_CONTROL, vmx->secondary);
}

bool vmx_has_bus_lock_detection(void)
{
	return vmcs_config()->secondary & SECONDARY_EXEC_BUS_LOCK_DETECTION;
}

void vmx_detect_bus_locks(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;

	vmx->secondary |= vmcs_config()->secondary & SECONDARY_EXEC_BUS_LOCK_DETECTION;
	vmcs_write32(vcpu, SECONDARY_VM_EXEC_CONTROL, vmx->secondary);
}

void vmx_offer_insns(struct kvm_vcpu *vcpu, struct vmx_offered_insns offered)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	uint64_t wanted = (offered.rdtscp ? SECONDARY_EXEC_ENABLE_RDTSCP : 0) |
			  (offered.invpcid ? SECONDARY_EXEC_ENABLE_INVPCID : 0) |
			  (offered.xsaves ? SECONDARY_EXEC_ENABLE_XSAVES : 0);

	vmx->secondary &= ~(uint32_t)OFFERED_INSNS;
	vmx->secondary |= vmcs_config()->secondary & (uint32_t)wanted;
	vmcs_write32(vcpu, SECONDARY_VM_EXEC_CONTROL, vmx->secondary);
}

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
	vmx = calloc(1, sizeof(*vmx));
	if (!vmx)
		return err_born(ENOMEM, "vcpu_vmx");
	vmx->vmcs = host_frame_alloc();
	vmx->msr_bitmap = host_frame_alloc();
	if (vmx_params()->pml)
		vmx->pml = host_frame_alloc();
	if (!vmx->vmcs || !vmx->msr_bitmap || (vmx_params()->pml && !vmx->pml)) {
		r = err_born(ENOMEM, "no frame for the VMCS");
		goto out_frames;
	}
	r = vmx_cpu_create(machine, &vmx->cpu);
	if (r)
		goto out_frames;

	vmx->vpid = allocate_vpid();
	TRACE_LINE(allocate_vpid, vmx->vpid);
	*(uint32_t *)vmx->vmcs = (uint32_t)vmx_capability_msr(MSR_IA32_VMX_BASIC) & 0x7fffffffU;
	vmcs = __pa(vmx->vmcs);
	if (vmclear(vmx->cpu, vmcs) != VMX_SUCCEED || vmptrld(vmx->cpu, vmcs) != VMX_SUCCEED) {
		r = err_born(EIO, "VMCLEAR/VMPTRLD failed");
		goto out_cpu;
	}
	vcpu->vmx = vmx;
	vcpu->kick_processor = kick_processor;
	vmx_init_msr_bitmap(vcpu);
	init_controls(vcpu);
	vmx_set_constant_host_state(vcpu);
	r = kvm_vcpu_init(vcpu);
	if (r)
		vmx_free_vcpu(vcpu);
	return r;

out_cpu:
	free_vpid(vmx->vpid);
	vmx_cpu_destroy(vmx->cpu);
out_frames:
	host_frame_free(vmx->pml);
	host_frame_free(vmx->msr_bitmap);
	host_frame_free(vmx->vmcs);
	free(vmx);
	return r;
}

void vmx_free_vcpu(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;

	if (!vmx)
		return;
	if (vmclear(vmx->cpu, __pa(vmx->vmcs)) != VMX_SUCCEED)
		kvm_vm_bugged(vcpu->kvm, "VMCLEAR of a live VMCS failed");
	/* the VPID's next owner must not find mappings of this one: its processor dies here */
	vmx_cpu_destroy(vmx->cpu);
	free_vpid(vmx->vpid);
	host_frame_free(vmx->pml);
	host_frame_free(vmx->msr_bitmap);
	host_frame_free(vmx->vmcs);
	free(vmx);
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
	vcpu->vmx->flush_guest = true;
	vmx_update_exception_bitmap(vcpu);
}
