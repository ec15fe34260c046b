/*
 * VMX from the side of a hypervisor: the instructions, a VMCS that enters, and the way
 * out and in again. SDM Vol. 3, chapters "Virtual Machine Control Structures", "VM
 * Entries", "VM Exits".
 */
#ifndef EXAMPLES_L1_VMX_H
#define EXAMPLES_L1_VMX_H

#include "machine.h"

/* Field encodings (SDM appendix "Field Encoding in VMCS"), those that are used. */
enum {
	EPT_POINTER = 0x201a, GUEST_PHYSICAL_ADDRESS = 0x2400, LINK_POINTER = 0x2800,
	PIN_CONTROLS = 0x4000, PRIMARY_CONTROLS = 0x4002, EXIT_CONTROLS = 0x400c, ENTRY_CONTROLS = 0x4012,
	SECONDARY_CONTROLS = 0x401e, INSTRUCTION_ERROR = 0x4400, EXIT_REASON = 0x4402, INSTRUCTION_LENGTH = 0x440c,
	GUEST_LIMITS = 0x4800, GUEST_RIGHTS = 0x4814, EXIT_QUALIFICATION = 0x6400,
	GUEST_CR0 = 0x6800, GUEST_CR3 = 0x6802, GUEST_CR4 = 0x6804, GUEST_BASES = 0x6806, GUEST_DR7 = 0x681a,
	GUEST_RSP = 0x681c, GUEST_RIP = 0x681e, GUEST_RFLAGS = 0x6820, GUEST_SELECTORS = 0x0800,
	HOST_SELECTORS = 0x0c00, HOST_CR0 = 0x6c00, HOST_CR3 = 0x6c02, HOST_CR4 = 0x6c04, HOST_TR_BASE = 0x6c0a,
	HOST_GDTR_BASE = 0x6c0c, HOST_IDTR_BASE = 0x6c0e, HOST_RSP = 0x6c14, HOST_RIP = 0x6c16,
};
/* In each group of guest fields: ES CS SS DS FS GS LDTR TR GDTR IDTR, two apart. */
enum { ES, CS, SS, DS, FS, GS, LDTR, TR, GDTR, IDTR };

enum { EXIT_CPUID = 10, EXIT_HLT = 12, EXIT_VMCALL = 18, EXIT_EPT_VIOLATION = 48 };

uint32_t vmxon_region[1024] PAGE, vmcs[1024] PAGE;
uint8_t guest_stack[4096] PAGE;

static inline bool vmx_ok(uint64_t flags)
{
	return !(flags & 0x41); /* VMsucceed: CF and ZF are clear */
}

static bool vmxon(const void *region)
{
	uint64_t flags, pa = (uint64_t)region;

	__asm__ volatile("vmxon %1; pushfq; popq %0" : "=r"(flags) : "m"(pa) : "cc", "memory");
	return vmx_ok(flags);
}

static bool vmclear_and_load(const void *region)
{
	uint64_t a, b, pa = (uint64_t)region;

	__asm__ volatile("vmclear %2; pushfq; popq %0; vmptrld %2; pushfq; popq %1"
			 : "=&r"(a), "=&r"(b) : "m"(pa) : "cc", "memory");
	return vmx_ok(a) && vmx_ok(b);
}

static uint64_t vmread(uint64_t field)
{
	uint64_t v;

	__asm__ volatile("vmread %1, %0" : "=r"(v) : "r"(field) : "cc");
	return v;
}

static void vmwrite(uint64_t field, uint64_t v)
{
	__asm__ volatile("vmwrite %1, %0" : : "r"(field), "r"(v) : "cc");
}

/* The guest's registers that the VMCS does not hold, in the order in which they are pushed. */
struct guest_regs {
	uint64_t rax, rcx, rdx, rbx, rbp, rsi, rdi;
} regs;
uint64_t launched;

