/* Calls without their signals (lib/quiet.h). System calls of their own: the preload library takes libc's names over. */
#include "lib/quiet.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BIT(sig) (1ULL << ((sig) - 1))

static const uint64_t both = BIT(SIGXFSZ) | BIT(SIGPIPE);

struct quiet {
	uint64_t mask;    /* the thread's */
	uint64_t pending; /* of both, before the call */
};

static struct quiet begin(void)
{
	struct quiet q = { 0 };

	syscall(SYS_rt_sigprocmask, SIG_BLOCK, &both, &q.mask, sizeof(q.mask));
	if (q.mask & both) /* else none can be */
		syscall(SYS_rt_sigpending, &q.pending, sizeof(q.pending));
	return q;
}

/* r: what the call has returned, with errno. Keeps errno. */
static long end(const struct quiet *q, long r)
{
	const struct timespec now = { 0 };
	int e = errno;
	uint64_t came = r >= 0 ? 0 : e == EFBIG ? BIT(SIGXFSZ) : e == EPIPE ? BIT(SIGPIPE) : 0;

	came &= ~q->pending;
	if (came)
		syscall(SYS_rt_sigtimedwait, &came, NULL, &now, sizeof(came));
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &q->mask, NULL, sizeof(q->mask));
	errno = e;
	return r < 0 ? -e : r;
}

long lib_quiet_write(int fd, const void *bytes, size_t n)
{
	struct quiet q = begin();

	return end(&q, syscall(SYS_write, fd, bytes, n));
}

int lib_quiet_truncate(int fd, uint64_t bytes)
{
	struct quiet q = begin();

	return (int)end(&q, syscall(SYS_ftruncate, fd, bytes));
}
