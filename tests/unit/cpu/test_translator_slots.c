/*
 * The pages that loops of translated code know without the TLB (cpu/jit_slot.c): each invalidation reaches them,
 * though the TLB's entry has been replaced, and a loop whose accesses lie in two pages, or in many, is still right.
 *
 * Invariant: each test also passes under the interpreter.
 */
#include "translator.h"

#define SAME_SLOT (ISA_TLB_ENTRIES * PAGE_SIZE)
#define DATA_PAGE 0x150000UL
#define LOOP (GPA_CODE + 0x800)

/* Twenty rounds that add the word at R12 to RDX and store the sum; the two have a check together. */
GUEST(g_loop, "mov ecx,20; jmp 1f; 1: add rdx,[r12]; mov [r12+8],rdx; dec ecx; jnz 1b; ret");
/* The loop; RSI, in the same slot of the TLB, is read; then what moves the page; the loop. */
GUEST(g_invlpg, "call rbx; mov rax,[rsi]; mov [rdi],rbp; invlpg [r12]; call rbx; hlt");
GUEST(g_cr3, "call rbx; mov rax,[rsi]; mov [rdi],rbp; mov rax,cr3; mov cr3,rax; call rbx; hlt");
GUEST(g_invpcid, "call rbx; mov rax,[rsi]; mov [rdi],rbp; invpcid r13,[r14]; call rbx; hlt");
GUEST(g_exit, "call rbx; mov rax,[rsi]; hlt; call rbx; hlt");
GUEST(g_exit_read, "call rbx; mov rax,[rsi]; hlt; mov rax,[r12+0x20]; hlt");
#define BEHIND_EXIT 6 /* bytes of CALL, MOV and HLT */

static void set_up(struct machine *t, uint64_t rights, const uint8_t *code, const uint8_t *end)
{
	assert_int_equal(invvpid(t->cpu, INVVPID_ALL_CONTEXT, 0, 0), VMX_SUCCEED);
	*guest64(t, 0x60000) = 1;
	*guest64(t, 0x61000) = 100;
	*guest64(t, 0x60008) = *guest64(t, 0x61008) = 0;
	map(t, DATA_PAGE, 0x60000, rights);
	map(t, DATA_PAGE + SAME_SLOT, 0x62000, RW);
	memcpy(t->ram + GPA_CODE, code, (size_t)(end - code));
	PUT_AT(t, LOOP, g_loop);
	vmx_sync_code(t->cpu);
	reg(t)[RDX] = 0;
	reg(t)[R12] = DATA_PAGE;
	reg(t)[RSI] = DATA_PAGE + SAME_SLOT;
	reg(t)[RDI] = GPA_PT + 8 * (DATA_PAGE >> 12);
	reg(t)[RBP] = 0x61000 | RW;
	reg(t)[RBX] = LOOP;
	W(GUEST_RIP, GPA_CODE);
}
#define SET_UP(t, rights, name) set_up(t, rights, name, name##_end)

static void expect_moved(struct machine *t)
{
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(reg(t)[RDX], 20 + 20 * 100);
	assert_int_equal(*guest64(t, 0x60008), 20);
	assert_int_equal(*guest64(t, 0x61008), 20 + 20 * 100);
}

static void invalidations_by_the_guest_reach_loops(void **state)
{
	STATE;

	W(SECONDARY_VM_EXEC_CONTROL, R(t, SECONDARY_VM_EXEC_CONTROL) | SECONDARY_EXEC_ENABLE_INVPCID);
	for (unsigned n = 0; n < 3; n++) {
		SET_UP(t, RW, g_invlpg);
		expect_moved(t);
		SET_UP(t, RW, g_cr3);
		expect_moved(t);
		for (uint64_t type = 0; type < 4; type++) {
			SET_UP(t, RW, g_invpcid);
			guest64(t, 0x63000)[0] = 0; /* PCID 0 */
			guest64(t, 0x63000)[1] = DATA_PAGE;
			reg(t)[R13] = type;
			reg(t)[R14] = 0x63000;
			expect_moved(t);
		}
	}
}

static void write_right_that_is_gone_is_seen(void **state)
{
	STATE;

	for (unsigned n = 0; n < 3; n++) {
		SET_UP(t, RW, g_invlpg);
		W(GUEST_CR0, R(t, GUEST_CR0) | X86_CR0_WP);
		reg(t)[RBP] = 0x61000 | PTE_P;
		expect_fault(t, X86_TRAP_PF);
		assert_int_equal(R(t, EXIT_QUALIFICATION), DATA_PAGE + 8);
		assert_int_equal(reg(t)[RDX], 20 + 100); /* the load was allowed */
		assert_int_equal(reg(t)[RCX], 20);
		assert_int_equal(*guest64(t, 0x61008), 0);
	}
}

static void invept_and_invvpid_reach_loops(void **state)
{
	STATE;
	uint64_t leaf = *ept_leaf(t, 0x60000);

	for (unsigned n = 0; n < 4; n++) {
		SET_UP(t, RW, g_exit);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(reg(t)[RDX], 20);
		if (n & 1) {
			guest64(t, GPA_PT)[DATA_PAGE >> 12] = 0x61000 | RW;
			assert_int_equal(invvpid(t->cpu, INVVPID_INDIVIDUAL_ADDRESS, 1, DATA_PAGE), VMX_SUCCEED);
		} else {
			*ept_leaf(t, 0x60000) = *ept_leaf(t, 0x61000);
			assert_int_equal(invept(t->cpu, INVEPT_SINGLE_CONTEXT, R(t, EPT_POINTER)), VMX_SUCCEED);
		}
		W(GUEST_RIP, GPA_CODE + BEHIND_EXIT);
		expect_moved(t);
		*ept_leaf(t, 0x60000) = leaf;
		assert_int_equal(invept(t->cpu, INVEPT_SINGLE_CONTEXT, R(t, EPT_POINTER)), VMX_SUCCEED);
	}
}

