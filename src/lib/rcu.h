/*
 * Read-copy-update for every room: liburcu (bulletproof flavour: threads register by
 * themselves, so that client threads need no set-up, and forked children go on).
 *
 * Read-side sections nest, cost two memory accesses, and must not block or
 * call lib_rcu_synchronize(). A thread that runs in the guest is not in one.
 */
#ifndef USERKVM_LIB_RCU_H
#define USERKVM_LIB_RCU_H

#include <stdbool.h>
#include <urcu/urcu-bp.h>

extern __thread bool lib_rcu_knows_thread __attribute__((tls_model("initial-exec")));

/* In service (host/service.h), since liburcu maps memory. Once in a thread: registers it, with the two rt_sigprocmask() that liburcu would make in its first section. */
static inline void lib_rcu_thread(void)
{
	if (!lib_rcu_knows_thread)
		urcu_bp_register_thread();
	lib_rcu_knows_thread = true;
}

static inline void lib_rcu_read_lock(void)
{
	urcu_bp_read_lock();
}

static inline void lib_rcu_read_unlock(void)
{
	urcu_bp_read_unlock();
}

/* Returns when every read-side section that was open has ended. May sleep. */
void lib_rcu_synchronize(void);

#endif
