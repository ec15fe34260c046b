/*
 * Translated 32-bit code: where 4 GiB end, what is encoded otherwise than in 64-bit mode, and
 * when segments stop being flat. Every block is translated at its first run.
 *
 * main() chooses the engine; each test also passes under the other (ENGINE=interp).
 */
#include "machine.h"

#include "cpu/jit.h"

#include "host/fault.h"

#define STATE struct machine *t = *state
#define GPA_PAGE_TABLES 0x70000UL
#define RW (PTE_P | PTE_RW)

/* 32-bit guest code, as the assembler makes it; position-independent unless it says so. */
#define GUEST(name, text)                                              \
	extern const uint8_t name[], name##_end[];                     \
	__asm__(".pushsection .rodata\n.code32\n" #name ":\n.intel_syntax noprefix\n" \
		text "\n.att_syntax\n" #name "_end:\n.code64\n.popsection\n")
#define PUT_AT(t, gpa, name) memcpy((t)->ram + (gpa), name, (size_t)(name##_end - name))

static uint32_t *guest32(struct machine *t, gpa_t gpa)
{
	return (uint32_t *)(t->ram + gpa);
}

/* Map a page in tables of two levels. */
static void map(struct machine *t, uint32_t gva, uint32_t gpa, uint32_t rights)
{
	uint32_t *dir = guest32(t, GPA_PD) + (gva >> 22);
	uint32_t *next = guest32(t, GPA_PAGE_TABLES - 4);

	if (!(*dir & PTE_P)) {
		*next = *next ? *next + 0x1000 : (uint32_t)GPA_PAGE_TABLES;
		*dir = *next | (uint32_t)(PTE_P | PTE_RW | PTE_US);
	}
	guest32(t, *dir & ~0xfffU)[gva >> 12 & 1023] = gpa | rights;
}

static void flat(struct machine *t)
{
	for (int n = 0; n < NR_SREGS; n++)
		set_segment(t, (enum sreg)n, 16, 0, 0xffffffff, 0xc093);
	set_segment(t, SREG_CS, 8, 0, 0xffffffff, 0xc09b);
	guest64(t, GPA_GDT)[1] = 0x00cf9b000000ffffULL;
	guest64(t, GPA_GDT)[2] = 0x00cf93000000ffffULL;
	guest64(t, GPA_GDT)[3] = 0x00cf93040000ffffULL; /* data at 40000h */
	guest64(t, GPA_GDT)[4] = 0x0040930000000fffULL; /* data of 4 KiB */
	W(GUEST_GDTR_BASE, GPA_GDT);
	W(GUEST_RSP, GPA_STACK);
	W(GUEST_RIP, GPA_CODE);
}

/* Protected mode, two levels of paging, the first MiB mapped as it is. */
static int setup32(void **state)
{
	struct machine *t;

	machine_setup(state);
	t = *state;
	flat(t);
	for (uint32_t lin = 0; lin < 1U << 20; lin += 4096)
		map(t, lin, lin, RW);
	W(GUEST_CR0, X86_CR0_PE | X86_CR0_PG | X86_CR0_NE | X86_CR0_WP | X86_CR0_ET);
	W(GUEST_CR3, GPA_PD);
	return 0;
}

/* Compatibility mode of a 64-bit machine. */
static int setup_compat(void **state)
{
	machine_setup_long(state);
	flat(*state);
	return 0;
}

static uint64_t *reg(struct machine *t)
{
	return vmx_gprs(t->cpu);
}

static void expect_fault(struct machine *t, unsigned vector)
{
	W(EXCEPTION_BITMAP, ~0ULL & 0xffffffff);
	assert_int_equal(go(t), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(R(t, VM_EXIT_INTR_INFO) & 0xff, vector);
}

static void run_at(struct machine *t, uint32_t rip)
{
	W(GUEST_RIP, rip);
	assert_int_equal(go(t), EXIT_REASON_HLT);
}

/* Under the translator the test is about units: some were entered, if code that runs once is translated. */
static void units_ran(struct machine *t)
{
	if (t->cpu->jit && t->cpu->jit->threshold == 1)
		assert_true(t->cpu->counters.jit_entries > 0);
}

/* --- encodings --- */

GUEST(g_encodings, "mov eax,0xffffffff; inc eax; setz bl; dec eax; mov [0x40000],eax; mov ecx,[0x40000]\n"
		   "mov al,[0x40001]; push 0x12345678; pop edx; mov ebp,esp; push ebp; mov ebp,esp; leave\n"
		   "lea esi,[edx+edx*8+0x80000000]; mov bh,al; xchg bh,[0x40004]; hlt");

static void encodings_of_32_bit_code(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_encodings);
	for (int n = 0; n < 3; n++) {
		*guest32(t, 0x40004) = 0xaabbccdd;
		for (unsigned r = 0; r < NR_GPRS; r++)
			reg(t)[r] = 0;
		W(GUEST_RSP, GPA_STACK);
		run_at(t, GPA_CODE);
		assert_int_equal(reg(t)[RAX], 0xffffffff);
		assert_int_equal(reg(t)[RCX], 0xffffffff);
		assert_int_equal(reg(t)[RDX], 0x12345678);
		assert_int_equal(reg(t)[RBX], 0xdd01);
		assert_int_equal(reg(t)[RSI], 0x12345678U * 9 + 0x80000000U);
		assert_int_equal(*guest32(t, 0x40004), 0xaabbccff);
		assert_int_equal(R(t, GUEST_RSP), GPA_STACK);
	}
	units_ran(t);
}

/* 40h to 4fh are INC and DEC here, REX prefixes there: one page, two modes. */
static const uint8_t two_modes[] = {
	0xeb, 0x00,		/* jmp to the next */
	0x48, 0xff, 0xc0, 0xf4, /* dec eax; inc eax; hlt or inc rax; hlt */
};

static void page_of_both_modes_has_units_of_both(void **state)
{
	STATE;

	memcpy(t->ram + GPA_CODE, two_modes, sizeof(two_modes));
	for (int n = 0; n < 12; n++) {
		bool wide = n % 3 == 0;

		set_segment(t, SREG_CS, 8, 0, 0xffffffff, wide ? 0xa09b : 0xc09b);
		reg(t)[RAX] = 0xffffffff;
		run_at(t, GPA_CODE);
		assert_int_equal(reg(t)[RAX], wide ? 0x100000000 : 0xffffffff);
	}
	units_ran(t);
}

GUEST(g_pushf, "push ebx; pushfd; setc cl; seto ch; adc edx,edx; pushfd; pop eax; pop edi; pop esi; hlt");
GUEST(g_pushf_16, "pushf; pop ax; hlt");

/* All flags are pushed as they are, and are still there behind it. */
static void pushed_flags_are_all_of_them(void **state)
{
	STATE;
	static const uint32_t bit[] = { X86_FLAGS_CF, X86_FLAGS_PF, X86_FLAGS_AF, X86_FLAGS_ZF, X86_FLAGS_SF, X86_FLAGS_OF,
					X86_FLAGS_DF, X86_FLAGS_NT, 3 << 12 /* IOPL */, X86_FLAGS_AC, X86_FLAGS_ID };

	PUT_AT(t, GPA_CODE, g_pushf);
	PUT_AT(t, GPA_CODE + 0x100, g_pushf_16);
	for (uint32_t n = 0; n < 1u << ARRAY_SIZE(bit); n++) {
		uint32_t flags = X86_FLAGS_FIXED, after;

		for (unsigned k = 0; k < ARRAY_SIZE(bit); k++)
			flags |= n >> k & 1 ? bit[k] : 0;
		W(GUEST_RFLAGS, flags);
		W(GUEST_RSP, GPA_STACK - (n & 64 ? 0 : 64)); /* at a page's end, and within */
		reg(t)[RBX] = 0x1234;
		reg(t)[RCX] = reg(t)[RDX] = 0;
		run_at(t, GPA_CODE);
		assert_int_equal(reg(t)[RDI], flags);
		assert_int_equal(reg(t)[RSI], 0x1234);
		assert_int_equal(reg(t)[RCX], (flags & X86_FLAGS_CF ? 1 : 0) | (flags & X86_FLAGS_OF ? 0x100 : 0));
		assert_int_equal(reg(t)[RDX], flags & X86_FLAGS_CF);
		after = (uint32_t)(flags & ~X86_FLAGS_ARITH) |
			(uint32_t)(flags & X86_FLAGS_CF ? 0 : X86_FLAGS_ZF | X86_FLAGS_PF);
		assert_int_equal(reg(t)[RAX], after);
		if (n & 1)
			continue;
		W(GUEST_RFLAGS, flags);
		run_at(t, GPA_CODE + 0x100);
		assert_int_equal(reg(t)[RAX] & 0xffff, flags & 0xffff);
	}
	units_ran(t);
}

/* --- the ends of 4 GiB --- */

GUEST(g_over_the_end, "nop; inc eax; .byte 0xe9; .long 0"); /* jmp rel32 */
GUEST(g_at_0, "inc ebx; push edx; pop ecx; call 1f; 1: pop esi; hlt");

/* Execution goes on at 0 behind a branch from the last page, and calls there have 32-bit addresses. */
static void branches_wrap_at_4_gib(void **state)
{
	STATE;

	map(t, 0xfffff000, 0x50000, RW);
	PUT_AT(t, 0x50010, g_over_the_end);
	memcpy(t->ram + 0x50010 + 3, &(uint32_t){ 0x3a - (0xfffff010U + 7) }, 4);
	PUT_AT(t, 0x3a, g_at_0);
	for (uint32_t n = 1; n < 4; n++) {
		reg(t)[RDX] = 0x77;
		run_at(t, 0xfffff010);
		assert_int_equal(reg(t)[RAX], n);
		assert_int_equal(reg(t)[RBX], n);
		assert_int_equal(reg(t)[RCX], 0x77);
		assert_int_equal(reg(t)[RSI], 0x3a + 3 + 5);
		assert_int_equal(R(t, GUEST_RIP), 0x3a + 9);
	}
	units_ran(t);
}

GUEST(g_pops, "mov eax,[esp]; pop ecx; pop edx; mov esi,[esp-4]; push edi; hlt");
GUEST(g_push_pop, "1: push eax; push ecx; mov [esp+4],edx; pop esi; pop edi; dec ecx; jnz 1b; hlt");

/* A stack whose pushes go below 0, to the last page, and one that lies across it. */
static void stack_pointer_wraps(void **state)
{
	STATE;

	map(t, 0xfffff000, 0x50000, RW);
	PUT_AT(t, GPA_CODE, g_push_pop);
	for (uint32_t esp = 0; esp < 12; esp += 4) {
		W(GUEST_RSP, esp);
		reg(t)[RCX] = 5;
		reg(t)[RDX] = 0x1234 + esp;
		run_at(t, GPA_CODE);
		assert_int_equal(reg(t)[RDI], 0x1234 + esp);
		assert_int_equal(reg(t)[RSI], 1);
		assert_int_equal(R(t, GUEST_RSP), esp);
		assert_int_equal(*guest32(t, esp ? esp - 4 : 0x50ffc), 0x1234 + esp);
		assert_int_equal(*guest32(t, esp >= 8 ? esp - 8 : 0x50ff8 + esp), 1);
	}
	/* up to 0, and an access below it */
	PUT_AT(t, GPA_CODE + 0x1000, g_pops);
	*guest32(t, 0x50ff8) = 0x1122;
	for (int n = 0; n < 3; n++) {
		*guest32(t, 0x50ffc) = 0x3344;
		reg(t)[RDI] = 0x5566;
		W(GUEST_RSP, 0xfffffff8);
		run_at(t, GPA_CODE + 0x1000);
		assert_int_equal(reg(t)[RAX], 0x1122);
		assert_int_equal(reg(t)[RSI], 0x3344);
		assert_int_equal(*guest32(t, 0x50ffc), 0x5566);
		assert_int_equal(R(t, GUEST_RSP), 0xfffffffc);
	}
	/* an access over the end is beyond the limit of SS */
	W(GUEST_RSP, 2);
	W(GUEST_RIP, GPA_CODE);
	expect_fault(t, X86_TRAP_SS);
	assert_int_equal(R(t, GUEST_RSP), 2);
	units_ran(t);
}

GUEST(g_two_frames, "1: push eax; pop edx; lea esp,[esp-0x1000]; push ecx; pop esi; lea esp,[esp+0x1000]; dec ecx; jnz 1b; hlt");

/* Frames in two pages by turns: the slot follows, and the unit goes on. */
static void stack_slot_follows_from_page_to_page(void **state)
{
	STATE;
	uint64_t left;

	PUT_AT(t, GPA_CODE, g_two_frames);
	for (int n = 0; n < 2; n++) {
		left = t->cpu->counters.jit_left;
		reg(t)[RAX] = 0x77;
		reg(t)[RCX] = 500;
		W(GUEST_RSP, GPA_STACK - 0x100);
		run_at(t, GPA_CODE);
		assert_int_equal(reg(t)[RDX], 0x77);
		assert_int_equal(reg(t)[RSI], 1);
	}
	assert_true(t->cpu->counters.jit_left - left < 20);
	units_ran(t);
}

GUEST(g_sum, "mov eax,[ebx+0x40000]; mov edx,[ebx+esi*4-0x20]; hlt");

static void sums_wrap(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_sum);
	*guest32(t, 0x3ff10) = 0xabc;
	*guest32(t, 0x41000) = 0xdef;
	for (int n = 0; n < 3; n++) {
		reg(t)[RBX] = (uint32_t)-0xf0;
		reg(t)[RSI] = (0x41000 + 0x20 + 0xf0) / 4;
		run_at(t, GPA_CODE);
		assert_int_equal(reg(t)[RAX], 0xabc);
		assert_int_equal(reg(t)[RDX], 0xdef);
	}
	units_ran(t);
}

