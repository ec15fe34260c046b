/*
 * MOV CR3 and translated code: what leads to a page of code goes on leading there if the page is translated by the
 * same entries as before, and to none whose translation has changed, at whatever level and by whatever right.
 *
 * Invariant: each test also passes under the interpreter; only the counters are the translator's.
 */
#include "translator.h"

#define FAR (1UL << 39) /* tables of its own at every level */
#define PDPT 0x70000UL
#define PD 0x71000UL
#define PT 0x72000UL
#define OTHER_PDPT 0x74000UL
#define OTHER_PD 0x75000UL
#define OTHER_PT 0x76000UL
#define OTHER_PML4 0x77000UL
#define TABLE (PTE_P | PTE_RW | PTE_US)

/* Two pages: the first goes on in the second, by a cell. */
GUEST(g_first, "inc rdx; jmp 1f; .skip 0xff8; 1:");
GUEST(g_add_1, "inc rdx; ret");
GUEST(g_add_100, "add rdx,100; ret");
GUEST(g_flush, "mov ecx,20; 1: call r12; dec ecx; jnz 1b; mov [rdi],rbp; mov rax,cr3; mov cr3,rax;"
	       "mov ecx,20; 2: call r12; dec ecx; jnz 2b; hlt");
GUEST(g_rounds, "1: mov cr3,r8; call r12; mov cr3,r9; call r12; dec ecx; jnz 1b; hlt");
GUEST(g_calls, "mov ecx,20; 1: call r12; dec ecx; jnz 1b; hlt");

/* FAR and the page behind it add 2 to RDX by one set of tables, 101 by the other. */
static void set_up(struct machine *t)
{
	assert_int_equal(invvpid(t->cpu, INVVPID_ALL_CONTEXT, 0, 0), VMX_SUCCEED);
	memcpy(t->ram + 0x60000, g_first, 16);
	PUT_AT(t, 0x61000, g_add_1);
	PUT_AT(t, 0x62000, g_add_100);
	map(t, FAR, 0x60000, RW);
	map(t, FAR + 0x1000, 0x61000, RW);
	assert_int_equal(*guest64(t, GPA_PML4 + 8) & PTE_ADDR_MASK, PDPT);
	assert_int_equal(*guest64(t, PD) & PTE_ADDR_MASK, PT);
	guest64(t, OTHER_PT)[0] = 0x60000 | RW;
	guest64(t, OTHER_PT)[1] = 0x62000 | RW;
	*guest64(t, OTHER_PD) = OTHER_PT | TABLE;
	*guest64(t, OTHER_PDPT) = OTHER_PD | TABLE;
	memcpy(t->ram + OTHER_PML4, t->ram + GPA_PML4, 4096);
	guest64(t, OTHER_PML4)[1] = OTHER_PDPT | TABLE;
	reg(t)[RDX] = 0;
	reg(t)[R12] = FAR;
	W(GUEST_RIP, GPA_CODE);
}

/* The second page is what it is by *entry = value after a MOV CR3. */
static void flush_after(struct machine *t, gpa_t entry, uint64_t value)
{
	set_up(t);
	PUT_AT(t, GPA_CODE, g_flush);
	reg(t)[RDI] = entry;
	reg(t)[RBP] = value;
}

static void entry_of_any_level_that_changed_is_seen(void **state)
{
	STATE;
	const struct { gpa_t entry; uint64_t value; } by[] = {
		{ PT + 8, 0x62000 | RW },
		{ PD, OTHER_PT | TABLE },
		{ PDPT, OTHER_PD | TABLE },
		{ GPA_PML4 + 8, OTHER_PDPT | TABLE },
	};

	for (unsigned n = 0; n < ARRAY_SIZE(by); n++) {
		uint64_t was;

		set_up(t);
		was = *guest64(t, by[n].entry);
		flush_after(t, by[n].entry, by[n].value);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(reg(t)[RDX], 20 * 2 + 20 * 101);
		*guest64(t, by[n].entry) = was;
	}
}

