/*
 * The library's own descriptors: a bitmap.
 *
 * Invariant: a bit is set before anybody else can know the number, and cleared before it is closed.
 */
#include "lib/export.h"
#include "lib/own_fd.h"

#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/fork.h"

#define FIRST_OWN_FD 512
#define NR_KNOWN 65536 /* numbers beyond are not protected */

static uint64_t known[NR_KNOWN / 64]; /* (a) */

static void forget_in_child(void)
{
	memset(known, 0, sizeof(known));
}
LIB_IN_FORKED_CHILD(forget_in_child)

static void set(int fd)
{
	if (fd >= 0 && fd < NR_KNOWN)
		__atomic_fetch_or(&known[fd / 64], BIT_ULL(fd % 64), __ATOMIC_RELEASE);
}

int own_fd_duplicate(int client_fd)
{
	int fd = (int)syscall(SYS_fcntl, client_fd, F_DUPFD_CLOEXEC, FIRST_OWN_FD);

	if (fd < 0)
		fd = (int)syscall(SYS_fcntl, client_fd, F_DUPFD_CLOEXEC, 3);
	set(fd);
	return fd;
}

int own_fd_keep(int fd)
{
	int high = fd < 0 ? -1 : (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, FIRST_OWN_FD);

	if (high >= 0)
		syscall(SYS_close, fd);
	else
		high = fd;
	set(high);
	return high;
}

void own_fd_close(int fd)
{
	if (fd >= 0 && fd < NR_KNOWN)
		__atomic_fetch_and(&known[fd / 64], ~BIT_ULL(fd % 64), __ATOMIC_RELEASE);
	syscall(SYS_close, fd);
}

USERKVM_SHARED bool own_fd_is(int fd)
{
	return fd >= 0 && fd < NR_KNOWN && (__atomic_load_n(&known[fd / 64], __ATOMIC_ACQUIRE) >> fd % 64 & 1);
}

USERKVM_SHARED int own_fd_next(int from)
{
	for (int i = from / 64; from < NR_KNOWN && i < NR_KNOWN / 64; i++) {
		uint64_t bits = __atomic_load_n(&known[i], __ATOMIC_ACQUIRE);

		if (i == from / 64)
			bits &= ~0ULL << from % 64;
		if (bits)
			return i * 64 + __builtin_ctzll(bits);
	}
	return -1;
}
