/*
 * Random input for the processor; nothing but a clean VM exit (or a refused
 * entry) may come of it.
 *
 *   code    random bytes as guest code in real, 32-bit and 64-bit mode
 *   tables  random words in the guest's paging structures and in EPT
 *   vmcs    random values in VMCS fields, then an entry
 *
 * usage: fuzz CORPUS                  each input of the corpus, then new ones
 *        fuzz CORPUS TARGET FILE...   these inputs alone
 *
 * An input is 8 bytes that seed a generator, then decisions: what a round asks
 * for is taken from there, and from the generator when they are used up. So a
 * changed byte changes one decision and leaves the others.
 *
 * The corpus (corpus/TARGET/) is one input for each outcome seen: exit reasons,
 * vectors, error codes, and why an entry was refused. New inputs are made from it
 * as often as from nothing. FUZZ_COLLECT=1 adds inputs of new outcomes to it.
 * Environment: SEED, FUZZ_SECONDS (for each target, default 3), FUZZ_UNITS=1 (the translator has to make units). What brings the
 * program down is written to fuzz-TARGET.input in the current directory.
 */
#include "../unit/cpu/machine.h"

#include "host/fault.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define INPUT_MAX 512
#define CORPUS_MAX 256 /* inputs of a target */

struct input {
	uint32_t nr_bytes;
	uint8_t b[INPUT_MAX];
};

static struct input input;  /* of the running round */
static uint32_t used;	    /* bytes of it */
static uint64_t tail, seed; /* generators: of the round, of inputs */
static const char *target;
static uint64_t units;   /* made by the translator */
static uint64_t outcome; /* a hash of what came of the round */

static uint64_t step(uint64_t *g)
{
	*g ^= *g << 13;
	*g ^= *g >> 7;
	*g ^= *g << 17;
	return *g * 0x2545f4914f6cdd1d;
}

static uint8_t rnd8(void)
{
	return used < input.nr_bytes ? input.b[used++] : (uint8_t)(step(&tail) >> 32);
}

static uint64_t rnd(void)
{
	uint64_t v = 0;

	if (used >= input.nr_bytes)
		return step(&tail);
	for (unsigned n = 0; n < 8; n++)
		v = v << 8 | rnd8();
	return v;
}

/* What comes of the round is told apart by this. */
static void happened(uint64_t what)
{
	outcome = (outcome ^ what) * 0x100000001b3;
}

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *s = getenv(name);

	return s ? strtoull(s, NULL, 0) : otherwise;
}

/* Keep the input; async-signal-safe. */
static void keep_input(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	if (fd < 0)
		return;
	(void)!write(fd, input.b, input.nr_bytes);
	close(fd);
}

static void say_where(void)
{
	char path[64] = "fuzz-";
	static const char text[] = "fuzz: the input is in the current directory: fuzz-TARGET.input\n";

	strncat(path, target, 16);
	strcat(path, ".input");
	keep_input(path);
	(void)!write(2, text, sizeof(text) - 1);
}

static void on_abort(int signo)
{
	say_where();
	signal(signo, SIG_DFL);
	raise(signo);
}

static void require(bool ok, const char *what, uint64_t v)
{
	if (ok)
		return;
	fprintf(stderr, "fuzz %s: %s (%#llx)\n", target, what, (unsigned long long)v);
	say_where();
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

/*
 * The translator leaves guests that run under the preemption timer to the interpreter: there a timer of the
 * host's kicks.
 */
static struct vmx_cpu *running;

static void on_alarm(int signo)
{
	if (running)
		vmx_kick(running);
}

static void kick_each_2ms(void)
{
	struct itimerval t = { { 0, 2000 }, { 0, 2000 } };
	struct sigaction sa = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };

	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &t, NULL);
}

static void preempt(struct machine *t)
{
	W(PIN_BASED_VM_EXEC_CONTROL,
	  R(t, PIN_BASED_VM_EXEC_CONTROL) | PIN_BASED_VMX_PREEMPTION_TIMER);
	W(VMX_PREEMPTION_TIMER_VALUE, 2000);
}

static void limit_time(struct machine *t)
{
	if (!t->cpu->jit)
		preempt(t);
}

static enum vmx_result enter(struct machine *t)
{
	enum vmx_result r;
	uint64_t reason;

