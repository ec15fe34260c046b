/*
 * The hypervisor's accesses to guest memory: across slots, read-only slots,
 * holes, memory the client took away, dirty bits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "host/fault.h"
#include "virt/kvm.h"

static struct kvm *vm;
static char *mem;

static int setup(void **state)
{
	struct kvm_userspace_memory_region m[] = {
		{ 0, KVM_MEM_LOG_DIRTY_PAGES, 0x1000, 0x2000, 0 },
		{ 1, 0, 0x3000, 0x1000, 0 },
		{ 2, KVM_MEM_READONLY, 0x4000, 0x1000, 0 },
	};
	size_t i;

	mem = mmap(NULL, 0x5000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_int_equal(host_fault_init(), 0);
	assert_int_equal(kvm_create_vm(&vm), 0);
	for (i = 0; i < 3; i++) {
		m[i].userspace_addr = (uintptr_t)mem + m[i].guest_phys_addr;
		assert_int_equal(kvm_vm_ioctl_set_memory_region(vm, &m[i]), 0);
	}
	return 0;
}

static int teardown(void **state)
{
	kvm_put_kvm(vm);
	munmap(mem, 0x5000);
	return 0;
}

static void write_across_slots_arrives_and_marks_logged_pages(void **state)
{
	char out[0x1800], in[0x1800];

	memset(out, 0x5a, sizeof(out));
	assert_int_equal(kvm_write_guest(vm, 0, 0x2400, out, sizeof(out)), 0);
	assert_int_equal(mem[0x2400], 0x5a);
	assert_int_equal(mem[0x3bff], 0x5a);
	assert_int_equal(mem[0x3c00], 0);
	assert_int_equal(kvm_read_guest(vm, 0, 0x2400, in, sizeof(in)), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(id_to_memslot(__kvm_memslots(vm, 0), 0)->dirty_bitmap[0], 2);
}

static void hole_and_readonly_slot_give_efault(void **state)
{
	uint64_t v = 0;

	assert_int_equal(kvm_read_guest(vm, 0, 0xffc, &v, 8), -EFAULT);
	assert_int_equal(kvm_read_guest(vm, 0, 0x4000, &v, 8), 0);
	assert_int_equal(kvm_write_guest(vm, 0, 0x4000, &v, 8), -EFAULT);
	assert_int_equal(kvm_read_guest(vm, 1, 0x3000, &v, 8), -EFAULT); /* not SMM's */
	assert_int_equal(kvm_read_guest(vm, 0, 0x4ffc, &v, 8), -EFAULT);
}

static void vanished_memory_gives_efault(void **state)
{
	uint64_t v = 0;

	munmap(mem + 0x3000, 0x1000);
	assert_int_equal(kvm_read_guest(vm, 0, 0x3000, &v, 8), -EFAULT);
	assert_int_equal(kvm_write_guest(vm, 0, 0x3000, &v, 8), -EFAULT);
	assert_int_equal(kvm_write_guest(vm, 0, 0x2ff8, &v, 8), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(write_across_slots_arrives_and_marks_logged_pages),
		T(hole_and_readonly_slot_give_efault),
		T(vanished_memory_gives_efault),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
