/*
 * The local APIC while the processor does its work: posting instead of IRR, what the processor
 * knows of IRR and ISR (RVI, SVI), which EOIs are to exit. (Linux: lapic.c, posted_intr.c.)
 *
 *   sender: PIR bit, ON, then mode ───┐  ┌─── target: mode = IN_GUEST, then ON
 *            IN_GUEST: notification   └──┘      PIR -> IRR, RVI; requests; VM entry
 *            else: wake-up
 *
 * Invariants
 * 1. Sender and target each write their own before they read the other's, all sequentially
 *    consistent: one of the two sees the other, so that no vector stays in PIR.
 * 2. ON is cleared before PIR is read. PIR is emptied into IRR before each entry whatever
 *    apicv_active says, because a sender may have seen its older value.
 * 3. While apicv_active, IRR and ISR may change in the guest: irr_pending says nothing, and each
 *    change made outside is told to the processor.
 *
 * Locks: owner thread, except lapic_deliver().
 */
#include "irq/internal.h"
#include "trace/trace.h"

static void set_irr(struct kvm_lapic *apic, uint8_t vector)
{
	lapic_set_vector(apic, APIC_IRR, vector);
	__atomic_store_n(&apic->irr_pending, true, __ATOMIC_SEQ_CST);
}

static void post(struct kvm_lapic *apic, uint8_t vector)
{
	struct kvm_vcpu *vcpu = apic->vcpu;
	uint64_t bit = BIT_ULL(vector % 64);

	if (__atomic_fetch_or(&apic->pid->pir[vector / 64], bit, __ATOMIC_SEQ_CST) & bit)
		return;
	if (__atomic_fetch_or(&apic->pid->control, PID_ON, __ATOMIC_SEQ_CST) & PID_ON)
		return;
	if (__atomic_load_n(&vcpu->mode, __ATOMIC_SEQ_CST) == IN_GUEST_MODE)
		lapic_ops->notify(vcpu);
	else
		kvm_vcpu_wake_up(vcpu);
}

void lapic_deliver(struct kvm_lapic *apic, uint32_t delivery_mode, bool level_triggered, uint8_t vector)
{
	if (lapic_apicv_active(apic)) {
		post(apic, vector);
		TRACE(kvm, kvm_apicv_accept_irq, apic->vcpu->vcpu_id, (uint16_t)delivery_mode, level_triggered,
		      vector);
		return;
	}
	set_irr(apic, vector);
	kvm_make_request(KVM_REQ_EVENT, apic->vcpu);
	kvm_vcpu_kick(apic->vcpu);
}

bool lapic_sync_pir(struct kvm_lapic *apic)
{
	if (likely(!(__atomic_load_n(&apic->pid->control, __ATOMIC_SEQ_CST) & PID_ON)))
		return false;
	__atomic_fetch_and(&apic->pid->control, ~PID_ON, __ATOMIC_SEQ_CST);
	for (uint32_t n = 0; n < ARRAY_SIZE(apic->pid->pir); n++) {
		uint64_t bits = READ_ONCE(apic->pid->pir[n]);

		if (!bits)
			continue;
		bits = __atomic_exchange_n(&apic->pid->pir[n], 0, __ATOMIC_SEQ_CST);
		for (uint32_t half = 0; half < 2; half++, bits >>= 32)
			if ((uint32_t)bits)
				__atomic_fetch_or(lapic_reg(apic, APIC_IRR + (2 * n + half) * 0x10), (uint32_t)bits,
						  __ATOMIC_SEQ_CST);
	}
	__atomic_store_n(&apic->irr_pending, true, __ATOMIC_SEQ_CST);
	return true;
}

void kvm_apic_sync_before_entry(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic *apic = vcpu->apic;
	bool news;

	if (!apic)
		return;
	news = lapic_sync_pir(apic);
	if (lapic_apicv_active(apic) && lapic_ops->hwapic_irr_update(vcpu, lapic_highest(apic, APIC_IRR)))
		return;
	if (news)
		kvm_make_request(KVM_REQ_EVENT, vcpu);
}

void lapic_irr_changed(struct kvm_lapic *apic)
{
	if (unlikely(lapic_apicv_active(apic)))
		(void)lapic_ops->hwapic_irr_update(apic->vcpu, lapic_highest(apic, APIC_IRR));
}

void lapic_isr_changed(struct kvm_lapic *apic)
{
	if (unlikely(lapic_apicv_active(apic)))
		lapic_ops->hwapic_isr_update(apic->vcpu, lapic_highest(apic, APIC_ISR));
}

void lapic_forget_posted(struct kvm_lapic *apic)
{
	__atomic_store_n(&apic->pid->control, 0, __ATOMIC_SEQ_CST);
	for (uint32_t n = 0; n < ARRAY_SIZE(apic->pid->pir); n++)
		__atomic_store_n(&apic->pid->pir[n], 0, __ATOMIC_SEQ_CST);
}

