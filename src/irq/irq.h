/*
 * The in-process interrupt controllers: local APIC, IOAPIC, 8259 pair, 8254.
 * (Linux: arch/x86/kvm/{lapic,ioapic,i8259,i8254,irq,irq_comm}.c)
 *
 * Locks: pic and ioapic have one each; an APIC is owned by its vCPU's thread,
 * its IRR and ISR bitmaps are atomics that any thread may set. News for a vCPU
 * travels as KVM_REQ_EVENT + kvm_vcpu_kick().
 */
#ifndef USERKVM_IRQ_IRQ_H
#define USERKVM_IRQ_IRQ_H

#include "virt/irq_routing.h"
#include "virt/kvm.h"

/* What the local APIC must ask of the x86 room. */
struct kvm_lapic_ops {
	uint64_t (*read_guest_tsc)(struct kvm_vcpu *vcpu);
	uint64_t (*guest_tsc_khz)(struct kvm_vcpu *vcpu);
	/* guest CPUID: x2APIC offered, APIC offered, TSC-deadline offered */
	bool (*has_x2apic)(struct kvm_vcpu *vcpu);
	void (*apicbase_changed)(struct kvm_vcpu *vcpu); /* CPUID.1:EDX.APIC follows */
	/* The rest may be NULL; what then holds is in brackets. Any thread for the injectors. */
	void (*inject_nmi)(struct kvm_vcpu *vcpu);	  /* [KVM_REQ_NMI alone] */
	void (*inject_smi)(struct kvm_vcpu *vcpu);	  /* [KVM_REQ_SMI alone] */
	bool (*has_tsc_deadline)(struct kvm_vcpu *vcpu); /* [yes] */
	int (*maxphyaddr)(struct kvm_vcpu *vcpu);	  /* [52] */
	bool (*is_bsp)(struct kvm_vcpu *vcpu);		  /* [vcpu_id 0] */
	/* KVM_CAP_X2APIC_API's two flags [off, off] */
	bool (*x2apic_format)(struct kvm *kvm);
	bool (*x2apic_broadcast_quirk_disabled)(struct kvm *kvm);
	/* KVM_CAP_DISABLE_QUIRKS: LAPIC_MMIO_HOLE, LINT0_REENABLED [quirks on] */
	bool (*mmio_hole_quirk_disabled)(struct kvm *kvm);
	bool (*lint0_quirk_disabled)(struct kvm *kvm);
	/* Hyper-V's SynIC: an EOI of one of kvm_apic_set_synic()'s vectors; KVM_IRQ_ROUTING_HV_SINT [refused] */
	void (*synic_eoi)(struct kvm_vcpu *vcpu, uint8_t vector);
	int (*synic_set_irq)(struct kvm *kvm, uint32_t vp_index, uint32_t sint);
	/*
	 * APIC virtualization; needed only where kvm_apic_set_apicv() turns it on. Owner thread, but for
	 * notify. hwapic_irr_update: false where this entry's interrupts are not the processor's.
	 */
	void (*notify)(struct kvm_vcpu *vcpu); /* posted interrupts: any thread */
	bool (*hwapic_irr_update)(struct kvm_vcpu *vcpu, int highest_irr);
	void (*hwapic_isr_update)(struct kvm_vcpu *vcpu, int highest_isr);
	void (*load_eoi_exitmap)(struct kvm_vcpu *vcpu, const uint64_t vectors[4]);
	void (*xapic_id_modified)(struct kvm_vcpu *vcpu); /* [nobody asks] */
	/* An APIC is about to accept an interrupt: a device may have written memory and announce it. Any thread. */
	void (*memory_announced)(struct kvm *kvm); /* [nobody asks] */
};
void kvm_irq_register(const struct kvm_lapic_ops *ops); /* once; also registers routing */

/* KVM API: KVM_CREATE_IRQCHIP: PIC, IOAPIC, default routing. -EEXIST, -EINVAL (vCPUs exist), -ENOMEM. kvm->lock held. */
must_check int kvm_irqchip_create(struct kvm *kvm);
/* VM destruction: PIT, IOAPIC, PIC; harmless without them. Takes slots_lock. */
void kvm_irqchip_destroy(struct kvm *kvm);
/*
 * KVM_CAP_SPLIT_IRQCHIP: local APICs only, the client has IOAPIC and PIC. The first
 * nr_pins GSIs are its IOAPIC's: their level-triggered MSIs report EOIs through
 * KVM_REQ_IOAPIC_EOI_EXIT. -EEXIST, -EINVAL (vCPUs, nr_pins), -ENOMEM. kvm->lock held.
 */
