/*
 * The x86 vCPU: it joins the rooms. Registers, CPUID, MSRs, clock, the run
 * loop, MMIO and port I/O. (Linux: arch/x86/kvm/{x86,cpuid,mtrr}.c)
 *
 * Files: vcpu.c (life), ops.c (what the rooms above do), reset.c, init_sipi.c, request.c, run.c (vcpu_enter_guest,
 * KVM_RUN), event.c (queued exceptions, interrupts, NMI), regs.c (CR/DR/segments and their ioctls), sregs.c,
 * state.c (values at creation), fpu.c, cpuid.c, cpuid_guest.c (what a guest's CPUID says), cpuid_supported.c, msr.c,
 * mtrr.c, clock.c, steal.c, pio.c, mmio.c, smm.c (system management mode), hypercall.c, debug.c.
 */
#ifndef USERKVM_X86_X86_H
#define USERKVM_X86_X86_H

#include <signal.h>

#include "irq/irq.h"
#include "mmu/mmu.h"
#include "sdm/regs.h"
#include "virt/kvm.h"
#include "vmx/vmx.h"

#define KVM_MAX_CPUID_ENTRIES 256
/* KVM API: "KVM CPUID bits" */
#define KVM_CPUID_FEATURES 0x40000001u
#define KVM_FEATURE_ASYNC_PF 4
#define KVM_FEATURE_PV_EOI 6
#define KVM_FEATURE_PV_UNHALT 7
#define KVM_FEATURE_ASYNC_PF_VMEXIT 10
#define KVM_FEATURE_ASYNC_PF_INT 14
#define KVM_FEATURE_POLL_CONTROL 12
#define KVM_FEATURE_PV_SCHED_YIELD 13
#define KVM_MAX_MCE_BANKS 32
#define MISC_FEATURES_CPUID_FAULT BIT_ULL(0) /* of MISC_FEATURES_ENABLES */

struct pvclock_vcpu_time_info; /* x86/pvclock.h */

/* The VM's share of Hyper-V's interface (the hyperv room's). (a): MSRs any vCPU reads and writes */
struct kvm_hv {
	/* under clock_lock; the MSRs may be read without */
	uint64_t guest_os_id, hypercall, reference_tsc;
	uint64_t reenlightenment_control, tsc_emulation_control, tsc_emulation_status;
	uint64_t tsc_scale, tsc_offset; /* of the reference TSC page, if page_set */
	bool page_set;
	pthread_mutex_t page_lock; /* one writer of the page; before clock_lock */

	uint64_t crash_param[5], crash_ctl; /* (a) */
	struct {
		uint64_t control, status, send_page, recv_page, pending_page, options; /* (a) */
	} syndbg;
	pthread_mutex_t conn_lock;	/* writers of conns */
	struct hv_connections *conns;	/* (r) KVM_HYPERV_EVENTFD, NULL without any */
};

/* Hyper-V's leaves of the guest's CPUID, as far as they are asked for. */
struct kvm_hv_cpuid {
	bool enabled; /* the interface's signature is there */
	uint32_t features_eax, features_ebx, features_edx;
	uint32_t hints_eax, hints_ebx; /* recommendations */
	uint32_t syndbg_eax;
};

/* A vCPU's share. */
struct kvm_vcpu_hv {
	uint32_t vp_index; /* (a) the client's; KVM_HV_VP_INDEX_UNSET: the vCPU's position */
	uint64_t assist_page;
	uint64_t runtime_offset; /* in 100 ns */
	bool enforce_cpuid;	 /* KVM_CAP_HYPERV_ENFORCE_CPUID */
	struct kvm_hv_cpuid cpuid;
	struct kvm_hyperv_exit exit; /* what KVM_REQ_HV_EXIT tells the client */
	struct hv_synic *synic;	     /* (a) NULL without KVM_CAP_HYPERV_SYNIC; then (c) */
};

/* debugger.h */
struct kvm_debugger_vm {
	pthread_mutex_t lock;
	bool attached;	     /* (a) lock to change */
	bool owns_mutex;     /* [lock] kvm_debugger_begin() has taken the vCPU's */
	uint32_t event_word; /* (a) moves with each hit */
};
struct kvm_debugger_vcpu {
	bool on;     /* (a) its VM has a debugger, or waits for one */
	bool hold;   /* (a) it is not to enter the guest */
	bool parked; /* [lock] its thread waits in KVM_RUN, its state may be used */
	bool hit;    /* [lock] a stop that has not been fetched: vector, dr6 */
	uint8_t vector;
	uint64_t dr6;
};

