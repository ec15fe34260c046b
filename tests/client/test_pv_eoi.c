/*
 * PV EOI (MSR_KVM_PV_EOI_EN): the guest ends interrupts by clearing a bit of a
 * word of its own, where the host has set it.
 *
 * A 64-bit guest in x2APIC mode takes MSIs. Its handlers count in registers:
 *   r11 interrupts   r9 ended by the word   r10 ended by the APIC
 *   r8  the word's bit at each handler's begin, the newest lowest
 *
 * (A kernel whose processor virtualises the APIC never sets the bit; one without runs this as it is.)
 */
#include <pthread.h>
#include <sys/eventfd.h>

#include "state.h"
#include "stats.h"
#include "x2apic.h"

#define MSR_PV_EOI 0x4b564d04
#define MSR_HV_SINT2 0x40000092
#define SINT_MASKED (1u << 16)
#define MEM (2 << 20)
#define AT_HANDLERS 0x7000 /* 256 bytes each */
#define AT_WORD 0x30000
#define AT_FLAG 0x31000
#define ISR 0x100
#define DEADLOCK_S 60

#define APIC_EOI X2APIC_EOI "inc %r10\n"
#define BEGIN "inc %r11; shl $1, %r8; mov 0x30000, %eax; and $1, %eax; or %rax, %r8\n"
#define END "btrl $0, 0x30000; jc 7f\n" APIC_EOI "jmp 8f\n 7: inc %r9\n 8:\n"

/* Ready; then one OUT for each end of a HLT, interrupts off. */
GUEST_CODE(idle, 64, X2APIC_ON "outb %al, $0x90\n 1: sti\n hlt\n cli\n outb %al, $0x91\n jmp 1b");
/* rsi interrupts of its own */
GUEST_CODE(self, 64, X2APIC_ON "sti\n 1: mov $0x83f, %ecx; mov $0x45, %eax; xor %edx, %edx; wrmsr\n"
			       "dec %rsi; jnz 1b\n outb %al, $0x90");
GUEST_CODE(bad, 64, "mov $0x4b564d04, %ecx; mov $0x30003, %eax; xor %edx, %edx; wrmsr; outb %al, $0x90");
GUEST_CODE(good, 64, "mov $0x4b564d04, %ecx; mov $0x30001, %eax; xor %edx, %edx; wrmsr; outb %al, $0x90");

GUEST_CODE(on_polite, 64, BEGIN END "iretq");
GUEST_CODE(on_plain, 64, "inc %r11\n" APIC_EOI "iretq");
GUEST_CODE(on_never, 64, BEGIN "iretq");
/* tells of its begin and of its end */
GUEST_CODE(on_telling, 64, BEGIN "outb %al, $0x50\n" END "outb %al, $0x51\n iretq");
/* with interrupts on it waits for another one, before its end and after it */
#define WAIT "movl $1, 0x31000\n sti\n 1: pause; cmp $2, %r11; jne 1b\n cli\n"
GUEST_CODE(on_waits_first, 64, BEGIN WAIT END "outb %al, $0x52\n iretq");
GUEST_CODE(on_waits_last, 64, BEGIN END WAIT "outb %al, $0x52\n iretq");
/* as on_waits_first, ended by the APIC */
GUEST_CODE(on_waits_plain, 64, BEGIN WAIT APIC_EOI "outb %al, $0x52\n iretq");

enum { POLITE = 0x40, PLAIN, NEVER, TELLING, WAITS_FIRST, SELF, WAITS_LAST, WAITS_PLAIN };
#define HIGH 0x61  /* of a higher class than all of them; polite */
#define HIGH_PLAIN 0x62
#define LOWER 0x31 /* of a lower one; polite */

static const struct {
	int vector;
	const uint8_t *code, *end;
} handlers[] = {
#define H(v, name) {v, name, name##_end}
	H(POLITE, on_polite), H(PLAIN, on_plain), H(NEVER, on_never), H(TELLING, on_telling),
	H(WAITS_FIRST, on_waits_first), H(SELF, on_polite), H(WAITS_LAST, on_waits_last),
	H(WAITS_PLAIN, on_waits_plain), H(HIGH, on_polite), H(LOWER, on_polite), H(HIGH_PLAIN, on_plain),
};