must_check int kvm_irqchip_create_split(struct kvm *kvm, uint32_t nr_pins);
static inline bool irqchip_in_kernel(struct kvm *kvm)
{
	return kvm->vpic != NULL || kvm->irqchip_split;
}
static inline bool pic_in_kernel(struct kvm *kvm) { return kvm->vpic != NULL; }
/* KVM API: KVM_{GET,SET}_IRQCHIP. -ENXIO (split or none), -EINVAL (chip_id). Any thread. */
must_check int kvm_vm_ioctl_get_irqchip(struct kvm *kvm, struct kvm_irqchip *chip);
must_check int kvm_vm_ioctl_set_irqchip(struct kvm *kvm, const struct kvm_irqchip *chip);

/*
 * PIT. KVM API: KVM_CREATE_PIT(2), KVM_{GET,SET}_PIT(2), KVM_REINJECT_CONTROL.
 * Creation: -EEXIST, -ENOENT (no in-kernel PIC), -ENOMEM; kvm->lock held, takes
 * slots_lock. The others: -ENXIO without a PIT. kvm_free_pit() waits for its timer.
 */
must_check int kvm_create_pit(struct kvm *kvm, uint32_t flags);
void kvm_free_pit(struct kvm *kvm);
int kvm_vm_ioctl_get_pit2(struct kvm *kvm, struct kvm_pit_state2 *ps);
int kvm_vm_ioctl_set_pit2(struct kvm *kvm, const struct kvm_pit_state2 *ps);
int kvm_vm_ioctl_reinject(struct kvm *kvm, const struct kvm_reinject_control *c);

/*
 * Local APIC life. kvm_create_lapic only when irqchip_in_kernel(), and with all that
 * kvm_lapic_ops asks for in place; it resets the APIC. -ENOMEM, -EAGAIN. Reset by
 * INIT keeps base, mode and id. Owner thread, or before the vCPU is published.
 */
must_check int kvm_create_lapic(struct kvm_vcpu *vcpu);
void kvm_free_lapic(struct kvm_vcpu *vcpu);
void kvm_lapic_reset(struct kvm_vcpu *vcpu, bool init_event);

/* What the APIC knows of the vCPU's SynIC: bitmaps of vectors. (o) */
struct kvm_apic_synic {
	uint64_t vectors[4];  /* the SynIC hears of their EOI */
	uint64_t auto_eoi[4]; /* these are never in service */
};
/* From now on; the bitmaps live as long as the APIC. Owner thread. */
void kvm_apic_set_synic(struct kvm_vcpu *vcpu, const struct kvm_apic_synic *synic);
/* A fixed, edge-triggered interrupt: 1 accepted, 0 not (APIC disabled). vCPUs with an APIC; any thread. */
int kvm_apic_set_irq(struct kvm_vcpu *vcpu, uint8_t vector);

/* Machine checks have an interrupt for corrected errors, or not (MCG_CAP.MCG_CMCI_P). Owner thread. */
void kvm_apic_set_cmci(struct kvm_vcpu *vcpu, bool has_cmci);
/* A machine-check bank raises that interrupt: LVTCMCI says which. Nothing without an APIC. */
void kvm_apic_cmci(struct kvm_vcpu *vcpu);

