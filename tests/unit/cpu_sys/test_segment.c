/*
 * Loads of segment registers against a rule written down independently: for
 * every type, DPL, CPL, RPL and P.
 */
#include "harness.h"

/* The vector a load must raise, or -1. SDM Vol. 2, MOV, "Protected Mode Exceptions". */
static int expected_data(unsigned type, unsigned dpl, unsigned cpl, unsigned rpl, bool p)
{
	bool s = type & 16, code = type & 8, conforming = code && type & 4;

	if (!s || (code && !(type & 2)))
		return X86_TRAP_GP;
	if (!conforming && (dpl < cpl || dpl < rpl))
		return X86_TRAP_GP;
	return p ? -1 : X86_TRAP_NP;
}

static int expected_ss(unsigned type, unsigned dpl, unsigned cpl, unsigned rpl, bool p)
{
	if (!(type & 16) || type & 8 || !(type & 2) || dpl != cpl || rpl != cpl)
		return X86_TRAP_GP;
	return p ? -1 : X86_TRAP_SS;
}

static void try_load(enum sreg nr, unsigned bits)
{
	unsigned type = bits & 31, dpl = bits >> 5 & 3, cpl = bits >> 7 & 3, rpl = bits >> 9 & 3;
	bool p = bits >> 11 & 1;
	uint16_t selector = (uint16_t)(SEL_FREE | rpl);
	struct cpu_segment before;
	int want;

	cpu->cs.cpl = (uint8_t)cpl;
	set_descriptor(SEL_FREE, descriptor(0x123456, 0x42, type, dpl, p, 0x4));
	before = cpu->cs.seg[nr];
	want = nr == SREG_SS ? expected_ss(type, dpl, cpl, rpl, p) :
			       expected_data(type, dpl, cpl, rpl, p);
	cpu->cs.gpr[RAX] = selector;
	if (want < 0) {
		/* 8e /r: mov sreg, ax */
		assert_int_equal(RUN(0x8e, (uint8_t)(0xc0 | nr << 3)), DONE);
		assert_int_equal(cpu->cs.seg[nr].selector, selector);
		assert_int_equal(cpu->cs.seg[nr].base, 0x123456);
		assert_int_equal(cpu->cs.seg[nr].limit, 0x42);
		assert_int_equal(peek(GDT_AT + SEL_FREE + 5, 1) & 1, 1); /* accessed */
	} else {
		assert_int_equal(RUN(0x8e, (uint8_t)(0xc0 | nr << 3)), FAULT);
		assert_fault((unsigned)want, selector & ~3);
		assert_memory_equal(&before, &cpu->cs.seg[nr], sizeof(before));
		assert_int_equal(peek(GDT_AT + SEL_FREE + 5, 1) & 0x1f, type);
	}
}

static void data_segment_load_checks_type_dpl_cpl_rpl_and_p(void **state)
{
	reset_protected();
	for (unsigned bits = 0; bits < 1 << 12; bits++)
		try_load(SREG_DS, bits);
}

static void ss_load_checks_type_dpl_cpl_rpl_and_p(void **state)
{
	reset_protected();
	for (unsigned bits = 0; bits < 1 << 12; bits++)
		try_load(SREG_SS, bits);
}

static void null_selector_makes_ds_unusable_but_faults_for_ss(void **state)
{
	reset_protected();
	cpu->cs.gpr[RAX] = 3;
	assert_int_equal(RUN(0x8e, 0xd8), DONE);
	assert_true(cpu->cs.seg[SREG_DS].ar & VMX_AR_UNUSABLE);
	assert_int_equal(RUN(0x8e, 0xd0), FAULT);
	assert_fault(X86_TRAP_GP, 0);
}

static void null_ss_is_good_in_64_bit_mode_below_level_3(void **state)
{
	reset_long();
	cpu->cs.gpr[RAX] = 0;
	assert_int_equal(RUN(0x8e, 0xd0), DONE);
	assert_true(cpu->cs.seg[SREG_SS].ar & VMX_AR_UNUSABLE);
	assert_int_equal(isa_ar_dpl(cpu->cs.seg[SREG_SS].ar), 0);
	set_cpl(SEL_CODE64_3, SEL_DATA3);
	assert_int_equal(RUN(0x8e, 0xd0), FAULT);
	assert_fault(X86_TRAP_GP, 0);
}

