/*
 * Signals our own work can raise (SEGV BUS FPE ILL), and whose they are.
 *
 *   signal -> the preload library's, if it was CPUID -> the next instruction
 *          -> in one of the guarded copies?  -> its fix-up: -EFAULT
 *          -> the thread's running processor? -> its hook
 *          -> the client's own action, as if we were not there
 *
 * Under the preload library the client's sigaction() comes to
 * host_client_action(). Where it is libc's (the library was opened late): a handler
 * it installs after ours takes ours away, until host_fault_reclaim() finds it
 * at the next ioctl and puts it behind ours again.
 *
 * Invariants
 * 1. The handler looks at nothing but the context, a thread-local hook and the
 *    client's actions: async-signal-safe.
 * 2. client[] is what the client believes is installed; written under `lock`,
 *    read by the handler as a copy taken field by field (a client that changes
 *    its handler while it faults gets either).
 * 3. A client's handler that passes a signal on to "what was there before",
 *    meaning ours, gets to what was there before ours (before[]), not to
 *    itself. Such a call is known by its siginfo, which is the one being
 *    handled, and by its deeper stack frame.
 */
#include "host/fault.h"

#include "host/fault_mask.h"
#include "host/memory.h"
#include "host/service.h"
#include "lib/error.h"
#include "lib/fork.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

static const int owned[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL };

static struct {
	pthread_mutex_t lock;
	bool installed;
	bool interposed; /* the program's sigaction() is host_client_action() */
	bool (*first)(int signo, siginfo_t *si, void *ucontext); /* (c) once set */
	void (*first_blocked)(bool);
	void (*first_confined)(void);
	struct sigaction client[_NSIG];
	struct sigaction before[_NSIG]; /* what client[] replaced, without interposition */
} fault = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void unlock_in_child(void)
{
	pthread_mutex_init(&fault.lock, NULL);
}
LIB_IN_FORKED_CHILD(unlock_in_child)

static __thread struct {
	host_fault_hook *fn;
	void *owner;
} hook __attribute__((tls_model("initial-exec")));

void host_fault_set_hook(host_fault_hook *fn, void *owner)
{
	hook.owner = owner;
	hook.fn = fn;
}

/* --- guarded accesses: each may fault at one instruction only --- */

extern char host_copy_access[], host_cmpxchg64_access[], host_cmpxchg32_access[];
extern char host_access_failed[];
int host_guarded_copy(void *dst, const void *src, size_t n);
int host_guarded_cmpxchg64(uint64_t *p, uint64_t old, uint64_t val);
int host_guarded_cmpxchg32(uint32_t *p, uint32_t old, uint32_t val);

__asm__(".pushsection .text\n"
	".hidden host_guarded_copy, host_guarded_cmpxchg64, host_guarded_cmpxchg32\n"
	".hidden host_copy_access, host_cmpxchg64_access, host_cmpxchg32_access\n"
	".hidden host_access_failed\n"
	".globl host_guarded_copy, host_guarded_cmpxchg64, host_guarded_cmpxchg32\n"
	".globl host_copy_access, host_cmpxchg64_access, host_cmpxchg32_access\n"
	".globl host_access_failed\n"
	"host_guarded_copy:\n"
	"	mov %rdx, %rcx\n"
	"host_copy_access:\n"
	"	rep movsb\n"
	"	xor %eax, %eax\n"
	"	ret\n"
	"host_guarded_cmpxchg64:\n"
	"	mov %rsi, %rax\n"
	"host_cmpxchg64_access:\n"
	"	lock cmpxchg %rdx, (%rdi)\n"
	"	sete %al\n"
	"	movzbl %al, %eax\n"
	"	ret\n"
	"host_guarded_cmpxchg32:\n"
	"	mov %esi, %eax\n"
	"host_cmpxchg32_access:\n"
	"	lock cmpxchg %edx, (%rdi)\n"
	"	sete %al\n"
	"	movzbl %al, %eax\n"
	"	ret\n"
	"host_access_failed:\n"
	"	mov $-1, %eax\n"
	"	ret\n"
	".popsection\n");

static int born(int r, const void *p)
{
	return r < 0 ? err_born(EFAULT, "client memory at %p", p) : r;
}

