/*
 * The chips from the inside, and how they reach each other.
 *
 * Lock order inside the room: pit->lock > pic->lock, ioapic->lock (never both) >
 * lapic->timer_lock > the host's timer lock. IRR, TMR and pending events of a
 * local APIC are atomics; everything else of it belongs to its vCPU's thread.
 */
#ifndef USERKVM_IRQ_INTERNAL_H
#define USERKVM_IRQ_INTERNAL_H

#include "host/timer.h"
#include "irq/apicdef.h"
#include "irq/irq.h"
#include "virt/iodev.h"

#define PIC_NUM_PINS 16

extern const struct kvm_lapic_ops *lapic_ops;

/* --- a message on the interrupt bus --- */
struct kvm_lapic_irq {
	uint32_t dest_id;
	uint8_t vector;
	uint16_t delivery_mode; /* APIC_DM_* */
	bool logical;
	bool level;
	bool level_triggered;
	uint32_t shorthand; /* APIC_DEST_* */
};

/* --- local APIC --- */
struct lapic_timer {
	struct host_timer *host;
	/* timer_lock: */
	bool armed;
	uint64_t deadline_ns; /* when it fires, CLOCK_MONOTONIC */
	uint64_t period_ns;   /* the initial count in ns */
	uint64_t tscdeadline; /* IA32_TSC_DEADLINE */
	uint32_t mode;	      /* APIC_LVT_TIMER_* */
	uint32_t divide;
};

/* SDM "Posted-Interrupt Descriptor". */
struct pi_desc {
	uint64_t pir[4];
	uint64_t control; /* PID_ON */
	uint64_t reserved[3];
} __attribute__((aligned(64)));
#define PID_ON BIT_ULL(0)

struct kvm_lapic {
	struct kvm_vcpu *vcpu; /* (c) */
	uint64_t base;	       /* (a) IA32_APIC_BASE; written by the owner */
	uint8_t *regs;	       /* 4 KiB, the register page in KVM's layout */
	bool has_cmci;	       /* (a) there is an LVTCMCI; written by the owner */
	bool irr_pending;      /* (a) false: no bit of IRR is set; means nothing while apicv_active */
	bool apicv_active;     /* (a) the processor delivers, posts and ends; written by the owner */
	struct pi_desc *pid;   /* (c) */
	uint32_t pending_events; /* (a) LAPIC_INIT, LAPIC_SIPI */
	uint8_t sipi_vector;	 /* (a) before LAPIC_SIPI */
	uint32_t arb_prio;	 /* (a) for lowest-priority arbitration */
	uint32_t silent;	 /* (a) timer's ticks and IPIs that have come */
	uint32_t esr_pending;	 /* (a) errors since the last write of ESR */
	uint8_t pending_ioapic_eoi;
	const struct kvm_apic_synic *synic; /* NULL: none; owner */
	gpa_t vapic_addr; /* KVM_SET_VAPIC_ADDR, 0 none; owner */
	uint64_t pv_eoi_msr; /* MSR_KVM_PV_EOI_EN; owner */
	bool pv_eoi_pending; /* the guest may end the vector in service by its word; owner */
	pthread_mutex_t timer_lock;
	struct lapic_timer timer;
};

#define LAPIC_INIT 1U
#define LAPIC_SIPI 2U

static inline uint32_t *lapic_reg(struct kvm_lapic *apic, uint32_t offset)
{
	return (uint32_t *)(void *)(apic->regs + offset);
}

static inline uint32_t lapic_get(struct kvm_lapic *apic, uint32_t offset)
{
	return READ_ONCE(*lapic_reg(apic, offset));
}

static inline void lapic_set(struct kvm_lapic *apic, uint32_t offset, uint32_t v)
{
	WRITE_ONCE(*lapic_reg(apic, offset), v);
}

/* The id has been written: IPIs must look at every APIC from now on, if it is not the vCPU's own. */
static inline void lapic_id_written(struct kvm_lapic *apic, bool x2apic)
{
	if (!x2apic && lapic_get(apic, APIC_ID) >> 24 != (apic->vcpu->vcpu_id & 0xff))
		WRITE_ONCE(apic->vcpu->kvm->xapic_id_moved, true);
}

/* A register of 64 bits: the x2APIC's ICR. */
static inline uint64_t lapic_get64(struct kvm_lapic *apic, uint32_t offset)
{
	return READ_ONCE(*(uint64_t *)(void *)(apic->regs + offset));
}

static inline void lapic_set64(struct kvm_lapic *apic, uint32_t offset, uint64_t v)
{
	WRITE_ONCE(*(uint64_t *)(void *)(apic->regs + offset), v);
}

static inline bool lapic_apicv_active(struct kvm_lapic *apic)
{
	return __atomic_load_n(&apic->apicv_active, __ATOMIC_SEQ_CST);
}

static inline uint64_t lapic_base(struct kvm_lapic *apic)
{
	return READ_ONCE(apic->base);
}

static inline bool lapic_hw_enabled(struct kvm_lapic *apic)
{
	return lapic_base(apic) & APICBASE_ENABLE;
}

