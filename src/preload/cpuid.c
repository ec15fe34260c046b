/*
 * The CPUID instruction as a host with VMX answers it, for programs that execute it
 * before they open /dev/kvm (kvm-ok's and libvirt's kind): leaf 1 says VMX. All else is the machine's.
 *
 *   CPUID ─ #GP by "CPUID faulting" (arch_prctl) ─> SIGSEGV ─> answer() ─> the next instruction
 *
 * Where the machine has no CPUID faulting, USERKVM_HOST_VMX=0 or the program brings signal
 * handling of its own (valgrind, sanitizers), the instruction is left alone. In the host of static programs
 * (src/trap) faulting is the program's: that room turns it on and off.
 *
 * Invariants
 * 1. Faulting is on in a thread only while SIGSEGV is open there: blocked, the kernel would end the
 *    program. It is kept open where the program blocks it by libc's sigprocmask() or pthread_sigmask(), or by a handler's
 *    mask (host/fault.h, host_fault_hold_segv()). preload_cpuid_mask() hears of every change that comes by libc: one that
 *    blocks it all the same turns faulting off.
 *    A thread that puts a seccomp filter on executes the instruction from then on, and arch_prctl() no more,
 *    which the filter may forbid; of threads that have come to be since it is not known, as it may be one of those that
 *    made them: they stay as they were made.
 * 2. Leaves that libraries look at late (a program may have confined itself by then) are read before
 *    faulting is turned on; another leaf is read by turning it off for one instruction, and kept. Leaves
 *    that hold the number of the processor are read each time. Before a filter for all threads, which may forbid
 *    arch_prctl() to those where CPUID faults, all leaves are read.
 *
 * Locks: none. `known` grows by one at a time; a reader sees entries below nr_known only.
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "abi/abi.h"
#include "lib/program.h"
#include "lib/types.h"
#include "lib/valgrind.h"
#include "preload/real.h"

#define ARCH_SET_CPUID 0x1012
#define LEAF1_ECX_VMX (1u << 5)
#define TRAP_GP 13
#define NR_KNOWN 512
#define LONGEST 15
#define NR_IN_RANGE 40

struct leaf {
	uint32_t leaf, subleaf, r[4]; /* EAX EBX ECX EDX */
};

static struct leaf known[NR_KNOWN];
static uint32_t nr_known;
static bool on; /* (c) after the constructor */
static bool confined_any, confined_all; /* (a) a thread, or all at once, under a filter of the program's */
static __thread enum { UNKNOWN, FAULTS, EXECUTES, CONFINED } here __attribute__((tls_model("initial-exec")));

static int set_cpuid(bool executes)
{
	return (int)syscall(SYS_arch_prctl, ARCH_SET_CPUID, executes ? 1UL : 0UL);
}

static void execute(struct leaf *l)
{
	__asm__ volatile("cpuid"
			 : "=a"(l->r[0]), "=b"(l->r[1]), "=c"(l->r[2]), "=d"(l->r[3])
			 : "a"(l->leaf), "c"(l->subleaf));
	if (l->leaf == 1)
		l->r[2] |= LEAF1_ECX_VMX;
}

/* Topology: its EDX or EAX is the processor's own number. */
static bool is_the_processors(uint32_t leaf)
{
	return leaf == 0xb || leaf == 0x1f || leaf == 0x8000001e;
}

