/*
 * The guest debugger: KVM_SET_GUEST_DEBUG, KVM_EXIT_DEBUG.
 */
#include "guest_code.h"
#include "paging.h"

static void open_long(struct client *c, const uint8_t *code, size_t n)
{
	client_open_vm(c, 2 << 20);
	client_add_vcpu(c);
	paging_start(c, PAGING_LONG, 0, 0, 0, 0);
	memcpy(c->mem + AT_CODE, code, n);
}

static void debug(struct client *c, uint32_t control)
{
	struct kvm_guest_debug d = {.control = control};

	assert_int_equal(ioctl(c->vcpu, KVM_SET_GUEST_DEBUG, &d), 0);
}

/* Offsets 0, 3, 5 (emulated: CPUID exits), 7; then an OUT at 9. */
GUEST_CODE(steps, 64, "inc %rax; nop; nop; cpuid; nop; nop; outb %al, $0x40; nop");

static void single_step_stops_after_each_instruction(void **state)
{
	static const unsigned offsets[] = {3, 4, 5, 7, 8, 9};
	struct client c;

	open_long(&c, steps, GUEST_CODE_SIZE(steps));
	debug(&c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP);
	for (size_t i = 0; i < sizeof(offsets) / sizeof(*offsets); i++) {
		assert_run_exits(&c, KVM_EXIT_DEBUG);
		assert_int_equal(c.run->debug.arch.exception, 1);
		assert_int_equal(c.run->debug.arch.pc, AT_CODE + offsets[i]);
		assert_true(c.run->debug.arch.dr6 & 1 << 14); /* BS */
		assert_int_equal(client_regs(&c).rip, AT_CODE + offsets[i]);
		assert_false(client_regs(&c).rflags & 0x100); /* the guest sees no TF */
	}
	assert_int_equal(client_next_out(&c), 0x40);
	assert_run_exits(&c, KVM_EXIT_DEBUG); /* when the OUT is done */
	assert_int_equal(c.run->debug.arch.pc, AT_CODE + 11);
	debug(&c, 0);
	memcpy(c.mem + AT_CODE + 11, "\xe6\x41", 2);
	assert_int_equal(client_next_out(&c), 0x41);
	client_close(&c);
}

/* The guest sets TF; CPUID and a load from a device are emulated; a shadow; STI. */
GUEST_CODE(own_tf, 64, "pushfq; orl $0x100, (%rsp); popfq; nop; cpuid; movl (%rsi), %ecx; mov %ss, %eax; mov %eax, %ss; "
		       "nop; sti; nop; outb %al, $0x40");

static void single_step_of_a_guest_with_tf_stops_once_an_instruction(void **state)
{
	static const unsigned offsets[] = {1, 8, 9, 10, 12, 14, 16, 18, 19, 20, 21};
	struct kvm_regs r;
	struct client c;

	open_long(&c, own_tf, GUEST_CODE_SIZE(own_tf));
	r = client_regs(&c);
	r.rsi = 0x1ff000; /* as good as any page that leads to no memory */
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	paging_pte_set(&c, PAGING_LONG, 0x1ff000, 0xe0000000 | PG_ALL);
	debug(&c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP);
	for (size_t i = 0; i < sizeof(offsets) / sizeof(*offsets); i++) {
		if (offsets[i] == 14)
			assert_run_exits(&c, KVM_EXIT_MMIO);
		assert_run_exits(&c, KVM_EXIT_DEBUG);
		if (c.run->debug.arch.pc != AT_CODE + offsets[i])
			fail_msg("step %zu at +%lld, not +%u", i, (long long)c.run->debug.arch.pc - AT_CODE, offsets[i]);
	}
	assert_int_equal(client_next_out(&c), 0x40);
	client_close(&c);
}

GUEST_CODE(int3, 64, "nop; int3; outb %al, $0x40");

static void software_breakpoint_goes_to_the_client_or_the_guest(void **state)
{
	struct client c;
	struct kvm_regs r;

	open_long(&c, int3, GUEST_CODE_SIZE(int3));
	debug(&c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP);
	assert_run_exits(&c, KVM_EXIT_DEBUG);
	assert_int_equal(c.run->debug.arch.exception, 3);
	assert_int_equal(c.run->debug.arch.pc, AT_CODE + 1);
	r = client_regs(&c);
	assert_int_equal(r.rip, AT_CODE + 1);
	/* Given back to the guest: #BP returns behind the INT3. */
	debug(&c, 0);
	assert_int_equal(client_next_out(&c), 3);
	assert_int_equal(*(uint64_t *)(c.mem + client_regs(&c).rsp), AT_CODE + 2);
	client_close(&c);
}

static void injected_debug_exception_reaches_the_guest(void **state)
{
	struct client c;

	open_long(&c, steps, GUEST_CODE_SIZE(steps));
	debug(&c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_DB);
	assert_int_equal(client_next_out(&c), 1);
	client_close(&c);
}

