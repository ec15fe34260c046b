/*
 * open, ioctl, close and the ways to copy a descriptor: /dev/kvm is ours, all
 * else is libc's.
 *
 * Invariant: a call that has nothing to do with us costs a string compare
 * (open) or a table look-up (the others) and leaves errno alone.
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "abi/abi.h"
#include "lib/own_fd.h"
#include "preload/node.h"
#include "preload/real.h"
#include "userkvm/userkvm.h"

bool preload_is_dev_kvm(const char *path)
{
	return path && strcmp(path, "/dev/kvm") == 0;
}

bool preload_is_empty(const char *path)
{
	return path && !*path;
}

/* --- open --- */

static mode_t mode_of(int flags, va_list ap)
{
	return flags & (O_CREAT | __O_TMPFILE) ? va_arg(ap, mode_t) : 0;
}

/* What open(2) looks at of a device node, besides the device. */
static int open_node(int flags)
{
	if ((flags & O_CREAT) && (flags & O_EXCL)) {
		errno = EEXIST;
		return -1;
	}
	if (flags & O_DIRECTORY) {
		errno = ENOTDIR;
		return -1;
	}
	return userkvm_open("/dev/kvm", flags);
}

#define DEFINE_OPEN(name)                                                              \
	EXPORT int name(const char *path, int flags, ...);                             \
	EXPORT int name(const char *path, int flags, ...)                              \
	{                                                                              \
		mode_t mode;                                                           \
		va_list ap;                                                            \
		int fd;                                                                \
                                                                                       \
		va_start(ap, flags);                                                   \
		mode = mode_of(flags, ap);                                             \
		va_end(ap);                                                            \
		if (preload_is_dev_kvm_at(AT_FDCWD, path))                              \
			return open_node(flags);                                       \
		fd = preload_host_file(path, flags);                                   \
		if (fd != PRELOAD_NOT_OURS)                                            \
			return fd;                                                     \
		return preload_opened(REAL(name)(path, flags, mode), path, flags);    \
	}
DEFINE_OPEN(open)
DEFINE_OPEN(open64)

#define DEFINE_OPENAT(name)                                                            \
	EXPORT int name(int dirfd, const char *path, int flags, ...);                  \
	EXPORT int name(int dirfd, const char *path, int flags, ...)                   \
	{                                                                              \
		mode_t mode;                                                           \
		va_list ap;                                                            \
		int fd;                                                                \
                                                                                       \
		va_start(ap, flags);                                                   \
		mode = mode_of(flags, ap);                                             \
		va_end(ap);                                                            \
		if (preload_is_dev_kvm_at(dirfd, path))                                \
			return open_node(flags);                                       \
		fd = preload_host_file(path, flags);                                   \
		if (fd != PRELOAD_NOT_OURS)                                            \
			return fd;                                                     \
		return preload_opened(REAL(name)(dirfd, path, flags, mode), path, flags); \
	}
DEFINE_OPENAT(openat)
DEFINE_OPENAT(openat64)

/* What fortified programs call. */
#define DEFINE_OPEN_2(name)                                                            \
	EXPORT int name(const char *path, int flags);                                  \
	EXPORT int name(const char *path, int flags)                                   \
	{                                                                              \
		int fd;                                                                \
                                                                                       \
		if (preload_is_dev_kvm_at(AT_FDCWD, path))                              \
			return open_node(flags);                                       \
		fd = preload_host_file(path, flags);                                   \
		if (fd != PRELOAD_NOT_OURS)                                            \
			return fd;                                                     \
		return preload_opened(REAL(name)(path, flags), path, flags);           \
	}
DEFINE_OPEN_2(__open_2)
DEFINE_OPEN_2(__open64_2)

#define DEFINE_OPENAT_2(name)                                                          \
	EXPORT int name(int dirfd, const char *path, int flags);                       \
	EXPORT int name(int dirfd, const char *path, int flags)                        \
	{                                                                              \
		int fd;                                                                \
                                                                                       \
		if (preload_is_dev_kvm_at(dirfd, path))                                \
			return open_node(flags);                                       \
		fd = preload_host_file(path, flags);                                   \
		if (fd != PRELOAD_NOT_OURS)                                            \
			return fd;                                                     \
		return preload_opened(REAL(name)(dirfd, path, flags), path, flags);    \
	}
DEFINE_OPENAT_2(__openat_2)
DEFINE_OPENAT_2(__openat64_2)

/* --- ioctl --- */

#define KVM_IOCTL_TYPE 0xAE

