/*
 * A guest whose CPUID says 52 bits of guest-physical address, with memory, page
 * tables and devices beyond the 48 that four levels of EPT reach.
 */
#include "guest_code.h"
#include "paging.h"

#define HIGH (1ULL << 50)
#define DEVICE (1ULL << 51)
#define VA 0x200000 /* HIGH; the next page is the table itself, the one after it the device */
#define PAGE 0x1000

static struct client c;
static uint64_t *high;

GUEST_CODE(visit, 64, "movl $0x11223344, 0x200000\n"
		      "mov 0x200004, %eax\n"
		      "mov 0x201008, %rbx\n"
		      "out %al, $0x42\n"
		      "movb $0x77, 0x202003\n"
		      "mov 0x202010, %ecx\n"
		      "out %al, $0x43\n"
		      "1: jmp 1b");

static void set_address_bits(unsigned bits)
{
	struct {
		struct kvm_cpuid2 h;
		struct kvm_cpuid_entry2 e[256];
	} cpuid = {.h.nent = 256};
	bool found = false;

	assert_int_equal(ioctl(c.vcpu, KVM_GET_CPUID2, &cpuid), 0);
	for (unsigned i = 0; i < cpuid.h.nent; i++)
		if (cpuid.e[i].function == 0x80000008) {
			cpuid.e[i].eax = (cpuid.e[i].eax & ~0xffu) | bits;
			found = true;
		}
	assert_true(found);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_CPUID2, &cpuid), 0);
}

static void open_guest(void)
{
	client_open_vm(&c, 2 << 20);
	client_add_vcpu(&c);
	high = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(high != MAP_FAILED);
	client_slot(&c, 1, 0, HIGH, high, 2 * PAGE);
	paging_start(&c, PAGING_LONG, 0, 0, 0, 0);
	memcpy(c.mem + AT_CODE, visit, GUEST_CODE_SIZE(visit));
	((uint64_t *)(c.mem + 0x12000))[VA >> 21] = (HIGH + PAGE) | PG_ALL;
	high[0] = 0x5566778800000000;
	high[PAGE / 8 + 0] = HIGH | PG_ALL;
	high[PAGE / 8 + 1] = (HIGH + PAGE) | PG_ALL;
	high[PAGE / 8 + 2] = DEVICE | PG_ALL;
	set_address_bits(52);
}

static void close_guest(void)
{
	munmap(high, 2 * PAGE);
	client_close(&c);
}

static void memory_tables_and_devices_beyond_48_bits_are_reached(void **state)
{
	open_guest();
	assert_int_equal(client_next_out(&c), 0x42);
	assert_int_equal(*(uint32_t *)high, 0x11223344);
	assert_int_equal(client_regs(&c).rax, 0x55667788);
	assert_int_equal(client_regs(&c).rbx & ~(uint64_t)(PG_A | PG_D), (HIGH + PAGE) | PG_ALL);
	assert_run_exits(&c, KVM_EXIT_MMIO);
	assert_int_equal(c.run->mmio.phys_addr, DEVICE + 3);
	assert_true(c.run->mmio.is_write);
	assert_int_equal(c.run->mmio.data[0], 0x77);
	assert_run_exits(&c, KVM_EXIT_MMIO);
	assert_int_equal(c.run->mmio.phys_addr, DEVICE + 0x10);
	assert_false(c.run->mmio.is_write);
	memset(c.run->mmio.data, 0x12, 8);
	assert_int_equal(client_next_out(&c), 0x43);
	assert_int_equal(client_regs(&c).rcx, 0x12121212);
	close_guest();
}

static void writes_up_there_are_in_the_dirty_log(void **state)
{
	uint64_t bits = 0;
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = &bits};

	open_guest();
	client_slot(&c, 1, KVM_MEM_LOG_DIRTY_PAGES, HIGH, high, 2 * PAGE);
	assert_int_equal(client_next_out(&c), 0x42);
	assert_int_equal(ioctl(c.vm, KVM_GET_DIRTY_LOG, &log), 0);
	assert_int_equal(bits, 3); /* the table's accessed bits too */
	close_guest();
}

static void slots_end_at_52_bits(void **state)
{
	struct kvm_userspace_memory_region r = {.slot = 2, .memory_size = 2 * PAGE};

	open_guest();
	r.userspace_addr = (uintptr_t)high;
	r.guest_phys_addr = (1ULL << 52) - PAGE;
	assert_fails(ioctl(c.vm, KVM_SET_USER_MEMORY_REGION, &r), EINVAL);
	r.guest_phys_addr -= PAGE;
	assert_int_equal(ioctl(c.vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	close_guest();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_tables_and_devices_beyond_48_bits_are_reached),
		cmocka_unit_test(writes_up_there_are_in_the_dirty_log),
		cmocka_unit_test(slots_end_at_52_bits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
