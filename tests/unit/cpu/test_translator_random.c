/*
 * Random programs of several blocks, on the translator and on the interpreter side by side.
 *
 * A program lies in three pages: blocks of random instructions, some across a page's end, that jump, call,
 * return and go through registers to one another, backward and forward, with flags live from block to block.
 * They read and write data, the stack, and immediates of their own code. Between entries pages lose and
 * get back rights in EPT, accessed and dirty flags are cleared, and the translator's machine is kicked at
 * random, entered again and, in half of the programs, interrupted. At each exit all registers, vectors and
 * memory have to be equal, paging structures with their flags too.
 *
 * Environment: SEED, ROUNDS, SHOW=1 (the program of a failing round is written to random-program.bin).
 */
#include "translator.h"

#include "cpu/jit.h"

#include <sys/time.h>
#include <unistd.h>

#define CODE_AT GPA_CODE
#define CODE_PAGES 3
#define DATA 0x40000UL
#define DATA_PAGES 3
#define STACK 0x68000UL /* in the middle of its 64 KiB */
#define TICKS 0x1f000UL /* counted by the interrupt's handler: differs between the machines */
#define HANDLER 0x1e000UL
#define MAX_BLOCKS 24
#define STEPS 400 /* blocks that a program runs */
#define VECTOR 0x50

static uint64_t seed, ended; /* programs that came to their end */

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 0x2545f4914f6cdd1d >> 8;
}

static struct {
	uint8_t code[CODE_PAGES * PAGE_SIZE];
	unsigned n;
	unsigned imm[64], nr_imm;	  /* immediates that may be patched */
	unsigned block[MAX_BLOCKS], nr_blocks;
	struct { unsigned at, block; } rel[256]; /* open rel32s; MAX_BLOCKS: the end */
	unsigned nr_rel;
	bool avx512;
} p;

static void b1(unsigned v)
{
	p.code[p.n++] = (uint8_t)v;
}

static void bytes(const char *s, unsigned n)
{
	memcpy(p.code + p.n, s, n);
	p.n += n;
}

static void b4(uint32_t v)
{
	memcpy(p.code + p.n, &v, 4);
	p.n += 4;
}

static void rel32(unsigned block)
{
	p.rel[p.nr_rel].at = p.n;
	p.rel[p.nr_rel++].block = block;
	b4(0);
}

/* RCX counts blocks, RBX is the data's address, R14 the code's: none of these, nor RSP. */
static unsigned any_reg(void)
{
	static const uint8_t regs[] = { RAX, RDX, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R15 };

	return regs[rnd() % sizeof(regs)];
}

/* Prefixes of an operation of 16, 32 or 64 bits with these ModRM fields. */
static void prefixes(unsigned reg, unsigned rm)
{
	unsigned size = rnd() % 4, rex = (reg & 8 ? 4u : 0) | (rm & 8 ? 1u : 0);

	if (size == 0)
		b1(0x66);
	if (size == 2)
		rex |= 8;
	if (rex || rnd() % 8 == 0)
		b1(0x40 | rex);
}

static void modrm_reg(unsigned reg, unsigned rm)
{
	b1(0xc0 | (reg & 7) << 3 | (rm & 7));
}

/* [rbx + disp32] within the data; some across a page's end. */
static void modrm_mem(unsigned reg)
{
	uint32_t disp = (uint32_t)rnd() % (DATA_PAGES * PAGE_SIZE - 64);

	if (rnd() % 3 == 0)
		disp = (uint32_t)(PAGE_SIZE * (1 + rnd() % (DATA_PAGES - 1)) - rnd() % 64);
	b1(0x80 | (reg & 7) << 3 | 3);
	b4(disp);
}

static unsigned alu(void)
{
	static const uint8_t ops[] = { 0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x39 };

	return ops[rnd() % sizeof(ops)];
}

static void two_registers(unsigned opcode)
{
	unsigned reg = any_reg(), rm = any_reg();

	prefixes(reg, rm);
	b1(opcode);
	modrm_reg(reg, rm);
}

static void with_memory(bool map0f, unsigned opcode)
{
	unsigned reg = any_reg();

	prefixes(reg, 0);
	if (map0f)
		b1(0x0f);
	b1(opcode);
	modrm_mem(reg);
}

