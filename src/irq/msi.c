/*
 * A message-signalled interrupt's address and data, read as the APICs do. (SDM vol. 3,
 * "Message Signalled Interrupts"; KVM API: KVM_CAP_X2APIC_API.)
 *
 * Locks: none.
 */
#include "irq/internal.h"

/* MSI address and data fields. */
#define MSI_DEST_ID GENMASK_ULL(19, 12)
#define MSI_LOGICAL (1U << 2)
#define MSI_REDIRECTION_HINT (1U << 3)

bool kvm_msi_has_wide_dest(struct kvm *kvm)
{
	return lapic_ops && lapic_ops->x2apic_format && lapic_ops->x2apic_format(kvm);
}

void kvm_msi_to_lapic_irq(struct kvm *kvm, uint32_t address_lo, uint32_t address_hi,
			  uint32_t data, struct kvm_lapic_irq *irq)
{
	*irq = (struct kvm_lapic_irq){
		.dest_id = (uint32_t)FIELD_GET(MSI_DEST_ID, address_lo),
		.vector = (uint8_t)data,
		.delivery_mode = data & APIC_MODE_MASK,
		.logical = address_lo & MSI_LOGICAL,
		.level = true,
		.level_triggered = data & APIC_INT_LEVELTRIG,
	};
	/* KVM_X2APIC_API_USE_32BIT_IDS: destination bits 31:8 in the high address. */
	if (kvm_msi_has_wide_dest(kvm))
		irq->dest_id |= address_hi & 0xffffff00U;
	/* The hint asks for one of the addressed, which is lowest priority's meaning. */
	if ((address_lo & MSI_REDIRECTION_HINT) && irq->delivery_mode == APIC_DM_FIXED)
		irq->delivery_mode = APIC_DM_LOWEST;
}
