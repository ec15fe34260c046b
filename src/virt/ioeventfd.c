/*
 * ioeventfds: a guest's write to an address becomes a tick of an eventfd
 * (KVM API: KVM_IOEVENTFD).
 *
 * An ioeventfd is a device on the MMIO or PIO bus. Length 0 on MMIO means any
 * length, and puts it on the fast bus too, which an EPT misconfiguration asks
 * before any instruction is decoded.
 *
 * Lock: slots_lock for the bus; the device is immutable once registered.
 */
#include <string.h>

#include "lib/error.h"
#include "lib/own.h"
#include "virt/eventfd.h"
#include "virt/iodev.h"

struct ioeventfd {
	struct kvm_io_device dev;
	struct ioeventfd *next; /* [s] */
	struct virt_eventfd eventfd;
	enum kvm_bus_id bus;
	gpa_t addr;
	uint32_t len;
	bool wildcard; /* any data */
	uint64_t datamatch;
};

static bool ioeventfd_matches(const struct ioeventfd *p, gpa_t addr, int len, const void *val)
{
	uint64_t data = 0;

	if (addr != p->addr)
		return false;
	if (!p->len)
		return true;
	if ((uint32_t)len != p->len)
		return false;
	if (p->wildcard)
		return true;
	memcpy(&data, val, (size_t)len);
	return data == p->datamatch;
}

static int ioeventfd_write(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len,
			   const void *val)
{
	struct ioeventfd *p = container_of(dev, struct ioeventfd, dev);

	if (!ioeventfd_matches(p, addr, len, val))
		return -EOPNOTSUPP;
	virt_eventfd_signal(&p->eventfd);
	return 0;
}

static void ioeventfd_free(struct ioeventfd *p)
{
	virt_eventfd_put(&p->eventfd);
	own_free(p);
}

static void ioeventfd_destructor(struct kvm_io_device *dev)
{
	ioeventfd_free(container_of(dev, struct ioeventfd, dev));
}

static const struct kvm_io_device_ops ioeventfd_ops = {
	.write = ioeventfd_write,
	.destructor = ioeventfd_destructor,
};

static uint64_t data_mask(uint32_t len)
{
	return len && len < 8 ? BIT_ULL(len * 8) - 1 : ~0ULL;
}

static int check_args(const struct kvm_ioeventfd *args)
{
	if (args->flags & ~(uint32_t)KVM_IOEVENTFD_VALID_FLAG_MASK)
		return err_born(EINVAL, "ioeventfd flags %#x", args->flags);
	if (args->len > 8 || (args->len & (args->len - 1)))
		return err_born(EINVAL, "ioeventfd length %u", args->len);
	if (args->addr + args->len < args->addr)
		return err_born(EINVAL, "ioeventfd at %#llx wraps around",
				(unsigned long long)args->addr);
	if (!args->len && (args->flags & KVM_IOEVENTFD_FLAG_DATAMATCH))
		return err_born(EINVAL, "ioeventfd of any length with a data match");
	return 0;
}

/* Would both take some write? */
static bool collides(const struct ioeventfd *a, const struct ioeventfd *b)
{
	return a->bus == b->bus && a->addr == b->addr &&
	       (!a->len || !b->len ||
		(a->len == b->len &&
		 (a->wildcard || b->wildcard || a->datamatch == b->datamatch)));
}

static void list_remove(struct kvm *kvm, struct ioeventfd *p)
{
	struct ioeventfd **link = &kvm->ioeventfds;

	while (*link && *link != p)
		link = &(*link)->next;
	if (*link)
		*link = p->next;
}