struct kvm_arch {
	struct vmx_machine *machine; /* (c) */
	gpa_t tss_addr;		     /* [l] KVM_SET_TSS_ADDR */
	gpa_t identity_map_addr;     /* [l] KVM_SET_IDENTITY_MAP_ADDR; (c) once there is a vCPU */
	hva_t identity_map_page;     /* [s] 0: none; (c) once there is a vCPU */
	/* kvmclock: guest ns = host boottime ns + kvmclock_offset; guarded by clock_lock */
	pthread_mutex_t clock_lock;
	int64_t kvmclock_offset;
	uint64_t default_tsc_khz;
	uint64_t disabled_exits; /* [l] KVM_CAP_X86_DISABLE_EXITS; (c) once there is a vCPU */
	bool exception_payload_enabled, triple_fault_event, user_space_msr_enabled;
	bool exit_on_emulation_error;	 /* KVM_CAP_EXIT_ON_EMULATION_FAILURE */
	bool bus_lock_detection_enabled; /* KVM_CAP_X86_BUS_LOCK_EXIT: once and for all */
	uint32_t user_space_msr_mask; /* KVM_MSR_EXIT_REASON_* */
	void *msr_filter;	     /* (r) KVM_X86_SET_MSR_FILTER, msr.c */
	uint64_t hypercall_exit_enabled;
	bool x2apic_format, x2apic_broadcast_quirk_disabled;
	bool platform_info_readable; /* KVM_CAP_MSR_PLATFORM_INFO */
	uint32_t max_vcpu_ids;	     /* [l] KVM_CAP_MAX_VCPU_ID, 0: not set */
	uint32_t msr_filter_seq;     /* (a) counts KVM_X86_SET_MSR_FILTER */
	uint64_t wall_clock_msr;
	/* clock.c, under clock_lock: the host moment every kvmclock page is computed from */
	uint64_t master_tsc, master_boot_ns;
	/* the last TSC value written by the client, to line vCPUs up */
	uint64_t last_tsc_write, last_tsc_ns, last_tsc_khz, last_tsc_offset;
	struct kvm_hv hv;
	uint64_t disabled_quirks;
	uint32_t bsp_vcpu_id;
	/* apicv.c */
	pthread_rwlock_t apicv_update_lock;
	uint64_t apicv_inhibit_reasons; /* (a) apicv_update_lock to change; bits of enum apicv_inhibit */
	hva_t apic_access_page;		/* [s] 0: none; (c) once there is a vCPU with an APIC */
	pthread_mutex_t auto_eoi_lock;
	uint32_t nr_auto_eoi;		/* auto_eoi_lock; SynICs with an AutoEOI SINT */
	struct kvm_debugger_vm debugger;
};

/* One event waiting to be delivered (Linux: kvm_queued_exception). */
struct kvm_queued_exception {
	bool pending;  /* not yet put in the VMCS; side effects (CR2, DR6) not applied */
	bool injected; /* on its way: deliver again if the entry did not complete */
	bool has_error_code, has_payload;
	uint8_t vector;
	uint32_t error_code;
	uint64_t payload;
};
struct kvm_queued_interrupt {
	bool injected, soft;
	uint8_t nr;
};

/* steal.c */
struct kvm_steal {
	uint64_t msr;	       /* MSR_KVM_STEAL_TIME */
	uint64_t thread;       /* host_thread_serial() that run_delay is of */
	uint64_t run_delay;    /* ns, when the page was written last */
	uint64_t updated_tsc, left_tsc;
	uint64_t outside_tsc;  /* in all: neither in the guest nor waiting for a processor */
	bool by_clock;	       /* run_delay is an estimate */
	bool due, preempted;
};

/* async_pf.c */
struct kvm_async_pf_arch {
	uint64_t en_msr, int_msr; /* MSR_KVM_ASYNC_PF_EN, _INT */
	bool wakeup_all; /* enabled since: every page that the guest waits for may be there */
	bool halted;	 /* until an event, or a page */
};

