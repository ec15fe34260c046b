/*
 * Hyper-V's SynIC and its timers: what the MSRs keep and tell the client, SINTs
 * raised by routes, EOI and EOM, messages, one-shot and periodic timers.
 *
 * An interrupt with vector v ends the guest's run at port v (paging.h).
 */
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/time.h>

#include "hyperv.h"

#define MASKED (1ull << 16)
#define AUTO_EOI (1ull << 17)
#define MESSAGES_AT 0x40000
#define EVENTS_AT 0x41000
#define SLOT 256
#define GSI 40

#define ENABLE 1ull
#define PERIODIC 2ull
#define AUTO_ENABLE 8ull
#define VECTOR(v) ((uint64_t)(v) << 4)
#define DIRECT (1ull << 12)
#define SINTX(n) ((uint64_t)(n) << 16)
#define MS 10000ull /* of the reference counter */

struct message {
	uint32_t type;
	uint8_t size, flags, reserved[2];
	uint64_t sender;
	uint32_t timer, reserved2;
	uint64_t expiration, delivery;
};

GUEST_CODE(sleep_code, 64, "sti; 1: hlt; jmp 1b");
GUEST_CODE(deaf_sleep_code, 64, "cli; hlt; out %al, $0xe4; sti; nop; nop; out %al, $0xe5");

static void open_synic(struct client *c, uint32_t cap)
{
	open_hv_apic(c);
	hv_enable(c, cap, 0);
	memcpy(c->mem + 0x1800, sleep_code, GUEST_CODE_SIZE(sleep_code));
}

/* Interrupts on, until one comes: its vector. */
static int wait_interrupt(struct client *c)
{
	struct kvm_regs r = client_regs(c);

	r.rip = 0x1800;
	r.rsp = 0x8000;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	return client_next_out(c);
}

/* The bit of a vector 20h to 3fh, in ISR (110h) or IRR (210h). */
static bool apic_bit(struct client *c, uint32_t offset, int vector)
{
	struct kvm_lapic_state s;
	uint32_t v;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_LAPIC, &s), 0);
	memcpy(&v, s.regs + offset, sizeof(v));
	return v >> (vector - 0x20) & 1;
}

static void route(struct client *c, uint32_t vp_index, uint32_t sint)
{
	struct {
		struct kvm_irq_routing h;
		struct kvm_irq_routing_entry e;
	} r = {.h.nr = 1, .e = {.gsi = GSI, .type = KVM_IRQ_ROUTING_HV_SINT, .u.hv_sint = {vp_index, sint}}};

	assert_int_equal(ioctl(c->vm, KVM_SET_GSI_ROUTING, &r), 0);
}

static int raise_line(struct client *c, uint32_t level)
{
	struct kvm_irq_level l = {.irq = GSI, .level = level};

	assert_int_equal(ioctl(c->vm, KVM_IRQ_LINE_STATUS, &l), 0);
	return (int)l.status;
}

/* --- the controller's registers --- */

static void synic_is_there_once_the_client_wants_it(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_HYPERV_SYNIC2};
	struct client c;

	open_hv(&c, true, ~0u);
	assert_fails(ioctl(c.vcpu, KVM_ENABLE_CAP, &cap), EINVAL); /* no APIC to deliver to */
	client_close(&c);

	open_hv_apic(&c);
	cap.args[0] = 1;
	assert_fails(ioctl(c.vcpu, KVM_ENABLE_CAP, &cap), EINVAL);
	guest_read_faults(&c, HV_SCONTROL);
	guest_read_faults(&c, HV_EOM);
	guest_write_faults(&c, HV_SINT(2), 0x31);
	guest_write_faults(&c, HV_STIMER_CONFIG(0), 0);
	assert_int_equal(client_msr(&c, HV_SCONTROL), 0);
	assert_int_equal(client_msr(&c, HV_SINT(15)), MASKED);
	assert_int_equal(client_try_set_msr(&c, HV_SINT(2), 0x31), 0);
	assert_int_equal(client_try_set_msr(&c, HV_STIMER_COUNT(0), 1), 0);
	client_set_msr(&c, HV_SCONTROL, 0); /* what a VM without one saves */
	client_set_msr(&c, HV_STIMER_CONFIG(0), 0);

	hv_enable(&c, KVM_CAP_HYPERV_SYNIC2, 0);
	assert_int_equal(guest_read(&c, HV_SCONTROL), 1);
	assert_int_equal(guest_read(&c, HV_SVERSION), 1);
	assert_int_equal(guest_read(&c, HV_SIMP), 0);
	assert_int_equal(guest_read(&c, HV_SIEFP), 0);
	assert_int_equal(guest_read(&c, HV_EOM), 0);
	assert_int_equal(guest_read(&c, HV_SINT(0)), MASKED);
	guest_write_faults(&c, HV_SVERSION, 1);
	guest_write_faults(&c, HV_SINT(3), 15); /* an exception's vector */
	guest_write(&c, HV_SINT(3), MASKED | 15);
	guest_write(&c, HV_SINT(3), 16);
	assert_int_equal(client_msr(&c, HV_SINT(3)), 16);
	client_set_msr(&c, HV_SINT(3), 0);
	client_close(&c);
}

