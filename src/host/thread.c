/*
 * Starting our own threads: signals are blocked in the parent around
 * pthread_create(), so there is no moment at which the child could take one.
 */
#include "host/thread.h"

#include <signal.h>

#include "lib/error.h"

int host_thread_start(pthread_t *out, const char *name, void *(*fn)(void *), void *arg)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(out, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err)
		return err_born(err, "cannot start thread %s", name);
	pthread_setname_np(*out, name);
	return 0;
}
