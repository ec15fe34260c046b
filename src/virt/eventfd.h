/*
 * What irqfds and ioeventfds share: holding on to a client's eventfd.
 */
#ifndef USERKVM_VIRT_EVENTFD_H
#define USERKVM_VIRT_EVENTFD_H

#include "lib/types.h"

/* A client's eventfd, kept open by a descriptor of ours. */
struct virt_eventfd {
	int fd;	     /* ours; -1 none */
	bool blocks; /* no O_NONBLOCK when the client gave it */
	uint64_t id; /* the kernel's number of the eventfd: same for all its duplicates */
};

/* -EBADF; -EINVAL not an eventfd; -EMFILE. */
must_check int virt_eventfd_get(int client_fd, struct virt_eventfd *out);
/* The id of a client's descriptor, without keeping it. Errors as above. */
must_check int virt_eventfd_id(int client_fd, uint64_t *id);
/*
 * How a duplicate is closed that is no eventfd: it may be of a VM or a vCPU by
 * then, and those end with their last descriptor.
 */
void virt_eventfd_set_close(int (*fn)(int fd));
void virt_eventfd_put(struct virt_eventfd *e);
/* Add one to the counter; never blocks, as a full one is readable already. */
void virt_eventfd_signal(const struct virt_eventfd *e);
/* Take what is there without blocking; false when there was nothing. */
bool virt_eventfd_consume(const struct virt_eventfd *e);

struct kvm;
struct irqfd;
struct irqfd_resampler;

/* kvm->irqfds. Made by whoever comes first, under slots_lock or the irqfd lock. */
struct kvm_irqfds {
	struct irqfd *irqfds;		    /* irqfd lock */
	struct irqfd_resampler *resamplers; /* irqfd lock */
};

#endif