int host_copy_from(void *dst, const void *client_src, size_t n)
{
	return born(host_guarded_copy(dst, client_src, n), client_src);
}

int host_copy_to(void *client_dst, const void *src, size_t n)
{
	return born(host_guarded_copy(client_dst, src, n), client_dst);
}

int host_cmpxchg64(uint64_t *client_p, uint64_t old, uint64_t val)
{
	return born(host_guarded_cmpxchg64(client_p, old, val), client_p);
}

int host_cmpxchg32(uint32_t *client_p, uint32_t old, uint32_t val)
{
	return born(host_guarded_cmpxchg32(client_p, old, val), client_p);
}

/* --- the handler --- */

static bool fix_up(ucontext_t *uc)
{
	greg_t *rip = &uc->uc_mcontext.gregs[REG_RIP];

	if (*rip != (greg_t)(uintptr_t)host_copy_access &&
	    *rip != (greg_t)(uintptr_t)host_cmpxchg64_access &&
	    *rip != (greg_t)(uintptr_t)host_cmpxchg32_access)
		return false;
	*rip = (greg_t)(uintptr_t)host_access_failed;
	return true;
}

/* The client's handler that is running on this thread, for invariant 3. */
static __thread struct {
	const siginfo_t *si;
	const char *frame; /* of on_fault() */
} chained __attribute__((tls_model("initial-exec")));

/* The libc's own sigaction(), even where ours stands in front of it. */
static int real_sigaction(int signo, const struct sigaction *act, struct sigaction *old)
{
	static int (*next)(int, const struct sigaction *, struct sigaction *);

	if (!next)
		next = (__typeof__(next))dlsym(RTLD_NEXT, "sigaction");
	return next ? next(signo, act, old) : sigaction(signo, act, old);
}

/* No handler of the client's: let the kernel do what it would have done. */
static void default_action(int signo, const siginfo_t *si)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };

	real_sigaction(signo, &dfl, NULL);
	if (si->si_code <= 0) /* sent, not raised by an instruction that will run again */
		syscall(SYS_tgkill, getpid(), (int)syscall(SYS_gettid), signo);
}

/* SA_RESETHAND; client[] is its parent's in a child of vfork(). */
static void forget_handler(int signo, struct sigaction *slot)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };

	if (host_actions_are_apart())
		real_sigaction(signo, &dfl, NULL);
	else
		slot->sa_handler = SIG_DFL;
}

static void chain(int signo, siginfo_t *si, void *ucontext, const char *frame)
{
	bool passed_on = chained.si == si && frame < chained.frame;
	struct sigaction *slot = passed_on ? &fault.before[signo] : &fault.client[signo];
	struct sigaction act = *slot;
	sigset_t mask = act.sa_mask;
	uint32_t depth = host_service.depth;
	bool holds, held;

	if (act.sa_handler == SIG_IGN && si->si_code <= 0)
		return;
	if (act.sa_handler == SIG_DFL || act.sa_handler == SIG_IGN ||
	    (signo == SIGSEGV && si->si_code > 0 && !passed_on && host_fault_hold_segv(false))) {
		default_action(signo, si);
		return;
	}
	if (act.sa_flags & (int)SA_RESETHAND)
		forget_handler(signo, slot);
	if (!(act.sa_flags & SA_NODEFER))
		sigaddset(&mask, signo);
	host_fault_client_handler();
	holds = host_fault_segv_is_held() || (host_fault_keeps_segv_open() && sigismember(&mask, SIGSEGV) == 1);
	if (holds)
		sigdelset(&mask, SIGSEGV);
	pthread_sigmask(SIG_BLOCK, &mask, NULL); /* sigreturn restores */
	held = host_fault_hold_segv(holds);
	if (!passed_on) {
		chained.si = si;
		chained.frame = frame;
	}
	host_service.depth = 0; /* it may jump away */
	if (act.sa_flags & SA_SIGINFO)
		act.sa_sigaction(signo, si, ucontext);
	else
		act.sa_handler(signo);
	host_service.depth = depth;
	host_fault_mask_changed();
	host_fault_hold_segv(held);
	if (!passed_on)
		chained.si = NULL;
}

static bool has_handler(int signo)
{
	const struct sigaction *act = &fault.client[signo];

	return act->sa_handler != SIG_DFL && act->sa_handler != SIG_IGN;
}

