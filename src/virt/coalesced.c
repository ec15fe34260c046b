/*
 * Coalesced MMIO and PIO: writes to registered zones go to a ring that the
 * client empties at its next exit for another reason (KVM API:
 * KVM_REGISTER_COALESCED_MMIO, KVM_CAP_COALESCED_MMIO, KVM_CAP_COALESCED_PIO).
 *
 * Linux maps one page of the VM at page KVM_COALESCED_MMIO_PAGE_OFFSET of every
 * vCPU's mapping. Here each vCPU's mapping is a file of its own, so the ring is
 * that page of the VM's first vCPU, which is where clients look for it. Without
 * a vCPU no write can come.
 *
 * The ring belongs half to the client: `last` is read from it and checked
 * before use; `first` == insertion point, one entry always stays free.
 *
 * Lock: coalesced.ring_lock around insertion. Zones: slots_lock.
 */
#include <string.h>

#include "lib/error.h"
#include "lib/own.h"
#include "virt/iodev.h"

struct coalesced {
	pthread_mutex_t ring_lock;
	struct coalesced_zone *zones; /* [s] */
};

struct coalesced_zone {
	struct kvm_io_device dev;
	struct kvm *kvm;
	struct kvm_coalesced_mmio_zone zone;
	struct coalesced_zone *next; /* [s] */
};

/* The ring is full, or the client wrote nonsense into it: take the slow exit. */
static bool ring_has_room(uint32_t first, uint32_t last)
{
	if (first >= KVM_COALESCED_MMIO_MAX || last >= KVM_COALESCED_MMIO_MAX)
		return false;
	return (last + 1) % KVM_COALESCED_MMIO_MAX != first;
}

static bool zone_contains(const struct coalesced_zone *z, gpa_t addr, uint64_t len)
{
	gpa_t start = z->zone.addr, end = start + z->zone.size;

	return addr >= start && addr + len >= addr && addr + len <= end;
}

/* Producer's index is `last`, the client's is `first`. */
static int coalesced_write(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len,
			   const void *val)
{
	struct coalesced_zone *z = container_of(dev, struct coalesced_zone, dev);
	struct kvm_vcpu *first_vcpu = kvm_get_vcpu(z->kvm, 0);
	struct coalesced *c = z->kvm->coalesced;
	struct kvm_coalesced_mmio_ring *ring;
	struct kvm_coalesced_mmio *entry;
	uint32_t insert;
	int ret = -EOPNOTSUPP;

	if (!first_vcpu || len > (int)sizeof(entry->data) || !zone_contains(z, addr, (uint64_t)len))
		return -EOPNOTSUPP;
	ring = (void *)((char *)first_vcpu->run + KVM_COALESCED_MMIO_PAGE_OFFSET * PAGE_SIZE);
	pthread_mutex_lock(&c->ring_lock);
	insert = READ_ONCE(ring->last);
	if (ring_has_room(__atomic_load_n(&ring->first, __ATOMIC_ACQUIRE), insert)) {
		entry = &ring->coalesced_mmio[insert];
		entry->phys_addr = addr;
		entry->len = (uint32_t)len;
		memcpy(entry->data, val, (size_t)len);
		entry->pio = z->zone.pio;
		__atomic_store_n(&ring->last, (insert + 1) % KVM_COALESCED_MMIO_MAX,
				 __ATOMIC_RELEASE);
		ret = 0;
	}
	pthread_mutex_unlock(&c->ring_lock);
	return ret;
}

static void zone_unlink(struct coalesced_zone *z)
{
	struct coalesced *c = z->kvm->coalesced;
	struct coalesced_zone **p = &c->zones;

	while (*p && *p != z)
		p = &(*p)->next;
	if (*p)
		*p = z->next;
}

static void coalesced_destructor(struct kvm_io_device *dev)
{
	struct coalesced_zone *z = container_of(dev, struct coalesced_zone, dev);

	zone_unlink(z);
	own_free(z);
}

static const struct kvm_io_device_ops coalesced_ops = {
	.write = coalesced_write,
	.destructor = coalesced_destructor,
};

static enum kvm_bus_id zone_bus(const struct kvm_coalesced_mmio_zone *zone)
{
	return zone->pio ? KVM_PIO_BUS : KVM_MMIO_BUS;
}

static struct coalesced *coalesced_of(struct kvm *kvm)
{
	struct coalesced *c = kvm->coalesced;

	if (!c) {
		c = own_calloc(1, sizeof(*c));
		if (c)
			pthread_mutex_init(&c->ring_lock, NULL);
		kvm->coalesced = c;
	}
	return c;
}

int kvm_vm_ioctl_register_coalesced_mmio(struct kvm *kvm,
					 const struct kvm_coalesced_mmio_zone *zone)
{
	struct coalesced_zone *z;
	struct coalesced *c;
	int ret;

	if (zone->pio > 1)
		return err_born(EINVAL, "coalesced zone: pio is %u", zone->pio);
	z = own_calloc(1, sizeof(*z));
	if (!z)
		return err_born(ENOMEM, "no memory for a coalesced zone");
	z->dev.ops = &coalesced_ops;
	z->kvm = kvm;
	z->zone = *zone;
	pthread_mutex_lock(&kvm->slots_lock);
	c = coalesced_of(kvm);
	ret = c ? kvm_io_bus_register_dev(kvm, zone_bus(zone), zone->addr, (int)zone->size,
					  &z->dev)
		: err_born(ENOMEM, "no memory for the coalesced ring");
	if (!ret) {
		z->next = c->zones;
		c->zones = z;
	}
	pthread_mutex_unlock(&kvm->slots_lock);
	if (ret)
		own_free(z);
	return ret;
}

/* Drops every zone of that kind that contains the given one; none is no error. */
int kvm_vm_ioctl_unregister_coalesced_mmio(struct kvm *kvm,
					   const struct kvm_coalesced_mmio_zone *zone)
{
	struct coalesced *c;

	if (zone->pio > 1)
		return err_born(EINVAL, "coalesced zone: pio is %u", zone->pio);
	pthread_mutex_lock(&kvm->slots_lock);
	c = kvm->coalesced;
	for (struct coalesced_zone *z = c ? c->zones : NULL, *next; z; z = next) {
		next = z->next;
		if (z->zone.pio == zone->pio && zone_contains(z, zone->addr, zone->size))
			kvm_io_bus_unregister_dev(kvm, zone_bus(&z->zone), &z->dev);
	}
	pthread_mutex_unlock(&kvm->slots_lock);
	return 0;
}

/* The VM is being destroyed, its buses are gone (and the zones with them). */
void kvm_coalesced_mmio_free(struct kvm *kvm)
{
	struct coalesced *c = kvm->coalesced;

	if (!c)
		return;
	pthread_mutex_destroy(&c->ring_lock);
	own_free(c);
	kvm->coalesced = NULL;
}
