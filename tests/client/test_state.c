/*
 * State across the ABI: what is set comes back and is what the guest runs
 * with. kvm_run's shared registers, events, hypercalls, debug registers, FPU,
 * XSAVE, the boot processor, CPUID, memory for the TSS and the identity map.
 */
#include "guest_code.h"
#include "paging.h"

GUEST_CODE(inc_loop, 64, "1: inc %rax; outb %al, $0x40; jmp 1b");

static void open_long(struct client *c, const uint8_t *code, size_t n)
{
	client_open_vm(c, 2 << 20);
	client_add_vcpu(c);
	paging_start(c, PAGING_LONG, 0, 0, 0, 0);
	memcpy(c->mem + AT_CODE, code, n);
}
#define OPEN_LONG(c, code) open_long(c, code, GUEST_CODE_SIZE(code))

static void shared_registers_travel_in_kvm_run(void **state)
{
	struct client c;
	int valid;

	OPEN_LONG(&c, inc_loop);
	valid = ioctl(c.kvm, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS);
	assert_int_equal(valid, KVM_SYNC_X86_VALID_FIELDS);
	c.run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal(c.run->s.regs.regs.rax, 1);
	assert_int_equal(c.run->s.regs.sregs.cr3, 0x10000);
	assert_int_equal(c.run->s.regs.events.exception.injected, 0);
	/* A change counts only when it is marked. */
	c.run->s.regs.regs.rax = 100;
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal(c.run->s.regs.regs.rax, 2);
	c.run->s.regs.regs.rax = 100;
	c.run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal(c.run->kvm_dirty_regs, 0);
	assert_int_equal(c.run->s.regs.regs.rax, 101);
	/* Not asked for: not written. */
	c.run->kvm_valid_regs = 0;
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal(c.run->s.regs.regs.rax, 101);
	c.run->kvm_valid_regs = 0x80;
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINVAL);
	c.run->kvm_valid_regs = 0;
	c.run->kvm_dirty_regs = 0x80;
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINVAL);
	c.run->kvm_dirty_regs = 0;
	assert_int_equal(client_next_out(&c), 0x40);
	client_close(&c);
}

