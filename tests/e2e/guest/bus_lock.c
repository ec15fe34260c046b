/* Locked accesses across two cache lines, as many as asked for, and how long they took. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static _Alignas(64) uint8_t lines[128];

int main(int argc, char **argv)
{
	unsigned long n = strtoul(argv[1], NULL, 0);
	struct timespec from, to;
	uint32_t count;

	clock_gettime(CLOCK_MONOTONIC, &from);
	for (unsigned long k = 0; k < n; k++)
		__asm__ volatile("lock incl %0" : "+m"(*(uint32_t *)(lines + 62)) : : "cc");
	clock_gettime(CLOCK_MONOTONIC, &to);
	memcpy(&count, lines + 62, sizeof(count));
	printf("bus_lock: %u in %ld ms\n", count,
	       (to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000);
	return 0;
}
