/*
 * From the PVH entry point, where `userkvm boot` starts a kernel, to C in 64-bit mode:
 * what every example here needs and none is about.
 *
 * The first GiB is mapped one to one with 2 MiB pages. There is a GDT with a TSS (VM
 * entry wants a TR), no IDT: an exception is a triple fault, and the boot ends. put()
 * writes to the serial port; port 64h resets, which ends `userkvm boot --no-reboot`.
 */
#ifndef EXAMPLES_L1_MACHINE_H
#define EXAMPLES_L1_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#define PAGE __attribute__((aligned(4096)))

#define CODE_SELECTOR 0x08
#define DATA_SELECTOR 0x10
#define TSS_SELECTOR 0x18

uint64_t pml4[512] PAGE, pdpt[512] PAGE, pd[512] PAGE;
uint8_t boot_stack[16384] PAGE;
uint8_t tss[104];
/* null, 64-bit code, data, and two entries for the TSS that start() fills in */
uint64_t gdt[5] = {0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0, 0};
struct __attribute__((packed)) {
	uint16_t limit;
	uint64_t base;
} gdtr = {sizeof(gdt) - 1, 0};

__asm__(".section .note.pvh, \"a\", @note\n"
	"	.long 4, 4, 18\n"	/* XEN_ELFNOTE_PHYS32_ENTRY */
	"	.asciz \"Xen\"\n"
	"	.long pvh_start\n"
	".text\n"
	".code32\n"
	"pvh_start:\n"
	"	movl $pdpt + 3, pml4\n"
	"	movl $pd + 3, pdpt\n"
	"	movl $pd, %edi\n"
	"	movl $0x83, %eax\n"	/* present, writable, 2 MiB */
	"1:	movl %eax, (%edi)\n"
	"	addl $8, %edi\n"
	"	addl $0x200000, %eax\n"
	"	cmpl $pd + 4096, %edi\n"
	"	jne 1b\n"
	"	movl $0x6b0, %eax\n"	/* PSE, PAE, PGE, OSFXSR, OSXMMEXCPT: as a 64-bit kernel has them */
	"	movl %eax, %cr4\n"
	"	movl $pml4, %eax\n"
	"	movl %eax, %cr3\n"
	"	movl $0xc0000080, %ecx\n" /* IA32_EFER: LME */
	"	rdmsr\n"
	"	orl $0x100, %eax\n"
	"	wrmsr\n"
	"	movl $0x80000031, %eax\n" /* PG, NE, ET, PE */
	"	movl %eax, %cr0\n"
	"	movl $gdt, gdtr + 2\n"
	"	lgdt gdtr\n"
	"	ljmp $8, $2f\n"
	".code64\n"
	"2:	movw $16, %ax\n"
	"	movw %ax, %ds\n"
	"	movw %ax, %es\n"
	"	movw %ax, %ss\n"
	"	leaq boot_stack + 16384(%rip), %rsp\n"
	"	call start\n"
	"3:	hlt\n"
	"	jmp 3b\n");

static inline void outb(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t lo, hi;

	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return (uint64_t)hi << 32 | lo;
}

static inline void wrmsr(uint32_t msr, uint64_t v)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)));
}

static void put(const char *s)
{
	while (*s)
		outb(0x3f8, (uint8_t)*s++);
}

static void put_hex(const char *name, uint64_t v)
{
	put(name);
	put(" 0x");
	for (int shift = 60; shift >= 0; shift -= 4)
		if (v >> shift || !shift)
			outb(0x3f8, (uint8_t)"0123456789abcdef"[v >> shift & 15]);
	put("\n");
}

static void __attribute__((noreturn)) end(void)
{
	outb(0x64, 0xfe);
	for (;;)
		__asm__ volatile("hlt");
}

static void load_tss(void)
{
	uint64_t base = (uint64_t)tss;

	gdt[3] = 0x0000890000000067 | (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56;
	gdt[4] = base >> 32;
	__asm__ volatile("ltr %0" : : "r"((uint16_t)TSS_SELECTOR));
}

#endif
