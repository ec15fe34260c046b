/*
 * Each exit reason of the manual, as an exit of L2's: L1 gets it where its controls say so, and where they do not, L0
 * or L2 itself goes on. What no control of L1's can bring about is shown not to be offered. The last test counts:
 * every name of EXIT_REASONS has been one or the other.
 */
#include <signal.h>
#include <sys/time.h>

#include "nested_ept.h"

#define PIN PIN_BASED_VM_EXEC_CONTROL
#define PRIMARY CPU_BASED_VM_EXEC_CONTROL
#define MSR_BITMAPS (1u << 28)

/* Where L2's run ended: an exit of L1's, an exception that L2 takes itself, an exit to the client. */
#define L1(reason) (EXIT_REASON_##reason)
#define VECTOR(n) (0x1000 + (n))
#define CLIENT(exit) (0x2000 + KVM_EXIT_##exit)

static bool seen[EXIT_REASON_COUNT];

static int enter(struct client *c, enum snippet how)
{
	struct kvm_regs r = {.rip = AT_CODE + 32 * (uint64_t)how, .rsp = 0x8000, .rflags = 2, .rax = 2, .rbx = 1};
	uint32_t reason;

	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(ioctl(c->vcpu, KVM_RUN, 0), 0);
	if (c->run->exit_reason != KVM_EXIT_IO)
		return (int)(0x2000 + c->run->exit_reason);
	if (c->run->io.port != PORT_EXIT)
		return 0x1000 + c->run->io.port;
	reason = (uint32_t)nested_vmread(c, VM_EXIT_REASON);
	assert_true((reason & 0xffff) < EXIT_REASON_COUNT);
	seen[reason & 0xffff] = true;
	return (int)(reason & 0xffff);
}

struct field {
	uint32_t field;
	uint64_t bits;
};

/* L2 executes the code and then CPUID. */
struct row {
	const char *name, *code;
	size_t len;
	struct field always[3]; /* bits that are set either way */
	struct field control;	/* what makes it L1's; field 0: nothing is needed */
	int with, without;
};

