/*
 * The writing side: key words, rings, depth of calls. Off, nothing here runs.
 *
 * Invariants: 1. A ring has one writer: it is claimed by compare-exchange and
 * given back when its thread ends. 2. A record made in a signal handler while
 * its thread writes another one is counted as lost. 3. A forked child does not
 * write into its parent's ring; it attaches anew when it opens /dev/kvm.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lib/fork.h"
#include "lib/log.h"
#include "trace/probes.h"
#include "trace/ring.h"
#include "trace/trace.h"

void trace_name(char *to, size_t size, const char *name)
{
	snprintf(to, size, "%s", name);
}

uint64_t trace_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

#ifndef USERKVM_NO_TRACEPOINTS

#define EVENT(group, name, ...)                                                                    \
	union trace_key group##_##name##_semaphore __attribute__((section(".probes")));
#include "trace/events.inc"

#define EVENT(group, name, ...) &group##_##name##_semaphore,
static union trace_key *const keys[] = {
#include "trace/events.inc"
};

static struct {
	pthread_mutex_t lock;
	struct trace_ring_file *file; /* (a) NULL: not traced */
	uint64_t mapped;
	pthread_key_t thread_end;
	bool prepared, detached;
} state = {.lock = PTHREAD_MUTEX_INITIALIZER};

static __thread struct {
	struct trace_ring_file *file; /* what ring belongs to */
	struct trace_ring *ring;
	uint32_t depth;
	int32_t tid;
	bool no_ring, writing;
} self;

uint32_t trace_enter(void)
{
	return self.depth++;
}

uint32_t trace_depth(void)
{
	return self.depth;
}

void trace_left(void)
{
	if (self.depth)
		self.depth--;
}

static void introduce_thread(struct trace_ring_file *f)
{
	uint32_t i = __atomic_fetch_add(&f->nr_threads, 1, __ATOMIC_RELAXED);
	struct trace_thread *t = &f->threads[i];

	if (i >= TRACE_MAX_THREADS)
		return; /* its records will have no name */
	t->pid = getpid();
	prctl(PR_GET_NAME, t->comm);
	__atomic_store_n(&t->tid, self.tid, __ATOMIC_RELEASE);
}

static bool claim_ring(struct trace_ring_file *f)
{
	self.file = f;
	self.ring = NULL;
	self.no_ring = true;
	self.tid = (int32_t)syscall(SYS_gettid);
	for (uint32_t i = 0; i < f->nr_rings; i++) {
		struct trace_ring *r = trace_ring_at(f, i);
		int32_t none = 0;

		if (__atomic_load_n(&r->owner, __ATOMIC_RELAXED) == 0 &&
		    __atomic_compare_exchange_n(&r->owner, &none, self.tid, false, __ATOMIC_ACQUIRE,
		                                __ATOMIC_RELAXED)) {
			self.ring = r;
			self.no_ring = false;
			introduce_thread(f);
			pthread_setspecific(state.thread_end, r);
			return true;
		}
	}
	return false;
}

static void give_back(void *ring)
{
	struct trace_ring *r = ring;

	self.ring = NULL;
	self.file = NULL;
	__atomic_store_n(&r->owner, 0, __ATOMIC_RELEASE);
}

/* Place for `size` bytes that do not wrap, or NULL. */
static uint8_t *reserve(struct trace_ring_file *f, struct trace_ring *r, uint64_t size,
                        uint64_t *end)
{
	uint64_t head = r->head, tail = __atomic_load_n(&r->tail, __ATOMIC_ACQUIRE);
	uint64_t at = head & (f->ring_size - 1), rest = f->ring_size - at;
	struct trace_record_head *filler;

	if (rest >= size) {
		if (head + size - tail > f->ring_size)
			return NULL;
		*end = head + size;
		return trace_ring_data(r) + at;
	}
	if (head + rest + size - tail > f->ring_size)
		return NULL;
	filler = (void *)(trace_ring_data(r) + at); /* 8 bytes at least: size and cpu */
	filler->size = (uint32_t)rest;
	filler->cpu = TRACE_FILLER;
	*end = head + rest + size;
	return trace_ring_data(r);
}

static void write_ring(struct trace_ring_file *f, struct trace_ring *r, const void *rec,
                       size_t size)
{
	uint64_t total = ALIGN_UP(sizeof(struct trace_record_head) + size, 8ULL), end;
	struct trace_record_head *h = (void *)reserve(f, r, total, &end);

	if (!h) {
		__atomic_store_n(&r->lost, r->lost + 1, __ATOMIC_RELAXED);
		return;
	}
	h->size = (uint32_t)total;
	h->cpu = (uint32_t)sched_getcpu();
	h->ts = trace_clock();
	memcpy(h + 1, rec, size);
	__atomic_store_n(&r->head, end, __ATOMIC_RELEASE);
}

