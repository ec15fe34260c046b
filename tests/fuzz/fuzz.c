/*
 * Random input for the processor, in a seeded loop; nothing but a clean VM exit
 * (or a refused entry) may come of it.
 *
 *   code    random bytes as guest code in real, 32-bit and 64-bit mode
 *   tables  random words in the guest's paging structures and in EPT
 *   vmcs    random values in VMCS fields, then an entry
 *
 * Environment: SEED, FUZZ_SECONDS (for each target, default 3). Each round has
 * a seed of its own, printed when a round brings the program down.
 */
#include "../unit/cpu/machine.h"

#include "host/fault.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

static uint64_t seed, round_seed;
static const char *target;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 0x2545f4914f6cdd1d;
}

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *s = getenv(name);

	return s ? strtoull(s, NULL, 0) : otherwise;
}

/* Say which round it was; async-signal-safe. */
static void on_abort(int signo)
{
	char text[128];
	int n = snprintf(text, sizeof(text), "fuzz %s: signal %d in round SEED=%#llx\n", target, signo,
			 (unsigned long long)round_seed);

	(void)!write(2, text, (size_t)n);
	signal(signo, SIG_DFL);
	raise(signo);
}

static void require(bool ok, const char *what, uint64_t v)
{
	if (ok)
		return;
	fprintf(stderr, "fuzz %s: %s (%#llx), SEED=%#llx\n", target, what, (unsigned long long)v,
		(unsigned long long)round_seed);
	exit(1);
}

static uint64_t interesting(void)
{
	switch (rnd() % 8) {
	case 0: return rnd() % 64;
	case 1: return 1ULL << rnd() % 64;
	case 2: return ~0ULL << rnd() % 64;
	case 3: return rnd() % RAM_BYTES;
	case 4: return rnd() & 0xffffffff;
	default: return rnd() >> rnd() % 64;
	}
}

static void limit_time(struct machine *t)
{
	W(PIN_BASED_VM_EXEC_CONTROL,
	  R(t, PIN_BASED_VM_EXEC_CONTROL) | PIN_BASED_VMX_PREEMPTION_TIMER);
	W(VMX_PREEMPTION_TIMER_VALUE, 2000);
}

static void enter(struct machine *t)
{
	enum vmx_result r = t->vmcs->launched ? vmresume(t->cpu) : vmlaunch(t->cpu);
	uint64_t reason;

	require(r == VMX_SUCCEED || r == VMX_FAIL_VALID || r == VMX_BUS_ERROR, "result", r);
	if (r != VMX_SUCCEED)
		return;
	reason = R(t, VM_EXIT_REASON);
	require((reason & 0xffff) <= EXIT_REASON_XRSTORS && !(reason & 0x7fff0000), "exit reason", reason);
	require(cpu_tlb_check(t->cpu->tlb), "TLB", reason);
	require(!t->cpu->cs.fpu_loaded, "FPU still loaded", reason);
	require(!t->cpu->bus_locked && !t->m->bus, "split lock held", reason);
}

/* --- code --- */

static void flat32(struct machine *t)
{
	for (int n = 0; n < NR_SREGS; n++)
		set_segment(t, (enum sreg)n, 16, 0, 0xffffffff, 0xc093);
	set_segment(t, SREG_CS, 8, 0, 0xffffffff, 0xc09b);
	W(GUEST_CR0, X86_CR0_PE | X86_CR0_NE | X86_CR0_ET);
	W(GUEST_RIP, GPA_CODE);
	W(GUEST_RSP, GPA_STACK);
}