	running = t->cpu->jit ? t->cpu : NULL;
	r = t->vmcs->launched ? vmresume(t->cpu) : vmlaunch(t->cpu);
	running = NULL;
	units += vmx_cpu_counters(t->cpu)->jit_units;
	t->cpu->counters.jit_units = 0;
	require(r == VMX_SUCCEED || r == VMX_FAIL_VALID || r == VMX_BUS_ERROR, "result", r);
	happened(r);
	require(!vmx_cpu_counters(t->cpu)->tlb_stale_uses, "stale translation", 0);
	if (r != VMX_SUCCEED)
		return r;
	reason = R(t, VM_EXIT_REASON);
	require((reason & 0xffff) < EXIT_REASON_COUNT && !(reason & 0x7fff0000 & ~VMX_EXIT_REASONS_BUS_LOCK),
		"exit reason", reason);
	require(t->cpu->bus_lock_detection || !(reason & VMX_EXIT_REASONS_BUS_LOCK), "bus lock", reason);
	require(cpu_tlb_check(t->cpu->tlb), "TLB", reason);
	require(!t->cpu->cs.fpu_loaded, "FPU still loaded", reason);
	require(!t->cpu->bus_locked && !t->m->bus, "split lock held", reason);
	require(!t->cpu->bus_lock_tlb && !t->cpu->bus_lock_detected, "bus lock left over", reason);
	return r;
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
	uint64_t how = rnd();
	unsigned mode = how % 3;