/* Their instructions run again, where the state has gone to another VM. */
static void exceptions_of_int3_and_into_are_no_events(void **state)
{
	static const struct {
		uint8_t nr, injected;
	} rows[] = {{3, 0}, {4, 0}, {5, 1}};
	struct kvm_vcpu_events e;
	struct client c;

	OPEN_LONG(&c, inc_loop);
	for (unsigned n = 0; n < sizeof(rows) / sizeof(rows[0]); n++) {
		assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
		e.exception.injected = 1;
		e.exception.nr = rows[n].nr;
		e.exception.has_error_code = 0;
		assert_int_equal(ioctl(c.vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
		assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
		assert_int_equal(e.exception.nr, rows[n].nr);
		assert_int_equal(e.exception.injected, rows[n].injected);
		assert_int_equal(e.exception.pending, 0);
	}
	client_close(&c);
}

static void exception_set_as_an_event_is_delivered(void **state)
{
	struct kvm_vcpu_events e;
	struct client c;

	OPEN_LONG(&c, inc_loop);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	assert_int_equal(e.exception.injected, 0);
	assert_int_equal(e.nmi.masked, 0);
	e.exception.injected = 1;
	e.exception.nr = 13;
	e.exception.has_error_code = 1;
	e.exception.error_code = 0x1230;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
	memset(&e, 0xff, sizeof(e));
	assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	assert_int_equal(e.exception.injected, 1);
	assert_int_equal(e.exception.nr, 13);
	assert_int_equal(e.exception.error_code, 0x1230);
	assert_int_equal(client_next_out(&c), 13);
	assert_int_equal(client_regs(&c).rdx, 0x1230);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	assert_int_equal(e.exception.injected, 0);
	client_close(&c);
}

static void nmi_set_as_an_event_waits_while_masked(void **state)
{
	struct kvm_vcpu_events e;
	struct client c;

	OPEN_LONG(&c, inc_loop);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	e.nmi.pending = 1;
	e.nmi.masked = 1;
	e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	assert_int_equal(e.nmi.pending, 1);
	assert_int_equal(e.nmi.masked, 1);
	e.nmi.masked = 0;
	e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
	assert_int_equal(client_next_out(&c), 2);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	assert_int_equal(e.nmi.pending, 0);
	assert_int_equal(e.nmi.masked, 1);
	client_close(&c);
}

static void nonsense_events_are_refused(void **state)
{
	struct kvm_vcpu_events e;
	struct client c;

	OPEN_LONG(&c, inc_loop);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	e.flags = 0x8000;
	assert_fails(ioctl(c.vcpu, KVM_SET_VCPU_EVENTS, &e), EINVAL);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	e.exception.injected = 1;
	e.exception.nr = 32; /* no exception */
	assert_fails(ioctl(c.vcpu, KVM_SET_VCPU_EVENTS, &e), EINVAL);
	e.exception.nr = 2; /* NMI has its own fields */
	assert_fails(ioctl(c.vcpu, KVM_SET_VCPU_EVENTS, &e), EINVAL);
	assert_int_equal(client_next_out(&c), 0x40);
	client_close(&c);
}

/* KVM_CAP_EXCEPTION_PAYLOAD: CR2 changes with the delivery, not before. */
static void pending_page_fault_keeps_its_address_as_payload(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = {1}};
	struct kvm_vcpu_events e;
	struct kvm_sregs s;
	struct client c;

	OPEN_LONG(&c, inc_loop);
	assert_int_equal(ioctl(c.vm, KVM_ENABLE_CAP, &cap), 0);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	e.flags = KVM_VCPUEVENT_VALID_PAYLOAD;
	e.exception.pending = 1;
	e.exception.nr = 14;
	e.exception.has_error_code = 1;
	e.exception.error_code = 2;
	e.exception_has_payload = 1;
	e.exception_payload = 0xabc123;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.cr2, 0);
	assert_int_equal(client_next_out(&c), 14);
	assert_int_equal(client_regs(&c).rcx, 0xabc123);
	assert_int_equal(client_regs(&c).rdx, 2);
	client_close(&c);
}

GUEST_CODE(hypercalls, 64,
	   "mov $1, %eax; vmcall; mov %rax, %r8; mov $0x7777, %eax; vmcall; mov %rax, %r9\n"
	   "mov $12, %eax; mov $0x1000, %ebx; mov $3, %ecx; mov $0x10, %edx; .byte 0x0f, 0x01, 0xd9; mov %rax, %r10\n"
	   "outb %al, $0x40");

static void hypercalls_answer_or_go_to_the_client(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_EXIT_HYPERCALL, .args = {1 << 12}};
	struct client c;
	struct kvm_regs r;

	OPEN_LONG(&c, hypercalls);
	assert_int_equal(ioctl(c.vm, KVM_CHECK_EXTENSION, KVM_CAP_EXIT_HYPERCALL), 1 << 12);
	assert_int_equal(client_next_out(&c), 0x40);
	r = client_regs(&c);
	assert_int_equal(r.r8, 0);		 /* KVM_HC_VAPIC_POLL_IRQ */
	assert_int_equal((int64_t)r.r9, -1000);	 /* KVM_ENOSYS */
	assert_int_equal((int64_t)r.r10, -1000); /* not enabled */
	client_close(&c);

	OPEN_LONG(&c, hypercalls);
	assert_int_equal(ioctl(c.vm, KVM_ENABLE_CAP, &cap), 0);
	assert_run_exits(&c, KVM_EXIT_HYPERCALL);
	assert_int_equal(c.run->hypercall.nr, 12);
	assert_int_equal(c.run->hypercall.args[0], 0x1000);
	assert_int_equal(c.run->hypercall.args[1], 3);
	assert_int_equal(c.run->hypercall.args[2], 0x10);
	assert_int_equal(c.run->hypercall.longmode, 1);
	c.run->hypercall.ret = 0x1234;
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal(client_regs(&c).r10, 0x1234);
	cap.args[0] = 1;
	assert_fails(ioctl(c.vm, KVM_ENABLE_CAP, &cap), EINVAL);
	client_close(&c);
}

