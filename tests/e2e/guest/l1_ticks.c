/*
 * A hypervisor (examples/l1) whose guest writes and checks memory without pause, for tests that stop, save and move
 * the machine meanwhile. "tick N SUM" after each eighth round of the guest, SUM being of all that it wrote.
 *
 * The guest's pages lie where EPT12 says: at the end of each round one of them is copied to another frame and its entry
 * changed, and another is write-protected, which gives an EPT violation in the next round. A dirty log by D flags must
 * have every page. A VMX-preemption timer ends the guest's runs as well. What is wrong is said as "LOST".
 */
#include "../../../examples/l1/ept.h"

#define PAGES 64
#define WORDS 512
#define FRAMES (SMALL_PAGES + (PAGES << 12)) /* where pages move to, one frame more than pages */
#define PREEMPTION_TIMER (1u << 6)
#define TIMER_VALUE 0x482e
#define EXIT_TIMER 52
#define TIMER_TICKS 20000

static uint64_t value(uint64_t page, uint64_t word, uint64_t round)
{
	return page << 48 ^ word << 32 ^ round * 0x9e3779b97f4a7c15;
}

/* RAX: the round; RBX: its sum, or ~0 with the page that was wrong in RCX. */
static void report(uint64_t round, uint64_t sum, uint64_t page)
{
	__asm__ volatile("vmcall" : : "a"(round), "b"(sum), "c"(page) : "memory");
}

static void guest(void)
{
	volatile uint64_t *mem = (uint64_t *)SMALL_PAGES;

	for (uint64_t round = 1;; round++) {
		uint64_t sum = 0;

		for (uint64_t p = 0; p < PAGES; p++)
			for (uint64_t w = 0; w < WORDS; w++) {
				if (round > 1 && mem[p * WORDS + w] != value(p, w, round - 1))
					report(round, ~0UL, p);
				mem[p * WORDS + w] = value(p, w, round);
				sum = sum * 31 + value(p, w, round);
			}
		report(round, sum, 0);
	}
}

static uint64_t eptp, spare = FRAMES + ((uint64_t)PAGES << 12);

/* Each page was written, so each entry has its D flag; a page that was write-protected got it with the right to write. */
static void check_dirty(void)
{
	for (unsigned p = 0; p < PAGES; p++) {
		if (!(ept1[p] & EPT_DIRTY))
			put_hex("LOST dirty flag of page", p);
		ept1[p] &= ~(uint64_t)EPT_DIRTY;
	}
}

static void change_tables(uint64_t round)
{
	uint64_t *moved = &ept1[round % PAGES], old = *moved & ~0xfffUL;

	for (unsigned w = 0; w < WORDS; w++)
		((uint64_t *)spare)[w] = ((uint64_t *)old)[w];
	*moved = spare | EPT_ALL | EPT_WRITE_BACK;
	spare = old;
	ept1[(round + 1) % PAGES] &= ~(uint64_t)EPT_WRITE;
	invept(eptp);
}

static void vmcall(void)
{
	if (regs.rbx == ~0UL) {
		put_hex("LOST page", regs.rcx);
		end();
	}
	if (!(regs.rax & 7)) {
		put_hex("tick", regs.rax);
		put_hex("sum", regs.rbx);
	}
	check_dirty();
	change_tables(regs.rax);
	skip();
}

void start(void)
{
	load_tss();
	if (!enter_vmx()) {
		put("no VMX\n");
		end();
	}
	eptp = identity_ept(EPTP_AD);
	for (unsigned p = 0; p < PAGES; p++)
		ept1[p] = (FRAMES + ((uint64_t)p << 12)) | EPT_ALL | EPT_WRITE_BACK;
	fill_vmcs(guest, 0, 1u << 1 /* EPT */);
	vmwrite(PIN_CONTROLS, control(0x48d, PREEMPTION_TIMER));
	vmwrite(TIMER_VALUE, TIMER_TICKS);
	vmwrite(EPT_POINTER, eptp);
	while (run_guest()) {
		switch (vmread(EXIT_REASON)) {
		case EXIT_VMCALL:
			vmcall();
			break;
		case EXIT_EPT_VIOLATION:
			*small_page(vmread(GUEST_PHYSICAL_ADDRESS)) |= EPT_WRITE;
			break;
		case EXIT_TIMER:
			break;
		default:
			put_hex("LOST by exit", vmread(EXIT_REASON));
			end();
		}
	}
	entry_failed();
}
