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
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/gdb/gdb.h"

#define MAX_VCPUS (DEBUG_MAX_BYTES / sizeof(struct debug_vcpu))
#define SIGNAL_INT 2   /* gdb's numbers */
#define SIGNAL_TRAP 5
#define FIRST_RUN_LOOK_NS 10000000

struct stub {
	struct gdb_link *link;
	struct gdb_session *session;
	enum gdb_arch arch;
	char *xml;
	bool running, over;
	uint32_t current; /* the vCPU that registers and memory are of (Hg) */
	uint32_t moving;  /* ... that s and c are for (Hc); ALL */
	bool names_breaks; /* gdb understands swbreak and hwbreak */
	struct debug_vcpu vcpu[MAX_VCPUS];
	unsigned nr_vcpus;
	char out[GDB_PACKET_MAX + 1];
};

#define ALL UINT32_MAX

static int reply(struct stub *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int reply(struct stub *s, const char *fmt, ...)
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

static int ok(struct stub *s)
{
	return reply(s, "OK");
}

/* The protocol's errors are two digits of anybody's. */
static int failed(struct stub *s, int r)
{
	return reply(s, "E%02x", (unsigned)-r & 0xff);
}

static int ok_or(struct stub *s, int r)
{
	return r ? failed(s, r) : ok(s);
}

/* --- hexadecimal --- */

static char *put_hex(char *p, const void *data, size_t n)
{
	for (const uint8_t *b = data; n--; b++)
		p += sprintf(p, "%02x", *b);
	return p;
}

/* How many bytes, at most max; *end behind the digits. */
static size_t get_hex(const char *p, uint8_t *to, size_t max, const char **end)
{
	size_t n = 0;
	unsigned byte;

	while (n < max && strspn(p, "0123456789abcdefABCDEF") >= 2 && sscanf(p, "%2x", &byte) == 1) {
		to[n++] = (uint8_t)byte;
		p += 2;
	}
	*end = p;
	return n;
}

/* A hexadecimal number and the character behind it, which has to be `then` (0: the end). */
static bool number(const char **p, char then, uint64_t *v)
{
	char *end;

	if (!strspn(*p, "0123456789abcdefABCDEF"))
		return false;
	*v = strtoull(*p, &end, 16);
	if (*end != then)
		return false;
	*p = end + (then != 0);
	return true;
}

/* --- the session --- */

static int call(struct stub *s, struct debug_frame f, const void *bytes)
{
	int r = gdb_session_call(s->session, &f, bytes);

	if (r == -EPIPE)
		s->over = true;
	return r;
}

static int look(struct stub *s)
{
	int r = call(s, (struct debug_frame){ .op = DEBUG_VCPUS }, NULL);

	if (r)
		return r;
	s->nr_vcpus = s->session->reply.size / sizeof(s->vcpu[0]);
	memcpy(s->vcpu, s->session->bytes, s->nr_vcpus * sizeof(s->vcpu[0]));
	return s->nr_vcpus ? 0 : -ENOENT;
}

static bool has_vcpu(const struct stub *s, uint32_t id)
{
	for (unsigned i = 0; i < s->nr_vcpus; i++)
		if (s->vcpu[i].id == id)
			return true;
	return false;
}

static int get_regs(struct stub *s, struct kvm_debugger_regs *r)
{
	int e = call(s, (struct debug_frame){ .op = DEBUG_GET_REGS, .vcpu = s->current }, NULL);

	if (!e)
		memcpy(r, s->session->bytes, sizeof(*r));
	return e;
}

static int set_regs(struct stub *s, const struct kvm_debugger_regs *r)
{
	return call(s, (struct debug_frame){ .op = DEBUG_SET_REGS, .size = sizeof(*r), .vcpu = s->current }, r);
}

static int read_memory(struct stub *s, uint64_t addr, uint32_t n)
{
	return call(s, (struct debug_frame){ .op = DEBUG_READ, .vcpu = s->current, .addr = addr, .length = n }, NULL);
}

static int write_memory(struct stub *s, uint64_t addr, const void *data, uint32_t n)
{
	return call(s, (struct debug_frame){ .op = DEBUG_WRITE, .vcpu = s->current, .addr = addr, .size = n }, data);
}

/* --- stopping and running --- */

static int tell_stop(struct stub *s, int signal, const struct debug_frame *event)
{
	static const char *const watch[] = { [DEBUG_WATCH_WRITE] = "watch", [DEBUG_WATCH_READ] = "rwatch", [DEBUG_WATCH_ACCESS] = "awatch" };
	char reason[64] = "";

	s->running = false;
	(void)look(s);
	if (event) {
		s->current = event->vcpu;
		if (event->kind >= DEBUG_WATCH_WRITE && event->kind <= DEBUG_WATCH_ACCESS)
			snprintf(reason, sizeof(reason), "%s:%llx;", watch[event->kind], (unsigned long long)event->addr);
		else if (s->names_breaks && event->kind != DEBUG_STEP)
			snprintf(reason, sizeof(reason), "%s:;", event->kind == DEBUG_SOFT ? "swbreak" : "hwbreak");
	}
	s->moving = s->current;
	return reply(s, "T%02xthread:%x;%s", (unsigned)signal, s->current + 1, reason);
}

/* The vCPU to begin with: one that has something to do. */
static void choose_vcpu(struct stub *s)
{
	s->current = s->vcpu[0].id;
	for (unsigned i = s->nr_vcpus; i-- > 0;)
		if (!s->vcpu[i].halted)
			s->current = s->vcpu[i].id;
	s->moving = s->current;
}

static int interrupt(struct stub *s)
{
	int r;

	if (!s->running)
		return 0;
	r = call(s, (struct debug_frame){ .op = DEBUG_STOP }, NULL);
	if (s->session->has_event) { /* it had stopped by itself */
		s->session->has_event = false;
		return tell_stop(s, SIGNAL_TRAP, &s->session->event);
	}
	if (r == -EPIPE)
		return 0;
	if (r)
		fprintf(stderr, "userkvm gdb: a vCPU does not leave the guest: %s\n", strerror(-r));
	return r ? 0 : tell_stop(s, SIGNAL_INT, NULL);
}

static int run(struct stub *s, const struct debug_run *list, unsigned n)
{
	int r;

	s->session->has_event = false;
	r = call(s, (struct debug_frame){ .op = DEBUG_RUN, .size = n * (uint32_t)sizeof(*list) }, list);
	if (r == -EPIPE)
		return reply(s, "W00");
	if (r)
		return failed(s, r);
	s->running = true;
	return 0;
}

/* c, s: the vCPU of Hc, or all. With an address: it goes on there. */
static int run_old(struct stub *s, const char *p, enum debug_action action)
{
	struct debug_run list[MAX_VCPUS];
	struct kvm_debugger_regs r;
	unsigned n = 0;
	uint64_t addr;
	int e;

	if (*p) {
		if (!number(&p, 0, &addr))
			return failed(s, -EINVAL);
		e = get_regs(s, &r);
		r.regs.rip = addr;
		if (!e)
			e = set_regs(s, &r);
		if (e)
			return failed(s, e);
	}
	for (unsigned i = 0; i < s->nr_vcpus; i++)
		if (s->moving == ALL || s->moving == s->vcpu[i].id)
			list[n++] = (struct debug_run){ s->vcpu[i].id, s->vcpu[i].id == s->current || action == DEBUG_CONTINUE
									       ? action : DEBUG_CONTINUE };
	return run(s, list, n);
}

/* vCont;ACTION[:THREAD]…: of each vCPU the leftmost that names it, or all. */
static int run_vcont(struct stub *s, const char *p)
{
	struct debug_run list[MAX_VCPUS];

	for (unsigned i = 0; i < s->nr_vcpus; i++)
		list[i] = (struct debug_run){ s->vcpu[i].id, DEBUG_STAY };
	while (*p == ';') {
		enum debug_action action = p[1] == 's' || p[1] == 'S' ? DEBUG_ONE_STEP : DEBUG_CONTINUE;
		const char *end = p + 1 + strcspn(p + 1, ";"), *colon = memchr(p, ':', (size_t)(end - p));
		long thread = colon ? strtol(colon + 1, NULL, 16) : -1;

		if (!strchr("cCsS", p[1]) || !p[1])
			return failed(s, -EINVAL);
		for (unsigned i = 0; i < s->nr_vcpus; i++)
			if (list[i].action == DEBUG_STAY && (thread == -1 || thread == (long)list[i].id + 1))
				list[i].action = action;
		p = end;
	}
	return run(s, list, s->nr_vcpus);
}

/* --- packets --- */

static int read_registers(struct stub *s)
{
	struct kvm_debugger_regs r;
	char *p = s->out;
	int e = get_regs(s, &r);

	if (e)
		return failed(s, e);
	for (unsigned i = 0; i < gdb_nr_registers(s->arch); i++) {
		uint8_t bytes[16];

		p = put_hex(p, bytes, gdb_get_register(s->arch, &r, i, bytes));
	}
	if (!gdb_send(s->link, s->out, (size_t)(p - s->out)))
		s->over = true;
	return 0;
}

static int write_registers(struct stub *s, const char *p)
{
	struct kvm_debugger_regs r;
	uint8_t bytes[16], now[16];
	int e = get_regs(s, &r);

	for (unsigned i = 0; !e && *p && i < gdb_nr_registers(s->arch); i++) {
		unsigned size = gdb_get_register(s->arch, &r, i, now);

		if (get_hex(p, bytes, size, &p) != size || !gdb_set_register(s->arch, &r, i, bytes, size))
			e = -EINVAL;
	}
	return ok_or(s, e ? e : set_regs(s, &r));
}

static int read_register(struct stub *s, const char *p)
{
	struct kvm_debugger_regs r;
	uint8_t bytes[16];
	unsigned size = 0;
	uint64_t n;
	int e = number(&p, 0, &n) ? get_regs(s, &r) : -EINVAL;

	if (!e)
		size = gdb_get_register(s->arch, &r, (unsigned)n, bytes);
	if (!size)
		return failed(s, e ? e : -EINVAL);
	*put_hex(s->out, bytes, size) = '\0';
	return reply(s, "%s", s->out);
}

static int write_register(struct stub *s, const char *p)
{
	struct kvm_debugger_regs r;
	uint8_t bytes[16];
	unsigned size;
	uint64_t n;
	int e = number(&p, '=', &n) ? get_regs(s, &r) : -EINVAL;

	if (e)
		return failed(s, e);
	size = (unsigned)get_hex(p, bytes, sizeof(bytes), &p);
	return ok_or(s, gdb_set_register(s->arch, &r, (unsigned)n, bytes, size) ? set_regs(s, &r) : -EINVAL);
}

static int read_bytes(struct stub *s, const char *p)
{
	uint64_t addr, n;
	char *end;
	int e;

	if (!number(&p, ',', &addr) || !number(&p, 0, &n))
		return failed(s, -EINVAL);
	if (n > GDB_PACKET_MAX / 2)
		n = GDB_PACKET_MAX / 2;
	e = read_memory(s, addr, (uint32_t)n);
	if (e)
		return failed(s, e);
	end = put_hex(s->out, s->session->bytes, s->session->reply.size);
	if (!gdb_send(s->link, s->out, (size_t)(end - s->out)))
		s->over = true;
	return 0;
}

static int write_bytes(struct stub *s, const char *p, bool binary)
{
	uint8_t bytes[GDB_PACKET_MAX];
	const char *behind = s->link->packet + s->link->packet_len;
	uint64_t addr, n;

	if (!number(&p, ',', &addr) || !number(&p, ':', &n) || n > sizeof(bytes))
		return failed(s, -EINVAL);
	if (binary) {
		if ((size_t)(behind - p) != n)
			return failed(s, -EINVAL);
		memcpy(bytes, p, n);
	} else if (get_hex(p, bytes, n, &p) != n) {
		return failed(s, -EINVAL);
	}
	return ok_or(s, n ? write_memory(s, addr, bytes, (uint32_t)n) : 0);
}

/* Z, z: type,addr,kind. */
static int breakpoint(struct stub *s, const char *p, bool insert)
{
	uint64_t type, addr, kind;

	if (!number(&p, ',', &type) || !number(&p, ',', &addr))
		return failed(s, -EINVAL);
	kind = strtoull(p, NULL, 16); /* conditions and commands may follow: not announced */
	if (type > DEBUG_WATCH_ACCESS)
		return reply(s, "%s", "");
	return ok_or(s, call(s, (struct debug_frame){ .op = insert ? DEBUG_INSERT : DEBUG_REMOVE, .vcpu = s->current,
						      .addr = addr, .length = (uint32_t)kind, .kind = (uint32_t)type }, NULL));
}

/* H: g or c, and a thread; 0 and -1 are any and all. */
static int choose_thread(struct stub *s, const char *p)
{
	long thread = strtol(p + 1, NULL, 16);
	uint32_t id = (uint32_t)(thread - 1);

	if (thread > 0 && !has_vcpu(s, id))
		return failed(s, -ENOENT);
	if (*p == 'c')
		s->moving = thread > 0 ? id : thread < 0 ? ALL : s->current;
	else if (thread > 0)
		s->current = id;
	return ok(s);
}

static int list_threads(struct stub *s)
{
	size_t n = 0;

	(void)look(s);
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
		*put_hex(s->out, text, (size_t)snprintf(text, sizeof(text), "vCPU %u%s", s->vcpu[i].id,
							 s->vcpu[i].halted ? ", halted" : "")) = '\0';
		return reply(s, "%s", s->out);
	}
	return failed(s, -ENOENT);
}

