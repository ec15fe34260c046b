/*
 * Does this host make its processes pay for split locks? One that detects or
 * rations them takes up to 100 ms for each (SDM Vol. 3, "OS Bus-Lock Detection"),
 * and random cases have thousands.
 */
#ifndef TESTS_SPLIT_LOCK_H
#define TESTS_SPLIT_LOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define SPLIT_LOCK_DEAR_NS 10000

static inline bool split_locks_are_dear(void)
{
	static uint8_t lines[192] __attribute__((aligned(64)));
	static int dear = -1;
	struct timespec a, b;

	if (dear >= 0)
		return dear;
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (int n = 0; n < 4; n++)
		__asm__ volatile("lock; incl %0" : "+m"(*(uint32_t *)(lines + 62)));
	clock_gettime(CLOCK_MONOTONIC, &b);
	dear = (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec > 4LL * SPLIT_LOCK_DEAR_NS;
	return dear;
}

#endif
