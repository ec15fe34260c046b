/* Executable memory: two views, never writable and executable at once. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../child.h"
#include "emit/emit.h"
#include "emit/exec.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#endif
#define SIZE (1u << 20)

/* Permissions of the mapping with this address: "r-xs" and so on; "" if there is none. */
static void permissions(const void *p, char out[5])
{
	unsigned long lo, hi;
	char line[512], perms[8];
	FILE *f = fopen("/proc/self/maps", "r");

	out[0] = 0;
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx %7s", &lo, &hi, perms) == 3 && (uintptr_t)p >= lo &&
		    (uintptr_t)p < hi)
			memcpy(out, perms, 5);
	if (f)
		fclose(f);
}

static int make_and_run(void *at, int value)
{
	struct exec_memory m;
	struct emitter e;
	int got;

	if (exec_memory_create(&m, SIZE, at))
		return -1;
	e = (struct emitter){ .b = m.rw + 4096, .size = 64, .run = (uintptr_t)m.run + 4096 };
	emit_mov_imm32(&e, HOST_RAX, (uint32_t)value);
	emit_byte(&e, 0xc3);
	exec_memory_sync();
	got = ((int (*)(void))(uintptr_t)e.run)();
	if (at && m.run != at)
		got = -2;
	exec_memory_destroy(&m);
	return got;
}

static void code_written_through_one_view_runs_in_the_other(void **state)
{
	assert_int_equal(make_and_run(NULL, 42), 42);
}

static void neither_view_is_writable_and_executable(void **state)
{
	struct exec_memory m;
	char p[5];

	assert_int_equal(exec_memory_create(&m, SIZE, NULL), 0);
	permissions(m.run, p);
	assert_string_equal(p, "r-xs");
	permissions(m.rw, p);
	assert_string_equal(p, "rw-s");
	exec_memory_destroy(&m);
	assert_null(m.rw);
}

static void the_running_view_lies_where_the_caller_wants_it(void **state)
{
	uint8_t *r = mmap(NULL, 4 * SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			  -1, 0);

	assert_ptr_not_equal(r, MAP_FAILED);
	assert_int_equal(make_and_run(r + SIZE, 7), 7);
	munmap(r, 4 * SIZE);
}

/* Exit status 77: not possible here. */
static int under_mdwe(void)
{
	return prctl(PR_SET_MDWE, 1, 0, 0, 0) ? 77 : make_and_run(NULL, 5);
}

static void a_process_that_may_not_gain_exec_rights_is_served(void **state)
{
	int got = child_with(NULL, NULL, under_mdwe);

	if (got == 77) {
		print_message("skip: the kernel has no PR_SET_MDWE\n");
		skip();
	}
	assert_int_equal(got, 5);
}

static int under_file_size_limit(void)
{
	struct rlimit l = { 4096, 4096 };

	return setrlimit(RLIMIT_FSIZE, &l) ? 77 : make_and_run(NULL, 6);
}

static void the_file_size_limit_does_not_apply(void **state)
{
	assert_int_equal(child_with(NULL, NULL, under_file_size_limit), 6);
}

static int without_address_space(void)
{
	struct rlimit l = { 1 << 20, 1 << 20 };
	struct exec_memory m;

	return setrlimit(RLIMIT_AS, &l) ? 77 : exec_memory_create(&m, 1u << 30, NULL) == -ENOMEM && !m.rw;
}

static void without_address_space_the_answer_is_enomem(void **state)
{
	assert_int_equal(child_with(NULL, NULL, without_address_space), 1);
}

static struct exec_memory inherited;

static int looks_for_parents_code(void)
{
	char a[5], b[5];

	permissions(inherited.rw, a);
	permissions(inherited.run, b);
	return a[0] == 0 && b[0] == 0;
}

static void a_forked_child_has_neither_view(void **state)
{
	assert_int_equal(exec_memory_create(&inherited, SIZE, NULL), 0);
	assert_int_equal(child_with(NULL, NULL, looks_for_parents_code), 1);
	exec_memory_destroy(&inherited);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(code_written_through_one_view_runs_in_the_other),
		cmocka_unit_test(neither_view_is_writable_and_executable),
		cmocka_unit_test(the_running_view_lies_where_the_caller_wants_it),
		cmocka_unit_test(a_process_that_may_not_gain_exec_rights_is_served),
		cmocka_unit_test(the_file_size_limit_does_not_apply),
		cmocka_unit_test(without_address_space_the_answer_is_enomem),
		cmocka_unit_test(a_forked_child_has_neither_view),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
