/*
 * The most page tables a VM may have: KVM_SET_NR_MMU_PAGES for shadow pages
 * (ept=0), and USERKVM_PARAMS max_table_pages for all tables. Guests that touch
 * far more than they can map go on, their data is right, and the limit was not
 * exceeded at any moment that was seen.
 *
 * A page in each 2 MiB is touched, so each leaf needs a table of its own and
 * pages_4k tells how many there are. The variants in meson.build set the limit;
 * without one the same guests run.
 */
#include <sched.h>
#include <stdio.h>

#include "smp.h"
#include "stats.h"

#define BASE 0x10000000U
#define STEP (2U << 20)
#define PAGES 1536U /* 3 GiB */
#define ROUNDS 4
#define SHADOW_LIMIT 64

/* edi: where; ebp: rounds. Each round adds the address to the page's first word. */
GUEST(touch, "code32",
      "1: mov %esi, %edi; mov $1536, %ecx;"
      "2: add %edi, (%edi); add $0x200000, %edi; loop 2b;"
      "dec %ebp; jnz 1b; hlt");

/* UINT64_MAX: none. */
static uint64_t limit(void)
{
	const char *params = getenv("USERKVM_PARAMS"), *at;

	if (params && strstr(params, "ept=0"))
		return SHADOW_LIMIT;
	at = params ? strstr(params, "max_table_pages=") : NULL;
	return at ? strtoull(strchr(at, '=') + 1, NULL, 10) : UINT64_MAX;
}

/* 4 KiB off a 2 MiB boundary: no huge leaf can map it. */
static uint8_t *sparse_memory(void)
{
	size_t size = (size_t)PAGES * STEP;
	uint8_t *p = mmap(NULL, size + 2 * STEP, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_true(p != MAP_FAILED);
	madvise(p, size + 2 * STEP, MADV_NOHUGEPAGE);
	return (uint8_t *)(((uintptr_t)p + STEP - 1) & ~(uintptr_t)(STEP - 1)) + 4096;
}

static void a_guest_that_touches_more_than_the_limit_maps_goes_on(void **state)
{
	uint64_t most = 0, seen;
	uint8_t *mem = sparse_memory();
	struct stats stats;
	struct smp s;

	smp_open(&s, 2, 2 << 20, false);
	assert_int_equal(ioctl(s.c.vm, KVM_SET_NR_MMU_PAGES, SHADOW_LIMIT), 0);
	client_slot(&s.c, 1, 0, BASE, mem, (uint64_t)PAGES * STEP);
	assert_int_equal(ioctl(s.c.vm, KVM_GET_NR_MMU_PAGES, 0), SHADOW_LIMIT);
	open_stats(&stats, s.c.vm);
	for (int i = 0; i < 2; i++) {
		guest_flat(&s, i, 0x1000, touch);
		smp_reg(&s, i, rsi, BASE + (uint32_t)i * 8);
		smp_reg(&s, i, rbp, ROUNDS);
	}
	smp_start(&s, 0, 2);
	/* until the first is in its last round; on a busy machine they may be over before the first look */
	do {
		sched_yield();
		seen = value(&stats, "pages_4k");
		most = seen > most ? seen : most;
	} while (*(volatile uint32_t *)mem < (ROUNDS - 1) * BASE);
	smp_join(&s, 0, 2);
	assert_true(most > 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(s.cpu[i].reason, KVM_EXIT_HLT);
	for (uint32_t i = 0; i < PAGES; i++)
		for (uint32_t at = i * STEP, cpu = 0; cpu < 2; cpu++, at += 8)
			assert_int_equal(*(uint32_t *)(mem + at), ROUNDS * (BASE + at));
	if (most > limit())
		fail_msg("%lu leaves, %lu tables", most, limit());
	if (limit() != UINT64_MAX)
		assert_true(value(&stats, "mmu_recycled") > PAGES);
	else
		assert_int_equal(value(&stats, "mmu_recycled"), 0);
	close_stats(&stats);
	smp_close(&s);
	munmap(mem, (size_t)PAGES * STEP);
}

static void the_default_is_2_percent_of_the_memslots_pages(void **state)
{
	struct client c;
	uint8_t *mem = sparse_memory();

	if (limit() < UINT64_MAX && limit() != SHADOW_LIMIT)
		return; /* max_table_pages bounds it */
	client_open_vm(&c, 1 << 20);
	assert_int_equal(ioctl(c.vm, KVM_GET_NR_MMU_PAGES, 0), 64);
	client_slot(&c, 1, 0, BASE, mem, 400 << 20);
	assert_int_equal(ioctl(c.vm, KVM_GET_NR_MMU_PAGES, 0), (256 + 102400) / 50);
	client_slot(&c, 1, 0, BASE, mem, 0);
	assert_int_equal(ioctl(c.vm, KVM_GET_NR_MMU_PAGES, 0), 64);
	assert_fails(ioctl(c.vm, KVM_SET_NR_MMU_PAGES, 63), EINVAL);
	assert_int_equal(ioctl(c.vm, KVM_GET_NR_MMU_PAGES, 0), 64);
	assert_int_equal(ioctl(c.vm, KVM_SET_NR_MMU_PAGES, 99), 0);
	client_slot(&c, 1, 0, BASE, mem, 400 << 20);
	assert_int_equal(ioctl(c.vm, KVM_GET_NR_MMU_PAGES, 0), 99); /* what was asked stays */
	client_close(&c);
	munmap(mem, (size_t)PAGES * STEP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_guest_that_touches_more_than_the_limit_maps_goes_on),
		cmocka_unit_test(the_default_is_2_percent_of_the_memslots_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
