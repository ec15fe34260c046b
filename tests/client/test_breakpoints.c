/*
 * Breakpoints: the debugger's (KVM_SET_GUEST_DEBUG) and the guest's own debug
 * registers. Source: KVM API, KVM_SET_GUEST_DEBUG; SDM Vol. 3, "Debug Exceptions".
 */
#include "client.h"

#define DR6_BS (1ull << 14)
#define DR7_LOCAL(n) (1ull << (2 * (n)))
#define DR7_WRITE(n) (1ull << (16 + 4 * (n)))
#define DR7_ACCESS(n) (3ull << (16 + 4 * (n)))
#define DR7_LEN2(n) (1ull << (18 + 4 * (n)))
#define DR7_LEN4(n) (3ull << (18 + 4 * (n)))

/* mov eax,1; mov [3000h],eax; nop; mov eax,[3000h]; nop; hlt */
static const uint8_t program[] = {
	0xb8, 1, 0, 0, 0,		/* 1000 */
	0xa3, 0x00, 0x30, 0, 0,		/* 1005 */
	0x90,				/* 100a */
	0xa1, 0x00, 0x30, 0, 0,		/* 100b */
	0x90,				/* 1010 */
	0xf4,				/* 1011 */
};

static void set_debug(struct client *c, uint32_t control, unsigned nr, uint64_t address, uint64_t dr7)
{
	struct kvm_guest_debug d = {.control = control};

	d.arch.debugreg[nr] = address;
	d.arch.debugreg[7] = dr7 | 0x400;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_GUEST_DEBUG, &d), 0);
}

static void start(struct client *c, const void *code, size_t n)
{
	client_open_vm(c, 1 << 20);
	client_add_vcpu(c);
	client_flat_mode(c, 0x1000, code, n);
}

static void single_steps_stop_after_each_instruction(void **state)
{
	static const uint64_t stops[] = {0x1005, 0x100a, 0x100b, 0x1010, 0x1011};
	struct client c;

	start(&c, program, sizeof(program));
	set_debug(&c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, 0, 0, 0);
	for (unsigned n = 0; n < 5; n++) {
		assert_run_exits(&c, KVM_EXIT_DEBUG);
		assert_int_equal(c.run->debug.arch.exception, 1);
		assert_int_equal(c.run->debug.arch.pc, stops[n]);
		assert_true(c.run->debug.arch.dr6 & DR6_BS);
	}
	assert_run_exits(&c, KVM_EXIT_HLT);
	client_close(&c);
}

static void hardware_breakpoint_stops_before_its_instruction(void **state)
{
	struct client c;
	struct kvm_regs r;

	start(&c, program, sizeof(program));
	set_debug(&c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, 1, 0x100b, DR7_LOCAL(1));
	assert_run_exits(&c, KVM_EXIT_DEBUG);
	assert_int_equal(c.run->debug.arch.exception, 1);
	assert_int_equal(c.run->debug.arch.pc, 0x100b);
	assert_int_equal(c.run->debug.arch.dr6 & 0xf, 2);
	assert_int_equal(c.run->debug.arch.dr7 & 0xff, DR7_LOCAL(1));
	/* RF lets it pass */
	r = client_regs(&c);
	r.rflags |= 1 << 16;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_run_exits(&c, KVM_EXIT_HLT);
	client_close(&c);
}

static void write_watchpoint_stops_after_the_write_only(void **state)
{
	struct client c;

	start(&c, program, sizeof(program));
	set_debug(&c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, 0, 0x3002, DR7_LOCAL(0) | DR7_WRITE(0) | DR7_LEN2(0));
	assert_run_exits(&c, KVM_EXIT_DEBUG);
	assert_int_equal(c.run->debug.arch.pc, 0x100a);
	assert_int_equal(c.run->debug.arch.dr6 & 0xf, 1);
	assert_int_equal(*(uint32_t *)(c.mem + 0x3000), 1);
	assert_run_exits(&c, KVM_EXIT_HLT);
	client_close(&c);
}

