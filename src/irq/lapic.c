/*
 * The local APIC's heart: requests, priorities, acceptance, end of interrupt.
 * (SDM vol. 3, "Handling Interrupts" and following.)
 *
 * Invariants:
 *  1. IRR and TMR bits may be set by any thread; only the owner clears IRR and
 *     touches ISR.
 *  2. irr_pending is true whenever a bit of IRR is set: it is raised after the
 *     bit, and whoever lowers it looks again afterwards.
 *  3. A vector that could be delivered raises KVM_REQ_EVENT and a kick.
 *  While the processor does the APIC's work, lapic_apicv.c says what holds instead.
 */
#include <stdlib.h>
#include <string.h>

#include "irq/internal.h"
#include "lib/error.h"
#include "trace/trace.h"

int lapic_highest(struct kvm_lapic *apic, uint32_t bank)
{
#pragma GCC unroll 8
	for (int word = 7; word >= 0; word--) {
		uint32_t bits = __atomic_load_n(lapic_reg(apic, bank + (uint32_t)word * 0x10),
						__ATOMIC_ACQUIRE);

		if (bits)
			return word * 32 + 31 - __builtin_clz(bits);
	}
	return -1;
}

int lapic_find_highest_irr(struct kvm_lapic *apic)
{
	if (!__atomic_load_n(&apic->irr_pending, __ATOMIC_SEQ_CST) && !lapic_apicv_active(apic))
		return -1;
	return lapic_highest(apic, APIC_IRR);
}

static void clear_irr(struct kvm_lapic *apic, uint8_t vector)
{
	__atomic_store_n(&apic->irr_pending, false, __ATOMIC_SEQ_CST);
	lapic_clear_vector(apic, APIC_IRR, vector);
	if (lapic_highest(apic, APIC_IRR) >= 0)
		__atomic_store_n(&apic->irr_pending, true, __ATOMIC_SEQ_CST);
	lapic_irr_changed(apic);
}

/* SDM "Task and Processor Priorities": the class in service or the TPR. */
static uint32_t compute_ppr(struct kvm_lapic *apic)
{
	uint32_t tpr = lapic_get(apic, APIC_TASKPRI);
	int isr = lapic_highest(apic, APIC_ISR);
	uint32_t isrv = isr < 0 ? 0 : (uint32_t)isr;

	return (tpr & 0xf0) >= (isrv & 0xf0) ? tpr : isrv & 0xf0;
}

static int deliverable(struct kvm_lapic *apic, uint32_t ppr)
{
	int irr = lapic_find_highest_irr(apic);

	return irr >= 0 && ((uint32_t)irr & 0xf0) > (ppr & 0xf0) ? irr : -1;
}

void lapic_update_ppr(struct kvm_lapic *apic)
{
	uint32_t old = lapic_get(apic, APIC_PROCPRI), ppr = compute_ppr(apic);

	lapic_set(apic, APIC_PROCPRI, ppr);
	if (ppr < old && deliverable(apic, ppr) >= 0)
		kvm_make_request(KVM_REQ_EVENT, apic->vcpu);
}

void lapic_set_tpr(struct kvm_lapic *apic, uint32_t tpr)
{
	lapic_set(apic, APIC_TASKPRI, tpr & 0xff);
	lapic_update_ppr(apic);
}

int lapic_has_interrupt(struct kvm_lapic *apic)
{
	uint32_t ppr;

	if ((!READ_ONCE(apic->irr_pending) && !lapic_apicv_active(apic)) || !lapic_hw_enabled(apic))
		return -1;
	ppr = compute_ppr(apic);
	lapic_set(apic, APIC_PROCPRI, ppr);
	return deliverable(apic, ppr);
}

static bool has_vector(const uint64_t bitmap[4], int vector)
{
	return bitmap[vector / 64] & BIT_ULL(vector % 64);
}

bool lapic_synic_hears_eoi(struct kvm_lapic *apic, uint8_t vector)
{
	return unlikely(apic->synic) && has_vector(apic->synic->vectors, vector);
}

