/*
 * Time as the guest sees it: TSC frequency and offset, kvmclock, wall clock,
 * KVM_GET_CLOCK and KVM_SET_CLOCK, the APIC timer's TSC deadline.
 */
#include <time.h>

#include "guest_code.h"
#include "paging.h"

#define MSR_TSC 0x10
#define MSR_KVM_WALL_CLOCK_NEW 0x4b564d00
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01

struct pvclock {
	uint32_t version, pad;
	uint64_t tsc_timestamp, system_time;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad2[2];
};

/* rdtsc into rax, out 40h, for ever */
GUEST_CODE(read_tsc, 64, "1: rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %r8; outb %al, $0x40; jmp 1b");

static void open_guest(struct client *c)
{
	client_open_vm(c, 2 << 20);
	assert_int_equal(ioctl(c->vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(c);
	paging_start(c, PAGING_LONG, 0, 0, 0, 0);
	memcpy(c->mem + AT_CODE, read_tsc, GUEST_CODE_SIZE(read_tsc));
}

static uint64_t guest_tsc(struct client *c)
{
	assert_int_equal(client_next_out(c), 0x40);
	return client_regs(c).r8;
}

static uint64_t now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void wait_ns(uint64_t ns)
{
	uint64_t end = now_ns(CLOCK_MONOTONIC) + ns;

	while (now_ns(CLOCK_MONOTONIC) < end)
		;
}

/* The guest's TSC rate against the host's clock, in kHz. */
static double measured_khz(struct client *c)
{
	uint64_t best = ~0ull;
	double khz = 0;

	/* of several tries the one where the two readings took the least time counts */
	for (int i = 0; i < 5; i++) {
		uint64_t a = now_ns(CLOCK_MONOTONIC), t0 = guest_tsc(c), b = now_ns(CLOCK_MONOTONIC), t1, a1, b1;

		wait_ns(20 * 1000 * 1000);
		a1 = now_ns(CLOCK_MONOTONIC);
		t1 = guest_tsc(c);
		b1 = now_ns(CLOCK_MONOTONIC);
		if (b - a + b1 - a1 < best) {
			best = b - a + b1 - a1;
			khz = (double)(t1 - t0) * 1e6 / (((double)a1 + (double)b1 - (double)a - (double)b) / 2);
		}
	}
	return khz;
}

static void tsc_runs_at_the_frequency_asked_for(void **state)
{
	struct client c;
	int khz, want;
	double got;

	open_guest(&c);
	khz = ioctl(c.vcpu, KVM_GET_TSC_KHZ, 0);
	assert_true(khz > 100000);
	got = measured_khz(&c);
	if (got < khz * 0.99 || got > khz * 1.01)
		fail_msg("TSC of %d kHz runs at %.0f", khz, got);
	if (ioctl(c.kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0) {
		for (want = khz / 2; want < khz * 4; want += khz * 2) {
			assert_int_equal(ioctl(c.vcpu, KVM_SET_TSC_KHZ, want), 0);
			assert_int_equal(ioctl(c.vcpu, KVM_GET_TSC_KHZ, 0), want);
			got = measured_khz(&c);
			if (got < want * 0.99 || got > want * 1.01)
				fail_msg("TSC of %d kHz runs at %.0f", want, got);
		}
	} else {
		assert_fails(ioctl(c.vcpu, KVM_SET_TSC_KHZ, khz * 2), EINVAL);
	}
	client_close(&c);
}

static void tsc_written_by_the_client_is_what_the_guest_reads(void **state)
{
	struct client c;
	uint64_t khz, before, t;

	open_guest(&c);
	khz = (uint64_t)ioctl(c.vcpu, KVM_GET_TSC_KHZ, 0);
	client_set_msr(&c, MSR_TSC, 1ull << 50);
	t = guest_tsc(&c);
	assert_true(t >= 1ull << 50 && t < (1ull << 50) + khz * 1000); /* within a second */
	before = client_msr(&c, MSR_TSC);
	assert_true(before >= t);
	assert_true(guest_tsc(&c) >= before);
	client_close(&c);
}

/* What a guest computes from the page (KVM: paravirtual clock). */
static uint64_t kvmclock(const volatile struct pvclock *p, uint64_t tsc)
{
	uint64_t delta = tsc - p->tsc_timestamp;

	assert_false(p->version & 1);
	delta = p->shift < 0 ? delta >> -p->shift : delta << p->shift;
	return p->system_time + (uint64_t)((unsigned __int128)delta * p->mul >> 32);
}

static void tsc_offset_attribute_is_the_difference_to_the_hosts(void **state)
{
	struct client c;
	uint64_t offset, low, high, t;
	struct kvm_device_attr a = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset};
	const int64_t offsets[] = {0, 180000000000, -180000000000};

	open_guest(&c);
	assert_int_equal(ioctl(c.vcpu, KVM_HAS_DEVICE_ATTR, &a), 0);
	for (size_t i = 0; i < sizeof(offsets) / sizeof(*offsets); i++) {
		offset = (uint64_t)offsets[i];
		assert_int_equal(ioctl(c.vcpu, KVM_SET_DEVICE_ATTR, &a), 0);
		low = __builtin_ia32_rdtsc() + offset;
		t = guest_tsc(&c);
		high = __builtin_ia32_rdtsc() + offset;
		assert_true((int64_t)(t - low) >= 0 && (int64_t)(high - t) >= 0);
		offset = 1;
		assert_int_equal(ioctl(c.vcpu, KVM_GET_DEVICE_ATTR, &a), 0);
		assert_int_equal(offset, offsets[i]);
	}
	/* a write by the client shows in the attribute */
	client_set_msr(&c, MSR_TSC, 1ull << 50);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_DEVICE_ATTR, &a), 0);
	t = __builtin_ia32_rdtsc() + offset;
	assert_true(t >= 1ull << 50 && t < (1ull << 50) + 1000000ull * 10000);
	a.addr = 8;
	assert_fails(ioctl(c.vcpu, KVM_SET_DEVICE_ATTR, &a), EFAULT);
	assert_fails(ioctl(c.vcpu, KVM_GET_DEVICE_ATTR, &a), EFAULT);
	a.attr = 7;
	assert_fails(ioctl(c.vcpu, KVM_HAS_DEVICE_ATTR, &a), ENXIO);
	assert_fails(ioctl(c.vcpu, KVM_SET_DEVICE_ATTR, &a), ENXIO);
	a.attr = KVM_VCPU_TSC_OFFSET;
	a.group = 3;
	assert_fails(ioctl(c.vcpu, KVM_GET_DEVICE_ATTR, &a), ENXIO);
	client_close(&c);
}

