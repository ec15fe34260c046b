/*
 * Corners of the architecture where an outside suite once disagreed and was
 * right. Each case names its source; what differs between engines and between
 * EPT and shadow paging is the same program run on each.
 */
#include "guest_code.h"
#include "paging.h"

#define UD 6
#define GP 13
#define DB 1
#define DONE 0x99
#define DEVICE 0x180000 /* mapped by the guest, in no slot: past slot 0 of 1 MiB */
#define CR4_UMIP (1u << 11)

static void open_guest(struct client *c, enum paging p, unsigned cpl, uint64_t cr4, const uint8_t *code, size_t n)
{
	client_open_vm(c, 1 << 20);
	client_add_vcpu(c);
	paging_start(c, p, cpl, 0, cr4, 0);
	memcpy(c->mem + AT_CODE, code, n);
}
#define OPEN(c, p, cpl, cr4, code) open_guest(c, p, cpl, cr4, code, GUEST_CODE_SIZE(code))

/* --- SALC: in no manual, in every processor --- */

GUEST_CODE(salc_32, 32, "stc; .byte 0xd6; mov %al, %bl; clc; .byte 0xd6; mov %al, %bh; out %al, $0x99");
GUEST_CODE(salc_16, 16, "stc; .byte 0xd6; mov %al, %bl; clc; .byte 0xd6; mov %al, %bh; out %al, $0x99");

static void salc_sets_al_from_cf(void **state)
{
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, salc_16, GUEST_CODE_SIZE(salc_16)); /* with ept=0 by the emulator */
	assert_int_equal(client_next_out(&c), DONE);
	assert_int_equal(client_regs(&c).rbx & 0xffff, 0x00ff);
	client_close(&c);
	for (enum paging p = PAGING_32; p <= PAGING_COMPAT; p++) {
		OPEN(&c, p, 3, 0, salc_32);
		if (p == PAGING_LONG) {
			assert_int_equal(client_next_out(&c), UD);
		} else {
			assert_int_equal(client_next_out(&c), DONE);
			assert_int_equal(client_regs(&c).rbx & 0xffff, 0x00ff);
		}
		client_close(&c);
	}
}

/* --- SMSW and LMSW with a device's memory (KVM's emulator has both) --- */

GUEST_CODE(store_msw, 32, "smsw (%esi); out %al, $0x99");
GUEST_CODE(load_msw, 32, "lmsw (%esi); out %al, $0x99");

static void smsw_and_lmsw_reach_devices(void **state)
{
	struct kvm_sregs s;
	struct kvm_regs r;
	struct client c;

	for (enum paging p = PAGING_32; p <= PAGING_COMPAT; p++) {
		for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
			OPEN(&c, p, cpl, 0, store_msw);
			r = client_regs(&c);
			r.rsi = DEVICE;
			assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
			assert_run_exits(&c, KVM_EXIT_MMIO);
			assert_true(c.run->mmio.is_write);
			assert_int_equal(c.run->mmio.phys_addr, DEVICE);
			assert_int_equal(c.run->mmio.len, 2);
			assert_int_equal(c.run->mmio.data[0] & 1, 1); /* PE */
			assert_int_equal(client_next_out(&c), DONE);
			client_close(&c);
		}
		OPEN(&c, p, 3, CR4_UMIP, store_msw);
		r = client_regs(&c);
		r.rsi = DEVICE;
		assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
		assert_int_equal(client_next_out(&c), GP);
		client_close(&c);

		OPEN(&c, p, 0, 0, load_msw);
		r = client_regs(&c);
		r.rsi = DEVICE;
		assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
		assert_run_exits(&c, KVM_EXIT_MMIO);
		assert_false(c.run->mmio.is_write);
		c.run->mmio.data[0] = 0x0a; /* TS and MP */
		c.run->mmio.data[1] = 0;
		assert_int_equal(client_next_out(&c), DONE);
		assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
		assert_int_equal(s.cr0 & 0xf, 0xb); /* PE stays */
		client_close(&c);
	}
}

/* --- INVPCID: SDM Vol. 2, its exceptions --- */

GUEST_CODE(run_invpcid, 64, "invpcid (%rsi), %rax; out %al, $0x99");