/* slots_lock held. */
static int publish(struct kvm *kvm, struct ioeventfd *p)
{
	int err;

	for (struct ioeventfd *o = kvm->ioeventfds; o; o = o->next) {
		if (collides(o, p))
			return err_born(EEXIST, "an ioeventfd at %#llx already",
					(unsigned long long)p->addr);
	}
	err = kvm_io_bus_register_dev(kvm, p->bus, p->addr, (int)p->len, &p->dev);
	if (err)
		return err;
	if (!p->len && p->bus == KVM_MMIO_BUS) {
		err = kvm_io_bus_register_dev(kvm, KVM_FAST_MMIO_BUS, p->addr, 0, &p->dev);
		if (err) {
			/* Its destructor would free p, which our caller does. */
			static const struct kvm_io_device_ops silent = { .write = ioeventfd_write };

			p->dev.ops = &silent;
			kvm_io_bus_unregister_dev(kvm, p->bus, &p->dev);
			return err;
		}
	}
	p->next = kvm->ioeventfds;
	kvm->ioeventfds = p;
	return 0;
}

static int assign(struct kvm *kvm, enum kvm_bus_id bus, const struct kvm_ioeventfd *args)
{
	struct ioeventfd *p = own_calloc(1, sizeof(*p));
	int err;

	if (!p)
		return err_born(ENOMEM, "no memory for an ioeventfd");
	p->dev.ops = &ioeventfd_ops;
	p->bus = bus;
	p->addr = args->addr;
	p->len = args->len;
	p->wildcard = !(args->flags & KVM_IOEVENTFD_FLAG_DATAMATCH);
	p->datamatch = args->datamatch & data_mask(args->len);
	err = virt_eventfd_get(args->fd, &p->eventfd);
	if (!err) {
		pthread_mutex_lock(&kvm->slots_lock);
		err = publish(kvm, p);
		pthread_mutex_unlock(&kvm->slots_lock);
	}
	if (err)
		ioeventfd_free(p);
	return err;
}

static bool is_same(const struct ioeventfd *p, enum kvm_bus_id bus, uint64_t id,
		    const struct kvm_ioeventfd *args)
{
	bool wildcard = !(args->flags & KVM_IOEVENTFD_FLAG_DATAMATCH);

	return p->bus == bus && p->eventfd.id == id && p->addr == args->addr &&
	       p->len == args->len && p->wildcard == wildcard &&
	       (wildcard || p->datamatch == (args->datamatch & data_mask(args->len)));
}

static int deassign(struct kvm *kvm, enum kvm_bus_id bus, const struct kvm_ioeventfd *args)
{
	struct ioeventfd *p;
	uint64_t id;
	int err = virt_eventfd_id(args->fd, &id);

	if (err)
		return err;
	pthread_mutex_lock(&kvm->slots_lock);
	for (p = kvm->ioeventfds; p && !is_same(p, bus, id, args); p = p->next)
		;
	if (!p) {
		err = err_born(ENOENT, "no such ioeventfd");
		goto out;
	}
	if (!p->len && bus == KVM_MMIO_BUS) {
		/* Only the main bus's goodbye frees the device. */
		static const struct kvm_io_device_ops silent = { .write = ioeventfd_write };

		p->dev.ops = &silent;
		kvm_io_bus_unregister_dev(kvm, KVM_FAST_MMIO_BUS, &p->dev);
		p->dev.ops = &ioeventfd_ops;
	}
	list_remove(kvm, p);
	kvm_io_bus_unregister_dev(kvm, bus, &p->dev);
out:
	pthread_mutex_unlock(&kvm->slots_lock);
	return err;
}

static enum kvm_bus_id bus_of(uint32_t flags)
{
	if (flags & KVM_IOEVENTFD_FLAG_PIO)
		return KVM_PIO_BUS;
	return flags & KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY ? KVM_VIRTIO_CCW_NOTIFY_BUS : KVM_MMIO_BUS;
}

int kvm_ioeventfd(struct kvm *kvm, const struct kvm_ioeventfd *args)
{
	enum kvm_bus_id bus = bus_of(args->flags);
	int err;

	if (args->flags & KVM_IOEVENTFD_FLAG_DEASSIGN)
		return deassign(kvm, bus, args);
	err = check_args(args);
	if (err)
		return err;
	return assign(kvm, bus, args);
}