static int ours(int fd, unsigned long request, unsigned long arg)
{
	int r = preload_ioctl(fd, request, arg);

	if (r == 0 && (unsigned int)request == KVM_SET_SIGNAL_MASK)
		preload_guard_signals((const void *)arg);
	return r;
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	unsigned long arg;
	va_list ap;

	va_start(ap, request);
	arg = va_arg(ap, unsigned long);
	va_end(ap);
	/* A KVM ioctl on a descriptor the table lacks may still be ours: userkvm_ioctl looks. */
	if (_IOC_TYPE(request) == KVM_IOCTL_TYPE || userkvm_is_fd(fd))
		return ours(fd, request, arg);
	if (_IOC_TYPE(request) == UFFDIO)
		return preload_userfault_ioctl(fd, request, arg);
	return REAL(ioctl)(fd, request, arg);
}

/* --- close and copies --- */

/* The library's, and no client's: but in a child of vfork(), which does with its own as it likes. */
static bool is_librarys(int fd, int error)
{
	if (!own_fd_is(fd) || abi_fds_are_apart())
		return false;
	errno = error;
	return true;
}

EXPORT int close(int fd)
{
	if (is_librarys(fd, EBADF))
		return -1;
	if (abi_fd_is_ours(fd))
		return userkvm_close(fd);
	return REAL(close)(fd);
}

static void closing_range(unsigned int first, unsigned int last)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) == 0 && last >= lim.rlim_cur)
		last = (unsigned int)lim.rlim_cur;
	for (unsigned int fd = first; fd <= last && fd >= first && fd < 1u << 20; fd++)
		if (userkvm_is_fd((int)fd))
			abi_fd_close((int)fd);
}

/* What lies between the library's own. */
static int close_between(unsigned int first, unsigned int last, int flags)
{
	int r = 0, own;

	while (!r && first <= last) {
		own = first < INT_MAX ? own_fd_next((int)first) : -1;
		if (own < 0 || (unsigned int)own > last)
			return REAL(close_range)(first, last, flags);
		if ((unsigned int)own > first)
			r = REAL(close_range)(first, (unsigned int)own - 1, flags);
		first = (unsigned int)own + 1;
	}
	return r;
}

EXPORT int close_range(unsigned int first, unsigned int last, int flags)
{

	/* With CLOSE_RANGE_CLOEXEC nothing is closed now. */
	if (!(flags & (int)CLOSE_RANGE_CLOEXEC) && first <= last)
		closing_range(first, last);
	/* The library's are close-on-exec already. */
	if (first > last || own_fd_next(0) < 0 || abi_fds_are_apart())
		return REAL(close_range)(first, last, flags);
	return close_between(first, last, flags);
}

EXPORT void closefrom(int lowfd)
{
	unsigned int first = lowfd < 0 ? 0 : (unsigned int)lowfd;

	closing_range(first, ~0u);
	if (own_fd_next(0) < 0 || abi_fds_are_apart() || close_between(first, ~0u, 0))
		REAL(closefrom)(lowfd); /* also where Linux has no close_range() */
}

EXPORT int dup(int fd)
{
	int new = REAL(dup)(fd);

	if (new >= 0 && userkvm_is_fd(fd))
		abi_fd_duplicated(fd, new);
	return new;
}

static void replaced(int oldfd, int newfd, int r)
{
	int saved = errno;

	if (r >= 0 && oldfd != newfd && (userkvm_is_fd(oldfd) || userkvm_is_fd(newfd)))
		abi_fd_duplicated(oldfd, newfd);
	errno = saved;
}

EXPORT int dup2(int oldfd, int newfd)
{
	int r;

	if (oldfd != newfd && is_librarys(newfd, EBUSY))
		return -1;
	r = REAL(dup2)(oldfd, newfd);
	replaced(oldfd, newfd, r);
	return r;
}

EXPORT int dup3(int oldfd, int newfd, int flags)
{
	int r;

	if (oldfd != newfd && is_librarys(newfd, EBUSY))
		return -1;
	r = REAL(dup3)(oldfd, newfd, flags);
	replaced(oldfd, newfd, r);
	return r;
}

#define DEFINE_FCNTL(name)                                                             \
	EXPORT int name(int fd, int cmd, ...);                                         \
	EXPORT int name(int fd, int cmd, ...)                                          \
	{                                                                              \
		void *arg;                                                             \
		va_list ap;                                                            \
		int r;                                                                 \
                                                                                       \
		va_start(ap, cmd);                                                     \
		arg = va_arg(ap, void *);                                              \
		va_end(ap);                                                            \
		r = REAL(name)(fd, cmd, arg);                                          \
		if ((cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC) && r >= 0 &&            \
		    userkvm_is_fd(fd))                                                 \
			abi_fd_duplicated(fd, r);                                      \
		return r;                                                              \
	}
DEFINE_FCNTL(fcntl)
DEFINE_FCNTL(fcntl64)
