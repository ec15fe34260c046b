/*
 * Threads of our own inside the client's process. They block every signal, so
 * that the client's handlers never run on them, and carry a name for debuggers.
 */
#ifndef USERKVM_HOST_THREAD_H
#define USERKVM_HOST_THREAD_H

#include <pthread.h>

#include "lib/types.h"

/* Start fn(arg) with all signals blocked. -EAGAIN, -ENOMEM. name: at most 15 bytes. */
must_check int host_thread_start(pthread_t *out, const char *name, void *(*fn)(void *), void *arg);

/* How many of those there are. */
unsigned host_threads_of_ours(void);

/* A number no other thread of the process has, or will have. */
uint64_t host_thread_serial(void);
/* What the calling thread has used of processors so far, in ns. */
uint64_t host_thread_cpu_ns(void);

#endif
