/*
 * What system instructions refuse, and the rare forms of what they accept: tables that do not
 * hold, tasks that are none, 16-bit TSSs, modes an instruction is not for, another vendor.
 * Vol. 2, each instruction's exceptions; Vol. 3, "Task Management", "Limit Checking".
 */
#define VENDOR_ECX 0x444d4163 /* "cAMD" */
#include "harness.h"

static enum outcome far(uint8_t opcode, uint16_t selector)
{
	return RUN(opcode, 0, 0x91, 0, 0, (uint8_t)selector, (uint8_t)(selector >> 8));
}
#define CALL 0x9a
#define JMP 0xea

static void assert_undefined(enum outcome got)
{
	assert_int_equal(got, FAULT);
	assert_int_equal(cpu->cs.exception.vector, X86_TRAP_UD);
	assert_false(cpu->cs.exception.has_error_code);
}

static void tss_below_the_level_of_code_is_gp(void **state)
{
	reset_protected();
	set_cpl(SEL_CODE3, SEL_DATA3);
	assert_int_equal(far(JMP, SEL_TSS), FAULT);
	assert_fault(X86_TRAP_GP, SEL_TSS);
	set_descriptor(SEL_TSS, descriptor(TSS_AT, 0x2fff, SYS_TSS32, 3, true, 0));
	assert_int_equal(far(CALL, SEL_TSS | 3), EXIT);
	assert_int_equal(last_exit.reason, EXIT_REASON_TASK_SWITCH);
	set_cpl(SEL_CODE0, SEL_DATA0);
	set_descriptor(SEL_TSS, descriptor(TSS_AT, 0x2fff, SYS_TSS32, 1, true, 0));
	assert_int_equal(far(CALL, SEL_TSS | 2), FAULT); /* the selector's own level counts too */
	assert_fault(X86_TRAP_GP, SEL_TSS);
}

static void task_that_is_none_faults(void **state)
{
	static const struct {
		const char *what;
		uint16_t selector;
		unsigned type, limit, vector;
		bool p;
	} c[] = {
		{ "null", 0, SYS_TSS32, 0x67, X86_TRAP_GP, true },
		{ "in the LDT", SEL_FREE | 4, SYS_TSS32, 0x67, X86_TRAP_GP, true },
		{ "beyond the GDT", 0x100, SYS_TSS32, 0x67, X86_TRAP_GP, true },
		{ "code", SEL_FREE, 0x1a, 0x67, X86_TRAP_GP, true },
		{ "busy", SEL_FREE, SYS_TSS32_BUSY, 0x67, X86_TRAP_GP, true },
		{ "absent", SEL_FREE, SYS_TSS32, 0x67, X86_TRAP_NP, false },
		{ "short", SEL_FREE, SYS_TSS32, 0x66, X86_TRAP_TS, true },
		{ "16 bits, short", SEL_FREE, SYS_TSS16, 0x2a, X86_TRAP_TS, true },
	};

	for (size_t n = 0; n < ARRAY_SIZE(c); n++) {
		print_message("task gate to a TSS that is: %s\n", c[n].what);
		reset_protected();
		cpu->cs.ldtr = (struct cpu_segment){ GDT_AT, SEL_LAST + 7, 0x82, 0 };
		set_descriptor(SEL_FREE, descriptor(TSS_AT, c[n].limit, c[n].type, 0, c[n].p, 0));
		set_descriptor(SEL_LAST, gate(c[n].selector, 0, 5, 0, true, 0));
		assert_int_equal(far(CALL, SEL_LAST), FAULT);
		assert_fault(c[n].vector, c[n].selector);
	}
	reset_protected();
	set_descriptor(SEL_FREE, descriptor(TSS_AT, 0x2b, SYS_TSS16, 0, true, 0));
	set_descriptor(SEL_LAST, gate(SEL_FREE, 0, 5, 0, true, 0));
	assert_int_equal(far(JMP, SEL_LAST), EXIT);
	assert_int_equal(last_exit.qualification, (uint64_t)TASK_SWITCH_JMP << 30 | SEL_FREE);
	set_descriptor(SEL_LAST, gate(SEL_FREE, 0, 5, 0, false, 0));
	assert_int_equal(far(JMP, SEL_LAST), FAULT);
	assert_fault(X86_TRAP_NP, SEL_LAST);
}