/* --- state at faults --- */

GUEST(g_fault, "mov ebx,11; mov ebp,22; push ebx; cmp ebx,ebx; inc esi; mov eax,[edi+4]; hlt");

static void registers_at_a_fault_are_those_before_its_instruction(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_fault);
	for (int n = 0; n < 2; n++) {
		W(GUEST_RSP, GPA_STACK);
		W(GUEST_RIP, GPA_CODE);
		reg(t)[RSI] = 1;
		reg(t)[RAX] = 5;
		reg(t)[RDI] = 0x7fffeffc;
		expect_fault(t, X86_TRAP_PF);
		assert_int_equal(R(t, EXIT_QUALIFICATION), 0x7ffff000);
		assert_int_equal(R(t, GUEST_RIP), GPA_CODE + (size_t)(g_fault_end - g_fault) - 4);
		assert_int_equal(reg(t)[RBX], 11);
		assert_int_equal(reg(t)[RBP], 22);
		assert_int_equal(reg(t)[RSI], 2);
		assert_int_equal(reg(t)[RAX], 5);
		assert_int_equal(R(t, GUEST_RSP), GPA_STACK - 4);
	}
	units_ran(t);
}

/* The x87 environment has the offset of the instruction and of its operand, in 28 bytes. */
GUEST(g_fpu, "fninit; fld dword ptr [ebx+4]; nop; fnstenv [edi]; hlt");