static void vector_insn(void)
{
	static const uint8_t ops[] = { 0xfe, 0xef, 0xd4, 0x74, 0xdb, 0xf4, 0x60 }; /* paddd pxor paddq pcmpeqb pand pmuludq punpck */
	unsigned kind = rnd() % 4;

	if (kind < 2) {
		bytes(rnd() & 1 ? "\xf3\x0f\x6f" : "\xf3\x0f\x7f", 3); /* movdqu */
		modrm_mem(rnd() % 8);
	} else if (kind == 2) {
		bytes("\x66\x0f", 2);
		b1(ops[rnd() % sizeof(ops)]);
		modrm_reg(rnd() % 8, rnd() % 8);
	} else {
		bytes("\xf2\x0f\x58", 3); /* addsd */
		modrm_reg(rnd() % 8, rnd() % 8);
	}
}

/* Masked, with a memory operand: loads, stores and sums of 32-bit elements, of 16 to 64 bytes. */
static void evex_insn(void)
{
	unsigned reg = rnd() % 32, kind = rnd() % 4, mask = 1 + rnd() % 7, length = rnd() % 3;
	unsigned zero = kind != 1 && rnd() % 2;

	if (kind == 3) { /* kmovw k, r32 */
		bytes("\xc5\xf8\x92", 3);
		b1(0xc0 | mask << 3 | (rnd() & 1 ? RAX : RDX));
		return;
	}
	b1(0x62);
	b1(0x61 | (reg & 8 ? 0 : 0x80) | (reg & 16 ? 0 : 0x10)); /* R', R inverted; map 0F */
	b1(kind == 2 ? 0x05 | (~(unsigned)rnd() & 0xf) << 3 : 0x7e); /* W0; vvvv; pp: F3 moves (66: sums) */
	b1(zero << 7 | length << 5 | 8 | mask);
	b1(kind == 2 ? 0xfe : kind ? 0x7f : 0x6f); /* vpaddd; vmovdqu32 to and from memory */
	modrm_mem(reg);
}

static void insn(void)
{
	unsigned a = any_reg(), c = any_reg();

	switch (rnd() % 26) {
	case 0: case 1: case 2: two_registers(alu() | (rnd() & 1 ? 2 : 0)); break;
	case 3: case 4:
		prefixes(0, a);
		b1(0x83);
		modrm_reg(rnd() % 8, a);
		if (p.nr_imm < ARRAY_SIZE(p.imm))
			p.imm[p.nr_imm++] = p.n;
		b1(rnd() & 0x7f);
		break;
	case 5: case 6: with_memory(false, alu() | (rnd() & 1 ? 2 : 0)); break;
	case 7: case 8: with_memory(false, rnd() & 1 ? 0x89 : 0x8b); break;
	case 9: /* a locked sum */
		b1(0xf0);
		b1(0x48 | (a & 8 ? 4u : 0));
		b1(alu() & ~0x38u);
		b1(0x80 | (a & 7) << 3 | 3);
		b4((uint32_t)rnd() % 0x2f00 & ~7u);
		break;
	case 10:
		prefixes(0, a);
		b1(0xc1);
		modrm_reg(rnd() % 8, a);
		b1(rnd() & 0x1f);
		break;
	case 11:
		prefixes(0, a);
		b1(rnd() & 1 ? 0xd3 : 0xd1);
		modrm_reg(rnd() % 8, a);
		break;
	case 12: /* setcc of AL, DL, AH, DH */
		b1(0x0f);
		b1(0x90 | rnd() % 16);
		modrm_reg(0, (unsigned)(rnd() % 4 * 2));
		break;
	case 13:
		prefixes(a, c);
		b1(0x0f);
		b1(0x40 | rnd() % 16);
		modrm_reg(a, c);
		break;
	case 14:
		prefixes(0, a);
		b1(0xff);
		modrm_reg(rnd() & 1, a);
		break;
	case 15: case 16:
		if (a & 8)
			b1(0x41);
		b1((rnd() & 1 ? 0x50 : 0x58) | (a & 7));
		break;
	case 17:
		prefixes(a, c);
		b1(0x0f);
		b1(rnd() & 1 ? 0xaf : 0xb7); /* imul, movzx */
		modrm_reg(a, c);
		break;
	case 18:
		if (rnd() & 1)
			bytes(rnd() & 1 ? "\x9f" : "\x9e", 1); /* lahf, sahf */
		else
			bytes("\x9c\x58", 2); /* pushf; pop rax */
		break;
	case 19: with_memory(true, rnd() & 1 ? 0xc1 : 0xb1); break; /* xadd, cmpxchg */
	case 20: /* movzx esi,al; mov [rbx+rsi*8+disp],reg or back */
		bytes("\x0f\xb6\xf0", 3);
		b1(0x48 | (a & 8 ? 4u : 0));
		b1(rnd() & 1 ? 0x89 : 0x8b);
		b1(0x84 | (a & 7) << 3);
		b1(0xf3);
		b4((uint32_t)rnd() % 0x2000);
		break;
	case 21: case 22: vector_insn(); break;
	case 23:
		if (p.avx512)
			evex_insn();
		else
			two_registers(0x85);
		break;
	case 24: /* into the code: mov [r14+imm],al */
		if (p.nr_imm) {
			bytes("\x41\x88\x86", 3);
			b4(p.imm[rnd() % p.nr_imm]);
		}
		break;
	default:
		prefixes(0, a);
		bytes("\x0f\xba", 2);
		modrm_reg(4 + rnd() % 4, a); /* bt, bts, btr, btc */
		b1(rnd() & 0x3f);
	}
}