struct kvm_vcpu_arch { /* (o), where no letter says otherwise */
	/* CPUID the client set */
	struct kvm_cpuid_entry2 *cpuid_entries; /* (o) */
	int cpuid_nent;
	int maxphyaddr;
	uint64_t guest_supported_xcr0;

	/* control state that is not in the VMCS */
	uint64_t cr8;	  /* without in-kernel APIC */
	uint64_t apic_base; /* with or without an in-kernel APIC: irq room keeps its own when there is one */
	uint64_t xcr0, ia32_xss;
	uint64_t db[4], dr6, dr7, eff_db[4];
	uint32_t guest_debug; /* KVM_GUESTDBG_* */
	uint64_t guest_debug_dr7;
	uint64_t singlestep_rip;
	struct kvm_debugger_vcpu debugger;

	/* events (event.c) */
	struct kvm_queued_exception exception;
	struct kvm_queued_exception exception_vmexit; /* of L2, and L1 wants an exit instead */
	bool exception_from_userspace; /* the client set it: whether L1 wants it is decided by KVM_RUN */
	struct kvm_queued_interrupt interrupt;
	uint32_t nmi_queued; /* (a) raised by anybody */
	uint32_t nmi_pending;
	bool nmi_injected;
	bool smi_pending, smm;
	bool smm_inside_nmi; /* NMIs were blocked when the SMI came: RSM leaves them so */
	uint64_t smbase;
	bool request_irq_window; /* run->request_interrupt_window */
	int pending_external_vector; /* KVM_INTERRUPT with a split irqchip; -1 none */
	bool pv_unhalted;	     /* (a) KVM_HC_KICK_CPU ends the next HLT */
	sigset_t outer_sigset;	     /* the thread's mask outside KVM_RUN, with sigset_active */

	/* life */
	int mp_state; /* KVM_MP_STATE_* (a) */
	bool tpr_access_reporting; /* KVM_TPR_ACCESS_REPORTING */
	bool tpr_access_is_write;  /* of the access being reported */
	uint64_t tpr_access_rip;   /* where the instruction that made it begins */

	/* clock */
	uint64_t virtual_tsc_khz, tsc_offset, tsc_scaling_ratio, tsc_adjust;
	uint64_t pv_time_msr;	/* MSR_KVM_SYSTEM_TIME value, bit 0 enable */
	uint64_t wall_clock_msr;
	bool pvclock_set_guest_stopped;
	uint32_t pv_version;

	/* MSRs with storage only (msr.c) */
	uint64_t ia32_misc_enable, arch_capabilities, microcode_version, spec_ctrl, smbase_msr;
	uint64_t mtrr_fixed[11], mtrr_var[16], mtrr_deftype, pat;
	uint64_t mcg_cap, mcg_status, mcg_ctl, mcg_ext_ctl, mce_banks[KVM_MAX_MCE_BANKS * 4];
	uint64_t hwcr, de_cfg, osvw_length, osvw_status, platform_info, misc_features;
	uint64_t pv_eoi_msr; /* without an in-kernel APIC, which keeps its own */
	uint64_t poll_control;
	struct kvm_steal steal; /* (o) */
	struct kvm_async_pf_arch apf; /* (o) */
	uint64_t feat_ctl, power_ctl, smi_count;
	uint64_t mci_ctl2[KVM_MAX_MCE_BANKS];
	uint32_t msr_filter_seq; /* (o) of the filter the MSR bitmap was made for */
	struct kvm_vcpu_hv hv;	 /* (o) the hyperv room's */
	bool pv_enforce_cpuid;	 /* KVM_CAP_ENFORCE_PV_FEATURE_CPUID */
	bool has_run;		 /* (o) KVM_RUN has entered: CPUID is frozen */

	/* unfinished business of the last exit to the client (mmio.c, pio.c, msr.c) */
	int (*complete_userspace_io)(struct kvm_vcpu *vcpu);
	struct {
		int count; /* repetitions still in run->… */
		int size;
		bool in;
		uint16_t port;
		uint64_t linear_rip;
	} pio;
	struct kvm_emulator *emulator; /* (c) the emulate room's own */
};

