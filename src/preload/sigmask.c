/*
 * Who changes a thread's signal mask: the library's work needs four signals open
 * (host room), and asks the kernel again after a change that it has heard of here.
 * The masks themselves stay what the client makes them, but for SIGSEGV's bit (change_mask()).
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

#include "abi/abi.h"
#include "preload/real.h"

/* Not in libuserkvm, where CPUID is left alone. */
#pragma weak preload_cpuid_mask
#pragma weak preload_segv_stays_open
#pragma weak preload_jump_holds

static void mask_changed(void)
{
	abi_mask_changed();
	if (preload_cpuid_mask)
		preload_cpuid_mask();
}

typedef int change_fn(int how, const sigset_t *set, sigset_t *old);

/* What the client makes of SIGSEGV by that. */
static bool blocks_segv_then(bool before, int how, const sigset_t *set)
{
	bool in_set = sigismember(set, SIGSEGV) == 1;

	return how == SIG_SETMASK ? in_set : how == SIG_BLOCK ? before || in_set : before && !in_set;
}

/* Where CPUID is answered by faults, SIGSEGV stays open, and is shown as the client has made it (host/fault.h). */
static int change_mask(change_fn *real, int how, const sigset_t *set, sigset_t *old)
{
	/* What is thread-local is its parent's in a child of vfork(). */
	bool stays_open = preload_segv_stays_open && preload_segv_stays_open() && !abi_memory_is_borrowed();
	bool before = abi_segv_is_held(), after = set && stays_open ? blocks_segv_then(before, how, set) : before;
	sigset_t kernels;
	int r;

	if (set && stays_open && how != SIG_UNBLOCK) {
		kernels = *set;
		sigdelset(&kernels, SIGSEGV);
		set = &kernels;
	}
	abi_hold_segv(after); /* before a pending one comes */
	r = real(how, set, old);
	if (r) {
		abi_hold_segv(before);
		return r;
	}
	if (old && before)
		sigaddset(old, SIGSEGV);
	if (set) {
		after = abi_segv_is_held(); /* not if one came */
		mask_changed();
		abi_hold_segv(after);
	}
	return 0;
}

/* By the library, or for it (liburcu): it puts back what it found. */
static bool is_ours(const void *caller)
{
	return preload_is_own_code(caller) || abi_in_service();
}

EXPORT int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	if (is_ours(__builtin_return_address(0)))
		return REAL(pthread_sigmask)(how, set, old);
	return change_mask(REAL(pthread_sigmask), how, set, old);
}

EXPORT int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
	if (is_ours(__builtin_return_address(0)))
		return REAL(sigprocmask)(how, set, old);
	return change_mask(REAL(sigprocmask), how, set, old);
}

/* The older ones, which call none of the two above. */
#define CHANGES_MASK(type, name, parameters, ...)     \
	EXPORT type name parameters;                  \
	EXPORT type name parameters                   \
	{                                             \
		type r = REAL(name)(__VA_ARGS__);     \
                                                      \
		mask_changed();                       \
		return r;                             \
	}

#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
CHANGES_MASK(int, sigblock, (int mask), mask)
CHANGES_MASK(int, sigsetmask, (int mask), mask)
CHANGES_MASK(int, sighold, (int signo), signo)
CHANGES_MASK(sighandler_t, sigset, (int signo, sighandler_t handler), signo, handler)

EXPORT int swapcontext(ucontext_t *from, const ucontext_t *to)
{
	int r;

	abi_mask_changed(); /* for the context that goes on */
	r = REAL(swapcontext)(from, to);
	abi_mask_changed(); /* for this one, when it does */
	return r;
}

EXPORT int setcontext(const ucontext_t *to)
{
	abi_mask_changed();
	return REAL(setcontext)(to);
}

/* Back to where sigsetjmp() may have saved a mask. */
static void before_jump(struct __jmp_buf_tag *env)
{
	bool held = preload_jump_holds && preload_jump_holds(env);

	abi_mask_changed();
	abi_hold_segv(held);
}

#define JUMPS(name)                                                             \
	EXPORT void name(struct __jmp_buf_tag env[1], int value) __attribute__((noreturn)); \
	EXPORT void name(struct __jmp_buf_tag env[1], int value)                  \
	{                                                                       \
		before_jump(env);                                               \
		REAL(name)(env, value);                                         \
		__builtin_unreachable();                                        \
	}

JUMPS(longjmp)
JUMPS(_longjmp)
JUMPS(siglongjmp)
JUMPS(__longjmp_chk)

/* As tell_abi() in signal.c: whose is the program's? */
__attribute__((constructor)) static void tell_abi(void)
{
	if (preload_is_own_code(dlsym(RTLD_DEFAULT, "pthread_sigmask")) &&
	    preload_is_own_code(dlsym(RTLD_DEFAULT, "siglongjmp")))
		abi_owns_sigmask();
}
