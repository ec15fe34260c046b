/*
 * What a client sees when it looks at /dev/kvm before opening it: a character
 * device 10:232 that everybody may read and write, on machines that have none.
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "abi/abi.h"
#include "preload/real.h"

#define KVM_MAJOR 10
#define KVM_MINOR 232
#define KVM_MODE (S_IFCHR | 0666)

#define ANON_INODE_MODE 0600 /* of no type, as Linux has it */

/* A VM's or vCPU's descriptor: what is left of the memfd below is its device and inode. */
static int answer_fd(int r, int fd, struct stat *st)
{
	if (r == 0 && abi_fd_is_device(fd)) {
		st->st_mode = ANON_INODE_MODE;
		st->st_size = 0;
		st->st_blocks = 0;
	}
	return r;
}

/* struct stat and struct stat64 are the same on x86-64. */
static int answer(struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_mode = KVM_MODE;
	st->st_nlink = 1;
	st->st_rdev = makedev(KVM_MAJOR, KVM_MINOR);
	st->st_blksize = 4096;
	return 0;
}

#define DEFINE_STAT(name, type)                                                        \
	EXPORT int name(const char *path, struct type *st)                             \
	{                                                                              \
		if (preload_is_dev_kvm(path))                                          \
			return answer((struct stat *)st);                              \
		return REAL(name)(path, st);                                           \
	}
DEFINE_STAT(stat, stat)
DEFINE_STAT(stat64, stat64)
DEFINE_STAT(lstat, stat)
DEFINE_STAT(lstat64, stat64)

#define DEFINE_FSTAT(name, type)                                                       \
	EXPORT int name(int fd, struct type *st)                                       \
	{                                                                              \
		if (abi_is_system_fd(fd))                                              \
			return answer((struct stat *)st);                              \
		return answer_fd(REAL(name)(fd, st), fd, (struct stat *)st);           \
	}
DEFINE_FSTAT(fstat, stat)
DEFINE_FSTAT(fstat64, stat64)

#define DEFINE_FSTATAT(name, type)                                                     \
	EXPORT int name(int dirfd, const char *path, struct type *st, int flags)       \
	{                                                                              \
		if (preload_is_dev_kvm(path))                                          \
			return answer((struct stat *)st);                              \
		if ((flags & AT_EMPTY_PATH) && preload_is_empty(path) && abi_is_system_fd(dirfd)) \
			return answer((struct stat *)st);                              \
		return REAL(name)(dirfd, path, st, flags);                             \
	}
DEFINE_FSTATAT(fstatat, stat)
DEFINE_FSTATAT(fstatat64, stat64)

/* The names of programs built before glibc 2.33. */
#define DEFINE_XSTAT(name, type)                                                       \
	EXPORT int name(int version, const char *path, struct type *st);               \
	EXPORT int name(int version, const char *path, struct type *st)                \
	{                                                                              \
		if (preload_is_dev_kvm(path))                                          \
			return answer((struct stat *)st);                              \
		return REAL(name)(version, path, st);                                  \
	}
DEFINE_XSTAT(__xstat, stat)
DEFINE_XSTAT(__xstat64, stat64)
DEFINE_XSTAT(__lxstat, stat)
DEFINE_XSTAT(__lxstat64, stat64)

#define DEFINE_FXSTAT(name, type)                                                      \
	EXPORT int name(int version, int fd, struct type *st);                         \
	EXPORT int name(int version, int fd, struct type *st)                          \
	{                                                                              \
		if (abi_is_system_fd(fd))                                              \
			return answer((struct stat *)st);                              \
		return REAL(name)(version, fd, st);                                    \
	}
DEFINE_FXSTAT(__fxstat, stat)
DEFINE_FXSTAT(__fxstat64, stat64)

EXPORT int statx(int dirfd, const char *path, int flags, unsigned int mask, struct statx *sx)
{
	bool ours = preload_is_dev_kvm(path) ||
		    ((flags & AT_EMPTY_PATH) && preload_is_empty(path) && abi_is_system_fd(dirfd));

	if (!ours)
		return REAL(statx)(dirfd, path, flags, mask, sx);
	memset(sx, 0, sizeof(*sx));
	sx->stx_mask = STATX_TYPE | STATX_MODE | STATX_NLINK | STATX_UID | STATX_GID;
	sx->stx_mode = KVM_MODE;
	sx->stx_nlink = 1;
	sx->stx_blksize = 4096;
	sx->stx_rdev_major = KVM_MAJOR;
	sx->stx_rdev_minor = KVM_MINOR;
	return 0;
}

static int may(int mode)
{
	if (!(mode & X_OK))
		return 0;
	errno = EACCES;
	return -1;
}

EXPORT int access(const char *path, int mode)
{
	return preload_is_dev_kvm(path) ? may(mode) : REAL(access)(path, mode);
}

EXPORT int euidaccess(const char *path, int mode)
{
	return preload_is_dev_kvm(path) ? may(mode) : REAL(euidaccess)(path, mode);
}

EXPORT int eaccess(const char *path, int mode)
{
	return preload_is_dev_kvm(path) ? may(mode) : REAL(eaccess)(path, mode);
}

EXPORT int faccessat(int dirfd, const char *path, int mode, int flags)
{
	return preload_is_dev_kvm(path) ? may(mode) : REAL(faccessat)(dirfd, path, mode, flags);
}
