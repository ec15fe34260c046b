/*
 * What silicon's 64-bit mode cannot be asked: 16- and 32-bit code, segment
 * limits and types, restart after faults, interrupted repetitions, the decoder.
 */
#include <sys/mman.h>

#include "harness.h"

static struct cpu_state cs;

#define RUN(...) run_one(&cs, (const uint8_t[]){ __VA_ARGS__ }, \
			 sizeof((const uint8_t[]){ __VA_ARGS__ }), 0x1000)
#define RAISES(v, ...)                                             \
	do {                                                       \
		assert_false(RUN(__VA_ARGS__));                    \
		assert_int_equal(cs.exception.vector, v);          \
	} while (0)

/* Segments based at the window, with a 64 KiB limit. */
static void start(enum isa_code_mode mode)
{
	unsigned k;

	reset_cpu(&cs, mode);
	memset(window, 0, window_size);
	for (k = 0; k < NR_SREGS && mode != ISA_CODE64; k++) {
		cs.seg[k].base = (uintptr_t)window;
		cs.seg[k].limit = 0xffff;
	}
}

static uint16_t *word_at(unsigned offset)
{
	return (uint16_t *)(window + offset);
}

static void push16_wraps_sp_and_keeps_upper_rsp(void **state)
{
	start(ISA_CODE16);
	cs.gpr[RSP] = 0xabcd0000;
	cs.gpr[RAX] = 0x1234;
	assert_true(RUN(0x50));
	assert_int_equal(cs.gpr[RSP], 0xabcdfffe);
	assert_int_equal(*word_at(0xfffe), 0x1234);
}

static void address16_wraps_within_segment(void **state)
{
	start(ISA_CODE16);
	*word_at(0x0010) = 0x5678;
	cs.gpr[RBX] = 0xfff0;
	cs.gpr[RSI] = 0x20;
	assert_true(RUN(0x8b, 0x00)); /* mov ax,[bx+si] */
	assert_int_equal(cs.gpr[RAX], 0x5678);
}

static void access_beyond_limit_is_gp_and_ss_through_stack_segment(void **state)
{
	start(ISA_CODE16);
	cs.seg[SREG_DS].limit = cs.seg[SREG_SS].limit = 0xff;
	cs.gpr[RBX] = cs.gpr[RBP] = 0xff;
	RAISES(X86_TRAP_GP, 0x8b, 0x07);	    /* mov ax,[bx] */
	RAISES(X86_TRAP_SS, 0x8b, 0x46, 0x00);	    /* mov ax,[bp] */
	assert_true(cs.exception.has_error_code);
	assert_true(RUN(0x8a, 0x07));		    /* mov al,[bx] */
	RAISES(X86_TRAP_SS, 0x36, 0x8b, 0x07);	    /* mov ax,ss:[bx] */
}

static void expand_down_segment_is_valid_above_its_limit(void **state)
{
	start(ISA_CODE32);
	cs.seg[SREG_DS].ar |= VMX_AR_TYPE_EXPAND_DOWN;
	cs.seg[SREG_DS].limit = 0xfff;
	cs.gpr[RBX] = 0xfff;
	RAISES(X86_TRAP_GP, 0x8b, 0x03);
	cs.gpr[RBX] = 0x1000;
	assert_true(RUN(0x8b, 0x03));
}

static void write_to_readonly_or_code_segment_is_gp(void **state)
{
	start(ISA_CODE32);
	cs.seg[SREG_DS].ar &= (uint32_t)~VMX_AR_TYPE_WRITABLE;
	RAISES(X86_TRAP_GP, 0x89, 0x03);
	assert_true(RUN(0x8b, 0x03));
	RAISES(X86_TRAP_GP, 0x2e, 0x89, 0x03); /* cs: */
	cs.seg[SREG_ES].ar |= VMX_AR_UNUSABLE;
	RAISES(X86_TRAP_GP, 0x26, 0x8b, 0x03);
	cs.cr0 = 0; /* real mode: no types */
	assert_true(RUN(0x2e, 0x89, 0x03));
}

static void branch_beyond_cs_limit_is_gp_and_16_bit_eip_wraps(void **state)
{
	start(ISA_CODE16);
	assert_true(RUN(0xe9, 0x00, 0xf0)); /* 1003h + f000h */
	assert_int_equal(cs.rip, 0x0003);
	cs.seg[SREG_CS].limit = 0x10ff;
	RAISES(X86_TRAP_GP, 0xe9, 0x00, 0x10);
	cs.cc = CC_ZF;
	RAISES(X86_TRAP_GP, 0x0f, 0x84, 0x00, 0x10); /* jz */
	cs.cc = 0;
	assert_true(RUN(0x0f, 0x84, 0x00, 0x10));
	assert_int_equal(cs.rip, 0x1004);
}

