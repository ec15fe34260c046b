/* Arenas of silicon stubs: bounded, and given back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "isa/stub.h"

static const uint8_t ret[] = { 0x31, 0xc0, 0xc3 }; /* xor eax, eax; ret */

static const struct silicon_op *numbered(uint16_t n)
{
	struct silicon_desc d = { .mem_size = n };

	return silicon_get(&d, ret, sizeof(ret));
}

static void a_stub_is_made_once_and_runs(void **state)
{
	struct silicon_arena *a;
	const struct silicon_op *op;

	assert_null(numbered(1));
	assert_int_equal(silicon_arena_create(&a, SILICON_ONE_BYTES), 0);
	silicon_use(a);
	op = numbered(1);
	assert_non_null(op);
	assert_ptr_equal(numbered(1), op);
	assert_ptr_not_equal(numbered(2), op);
	assert_int_equal(op->run(NULL, NULL), 0);
	assert_true(silicon_contains(a, (uintptr_t)op->run));
	assert_false(silicon_contains(a, (uintptr_t)&a));
	assert_int_equal(*(const uint8_t *)(uintptr_t)silicon_ret(a), 0xc3);
	silicon_arena_destroy(a);
	assert_null(numbered(1));
}

static void a_full_arena_has_no_room_until_it_is_reset(void **state)
{
	struct silicon_arena *a;
	uint16_t n = 0;

	assert_int_equal(silicon_arena_create(&a, SILICON_ONE_BYTES), 0);
	silicon_use(a);
	assert_true(silicon_arena_has_room(a, 1));
	while (numbered(n)) {
		n++;
		assert_true(n < 1000);
	}
	assert_false(silicon_arena_has_room(a, 1));
	assert_non_null(numbered(0)); /* what is there is still found */
	silicon_arena_reset(a);
	assert_true(silicon_arena_has_room(a, 1));
	assert_int_equal(numbered(n)->run(NULL, NULL), 0);
	silicon_arena_destroy(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stub_is_made_once_and_runs),
		cmocka_unit_test(a_full_arena_has_no_room_until_it_is_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
