/*
 * Decoded blocks at their edges: instructions that cross pages, the code
 * segment's limit, a cache that is full, ranges that change their meaning.
 */
#include "machine.h"

#include <unistd.h>

#define STATE struct machine *t = *state
#define CROSSING (GPA_CODE + 0xffd)

/* call CROSSING (mov eax,imm32 over two pages; ret); change its last byte; call again; hlt */
static void instruction_over_two_pages_changes_with_its_second(void **state)
{
	STATE;
	static const uint8_t code[] = {
		0xe8, 0xf8, 0x0f, 0, 0,			 /* call */
		0x89, 0xc3,				 /* mov ebx,eax */
		0xc6, 0x04, 0x25, 0x01, 0x10, 0x02, 0, 0x77, /* mov byte [21001h],77h */
		0xe8, 0xe9, 0x0f, 0, 0, 0xf4,
	};
	static const uint8_t crossing[] = { 0xb8, 0x11, 0x22, 0x33, 0x44, 0xc3 };

	memcpy(t->ram + GPA_CODE, code, sizeof(code));
	memcpy(t->ram + CROSSING, crossing, sizeof(crossing));
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RBX], 0x44332211);
	assert_int_equal(vmx_gprs(t->cpu)[RAX], 0x77332211);
}

/*
 * A page that code has run from is read when its translation has gone: the translation that comes back must
 * not let the next write of the code through unnoticed, though the page's D bit is set.
 */
static void translation_of_a_page_with_code_comes_back_without_write_access(void **state)
{
	STATE;
	static const uint8_t code[] = {
		0xc6, 0x04, 0x25, 0x00, 0x28, 0x02, 0x00, 0x01, /* mov byte [22800h],1 */
		0xe8, 0xf3, 0x1f, 0, 0,				/* call 22000h */
		0x89, 0xc3,					/* mov ebx,eax */
		0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8,		/* mov rax,cr3; mov cr3,rax */
		0x8a, 0x0c, 0x25, 0x00, 0x28, 0x02, 0x00,	/* mov cl,[22800h] */
		0xc6, 0x04, 0x25, 0x01, 0x20, 0x02, 0x00, 0x77, /* mov byte [22001h],77h */
		0xe8, 0xd7, 0x1f, 0, 0, 0xf4,
	};
	static const uint8_t function[] = { 0xb8, 0x11, 0, 0, 0, 0xc3 };

	memcpy(t->ram + GPA_CODE, code, sizeof(code));
	memcpy(t->ram + 0x22000, function, sizeof(function));
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RBX], 0x11);
	assert_int_equal(vmx_gprs(t->cpu)[RAX], 0x77);
}

/* Its second page is mapped elsewhere: other bytes, though none was written. */
static void instruction_over_two_pages_follows_their_mapping(void **state)
{
	STATE;
	static const uint8_t crossing[] = { 0xb8, 0x11, 0x22, 0x33, 0x44, 0xf4 };

	memcpy(t->ram + CROSSING, crossing, sizeof(crossing));
	memcpy(t->ram + 0x66000, "\x55\x66\xf4", 3);
	W(GUEST_RIP, CROSSING);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RAX], 0x44332211);
	guest64(t, GPA_PT)[(GPA_CODE >> 12) + 1] = 0x66000 | PTE_P | PTE_RW;
	assert_int_equal(invvpid(t->cpu, INVVPID_ALL_CONTEXT, 0, 0), VMX_SUCCEED);
	W(GUEST_RIP, CROSSING);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RAX], 0x66552211);
}