static void block(unsigned number, unsigned nr_blocks)
{
	unsigned to = rnd() % nr_blocks;

	p.block[number] = p.n;
	bytes("\x48\x8d\x49\xff\xe3\x02\xeb\x05\xe9", 9); /* lea rcx,[rcx-1]; jrcxz 1f; jmp 2f; 1: jmp end; 2: */
	rel32(MAX_BLOCKS);
	for (unsigned n = rnd() % 7; n; n--)
		insn();
	switch (rnd() % 6) {
	case 0: case 1:
		b1(0x0f);
		b1(0x80 | rnd() % 16);
		rel32(to);
		break; /* else on into the next */
	case 2:
		b1(0xe9);
		rel32(to);
		break;
	case 3:
		b1(0xe8);
		rel32(to);
		break;
	case 4:
		bytes("\x48\x8d\x05", 3); /* lea rax,[rip+to]; jmp rax */
		rel32(to);
		bytes("\xff\xe0", 2);
		break;
	default:
		bytes("\x48\x8d\x05", 3); /* lea rax,[rip+to]; push rax; ret */
		rel32(to);
		bytes("\x50\xc3", 2);
	}
}

static void make_program(void)
{
	unsigned nr = 4 + rnd() % (MAX_BLOCKS - 4), end;

	p.n = p.nr_imm = p.nr_rel = 0;
	memset(p.code, 0xf4, sizeof(p.code));
	for (unsigned k = 0; k < nr; k++) {
		block(k, nr);
		if (rnd() % 4 == 0) { /* apart: towards a page's end, or into the next page */
			unsigned gap = rnd() & 1 ? rnd() % 64 : (unsigned)(PAGE_SIZE - p.n % PAGE_SIZE - 1 - rnd() % 24) % PAGE_SIZE;

			if (p.n + 5 + gap + 600u * (nr - k) < sizeof(p.code)) {
				b1(0xe9);
				b4(gap);
				p.n += gap;
			}
		}
		if (p.n + 700 > sizeof(p.code))
			nr = k + 1;
	}
	b1(0xe9);
	b4(0);
	end = p.n;
	b1(0xf4);
	for (unsigned k = 0; k < p.nr_rel; k++) {
		unsigned to = p.rel[k].block == MAX_BLOCKS ? end : p.block[p.rel[k].block % nr];
		uint32_t rel = to - (p.rel[k].at + 4);

		memcpy(p.code + p.rel[k].at, &rel, 4);
	}
}

/* --- two machines --- */

static struct machine *make_machine(const char *engine)
{
	struct machine *t;

	setenv("USERKVM_ENGINE", engine, 1);
	machine_setup_long((void **)&t);
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE);
	vmx_set_xcr0(t->cpu, p.avx512 ? 0xe7 : 7);
	W(EXCEPTION_BITMAP, 0xffffffff);
	W(EPT_POINTER, R(t, EPT_POINTER) | EPTP_AD_ENABLE);
	set_gate(t, VECTOR, HANDLER);
	/* the handler changes nothing but its count and its frame */
	memcpy(t->ram + HANDLER, "\x48\xff\x04\x25\x00\xf0\x01\x00\x48\xcf", 10); /* inc qword [1f000h]; iretq */
	return t;
}

