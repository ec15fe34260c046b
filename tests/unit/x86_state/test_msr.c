/*
 * MSRs: every listed one can be saved and restored, refusals are the right ones.
 */
#include "vcpu_fixture.h"

static uint64_t get(uint32_t msr)
{
	uint64_t v = 0xdead;

	assert_int_equal(kvm_get_msr(vcpu, msr, &v, true), 0);
	return v;
}

static void every_listed_msr_can_be_read_and_written_back(void **state)
{
	uint32_t list[512], n = 512;

	assert_int_equal(kvm_msr_index_list(list, &n), 0);
	assert_true(n > 25);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t v;

		if (kvm_get_msr(vcpu, list[i], &v, true))
			fail_msg("MSR %#x cannot be read", list[i]);
		if (kvm_set_msr(vcpu, list[i], v, true))
			fail_msg("MSR %#x cannot be written back", list[i]);
	}
}

static void every_feature_msr_has_a_value(void **state)
{
	uint32_t list[64], n = 64;
	uint64_t v;

	assert_int_equal(kvm_msr_feature_index_list(list, &n), 0);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(kvm_get_msr_feature(list[i], &v), 0);
	assert_int_equal(kvm_get_msr_feature(MSR_IA32_ARCH_CAPABILITIES, &v), 0);
	assert_int_equal(v & 0x13b, 0x13b); /* RDCL_NO IBRS_ALL SKIP_L1DFL SSB_NO MDS_NO TAA_NO */
	assert_int_equal(v & (1 << 2 | 1 << 19), 0); /* RSBA RRSBA */
}

/* Each bit beside IBRS, STIBP and SSBD needs its bit of CPUID 7.2:EDX; the client may restore any. */
static void speculation_controls_are_those_of_cpuid(void **state)
{
	struct kvm_cpuid_entry2 *e = NULL;

	for (int n = 0; n < vcpu->arch->cpuid_nent; n++)
		if (vcpu->arch->cpuid_entries[n].function == 7 && vcpu->arch->cpuid_entries[n].index == 2)
			e = &vcpu->arch->cpuid_entries[n];
	assert_non_null(e);
	assert_int_equal(kvm_set_msr(vcpu, MSR_IA32_SPEC_CTRL, 0x5ff, false), 0);
	assert_int_equal(kvm_set_msr(vcpu, MSR_IA32_SPEC_CTRL, 1 << 9, false), KVM_MSR_INVAL);
	e->edx &= ~(1u << 4); /* no BHI_CTRL */
	assert_int_equal(kvm_set_msr(vcpu, MSR_IA32_SPEC_CTRL, 1 << 10, false), KVM_MSR_INVAL);
	assert_int_equal(kvm_set_msr(vcpu, MSR_IA32_SPEC_CTRL, 0x1ff, false), 0);
	assert_int_equal(kvm_set_msr(vcpu, MSR_IA32_SPEC_CTRL, 1 << 10, true), 0);
	assert_int_equal(kvm_set_msr(vcpu, MSR_IA32_SPEC_CTRL, 1 << 11, true), KVM_MSR_INVAL);
	e->edx |= 1u << 4;
	assert_int_equal(kvm_set_msr(vcpu, MSR_IA32_SPEC_CTRL, 0, true), 0);
}

static void poll_control_keeps_its_one_bit(void **state)
{
	assert_int_equal(get(MSR_KVM_POLL_CONTROL), 1);
	assert_int_equal(kvm_set_msr(vcpu, MSR_KVM_POLL_CONTROL, 2, false), KVM_MSR_INVAL);
	assert_int_equal(kvm_set_msr(vcpu, MSR_KVM_POLL_CONTROL, 0, false), 0);
	assert_int_equal(get(MSR_KVM_POLL_CONTROL), 0);
	assert_int_equal(kvm_set_msr(vcpu, MSR_KVM_POLL_CONTROL, 1, false), 0);
}

static void unknown_msr_is_told_from_a_bad_value(void **state)
{
	uint64_t v;

	assert_int_equal(kvm_get_msr(vcpu, 0x12345678, &v, true), KVM_MSR_UNKNOWN);
	assert_int_equal(kvm_set_msr(vcpu, MSR_IA32_CR_PAT, 2, true), KVM_MSR_INVAL);
}

static void ioctl_stops_at_the_first_bad_msr_and_says_how_many_were_done(void **state)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[3];
	} m = { .head.nmsrs = 3,
		.e = { { .index = MSR_STAR, .data = 0x1111 },
		       { .index = 0x12345678 },
		       { .index = MSR_SYSCALL_MASK, .data = 0x2222 } } };

	assert_int_equal(kvm_set_msr(vcpu, MSR_SYSCALL_MASK, 0, true), 0);
	assert_int_equal(vcpu_ioctl(KVM_SET_MSRS, &m), 1);
	assert_int_equal(get(MSR_STAR), 0x1111);
	assert_int_equal(get(MSR_SYSCALL_MASK), 0);
	assert_int_equal(vcpu_ioctl(KVM_GET_MSRS, &m), 1);
	m.head.nmsrs = 256;
	assert_int_equal(vcpu_ioctl(KVM_GET_MSRS, &m), -1);
	assert_int_equal(errno, E2BIG);
}

