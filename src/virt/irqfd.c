/*
 * irqfds: a tick of an eventfd becomes an interrupt (KVM API: KVM_IRQFD).
 *
 * One thread of the process waits for all irqfds with poll, takes the count
 * and drives the GSI: a pulse, or with KVM_IRQFD_FLAG_RESAMPLE a level that stays
 * up until the guest's EOI, which lowers it and ticks the resample eventfds of
 * that GSI.
 *
 * Invariants:
 *  1. The thread polls a copy of the slots' descriptors. Who changes a slot increments
 *     `changes` and ticks `wake_fd`; until the thread has made a new copy it asks the slot's eventfd
 *     before it takes a count.
 *  2. An irqfd is freed with irqfds.lock held since its removal, so the thread
 *     never uses a freed one; resamplers are read under RCU by the EOI path.
 *
 * Lock: irqfds.lock (outside the chips' locks and irq_lock). Held while the thread injects.
 */
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/client_threads.h"
#include "host/thread.h"
#include "lib/error.h"
#include "lib/fork.h"
#include "lib/own.h"
#include "lib/own_fd.h"
#include "lib/rcu.h"
#include "virt/eventfd.h"
#include "virt/iodev.h"
#include "virt/irq_routing.h"

struct irqfd {
	struct kvm *kvm;
	struct irqfd *next; /* in kvm->irqfds */
	uint32_t gsi;
	uint32_t slot;
	struct virt_eventfd eventfd;
	struct virt_eventfd resamplefd; /* fd -1 without RESAMPLE */
	struct irqfd_resampler *resampler;
	struct irqfd *resampler_next; /* (r) */
};

/* The level-triggered irqfds of one GSI. */
struct irqfd_resampler {
	struct kvm *kvm;
	struct kvm_irq_ack_notifier notifier;
	struct irqfd *irqfds; /* (r) irqfds.lock */
	struct irqfd_resampler *next;
};

static struct {
	pthread_mutex_t lock;
	int wake_fd; /* an eventfd; -1 until the thread runs */
	struct irqfd **slots;
	uint32_t nr_slots, changes;
} irqfds = { .lock = PTHREAD_MUTEX_INITIALIZER, .wake_fd = -1 };

/*
 * Its irqfds are the parent's, as the thread is. The descriptor stays open, since the client may have
 * put another file in its place.
 */
static void forget_in_child(void)
{
	memset(&irqfds, 0, sizeof(irqfds));
	irqfds.wake_fd = -1;
	pthread_mutex_init(&irqfds.lock, NULL);
}
LIB_IN_FORKED_CHILD(forget_in_child)

static void inject(struct irqfd *i)
{
	if (i->resampler) {
		kvm_set_irq(i->kvm, KVM_IRQFD_RESAMPLE_IRQ_SOURCE_ID, i->gsi, 1);
		return;
	}
	kvm_set_irq(i->kvm, KVM_USERSPACE_IRQ_SOURCE_ID, i->gsi, 1);
	kvm_set_irq(i->kvm, KVM_USERSPACE_IRQ_SOURCE_ID, i->gsi, 0);
}

/* What the thread polls: the end of all threads, changes, the slots. */
#define FIRST_SLOT 2
struct polled {
	struct pollfd *fd;
	uint32_t nr, changes;
};

/* Lock held. Without memory for more it stays as it was, and is tried again. */
static void copy_slots(struct polled *p)
{
	struct pollfd *bigger;

	if (p->fd && p->changes == irqfds.changes)
		return;
	bigger = own_realloc(p->fd, (FIRST_SLOT + irqfds.nr_slots) * sizeof(*bigger));
	if (!bigger)
		return;
	bigger[0] = (struct pollfd){ .fd = host_threads_end_fd(), .events = POLLIN };
	bigger[1] = (struct pollfd){ .fd = irqfds.wake_fd, .events = POLLIN };
	for (uint32_t k = 0; k < irqfds.nr_slots; k++)
		bigger[FIRST_SLOT + k] = (struct pollfd){
			.fd = irqfds.slots[k] ? irqfds.slots[k]->eventfd.fd : -1, .events = POLLIN };
	*p = (struct polled){ bigger, FIRST_SLOT + irqfds.nr_slots, irqfds.changes };
}

