/*
 * Control and debug registers, and the other instructions of level 0, in real, protected and 64-bit mode: what the guest reads
 * after it has written. With shadow paging the hypervisor has an exit for most of them, and its emulator runs
 * all of real mode.
 */
#include "client.h"
#include "guest_code.h"
#include "paging.h"

#define CR0_MSW 0xfu
#define CR0_TS 8u
#define CR4_DE 8u
#define DR6_FIXED 0xffff0ff0u
#define DR7_GD (1u << 13)
#define UD 6
#define GP 13
#define AT_HANDLERS 0x3000 /* of real mode: OUT to port 40h + vector, IRET */
#define PORT_DONE 0x99

static void open_real(struct client *c, const uint8_t *code, size_t n)
{
	client_open_vm(c, 1 << 20);
	client_add_vcpu(c);
	client_all_cpuid(c);
	for (uint32_t v = 0; v < 0x40; v++) {
		*(uint32_t *)(c->mem + 4 * v) = AT_HANDLERS + 8 * v;
		memcpy(c->mem + AT_HANDLERS + 8 * v, (uint8_t[]){0xe6, (uint8_t)(0x40 + v), 0xcf}, 3);
	}
	client_real_mode(c, 0x1000, code, n);
}

static struct kvm_sregs sregs_of(struct client *c)
{
	struct kvm_sregs s;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	return s;
}

#define CONTROLS(stack)                                                                                      \
	"mov %cr0, %eax; mov %eax, %esi; or $8, %eax; mov %eax, %cr0; mov %cr0, %ebx\n"                        \
	"clts; mov %cr0, %ecx\n"                                                                             \
	"mov $0x12345678, %eax; mov %eax, %cr2; mov %cr2, %edx\n"                                            \
	"mov $0x12000, %eax; mov %eax, %cr3; mov %cr3, " stack "\n"                                             \
	"mov %cr4, %ebp; or $8, %ebp; mov %ebp, %cr4; mov %cr4, %edi; out %al, $0x99"
GUEST_CODE(controls16, 16, CONTROLS("%esp"));
GUEST_CODE(controls32, 32, CONTROLS("%esp"));

static void check_controls(struct client *c)
{
	struct kvm_sregs before = sregs_of(c), after;
	struct kvm_regs r;

	assert_int_equal(client_next_out(c), PORT_DONE);
	r = client_regs(c);
	after = sregs_of(c);
	assert_int_equal((uint32_t)r.rsi, before.cr0);
	assert_int_equal((uint32_t)r.rbx, before.cr0 | CR0_TS);
	assert_int_equal((uint32_t)r.rcx, before.cr0);
	assert_int_equal((uint32_t)r.rdx, 0x12345678);
	assert_int_equal((uint32_t)r.rsp, 0x12000);
	assert_int_equal((uint32_t)r.rdi, before.cr4 | CR4_DE);
	assert_int_equal(after.cr0, before.cr0);
	assert_int_equal(after.cr2, 0x12345678);
	assert_int_equal(after.cr3, 0x12000);
	assert_int_equal(after.cr4, before.cr4 | CR4_DE);
}

static void control_registers_read_as_written_in_real_mode(void **state)
{
	struct client c;

	open_real(&c, controls16, GUEST_CODE_SIZE(controls16));
	check_controls(&c);
	client_close(&c);
}

static void control_registers_read_as_written_in_protected_mode(void **state)
{
	for (int paging = 0; paging < 2; paging++) {
		struct client c;

		client_open_vm(&c, 2 << 20);
		client_add_vcpu(&c);
		if (paging) {
			memcpy(c.mem + AT_CODE, controls32, GUEST_CODE_SIZE(controls32));
			paging_start(&c, PAGING_32, 0, 0, 0, 0);
		} else {
			client_flat_mode(&c, 0x1000, controls32, GUEST_CODE_SIZE(controls32));
		}
		check_controls(&c);
		client_close(&c);
	}
}