static void noncanonical_address_is_refused(void **state)
{
	assert_int_equal(kvm_set_msr(vcpu, MSR_LSTAR, 1ULL << 47, false), KVM_MSR_INVAL);
	assert_int_equal(kvm_set_msr(vcpu, MSR_KERNEL_GS_BASE, 1ULL << 63, false), KVM_MSR_INVAL);
	assert_int_equal(kvm_set_msr(vcpu, MSR_LSTAR, 0xffffffff81000000, false), 0);
	assert_int_equal(get(MSR_LSTAR), 0xffffffff81000000);
}

static void mtrr_types_and_reserved_bits_are_checked(void **state)
{
	assert_int_equal(kvm_set_msr(vcpu, MSR_MTRRdefType, 0xc06, false), 0);
	assert_int_equal(get(MSR_MTRRdefType), 0xc06);
	assert_int_equal(kvm_set_msr(vcpu, MSR_MTRRdefType, 0x1006, false), KVM_MSR_INVAL);
	assert_int_equal(kvm_set_msr(vcpu, MSR_MTRRfix64K_00000, 0x0606060606060602, false),
			 KVM_MSR_INVAL);
	assert_int_equal(kvm_set_msr(vcpu, MSR_MTRRphysBase0, 0x100006, false), 0);
	assert_int_equal(kvm_set_msr(vcpu, MSR_MTRRphysBase0 + 1, 1ULL << 60, false), KVM_MSR_INVAL);
	assert_int_equal(get(MSR_MTRRcap), 0x508);
}

static void machine_check_banks_are_as_many_as_set_up(void **state)
{
	uint64_t cap = 0x100 | 10, v;

	assert_int_equal(vcpu_ioctl(KVM_X86_SETUP_MCE, &cap), 0);
	assert_int_equal(get(MSR_IA32_MC0_CTL), ~0ULL);
	assert_int_equal(kvm_get_msr(vcpu, MSR_IA32_MC0_CTL + 40, &v, true), KVM_MSR_INVAL);
	assert_int_equal(kvm_set_msr(vcpu, MSR_IA32_MC0_CTL, 5, false), KVM_MSR_INVAL);
	assert_int_equal(kvm_set_msr(vcpu, MSR_IA32_MC0_CTL + 1, 5, false), KVM_MSR_INVAL);
	assert_int_equal(kvm_set_msr(vcpu, MSR_IA32_MC0_CTL + 1, 0, false), 0);
	cap = 0;
	assert_int_equal(vcpu_ioctl(KVM_X86_SETUP_MCE, &cap), -1);
	assert_int_equal(errno, EINVAL);
}

static void arch_capabilities_are_the_clients_to_set_and_the_guests_to_read(void **state)
{
	uint64_t v;

	assert_int_equal(kvm_get_msr(vcpu, MSR_IA32_ARCH_CAPABILITIES, &v, false), 0);
	assert_int_equal(v, kvm_supported_arch_capabilities());
	assert_int_equal(kvm_set_msr(vcpu, MSR_IA32_ARCH_CAPABILITIES, 0, false), KVM_MSR_INVAL);
}

static void filter_hides_an_msr_from_the_guest_but_not_from_the_client(void **state)
{
	uint64_t deny = 0, v;
	struct kvm_msr_filter f = {
		.flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
		.ranges[0] = { .flags = KVM_MSR_FILTER_READ, .nmsrs = 1, .base = MSR_STAR,
			       .bitmap = (uint8_t *)&deny },
	};

	assert_int_equal(userkvm_ioctl(vm_fd, KVM_X86_SET_MSR_FILTER, (unsigned long)&f), 0);
	assert_int_equal(kvm_get_msr(vcpu, MSR_STAR, &v, false), KVM_MSR_FILTERED);
	assert_int_equal(kvm_set_msr(vcpu, MSR_STAR, 1, false), 0);
	assert_int_equal(kvm_get_msr(vcpu, MSR_STAR, &v, true), 0);
	memset(&f, 0, sizeof(f));
	assert_int_equal(userkvm_ioctl(vm_fd, KVM_X86_SET_MSR_FILTER, (unsigned long)&f), 0);
	assert_int_equal(kvm_get_msr(vcpu, MSR_STAR, &v, false), 0);
	f.flags = KVM_MSR_FILTER_DEFAULT_DENY;
	assert_int_equal(userkvm_ioctl(vm_fd, KVM_X86_SET_MSR_FILTER, (unsigned long)&f), -1);
	assert_int_equal(errno, EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_listed_msr_can_be_read_and_written_back),
		cmocka_unit_test(every_feature_msr_has_a_value),
		cmocka_unit_test(speculation_controls_are_those_of_cpuid),
		cmocka_unit_test(poll_control_keeps_its_one_bit),
		cmocka_unit_test(unknown_msr_is_told_from_a_bad_value),
		cmocka_unit_test(ioctl_stops_at_the_first_bad_msr_and_says_how_many_were_done),
		cmocka_unit_test(noncanonical_address_is_refused),
		cmocka_unit_test(mtrr_types_and_reserved_bits_are_checked),
		cmocka_unit_test(machine_check_banks_are_as_many_as_set_up),
		cmocka_unit_test(arch_capabilities_are_the_clients_to_set_and_the_guests_to_read),
		cmocka_unit_test(filter_hides_an_msr_from_the_guest_but_not_from_the_client),
	};

	return cmocka_run_group_tests(tests, make_vcpu, end_vcpu);
}