static void invpcid_checks_its_operands(void **state)
{
	static const struct {
		uint64_t type, pcid, address;
		uint64_t cr4;
		int port;
	} t[] = {
		{0, 0, 0x1234, 0, DONE},
		{0, 5, 0x1234, CR4_PCIDE, DONE},
		{1, 5, 1ULL << 47, CR4_PCIDE, DONE}, /* the address is not looked at */
		{2, 5, 1ULL << 47, 0, DONE},
		{3, 5, 1ULL << 47, 0, DONE},
		{4, 0, 0, 0, GP},
		{1ULL << 32, 0, 0, 0, GP},
		{0, 0, 1ULL << 47, 0, GP},
		{0, 1, 0, 0, GP},
		{1, 1, 0, 0, GP},
		{0, 0x1000, 0, CR4_PCIDE, GP},
		{2, 0x1000, 0, CR4_PCIDE, GP},
		{3, 1ULL << 63, 0, 0, GP},
	};
	struct kvm_regs r;
	struct client c;

	for (size_t n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
		int port;

		OPEN(&c, PAGING_LONG, 0, t[n].cr4, run_invpcid);
		*(uint64_t *)(c.mem + AT_TEST) = t[n].pcid;
		*(uint64_t *)(c.mem + AT_TEST + 8) = t[n].address;
		r = client_regs(&c);
		r.rax = t[n].type;
		assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
		port = client_next_out(&c);
		if (port != t[n].port)
			fail_msg("INVPCID %zu: port %#x, expected %#x", n, port, t[n].port);
		client_close(&c);
	}
	/* a descriptor in no page, and user mode */
	OPEN(&c, PAGING_LONG, 0, 0, run_invpcid);
	paging_pte_set(&c, PAGING_LONG, AT_TEST, 0);
	assert_int_equal(client_next_out(&c), 14);
	assert_int_equal(client_regs(&c).rcx, AT_TEST);
	client_close(&c);
	OPEN(&c, PAGING_LONG, 3, 0, run_invpcid);
	assert_int_equal(client_next_out(&c), GP);
	client_close(&c);
}

/* --- IRET and RETF outward: SDM IRET, "SegmentSelector := 0"; the base is not of the selector --- */

GUEST_CODE(outward_iret, 64, "push $0x23; push $0x8000; push $0x3002; push $0x1b; push $0x7000; iretq");
GUEST_CODE(outward_retf, 64, "push $0x23; push $0x8000; push $0x1b; push $0x7000; lretq");
GUEST_CODE(out, 64, "out %al, $0x99");

static void an_outward_return_keeps_the_bases_of_inner_segments(void **state)
{
	struct kvm_sregs s;
	struct client c;

	for (int retf = 0; retf < 2; retf++) {
		if (retf)
			OPEN(&c, PAGING_LONG, 0, 0, outward_retf);
		else
			OPEN(&c, PAGING_LONG, 0, 0, outward_iret);
		memcpy(c.mem + 0x7000, out, GUEST_CODE_SIZE(out));
		assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
		s.fs.base = 0x123456789000;
		s.gs.base = 0xffff888012345000;
		assert_int_equal(ioctl(c.vcpu, KVM_SET_SREGS, &s), 0);
		assert_int_equal(client_next_out(&c), DONE);
		assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
		assert_int_equal(s.cs.selector, 0x1b);
		assert_int_equal(s.fs.selector, 0);
		assert_int_equal(s.gs.selector, 0);
		assert_int_equal(s.fs.base, 0x123456789000);
		assert_int_equal(s.gs.base, 0xffff888012345000);
		client_close(&c);
	}
}

/* --- one #DB for what MOV SS held back (SDM "Masking Exceptions and Interrupts When Switching Stacks") --- */

/* ss in eax; the handler counts in edi and goes on at the stacked RIP. */
GUEST_CODE(step_int1, 32, "pushf; orl $0x100, (%esp); popf; mov %eax, %ss; .byte 0xf1; nop; out %al, $0x99");
GUEST_CODE(step_mov_dr, 32, "pushf; orl $0x100, (%esp); popf; mov %eax, %ss; mov %dr6, %ebx; nop; out %al, $0x99");
GUEST_CODE(watch_int1, 32, "mov (%esi), %ss; .byte 0xf1; nop; out %al, $0x99");
GUEST_CODE(db_handler, 32, "inc %edi; mov %dr6, %edx; andl $~0x100, 8(%esp); movl $0x7100, (%esp); iret");

static void count_debug_exceptions(const uint8_t *code, size_t n, uint64_t dr7, uint64_t watch, uint64_t dr6)
{
	struct kvm_debugregs d;
	struct kvm_regs r;
	struct client c;

	open_guest(&c, PAGING_32, 0, 0, code, n);
	memcpy(c.mem + 0x7100, out, GUEST_CODE_SIZE(out));
	memcpy(c.mem + AT_STUBS + DB * 16, db_handler, GUEST_CODE_SIZE(db_handler));
	*(uint16_t *)(c.mem + AT_TEST) = 0x10;
	memset(&d, 0, sizeof(d));
	d.db[0] = watch;
	d.dr6 = 0xffff0ff0;
	d.dr7 = 0x400 | dr7;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_DEBUGREGS, &d), 0);
	r = client_regs(&c);
	r.rax = 0x10;
	r.rdi = 0;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(client_next_out(&c), DONE);
	r = client_regs(&c);
	if (r.rdi != 1)
		fail_msg("%llu debug exceptions, DR6 %llx", (unsigned long long)r.rdi, (unsigned long long)r.rdx);
	if ((r.rdx & 0xe00f) != dr6)
		fail_msg("DR6 %llx, expected %llx", (unsigned long long)r.rdx, (unsigned long long)dr6);
	client_close(&c);
}

