/*
 * A gdb stub for a guest: gdb's packets on one side, a debugger's session on the other.
 *
 * All-stop: gdb sees every vCPU stopped, or none. A vCPU is a thread, its number its id + 1.
 *
 * Invariants
 * 1. `running` is true from a packet that lets vCPUs run to the stop reply, the one answer to it.
 * 2. A session that has ended says so to gdb once (W00), and ends the stub.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/gdb/stub.h"

#define FIRST_RUN_LOOK_NS 10000000

/* --- packets --- */

static int read_registers(struct stub *s)
{
	struct kvm_debugger_regs r;
	char *p = s->out;
	int e = stub_get_regs(s, &r);

	if (e)
		return stub_failed(s, e);
	for (unsigned i = 0; i < gdb_nr_registers(&s->target); i++) {
		uint8_t bytes[GDB_REGISTER_MAX];

		p = gdb_put_hex(p, bytes, gdb_get_register(&s->target, &r, i, bytes));
	}
	if (!gdb_send(s->link, s->out, (size_t)(p - s->out)))
		s->over = true;
	return 0;
}

static int write_registers(struct stub *s, const char *p)
{
	struct kvm_debugger_regs r;
	uint8_t bytes[GDB_REGISTER_MAX], now[GDB_REGISTER_MAX];
	int e = stub_get_regs(s, &r);

	for (unsigned i = 0; !e && *p && i < gdb_nr_registers(&s->target); i++) {
		unsigned size = gdb_get_register(&s->target, &r, i, now);

		if (gdb_get_hex(p, bytes, size, &p) != size || !gdb_set_register(&s->target, &r, i, bytes, size))
			e = -EINVAL;
	}
	return stub_ok_or(s, e ? e : stub_set_regs(s, &r));
}

static int read_register(struct stub *s, const char *p)
{
	struct kvm_debugger_regs r;
	uint8_t bytes[GDB_REGISTER_MAX];
	unsigned size = 0;
	uint64_t n;
	int e = gdb_get_number(&p, 0, &n) ? stub_get_regs(s, &r) : -EINVAL;

	if (!e)
		size = gdb_get_register(&s->target, &r, (unsigned)n, bytes);
	if (!size)
		return stub_failed(s, e ? e : -EINVAL);
	*gdb_put_hex(s->out, bytes, size) = '\0';
	return stub_reply(s, "%s", s->out);
}

static int write_register(struct stub *s, const char *p)
{
	struct kvm_debugger_regs r;
	uint8_t bytes[GDB_REGISTER_MAX];
	unsigned size;
	uint64_t n;
	int e = gdb_get_number(&p, '=', &n) ? stub_get_regs(s, &r) : -EINVAL;

	if (e)
		return stub_failed(s, e);
	size = (unsigned)gdb_get_hex(p, bytes, sizeof(bytes), &p);
	return stub_ok_or(s, gdb_set_register(&s->target, &r, (unsigned)n, bytes, size) ? stub_set_regs(s, &r) : -EINVAL);
}

static int read_bytes(struct stub *s, const char *p)
{
	uint64_t addr, n;
	char *end;
	int e;

	if (!gdb_get_number(&p, ',', &addr) || !gdb_get_number(&p, 0, &n))
		return stub_failed(s, -EINVAL);
	if (n > GDB_PACKET_MAX / 2)
		n = GDB_PACKET_MAX / 2;
	e = stub_read_memory(s, addr, (uint32_t)n);
	if (e)
		return stub_failed(s, e);
	end = gdb_put_hex(s->out, s->session->bytes, s->session->reply.size);
	if (!gdb_send(s->link, s->out, (size_t)(end - s->out)))
		s->over = true;
	return 0;
}

static int write_bytes(struct stub *s, const char *p, bool binary)
{
	uint8_t bytes[GDB_PACKET_MAX];
	const char *behind = s->link->packet + s->link->packet_len;
	uint64_t addr, n;

	if (!gdb_get_number(&p, ',', &addr) || !gdb_get_number(&p, ':', &n) || n > sizeof(bytes))
		return stub_failed(s, -EINVAL);
	if (binary) {
		if ((size_t)(behind - p) != n)
			return stub_failed(s, -EINVAL);
		memcpy(bytes, p, n);
	} else if (gdb_get_hex(p, bytes, n, &p) != n) {
		return stub_failed(s, -EINVAL);
	}
	return stub_ok_or(s, n ? stub_write_memory(s, addr, bytes, (uint32_t)n) : 0);
}

