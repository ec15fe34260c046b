/*
 * L1's local APIC while an L2 runs: APIC virtualization is L1's and none of L2's, what L1's APIC
 * was sent or told meanwhile is there when L1 goes on, and L2 finds no page of the hypervisor's.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/time.h>

#include "nested.h"

#define APIC 0xfee00000u
#define APIC_PD 0x14000u
#define PIN PIN_BASED_VM_EXEC_CONTROL
#define EXT_INTR_EXITING 1u
#define ACK_ON_EXIT (1u << 15)
#define AT_L1_CODE 0x1c00

/* Like nested_do(), of code that is no snippet. */
#define L1_READ "\x8b\x18"			   /* mov ebx, [rax] */
#define L1_WRITE "\x89\x18"			   /* mov [rax], ebx */
static uint32_t l1_access(struct client *c, const char *code, uint32_t offset, uint32_t value)
{
	struct kvm_regs r = {.rip = AT_L1_CODE, .rsp = 0x8000, .rflags = 2, .rax = APIC + offset, .rbx = value};

	memcpy(c->mem + AT_L1_CODE, code, 2);
	memcpy(c->mem + AT_L1_CODE + 2, "\xe6\xf0", 2);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(nested_run(c).port, PORT_DONE);
	return (uint32_t)client_regs(c).rbx;
}

/* L1 has its APIC in its page tables, and has enabled it. */
static bool open_with_apic(struct client *c)
{
	bool open;

	nested_irqchip = true;
	open = nested_open_l2(c);
	nested_irqchip = false;
	if (!open)
		return false;
	*(uint64_t *)(c->mem + 0x11000 + 3 * 8) = APIC_PD | PG_ALL;
	*(uint64_t *)(c->mem + APIC_PD + (APIC >> 21 & 511) * 8) = APIC | PG_ALL | PG_PS;
	l1_access(c, L1_WRITE, 0xf0, 0x1ff);
	return true;
}

static uint32_t image(struct client *c, unsigned offset)
{
	struct kvm_lapic_state l;
	uint32_t v;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_LAPIC, &l), 0);
	memcpy(&v, l.regs + offset, sizeof(v));
	return v;
}

/* mov eax, address of the version; mov ebx, [rax]; add eax, TPR - version; mov dword [rax], tpr; cpuid */
static void l2_apic_code(struct client *c, uint32_t page, uint8_t tpr)
{
	uint8_t code[] = {0xb8, 0x30, 0, 0, 0, 0x8b, 0x18, 0x83, 0xc0, 0x50, 0xc7, 0, tpr, 0, 0, 0, 0x0f, 0xa2};

	page |= 0x30;
	memcpy(code + 1, &page, sizeof(page));
	nested_l2_code(c, code, sizeof(code));
	nested_vmwrite(c, GUEST_RIP, AT_L2);
}

/* L1 and L2 in turn: neither is led to the other's page. */
static void both_have_the_apic(struct client *c, uint32_t l2_page)
{
	for (uint8_t turn = 0; turn < 3; turn++) {
		uint32_t version = l1_access(c, L1_READ, 0x30, 0);

		assert_int_equal(version & 0xff, 0x14);
		l2_apic_code(c, l2_page, (uint8_t)(0x10 + turn));
		assert_int_equal(nested_enter(c, turn ? VMRESUME : VMLAUNCH), EXIT_REASON_CPUID);
		assert_int_equal(nested_at_exit.rbx, version);
		assert_int_equal(image(c, 0x80), 0x10u + turn);
		assert_int_equal(l1_access(c, L1_READ, 0x80, 0), 0x10u + turn);
	}
}

NESTED_TEST(l2_in_l1s_memory_accesses_l1s_apic, open_with_apic)
{
	both_have_the_apic(c, APIC);
}

NESTED_TEST(l2_on_ept_of_l1_accesses_l1s_apic, open_with_apic)
{
	uint64_t *l4 = (uint64_t *)(c->mem + AT_EPT);

	memset(l4, 0, 0x4000);
	l4[0] = (AT_EPT + 0x1000) | 7;
	l4[512] = (AT_EPT + 0x2000) | 7;
	l4[1024] = (AT_EPT + 0x3000) | 7;
	for (unsigned i = 0; i < 512; i++)
		l4[1536 + i] = i * 4096 | 7 | 6u << 3;
	l4[1536 + 0x60] = APIC | 7 | 6u << 3;
	nested_set_bits(c, SECONDARY_VM_EXEC_CONTROL, 1u << 1);
	nested_vmwrite(c, EPT_POINTER, AT_EPT | 3u << 3 | 6);
	both_have_the_apic(c, 0x60000);
}

static void take_interrupts_as_exits(struct client *c)
{
	nested_vmwrite(c, PIN, nested_control(c, 13, EXT_INTR_EXITING));
	nested_vmwrite(c, VM_EXIT_CONTROLS, nested_control(c, 15, EXIT_HOST_64 | ACK_ON_EXIT));
}

static uint32_t ioapic_entry(struct client *c, unsigned pin)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};

	assert_int_equal(ioctl(c->vm, KVM_GET_IRQCHIP, &chip), 0);
	return (uint32_t)chip.chip.ioapic.redirtbl[pin].bits;
}