static void start(struct client *c, const void *code, size_t n)
{
	paging_start(c, PAGING_LONG, 0, 0, 0, 0);
	memcpy(c->mem + AT_CODE, code, n);
	x2apic_mode(c);
	for (size_t i = 0; i < sizeof(handlers) / sizeof(*handlers); i++)
		x2apic_handler(c, handlers[i].vector, AT_HANDLERS + 0x100 * (uint32_t)i, handlers[i].code, handlers[i].end);
}

/* Idle with its APIC on, PV EOI by the word. */
static void open_idle(struct client *c)
{
	x2apic_open_vm(c, MEM);
	start(c, idle, GUEST_CODE_SIZE(idle));
	client_set_msr(c, MSR_PV_EOI, AT_WORD | 1);
	assert_int_equal(client_next_out(c), 0x90);
}

static bool in_service(struct client *c, int vector)
{
	struct kvm_lapic_state l;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_LAPIC, &l), 0);
	return l.regs[ISR + vector / 32 * 0x10 + vector % 32 / 8] >> vector % 8 & 1;
}

static uint32_t word(struct client *c)
{
	return *(volatile uint32_t *)(c->mem + AT_WORD);
}

/* The guest ends a HLT; so many were ended by the word and by the APIC up to now. */
static void assert_idle_again(struct client *c, uint64_t by_word, uint64_t by_apic)
{
	struct kvm_regs r;

	assert_int_equal(client_next_out(c), 0x91);
	r = client_regs(c);
	assert_int_equal(r.r9, by_word);
	assert_int_equal(r.r10, by_apic);
}

/* --- the MSR --- */

static void a_guests_bad_value_is_a_general_protection_fault(void **state)
{
	struct client c;

	x2apic_open_vm(&c, MEM);
	start(&c, bad, GUEST_CODE_SIZE(bad));
	assert_int_equal(client_next_out(&c), 13);
	assert_int_equal(client_msr(&c, MSR_PV_EOI), 0);
	start(&c, good, GUEST_CODE_SIZE(good));
	assert_int_equal(client_next_out(&c), 0x90);
	assert_int_equal(client_msr(&c, MSR_PV_EOI), AT_WORD | 1);
	client_close(&c);
}

/* --- ends --- */

/* Exits of `n` interrupts that the guest sends itself. */
static uint64_t exits_of_self_ipis(uint64_t n, bool pv)
{
	struct stats s;
	struct kvm_regs r;
	struct client c;
	uint64_t exits;

	x2apic_open_vm(&c, MEM);
	start(&c, self, GUEST_CODE_SIZE(self));
	client_set_msr(&c, MSR_PV_EOI, AT_WORD | (pv ? 1 : 0));
	r = client_regs(&c);
	r.rsi = n;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	open_stats(&s, c.vcpu);
	assert_int_equal(client_next_out(&c), 0x90);
	r = client_regs(&c);
	assert_int_equal(r.r11, n);
	assert_int_equal(r.r9, pv ? n : 0);
	assert_int_equal(r.r10, pv ? 0 : n);
	assert_false(in_service(&c, SELF));
	assert_int_equal(word(&c), 0);
	exits = value(&s, "exits");
	close_stats(&s);
	client_close(&c);
	return exits;
}

static void an_end_by_the_word_is_no_exit(void **state)
{
	uint64_t without = exits_of_self_ipis(1000, false), with = exits_of_self_ipis(1000, true);

	/* a few more or less are timers and signals of the host */
	assert_true(without > with && without - with > 900);
}

static void between_exits_everything_is_settled(void **state)
{
	struct client c;

	open_idle(&c);
	x2apic_msi(&c, TELLING);
	assert_int_equal(client_next_out(&c), 0x50);
	assert_int_equal(client_regs(&c).r8, 1); /* the guest could have ended it by the word */
	assert_int_equal(word(&c), 0);
	assert_true(in_service(&c, TELLING));
	assert_int_equal(client_next_out(&c), 0x51);
	assert_int_equal(client_regs(&c).r9 + client_regs(&c).r10, 1); /* either way */
	assert_int_equal(word(&c), 0);
	assert_false(in_service(&c, TELLING));
	client_close(&c);
}