static void access_watchpoint_stops_after_read_and_write(void **state)
{
	struct client c;

	start(&c, program, sizeof(program));
	set_debug(&c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, 3, 0x3000, DR7_LOCAL(3) | DR7_ACCESS(3) | DR7_LEN4(3));
	assert_run_exits(&c, KVM_EXIT_DEBUG);
	assert_int_equal(c.run->debug.arch.pc, 0x100a);
	assert_int_equal(c.run->debug.arch.dr6 & 0xf, 8);
	assert_run_exits(&c, KVM_EXIT_DEBUG);
	assert_int_equal(c.run->debug.arch.pc, 0x1010);
	assert_run_exits(&c, KVM_EXIT_HLT);
	client_close(&c);
}

static void neighbours_of_a_watchpoint_do_not_stop(void **state)
{
	struct client c;

	start(&c, program, sizeof(program));
	set_debug(&c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, 0, 0x3004, DR7_LOCAL(0) | DR7_ACCESS(0) | DR7_LEN4(0));
	assert_run_exits(&c, KVM_EXIT_HLT);
	client_close(&c);
}

static void repeated_store_stops_at_the_watched_element(void **state)
{
	/* mov edi,3000h; mov ecx,100h; xor eax,eax; rep stosb; hlt */
	static const uint8_t code[] = {0xbf, 0, 0x30, 0, 0, 0xb9, 0, 1, 0, 0, 0x31, 0xc0, 0xf3, 0xaa, 0xf4};
	struct client c;

	start(&c, code, sizeof(code));
	set_debug(&c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, 0, 0x3010, DR7_LOCAL(0) | DR7_WRITE(0));
	assert_run_exits(&c, KVM_EXIT_DEBUG);
	assert_int_equal(c.run->debug.arch.pc, 0x100c);
	assert_int_equal(client_regs(&c).rdi, 0x3011);
	assert_int_equal(client_regs(&c).rcx, 0xef);
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_int_equal(client_regs(&c).rcx, 0);
	client_close(&c);
}

static void software_breakpoint_stops_at_int3(void **state)
{
	static const uint8_t code[] = {0x90, 0xcc, 0xf4};
	struct client c;

	start(&c, code, sizeof(code));
	set_debug(&c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP, 0, 0, 0);
	assert_run_exits(&c, KVM_EXIT_DEBUG);
	assert_int_equal(c.run->debug.arch.exception, 3);
	assert_int_equal(c.run->debug.arch.pc, 0x1001);
	c.mem[0x1001] = 0x90;
	assert_run_exits(&c, KVM_EXIT_HLT);
	client_close(&c);
}

/*
 * The guest's own registers: a watchpoint on 3000h and a breakpoint on the
 * HLT's predecessor; its #DB handler writes DR6's low byte to port 80h and
 * leaves the watchpoint alone armed. (Real mode: IVT entry 1.)
 */
static void guests_own_breakpoints_reach_its_handler(void **state)
{
	static const uint8_t code[] = {
		0x66, 0xb8, 0x00, 0x30, 0, 0,		/* 1000 mov eax,3000h */
		0x0f, 0x23, 0xc0,			/* 1006 mov dr0,eax */
		0x66, 0xb8, 0x20, 0x10, 0, 0,		/* 1009 mov eax,1020h */
		0x0f, 0x23, 0xc8,			/* 100f mov dr1,eax */
		0x66, 0xb8, 0x05, 0x04, 0x01, 0,	/* 1012 mov eax,10405h: L0 write, L1 code */
		0x0f, 0x23, 0xf8,			/* 1018 mov dr7,eax */
		0xc6, 0x06, 0x00, 0x30, 0x07,		/* 101b mov byte [3000h],7 */
		0x90,					/* 1020 nop */
		0xf4,					/* 1021 hlt */
	};
	/* mov eax,dr6; out 80h,al; xor eax,eax; mov dr6,eax; mov eax,10401h; mov dr7,eax; iret */
	static const uint8_t handler[] = {
		0x0f, 0x21, 0xf0, 0xe6, 0x80, 0x66, 0x31, 0xc0, 0x0f, 0x23, 0xf0,
		0x66, 0xb8, 0x01, 0x04, 0x01, 0, 0x0f, 0x23, 0xf8, /* only L0 stays: IRET (16 bits) has no RF */
		0xcf,
	};
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	memcpy(c.mem + 0x2000, handler, sizeof(handler));
	*(uint32_t *)(c.mem + 4) = 0x2000;
	assert_run_exits(&c, KVM_EXIT_IO);
	/* the watchpoint's trap and the next instruction's breakpoint are told apart */
	assert_int_equal(*((uint8_t *)c.run + c.run->io.data_offset) & 1, 1);
	assert_int_equal(*(uint16_t *)(c.mem + 0x8000 - 6), 0x1020);
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_int_equal(client_regs(&c).rip, 0x1022);
	client_close(&c);
}