/* Into the guest, until it exits. False: VM entry failed before the guest began. */
bool run_guest(void);
__asm__("run_guest:\n"
	"	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
	"	mov $0x6c14, %edx; vmwrite %rsp, %rdx\n"	   /* HOST_RSP */
	"	lea 2f(%rip), %rax; mov $0x6c16, %edx; vmwrite %rax, %rdx\n" /* HOST_RIP */
	"	cmpq $0, launched(%rip)\n"
	"	mov regs(%rip), %rax; mov regs + 8(%rip), %rcx; mov regs + 16(%rip), %rdx\n"
	"	mov regs + 24(%rip), %rbx; mov regs + 32(%rip), %rbp; mov regs + 40(%rip), %rsi; mov regs + 48(%rip), %rdi\n"
	"	jne 1f\n"
	"	vmlaunch\n"
	"	jmp 3f\n"
	"1:	vmresume\n"
	"3:	xor %eax, %eax\n" /* we are still here: it failed */
	"	jmp 4f\n"
	"2:	mov %rax, regs(%rip); mov %rcx, regs + 8(%rip); mov %rdx, regs + 16(%rip)\n"
	"	mov %rbx, regs + 24(%rip); mov %rbp, regs + 32(%rip); mov %rsi, regs + 40(%rip); mov %rdi, regs + 48(%rip)\n"
	"	movq $1, launched(%rip)\n"
	"	mov $1, %eax\n"
	"4:	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"	ret\n");

/* A control word: what must be 1 is, what may not be is not (SDM "Algorithms for Determining VMX Capabilities"). */
static uint64_t control(uint32_t capability_msr, uint64_t wanted)
{
	uint64_t cap = rdmsr(capability_msr);

	return (wanted | (uint32_t)cap) & cap >> 32;
}

static void segment(int nr, uint16_t selector, uint64_t base, uint32_t limit, uint32_t rights)
{
	vmwrite(GUEST_SELECTORS + 2 * nr, selector);
	vmwrite(GUEST_BASES + 2 * nr, base);
	vmwrite(GUEST_LIMITS + 2 * nr, limit);
	vmwrite(GUEST_RIGHTS + 2 * nr, rights);
}

/* Into VMX operation. IA32_FEATURE_CONTROL is firmware's to set; here there was none. */
static bool enter_vmx(void)
{
	uint64_t cr4;

	if (!(rdmsr(0x3a) & 1))
		wrmsr(0x3a, 5); /* locked, VMX outside SMX */
	__asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
	__asm__ volatile("mov %0, %%cr4" : : "r"(cr4 | 1u << 13)); /* VMXE */
	vmxon_region[0] = vmcs[0] = (uint32_t)rdmsr(0x480);
	return vmxon(vmxon_region) && vmclear_and_load(vmcs);
}

/* A guest that runs `entry` in 64-bit mode, with our own address space and our own descriptor tables. */
static void fill_vmcs(void (*entry)(void), uint64_t primary, uint64_t secondary)
{
	uint64_t cr0, cr3, cr4;

	__asm__ volatile("mov %%cr0, %0; mov %%cr3, %1; mov %%cr4, %2" : "=r"(cr0), "=r"(cr3), "=r"(cr4));
	vmwrite(PIN_CONTROLS, control(0x48d, 0));
	vmwrite(PRIMARY_CONTROLS, control(0x48e, primary | 1u << 31));
	vmwrite(SECONDARY_CONTROLS, control(0x48b, secondary));
	vmwrite(EXIT_CONTROLS, control(0x48f, 1u << 9));  /* a 64-bit host */
	vmwrite(ENTRY_CONTROLS, control(0x490, 1u << 9)); /* a 64-bit guest */
	vmwrite(LINK_POINTER, ~0ULL);

	vmwrite(GUEST_CR0, cr0);
	vmwrite(GUEST_CR3, cr3);
	vmwrite(GUEST_CR4, cr4);
	vmwrite(GUEST_DR7, 0x400);
	vmwrite(GUEST_RSP, (uint64_t)guest_stack + sizeof(guest_stack) - 8);
	vmwrite(GUEST_RIP, (uint64_t)entry);
	vmwrite(GUEST_RFLAGS, 2);
	segment(CS, CODE_SELECTOR, 0, 0xffffffff, 0xa09b);
	segment(SS, DATA_SELECTOR, 0, 0xffffffff, 0xc093);
	segment(DS, DATA_SELECTOR, 0, 0xffffffff, 0xc093);
	segment(ES, DATA_SELECTOR, 0, 0xffffffff, 0xc093);
	segment(FS, 0, 0, 0, 0x10000); /* unusable */
	segment(GS, 0, 0, 0, 0x10000);
	segment(LDTR, 0, 0, 0, 0x10000);
	segment(TR, TSS_SELECTOR, (uint64_t)tss, 0x67, 0x8b);
	vmwrite(GUEST_BASES + 2 * GDTR, (uint64_t)gdt);
	vmwrite(GUEST_LIMITS + 2 * GDTR, sizeof(gdt) - 1);

	vmwrite(HOST_CR0, cr0);
	vmwrite(HOST_CR3, cr3);
	vmwrite(HOST_CR4, cr4);
	vmwrite(HOST_SELECTORS + 2 * CS, CODE_SELECTOR);
	vmwrite(HOST_SELECTORS + 2 * SS, DATA_SELECTOR);
	vmwrite(HOST_SELECTORS + 2 * DS, DATA_SELECTOR);
	vmwrite(HOST_SELECTORS + 2 * ES, DATA_SELECTOR);
	vmwrite(HOST_SELECTORS + 2 * 6, TSS_SELECTOR); /* the host's seventh is TR */
	vmwrite(HOST_TR_BASE, (uint64_t)tss);
	vmwrite(HOST_GDTR_BASE, (uint64_t)gdt);
}

/* Past the instruction that exited. */
static inline void skip(void)
{
	vmwrite(GUEST_RIP, vmread(GUEST_RIP) + vmread(INSTRUCTION_LENGTH));
}

static inline void __attribute__((noreturn)) entry_failed(void)
{
	put_hex("VM entry failed, VM-instruction error", vmread(INSTRUCTION_ERROR));
	end();
}

#endif
