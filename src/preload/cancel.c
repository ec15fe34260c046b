/*
 * pthread_cancel() of a thread that is in KVM_RUN.
 *
 * On Linux a cancelled thread leaves the kernel before it unwinds. Here it
 * would unwind out of the library, with locks held. So cancellation is deferred
 * inside, whatever the client's thread has chosen; and a thread that has chosen
 * asynchronous cancellation is made to leave KVM_RUN when somebody cancels it.
 *
 * A thread has the deferred type unless it has called pthread_setcanceltype(), which is taken over: as long as no
 * thread has asked for the asynchronous type, nobody's type is looked at.
 *
 * Lock: lock guards the list of such runs; nothing is called with it held but
 * abi_interrupt_run().
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <linux/kvm.h>
#include <pthread.h>
#include <time.h>

#include "abi/abi.h"
#include "lib/fork.h"
#include "preload/real.h"
#include "userkvm/userkvm.h"

struct async_run {
	pthread_t thread;
	int fd;
	struct async_run *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct async_run *runs;
static bool told;	  /* the program calls the pthread_setcanceltype() below */
static bool asynchronous; /* (a) some thread has asked for it */

/* Whoever forks is not in KVM_RUN. */
static void forget_in_child(void)
{
	runs = NULL;
	pthread_mutex_init(&lock, NULL);
}
LIB_IN_FORKED_CHILD(forget_in_child)

static int run_cancellable(int fd, unsigned long request, unsigned long arg)
{
	struct async_run self = { .thread = pthread_self(), .fd = fd }, **p;
	int r;

	pthread_mutex_lock(&lock);
	self.next = runs;
	runs = &self;
	pthread_mutex_unlock(&lock);
	r = userkvm_ioctl(fd, request, arg);
	pthread_mutex_lock(&lock);
	for (p = &runs; *p != &self;)
		p = &(*p)->next;
	*p = self.next;
	pthread_mutex_unlock(&lock);
	return r;
}

EXPORT int pthread_setcanceltype(int type, int *old)
{
	if (type == PTHREAD_CANCEL_ASYNCHRONOUS)
		__atomic_store_n(&asynchronous, true, __ATOMIC_RELAXED); /* this thread's own calls look */
	return REAL(pthread_setcanceltype)(type, old);
}

__attribute__((constructor)) static void tell(void)
{
	told = preload_is_own_code(dlsym(RTLD_DEFAULT, "pthread_setcanceltype"));
}

int preload_ioctl(int fd, unsigned long request, unsigned long arg)
{
	int type, r;

	if (told && !__atomic_load_n(&asynchronous, __ATOMIC_RELAXED))
		return userkvm_ioctl(fd, request, arg);
	REAL(pthread_setcanceltype)(PTHREAD_CANCEL_DEFERRED, &type);
	if (type == PTHREAD_CANCEL_ASYNCHRONOUS && (unsigned int)request == KVM_RUN)
		r = run_cancellable(fd, request, arg);
	else
		r = userkvm_ioctl(fd, request, arg);
	/* A thread that has been cancelled meanwhile ends here. */
	REAL(pthread_setcanceltype)(type, NULL);
	return r;
}

/* True when the thread was in KVM_RUN; it is told to leave. */
static bool interrupt_run(pthread_t thread)
{
	struct async_run *a;

	pthread_mutex_lock(&lock);
	for (a = runs; a && !pthread_equal(a->thread, thread);)
		a = a->next;
	if (a)
		abi_interrupt_run(a->fd);
	pthread_mutex_unlock(&lock);
	return a;
}

EXPORT int pthread_cancel(pthread_t thread)
{
	const struct timespec pause = { .tv_nsec = 200000 };
	int r = REAL(pthread_cancel)(thread);

	/* Again, should it have been on its way in only. */
	if (r == 0 && !pthread_equal(thread, pthread_self()))
		while (interrupt_run(thread))
			nanosleep(&pause, NULL);
	return r;
}
