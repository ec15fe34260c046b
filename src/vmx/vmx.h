/*
 * KVM's use of VMX: programming the VMCS, entering, the table of exit
 * handlers, event injection. (Linux: arch/x86/kvm/vmx.)
 *
 * The VMCS is written by vmwrite only; the processor is cpu/vmx_isa.h and
 * nothing else. What an exit handler needs of the rest of KVM (CPUID, MSRs,
 * port I/O, emulation, …) it asks through struct vmx_services, so that the
 * arrow stays x86 -> vmx.
 *
 * Context: all functions with a vcpu: owner thread (vcpu->mutex held), unless
 * it says otherwise.
 */
#ifndef USERKVM_VMX_VMX_H
#define USERKVM_VMX_VMX_H

#include "cpu/vmx_isa.h"
#include "sdm/regs.h"
#include "virt/kvm.h"
#include "vmx/vmcs12.h"

struct vcpu_vmx;

/* Module knobs (USERKVM_PARAMS), read once, cut down to what the processor has. */
struct vmx_params {
	bool ept; /* false: shadow paging, GUEST_CR3 is ours */
	bool forget_invept; /* USERKVM_FORGET: for lessons; translations stay that had to go */
	bool unrestricted_guest, vpid, pml;
	bool flexpriority; /* the APIC-access page in xAPIC mode */
	bool enable_shadow_vmcs; /* L1's VMREAD and VMWRITE do not all exit */
	bool enable_apicv; /* register virtualization, virtual-interrupt delivery, posted interrupts */
	bool nested; /* VMX is offered to guests */
};
const struct vmx_params *vmx_params(void);

/*
 * Exit handlers return: 1 re-enter, 0 leave KVM_RUN with run->exit_reason set,
 * < 0 KVM_RUN's error. All services follow it unless said otherwise.
 */
/* An event on its way into the guest: a type of enum intr_type. */
struct vmx_event {
	uint8_t type, vector;
	bool has_error_code;
	uint32_t error_code;
};

struct vmx_services {
	int (*emulate_cpuid)(struct kvm_vcpu *vcpu);
	int (*emulate_rdmsr)(struct kvm_vcpu *vcpu);
	int (*emulate_wrmsr)(struct kvm_vcpu *vcpu);
	int (*emulate_halt)(struct kvm_vcpu *vcpu); /* RIP already past HLT */
	int (*emulate_hypercall)(struct kvm_vcpu *vcpu);
	int (*emulate_xsetbv)(struct kvm_vcpu *vcpu);
	int (*emulate_rdpmc)(struct kvm_vcpu *vcpu);
	/* IN/OUT without a string prefix: port, size 1/2/4. Skips the instruction itself. */
	int (*fast_pio)(struct kvm_vcpu *vcpu, uint16_t port, int size, bool in);
	/* Whole-instruction emulation at RIP (string I/O, MMIO at gpa when has_gpa). */
	int (*emulate_instruction)(struct kvm_vcpu *vcpu, bool has_gpa, gpa_t gpa);
	int (*task_switch)(struct kvm_vcpu *vcpu, uint16_t selector, int source, bool has_error_code,
			   uint32_t error_code, int idt_vector);
	/* CR and DR writes by the guest: 0 done, 1 the guest gets #GP(0). */
	int (*set_cr)(struct kvm_vcpu *vcpu, int nr, uint64_t value);
	uint64_t (*get_cr8)(struct kvm_vcpu *vcpu);
	int (*set_dr)(struct kvm_vcpu *vcpu, int nr, uint64_t value);
	uint64_t (*get_dr)(struct kvm_vcpu *vcpu, int nr);
	/* Queue for injection at the next entry. */
	void (*queue_exception)(struct kvm_vcpu *vcpu, uint8_t vector, bool has_error_code,
				uint32_t error_code, bool has_payload, uint64_t payload);
	/* IDT-vectoring: an event was on its way when the exit happened; deliver it again. */
	void (*requeue_exception)(struct kvm_vcpu *vcpu, uint8_t vector, bool has_error_code,
				  uint32_t error_code);
	void (*requeue_interrupt)(struct kvm_vcpu *vcpu, uint8_t vector, bool soft);
	void (*requeue_nmi)(struct kvm_vcpu *vcpu);
	/* The guest debugger's say on #DB, #BP: run->exit_reason = KVM_EXIT_DEBUG. */
	bool (*guest_debug_exit)(struct kvm_vcpu *vcpu, uint8_t vector, uint64_t dr6);
	/* KVM_GUESTDBG_* in force; 0 without a debugger. */
	uint32_t (*guest_debug)(struct kvm_vcpu *vcpu);
	/* #UD intercepted: emulate what KVM emulates, or give it to the guest. */
	int (*handle_ud)(struct kvm_vcpu *vcpu);
	/* MONITOR and MWAIT do not exist for this guest: #UD. */
	bool (*mwait_faults)(struct kvm_vcpu *vcpu);
	/* The event in delivery has become a task switch: forget the requeued one. */
	void (*event_delivered)(struct kvm_vcpu *vcpu);
	/* The in-process APIC's share of exits 43, 44 (EOI), 45 and 56. */
	void (*apic_tpr_lowered)(struct kvm_vcpu *vcpu);
	void (*apic_eoi)(struct kvm_vcpu *vcpu);
	void (*apic_eoi_accelerated)(struct kvm_vcpu *vcpu, uint8_t vector);
	void (*apic_write)(struct kvm_vcpu *vcpu, uint32_t offset);
	/* The instruction at RIP in the assembler's words; "" where it cannot be read. */
	void (*insn_text)(struct kvm_vcpu *vcpu, char *buf, size_t size);
	/* CR4 bits that the guest's CPUID does not offer: they stay the hypervisor's. */
	uint64_t (*cr4_guest_rsvd_bits)(struct kvm_vcpu *vcpu);

