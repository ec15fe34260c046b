/*
 * Messages to stderr, never to stdout (it is the client's).
 *
 * USERKVM_LOG is a comma list: errors (every err_born), info, debug. A broken
 * VM is always reported. Callable from any thread; not from a signal handler.
 */
#ifndef USERKVM_LIB_LOG_H
#define USERKVM_LIB_LOG_H

#include <stdbool.h>

enum log_class { LOG_ERRORS, LOG_INFO, LOG_DEBUG, LOG_CLASSES };

bool log_enabled(enum log_class c);

/* One line "userkvm: …" on stderr when the class is enabled. */
void log_line(enum log_class c, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * One line on stderr for the author of a client whose call went wrong by its own doing, whatever
 * USERKVM_LOG says: at most LOG_TOLD_MAX in the life of a process, so that a client which tries on
 * purpose is not drowned.
 */
#define LOG_TOLD_MAX 16
void log_told(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * One line on stderr whatever USERKVM_LOG says: for what the user must see. Of one format at most
 * LOG_WINDOW_MAX lines come in LOG_WINDOW_NS; the next one then says how many did not.
 */
#define LOG_WINDOW_NS 5000000000ULL
#define LOG_WINDOW_MAX 20
void log_always(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same without a limit: lines of one report, which comes once. */
void log_dump(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
