/*
 * A process ends with its last thread, in whatever way that ends. Each case is a child that has VMs, and all
 * that makes the library start threads of its own.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "client.h"
#include "filter.h"
#include "guest_code.h"

#define LOST_S 20

GUEST_CODE(says_hello, 16, "mov $0x42, %al; out %al, $0x99; hlt");

static void run_once(void)
{
	static struct client c;
	struct kvm_irqfd irqfd = { .gsi = 4 };

	client_open_vm(&c, 1 << 20);
	assert_int_equal(ioctl(c.vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(&c);
	irqfd.fd = (uint32_t)eventfd(0, EFD_NONBLOCK);
	assert_int_equal(ioctl(c.vm, KVM_IRQFD, &irqfd), 0);
	client_real_mode(&c, 0x1000, says_hello, GUEST_CODE_SIZE(says_hello));
	assert_int_equal(ioctl(c.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(c.run->exit_reason, KVM_EXIT_IO);
}

static void *vcpu_thread(void *arg)
{
	run_once();
	return NULL;
}

/* The status of a child that does this; LOST_S later it is killed by SIGKILL, the only way in the worst case. */
static int status_of(void (*fn)(void))
{
	const struct timespec pause = { .tv_nsec = 10000000 };
	pid_t child = fork();
	int st, left = LOST_S * 100;

	if (child == 0) {
		fn();
		_exit(99);
	}
	while (waitpid(child, &st, WNOHANG) == 0) {
		if (!left--)
			kill(child, SIGKILL);
		nanosleep(&pause, NULL);
	}
	return st;
}

static void in_a_thread(void *(*fn)(void *))
{
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, fn, NULL), 0);
}

static int told[2];

static void tell(void)
{
	(void)!write(told[1], "x", 1);
}

static void leave_to_vcpu_thread(void)
{
	atexit(tell);
	in_a_thread(vcpu_thread);
	pthread_exit(NULL);
}

static void main_thread_that_exits_leaves_the_end_to_the_vcpu_thread(void **state)
{
	char c;

	assert_int_equal(pipe2(told, O_NONBLOCK), 0);
	assert_int_equal(status_of(leave_to_vcpu_thread), 0);
	assert_int_equal(read(told[0], &c, 1), 1); /* by exit(3), as the C library has it */
	close(told[0]);
	close(told[1]);
}

static void *slow_thread(void *arg)
{
	const struct timespec a_while = { .tv_nsec = 700000000 };

	nanosleep(&a_while, NULL);
	_exit(5);
}

static void leave_to_slow_thread(void)
{
	run_once();
	in_a_thread(slow_thread);
	pthread_exit(NULL);
}

static void thread_that_knows_nothing_of_kvm_keeps_the_process(void **state)
{
	assert_int_equal(status_of(leave_to_slow_thread), 5 << 8);
}

static void exit_alone(void)
{
	run_once();
	syscall(SYS_exit, 3);
}

static void status_is_the_main_threads(void **state)
{
	assert_int_equal(status_of(exit_alone), 3 << 8);
}

/* seccomp(2): getppid() ends the thread. */
static void forbid_getppid(unsigned flags)
{
	struct sock_filter code[] = {
		FILTER_NUMBER,
		FILTER_CALL(getppid, SECCOMP_RET_KILL_THREAD),
		FILTER_EFFECT(SECCOMP_RET_ALLOW),
	};

	assert_int_equal(FILTER_SET(code, flags), 0);
}

static void be_killed(void)
{
	run_once();
	forbid_getppid(0);
	syscall(SYS_getppid);
}

static void be_killed_for_all_threads(void)
{
	run_once();
	forbid_getppid(SECCOMP_FILTER_FLAG_TSYNC);
	syscall(SYS_getppid);
}

static void last_thread_killed_by_a_filter_ends_the_process(void **state)
{
	int st = status_of(be_killed);

	assert_true(WIFSIGNALED(st));
	assert_int_equal(WTERMSIG(st), SIGSYS);
	st = status_of(be_killed_for_all_threads);
	assert_true(WIFSIGNALED(st));
	assert_int_equal(WTERMSIG(st), SIGSYS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(main_thread_that_exits_leaves_the_end_to_the_vcpu_thread),
		cmocka_unit_test(thread_that_knows_nothing_of_kvm_keeps_the_process),
		cmocka_unit_test(status_is_the_main_threads),
		cmocka_unit_test(last_thread_killed_by_a_filter_ends_the_process),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
