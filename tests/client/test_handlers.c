/*
 * Signal handlers of the client's that call what they interrupt: as on Linux none runs in the
 * middle of an ioctl, so each may change guest memory, ask its vCPU, close descriptors, jump away.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "client.h"

#define LOST_S 60 /* what stands still so long is ended by SIGALRM */

/*
 * Whoever waits for signals that come once has handlers which set immediate_exit: they may come before KVM_RUN,
 * which would then run on.
 */

static struct client c;
static volatile int handled, failures;

static void handle(int signo, void (*handler)(int), int flags)
{
	struct sigaction sa = {.sa_handler = handler, .sa_flags = flags};

	handled = failures = 0;
	assert_int_equal(sigaction(signo, &sa, NULL), 0);
}

/* Two pages are written again and again. */
static void open_writing(void)
{
	/* inc byte [2000h]; inc byte [3000h]; jmp $-8 */
	static const uint8_t code[] = {0xfe, 0x06, 0x00, 0x20, 0xfe, 0x06, 0x00, 0x30, 0xeb, 0xf6};

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	alarm(LOST_S);
}

static void close_writing(void)
{
	alarm(0);
	client_close(&c);
}

static timer_t start_storm(int signo, long every_ns)
{
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = signo};
	struct itimerspec t = {.it_interval.tv_nsec = every_ns, .it_value.tv_nsec = every_ns};
	timer_t timer;

	assert_int_equal(timer_create(CLOCK_MONOTONIC, &ev, &timer), 0);
	assert_int_equal(timer_settime(timer, 0, &t, NULL), 0);
	return timer;
}

/* Runs until `n` handlers have: each ends a KVM_RUN, or came between two. */
static void run_under_storm(int signo, long every_ns, int n)
{
	timer_t timer = start_storm(signo, every_ns);

	while (handled < n)
		assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	timer_delete(timer);
	assert_int_equal(failures, 0);
}

static void changes_memory(int signo)
{
	failures += madvise(c.mem + 0x2000, 0x1000, MADV_DONTNEED) != 0;
	failures += mprotect(c.mem + 0x3000, 0x1000, PROT_READ) != 0;
	failures += mprotect(c.mem + 0x3000, 0x1000, PROT_READ | PROT_WRITE) != 0;
	handled++;
}

static void a_handler_may_change_guest_memory(void **state)
{
	handle(SIGUSR1, changes_memory, 0);
	open_writing();
	run_under_storm(SIGUSR1, 300000, 3000);
	close_writing();
}

/* On top of munmap, mprotect and madvise of the same memory. */
static void a_handler_may_interrupt_a_change_of_memory(void **state)
{
	timer_t timer;

	handle(SIGUSR1, changes_memory, 0);
	open_writing();
	timer = start_storm(SIGUSR1, 200000);
	while (handled < 2000) {
		assert_int_equal(madvise(c.mem + 0x2000, 0x2000, MADV_DONTNEED), 0);
		assert_int_equal(mprotect(c.mem + 0x4000, 0x4000, PROT_READ), 0);
		assert_int_equal(mprotect(c.mem + 0x4000, 0x4000, PROT_READ | PROT_WRITE), 0);
		assert_true(mmap(c.mem + 0x5000, 0x1000, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == c.mem + 0x5000);
	}
	timer_delete(timer);
	assert_int_equal(failures, 0);
	close_writing();
}

static void asks_everybody(int signo)
{
	struct kvm_userspace_memory_region slot = {.slot = 5, .guest_phys_addr = 0x200000, .memory_size = 0x1000,
						   .userspace_addr = (uintptr_t)c.mem};
	struct kvm_regs r;

	failures += ioctl(c.vcpu, KVM_GET_REGS, &r) != 0 || r.rip < 0x1000 || r.rip > 0x100a;
	failures += ioctl(c.vcpu, KVM_SET_REGS, &r) != 0;
	failures += ioctl(c.vm, KVM_SET_USER_MEMORY_REGION, &slot) != 0;
	slot.memory_size = 0;
	failures += ioctl(c.vm, KVM_SET_USER_MEMORY_REGION, &slot) != 0;
	handled++;
}

static void a_handler_may_call_any_ioctl(void **state)
{
	handle(SIGUSR1, asks_everybody, SA_RESTART);
	open_writing();
	run_under_storm(SIGUSR1, 300000, 2000);
	close_writing();
}

static void runs_vcpu(int signo)
{
	c.run->immediate_exit = 1;
	failures += ioctl(c.vcpu, KVM_RUN, 0) != -1 || errno != EINTR;
	c.run->immediate_exit = 0;
	handled++;
}

static void a_handler_may_run_the_vcpu(void **state)
{
	handle(SIGUSR1, runs_vcpu, 0);
	open_writing();
	run_under_storm(SIGUSR1, 300000, 1000);
	close_writing();
}

static sigjmp_buf back;

static void jumps(int signo)
{
	handled++;
	siglongjmp(back, 1);
}

static void a_handler_may_jump_out_of_kvm_run(void **state)
{
	timer_t timer;

	handle(SIGUSR1, jumps, 0);
	open_writing();
	timer = start_storm(SIGUSR1, 500000);
	(void)sigsetjmp(back, 1);
	while (handled < 1000)
		assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR); /* not, where the handler came between two */
	timer_delete(timer);
	assert_in_range(client_regs(&c).rip, 0x1000, 0x100a);
	client_slot(&c, 1, 0, 0x200000, c.mem, 0x1000);
	close_writing();
}

