/*
 * libc's own functions behind the names this library takes over.
 *
 * Every file of the room begins with the two #undefs below: with 64-bit file
 * offsets the headers would rename open() to open64() and so on.
 */
#ifndef USERKVM_PRELOAD_REAL_H
#define USERKVM_PRELOAD_REAL_H

#include <dlfcn.h>
#include <setjmp.h>
#include <stdbool.h>

#define EXPORT __attribute__((visibility("default")))

/* The next definition of a function after ours. Never NULL for what libc has. */
#define REAL(name)                                                                     \
	({                                                                             \
		static __typeof__(name) *real_fn;                                      \
		__typeof__(name) *fn_ = __atomic_load_n(&real_fn, __ATOMIC_RELAXED);   \
		if (!fn_) {                                                            \
			fn_ = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);             \
			__atomic_store_n(&real_fn, fn_, __ATOMIC_RELAXED);             \
		}                                                                      \
		fn_;                                                                   \
	})

/* In this library, or the one with the rooms? NULL is not. (signal.c) */
bool preload_is_own_code(const void *p);

/* Exactly "/dev/kvm". NULL is not. */
bool preload_is_dev_kvm(const char *path);
/* Does the host look like one with VMX (USERKVM_HOST_VMX)? (host_files.c) */
bool preload_shows_vmx(void);
/* The calling thread's signal mask may have changed. (cpuid.c) */
void preload_cpuid_mask(void);
/* Does SIGSEGV stay open in the calling thread, whatever it blocks? (cpuid.c) */
bool preload_segv_stays_open(void);
/* It believes SIGSEGV to be blocked (abi_segv_is_held()): the kernel blocks it, and CPUID executes. (cpuid.c) */
void preload_segv_block(void);
/* Does it, where longjmp() to env goes on? (sigsetjmp.c) */
bool preload_jump_holds(struct __jmp_buf_tag *env);
/* Around a call whose child inherits the mask as the client believes it to be: begin's result goes to end. (inherit.c) */
bool preload_inherit_begin(void);
void preload_inherit_end(bool held);
/* It is about to put a seccomp filter on, on itself or on all threads. */
void preload_cpuid_confined(bool all_threads);
/*
 * What open() of path has come to: fd, or where the host has no idle page tracking and
 * path is its bitmap, one that is served (page_idle.c). errno as open() leaves it.
 */
int preload_opened(int fd, const char *path, int flags);
/* "", as with AT_EMPTY_PATH. NULL is not. */
bool preload_is_empty(const char *path);

/*
 * KVM_SET_SIGNAL_MASK has let signals in that this thread blocks: those that
 * have no handler must end KVM_RUN all the same, and not the program (signal.c).
 */
void preload_guard_signals(const void *kvm_signal_mask);

/* userkvm_ioctl() with cancellation of the thread deferred (cancel.c). */
int preload_ioctl(int fd, unsigned long request, unsigned long arg);

/* libc's ioctl() on a userfaultfd; guests learn what it takes from them (mapping.c). */
int preload_userfault_ioctl(int fd, unsigned long request, unsigned long arg);

#endif