static void synic_msrs_obey_cpuid(void **state)
{
	static const uint32_t msrs[] = {HV_SCONTROL, HV_EOM, HV_SINT(0), HV_SINT(15)};
	struct client c;

	for (size_t i = 0; i < sizeof(msrs) / sizeof(*msrs); i++) {
		open_synic(&c, KVM_CAP_HYPERV_SYNIC);
		hv_enable(&c, KVM_CAP_HYPERV_ENFORCE_CPUID, 1);
		hv_set_cpuid(&c, HV_FEATURES, CPUID_EAX, ~(1u << 2));
		guest_read_faults(&c, msrs[i]);
		client_close(&c);
		open_synic(&c, KVM_CAP_HYPERV_SYNIC);
		hv_enable(&c, KVM_CAP_HYPERV_ENFORCE_CPUID, 1);
		hv_set_cpuid(&c, HV_FEATURES, CPUID_EAX, 1u << 2);
		(void)guest_read(&c, msrs[i]);
		client_close(&c);
	}
	open_synic(&c, KVM_CAP_HYPERV_SYNIC);
	hv_enable(&c, KVM_CAP_HYPERV_ENFORCE_CPUID, 1);
	hv_set_cpuid(&c, HV_FEATURES, CPUID_EDX, ~(1u << 19));
	guest_write(&c, HV_STIMER_CONFIG(0), SINTX(2));
	guest_write_faults(&c, HV_STIMER_CONFIG(0), DIRECT);
	client_set_msr(&c, HV_STIMER_CONFIG(0), DIRECT);
	client_close(&c);
}

/* The guest writes, the client hears. */
static void write_is_told(struct client *c, uint32_t msr, uint64_t value)
{
	hv_prepare(c, msr, true, value);
	assert_run_exits(c, KVM_EXIT_HYPERV);
	assert_int_equal(c->run->hyperv.type, KVM_EXIT_HYPERV_SYNIC);
	assert_int_equal(c->run->hyperv.u.synic.msr, msr);
	assert_int_equal(client_msr(c, msr), value);
	assert_int_equal(c->run->hyperv.u.synic.control, client_msr(c, HV_SCONTROL));
	assert_int_equal(c->run->hyperv.u.synic.msg_page, client_msr(c, HV_SIMP));
	assert_int_equal(c->run->hyperv.u.synic.evt_page, client_msr(c, HV_SIEFP));
	assert_int_equal(client_next_out(c), 0xe0);
}

