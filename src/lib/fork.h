/*
 * fork(): a child has the memory of all of its parent's threads, and one thread.
 *
 * What a room has once for the process starts anew there: locks that another thread may
 * have held, work that another thread did, lists of the parent's VMs.
 *
 *	static void forget_in_child(void) { ... }
 *	LIB_IN_FORKED_CHILD(forget_in_child)
 *
 * The parent's VMs stay as they are: no call of the child's reaches them (kvm->mm_id).
 * Context: the child, before fork() returns.
 */
#ifndef USERKVM_LIB_FORK_H
#define USERKVM_LIB_FORK_H

#include <pthread.h>
#include <stddef.h>

#define LIB_IN_FORKED_CHILD(fn)                              \
	__attribute__((constructor)) static void fn##_once(void) \
	{                                                    \
		pthread_atfork(NULL, NULL, fn);              \
	}

#endif