	/* For nested VMX. MSRs as by the guest's RDMSR and WRMSR: 0, or not. */
	int (*get_msr)(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data);
	int (*set_msr)(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data);
	int (*maxphyaddr)(struct kvm_vcpu *vcpu); /* of the guest's CPUID */
	uint64_t (*feature_control)(struct kvm_vcpu *vcpu); /* IA32_FEATURE_CONTROL */
	bool (*x2apic_mode)(struct kvm_vcpu *vcpu);
	bool (*in_smm)(struct kvm_vcpu *vcpu);
	bool (*has_vmx)(struct kvm_vcpu *vcpu); /* in the guest's CPUID */
	bool (*load_pdptrs)(struct kvm_vcpu *vcpu, uint64_t cr3); /* false: reserved bits, nothing changed */
	/* Guest memory as the guest's own processor writes it: 0 or -EFAULT. */
	int (*write_guest)(struct kvm_vcpu *vcpu, gpa_t gpa, const void *data, size_t len);
	/* The event that is to be delivered again. False: none. */
	bool (*injected_event)(struct kvm_vcpu *vcpu, struct vmx_event *e);
	/* Whatever waits for delivery, or is to be delivered again, is void. NMIs and interrupts that wait stay. */
	void (*clear_events)(struct kvm_vcpu *vcpu);
	/* Acknowledge the interrupt that waits: its vector, or -1. */
	int (*take_interrupt)(struct kvm_vcpu *vcpu);
	uint32_t (*activity)(struct kvm_vcpu *vcpu); /* SDM "Activity state": active, HLT or wait-for-SIPI */
	void (*wait_for_sipi)(struct kvm_vcpu *vcpu);
	void (*wake)(struct kvm_vcpu *vcpu); /* it runs, whatever it has waited for */
	bool (*hyperv_enabled)(struct kvm_vcpu *vcpu); /* the guest's CPUID names Hyper-V's interface */
	bool (*hv_assist_page)(struct kvm_vcpu *vcpu, gpa_t *page); /* false: it has none */
};
void vmx_register_services(const struct vmx_services *s);

/*
 * KVM API: KVM_CAP_HYPERV_ENLIGHTENED_VMCS. enable: -EINVAL with nested=0. version: what CPUID leaf 4000000AH says in
 * its low half, 0 where there are none; of a vCPU that has it enabled, or of any (NULL).
 */
must_check int vmx_enable_evmcs(struct kvm_vcpu *vcpu);
uint16_t vmx_evmcs_version(struct kvm_vcpu *vcpu);