/* Z, z: type,addr,kind. */
static int breakpoint(struct stub *s, const char *p, bool insert)
{
	uint64_t type, addr, kind;

	if (!gdb_get_number(&p, ',', &type) || !gdb_get_number(&p, ',', &addr))
		return stub_failed(s, -EINVAL);
	kind = strtoull(p, NULL, 16); /* conditions and commands may follow: not announced */
	if (type > DEBUG_WATCH_ACCESS)
		return stub_reply(s, "%s", "");
	return stub_ok_or(s, stub_call(s, (struct debug_frame){ .op = insert ? DEBUG_INSERT : DEBUG_REMOVE, .vcpu = s->current,
						      .addr = addr, .length = (uint32_t)kind, .kind = (uint32_t)type }, NULL));
}

/* H: g or c, and a thread; 0 and -1 are any and all. */
static int choose_thread(struct stub *s, const char *p)
{
	long thread = strtol(p + 1, NULL, 16);
	uint32_t id = (uint32_t)(thread - 1);

	if (thread > 0 && !stub_has_vcpu(s, id))
		return stub_failed(s, -ENOENT);
	if (*p == 'c')
		s->moving = thread > 0 ? id : thread < 0 ? STUB_ALL : s->current;
	else if (thread > 0)
		s->current = id;
	return stub_ok(s);
}

static int list_threads(struct stub *s)
{
	size_t n = 0;

	(void)stub_look(s);
	for (unsigned i = 0; i < s->nr_vcpus && n < GDB_PACKET_MAX - 16; i++)
		n += (size_t)sprintf(s->out + n, "%c%x", i ? ',' : 'm', s->vcpu[i].id + 1);
	if (!gdb_send(s->link, s->out, n))
		s->over = true;
	return 0;
}

static int describe_thread(struct stub *s, const char *p)
{
	long thread = strtol(p, NULL, 16);
	char text[40];

	for (unsigned i = 0; i < s->nr_vcpus; i++) {
		if ((long)s->vcpu[i].id + 1 != thread)
			continue;
		*gdb_put_hex(s->out, text, (size_t)snprintf(text, sizeof(text), "vCPU %u%s", s->vcpu[i].id,
							 s->vcpu[i].halted ? ", halted" : "")) = '\0';
		return stub_reply(s, "%s", s->out);
	}
	return stub_failed(s, -ENOENT);
}

/* qXfer:features:read:target.xml:OFFSET,LENGTH */
static int transfer_features(struct stub *s, const char *p)
{
	uint64_t offset, length, size = strlen(s->xml);

	if (strncmp(p, "target.xml:", 11) != 0)
		return stub_reply(s, "E00");
	p += 11;
	if (!gdb_get_number(&p, ',', &offset) || !gdb_get_number(&p, 0, &length))
		return stub_failed(s, -EINVAL);
	if (offset > size)
		offset = size;
	if (length > GDB_PACKET_MAX / 2)
		length = GDB_PACKET_MAX / 2;
	if (length > size - offset)
		length = size - offset;
	s->out[0] = offset + length < size ? 'm' : 'l';
	memcpy(s->out + 1, s->xml + offset, length);
	if (!gdb_send(s->link, s->out, length + 1))
		s->over = true;
	return 0;
}

static bool begins(const char **p, const char *word)
{
	size_t n = strlen(word);

	if (strncmp(*p, word, n) != 0)
		return false;
	*p += n;
	return true;
}

static int query(struct stub *s, const char *p)
{
	if (begins(&p, "Supported")) {
		s->names_breaks = strstr(p, "swbreak+") && strstr(p, "hwbreak+");
		return stub_reply(s, "PacketSize=%x;qXfer:features:read+;vContSupported+;QStartNoAckMode+%s", GDB_PACKET_MAX,
			     s->names_breaks ? ";swbreak+;hwbreak+" : "");
	}
	if (begins(&p, "Xfer:features:read:"))
		return transfer_features(s, p);
	if (begins(&p, "fThreadInfo"))
		return list_threads(s);
	if (begins(&p, "sThreadInfo"))
		return stub_reply(s, "l");
	if (begins(&p, "ThreadExtraInfo,"))
		return describe_thread(s, p);
	if (strcmp(p, "C") == 0)
		return stub_reply(s, "QC%x", s->current + 1);
	if (begins(&p, "Attached"))
		return stub_reply(s, "1");
	return stub_reply(s, "%s", "");
}

static int kill_client(struct stub *s)
{
	s->over = true;
	return kill(s->session->pid, SIGKILL) ? stub_failed(s, -errno) : 0;
}