static void right_that_is_gone_is_seen(void **state)
{
	STATE;
	const struct { gpa_t entry; uint64_t value; gva_t fault; } by[] = {
		{ PT + 8, 0x61000 | RW | PTE_XD, FAR + 0x1000 },
		{ PT + 8, 0, FAR + 0x1000 },
		{ PD, PT | TABLE | PTE_XD, FAR },
		{ GPA_PML4 + 8, PDPT | (TABLE & ~PTE_P), FAR },
	};

	for (unsigned n = 0; n < ARRAY_SIZE(by); n++) {
		flush_after(t, by[n].entry, by[n].value);
		expect_fault(t, X86_TRAP_PF);
		assert_int_equal(R(t, EXIT_QUALIFICATION), by[n].fault);
		assert_int_equal(reg(t)[RDX], 20 * 2 + (by[n].fault != FAR));
		*guest64(t, by[n].entry) = (by[n].entry == PT + 8 ? 0x61000 | RW : by[n].entry == PD ? PT | TABLE : PDPT | TABLE);
	}
}

/* SMEP keeps a supervisor from it. */
static void user_page_is_not_run_by_a_supervisor_afterwards(void **state)
{
	STATE;

	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_SMEP);
	flush_after(t, PT + 8, 0x61000 | RW | PTE_US);
	expect_fault(t, X86_TRAP_PF);
	assert_int_equal(R(t, EXIT_QUALIFICATION), FAR + 0x1000);
	assert_int_equal(reg(t)[RDX], 20 * 2 + 1);
}

static void each_address_space_runs_its_own_code(void **state)
{
	STATE;

	set_up(t);
	PUT_AT(t, GPA_CODE, g_rounds);
	reg(t)[R8] = GPA_PML4;
	reg(t)[R9] = OTHER_PML4;
	reg(t)[RCX] = 50;
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(reg(t)[RDX], 50 * (2 + 101));
}

/* What is bound stays bound, and is bound anew for no address space that has the same code. */
static void same_tables_and_same_code_need_no_new_binding(void **state)
{
	STATE;
	const struct vmx_counters *c = vmx_cpu_counters(t->cpu);

	for (unsigned n = 0; n < 2; n++) {
		uint64_t binds;

		set_up(t);
		guest64(t, OTHER_PT)[1] = 0x61000 | RW;
		PUT_AT(t, GPA_CODE, g_rounds);
		reg(t)[R8] = GPA_PML4;
		reg(t)[R9] = n ? OTHER_PML4 : GPA_PML4;
		binds = c->jit_binds;
		reg(t)[RCX] = 1000;
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(reg(t)[RDX], 2000 * 2);
		assert_true(c->jit_binds - binds < 100);
		if (translating(t) && n)
			assert_true(c->jit_resumes > 1000);
	}
}

/* MOV CR3 leaves global pages; INVLPG, and CR4.PGE, do not. */
GUEST(g_global, "mov ecx,20; 1: call r12; dec ecx; jnz 1b; mov rax,cr3; mov cr3,rax; call r12;"
		"mov [rdi],rbp; mov cr3,rax; jmp rbx");
GUEST(g_invlpg, "invlpg [r13]; mov ecx,20; 2: call r12; dec ecx; jnz 2b; hlt");
GUEST(g_pge, "mov rax,cr4; xor eax,0x80; mov cr4,rax; mov ecx,20; 2: call r12; dec ecx; jnz 2b; hlt");

static void global_page_goes_by_its_own_invalidations(void **state)
{
	STATE;

	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_PGE);
	W(CR4_GUEST_HOST_MASK, 0);
	for (unsigned n = 0; n < 2; n++) {
		set_up(t);
		guest64(t, PT)[0] |= PTE_G;
		guest64(t, PT)[1] |= PTE_G;
		PUT_AT(t, GPA_CODE, g_global);
		if (n)
			PUT_AT(t, GPA_CODE + 0x1000, g_pge);
		else
			PUT_AT(t, GPA_CODE + 0x1000, g_invlpg);
		reg(t)[RBX] = GPA_CODE + 0x1000;
		reg(t)[R13] = FAR + 0x1000;
		reg(t)[RDI] = PT + 8;
		reg(t)[RBP] = 0x62000 | RW;
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(reg(t)[RDX], 21 * 2 + 20 * 101);
	}
}

