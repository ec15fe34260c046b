/*
 * RCU over fork().
 */
#include "lib/rcu.h"

#include <pthread.h>

__thread bool lib_rcu_knows_thread __attribute__((tls_model("initial-exec")));

/*
 * Invariant: readers of other threads do not keep a forked child waiting; liburcu takes them out of its registry,
 * which nobody changes while the process is copied.
 */
__attribute__((constructor)) static void over_fork(void)
{
	pthread_atfork(urcu_bp_before_fork, urcu_bp_after_fork_parent, urcu_bp_after_fork_child);
}

void lib_rcu_synchronize(void)
{
	urcu_bp_synchronize_rcu();
}
