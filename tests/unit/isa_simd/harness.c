/* See harness.h. */
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <asm/ldt.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "harness.h"
#include "isa/decoder.h"

/* The trampoline's own memory; names are used from assembly. */
struct native {
	uint64_t gpr[NR_GPRS];
	uint64_t flags, host_rsp;
	uint64_t xfeatures;
	uint64_t pad[5];
	uint8_t area[XSAVE_BYTES] __attribute__((aligned(64)));
};
static_assert(offsetof(struct native, flags) == 128, "assembly");
static_assert(offsetof(struct native, xfeatures) == 144, "assembly");
static_assert(offsetof(struct native, area) == 192, "assembly");
struct native harness_native __attribute__((visibility("hidden")));
extern uint8_t harness_slot[64] __attribute__((visibility("hidden")));
extern uint8_t harness_return[] __attribute__((visibility("hidden")));
void harness_trampoline(void) __attribute__((visibility("hidden")));

#define GPRS(X)                                                                     \
	X("rcx", 1) X("rdx", 2) X("rbx", 3) X("rbp", 5) X("rsi", 6) X("rdi", 7)     \
	X("r8", 8) X("r9", 9) X("r10", 10) X("r11", 11) X("r12", 12) X("r13", 13)   \
	X("r14", 14) X("r15", 15) X("rax", 0)
#define LOAD(r, n) "mov harness_native+8*" #n "(%rip), %" r "\n"
#define STORE(r, n) "mov %" r ", harness_native+8*" #n "(%rip)\n"

__asm__(".pushsection .text\n.balign 4096\n"
	".hidden harness_trampoline\n.globl harness_trampoline\nharness_trampoline:\n"
	"push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
	"mov %rsp, harness_native+136(%rip)\n"
	"mov harness_native+144(%rip), %eax\nxor %edx, %edx\n"
	"xrstor64 harness_native+192(%rip)\n"
	"pushq harness_native+128(%rip)\npopfq\n" GPRS(LOAD) LOAD("rsp", 4)
	".hidden harness_slot\n.globl harness_slot\nharness_slot: .fill 64, 1, 0x90\n"
	".hidden harness_return\n.globl harness_return\nharness_return:\n" GPRS(STORE)
	STORE("rsp", 4) "mov harness_native+136(%rip), %rsp\n"
	"pushfq\npopq harness_native+128(%rip)\n"
	"mov harness_native+144(%rip), %eax\nxor %edx, %edx\n"
	"xsave64 harness_native+192(%rip)\n"
	"fninit\npush $0x1f80\nldmxcsr (%rsp)\npop %rax\nvzeroupper\ncld\n"
	"mov harness_native+136(%rip), %rsp\n"
	"pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n"
	".balign 4096\n.popsection\n");

uint8_t *harness_mem;
struct cpu_state harness_cs;
unsigned harness_mem_calls;
uint64_t harness_fault_page;
bool harness_vanish;
bool harness_absent;

static sigjmp_buf native_jump;
static volatile sig_atomic_t in_native, native_vector;
static jmp_buf raise_jump;
static struct isa_tlb_entry tlb[ISA_TLB_ENTRIES];
static uint8_t image[XSAVE_BYTES] __attribute__((aligned(64)));

static uint64_t rnd_state = 0x9e3779b97f4a7c15;

uint64_t rnd(void)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return rnd_state * 0x2545f4914f6cdd1d;
}

/* splitmix64's finalizer: neighbouring seeds begin far apart. */
void rnd_seed(uint64_t seed)
{
	uint64_t z = seed * 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	rnd_state = (z ^ z >> 31) ? z ^ z >> 31 : 1;
}

/* As the processor unwinds: outside the handler, with the guest's registers back from its frame. */
static void vanished(void)
{
	harness_cs.exception.vector = X86_TRAP_PF;
	longjmp(raise_jump, 1);
}

static void on_signal(int signo, siginfo_t *si, void *ucv)
{
	ucontext_t *uc = ucv;

	if (in_native) {
		native_vector = (int)uc->uc_mcontext.gregs[REG_TRAPNO];
		siglongjmp(native_jump, 1);
	}
	if (isa_silicon_fault(&harness_cs, signo, ucv))
		return;
	if (signo == SIGSEGV && harness_cs.fpu_loaded) { /* guest memory has vanished */
		greg_t *regs = uc->uc_mcontext.gregs;

		memset(image, 0xee, sizeof(image)); /* the frame has it, not this */
		regs[REG_RSP] = ((regs[REG_RSP] - 128) & ~15LL) - 8;
		regs[REG_RIP] = (greg_t)(uintptr_t)vanished;
		return;
	}
	signal(signo, SIG_DFL); /* a defect: let it kill the test */
}