/* vmx_create_vcpu: VPID, VMCS, controls, logical processor. -ENOMEM. */
must_check int vmx_create_vcpu(struct kvm_vcpu *vcpu, struct vmx_machine *machine);
void vmx_free_vcpu(struct kvm_vcpu *vcpu);
/* KVM API: KVM_CAP_X86_DISABLE_EXITS: HLT and PAUSE are the processor's own affair. Before the first entry. */
void vmx_disable_exits(struct kvm_vcpu *vcpu, bool hlt, bool pause);
/* KVM API: KVM_CAP_X86_BUS_LOCK_EXIT: can the processor, and that it shall from the next entry on. */
bool vmx_has_bus_lock_detection(void);
void vmx_detect_bus_locks(struct kvm_vcpu *vcpu);
/*
 * Instructions that the guest's CPUID offers; the others are #UD. RDTSCP stands for RDPID as well. None until it
 * is called. (Linux: vmx_adjust_sec_exec_feature; SDM "Secondary Processor-Based VM-Execution Controls")
 */
struct vmx_offered_insns {
	bool rdtscp, invpcid, xsaves, rdrand, rdseed;
};
void vmx_offer_insns(struct kvm_vcpu *vcpu, struct vmx_offered_insns offered);
/* The guest's MAXPHYADDR, 32 to 52: the processor's own affair with EPT; shadow tables have the host's. */
void vmx_set_maxphyaddr(struct kvm_vcpu *vcpu, int bits);
/* The guest's CPUID says AMD (or Hygon), or another. */
void vmx_set_vendor(struct kvm_vcpu *vcpu, bool amd);
/*
 * APIC virtualization (apicv.c). init: of a vCPU with an in-process APIC, whose register page and
 * posted-interrupt descriptor these are; access_page: 0 without flexpriority.
 */
enum vmx_apic_mode { VMX_APIC_DISABLED, VMX_APIC_XAPIC, VMX_APIC_X2APIC };
void vmx_apicv_init(struct kvm_vcpu *vcpu, hpa_t page, hpa_t descriptor, hpa_t access_page);
void vmx_set_virtual_apic_mode(struct kvm_vcpu *vcpu, enum vmx_apic_mode mode);
void vmx_refresh_apicv_exec_ctrl(struct kvm_vcpu *vcpu, bool active);
/* VMCS01 is current again: what has changed meanwhile goes in. */
void vmx_apicv_vmcs01_loaded(struct kvm_vcpu *vcpu);
/* RVI and SVI (-1: none). irr: false while VMCS01 is not current. */
bool vmx_hwapic_irr_update(struct kvm_vcpu *vcpu, int highest_irr);
void vmx_hwapic_isr_update(struct kvm_vcpu *vcpu, int highest_isr);
void vmx_load_eoi_exitmap(struct kvm_vcpu *vcpu, const uint64_t vectors[4]);
/* TPR threshold: of use for the next entry, and its value. */
bool vmx_wants_tpr_threshold(struct kvm_vcpu *vcpu);
void vmx_set_tpr_threshold(struct kvm_vcpu *vcpu, unsigned threshold);
/* The notification of a posted interrupt. Any thread. */
void vmx_notify_posted(struct kvm_vcpu *vcpu);
/* An event comes: a guest that waits in HLT without an exit goes on. */
void vmx_clear_hlt(struct kvm_vcpu *vcpu);
/* State after RESET (init_event: INIT) as far as the VMCS holds it. */
void vmx_vcpu_reset(struct kvm_vcpu *vcpu, bool init_event);
struct vmx_cpu *vmx_processor(struct kvm_vcpu *vcpu);

/*
 * vmx_vcpu_run: flush dirty registers, enter, save exit state. 1: nothing was entered, and run->exit_reason says why.
 * 0, or -errno for a failed VMLAUNCH/VMRESUME (run->exit_reason then says
 * KVM_EXIT_FAIL_ENTRY and the function returns 0 through vmx_handle_exit).
 */
must_check int vmx_vcpu_run(struct kvm_vcpu *vcpu);
must_check int vmx_handle_exit(struct kvm_vcpu *vcpu);
/* The last VMLAUNCH/VMRESUME did not get into the guest: nothing was injected. */
bool vmx_entry_failed(struct kvm_vcpu *vcpu);
uint32_t vmx_exit_reason(struct kvm_vcpu *vcpu);
/* IDT-vectoring and NMI-unblocking after an exit: requeues through services. */
void vmx_complete_interrupts(struct kvm_vcpu *vcpu);
void vmx_cancel_injection(struct kvm_vcpu *vcpu);
/*
 * Without unrestricted guest: the guest is in a state that VM entry refuses
 * (real mode, or segments on their way from it), so that its instructions must
 * be emulated. Never true with unrestricted guest.
 */
