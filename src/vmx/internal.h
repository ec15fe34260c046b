/*
 * Inside the vmx room.
 *
 *   apicv.c    APIC virtualization: controls, RVI and SVI, exits 43 44 45 56
 *   caps.c     knobs, controls cut down to what the processor allows
 *   vcpu.c     life of the vCPU's VMX part, reset
 *   vmcs.c     programming a VMCS: controls, host and constant fields
 *   vpid.c     VPIDs
 *   regs.c     RIP, RFLAGS, CR0/3/4, EFER, DR7, PDPTRs
 *   segment.c  segment registers and descriptor tables
 *   eptp.c     construct_eptp, vmx_set_cr3, INVEPT, INVVPID
 *   inject.c   event injection, windows, what an exit interrupted
 *   msr.c      MSRs of the VMCS and of the processor, the MSR bitmap, TSC
 *   run.c      vmx_vcpu_run
 *   exit.c     the table of exit handlers; exit_*.c the handlers by theme
 *
 * Everything belongs to the vCPU's owner thread. The VMCS is written by
 * vmwrite only; a VMREAD or VMWRITE that fails is our own bug and kills the VM.
 */
#ifndef USERKVM_VMX_INTERNAL_H
#define USERKVM_VMX_INTERNAL_H

#include "vmx/vmx.h"

/* A VMCS and what is remembered of its fields. */
struct loaded_vmcs {
	void *vmcs;	     /* (c) VMCS region, one frame */
	uint8_t *msr_bitmap; /* (c) one frame */
	bool launched;	     /* VMRESUME from now on */
	bool cr3_stale;	     /* `cr3` is newer than GUEST_CR3 */
	bool flush_guest;    /* linear mappings of its VPID are out of date */
	uint64_t cr3;	     /* valid while cr3_stale; always with ept=0 */
	uint64_t eptp;	     /* as in the VMCS */
	uint32_t cpu_based, secondary; /* controls as in the VMCS */
};

/* APIC virtualization, as VMCS01 has it or is to have it (apicv.c). */
struct vmx_apicv {
	enum vmx_apic_mode mode;
	bool tpr_shadow;     /* (c) there is an in-process APIC */
	bool active;	     /* nothing inhibits register virtualization and interrupt delivery */
	bool controls_stale; /* VMCS01 does not have the controls for it yet */
	bool svi_stale;	     /* nor this SVI */
	int svi;
	unsigned threshold;  /* as in the VMCS */
};

struct vcpu_vmx {
	struct vmx_cpu *cpu;	/* (c) the logical processor */
	struct loaded_vmcs vmcs01; /* L1's */
	struct loaded_vmcs *loaded_vmcs; /* the processor's current VMCS */
	uint64_t *pml;		/* (c) page-modification log, one frame, NULL without PML */
	uint16_t vpid;		/* (c) 0: not tagged */
	bool state_unchecked;	/* segments or CR0 were set from outside: may be none to enter with */
	bool hlt_in_guest;	/* (c) HLT does not exit */
	struct vmx_apicv apicv;
	uint64_t efer;		/* the guest's; the VMCS has what the processor runs with */
	uint64_t pdptrs[4];	/* ept=0: the VMCS has none */
	uint64_t cr0, cr4;	/* the guest's, but for the bits it owns: vmx_get_cr0() */
	uint64_t cr0_unmasked, cr4_unmasked; /* what the guest owns: not in the VMCS's masks */
	uint64_t cr4_guest_owned; /* what we leave to a guest of this CPUID */
	uint32_t event_exit_inst_len; /* of the software event to be delivered again */

	/* of the last exit */
	enum vmx_result result;
	uint32_t exit_reason; /* as in the VMCS: vmx_basic_exit_reason() */
	uint32_t idt_vectoring_info;
	uint32_t instruction_error; /* VM_INSTRUCTION_ERROR of a failed entry */
	/* Linux: vcpu->arch.exit_qualification; kept for injection into an L1 */
	uint64_t exit_qualification;
};

extern const struct vmx_services *vmx_services;

/* enum exit_reason of the last exit, without its flags. */
static inline uint32_t vmx_basic_exit_reason(const struct vcpu_vmx *vmx)
{
	return vmx->exit_reason & 0xffff;
}

/* --- pml.c --- */
#define PML_ENTITY_NUM 512
/* After an exit, still in guest mode: what the processor has logged goes to the dirty log. */
void vmx_flush_pml_buffer(struct kvm_vcpu *vcpu);
int handle_pml_full(struct kvm_vcpu *vcpu);