static void pages_are_told_and_begin_empty(void **state)
{
	uint64_t dirty[8] = {0};
	struct kvm_dirty_log log = {.dirty_bitmap = dirty};
	static const uint8_t zeros[4096];
	struct client c;

	for (int two = 0; two < 2; two++) {
		open_synic(&c, two ? KVM_CAP_HYPERV_SYNIC2 : KVM_CAP_HYPERV_SYNIC);
		memset(c.mem + MESSAGES_AT, 0xff, 0x2000);
		write_is_told(&c, HV_SIMP, MESSAGES_AT); /* not enabled, not touched */
		assert_int_equal(c.mem[MESSAGES_AT], 0xff);
		(void)guest_read(&c, HV_SIMP);
		client_slot(&c, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, c.mem, c.mem_size);
		assert_int_equal(ioctl(c.vm, KVM_GET_DIRTY_LOG, &log), 0);
		write_is_told(&c, HV_SIMP, MESSAGES_AT | 1);
		write_is_told(&c, HV_SIEFP, EVENTS_AT | 1);
		assert_int_equal(memcmp(c.mem + MESSAGES_AT, zeros, 4096) == 0, !two);
		assert_int_equal(memcmp(c.mem + EVENTS_AT, zeros, 4096) == 0, !two);
		assert_int_equal(ioctl(c.vm, KVM_GET_DIRTY_LOG, &log), 0);
		assert_int_equal(dirty[1] & 3, two ? 0 : 3); /* pages 40h and 41h */
		write_is_told(&c, HV_SCONTROL, 0);
		/* a page where there is no memory cannot be emptied */
		if (two)
			write_is_told(&c, HV_SIMP, 1ull << 40 | 1);
		else
			guest_write_faults(&c, HV_SIMP, 1ull << 40 | 1);
		/* what a client restores is restored and no more */
		memset(c.mem + MESSAGES_AT, 0xff, 4096);
		client_set_msr(&c, HV_SIMP, MESSAGES_AT | 1);
		assert_int_equal(c.mem[MESSAGES_AT], 0xff);
		(void)guest_read(&c, HV_SIMP);
		client_close(&c);
	}
}

/* --- SINTs --- */

static void routes_raise_sints(void **state)
{
	struct {
		struct kvm_irq_routing h;
		struct kvm_irq_routing_entry e[2];
	} two = {.h.nr = 2,
		 .e = {{.gsi = GSI, .type = KVM_IRQ_ROUTING_HV_SINT, .u.hv_sint = {0, 2}},
		       {.gsi = GSI, .type = KVM_IRQ_ROUTING_HV_SINT, .u.hv_sint = {0, 3}}}};
	struct client c;

	open_synic(&c, KVM_CAP_HYPERV_SYNIC);
	assert_fails(ioctl(c.vm, KVM_SET_GSI_ROUTING, &two), EINVAL); /* alone on its GSI */
	route(&c, 0, 2);
	assert_int_equal(raise_line(&c, 1), -1); /* masked */
	guest_write(&c, HV_SINT(2), 0x31);
	assert_int_equal(raise_line(&c, 0), -1);
	assert_false(apic_bit(&c, 0x210, 0x31));
	assert_int_equal(raise_line(&c, 1), 1);
	assert_true(apic_bit(&c, 0x210, 0x31));
	assert_int_equal(wait_interrupt(&c), 0x31);
	assert_true(apic_bit(&c, 0x110, 0x31)); /* in service until the guest's EOI */
	guest_write(&c, HV_EOI, 0);
	route(&c, 0, 16);
	assert_int_equal(raise_line(&c, 1), -1);
	route(&c, 7, 2); /* VP 7 is nobody ... */
	assert_int_equal(raise_line(&c, 1), -1);
	client_set_msr(&c, HV_VP_INDEX, 7);
	assert_int_equal(raise_line(&c, 1), 1);
	assert_int_equal(wait_interrupt(&c), 0x31);
	client_close(&c);
}

static void auto_eoi_leaves_nothing_in_service(void **state)
{
	struct client c;

	open_synic(&c, KVM_CAP_HYPERV_SYNIC);
	guest_write(&c, HV_SINT(2), AUTO_EOI | 0x32);
	guest_write(&c, HV_SINT(5), 0x31);
	route(&c, 0, 5);
	assert_int_equal(raise_line(&c, 1), 1);
	route(&c, 0, 2);
	assert_int_equal(raise_line(&c, 1), 1);
	assert_int_equal(wait_interrupt(&c), 0x32);
	assert_false(apic_bit(&c, 0x110, 0x32));
	/* so that a lower one of the same class follows at once */
	assert_int_equal(wait_interrupt(&c), 0x31);
	assert_true(apic_bit(&c, 0x110, 0x31));
	guest_write(&c, HV_EOI, 0);
	/* and no more of it when the SINT says so no more */
	guest_write(&c, HV_SINT(2), 0x32);
	assert_int_equal(raise_line(&c, 1), 1);
	assert_int_equal(wait_interrupt(&c), 0x32);
	assert_true(apic_bit(&c, 0x110, 0x32));
	client_close(&c);
}

