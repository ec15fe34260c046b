/*
 * Ways in and out that make no exit, or an odd one: ioeventfd of every kind,
 * coalesced MMIO and PIO, irqfd with resampling, MSI by ioctl, by route and by
 * irqfd, the split irqchip and its KVM_EXIT_IOAPIC_EOI.
 */
#include <poll.h>
#include <sys/eventfd.h>

#include "guest_code.h"
#include "paging.h"
#include "stats.h"

#define DEVICE 0xd0000000u

static uint64_t count_of(int fd)
{
	uint64_t n = 0;

	return read(fd, &n, 8) == 8 ? n : 0;
}

static int new_eventfd(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	assert_true(fd >= 0);
	return fd;
}

static void open_flat(struct client *c, const uint8_t *code, size_t n)
{
	client_open_vm(c, 1 << 20);
	client_add_vcpu(c);
	client_flat_mode(c, 0x1000, code, n);
}

/* A write that matches, one of another value, one of another length, then one beside it. */
GUEST_CODE(mmio_writes, 32,
	   "movl $0xd0000000, %edi; movl $7, (%edi); movl $8, (%edi); movw $7, (%edi); movl $7, 4(%edi); outb %al, $0x40");

static void ioeventfd_on_mmio_takes_what_matches(void **state)
{
	struct kvm_ioeventfd ioe = {.addr = DEVICE, .len = 4, .datamatch = 7, .flags = KVM_IOEVENTFD_FLAG_DATAMATCH};
	struct client c;

	open_flat(&c, mmio_writes, GUEST_CODE_SIZE(mmio_writes));
	ioe.fd = new_eventfd();
	assert_int_equal(ioctl(c.vm, KVM_IOEVENTFD, &ioe), 0);
	assert_fails(ioctl(c.vm, KVM_IOEVENTFD, &ioe), EEXIST);
	assert_run_exits(&c, KVM_EXIT_MMIO);
	assert_int_equal(count_of(ioe.fd), 1);
	assert_int_equal(c.run->mmio.data[0], 8);
	assert_run_exits(&c, KVM_EXIT_MMIO);
	assert_int_equal(c.run->mmio.len, 2);
	assert_run_exits(&c, KVM_EXIT_MMIO);
	assert_int_equal(c.run->mmio.phys_addr, DEVICE + 4);
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal(count_of(ioe.fd), 0);
	ioe.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	assert_int_equal(ioctl(c.vm, KVM_IOEVENTFD, &ioe), 0);
	assert_fails(ioctl(c.vm, KVM_IOEVENTFD, &ioe), ENOENT);
	close(ioe.fd);
	client_close(&c);
}

static void ioeventfd_of_no_length_takes_every_write_to_its_address(void **state)
{
	struct kvm_ioeventfd ioe = {.addr = DEVICE};
	const char *params = getenv("USERKVM_PARAMS");
	struct client c;
	struct stats s;

	open_flat(&c, mmio_writes, GUEST_CODE_SIZE(mmio_writes));
	ioe.fd = new_eventfd();
	assert_int_equal(ioctl(c.vm, KVM_IOEVENTFD, &ioe), 0);
	assert_run_exits(&c, KVM_EXIT_MMIO);
	assert_int_equal(c.run->mmio.phys_addr, DEVICE + 4);
	assert_int_equal(count_of(ioe.fd), 3);
	assert_int_equal(client_next_out(&c), 0x40);
	/* with EPT the first write finds out that there is no memory, and the two others are not emulated */
	open_stats(&s, c.vcpu);
	assert_int_equal(value(&s, "insn_emulation"), params && strstr(params, "ept=0") ? 4 : 2);
	close_stats(&s);
	close(ioe.fd);
	client_close(&c);
}

GUEST_CODE(coalesced_writes, 32,
	   "movl $0xd0000000, %edi; movl $0x11, (%edi); movb $0x22, 9(%edi); movb $0x33, %al; outb %al, $0x70\n"
	   "movl $0x44, 0x10(%edi); outb %al, $0x40");

