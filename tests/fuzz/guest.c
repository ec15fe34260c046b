/*
 * Hostile guests under the whole hypervisor, and hostile state put into it.
 *
 *   hostile  user-mode code on vCPU 0 (64-bit or compatibility mode, IOPL 0, no I/O bitmap), over memory, a
 *            read-only slot, a device's page, second mappings, both canonical edges; vCPU 1 changes its code
 *            meanwhile, or is a hostile kernel that makes hypercalls, writes MSRs and sends interrupts
 *   state    registers, segments, tables, XSAVE images, events and MSRs by the ioctls, edges preferred; then a run
 *
 * Oracles, beside sanitizers and that the process lives:
 *   1. No KVM_EXIT_IO comes from CPL 3.
 *   2. User mode alone never ends the VM: no internal error, shutdown or HLT from CPL 3.
 *   3. No KVM_EXIT_FAIL_ENTRY after an entry that succeeded, unless the client has set state since.
 *   4. KVM_RUN fails with EINTR only; no VM dies (EIO).
 *   5. A round ends in time, and memory of the library's does not grow from round to round.
 *
 * usage: fuzz-guest CORPUS                  each input of the corpus, then new ones
 *        fuzz-guest CORPUS TARGET FILE...   these inputs alone
 * An input is decisions, a byte each; a generator seeded by its first 8 bytes goes on where they end. An input
 * that took a new edge (edges.c) or had a new outcome is a parent of others; FUZZ_COLLECT=1 adds it to the
 * corpus. Environment: SEED, FUZZ_SECONDS (each target; 3). What fails is written to fuzz-TARGET.input.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "edges.h"
#include "lib/own.h"
#include "userkvm/userkvm.h"

#define INPUT_MAX 256
#define CORPUS_MAX 512
#define ARRAY(a) (sizeof(a) / sizeof((a)[0]))

/* --- inputs --- */

struct input {
	uint32_t nr;
	uint8_t b[INPUT_MAX];
};
static struct input corpus[CORPUS_MAX], input;
static uint32_t nr_corpus, used;
static uint64_t tail, seed, outcome;
static const char *target;

static uint64_t step(uint64_t *g)
{
	*g ^= *g << 13;
	*g ^= *g >> 7;
	*g ^= *g << 17;
	return *g * 0x2545f4914f6cdd1d;
}

static uint8_t rnd8(void)
{
	return used < input.nr ? input.b[used++] : (uint8_t)(step(&tail) >> 32);
}

static uint64_t rnd(void)
{
	uint64_t v = 0;

	for (unsigned n = 0; n < 8; n++)
		v = v << 8 | rnd8();
	return v;
}

static unsigned one_of(unsigned n)
{
	return rnd8() % n;
}

static void happened(uint64_t what)
{
	outcome = (outcome ^ what) * 0x100000001b3;
}

static void save(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	if (fd >= 0 && write(fd, input.b, input.nr) < 0)
		perror(path);
	if (fd >= 0)
		close(fd);
}

#define FAIL(...)                                                          \
	do {                                                               \
		char name_[64];                                            \
		fprintf(stderr, "fuzz-guest %s: ", target);                \
		fprintf(stderr, __VA_ARGS__);                              \
		snprintf(name_, sizeof(name_), "fuzz-%s.input", target);   \
		save(name_);                                               \
		fprintf(stderr, "\n  written to %s\n", name_);             \
		exit(1);                                                   \
	} while (0)

/* --- the world --- */

#define RAM_BYTES (2u << 20)
#define PML4 0x1000
#define PDPT 0x2000
#define PD 0x3000
#define PT 0x4000   /* 0 .. 2 MiB: supervisor below USER, and the user's from there */
#define PT2 0x5000  /* 2 .. 4 MiB: what the user meets */
#define TSS 0x6000  /* vCPU n's at + 0x800 * n */
#define GDT 0x7000
#define IDT 0x8000
#define STUBS 0x9000
#define EDGE_TABLES 0x30000 /* PDPT, PD, PT of either canonical edge */
#define USER 0x40000
#define CODE 0x40000
#define KERNEL_CODE 0x20000
#define BYTES 0x22000 /* what vCPU 1 writes over the code */
#define DATA 0x50000
#define WINDOW 0x200000ull /* VA: device, ROM, code again, device, nothing */
#define ROM_GPA 0x400000
#define DEVICE 0xd0000000u
#define P 1u
#define RW 2u
#define US 4u

struct vcpu {
	int fd;
	struct kvm_run *run;
};
static struct {
	int kvm, vm;
	uint8_t *ram, *rom;
	struct vcpu v[2];
	bool hyperv, fetches;
	unsigned rounds;
} w;
static volatile bool stop, ended;
static bool hostile_kernel;