static void tsc_frequency_of_a_vm_is_that_of_its_later_vcpus(void **state)
{
	struct client c;
	int host, want;
	double got;

	client_open_vm(&c, 2 << 20);
	host = ioctl(c.vm, KVM_GET_TSC_KHZ, 0);
	assert_true(host > 100000);
	want = host / 2;
	assert_int_equal(ioctl(c.vm, KVM_SET_TSC_KHZ, want), 0);
	assert_fails(ioctl(c.vm, KVM_SET_TSC_KHZ, 0x7fffffffUL), EINVAL);
	assert_fails(ioctl(c.vm, KVM_SET_TSC_KHZ, 1UL << 40), EINVAL);
	assert_int_equal(ioctl(c.vm, KVM_GET_TSC_KHZ, 0), want);
	client_add_vcpu(&c);
	paging_start(&c, PAGING_LONG, 0, 0, 0, 0);
	memcpy(c.mem + AT_CODE, read_tsc, GUEST_CODE_SIZE(read_tsc));
	assert_int_equal(ioctl(c.vcpu, KVM_GET_TSC_KHZ, 0), want);
	got = measured_khz(&c);
	if (got < want * 0.99 || got > want * 1.01)
		fail_msg("TSC of %d kHz runs at %.0f", want, got);
	assert_int_equal(ioctl(c.vm, KVM_SET_TSC_KHZ, 0), 0);
	assert_int_equal(ioctl(c.vm, KVM_GET_TSC_KHZ, 0), host);
	client_close(&c);
}

