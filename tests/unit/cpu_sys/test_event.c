/* Event delivery: frames in each mode, error codes, double faults, intercepts. */
#include "harness.h"

#define SP_AFTER(n) (STACK_AT - (n))

static enum outcome deliver(unsigned vector, unsigned type, bool error, uint32_t code)
{
	struct cpu_event ev = { .vector = (uint8_t)vector, .type = (uint8_t)type,
				.has_error_code = error, .error_code = code };

	return TRY(cpu_deliver_event(cpu, &ev));
}

static enum outcome raise_exception(unsigned vector, bool error, uint32_t code, uint64_t payload)
{
	struct isa_exception ex = { (uint8_t)vector, error, code, payload };

	return TRY(cpu_exception(cpu, &ex));
}

static void real_mode_interrupt_pushes_flags_cs_ip(void **state)
{
	reset_real();
	poke(8 * 4, 4, 0xf0001234);
	cpu_set_rflags(&cpu->cs, X86_FLAGS_IF | X86_FLAGS_TF | X86_FLAGS_CF);
	cpu->cs.seg[SREG_CS] = (struct cpu_segment){ 0x7000, 0xffff, 0x9b, 0x700 };
	cpu->cs.rip = 0x55;
	cpu->activity = GUEST_ACTIVITY_HLT;
	assert_int_equal(deliver(8, INTR_TYPE_EXT_INTR, false, 0), DONE);
	assert_int_equal(cpu->cs.gpr[RSP], 0x7ffa);
	assert_int_equal(peek(0x17ffa, 2), 0x55);
	assert_int_equal(peek(0x17ffc, 2), 0x700);
	assert_int_equal(peek(0x17ffe, 2), 0x303);
	assert_int_equal(cpu->cs.seg[SREG_CS].base, 0xf0000);
	assert_int_equal(cpu->cs.rip, 0x1234);
	assert_int_equal(cpu_rflags(&cpu->cs), 3);
	assert_int_equal(cpu->activity, GUEST_ACTIVITY_ACTIVE);
	assert_false(cpu->event.active);
}

static void real_mode_vector_beyond_the_idt_limit_is_gp(void **state)
{
	reset_real();
	cpu->cs.idtr.limit = 8 * 4 + 2;
	assert_int_equal(deliver(8, INTR_TYPE_EXT_INTR, false, 0), FAULT);
	assert_fault(X86_TRAP_GP, 8 * 8 + 2 + 1);
	assert_int_equal(cpu->cs.gpr[RSP], 0x8000);
	reset_real();
	cpu->cs.idtr.limit = 8 * 4 + 2;
	assert_int_equal(RUN(0xcd, 8), FAULT); /* nothing external */
	assert_fault(X86_TRAP_GP, 8 * 8 + 2);
	cpu->event.active = false;
	cpu->cs.idtr.limit = 8 * 4 + 3;
	assert_int_equal(deliver(8, INTR_TYPE_EXT_INTR, false, 0), DONE);
}

/* SDM "Event Injection": a software interrupt is injected by the rules of INT n. */
static void injected_software_interrupt_in_v86_needs_iopl_3(void **state)
{
	reset_v86(2);
	idt_gate32(0x20, 0xe, 3);
	assert_int_equal(deliver(0x20, INTR_TYPE_SOFT_INTR, false, 0), FAULT);
	assert_fault(X86_TRAP_GP, 0);
	reset_v86(3);
	idt_gate32(0x20, 0xe, 3);
	assert_int_equal(deliver(0x20, INTR_TYPE_SOFT_INTR, false, 0), DONE);
}

static void protected_same_level_pushes_12_bytes_and_error_code(void **state)
{
	reset_protected();
	idt_gate32(13, 0xe, 0);
	cpu_set_rflags(&cpu->cs, X86_FLAGS_IF);
	assert_int_equal(deliver(13, INTR_TYPE_HARD_EXCEPTION, true, 0x1234), DONE);
	assert_int_equal(cpu->cs.gpr[RSP], SP_AFTER(16));
	assert_int_equal(peek(SP_AFTER(16), 4), 0x1234);
	assert_int_equal(peek(SP_AFTER(12), 4), CODE_AT);
	assert_int_equal(peek(SP_AFTER(8), 4), SEL_CODE0);
	assert_int_equal(peek(SP_AFTER(4), 4), X86_FLAGS_RF | X86_FLAGS_IF | 2);
	assert_int_equal(cpu->cs.rip, HANDLER_AT + 13);
	assert_false(cpu->cs.rflags & X86_FLAGS_IF);
}

