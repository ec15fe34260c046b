/*
 * A 64-bit guest that keeps every part of a vCPU's state alive, and what the
 * client needs to place it: page tables, GDT, IDT, TSS.
 *
 * It never ends differently: interrupts, whenever they come, only count; all
 * else (memory, general, x87, SSE and debug registers, MSRs, I/O, exceptions,
 * CPL 3) flows into one hash in r15.
 *
 *	1000 PML4, 2000 PDPT, 3000 and 4000 PDs (first GiB; APIC)
 *	5000 GDT, 5800 TSS, 6000 IDT	10000 code	30000 results
 *	20000 and 22000 kernel stacks, 28000 user stack
 *	100000 buffer A, 120000 buffer B	20000000 MMIO of the client
 */
#ifndef TESTS_STATE_GUEST_H
#define TESTS_STATE_GUEST_H

#include "client.h"

enum {
	GUEST_MEM = 4 << 20,
	GUEST_PML4 = 0x1000,
	GUEST_GDT = 0x5000,
	GUEST_TSS = 0x5800,
	GUEST_IDT = 0x6000,
	GUEST_CODE = 0x10000,
	GUEST_RESULT = 0x30000,
	GUEST_A = 0x100000,
	GUEST_MMIO = 0x20000000,
	PORT_OUT = 0x100,
	PORT_IN = 0x104,
	PORT_STRING = 0x108,
	PORT_END = 0xf4,
};

/* What the guest leaves at GUEST_RESULT; the counters depend on time, the rest must not. */
struct guest_result {
	uint64_t hash;
	uint64_t sse[2];
	uint8_t x87[16];
	uint64_t exceptions;
	/* counters of events that came when they came */
	uint64_t timer, pit, nmi;
};

