/*
 * How late interrupts are: a KVM client, run under `userkvm run` (and, unchanged,
 * on a kernel's /dev/kvm).
 *
 * Prints "name nanoseconds", medians. In a guest: from the write to the ICR to the
 * other vCPU's handler having stored a word, seen by the sender; a fixed IPI whose handler
 * ends it and answers with another, to the sender's handler, by xAPIC and by x2APIC; from the deadline
 * written to IA32_TSC_DEADLINE to the first instruction of its handler, the vCPU in
 * HLT. Beside them what a process gets: a signal to a running thread and back by a
 * word, and clock_nanosleep() to a time.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "processor.h"
#include "report.h"

#define ROUNDS 2001
#define SLEEP_NS 50000
#define MEM (1 << 20)
#define AT_NMI 0x500
#define AT_TIMER_HANDLER 0x540
#define AT_SLEEP_TICKS 0x708
#define AT_CODE 0x1000
#define AT_SPIN 0x1800
#define AT_RESULTS 0x2000
#define AT_ROUNDS 0x5000 /* `rounds` */

static int vm, vcpu[2];
static struct kvm_run *run[2];
static uint8_t *mem;

/* Real mode, segments at 0; x2APIC. 2001 rounds, a dword of ticks each at 2000h. */
extern const uint8_t ipi_code[], timer_code[], spin_code[], nmi_code[], timer_handler[], guest_end[];
__asm__(".pushsection .rodata\n"
	".code16\n"
	"ipi_code:\n"
	"   mov $0x2000, %di\n"
	"   mov $2001, %si\n"
	"1: movb $0, 0x700\n"
	"   rdtsc\n"
	"   mov %eax, %ebx\n"
	"   mov $0x830, %ecx\n"
	"   mov $1, %edx\n"
	"   mov $0x400, %eax\n" /* an NMI to APIC 1 */
	"   wrmsr\n"
	"2: cmpb $0, 0x700\n"
	"   je 2b\n"
	"   rdtsc\n"
	"   sub %ebx, %eax\n"
	"   mov %eax, (%di)\n"
	"   add $4, %di\n"
	"   dec %si\n"
	"   jnz 1b\n"
	"   out %al, $0x10\n"
	"timer_code:\n"
	"   mov $0x80f, %ecx\n"
	"   xor %edx, %edx\n"
	"   mov $0x1ff, %eax\n"
	"   wrmsr\n"
	"   mov $0x832, %ecx\n"
	"   mov $0x40020, %eax\n" /* TSC-deadline, vector 20h */
	"   wrmsr\n"
	"   mov $0x2000, %di\n"
	"   mov $2001, %si\n"
	"1: cli\n"
	"   rdtsc\n"
	"   add 0x708, %eax\n"
	"   adc $0, %edx\n"
	"   mov %eax, %ebx\n"
	"   mov $0x6e0, %ecx\n"
	"   wrmsr\n"
	"   sti\n"
	"   hlt\n"
	"   mov 0x704, %eax\n"
	"   sub %ebx, %eax\n"
	"   mov %eax, (%di)\n"
	"   add $4, %di\n"
	"   dec %si\n"
	"   jnz 1b\n"
	"   out %al, $0x10\n"
	"spin_code:\n"
	"1: jmp 1b\n"
	"nmi_code:\n"
	"   movb $1, 0x700\n"
	"   iret\n"
	"timer_handler:\n"
	"   rdtsc\n"
	"   mov %eax, 0x704\n"
	"   mov $0x80b, %ecx\n"
	"   xor %eax, %eax\n"
	"   xor %edx, %edx\n"
	"   wrmsr\n"
	"   iret\n"
	"guest_end:\n"
	".code64\n"
	".popsection");

/*
 * Two vCPUs that send each other a fixed IPI, as often: vector 21h to APIC 1 and 22h back. FS is at the
 * APIC's page. The peer's OUT says that it is ready. Each has a stack of its own (start()).
 */
extern const uint8_t rounds[], rounds_xapic[], peer_xapic[], ask_xapic[], answer_xapic[], rounds_x2apic[], peer_x2apic[],
	ask_x2apic[], answer_x2apic[], rounds_end[];
#define WRMSR(msr, hi, lo) "   mov $" msr ", %ecx\n   mov $" hi ", %edx\n   mov $" lo ", %eax\n   wrmsr\n"
#define XAPIC(reg, v) "   movl $" v ", %fs:" reg "\n"
#define ROUNDS_OF(send) \
	"   mov $0x2000, %di\n" \
	"   mov $2001, %si\n" \
	"   sti\n" \
	"1: movb $0, 0x700\n" \
	"   rdtsc\n" \
	"   mov %eax, %ebx\n" send \
	"2: cmpb $0, 0x700\n" \
	"   je 2b\n" \
	"   rdtsc\n" \
	"   sub %ebx, %eax\n" \
	"   mov %eax, (%di)\n" \
	"   add $4, %di\n" \
	"   dec %si\n" \
	"   jnz 1b\n" \
	"   cli\n" \
	"   out %al, $0x10\n"
