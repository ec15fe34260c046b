/*
 * The textbook client and its neighbours: real mode, port I/O, MMIO, HLT, and
 * the exits of guests that go wrong.
 */
#include "client.h"

static void real_mode_guest_writes_a_port_and_halts(void **state)
{
	/* mov dx,3f8h; add al,bl; add al,'0'; out dx,al; mov al,10; out dx,al; hlt */
	static const uint8_t code[] = {0xba, 0xf8, 0x03, 0x00, 0xd8, 0x04, '0', 0xee, 0xb0, '\n', 0xee, 0xf4};
	struct client c;
	struct kvm_regs r;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	r = client_regs(&c);
	r.rax = 2;
	r.rbx = 2;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.direction, KVM_EXIT_IO_OUT);
	assert_int_equal(c.run->io.port, 0x3f8);
	assert_int_equal(c.run->io.size, 1);
	assert_int_equal(c.run->io.count, 1);
	assert_int_equal(*((uint8_t *)c.run + c.run->io.data_offset), '4');
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(*((uint8_t *)c.run + c.run->io.data_offset), '\n');
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_int_equal(client_regs(&c).rip, 0x1000 + sizeof(code));
	client_close(&c);
}

static void port_input_reaches_the_register(void **state)
{
	/* in al,42h; in ax,dx; hlt */
	static const uint8_t code[] = {0xe4, 0x42, 0x89, 0xc3, 0xed, 0xf4};
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.direction, KVM_EXIT_IO_IN);
	assert_int_equal(c.run->io.port, 0x42);
	*((uint8_t *)c.run + c.run->io.data_offset) = 0x5a;
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.size, 2);
	memcpy((uint8_t *)c.run + c.run->io.data_offset, "\x34\x12", 2);
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_int_equal(client_regs(&c).rbx & 0xff, 0x5a);
	assert_int_equal(client_regs(&c).rax & 0xffff, 0x1234);
	client_close(&c);
}

static void string_output_delivers_every_byte(void **state)
{
	/* mov si,2000h; mov cx,5; mov dx,3f8h; cld; rep outsb; hlt */
	static const uint8_t code[] = {0xbe, 0, 0x20, 0xb9, 5, 0, 0xba, 0xf8, 3, 0xfc, 0xf3, 0x6e, 0xf4};
	char got[16] = "";
	size_t n = 0;
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	memcpy(c.mem + 0x2000, "hello", 5);
	for (;;) {
		assert_int_equal(ioctl(c.vcpu, KVM_RUN, 0), 0);
		if (c.run->exit_reason == KVM_EXIT_HLT)
			break;
		assert_int_equal(c.run->exit_reason, KVM_EXIT_IO);
		assert_int_equal(c.run->io.size, 1);
		assert_true(n + c.run->io.count < sizeof(got));
		memcpy(got + n, (uint8_t *)c.run + c.run->io.data_offset, c.run->io.count);
		n += c.run->io.count;
	}
	assert_string_equal(got, "hello");
	assert_int_equal(client_regs(&c).rcx & 0xffff, 0);
	assert_int_equal(client_regs(&c).rsi & 0xffff, 0x2005);
	client_close(&c);
}

static void string_input_fills_memory(void **state)
{
	/* mov di,3000h; mov cx,4; mov dx,60h; cld; rep insb; hlt */
	static const uint8_t code[] = {0xbf, 0, 0x30, 0xb9, 4, 0, 0xba, 0x60, 0, 0xfc, 0xf3, 0x6c, 0xf4};
	uint8_t next = 'a';
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	for (;;) {
		assert_int_equal(ioctl(c.vcpu, KVM_RUN, 0), 0);
		if (c.run->exit_reason == KVM_EXIT_HLT)
			break;
		assert_int_equal(c.run->exit_reason, KVM_EXIT_IO);
		assert_int_equal(c.run->io.direction, KVM_EXIT_IO_IN);
		for (uint32_t i = 0; i < c.run->io.count; i++)
			((uint8_t *)c.run)[c.run->io.data_offset + i] = next++;
	}
	assert_memory_equal(c.mem + 0x3000, "abcd", 4);
	client_close(&c);
}