/*
 * A read of a device ends its step when the data is there; for a write the
 * client's own exit stands for it (so does Linux).
 */
GUEST_CODE(mmio_step, 32, "movl (%edi), %eax; movl %eax, (%edi); nop; outb %al, $0x40");

static void single_step_over_mmio_stops_behind_it(void **state)
{
	struct client c;
	struct kvm_regs r;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, mmio_step, GUEST_CODE_SIZE(mmio_step));
	r = client_regs(&c);
	r.rdi = 0xd0000000;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	debug(&c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP);
	assert_run_exits(&c, KVM_EXIT_MMIO);
	assert_run_exits(&c, KVM_EXIT_DEBUG);
	assert_int_equal(c.run->debug.arch.pc, 0x1002);
	assert_run_exits(&c, KVM_EXIT_MMIO);
	assert_run_exits(&c, KVM_EXIT_DEBUG);
	assert_int_equal(c.run->debug.arch.pc, 0x1005);
	client_close(&c);
}

GUEST_CODE(hit_breakpoint, 64, "movl %eax, (%rsi); outb %al, $0x40");

static void debug_registers_set_by_the_client_trap_in_the_guest(void **state)
{
	struct kvm_debugregs d;
	struct client c;

	open_long(&c, hit_breakpoint, GUEST_CODE_SIZE(hit_breakpoint));
	assert_int_equal(ioctl(c.vcpu, KVM_GET_DEBUGREGS, &d), 0);
	assert_int_equal(d.dr6, 0xffff0ff0);
	assert_int_equal(d.dr7, 0x400);
	d.db[1] = AT_TEST;
	d.dr7 = 0x400 | 1 << 2 | 0xdu << 20; /* L1, 4 bytes written */
	assert_int_equal(ioctl(c.vcpu, KVM_SET_DEBUGREGS, &d), 0);
	assert_int_equal(client_next_out(&c), 1); /* #DB, a trap: after the instruction */
	assert_int_equal(*(uint64_t *)(c.mem + client_regs(&c).rsp), AT_CODE + 2);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_DEBUGREGS, &d), 0);
	assert_int_equal(d.dr6 & 0xf, 2);
	d.dr7 |= 1ull << 32;
	assert_fails(ioctl(c.vcpu, KVM_SET_DEBUGREGS, &d), EINVAL);
	client_close(&c);
}

static void hardware_breakpoint_of_the_client_stops_before_the_instruction(void **state)
{
	struct kvm_guest_debug d = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP};
	struct client c;

	open_long(&c, steps, GUEST_CODE_SIZE(steps));
	d.arch.debugreg[0] = AT_CODE + 4;
	d.arch.debugreg[7] = 0x402; /* G0, execution */
	assert_int_equal(ioctl(c.vcpu, KVM_SET_GUEST_DEBUG, &d), 0);
	assert_run_exits(&c, KVM_EXIT_DEBUG);
	assert_int_equal(c.run->debug.arch.pc, AT_CODE + 4);
	assert_int_equal(c.run->debug.arch.exception, 1);
	assert_int_equal(c.run->debug.arch.dr6, 0xffff0ff1);
	client_close(&c);
}

GUEST_CODE(read_dr7, 32, "nop; movl %db7, %eax; out %al, $0xe0");

static void general_detect_of_the_debugger_exits_before_the_access(void **state)
{
	struct kvm_guest_debug d = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP}, off = {0};
	struct client c;

	client_open_vm(&c, 2 << 20);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, read_dr7, GUEST_CODE_SIZE(read_dr7));
	d.arch.debugreg[7] = 0x400 | 1 << 13;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_GUEST_DEBUG, &d), 0);
	assert_run_exits(&c, KVM_EXIT_DEBUG);
	assert_int_equal(c.run->debug.arch.exception, 1);
	assert_int_equal(c.run->debug.arch.pc, 0x1001);
	assert_int_equal(c.run->debug.arch.dr6, 0xffff2ff0);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_GUEST_DEBUG, &off), 0);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(client_regs(&c).rax, 0x400); /* the guest's own */
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(single_step_stops_after_each_instruction),
		cmocka_unit_test(single_step_of_a_guest_with_tf_stops_once_an_instruction),
		cmocka_unit_test(software_breakpoint_goes_to_the_client_or_the_guest),
		cmocka_unit_test(injected_debug_exception_reaches_the_guest),
		cmocka_unit_test(debug_registers_set_by_the_client_trap_in_the_guest),
		cmocka_unit_test(hardware_breakpoint_of_the_client_stops_before_the_instruction),
		cmocka_unit_test(single_step_over_mmio_stops_behind_it),
		cmocka_unit_test(general_detect_of_the_debugger_exits_before_the_access),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
