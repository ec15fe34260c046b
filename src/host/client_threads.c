/*
 * Which threads of the client's are left. See client_threads.h.
 *
 * Invariants
 * 1. Every entry of the list but those in `dead` has its mutex held by the thread that it stands for.
 * 2. An entry leaves the list when its mutex, or its `owner`, has been given to the watcher, and only then.
 * 3. The watcher needs futex, read and one write to an eventfd while all threads of the client's
 *    are in the list; a filter that the client sets for all threads may forbid the rest.
 *
 * 4. Wakers neither come nor go any more once `ended` is set: that is the work of the client's threads.
 *
 * Lock: clients.lock guards the lists; innermost of all.
 */
#include "host/client_threads.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "host/thread.h"
#include "lib/error.h"
#include "lib/fork.h"
#include "lib/own.h"
#include "lib/own_fd.h"

struct client_thread {
	pthread_mutex_t alive; /* robust */
	uint32_t owner; /* (a) the thread's id, as a futex with priority inheritance has it; 0: it has ended */
	struct client_thread *next;
	int delay_fd; /* its schedstat; -1: not opened. One that has ended leaves it to its successor in the entry */
};

static struct {
	pthread_mutex_t lock;
	struct client_thread *list; /* the oldest last */
	struct client_thread *free;
	struct client_thread first; /* so that the first needs no memory */
	struct host_waker *wakers;
	bool watched, ended;
	bool robust_lists_lost; /* (a) the kernel has been given others for the threads of the program */
	int end_fd;
	int stat_fd; /* /proc/self/stat */
} clients = { .lock = PTHREAD_MUTEX_INITIALIZER, .end_fd = -1, .stat_fd = -1 };

__thread bool host_client_thread_known __attribute__((tls_model("initial-exec")));
__thread bool host_client_thread_prepared __attribute__((tls_model("initial-exec")));
static __thread struct client_thread *self __attribute__((tls_model("initial-exec")));

static void init_robust(pthread_mutex_t *m)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(m, &attr);
	pthread_mutexattr_destroy(&attr);
}

