/*
 * Edges of the library's control flow that a round took, where the library is built with
 * -fsanitize-coverage=trace-pc-guard (clang) or trace-pc (gcc); none otherwise.
 *
 * The callbacks run while the guest's SIMD state is loaded: general registers only, no libc.
 */
#include "edges.h"

#define BITS (1u << 16)

static uint8_t taken[BITS / 8], ever[BITS / 8];

void __sanitizer_cov_trace_pc_guard(uint32_t *guard);
void __sanitizer_cov_trace_pc_guard_init(uint32_t *start, uint32_t *stop);
void __sanitizer_cov_trace_pc(void);

static void took(uint32_t edge)
{
	taken[edge % BITS / 8] |= (uint8_t)(1u << (edge % 8));
}

void __sanitizer_cov_trace_pc_guard_init(uint32_t *start, uint32_t *stop)
{
	static uint32_t n;

	if (start != stop && !*start)
		while (start < stop)
			*start++ = ++n;
}

void __sanitizer_cov_trace_pc_guard(uint32_t *guard)
{
	took(*guard);
}

void __sanitizer_cov_trace_pc(void)
{
	uint64_t pc = (uint64_t)(uintptr_t)__builtin_return_address(0);

	took((uint32_t)(pc * 0x9e3779b97f4a7c15ULL >> 40));
}

unsigned edges_new(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < BITS / 8; i++) {
		n += (unsigned)__builtin_popcount(taken[i] & ~ever[i]);
		ever[i] |= taken[i];
		taken[i] = 0;
	}
	return n;
}