/* Its second page would be the first of the hole between canonical addresses. */
static void instruction_into_the_hole_is_gp(void **state)
{
	STATE;
	const gva_t last = 0x7ffffffff000;
	uint64_t *pml4 = guest64(t, GPA_PML4);
	unsigned index = 0;

	pml4[255] = 0x70000 | PTE_P | PTE_RW;
	*guest64(t, 0x70ff8) = 0x71000 | PTE_P | PTE_RW;
	*guest64(t, 0x71ff8) = 0x72000 | PTE_P | PTE_RW;
	*guest64(t, 0x72ff8) = 0x73000 | PTE_P | PTE_RW;
	pml4[256] = pml4[0]; /* where bits 47:12 of the hole's first page lead */
	memcpy(t->ram + 0x73ffe, "\xb8\x11", 2); /* mov eax,imm32 */
	W(GUEST_RIP, last + 0xffe);
	W(EXCEPTION_BITMAP, 1u << X86_TRAP_GP);
	assert_int_equal(go(t), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(R(t, VM_EXIT_INTR_INFO) & 0xff, X86_TRAP_GP);
	assert_int_equal(R(t, GUEST_RIP), last + 0xffe);
	assert_true(cpu_tlb_check(t->cpu->tlb));
	for (index = 0; index < ISA_TLB_ENTRIES; index++)
		assert_int_not_equal(t->cpu->tlb->cur->sub[PRIV_SUPER].e[index].exec_tag, 0x800000000000);
}

static void instruction_of_more_than_15_bytes_is_gp(void **state)
{
	STATE;

	memset(t->ram + GPA_CODE, 0x66, 15);
	t->ram[GPA_CODE + 15] = 0x90;
	W(EXCEPTION_BITMAP, 1u << X86_TRAP_GP);
	assert_int_equal(go(t), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(R(t, VM_EXIT_INTR_INFO) & 0xff, X86_TRAP_GP);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE);
}

/* Real mode, CS limit 1fh: mov al,n; then what lies over the limit. */
static void code_ends_at_the_limit(void **state)
{
	static const struct {
		uint32_t first; /* offset of mov al,5 (2 bytes) */
		uint64_t rip;	/* of the #GP */
		uint64_t al;
	} cases[] = { { 0x1e, 0x20, 5 }, { 0x1f, 0x1f, 0 }, { 0x1d, 0x1f, 5 } };

	for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
		struct machine *t;

		machine_setup((void **)&t);
		W(GUEST_CS_LIMIT, 0x1f);
		W(EXCEPTION_BITMAP, 1u << X86_TRAP_GP);
		memcpy(t->ram + GPA_CODE + cases[n].first, "\xb0\x05\xb0\x06\xf4", 5);
		W(GUEST_RIP, cases[n].first);
		assert_int_equal(go(t), EXIT_REASON_EXCEPTION_NMI);
		assert_int_equal(R(t, VM_EXIT_INTR_INFO) & 0xff, X86_TRAP_GP);
		assert_int_equal(R(t, GUEST_RIP), cases[n].rip);
		assert_int_equal(vmx_gprs(t->cpu)[RAX] & 0xff, cases[n].al);
		machine_teardown((void **)&t);
	}
}

