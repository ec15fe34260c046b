/*
 * Descriptors and names: what the preload library's open(), close(), stat() ...
 * do for dynamic programs they do here, called by their own names. A call that
 * is not about /dev/kvm passes.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kvm.h>
#include <linux/openat2.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "abi/abi.h"
#include "lib/program.h"
#include "trap/trap.h"
#include "userkvm/userkvm.h"

#define DEV_KVM "/dev/kvm"
#define SELF_EXE "/proc/self/exe"
#define NAME_MAX_SHOWN 64 /* no name that the preload library shows is longer */

bool trap_string_is(uint64_t client_string, const char *s)
{
	char c;

	do {
		if (abi_client_read(&c, (const void *)client_string++, 1) || c != *s)
			return false;
	} while (*s++);
	return true;
}

/*
 * Is it a name behind which the preload library shows more than the host has: the node, the files that say
 * "VMX"? The caller asks that library by `name`; a client that changes its string meanwhile gets one of the two.
 */
static bool is_shown(uint64_t client_string, char name[NAME_MAX_SHOWN])
{
	static const char *const shown[] = { DEV_KVM, "/proc/cpuinfo", "/sys/module/kvm" };
	size_t n = 0;

	do {
		if (n == NAME_MAX_SHOWN || abi_client_read(name + n, (const char *)client_string + n, 1))
			return false;
		if (n < 4 && name[n] != "/dev"[n] && name[n] != "/pro"[n] && name[n] != "/sys"[n])
			return false; /* most names, after a byte or two */
	} while (name[n++]);
	for (size_t i = 0; i < sizeof(shown) / sizeof(shown[0]); i++)
		if (strncmp(name, shown[i], strlen(shown[i])) == 0)
			return true;
	return false;
}

/* --- open --- */

static char library[PATH_MAX], none[PATH_MAX]; /* (c) what LD_PRELOAD calls the library, and what is opened for it */

void trap_files_init(void)
{
	const char *list = getenv("LD_PRELOAD"), *name = list ? strstr(list, PROGRAM_LIBRARY) : NULL;
	size_t n;

	if (!name || !trap.dynamic)
		return;
	for (n = strlen(PROGRAM_LIBRARY); name > list && name[-1] != ':' && name[-1] != ' '; n++)
		name--;
	if (n < sizeof(library) &&
	    snprintf(none, sizeof(none), "%.*s/userkvm-none.so", (int)(strrchr(trap.host, '/') - trap.host), trap.host) <
		    (int)sizeof(none))
		memcpy(library, name, n);
}

static int64_t open_it(uint64_t path, int flags)
{
	char name[NAME_MAX_SHOWN];

	if (library[0] && trap_string_is(path, library))
		return trap_result(open(none, flags));
	if (trap_string_is(path, DEV_KVM))
		return trap_result(userkvm_open(DEV_KVM, flags));
	if (is_shown(path, name) && !(flags & O_CREAT))
		return trap_result(open(name, flags));
	if (trap_string_is(path, SELF_EXE)) /* the client's, not the host's */
		return trap_result(open(trap.program, flags));
	return TRAP_PASS;
}

int64_t trap_open(struct trap_call *c)
{
	return open_it(c->arg[0], (int)c->arg[1]);
}

int64_t trap_openat(struct trap_call *c)
{
	return open_it(c->arg[1], (int)c->arg[2]);
}

int64_t trap_openat2(struct trap_call *c)
{
	struct open_how how;

	if (c->arg[3] < sizeof(how) || abi_client_read(&how, (const void *)c->arg[2], sizeof(how)))
		return TRAP_PASS; /* the kernel knows the errno */
	return open_it(c->arg[1], (int)how.flags);
}

/* --- ioctl --- */

static int64_t set_signal_mask(struct trap_call *c)
{
	const struct kvm_signal_mask *user = (const void *)c->arg[2];
	int64_t r = trap_result(userkvm_ioctl((int)c->arg[0], c->arg[1], c->arg[2]));
	uint64_t let_in;

	if (r == 0 && user && abi_client_read(&let_in, user->sigset, sizeof(let_in)) == 0)
		trap_guard_signals(c, let_in);
	return r;
}

int64_t trap_ioctl(struct trap_call *c)
{
	int fd = (int)c->arg[0];
	uint32_t request = (uint32_t)c->arg[1];

	/* the preload library's ioctl() tells guests what a userfaultfd takes from them */
	if (_IOC_TYPE(request) == UFFDIO)
		return trap_result(ioctl(fd, request, c->arg[2]));
	if (_IOC_TYPE(request) != KVMIO && !userkvm_is_fd(fd))
		return TRAP_PASS;
	if (request == KVM_SET_SIGNAL_MASK)
		return set_signal_mask(c);
	if (request == KVM_RUN)
		trap_signals_before_run(c);
	return trap_result(userkvm_ioctl(fd, request, c->arg[2]));
}

/* --- close and copies --- */

static bool is_ours(uint64_t fd)
{
	return userkvm_is_fd((int)fd);
}

/* Of ours that the client has, or has not (lib/own_fd.h). */
static bool is_known(uint64_t fd)
{
	return is_ours(fd) || abi_fd_is_librarys((int)fd);
}

int64_t trap_close(struct trap_call *c)
{
	return is_known(c->arg[0]) ? trap_result(close((int)c->arg[0])) : TRAP_PASS;
}

int64_t trap_close_range(struct trap_call *c)
{
	return trap_result(close_range((unsigned)c->arg[0], (unsigned)c->arg[1], (int)c->arg[2]));
}

