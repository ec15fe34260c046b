/*
 * Threads of our own inside the client's process. They block every signal, so
 * that the client's handlers never run on them, and carry a name for debuggers.
 */
#ifndef USERKVM_HOST_THREAD_H
#define USERKVM_HOST_THREAD_H

#include <pthread.h>

#include "lib/types.h"

struct host_thread {
	pthread_t thread;
	void *stack;
};

/*
 * Start fn(arg) with all signals blocked, to be ended by host_thread_join(). -EAGAIN, -ENOMEM.
 * name: at most 15 bytes. A stack is 1 MiB, the C library's thread-local storage included.
 */
must_check int host_thread_start(struct host_thread *out, const char *name, void *(*fn)(void *), void *arg);
/* Waits for fn() to return. */
void host_thread_join(struct host_thread *t);
/* The same for a thread that ends with the process: its stack is never given back. */
must_check int host_thread_start_for_good(const char *name, void *(*fn)(void *), void *arg);

/* How many of those there are. */
unsigned host_threads_of_ours(void);

/* A number no other thread of the process has, or will have. */
uint64_t host_thread_serial(void);
/* What the calling thread has used of processors so far, in ns. */
uint64_t host_thread_cpu_ns(void);

#endif
