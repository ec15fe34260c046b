/*
 * What the library says on standard error while a function runs.
 */
#ifndef TESTS_SAID_H
#define TESTS_SAID_H

#include "client.h"

/* Standard error of what `fn` does: a pipe stands in place of descriptor 2. */
static inline const char *said(void (*fn)(struct client *), struct client *c)
{
	static char buf[8192];
	int saved = dup(STDERR_FILENO), p[2];
	ssize_t n;

	assert_int_equal(pipe(p), 0);
	dup2(p[1], STDERR_FILENO);
	close(p[1]);
	fn(c);
	dup2(saved, STDERR_FILENO);
	close(saved);
	n = read(p[0], buf, sizeof(buf) - 1);
	close(p[0]);
	buf[n > 0 ? n : 0] = 0;
	return buf;
}

#endif