static void moved_to_another_vm_in_the_middle_it_ends_there(void **state)
{
	static struct vm_state s;
	struct client c, d;

	open_idle(&c);
	x2apic_msi(&c, TELLING);
	assert_int_equal(client_next_out(&c), 0x50);
	c.run->immediate_exit = 1; /* the OUT is over */
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	state_save(&c, &s);
	x2apic_open_vm(&d, MEM);
	memcpy(d.mem, c.mem, c.mem_size);
	client_all_cpuid(&d);
	state_restore(&d, &s);
	client_close(&c);
	assert_int_equal(client_msr(&d, MSR_PV_EOI), AT_WORD | 1);
	assert_true(in_service(&d, TELLING));
	assert_int_equal(client_next_out(&d), 0x51);
	assert_false(in_service(&d, TELLING));
	assert_idle_again(&d, client_regs(&d).r9, client_regs(&d).r10);
	x2apic_msi(&d, POLITE);
	assert_int_equal(client_next_out(&d), 0x91);
	assert_int_equal(client_regs(&d).r8 & 1, 1); /* it works on */
	client_close(&d);
}

static void what_the_guest_does_not_end_stays_in_service(void **state)
{
	struct client c;

	open_idle(&c);
	x2apic_msi(&c, NEVER);
	assert_idle_again(&c, 0, 0);
	assert_int_equal(client_regs(&c).r8, 1);
	assert_true(in_service(&c, NEVER));
	assert_int_equal(word(&c), 0);
	client_close(&c);
}

static void an_interrupt_that_waits_forbids_the_word(void **state)
{
	struct client c;

	open_idle(&c);
	x2apic_msi(&c, LOWER);
	x2apic_msi(&c, POLITE);
	assert_idle_again(&c, 1, 1); /* the first by the APIC, which lets the other in */
	assert_int_equal(client_regs(&c).r8, 1);
	assert_false(in_service(&c, LOWER) || in_service(&c, POLITE));
	client_close(&c);
}

static void disabled_the_word_stays_as_it_is(void **state)
{
	struct client c;

	open_idle(&c);
	client_set_msr(&c, MSR_PV_EOI, AT_WORD);
	*(uint32_t *)(c.mem + AT_WORD) = 0xabcdef00;
	x2apic_msi(&c, POLITE);
	assert_idle_again(&c, 0, 1);
	assert_int_equal(word(&c), 0xabcdef00);
	client_set_msr(&c, MSR_PV_EOI, AT_WORD | 1);
	x2apic_msi(&c, POLITE);
	assert_idle_again(&c, 1, 1);
	assert_int_equal(word(&c), 0xabcdef00); /* the other bits are not ours */
	client_close(&c);
}

/* --- while the guest runs without an exit --- */

struct sender {
	struct client *c;
	uint32_t vector;
	bool drop_slot;
};

/* Once the guest waits in its handler. */
static void *send(void *arg)
{
	struct sender *s = arg;

	while (!__atomic_load_n((uint32_t *)(s->c->mem + AT_FLAG), __ATOMIC_ACQUIRE))
		usleep(100);
	if (s->drop_slot)
		client_slot(s->c, 1, 0, 0x200000, NULL, 0);
	x2apic_msi(s->c, s->vector);
	return NULL;
}

/* `first` waits in its handler for `second`. */
static struct kvm_regs one_in_the_other(struct client *c, uint32_t first, uint32_t second, bool drop_slot)
{
	struct sender s = {c, second, drop_slot};
	pthread_t t;

	alarm(DEADLOCK_S);
	x2apic_msi(c, first);
	assert_int_equal(pthread_create(&t, NULL, send, &s), 0);
	assert_int_equal(client_next_out(c), 0x52);
	assert_int_equal(pthread_join(t, NULL), 0);
	alarm(0);
	assert_false(in_service(c, (int)first) || in_service(c, (int)second));
	return client_regs(c);
}

