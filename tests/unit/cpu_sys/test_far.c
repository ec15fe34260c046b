/* Far JMP, CALL, RET, IRET: privilege rules, call gates, mode changes. */
#include "harness.h"

static enum outcome far_jmp(uint16_t selector, uint32_t offset)
{
	return RUN(0xea, (uint8_t)offset, (uint8_t)(offset >> 8), (uint8_t)(offset >> 16),
		   (uint8_t)(offset >> 24), (uint8_t)selector, (uint8_t)(selector >> 8));
}

static enum outcome far_call(uint16_t selector, uint32_t offset)
{
	return RUN(0x9a, (uint8_t)offset, (uint8_t)(offset >> 8), (uint8_t)(offset >> 16),
		   (uint8_t)(offset >> 24), (uint8_t)selector, (uint8_t)(selector >> 8));
}

static void real_mode_jump_loads_base(void **state)
{
	reset_real();
	assert_int_equal(RUN(0xea, 0x5b, 0xe0, 0x00, 0xf0), DONE);
	assert_int_equal(cpu->cs.seg[SREG_CS].base, 0xf0000);
	assert_int_equal(cpu->cs.rip, 0xe05b);
}

static void real_mode_jump_with_32_bit_offset_beyond_limit_faults(void **state)
{
	reset_real();
	assert_int_equal(RUN(0x66, 0xea, 0x00, 0x00, 0x01, 0x00, 0x00, 0xf0), FAULT);
	assert_fault(X86_TRAP_GP, 0);
}

static void real_mode_call_and_return(void **state)
{
	reset_real();
	cpu->cs.rip = 0x100;
	assert_int_equal(RUN(0x9a, 0x10, 0x00, 0x00, 0x20), DONE);
	assert_int_equal(cpu->cs.gpr[RSP], 0x7ffc);
	assert_int_equal(peek(0x17ffc, 2), 0x105);
	assert_int_equal(RUN(0xca, 0x04, 0x00), DONE); /* retf 4 */
	assert_int_equal(cpu->cs.rip, 0x105);
	assert_int_equal(cpu->cs.gpr[RSP], 0x8004);
	assert_int_equal(cpu->cs.seg[SREG_CS].selector, 0);
}

/* Entering protected mode: PE is set, CS still 16-bit, the jump makes it 32-bit. */
static void jump_after_setting_pe_switches_to_32_bit_code(void **state)
{
	reset_real();
	set_tables();
	cpu->cs.cr0 |= X86_CR0_PE;
	assert_int_equal(RUN(0x66, 0xea, 0x00, 0x00, 0x01, 0x00, 0x08, 0x00), DONE);
	assert_int_equal(cpu->cs.code_mode, ISA_CODE32);
	assert_int_equal(cpu->cs.rip, 0x10000);
}

static int expected_direct(unsigned type, unsigned dpl, unsigned cpl, unsigned rpl, bool p)
{
	if ((type & 0x18) != 0x18)
		return X86_TRAP_GP;
	if (type & 4 ? dpl > cpl : dpl != cpl || rpl > cpl)
		return X86_TRAP_GP;
	return p ? -1 : X86_TRAP_NP;
}

static void direct_jump_checks_type_dpl_cpl_rpl_and_p(void **state)
{
	for (unsigned bits = 0; bits < 1 << 11; bits++) {
		unsigned type = 16 | (bits & 15), dpl = bits >> 4 & 3, cpl = bits >> 6 & 3;
		unsigned rpl = bits >> 8 & 3;
		bool p = bits >> 10;
		int want = expected_direct(type, dpl, cpl, rpl, p);

		reset_protected();
		cpu->cs.cpl = (uint8_t)cpl;
		set_descriptor(SEL_FREE, descriptor(0, 0xffff, type, dpl, p, 0xc));
		assert_int_equal(far_jmp((uint16_t)(SEL_FREE | rpl), 0x1234), want < 0 ? DONE : FAULT);
		if (want >= 0) {
			assert_fault((unsigned)want, SEL_FREE);
			assert_int_equal(cpu->cs.seg[SREG_CS].selector, SEL_CODE0);
		} else {
			assert_int_equal(cpu->cs.seg[SREG_CS].selector, SEL_FREE | cpl);
			assert_int_equal(cpu->cs.rip, 0x1234);
		}
	}
}

