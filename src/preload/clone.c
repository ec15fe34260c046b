/*
 * libc's clone(): a child that shares its parent's memory may share its descriptors or signal actions, too, and the
 * library tells the two kinds apart (host/memory.h, host_fds_are_apart()).
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>

#include "abi/abi.h"
#include "preload/real.h"

EXPORT int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...)
{
	void *more[3]; /* parent_tid, tls, child_tid: as many as the flags ask for */
	va_list ap;

	va_start(ap, arg);
	for (int i = 0; i < 3; i++)
		more[i] = va_arg(ap, void *);
	va_end(ap);
	if ((flags & (CLONE_VM | CLONE_THREAD)) == CLONE_VM)
		abi_child_may_share((uint32_t)flags);
	return REAL(clone)(fn, stack, flags, arg, more[0], more[1], more[2]);
}
