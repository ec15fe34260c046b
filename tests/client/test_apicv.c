/*
 * APIC virtualization as a client meets it: fewer exits, no interrupt lost or doubled while it is
 * turned off and on, the page at FEE00000h, KVM_GET_LAPIC and KVM_SET_LAPIC.
 *
 * The guests run in flat 32-bit mode; 600h + 4 * i counts the interrupts of vCPU i.
 */
#include <poll.h>

#include "smp_flat.h"
#include "stats.h"

#define STORM 2000

GUEST(count, "code32", "lock; incl 0x600(,%ebp,4)\n movl $0, 0xfee000b0\n iret");

/* vCPUs with an IRQ chip, ready to run at 1000h. */
static void open_guest(struct smp *s, int nr, const uint8_t *code, size_t n)
{
	smp_open(s, nr, 1 << 20, true);
	memcpy(s->c.mem + 0x3000, guest_count, GUEST_SIZE(count));
	for (int v = 32; v < 256; v++)
		flat_gate(s, v, 0x3000);
	flat_cpus(s, code, n);
}
#define open_running(s, nr, name) open_guest(s, nr, guest_##name, GUEST_SIZE(name))

static int run_once(struct smp *s, int i)
{
	int r;

	do {
		r = ioctl(s->cpu[i].fd, KVM_RUN, 0);
	} while (r < 0 && (errno == EINTR || errno == EAGAIN));
	assert_int_equal(r, 0);
	return (int)s->cpu[i].run->exit_reason;
}

static void msi(struct smp *s, uint32_t dest, uint8_t vector)
{
	struct kvm_msi m = {.address_lo = 0xfee00000 | dest << 12, .data = vector};

	/* the guest may not have enabled its APIC yet */
	for (uint64_t end = smp_now_ms() + 20000; ioctl(s->c.vm, KVM_SIGNAL_MSI, &m) != 1; sched_yield())
		assert_true(smp_now_ms() < end);
}

/* Enable; then 1000 times: ID, TPR written and read, EOI, an IPI to itself and its handler. */
GUEST(hammer, "code32", "movl $0x1ff, 0xfee000f0\n sti\n mov $1000, %ecx\n"
			"1: mov 0xfee00020, %eax\n movl $0x20, 0xfee00080\n mov 0xfee00080, %ebx\n"
			"movl $0, 0xfee000b0\n movl $0x40041, 0xfee00300\n nop\n nop\n"
			"dec %ecx\n jnz 1b\n out %al, $0x10");

static void reads_priorities_ends_and_self_ipis_make_no_exit(void **state)
{
	struct stats st;
	struct smp s;

	open_running(&s, 1, hammer);
	open_stats(&st, s.cpu[0].fd);
	assert_int_equal(run_once(&s, 0), KVM_EXIT_IO);
	assert_int_equal(smp_load32(&s, 0x600), 1000);
	assert_true(value(&st, "exits") < 100);
	assert_true(value(&st, "irq_injections") < 10); /* deliveries that met a page that was not there yet */
	close_stats(&st);
	smp_close(&s);
}

GUEST(idle, "code32", "movl $0x1ff, 0xfee000f0\n sti\n 1: hlt\n jmp 1b");
GUEST(spin, "code32", "movl $0x1ff, 0xfee000f0\n sti\n 1: pause\n jmp 1b");

static void wait_count(struct smp *s, int i, uint32_t n)
{
	for (uint64_t end = smp_now_ms() + 20000; smp_load32(s, 0x600 + 4 * (uint32_t)i) != n;) {
		if (smp_now_ms() > end)
			fail_msg("vCPU %d: %u interrupts of %u", i, smp_load32(s, 0x600 + 4 * (uint32_t)i), n);
		sched_yield();
	}
}