/* --- life (vcpu.c, reset.c) --- */
void kvm_x86_init(void);	/* registers with virt, mmu, vmx, irq; idempotent */
void kvm_vcpu_reset(struct kvm_vcpu *vcpu, bool init_event);
void kvm_vcpu_deliver_sipi_vector(struct kvm_vcpu *vcpu, uint8_t vector);
/* A pending INIT or SIPI becomes the state of the vCPU (init_sipi.c). Owner thread, not in the guest. */
void kvm_apic_accept_events(struct kvm_vcpu *vcpu);

/*
 * The emulate room's functions, as emulate/emulate.h describes them; it registers
 * them here before the first VM is made, since this room may not include it.
 */
struct kvm_emulator_ops {
	int (*create)(struct kvm_vcpu *vcpu);
	void (*destroy)(struct kvm_vcpu *vcpu);
	int (*instruction)(struct kvm_vcpu *vcpu, bool has_gpa, gpa_t gpa);
	int (*invalid_guest_state)(struct kvm_vcpu *vcpu);
	int (*handle_ud)(struct kvm_vcpu *vcpu);
	int (*task_switch)(struct kvm_vcpu *vcpu, uint16_t selector, int source, bool has_error_code,
			   uint32_t error_code, int idt_vector);
	uint64_t (*rip)(struct kvm_vcpu *vcpu);
	void (*insn_text)(struct kvm_vcpu *vcpu, char *buf, size_t size);
};
void kvm_register_emulator(const struct kvm_emulator_ops *ops);

/*
 * The vCPU's share of regs.c, cpuid.c, msr.c and clock.c: values after power
 * on. To be called once at vCPU creation, after vmx_create_vcpu(); and to be
 * undone at its end. The VM's share likewise.
 */
void kvm_x86_state_init_vcpu(struct kvm_vcpu *vcpu);
void kvm_x86_state_destroy_vcpu(struct kvm_vcpu *vcpu);
void kvm_x86_state_destroy_vm(struct kvm *kvm);

/* --- KVM_RUN (run.c) --- */
/* KVM API: KVM_RUN. vcpu->mutex held. 0, -EINTR, -EFAULT, -EAGAIN, … */
must_check int kvm_arch_vcpu_ioctl_run(struct kvm_vcpu *vcpu);

/*
 * For the wrapper of the client's signal handlers: this thread is in KVM_RUN
 * with KVM_SET_SIGNAL_MASK in force, and the signal is blocked outside: it must
 * stay pending after the run, and the handler must not see it now.
 * Async-signal-safe.
 */
bool kvm_signal_blocked_outside(int signo);
/* The calling thread's KVM_RUNs block these (bit n - 1: signal n), where the vCPU has no mask of its own. */
void kvm_set_thread_sigset(uint64_t blocked);

/* --- events (event.c) --- */
void kvm_queue_exception(struct kvm_vcpu *vcpu, uint8_t vector);
void kvm_queue_exception_e(struct kvm_vcpu *vcpu, uint8_t vector, uint32_t error_code);
void kvm_queue_exception_p(struct kvm_vcpu *vcpu, uint8_t vector, uint64_t payload);
void kvm_inject_page_fault(struct kvm_vcpu *vcpu, const struct kvm_page_fault_info *fault);
void kvm_inject_gp(struct kvm_vcpu *vcpu, uint32_t error_code);
void kvm_inject_nmi(struct kvm_vcpu *vcpu); /* any thread */
void kvm_inject_smi(struct kvm_vcpu *vcpu); /* any thread; KVM API: KVM_SMI */
int kvm_vcpu_ioctl_interrupt(struct kvm_vcpu *vcpu, const struct kvm_interrupt *irq);
int kvm_vcpu_ioctl_get_events(struct kvm_vcpu *vcpu, struct kvm_vcpu_events *e);
int kvm_vcpu_ioctl_set_events(struct kvm_vcpu *vcpu, const struct kvm_vcpu_events *e);