static void opens_and_closes(int signo)
{
	int kvm = open("/dev/kvm", O_RDWR), vm = ioctl(kvm, KVM_CREATE_VM, 0), two = dup(vm);

	failures += kvm < 0 || vm < 0 || two < 0;
	failures += close(vm) || close(kvm) || close(two);
	handled++;
}

static void a_handler_may_open_and_close(void **state)
{
	timer_t timer;

	handle(SIGUSR1, opens_and_closes, 0);
	open_writing();
	timer = start_storm(SIGUSR1, 1000000);
	while (handled < 500) {
		int two = dup(c.vm), three = fcntl(c.vcpu, F_DUPFD_CLOEXEC, 0);

		assert_true(two >= 0 && three >= 0);
		assert_int_equal(close(two), 0);
		assert_int_equal(close(three), 0);
		assert_int_equal(dup2(c.vm, 400), 400);
		assert_int_equal(close(400), 0);
	}
	timer_delete(timer);
	assert_int_equal(failures, 0);
	close_writing();
}

/* A fault's signal that is sent is like any other. */
static void a_sent_fault_waits_too(void **state)
{
	handle(SIGFPE, changes_memory, 0);
	open_writing();
	run_under_storm(SIGFPE, 300000, 1000);
	signal(SIGFPE, SIG_DFL);
	close_writing();
}

/* --- none is lost, none is doubled, each carries what it was sent with --- */

static void says_leave(int signo)
{
	handled++;
	c.run->immediate_exit = 1;
}

/* However early it comes, the KVM_RUN it was meant for does not go on. */
static void a_signal_on_the_way_into_kvm_run_ends_it(void **state)
{
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	timer_t timer;

	handle(SIGUSR1, says_leave, 0);
	open_writing();
	assert_int_equal(timer_create(CLOCK_MONOTONIC, &ev, &timer), 0);
	for (int i = 1; i <= 4000; i++) {
		struct itimerspec t = {.it_value.tv_nsec = 1 + i % 400 * 50};

		c.run->immediate_exit = 0;
		assert_int_equal(timer_settime(timer, 0, &t, NULL), 0);
		assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
		assert_int_equal(handled, i);
	}
	timer_delete(timer);
	close_writing();
}

#define BURST 6
#define ROUNDS 300
static volatile int got[BURST];

static void notes_value(int signo, siginfo_t *si, void *context)
{
	if (handled < BURST)
		got[handled] = si->si_value.sival_int;
	failures += si->si_code != SI_QUEUE || si->si_pid != getpid();
	handled++;
	c.run->immediate_exit = 1;
}

