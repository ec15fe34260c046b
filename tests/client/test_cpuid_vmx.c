/*
 * The CPUID instruction of a client says VMX, by CPUID faulting (docs/ci.md), also in signal handlers; and no CPUID ends
 * a program, whatever signals it blocks. Faults of the program's own stay what they are.
 */
#include <cpuid.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>

#include "client.h"
#include "filter.h"

static volatile int *volatile nowhere = (int *)8;

static int says_vmx(void)
{
	unsigned a, b, c = 0, d;

	__cpuid(1, a, b, c, d);
	return c >> 5 & 1;
}

static bool host_can(void)
{
	char line[8192];
	bool can = false;
	FILE *f = fopen("/proc/cpuinfo", "r");

	while (f && !can && fgets(line, sizeof(line), f))
		can = strncmp(line, "flags", 5) == 0 && strstr(line, " cpuid_fault");
	if (f)
		fclose(f);
	return can;
}

#define NEEDS_FAULTING                                                \
	do {                                                          \
		if (!host_can()) {                                    \
			print_message("this host has no CPUID faulting\n"); \
			skip();                                       \
		}                                                     \
	} while (0)

static void *in_thread(void *arg)
{
	*(int *)arg = says_vmx();
	return NULL;
}

static void it_says_vmx_in_every_thread_and_child(void **state)
{
	int in = 0, status;
	pthread_t t;
	pid_t pid;

	NEEDS_FAULTING;
	assert_int_equal(says_vmx(), 1);
	assert_int_equal(pthread_create(&t, NULL, in_thread, &in), 0);
	assert_int_equal(pthread_join(t, NULL), 0);
	assert_int_equal(in, 1);
	pid = fork();
	if (!pid)
		_exit(says_vmx());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 1);
	assert_int_equal(says_vmx(), 1);
}

static volatile sig_atomic_t handled, in_handler;

static void asks(int signo)
{
	handled++;
	in_handler = says_vmx();
}

static void on(int signo, void (*handler)(int), int flags, bool blocks_all)
{
	struct sigaction act = { .sa_handler = handler, .sa_flags = flags }, now;

	if (blocks_all)
		sigfillset(&act.sa_mask);
	assert_int_equal(sigaction(signo, &act, NULL), 0);
	assert_int_equal(sigaction(signo, NULL, &now), 0);
	assert_int_equal(sigismember(&now.sa_mask, SIGSEGV), blocks_all);
}

static void a_handler_that_blocks_every_signal_may_ask(void **state)
{
	handled = 0;
	on(SIGUSR1, asks, 0, true);
	raise(SIGUSR1);
	assert_int_equal(handled, 1);
	assert_int_equal(in_handler, host_can());
	assert_int_equal(says_vmx(), host_can());
}

static sigjmp_buf back;

static void asks_and_jumps(int signo)
{
	asks(signo);
	siglongjmp(back, 1);
}

/* More than once: a handler that is left by a jump has ended. */
static void a_handler_of_segv_may_ask_and_jump_out(void **state)
{
	on(SIGSEGV, asks_and_jumps, 0, true);
	for (int n = 0; n < 3; n++) {
		handled = 0;
		if (sigsetjmp(back, 1) == 0)
			*nowhere = 1;
		assert_int_equal(handled, 1);
		assert_int_equal(says_vmx(), host_can());
	}
	signal(SIGSEGV, SIG_DFL);
}

static int in_child_with(void (*f)(void))
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		f();
		_exit(99);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void faults_again(int signo)
{
	if (handled++)
		_exit(98);
	*nowhere = 2;
}

static void fault_twice(void)
{
	handled = 0;
	on(SIGSEGV, faults_again, 0, false);
	*nowhere = 1;
}

static void fault_in_another(void)
{
	handled = 1; /* SIGSEGV's own must not run */
	on(SIGSEGV, faults_again, 0, false);
	on(SIGUSR1, faults_again, 0, true);
	handled = 0;
	raise(SIGUSR1);
}