static void gate_to_code_that_is_absent_is_np_with_the_codes_selector(void **state)
{
	reset_protected();
	set_descriptor(SEL_FREE, gate(SEL_CODE1, 0x9100, SYS_CALL_GATE32, 3, true, 0));
	set_descriptor(SEL_CODE1, descriptor(0, 0xfffff, 0x1a, 0, false, 0xc));
	for (unsigned jmp = 0; jmp < 2; jmp++) {
		assert_int_equal(far(jmp ? JMP : CALL, SEL_FREE), FAULT);
		assert_fault(X86_TRAP_NP, SEL_CODE1 & ~3);
		assert_int_equal(cpu->cs.gpr[RSP], STACK_AT);
	}
}

/* Vol. 3, "16-Bit Task-State Segment (TSS)": SP0 and SS0 are words at 2 and 4. */
static void inner_stack_of_a_16_bit_tss(void **state)
{
	reset_protected();
	set_descriptor(SEL_FREE, gate(SEL_CODE0, 0x9100, SYS_CALL_GATE32, 3, true, 0));
	set_cpl(SEL_CODE3, SEL_DATA3);
	cpu->cs.tr = (struct cpu_segment){ TSS_AT, 0x2b, 0x83, SEL_TSS };
	poke(TSS_AT + 2, 2, 0x7ff0);
	poke(TSS_AT + 4, 2, SEL_DATA0);
	poke(TSS_AT + 6, 2, 0xffff);
	assert_int_equal(far(CALL, SEL_FREE | 3), DONE);
	assert_int_equal(cpu->cs.cpl, 0);
	assert_int_equal(cpu->cs.seg[SREG_SS].selector, SEL_DATA0);
	assert_int_equal(cpu->cs.gpr[RSP], 0x7ff0 - 16);
	assert_int_equal(peek(0x7ff0 - 8, 4), STACK_AT);
}

static void inner_stack_that_is_null_or_absent(void **state)
{
	reset_protected();
	set_descriptor(SEL_FREE, gate(SEL_CODE0, 0x9100, SYS_CALL_GATE32, 3, true, 0));
	set_cpl(SEL_CODE3, SEL_DATA3);
	poke(TSS_AT + 8, 4, 0);
	assert_int_equal(far(CALL, SEL_FREE | 3), FAULT);
	assert_fault(X86_TRAP_TS, 0);
	poke(TSS_AT + 8, 4, SEL_LAST);
	set_descriptor(SEL_LAST, descriptor(0, 0xfffff, 0x12, 0, false, 0xc));
	assert_int_equal(far(CALL, SEL_FREE | 3), FAULT);
	assert_fault(X86_TRAP_SS, SEL_LAST);
}

/* Pushes of a gate, on a stack that grows down to its limit. */
static void inner_stack_that_expands_down(void **state)
{
	for (unsigned fits = 0; fits < 2; fits++) {
		reset_protected();
		set_descriptor(SEL_FREE, gate(SEL_CODE0, 0x9100, SYS_CALL_GATE32, 3, true, 0));
		set_descriptor(SEL_LAST, descriptor(0, RING0_STACK - 16 - fits, 0x16, 0, true, 0x4));
		set_cpl(SEL_CODE3, SEL_DATA3);
		poke(TSS_AT + 8, 4, SEL_LAST);
		assert_int_equal(far(CALL, SEL_FREE | 3), fits ? DONE : FAULT);
		if (!fits)
			assert_fault(X86_TRAP_SS, SEL_LAST);
	}
}

