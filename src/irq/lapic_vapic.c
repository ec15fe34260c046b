/*
 * The VAPIC page: a guest whose TPR writes were patched away by the client's
 * option ROM (KVM API: KVM_SET_VAPIC_ADDR, KVM_TPR_ACCESS_REPORTING) keeps its
 * TPR in a word of its own memory.
 *
 * Invariant: the word is read after each exit and written before each entry,
 *   31..24 highest IRR   15..8 priority class of the highest ISR   7..0 TPR
 * so that neither side sees the other's older value.
 * Locks: owner thread only.
 */
#include "irq/internal.h"
#include "lib/error.h"
#include "lib/rcu.h"
#include "virt/memslot.h"

int kvm_lapic_set_vapic_addr(struct kvm_vcpu *vcpu, gpa_t addr)
{
	int as_id = (int)vcpu->as_id;

	if (addr && (!kvm_gpa_is_writable(vcpu->kvm, as_id, addr) ||
		     !kvm_gpa_is_writable(vcpu->kvm, as_id, addr + 3)))
		return err_born(EINVAL, "VAPIC address %#llx is no memory", (unsigned long long)addr);
	vcpu->apic->vapic_addr = addr;
	return 0;
}

void kvm_lapic_sync_from_vapic(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic *apic = vcpu->apic;
	uint32_t word;

	if (unlikely(!apic))
		return;
	lapic_pv_eoi_from_guest(apic);
	if (likely(!apic->vapic_addr))
		return;
	if (kvm_vcpu_read_guest(vcpu, apic->vapic_addr, &word, sizeof(word)) == 0)
		lapic_set_tpr(apic, word & 0xff);
}

void kvm_lapic_sync_to_vapic(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic *apic = vcpu->apic;
	int irr, isr;
	uint32_t word;

	if (unlikely(!apic))
		return;
	lapic_pv_eoi_to_guest(apic);
	if (likely(!apic->vapic_addr))
		return;
	irr = lapic_find_highest_irr(apic);
	isr = lapic_highest(apic, APIC_ISR);
	word = lapic_get(apic, APIC_TASKPRI) & 0xff;
	if (isr >= 0)
		word |= ((uint32_t)isr & 0xf0) << 8;
	if (irr >= 0)
		word |= (uint32_t)irr << 24;
	/* The client may have taken the page away; the next read finds out the same way. */
	if (kvm_vcpu_write_guest(vcpu, apic->vapic_addr, &word, sizeof(word)) < 0)
		apic->vapic_addr = 0;
}