GUEST_CODE(user_hypercall, 64, "mov $1, %eax; vmcall; outb %al, $0x40");

static void hypercall_from_ring_3_is_not_permitted(void **state)
{
	struct client c;

	client_open_vm(&c, 2 << 20);
	client_add_vcpu(&c);
	paging_start(&c, PAGING_LONG, 3, 0, 0, 0);
	memcpy(c.mem + AT_CODE, user_hypercall, GUEST_CODE_SIZE(user_hypercall));
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal((int64_t)client_regs(&c).rax, -1);
	client_close(&c);
}

GUEST_CODE(fpu_code, 64,
	   "fld1; faddp %st, %st(1); addpd %xmm1, %xmm0; stmxcsr (%rsi); fstcw 4(%rsi); outb %al, $0x40");

static void fpu_state_goes_in_and_comes_out(void **state)
{
	struct kvm_fpu f;
	struct kvm_sregs s;
	struct client c;
	double d[2] = {1.5, 2.5}, e[2] = {10, 20}, sum[2];
	long double st0 = 41;
	bool told;

	OPEN_LONG(&c, fpu_code);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	s.cr4 |= 3 << 9;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SREGS, &s), 0);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_FPU, &f), 0);
	assert_int_equal(f.fcw, 0x37f);
	/* Linux's KVM neither tells MXCSR here nor takes it */
	told = f.mxcsr != 0;
	if (told)
		assert_int_equal(f.mxcsr, 0x1f80);
	f.fcw = 0x27f | 0x100;
	f.mxcsr = 0x9f80;
	f.fsw = 7 << 11; /* one value on the stack */
	f.ftwx = 0x80;
	memcpy(f.fpr[0], &st0, 10);
	memcpy(f.xmm[0], d, 16);
	memcpy(f.xmm[1], e, 16);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_FPU, &f), 0);
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal(*(uint32_t *)(c.mem + AT_TEST), told ? 0x9f80 : 0x1f80);
	assert_int_equal(*(uint16_t *)(c.mem + AT_TEST + 4), 0x37f);
	if (!told) {
		/* and what it sets of components in their initial state, the area's header says is not there */
		client_close(&c);
		return;
	}
	assert_int_equal(ioctl(c.vcpu, KVM_GET_FPU, &f), 0);
	memcpy(sum, f.xmm[0], 16);
	assert_true(sum[0] == 11.5 && sum[1] == 22.5);
	memcpy(&st0, f.fpr[0], 10);
	assert_true(st0 == 42);
	client_close(&c);
}

static bool xsave_is_offered(struct client *c)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 e[128];
	} cpuid = { .head.nent = 128 };

	assert_int_equal(ioctl(c->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), 0);
	for (unsigned n = 0; n < cpuid.head.nent; n++)
		if (cpuid.head.entries[n].function == 1)
			return cpuid.head.entries[n].ecx & 1u << 26;
	return false;
}

