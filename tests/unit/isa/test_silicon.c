/*
 * Every integer instruction of 64-bit mode against this machine's own
 * processor: a trampoline loads registers and flags, runs the one instruction
 * and stores them again; registers, flags (undefined ones too, but where the
 * table excuses them) and memory must agree with the interpreter's.
 *
 * Seeded: ISA_TEST_SEED and ISA_TEST_ROUNDS (cases an instruction) override.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "../support/host_sets.h"
#include "harness.h"

/* --- the trampoline --- */
struct silicon_regs {
	uint64_t gpr[16];
	uint64_t rflags;
};

void silicon_run(struct silicon_regs *regs, void *code);
extern const char silicon_tail[], silicon_tail_taken[];
extern uint8_t silicon_taken;

__asm__(".text\n"
	"silicon_run:\n"
	"	push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
	"	mov %rsp, silicon_host_sp(%rip)\n"
	"	mov %rsi, silicon_code(%rip)\n"
	"	mov %rdi, silicon_save(%rip)\n"
	"	movb $0, silicon_taken(%rip)\n"
	"	pushq 128(%rdi)\n popfq\n"
	"	mov 0(%rdi), %rax\n mov 8(%rdi), %rcx\n mov 16(%rdi), %rdx\n"
	"	mov 24(%rdi), %rbx\n mov 32(%rdi), %rsp\n mov 40(%rdi), %rbp\n"
	"	mov 48(%rdi), %rsi\n mov 64(%rdi), %r8\n mov 72(%rdi), %r9\n"
	"	mov 80(%rdi), %r10\n mov 88(%rdi), %r11\n mov 96(%rdi), %r12\n"
	"	mov 104(%rdi), %r13\n mov 112(%rdi), %r14\n mov 120(%rdi), %r15\n"
	"	mov 56(%rdi), %rdi\n"
	"	jmp *silicon_code(%rip)\n"
	"silicon_tail_taken:\n"
	"	movb $1, silicon_taken(%rip)\n"
	"silicon_tail:\n"
	"	mov %rsp, silicon_guest_sp(%rip)\n"
	"	mov silicon_host_sp(%rip), %rsp\n"
	"	pushfq\n cld\n push %rdi\n"
	"	mov silicon_save(%rip), %rdi\n"
	"	mov %rax, 0(%rdi)\n mov %rcx, 8(%rdi)\n mov %rdx, 16(%rdi)\n"
	"	mov %rbx, 24(%rdi)\n mov %rbp, 40(%rdi)\n"
	"	mov %rsi, 48(%rdi)\n mov %r8, 64(%rdi)\n mov %r9, 72(%rdi)\n"
	"	mov %r10, 80(%rdi)\n mov %r11, 88(%rdi)\n mov %r12, 96(%rdi)\n"
	"	mov %r13, 104(%rdi)\n mov %r14, 112(%rdi)\n mov %r15, 120(%rdi)\n"
	"	pop %rax\n mov %rax, 56(%rdi)\n"
	"	pop %rax\n mov %rax, 128(%rdi)\n"
	"	mov silicon_guest_sp(%rip), %rax\n mov %rax, 32(%rdi)\n"
	"	pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n"
	"	ret\n"
	".bss\n"
	".balign 8\n"
	"silicon_host_sp: .quad 0\n silicon_guest_sp: .quad 0\n"
	"silicon_code: .quad 0\n silicon_save: .quad 0\n silicon_taken: .byte 0\n"
	".text\n");

static uint8_t *code, *memory;
static volatile sig_atomic_t silicon_signal;

static void on_fault(int signo, siginfo_t *si, void *ctx)
{
	ucontext_t *uc = ctx;

	uintptr_t pc = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];

	if (pc - (uintptr_t)code >= 4096) { /* the test itself is broken */
		signal(signo, SIG_DFL);
		return;
	}
	silicon_signal = signo;
	uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)silicon_tail;
}

/* --- random numbers and values with edges --- */
static uint64_t seed = 0x9e3779b97f4a7c15;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static uint64_t value(void)
{
	static const uint64_t edges[] = { 0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff,
					  0x7fffffff, 0x80000000, 0xffffffff,
					  0x7fffffffffffffff, 0x8000000000000000,
					  0xffffffffffffffff, 0xfffffffffffffffe };

	switch (rnd() % 4) {
	case 0: return edges[rnd() % ARRAY_SIZE(edges)];
	case 1: return rnd() % 72;
	default: return rnd() >> (rnd() % 64);
	}
}

