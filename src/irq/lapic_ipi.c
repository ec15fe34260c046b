/*
 * Who is meant by a message on the interrupt bus: IPIs, MSIs and IOAPIC pins.
 * (SDM vol. 3, "Issuing Interprocessor Interrupts", "Determining IPI
 * Destination", "Logical Destination Mode in x2APIC Mode".)
 *
 * No tables are kept: as long as every xAPIC has its vCPU's id, a physical
 * destination means the vCPU whose index is that id; everything else asks each
 * APIC. That is exact whatever ids the guest chooses, and a few ns a vCPU.
 */
#include "irq/internal.h"
#include "trace/trace.h"

/* A destination of FFh in a device's message means everybody, x2APICs too. */
static uint32_t effective_dest(struct kvm_lapic *target, struct kvm_lapic *source, uint32_t dest)
{
	struct kvm *kvm = target->vcpu->kvm;
	bool quirk_off = lapic_ops && lapic_ops->x2apic_broadcast_quirk_disabled &&
			 lapic_ops->x2apic_broadcast_quirk_disabled(kvm);

	if (!source && !quirk_off && dest == XAPIC_BROADCAST && lapic_x2apic_mode(target))
		return X2APIC_BROADCAST;
	return dest;
}

static bool is_broadcast(struct kvm_lapic *apic, uint32_t dest)
{
	return dest == (lapic_x2apic_mode(apic) ? X2APIC_BROADCAST : XAPIC_BROADCAST);
}

static bool match_physical(struct kvm_lapic *apic, uint32_t dest)
{
	if (is_broadcast(apic, dest))
		return true;
	if (lapic_x2apic_mode(apic))
		return dest == apic->vcpu->vcpu_id;
	/* A vCPU beyond the xAPIC's reach is still to be woken before its switch to x2APIC. */
	if (apic->vcpu->vcpu_id > 0xff)
		return dest == apic->vcpu->vcpu_id;
	return dest == lapic_get(apic, APIC_ID) >> 24;
}

static bool match_logical(struct kvm_lapic *apic, uint32_t dest)
{
	uint32_t id = lapic_get(apic, APIC_LDR);

	if (is_broadcast(apic, dest))
		return true;
	if (lapic_x2apic_mode(apic))
		return id >> 16 == dest >> 16 && (id & dest & 0xffff);
	id >>= 24;
	/* the low bits may be as the guest has stored them */
	switch (lapic_get(apic, APIC_DFR) | ~APIC_DFR_MODEL) {
	case APIC_DFR_FLAT:
		return id & dest & 0xff;
	case APIC_DFR_CLUSTER:
		return id >> 4 == dest >> 4 && (id & dest & 0xf);
	default:
		return false;
	}
}

bool lapic_match_dest(struct kvm_lapic *target, struct kvm_lapic *source, uint32_t shorthand,
		      uint32_t dest, bool logical)
{
	switch (shorthand) {
	case APIC_DEST_SELF:
		return target == source;
	case APIC_DEST_ALLINC:
		return true;
	case APIC_DEST_ALLBUT:
		return target != source;
	default:
		dest = effective_dest(target, source, dest);
		return logical ? match_logical(target, dest) : match_physical(target, dest);
	}
}

/* ipi: a vCPU has sent it. */
static int accept(struct kvm_lapic *apic, const struct kvm_lapic_irq *irq, bool ipi)
{
	if (ipi)
		return lapic_accept_ipi(apic, irq);
	return lapic_accept(apic, irq->delivery_mode, irq->vector, irq->level,
			    irq->level_triggered);
}

/* The one vCPU that a physical destination usually means; NULL: ask everybody. */
static struct kvm_lapic *fast_target(struct kvm *kvm, struct kvm_lapic *source,
				     const struct kvm_lapic_irq *irq)
{
	struct kvm_vcpu *vcpu;

	if (irq->shorthand == APIC_DEST_SELF)
		return source;
	if (irq->shorthand || irq->logical || irq->dest_id == XAPIC_BROADCAST ||
	    READ_ONCE(kvm->xapic_id_moved))
		return NULL;
	vcpu = kvm_get_vcpu(kvm, irq->dest_id);
	if (!vcpu || !vcpu->apic || vcpu->vcpu_id != irq->dest_id ||
	    !lapic_hw_enabled(vcpu->apic))
		return NULL;
	return match_physical(vcpu->apic, irq->dest_id) ? vcpu->apic : NULL;
}