/* CR8, and a value that only 64 bits hold; RSP as the register that is written. */
GUEST_CODE(controls64, 64,
	   "mov $9, %eax; mov %rax, %cr8; mov %cr8, %rbx\n"
	   "mov $0x123456789abc, %rax; mov %rax, %cr2; mov %cr2, %rdx\n"
	   "mov %cr3, %rax; mov %rax, %rsi; mov %rax, %cr3; mov %cr3, %rsp; mov %rsp, %rdi\n"
	   "mov %cr0, %rax; or $8, %rax; mov %rax, %cr0; clts; mov %cr0, %rcx; mov %cr8, %rsp; out %al, $0x99");

static void control_registers_read_as_written_in_64_bit_mode(void **state)
{
	struct kvm_regs r;
	struct client c;

	client_open_vm(&c, 2 << 20);
	client_add_vcpu(&c);
	memcpy(c.mem + AT_CODE, controls64, GUEST_CODE_SIZE(controls64));
	paging_start(&c, PAGING_LONG, 0, 0, 0, 0);
	assert_int_equal(client_next_out(&c), PORT_DONE);
	r = client_regs(&c);
	assert_int_equal(r.rbx, 9);
	assert_int_equal(r.rdx, 0x123456789abc);
	assert_int_equal(r.rsi, 0x10000);
	assert_int_equal(r.rdi, 0x10000);
	assert_int_equal(r.rcx, sregs_of(&c).cr0);
	assert_false(r.rcx & CR0_TS);
	assert_int_equal(r.rsp, 9);
	client_close(&c);
}

GUEST_CODE(tpr64, 64,
	   "mov $9, %eax; mov %rax, %cr8; mov %rax, %cr8; mov $3, %eax; mov %rax, %cr8; mov %rax, %cr8; out %al, $0x99");