static void noncanonical_branch_is_gp_and_commits_nothing(void **state)
{
	start(ISA_CODE64);
	cs.gpr[RSP] = (uintptr_t)window + 64;
	*(uint64_t *)(window + 64) = 0x800000000000;
	RAISES(X86_TRAP_GP, 0xc3);
	assert_int_equal(cs.gpr[RSP], (uintptr_t)window + 64);
	cs.cr4 = X86_CR4_LA57;
	assert_true(RUN(0xc3));
	assert_int_equal(cs.rip, 0x800000000000);
}

static void pop_to_stack_relative_memory_uses_incremented_esp(void **state)
{
	start(ISA_CODE32);
	cs.gpr[RSP] = 0x100;
	*(uint32_t *)(window + 0x100) = 0xdeadbeef;
	assert_true(RUN(0x8f, 0x04, 0x24)); /* pop dword [esp] */
	assert_int_equal(*(uint32_t *)(window + 0x104), 0xdeadbeef);
	assert_int_equal(cs.gpr[RSP], 0x104);
}

static void faulting_pop_and_push_leave_rsp(void **state)
{
	uint64_t top;

	start(ISA_CODE64);
	top = cs.gpr[RSP] = (uintptr_t)window + 64;
	RAISES(X86_TRAP_PF, 0x8f, 0x03); /* pop [rbx], rbx = 0 */
	assert_int_equal(cs.gpr[RSP], top);
	RAISES(X86_TRAP_PF, 0xff, 0x33); /* push [rbx] */
	assert_int_equal(cs.gpr[RSP], top);
	RAISES(X86_TRAP_PF, 0xff, 0x13); /* call [rbx] */
	assert_int_equal(cs.gpr[RSP], top);
	cs.gpr[RSP] = 8;
	RAISES(X86_TRAP_PF, 0xc9 /* leave */);
	RAISES(X86_TRAP_PF, 0xe8, 0, 0, 0, 0);
	assert_int_equal(cs.gpr[RSP], 8);
}

static void pusha_then_popa_restores_all_but_sp(void **state)
{
	uint64_t before[8];
	unsigned k;

	start(ISA_CODE16);
	for (k = 0; k < 8; k++)
		before[k] = cs.gpr[k] = 0x1111 * k;
	cs.gpr[RSP] = before[RSP] = 0x2000;
	assert_true(RUN(0x60));
	assert_int_equal(cs.gpr[RSP], 0x2000 - 16);
	assert_int_equal(*word_at(0x2000 - 2 * (RSP + 1)), 0x2000);
	memset(cs.gpr, 0, 4 * 8);
	assert_true(RUN(0x61));
	assert_memory_equal(cs.gpr, before, sizeof(before));
}

static void decimal_adjustments_follow_the_manual(void **state)
{
	start(ISA_CODE32);
	cs.gpr[RAX] = 0x79 + 0x35;
	assert_true(RUN(0x27)); /* DAA, the manual's example: ae -> 14, CF AF */
	assert_int_equal(cs.gpr[RAX], 0x14);
	assert_int_equal(cpu_rflags(&cs) & X86_FLAGS_ARITH, X86_FLAGS_CF | X86_FLAGS_AF | X86_FLAGS_PF);
	cs.gpr[RAX] = 0x47;
	cpu_set_rflags(&cs, X86_FLAGS_AF);
	assert_true(RUN(0x2f)); /* DAS, the manual's: 35 - 47 = ee -> 88; here 47 -> 41 */
	assert_int_equal(cs.gpr[RAX], 0x41);
	cs.gpr[RAX] = 0x00ff;
	cpu_set_rflags(&cs, 0);
	assert_true(RUN(0x37)); /* AAA */
	assert_int_equal(cs.gpr[RAX], 0x0205);
	cs.gpr[RAX] = 63;
	assert_true(RUN(0xd4, 10)); /* AAM */
	assert_int_equal(cs.gpr[RAX], 0x0603);
	assert_true(RUN(0xd5, 10)); /* AAD */
	assert_int_equal(cs.gpr[RAX], 63);
	RAISES(X86_TRAP_DE, 0xd4, 0);
}

