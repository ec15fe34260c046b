/*
 * Threads and processes of the client.
 *
 * A new thread is the C library's (pthread_create), so that ours and its code
 * can run on it; it then becomes what the client's clone() asked for:
 *
 *	thread_main() ─> client code ... exit() ─> longjmp ─> thread_main() ends
 *	      └ its frame holds the struct trap_thread and the service stack
 *
 * The child of a vfork runs on its parent's memory with a struct trap_thread
 * and a service stack of its own; the parent waits in the kernel and gives them
 * back.
 */
#include <asm/prctl.h>
#include <dlfcn.h>
#include <errno.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "abi/abi.h"
#include "trap/trap.h"

#define THREAD_FLAGS (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD)
#define STACK_BESIDES (256UL << 10) /* of a thread: the C library's own, thread-local data */
#define TID_FLAGS (CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID)
#define FPSTATE_ALIGN_BITS (64 * 8)

int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...);

/* Threads of the library: whatever happens on them happens in service. */
static struct trap_thread library_thread = { .in_service = 1 };

struct plain_start {
	void *(*fn)(void *);
	void *arg;
};

static void *plain_main(void *p)
{
	struct plain_start s = *(struct plain_start *)p;

	free(p);
	trap_set_self(&library_thread);
	abi_first_blocked(true); /* as its creator, or not: it has its signals blocked */
	return s.fn(s.arg);
}

/* In front of the C library's: a thread that the library starts must not look like its creator. */
__attribute__((visibility("default"))) int pthread_create(pthread_t *t, const pthread_attr_t *attr,
							  void *(*fn)(void *), void *arg)
{
	int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) =
		(__typeof__(real))dlsym(RTLD_NEXT, "pthread_create");
	struct plain_start *s = malloc(sizeof(*s));
	int r = s ? 0 : ENOMEM;

	if (!r) {
		*s = (struct plain_start){ fn, arg };
		r = real(t, attr, plain_main, s);
	}
	if (r)
		free(s);
	return r;
}

static uint64_t own_fs(void)
{
	uint64_t fs;

	__asm__("mov %%fs:0, %0" : "=r"(fs));
	return fs;
}

static int own_tid(void)
{
	return (int)syscall(SYS_gettid);
}

static void write_tid(uint64_t client_p)
{
	int tid = own_tid();

	/* A bad address is nobody's error, as on Linux. */
	(void)!abi_client_write((void *)client_p, &tid, sizeof(tid));
}

/* --- a new thread --- */

struct start {
	const struct trap_call *c;
	sem_t ready;
	int tid;
	int error;
};

static void clear_tid(uint32_t *client_p)
{
	const uint32_t none = 0;

	if (client_p && abi_client_write(client_p, &none, sizeof(none)) == 0)
		syscall(SYS_futex, client_p, FUTEX_WAKE, 1);
}

/* The context in which the child of a clone() starts; uc is a copy. */
static void child_context(ucontext_t *uc, struct trap_thread *t, uint64_t client_stack)
{
	uc->uc_mcontext.gregs[REG_RAX] = 0;
	if (client_stack)
		uc->uc_mcontext.gregs[REG_RSP] = (greg_t)client_stack;
	uc->uc_stack = t->service_stack;
}

static int become_client(struct trap_thread *t, const struct trap_call *c)
{
	uint64_t flags = c->arg[0];
	int r;

	t->our_fs = own_fs();
	t->client_fs = flags & CLONE_SETTLS ? c->arg[4] : c->thread->client_fs;
	t->in_service = 1;
	t->blocks_sys = c->thread->blocks_sys;
	t->cpuid_off = c->thread->cpuid_off;
	trap_set_self(t);
	if (sigaltstack(&t->service_stack, NULL))
		return -errno;
	r = trap_arm();
	if (r)
		return r;
	if (flags & CLONE_PARENT_SETTID)
		write_tid(c->arg[2]);
	if (flags & CLONE_CHILD_SETTID)
		write_tid(c->arg[3]);
	return 0;
}

static void end_of_client(struct trap_thread *t)
{
	const stack_t none = { .ss_flags = SS_DISABLE };
	static struct {
		void *next;
		long offset;
		void *pending;
	} no_locks = { .next = &no_locks };

	sigaltstack(&none, NULL);
	/* What the client registered may be gone as soon as its memory is free. */
	syscall(SYS_set_robust_list, &no_locks, sizeof(no_locks));
	trap_set_self(&library_thread);
	abi_thread_ends();
	clear_tid(t->clear_tid);
}

static void *thread_main(void *p)
{
	char service[TRAP_STACK_SIZE] __attribute__((aligned(64)));
	struct start *s = p;
	struct trap_thread t = { .service_stack = { .ss_sp = service, .ss_size = sizeof(service) } };
	ucontext_t uc;

	if (setjmp(t.end) == 0) {
		void *fpstate = __builtin_alloca_with_align(trap_fpstate_size(s->c->uc), FPSTATE_ALIGN_BITS);

		s->error = become_client(&t, s->c);
		if (s->error) {
			trap_set_self(&library_thread);
			sem_post(&s->ready);
			return NULL;
		}
		if (s->c->arg[0] & CLONE_CHILD_CLEARTID)
			t.clear_tid = (uint32_t *)s->c->arg[3];
		trap_copy_context(&uc, s->c->uc, fpstate);
		child_context(&uc, &t, s->c->arg[1]);
		s->tid = own_tid();
		sem_post(&s->ready); /* from here on s is gone */
		trap_follow_mask(&t, &uc);
		trap_resume(&uc);
	}
	end_of_client(&t);
	return NULL;
}