/* A null selector leaves protected mode with a segment that cannot be used; a load mends it. */
static void real_mode_load_makes_a_null_segment_usable_again(void **state)
{
	reset_real();
	isa_segment_null(&cpu->cs.seg[SREG_ES], 0, 0);
	cpu->cs.seg[SREG_ES].limit = 0xf;
	cpu->cs.gpr[RAX] = 0x1234;
	assert_int_equal(RUN(0x8e, 0xc0), DONE); /* mov es,ax */
	assert_int_equal(cpu->cs.seg[SREG_ES].base, 0x12340);
	assert_int_equal(cpu->cs.seg[SREG_ES].limit, 0xffff);
	assert_int_equal(cpu->cs.seg[SREG_ES].ar, 0x93);
	cpu->cs.seg[SREG_ES].limit = 0xffffffff; /* but "unreal" limits stay */
	assert_int_equal(RUN(0x8e, 0xc0), DONE);
	assert_int_equal(cpu->cs.seg[SREG_ES].limit, 0xffffffff);
}

static void ports_need_a_32_bit_tss(void **state)
{
	static const struct cpu_segment none[] = {
		{ TSS_AT, 0x2fff, 0x83, SEL_TSS },			   /* 16 bits */
		{ TSS_AT, 0x2fff, 0x8b | (uint32_t)VMX_AR_UNUSABLE, SEL_TSS }, /* none */
		{ TSS_AT, 0x66, 0x8b, SEL_TSS },			   /* without the map's address */
	};

	for (size_t n = 0; n < ARRAY_SIZE(none); n++) {
		reset_protected();
		set_cpl(SEL_CODE3, SEL_DATA3);
		poke(TSS_AT + 0x66, 2, 0x80);
		assert_int_equal(RUN(0xe4, 0x60), DONE);
		cpu->cs.tr = none[n];
		assert_int_equal(RUN(0xe4, 0x60), FAULT);
		assert_fault(X86_TRAP_GP, 0);
	}
}

static void paging_with_lme_refuses_a_16_bit_tss_and_64_bit_code(void **state)
{
	reset_protected();
	cpu->cs.efer = EFER_LME;
	cpu->cs.cr4 = X86_CR4_PAE;
	cpu->cs.gpr[RAX] = cpu->cs.cr0 | X86_CR0_PG;
	cpu->cs.tr.ar = 0x83;
	assert_int_equal(RUN(0x0f, 0x22, 0xc0), FAULT);
	assert_fault(X86_TRAP_GP, 0);
	cpu->cs.tr.ar = 0x8b;
	cpu->cs.seg[SREG_CS].ar |= VMX_AR_L;
	assert_int_equal(RUN(0x0f, 0x22, 0xc0), FAULT);
	assert_fault(X86_TRAP_GP, 0);
	assert_false(cpu->cs.cr0 & X86_CR0_PG);
	cpu->cs.seg[SREG_CS].ar &= ~(uint32_t)VMX_AR_L;
	assert_int_equal(RUN(0x0f, 0x22, 0xc0), DONE);
}

static void lgdt_and_lidt_want_canonical_bases(void **state)
{
	for (uint8_t reg = 2; reg < 4; reg++) {
		struct cpu_dtable before;

		reset_long();
		before = reg == 2 ? cpu->cs.gdtr : cpu->cs.idtr;
		cpu->cs.gpr[RAX] = 0x5000;
		poke(0x5000, 2, 0x1234);
		poke(0x5002, 8, BIT_ULL(47));
		assert_int_equal(RUN(0x0f, 0x01, (uint8_t)(reg << 3)), FAULT);
		assert_fault(X86_TRAP_GP, 0);
		assert_memory_equal(reg == 2 ? &cpu->cs.gdtr : &cpu->cs.idtr, &before, sizeof(before));
	}
}