static inline bool lapic_sw_enabled(struct kvm_lapic *apic)
{
	return lapic_get(apic, APIC_SPIV) & APIC_SPIV_APIC_ENABLED;
}

static inline bool lapic_enabled(struct kvm_lapic *apic)
{
	return lapic_hw_enabled(apic) && lapic_sw_enabled(apic);
}

static inline bool lapic_x2apic_mode(struct kvm_lapic *apic)
{
	return lapic_base(apic) & APICBASE_X2APIC_ENABLE;
}

/* A bit of IRR, ISR or TMR: 8 words of 32, 16 bytes apart. */
static inline uint32_t *lapic_bit_word(struct kvm_lapic *apic, uint32_t bank, unsigned vector)
{
	return lapic_reg(apic, bank + (vector / 32) * 0x10);
}

static inline bool lapic_test_vector(struct kvm_lapic *apic, uint32_t bank, unsigned vector)
{
	return READ_ONCE(*lapic_bit_word(apic, bank, vector)) & (1U << (vector % 32));
}

static inline void lapic_set_vector(struct kvm_lapic *apic, uint32_t bank, unsigned vector)
{
	__atomic_fetch_or(lapic_bit_word(apic, bank, vector), 1U << (vector % 32),
			  __ATOMIC_SEQ_CST);
}

static inline void lapic_clear_vector(struct kvm_lapic *apic, uint32_t bank, unsigned vector)
{
	__atomic_fetch_and(lapic_bit_word(apic, bank, vector), ~(1U << (vector % 32)),
			   __ATOMIC_SEQ_CST);
}

/* lapic.c */
int lapic_highest(struct kvm_lapic *apic, uint32_t bank);
int lapic_find_highest_irr(struct kvm_lapic *apic);
int lapic_has_interrupt(struct kvm_lapic *apic); /* vector above PPR, or -1 */
int lapic_get_interrupt(struct kvm_lapic *apic);
void lapic_update_ppr(struct kvm_lapic *apic);
void lapic_set_tpr(struct kvm_lapic *apic, uint32_t tpr);
/* Does the SynIC want to hear of this vector's end? */
bool lapic_synic_hears_eoi(struct kvm_lapic *apic, uint8_t vector);
int lapic_eoi(struct kvm_lapic *apic); /* the vector ended, -1: none was in service */
/* What is to be done of a vector that is in service no more. */
void lapic_ended(struct kvm_lapic *apic, uint8_t vector);

/* lapic_apicv.c */
/* To IRR, or posted. Any thread. */
void lapic_deliver(struct kvm_lapic *apic, uint32_t delivery_mode, bool level_triggered, uint8_t vector);
/* PIR goes to IRR; was there news? */
bool lapic_sync_pir(struct kvm_lapic *apic);
/* IRR, ISR were changed outside the guest. */
void lapic_irr_changed(struct kvm_lapic *apic);
void lapic_isr_changed(struct kvm_lapic *apic);
/* All of it was: reset, KVM_SET_LAPIC. */
void lapic_state_replaced(struct kvm_lapic *apic);
void lapic_forget_posted(struct kvm_lapic *apic);
/* In ISR, IRR or PIR? */
bool lapic_has_vector(struct kvm_lapic *apic, uint8_t vector);
/* 1 accepted, 0 not. Any thread. What devices have written to memory is announced by it. */
int lapic_accept(struct kvm_lapic *apic, uint32_t delivery_mode, uint8_t vector, bool level,
		 bool level_triggered);
/* The same of what a vCPU sends: a fixed IPI says nothing of devices. */
int lapic_accept_ipi(struct kvm_lapic *apic, const struct kvm_lapic_irq *irq);
/* Every LVT entry that there is gets these bits; `keep`: besides those it has. */
void lapic_set_lvts(struct kvm_lapic *apic, uint32_t bits, bool keep);
/* What an LVT entry does when its source fires. Any thread. */
int lapic_local_deliver(struct kvm_lapic *apic, uint32_t lvt);
void lapic_error(struct kvm_lapic *apic, uint32_t esr_bits);

/* lapic_ipi.c */
bool lapic_match_dest(struct kvm_lapic *target, struct kvm_lapic *source, uint32_t shorthand,
		      uint32_t dest, bool logical);
/* < 0 nobody was addressed, else how many accepted. Any thread. */
int kvm_irq_delivery_to_apic(struct kvm *kvm, struct kvm_lapic *source,
			     const struct kvm_lapic_irq *irq);
void lapic_send_ipi(struct kvm_lapic *apic, uint32_t icr_low, uint32_t icr_high);

/* lapic_pv_eoi.c: right before an entry; right after the exit, or when the entry is given up. */
void lapic_pv_eoi_to_guest(struct kvm_lapic *apic);
void lapic_pv_eoi_from_guest(struct kvm_lapic *apic);

