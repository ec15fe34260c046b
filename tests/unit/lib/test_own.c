/*
 * The library's own memory (lib/own.h): against a naive model, at its limits, and beside a
 * client's mappings.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/own.h"

static uint64_t seed = 88172645463325252ULL;

static uint64_t next(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

static bool all(const uint8_t *p, uint8_t v, size_t n)
{
	while (n--)
		if (*p++ != v)
			return false;
	return true;
}

#define NR 400

static void random_objects_keep_their_bytes_and_come_zeroed(void **state)
{
	static struct {
		uint8_t *p, v;
		size_t n;
	} o[NR];

	for (unsigned step = 0; step < 60000; step++) {
		unsigned k = next() % NR;
		size_t n = next() % 100 < 3 ? next() % 300000 : next() % 5000;

		if (o[k].p) {
			assert_true(all(o[k].p, o[k].v, o[k].n));
			if (next() % 4 == 0) {
				o[k].p = own_realloc(o[k].p, n + 1);
				assert_non_null(o[k].p);
				assert_true(all(o[k].p, o[k].v, o[k].n < n ? o[k].n : n));
				o[k].n = n;
				memset(o[k].p, o[k].v, n);
				continue;
			}
			own_free(o[k].p);
			o[k].p = NULL;
			continue;
		}
		o[k].p = own_calloc(1, n);
		o[k].v = (uint8_t)next();
		o[k].n = n;
		assert_non_null(o[k].p);
		assert_int_equal((uintptr_t)o[k].p % 16, 0);
		assert_true(all(o[k].p, 0, n));
		memset(o[k].p, o[k].v, n);
	}
	for (unsigned k = 0; k < NR; k++)
		own_free(o[k].p);
}

static void pages_are_aligned_zeroed_and_of_the_area(void **state)
{
	char *p = own_pages(100000), *q = own_pages_aligned(2 << 20, 2 << 20), *r = own_reserve(1 << 20);
	uint64_t start, end;

	own_area(&start, &end);
	assert_non_null(p);
	assert_int_equal((uintptr_t)p % 65536, 0);
	assert_int_equal((uintptr_t)q % (2 << 20), 0);
	assert_true((uintptr_t)p >= start && (uintptr_t)p + 100000 <= end);
	assert_true(own_overlaps((uintptr_t)p, 1) && own_overlaps((uintptr_t)q, 1) && own_overlaps((uintptr_t)r, 1));
	assert_true(own_overlaps(start - 1, 2) && own_overlaps(end - 1, 1));
	assert_false(own_overlaps(start - 1, 1) || own_overlaps(end, 4096));
	assert_true(all((uint8_t *)p, 0, 100000));
	memset(p, 1, 100000);
	own_pages_free(p);
	p = own_pages(100000);
	assert_true(all((uint8_t *)p, 0, 100000));
	own_pages_free(p);
	own_pages_free(q);
	own_pages_free(r);
}

static void objects_and_low_pages_are_known_as_own(void **state)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	void *o = own_malloc(24);
#else
	void *o = own_pages(24);
#endif
	uint8_t *low = own_low_page();
	static int of_the_program;

	assert_true(own_overlaps((uintptr_t)o, 24));
	assert_false(own_overlaps((uintptr_t)&of_the_program, 4));
	if (low) {
		assert_true((uintptr_t)low < 1ULL << 32 && (uintptr_t)low % 4096 == 0);
		assert_true(own_overlaps((uintptr_t)low, 4096));
		memset(low, 7, 4096);
		own_low_page_free(low);
		assert_ptr_equal(own_low_page(), low);
		assert_true(all(low, 0, 4096));
		own_low_page_free(low);
	}
	own_free(o);
	own_free(NULL);
	own_free(malloc(10)); /* what libc gave */
}

/* The kernel puts none of the client's mappings into the area, and we map over none of them. */
static void a_mapping_of_the_clients_in_the_area_is_left_alone(void **state)
{
	uint64_t start, end;
	char *first = own_reserve(1 << 30), *theirs, *p[64]; /* longer than any gap: nothing of ours comes after it */

	own_area(&start, &end);
	assert_non_null(first);
	theirs = mmap(first + (1 << 30) + (1 << 20), 65536, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (theirs == MAP_FAILED) {
		own_pages_free(first);
		skip(); /* the area is one mapping here, or in use there */
	}
	memset(theirs, 0x5a, 65536);
	for (unsigned k = 0; k < 64; k++) {
		p[k] = own_pages(1 << 20);
		assert_non_null(p[k]);
		memset(p[k], 1, 65536);
	}
	assert_true(all((uint8_t *)theirs, 0x5a, 65536));
	assert_true(p[63] > theirs || p[60] > theirs); /* they went by it */
	for (unsigned k = 0; k < 64; k++)
		own_pages_free(p[k]);
	own_pages_free(first);
	munmap(theirs, 65536);
}

static void what_was_given_back_is_the_hosts_again(void **state)
{
	uint64_t before = own_in_use();
	void *o[2000], *big = own_pages(64 << 20);

	assert_true(own_in_use() >= before + (64 << 20));
	memset(big, 1, 64 << 20);
	own_pages_free(big);
	for (unsigned k = 0; k < 2000; k++)
		o[k] = own_malloc(4096);
	for (unsigned k = 0; k < 2000; k++)
		own_free(o[k]);
	assert_true(own_in_use() <= before + (1 << 20));
}

static void shortage_is_null_and_leaves_everything_as_it_was(void **state)
{
	uint64_t before = own_in_use();

	volatile size_t huge = 1ULL << 40;

	assert_null(own_pages(1ULL << 50));
	assert_null(own_calloc(huge, huge));
	assert_null(own_pages(0));
	own_fail_at(2, false);
	void *a = own_malloc(8), *b = own_malloc(8), *c = own_malloc(8);
	own_fail_at(0, false);
	assert_true(a && !b && c);
	own_free(a);
	own_free(c);
	own_fail_at(1, true);
	assert_true(!own_malloc(8) && !own_pages(8) && !own_low_page() && !own_realloc(NULL, 9));
	own_fail_at(0, false);
	assert_true(own_in_use() <= before + 65536);
}

/* RLIMIT_AS: a child that can have nothing more gets NULL, not a signal. */
static void a_limit_of_address_space_is_null(void **state)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		struct rlimit l = { 1 << 20, 1 << 20 };
		void *p;

		setrlimit(RLIMIT_AS, &l);
		p = own_pages(256 << 20);
		_exit(p ? 1 : own_malloc(100000) ? 2 : 0);
	}
	assert_true(waitpid(child, &status, 0) == child);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	assert_int_equal(status, 0);
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_objects_keep_their_bytes_and_come_zeroed),
		cmocka_unit_test(pages_are_aligned_zeroed_and_of_the_area),
		cmocka_unit_test(objects_and_low_pages_are_known_as_own),
		cmocka_unit_test(a_mapping_of_the_clients_in_the_area_is_left_alone),
		cmocka_unit_test(what_was_given_back_is_the_hosts_again),
		cmocka_unit_test(shortage_is_null_and_leaves_everything_as_it_was),
		cmocka_unit_test(a_limit_of_address_space_is_null),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
