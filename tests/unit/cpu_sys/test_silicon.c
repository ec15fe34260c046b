/*
 * Far transfers and segment loads against this machine's own silicon, at level 3: the same bytes, the same
 * memory at the same addresses, and a GDT like Linux's. Forms are run from 64-bit and from 32-bit code,
 * with each of a list of selectors; what is compared is where they arrive or what they raise, registers, selectors and memory.
 */
#include "harness.h"
#include "isa/host.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define LOW 0x40000u /* the region that both have */
#define LOW_BYTES 0x20000u
#define AT_CODE 0x44000u
#define AT_TARGET 0x48000u
#define AT_OPERAND 0x4c000u
#define AT_STACK 0x50000u
#define USER32_CS 0x23
#define USER_DS 0x2b
#define USER_CS 0x33
#define INT3 0xcc
#define NO_FAULT (-1)

struct result {
	int vector; /* NO_FAULT: it arrived at rip */
	uint64_t error, rip, flags, gpr[NR_GPRS];
	uint16_t cs, ss, gs, ds, es;
};

/* --- on the silicon --- */

struct start {
	uint64_t gpr[NR_GPRS], rip, cs, flags, rsp, ss; /* from rip on: IRETQ's frame */
};

static sigjmp_buf home;
static struct result native;

extern const uint8_t silicon_enter[];
__asm__(".text\n"
	".globl silicon_enter\n.hidden silicon_enter\nsilicon_enter:\n"
	"	mov $0x2b, %eax; mov %eax, %ds; mov %eax, %es; xor %eax, %eax; mov %eax, %gs\n"
	"	push 160(%rdi); push 152(%rdi); push 144(%rdi); push 136(%rdi); push 128(%rdi)\n"
	"	mov (%rdi), %rax; mov 8(%rdi), %rcx; mov 16(%rdi), %rdx; mov 24(%rdi), %rbx\n"
	"	mov 40(%rdi), %rbp; mov 48(%rdi), %rsi; mov 64(%rdi), %r8; mov 72(%rdi), %r9\n"
	"	mov 80(%rdi), %r10; mov 88(%rdi), %r11; mov 96(%rdi), %r12; mov 104(%rdi), %r13\n"
	"	mov 112(%rdi), %r14; mov 120(%rdi), %r15; mov 56(%rdi), %rdi; iretq\n");

static void on_signal(int signo, siginfo_t *si, void *context)
{
	static const uint8_t greg[NR_GPRS] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
					       REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };
	const greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	uint64_t selectors = (uint64_t)r[REG_CSGSFS];
	int trap = (int)r[REG_TRAPNO];

	native.vector = trap;
	native.error = (uint64_t)r[REG_ERR];
	native.rip = (uint64_t)r[REG_RIP];
	if (trap == X86_TRAP_BP) {
		native.vector = NO_FAULT;
		native.rip--;
	} else if (trap == X86_TRAP_PF && (uint64_t)si->si_addr == native.rip) {
		native.vector = NO_FAULT; /* it arrived where nothing is */
		native.error = 0;
	}
	native.flags = (uint64_t)r[REG_EFL];
	native.cs = (uint16_t)selectors;
	native.ss = (uint16_t)(selectors >> 48);
	/* the frame's are not the registers' */
	__asm__ volatile("mov %%ds, %0\n\tmov %%es, %1\n\tmov %%gs, %2" : "=r"(native.ds), "=r"(native.es), "=r"(native.gs));
	for (unsigned n = 0; n < NR_GPRS; n++)
		native.gpr[n] = (uint64_t)r[greg[n]];
	siglongjmp(home, 1);
}

static bool signals_set(void)
{
	static uint8_t stack[65536];
	stack_t ss = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };
	static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE };

	if (sigaltstack(&ss, NULL))
		return false;
	for (unsigned n = 0; n < ARRAY_SIZE(signals); n++)
		if (sigaction(signals[n], &sa, NULL))
			return false;
	return true;
}