static void rdpmc_above_level_0_needs_pce(void **state)
{
	reset_long();
	cpu->primary = (uint32_t)CPU_BASED_RDPMC_EXITING;
	set_cpl(SEL_CODE64_3, SEL_DATA3);
	assert_int_equal(RUN(0x0f, 0x33), FAULT); /* before the exit */
	assert_fault(X86_TRAP_GP, 0);
	cpu->cs.cr4 |= X86_CR4_PCE;
	assert_int_equal(RUN(0x0f, 0x33), EXIT);
	assert_int_equal(last_exit.reason, EXIT_REASON_RDPMC);
	cpu->primary = 0;
	assert_int_equal(RUN(0x0f, 0x33), FAULT); /* there is no counter */
	assert_fault(X86_TRAP_GP, 0);
}

static void monitor_and_mwait_are_undefined_unless_they_exit(void **state)
{
	reset_long();
	assert_undefined(RUN(0x0f, 0x01, 0xc8));
	assert_undefined(RUN(0x0f, 0x01, 0xc9));
	cpu->primary = (uint32_t)(CPU_BASED_MONITOR_EXITING | CPU_BASED_MWAIT_EXITING);
	assert_int_equal(RUN(0x0f, 0x01, 0xc8), EXIT);
	assert_int_equal(last_exit.reason, EXIT_REASON_MONITOR_INSTRUCTION);
	assert_int_equal(RUN(0x0f, 0x01, 0xc9), EXIT);
	assert_int_equal(last_exit.reason, EXIT_REASON_MWAIT_INSTRUCTION);
	set_cpl(SEL_CODE64_3, SEL_DATA3);
	assert_undefined(RUN(0x0f, 0x01, 0xc8));
	assert_undefined(RUN(0x0f, 0x01, 0xc9));
}

/* The hint touches nothing, not even what cannot be reached. */
static void cldemote_never_faults(void **state)
{
	reset_long();
	cpu->cs.gpr[RAX] = 0x7fff00000000;
	assert_int_equal(RUN(0x0f, 0x1c, 0x00), DONE);
}

static void instructions_of_64_bit_mode_are_undefined_elsewhere_and_the_reverse(void **state)
{
	reset_long();
	assert_undefined(RUN(0xce));			    /* into */
	assert_undefined(RUN(0x9a, 0, 0, 0, 0, 0, 0));	    /* call ptr16:32 */
	assert_undefined(RUN(0xc4, 0x00));		    /* les: an incomplete VEX */
	reset_protected();
	cpu->cs.cr4 |= X86_CR4_FSGSBASE;
	assert_undefined(RUN(0x0f, 0x01, 0xf8));	    /* swapgs */
	assert_undefined(RUN(0xf3, 0x0f, 0xae, 0xc0));	    /* rdfsbase */
}

/* What needs a memory operand has none in its register form. */
static void vmx_instructions_on_registers_are_undefined(void **state)
{
	reset_long();
	assert_undefined(RUN(0x66, 0x0f, 0x38, 0x80, 0xc0)); /* invept */
	assert_undefined(RUN(0x66, 0x0f, 0x38, 0x81, 0xc0)); /* invvpid */
	assert_undefined(RUN(0x66, 0x0f, 0x38, 0x82, 0xc0)); /* invpcid */
}

static void invlpg_takes_the_bases_of_fs_and_gs_only(void **state)
{
	reset_long();
	cpu->cs.seg[SREG_FS].base = 0x10000000;
	cpu->cs.seg[SREG_ES].base = 0x20000000;
	cpu->cs.gpr[RAX] = 0x1000;
	assert_int_equal(RUN(0x64, 0x0f, 0x01, 0x38), DONE);
	assert_int_equal(flushed_address, 0x10001000);
	assert_int_equal(RUN(0x26, 0x0f, 0x01, 0x38), DONE);
	assert_int_equal(flushed_address, 0x1000);
}