int lapic_get_interrupt(struct kvm_lapic *apic)
{
	int vector = lapic_has_interrupt(apic);

	if (vector < 0)
		return -1;
	clear_irr(apic, (uint8_t)vector);
	if (likely(!apic->synic) || !has_vector(apic->synic->auto_eoi, vector))
		lapic_set_vector(apic, APIC_ISR, (unsigned)vector);
	lapic_isr_changed(apic);
	lapic_update_ppr(apic);
	return vector;
}

/* Does a route of the client's IOAPIC, level-triggered, send this vector here? */
struct eoi_query {
	struct kvm_lapic *apic;
	uint8_t vector;
	bool found;
};

static bool route_has_vector(const struct kvm_kernel_irq_routing_entry *e, void *arg)
{
	struct eoi_query *q = arg;
	struct kvm_lapic_irq irq;

	kvm_msi_to_lapic_irq(q->apic->vcpu->kvm, e->msi.address_lo, e->msi.address_hi,
			     e->msi.data, &irq);
	q->found = irq.level_triggered && irq.vector == q->vector;
	return q->found;
}

static void broadcast_eoi(struct kvm_lapic *apic, uint8_t vector)
{
	struct kvm *kvm = apic->vcpu->kvm;
	bool level = lapic_test_vector(apic, APIC_TMR, vector);

	if (kvm->vioapic) {
		kvm_ioapic_update_eoi(apic, vector, level);
		return;
	}
	if (kvm->irqchip_split && level) {
		struct eoi_query q = { apic, vector, false };

		kvm_irq_for_each_route(kvm, KVM_IRQ_ROUTING_MSI, kvm->nr_reserved_ioapic_pins,
				       route_has_vector, &q);
		if (!q.found)
			return;
		apic->pending_ioapic_eoi = vector;
		kvm_make_request(KVM_REQ_IOAPIC_EOI_EXIT, apic->vcpu);
	}
}

void lapic_ended(struct kvm_lapic *apic, uint8_t vector)
{
	if (lapic_synic_hears_eoi(apic, vector))
		lapic_ops->synic_eoi(apic->vcpu, vector);
	broadcast_eoi(apic, vector);
	kvm_make_request(KVM_REQ_EVENT, apic->vcpu);
}

int lapic_eoi(struct kvm_lapic *apic)
{
	int vector = lapic_highest(apic, APIC_ISR);

	TRACE(kvm, kvm_eoi, apic->vcpu->vcpu_id, vector);
	/* An EOI for which nothing is in service happens: some guests do it at boot. */
	if (vector < 0)
		return vector;
	lapic_clear_vector(apic, APIC_ISR, (unsigned)vector);
	lapic_isr_changed(apic);
	lapic_update_ppr(apic);
	lapic_ended(apic, (uint8_t)vector);
	return vector;
}

void lapic_error(struct kvm_lapic *apic, uint32_t esr_bits)
{
	uint32_t old = __atomic_fetch_or(&apic->esr_pending, esr_bits, __ATOMIC_SEQ_CST);

	if ((old & esr_bits) != esr_bits)
		lapic_local_deliver(apic, APIC_LVTERR);
}

static void tell_vcpu(struct kvm_lapic *apic)
{
	kvm_make_request(KVM_REQ_EVENT, apic->vcpu);
	kvm_vcpu_kick(apic->vcpu);
}

static int accept_fixed(struct kvm_lapic *apic, uint32_t delivery_mode, uint8_t vector, bool level,
			bool level_triggered)
{
	if ((level_triggered && !level) || !lapic_enabled(apic))
		return 0;
	if (vector < 16) {
		lapic_error(apic, APIC_ESR_RECV_ILLEGAL);
		return 0;
	}
	if (lapic_test_vector(apic, APIC_TMR, vector) != level_triggered) {
		if (level_triggered)
			lapic_set_vector(apic, APIC_TMR, vector);
		else
			lapic_clear_vector(apic, APIC_TMR, vector);
	}
	lapic_deliver(apic, delivery_mode, level_triggered, vector);
	return 1;
}

