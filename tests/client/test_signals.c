/*
 * KVM_RUN and signals: -EINTR, immediate_exit, KVM_SET_SIGNAL_MASK, sleeping in HLT.
 */
#include <pthread.h>
#include <setjmp.h>
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

/* The guest's code begins with it: a signal that came before the guest runs would be handled, and end nothing. */
#define AT_RUNNING 0x500
#define SAYS_THAT_IT_RUNS 0xfe, 0x06, AT_RUNNING & 0xff, AT_RUNNING >> 8 /* inc byte [500h] */

struct sender {
	pthread_t to;
	const volatile uint8_t *running;
};

static void *later(void *arg)
{
	struct timespec ms = {.tv_nsec = 1000 * 1000}, t = {.tv_nsec = 50 * 1000 * 1000};
	const struct sender *s = arg;

	while (!*s->running)
		nanosleep(&ms, NULL);
	nanosleep(&t, NULL);
	pthread_kill(s->to, SIGUSR1);
	return NULL;
}

static pthread_t signal_later(struct client *c, struct sender *s)
{
	pthread_t t;

	*s = (struct sender){pthread_self(), c->mem + AT_RUNNING};
	assert_int_equal(pthread_create(&t, NULL, later, s), 0);
	return t;
}

static void open_spinning(struct client *c)
{
	static const uint8_t code[] = {SAYS_THAT_IT_RUNS, 0xeb, 0xfa}; /* again and again */

	client_open_vm(c, 1 << 20);
	client_add_vcpu(c);
	client_real_mode(c, 0x1000, code, sizeof(code));
}

static void signal_ends_a_spinning_guest_with_eintr(void **state)
{
	struct client c;
	struct sender sender;
	pthread_t t;

	for (int flags = 0; flags <= SA_RESTART; flags += SA_RESTART) {
		install(flags);
		open_spinning(&c);
		t = signal_later(&c, &sender);
		assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
		assert_int_equal(c.run->exit_reason, KVM_EXIT_INTR);
		assert_int_equal(handled, 1);
		pthread_join(t, NULL);
		client_close(&c);
	}
}

static void signal_ends_a_halted_guest_with_eintr(void **state)
{
	static const uint8_t code[] = {SAYS_THAT_IT_RUNS, 0xfa, 0xf4}; /* cli; hlt */
	struct client c;
	struct sender sender;
	pthread_t t;
	struct timespec cpu;

	install(SA_RESTART);
	client_open_vm(&c, 1 << 20);
	assert_int_equal(ioctl(c.vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	t = signal_later(&c, &sender);
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
	struct sender sender;
	pthread_t t;

	install(0);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &blocked, &old);
	open_spinning(&c);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SIGNAL_MASK, &mask), 0);
	t = signal_later(&c, &sender);
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

static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
static sigset_t all_faults(void)
{
	sigset_t set;

	sigemptyset(&set);
	for (unsigned n = 0; n < 4; n++)
		sigaddset(&set, faults[n]);
	return set;
}

static void assert_faults_blocked(int yes)
{
	sigset_t now;

	pthread_sigmask(SIG_SETMASK, NULL, &now);
	for (unsigned n = 0; n < 4; n++)
		assert_int_equal(sigismember(&now, faults[n]), yes);
}

/* What would raise each of the signals in the library: bad pointers, memory that goes. */
static void assert_faults_are_errors(void)
{
	static const uint8_t code[] = {0xa1, 0x00, 0x90}; /* mov ax,[9000] */
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	assert_fails(ioctl(c.vcpu, KVM_SET_REGS, 8), EFAULT);
	munmap(c.mem + 0x9000, 0x1000);
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EFAULT);
	client_close(&c);
}

static void blocked_faults_are_errors_all_the_same(void **state)
{
	sigset_t set = all_faults(), old;

	assert_faults_are_errors();
	pthread_sigmask(SIG_BLOCK, &set, &old);
	assert_faults_blocked(1);
	assert_faults_are_errors();
	assert_faults_blocked(1);
	sigprocmask(SIG_SETMASK, &old, NULL);
	assert_faults_blocked(0);
	assert_faults_are_errors();
	sigprocmask(SIG_BLOCK, &set, NULL);
	assert_faults_are_errors();
	assert_faults_blocked(1);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	assert_faults_blocked(0);
}

