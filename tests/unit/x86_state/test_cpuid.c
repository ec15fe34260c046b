/*
 * CPUID: the offered list, the client's list, the instruction's answers.
 */
#include "../support/host_sets.h"
#include "vcpu_fixture.h"

#include <unistd.h>

static struct kvm_cpuid_entry2 list[KVM_MAX_CPUID_ENTRIES];
static uint32_t nent;

static int fill(void **state)
{
	nent = KVM_MAX_CPUID_ENTRIES;
	return make_vcpu(state) || kvm_dev_ioctl_get_cpuid(list, &nent, false);
}

static const struct kvm_cpuid_entry2 *leaf(uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < nent; i++)
		if (list[i].function == function && list[i].index == index)
			return &list[i];
	return NULL;
}

static void no_leaf_stands_twice(void **state)
{
	for (uint32_t i = 0; i < nent; i++)
		for (uint32_t k = i + 1; k < nent; k++)
			assert_false(list[i].function == list[k].function &&
				     list[i].index == list[k].index);
}

static void list_fits_exactly_and_one_less_gives_e2big(void **state)
{
	struct kvm_cpuid_entry2 small[KVM_MAX_CPUID_ENTRIES];
	uint32_t n = nent;

	assert_int_equal(kvm_dev_ioctl_get_cpuid(small, &n, false), 0);
	assert_int_equal(n, nent);
	n = nent - 1;
	assert_int_equal(kvm_dev_ioctl_get_cpuid(small, &n, false), -E2BIG);
	n = 0;
	assert_int_equal(kvm_dev_ioctl_get_cpuid(small, &n, false), -E2BIG);
}

static void hypervisor_leaf_says_kvm_and_offers_the_stable_clock(void **state)
{
	/* it is read from there: a kernel may be without */
	int steal_time = access("/proc/self/schedstat", R_OK) == 0;

	assert_memory_equal(&leaf(0x40000000, 0)->ebx, "KVMK", 4);
	assert_memory_equal(&leaf(0x40000000, 0)->ecx, "VMKV", 4);
	assert_memory_equal(&leaf(0x40000000, 0)->edx, "M\0\0\0", 4);
	assert_int_equal(leaf(0x40000001, 0)->eax, 1 | 1 << 1 | 1 << 3 | 1 << 4 | steal_time << 5 | 1 << 6 | 1 << 7 | 1 << 10 |
							1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 24);
	assert_true(leaf(1, 0)->ecx >> 31);
}

static void what_is_not_virtualised_is_not_offered(void **state)
{
	assert_int_equal(leaf(1, 0)->ecx & (1 << 3 | 1 << 15), 0); /* MONITOR PDCM */
	assert_int_equal(leaf(1, 0)->ecx >> 5 & 1, vmx_params()->nested);
	assert_int_equal(leaf(0x80000001, 0)->ecx & (1 << 2 | 1 << 22), 0);  /* SVM TOPOEXT */
	assert_int_equal(leaf(7, 0)->ebx & (1 << 11 | 1 << 4), 0); /* RTM HLE */
	/* without a local APIC of the VM's own there is no such timer: KVM_CAP_TSC_DEADLINE_TIMER */
	assert_int_equal(leaf(1, 0)->ecx & 1 << 24, 0);
	assert_null(leaf(0xa, 0) && leaf(0xa, 0)->eax ? leaf(0xa, 0) : NULL); /* PMU */
	if (leaf(0, 0)->eax >= 0xd)
		assert_int_equal(leaf(0xd, 0)->eax & ~0x2e7u, 0); /* no MPX, AMX */
}

static void what_is_done_in_software_is_offered_on_every_host(void **state)
{
	assert_int_equal(leaf(1, 0)->edx >> 27 & 1, 1);		    /* SS */
	assert_int_equal(leaf(7, 0)->ebx >> 9 & 1, 1);		    /* ERMS, */
	assert_int_equal(leaf(7, 0)->edx >> 4 & 1, 1);		    /* with FSRM */
	assert_int_equal(leaf(7, 0)->ebx >> 23 & 3, 3);		    /* CLFLUSHOPT CLWB */
	assert_int_equal(leaf(7, 0)->ecx >> 25 & 5, 5);		    /* CLDEMOTE MOVDIRI */
	assert_int_equal(leaf(7, 0)->edx >> 14 & 1, 1);		    /* SERIALIZE */
	assert_int_equal(leaf(7, 0)->edx >> 26 & 0x2b, 0x2b);	    /* SPEC_CTRL STIBP ARCH_CAPABILITIES SSBD */
	assert_int_equal(leaf(7, 0)->eax, 2);
	assert_int_equal(leaf(7, 2)->edx, 0x3f); /* PSFD IPRED_CTRL RRSBA_CTRL DDPD_U BHI_CTRL MCDT_NO */
	assert_int_equal(leaf(0x80000008, 0)->ebx >> 9 & 1, 1); /* WBNOINVD */
	/* IBPB IBRS STIBP SSBD SSB_NO PSFD, by AMD's bits, on any host */
	assert_int_equal(leaf(0x80000008, 0)->ebx & 0x1500d000, 0x1500d000);
	assert_int_equal(leaf(7, 0)->ebx >> 6 & 1, 0); /* FDP_EXCPTN_ONLY: FDP is kept always */
}