#define INSN(name, code) name, code, sizeof(code) - 1
#define NONE {{0, 0}}
static const struct row rows[] = {
	{INSN("CPUID", "\x90"), NONE, {0, 0}, L1(CPUID), 0},
	{INSN("INVD", "\x0f\x08"), NONE, {0, 0}, L1(INVD), 0},
	{INSN("VMCALL", "\x0f\x01\xc1"), NONE, {0, 0}, L1(VMCALL), 0},
	{INSN("VMCLEAR", "\x66\x0f\xc7\x34\x24"), NONE, {0, 0}, L1(VMCLEAR), 0},
	{INSN("VMLAUNCH", "\x0f\x01\xc2"), NONE, {0, 0}, L1(VMLAUNCH), 0},
	{INSN("VMPTRLD", "\x0f\xc7\x34\x24"), NONE, {0, 0}, L1(VMPTRLD), 0},
	{INSN("VMPTRST", "\x0f\xc7\x3c\x24"), NONE, {0, 0}, L1(VMPTRST), 0},
	{INSN("VMREAD", "\x0f\x78\xc3"), NONE, {0, 0}, L1(VMREAD), 0},
	{INSN("VMRESUME", "\x0f\x01\xc3"), NONE, {0, 0}, L1(VMRESUME), 0},
	{INSN("VMWRITE", "\x0f\x79\xc3"), NONE, {0, 0}, L1(VMWRITE), 0},
	{INSN("VMXOFF", "\x0f\x01\xc4"), NONE, {0, 0}, L1(VMOFF), 0},
	{INSN("VMXON", "\xf3\x0f\xc7\x34\x24"), NONE, {0, 0}, L1(VMON), 0},
	{INSN("INVEPT", "\x66\x0f\x38\x80\x04\x24"), NONE, {0, 0}, L1(INVEPT), 0},
	{INSN("INVVPID", "\x66\x0f\x38\x81\x04\x24"), NONE, {0, 0}, L1(INVVPID), 0},
	{INSN("XSETBV", "\x0f\x01\xd1"), {{GUEST_CR4, 1u << 18}}, {0, 0}, L1(XSETBV), 0},
	{INSN("an exception", "\x0f\x0b"), NONE, {EXCEPTION_BITMAP, 1u << 6}, L1(EXCEPTION_NMI), VECTOR(6)},
	{INSN("HLT", "\xf4"), NONE, {PRIMARY, 1u << 7}, L1(HLT), CLIENT(HLT)},
	{INSN("INVLPG", "\x0f\x01\x38"), NONE, {PRIMARY, 1u << 9}, L1(INVLPG), L1(CPUID)},
	{INSN("MWAIT", "\x0f\x01\xc9"), NONE, {PRIMARY, 1u << 10}, L1(MWAIT_INSTRUCTION), L1(CPUID)},
	{INSN("RDPMC", "\x0f\x33"), NONE, {PRIMARY, 1u << 11}, L1(RDPMC), VECTOR(13)},
	{INSN("RDTSC", "\x0f\x31"), NONE, {PRIMARY, 1u << 12}, L1(RDTSC), L1(CPUID)},
	{INSN("RDTSCP", "\x0f\x01\xf9"), {{SECONDARY, 1u << 3}}, {PRIMARY, 1u << 12}, L1(RDTSCP), L1(CPUID)},
	{INSN("MOV to CR3", "\x0f\x20\xd8\x0f\x22\xd8"), NONE, {PRIMARY, 1u << 15}, L1(CR_ACCESS), L1(CPUID)},
	{INSN("MOV from CR3", "\x0f\x20\xd8"), NONE, {PRIMARY, 1u << 16}, L1(CR_ACCESS), L1(CPUID)},
	{INSN("MOV to CR8", "\x31\xc0\x44\x0f\x22\xc0"), NONE, {PRIMARY, 1u << 19}, L1(CR_ACCESS), L1(CPUID)},
	{INSN("MOV from CR8", "\x44\x0f\x20\xc0"), NONE, {PRIMARY, 1u << 20}, L1(CR_ACCESS), L1(CPUID)},
	/* the read shadow of a register that L1 owns bits of is 0: each of these changes one */
	{INSN("MOV to CR0", "\x0f\x20\xc0\x0c\x02\x0f\x22\xc0"), NONE, {CR0_GUEST_HOST_MASK, 2}, L1(CR_ACCESS), L1(CPUID)},
	{INSN("MOV to CR4", "\x0f\x20\xe0\x0c\x04\x0f\x22\xe0"), NONE, {CR4_GUEST_HOST_MASK, 4}, L1(CR_ACCESS), L1(CPUID)},
	{INSN("LMSW", "\xb8\x3b\x00\x00\x00\x0f\x01\xf0"), NONE, {CR0_GUEST_HOST_MASK, 8}, L1(CR_ACCESS), L1(CPUID)},
	{INSN("CLTS", "\x0f\x06"), {{CR0_READ_SHADOW, 8}}, {CR0_GUEST_HOST_MASK, 8}, L1(CR_ACCESS), L1(CPUID)},
	{INSN("MOV from DR", "\x0f\x21\xc0"), NONE, {PRIMARY, 1u << 23}, L1(DR_ACCESS), L1(CPUID)},
	{INSN("OUT", "\xe6\x55"), NONE, {PRIMARY, 1u << 24}, L1(IO_INSTRUCTION), VECTOR(0x55)},
	{INSN("MONITOR", "\x0f\x01\xc8"), NONE, {PRIMARY, 1u << 29}, L1(MONITOR_INSTRUCTION), L1(CPUID)},
	{INSN("PAUSE", "\xf3\x90"), NONE, {PRIMARY, 1u << 30}, L1(PAUSE_INSTRUCTION), L1(CPUID)},
	{INSN("a step", "\x90\x90"), NONE, {PRIMARY, 1u << 27}, L1(MONITOR_TRAP_FLAG), L1(CPUID)},
	{INSN("an interrupt window", "\xfb\x90\x90"), NONE, {PRIMARY, 1u << 2}, L1(INTERRUPT_WINDOW), L1(CPUID)},
	{INSN("an NMI window", "\x90\x90"), {{PIN, 1u << 3 | 1u << 5}}, {PRIMARY, 1u << 22}, L1(NMI_WINDOW), L1(CPUID)},
	{INSN("SGDT", "\x0f\x01\x04\x24"), NONE, {SECONDARY, 1u << 2}, L1(GDTR_IDTR), L1(CPUID)},
	{INSN("STR", "\x0f\x00\xc8"), NONE, {SECONDARY, 1u << 2}, L1(LDTR_TR), L1(CPUID)},
	{INSN("WBINVD", "\x0f\x09"), NONE, {SECONDARY, 1u << 6}, L1(WBINVD), L1(CPUID)},
	{INSN("RDRAND", "\x0f\xc7\xf0"), NONE, {SECONDARY, 1u << 11}, L1(RDRAND), L1(CPUID)},
	{INSN("RDSEED", "\x0f\xc7\xf8"), NONE, {SECONDARY, 1u << 16}, L1(RDSEED), L1(CPUID)},
	{INSN("VMFUNC", "\x31\xc0\x0f\x01\xd4"), NONE, {SECONDARY, 1u << 13}, L1(VMFUNC), VECTOR(6)},
	{INSN("INVPCID", "\x66\x0f\x38\x82\x04\x24"), {{SECONDARY, 1u << 12}}, {PRIMARY, 1u << 9}, L1(INVPCID), L1(CPUID)},
	{INSN("the preemption timer", "\x90"), NONE, {PIN, 1u << 6}, L1(PREEMPTION_TIMER), L1(CPUID)},
	{INSN("a TPR below the threshold", "\x31\xc0\x44\x0f\x22\xc0"),
	 {{VIRTUAL_APIC_PAGE_ADDR, AT_TEST}, {TPR_THRESHOLD, 1}}, {PRIMARY, 1u << 21}, L1(TPR_BELOW_THRESHOLD), L1(CPUID)},
	{INSN("RDMSR", "\xb9\x02\x01\x00\xc0\x0f\x32"), {{MSR_BITMAP, AT_MSR_BITMAP}}, {0, 0}, L1(MSR_READ), 0},
	{INSN("WRMSR", "\xb9\x02\x01\x00\xc0\x31\xd2\x0f\x30"), {{MSR_BITMAP, AT_MSR_BITMAP}}, {0, 0}, L1(MSR_WRITE), 0},
	{INSN("an entry of a bad state", "\x90"), NONE, {GUEST_RFLAGS, 1u << 22}, L1(INVALID_STATE), L1(CPUID)},
	{INSN("an entry of a bad MSR", "\x90"), {{VM_ENTRY_MSR_LOAD_ADDR, AT_MSR_AREA}}, {VM_ENTRY_MSR_LOAD_COUNT, 1},
	 L1(MSR_LOAD_FAIL), L1(CPUID)},
};

