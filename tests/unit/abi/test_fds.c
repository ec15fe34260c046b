/*
 * Descriptors: found by inode, alive as long as one of them is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "abi/abi.h"
#include "abi/introspect.h"
#include "userkvm/userkvm.h"

static int open_kvm(void)
{
	int fd = userkvm_open("/dev/kvm", O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void another_path_gives_enoent(void **state)
{
	assert_int_equal(userkvm_open("/dev/null", O_RDWR), -1);
	assert_int_equal(errno, ENOENT);
}

static void close_on_exec_is_as_asked(void **state)
{
	int with = open_kvm(), without = userkvm_open("/dev/kvm", O_RDWR);

	assert_int_equal(fcntl(with, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(without, F_GETFD), 0);
	assert_int_equal(userkvm_close(with), 0);
	assert_int_equal(userkvm_close(without), 0);
}

static void descriptor_copied_behind_our_back_works(void **state)
{
	int fd = open_kvm(), copy = (int)syscall(SYS_dup, fd);

	assert_false(userkvm_is_fd(copy));
	assert_int_equal(userkvm_ioctl(copy, KVM_GET_API_VERSION, 0), 12);
	assert_true(userkvm_is_fd(copy));
	assert_int_equal(userkvm_close(fd), 0);
	assert_int_equal(userkvm_ioctl(copy, KVM_GET_API_VERSION, 0), 12);
	assert_int_equal(userkvm_close(copy), 0);
	assert_int_equal(userkvm_ioctl(copy, KVM_GET_API_VERSION, 0), -1);
	assert_int_equal(errno, EBADF);
}

static void object_outlives_its_first_descriptor_while_an_unseen_copy_is_open(void **state)
{
	int fd = open_kvm(), copy = (int)syscall(SYS_dup, fd);

	assert_int_equal(userkvm_close(fd), 0); /* nobody told the table of the copy */
	assert_int_equal(userkvm_ioctl(copy, KVM_GET_API_VERSION, 0), 12);
	assert_int_equal(userkvm_close(copy), 0);
}

/* Closed last, without ever having been used: the VM goes with it. */
static void object_goes_with_an_unseen_copy_that_is_closed_last(void **state)
{
	struct kvm *vms[4];
	int fd = open_kvm(), vm = userkvm_ioctl(fd, KVM_CREATE_VM, 0), copy = (int)syscall(SYS_dup, vm);

	assert_true(vm >= 0);
	assert_int_equal(userkvm_close(vm), 0);
	assert_int_equal(userkvm_close(copy), 0);
	assert_int_equal(userkvm_close(fd), 0);
	assert_int_equal(abi_vms_get(vms, 4), 0);
}