static void x87_instruction_is_noted_with_32_bits(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_fpu);
	for (int n = 0; n < 2; n++) {
		memset(t->ram + 0x40000, 0xee, 64);
		*guest32(t, 0x40104) = 0x3f800000;
		reg(t)[RBX] = 0x40100;
		reg(t)[RDI] = 0x40000;
		run_at(t, GPA_CODE);
		assert_int_equal(*guest32(t, 0x4000c), GPA_CODE + 2);
		assert_int_equal(*guest32(t, 0x40014), 0x40104);
		assert_int_equal(*guest32(t, 0x4001c), 0xeeeeeeee);
	}
	units_ran(t);
}

/* VPCMPESTRI with VEX.W = 0, and with 1, which 64-bit mode takes for lengths in RAX and RDX: EDX is -1, a length of 1. */
GUEST(g_lengths, ".byte 0xc4,0xe3,0x79,0x61,0xc1,0x08; mov esi,ecx; pushfd; pop edi\n"
		 ".byte 0xc4,0xe3,0xf9,0x61,0xc1,0x08; pushfd; pop ebx; hlt");

static void lengths_of_strings_have_32_bits(void **state)
{
	STATE;

	if (!__builtin_cpu_supports("avx") || !isa_host_has(HOST_AVX))
		skip(); /* no AVX here */
	PUT_AT(t, GPA_CODE, g_lengths);
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_OSFXSR | X86_CR4_OSXSAVE);
	vmx_set_xcr0(t->cpu, 7);
	for (int n = 0; n < 2; n++) {
		reg(t)[RAX] = 16;
		reg(t)[RDX] = 0xffffffff;
		reg(t)[RBX] = reg(t)[RDI] = 0;
		run_at(t, GPA_CODE);
		assert_true(reg(t)[RDI] & X86_FLAGS_ZF);
		assert_int_equal(reg(t)[RBX], reg(t)[RDI]);
		assert_int_equal(reg(t)[RCX], reg(t)[RSI]);
	}
	units_ran(t);
}