static int call(int fd, unsigned long request, void *arg)
{
	return userkvm_ioctl(fd, request, (unsigned long)arg);
}

static void close_world(void)
{
	if (!w.vm)
		return;
	for (unsigned i = 0; i < 2; i++) {
		munmap(w.v[i].run, (size_t)userkvm_ioctl(w.kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
		userkvm_close(w.v[i].fd);
	}
	userkvm_close(w.vm);
	userkvm_close(w.kvm);
	w.vm = 0;
}

static void set_cpuid(int vcpu)
{
	static struct {
		struct kvm_cpuid2 h;
		struct kvm_cpuid_entry2 e[256];
	} c, hv;

	c.h.nent = 200;
	call(w.kvm, KVM_GET_SUPPORTED_CPUID, &c);
	hv.h.nent = 32;
	if (w.hyperv && call(w.kvm, KVM_GET_SUPPORTED_HV_CPUID, &hv) == 0) {
		for (unsigned i = 0; i < c.h.nent; i++)
			if (c.e[i].function >> 8 == 0x400000)
				c.e[i].function += 0x100;
		memcpy(c.e + c.h.nent, hv.e, hv.h.nent * sizeof(hv.e[0]));
		c.h.nent += hv.h.nent;
	}
	if (call(vcpu, KVM_SET_CPUID2, &c))
		FAIL("KVM_SET_CPUID2: %s", strerror(errno));
}

static void memory(uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t size, void *p)
{
	struct kvm_userspace_memory_region m = { slot, flags, gpa, size, (uintptr_t)p };

	if (call(w.vm, KVM_SET_USER_MEMORY_REGION, &m))
		FAIL("KVM_SET_USER_MEMORY_REGION: %s", strerror(errno));
}

/* fetches: the emulator does not get the bytes that ran, but fetches them again (a check that vCPUs read at their creation). */
static void open_world(bool hyperv, bool fetches)
{
	size_t size;

	close_world();
	setenv("USERKVM_CHECK", fetches ? "emulate" : "0", 1);
	w.hyperv = hyperv;
	w.fetches = fetches;
	w.rounds = 0;
	w.kvm = userkvm_open("/dev/kvm", O_RDWR | O_CLOEXEC);
	w.vm = userkvm_ioctl(w.kvm, KVM_CREATE_VM, 0);
	size = (size_t)userkvm_ioctl(w.kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	call(w.vm, KVM_CREATE_IRQCHIP, NULL);
	if (!w.ram) {
		w.ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		w.rom = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	}
	memory(0, 0, 0, RAM_BYTES, w.ram);
	memory(1, KVM_MEM_READONLY, ROM_GPA, 65536, w.rom);
	memory(1 << 16, 0, 0, RAM_BYTES, w.ram); /* in SMM */
	for (unsigned i = 0; i < 2; i++) {
		struct kvm_enable_cap synic = { .cap = KVM_CAP_HYPERV_SYNIC2 };

		w.v[i].fd = userkvm_ioctl(w.vm, KVM_CREATE_VCPU, i);
		if (w.v[i].fd < 0)
			FAIL("KVM_CREATE_VCPU: %s", strerror(errno));
		w.v[i].run = userkvm_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, w.v[i].fd, 0);
		set_cpuid(w.v[i].fd);
		if (hyperv)
			call(w.v[i].fd, KVM_ENABLE_CAP, &synic);
	}
}

static uint64_t *table(unsigned at)
{
	return (uint64_t *)(w.ram + at);
}

/* Tables, GDT, IDT, TSSs and stubs: (pop the error code;) out VECTOR, al; jmp $ */
static void fill_ram(void)
{
	memset(w.ram, 0, 0x80000);
	table(PML4)[0] = PDPT | P | RW | US;
	table(PDPT)[0] = PD | P | RW | US;
	table(PDPT)[3] = 0xc0000083; /* 3 .. 4 GiB as is: the APICs, for the kernel */
	table(PD)[0] = PT | P | RW | US;
	table(PD)[1] = PT2 | P | RW | US;
	for (unsigned n = 0; n < 512; n++)
		table(PT)[n] = n << 12 | P | RW | (n << 12 >= USER ? US : 0);
	table(PT2)[0] = DEVICE | P | RW | US;
	table(PT2)[1] = ROM_GPA | P | RW | US;
	table(PT2)[2] = (CODE + 0x1000) | P | RW | US;
	table(PT2)[3] = (DEVICE + 0x1000) | P | RW | US;
	for (unsigned side = 0; side < 2; side++) {
		unsigned at = EDGE_TABLES + side * 0x3000, n = side ? 0 : 511;

		table(PML4)[side ? 256 : 255] = at | P | RW | US;
		table(at)[n] = (at + 0x1000) | P | RW | US;
		table(at + 0x1000)[n] = (at + 0x2000) | P | RW | US;
		table(at + 0x2000)[n] = (CODE + (side ? 0x2000 : 0)) | P | RW | US;
	}
	table(GDT)[1] = 0x00af9b000000ffff;
	table(GDT)[2] = 0x00cf93000000ffff;
	table(GDT)[3] = 0x00cffb000000ffff;
	table(GDT)[4] = 0x00cff3000000ffff;
	table(GDT)[5] = 0x00affb000000ffff;
	for (unsigned i = 0; i < 2; i++) {
		table(GDT)[6 + 2 * i] = 0x0000890000000067 | (uint64_t)(TSS + i * 0x800) << 16;
		memcpy(w.ram + TSS + i * 0x800 + 4, &(uint64_t){ 0x1f000 - i * 0x2000 }, 8);
		*(uint16_t *)(w.ram + TSS + i * 0x800 + 0x66) = 0x68;
	}
	for (unsigned v = 0; v < 256; v++) {
		bool code = v == 8 || (v >= 10 && v <= 14) || v == 17 || v == 21;
		uint64_t at = STUBS + v * 16;
		uint8_t *s = w.ram + at;

		if (code)
			memcpy(s, "\x48\x83\xc4\x08", 4);
		s += code ? 4 : 0;
		memcpy(s, "\xe6\x00\xeb\xfe", 4);
		s[1] = (uint8_t)v;
		table(IDT)[2 * v] = (at & 0xffff) | 8ull << 16 | (v == 3 || v == 4 ? 0xeeull : 0x8eull) << 40;
	}
}

static struct kvm_segment segment(uint16_t selector, uint8_t type, bool wide)
{
	return (struct kvm_segment){ .limit = ~0u, .selector = selector, .type = type, .present = 1, .s = 1,
				     .dpl = selector & 3, .g = 1, .db = !wide, .l = wide };
}

/* user: 64-bit code of CPL 3, or compatibility mode. */
static void put_state(unsigned i, bool user, bool wide, struct kvm_regs *g, uint64_t cr4)
{
	struct kvm_sregs s;
	struct kvm_xcrs x = { .nr_xcrs = 1, .xcrs[0].value = 7 };
	struct kvm_vcpu_events events = { .flags = KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM };
	struct kvm_mp_state running = { KVM_MP_STATE_RUNNABLE };
	int fd = w.v[i].fd;

	if (call(fd, KVM_GET_SREGS, &s))
		FAIL("KVM_GET_SREGS: %s", strerror(errno));
	s.cs = segment(user ? (wide ? 0x2b : 0x1b) : 8, 11, wide);
	s.ds = s.es = s.fs = s.gs = s.ss = segment(user ? 0x23 : 0x10, 3, false);
	s.tr = (struct kvm_segment){ .base = TSS + i * 0x800, .limit = 0x67, .selector = (uint16_t)(0x30 + 16 * i),
				     .type = 11, .present = 1 };
	s.gdt.base = GDT;
	s.gdt.limit = 0x7f;
	s.idt.base = IDT;
	s.idt.limit = 0xfff;
	s.cr0 = 0x80050033;
	s.cr3 = PML4;
	s.cr4 = 0x620 | cr4;
	s.efer = 0xd00; /* no SYSCALL: its stack would be the user's */
	memset(s.interrupt_bitmap, 0, sizeof(s.interrupt_bitmap));
	call(fd, KVM_SET_VCPU_EVENTS, &events);
	if (call(fd, KVM_SET_SREGS, &s))
		FAIL("KVM_SET_SREGS: %s", strerror(errno));
	s.cr4 |= 0x40000; /* OSXSAVE */
	call(fd, KVM_SET_SREGS, &s);
	call(fd, KVM_SET_XCRS, &x);
	call(fd, KVM_SET_MP_STATE, &running);
	if (call(fd, KVM_SET_REGS, g))
		FAIL("KVM_SET_REGS: %s", strerror(errno));
}

/* --- code --- */

/* Opcodes with a ModRM that meet devices, tables and privilege more often than chance has it. */
static const uint8_t with_modrm[][4] = {
	{ 1, 0x89 }, { 1, 0x8b }, { 1, 0x01 }, { 1, 0x87 }, { 1, 0xff }, { 1, 0x8e }, { 1, 0x8c }, { 1, 0x8f },
	{ 1, 0xf7 }, { 1, 0xd1 }, { 1, 0xd9 }, { 1, 0xdd }, { 2, 0x0f, 0x00 }, { 2, 0x0f, 0x01 }, { 2, 0x0f, 0xae },
	{ 2, 0x0f, 0xc7 }, { 2, 0x0f, 0xb1 }, { 2, 0x0f, 0xba }, { 2, 0x0f, 0xc1 }, { 2, 0x0f, 0x11 }, { 2, 0x0f, 0x6f },
	{ 2, 0x0f, 0x7f }, { 2, 0x0f, 0xe7 }, { 2, 0x0f, 0xb2 }, { 2, 0x0f, 0x18 }, { 2, 0x0f, 0x0d }, { 2, 0x0f, 0x02 },
	{ 3, 0x0f, 0x38, 0xf0 }, { 3, 0x0f, 0x38, 0xf8 }, { 3, 0x0f, 0x38, 0x82 }, { 3, 0x0f, 0x3a, 0x0f },
};
static const uint8_t plain[][4] = {
	{ 1, 0xee }, { 1, 0xec }, { 2, 0xe7, 0x70 }, { 1, 0x6c }, { 1, 0x6e }, { 2, 0xf3, 0x6d }, { 2, 0xf3, 0x6f },
	{ 1, 0xa4 }, { 2, 0xf3, 0xa5 }, { 2, 0xf3, 0xab }, { 1, 0xae }, { 1, 0xf4 }, { 1, 0xfa }, { 1, 0xfb },
	{ 2, 0x0f, 0xa2 }, { 2, 0x0f, 0x31 }, { 2, 0x0f, 0x32 }, { 2, 0x0f, 0x30 }, { 2, 0x0f, 0x05 }, { 2, 0x0f, 0x34 },
	{ 3, 0x0f, 0x01, 0xc1 }, { 3, 0x0f, 0x01, 0xd9 }, { 3, 0x0f, 0x01, 0xd1 }, { 2, 0x0f, 0xaa }, { 1, 0x9d },
	{ 1, 0x9c }, { 1, 0xcf }, { 1, 0xcb }, { 1, 0xf1 }, { 1, 0xcc }, { 2, 0xcd, 0x80 }, { 1, 0x60 }, { 1, 0x61 },
	{ 3, 0x0f, 0x20, 0xd8 }, { 3, 0x0f, 0x22, 0xd8 }, { 3, 0x0f, 0x23, 0xf8 }, { 2, 0x0f, 0x06 }, { 2, 0x0f, 0x08 },
	{ 3, 0x0f, 0x01, 0xf8 }, { 3, 0x0f, 0x01, 0xd0 }, { 1, 0x9b }, { 2, 0x0f, 0x77 }, { 1, 0xd6 }, { 1, 0xd7 },
};

static unsigned instruction(uint8_t *to)
{
	static const uint8_t prefix[] = { 0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x64, 0x2e, 0x48, 0x4c, 0x41 };
	unsigned n = 0;
	const uint8_t *t;

	for (unsigned k = one_of(4) ? 0 : 1 + one_of(3); k; k--)
		to[n++] = prefix[one_of(ARRAY(prefix))];
	switch (one_of(6)) {
	case 0: /* anything */
		for (unsigned k = 1 + one_of(8); k; k--)
			to[n++] = rnd8();
		return n;
	case 1:
		t = plain[one_of(ARRAY(plain))];
		memcpy(to + n, t + 1, t[0]);
		return n + t[0];
	case 2: /* ENTER, far jumps */
		to[n++] = one_of(2) ? 0xc8 : 0x9a;
		for (unsigned k = 0; k < 3; k++)
			to[n++] = rnd8();
		return n;
	default:
		t = with_modrm[one_of(ARRAY(with_modrm))];
		memcpy(to + n, t + 1, t[0]);
		n += t[0];
		to[n++] = one_of(4) ? (uint8_t)((rnd8() & 0x38) | (one_of(2) ? 7 : 3)) : rnd8(); /* [rbx], [rdi] */
		to[n++] = rnd8();
		return n;
	}
}

static void code_at(uint8_t *to, unsigned size)
{
	unsigned n = 0;

	memset(to, 0xcc, size);
	while (n + 16 < size && n < 48)
		n += instruction(to + n);
}

static uint64_t pointer(bool wide)
{
	static const uint64_t at[] = {
		DATA, DATA + 0xffc, WINDOW, WINDOW + 0xffd, WINDOW + 0x1000, WINDOW + 0x1ffe, WINDOW + 0x2ffc, WINDOW + 0x3ff8,
		WINDOW - 3, CODE, STUBS, PT, 0xfffffffe, 0, 0x7ffffffffffe, 0x800000000000, 0xffff7fffffffffff,
		0xffff800000000000, ~0ull, 0x7fffffffeffc,
	};
	uint64_t v = at[one_of(ARRAY(at))] + one_of(3);

	return wide ? v : (uint32_t)v;
}

static void registers(struct kvm_regs *g, bool wide, uint64_t rip)
{
	*g = (struct kvm_regs){ .rip = rip, .rflags = 2 | (uint64_t)(one_of(8) == 0) << 8 | (uint64_t)(one_of(8) == 0) << 10,
				.rax = rnd(), .rcx = one_of(40), .rdx = one_of(2) ? 0xcf8 : rnd(), .rsp = 0x60000,
				.rbp = pointer(wide), .rsi = pointer(wide), .rdi = pointer(wide), .rbx = pointer(wide) };
	if (!one_of(4))
		g->rsp = pointer(wide);
}

/* --- running --- */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void kicked(int signo)
{
	userkvm_signal_ran();
}

/* vCPU 1's exits: whatever a kernel's; only KVM_RUN's word and entries are looked at. */
static void *second(void *arg)
{
	struct vcpu *v = &w.v[1];
	unsigned exits = 0;
	sigset_t alarm;

	/* the timer's signal is vCPU 0's */
	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &alarm, NULL);

	while (!stop) {
		if (userkvm_ioctl(v->fd, KVM_RUN, 0)) {
			if (errno == EINTR)
				continue;
			FAIL("vCPU 1: KVM_RUN: %s", strerror(errno));
		}
		if (v->run->exit_reason == KVM_EXIT_FAIL_ENTRY) {
			for (unsigned n = 0; n < 48; n++)
				fprintf(stderr, "%02x%s", w.ram[KERNEL_CODE + n], n == 47 ? "\n" : " ");
			FAIL("vCPU 1: KVM_EXIT_FAIL_ENTRY %#llx", v->run->fail_entry.hardware_entry_failure_reason);
		}
		if (v->run->exit_reason == KVM_EXIT_MMIO || v->run->exit_reason == KVM_EXIT_IO) {
			if (++exits > 200)
				break;
			continue;
		}
		break; /* halted, shut down, an internal error: a kernel may */
	}
	ended = true;
	return NULL;
}

static bool in_user(struct vcpu *v)
{
	struct kvm_sregs s;

	call(v->fd, KVM_GET_SREGS, &s);
	return (s.cs.selector & 3) == 3;
}

/* vCPU 0 until it has met an exception, or long enough. */
static void run_user(unsigned round)
{
	struct vcpu *v = &w.v[0];

	for (unsigned n = 0; n < 60; n++) {
		struct itimerval t = { { 0, 3000 }, { 0, 3000 } }; /* again: one may come before KVM_RUN */
		uint32_t reason;

		setitimer(ITIMER_REAL, &t, NULL);
		if (userkvm_ioctl(v->fd, KVM_RUN, 0)) {
			if (errno != EINTR)
				FAIL("KVM_RUN: %s (round %u)", strerror(errno), round);
			happened(1);
			return; /* a loop */
		}
		reason = v->run->exit_reason;
		happened(reason);
		if (reason == KVM_EXIT_FAIL_ENTRY)
			FAIL("KVM_EXIT_FAIL_ENTRY %#llx", v->run->fail_entry.hardware_entry_failure_reason);
		if (hostile_kernel) {
			if (reason != KVM_EXIT_MMIO && reason != KVM_EXIT_IO)
				return;
			continue;
		}
		if (reason == KVM_EXIT_MMIO) {
			memset(v->run->mmio.data, (int)n, 8);
			continue;
		}
		if (reason == KVM_EXIT_IO && !in_user(v)) {
			happened(v->run->io.port);
			return; /* a stub: the vector */
		}
		if (reason == KVM_EXIT_INTERNAL_ERROR)
			FAIL("user mode came to an internal error %u: %#llx %#llx %#llx %#llx", v->run->internal.suberror,
			     v->run->internal.data[0], v->run->internal.data[1], v->run->internal.data[2], v->run->internal.data[3]);
		FAIL("user mode came to exit %u, port %#x", reason, reason == KVM_EXIT_IO ? v->run->io.port : 0);
	}
}

/* mov al,[rsi+rcx]; mov [rdi+rcx],al; every 16th round a mapping: mov [rdx+16],rbx; xchg rbx,rbp; loop, again */
static const uint8_t flipper[] = { 0x8a, 0x04, 0x0e, 0x88, 0x04, 0x0f, 0xff, 0xc9, 0x79, 0xf6, 0x48, 0x89,
				   0x5a, 0x10, 0x48, 0x87, 0xdd, 0xb9, 0x3f, 0x00, 0x00, 0x00, 0xeb, 0xe8 };

static void hostile(void)
{
	static const uint64_t starts[] = { CODE, CODE + 0xff8, CODE + 0xffd, 0x7ffffffffff8, 0x7fffffffffff, 0xffff800000000000,
					   WINDOW + 0x2000, WINDOW + 0x2ffa, WINDOW + 0x1000 };
	bool hyperv = !one_of(6), fetches = one_of(6), wide = one_of(4); /* another world costs more than a round */
	uint64_t cr4 = (one_of(2) ? 4 : 0) | (one_of(2) ? 0x800 : 0), rip;
	struct kvm_regs g;
	pthread_t other;

	/* decided by the input, each time: it has to come to the same again alone */
	if (!w.vm || ++w.rounds > 200 || hyperv != w.hyperv || fetches != w.fetches)
		open_world(hyperv, fetches);
	hostile_kernel = one_of(4) == 0;
	fill_ram();
	for (unsigned page = 0; page < 3; page++)
		code_at(w.ram + CODE + page * 0x1000, 64);
	code_at(w.ram + CODE + 0xff8, 0x40);
	code_at(w.rom, 64);
	code_at(w.ram + BYTES, 64);
	/* what the emulator finds where the processor's TLB still has another page */
	if (one_of(2))
		memset(w.ram + CODE + 0x2000, "\xee\xec\x6e\x6c\xf4\xfa"[one_of(6)], 64);
	rip = starts[one_of(ARRAY(starts))];
	registers(&g, wide, wide ? rip : (uint32_t)rip % 0x300000);
	/* a loop over a device in the page whose mapping vCPU 1 changes: each turn the emulator looks at it anew */
	if (!one_of(4)) {
		memcpy(w.ram + CODE + 0x1000, "\x88\x07\xeb\xfc", 4);
		g.rip = WINDOW + 0x2000;
		g.rdi = WINDOW;
	}
	put_state(0, true, wide, &g, cr4);
	registers(&g, true, KERNEL_CODE);
	if (hostile_kernel) {
		code_at(w.ram + KERNEL_CODE, 64);
		g.rcx = one_of(2) ? 0x40000000u + rnd8() : 0x4b564d00u + one_of(8);
		g.rsp = 0x1c000;
	} else {
		memcpy(w.ram + KERNEL_CODE, flipper, sizeof(flipper));
		g.rcx = 0x3f;
		g.rsi = BYTES;
		g.rdi = CODE;
		g.rdx = PT2;
		g.rbx = (CODE + 0x1000) | P | RW | US;
		g.rbp = (one_of(2) ? CODE + 0x2000 : DEVICE + 0x2000) | P | RW | US;
		g.rflags = 2;
	}
	put_state(1, false, true, &g, 0);
	stop = ended = false;
	if (pthread_create(&other, NULL, second, NULL))
		FAIL("pthread_create");
	if (hostile_kernel && one_of(2))
		call(w.v[0].fd, KVM_SMI, NULL);
	for (unsigned k = 0; k < 3; k++) {
		run_user(k);
		registers(&g, wide, CODE + k * 0x1000);
		put_state(0, true, wide, &g, cr4);
	}
	stop = true;
	w.v[1].run->immediate_exit = 1;
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	while (!ended) {
		pthread_kill(other, SIGUSR1);
		usleep(200);
	}
	pthread_join(other, NULL);
	w.v[1].run->immediate_exit = 0;
	if (hostile_kernel) /* it may have left anything in its VM */
		close_world();
}

/* --- state --- */

static uint64_t edge(void)
{
	static const uint64_t at[] = { 0, 1, 0x7fffffffffff, 0x800000000000, 0xffff7fffffffffff, 0xffff800000000000, ~0ull,
				       0xffffffff, 0x100000000, 0xfff, 0x1000, CODE, WINDOW, PML4, 0x7ffffffff000, IDT, TSS };

	return one_of(4) ? at[one_of(ARRAY(at))] ^ (one_of(4) ? 0 : 1ull << one_of(64)) : rnd();
}

static void state(void)
{
	static const uint32_t msrs[] = { 0xc0000080, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000100, 0xc0000101,
					 0xc0000102, 0x174, 0x175, 0x176, 0x277, 0x1d9, 0x1b, 0x10, 0x6e0, 0xda0, 0x4b564d01,
					 0x4b564d00, 0x4b564d02, 0x4b564d03, 0x4b564d04, 0x40000000, 0x40000001, 0x40000021,
					 0x40000073, 0x40000080, 0x40000083, 0x9e, 0x38f, 0x1a0, 0x140 };
	struct kvm_vcpu_events events;
	struct kvm_debugregs debug;
	struct kvm_sregs s;
	struct kvm_regs g;
	static struct kvm_xsave x;
	struct kvm_segment *seg;
	struct vcpu *v = &w.v[0];
	int r;

	open_world(one_of(2), one_of(2));
	fill_ram();
	code_at(w.ram + CODE, 64);
	code_at(w.ram + CODE + 0x1000, 64);
	registers(&g, true, CODE);
	put_state(0, one_of(2), one_of(2), &g, 0);
	call(v->fd, KVM_GET_SREGS, &s);
	for (unsigned k = one_of(5); k; k--) {
		switch (one_of(9)) {
		case 0: s.cr0 ^= 1ull << one_of(32); break;
		case 1: s.cr4 ^= 1ull << one_of(24); break;
		case 2: s.cr3 = edge(); break;
		case 3: s.efer ^= 1ull << one_of(16); break;
		case 4: s.gdt.base = edge(); s.gdt.limit = (uint16_t)edge(); break;
		case 5: s.idt.base = edge(); s.idt.limit = (uint16_t)edge(); break;
		case 6: s.apic_base ^= 1ull << one_of(40); break;
		case 7: s.tr.base = edge(); s.tr.limit = (uint32_t)edge(); s.tr.type = rnd8() & 15; break;
		default:
			seg = &s.cs + one_of(6);
			seg->base = one_of(2) ? edge() : seg->base;
			seg->limit = one_of(2) ? (uint32_t)edge() : seg->limit;
			seg->type = one_of(2) ? rnd8() & 15 : seg->type;
			seg->selector = (uint16_t)edge();
			seg->dpl = one_of(4);
			seg->db = one_of(2);
			seg->l = one_of(2);
			seg->g = one_of(2);
			seg->present = !!one_of(8);
			seg->s = !!one_of(8);
			seg->unusable = !one_of(4);
		}
	}
	happened((uint64_t)call(v->fd, KVM_SET_SREGS, &s));
	memset(&g, 0, sizeof(g));
	g.rip = one_of(3) ? CODE : edge();
	g.rflags = one_of(2) ? 2 : edge() & 0x3f7fd7;
	g.rsp = one_of(2) ? 0x60000 : edge();
	g.rdi = g.rbx = edge();
	g.rsi = edge();
	g.rcx = one_of(16);
	if (call(v->fd, KVM_SET_REGS, &g))
		FAIL("KVM_SET_REGS: %s", strerror(errno));
	if (one_of(2)) {
		call(v->fd, KVM_GET_VCPU_EVENTS, &events);
		((uint8_t *)&events)[one_of(sizeof(events))] = rnd8();
		((uint8_t *)&events)[one_of(16)] = rnd8();
		happened((uint64_t)call(v->fd, KVM_SET_VCPU_EVENTS, &events));
	}
	if (one_of(2)) {
		call(v->fd, KVM_GET_XSAVE, &x);
		for (unsigned k = 1 + one_of(6); k; k--)
			((uint8_t *)x.region)[one_of(3) ? one_of(64) + (one_of(2) ? 512 : 0) : (rnd8() << 4 | rnd8()) % sizeof(x.region)] =
				one_of(2) ? 0xff : rnd8();
		happened((uint64_t)call(v->fd, KVM_SET_XSAVE, &x));
	}
	if (!one_of(3)) {
		call(v->fd, KVM_GET_DEBUGREGS, &debug);
		debug.db[one_of(4)] = edge();
		debug.dr7 = edge() & 0xffffffff;
		debug.dr6 = edge() & 0xffffffff;
		happened((uint64_t)call(v->fd, KVM_SET_DEBUGREGS, &debug));
	}
	for (unsigned k = one_of(4); k; k--) {
		struct {
			struct kvm_msrs h;
			struct kvm_msr_entry e;
		} m = { .h.nmsrs = 1, .e = { .index = msrs[one_of(ARRAY(msrs))], .data = edge() } };

		happened((uint64_t)call(v->fd, KVM_SET_MSRS, &m));
	}
	for (unsigned n = 0; n < 30; n++) {
		struct itimerval t = { { 0, 2000 }, { 0, 2000 } };

		setitimer(ITIMER_REAL, &t, NULL);
		r = userkvm_ioctl(v->fd, KVM_RUN, 0);
		if (r) {
			if (errno != EINTR)
				FAIL("KVM_RUN: %s", strerror(errno));
			break;
		}
		happened(v->run->exit_reason);
		if (v->run->exit_reason == KVM_EXIT_FAIL_ENTRY && n)
			FAIL("KVM_EXIT_FAIL_ENTRY %#llx after %u exits", v->run->fail_entry.hardware_entry_failure_reason, n);
		if (v->run->exit_reason != KVM_EXIT_MMIO && v->run->exit_reason != KVM_EXIT_IO)
			break;
	}
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	/* whatever there is can be read, and put back */
	if (call(v->fd, KVM_GET_SREGS, &s) || call(v->fd, KVM_GET_XSAVE, &x) || call(v->fd, KVM_GET_VCPU_EVENTS, &events))
		FAIL("state cannot be read: %s", strerror(errno));
}

/* --- the loop --- */

static uint64_t seen[4096];

/* Is the outcome new? */
static bool new_outcome(void)
{
	for (unsigned n = 0; n < 16; n++) {
		uint64_t *s = &seen[(outcome + n) % ARRAY(seen)];

		if (*s == outcome)
			return false;
		if (!*s) {
			*s = outcome;
			return true;
		}
	}
	return false;
}

static void mutate(void)
{
	if (nr_corpus && step(&seed) % 4) {
		input = corpus[step(&seed) % nr_corpus];
		for (unsigned k = 1 + step(&seed) % 6; k; k--)
			input.b[step(&seed) % input.nr] = (uint8_t)(step(&seed) >> 24);
		return;
	}
	input.nr = 16 + (uint32_t)(step(&seed) % (INPUT_MAX - 16));
	for (unsigned n = 0; n < input.nr; n++)
		input.b[n] = (uint8_t)(step(&seed) >> 24);
}

static bool play(void (*round)(void))
{
	unsigned edges;

	used = 8;
	memcpy(&tail, input.b, 8);
	tail |= 1;
	outcome = 0xcbf29ce484222325;
	round();
	edges = edges_new();
	return new_outcome() || edges;
}

static bool load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, input.b, INPUT_MAX);

	if (fd >= 0)
		close(fd);
	input.nr = n > 0 ? (uint32_t)n : 0;
	return n >= 16;
}