static void *sends_burst(void *arg)
{
	struct timespec pause = {.tv_nsec = 200000};

	nanosleep(&pause, NULL);
	for (int i = 0; i < BURST; i++)
		pthread_sigqueue(*(pthread_t *)arg, SIGRTMIN + 1, (union sigval){.sival_int = i});
	return NULL;
}

static void queued_signals_come_in_order(void **state)
{
	struct sigaction sa = {.sa_sigaction = notes_value, .sa_flags = SA_SIGINFO};
	pthread_t self = pthread_self(), sender;

	assert_int_equal(sigaction(SIGRTMIN + 1, &sa, NULL), 0);
	open_writing();
	failures = 0;
	for (int round = 0; round < ROUNDS; round++) {
		handled = 0;
		c.run->immediate_exit = 0;
		assert_int_equal(pthread_create(&sender, NULL, sends_burst, &self), 0);
		while (handled < BURST)
			assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
		pthread_join(sender, NULL);
		assert_int_equal(handled, BURST);
		for (int i = 0; i < BURST; i++)
			assert_int_equal(got[i], i);
	}
	assert_int_equal(failures, 0);
	close_writing();
}

/* What is pending goes with SIG_IGN; of the signals after it each has its own. */
static void *sends_one(void *arg)
{
	struct timespec pause = {.tv_nsec = 200000};

	nanosleep(&pause, NULL);
	pthread_kill(*(pthread_t *)arg, SIGUSR1);
	pthread_sigqueue(*(pthread_t *)arg, SIGRTMIN + 1, (union sigval){.sival_int = 7});
	return NULL;
}

static void ignores_the_other(int signo)
{
	signal(SIGRTMIN + 1, SIG_IGN);
	c.run->immediate_exit = 1;
}

static void what_is_ignored_is_forgotten(void **state)
{
	struct sigaction sa = {.sa_sigaction = notes_value, .sa_flags = SA_SIGINFO};
	struct sigaction first = {.sa_handler = ignores_the_other};
	pthread_t self = pthread_self(), sender;

	sigaddset(&first.sa_mask, SIGRTMIN + 1);
	assert_int_equal(sigaction(SIGUSR1, &first, NULL), 0);
	open_writing();
	failures = 0;
	for (int round = 0; round < ROUNDS; round++) {
		handled = 0;
		c.run->immediate_exit = 0;
		assert_int_equal(sigaction(SIGRTMIN + 1, &sa, NULL), 0);
		assert_int_equal(pthread_create(&sender, NULL, sends_one, &self), 0);
		assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
		pthread_join(sender, NULL);
		handled = 0; /* it may have been first */
		assert_int_equal(sigaction(SIGRTMIN + 1, &sa, NULL), 0);
		for (int i = 0; i < 3; i++)
			pthread_sigqueue(self, SIGRTMIN + 1, (union sigval){.sival_int = i});
		assert_int_equal(handled, 3);
		for (int i = 0; i < 3; i++)
			assert_int_equal(got[i], i);
	}
	assert_int_equal(failures, 0);
	close_writing();
}

static volatile int mask_seen;

static void looks_at_mask(int signo)
{
	sigset_t now;

	pthread_sigmask(SIG_SETMASK, NULL, &now);
	for (int s = 1; s < 32; s++)
		mask_seen += sigismember(&now, s) == 1 && s != signo;
	handled++;
	c.run->immediate_exit = 1;
}

static void *sends_two(void *arg)
{
	struct timespec pause = {.tv_nsec = 200000};

	nanosleep(&pause, NULL);
	pthread_kill(*(pthread_t *)arg, SIGUSR1);
	pthread_kill(*(pthread_t *)arg, SIGUSR2);
	return NULL;
}

