/*
 * The table of the host's features and its mask: each case fills the table in
 * a child of its own, as it is filled once a process.
 */
#include "harness.h"

#include "../../child.h"
#include "isa/host.h"

/* The child's answer to `ask` under this mask, 0..127. */
static int in_child(const char *mask, int (*ask)(void))
{
	return child_with("USERKVM_HOST_CPUID", mask, ask);
}

/* Bit 0: AVX; 1: AVX2; 2: FMA; 3: AVX-512F; 4: SSE4.2; 5: XSAVE; 6: SSE3. */
static int features(void)
{
	return isa_host_has(HOST_AVX) | isa_host_has(HOST_AVX2) << 1 | isa_host_has(HOST_FMA) << 2 |
	       isa_host_has(HOST_AVX512F) << 3 | isa_host_has(HOST_SSE42) << 4 |
	       isa_host_has(HOST_XSAVE) << 5 | isa_host_has(HOST_SSE3) << 6;
}

static int bmi2(void)
{
	return isa_host_has(HOST_BMI2);
}

static int xfeatures(void)
{
	return (int)isa_host()->xfeatures & 7;
}

static int valid(void)
{
	return isa_host_mask_valid();
}

/* Of ANDN eax, eax, eax, ADCX eax, eax and ADD eax, eax: bit 0, 1, 2. */
static int decoded(void)
{
	static const uint8_t code[3][8] = {
		{ 0xc4, 0xe2, 0x78, 0xf2, 0xc0 }, { 0x66, 0x0f, 0x38, 0xf6, 0xc0 }, { 0x01, 0xc0 },
	};
	struct isa_insn i;
	int known = 0;

	for (unsigned n = 0; n < 3; n++)
		known |= (isa_decode(code[n], 8, ISA_CODE64, &fake_ops, &i) == ISA_DECODE_OK) << n;
	return known;
}

static int offered(void)
{
	uint32_t r[4], d[4];

	isa_cpuid(1, 0, r);
	isa_cpuid(0xd, 0, d);
	return ((r[2] >> 28) & 1) | ((r[2] >> 26) & 1) << 1 | (d[0] & 7) << 2;
}

static int own_features(void)
{
	uint32_t r[4], l[4];

	isa_cpuid(7, 0, r);
	isa_cpuid(1, 0, l);
	return ((r[1] >> 9) & 1) | ((r[3] >> 4) & 1) << 1 | ((l[2] >> 22) & 1) << 2 | ((r[1] >> 24) & 1) << 3;
}

static void a_masked_feature_takes_what_needs_it_along(void **state)
{
	int all = in_child(NULL, features);

	assert_int_equal(in_child("-avx", features), all & ~0x0f);
	assert_int_equal(in_child("-xsave", features), all & ~0x2f);
	assert_int_equal(in_child("-sse3", features), all & ~0x50);
	assert_int_equal(in_child("-xsave", xfeatures), 3);
	assert_int_equal(in_child("-bmi1", bmi2), 0);
}

static void names_are_compared_without_case_and_punctuation(void **state)
{
	int all = in_child(NULL, features);

	assert_int_equal(in_child("-SSE4_2", features), all & ~0x10);
	assert_int_equal(in_child("-sse42", features), all & ~0x10);
	assert_int_equal(in_child("-avx2,,-fma,", features), all & ~0x0e);
}

static void a_processors_name_leaves_what_it_has(void **state)
{
	int all = in_child(NULL, features);

	assert_int_equal(in_child("sse2", features), 0);
	assert_int_equal(in_child("Nehalem", features), all & 0x50);
	assert_int_equal(in_child("haswell", features), all & ~0x08);
	assert_int_equal(in_child("haswell,-avx2", features), all & ~0x0a);
}

static void what_is_masked_is_neither_offered_nor_decoded(void **state)
{
	int all = in_child(NULL, decoded);

	assert_int_equal(in_child("-bmi1", decoded), all & ~1);
	assert_int_equal(in_child("-adx", decoded), all & ~2);
	assert_int_equal(in_child("sse2", decoded), 4);
	assert_int_equal(in_child("-avx", offered) & 1, 0);
	assert_int_equal(in_child("sse2", offered), 0); /* without XSAVE leaf 0Dh is empty */
}

/* ERMS with FSRM, MOVBE and CLWB are done in C. */
static void what_is_done_here_is_offered_under_any_mask(void **state)
{
	assert_int_equal(in_child(NULL, own_features), 15);
	assert_int_equal(in_child("-erms,-movbe", own_features), 15);
	assert_int_equal(in_child("sse2", own_features), 15);
}

static void a_word_that_means_nothing_is_refused(void **state)
{
	assert_int_equal(in_child("-avx", valid), 1);
	assert_int_equal(in_child("zen3,-sha", valid), 1);
	assert_int_equal(in_child("", valid), 1);
	assert_int_equal(in_child("-avx3", valid), 0);
	assert_int_equal(in_child("haswel", valid), 0);
	assert_int_equal(in_child("haswell,avx", valid), 0);
	assert_int_equal(in_child("-", valid), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_masked_feature_takes_what_needs_it_along),
		cmocka_unit_test(names_are_compared_without_case_and_punctuation),
		cmocka_unit_test(a_processors_name_leaves_what_it_has),
		cmocka_unit_test(what_is_masked_is_neither_offered_nor_decoded),
		cmocka_unit_test(what_is_done_here_is_offered_under_any_mask),
		cmocka_unit_test(a_word_that_means_nothing_is_refused),
	};

	(void)reset_cpu;
	(void)run_one;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
