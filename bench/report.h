/* What the bench programs that are KVM clients share: a clock, medians, errors. */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Nanoseconds of CLOCK_MONOTONIC. */
static inline uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Nanoseconds of this thread's own processor time: what others do on the machine is not in it. */
static inline uint64_t cpu_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static inline int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Prints "name median" of n values, which it sorts. */
static inline void report(const char *name, double *v, size_t n)
{
	qsort(v, n, sizeof(*v), compare_doubles);
	printf("%s %.0f\n", name, v[n / 2]);
	fflush(stdout);
}

/* r, or the end of the program when it is negative. */
static inline int must(int r, const char *what)
{
	if (r < 0)
		err(1, "%s", what);
	return r;
}

#endif
