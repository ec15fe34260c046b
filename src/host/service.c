/*
 * Signals that wait for the end of what stands for a system call (service.h).
 */
#include "host/service.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/fault_mask.h"

__thread struct host_service host_service __attribute__((tls_model("initial-exec")));

static void (*tell)(void);

void host_service_tell(void (*signal_held)(void))
{
	__atomic_store_n(&tell, signal_held, __ATOMIC_RELEASE);
}

/* Linux's own masks: the C library's functions leave out two signals that are its. */
static uint64_t *kernel_mask(ucontext_t *uc)
{
	return (uint64_t *)(void *)&uc->uc_sigmask;
}

static void change_mask(int how, const uint64_t *set, uint64_t *old)
{
	syscall(SYS_rt_sigprocmask, how, set, old, sizeof(*set));
}

static int queue_to_self(int signo, siginfo_t *si)
{
	return (int)syscall(SYS_rt_tgsigqueueinfo, getpid(), (pid_t)syscall(SYS_gettid), signo, si);
}

/*
 * Real-time signals queue, and one that is queued again is behind what was sent meanwhile. So its
 * siginfo stays here and a placeholder goes to the queue's end. As each of the queue comes out it
 * leaves its siginfo and takes the one that is here; the placeholder takes the last.
 *
 *	here: 0    queue: 1 2 P    ─>  handler(0), here: 1  ─>  handler(1), here: 2  ─>  P: handler(2)
 */
#define NR_FIRST 2
#define SIGINFO_BYTES 48 /* what Linux moves of a siginfo_t */
#define PLACEHOLDER 0x75736572 /* si_errno, which no sender uses */

static __thread struct {
	int signo; /* 0: free */
	uint8_t si[SIGINFO_BYTES];
} first[NR_FIRST] __attribute__((tls_model("initial-exec")));

/* The index of signal signo's, or of a free one for 0; NR_FIRST: none. */
static unsigned find_first(int signo)
{
	unsigned i = 0;

	while (i < NR_FIRST && first[i].signo != signo)
		i++;
	return i;
}

static void keep_first(int signo, siginfo_t *si)
{
	unsigned i = find_first(0);

	if (signo < SIGRTMIN || find_first(signo) < NR_FIRST || i == NR_FIRST)
		return;
	memcpy(first[i].si, si, SIGINFO_BYTES);
	first[i].signo = signo;
	*si = (siginfo_t){ .si_signo = signo, .si_errno = PLACEHOLDER, .si_code = SI_QUEUE };
}

static bool is_pending(int signo)
{
	uint64_t set = 0;

	syscall(SYS_rt_sigpending, &set, sizeof(set));
	return set & BIT_ULL(signo - 1);
}

void host_signal_comes(int signo, siginfo_t *si)
{
	unsigned i = find_first(signo);
	uint8_t came[SIGINFO_BYTES];
	bool last;

	if (i == NR_FIRST)
		return;
	last = si->si_errno == PLACEHOLDER;
	if (!last && !is_pending(signo)) { /* the placeholder is gone, with what was ignored meanwhile */
		first[i].signo = 0;
		return;
	}
	memcpy(came, si, SIGINFO_BYTES);
	memcpy(si, first[i].si, SIGINFO_BYTES);
	memcpy(first[i].si, came, SIGINFO_BYTES);
	if (last)
		first[i].signo = 0;
}

/*
 * Where it cannot be queued (the user's queue is full, a filter of the client's forbids it): without what it
 * carried, which kill(2) is never refused.
 */
static void send_bare(int signo)
{
	siginfo_t si = { .si_signo = signo, .si_code = SI_USER };
	unsigned i = find_first(signo);

	if (i < NR_FIRST)
		first[i].signo = 0;
	if (queue_to_self(signo, &si))
		syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), signo);
}

void host_signal_leave_pending(int signo, siginfo_t *si, ucontext_t *uc, bool clients_next)
{
	uint64_t set = BIT_ULL(signo - 1);
	int saved = errno;

	if (clients_next)
		keep_first(signo, si);
	*kernel_mask(uc) |= set;
	change_mask(SIG_BLOCK, &set, NULL); /* with SA_NODEFER it is open here */
	if (queue_to_self(signo, si))
		send_bare(signo);
	errno = saved;
}

void host_signal_held(int signo)
{
	void (*fn)(void) = __atomic_load_n(&tell, __ATOMIC_ACQUIRE);

	host_service.held |= BIT_ULL(signo - 1);
	if (fn)
		fn();
}

bool host_signal_hold(int signo, siginfo_t *si, ucontext_t *uc)
{
	if (host_in_service()) {
		host_signal_leave_pending(signo, si, uc, true);
		host_signal_held(signo);
		return true;
	}
	if (host_service.held) { /* the work is over, and they were first */
		*kernel_mask(uc) &= ~host_service.held;
		host_service_release();
	}
	host_signal_comes(signo, si);
	return false;
}

void host_service_release(void)
{
	uint64_t all = ~0ULL, mask;
	int saved = errno;

	/* No handler between the two: it could jump away, and leave them blocked. */
	change_mask(SIG_SETMASK, &all, &mask);
	mask &= ~host_service.held;
	host_service.held = 0;
	host_fault_release();
	change_mask(SIG_SETMASK, &mask, NULL);
	errno = saved;
}