/* --- segments --- */

/* DS moves 40000h up and back while the loop's units run on. */
GUEST(g_reload, "1: mov ds,[0x500]; mov eax,[ebx]; mov ds,dx; mov esi,[ebx]; dec ecx; jnz 1b; hlt");

static void segment_that_stops_being_flat_is_seen_at_once(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_reload);
	*guest32(t, 0x500) = 3 << 3;
	*guest32(t, 0x41000) = 0x111;
	*guest32(t, 0x1000) = 0x222;
	W(GUEST_GDTR_LIMIT, 0x27);
	for (int n = 0; n < 3; n++) {
		reg(t)[RAX] = reg(t)[RSI] = 0;
		reg(t)[RBX] = 0x1000;
		reg(t)[RCX] = 20;
		reg(t)[RDX] = 2 << 3;
		run_at(t, GPA_CODE);
		assert_int_equal(reg(t)[RAX], 0x111);
		assert_int_equal(reg(t)[RSI], 0x222);
	}
	units_ran(t);
}

GUEST(g_limit, "mov eax,[ebx]; mov ds,dx; mov eax,[ebx]; hlt");

static void limit_of_a_segment_that_was_flat_counts(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_limit);
	W(GUEST_GDTR_LIMIT, 0x27);
	for (int n = 0; n < 2; n++) {
		set_segment(t, SREG_DS, 16, 0, 0xffffffff, 0xc093);
		reg(t)[RBX] = 0x1000;
		reg(t)[RDX] = 4 << 3;
		W(GUEST_RIP, GPA_CODE);
		expect_fault(t, X86_TRAP_GP);
		assert_int_equal(R(t, GUEST_RIP), GPA_CODE + 4);
	}
	units_ran(t);
}