/* Lock held. */
static void take_counts(struct polled *p)
{
	uint64_t count;

	for (uint32_t k = 0; k < p->nr; k++)
		if (p->fd[k].revents & POLLNVAL) /* the client has closed it: it would never be silent again */
			p->fd[k] = (struct pollfd){ .fd = -1 };
	if (p->fd[1].revents)
		(void)!syscall(SYS_read, irqfds.wake_fd, &count, sizeof(count));
	for (uint32_t k = 0; k + FIRST_SLOT < p->nr; k++) {
		struct irqfd *i = irqfds.slots[k];

		if (i && p->fd[FIRST_SLOT + k].revents && i->eventfd.fd == p->fd[FIRST_SLOT + k].fd &&
		    virt_eventfd_consume(&i->eventfd))
			inject(i);
	}
}

static void *irqfd_thread(void *arg)
{
	struct polled p = { 0 };

	pthread_mutex_lock(&irqfds.lock);
	while (!host_threads_end()) {
		int n;

		copy_slots(&p);
		pthread_mutex_unlock(&irqfds.lock);
		n = poll(p.fd, p.nr, -1);
		pthread_mutex_lock(&irqfds.lock);
		if (n > 0)
			take_counts(&p);
	}
	pthread_mutex_unlock(&irqfds.lock);
	own_free(p.fd);
	return NULL;
}

