/*
 * Programs that no dynamic loader can preload, statically linked ones; and dynamic ones that make their system calls
 * themselves, past the C library.
 *
 * `userkvm run` starts such a program inside a host, a small dynamically linked
 * program that holds the library. The host maps the client's ELF file low in
 * its own address space, has the client's system calls trapped, and jumps to
 * the entry point.
 *
 *   client: syscall ─> SIGSYS, on a stack of ours ─> trap_from_client()
 *             of /dev/kvm, mappings, signals, threads:  served here
 *             all others: done by the thunk, as the client, and back to it
 *
 * Invariants
 * 1. System calls trap by where they are made: below TRAP_CLIENT_END they are
 *    the client's, above they are ours, the C library's and the vDSO's.
 * 2. A thread of the client is a thread of the host's C library with two
 *    thread pointers: %fs holds the client's while the client runs and ours
 *    while we do (in_service). %gs is ours: it finds struct trap_thread.
 * 3. Client code never runs on top of our frames. Signals are blocked in
 *    service, but in KVM_RUN, where they end the run and stay pending until the
 *    client has its own mask again.
 * 4. The kernel's alternate signal stack is ours, one a thread, and empty
 *    whenever the client runs: its handlers get frames of their own, on the
 *    stack they asked for (signal.c). A thread that has given its stack away
 *    can still exit.
 * 5. The client's signal actions, alternate stack, program break and the address to
 *    clear at a thread's end are kept here and are what its calls show.
 *
 * A dynamic program runs here with its loader and its own C library, all of which traps. The host asks the kernel to
 * place what the client maps and may execute below TRAP_CLIENT_END.
 *
 * Not served: system calls of code that the client maps above TRAP_CLIENT_END
 * by itself, and ARCH_SET_GS.
 */
#ifndef USERKVM_TRAP_TRAP_H
#define USERKVM_TRAP_TRAP_H

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <ucontext.h>

/* The client's file and its break lie below; all that the kernel places by itself, above, in each of its layouts. */
#define TRAP_CLIENT_END 0x100000000000ULL
#define TRAP_STACK_SIZE (1UL << 20)
#define TRAP_STACK_BESIDES (256UL << 10) /* of a thread: the C library's own, thread-local data */
#define TRAP_FPSTATE_ALIGN_BITS (64 * 8)

/*
 * What an older kernel has is used in its place: "seccomp" for user dispatch (Linux 5.11),
 * "arch_prctl" for the FSGSBASE instructions (Linux 5.9); both, with a comma between.
 */
#define TRAP_WAY_ENV "USERKVM_TRAP"
/* ... and this word: dynamic programs, too, are run by the host. */
#define TRAP_ALL "all"

/* The first fields are entry.c's, by offset. */
struct trap_thread {
	struct trap_thread *self;
	uint64_t our_fs;
	uint64_t client_fs;
	uint64_t in_service;
	uint64_t thunk_return; /* where the thunk goes after its system call */

	bool by_kernel;	 /* no thread of the C library's: main, or a child of fork or vfork */
	bool on_loan;	 /* the C library's thread-local data is that of a thread that waits (process.c) */
	bool keeps_tid;	 /* by_kernel, but clear_tid is ours to clear: the kernel has another word */
	bool own_actions; /* a process with its parent's memory: the table of signal actions is its parent's */
	bool blocks_sys; /* the client believes SIGSYS to be blocked */
	bool cpuid_on;	 /* the instruction faults, and the preload room answers it (preload/cpuid.c) */
	bool cpuid_off;	 /* and never again: there is a seccomp filter */
	bool blocks_segv; /* the client believes SIGSEGV to be blocked, and it is open: CPUID faults */
	const uint64_t *clients_mask; /* in service: what the client blocks */
	stack_t altstack; /* the client's */
	stack_t service_stack; /* the kernel's idea of it: ours */
	uint32_t *clear_tid;
	jmp_buf end;
};

extern struct trap_state {
	const char *program; /* absolute, for /proc/self/exe */
	const char *host;    /* the host itself, for programs that are executed */
	bool dynamic;	     /* it has a dynamic loader */
	bool all;	     /* TRAP_ALL */
	bool confined;	     /* (a) all threads were put under a seccomp filter: arch_prctl() may be forbidden */
	uint64_t brk_start, brk, brk_end;
} trap;

/* The system call that a context was stopped at, and its result. */
struct trap_call {
	struct trap_thread *thread;
	ucontext_t *uc;
	uint64_t nr;
	uint64_t arg[6];
};

/* A handler's answer that means: let the kernel do it, as the client. */
#define TRAP_PASS INT64_MIN
typedef int64_t trap_handler(struct trap_call *c);

/* -errno of a libc call that returned r. */
static inline int64_t trap_result(int64_t r)
{
	return r == -1 ? -errno : r;
}

