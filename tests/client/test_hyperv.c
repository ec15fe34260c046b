/*
 * Hyper-V's interface as far as it is offered: CPUID, hypercall page, VP index,
 * reference counter and reference TSC page, reset and crash, the APIC's registers, the
 * debugger's, what a guest without it gets.
 */
#include <time.h>

#include "hyperv.h"

struct tsc_page {
	uint32_t sequence, reserved;
	uint64_t scale;
	int64_t offset;
};

static void supported_cpuid_names_what_works(void **state)
{
	static struct cpuid sys, vcpu;
	struct client c;
	uint32_t evmcs;

	client_open_vm(&c, 2 << 20);
	client_add_vcpu(&c);
	sys.h.nent = 9;
	assert_fails(ioctl(c.kvm, KVM_GET_SUPPORTED_HV_CPUID, &sys), E2BIG);
	assert_fails(ioctl(c.vcpu, KVM_GET_SUPPORTED_HV_CPUID, &sys), E2BIG);
	assert_fails(ioctl(c.kvm, KVM_GET_SUPPORTED_HV_CPUID, NULL), EFAULT);
	sys.h.nent = vcpu.h.nent = 256;
	assert_int_equal(ioctl(c.kvm, KVM_GET_SUPPORTED_HV_CPUID, &sys), 0);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SUPPORTED_HV_CPUID, &vcpu), 0);
	assert_int_equal(sys.h.nent, 10);
	assert_int_equal(leaf(&sys, 0x40000000)->eax, 0x40000082);
	assert_int_equal(leaf(&sys, 0x40000001)->eax, 0x31237648);
	assert_int_equal(leaf(&sys, 0x40000080)->eax, 0);
	assert_int_equal(leaf(&sys, 0x40000080)->ebx, leaf(&sys, 0x40000000)->ebx);
	/* what the MSRs and hypercalls of the other tests are */
	assert_int_equal(leaf(&sys, HV_FEATURES)->eax, 0x2aff);
	assert_int_equal(leaf(&sys, HV_FEATURES)->ebx, 0x830);
	assert_int_equal(leaf(&sys, HV_FEATURES)->edx, 0x80d12);
	/* an enlightened VMCS, where there is nested VMX; of the vCPU once it is enabled (test_nested_evmcs.c) */
	evmcs = ioctl(c.kvm, KVM_CHECK_EXTENSION, KVM_CAP_HYPERV_ENLIGHTENED_VMCS) > 0;
	assert_int_equal(leaf(&sys, HV_HINTS)->eax & ~(1u << 18), 0xe2c | evmcs << 14);
	assert_int_equal(leaf(&sys, 0x4000000a)->eax, 1u << 19 | evmcs * 0x101);
	assert_int_equal(leaf(&sys, HV_DEBUG)->eax, 2);
	/* direct timers and IPIs need the APIC that this vCPU has not got */
	assert_int_equal(leaf(&vcpu, HV_FEATURES)->edx, 0xd12);
	assert_int_equal(leaf(&vcpu, HV_HINTS)->eax & ~(1u << 18), 0xa2c);
	leaf(&vcpu, HV_FEATURES)->edx |= 1u << 19;
	leaf(&vcpu, HV_HINTS)->eax |= 1u << 10 | evmcs << 14;
	leaf(&vcpu, 0x4000000a)->eax |= evmcs * 0x101;
	assert_memory_equal(&sys, &vcpu, sizeof(sys));
	client_close(&c);
}