/* Each vector is sent when the one before has been counted: one that is lost stops, one too many is seen. */
static void storm(struct smp *s, int cpus, uint32_t first)
{
	for (uint32_t n = 1; n <= STORM / 10; n++)
		for (int i = 0; i < cpus; i++) {
			msi(s, (uint32_t)i, (uint8_t)(0x30 + n % 0x80));
			wait_count(s, i, first + n);
		}
}

static void interrupts_arrive_each_once(const uint8_t *code, size_t n)
{
	struct smp s;

	open_guest(&s, 2, code, n);
	smp_start(&s, 0, 2);
	storm(&s, 2, 0);
	smp_stop(&s, 0, 2);
	smp_close(&s);
}

static void to_running_vcpus_interrupts_arrive_each_once(void **state)
{
	interrupts_arrive_each_once(guest_spin, GUEST_SIZE(spin));
}

static void to_halted_vcpus_interrupts_arrive_each_once(void **state)
{
	interrupts_arrive_each_once(guest_idle, GUEST_SIZE(idle));
}

/* A third vCPU, which never runs, has interrupts blocked while it would be stepped: the VM's APICs are KVM's then. */
static void *toggle(void *arg)
{
	struct smp *s = arg;
	struct kvm_guest_debug d = {0};

	for (int n = 0; !s->stop; n++) {
		d.control = n % 2 ? 0 : KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ;
		assert_int_equal(ioctl(s->cpu[2].fd, KVM_SET_GUEST_DEBUG, &d), 0);
	}
	return NULL;
}

static void while_it_goes_off_and_on_interrupts_arrive_each_once(void **state)
{
	pthread_t th;
	struct smp s;

	for (int halted = 0; halted < 2; halted++) {
		if (halted)
			open_running(&s, 3, idle);
		else
			open_running(&s, 3, spin);
		smp_start(&s, 0, 2);
		pthread_create(&th, NULL, toggle, &s);
		storm(&s, 2, 0);
		smp_stop(&s, 0, 2);
		pthread_join(th, NULL);
		smp_close(&s);
	}
}