int64_t trap_dup(struct trap_call *c)
{
	return is_ours(c->arg[0]) ? trap_result(dup((int)c->arg[0])) : TRAP_PASS;
}

int64_t trap_dup2(struct trap_call *c)
{
	if (!is_ours(c->arg[0]) && !is_known(c->arg[1]))
		return TRAP_PASS;
	return trap_result(dup2((int)c->arg[0], (int)c->arg[1]));
}

int64_t trap_dup3(struct trap_call *c)
{
	if (!is_ours(c->arg[0]) && !is_known(c->arg[1]))
		return TRAP_PASS;
	return trap_result(dup3((int)c->arg[0], (int)c->arg[1], (int)c->arg[2]));
}

int64_t trap_fcntl(struct trap_call *c)
{
	int cmd = (int)c->arg[1];

	if ((cmd != F_DUPFD && cmd != F_DUPFD_CLOEXEC) || !is_ours(c->arg[0]))
		return TRAP_PASS;
	return trap_result(fcntl((int)c->arg[0], cmd, c->arg[2]));
}

/* --- what /dev/kvm looks like --- */

static int64_t stat_out(struct trap_call *c, uint64_t client_buf, int r, const struct stat *st)
{
	if (r)
		return -errno;
	return abi_client_write((void *)client_buf, st, sizeof(*st));
}

static int64_t stat_path(struct trap_call *c, uint64_t path, uint64_t buf)
{
	char name[NAME_MAX_SHOWN];
	struct stat st;

	if (!is_shown(path, name))
		return TRAP_PASS;
	return stat_out(c, buf, stat(name, &st), &st);
}

static int64_t stat_fd(struct trap_call *c, int fd, uint64_t buf)
{
	struct stat st;

	if (!is_ours((uint64_t)fd))
		return TRAP_PASS;
	return stat_out(c, buf, fstat(fd, &st), &st);
}

int64_t trap_stat(struct trap_call *c)
{
	return stat_path(c, c->arg[0], c->arg[1]);
}

int64_t trap_lstat(struct trap_call *c)
{
	return stat_path(c, c->arg[0], c->arg[1]);
}

int64_t trap_fstat(struct trap_call *c)
{
	return stat_fd(c, (int)c->arg[0], c->arg[1]);
}

int64_t trap_newfstatat(struct trap_call *c)
{
	if ((c->arg[3] & AT_EMPTY_PATH) && trap_string_is(c->arg[1], ""))
		return stat_fd(c, (int)c->arg[0], c->arg[2]);
	return stat_path(c, c->arg[1], c->arg[2]);
}

int64_t trap_statx(struct trap_call *c)
{
	bool by_fd = (c->arg[2] & AT_EMPTY_PATH) && trap_string_is(c->arg[1], "") && is_ours(c->arg[0]);
	char name[NAME_MAX_SHOWN] = "";
	struct statx sx;

	if (!by_fd && !is_shown(c->arg[1], name))
		return TRAP_PASS;
	if (statx((int)c->arg[0], name, (int)c->arg[2], (unsigned)c->arg[3], &sx))
		return -errno;
	return abi_client_write((void *)c->arg[4], &sx, sizeof(sx));
}

int64_t trap_access(struct trap_call *c)
{
	char name[NAME_MAX_SHOWN];

	return is_shown(c->arg[0], name) ? trap_result(access(name, (int)c->arg[1])) : TRAP_PASS;
}

int64_t trap_faccessat(struct trap_call *c)
{
	char name[NAME_MAX_SHOWN];

	return is_shown(c->arg[1], name) ? trap_result(access(name, (int)c->arg[2])) : TRAP_PASS;
}

/* --- names: the program's own, and descriptors' --- */

/* A path below /proc/…/fd/, which the preload library may have a name for. */
static bool is_descriptors(uint64_t client_string, char path[NAME_MAX_SHOWN])
{
	size_t n = 0;

	do {
		if (n == NAME_MAX_SHOWN || abi_client_read(path + n, (const char *)client_string + n, 1) ||
		    (n < 6 && path[n] != "/proc/"[n] && path[n] != "/dev/f"[n]))
			return false;
	} while (path[n++]);
	return strstr(path, "/fd/");
}

static int64_t read_link(uint64_t path, uint64_t buf, int64_t size)
{
	char name[NAME_MAX_SHOWN], target[PATH_MAX];
	const char *is = NULL;
	ssize_t n;

	if (trap_string_is(path, SELF_EXE)) {
		is = trap.program;
		n = (ssize_t)strlen(is);
	} else if (is_descriptors(path, name)) {
		is = target;
		n = readlink(name, target, sizeof(target));
		if (n < 0)
			return -errno;
	}
	if (!is)
		return TRAP_PASS;
	if (size <= 0)
		return -EINVAL;
	n = n < size ? n : (ssize_t)size;
	return abi_client_write((void *)buf, is, (size_t)n) ? -EFAULT : n;
}

/* --- calls that a KVM descriptor has not, as the preload library has them for dynamic programs (preload/identity.c) --- */

int64_t trap_device_lseek(struct trap_call *c)
{
	return 0;
}

int64_t trap_device_no_file(struct trap_call *c)
{
	return -EINVAL;
}

int64_t trap_readlink(struct trap_call *c)
{
	return read_link(c->arg[0], c->arg[1], (int)c->arg[2]);
}

int64_t trap_readlinkat(struct trap_call *c)
{
	return read_link(c->arg[1], c->arg[2], (int)c->arg[3]);
}
