/*
 * USERKVM_JIT=check: units of several blocks and chains of them agree with the interpreter, and a
 * wrong one is found, whatever it changes: general registers, memory, opmasks, ZMM registers.
 *
 * A unit is made wrong in its code memory: an immediate is exchanged.
 */
#include "translator.h"

#include "cpu/jit.h"

#define RIGHT 0x11223344u
#define WRONG 0x11223345u

static uint64_t mismatches(struct machine *t)
{
	return t->cpu->counters.jit_mismatches;
}

/* There are some, and they are what the test is about: the machine's end expects none. */
static void expect_mismatches(struct machine *t)
{
	assert_true(mismatches(t) > 0);
	t->cpu->counters.jit_mismatches = 0;
}

static void run(struct machine *t, uint64_t rounds)
{
	reg(t)[RCX] = rounds;
	reg(t)[RBX] = 0;
	W(GUEST_RIP, GPA_CODE);
	assert_int_equal(go(t), EXIT_REASON_HLT);
}

/* Exchange the immediate in all units; how often it was there. */
static unsigned spoil(struct machine *t)
{
	struct cpu_jit *j = t->cpu->jit;
	uint32_t right = RIGHT, wrong = WRONG;
	unsigned n = 0;

	for (uint32_t at = j->stubs_end; at + 4 <= j->e.n; at++)
		if (!memcmp(j->mem.rw + at, &right, 4)) {
			memcpy(j->mem.rw + at, &wrong, 4);
			n++;
		}
	exec_memory_sync();
	return n;
}

/* Two ways round a loop, a call, flags that live from one block into the next, another page. */
GUEST(g_blocks, "1: mov eax,0x11223344; test cl,1; jz 2f; add rbx,rax; mov eax,1; 2: lea rdx,[rbx+rax]; mov [rdi],rdx\n"
		"cmp cl,7; push rcx; call rsi; pop rcx; adc rbx,0; mov rax,[rdi]; dec ecx; jnz 1b; hlt");
GUEST(g_callee, "mov edx,5; 1: dec edx; jnz 1b; cmp edx,1; ret");

static void set_up_blocks(struct machine *t)
{
	PUT_AT(t, GPA_CODE, g_blocks);
	PUT_AT(t, 0x45000, g_callee);
	reg(t)[RSI] = 0x45000;
	reg(t)[RDI] = 0x40000;
	W(GUEST_RSP, GPA_STACK - 64);
}

static uint64_t sum(uint64_t rounds)
{
	return rounds + (rounds + 1) / 2 * RIGHT; /* the carry of CMP EDX,1 each time */
}

static void units_of_several_blocks_and_chains_agree(void **state)
{
	STATE;
	bool several = false;

	set_up_blocks(t);
	run(t, 1000);
	assert_int_equal(reg(t)[RBX], sum(1000));
	assert_int_equal(mismatches(t), 0);
	for (uint32_t n = 0; n < t->cpu->jit->nr_units; n++) {
		const struct jit_unit *u = &t->cpu->jit->units[n];

		several |= u->places[0].block != u->places[u->nr_places - 1].block;
	}
	assert_true(several);
	assert_true(t->cpu->counters.jit_binds > 0);
	/* 1,000 rounds have more than 8,000 blocks; most are compared, many at a time */
	assert_true(t->cpu->counters.jit_checked > 6000);
	assert_true(t->cpu->counters.jit_entries < t->cpu->counters.jit_checked / 2);
}

static void wrong_unit_is_found_and_the_guest_is_right(void **state)
{
	STATE;

	set_up_blocks(t);
	run(t, 100);
	assert_true(spoil(t) > 0);
	run(t, 100);
	expect_mismatches(t);
	assert_int_equal(reg(t)[RBX], sum(100));
}

/* Only memory differs. */
GUEST(g_store, "1: mov eax,0x11223344; mov [rdi],eax; xor eax,eax; dec ecx; jnz 1b; hlt");
/* Only an opmask, only a register that has no lower half. */
GUEST(g_opmask, "1: mov eax,0x11223344; kmovd k3,eax; xor eax,eax; dec ecx; jnz 1b; hlt");
GUEST(g_upper, "1: mov eax,0x11223344; vpbroadcastd zmm17,eax; xor eax,eax; dec ecx; jnz 1b; hlt");

static void wrong(struct machine *t, const uint8_t *code, const uint8_t *end)
{
	memcpy(t->ram + GPA_CODE, code, (size_t)(end - code));
	reg(t)[RDI] = 0x40000;
	run(t, 50);
	assert_true(t->cpu->counters.jit_checked > 40);
	assert_int_equal(mismatches(t), 0);
	assert_true(spoil(t) > 0);
	run(t, 5);
	expect_mismatches(t);
}

static void wrong_store_is_found(void **state)
{
	STATE;

	wrong(t, g_store, g_store_end);
	assert_int_equal(*(uint32_t *)(t->ram + 0x40000), RIGHT);
}

static bool with_avx512(struct machine *t)
{
	if (!isa_host_has(HOST_AVX512F) || !__builtin_cpu_supports("avx512bw"))
		return false;
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_OSFXSR | X86_CR4_OSXSAVE);
	vmx_set_xcr0(t->cpu, 0xe7);
	return true;
}

static void wrong_opmask_is_found(void **state)
{
	STATE;

	if (!with_avx512(t))
		skip(); /* no AVX-512 here */
	wrong(t, g_opmask, g_opmask_end);
}

static void wrong_zmm_register_is_found(void **state)
{
	STATE;

	if (!with_avx512(t))
		skip();
	wrong(t, g_upper, g_upper_end);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_LONG(units_of_several_blocks_and_chains_agree),
		TEST_LONG(wrong_unit_is_found_and_the_guest_is_right),
		TEST_LONG(wrong_store_is_found),
		TEST_LONG(wrong_opmask_is_found),
		TEST_LONG(wrong_zmm_register_is_found),
	};

	setenv("USERKVM_ENGINE", "jit", 1);
	setenv("USERKVM_JIT", "threshold:2,check", 1);
	return TRANSLATOR_TESTS(tests);
}