static void after_an_end_by_the_word_the_next_of_its_class_comes(void **state)
{
	struct kvm_regs r;
	struct client c;

	open_idle(&c);
	r = one_in_the_other(&c, WAITS_LAST, POLITE, false);
	assert_int_equal(r.r9, 2);
	assert_int_equal(r.r8, 3);
	client_close(&c);
}

static void the_word_is_of_the_highest_in_service(void **state)
{
	struct kvm_regs r;
	struct client c;

	open_idle(&c);
	r = one_in_the_other(&c, WAITS_FIRST, HIGH, false);
	assert_int_equal(r.r8, 3);
	/* the inner one by the word, the outer one by the APIC: there was no exit between them */
	assert_int_equal(r.r9, 1);
	assert_int_equal(r.r10, 1);
	client_close(&c);
}

/* --- who else waits for the end --- */

static void route_pin(struct client *c, unsigned pin, uint8_t vector, bool level)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};

	assert_int_equal(ioctl(c->vm, KVM_GET_IRQCHIP, &chip), 0);
	chip.chip.ioapic.redirtbl[pin].bits = 0;
	chip.chip.ioapic.redirtbl[pin].fields.vector = vector;
	chip.chip.ioapic.redirtbl[pin].fields.trig_mode = level;
	assert_int_equal(ioctl(c->vm, KVM_SET_IRQCHIP, &chip), 0);
}

static void pulse(struct client *c, uint32_t gsi)
{
	struct kvm_irq_level line = {.irq = gsi, .level = 1};

	assert_int_equal(ioctl(c->vm, KVM_IRQ_LINE, &line), 0);
	line.level = 0;
	assert_int_equal(ioctl(c->vm, KVM_IRQ_LINE, &line), 0);
}

static void an_end_that_the_ioapic_needs_is_written_to_the_apic(void **state)
{
	struct client c;

	open_idle(&c);
	route_pin(&c, 17, POLITE, false);
	pulse(&c, 17);
	assert_idle_again(&c, 1, 0);
	route_pin(&c, 17, POLITE, true);
	pulse(&c, 17);
	assert_idle_again(&c, 1, 1);
	pulse(&c, 17); /* its remote IRR is clear again */
	assert_idle_again(&c, 1, 2);
	route_pin(&c, 17, POLITE, false);
	pulse(&c, 17);
	assert_idle_again(&c, 2, 2);
	client_close(&c);
}

static void an_end_that_a_resampling_irqfd_awaits_is_written_to_the_apic(void **state)
{
	struct kvm_irqfd irqfd = {.gsi = 18, .flags = KVM_IRQFD_FLAG_RESAMPLE};
	uint64_t one = 1, n = 0;
	struct client c;

	open_idle(&c);
	irqfd.fd = (uint32_t)eventfd(0, EFD_CLOEXEC);
	irqfd.resamplefd = (uint32_t)eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	route_pin(&c, 18, POLITE, false);
	assert_int_equal(ioctl(c.vm, KVM_IRQFD, &irqfd), 0);
	assert_int_equal(write((int)irqfd.fd, &one, 8), 8);
	assert_idle_again(&c, 0, 1);
	assert_int_equal(read((int)irqfd.resamplefd, &n, 8), 8);
	assert_int_equal(n, 1);
	irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE;
	assert_int_equal(ioctl(c.vm, KVM_IRQFD, &irqfd), 0);
	pulse(&c, 18);
	assert_idle_again(&c, 1, 1);
	close((int)irqfd.fd);
	close((int)irqfd.resamplefd);
	client_close(&c);
}

/* --- the word's memory goes --- */

/* The word in a slot of its own. */
static uint8_t *open_with_slot(struct client *c)
{
	uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(page != MAP_FAILED);
	open_idle(c);
	client_slot(c, 1, 0, 0x200000, page, 4096);
	paging_pte_set(c, PAGING_LONG, AT_WORD, 0x200000 | PG_ALL);
	client_set_msr(c, MSR_PV_EOI, 0x200000 | 1);
	return page;
}