void host_client_thread_add(void)
{
	struct client_thread *t;

	host_client_thread_known = true;
	pthread_mutex_lock(&clients.lock);
	t = clients.free;
	if (t) {
		clients.free = t->next;
	} else {
		t = clients.list ? own_malloc(sizeof(*t)) : &clients.first;
		if (t)
			t->delay_fd = -1;
	}
	if (t) { /* else: /proc tells of it at the end */
		init_robust(&t->alive);
		/* Nobody else has it. A lock would be waited for, to sanitizers, behind all that the thread holds now. */
		(void)!pthread_mutex_trylock(&t->alive);
		__atomic_store_n(&t->owner, (uint32_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
		t->next = clients.list;
		clients.list = self = t;
	}
	pthread_mutex_unlock(&clients.lock);
}

void host_client_thread_prepare_slow(void)
{
	host_client_thread_prepared = true;
	if (!self)
		return;
	if (self->delay_fd >= 0)
		own_fd_close(self->delay_fd);
	self->delay_fd = own_fd_keep((int)syscall(SYS_openat, AT_FDCWD, "/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC));
}

int host_client_thread_run_delay(uint64_t *ns)
{
	char text[80], *p;
	ssize_t n = self && self->delay_fd >= 0 ? syscall(SYS_pread64, self->delay_fd, text, sizeof(text) - 1, 0) : -1;

	if (n <= 0)
		return -ENOSYS;
	/* The file: time on a processor, time waited for one, number of turns. A thread that runs has had one. */
	text[n] = 0;
	strtoull(text, &p, 10);
	*ns = strtoull(p, &p, 10);
	return strtoull(p, NULL, 10) ? 0 : -ENOSYS;
}

/* Of this thread, which holds it. The kernel knows of a waiter, and then is to wake it. */
static void give_owner_up(uint32_t *owner)
{
	uint32_t me = (uint32_t)syscall(SYS_gettid);

	if (!__atomic_compare_exchange_n(owner, &me, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		syscall(SYS_futex, owner, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL);
}

void host_client_thread_ends(void)
{
	if (self) {
		give_owner_up(&self->owner);
		pthread_mutex_unlock(&self->alive);
	}
	self = NULL;
}

void host_client_robust_list_lost(void)
{
	__atomic_store_n(&clients.robust_lists_lost, true, __ATOMIC_RELEASE);
}

/* --- the watcher --- */

/* The next to wait for: the oldest, which is the likeliest to live long. */
static struct client_thread *oldest(void)
{
	struct client_thread *t;

	pthread_mutex_lock(&clients.lock);
	for (t = clients.list; t && t->next; t = t->next)
		;
	pthread_mutex_unlock(&clients.lock);
	return t;
}

static void forget(struct client_thread *t)
{
	struct client_thread **link;

	pthread_mutex_lock(&clients.lock);
	for (link = &clients.list; *link != t; link = &(*link)->next)
		;
	*link = t->next;
	pthread_mutex_destroy(&t->alive);
	t->next = clients.free;
	clients.free = t;
	pthread_mutex_unlock(&clients.lock);
}

/*
 * Without robust lists. The kernel gives a futex with priority inheritance to its waiter when the owner dies, in whatever
 * way; or says that there is no owner of that id. False: this kernel has no such futexes.
 */
static bool wait_for_owner(uint32_t *owner)
{
	long r;

	do
		r = syscall(SYS_futex, owner, FUTEX_LOCK_PI_PRIVATE, 0, NULL);
	while (r && (errno == EINTR || errno == EAGAIN));
	return !r || errno == ESRCH;
}

static void wait_for_end_of(struct client_thread *t)
{
	if (__atomic_load_n(&clients.robust_lists_lost, __ATOMIC_ACQUIRE) && wait_for_owner(&t->owner)) {
		forget(t);
		return;
	}
	if (pthread_mutex_lock(&t->alive) == EOWNERDEAD)
		pthread_mutex_consistent(&t->alive);
	pthread_mutex_unlock(&t->alive);
	forget(t);
}

/* What /proc/self/stat says: how many threads have not ended, and the main thread's wait status once it has. */
struct process {
	unsigned threads; /* 0: unknown */
	int main_status;
};

static struct process look_at_process(void)
{
	char text[1024], *p;
	ssize_t n = clients.stat_fd < 0 ? -1 : syscall(SYS_read, clients.stat_fd, text, sizeof(text) - 1);
	struct process now = { 0 };

	if (n == 0) /* not for the first time: that call may be forbidden by now, and is not needed then */
		n = syscall(SYS_pread64, clients.stat_fd, text, sizeof(text) - 1, 0);
	text[n > 0 ? n : 0] = 0;
	p = strrchr(text, ')');
	if (!p || p[1] != ' ')
		return now;
	p += 2;
	/* Linux counts the main thread until the last has ended. */
	if (*p == 'Z' || *p == 'X')
		now.main_status = (int)strtol(strrchr(p, ' '), NULL, 10);
	now.threads = -(*p == 'Z' || *p == 'X');
	for (int field = 3; *p && field < 20; p++)
		field += *p == ' ';
	now.threads += (unsigned)strtoul(p, NULL, 10);
	return now;
}

static void end_all(void)
{
	const uint64_t one = 1;

	__atomic_store_n(&clients.ended, true, __ATOMIC_SEQ_CST);
	for (struct host_waker *w = clients.wakers; w; w = w->next)
		w->wake(w->arg);
	if (clients.end_fd >= 0)
		(void)!syscall(SYS_write, clients.end_fd, &one, sizeof(one));
}

#define LEAVING_MS 20 /* between giving up its mutexes and being gone, for a thread that ends */
#define ASK_AGAIN_MS 250

/* By futex, as a filter may allow no call for it. */
static void sleep_ms(int ms)
{
	const struct timespec t = { .tv_nsec = ms * 1000000L };
	const uint32_t never = 0;

	syscall(SYS_futex, &never, FUTEX_WAIT_PRIVATE, 0, &t);
}

/*
 * The main thread was ended by a filter's signal, or has a status of its own: the process's, where Linux would take
 * the last thread's. A filter may end this thread here; that is as good.
 */
static void end_with(int status)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	int signo = status & 0x7f;
	sigset_t set;

	/* for the last of the others to be gone */
	while (host_threads_of_ours() > 1)
		sleep_ms(LEAVING_MS);
	sleep_ms(LEAVING_MS);
	if (!signo)
		syscall(SYS_exit, status >> 8);
	sigaction(signo, &dfl, NULL);
	sigemptyset(&set);
	sigaddset(&set, signo);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	raise(signo);
}

static void *watcher(void *arg)
{
	int pause_ms = LEAVING_MS;
	struct client_thread *t;
	struct process now;

	do {
		while ((t = oldest()))
			wait_for_end_of(t);
		sleep_ms(pause_ms);
		pause_ms = ASK_AGAIN_MS;
		now = look_at_process();
	} while (oldest() || now.threads > host_threads_of_ours());
	end_all();
	if (now.main_status)
		end_with(now.main_status);
	return NULL;
}

int host_client_threads_watch(void)
{
	int r = 0;

	pthread_mutex_lock(&clients.lock);
	if (clients.watched) {
		pthread_mutex_unlock(&clients.lock);
		return 0;
	}
	clients.watched = true;
	clients.end_fd = own_fd_keep(eventfd(0, EFD_CLOEXEC));
	clients.stat_fd = own_fd_keep((int)syscall(SYS_openat, AT_FDCWD, "/proc/self/stat", O_RDONLY | O_CLOEXEC));
	pthread_mutex_unlock(&clients.lock);
	r = host_thread_start_for_good("userkvm-last", watcher, NULL);
	if (r)
		clients.watched = false;
	return r;
}

bool host_threads_end(void)
{
	return __atomic_load_n(&clients.ended, __ATOMIC_SEQ_CST);
}

int host_threads_end_fd(void)
{
	return clients.end_fd;
}

void host_waker_add(struct host_waker *w)
{
	pthread_mutex_lock(&clients.lock);
	w->next = clients.wakers;
	clients.wakers = w;
	pthread_mutex_unlock(&clients.lock);
}

void host_waker_remove(struct host_waker *w)
{
	struct host_waker **link;

	pthread_mutex_lock(&clients.lock);
	for (link = &clients.wakers; *link && *link != w; link = &(*link)->next)
		;
	if (*link)
		*link = w->next;
	pthread_mutex_unlock(&clients.lock);
}

/*
 * The child's only thread is the one that forked; the library has none there. The descriptors stay open, since
 * the client may have put other files in their places.
 */
static void forget_in_child(void)
{
	memset(&clients, 0, sizeof(clients));
	clients.end_fd = clients.stat_fd = -1;
	pthread_mutex_init(&clients.lock, NULL);
	host_client_thread_prepared = false;
	host_client_thread_add();
}
LIB_IN_FORKED_CHILD(forget_in_child)

/* The main thread is one of the client's, whether or not it calls. */
__attribute__((constructor)) static void add_main(void)
{
	host_client_thread();
}