static bool offers_secondary(struct client *c, uint32_t bits)
{
	return (client_msr(c, MSR_VMX(11)) >> 32 & bits) == bits;
}

/* RDRAND, RDSEED, INVPCID, RDTSCP and VM functions are the processor's to have. */
static bool is_offered(struct client *c, const struct row *r)
{
	for (size_t i = 0; i < 3; i++)
		if (r->always[i].field == SECONDARY && !offers_secondary(c, (uint32_t)r->always[i].bits))
			return false;
	return r->control.field != SECONDARY || offers_secondary(c, (uint32_t)r->control.bits);
}

/* L2 goes on, at a CPUID, where the run did not end in L1. */
static int leave_l2(struct client *c, int ended)
{
	struct kvm_regs r = {.rip = AT_L2 + 0x100, .rsp = AT_L2_STACK, .rflags = 2};

	if (ended < VECTOR(0))
		return ended;
	memcpy(c->mem + AT_L2 + 0x100, "\x0f\xa2", 2);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(nested_run(c).port, PORT_EXIT);
	return ended;
}

static int run_row(struct client *c, const struct row *r, bool with)
{
	nested_fresh_vmcs(c);
	memset(c->mem + AT_MSR_BITMAP, 0, 0x1000);
	memset(c->mem + AT_L2_STACK, 0, 32); /* an operand of no meaning */
	memset(c->mem + AT_MSR_AREA, 0xff, 0x1000);
	c->mem[AT_TEST + 0x80] = 0x20; /* the virtual TPR */
	nested_vmwrite(c, PRIMARY, nested_vmread(c, PRIMARY) & ~(uint64_t)(3u << 15));
	nested_vmwrite(c, GUEST_CR4, nested_vmread(c, GUEST_CR4) & ~(uint64_t)(1u << 18));
	for (size_t i = 0; i < 3 && r->always[i].bits; i++)
		nested_set_bits(c, r->always[i].field, r->always[i].bits);
	if (with && r->control.bits)
		nested_set_bits(c, r->control.field, r->control.bits);
	if (!with && !r->control.bits)
		nested_set_bits(c, PRIMARY, MSR_BITMAPS);
	nested_l2_code(c, r->code, r->len);
	memcpy(c->mem + AT_L2 + r->len, "\x0f\xa2", 2);
	return leave_l2(c, enter(c, VMLAUNCH));
}

