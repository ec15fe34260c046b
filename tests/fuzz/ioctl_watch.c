/*
 * What must come back, does: a thread that looks at how long calls take, and
 * the timer that ends KVM_RUN.
 */
#include "ioctl.h"

#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "userkvm/userkvm.h"

#define KICK_NS 2000000

unsigned watch_limit_s = 30;

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static struct {
	pthread_mutex_t lock;
	struct actor *actors;
	unsigned nr;
} watch = { .lock = PTHREAD_MUTEX_INITIALIZER };

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void on_stack_wanted(int signo)
{
	void *frames[64];

	backtrace_symbols_fd(frames, backtrace(frames, 64), STDERR_FILENO);
}

static void on_kick(int signo)
{
	userkvm_signal_ran();
}

static __thread timer_t kick_timer;

void kick_start(void)
{
	struct sigevent e = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1 };
	struct itimerspec t = { .it_value.tv_nsec = KICK_NS, .it_interval.tv_nsec = KICK_NS };

	e.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
	if (timer_create(CLOCK_MONOTONIC, &e, &kick_timer) || timer_settime(kick_timer, 0, &t, NULL)) {
		perror("fuzz-ioctl: a timer");
		exit(1);
	}
}

void kick_stop(void)
{
	timer_delete(kick_timer);
}

static void give_up(const struct actor *stuck, uint64_t ns)
{
	fprintf(stderr, "fuzz-ioctl: %s has not come back for %llu s; the stacks:\n", stuck->call,
		(unsigned long long)(ns / 1000000000));
	for (unsigned i = 0; i < watch.nr; i++) {
		fprintf(stderr, "-- actor %u, %s\n", i,
			__atomic_load_n(&watch.actors[i].began_ns, __ATOMIC_ACQUIRE) ? watch.actors[i].call : "in no call");
		pthread_kill((pthread_t)watch.actors[i].thread, SIGUSR2);
		sleep(1);
	}
	_exit(3);
}

static void *watch_main(void *arg)
{
	const char *p = getenv("PATIENCE");
	uint64_t limit = (p ? strtoull(p, NULL, 0) : 1) * watch_limit_s * 1000000000ull;

	for (;;) {
		usleep(200000);
		pthread_mutex_lock(&watch.lock);
		for (unsigned i = 0; i < watch.nr; i++) {
			uint64_t t = __atomic_load_n(&watch.actors[i].began_ns, __ATOMIC_ACQUIRE), now = now_ns();

			if (t && now > t && now - t > limit)
				give_up(&watch.actors[i], now - t);
		}
		pthread_mutex_unlock(&watch.lock);
	}
	return NULL;
}

void watch_start(void)
{
	struct sigaction kick = { .sa_handler = on_kick }, stack = { .sa_handler = on_stack_wanted };
	sigset_t all, old;
	pthread_t t;
	void *frame;

	backtrace(&frame, 1); /* loads what it needs while it may */
	sigaction(SIGUSR1, &kick, NULL);
	sigaction(SIGUSR2, &stack, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (pthread_create(&t, NULL, watch_main, NULL))
		exit(1);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void watch_actors(struct actor *actors, unsigned nr)
{
	pthread_mutex_lock(&watch.lock);
	watch.actors = actors;
	watch.nr = nr;
	pthread_mutex_unlock(&watch.lock);
}