#define PEER "   sti\n   out %al, $0x10\n1: jmp 1b\n"
__asm__(".pushsection .rodata\n"
	".code16\n"
	"rounds:\n"
	"rounds_xapic:\n" XAPIC("0xf0", "0x1ff") XAPIC("0x310", "0x1000000") ROUNDS_OF(XAPIC("0x300", "0x21"))
	"peer_xapic:\n" XAPIC("0xf0", "0x1ff") XAPIC("0x310", "0") PEER
	"ask_xapic:\n" XAPIC("0xb0", "0") XAPIC("0x300", "0x22") "   iret\n"
	"answer_xapic:\n" XAPIC("0xb0", "0") "   movb $1, 0x700\n   iret\n"
	"rounds_x2apic:\n" WRMSR("0x80f", "0", "0x1ff") ROUNDS_OF(WRMSR("0x830", "1", "0x21"))
	"peer_x2apic:\n" WRMSR("0x80f", "0", "0x1ff") PEER
	"ask_x2apic:\n" WRMSR("0x80b", "0", "0") WRMSR("0x830", "0", "0x22") "   iret\n"
	"answer_x2apic:\n" WRMSR("0x80b", "0", "0") "   movb $1, 0x700\n   iret\n"
	"rounds_end:\n"
	".code64\n"
	".popsection");

static void set_cpuid(int kvm, int cpu, uint32_t apic_id)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + 256 * sizeof(c->entries[0]));

	if (!c)
		err(1, "calloc");
	c->nent = 256;
	must(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, c), "KVM_GET_SUPPORTED_CPUID");
	for (uint32_t i = 0; i < c->nent; i++) {
		if (c->entries[i].function == 1) {
			c->entries[i].ecx |= 1u << 24; /* TSC-deadline: KVM_CAP_TSC_DEADLINE_TIMER */
			c->entries[i].ebx = (c->entries[i].ebx & 0xffffff) | apic_id << 24;
		}
		if (c->entries[i].function == 0xb)
			c->entries[i].edx = apic_id;
	}
	must(ioctl(cpu, KVM_SET_CPUID2, c), "KVM_SET_CPUID2");
	free(c);
}

static void start(int cpu, uint16_t ip, bool x2apic)
{
	struct kvm_regs r = { .rip = ip, .rflags = 2, .rsp = cpu == vcpu[0] ? 0x8000 : 0x9000 };
	struct kvm_mp_state running = { KVM_MP_STATE_RUNNABLE };
	struct kvm_sregs s;

	must(ioctl(cpu, KVM_GET_SREGS, &s), "KVM_GET_SREGS");
	s.cs.base = s.cs.selector = 0;
	s.apic_base |= (x2apic ? 3 : 2) << 10;
	s.fs.base = 0xfee00000;
	s.fs.selector = 0;
	must(ioctl(cpu, KVM_SET_SREGS, &s), "KVM_SET_SREGS");
	must(ioctl(cpu, KVM_SET_REGS, &r), "KVM_SET_REGS");
	must(ioctl(cpu, KVM_SET_MP_STATE, &running), "KVM_SET_MP_STATE");
}