/* --- the embedder of harness_cs --- */
static void ops_raise(struct cpu_state *cs) __attribute__((noreturn));
static void ops_raise(struct cpu_state *cs)
{
	longjmp(raise_jump, 1);
}

static void *ops_mem(struct cpu_state *cs, uint64_t lin, unsigned size, enum isa_access how,
		     void *bounce)
{
	uint64_t base = (uint64_t)(uintptr_t)harness_mem;

	isa_fpu_sync(cs); /* we may do what we like, and this file is ordinary C */
	harness_mem_calls++;
	if (lin < base || lin + size > base + MEM_BYTES ||
	    (harness_fault_page && lin + size > harness_fault_page &&
	     lin < harness_fault_page + PAGE_SIZE))
		isa_raise_error(cs, X86_TRAP_PF, (how & ISA_WRITE) ? 2 : 0);
	memset(bounce, 0xa5, 64); /* what lies beyond the operand is noise */
	if (how & ISA_READ)
		memcpy(bounce, (void *)(uintptr_t)lin, size);
	return bounce;
}

static void ops_commit(struct cpu_state *cs, uint64_t lin, unsigned size, const void *bounce)
{
	isa_fpu_sync(cs);
	memcpy((void *)(uintptr_t)lin, bounce, size);
}

static const struct isa_ops ops = {
	.mem = ops_mem, .mem_commit = ops_commit, .raise = ops_raise,
};

/* --- 32- and 16-bit code: a page below 4 GiB, reached by far jumps --- */
#define LOW_SLOT 0u	/* the instruction, the marker, the way back */
#define LOW_BACK 0x100u /* 64-bit code: to harness_return */
#define LOW_PTR 0x200u	/* m16:32 of the way in */
#define USER32_CS 0x23
#define USER_CS 0x33
#define USER_DS 0x2b
#define LDT_SELECTOR(n) ((n) << 3 | 7)

static uint8_t *low;
static bool has_ldt;

static bool make_ldt_entry(unsigned nr, uintptr_t base, uint32_t limit, bool code)
{
	struct user_desc d = {
		.entry_number = nr, .base_addr = (unsigned)base, .limit = limit,
		.contents = code ? MODIFY_LDT_CONTENTS_CODE : MODIFY_LDT_CONTENTS_DATA,
	};

	return syscall(SYS_modify_ldt, 1, &d, sizeof(d)) == 0;
}

static void make_low_code(void)
{
	uint64_t back = (uint64_t)(uintptr_t)harness_return;

	if (low)
		return;
	low = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (low == MAP_FAILED) {
		perror("harness");
		exit(1);
	}
	memcpy(low + LOW_BACK, "\xff\x25\0\0\0\0", 6); /* jmp *[rip] */
	memcpy(low + LOW_BACK + 6, &back, 8);
	has_ldt = make_ldt_entry(0, (uintptr_t)low, 0xffff, true) &&
		  make_ldt_entry(1, (uintptr_t)harness_mem, MEM_BYTES - 1, false);
}

bool harness_has_mode(enum isa_code_mode mode)
{
	return mode != ISA_CODE16 || has_ldt;
}

uint64_t harness_rip(enum isa_code_mode mode)
{
	switch (mode) {
	case ISA_CODE64: return (uint64_t)(uintptr_t)harness_slot;
	case ISA_CODE32: return (uint64_t)(uintptr_t)low + LOW_SLOT;
	default: return LOW_SLOT;
	}
}

/* lea rsp, [rsp + 16] */
static const struct {
	unsigned n;
	uint8_t b[6];
} marker[ISA_CODE_MODES] = {
	[ISA_CODE16] = { 6, { 0x66, 0x67, 0x8d, 0x64, 0x24, 0x10 } },
	[ISA_CODE32] = { 4, { 0x8d, 0x64, 0x24, 0x10 } },
	[ISA_CODE64] = { 5, { 0x48, 0x8d, 0x64, 0x24, 0x10 } },
};