/* --- registers and their ioctls (regs.c, fpu.c, debug.c) --- */
/* Architectural writes by the guest or emulator: 0, or 1 for #GP(0). */
must_check int kvm_set_cr0(struct kvm_vcpu *vcpu, uint64_t v);
must_check int kvm_set_cr3(struct kvm_vcpu *vcpu, uint64_t v);
must_check int kvm_set_cr4(struct kvm_vcpu *vcpu, uint64_t v);
must_check int kvm_set_cr8(struct kvm_vcpu *vcpu, uint64_t v);
uint64_t kvm_get_cr8(struct kvm_vcpu *vcpu);
must_check int kvm_set_efer(struct kvm_vcpu *vcpu, uint64_t v, bool host_initiated);
must_check int kvm_set_dr(struct kvm_vcpu *vcpu, int nr, uint64_t v);
uint64_t kvm_get_dr(struct kvm_vcpu *vcpu, int nr);
must_check int kvm_set_xcr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t v);
/* DR7 for the hardware: the debugger's while it uses hardware breakpoints, else the guest's. */
void kvm_update_dr7(struct kvm_vcpu *vcpu);
bool kvm_load_pdptrs(struct kvm_vcpu *vcpu, uint64_t cr3); /* false: #GP */
/* As by INVPCID of everything: the guest's own translations, and what shadow paging made of them. */
static inline void kvm_vcpu_flush_tlb_guest(struct kvm_vcpu *vcpu)
{
	vmx_flush_tlb_guest(vcpu);
	kvm_mmu_invalidate_pcid(vcpu, true, 0);
}
int kvm_vcpu_ioctl_get_regs(struct kvm_vcpu *vcpu, struct kvm_regs *r);
int kvm_vcpu_ioctl_set_regs(struct kvm_vcpu *vcpu, const struct kvm_regs *r);
int kvm_vcpu_ioctl_get_sregs(struct kvm_vcpu *vcpu, struct kvm_sregs *s);
int kvm_vcpu_ioctl_set_sregs(struct kvm_vcpu *vcpu, const struct kvm_sregs *s);
int kvm_vcpu_ioctl_get_sregs2(struct kvm_vcpu *vcpu, struct kvm_sregs2 *s);
int kvm_vcpu_ioctl_set_sregs2(struct kvm_vcpu *vcpu, const struct kvm_sregs2 *s);
int kvm_vcpu_ioctl_translate(struct kvm_vcpu *vcpu, struct kvm_translation *t);
int kvm_vcpu_ioctl_get_fpu(struct kvm_vcpu *vcpu, struct kvm_fpu *f);
/* XMM0 .. XMMn-1 as the guest has them, n <= 16; two quadwords each. */
void kvm_read_xmm(struct kvm_vcpu *vcpu, uint64_t (*out)[2], unsigned n);
int kvm_vcpu_ioctl_set_fpu(struct kvm_vcpu *vcpu, const struct kvm_fpu *f);
int kvm_vcpu_ioctl_get_xsave(struct kvm_vcpu *vcpu, struct kvm_xsave *x);
int kvm_vcpu_ioctl_set_xsave(struct kvm_vcpu *vcpu, const struct kvm_xsave *x);
/* KVM API: KVM_GET_NESTED_STATE: the bytes that count. KVM_SET_NESTED_STATE: -EINVAL, -ENOMEM. */
uint32_t kvm_vcpu_ioctl_get_nested_state(struct kvm_vcpu *vcpu, struct vmx_nested_state *out);
must_check int kvm_vcpu_ioctl_set_nested_state(struct kvm_vcpu *vcpu, const struct vmx_nested_state *in);
int kvm_vcpu_ioctl_get_xcrs(struct kvm_vcpu *vcpu, struct kvm_xcrs *x);
int kvm_vcpu_ioctl_set_xcrs(struct kvm_vcpu *vcpu, const struct kvm_xcrs *x);
int kvm_vcpu_ioctl_get_debugregs(struct kvm_vcpu *vcpu, struct kvm_debugregs *d);
int kvm_vcpu_ioctl_set_debugregs(struct kvm_vcpu *vcpu, const struct kvm_debugregs *d);
int kvm_vcpu_ioctl_get_mpstate(struct kvm_vcpu *vcpu, struct kvm_mp_state *s);
int kvm_vcpu_ioctl_set_mpstate(struct kvm_vcpu *vcpu, const struct kvm_mp_state *s);
int kvm_vcpu_ioctl_set_guest_debug(struct kvm_vcpu *vcpu, const struct kvm_guest_debug *d);