static void run_native(const struct start *s)
{
	if (!sigsetjmp(home, 1))
		((void (*)(const struct start *))silicon_enter)(s);
}

/* --- on the processor --- */

static void set_guest(const struct start *s)
{
	struct cpu_state *cs;

	reset_common();
	cs = &cpu->cs;
	set_descriptor(0x08, descriptor(0, 0xfffff, 0x1b, 0, true, 0xc)); /* __KERNEL32_CS */
	set_descriptor(0x10, descriptor(0, 0xfffff, 0x1b, 0, true, 0xa));
	set_descriptor(0x18, descriptor(0, 0xfffff, 0x13, 0, true, 0xc));
	set_descriptor(USER32_CS, descriptor(0, 0xfffff, 0x1b, 3, true, 0xc));
	set_descriptor(USER_DS, descriptor(0, 0xfffff, 0x13, 3, true, 0xc));
	set_descriptor(USER_CS, descriptor(0, 0xfffff, 0x1b, 3, true, 0xa));
	set_descriptor(0x40, descriptor(TSS_AT, 0x2fff, 0x0b, 0, true, 0));
	set_descriptor(0x48, 0xfffffe00); /* its upper half */
	cs->gdtr = (struct cpu_dtable){ GDT_AT, 0x7f };
	cs->idtr = (struct cpu_dtable){ IDT_AT, 0xfff };
	cs->ldtr.ar = (uint32_t)VMX_AR_UNUSABLE;
	cs->tr = (struct cpu_segment){ TSS_AT, 0x2fff, 0x8b, 0x40 };
	cs->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_ET | X86_CR0_NE;
	cs->cr4 = X86_CR4_PAE;
	cs->efer = EFER_LME | EFER_LMA | EFER_SCE;
	set_cpl((uint16_t)s->cs, USER_DS);
	isa_segment_null(&cs->seg[SREG_FS], 0, 0);
	isa_segment_null(&cs->seg[SREG_GS], 0, 0);
	memcpy(cs->gpr, s->gpr, sizeof(cs->gpr));
	cs->gpr[RSP] = s->rsp;
	cs->rip = s->rip;
	cpu_set_rflags(cs, s->flags);
}

static struct result run_guest(const struct start *s, const uint8_t *bytes)
{
	const struct cpu_state *cs = &cpu->cs;
	struct result r = { .vector = NO_FAULT };
	enum outcome o;

	o = run_bytes(bytes, 15);
	if (o == FAULT) {
		r.vector = cs->exception.vector;
		r.error = cs->exception.has_error_code ? cs->exception.error_code : 0;
	} else {
		assert_int_equal(o, DONE);
	}
	r.rip = cs->rip;
	r.flags = cpu_rflags(cs);
	r.cs = cs->seg[SREG_CS].selector;
	r.ss = cs->seg[SREG_SS].selector;
	r.gs = cs->seg[SREG_GS].selector;
	r.ds = cs->seg[SREG_DS].selector;
	r.es = cs->seg[SREG_ES].selector;
	memcpy(r.gpr, cs->gpr, sizeof(r.gpr));
	return r;
}

/* --- forms --- */

enum operand { REGISTER, POINTER, STACK, IMMEDIATE };
struct form {
	const char *name;
	uint8_t n, bytes[4];
	enum operand operand;
	uint8_t size; /* of an offset, or of a slot of the stack */
};

