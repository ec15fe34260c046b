/*
 * Interrupts end to end: a real-mode guest with its handlers in the IVT, the
 * in-kernel 8259 pair and PIT, irqfd, KVM_INTERRUPT with a client's own chips.
 */
#include <sys/eventfd.h>

#include "client.h"

/* Handler at 0x500: out 20h (value in bl), then acknowledge the 8259, iret. */
static void handler(struct client *c, uint8_t vector)
{
	static const uint8_t code[] = {0xb0, 0x20, 0xe6, 0x20, 0xb0, 0x77, 0xe6, 0x42, 0xcf};

	memcpy(c->mem + 0x500, code, sizeof(code));
	memcpy(c->mem + vector * 4, "\x00\x05\x00\x00", 4);
}

/*
 * Real mode: set the 8259 to vector base 20h and unmask all, out 98h (it is ready
 * now; an edge before its ICW1 would be forgotten), sti, hlt, out 99h.
 */
static const uint8_t pic_guest[] = {
	0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21,
	0xb0, 0x00, 0xe6, 0x21, 0xe6, 0x98, 0xfb, 0xf4, 0xb0, 0x99, 0xe6, 0x99,
};

static void open_pic_guest(struct client *c)
{
	client_open_vm(c, 1 << 20);
	assert_int_equal(ioctl(c->vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(c);
	client_real_mode(c, 0x1000, pic_guest, sizeof(pic_guest));
}

static void expect_out(struct client *c, uint16_t port, uint8_t value)
{
	assert_run_exits(c, KVM_EXIT_IO);
	assert_int_equal(c->run->io.port, port);
	assert_int_equal(((uint8_t *)c->run)[c->run->io.data_offset], value);
}

static void irq_line_wakes_the_guest_through_the_8259(void **state)
{
	struct kvm_irq_level line = {.irq = 3, .level = 1};
	struct client c;

	open_pic_guest(&c);
	handler(&c, 0x23);
	expect_out(&c, 0x98, 0);
	assert_int_equal(ioctl(c.vm, KVM_IRQ_LINE, &line), 0);
	expect_out(&c, 0x42, 0x77);
	line.level = 0;
	assert_int_equal(ioctl(c.vm, KVM_IRQ_LINE, &line), 0);
	expect_out(&c, 0x99, 0x99);
	client_close(&c);
}

static void irqfd_wakes_the_guest(void **state)
{
	struct kvm_irqfd irqfd = {.gsi = 5};
	struct client c;
	uint64_t one = 1;

	open_pic_guest(&c);
	handler(&c, 0x25);
	expect_out(&c, 0x98, 0);
	irqfd.fd = (uint32_t)eventfd(0, EFD_CLOEXEC);
	assert_int_equal(ioctl(c.vm, KVM_IRQFD, &irqfd), 0);
	assert_int_equal(write((int)irqfd.fd, &one, 8), 8);
	expect_out(&c, 0x42, 0x77);
	close((int)irqfd.fd);
	client_close(&c);
}

static void pit_ticks_arrive(void **state)
{
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	/* as pic_guest, but first channel 0 to mode 2, divisor 0x4000; then hlt for ever */
	static const uint8_t code[] = {
		0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, 0xb0, 0x00,
		0xe6, 0x21, 0xb0, 0x34, 0xe6, 0x43, 0xb0, 0x00, 0xe6, 0x40, 0xb0, 0x40, 0xe6, 0x40, 0xfb, 0xf4, 0xeb, 0xfd,
	};
	static const uint8_t tick[] = {0xb0, 0x20, 0xe6, 0x20, 0xb0, 0x77, 0xe6, 0x99, 0xcf};
	struct client c;

	client_open_vm(&c, 1 << 20);
	assert_int_equal(ioctl(c.vm, KVM_CREATE_IRQCHIP, 0), 0);
	assert_int_equal(ioctl(c.vm, KVM_CREATE_PIT2, &pit), 0);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	memcpy(c.mem + 0x500, tick, sizeof(tick));
	memcpy(c.mem + 0x20 * 4, "\x00\x05\x00\x00", 4);
	for (int i = 0; i < 10; i++)
		expect_out(&c, 0x99, 0x77);
	client_close(&c);
}

static void client_with_its_own_chips_injects_through_the_window(void **state)
{
	static const uint8_t code[] = {0x90, 0x90, 0xe6, 0x10, 0xfb, 0x90, 0x90, 0xe6, 0x11}; /* cli at start: IF=0 */
	struct kvm_interrupt irq = {.irq = 0x30};
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	memcpy(c.mem + 0x500, "\xe6\x12\xcf", 3); /* out 12h,al; iret */
	memcpy(c.mem + 0x30 * 4, "\x00\x05\x00\x00", 4);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, 0x10);
	assert_int_equal(c.run->if_flag, 0);
	assert_int_equal(c.run->ready_for_interrupt_injection, 0);
	c.run->request_interrupt_window = 1;
	assert_run_exits(&c, KVM_EXIT_IRQ_WINDOW_OPEN);
	assert_int_equal(c.run->if_flag, 1);
	assert_int_equal(c.run->ready_for_interrupt_injection, 1);
	/* The instruction after STI has run: its shadow is over. */
	assert_int_equal(client_regs(&c).rip, 0x1006);
	c.run->request_interrupt_window = 0;
	assert_int_equal(ioctl(c.vcpu, KVM_INTERRUPT, &irq), 0);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, 0x12);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, 0x11);
	client_close(&c);
}