bool vmx_emulation_required(struct kvm_vcpu *vcpu);
/* The event that the next entry would inject, taken out of the VMCS. False: none. */
bool vmx_take_injection(struct kvm_vcpu *vcpu, uint8_t *vector, unsigned *insn_len);

/* Registers. General ones: the processor's own array, RSP included (cached). */
uint64_t *vmx_regs(struct kvm_vcpu *vcpu); /* 16; RSP valid; after writing RSP call vmx_set_rsp */
void vmx_set_rsp(struct kvm_vcpu *vcpu, uint64_t v);
uint64_t vmx_get_rip(struct kvm_vcpu *vcpu);
void vmx_set_rip(struct kvm_vcpu *vcpu, uint64_t v);
uint64_t vmx_get_rflags(struct kvm_vcpu *vcpu);
void vmx_set_rflags(struct kvm_vcpu *vcpu, uint64_t v);
void vmx_get_segment(struct kvm_vcpu *vcpu, struct kvm_segment *s, enum sreg nr);
void vmx_set_segment(struct kvm_vcpu *vcpu, const struct kvm_segment *s, enum sreg nr);
/* Type, S, DPL, P, AVL, L, D/B, G and unusable, to and from the VMCS's form (VMX_AR_*). */
uint32_t vmx_segment_access_rights(const struct kvm_segment *s);
void vmx_segment_set_access_rights(struct kvm_segment *s, uint32_t ar);
/* Segment registers as the VMCS has them: no form of KVM's in between. */
struct vmx_raw_segment {
	uint64_t base;
	uint32_t limit, ar;
	uint16_t selector;
};
void vmx_get_raw_segments(struct kvm_vcpu *vcpu, struct vmx_raw_segment s[NR_SREGS]);
uint64_t vmx_get_cs_base(struct kvm_vcpu *vcpu);
/*
 * Another value than before: RIP, RSP, RFLAGS, segments, tables, control registers or EFER may have been set since,
 * or the vCPU has gone to another VMCS. The same: none of it was. Other general registers are not in it.
 */
uint64_t vmx_state_stamp(const struct kvm_vcpu *vcpu);
void vmx_get_tr_ldt(struct kvm_vcpu *vcpu, struct kvm_segment *tr, struct kvm_segment *ldt);
void vmx_set_tr_ldt(struct kvm_vcpu *vcpu, const struct kvm_segment *tr, const struct kvm_segment *ldt);
void vmx_get_gdt_idt(struct kvm_vcpu *vcpu, struct kvm_dtable *gdt, struct kvm_dtable *idt);
void vmx_set_gdt_idt(struct kvm_vcpu *vcpu, const struct kvm_dtable *gdt, const struct kvm_dtable *idt);
int vmx_get_cpl(struct kvm_vcpu *vcpu);
bool vmx_is_64bit_code(struct kvm_vcpu *vcpu); /* CS.L with EFER.LMA */

/* Guest control registers: the guest's values (shadow and mask applied). */
uint64_t vmx_get_cr0(struct kvm_vcpu *vcpu);
uint64_t vmx_get_cr3(struct kvm_vcpu *vcpu);
uint64_t vmx_get_cr4(struct kvm_vcpu *vcpu);
uint64_t vmx_get_efer(struct kvm_vcpu *vcpu);
/* Set what the hardware shall run with: no architectural checks, no MMU reset (x86 does both). */
void vmx_set_cr0(struct kvm_vcpu *vcpu, uint64_t v);
void vmx_set_guest_cr3(struct kvm_vcpu *vcpu, uint64_t v); /* marks the VMCS copy stale */
void vmx_set_cr4(struct kvm_vcpu *vcpu, uint64_t v);
/* The guest's CPUID changed: which CR4 bits it may own is decided again. */
void vmx_vcpu_after_set_cpuid(struct kvm_vcpu *vcpu);
void vmx_set_efer(struct kvm_vcpu *vcpu, uint64_t v);
void vmx_set_dr7(struct kvm_vcpu *vcpu, uint64_t v);
uint64_t vmx_get_dr7(struct kvm_vcpu *vcpu);
void vmx_get_pdptrs(struct kvm_vcpu *vcpu, uint64_t pdptrs[4]);
void vmx_set_pdptrs(struct kvm_vcpu *vcpu, const uint64_t pdptrs[4]);