void lapic_state_replaced(struct kvm_lapic *apic)
{
	__atomic_store_n(&apic->irr_pending, true, __ATOMIC_SEQ_CST);
	lapic_irr_changed(apic);
	lapic_isr_changed(apic);
	kvm_make_scan_ioapic_request(apic->vcpu->kvm);
}

void kvm_apic_set_apicv(struct kvm_vcpu *vcpu, bool active)
{
	struct kvm_lapic *apic = vcpu->apic;

	if (lapic_apicv_active(apic) == active)
		return;
	(void)lapic_sync_pir(apic);
	__atomic_store_n(&apic->apicv_active, active, __ATOMIC_SEQ_CST);
	__atomic_store_n(&apic->irr_pending, true, __ATOMIC_SEQ_CST);
	lapic_irr_changed(apic);
	lapic_isr_changed(apic);
	if (active)
		kvm_make_request(KVM_REQ_SCAN_IOAPIC, vcpu);
	else
		kvm_make_request(KVM_REQ_EVENT, vcpu);
}

bool kvm_apicv_active(struct kvm_vcpu *vcpu)
{
	return vcpu->apic && lapic_apicv_active(vcpu->apic);
}

hpa_t kvm_apic_page(struct kvm_vcpu *vcpu)
{
	return (hpa_t)(uintptr_t)vcpu->apic->regs;
}

hpa_t kvm_apic_posted_descriptor(struct kvm_vcpu *vcpu)
{
	return (hpa_t)(uintptr_t)vcpu->apic->pid;
}

bool kvm_apic_xapic_mode(struct kvm_vcpu *vcpu)
{
	return lapic_hw_enabled(vcpu->apic) && !lapic_x2apic_mode(vcpu->apic);
}

bool kvm_apic_x2apic_mode(struct kvm_vcpu *vcpu)
{
	return lapic_hw_enabled(vcpu->apic) && lapic_x2apic_mode(vcpu->apic);
}

/* --- what the processor has done, or left to us --- */

void kvm_apic_set_eoi_accelerated(struct kvm_vcpu *vcpu, uint8_t vector)
{
	TRACE(kvm, kvm_eoi, vcpu->vcpu_id, vector);
	lapic_ended(vcpu->apic, vector);
}

void kvm_apic_write_nodecode(struct kvm_vcpu *vcpu, uint32_t offset)
{
	struct kvm_lapic *apic = vcpu->apic;

	/* what software may not write there has no effect, and stays as the next write finds it */
	offset &= 0xff0;
	(void)lapic_reg_write(apic, offset, lapic_get(apic, offset));
}

void kvm_apic_eoi(struct kvm_vcpu *vcpu)
{
	(void)lapic_eoi(vcpu->apic);
}

void kvm_apic_update_ppr(struct kvm_vcpu *vcpu)
{
	lapic_update_ppr(vcpu->apic);
}

unsigned kvm_apic_tpr_threshold(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic *apic = vcpu->apic;
	int irr = apic->vapic_addr ? -1 : lapic_find_highest_irr(apic);
	unsigned class = irr < 0 ? 0 : (unsigned)irr >> 4;

	return irr < 0 || ((lapic_get(apic, APIC_TASKPRI) >> 4) & 0xf) < class ? 0 : class;
}

/* --- which EOIs are to exit --- */

bool lapic_has_vector(struct kvm_lapic *apic, uint8_t vector)
{
	return lapic_test_vector(apic, APIC_ISR, vector) || lapic_test_vector(apic, APIC_IRR, vector) ||
	       (__atomic_load_n(&apic->pid->pir[vector / 64], __ATOMIC_SEQ_CST) & BIT_ULL(vector % 64));
}

struct scan {
	struct kvm_lapic *apic;
	uint64_t *vectors;
};

/* A route of the client's IOAPIC. */
static bool scan_route(const struct kvm_kernel_irq_routing_entry *e, void *arg)
{
	struct scan *s = arg;
	struct kvm_lapic_irq irq;

	kvm_msi_to_lapic_irq(s->apic->vcpu->kvm, e->msi.address_lo, e->msi.address_hi, e->msi.data, &irq);
	if (irq.level_triggered &&
	    (lapic_match_dest(s->apic, NULL, 0, irq.dest_id, irq.logical) || lapic_has_vector(s->apic, irq.vector)))
		s->vectors[irq.vector / 64] |= BIT_ULL(irq.vector % 64);
	return false;
}

void kvm_apic_load_eoi_exitmap(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic *apic = vcpu->apic;
	struct kvm *kvm = vcpu->kvm;
	uint64_t vectors[4] = { 0 };
	struct scan s = { apic, vectors };

	if (!apic || !lapic_apicv_active(apic))
		return;
	if (kvm->vioapic)
		kvm_ioapic_scan_entry(apic, vectors);
	else
		kvm_irq_for_each_route(kvm, KVM_IRQ_ROUTING_MSI, kvm->nr_reserved_ioapic_pins, scan_route, &s);
	for (unsigned n = 0; apic->synic && n < ARRAY_SIZE(vectors); n++)
		vectors[n] |= apic->synic->vectors[n];
	lapic_ops->load_eoi_exitmap(vcpu, vectors);
}
