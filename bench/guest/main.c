/*
 * The bare guest's program: each loop is timed with RDTSC (every machine here
 * passes the host's counter through) and reported on COM1 as
 * "name rounds insns-a-round ticks". Ends by the ACPI and the isa-debug-exit way.
 */
#include "apic.h"
#include "events.h"
#include "loops.h"

void guest_main(void);
void enter_user(void (*fn)(void));

static uint64_t memory[(4 << 20) / 8 + 1024];
static float vector[16] __attribute__((aligned(16)));

/* start.S maps the first GiB; a page table of the bench's own is behind the second. */
extern uint64_t pdpt[512], pml4[512];
static uint64_t own_pd[512] __attribute__((aligned(4096)));
static uint64_t own_pt[512] __attribute__((aligned(4096)));
#define OWN_WINDOW ((volatile uint64_t *)0x40000000)

static inline void out8(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}

static inline void out16(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port));
}

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi));
	return (uint64_t)hi << 32 | lo;
}

static void print(const char *s)
{
	while (*s)
		out8(0x3f8, (uint8_t)*s++);
}

static void print_number(uint64_t v)
{
	char buf[24];
	int i = sizeof(buf);

	buf[--i] = '\0';
	do
		buf[--i] = (char)('0' + v % 10);
	while (v /= 10);
	print(" ");
	print(&buf[i]);
}

static void report(const char *name, uint64_t rounds, uint64_t insns, uint64_t ticks)
{
	print(name);
	print_number(rounds);
	print_number(insns);
	print_number(ticks);
	print("\n");
}

#define TIMED(name, rounds, insns, call)                        \
	do {                                                    \
		uint64_t n = (rounds);                          \
		uint64_t t0 = rdtsc();                          \
		call;                                           \
		report(name, rounds, insns, rdtsc() - t0);      \
	} while (0)

/*
 * What fork and mmap do to a page table: pages are mapped and touched one by
 * one, then all are unmapped and CR3 is loaded. A round is one page.
 */
#define LOOP_MAPPING_INSNS 10
static void loop_mapping(uint64_t n)
{
	uint64_t page = (uint64_t)memory & ~0xfffUL;

	pdpt[1] = (uint64_t)own_pd | 7;
	own_pd[0] = (uint64_t)own_pt | 7;
	for (; n >= 512; n -= 512) {
		for (unsigned i = 0; i < 512; i++) {
			((volatile uint64_t *)own_pt)[i] = (page + i * 4096UL) | 7;
			OWN_WINDOW[i * 512] = i;
		}
		for (unsigned i = 0; i < 512; i++)
			((volatile uint64_t *)own_pt)[i] = 0;
		__asm__ volatile("mov %0, %%cr3" ::"r"(pml4) : "memory");
	}
}

static void user_part(void)
{
	TIMED("syscall", 300000, LOOP_SYSCALL_INSNS + 1, loop_syscall(n));
	TIMED("int80", 100000, 1, loop_int80(n));
	TIMED("page_fault", 100000, 1, loop_page_fault(n));
	print("end\n");
	out16(0x604, 0x2000 | 5 << 10); /* ACPI S5 of userkvm boot */
	out16(0x604, 0x2000);		/* of QEMU's pc */
	for (;;)
		__asm__ volatile("pause");
}

static void devices(void)
{
	uint64_t base, sent = 50000;

	/* what firmware has left unmasked has no gate here */
	out8(0x21, 0xff);
	out8(0xa1, 0xff);
	apic_begin(pdpt);
	TIMED("cpuid", 50000, 1, while (n--) (void)cpuid_ecx(0));
	TIMED("ioapic_read", 50000, 1, while (n--) (void)*(volatile uint32_t *)IOAPIC_PAGE);
	TIMED("apic_read", 200000, 1, while (n--) (void)*apic(APIC_ID));
	TIMED("apic_count", 50000, 1, while (n--) (void)*apic(APIC_COUNT));
	TIMED("apic_tpr", 50000, 1, while (n--) *apic(APIC_TPR) = 0x10);
	TIMED("apic_eoi", 50000, 1, while (n--) *apic(APIC_EOI) = 0);
	TIMED("apic_lvt", 50000, 1, while (n--) *apic(APIC_LVT1) = 0x10000);
	TIMED("apic_self", sent, 1, self_ipis(n));
	TIMED("cr8", 50000, 1, while (n--) __asm__ volatile("mov %0, %%cr8" ::"r"(1UL)));
	if (interrupts_taken != sent)
		print("self-IPIs were lost\n");
	if (!(cpuid_ecx(1) & 1u << 21))
		return;
	set_gate(SELF_VECTOR, on_self_ipi_x2apic, 0);
	base = rdmsr(MSR_APIC_BASE);
	wrmsr(MSR_APIC_BASE, base | 0xc00);
	TIMED("x2apic_tpr", 50000, 1, while (n--) wrmsr(MSR_X2APIC_TPR, 0x10));
	TIMED("x2apic_eoi", 50000, 1, while (n--) wrmsr(MSR_X2APIC_EOI, 0));
	TIMED("x2apic_self", sent, 1, self_ipis_x2apic(n));
	if (interrupts_taken != 2 * sent)
		print("self-IPIs were lost\n");
}

void guest_main(void)
{
	TIMED("integer", 4000000, LOOP_INTEGER_INSNS, loop_integer(n));
	TIMED("memory", 2000000, LOOP_MEMORY_INSNS, loop_memory(n, memory, (4 << 20) - 8));
	TIMED("simd", 2000000, LOOP_SIMD_INSNS, loop_simd(n, vector));
	TIMED("fib", 242785, LOOP_FIB_INSNS, ((void)n, loop_fib(25))); /* calls that fib(25) makes */
	TIMED("crc", 4000000, LOOP_CRC_INSNS, loop_crc(n, (const uint32_t *)memory, (const uint8_t *)memory));
	chase_prepare(memory);
	TIMED("chase", 4000000, LOOP_CHASE_INSNS, loop_chase(n, memory));
#define STRING_TIMED(name, insn, count, first) TIMED(#name, 200, count, loop_##name(n, memory));
	STRING_LOOPS(STRING_TIMED)
	TIMED("exit", 50000, 1, while (n--) out8(0x80, 0));
	devices();
	events_begin();
	TIMED("cr3", 100000, 1, loop_cr3(n, pml4));
	TIMED("cr3_refill", 50000, 1, loop_cr3_refill(n, pml4, memory));
	TIMED("invlpg", 200000, 1, loop_invlpg(n, memory));
	TIMED("modify", 50000, 1, loop_modify(n));
	TIMED("call_ptr", 1000000, 1, loop_call_pointer(n));
	TIMED("frame", 300000, 1, loop_frame(n));
	TIMED("mapping", 100 * 512, LOOP_MAPPING_INSNS, loop_mapping(n));
	enter_user(user_part);
}
