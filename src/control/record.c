/*
 * Requests that begin and end recording: another process's rings.
 */
#include <errno.h>
#include <string.h>

#include "control/internal.h"
#include "trace/trace.h"

void control_trace(struct reply *r, struct kvm *none, const uint64_t *args)
{
	int fd = (int)args[0], e = fd < 0 ? -EBADF : trace_attach_fd(fd);

	if (e == -EBUSY)
		reply_error(r, "it is traced already");
	else if (e == -ENOSYS)
		reply_error(r, "its userkvm has no tracepoints (-Dtracepoints=false)");
	else if (e)
		reply_error(r, "its userkvm is of another version: no rings in common");
}

void control_untrace(struct reply *r, struct kvm *none, const uint64_t *args)
{
	trace_detach();
}