static bool lose_or_get_back(struct machine *t, uint64_t what, uint64_t page)
{
	uint64_t *leaf;

	page = page < CODE_PAGES ? CODE_AT + page * PAGE_SIZE
	       : page < CODE_PAGES + DATA_PAGES ? DATA + (page - CODE_PAGES) * PAGE_SIZE : STACK - PAGE_SIZE;
	leaf = ept_leaf(t, page);
	switch (what % 4) {
	case 0: *leaf &= ~(uint64_t)EPT_WRITE; break;
	case 1: *leaf &= ~(uint64_t)EPT_RWX; break;
	case 2: *leaf &= ~(uint64_t)(EPT_ACCESSED | EPT_DIRTY); break;
	default: guest64(t, GPA_PT)[page >> 12] &= ~(uint64_t)(PTE_A | PTE_D);
	}
	assert_int_equal(invept(t->cpu, INVEPT_ALL_CONTEXT, 0), VMX_SUCCEED);
	return invvpid(t->cpu, INVVPID_ALL_CONTEXT, 1, 0) == VMX_SUCCEED;
}

static void all_rights(struct machine *t)
{
	for (gpa_t page = 0; page < 0x100000; page += PAGE_SIZE)
		*ept_leaf(t, page) |= EPT_RWX;
	assert_int_equal(invept(t->cpu, INVEPT_ALL_CONTEXT, 0), VMX_SUCCEED);
}

static struct machine *kicked;

static void on_alarm(int nr)
{
	if (kicked)
		vmx_kick(kicked->cpu);
}

/* Entered again where it was only kicked; `interrupts`: with an interrupt each time. */
static uint32_t run(struct machine *t, bool interrupts)
{
	uint32_t why;

	while ((why = go(t)) == EXIT_REASON_EXTERNAL_INTERRUPT)
		if (interrupts && (R(t, GUEST_RFLAGS) & X86_FLAGS_IF) && !R(t, GUEST_INTERRUPTIBILITY_INFO))
			W(VM_ENTRY_INTR_INFO_FIELD, INTR_INFO_VALID_MASK | INTR_TYPE_EXT_INTR | VECTOR);
	return why;
}

static bool same_memory(struct machine *a, struct machine *b, bool interrupts, gpa_t *where)
{
	memcpy(b->ram + TICKS, a->ram + TICKS, 8);
	for (gpa_t at = CODE_AT; at < STACK && !interrupts; at += PAGE_SIZE)
		if ((*ept_leaf(a, at) ^ *ept_leaf(b, at)) & ~PAGE_MASK) {
			*where = at;
			return false;
		}
	for (gpa_t at = 0; at < 0x100000; at += PAGE_SIZE) {
		if (!memcmp(a->ram + at, b->ram + at, PAGE_SIZE))
			continue;
		if (interrupts && at >= (STACK & ~0xffffUL) && at < (STACK | 0xffff))
			continue; /* frames below RSP */
		for (*where = at; a->ram[*where] == b->ram[*where];)
			++*where;
		return false;
	}
	return true;
}

/* What the handler of an interrupt touches is accessed in one machine only. */
static void forget_touched(struct machine *t)
{
	for (unsigned n = 0; n < 512; n++) {
		gpa_t page = (gpa_t)n << 12;

		if (page < CODE_AT || (page >= (STACK & ~0xffffUL) && page <= (STACK | 0xffff)))
			guest64(t, GPA_PT)[n] |= PTE_A | PTE_D;
	}
}