static int accept_nmi(struct kvm_lapic *apic)
{
	if (lapic_ops && lapic_ops->inject_nmi)
		lapic_ops->inject_nmi(apic->vcpu);
	else
		kvm_make_request(KVM_REQ_NMI, apic->vcpu);
	kvm_vcpu_kick(apic->vcpu);
	return 1;
}

static int accept_smi(struct kvm_lapic *apic)
{
	if (lapic_ops && lapic_ops->inject_smi)
		lapic_ops->inject_smi(apic->vcpu);
	else
		kvm_make_request(KVM_REQ_SMI, apic->vcpu);
	kvm_vcpu_kick(apic->vcpu);
	return 1;
}

static int accept(struct kvm_lapic *apic, uint32_t delivery_mode, uint8_t vector, bool level, bool level_triggered)
{
	TRACE(kvm, kvm_apic_accept_irq, apic->vcpu->vcpu_id, (uint16_t)delivery_mode,
	      level_triggered, vector);
	switch (delivery_mode) {
	case APIC_DM_LOWEST:
		__atomic_fetch_add(&apic->arb_prio, 1, __ATOMIC_RELAXED);
		__attribute__((fallthrough));
	case APIC_DM_FIXED:
		return accept_fixed(apic, delivery_mode, vector, level, level_triggered);
	case APIC_DM_NMI:
		return accept_nmi(apic);
	case APIC_DM_SMI:
		return accept_smi(apic);
	case APIC_DM_INIT:
		/* The de-assert message of old APICs does nothing. */
		if (level_triggered && !level)
			return 0;
		/* An INIT forgets a SIPI that came before it. */
		__atomic_store_n(&apic->pending_events, LAPIC_INIT, __ATOMIC_SEQ_CST);
		tell_vcpu(apic);
		return 1;
	case APIC_DM_STARTUP:
		__atomic_store_n(&apic->sipi_vector, vector, __ATOMIC_RELEASE);
		__atomic_fetch_or(&apic->pending_events, LAPIC_SIPI, __ATOMIC_SEQ_CST);
		tell_vcpu(apic);
		return 1;
	default:
		/*
		 * ExtINT is not a message: the PIC's INT pin is looked at through
		 * LVT0. Remote read exists on no APIC of this version.
		 */
		return 0;
	}
}

int lapic_accept(struct kvm_lapic *apic, uint32_t delivery_mode, uint8_t vector, bool level,
		 bool level_triggered)
{
	if (lapic_ops && lapic_ops->memory_announced)
		lapic_ops->memory_announced(apic->vcpu->kvm);
	return accept(apic, delivery_mode, vector, level, level_triggered);
}

/*
 * A tick of the local timer, or an IPI, announces no device's writes. A guest that polls its devices may hear of nothing
 * else, so one of many does.
 */
#define ONE_THAT_ANNOUNCES 64
static bool announces(struct kvm_lapic *apic)
{
	return !(__atomic_add_fetch(&apic->silent, 1, __ATOMIC_RELAXED) % ONE_THAT_ANNOUNCES);
}

int lapic_accept_ipi(struct kvm_lapic *apic, const struct kvm_lapic_irq *irq)
{
	if (irq->delivery_mode > APIC_DM_LOWEST || announces(apic))
		return lapic_accept(apic, irq->delivery_mode, irq->vector, irq->level, irq->level_triggered);
	return accept(apic, irq->delivery_mode, irq->vector, irq->level, irq->level_triggered);
}

int lapic_local_deliver(struct kvm_lapic *apic, uint32_t lvt)
{
	/* the guest may have stored to the page, and the store's emulation not have masked it yet */
	uint32_t reg = lapic_get(apic, lvt) & lapic_lvt_mask(apic, lvt);
	int ret;

	if (!lapic_hw_enabled(apic) || (reg & APIC_LVT_MASKED))
		return 0;
	ret = (lvt != APIC_LVTT || announces(apic) ? lapic_accept : accept)(apic, reg & APIC_MODE_MASK, (uint8_t)reg, true,
									    reg & APIC_LVT_LEVEL_TRIGGER);
	if (ret && lvt == APIC_LVTPC)
		lapic_set(apic, lvt, reg | APIC_LVT_MASKED);
	return ret;
}