/* Where the identity-map page table is, which pages for a guest that does not (ept=1, unrestricted_guest=0). */
void vmx_set_identity_map(struct kvm_vcpu *vcpu, gpa_t addr);

/* vmx_set_cr3 of the walk-through: builds and loads the EPTP, and GUEST_CR3 where it is stale. */
void vmx_set_cr3(struct kvm_vcpu *vcpu, hpa_t root_hpa, int root_level);
uint64_t construct_eptp(struct kvm_vcpu *vcpu, hpa_t root_hpa, int root_level);
void vmx_flush_tlb_current(struct kvm_vcpu *vcpu); /* INVEPT single context, the current EPTP */
void vmx_flush_tlb_guest(struct kvm_vcpu *vcpu);   /* INVVPID single context, the current VPID */
void vmx_flush_tlb_all(struct kvm_vcpu *vcpu);	   /* INVEPT all contexts */

/* MSRs the VMCS or the processor holds: 0, or 1 when vmx does not know the MSR. */
must_check int vmx_get_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data);
must_check int vmx_set_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data);
/* Whether the guest may touch the MSR without an exit (MSR bitmap). */
void vmx_set_msr_intercept(struct kvm_vcpu *vcpu, uint32_t msr, bool read, bool write, bool intercept);

void vmx_write_tsc_offset(struct kvm_vcpu *vcpu, uint64_t offset);
void vmx_write_tsc_multiplier(struct kvm_vcpu *vcpu, uint64_t multiplier); /* 48 fraction bits */

/* Events. Shadow masks: KVM_X86_SHADOW_INT_MOV_SS, KVM_X86_SHADOW_INT_STI of <asm/kvm.h>. */
uint32_t vmx_get_interrupt_shadow(struct kvm_vcpu *vcpu);
void vmx_set_interrupt_shadow(struct kvm_vcpu *vcpu, uint32_t mask);
bool vmx_interrupt_allowed(struct kvm_vcpu *vcpu);
bool vmx_nmi_allowed(struct kvm_vcpu *vcpu);
bool vmx_get_nmi_mask(struct kvm_vcpu *vcpu);
void vmx_set_nmi_mask(struct kvm_vcpu *vcpu, bool masked);
void vmx_inject_exception(struct kvm_vcpu *vcpu, uint8_t vector, bool has_error_code, uint32_t error_code);
void vmx_inject_irq(struct kvm_vcpu *vcpu, uint8_t vector, bool soft);
void vmx_inject_nmi(struct kvm_vcpu *vcpu);
void vmx_enable_irq_window(struct kvm_vcpu *vcpu);
void vmx_set_pending_dbg(struct kvm_vcpu *vcpu, uint64_t payload); /* adds to GUEST_PENDING_DBG_EXCEPTIONS */
void vmx_enable_nmi_window(struct kvm_vcpu *vcpu);
/* KVM_SET_GUEST_DEBUG or #MC/#DB policy changed. */
void vmx_update_exception_bitmap(struct kvm_vcpu *vcpu);
void vmx_set_monitor_trap(struct kvm_vcpu *vcpu, bool on);

/*
 * Nested VMX (nested.h). The guest is L1 until it runs a guest of its own; in guest
 * mode (Linux: is_guest_mode, not kvm_vcpu_enter_guest_mode) it is L2, and everything
 * above speaks of L2's state.
 */
struct vmx_nested_head { /* stands first in struct vcpu_vmx, since every exit asks */
	bool guest_mode, vmxon;
};
static inline bool is_guest_mode(const struct kvm_vcpu *vcpu)
{
	return ((const struct vmx_nested_head *)vcpu->vmx)->guest_mode;
}
static inline bool vmx_in_vmx_operation(const struct kvm_vcpu *vcpu) /* after VMXON */
{
	return ((const struct vmx_nested_head *)vcpu->vmx)->vmxon;
}
/* L1's VMLAUNCH has succeeded and L2 has yet to run: no exit may be made up, nothing injected. */
bool vmx_nested_run_pending(struct kvm_vcpu *vcpu);
bool nested_exit_on_nmi(struct kvm_vcpu *vcpu);
bool nested_exit_on_intr(struct kvm_vcpu *vcpu);
/* In guest mode: L1 wants this exception of L2's. */
bool nested_vmx_is_exception_vmexit(struct kvm_vcpu *vcpu, uint8_t vector, uint32_t error_code);
/*
 * In guest mode: an exit from L2 to L1. reason: as VM_EXIT_REASON; intr_info: as
 * VM_EXIT_INTR_INFO. Not while vmx_nested_run_pending().
 */