/*
 * An EPT violation drops the guest-physical mapping of its page, and the hypervisor needs no INVEPT to put another
 * page there (SDM "Operations that Invalidate Cached Mappings"): here of a page table.
 */
static void table_that_an_ept_violation_moves_is_read_where_it_is(void **state)
{
	STATE;
	uint64_t leaf = *ept_leaf(t, PT);

	flush_after(t, PT + 8, 0x62000 | RW);
	*guest64(t, PT) |= PTE_A;
	*guest64(t, PT + 8) |= PTE_A;
	*ept_leaf(t, PT) = leaf & ~(uint64_t)EPT_WRITE;
	assert_int_equal(go(t), EXIT_REASON_EPT_VIOLATION);
	memcpy(t->ram + 0x78000, t->ram + PT, 4096);
	*ept_leaf(t, PT) = *ept_leaf(t, 0x78000);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(reg(t)[RDX], 20 * 2 + 20 * 101);
	*ept_leaf(t, PT) = leaf;
}

/*
 * Each round empties the TLB, and stores and loads in 16 pages and on the stack. What a walk finds that sets no flag is
 * found without a handler; the last page is one of two, by an entry that changes each round.
 */
GUEST(g_data, "1: mov cr3,r8; mov rax,[r15]; xor rax,r14; mov [r15],rax; mov rsi,rdi; mov ebx,16;"
	      "2: mov [rsi],rcx; add rdx,[rsi+8]; push rdx; pop rdx; add rsi,0x1000; dec ebx; jnz 2b; dec ecx; jnz 1b; hlt");

static void data_is_found_again_by_the_tables_as_they_are(void **state)
{
	STATE;
	const struct vmx_counters *c = vmx_cpu_counters(t->cpu);
	uint64_t stubs, fills;

	for (unsigned n = 0; n < 16; n++) {
		map(t, FAR + n * 0x1000, 0x40000 + n * 0x1000, RW);
		*guest64(t, 0x40008 + n * 0x1000) = 1;
	}
	*guest64(t, 0x51008) = 1001;
	for (unsigned k = 0; k < 2; k++) {
		PUT_AT(t, GPA_CODE, g_data);
		W(GUEST_RIP, GPA_CODE);
		W(GUEST_RSP, GPA_STACK);
		reg(t)[R8] = GPA_PML4;
		reg(t)[RDI] = FAR;
		reg(t)[R15] = PT + 15 * 8;
		reg(t)[R14] = 0x4f000 ^ 0x51000;
		reg(t)[RCX] = 1000;
		reg(t)[RDX] = 0;
		stubs = c->jit_stubs;
		fills = c->tlb_fills;
		if (k) /* both pages have been written through this entry: D stays */
			guest64(t, PT)[15] |= PTE_A | PTE_D;
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(reg(t)[RDX], 16 * 1000 + 500 * 1000);
	}
	assert_true(c->tlb_fills - fills > 16 * 1000);
#ifndef __SANITIZE_ADDRESS__ /* whose code needs vector registers: each miss is a stub's */
	assert_true(c->jit_stubs - stubs < 4 * 1000);
#endif
	assert_int_equal(*guest64(t, 0x4f000) + *guest64(t, 0x51000), 1 + 2);
}

/* A page table is no longer there when emitted code wants it: an error of the host's, and the guest goes on afterwards. */
GUEST(g_sum, "1: mov cr3,r8; add rdx,[rdi]; mov [rdi+8],rcx; dec ecx; jnz 1b; hlt");

