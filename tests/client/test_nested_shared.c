/*
 * What L1 and L2 share, and whose exit it is: MSRs by the four parts of L1's bitmap, CR0's bits by L1's mask for the
 * instructions that write some of them, the TSC by both multipliers and offsets.
 */
#include "nested_ept.h"

#define PRIMARY CPU_BASED_VM_EXEC_CONTROL
#define TSC_OFFSETTING (1u << 3)
#define MSR_BITMAPS (1u << 28)
#define TSC_SCALING (1u << 25)
#define MSR_TSC 0x10
#define CR0_TS 8u

/* SDM Vol. 3, "MSR-Bitmap Address" */
NESTED_TEST(the_bitmap_has_a_quarter_for_reads_and_writes_of_both_ranges, nested_open_l2)
{
	static const struct {
		uint32_t msr;
		bool write;
		unsigned at; /* byte of the bitmap */
	} rows[] = {{0x174, false, 0x174 / 8}, {0xc0000080, false, 1024 + 0x80 / 8}, {0x174, true, 2048 + 0x174 / 8},
		    {0xc0000102, true, 3072 + 0x102 / 8}};

	nested_set_bits(c, PRIMARY, MSR_BITMAPS);
	nested_vmwrite(c, MSR_BITMAP, AT_MSR_BITMAP);
	for (size_t i = 0; i < 2 * sizeof(rows) / sizeof(*rows); i++) {
		uint32_t msr = rows[i / 2].msr;
		bool write = rows[i / 2].write, exits = i & 1;
		/* mov ecx, msr; xor eax, eax; xor edx, edx; rdmsr or wrmsr; cpuid */
		uint8_t code[] = {0xb9, (uint8_t)msr, (uint8_t)(msr >> 8), (uint8_t)(msr >> 16), (uint8_t)(msr >> 24),
				  0x31, 0xc0, 0x31, 0xd2, 0x0f, write ? 0x30 : 0x32, 0x0f, 0xa2};

		memset(c->mem + AT_MSR_BITMAP, exits ? 0 : 0xff, 4096);
		c->mem[AT_MSR_BITMAP + rows[i / 2].at] ^= (uint8_t)(1u << msr % 8);
		nested_l2_code(c, code, sizeof(code));
		nested_vmwrite(c, GUEST_RIP, AT_L2);
		assert_int_equal(nested_enter(c, i ? VMRESUME : VMLAUNCH),
				 !exits ? EXIT_REASON_CPUID : write ? EXIT_REASON_MSR_WRITE : EXIT_REASON_MSR_READ);
	}
}

/* An MSR of neither range is L1's, whatever the bitmap says. */
NESTED_TEST(an_msr_outside_the_bitmap_exits, nested_open_l2)
{
	nested_set_bits(c, PRIMARY, MSR_BITMAPS);
	nested_vmwrite(c, MSR_BITMAP, AT_MSR_BITMAP);
	memset(c->mem + AT_MSR_BITMAP, 0, 4096);
	nested_l2_code(c, "\xb9\x00\x00\x00\x40\x0f\x32", 7);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_MSR_READ);
}

/* SDM Vol. 3, "Instructions That Cause VM Exits Conditionally": CLTS, LMSW */
NESTED_TEST(clts_and_lmsw_exit_by_mask_and_shadow, nested_open_l2)
{
	static const struct {
		const char *code;
		unsigned len;
		uint64_t mask, shadow;
		int type; /* of the access, in the qualification; -1: no exit */
	} rows[] = {
		{"\x0f\x06\x0f\xa2", 4, CR0_TS, CR0_TS, 2}, {"\x0f\x06\x0f\xa2", 4, CR0_TS, 0, -1}, {"\x0f\x06\x0f\xa2", 4, 0, CR0_TS, -1},
		/* mov eax, 9; lmsw ax; cpuid */
		{"\xb8\x09\x00\x00\x00\x0f\x01\xf0\x0f\xa2", 10, CR0_TS, 1, 3}, {"\xb8\x09\x00\x00\x00\x0f\x01\xf0\x0f\xa2", 10, CR0_TS, CR0_TS | 1, -1},
		{"\xb8\x09\x00\x00\x00\x0f\x01\xf0\x0f\xa2", 10, 0, 0, -1},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		uint64_t reason;

		nested_l2_code(c, rows[i].code, rows[i].len);
		nested_vmwrite(c, CR0_GUEST_HOST_MASK, rows[i].mask);
		nested_vmwrite(c, CR0_READ_SHADOW, rows[i].shadow);
		nested_vmwrite(c, GUEST_RIP, AT_L2);
		reason = nested_enter(c, i ? VMRESUME : VMLAUNCH);
		assert_int_equal(reason, rows[i].type < 0 ? EXIT_REASON_CPUID : EXIT_REASON_CR_ACCESS);
		if (rows[i].type >= 0) {
			uint64_t q = nested_vmread(c, EXIT_QUALIFICATION);

			assert_int_equal(q & 15, 0);
			assert_int_equal(q >> 4 & 3, rows[i].type);
			assert_int_equal(q >> 16, rows[i].type == 3 ? 9 : 0);
		}
	}
}

/* out 55h, al; rdtsc; shl rdx, 32; or rdx, rax; mov rbx, rdx; cpuid */
#define READ_TSC "\xe6\x55\x0f\x31\x48\xc1\xe2\x20\x48\x09\xc2\x48\x89\xd3\x0f\xa2"

/* Half of L1's rate by L1's own multiplier, then ours; the client moves L1's TSC while L2 is in the middle. */
NESTED_TEST(l2s_tsc_is_l1s_scaled_and_offset_once_more, nested_open_l2)
{
	long khz = ioctl(c->vcpu, KVM_GET_TSC_KHZ, 0);
	const uint64_t offset = 1ull << 50, set = 1ull << 44;
	uint64_t l1, l2;

	if (!(client_msr(c, MSR_VMX(11)) >> 32 & TSC_SCALING) || ioctl(c->vcpu, KVM_SET_TSC_KHZ, khz / 2))
		skip();
	nested_set_bits(c, PRIMARY, TSC_OFFSETTING);
	nested_vmwrite(c, PRIMARY, nested_vmread(c, PRIMARY) & ~(3ull << 24));
	nested_set_bits(c, SECONDARY, TSC_SCALING);
	nested_vmwrite(c, TSC_MULTIPLIER, 3ull << 47); /* 1.5 */
	nested_vmwrite(c, TSC_OFFSET, offset);
	nested_l2_code(c, READ_TSC, sizeof(READ_TSC) - 1);
	assert_int_equal(nested_do(c, VMLAUNCH, 0, 0).port, 0x55);
	client_set_msr(c, MSR_TSC, set);
	assert_int_equal(nested_run(c).port, PORT_EXIT);
	assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_CPUID);
	l2 = nested_at_exit.rbx;
	l1 = client_msr(c, MSR_TSC);
	assert_in_range(l2, set / 2 * 3 + offset, l1 / 2 * 3 + offset + 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_bitmap_has_a_quarter_for_reads_and_writes_of_both_ranges),
		cmocka_unit_test(an_msr_outside_the_bitmap_exits),
		cmocka_unit_test(clts_and_lmsw_exit_by_mask_and_shadow),
		cmocka_unit_test(l2s_tsc_is_l1s_scaled_and_offset_once_more),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