GUEST(g_fs, "1: mov eax,fs:[ebx]; add fs:[ebx+4],ecx; mov esi,fs:[0x10]; dec ecx; jnz 1b; hlt");

static void base_limit_and_rights_of_fs_count(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_fs);
	set_segment(t, SREG_FS, 16, 0xfff40000, 0xffffffff, 0xc093);
	*guest32(t, 0x40000) = 0xabc;
	*guest32(t, 0x40004) = 0;
	map(t, 0xfff40000, 0x45000, RW);
	*guest32(t, 0x45010) = 0xdef;
	reg(t)[RBX] = 0x100000; /* 4 GiB + 40000h */
	reg(t)[RCX] = 10;
	run_at(t, GPA_CODE);
	assert_int_equal(reg(t)[RAX], 0xabc);
	assert_int_equal(reg(t)[RSI], 0xdef);
	assert_int_equal(*guest32(t, 0x40004), 55);
	/* beyond a limit, which the linear address does not show */
	set_segment(t, SREG_FS, 16, 0xfff40000, 0xfffff, 0x4093);
	W(GUEST_RIP, GPA_CODE);
	expect_fault(t, X86_TRAP_GP);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE);
	/* the last byte's offset wraps */
	set_segment(t, SREG_FS, 16, 0x40100, 0xffffffff, 0xc093);
	reg(t)[RBX] = 0xfffffffe;
	W(GUEST_RIP, GPA_CODE);
	expect_fault(t, X86_TRAP_GP);
	/* a null selector */
	set_segment(t, SREG_FS, 0, 0, 0, 0x10000);
	reg(t)[RBX] = 0x40000;
	W(GUEST_RIP, GPA_CODE);
	expect_fault(t, X86_TRAP_GP);
	units_ran(t);
}

/* Code that was read through a flat CS runs at a base of another one. */
GUEST(g_where, "call 1f; 1: pop eax; mov edx,cs:[ebx]; hlt");

static void code_segment_with_a_base_is_another_address(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_where);
	*guest32(t, 0x40000) = 0x11;
	*guest32(t, 0x50000) = 0x22;
	for (int n = 0; n < 6; n++) {
		uint32_t base = n & 1 ? 0x10000 : 0;

		set_segment(t, SREG_CS, 8, base, 0xffffffff, 0xc09b);
		reg(t)[RBX] = 0x40000;
		run_at(t, (uint32_t)GPA_CODE - base);
		assert_int_equal(reg(t)[RAX], GPA_CODE - base + 5);
		assert_int_equal(reg(t)[RDX], base ? 0x22 : 0x11);
	}
	units_ran(t);
}

