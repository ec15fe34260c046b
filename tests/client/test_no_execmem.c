/*
 * Hosts that keep a process from gaining executable memory: served where that is
 * possible, refused at KVM_CREATE_VM where not, and nothing asked for later.
 */
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "client.h"
#include "filter.h"
#include "guest_code.h"
#include "paging.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#endif

/* A sum that SSE makes, out to port 98h. */
GUEST_CODE(sse_sum, 32,
	   "mov $3, %eax; movd %eax, %xmm0; mov $4, %eax; movd %eax, %xmm1; paddd %xmm1, %xmm0\n"
	   "movd %xmm0, %eax; out %al, $0x98");

static void open_guest(struct client *c)
{
	struct kvm_sregs s;

	client_open_vm(c, 2 << 20);
	client_add_vcpu(c);
	client_flat_mode(c, AT_CODE, sse_sum, GUEST_CODE_SIZE(sse_sum));
	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	s.cr4 |= 0x200; /* OSFXSR */
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
}

static int sum_is_right(struct client *c)
{
	assert_int_equal(client_next_out(c), 0x98);
	return (uint8_t)client_regs(c).rax == 7;
}

/* PROT_EXEC in mmap() or mprotect() has this effect from now on, on this thread. */
static int filter_exec(uint32_t effect)
{
	struct sock_filter f[] = {
		FILTER_NUMBER,
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 0, 3),
		FILTER_ARGUMENT(2),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 1),
		FILTER_EFFECT(effect),
		FILTER_EFFECT(SECCOMP_RET_ALLOW),
	};

	return FILTER_SET(f, 0);
}

static int under_mdwe(void)
{
	struct client c;

	if (prctl(PR_SET_MDWE, 1, 0, 0, 0))
		return NOT_HERE;
	open_guest(&c);
	return sum_is_right(&c);
}

static void guests_run_where_no_mapping_may_gain_exec_rights(void **state)
{
	in_child(under_mdwe);
}

/*
 * SELinux without execmem: what is mapped executable has a file behind it. SysV segments, which the
 * kernel counts as none, are refused too.
 */
static int filter_exec_without_file(void)
{
	struct sock_filter f[] = {
		FILTER_NUMBER,
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_shmat, 5, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 5),
		FILTER_ARGUMENT(2),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 3),
		FILTER_ARGUMENT(3),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, MAP_ANONYMOUS, 0, 1),
		FILTER_EFFECT(SECCOMP_RET_ERRNO | EACCES),
		FILTER_EFFECT(SECCOMP_RET_ALLOW),
	};

	return FILTER_SET(f, 0);
}

static int with_files_alone(void)
{
	struct client c;

	if (filter_exec_without_file())
		return NOT_HERE;
	open_guest(&c);
	return sum_is_right(&c);
}

static void guests_run_where_only_files_are_executable(void **state)
{
	in_child(with_files_alone);
}

/* A file larger than the limit would end the client by SIGXFSZ. */
static int with_files_too_small(void)
{
	int kvm = open("/dev/kvm", O_RDWR);

	if (setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 1024, 1024 }) || filter_exec_without_file())
		return NOT_HERE;
	return ioctl(kvm, KVM_CREATE_VM, 0) < 0 && errno == EFBIG;
}

static void a_file_too_large_for_the_process_is_refused(void **state)
{
	in_child(with_files_too_small);
}

static int all_refused(void)
{
	int kvm = open("/dev/kvm", O_RDWR);

	if (filter_exec(SECCOMP_RET_ERRNO | EPERM))
		return NOT_HERE;
	return ioctl(kvm, KVM_CREATE_VM, 0) < 0 && errno == EPERM;
}

static void without_executable_memory_there_is_no_vm(void **state)
{
	in_child(all_refused);
}

static int refused_once_created(void)
{
	struct client c;

	open_guest(&c);
	if (filter_exec(SECCOMP_RET_KILL_PROCESS))
		return NOT_HERE;
	return sum_is_right(&c);
}

static void a_vcpu_thread_asks_for_no_executable_memory(void **state)
{
	in_child(refused_once_created);
}

static void no_page_is_writable_and_executable(void **state)
{
	char line[512], perms[8];
	unsigned nr = 0;
	struct client c;
	FILE *f;

	open_guest(&c);
	assert_true(sum_is_right(&c));
	f = fopen("/proc/self/maps", "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		assert_int_equal(sscanf(line, "%*x-%*x %7s", perms), 1);
		nr++;
		if (perms[1] == 'w')
			assert_int_not_equal(perms[2], 'x');
	}
	fclose(f);
	assert_true(nr > 10);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(guests_run_where_no_mapping_may_gain_exec_rights),
		cmocka_unit_test(guests_run_where_only_files_are_executable),
		cmocka_unit_test(a_file_too_large_for_the_process_is_refused),
		cmocka_unit_test(without_executable_memory_there_is_no_vm),
		cmocka_unit_test(a_vcpu_thread_asks_for_no_executable_memory),
		cmocka_unit_test(no_page_is_writable_and_executable),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