static void mmio_write_and_read_go_to_the_client(void **state)
{
	/* mov [edi],eax; mov ebx,[edi+4]; hlt */
	static const uint8_t code[] = {0x89, 0x07, 0x8b, 0x5f, 0x04, 0xf4};
	struct client c;
	struct kvm_regs r;
	uint32_t v;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, code, sizeof(code));
	r = client_regs(&c);
	r.rdi = 0xd0000000;
	r.rax = 0x11223344;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_run_exits(&c, KVM_EXIT_MMIO);
	assert_int_equal(c.run->mmio.is_write, 1);
	assert_int_equal(c.run->mmio.phys_addr, 0xd0000000);
	assert_int_equal(c.run->mmio.len, 4);
	memcpy(&v, c.run->mmio.data, 4);
	assert_int_equal(v, 0x11223344);
	assert_run_exits(&c, KVM_EXIT_MMIO);
	assert_int_equal(c.run->mmio.is_write, 0);
	assert_int_equal(c.run->mmio.phys_addr, 0xd0000004);
	v = 0xcafebabe;
	memcpy(c.run->mmio.data, &v, 4);
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_int_equal(client_regs(&c).rbx, 0xcafebabe);
	client_close(&c);
}

static void mmio_string_move_is_one_exit_an_element(void **state)
{
	/* mov ecx,3; cld; rep movsd; hlt : from memory to a device */
	static const uint8_t code[] = {0xb9, 3, 0, 0, 0, 0xfc, 0xf3, 0xa5, 0xf4};
	struct client c;
	struct kvm_regs r;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, code, sizeof(code));
	r = client_regs(&c);
	r.rdi = 0xd0000000;
	r.rsi = 0x2000;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	for (uint32_t i = 0; i < 3; i++)
		((uint32_t *)(c.mem + 0x2000))[i] = 100 + i;
	for (uint32_t i = 0; i < 3; i++) {
		assert_run_exits(&c, KVM_EXIT_MMIO);
		assert_int_equal(c.run->mmio.is_write, 1);
		assert_int_equal(c.run->mmio.phys_addr, 0xd0000000 + 4 * i);
		assert_int_equal(*(uint32_t *)c.run->mmio.data, 100 + i);
	}
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_int_equal(client_regs(&c).rdi, 0xd000000c);
	assert_int_equal(client_regs(&c).rcx, 0);
	client_close(&c);
}

static void read_only_slot_reads_memory_and_exits_on_writes(void **state)
{
	/* mov eax,[200000h]; mov [200000h],ebx; hlt */
	static const uint8_t code[] = {0xa1, 0, 0, 0x20, 0, 0x89, 0x1d, 0, 0, 0x20, 0, 0xf4};
	struct client c;
	uint32_t *rom;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	rom = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*rom = 0x600df00d;
	client_slot(&c, 1, KVM_MEM_READONLY, 0x200000, rom, 4096);
	client_flat_mode(&c, 0x1000, code, sizeof(code));
	assert_run_exits(&c, KVM_EXIT_MMIO);
	assert_int_equal(c.run->mmio.is_write, 1);
	assert_int_equal(c.run->mmio.phys_addr, 0x200000);
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_int_equal(client_regs(&c).rax, 0x600df00d);
	assert_int_equal(*rom, 0x600df00d);
	client_close(&c);
}

static void slot_deleted_and_made_again_elsewhere_shows_the_new_memory(void **state)
{
	/* again: mov eax,[200000h]; out 10h,al; jmp again */
	static const uint8_t code[] = {0xa1, 0, 0, 0x20, 0, 0xe6, 0x10, 0xeb, 0xf7};
	struct client c;
	uint8_t *two;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	two = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	two[0] = 1;
	two[4096] = 2;
	client_slot(&c, 1, 0, 0x200000, two, 4096);
	client_flat_mode(&c, 0x1000, code, sizeof(code));
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(((uint8_t *)c.run)[c.run->io.data_offset], 1);
	client_slot(&c, 1, 0, 0x200000, two, 0);
	assert_run_exits(&c, KVM_EXIT_MMIO); /* no slot: a device */
	memset(c.run->mmio.data, 9, 8);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(((uint8_t *)c.run)[c.run->io.data_offset], 9);
	client_slot(&c, 1, 0, 0x200000, two + 4096, 4096);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(((uint8_t *)c.run)[c.run->io.data_offset], 2);
	munmap(two, 8192);
	client_close(&c);
}

