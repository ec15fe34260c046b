/*
 * Timers: one thread of ours serves a binary min-heap of deadlines.
 *
 * Invariants:
 *  1. heap[i]->pos == i for every armed timer, pos == NOT_ARMED otherwise.
 *  2. heap[parent(i)]->deadline_ns <= heap[i]->deadline_ns.
 *  3. While `running` is not NULL that timer's callback runs without the lock;
 *     its memory is freed by nobody but the thread itself then.
 *  4. The heap has room for every timer in existence, so arming cannot fail.
 *  5. The thread sleeps until `sleeping_until`; who arms an earlier deadline
 *     wakes it. Disarming never does.
 *
 * Lock: timers.lock, innermost of all; callbacks run without it.
 */
#include "host/timer.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

#include "host/client_threads.h"
#include "host/thread.h"
#include "lib/error.h"
#include "lib/fork.h"
#include "lib/own.h"

#define NOT_ARMED SIZE_MAX
#define NSEC_PER_SEC 1000000000ULL

struct host_timer {
	host_timer_fn *fn;    /* (c) */
	void *arg;	      /* (c) */
	uint64_t deadline_ns; /* [lock] */
	size_t pos;	      /* [lock] index in the heap */
	bool dead;	      /* [lock] destroyed from its own callback */
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t wake; /* for the thread: an earlier deadline */
	pthread_cond_t idle; /* for cancel: a callback has ended */
	struct host_timer **heap;
	size_t nr_armed, nr_timers, capacity;
	struct host_timer *running;
	pthread_t thread; /* set by the thread, before it runs one */
	uint64_t sleeping_until;
	bool started;
} timers = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* Its timers are the parent's, as the thread is. */
static void forget_in_child(void)
{
	memset(&timers, 0, sizeof(timers));
	pthread_mutex_init(&timers.lock, NULL);
}
LIB_IN_FORKED_CHILD(forget_in_child)

static uint64_t now_of(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

uint64_t host_now_ns(void)
{
	return now_of(CLOCK_MONOTONIC);
}

uint64_t host_boottime_ns(void)
{
	return now_of(CLOCK_BOOTTIME);
}

uint64_t host_realtime_ns(void)
{
	return now_of(CLOCK_REALTIME);
}

static void place(struct host_timer *t, size_t pos)
{
	timers.heap[pos] = t;
	t->pos = pos;
}

static void sift_up(struct host_timer *t, size_t pos)
{
	while (pos > 0) {
		size_t parent = (pos - 1) / 2;

		if (timers.heap[parent]->deadline_ns <= t->deadline_ns)
			break;
		place(timers.heap[parent], pos);
		pos = parent;
	}
	place(t, pos);
}

static void sift_down(struct host_timer *t, size_t pos)
{
	for (;;) {
		size_t child = 2 * pos + 1;

		if (child >= timers.nr_armed)
			break;
		if (child + 1 < timers.nr_armed &&
		    timers.heap[child + 1]->deadline_ns < timers.heap[child]->deadline_ns)
			child++;
		if (t->deadline_ns <= timers.heap[child]->deadline_ns)
			break;
		place(timers.heap[child], pos);
		pos = child;
	}
	place(t, pos);
}

/* Put t where its (new) deadline belongs. */
static void heap_fix(struct host_timer *t, size_t pos)
{
	if (pos > 0 && timers.heap[(pos - 1) / 2]->deadline_ns > t->deadline_ns)
		sift_up(t, pos);
	else
		sift_down(t, pos);
}

static void heap_remove(struct host_timer *t)
{
	struct host_timer *last;
	size_t pos = t->pos;

	if (pos == NOT_ARMED)
		return;
	t->pos = NOT_ARMED;
	last = timers.heap[--timers.nr_armed];
	if (last != t)
		heap_fix(last, pos);
}

/* The first timer is due: run it. Lock held, dropped for the callback. */
static void run_first(void)
{
	struct host_timer *t = timers.heap[0];

	heap_remove(t);
	timers.running = t;
	pthread_mutex_unlock(&timers.lock);
	t->fn(t->arg);
	pthread_mutex_lock(&timers.lock);
	timers.running = NULL;
	if (t->dead) {
		timers.nr_timers--;
		own_free(t);
	}
	pthread_cond_broadcast(&timers.idle);
}

static void *timer_thread(void *arg)
{
	pthread_mutex_lock(&timers.lock);
	timers.thread = pthread_self();
	while (!host_threads_end()) {
		uint64_t first = timers.nr_armed ? timers.heap[0]->deadline_ns : UINT64_MAX;
		struct timespec ts;

		if (first <= host_now_ns()) {
			timers.sleeping_until = 0;
			run_first();
			continue;
		}
		timers.sleeping_until = first;
		if (first == UINT64_MAX) {
			pthread_cond_wait(&timers.wake, &timers.lock);
			continue;
		}
		ts.tv_sec = (time_t)(first / NSEC_PER_SEC);
		ts.tv_nsec = (long)(first % NSEC_PER_SEC);
		pthread_cond_timedwait(&timers.wake, &timers.lock, &ts);
	}
	pthread_mutex_unlock(&timers.lock);
	return NULL;
}

static void wake_thread(void *arg)
{
	pthread_mutex_lock(&timers.lock);
	pthread_cond_signal(&timers.wake);
	pthread_mutex_unlock(&timers.lock);
}
static struct host_waker waker = { .wake = wake_thread };

static int start_thread(void)
{
	pthread_condattr_t attr;
	int err;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&timers.wake, &attr);
	pthread_cond_init(&timers.idle, &attr);
	pthread_condattr_destroy(&attr);
	err = host_thread_start_for_good("userkvm-timer", timer_thread, NULL);
	if (err)
		return err;
	host_waker_add(&waker);
	timers.started = true;
	return 0;
}