static const struct form forms64[] = {
	{ "jmp far m16:32", 2, { 0xff, 0x2b }, POINTER, 4 }, { "jmp far m16:64", 3, { 0x48, 0xff, 0x2b }, POINTER, 8 },
	{ "jmp far m16:16", 3, { 0x66, 0xff, 0x2b }, POINTER, 2 },
	{ "call far m16:32", 2, { 0xff, 0x1b }, POINTER, 4 }, { "call far m16:64", 3, { 0x48, 0xff, 0x1b }, POINTER, 8 },
	{ "call far m16:16", 3, { 0x66, 0xff, 0x1b }, POINTER, 2 },
	{ "retf", 1, { 0xcb }, STACK, 4 }, { "retf 64", 2, { 0x48, 0xcb }, STACK, 8 },
	{ "retf 16", 2, { 0x66, 0xcb }, STACK, 2 }, { "retf 8", 3, { 0xca, 8, 0 }, STACK, 4 },
	{ "iretd", 1, { 0xcf }, STACK, 4 }, { "iretq", 2, { 0x48, 0xcf }, STACK, 8 }, { "iret 16", 2, { 0x66, 0xcf }, STACK, 2 },
	{ "lss m16:32", 3, { 0x0f, 0xb2, 0x0b }, POINTER, 4 }, { "lss m16:64", 4, { 0x48, 0x0f, 0xb2, 0x0b }, POINTER, 8 },
	{ "lgs m16:32", 3, { 0x0f, 0xb5, 0x0b }, POINTER, 4 }, { "lgs m16:64", 4, { 0x48, 0x0f, 0xb5, 0x0b }, POINTER, 8 },
	{ "lgs m16:16", 4, { 0x66, 0x0f, 0xb5, 0x0b }, POINTER, 2 },
	{ "lar", 3, { 0x0f, 0x02, 0xc1 }, REGISTER, 0 }, { "lar 64", 4, { 0x48, 0x0f, 0x02, 0xc1 }, REGISTER, 0 },
	{ "lar 16", 4, { 0x66, 0x0f, 0x02, 0xc1 }, REGISTER, 0 },
	{ "lsl", 3, { 0x0f, 0x03, 0xc1 }, REGISTER, 0 }, { "lsl 64", 4, { 0x48, 0x0f, 0x03, 0xc1 }, REGISTER, 0 },
	{ "lsl 16", 4, { 0x66, 0x0f, 0x03, 0xc1 }, REGISTER, 0 },
	{ "verr", 3, { 0x0f, 0x00, 0xe1 }, REGISTER, 0 }, { "verw", 3, { 0x0f, 0x00, 0xe9 }, REGISTER, 0 },
	{ "mov gs", 2, { 0x8e, 0xe9 }, REGISTER, 0 }, { "mov ss", 2, { 0x8e, 0xd1 }, REGISTER, 0 },
	{ "mov ds", 2, { 0x8e, 0xd9 }, REGISTER, 0 }, { "mov es", 2, { 0x8e, 0xc1 }, REGISTER, 0 },
	{ "push gs", 2, { 0x0f, 0xa8 }, REGISTER, 0 }, { "push gs 16", 3, { 0x66, 0x0f, 0xa8 }, REGISTER, 0 },
	{ "pop gs", 2, { 0x0f, 0xa9 }, STACK, 8 }, { "pop gs 16", 3, { 0x66, 0x0f, 0xa9 }, STACK, 2 },
};

