/*
 * Running a client and emptying its rings: see capture.h.
 */
#include "tools/trace/capture.h"
#include "tools/see/see.h"
#include "tools/userkvm/child.h"
#include "tools/userkvm/commands.h"
#include "trace/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NR_RINGS 64
#define DRAIN_MS 2

struct collector {
	struct trace_ring_file *file;
	size_t bytes;
	uint64_t ring_bytes;
	int fd, spool;
	uint64_t tail[NR_RINGS]; /* ours; the shared one is for the writer to read */
	bool broken[NR_RINGS];
	uint64_t nr_bad;
	int error; /* of the spool */
	const struct capture_live *live; /* NULL: nobody */
	bool enough;
};

bool event_set_change(struct event_set *set, const char *pattern, bool on)
{
	const char *colon = strchr(pattern, ':');
	bool any = false;

	for (int i = 0; i < TRACE_NR_EVENTS; i++) {
		const struct trace_event_meta *m = &trace_events[i];
		char full[128];

		snprintf(full, sizeof(full), "%s:%s", m->group, m->name);
		if (colon ? fnmatch(pattern, full, 0)
		          : fnmatch(pattern, m->group, 0) && fnmatch(pattern, m->name, 0))
			continue;
		set->on[i] = on;
		any = true;
	}
	return any;
}

static int make_ring_file(struct collector *k, const struct event_set *set, size_t ring_bytes)
{
	k->ring_bytes = ring_bytes;
	k->bytes = trace_file_bytes(NR_RINGS, ring_bytes);
	k->fd = memfd_create("userkvm-trace", MFD_CLOEXEC);
	if (k->fd < 0)
		return -1;
	if (ftruncate(k->fd, (off_t)k->bytes))
		return -1;
	k->file = mmap(NULL, k->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, 0);
	if (k->file == MAP_FAILED)
		return -1;
	k->file->nr_events = TRACE_NR_EVENTS;
	k->file->nr_rings = NR_RINGS;
	k->file->ring_size = ring_bytes;
	for (int i = 0; i < TRACE_NR_EVENTS; i++)
		if (set->on[i])
			k->file->enabled[i / 8] |= (uint8_t)(1 << (i % 8));
	k->file->magic = TRACE_RING_MAGIC;
	return 0;
}

static struct trace_ring *ring_at(struct collector *k, unsigned i)
{
	return (struct trace_ring *)((char *)k->file + trace_header_bytes() +
	                             i * (sizeof(struct trace_ring) + k->ring_bytes));
}

static void spool(struct collector *k, const void *p, size_t n)
{
	while (n && !k->error) {
		ssize_t w = write(k->spool, p, n);

		if (w < 0 && errno != EINTR)
			k->error = errno;
		if (w > 0) {
			p = (const char *)p + w;
			n -= (size_t)w;
		}
	}
}

/* The name of the thread; the client's process can write to the file. */
static void thread_comm(const struct collector *k, int32_t tid, char comm[17])
{
	uint32_t n = k->file->nr_threads;

	strcpy(comm, "<...>");
	for (uint32_t i = 0; i < n && i < TRACE_MAX_THREADS; i++) {
		if (k->file->threads[i].tid != tid)
			continue;
		memcpy(comm, k->file->threads[i].comm, 16);
		comm[16] = '\0';
	}
}

/* A copy is looked at: what lies in the ring can change. */
static void tell_live(struct collector *k, const uint8_t *p, uint64_t n)
{
	uint8_t *copy = malloc(n), *at = copy;
	char comm[17];

	if (!copy)
		return;
	memcpy(copy, p, n);
	while (n >= 8 && !k->enough) {
		const struct trace_record_head *h = (const void *)at;
		struct capture_record r = { h, (const void *)(h + 1) };

		if (h->cpu == TRACE_FILLER || !capture_believable(h, n))
			break;
		thread_comm(k, r.ent->common_pid, comm);
		k->enough = !k->live->record(k->live->arg, &r, comm);
		at += h->size;
		n -= h->size;
	}
	free(copy);
}

/* A piece of a ring: its length, then what is in it. */
static void spool_piece(struct collector *k, const uint8_t *p, uint64_t n)
{
	if (!n)
		return;
	spool(k, &n, sizeof(n));
	spool(k, p, n);
	if (k->live)
		tell_live(k, p, n);
}

