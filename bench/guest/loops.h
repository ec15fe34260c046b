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

/* Calls and returns: Fibonacci numbers the slow way; a round is one call, about 11 instructions. */
#define LOOP_FIB_INSNS 11
static inline uint64_t loop_fib(uint64_t n)
{
	uint64_t sum;

	__asm__ volatile("   jmp 3f\n"
			 "1: cmp $2, %%rdi\n"
			 "   jb 2f\n"
			 "   push %%rdi\n"
			 "   dec %%rdi\n"
			 "   call 1b\n"
			 "   mov (%%rsp), %%rdi\n"
			 "   mov %%rax, (%%rsp)\n"
			 "   sub $2, %%rdi\n"
			 "   call 1b\n"
			 "   pop %%rdx\n"
			 "   add %%rdx, %%rax\n"
			 "   ret\n"
			 "2: mov %%rdi, %%rax\n"
			 "   ret\n"
			 "3: call 1b\n"
			 : "=a"(sum), "+D"(n)
			 :
			 : "cc", "memory", "rdx");
	return sum;
}

/* A table-driven CRC: a round is a byte. The table is at `table`, 256 words of 4 bytes. */
#define LOOP_CRC_INSNS 7
static inline uint32_t loop_crc(uint64_t n, const uint32_t *table, const uint8_t *bytes)
{
	uint32_t crc = ~0u;
	uint64_t t;

	__asm__ volatile("1: movzbl (%[bytes]), %k[t]\n"
			 "   xor %b[crc], %b[t]\n"
			 "   shr $8, %[crc]\n"
			 "   xor (%[table],%[t],4), %[crc]\n"
			 "   xor $1, %[bytes]\n"
			 "   dec %[n]\n"
			 "   jnz 1b\n"
			 : [crc] "+q"(crc), [t] "=&q"(t), [n] "+r"(n), [bytes] "+r"(bytes)
			 : [table] "r"(table)
			 : "cc", "memory");
	return crc;
}

/* A chain of pointers through 64 KiB: each load waits for the one before. */
#define LOOP_CHASE_INSNS 3
#define CHASE_LINKS 1024
static inline void chase_prepare(uint64_t *mem)
{
	for (uint64_t k = 0; k < CHASE_LINKS; k++)
		mem[k * 8] = (uint64_t)(uintptr_t)&mem[(k * 389 + 1) % CHASE_LINKS * 8];
}

static inline uint64_t loop_chase(uint64_t n, const uint64_t *mem)
{
	uint64_t at = (uint64_t)(uintptr_t)mem;

	__asm__ volatile("1: mov (%[at]), %[at]\n"
			 "   dec %[n]\n"
			 "   jnz 1b\n"
			 : [at] "+r"(at), [n] "+r"(n)
			 :
			 : "cc", "memory");
	return at;
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