/* The limit is the end of a page: what comes next is not even fetched. */
static void code_that_would_go_on_over_the_limit_and_the_page_is_gp(void **state)
{
	STATE;

	W(GUEST_CS_LIMIT, 0xfff);
	W(EXCEPTION_BITMAP, 1u << X86_TRAP_GP);
	memcpy(t->ram + GPA_CODE + 0xffe, "\xb8\x05\x00", 3); /* mov ax,5 */
	*ept_leaf(t, GPA_CODE + 0x1000) = 0;
	W(GUEST_RIP, 0xffe);
	assert_int_equal(go(t), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(R(t, VM_EXIT_INTR_INFO) & 0xff, X86_TRAP_GP);
	assert_int_equal(R(t, GUEST_RIP), 0xffe);
}

/* The limit is in the page the instruction goes on to, before its last byte or behind it. */
static void code_that_ends_at_a_limit_in_the_next_page(void **state)
{
	for (unsigned limit = 0xfff; limit < 0x1002; limit++) {
		bool whole = limit >= 0x1001;
		struct machine *t;

		machine_setup((void **)&t);
		W(GUEST_CS_LIMIT, limit);
		W(EXCEPTION_BITMAP, 1u << X86_TRAP_GP);
		memcpy(t->ram + GPA_CODE + 0xffc, "\xb8\x01\x00\x83\xc0\x05", 6); /* mov ax,1; add ax,5 */
		W(GUEST_RIP, 0xffc);
		assert_int_equal(go(t), EXIT_REASON_EXCEPTION_NMI);
		assert_int_equal(R(t, VM_EXIT_INTR_INFO) & 0xff, X86_TRAP_GP);
		assert_int_equal(R(t, GUEST_RIP), whole ? 0x1002 : 0xfff);
		assert_int_equal(vmx_gprs(t->cpu)[RAX] & 0xffff, whole ? 6 : 1);
		machine_teardown((void **)&t);
	}
}

static void rip_that_is_not_canonical_is_gp(void **state)
{
	STATE;

	CODE(t, 0xff, 0xe0); /* jmp rax */
	vmx_gprs(t->cpu)[RAX] = 1ULL << 47;
	W(EXCEPTION_BITMAP, 1u << X86_TRAP_GP);
	assert_int_equal(go(t), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(R(t, VM_EXIT_INTR_INFO) & 0xff, X86_TRAP_GP);
}

/* More code than the cache of blocks holds, twice: inc rcx; eight NOPs; jmp to the next. */
static void cache_that_is_full_starts_again(void **state)
{
	STATE;
	enum { STEP = 16, STEPS = (6 << 20) / STEP };
	uint8_t *code = t->ram + 0x200000;

	for (unsigned n = 0; n < 4; n++)
		guest64(t, GPA_PD)[1 + n] = (0x200000UL * (1 + n)) | PTE_P | PTE_RW | PTE_PS;
	for (unsigned n = 0; n < STEPS; n++)
		memcpy(code + n * STEP, "\x48\xff\xc1\x90\x90\x90\x90\x90\x90\x90\x90\xe9\0\0\0\0", STEP);
	memcpy(code + STEPS * STEP, "\xf4", 1);
	for (unsigned n = 1; n <= 2; n++) {
		W(GUEST_RIP, 0x200000);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(vmx_gprs(t->cpu)[RCX], n * STEPS);
	}
	assert_true(vmx_cpu_counters(t->cpu)->code_invalidations > STEPS / 2);
}

static void range_of_any_size_is_decoded_anew(void **state)
{
	STATE;
	static const uint64_t sizes[] = { 1, 0x1000, 64UL << 20 };

	CODE(t, 0xb0, 0x01, 0xf4);
	for (size_t n = 0; n < ARRAY_SIZE(sizes); n++) {
		uint64_t before = vmx_cpu_counters(t->cpu)->blocks_decoded;

		W(GUEST_RIP, GPA_CODE);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_true(vmx_cpu_counters(t->cpu)->blocks_decoded > before);
		vmx_invalidate_code(t->m, (hpa_t)t->ram + GPA_CODE, sizes[n]);
	}
}

/* USERKVM_TRACE_INSN: what a triple fault says. */
static void triple_fault_prints_the_last_blocks(void **state)
{
	struct machine *t;
	char text[8192] = "";
	int fds[2], saved;

	setenv("USERKVM_TRACE_INSN", "100000", 1);
	machine_setup_long((void **)&t);
	unsetenv("USERKVM_TRACE_INSN");
	CODE(t, 0x90, 0xeb, 0x00, 0x0f, 0x0b);
	W(GUEST_IDTR_LIMIT, 0);
	assert_int_equal(pipe(fds), 0);
	saved = dup(2);
	dup2(fds[1], 2);
	go(t);
	dup2(saved, 2);
	close(saved);
	close(fds[1]);
	assert_true(read(fds[0], text, sizeof(text) - 1) > 0);
	close(fds[0]);
	assert_int_equal(R(t, VM_EXIT_REASON), EXIT_REASON_TRIPLE_FAULT);
	assert_non_null(strstr(text, "triple fault; the last 2 blocks"));
	assert_non_null(strstr(text, "0000000000020003 m2"));
	assert_non_null(strstr(text, "0f0b"));
	assert_non_null(strstr(text, "gdtr"));
	machine_teardown((void **)&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_LONG(instruction_over_two_pages_changes_with_its_second),
		TEST_LONG(translation_of_a_page_with_code_comes_back_without_write_access),
		TEST_LONG(instruction_over_two_pages_follows_their_mapping),
		TEST_LONG(instruction_into_the_hole_is_gp),
		TEST_LONG(instruction_of_more_than_15_bytes_is_gp),
		cmocka_unit_test(code_ends_at_the_limit),
		cmocka_unit_test(code_that_ends_at_a_limit_in_the_next_page),
		TEST_REAL(code_that_would_go_on_over_the_limit_and_the_page_is_gp),
		TEST_LONG(rip_that_is_not_canonical_is_gp),
		TEST_LONG(cache_that_is_full_starts_again),
		TEST_LONG(range_of_any_size_is_decoded_anew),
		cmocka_unit_test(triple_fault_prints_the_last_blocks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
