/*
 * A guest that walks from real mode to 64-bit user code and back through every
 * gate, with nothing intercepted but HLT: the system instructions, far
 * transfers and event delivery together, on the real processor.
 */
#include "../cpu/machine.h"

#include <time.h>

#include "host/fault.h"

#define LOOPS 20000

/* Runs at GPA_CODE (20000h); the GDT below is its own. r12: syscalls left, r13: ints left. */
__asm__(".pushsection .rodata\n"
	"guest_start:\n"
	".code16\n"
	"	lgdtl %cs:(guest_gdtr - guest_start)\n"
	"	movl %cr0, %eax\n"
	"	orb $1, %al\n"
	"	movl %eax, %cr0\n"
	"	ljmpl $0x08, $(0x20000 + guest_pm - guest_start)\n"
	".code32\n"
	"guest_pm:\n"
	"	movw $0x10, %ax\n"
	"	movw %ax, %ds\n"
	"	movw %ax, %es\n"
	"	movw %ax, %ss\n"
	"	movl $0x30000, %esp\n"
	"	movl %cr4, %eax\n"
	"	orl $0x20, %eax\n"
	"	movl %eax, %cr4\n"
	"	movl $0x10000, %eax\n"
	"	movl %eax, %cr3\n"
	"	movl $0xc0000080, %ecx\n"
	"	rdmsr\n"
	"	orl $0x101, %eax\n"
	"	wrmsr\n"
	"	movl %cr0, %eax\n"
	"	orl $0x80000000, %eax\n"
	"	movl %eax, %cr0\n"
	"	ljmpl $0x18, $(0x20000 + guest_lm - guest_start)\n"
	".code64\n"
	"guest_lm:\n"
	"	lidtq 0x20000 + guest_idtr - guest_start\n"
	"	movw $0x40, %ax\n"
	"	ltr %ax\n"
	"	movl $0xc0000081, %ecx\n" /* STAR: SYSCALL 18h/20h, SYSRET 28h + 10h / + 8 */
	"	xorl %eax, %eax\n"
	"	movl $0x00280018, %edx\n"
	"	wrmsr\n"
	"	movl $0xc0000082, %ecx\n"
	"	movl $(0x20000 + guest_syscall - guest_start), %eax\n"
	"	xorl %edx, %edx\n"
	"	wrmsr\n"
	"	movl $0xc0000084, %ecx\n"
	"	movl $0x200, %eax\n"
	"	wrmsr\n"
	"	pushq $0x33\n"
	"	pushq $0x2f000\n"
	"	pushq $0x202\n"
	"	pushq $0x3b\n"
	"	pushq $(0x20000 + guest_user - guest_start)\n"
	"	iretq\n"
	"guest_user:\n"
	"1:	syscall\n"
	"	decl %r12d\n"
	"	jnz 1b\n"
	"1:	int $0x40\n"
	"	decl %r13d\n"
	"	jnz 1b\n"
	"	pushfq\n"
	"	popq %r8\n"
	"	movw %cs, %r9w\n"
	"	hlt\n" /* #GP(0) */
	"guest_syscall:\n"
	"	incl %esi\n"
	"	sysretq\n"
	"guest_int:\n"
	"	incl %edi\n"
	"	iretq\n"
	"guest_gp:\n"
	"	popq %r10\n" /* error code */
	"	popq %r11\n" /* RIP */
	"	movw %cs, %ax\n"
	"	movw %ss, %bx\n"
	"	hlt\n"
	".balign 8\n"
	"guest_gdt:\n"
	"	.quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff\n"	      /* 08 code32, 10 data */
	"	.quad 0x00af9a000000ffff, 0x00cf92000000ffff\n"		      /* 18 code64, 20 data */
	"	.quad 0, 0x00cff2000000ffff, 0x00affa000000ffff\n"	      /* 30 user data, 38 user code64 */
	"	.quad 0x0000890160000067, 0\n"				      /* 40 TSS at 16000h */
	"guest_gdtr: .word guest_gdtr - guest_gdt - 1\n"
	"	.long 0x20000 + guest_gdt - guest_start\n"
	"guest_idtr: .word 0xfff\n"
	"	.quad 0x15000\n"
	"guest_end:\n"
	".popsection\n");
