/*
 * The MSRs of PV EOI and of asynchronous page faults: what they may hold, with
 * a local APIC in the kernel and without, and with and without their features
 * in CPUID. What they do: test_pv_eoi.c, test_async_pf.c.
 */
#include "paging.h"
#include "state.h"

#define MSR_PV_EOI 0x4b564d04
#define FEATURE_PV_EOI 6
#define AT_WORD 0x30000
#define MSR_EN 0x4b564d02
#define MSR_INT 0x4b564d06
#define MSR_ACK 0x4b564d07
#define EN (1 | 8) /* enabled, ready pages by interrupt */
#define READY_VECTOR 0x39
#define AT_APF 0x30000

static void open_with_apic(struct client *c)
{
	client_open_vm(c, 1 << 20);
	assert_int_equal(ioctl(c->vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(c);
}

static bool listed(struct client *c, uint32_t index)
{
	struct {
		struct kvm_msr_list head;
		uint32_t index[STATE_MSRS];
	} list = {.head.nmsrs = STATE_MSRS};

	assert_int_equal(ioctl(c->kvm, KVM_GET_MSR_INDEX_LIST, &list), 0);
	for (uint32_t i = 0; i < list.head.nmsrs; i++)
		if (list.index[i] == index)
			return true;
	return false;
}

/* CPUID with these features, enforced. */
static void enforce_features(struct client *c, uint32_t features)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = {1}};
	struct {
		struct kvm_cpuid2 h;
		struct kvm_cpuid_entry2 e[2];
	} cpuid = {.h.nent = 2,
		   .e = {{.function = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b, .ecx = 0x564b4d56, .edx = 0x4d},
			 {.function = 0x40000001, .eax = features}}};

	assert_int_equal(ioctl(c->vcpu, KVM_SET_CPUID2, &cpuid), 0);
	assert_int_equal(ioctl(c->vcpu, KVM_ENABLE_CAP, &cap), 0);
}

static void check_pv_eoi(struct client *c)
{
	void *rom = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	client_all_cpuid(c);
	assert_true(client_cpuid_bit(c, 0x40000001, CPUID_EAX, FEATURE_PV_EOI));
	assert_true(listed(c, MSR_PV_EOI));
	assert_int_equal(client_msr(c, MSR_PV_EOI), 0);
	client_set_msr(c, MSR_PV_EOI, AT_WORD | 1);
	assert_int_equal(client_try_set_msr(c, MSR_PV_EOI, AT_WORD | 2), 0);
	assert_int_equal(client_try_set_msr(c, MSR_PV_EOI, AT_WORD | 3), 0);
	assert_int_equal(client_try_set_msr(c, MSR_PV_EOI, 0x100000000 | 1), 0); /* no memory there */
	client_slot(c, 3, KVM_MEM_READONLY, 0x10000000, rom, 4096);
	assert_int_equal(client_try_set_msr(c, MSR_PV_EOI, 0x10000000 | 1), 0);
	assert_int_equal(client_msr(c, MSR_PV_EOI), AT_WORD | 1);
	client_set_msr(c, MSR_PV_EOI, 0x100000000); /* off, nobody looks there */
	assert_int_equal(client_msr(c, MSR_PV_EOI), 0x100000000);
	munmap(rom, 4096);
}

static void pv_eoi_msr_keeps_what_it_may(void **state)
{
	struct client c;

	open_with_apic(&c);
	check_pv_eoi(&c);
	client_close(&c);
}

static void pv_eoi_msr_is_there_without_an_apic_in_the_kernel(void **state)
{
	struct client c;

	client_open_vm(&c, 2 << 20);
	client_add_vcpu(&c);
	check_pv_eoi(&c);
	client_close(&c);
}

static void pv_eoi_that_cpuid_lacks_is_refused(void **state)
{
	struct client c;
	uint64_t v;

	open_with_apic(&c);
	client_set_msr(&c, MSR_PV_EOI, AT_WORD | 1); /* not enforced */
	enforce_features(&c, ~(1u << FEATURE_PV_EOI));
	assert_int_equal(client_try_set_msr(&c, MSR_PV_EOI, AT_WORD | 1), 0);
	assert_true(client_try_msr(&c, MSR_PV_EOI, &v) == 0 || v == 0); /* newer kernels let the client read 0 */
	enforce_features(&c, 1u << FEATURE_PV_EOI);
	assert_int_equal(client_msr(&c, MSR_PV_EOI), AT_WORD | 1);
	client_close(&c);
}

