/*
 * vCPU threads that confine themselves (`userkvm run --confine`, USERKVM_CONFINE=1): a wall
 * behind the processor's.
 *
 * A thread's first KVM_RUN puts it under a seccomp filter and, by Landlock, out of the file system.
 * It keeps what KVM_RUN needs (docs/ci.md) and what device models do with descriptors that are
 * open. Refused, with EPERM: executable memory, other programs and processes, sockets, and all
 * that the filter's table (confine.c) does not name; files cannot be opened (EACCES), but to read below /proc/self. Threads that
 * it starts are confined likewise. There is no way back.
 */
#ifndef USERKVM_HOST_CONFINE_H
#define USERKVM_HOST_CONFINE_H

#include "lib/types.h"

extern bool host_confine_wanted; /* (c) after host_confine_init() */
extern __thread bool host_confined;

/* With /dev/kvm's first descriptor: reads the environment. */
void host_confine_init(void);
/* Confines the calling thread. 0, or the host's -errno; the thread has a part of the wall then. */
must_check int host_confine_thread_now(void);
/* The same, where it is wanted and has not been done: for each KVM_RUN. */
static inline int host_confine_thread(void)
{
	return likely(!host_confine_wanted || host_confined) ? 0 : host_confine_thread_now();
}
/* Why this host cannot do it, in words; NULL: it can. */
const char *host_confine_fault(void);

#endif