NESTED_TEST(each_reason_is_l1s_with_its_control_and_not_without, nested_open_vmcs)
{
	unsigned wrong = 0;

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		const struct row *r = &rows[i];
		int with, without;

		if (!is_offered(c, r)) {
			seen[r->with] |= r->with == L1(RDRAND) || r->with == L1(RDSEED) || r->with == L1(RDTSCP) || r->with == L1(INVPCID) ||
					 r->with == L1(VMFUNC);
			continue;
		}
		with = run_row(c, r, true);
		without = r->without ? run_row(c, r, false) : 0;
		if (with != r->with || without != r->without) {
			print_error("%s: %#x, without the control %#x\n", r->name, (unsigned)with, (unsigned)without);
			wrong++;
		}
	}
	assert_int_equal(wrong, 0);
}

/* A bit of L1's MSR bitmap, of each of its four parts; outside them every access is L1's. */
NESTED_TEST(msrs_are_l1s_by_its_bitmap, nested_open_vmcs)
{
	static const struct {
		uint32_t msr;
		uint16_t at; /* of the bit's byte; 0: outside */
		bool write;
	} msrs[] = {{0x10, 2, false}, {0xc0000102, 0x400 + 0x20, false}, {0x174, 0x800 + 0x2e, true}, {0xc0000102, 0xc00 + 0x20, true},
		    {0x40000000, 0, false}, {0x2000, 0, false}, {0xc0002000, 0, true}};

	for (size_t i = 0; i < sizeof(msrs) / sizeof(*msrs); i++) {
		uint32_t msr = msrs[i].msr;
		const char code[] = {(char)0xb9, (char)msr, (char)(msr >> 8), (char)(msr >> 16), (char)(msr >> 24),
				     0x31, (char)0xc0, 0x31, (char)0xd2, 0x0f, msrs[i].write ? 0x30 : 0x32};
		const struct row r = {"an MSR", code, sizeof(code), {{MSR_BITMAP, AT_MSR_BITMAP}}, {PRIMARY, MSR_BITMAPS}, 0, 0};
		int want = msrs[i].write ? L1(MSR_WRITE) : L1(MSR_READ);

		if (msrs[i].at)
			assert_int_equal(run_row(c, &r, true), L1(CPUID));
		else
			assert_int_equal(run_row(c, &r, true), want);
		if (!msrs[i].at)
			continue;
		c->mem[AT_MSR_BITMAP + msrs[i].at] |= (uint8_t)(1u << (msr & 7));
		nested_vmwrite(c, GUEST_RIP, AT_L2);
		assert_int_equal(enter(c, VMRESUME), want);
	}
}

NESTED_TEST(a_triple_fault_is_always_l1s, nested_open_l2)
{
	nested_l2_code(c, "\x0f\x0b", 2);
	nested_vmwrite(c, GUEST_IDTR_LIMIT, 0);
	assert_int_equal(enter(c, VMLAUNCH), L1(TRIPLE_FAULT));
}

/* --- EPT of L1's --- */

NESTED_TEST(what_ept12_forbids_is_l1s_and_what_l0_has_not_mapped_yet_is_not, nested_open_ept)
{
	assert_int_equal(enter(c, VMLAUNCH), L1(CPUID)); /* each page was L0's to map */
	ept_change(c, 0x60, 0);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(enter(c, VMRESUME), L1(EPT_VIOLATION));
	ept_change(c, 0x60, 0x60000 | EPT_W | EPT_WB);
	assert_int_equal(enter(c, VMRESUME), L1(EPT_MISCONFIG));
	ept_change(c, 0x60, 0x60000 | EPT_ALL | EPT_WB);
	nested_set_bits(c, SECONDARY, 1);
	nested_vmwrite(c, APIC_ACCESS_ADDR, 0x61000);
	assert_int_equal(enter(c, VMRESUME), L1(APIC_ACCESS));
	nested_vmwrite(c, SECONDARY, nested_vmread(c, SECONDARY) & ~1ull);
	assert_int_equal(enter(c, VMRESUME), L1(CPUID));
}

