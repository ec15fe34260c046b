/*
 * The client's signal handlers run behind a trampoline, so that none runs in the
 * middle of a call that the library serves, and KVM_RUN learns that one waits (it
 * returns -EINTR, as Linux does).
 *
 *	kernel ─> trampoline ─┬─ the thread is the client's: the handler
 *	                      └─ in the library: pending again, the handler when it leaves
 *
 * Invariants
 * 1. sigaction() shows the client exactly what it set.
 * 2. A signal that is blocked outside KVM_RUN and let in only to end it
 *    (KVM_SET_SIGNAL_MASK) does not run its handler: it is queued again and
 *    stays pending until the client unblocks it.
 * 3. The same holds for such a signal without a handler: it is guarded by the
 *    trampoline alone, lest its default action end the program in mid-run.
 * 4. SA_RESETHAND is served here: a signal that comes twice, since it waited, is not
 *    the second one.
 * 5. A child of vfork() has signal actions of its own and its parent's memory: it changes
 *    its actions in the kernel, and nothing here.
 * 6. SEGV, BUS, FPE and ILL belong to the host room; the client's handlers for
 *    them are kept by host_client_action().
 *
 * Locks: lock guards the table against two sigaction() calls; handlers read
 * one atomic word and take no lock.
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "abi/abi.h"
#include "lib/fork.h"
#include "preload/real.h"
#include "userkvm/userkvm.h"

#define SIGNALS 65
/* Beside the handler's address in one word. */
#define TAKES_SIGINFO (1ULL << 63)
#define ONCE (1ULL << 62) /* SA_RESETHAND */
#define ADDRESS (ONCE - 1)

static struct {
	pthread_mutex_t lock;
	uint64_t handler[SIGNALS]; /* what the trampoline calls; 0: not behind it */
	struct sigaction client[SIGNALS];
	bool guarded[SIGNALS]; /* (a) behind it without a handler, see preload_guard_signals */
} table = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* Bounds of this library in memory, from the linker. */
extern const char __ehdr_start[] __attribute__((visibility("hidden")));
extern const char __etext[] __attribute__((visibility("hidden")));

bool preload_is_own_code(const void *p)
{
	return ((const char *)p >= __ehdr_start && (const char *)p < __etext) || abi_is_own_code(p);
}

static void unlock_in_child(void)
{
	pthread_mutex_init(&table.lock, NULL);
}
LIB_IN_FORKED_CHILD(unlock_in_child)

static void send_again(int signo, siginfo_t *info)
{
	syscall(SYS_rt_tgsigqueueinfo, getpid(), (pid_t)syscall(SYS_gettid), signo, info);
}

/* What would have happened without the guard; it does when the trampoline returns. */
static void default_action(int signo, siginfo_t *info)
{
	struct sigaction act = { .sa_handler = SIG_DFL };

	sigemptyset(&act.sa_mask);
	REAL(sigaction)(signo, &act, NULL);
	if (!abi_actions_are_apart())
		__atomic_store_n(&table.guarded[signo], false, __ATOMIC_RELEASE);
	send_again(signo, info);
}