static void guest_memory_unmapped_by_the_client_is_efault(void **state)
{
	/* again: mov eax,[200000h]; out 10h,al; jmp again */
	static const uint8_t code[] = {0xa1, 0, 0, 0x20, 0, 0xe6, 0x10, 0xeb, 0xf7};
	struct client c;
	uint8_t *page;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	client_slot(&c, 1, 0, 0x200000, page, 4096);
	client_flat_mode(&c, 0x1000, code, sizeof(code));
	assert_run_exits(&c, KVM_EXIT_IO);
	munmap(page, 4096);
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EFAULT);
	assert_int_equal(client_regs(&c).rip, 0x1000);
	client_close(&c);
}

static void code_written_by_the_client_between_runs_is_executed(void **state)
{
	/* again: mov al,1; out 10h,al; jmp again */
	static const uint8_t code[] = {0xb0, 1, 0xe6, 0x10, 0xeb, 0xfa};
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, code, sizeof(code));
	for (uint8_t v = 1; v < 5; v++) {
		c.mem[0x1001] = v;
		assert_run_exits(&c, KVM_EXIT_IO);
		assert_int_equal(((uint8_t *)c.run)[c.run->io.data_offset], v);
	}
	client_close(&c);
}

static void code_written_by_the_guest_itself_is_executed(void **state)
{
	/* inc byte [1008h]; nop; mov al,0 (at 1007h); out 10h,al; jmp start */
	static const uint8_t code[] = {0xfe, 0x05, 0x08, 0x10, 0, 0, 0x90, 0xb0, 0, 0xe6, 0x10, 0xeb, 0xf3};
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, code, sizeof(code));
	for (uint8_t v = 1; v < 5; v++) {
		assert_run_exits(&c, KVM_EXIT_IO);
		assert_int_equal(((uint8_t *)c.run)[c.run->io.data_offset], v);
	}
	client_close(&c);
}

static void triple_fault_is_a_shutdown_exit(void **state)
{
	static const uint8_t code[] = {0x0f, 0x0b}; /* ud2 with an empty IDT */
	struct client c;
	struct kvm_sregs s;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, code, sizeof(code));
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	s.idt.limit = 0;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SREGS, &s), 0);
	assert_run_exits(&c, KVM_EXIT_SHUTDOWN);
	client_close(&c);
}

static void code_running_into_no_memory_is_an_internal_error(void **state)
{
	static const uint8_t code[] = {0xff, 0xe0}; /* jmp eax */
	struct client c;
	struct kvm_regs r;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, code, sizeof(code));
	r = client_regs(&c);
	r.rax = 0xd0000000;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_run_exits(&c, KVM_EXIT_INTERNAL_ERROR);
	assert_int_equal(c.run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(real_mode_guest_writes_a_port_and_halts),
		cmocka_unit_test(port_input_reaches_the_register),
		cmocka_unit_test(string_output_delivers_every_byte),
		cmocka_unit_test(string_input_fills_memory),
		cmocka_unit_test(mmio_write_and_read_go_to_the_client),
		cmocka_unit_test(mmio_string_move_is_one_exit_an_element),
		cmocka_unit_test(read_only_slot_reads_memory_and_exits_on_writes),
		cmocka_unit_test(slot_deleted_and_made_again_elsewhere_shows_the_new_memory),
		cmocka_unit_test(guest_memory_unmapped_by_the_client_is_efault),
		cmocka_unit_test(code_written_by_the_client_between_runs_is_executed),
		cmocka_unit_test(code_written_by_the_guest_itself_is_executed),
		cmocka_unit_test(triple_fault_is_a_shutdown_exit),
		cmocka_unit_test(code_running_into_no_memory_is_an_internal_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