static int handle_v(struct stub *s, const char *p)
{
	if (strcmp(p, "Cont?") == 0)
		return stub_reply(s, "vCont;c;C;s;S");
	if (begins(&p, "Cont"))
		return stub_run_vcont(s, p);
	if (begins(&p, "Kill;")) {
		(void)kill_client(s);
		return stub_ok(s);
	}
	return stub_reply(s, "%s", "");
}

static int handle(struct stub *s, const char *p)
{
	switch (*p++) {
	case '?': return stub_tell_stop(s, SIGNAL_TRAP, NULL);
	case 'g': return read_registers(s);
	case 'G': return write_registers(s, p);
	case 'p': return read_register(s, p);
	case 'P': return write_register(s, p);
	case 'm': return read_bytes(s, p);
	case 'M': return write_bytes(s, p, false);
	case 'X': return write_bytes(s, p, true);
	case 'Z': return breakpoint(s, p, true);
	case 'z': return breakpoint(s, p, false);
	case 'H': return choose_thread(s, p);
	case 'T': return stub_ok_or(s, stub_has_vcpu(s, (uint32_t)strtol(p, NULL, 16) - 1) ? 0 : -ENOENT);
	case 'c': return stub_run_old(s, p, DEBUG_CONTINUE);
	case 's': return stub_run_old(s, p, DEBUG_ONE_STEP);
	case 'v': return handle_v(s, p);
	case 'q': return query(s, p);
	case 'k': return kill_client(s);
	case 'D':
		(void)stub_ok(s);
		s->over = true;
		return 0;
	case 'Q':
		if (strcmp(p, "StartNoAckMode") == 0) {
			(void)stub_ok(s);
			s->link->no_ack = true;
			return 0;
		}
		return stub_reply(s, "%s", "");
	default: return stub_reply(s, "%s", "");
	}
}

/* --- the loop --- */

static void event_came(struct stub *s)
{
	struct debug_frame event;

	if (!gdb_session_receive_event(s->session, &event)) {
		s->over = true;
		(void)stub_reply(s, "W00");
	} else if (s->running) {
		(void)stub_tell_stop(s, SIGNAL_TRAP, &event);
	}
}

static void one_round(struct stub *s, bool readable)
{
	for (enum gdb_news news = gdb_receive(s->link, readable); news != GDB_NOTHING && !s->over;
	     news = gdb_receive(s->link, false)) {
		if (news == GDB_GONE)
			s->over = true;
		else if (news == GDB_INTERRUPT)
			(void)stub_interrupt(s);
		else if (!s->running)
			(void)handle(s, s->link->packet);
	}
}

static void loop(struct stub *s)
{
	struct pollfd p[] = { { .fd = s->link->in, .events = POLLIN }, { .fd = s->session->fd, .events = POLLIN } };

	while (!s->over) {
		if (poll(p, ARRAY_SIZE(p), -1) < 0) {
			if (errno == EINTR)
				continue;
			return;
		}
		if (p[1].revents)
			event_came(s);
		if (p[0].revents && !s->over)
			one_round(s, true);
	}
}

/* A client that was started for gdb: its own setting up ends where a vCPU waits in KVM_RUN. */
static int wait_for_first_run(struct stub *s)
{
	struct timespec t = { .tv_nsec = FIRST_RUN_LOOK_NS };

	for (;;) {
		int r = stub_look(s);

		if (r)
			return r;
		for (unsigned i = 0; i < s->nr_vcpus; i++)
			if (s->vcpu[i].parked)
				return 0;
		nanosleep(&t, NULL);
	}
}

int gdb_serve(struct gdb_link *l, struct gdb_session *session, int arch, bool from_start)
{
	struct stub *s = calloc(1, sizeof(*s));
	struct kvm_debugger_regs regs;
	int r = s ? 0 : -ENOMEM;

	if (s) {
		s->link = l;
		s->session = session;
		r = from_start ? wait_for_first_run(s) : 0;
	}
	if (!r)
		r = stub_call(s, (struct debug_frame){ .op = DEBUG_STOP }, NULL);
	if (!r)
		r = stub_look(s);
	if (!r) {
		stub_choose_vcpu(s);
		s->target.arch = arch >= 0 ? (enum gdb_arch)arch : s->vcpu[0].long_mode ? GDB_X86_64 : GDB_I386;
		r = stub_get_regs(s, &regs);
	}
	if (!r) {
		s->target.components = regs.vectors.components;
		s->xml = gdb_target_xml(&s->target);
		r = s->xml ? 0 : -ENOMEM;
	}
	if (r)
		fprintf(stderr, "userkvm gdb: process %d cannot be stopped: %s\n", (int)session->pid, strerror(-r));
	else
		loop(s);
	if (s)
		free(s->xml);
	free(s);
	return r ? 1 : 0;
}
