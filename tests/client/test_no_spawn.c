/*
 * A client that may start no other program nor process, as QEMU's `-sandbox on,spawn=deny`, which libvirt asks
 * for: whatever would is the process's end. Opening /dev/kvm and all that follows does none of it.
 */
#include "client.h"
#include "filter.h"
#include "guest_code.h"

#define CLONE_THREAD_FLAG 0x10000

GUEST_CODE(says_hello, 16, "mov $0x42, %al; out %al, $0x99; hlt");

static int forbid_processes(void)
{
	struct sock_filter rules[] = {
		FILTER_NUMBER,
		FILTER_CALL(fork, SECCOMP_RET_KILL_PROCESS),
		FILTER_CALL(vfork, SECCOMP_RET_KILL_PROCESS),
		FILTER_CALL(execve, SECCOMP_RET_KILL_PROCESS),
		FILTER_CALL(execveat, SECCOMP_RET_KILL_PROCESS),
		FILTER_CALL(clone3, SECCOMP_RET_ERRNO | ENOSYS), /* its flags are in memory */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3),
		FILTER_ARGUMENT(0),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD_FLAG, 1, 0),
		FILTER_EFFECT(SECCOMP_RET_KILL_PROCESS),
		FILTER_EFFECT(SECCOMP_RET_ALLOW),
	};

	return FILTER_SET(rules, SECCOMP_FILTER_FLAG_TSYNC);
}

static int runs_a_guest(void)
{
	struct client c;

	if (forbid_processes())
		return NOT_HERE;
	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, says_hello, GUEST_CODE_SIZE(says_hello));
	if (ioctl(c.vcpu, KVM_RUN, 0) || c.run->exit_reason != KVM_EXIT_IO || c.run->io.port != 0x99)
		return 0;
	client_close(&c);
	return 1;
}

static void a_client_that_may_start_no_process_runs_a_guest(void **state)
{
	in_child(runs_a_guest);
}

static void a_fork_ends_it(void **state)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		if (forbid_processes())
			_exit(NOT_HERE);
		_exit(syscall(SYS_fork) < 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_client_that_may_start_no_process_runs_a_guest),
		cmocka_unit_test(a_fork_ends_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
