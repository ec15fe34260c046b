/*
 * A hypervisor with EPT: the guest's physical memory is the hypervisor's choice. Guest-
 * physical addresses are the machine's own (identity), in three steps of what EPT is for:
 *
 *	- a device: no entry for its page, so that each access exits, and is emulated
 *	- a dirty log: with accessed and dirty flags the processor notes each write in the
 *	  entry of its page; clearing a flag needs an INVEPT, or the processor may not look
 *	- memory elsewhere: one entry leads to another page
 */
#include "ept.h"

#define DEVICE 0x00800000UL /* in the fifth 2 MiB, which is mapped by 4 KiB pages */
#define DATA 0x00801000UL
#define MOVED 0x00802000UL
#define BEHIND_MOVED 0x00900000UL

static void guest(void)
{
	volatile uint64_t *device = (uint64_t *)DEVICE, *data = (uint64_t *)DATA, *moved = (uint64_t *)MOVED;
	uint64_t sum;

	sum = *device;				   /* the hypervisor answers */
	*moved = 5;				   /* not where it seems to be */
	__asm__ volatile("vmcall" : : "a"(sum));   /* look at the dirty log: one page */
	data[0] = 7;
	__asm__ volatile("vmcall" : : "a"(data[0] + moved[0])); /* another one */
	for (;;)
		__asm__ volatile("hlt");
}

static uint64_t build_ept(void)
{
	uint64_t eptp = identity_ept(EPTP_AD);

	*small_page(DEVICE) = 0;
	*small_page(MOVED) = BEHIND_MOVED | EPT_ALL | EPT_WRITE_BACK;
	return eptp;
}

/* The pages of the fifth 2 MiB that were written since the last look. */
static unsigned dirty_pages(uint64_t eptp)
{
	unsigned n = 0;

	for (unsigned i = 0; i < 512; i++) {
		if (!(ept1[i] & EPT_DIRTY))
			continue;
		n++;
		put_hex("ept: written: page", SMALL_PAGES + ((uint64_t)i << 12));
		ept1[i] &= ~(uint64_t)EPT_DIRTY;
	}
	invept(eptp);
	return n;
}

/* mov rax, [mem]: three bytes, or more with prefixes and displacement; this guest's compiler made the first kind. */
static void emulate_device(void)
{
	put_hex("ept: device access at", vmread(GUEST_PHYSICAL_ADDRESS));
	put_hex("ept: qualification", vmread(EXIT_QUALIFICATION));
	*small_page(DEVICE) = (BEHIND_MOVED + 4096) | EPT_ALL | EPT_WRITE_BACK;
	*(uint64_t *)(BEHIND_MOVED + 4096) = 0x1234; /* the device's register, as memory from now on */
}

void start(void)
{
	uint64_t eptp;

	load_tss();
	if (!enter_vmx()) {
		put("no VMX: is it started with nested=0?\n");
		end();
	}
	if (!(rdmsr(0x48c) >> 21 & 1)) {
		put("ept: no accessed and dirty flags\n");
		end();
	}
	eptp = build_ept();
	fill_vmcs(guest, 1u << 7 /* HLT exits */, 1u << 1 /* EPT */);
	vmwrite(EPT_POINTER, eptp);
	while (run_guest()) {
		switch (vmread(EXIT_REASON)) {
		case EXIT_EPT_VIOLATION:
			emulate_device();
			break;
		case EXIT_VMCALL:
			put_hex("ept: the guest says", regs.rax);
			put_hex("ept: pages written", dirty_pages(eptp));
			skip();
			break;
		case EXIT_HLT:
			put_hex("ept: behind the moved page", *(uint64_t *)BEHIND_MOVED);
			end();
		default:
			put_hex("ept: exit", vmread(EXIT_REASON));
			put_hex("ept: qualification", vmread(EXIT_QUALIFICATION));
			end();
		}
	}
	entry_failed();
}