static void xsave_sizes_go_with_the_components(void **state)
{
	NEED(XSAVE);
	assert_int_equal(leaf(0xd, 0)->ecx, isa_host()->xsave_bytes);
	assert_int_equal(leaf(7, 0)->ecx >> 3 & 1, leaf(0xd, 0)->eax >> 9 & 1); /* PKU */
	if (leaf(0xd, 0)->eax & 0x200)
		assert_int_equal(leaf(0xd, 9)->eax, 8);
	if (!(leaf(0xd, 0)->eax & 0x2e0))
		assert_int_equal(leaf(0xd, 0)->ecx, leaf(0xd, 0)->eax & 4 ? 832 : 576);
	if (leaf(0xd, 0)->eax & 4) {
		assert_int_equal(leaf(0xd, 2)->eax, 256);
		assert_int_equal(leaf(0xd, 2)->ebx, 576);
	}
}

/* Vol. 1, "Enabling the XSAVE Feature Set": opmask, ZMM_Hi256 and Hi16_ZMM together, and with AVX. */
static void avx512_is_offered_with_its_state_or_not_at_all(void **state)
{
	uint32_t a = 0xd, b = 0, c = 1, d = 0;

	assert_int_equal(leaf(7, 0)->ebx >> 16 & 1, isa_host_has(HOST_AVX512F));
	NEED(AVX512F);
	assert_int_equal(leaf(0xd, 0)->eax & 0xff, 0xe7);
	assert_int_equal(leaf(0xd, 5)->eax, 64);
	assert_int_equal(leaf(0xd, 6)->eax, 512);
	assert_int_equal(leaf(0xd, 7)->eax, 1024);
	assert_int_equal(leaf(0xd, 7)->ebx, isa_host()->component[7].offset);
	for (uint64_t bits = 0x20; bits < 0x100; bits += 0x20)
		assert_int_equal(kvm_set_xcr(vcpu, 0, 7 | bits), bits != 0xe0);
	assert_int_equal(kvm_set_xcr(vcpu, 0, 0xe3), 1);
	assert_int_equal(kvm_set_xcr(vcpu, 0, 0xe7), 0);
	kvm_cpuid(vcpu, &a, &b, &c, &d); /* compacted: one after the other, aligned where ECX[1] says so */
	assert_int_equal(b, 576 + 256 + 64 + 512 + 1024);
	a = 0xd, c = 0;
	kvm_cpuid(vcpu, &a, &b, &c, &d);
	assert_int_equal(b, leaf(0xd, 7)->ebx + leaf(0xd, 7)->eax);
	assert_int_equal(kvm_set_xcr(vcpu, 0, 1), 0);
}

static void osxsave_follows_cr4(void **state)
{
	uint32_t a = 1, b = 0, c = 0, d = 0;

	NEED(XSAVE);
	kvm_cpuid(vcpu, &a, &b, &c, &d);
	assert_int_equal(c >> 27 & 1, 0);
	assert_int_equal(kvm_set_cr4(vcpu, X86_CR4_OSXSAVE), 0);
	a = 1, c = 0;
	kvm_cpuid(vcpu, &a, &b, &c, &d);
	assert_int_equal(c >> 27 & 1, 1);
	assert_int_equal(kvm_set_cr4(vcpu, 0), 0);
}

static void xsave_size_follows_xcr0(void **state)
{
	uint32_t a = 0xd, b = 0, c = 0, d = 0;

	NEED(XSAVE);
	assert_int_equal(kvm_set_xcr(vcpu, 0, 1), 0);
	kvm_cpuid(vcpu, &a, &b, &c, &d);
	assert_int_equal(b, 576);
	if (!(kvm_supported_xcr0() & XFEATURE_MASK_YMM))
		return;
	assert_int_equal(kvm_set_xcr(vcpu, 0, 7), 0);
	a = 0xd, c = 0;
	kvm_cpuid(vcpu, &a, &b, &c, &d);
	assert_int_equal(b, 832);
	assert_int_equal(kvm_set_xcr(vcpu, 0, 1), 0);
}

static int set(const struct kvm_cpuid_entry2 *e, uint32_t n)
{
	return kvm_vcpu_ioctl_set_cpuid2(vcpu, e, n);
}

static void intel_answers_a_leaf_out_of_range_with_the_highest_and_amd_with_zero(void **state)
{
	struct kvm_cpuid_entry2 e[2] = {
		{ .function = 0, .eax = 5, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69 },
		{ .function = 5, .eax = 0x1234 },
	};
	uint32_t a = 0x77, b = 0, c = 0, d = 0;

	assert_int_equal(set(e, 2), 0);
	kvm_cpuid(vcpu, &a, &b, &c, &d);
	assert_int_equal(a, 0x1234);
	e[0].ebx = 0x68747541, e[0].ecx = 0x444d4163, e[0].edx = 0x69746e65;
	assert_int_equal(set(e, 2), 0);
	a = 0x77, c = 0;
	kvm_cpuid(vcpu, &a, &b, &c, &d);
	assert_int_equal(a, 0);
	set_supported_cpuid();
}

