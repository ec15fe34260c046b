/*
 * The tool's end of a debugger's session with the VM's process (control/debug.h).
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tools/gdb/gdb.h"
#include "tools/see/see.h"

bool gdb_session_open(struct gdb_session *s, pid_t pid, uint64_t vm)
{
	s->pid = pid;
	s->has_event = false;
	if (!see_choose_vm(pid, &vm))
		return false;
	s->fd = see_session(pid, "debug %llu %d\n", (ull)vm, DEBUG_VERSION);
	return s->fd >= 0;
}

static bool receive_all(int fd, void *to, size_t n)
{
	for (char *p = to; n;) {
		ssize_t got = recv(fd, p, n, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		p += got;
		n -= (size_t)got;
	}
	return true;
}

static bool send_all(int fd, const void *from, size_t n)
{
	for (const char *p = from; n;) {
		ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent <= 0)
			return false;
		p += sent;
		n -= (size_t)sent;
	}
	return true;
}

static bool receive_frame(struct gdb_session *s, struct debug_frame *f)
{
	return receive_all(s->fd, f, sizeof(*f)) && f->size <= sizeof(s->bytes) && receive_all(s->fd, s->bytes, f->size);
}

int gdb_session_call(struct gdb_session *s, const struct debug_frame *request, const void *bytes)
{
	if (!send_all(s->fd, request, sizeof(*request)) || !send_all(s->fd, bytes, request->size))
		return -EPIPE;
	for (;;) {
		if (!receive_frame(s, &s->reply))
			return -EPIPE;
		if (s->reply.op == request->op)
			return s->reply.status;
		s->has_event = true;
		s->event = s->reply;
	}
}

bool gdb_session_receive_event(struct gdb_session *s, struct debug_frame *event)
{
	return receive_frame(s, event);
}