static void compare(struct machine *a, struct machine *b, uint32_t why_a, uint32_t why_b, uint64_t round, bool interrupts)
{
	/* docs/translator.md: flags at faults. An interrupt comes before an instruction that is restarted with RF. */
	uint64_t dead = (why_a == EXIT_REASON_HLT ? 0 : X86_FLAGS_ARITH) | (interrupts ? X86_FLAGS_RF : 0);
	gpa_t where = 0;
	bool ok = why_a == why_b && !memcmp(reg(a), reg(b), 8 * NR_GPRS) &&
		  !((R(a, GUEST_RFLAGS) ^ R(b, GUEST_RFLAGS)) & ~dead) && R(a, GUEST_RIP) == R(b, GUEST_RIP) &&
		  R(a, EXIT_QUALIFICATION) == R(b, EXIT_QUALIFICATION);
	size_t bytes;
	bool vectors = !memcmp(vmx_xsave_area(a->cpu, &bytes), vmx_xsave_area(b->cpu, NULL), 416);

	vectors &= !memcmp((uint8_t *)vmx_xsave_area(a->cpu, NULL) + 576, (uint8_t *)vmx_xsave_area(b->cpu, NULL) + 576, bytes - 576);
	if (interrupts) {
		forget_touched(a);
		forget_touched(b);
	}
	if (ok && vectors && same_memory(a, b, interrupts, &where))
		return;
	fprintf(stderr, "SEED=%lu ROUNDS=1: exit %u is %u, rip %lx is %lx, flags %lx is %lx, qualification %lx is %lx, vectors %d, memory at %lx\n",
		(unsigned long)round, why_a, why_b, (long)R(a, GUEST_RIP), (long)R(b, GUEST_RIP), (long)R(a, GUEST_RFLAGS),
		(long)R(b, GUEST_RFLAGS), (long)R(a, EXIT_QUALIFICATION), (long)R(b, EXIT_QUALIFICATION), vectors, (long)where);
	for (unsigned n = 0; n < NR_GPRS; n++)
		if (reg(a)[n] != reg(b)[n])
			fprintf(stderr, "  r%u %lx is %lx\n", n, (long)reg(a)[n], (long)reg(b)[n]);
	if (getenv("SHOW")) {
		FILE *f = fopen("random-program.bin", "w");

		if (f && fwrite(p.code, 1, sizeof(p.code), f) == sizeof(p.code))
			fclose(f);
	}
	fail_msg("the engines differ");
}

static void prepare(struct machine *t, const uint64_t *gpr, const uint8_t *data)
{
	memcpy(t->ram + CODE_AT, p.code, sizeof(p.code));
	memcpy(t->ram + DATA, data, DATA_PAGES * PAGE_SIZE);
	memset(t->ram + (STACK & ~0xffffUL), 0, 0x10000);
	vmx_sync_code(t->cpu);
	memcpy(reg(t), gpr, 8 * NR_GPRS);
	W(GUEST_RSP, gpr[RSP]);
	W(GUEST_RIP, CODE_AT);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_IF);
	W(GUEST_INTERRUPTIBILITY_INFO, 0);
	W(GUEST_ACTIVITY_STATE, 0);
	W(VM_ENTRY_INTR_INFO_FIELD, 0);
	/* both walk alike from here */
	for (unsigned n = 0; n < 512; n++)
		guest64(t, GPA_PT)[n] = (guest64(t, GPA_PT)[n] & ~(uint64_t)(PTE_A | PTE_D)) | (n << 12 < CODE_AT ? PTE_A | PTE_D : 0);
	all_rights(t);
	assert_int_equal(invvpid(t->cpu, INVVPID_ALL_CONTEXT, 1, 0), VMX_SUCCEED);
}

static bool counting; /* interrupts' handlers would count in one machine only */

static void one_program(struct machine *a, struct machine *b, uint64_t round)
{
	static uint8_t data[DATA_PAGES * PAGE_SIZE];
	uint64_t gpr[NR_GPRS];
	bool interrupts = (rnd() & 1) && !counting, meddle = rnd() & 1;

	make_program();
	for (size_t n = 0; n < sizeof(data); n++)
		data[n] = (uint8_t)rnd();
	for (unsigned n = 0; n < NR_GPRS; n++)
		gpr[n] = rnd() & 1 ? rnd() << 8 ^ rnd() : rnd() % 4;
	gpr[RSP] = STACK - (rnd() & 1 ? 0 : rnd() % 64 * 8);
	gpr[RBX] = DATA;
	gpr[R14] = CODE_AT;
	gpr[RCX] = STEPS;
	/* twice: the second time units are there from the start */
	for (unsigned again = 0; again < 2; again++) {
		uint32_t why_a = 0, why_b;

		prepare(a, gpr, data);
		prepare(b, gpr, data);
		memset(b->cpu->jit->kills, 0, sizeof(b->cpu->jit->kills)); /* the pages are other ones now */
		if (meddle) {
			/* an interrupt's frame needs the stack */
			uint64_t what = rnd(), page = rnd() % (CODE_PAGES + DATA_PAGES + !interrupts);

			assert_true(lose_or_get_back(a, what, page) && lose_or_get_back(b, what, page));
		}
		for (unsigned n = 0; n < 40 && why_a != EXIT_REASON_HLT; n++) {
			why_a = run(a, false);
			kicked = b;
			why_b = run(b, interrupts);
			kicked = NULL;
			compare(a, b, why_a, why_b, round, interrupts);
			if (counting)
				assert_int_equal(vmx_cpu_counters(a->cpu)->retired, vmx_cpu_counters(b->cpu)->retired);
			ended += why_a == EXIT_REASON_HLT;
			if (why_a == EXIT_REASON_EPT_VIOLATION) {
				all_rights(a);
				all_rights(b);
			} else if (why_a != EXIT_REASON_HLT) {
				break; /* an exception: #DB, #UD of a patched byte or the like */
			}
		}
	}
}

