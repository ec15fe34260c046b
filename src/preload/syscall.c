/*
 * libc's syscall(): a call that the library takes over by its name is taken over by its number as well.
 *
 * The library has it as syscall() by its linker (meson.build).
 *
 * Invariant: compiled for general registers only. The library itself makes system calls by this name while a
 * guest's SIMD registers are loaded; those go straight on.
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <fcntl.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "abi/abi.h"
#include "preload/real.h"

/* The calls that clients are known to make so. */
static bool serve(long number, const long *a, long *result)
{
	switch (number) {
	case SYS_open: *result = open((const char *)a[0], (int)a[1], (mode_t)a[2]); return true;
	case SYS_openat: *result = openat((int)a[0], (const char *)a[1], (int)a[2], (mode_t)a[3]); return true;
	case SYS_ioctl: *result = ioctl((int)a[0], (unsigned long)a[1], a[2]); return true;
	case SYS_close: *result = close((int)a[0]); return true;
	case SYS_close_range: *result = close_range((unsigned)a[0], (unsigned)a[1], (int)a[2]); return true;
	case SYS_dup: *result = dup((int)a[0]); return true;
	case SYS_dup2: *result = dup2((int)a[0], (int)a[1]); return true;
	case SYS_dup3: *result = dup3((int)a[0], (int)a[1], (int)a[2]); return true;
	case SYS_fcntl: *result = fcntl((int)a[0], (int)a[1], a[2]); return true;
	case SYS_mmap:
		*result = (long)mmap((void *)a[0], (size_t)a[1], (int)a[2], (int)a[3], (int)a[4], a[5]);
		return true;
	case SYS_munmap: *result = munmap((void *)a[0], (size_t)a[1]); return true;
	case SYS_mprotect: *result = mprotect((void *)a[0], (size_t)a[1], (int)a[2]); return true;
	case SYS_madvise: *result = madvise((void *)a[0], (size_t)a[1], (int)a[2]); return true;
	case SYS_mremap:
		*result = (long)mremap((void *)a[0], (size_t)a[1], (size_t)a[2], (int)a[3], (void *)a[4]);
		return true;
	case SYS_seccomp: /* a filter of its own; without one it asks what the kernel can */
		if (a[0] == SECCOMP_SET_MODE_STRICT || (a[0] == SECCOMP_SET_MODE_FILTER && a[2]))
			preload_cpuid_confined(a[1] & SECCOMP_FILTER_FLAG_TSYNC);
		return false;
	default: return false;
	}
}

/* Six arguments are read whatever the caller has given, as libc's does: of the sixth ASan would say that it is no part of the caller's frame. */
EXPORT long preload_syscall(long number, ...);
__attribute__((target("general-regs-only"), no_sanitize("address"))) EXPORT long preload_syscall(long number, ...)
{
	long a[6], result;
	va_list ap;

	va_start(ap, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	if (!preload_is_own_code(__builtin_return_address(0)) && !abi_in_service() && serve(number, a, &result))
		return result;
	return REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