/* What the run loop asks (irq.c of Linux). Owner thread. */
bool kvm_cpu_has_interrupt(struct kvm_vcpu *vcpu);	/* LAPIC, or PIC through LINT0/ExtINT */
bool kvm_cpu_has_injectable_intr(struct kvm_vcpu *vcpu);
int kvm_cpu_get_interrupt(struct kvm_vcpu *vcpu);	/* vector taken in service, or -1 */
bool kvm_apic_accept_pic_intr(struct kvm_vcpu *vcpu);
/* Expired timers go straight into IRR: never pending, nothing to inject. */
bool kvm_cpu_has_pending_timer(struct kvm_vcpu *vcpu);
void kvm_inject_pending_timer_irqs(struct kvm_vcpu *vcpu);
bool kvm_apic_init_sipi_pending(struct kvm_vcpu *vcpu);
/* A SIPI as the client sets it: KVM API, KVM_SET_VCPU_EVENTS and KVM_SET_MP_STATE. */
void kvm_apic_set_sipi_vector(struct kvm_vcpu *vcpu, uint8_t vector);
void kvm_apic_set_sipi_pending(struct kvm_vcpu *vcpu);
/* Takes pending INIT / SIPI: bits 0 INIT, 1 SIPI; vector in *sipi_vector. */
unsigned kvm_apic_take_init_sipi(struct kvm_vcpu *vcpu, uint8_t *sipi_vector);
void kvm_apic_drop_sipi(struct kvm_vcpu *vcpu);
/* An INIT that waits (KVM API: kvm_vcpu_events.smi.latched_init). False without an APIC. */
bool kvm_lapic_latched_init(struct kvm_vcpu *vcpu);
void kvm_lapic_set_latched_init(struct kvm_vcpu *vcpu, bool latched);

/* TPR, base, EOI, registers. */
uint64_t kvm_lapic_get_cr8(struct kvm_vcpu *vcpu);
void kvm_lapic_set_tpr(struct kvm_vcpu *vcpu, uint64_t cr8);
/* Split irqchip: the vector to report when KVM_REQ_IOAPIC_EOI_EXIT is served (KVM_EXIT_IOAPIC_EOI). */
uint8_t kvm_lapic_pending_ioapic_eoi(struct kvm_vcpu *vcpu);
bool kvm_cpu_has_extint(struct kvm_vcpu *vcpu); /* our PIC through LINT0; the client's is x86's */
uint64_t kvm_get_apic_base(struct kvm_vcpu *vcpu);
must_check int kvm_set_apic_base(struct kvm_vcpu *vcpu, uint64_t value, bool host_initiated); /* 1: #GP */
/* What IA32_APIC_BASE may hold, with an APIC of ours or without. */
bool kvm_apic_base_valid(struct kvm_vcpu *vcpu, uint64_t value);
/*
 * xAPIC registers at the APIC base: 0 taken, -EOPNOTSUPP not the APIC's page. The
 * page of a disabled or x2APIC-mode APIC reads as ones (KVM_X86_QUIRK_LAPIC_MMIO_HOLE),
 * or is not ours without that quirk.
 */
must_check int kvm_lapic_mmio_read(struct kvm_vcpu *vcpu, gpa_t addr, int len, void *val);
must_check int kvm_lapic_mmio_write(struct kvm_vcpu *vcpu, gpa_t addr, int len, const void *val);
/* x2APIC MSRs 800h-8ffh: 0, or 1 for #GP. */
must_check int kvm_x2apic_msr_read(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data);
must_check int kvm_x2apic_msr_write(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data);
/* Hyper-V's MSRs for the registers EOI, ICR and TPR (APIC_*), whatever the APIC's mode: 0, or 1 for #GP. */
must_check int kvm_hv_vapic_msr_read(struct kvm_vcpu *vcpu, uint32_t reg, uint64_t *data);
must_check int kvm_hv_vapic_msr_write(struct kvm_vcpu *vcpu, uint32_t reg, uint64_t data);
uint64_t kvm_get_lapic_tscdeadline_msr(struct kvm_vcpu *vcpu);
void kvm_set_lapic_tscdeadline_msr(struct kvm_vcpu *vcpu, uint64_t data);
/*
 * KVM API: KVM_{GET,SET}_LAPIC. In x2APIC mode the id is 32 bits wide with
 * KVM_X2APIC_API_USE_32BIT_IDS, else in the xAPIC's byte. -EINVAL: no APIC, another id.
 */
must_check int kvm_apic_get_state(struct kvm_vcpu *vcpu, struct kvm_lapic_state *s);
must_check int kvm_apic_set_state(struct kvm_vcpu *vcpu, const struct kvm_lapic_state *s);
/* Enabled in IA32_APIC_BASE and by software. */
bool kvm_lapic_enabled(struct kvm_vcpu *vcpu);
/* LINT1 as NMI: KVM_NMI goes to the vCPU itself; this is the APIC's say. */
void kvm_apic_nmi_wd_deliver(struct kvm_vcpu *vcpu);