int kvm_apic_set_irq(struct kvm_vcpu *vcpu, uint8_t vector)
{
	return lapic_accept(vcpu->apic, APIC_DM_FIXED, vector, true, false);
}

void kvm_apic_set_synic(struct kvm_vcpu *vcpu, const struct kvm_apic_synic *synic)
{
	vcpu->apic->synic = synic;
	kvm_make_request(KVM_REQ_SCAN_IOAPIC, vcpu);
}

void kvm_apic_cmci(struct kvm_vcpu *vcpu)
{
	if (vcpu->apic && vcpu->apic->has_cmci)
		lapic_local_deliver(vcpu->apic, APIC_LVTCMCI);
}

bool kvm_lapic_enabled(struct kvm_vcpu *vcpu)
{
	return vcpu->apic && lapic_enabled(vcpu->apic);
}

uint64_t kvm_lapic_get_cr8(struct kvm_vcpu *vcpu)
{
	return lapic_get(vcpu->apic, APIC_TASKPRI) >> 4;
}

void kvm_lapic_set_tpr(struct kvm_vcpu *vcpu, uint64_t cr8)
{
	lapic_set_tpr(vcpu->apic, (uint32_t)(cr8 & 0xf) << 4);
}

uint8_t kvm_lapic_pending_ioapic_eoi(struct kvm_vcpu *vcpu)
{
	return vcpu->apic ? vcpu->apic->pending_ioapic_eoi : 0;
}

void kvm_apic_set_sipi_vector(struct kvm_vcpu *vcpu, uint8_t vector)
{
	if (vcpu->apic)
		__atomic_store_n(&vcpu->apic->sipi_vector, vector, __ATOMIC_RELEASE);
}

void kvm_apic_set_sipi_pending(struct kvm_vcpu *vcpu)
{
	if (vcpu->apic)
		__atomic_fetch_or(&vcpu->apic->pending_events, LAPIC_SIPI, __ATOMIC_SEQ_CST);
}

bool kvm_apic_init_sipi_pending(struct kvm_vcpu *vcpu)
{
	return vcpu->apic && READ_ONCE(vcpu->apic->pending_events) != 0;
}

unsigned kvm_apic_take_init_sipi(struct kvm_vcpu *vcpu, uint8_t *sipi_vector)
{
	struct kvm_lapic *apic = vcpu->apic;
	unsigned events;

	if (!apic || !READ_ONCE(apic->pending_events))
		return 0;
	events = __atomic_exchange_n(&apic->pending_events, 0, __ATOMIC_SEQ_CST);
	*sipi_vector = __atomic_load_n(&apic->sipi_vector, __ATOMIC_ACQUIRE);
	return events;
}

void kvm_apic_drop_sipi(struct kvm_vcpu *vcpu)
{
	if (vcpu->apic)
		__atomic_fetch_and(&vcpu->apic->pending_events, ~LAPIC_SIPI, __ATOMIC_SEQ_CST);
}

bool kvm_lapic_latched_init(struct kvm_vcpu *vcpu)
{
	return vcpu->apic && (READ_ONCE(vcpu->apic->pending_events) & LAPIC_INIT);
}

void kvm_lapic_set_latched_init(struct kvm_vcpu *vcpu, bool latched)
{
	if (!vcpu->apic)
		return;
	if (latched)
		__atomic_fetch_or(&vcpu->apic->pending_events, LAPIC_INIT, __ATOMIC_SEQ_CST);
	else
		__atomic_fetch_and(&vcpu->apic->pending_events, ~LAPIC_INIT, __ATOMIC_SEQ_CST);
}

void kvm_apic_nmi_wd_deliver(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic *apic = vcpu->apic;

	if (apic && (lapic_get(apic, APIC_LVT0) & APIC_MODE_MASK) == APIC_DM_NMI)
		lapic_local_deliver(apic, APIC_LVT0);
}