static bool ticked(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint64_t n;

	return poll(&p, 1, 0) == 1 && read(fd, &n, sizeof(n)) == sizeof(n);
}

static void eoi_and_eom_resample(void **state)
{
	struct kvm_irqfd irqfd = {.gsi = GSI, .flags = KVM_IRQFD_FLAG_RESAMPLE};
	uint64_t one = 1;
	struct client c;

	for (int eom = 0; eom < 2; eom++) {
		open_synic(&c, KVM_CAP_HYPERV_SYNIC);
		guest_write(&c, HV_SINT(4), (eom ? AUTO_EOI : 0) | 0x33);
		guest_write(&c, HV_SINT(5), 0x35);
		route(&c, 0, 4);
		irqfd.fd = (uint32_t)eventfd(0, EFD_CLOEXEC);
		irqfd.resamplefd = (uint32_t)eventfd(0, EFD_CLOEXEC);
		assert_int_equal(ioctl(c.vm, KVM_IRQFD, &irqfd), 0);
		assert_int_equal(write((int)irqfd.fd, &one, sizeof(one)), sizeof(one));
		assert_int_equal(wait_interrupt(&c), 0x33);
		assert_false(ticked((int)irqfd.resamplefd));
		guest_write(&c, eom ? HV_EOM : HV_EOI, 0);
		assert_true(ticked((int)irqfd.resamplefd));
		/* an EOI of another's vector is not its */
		if (!eom) {
			route(&c, 0, 5);
			assert_int_equal(raise_line(&c, 1), 1);
			route(&c, 0, 4);
			assert_int_equal(wait_interrupt(&c), 0x35);
			guest_write(&c, HV_EOI, 0);
			assert_false(ticked((int)irqfd.resamplefd));
		}
		close((int)irqfd.fd);
		close((int)irqfd.resamplefd);
		client_close(&c);
	}
}

/* --- timers --- */

static struct message *slot(struct client *c, int sint)
{
	return (struct message *)(c->mem + MESSAGES_AT + SLOT * sint);
}

/* SINT 2 with vector 32h, and a page of messages. */
static void open_timers(struct client *c)
{
	open_synic(c, KVM_CAP_HYPERV_SYNIC);
	write_is_told(c, HV_SIMP, MESSAGES_AT | 1);
	guest_write(c, HV_SINT(2), 0x32);
}

static void one_shot_timer_sends_a_message(void **state)
{
	struct message *m;
	uint64_t at;
	struct client c;

	open_timers(&c);
	m = slot(&c, 2);
	guest_write(&c, HV_STIMER_CONFIG(1), ENABLE | SINTX(2));
	at = guest_read(&c, HV_TIME_REF_COUNT) + 20 * MS;
	guest_write(&c, HV_STIMER_COUNT(1), at);
	assert_int_equal(wait_interrupt(&c), 0x32);
	assert_true(guest_read(&c, HV_TIME_REF_COUNT) >= at);
	assert_int_equal(m->type, 0x80000010);
	assert_int_equal(m->size, 24);
	assert_int_equal(m->flags, 0);
	assert_int_equal(m->timer, 1);
	assert_int_equal(m->expiration, at);
	assert_true(m->delivery >= at);
	assert_int_equal(guest_read(&c, HV_STIMER_CONFIG(1)), SINTX(2)); /* it has stopped */
	guest_write(&c, HV_EOI, 0);
	/* what is past comes at once, and not before the timer is on */
	m->type = 0;
	guest_write(&c, HV_STIMER_COUNT(1), 1);
	assert_int_equal(m->type, 0);
	guest_write(&c, HV_STIMER_CONFIG(1), ENABLE | SINTX(2));
	assert_int_equal(m->type, 0x80000010);
	assert_int_equal(wait_interrupt(&c), 0x32);
	client_close(&c);
}