static const struct form forms32[] = {
	{ "jmp far m16:32", 2, { 0xff, 0x2b }, POINTER, 4 }, { "jmp far m16:16", 3, { 0x66, 0xff, 0x2b }, POINTER, 2 },
	{ "call far m16:32", 2, { 0xff, 0x1b }, POINTER, 4 }, { "call far m16:16", 3, { 0x66, 0xff, 0x1b }, POINTER, 2 },
	{ "jmp far ptr16:32", 1, { 0xea }, IMMEDIATE, 4 }, { "call far ptr16:32", 1, { 0x9a }, IMMEDIATE, 4 },
	{ "jmp far ptr16:16", 2, { 0x66, 0xea }, IMMEDIATE, 2 },
	{ "retf", 1, { 0xcb }, STACK, 4 }, { "retf 16", 2, { 0x66, 0xcb }, STACK, 2 }, { "retf 8", 3, { 0xca, 8, 0 }, STACK, 4 },
	{ "iretd", 1, { 0xcf }, STACK, 4 }, { "iret 16", 2, { 0x66, 0xcf }, STACK, 2 },
	{ "lss", 3, { 0x0f, 0xb2, 0x0b }, POINTER, 4 }, { "lgs", 3, { 0x0f, 0xb5, 0x0b }, POINTER, 4 },
	{ "lds", 2, { 0xc5, 0x0b }, POINTER, 4 }, { "les", 2, { 0xc4, 0x0b }, POINTER, 4 },
	{ "lds 16", 3, { 0x66, 0xc5, 0x0b }, POINTER, 2 }, { "les 16", 3, { 0x66, 0xc4, 0x0b }, POINTER, 2 },
	{ "lar", 3, { 0x0f, 0x02, 0xc1 }, REGISTER, 0 }, { "lsl", 3, { 0x0f, 0x03, 0xc1 }, REGISTER, 0 },
	{ "verr", 3, { 0x0f, 0x00, 0xe1 }, REGISTER, 0 }, { "verw", 3, { 0x0f, 0x00, 0xe9 }, REGISTER, 0 },
	{ "mov gs", 2, { 0x8e, 0xe9 }, REGISTER, 0 }, { "mov ss", 2, { 0x8e, 0xd1 }, REGISTER, 0 },
	{ "push es", 1, { 0x06 }, REGISTER, 0 }, { "push ss", 1, { 0x16 }, REGISTER, 0 }, { "push cs", 1, { 0x0e }, REGISTER, 0 },
	{ "push ds 16", 2, { 0x66, 0x1e }, REGISTER, 0 }, { "push gs", 2, { 0x0f, 0xa8 }, REGISTER, 0 },
	{ "pop es", 1, { 0x07 }, STACK, 4 }, { "pop ds", 1, { 0x1f }, STACK, 4 }, { "pop ss", 1, { 0x17 }, STACK, 4 },
	{ "pop gs 16", 3, { 0x66, 0x0f, 0xa9 }, STACK, 2 },
};

/* 64-bit code, 32-bit code, data; kernel's; null; TSS; beyond the table; of no LDT. */
static const uint16_t selectors[] = { 0x33, 0x30, 0x23, 0x20, 0x2b, 0x28, 0x10, 0x13, 0x08, 0x0b, 0x18, 0x1b, 0, 3, 0x40, 0x43,
				      0x48, 0x53, 0x63, 0x83, 0xfff3, 0x7, 0x37 };

static void put(uint8_t *at, unsigned size, uint64_t v)
{
	memcpy(at, &v, size);
}

/* The region's bytes and the registers for a form with a selector; the instruction's 15 bytes. */
static void prepare(const struct form *f, uint16_t selector, uint16_t cs, uint8_t *region, struct start *s, uint8_t bytes[16])
{
	bool is_pop = f->bytes[f->n - 1] == 0xa9 || f->bytes[f->n - 1] == 0x07 || f->bytes[f->n - 1] == 0x1f ||
		      f->bytes[f->n - 1] == 0x17;
	uint64_t frame[5] = { AT_TARGET, selector, 0x202, AT_STACK - 0x100, USER_DS };

	memset(region, INT3, LOW_BYTES);
	memset(bytes, INT3, 16);
	memcpy(bytes, f->bytes, f->n);
	if (f->operand == IMMEDIATE) {
		put(bytes + f->n, f->size, AT_TARGET);
		put(bytes + f->n + f->size, 2, selector);
	}
	memcpy(region + AT_CODE - LOW, bytes, 15);
	put(region + AT_OPERAND - LOW, f->size, AT_TARGET);
	put(region + AT_OPERAND - LOW + f->size, 2, selector);
	for (unsigned n = 0; n < 5 && f->operand == STACK; n++)
		put(region + AT_STACK - LOW + n * f->size, f->size, is_pop ? selector : frame[n]);
	for (unsigned n = 0; n < NR_GPRS; n++)
		s->gpr[n] = 0x11111111u * n;
	s->gpr[RAX] = 0x5a5a5a5a;
	s->gpr[RBX] = AT_OPERAND;
	s->gpr[RCX] = selector;
	s->rip = AT_CODE;
	s->cs = cs;
	s->flags = 0x202;
	s->rsp = s->gpr[RSP] = AT_STACK;
	s->ss = USER_DS;
}