static void trap_gate_leaves_if(void **state)
{
	reset_protected();
	idt_gate32(0x80, 0xf, 3);
	cpu_set_rflags(&cpu->cs, X86_FLAGS_IF);
	assert_int_equal(RUN(0xcd, 0x80), DONE);
	assert_true(cpu->cs.rflags & X86_FLAGS_IF);
	assert_int_equal(peek(SP_AFTER(12), 4), CODE_AT + 2);
}

static void sixteen_bit_gate_pushes_words(void **state)
{
	reset_protected();
	idt_gate32(0x21, 0x6, 0);
	assert_int_equal(deliver(0x21, INTR_TYPE_EXT_INTR, false, 0), DONE);
	assert_int_equal(cpu->cs.gpr[RSP], SP_AFTER(6));
	assert_int_equal(peek(SP_AFTER(6), 2), CODE_AT);
}

static void level_3_to_0_switches_to_the_tss_stack(void **state)
{
	reset_protected();
	idt_gate32(0x20, 0xe, 0);
	set_cpl(SEL_CODE3, SEL_DATA3);
	assert_int_equal(deliver(0x20, INTR_TYPE_EXT_INTR, false, 0), DONE);
	assert_int_equal(cpu->cs.cpl, 0);
	assert_int_equal(cpu->cs.seg[SREG_SS].selector, SEL_DATA0);
	assert_int_equal(cpu->cs.gpr[RSP], RING0_STACK - 20);
	assert_int_equal(peek(RING0_STACK - 4, 4), SEL_DATA3);
	assert_int_equal(peek(RING0_STACK - 8, 4), STACK_AT);
	assert_int_equal(peek(RING0_STACK - 16, 4), SEL_CODE3);
	assert_int_equal(peek(RING0_STACK - 20, 4), CODE_AT);
}

static void software_interrupt_checks_gate_dpl_and_hardware_does_not(void **state)
{
	reset_protected();
	idt_gate32(0x30, 0xe, 0);
	set_cpl(SEL_CODE3, SEL_DATA3);
	assert_int_equal(RUN(0xcd, 0x30), FAULT);
	assert_fault(X86_TRAP_GP, 0x30 * 8 + 2);
	assert_int_equal(cpu->cs.rip, CODE_AT);
	assert_true(cpu->event.active); /* so that an exit would report it */
	cpu->event.active = false;
	assert_int_equal(deliver(0x30, INTR_TYPE_EXT_INTR, false, 0), DONE);
}

static void absent_gate_is_np_with_ext_for_hardware(void **state)
{
	reset_protected();
	poke(IDT_AT + 0x31 * 8, 8, gate(SEL_CODE0, 0, 0xe, 3, false, 0));
	assert_int_equal(deliver(0x31, INTR_TYPE_EXT_INTR, false, 0), FAULT);
	assert_fault(X86_TRAP_NP, 0x31 * 8 + 3);
	assert_int_equal(RUN(0xcd, 0x31), FAULT);
	assert_fault(X86_TRAP_NP, 0x31 * 8 + 2);
}

static void vector_beyond_idt_limit_is_gp_of_the_vector(void **state)
{
	reset_protected();
	cpu->cs.idtr.limit = 0x20 * 8 + 6;
	idt_gate32(0x20, 0xe, 0);
	assert_int_equal(deliver(0x20, INTR_TYPE_EXT_INTR, false, 0), FAULT);
	assert_fault(X86_TRAP_GP, 0x20 * 8 + 3);
}

static void v86_interrupt_pushes_data_segments_and_nulls_them(void **state)
{
	reset_v86(0);
	idt_gate32(0x20, 0xe, 0);
	assert_int_equal(deliver(0x20, INTR_TYPE_EXT_INTR, false, 0), DONE);
	assert_int_equal(cpu->cs.gpr[RSP], RING0_STACK - 36);
	assert_int_equal(peek(RING0_STACK - 4, 4), 0x600);  /* GS */
	assert_int_equal(peek(RING0_STACK - 8, 4), 0x500);  /* FS */
	assert_int_equal(peek(RING0_STACK - 12, 4), 0x400); /* DS */
	assert_int_equal(peek(RING0_STACK - 16, 4), 0x100); /* ES */
	assert_int_equal(peek(RING0_STACK - 20, 4), 0x300); /* SS */
	assert_int_equal(peek(RING0_STACK - 28, 4) & X86_FLAGS_VM, X86_FLAGS_VM);
	assert_true(cpu->cs.seg[SREG_DS].ar & VMX_AR_UNUSABLE);
	assert_false(cpu->cs.rflags & X86_FLAGS_VM);
	/* and back */
	cpu->cs.rip = CODE_AT;
	assert_int_equal(RUN(0xcf), DONE);
	assert_true(cpu->cs.rflags & X86_FLAGS_VM);
	assert_int_equal(cpu->cs.cpl, 3);
	assert_int_equal(cpu->cs.seg[SREG_GS].base, 0x6000);
	assert_int_equal(cpu->cs.seg[SREG_CS].base, 0x2000);
	assert_int_equal(cpu->cs.rip, 0x100);
	assert_int_equal(cpu->cs.gpr[RSP], 0x800);
}

