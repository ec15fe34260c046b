/*
 * Where errors are born.
 *
 * A function that fails returns -errno, the value the ioctl will return. The
 * place that first decides so says it through err_born(), which can log file,
 * line and reason (USERKVM_LOG=errors); everybody else passes it on with a
 * plain return.
 */
#ifndef USERKVM_LIB_ERROR_H
#define USERKVM_LIB_ERROR_H

#include <errno.h>

/* err_born(EINVAL, "slot %u is not aligned", id) -> -EINVAL, logged if asked. */
#define err_born(e, ...) err_born_at((e), __FILE__, __LINE__, __VA_ARGS__)

/* The same for what a client's author has to know though logging is off (log_told() in lib/log.h). */
#define err_told(e, ...) err_told_at((e), __FILE__, __LINE__, __VA_ARGS__)

int err_told_at(int e, const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
int err_born_at(int e, const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#endif
