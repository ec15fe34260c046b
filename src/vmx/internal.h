/*
 * Inside the vmx room.
 *
 *   apicv.c    APIC virtualization: controls, RVI and SVI, exits 43 44 45 56
 *   caps.c     knobs, controls cut down to what the processor allows
 *   vcpu.c     life of the vCPU's VMX part, reset
 *   vmcs.c     programming a VMCS: controls, host and constant fields
 *   vpid.c     VPIDs
 *   regs.c     RIP, RFLAGS, CR0/3/4, EFER, DR7, PDPTRs
 *   switch.c   which VMCS is current
 *   segment.c  segment registers and descriptor tables
 *   eptp.c     construct_eptp, vmx_set_cr3, INVEPT, INVVPID
 *   inject.c   event injection, windows, what an exit interrupted
 *   msr.c      MSRs of the VMCS and of the processor, the MSR bitmap, TSC
 *   run.c      vmx_vcpu_run
 *   exit.c     the table of exit handlers; exit_*.c the handlers by theme
 *   vmcs12.c, nested_*.c  nested VMX (nested.h)
 *
 * Everything belongs to the vCPU's owner thread. The VMCS is written by
 * vmwrite only; a VMREAD or VMWRITE that fails is our own bug and kills the VM.
 */
#ifndef USERKVM_VMX_INTERNAL_H
#define USERKVM_VMX_INTERNAL_H

#include "vmx/vmx.h"

/* APIC virtualization, as VMCS01 has it or is to have it (apicv.c). */
struct vmx_apicv {
	enum vmx_apic_mode mode;
	bool tpr_shadow;     /* (c) there is an in-process APIC */
	bool active;	     /* nothing inhibits register virtualization and interrupt delivery */
	bool controls_stale; /* VMCS01 does not have the controls for it yet */
	bool svi_stale;	     /* nor this SVI */
	bool eoi_exit_stale; /* nor these vectors */
	int svi;
	uint64_t eoi_exit[4];
	unsigned threshold;  /* as in the VMCS */
};

#include "vmx/nested.h"

/* TSC ticks; wider than Linux's defaults, because an interpreted loop is slower. */
#define VMX_PLE_GAP 4096
#define VMX_PLE_WINDOW 32768

/* A fault that is taken again and again, with no instruction run in between (tell.c). (o) */
#define VMX_STUCK_AT 64U
struct vmx_stuck {
	uint64_t rip, gpa, qualification, registers;
	uint32_t nr; /* 0: none is watched */
	bool l2, told;
};