/* clang-format off */
__asm__(".pushsection .rodata\n.code64\n.balign 16\n"
	".globl sg_start, sg_end, sg_de, sg_bp, sg_ud, sg_pf, sg_nmi, sg_timer, sg_pit, sg_bad, sg_rep\n"
	"sg_start:\n"
	/* local APIC: on, LVT0 ExtINT, periodic timer of vector 40h */
	"	mov $0xfee00000, %ebx\n"
	"	movl $0x1ff, 0xf0(%rbx)\n"
	"	movl $0x700, 0x350(%rbx)\n"
	"	movl $0xb, 0x3e0(%rbx)\n"
	"	movl $0x20040, 0x320(%rbx)\n"
	"	movl $1500000, 0x380(%rbx)\n"
	/* 8259: base 20h, all masked but IRQ 0; 8254: channel 0, mode 2, about 1 kHz */
	"	mov $0x11, %al\n	out %al, $0x20\n"
	"	mov $0x20, %al\n	out %al, $0x21\n"
	"	mov $0x04, %al\n	out %al, $0x21\n"
	"	mov $0x01, %al\n	out %al, $0x21\n"
	"	mov $0xfe, %al\n	out %al, $0x21\n"
	"	mov $0x34, %al\n	out %al, $0x43\n"
	"	mov $0xa9, %al\n	out %al, $0x40\n"
	"	mov $0x04, %al\n	out %al, $0x40\n"
	/* SYSCALL: STAR, LSTAR, SFMASK */
	"	mov $0xc0000081, %ecx\n	xor %eax, %eax\n	mov $0x00180008, %edx\n	wrmsr\n"
	"	mov $0xc0000082, %ecx\n	lea sg_syscall(%rip), %rax\n	xor %edx, %edx\n	wrmsr\n"
	"	mov $0xc0000084, %ecx\n	mov $0x200, %eax\n	xor %edx, %edx\n	wrmsr\n"
	"	fninit\n	fldz\n"
	"	pxor %xmm5, %xmm5\n	pxor %xmm6, %xmm6\n"
	"	mov $0x9e3779b97f4a7c15, %r15\n"
	"	sti\n"
	"sg_loop:\n"
	/* strings, forwards and backwards, of odd lengths */
	"	mov $0x100000, %esi\n	mov $0x120000, %edi\n	mov $40001, %ecx\n"
	"sg_rep:\n"
	"	rep movsb\n"
	"	mov $0x100fff, %esi\n	mov $0x122fff, %edi\n	mov $3001, %ecx\n"
	"	std\n	rep movsb\n	cld\n"
	"	mov $0x120000, %esi\n	mov $4000, %ecx\n"
	"1:	lodsq\n	xor %rax, %r15\n	rol $7, %r15\n	imul $0x2545f491, %r15, %r15\n"
	"	add %rcx, %r15\n	dec %rcx\n	jnz 1b\n"
	"	mov %r15d, %eax\n	and $0x7ff8, %eax\n	mov %r15, 0x100000(%rax)\n"
	/* SSE and x87 accumulate in registers */
	"	movq %r15, %xmm7\n	paddq %xmm7, %xmm5\n	punpcklqdq %xmm7, %xmm7\n	pxor %xmm7, %xmm6\n"
	"	fld1\n	fadd %st(0), %st(0)\n	faddp\n	fldpi\n	fmul %st(1), %st(0)\n	faddp\n"
	"	fld1\n	fld1\n	fxch %st(2)\n	fstp %st(1)\n	fxch\n	fsub %st(0), %st(0)\n	faddp\n"
	/* exceptions */
	"	int3\n"
	"	ud2\n"
	"	xor %ecx, %ecx\n	div %ecx\n"
	"	mov $0x3fe00123, %eax\n	mov (%rax), %rbx\n"
	/* shadows */
	"	cli\n	sti\n	nop\n	mov %ss, %eax\n	mov %eax, %ss\n	nop\n"
	/* debug registers, MSRs, SWAPGS */
	"	mov %r15d, %eax\n	mov %rax, %dr1\n	mov %dr1, %rcx\n	sub %rcx, %rax\n	add %rax, %r15\n"
	"	mov $0xc0000102, %ecx\n	mov %r15d, %eax\n	xor %edx, %edx\n	wrmsr\n"
	"	swapgs\n	mov $0xc0000101, %ecx\n	rdmsr\n	add %rax, %r15\n	swapgs\n"
	/* the client: port out and in, MMIO write and read, string out */
	"	mov $0x100, %edx\n	mov %r15d, %eax\n	out %eax, %dx\n"
	"	mov $0x104, %edx\n	in %dx, %eax\n	add %rax, %r15\n"
	"	mov $0x20000000, %ebx\n	mov %r15, (%rbx)\n	add 8(%rbx), %r15\n"
	"	mov $0x108, %edx\n	mov $0x120000, %esi\n	mov $64, %ecx\n	rep outsb\n"
	"	mov $0x121000, %edi\n	mov $65, %ecx\n	rep insb\n	add -8(%rdi), %r15\n"
	/* CPL 3 and back */
	"	mov %rsp, %r13\n	lea sg_user(%rip), %rcx\n	mov $0x202, %r11d\n	mov $0x28000, %esp\n	sysretq\n"
	"sg_user:\n"
	"	push %r15\n	mov %cs, %eax\n	add %rax, %r15\n	rolq $13, (%rsp)\n	pop %rax\n	xor %rax, %r15\n"
	"	mov $200, %ecx\n"
	"1:	ror $3, %r15\n	lea 5(%r15,%r15,2), %r15\n	loop 1b\n"
	"	syscall\n"
	"sg_syscall:\n"
	"	mov %r13, %rsp\n	sti\n"
	/* sleep now and then; a timer wakes */
	"	test $7, %r14b\n	jnz 1f\n	hlt\n"
	"1:	dec %r14\n	jnz sg_loop\n"
	"	cli\n"
	"	mov %r15, 0x30000\n	movq %xmm5, 0x30008\n	movq %xmm6, 0x30010\n	fstpt 0x30018\n"
	"	out %al, $0xf4\n"
	"	hlt\n"
	"sg_de:	addq $2, (%rsp)\n	incq 0x30028\n	iretq\n"
	"sg_ud:	addq $2, (%rsp)\n	incq 0x30028\n	iretq\n"
	"sg_bp:	incq 0x30028\n	iretq\n"
	"sg_pf:	push %rax\n	mov %cr2, %rax\n	add %rax, %r15\n	pop %rax\n	add (%rsp), %r15\n"
	"	add $8, %rsp\n	addq $3, (%rsp)\n	incq 0x30028\n	iretq\n"
	"sg_timer:\n"
	"	incq 0x30030\n	push %rax\n	mov $0xfee000b0, %eax\n	movl $0, (%rax)\n	pop %rax\n	iretq\n"
	"sg_pit:\n"
	"	incq 0x30038\n	push %rax\n	mov $0x20, %al\n	out %al, $0x20\n	pop %rax\n	iretq\n"
	"sg_nmi:\n"
	"	incq 0x30040\n	iretq\n"
	"sg_bad:\n"
	"	mov $0xbad, %eax\n	out %eax, $0xf4\n"
	"sg_end:\n"
	".popsection\n");
