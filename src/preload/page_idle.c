/*
 * /sys/kernel/mm/page_idle/bitmap on hosts without it: open, read and write. And that nobody reads or writes
 * a KVM descriptor.
 *
 * Invariant: as long as the program has no such file open, a read or write
 * costs it a load, a compare and a table look-up more than libc's.
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "abi/abi.h"
#include "preload/real.h"

int preload_opened(int fd, const char *path, int flags)
{
	if (fd >= 0 || errno != ENOENT || strcmp(path, ABI_PAGE_IDLE_BITMAP) != 0)
		return fd;
	return abi_page_idle_open(path, flags);
}

static bool have_files(void)
{
	return __builtin_expect(__atomic_load_n(&abi_page_idle_files, __ATOMIC_RELAXED) != 0, 0);
}

/* Apart, so that the others need no frame for it. offset NULL: at the file's position. */
static __attribute__((noinline)) bool read_served(int fd, void *buf, size_t size, const off_t *offset, ssize_t *r)
{
	struct abi_page_idle_call c = { .out = buf, .size_bytes = size, .offset = offset };

	return abi_page_idle_io(fd, &c, r);
}

static __attribute__((noinline)) bool write_served(int fd, const void *buf, size_t size, const off_t *offset,
						   ssize_t *r)
{
	struct abi_page_idle_call c = { .write = true, .in = buf, .size_bytes = size, .offset = offset };

	return abi_page_idle_io(fd, &c, r);
}

/* read() and write() may be called in signal handlers, dlsym() may not. */
static struct {
	__typeof__(read) *read;
	__typeof__(write) *write;
	__typeof__(pread) *pread;
	__typeof__(pwrite) *pwrite;
} libc;

__attribute__((constructor)) static void find_libc(void)
{
	libc.read = REAL(read);
	libc.write = REAL(write);
	libc.pread = REAL(pread);
	libc.pwrite = REAL(pwrite);
}

/* Linux: the files of KVM have neither. The library itself may. */
static bool refuses(int fd)
{
	if (__builtin_expect(!abi_fd_is_device(fd), 1) || abi_in_service())
		return false;
	errno = EINVAL;
	return true;
}

/* Other libraries' constructors may be earlier. */
#define LIBC(name) (__builtin_expect(libc.name != NULL, 1) ? libc.name : REAL(name))

EXPORT ssize_t read(int fd, void *buf, size_t size)
{
	ssize_t r;

	if (have_files() && read_served(fd, buf, size, NULL, &r))
		return r;
	if (refuses(fd))
		return -1;
	return LIBC(read)(fd, buf, size);
}

EXPORT ssize_t write(int fd, const void *buf, size_t size)
{
	ssize_t r;

	if (have_files() && write_served(fd, buf, size, NULL, &r))
		return r;
	if (refuses(fd))
		return -1;
	return LIBC(write)(fd, buf, size);
}

#define DEFINE_PREAD(name)                                                                              \
	EXPORT ssize_t name(int fd, void *buf, size_t size, off_t offset)                               \
	{                                                                                               \
		ssize_t r;                                                                              \
                                                                                                        \
		if (have_files() && read_served(fd, buf, size, &offset, &r))                            \
			return r;                                                                       \
		if (refuses(fd))                                                                        \
			return -1;                                                                      \
		return LIBC(pread)(fd, buf, size, offset);                                              \
	}
DEFINE_PREAD(pread)
DEFINE_PREAD(pread64)

#define DEFINE_PWRITE(name)                                                                             \
	EXPORT ssize_t name(int fd, const void *buf, size_t size, off_t offset)                         \
	{                                                                                               \
		ssize_t r;                                                                              \
                                                                                                        \
		if (have_files() && write_served(fd, buf, size, &offset, &r))                           \
			return r;                                                                       \
		if (refuses(fd))                                                                        \
			return -1;                                                                      \
		return LIBC(pwrite)(fd, buf, size, offset);                                             \
	}
DEFINE_PWRITE(pwrite)
DEFINE_PWRITE(pwrite64)

/* What fortified programs call. */
EXPORT ssize_t __read_chk(int fd, void *buf, size_t size, size_t room);
EXPORT ssize_t __read_chk(int fd, void *buf, size_t size, size_t room)
{
	ssize_t r;

	if (have_files() && size <= room && read_served(fd, buf, size, NULL, &r))
		return r;
	if (refuses(fd))
		return -1;
	return REAL(__read_chk)(fd, buf, size, room);
}

#define DEFINE_PREAD_CHK(name)                                                                          \
	EXPORT ssize_t name(int fd, void *buf, size_t size, off_t offset, size_t room);                 \
	EXPORT ssize_t name(int fd, void *buf, size_t size, off_t offset, size_t room)                  \
	{                                                                                               \
		ssize_t r;                                                                              \
                                                                                                        \
		if (have_files() && size <= room && read_served(fd, buf, size, &offset, &r))            \
			return r;                                                                       \
		return REAL(name)(fd, buf, size, offset, room);                                         \
	}
DEFINE_PREAD_CHK(__pread_chk)
DEFINE_PREAD_CHK(__pread64_chk)