unsigned harness_marker_size(enum isa_code_mode mode)
{
	return marker[mode].n;
}

static void fill_slot(uint8_t *slot, const uint8_t *bytes, unsigned n, enum isa_code_mode mode)
{
	memset(slot, 0x90, 48);
	memcpy(slot, bytes, n);
	memcpy(slot + n, marker[mode].b, marker[mode].n);
}

static void fill_low(const uint8_t *bytes, unsigned n, enum isa_code_mode mode)
{
	uint32_t back = (uint32_t)(uintptr_t)low + LOW_BACK, at;
	uint32_t in = mode == ISA_CODE32 ? (uint32_t)(uintptr_t)low + LOW_SLOT : LOW_SLOT;
	uint16_t cs = mode == ISA_CODE32 ? USER32_CS : LDT_SELECTOR(0), cs64 = USER_CS;
	uint8_t *p = low + LOW_SLOT + 48;

	fill_slot(low + LOW_SLOT, bytes, n, mode);
	if (mode == ISA_CODE16)
		*p++ = 0x66;
	*p++ = 0xea; /* jmp far ptr16:32 */
	memcpy(p, &back, 4);
	memcpy(p + 4, &cs64, 2);
	memcpy(low + LOW_PTR, &in, 4);
	memcpy(low + LOW_PTR + 4, &cs, 2);
	memcpy(harness_slot, "\xff\x2c\x25", 3); /* jmp far [LOW_PTR] */
	at = (uint32_t)(uintptr_t)low + LOW_PTR;
	memcpy(harness_slot + 3, &at, 4);
}

static void set_segments(unsigned data, unsigned stack)
{
	__asm__ volatile("mov %0, %%ds\n\tmov %0, %%es\n\tmov %1, %%ss" : : "r"(data), "r"(stack));
}

void harness_init(void)
{
	static uint8_t stack[65536];
	stack_t ss = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction sa = { .sa_sigaction = on_signal,
				.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };
	uintptr_t page = (uintptr_t)harness_slot & PAGE_MASK;

	if (!harness_mem)
		harness_mem = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (harness_mem == MAP_FAILED ||
	    mprotect((void *)page, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC)) {
		perror("harness");
		exit(1);
	}
	if (isa_host()->xsave_bytes > XSAVE_BYTES) {
		fprintf(stderr, "harness: XSAVE_BYTES\n");
		exit(1);
	}
	harness_native.xfeatures = isa_host()->xfeatures;
	make_low_code();
	sigaltstack(&ss, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGILL, &sa, NULL);
	sigaction(SIGFPE, &sa, NULL);
}

int run_native(const uint8_t *bytes, unsigned n, struct state *s)
{
	return run_native_mode(bytes, n, s, ISA_CODE64);
}

static void second_page(int prot)
{
	if (harness_absent && mprotect(harness_mem + PAGE_SIZE, PAGE_SIZE, prot))
		exit(1);
}

int run_native_mode(const uint8_t *bytes, unsigned n, struct state *s, enum isa_code_mode mode)
{
	unsigned data = mode == ISA_CODE16 ? LDT_SELECTOR(1) : USER_DS;

	if (mode == ISA_CODE64)
		fill_slot(harness_slot, bytes, n, mode);
	else
		fill_low(bytes, n, mode);
	memcpy(harness_native.gpr, s->gpr, sizeof(s->gpr));
	harness_native.flags = s->flags | 0x202;
	memcpy(harness_native.area, s->area, sizeof(s->area));
	memcpy(harness_mem + PAGE_SIZE - 128, s->mem, sizeof(s->mem));
	if (sigsetjmp(native_jump, 0)) {
		in_native = 0;
		set_segments(0, USER_DS);
		second_page(PROT_READ | PROT_WRITE);
		return native_vector;
	}
	if (harness_absent)
		second_page(PROT_NONE);
	in_native = 1;
	if (mode != ISA_CODE64)
		set_segments(data, data);
	harness_trampoline();
	if (mode != ISA_CODE64)
		set_segments(0, USER_DS);
	in_native = 0;
	second_page(PROT_READ | PROT_WRITE);
	memcpy(s->gpr, harness_native.gpr, sizeof(s->gpr));
	s->flags = harness_native.flags & (X86_FLAGS_ARITH | X86_FLAGS_DF);
	memcpy(s->area, harness_native.area, sizeof(s->area));
	memcpy(s->mem, harness_mem + PAGE_SIZE - 128, sizeof(s->mem));
	return NO_FAULT;
}