static void emit_to_ring(struct trace_entry *ent, size_t size)
{
	struct trace_ring_file *f = __atomic_load_n(&state.file, __ATOMIC_ACQUIRE);

	if (!f)
		return;
	if (self.writing) {
		__atomic_fetch_add(&f->lost, 1, __ATOMIC_RELAXED);
		return;
	}
	self.writing = true;
	if (unlikely(self.file != f))
		claim_ring(f);
	if (unlikely(self.no_ring)) {
		__atomic_fetch_add(&f->lost, 1, __ATOMIC_RELAXED);
	} else {
		ent->common_pid = self.tid;
		write_ring(f, self.ring, ent, size);
	}
	self.writing = false;
}

void trace_emit(enum trace_event event, void *record, size_t size)
{
	struct trace_entry *ent = record;
	int saved = errno;

	ent->common_type = (uint16_t)(TRACE_ID_BASE + event);
	if (READ_ONCE(keys[event]->ring))
		emit_to_ring(ent, size);
	if (READ_ONCE(keys[event]->semaphore))
		trace_probe(event, record);
	errno = saved;
}

/* --- attaching --- */

static void switch_events(const uint8_t *enabled)
{
	for (int i = 0; i < TRACE_NR_EVENTS; i++)
		WRITE_ONCE(keys[i]->ring, enabled ? enabled[i / 8] >> (i % 8) & 1 : 0);
}

/* The rings are the parent's. */
static void forget_in_child(void)
{
	pthread_mutex_init(&state.lock, NULL);
	if (!state.prepared)
		return;
	switch_events(NULL);
	if (state.file)
		munmap(state.file, state.mapped);
	state.file = NULL;
	memset(&self, 0, sizeof(self));
	pthread_setspecific(state.thread_end, NULL);
}
LIB_IN_FORKED_CHILD(forget_in_child)

static bool sane(const struct trace_ring_file *f, uint64_t bytes)
{
	return f->magic == TRACE_RING_MAGIC && f->nr_events == TRACE_NR_EVENTS &&
	       f->nr_rings <= TRACE_MAX_RINGS && f->ring_size >= PAGE_SIZE &&
	       (f->ring_size & (f->ring_size - 1)) == 0 && f->ring_size <= BIT_ULL(32) &&
	       trace_file_bytes(f->nr_rings, f->ring_size) <= bytes;
}

/* state.lock held. -EINVAL: no ring file of this version. */
static int attach_file(int fd)
{
	struct trace_ring_file *f = MAP_FAILED;
	struct stat st;

	if (fstat(fd, &st) == 0 && (uint64_t)st.st_size >= trace_header_bytes())
		f = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (f == MAP_FAILED)
		return -EINVAL;
	if (!sane(f, (uint64_t)st.st_size) || (!state.prepared && pthread_key_create(&state.thread_end, give_back))) {
		munmap(f, (size_t)st.st_size);
		return -EINVAL;
	}
	state.prepared = true;
	state.detached = false;
	state.mapped = (uint64_t)st.st_size;
	__atomic_fetch_add(&f->nr_attached, 1, __ATOMIC_RELAXED);
	__atomic_store_n(&state.file, f, __ATOMIC_RELEASE);
	switch_events(f->enabled);
	return 0;
}

/* state.lock held. */
static void attach_to(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		log_always("tracing: %s: %s", path, strerror(errno));
		return;
	}
	if (attach_file(fd))
		log_always("tracing: %s is no ring file of this version", path);
	syscall(SYS_close, fd);
}

int trace_attach_fd(int fd)
{
	int r;

	pthread_mutex_lock(&state.lock);
	r = state.file && !state.detached ? -EBUSY : attach_file(fd);
	pthread_mutex_unlock(&state.lock);
	return r;
}

void trace_detach(void)
{
	pthread_mutex_lock(&state.lock);
	if (state.file && !state.detached) {
		switch_events(NULL);
		state.detached = true;
	}
	pthread_mutex_unlock(&state.lock);
}

void trace_attach(void)
{
	const char *path = getenv("USERKVM_TRACE");
	int saved = errno;

	if (!path || !*path)
		return;
	pthread_mutex_lock(&state.lock);
	if (!state.file)
		attach_to(path);
	pthread_mutex_unlock(&state.lock);
	errno = saved;
}

#else

void trace_attach(void)
{
	if (getenv("USERKVM_TRACE"))
		log_always("tracing: this build has no tracepoints (-Dtracepoints=false)");
}

int trace_attach_fd(int fd)
{
	(void)fd;
	return -ENOSYS;
}

void trace_detach(void) {}

void trace_emit(enum trace_event event, void *record, size_t size)
{
	(void)event, (void)record, (void)size;
}

uint32_t trace_enter(void)
{
	return 0;
}

uint32_t trace_depth(void)
{
	return 0;
}

void trace_left(void) {}

#endif
