/*
 * Processes of the client.
 *
 * A child that shares its parent's memory has a struct trap_thread and a service stack of its own, and the
 * thread-local data of a thread that waits meanwhile:
 *
 *	vfork          its parent, which the kernel keeps waiting
 *	CLONE_VM       the lender, a thread made for it
 *
 * Invariant: from clone() to the child's exec or end its lender touches no thread-local data, so that the two never
 * use it at once; the kernel tells it by the word that CLONE_CHILD_CLEARTID names.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "abi/abi.h"
#include "trap/trap.h"

#define TID_FLAGS (CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID)

int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...);

/* Of a child with its parent's memory. */
struct child {
	const struct trap_call *c;
	struct trap_thread thread;
};

static struct child child_of(const struct trap_call *c, char *stack)
{
	return (struct child){
		.c = c,
		.thread = { .service_stack = { .ss_sp = stack, .ss_size = TRAP_STACK_SIZE },
			    .altstack = c->thread->altstack, .by_kernel = true, .on_loan = true,
			    .own_actions = !(c->arg[0] & CLONE_SIGHAND) },
	};
}

/* In the child. posted: its parent may go on, and *child->c with it. */
static _Noreturn void start_child(struct child *child, sem_t *posted)
{
	void *fpstate = __builtin_alloca_with_align(trap_fpstate_size(child->c->uc), TRAP_FPSTATE_ALIGN_BITS);
	ucontext_t uc;

	if (trap_become_client(&child->thread, child->c))
		_exit(127);
	trap_copy_context(&uc, child->c->uc, fpstate);
	trap_child_context(&uc, &child->thread, child->c->arg[1]);
	trap_follow_mask(&child->thread, &uc);
	if (posted)
		sem_post(posted);
	trap_resume(&uc);
}

/* What the kernel is to know of the flags; the rest is done by the child itself, or the lender. */
static int kernels_flags(const struct trap_call *c)
{
	return (int)(c->arg[0] & ~(uint64_t)(CLONE_SETTLS | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID));
}

/* For CLONE_PARENT_SETTID, which has to be there before the child can have ended, and CLONE_PIDFD. */
static void *parents_word(const struct trap_call *c)
{
	return (void *)c->arg[2];
}

/* --- vfork --- */

static int vfork_child(void *p)
{
	start_child(p, NULL);
}

/* The parent's memory, until it execs or exits; the parent waits. */
static int64_t vfork_process(struct trap_call *c)
{
	size_t size = TRAP_STACK_SIZE + TRAP_STACK_BESIDES;
	char *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct child child = child_of(c, stack);
	int64_t r;

	if (stack == MAP_FAILED)
		return -ENOMEM;
	child.thread.cpuid_on = c->thread->cpuid_on; /* both are the kernel's of this thread, which it takes along */
	child.thread.cpuid_off = c->thread->cpuid_off;
	r = trap_result(clone(vfork_child, stack + size, kernels_flags(c) | (int)(c->arg[0] & CLONE_CHILD_CLEARTID), &child,
			      parents_word(c), NULL, (void *)c->arg[3]));
	munmap(stack, size);
	return r;
}

/* --- a child beside its parent --- */

struct beside {
	struct child child;
	uint64_t mask;	/* of the signals, in service */
	uint32_t alive; /* the kernel clears it when the child has left the memory */
	int pid;	/* or -errno; 0: not known yet */
	sem_t started;	/* the parent may go on */
	uint32_t users; /* (a) the parent and the lender */
};

static void put_beside(struct beside *b)
{
	if (__atomic_sub_fetch(&b->users, 1, __ATOMIC_ACQ_REL) == 0) {
		sem_destroy(&b->started);
		free(b);
	}
}

/* Without errno, which is thread-local. */
static long plain_futex(void *word, int op, uint32_t value)
{
	register uint64_t timeout __asm__("r10") = 0;
	long r;

	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "0"((long)SYS_futex), "D"(word), "S"((long)op), "d"((unsigned long)value), "r"(timeout)
			 : "rcx", "r11", "memory");
	return r;
}

static int child_beside(void *p)
{
	struct beside *b = p;

	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &b->mask, NULL, 8);
	start_child(&b->child, &b->started);
}