static sigjmp_buf back;

static void jumps_back(int signo)
{
	siglongjmp(back, 1);
}

static void calls_in_handler(int signo)
{
	assert_faults_blocked(1);
	assert_faults_are_errors();
	assert_faults_blocked(1);
	handled++;
}

/* The mask of before comes back when it ends. */
static void opens_in_handler(int signo)
{
	sigset_t set = all_faults();

	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	assert_faults_are_errors();
	handled++;
}

/* Masks by a jump, by a handler's own, by inheritance. */
static void *in_thread(void *arg)
{
	assert_faults_blocked(1);
	assert_faults_are_errors();
	assert_faults_blocked(1);
	return NULL;
}

static void masks_from_elsewhere_are_noticed(void **state)
{
	struct sigaction sa = {.sa_handler = jumps_back}, old_sa;
	sigset_t set = all_faults(), old;
	pthread_t t;

	pthread_sigmask(SIG_BLOCK, &set, &old);
	assert_int_equal(pthread_create(&t, NULL, in_thread, NULL), 0);
	pthread_join(t, NULL);
	sigaction(SIGUSR1, &sa, &old_sa);
	if (sigsetjmp(back, 1) == 0) {
		pthread_sigmask(SIG_SETMASK, &old, NULL);
		assert_faults_are_errors();
		siglongjmp(back, 1);
	}
	assert_faults_blocked(1);
	assert_faults_are_errors();
	if (sigsetjmp(back, 1) == 0) {
		pthread_sigmask(SIG_SETMASK, &old, NULL);
		assert_faults_are_errors();
		raise(SIGUSR1);
	}
	assert_faults_blocked(1);
	assert_faults_are_errors();
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	assert_faults_are_errors();
	sa = (struct sigaction){.sa_handler = calls_in_handler, .sa_mask = set};
	sigaction(SIGUSR1, &sa, NULL);
	handled = 0;
	raise(SIGUSR1);
	assert_int_equal(handled, 1);
	assert_faults_blocked(0);
	assert_faults_are_errors();
	sa = (struct sigaction){.sa_handler = opens_in_handler};
	sigaction(SIGUSR1, &sa, NULL);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	raise(SIGUSR1);
	assert_int_equal(handled, 2);
	assert_faults_blocked(1);
	assert_faults_are_errors();
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	sigaction(SIGUSR1, &old_sa, NULL);
}

static volatile int sent_value;

static void takes_value(int signo, siginfo_t *si, void *context)
{
	handled++;
	sent_value = si->si_value.sival_int;
}

/* One that is sent to a thread which blocks it stays pending, with what it carries. */
static void sent_fault_waits_until_it_is_unblocked(void **state)
{
	struct sigaction sa = {.sa_sigaction = takes_value, .sa_flags = SA_SIGINFO}, old_sa;
	sigset_t set = all_faults(), old, pending;

	pthread_sigmask(SIG_BLOCK, &set, &old);
	sigaction(SIGSEGV, &sa, &old_sa);
	handled = 0;
	assert_int_equal(pthread_sigqueue(pthread_self(), SIGSEGV, (union sigval){.sival_int = 77}), 0);
	assert_faults_are_errors();
	assert_int_equal(handled, 0);
	sigpending(&pending);
	assert_int_equal(sigismember(&pending, SIGSEGV), 1);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	assert_int_equal(handled, 1);
	assert_int_equal(sent_value, 77);
	assert_faults_are_errors();
	sigaction(SIGSEGV, &old_sa, NULL);
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
		assert_in_range(client_regs(&c).rip, 0x1000, 0x1004);
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
	struct sender sender;
	pthread_t t;
	sigset_t set;
	struct client c;

	signal(SIGUSR1, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	open_spinning(&c);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SIGNAL_MASK, &m), 0);
	t = signal_later(&c, &sender);
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
		cmocka_unit_test(blocked_faults_are_errors_all_the_same),
		cmocka_unit_test(masks_from_elsewhere_are_noticed),
		cmocka_unit_test(sent_fault_waits_until_it_is_unblocked),
		cmocka_unit_test(cancelled_thread_leaves_the_vcpu_usable),
		cmocka_unit_test(masked_signal_without_a_handler_ends_the_run_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