static void kvmclock_agrees_with_the_vm_clock(void **state)
{
	const struct pvclock *page;
	struct kvm_clock_data set = {.clock = 1000ull * 1000000000}, a, b;
	struct client c;
	uint64_t ns;

	open_guest(&c);
	page = (const void *)(c.mem + 0x30000);
	client_set_msr(&c, MSR_KVM_SYSTEM_TIME_NEW, 0x30000 | 1);
	guest_tsc(&c);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(ioctl(c.vm, KVM_GET_CLOCK, &a), 0);
		ns = kvmclock(page, guest_tsc(&c));
		assert_int_equal(ioctl(c.vm, KVM_GET_CLOCK, &b), 0);
		if (ns + 2000 < a.clock || ns > b.clock + 2000)
			fail_msg("the guest reads %llu between %llu and %llu", (unsigned long long)ns,
				 (unsigned long long)a.clock, (unsigned long long)b.clock);
		if (i == 0)
			assert_int_equal(ioctl(c.vm, KVM_SET_CLOCK, &set), 0);
		if (i == 1)
			assert_true(ns >= set.clock && ns < set.clock + 1000000000);
		wait_ns(5 * 1000 * 1000);
	}
	/* Paused: the guest is told once. */
	assert_int_equal(page->flags & 2, 0);
	assert_int_equal(ioctl(c.vcpu, KVM_KVMCLOCK_CTRL, 0), 0);
	guest_tsc(&c);
	assert_int_equal(page->flags & 2, 2);
	client_close(&c);
}

/* KVM API: KVM_SET_CLOCK: a migrated clock goes on by the time that has passed, and never back. */
static void clock_of_another_moment_is_brought_up_to_date(void **state)
{
	static const int64_t second = 1000000000;
	struct client c;

	client_open_vm(&c, 1 << 20);
	for (int64_t passed = -5; passed <= 5; passed += 5) {
		struct kvm_clock_data set = {.flags = KVM_CLOCK_REALTIME, .clock = (uint64_t)(1000 * second)}, get;
		uint64_t want = set.clock + (uint64_t)(passed > 0 ? passed * second : 0);

		set.realtime = now_ns(CLOCK_REALTIME) - (uint64_t)(passed * second);
		assert_int_equal(ioctl(c.vm, KVM_SET_CLOCK, &set), 0);
		assert_int_equal(ioctl(c.vm, KVM_GET_CLOCK, &get), 0);
		assert_in_range(get.clock, want, want + (uint64_t)second);
	}
	client_close(&c);
}

static void wall_clock_is_when_the_vm_clock_was_zero(void **state)
{
	struct client c;
	struct kvm_clock_data clock;
	uint64_t boot, want;

	open_guest(&c);
	client_set_msr(&c, MSR_KVM_WALL_CLOCK_NEW, 0x31000);
	guest_tsc(&c);
	assert_int_equal(ioctl(c.vm, KVM_GET_CLOCK, &clock), 0);
	want = now_ns(CLOCK_REALTIME) - clock.clock;
	boot = ((uint32_t *)(c.mem + 0x31000))[1] * 1000000000ull + ((uint32_t *)(c.mem + 0x31000))[2];
	assert_true(boot + 50000000 > want && boot < want + 50000000);
	client_close(&c);
}

/*
 * The APIC timer in TSC-deadline mode: now + r9 cycles, then HLT. The handler
 * (vector 31h) reads the TSC into r8 and says so.
 */
GUEST_CODE(deadline, 64,
	   "movl $0xfee000f0, %edi; movl $0x1ff, (%rdi); movl $0x40031, 0x230(%rdi)\n"
	   "mfence; rdtsc; shl $32, %rdx; or %rdx, %rax; add %r9, %rax; mov %rax, %r10; mov %rax, %rdx; shr $32, %rdx\n"
	   "movl $0x6e0, %ecx; wrmsr; sti; 1: hlt; jmp 1b");
GUEST_CODE(deadline_handler, 64, "rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %r8; outb %al, $0x31");