/* lapic_timer.c */
must_check int lapic_timer_init(struct kvm_lapic *apic); /* -EAGAIN: no thread for timers, -ENOMEM */
void lapic_timer_free(struct kvm_lapic *apic);
void lapic_timer_stop(struct kvm_lapic *apic);
void lapic_timer_set_mode(struct kvm_lapic *apic);    /* after LVTT changed */
void lapic_timer_set_initial(struct kvm_lapic *apic, uint32_t count);
void lapic_timer_set_divide(struct kvm_lapic *apic); /* after TDCR changed */
uint32_t lapic_timer_current(struct kvm_lapic *apic);
void lapic_timer_restore(struct kvm_lapic *apic); /* from TMICT, TMCCT, LVTT, TDCR in regs */

/* lapic_regs.c: 0, or 1 for "no such register" (or not that way, or reserved bits in x2APIC mode). */
int lapic_reg_read(struct kvm_lapic *apic, uint32_t offset, uint32_t *val);
int lapic_reg_write(struct kvm_lapic *apic, uint32_t offset, uint32_t val);
/* The bits that an LVT entry has. */
uint32_t lapic_lvt_mask(struct kvm_lapic *apic, uint32_t lvt);
/* APIC_LVR as the guest reads it, into the page. */
void lapic_set_version(struct kvm_lapic *apic);
/* The xAPIC's ID may be another than the vCPU's: listeners hear of it. */
void lapic_check_id(struct kvm_lapic *apic);

/* --- lines with several drivers --- */
static inline bool irq_line_state(uint32_t *drivers, int source_id, int level)
{
	if (level)
		*drivers |= 1U << source_id;
	else
		*drivers &= ~(1U << source_id);
	return *drivers != 0;
}

/* --- IOAPIC --- */
struct kvm_ioapic {
	struct kvm_io_device dev;
	struct kvm *kvm; /* (c) */
	pthread_mutex_t lock;
	struct kvm_ioapic_state s;
	uint32_t irr_delivered; /* edges in s.irr that the APICs have already */
	uint32_t drivers[KVM_IOAPIC_NUM_PINS];
	uint64_t eoi_vectors[4]; /* (a) vectors whose EOI concerns us */
};
must_check int kvm_ioapic_init(struct kvm *kvm); /* -ENOMEM, or the bus's refusal */
void kvm_ioapic_destroy(struct kvm *kvm);
int kvm_ioapic_set_irq(struct kvm_ioapic *ioapic, int pin, int source_id, int level);
/* A vector's end of interrupt at `apic`. */
void kvm_ioapic_update_eoi(struct kvm_lapic *apic, uint8_t vector, bool level_triggered);
/* Does anybody wait for the EOI of an edge-triggered vector at `apic`? */
bool kvm_ioapic_awaits_edge_eoi(struct kvm_lapic *apic, uint8_t vector);
/* The vectors whose EOI at `apic` concerns the IOAPIC or somebody behind it are added. */
void kvm_ioapic_scan_entry(struct kvm_lapic *apic, uint64_t vectors[4]);
void kvm_get_ioapic(struct kvm *kvm, struct kvm_ioapic_state *s);
void kvm_set_ioapic(struct kvm *kvm, const struct kvm_ioapic_state *s);

/* --- 8259 pair --- */
struct kvm_pic {
	struct kvm_io_device dev_master, dev_slave, dev_elcr;
	struct kvm *kvm; /* (c) */
	pthread_mutex_t lock;
	struct kvm_pic_state chips[2]; /* 0 master, 1 slave */
	uint32_t drivers[PIC_NUM_PINS];
	bool output; /* (a) INT pin of the master */
	bool wake;   /* [lock] INT rose: kick when the lock is dropped */
};
must_check int kvm_pic_init(struct kvm *kvm); /* -ENOMEM, or the bus's refusal */
void kvm_pic_destroy(struct kvm *kvm);
int kvm_pic_set_irq(struct kvm_pic *pic, int pin, int source_id, int level);
int kvm_pic_read_irq(struct kvm *kvm); /* INTA: the vector */
void kvm_get_pic(struct kvm *kvm, unsigned chip, struct kvm_pic_state *s);
void kvm_set_pic(struct kvm *kvm, unsigned chip, const struct kvm_pic_state *s);

/* --- mask notifiers: the PIT wants to know when its GSI is unmasked --- */
void kvm_pit_mask_changed(struct kvm *kvm, uint32_t irqchip, uint32_t pin, bool masked);

/* irq_comm.c */
int kvm_set_routing_entry(struct kvm *kvm, struct kvm_kernel_irq_routing_entry *e,
			  const struct kvm_irq_routing_entry *ue);
must_check int kvm_setup_default_irq_routing(struct kvm *kvm); /* -ENOMEM */

/* msi.c */
void kvm_msi_to_lapic_irq(struct kvm *kvm, uint32_t address_lo, uint32_t address_hi,
			  uint32_t data, struct kvm_lapic_irq *irq);
/* KVM_X2APIC_API_USE_32BIT_IDS: the high address carries destination bits 31:8. */
bool kvm_msi_has_wide_dest(struct kvm *kvm);

#endif