void nested_vmx_vmexit(struct kvm_vcpu *vcpu, uint32_t reason, uint32_t intr_info, uint64_t qualification);
/* The same for an exception of L2; bits 31:0 of the error code where it has one. */
void nested_vmx_exception_vmexit(struct kvm_vcpu *vcpu, uint8_t vector, bool has_error_code, uint32_t error_code,
				 uint64_t qualification);
void nested_vmx_exception_vmexit_nmi(struct kvm_vcpu *vcpu);
/*
 * In guest mode, an instruction of L2 that is emulated: is it one that L1 takes as an exit of this reason,
 * or for these ports? The processor says so by itself then. LMSW is known only with its operand: true, the
 * exit has been made.
 */
bool nested_vmx_l1_wants_insn(struct kvm_vcpu *vcpu, uint32_t reason);
bool nested_vmx_l1_wants_port(struct kvm_vcpu *vcpu, uint16_t port, unsigned size);
bool nested_vmx_reflect_lmsw(struct kvm_vcpu *vcpu, uint16_t value, bool memory);
/* EPT12 forbids what L2 does (fault->nested): exit 48 or 49 to L1. */
struct kvm_page_fault_info;
void nested_ept_inject_page_fault(struct kvm_vcpu *vcpu, const struct kvm_page_fault_info *fault);
/* L1's page-modification log, where it has one: L2's address. False: it is full. */
must_check bool nested_vmx_log_write(struct kvm_vcpu *vcpu, gpa_t gpa);
/* A triple fault ends L2 before it began. */
void nested_vmx_clear_run_pending(struct kvm_vcpu *vcpu);
/* An instruction of L2 has been emulated: is an exit by the monitor trap flag due? */
bool nested_mtf_pending(struct kvm_vcpu *vcpu);
/* L1's VMX-preemption timer has run out, L2 runs. Any thread. */
bool nested_preemption_timer_expired(struct kvm_vcpu *vcpu);
void nested_vmx_update_mtf(struct kvm_vcpu *vcpu, bool exception_pending);
/*
 * SMM knows no VMX (SDM "Default Treatment of SMIs"): into it, whoever runs, and back to L2 if it was
 * L2. False: L2 cannot be entered as it is now.
 */
void vmx_pre_enter_smm(struct kvm_vcpu *vcpu);
must_check bool vmx_pre_leave_smm(struct kvm_vcpu *vcpu);
/* Out of L2 without an exit, out of VMX operation. */
void vmx_leave_nested(struct kvm_vcpu *vcpu);
/*
 * KVM API: KVM_GET_NESTED_STATE, KVM_SET_NESTED_STATE, as they lie in the client's memory. get: how many
 * bytes of it count. set: -EINVAL, -ENOMEM; after the header has been found good VMX operation is
 * left and entered anew, whatever comes.
 */
struct vmx_nested_state {
	struct kvm_nested_state head;
	struct vmcs12 vmcs12, shadow_vmcs12;
};
uint32_t vmx_get_nested_state(struct kvm_vcpu *vcpu, struct vmx_nested_state *out);
must_check int vmx_set_nested_state(struct kvm_vcpu *vcpu, const struct vmx_nested_state *in);
/* Capability MSRs: 0, or 1 where there is no such MSR, or the value is refused. */
must_check int vmx_get_nested_msr_feature(uint32_t msr, uint64_t *data);
must_check int vmx_get_nested_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host); /* host: by the client's ioctl */
must_check int vmx_set_nested_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data);
/* May CR0, CR4 be so, in VMX operation? True outside of it. */
bool vmx_is_valid_cr0(struct kvm_vcpu *vcpu, uint64_t v);
bool vmx_is_valid_cr4(struct kvm_vcpu *vcpu, uint64_t v);

/* What the last exit was, for people: reason, qualification, vectoring, as KVM reports them. */
void vmx_get_exit_info(struct kvm_vcpu *vcpu, uint64_t info[5]);

/* RIP past the instruction that exited; clears the interrupt shadow. */
void vmx_skip_emulated_instruction(struct kvm_vcpu *vcpu);

#endif
