/*
 * Sleeping on a word of memory. All of it is async-signal-safe.
 */
#ifndef USERKVM_LIB_FUTEX_H
#define USERKVM_LIB_FUTEX_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lib/types.h"

/*
 * Sleep while *word == val, timeout_ns at most. 0 woken, -EAGAIN the word
 * moved, -EINTR a signal handler ran (a wait with a timeout is never
 * restarted, SA_RESTART or not), -ETIMEDOUT. errno is left alone.
 */
static inline int futex_wait(uint32_t *word, uint32_t val, uint64_t timeout_ns)
{
	struct timespec ts = { .tv_sec = (time_t)(timeout_ns / 1000000000),
			       .tv_nsec = (long)(timeout_ns % 1000000000) };
	int saved = errno;
	int r = (int)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, val, &ts, NULL, 0);

	r = r < 0 ? -errno : 0;
	errno = saved;
	return r;
}

/*
 * The processor to whoever waits for it, on a vCPU's thread: its filter may end it for sched_yield() (docs/ci.md). This is the
 * shortest sleep there is, some 50 µs with the usual timer slack.
 */
static inline void futex_yield(void)
{
	uint32_t none = 0;

	futex_wait(&none, 0, 1);
}

static inline void futex_wake_all(uint32_t *word)
{
	int saved = errno;

	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
	errno = saved;
}

#endif