static void bound_raises_br_outside_only(void **state)
{
	start(ISA_CODE16);
	*word_at(0x20) = (uint16_t)-2;
	*word_at(0x22) = 5;
	cs.gpr[RBX] = 0x20;
	cs.gpr[RAX] = 0xffff;
	assert_true(RUN(0x62, 0x07));
	cs.gpr[RAX] = 6;
	RAISES(X86_TRAP_BR, 0x62, 0x07);
}

static void rep_movs_wraps_di_at_64k(void **state)
{
	start(ISA_CODE16);
	cs.gpr[RSI] = 0x100;
	cs.gpr[RDI] = 0xfffe;
	cs.gpr[RCX] = 4;
	memcpy(window + 0x100, "abcd", 4);
	assert_true(RUN(0xf3, 0xa4));
	assert_memory_equal(window + 0xfffe, "ab", 2);
	assert_memory_equal(window, "cd", 2);
	assert_int_equal(cs.gpr[RDI], 2);
	assert_int_equal(cs.gpr[RCX], 0);
}

static void rep_fault_leaves_registers_at_the_faulting_element(void **state)
{
	start(ISA_CODE64);
	cs.gpr[RDI] = (uintptr_t)window + window_size - 24;
	cs.gpr[RCX] = 5;
	cs.gpr[RAX] = 0x77;
	RAISES(X86_TRAP_PF, 0xf3, 0x48, 0xab); /* rep stosq */
	assert_int_equal(cs.gpr[RCX], 2);
	assert_int_equal(cs.gpr[RDI], (uintptr_t)window + window_size);
	assert_int_equal(cs.cr2, (uintptr_t)window + window_size);
	assert_int_equal(*(uint64_t *)(window + window_size - 8), 0x77);
	/* flags of an interrupted comparison stay */
	cpu_set_rflags(&cs, X86_FLAGS_CF);
	memset(window, 0, window_size);
	cs.gpr[RAX] = 0;
	cs.gpr[RDI] = (uintptr_t)window + window_size - 2;
	cs.gpr[RCX] = 5;
	RAISES(X86_TRAP_PF, 0xf3, 0xae);
	assert_int_equal(cs.gpr[RCX], 3);
	assert_int_equal(cpu_rflags(&cs) & X86_FLAGS_ARITH, X86_FLAGS_CF);
}

static void rep_lets_go_when_asked_or_stepped_and_after_64k(void **state)
{
	start(ISA_CODE64);
	cs.gpr[RDI] = (uintptr_t)window;
	cs.gpr[RCX] = window_size;
	assert_true(RUN(0xf3, 0xaa));
	assert_int_equal(cs.rip, 0x1000); /* itself */
	assert_in_range(window_size - cs.gpr[RCX], 65536, 65536 + 4096);
	cs.exit_request = 1;
	cs.gpr[RDI] = (uintptr_t)window;
	cs.gpr[RCX] = window_size;
	assert_true(RUN(0xf3, 0xaa));
	assert_int_equal(cs.rip, 0x1000);
	assert_in_range(window_size - cs.gpr[RCX], 1, 4096);
	cs.exit_request = 0;
	cs.rflags |= X86_FLAGS_TF;
	cs.gpr[RDI] = (uintptr_t)window;
	cs.gpr[RCX] = 2;
	assert_true(RUN(0xf3, 0xaa));
	assert_int_equal(cs.rip, 0x1000);
	assert_int_equal(cs.gpr[RCX], 1);
	assert_true(RUN(0xf3, 0xaa));
	assert_int_equal(cs.rip, 0x1002);
}

static void rmw_through_bounce_commits_once(void **state)
{
	start(ISA_CODE64);
	use_bounce = true;
	cs.gpr[RBX] = (uintptr_t)window;
	assert_true(RUN(0x48, 0xff, 0x03)); /* inc qword [rbx] */
	assert_int_equal(*(uint64_t *)window, 1);
	assert_int_equal(nr_commits, 1);
	assert_true(RUN(0x48, 0x3b, 0x03)); /* cmp rax,[rbx] */
	assert_int_equal(nr_commits, 1);
}

static void fs_base_is_added_in_64_bit_mode_ds_base_is_not(void **state)
{
	start(ISA_CODE64);
	*(uint64_t *)(window + 8) = 42;
	cs.seg[SREG_FS].base = (uintptr_t)window;
	cs.seg[SREG_DS].base = 0x1000;
	assert_true(RUN(0x64, 0x48, 0x8b, 0x04, 0x25, 8, 0, 0, 0)); /* mov rax,fs:[8] */
	assert_int_equal(cs.gpr[RAX], 42);
	cs.gpr[RBX] = (uintptr_t)window + 8;
	assert_true(RUN(0x3e, 0x48, 0x8b, 0x0b));
	assert_int_equal(cs.gpr[RCX], 42);
}