static void xsave_area_and_xcr0_round_trip(void **state)
{
	struct kvm_xsave x, y;
	struct kvm_xcrs xcrs;
	struct client c;

	OPEN_LONG(&c, inc_loop);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_XCRS, &xcrs), 0);
	assert_int_equal(xcrs.nr_xcrs, 1);
	assert_int_equal(xcrs.xcrs[0].value, 1);
	xcrs.xcrs[0].value = 3;
	if (xsave_is_offered(&c))
		assert_int_equal(ioctl(c.vcpu, KVM_SET_XCRS, &xcrs), 0);
	else
		assert_fails(ioctl(c.vcpu, KVM_SET_XCRS, &xcrs), EINVAL);
	xcrs.xcrs[0].value = 2; /* without x87 */
	assert_fails(ioctl(c.vcpu, KVM_SET_XCRS, &xcrs), EINVAL);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_XSAVE, &x), 0);
	x.region[128] |= 3; /* XSTATE_BV: x87, SSE */
	x.region[40] = 0x12345678; /* XMM0 */
	assert_int_equal(ioctl(c.vcpu, KVM_SET_XSAVE, &x), 0);
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_XSAVE, &y), 0);
	assert_int_equal(y.region[40], 0x12345678);
	x.region[129] |= 0x80000000; /* a component nobody has */
	assert_fails(ioctl(c.vcpu, KVM_SET_XSAVE, &x), EINVAL);
	client_close(&c);
}

static void boot_processor_is_the_one_named(void **state)
{
	struct client c;
	struct kvm_mp_state mp;
	struct kvm_sregs s;
	int other;

	client_open_vm(&c, 1 << 20);
	assert_int_equal(ioctl(c.vm, KVM_CHECK_EXTENSION, KVM_CAP_SET_BOOT_CPU_ID), 1);
	assert_int_equal(ioctl(c.vm, KVM_SET_BOOT_CPU_ID, 1), 0);
	assert_int_equal(ioctl(c.vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(&c);
	assert_fails(ioctl(c.vm, KVM_SET_BOOT_CPU_ID, 0), EBUSY);
	other = ioctl(c.vm, KVM_CREATE_VCPU, 1);
	assert_true(other >= 0);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_MP_STATE, &mp), 0);
	assert_int_equal(mp.mp_state, KVM_MP_STATE_UNINITIALIZED);
	assert_int_equal(ioctl(other, KVM_GET_MP_STATE, &mp), 0);
	assert_int_equal(mp.mp_state, KVM_MP_STATE_RUNNABLE);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.apic_base, 0xfee00800);
	assert_int_equal(ioctl(other, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.apic_base, 0xfee00900);
	close(other);
	client_close(&c);
}

/* As the guest of another vCPU would send it. */
static void send_to_apic_1(struct client *c, uint32_t mode_and_vector)
{
	struct kvm_msi msi = {.address_lo = 0xfee00000 | 1 << 12, .data = mode_and_vector};

	assert_int_equal(ioctl(c->vm, KVM_SIGNAL_MSI, &msi), 1);
}

