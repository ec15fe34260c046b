/*
 * A client's thread may block the signals that our own work raises. Blocked, a
 * fault would end the program; so they are open while the library works on that
 * thread, and only then:
 *
 *	ioctl ─> host_fault_open() ── work, guarded copies, the guest ── host_fault_shut()
 *
 * Invariants
 * 1. Outside the two the thread's mask is the client's own: what it reads back,
 *    sigsuspend() and ppoll(), threads it starts and programs it executes need nothing. But for SIGSEGV, where CPUID is
 *    answered by faults: open at all times, and `segv_held` is the client's (preload/sigmask.c, inherit.c).
 * 2. What somebody sends to the client in between, and the client blocks or has
 *    a handler for, is kept, and pending again afterwards.
 * 3. `known_open` is true only while nothing can have changed the mask unseen;
 *    else the kernel is asked, by the call that opens.
 */
#include "host/fault.h"

#include "host/fault_mask.h"
#include "host/service.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const int owned[HOST_NR_FAULTS] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL };

/* Of a siginfo_t that somebody sent: up to si_value. Thread-local memory is scarce. */
#define SENT_BYTES 32
_Static_assert(offsetof(siginfo_t, si_value) + sizeof(union sigval) == SENT_BYTES, "Linux's siginfo");

static bool told; /* of every change of a mask */

static __thread struct {
	bool known_open;
	bool segv_held; /* the client believes SIGSEGV to be blocked, and it is open */
	uint8_t shut; /* bit n: the client blocks owned[n], and it is open now */
	uint8_t kept; /* bit n: sent[n] is to be pending again */
	uint8_t sent[HOST_NR_FAULTS][SENT_BYTES];
} mask __attribute__((tls_model("initial-exec")));

void host_fault_masks_told(void)
{
	told = true;
}

void host_fault_mask_changed(void)
{
	mask.known_open = false;
	mask.segv_held = false;
}

bool host_fault_segv_is_held(void)
{
	return mask.segv_held;
}

bool host_fault_hold_segv(bool held)
{
	bool before = mask.segv_held;

	mask.segv_held = held;
	return before;
}

static sigset_t set_of(uint8_t bits)
{
	sigset_t set;

	sigemptyset(&set);
	for (unsigned n = 0; n < HOST_NR_FAULTS; n++)
		if (bits >> n & 1)
			sigaddset(&set, owned[n]);
	return set;
}

#define ALL ((uint8_t)((1U << HOST_NR_FAULTS) - 1))

static uint8_t open_all(void)
{
	sigset_t faults = set_of(ALL), old;
	uint8_t were = 0;

	pthread_sigmask(SIG_UNBLOCK, &faults, &old);
	for (unsigned n = 0; n < HOST_NR_FAULTS; n++)
		if (sigismember(&old, owned[n]) == 1)
			were |= (uint8_t)(1U << n);
	return were;
}

void host_fault_send_again(int signo, siginfo_t *si)
{
	pid_t pid = getpid();

	if (si->si_code == SI_TKILL || si->si_code == SI_QUEUE) /* of pthread_sigqueue(), or it came to this thread */
		syscall(SYS_rt_tgsigqueueinfo, pid, (pid_t)syscall(SYS_gettid), signo, si);
	else
		syscall(SYS_rt_sigqueueinfo, pid, signo, si);
}

static void release(uint8_t bits)
{
	siginfo_t si = { 0 };
	int saved = errno;

	bits &= mask.kept;
	mask.kept &= (uint8_t)~bits;
	for (unsigned n = 0; n < HOST_NR_FAULTS; n++) {
		if (!(bits >> n & 1))
			continue;
		memcpy(&si, mask.sent[n], SENT_BYTES);
		host_fault_send_again(owned[n], &si);
	}
	errno = saved;
}

uint16_t host_fault_open(void)
{
	uint8_t were, outer = mask.shut;

	if (likely(mask.known_open))
		return 0;
	/* before they are open: what waits comes at once */
	mask.shut = ALL;
	were = open_all();
	mask.shut = outer | were;
	mask.known_open = told && !were;
	if (unlikely(mask.kept & ~mask.shut))
		release((uint8_t)~mask.shut); /* it came to a thread that does not block it */
	return were ? (uint16_t)(were | outer << 8) : 0;
}

void host_fault_shut(uint16_t opened)
{
	uint8_t were = (uint8_t)opened;
	sigset_t set = set_of(were);

	pthread_sigmask(SIG_BLOCK, &set, NULL);
	mask.shut = (uint8_t)(opened >> 8);
	release(were);
}

void host_fault_release(void)
{
	release((uint8_t)~mask.shut);
}

bool host_fault_keep(int signo, const siginfo_t *si, bool open_too)
{
	for (unsigned n = 0; n < HOST_NR_FAULTS; n++) {
		bool shut = mask.shut >> n & 1;

		if (owned[n] != signo || !(shut || open_too))
			continue;
		if (!(mask.kept >> n & 1))
			memcpy(mask.sent[n], si, SENT_BYTES);
		mask.kept |= (uint8_t)(1U << n);
		if (!shut)
			host_signal_held(signo);
		return true;
	}
	return false;
}

void host_fault_client_handler(void)
{
	sigset_t set = set_of(mask.shut);

	mask.known_open = false;
	if (mask.shut)
		pthread_sigmask(SIG_BLOCK, &set, NULL); /* sigreturn opens them again */
}
