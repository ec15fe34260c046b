/*
 * MMIO by every road: SSE moves, locked operations, accesses that cross a page,
 * accesses that are half memory and half device.
 */
#include "client.h"
#include "guest_code.h"

#define DEVICE 0xd0000000u

static void open_guest(struct client *c, const uint8_t *code, size_t n)
{
	struct kvm_sregs s;
	struct kvm_regs r;

	client_open_vm(c, 1 << 20);
	client_add_vcpu(c);
	client_flat_mode(c, 0x1000, code, n);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	s.cr4 |= 1u << 9; /* OSFXSR */
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
	r = client_regs(c);
	r.rdi = DEVICE;
	r.rsi = 0x2000;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
}

static void expect_write(struct client *c, uint64_t gpa, const void *data, uint32_t len)
{
	assert_run_exits(c, KVM_EXIT_MMIO);
	assert_int_equal(c->run->mmio.is_write, 1);
	assert_int_equal(c->run->mmio.phys_addr, gpa);
	assert_int_equal(c->run->mmio.len, len);
	assert_memory_equal(c->run->mmio.data, data, len);
}

static void serve_read(struct client *c, uint64_t gpa, const void *data, uint32_t len)
{
	assert_run_exits(c, KVM_EXIT_MMIO);
	assert_int_equal(c->run->mmio.is_write, 0);
	assert_int_equal(c->run->mmio.phys_addr, gpa);
	assert_int_equal(c->run->mmio.len, len);
	memcpy(c->run->mmio.data, data, len);
}

GUEST_CODE(sse_store, 32, "movups (%esi), %xmm3; movups %xmm3, (%edi); hlt");

static void sse_store_is_two_writes_of_eight_bytes(void **state)
{
	struct client c;

	open_guest(&c, sse_store, GUEST_CODE_SIZE(sse_store));
	memcpy(c.mem + 0x2000, "0123456789abcdef", 16);
	expect_write(&c, DEVICE, "01234567", 8);
	expect_write(&c, DEVICE + 8, "89abcdef", 8);
	assert_run_exits(&c, KVM_EXIT_HLT);
	client_close(&c);
}

GUEST_CODE(sse_load, 32, "movdqa (%edi), %xmm5; movups %xmm5, (%esi); hlt");

static void sse_load_is_two_reads_of_eight_bytes(void **state)
{
	struct client c;

	open_guest(&c, sse_load, GUEST_CODE_SIZE(sse_load));
	serve_read(&c, DEVICE, "ABCDEFGH", 8);
	serve_read(&c, DEVICE + 8, "IJKLMNOP", 8);
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_memory_equal(c.mem + 0x2000, "ABCDEFGHIJKLMNOP", 16);
	client_close(&c);
}

GUEST_CODE(locked_add, 32, "movl $5, %eax; lock xaddl %eax, (%edi); hlt");

static void locked_add_reads_then_writes_the_device(void **state)
{
	struct client c;

	open_guest(&c, locked_add, GUEST_CODE_SIZE(locked_add));
	serve_read(&c, DEVICE, "\x0a\0\0\0", 4);
	expect_write(&c, DEVICE, "\x0f\0\0\0", 4);
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_int_equal(client_regs(&c).rax, 10);
	client_close(&c);
}

GUEST_CODE(locked_or, 32, "lock orl $0x80, (%edi); hlt");

static void locked_or_reads_then_writes_the_device(void **state)
{
	struct client c;

	open_guest(&c, locked_or, GUEST_CODE_SIZE(locked_or));
	serve_read(&c, DEVICE, "\x01\0\0\0", 4);
	expect_write(&c, DEVICE, "\x81\0\0\0", 4);
	assert_run_exits(&c, KVM_EXIT_HLT);
	client_close(&c);
}

GUEST_CODE(exchange, 32, "movl $0x11223344, %ebx; xchgl %ebx, (%edi); hlt");

static void exchange_reads_then_writes_the_device(void **state)
{
	struct client c;

	open_guest(&c, exchange, GUEST_CODE_SIZE(exchange));
	serve_read(&c, DEVICE, "\xef\xbe\xad\xde", 4);
	expect_write(&c, DEVICE, "\x44\x33\x22\x11", 4);
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_int_equal(client_regs(&c).rbx, 0xdeadbeef);
	client_close(&c);
}

GUEST_CODE(crossing, 32, "movl $0x44332211, 0xffe(%edi); movl 0xffd(%edi), %ebx; hlt");