/* qXfer:features:read:target.xml:OFFSET,LENGTH */
static int transfer_features(struct stub *s, const char *p)
{
	uint64_t offset, length, size = strlen(s->xml);

	if (strncmp(p, "target.xml:", 11) != 0)
		return reply(s, "E00");
	p += 11;
	if (!number(&p, ',', &offset) || !number(&p, 0, &length))
		return failed(s, -EINVAL);
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
		return reply(s, "PacketSize=%x;qXfer:features:read+;vContSupported+;QStartNoAckMode+%s", GDB_PACKET_MAX,
			     s->names_breaks ? ";swbreak+;hwbreak+" : "");
	}
	if (begins(&p, "Xfer:features:read:"))
		return transfer_features(s, p);
	if (begins(&p, "fThreadInfo"))
		return list_threads(s);
	if (begins(&p, "sThreadInfo"))
		return reply(s, "l");
	if (begins(&p, "ThreadExtraInfo,"))
		return describe_thread(s, p);
	if (strcmp(p, "C") == 0)
		return reply(s, "QC%x", s->current + 1);
	if (begins(&p, "Attached"))
		return reply(s, "1");
	return reply(s, "%s", "");
}

static int kill_client(struct stub *s)
{
	s->over = true;
	return kill(s->session->pid, SIGKILL) ? failed(s, -errno) : 0;
}