/* --- CPUID (cpuid_supported.c, cpuid.c, cpuid_guest.c) --- */
/* KVM API: KVM_GET_SUPPORTED_CPUID / _EMULATED_: fills up to *nent entries; -E2BIG. */
int kvm_dev_ioctl_get_cpuid(struct kvm_cpuid_entry2 *entries, uint32_t *nent, bool emulated);
int kvm_vcpu_ioctl_set_cpuid(struct kvm_vcpu *vcpu, const struct kvm_cpuid_entry *e, uint32_t nent);
int kvm_vcpu_ioctl_set_cpuid2(struct kvm_vcpu *vcpu, const struct kvm_cpuid_entry2 *e, uint32_t nent);
int kvm_vcpu_ioctl_get_cpuid2(struct kvm_vcpu *vcpu, struct kvm_cpuid_entry2 *e, uint32_t *nent);
/* What the guest's CPUID instruction gives (out-of-range and dynamic bits included). */
void kvm_cpuid(struct kvm_vcpu *vcpu, uint32_t *eax, uint32_t *ebx, uint32_t *ecx, uint32_t *edx);
const struct kvm_cpuid_entry2 *kvm_find_cpuid_entry(struct kvm_vcpu *vcpu, uint32_t function, uint32_t index);
int kvm_emulate_cpuid(struct kvm_vcpu *vcpu);
enum cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };
bool guest_cpuid_bit(struct kvm_vcpu *vcpu, uint32_t function, uint32_t index, enum cpuid_reg reg, int bit);
/* RDTSCP or RDPID: an IA32_TSC_AUX to read. */
bool guest_has_tsc_aux(struct kvm_vcpu *vcpu);
/* Control-register bits the guest must leave zero, from its CPUID. */
uint64_t kvm_cr4_guest_reserved_bits(struct kvm_vcpu *vcpu);
uint64_t kvm_efer_reserved_bits(struct kvm_vcpu *vcpu);
/* ... and those this processor has not, whatever CPUID the client made up. */
uint64_t kvm_cr4_host_reserved_bits(void);
uint64_t kvm_efer_host_reserved_bits(void);
/* One register of KVM_GET_SUPPORTED_CPUID. */
uint32_t kvm_supported_cpuid(uint32_t function, uint32_t index, enum cpuid_reg reg);
/* XCR0 bits a guest can have (KVM_X86_XCOMP_GUEST_SUPP). */
uint64_t kvm_supported_xcr0(void);
/*
 * State component n's place in a standard-format XSAVE area, its size, and whether it is aligned to
 * 64 bytes in a compacted one; false: a legacy component, or none that guests have.
 */
bool kvm_xstate_component(unsigned n, uint32_t *offset, uint32_t *size, bool *aligned);
/* Bytes of an XSAVE area holding the components of xcr0. */
uint32_t kvm_xstate_size(uint64_t xcr0, bool compacted);
/* AMD's name or Hygon's in leaf 0. */
bool kvm_cpuid_regs_are_amd(const uint32_t r[4]);
/*
 * May the guest use a paravirtual feature: bit of KVM's leaf of features, which is the one after the leaf
 * of its signature (KVM API: "KVM CPUID bits", KVM_CAP_ENFORCE_PV_FEATURE_CPUID)?
 */
bool guest_pv_has(struct kvm_vcpu *vcpu, int feature);
bool guest_cpuid_is_intel(struct kvm_vcpu *vcpu);
bool guest_cpuid_is_amd(struct kvm_vcpu *vcpu);

/* --- Hyper-V's interface: the hyperv room --- */
#define KVM_HV_VP_INDEX_UNSET (~0u)
/*
 * The hyperv room's functions, as hyperv/hyperv.h describes them; it registers
 * them here before the first VM is made, since this room may not include it.
 */
