/*
 * The in-process I/O buses.
 *
 * A bus is an immutable table of ranges sorted by start address. Writers
 * (slots_lock held) build the next table, publish it, and wait for a grace
 * period before the old one, or a device that left it, is freed. Readers are
 * in an RCU read-side section for the look-up and the device's callback, so
 * callbacks neither block for long nor change a bus.
 *
 * Invariants of a table:
 *  1. range[i].addr ascending; max_end = the largest end among range[0..i], so a
 *     look-up that walks down from the last candidate knows when to stop.
 *  2. kvm->buses[b] is NULL as long as nothing was ever registered.
 */
#include "lib/own.h"
#include "virt/iodev.h"

#include <string.h>

#include "lib/error.h"
#include "lib/rcu.h"

#define NR_IOBUS_DEVS 1000

struct io_range {
	gpa_t addr, end; /* end: first address behind; == addr for "any length" devices */
	gpa_t max_end;
	struct kvm_io_device *dev;
};

struct kvm_io_bus {
	uint32_t nr;
	struct io_range range[];
};

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
			ret = fn(vcpu, r->dev, addr, len, val);
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

int kvm_io_bus_register_dev(struct kvm *kvm, enum kvm_bus_id id, gpa_t addr, int len,
			    struct kvm_io_device *dev)
{
	struct kvm_io_bus *old = kvm->buses[id], *bus;
	uint32_t nr = old ? old->nr : 0, at = 0;

	if (nr >= NR_IOBUS_DEVS)
		return err_born(ENOSPC, "bus %d is full (%u devices)", id, nr);
	bus = bus_alloc(nr + 1);
	if (!bus)
		return err_born(ENOMEM, "no memory for bus %d", id);
	while (at < nr && old->range[at].addr <= addr)
		at++;
	if (old) {
		memcpy(bus->range, old->range, at * sizeof(bus->range[0]));
		memcpy(bus->range + at + 1, old->range + at, (nr - at) * sizeof(bus->range[0]));
	}
	bus->range[at] = (struct io_range){ .addr = addr, .end = addr + (gpa_t)len, .dev = dev };
	bus_publish(kvm, id, bus);
	return 0;
}

int kvm_io_bus_unregister_dev(struct kvm *kvm, enum kvm_bus_id id, struct kvm_io_device *dev)
{
	struct kvm_io_bus *old = kvm->buses[id], *bus;
	uint32_t at = 0;

	while (old && at < old->nr && old->range[at].dev != dev)
		at++;
	if (!old || at == old->nr)
		return 0;
	bus = bus_alloc(old->nr - 1);
	if (!bus)
		return err_born(ENOMEM, "no memory for bus %d", id);
	memcpy(bus->range, old->range, at * sizeof(bus->range[0]));
	memcpy(bus->range + at, old->range + at + 1, (old->nr - at - 1) * sizeof(bus->range[0]));
	bus_publish(kvm, id, bus);
	if (dev->ops->destructor)
		dev->ops->destructor(dev);
	return 0;
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
