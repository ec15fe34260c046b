/*
 * Read-copy-update for every room: liburcu (memb flavour), with threads
 * registered on first use, so that client threads need no set-up.
 *
 * Read-side sections nest, cost two memory accesses, and must not block or
 * call lib_rcu_synchronize(). A thread that runs in the guest is not in one.
 */
#ifndef USERKVM_LIB_RCU_H
#define USERKVM_LIB_RCU_H

#include <urcu/urcu-memb.h>

/* Registers the calling thread; it is unregistered when it ends. */
void lib_rcu_register_thread(void);

extern __thread int lib_rcu_registered;

static inline void lib_rcu_read_lock(void)
{
	if (__builtin_expect(!lib_rcu_registered, 0))
		lib_rcu_register_thread();
	urcu_memb_read_lock();
}

static inline void lib_rcu_read_unlock(void)
{
	urcu_memb_read_unlock();
}

/* Returns when every read-side section that was open has ended. May sleep. */
void lib_rcu_synchronize(void);

#endif
