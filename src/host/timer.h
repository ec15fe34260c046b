/*
 * Timers on CLOCK_MONOTONIC, served by one thread of ours that blocks all signals.
 */
#ifndef USERKVM_HOST_TIMER_H
#define USERKVM_HOST_TIMER_H

#include "lib/types.h"

struct host_timer;

/* Runs on the timer thread, no locks of ours held; may re-arm its own timer. */
typedef void host_timer_fn(void *arg);

/* -ENOMEM, -EAGAIN (no thread). Arming and disarming cannot fail. */
must_check int host_timer_create(host_timer_fn *fn, void *arg, struct host_timer **out);
/* Arm to fire once at deadline_ns (absolute, CLOCK_MONOTONIC); replaces. */
void host_timer_arm(struct host_timer *t, uint64_t deadline_ns);
/* Disarm without waiting: a callback may be running or about to. Any lock may be held. */
void host_timer_disarm(struct host_timer *t);
/* Disarm; waits for a running callback unless called from the callback. */
void host_timer_cancel(struct host_timer *t);
void host_timer_destroy(struct host_timer *t);

uint64_t host_now_ns(void);	 /* CLOCK_MONOTONIC */
uint64_t host_boottime_ns(void); /* CLOCK_BOOTTIME, kvmclock's base */
uint64_t host_realtime_ns(void); /* CLOCK_REALTIME */
uint64_t host_tsc(void);	 /* RDTSC, ordered */
uint64_t host_tsc_khz(void);	 /* measured once, or from CPUID */

#endif
