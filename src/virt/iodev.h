/*
 * The in-process I/O buses: devices that answer without the client (interrupt
 * controllers, PIT, ioeventfds, coalesced zones).
 *
 * A bus is an immutable sorted range table replaced under RCU (slots_lock for
 * writers). Several devices may share a range (ioeventfds with datamatch):
 * the first that returns 0 has taken the access.
 */
#ifndef USERKVM_VIRT_IODEV_H
#define USERKVM_VIRT_IODEV_H

#include "virt/kvm.h"

struct kvm_io_device;

struct kvm_io_device_ops {
	/* 0 taken; -EOPNOTSUPP not mine. len 1, 2, 4 or 8. vcpu may be NULL. */
	int (*read)(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len, void *val);
	int (*write)(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len,
		     const void *val);
	/* The bus no longer knows the device. */
	void (*destructor)(struct kvm_io_device *dev);
};

struct kvm_io_device {
	const struct kvm_io_device_ops *ops;
};

/* -EOPNOTSUPP when no device takes the access. */
must_check int kvm_io_bus_read(struct kvm_vcpu *vcpu, enum kvm_bus_id bus, gpa_t addr, int len, void *val);
must_check int kvm_io_bus_write(struct kvm_vcpu *vcpu, enum kvm_bus_id bus, gpa_t addr, int len,
				const void *val);
/* slots_lock held. -ENOMEM, -ENOSPC (1,000 devices). */
must_check int kvm_io_bus_register_dev(struct kvm *kvm, enum kvm_bus_id bus, gpa_t addr, int len,
				       struct kvm_io_device *dev);
/* slots_lock held. Cannot fail: it undoes what needs undoing. No reader has the device when it returns. */
void kvm_io_bus_unregister_dev(struct kvm *kvm, enum kvm_bus_id bus, struct kvm_io_device *dev);
/* VM destruction, no vCPU left: every device of the bus hears its destructor. */
void kvm_io_bus_destroy(struct kvm *kvm, enum kvm_bus_id bus);

/*
 * KVM API: KVM_(UN)REGISTER_COALESCED_MMIO: -EINVAL (pio not 0 or 1), -ENOMEM,
 * -ENOSPC. The ring is page KVM_COALESCED_MMIO_PAGE_OFFSET of the first vCPU's
 * mapping (coalesced.c says why). Takes slots_lock.
 */
must_check int kvm_vm_ioctl_register_coalesced_mmio(struct kvm *kvm, const struct kvm_coalesced_mmio_zone *zone);
must_check int kvm_vm_ioctl_unregister_coalesced_mmio(struct kvm *kvm, const struct kvm_coalesced_mmio_zone *zone);
void kvm_coalesced_mmio_free(struct kvm *kvm); /* VM destruction, after the buses */

/*
 * KVM API: KVM_IOEVENTFD. -EINVAL (flags, length, wrap-around, not an eventfd),
 * -EBADF, -EEXIST (same address and data), -ENOENT (deassign). Takes slots_lock.
 *
 * KVM API: KVM_IRQFD. -EINVAL (no in-kernel irqchip, flags, not an eventfd),
 * -EBADF, -EBUSY (this eventfd already is one), -ENOMEM. A deassignment of what
 * is not there succeeds, as in Linux.
 */
must_check int kvm_ioeventfd(struct kvm *kvm, const struct kvm_ioeventfd *args);
must_check int kvm_irqfd(struct kvm *kvm, const struct kvm_irqfd *args);
void kvm_irqfd_release(struct kvm *kvm); /* VM destruction: all of its irqfds */

#endif