static void int_n_in_v86_needs_iopl_3(void **state)
{
	reset_v86(2);
	idt_gate32(0x20, 0xe, 3);
	assert_int_equal(RUN(0xcd, 0x20), FAULT);
	assert_fault(X86_TRAP_GP, 0);
	reset_v86(3);
	idt_gate32(0x20, 0xe, 3);
	assert_int_equal(RUN(0xcd, 0x20), DONE);
}

static void long_mode_frame_has_ss_rsp_always_and_is_aligned(void **state)
{
	reset_long();
	idt_gate64(14, 0xe, 0, 0);
	cpu->cs.gpr[RSP] = STACK_AT + 7;
	assert_int_equal(deliver(14, INTR_TYPE_HARD_EXCEPTION, true, 2), DONE);
	assert_int_equal(cpu->cs.gpr[RSP], SP_AFTER(48));
	assert_int_equal(peek(SP_AFTER(48), 8), 2);
	assert_int_equal(peek(SP_AFTER(40), 8), CODE_AT);
	assert_int_equal(peek(SP_AFTER(32), 8), SEL_CODE64);
	assert_int_equal(peek(SP_AFTER(16), 8), STACK_AT + 7);
	assert_int_equal(peek(SP_AFTER(8), 8), SEL_DATA0);
}

static void long_mode_level_change_loads_null_ss(void **state)
{
	reset_long();
	idt_gate64(0x20, 0xe, 0, 0);
	set_cpl(SEL_CODE64_3, SEL_DATA3);
	assert_int_equal(deliver(0x20, INTR_TYPE_EXT_INTR, false, 0), DONE);
	assert_int_equal(cpu->cs.gpr[RSP], RING0_STACK - 40);
	assert_int_equal(cpu->cs.seg[SREG_SS].selector, 0);
	assert_true(cpu->cs.seg[SREG_SS].ar & VMX_AR_UNUSABLE);
	/* and back by IRETQ */
	cpu->cs.rip = 0xa000;
	assert_int_equal(RUN(0x48, 0xcf), DONE);
	assert_int_equal(cpu->cs.cpl, 3);
	assert_int_equal(cpu->cs.seg[SREG_SS].selector, SEL_DATA3);
	assert_int_equal(cpu->cs.gpr[RSP], STACK_AT);
	assert_int_equal(cpu->cs.rip, CODE_AT);
}

static void ist_is_used_without_level_change(void **state)
{
	reset_long();
	idt_gate64(2, 0xe, 0, 1);
	assert_int_equal(deliver(2, INTR_TYPE_NMI_INTR, false, 0), DONE);
	assert_int_equal(cpu->cs.gpr[RSP], (IST1_STACK & ~15) - 40);
	assert_int_equal(cpu->cs.seg[SREG_SS].selector, SEL_DATA0);
	assert_true(cpu->interruptibility & GUEST_INTR_STATE_NMI);
	cpu->cs.rip = 0xa000;
	assert_int_equal(RUN(0x48, 0xcf), DONE);
	assert_false(cpu->interruptibility & GUEST_INTR_STATE_NMI);
}

static void fault_in_delivery_leaves_registers_for_the_restart(void **state)
{
	reset_long();
	idt_gate64(0x20, 0xe, 0, 0);
	cpu->cs.gpr[RSP] = MEM_SIZE + 0x1000;
	assert_int_equal(deliver(0x20, INTR_TYPE_EXT_INTR, false, 0), FAULT);
	assert_int_equal(cpu->cs.exception.vector, X86_TRAP_PF);
	assert_int_equal(cpu->cs.rip, CODE_AT);
	assert_int_equal(cpu->cs.gpr[RSP], MEM_SIZE + 0x1000);
	assert_true(cpu->event.active);
}