/*
 * A destination that no local APIC has is not an error but nobody; broadcasts
 * and shorthands that reach nobody are, and so is everything where there is no
 * local APIC at all.
 */
static int when_nobody_takes_it(struct kvm *kvm, const struct kvm_lapic_irq *irq)
{
	struct kvm_vcpu *first = kvm_get_vcpu(kvm, 0);

	if (!first || !first->apic || irq->shorthand)
		return -1;
	return irq->dest_id == XAPIC_BROADCAST || irq->dest_id == X2APIC_BROADCAST ? -1 : 0;
}

int kvm_irq_delivery_to_apic(struct kvm *kvm, struct kvm_lapic *source,
			     const struct kvm_lapic_irq *irq)
{
	struct kvm_lapic *apic = fast_target(kvm, source, irq), *lowest = NULL;
	bool arbitrate = irq->delivery_mode == APIC_DM_LOWEST;
	struct kvm_vcpu *vcpu;
	uint32_t i;
	int ret = when_nobody_takes_it(kvm, irq);

	if (apic && lapic_hw_enabled(apic))
		return accept(apic, irq, source);
	/* "Lowest priority" to all by physical broadcast goes to all. */
	if (arbitrate && !irq->logical && irq->dest_id == XAPIC_BROADCAST)
		arbitrate = false;
	kvm_for_each_vcpu(i, vcpu, kvm) {
		apic = vcpu->apic;
		if (!apic || !lapic_hw_enabled(apic) ||
		    !lapic_match_dest(apic, source, irq->shorthand, irq->dest_id, irq->logical))
			continue;
		if (!arbitrate)
			ret = (ret < 0 ? 0 : ret) + accept(apic, irq, source);
		else if (lapic_sw_enabled(apic) &&
			 (!lowest || READ_ONCE(apic->arb_prio) < READ_ONCE(lowest->arb_prio)))
			lowest = apic;
	}
	return lowest ? accept(lowest, irq, source) : ret;
}

/* The vCPUs of one word of the bitmap; how many took it. */
static int deliver_bitmap(struct kvm *kvm, struct kvm_lapic_irq irq, uint64_t bitmap, uint32_t min)
{
	int count = 0;

	for (; bitmap; bitmap &= bitmap - 1) {
		struct kvm_vcpu *target = kvm_get_vcpu_by_id(kvm, min + (uint32_t)__builtin_ctzll(bitmap));

		if (target && target->apic && lapic_hw_enabled(target->apic))
			count += accept(target->apic, &irq, true) > 0;
	}
	return count;
}

int kvm_pv_send_ipi(struct kvm_vcpu *vcpu, uint64_t low, uint64_t high, uint32_t min, uint64_t icr,
		    bool wide)
{
	struct kvm_lapic_irq irq = {
		.vector = (uint8_t)icr,
		.delivery_mode = icr & APIC_MODE_MASK,
		.level = true,
	};
	uint32_t bits = wide ? 64 : 32;

	if (icr & ~(uint64_t)(APIC_MODE_MASK | 0xff))
		return -1;
	if (irq.delivery_mode != APIC_DM_FIXED && irq.delivery_mode != APIC_DM_NMI)
		return -1;
	return deliver_bitmap(vcpu->kvm, irq, low, min) +
	       deliver_bitmap(vcpu->kvm, irq, high, min + bits);
}

void lapic_send_ipi(struct kvm_lapic *apic, uint32_t icr_low, uint32_t icr_high)
{
	struct kvm_lapic_irq irq = {
		.vector = (uint8_t)icr_low,
		.delivery_mode = icr_low & APIC_MODE_MASK,
		.logical = icr_low & APIC_DEST_LOGICAL,
		.level = icr_low & APIC_INT_ASSERT,
		.level_triggered = icr_low & APIC_INT_LEVELTRIG,
		.shorthand = icr_low & APIC_SHORT_MASK,
		.dest_id = lapic_x2apic_mode(apic) ? icr_high : icr_high >> 24,
	};

	TRACE(kvm, kvm_apic_ipi, icr_low, irq.dest_id);
	if (irq.delivery_mode <= APIC_DM_LOWEST) {
		/* SDM: fixed IPIs are edge-triggered whatever the bit says. */
		irq.level_triggered = false;
		if (irq.vector < 16) {
			lapic_error(apic, APIC_ESR_SEND_ILLEGAL);
			return;
		}
	}
	kvm_irq_delivery_to_apic(apic->vcpu->kvm, apic, &irq);
}