static void direct_timer_is_an_interrupt(void **state)
{
	uint64_t at;
	struct client c;

	open_timers(&c);
	guest_write(&c, HV_STIMER_CONFIG(3), DIRECT | VECTOR(0x37) | AUTO_ENABLE);
	guest_write(&c, HV_STIMER_COUNT(3), 1ull << 60);
	assert_int_equal(guest_read(&c, HV_STIMER_CONFIG(3)), ENABLE | DIRECT | VECTOR(0x37) | AUTO_ENABLE);
	at = guest_read(&c, HV_TIME_REF_COUNT) + 10 * MS;
	guest_write(&c, HV_STIMER_COUNT(3), at);
	assert_int_equal(wait_interrupt(&c), 0x37);
	assert_true(guest_read(&c, HV_TIME_REF_COUNT) >= at);
	assert_int_equal(slot(&c, 0)->type, 0);
	assert_int_equal(guest_read(&c, HV_STIMER_CONFIG(3)), DIRECT | VECTOR(0x37) | AUTO_ENABLE);
	guest_write(&c, HV_EOI, 0);
	/* a count of 0 turns it off */
	guest_write(&c, HV_STIMER_COUNT(3), at + (1ull << 50));
	guest_write(&c, HV_STIMER_COUNT(3), 0);
	assert_int_equal(guest_read(&c, HV_STIMER_CONFIG(3)), DIRECT | VECTOR(0x37) | AUTO_ENABLE);
	client_close(&c);
}

static void on_alarm(int signo)
{
	(void)signo;
}

/* HLT with interrupts off: the timer runs out, its message comes, and the vCPU sleeps on. */
static void timer_does_not_end_hlt_by_itself(void **state)
{
	struct sigaction sa = {.sa_handler = on_alarm};
	struct itimerval later = {.it_value.tv_usec = 40000, .it_interval.tv_usec = 40000}, off = {0};
	struct kvm_mp_state mp;
	struct kvm_regs r;
	struct client c;

	open_timers(&c);
	guest_write(&c, HV_STIMER_CONFIG(0), ENABLE | SINTX(2));
	guest_write(&c, HV_STIMER_COUNT(0), guest_read(&c, HV_TIME_REF_COUNT) + 5 * MS);
	memcpy(c.mem + 0x1a00, deaf_sleep_code, GUEST_CODE_SIZE(deaf_sleep_code));
	r = client_regs(&c);
	r.rip = 0x1a00;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &later, NULL);
	do {
		assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
		assert_int_equal(ioctl(c.vcpu, KVM_GET_MP_STATE, &mp), 0);
	} while (slot(&c, 2)->type == 0 || mp.mp_state != KVM_MP_STATE_HALTED);
	setitimer(ITIMER_REAL, &off, NULL);
	assert_true(apic_bit(&c, 0x210, 0x32));
	/* that interrupt is taken as soon as it may be */
	mp.mp_state = KVM_MP_STATE_RUNNABLE;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_MP_STATE, &mp), 0);
	assert_int_equal(client_next_out(&c), 0xe4);
	assert_int_equal(client_next_out(&c), 0x32);
	client_close(&c);
}

/* The host's timer was set by the old clock; when it ends, the guest's time has not come. */
static void timer_counts_by_the_clock_as_it_is_set(void **state)
{
	struct kvm_clock_data clock = {0};
	uint64_t end;
	struct client c;

	open_timers(&c);
	assert_int_equal(ioctl(c.vm, KVM_GET_CLOCK, &clock), 0);
	clock.flags = 0;
	do { /* until it was set back before the timer ran out */
		slot(&c, 2)->type = 0;
		clock.clock += 1ull << 40;
		assert_int_equal(ioctl(c.vm, KVM_SET_CLOCK, &clock), 0);
		guest_write(&c, HV_STIMER_COUNT(0), guest_read(&c, HV_TIME_REF_COUNT) + 10 * MS);
		guest_write(&c, HV_STIMER_CONFIG(0), ENABLE | SINTX(2));
		(void)guest_read(&c, HV_TIME_REF_COUNT); /* it is armed */
		clock.clock -= 1ull << 39;
		assert_int_equal(ioctl(c.vm, KVM_SET_CLOCK, &clock), 0);
	} while (slot(&c, 2)->type);
	end = guest_read(&c, HV_TIME_REF_COUNT) + 30 * MS;
	while (guest_read(&c, HV_TIME_REF_COUNT) < end)
		assert_int_equal(slot(&c, 2)->type, 0);
	assert_int_equal(guest_read(&c, HV_STIMER_CONFIG(0)), ENABLE | SINTX(2));
	client_close(&c);
}