static void open_vm(void)
{
	int kvm = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	int size = must(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
	struct kvm_userspace_memory_region slot = { .memory_size = MEM };

	vm = must(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	mem = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		err(1, "mmap");
	slot.userspace_addr = (uintptr_t)mem;
	must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	must(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
	for (int n = 0; n < 2; n++) {
		vcpu[n] = must(ioctl(vm, KVM_CREATE_VCPU, n), "KVM_CREATE_VCPU");
		run[n] = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu[n], 0);
		if (run[n] == MAP_FAILED)
			err(1, "mmap of a vCPU");
		set_cpuid(kvm, vcpu[n], (uint32_t)n);
	}
	memcpy(mem + AT_NMI, nmi_code, (size_t)(timer_handler - nmi_code));
	memcpy(mem + AT_TIMER_HANDLER, timer_handler, (size_t)(guest_end - timer_handler));
	memcpy(mem + 2 * 4, &(uint32_t){ AT_NMI }, 4);
	memcpy(mem + 0x20 * 4, &(uint32_t){ AT_TIMER_HANDLER }, 4);
}

static void *spin(void *arg)
{
	own_processor(1);
	while (ioctl(vcpu[1], KVM_RUN, 0) == 0)
		;
	return NULL;
}

static void no_more(int signo)
{
}

/* Runs vCPU 0 to its OUT. */
static void take_results(const char *name, double ns_per_tick)
{
	double v[ROUNDS];
	uint32_t ticks;

	must(ioctl(vcpu[0], KVM_RUN, 0), "KVM_RUN");
	if (run[0]->exit_reason != KVM_EXIT_IO)
		errx(1, "%s: exit reason %u", name, run[0]->exit_reason);
	for (int i = 0; i < ROUNDS; i++) {
		memcpy(&ticks, mem + AT_RESULTS + 4 * i, 4);
		v[i] = ticks * ns_per_tick;
	}
	report(name, v, ROUNDS);
}

static void measure(const char *name, const uint8_t *code, const uint8_t *end, double ns_per_tick)
{
	memcpy(mem + AT_CODE, code, (size_t)(end - code));
	start(vcpu[0], AT_CODE, true);
	take_results(name, ns_per_tick);
}

static void stop_spinning(pthread_t t)
{
	run[1]->immediate_exit = 1;
	pthread_kill(t, SIGUSR1);
	pthread_join(t, NULL);
	any_processor();
	run[1]->immediate_exit = 0;
}

static void start_spinning(pthread_t *t)
{
	own_processor(0);
	if (pthread_create(t, NULL, spin, NULL))
		errx(1, "no thread");
}

static uint16_t at(const uint8_t *code)
{
	return (uint16_t)(AT_ROUNDS + (code - rounds));
}

static void measure_rounds(const char *name, bool x2apic, double ns_per_tick)
{
	uint32_t handlers[] = { at(x2apic ? ask_x2apic : ask_xapic), at(x2apic ? answer_x2apic : answer_xapic) };
	pthread_t t;

	memcpy(mem + AT_ROUNDS, rounds, (size_t)(rounds_end - rounds));
	memcpy(mem + 0x21 * 4, handlers, sizeof(handlers));
	start(vcpu[1], at(x2apic ? peer_x2apic : peer_xapic), x2apic);
	must(ioctl(vcpu[1], KVM_RUN, 0), "KVM_RUN of the peer");
	start_spinning(&t);
	start(vcpu[0], at(x2apic ? rounds_x2apic : rounds_xapic), x2apic);
	take_results(name, ns_per_tick);
	stop_spinning(t);
}

/* --- what a process gets --- */

static uint32_t word;
static bool stop;

static void answer(int signo)
{
	__atomic_store_n(&word, 1, __ATOMIC_SEQ_CST);
}

static void *spin_natively(void *arg)
{
	own_processor(1);
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
		;
	return NULL;
}

static void signals(void)
{
	double v[ROUNDS];
	pthread_t t;

	signal(SIGUSR2, answer);
	own_processor(0);
	if (pthread_create(&t, NULL, spin_natively, NULL))
		errx(1, "no thread");
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t from = now();

		__atomic_store_n(&word, 0, __ATOMIC_SEQ_CST);
		pthread_kill(t, SIGUSR2);
		while (!__atomic_load_n(&word, __ATOMIC_SEQ_CST))
			;
		v[i] = (double)(now() - from);
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(t, NULL);
	any_processor();
	report("signal", v, ROUNDS);
}

static void sleeps(void)
{
	double v[ROUNDS];

	for (int i = 0; i < ROUNDS; i++) {
		uint64_t until = now() + SLEEP_NS;
		struct timespec t = { (time_t)(until / 1000000000), (long)(until % 1000000000) };

		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
			;
		v[i] = (double)(now() - until);
	}
	report("sleep", v, ROUNDS);
}

int main(void)
{
	double khz, ns_per_tick;
	uint32_t ticks;
	pthread_t t;

	prctl(PR_SET_TIMERSLACK, 1);
	open_vm();
	khz = must(ioctl(vcpu[0], KVM_GET_TSC_KHZ, 0), "KVM_GET_TSC_KHZ");
	ns_per_tick = 1e6 / khz;
	ticks = (uint32_t)(SLEEP_NS / ns_per_tick);
	memcpy(mem + AT_SLEEP_TICKS, &ticks, 4);
	sigaction(SIGUSR1, &(struct sigaction){ .sa_handler = no_more }, NULL);
	measure_rounds("ipi_xapic", false, ns_per_tick);
	measure("timer", timer_code, spin_code, ns_per_tick);

	memcpy(mem + AT_SPIN, spin_code, (size_t)(nmi_code - spin_code));
	start(vcpu[1], AT_SPIN, true);
	start_spinning(&t);
	measure("ipi", ipi_code, timer_code, ns_per_tick);
	stop_spinning(t);
	measure_rounds("ipi_x2apic", true, ns_per_tick);
	signals();
	sleeps();
	return 0;
}