static void load_corpus(const char *dir, void (*round)(void))
{
	DIR *d = opendir(dir);
	struct dirent *e;
	char path[1024];

	while (d && (e = readdir(d)) != NULL && nr_corpus < CORPUS_MAX) {
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		if (e->d_name[0] != '.' && load(path)) {
			corpus[nr_corpus++] = input;
			play(round);
		}
	}
	if (d)
		closedir(d);
}

static void fuzz(const char *name, void (*round)(void), const char *corpus_dir, double seconds, bool collect)
{
	double end = now() + seconds;
	uint64_t rounds = 0, base = 0;
	char dir[400], path[512];
	unsigned found = 0;

	target = name;
	nr_corpus = 0;
	memset(seen, 0, sizeof(seen));
	snprintf(dir, sizeof(dir), "%s/%s", corpus_dir, name);
	load_corpus(dir, round);
	while (now() < end) {
		mutate();
		if (play(round) && nr_corpus < CORPUS_MAX) {
			corpus[nr_corpus++] = input;
			if (collect && ++found <= 24) {
				snprintf(path, sizeof(path), "%s/%016llx", dir, (unsigned long long)outcome);
				save(path);
			}
		}
		if (++rounds >= 300 && !base && w.vm)
			base = own_in_use();
		if (base && own_in_use() > base + (128ull << 20))
			FAIL("%llu MiB of memory after %llu rounds, %llu after 300", (unsigned long long)own_in_use() >> 20,
			     (unsigned long long)rounds, (unsigned long long)base >> 20);
	}
	close_world();
	printf("# %s: %llu rounds, %u inputs kept\n", name, (unsigned long long)rounds, nr_corpus);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*round)(void);
	} targets[] = { { "hostile", hostile }, { "state", state } };
	const char *s = getenv("FUZZ_SECONDS"), *e = getenv("SEED");
	struct sigaction quiet = { .sa_handler = kicked };

	if (argc < 2) {
		fprintf(stderr, "usage: fuzz-guest CORPUS [TARGET FILE...]\n");
		return 2;
	}
	seed = e ? strtoull(e, NULL, 0) | 1 : 0x9e3779b97f4a7c15;
	sigaction(SIGUSR1, &quiet, NULL);
	sigaction(SIGALRM, &quiet, NULL);
	for (unsigned t = 0; t < ARRAY(targets); t++) {
		target = targets[t].name;
		if (argc == 2)
			fuzz(target, targets[t].round, argv[1], s ? atof(s) : 3, getenv("FUZZ_COLLECT") != NULL);
		for (int k = 3; k < argc && strcmp(argv[2], target) == 0; k++)
			if (load(argv[k]))
				play(targets[t].round);
	}
	puts("ok 1 - hostile_guests_and_state\n1..1");
	return 0;
}
