/*
 * The table of ioctls: numbers, sizes, kinds, pointers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "abi/internal.h"
#include "host/fault.h"
#include "userkvm/userkvm.h"

static int sys_fd, vm_fd, vcpu_fd;

static int open_all(void **state)
{
	sys_fd = userkvm_open("/dev/kvm", O_RDWR | O_CLOEXEC);
	vm_fd = userkvm_ioctl(sys_fd, KVM_CREATE_VM, 0);
	vcpu_fd = userkvm_ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	return sys_fd < 0 || vm_fd < 0 || vcpu_fd < 0;
}

static int close_all(void **state)
{
	return userkvm_close(vcpu_fd) || userkvm_close(vm_fd) || userkvm_close(sys_fd);
}

/*
 * cmocka puts its own handler on SIGSEGV for each test, as a client may; the
 * library's is put back around what needs it. (Under the preload library the
 * two live together.)
 */
static struct sigaction library_segv, cmocka_segv;

static int guard(void **state)
{
	return sigaction(SIGSEGV, &library_segv, &cmocka_segv);
}

static int unguard(void **state)
{
	return sigaction(SIGSEGV, &cmocka_segv, NULL);
}

static int fd_of(enum abi_kind kind)
{
	return kind == ABI_SYSTEM ? sys_fd : kind == ABI_VM ? vm_fd : vcpu_fd;
}

static const struct abi_row *const tables[] = { abi_system_rows, abi_vm_rows, abi_vcpu_rows };
static const enum abi_kind kinds[] = { ABI_SYSTEM, ABI_VM, ABI_VCPU };

static void every_request_stands_once_in_its_table(void **state)
{
	for (int t = 0; t < 3; t++)
		for (const struct abi_row *a = tables[t]; a->handler; a++)
			for (const struct abi_row *b = a + 1; b->handler; b++)
				assert_true(a->request != b->request);
}

static void every_row_is_of_its_tables_kind_and_of_type_ae(void **state)
{
	for (int t = 0; t < 3; t++)
		for (const struct abi_row *r = tables[t]; r->handler; r++) {
			assert_int_equal(r->kind, kinds[t]);
			assert_int_equal(_IOC_TYPE(r->request), KVMIO);
			assert_true(strncmp(r->name, "KVM_", 4) == 0);
			assert_ptr_equal(abi_find_row(r->kind, r->request), r);
		}
}

static void every_copied_argument_has_a_size_that_fits(void **state)
{
	int copied = 0;

	for (int t = 0; t < 3; t++)
		for (const struct abi_row *r = tables[t]; r->handler; r++) {
			if (!(r->arg & ABI_COPY_INOUT))
				continue;
			assert_in_range(_IOC_SIZE(r->request), 1, ABI_MAX_COPY);
			copied++;
		}
	assert_true(copied > 30);
}

/* The number of an ioctl holds the size: another size is another ioctl. */
static void request_with_another_size_is_unknown(void **state)
{
	struct kvm_regs regs;

	assert_int_equal(userkvm_ioctl(vcpu_fd, _IOR(KVMIO, 0x81, char[8]), (unsigned long)&regs),
			 -1);
	assert_int_equal(errno, EINVAL);
}

static void request_of_another_kind_is_refused_as_linux_does(void **state)
{
	static const int expected[] = { EINVAL, ENOTTY, EINVAL }; /* system, VM, vCPU */

	for (int t = 0; t < 3; t++)
		for (const struct abi_row *r = tables[t]; r->handler; r++)
			for (int k = 0; k < 3; k++) {
				if (abi_find_row(kinds[k], r->request))
					continue;
				errno = 0;
				assert_int_equal(userkvm_ioctl(fd_of(kinds[k]), r->request, 0), -1);
				assert_int_equal(errno, expected[k]);
			}
}

