/*
 * The client changes its own address space: guests must not go on with what
 * was mapped before (Linux: the MMU notifier).
 *
 *	abi_mapping_begin ─→ libc's call ─→ abi_mapping_end
 *
 * Only changes that can touch memory that is there: munmap, mremap, mprotect,
 * madvise that drops pages, mmap at a fixed address, and two ioctls of
 * userfaultfd. And MADV_COLD, since the guest's accesses are seen in our tables
 * and not in the host's only. What the library itself
 * maps, and other libraries for it (liburcu, under locks of its own), is never guest memory
 * and goes straight to libc.
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "abi/abi.h"
#include "preload/real.h"

/* caller: a return address */
static bool is_own_work(const void *caller)
{
	return preload_is_own_code(caller) || abi_in_service();
}

static void end_keeping_errno(const struct abi_mapping_change *c, enum abi_mapping_news what, int prot)
{
	int saved = errno;

	abi_mapping_end(c, what, prot);
	errno = saved;
}

#define DEFINE_MMAP(name, offset_type)                                                         \
	EXPORT void *name(void *addr, size_t length, int prot, int flags, int fd,              \
			  offset_type offset)                                                  \
	{                                                                                      \
		struct abi_mapping_change c;                                                   \
		void *p;                                                                       \
		int refused;                                                                   \
                                                                                               \
		if (is_own_work(__builtin_return_address(0)))                                  \
			return REAL(name)(addr, length, prot, flags, fd, offset);              \
		refused = flags & MAP_ANONYMOUS ? 0 : abi_may_mmap(fd, length, prot, flags, offset); \
		if (refused) {                                                                 \
			errno = -refused;                                                      \
			return MAP_FAILED;                                                     \
		}                                                                              \
		if (!(flags & MAP_FIXED))                                                      \
			return REAL(name)(addr, length, prot, flags, fd, offset);              \
		abi_mapping_begin(&c, addr, length);                                           \
		p = REAL(name)(addr, length, prot, flags, fd, offset);                         \
		end_keeping_errno(&c, p == MAP_FAILED ? ABI_MAPPING_GONE : ABI_MAPPING_NEW, prot); \
		return p;                                                                      \
	}
DEFINE_MMAP(mmap, off_t)
DEFINE_MMAP(mmap64, off64_t)

EXPORT int munmap(void *addr, size_t length)
{
	struct abi_mapping_change c;
	int r;

	if (is_own_work(__builtin_return_address(0)))
		return REAL(munmap)(addr, length);
	abi_mapping_begin(&c, addr, length);
	r = REAL(munmap)(addr, length);
	end_keeping_errno(&c, r ? ABI_MAPPING_AS_BEFORE : ABI_MAPPING_GONE, 0);
	return r;
}

/* Where it failed a part may have changed: nothing is known of all of it, then. */
static enum abi_mapping_news protected(int r)
{
	return r ? ABI_MAPPING_GONE : ABI_MAPPING_PROTECTED;
}

EXPORT int mprotect(void *addr, size_t length, int prot)
{
	struct abi_mapping_change c;
	int r;

	if (is_own_work(__builtin_return_address(0)))
		return REAL(mprotect)(addr, length, prot);
	abi_mapping_begin(&c, addr, length);
	r = REAL(mprotect)(addr, length, prot);
	end_keeping_errno(&c, protected(r), prot);
	return r;
}

EXPORT int pkey_mprotect(void *addr, size_t length, int prot, int pkey)
{
	struct abi_mapping_change c;
	int r;

	if (is_own_work(__builtin_return_address(0)))
		return REAL(pkey_mprotect)(addr, length, prot, pkey);
	abi_mapping_begin(&c, addr, length);
	r = REAL(pkey_mprotect)(addr, length, prot, pkey);
	end_keeping_errno(&c, protected(r), prot);
	return r;
}

