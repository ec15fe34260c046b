/*
 * What an EPT violation costs: a guest writes once to each page of memory that
 * the host already holds, and of memory nobody touched, next to the host's own
 * first touch of as many pages. All three take turns, chunk by chunk, so that
 * they meet the same machine; times are the thread's own. Then the same held
 * memory by two vCPUs at once, next to what the machine gives two threads of a
 * plain loop, and two vCPUs of two VMs; and what tables and metadata weigh.
 *
 * A loop that does nothing but touch has the host kernel's page fault in caches
 * and branch predictors all the time. A fault among other work, as each one of a
 * guest is, pays for what that work has driven out. So there is a second
 * comparison, in which both sides have the same work between their faults: one
 * KVM_RUN for each page.
 *
 * For 4 KiB pages the slot's host address is 4 KiB off a 2 MiB boundary, so
 * that KVM's rules allow small leaves only.
 */
#include <malloc.h>
#include <pthread.h>
#include <sys/resource.h>

#include "guest_vm.h"
#include "processor.h"

#define CHUNKS 16U

struct kind {
	const char *name;
	uint64_t page, chunk; /* bytes */
	bool huge;
	unsigned leaves; /* level they stand at */
};
static const struct kind kinds[] = {
	{"4k", 4096, 8UL << 20, false, 1},
	{"2m", 2UL << 20, 16UL << 20, true, 2},
};

/* What the rooms have taken of the host, tables included. */
static uint64_t taken(void)
{
	struct mallinfo2 m = mallinfo2();

	return host_frames_in_use() * 4096 + m.uordblks + m.hblkhd;
}

static uint64_t touch_ns(uint8_t *p, const struct kind *k)
{
	uint64_t t0 = bench_cpu_ns();

	for (uint64_t at = 0; at < k->chunk; at += k->page)
		*(volatile uint8_t *)(p + at) = 1;
	return bench_cpu_ns() - t0;
}

/* Held and untouched chunks alternate in one slot. */
static void violations(const struct kind *k)
{
	size_t size = 2 * CHUNKS * k->chunk;
	uint8_t *memory = bench_memory(size, k->page == 4096 ? 4096 : 2UL << 20, k->huge);
	double host[CHUNKS], held[CHUNKS], fresh[CHUNKS], h, u, f;
	uint64_t n = k->chunk / k->page, before, other;
	struct kvm_mmu_usage none, used;
	struct bench_vm b;

	bench_vm_open(&b, 1);
	bench_slot(&b, 1, 0, BENCH_GPA, memory, size);
	bench_write(&b, 0, 0x8000, 1, 0);
	before = taken();
	kvm_mmu_usage(b.kvm, &none);
	for (uint64_t i = 0; i < CHUNKS; i++) {
		uint64_t a = 2 * i * k->chunk, c = a + k->chunk;
		double again;

		host[i] = (double)touch_ns(memory + a, k);
		held[i] = (double)bench_write_ns(&b, BENCH_GPA + a, n, k->page);
		fresh[i] = (double)bench_write_ns(&b, BENCH_GPA + c, n, k->page);
		again = (double)bench_write_ns(&b, BENCH_GPA + c, n, k->page);
		held[i] = (held[i] - again) / (double)n;
		fresh[i] = (fresh[i] - again) / (double)n;
		host[i] /= (double)n;
	}
	h = bench_quantile(host, CHUNKS, 2), u = bench_quantile(held, CHUNKS, 2), f = bench_quantile(fresh, CHUNKS, 2);
	printf("ept-%s host first touch %.0f ns; violation on held memory %.0f ns, ratio %.2f (goal 0.3); on untouched "
	       "memory %.0f ns, ratio %.2f (goal 1.3)\n",
	       k->name, h, u, u / h, f, f / h);
	kvm_mmu_usage(b.kvm, &used);
	other = taken() - before - (used.table_pages - none.table_pages) * 4096;
	printf("ept-%s %llu leaves, %llu bytes of tables (8 a leaf are %llu); besides them %llu bytes, %.4f %% of the mapped "
	       "memory (goal 0.01)\n",
	       k->name, (unsigned long long)used.leaves[k->leaves], (unsigned long long)used.table_pages * 4096,
	       (unsigned long long)used.leaves[k->leaves] * 8, (unsigned long long)other,
	       100.0 * (double)other / (double)(used.leaves[k->leaves] * k->page));
	bench_vm_close(&b);
	munmap(memory, size);
}

