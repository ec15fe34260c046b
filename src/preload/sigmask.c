/*
 * Who changes a thread's signal mask: the library's work needs four signals open
 * (host room), and asks the kernel again after a change that it has heard of here.
 * The masks themselves stay what the client makes them.
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

#include "abi/abi.h"
#include "preload/real.h"

#pragma weak preload_cpuid_mask

static void mask_changed(void)
{
	abi_mask_changed();
	if (preload_cpuid_mask) /* not in libuserkvm */
		preload_cpuid_mask();
}

/*
 * A handler of the client's that blocks SIGSEGV may run with it open (host/fault.h): it is shown blocked, up to
 * a change that opens it.
 */
#define CALL_AND_TELL(name)                                                                    \
	({                                                                                     \
		bool opens_ = set && (how == SIG_SETMASK ||                                    \
				      (how == SIG_UNBLOCK && sigismember(set, SIGSEGV) == 1)); \
		bool changes_ = set, held_;                                                    \
		int r_ = REAL(name)(how, set, old);                                            \
		if (!preload_is_own_code(__builtin_return_address(0))) {                       \
			held_ = abi_hold_segv(false);                                          \
			if (held_ && old && r_ == 0)                                           \
				sigaddset(old, SIGSEGV);                                       \
			if (changes_)                                                          \
				mask_changed();                                                \
			abi_hold_segv(held_ && !opens_);                                       \
		} /* ours puts back what it found */                                           \
		r_;                                                                            \
	})

EXPORT int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	return CALL_AND_TELL(pthread_sigmask);
}

EXPORT int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
	return CALL_AND_TELL(sigprocmask);
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
#define JUMPS(name)                                                             \
	EXPORT void name(struct __jmp_buf_tag env[1], int value) __attribute__((noreturn)); \
	EXPORT void name(struct __jmp_buf_tag env[1], int value)                  \
	{                                                                       \
		abi_mask_changed();                                             \
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