static void msrs_exist_for_guests_with_the_interface_only(void **state)
{
	static const struct {
		uint32_t msr;
		enum cpuid_register reg;
		int bit;
	} m[] = {
		{HV_GUEST_OS_ID, CPUID_EAX, 5}, {HV_HYPERCALL, CPUID_EAX, 5}, {HV_VP_INDEX, CPUID_EAX, 6},
		{HV_RESET, CPUID_EAX, 7}, {HV_VP_RUNTIME, CPUID_EAX, 0}, {HV_TIME_REF_COUNT, CPUID_EAX, 1},
		{HV_REFERENCE_TSC, CPUID_EAX, 9}, {HV_TSC_FREQUENCY, CPUID_EAX, 11}, {HV_VP_ASSIST_PAGE, CPUID_EAX, 4},
		{HV_STIMER_COUNT(3), CPUID_EAX, 3}, {HV_REENLIGHTENMENT, CPUID_EAX, 13}, {HV_CRASH_P(4), CPUID_EDX, 10},
		{HV_CRASH_CTL, CPUID_EDX, 10}, {HV_SYNDBG_STATUS, CPUID_EDX, 11}, {HV_SYNDBG_OPTIONS, CPUID_EDX, 11},
	};
	static const uint32_t read_only[] = {HV_VP_INDEX, HV_VP_RUNTIME, HV_TIME_REF_COUNT, HV_TSC_FREQUENCY,
					     HV_APIC_FREQUENCY, HV_TSC_EMULATION_STATUS};
	struct client c;
	uint64_t v;

	for (size_t i = 0; i < sizeof(m) / sizeof(*m); i++) {
		open_hv(&c, false, 0);
		guest_read_faults(&c, m[i].msr);
		client_close(&c);
		open_hv(&c, true, 0);
		hv_set_cpuid(&c, HV_FEATURES, CPUID_EDX, 0);
		(void)guest_read(&c, m[i].msr); /* by default CPUID's bits are not asked */
		client_close(&c);
		for (int has = 0; has < 2; has++) {
			open_hv(&c, true, has ? 0 : ~0u);
			hv_set_cpuid(&c, HV_FEATURES, CPUID_EDX, has ? 0 : ~0u);
			hv_set_cpuid(&c, HV_FEATURES, m[i].reg, has ? 1u << m[i].bit : ~(1u << m[i].bit));
			hv_enable(&c, KVM_CAP_HYPERV_ENFORCE_CPUID, 1);
			v = 0;
			assert_int_equal(guest_msr(&c, m[i].msr, false, &v), has ? 0xe0 : 13);
			client_close(&c);
		}
	}
	/* the last one the guest may clear */
	for (size_t i = 0; i < sizeof(read_only) / sizeof(*read_only); i++) {
		open_hv(&c, true, ~0u);
		guest_write_faults(&c, read_only[i], 1);
		client_close(&c);
	}
}

static void clients_save_and_restore_them(void **state)
{
	/* those of the list that keep what they are given, and those that have their own mind */
	static const uint32_t kept[] = {HV_REFERENCE_TSC, HV_VP_ASSIST_PAGE, HV_REENLIGHTENMENT, HV_TSC_EMULATION_CONTROL,
					HV_TSC_EMULATION_STATUS, HV_CRASH_P(0), HV_CRASH_P(1), HV_CRASH_P(2), HV_CRASH_P(3),
					HV_CRASH_P(4), HV_SYNDBG_CONTROL, HV_SYNDBG_STATUS, HV_SYNDBG_SEND_BUFFER,
					HV_SYNDBG_RECV_BUFFER, HV_SYNDBG_PENDING_BUFFER, HV_SYNDBG_OPTIONS};
	static const uint32_t others[] = {HV_GUEST_OS_ID, HV_HYPERCALL, HV_VP_INDEX, HV_RESET, HV_VP_RUNTIME, HV_TIME_REF_COUNT,
					  HV_TSC_FREQUENCY, HV_APIC_FREQUENCY, HV_CRASH_CTL, HV_SCONTROL,
					  HV_STIMER_CONFIG(0)};
	static struct {
		struct kvm_msr_list h;
		uint32_t i[512];
	} list = {.h.nmsrs = 512};
	unsigned n = 0;
	struct client c;

	hv_start(&c, false);
	assert_int_equal(ioctl(c.kvm, KVM_GET_MSR_INDEX_LIST, &list), 0);
	for (uint32_t i = 0; i < list.h.nmsrs; i++)
		n += list.i[i] >> 16 == 0x4000;
	assert_int_equal(n, sizeof(kept) / 4 + sizeof(others) / 4);
	for (uint32_t i = 0; i < sizeof(kept) / 4; i++) {
		client_set_msr(&c, kept[i], 0x1000 * (i + 1));
		assert_int_equal(client_msr(&c, kept[i]), 0x1000 * (i + 1));
	}
	for (uint32_t i = 0; i < sizeof(others) / 4; i++)
		client_set_msr(&c, others[i], client_msr(&c, others[i]));
	assert_int_equal(client_msr(&c, HV_CRASH_P(2)), 0x1000 * 8);
	client_close(&c);
}