static void keep(const struct leaf *l)
{
	uint32_t n = __atomic_load_n(&nr_known, __ATOMIC_ACQUIRE);
	static uint32_t writing;

	if (n == NR_KNOWN || __atomic_exchange_n(&writing, 1, __ATOMIC_ACQUIRE))
		return; /* another thread writes: this leaf is kept next time */
	n = __atomic_load_n(&nr_known, __ATOMIC_RELAXED);
	if (n < NR_KNOWN) {
		known[n] = *l;
		__atomic_store_n(&nr_known, n + 1, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&writing, 0, __ATOMIC_RELEASE);
}

static bool is_known(struct leaf *l)
{
	uint32_t n = __atomic_load_n(&nr_known, __ATOMIC_ACQUIRE);

	for (uint32_t i = 0; i < n; i++)
		if (known[i].leaf == l->leaf && known[i].subleaf == l->subleaf) {
			*l = known[i];
			return true;
		}
	return false;
}

static void find(struct leaf *l)
{
	bool all_are_known = READ_ONCE(confined_all), of_processor = is_the_processors(l->leaf);

	if ((all_are_known || !of_processor) && is_known(l))
		return;
	if (all_are_known) { /* no leaf of this machine's */
		memset(l->r, 0, sizeof(l->r));
		return;
	}
	set_cpuid(true);
	execute(l);
	set_cpuid(false);
	if (!of_processor)
		keep(l);
}

static void read_leaf(uint32_t leaf, uint32_t nr_subleaves)
{
	for (uint32_t n = 0; n < nr_subleaves; n++) {
		struct leaf l = { .leaf = leaf, .subleaf = n };

		if (is_known(&l))
			continue;
		execute(&l);
		keep(&l);
	}
}

/* Where it executes. Past the last subleaf that a leaf can have today Intel's processors answer zeros. */
static void read_all(void)
{
	static const uint32_t first[] = { 0, 0x40000000, 0x80000000 };

	for (size_t i = 0; i < sizeof(first) / sizeof(first[0]); i++) {
		struct leaf l = { .leaf = first[i] };

		execute(&l);
		for (uint32_t n = first[i]; n <= l.r[0] && n - first[i] < NR_IN_RANGE; n++)
			read_leaf(n, n == 0xd ? 64 : n < first[1] ? 8 : 4);
	}
}

/* Length of the CPUID at p, prefixes included; 0: it is another instruction. */
static unsigned cpuid_length(const uint8_t *p)
{
	unsigned n = 0;

	while (n < LONGEST - 2 && (p[n] == 0x66 || p[n] == 0x67 || p[n] == 0xf2 || p[n] == 0xf3 || (p[n] & 0xf0) == 0x40))
		n++;
	return p[n] == 0x0f && p[n + 1] == 0xa2 ? n + 2 : 0;
}

/* In SIGSEGV's handler, before anyone else: was it CPUID, of 64-bit code? */
static bool answer(int signo, siginfo_t *si, void *ucontext)
{
	greg_t *regs = ((ucontext_t *)ucontext)->uc_mcontext.gregs;
	struct leaf l = { .leaf = (uint32_t)regs[REG_RAX], .subleaf = (uint32_t)regs[REG_RCX] };
	unsigned length;

	if (signo != SIGSEGV || si->si_code != SI_KERNEL || regs[REG_TRAPNO] != TRAP_GP || regs[REG_ERR])
		return false;
	length = cpuid_length((const uint8_t *)regs[REG_RIP]);
	if (!length)
		return false;
	find(&l);
	regs[REG_RAX] = l.r[0];
	regs[REG_RBX] = l.r[1];
	regs[REG_RCX] = l.r[2];
	regs[REG_RDX] = l.r[3];
	regs[REG_RIP] += length;
	return true;
}

bool preload_segv_stays_open(void)
{
	return on && here != CONFINED;
}

/* May it make arch_prctl() calls, and is it known whether CPUID faults in it? */
static bool may_change(void)
{
	return on && here != CONFINED && !READ_ONCE(confined_all) && !(here == UNKNOWN && READ_ONCE(confined_any));
}

void preload_segv_block(void)
{
	sigset_t segv;

	if (may_change())
		set_cpuid(true);
	sigemptyset(&segv);
	sigaddset(&segv, SIGSEGV);
	REAL(pthread_sigmask)(SIG_BLOCK, &segv, NULL);
	if (abi_memory_is_borrowed())
		return; /* what is thread-local is its parent's */
	if (may_change())
		here = EXECUTES;
	abi_mask_changed();
}

void preload_cpuid_mask(void)
{
	sigset_t now;
	bool blocked;

	if (!may_change() || REAL(pthread_sigmask)(SIG_BLOCK, NULL, &now))
		return;
	blocked = sigismember(&now, SIGSEGV) == 1;
	if (abi_memory_is_borrowed()) /* `here` is its parent's in a child of vfork() */
		set_cpuid(blocked);
	else if ((here != UNKNOWN && blocked == (here == EXECUTES)) || set_cpuid(blocked) == 0)
		here = blocked ? EXECUTES : FAULTS;
}

/* In a thread where it executes. */
static void all_confined(void)
{
	read_all();
	WRITE_ONCE(confined_all, true);
}

void preload_cpuid_confined(bool all_threads)
{
	if (!on || here == CONFINED)
		return;
	if (abi_segv_is_held())
		preload_segv_block();
	set_cpuid(true);
	if (abi_memory_is_borrowed())
		return;
	here = CONFINED;
	WRITE_ONCE(confined_any, true);
	if (all_threads)
		all_confined();
}

EXPORT int prctl(int option, ...);
EXPORT int prctl(int option, ...)
{
	unsigned long a[4];
	va_list ap;

	va_start(ap, option);
	for (int i = 0; i < 4; i++)
		a[i] = va_arg(ap, unsigned long);
	va_end(ap);
	if (option == PR_SET_SECCOMP && (a[0] != SECCOMP_MODE_FILTER || a[1]) && !preload_is_own_code(__builtin_return_address(0)))
		preload_cpuid_confined(false);
	return ((int (*)(int, unsigned long, unsigned long, unsigned long, unsigned long))REAL(prctl))(option, a[0], a[1], a[2], a[3]);
}

/* A thread of the program that src/trap serves; or a sent SIGSEGV is about to wait for this thread. */
static void executes(bool blocked)
{
	if (READ_ONCE(confined_all))
		return;
	set_cpuid(blocked);
	if (!abi_memory_is_borrowed())
		here = blocked ? EXECUTES : FAULTS;
}

static void read_early(void)
{
	static const uint32_t early[][2] = {
		{ 0, 0 }, { 1, 0 }, { 4, 0 }, { 4, 1 }, { 4, 2 }, { 4, 3 }, { 7, 0 }, { 7, 1 }, { 0xd, 0 }, { 0xd, 1 },
		{ 0x80000000, 0 }, { 0x80000001, 0 }, { 0x80000007, 0 }, { 0x80000008, 0 },
	};

	for (size_t i = 0; i < sizeof(early) / sizeof(early[0]); i++) {
		struct leaf l = { .leaf = early[i][0], .subleaf = early[i][1] };

		execute(&l);
		keep(&l);
	}
}

/* A sanitizer's runtime takes the signals without asking libc. */
static bool takes_signals_itself(void)
{
	return dlsym(RTLD_DEFAULT, "__asan_init") || dlsym(RTLD_DEFAULT, "__tsan_init") || dlsym(RTLD_DEFAULT, "__msan_init");
}

__attribute__((constructor)) static void show_vmx(void)
{
	sigset_t now;

	if (!preload_shows_vmx() || lib_on_valgrind() || takes_signals_itself() ||
	    !preload_is_own_code(dlsym(RTLD_DEFAULT, "sigaction")) ||
	    !preload_is_own_code(dlsym(RTLD_DEFAULT, "pthread_sigmask")) ||
	    REAL(pthread_sigmask)(SIG_BLOCK, NULL, &now) || sigismember(&now, SIGSEGV) == 1)
		return;
	if (set_cpuid(false)) /* ENODEV: the machine cannot */
		return;
	set_cpuid(true);
	read_early();
	if (abi_first_at_faults(answer, executes, all_confined) == 0 && !program_is_trapping_host() && set_cpuid(false) == 0)
		on = true;
}
