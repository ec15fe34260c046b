/*
 * Nanoseconds per SIMD instruction through its decoded handler: the cost of
 * checks, TLB look-up and stub, without the interpreter's loop around it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "isa/fpu.h"
#include "isa/isa.h"

static struct cpu_state cs;
static struct isa_tlb_entry tlb[ISA_TLB_ENTRIES];
static struct isa_xsave_image image __attribute__((aligned(64)));
static uint8_t memory[2 * 4096] __attribute__((aligned(4096)));

static void *mem(struct cpu_state *c, uint64_t lin, unsigned size, enum isa_access how, void *bounce)
{
	fprintf(stderr, "simd_loop: TLB miss\n");
	exit(1);
}

static void mem_commit(struct cpu_state *c, uint64_t lin, unsigned size, const void *bounce)
{
}

static void raise(struct cpu_state *c) __attribute__((noreturn));
static void raise(struct cpu_state *c)
{
	fprintf(stderr, "simd_loop: exception %u\n", c->exception.vector);
	exit(1);
}

static const struct isa_ops ops = { .mem = mem, .mem_commit = mem_commit, .raise = raise };

static const struct {
	const char *text;
	uint8_t bytes[16];
} cases[] = {
	{ "addps xmm0, xmm1", { 0x0f, 0x58, 0xc1 } },
	{ "movups xmm0, [rbx]", { 0x0f, 0x10, 0x03 } },
	{ "movaps [rbx], xmm0", { 0x0f, 0x29, 0x03 } },
	{ "mulsd xmm0, [rbx]", { 0xf2, 0x0f, 0x59, 0x03 } },
	{ "cvtsi2sd xmm0, rax", { 0xf2, 0x48, 0x0f, 0x2a, 0xc0 } },
	{ "ucomisd xmm0, xmm1", { 0x66, 0x0f, 0x2e, 0xc1 } },
	{ "pmovmskb eax, xmm0", { 0x66, 0x0f, 0xd7, 0xc0 } },
	{ "vfmadd231pd ymm0, ymm1, [rbx]", { 0xc4, 0xe2, 0xf5, 0xb8, 0x03 } },
	{ "fadd dword [rbx]", { 0xd8, 0x03 } },
	{ "vpgatherdd ymm0, [rbx+ymm2*4], ymm1", { 0xc4, 0xe2, 0x75, 0x90, 0x04, 0x93 } },
};

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(void)
{
	uint64_t page = (uint64_t)(uintptr_t)memory;
	const unsigned rounds = 3000000;
	double start;

	cs.ops = &ops;
	cs.tlb = tlb;
	cs.xsave = &image;
	cs.code_mode = cs.stack_mode = ISA_CODE64;
	cs.cr0 = X86_CR0_PE | X86_CR0_NE | X86_CR0_MP;
	cs.cr4 = X86_CR4_OSFXSR | X86_CR4_OSXSAVE | X86_CR4_OSXMMEXCPT;
	cs.xcr0 = 7;
	cs.gpr[RBX] = page;
	for (unsigned n = 0; n < ISA_TLB_ENTRIES; n++)
		tlb[n] = (struct isa_tlb_entry){ TLB_NO_ACCESS, TLB_NO_ACCESS, TLB_NO_ACCESS, 0 };
	tlb[(page >> PAGE_SHIFT) % ISA_TLB_ENTRIES] = (struct isa_tlb_entry){ page, page, page, 0 };
	isa_fpu_init(&cs);
	for (unsigned k = 0; k < ARRAY_SIZE(cases); k++) {
		struct isa_insn i;

		isa_fpu_sync(&cs);
		if (isa_decode(cases[k].bytes, 15, ISA_CODE64, &ops, &i) != ISA_DECODE_OK)
			return 1;
		cs.cur = &i;
		start = seconds();
		for (unsigned n = 0; n < rounds; n++)
			i.fn(&cs, &i);
		isa_fpu_sync(&cs);
		printf("%-38s %6.2f ns\n", cases[k].text, (seconds() - start) / rounds * 1e9);
	}
	start = seconds();
	for (unsigned n = 0; n < rounds / 10; n++) {
		isa_fpu_load(&cs);
		isa_fpu_unload(&cs);
	}
	printf("%-38s %6.2f ns\n", "load + unload", (seconds() - start) / (rounds / 10) * 1e9);
	return 0;
}