struct silicon_arena *harness_stubs(void)
{
	static struct silicon_arena *stubs;

	if (!stubs && silicon_arena_create(&stubs, SILICON_ONE_BYTES))
		abort();
	silicon_arena_reset(stubs);
	silicon_use(stubs);
	return stubs;
}

void harness_reset(enum isa_code_mode mode)
{
	struct cpu_state *cs = &harness_cs;

	memset(cs, 0, sizeof(*cs));
	cs->stubs = harness_stubs();
	cs->ops = &ops;
	cs->tlb = tlb;
	cs->xsave = image;
	cs->code_mode = (uint8_t)mode;
	cs->stack_mode = (uint8_t)mode;
	cs->cr0 = X86_CR0_PE | X86_CR0_NE | X86_CR0_ET | X86_CR0_MP | X86_CR0_PG;
	cs->cr4 = X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE | X86_CR4_PAE;
	cs->xcr0 = isa_host()->xfeatures | 7;
	for (unsigned n = 0; n < NR_SREGS; n++) {
		cs->seg[n].limit = 0xffffffff;
		cs->seg[n].ar = VMX_AR_S | VMX_AR_TYPE_WRITABLE | 1;
		if (mode == ISA_CODE16) {
			cs->seg[n].base = (uint64_t)(uintptr_t)harness_mem;
			cs->seg[n].limit = MEM_BYTES - 1;
		}
	}
	isa_fpu_init(cs);
}

static void map_memory(enum memory_kind kind)
{
	for (unsigned n = 0; n < ISA_TLB_ENTRIES; n++)
		tlb[n] = (struct isa_tlb_entry){ TLB_NO_ACCESS, TLB_NO_ACCESS, TLB_NO_ACCESS, 0 };
	if (kind == MEM_BOUNCE)
		return;
	for (unsigned n = 0; n < MEM_BYTES / PAGE_SIZE; n++) {
		uint64_t page = (uint64_t)(uintptr_t)harness_mem + n * PAGE_SIZE;

		if (page == harness_fault_page)
			continue;
		tlb[(page >> PAGE_SHIFT) % ISA_TLB_ENTRIES] =
			(struct isa_tlb_entry){ page, page, page, 0 };
	}
}

int run_handler(const uint8_t *bytes, unsigned n, struct state *s, enum isa_code_mode mode,
		enum memory_kind kind)
{
	static struct isa_insn i;
	struct cpu_state *cs = &harness_cs;
	volatile int vector = NO_FAULT;

	memcpy(harness_mem + PAGE_SIZE - 128, s->mem, sizeof(s->mem));
	map_memory(kind);
	memset(&i, 0, sizeof(i));
	harness_stubs();
	if (isa_decode(bytes, n, mode, &ops, &i) != ISA_DECODE_OK)
		return X86_TRAP_UD;
	memcpy(cs->gpr, s->gpr, sizeof(s->gpr));
	cpu_set_rflags(cs, s->flags);
	memcpy(cs->xsave, s->area, sizeof(s->area));
	cs->fpu_loaded = 0;
	cs->cur = &i;
	cs->block_rip = harness_rip(mode);
	cs->rip = 0;
	if (harness_vanish)
		mprotect(harness_mem + PAGE_SIZE, PAGE_SIZE, PROT_NONE);
	if (setjmp(raise_jump)) {
		vector = cs->exception.vector;
	} else {
		i.fn(cs, &i);
		if (!(i.flags & ISA_ENDS_BLOCK) || cs->rip == isa_next_rip(cs, &i))
			cs->gpr[RSP] += 16; /* the marker */
	}
	isa_fpu_sync(cs);
	if (harness_vanish)
		mprotect(harness_mem + PAGE_SIZE, PAGE_SIZE, PROT_READ | PROT_WRITE);
	memcpy(s->gpr, cs->gpr, sizeof(s->gpr));
	s->flags = cpu_rflags(cs) & (X86_FLAGS_ARITH | X86_FLAGS_DF);
	memcpy(s->area, cs->xsave, sizeof(s->area));
	memcpy(s->mem, harness_mem + PAGE_SIZE - 128, sizeof(s->mem));
	return vector;
}

