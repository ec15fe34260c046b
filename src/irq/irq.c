/*
 * The interrupt controllers as one: what the run loop asks, and the life of
 * KVM_CREATE_IRQCHIP's set.
 */
#include "irq/internal.h"
#include "lib/error.h"

void kvm_irq_register(const struct kvm_lapic_ops *ops)
{
	lapic_ops = ops;
	kvm_register_routing(kvm_set_routing_entry);
	kvm_register_irq_quiesce(kvm_free_pit);
}

bool kvm_cpu_has_extint(struct kvm_vcpu *vcpu)
{
	struct kvm *kvm = vcpu->kvm;

	return vcpu->apic && kvm->vpic && READ_ONCE(kvm->vpic->output) &&
	       kvm_apic_accept_pic_intr(vcpu);
}

bool kvm_cpu_has_injectable_intr(struct kvm_vcpu *vcpu)
{
	if (!vcpu->apic)
		return false;
	if (kvm_cpu_has_extint(vcpu))
		return true;
	/* the processor's own affair; a window for it would hold it back */
	return !lapic_apicv_active(vcpu->apic) && lapic_has_interrupt(vcpu->apic) >= 0;
}

bool kvm_cpu_has_interrupt(struct kvm_vcpu *vcpu)
{
	if (!vcpu->apic)
		return false;
	(void)lapic_sync_pir(vcpu->apic);
	return kvm_cpu_has_extint(vcpu) || lapic_has_interrupt(vcpu->apic) >= 0;
}

int kvm_cpu_get_interrupt(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic *apic = vcpu->apic;

	if (!apic)
		return -1;
	if (kvm_cpu_has_extint(vcpu))
		return kvm_pic_read_irq(vcpu->kvm);
	/* with the processor at it, too: RVI and SVI follow */
	return lapic_get_interrupt(apic);
}

int kvm_irqchip_create(struct kvm *kvm)
{
	int err;

	if (irqchip_in_kernel(kvm))
		return err_born(EEXIST, "the VM has an irqchip");
	if (kvm->nr_created_vcpus)
		return err_born(EINVAL, "irqchip after the first vCPU");
	err = kvm_pic_init(kvm);
	if (err)
		return err;
	err = kvm_ioapic_init(kvm);
	if (err)
		goto out_pic;
	err = kvm_setup_default_irq_routing(kvm);
	if (err)
		goto out_ioapic;
	return 0;
out_ioapic:
	kvm_ioapic_destroy(kvm);
out_pic:
	kvm_pic_destroy(kvm);
	return err;
}

int kvm_irqchip_create_split(struct kvm *kvm, uint32_t nr_pins)
{
	int err;

	if (nr_pins > KVM_MAX_IRQ_ROUTES)
		return err_born(EINVAL, "%u reserved IOAPIC pins", nr_pins);
	if (irqchip_in_kernel(kvm))
		return err_born(EEXIST, "the VM has an irqchip");
	if (kvm->nr_created_vcpus)
		return err_born(EINVAL, "irqchip after the first vCPU");
	err = __kvm_set_irq_routing(kvm, NULL, 0, 0);
	if (err)
		return err;
	kvm->nr_reserved_ioapic_pins = nr_pins;
	kvm->irqchip_split = true;
	return 0;
}

void kvm_irqchip_destroy(struct kvm *kvm)
{
	kvm_free_pit(kvm);
	kvm_ioapic_destroy(kvm);
	kvm_pic_destroy(kvm);
	kvm->irqchip_split = false;
}

int kvm_vm_ioctl_get_irqchip(struct kvm *kvm, struct kvm_irqchip *chip)
{
	if (!kvm->vpic || !kvm->vioapic)
		return err_born(ENXIO, "the VM has no in-kernel PIC and IOAPIC");
	switch (chip->chip_id) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE:
		kvm_get_pic(kvm, chip->chip_id, &chip->chip.pic);
		return 0;
	case KVM_IRQCHIP_IOAPIC:
		kvm_get_ioapic(kvm, &chip->chip.ioapic);
		return 0;
	default:
		return err_born(EINVAL, "irqchip %u", chip->chip_id);
	}
}

int kvm_vm_ioctl_set_irqchip(struct kvm *kvm, const struct kvm_irqchip *chip)
{
	if (!kvm->vpic || !kvm->vioapic)
		return err_born(ENXIO, "the VM has no in-kernel PIC and IOAPIC");
	switch (chip->chip_id) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE:
		kvm_set_pic(kvm, chip->chip_id, &chip->chip.pic);
		return 0;
	case KVM_IRQCHIP_IOAPIC:
		kvm_set_ioapic(kvm, &chip->chip.ioapic);
		return 0;
	default:
		return err_born(EINVAL, "irqchip %u", chip->chip_id);
	}
}