static void reset_and_crash_are_system_events(void **state)
{
	struct client c;

	open_hv(&c, true, ~0u);
	guest_write(&c, HV_RESET, 2); /* nothing but bit 0 is defined */
	assert_int_equal(guest_read(&c, HV_RESET), 0);
	hv_prepare(&c, HV_RESET, true, 1);
	assert_run_exits(&c, KVM_EXIT_SYSTEM_EVENT);
	assert_int_equal(c.run->system_event.type, KVM_SYSTEM_EVENT_RESET);
	assert_int_equal(c.run->system_event.ndata, 0);
	assert_int_equal(client_next_out(&c), 0xe0); /* the instruction was over */

	for (uint64_t i = 0; i < 5; i++)
		guest_write(&c, HV_CRASH_P((uint32_t)i), 0xbad0 + i);
	client_set_msr(&c, HV_CRASH_CTL, ~0ull); /* so the guest may notify */
	assert_int_equal(guest_read(&c, HV_CRASH_CTL), 1ull << 63);
	guest_write(&c, HV_CRASH_CTL, 1ull << 62);
	hv_prepare(&c, HV_CRASH_CTL, true, 1ull << 63);
	assert_run_exits(&c, KVM_EXIT_SYSTEM_EVENT);
	assert_int_equal(c.run->system_event.type, KVM_SYSTEM_EVENT_CRASH);
	assert_int_equal(client_next_out(&c), 0xe0);
	for (uint64_t i = 0; i < 5; i++)
		assert_int_equal(client_msr(&c, HV_CRASH_P((uint32_t)i)), 0xbad0 + i);
	client_close(&c);
}

static uint64_t thread_100ns(void)
{
	struct timespec t;

	assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t), 0);
	return (uint64_t)t.tv_sec * 10000000 + (uint64_t)t.tv_nsec / 100;
}

static void run_time_is_the_threads(void **state)
{
	uint64_t before, got, after;
	struct client c;

	open_hv(&c, true, ~0u);
	before = thread_100ns();
	got = guest_read(&c, HV_VP_RUNTIME);
	after = thread_100ns();
	assert_true(got >= before && got <= after);
	client_set_msr(&c, HV_VP_RUNTIME, 1ull << 50); /* from another host: it goes on */
	got = guest_read(&c, HV_VP_RUNTIME);
	assert_true(got > 1ull << 50 && got - (1ull << 50) <= thread_100ns() - after);
	client_close(&c);
}

static uint32_t lapic_reg(struct client *c, uint32_t offset)
{
	struct kvm_lapic_state s;
	uint32_t v;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_LAPIC, &s), 0);
	memcpy(&v, s.regs + offset, sizeof(v));
	return v;
}

static void apic_registers_are_msrs(void **state)
{
	struct kvm_lapic_state s;
	struct client c;

	open_hv_apic(&c);
	guest_write(&c, HV_TPR, 0x40);
	assert_int_equal(lapic_reg(&c, 0x80), 0x40);
	assert_int_equal(guest_read(&c, HV_TPR), 0x40);
	guest_write_faults(&c, HV_TPR, 1ull << 32);
	guest_read_faults(&c, HV_EOI);
	/* two vectors in service, the higher one ends */
	assert_int_equal(ioctl(c.vcpu, KVM_GET_LAPIC, &s), 0);
	s.regs[0x112] |= 3; /* 30h and 31h */
	assert_int_equal(ioctl(c.vcpu, KVM_SET_LAPIC, &s), 0);
	guest_write(&c, HV_EOI, 0);
	assert_int_equal(lapic_reg(&c, 0x110) >> 16, 1);
	/* an IPI to APIC id 0; the xAPIC's destination is in the highest byte */
	guest_write(&c, HV_ICR, 0x4031);
	assert_int_equal(lapic_reg(&c, 0x210) >> 17 & 1, 1);
	guest_write(&c, HV_ICR, 1ull << 56 | 0x4032); /* nobody's */
	assert_int_equal(lapic_reg(&c, 0x210) >> 18 & 1, 0);
	assert_int_equal(guest_read(&c, HV_ICR), 1ull << 56 | 0x4032);
	client_close(&c);
	/* no APIC of the kernel's, no such registers */
	open_hv(&c, true, ~0u);
	guest_read_faults(&c, HV_TPR);
	guest_write_faults(&c, HV_EOI, 0);
	client_close(&c);
}

