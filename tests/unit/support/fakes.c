/*
 * Stand-ins for functions of rooms that a test does not want to bring along.
 * Weak: where the real thing is linked in, it is used.
 *
 * The guarded accesses are done with a SIGSEGV/SIGBUS handler and
 * siglongjmp, slow and simple.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>

#include "host/fault.h"
#include "virt/iodev.h"
#include "virt/irq_routing.h"

#define WEAK __attribute__((weak))

static __thread sigjmp_buf *volatile guard;

static void on_fault(int signo)
{
	if (guard)
		siglongjmp(*guard, 1);
	sigaction(signo, &(struct sigaction){ .sa_handler = SIG_DFL }, NULL);
}

/*
 * cmocka puts its own handlers for SIGSEGV and its like around every test by
 * signal(3); guarded accesses need theirs to stay.
 */
__attribute__((visibility("default"))) sighandler_t signal(int signo, sighandler_t handler)
{
	return SIG_DFL;
}

WEAK int host_fault_init(void)
{
	struct sigaction sa = { .sa_handler = on_fault, .sa_flags = SA_NODEFER };

	return sigaction(SIGSEGV, &sa, NULL) || sigaction(SIGBUS, &sa, NULL) ? -errno : 0;
}

#define GUARDED(statement)                       \
	do {                                     \
		sigjmp_buf buf;                  \
		if (sigsetjmp(buf, 0)) {         \
			guard = NULL;            \
			return -EFAULT;          \
		}                                \
		guard = &buf;                    \
		statement;                       \
		guard = NULL;                    \
	} while (0)

WEAK int host_copy_from(void *dst, const void *client_src, size_t n)
{
	GUARDED(memcpy(dst, client_src, n));
	return 0;
}

WEAK int host_copy_to(void *client_dst, const void *src, size_t n)
{
	GUARDED(memcpy(client_dst, src, n));
	return 0;
}

WEAK int host_cmpxchg64(uint64_t *p, uint64_t old, uint64_t val)
{
	volatile bool swapped = false;

	GUARDED(swapped = __atomic_compare_exchange_n(p, &old, val, false, __ATOMIC_SEQ_CST,
						      __ATOMIC_SEQ_CST));
	return swapped;
}

WEAK int host_cmpxchg32(uint32_t *p, uint32_t old, uint32_t val)
{
	volatile bool swapped = false;

	GUARDED(swapped = __atomic_compare_exchange_n(p, &old, val, false, __ATOMIC_SEQ_CST,
						      __ATOMIC_SEQ_CST));
	return swapped;
}

WEAK void kvm_irqfd_release(struct kvm *kvm)
{
}

WEAK void kvm_free_irq_routing(struct kvm *kvm)
{
}