/* SDM Vol. 2, CPUID, leaves 0Bh and 1Fh: a level that is not there has the input's number and the x2APIC ID. */
static void topology_beyond_the_last_level_has_the_level_and_the_id(void **state)
{
	static const struct kvm_cpuid_entry2 e[] = {
		{ .function = 0, .eax = 0x1f, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69 },
		{ .function = 0xb, .index = 0, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ecx = 0x100, .edx = 5 },
		{ .function = 0xb, .index = 1, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ecx = 0x201, .edx = 5 },
		{ .function = 0x1f, .index = 0, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ecx = 0x100, .edx = 6 },
		{ .function = 0x1f, .index = 1, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ecx = 0x201, .edx = 6 },
	};

	assert_int_equal(set(e, ARRAY_SIZE(e)), 0);
	for (uint32_t function = 0xb; function <= 0x1f; function += 0x14) {
		uint32_t a = function, b = 1, c = 0x1234, d = 0;

		kvm_cpuid(vcpu, &a, &b, &c, &d);
		assert_int_equal(a | b, 0);
		assert_int_equal(c, 0x34);
		assert_int_equal(d, function == 0xb ? 5 : 6);
	}
	set_supported_cpuid();
}

static void linear_address_width_that_is_neither_48_nor_57_gives_einval(void **state)
{
	struct kvm_cpuid_entry2 e = { .function = 0x80000008, .eax = 40 << 8 | 40 };

	assert_int_equal(set(&e, 1), -EINVAL);
	e.eax = 48 << 8 | 40;
	assert_int_equal(set(&e, 1), 0);
	set_supported_cpuid();
}

static void maxphyaddr_is_36_without_leaf_80000008(void **state)
{
	struct kvm_cpuid_entry2 e[2] = { { .function = 0x80000000, .eax = 0x80000008 },
					 { .function = 0x80000008, .eax = 48 << 8 | 43 } };

	assert_int_equal(set(NULL, 0), 0);
	assert_int_equal(vcpu->arch->maxphyaddr, 36);
	assert_int_equal(set(e, 2), 0);
	assert_int_equal(vcpu->arch->maxphyaddr, 43);
	set_supported_cpuid();
}

static void after_kvm_run_only_the_same_cpuid_is_accepted(void **state)
{
	struct kvm_cpuid_entry2 copy[KVM_MAX_CPUID_ENTRIES];
	uint32_t n = KVM_MAX_CPUID_ENTRIES;

	assert_int_equal(kvm_vcpu_ioctl_get_cpuid2(vcpu, copy, &n), 0);
	vcpu->arch->has_run = true;
	assert_int_equal(set(copy, n), 0);
	copy[n - 1].eax ^= 1;
	assert_int_equal(set(copy, n), -EINVAL);
	assert_int_equal(set(copy, n - 1), -EINVAL);
	vcpu->arch->has_run = false;
}

static void get_cpuid2_with_no_room_gives_e2big_and_the_number(void **state)
{
	struct kvm_cpuid_entry2 e[1];
	uint32_t n = 1;

	assert_int_equal(kvm_vcpu_ioctl_get_cpuid2(vcpu, e, &n), -E2BIG);
	assert_int_equal(n, vcpu->arch->cpuid_nent);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_leaf_stands_twice),
		cmocka_unit_test(list_fits_exactly_and_one_less_gives_e2big),
		cmocka_unit_test(hypervisor_leaf_says_kvm_and_offers_the_stable_clock),
		cmocka_unit_test(what_is_not_virtualised_is_not_offered),
		cmocka_unit_test(what_is_done_in_software_is_offered_on_every_host),
		cmocka_unit_test(xsave_sizes_go_with_the_components),
		cmocka_unit_test(avx512_is_offered_with_its_state_or_not_at_all),
		cmocka_unit_test(osxsave_follows_cr4),
		cmocka_unit_test(xsave_size_follows_xcr0),
		cmocka_unit_test(intel_answers_a_leaf_out_of_range_with_the_highest_and_amd_with_zero),
		cmocka_unit_test(topology_beyond_the_last_level_has_the_level_and_the_id),
		cmocka_unit_test(linear_address_width_that_is_neither_48_nor_57_gives_einval),
		cmocka_unit_test(maxphyaddr_is_36_without_leaf_80000008),
		cmocka_unit_test(after_kvm_run_only_the_same_cpuid_is_accepted),
		cmocka_unit_test(get_cpuid2_with_no_room_gives_e2big_and_the_number),
	};

	return cmocka_run_group_tests(tests, fill, end_vcpu);
}