static void debugger_msrs_leave_to_the_client(void **state)
{
	struct client c;

	open_hv(&c, true, ~0u);
	hv_set_cpuid(&c, HV_DEBUG, CPUID_EAX, 0);
	guest_read_faults(&c, HV_SYNDBG_STATUS);
	guest_write_faults(&c, HV_SYNDBG_OPTIONS, 4);
	client_close(&c);

	open_hv(&c, true, ~0u);
	guest_write(&c, HV_SYNDBG_SEND_BUFFER, 0x31000);
	guest_write(&c, HV_SYNDBG_RECV_BUFFER, 0x32000);
	hv_prepare(&c, HV_SYNDBG_PENDING_BUFFER, true, 0x33000);
	assert_run_exits(&c, KVM_EXIT_HYPERV);
	assert_int_equal(c.run->hyperv.type, KVM_EXIT_HYPERV_SYNDBG);
	assert_int_equal(c.run->hyperv.u.syndbg.msr, HV_SYNDBG_PENDING_BUFFER);
	c.run->hyperv.u.syndbg.status = 99; /* of CONTROL only */
	assert_int_equal(client_next_out(&c), 0xe0);
	assert_int_equal(guest_read(&c, HV_SYNDBG_STATUS), 0);
	hv_prepare(&c, HV_SYNDBG_CONTROL, true, 0x10001);
	assert_run_exits(&c, KVM_EXIT_HYPERV);
	assert_int_equal(c.run->hyperv.type, KVM_EXIT_HYPERV_SYNDBG);
	assert_int_equal(c.run->hyperv.u.syndbg.msr, HV_SYNDBG_CONTROL);
	assert_int_equal(c.run->hyperv.u.syndbg.control, 0x10001);
	assert_int_equal(c.run->hyperv.u.syndbg.send_page, 0x31000);
	assert_int_equal(c.run->hyperv.u.syndbg.recv_page, 0x32000);
	assert_int_equal(c.run->hyperv.u.syndbg.pending_page, 0x33000);
	c.run->hyperv.u.syndbg.status = 7;
	assert_int_equal(client_next_out(&c), 0xe0);
	assert_int_equal(guest_read(&c, HV_SYNDBG_STATUS), 7);
	client_close(&c);
}

static void reference_tsc_page_and_counter_agree(void **state)
{
	struct tsc_page *page;
	struct kvm_clock_data zero = {0};
	struct client c;
	uint64_t ref, by_page, khz, first;
	int64_t offset;

	open_hv(&c, true, ~0u);
	page = (struct tsc_page *)(c.mem + PAGE_AT);
	khz = (uint64_t)ioctl(c.vcpu, KVM_GET_TSC_KHZ, 0);
	assert_int_equal(guest_read(&c, HV_TSC_FREQUENCY), khz * 1000);
	first = guest_read(&c, HV_TIME_REF_COUNT);
	guest_write(&c, HV_REFERENCE_TSC, PAGE_AT);
	assert_int_equal(page->sequence | page->scale, 0); /* not enabled: not touched */
	guest_write(&c, HV_REFERENCE_TSC, PAGE_AT | 1);
	assert_int_not_equal(page->sequence, 0);
	for (int i = 0; i < 10; i++) {
		ref = guest_read(&c, HV_TIME_REF_COUNT);
		by_page = (uint64_t)((unsigned __int128)client_regs(&c).r11 * page->scale >> 64) + (uint64_t)page->offset;
		assert_true(ref > first && by_page >= ref && by_page - ref < 10000000); /* r11 was read later */
		first = ref;
	}
	offset = page->offset;
	assert_int_equal(ioctl(c.vm, KVM_SET_CLOCK, &zero), 0);
	ref = guest_read(&c, HV_TIME_REF_COUNT);
	assert_true(ref < 10000000); /* a second */
	assert_true(page->offset != offset);
	/* a guest that wants to be told of changes sees none */
	guest_write(&c, HV_REENLIGHTENMENT, 0x100ff);
	guest_write(&c, HV_TSC_EMULATION_CONTROL, 1);
	offset = page->offset;
	zero.clock = 1ull << 60;
	assert_int_equal(ioctl(c.vm, KVM_SET_CLOCK, &zero), 0);
	assert_true(guest_read(&c, HV_TIME_REF_COUNT) < 1ull << 50);
	assert_int_equal(page->offset, offset);
	/* and after it is off nobody writes to the page */
	guest_write(&c, HV_REENLIGHTENMENT, 0);
	guest_write(&c, HV_REFERENCE_TSC, 0);
	memset(page, 0, sizeof(*page));
	assert_int_equal(ioctl(c.vm, KVM_SET_CLOCK, &zero), 0);
	assert_true(guest_read(&c, HV_TIME_REF_COUNT) >= (1ull << 60) / 100);
	assert_int_equal(page->sequence | page->scale, 0);
	client_close(&c);
}