NESTED_TEST(a_full_log_is_l1s, nested_open_ept)
{
	nested_set_bits(c, EPT_POINTER, 1u << 6);
	nested_set_bits(c, SECONDARY, 1u << 17);
	nested_vmwrite(c, PML_ADDRESS, AT_MSR_AREA);
	nested_vmwrite(c, GUEST_PML_INDEX, 511);
	assert_int_equal(enter(c, VMLAUNCH), L1(CPUID));
	ept_change(c, 0x61, 0x61000 | EPT_ALL | EPT_WB); /* clean again */
	nested_vmwrite(c, GUEST_PML_INDEX, 512);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(enter(c, VMRESUME), L1(PML_FULL));
}

/* --- a task switch, which 64-bit mode has not --- */

static bool open_pae(struct client *c)
{
	if (!nested_open(c))
		return false;
	paging_start(c, PAGING_PAE, 0, CR0_NE, CR4_VMXE, 0);
	assert_succeeds(nested_ptr(c, VMXON, AT_VMXON));
	assert_succeeds(nested_ptr(c, VMCLEAR, AT_VMCS));
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS));
	nested_fill_vmcs(c);
	nested_vmwrite(c, VMCS_LINK_POINTER | 1, ~0u);
	nested_vmwrite(c, GUEST_CS_AR_BYTES, 0xc09b);
	nested_vmwrite(c, VM_EXIT_CONTROLS, nested_vmread(c, VM_EXIT_CONTROLS) & ~(uint64_t)EXIT_HOST_64);
	nested_vmwrite(c, VM_ENTRY_CONTROLS, nested_vmread(c, VM_ENTRY_CONTROLS) & ~(uint64_t)ENTRY_IA32E);
	nested_vmwrite(c, GUEST_CR3, 0x11000);
	nested_vmwrite(c, HOST_CR3, 0x11000);
	return true;
}

NESTED_TEST(a_task_switch_is_always_l1s, open_pae)
{
	((uint64_t *)(c->mem + AT_GDT))[6] = 0x0000890000000000 | AT_TSS << 16 | 0x67; /* an available TSS */
	nested_l2_code(c, "\xea\x00\x00\x00\x00\x30\x00", 7); /* jmp 30h:0 */
	assert_int_equal(enter(c, VMLAUNCH), L1(TASK_SWITCH));
}

/* --- events from outside --- */

static bool open_with_irqchip(struct client *c)
{
	struct kvm_lapic_state l;
	uint32_t spiv = 0x1ff;
	bool open;

	nested_irqchip = true;
	open = nested_open_l2(c);
	nested_irqchip = false;
	if (!open)
		return false;
	assert_int_equal(ioctl(c->vcpu, KVM_GET_LAPIC, &l), 0);
	memcpy(l.regs + 0xf0, &spiv, sizeof(spiv));
	assert_int_equal(ioctl(c->vcpu, KVM_SET_LAPIC, &l), 0);
	nested_l2_code(c, "\xfb\x90\x90\x0f\xa2", 5); /* sti; nop; nop; cpuid */
	return true;
}

static void message(struct client *c, uint32_t mode_and_vector)
{
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = mode_and_vector};

	assert_int_equal(ioctl(c->vm, KVM_SIGNAL_MSI, &msi), 1);
}

#define FIXED(vector) (vector)
#define INIT (5u << 8 | 1u << 14)

NESTED_TEST(an_interrupt_is_l1s_by_the_pin_based_control, open_with_irqchip)
{
	message(c, FIXED(0x31));
	assert_int_equal(enter(c, VMLAUNCH), VECTOR(0x31));
}

NESTED_TEST(and_with_it_it_is, open_with_irqchip)
{
	nested_set_bits(c, PIN, 1);
	message(c, FIXED(0x31));
	assert_int_equal(enter(c, VMLAUNCH), L1(EXTERNAL_INTERRUPT));
}

NESTED_TEST(an_nmi_is_l1s_by_the_pin_based_control, open_with_irqchip)
{
	nested_set_bits(c, PIN, 1u << 3);
	nested_l2_code(c, "\xe6\x55\x90\x0f\xa2", 5); /* in L1 it would be L1's own */
	assert_int_equal(enter(c, VMLAUNCH), VECTOR(0x55));
	assert_int_equal(ioctl(c->vcpu, KVM_NMI), 0);
	assert_int_equal(nested_run(c).port, PORT_EXIT);
	assert_int_equal(nested_vmread(c, VM_EXIT_REASON), L1(EXCEPTION_NMI));
	assert_int_equal(nested_vmread(c, VM_EXIT_INTR_INFO) & 0xff, 2);
}

/* An INIT of L2's processor is L1's exit, and in VMX root operation it waits. */
NESTED_TEST(an_init_is_always_l1s, open_with_irqchip)
{
	message(c, INIT);
	assert_int_equal(enter(c, VMLAUNCH), L1(INIT_SIGNAL));
}

