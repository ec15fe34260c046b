/*
 * Exceptions whose delivery raises the same exception, without end: the vCPU
 * still hears what its client wants.
 */
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "guest_code.h"
#include "paging.h"

#define CR0_AM (1u << 18)
#define VECTOR_AC 17
#define SELECTOR_CODE3 (0x18 | 3)
#define STACK 0x8000

GUEST_CODE(misaligned_load, 32, "mov 2(%esi), %eax; out %al, $0x98");

static struct client c;
static int done; /* 0: KVM_RUN has not returned */
static int result, error;

static void on_signal(int signo)
{
}

static void *run(void *unused)
{
	result = ioctl(c.vcpu, KVM_RUN, 0);
	error = errno;
	__atomic_store_n(&done, 1, __ATOMIC_RELEASE);
	return NULL;
}

/* Signals until KVM_RUN has returned: the first may come before it has begun. */
static void run_until_a_signal_ends_it(void)
{
	struct timespec ms = {0, 1000000};
	pthread_t th;

	done = 0;
	assert_int_equal(pthread_create(&th, NULL, run, NULL), 0);
	for (int tries = 0; !__atomic_load_n(&done, __ATOMIC_ACQUIRE); tries++) {
		if (tries == 20000)
			fail_msg("KVM_RUN does not end");
		pthread_kill(th, SIGUSR1);
		nanosleep(&ms, NULL);
	}
	assert_int_equal(pthread_join(th, NULL), 0);
	assert_int_equal(result, -1);
	assert_int_equal(error, EINTR);
}

/* CPL 3, #AC's handler in CPL 3 too, and a stack that no frame can be pushed to without #AC. */
static void alignment_check_loop_is_left_on_a_signal(void **state)
{
	struct sigaction act = {.sa_handler = on_signal};
	uint64_t *gate;
	struct kvm_vcpu_events ev;
	struct kvm_regs r;

	assert_int_equal(sigaction(SIGUSR1, &act, NULL), 0);
	client_open_vm(&c, 2 << 20);
	client_add_vcpu(&c);
	paging_start(&c, PAGING_32, 3, CR0_AM, 0, 0);
	gate = (uint64_t *)(c.mem + AT_IDT) + VECTOR_AC;
	*gate = (*gate & ~0xffff0000ULL) | (uint64_t)SELECTOR_CODE3 << 16;
	/* the stub of a handler that may not read CR2: out 17 */
	memcpy(c.mem + AT_STUBS + VECTOR_AC * 16, "\xe6\x11", 2);
	memcpy(c.mem + AT_CODE, misaligned_load, GUEST_CODE_SIZE(misaligned_load));
	r = client_regs(&c);
	r.rsp = STACK + 2;
	r.rflags |= EFLAGS_AC;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	for (int i = 0; i < 3; i++) {
		run_until_a_signal_ends_it();
		r = client_regs(&c);
		assert_int_equal(r.rip, AT_CODE);
		assert_int_equal(r.rsp, STACK + 2);
	}
	/* the exception is still on its way, and arrives where there is room for it */
	assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &ev), 0);
	assert_int_equal(ev.exception.nr, VECTOR_AC);
	r.rsp = STACK;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(client_next_out(&c), VECTOR_AC);
	r = client_regs(&c);
	assert_int_equal(r.rsp, STACK - 16);
	assert_int_equal(*(uint32_t *)(c.mem + STACK - 12), AT_CODE);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(alignment_check_loop_is_left_on_a_signal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