static void request_on_a_foreign_descriptor_gives_enotty(void **state)
{
	int fd = open("/dev/null", O_RDONLY);

	assert_int_equal(userkvm_ioctl(fd, KVM_GET_API_VERSION, 0), -1);
	assert_int_equal(errno, ENOTTY);
	assert_int_equal(userkvm_close(fd), 0);
	assert_int_equal(userkvm_ioctl(fd, KVM_GET_API_VERSION, 0), -1);
	assert_int_equal(errno, EBADF);
}

/* Those that look at something else before the pointer. */
static bool checks_state_first(unsigned long request)
{
	switch (request) {
	case KVM_GET_PIT2: /* ENXIO without a PIT */
	case KVM_GET_LAPIC: /* EINVAL without an APIC */
		return true;
	default:
		return false;
	}
}

static void bad_pointer_gives_efault_for_every_copied_argument(void **state)
{
	void *hole;

	guard(state);
	hole = mmap(NULL, 0x4000, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (int t = 0; t < 3; t++)
		for (const struct abi_row *r = tables[t]; r->handler; r++) {
			if (!(r->arg & ABI_COPY_INOUT) || checks_state_first(r->request))
				continue;
			errno = 0;
			assert_int_equal(userkvm_ioctl(fd_of(kinds[t]), r->request,
						       (unsigned long)hole),
					 -1);
			assert_int_equal(errno, EFAULT);
		}
	munmap(hole, 0x4000);
	unguard(state);
}

static void bad_pointer_gives_efault_for_lists(void **state)
{
	static const struct {
		int *fd;
		unsigned long request;
	} calls[] = {
		{ &sys_fd, KVM_GET_SUPPORTED_CPUID }, { &sys_fd, KVM_GET_EMULATED_CPUID },
		{ &sys_fd, KVM_GET_MSR_INDEX_LIST },  { &sys_fd, KVM_GET_MSR_FEATURE_INDEX_LIST },
		{ &sys_fd, KVM_GET_MSRS },	      { &vcpu_fd, KVM_GET_MSRS },
		{ &vcpu_fd, KVM_SET_MSRS },	      { &vcpu_fd, KVM_SET_CPUID },
		{ &vcpu_fd, KVM_SET_CPUID2 },	      { &vcpu_fd, KVM_GET_CPUID2 },
		{ &vcpu_fd, KVM_SET_SIGNAL_MASK },    { &vm_fd, KVM_SET_GSI_ROUTING },
	};

	guard(state);
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		errno = 0;
		assert_int_equal(userkvm_ioctl(*calls[i].fd, calls[i].request, 8), -1);
		assert_int_equal(errno, EFAULT);
	}
	unguard(state);
}

static void failed_set_regs_changes_nothing(void **state)
{
	struct kvm_regs before, after;

	assert_int_equal(userkvm_ioctl(vcpu_fd, KVM_GET_REGS, (unsigned long)&before), 0);
	guard(state);
	assert_int_equal(userkvm_ioctl(vcpu_fd, KVM_SET_REGS, 16), -1);
	unguard(state);
	assert_int_equal(userkvm_ioctl(vcpu_fd, KVM_GET_REGS, (unsigned long)&after), 0);
	assert_memory_equal(&before, &after, sizeof(before));
}

static void success_leaves_errno_alone(void **state)
{
	errno = ERANGE;
	assert_int_equal(userkvm_ioctl(sys_fd, KVM_GET_API_VERSION, 0), 12);
	assert_int_equal(errno, ERANGE);
}