/* --- touches and violations among the same work --- */

/* Nanoseconds a page of n KVM_RUNs that each write to one page from gpa on; before each the host touches one, if any. */
static double runs_ns(struct bench_vm *b, uint64_t gpa, uint8_t *touched, uint64_t n)
{
	uint64_t t0 = bench_cpu_ns();

	for (uint64_t at = 0; at < n * 4096; at += 4096) {
		if (touched)
			*(volatile uint8_t *)(touched + at) = 1;
		bench_write(b, 0, gpa + at, 1, 0);
	}
	return (double)(bench_cpu_ns() - t0) / (double)n;
}

static void among_runs(void)
{
	uint64_t n = 2048, chunk = n * 4096, size = 3 * CHUNKS * chunk;
	uint8_t *memory = bench_memory(size, 4096, false), *aside = bench_memory(CHUNKS * chunk, 4096, false);
	double host[CHUNKS], held[CHUNKS], fresh[CHUNKS], h, u, f;
	struct bench_vm b;

	bench_vm_open(&b, 1);
	bench_slot(&b, 1, 0, BENCH_GPA, memory, size);
	bench_write(&b, 0, 0x8000, 1, 0);
	for (uint64_t i = 0; i < CHUNKS; i++) {
		uint64_t at = 3 * i * chunk, gpa = BENCH_GPA + at;
		double none, on_held, with_touch, on_fresh;

		memset(memory + at, 1, 2 * chunk);
		on_held = runs_ns(&b, gpa, NULL, n);
		with_touch = runs_ns(&b, gpa + chunk, aside + i * chunk, n);
		on_fresh = runs_ns(&b, gpa + 2 * chunk, NULL, n);
		none = runs_ns(&b, gpa + 2 * chunk, NULL, n);
		host[i] = with_touch - on_held;
		held[i] = on_held - none;
		fresh[i] = on_fresh - none;
	}
	h = bench_quantile(host, CHUNKS, 2), u = bench_quantile(held, CHUNKS, 2), f = bench_quantile(fresh, CHUNKS, 2);
	printf("ept-4k with a KVM_RUN for each page: host first touch %.0f ns; violation on held memory %.0f ns, ratio %.2f "
	       "(goal 0.3); on untouched memory %.0f ns, ratio %.2f (goal 1.3)\n",
	       h, u, u / h, f, f / h);
	bench_vm_close(&b);
	munmap(memory, size);
	munmap(aside, CHUNKS * chunk);
}

/* --- two at once --- */

/*
 * The same held memory again and again, its entries dropped in between; one
 * vCPU and two in turns. The best quarter of the rounds begins where others on
 * the machine did not disturb.
 */
#define ROUNDS 200

struct half {
	struct bench_vm *b; /* NULL: a plain loop */
	pthread_barrier_t *start;
	int cpu;
	uint64_t gpa, pages, began, ended, cpu_ns, waits;
};

static uint64_t waits(void)
{
	struct rusage u;

	getrusage(RUSAGE_THREAD, &u);
	return (uint64_t)u.ru_nvcsw;
}

/*
 * About as long as a violation, for each page; no memory, so all that two of
 * them share is the machine. Instructions that do not wait for one another: two
 * processors that are threads of one core slow each other down.
 */
static void plain_loop(uint64_t pages)
{
	for (uint64_t n = pages * 800; n; n--)
		__asm__ volatile("imul $3, %%rax, %%rcx; add %%rsi, %%rdi; add %%rdx, %%r8; lea (%%r9,%%r10), %%r11\n"
				 "xor %%r12, %%r13; add %%r14, %%r15" : : : "rcx", "rdi", "r8", "r11", "r13", "r15");
}

static void *run_half(void *arg)
{
	struct half *h = arg;

	own_processor(h->cpu);
	pthread_barrier_wait(h->start);
	h->waits = waits();
	h->cpu_ns = bench_cpu_ns();
	h->began = bench_wall_ns();
	if (h->b)
		bench_write(h->b, h->cpu, h->gpa, h->pages, 4096);
	else
		plain_loop(h->pages);
	h->ended = bench_wall_ns();
	h->cpu_ns = bench_cpu_ns() - h->cpu_ns;
	h->waits = waits() - h->waits;
	return NULL;
}

