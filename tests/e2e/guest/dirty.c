/*
 * A guest that writes memory without pause and checks every page: what a
 * migration loses, tears or sends twice shows.
 *
 * Page n holds (n, generation, n ^ generation) at its start and its end; the
 * generation it must have is kept in a table apart. Prints "tick ROUND SUM",
 * the last line when it has done the rounds asked for.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGE 4096
#define WORDS (PAGE / 8)

static uint64_t rnd = 88172645463325252ull;

static uint64_t next(void)
{
	rnd ^= rnd << 13;
	rnd ^= rnd >> 7;
	return rnd ^= rnd << 17;
}

static void fill(uint64_t *p, uint64_t n, uint64_t gen)
{
	p[0] = p[WORDS - 3] = n;
	p[1] = p[WORDS - 2] = gen;
	p[2] = p[WORDS - 1] = n ^ gen * 0x9e3779b97f4a7c15ull;
}

int main(int argc, char **argv)
{
	uint64_t pages = strtoull(argv[1], NULL, 0) * 256, rounds = strtoull(argv[2], NULL, 0), sum;
	uint64_t *mem = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t *gen = calloc(pages, sizeof(*gen));

	for (uint64_t n = 0; n < pages; n++)
		fill(mem + n * WORDS, n, 0);
	for (uint64_t r = 1; r <= rounds; r++) {
		for (int i = 0; i < 2000; i++) {
			uint64_t n = next() % pages;

			fill(mem + n * WORDS, n, gen[n] = r);
		}
		sum = 0;
		for (uint64_t n = 0; n < pages; n++) {
			uint64_t *p = mem + n * WORDS, check = n ^ gen[n] * 0x9e3779b97f4a7c15ull;

			if (p[0] != n || p[1] != gen[n] || p[2] != check || p[WORDS - 3] != n ||
			    p[WORDS - 2] != gen[n] || p[WORDS - 1] != check) {
				printf("LOST page %llu round %llu\n", (unsigned long long)n, (unsigned long long)r);
				return 1;
			}
			sum = sum * 31 + p[2];
		}
		if (r % 8 == 0 || r == rounds) {
			printf("tick %llu %016llx\n", (unsigned long long)r, (unsigned long long)sum);
			fflush(stdout);
		}
	}
	puts("dirty: all rounds done");
	return 0;
}