/* SDM "Recommended Invalidation": a page fault forgets its address. */
static void page_fault_reaches_loops(void **state)
{
	STATE;

	SET_UP(t, RW, g_exit_read);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	guest64(t, GPA_PT)[DATA_PAGE >> 12] = 0;
	W(GUEST_RIP, GPA_CODE + BEHIND_EXIT);
	expect_fault(t, X86_TRAP_PF);
	W(GUEST_RSP, R(t, GUEST_RSP) - 8);
	W(GUEST_RIP, LOOP);
	expect_fault(t, X86_TRAP_PF);
	assert_int_equal(R(t, EXIT_QUALIFICATION), DATA_PAGE);
	assert_int_equal(reg(t)[RDX], 20);
}

/* A supervisor's data in a user's page: EFLAGS.AC decides. */
GUEST(g_clac, "stac; call rbx; clac; call rbx; hlt");

static void smap_looks_at_loops(void **state)
{
	STATE;

	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_SMAP);
	for (unsigned n = 0; n < 3; n++) {
		SET_UP(t, RW | PTE_US, g_clac);
		expect_fault(t, X86_TRAP_PF);
		assert_int_equal(R(t, EXIT_QUALIFICATION), DATA_PAGE);
		assert_int_equal(reg(t)[RDX], 20);
		W(GUEST_RFLAGS, X86_FLAGS_FIXED);
	}
}

/* Three words that begin 8, 16 or more bytes before the end of a page; the next page is another one. */
GUEST(g_crossing, "1: mov rax,[r12]; mov rdx,[r12+8]; add [r12+16],rax; add rax,rdx; mov [r12-8],rax; dec ecx; jnz 1b; hlt");

static void accesses_of_one_check_may_lie_in_two_pages(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_crossing);
	map(t, DATA_PAGE, 0x60000, RW);
	map(t, DATA_PAGE + 0x1000, 0x65000, RW);
	for (unsigned at = 0; at < 40; at += 4) {
		uint64_t expected[2] = { 0, 0 };
		const uint8_t *first = t->ram + 0x60fe0, *second = t->ram + 0x65000;
		uint8_t both[0x60], seen[0x60];

		for (unsigned n = 0; n < 0x20; n++) {
			t->ram[0x60fe0 + n] = (uint8_t)(3 * n + 1);
			t->ram[0x65000 + n] = t->ram[0x65020 + n] = (uint8_t)(5 * n + 2);
		}
		memcpy(both, first, 0x20);
		memcpy(both + 0x20, second, 0x40);
		for (unsigned n = 0; n < 200; n++) {
			uint64_t *w = (uint64_t *)(both + 8 + at), v[4];

			memcpy(v, w, 24);
			v[2] += v[0];
			memcpy(w, v, 24);
			v[3] = v[0] + v[1];
			memcpy(both + at, &v[3], 8);
			expected[0] = v[3];
			expected[1] = v[1];
		}
		reg(t)[R12] = DATA_PAGE + 0xfe8 + at;
		reg(t)[RCX] = 200;
		W(GUEST_RIP, GPA_CODE);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		memcpy(seen, first, 0x20);
		memcpy(seen + 0x20, second, 0x40);
		assert_memory_equal(seen, both, sizeof(both));
		assert_int_equal(reg(t)[RAX], expected[0]);
		assert_int_equal(reg(t)[RDX], expected[1]);
	}
}

/* Each round's accesses are in two other pages: it is not long until their loop has no slots. */
GUEST(g_scattered, "1: add rdx,[r12]; inc qword ptr [r13+rcx*8]; xor r12,0x1000; xor r13,0x1000; dec ecx; jnz 1b; hlt");

static void accesses_in_turns_to_two_pages_are_right(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_scattered);
	map(t, DATA_PAGE, 0x60000, RW);
	map(t, DATA_PAGE + 0x1000, 0x61000, RW);
	*guest64(t, 0x60000) = 1;
	*guest64(t, 0x61000) = 100;
	for (unsigned n = 0; n < 20; n++) {
		for (unsigned k = 0; k < 100; k++)
			guest64(t, 0x60008)[k] = guest64(t, 0x61008)[k] = 0;
		reg(t)[R12] = reg(t)[R13] = DATA_PAGE;
		reg(t)[RDX] = 0;
		reg(t)[RCX] = 100;
		W(GUEST_RIP, GPA_CODE);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(reg(t)[RDX], 50 + 50 * 100);
		for (unsigned k = 1; k <= 100; k++) /* counted down from 100, which was in the first */
			assert_int_equal(guest64(t, k & 1 ? 0x61000 : 0x60000)[k], 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_LONG(invalidations_by_the_guest_reach_loops),
		TEST_LONG(write_right_that_is_gone_is_seen),
		TEST_LONG(invept_and_invvpid_reach_loops),
		TEST_LONG(page_fault_reaches_loops),
		TEST_LONG(smap_looks_at_loops),
		TEST_LONG(accesses_of_one_check_may_lie_in_two_pages),
		TEST_LONG(accesses_in_turns_to_two_pages_are_right),
	};

	return TRANSLATOR_TESTS(tests);
}
