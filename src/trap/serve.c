/*
 * Which system calls are served, and what happens to the others.
 *
 * Invariant: what is not in the table is done by the kernel with the client's
 * own registers, stack and signal mask (the thunk), so that it blocks, restarts
 * and is interrupted as ever.
 */
#include <errno.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "abi/abi.h"
#include "trap/trap.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif

/* clone3 and rseq: C libraries do without them, as on kernels that have none. */
static int64_t not_here(struct trap_call *c)
{
	return -ENOSYS;
}

static int64_t trap_set_robust_list(struct trap_call *c)
{
	abi_robust_list_lost();
	return TRAP_PASS;
}

/* About to confine itself: CPUID stays the machine's. The thread hears of it before its call is made; all others keep what they have. */
static int64_t confine(struct trap_call *c, bool all_threads)
{
	trap_block_segv(c->thread, c->uc);
	c->thread->cpuid_off = true;
	if (all_threads) {
		trap_follow_mask(c->thread, c->uc);
		abi_first_confined();
		__atomic_store_n(&trap.confined, true, __ATOMIC_RELAXED);
	}
	return TRAP_PASS;
}

static int64_t trap_seccomp(struct trap_call *c)
{
	if (c->arg[0] != SECCOMP_SET_MODE_STRICT && (c->arg[0] != SECCOMP_SET_MODE_FILTER || !c->arg[2]))
		return TRAP_PASS; /* it asks what the kernel can */
	return confine(c, c->arg[1] & SECCOMP_FILTER_FLAG_TSYNC);
}

static int64_t trap_prctl(struct trap_call *c)
{
	if ((int)c->arg[0] == PR_SET_SECCOMP && (c->arg[1] != SECCOMP_MODE_FILTER || c->arg[2]))
		return confine(c, false);
	return (int)c->arg[0] == PR_SET_SYSCALL_USER_DISPATCH ? -EINVAL : TRAP_PASS;
}

static trap_handler *const handlers[] = {
	[SYS_open] = trap_open,
	[SYS_openat] = trap_openat,
	[SYS_openat2] = trap_openat2,
	[SYS_ioctl] = trap_ioctl,
	[SYS_close] = trap_close,
	[SYS_close_range] = trap_close_range,
	[SYS_dup] = trap_dup,
	[SYS_dup2] = trap_dup2,
	[SYS_dup3] = trap_dup3,
	[SYS_fcntl] = trap_fcntl,
	[SYS_stat] = trap_stat,
	[SYS_lstat] = trap_lstat,
	[SYS_fstat] = trap_fstat,
	[SYS_newfstatat] = trap_newfstatat,
	[SYS_statx] = trap_statx,
	[SYS_access] = trap_access,
	[SYS_faccessat] = trap_faccessat,
	[SYS_faccessat2] = trap_faccessat,
	[SYS_readlink] = trap_readlink,
	[SYS_readlinkat] = trap_readlinkat,
	[SYS_lseek] = trap_device_lseek,
	[SYS_ftruncate] = trap_device_no_file,
	[SYS_read] = trap_device_no_file,
	[SYS_write] = trap_device_no_file,
	[SYS_pread64] = trap_device_no_file,
	[SYS_pwrite64] = trap_device_no_file,
	[SYS_mmap] = trap_mmap,
	[SYS_munmap] = trap_munmap,
	[SYS_mremap] = trap_mremap,
	[SYS_mprotect] = trap_mprotect,
	[SYS_pkey_mprotect] = trap_pkey_mprotect,
	[SYS_madvise] = trap_madvise,
	[SYS_process_madvise] = trap_process_madvise,
	[SYS_brk] = trap_brk,
	[SYS_rt_sigaction] = trap_rt_sigaction,
	[SYS_rt_sigprocmask] = trap_rt_sigprocmask,
	[SYS_sigaltstack] = trap_sigaltstack,
	[SYS_rt_sigreturn] = trap_rt_sigreturn,
	[SYS_clone] = trap_clone,
	[SYS_clone3] = not_here,
	[SYS_fork] = trap_fork,
	[SYS_vfork] = trap_vfork,
	[SYS_exit] = trap_exit,
	[SYS_set_tid_address] = trap_set_tid_address,
	[SYS_arch_prctl] = trap_arch_prctl,
	[SYS_prctl] = trap_prctl,
	[SYS_seccomp] = trap_seccomp,
	[SYS_set_robust_list] = trap_set_robust_list,
	[SYS_rseq] = not_here,
	[SYS_execve] = trap_execve,
};

static trap_handler *handler_of(const struct trap_call *c)
{
	trap_handler *h = c->nr < sizeof(handlers) / sizeof(handlers[0]) ? handlers[c->nr] : NULL;

	if (h == trap_device_no_file || h == trap_device_lseek)
		return abi_fd_is_device((int)c->arg[0]) ? h : NULL;
	return h;
}

static void serve(struct trap_thread *t, ucontext_t *uc)
{
	greg_t *reg = uc->uc_mcontext.gregs;
	struct trap_call c = {
		.thread = t,
		.uc = uc,
		.nr = (uint64_t)reg[REG_RAX],
		.arg = { (uint64_t)reg[REG_RDI], (uint64_t)reg[REG_RSI], (uint64_t)reg[REG_RDX],
			 (uint64_t)reg[REG_R10], (uint64_t)reg[REG_R8], (uint64_t)reg[REG_R9] },
	};
	trap_handler *handler = handler_of(&c);
	int64_t r = TRAP_PASS;

	if (handler) {
		uint16_t opened = abi_faults_open();
		uint64_t clients_mask = trap_clients_mask(t, uc);

		t->clients_mask = &clients_mask;
		r = handler(&c);
		t->clients_mask = NULL;
		if (opened)
			abi_faults_shut(opened);
	}
	if (r != TRAP_PASS) {
		reg[REG_RAX] = r;
		return;
	}
	t->thunk_return = (uint64_t)reg[REG_RIP];
	reg[REG_RIP] = (greg_t)(uintptr_t)trap_thunk;
}

/* Called by the entry: the client was running, our own thread pointer is in place. */
void trap_from_client(int signo, siginfo_t *si, ucontext_t *uc)
{
	struct trap_thread *t = trap_self();

	if (signo == SIGSYS && trap_is_ours(si))
		serve(t, uc);
	else
		trap_deliver(t, signo, si, uc);
	trap_follow_mask(t, uc);
}
