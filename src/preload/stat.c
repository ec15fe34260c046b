/*
 * What a client sees when it looks at /dev/kvm before opening it: a character
 * device 10:232 that everybody may read and write, on machines that have none.
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "abi/abi.h"
#include "preload/node.h"
#include "preload/real.h"

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
	preload_node_stat(st);
	return 0;
}

#define DEFINE_STAT(name, type)                                                        \
	EXPORT int name(const char *path, struct type *st)                             \
	{                                                                              \
		if (preload_is_dev_kvm_at(AT_FDCWD, path))                              \
			return answer((struct stat *)st);                              \
		if (preload_host_stat(path, (struct stat *)st))                        \
			return 0;                                                      \
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
		if (preload_is_dev_kvm_at(dirfd, path))                                \
			return answer((struct stat *)st);                              \
		if ((flags & AT_EMPTY_PATH) && preload_is_empty(path) && abi_is_system_fd(dirfd)) \
			return answer((struct stat *)st);                              \
		if (preload_host_stat(path, (struct stat *)st))                        \
			return 0;                                                      \
		return REAL(name)(dirfd, path, st, flags);                             \
	}
DEFINE_FSTATAT(fstatat, stat)
DEFINE_FSTATAT(fstatat64, stat64)

/* The names of programs built before glibc 2.33. */
#define DEFINE_XSTAT(name, type)                                                       \
	EXPORT int name(int version, const char *path, struct type *st);               \
	EXPORT int name(int version, const char *path, struct type *st)                \
	{                                                                              \
		if (preload_is_dev_kvm_at(AT_FDCWD, path))                              \
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
	struct stat st;
	bool ours = preload_is_dev_kvm_at(dirfd, path) ||
		    ((flags & AT_EMPTY_PATH) && preload_is_empty(path) && abi_is_system_fd(dirfd));

	if (ours)
		preload_node_stat(&st);
	else if (!preload_host_stat(path, &st))
		return REAL(statx)(dirfd, path, flags, mask, sx);
	memset(sx, 0, sizeof(*sx));
	sx->stx_mask = STATX_BASIC_STATS;
	sx->stx_mode = (uint16_t)st.st_mode;
	sx->stx_uid = st.st_uid;
	sx->stx_gid = st.st_gid;
	sx->stx_nlink = 1;
	sx->stx_size = (uint64_t)st.st_size;
	sx->stx_ino = st.st_ino;
	sx->stx_blksize = 4096;
	sx->stx_atime = (struct statx_timestamp){ .tv_sec = st.st_atim.tv_sec, .tv_nsec = (uint32_t)st.st_atim.tv_nsec };
	sx->stx_mtime = (struct statx_timestamp){ .tv_sec = st.st_mtim.tv_sec, .tv_nsec = (uint32_t)st.st_mtim.tv_nsec };
	sx->stx_ctime = (struct statx_timestamp){ .tv_sec = st.st_ctim.tv_sec, .tv_nsec = (uint32_t)st.st_ctim.tv_nsec };
	sx->stx_dev_major = major(st.st_dev);
	sx->stx_dev_minor = minor(st.st_dev);
	sx->stx_rdev_major = major(st.st_rdev);
	sx->stx_rdev_minor = minor(st.st_rdev);
	return 0;
}

static int may(int mode)
{
	if (!(mode & X_OK))
		return 0;
	errno = EACCES;
	return -1;
}

/* Nobody writes, anybody reads; a directory may be searched. */
static int may_file(const struct stat *st, int mode)
{
	if (!(mode & W_OK) && (S_ISDIR(st->st_mode) || !(mode & X_OK)))
		return 0;
	errno = EACCES;
	return -1;
}

EXPORT int access(const char *path, int mode)
{
	struct stat st;

	if (preload_host_stat(path, &st))
		return may_file(&st, mode);
	return preload_is_dev_kvm_at(AT_FDCWD, path) ? may(mode) : REAL(access)(path, mode);
}

EXPORT int euidaccess(const char *path, int mode)
{
	struct stat st;

	if (preload_host_stat(path, &st))
		return may_file(&st, mode);
	return preload_is_dev_kvm_at(AT_FDCWD, path) ? may(mode) : REAL(euidaccess)(path, mode);
}

EXPORT int eaccess(const char *path, int mode)
{
	struct stat st;

	if (preload_host_stat(path, &st))
		return may_file(&st, mode);
	return preload_is_dev_kvm_at(AT_FDCWD, path) ? may(mode) : REAL(eaccess)(path, mode);
}

EXPORT int faccessat(int dirfd, const char *path, int mode, int flags)
{
	struct stat st;

	if (preload_host_stat(path, &st))
		return may_file(&st, mode);
	return preload_is_dev_kvm_at(dirfd, path) ? may(mode) : REAL(faccessat)(dirfd, path, mode, flags);
}
