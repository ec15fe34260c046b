/*
 * Memslots: creating 3, 512 and 32,764 of them, looking one up at random, and
 * deleting them all. One page each, a page apart.
 */
#include "guest_vm.h"
#include "lib/rcu.h"

#define LOOKUPS 1000000U
#define ROUNDS 100U

static volatile uint64_t sink;

/* Nanoseconds of one search_memslots() for a slot's address at random. */
static double look_up(struct kvm *kvm, uint32_t nr)
{
	uint64_t t0, seed = 1, found = 0;

	lib_rcu_read_lock();
	t0 = bench_cpu_ns();
	for (unsigned i = 0; i < LOOKUPS; i++) {
		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		found += search_memslots(__kvm_memslots(kvm, 0), (BENCH_GPA >> 12) + 2 * ((seed >> 33) % nr)) != NULL;
	}
	t0 = bench_cpu_ns() - t0;
	lib_rcu_read_unlock();
	sink = found;
	if (found != LOOKUPS) {
		fprintf(stderr, "bench-slots: %lu of %u found\n", found, LOOKUPS);
		exit(1);
	}
	return (double)t0 / LOOKUPS;
}

/* Slot 0 is the VM's own; nr with it. */
static void measure(uint32_t nr)
{
	/* few slots are over too soon for the clock */
	unsigned rounds = nr > 1000 ? 1 : ROUNDS;
	uint8_t *memory = bench_memory(nr * 4096UL, 0, false);
	uint64_t create = 0, drop = 0, t0;
	double look = 0, each = (double)rounds * (nr - 1);

	for (unsigned n = 0; n < rounds; n++) {
		struct bench_vm b;

		bench_vm_open(&b, 0);
		t0 = bench_cpu_ns();
		for (uint32_t i = 1; i < nr; i++)
			bench_slot(&b, i, 0, BENCH_GPA + (i - 1) * 8192UL, memory + (i - 1) * 4096UL, 4096);
		create += bench_cpu_ns() - t0;
		if (n == rounds - 1)
			look = look_up(b.kvm, nr - 1);
		t0 = bench_cpu_ns();
		for (uint32_t i = 1; i < nr; i++)
			bench_slot(&b, i, 0, 0, NULL, 0);
		drop += bench_cpu_ns() - t0;
		bench_vm_close(&b);
	}
	printf("memslots %5u: create %.1f us each, delete %.1f us each, look-up at random %.0f ns\n", nr,
	       (double)create / each / 1000, (double)drop / each / 1000, look);
	munmap(memory, nr * 4096UL);
}

int main(void)
{
	measure(3);
	measure(512);
	measure(32764);
	return 0;
}
