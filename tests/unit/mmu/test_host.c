/*
 * Frames, the snapshot of host mappings, knobs.
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

	host_mapping_changed();
	assert_int_equal(host_mapping_level(h + 5, h, 8 * MIB, 3), 2);
	assert_int_equal(host_mapping_level(h + 5, h, 8 * MIB, 1), 1);
	assert_int_equal(host_mapping_level(h, h + 4096, 8 * MIB - 4096, 3), 1);
	assert_int_equal(host_mapping_level(h + 7 * MIB, h, 8 * MIB - 4096, 3), 1);
	mprotect(p + 3 * MIB, 4096, PROT_READ);
	assert_int_equal(host_mapping_level(h + 2 * MIB, h, 8 * MIB, 3), 2); /* not told */
	host_mapping_changed();
	assert_int_equal(host_mapping_level(h + 2 * MIB, h, 8 * MIB, 3), 1);
	assert_int_equal(host_mapping_level(h + 4 * MIB, h, 8 * MIB, 3), 2);
}

static void mapping_made_after_the_snapshot_is_found(void **state)
{
	hva_t start, end;
	bool w;
	char *p = map(MIB, PROT_READ);

	assert_true(host_mapping_find((uintptr_t)p, &start, &end, &w));
	assert_true(start <= (uintptr_t)p && end > (uintptr_t)p && !w);
	assert_false(host_mapping_find(0x1000, &start, &end, &w));
}

static void params_are_parsed_by_whole_names(void **state)
{
	setenv("USERKVM_PARAMS", "eptad=0,ept=1,vpid=n,pml=Y,x=2,nested=0,nested=1", 1);
	assert_true(params_get_bool("ept", false));
	assert_false(params_get_bool("eptad", true));
	assert_false(params_get_bool("vpid", true));
	assert_true(params_get_bool("pml", false));
	assert_true(params_get_bool("x", true)); /* nonsense: the default */
	assert_true(params_get_bool("nested", false));
	assert_true(params_get_bool("tdp_mmu", true));
	setenv("USERKVM_PARAMS", "max=17,maxx=3,big=18446744073709551616,hex=0x10,none=", 1);
	assert_int_equal(params_get_u64("max", 1), 17);
	assert_int_equal(params_get_u64("ax", 1), 1);
	assert_int_equal(params_get_u64("big", 5), 5);
	assert_int_equal(params_get_u64("hex", 6), 6);
	assert_int_equal(params_get_u64("none", 7), 7);
	unsetenv("USERKVM_PARAMS");
	assert_false(params_get_bool("ept", false));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_are_zero_and_counted),
		cmocka_unit_test(fault_in_tells_permissions),
		cmocka_unit_test(mapping_level_is_bounded_by_mapping_slot_and_permissions),
		cmocka_unit_test(mapping_made_after_the_snapshot_is_found),
		cmocka_unit_test(params_are_parsed_by_whole_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