/* True: something was there. */
static bool drain(struct collector *k, unsigned i)
{
	struct trace_ring *r = ring_at(k, i);
	uint64_t head = __atomic_load_n(&r->head, __ATOMIC_ACQUIRE), tail = k->tail[i];
	uint64_t at = tail & (k->ring_bytes - 1), n = head - tail;

	if (!n || k->broken[i])
		return false;
	if (n > k->ring_bytes || n % 8) {
		k->broken[i] = true;
		k->nr_bad++;
		return false;
	}
	if (at + n > k->ring_bytes) {
		spool_piece(k, trace_ring_data(r) + at, k->ring_bytes - at);
		spool_piece(k, trace_ring_data(r), at + n - k->ring_bytes);
	} else {
		spool_piece(k, trace_ring_data(r) + at, n);
	}
	k->tail[i] = head;
	__atomic_store_n(&r->tail, head, __ATOMIC_RELEASE);
	return true;
}

static bool drain_all(struct collector *k)
{
	bool any = false;

	for (unsigned i = 0; i < NR_RINGS; i++)
		any |= drain(k, i);
	return any;
}

/* SIGTERM that is sent to us is the client's: it ends by it, and what it left in the rings is written. */
static pid_t spawn(struct collector *k, int (*start)(int, char **), int argc, char **argv)
{
	pid_t parent = getpid(), child = child_fork();
	char path[64];

	if (child)
		return child;
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)parent, k->fd);
	setenv("USERKVM_TRACE", path, 1);
	signal(SIGPIPE, SIG_DFL);
	exit(start(argc, argv));
}