static void periodic_timer_goes_on(void **state)
{
	struct message *m;
	uint64_t last = 0, began, end;
	struct client c;

	open_timers(&c);
	m = slot(&c, 2);
	guest_write(&c, HV_STIMER_COUNT(0), 5 * MS);
	began = guest_read(&c, HV_TIME_REF_COUNT);
	guest_write(&c, HV_STIMER_CONFIG(0), ENABLE | PERIODIC | SINTX(2));
	end = guest_read(&c, HV_TIME_REF_COUNT);
	for (int i = 0; i < 4; i++) {
		if (i) {
			m->type = 0;
			guest_write(&c, HV_EOI, 0);
		}
		assert_int_equal(wait_interrupt(&c), 0x32);
		if (!i)
			assert_true(m->expiration >= began + 5 * MS && m->expiration <= end + 5 * MS);
		else
			assert_true(m->expiration > last && (m->expiration - last) % (5 * MS) == 0);
		last = m->expiration;
	}
	assert_int_equal(guest_read(&c, HV_STIMER_CONFIG(0)), ENABLE | PERIODIC | SINTX(2));
	/* nobody empties the slot: ticks are lost, and nobody is asked to say when it is free */
	while (guest_read(&c, HV_TIME_REF_COUNT) < last + 20 * MS)
		;
	assert_int_equal(m->expiration, last);
	assert_int_equal(m->flags, 0);
	assert_false(apic_bit(&c, 0x210, 0x32));
	m->type = 0;
	guest_write(&c, HV_EOI, 0);
	assert_int_equal(wait_interrupt(&c), 0x32);
	assert_true(m->expiration > last + 10 * MS);
	client_close(&c);
}

static void one_shot_timer_waits_for_its_slot(void **state)
{
	struct message *m;
	struct client c;

	for (int eoi = 0; eoi < 2; eoi++) {
		open_timers(&c);
		m = slot(&c, 2);
		m->type = 1;
		guest_write(&c, HV_STIMER_COUNT(0), 1);
		guest_write(&c, HV_STIMER_CONFIG(0), ENABLE | SINTX(2));
		(void)guest_read(&c, HV_TIME_REF_COUNT);
		assert_int_equal(m->type, 1);
		assert_int_equal(m->flags, 1); /* say when it is free */
		assert_int_equal(guest_read(&c, HV_STIMER_CONFIG(0)), ENABLE | SINTX(2));
		assert_false(apic_bit(&c, 0x210, 0x32));
		m->type = 0;
		if (eoi) {
			route(&c, 0, 2);
			assert_int_equal(raise_line(&c, 1), 1);
			assert_int_equal(wait_interrupt(&c), 0x32);
			assert_int_equal(m->type, 0);
		}
		guest_write(&c, eoi ? HV_EOI : HV_EOM, 0);
		assert_int_equal(m->type, 0x80000010);
		assert_int_equal(wait_interrupt(&c), 0x32);
		client_close(&c);
	}
}

