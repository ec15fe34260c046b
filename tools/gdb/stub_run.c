/*
 * A stub's replies, its calls of the session, and how vCPUs stop and run (stub.h).
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/gdb/stub.h"

#define SIGNAL_INT 2 /* gdb's number */

int stub_reply(struct stub *s, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!gdb_send(s->link, text, (size_t)n))
		s->over = true;
	return 0;
}

int stub_ok(struct stub *s)
{
	return stub_reply(s, "OK");
}

int stub_failed(struct stub *s, int r)
{
	return stub_reply(s, "E%02x", (unsigned)-r & 0xff);
}

int stub_ok_or(struct stub *s, int r)
{
	return r ? stub_failed(s, r) : stub_ok(s);
}

/* --- the session --- */

int stub_call(struct stub *s, struct debug_frame f, const void *bytes)
{
	int r = gdb_session_call(s->session, &f, bytes);

	if (r == -EPIPE)
		s->over = true;
	return r;
}

int stub_look(struct stub *s)
{
	int r = stub_call(s, (struct debug_frame){ .op = DEBUG_VCPUS }, NULL);

	if (r)
		return r;
	s->nr_vcpus = s->session->reply.size / sizeof(s->vcpu[0]);
	memcpy(s->vcpu, s->session->bytes, s->nr_vcpus * sizeof(s->vcpu[0]));
	return s->nr_vcpus ? 0 : -ENOENT;
}

bool stub_has_vcpu(const struct stub *s, uint32_t id)
{
	for (unsigned i = 0; i < s->nr_vcpus; i++)
		if (s->vcpu[i].id == id)
			return true;
	return false;
}

int stub_get_regs(struct stub *s, struct kvm_debugger_regs *r)
{
	int e = stub_call(s, (struct debug_frame){ .op = DEBUG_GET_REGS, .vcpu = s->current }, NULL);

	if (!e)
		memcpy(r, s->session->bytes, sizeof(*r));
	return e;
}

int stub_set_regs(struct stub *s, const struct kvm_debugger_regs *r)
{
	return stub_call(s, (struct debug_frame){ .op = DEBUG_SET_REGS, .size = sizeof(*r), .vcpu = s->current }, r);
}

int stub_read_memory(struct stub *s, uint64_t addr, uint32_t n)
{
	return stub_call(s, (struct debug_frame){ .op = DEBUG_READ, .vcpu = s->current, .addr = addr, .length = n }, NULL);
}

int stub_write_memory(struct stub *s, uint64_t addr, const void *data, uint32_t n)
{
	return stub_call(s, (struct debug_frame){ .op = DEBUG_WRITE, .vcpu = s->current, .addr = addr, .size = n }, data);
}

/* --- stopping and running --- */

int stub_tell_stop(struct stub *s, int signal, const struct debug_frame *event)
{
	static const char *const watch[] = { [DEBUG_WATCH_WRITE] = "watch", [DEBUG_WATCH_READ] = "rwatch", [DEBUG_WATCH_ACCESS] = "awatch" };
	char reason[64] = "";

	s->running = false;
	(void)stub_look(s);
	if (event) {
		s->current = event->vcpu;
		if (event->kind >= DEBUG_WATCH_WRITE && event->kind <= DEBUG_WATCH_ACCESS)
			snprintf(reason, sizeof(reason), "%s:%llx;", watch[event->kind], (unsigned long long)event->addr);
		else if (s->names_breaks && event->kind != DEBUG_STEP)
			snprintf(reason, sizeof(reason), "%s:;", event->kind == DEBUG_SOFT ? "swbreak" : "hwbreak");
	}
	s->moving = s->current;
	return stub_reply(s, "T%02xthread:%x;%s", (unsigned)signal, s->current + 1, reason);
}

void stub_choose_vcpu(struct stub *s)
{
	s->current = s->vcpu[0].id;
	for (unsigned i = s->nr_vcpus; i-- > 0;)
		if (!s->vcpu[i].halted)
			s->current = s->vcpu[i].id;
	s->moving = s->current;
}

int stub_interrupt(struct stub *s)
{
	int r;

	if (!s->running)
		return 0;
	r = stub_call(s, (struct debug_frame){ .op = DEBUG_STOP }, NULL);
	if (s->session->has_event) { /* it had stopped by itself */
		s->session->has_event = false;
		return stub_tell_stop(s, SIGNAL_TRAP, &s->session->event);
	}
	if (r == -EPIPE)
		return 0;
	if (r)
		fprintf(stderr, "userkvm gdb: a vCPU does not leave the guest: %s\n", strerror(-r));
	return r ? 0 : stub_tell_stop(s, SIGNAL_INT, NULL);
}

static int run(struct stub *s, const struct debug_run *list, unsigned n)
{
	int r;

	s->session->has_event = false;
	r = stub_call(s, (struct debug_frame){ .op = DEBUG_RUN, .size = n * (uint32_t)sizeof(*list) }, list);
	if (r == -EPIPE)
		return stub_reply(s, "W00");
	if (r)
		return stub_failed(s, r);
	s->running = true;
	return 0;
}

int stub_run_old(struct stub *s, const char *p, enum debug_action action)
{
	struct debug_run list[STUB_MAX_VCPUS];
	struct kvm_debugger_regs r;
	unsigned n = 0;
	uint64_t addr;
	int e;

	if (*p) {
		if (!gdb_get_number(&p, 0, &addr))
			return stub_failed(s, -EINVAL);
		e = stub_get_regs(s, &r);
		r.regs.rip = addr;
		if (!e)
			e = stub_set_regs(s, &r);
		if (e)
			return stub_failed(s, e);
	}
	for (unsigned i = 0; i < s->nr_vcpus; i++)
		if (s->moving == STUB_ALL || s->moving == s->vcpu[i].id)
			list[n++] = (struct debug_run){ s->vcpu[i].id, s->vcpu[i].id == s->current || action == DEBUG_CONTINUE
									       ? action : DEBUG_CONTINUE };
	return run(s, list, n);
}

int stub_run_vcont(struct stub *s, const char *p)
{
	struct debug_run list[STUB_MAX_VCPUS];

	for (unsigned i = 0; i < s->nr_vcpus; i++)
		list[i] = (struct debug_run){ s->vcpu[i].id, DEBUG_STAY };
	while (*p == ';') {
		enum debug_action action = p[1] == 's' || p[1] == 'S' ? DEBUG_ONE_STEP : DEBUG_CONTINUE;
		const char *end = p + 1 + strcspn(p + 1, ";"), *colon = memchr(p, ':', (size_t)(end - p));
		long thread = colon ? strtol(colon + 1, NULL, 16) : -1;

		if (!strchr("cCsS", p[1]) || !p[1])
			return stub_failed(s, -EINVAL);
		for (unsigned i = 0; i < s->nr_vcpus; i++)
			if (list[i].action == DEBUG_STAY && (thread == -1 || thread == (long)list[i].id + 1))
				list[i].action = action;
		p = end;
	}
	return run(s, list, s->nr_vcpus);
}