/* What pages cost that `cpus` vCPUs (or threads without) write at once. */
struct together {
	double wall[ROUNDS], cpu[ROUNDS]; /* ns a page, from the first one's start to the last one's end; of the threads */
	uint64_t waits;
};

static void together(struct together *r, int round, struct bench_vm *b, struct bench_vm *second, int cpus, uint64_t gpa,
		     uint64_t pages)
{
	struct half h[BENCH_MAX_CPUS];
	pthread_t t[BENCH_MAX_CPUS];
	pthread_barrier_t start;
	uint64_t first = UINT64_MAX, last = 0, cpu_ns = 0;

	pthread_barrier_init(&start, NULL, (unsigned)cpus);
	for (int i = 0; i < cpus; i++) {
		h[i] = (struct half){.b = i ? second : b, .start = &start, .cpu = i,
				     .gpa = gpa + (uint64_t)i * pages * 4096, .pages = pages};
		pthread_create(&t[i], NULL, run_half, &h[i]);
	}
	for (int i = 0; i < cpus; i++) {
		pthread_join(t[i], NULL);
		first = min_u64(first, h[i].began);
		last = max_u64(last, h[i].ended);
		cpu_ns += h[i].cpu_ns;
		r->waits += h[i].waits;
	}
	pthread_barrier_destroy(&start);
	pages *= (uint64_t)cpus;
	r->wall[round] = (double)(last - first) / (double)pages;
	r->cpu[round] = (double)cpu_ns / (double)pages;
}

static void two_vcpus(void)
{
	uint64_t pages = 4096, size = 2 * pages * 4096;
	static struct together one, two, apart, plain_one, plain_two;
	double a, c, d, machine;
	uint8_t *memory = bench_memory(size, 4096, false);
	struct bench_vm b, other;

	memset(memory, 1, size);
	bench_vm_open(&b, 2);
	bench_slot(&b, 1, 0, BENCH_GPA, memory, size);
	bench_vm_open(&other, 2);
	bench_slot(&other, 1, 0, BENCH_GPA, memory, size);
	for (int i = 0; i < ROUNDS; i++) {
		kvm_mmu_invalidate_hva_range((uintptr_t)memory, (uintptr_t)memory + size);
		together(&one, i, &b, NULL, 1, BENCH_GPA, pages);
		kvm_mmu_invalidate_hva_range((uintptr_t)memory, (uintptr_t)memory + size);
		together(&two, i, &b, &b, 2, BENCH_GPA, pages);
		kvm_mmu_invalidate_hva_range((uintptr_t)memory, (uintptr_t)memory + size);
		together(&apart, i, &b, &other, 2, BENCH_GPA, pages);
		together(&plain_one, i, NULL, NULL, 1, 0, pages);
		together(&plain_two, i, NULL, NULL, 2, 0, pages);
	}
	machine = bench_quantile(plain_one.wall, ROUNDS, 4) / bench_quantile(plain_two.wall, ROUNDS, 4);
	a = bench_quantile(one.wall, ROUNDS, 4), c = bench_quantile(two.wall, ROUNDS, 4);
	printf("ept-2vcpus %.0f ns a page by one vCPU, %.0f ns by two: %.2f times as many a second (goal 1.8); two threads of a "
	       "plain loop do %.2f times as much as one here, ratio to that %.2f (goal 0.9)\n",
	       a, c, a / c, machine, a / c / machine);
	d = bench_quantile(apart.wall, ROUNDS, 4);
	printf("ept-2vcpus two vCPUs of two VMs, which share nothing but the machine, do %.2f times as much as one: ratio to that "
	       "%.2f (goal 0.95)\n",
	       a / d, d / c);
	a = bench_quantile(one.cpu, ROUNDS, 2), c = bench_quantile(two.cpu, ROUNDS, 2), d = bench_quantile(apart.cpu, ROUNDS, 2);
	printf("ept-2vcpus of the threads' own time %.0f and %.0f ns, %.2f waits a round: %.2f times as many where both have a "
	       "processor, by two VMs %.2f\n", a, c, (double)two.waits / ROUNDS, 2 * a / c, 2 * a / d);
	bench_vm_close(&other);
	bench_vm_close(&b);
	munmap(memory, size);
}

int main(void)
{
	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		violations(&kinds[i]);
	among_runs();
	two_vcpus();
	return 0;
}
