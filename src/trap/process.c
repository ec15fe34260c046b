/*
 * Processes of the client.
 *
 * The child of a vfork runs on its parent's memory with a struct trap_thread
 * and a service stack of its own; the parent waits in the kernel and gives them
 * back.
 */
#include <errno.h>
#include <linux/sched.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "abi/abi.h"
#include "trap/trap.h"

#define TID_FLAGS (CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID)

int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...);

struct vforked {
	const struct trap_call *c;
	struct trap_thread thread;
};

static int vfork_child(void *p)
{
	struct vforked *v = p;
	void *fpstate = __builtin_alloca_with_align(trap_fpstate_size(v->c->uc), TRAP_FPSTATE_ALIGN_BITS);
	ucontext_t uc;

	if (trap_become_client(&v->thread, v->c))
		_exit(127);
	trap_copy_context(&uc, v->c->uc, fpstate);
	trap_child_context(&uc, &v->thread, v->c->arg[1]);
	trap_follow_mask(&v->thread, &uc);
	trap_resume(&uc);
}

/* The parent's memory, until it execs or exits; the parent waits. */
static int64_t vfork_process(struct trap_call *c)
{
	size_t size = TRAP_STACK_SIZE + TRAP_STACK_BESIDES;
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
		trap_write_tid(c->arg[3]);
	syscall(SYS_set_tid_address, c->arg[0] & CLONE_CHILD_CLEARTID ? c->arg[3] : 0);
	if (trap_arm())
		_exit(127);
	trap_child_context(c->uc, t, c->arg[1]);
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
		return trap_new_thread(c);
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