static int start_thread(void)
{
	int fd, err;

	if (irqfds.wake_fd >= 0)
		return 0;
	fd = (int)syscall(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return err_born(errno, "no eventfd");
	irqfds.wake_fd = own_fd_keep(fd);
	err = host_thread_start_for_good("userkvm-irqfd", irqfd_thread, NULL);
	if (err) {
		own_fd_close(irqfds.wake_fd);
		irqfds.wake_fd = -1;
		return err;
	}
	return 0;
}

/* Lock held. */
static void slots_changed(void)
{
	const uint64_t one = 1;

	irqfds.changes++;
	(void)!syscall(SYS_write, irqfds.wake_fd, &one, sizeof(one));
}

/* A slot for i, which the thread polls from then on. */
static int listen_to(struct irqfd *i)
{
	uint32_t slot = 0;

	while (slot < irqfds.nr_slots && irqfds.slots[slot])
		slot++;
	if (slot == irqfds.nr_slots) {
		uint32_t nr = irqfds.nr_slots ? irqfds.nr_slots * 2 : 32;
		struct irqfd **bigger = own_realloc(irqfds.slots, nr * sizeof(*bigger));

		if (!bigger)
			return err_born(ENOMEM, "no memory for %u irqfds", nr);
		memset(bigger + irqfds.nr_slots, 0,
		       (nr - irqfds.nr_slots) * sizeof(*bigger));
		irqfds.slots = bigger;
		irqfds.nr_slots = nr;
	}
	i->slot = slot;
	irqfds.slots[slot] = i;
	slots_changed();
	return 0;
}

/* The guest's EOI of a level-triggered GSI. RCU read-side section. */
static void resampler_acked(struct kvm_irq_ack_notifier *kian)
{
	struct irqfd_resampler *r = container_of(kian, struct irqfd_resampler, notifier);
	struct irqfd *i = __atomic_load_n(&r->irqfds, __ATOMIC_ACQUIRE);

	kvm_set_irq(r->kvm, KVM_IRQFD_RESAMPLE_IRQ_SOURCE_ID, kian->gsi, 0);
	for (; i; i = __atomic_load_n(&i->resampler_next, __ATOMIC_ACQUIRE))
		virt_eventfd_signal(&i->resamplefd);
}

static int join_resampler(struct irqfd *i)
{
	struct irqfd_resampler *r = i->kvm->irqfds->resamplers;

	while (r && r->notifier.gsi != i->gsi)
		r = r->next;
	if (!r) {
		r = own_calloc(1, sizeof(*r));
		if (!r)
			return err_born(ENOMEM, "no memory for a resampler");
		r->kvm = i->kvm;
		r->notifier.gsi = i->gsi;
		r->notifier.irq_acked = resampler_acked;
		r->next = i->kvm->irqfds->resamplers;
		i->kvm->irqfds->resamplers = r;
		kvm_register_irq_ack_notifier(i->kvm, &r->notifier);
	}
	i->resampler = r;
	i->resampler_next = r->irqfds;
	__atomic_store_n(&r->irqfds, i, __ATOMIC_RELEASE);
	return 0;
}

static void leave_resampler(struct irqfd *i)
{
	struct irqfd_resampler *r = i->resampler, **link;

	if (!r)
		return;
	for (struct irqfd **p = &r->irqfds; *p; p = &(*p)->resampler_next) {
		if (*p == i) {
			__atomic_store_n(p, i->resampler_next, __ATOMIC_RELEASE);
			break;
		}
	}
	lib_rcu_synchronize();
	i->resampler = NULL;
	if (r->irqfds)
		return;
	for (link = &i->kvm->irqfds->resamplers; *link != r; link = &(*link)->next)
		;
	*link = r->next;
	kvm_unregister_irq_ack_notifier(i->kvm, &r->notifier);
	kvm_set_irq(i->kvm, KVM_IRQFD_RESAMPLE_IRQ_SOURCE_ID, i->gsi, 0);
	own_free(r);
}

/* Not yet, or no longer, in anybody's list. irqfds.lock held. */
static void irqfd_free(struct irqfd *i)
{
	leave_resampler(i);
	virt_eventfd_put(&i->eventfd);
	virt_eventfd_put(&i->resamplefd);
	own_free(i);
}

static void unlisten(struct irqfd *i)
{
	irqfds.slots[i->slot] = NULL;
	slots_changed();
}

/* irqfds.lock held. */
static int publish(struct irqfd *i)
{
	struct kvm *kvm = i->kvm;
	int err;

	if (!kvm->irqfds)
		kvm->irqfds = own_calloc(1, sizeof(*kvm->irqfds));
	if (!kvm->irqfds)
		return err_born(ENOMEM, "no memory for irqfds");
	for (struct irqfd *o = kvm->irqfds->irqfds; o; o = o->next) {
		if (o->eventfd.id == i->eventfd.id)
			return err_born(EBUSY, "this eventfd drives GSI %u already", o->gsi);
	}
	err = start_thread();
	if (!err && i->resamplefd.fd >= 0)
		err = join_resampler(i);
	if (!err)
		err = listen_to(i);
	if (err)
		return err;
	i->next = kvm->irqfds->irqfds;
	kvm->irqfds->irqfds = i;
	return 0;
}

static int assign(struct kvm *kvm, const struct kvm_irqfd *args)
{
	bool resample = args->flags & KVM_IRQFD_FLAG_RESAMPLE;
	struct irqfd *i;
	int err;

	if (resample ? !kvm->vpic : !kvm->vpic && !kvm->irqchip_split)
		return err_born(EINVAL, "irqfd without the in-kernel irqchip it needs");
	i = own_calloc(1, sizeof(*i));
	if (!i)
		return err_born(ENOMEM, "no memory for an irqfd");
	i->kvm = kvm;
	i->gsi = args->gsi;
	i->eventfd.fd = i->resamplefd.fd = -1;
	err = virt_eventfd_get((int)args->fd, &i->eventfd);
	if (!err && resample)
		err = virt_eventfd_get((int)args->resamplefd, &i->resamplefd);
	pthread_mutex_lock(&irqfds.lock);
	if (!err)
		err = publish(i);
	if (err)
		irqfd_free(i);
	pthread_mutex_unlock(&irqfds.lock);
	return err;
}

/* Removes the irqfds of a VM with this eventfd and GSI; all of them with id NULL. */
static void remove_matching(struct kvm *kvm, const uint64_t *id, uint32_t gsi)
{
	struct irqfd **p;

	pthread_mutex_lock(&irqfds.lock);
	for (p = kvm->irqfds ? &kvm->irqfds->irqfds : NULL; p && *p;) {
		struct irqfd *i = *p;

		if (id && (i->eventfd.id != *id || i->gsi != gsi)) {
			p = &i->next;
			continue;
		}
		*p = i->next;
		unlisten(i);
		irqfd_free(i);
	}
	pthread_mutex_unlock(&irqfds.lock);
}

int kvm_irqfd(struct kvm *kvm, const struct kvm_irqfd *args)
{
	uint64_t id;
	int err;

	if (args->flags & ~(uint32_t)(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE))
		return err_born(EINVAL, "irqfd flags %#x", args->flags);
	if (!(args->flags & KVM_IRQFD_FLAG_DEASSIGN))
		return assign(kvm, args);
	err = virt_eventfd_id((int)args->fd, &id);
	if (err)
		return err;
	remove_matching(kvm, &id, args->gsi);
	return 0;
}

void kvm_irqfd_release(struct kvm *kvm)
{
	remove_matching(kvm, NULL, 0);
	own_free(kvm->irqfds);
	kvm->irqfds = NULL;
}