/* KVM API: KVM_EXIT_SET_TPR, where the client has the APIC: it hears of a TPR that falls, of no other. */
static void a_client_with_the_apic_hears_of_a_tpr_that_falls(void **state)
{
	struct client c;

	client_open_vm(&c, 2 << 20);
	client_add_vcpu(&c);
	memcpy(c.mem + AT_CODE, tpr64, GUEST_CODE_SIZE(tpr64));
	paging_start(&c, PAGING_LONG, 0, 0, 0, 0);
	assert_int_equal(ioctl(c.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(c.run->exit_reason, KVM_EXIT_SET_TPR);
	assert_int_equal(c.run->cr8, 3);
	assert_int_equal(client_next_out(&c), PORT_DONE);
	client_close(&c);
}

/* LMSW writes the low four bits, but PE it can only set. */
GUEST_CODE(lmsw16, 16,
	   "mov $0xe, %ax; lmsw %ax; smsw %ebx; mov %cr0, %edx; mov $0, %ax; lmsw %ax; smsw %ecx; out %al, $0x99");
GUEST_CODE(lmsw32, 32,
	   "mov $0xe, %ax; lmsw %ax; smsw %ebx; mov %cr0, %edx; mov $0, %ax; lmsw %ax; smsw %ecx\n"
	   "mov $0xe, %ax; mov %ax, 0x9000; lmsw 0x9000; smsw 0x9010; clts; out %al, $0x99");

static void lmsw_cannot_clear_pe(void **state)
{
	for (uint32_t pe = 0; pe < 2; pe++) {
		struct kvm_regs r;
		struct client c;

		if (pe) {
			client_open_vm(&c, 1 << 20);
			client_add_vcpu(&c);
			client_flat_mode(&c, 0x1000, lmsw32, GUEST_CODE_SIZE(lmsw32));
		} else {
			open_real(&c, lmsw16, GUEST_CODE_SIZE(lmsw16));
		}
		assert_int_equal(client_next_out(&c), PORT_DONE);
		r = client_regs(&c);
		assert_int_equal((uint32_t)r.rbx, (uint32_t)r.rdx);
		assert_int_equal(r.rbx & CR0_MSW, 0xe | pe);
		assert_int_equal(r.rcx & CR0_MSW, pe);
		if (pe) {
			assert_int_equal(*(uint16_t *)(c.mem + 0x9010) & CR0_MSW, 0xf);
			assert_int_equal(sregs_of(&c).cr0 & CR0_MSW, 0xf & ~CR0_TS);
		}
		client_close(&c);
	}
}

/* DR4 and DR5 are DR6 and DR7. */
#define DEBUG_REGISTERS                                                              \
	"mov $0x1234, %eax; mov %eax, %db2; mov %db2, %ebx\n"                          \
	"mov $0xffff0ff1, %eax; mov %eax, %db4; mov %db6, %ecx; mov $0x500, %eax; mov %eax, %db5; mov %db7, %edx\n" \
	"mov %db6, %esi; mov %db7, %esp; out %al, $0x99"
GUEST_CODE(debug16, 16, DEBUG_REGISTERS);
GUEST_CODE(debug32, 32, DEBUG_REGISTERS);
GUEST_CODE(debug_ud16, 16, "mov %cr4, %eax; or $8, %eax; mov %eax, %cr4; mov %db5, %edx; out %al, $0x99");
GUEST_CODE(debug_ud32, 32, "mov %cr4, %eax; or $8, %eax; mov %eax, %cr4; mov %edx, %db4; out %al, $0x99");

static void open_debug(struct client *c, bool real, bool debugger, const uint8_t *code, size_t n)
{
	struct kvm_guest_debug d = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, .arch.debugreg[7] = 0x400};

	if (real) {
		open_real(c, code, n);
	} else {
		client_open_vm(c, 2 << 20);
		client_add_vcpu(c);
		memcpy(c->mem + AT_CODE, code, n);
		paging_start(c, PAGING_32, 0, 0, 0, 0);
	}
	if (debugger) /* MOV DR has an exit then */
		assert_int_equal(ioctl(c->vcpu, KVM_SET_GUEST_DEBUG, &d), 0);
}

static void debug_registers_4_and_5_are_6_and_7_without_de(void **state)
{
	for (int k = 0; k < 4; k++) {
		bool real = k & 1;
		struct kvm_debugregs d;
		struct kvm_regs r;
		struct client c;

		open_debug(&c, real, k & 2, real ? debug16 : debug32, real ? GUEST_CODE_SIZE(debug16) : GUEST_CODE_SIZE(debug32));
		assert_int_equal(client_next_out(&c), PORT_DONE);
		r = client_regs(&c);
		assert_int_equal((uint32_t)r.rbx, 0x1234);
		assert_int_equal((uint32_t)r.rcx, DR6_FIXED | 1);
		assert_int_equal((uint32_t)r.rdx, 0x500);
		assert_int_equal((uint32_t)r.rsi, DR6_FIXED | 1);
		assert_int_equal((uint32_t)r.rsp, 0x500);
		assert_int_equal(ioctl(c.vcpu, KVM_GET_DEBUGREGS, &d), 0);
		assert_int_equal(d.db[2], 0x1234);
		assert_int_equal(d.dr7, 0x500);
		client_close(&c);
	}
}

static void debug_registers_4_and_5_are_undefined_with_de(void **state)
{
	for (int k = 0; k < 4; k++) {
		bool real = k & 1;
		struct client c;

		open_debug(&c, real, k & 2, real ? debug_ud16 : debug_ud32,
			   real ? GUEST_CODE_SIZE(debug_ud16) : GUEST_CODE_SIZE(debug_ud32));
		assert_int_equal(client_next_out(&c), real ? 0x40 + UD : UD);
		client_close(&c);
	}
}

/* #DB with BD, before the access; GD is clear for the handler, which may look. */
GUEST_CODE(guarded16, 16, "mov $0x2400, %eax; mov %eax, %db7; mov %db0, %ebx; out %al, $0x99");

static void a_guarded_debug_register_traps_in_real_mode(void **state)
{
	struct kvm_debugregs d;
	struct client c;

	open_real(&c, guarded16, GUEST_CODE_SIZE(guarded16));
	assert_int_equal(client_next_out(&c), 0x40 + 1);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_DEBUGREGS, &d), 0);
	assert_true(d.dr6 & 1u << 13);
	assert_false(d.dr7 & DR7_GD);
	client_close(&c);
}