/* --- entry.c: the ways in and out --- */

void trap_signal_entry(int signo, siginfo_t *si, void *uc);
void trap_sigreturn(void);
extern char trap_thunk[], trap_thunk_done[];
/* Leave service: become what the context says. The thread's own context, on any stack. */
_Noreturn void trap_resume(const ucontext_t *uc);
struct trap_thread *trap_self(void);
/* %gs of this thread. */
void trap_set_self(struct trap_thread *t);
/* Have this thread's system calls trapped; 0 or -errno. In every new thread and process. */
int trap_arm(void);
/* Choose how and arm this thread; once. ways: of TRAP_WAY_ENV, or NULL. -errno: this kernel has none. */
int trap_choose(const char *ways);
bool trap_is_ours(const siginfo_t *si);
/* What the entry calls, with our own thread pointer in place. */
void trap_from_client(int signo, siginfo_t *si, ucontext_t *uc);
void trap_in_service(int signo, siginfo_t *si, ucontext_t *uc);

/* --- signal.c --- */

/* Take the signals that are the library's, and SIGSYS. 0 or -errno. */
int trap_signals_init(void);
/* The client was running and gets this signal: uc becomes its handler's context. */
void trap_deliver(struct trap_thread *t, int signo, siginfo_t *si, ucontext_t *uc);
/* The thread goes on as the client, by this context: CPUID faults while SIGSEGV is open. */
void trap_follow_mask(struct trap_thread *t, ucontext_t *uc);
/* Around fork(): no other thread of the parent may hold the actions then. */
void trap_signals_lock(void);
void trap_signals_unlock(void);
/* The kernel's part of a context, without what lies behind. */
#define TRAP_UC_SIZE (offsetof(ucontext_t, uc_sigmask) + 8)
static inline uint64_t *trap_mask(ucontext_t *uc)
{
	return (uint64_t *)(void *)&uc->uc_sigmask;
}
/* What the client believes that it blocks, but for SIGSYS. */
static inline uint64_t trap_clients_mask(const struct trap_thread *t, ucontext_t *uc)
{
	return *trap_mask(uc) | (t->blocks_segv ? 1ULL << (SIGSEGV - 1) : 0);
}
/* SIGSEGV is blocked by the kernel if the client believes so. */
static inline void trap_block_segv(struct trap_thread *t, ucontext_t *uc)
{
	*trap_mask(uc) = trap_clients_mask(t, uc);
	t->blocks_segv = false;
}
size_t trap_fpstate_size(const ucontext_t *uc);
/* A copy of a context whose floating-point state lies at fpstate, of trap_fpstate_size() bytes. */
void trap_copy_context(void *to, const ucontext_t *uc, void *fpstate);
bool trap_on_stack(const stack_t *s, uint64_t sp);
/* The signals that the client has open end its KVM_RUN. */
void trap_signals_before_run(struct trap_call *c);
/* KVM_SET_SIGNAL_MASK has let signals in: those without a handler shall not end the program. */
void trap_guard_signals(struct trap_call *c, uint64_t kvm_mask);

trap_handler trap_rt_sigaction, trap_rt_sigprocmask, trap_sigaltstack, trap_rt_sigreturn;

/* --- thread.c --- */

/* The calling thread is the client's from here on, as t, by the clone() of c. 0 or -errno. */
int trap_become_client(struct trap_thread *t, const struct trap_call *c);
/* The context in which the child of a clone() starts; uc is a copy. */
void trap_child_context(ucontext_t *uc, struct trap_thread *t, uint64_t client_stack);
void trap_write_tid(uint64_t client_p);
/* As the kernel at a thread's end; NULL: nothing. */
void trap_clear_tid(uint32_t *client_p);
trap_handler trap_new_thread, trap_exit, trap_set_tid_address, trap_arch_prctl;

/* --- process.c --- */

trap_handler trap_clone, trap_fork, trap_vfork;

/* --- files.c, mapping.c, exec.c --- */

trap_handler trap_open, trap_openat, trap_openat2, trap_ioctl, trap_close, trap_close_range, trap_dup,
	trap_dup2, trap_dup3, trap_fcntl;
trap_handler trap_stat, trap_lstat, trap_fstat, trap_newfstatat, trap_statx, trap_access, trap_faccessat,
	trap_readlink, trap_readlinkat;
trap_handler trap_device_lseek, trap_device_no_file; /* of a KVM descriptor */
trap_handler trap_mmap, trap_munmap, trap_mremap, trap_mprotect, trap_pkey_mprotect, trap_madvise, trap_brk;
trap_handler trap_process_madvise;
trap_handler trap_execve;
/* A string of the client's is exactly this one. */
bool trap_string_is(uint64_t client_string, const char *s);
/* Finds the library's name in LD_PRELOAD, for trap_open() and its like. */
void trap_files_init(void);

#endif