static void an_end_that_the_synic_awaits_is_written_to_the_apic(void **state)
{
	struct kvm_enable_cap synic = {.cap = KVM_CAP_HYPERV_SYNIC2};
	struct client c;

	open_idle(&c);
	assert_int_equal(ioctl(c.vcpu, KVM_ENABLE_CAP, &synic), 0);
	client_set_msr(&c, MSR_HV_SINT2, POLITE);
	x2apic_msi(&c, POLITE);
	assert_idle_again(&c, 0, 1);
	client_set_msr(&c, MSR_HV_SINT2, POLITE | SINT_MASKED);
	x2apic_msi(&c, POLITE);
	assert_idle_again(&c, 1, 1);
	client_close(&c);
}

static void without_memory_the_apic_is_left(void **state)
{
	struct client c;
	uint8_t *page = open_with_slot(&c);

	x2apic_msi(&c, POLITE);
	assert_idle_again(&c, 1, 0);
	client_slot(&c, 1, 0, 0x200000, page, 0);
	x2apic_msi(&c, PLAIN);
	assert_idle_again(&c, 1, 1);
	assert_false(in_service(&c, PLAIN));
	client_slot(&c, 1, 0, 0x200000, page, 4096);
	assert_int_equal(mprotect(page, 4096, PROT_NONE), 0); /* the client's page, not the slot */
	x2apic_msi(&c, PLAIN);
	assert_idle_again(&c, 1, 2);
	assert_int_equal(mprotect(page, 4096, PROT_READ | PROT_WRITE), 0);
	x2apic_msi(&c, POLITE);
	assert_idle_again(&c, 2, 2);
	client_close(&c);
	munmap(page, 4096);
}

static void memory_that_goes_while_the_word_is_set_leaves_no_interrupt_behind(void **state)
{
	struct kvm_regs r;
	struct client c;
	uint8_t *page = open_with_slot(&c);

	/* The host saw the word go, or before that cleared it: ended by it, or by the guest. */
	r = one_in_the_other(&c, WAITS_PLAIN, HIGH_PLAIN, true);
	assert_int_equal(r.r8, 1);
	x2apic_msi(&c, PLAIN);
	assert_idle_again(&c, 0, 3);
	client_close(&c);
	munmap(page, 4096);
}

static void init_turns_it_off(void **state)
{
	uint8_t *top = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct client c;

	assert_true(top != MAP_FAILED);
	memcpy(top + 0xff0, "\xe6\x94\xf4", 3); /* out 94h, al; hlt */
	open_idle(&c);
	client_slot(&c, 1, 0, 0xfffff000, top, 4096);
	x2apic_msi(&c, 0x4500); /* INIT: the boot processor begins again */
	assert_int_equal(client_next_out(&c), 0x94);
	assert_int_equal(client_msr(&c, MSR_PV_EOI), 0);
	client_close(&c);
	munmap(top, 4096);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_guests_bad_value_is_a_general_protection_fault),
		cmocka_unit_test(an_end_by_the_word_is_no_exit),
		cmocka_unit_test(between_exits_everything_is_settled),
		cmocka_unit_test(moved_to_another_vm_in_the_middle_it_ends_there),
		cmocka_unit_test(what_the_guest_does_not_end_stays_in_service),
		cmocka_unit_test(an_interrupt_that_waits_forbids_the_word),
		cmocka_unit_test(disabled_the_word_stays_as_it_is),
		cmocka_unit_test(after_an_end_by_the_word_the_next_of_its_class_comes),
		cmocka_unit_test(the_word_is_of_the_highest_in_service),
		cmocka_unit_test(an_end_that_the_ioapic_needs_is_written_to_the_apic),
		cmocka_unit_test(an_end_that_a_resampling_irqfd_awaits_is_written_to_the_apic),
		cmocka_unit_test(an_end_that_the_synic_awaits_is_written_to_the_apic),
		cmocka_unit_test(without_memory_the_apic_is_left),
		cmocka_unit_test(memory_that_goes_while_the_word_is_set_leaves_no_interrupt_behind),
		cmocka_unit_test(init_turns_it_off),
	};

	client_param("enable_apicv=0"); /* else the word is never set */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