/* --- compatibility mode --- */

/* What 64-bit code has left in the upper halves is no part of an address. */
GUEST(g_halves, "mov eax,[ebx+4]; push eax; mov edx,[esp]; mov [ebx+esi+8],eax; lea edi,[ebx+1]; pop ecx; hlt");

static void upper_halves_are_no_part_of_addresses(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_halves);
	*guest32(t, 0x40004) = 0x4711;
	for (uint32_t n = 0; n < 4; n++) {
		*guest32(t, 0x40008) = 0;
		reg(t)[RBX] = 0x40000 | (uint64_t)n << 32;
		reg(t)[RSI] = (uint64_t)n << 33;
		reg(t)[RCX] = reg(t)[RDX] = ~0ULL;
		W(GUEST_RSP, GPA_STACK | (uint64_t)(n & 2) << 40);
		run_at(t, GPA_CODE);
		assert_int_equal(reg(t)[RAX], 0x4711);
		assert_int_equal(reg(t)[RCX], 0x4711);
		assert_int_equal(reg(t)[RDX], 0x4711);
		assert_int_equal(reg(t)[RDI], 0x40001);
		assert_int_equal(*guest32(t, 0x40008), 0x4711);
		assert_int_equal(R(t, GUEST_RSP), GPA_STACK);
	}
	units_ran(t);
}

/* --- code that changes --- */

GUEST(g_own_bytes, "mov esi,100; 1: inc dword ptr [0x20000+2f-g_own_bytes+1]; nop; 2: mov eax,0; dec esi; jnz 1b; hlt");

static void block_that_writes_into_itself(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_own_bytes);
	run_at(t, GPA_CODE);
	assert_int_equal(reg(t)[RAX], 100);
	units_ran(t);
}

/* Its callee's page is mapped elsewhere in between. */
GUEST(g_remap, "1: call edi; dec ecx; jnz 1b; mov [ebx],edx; invlpg [edi]; mov ecx,20; 2: call edi; dec ecx; jnz 2b; hlt");
GUEST(g_add_1, "inc eax; ret");
GUEST(g_add_100, "add eax,100; ret");

static void invlpg_reaches_units(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_remap);
	PUT_AT(t, 0x60000, g_add_1);
	PUT_AT(t, 0x61000, g_add_100);
	map(t, 0x80150000, 0x60000, RW);
	reg(t)[RAX] = 0;
	reg(t)[RCX] = 20;
	reg(t)[RDI] = 0x80150000;
	reg(t)[RBX] = (guest32(t, GPA_PD)[0x80150000U >> 22] & ~0xfffU) + 4 * 0x150;
	reg(t)[RDX] = 0x61000 | RW;
	run_at(t, GPA_CODE);
	assert_int_equal(reg(t)[RAX], 20 + 20 * 100);
	units_ran(t);
}

int main(void)
{
#define TEST_32(f) cmocka_unit_test_setup_teardown(f, setup32, machine_teardown)
#define TEST_COMPAT(f) cmocka_unit_test_setup_teardown(f, setup_compat, machine_teardown)
	const struct CMUnitTest tests[] = {
		TEST_32(encodings_of_32_bit_code),
		TEST_32(pushed_flags_are_all_of_them),
		TEST_COMPAT(page_of_both_modes_has_units_of_both),
		TEST_32(branches_wrap_at_4_gib),
		TEST_32(stack_pointer_wraps),
		TEST_32(stack_slot_follows_from_page_to_page),
		TEST_32(sums_wrap),
		TEST_32(registers_at_a_fault_are_those_before_its_instruction),
		TEST_32(x87_instruction_is_noted_with_32_bits),
		TEST_32(lengths_of_strings_have_32_bits),
		TEST_32(segment_that_stops_being_flat_is_seen_at_once),
		TEST_32(limit_of_a_segment_that_was_flat_counts),
		TEST_32(base_limit_and_rights_of_fs_count),
		TEST_32(code_segment_with_a_base_is_another_address),
		TEST_COMPAT(upper_halves_are_no_part_of_addresses),
		TEST_32(block_that_writes_into_itself),
		TEST_32(invlpg_reaches_units),
	};

	if (host_fault_init())
		return 1;
	setenv("USERKVM_ENGINE", "jit", 0);
	setenv("USERKVM_JIT", "threshold:1", 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
