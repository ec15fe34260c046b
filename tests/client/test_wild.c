/*
 * Guests that go wrong: nonsense in control registers, descriptor tables and
 * page tables, code where there is none. Each ends in the exit that KVM gives,
 * and the client's process goes on.
 */
#include "guest_code.h"
#include "paging.h"

static void open_wild(struct client *c, enum paging p, const uint8_t *code, size_t n)
{
	client_open_vm(c, 2 << 20);
	client_add_vcpu(c);
	paging_start(c, p, 0, 0, 0, 0);
	memcpy(c->mem + AT_CODE, code, n);
}
#define OPEN_WILD(c, p, code) open_wild(c, p, code, GUEST_CODE_SIZE(code))

/* Each of these is #GP(0) at the instruction; 64-bit code. */
GUEST_CODE(cr0_pg_without_pe, 64, "mov $0x80000020, %rax; mov %rax, %cr0");
GUEST_CODE(cr0_nw_without_cd, 64, "mov %cr0, %rax; bts $29, %rax; mov %rax, %cr0");
GUEST_CODE(cr0_high_bits, 64, "mov %cr0, %rax; bts $32, %rax; mov %rax, %cr0");
GUEST_CODE(cr0_pg_off_in_long_mode, 64, "mov %cr0, %rax; btr $31, %rax; mov %rax, %cr0");
GUEST_CODE(cr3_reserved, 64, "movabs $0xfff0000000010000, %rax; mov %rax, %cr3");
GUEST_CODE(cr4_reserved, 64, "mov %cr4, %rax; bts $31, %rax; mov %rax, %cr4");
GUEST_CODE(cr4_pae_off_in_long_mode, 64, "mov %cr4, %rax; btr $5, %rax; mov %rax, %cr4");
GUEST_CODE(cr4_vmxe, 64, "mov %cr4, %rax; bts $13, %rax; mov %rax, %cr4");
GUEST_CODE(cr8_reserved, 64, "mov $16, %eax; mov %rax, %cr8");
GUEST_CODE(efer_lme_with_paging, 64, "mov $0xc0000080, %ecx; rdmsr; btr $8, %eax; wrmsr");
GUEST_CODE(efer_reserved, 64, "mov $0xc0000080, %ecx; rdmsr; bts $20, %eax; wrmsr");
GUEST_CODE(msr_unknown, 64, "mov $0x12345678, %ecx; rdmsr");
GUEST_CODE(msr_not_canonical, 64, "mov $0xc0000100, %ecx; xor %eax, %eax; mov $0x8000, %edx; wrmsr");
GUEST_CODE(pat_nonsense, 64, "mov $0x277, %ecx; mov $0x02020202, %eax; mov %eax, %edx; wrmsr");
GUEST_CODE(apic_base_nonsense, 64, "mov $0x1b, %ecx; mov $0x400, %eax; xor %edx, %edx; wrmsr");
GUEST_CODE(dr7_high, 64, "bts $32, %rax; mov %rax, %dr7");
GUEST_CODE(xcr0_without_x87, 64, "mov %cr4, %rax; bts $18, %rax; mov %rax, %cr4; xor %ecx, %ecx; xor %edx, %edx; mov $2, %eax; xsetbv");
GUEST_CODE(lldt_null_gdt_data, 64, "mov $0x10, %ax; lldt %ax");
GUEST_CODE(ltr_of_code, 64, "mov $0x08, %ax; ltr %ax");
GUEST_CODE(int_past_idt, 64, "int $0x77");
GUEST_CODE(iret_to_nonsense, 64, "pushq $0; pushq $0x8000; pushq $2; pushq $0x123; pushq $0x1000; iretq");
GUEST_CODE(far_return_not_canonical, 64, "pushq $8; movabs $0x800000000000, %rax; push %rax; lretq");