/* Only -4095..-1 are errors; Linux cuts the number to 32 bits. */
static void values_with_the_sign_bit_come_back(void **state)
{
	int kvm = open_kvm(), vm = userkvm_ioctl(kvm, KVM_CREATE_VM, 0);

	assert_int_equal(userkvm_ioctl(vm, KVM_SET_NR_MMU_PAGES, 63), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(userkvm_ioctl(vm, KVM_SET_NR_MMU_PAGES, 1ul << 63), 0);
	assert_int_equal(userkvm_ioctl(vm, KVM_GET_NR_MMU_PAGES, 0), 0);
	assert_int_equal(userkvm_ioctl(vm, KVM_SET_NR_MMU_PAGES, 0x80000000), 0);
	errno = 0;
	assert_int_equal(userkvm_ioctl(vm, KVM_GET_NR_MMU_PAGES, 0), -2147483648);
	assert_int_equal(errno, 0);
	userkvm_close(vm);
	userkvm_close(kvm);
}

static void number_reused_by_a_foreign_file_is_not_ours(void **state)
{
	int fd = open_kvm(), null = open("/dev/null", O_RDWR);

	assert_int_equal(syscall(SYS_dup2, null, fd), fd);
	abi_fd_duplicated(null, fd);
	assert_false(userkvm_is_fd(fd));
	assert_int_equal(userkvm_ioctl(fd, KVM_GET_API_VERSION, 0), -1);
	assert_int_equal(errno, ENOTTY);
	close(null);
	close(fd);
}

static void vcpu_outlives_its_vm_descriptor(void **state)
{
	int kvm = open_kvm(), vm = userkvm_ioctl(kvm, KVM_CREATE_VM, 0);
	int vcpu = userkvm_ioctl(vm, KVM_CREATE_VCPU, 0);
	struct kvm_regs regs;

	assert_true(vcpu >= 0);
	assert_int_equal(userkvm_close(vm), 0);
	assert_int_equal(userkvm_close(kvm), 0);
	assert_int_equal(userkvm_ioctl(vcpu, KVM_GET_REGS, (unsigned long)&regs), 0);
	assert_int_equal(userkvm_close(vcpu), 0);
}

static void vcpu_id_taken_twice_gives_eexist_and_too_large_einval(void **state)
{
	int kvm = open_kvm(), vm = userkvm_ioctl(kvm, KVM_CREATE_VM, 0);
	int vcpu = userkvm_ioctl(vm, KVM_CREATE_VCPU, 3);

	assert_true(vcpu >= 0);
	assert_int_equal(userkvm_ioctl(vm, KVM_CREATE_VCPU, 3), -1);
	assert_int_equal(errno, EEXIST);
	assert_int_equal(userkvm_ioctl(vm, KVM_CREATE_VCPU, 1 << 20), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(userkvm_close(vcpu), 0);
	assert_int_equal(userkvm_close(vm), 0);
	assert_int_equal(userkvm_close(kvm), 0);
}

static void vcpu_mapping_is_three_pages_of_kvm_run(void **state)
{
	int kvm = open_kvm(), vm = userkvm_ioctl(kvm, KVM_CREATE_VM, 0);
	int vcpu = userkvm_ioctl(vm, KVM_CREATE_VCPU, 0);
	int size = userkvm_ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct kvm_run *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);

	assert_int_equal(size, 3 * 4096);
	assert_true(run != MAP_FAILED);
	run->immediate_exit = 1;
	assert_int_equal(userkvm_ioctl(vcpu, KVM_RUN, 0), -1);
	assert_int_equal(errno, EINTR);
	assert_int_equal(ftruncate(vcpu, 0), -1); /* nobody takes it away */
	run->immediate_exit = 0;
	munmap(run, (size_t)size);
	assert_int_equal(userkvm_close(vcpu), 0);
	assert_int_equal(userkvm_close(vm), 0);
	assert_int_equal(userkvm_close(kvm), 0);
}

static void child_after_fork_gets_eio(void **state)
{
	int kvm = open_kvm(), vm = userkvm_ioctl(kvm, KVM_CREATE_VM, 0), status;
	pid_t pid = fork();

	if (pid == 0) {
		int r = userkvm_ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY);

		_exit(r == -1 && errno == EIO && userkvm_close(vm) == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(userkvm_ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), 1);
	assert_int_equal(userkvm_close(vm), 0);
	assert_int_equal(userkvm_close(kvm), 0);
}

static void hundred_vms_leave_no_descriptor_behind(void **state)
{
	int kvm = open_kvm(), first = -1;

	for (int i = 0; i < 100; i++) {
		int vm = userkvm_ioctl(kvm, KVM_CREATE_VM, 0);
		int vcpu = userkvm_ioctl(vm, KVM_CREATE_VCPU, 0);

		assert_true(vcpu >= 0);
		if (i == 0)
			first = vcpu;
		assert_int_equal(vcpu, first);
		/* In either order. */
		assert_int_equal(userkvm_close(i & 1 ? vm : vcpu), 0);
		assert_int_equal(userkvm_close(i & 1 ? vcpu : vm), 0);
	}
	assert_int_equal(userkvm_close(kvm), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(another_path_gives_enoent),
		cmocka_unit_test(close_on_exec_is_as_asked),
		cmocka_unit_test(descriptor_copied_behind_our_back_works),
		cmocka_unit_test(object_outlives_its_first_descriptor_while_an_unseen_copy_is_open),
		cmocka_unit_test(object_goes_with_an_unseen_copy_that_is_closed_last),
		cmocka_unit_test(values_with_the_sign_bit_come_back),
		cmocka_unit_test(number_reused_by_a_foreign_file_is_not_ours),
		cmocka_unit_test(vcpu_outlives_its_vm_descriptor),
		cmocka_unit_test(vcpu_id_taken_twice_gives_eexist_and_too_large_einval),
		cmocka_unit_test(vcpu_mapping_is_three_pages_of_kvm_run),
		cmocka_unit_test(child_after_fork_gets_eio),
		cmocka_unit_test(hundred_vms_leave_no_descriptor_behind),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