static void set_line(struct client *c, uint32_t gsi, uint32_t level)
{
	struct kvm_irq_level line = {.irq = gsi, .level = level};

	assert_int_equal(ioctl(c->vm, KVM_IRQ_LINE, &line), 0);
}

#define REMOTE_IRR (1u << 14)

/* A pin becomes level-triggered while L2 runs: L1's EOI, which is no exit otherwise, reaches the IOAPIC. */
NESTED_TEST(an_eoi_of_a_pin_routed_while_l2_runs_reaches_the_ioapic, open_with_apic)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
	struct outcome o;

	take_interrupts_as_exits(c);
	l1_access(c, L1_WRITE, 0x350, 1u << 16); /* nothing by way of the 8259s */
	/* the EOI is the processor's affair from here on */
	l1_access(c, L1_WRITE, 0xb0, 0);
	nested_l2_code(c, "\xe6\x55\x90\x90\x90\xe6\x56\xf3\x90\xeb\xfc", 11); /* out; out; for ever */
	assert_int_equal(nested_do(c, VMLAUNCH, 0, 0).port, 0x55);
	assert_int_equal(ioctl(c->vm, KVM_GET_IRQCHIP, &chip), 0);
	chip.chip.ioapic.redirtbl[9].bits = 0x51 | 1u << 15;
	assert_int_equal(ioctl(c->vm, KVM_SET_IRQCHIP, &chip), 0);
	assert_int_equal(nested_run(c).port, 0x56); /* the vCPU has heard of the pin, in L2 */
	set_line(c, 9, 1);
	o = nested_run(c);
	assert_int_equal(o.port, PORT_EXIT);
	assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_EXTERNAL_INTERRUPT);
	assert_int_equal(nested_vmread(c, VM_EXIT_INTR_INFO), 1u << 31 | 0x51);
	assert_int_equal(ioapic_entry(c, 9) & REMOTE_IRR, REMOTE_IRR);
	set_line(c, 9, 0);
	l1_access(c, L1_WRITE, 0xb0, 0);
	assert_int_equal(image(c, 0x120), 0);
	assert_int_equal(ioapic_entry(c, 9) & REMOTE_IRR, 0);
}

struct sender {
	struct client *c;
	int turn; /* (a) the vector to send next, 0 none, -1 the end */
};

static void *send_vectors(void *arg)
{
	struct sender *s = arg;
	struct kvm_msi msi = {.address_lo = APIC};
	int v;

	while ((v = __atomic_load_n(&s->turn, __ATOMIC_SEQ_CST)) >= 0) {
		if (!v) {
			sched_yield();
			continue;
		}
		usleep((useconds_t)(v & 7) * 100); /* before the entry, while it is made, in L2 */
		msi.data = (uint32_t)v;
		__atomic_store_n(&s->turn, 0, __ATOMIC_SEQ_CST);
		assert_int_equal(ioctl(s->c->vm, KVM_SIGNAL_MSI, &msi), 1);
	}
	return NULL;
}

NESTED_TEST(interrupts_sent_to_a_running_l2_are_exits_each_once, open_with_apic)
{
	struct sender s = {.c = c};
	pthread_t th;

	take_interrupts_as_exits(c);
	nested_l2_code(c, "\xf3\x90\xeb\xfc", 4);
	pthread_create(&th, NULL, send_vectors, &s);
	for (int n = 0; n < 400; n++) {
		int vector = 0x30 + n % 0x80;

		nested_vmwrite(c, GUEST_RIP, AT_L2);
		__atomic_store_n(&s.turn, vector, __ATOMIC_SEQ_CST);
		assert_int_equal(nested_enter(c, n ? VMRESUME : VMLAUNCH), EXIT_REASON_EXTERNAL_INTERRUPT);
		assert_int_equal(nested_vmread(c, VM_EXIT_INTR_INFO), 1u << 31 | (uint32_t)vector);
		/* in service, which the processor must know for the EOI to be of this vector */
		assert_int_equal(image(c, 0x100 + (unsigned)vector / 32 * 16), 1u << vector % 32);
		l1_access(c, L1_WRITE, 0xb0, 0);
		assert_int_equal(image(c, 0x100 + (unsigned)vector / 32 * 16), 0);
	}
	__atomic_store_n(&s.turn, -1, __ATOMIC_SEQ_CST);
	pthread_join(th, NULL);
}

/* Without the control an interrupt of L1's is delivered through L2's IDT; its end is L1's again. */
NESTED_TEST(an_interrupt_that_l1_does_not_want_is_l2s, open_with_apic)
{
	struct kvm_msi msi = {.address_lo = APIC, .data = 0x33};
	struct outcome o;

	nested_vmwrite(c, GUEST_RFLAGS, 0x202);
	nested_l2_code(c, "\xe6\x55\x90\x90\x0f\xa2", 6);
	assert_int_equal(nested_do(c, VMLAUNCH, 0, 0).port, 0x55);
	assert_int_equal(ioctl(c->vm, KVM_SIGNAL_MSI, &msi), 1);
	o = nested_run(c);
	assert_int_equal(o.port, 0x33);
	assert_int_equal(image(c, 0x110), 1u << 19);
	memcpy(c->mem + AT_STUBS + 0x33 * 16 + 5, "\x0f\xa2", 2);
	assert_int_equal(nested_run(c).port, PORT_EXIT);
	assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_CPUID);
	l1_access(c, L1_WRITE, 0xb0, 0);
	assert_int_equal(image(c, 0x110), 0);
}