static void assert_mp_state_and_cs(int vcpu, uint32_t mp_state, uint16_t cs)
{
	struct kvm_mp_state mp;
	struct kvm_sregs s;

	assert_int_equal(ioctl(vcpu, KVM_GET_MP_STATE, &mp), 0);
	assert_int_equal(mp.mp_state, mp_state);
	assert_int_equal(ioctl(vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.cs.selector, cs);
	assert_int_equal(s.cs.base, cs == 0xf000 ? 0xffff0000 : (uint32_t)cs << 4);
}

/* INIT and SIPI on their way when the state is read are in it; who saved SIPI_RECEIVED gets it back. */
static void startup_messages_are_part_of_the_state(void **state)
{
	struct kvm_mp_state sipi = {.mp_state = KVM_MP_STATE_SIPI_RECEIVED};
	struct kvm_vcpu_events e;
	struct client c;
	int ap;

	client_open_vm(&c, 1 << 20);
	assert_int_equal(ioctl(c.vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(&c);
	ap = ioctl(c.vm, KVM_CREATE_VCPU, 1);
	assert_true(ap >= 0);
	assert_mp_state_and_cs(ap, KVM_MP_STATE_UNINITIALIZED, 0xf000);
	send_to_apic_1(&c, 5 << 8);
	assert_mp_state_and_cs(ap, KVM_MP_STATE_INIT_RECEIVED, 0xf000);
	send_to_apic_1(&c, 6 << 8 | 0x12);
	assert_mp_state_and_cs(ap, KVM_MP_STATE_RUNNABLE, 0x1200);
	/* both at once; a SIPI without INIT does nothing */
	send_to_apic_1(&c, 6 << 8 | 0x55);
	assert_mp_state_and_cs(ap, KVM_MP_STATE_RUNNABLE, 0x1200);
	send_to_apic_1(&c, 5 << 8);
	send_to_apic_1(&c, 6 << 8 | 0x34);
	assert_mp_state_and_cs(ap, KVM_MP_STATE_RUNNABLE, 0x3400);

	assert_int_equal(ioctl(ap, KVM_GET_VCPU_EVENTS, &e), 0);
	e.flags |= KVM_VCPUEVENT_VALID_SIPI_VECTOR;
	e.sipi_vector = 0x56;
	assert_int_equal(ioctl(ap, KVM_SET_VCPU_EVENTS, &e), 0);
	assert_int_equal(ioctl(ap, KVM_SET_MP_STATE, &sipi), 0);
	assert_mp_state_and_cs(ap, KVM_MP_STATE_RUNNABLE, 0x5600);
	close(ap);
	client_close(&c);

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	assert_fails(ioctl(c.vcpu, KVM_SET_MP_STATE, &sipi), EINVAL); /* no APIC to hold it */
	client_close(&c);
}

static void reset_state_is_the_processors(void **state)
{
	struct client c;
	struct kvm_regs r;
	struct kvm_sregs s;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	r = client_regs(&c);
	assert_int_equal(r.rip, 0xfff0);
	assert_int_equal(r.rflags, 2);
	assert_int_equal(r.rax, 0);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.cr0, 0x60000010);
	assert_int_equal(s.cs.base, 0xffff0000);
	assert_int_equal(s.cs.selector, 0xf000);
	assert_int_equal(s.cs.limit, 0xffff);
	assert_int_equal(s.idt.limit, 0xffff);
	assert_int_equal(s.tr.type, 11);
	assert_int_equal(s.ldt.type, 2);
	client_close(&c);
}

/* CPUID of the guest is what the client set, before the first run and not after. */
GUEST_CODE(cpuid_code, 64, "mov $0x40001234, %eax; xor %ecx, %ecx; cpuid; outb %al, $0x40");

static void cpuid_is_the_clients(void **state)
{
	struct {
		struct kvm_cpuid2 h;
		struct kvm_cpuid_entry2 e[2];
	} cpuid = {.h.nent = 2,
		   .e = {{.function = 0, .eax = 1}, {.function = 0x40001234, .eax = 1, .ebx = 2, .ecx = 3, .edx = 4}}};
	struct client c;
	struct kvm_regs r;

	OPEN_LONG(&c, cpuid_code);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_CPUID2, &cpuid), 0);
	assert_int_equal(client_next_out(&c), 0x40);
	r = client_regs(&c);
	assert_int_equal(r.rax, 1);
	assert_int_equal(r.rbx, 2);
	assert_int_equal(r.rcx, 3);
	assert_int_equal(r.rdx, 4);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_CPUID2, &cpuid), 0); /* the same again is allowed */
	cpuid.e[1].eax = 9;
	assert_fails(ioctl(c.vcpu, KVM_SET_CPUID2, &cpuid), EINVAL);
	client_close(&c);
}

/* Every MSR of the list can be read, and written back what it holds. */
static void every_listed_msr_reads_and_takes_its_value_back(void **state)
{
	struct {
		struct kvm_msr_list h;
		uint32_t i[512];
	} list = {.h.nmsrs = 512};
	struct client c;

	OPEN_LONG(&c, inc_loop);
	assert_int_equal(ioctl(c.kvm, KVM_GET_MSR_INDEX_LIST, &list), 0);
	assert_true(list.h.nmsrs > 20);
	for (uint32_t i = 0; i < list.h.nmsrs; i++) {
		struct {
			struct kvm_msrs h;
			struct kvm_msr_entry e[1];
		} m = {.h.nmsrs = 1, .e = {{.index = list.i[i]}}};

		if (ioctl(c.vcpu, KVM_GET_MSRS, &m) != 1)
			fail_msg("MSR %#x cannot be read", list.i[i]);
		if (ioctl(c.vcpu, KVM_SET_MSRS, &m) != 1)
			fail_msg("MSR %#x does not take %#llx", list.i[i], (unsigned long long)m.e[0].data);
	}
	client_close(&c);
}