static void access_across_two_device_pages_is_two_exits(void **state)
{
	struct client c;

	open_guest(&c, crossing, GUEST_CODE_SIZE(crossing));
	expect_write(&c, DEVICE + 0xffe, "\x11\x22", 2);
	expect_write(&c, DEVICE + 0x1000, "\x33\x44", 2);
	serve_read(&c, DEVICE + 0xffd, "\xaa\xbb\xcc", 3);
	serve_read(&c, DEVICE + 0x1000, "\xdd", 1);
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_int_equal(client_regs(&c).rbx, 0xddccbbaa);
	client_close(&c);
}

GUEST_CODE(half, 32, "movl $0x44332211, 0xffffe; movl 0xffffd, %ebx; hlt");

/* The last bytes of the slot are memory, what follows is a device. */
static void access_half_memory_half_device_is_split_between_them(void **state)
{
	struct client c;

	open_guest(&c, half, GUEST_CODE_SIZE(half));
	c.mem[0xffffd] = 0x99;
	expect_write(&c, 0x100000, "\x33\x44", 2);
	serve_read(&c, 0x100000, "\x77", 1);
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_memory_equal(c.mem + 0xffffe, "\x11\x22", 2);
	assert_int_equal(client_regs(&c).rbx, 0x77221199);
	client_close(&c);
}

GUEST_CODE(widen, 32, "movzwl 2(%edi), %ebx; movsbl 7(%edi), %ecx; hlt");

static void narrow_loads_extend_into_the_register(void **state)
{
	struct client c;

	open_guest(&c, widen, GUEST_CODE_SIZE(widen));
	serve_read(&c, DEVICE + 2, "\xcd\xab", 2);
	serve_read(&c, DEVICE + 7, "\x80", 1);
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_int_equal(client_regs(&c).rbx, 0xabcd);
	assert_int_equal(client_regs(&c).rcx, 0xffffff80);
	client_close(&c);
}

GUEST_CODE(arithmetic, 32, "movl $3, %eax; addl (%edi), %eax; cmpl $7, 4(%edi); sete %bl; pushl 8(%edi); hlt");

static void arithmetic_and_push_take_their_operand_from_the_device(void **state)
{
	struct client c;

	open_guest(&c, arithmetic, GUEST_CODE_SIZE(arithmetic));
	serve_read(&c, DEVICE, "\x04\0\0\0", 4);
	serve_read(&c, DEVICE + 4, "\x07\0\0\0", 4);
	serve_read(&c, DEVICE + 8, "\x78\x56\x34\x12", 4);
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_int_equal(client_regs(&c).rax, 7);
	assert_int_equal(client_regs(&c).rbx & 0xff, 1);
	assert_memory_equal(c.mem + 0x8000 - 4, "\x78\x56\x34\x12", 4);
	client_close(&c);
}

GUEST_CODE(load, 32, "movl (%edi), %eax; nop; hlt");

/* A load that waits for the client, which sets registers meanwhile. */
static void registers_set_while_a_read_waits_count(void **state)
{
	struct kvm_sregs s;
	struct kvm_regs r;
	struct client c;

	open_guest(&c, load, GUEST_CODE_SIZE(load));
	serve_read(&c, DEVICE, "\xef\xbe\xad\xde", 4);
	r = client_regs(&c);
	r.rcx = 0x1234;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_int_equal(client_regs(&c).rax, 0xdeadbeef);
	assert_int_equal(client_regs(&c).rcx, 0x1234);

	r.rip = 0x1000;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	serve_read(&c, DEVICE, "\xef\xbe\xad\xde", 4);
	r.rip = 0x1002; /* behind it */
	r.rax = 5;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_int_equal(client_regs(&c).rax, 5);

	r.rip = 0x1000;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	serve_read(&c, DEVICE, "\xef\xbe\xad\xde", 4);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	s.ds.base = 0x1000;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SREGS, &s), 0);
	serve_read(&c, DEVICE + 0x1000, "\x01\0\0\0", 4); /* another register of the device */
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_int_equal(client_regs(&c).rax, 1);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sse_store_is_two_writes_of_eight_bytes),
		cmocka_unit_test(sse_load_is_two_reads_of_eight_bytes),
		cmocka_unit_test(locked_add_reads_then_writes_the_device),
		cmocka_unit_test(locked_or_reads_then_writes_the_device),
		cmocka_unit_test(exchange_reads_then_writes_the_device),
		cmocka_unit_test(access_across_two_device_pages_is_two_exits),
		cmocka_unit_test(access_half_memory_half_device_is_split_between_them),
		cmocka_unit_test(narrow_loads_extend_into_the_register),
		cmocka_unit_test(arithmetic_and_push_take_their_operand_from_the_device),
		cmocka_unit_test(registers_set_while_a_read_waits_count),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