/* It waits behind the TPR while L2 runs; L1 lowers that, and the processor delivers it. */
NESTED_TEST(what_waited_while_l2_ran_is_delivered_to_l1, open_with_apic)
{
	struct kvm_msi msi = {.address_lo = APIC, .data = 0x35};
	struct kvm_regs r;

	l1_access(c, L1_WRITE, 0x80, 0x50);
	take_interrupts_as_exits(c);
	nested_l2_code(c, "\xe6\x55\x0f\xa2", 4);
	assert_int_equal(nested_do(c, VMLAUNCH, 0, 0).port, 0x55);
	assert_int_equal(ioctl(c->vm, KVM_SIGNAL_MSI, &msi), 1);
	assert_int_equal(nested_run(c).port, PORT_EXIT);
	assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_CPUID);
	/* sti; mov [rax], ebx (TPR 0); nop */
	memcpy(c->mem + AT_L1_CODE, "\xfb\x89\x18\x90\xe6\xf0", 6);
	r = (struct kvm_regs){.rip = AT_L1_CODE, .rsp = 0x8000, .rflags = 2, .rax = APIC + 0x80};
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(nested_run(c).port, 0x35);
}

/* --- wait-for-SIPI --- */

static void nothing(int signal)
{
}

/* KVM_RUN sleeps until a signal comes. */
static void sleeps(struct client *c)
{
	struct sigaction act = {.sa_handler = nothing};
	struct itimerval in = {.it_value.tv_usec = 30000};

	sigaction(SIGALRM, &act, NULL);
	setitimer(ITIMER_REAL, &in, NULL);
	assert_int_equal(ioctl(c->vcpu, KVM_RUN, 0), -1);
	assert_int_equal(errno, EINTR);
}

static unsigned mp_state(struct client *c)
{
	struct kvm_mp_state s;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_MP_STATE, &s), 0);
	return s.mp_state;
}

NESTED_TEST(an_l2_that_waits_for_a_sipi_exits_by_it_alone, open_with_apic)
{
	struct kvm_regs r = {.rip = AT_CODE + 32 * (uint64_t)VMLAUNCH, .rsp = 0x8000, .rflags = 2};
	struct kvm_vcpu_events e;
	struct kvm_mp_state s = {KVM_MP_STATE_SIPI_RECEIVED};

	take_interrupts_as_exits(c);
	nested_vmwrite(c, GUEST_ACTIVITY_STATE, 3);
	nested_l2_code(c, "\x0f\xa2", 2);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	sleeps(c);
	assert_int_equal(mp_state(c), KVM_MP_STATE_INIT_RECEIVED);
	/* an NMI and an interrupt do not end it, though L1 would take them as exits, and with Linux 6.1 does */
	if (on_userkvm()) {
		struct kvm_msi msi = {.address_lo = APIC, .data = 0x51};

		assert_int_equal(ioctl(c->vcpu, KVM_NMI), 0);
		assert_true(ioctl(c->vm, KVM_SIGNAL_MSI, &msi) >= 0);
		sleeps(c);
		assert_int_equal(mp_state(c), KVM_MP_STATE_INIT_RECEIVED);
	}
	assert_int_equal(ioctl(c->vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	assert_int_equal(e.nmi.pending, on_userkvm()); /* it waits, as L1's */
	e.flags = KVM_VCPUEVENT_VALID_SIPI_VECTOR | KVM_VCPUEVENT_VALID_NMI_PENDING;
	e.sipi_vector = 0x33;
	e.nmi.pending = 0;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_MP_STATE, &s), 0);
	assert_int_equal(nested_run(c).port, PORT_EXIT);
	assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_SIPI_SIGNAL);
	assert_int_equal(nested_vmread(c, EXIT_QUALIFICATION), 0x33);
	assert_int_equal(nested_vmread(c, GUEST_ACTIVITY_STATE), 3);
	assert_int_equal(nested_vmread(c, GUEST_RIP), AT_L2);
	assert_int_equal(mp_state(c), KVM_MP_STATE_RUNNABLE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(l2_in_l1s_memory_accesses_l1s_apic),
		cmocka_unit_test(l2_on_ept_of_l1_accesses_l1s_apic),
		cmocka_unit_test(an_eoi_of_a_pin_routed_while_l2_runs_reaches_the_ioapic),
		cmocka_unit_test(interrupts_sent_to_a_running_l2_are_exits_each_once),
		cmocka_unit_test(an_interrupt_that_l1_does_not_want_is_l2s),
		cmocka_unit_test(what_waited_while_l2_ran_is_delivered_to_l1),
		cmocka_unit_test(an_l2_that_waits_for_a_sipi_exits_by_it_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