/* Real mode: emulated where the processor has no unrestricted guest. */
static void resume_flag_passes_a_breakpoint_once_in_real_mode(void **state)
{
	/* mov ax,1; inc ax; (1004) nop; jmp 1004 */
	static const uint8_t code[] = {0xb8, 1, 0, 0x40, 0x90, 0xeb, 0xfd};
	struct client c;
	struct kvm_regs r;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	set_debug(&c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, 2, 0x1004, DR7_LOCAL(2));
	for (unsigned n = 0; n < 4; n++) {
		assert_run_exits(&c, KVM_EXIT_DEBUG);
		assert_int_equal(c.run->debug.arch.exception, 1);
		assert_int_equal(c.run->debug.arch.pc, 0x1004);
		assert_int_equal(c.run->debug.arch.dr6 & 0xf, 4);
		r = client_regs(&c);
		assert_int_equal(r.rip, 0x1004);
		assert_int_equal(r.rax, 2);
		if (n == 1)
			continue; /* without RF it is met again at once */
		r.rflags |= 1 << 16;
		assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	}
	client_close(&c);
}

static void watchpoints_stop_repeated_and_single_stores_in_real_mode(void **state)
{
	/* mov di,3000; mov cx,8; (1006) rep stosb; (1008) mov ax,[3003]; (100b) nop; mov word [3002],ax; (100f) hlt */
	static const uint8_t code[] = {0xbf, 0, 0x30, 0xb9, 8, 0, 0xf3, 0xaa, 0xa1, 3, 0x30, 0x90, 0xa3, 2, 0x30, 0xf4};
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	memset(c.mem + 0x3000, 0x55, 8);
	set_debug(&c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, 1, 0x3003, DR7_LOCAL(1) | DR7_WRITE(1));
	assert_run_exits(&c, KVM_EXIT_DEBUG);
	assert_int_equal(c.run->debug.arch.dr6 & 0xf, 2);
	assert_int_equal(client_regs(&c).rip, 0x1006);
	assert_int_equal(client_regs(&c).rcx, 4); /* the element that is watched is the last one stored */
	assert_int_equal(c.mem[0x3003], 0);
	assert_int_equal(c.mem[0x3004], 0x55);
	assert_run_exits(&c, KVM_EXIT_DEBUG); /* not the read */
	assert_int_equal(client_regs(&c).rip, 0x100f);
	set_debug(&c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, 1, 0x3003, DR7_LOCAL(1) | DR7_ACCESS(1));
	{
		struct kvm_regs r = client_regs(&c);

		r.rip = 0x1008;
		assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	}
	assert_run_exits(&c, KVM_EXIT_DEBUG);
	assert_int_equal(client_regs(&c).rip, 0x100b);
	assert_run_exits(&c, KVM_EXIT_DEBUG);
	assert_run_exits(&c, KVM_EXIT_HLT);
	client_close(&c);
}

static void unknown_control_bits_are_einval(void **state)
{
	struct kvm_guest_debug d = {.control = 1u << 30};
	struct client c;

	start(&c, program, sizeof(program));
	errno = 0;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_GUEST_DEBUG, &d), -1);
	assert_int_equal(errno, EINVAL);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(single_steps_stop_after_each_instruction),
		cmocka_unit_test(hardware_breakpoint_stops_before_its_instruction),
		cmocka_unit_test(write_watchpoint_stops_after_the_write_only),
		cmocka_unit_test(access_watchpoint_stops_after_read_and_write),
		cmocka_unit_test(neighbours_of_a_watchpoint_do_not_stop),
		cmocka_unit_test(repeated_store_stops_at_the_watched_element),
		cmocka_unit_test(software_breakpoint_stops_at_int3),
		cmocka_unit_test(guests_own_breakpoints_reach_its_handler),
		cmocka_unit_test(resume_flag_passes_a_breakpoint_once_in_real_mode),
		cmocka_unit_test(watchpoints_stop_repeated_and_single_stores_in_real_mode),
		cmocka_unit_test(unknown_control_bits_are_einval),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