	machine_setup((void **)&t);
	if (how >> 63)
		W(SECONDARY_VM_EXEC_CONTROL,
		  R(t, SECONDARY_VM_EXEC_CONTROL) | SECONDARY_EXEC_BUS_LOCK_DETECTION);
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
			t->ram[GPA_CODE + n] = rnd8() & 3 ? rnd8() : common[rnd8() & 7];
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
		if (!k) {
			happened(mode);
			happened(R(t, VM_EXIT_REASON));
			happened(R(t, VM_EXIT_INTR_INFO));
		}
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
		happened(R(t, VM_EXIT_REASON));
		happened(R(t, EXIT_QUALIFICATION) & 0x1ff & -(R(t, VM_EXIT_REASON) == EXIT_REASON_EPT_VIOLATION));
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

/* Which check refuses the entry, all of them made. */
static const char *why_not(const struct vmcs *v)
{
	struct vmentry_failures f = { 0 };

	cpu_check_controls(v, &f);
	cpu_check_injection(v, &f);
	cpu_check_host_state(v, &f);
	cpu_check_guest_registers(v, &f);
	cpu_check_guest_state(v, &f);
	return f.nr ? vmentry_rows[f.at[0].check].name : NULL;
}

/* The processor leaves out checks whose outcome it knows: is it what all of them say? */
static void enter_checked(struct machine *t)
{
	const char *why = why_not(t->vmcs);
	bool refused = enter(t) == VMX_FAIL_VALID ||
		       (uint32_t)R(t, VM_EXIT_REASON) ==
			       (EXIT_REASON_INVALID_STATE | VMX_EXIT_REASONS_FAILED_VMENTRY);

	require(refused == !!why, why ? why : "refused for nothing", refused);
	while (why && *why)
		happened((uint8_t)*why++);
}

static void write_fields(struct machine *t)
{
	unsigned n = 1 + rnd() % 4;

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
}

static void fuzz_vmcs(void)
{
	struct machine *t;
	unsigned left = 8;

	(rnd() & 1 ? machine_setup : machine_setup_long)((void **)&t);
	preempt(t);
	CODE(t, 0x90, 0x48, 0x01, 0xd8, 0xeb, 0xfa);
	do {
		write_fields(t);
		vmx_kick(t->cpu);
		if (rnd() & 1)
			vmx_kick_clear(t->cpu);
		if (!(R(t, PIN_BASED_VM_EXEC_CONTROL) & PIN_BASED_VMX_PREEMPTION_TIMER))
			vmx_kick(t->cpu); /* nothing else would end it */
		enter_checked(t);
	} while (--left && (rnd() & 3));
	machine_teardown((void **)&t);
}

/* --- inputs and the corpus --- */

static struct {
	struct input in[CORPUS_MAX];
	uint64_t outcome[CORPUS_MAX];
	unsigned nr;
} corpus;

static void new_input(void)
{
	if (corpus.nr && (step(&seed) & 1)) {
		input = corpus.in[step(&seed) % corpus.nr];
		for (unsigned n = 1 + step(&seed) % 8; n--;)
			input.b[step(&seed) % input.nr_bytes] ^= (uint8_t)(1u << step(&seed) % 8);
		return;
	}
	input.nr_bytes = 8 + (uint32_t)(step(&seed) % 256);
	for (unsigned n = 0; n < input.nr_bytes; n++)
		input.b[n] = (uint8_t)(step(&seed) >> 24);
}

static void run_round(void (*round)(void))
{
	memcpy(&tail, input.b, 8);
	tail |= 1;
	used = 8;
	outcome = 0xcbf29ce484222325;
	if (input.b[0] & 3) /* a quarter of all rounds */
		unsetenv("USERKVM_CHECK");
	else
		setenv("USERKVM_CHECK", "tlb", 1);
	round();
}

static bool read_input(const char *path)
{
	int fd = open(path, O_RDONLY);
	ssize_t n = fd < 0 ? -1 : read(fd, input.b, sizeof(input.b));

	if (fd >= 0)
		close(fd);
	input.nr_bytes = n < 8 ? 0 : (uint32_t)n;
	return n >= 8;
}

static bool known_outcome(void)
{
	for (unsigned n = 0; n < corpus.nr; n++)
		if (corpus.outcome[n] == outcome)
			return true;
	return false;
}

static void add_to_corpus(void)
{
	corpus.in[corpus.nr] = input;
	corpus.outcome[corpus.nr++] = outcome;
}

/* Run what is in DIR/TARGET and keep it in memory. */
static void run_corpus(const char *dir, void (*round)(void))
{
	char path[4096];
	struct dirent *e;
	DIR *d;

	corpus.nr = 0;
	snprintf(path, sizeof(path), "%s/%s", dir, target);
	d = opendir(path);
	require(d, "no corpus in the directory given", 0);
	while ((e = readdir(d)) && corpus.nr < CORPUS_MAX) {
		snprintf(path, sizeof(path), "%s/%s/%s", dir, target, e->d_name);
		if (e->d_name[0] == '.' || !read_input(path))
			continue;
		run_round(round);
		add_to_corpus();
	}
	closedir(d);
}

static void collect(const char *dir)
{
	char path[4096];

	if (corpus.nr == CORPUS_MAX || known_outcome())
		return;
	snprintf(path, sizeof(path), "%s/%s/%016llx", dir, target, (unsigned long long)outcome);
	keep_input(path);
	add_to_corpus();
}

static const struct {
	const char *name;
	void (*round)(void);
} targets[] = { { "code", fuzz_code }, { "tables", fuzz_tables }, { "vmcs", fuzz_vmcs } };

static int replay(int argc, char **argv)
{
	for (size_t n = 0; n < ARRAY_SIZE(targets); n++) {
		if (strcmp(targets[n].name, argv[2]))
			continue;
		target = targets[n].name;
		for (int k = 3; k < argc; k++) {
			require(read_input(argv[k]), "cannot read an input", (uint64_t)k);
			run_round(targets[n].round);
		}
		return 0;
	}
	fprintf(stderr, "fuzz: no target %s\n", argv[2]);
	return 2;
}

static void fuzz(const char *dir, void (*round)(void), uint64_t seconds)
{
	time_t end = time(NULL) + (time_t)seconds;
	uint64_t rounds = 0;
	unsigned old;

	seed = (number("SEED", 0x5eed) * 0x9e3779b97f4a7c15ULL) | 1;
	run_corpus(dir, round);
	old = corpus.nr;
	for (; time(NULL) < end; rounds++) {
		new_input();
		run_round(round);
		if (number("FUZZ_COLLECT", 0))
			collect(dir);
	}
	printf("%s: %u inputs of the corpus, %llu new ones, %u added, %llu units\n", target, old,
	       (unsigned long long)rounds, corpus.nr - old, (unsigned long long)units);
	require(units || !number("FUZZ_UNITS", 0), "no unit was made", 0);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static const int fatal[] = { SIGABRT, SIGSEGV, SIGFPE, SIGILL, SIGBUS };

	if (argc < 2 || argc == 3) {
		fprintf(stderr, "usage: fuzz CORPUS [TARGET FILE...]\n");
		return 2;
	}
	for (size_t n = 0; n < ARRAY_SIZE(fatal); n++) /* what is not the guest's comes here by chaining */
		signal(fatal[n], on_abort);
	if (host_fault_init())
		return 1;
	kick_each_2ms();
	if (argc > 3)
		return replay(argc, argv);
	for (size_t n = 0; n < ARRAY_SIZE(targets); n++) {
		target = targets[n].name;
		fuzz(argv[1], targets[n].round, number("FUZZ_SECONDS", 3));
	}
	return 0;
}