/* --- what to test --- */
#define ANY_REG 8 /* ModRM.reg is an operand */
enum {
	BYTE = 1,	/* byte operands; otherwise 16, 32 and 64 bits */
	NO_MODRM = 2,
	MEM_ONLY = 4,
	REG_ONLY = 8,
	LOCKABLE = 0x10,
	BIT_STRING = 0x20, /* register operand is an offset into memory */
	DIVIDE = 0x40,
	STRING = 0x80,
	STACK = 0x100,
	NO16 = 0x200,
	VEX = 0x400,	/* prefix is pp, esc is mmmmm */
	BRANCH = 0x800,
	OPREG = 0x1000, /* register in the low opcode bits */
	ENTER = 0x2000,
	FIXED_SIZE = 0x4000, /* neither 66 nor REX.W */
	ALIGNED = 0x8000,
	FAR_MEM = 0x10000, /* operand may cross a page: default is anywhere */
	ONLY64 = 0x20000,
};
enum { IMM0, IMM8, IMMZ, IMM16, IMMV };

struct op {
	const char *name;
	uint8_t prefix, esc, opcode, ext, imm;
	uint32_t flags;
	uint64_t undefined; /* flags where silicon need not agree with itself */
};

#define ALU_OPS(n, base, lock)                                                       \
	{ n " rm8,r8", 0, 0, base, ANY_REG, 0, BYTE | lock, 0 },                     \
	{ n " rm,r", 0, 0, base + 1, ANY_REG, 0, lock, 0 },                          \
	{ n " r8,rm8", 0, 0, base + 2, ANY_REG, 0, BYTE, 0 },                        \
	{ n " r,rm", 0, 0, base + 3, ANY_REG, 0, 0, 0 },                             \
	{ n " al,imm8", 0, 0, base + 4, 0, IMM8, BYTE | NO_MODRM, 0 },               \
	{ n " eax,imm", 0, 0, base + 5, 0, IMMZ, NO_MODRM, 0 },                      \
	{ n " rm8,imm8", 0, 0, 0x80, (base >> 3), IMM8, BYTE | lock, 0 },            \
	{ n " rm,imm", 0, 0, 0x81, (base >> 3), IMMZ, lock, 0 },                     \
	{ n " rm,imm8s", 0, 0, 0x83, (base >> 3), IMM8, lock, 0 }
#define SHIFT_OPS(n, ext)                                                            \
	{ n " rm8,imm8", 0, 0, 0xc0, ext, IMM8, BYTE, 0 },                           \
	{ n " rm,imm8", 0, 0, 0xc1, ext, IMM8, 0, 0 },                               \
	{ n " rm8,1", 0, 0, 0xd0, ext, 0, BYTE, 0 },                                 \
	{ n " rm,1", 0, 0, 0xd1, ext, 0, 0, 0 },                                     \
	{ n " rm8,cl", 0, 0, 0xd2, ext, 0, BYTE, 0 },                                \
	{ n " rm,cl", 0, 0, 0xd3, ext, 0, 0, 0 }