static void fuzz_code(void)
{
	static const uint8_t common[8] = { 0x0f, 0x66, 0xf0, 0xc4, 0x48, 0xf3, 0xff, 0xc5 };
	struct machine *t;
	unsigned mode = rnd() % 3;

	machine_setup((void **)&t);
	if (mode == 1)
		flat32(t);
	else if (mode == 2)
		set_long_mode(t);
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE);
	vmx_set_xcr0(t->cpu, 7);
	W(EXCEPTION_BITMAP, rnd() & 1 ? ~0u : (uint32_t)rnd());
	if (!(rnd() & 7)) {
		vmx_set_dr(t->cpu, (unsigned)rnd() & 3, GPA_CODE + rnd() % 64);
		W(GUEST_DR7, DR7_FIXED_1 | (rnd() & 0xffff03ff));
	}
	limit_time(t);
	for (unsigned k = 0; k < 8; k++) {
		for (unsigned n = 0; n < 256; n++)
			t->ram[GPA_CODE + n] = rnd() & 3 ? (uint8_t)rnd() : common[rnd() & 7];
		for (unsigned n = 0; n < NR_GPRS; n++)
			vmx_gprs(t->cpu)[n] = interesting();
		W(GUEST_RIP, mode ? GPA_CODE + rnd() % 128 : rnd() % 128);
		if (rnd() & 1)
			W(GUEST_RFLAGS, X86_FLAGS_FIXED | (rnd() & (X86_FLAGS_TF | X86_FLAGS_DF | X86_FLAGS_AC)));
		W(GUEST_PENDING_DBG_EXCEPTIONS, 0);
		W(GUEST_INTERRUPTIBILITY_INFO, 0);
		W(GUEST_ACTIVITY_STATE, 0);
		vmx_sync_code(t->cpu);
		enter(t);
	}
	machine_teardown((void **)&t);
}

/* --- tables --- */

/*
 * EPT is the hypervisor's and names host memory: tables are tables of ours and
 * pages are RAM, everything else is random.
 */
static uint64_t random_ept(struct machine *t, unsigned level)
{
	uint64_t tables[] = { (uint64_t)t->ept_pdpt, (uint64_t)t->ept_pd, (uint64_t)t->ept_pt[0] };
	uint64_t low = (rnd() & 0xf77) | (rnd() & 7 ? EPT_READ : 0);

	if (level == 1 || (level < 4 && (rnd() & 1)))
		return ((uint64_t)t->ram + (rnd() % (RAM_BYTES - (4UL << 20)) & PAGE_MASK)) | low | EPT_PAGE_SIZE;
	return tables[rnd() % ARRAY_SIZE(tables)] | (low & ~EPT_PAGE_SIZE);
}

static void fuzz_tables(void)
{
	struct machine *t;

	machine_setup_long((void **)&t);
	limit_time(t);
	if (rnd() & 1)
		W(EPT_POINTER, R(t, EPT_POINTER) | EPTP_AD_ENABLE);
	W(GUEST_CR4, R(t, GUEST_CR4) | (rnd() & (X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PGE)));
	/* 1: mov [rax],rbx; mov rcx,[rdx]; add rax,r8; add rdx,r9; jmp 1b */
	CODE(t, 0x48, 0x89, 0x18, 0x48, 0x8b, 0x0a, 0x4c, 0x01, 0xc0, 0x4c, 0x01, 0xca, 0xeb, 0xf2);
	for (unsigned n = 0; n < NR_GPRS; n++)
		vmx_gprs(t->cpu)[n] = interesting();
	for (unsigned n = 0; n < 24; n++) {
		static const gpa_t tables[] = { GPA_PML4, GPA_PDPT, GPA_PD, GPA_PT };
		unsigned index = (unsigned)(rnd() & 1 ? rnd() & 3 : rnd() & 511);
		uint64_t *ept[] = { t->ept_root, t->ept_pdpt, t->ept_pd, t->ept_pt[0] };

		if (rnd() & 1)
			guest64(t, tables[rnd() & 3])[index] = (interesting() & ~0xfffULL) | (rnd() & 0xfff);
		else if (!(rnd() & 3))
			ept[n & 3][index] = random_ept(t, 4 - (n & 3));
	}
	for (unsigned k = 0; k < 4; k++) {
		W(GUEST_RIP, GPA_CODE);
		vmx_gprs(t->cpu)[RAX] = interesting();
		vmx_gprs(t->cpu)[RDX] = interesting();
		enter(t);
		require(invept(t->cpu, INVEPT_ALL_CONTEXT, 0) == VMX_SUCCEED, "INVEPT", 0);
	}
	machine_teardown((void **)&t);
}