static void async_pf_is_offered(void **state)
{
	struct client c;

	open_with_apic(&c);
	client_all_cpuid(&c);
	assert_int_equal(ioctl(c.kvm, KVM_CHECK_EXTENSION, KVM_CAP_ASYNC_PF), 1);
	assert_int_equal(ioctl(c.kvm, KVM_CHECK_EXTENSION, KVM_CAP_ASYNC_PF_INT), 1);
	assert_true(client_cpuid_bit(&c, 0x40000001, CPUID_EAX, 4));
	assert_true(client_cpuid_bit(&c, 0x40000001, CPUID_EAX, 10));
	assert_true(client_cpuid_bit(&c, 0x40000001, CPUID_EAX, 14));
	assert_true(listed(&c, MSR_EN) && listed(&c, MSR_INT) && listed(&c, MSR_ACK));
	client_close(&c);
}

static void async_pf_msrs_keep_what_they_may(void **state)
{
	struct client c;

	open_with_apic(&c);
	client_all_cpuid(&c);
	client_set_msr(&c, MSR_EN, AT_APF | 0xf);
	client_set_msr(&c, MSR_INT, 0xff);
	client_set_msr(&c, MSR_ACK, 1);
	assert_int_equal(client_try_set_msr(&c, MSR_EN, AT_APF | EN | 0x10), 0);
	assert_int_equal(client_try_set_msr(&c, MSR_EN, AT_APF | EN | 0x20), 0);
	assert_int_equal(client_try_set_msr(&c, MSR_INT, 0x100), 0);
	assert_int_equal(client_msr(&c, MSR_EN), AT_APF | 0xf);
	assert_int_equal(client_msr(&c, MSR_INT), 0xff);
	assert_int_equal(client_msr(&c, MSR_ACK), 0);
	assert_int_equal(client_try_set_msr(&c, MSR_EN, 0x100000000 | EN), 0); /* no memory there */
	client_set_msr(&c, MSR_EN, 0x100000000 | 1); /* by halves it is off */
	client_close(&c);
}

static void without_an_apic_in_the_kernel_async_pf_is_off(void **state)
{
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_all_cpuid(&c);
	client_set_msr(&c, MSR_EN, 0);
	assert_int_equal(client_try_set_msr(&c, MSR_EN, AT_APF | EN), 0);
	assert_int_equal(client_try_set_msr(&c, MSR_INT, READY_VECTOR), 0);
	client_set_msr(&c, MSR_INT, 0); /* whoever writes back what it has read; Linux 6.1 refuses even that */
	assert_int_equal(client_msr(&c, MSR_EN), 0);
	client_close(&c);
}

static void async_pf_that_cpuid_lacks_is_refused(void **state)
{
	struct client c;

	open_with_apic(&c);
	enforce_features(&c, 1 << 4);
	client_set_msr(&c, MSR_EN, AT_APF | 1);
	assert_int_equal(client_try_set_msr(&c, MSR_EN, AT_APF | 1 | 4), 0);
	assert_int_equal(client_try_set_msr(&c, MSR_EN, AT_APF | 1 | 8), 0);
	assert_int_equal(client_try_set_msr(&c, MSR_INT, READY_VECTOR), 0);
	assert_int_equal(client_try_set_msr(&c, MSR_ACK, 1), 0);
	enforce_features(&c, 1 << 10 | 1 << 14);
	assert_int_equal(client_try_set_msr(&c, MSR_EN, AT_APF | 1), 0);
	client_set_msr(&c, MSR_INT, READY_VECTOR);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pv_eoi_msr_keeps_what_it_may),
		cmocka_unit_test(pv_eoi_msr_is_there_without_an_apic_in_the_kernel),
		cmocka_unit_test(pv_eoi_that_cpuid_lacks_is_refused),
		cmocka_unit_test(async_pf_is_offered),
		cmocka_unit_test(async_pf_msrs_keep_what_they_may),
		cmocka_unit_test(without_an_apic_in_the_kernel_async_pf_is_off),
		cmocka_unit_test(async_pf_that_cpuid_lacks_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