static int make_room(void)
{
	struct host_timer **bigger;
	size_t capacity = timers.capacity ? timers.capacity * 2 : 16;

	if (timers.nr_timers < timers.capacity)
		return 0;
	bigger = own_realloc(timers.heap, capacity * sizeof(*bigger));
	if (!bigger)
		return err_born(ENOMEM, "no memory for %zu timers", capacity);
	timers.heap = bigger;
	timers.capacity = capacity;
	return 0;
}

int host_timer_create(host_timer_fn *fn, void *arg, struct host_timer **out)
{
	struct host_timer *t = own_calloc(1, sizeof(*t));
	int err = 0;

	if (!t)
		return err_born(ENOMEM, "no memory for a timer");
	t->fn = fn;
	t->arg = arg;
	t->pos = NOT_ARMED;
	pthread_mutex_lock(&timers.lock);
	if (!timers.started)
		err = start_thread();
	if (!err)
		err = make_room();
	if (!err)
		timers.nr_timers++;
	pthread_mutex_unlock(&timers.lock);
	if (err) {
		own_free(t);
		return err;
	}
	*out = t;
	return 0;
}

void host_timer_arm(struct host_timer *t, uint64_t deadline_ns)
{
	bool wake = false;

	pthread_mutex_lock(&timers.lock);
	if (!t->dead) {
		t->deadline_ns = deadline_ns;
		heap_fix(t, t->pos == NOT_ARMED ? timers.nr_armed++ : t->pos);
		wake = deadline_ns < timers.sleeping_until;
		if (wake)
			timers.sleeping_until = deadline_ns;
	}
	pthread_mutex_unlock(&timers.lock);
	if (wake)
		pthread_cond_signal(&timers.wake);
}

void host_timer_disarm(struct host_timer *t)
{
	pthread_mutex_lock(&timers.lock);
	heap_remove(t);
	pthread_mutex_unlock(&timers.lock);
}

/* Until no callback of t runs; on the timer thread itself there is none but our own. */
static void wait_idle(struct host_timer *t)
{
	while (timers.running == t && !pthread_equal(pthread_self(), timers.thread))
		pthread_cond_wait(&timers.idle, &timers.lock);
}

void host_timer_cancel(struct host_timer *t)
{
	pthread_mutex_lock(&timers.lock);
	heap_remove(t);
	wait_idle(t);
	/* The callback may have armed it again. */
	if (timers.running != t)
		heap_remove(t);
	pthread_mutex_unlock(&timers.lock);
}

void host_timer_destroy(struct host_timer *t)
{
	if (!t)
		return;
	pthread_mutex_lock(&timers.lock);
	heap_remove(t);
	wait_idle(t);
	if (timers.running == t) { /* its own callback: the thread frees it */
		t->dead = true;
	} else {
		heap_remove(t); /* the callback may have armed it again */
		timers.nr_timers--;
		own_free(t);
	}
	pthread_mutex_unlock(&timers.lock);
}