static void coalesced_writes_wait_in_the_ring(void **state)
{
	struct kvm_coalesced_mmio_zone mmio = {.addr = DEVICE, .size = 16}, pio = {.addr = 0x70, .size = 1, .pio = 1};
	struct kvm_coalesced_mmio_ring *ring;
	struct client c;
	int page;

	open_flat(&c, coalesced_writes, GUEST_CODE_SIZE(coalesced_writes));
	page = ioctl(c.kvm, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO);
	assert_true(page > 0);
	assert_int_equal(ioctl(c.vm, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_PIO), 1);
	ring = (void *)((uint8_t *)c.run + page * 4096);
	assert_int_equal(ioctl(c.vm, KVM_REGISTER_COALESCED_MMIO, &mmio), 0);
	assert_int_equal(ioctl(c.vm, KVM_REGISTER_COALESCED_MMIO, &pio), 0);
	assert_run_exits(&c, KVM_EXIT_MMIO); /* past the zone */
	assert_int_equal(c.run->mmio.phys_addr, DEVICE + 0x10);
	assert_int_equal(ring->first, 0);
	assert_int_equal(ring->last, 3);
	assert_int_equal(ring->coalesced_mmio[0].phys_addr, DEVICE);
	assert_int_equal(ring->coalesced_mmio[0].len, 4);
	assert_int_equal(ring->coalesced_mmio[0].data[0], 0x11);
	assert_int_equal(ring->coalesced_mmio[0].pio, 0);
	assert_int_equal(ring->coalesced_mmio[1].phys_addr, DEVICE + 9);
	assert_int_equal(ring->coalesced_mmio[1].len, 1);
	assert_int_equal(ring->coalesced_mmio[2].phys_addr, 0x70);
	assert_int_equal(ring->coalesced_mmio[2].pio, 1);
	assert_int_equal(ring->coalesced_mmio[2].data[0], 0x33);
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal(ioctl(c.vm, KVM_UNREGISTER_COALESCED_MMIO, &mmio), 0);
	client_flat_mode(&c, 0x1000, coalesced_writes, GUEST_CODE_SIZE(coalesced_writes));
	assert_run_exits(&c, KVM_EXIT_MMIO);
	assert_int_equal(c.run->mmio.phys_addr, DEVICE);
	client_close(&c);
}

GUEST_CODE(many_writes, 32, "movl $0xd0000000, %edi; movl $1000, %ecx; 1: movl %ecx, (%edi); loop 1b; outb %al, $0x40");

static void full_ring_is_an_exit(void **state)
{
	struct kvm_coalesced_mmio_zone mmio = {.addr = DEVICE, .size = 16};
	struct kvm_coalesced_mmio_ring *ring;
	struct client c;
	unsigned n = 0, exits = 0, capacity;

	open_flat(&c, many_writes, GUEST_CODE_SIZE(many_writes));
	ring = (void *)((uint8_t *)c.run + ioctl(c.kvm, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO) * 4096);
	capacity = (4096 - sizeof(*ring)) / sizeof(struct kvm_coalesced_mmio);
	assert_int_equal(ioctl(c.vm, KVM_REGISTER_COALESCED_MMIO, &mmio), 0);
	for (;;) {
		assert_int_equal(ioctl(c.vcpu, KVM_RUN, 0), 0);
		for (; ring->first != ring->last; n++) {
			assert_int_equal(*(uint32_t *)ring->coalesced_mmio[ring->first].data, 1000 - n);
			ring->first = (ring->first + 1) % capacity;
		}
		if (c.run->exit_reason != KVM_EXIT_MMIO)
			break;
		assert_int_equal(*(uint32_t *)c.run->mmio.data, 1000 - n);
		n++;
		exits++;
	}
	assert_int_equal(c.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(n, 1000);
	assert_int_equal(exits, 1000 / capacity);
	client_close(&c);
}

/* --- interrupts to a guest with a local APIC --- */

/*
 * 64-bit; the handlers are paging.h's stubs, so an interrupt shows as an OUT to
 * the port of its vector. Enable the APIC (SVR), mask LINT0 (nobody has set the
 * 8259 pair up), then halt for ever.
 */
GUEST_CODE(apic_guest, 64,
	   "movl $0xfee000f0, %edi; movl $0x1ff, (%rdi); movl $0x10000, 0x260(%rdi); outb %al, $0x7f; sti; 1: hlt; jmp 1b");

static void map_chips(struct client *c)
{
	/* 1 GiB page of the last GiB below 4 GiB */
	((uint64_t *)(c->mem + 0x11000))[3] = 0xc0000000 | PG_ALL | PG_PS;
}

/* The stub's end: `int v` acknowledges the APIC and returns. */
static void stub_with_eoi(struct client *c, uint8_t vector)
{
	uint8_t *p = c->mem + AT_STUBS + vector * 16;

	/* out vector, al; mov dword [rdi - 0x40], 0 (EOI); iretq */
	*p++ = 0xe6;
	*p++ = vector;
	memcpy(p, "\xc7\x47\xc0\x00\x00\x00\x00\x48\xcf", 9);
}

static void open_apic_guest(struct client *c, bool split)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};

	client_open_vm(c, 2 << 20);
	if (split)
		assert_int_equal(ioctl(c->vm, KVM_ENABLE_CAP, &cap), 0);
	else
		assert_int_equal(ioctl(c->vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(c);
	paging_start(c, PAGING_LONG, 0, 0, 0, 0);
	map_chips(c);
	memcpy(c->mem + AT_CODE, apic_guest, GUEST_CODE_SIZE(apic_guest));
	for (uint8_t v = 0x30; v < 0x38; v++)
		stub_with_eoi(c, v);
	assert_int_equal(client_next_out(c), 0x7f);
}

static void msi_by_ioctl_arrives(void **state)
{
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x31};
	struct client c;

	open_apic_guest(&c, false);
	assert_int_equal(ioctl(c.vm, KVM_SIGNAL_MSI, &msi), 1);
	assert_int_equal(client_next_out(&c), 0x31);
	msi.data = 0x32;
	assert_int_equal(ioctl(c.vm, KVM_SIGNAL_MSI, &msi), 1);
	assert_int_equal(client_next_out(&c), 0x32);
	msi.flags = 0x80;
	assert_fails(ioctl(c.vm, KVM_SIGNAL_MSI, &msi), EINVAL);
	client_close(&c);
}