static void selector_beyond_gdt_limit_faults_with_itself(void **state)
{
	reset_protected();
	cpu->cs.gpr[RAX] = SEL_LAST + 8;
	assert_int_equal(RUN(0x8e, 0xd8), FAULT);
	assert_fault(X86_TRAP_GP, SEL_LAST + 8);
	cpu->cs.gpr[RAX] = 0xc; /* LDT, which is unusable */
	assert_int_equal(RUN(0x8e, 0xd8), FAULT);
	assert_fault(X86_TRAP_GP, 0xc);
}

static void mov_ss_sets_the_shadow(void **state)
{
	reset_protected();
	cpu->cs.gpr[RAX] = SEL_DATA0;
	assert_int_equal(RUN(0x8e, 0xd0), DONE);
	assert_int_equal(cpu->interruptibility, GUEST_INTR_STATE_MOV_SS);
	assert_int_equal(cpu->cs.rip, CODE_AT + 2);
}

static void pop_to_a_bad_segment_leaves_rsp(void **state)
{
	reset_protected();
	poke(STACK_AT, 4, SEL_CODE0 | 4);
	assert_int_equal(RUN(0x1f), FAULT); /* pop ds */
	assert_int_equal(cpu->cs.gpr[RSP], STACK_AT);
	poke(STACK_AT, 4, SEL_DATA0);
	assert_int_equal(RUN(0x1f), DONE);
	assert_int_equal(cpu->cs.gpr[RSP], STACK_AT + 4);
}

static void mov_to_cs_is_undefined(void **state)
{
	reset_protected();
	assert_int_equal(RUN(0x8e, 0xc8), FAULT);
	assert_int_equal(cpu->cs.exception.vector, X86_TRAP_UD);
}

static void real_mode_load_shifts_and_keeps_the_limit(void **state)
{
	reset_real();
	cpu->cs.seg[SREG_DS].limit = 0xffffffff; /* "unreal" */
	cpu->cs.gpr[RAX] = 0x1234;
	assert_int_equal(RUN(0x8e, 0xd8), DONE);
	assert_int_equal(cpu->cs.seg[SREG_DS].base, 0x12340);
	assert_int_equal(cpu->cs.seg[SREG_DS].limit, 0xffffffff);
}

static void ltr_marks_the_descriptor_busy_and_refuses_busy_ones(void **state)
{
	reset_long();
	cpu->cs.gpr[RAX] = SEL_TSS;
	poke(GDT_AT + SEL_TSS + 8, 8, 0xffff8000);
	assert_int_equal(RUN(0x0f, 0x00, 0xd8), DONE);
	assert_int_equal(peek(GDT_AT + SEL_TSS + 5, 1), 0x8b);
	assert_true(cpu->cs.tr.base == (0xffff800000000000 | TSS_AT));
	assert_int_equal(RUN(0x0f, 0x00, 0xd8), FAULT);
	assert_fault(X86_TRAP_GP, SEL_TSS);
}

static void lldt_takes_an_ldt_of_the_gdt(void **state)
{
	static const struct {
		unsigned type;
		bool p;
		int fault; /* -1: none */
	} cases[] = { { 2, true, -1 }, { 2, false, X86_TRAP_NP }, { 0x12, true, X86_TRAP_GP },
		      { 9, true, X86_TRAP_GP }, { 0xc, true, X86_TRAP_GP } };

	for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
		reset_protected();
		set_descriptor(SEL_FREE, descriptor(LDT_AT, 0x7f, cases[n].type, 0, cases[n].p, 0));
		cpu->cs.gpr[RAX] = SEL_FREE;
		assert_int_equal(RUN(0x0f, 0x00, 0xd0), cases[n].fault < 0 ? DONE : FAULT);
		if (cases[n].fault >= 0) {
			assert_fault((unsigned)cases[n].fault, SEL_FREE);
			assert_true(cpu->cs.ldtr.ar & VMX_AR_UNUSABLE);
			continue;
		}
		assert_int_equal(cpu->cs.ldtr.base, LDT_AT);
		assert_int_equal(cpu->cs.ldtr.limit, 0x7f);
		assert_int_equal(cpu->cs.ldtr.selector, SEL_FREE);
	}
	cpu->cs.gpr[RAX] = SEL_FREE | 4; /* in the LDT */
	assert_int_equal(RUN(0x0f, 0x00, 0xd0), FAULT);
	assert_fault(X86_TRAP_GP, SEL_FREE | 4);
	cpu->cs.gpr[RAX] = 0;
	assert_int_equal(RUN(0x0f, 0x00, 0xd0), DONE);
	assert_true(cpu->cs.ldtr.ar & VMX_AR_UNUSABLE);
}