static void timer_without_a_place_for_messages_stays(void **state)
{
	struct client c;

	open_timers(&c);
	/* SINT 0 is none for a timer that runs */
	guest_write(&c, HV_STIMER_COUNT(0), 1ull << 60);
	guest_write(&c, HV_STIMER_CONFIG(0), ENABLE | SINTX(2));
	guest_write(&c, HV_STIMER_CONFIG(0), ENABLE);
	assert_int_equal(guest_read(&c, HV_STIMER_CONFIG(0)), 0);
	guest_write(&c, HV_STIMER_CONFIG(0), ENABLE | SINTX(2));
	guest_write(&c, HV_STIMER_CONFIG(0), ENABLE | DIRECT);
	assert_int_equal(guest_read(&c, HV_STIMER_CONFIG(0)), ENABLE | DIRECT);
	/* a masked SINT: the message is there, the timer tries again */
	guest_write(&c, HV_SINT(2), MASKED | 0x32);
	guest_write(&c, HV_STIMER_COUNT(1), 1);
	guest_write(&c, HV_STIMER_CONFIG(1), ENABLE | SINTX(2));
	assert_int_equal(guest_read(&c, HV_STIMER_CONFIG(1)), ENABLE | SINTX(2));
	guest_write(&c, HV_SINT(2), 0x32);
	slot(&c, 2)->type = 0;
	guest_write(&c, HV_EOM, 0);
	assert_int_equal(wait_interrupt(&c), 0x32);
	/* the page is gone */
	write_is_told(&c, HV_SIMP, 0);
	guest_write(&c, HV_STIMER_CONFIG(1), ENABLE | SINTX(2));
	assert_int_equal(guest_read(&c, HV_STIMER_CONFIG(1)), ENABLE | SINTX(2));
	client_close(&c);
}

/* KVM_GET_MSRS here, KVM_SET_MSRS there: SynIC and a timer that runs. */
static void timers_go_on_in_another_vm(void **state)
{
	static const uint32_t msrs[] = {HV_SCONTROL, HV_SVERSION, HV_SIEFP, HV_SIMP, HV_SINT(0), HV_SINT(2), HV_SINT(15),
					HV_STIMER_CONFIG(0), HV_STIMER_COUNT(0), HV_STIMER_CONFIG(2), HV_STIMER_COUNT(2)};
	uint64_t saved[sizeof(msrs) / 4];
	struct kvm_clock_data clock = {0};
	struct client c, d;

	open_timers(&c);
	write_is_told(&c, HV_SIEFP, EVENTS_AT | 1);
	guest_write(&c, HV_SINT(15), AUTO_EOI | 0x3f);
	guest_write(&c, HV_STIMER_COUNT(2), guest_read(&c, HV_TIME_REF_COUNT) + 30 * MS);
	guest_write(&c, HV_STIMER_CONFIG(2), ENABLE | SINTX(2));
	for (size_t i = 0; i < sizeof(msrs) / 4; i++)
		saved[i] = client_msr(&c, msrs[i]);
	assert_int_equal(ioctl(c.vm, KVM_GET_CLOCK, &clock), 0);

	open_synic(&d, KVM_CAP_HYPERV_SYNIC2);
	clock.flags = 0;
	assert_int_equal(ioctl(d.vm, KVM_SET_CLOCK, &clock), 0);
	for (size_t i = 0; i < sizeof(msrs) / 4; i++)
		client_set_msr(&d, msrs[i], saved[i]);
	for (size_t i = 0; i < sizeof(msrs) / 4; i++)
		assert_int_equal(client_msr(&d, msrs[i]), saved[i]);
	assert_int_equal(wait_interrupt(&d), 0x32);
	assert_int_equal(slot(&d, 2)->timer, 2);
	assert_int_equal(slot(&d, 2)->expiration, saved[10]);
	assert_true(guest_read(&d, HV_TIME_REF_COUNT) >= saved[10]);
	client_close(&d);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(synic_is_there_once_the_client_wants_it),
		cmocka_unit_test(synic_msrs_obey_cpuid),
		cmocka_unit_test(pages_are_told_and_begin_empty),
		cmocka_unit_test(routes_raise_sints),
		cmocka_unit_test(auto_eoi_leaves_nothing_in_service),
		cmocka_unit_test(eoi_and_eom_resample),
		cmocka_unit_test(one_shot_timer_sends_a_message),
		cmocka_unit_test(direct_timer_is_an_interrupt),
		cmocka_unit_test(timer_does_not_end_hlt_by_itself),
		cmocka_unit_test(timer_counts_by_the_clock_as_it_is_set),
		cmocka_unit_test(periodic_timer_goes_on),
		cmocka_unit_test(one_shot_timer_waits_for_its_slot),
		cmocka_unit_test(timer_without_a_place_for_messages_stays),
		cmocka_unit_test(timers_go_on_in_another_vm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
