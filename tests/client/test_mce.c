/*
 * Machine checks that the client raises (KVM API: KVM_X86_SETUP_MCE,
 * KVM_X86_SET_MCE): uncorrected errors that need no action end in a bank and, where
 * the guest asked for it, in the interrupt of LVTCMCI; the others in #MC.
 */
#include "guest_code.h"
#include "paging.h"

#define MCG_CTL_P (1ull << 8)
#define MCG_CMCI_P (1ull << 10)
#define BANKS 4
#define VAL (1ull << 63)
#define UC (1ull << 61)
#define EN (1ull << 60)
#define PCC (1ull << 57)
#define LVT_CMCI 0x2f0

/*
 * x2APIC on, LVTCMCI to vector 41h, the interrupt of bank 1; then, each time: vectors 40h..5fh that
 * wait, out 40h; bank 1's address, out 41h.
 */
GUEST_CODE(waits_for_cmci, 64,
	   "mov $0x1b, %ecx; rdmsr; or $0xc00, %eax; wrmsr; xor %edx, %edx; mov $0x80f, %ecx; mov $0x1ff, %eax; wrmsr\n"
	   "mov $0x82f, %ecx; mov $0x41, %eax; wrmsr; mov $0x281, %ecx; mov $0x40000000, %eax; wrmsr\n"
	   "1: mov $0x822, %ecx; rdmsr; outb %al, $0x40; mov $0x406, %ecx; rdmsr; outb %al, $0x41; jmp 1b");
/* Takes the interrupt of bank 1 away again and goes on as before. */
GUEST_CODE(without_cmci, 64, "mov $0x281, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr\n"
			     "1: mov $0x822, %ecx; rdmsr; outb %al, $0x40; mov $0x406, %ecx; rdmsr; outb %al, $0x41; jmp 1b");
GUEST_CODE(reads_ctl2, 64, "mov $0x281, %ecx; rdmsr; outb %al, $0x40");
GUEST_CODE(reserved_ctl2, 64, "mov $0x281, %ecx; mov $0x80000000, %eax; xor %edx, %edx; wrmsr; outb %al, $0x40");

static void open_guest(struct client *c, uint64_t cap, const void *code, size_t size)
{
	client_open_vm(c, 2 << 20);
	assert_int_equal(ioctl(c->vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(c);
	cap |= BANKS;
	assert_int_equal(ioctl(c->vcpu, KVM_X86_SETUP_MCE, &cap), 0);
	paging_start(c, PAGING_LONG, 0, 0, 0, 0);
	memcpy(c->mem + AT_CODE, code, size);
}

static uint32_t apic_reg(struct client *c, unsigned offset)
{
	struct kvm_lapic_state s;
	uint32_t v;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_LAPIC, &s), 0);
	memcpy(&v, s.regs + offset, 4);
	return v;
}

static void inject(struct client *c, uint64_t status, uint64_t addr)
{
	struct kvm_x86_mce e = {.status = status, .addr = addr, .bank = 1};

	assert_int_equal(ioctl(c->vcpu, KVM_X86_SET_MCE, &e), 0);
}

/* The next round of the guest: what waits, and the error's address. */
static void assert_round(struct client *c, unsigned waiting, unsigned addr)
{
	assert_int_equal(client_next_out(c), 0x40);
	assert_int_equal(client_regs(c).rax, waiting);
	assert_int_equal(client_next_out(c), 0x41);
	assert_int_equal(client_regs(c).rax, addr);
}

static void error_without_action_interrupts_where_asked(void **state)
{
	struct kvm_regs regs;
	struct client c;

	open_guest(&c, MCG_CTL_P | MCG_CMCI_P, waits_for_cmci, GUEST_CODE_SIZE(waits_for_cmci));
	assert_int_equal(apic_reg(&c, 0x30), 0x60014); /* seven entries */
	assert_int_equal(apic_reg(&c, LVT_CMCI), 0x10000);
	assert_round(&c, 0, 0);
	assert_int_equal(apic_reg(&c, LVT_CMCI), 0x41);
	inject(&c, VAL | UC | EN | 0x90, 0x7000);
	assert_round(&c, 1u << 1, 0x7000);
	client_close(&c);

	open_guest(&c, MCG_CTL_P | MCG_CMCI_P, waits_for_cmci, GUEST_CODE_SIZE(waits_for_cmci));
	assert_round(&c, 0, 0);
	regs = client_regs(&c);
	memcpy(c.mem + AT_CODE, without_cmci, GUEST_CODE_SIZE(without_cmci));
	regs.rip = AT_CODE;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &regs), 0);
	assert_round(&c, 0, 0);
	inject(&c, VAL | UC | EN | 0x90, 0x9000);
	assert_round(&c, 0, 0x9000);
	client_close(&c);
}

/* One that says "context corrupt" is an exception, which without CR4.MCE is a shutdown. */
static void worse_errors_are_exceptions(void **state)
{
	struct client c;

	open_guest(&c, MCG_CTL_P | MCG_CMCI_P, waits_for_cmci, GUEST_CODE_SIZE(waits_for_cmci));
	assert_round(&c, 0, 0);
	inject(&c, VAL | UC | EN | PCC | 0x90, 0x7000);
	assert_run_exits(&c, KVM_EXIT_SHUTDOWN);
	client_close(&c);
}

static void the_entry_and_its_msrs_are_there_with_the_capability_only(void **state)
{
	struct client c;
	uint64_t cap = BANKS;

	open_guest(&c, MCG_CTL_P, reads_ctl2, GUEST_CODE_SIZE(reads_ctl2));
	assert_int_equal(apic_reg(&c, 0x30), 0x50014);
	assert_int_equal(apic_reg(&c, LVT_CMCI), 0);
	assert_int_equal(client_next_out(&c), 13); /* #GP */
	client_close(&c);

	open_guest(&c, MCG_CMCI_P, reads_ctl2, GUEST_CODE_SIZE(reads_ctl2));
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal(ioctl(c.vcpu, KVM_X86_SETUP_MCE, &cap), 0); /* and gone again */
	assert_int_equal(apic_reg(&c, 0x30), 0x50014);
	client_close(&c);

	open_guest(&c, MCG_CMCI_P, reserved_ctl2, GUEST_CODE_SIZE(reserved_ctl2));
	assert_int_equal(client_next_out(&c), 13);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(error_without_action_interrupts_where_asked),
		cmocka_unit_test(worse_errors_are_exceptions),
		cmocka_unit_test(the_entry_and_its_msrs_are_there_with_the_capability_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
