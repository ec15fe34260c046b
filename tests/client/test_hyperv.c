/*
 * Hyper-V's interface as far as it is offered: CPUID, hypercall page, VP index,
 * reference counter and reference TSC page, what a guest without it gets.
 */
#include "guest_code.h"
#include "paging.h"

#define HV_GUEST_OS_ID 0x40000000u
#define HV_HYPERCALL 0x40000001u
#define HV_VP_INDEX 0x40000002u
#define HV_TIME_REF_COUNT 0x40000020u
#define HV_REFERENCE_TSC 0x40000021u
#define HV_TSC_FREQUENCY 0x40000022u
#define HV_VP_ASSIST_PAGE 0x40000073u
#define HV_REENLIGHTENMENT 0x40000106u
#define HV_TSC_EMULATION_CONTROL 0x40000107u
#define HV_TSC_EMULATION_STATUS 0x40000108u
#define PAGE_AT 0x30000

struct cpuid {
	struct kvm_cpuid2 h;
	struct kvm_cpuid_entry2 e[256];
};

struct tsc_page {
	uint32_t sequence, reserved;
	uint64_t scale;
	int64_t offset;
};

/* One MSR access each time it runs: rcx index, r9 0 to read into r8, else write r10. */
GUEST_CODE(access_msr, 64,
	   "1: test %r9, %r9; jz 2f; mov %r10, %rax; mov %r10, %rdx; shr $32, %rdx; wrmsr; jmp 3f\n"
	   "2: rdmsr; shl $32, %rdx; or %rdx, %rax; mov %rax, %r8\n"
	   "3: rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %r11; out %al, $0xe0; jmp 1b");

static struct kvm_cpuid_entry2 *leaf(struct cpuid *cpuid, uint32_t function)
{
	for (uint32_t i = 0; i < cpuid->h.nent; i++)
		if (cpuid->e[i].function == function)
			return &cpuid->e[i];
	return NULL;
}

/* features: HV_CPUID_FEATURES.EAX, or ~0 as supported */
static void open_hv(struct client *c, bool hv, uint32_t features)
{
	static struct cpuid plain, more;

	plain.h.nent = more.h.nent = 256;
	client_open_vm(c, 2 << 20);
	client_add_vcpu(c);
	paging_start(c, PAGING_LONG, 0, 0, 0, 0);
	memcpy(c->mem + AT_CODE, access_msr, GUEST_CODE_SIZE(access_msr));
	if (!hv)
		return;
	assert_int_equal(ioctl(c->kvm, KVM_GET_SUPPORTED_CPUID, &plain), 0);
	assert_int_equal(ioctl(c->kvm, KVM_GET_SUPPORTED_HV_CPUID, &more), 0);
	for (uint32_t i = 0; i < plain.h.nent; i++)
		if (plain.e[i].function >> 16 != 0x4000)
			more.e[more.h.nent++] = plain.e[i];
	if (features != ~0u)
		leaf(&more, 0x40000003)->eax = features;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_CPUID2, &more), 0);
}

static int guest_msr(struct client *c, uint32_t index, bool write, uint64_t *value)
{
	struct kvm_regs r = client_regs(c);
	int port;

	r.rcx = index;
	r.r9 = write;
	r.r10 = *value;
	r.rip = AT_CODE;
	r.rsp = 0x8000;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	port = client_next_out(c);
	*value = client_regs(c).r8;
	return port;
}

static uint64_t guest_read(struct client *c, uint32_t index)
{
	uint64_t v = 0;

	assert_int_equal(guest_msr(c, index, false, &v), 0xe0);
	return v;
}

static void guest_write(struct client *c, uint32_t index, uint64_t v)
{
	assert_int_equal(guest_msr(c, index, true, &v), 0xe0);
}

static void supported_cpuid_names_what_works(void **state)
{
	static struct cpuid sys, vcpu;
	struct client c;

	client_open_vm(&c, 2 << 20);
	client_add_vcpu(&c);
	sys.h.nent = 9;
	assert_fails(ioctl(c.kvm, KVM_GET_SUPPORTED_HV_CPUID, &sys), E2BIG);
	assert_fails(ioctl(c.vcpu, KVM_GET_SUPPORTED_HV_CPUID, &sys), E2BIG);
	assert_fails(ioctl(c.kvm, KVM_GET_SUPPORTED_HV_CPUID, NULL), EFAULT);
	sys.h.nent = vcpu.h.nent = 256;
	assert_int_equal(ioctl(c.kvm, KVM_GET_SUPPORTED_HV_CPUID, &sys), 0);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SUPPORTED_HV_CPUID, &vcpu), 0);
	assert_memory_equal(&sys, &vcpu, sizeof(sys));
	assert_int_equal(sys.h.nent, 10);
	assert_int_equal(leaf(&sys, 0x40000000)->eax, 0x40000082);
	assert_int_equal(leaf(&sys, 0x40000001)->eax, 0x31237648);
	/* reference counter, hypercall page, VP index, reference TSC, frequencies, re-enlightenment */
	assert_int_equal(leaf(&sys, 0x40000003)->eax, 0x2a62);
	assert_int_equal(leaf(&sys, 0x40000003)->ebx, 0);
	client_close(&c);
}

static void msrs_exist_for_guests_with_the_interface_only(void **state)
{
	static const uint32_t msrs[] = {HV_GUEST_OS_ID, HV_HYPERCALL, HV_VP_INDEX, HV_TIME_REF_COUNT, HV_REFERENCE_TSC,
					HV_TSC_FREQUENCY, HV_REENLIGHTENMENT};
	static const uint32_t bits[] = {5, 5, 6, 1, 9, 11, 13};
	struct kvm_enable_cap enforce = {.cap = KVM_CAP_HYPERV_ENFORCE_CPUID, .args = {1}};
	struct client c;
	uint64_t v = 0;

	for (size_t i = 0; i < sizeof(msrs) / sizeof(*msrs); i++) {
		open_hv(&c, false, 0);
		assert_int_equal(guest_msr(&c, msrs[i], false, &v), 13);
		client_close(&c);
		open_hv(&c, true, 0);
		(void)guest_read(&c, msrs[i]); /* by default CPUID's bits are not asked */
		client_close(&c);
		for (int has = 0; has < 2; has++) {
			open_hv(&c, true, has ? 1u << bits[i] : ~(1u << bits[i]));
			assert_int_equal(ioctl(c.vcpu, KVM_ENABLE_CAP, &enforce), 0);
			v = 0;
			assert_int_equal(guest_msr(&c, msrs[i], false, &v), has ? 0xe0 : 13);
			client_close(&c);
		}
	}
	/* read-only ones, and a status that the guest may only clear */
	for (size_t i = 0; i < 4; i++) {
		open_hv(&c, true, ~0u);
		v = 1;
		assert_int_equal(guest_msr(&c, (uint32_t[]){HV_VP_INDEX, HV_TIME_REF_COUNT, HV_TSC_FREQUENCY,
							   HV_TSC_EMULATION_STATUS}[i], true, &v), 13);
		client_close(&c);
	}
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
		cmocka_unit_test(reference_tsc_page_and_counter_agree),
		cmocka_unit_test(hypercall_page_calls),
		cmocka_unit_test(assist_page_is_cleared_where_there_is_memory),
		cmocka_unit_test(vp_index_is_the_position_or_the_clients),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