/* SDM table 6-5: rows first, columns second; 0 serial, 1 double fault, 2 triple. */
static void double_fault_table(void **state)
{
	static const struct {
		unsigned vector;
		unsigned class; /* 0 benign, 1 contributory, 2 page fault, 3 double fault */
	} ev[] = { { 1, 0 }, { 3, 0 }, { 4, 0 }, { 5, 0 }, { 6, 0 }, { 7, 0 }, { 16, 0 },
		   { 17, 0 }, { 18, 0 }, { 19, 0 }, { 0, 1 }, { 10, 1 }, { 11, 1 }, { 12, 1 },
		   { 13, 1 }, { 14, 2 }, { 8, 3 } };
	static const uint8_t table[4][3] = { { 0, 0, 0 }, { 0, 1, 0 }, { 0, 1, 1 }, { 0, 2, 2 } };

	for (unsigned a = 0; a < ARRAY_SIZE(ev); a++) {
		for (unsigned b = 0; b < ARRAY_SIZE(ev) - 1; b++) {
			unsigned want = table[ev[a].class][ev[b].class];

			reset_long();
			for (unsigned v = 0; v < 20; v++)
				idt_gate64(v, 0xe, 0, 0);
			cpu->event = (struct cpu_event){ .active = true,
				.vector = (uint8_t)ev[a].vector, .type = INTR_TYPE_HARD_EXCEPTION };
			if (want == 2) {
				assert_int_equal(raise_exception(ev[b].vector, false, 0, 0), EXIT);
				assert_int_equal(last_exit.reason, EXIT_REASON_TRIPLE_FAULT);
				assert_false(exit_had_event);
				continue;
			}
			assert_int_equal(raise_exception(ev[b].vector, false, 0, 0), DONE);
			assert_int_equal(cpu->cs.rip, HANDLER_AT + (want ? 8 : ev[b].vector));
			if (want)
				assert_int_equal(peek(SP_AFTER(48), 8), 0); /* error code */
		}
	}
}

static void fault_while_delivering_an_interrupt_is_serial(void **state)
{
	reset_long();
	idt_gate64(13, 0xe, 0, 0);
	cpu->event = (struct cpu_event){ .active = true, .vector = 13, .type = INTR_TYPE_SOFT_INTR };
	assert_int_equal(raise_exception(13, true, 0x6a, 0), DONE);
	assert_int_equal(cpu->cs.rip, HANDLER_AT + 13);
}