#define CC_OPS(c)                                                                    \
	{ "cmov" #c, 0, 1, 0x40 + c, ANY_REG, 0, 0, 0 },                             \
	{ "set" #c, 0, 1, 0x90 + c, 0, 0, BYTE, 0 },                                 \
	{ "j" #c " rel8", 0, 0, 0x70 + c, 0, 0, BRANCH | NO_MODRM | FIXED_SIZE, 0 }, \
	{ "j" #c " rel32", 0, 1, 0x80 + c, 0, 0, BRANCH | NO_MODRM | FIXED_SIZE, 0 }
#define STRING_OPS(n, op)                                                            \
	{ n "b", 0, 0, op, 0, 0, NO_MODRM | STRING | FIXED_SIZE, 0 },                \
	{ n, 0, 0, op + 1, 0, 0, NO_MODRM | STRING, 0 },                             \
	{ "rep " n "b", 0xf3, 0, op, 0, 0, NO_MODRM | STRING | FIXED_SIZE, 0 },      \
	{ "rep " n, 0xf3, 0, op + 1, 0, 0, NO_MODRM | STRING, 0 },                   \
	{ "repne " n "b", 0xf2, 0, op, 0, 0, NO_MODRM | STRING | FIXED_SIZE, 0 },    \
	{ "repne " n, 0xf2, 0, op + 1, 0, 0, NO_MODRM | STRING, 0 }
#define BT_OPS(n, op, ext, lock)                                                     \
	{ n " rm,r", 0, 1, op, ANY_REG, 0, BIT_STRING | lock, 0 },                   \
	{ n " rm,imm8", 0, 1, 0xba, ext, IMM8, lock, 0 }

static const struct op ops[] = {
	ALU_OPS("add", 0x00, LOCKABLE), ALU_OPS("or", 0x08, LOCKABLE),
	ALU_OPS("adc", 0x10, LOCKABLE), ALU_OPS("sbb", 0x18, LOCKABLE),
	ALU_OPS("and", 0x20, LOCKABLE), ALU_OPS("sub", 0x28, LOCKABLE),
	ALU_OPS("xor", 0x30, LOCKABLE), ALU_OPS("cmp", 0x38, 0),
	{ "test rm8,r8", 0, 0, 0x84, ANY_REG, 0, BYTE, 0 },
	{ "test rm,r", 0, 0, 0x85, ANY_REG, 0, 0, 0 },
	{ "test al,imm8", 0, 0, 0xa8, 0, IMM8, BYTE | NO_MODRM, 0 },
	{ "test eax,imm", 0, 0, 0xa9, 0, IMMZ, NO_MODRM, 0 },
	{ "test rm8,imm8", 0, 0, 0xf6, 0, IMM8, BYTE, 0 },
	{ "test rm,imm", 0, 0, 0xf7, 1, IMMZ, 0, 0 },
	{ "not rm8", 0, 0, 0xf6, 2, 0, BYTE | LOCKABLE, 0 },
	{ "not rm", 0, 0, 0xf7, 2, 0, LOCKABLE, 0 },
	{ "neg rm8", 0, 0, 0xf6, 3, 0, BYTE | LOCKABLE, 0 },
	{ "neg rm", 0, 0, 0xf7, 3, 0, LOCKABLE, 0 },
	{ "inc rm8", 0, 0, 0xfe, 0, 0, BYTE | LOCKABLE, 0 },
	{ "inc rm", 0, 0, 0xff, 0, 0, LOCKABLE, 0 },
	{ "dec rm8", 0, 0, 0xfe, 1, 0, BYTE | LOCKABLE, 0 },
	{ "dec rm", 0, 0, 0xff, 1, 0, LOCKABLE, 0 },
	{ "mul rm8", 0, 0, 0xf6, 4, 0, BYTE, 0 },
	{ "mul rm", 0, 0, 0xf7, 4, 0, 0, 0 },
	{ "imul rm8", 0, 0, 0xf6, 5, 0, BYTE, 0 },
	{ "imul rm", 0, 0, 0xf7, 5, 0, 0, 0 },
	{ "div rm8", 0, 0, 0xf6, 6, 0, BYTE | DIVIDE, X86_FLAGS_ARITH },
	{ "div rm", 0, 0, 0xf7, 6, 0, DIVIDE, X86_FLAGS_ARITH },
	{ "idiv rm8", 0, 0, 0xf6, 7, 0, BYTE | DIVIDE, X86_FLAGS_ARITH },
	{ "idiv rm", 0, 0, 0xf7, 7, 0, DIVIDE, X86_FLAGS_ARITH },
	{ "imul r,rm", 0, 1, 0xaf, ANY_REG, 0, 0, 0 },
	{ "imul r,rm,imm", 0, 0, 0x69, ANY_REG, IMMZ, 0, 0 },
	{ "imul r,rm,imm8", 0, 0, 0x6b, ANY_REG, IMM8, 0, 0 },
	SHIFT_OPS("rol", 0), SHIFT_OPS("ror", 1), SHIFT_OPS("rcl", 2), SHIFT_OPS("rcr", 3),
	SHIFT_OPS("shl", 4), SHIFT_OPS("shr", 5), SHIFT_OPS("sal", 6), SHIFT_OPS("sar", 7),
	{ "shld imm8", 0, 1, 0xa4, ANY_REG, IMM8, 0, 0 },
	{ "shld cl", 0, 1, 0xa5, ANY_REG, 0, 0, 0 },
	{ "shrd imm8", 0, 1, 0xac, ANY_REG, IMM8, 0, 0 },
	{ "shrd cl", 0, 1, 0xad, ANY_REG, 0, 0, 0 },
	{ "mov rm8,r8", 0, 0, 0x88, ANY_REG, 0, BYTE, 0 },
	{ "mov rm,r", 0, 0, 0x89, ANY_REG, 0, 0, 0 },
	{ "mov r8,rm8", 0, 0, 0x8a, ANY_REG, 0, BYTE, 0 },
	{ "mov r,rm", 0, 0, 0x8b, ANY_REG, 0, 0, 0 },
	{ "mov rm8,imm8", 0, 0, 0xc6, 0, IMM8, BYTE, 0 },
	{ "mov rm,imm", 0, 0, 0xc7, 0, IMMZ, 0, 0 },
	{ "mov r8,imm8", 0, 0, 0xb0, 0, IMM8, BYTE | NO_MODRM | OPREG, 0 },
	{ "mov r,imm", 0, 0, 0xb8, 0, IMMV, NO_MODRM | OPREG, 0 },
	{ "movzx r,rm8", 0, 1, 0xb6, ANY_REG, 0, 0, 0 },
	{ "movzx r,rm16", 0, 1, 0xb7, ANY_REG, 0, 0, 0 },
	{ "movsx r,rm8", 0, 1, 0xbe, ANY_REG, 0, 0, 0 },
	{ "movsx r,rm16", 0, 1, 0xbf, ANY_REG, 0, 0, 0 },
	{ "movsxd", 0, 0, 0x63, ANY_REG, 0, 0, 0 },
	{ "lea", 0, 0, 0x8d, ANY_REG, 0, MEM_ONLY, 0 },
	{ "movnti", 0, 1, 0xc3, ANY_REG, 0, MEM_ONLY | NO16, 0 },
	{ "bswap", 0, 1, 0xc8, 0, 0, NO_MODRM | OPREG, 0 },
	{ "movbe r,m", 0, 2, 0xf0, ANY_REG, 0, MEM_ONLY, 0 },
	{ "movbe m,r", 0, 2, 0xf1, ANY_REG, 0, MEM_ONLY, 0 },
	{ "cbw", 0, 0, 0x98, 0, 0, NO_MODRM, 0 },
	{ "cwd", 0, 0, 0x99, 0, 0, NO_MODRM, 0 },
	{ "lahf", 0, 0, 0x9f, 0, 0, NO_MODRM | FIXED_SIZE, 0 },
	{ "sahf", 0, 0, 0x9e, 0, 0, NO_MODRM | FIXED_SIZE, 0 },
	{ "cmc", 0, 0, 0xf5, 0, 0, NO_MODRM | FIXED_SIZE, 0 },
	{ "clc", 0, 0, 0xf8, 0, 0, NO_MODRM | FIXED_SIZE, 0 },
	{ "stc", 0, 0, 0xf9, 0, 0, NO_MODRM | FIXED_SIZE, 0 },
	{ "cld", 0, 0, 0xfc, 0, 0, NO_MODRM | FIXED_SIZE, 0 },
	{ "std", 0, 0, 0xfd, 0, 0, NO_MODRM | FIXED_SIZE, 0 },
	{ "nop", 0, 0, 0x90, 0, 0, NO_MODRM | FIXED_SIZE, 0 },
	{ "nop rm", 0, 1, 0x1f, 0, 0, 0, 0 },
	{ "endbr64", 0xf3, 1, 0x1e, 7, 0, FIXED_SIZE | REG_ONLY, 0 },
	{ "xchg rm8,r8", 0, 0, 0x86, ANY_REG, 0, BYTE, 0 },
	{ "xchg rm,r", 0, 0, 0x87, ANY_REG, 0, LOCKABLE, 0 },
	{ "xchg r,rax", 0, 0, 0x90, 0, 0, NO_MODRM | OPREG, 0 },
	{ "xadd rm8,r8", 0, 1, 0xc0, ANY_REG, 0, BYTE | LOCKABLE, 0 },
	{ "xadd rm,r", 0, 1, 0xc1, ANY_REG, 0, LOCKABLE, 0 },
	{ "cmpxchg rm8,r8", 0, 1, 0xb0, ANY_REG, 0, BYTE | LOCKABLE, 0 },
	{ "cmpxchg rm,r", 0, 1, 0xb1, ANY_REG, 0, LOCKABLE, 0 },
	{ "cmpxchg8b", 0, 1, 0xc7, 1, 0, MEM_ONLY | LOCKABLE | FIXED_SIZE, 0 },
	{ "cmpxchg16b", 0, 1, 0xc7, 1, 0, MEM_ONLY | LOCKABLE | ONLY64 | ALIGNED, 0 },
	BT_OPS("bt", 0xa3, 4, 0), BT_OPS("bts", 0xab, 5, LOCKABLE),
	BT_OPS("btr", 0xb3, 6, LOCKABLE), BT_OPS("btc", 0xbb, 7, LOCKABLE),
	{ "bsf", 0, 1, 0xbc, ANY_REG, 0, 0, 0 },
	{ "bsr", 0, 1, 0xbd, ANY_REG, 0, 0, 0 },
	{ "tzcnt", 0xf3, 1, 0xbc, ANY_REG, 0, 0, 0 },
	{ "lzcnt", 0xf3, 1, 0xbd, ANY_REG, 0, 0, 0 },
	{ "popcnt", 0xf3, 1, 0xb8, ANY_REG, 0, 0, 0 },
	{ "crc32 rm8", 0xf2, 2, 0xf0, ANY_REG, 0, 0, 0 },
	{ "crc32 rm", 0xf2, 2, 0xf1, ANY_REG, 0, 0, 0 },
	{ "adcx", 0x66, 2, 0xf6, ANY_REG, 0, NO16, 0 },
	{ "adox", 0xf3, 2, 0xf6, ANY_REG, 0, NO16, 0 },
	{ "andn", 0, 2, 0xf2, ANY_REG, 0, VEX, 0 },
	{ "blsr", 0, 2, 0xf3, 1, 0, VEX, 0 },
	{ "blsmsk", 0, 2, 0xf3, 2, 0, VEX, 0 },
	{ "blsi", 0, 2, 0xf3, 3, 0, VEX, 0 },
	{ "bzhi", 0, 2, 0xf5, ANY_REG, 0, VEX, 0 },
	{ "pext", 2, 2, 0xf5, ANY_REG, 0, VEX, 0 },
	{ "pdep", 3, 2, 0xf5, ANY_REG, 0, VEX, 0 },
	{ "mulx", 3, 2, 0xf6, ANY_REG, 0, VEX, 0 },
	{ "bextr", 0, 2, 0xf7, ANY_REG, 0, VEX, 0 },
	{ "shlx", 1, 2, 0xf7, ANY_REG, 0, VEX, 0 },
	{ "sarx", 2, 2, 0xf7, ANY_REG, 0, VEX, 0 },
	{ "shrx", 3, 2, 0xf7, ANY_REG, 0, VEX, 0 },
	{ "rorx", 3, 3, 0xf0, ANY_REG, IMM8, VEX | ENTER, 0 }, /* ENTER: vvvv is unused */
	{ "push r", 0, 0, 0x50, 0, 0, NO_MODRM | OPREG | STACK, 0 },
	{ "pop r", 0, 0, 0x58, 0, 0, NO_MODRM | OPREG | STACK, 0 },
	{ "push imm8", 0, 0, 0x6a, 0, IMM8, NO_MODRM | STACK, 0 },
	{ "push imm", 0, 0, 0x68, 0, IMMZ, NO_MODRM | STACK, 0 },
	{ "push rm", 0, 0, 0xff, 6, 0, STACK, 0 },
	{ "pop rm", 0, 0, 0x8f, 0, 0, STACK, 0 },
	{ "enter", 0, 0, 0xc8, 0, IMM16, NO_MODRM | STACK | ENTER, 0 },
	{ "leave", 0, 0, 0xc9, 0, 0, NO_MODRM | STACK, 0 },
	{ "loopne", 0, 0, 0xe0, 0, 0, BRANCH | NO_MODRM | FIXED_SIZE, 0 },
	{ "loope", 0, 0, 0xe1, 0, 0, BRANCH | NO_MODRM | FIXED_SIZE, 0 },
	{ "loop", 0, 0, 0xe2, 0, 0, BRANCH | NO_MODRM | FIXED_SIZE, 0 },
	{ "jrcxz", 0, 0, 0xe3, 0, 0, BRANCH | NO_MODRM | FIXED_SIZE, 0 },
	{ "jmp rel8", 0, 0, 0xeb, 0, 0, BRANCH | NO_MODRM | FIXED_SIZE, 0 },
	{ "jmp rel32", 0, 0, 0xe9, 0, 0, BRANCH | NO_MODRM | FIXED_SIZE, 0 },
	{ "call rel32", 0, 0, 0xe8, 0, 0, BRANCH | NO_MODRM | STACK | FIXED_SIZE, 0 },
	{ "xlat", 0, 0, 0xd7, 0, 0, NO_MODRM | STRING | FIXED_SIZE, 0 },
	CC_OPS(0), CC_OPS(1), CC_OPS(2), CC_OPS(3), CC_OPS(4), CC_OPS(5), CC_OPS(6), CC_OPS(7),
	CC_OPS(8), CC_OPS(9), CC_OPS(10), CC_OPS(11), CC_OPS(12), CC_OPS(13), CC_OPS(14),
	CC_OPS(15),
	STRING_OPS("movs", 0xa4), STRING_OPS("stos", 0xaa), STRING_OPS("lods", 0xac),
	STRING_OPS("cmps", 0xa6), STRING_OPS("scas", 0xae),
};

/* --- building a case --- */
#define WINDOW 1024 /* bytes of memory, around a page boundary */
#define TAKEN_AT 0x60 /* branch targets: code page offset, fits rel8 */

struct test_case {
	uint8_t bytes[16];
	unsigned len, size;
	bool taken_slot;
	bool locked; /* LOCK, or XCHG's own */
	uint64_t gpr[16], rflags;
};

static void put(struct test_case *t, uint64_t v, unsigned n)
{
	while (n--) {
		t->bytes[t->len++] = (uint8_t)v;
		v >>= 8;
	}
}

/* An address in the window with room for operands on both sides. */
static uint64_t place(const struct op *o, const struct test_case *t)
{
	uint64_t at = (uintptr_t)memory + 256 + rnd() % (WINDOW - 512);

	if (rnd() % 3 == 0)
		at = (uintptr_t)memory + WINDOW / 2 - rnd() % 9;
	return (o->flags & ALIGNED) || t->locked ? at & ~15ULL : at; /* no split locks of the host's (cpu/bus_lock.c) */
}

/* ModRM (and SIB, disp) of a memory operand; sets the registers it uses. */
static void memory_operand(const struct op *o, struct test_case *t, unsigned reg, unsigned base,
			   unsigned index)
{
	bool sib = (base & 7) == 4 || index != 4;
	unsigned scale = rnd() % 4;
	int64_t disp = rnd() % 3 == 0 ? (int32_t)rnd() : (int)(rnd() % 256) - 128;
	bool disp8 = disp == (int8_t)disp && rnd() % 2;
	uint64_t target = place(o, t);

	put(t, (disp8 ? 0x40u : 0x80u) | (reg & 7) << 3 | (sib ? 4 : (base & 7)), 1);
	if (sib)
		put(t, scale << 6 | (index & 7) << 3 | (base & 7), 1);
	put(t, (uint32_t)disp, disp8 ? 1 : 4);
	t->gpr[base] = target - (uint64_t)disp;
	if (index == 4)
		return;
	t->gpr[index] = rnd() % 4 ? rnd() % 1000 : rnd();
	t->gpr[base] -= t->gpr[index] << scale;
}

static void build_vex(const struct op *o, struct test_case *t)
{
	unsigned reg = o->ext == ANY_REG ? rnd() % 16 : o->ext, rm = rnd() % 16;
	unsigned vvvv = (o->flags & ENTER) ? 0 : rnd() % 16, w = rnd() % 2;

	t->size = w ? 8 : 4;
	put(t, 0xc4, 1);
	put(t, (reg & 8 ? 0u : 0x80) | 0x40 | (rm & 8 ? 0u : 0x20) | o->esc, 1);
	put(t, w << 7 | (~vvvv & 15) << 3 | o->prefix, 1);
	put(t, o->opcode, 1);
	if (rnd() % 3 == 0) {
		memory_operand(o, t, reg, rm, 4);
		if (vvvv == rm || o->opcode == 0xf6)
			return;
	} else {
		put(t, 0xc0 | (reg & 7) << 3 | (rm & 7), 1);
	}
}

static void build(const struct op *o, struct test_case *t)
{
	bool lock = (o->flags & LOCKABLE) && rnd() % 3 == 0;
	bool mem = !(o->flags & (REG_ONLY | NO_MODRM)) &&
		   ((o->flags & MEM_ONLY) || lock || rnd() % 2);
	unsigned reg, rm = rnd() % 16, index = 4, rex = 0x40, opcode = o->opcode, n;

	memset(t, 0, sizeof(*t));
	for (n = 0; n < 16; n++)
		t->gpr[n] = value();
	t->rflags = (rnd() & X86_FLAGS_ARITH) | X86_FLAGS_FIXED;
	t->locked = lock || (!o->esc && (o->opcode & 0xfe) == 0x86);
	if (o->flags & VEX) {
		build_vex(o, t);
		if (o->imm)
			put(t, value(), 1);
		return;
	}
	reg = o->ext == ANY_REG ? rnd() % 16 : o->ext;
	if (o->flags & OPREG)
		opcode += rm & 7;

	switch ((o->flags & (BYTE | FIXED_SIZE)) ? 1 : (o->flags & ONLY64) ? 2 : rnd() % 3) {
	case 0:
		t->size = (o->flags & NO16) ? 4 : 2;
		break;
	case 1: t->size = 4; break;
	default: t->size = 8; break;
	}
	if (t->size == 2)
		put(t, 0x66, 1);
	if (lock)
		put(t, 0xf0, 1);
	if (o->prefix)
		put(t, o->prefix, 1);
	if (t->size == 8)
		rex |= 8;
	if (o->ext == ANY_REG && (reg & 8))
		rex |= 4;
	if ((!(o->flags & NO_MODRM) || (o->flags & OPREG)) && (rm & 8))
		rex |= 1;
	if (mem && !(o->flags & BIT_STRING) && rnd() % 2) {
		do
			index = rnd() % 16;
		while (index == rm || index == 4);
		if (index & 8)
			rex |= 2;
	}
	if (rex != 0x40 || ((o->flags & BYTE) && rnd() % 2))
		put(t, rex, 1);
	if (o->esc)
		put(t, 0x0f, 1);
	if (o->esc > 1)
		put(t, o->esc == 2 ? 0x38 : 0x3a, 1);
	put(t, opcode, 1);
	t->size = (o->flags & BYTE) ? 1 : t->size;

	if (o->flags & STACK) {
		t->gpr[RSP] = (uintptr_t)memory + WINDOW / 2 + (rnd() % 16) * 2 - 16;
		t->gpr[RBP] = (uintptr_t)memory + WINDOW / 2 + rnd() % 64;
	}
	if (o->flags & STRING) {
		t->gpr[RSI] = (uintptr_t)memory + WINDOW / 2 + rnd() % 128 - 64;
		t->gpr[RDI] = rnd() % 2 ? t->gpr[RSI] + rnd() % 17 - 8 :
					  (uintptr_t)memory + WINDOW / 2 + rnd() % 128 - 64;
		t->gpr[RCX] = rnd() % 24;
		t->gpr[RBX] = (uintptr_t)memory + WINDOW / 2 - rnd() % 255;
		if (rnd() % 2)
			t->rflags |= X86_FLAGS_DF;
	}
	if (o->flags & BRANCH) {
		if (rnd() % 2)
			t->gpr[RCX] = rnd() % 3;
		n = o->esc || opcode == 0xe8 || opcode == 0xe9 ? 4 : 1;
		put(t, TAKEN_AT - (t->len + n), n);
		return;
	}
	if (mem) {
		/* the bit within 128 bytes; base and bit register apart */
		if ((o->flags & BIT_STRING) && rm == reg)
			reg = rm ^ 1;
		memory_operand(o, t, reg, rm, index);
		if (o->flags & BIT_STRING) {
			int64_t bit = (int64_t)(rnd() % 2048) - 1024;

			t->gpr[reg] = t->size == 8 ? (uint64_t)bit : (uint32_t)bit;
		}
		if ((o->flags & STACK) && rm == RSP && opcode == 0x8f)
			t->gpr[RSP] = (uintptr_t)memory + WINDOW / 2;
	} else if (!(o->flags & NO_MODRM)) {
		put(t, 0xc0 | (reg & 7) << 3 | (rm & 7), 1);
	}
	if ((o->flags & DIVIDE) && rnd() % 4) {
		/* mostly divisions that work */
		t->gpr[RDX] = rnd() % 2 ? (uint64_t)0 : rnd() % 5 - 2;
		if (t->size == 1)
			t->gpr[RAX] &= 0xff;
	}
	switch (o->imm) {
	case IMM8: put(t, value(), 1); break;
	case IMMZ: put(t, value(), t->size == 2 ? 2 : 4); break;
	case IMM16: put(t, rnd() % 64, 2); put(t, rnd() % 4, 1); break;
	case IMMV: put(t, value(), t->size); break;
	default: break;
	}
}

static void describe(const char *what, const struct op *o, const struct test_case *t,
		     const struct cpu_state *cs, const struct silicon_regs *r)
{
	char text[128];
	unsigned k;

	isa_insn_text(t->bytes, t->len, ISA_CODE64, 0, text, sizeof(text));
	print_error("%s: %s: %s  [", o->name, what, text);
	for (k = 0; k < t->len; k++)
		print_error("%02x ", t->bytes[k]);
	print_error("]\n flags %llx -> here %llx silicon %llx\n", (unsigned long long)t->rflags,
		    (unsigned long long)cpu_rflags(cs), (unsigned long long)r->rflags);
	for (k = 0; k < 16; k++)
		if (cs->gpr[k] != r->gpr[k] || cs->gpr[k] != t->gpr[k])
			print_error(" r%u %llx -> here %llx silicon %llx\n", k,
				    (unsigned long long)t->gpr[k], (unsigned long long)cs->gpr[k],
				    (unsigned long long)r->gpr[k]);
}

/* Operands can land outside the window (odd base and index): not a case. */
static bool run_case(const struct op *o, bool bounce)
{
	static uint8_t before[WINDOW], here[WINDOW];
	static struct cpu_state cs;
	struct silicon_regs r;
	struct test_case t;
	bool ok, mask_mismatch;
	uint64_t rip = (uintptr_t)code, mask = X86_FLAGS_ARITH | X86_FLAGS_DF;
	unsigned k;

	build(o, &t);
	for (k = 0; k < WINDOW / 8; k++)
		((uint64_t *)before)[k] = k % 3 ? value() : 0x4141414141414141;
	memcpy(memory, before, WINDOW);
	reset_cpu(&cs, ISA_CODE64);
	use_bounce = bounce;
	memcpy(cs.gpr, t.gpr, sizeof(t.gpr));
	cpu_set_rflags(&cs, t.rflags);
	ok = run_one(&cs, t.bytes, t.len, rip);
	if (!ok && cs.exception.vector == X86_TRAP_PF)
		return false;
	if (!ok) /* restart: nothing may have changed */
		assert_memory_equal(cs.gpr, t.gpr, sizeof(t.gpr));
	memcpy(here, memory, WINDOW);
	memcpy(memory, before, WINDOW);

	/* The instruction, then a way out; another where branches go. */
	memset(code, 0xcc, 128);
	memcpy(code, t.bytes, t.len);
	memcpy(code + t.len, "\xff\x25\x00\x00\x00\x00", 6);
	memcpy(code + t.len + 6, &(const void *){ silicon_tail }, 8);
	memcpy(code + TAKEN_AT, "\xff\x25\x00\x00\x00\x00", 6);
	memcpy(code + TAKEN_AT + 6, &(const void *){ silicon_tail_taken }, 8);
	memcpy(r.gpr, t.gpr, sizeof(r.gpr));
	r.rflags = t.rflags;
	silicon_signal = 0;
	silicon_run(&r, code);

	if (ok != !silicon_signal) {
		describe(ok ? "silicon faulted" : "raised here only", o, &t, &cs, &r);
		fail();
	}
	if (!ok) {
		assert_int_equal(cs.exception.vector,
				 silicon_signal == SIGFPE ? X86_TRAP_DE : X86_TRAP_GP);
		return true;
	}
	if (o->opcode == 0xe8 && !o->esc) /* return addresses are equal by construction */
		assert_int_equal(isa_host_load((void *)(uintptr_t)r.gpr[RSP], 8), rip + t.len);
	mask &= ~o->undefined;
	mask_mismatch = (cpu_rflags(&cs) ^ r.rflags) & mask;
	if (memcmp(cs.gpr, r.gpr, sizeof(r.gpr)) || mask_mismatch) {
		describe("registers or flags", o, &t, &cs, &r);
		fail();
	}
	if (memcmp(here, memory, WINDOW)) {
		describe("memory", o, &t, &cs, &r);
		fail();
	}
	if (cs.rip != (silicon_taken ? rip + TAKEN_AT : rip + t.len)) {
		describe("branch", o, &t, &cs, &r);
		fail();
	}
	return true;
}

/* After cmocka, which installs its own before each test. */
static void catch_faults(void)
{
	static uint8_t alt_stack[65536];
	stack_t ss = { .ss_sp = alt_stack, .ss_size = sizeof(alt_stack) };
	struct sigaction sa = {
		.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER,
	};

	sigaltstack(&ss, NULL);
	sigaction(SIGFPE, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGILL, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
}

static void agrees(bool bounce, unsigned rounds)
{
	unsigned k, n, nr = 0, skipped = 0, lacking = 0;

	catch_faults();
	for (k = 0; k < ARRAY_SIZE(ops); k++) {
		unsigned done = 0;
		struct test_case t;

		build(&ops[k], &t);
		if (host_lacks_insn(t.bytes, t.len)) {
			lacking++;
			continue;
		}
		for (n = 0; n < rounds; n++)
			done += run_case(&ops[k], bounce);
		if (done < rounds / 2) {
			print_error("%s: only %u of %u cases ran\n", ops[k].name, done, rounds);
			fail();
		}
		nr += done;
		skipped += rounds - done;
	}
	print_message("%zu instructions, of which this host lacks %u; %u cases, %u outside the window\n",
		      ARRAY_SIZE(ops), lacking, nr, skipped);
}

static unsigned rounds_wanted(unsigned otherwise)
{
	const char *r = getenv("ISA_TEST_ROUNDS");

	return r ? (unsigned)strtoul(r, NULL, 0) : otherwise;
}

static void integer_instructions_agree_with_silicon(void **state)
{
	agrees(false, rounds_wanted(400));
}

/* Device memory: the same results when every access goes through the bounce buffer. */
static void integer_instructions_through_bounce_agree_with_silicon(void **state)
{
	agrees(true, rounds_wanted(400) / 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(integer_instructions_agree_with_silicon),
		cmocka_unit_test(integer_instructions_through_bounce_agree_with_silicon),
	};
	uint8_t *page;

	if (getenv("ISA_TEST_SEED"))
		seed = strtoull(getenv("ISA_TEST_SEED"), NULL, 0) | 1;
	code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (code == MAP_FAILED || page == MAP_FAILED)
		return 1;
	memory = window = page + 4096 - WINDOW / 2;
	window_size = WINDOW;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
