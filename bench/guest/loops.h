/*
 * The loops that are timed, the same machine code everywhere: natively in
 * bench/native.c, in the bare guest of bench/guest under userkvm and TCG.
 * Each returns after `n` rounds; LOOP_*_INSNS is the instructions of a round.
 */
#ifndef BENCH_LOOPS_H
#define BENCH_LOOPS_H

#include <stdint.h>

#define LOOP_INTEGER_INSNS 8
static inline uint64_t loop_integer(uint64_t n)
{
	uint64_t a = 1, b = 0x9e3779b97f4a7c15, c = 0, d;

	__asm__ volatile("1: add %[b], %[a]\n"
			 "   xor %[a], %[c]\n"
			 "   lea (%[c], %[a], 2), %[d]\n"
			 "   shr $3, %[d]\n"
			 "   sub %[d], %[b]\n"
			 "   and $-9, %[b]\n"
			 "   dec %[n]\n"
			 "   jnz 1b\n"
			 : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "=&r"(d), [n] "+r"(n)::"cc");
	return c;
}

/* Walks `words` 8-byte words with a stride that visits every cache line and page. */
#define LOOP_MEMORY_INSNS 7
static inline uint64_t loop_memory(uint64_t n, uint64_t *mem, uint64_t mask_bytes)
{
	uint64_t at = 0, sum = 0, v;

	__asm__ volatile("1: mov (%[mem], %[at]), %[v]\n"
			 "   add %[v], %[sum]\n"
			 "   mov %[sum], 8(%[mem], %[at])\n"
			 "   add $4160, %[at]\n"
			 "   and %[mask], %[at]\n"
			 "   dec %[n]\n"
			 "   jnz 1b\n"
			 : [at] "+r"(at), [sum] "+r"(sum), [v] "=&r"(v), [n] "+r"(n)
			 : [mem] "r"(mem), [mask] "r"(mask_bytes)
			 : "cc", "memory");
	return sum;
}

/*
 * Long runs of the string instructions: a round is 64 KiB from `mem` to `mem` +
 * STRING_GAP. In this order the comparisons find what the ones before have made
 * equal, and go through to the end.
 */
#define STRING_BYTES 65536UL
#define STRING_GAP (1UL << 20)
#define STRING_LOOPS(F)                                                        \
	F(stosq, "rep stosq", STRING_BYTES / 8, 0) F(scasb, "repe scasb", STRING_BYTES, 0) \
	F(lodsq, "rep lodsq", STRING_BYTES / 8, 0) F(movsb, "rep movsb", STRING_BYTES, 0)  \
	F(movsb_down, "std; rep movsb; cld", STRING_BYTES, STRING_BYTES - 1)    \
	F(cmpsb, "repe cmpsb", STRING_BYTES, 0)
#define STRING_LOOP(name, insn, count, first)                                  \
	static inline void loop_##name(uint64_t n, void *mem)                  \
	{                                                                      \
		while (n--) {                                                  \
			char *src = (char *)mem + (first), *dst = src + STRING_GAP; \
			uint64_t c = (count), a = 0;                           \
			__asm__ volatile(insn                                  \
					 : "+S"(src), "+D"(dst), "+c"(c), "+a"(a)::"cc", "memory"); \
		}                                                              \
	}
STRING_LOOPS(STRING_LOOP)

#define LOOP_SIMD_INSNS 8
static inline void loop_simd(uint64_t n, float *mem)
{
	__asm__ volatile("1: movups (%[mem]), %%xmm0\n"
			 "   mulps %%xmm1, %%xmm0\n"
			 "   addps %%xmm2, %%xmm0\n"
			 "   paddd %%xmm3, %%xmm4\n"
			 "   pxor %%xmm4, %%xmm5\n"
			 "   movups %%xmm0, 16(%[mem])\n"
			 "   dec %[n]\n"
			 "   jnz 1b\n"
			 : [n] "+r"(n)
			 : [mem] "r"(mem)
			 : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5");
}

/* One system call and its return a round (the kernel side differs, of course). */
#define LOOP_SYSCALL_INSNS 4
static inline void loop_syscall(uint64_t n)
{
	__asm__ volatile("1: mov $-1, %%eax\n"
			 "   syscall\n"
			 "   dec %[n]\n"
			 "   jnz 1b\n"
			 : [n] "+r"(n)::"cc", "memory", "rax", "rcx", "r11");
}

#endif