static void a_trap_that_mov_ss_held_back_comes_once(void **state)
{
	count_debug_exceptions(step_int1, GUEST_CODE_SIZE(step_int1), 0, 0, 0);
	count_debug_exceptions(step_mov_dr, GUEST_CODE_SIZE(step_mov_dr), 0x2000, 0, 0x2000);
	count_debug_exceptions(watch_int1, GUEST_CODE_SIZE(watch_int1), 0x70001, AT_TEST, 0);
}

/* --- the last bytes below the hole: VM entry takes RIP = 2^47 ("Checks on Guest RIP, RFLAGS, and SSP"), the fetch is #GP --- */

#define EDGE 0x800000000000ULL

GUEST_CODE(edge_cpuid, 64, "cpuid");
GUEST_CODE(edge_in, 64, "in $0x98, %al");
GUEST_CODE(edge_vmcall, 64, "vmcall");
GUEST_CODE(edge_load, 64, "movl (%rsi), %ecx"); /* from a device: emulated */
GUEST_CODE(edge_nop, 64, "nop");

static void what_ends_at_the_hole_ends_in_gp(void **state)
{
	static const struct {
		const uint8_t *code, *end;
		uint32_t exit;
	} t[] = {
		{edge_cpuid, edge_cpuid_end, 0},
		{edge_in, edge_in_end, KVM_EXIT_IO},
		{edge_vmcall, edge_vmcall_end, 0},
		{edge_load, edge_load_end, KVM_EXIT_MMIO},
		{edge_nop, edge_nop_end, 0},
	};
	struct kvm_regs r;
	struct client c;

	for (size_t n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
		size_t len = (size_t)(t[n].end - t[n].code);

		OPEN(&c, PAGING_LONG, 3, 0, edge_nop);
		((uint64_t *)(c.mem + 0x10000))[255] = 0x14000 | PG_ALL;
		((uint64_t *)(c.mem + 0x14000))[511] = 0x15000 | PG_ALL;
		((uint64_t *)(c.mem + 0x15000))[511] = 0x16000 | PG_ALL;
		((uint64_t *)(c.mem + 0x16000))[511] = 0x17000 | PG_ALL;
		memcpy(c.mem + 0x18000 - len, t[n].code, len);
		r = client_regs(&c);
		r.rip = EDGE - len;
		r.rsi = DEVICE;
		assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
		if (t[n].exit)
			assert_run_exits(&c, t[n].exit);
		assert_int_equal(client_next_out(&c), GP);
		r = client_regs(&c);
		assert_int_equal(r.rdx, 0);			/* the error code */
		assert_int_equal(*(uint64_t *)(c.mem + 0x9000 - 40), EDGE); /* RIP in the frame */
		client_close(&c);
	}
}

/* --- KVM API: KVM_CAP_EXIT_ON_EMULATION_FAILURE: user mode's too are the client's, and no #UD comes with them --- */

GUEST_CODE(unemulated, 64, "lar (%rsi), %eax; out %al, $0x99"); /* of a selector in a device, which KVM does not emulate */

static void an_emulation_failure_exits_when_the_client_wants_it(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE, .args = {2}};
	struct kvm_regs r;
	struct client c;

	for (int enabled = 0; enabled < 2; enabled++) {
		OPEN(&c, PAGING_LONG, 3, 0, unemulated);
		assert_fails(ioctl(c.vm, KVM_ENABLE_CAP, &cap), EINVAL);
		cap.args[0] = (uint64_t)enabled;
		assert_int_equal(ioctl(c.vm, KVM_ENABLE_CAP, &cap), 0);
		cap.args[0] = 2;
		r = client_regs(&c);
		r.rsi = DEVICE;
		assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
		if (!enabled) {
			assert_int_equal(client_next_out(&c), UD);
		} else {
			assert_run_exits(&c, KVM_EXIT_INTERNAL_ERROR);
			assert_int_equal(c.run->emulation_failure.suberror, KVM_INTERNAL_ERROR_EMULATION);
			assert_int_equal(c.run->emulation_failure.flags & 1, 1); /* the instruction's bytes */
			assert_memory_equal(c.run->emulation_failure.insn_bytes, "\x0f\x02\x06", 3);
			r = client_regs(&c);
			r.rip += 3;
			assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
			assert_int_equal(client_next_out(&c), DONE);
		}
		client_close(&c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(salc_sets_al_from_cf),
		cmocka_unit_test(smsw_and_lmsw_reach_devices),
		cmocka_unit_test(invpcid_checks_its_operands),
		cmocka_unit_test(an_outward_return_keeps_the_bases_of_inner_segments),
		cmocka_unit_test(a_trap_that_mov_ss_held_back_comes_once),
		cmocka_unit_test(what_ends_at_the_hole_ends_in_gp),
		cmocka_unit_test(an_emulation_failure_exits_when_the_client_wants_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
