/*
 * RCU thread registration.
 *
 * Invariant: a thread is in liburcu's registry exactly while
 * lib_rcu_registered is set; a pthread key's destructor takes it out when the
 * thread ends, since liburcu walks the registry's thread-local storage.
 */
#include "lib/rcu.h"

#include <pthread.h>

__thread int lib_rcu_registered;

static pthread_key_t key;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;

static void thread_ends(void *arg)
{
	if (lib_rcu_registered) {
		lib_rcu_registered = 0;
		urcu_memb_unregister_thread();
	}
}

static void make_key(void)
{
	pthread_key_create(&key, thread_ends);
}

void lib_rcu_register_thread(void)
{
	if (lib_rcu_registered)
		return;
	pthread_once(&key_once, make_key);
	urcu_memb_register_thread();
	lib_rcu_registered = 1;
	pthread_setspecific(key, &lib_rcu_registered);
}

void lib_rcu_synchronize(void)
{
	if (!lib_rcu_registered)
		lib_rcu_register_thread();
	urcu_memb_synchronize_rcu();
}