static void nonsense_in_system_registers_is_gp(void **state)
{
	static const struct {
		const char *name;
		const uint8_t *code, *end;
		int error;
	} rows[] = {
#define ROW(name, error) {#name, name, name##_end, error}
		ROW(cr0_pg_without_pe, 0), ROW(cr0_nw_without_cd, 0), ROW(cr0_high_bits, 0),
		ROW(cr0_pg_off_in_long_mode, 0),
		ROW(cr3_reserved, 0), ROW(cr4_reserved, 0), ROW(cr4_pae_off_in_long_mode, 0), ROW(cr4_vmxe, 0),
		ROW(cr8_reserved, 0), ROW(efer_lme_with_paging, 0), ROW(efer_reserved, 0), ROW(msr_unknown, 0),
		ROW(msr_not_canonical, 0), ROW(pat_nonsense, 0), ROW(apic_base_nonsense, 0), ROW(dr7_high, 0),
		ROW(xcr0_without_x87, 0), ROW(lldt_null_gdt_data, 0x10), ROW(ltr_of_code, 0x08),
		ROW(int_past_idt, 0x77 * 8 + 2), ROW(iret_to_nonsense, 0x120), ROW(far_return_not_canonical, 0),
#undef ROW
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct client c;
		int port;

		open_wild(&c, PAGING_LONG, rows[i].code, (size_t)(rows[i].end - rows[i].code));
		if (rows[i].code == cr4_vmxe && client_cpuid_bit(&c, 1, CPUID_ECX, 5)) {
			client_close(&c);
			continue; /* with VMX the bit is the guest's to set */
		}
		/* whoever gets through says so */
		memcpy(c.mem + AT_CODE + (rows[i].end - rows[i].code), "\xe6\x40", 2);
		port = client_next_out(&c);
		if (port != 13 || (int)client_regs(&c).rdx != rows[i].error)
			fail_msg("%s: exception %d, error code %#llx", rows[i].name, port,
				 (unsigned long long)client_regs(&c).rdx);
		client_close(&c);
	}
}

GUEST_CODE(touch, 64, "mov (%rsi), %eax; out %al, $0x40");

