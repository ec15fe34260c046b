/*
 * What a kernel's entry paths are made of: traps from ring 3, loads of CR3, INVLPG, code that is
 * written and called, calls by pointer, a stack frame across two pages. Each is a loop of one event a round.
 *
 * Locks: none; one processor. 64-bit code; start.S maps the first GiB, user-accessible.
 */
#ifndef BENCH_EVENTS_H
#define BENCH_EVENTS_H

#include "apic.h"

#define VECTOR_PF 14
#define VECTOR_INT80 0x80
#define TSS_SELECTOR 0x28
#define UNMAPPED_PAGE 0x60000000UL /* above the first GiB */

extern uint64_t tss_descriptor[2];
static struct {
	uint32_t zero;
	uint64_t rsp0, rest[11];
	uint16_t zero_too, io_map;
} __attribute__((packed)) tss;
static uint8_t trap_stack[4096] __attribute__((aligned(16)));
static uint8_t written_code[4096] __attribute__((aligned(4096)));
static uint8_t two_pages[3 * 4096] __attribute__((aligned(4096)));

/* The #PF handler skips the load that faulted, `mov (%rsi), %al`. */
void on_int80(void);
void on_page_fault(void);
__asm__(".text\n"
	"on_int80:\n iretq\n"
	"on_page_fault:\n add $8, %rsp\n addq $2, (%rsp)\n iretq\n");

/* Ring 0: traps from ring 3 have a stack and handlers. */
static void events_begin(void)
{
	uint64_t base = (uint64_t)&tss, limit = sizeof(tss) - 1;

	tss.rsp0 = (uint64_t)(trap_stack + sizeof(trap_stack));
	tss.io_map = sizeof(tss);
	tss_descriptor[0] = limit | (base & 0xffffff) << 16 | 0x89UL << 40 | (base >> 24 & 0xff) << 56;
	tss_descriptor[1] = base >> 32;
	__asm__ volatile("ltr %w0" ::"r"(TSS_SELECTOR));
	set_gate(VECTOR_INT80, on_int80, 3);
	set_gate(VECTOR_PF, on_page_fault, 0);
}

/* --- ring 3 --- */

static void loop_int80(uint64_t n)
{
	while (n--)
		__asm__ volatile("int $0x80" ::: "memory");
}

static void loop_page_fault(uint64_t n)
{
	while (n--)
		__asm__ volatile("mov (%0), %%al" ::"S"(UNMAPPED_PAGE) : "rax", "memory");
}

/* --- ring 0 --- */

static void loop_cr3(uint64_t n, void *root)
{
	while (n--)
		__asm__ volatile("mov %0, %%cr3" ::"r"(root) : "memory");
}

/* Eight pages are found again after each. */
static void loop_cr3_refill(uint64_t n, void *root, volatile uint64_t *mem)
{
	while (n--) {
		__asm__ volatile("mov %0, %%cr3" ::"r"(root) : "memory");
		for (unsigned k = 0; k < 8; k++)
			(void)mem[k * 512];
	}
}

static void loop_invlpg(uint64_t n, volatile uint64_t *mem)
{
	while (n--) {
		__asm__ volatile("invlpg %0" ::"m"(*mem));
		(void)*mem;
	}
}

/* The immediate of a function is written before each call. */
static uint64_t loop_modify(uint64_t n)
{
	volatile uint8_t *code = written_code;
	uint64_t sum = 0;

	code[0] = 0xb8; /* mov eax, imm; ret */
	code[1] = code[2] = code[3] = code[4] = 0;
	code[5] = 0xc3;
	while (n--) {
		code[1] = (uint8_t)n;
		sum += ((uint32_t (*)(void))(uintptr_t)code)();
	}
	return sum;
}

void call_target_0(void);
void call_target_1(void);
__asm__(".text\ncall_target_0:\n inc %eax\n ret\ncall_target_1:\n dec %eax\n ret\n");

static void loop_call_pointer(uint64_t n)
{
	void (*fn[2])(void) = { call_target_0, call_target_1 };

	while (n--)
		__asm__ volatile("call *%0" ::"r"(fn[n & 1]) : "rax", "cc", "memory");
}

/* A function's frame lies across two pages. */
static void loop_frame(uint64_t n)
{
	__asm__ volatile("mov %%rsp, %%rbx\n mov %[top], %%rsp\n"
			 "1: push %%rax\n push %%rcx\n sub $32, %%rsp\n mov %%rdx, (%%rsp)\n mov %%rdx, 24(%%rsp)\n"
			 "   add $32, %%rsp\n pop %%rcx\n pop %%rax\n dec %[n]\n jnz 1b\n"
			 "   mov %%rbx, %%rsp\n"
			 : [n] "+r"(n)
			 : [top] "r"(two_pages + 4096 + 24)
			 : "rax", "rbx", "rcx", "rdx", "cc", "memory");
}

#endif
