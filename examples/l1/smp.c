/*
 * A hypervisor on two processors, and why an INVEPT on one is not enough. The guest runs on the
 * second. The first moves a page of the guest's, and must not give the old page away before the
 * second has dropped what its TLB holds of it:
 *
 *	first                          second
 *	changes the EPT entry          guest reads, perhaps by its TLB
 *	NMI ------------------------>  exit, by NMI exiting
 *	waits                          INVEPT
 *	     <-----------------------  says so, enters the guest again
 *	uses the old page for          guest reads the new page
 *	something else
 */
#include "ept.h"

#define SHARED SMALL_PAGES		/* what the guest reads */
#define OLD 0x00900000UL
#define NEW 0x00901000UL
#define TRAMPOLINE 0x8000UL
#define NMI_EXITING (1u << 3)
#define EXIT_NMI 0

enum { OLD_VALUE = 1, NEW_VALUE = 2, GIVEN_AWAY = 3 };

uint8_t second_stack[8192] PAGE;
volatile unsigned asked, done;	  /* shoot-downs */
volatile uint64_t seen, stale, finished, second_failed;
uint64_t eptp;

/* A processor that is started begins in real mode at TRAMPOLINE; the tables of the first one are there already. */
extern uint8_t trampoline[], trampoline_end[];
__asm__(".code16\n"
	"trampoline:\n"
	"	cli\n"
	"	lgdtl %cs:(second_gdtr - trampoline)\n"
	"	movl $0x6b0, %eax\n"
	"	movl %eax, %cr4\n"
	"	movl $pml4, %eax\n"
	"	movl %eax, %cr3\n"
	"	movl $0xc0000080, %ecx\n"
	"	rdmsr\n"
	"	orl $0x100, %eax\n"
	"	wrmsr\n"
	"	movl $0x80000031, %eax\n" /* PG and PE at once: no 32-bit mode in between */
	"	movl %eax, %cr0\n"
	"	ljmpl $8, $second_start\n"
	"second_gdtr:\n"
	"	.word 39\n"
	"	.long gdt\n"
	"trampoline_end:\n"
	".code64\n"
	"second_start:\n"
	"	movw $16, %ax\n"
	"	movw %ax, %ds\n"
	"	movw %ax, %es\n"
	"	movw %ax, %ss\n"
	"	leaq second_stack + 8192(%rip), %rsp\n"
	"	call second\n"
	"1:	hlt\n"
	"	jmp 1b\n");

static void guest(void)
{
	volatile uint64_t *shared = (uint64_t *)SHARED;

	do {
		seen = *shared;
		if (done == 1 && *shared != NEW_VALUE) /* after the shoot-down this may not be */
			stale++;
	} while (!done || seen != NEW_VALUE); /* the NMI has to find it here: there is no handler for it outside */
	__asm__ volatile("vmcall");
}

static void x2apic(void)
{
	wrmsr(0x1b, rdmsr(0x1b) | 0xc00);
}

/* To the second processor, whose APIC ID is 1. */
static void ipi(uint32_t what)
{
	wrmsr(0x830, 1UL << 32 | what);
}

void second(void)
{
	x2apic();
	if (!enter_vmx()) {
		second_failed = 1;
		return;
	}
	fill_vmcs(guest, 0, 1u << 1 /* EPT */);
	vmwrite(PIN_CONTROLS, control(0x48d, NMI_EXITING));
	vmwrite(EPT_POINTER, eptp);
	while (run_guest() && vmread(EXIT_REASON) == EXIT_NMI) {
		invept(eptp);
		done = asked;
	}
	if (!launched || vmread(EXIT_REASON) != EXIT_VMCALL)
		second_failed = launched ? 0x100 + vmread(EXIT_REASON) : 0x10000 + vmread(INSTRUCTION_ERROR);
	finished = 1;
}

static void wait_for(volatile uint64_t *what, uint64_t value)
{
	while (*what != value) {
		if (second_failed) {
			put_hex("smp: the second processor failed", second_failed);
			end();
		}
		__asm__ volatile("pause");
	}
}

void start(void)
{
	uint64_t *old = (uint64_t *)OLD;

	load_tss();
	x2apic();
	eptp = identity_ept(0);
	*old = OLD_VALUE;
	*(uint64_t *)NEW = NEW_VALUE;
	*small_page(SHARED) = OLD | EPT_ALL | EPT_WRITE_BACK;
	for (uint8_t *p = trampoline; p < trampoline_end; p++)
		((volatile uint8_t *)TRAMPOLINE)[p - trampoline] = *p;
	ipi(0x4500);			  /* INIT */
	ipi(0x4600 | TRAMPOLINE >> 12);	  /* SIPI */
	wait_for(&seen, OLD_VALUE);
	put_hex("smp: the guest reads", seen);

	*small_page(SHARED) = NEW | EPT_ALL | EPT_WRITE_BACK;
	asked = 1;
	ipi(0x4400); /* NMI */
	while (done != asked)
		__asm__ volatile("pause");
	*old = GIVEN_AWAY; /* nobody can read it by the guest's address any more */
	wait_for(&finished, 1);
	put_hex("smp: and then", seen);
	put_hex("smp: stale reads", stale);
	end();
}