/* Page tables where there is no memory: the walk meets what a device would answer, all ones. */
static void page_table_outside_memory_ends_the_run_and_not_the_process(void **state)
{
	struct client c;
	struct kvm_regs r;
	int n;

	OPEN_WILD(&c, PAGING_LONG, touch);
	((uint64_t *)(c.mem + 0x12000))[1] = 0xd0000000 | PG_ALL;
	r = client_regs(&c);
	r.rsi = 2 << 20;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	n = ioctl(c.vcpu, KVM_RUN, 0);
	if (n == 0) {
		if (c.run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
			assert_int_equal(c.run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);
		else if (c.run->exit_reason != KVM_EXIT_SHUTDOWN) {
			assert_int_equal(c.run->exit_reason, KVM_EXIT_IO);
			assert_int_equal(c.run->io.port, 14);
		}
	} else {
		assert_int_equal(errno, EFAULT);
	}
	/* The VM still answers. */
	r = client_regs(&c);
	r.rsi = AT_TEST;
	r.rip = AT_CODE;
	r.rsp = 0x8000;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(client_next_out(&c), 0x40);
	client_close(&c);
}

GUEST_CODE(cr3_nowhere, 64, "mov $0xd0000000, %eax; mov %rax, %cr3; mov (%rsi), %eax");

static void cr3_outside_memory_ends_in_shutdown_or_an_error(void **state)
{
	struct client c;

	OPEN_WILD(&c, PAGING_LONG, cr3_nowhere);
	if (ioctl(c.vcpu, KVM_RUN, 0) == 0)
		assert_true(c.run->exit_reason == KVM_EXIT_SHUTDOWN || c.run->exit_reason == KVM_EXIT_INTERNAL_ERROR);
	else
		assert_int_equal(errno, EFAULT);
	client_close(&c);
}

GUEST_CODE(no_stack, 64, "movabs $0x400000, %rsp; pushq %rax");

/* #PF whose handler has no stack, then #DF, then shutdown. */
static void fault_without_a_stack_is_a_triple_fault(void **state)
{
	struct client c;

	OPEN_WILD(&c, PAGING_LONG, no_stack);
	assert_run_exits(&c, KVM_EXIT_SHUTDOWN);
	client_close(&c);
}

GUEST_CODE(no_idt, 64, "xor %eax, %eax; push %rax; push %rax; lidt (%rsp); ud2");

static void empty_idt_is_a_triple_fault(void **state)
{
	struct client c;

	OPEN_WILD(&c, PAGING_LONG, no_idt);
	assert_run_exits(&c, KVM_EXIT_SHUTDOWN);
	client_close(&c);
}

/* A #PF whose gate is broken is #GP in #PF: a double fault, which has a handler. */
static void contributory_fault_in_a_page_fault_is_a_double_fault(void **state)
{
	struct client c;

	OPEN_WILD(&c, PAGING_LONG, touch);
	memset(c.mem + AT_IDT + 14 * 16, 0, 16);
	paging_pte_set(&c, PAGING_LONG, AT_TEST, 0);
	assert_int_equal(client_next_out(&c), 8);
	assert_int_equal(client_regs(&c).rdx, 0);
	assert_int_equal(client_regs(&c).rcx, AT_TEST);
	client_close(&c);
}

GUEST_CODE(jump_out, 64, "mov $0x40000000, %eax; jmp *%rax");

static void jump_to_an_unmapped_address_is_a_page_fault_there(void **state)
{
	struct client c;

	OPEN_WILD(&c, PAGING_LONG, jump_out);
	assert_int_equal(client_next_out(&c), 14);
	assert_int_equal(client_regs(&c).rcx, 0x40000000);
	assert_int_equal(*(uint64_t *)(c.mem + client_regs(&c).rsp), 0x40000000);
	client_close(&c);
}

GUEST_CODE(run_on, 16, "1: .fill 4096, 1, 0x90");

/* Off the end of the slot into nothing: there is no instruction to emulate. */
static void running_off_the_end_of_memory_is_an_internal_error(void **state)
{
	struct client c;

	client_open_vm(&c, 1 << 16);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0xf000, run_on, GUEST_CODE_SIZE(run_on));
	assert_run_exits(&c, KVM_EXIT_INTERNAL_ERROR);
	assert_int_equal(c.run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);
	assert_int_equal(client_regs(&c).rip, 0x10000);
	/* The VM still works. */
	client_flat_mode(&c, 0x1000, (const uint8_t *)"\xf4", 1);
	ioctl(c.vcpu, KVM_SET_VCPU_EVENTS, &(struct kvm_vcpu_events){0}); /* the #UD that came with it */
	assert_run_exits(&c, KVM_EXIT_HLT);
	client_close(&c);
}

GUEST_CODE(run_on_half, 16, "nop; .byte 0x66, 0xb8, 0x11, 0x22"); /* the last two bytes of it are elsewhere */

static void instruction_half_in_memory_is_an_internal_error(void **state)
{
	struct client c;

	client_open_vm(&c, 1 << 16);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x10000 - 5, run_on_half, GUEST_CODE_SIZE(run_on_half));
	assert_run_exits(&c, KVM_EXIT_INTERNAL_ERROR);
	assert_int_equal(c.run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);
	client_close(&c);
}

/* State by KVM_SET_SREGS that no processor accepts at VM entry. */
static void guest_state_that_cannot_be_entered_fails_the_entry(void **state)
{
	struct client c;
	struct kvm_sregs good, bad;
	struct kvm_regs r;

	OPEN_WILD(&c, PAGING_LONG, touch);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &good), 0);
	bad = good;
	bad.tr.type = 3; /* a 16-bit TSS in long mode */
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SREGS, &bad), 0);
	assert_run_exits(&c, KVM_EXIT_FAIL_ENTRY);
	assert_int_equal(c.run->fail_entry.hardware_entry_failure_reason, 0x80000021);
	r = client_regs(&c);
	assert_int_equal(r.rip, AT_CODE);
	bad = good;
	bad.gdt.base = 1ull << 48; /* not canonical */
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SREGS, &bad), 0);
	assert_run_exits(&c, KVM_EXIT_FAIL_ENTRY);
	assert_int_equal(c.run->fail_entry.hardware_entry_failure_reason, 0x80000021);
	bad = good;
	bad.cs.db = 1; /* with L */
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SREGS, &bad), 0);
	assert_run_exits(&c, KVM_EXIT_FAIL_ENTRY);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SREGS, &good), 0);
	assert_int_equal(client_next_out(&c), 0x40);
	client_close(&c);
}