/* Until the client has ended. The terminal's signals are for the client. */
static int collect(struct collector *k, pid_t child)
{
	int pidfd = (int)syscall(SYS_pidfd_open, child, 0), status = 0;
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	bool told = false;

	for (;;) {
		bool any = drain_all(k);

		if (!any && k->live && !k->enough)
			k->enough = !k->live->quiet(k->live->arg);
		if (k->enough && !told) {
			kill(child, SIGTERM); /* nobody reads what is told: the client has no purpose any more */
			told = true;
		}
		if (poll(&p, pidfd >= 0, any ? 0 : DRAIN_MS) < 0 && errno != EINTR)
			break;
		if (waitpid(child, &status, WNOHANG) == child)
			break;
	}
	drain_all(k);
	if (pidfd >= 0)
		close(pidfd);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* What the collector has: its spool and the rings' own counts. */
static int load(struct capture *c, struct collector *k)
{
	c->attached = k->file->nr_attached != 0;
	c->nr_bad += k->nr_bad;
	c->nr_lost = k->file->lost;
	for (unsigned i = 0; i < NR_RINGS; i++)
		c->nr_lost += ring_at(k, i)->lost;
	return capture_load(c, k->spool, k->file);
}

static int open_spool(void)
{
	const char *dir = getenv("TMPDIR");
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/userkvm-trace-XXXXXX", dir && *dir ? dir : "/tmp");
	fd = mkostemp(path, 02000000 /* O_CLOEXEC */);
	if (fd >= 0)
		unlink(path);
	return fd;
}

int capture_run(struct capture *c, const struct event_set *set, const char *who, size_t ring_bytes,
                const struct capture_live *live, int (*start)(int argc, char **argv), int argc, char **argv)
{
	struct collector *k = calloc(1, sizeof(*k));
	pid_t child;
	int r = 1;

	memset(c, 0, sizeof(*c));
#ifdef USERKVM_NO_TRACEPOINTS
	fprintf(stderr, "%s: this build has no tracepoints (-Dtracepoints=false)\n", who);
	free(k);
	return 1;
#endif
	if (!k)
		return 1;
	k->fd = k->spool = -1;
	k->live = live;
	k->file = MAP_FAILED;
	if (make_ring_file(k, set, ring_bytes)) {
		fprintf(stderr, "%s: no memory for the rings: %s\n", who, strerror(errno));
		goto out;
	}
	k->spool = open_spool();
	if (k->spool < 0) {
		fprintf(stderr, "%s: no temporary file: %s\n", who, strerror(errno));
		goto out;
	}
	signal(SIGPIPE, SIG_IGN); /* an output that is closed is an error of its stream, and leaves no orphan */
	child = spawn(k, start, argc, argv);
	if (child < 0) {
		fprintf(stderr, "%s: fork: %s\n", who, strerror(errno));
		goto out;
	}
	c->status = collect(k, child);
	child_ended();
	signal(SIGPIPE, SIG_DFL);
	if (k->error)
		fprintf(stderr, "%s: the temporary file is incomplete: %s\n", who,
		        strerror(k->error));
	if (load(c, k))
		fprintf(stderr, "%s: the records cannot be read: %s\n", who, strerror(errno));
	else
		r = k->error ? 1 : 0;
out:
	if (k->file != MAP_FAILED)
		munmap(k->file, k->bytes);
	if (k->fd >= 0)
		close(k->fd);
	if (k->spool >= 0)
		close(k->spool);
	free(k);
	return r;
}

/* --- a process that runs already --- */

static volatile sig_atomic_t stopped;

static void stop(int signo)
{
	(void)signo;
	stopped = 1;
}

static void collect_of(struct collector *k, pid_t pid, double seconds)
{
	static const int stops[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction sa = { .sa_handler = stop }, before[ARRAY_SIZE(stops)];
	struct pollfd p = { .fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN };
	uint64_t end = trace_clock() + (uint64_t)(seconds * 1e9);
	char *said;

	for (size_t i = 0; i < ARRAY_SIZE(stops); i++)
		sigaction(stops[i], &sa, &before[i]);
	while (!stopped && !k->enough && (seconds <= 0 || trace_clock() < end)) {
		bool any = drain_all(k);

		if (!any && k->live && !k->enough)
			k->enough = !k->live->quiet(k->live->arg);
		if (poll(&p, p.fd >= 0, any ? 0 : DRAIN_MS) > 0)
			break; /* it has ended */
	}
	said = see_ask_quietly(pid, "untrace\n");
	free(said);
	usleep(DRAIN_MS * 1000); /* a record that was being written */
	drain_all(k);
	for (size_t i = 0; i < ARRAY_SIZE(stops); i++)
		sigaction(stops[i], &before[i], NULL);
	if (p.fd >= 0)
		close(p.fd);
}

int capture_take_pid(const char *who, const char *value, pid_t *pid)
{
	char *end;

	*pid = (pid_t)strtol(value, &end, 10);
	if (end != value && !*end && *pid > 0)
		return 0;
	return wrong_usage(who, "-p %s: no process id", value);
}

int capture_take_seconds(const char *who, const char *value, double *seconds)
{
	char *end;

	*seconds = strtod(value, &end);
	if (end != value && !*end && *seconds > 0 && *seconds < 1e6)
		return 0;
	return wrong_usage(who, "-d %s: no number of seconds", value);
}

int capture_attach(struct capture *c, const struct event_set *set, const char *who, size_t ring_bytes, const struct capture_live *live,
                   pid_t pid, double seconds)
{
	struct collector *k = calloc(1, sizeof(*k));
	int r = 1;

	memset(c, 0, sizeof(*c));
	if (!k)
		return 1;
	k->fd = k->spool = -1;
	k->file = MAP_FAILED;
	k->live = live;
	see_command = who;
	if (make_ring_file(k, set, ring_bytes) || (k->spool = open_spool()) < 0) {
		fprintf(stderr, "%s: no room for the rings: %s\n", who, strerror(errno));
	} else if (see_pass(pid, "trace\n", k->fd)) {
		collect_of(k, pid, seconds);
		if (k->error)
			fprintf(stderr, "%s: the temporary file is incomplete: %s\n", who, strerror(k->error));
		if (load(c, k))
			fprintf(stderr, "%s: the records cannot be read: %s\n", who, strerror(errno));
		else
			r = k->error ? 1 : 0;
		/* the process may keep it mapped: its pages shall not stay */
		fallocate(k->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)trace_header_bytes(), (off_t)(k->bytes - trace_header_bytes()));
	}
	if (k->file != MAP_FAILED)
		munmap(k->file, k->bytes);
	if (k->fd >= 0)
		close(k->fd);
	if (k->spool >= 0)
		close(k->spool);
	free(k);
	return r;
}

bool capture_never_ran(const struct capture *c)
{
	return c->status == CANNOT_RUN || c->status == NOT_FOUND;
}
