/*
 * PV EOI: a guest ends an interrupt by clearing a bit of its own memory, where
 * the end concerns nobody but its local APIC. No exit is needed for it.
 * (KVM API: "KVM-specific MSRs", MSR_KVM_EOI_EN.)
 *
 *  before an entry                       after it
 *  bit 0 := 1, pending         ->  bit 0 is 1: not ended; bit 0 := 0
 *                                  bit 0 is 0: ended by the guest, lapic_eoi()
 *
 * Invariants
 *  1. The bit is 1 only from just before an entry until just after the exit (or
 *     until the entry is given up): what the client reads of the APIC and of
 *     guest memory is always settled, and can be moved to another host.
 *  2. It is set only while IRR is empty and nobody waits for the EOI. What comes
 *     into IRR later makes the vCPU exit, so the bit always speaks of the
 *     highest vector in service.
 *
 * The word belongs to the normal address space, whatever the vCPU is in.
 * Locks: owner thread only.
 */
#include "irq/internal.h"
#include "trace/trace.h"
#include "virt/memslot.h"

#define PV_EOI_ENABLED BIT_ULL(0) /* of the MSR */
#define PV_EOI_BYTES 4
#define PV_EOI_BIT 1U		  /* of the guest's word */

static gpa_t pv_eoi_gpa(struct kvm_lapic *apic)
{
	return apic->pv_eoi_msr & ~PV_EOI_ENABLED;
}

bool kvm_pv_eoi_valid(struct kvm_vcpu *vcpu, uint64_t data)
{
	gpa_t gpa = data & ~PV_EOI_ENABLED;

	if (gpa % PV_EOI_BYTES)
		return false;
	return !(data & PV_EOI_ENABLED) || kvm_gpa_is_writable(vcpu->kvm, 0, gpa);
}

void kvm_lapic_set_pv_eoi(struct kvm_vcpu *vcpu, uint64_t data)
{
	vcpu->apic->pv_eoi_msr = data;
}

uint64_t kvm_lapic_get_pv_eoi(struct kvm_vcpu *vcpu)
{
	return vcpu->apic->pv_eoi_msr;
}

/* Does the end of this vector concern the IOAPIC, somebody behind it, or the SynIC? */
static bool eoi_is_awaited(struct kvm_lapic *apic, uint8_t vector)
{
	return lapic_test_vector(apic, APIC_TMR, vector) || kvm_ioapic_awaits_edge_eoi(apic, vector) ||
	       lapic_synic_hears_eoi(apic, vector);
}

void lapic_pv_eoi_to_guest(struct kvm_lapic *apic)
{
	static const uint8_t set = PV_EOI_BIT;
	int vector;

	/* a processor that ends vectors by itself would not know of the guest's word */
	if (likely(!(apic->pv_eoi_msr & PV_EOI_ENABLED)) || lapic_apicv_active(apic))
		return;
	vector = lapic_highest(apic, APIC_ISR);
	if (vector < 0 || lapic_find_highest_irr(apic) >= 0 || eoi_is_awaited(apic, (uint8_t)vector))
		return;
	apic->pv_eoi_pending = kvm_write_guest(apic->vcpu->kvm, 0, pv_eoi_gpa(apic), &set, sizeof(set)) == 0;
}

/*
 * Has the guest ended it? A word that cannot be read or cleared any more says yes: an interrupt that
 * is ended twice does less harm than one that is never.
 */
static bool ended(struct kvm_lapic *apic)
{
	static const uint8_t clear;
	struct kvm *kvm = apic->vcpu->kvm;
	uint8_t val;

	if (kvm_read_guest(kvm, 0, pv_eoi_gpa(apic), &val, sizeof(val)) || !(val & PV_EOI_BIT))
		return true;
	return kvm_write_guest(kvm, 0, pv_eoi_gpa(apic), &clear, sizeof(clear)) != 0;
}

void lapic_pv_eoi_from_guest(struct kvm_lapic *apic)
{
	int vector;

	if (likely(!apic->pv_eoi_pending))
		return;
	apic->pv_eoi_pending = false;
	if (!ended(apic))
		return;
	vector = lapic_eoi(apic);
	TRACE(kvm, kvm_pv_eoi, apic->vcpu->vcpu_id, vector);
}

void kvm_lapic_cancel_pv_eoi(struct kvm_vcpu *vcpu)
{
	if (vcpu->apic)
		lapic_pv_eoi_from_guest(vcpu->apic);
}