/* --- the rest of real mode --- */

GUEST_CODE(msrs, 16,
	   "mov $0x174, %ecx; mov $0x55, %eax; xor %edx, %edx; wrmsr; xor %eax, %eax; rdmsr; mov %eax, %esi\n"
	   "invd; wbinvd; mov $0x10, %ecx; rdtsc; out %al, $0x99");
GUEST_CODE(no_msr_read, 16, "mov $0x4444, %ecx; rdmsr; out %al, $0x99");
GUEST_CODE(no_msr_write, 16, "mov $0x4444, %ecx; wrmsr; out %al, $0x99");

static void msrs_are_read_and_written_in_real_mode(void **state)
{
	struct client c;

	open_real(&c, msrs, GUEST_CODE_SIZE(msrs));
	assert_int_equal(client_next_out(&c), PORT_DONE);
	assert_int_equal((uint32_t)client_regs(&c).rsi, 0x55);
	client_close(&c);
	open_real(&c, no_msr_read, GUEST_CODE_SIZE(no_msr_read));
	assert_int_equal(client_next_out(&c), 0x40 + GP);
	client_close(&c);
	open_real(&c, no_msr_write, GUEST_CODE_SIZE(no_msr_write));
	assert_int_equal(client_next_out(&c), 0x40 + GP);
	client_close(&c);
}

/* Each is answered by its vector's OUT, or by none. */
GUEST_CODE(interrupts, 16,
	   "xor %ax, %ax; into; int $0x20; int3; .byte 0xf1; mov $0x7f, %al; add $1, %al; into; out %al, $0x99");

static void software_interrupts_of_real_mode_come_by_their_vectors(void **state)
{
	static const int expect[] = {0x40 + 0x20, 0x40 + 3, 0x40 + 1, 0x40 + 4, PORT_DONE};
	struct client c;

	open_real(&c, interrupts, GUEST_CODE_SIZE(interrupts));
	for (unsigned i = 0; i < sizeof(expect) / sizeof(expect[0]); i++)
		assert_int_equal(client_next_out(&c), expect[i]);
	client_close(&c);
}

GUEST_CODE(beyond, 16, "int $0x20; out %al, $0x99");

/* A table that ends before the vector, but not before #GP's. */
static void a_vector_beyond_real_modes_table_is_gp(void **state)
{
	struct kvm_sregs s;
	struct client c;

	open_real(&c, beyond, GUEST_CODE_SIZE(beyond));
	s = sregs_of(&c);
	s.idt.limit = 4 * 0x20 + 2;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SREGS, &s), 0);
	assert_int_equal(client_next_out(&c), 0x40 + GP);
	assert_int_equal(*(uint16_t *)(c.mem + client_regs(&c).rsp), 0x1000); /* a fault: the INT itself, no error code */
	client_close(&c);
}

/* LLDT, LTR, SLDT, STR, LAR, LSL, VERR, VERW, ARPL, and RSM outside SMM. */
static void instructions_of_protected_mode_are_undefined_in_real_mode(void **state)
{
	static const uint8_t t[][4] = {
		{0x0f, 0x00, 0xd0}, {0x0f, 0x00, 0xd8}, {0x0f, 0x00, 0xc0}, {0x0f, 0x00, 0xc8}, {0x0f, 0x02, 0xc0},
		{0x0f, 0x03, 0xc0}, {0x0f, 0x00, 0xe0}, {0x0f, 0x00, 0xe8}, {0x63, 0xc0},	    {0x0f, 0xaa},
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct client c;

		open_real(&c, t[i], sizeof(t[i]));
		assert_int_equal(client_next_out(&c), 0x40 + UD);
		client_close(&c);
	}
}