static void argument_where_none_is_taken_gives_einval(void **state)
{
	assert_int_equal(userkvm_ioctl(sys_fd, KVM_GET_API_VERSION, 1), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(userkvm_ioctl(sys_fd, KVM_GET_VCPU_MMAP_SIZE, 1), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(userkvm_ioctl(vcpu_fd, KVM_RUN, 1), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(userkvm_ioctl(sys_fd, KVM_CREATE_VM, 1), -1);
	assert_int_equal(errno, EINVAL);
}

static void cpuid_list_too_small_gives_e2big(void **state)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[3];
	} list = { .head.nent = 3 };

	assert_int_equal(userkvm_ioctl(sys_fd, KVM_GET_SUPPORTED_CPUID, (unsigned long)&list), -1);
	assert_int_equal(errno, E2BIG);
	assert_int_equal(list.head.nent, 3);
}

static void msr_index_list_too_small_gives_e2big_and_the_number(void **state)
{
	struct kvm_msr_list list = { .nmsrs = 0 };

	assert_int_equal(userkvm_ioctl(sys_fd, KVM_GET_MSR_INDEX_LIST, (unsigned long)&list), -1);
	assert_int_equal(errno, E2BIG);
	assert_in_range(list.nmsrs, 20, 200);
}

static void signal_mask_of_wrong_length_gives_einval(void **state)
{
	struct {
		struct kvm_signal_mask head;
		uint64_t set[16];
	} mask = { .head.len = 128 };

	assert_int_equal(userkvm_ioctl(vcpu_fd, KVM_SET_SIGNAL_MASK, (unsigned long)&mask), -1);
	assert_int_equal(errno, EINVAL);
	mask.head.len = 8;
	assert_int_equal(userkvm_ioctl(vcpu_fd, KVM_SET_SIGNAL_MASK, (unsigned long)&mask), 0);
	assert_int_equal(userkvm_ioctl(vcpu_fd, KVM_SET_SIGNAL_MASK, 0), 0);
}

static void unknown_device_gives_enodev(void **state)
{
	struct kvm_create_device d = { .type = KVM_DEV_TYPE_XICS };

	assert_int_equal(userkvm_ioctl(vm_fd, KVM_CREATE_DEVICE, (unsigned long)&d), -1);
	assert_int_equal(errno, ENODEV);
}

static void supported_xcr0_is_told_and_unknown_attribute_gives_enxio(void **state)
{
	uint64_t xcr0 = 0;
	struct kvm_device_attr a = { .attr = KVM_X86_XCOMP_GUEST_SUPP,
				     .addr = (uintptr_t)&xcr0 };

	assert_int_equal(userkvm_ioctl(sys_fd, KVM_GET_DEVICE_ATTR, (unsigned long)&a), 0);
	assert_int_equal(xcr0 & 3, 3);
	a.attr = 99;
	assert_int_equal(userkvm_ioctl(sys_fd, KVM_HAS_DEVICE_ATTR, (unsigned long)&a), -1);
	assert_int_equal(errno, ENXIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_request_stands_once_in_its_table),
		cmocka_unit_test(every_row_is_of_its_tables_kind_and_of_type_ae),
		cmocka_unit_test(every_copied_argument_has_a_size_that_fits),
		cmocka_unit_test(request_with_another_size_is_unknown),
		cmocka_unit_test(request_of_another_kind_is_refused_as_linux_does),
		cmocka_unit_test(request_on_a_foreign_descriptor_gives_enotty),
		cmocka_unit_test(bad_pointer_gives_efault_for_every_copied_argument),
		cmocka_unit_test(bad_pointer_gives_efault_for_lists),
		cmocka_unit_test(failed_set_regs_changes_nothing),
		cmocka_unit_test(success_leaves_errno_alone),
		cmocka_unit_test(argument_where_none_is_taken_gives_einval),
		cmocka_unit_test(cpuid_list_too_small_gives_e2big),
		cmocka_unit_test(msr_index_list_too_small_gives_e2big_and_the_number),
		cmocka_unit_test(signal_mask_of_wrong_length_gives_einval),
		cmocka_unit_test(unknown_device_gives_enodev),
		cmocka_unit_test(supported_xcr0_is_told_and_unknown_attribute_gives_enxio),
	};

	if (host_fault_init() || sigaction(SIGSEGV, NULL, &library_segv))
		return 1;
	return cmocka_run_group_tests(tests, open_all, close_all);
}
