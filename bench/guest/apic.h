/*
 * The local APIC and other devices of the machine's own, by memory, by MSR and by CR8: what a guest
 * pays for an access. 64-bit code at CPL 0; the page tables of start.S, with two more entries.
 */
#ifndef BENCH_APIC_H
#define BENCH_APIC_H

#include <stdint.h>

#define APIC_PAGE 0xfee00000UL
#define IOAPIC_PAGE 0xfec00000UL
#define APIC_ID 0x20
#define APIC_TPR 0x80
#define APIC_EOI 0xb0
#define APIC_SVR 0xf0
#define APIC_ICR 0x300
#define APIC_LVT1 0x360
#define APIC_COUNT 0x390
#define SELF_VECTOR 0x41
#define SHORTHAND_SELF 0x40000
#define MSR_APIC_BASE 0x1b
#define MSR_X2APIC_TPR 0x808
#define MSR_X2APIC_EOI 0x80b
#define MSR_X2APIC_SELF 0x83f

static uint64_t device_pd[512] __attribute__((aligned(4096)));
static uint64_t idt[2 * 256] __attribute__((aligned(16)));

static inline volatile uint32_t *apic(uint32_t offset)
{
	return (volatile uint32_t *)(APIC_PAGE + offset);
}

static inline void wrmsr(uint32_t msr, uint64_t v)
{
	__asm__ volatile("wrmsr" ::"c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t lo, hi;

	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return (uint64_t)hi << 32 | lo;
}

static inline uint32_t cpuid_ecx(uint32_t leaf)
{
	uint32_t a = leaf, b, c = 0, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return c;
}

/* Count and end it, by memory or by MSR. */
void on_self_ipi(void);
void on_self_ipi_x2apic(void);
extern volatile uint64_t interrupts_taken;
__asm__(".data\n.balign 8\ninterrupts_taken: .quad 0\n.text\n"
	"on_self_ipi:\n push %rax\n incq interrupts_taken(%rip)\n mov $0xfee000b0, %eax\n movl $0, (%rax)\n"
	" pop %rax\n iretq\n"
	"on_self_ipi_x2apic:\n push %rax\n push %rcx\n push %rdx\n incq interrupts_taken(%rip)\n mov $0x80b, %ecx\n"
	" xor %eax, %eax\n xor %edx, %edx\n wrmsr\n pop %rdx\n pop %rcx\n pop %rax\n iretq\n");

static void set_gate(unsigned vector, void (*fn)(void), uint64_t dpl)
{
	uint64_t at = (uint64_t)fn;

	idt[2 * vector] = (at & 0xffff) | 8UL << 16 | (0x8e | dpl << 5) << 40 | (at & 0xffff0000) << 32;
	idt[2 * vector + 1] = at >> 32;
}

static void apic_begin(uint64_t *pdpt)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) pointer = { sizeof(idt) - 1, (uint64_t)idt };

	device_pd[APIC_PAGE >> 21 & 511] = APIC_PAGE | 0x83;
	device_pd[IOAPIC_PAGE >> 21 & 511] = IOAPIC_PAGE | 0x83;
	pdpt[3] = (uint64_t)device_pd | 3;
	set_gate(SELF_VECTOR, on_self_ipi, 0);
	__asm__ volatile("lidt %0" ::"m"(pointer));
	*apic(APIC_SVR) = 0x1ff;
}

static inline void self_ipis(uint64_t n)
{
	__asm__ volatile("sti");
	while (n--)
		*apic(APIC_ICR) = SHORTHAND_SELF | SELF_VECTOR;
	__asm__ volatile("nop; cli");
}

static inline void self_ipis_x2apic(uint64_t n)
{
	__asm__ volatile("sti");
	while (n--)
		wrmsr(MSR_X2APIC_SELF, SELF_VECTOR);
	__asm__ volatile("nop; cli");
}

#endif