static void jump_beyond_the_limit_faults_with_0(void **state)
{
	reset_protected();
	set_descriptor(SEL_FREE, descriptor(0, 0xfff, 0x1a, 0, true, 0x4));
	assert_int_equal(far_jmp(SEL_FREE, 0x1000), FAULT);
	assert_fault(X86_TRAP_GP, 0);
	assert_int_equal(far_jmp(SEL_FREE, 0xfff), DONE);
}

static void call_through_gate_copies_parameters_and_returns(void **state)
{
	reset_protected();
	set_descriptor(SEL_FREE, gate(SEL_CODE0, 0x9100, SYS_CALL_GATE32, 3, true, 2));
	set_cpl(SEL_CODE3, SEL_DATA3);
	poke(STACK_AT, 4, 0x11111111);
	poke(STACK_AT + 4, 4, 0x22222222);
	assert_int_equal(far_call(SEL_FREE | 3, 0), DONE);
	assert_int_equal(cpu->cs.cpl, 0);
	assert_int_equal(cpu->cs.rip, 0x9100);
	assert_int_equal(cpu->cs.gpr[RSP], RING0_STACK - 24);
	assert_int_equal(peek(RING0_STACK - 4, 4), SEL_DATA3);
	assert_int_equal(peek(RING0_STACK - 8, 4), STACK_AT);
	assert_int_equal(peek(RING0_STACK - 12, 4), 0x22222222);
	assert_int_equal(peek(RING0_STACK - 16, 4), 0x11111111);
	assert_int_equal(peek(RING0_STACK - 20, 4), SEL_CODE3);
	assert_int_equal(peek(RING0_STACK - 24, 4), CODE_AT + 7);
	load_descriptor(&cpu->cs.seg[SREG_DS], SEL_DATA0);
	assert_int_equal(RUN(0xca, 8, 0), DONE); /* retf 8 */
	assert_int_equal(cpu->cs.cpl, 3);
	assert_int_equal(cpu->cs.gpr[RSP], STACK_AT + 8);
	assert_int_equal(cpu->cs.rip, CODE_AT + 7);
	assert_true(cpu->cs.seg[SREG_DS].ar & VMX_AR_UNUSABLE);
	assert_int_equal(cpu->cs.seg[SREG_ES].selector, SEL_DATA3);
}

static void call_gate_dpl_is_checked_against_cpl_and_rpl(void **state)
{
	for (unsigned dpl = 0; dpl < 4; dpl++) {
		reset_protected();
		set_descriptor(SEL_FREE, gate(SEL_CODE0, 0x9100, SYS_CALL_GATE32, dpl, true, 0));
		assert_int_equal(far_call(SEL_FREE | 2, 0), dpl >= 2 ? DONE : FAULT);
		if (dpl < 2)
			assert_fault(X86_TRAP_GP, SEL_FREE);
	}
}

static void jump_through_gate_cannot_go_inward(void **state)
{
	reset_protected();
	set_descriptor(SEL_FREE, gate(SEL_CODE0, 0x9100, SYS_CALL_GATE32, 3, true, 0));
	set_cpl(SEL_CODE3, SEL_DATA3);
	assert_int_equal(far_jmp(SEL_FREE | 3, 0), FAULT);
	assert_fault(X86_TRAP_GP, SEL_CODE0);
}

static void bad_stack_in_tss_is_ts_with_its_selector(void **state)
{
	reset_protected();
	set_descriptor(SEL_FREE, gate(SEL_CODE0, 0x9100, SYS_CALL_GATE32, 3, true, 0));
	set_cpl(SEL_CODE3, SEL_DATA3);
	poke(TSS_AT + 8, 4, SEL_DATA3);
	assert_int_equal(far_call(SEL_FREE | 3, 0), FAULT);
	assert_fault(X86_TRAP_TS, SEL_DATA3 & ~3);
	cpu->cs.tr.limit = 8;
	assert_int_equal(far_call(SEL_FREE | 3, 0), FAULT);
	assert_fault(X86_TRAP_TS, SEL_TSS);
	assert_int_equal(cpu->cs.cpl, 3);
}

