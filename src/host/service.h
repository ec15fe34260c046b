/*
 * A thread of the client's in the library, and the signals that come meanwhile.
 *
 *	host_service_begin() ── work ───────────────────────── host_service_end() ─> the handler
 *	                          └ signal ─> host_signal_hold(): blocked, pending again
 *
 * On Linux no handler runs inside a system call. Nor does one here inside what stands for a
 * system call: it may call all that serves it, and the work that it would have interrupted
 * holds locks. So the signal waits, with its siginfo, until the work is over; KVM_RUN is
 * told, and ends with -EINTR. For handlers that the library stands before only (preload).
 *
 * Invariants
 * 1. Outside of service no signal is held, and the thread's mask is the client's own.
 * 2. Of a signal number one is held at most; what comes after it stays pending, and is
 *    handled after it.
 *
 * Context: the thread itself. All of it is async-signal-safe.
 */
#ifndef USERKVM_HOST_SERVICE_H
#define USERKVM_HOST_SERVICE_H

#include <signal.h>
#include <ucontext.h>

#include "lib/types.h"

struct host_service {
	uint32_t depth; /* calls of ours that this thread is in */
	uint64_t held;	/* bit n - 1: signal n waits for the end */
};
extern __thread struct host_service host_service __attribute__((tls_model("initial-exec")));

/* Called whenever a signal is held. One function, from the first open on. */
void host_service_tell(void (*signal_held)(void));

/* Gives the held ones back to the kernel, which runs their handlers before this returns. */
void host_service_release(void);

static inline void host_service_begin(void)
{
	host_service.depth++;
	__asm__ volatile("" ::: "memory"); /* this thread's own handlers look */
}

static inline void host_service_end(void)
{
	__asm__ volatile("" ::: "memory");
	host_service.depth--;
	__asm__ volatile("" ::: "memory");
	if (unlikely(host_service.held) && !host_service.depth)
		host_service_release();
}

static inline bool host_in_service(void)
{
	return host_service.depth != 0;
}

/*
 * In a handler before the client's, with what the kernel gave it. True: the thread is in service and the
 * signal waits; return to where it came from. False: the client's handler may run.
 */
bool host_signal_hold(int signo, siginfo_t *si, ucontext_t *uc);
/* The same of one that cannot be blocked meanwhile: the caller has kept it, for the release to queue it again. */
void host_signal_held(int signo);
/*
 * Pending again for this thread; blocked in the context that goes on. Who will see it: the client's handler
 * (clients_next), before which host_signal_comes() keeps the order of real-time signals, or the client by
 * whatever it calls: then it is behind others of its number.
 */
void host_signal_leave_pending(int signo, siginfo_t *si, ucontext_t *uc, bool clients_next);
void host_signal_comes(int signo, siginfo_t *si);

#endif
