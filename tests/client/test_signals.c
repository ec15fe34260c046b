/*
 * KVM_RUN and signals: -EINTR, immediate_exit, KVM_SET_SIGNAL_MASK, sleeping in HLT.
 */
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "client.h"

static volatile sig_atomic_t handled;

static void on_signal(int signo)
{
	handled++;
}

static void install(int flags)
{
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = flags};

	handled = 0;
	assert_int_equal(sigaction(SIGUSR1, &sa, NULL), 0);
}

static void *later(void *arg)
{
	struct timespec t = {.tv_nsec = 50 * 1000 * 1000};

	nanosleep(&t, NULL);
	pthread_kill(*(pthread_t *)arg, SIGUSR1);
	return NULL;
}

static pthread_t signal_later(pthread_t *self)
{
	pthread_t t;

	*self = pthread_self();
	assert_int_equal(pthread_create(&t, NULL, later, self), 0);
	return t;
}

static void open_spinning(struct client *c)
{
	static const uint8_t code[] = {0xeb, 0xfe}; /* jmp $ */

	client_open_vm(c, 1 << 20);
	client_add_vcpu(c);
	client_real_mode(c, 0x1000, code, sizeof(code));
}

static void signal_ends_a_spinning_guest_with_eintr(void **state)
{
	struct client c;
	pthread_t self, t;

	for (int flags = 0; flags <= SA_RESTART; flags += SA_RESTART) {
		install(flags);
		open_spinning(&c);
		t = signal_later(&self);
		assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
		assert_int_equal(c.run->exit_reason, KVM_EXIT_INTR);
		assert_int_equal(handled, 1);
		pthread_join(t, NULL);
		client_close(&c);
	}
}

static void signal_ends_a_halted_guest_with_eintr(void **state)
{
	static const uint8_t code[] = {0xfa, 0xf4}; /* cli; hlt */
	struct client c;
	pthread_t self, t;
	struct timespec cpu;

	install(SA_RESTART);
	client_open_vm(&c, 1 << 20);
	assert_int_equal(ioctl(c.vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	t = signal_later(&self);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
	uint64_t before = (uint64_t)cpu.tv_sec * 1000000000ULL + (uint64_t)cpu.tv_nsec;
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
	/* It slept: of the 50 ms almost nothing was used. */
	assert_true((uint64_t)cpu.tv_sec * 1000000000ULL + (uint64_t)cpu.tv_nsec - before < 20 * 1000 * 1000);
	assert_int_equal(handled, 1);
	pthread_join(t, NULL);
	client_close(&c);
}

static void immediate_exit_returns_eintr_without_running(void **state)
{
	struct client c;

	open_spinning(&c);
	c.run->immediate_exit = 1;
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	assert_int_equal(client_regs(&c).rip, 0x1000);
	client_close(&c);
}

static void signal_unblocked_only_for_the_run_stays_pending(void **state)
{
	struct client c;
	sigset_t blocked, pending, old;
	struct {
		struct kvm_signal_mask h;
		uint64_t set;
	} __attribute__((packed)) mask = {.h.len = 8, .set = 0};
	pthread_t self, t;

	install(0);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &blocked, &old);
	open_spinning(&c);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SIGNAL_MASK, &mask), 0);
	t = signal_later(&self);
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	pthread_join(t, NULL);
	assert_int_equal(handled, 0);
	sigpending(&pending);
	assert_true(sigismember(&pending, SIGUSR1));
	/* Still pending: the next run leaves at once too. */
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	assert_int_equal(handled, 1);
	client_close(&c);
}

static void signal_blocked_in_the_run_does_not_end_it(void **state)
{
	/* mov cx,ffff; loop $; (x many) out 10h,al: finishes by itself */
	static const uint8_t code[] = {0xba, 0x40, 0, 0xb9, 0xff, 0xff, 0xe2, 0xfe, 0x4a, 0x75, 0xf8, 0xe6, 0x10};
	struct client c;
	sigset_t blocked, old;

	install(0);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	pthread_sigmask(SIG_BLOCK, &blocked, &old);
	pthread_kill(pthread_self(), SIGUSR1);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(handled, 0);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	assert_int_equal(handled, 1);
	client_close(&c);
}

static void mask_that_blocks_all_does_not_make_a_fault_fatal(void **state)
{
	static const uint8_t code[] = {0xa1, 0x00, 0x90}; /* mov ax,[9000] */
	struct {
		uint32_t len;
		uint8_t set[8];
	} m = {.len = 8}; /* struct kvm_signal_mask */
	struct client c;

	memset(m.set, 0xff, sizeof(m.set));
	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SIGNAL_MASK, &m), 0);
	munmap(c.mem + 0x9000, 0x1000);
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EFAULT);
	client_close(&c);
}

static void *cancelled(void *arg)
{
	struct client *c = arg;

	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	for (;;)
		ioctl(c->vcpu, KVM_RUN, 0);
	return NULL;
}

static void cancelled_thread_leaves_the_vcpu_usable(void **state)
{
	struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
	struct client c;
	pthread_t t;
	void *result;

	open_spinning(&c);
	for (int i = 0; i < 5; i++) {
		assert_int_equal(pthread_create(&t, NULL, cancelled, &c), 0);
		nanosleep(&pause, NULL);
		assert_int_equal(pthread_cancel(t), 0);
		assert_int_equal(pthread_join(t, &result), 0);
		assert_ptr_equal(result, PTHREAD_CANCELED);
		assert_int_equal(client_regs(&c).rip, 0x1000);
	}
	client_close(&c);
}

static void masked_signal_without_a_handler_ends_the_run_only(void **state)
{
	struct {
		uint32_t len;
		uint8_t set[8]; /* nothing is blocked */
	} m = {.len = 8}; /* struct kvm_signal_mask */
	struct timespec now = {0};
	pthread_t self, t;
	sigset_t set;
	struct client c;

	signal(SIGUSR1, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	open_spinning(&c);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SIGNAL_MASK, &m), 0);
	t = signal_later(&self);
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	pthread_join(t, NULL);
	assert_int_equal(sigtimedwait(&set, NULL, &now), SIGUSR1); /* still pending */
	assert_ptr_equal(signal(SIGUSR1, SIG_DFL), SIG_DFL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(signal_ends_a_spinning_guest_with_eintr),
		cmocka_unit_test(signal_ends_a_halted_guest_with_eintr),
		cmocka_unit_test(immediate_exit_returns_eintr_without_running),
		cmocka_unit_test(signal_unblocked_only_for_the_run_stays_pending),
		cmocka_unit_test(signal_blocked_in_the_run_does_not_end_it),
		cmocka_unit_test(mask_that_blocks_all_does_not_make_a_fault_fatal),
		cmocka_unit_test(cancelled_thread_leaves_the_vcpu_usable),
		cmocka_unit_test(masked_signal_without_a_handler_ends_the_run_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