static void the_page_is_no_place_for_a_slot(void **state)
{
	struct kvm_userspace_memory_region r = {.slot = 1, .guest_phys_addr = 0xfee00000, .memory_size = 4096};
	struct client c;

	client_open_vm(&c, 1 << 20);
	r.userspace_addr = (uintptr_t)c.mem;
	assert_int_equal(ioctl(c.vm, KVM_CREATE_IRQCHIP, 0), 0);
	assert_int_equal(ioctl(c.vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	assert_fails(ioctl(c.vm, KVM_CREATE_VCPU, 0), EEXIST);
	r.memory_size = 0;
	assert_int_equal(ioctl(c.vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	client_add_vcpu(&c);
	r.memory_size = 4096;
	assert_fails(ioctl(c.vm, KVM_SET_USER_MEMORY_REGION, &r), EEXIST);
	r.slot = 1 << 16 | 1; /* nor in SMM's address space */
	assert_fails(ioctl(c.vm, KVM_SET_USER_MEMORY_REGION, &r), EEXIST);
	r.slot = 32765;
	r.memory_size = 0;
	assert_fails(ioctl(c.vm, KVM_SET_USER_MEMORY_REGION, &r), EINVAL);
	client_close(&c);
	/* without an APIC of KVM's the page is the client's */
	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	r = (struct kvm_userspace_memory_region){
		.slot = 1, .guest_phys_addr = 0xfee00000, .memory_size = 4096, .userspace_addr = (uintptr_t)c.mem};
	assert_int_equal(ioctl(c.vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	client_close(&c);
}

GUEST(touch, "code32", "mov 0xfee00030, %eax\n mov $0x1b, %ecx\n mov $0xfef00900, %eax\n xor %edx, %edx\n"
		       "out %al, $0x10\n wrmsr\n mov 0xfee00030, %ebx\n mov 0xfef00030, %eax\n out %al, $0x11");

/* The APIC goes elsewhere: the page it was at is nobody's, for every vCPU. */
static void a_moved_apic_leaves_its_page(void **state)
{
	struct smp s;

	open_running(&s, 1, touch);
	assert_int_equal(run_once(&s, 0), KVM_EXIT_IO);
	assert_int_equal(run_once(&s, 0), KVM_EXIT_MMIO);
	assert_int_equal(s.cpu[0].run->mmio.phys_addr, 0xfee00030);
	assert_int_equal(s.cpu[0].run->mmio.is_write, 0);
	memset(s.cpu[0].run->mmio.data, 0x5a, 4);
	assert_int_equal(run_once(&s, 0), KVM_EXIT_IO);
	struct client c = smp_client(&s, 0);
	assert_int_equal(client_regs(&c).rbx, 0x5a5a5a5a);
	assert_int_equal(client_regs(&c).rax & 0xff, 0x14);
	smp_close(&s);
}

GUEST(new_id, "code32", "movl $0x1ff, 0xfee000f0\n mov 0xfee00020, %ebx\n movl $0x07ffffff, 0xfee00020\n"
			"mov 0xfee00020, %ecx\n sti\n out %al, $0x10\n 1: pause\n jmp 1b");

static void an_apic_with_another_id_is_reached_by_it(void **state)
{
	struct smp s;

	open_running(&s, 1, new_id);
	assert_int_equal(run_once(&s, 0), KVM_EXIT_IO);
	struct client c = smp_client(&s, 0);
	assert_int_equal(client_regs(&c).rbx, 0);
	assert_int_equal(client_regs(&c).rcx, 0x07000000);
	smp_start(&s, 0, 1);
	msi(&s, 7, 0x33);
	wait_count(&s, 0, 1);
	smp_stop(&s, 0, 1);
	smp_close(&s);
}

static uint32_t image(const struct kvm_lapic_state *l, unsigned offset)
{
	uint32_t v;

	memcpy(&v, l->regs + offset, 4);
	return v;
}

static void set_image(struct kvm_lapic_state *l, unsigned offset, uint32_t v)
{
	memcpy(l->regs + offset, &v, 4);
}

/* TPR F0h, two vectors to itself, then out: they wait in IRR. Then TPR 0. */
GUEST(pending, "code32", "movl $0x1ff, 0xfee000f0\n sti\n movl $0xf0, 0xfee00080\n movl $0x40041, 0xfee00300\n"
			 "movl $0x40072, 0xfee00300\n out %al, $0x10\n movl $0, 0xfee00080\n nop\n nop\n out %al, $0x11");

static void what_waits_is_seen_and_set(void **state)
{
	struct kvm_lapic_state l;
	struct smp s, other;

	open_running(&s, 1, pending);
	assert_int_equal(run_once(&s, 0), KVM_EXIT_IO);
	msi(&s, 0, 0x95); /* posted while it does not run */
	assert_int_equal(ioctl(s.cpu[0].fd, KVM_GET_LAPIC, &l), 0);
	assert_int_equal(image(&l, 0x220), 1u << 1);
	assert_int_equal(image(&l, 0x230), 1u << 18);
	assert_int_equal(image(&l, 0x240), 1u << 21);
	assert_int_equal(image(&l, 0x80), 0xf0);
	/* the same into another VM, and one in service that a lower class has to wait for */
	open_running(&other, 1, pending);
	set_image(&l, 0x120, 1u << 16);
	set_image(&l, 0x80, 0x50);
	assert_int_equal(ioctl(other.cpu[0].fd, KVM_SET_LAPIC, &l), 0);
	smp_reg(&other, 0, rip, 0x1000 + GUEST_SIZE(pending)); /* HLT */
	*(uint8_t *)(other.c.mem + 0x1000 + GUEST_SIZE(pending)) = 0xe6; /* out */
	*(uint8_t *)(other.c.mem + 0x1001 + GUEST_SIZE(pending)) = 0x12;
	smp_reg(&other, 0, rflags, 0x202);
	assert_int_equal(run_once(&other, 0), KVM_EXIT_IO);
	assert_int_equal(other.cpu[0].run->io.port, 0x12);
	assert_int_equal(smp_load32(&other, 0x600), 2); /* 95h and 72h, above the one of 50h in service */
	assert_int_equal(ioctl(other.cpu[0].fd, KVM_GET_LAPIC, &l), 0);
	assert_int_equal(image(&l, 0x220), 1u << 1);
	assert_int_equal(image(&l, 0x120), 1u << 16);
	smp_close(&other);
	/* the first goes on: all three */
	assert_int_equal(run_once(&s, 0), KVM_EXIT_IO);
	assert_int_equal(s.cpu[0].run->io.port, 0x11);
	assert_int_equal(smp_load32(&s, 0x600), 3);
	smp_close(&s);
}

/* An INIT while interrupts are posted: nothing of them is left behind it. */
static void init_forgets_what_was_posted(void **state)
{
	struct kvm_lapic_state l;
	struct smp s;

	open_running(&s, 2, pending);
	assert_int_equal(run_once(&s, 1), KVM_EXIT_IO);
	msi(&s, 1, 0x95);
	struct kvm_msi init = {.address_lo = 0xfee01000, .data = 0x500 | 1 << 14};
	assert_int_equal(ioctl(s.c.vm, KVM_SIGNAL_MSI, &init), 1);
	s.cpu[1].run->immediate_exit = 1;
	(void)ioctl(s.cpu[1].fd, KVM_RUN, 0);
	s.cpu[1].run->immediate_exit = 0;
	struct kvm_mp_state mp;
	assert_int_equal(ioctl(s.cpu[1].fd, KVM_GET_MP_STATE, &mp), 0);
	assert_int_equal(ioctl(s.cpu[1].fd, KVM_GET_LAPIC, &l), 0);
	if (mp.mp_state == KVM_MP_STATE_INIT_RECEIVED)
		for (unsigned n = 0; n < 8; n++)
			assert_int_equal(image(&l, 0x200 + 16 * n), 0);
	smp_close(&s);
}

/* A dirty log of a VM that stores to the APIC says nothing of its page. */
static void the_page_is_in_no_dirty_log(void **state)
{
	uint64_t bitmap[4] = {0};
	struct kvm_dirty_log log = {.slot = 0, .dirty_bitmap = bitmap};
	struct smp s;

	open_running(&s, 1, hammer);
	client_slot(&s.c, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, s.c.mem, s.c.mem_size);
	assert_int_equal(run_once(&s, 0), KVM_EXIT_IO);
	assert_int_equal(ioctl(s.c.vm, KVM_GET_DIRTY_LOG, &log), 0);
	assert_int_equal(bitmap[0], 1 | 1 << 7); /* the counter's page, and the stack's */
	log.slot = 32765;
	assert_fails(ioctl(s.c.vm, KVM_GET_DIRTY_LOG, &log), EINVAL);
	smp_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_priorities_ends_and_self_ipis_make_no_exit),
		cmocka_unit_test(to_running_vcpus_interrupts_arrive_each_once),
		cmocka_unit_test(to_halted_vcpus_interrupts_arrive_each_once),
		cmocka_unit_test(while_it_goes_off_and_on_interrupts_arrive_each_once),
		cmocka_unit_test(the_page_is_no_place_for_a_slot),
		cmocka_unit_test(a_moved_apic_leaves_its_page),
		cmocka_unit_test(an_apic_with_another_id_is_reached_by_it),
		cmocka_unit_test(what_waits_is_seen_and_set),
		cmocka_unit_test(init_forgets_what_was_posted),
		cmocka_unit_test(the_page_is_in_no_dirty_log),
	};

	client_param("flexpriority=1,enable_apicv=1");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