/* Blocked for the kernel, or for the client alone. */
static void a_fault_where_segv_is_blocked_ends_the_program(void **state)
{
	int status = in_child_with(fault_twice);

	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	status = in_child_with(fault_in_another);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static bool shown_blocked(void)
{
	sigset_t now;

	assert_int_equal(pthread_sigmask(SIG_BLOCK, NULL, &now), 0);
	return sigismember(&now, SIGSEGV) == 1;
}

static void block_all(sigset_t *old)
{
	sigset_t all;

	sigfillset(&all);
	assert_int_equal(pthread_sigmask(SIG_SETMASK, &all, old), 0);
	assert_true(shown_blocked());
}

static void code_that_blocks_every_signal_may_ask(void **state)
{
	sigset_t usr1, old;

	block_all(&old);
	assert_int_equal(says_vmx(), host_can());
	handled = 0;
	on(SIGUSR1, asks, 0, true);
	raise(SIGUSR1);
	assert_int_equal(handled, 0);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	assert_int_equal(pthread_sigmask(SIG_UNBLOCK, &usr1, NULL), 0);
	assert_int_equal(handled, 1);
	assert_int_equal(in_handler, host_can());
	assert_true(shown_blocked());
	assert_int_equal(says_vmx(), host_can()); /* a handler has interrupted it */
	assert_int_equal(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
	assert_false(shown_blocked());
	assert_int_equal(says_vmx(), host_can());
}

static bool segv_is_pending(void)
{
	sigset_t set;

	assert_int_equal(sigpending(&set), 0);
	return sigismember(&set, SIGSEGV) == 1;
}

static void a_sent_segv_waits_until_it_is_open(void **state)
{
	const struct timespec none = { 0 };
	sigset_t segv, old;

	on(SIGSEGV, asks, 0, false);
	sigemptyset(&segv);
	sigaddset(&segv, SIGSEGV);
	for (int to_thread = 0; to_thread < 2; to_thread++) {
		handled = 0;
		block_all(&old);
		assert_int_equal(to_thread ? raise(SIGSEGV) : kill(getpid(), SIGSEGV), 0);
		assert_int_equal(handled, 0);
		assert_true(segv_is_pending());
		says_vmx();
		assert_true(shown_blocked());
		assert_int_equal(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
		assert_int_equal(handled, 1);
		assert_int_equal(says_vmx(), host_can());

		block_all(&old);
		assert_int_equal(to_thread ? raise(SIGSEGV) : kill(getpid(), SIGSEGV), 0);
		assert_int_equal(sigtimedwait(&segv, NULL, &none), SIGSEGV);
		assert_int_equal(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
		assert_int_equal(handled, 1);
		assert_int_equal(says_vmx(), host_can());
	}
	signal(SIGSEGV, SIG_DFL);
}

static void fault_with_all_blocked(void)
{
	sigset_t old;

	on(SIGSEGV, asks, 0, false);
	block_all(&old);
	*nowhere = 1;
}

static void a_fault_of_code_that_blocks_segv_ends_the_program(void **state)
{
	int status = in_child_with(fault_with_all_blocked);

	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static void *inherits(void *arg)
{
	*(int *)arg = shown_blocked() + 2 * says_vmx();
	return NULL;
}

static void threads_and_children_inherit_that_it_is_blocked(void **state)
{
	int in = 0, status;
	sigset_t old;
	pthread_t t;
	pid_t pid;

	block_all(&old);
	assert_int_equal(pthread_create(&t, NULL, inherits, &in), 0);
	assert_int_equal(pthread_join(t, NULL), 0);
	pid = fork();
	if (!pid)
		_exit(shown_blocked() + 2 * says_vmx());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 1 + 2 * host_can());
	assert_int_equal(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
	assert_int_equal(in, 1 + 2 * host_can());
}

/* SIGSEGV is the eleventh signal: exit status 0 if it is in the mask that the shell has from us. */
#define SHELL_ASKS "while read k v; do [ $k = SigBlk: ] && exit $((1 - (0x$v >> 10 & 1))); done < /proc/self/status; exit 9"

static void a_program_inherits_that_it_is_blocked(void **state)
{
	char *argv[] = { "sh", "-c", SHELL_ASKS, NULL };
	sigset_t old;
	pid_t pid;
	int status;

	for (int blocks = 0; blocks < 2; blocks++) {
		if (blocks)
			block_all(&old);
		pid = fork();
		if (!pid) {
			execv("/bin/sh", argv);
			_exit(8);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), !blocks);
		assert_int_equal(posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), !blocks);
		assert_int_equal(system(SHELL_ASKS), !blocks << 8);
	}
	assert_true(shown_blocked());
	assert_int_equal(says_vmx(), host_can());
	assert_int_equal(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
}

static void *asks_with_all_blocked(void *arg)
{
	sigset_t all, old;

	sigfillset(&all);
	if (pthread_sigmask(SIG_SETMASK, &all, &old) == 0) {
		says_vmx();
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	says_vmx();
	return arg;
}

static int asks_where_arch_prctl_is_forbidden(unsigned flags)
{
	struct sock_filter rules[] = {
		FILTER_NUMBER,
		FILTER_CALL(arch_prctl, SECCOMP_RET_KILL_PROCESS),
		FILTER_EFFECT(SECCOMP_RET_ALLOW),
	};
	pthread_t t;

	if (FILTER_SET(rules, flags))
		return NOT_HERE;
	asks_with_all_blocked(NULL);
	on(SIGUSR1, asks, 0, true);
	raise(SIGUSR1);
	if (pthread_create(&t, NULL, asks_with_all_blocked, NULL) || pthread_join(t, NULL))
		return 0;
	return handled == 1;
}

static int for_itself(void)
{
	return asks_where_arch_prctl_is_forbidden(0);
}

static int for_all(void)
{
	return asks_where_arch_prctl_is_forbidden(SECCOMP_FILTER_FLAG_TSYNC);
}

/* A thread that is not the one that sets the filter: leaves that no one asks for, with and without signals. */
static int asks_later;

static void *asks_unusual_leaves(void *arg)
{
	unsigned a, b, c, d;
	sigset_t all;

	while (!__atomic_load_n(&asks_later, __ATOMIC_ACQUIRE))
		sched_yield();
	sigfillset(&all);
	for (int n = 0; n < 2; n++) {
		for (unsigned leaf = 0; leaf < 0x40; leaf++)
			__cpuid_count(leaf, 5, a, b, c, d);
		__cpuid(0x80000006, a, b, c, d);
		__cpuid(0x12345678, a, b, c, d);
		*(int *)arg += says_vmx();
		pthread_sigmask(SIG_SETMASK, &all, NULL);
	}
	return NULL;
}

static int another_thread_for_all(void)
{
	struct sock_filter rules[] = {
		FILTER_NUMBER,
		FILTER_CALL(arch_prctl, SECCOMP_RET_KILL_PROCESS),
		FILTER_EFFECT(SECCOMP_RET_ALLOW),
	};
	int vmx = 0;
	pthread_t t;

	if (pthread_create(&t, NULL, asks_unusual_leaves, &vmx))
		return 0;
	if (FILTER_SET(rules, SECCOMP_FILTER_FLAG_TSYNC))
		return NOT_HERE;
	__atomic_store_n(&asks_later, 1, __ATOMIC_RELEASE);
	return pthread_join(t, NULL) == 0 && vmx == 2 * host_can();
}

#define HWCAP2_FSGSBASE 2u

/* Of static programs: without WRGSBASE each of their calls is served with arch_prctl(). */
static bool is_served_by_arch_prctl(void)
{
	const char *ways = getenv("USERKVM_TRAP");

	return !getauxval(AT_BASE) && (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE) || (ways && strstr(ways, "arch_prctl")));
}

static void a_confined_program_may_ask(void **state)
{
	if (is_served_by_arch_prctl())
		skip();
	handled = 0;
	in_child(for_itself);
	in_child(for_all);
	in_child(another_thread_for_all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_says_vmx_in_every_thread_and_child),
		cmocka_unit_test(a_handler_that_blocks_every_signal_may_ask),
		cmocka_unit_test(a_handler_of_segv_may_ask_and_jump_out),
		cmocka_unit_test(a_fault_where_segv_is_blocked_ends_the_program),
		cmocka_unit_test(code_that_blocks_every_signal_may_ask),
		cmocka_unit_test(a_sent_segv_waits_until_it_is_open),
		cmocka_unit_test(a_fault_of_code_that_blocks_segv_ends_the_program),
		cmocka_unit_test(threads_and_children_inherit_that_it_is_blocked),
		cmocka_unit_test(a_program_inherits_that_it_is_blocked),
		cmocka_unit_test(a_confined_program_may_ask),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