/* KVM API: KVM_INTERRUPT: the local APIC is ours, the PIC behind its LINT0 the client's. */
static void split_irqchip_takes_the_vector_of_the_clients_pic(void **state)
{
	static const uint8_t code[] = {0x90, 0xe6, 0x10, 0xfb, 0x90, 0x90, 0xe6, 0x11}; /* cli at start: IF=0 */
	struct kvm_interrupt irq = {.irq = 0x30}, other = {.irq = 0x31}, none = {.irq = 256};
	struct kvm_enable_cap cap = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
	struct client c;

	client_open_vm(&c, 1 << 20);
	assert_int_equal(ioctl(c.vm, KVM_ENABLE_CAP, &cap), 0);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	memcpy(c.mem + 0x500, "\xe6\x12\xcf", 3); /* out 12h,al; iret */
	memcpy(c.mem + 0x30 * 4, "\x00\x05\x00\x00", 4);
	assert_fails(ioctl(c.vcpu, KVM_INTERRUPT, &none), EINVAL);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, 0x10);
	assert_int_equal(ioctl(c.vcpu, KVM_INTERRUPT, &irq), 0);
	assert_fails(ioctl(c.vcpu, KVM_INTERRUPT, &other), EEXIST);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, 0x12);
	/* It is in service: another one may wait behind IRET. */
	memcpy(c.mem + 0x31 * 4, "\x00\x06\x00\x00", 4);
	memcpy(c.mem + 0x600, "\xe6\x13\xcf", 3);
	assert_int_equal(ioctl(c.vcpu, KVM_INTERRUPT, &other), 0);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, 0x13);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, 0x11);
	client_close(&c);

	open_pic_guest(&c);
	assert_fails(ioctl(c.vcpu, KVM_INTERRUPT, &irq), ENXIO); /* the PIC is ours */
	client_close(&c);
}

static void nmi_arrives_with_interrupts_off(void **state)
{
	static const uint8_t code[] = {0xe6, 0x10, 0x90, 0x90, 0xe6, 0x11};
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	memcpy(c.mem + 0x500, "\xe6\x12\xcf", 3);
	memcpy(c.mem + 2 * 4, "\x00\x05\x00\x00", 4);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(ioctl(c.vcpu, KVM_NMI, 0), 0);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, 0x12);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, 0x11);
	client_close(&c);
}

static void ioeventfd_takes_the_write_without_an_exit(void **state)
{
	static const uint8_t code[] = {0xb0, 0x05, 0xe6, 0x50, 0xb0, 0x06, 0xe6, 0x50}; /* out 50h 5, out 50h 6 */
	struct kvm_ioeventfd ioe = {.addr = 0x50, .len = 1, .datamatch = 5,
				    .flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH};
	struct client c;
	uint64_t count = 0;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	ioe.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(ioctl(c.vm, KVM_IOEVENTFD, &ioe), 0);
	expect_out(&c, 0x50, 6); /* the 5 went to the eventfd */
	assert_int_equal(read(ioe.fd, &count, 8), 8);
	assert_int_equal(count, 1);
	close(ioe.fd);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(irq_line_wakes_the_guest_through_the_8259),
		cmocka_unit_test(irqfd_wakes_the_guest),
		cmocka_unit_test(pit_ticks_arrive),
		cmocka_unit_test(client_with_its_own_chips_injects_through_the_window),
		cmocka_unit_test(split_irqchip_takes_the_vector_of_the_clients_pic),
		cmocka_unit_test(nmi_arrives_with_interrupts_off),
		cmocka_unit_test(ioeventfd_takes_the_write_without_an_exit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
