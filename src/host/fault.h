/*
 * Host signals that our own work can raise, and who they belong to.
 *
 * Client memory can vanish or fault at any time (munmap, mprotect, truncated
 * files). Every access to it happens inside a guarded region: SIGSEGV and
 * SIGBUS inside one unwind to its start. Silicon stubs raise SIGFPE/SIGILL,
 * which the running processor turns into guest exceptions. Anything else goes
 * to the client's own handler, exactly as if we were not there.
 *
 * The handlers are installed once (host_fault_init), on the alternate stack
 * where there is one, and chain to what was installed before; the preload
 * room's sigaction() keeps the client's later handlers in host_client_action(),
 * and where the program's sigaction() is libc's own, host_fault_reclaim() finds
 * them.
 */
#ifndef USERKVM_HOST_FAULT_H
#define USERKVM_HOST_FAULT_H

#include <signal.h>

#include "lib/types.h"

/* Install the handlers; idempotent, thread-safe. -errno of sigaction. */
must_check int host_fault_init(void);
/*
 * Before client memory is touched or guest code runs: a handler that the program
 * has installed over ours goes behind it. Four short system calls; nothing to do once
 * host_fault_interposed() has said that sigaction() leads to host_client_action(), as
 * it does unless the library was opened late.
 */
void host_fault_interposed(void);
void host_fault_reclaim(void);

/*
 * fn is asked first at every one of the signals, in any thread: true, it was dealt with. Set before other
 * threads exist; needs SIGSEGV open. Async-signal context.
 * blocked: SIGSEGV is (true), or is no more, blocked in the calling thread; told by src/trap, and where a sent one came
 * to a thread that holds it. all_confined: src/trap is about to let a filter be set for all threads.
 */
void host_fault_set_first(bool (*fn)(int signo, siginfo_t *si, void *ucontext), void (*blocked)(bool),
			  void (*all_confined)(void));
bool host_fault_first(int signo, siginfo_t *si, void *ucontext);
void host_fault_first_blocked(bool is);
void host_fault_first_confined(void);
/*
 * Where there is such a function, SIGSEGV is open in the client's threads and handlers even if they block it. `held`:
 * the client believes it to be blocked in this thread; a fault of its own ends the program, as the kernel would have it,
 * and one that is sent is pending, and blocked indeed, from then on. Returns what was told before.
 * host_fault_mask_changed() tells false.
 */
bool host_fault_hold_segv(bool held);
bool host_fault_segv_is_held(void);
bool host_fault_keeps_segv_open(void);

/*
 * A hook of the thread's running processor: first chance at SEGV BUS FPE ILL.
 * Returns true when the signal was dealt with (possibly by changing the
 * context); it may also leave by a non-local jump. NULL: none.
 * Async-signal context.
 */
typedef bool host_fault_hook(void *owner, int signo, siginfo_t *si, void *ucontext);
void host_fault_set_hook(host_fault_hook *hook, void *owner);

/*
 * Copies that survive a vanished source or destination: 0 or -EFAULT.
 * (copy_from_user, copy_to_user.) They take the fast path of memcpy.
 */
must_check int host_copy_from(void *dst, const void *client_src, size_t n);
must_check int host_copy_to(void *client_dst, const void *src, size_t n);
/* Compare-exchange of 8 (or 4) bytes of client memory: 1 swapped, 0 not, -EFAULT. */
must_check int host_cmpxchg64(uint64_t *client_p, uint64_t old, uint64_t val);
must_check int host_cmpxchg32(uint32_t *client_p, uint32_t old, uint32_t val);

/*
 * The client's view of a signal we occupy (SEGV BUS FPE ILL): get/set what its
 * sigaction() calls see. -EINVAL for a signal that is not ours.
 */
bool host_fault_owns(int signo);
int host_client_action(int signo, const struct sigaction *act, struct sigaction *old);

#endif