/* The handler h of SA_RESETHAND is about to run: the default comes back. False: it ran already. */
static bool is_first(int signo, uint64_t h)
{
	sigset_t all, before;
	struct sigaction dfl;
	bool first;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_mutex_lock(&table.lock);
	first = table.handler[signo] == h;
	if (first) {
		dfl = table.client[signo];
		dfl.sa_handler = SIG_DFL;
		REAL(sigaction)(signo, &dfl, NULL);
	}
	if (first && !abi_actions_are_apart()) {
		table.client[signo] = dfl;
		__atomic_store_n(&table.handler[signo], 0, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&table.lock);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return first;
}

static void trampoline(int signo, siginfo_t *info, void *context)
{
	uint64_t h = __atomic_load_n(&table.handler[signo], __ATOMIC_ACQUIRE);
	int saved = errno;
	bool held;

	if (abi_hold_signal(signo, info, context, h != 0)) {
		errno = saved;
		return;
	}
	errno = saved;
	if (!h) {
		if (__atomic_load_n(&table.guarded[signo], __ATOMIC_ACQUIRE))
			default_action(signo, info);
		return;
	}
	if ((h & ONCE) && !is_first(signo, h)) {
		send_again(signo, info); /* for what is there by now */
		return;
	}
	held = abi_hold_segv(false);
	abi_mask_changed();
	abi_hold_segv(held || (abi_keeps_segv_open() && sigismember(&table.client[signo].sa_mask, SIGSEGV) == 1));
	if (h & TAKES_SIGINFO)
		((void (*)(int, siginfo_t *, void *))(uintptr_t)(h & ADDRESS))(signo, info, context);
	else
		((void (*)(int))(uintptr_t)(h & ADDRESS))(signo);
	abi_mask_changed();
	abi_hold_segv(held);
}

static bool is_function(const struct sigaction *act)
{
	return act->sa_handler != SIG_DFL && act->sa_handler != SIG_IGN;
}

/* Of a handler: what the trampoline does for it. */
static uint64_t word_of(const struct sigaction *act)
{
	uint64_t word = (uint64_t)(uintptr_t)act->sa_handler;

	if (act->sa_flags & SA_SIGINFO)
		word |= TAKES_SIGINFO;
	if (act->sa_flags & (int)SA_RESETHAND)
		word |= ONCE;
	return word;
}

/* lock held, all signals blocked. */
static int set_action(int signo, const struct sigaction *act, struct sigaction *old)
{
	bool behind = table.handler[signo] != 0 || table.guarded[signo];
	struct sigaction now, kernel_old, client_old = table.client[signo];
	uint64_t word = 0;

	if (act) {
		now = *act;
		if (is_function(act)) {
			word = word_of(act);
			/* Before the kernel knows, so that the first signal finds it. */
			__atomic_store_n(&table.handler[signo], word, __ATOMIC_RELEASE);
			now.sa_sigaction = trampoline;
			now.sa_flags = (now.sa_flags & ~(int)SA_RESETHAND) | SA_SIGINFO;
			if (abi_keeps_segv_open())
				sigdelset(&now.sa_mask, SIGSEGV);
		}
	}
	if (REAL(sigaction)(signo, act ? &now : NULL, &kernel_old)) {
		if (act && behind)
			return -1; /* the handler just stored goes with the old disposition */
		if (act)
			__atomic_store_n(&table.handler[signo], 0, __ATOMIC_RELEASE);
		return -1;
	}
	if (old)
		*old = behind && kernel_old.sa_sigaction == trampoline ? client_old : kernel_old;
	if (act) {
		table.client[signo] = *act;
		__atomic_store_n(&table.guarded[signo], false, __ATOMIC_RELEASE);
		/* A handler that may still be running its prologue keeps its word. */
		if (word == 0)
			__atomic_store_n(&table.handler[signo], 0, __ATOMIC_RELEASE);
	}
	return 0;
}

/* In a child of vfork(): what the parent has in front of a handler is shown as that handler. */
static int borrowed_sigaction(int signo, const struct sigaction *act, struct sigaction *old)
{
	struct sigaction was;

	if (REAL(sigaction)(signo, act, &was))
		return -1;
	if (was.sa_sigaction == trampoline)
		was = table.client[signo];
	else if (preload_is_own_code((void *)was.sa_handler))
		abi_client_action(signo, NULL, &was);
	if (old)
		*old = was;
	return 0;
}

static int client_sigaction(int signo, const struct sigaction *act, struct sigaction *old)
{
	sigset_t all, before;
	int r, e;

	if (signo < 1 || signo >= SIGNALS || (act && preload_is_own_code((void *)act->sa_handler)))
		return REAL(sigaction)(signo, act, old);
	if (abi_actions_are_apart())
		return borrowed_sigaction(signo, act, old);
	r = abi_client_action(signo, act, old);
	if (r == 0)
		return 0;
	if (r != -EINVAL) {
		errno = -r;
		return -1;
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_mutex_lock(&table.lock);
	r = set_action(signo, act, old);
	e = errno;
	pthread_mutex_unlock(&table.lock);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	errno = e;
	return r;
}

void preload_guard_signals(const void *kvm_signal_mask)
{
	const struct kvm_signal_mask *mask = kvm_signal_mask;
	struct sigaction act = { .sa_sigaction = trampoline, .sa_flags = SA_SIGINFO }, now;
	sigset_t blocked, all, before;
	uint64_t let_in;
	int signo;

	if (!mask || mask->len != sizeof(let_in))
		return;
	memcpy(&let_in, mask->sigset, sizeof(let_in));
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	blocked = before;
	pthread_mutex_lock(&table.lock);
	for (signo = 1; signo < SIGNALS; signo++) {
		if (let_in >> (signo - 1) & 1 || sigismember(&blocked, signo) != 1 ||
		    abi_client_action(signo, NULL, NULL) != -EINVAL ||
		    REAL(sigaction)(signo, NULL, &now) || now.sa_handler != SIG_DFL)
			continue;
		memset(&table.client[signo], 0, sizeof(table.client[signo]));
		__atomic_store_n(&table.guarded[signo], true, __ATOMIC_RELEASE);
		if (REAL(sigaction)(signo, &act, NULL))
			__atomic_store_n(&table.guarded[signo], false, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&table.lock);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/*
 * Is the program's sigaction() ours? A library that is opened late (dlopen) or stands behind libc
 * is not asked; the library then looks at each ioctl.
 */
__attribute__((constructor)) static void tell_abi(void)
{
	if (preload_is_own_code(dlsym(RTLD_DEFAULT, "sigaction")))
		abi_owns_sigaction();
}

EXPORT int sigaction(int signo, const struct sigaction *act, struct sigaction *old)
{
	if (preload_is_own_code(__builtin_return_address(0)))
		return REAL(sigaction)(signo, act, old);
	return client_sigaction(signo, act, old);
}

static sighandler_t set_handler(int signo, sighandler_t handler, int flags)
{
	struct sigaction act = { .sa_handler = handler, .sa_flags = flags }, old;

	sigemptyset(&act.sa_mask);
	if (flags & SA_RESTART)
		sigaddset(&act.sa_mask, signo);
	return client_sigaction(signo, &act, &old) ? SIG_ERR : old.sa_handler;
}

/* signal(3) as glibc has it by default: BSD semantics. */
EXPORT sighandler_t signal(int signo, sighandler_t handler)
{
	return set_handler(signo, handler, SA_RESTART);
}

EXPORT sighandler_t bsd_signal(int signo, sighandler_t handler);
EXPORT sighandler_t bsd_signal(int signo, sighandler_t handler)
{
	return set_handler(signo, handler, SA_RESTART);
}

EXPORT sighandler_t ssignal(int signo, sighandler_t handler)
{
	return set_handler(signo, handler, SA_RESTART);
}

EXPORT sighandler_t sysv_signal(int signo, sighandler_t handler)
{
	return set_handler(signo, handler, (int)(SA_RESETHAND | SA_NODEFER));
}

EXPORT sighandler_t __sysv_signal(int signo, sighandler_t handler)
{
	return set_handler(signo, handler, (int)(SA_RESETHAND | SA_NODEFER));
}