/* --- inputs --- */
static uint64_t random_lane(void)
{
	static const uint64_t nice[] = {
		0, 0x8000000000000000, 0x3ff0000000000000, 0x7ff0000000000000, 0x7ff8000000000001,
		0x7ff0000000000001, 0x0000000000000001, 0x3f8000003f800000, 0x7f80000000000000,
		0x7fc00000ffc00001, 0x7f80000100000001, 0x4049000040490000, 0x0010000000000000,
		0x4330000000000000, 0x4b0000004f000000, 0xffffffffffffffff, 0x41e0000000000000,
	};
	uint64_t r = rnd();

	switch (r & 3) {
	case 0: return nice[(r >> 8) % ARRAY_SIZE(nice)];
	case 1: return (rnd() & 0x800fffffffffffff) | 0x3fe0000000000000 | (r >> 3 & 0x30) << 48;
	case 2: return (rnd() & 0x807fffff807fffff) | 0x3f0000003f000000;
	default: return rnd();
	}
}

#define FIRST_AVX512 5u /* state component: opmasks, ZMM_Hi256, Hi16_ZMM */

bool harness_same_vectors(const struct state *a, const struct state *b)
{
	for (unsigned n = FIRST_AVX512; n < XFEATURE_PKRU; n++)
		if (isa_host()->component[n].size &&
		    memcmp(a->area + isa_host()->component[n].offset,
			   b->area + isa_host()->component[n].offset, isa_host()->component[n].size))
			return false;
	return !memcmp(a->x.xmm, b->x.xmm, sizeof(a->x.xmm)) &&
	       !memcmp(a->x.ymm_high, b->x.ymm_high, sizeof(a->x.ymm_high));
}

void random_state(struct state *s)
{
	memset(s->area, 0, sizeof(s->area));
	for (unsigned n = 0; n < NR_GPRS; n++)
		s->gpr[n] = rnd() >> (rnd() & 63);
	s->flags = rnd() & (X86_FLAGS_ARITH | X86_FLAGS_DF);
	for (unsigned n = 0; n < 16; n++)
		for (unsigned k = 0; k < 2; k++) {
			s->x.xmm[n][k] = random_lane();
			s->x.ymm_high[n][k] = random_lane();
		}
	for (unsigned n = 0; n < 8; n++) {
		uint64_t r = rnd();

		s->x.st[n][0] = random_lane() | (r & 7 ? 1ULL << 63 : 0);
		s->x.st[n][1] = r & 0x70 ? 0x3ff0 + (r >> 8 & 0x4f) + (r >> 16 & 0x8000)
					 : r >> 20 & 0xffff;
	}
	s->x.fcw = (uint16_t)(0x40 | (rnd() & 0xf00) | (rnd() & 7 ? 0x3f : rnd() & 0x3f));
	s->x.fsw = (uint16_t)(rnd() & 0x7f00);
	if (!(rnd() & 7))
		s->x.fsw |= (uint16_t)(rnd() & 0x7f);
	if (s->x.fsw & ~s->x.fcw & 0x3f) /* ES and B are a summary, which XRSTOR recomputes */
		s->x.fsw |= 0x8080;
	s->x.ftw = (uint8_t)(rnd() & 3 ? 0xff : rnd());
	s->x.mxcsr = (uint32_t)(rnd() & 0xe040) | (rnd() & 7 ? 0x1f80 : rnd() & 0x1f80) |
		     (rnd() & 3 ? 0 : rnd() & 0x3f);
	s->x.mxcsr_mask = 0xffff;
	s->x.xstate_bv = isa_host()->xfeatures | 7;
	for (unsigned n = FIRST_AVX512; n < XFEATURE_PKRU; n++)
		for (unsigned at = 0; at < isa_host()->component[n].size; at += 8) {
			/* opmasks: full, empty and anything between */
			uint64_t v = n > FIRST_AVX512 ? random_lane() :
				     rnd() & 3 ? rnd() & rnd() : (rnd() & 1) - 1;

			memcpy(isa_xsave_component(s->area, n) + at, &v, 8);
		}
	for (unsigned n = 0; n < sizeof(s->mem); n += 8) {
		uint64_t v = random_lane();

		memcpy(s->mem + n, &v, 8);
	}
}