/*
 * KVM API: KVM_SET_VAPIC_ADDR: the TPR shared with a patched guest (lapic_vapic.c). addr 0
 * ends it. -EINVAL: no in-process APIC, or no memory there. The syncs belong right after
 * each exit and right before each entry.
 */
must_check int kvm_lapic_set_vapic_addr(struct kvm_vcpu *vcpu, gpa_t addr);
void kvm_lapic_sync_from_vapic(struct kvm_vcpu *vcpu);
void kvm_lapic_sync_to_vapic(struct kvm_vcpu *vcpu);

/*
 * PV EOI (lapic_pv_eoi.c): MSR_KVM_PV_EOI_EN of a vCPU with an in-process APIC; a reset clears it.
 * The syncs above serve it. cancel: the entry that sync_to_vapic was for does not take place.
 * valid: what the MSR may hold (else #GP), with an APIC of ours or without.
 */
bool kvm_pv_eoi_valid(struct kvm_vcpu *vcpu, uint64_t data);
void kvm_lapic_set_pv_eoi(struct kvm_vcpu *vcpu, uint64_t data);
uint64_t kvm_lapic_get_pv_eoi(struct kvm_vcpu *vcpu);
void kvm_lapic_cancel_pv_eoi(struct kvm_vcpu *vcpu);

/*
 * KVM_HC_SEND_IPI: an IPI to the APIC ids min + n of the set bits, of two words of
 * 64 (wide) or 32 bits. How many vCPUs took it; -1 for an ICR it does not take.
 */
int kvm_pv_send_ipi(struct kvm_vcpu *vcpu, uint64_t low, uint64_t high, uint32_t min, uint64_t icr,
		    bool wide);

/*
 * APIC virtualization (lapic_apicv.c), owner thread. In force or not: the processor delivers interrupts by
 * itself, senders post. Before the run loop's last look at requests: sync_before_entry.
 */
void kvm_apic_set_apicv(struct kvm_vcpu *vcpu, bool active);
bool kvm_apicv_active(struct kvm_vcpu *vcpu); /* false without an APIC of ours; any thread */
void kvm_apic_sync_before_entry(struct kvm_vcpu *vcpu);
/* For the VMCS: the register page and the posted-interrupt descriptor. */
hpa_t kvm_apic_page(struct kvm_vcpu *vcpu);
hpa_t kvm_apic_posted_descriptor(struct kvm_vcpu *vcpu);
bool kvm_apic_xapic_mode(struct kvm_vcpu *vcpu);
bool kvm_apic_x2apic_mode(struct kvm_vcpu *vcpu);
/* The processor has ended a vector (exit 45), or stored to a register and no more (exit 56). */
void kvm_apic_set_eoi_accelerated(struct kvm_vcpu *vcpu, uint8_t vector);
void kvm_apic_write_nodecode(struct kvm_vcpu *vcpu, uint32_t offset);
void kvm_apic_eoi(struct kvm_vcpu *vcpu);
void kvm_apic_update_ppr(struct kvm_vcpu *vcpu); /* TPR fell below the threshold (exit 43) */
unsigned kvm_apic_tpr_threshold(struct kvm_vcpu *vcpu); /* for the next entry; not while active */
/* KVM_REQ_SCAN_IOAPIC: make the EOI-exit bitmap again. */
void kvm_apic_load_eoi_exitmap(struct kvm_vcpu *vcpu);
/* The guest's CPUID was set: the version register follows. */
void kvm_apic_after_set_cpuid(struct kvm_vcpu *vcpu);

/* MSI: KVM API: KVM_SIGNAL_MSI. > 0 delivered, 0 blocked by the guest, < 0 error. */
int kvm_send_userspace_msi(struct kvm *kvm, const struct kvm_msi *msi);
/* KVM API: KVM_IRQ_LINE(_STATUS). irq->status: as struct kvm_kernel_irq_routing_entry's set.
 * -ENXIO without irqchip. */
int kvm_vm_ioctl_irq_line(struct kvm *kvm, struct kvm_irq_level *irq);

#endif
