/*
 * Threads of the client.
 *
 * A new thread is the C library's (pthread_create), so that ours and its code
 * can run on it; it then becomes what the client's clone() asked for:
 *
 *	thread_main() ─> client code ... exit() ─> longjmp ─> thread_main() ends
 *	      └ its frame holds the struct trap_thread and the service stack
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

/* Threads of the library: whatever happens on them happens in service. */
static struct trap_thread library_thread = { .in_service = 1 };

/* Its CPUID faults or not, as its creator's, for good: a filter may forbid to change that. */
static bool cpuid_is_settled(const struct trap_thread *t)
{
	return t->cpuid_off || __atomic_load_n(&trap.confined, __ATOMIC_RELAXED);
}

struct plain_start {
	void *(*fn)(void *);
	void *arg;
	bool cpuid_is_settled;
};

static void *plain_main(void *p)
{
	struct plain_start s = *(struct plain_start *)p;

	free(p);
	trap_set_self(&library_thread);
	if (!s.cpuid_is_settled)
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
		*s = (struct plain_start){ fn, arg, cpuid_is_settled(trap_self()) };
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

void trap_write_tid(uint64_t client_p)
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

void trap_clear_tid(uint32_t *client_p)
{
	const uint32_t none = 0;

	if (client_p && abi_client_write(client_p, &none, sizeof(none)) == 0)
		syscall(SYS_futex, client_p, FUTEX_WAKE, 1);
}

void trap_child_context(ucontext_t *uc, struct trap_thread *t, uint64_t client_stack)
{
	uc->uc_mcontext.gregs[REG_RAX] = 0;
	if (client_stack)
		uc->uc_mcontext.gregs[REG_RSP] = (greg_t)client_stack;
	uc->uc_stack = t->service_stack;
}

int trap_become_client(struct trap_thread *t, const struct trap_call *c)
{
	uint64_t flags = c->arg[0];
	int r;

	t->our_fs = own_fs();
	t->client_fs = flags & CLONE_SETTLS ? c->arg[4] : c->thread->client_fs;
	t->in_service = 1;
	t->blocks_sys = c->thread->blocks_sys;
	if (cpuid_is_settled(c->thread))
		t->cpuid_on = c->thread->cpuid_on;
	t->cpuid_off = c->thread->cpuid_off;
	t->blocks_segv = c->thread->blocks_segv;
	if (c->thread->own_actions)
		t->own_actions = true;
	trap_set_self(t);
	if (sigaltstack(&t->service_stack, NULL))
		return -errno;
	r = trap_arm();
	if (r)
		return r;
	if (flags & CLONE_PARENT_SETTID)
		trap_write_tid(c->arg[2]);
	if (flags & CLONE_CHILD_SETTID)
		trap_write_tid(c->arg[3]);
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
	trap_clear_tid(t->clear_tid);
}

static void *thread_main(void *p)
{
	char service[TRAP_STACK_SIZE] __attribute__((aligned(64)));
	struct start *s = p;
	struct trap_thread t = { .service_stack = { .ss_sp = service, .ss_size = sizeof(service) } };
	ucontext_t uc;

	if (setjmp(t.end) == 0) {
		void *fpstate = __builtin_alloca_with_align(trap_fpstate_size(s->c->uc), TRAP_FPSTATE_ALIGN_BITS);

		s->error = trap_become_client(&t, s->c);
		if (s->error) {
			trap_set_self(&library_thread);
			sem_post(&s->ready);
			return NULL;
		}
		if (s->c->arg[0] & CLONE_CHILD_CLEARTID)
			t.clear_tid = (uint32_t *)s->c->arg[3];
		trap_copy_context(&uc, s->c->uc, fpstate);
		trap_child_context(&uc, &t, s->c->arg[1]);
		s->tid = own_tid();
		trap_follow_mask(&t, &uc); /* before its creator can set a filter for all threads */
		sem_post(&s->ready); /* from here on s is gone */
		trap_resume(&uc);
	}
	end_of_client(&t);
	return NULL;
}

int64_t trap_new_thread(struct trap_call *c)
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
	pthread_attr_setstacksize(&attr, TRAP_STACK_SIZE + TRAP_STACK_BESIDES);
	r = pthread_create(&thread, &attr, thread_main, &s);
	pthread_attr_destroy(&attr);
	if (!r)
		while (sem_wait(&s.ready))
			;
	sem_destroy(&s.ready);
	return r ? -r : s.error ? s.error : s.tid;
}

/* --- a thread's own --- */

int64_t trap_exit(struct trap_call *c)
{
	if (!c->thread->by_kernel)
		longjmp(c->thread->end, 1);
	if (!c->thread->on_loan)
		abi_thread_ends();
	syscall(SYS_exit, (int)c->arg[0]);
	__builtin_unreachable();
}

int64_t trap_set_tid_address(struct trap_call *c)
{
	if (c->thread->by_kernel && !c->thread->keeps_tid)
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