static void sregs_that_no_processor_has_are_refused(void **state)
{
	struct client c;
	struct kvm_sregs good, bad, now;

	OPEN_WILD(&c, PAGING_LONG, touch);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &good), 0);
#define REFUSED(change)                                                             \
	do {                                                                        \
		bad = good;                                                         \
		change;                                                             \
		assert_fails(ioctl(c.vcpu, KVM_SET_SREGS, &bad), EINVAL);           \
		assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &now), 0);            \
		assert_memory_equal(&now, &good, sizeof(now));                      \
	} while (0)
	REFUSED(bad.cr4 &= ~(uint64_t)CR4_PAE);	      /* long mode without PAE */
	REFUSED(bad.efer &= ~0x400ull);		      /* LME and paging without LMA */
	REFUSED(bad.cr0 |= 1ull << 32);
	REFUSED(bad.cr4 |= 1ull << 31);
	REFUSED(bad.cr3 |= 1ull << 62);
#undef REFUSED
	client_close(&c);
}

GUEST_CODE(spin_forever, 16, "1: jmp 1b");

static void memory_of_the_running_code_unmapped_is_efault(void **state)
{
	struct client c;

	client_open_vm(&c, 1 << 16);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, spin_forever, GUEST_CODE_SIZE(spin_forever));
	munmap(c.mem, c.mem_size);
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EFAULT);
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EFAULT);
	c.mem = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	c.mem_size = 4096;
	client_close(&c);
}

static void slot_over_a_truncated_file_is_efault(void **state)
{
	struct client c;
	uint8_t *m;
	int fd = memfd_create("memory", 0);

	client_open_vm(&c, 1 << 16);
	client_add_vcpu(&c);
	assert_int_equal(ftruncate(fd, 8192), 0);
	m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	client_slot(&c, 1, 0, 0x100000, m, 8192);
	client_flat_mode(&c, 0x1000, (const uint8_t *)"\xa1\x00\x10\x10\x00\xe6\x40\xeb\xf7", 9);
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal(ftruncate(fd, 4096), 0);
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EFAULT);
	assert_int_equal(ftruncate(fd, 8192), 0);
	m[4096] = 7;
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal(((uint8_t *)c.run)[c.run->io.data_offset], 7);
	close(fd);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nonsense_in_system_registers_is_gp),
		cmocka_unit_test(page_table_outside_memory_ends_the_run_and_not_the_process),
		cmocka_unit_test(cr3_outside_memory_ends_in_shutdown_or_an_error),
		cmocka_unit_test(fault_without_a_stack_is_a_triple_fault),
		cmocka_unit_test(empty_idt_is_a_triple_fault),
		cmocka_unit_test(contributory_fault_in_a_page_fault_is_a_double_fault),
		cmocka_unit_test(jump_to_an_unmapped_address_is_a_page_fault_there),
		cmocka_unit_test(running_off_the_end_of_memory_is_an_internal_error),
		cmocka_unit_test(instruction_half_in_memory_is_an_internal_error),
		cmocka_unit_test(guest_state_that_cannot_be_entered_fails_the_entry),
		cmocka_unit_test(sregs_that_no_processor_has_are_refused),
		cmocka_unit_test(memory_of_the_running_code_unmapped_is_efault),
		cmocka_unit_test(slot_over_a_truncated_file_is_efault),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
