/*
 * The bench guest's loops, natively: same output format (see guest/main.c).
 */
#include <stdio.h>
#include <stdlib.h>
#include <x86intrin.h>

#include "guest/loops.h"

#define TIMED(name, rounds, insns, call)                                                        \
	do {                                                                                    \
		uint64_t n = (rounds);                                                          \
		uint64_t t0 = __rdtsc();                                                        \
		call;                                                                           \
		printf("%s %llu %d %llu\n", name, (unsigned long long)(rounds), (insns),        \
		       (unsigned long long)(__rdtsc() - t0));                                   \
	} while (0)

int main(void)
{
	uint64_t *memory = calloc((4 << 20) / 8 + 1024, 8);
	float *vector = aligned_alloc(64, 64);

	if (!memory || !vector)
		return 1;
	for (int i = 0; i < 16; i++)
		vector[i] = 0;
	loop_memory(2000000, memory, (4 << 20) - 8); /* fault it in */
	TIMED("integer", 400000000ULL, LOOP_INTEGER_INSNS, loop_integer(n));
	TIMED("memory", 20000000ULL, LOOP_MEMORY_INSNS, loop_memory(n, memory, (4 << 20) - 8));
	TIMED("simd", 200000000ULL, LOOP_SIMD_INSNS, loop_simd(n, vector));
	TIMED("fib", 2692537ULL, LOOP_FIB_INSNS, ((void)n, loop_fib(30))); /* calls that fib(30) makes */
	TIMED("crc", 40000000ULL, LOOP_CRC_INSNS, loop_crc(n, (const uint32_t *)memory, (const uint8_t *)memory));
	chase_prepare(memory);
	TIMED("chase", 40000000ULL, LOOP_CHASE_INSNS, loop_chase(n, memory));
#define STRING_TIMED(name, insn, count, first) TIMED(#name, 2000, (int)(count), loop_##name(n, memory));
	STRING_LOOPS(STRING_TIMED)
	TIMED("syscall", 3000000ULL, LOOP_SYSCALL_INSNS, loop_syscall(n));
	printf("end\n");
	return 0;
}
