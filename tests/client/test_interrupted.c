/*
 * VM exits in the middle of something that has to be taken up again: an IRET whose stack is not mapped yet, and the
 * delivery of an event whose stack fills the page-modification log. (SDM vol. 3, "Resuming Guest
 * Software after Handling an Exception", "NMI Unblocking due to IRET", "Information for VM Exits During Event Delivery".)
 */
#include "client.h"
#include "guest_code.h"

static struct client c;

/* --- NMIs stay blocked until the IRET has been done --- */

#define NMI_HANDLER 0x500
#define FRESH_STACK 0x40000 /* a page that the guest has not touched */
#define AFTER_IRET 0x2000

/*
 * The first NMI's handler: port 42h (the client sends the second NMI then), then IRET from a frame
 * on the fresh page. The second's: port 43h with the address that it came from in AX.
 */
GUEST_CODE(nmi_handler, 16,
	   "cmpb $0, %cs:0x700; jne 1f; incb %cs:0x700\n"
	   "out %al, $0x42; mov $0x4000, %bx; mov %bx, %ss; xor %sp, %sp; iret\n"
	   "1: pop %ax; out %al, $0x43; hlt");
GUEST_CODE(wait_for_nmi, 16, "1: jmp 1b");

static void second_nmi_waits_for_an_iret_that_faults(void **state)
{
	uint16_t frame[3] = {AFTER_IRET, 0, 2};

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	memcpy(c.mem + NMI_HANDLER, nmi_handler, GUEST_CODE_SIZE(nmi_handler));
	memcpy(c.mem + AFTER_IRET, wait_for_nmi, GUEST_CODE_SIZE(wait_for_nmi));
	memcpy(c.mem + FRESH_STACK, frame, sizeof(frame));
	c.mem[2 * 4] = NMI_HANDLER & 0xff;
	c.mem[2 * 4 + 1] = NMI_HANDLER >> 8;
	c.mem[0x700] = 0;
	client_real_mode(&c, 0x1000, wait_for_nmi, GUEST_CODE_SIZE(wait_for_nmi));
	assert_int_equal(ioctl(c.vcpu, KVM_NMI, 0), 0);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, 0x42);
	assert_int_equal(ioctl(c.vcpu, KVM_NMI, 0), 0);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, 0x43);
	assert_int_equal(client_regs(&c).rax & 0xffff, AFTER_IRET);
	client_close(&c);
}

/* --- a delivery whose push is the 513th write that has to be logged --- */

#define DATA 0x100000
#define PML_ENTRIES 512
#define STACK_TOP (DATA + (PML_ENTRIES + 2) * 0x1000)
#define MEM_SIZE (4 << 20)
#define SELECTOR_CODE 8

/* A dword of each of ECX pages from EDI on. */
#define WRITE_PAGES "1: movl $0x5a5a5a5a, (%edi); add $0x1000, %edi; loop 1b\n"
/*
 * Every page once, the stack's too, and INT 21h once, so that all are mapped; then, when the client has looked
 * at the log, 512 pages and an INT 21h, whose handler tells what it found on the stack.
 */
GUEST_CODE(fill_log, 32,
	   "mov $0x100000, %edi; mov $514, %ecx\n" WRITE_PAGES
	   "int $0x21; out %al, $0x42\n"
	   "mov $0x100000, %edi; mov $512, %ecx\n" WRITE_PAGES
	   "mov $0x11, %ebx; int $0x21; out %al, $0x43; hlt");
GUEST_CODE(on_int, 32, "mov $0x22, %ebx; mov 8(%esp), %edx; iret");

static void put_idt_and_gdt(void)
{
	uint64_t *gdt = (uint64_t *)(c.mem + 0x5000), *idt = (uint64_t *)(c.mem + 0x6000);
	struct kvm_sregs s;

	gdt[1] = 0x00cf9b000000ffff;
	gdt[2] = 0x00cf93000000ffff;
	idt[0x21] = (uint64_t)0x8e00 << 32 | SELECTOR_CODE << 16 | 0x3000; /* 32-bit interrupt gate */
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	s.gdt = (struct kvm_dtable){.base = 0x5000, .limit = 23};
	s.idt = (struct kvm_dtable){.base = 0x6000, .limit = 0x22 * 8 - 1};
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SREGS, &s), 0);
}

static uint64_t *dirty_log(void)
{
	static uint64_t bits[MEM_SIZE / 0x1000 / 64];
	struct kvm_dirty_log log = {.slot = 0, .dirty_bitmap = bits};

	assert_int_equal(ioctl(c.vm, KVM_GET_DIRTY_LOG, &log), 0);
	return bits;
}

static bool is_dirty(const uint64_t *bits, uint64_t gpa)
{
	return bits[gpa / 0x1000 / 64] >> (gpa / 0x1000 % 64) & 1;
}

static void full_log_in_a_delivery_loses_neither_event_nor_page(void **state)
{
	struct kvm_regs r;
	uint64_t *bits;

	client_open_vm(&c, MEM_SIZE);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, fill_log, GUEST_CODE_SIZE(fill_log));
	memcpy(c.mem + 0x3000, on_int, GUEST_CODE_SIZE(on_int));
	put_idt_and_gdt();
	r = client_regs(&c);
	r.rsp = STACK_TOP;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	client_slot(&c, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, c.mem, MEM_SIZE);
	assert_run_exits(&c, KVM_EXIT_IO);
	dirty_log();
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, 0x43);
	r = client_regs(&c);
	assert_int_equal(r.rbx, 0x22);
	assert_int_equal(r.rsp, STACK_TOP);
	assert_int_equal(r.rdx & 0xf72a, 2); /* EFLAGS of the frame, without the six of arithmetic */
	bits = dirty_log();
	for (uint64_t gpa = DATA; gpa < DATA + PML_ENTRIES * 0x1000; gpa += 0x1000)
		assert_true(is_dirty(bits, gpa));
	assert_true(is_dirty(bits, STACK_TOP - 4));
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(second_nmi_waits_for_an_iret_that_faults),
		cmocka_unit_test(full_log_in_a_delivery_loses_neither_event_nor_page),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
