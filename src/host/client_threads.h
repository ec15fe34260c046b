/*
 * The client's threads, as far as the library has to know them: a process ends with its last one.
 *
 * Threads of the library (thread.h) would keep a process alive whose last thread has ended by
 * pthread_exit(), by exit(2) or by a seccomp filter. So each thread of the client's that calls the library
 * holds a robust mutex all its life. One thread of the library waits for these, one after the other: Linux
 * gives it the mutex of a thread that has ended in whatever way.
 *
 *	client thread: host_client_thread() ── holds its mutex ──────────── ends
 *	"userkvm-last":         pthread_mutex_lock() ........................ EOWNERDEAD ─> the next
 *	                                             none is left: all threads of the library return
 *
 * The process then ends as it would have without the library: with exit(0) by the C library where the last
 * thread ended by pthread_exit(), else with the status of the main thread.
 */
#ifndef USERKVM_HOST_CLIENT_THREADS_H
#define USERKVM_HOST_CLIENT_THREADS_H

#include "lib/types.h"

extern __thread bool host_client_thread_known __attribute__((tls_model("initial-exec")));
void host_client_thread_add(void);

/* The calling thread is one of the client's. No system call after the first time. */
static inline void host_client_thread(void)
{
	if (unlikely(!host_client_thread_known))
		host_client_thread_add();
}

/*
 * Before it can run a vCPU: the descriptor is opened that host_client_thread_run_delay() reads. No system call
 * after the first time.
 */
extern __thread bool host_client_thread_prepared __attribute__((tls_model("initial-exec")));
void host_client_thread_prepare_slow(void);
static inline void host_client_thread_prepare(void)
{
	if (unlikely(!host_client_thread_prepared))
		host_client_thread_prepare_slow();
}

/*
 * How long the calling thread has waited for a processor in all, in ns (Linux: sched_info.run_delay). One
 * system call, pread64. -ENOSYS: this kernel does not count it, or the thread was never prepared.
 */
must_check int host_client_thread_run_delay(uint64_t *ns);

/* It is one no longer: for those that end without the kernel's telling (src/trap). */
void host_client_thread_ends(void);
/*
 * The client has given the kernel a robust list of its own for one of its threads (a program without a dynamic loader):
 * by those of the C library nobody hears of a thread's death any more.
 */
void host_client_robust_list_lost(void);

/*
 * For the loops of the library's own threads: no thread of the client's is left, return. A thread that waits on
 * a condition variable has a waker, called once then by another thread; one that polls polls
 * host_threads_end_fd() too (an eventfd, never read; -1: there is none).
 */
bool host_threads_end(void);
int host_threads_end_fd(void);
struct host_waker {
	void (*wake)(void *arg); /* (c) */
	void *arg;		 /* (c) */
	struct host_waker *next; /* client_threads.c's */
};
void host_waker_add(struct host_waker *w);
void host_waker_remove(struct host_waker *w);

/* With the first thread of the library's own. (thread.c) -ENOMEM, -EAGAIN. */
must_check int host_client_threads_watch(void);

#endif