static void msi_of_delivery_mode_nmi_is_an_nmi(void **state)
{
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x400};
	struct client c;

	open_apic_guest(&c, false);
	assert_int_equal(ioctl(c.vm, KVM_SIGNAL_MSI, &msi), 1);
	assert_int_equal(client_next_out(&c), 2);
	client_close(&c);
}

static void set_msi_route(struct client *c, uint32_t gsi, uint32_t data)
{
	struct {
		struct kvm_irq_routing h;
		struct kvm_irq_routing_entry e[1];
	} r = {.h.nr = 1,
	       .e = {{.gsi = gsi, .type = KVM_IRQ_ROUTING_MSI, .u.msi = {.address_lo = 0xfee00000, .data = data}}}};

	assert_int_equal(ioctl(c->vm, KVM_SET_GSI_ROUTING, &r), 0);
}

static void route_to_an_msi_works_by_line_and_by_irqfd(void **state)
{
	struct kvm_irq_level line = {.irq = 40, .level = 1};
	struct kvm_irqfd irqfd = {.gsi = 40};
	uint64_t one = 1;
	struct client c;

	open_apic_guest(&c, false);
	set_msi_route(&c, 40, 0x33);
	assert_int_equal(ioctl(c.vm, KVM_IRQ_LINE, &line), 0);
	assert_int_equal(client_next_out(&c), 0x33);
	irqfd.fd = (uint32_t)new_eventfd();
	assert_int_equal(ioctl(c.vm, KVM_IRQFD, &irqfd), 0);
	assert_int_equal(write((int)irqfd.fd, &one, 8), 8);
	assert_int_equal(client_next_out(&c), 0x33);
	set_msi_route(&c, 40, 0x34); /* the irqfd follows */
	assert_int_equal(write((int)irqfd.fd, &one, 8), 8);
	assert_int_equal(client_next_out(&c), 0x34);
	irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
	assert_int_equal(ioctl(c.vm, KVM_IRQFD, &irqfd), 0);
	close((int)irqfd.fd);
	client_close(&c);
}

/* IOAPIC register writes by the client: KVM_SET_IRQCHIP. */
static void ioapic_pin(struct client *c, unsigned pin, uint8_t vector, bool level)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};

	assert_int_equal(ioctl(c->vm, KVM_GET_IRQCHIP, &chip), 0);
	chip.chip.ioapic.redirtbl[pin].bits = vector | (level ? 1u << 15 : 0);
	assert_int_equal(ioctl(c->vm, KVM_SET_IRQCHIP, &chip), 0);
}

static void level_irqfd_resamples_at_the_eoi(void **state)
{
	struct kvm_irqfd irqfd = {.gsi = 10, .flags = KVM_IRQFD_FLAG_RESAMPLE};
	uint64_t one = 1;
	struct client c;

	open_apic_guest(&c, false);
	ioapic_pin(&c, 10, 0x35, true);
	irqfd.fd = (uint32_t)new_eventfd();
	irqfd.resamplefd = (uint32_t)new_eventfd();
	assert_int_equal(ioctl(c.vm, KVM_IRQFD, &irqfd), 0);
	assert_int_equal(write((int)irqfd.fd, &one, 8), 8);
	assert_int_equal(client_next_out(&c), 0x35);
	assert_int_equal(count_of((int)irqfd.resamplefd), 0); /* not yet acknowledged */
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x31};
	assert_int_equal(ioctl(c.vm, KVM_SIGNAL_MSI, &msi), 1);
	assert_int_equal(client_next_out(&c), 0x31); /* by then the EOI has happened */
	assert_int_equal(count_of((int)irqfd.resamplefd), 1);
	assert_int_equal(write((int)irqfd.fd, &one, 8), 8);
	assert_int_equal(client_next_out(&c), 0x35);
	close((int)irqfd.fd);
	close((int)irqfd.resamplefd);
	client_close(&c);
}

