/*
 * Dirty logging of 4 GiB that are mapped with 2 MiB leaves: turning it on, the
 * guest's first pass of writes after that, then harvesting (KVM_GET_DIRTY_LOG,
 * which also protects again) with 1, 10 and 100 % of the pages dirty, beside a
 * plain scan of as many 8-byte entries. Times are the thread's own.
 *
 * bench/run runs it with eager_page_split=1 and 0, and with pml=0.
 */
#include "guest_vm.h"

#define PAGES (1UL << 20)
#define RUNS 5U

static double per_page(uint64_t ns, uint64_t pages)
{
	return (double)ns / (double)pages;
}

/* Reading each entry of as many in a row, once. */
static double scan(void)
{
	volatile uint64_t *p = (void *)bench_memory(PAGES * 8, 0, false);
	double ns[RUNS];

	memset((void *)p, 1, PAGES * 8);
	for (unsigned n = 0; n < RUNS; n++) {
		uint64_t t0 = bench_cpu_ns();

		for (uint64_t i = 0; i < PAGES; i++)
			(void)p[i];
		ns[n] = per_page(bench_cpu_ns() - t0, PAGES);
	}
	munmap((void *)p, PAGES * 8);
	return bench_quantile(ns, RUNS, 2);
}

static void harvest(struct bench_vm *b, uint64_t percent, double plain)
{
	static uint64_t bits[PAGES / 64];
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = bits};
	uint64_t dirty = PAGES * percent / 100, found = 0, t0;
	double ns[RUNS], median;

	for (unsigned n = 0; n < RUNS; n++) {
		bench_write(b, 0, BENCH_GPA, dirty, 4096 * (100 / percent));
		t0 = bench_cpu_ns();
		bench_ioctl(b->vm_fd, KVM_GET_DIRTY_LOG, &log, "KVM_GET_DIRTY_LOG");
		ns[n] = per_page(bench_cpu_ns() - t0, PAGES);
	}
	for (uint64_t i = 0; i < PAGES / 64; i++)
		found += (uint64_t)__builtin_popcountll(bits[i]);
	if (found != dirty) {
		fprintf(stderr, "bench-dirty: %lu pages are dirty, not %lu\n", found, dirty);
		exit(1);
	}
	median = bench_quantile(ns, RUNS, 2);
	printf("dirty-log harvest with %3lu %% dirty: %.2f ns a page, %.0f ns a dirty page; %.1f times a plain scan\n",
	       percent, median, median * 100 / (double)percent, median / plain);
}

int main(void)
{
	uint8_t *memory = bench_memory(PAGES * 4096, 2UL << 20, true);
	double plain = scan(), again;
	uint64_t t0, on;
	struct bench_vm b;

	bench_vm_open(&b, 1);
	bench_slot(&b, 1, 0, BENCH_GPA, memory, PAGES * 4096);
	for (int i = 0; i < 2; i++) /* everything is there and mapped */
		again = per_page(bench_write_ns(&b, BENCH_GPA, PAGES, 4096), PAGES);
	t0 = bench_cpu_ns();
	bench_slot(&b, 1, KVM_MEM_LOG_DIRTY_PAGES, BENCH_GPA, memory, PAGES * 4096);
	on = bench_cpu_ns() - t0;
	printf("dirty-log on: %.1f ms, %.1f ns a page; a plain scan of its entries %.2f ns a page\n", (double)on / 1e6,
	       per_page(on, PAGES), plain);
	printf("dirty-log first pass of writes: %.0f ns a page, without a log %.0f\n",
	       per_page(bench_write_ns(&b, BENCH_GPA, PAGES, 4096), PAGES), again);
	harvest(&b, 100, plain);
	harvest(&b, 10, plain);
	harvest(&b, 1, plain);
	t0 = bench_cpu_ns();
	bench_slot(&b, 1, 0, BENCH_GPA, memory, PAGES * 4096);
	printf("dirty-log off: %.1f ms\n", (double)(bench_cpu_ns() - t0) / 1e6);
	bench_vm_close(&b);
	return 0;
}