/* --- caps.c --- */
/* Values for the control fields: needed bits set, unavailable optional ones clear. */
struct vmcs_config {
	uint32_t pin_based, cpu_based, secondary, vmexit, vmentry;
	uint64_t cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1;
	bool usable; /* the processor has all that is needed */
};
const struct vmcs_config *vmcs_config(void);

/* --- vpid.c --- */
/* A VPID nobody has; 0 (not tagged) with vpid=0 or when none is left. Any thread. */
uint16_t allocate_vpid(void);
void free_vpid(uint16_t vpid);

/* --- vmcs.c --- */
void vmx_init_controls(struct kvm_vcpu *vcpu);
/*
 * Host state. Nothing of it is ever loaded (the C caller is the host), but a
 * processor checks it on every entry.
 */
void vmx_set_constant_host_state(struct kvm_vcpu *vcpu);

/* --- VMCS access --- */
void vmcs_access_failed(struct kvm_vcpu *vcpu, const char *what, uint32_t field);

static inline uint64_t vmcs_read64(struct kvm_vcpu *vcpu, uint32_t field)
{
	uint64_t v = 0;

	if (unlikely(vmread(vcpu->vmx->cpu, field, &v) != VMX_SUCCEED))
		vmcs_access_failed(vcpu, "VMREAD", field);
	return v;
}

static inline uint64_t vmcs_readl(struct kvm_vcpu *vcpu, uint32_t field)
{
	return vmcs_read64(vcpu, field);
}

static inline uint32_t vmcs_read32(struct kvm_vcpu *vcpu, uint32_t field)
{
	return (uint32_t)vmcs_read64(vcpu, field);
}

static inline uint16_t vmcs_read16(struct kvm_vcpu *vcpu, uint32_t field)
{
	return (uint16_t)vmcs_read64(vcpu, field);
}

static inline void vmcs_write64(struct kvm_vcpu *vcpu, uint32_t field, uint64_t v)
{
	if (unlikely(vmwrite(vcpu->vmx->cpu, field, v) != VMX_SUCCEED))
		vmcs_access_failed(vcpu, "VMWRITE", field);
}

static inline void vmcs_writel(struct kvm_vcpu *vcpu, uint32_t field, uint64_t v)
{
	vmcs_write64(vcpu, field, v);
}

static inline void vmcs_write32(struct kvm_vcpu *vcpu, uint32_t field, uint32_t v)
{
	vmcs_write64(vcpu, field, v);
}

static inline void vmcs_write16(struct kvm_vcpu *vcpu, uint32_t field, uint16_t v)
{
	vmcs_write64(vcpu, field, v);
}

/* Bits of the primary processor-based controls, written only when they change. */
static inline void cpu_based_assign(struct kvm_vcpu *vcpu, uint64_t bits, bool on)
{
	uint32_t v = on ? vcpu->vmx->loaded_vmcs->cpu_based | (uint32_t)bits
			: vcpu->vmx->loaded_vmcs->cpu_based & ~(uint32_t)bits;

	if (v == vcpu->vmx->loaded_vmcs->cpu_based)
		return;
	vcpu->vmx->loaded_vmcs->cpu_based = v;
	vmcs_write32(vcpu, CPU_BASED_VM_EXEC_CONTROL, v);
}

/* PAT after RESET (SDM Vol. 3, "Page Attribute Table"). */
#define VMX_PAT_RESET 0x0007040600070406ULL

/* --- msr.c --- */
void vmx_init_msr_bitmap(struct kvm_vcpu *vcpu);

/* --- eptp.c --- */
/* What of the guest's translation state the hypervisor changed goes in before the entry. */
void vmx_flush_dirty_translation(struct kvm_vcpu *vcpu);

/* --- exit handlers: 1 re-enter, 0 to the client, < 0 KVM_RUN's error --- */
typedef int vmx_exit_handler(struct kvm_vcpu *vcpu);
vmx_exit_handler handle_ept_violation, handle_ept_misconfig, handle_cr, handle_dr, handle_io,
	handle_rdmsr, handle_wrmsr, handle_exception_nmi, handle_external_interrupt,
	handle_triple_fault, handle_interrupt_window, handle_nmi_window, handle_task_switch,
	handle_cpuid, handle_halt, handle_nop, handle_mwait, handle_pause, handle_vmcall, handle_vmx_instruction,
	handle_invlpg, handle_rdpmc, handle_xsetbv, handle_invpcid, handle_monitor_trap,
	handle_preemption_timer, handle_bus_lock, handle_tpr_below_threshold,
	handle_apic_access, handle_apic_eoi_induced, handle_apic_write;

#endif