static void intercepted_exception_exits_with_interruption_information(void **state)
{
	reset_long();
	cpu->exception_bitmap = 1 << X86_TRAP_GP;
	assert_int_equal(raise_exception(X86_TRAP_GP, true, 0x18, 0), EXIT);
	assert_int_equal(last_exit.reason, EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(last_exit.intr_info, 0x80000b0d);
	assert_int_equal(last_exit.intr_error, 0x18);
	assert_int_equal(last_exit.rip, CODE_AT);
}

static void page_fault_intercept_follows_mask_and_match(void **state)
{
	for (unsigned bit = 0; bit < 2; bit++) {
		for (unsigned code = 0; code < 32; code++) {
			bool want = bit == ((code & 5) == 4);

			reset_long();
			idt_gate64(14, 0xe, 0, 0);
			cpu->exception_bitmap = bit << 14;
			cpu->pf_mask = 5;
			cpu->pf_match = 4;
			assert_int_equal(raise_exception(14, true, code, 0x5000), want ? EXIT : DONE);
			assert_int_equal(cpu->cs.cr2, want ? 0 : 0x5000);
			if (want)
				assert_int_equal(last_exit.qualification, 0x5000);
		}
	}
}

static void intercepted_fault_in_delivery_keeps_the_event(void **state)
{
	reset_long();
	cpu->exception_bitmap = 1 << 14;
	cpu->event = (struct cpu_event){ .active = true, .vector = 0x20 };
	assert_int_equal(raise_exception(14, true, 0, 0x1000), EXIT);
	assert_true(exit_had_event);
}

static void intercepted_double_fault_drops_the_event(void **state)
{
	reset_long();
	cpu->exception_bitmap = 1 << 8;
	cpu->event = (struct cpu_event){ .active = true, .vector = 13,
					 .type = INTR_TYPE_HARD_EXCEPTION };
	assert_int_equal(raise_exception(13, true, 0, 0), EXIT);
	assert_int_equal(last_exit.intr_info, 0x80000b08);
	assert_false(exit_had_event);
}

static void int3_intercept_reports_a_software_exception(void **state)
{
	reset_long();
	cpu->exception_bitmap = 1 << 3;
	assert_int_equal(RUN(0xcc), EXIT);
	assert_int_equal(last_exit.intr_info, 0x80000603);
	assert_int_equal(last_exit.insn_len, 1);
	assert_int_equal(last_exit.rip, CODE_AT);
	/* INT 3 by CD 03 is no exception */
	idt_gate64(3, 0xe, 0, 0);
	assert_int_equal(RUN(0xcd, 0x03), DONE);
}

static void debug_trap_sets_dr6_and_clears_gd(void **state)
{
	reset_long();
	idt_gate64(1, 0xe, 0, 0);
	cpu->cs.dr7 |= DR7_GD;
	cpu_set_rflags(&cpu->cs, X86_FLAGS_TF);
	assert_int_equal(TRY(cpu_debug_trap(cpu, DR6_BS)), DONE);
	assert_int_equal(cpu->cs.dr6, DR6_ACTIVE_LOW | DR6_BS);
	assert_false(cpu->cs.dr7 & DR7_GD);
	assert_int_equal(peek(SP_AFTER(24), 8), X86_FLAGS_TF | 2); /* a trap: RF clear */
	assert_false(cpu->cs.rflags & X86_FLAGS_TF);
}

static void task_gate_exits_with_reason_9(void **state)
{
	reset_protected();
	poke(IDT_AT + 8 * 8, 8, gate(SEL_TSS, 0, 5, 0, true, 0));
	assert_int_equal(deliver(8, INTR_TYPE_HARD_EXCEPTION, true, 0), EXIT);
	assert_int_equal(last_exit.reason, EXIT_REASON_TASK_SWITCH);
	assert_int_equal(last_exit.qualification, 0xc0000000 | SEL_TSS);
	assert_true(exit_had_event);
}

static void software_interrupt_with_tf_takes_no_single_step_trap(void **state)
{
	reset_long();
	idt_gate64(0x40, 0xe, 0, 0);
	cpu_set_rflags(&cpu->cs, X86_FLAGS_TF);
	assert_int_equal(RUN(0xcd, 0x40), UNWOUND);
	assert_int_equal(cpu->cs.rip, HANDLER_AT + 0x40);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(real_mode_interrupt_pushes_flags_cs_ip),
		cmocka_unit_test(real_mode_vector_beyond_the_idt_limit_is_gp),
		cmocka_unit_test(injected_software_interrupt_in_v86_needs_iopl_3),
		cmocka_unit_test(protected_same_level_pushes_12_bytes_and_error_code),
		cmocka_unit_test(trap_gate_leaves_if),
		cmocka_unit_test(sixteen_bit_gate_pushes_words),
		cmocka_unit_test(level_3_to_0_switches_to_the_tss_stack),
		cmocka_unit_test(software_interrupt_checks_gate_dpl_and_hardware_does_not),
		cmocka_unit_test(absent_gate_is_np_with_ext_for_hardware),
		cmocka_unit_test(vector_beyond_idt_limit_is_gp_of_the_vector),
		cmocka_unit_test(v86_interrupt_pushes_data_segments_and_nulls_them),
		cmocka_unit_test(int_n_in_v86_needs_iopl_3),
		cmocka_unit_test(long_mode_frame_has_ss_rsp_always_and_is_aligned),
		cmocka_unit_test(long_mode_level_change_loads_null_ss),
		cmocka_unit_test(ist_is_used_without_level_change),
		cmocka_unit_test(fault_in_delivery_leaves_registers_for_the_restart),
		cmocka_unit_test(double_fault_table),
		cmocka_unit_test(fault_while_delivering_an_interrupt_is_serial),
		cmocka_unit_test(intercepted_exception_exits_with_interruption_information),
		cmocka_unit_test(page_fault_intercept_follows_mask_and_match),
		cmocka_unit_test(intercepted_fault_in_delivery_keeps_the_event),
		cmocka_unit_test(intercepted_double_fault_drops_the_event),
		cmocka_unit_test(int3_intercept_reports_a_software_exception),
		cmocka_unit_test(debug_trap_sets_dr6_and_clears_gd),
		cmocka_unit_test(task_gate_exits_with_reason_9),
		cmocka_unit_test(software_interrupt_with_tf_takes_no_single_step_trap),
	};

	return cmocka_run_group_tests(tests, harness_setup, harness_teardown);
}
