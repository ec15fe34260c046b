/*
 * The tool's end of a debugger's session with the VM's process (control/debug.h).
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "lib/stream.h"
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

static bool receive_frame(struct gdb_session *s, struct debug_frame *f)
{
	return stream_receive(s->fd, f, sizeof(*f)) && f->size <= sizeof(s->bytes) && stream_receive(s->fd, s->bytes, f->size);
}

int gdb_session_call(struct gdb_session *s, const struct debug_frame *request, const void *bytes)
{
	if (!stream_send(s->fd, request, sizeof(*request)) || !stream_send(s->fd, bytes, request->size))
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
