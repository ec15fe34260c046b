/*
 * The host's time-stamp counter: reading it and knowing its frequency.
 *
 * CPUID leaf 15h (crystal ratio) or a hypervisor's leaf 40000010h say it
 * exactly, but may be wrong for a scaled TSC; a short measurement against
 * CLOCK_MONOTONIC decides whether to believe them. Without them a longer
 * measurement stands alone.
 */
#include <cpuid.h>
#include <pthread.h>
#include <string.h>

#include "host/timer.h"

#define CHECK_NS 2000000ULL
#define MEASURE_NS 10000000ULL

uint64_t host_tsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("lfence\n\trdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return ((uint64_t)hi << 32) | lo;
}

/* A TSC value and the time it was taken at, the tightest of a few tries. */
static void sample(uint64_t *tsc, uint64_t *ns)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < 5; i++) {
		uint64_t before = host_tsc(), t = host_now_ns(), after = host_tsc();

		if (after - before < best) {
			best = after - before;
			*tsc = before + best / 2;
			*ns = t;
		}
	}
}

static uint64_t measure_khz(uint64_t window_ns)
{
	uint64_t tsc0 = 0, ns0 = 0, tsc1 = 0, ns1 = 0;

	sample(&tsc0, &ns0);
	while (host_now_ns() - ns0 < window_ns)
		;
	sample(&tsc1, &ns1);
	return (uint64_t)((unsigned __int128)(tsc1 - tsc0) * 1000000 / (ns1 - ns0));
}

/* 0 where CPUID does not say. */
static uint64_t cpuid_khz(void)
{
	uint32_t eax, ebx, ecx, edx;

	if (__get_cpuid_count(0x15, 0, &eax, &ebx, &ecx, &edx) && eax && ebx && ecx)
		return (uint64_t)ecx * ebx / eax / 1000;
	if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & (1U << 31))) {
		__cpuid(0x40000000, eax, ebx, ecx, edx);
		if (eax >= 0x40000010 && eax < 0x40010000) {
			__cpuid(0x40000010, eax, ebx, ecx, edx);
			return eax;
		}
	}
	return 0;
}

static uint64_t tsc_khz;

static void calibrate(void)
{
	uint64_t said = cpuid_khz();

	if (said) {
		uint64_t seen = measure_khz(CHECK_NS);
		uint64_t off = seen > said ? seen - said : said - seen;

		if (off < said / 200) {
			tsc_khz = said;
			return;
		}
	}
	tsc_khz = measure_khz(MEASURE_NS);
}

uint64_t host_tsc_khz(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, calibrate);
	return tsc_khz;
}
