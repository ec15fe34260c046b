/*
 * Messages: see log.h. Each message is formatted into a buffer of its own and
 * leaves by one write(2), so lines of several threads do not mix.
 */
#include "lib/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/error.h"
#include "lib/params.h"

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
	/* stderr may be closed; there is nobody left to tell. */
	if (write(STDERR_FILENO, buf, (size_t)n) < 0)
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

void log_always(const char *fmt, ...)
{
	va_list ap;

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