struct kvm_hyperv_ops {
	void (*init_vm)(struct kvm *kvm);
	void (*destroy_vm)(struct kvm *kvm);
	void (*vcpu_uninit)(struct kvm_vcpu *vcpu);
	void (*set_cpuid)(struct kvm_vcpu *vcpu);
	int (*get_msr)(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host);
	int (*set_msr)(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data, bool host);
	int (*activate_synic)(struct kvm_vcpu *vcpu, bool clear_pages);
	int (*synic_set_irq)(struct kvm *kvm, uint32_t vp_index, uint32_t sint);
	void (*synic_eoi)(struct kvm_vcpu *vcpu, uint8_t vector);
	bool (*has_stimer_pending)(struct kvm_vcpu *vcpu);
	void (*update_tsc_page)(struct kvm_vcpu *vcpu, const struct pvclock_vcpu_time_info *clock);
	bool (*hypercall_enabled)(struct kvm_vcpu *vcpu);
	int (*hypercall)(struct kvm_vcpu *vcpu, bool skip);
	/* KVM_REQ_HV_*: as every request handler, 1 go on, 0 leave */
	int (*serve_crash)(struct kvm_vcpu *vcpu);
	int (*serve_reset)(struct kvm_vcpu *vcpu);
	int (*serve_exit)(struct kvm_vcpu *vcpu);
	int (*serve_stimers)(struct kvm_vcpu *vcpu);
};
extern const struct kvm_hyperv_ops *kvm_hyperv_ops; /* (c) from kvm_register_hyperv() on */
void kvm_register_hyperv(const struct kvm_hyperv_ops *ops);

/* --- MSRs (msr.c: the table, msr_rules.c, msr_guest.c: RDMSR and WRMSR, mtrr.c, clock.c) --- */
/*
 * 0, or not: KVM_MSR_INVAL for a bad value or access, KVM_MSR_UNKNOWN for no
 * such MSR (#GP for the guest, stop for the ioctl).
 */
#define KVM_MSR_INVAL 1
#define KVM_MSR_UNKNOWN 2
#define KVM_MSR_FILTERED 3
int kvm_get_msr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t *data, bool host_initiated);
int kvm_set_msr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t data, bool host_initiated);
int kvm_get_msr_feature(uint32_t index, uint64_t *data); /* KVM_GET_MSRS on /dev/kvm */
int kvm_emulate_rdmsr(struct kvm_vcpu *vcpu);
int kvm_emulate_wrmsr(struct kvm_vcpu *vcpu);
/* The index lists: fills up to *nmsrs; -E2BIG with *nmsrs set. */
int kvm_msr_index_list(uint32_t *indices, uint32_t *nmsrs);
int kvm_msr_feature_index_list(uint32_t *indices, uint32_t *nmsrs);
int kvm_vm_ioctl_set_msr_filter(struct kvm *kvm, const struct kvm_msr_filter *f);
/* Whether the VM's filter lets the guest at the MSR; type KVM_MSR_FILTER_READ or _WRITE. */
bool kvm_msr_allowed(struct kvm_vcpu *vcpu, uint32_t index, uint32_t type);
/* Before an entry: MSR intercepts follow a new filter. Owner thread. */
void kvm_msr_filter_sync(struct kvm_vcpu *vcpu);
void kvm_msr_update_intercepts(struct kvm_vcpu *vcpu);
/* KVM API: KVM_X86_GET_MCE_CAP_SUPPORTED. */
#define KVM_MCE_CAP_SUPPORTED (BIT_ULL(8) | BIT_ULL(10) | BIT_ULL(24)) /* MCG_CTL_P, CMCI_P, SER_P */
int kvm_vcpu_ioctl_x86_setup_mce(struct kvm_vcpu *vcpu, uint64_t mcg_cap);
int kvm_vcpu_ioctl_x86_set_mce(struct kvm_vcpu *vcpu, const struct kvm_x86_mce *mce);
int kvm_mce_get_msr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t *data, bool host_initiated);
int kvm_mce_set_msr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t data, bool host_initiated);
bool kvm_pat_valid(uint64_t pat);
uint64_t kvm_supported_arch_capabilities(void);
uint64_t kvm_default_microcode(void); /* IA32_UCODE_REV by vendor */
int kvm_mtrr_get_msr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t *data);
int kvm_mtrr_set_msr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t data);

