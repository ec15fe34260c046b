/*
 * What a KVM descriptor is to calls that are not KVM's. Underneath it is a memfd; on Linux it is a device, or an
 * anonymous inode, with ioctl(), some with mmap(), and nothing else.
 *
 * Invariant: a call on another descriptor costs a table look-up more than libc's.
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "abi/abi.h"
#include "preload/real.h"

/* --- position and size --- */

/* KVM's files have no position (Linux: noop_llseek). */
#define DEFINE_LSEEK(name, offset_type)                                                \
	EXPORT offset_type name(int fd, offset_type offset, int whence)                \
	{                                                                              \
		return abi_fd_is_device(fd) ? 0 : REAL(name)(fd, offset, whence);      \
	}
DEFINE_LSEEK(lseek, off_t)
DEFINE_LSEEK(lseek64, off64_t)

#define DEFINE_FTRUNCATE(name, offset_type)                                            \
	EXPORT int name(int fd, offset_type length)                                    \
	{                                                                              \
		if (abi_in_service() || !abi_fd_is_device(fd))                         \
			return REAL(name)(fd, length);                                 \
		errno = EINVAL;                                                        \
		return -1;                                                             \
	}
DEFINE_FTRUNCATE(ftruncate, off_t)
DEFINE_FTRUNCATE(ftruncate64, off64_t)

/* --- its name --- */

/* N of /proc/self/fd/N and its like; -1: another path. */
static int fd_of_path(const char *path)
{
	char own[40];
	const char *places[] = { "/proc/self/fd/", "/proc/thread-self/fd/", "/dev/fd/", own };
	char *end;
	long fd;

	if (!path || path[0] != '/')
		return -1;
	snprintf(own, sizeof(own), "/proc/%d/fd/", (int)getpid());
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		size_t n = strlen(places[i]);

		if (strncmp(path, places[i], n) != 0 || path[n] < '0' || path[n] > '9')
			continue;
		fd = strtol(path + n, &end, 10);
		return *end || fd > INT_MAX ? -1 : (int)fd;
	}
	return -1;
}

/* As readlink(2); -1: not of a descriptor of ours. */
static ssize_t read_name(const char *path, char *buf, size_t size)
{
	char name[64];
	int saved = errno, fd;
	size_t n;

	/* cheap for all others */
	if (!path || (strncmp(path, "/proc/", 6) != 0 && strncmp(path, "/dev/fd/", 8) != 0))
		return -1;
	fd = fd_of_path(path);
	if (fd < 0 || !size || !abi_fd_name(fd, name, sizeof(name))) {
		errno = saved;
		return -1;
	}
	n = strlen(name);
	n = n < size ? n : size;
	memcpy(buf, name, n);
	return (ssize_t)n;
}

EXPORT ssize_t readlink(const char *path, char *buf, size_t size)
{
	ssize_t n = read_name(path, buf, size);

	return n >= 0 ? n : REAL(readlink)(path, buf, size);
}

EXPORT ssize_t readlinkat(int dirfd, const char *path, char *buf, size_t size)
{
	ssize_t n = read_name(path, buf, size);

	return n >= 0 ? n : REAL(readlinkat)(dirfd, path, buf, size);
}

/* What fortified programs call. */
EXPORT ssize_t __readlink_chk(const char *path, char *buf, size_t size, size_t room);
EXPORT ssize_t __readlink_chk(const char *path, char *buf, size_t size, size_t room)
{
	ssize_t n = size <= room ? read_name(path, buf, size) : -1;

	return n >= 0 ? n : REAL(__readlink_chk)(path, buf, size, room);
}

EXPORT ssize_t __readlinkat_chk(int dirfd, const char *path, char *buf, size_t size, size_t room);
EXPORT ssize_t __readlinkat_chk(int dirfd, const char *path, char *buf, size_t size, size_t room)
{
	ssize_t n = size <= room ? read_name(path, buf, size) : -1;

	return n >= 0 ? n : REAL(__readlinkat_chk)(dirfd, path, buf, size, room);
}