static void split_irqchip_tells_the_client_of_an_eoi(void **state)
{
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x36 | 1u << 15 | 1u << 14};
	struct {
		struct kvm_irq_routing h;
		struct kvm_irq_routing_entry e[2];
	} r = {.h.nr = 2, .e = {{.gsi = 5, .type = KVM_IRQ_ROUTING_MSI, .u.msi = {.address_lo = 0xfee00000}},
				{.gsi = 6, .type = KVM_IRQ_ROUTING_MSI, .u.msi = {.address_lo = 0xfee00000, .data = 0x37}}}};
	struct client c;

	open_apic_guest(&c, true);
	assert_fails(ioctl(c.vm, KVM_CREATE_IRQCHIP, 0), EEXIST);
	r.e[0].u.msi.data = msi.data; /* the client's IOAPIC, pin 5, level */
	assert_int_equal(ioctl(c.vm, KVM_SET_GSI_ROUTING, &r), 0);
	assert_int_equal(ioctl(c.vm, KVM_SIGNAL_MSI, &msi), 1);
	assert_int_equal(client_next_out(&c), 0x36);
	assert_run_exits(&c, KVM_EXIT_IOAPIC_EOI);
	assert_int_equal(c.run->eoi.vector, 0x36);
	/* An edge makes no such exit, nor a level that no IOAPIC's pin has sent: the next thing seen is the next interrupt. */
	for (uint32_t level = 0; level <= 1; level++) {
		msi.data = 0x37 | level << 15 | level << 14;
		assert_int_equal(ioctl(c.vm, KVM_SIGNAL_MSI, &msi), 1);
		assert_int_equal(client_next_out(&c), 0x37);
	}
	msi.data = 0x31;
	assert_int_equal(ioctl(c.vm, KVM_SIGNAL_MSI, &msi), 1);
	assert_int_equal(client_next_out(&c), 0x31);
	client_close(&c);
}

/* KVM_TPR_ACCESS_REPORTING: the access is done, and rip is the instruction that made it. */
static void tpr_access_is_reported_with_its_instruction(void **state)
{
	static const uint8_t code[] = {
		0xbf, 0x80, 0x00, 0xe0, 0xfe, /* 1000: mov edi, 0xfee00080 */
		0xb8, 0x20, 0x00, 0x00, 0x00, /* 1005: mov eax, 20h */
		0x89, 0x07,		      /* 100a: mov [edi], eax */
		0x8b, 0x1f,		      /* 100c: mov ebx, [edi] */
		0x89, 0x47, 0x60,	      /* 100e: mov [edi + 60h], eax: another register */
		0xe6, 0x10,		      /* 1011: out 10h, al */
		0x89, 0x07,		      /* 1013: mov [edi], eax */
		0xe6, 0x11,
	};
	struct kvm_tpr_access_ctl ctl = {.enabled = 1, .flags = 1};
	struct client c;

	client_open_vm(&c, 1 << 20);
	assert_int_equal(ioctl(c.vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, code, sizeof(code));
	assert_fails(ioctl(c.vcpu, KVM_TPR_ACCESS_REPORTING, &ctl), EINVAL);
	ctl.flags = 0;
	assert_int_equal(ioctl(c.vcpu, KVM_TPR_ACCESS_REPORTING, &ctl), 0);
	assert_run_exits(&c, KVM_EXIT_TPR_ACCESS);
	assert_int_equal(c.run->tpr_access.rip, 0x100a);
	assert_int_equal(c.run->tpr_access.is_write, 1);
	assert_run_exits(&c, KVM_EXIT_TPR_ACCESS);
	assert_int_equal(c.run->tpr_access.rip, 0x100c);
	assert_int_equal(c.run->tpr_access.is_write, 0);
	assert_int_equal(client_regs(&c).rbx, 0x20);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, 0x10);
	ctl.enabled = 0;
	assert_int_equal(ioctl(c.vcpu, KVM_TPR_ACCESS_REPORTING, &ctl), 0);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, 0x11);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ioeventfd_on_mmio_takes_what_matches),
		cmocka_unit_test(ioeventfd_of_no_length_takes_every_write_to_its_address),
		cmocka_unit_test(coalesced_writes_wait_in_the_ring),
		cmocka_unit_test(full_ring_is_an_exit),
		cmocka_unit_test(msi_by_ioctl_arrives),
		cmocka_unit_test(msi_of_delivery_mode_nmi_is_an_nmi),
		cmocka_unit_test(route_to_an_msi_works_by_line_and_by_irqfd),
		cmocka_unit_test(level_irqfd_resamples_at_the_eoi),
		cmocka_unit_test(split_irqchip_tells_the_client_of_an_eoi),
		cmocka_unit_test(tpr_access_is_reported_with_its_instruction),
	};

	client_param("flexpriority=0"); /* else no TPR access is seen */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