extern const uint8_t guest_start[], guest_end[], guest_int[], guest_gp[], guest_syscall[],
	guest_gdt[];

static uint64_t gpa_of(const uint8_t *label)
{
	return GPA_CODE + (uint64_t)(label - guest_start);
}

static void set_gate64(struct machine *t, unsigned vector, uint64_t handler, unsigned dpl)
{
	guest64(t, GPA_IDT)[2 * vector] = (handler & 0xffff) | 0x18UL << 16 |
					  (0x8eUL | dpl << 5) << 40 | (handler & 0xffff0000) << 32;
	guest64(t, GPA_IDT)[2 * vector + 1] = 0;
}

static void prepare(struct machine *t)
{
	static uint8_t msr_bitmap[4096] __attribute__((aligned(4096)));

	memcpy(t->ram + GPA_CODE, guest_start, (size_t)(guest_end - guest_start));
	build_guest_tables(t);
	for (unsigned n = 0; n < 512; n++)
		guest64(t, GPA_PT)[n] |= PTE_US;
	set_gate64(t, 0x40, gpa_of(guest_int), 3);
	set_gate64(t, 13, gpa_of(guest_gp), 0);
	memcpy(t->ram + 0x16004, &(uint64_t){0x2e000}, 8); /* RSP0 */
	W(CPU_BASED_VM_EXEC_CONTROL, R(t, CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_USE_MSR_BITMAPS);
	/* CR3 and INVLPG exits are "default1" where the capability says so */
	W(CPU_BASED_VM_EXEC_CONTROL,
	  R(t, CPU_BASED_VM_EXEC_CONTROL) &
		  ~(CPU_BASED_CR3_LOAD_EXITING | CPU_BASED_CR3_STORE_EXITING));
	W(MSR_BITMAP, (uint64_t)msr_bitmap);
	vmx_gprs(t->cpu)[R12] = LOOPS;
	vmx_gprs(t->cpu)[R13] = LOOPS;
	vmx_gprs(t->cpu)[RSI] = vmx_gprs(t->cpu)[RDI] = 0;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static void guest_goes_from_real_mode_to_user_code_and_through_every_gate(void **state)
{
	struct machine *t = *state;
	double start;

	prepare(t);
	start = now();
	assert_int_equal(vmlaunch(t->cpu), VMX_SUCCEED);
	print_message("%.0f ns for a syscall+sysret and an int+iretq\n", (now() - start) / LOOPS);
	assert_int_equal(R(t, VM_EXIT_REASON), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RSI], LOOPS);
	assert_int_equal(vmx_gprs(t->cpu)[RDI], LOOPS);
	assert_int_equal(vmx_gprs(t->cpu)[R8] & (X86_FLAGS_IF | X86_FLAGS_IOPL), X86_FLAGS_IF);
	assert_int_equal(vmx_gprs(t->cpu)[R9] & 0xffff, 0x3b);
	assert_int_equal(vmx_gprs(t->cpu)[R10], 0);			/* error code */
	assert_int_equal(vmx_gprs(t->cpu)[R11], gpa_of(guest_syscall) - 1); /* the HLT */
	assert_int_equal(vmx_gprs(t->cpu)[RAX] & 0xffff, 0x18);
	assert_int_equal(vmx_gprs(t->cpu)[RBX] & 0xffff, 0); /* null SS */
	assert_int_equal(R(t, GUEST_RSP), 0x2e000 - 32);
	assert_int_equal(R(t, GUEST_TR_AR_BYTES), 0x8b);
	assert_true(R(t, VM_ENTRY_CONTROLS) & VM_ENTRY_IA32E_MODE);
	/* accessed bits reached the GDT in guest memory */
	assert_int_equal(t->ram[gpa_of(guest_gdt) + 0x18 + 5], 0x9b);
	assert_int_equal(t->ram[gpa_of(guest_gdt) + 0x40 + 5], 0x8b);
	/* what was saved is what an entry accepts: go on after the HLT */
	W(GUEST_RIP, gpa_of(guest_gp));
	assert_int_equal(vmresume(t->cpu), VMX_SUCCEED);
	assert_int_equal(R(t, VM_EXIT_REASON), EXIT_REASON_HLT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			guest_goes_from_real_mode_to_user_code_and_through_every_gate,
			machine_setup, machine_teardown),
	};

	if (host_fault_init())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
