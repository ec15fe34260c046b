/*
 * Frames, the picture of host mappings, knobs.
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

#include "host/fault.h"
#include "host/memory.h"
#include "lib/params.h"

#define MIB (1ULL << 20)

static void frames_are_zero_and_counted(void **state)
{
	static const char zero[4096];
	uint64_t before = host_frames_in_use();
	char *frame[1000];
	int i, round;

	for (round = 0; round < 2; round++) {
		for (i = 0; i < 1000; i++) {
			frame[i] = host_frame_alloc();
			assert_non_null(frame[i]);
			assert_true(((uintptr_t)frame[i] & 0xfff) == 0);
			assert_memory_equal(frame[i], zero, 4096);
			memset(frame[i], 0xff, 4096);
		}
		assert_int_equal(host_frames_in_use(), before + 1000);
		for (i = 0; i < 1000; i++)
			host_frame_free(frame[i]);
	}
	host_frame_free(NULL);
	assert_int_equal(host_frames_in_use(), before);
}

static char *map(uint64_t size, int prot)
{
	char *p = mmap(NULL, size + 2 * MIB, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return (char *)ALIGN_UP((uintptr_t)p, 2 * MIB);
}

static void fault_in_tells_permissions(void **state)
{
	char *rw = map(4096, PROT_READ | PROT_WRITE), *ro = map(4096, PROT_READ),
	     *none = map(4096, PROT_NONE);
	bool w = false;

	assert_int_equal(host_fault_init(), 0);
	rw[5] = 77;
	host_mapping_stale();
	host_mapping_look((uintptr_t)rw, (uintptr_t)rw + 1);
	assert_int_equal(host_fault_in((uintptr_t)rw + 5, false, &w), 0);
	assert_true(w);
	assert_int_equal(host_fault_in((uintptr_t)rw, true, NULL), 0);
	assert_int_equal(rw[5], 77);
	assert_int_equal(host_fault_in((uintptr_t)ro, false, &w), 0);
	assert_false(w);
	assert_int_equal(host_fault_in((uintptr_t)ro, true, &w), -EFAULT);
	assert_int_equal(host_fault_in((uintptr_t)none, false, &w), -EFAULT);
}

static void mapping_level_is_bounded_by_mapping_slot_and_permissions(void **state)
{
	char *p = map(8 * MIB, PROT_READ | PROT_WRITE);
	hva_t h = (uintptr_t)p;

	host_mapping_look(h, h + 8 * MIB);
	assert_int_equal(host_mapping_level(h + 5, h, 8 * MIB, 3), 2);
	assert_int_equal(host_mapping_level(h + 5, h, 8 * MIB, 1), 1);
	assert_int_equal(host_mapping_level(h, h + 4096, 8 * MIB - 4096, 3), 1);
	assert_int_equal(host_mapping_level(h + 7 * MIB, h, 8 * MIB - 4096, 3), 1);
	mprotect(p + 3 * MIB, 4096, PROT_READ);
	assert_int_equal(host_mapping_level(h + 2 * MIB, h, 8 * MIB, 3), 2); /* not told */
	host_mapping_update(&(struct host_mapping_change){ h + 3 * MIB, h + 3 * MIB + 4096, HOST_MAPPING_PROTECTED, PROT_READ });
	assert_int_equal(host_mapping_level(h + 2 * MIB, h, 8 * MIB, 3), 1);
	assert_int_equal(host_mapping_level(h + 4 * MIB, h, 8 * MIB, 3), 2);
	munmap(p, 8 * MIB);
}

static void mapping_that_the_picture_lacks_is_found_by_a_look(void **state)
{
	hva_t start, end;
	bool w;
	char *p;

	host_mapping_stale();
	host_mapping_look((uintptr_t)&w, (uintptr_t)&w + 1);
	p = map(MIB, PROT_READ);
	assert_false(host_mapping_find((uintptr_t)p, &start, &end, &w)); /* no file is read */
	host_mapping_look((uintptr_t)p, (uintptr_t)p + MIB);
	assert_true(host_mapping_find((uintptr_t)p, &start, &end, &w));
	assert_true(start <= (uintptr_t)p && end > (uintptr_t)p && !w);
	assert_false(host_mapping_find(0x1000, &start, &end, &w));
}

