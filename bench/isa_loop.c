/*
 * Speed of the instruction handlers alone: M guest instructions a second over
 * decoded loops, with the loop an engine would have (and a hit in the block
 * cache assumed). Not part of any check: build/bench/isa_loop.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "isa/decoder.h"
#include "isa/isa.h"

__attribute__((weak)) isa_fn *isa_simd_handler(const struct isa_decoded *d, struct isa_insn *i)
{
	return NULL;
}

static struct isa_tlb_entry tlb[ISA_TLB_ENTRIES];
static uint8_t memory[16384] __attribute__((aligned(4096)));

static void *mem(struct cpu_state *cs, uint64_t lin, unsigned size, enum isa_access how,
		 void *bounce)
{
	struct isa_tlb_entry *e = &tlb[(lin >> PAGE_SHIFT) & (ISA_TLB_ENTRIES - 1)];

	*e = (struct isa_tlb_entry){ lin & PAGE_MASK, lin & PAGE_MASK, TLB_NO_ACCESS, 0 };
	return (void *)(uintptr_t)lin;
}

static void commit(struct cpu_state *cs, uint64_t lin, unsigned size, const void *bounce)
{
}

static __attribute__((noreturn)) void raise_it(struct cpu_state *cs)
{
	fprintf(stderr, "exception %u\n", cs->exception.vector);
	exit(1);
}

static const struct isa_ops ops = { .mem = mem, .mem_commit = commit, .raise = raise_it };

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* Runs the block at 0x1000 until it leaves for another address. */
static void bench(const char *name, const uint8_t *bytes, size_t n, uint64_t iterations)
{
	static struct cpu_state cs;
	struct isa_insn block[64];
	unsigned nr = 0;
	size_t at = 0;
	uint64_t rounds = 0;
	double t;

	memset(&cs, 0, sizeof(cs));
	cs.ops = &ops;
	cs.tlb = tlb;
	cs.code_mode = cs.stack_mode = ISA_CODE64;
	cs.gpr[RSP] = (uintptr_t)memory + 8192 + 2048;
	cs.gpr[RSI] = (uintptr_t)memory;
	cs.gpr[RCX] = iterations;
	while (at < n) {
		if (isa_decode(bytes + at, n - at, ISA_CODE64, &ops, &block[nr]) != ISA_DECODE_OK)
			raise_it(&cs);
		block[nr].off = (uint16_t)at;
		at += block[nr++].len;
	}
	t = now();
	do {
		const struct isa_insn *i = block;

		cs.block_rip = 0x1000;
		for (;;) {
			cs.cur = i;
			i->fn(&cs, i);
			if (i->flags & ISA_ENDS_BLOCK)
				break;
			i++;
		}
		rounds++;
	} while (cs.rip == 0x1000);
	t = now() - t;
	printf("%-28s %7.1f M insn/s\n", name, (double)rounds * nr / t * 1e-6);
}

#define BENCH(name, ...)                                                   \
	do {                                                               \
		static const uint8_t b[] = { __VA_ARGS__ };                \
		bench(name, b, sizeof(b), 10000000);                       \
	} while (0)

int main(void)
{
	/* add rax,rbx; xor rdx,rax; lea rbx,[rax+rdx*2+5]; shl..; dec rcx; jnz */
	BENCH("register arithmetic", 0x48, 0x01, 0xd8, 0x48, 0x31, 0xc2, 0x48, 0x8d, 0x5c, 0x50, 0x05,
	      0x48, 0x83, 0xe8, 0x03, 0x48, 0xff, 0xc9, 0x75, 0xec);
	/* mov rax,[rsi]; add rax,[rsi+8]; mov [rsi+16],rax; cmp [rsi+24],eax; dec rcx; jnz */
	BENCH("loads and stores", 0x48, 0x8b, 0x06, 0x48, 0x03, 0x46, 0x08, 0x48, 0x89, 0x46, 0x10,
	      0x39, 0x46, 0x18, 0x48, 0xff, 0xc9, 0x75, 0xed);
	/* push rax; push rbx; pop rbx; pop rax; dec ecx; jnz */
	BENCH("push and pop", 0x50, 0x53, 0x5b, 0x58, 0xff, 0xc9, 0x75, 0xf8);
	/* shl rax,3; imul rbx,rax,7; movzx edx,bl; test dl,dl; setne al; dec rcx; jnz */
	BENCH("shift, multiply, byte", 0x48, 0xc1, 0xe0, 0x03, 0x48, 0x6b, 0xd8, 0x07, 0x0f, 0xb6, 0xd3,
	      0x84, 0xd2, 0x0f, 0x95, 0xc0, 0x48, 0xff, 0xc9, 0x75, 0xeb);
	/* lock xadd [rsi],rax; dec rcx; jnz */
	BENCH("lock xadd", 0xf0, 0x48, 0x0f, 0xc1, 0x06, 0x48, 0xff, 0xc9, 0x75, 0xf6);
	return 0;
}