/* --- VMCS fields --- */

/* Addresses the processor uses before the guest runs: they stay ours. */
static bool is_address(uint32_t field)
{
	switch (field) {
	case VM_EXIT_MSR_STORE_ADDR: case VM_EXIT_MSR_LOAD_ADDR: case VM_ENTRY_MSR_LOAD_ADDR:
	case IO_BITMAP_A: case IO_BITMAP_B: case MSR_BITMAP: case EPT_POINTER: case GUEST_CR3:
	case VM_EXIT_MSR_STORE_COUNT: case VM_EXIT_MSR_LOAD_COUNT: case VM_ENTRY_MSR_LOAD_COUNT:
	case SECONDARY_VM_EXEC_CONTROL: case CPU_BASED_VM_EXEC_CONTROL:
		return true;
	default:
		return false;
	}
}

#define FIELD_ENTRY(name, enc) enc,
static const uint32_t fields[] = { VMCS_FIELDS(FIELD_ENTRY) };

static void fuzz_vmcs(void)
{
	struct machine *t;
	unsigned n = 1 + rnd() % 4;

	(rnd() & 1 ? machine_setup : machine_setup_long)((void **)&t);
	limit_time(t);
	CODE(t, 0x90, 0x48, 0x01, 0xd8, 0xeb, 0xfa);
	while (n--) {
		uint32_t f = fields[rnd() % ARRAY_SIZE(fields)];
		uint64_t old;

		if (is_address(f) || vmread(t->cpu, f, &old) != VMX_SUCCEED)
			continue;
		require(vmwrite(t->cpu, f, rnd() & 1 ? interesting() : old ^ 1ULL << rnd() % 32) !=
				VMX_FAIL_INVALID, "VMWRITE", f);
	}
	if (R(t, VMX_PREEMPTION_TIMER_VALUE) > 2000)
		W(VMX_PREEMPTION_TIMER_VALUE, 2000);
	vmx_kick(t->cpu);
	if (rnd() & 1)
		vmx_kick_clear(t->cpu);
	if (!(R(t, PIN_BASED_VM_EXEC_CONTROL) & PIN_BASED_VMX_PREEMPTION_TIMER))
		vmx_kick(t->cpu); /* nothing else would end it */
	enter(t);
	machine_teardown((void **)&t);
}

int main(void)
{
	static const struct {
		const char *name;
		void (*round)(void);
	} targets[] = { { "code", fuzz_code }, { "tables", fuzz_tables }, { "vmcs", fuzz_vmcs } };
	uint64_t seconds = number("FUZZ_SECONDS", 3), first = number("SEED", 0x5eed);

	signal(SIGABRT, on_abort);
	signal(SIGSEGV, on_abort); /* what is not the guest's comes here by chaining */
	signal(SIGFPE, on_abort);
	signal(SIGILL, on_abort);
	signal(SIGBUS, on_abort);
	if (host_fault_init())
		return 1;
	for (size_t n = 0; n < ARRAY_SIZE(targets); n++) {
		time_t end = time(NULL) + (time_t)seconds;
		uint64_t rounds = 0;

		target = targets[n].name;
		for (round_seed = first; time(NULL) < end; round_seed = rnd() | 1, rounds++) {
			seed = round_seed * 0x9e3779b97f4a7c15ULL | 1;
			targets[n].round();
			seed = round_seed * 0xd1342543de82ef95ULL + 1;
		}
		printf("%s: %llu rounds\n", target, (unsigned long long)rounds);
	}
	return 0;
}