/* IA-32e mode: 16 bytes, the upper half's type 0, the base canonical, all of it within the GDT. */
static void system_descriptors_have_16_bytes_in_long_mode(void **state)
{
	static const struct {
		uint64_t high;
		bool ok;
	} cases[] = { { 0x7fff, true }, { 0xffffffff, true }, { 0x8000, false }, { BIT_ULL(40), false },
		      { BIT_ULL(44) | 1, false } };

	for (size_t n = 0; n < ARRAY_SIZE(cases); n++)
		for (unsigned ltr = 0; ltr < 2; ltr++) {
			struct cpu_segment *seg = ltr ? &cpu->cs.tr : &cpu->cs.ldtr;

			reset_long();
			set_descriptor(SEL_FREE, descriptor(0x80001000, 0x7f, ltr ? 9 : 2, 0, true, 0));
			poke(GDT_AT + SEL_FREE + 8, 8, cases[n].high);
			cpu->cs.gpr[RAX] = SEL_FREE;
			assert_int_equal(RUN(0x0f, 0x00, ltr ? 0xd8 : 0xd0), cases[n].ok ? DONE : FAULT);
			if (cases[n].ok)
				assert_int_equal(seg->base, cases[n].high << 32 | 0x80001000);
			else
				assert_fault(X86_TRAP_GP, SEL_FREE);
		}
	reset_long();
	set_descriptor(SEL_LAST, descriptor(0x1000, 0x7f, 2, 0, true, 0));
	cpu->cs.gpr[RAX] = SEL_LAST;
	assert_int_equal(RUN(0x0f, 0x00, 0xd0), FAULT);
	assert_fault(X86_TRAP_GP, SEL_LAST);
}

static void ltr_of_an_absent_tss_is_np(void **state)
{
	reset_protected();
	set_descriptor(SEL_FREE, descriptor(TSS_AT, 0x67, 9, 0, false, 0));
	cpu->cs.gpr[RAX] = SEL_FREE;
	assert_int_equal(RUN(0x0f, 0x00, 0xd8), FAULT);
	assert_fault(X86_TRAP_NP, SEL_FREE);
}

/* Bits 19:16 of LAR's result are undefined: as the bare processor has them. */
static bool silicons_lar_shows_the_limit(void)
{
	uint32_t selector, rights = 0;

	__asm__("mov %%cs, %0\n\tlar %0, %1" : "=&r"(selector), "+r"(rights) : : "cc");
	return rights & 0xf0000;
}

static void lar_and_lsl_see_what_the_level_allows(void **state)
{
	reset_protected();
	cpu->cs.gpr[RCX] = SEL_DATA0;
	assert_int_equal(RUN(0x0f, 0x02, 0xc1), DONE); /* lar eax, ecx */
	assert_true(cpu->cs.cc & CC_ZF);
	assert_int_equal(cpu->cs.gpr[RAX], silicons_lar_shows_the_limit() ? 0xcf9200 : 0xc09200);
	assert_int_equal(RUN(0x0f, 0x03, 0xc1), DONE); /* lsl */
	assert_int_equal(cpu->cs.gpr[RAX], 0xffffffff);
	set_cpl(SEL_CODE3, SEL_DATA3);
	assert_int_equal(RUN(0x0f, 0x03, 0xc1), DONE);
	assert_false(cpu->cs.cc & CC_ZF);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(data_segment_load_checks_type_dpl_cpl_rpl_and_p),
		cmocka_unit_test(ss_load_checks_type_dpl_cpl_rpl_and_p),
		cmocka_unit_test(null_selector_makes_ds_unusable_but_faults_for_ss),
		cmocka_unit_test(null_ss_is_good_in_64_bit_mode_below_level_3),
		cmocka_unit_test(selector_beyond_gdt_limit_faults_with_itself),
		cmocka_unit_test(mov_ss_sets_the_shadow),
		cmocka_unit_test(pop_to_a_bad_segment_leaves_rsp),
		cmocka_unit_test(mov_to_cs_is_undefined),
		cmocka_unit_test(real_mode_load_shifts_and_keeps_the_limit),
		cmocka_unit_test(ltr_marks_the_descriptor_busy_and_refuses_busy_ones),
		cmocka_unit_test(lldt_takes_an_ldt_of_the_gdt),
		cmocka_unit_test(system_descriptors_have_16_bytes_in_long_mode),
		cmocka_unit_test(ltr_of_an_absent_tss_is_np),
		cmocka_unit_test(lar_and_lsl_see_what_the_level_allows),
	};

	return cmocka_run_group_tests(tests, harness_setup, harness_teardown);
}