/* Of the library's own waiting nothing shows: not in a handler, nor after it. */
static void masks_are_the_clients(void **state)
{
	pthread_t self = pthread_self(), sender;
	sigset_t before, after;

	handle(SIGUSR1, looks_at_mask, SA_NODEFER);
	handle(SIGUSR2, looks_at_mask, SA_NODEFER);
	open_writing();
	pthread_sigmask(SIG_SETMASK, NULL, &before);
	for (int round = 1; round <= 300; round++) {
		c.run->immediate_exit = 0;
		assert_int_equal(pthread_create(&sender, NULL, sends_two, &self), 0);
		while (handled < 2 * round)
			assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
		pthread_join(sender, NULL);
		assert_int_equal(handled, 2 * round);
	}
	assert_int_equal(mask_seen, 0);
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	for (int s = 1; s < 32; s++)
		assert_int_equal(sigismember(&after, s), sigismember(&before, s));
	close_writing();
}

/* --- SA_RESETHAND: once, however often the signal comes back to wait --- */

static void counts(int signo)
{
	handled++;
	c.run->immediate_exit = 1;
}

static void a_handler_for_once_runs_once(void **state)
{
	struct sigaction now;
	timer_t timer;

	open_writing();
	for (int round = 0; round < 20; round++) {
		handle(SIGURG, counts, (int)SA_RESETHAND); /* its default is to be ignored */
		c.run->immediate_exit = 0;
		timer = start_storm(SIGURG, 1000000);
		assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
		for (int i = 0; i < 100000 && handled < 2; i++)
			(void)client_regs(&c);
		timer_delete(timer);
		assert_int_equal(handled, 1);
		assert_int_equal(sigaction(SIGURG, NULL, &now), 0);
		assert_true(now.sa_handler == SIG_DFL);
		assert_true(now.sa_flags & (int)SA_RESETHAND);
	}
	close_writing();
}

/* Let in by KVM_SET_SIGNAL_MASK, it waits, and the handler with it. */
static void a_handler_for_once_waits_behind_a_run_that_it_ends(void **state)
{
	struct {
		uint32_t len;
		uint8_t set[8]; /* nothing is blocked */
	} m = {.len = 8}; /* struct kvm_signal_mask */
	struct sigaction now;
	sigset_t set, old;

	handle(SIGUSR1, counts, (int)SA_RESETHAND);
	open_writing();
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, &old);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SIGNAL_MASK, &m), 0);
	pthread_kill(pthread_self(), SIGUSR1);
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	assert_int_equal(handled, 0);
	assert_int_equal(sigaction(SIGUSR1, NULL, &now), 0);
	assert_true(now.sa_handler == counts);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	assert_int_equal(handled, 1);
	assert_int_equal(sigaction(SIGUSR1, NULL, &now), 0);
	assert_true(now.sa_handler == SIG_DFL);
	close_writing();
}

/* A signal without a handler ends the program at once, whatever the library does. */
static void the_default_action_does_not_wait(void **state)
{
	static const int fatal[] = {SIGUSR2, SIGTERM, SIGSEGV, SIGFPE};

	for (unsigned i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++) {
		int status;
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0) {
			signal(fatal[i], SIG_DFL);
			open_writing();
			start_storm(fatal[i], 5000000);
			ioctl(c.vcpu, KVM_RUN, 0);
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == fatal[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_handler_may_change_guest_memory),
		cmocka_unit_test(a_handler_may_interrupt_a_change_of_memory),
		cmocka_unit_test(a_handler_may_call_any_ioctl),
		cmocka_unit_test(a_handler_may_run_the_vcpu),
		cmocka_unit_test(a_handler_may_jump_out_of_kvm_run),
		cmocka_unit_test(a_handler_may_open_and_close),
		cmocka_unit_test(a_sent_fault_waits_too),
		cmocka_unit_test(a_signal_on_the_way_into_kvm_run_ends_it),
		cmocka_unit_test(queued_signals_come_in_order),
		cmocka_unit_test(what_is_ignored_is_forgotten),
		cmocka_unit_test(masks_are_the_clients),
		cmocka_unit_test(a_handler_for_once_runs_once),
		cmocka_unit_test(a_handler_for_once_waits_behind_a_run_that_it_ends),
		cmocka_unit_test(the_default_action_does_not_wait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
