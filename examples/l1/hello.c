/*
 * The smallest hypervisor: one guest, no EPT. The guest runs in the hypervisor's own
 * address space and makes two kinds of exits: CPUID, which always exits and is answered
 * here, and VMCALL, by which it says goodbye.
 *
 *	userkvm boot: docs/nested.md
 */
#include "vmx.h"

static void guest(void)
{
	for (;;) {
		uint32_t a = 0x40000000, b, c, d;

		__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
		/* what our hypervisor below answers */
		__asm__ volatile("vmcall" : : "a"(a + b + c + d));
	}
}

/* The guest's CPUID: a leaf that no processor has, so that the guest knows whom it talks to. */
static void answer_cpuid(void)
{
	regs.rax = 1;
	regs.rbx = 20;
	regs.rcx = 300;
	regs.rdx = 4000;
	skip();
}

void start(void)
{
	unsigned exits = 0;

	load_tss();
	if (!enter_vmx()) {
		put("no VMX: is it started with nested=0?\n");
		end();
	}
	fill_vmcs(guest, 0, 0);
	while (run_guest()) {
		exits++;
		switch (vmread(EXIT_REASON)) {
		case EXIT_CPUID:
			answer_cpuid();
			break;
		case EXIT_VMCALL:
			put_hex("hello: the guest says", regs.rax);
			put_hex("hello: exits", exits);
			end();
		default:
			put_hex("hello: exit", vmread(EXIT_REASON));
			end();
		}
	}
	entry_failed();
}