/* clang-format on */

extern const uint8_t sg_start[], sg_end[], sg_de[], sg_bp[], sg_ud[], sg_pf[], sg_nmi[], sg_timer[], sg_pit[], sg_bad[],
	sg_rep[];

static inline void guest_gate(struct client *c, unsigned vector, const uint8_t *handler)
{
	uint64_t at = GUEST_CODE + (uint64_t)(handler - sg_start);
	uint64_t *d = (uint64_t *)(c->mem + GUEST_IDT + vector * 16);

	d[0] = (at & 0xffff) | 0x08 << 16 | 0x8eULL << 40 | (at >> 16) << 48;
	d[1] = at >> 32;
}

/* Everything in memory that the guest starts from. */
static inline void guest_memory(struct client *c)
{
	uint64_t *pml4 = (uint64_t *)(c->mem + GUEST_PML4), *pdpt = pml4 + 512, *pd = pml4 + 1024, *apic = pml4 + 1536;
	uint64_t *gdt = (uint64_t *)(c->mem + GUEST_GDT);
	uint32_t x = 1;

	memset(c->mem, 0, c->mem_size);
	pml4[0] = 0x2007;
	pdpt[0] = 0x3007;
	pdpt[3] = 0x4007;
	for (uint64_t i = 0; i < 512; i++) {
		pd[i] = i << 21 | 0x87;
		apic[i] = 3ULL << 30 | i << 21 | 0x87;
	}
	pd[511] = 0; /* 3fe00000: not present */
	gdt[1] = 0x00af9b000000ffff; /* 08 code, CPL 0 */
	gdt[2] = 0x00cf93000000ffff; /* 10 data */
	gdt[4] = 0x00cff3000000ffff; /* 20 data, CPL 3 */
	gdt[5] = 0x00affb000000ffff; /* 28 code, CPL 3 */
	gdt[6] = 0x0000890000000067 | (uint64_t)GUEST_TSS << 16; /* 30 TSS */
	memcpy(c->mem + GUEST_TSS + 4, &(uint64_t){0x22000}, 8);
	for (unsigned v = 0; v < 256; v++)
		guest_gate(c, v, sg_bad);
	guest_gate(c, 0, sg_de);
	guest_gate(c, 2, sg_nmi);
	guest_gate(c, 3, sg_bp);
	guest_gate(c, 6, sg_ud);
	guest_gate(c, 14, sg_pf);
	guest_gate(c, 0x20, sg_pit);
	guest_gate(c, 0x40, sg_timer);
	memcpy(c->mem + GUEST_CODE, sg_start, (size_t)(sg_end - sg_start));
	for (uint32_t i = 0; i < 0x10000; i++, x = x * 1664525 + 1013904223)
		c->mem[GUEST_A + i] = (uint8_t)(x >> 24);
}

/* Long mode at `rip`. */
static inline void guest_registers(struct client *c, uint64_t rip, uint64_t rounds)
{
	struct kvm_regs r = {.rip = rip, .rflags = 2, .rsp = 0x20000, .r14 = rounds};
	struct kvm_sregs s;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	s.cr0 = 0x80010033;
	s.cr3 = GUEST_PML4;
	s.cr4 = 0x620; /* PAE, OSFXSR, OSXMMEXCPT */
	s.efer = 0xd01;
	s.cs = (struct kvm_segment){.limit = ~0u, .selector = 8, .type = 11, .present = 1, .l = 1, .s = 1, .g = 1};
	s.ds = s.es = s.ss = s.fs = s.gs =
		(struct kvm_segment){.limit = ~0u, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
	s.tr = (struct kvm_segment){.base = GUEST_TSS, .limit = 0x67, .selector = 0x30, .type = 11, .present = 1};
	s.gdt.base = GUEST_GDT;
	s.gdt.limit = 0x3f;
	s.idt.base = GUEST_IDT;
	s.idt.limit = 0xfff;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
}

#endif