static void jump_to_tss_exits_after_its_checks(void **state)
{
	reset_protected();
	assert_int_equal(far_jmp(SEL_TSS, 0), EXIT);
	assert_int_equal(last_exit.reason, EXIT_REASON_TASK_SWITCH);
	assert_int_equal(last_exit.qualification, 0x80000000 | SEL_TSS);
	assert_int_equal(last_exit.insn_len, 7);
	set_descriptor(SEL_TSS, descriptor(TSS_AT, 0x2fff, SYS_TSS32_BUSY, 0, true, 0));
	assert_int_equal(far_jmp(SEL_TSS, 0), FAULT);
	assert_fault(X86_TRAP_GP, SEL_TSS);
	set_descriptor(SEL_TSS, descriptor(TSS_AT, 0x66, SYS_TSS32, 0, true, 0));
	assert_int_equal(far_jmp(SEL_TSS, 0), FAULT);
	assert_fault(X86_TRAP_TS, SEL_TSS);
}

static void iret_with_nt_exits_to_the_linked_task(void **state)
{
	reset_protected();
	set_descriptor(SEL_FREE, descriptor(TSS_AT, 0x2fff, SYS_TSS32_BUSY, 0, true, 0));
	poke(TSS_AT, 2, SEL_FREE);
	cpu->cs.rflags |= X86_FLAGS_NT;
	assert_int_equal(RUN(0xcf), EXIT);
	assert_int_equal(last_exit.qualification, 0x40000000 | SEL_FREE);
	reset_long();
	cpu->cs.rflags |= X86_FLAGS_NT;
	assert_int_equal(RUN(0x48, 0xcf), FAULT);
	assert_fault(X86_TRAP_GP, 0);
}

static void iret_frame(unsigned size, uint64_t rip, uint16_t cs, uint64_t flags, uint64_t rsp,
		       uint16_t ss)
{
	poke(STACK_AT, size, rip);
	poke(STACK_AT + size, size, cs);
	poke(STACK_AT + 2 * size, size, flags);
	poke(STACK_AT + 3 * size, size, rsp);
	poke(STACK_AT + 4 * size, size, ss);
}

static void iret_to_level_3_restores_stack_and_flags(void **state)
{
	reset_protected();
	iret_frame(4, 0x1111, SEL_CODE3, X86_FLAGS_IF | X86_FLAGS_CF | 0x3000, 0x5000, SEL_DATA3);
	assert_int_equal(RUN(0xcf), DONE);
	assert_int_equal(cpu->cs.cpl, 3);
	assert_int_equal(cpu->cs.gpr[RSP], 0x5000);
	assert_int_equal(cpu_rflags(&cpu->cs), X86_FLAGS_IF | 0x3000 | 3);
}

static void iret_at_level_3_keeps_iopl_and_if(void **state)
{
	reset_protected();
	set_cpl(SEL_CODE3, SEL_DATA3);
	cpu_set_rflags(&cpu->cs, X86_FLAGS_IF);
	iret_frame(4, 0x1111, SEL_CODE3, 0x3000 | X86_FLAGS_CF, 0, 0);
	assert_int_equal(RUN(0xcf), DONE);
	assert_int_equal(cpu_rflags(&cpu->cs), X86_FLAGS_IF | 3);
	assert_int_equal(cpu->cs.gpr[RSP], STACK_AT + 12);
}

static void iret_inward_faults(void **state)
{
	reset_protected();
	set_cpl(SEL_CODE3, SEL_DATA3);
	iret_frame(4, 0x1111, SEL_CODE0, 0, 0, 0);
	assert_int_equal(RUN(0xcf), FAULT);
	assert_fault(X86_TRAP_GP, SEL_CODE0);
}

static void iretq_to_compatibility_mode(void **state)
{
	reset_long();
	iret_frame(8, 0x1111, SEL_CODE3, X86_FLAGS_IF, 0x5000, SEL_DATA3);
	assert_int_equal(RUN(0x48, 0xcf), DONE);
	assert_int_equal(cpu->cs.code_mode, ISA_CODE32);
	assert_int_equal(cpu->cs.cpl, 3);
}