static int handle_v(struct stub *s, const char *p)
{
	if (strcmp(p, "Cont?") == 0)
		return reply(s, "vCont;c;C;s;S");
	if (begins(&p, "Cont"))
		return run_vcont(s, p);
	if (begins(&p, "Kill;")) {
		(void)kill_client(s);
		return ok(s);
	}
	return reply(s, "%s", "");
}

static int handle(struct stub *s, const char *p)
{
	switch (*p++) {
	case '?': return tell_stop(s, SIGNAL_TRAP, NULL);
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
	case 'T': return ok_or(s, has_vcpu(s, (uint32_t)strtol(p, NULL, 16) - 1) ? 0 : -ENOENT);
	case 'c': return run_old(s, p, DEBUG_CONTINUE);
	case 's': return run_old(s, p, DEBUG_ONE_STEP);
	case 'v': return handle_v(s, p);
	case 'q': return query(s, p);
	case 'k': return kill_client(s);
	case 'D':
		(void)ok(s);
		s->over = true;
		return 0;
	case 'Q':
		if (strcmp(p, "StartNoAckMode") == 0) {
			(void)ok(s);
			s->link->no_ack = true;
			return 0;
		}
		return reply(s, "%s", "");
	default: return reply(s, "%s", "");
	}
}

/* --- the loop --- */

static void event_came(struct stub *s)
{
	struct debug_frame event;

	if (!gdb_session_receive_event(s->session, &event)) {
		s->over = true;
		(void)reply(s, "W00");
	} else if (s->running) {
		(void)tell_stop(s, SIGNAL_TRAP, &event);
	}
}

static void one_round(struct stub *s, bool readable)
{
	for (enum gdb_news news = gdb_receive(s->link, readable); news != GDB_NOTHING && !s->over;
	     news = gdb_receive(s->link, false)) {
		if (news == GDB_GONE)
			s->over = true;
		else if (news == GDB_INTERRUPT)
			(void)interrupt(s);
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
		int r = look(s);

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
	int r = s ? 0 : -ENOMEM;

	if (s) {
		s->link = l;
		s->session = session;
		r = from_start ? wait_for_first_run(s) : 0;
	}
	if (!r)
		r = call(s, (struct debug_frame){ .op = DEBUG_STOP }, NULL);
	if (!r)
		r = look(s);
	if (!r) {
		choose_vcpu(s);
		s->arch = arch >= 0 ? (enum gdb_arch)arch : s->vcpu[0].long_mode ? GDB_X86_64 : GDB_I386;
		s->xml = gdb_target_xml(s->arch);
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
