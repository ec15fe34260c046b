/*
 * The index of guest memory by page frame, over a pagemap that the test writes: a
 * memfd with an entry for each page, like /proc/self/pagemap.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "abi/pfn_index.h"
#include "lib/own.h"

#define PRESENT (1ULL << 63)
#define FILE_PAGE (1ULL << 61)
#define BASE 0x7f0000000000ULL

static int pagemap;
static struct pfn_index x;
static struct {
	hva_t start, end;
} ranges[8];
static unsigned nr_ranges;

static void source(void (*fn)(void *arg, hva_t start, hva_t end), void *arg)
{
	for (unsigned i = 0; i < nr_ranges; i++)
		fn(arg, ranges[i].start, ranges[i].end);
}

static hva_t page(uint64_t n)
{
	return BASE + n * PAGE_SIZE;
}

static void add_range(uint64_t first, uint64_t end)
{
	ranges[nr_ranges].start = page(first);
	ranges[nr_ranges++].end = page(end);
}

static void put(uint64_t n, uint64_t entry)
{
	assert_int_equal(pwrite(pagemap, &entry, sizeof(entry), (off_t)((page(n) >> PAGE_SHIFT) * sizeof(entry))),
			 sizeof(entry));
}

static int setup(void **state)
{
	nr_ranges = 0;
	pagemap = memfd_create("pagemap", 0);
	assert_true(pagemap >= 0);
	assert_int_equal(ftruncate(pagemap, (off_t)((1ULL << 47 >> PAGE_SHIFT) * sizeof(uint64_t))), 0);
	return 0;
}

static int teardown(void **state)
{
	pfn_index_free(&x);
	close(pagemap);
	return 0;
}

static void assert_sorted(void)
{
	for (size_t i = 1; i < x.nr; i++)
		assert_true(x.at[i - 1].pfn <= x.at[i].pfn);
}

static void every_present_page_of_overlapping_ranges_is_there_once(void **state)
{
	add_range(600, 1300);
	add_range(0, 700);
	add_range(100, 200);
	add_range(2000, 2001);
	for (uint64_t n = 0; n < 2100; n++)
		put(n, PRESENT | (n % 2 ? FILE_PAGE : 0) | (10000 - n));
	put(5, 10000 - 5);  /* swapped out: not a page frame */
	put(6, PRESENT);    /* no CAP_SYS_ADMIN */
	assert_int_equal(pfn_index_build(&x, source, pagemap), 0);
	assert_int_equal(x.nr, 1300 + 1 - 2);
	assert_sorted();
	assert_int_equal(x.at[0].pfn, 8000);
	assert_int_equal(x.at[0].hva, page(2000));
	assert_int_equal(x.at[pfn_index_find(&x, 10000 - 7)].hva, page(7));
	assert_int_equal(x.at[pfn_index_find(&x, 10000 - 6)].pfn, 10000 - 4);
	assert_int_equal(pfn_index_find(&x, 0), 0);
	assert_int_equal(pfn_index_find(&x, 10001), x.nr);
}

static void no_memory_at_all_is_an_empty_index(void **state)
{
	assert_int_equal(pfn_index_build(&x, source, pagemap), 0);
	assert_int_equal(x.nr, 0);
	assert_int_equal(pfn_index_find(&x, 0), 0);
	add_range(10, 10);
	assert_int_equal(pfn_index_build(&x, source, pagemap), 0);
	assert_int_equal(x.nr, 0);
}

static void the_zero_page_is_left_out_and_shared_ones_are_not(void **state)
{
	size_t i;

	add_range(0, 200);
	for (uint64_t n = 0; n < PFN_MAX_ADDRESSES + 1; n++)
		put(n, PRESENT | 77);
	for (uint64_t n = 0; n < PFN_MAX_ADDRESSES; n++)
		put(100 + n, PRESENT | 76);
	put(199, PRESENT | 78);
	assert_int_equal(pfn_index_build(&x, source, pagemap), 0);
	assert_int_equal(x.nr, PFN_MAX_ADDRESSES + 1);
	for (i = 0; i < PFN_MAX_ADDRESSES; i++) {
		assert_int_equal(x.at[i].pfn, 76);
		assert_int_equal(x.at[i].hva, page(100 + i));
	}
	assert_int_equal(x.at[i].pfn, 78);
}