/* Addresses that nothing is mapped at, since the picture takes our word for it. */
#define MODEL_BASE 0x100000000ULL
#define MODEL_PAGES 64

enum model_page { NOTHING, READ_ONLY, WRITABLE };

static void assert_model(const enum model_page *page)
{
	for (hva_t i = 0; i < MODEL_PAGES; i++) {
		hva_t hva = MODEL_BASE + i * PAGE_SIZE, start, end, first = i, last = i;
		bool w;

		assert_int_equal(host_mapping_find(hva + 7, &start, &end, &w), page[i] != NOTHING);
		if (page[i] == NOTHING)
			continue;
		assert_int_equal(w, page[i] == WRITABLE);
		while (first && page[first - 1] == page[i])
			first--;
		while (last + 1 < MODEL_PAGES && page[last + 1] == page[i])
			last++;
		assert_int_equal(start, MODEL_BASE + first * PAGE_SIZE);
		assert_int_equal(end, MODEL_BASE + (last + 1) * PAGE_SIZE);
	}
}

static void picture_follows_a_model_of_pages(void **state)
{
	static const int prots[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE };
	enum model_page page[MODEL_PAGES] = { NOTHING };
	unsigned seed = 1;

	host_mapping_look((uintptr_t)&seed, (uintptr_t)&seed + 1);
	for (int n = 0; n < 3000; n++) {
		unsigned first = (unsigned)rand_r(&seed) % MODEL_PAGES;
		unsigned end = first + 1 + (unsigned)rand_r(&seed) % (MODEL_PAGES - first);
		unsigned what = (unsigned)rand_r(&seed) % 4, prot = (unsigned)rand_r(&seed) % 3;
		struct host_mapping_change c = { MODEL_BASE + first * PAGE_SIZE, MODEL_BASE + end * PAGE_SIZE,
						 (enum host_mapping_news)what, prots[prot] };

		host_mapping_update(&c);
		for (unsigned i = first; i < end && what != HOST_MAPPING_AS_BEFORE; i++)
			page[i] = what == HOST_MAPPING_GONE ? NOTHING : (enum model_page)prot;
		assert_model(page);
	}
	host_mapping_stale();
}

static void params_are_parsed_by_whole_names(void **state)
{
	setenv("USERKVM_PARAMS", "eptad=0,ept=1,vpid=n,pml=Y,tdp_mmu=0,tdp_mmu=1,unrestricted_guest,eager_page_split=2", 1);
	assert_true(params_get_bool("ept"));
	assert_false(params_get_bool("eptad"));
	assert_false(params_get_bool("vpid"));
	assert_true(params_get_bool("pml"));
	assert_true(params_get_bool("eager_page_split")); /* nonsense: the default */
	assert_true(params_get_bool("unrestricted_guest"));
	assert_true(params_get_bool("tdp_mmu")); /* the last counts */
	assert_false(params_get_bool("nx_huge_pages")); /* "off" */
	unsetenv("USERKVM_PARAMS");
	assert_true(params_get_bool("eptad"));
}

/* The value of `name` when USERKVM_PARAMS is `list`. */
static uint64_t number(const char *list, const char *name)
{
	uint64_t v;

	setenv("USERKVM_PARAMS", list, 1);
	v = params_get_u64(name);
	unsetenv("USERKVM_PARAMS");
	return v;
}