static void iretq_to_noncanonical_rip_faults_before_anything(void **state)
{
	reset_long();
	iret_frame(8, 1ULL << 47, SEL_CODE64_3, X86_FLAGS_IF, 0x5000, SEL_DATA3);
	assert_int_equal(RUN(0x48, 0xcf), FAULT);
	assert_fault(X86_TRAP_GP, 0);
	assert_int_equal(cpu->cs.cpl, 0);
	assert_int_equal(cpu->cs.gpr[RSP], STACK_AT);
}

static void compatibility_code_jumps_to_64_bit_code(void **state)
{
	reset_long();
	set_cpl(SEL_CODE0, SEL_DATA0);
	assert_int_equal(far_jmp(SEL_CODE64, 0x9000), DONE);
	assert_int_equal(cpu->cs.code_mode, ISA_CODE64);
	set_descriptor(SEL_FREE, descriptor(0, 0xfffff, 0x1a, 0, true, 0xe)); /* L and D */
	set_cpl(SEL_CODE0, SEL_DATA0);
	assert_int_equal(far_jmp(SEL_FREE, 0x9000), FAULT);
	assert_fault(X86_TRAP_GP, SEL_FREE);
}

static void retfq_works_within_64_bit_mode(void **state)
{
	reset_long();
	iret_frame(8, 0x9000, SEL_CODE64, 0, 0, 0);
	assert_int_equal(RUN(0x48, 0xcb), DONE);
	assert_int_equal(cpu->cs.rip, 0x9000);
	assert_int_equal(cpu->cs.gpr[RSP], STACK_AT + 16);
}

static void call_gate_in_long_mode_switches_stack_with_null_ss(void **state)
{
	reset_long();
	set_descriptor(SEL_FREE, gate(SEL_CODE64, 0x9100, SYS_CALL_GATE32, 3, true, 0));
	set_descriptor(SEL_FREE + 8, 0);
	set_cpl(SEL_CODE64_3, SEL_DATA3);
	poke(0x5000, 4, 0);
	poke(0x5004, 2, SEL_FREE | 3);
	assert_int_equal(RUN(0xff, 0x1c, 0x25, 0x00, 0x50, 0x00, 0x00), DONE); /* call [0x5000] */
	assert_int_equal(cpu->cs.cpl, 0);
	assert_int_equal(cpu->cs.gpr[RSP], RING0_STACK - 32);
	assert_int_equal(cpu->cs.seg[SREG_SS].selector, 0);
	assert_int_equal(peek(RING0_STACK - 8, 8), SEL_DATA3);
	assert_int_equal(peek(RING0_STACK - 32, 8), CODE_AT + 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(real_mode_jump_loads_base),
		cmocka_unit_test(real_mode_jump_with_32_bit_offset_beyond_limit_faults),
		cmocka_unit_test(real_mode_call_and_return),
		cmocka_unit_test(jump_after_setting_pe_switches_to_32_bit_code),
		cmocka_unit_test(direct_jump_checks_type_dpl_cpl_rpl_and_p),
		cmocka_unit_test(jump_beyond_the_limit_faults_with_0),
		cmocka_unit_test(call_through_gate_copies_parameters_and_returns),
		cmocka_unit_test(call_gate_dpl_is_checked_against_cpl_and_rpl),
		cmocka_unit_test(jump_through_gate_cannot_go_inward),
		cmocka_unit_test(bad_stack_in_tss_is_ts_with_its_selector),
		cmocka_unit_test(jump_to_tss_exits_after_its_checks),
		cmocka_unit_test(iret_with_nt_exits_to_the_linked_task),
		cmocka_unit_test(iret_to_level_3_restores_stack_and_flags),
		cmocka_unit_test(iret_at_level_3_keeps_iopl_and_if),
		cmocka_unit_test(iret_inward_faults),
		cmocka_unit_test(iretq_to_compatibility_mode),
		cmocka_unit_test(iretq_to_noncanonical_rip_faults_before_anything),
		cmocka_unit_test(compatibility_code_jumps_to_64_bit_code),
		cmocka_unit_test(retfq_works_within_64_bit_mode),
		cmocka_unit_test(call_gate_in_long_mode_switches_stack_with_null_ss),
	};

	return cmocka_run_group_tests(tests, harness_setup, harness_teardown);
}
