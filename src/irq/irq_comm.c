/*
 * From routing entries to chips: what `set` does for a PIC pin, an IOAPIC pin,
 * an MSI and a SINT of Hyper-V's SynIC; the default routing. (SDM vol. 3, "Message Signalled Interrupts";
 * KVM API: KVM_SET_GSI_ROUTING, KVM_SIGNAL_MSI, KVM_IRQ_LINE.)
 */
#include "irq/internal.h"
#include "lib/error.h"
#include "trace/trace.h"

static bool msi_invalid(struct kvm *kvm, uint32_t address_hi)
{
	return kvm_msi_has_wide_dest(kvm) && (address_hi & 0xff);
}

static int send_msi(struct kvm *kvm, uint32_t address_lo, uint32_t address_hi, uint32_t data)
{
	struct kvm_lapic_irq irq;

	if (msi_invalid(kvm, address_hi))
		return -EINVAL;
	TRACE(kvm, kvm_msi_set_irq, address_lo | (uint64_t)address_hi << 32, data);
	kvm_msi_to_lapic_irq(kvm, address_lo, address_hi, data, &irq);
	return kvm_irq_delivery_to_apic(kvm, NULL, &irq);
}

static int set_msi(struct kvm_kernel_irq_routing_entry *e, struct kvm *kvm, int source_id,
		   int level)
{
	if (!level)
		return -1;
	return send_msi(kvm, e->msi.address_lo, e->msi.address_hi, e->msi.data);
}

static int set_pic(struct kvm_kernel_irq_routing_entry *e, struct kvm *kvm, int source_id,
		   int level)
{
	return kvm_pic_set_irq(kvm->vpic, (int)e->irqchip.pin, source_id, level);
}

static int set_ioapic(struct kvm_kernel_irq_routing_entry *e, struct kvm *kvm, int source_id,
		      int level)
{
	return kvm_ioapic_set_irq(kvm->vioapic, (int)e->irqchip.pin, source_id, level);
}

static int set_hv_sint(struct kvm_kernel_irq_routing_entry *e, struct kvm *kvm, int source_id,
		       int level)
{
	if (!level)
		return -1;
	return lapic_ops->synic_set_irq(kvm, e->hv_sint.vcpu, e->hv_sint.sint);
}

static int set_chip_entry(struct kvm *kvm, struct kvm_kernel_irq_routing_entry *e,
			  const struct kvm_irq_routing_irqchip *chip)
{
	uint32_t pins = chip->irqchip == KVM_IRQCHIP_IOAPIC ? KVM_IOAPIC_NUM_PINS : PIC_NUM_PINS / 2;

	if (!kvm->vpic || !kvm->vioapic)
		return err_born(EINVAL, "GSI %u: there is no such chip", e->gsi);
	if (chip->irqchip >= KVM_NR_IRQCHIPS || chip->pin >= pins)
		return err_born(EINVAL, "GSI %u: chip %u pin %u", e->gsi, chip->irqchip, chip->pin);
	e->irqchip.irqchip = chip->irqchip;
	e->irqchip.pin = chip->pin + (chip->irqchip == KVM_IRQCHIP_PIC_SLAVE ? 8 : 0);
	e->set = chip->irqchip == KVM_IRQCHIP_IOAPIC ? set_ioapic : set_pic;
	return 0;
}

int kvm_set_routing_entry(struct kvm *kvm, struct kvm_kernel_irq_routing_entry *e,
			  const struct kvm_irq_routing_entry *ue)
{
	switch (ue->type) {
	case KVM_IRQ_ROUTING_IRQCHIP:
		return set_chip_entry(kvm, e, &ue->u.irqchip);
	case KVM_IRQ_ROUTING_MSI:
		if (msi_invalid(kvm, ue->u.msi.address_hi))
			return err_born(EINVAL, "GSI %u: MSI address %#x", e->gsi,
					ue->u.msi.address_hi);
		e->msi.address_lo = ue->u.msi.address_lo;
		e->msi.address_hi = ue->u.msi.address_hi;
		e->msi.data = ue->u.msi.data;
		e->set = set_msi;
		return 0;
	case KVM_IRQ_ROUTING_HV_SINT:
		if (!lapic_ops || !lapic_ops->synic_set_irq)
			return err_born(EINVAL, "GSI %u: there is no SynIC", e->gsi);
		e->hv_sint.vcpu = ue->u.hv_sint.vcpu;
		e->hv_sint.sint = ue->u.hv_sint.sint;
		e->set = set_hv_sint;
		return 0;
	default:
		return err_born(EINVAL, "GSI %u: routing type %u", e->gsi, ue->type);
	}
}

/* GSIs 0-15 reach the PIC and the IOAPIC, 16-23 the IOAPIC. */
int kvm_setup_default_irq_routing(struct kvm *kvm)
{
	struct kvm_irq_routing_entry e[KVM_IOAPIC_NUM_PINS + PIC_NUM_PINS] = { 0 };
	uint32_t n = 0;

	for (uint32_t gsi = 0; gsi < KVM_IOAPIC_NUM_PINS; gsi++) {
		e[n++] = (struct kvm_irq_routing_entry){
			.gsi = gsi,
			.type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip = { .irqchip = KVM_IRQCHIP_IOAPIC, .pin = gsi },
		};
		if (gsi >= PIC_NUM_PINS)
			continue;
		e[n++] = (struct kvm_irq_routing_entry){
			.gsi = gsi,
			.type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip = { .irqchip = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER
							  : KVM_IRQCHIP_PIC_SLAVE,
				       .pin = gsi % 8 },
		};
	}
	return __kvm_set_irq_routing(kvm, e, n, 0);
}

int kvm_send_userspace_msi(struct kvm *kvm, const struct kvm_msi *msi)
{
	if (!irqchip_in_kernel(kvm))
		return err_born(EINVAL, "MSI without in-kernel APICs");
	if (msi->flags & ~(uint32_t)KVM_MSI_VALID_DEVID) /* a device's number is nothing to local APICs */
		return err_born(EINVAL, "MSI flags %#x", msi->flags);
	if (msi_invalid(kvm, msi->address_hi))
		return err_born(EINVAL, "MSI address %#x", msi->address_hi);
	return send_msi(kvm, msi->address_lo, msi->address_hi, msi->data);
}

int kvm_vm_ioctl_irq_line(struct kvm *kvm, struct kvm_irq_level *irq)
{
	if (!irqchip_in_kernel(kvm))
		return err_born(ENXIO, "KVM_IRQ_LINE without an in-kernel irqchip");
	irq->status = kvm_set_irq(kvm, KVM_USERSPACE_IRQ_SOURCE_ID, irq->irq, (int)irq->level);
	return 0;
}