static void tsc_deadline_fires_not_before_its_time(void **state)
{
	struct client c;
	struct kvm_regs r;
	uint64_t khz;

	open_guest(&c);
	if (!ioctl(c.kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER))
		fail();
	/* the CPUID bit is the client's to set */
	struct {
		struct kvm_cpuid2 h;
		struct kvm_cpuid_entry2 e[256];
	} cpuid = {.h.nent = 256};
	assert_int_equal(ioctl(c.vcpu, KVM_GET_CPUID2, &cpuid), 0);
	for (uint32_t i = 0; i < cpuid.h.nent; i++)
		if (cpuid.e[i].function == 1)
			cpuid.e[i].ecx |= 1u << 24;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_CPUID2, &cpuid), 0);
	memcpy(c.mem + AT_CODE, deadline, GUEST_CODE_SIZE(deadline));
	memcpy(c.mem + AT_STUBS + 0x31 * 16, deadline_handler, GUEST_CODE_SIZE(deadline_handler));
	((uint64_t *)(c.mem + 0x11000))[3] = 0xc0000000 | PG_ALL | PG_PS;
	khz = (uint64_t)ioctl(c.vcpu, KVM_GET_TSC_KHZ, 0);
	r = client_regs(&c);
	r.r9 = khz * 20; /* 20 ms */
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(client_next_out(&c), 0x31);
	r = client_regs(&c);
	assert_true(r.r8 >= r.r10);
	assert_true(r.r8 < r.r10 + khz * 2000); /* nor when something else woke it */
	client_close(&c);
}

/* So slow that the scale of its kvmclock was that of 0 Hz, and was looked for endlessly. */
static void kvmclock_of_the_slowest_tsc_is_entered(void **state)
{
	struct client c;

	client_open_vm(&c, 1 << 20);
	if (ioctl(c.kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) <= 0) {
		client_close(&c);
		skip();
	}
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, "\xf4", 1);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_TSC_KHZ, 1), 0);
	client_set_msr(&c, 0x4b564d01, 0x4001); /* MSR_KVM_SYSTEM_TIME_NEW */
	assert_run_exits(&c, KVM_EXIT_HLT);
	client_close(&c);
}

static uint64_t tsc_offset_of(int vcpu)
{
	uint64_t offset;
	struct kvm_device_attr a = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset};

	assert_int_equal(ioctl(vcpu, KVM_GET_DEVICE_ATTR, &a), 0);
	return offset;
}

/* A client that writes one value to vCPU after vCPU wants one TSC; one that writes another by far wants another. */
static void tscs_written_within_a_second_are_one(void **state)
{
	const uint64_t base = 1ULL << 40;
	struct client c, d;
	uint64_t hz;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	hz = (uint64_t)ioctl(c.vcpu, KVM_GET_TSC_KHZ, 0) * 1000;
	d = c;
	d.vcpu = ioctl(c.vm, KVM_CREATE_VCPU, 1);
	assert_true(d.vcpu >= 0);
	client_set_msr(&c, MSR_TSC, base);
	client_set_msr(&d, MSR_TSC, base + hz / 4);
	assert_int_equal(tsc_offset_of(d.vcpu), tsc_offset_of(c.vcpu));
	client_set_msr(&c, MSR_TSC, base);
	client_set_msr(&d, MSR_TSC, base + 100 * hz);
	assert_int_not_equal(tsc_offset_of(d.vcpu), tsc_offset_of(c.vcpu));
	client_set_msr(&c, MSR_TSC, 0); /* zero: the one that was written last */
	assert_int_equal(tsc_offset_of(c.vcpu), tsc_offset_of(d.vcpu));
	close(d.vcpu);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tsc_runs_at_the_frequency_asked_for),
		cmocka_unit_test(tscs_written_within_a_second_are_one),
		cmocka_unit_test(tsc_written_by_the_client_is_what_the_guest_reads),
		cmocka_unit_test(tsc_offset_attribute_is_the_difference_to_the_hosts),
		cmocka_unit_test(tsc_frequency_of_a_vm_is_that_of_its_later_vcpus),
		cmocka_unit_test(kvmclock_agrees_with_the_vm_clock),
		cmocka_unit_test(clock_of_another_moment_is_brought_up_to_date),
		cmocka_unit_test(wall_clock_is_when_the_vm_clock_was_zero),
		cmocka_unit_test(tsc_deadline_fires_not_before_its_time),
		cmocka_unit_test(kvmclock_of_the_slowest_tsc_is_entered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