static void tss_and_identity_map_addresses_follow_the_rules(void **state)
{
	struct client c;
	uint64_t zero = 0;

	client_open_vm(&c, 1 << 20);
	assert_int_equal(ioctl(c.vm, KVM_SET_TSS_ADDR, 0xfffbd000), 0);
	assert_int_equal(ioctl(c.vm, KVM_SET_IDENTITY_MAP_ADDR, &zero), 0); /* 0: the default */
	assert_fails(ioctl(c.vm, KVM_SET_IDENTITY_MAP_ADDR, (void *)8), EFAULT);
	client_add_vcpu(&c);
	assert_fails(ioctl(c.vm, KVM_SET_IDENTITY_MAP_ADDR, &zero), EINVAL);
	client_close(&c);
}

/* A port input that waits for its data is finished by the next KVM_RUN, immediate_exit or not. */
GUEST_CODE(input, 64, "inb $0x10, %al; outb %al, $0x40");

static void immediate_exit_finishes_the_pending_input(void **state)
{
	struct client c;

	OPEN_LONG(&c, input);
	assert_run_exits(&c, KVM_EXIT_IO);
	((uint8_t *)c.run)[c.run->io.data_offset] = 0x5a;
	c.run->immediate_exit = 1;
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	c.run->immediate_exit = 0;
	assert_int_equal(client_regs(&c).rax & 0xff, 0x5a);
	assert_int_equal(client_regs(&c).rip, AT_CODE + 2);
	assert_int_equal(client_next_out(&c), 0x40);
	client_close(&c);
}

static void translate_walks_the_guests_tables(void **state)
{
	struct kvm_translation t = {.linear_address = AT_TEST + 5};
	struct client c;

	OPEN_LONG(&c, inc_loop);
	paging_pte_set(&c, PAGING_LONG, AT_TEST, 0x77000 | PG_P);
	assert_int_equal(ioctl(c.vcpu, KVM_TRANSLATE, &t), 0);
	assert_int_equal(t.valid, 1);
	assert_int_equal(t.physical_address, 0x77005);
	t.linear_address = 1ull << 40;
	assert_int_equal(ioctl(c.vcpu, KVM_TRANSLATE, &t), 0);
	assert_int_equal(t.valid, 0);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shared_registers_travel_in_kvm_run),
		cmocka_unit_test(exceptions_of_int3_and_into_are_no_events),
		cmocka_unit_test(exception_set_as_an_event_is_delivered),
		cmocka_unit_test(nmi_set_as_an_event_waits_while_masked),
		cmocka_unit_test(nonsense_events_are_refused),
		cmocka_unit_test(pending_page_fault_keeps_its_address_as_payload),
		cmocka_unit_test(hypercalls_answer_or_go_to_the_client),
		cmocka_unit_test(hypercall_from_ring_3_is_not_permitted),
		cmocka_unit_test(fpu_state_goes_in_and_comes_out),
		cmocka_unit_test(xsave_area_and_xcr0_round_trip),
		cmocka_unit_test(boot_processor_is_the_one_named),
		cmocka_unit_test(startup_messages_are_part_of_the_state),
		cmocka_unit_test(reset_state_is_the_processors),
		cmocka_unit_test(cpuid_is_the_clients),
		cmocka_unit_test(every_listed_msr_reads_and_takes_its_value_back),
		cmocka_unit_test(tss_and_identity_map_addresses_follow_the_rules),
		cmocka_unit_test(immediate_exit_finishes_the_pending_input),
		cmocka_unit_test(translate_walks_the_guests_tables),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