/* --- 64-bit mode --- */

static int first_out(const uint8_t *code, size_t n, uint64_t quirks)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_DISABLE_QUIRKS2, .args[0] = quirks};
	struct client c;
	int port;

	client_open_vm(&c, 2 << 20);
	if (quirks)
		assert_int_equal(ioctl(c.vm, KVM_ENABLE_CAP, &cap), 0);
	client_add_vcpu(&c);
	memcpy(c.mem + AT_CODE, code, n);
	paging_start(&c, PAGING_LONG, 0, 0, 0, 0);
	port = client_next_out(&c);
	client_close(&c);
	return port;
}

GUEST_CODE(monitor, 64, "mov $0x9000, %eax; xor %ecx, %ecx; xor %edx, %edx; monitor; out %al, $0x99");
GUEST_CODE(mwait, 64, "xor %eax, %eax; xor %ecx, %ecx; mwait; out %al, $0x99");
GUEST_CODE(rdpmc, 64, "mov $0x40000000, %ecx; rdpmc; out %al, $0x99");
GUEST_CODE(vmxoff, 64, "vmxoff; out %al, $0x99");
GUEST_CODE(invlpg, 64, "mov $0x8000000000000000, %rax; invlpg (%rax); out %al, $0x99");

/* KVM API: KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS. */
static void mwait_does_nothing_or_is_undefined_by_the_quirk(void **state)
{
	assert_int_equal(first_out(monitor, GUEST_CODE_SIZE(monitor), 0), PORT_DONE);
	assert_int_equal(first_out(mwait, GUEST_CODE_SIZE(mwait), 0), PORT_DONE);
	assert_int_equal(first_out(monitor, GUEST_CODE_SIZE(monitor), KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS), UD);
	assert_int_equal(first_out(mwait, GUEST_CODE_SIZE(mwait), KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS), UD);
}

static void what_no_vcpu_has_faults(void **state)
{
	assert_int_equal(first_out(vmxoff, GUEST_CODE_SIZE(vmxoff), 0), UD); /* outside VMX operation, or without VMX */
	assert_int_equal(first_out(rdpmc, GUEST_CODE_SIZE(rdpmc), 0), GP);
	assert_int_equal(first_out(invlpg, GUEST_CODE_SIZE(invlpg), 0), PORT_DONE); /* not canonical: nothing to do */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(control_registers_read_as_written_in_real_mode),
		cmocka_unit_test(control_registers_read_as_written_in_protected_mode),
		cmocka_unit_test(control_registers_read_as_written_in_64_bit_mode),
		cmocka_unit_test(a_client_with_the_apic_hears_of_a_tpr_that_falls),
		cmocka_unit_test(lmsw_cannot_clear_pe),
		cmocka_unit_test(debug_registers_4_and_5_are_6_and_7_without_de),
		cmocka_unit_test(debug_registers_4_and_5_are_undefined_with_de),
		cmocka_unit_test(a_guarded_debug_register_traps_in_real_mode),
		cmocka_unit_test(msrs_are_read_and_written_in_real_mode),
		cmocka_unit_test(software_interrupts_of_real_mode_come_by_their_vectors),
		cmocka_unit_test(a_vector_beyond_real_modes_table_is_gp),
		cmocka_unit_test(instructions_of_protected_mode_are_undefined_in_real_mode),
		cmocka_unit_test(mwait_does_nothing_or_is_undefined_by_the_quirk),
		cmocka_unit_test(what_no_vcpu_has_faults),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