EXPORT void *mremap(void *addr, size_t old_size, size_t new_size, int flags, ...)
{
	struct abi_mapping_change from, to;
	void *new_addr, *p;
	bool moved;
	va_list ap;

	va_start(ap, flags);
	new_addr = va_arg(ap, void *);
	va_end(ap);
	if (is_own_work(__builtin_return_address(0)))
		return REAL(mremap)(addr, old_size, new_size, flags, new_addr);
	/* A shared mapping may be doubled with an old size of 0; nothing goes away then. */
	abi_mapping_begin(&from, addr, old_size);
	abi_mapping_begin(&to, new_addr, flags & MREMAP_FIXED ? new_size : 0);
	p = REAL(mremap)(addr, old_size, new_size, flags, new_addr);
	moved = p != MAP_FAILED && p != addr && old_size && !(flags & MREMAP_DONTUNMAP);
	/* A mapping that memory has moved to is looked at with the next slot there. */
	end_keeping_errno(&to, p == MAP_FAILED ? ABI_MAPPING_AS_BEFORE : ABI_MAPPING_GONE, 0);
	end_keeping_errno(&from, moved || new_size < old_size ? ABI_MAPPING_GONE : ABI_MAPPING_AS_BEFORE, 0);
	return p;
}

static bool drops_pages(int advice)
{
	switch (advice) {
	case MADV_DONTNEED:
	case MADV_REMOVE:
	case MADV_FREE:
#ifdef MADV_DONTNEED_LOCKED
	case MADV_DONTNEED_LOCKED:
#endif
	case MADV_HWPOISON:
	case MADV_PAGEOUT:
		return true;
	default:
		return false;
	}
}

EXPORT int madvise(void *addr, size_t length, int advice)
{
	struct abi_mapping_change c;
	int r;

	if (is_own_work(__builtin_return_address(0)))
		return REAL(madvise)(addr, length, advice);
	if (!drops_pages(advice)) {
		r = REAL(madvise)(addr, length, advice);
		if (advice == MADV_COLD && !r)
			abi_memory_cold(addr, length);
		return r;
	}
	abi_mapping_begin(&c, addr, length);
	r = REAL(madvise)(addr, length, advice);
	end_keeping_errno(&c, ABI_MAPPING_AS_BEFORE, 0);
	return r;
}

/* Does the pidfd mean this process? (its fdinfo: "Pid:	N") */
static bool is_self(int pidfd)
{
	char path[40], text[512], *at;
	ssize_t n = -1;
	int fd;

	snprintf(path, sizeof(path), "/proc/thread-self/fdinfo/%d", pidfd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, text, sizeof(text) - 1);
		close(fd);
	}
	text[n > 0 ? n : 0] = '\0';
	at = strstr(text, "\nPid:\t");
	return at && atoi(at + 6) == getpid();
}

/* Neither advice that Linux takes here changes what memory holds, so afterwards is early enough. */
EXPORT ssize_t process_madvise(int pidfd, const struct iovec *iov, size_t count, int advice, unsigned flags)
{
	ssize_t done = REAL(process_madvise)(pidfd, iov, count, advice, flags);
	int saved = errno;

	if (done > 0 && (advice == MADV_COLD || advice == MADV_PAGEOUT) && is_self(pidfd)) {
		for (size_t i = 0; i < count; i++) {
			struct abi_mapping_change c;

			if (advice == MADV_COLD) {
				abi_memory_cold(iov[i].iov_base, iov[i].iov_len);
				continue;
			}
			abi_mapping_begin(&c, iov[i].iov_base, iov[i].iov_len);
			abi_mapping_end(&c, ABI_MAPPING_AS_BEFORE, 0);
		}
	}
	errno = saved;
	return done;
}

int preload_userfault_ioctl(int fd, unsigned long request, unsigned long arg)
{
	struct abi_mapping_change c;
	int r, saved;

	if (!abi_userfault_begin(&c, request, arg))
		return REAL(ioctl)(fd, request, arg);
	r = REAL(ioctl)(fd, request, arg);
	saved = errno;
	abi_userfault_end(&c);
	errno = saved;
	return r;
}
