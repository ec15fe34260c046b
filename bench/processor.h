/* A thread's own processor, for benches that measure two threads at once. */
#ifndef BENCH_PROCESSOR_H
#define BENCH_PROCESSOR_H

#include <pthread.h>
#include <sched.h>

/*
 * To the n-th of the processors that the first caller may use; any_processor(): to all of them. Two young threads
 * else stand on one as often as not, where the other is idle, and an answer takes the asker's time slice.
 */
static inline const cpu_set_t *all_processors(void)
{
	static cpu_set_t may;

	if (!CPU_COUNT(&may))
		pthread_getaffinity_np(pthread_self(), sizeof(may), &may);
	return &may;
}

static inline void own_processor(int n)
{
	const cpu_set_t *may = all_processors();
	cpu_set_t own;
	int cpu = -1;

	if (!CPU_COUNT(may))
		return;
	n %= CPU_COUNT(may);
	do
		cpu++;
	while (!CPU_ISSET(cpu, may) || n--);
	CPU_ZERO(&own);
	CPU_SET(cpu, &own);
	pthread_setaffinity_np(pthread_self(), sizeof(own), &own);
}

static inline void any_processor(void)
{
	pthread_setaffinity_np(pthread_self(), sizeof(cpu_set_t), all_processors());
}

#endif