static void page_table_that_vanishes_is_an_error_or_comes_back(void **state)
{
	STATE;
	uint8_t *table = t->ram + PT, saved[4096];

	signals_are_ours();
	map(t, FAR, 0x40000, RW);
	*guest64(t, 0x40000) = 3;
	PUT_AT(t, GPA_CODE, g_sum);
	for (unsigned n = 0; n < 2; n++) {
		reg(t)[R8] = GPA_PML4;
		reg(t)[RDI] = FAR;
		reg(t)[RDX] = 0;
		reg(t)[RCX] = 100;
		W(GUEST_RIP, GPA_CODE);
		if (n) {
			memcpy(saved, table, 4096);
			assert_int_equal(munmap(table, 4096), 0);
			assert_int_equal(vmresume(t->cpu), VMX_BUS_ERROR);
			assert_int_equal(vmx_bus_error_address(t->cpu) & PAGE_MASK, (uint64_t)table);
			assert_int_equal(reg(t)[RCX], 100);
			assert_ptr_equal(mmap(table, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
					 table);
			memcpy(table, saved, 4096);
		}
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(reg(t)[RDX], 300);
	}
}

/* What is dropped of a larger page concerns code around it, and no other. */
GUEST(g_larger, "mov rax,[rsi]; 1: invlpg [rsi]; call r12; dec ecx; jnz 1b; hlt");

static void larger_page_that_goes_takes_only_code_around_it(void **state)
{
	STATE;
	const struct vmx_counters *c = vmx_cpu_counters(t->cpu);
	const unsigned regions[] = { 256, 1 }; /* of 2 MiB behind FAR: far away, and of the same 4 MiB */

	for (unsigned n = 0; n < ARRAY_SIZE(regions); n++) {
		uint64_t resumes;

		set_up(t);
		guest64(t, PD)[regions[n]] = RW | PTE_PS | PTE_A | PTE_D;
		PUT_AT(t, GPA_CODE, g_larger);
		reg(t)[RSI] = FAR + ((uint64_t)regions[n] << 21) + 0x40000;
		reg(t)[RCX] = 1000;
		resumes = c->jit_resumes;
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(reg(t)[RDX], 1000 * 2);
		assert_true(n ? !translating(t) || c->jit_resumes - resumes > 900 : c->jit_resumes - resumes < 100);
	}
}

/* A client writes to code that leads on through other pages. */
static void code_patched_behind_a_cell_is_seen(void **state)
{
	STATE;

	W(SECONDARY_VM_EXEC_CONTROL, R(t, SECONDARY_VM_EXEC_CONTROL) | SECONDARY_EXEC_ENABLE_VPID);
	W(VIRTUAL_PROCESSOR_ID, 1);
	set_up(t);
	PUT_AT(t, GPA_CODE, g_calls);
	for (unsigned n = 0; n < 6; n++) {
		if (n & 1)
			PUT_AT(t, 0x61000, g_add_100);
		else
			PUT_AT(t, 0x61000, g_add_1);
		vmx_sync_code(t->cpu);
		reg(t)[RDX] = 0;
		W(GUEST_RIP, GPA_CODE);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(reg(t)[RDX], 20 * (n & 1 ? 101 : 2));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_LONG(entry_of_any_level_that_changed_is_seen),
		TEST_LONG(right_that_is_gone_is_seen),
		TEST_LONG(user_page_is_not_run_by_a_supervisor_afterwards),
		TEST_LONG(each_address_space_runs_its_own_code),
		TEST_LONG(same_tables_and_same_code_need_no_new_binding),
		TEST_LONG(global_page_goes_by_its_own_invalidations),
		TEST_LONG(table_that_an_ept_violation_moves_is_read_where_it_is),
		TEST_LONG(data_is_found_again_by_the_tables_as_they_are),
		TEST_LONG(page_table_that_vanishes_is_an_error_or_comes_back),
		TEST_LONG(larger_page_that_goes_takes_only_code_around_it),
		TEST_LONG(code_patched_behind_a_cell_is_seen),
	};

	return TRANSLATOR_TESTS(tests);
}