struct vcpu_vmx { /* (o), where no letter says otherwise */
	struct vmx_nested_head head; /* first: is_guest_mode() */
	struct vmx_cpu *cpu;	/* (c) the logical processor */
	struct loaded_vmcs vmcs01; /* L1's */
	struct loaded_vmcs *loaded_vmcs; /* the processor's current VMCS */
	struct nested_vmx nested;
	uint64_t l1_tsc_offset, l1_tsc_multiplier; /* without what L1 adds for its L2 */
	uint64_t *pml;		/* (c) page-modification log, one frame, NULL without PML */
	uint16_t vpid;		/* (c) 0: not tagged */
	hva_t stray_page;	/* (o) of the last bus error outside all slots, and how many there were of it */
	uint32_t nr_strays;
	struct vmx_stuck stuck;
	bool state_unchecked;	/* segments or CR0 were set from outside: may be none to enter with */
	bool hlt_in_guest;	/* (c) HLT does not exit */
	struct vmx_apicv apicv;
	uint64_t efer;		/* the guest's; the VMCS has what the processor runs with */
	gpa_t identity_map;	/* (c) vmx_set_identity_map() */
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
	uint64_t stamp;		    /* (o) counts what vmx_state_stamp() tells of */
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

/* --- regs.c --- */
/* vmx_skip_emulated_instruction() where the exit tells no length. */
void vmx_skip_bytes(struct kvm_vcpu *vcpu, uint32_t len);

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

/* --- switch.c --- */
/* VMPTRLD, unless it is current. */
void vmx_switch_vmcs(struct kvm_vcpu *vcpu, struct loaded_vmcs *to);

/* --- VMCS access --- */
void vmcs_access_failed(struct kvm_vcpu *vcpu, const char *what, uint32_t field);

static inline uint64_t vmcs_read64(struct kvm_vcpu *vcpu, uint32_t field)
{
	uint16_t cell = field & ~VMX_FIELD_BITS ? 0 : vmx_vmcs_cells[VMX_FIELD_SLOT(field)];
	uint64_t v = 0;

	/* one of the two is current from the vCPU's creation to its end: vmx_switch_vmcs() */
	if (likely(cell))
		return *(const uint64_t *)(const void *)((const char *)vcpu->vmx->loaded_vmcs->vmcs + cell);
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

/* What VMWRITE stores of a value in a field's cell. */
static inline uint64_t vmcs_field_value(uint32_t field, uint64_t v)
{
	switch (vmcs_field_width(field)) {
	case VMCS_WIDTH_16: return (uint16_t)v;
	case VMCS_WIDTH_32: return (uint32_t)v;
	default: return v;
	}
}

static inline void vmcs_write64(struct kvm_vcpu *vcpu, uint32_t field, uint64_t v)
{
	vcpu->vmx->stamp++;
	uint16_t cell = field & ~VMX_FIELD_BITS ? 0 : vmx_vmcs_cells[VMX_FIELD_SLOT(field)];

	/* VMWRITE of the value that is there does nothing: most of an L1's host state is at each exit what it was */
	if (likely(cell) && *(const uint64_t *)(const void *)((const char *)vcpu->vmx->loaded_vmcs->vmcs + cell) ==
				    vmcs_field_value(field, v))
		return;
	if (unlikely(vmwrite(vcpu->vmx->cpu, field, v) != VMX_SUCCEED))
		vmcs_access_failed(vcpu, "VMWRITE", field);
}

static inline void vmcs_writel(struct kvm_vcpu *vcpu, uint32_t field, uint64_t v)
{
	vmcs_write64(vcpu, field, v);
}

/* The same of a value that is there already, more often than not: a VMREAD is a load. */
static inline void vmcs_update(struct kvm_vcpu *vcpu, uint32_t field, uint64_t v)
{
	if (vmcs_readl(vcpu, field) != v)
		vmcs_writel(vcpu, field, v);
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

/* VMCS TSC offset and multiplier of whoever runs: L1's, and with L2 what L1 adds. */
void vmx_update_tsc(struct kvm_vcpu *vcpu);

/* --- regs.c --- */
/*
 * EFER, then CR0 and CR4 of a context that is being entered: they are compared with nothing and flush nothing. A
 * VPID's mappings outlive VM entries and exits, and a processor uses none that was made in another paging mode.
 */
void vmx_load_guest_efer(struct kvm_vcpu *vcpu, uint64_t v);
void vmx_load_guest_crs(struct kvm_vcpu *vcpu, uint64_t cr0, uint64_t cr4);

/* --- eptp.c --- */
/* What of the guest's translation state the hypervisor changed goes in before the entry. */
void vmx_flush_dirty_translation(struct kvm_vcpu *vcpu);
/* The guest's CR3 is not GUEST_CR3: it does not page, and the identity map is there. */
bool vmx_is_identity_mapped(const struct kvm_vcpu *vcpu);

/* --- nested VMX (nested.h) --- */
#define INVALID_VMPTR (~(gpa_t)0)
#define VMX_INSN_INFO_REGISTER BIT_ULL(10) /* the operand is a register */
#define FEAT_CTL_VMX_ENABLED_OUTSIDE_SMX BIT_ULL(2)
#define FEAT_CTL_LOCKED BIT_ULL(0)
#define NESTED_PREEMPTION_TIMER_RATE 5 /* the timer counts with bit 5 of the TSC */
#define NESTED_EXIT_NONE 0xffffffffU   /* out of L2 without an exit that L1 sees */
enum nvmx_vmentry_status { NVMX_VMENTRY_SUCCESS, NVMX_VMENTRY_VMFAIL, NVMX_VMENTRY_VMEXIT, NVMX_VMENTRY_KVM_INTERNAL_ERROR };

/* nested_evmcs_caps.c */
bool nested_evmcs_offered(struct kvm_vcpu *vcpu); /* the client has enabled it, and L1's CPUID names Hyper-V */
/* A capability MSR without what an enlightened VMCS has no fields for. */
uint64_t nested_evmcs_filter(uint32_t msr, uint64_t v);

/* nested_evmcs.c */
/* Restored, and not looked for yet: the client may set the assist page's MSR later than the nested state. */
#define EVMPTR_PENDING (~(gpa_t)1)
static inline bool nested_evmcs_is_active(const struct nested_vmx *n)
{
	return n->evmcs.vmptr != INVALID_VMPTR && n->evmcs.vmptr != EVMPTR_PENDING;
}
static inline void nested_evmcs_release(struct kvm_vcpu *vcpu) /* none is active any more */
{
	vcpu->vmx->nested.evmcs.vmptr = INVALID_VMPTR;
	vcpu->vmx->nested.evmcs.bitmap_merged = false;
}
enum nested_evmptrld { EVMPTRLD_DISABLED, EVMPTRLD_SUCCEEDED, EVMPTRLD_VMFAIL, EVMPTRLD_ERROR };
/* L1's assist page says that it enters with an enlightened VMCS, at *vmptr. */
bool nested_evmcs_entry_is_enlightened(struct kvm_vcpu *vcpu, gpa_t *vmptr);
/* VMLAUNCH, VMRESUME: the one that the assist page names is active. VMFAIL: of no known version; ERROR: no memory. */
must_check enum nested_evmptrld nested_evmcs_load(struct kvm_vcpu *vcpu, bool launch);
/* Of the active one what L1 has changed goes into cached_vmcs12. False: its memory is gone. */
must_check bool nested_evmcs_from_l1(struct kvm_vcpu *vcpu, bool launch);
void nested_evmcs_entered(struct kvm_vcpu *vcpu); /* L2 is entered with it: all is clean */
void nested_evmcs_to_l1(struct kvm_vcpu *vcpu);	  /* before L1 runs, while shadow_stale is set */
/* cached_vmcs12 as L1 sees it, for those that save or look. Nothing happens unless L1 runs with an active one. */
void nested_evmcs_sync(struct kvm_vcpu *vcpu);
/* VMREAD. False: it has no such field. */
must_check bool nested_evmcs_read_field(struct kvm_vcpu *vcpu, uint64_t encoding, uint64_t *value);
void nested_evmcs_restore(struct kvm_vcpu *vcpu); /* KVM_SET_NESTED_STATE: one was active */
/* Before L1 or L2 goes on: the restored one is looked for. False: it cannot be. */
bool nested_evmcs_get_page(struct kvm_vcpu *vcpu);
/* Where the vmcs12 is that counts: INVALID_VMPTR, there is none. */
static inline gpa_t nested_vmptr12(const struct nested_vmx *n)
{
	return unlikely(nested_evmcs_is_active(n)) ? n->evmcs.vmptr : n->current_vmptr;
}

static inline struct vmcs12 *get_vmcs12(struct kvm_vcpu *vcpu)
{
	return vcpu->vmx->nested.cached_vmcs12;
}
/* L2 runs, or L1 again; KVM API: the statistic of that name. */
static inline void nested_set_guest_mode(struct kvm_vcpu *vcpu, bool on)
{
	vcpu->vmx->head.guest_mode = on;
	if (!on) /* L1 finds what the exit has left in vmcs12 */
		vcpu->vmx->nested.shadow_stale =
			vcpu->vmx->vmcs01.secondary & SECONDARY_EXEC_SHADOW_VMCS || nested_evmcs_is_active(&vcpu->vmx->nested);
	vcpu->stat.guest_mode = on;
}
static inline bool nested_cpu_has(const struct vmcs12 *v, uint64_t bits)
{
	return v->cpu_based_vm_exec_control & bits;
}
static inline bool nested_cpu_has2(const struct vmcs12 *v, uint64_t bits)
{
	return nested_cpu_has(v, CPU_BASED_ACTIVATE_SECONDARY_CONTROLS) && (v->secondary_vm_exec_control & bits);
}
static inline bool nested_cpu_has_ept(const struct vmcs12 *v)
{
	return nested_cpu_has2(v, SECONDARY_EXEC_ENABLE_EPT);
}

/* nested_outcome.c: L1's memory where a failure has no consequence, as on a bus where nobody answers. */
void nested_write_guest(struct kvm_vcpu *vcpu, gpa_t gpa, const void *data, size_t len);
void nested_read_guest(struct kvm_vcpu *vcpu, gpa_t gpa, void *data, size_t len);

/* nested_caps.c */
void nested_vmx_init_msrs(struct kvm_vcpu *vcpu);
void nested_vmx_after_set_cpuid(struct kvm_vcpu *vcpu, struct vmx_offered_insns offered);
uint64_t nested_vmx_cap(struct kvm_vcpu *vcpu, uint32_t msr);

/* nested_outcome.c: how L1's instructions begin and end */
bool nested_vmx_check_permission(struct kvm_vcpu *vcpu); /* false: an exception is queued */
int nested_vmx_succeed(struct kvm_vcpu *vcpu);
int nested_vmx_fail_invalid(struct kvm_vcpu *vcpu);
int nested_vmx_fail(struct kvm_vcpu *vcpu, enum vm_instruction_error error);
uint64_t nested_vmx_read_reg(struct kvm_vcpu *vcpu, unsigned reg);
/* 4-KByte aligned and within L1's physical-address width. */
bool nested_vmx_page_valid(struct kvm_vcpu *vcpu, gpa_t gpa);

/* nested_operand.c */
/* The memory operand of the instruction that exited. False: *r is the exit handler's answer. */
bool nested_vmx_read_operand(struct kvm_vcpu *vcpu, void *buf, unsigned len, int *r);
bool nested_vmx_write_operand(struct kvm_vcpu *vcpu, const void *buf, unsigned len, int *r);
/* Its linear address. False: an exception is queued. */
bool get_vmx_mem_address(struct kvm_vcpu *vcpu, unsigned len, bool write, gva_t *address);

/* nested_insn.c */
/* -ENOMEM; -EAGAIN: no thread for the preemption timer. Nothing is done then. */
must_check int enter_vmx_operation(struct kvm_vcpu *vcpu);
void free_nested(struct kvm_vcpu *vcpu);

/* nested_check.c */
struct nested_checks;
bool nested_host_cr0_valid(struct kvm_vcpu *vcpu, uint64_t v);
bool nested_guest_cr0_valid(struct kvm_vcpu *vcpu, uint64_t v);
bool nested_cr4_valid(struct kvm_vcpu *vcpu, uint64_t v);
bool nested_cr3_valid(struct kvm_vcpu *vcpu, uint64_t v);
bool nested_vmx_canonical(uint64_t v);
bool nested_vmx_offers_secondary(struct kvm_vcpu *vcpu, uint64_t bit);
bool nested_vmx_eptp_valid(struct kvm_vcpu *vcpu, uint64_t eptp);

/* nested_vmcs02.c */
void prepare_vmcs02_early(struct kvm_vcpu *vcpu, const struct vmcs12 *v);
/* False: f says why. pat01: IA32_PAT of VMCS01. */
must_check bool prepare_vmcs02(struct kvm_vcpu *vcpu, const struct vmcs12 *v, uint64_t pat01, bool from_vmentry,
			       struct nested_checks *f);
void nested_sync_rare(struct kvm_vcpu *vcpu, struct vmcs12 *v);
void nested_vmx_transition_tlb_flush(struct kvm_vcpu *vcpu, const struct vmcs12 *v, bool entry);
/* CR3 of the context that is entered, L2's or L1's. False: f says why. */
must_check bool nested_vmx_load_cr3(struct kvm_vcpu *vcpu, uint64_t cr3, bool keep_pdptrs, struct nested_checks *f);
/* What L2 sees of CR0 and CR4. */
uint64_t nested_read_cr0(const struct vmcs12 *v);
uint64_t nested_read_cr4(const struct vmcs12 *v);

/* nested_shadowing.c: with VMCS01 current, L1 not running */
must_check int nested_shadowing_create(struct kvm_vcpu *vcpu); /* at VMXON; -ENOMEM */
void nested_shadowing_destroy(struct kvm_vcpu *vcpu);
/* There is a current vmcs12, or none any more. */
void nested_shadowing_switch(struct kvm_vcpu *vcpu, bool on);
/* Before cached_vmcs12 is used for L1, or saved: what L1 has written. */
void nested_shadowing_from_l1(struct kvm_vcpu *vcpu);
/* An exit of L1's has changed a field of cached_vmcs12, which it may read without one. */
void nested_shadowing_changed(struct kvm_vcpu *vcpu, uint32_t field);
void nested_shadowing_to_l1(struct kvm_vcpu *vcpu); /* before L1 runs, while shadow_stale is set */
/* The current vmcs12 goes back to L1's memory and is current no more. */
void nested_release_vmcs12(struct kvm_vcpu *vcpu);

/* nested_tpr.c */
bool nested_tpr_read(struct kvm_vcpu *vcpu, const struct vmcs12 *v, uint32_t *vtpr); /* false: no memory of L1's there */
bool nested_tpr_load(struct kvm_vcpu *vcpu, const struct vmcs12 *v);				     /* L2 is entered; false as above */
void nested_tpr_save(struct kvm_vcpu *vcpu); /* after each run of L2 with a TPR shadow */

/* nested_timer.c */
must_check int nested_timer_create(struct kvm_vcpu *vcpu); /* at VMXON; -ENOMEM, -EAGAIN (no thread) */
void nested_timer_destroy(struct kvm_vcpu *vcpu);
bool nested_cpu_has_preemption_timer(const struct vmcs12 *v);
void nested_timer_start(struct kvm_vcpu *vcpu, const struct vmcs12 *v); /* L2 is entered */
void nested_timer_stop(struct kvm_vcpu *vcpu, const struct vmcs12 *v);
uint32_t nested_timer_left(struct kvm_vcpu *vcpu); /* for vmcs12 */

/* nested_msr.c: gpa of an area of L1's */
uint64_t nested_vmx_load_msr(struct kvm_vcpu *vcpu, gpa_t gpa, uint32_t count); /* 0, or the number of the bad entry */
bool nested_vmx_store_msr(struct kvm_vcpu *vcpu, gpa_t gpa, uint32_t count);
bool nested_vmx_prepare_msr_bitmap(struct kvm_vcpu *vcpu, const struct vmcs12 *v); /* false: every access exits */

/* nested_enter.c */
void nested_tell_checkers(struct kvm_vcpu *vcpu, const struct vmcs12 *v); /* USERKVM_CHECK: L2 runs with this vmcs12 from now on */
uint16_t nested_get_vpid02(struct kvm_vcpu *vcpu);
int nested_vmx_enter_non_root_mode(struct kvm_vcpu *vcpu, bool from_vmentry);
/* Before the next entry of L2: what of L1's memory was not read when L2 was restored. */
must_check bool nested_get_vmcs12_pages(struct kvm_vcpu *vcpu); /* false: to the client, as run->exit_reason says */

/* nested_exit.c */
void sync_vmcs02_to_vmcs12(struct kvm_vcpu *vcpu, struct vmcs12 *v);
void load_vmcs12_host_state(struct kvm_vcpu *vcpu, struct vmcs12 *v);

/* nested_reflect.c: in guest mode, after an exit. True: it was L1's, L1 is next. */
bool nested_vmx_reflect_vmexit(struct kvm_vcpu *vcpu);

/* nested_mmu.c */
void nested_ept_init_mmu_context(struct kvm_vcpu *vcpu);
void nested_ept_uninit_mmu_context(struct kvm_vcpu *vcpu);
void nested_free_guest_roots(struct kvm_vcpu *vcpu);

/* nested_shadow.c: the VMCS that L1's vmcs12 links for L2's VMREAD and VMWRITE */
void nested_load_shadow_vmcs12(struct kvm_vcpu *vcpu, const struct vmcs12 *v);
void nested_flush_shadow_vmcs12(struct kvm_vcpu *vcpu, const struct vmcs12 *v);

/* --- tell.c: lines on stderr --- */
/* A triple-fault exit of the guest's: the exceptions that led to it. */
void vmx_tell_triple_fault(struct kvm_vcpu *vcpu);
/* An entry that the processor has refused, the client's or L2's: the check, the field, its value. The VMCS is as it was. */
void vmx_tell_failed_entry(struct kvm_vcpu *vcpu);
void vmx_processor_limits(struct vmentry_limits *l);
/*
 * The VMX_STUCK_AT'th EPT violation of the same access at the same place, with the same registers, is told, once
 * a vCPU: one that KVM_RUN is about to answer by EFAULT, and one of L2's that has gone to L1. Of the latter
 * `look` is taken while L2 is current, and `text` (of VMX_STUCK_TEXT bytes) holds what there is to tell or "".
 */
#define VMX_STUCK_TEXT 448
void vmx_note_client_fault(struct kvm_vcpu *vcpu, gpa_t gpa, uint64_t qualification);
struct vmx_stuck vmx_look_at_l2_fault(struct kvm_vcpu *vcpu, gpa_t gpa, uint64_t qualification, char *text);
void vmx_note_l1_fault(struct kvm_vcpu *vcpu, const struct vmx_stuck *look, const char *text);
/* Before a VM entry while a fault is watched: another RIP is progress, somebody emulates. */
static inline void vmx_stuck_entry(struct kvm_vcpu *vcpu)
{
	struct vmx_stuck *s = &vcpu->vmx->stuck;

	if (s->l2 == is_guest_mode(vcpu) && s->rip != vmx_get_rip(vcpu))
		s->nr = 0;
}

/* --- exit handlers: 1 re-enter, 0 to the client, < 0 KVM_RUN's error --- */
typedef int vmx_exit_handler(struct kvm_vcpu *vcpu);
vmx_exit_handler handle_ept_violation, handle_ept_misconfig, handle_cr, handle_dr, handle_io,
	handle_rdmsr, handle_wrmsr, handle_exception_nmi, handle_external_interrupt,
	handle_triple_fault, handle_interrupt_window, handle_nmi_window, handle_task_switch,
	handle_cpuid, handle_halt, handle_nop, handle_mwait, handle_pause, handle_vmcall, handle_vmx_instruction,
	handle_insn_not_offered, handle_invlpg, handle_rdpmc, handle_xsetbv, handle_invpcid, handle_monitor_trap,
	handle_preemption_timer, handle_bus_lock, handle_tpr_below_threshold,
	handle_apic_access, handle_apic_eoi_induced, handle_apic_write,
	handle_vmxon, handle_vmxoff, handle_vmclear, handle_vmptrld, handle_vmptrst, handle_vmread,
	handle_vmwrite, handle_vmlaunch, handle_vmresume, handle_invept, handle_invvpid, handle_vmfunc;

#endif