/* SDM "Exit Qualification": the displacement; relative to RIP it is the address itself. */
static void exit_of_a_rip_relative_operand_has_its_address(void **state)
{
	reset_long();
	cpu->primary = (uint32_t)CPU_BASED_INVLPG_EXITING;
	assert_int_equal(RUN(0x66, 0x0f, 0x38, 0x82, 0x0d, 0, 1, 0, 0), EXIT); /* invpcid rcx,[rip+0x100] */
	assert_int_equal(last_exit.reason, EXIT_REASON_INVPCID);
	assert_int_equal(last_exit.qualification, CODE_AT + 9 + 0x100);
}

/* APM Vol. 3: in legacy mode EIP comes from STAR[31:0], RFLAGS loses IF and VM and R11 stays. */
static void syscall_in_legacy_mode_is_amds(void **state)
{
	reset_protected();
	cpu->cs.efer = EFER_SCE;
	cpu->msr.star = (uint64_t)0x1b << 48 | (uint64_t)SEL_CODE0 << 32 | 0x9abc;
	set_cpl(SEL_CODE3, SEL_DATA3);
	cpu_set_rflags(&cpu->cs, X86_FLAGS_IF | X86_FLAGS_CF);
	cpu->cs.gpr[R11] = 0x1111;
	assert_int_equal(RUN(0x0f, 0x05), DONE);
	assert_int_equal(cpu->cs.rip, 0x9abc);
	assert_int_equal(cpu->cs.cpl, 0);
	assert_int_equal(cpu->cs.code_mode, ISA_CODE32);
	assert_int_equal(cpu->cs.gpr[RCX], CODE_AT + 2);
	assert_int_equal(cpu->cs.gpr[R11], 0x1111);
	assert_int_equal(cpu_rflags(&cpu->cs), X86_FLAGS_CF | X86_FLAGS_FIXED);
	assert_int_equal(RUN(0x0f, 0x07), DONE);
	assert_int_equal(cpu->cs.rip, CODE_AT + 2);
	assert_int_equal(cpu->cs.cpl, 3);
	assert_int_equal(cpu->cs.seg[SREG_CS].selector, 0x1b);
	assert_int_equal(cpu->cs.seg[SREG_SS].selector, 0x23);
	assert_int_equal(cpu_rflags(&cpu->cs), X86_FLAGS_IF | X86_FLAGS_CF | X86_FLAGS_FIXED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(syscall_in_legacy_mode_is_amds),
		cmocka_unit_test(tss_below_the_level_of_code_is_gp),
		cmocka_unit_test(task_that_is_none_faults),
		cmocka_unit_test(gate_to_code_that_is_absent_is_np_with_the_codes_selector),
		cmocka_unit_test(inner_stack_of_a_16_bit_tss),
		cmocka_unit_test(inner_stack_that_is_null_or_absent),
		cmocka_unit_test(inner_stack_that_expands_down),
		cmocka_unit_test(real_mode_load_makes_a_null_segment_usable_again),
		cmocka_unit_test(ports_need_a_32_bit_tss),
		cmocka_unit_test(paging_with_lme_refuses_a_16_bit_tss_and_64_bit_code),
		cmocka_unit_test(lgdt_and_lidt_want_canonical_bases),
		cmocka_unit_test(rdpmc_above_level_0_needs_pce),
		cmocka_unit_test(monitor_and_mwait_are_undefined_unless_they_exit),
		cmocka_unit_test(cldemote_never_faults),
		cmocka_unit_test(instructions_of_64_bit_mode_are_undefined_elsewhere_and_the_reverse),
		cmocka_unit_test(vmx_instructions_on_registers_are_undefined),
		cmocka_unit_test(invlpg_takes_the_bases_of_fs_and_gs_only),
		cmocka_unit_test(exit_of_a_rip_relative_operand_has_its_address),
	};

	return cmocka_run_group_tests(tests, harness_setup, harness_teardown);
}
