/*
 * Holding on to a client's eventfd.
 *
 * Linux keeps the eventfd's context alive after the client closed its
 * descriptor; we keep a duplicate, well above the numbers clients expect to
 * get. Two descriptors are the same eventfd when /proc/thread-self/fdinfo shows the
 * same eventfd-id, which is also how we know that one is an eventfd at all.
 *
 * System calls on our duplicates are made directly: the C library's wrappers
 * may be ours (preload), and these descriptors are none of its business.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lib/error.h"
#include "lib/own_fd.h"
#include "virt/eventfd.h"

static int read_fdinfo(int fd, char *buf, size_t size)
{
	char path[64];
	ssize_t n;
	int info;

	if (syscall(SYS_fcntl, fd, F_GETFD) < 0)
		return err_born(EBADF, "eventfd %d is not open", fd);
	snprintf(path, sizeof(path), "/proc/thread-self/fdinfo/%d", fd);
	info = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
	if (info < 0)
		return err_born(errno, "%s cannot be opened", path);
	n = syscall(SYS_read, info, buf, size - 1);
	syscall(SYS_close, info);
	if (n < 0)
		return err_born(EIO, "%s cannot be read", path);
	buf[n] = '\0';
	return 0;
}

int virt_eventfd_id(int client_fd, uint64_t *id)
{
	char buf[512], *p;
	int err = read_fdinfo(client_fd, buf, sizeof(buf));

	if (err)
		return err;
	if (!strstr(buf, "eventfd-count:"))
		return err_born(EINVAL, "descriptor %d is not an eventfd", client_fd);
	p = strstr(buf, "eventfd-id:");
	/* Before Linux 5.2 there is no id: the number has to do. */
	*id = p ? strtoull(p + strlen("eventfd-id:"), NULL, 10) : (uint64_t)client_fd;
	return 0;
}

static int close_raw(int fd)
{
	return (int)syscall(SYS_close, fd);
}

static int (*close_foreign)(int fd) = close_raw;

void virt_eventfd_set_close(int (*fn)(int fd))
{
	close_foreign = fn;
}

/*
 * The client may close the number and get it anew for something else while we
 * look: what counts is what the duplicate is.
 */
int virt_eventfd_get(int client_fd, struct virt_eventfd *out)
{
	int err = virt_eventfd_id(client_fd, &out->id);
	int fd;

	out->fd = -1;
	if (err)
		return err;
	fd = own_fd_duplicate(client_fd);
	if (fd < 0)
		return err_born(errno, "cannot duplicate eventfd %d", client_fd);
	err = virt_eventfd_id(fd, &out->id);
	if (err)
		close_foreign(fd);
	else
		*out = (struct virt_eventfd){ fd, !(syscall(SYS_fcntl, fd, F_GETFL) & O_NONBLOCK), out->id };
	return err;
}

void virt_eventfd_put(struct virt_eventfd *e)
{
	if (e->fd >= 0)
		own_fd_close(e->fd);
	e->fd = -1;
}

void virt_eventfd_signal(const struct virt_eventfd *e)
{
	struct pollfd room = { .fd = e->fd, .events = POLLOUT };
	uint64_t one = 1;

	if (e->blocks && poll(&room, 1, 0) != 1)
		return;
	(void)!syscall(SYS_write, e->fd, &one, sizeof(one));
}

bool virt_eventfd_consume(const struct virt_eventfd *e)
{
	uint64_t count;
	struct iovec iov = { &count, sizeof(count) };
	struct pollfd pfd = { .fd = e->fd, .events = POLLIN };
	ssize_t n;

	if (!e->blocks)
		return syscall(SYS_read, e->fd, &count, sizeof(count)) == (long)sizeof(count);
	/* The client may read it as well. */
	n = preadv2(e->fd, &iov, 1, -1, RWF_NOWAIT);
	if (n < 0 && errno == EOPNOTSUPP && poll(&pfd, 1, 0) == 1)
		n = syscall(SYS_read, e->fd, &count, sizeof(count));
	return n == (ssize_t)sizeof(count);
}