GUEST_CODE(call_page, 64,
	   "mov $0x30000, %ebx; mov $8, %ecx; xor %edx, %edx; call *%rbx; mov %rax, %r8\n"
	   "mov $0xbeef, %ecx; call *%rbx; mov %rax, %r9; out %al, $0xe1");

static void hypercall_page_calls(void **state)
{
	struct client c;
	struct kvm_regs r;

	open_hv(&c, true, ~0u);
	guest_write(&c, HV_HYPERCALL, PAGE_AT | 1); /* before the guest has said who it is: nothing */
	assert_int_equal(guest_read(&c, HV_HYPERCALL), 0);
	guest_write(&c, HV_GUEST_OS_ID, 0x8100ull << 48);
	guest_write(&c, HV_HYPERCALL, PAGE_AT | 1);
	assert_int_equal(guest_read(&c, HV_HYPERCALL), PAGE_AT | 1);
	assert_int_equal(c.mem[PAGE_AT + 3], 0xc3);
	memcpy(c.mem + AT_CODE, call_page, GUEST_CODE_SIZE(call_page));
	r = client_regs(&c);
	r.rip = AT_CODE;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(client_next_out(&c), 0xe1);
	assert_int_equal(client_regs(&c).r8, 0); /* a long spin wait is noted */
	assert_int_equal(client_regs(&c).r9, 2); /* HV_STATUS_INVALID_HYPERCALL_CODE */
	memcpy(c.mem + AT_CODE, access_msr, GUEST_CODE_SIZE(access_msr));
	guest_write(&c, HV_GUEST_OS_ID, 0);
	assert_int_equal(guest_read(&c, HV_HYPERCALL), PAGE_AT);
	client_close(&c);
}

static void assist_page_is_cleared_where_there_is_memory(void **state)
{
	struct client c;
	uint64_t v = 1ull << 40 | 1;

	open_hv(&c, true, ~0u);
	memset(c.mem + PAGE_AT, 0xff, 8);
	guest_write(&c, HV_VP_ASSIST_PAGE, PAGE_AT);
	assert_int_equal(c.mem[PAGE_AT], 0xff);
	guest_write(&c, HV_VP_ASSIST_PAGE, PAGE_AT | 1);
	assert_memory_equal(c.mem + PAGE_AT, "\0\0\0\0\xff", 5);
	assert_int_equal(guest_read(&c, HV_VP_ASSIST_PAGE), PAGE_AT | 1);
	assert_int_equal(guest_msr(&c, HV_VP_ASSIST_PAGE, true, &v), 13);
	client_close(&c);
}

static void vp_index_is_the_position_or_the_clients(void **state)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} m = {.head.nmsrs = 1, .e = {.index = HV_VP_INDEX, .data = 9}};
	struct client c;

	open_hv(&c, true, ~0u);
	assert_int_equal(guest_read(&c, HV_VP_INDEX), 0);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_MSRS, &m), 1);
	assert_int_equal(guest_read(&c, HV_VP_INDEX), 9);
	m.e.data = 1 << 20;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_MSRS, &m), 0);
	assert_int_equal(guest_read(&c, HV_VP_INDEX), 9);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(supported_cpuid_names_what_works),
		cmocka_unit_test(msrs_exist_for_guests_with_the_interface_only),
		cmocka_unit_test(clients_save_and_restore_them),
		cmocka_unit_test(reset_and_crash_are_system_events),
		cmocka_unit_test(run_time_is_the_threads),
		cmocka_unit_test(apic_registers_are_msrs),
		cmocka_unit_test(debugger_msrs_leave_to_the_client),
		cmocka_unit_test(reference_tsc_page_and_counter_agree),
		cmocka_unit_test(hypercall_page_calls),
		cmocka_unit_test(assist_page_is_cleared_where_there_is_memory),
		cmocka_unit_test(vp_index_is_the_position_or_the_clients),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