static void numbers_are_decimal_or_hexadecimal(void **state)
{
	static const char ratio[] = "nx_huge_pages_recovery_ratio";
	char word[6];

	assert_int_equal(number("nx_huge_pages_recovery_ratio=17", ratio), 17);
	assert_int_equal(number("recovery_ratio=17", ratio), 60);
	assert_int_equal(number("nx_huge_pages_recovery_ratio=0x1F", ratio), 31);
	assert_int_equal(number("nx_huge_pages_recovery_ratio=1g", ratio), 60);
	assert_int_equal(number("nx_huge_pages_recovery_ratio=0x", ratio), 60);
	assert_int_equal(number("nx_huge_pages_recovery_ratio=", ratio), 60);
	assert_int_equal(number("max_table_pages=18446744073709551616", "max_table_pages"), UINT64_MAX);
	assert_int_equal(number("max_table_pages=4294967296", "max_table_pages"), 0x100000000);
	setenv("USERKVM_PARAMS", "nx_huge_pages_recovery_ratio=4294967296,nx_huge_pages=long-word,nx_huge_pages=never,"
	       "nx_huge_pages=longer", 1);
	assert_int_equal(params_get_u32(ratio), 60);
	assert_true(params_get_string("nx_huge_pages", word, sizeof(word)));
	assert_string_equal(word, "never");
	assert_false(params_get_string("huge_pages", word, sizeof(word)));
	unsetenv("USERKVM_PARAMS");
}

/* What params_check() says of a list, on standard error. */
static const char *complaints(const char *params, char *buf, size_t size)
{
	int saved = dup(STDERR_FILENO), p[2];
	ssize_t n;

	assert_int_equal(pipe(p), 0);
	setenv("USERKVM_PARAMS", params, 1);
	dup2(p[1], STDERR_FILENO);
	close(p[1]);
	params_check();
	dup2(saved, STDERR_FILENO);
	close(saved);
	unsetenv("USERKVM_PARAMS");
	n = read(p[0], buf, size - 1);
	close(p[0]);
	buf[n > 0 ? n : 0] = 0;
	return buf;
}

static void unknown_params_are_told(void **state)
{
	char buf[1024];

	assert_string_equal(complaints("ept=0,eptad=y,tdp_mmu=N,pml=1,vpid=1,eager_page_split=0,nx_huge_pages=1,"
				       "unrestricted_guest=0,,", buf, sizeof(buf)), "");
	assert_string_equal(complaints("ept=1,epta=0,=1,warp", buf, sizeof(buf)),
			    "userkvm: USERKVM_PARAMS: unknown parameter 'epta', ignored\n"
			    "userkvm: USERKVM_PARAMS: unknown parameter '', ignored\n"
			    "userkvm: USERKVM_PARAMS: unknown parameter 'warp', ignored\n");
	assert_string_equal(complaints("ept=maybe,pml,nx_huge_pages_recovery_ratio=1k", buf, sizeof(buf)),
			    "userkvm: USERKVM_PARAMS: `maybe' invalid for parameter `ept', ignored\n"
			    "userkvm: USERKVM_PARAMS: `' invalid for parameter `pml', ignored\n"
			    "userkvm: USERKVM_PARAMS: `1k' invalid for parameter `nx_huge_pages_recovery_ratio', "
			    "ignored\n");
	assert_string_equal(complaints("max_table_pages=4294967296,nx_huge_pages_recovery_period_ms=4294967295,"
				       "nx_huge_pages_recovery_ratio=4294967296", buf, sizeof(buf)),
			    "userkvm: USERKVM_PARAMS: `4294967296' invalid for parameter "
			    "`nx_huge_pages_recovery_ratio', ignored\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_are_zero_and_counted),
		cmocka_unit_test(fault_in_tells_permissions),
		cmocka_unit_test(mapping_level_is_bounded_by_mapping_slot_and_permissions),
		cmocka_unit_test(mapping_that_the_picture_lacks_is_found_by_a_look),
		cmocka_unit_test(picture_follows_a_model_of_pages),
		cmocka_unit_test(params_are_parsed_by_whole_names),
		cmocka_unit_test(numbers_are_decimal_or_hexadecimal),
		cmocka_unit_test(unknown_params_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
