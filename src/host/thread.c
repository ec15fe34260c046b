/*
 * Starting our own threads: signals are blocked in the parent around
 * pthread_create(), so there is no moment at which the child could take one. They
 * are in service all their lives: what they call is never the client's doing.
 * And what is to be known of a thread of anybody's.
 */
#include "host/thread.h"

#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "host/client_threads.h"
#include "host/service.h"
#include "lib/error.h"
#include "lib/fork.h"
#include "lib/own.h"
#include "lib/rcu.h"

static unsigned nr_ours; /* (a) */

#define STACK_BYTES (1ul << 20)
#define GUARD_BYTES (64ul << 10)

struct start {
	void *(*fn)(void *);
	void *arg;
	sem_t *ready;
};

unsigned host_threads_of_ours(void)
{
	return __atomic_load_n(&nr_ours, __ATOMIC_ACQUIRE);
}

static void forget_in_child(void)
{
	nr_ours = 0;
}
LIB_IN_FORKED_CHILD(forget_in_child)

static void *thread_main(void *arg)
{
	struct start s = *(struct start *)arg;
	void *r;

	own_free(arg);
	host_service_begin();
	/* The default slack of 50 µs would be added to every guest tick. */
	prctl(PR_SET_TIMERSLACK, 1UL);
	lib_rcu_thread();
	sem_post(s.ready);
	host_client_thread_known = true; /* it is not the client's, and so never added */
	r = s.fn(s.arg);
	__atomic_fetch_sub(&nr_ours, 1, __ATOMIC_RELEASE);
	return r;
}

/* A stack between addresses without access, to be given back by own_pages_free(); NULL: no memory. */
static uint8_t *make_stack(pthread_attr_t *attr)
{
	uint8_t *all = own_reserve(GUARD_BYTES + STACK_BYTES);

	if (!all)
		return NULL;
	if (mmap(all + GUARD_BYTES, STACK_BYTES, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED ||
	    pthread_attr_setstack(attr, all + GUARD_BYTES, STACK_BYTES)) {
		own_pages_free(all);
		return NULL;
	}
	return all;
}

/* When it returns, the thread has made the system calls that a filter of the client's may soon forbid to all threads. */
static int start_thread(struct host_thread *out, const char *name, void *(*fn)(void *), void *arg)
{
	struct start *s = own_malloc(sizeof(*s));
	pthread_attr_t attr;
	sigset_t all, old;
	sem_t ready;
	int err;

	pthread_attr_init(&attr);
	out->stack = s ? make_stack(&attr) : NULL;
	if (!out->stack) {
		own_free(s);
		pthread_attr_destroy(&attr);
		return err_born(ENOMEM, "cannot start thread %s", name);
	}
	sem_init(&ready, 0, 0);
	*s = (struct start){ fn, arg, &ready };
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	__atomic_fetch_add(&nr_ours, 1, __ATOMIC_RELEASE);
	err = pthread_create(&out->thread, &attr, thread_main, s);
	while (!err && sem_wait(&ready) && errno == EINTR)
		;
	sem_destroy(&ready);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (err) {
		__atomic_fetch_sub(&nr_ours, 1, __ATOMIC_RELEASE);
		own_free(s);
		own_pages_free(out->stack);
		return err_born(err, "cannot start thread %s", name);
	}
	pthread_setname_np(out->thread, name);
	return 0;
}

int host_thread_start(struct host_thread *out, const char *name, void *(*fn)(void *), void *arg)
{
	int r = host_client_threads_watch();

	return r ? r : start_thread(out, name, fn, arg);
}

int host_thread_start_for_good(const char *name, void *(*fn)(void *), void *arg)
{
	struct host_thread t;
	int r = host_thread_start(&t, name, fn, arg);

	if (!r)
		pthread_detach(t.thread);
	return r;
}

void host_thread_join(struct host_thread *t)
{
	pthread_join(t->thread, NULL);
	own_pages_free(t->stack);
}

uint64_t host_thread_serial(void)
{
	static uint64_t last;
	static __thread uint64_t serial;

	if (!serial)
		serial = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
	return serial;
}

uint64_t host_thread_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}