static int64_t new_thread(struct trap_call *c)
{
	struct start s = { .c = c };
	pthread_attr_t attr;
	pthread_t thread;
	int r;

	if ((c->arg[0] & THREAD_FLAGS) != THREAD_FLAGS)
		return -EINVAL;
	sem_init(&s.ready, 0, 0);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, TRAP_STACK_SIZE + STACK_BESIDES);
	r = pthread_create(&thread, &attr, thread_main, &s);
	pthread_attr_destroy(&attr);
	if (!r)
		while (sem_wait(&s.ready))
			;
	sem_destroy(&s.ready);
	return r ? -r : s.error ? s.error : s.tid;
}

/* --- a new process --- */

struct vforked {
	const struct trap_call *c;
	struct trap_thread thread;
};

static int vfork_child(void *p)
{
	struct vforked *v = p;
	void *fpstate = __builtin_alloca_with_align(trap_fpstate_size(v->c->uc), FPSTATE_ALIGN_BITS);
	ucontext_t uc;

	if (become_client(&v->thread, v->c))
		_exit(127);
	trap_copy_context(&uc, v->c->uc, fpstate);
	child_context(&uc, &v->thread, v->c->arg[1]);
	trap_follow_mask(&v->thread, &uc);
	trap_resume(&uc);
}

/* The parent's memory, until it execs or exits; the parent waits. */
static int64_t vfork_process(struct trap_call *c)
{
	size_t size = TRAP_STACK_SIZE + STACK_BESIDES;
	char *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct vforked v = {
		.c = c,
		.thread = { .service_stack = { .ss_sp = stack, .ss_size = TRAP_STACK_SIZE },
			    .altstack = c->thread->altstack, .by_kernel = true, .vforked = true,
			    .cpuid_on = c->thread->cpuid_on, .cpuid_off = c->thread->cpuid_off },
	};
	int64_t r;

	if (stack == MAP_FAILED)
		return -ENOMEM;
	r = trap_result(clone(vfork_child, stack + size, (int)(c->arg[0] & ~(uint64_t)(CLONE_SETTLS | TID_FLAGS)), &v));
	munmap(stack, size);
	if (r > 0 && (c->arg[0] & CLONE_PARENT_SETTID))
		(void)!abi_client_write((void *)c->arg[2], &r, sizeof(int));
	return r;
}

static void in_forked_child(struct trap_call *c)
{
	struct trap_thread *t = c->thread;

	t->by_kernel = true;
	if (c->arg[0] & CLONE_SETTLS)
		t->client_fs = c->arg[4];
	if (c->arg[0] & CLONE_CHILD_SETTID)
		write_tid(c->arg[3]);
	syscall(SYS_set_tid_address, c->arg[0] & CLONE_CHILD_CLEARTID ? c->arg[3] : 0);
	if (trap_arm())
		_exit(127);
	child_context(c->uc, t, c->arg[1]);
}

/* The C library's fork() where it can be; flags that it has no word for (namespaces) go straight. */
static int64_t fork_process(struct trap_call *c)
{
	uint64_t others = c->arg[0] & ~(uint64_t)(TID_FLAGS | CLONE_SETTLS | CSIGNAL);
	int64_t r;

	trap_signals_lock();
	if (!others && (c->arg[0] & CSIGNAL) == SIGCHLD)
		r = trap_result(fork());
	else
		r = trap_result(syscall(SYS_clone, c->arg[0] & ~(uint64_t)(TID_FLAGS | CLONE_SETTLS), 0, 0, 0, 0));
	trap_signals_unlock();
	if (r == 0)
		in_forked_child(c);
	else if (r > 0 && (c->arg[0] & CLONE_PARENT_SETTID))
		(void)!abi_client_write((void *)c->arg[2], &r, sizeof(int));
	return r;
}

int64_t trap_clone(struct trap_call *c)
{
	if (c->arg[0] & CLONE_THREAD)
		return new_thread(c);
	if ((c->arg[0] & (CLONE_VM | CLONE_VFORK)) == (CLONE_VM | CLONE_VFORK))
		return vfork_process(c);
	/* Two processes that run at once on one memory: their threads cannot be told apart. */
	return c->arg[0] & CLONE_VM ? -EINVAL : fork_process(c);
}

int64_t trap_fork(struct trap_call *c)
{
	memset(c->arg, 0, sizeof(c->arg));
	c->arg[0] = SIGCHLD;
	return fork_process(c);
}

int64_t trap_vfork(struct trap_call *c)
{
	memset(c->arg, 0, sizeof(c->arg));
	c->arg[0] = CLONE_VM | CLONE_VFORK | SIGCHLD;
	return vfork_process(c);
}

/* --- a thread's own --- */

int64_t trap_exit(struct trap_call *c)
{
	if (!c->thread->by_kernel)
		longjmp(c->thread->end, 1);
	if (!c->thread->vforked)
		abi_thread_ends();
	syscall(SYS_exit, (int)c->arg[0]);
	__builtin_unreachable();
}

int64_t trap_set_tid_address(struct trap_call *c)
{
	if (c->thread->by_kernel)
		return TRAP_PASS;
	c->thread->clear_tid = (uint32_t *)c->arg[0];
	return own_tid();
}

int64_t trap_arch_prctl(struct trap_call *c)
{
	const uint64_t none = 0;

	switch ((int)c->arg[0]) {
	case ARCH_SET_FS:
		if (c->arg[1] >= 1ULL << 47)
			return -EPERM;
		c->thread->client_fs = c->arg[1];
		return 0;
	case ARCH_GET_FS:
		return abi_client_write((void *)c->arg[1], &c->thread->client_fs, sizeof(uint64_t));
	case ARCH_SET_GS: /* ours, see trap.h */
		return -EPERM;
	case ARCH_GET_GS:
		return abi_client_write((void *)c->arg[1], &none, sizeof(none));
	default:
		return TRAP_PASS;
	}
}
