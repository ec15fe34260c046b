/*
 * What of a local APIC the chips around it ask: whether the 8259's INT output reaches the
 * processor (LINT0), and what the rooms above have registered for all APICs.
 *
 * Nothing here needs another file of the room: PIC, IOAPIC and PIT look at an APIC without needing the APIC's code.
 *
 * Locks: none.
 */
#include "irq/internal.h"

const struct kvm_lapic_ops *lapic_ops;

bool kvm_apic_accept_pic_intr(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic *apic = vcpu->apic;
	uint32_t lvt0;

	if (!apic)
		return false;
	/* A disabled APIC is not there: the INT pin is wired to the processor. */
	if (!lapic_hw_enabled(apic))
		return true;
	lvt0 = lapic_get(apic, APIC_LVT0);
	return !(lvt0 & APIC_LVT_MASKED) && (lvt0 & APIC_MODE_MASK) == APIC_DM_EXTINT;
}
