/*
 * Children that share their parent's memory: of vfork(), of clone(CLONE_VM), of posix_spawn(). They have
 * descriptors and signal actions of their own, and whatever they do to them the parent goes on as before.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "client.h"
#include "guest_code.h"

#define LAST_FD 64

GUEST_CODE(says_hello, 16, "mov $0x42, %al; out %al, $0x99; hlt");

extern char **environ;
static volatile sig_atomic_t handled;

static void count(int signo)
{
	handled++;
}

static struct client c;

static void open_client(void)
{
	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	handled = 0;
	signal(SIGUSR1, count);
	signal(SIGSEGV, count);
}

/* All that the library knows of: descriptors, the handlers of both kinds, a run. */
static void client_goes_on(void)
{
	struct stat st;

	assert_int_equal(ioctl(c.kvm, KVM_GET_API_VERSION, 0), 12);
	assert_int_equal(fstat(c.kvm, &st), 0);
	assert_true(S_ISCHR(st.st_mode));
	assert_int_equal(ioctl(c.vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), 1);
	client_real_mode(&c, 0x1000, says_hello, GUEST_CODE_SIZE(says_hello));
	assert_int_equal(ioctl(c.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(c.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(handled, 0);
	raise(SIGUSR1);
	assert_int_equal(handled, 1);
	raise(SIGSEGV);
	assert_int_equal(handled, 2);
	client_close(&c);
}

/* What a shell or a debugger does between vfork() and exec. */
static void reset_everything(void)
{
	struct sigaction old;
	int null = open("/dev/null", O_RDWR);

	dup2(null, c.vcpu);
	if (sigaction(SIGUSR1, NULL, &old) || old.sa_handler != count)
		_exit(3);
	for (int signo = 1; signo < 65; signo++)
		signal(signo, SIG_DFL);
	for (int fd = 3; fd < LAST_FD; fd++)
		close(fd);
	if (sigaction(SIGUSR1, NULL, &old) || old.sa_handler != SIG_DFL)
		_exit(4);
	if (fcntl(c.kvm, F_GETFD) >= 0)
		_exit(5);
}

static void assert_exit(pid_t child, int status)
{
	int st;

	assert_true(child > 0);
	assert_int_equal(waitpid(child, &st, __WALL), child);
	assert_int_equal(st, status << 8);
}

/* A file comes to have that number in a way that the library does not see. */
static void number_is_free(int number)
{
	int root = open("/", O_RDONLY | O_DIRECTORY);
	struct stat st;

	assert_int_equal(syscall(SYS_dup2, root, number), number);
	assert_int_equal(fstat(number, &st), 0);
	assert_true(S_ISDIR(st.st_mode));
	close(number);
	if (number != root)
		close(root);
}

static void child_of_vfork_closes_and_resets_its_own_only(void **state)
{
	pid_t child;

	open_client();
	child = vfork();
	if (child == 0) {
		reset_everything();
		execl("/bin/true", "true", (char *)NULL);
		_exit(9);
	}
	assert_exit(child, 0);
	client_goes_on();
}

static void descriptors_that_the_child_puts_elsewhere_are_not_the_parents(void **state)
{
	const int number = LAST_FD;
	struct stat st;
	pid_t child;

	open_client();
	child = vfork();
	if (child == 0) {
		if (fcntl(c.kvm, F_DUPFD, number) != number || dup2(c.vm, number + 1) != number + 1)
			_exit(3);
		close_range(3, ~0U, 0);
		/* a file under a number of the library's is a file */
		if (open("/", O_RDONLY | O_DIRECTORY) != 3 || dup2(3, c.kvm) != c.kvm || fstat(c.kvm, &st) ||
		    !S_ISDIR(st.st_mode))
			_exit(4);
		_exit(0);
	}
	assert_exit(child, 0);
	number_is_free(number);
	number_is_free(number + 1);
	client_goes_on();
}

static void child_that_opens_a_kvm_of_its_own_leaves_the_number_to_its_parent(void **state)
{
	static volatile int number;
	pid_t child;

	open_client();
	child = vfork();
	if (child == 0) {
		/* past the numbers that other threads are about to give away */
		do
			number = open("/dev/kvm", O_RDWR);
		while (number >= 0 && number < LAST_FD / 2);
		if (number < 0 || ioctl(number, KVM_GET_API_VERSION, 0) != 12)
			_exit(3);
		_exit(0);
	}
	assert_exit(child, 0);
	number_is_free(number);
	client_goes_on();
}

static void grandchild_is_on_its_own_again(void **state)
{
	pid_t child;

	open_client();
	child = fork();
	if (child == 0) {
		int fd = open("/dev/kvm", O_RDWR), st;
		pid_t inner = vfork();

		if (inner == 0) {
			reset_everything();
			close(fd);
			_exit(0);
		}
		waitpid(inner, &st, 0);
		_exit(st == 0 && ioctl(fd, KVM_GET_API_VERSION, 0) == 12 ? 0 : 1);
	}
	assert_exit(child, 0);
	client_goes_on();
}

static void posix_spawn_with_actions_leaves_the_parent(void **state)
{
	posix_spawn_file_actions_t files;
	char *argv[] = { "true", NULL };
	posix_spawnattr_t attr;
	sigset_t all;
	pid_t child;

	open_client();
	sigfillset(&all);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addclose(&files, c.kvm);
	posix_spawn_file_actions_adddup2(&files, 0, c.vcpu);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF);
	assert_int_equal(posix_spawn(&child, "/bin/true", &files, &attr, argv, environ), 0);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	assert_exit(child, 0);
	client_goes_on();
}

static int shares_memory(void *arg)
{
	reset_everything();
	_exit(0);
}

/* The parent runs at the same time. (src/trap refuses such a child.) */
static void child_of_clone_with_shared_memory_is_told_apart(void **state)
{
	static char stack[1 << 16] __attribute__((aligned(16)));
	pid_t child;

	open_client();
	child = clone(shares_memory, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL);
	if (child < 0 && errno == EINVAL) {
		client_close(&c);
		skip();
	}
	assert_exit(child, 0);
	client_goes_on();
}

static void resethand_of_the_child_is_the_childs(void **state)
{
	struct sigaction act = { .sa_handler = count, .sa_flags = (int)SA_RESETHAND }, old;
	pid_t child;

	open_client();
	sigaction(SIGUSR1, &act, NULL);
	child = vfork();
	if (child == 0) {
		raise(SIGUSR1);
		_exit(sigaction(SIGUSR1, NULL, &old) || old.sa_handler != SIG_DFL);
	}
	assert_exit(child, 0);
	assert_int_equal(handled, 1);
	assert_int_equal(sigaction(SIGUSR1, NULL, &old), 0);
	assert_ptr_equal(old.sa_handler, count);
	handled = 0;
	client_goes_on();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(child_of_vfork_closes_and_resets_its_own_only),
		cmocka_unit_test(descriptors_that_the_child_puts_elsewhere_are_not_the_parents),
		cmocka_unit_test(child_that_opens_a_kvm_of_its_own_leaves_the_number_to_its_parent),
		cmocka_unit_test(grandchild_is_on_its_own_again),
		cmocka_unit_test(posix_spawn_with_actions_leaves_the_parent),
		cmocka_unit_test(child_of_clone_with_shared_memory_is_told_apart),
		cmocka_unit_test(resethand_of_the_child_is_the_childs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
