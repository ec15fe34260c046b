/*
 * Children that share their parent's memory: of vfork(), of clone(CLONE_VM), of posix_spawn(). They have
 * descriptors and signal actions of their own, and whatever they do to them the parent goes on as before.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "client.h"
#include "guest_code.h"

#define LAST_FD 64
#define SOME_FDS 1024

GUEST_CODE(says_hello, 16, "mov $0x42, %al; out %al, $0x99; hlt");

extern char **environ;
static volatile sig_atomic_t handled;

static void count(int signo)
{
	handled++;
}

static struct client c;
static int child_tid;

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

/* --- children that run beside their parent --- */

static pid_t beside(int (*fn)(void *), int flags)
{
	static char stack[1 << 16] __attribute__((aligned(16)));

	return clone(fn, stack + sizeof(stack), CLONE_VM | SIGCHLD | flags, NULL, &child_tid, NULL, &child_tid);
}

static int resets_everything(void *arg)
{
	reset_everything();
	_exit(0);
}

static void child_of_clone_with_shared_memory_is_told_apart(void **state)
{
	open_client();
	assert_exit(beside(resets_everything, 0), 0);
	client_goes_on();
}

static int runs_the_guest(void *arg)
{
	_exit(ioctl(c.vcpu, KVM_RUN, 0) || c.run->exit_reason != KVM_EXIT_IO || c.run->io.port != 0x99);
}

static void the_vm_is_of_the_memory_and_the_child_runs_it(void **state)
{
	open_client();
	client_real_mode(&c, 0x1000, says_hello, GUEST_CODE_SIZE(says_hello));
	assert_exit(beside(runs_the_guest, 0), 0);
	client_goes_on();
}

GUEST_CODE(says_hello_again, 16, "1: mov $0x42, %al; out %al, $0x99; jmp 1b");

#define ROUNDS 2000

static int runs_again(int vcpu, const struct kvm_run *run)
{
	for (int n = 0; n < ROUNDS; n++)
		if (ioctl(vcpu, KVM_RUN, 0) || run->exit_reason != KVM_EXIT_IO)
			return 1;
	return 0;
}

static int second_vcpu;
static struct kvm_run *second_run;

static int runs_the_second(void *arg)
{
	_exit(runs_again(second_vcpu, second_run));
}

static void parent_and_child_run_at_once(void **state)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	pid_t child;

	/* Elsewhere they have the C library's thread-local data in common, as without the library. */
	if (getauxval(AT_BASE))
		skip();
	open_client();
	client_real_mode(&c, 0x1000, says_hello_again, GUEST_CODE_SIZE(says_hello_again));
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &sregs), 0);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_REGS, &regs), 0);
	second_vcpu = ioctl(c.vm, KVM_CREATE_VCPU, 1);
	assert_true(second_vcpu >= 0);
	second_run = mmap(NULL, c.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, second_vcpu, 0);
	assert_true(second_run != MAP_FAILED);
	assert_int_equal(ioctl(second_vcpu, KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(ioctl(second_vcpu, KVM_SET_REGS, &regs), 0);
	child = beside(runs_the_second, 0);
	assert_int_equal(runs_again(c.vcpu, c.run), 0);
	assert_exit(child, 0);
	munmap(second_run, c.run_size);
	close(second_vcpu);
	client_goes_on();
}

static int closes_all(void *arg)
{
	close(c.vcpu);
	for (int fd = 3; fd < SOME_FDS; fd++)
		close(fd);
	_exit(0);
}

/* What the two have in common is closed for both; of the library's own nothing is. */
static void child_with_the_same_descriptors_closes_its_parents(void **state)
{
	int numbers[3];

	open_client();
	memcpy(numbers, (int[]){ c.kvm, c.vm, c.vcpu }, sizeof(numbers));
	assert_exit(beside(closes_all, CLONE_FILES), 0);
	for (int i = 0; i < 3; i++)
		assert_true(fcntl(numbers[i], F_GETFD) < 0 && errno == EBADF);
	number_is_free(c.vm);
	open_client();
	client_goes_on();
}

static int takes_the_signal(void *arg)
{
	signal(SIGUSR2, count);
	_exit(0);
}

static void child_with_the_same_actions_changes_its_parents(void **state)
{
	struct sigaction act;

	open_client();
	signal(SIGUSR2, SIG_IGN);
	assert_exit(beside(takes_the_signal, 0), 0);
	assert_int_equal(sigaction(SIGUSR2, NULL, &act), 0);
	assert_ptr_equal(act.sa_handler, SIG_IGN);
	assert_exit(beside(takes_the_signal, CLONE_SIGHAND), 0);
	assert_int_equal(sigaction(SIGUSR2, NULL, &act), 0);
	assert_ptr_equal(act.sa_handler, count);
	raise(SIGUSR2);
	assert_int_equal(handled, 1);
	signal(SIGUSR2, SIG_DFL);
	handled = 0;
	client_goes_on();
}

static int has_its_tid(void *arg)
{
	_exit(child_tid != (int)syscall(SYS_gettid));
}

static int another_word;

static int names_another_word(void *arg)
{
	another_word = (int)syscall(SYS_gettid);
	_exit(syscall(SYS_set_tid_address, &another_word) != another_word);
}

static void wait_until_clear(int *word)
{
	int tid;

	while ((tid = __atomic_load_n(word, __ATOMIC_ACQUIRE)))
		syscall(SYS_futex, word, FUTEX_WAIT, tid, NULL);
}

static void the_word_at_a_childs_end_is_cleared(void **state)
{
	pid_t child;

	open_client();
	child = beside(has_its_tid, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID);
	wait_until_clear(&child_tid);
	assert_exit(child, 0);
	another_word = 1;
	child = beside(names_another_word, 0);
	wait_until_clear(&another_word);
	assert_exit(child, 0);
	client_goes_on();
}

static int nr_threads(void)
{
	int n = 0;
	DIR *d = opendir("/proc/self/task");

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static int waits(void *arg)
{
	while (pause()) /* it is killed */
		;
	_exit(1);
}

static void killed_children_leave_nothing(void **state)
{
	int before, st;
	pid_t child;

	open_client();
	before = nr_threads();
	for (int n = 0; n < 20; n++) {
		child = beside(waits, 0);
		assert_true(child > 0);
		assert_int_equal(kill(child, SIGKILL), 0);
		assert_int_equal(waitpid(child, &st, __WALL), child);
		assert_true(WIFSIGNALED(st) && WTERMSIG(st) == SIGKILL);
	}
	while (nr_threads() > before) /* the test's time is limited */
		usleep(1000);
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
		cmocka_unit_test(the_vm_is_of_the_memory_and_the_child_runs_it),
		cmocka_unit_test(parent_and_child_run_at_once),
		cmocka_unit_test(child_with_the_same_descriptors_closes_its_parents),
		cmocka_unit_test(child_with_the_same_actions_changes_its_parents),
		cmocka_unit_test(the_word_at_a_childs_end_is_cleared),
		cmocka_unit_test(killed_children_leave_nothing),
		cmocka_unit_test(resethand_of_the_child_is_the_childs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