static void address_size_32_truncates_in_64_bit_mode(void **state)
{
	start(ISA_CODE64);
	*(uint32_t *)(window + 4) = 7;
	cs.gpr[RBX] = ((uintptr_t)window) | 0xabc00000000;
	assert_true(RUN(0x67, 0x8b, 0x43, 0x04));
	assert_int_equal(cs.gpr[RAX], 7);
}

/* --- the decoder --- */
static struct isa_insn asked;
static void ran(struct cpu_state *c, const struct isa_insn *i) { }

static isa_fn *ask(const struct isa_decoded *d, struct isa_insn *i)
{
	asked = *i;
	return ran;
}

static enum isa_decode_result decode(enum isa_code_mode mode, const void *b, size_t n,
				     struct isa_insn *i)
{
	static const struct isa_ops with_system = { .system = ask };

	asked.len = 0;
	return isa_decode(b, n, mode, &with_system, i);
}
#define DECODE(mode, ...) decode(mode, (const uint8_t[]){ __VA_ARGS__ }, \
				 sizeof((const uint8_t[]){ __VA_ARGS__ }), &i)

/* and r13, [esi*4]: with REX.B and 32-bit addresses too there is no base */
static void sib_without_a_base_has_none_at_any_address_size(void **state)
{
	struct isa_insn i;

	assert_int_equal(DECODE(ISA_CODE64, 0x4d, 0x23, 0x2c, 0xb5, 0, 0, 0, 0), ISA_DECODE_OK);
	assert_int_equal(i.base, ISA_NO_REG);
	assert_int_equal(DECODE(ISA_CODE64, 0x67, 0x4d, 0x23, 0x2c, 0xb5, 0x78, 0x56, 0x34, 0x92), ISA_DECODE_OK);
	assert_int_equal(i.base, ISA_NO_REG);
	assert_int_equal(i.index, RSI);
	assert_int_equal(i.disp, (int32_t)0x92345678);
	assert_int_equal(DECODE(ISA_CODE64, 0x67, 0x4d, 0x23, 0x6c, 0xb5, 0), ISA_DECODE_OK);
	assert_int_equal(i.base, R13);
}

static void decoder_tells_partial_too_long_and_undefined_apart(void **state)
{
	struct isa_insn i;

	assert_int_equal(DECODE(ISA_CODE64, 0x48, 0x8b), ISA_DECODE_PARTIAL);
	assert_int_equal(DECODE(ISA_CODE64, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
				0x66, 0x66, 0x66, 0x66, 0x66, 0x90), ISA_DECODE_TOO_LONG);
	assert_int_equal(DECODE(ISA_CODE64, 0xf0, 0x90), ISA_DECODE_UD); /* lock nop */
	assert_int_equal(DECODE(ISA_CODE64, 0xf0, 0x01, 0xc0), ISA_DECODE_UD); /* lock, register */
	assert_int_equal(DECODE(ISA_CODE64, 0x0f, 0x0f, 0xc1, 0x9e), ISA_DECODE_UD); /* 3DNow! */
	assert_int_equal(DECODE(ISA_CODE64, 0x8d, 0xc0), ISA_DECODE_UD); /* lea, register */
	assert_true(i.flags & ISA_ENDS_BLOCK);
	assert_int_equal(DECODE(ISA_CODE64, 0x27), ISA_DECODE_UD); /* daa */
	start(ISA_CODE64);
	RAISES(X86_TRAP_UD, 0x0f, 0x0b);
	RAISES(X86_TRAP_UD, 0x27);
}

