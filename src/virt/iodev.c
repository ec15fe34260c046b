/*
 * The in-process I/O buses.
 *
 * A bus is a table of ranges sorted by start address. A device that comes makes
 * the next table, which is published; one that leaves is replaced by `gone` in its
 * place, which needs no memory. Writers hold slots_lock, and wait for a grace
 * period before the old table, or a device that left, is freed. Readers are
 * in an RCU read-side section for the look-up and the device's callback, so
 * callbacks neither block for long nor change a bus.
 *
 * Invariants of a table:
 *  1. range[i].addr ascending; max_end = the largest end among range[0..i], so a
 *     look-up that walks down from the last candidate knows when to stop.
 *  2. kvm->buses[b] is NULL as long as nothing was ever registered.
 *  3. All of a table but the devices is constant. A range of `gone` stays until
 *     the next table is made.
 */
#include "virt/iodev.h"

#include <string.h>

#include "lib/error.h"
#include "lib/own.h"
#include "lib/rcu.h"

#define NR_IOBUS_DEVS 1000

struct io_range {
	gpa_t addr, end; /* end: first address behind; == addr for "any length" devices */
	gpa_t max_end;
	struct kvm_io_device *dev; /* (a) */
};

struct kvm_io_bus {
	uint32_t nr;
	struct io_range range[];
};

/* It takes no access. */
static const struct kvm_io_device_ops gone_ops;
static struct kvm_io_device gone = { .ops = &gone_ops };

/* Index of the last range that starts at or below addr, -1 for none. */
static int last_candidate(const struct kvm_io_bus *bus, gpa_t addr)
{
	int lo = 0, hi = (int)bus->nr;

	while (lo < hi) {
		int mid = (lo + hi) / 2;

		if (bus->range[mid].addr <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo - 1;
}

/* A length of zero on either side asks for the exact start address only. */
static bool range_takes(const struct io_range *r, gpa_t addr, int len)
{
	if (r->end == r->addr)
		return r->addr == addr;
	return addr >= r->addr && addr + (gpa_t)len <= r->end;
}

typedef int bus_access_fn(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len,
			  void *val);

static int dev_read(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len,
		    void *val)
{
	return dev->ops->read ? dev->ops->read(vcpu, dev, addr, len, val) : -EOPNOTSUPP;
}

static int dev_write(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len,
		     void *val)
{
	return dev->ops->write ? dev->ops->write(vcpu, dev, addr, len, val) : -EOPNOTSUPP;
}

static int bus_access(struct kvm *kvm, struct kvm_vcpu *vcpu, enum kvm_bus_id id, gpa_t addr,
		      int len, void *val, bus_access_fn *fn)
{
	const struct kvm_io_bus *bus;
	int ret = -EOPNOTSUPP;

	if (!READ_ONCE(kvm->buses[id]))
		return -EOPNOTSUPP;
	lib_rcu_read_lock();
	bus = __atomic_load_n(&kvm->buses[id], __ATOMIC_ACQUIRE);
	for (int i = bus ? last_candidate(bus, addr) : -1; i >= 0; i--) {
		const struct io_range *r = &bus->range[i];

		if (range_takes(r, addr, len)) {
			ret = fn(vcpu, __atomic_load_n(&r->dev, __ATOMIC_ACQUIRE), addr, len, val);
			if (ret != -EOPNOTSUPP)
				break;
		}
		if (r->max_end <= addr && r->addr != addr)
			break;
	}
	lib_rcu_read_unlock();
	return ret;
}

int kvm_io_bus_read(struct kvm_vcpu *vcpu, enum kvm_bus_id bus, gpa_t addr, int len, void *val)
{
	return bus_access(vcpu->kvm, vcpu, bus, addr, len, val, dev_read);
}

int kvm_io_bus_write(struct kvm_vcpu *vcpu, enum kvm_bus_id bus, gpa_t addr, int len,
		     const void *val)
{
	return bus_access(vcpu->kvm, vcpu, bus, addr, len, (void *)(uintptr_t)val, dev_write);
}

static struct kvm_io_bus *bus_alloc(uint32_t nr)
{
	struct kvm_io_bus *bus = own_malloc(sizeof(*bus) + nr * sizeof(bus->range[0]));

	if (bus)
		bus->nr = nr;
	return bus;
}

static void bus_publish(struct kvm *kvm, enum kvm_bus_id id, struct kvm_io_bus *bus)
{
	struct kvm_io_bus *old = kvm->buses[id];
	gpa_t max_end = 0;

	for (uint32_t i = 0; i < bus->nr; i++) {
		max_end = max_u64(max_end, bus->range[i].end);
		bus->range[i].max_end = max_end;
	}
	__atomic_store_n(&kvm->buses[id], bus, __ATOMIC_RELEASE);
	if (!old)
		return;
	lib_rcu_synchronize();
	own_free(old);
}

static uint32_t devices(const struct kvm_io_bus *bus)
{
	uint32_t n = 0;

	for (uint32_t i = 0; bus && i < bus->nr; i++)
		n += bus->range[i].dev != &gone;
	return n;
}

int kvm_io_bus_register_dev(struct kvm *kvm, enum kvm_bus_id id, gpa_t addr, int len,
			    struct kvm_io_device *dev)
{
	struct kvm_io_bus *old = kvm->buses[id], *bus;
	struct io_range new = { .addr = addr, .end = addr + (gpa_t)len, .dev = dev };
	uint32_t nr = devices(old), at = 0;
	bool placed = false;

	if (nr >= NR_IOBUS_DEVS)
		return err_born(ENOSPC, "bus %d is full (%u devices)", id, nr);
	bus = bus_alloc(nr + 1);
	if (!bus)
		return err_born(ENOMEM, "no memory for bus %d", id);
	for (uint32_t i = 0; old && i < old->nr; i++) {
		if (!placed && old->range[i].addr > addr) {
			bus->range[at++] = new;
			placed = true;
		}
		if (old->range[i].dev != &gone)
			bus->range[at++] = old->range[i];
	}
	if (!placed)
		bus->range[at] = new;
	bus_publish(kvm, id, bus);
	return 0;
}

void kvm_io_bus_unregister_dev(struct kvm *kvm, enum kvm_bus_id id, struct kvm_io_device *dev)
{
	struct kvm_io_bus *bus = kvm->buses[id];
	uint32_t at = 0;

	while (bus && at < bus->nr && bus->range[at].dev != dev)
		at++;
	if (!bus || at == bus->nr)
		return;
	__atomic_store_n(&bus->range[at].dev, &gone, __ATOMIC_RELEASE);
	lib_rcu_synchronize();
	if (dev->ops->destructor)
		dev->ops->destructor(dev);
}

/* A device on two buses (fast MMIO ioeventfds) is told once, by its main bus. */
void kvm_io_bus_destroy(struct kvm *kvm, enum kvm_bus_id id)
{
	struct kvm_io_bus *bus = kvm->buses[id];

	if (!bus)
		return;
	kvm->buses[id] = NULL;
	for (uint32_t i = 0; i < bus->nr && id != KVM_FAST_MMIO_BUS; i++) {
		struct kvm_io_device *dev = bus->range[i].dev;

		if (dev->ops->destructor)
			dev->ops->destructor(dev);
	}
	own_free(bus);
}