/* Random frames, up to the last a physical address can name. */
static void random_pages_are_found_as_in_a_naive_model(void **state)
{
	enum { PAGES = 3000 };
	static uint64_t pfn[PAGES];

	srand(2);
	for (int round = 0; round < 20; round++) {
		uint64_t spread = round % 2 ? 1000 : (1ULL << 40) - 1;

		nr_ranges = 0;
		add_range(0, PAGES / 2 + (uint64_t)rand() % 100);
		add_range(PAGES / 2, PAGES);
		for (uint64_t n = 0; n < PAGES; n++) {
			pfn[n] = rand() % 4 ? 1 + ((uint64_t)rand() << 20 ^ (uint64_t)rand()) % spread : 0;
			put(n, pfn[n] ? PRESENT | pfn[n] : 0);
		}
		pfn_index_free(&x);
		assert_int_equal(pfn_index_build(&x, source, pagemap), 0);
		assert_sorted();
		for (uint64_t n = 0; n < PAGES; n++) {
			size_t i = pfn_index_find(&x, pfn[n]);

			while (pfn[n] && i < x.nr && x.at[i].pfn == pfn[n] && x.at[i].hva != page(n))
				i++;
			assert_true(!pfn[n] || (i < x.nr && x.at[i].pfn == pfn[n]));
		}
	}
}

static void a_window_sees_what_pagemap_says(void **state)
{
	struct pagemap_window one = { .pagemap = pagemap, .ahead = 1 };
	struct pagemap_window w = { .pagemap = pagemap, .ahead = PAGEMAP_WINDOW };

	put(0, PRESENT | 1);
	put(63, PRESENT | 63);
	put(64, PRESENT | 64);
	put(65, 65);
	assert_true(pagemap_has(&w, page(63), 63));
	put(0, PRESENT | 9);
	assert_true(pagemap_has(&w, page(0), 1)); /* read before */
	assert_false(pagemap_has(&one, page(0), 1));
	assert_true(pagemap_has(&one, page(0), 9));
	assert_true(pagemap_has(&w, page(64), 64));
	assert_false(pagemap_has(&w, page(65), 65));
	assert_false(pagemap_has(&w, page(66), 0));
	assert_false(pagemap_has(&w, page(0), 1)); /* read again */
	w.pagemap = -1;
	w.nr = 0;
	assert_false(pagemap_has(&w, page(64), 64));
}

static void a_pagemap_that_cannot_be_read_is_an_error_and_the_index_empty(void **state)
{
	add_range(0, 10);
	assert_int_equal(pfn_index_build(&x, source, -1), -EBADF);
	assert_null(x.at);
	assert_int_equal(x.nr, 0);
}

static void each_allocation_that_fails_gives_enomem_and_the_index_empty(void **state)
{
	uint64_t n;

	add_range(0, 10);
	put(3, PRESENT | 3);
	for (n = 1;; n++) {
		int r;

		own_fail_at(n, true);
		r = pfn_index_build(&x, source, pagemap);
		own_fail_at(0, false);
		if (!r)
			break;
		assert_int_equal(r, -ENOMEM);
		assert_null(x.at);
		assert_int_equal(x.nr, 0);
	}
	assert_int_equal(n - 1, 5); /* ranges twice, their order, the index, its order */
	assert_int_equal(x.nr, 1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(every_present_page_of_overlapping_ranges_is_there_once),
		TEST(no_memory_at_all_is_an_empty_index),
		TEST(the_zero_page_is_left_out_and_shared_ones_are_not),
		TEST(random_pages_are_found_as_in_a_naive_model),
		TEST(a_window_sees_what_pagemap_says),
		TEST(a_pagemap_that_cannot_be_read_is_an_error_and_the_index_empty),
		TEST(each_allocation_that_fails_gives_enomem_and_the_index_empty),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