static void decoder_fills_what_system_instructions_need(void **state)
{
	struct isa_insn i;

	assert_int_equal(DECODE(ISA_CODE64, 0x44, 0x0f, 0x22, 0xc3), ISA_DECODE_OK); /* mov cr8,rbx */
	assert_int_equal(asked.len, 4);
	assert_int_equal(asked.dst, 8);
	assert_int_equal(asked.src, RBX);
	assert_int_equal(asked.reg, 8);
	assert_int_equal(asked.rm, RBX);
	assert_int_equal(asked.map, 1);
	assert_int_equal(DECODE(ISA_CODE16, 0x0f, 0x01, 0x16, 0x34, 0x12), ISA_DECODE_OK); /* lgdt */
	assert_true(asked.flags & ISA_MEM);
	assert_int_equal(asked.disp, 0x1234);
	assert_int_equal(asked.modrm, 0x16);
	assert_int_equal(asked.opsize, 2);
	assert_int_equal(DECODE(ISA_CODE16, 0x66, 0xea, 1, 2, 3, 4, 0x10, 0), ISA_DECODE_OK);
	assert_int_equal(asked.imm, 0x1004030201ULL); /* far pointer */
	assert_int_equal(asked.opsize, 4);
	assert_int_equal(DECODE(ISA_CODE32, 0x8e, 0xd8), ISA_DECODE_OK); /* mov ds,ax */
	assert_int_equal(asked.dst, SREG_DS);
	assert_int_equal(asked.src, RAX);
	assert_int_equal(DECODE(ISA_CODE64, 0xf3, 0x6c), ISA_DECODE_OK); /* rep insb */
	assert_true(asked.flags & ISA_REP);
	assert_int_equal(asked.opsize, 1);
	assert_int_equal(DECODE(ISA_CODE64, 0xf3, 0x90), ISA_DECODE_OK); /* pause */
	assert_int_equal(asked.len, 2);
}

static void processor_without_cet_and_mpx_takes_their_hints_for_nop(void **state)
{
	start(ISA_CODE64);
	assert_true(RUN(0xf3, 0x0f, 0x1e, 0xfa));	/* endbr64 */
	assert_true(RUN(0xf3, 0x48, 0x0f, 0x1e, 0xc8)); /* rdsspq rax */
	assert_int_equal(cs.gpr[RAX], 0);
	assert_true(RUN(0xf3, 0x0f, 0x1b, 0x00));	/* bndmk: no access at 0 */
	assert_true(RUN(0x0f, 0x0d, 0x08));		/* prefetchw */
}

static void text_names_the_instruction(void **state)
{
	char buf[64];

	assert_int_equal(isa_insn_text((const uint8_t *)"\xeb\xfe", 2, ISA_CODE64, 0x400000, buf,
				       sizeof(buf)), 2);
	assert_string_equal(buf, "jmp 0x0000000000400000");
	assert_int_equal(isa_insn_text((const uint8_t *)"\x27", 1, ISA_CODE64, 0, buf, sizeof(buf)), 0);
	assert_string_equal(buf, "(bad)");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(push16_wraps_sp_and_keeps_upper_rsp),
		cmocka_unit_test(address16_wraps_within_segment),
		cmocka_unit_test(access_beyond_limit_is_gp_and_ss_through_stack_segment),
		cmocka_unit_test(expand_down_segment_is_valid_above_its_limit),
		cmocka_unit_test(write_to_readonly_or_code_segment_is_gp),
		cmocka_unit_test(branch_beyond_cs_limit_is_gp_and_16_bit_eip_wraps),
		cmocka_unit_test(noncanonical_branch_is_gp_and_commits_nothing),
		cmocka_unit_test(pop_to_stack_relative_memory_uses_incremented_esp),
		cmocka_unit_test(faulting_pop_and_push_leave_rsp),
		cmocka_unit_test(pusha_then_popa_restores_all_but_sp),
		cmocka_unit_test(decimal_adjustments_follow_the_manual),
		cmocka_unit_test(bound_raises_br_outside_only),
		cmocka_unit_test(rep_movs_wraps_di_at_64k),
		cmocka_unit_test(rep_fault_leaves_registers_at_the_faulting_element),
		cmocka_unit_test(rep_lets_go_when_asked_or_stepped_and_after_64k),
		cmocka_unit_test(rmw_through_bounce_commits_once),
		cmocka_unit_test(fs_base_is_added_in_64_bit_mode_ds_base_is_not),
		cmocka_unit_test(address_size_32_truncates_in_64_bit_mode),
		cmocka_unit_test(decoder_tells_partial_too_long_and_undefined_apart),
		cmocka_unit_test(sib_without_a_base_has_none_at_any_address_size),
		cmocka_unit_test(decoder_fills_what_system_instructions_need),
		cmocka_unit_test(processor_without_cet_and_mpx_takes_their_hints_for_nop),
		cmocka_unit_test(text_names_the_instruction),
	};

	window_size = 1 << 18;
	window = mmap(NULL, window_size, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (window == MAP_FAILED)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
