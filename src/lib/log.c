/*
 * Messages: see log.h. Each message is formatted into a buffer of its own and
 * leaves by one write(2), so lines of several threads do not mix.
 */
#include "lib/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/error.h"
#include "lib/fork.h"
#include "lib/params.h"
#include "lib/quiet.h"

static const char *const class_name[LOG_CLASSES] = {
	[LOG_ERRORS] = "errors",
	[LOG_INFO] = "info",
	[LOG_DEBUG] = "debug",
};

bool log_enabled(enum log_class c)
{
	return params_has_word("USERKVM_LOG", class_name[c]);
}

static void emit(const char *prefix, const char *fmt, va_list ap)
{
	char buf[512];
	int n = snprintf(buf, sizeof(buf), "userkvm: %s", prefix);
	int m = vsnprintf(buf + n, sizeof(buf) - (size_t)n - 1, fmt, ap);

	if (m < 0)
		return;
	n += m;
	if (n > (int)sizeof(buf) - 2)
		n = (int)sizeof(buf) - 2;
	buf[n++] = '\n';
	/* stderr may be closed, or full; there is nobody left to tell. */
	if (lib_quiet_write(STDERR_FILENO, buf, (size_t)n) < 0)
		return;
}

void log_line(enum log_class c, const char *fmt, ...)
{
	va_list ap;

	if (!log_enabled(c))
		return;
	va_start(ap, fmt);
	emit("", fmt, ap);
	va_end(ap);
}

/* --- lines that a guest or a client may cause again and again --- */

#define KINDS 64 /* formats that are counted at once; the slot of another is taken over */

static struct kind {
	const char *fmt;
	uint64_t since_ns;
	unsigned nr, left_out;
} kinds[KINDS];
static pthread_mutex_t kinds_lock = PTHREAD_MUTEX_INITIALIZER;

static void unlock_in_child(void)
{
	pthread_mutex_init(&kinds_lock, NULL);
}
LIB_IN_FORKED_CHILD(unlock_in_child)

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* May a line of this kind come now? *left_out: how many did not since the last. */
static bool may_come(const char *fmt, unsigned *left_out)
{
	struct kind *k = &kinds[(uintptr_t)fmt / 16 % KINDS];
	uint64_t now = now_ns();
	bool yes;

	pthread_mutex_lock(&kinds_lock);
	if (k->fmt != fmt)
		*k = (struct kind){ .fmt = fmt, .since_ns = now };
	if (now - k->since_ns > LOG_WINDOW_NS) {
		k->since_ns = now;
		k->nr = 0;
	}
	yes = k->nr < LOG_WINDOW_MAX;
	k->nr += yes;
	k->left_out += !yes;
	*left_out = yes ? k->left_out : 0;
	if (yes)
		k->left_out = 0;
	pthread_mutex_unlock(&kinds_lock);
	return yes;
}

void log_dump(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	emit("", fmt, ap);
	va_end(ap);
}

void log_always(const char *fmt, ...)
{
	unsigned left_out;
	va_list ap;

	if (!may_come(fmt, &left_out))
		return;
	if (left_out)
		log_dump("%u lines like the next were left out", left_out);
	va_start(ap, fmt);
	emit("", fmt, ap);
	va_end(ap);
}

void log_told(const char *fmt, ...)
{
	static unsigned nr; /* atomic */
	unsigned before = __atomic_load_n(&nr, __ATOMIC_RELAXED);
	va_list ap;

	if (before >= LOG_TOLD_MAX || __atomic_fetch_add(&nr, 1, __ATOMIC_RELAXED) >= LOG_TOLD_MAX)
		return;
	va_start(ap, fmt);
	emit("", fmt, ap);
	va_end(ap);
	if (before + 1 == LOG_TOLD_MAX)
		log_always("more of the kind is told by USERKVM_LOG=errors only");
}

int err_told_at(int e, const char *file, int line, const char *fmt, ...)
{
	char why[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	if (!log_enabled(LOG_ERRORS))
		log_told("%s: %s", why, strerror(e));
	return err_born_at(e, file, line, "%s", why);
}

int err_born_at(int e, const char *file, int line, const char *fmt, ...)
{
	char prefix[128];
	va_list ap;
	int saved = errno;

	if (log_enabled(LOG_ERRORS)) {
		snprintf(prefix, sizeof(prefix), "%s:%d: %s: ", file, line,
			 strerror(e));
		va_start(ap, fmt);
		emit(prefix, fmt, ap);
		va_end(ap);
	}
	errno = saved;
	return -e;
}