/* --- clock (clock.c) --- */
void kvm_clock_init_vm(struct kvm *kvm);
void kvm_guest_time_update(struct kvm_vcpu *vcpu); /* KVM_REQ_CLOCK_UPDATE */
int kvm_clock_set_msr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t data);
int kvm_vm_ioctl_get_clock(struct kvm *kvm, struct kvm_clock_data *c);
int kvm_vm_ioctl_set_clock(struct kvm *kvm, const struct kvm_clock_data *c);
int kvm_set_tsc_khz(struct kvm_vcpu *vcpu, uint32_t khz); /* 0 = host's */
/* The guest TSC at a host TSC value, without and with the vCPU's offset. */
uint64_t kvm_scale_tsc(struct kvm_vcpu *vcpu, uint64_t host_tsc);
bool kvm_has_tsc_control(void); /* the processor can scale the TSC */
/* KVM API: KVM_SET_MSRS of IA32_TSC, which lines vCPUs up; kvm_write_guest_tsc is the guest's WRMSR. */
void kvm_synchronize_tsc(struct kvm_vcpu *vcpu, uint64_t tsc);
/* KVM API: KVM_VCPU_TSC_OFFSET: guest TSC = scaled host TSC + offset. */
void kvm_set_tsc_offset(struct kvm_vcpu *vcpu, uint64_t offset);
/* KVM API: KVM_SET_TSC_KHZ on a VM: of vCPUs made later; 0 the host's. -EINVAL. kvm->lock. */
must_check int kvm_vm_set_tsc_khz(struct kvm *kvm, uint32_t khz);
void kvm_adjust_guest_tsc(struct kvm_vcpu *vcpu, int64_t delta);
uint64_t kvm_clock_ns(struct kvm *kvm); /* what a guest's kvmclock reads now */
uint64_t kvm_read_guest_tsc(struct kvm_vcpu *vcpu);
void kvm_write_guest_tsc(struct kvm_vcpu *vcpu, uint64_t tsc);
int kvm_vcpu_ioctl_kvmclock_ctrl(struct kvm_vcpu *vcpu);

/* --- asynchronous page faults (async_pf.c) --- */
bool kvm_can_do_async_pf(struct kvm_vcpu *vcpu);
bool kvm_arch_async_page_not_present(struct kvm_vcpu *vcpu, const struct kvm_async_pf_info *info);
/* KVM_REQ_APF_READY, or the guest has taken a token: the next one, if there is one and room for it. */
void kvm_check_async_pf_completion(struct kvm_vcpu *vcpu);
void kvm_async_pf_reset(struct kvm_vcpu *vcpu);

/* --- steal time (steal.c) --- */
bool kvm_has_steal_time(void); /* the host counts it */
/* Before an entry: the guest's page, when it is time again. */
void kvm_record_steal_time(struct kvm_vcpu *vcpu);
/* KVM_RUN, on this thread; preempted: it ends between two guest instructions, and not by the guest. */
void kvm_steal_time_run_begins(struct kvm_vcpu *vcpu);
void kvm_steal_time_run_ends(struct kvm_vcpu *vcpu, bool preempted);
/* It has slept in HLT and the like since then. */
void kvm_steal_time_halted(struct kvm_vcpu *vcpu, uint64_t since_tsc);

/* --- I/O (pio.c, mmio.c), hypercall.c --- */
int kvm_fast_pio(struct kvm_vcpu *vcpu, uint16_t port, int size, bool in);
int kvm_emulate_hypercall(struct kvm_vcpu *vcpu);
int kvm_emulate_halt(struct kvm_vcpu *vcpu);

/* --- counters (stats.c): KVM API KVM_GET_STATS_FD; a descriptor or -errno. kvm->lock / vcpu->mutex --- */
int kvm_vm_ioctl_get_stats_fd(struct kvm *kvm);
int kvm_vcpu_ioctl_get_stats_fd(struct kvm_vcpu *vcpu);
/*
 * Calls fn with each counter of the vCPU's processor (VMX_CPU_COUNTERS): "jit_units" as it is, the others as
 * "cpu_instructions". Any thread, no lock; the values are of no common instant.
 */
void kvm_vcpu_processor_counters(struct kvm_vcpu *vcpu, void (*fn)(void *arg, const char *name, uint64_t value),
				 void *arg);

/* --- capabilities (caps.c): what KVM_CHECK_EXTENSION says; kvm NULL on /dev/kvm --- */
int kvm_check_extension(struct kvm *kvm, long ext);
int kvm_vm_ioctl_enable_cap(struct kvm *kvm, const struct kvm_enable_cap *cap);
int kvm_vcpu_ioctl_enable_cap(struct kvm_vcpu *vcpu, const struct kvm_enable_cap *cap);

#endif
