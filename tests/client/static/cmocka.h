/*
 * As much of cmocka as the clients here use, in one header: for the statically
 * linked ones, since cmocka is a shared library only. Speaks TAP.
 */
#ifndef TESTS_CLIENT_STATIC_CMOCKA_H
#define TESTS_CLIENT_STATIC_CMOCKA_H

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
	const char *name;
	void (*test)(void **state);
};

enum { CASE_STARTS, CASE_FAILED, CASE_SKIPPED };

static jmp_buf case_end;

static inline void case_fails(const char *file, int line, const char *what)
{
	printf("# %s:%d: %s\n", file, line, what);
	fflush(stdout);
	longjmp(case_end, CASE_FAILED);
}

static inline void compare(uint64_t a, uint64_t b, int holds, const char *how, const char *file, int line)
{
	char what[120];

	if (holds)
		return;
	snprintf(what, sizeof(what), "%#llx is not %s %#llx", (unsigned long long)a, how, (unsigned long long)b);
	case_fails(file, line, what);
}

#define COMPARE(a, b, op)                                                                \
	do {                                                                             \
		uint64_t a_ = (uint64_t)(a), b_ = (uint64_t)(b);                         \
		compare(a_, b_, a_ op b_, #op, __FILE__, __LINE__);                      \
	} while (0)
#define assert_int_equal(a, b) COMPARE(a, b, ==)
#define assert_int_not_equal(a, b) COMPARE(a, b, !=)
#define assert_ptr_equal(a, b) COMPARE((uintptr_t)(a), (uintptr_t)(b), ==)
#define assert_true(a) COMPARE(!!(a), 1, ==)
#define assert_false(a) COMPARE(!!(a), 0, ==)
#define assert_non_null(a) COMPARE((uintptr_t)(a), 0, !=)
#define assert_null(a) COMPARE((uintptr_t)(a), 0, ==)
#define assert_in_range(a, low, high) \
	do {                          \
		COMPARE(a, low, >=);  \
		COMPARE(a, high, <=); \
	} while (0)
#define assert_memory_equal(a, b, n) COMPARE(memcmp((a), (b), (n)), 0, ==)
#define assert_string_equal(a, b) COMPARE(strcmp((a), (b)), 0, ==)
#define fail_msg(...)                                       \
	do {                                                \
		printf("# " __VA_ARGS__);                   \
		case_fails(__FILE__, __LINE__, " failed");  \
	} while (0)
#define fail() case_fails(__FILE__, __LINE__, "failed")
#define skip() longjmp(case_end, CASE_SKIPPED)
#define print_message(...) printf("# " __VA_ARGS__)
#define print_error(...) printf("# " __VA_ARGS__)

#define cmocka_unit_test(f) { #f, f }

static inline int run_cases(const struct CMUnitTest *tests, int n)
{
	volatile int failed = 0;

	printf("1..%d\n", n);
	for (volatile int i = 0; i < n; i++) {
		void *state = NULL;

		fflush(stdout);
		switch (setjmp(case_end)) {
		case CASE_STARTS:
			tests[i].test(&state);
			printf("ok %d - %s\n", i + 1, tests[i].name);
			break;
		case CASE_SKIPPED:
			printf("ok %d - %s # skip\n", i + 1, tests[i].name);
			break;
		default:
			failed++;
			printf("not ok %d - %s\n", i + 1, tests[i].name);
		}
	}
	fflush(stdout);
	return failed;
}

#define cmocka_run_group_tests(tests, setup, teardown) run_cases(tests, sizeof(tests) / sizeof((tests)[0]))

#endif
