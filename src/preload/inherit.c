/*
 * What inherits a thread's signal mask: programs it starts, threads it makes. Where the client believes SIGSEGV to be
 * blocked and it is open (host/fault.h, host_fault_hold_segv()), a program starts with it blocked, and a thread
 * believes the same.
 *
 * execve() and its like block it by themselves (exec.c).
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "abi/abi.h"
#include "preload/real.h"

bool preload_inherit_begin(void)
{
	bool held = abi_segv_is_held();

	if (held)
		preload_segv_block();
	return held;
}

void preload_inherit_end(bool held)
{
	sigset_t segv;
	int saved = errno;

	if (!held)
		return;
	sigemptyset(&segv);
	sigaddset(&segv, SIGSEGV);
	abi_hold_segv(true); /* before a pending one comes */
	REAL(pthread_sigmask)(SIG_UNBLOCK, &segv, NULL);
	held = abi_segv_is_held();
	abi_mask_changed();
	preload_cpuid_mask();
	abi_hold_segv(held);
	errno = saved;
}

EXPORT int system(const char *command)
{
	bool held = preload_inherit_begin();
	int r = REAL(system)(command);

	preload_inherit_end(held);
	return r;
}

EXPORT FILE *popen(const char *command, const char *type)
{
	bool held = preload_inherit_begin();
	FILE *f = REAL(popen)(command, type);

	preload_inherit_end(held);
	return f;
}

struct start {
	void *(*fn)(void *);
	void *arg;
	bool opens; /* it starts with SIGSEGV blocked by its attributes */
};

static void *start(void *p)
{
	struct start s = *(struct start *)p;

	free(p);
	if (s.opens)
		preload_inherit_end(true);
	else
		abi_hold_segv(true);
	return s.fn(s.arg);
}

static bool attributes_block_segv(const pthread_attr_t *attr, bool *have_mask)
{
	sigset_t set;

	*have_mask = attr && pthread_attr_getsigmask_np(attr, &set) == 0;
	return *have_mask && sigismember(&set, SIGSEGV) == 1;
}

EXPORT int pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	bool have_mask, blocks = attributes_block_segv(attr, &have_mask);
	struct start *s;
	int r;

	if (preload_is_own_code(__builtin_return_address(0)) || abi_in_service() || !preload_segv_stays_open() ||
	    (!blocks && (have_mask || !abi_segv_is_held())))
		return REAL(pthread_create)(t, attr, fn, arg);
	s = malloc(sizeof(*s));
	if (!s)
		return EAGAIN;
	*s = (struct start){ fn, arg, .opens = blocks };
	r = REAL(pthread_create)(t, attr, start, s);
	if (r)
		free(s);
	return r;
}