static void nothing(int signal)
{
}

/* KVM_RUN sleeps until a signal comes. */
static void sleeps(struct client *c)
{
	struct sigaction act = {.sa_handler = nothing};
	struct itimerval in = {.it_value.tv_usec = 30000};

	sigaction(SIGALRM, &act, NULL);
	setitimer(ITIMER_REAL, &in, NULL);
	assert_int_equal(ioctl(c->vcpu, KVM_RUN, 0), -1);
	assert_int_equal(errno, EINTR);
}

/* A SIPI is, where L2 waits for one. */
NESTED_TEST(a_sipi_is_l1s_where_l2_waits_for_it, open_with_irqchip)
{
	struct kvm_regs r = {.rip = AT_CODE + 32 * (uint64_t)VMLAUNCH, .rsp = 0x8000, .rflags = 2};
	struct kvm_mp_state s = {KVM_MP_STATE_SIPI_RECEIVED};

	nested_vmwrite(c, GUEST_ACTIVITY_STATE, 3);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	sleeps(c);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_MP_STATE, &s), 0);
	assert_int_equal(nested_run(c).port, PORT_EXIT);
	assert_int_equal(nested_vmread(c, VM_EXIT_REASON), L1(SIPI_SIGNAL));
	seen[L1(SIPI_SIGNAL)] = true;
}

/* --- what L1 cannot have --- */

static bool secondary_absent(struct client *c, uint32_t bit)
{
	return !(client_msr(c, MSR_VMX(11)) >> 32 & bit);
}

/* XSAVES and XRSTORS exit for bits of IA32_XSS, of which none is supported. */
static bool no_xss(struct client *c)
{
	for (int bit = 0; bit < 32; bit++)
		if (client_try_set_msr(c, 0xda0, 1ull << bit) == 1)
			return false;
	return true;
}

NESTED_TEST(the_others_are_not_offered, nested_open)
{
#define ABSENT(name, absent)        \
	assert_true(absent);        \
	seen[EXIT_REASON_##name] = true;
	ABSENT(EOI_INDUCED, secondary_absent(c, 1u << 9))
	ABSENT(APIC_WRITE, secondary_absent(c, 1u << 8))
	ABSENT(ENCLS, secondary_absent(c, 1u << 15))
	ABSENT(UMWAIT, secondary_absent(c, 1u << 26))
	ABSENT(TPAUSE, secondary_absent(c, 1u << 26))
	ABSENT(BUS_LOCK, secondary_absent(c, 1u << 30))
	ABSENT(NOTIFY, secondary_absent(c, 1u << 31))
	ABSENT(XSAVES, secondary_absent(c, 1u << 20) || no_xss(c))
	ABSENT(XRSTORS, secondary_absent(c, 1u << 20) || no_xss(c))
	ABSENT(MCE_DURING_VMENTRY, true) /* a machine check is an exception of L1's, never of its VM entry */
}

static void every_exit_reason_has_been_one_or_the_other(void **state)
{
	unsigned missing = 0;

#define CHECK_SEEN(name, nr)                         \
	if (!seen[nr]) {                             \
		print_error("no row: %s\n", #name);  \
		missing++;                           \
	}
	EXIT_REASONS(CHECK_SEEN)
	if (seen[EXIT_REASON_CPUID]) /* VMX is offered */
		assert_int_equal(missing, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_reason_is_l1s_with_its_control_and_not_without),
		cmocka_unit_test(msrs_are_l1s_by_its_bitmap),
		cmocka_unit_test(a_triple_fault_is_always_l1s),
		cmocka_unit_test(what_ept12_forbids_is_l1s_and_what_l0_has_not_mapped_yet_is_not),
		cmocka_unit_test(a_full_log_is_l1s),
		cmocka_unit_test(a_task_switch_is_always_l1s),
		cmocka_unit_test(an_interrupt_is_l1s_by_the_pin_based_control),
		cmocka_unit_test(and_with_it_it_is),
		cmocka_unit_test(an_nmi_is_l1s_by_the_pin_based_control),
		cmocka_unit_test(an_init_is_always_l1s),
		cmocka_unit_test(a_sipi_is_l1s_where_l2_waits_for_it),
		cmocka_unit_test(the_others_are_not_offered),
		cmocka_unit_test(every_exit_reason_has_been_one_or_the_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
