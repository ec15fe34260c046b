/*
 * Broken invariants of the library's own.
 *
 * The process is the client's and is never ended: a function that finds an
 * invariant broken says so on stderr and backs out, by an error or by doing
 * nothing. Where a VM is at hand, kvm_bug_on() (virt/kvm.h) stops that VM as
 * well, and the processor's code has cpu_bug_on() (cpu/internal.h).
 *
 *	if (bug_on(n > 64))
 *		return -EINVAL;
 */
#ifndef USERKVM_LIB_BUG_H
#define USERKVM_LIB_BUG_H

#include "lib/types.h"

/* True where `broken` is; then a line on stderr (the first 20 of the process). */
#define bug_on(broken)                                          \
	({                                                      \
		bool bug_ = unlikely(broken);                   \
		if (bug_)                                       \
			bug_report(#broken, __FILE__, __LINE__); \
		bug_;                                           \
	})

void bug_report(const char *what, const char *file, int line) __attribute__((cold));
/* "what (file:line)" for a message; truncated to `size`. */
void bug_text(char *buf, size_t size, const char *what, const char *file, int line) __attribute__((cold));

#endif