bool host_fault_first(int signo, siginfo_t *si, void *ucontext)
{
	return fault.first && fault.first(signo, si, ucontext);
}

void host_fault_first_blocked(bool is)
{
	if (fault.first_blocked)
		fault.first_blocked(is);
}

void host_fault_first_confined(void)
{
	if (fault.first_confined)
		fault.first_confined();
}

bool host_fault_keeps_segv_open(void)
{
	return fault.first;
}

/* The client believes that it blocks SIGSEGV: it waits, when our work is over blocked by the kernel. */
static void hold_back(int signo, siginfo_t *si, ucontext_t *uc)
{
	sigset_t set;

	if (host_fault_keep(signo, si, host_in_service()))
		return;
	host_fault_mask_changed(); /* it holds it no more */
	host_fault_first_blocked(true);
	sigaddset(&uc->uc_sigmask, signo);
	sigemptyset(&set);
	sigaddset(&set, signo);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	host_fault_send_again(signo, si);
}

static void on_fault(int signo, siginfo_t *si, void *ucontext)
{
	int saved = errno;

	if (host_fault_first(signo, si, ucontext)) {
		errno = saved;
		return;
	}
	if ((signo == SIGSEGV || signo == SIGBUS) && si->si_code > 0 && fix_up(ucontext))
		return;
	if (si->si_code <= 0 && signo == SIGSEGV && host_fault_segv_is_held()) {
		hold_back(signo, si, ucontext);
		errno = saved;
		return;
	}
	if (si->si_code <= 0 && host_fault_keep(signo, si, host_in_service() && has_handler(signo)))
		return;
	if (hook.fn && si->si_code > 0 && hook.fn(hook.owner, signo, si, ucontext))
		return;
	chain(signo, si, ucontext, __builtin_frame_address(0));
	errno = saved;
}

static int install(int signo, struct sigaction *old)
{
	struct sigaction act = { .sa_sigaction = on_fault,
				 .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };

	sigemptyset(&act.sa_mask);
	return real_sigaction(signo, &act, old) ? err_born(errno, "sigaction of signal %d", signo)
						: 0;
}

void host_fault_set_first(bool (*fn)(int signo, siginfo_t *si, void *ucontext), void (*blocked)(bool),
			  void (*all_confined)(void))
{
	fault.first = fn;
	fault.first_blocked = blocked;
	fault.first_confined = all_confined;
}

int host_fault_init(void)
{
	int err = 0;

	pthread_mutex_lock(&fault.lock);
	for (size_t n = 0; !fault.installed && n < ARRAY_SIZE(owned); n++) {
		err = install(owned[n], &fault.client[owned[n]]);
		if (err)
			break;
	}
	fault.installed = !err;
	pthread_mutex_unlock(&fault.lock);
	return err;
}

void host_fault_interposed(void)
{
	fault.interposed = true;
}

static void reclaim(int signo, const struct sigaction *theirs)
{
	pthread_mutex_lock(&fault.lock);
	fault.before[signo] = fault.client[signo];
	fault.client[signo] = *theirs;
	if (install(signo, NULL)) /* it stays as it is; the error has been told */
		fault.client[signo] = fault.before[signo];
	pthread_mutex_unlock(&fault.lock);
}

void host_fault_reclaim(void)
{
	struct sigaction now;

	if (fault.interposed)
		return;
	for (size_t n = 0; n < ARRAY_SIZE(owned); n++)
		if (real_sigaction(owned[n], NULL, &now) == 0 && now.sa_sigaction != on_fault)
			reclaim(owned[n], &now);
}

/* --- the client's view --- */

bool host_fault_owns(int signo)
{
	for (size_t n = 0; n < ARRAY_SIZE(owned); n++)
		if (owned[n] == signo)
			return fault.installed;
	return false;
}

int host_client_action(int signo, const struct sigaction *act, struct sigaction *old)
{
	if (!host_fault_owns(signo))
		return err_born(EINVAL, "signal %d is not ours", signo);
	pthread_mutex_lock(&fault.lock);
	if (old)
		*old = fault.client[signo];
	if (act)
		fault.client[signo] = *act;
	pthread_mutex_unlock(&fault.lock);
	return 0;
}