/* The kernel's IRET to our signal handler makes every null selector 0. */
static bool differ(uint16_t a, uint16_t b)
{
	return (a & ~3) || (b & ~3) ? a != b : false;
}

static const char *differs(const struct result *a, const struct result *b, bool wide)
{
	uint64_t mask = wide ? ~0ULL : 0xffffffff;

	if (a->vector != b->vector || a->error != b->error)
		return "exception";
	if ((a->rip ^ b->rip) & mask)
		return "RIP";
	if ((a->flags ^ b->flags) & (X86_FLAGS_ZF | X86_FLAGS_CF | X86_FLAGS_DF))
		return "flags";
	if (a->cs != b->cs || a->ss != b->ss || differ(a->gs, b->gs) || differ(a->ds, b->ds) || differ(a->es, b->es))
		return "selectors";
	for (unsigned n = 0; n < (wide ? NR_GPRS : 8); n++)
		if ((a->gpr[n] ^ b->gpr[n]) & mask)
			return "registers";
	return NULL;
}

static unsigned compare(const struct form *f, unsigned nr, uint16_t cs)
{
	static uint8_t region[LOW_BYTES];
	uint8_t *low = (uint8_t *)(uintptr_t)LOW;
	unsigned wrong = 0;

	for (unsigned n = 0; n < nr; n++)
		for (unsigned k = 0; k < ARRAY_SIZE(selectors); k++) {
			const char *what;
			struct result guest;
			struct start s;
			uint8_t bytes[16];

			/* 64-bit offsets in memory are Intel's; AMD's processors ignore REX.W there */
			if (f[n].operand == POINTER && f[n].size == 8 && isa_host()->vendor == HOST_AMD)
				continue;
			prepare(&f[n], selectors[k], cs, region, &s, bytes);
			set_guest(&s);
			memcpy(mem + LOW, region, LOW_BYTES);
			memcpy(low, region, LOW_BYTES);
			run_native(&s);
			guest = run_guest(&s, bytes);
			what = differs(&native, &guest, native.cs == USER_CS && cs == USER_CS);
			if (!what && memcmp(low, mem + LOW, LOW_BYTES))
				what = "memory";
			if (!what)
				continue;
			wrong++;
			print_message("%s, selector %#x, from %#x: %s: silicon %d/%#lx rip %#lx rsp %#lx rax %#lx cs %x ss %x gs %x ds %x es %x, "
				      "here %d/%#lx rip %#lx rsp %#lx rax %#lx cs %x ss %x gs %x ds %x es %x\n",
				      f[n].name, selectors[k], cs, what, native.vector, native.error, native.rip, native.gpr[RSP],
				      native.gpr[RAX], native.cs, native.ss, native.gs, native.ds, native.es, guest.vector,
				      guest.error, guest.rip, guest.gpr[RSP], guest.gpr[RAX], guest.cs, guest.ss, guest.gs,
				      guest.ds, guest.es);
		}
	return wrong;
}

static void map_or_skip(void)
{
	static bool mapped;

	if (!mapped && mmap((void *)(uintptr_t)LOW, LOW_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED) {
		print_message("no memory at %#x here\n", LOW);
		skip();
	}
	mapped = true;
	assert_true(signals_set());
}

static void far_forms_in_64_bit_code_are_the_silicons(void **state)
{
	map_or_skip();
	assert_int_equal(compare(forms64, ARRAY_SIZE(forms64), USER_CS), 0);
}

static void far_forms_in_32_bit_code_are_the_silicons(void **state)
{
	map_or_skip();
	assert_int_equal(compare(forms32, ARRAY_SIZE(forms32), USER32_CS), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(far_forms_in_64_bit_code_are_the_silicons),
		cmocka_unit_test(far_forms_in_32_bit_code_are_the_silicons),
	};

	return cmocka_run_group_tests(tests, harness_setup, harness_teardown);
}