/* Its thread-local data is the child's from clone() on. */
static void lend(struct beside *b, void *stack_end)
{
	int pid = clone(child_beside, stack_end, kernels_flags(b->child.c) | CLONE_CHILD_CLEARTID, b, parents_word(b->child.c),
			NULL, &b->alive);

	if (pid < 0) {
		__atomic_store_n(&b->pid, -errno, __ATOMIC_RELEASE);
		plain_futex(&b->pid, FUTEX_WAKE, 1);
		return;
	}
	__atomic_store_n(&b->pid, pid, __ATOMIC_RELEASE);
	plain_futex(&b->pid, FUTEX_WAKE, 1);
	while (__atomic_load_n(&b->alive, __ATOMIC_ACQUIRE))
		plain_futex(&b->alive, FUTEX_WAIT, 1);
}

static void *lender_main(void *p)
{
	char stack[TRAP_STACK_SIZE + TRAP_STACK_BESIDES] __attribute__((aligned(64)));
	struct beside *b = p;
	uint64_t all = ~0ULL;

	b->child = child_of(b->child.c, stack);
	b->child.thread.keeps_tid = true;
	if (b->child.c->arg[0] & CLONE_CHILD_CLEARTID)
		b->child.thread.clear_tid = (uint32_t *)b->child.c->arg[3];
	b->child.thread.cpuid_off = b->child.c->thread->cpuid_off;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &b->mask, 8);
	lend(b, stack + sizeof(stack));
	sem_post(&b->started); /* it may have been killed before it started */
	abi_thread_ends();
	if (b->pid > 0)
		trap_clear_tid(b->child.thread.clear_tid);
	put_beside(b);
	return NULL;
}

static int64_t process_beside(struct trap_call *c)
{
	struct beside *b = calloc(1, sizeof(*b));
	pthread_attr_t attr;
	pthread_t lender;
	int r;

	if (!b)
		return -ENOMEM;
	b->child.c = c;
	b->alive = 1;
	b->users = 2;
	sem_init(&b->started, 0, 0);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 2 * (TRAP_STACK_SIZE + TRAP_STACK_BESIDES));
	r = pthread_create(&lender, &attr, lender_main, b);
	pthread_attr_destroy(&attr);
	if (r) {
		b->users = 1;
		put_beside(b);
		return -r;
	}
	while (!__atomic_load_n(&b->pid, __ATOMIC_ACQUIRE))
		plain_futex(&b->pid, FUTEX_WAIT, 0);
	while (sem_wait(&b->started))
		;
	r = b->pid;
	put_beside(b);
	return r;
}

/* --- fork --- */

static void in_forked_child(struct trap_call *c)
{
	struct trap_thread *t = c->thread;

	t->by_kernel = true;
	t->on_loan = t->keeps_tid = false; /* of a copy of the memory */
	if (c->arg[0] & CLONE_SETTLS)
		t->client_fs = c->arg[4];
	if (c->arg[0] & CLONE_CHILD_SETTID)
		trap_write_tid(c->arg[3]);
	syscall(SYS_set_tid_address, c->arg[0] & CLONE_CHILD_CLEARTID ? c->arg[3] : 0);
	if (trap_arm())
		_exit(127);
	trap_child_context(c->uc, t, c->arg[1]);
}

/* fork() has no word for it. */
static int64_t forked(const struct trap_call *c, int64_t pid)
{
	if (pid > 0 && (c->arg[0] & CLONE_PARENT_SETTID))
		(void)!abi_client_write((void *)c->arg[2], &pid, sizeof(int));
	return pid;
}

/* The C library's fork() where it can be; flags that it has no word for (namespaces) go straight. */
static int64_t fork_process(struct trap_call *c)
{
	uint64_t others = c->arg[0] & ~(uint64_t)(TID_FLAGS | CLONE_SETTLS | CSIGNAL);
	int64_t r;

	trap_signals_lock();
	if (!others && (c->arg[0] & CSIGNAL) == SIGCHLD)
		r = forked(c, trap_result(fork()));
	else
		r = trap_result(syscall(SYS_clone, kernels_flags(c), 0, parents_word(c), 0, 0));
	trap_signals_unlock();
	if (r == 0)
		in_forked_child(c);
	return r;
}

int64_t trap_clone(struct trap_call *c)
{
	if (c->arg[0] & CLONE_THREAD)
		return trap_new_thread(c);
	if (!(c->arg[0] & CLONE_VM))
		return fork_process(c);
	abi_child_may_share(c->arg[0]);
	return c->arg[0] & CLONE_VFORK ? vfork_process(c) : process_beside(c);
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