static void programs_run_alike(void **state)
{
	const char *s = getenv("SEED"), *r = getenv("ROUNDS");
	uint64_t first = s ? strtoull(s, NULL, 0) : 1, rounds = r ? strtoull(r, NULL, 0) : 300;
	struct itimerval tick = { { 0, 150 }, { 0, 150 } }, none = { { 0, 0 }, { 0, 0 } };
	struct sigaction act = { .sa_handler = on_alarm, .sa_flags = SA_RESTART }, old;
	struct machine *a, *b;

	signals_are_ours();
	p.avx512 = isa_host_has(HOST_AVX512F) && __builtin_cpu_supports("avx512vl");
	a = make_machine("interp");
	b = make_machine("jit");
	if (!b->cpu->jit)
		skip(); /* no executable memory */
	assert_int_equal(sigaction(SIGALRM, &act, &old), 0);
	assert_int_equal(setitimer(ITIMER_REAL, &tick, NULL), 0);
	for (uint64_t round = first; round < first + rounds; round++) {
		seed = round * 0x9e3779b97f4a7c15;
		one_program(a, b, round);
	}
	assert_int_equal(setitimer(ITIMER_REAL, &none, NULL), 0);
	assert_int_equal(sigaction(SIGALRM, &old, NULL), 0);
	assert_true(b->cpu->counters.jit_units > rounds);
	assert_true(ended > rounds);
	printf("# %lu programs, %lu of 2 runs each to the end, %lu units, %lu entries, %lu kills, %lu polls\n", (long)rounds, (long)ended, (long)b->cpu->counters.jit_units,
	       (long)b->cpu->counters.jit_entries, (long)b->cpu->counters.jit_kills, (long)b->cpu->counters.jit_polls);
	machine_teardown((void **)&a);
	machine_teardown((void **)&b);
}

/*
 * USERKVM_JIT=count: as many instructions have run at each exit as where every block is interpreted, kicks and
 * memory that is lost within blocks notwithstanding.
 */
static void instructions_are_counted_alike(void **state)
{
	char how[128];
	struct itimerval tick = { { 0, 150 }, { 0, 150 } }, none = { { 0, 0 }, { 0, 0 } };
	struct sigaction act = { .sa_handler = on_alarm, .sa_flags = SA_RESTART }, old;
	const char *jit = getenv("USERKVM_JIT");
	struct machine *a, *b;
	uint64_t counted;

	if (jit && strstr(jit, "check"))
		skip(); /* the interpreter's turns are not counted */
	snprintf(how, sizeof(how), "count,%s", jit ? jit : "threshold:1");
	signals_are_ours();
	setenv("USERKVM_JIT", "count,threshold:1000000", 1);
	a = make_machine("jit");
	setenv("USERKVM_JIT", how, 1);
	b = make_machine("jit");
	setenv("USERKVM_JIT", how + 6, 1);
	if (!b->cpu->jit)
		skip();
	assert_int_equal(sigaction(SIGALRM, &act, &old), 0);
	assert_int_equal(setitimer(ITIMER_REAL, &tick, NULL), 0);
	counting = true;
	for (uint64_t round = 1; round < 200; round++) {
		seed = round * 0x9e3779b97f4a7c15;
		one_program(a, b, round);
	}
	counting = false;
	assert_int_equal(setitimer(ITIMER_REAL, &none, NULL), 0);
	assert_int_equal(sigaction(SIGALRM, &old, NULL), 0);
	counted = vmx_cpu_counters(b->cpu)->retired;
	printf("# %lu instructions, of these %lu interpreted\n", (long)counted, (long)b->cpu->counters.instructions);
	assert_int_equal(a->cpu->counters.jit_units, 0);
	assert_true(counted > 100000 && b->cpu->counters.instructions < counted);
	machine_teardown((void **)&a);
	machine_teardown((void **)&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(programs_run_alike),
		cmocka_unit_test(instructions_are_counted_alike),
	};

	return TRANSLATOR_TESTS(tests);
}
