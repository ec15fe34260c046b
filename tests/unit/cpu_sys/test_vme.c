/*
 * CR4.VME and CR4.PVI: a task whose IOPL forbids IF has VIF, until VIP calls its monitor.
 * SDM Vol. 3, "Virtual-8086 Mode Extensions" (table "Interrupt-Handling Methods"),
 * "Protected-Mode Virtual Interrupts".
 */
#include "harness.h"

#define FLAG(f) ((cpu->cs.rflags & (f)) != 0)
#define STACK16 (0x300 * 16 + 0x800) /* SS:SP of reset_v86() */
#define MAP_BASE 0x200		     /* of the TSS's I/O permission map */

/* Virtual-8086 mode with VME; the redirection map sends every vector to the program itself. */
static void reset_vme(unsigned iopl)
{
	reset_v86(iopl);
	cpu->cs.cr4 |= X86_CR4_VME;
	poke(TSS_AT + 0x66, 2, MAP_BASE);
	poke(0x21 * 4, 4, 0x12340056); /* INT 21h of the 8086 program */
}

static void assert_gp0(enum outcome got)
{
	assert_int_equal(got, FAULT);
	assert_fault(X86_TRAP_GP, 0);
}

static void cli_and_sti_change_vif_below_iopl_3(void **state)
{
	for (unsigned iopl = 0; iopl < 3; iopl++) {
		reset_vme(iopl);
		assert_int_equal(RUN(0xfb), DONE);
		assert_true(FLAG(X86_FLAGS_VIF) && FLAG(X86_FLAGS_IF));
		assert_int_equal(cpu->interruptibility, 0);
		assert_int_equal(RUN(0xfa), DONE);
		assert_true(!FLAG(X86_FLAGS_VIF) && FLAG(X86_FLAGS_IF));
		cpu->cs.rflags |= X86_FLAGS_VIP;
		assert_int_equal(RUN(0xfa), DONE);
		assert_gp0(RUN(0xfb));
		assert_false(FLAG(X86_FLAGS_VIF));
	}
	reset_vme(3);
	assert_int_equal(RUN(0xfa), DONE);
	assert_true(!FLAG(X86_FLAGS_VIF) && !FLAG(X86_FLAGS_IF));
}

static void pushf_shows_vif_as_if_and_iopl_3(void **state)
{
	reset_vme(1);
	assert_int_equal(RUN(0x9c), DONE);
	assert_int_equal(peek(STACK16 - 2, 2), 0x3002);
	cpu->cs.rflags |= X86_FLAGS_VIF;
	assert_int_equal(RUN(0x9c), DONE);
	assert_int_equal(peek(STACK16 - 4, 2), 0x3202);
	assert_gp0(RUN(0x66, 0x9c));
	assert_int_equal(cpu->cs.gpr[RSP], 0x800 - 4);
}

static void popf_sets_vif_and_refuses_what_the_monitor_must_see(void **state)
{
	reset_vme(0);
	poke(STACK16, 2, 0x0ed7); /* IF and all arithmetic flags, DF */
	assert_int_equal(RUN(0x9d), DONE);
	assert_int_equal(cpu->cs.gpr[RSP], 0x802);
	assert_int_equal(cpu_rflags(&cpu->cs) & 0xffff, 0x0ed7); /* IF as it was, IOPL 0 */
	assert_true(FLAG(X86_FLAGS_VIF));
	poke(STACK16 + 2, 2, 0x3002);
	assert_int_equal(RUN(0x9d), DONE);
	assert_true(!FLAG(X86_FLAGS_VIF) && FLAG(X86_FLAGS_IF));
	assert_int_equal(FIELD_GET(X86_FLAGS_IOPL, cpu->cs.rflags), 0);
	poke(STACK16 + 4, 2, 0x0102); /* TF */
	assert_gp0(RUN(0x9d));
	assert_int_equal(cpu->cs.gpr[RSP], 0x804);
	poke(STACK16 + 4, 2, 0x0202);
	cpu->cs.rflags |= X86_FLAGS_VIP;
	assert_gp0(RUN(0x9d));
	assert_gp0(RUN(0x66, 0x9d));
}

static void iret_sets_vif(void **state)
{
	reset_vme(0);
	poke(STACK16, 6, 0x020212340056ULL); /* FLAGS CS IP */
	assert_int_equal(RUN(0xcf), DONE);
	assert_int_equal(cpu->cs.rip, 0x56);
	assert_int_equal(cpu->cs.seg[SREG_CS].selector, 0x1234);
	assert_int_equal(cpu->cs.gpr[RSP], 0x806);
	assert_true(FLAG(X86_FLAGS_VIF) && FLAG(X86_FLAGS_VM) && FLAG(X86_FLAGS_IF));
	cpu->cs.rflags |= X86_FLAGS_VIP;
	poke(STACK16 + 6, 6, 0x020212340056ULL);
	assert_gp0(RUN(0xcf));
	assert_int_equal(cpu->cs.gpr[RSP], 0x806);
	assert_gp0(RUN(0x66, 0xcf));
}

/* Methods 5 and 6: to the 8086 program's handler. */
static void redirected_int_n_stays_in_the_program(void **state)
{
	for (unsigned iopl = 0; iopl <= 3; iopl += 3) {
		for (unsigned vif = 0; vif < 2; vif++) {
			reset_vme(iopl);
			cpu->cs.rflags |= vif ? X86_FLAGS_VIF : 0;
			assert_int_equal(RUN(0xcd, 0x21), DONE);
			assert_int_equal(cpu->cs.rip, 0x56);
			assert_int_equal(cpu->cs.seg[SREG_CS].base, 0x12340);
			assert_int_equal(cpu->cs.cpl, 3);
			assert_int_equal(cpu->cs.gpr[RSP], 0x800 - 6);
			assert_int_equal(peek(STACK16 - 6, 2), 0x102);
			assert_int_equal(peek(STACK16 - 4, 2), 0x200);
			assert_int_equal(peek(STACK16 - 2, 2), iopl == 3 || vif ? 0x3202 : 0x3002);
			assert_int_equal(FLAG(X86_FLAGS_IF), iopl < 3);
			assert_int_equal(FLAG(X86_FLAGS_VIF), iopl == 3 && vif);
		}
	}
}

/* Methods 2 and 3, and 4 with IOPL 3: the map's bit is set. */
static void int_n_with_its_bit_set_is_the_monitors(void **state)
{
	reset_vme(0);
	poke(TSS_AT + MAP_BASE - 32 + 0x21 / 8, 1, 1 << (0x21 % 8));
	assert_gp0(RUN(0xcd, 0x21));
	reset_vme(3);
	poke(TSS_AT + MAP_BASE - 32 + 0x21 / 8, 1, 1 << (0x21 % 8));
	idt_gate32(0x21, SYS_INTR_GATE32, 3);
	assert_int_equal(RUN(0xcd, 0x21), DONE);
	assert_int_equal(cpu->cs.cpl, 0);
	assert_int_equal(cpu->cs.rip, HANDLER_AT + 0x21);
}

static void map_outside_the_tss_is_gp(void **state)
{
	reset_vme(3);
	cpu->cs.tr.limit = MAP_BASE - 32 + 0x21 / 8 - 1;
	assert_gp0(RUN(0xcd, 0x21));
	reset_vme(3);
	poke(TSS_AT + 0x66, 2, 0x10); /* the map would lie below the TSS */
	assert_gp0(RUN(0xcd, 0x21));
}

/* INT3 and INTO are not redirected. */
static void int3_goes_through_the_idt(void **state)
{
	reset_vme(0);
	idt_gate32(X86_TRAP_BP, SYS_INTR_GATE32, 3);
	assert_int_equal(RUN(0xcc), DONE);
	assert_int_equal(cpu->cs.cpl, 0);
}

static void pvi_gives_cpl_3_a_vif(void **state)
{
	for (unsigned iopl = 0; iopl <= 3; iopl++) {
		reset_protected();
		cpu->cs.cr4 |= X86_CR4_PVI;
		set_cpl(SEL_CODE3, SEL_DATA3);
		cpu_set_rflags(&cpu->cs, X86_FLAGS_IF | FIELD_PREP(X86_FLAGS_IOPL, iopl));
		assert_int_equal(RUN(0xfa), DONE);
		assert_int_equal(FLAG(X86_FLAGS_IF), iopl < 3);
		assert_int_equal(RUN(0xfb), DONE);
		assert_true(FLAG(X86_FLAGS_IF));
		assert_int_equal(FLAG(X86_FLAGS_VIF), iopl < 3);
		if (iopl == 3)
			continue;
		cpu->cs.rflags = (cpu->cs.rflags & ~X86_FLAGS_VIF) | X86_FLAGS_VIP;
		assert_gp0(RUN(0xfb));
		poke(STACK_AT, 4, 2); /* POPF leaves IF and VIF alone */
		assert_int_equal(RUN(0x9d), DONE);
		assert_true(FLAG(X86_FLAGS_IF) && FLAG(X86_FLAGS_VIP) && !FLAG(X86_FLAGS_VIF));
	}
	/* CPL 1 has none, nor has CPL 3 by VME */
	reset_protected();
	cpu->cs.cr4 |= X86_CR4_PVI;
	set_cpl(SEL_CODE1, SEL_DATA1);
	assert_gp0(RUN(0xfa));
	reset_protected();
	cpu->cs.cr4 |= X86_CR4_VME;
	set_cpl(SEL_CODE3, SEL_DATA3);
	assert_gp0(RUN(0xfb));
}

static void without_vme_iopl_alone_decides(void **state)
{
	static const uint8_t insns[][2] = {{0xfa}, {0xfb}, {0x9c}, {0x9d}, {0xcf}, {0xcd, 0x21}};

	for (size_t n = 0; n < ARRAY_SIZE(insns); n++) {
		reset_v86(2);
		cpu->cs.cr4 |= X86_CR4_PVI;
		assert_gp0(run_bytes(insns[n], 2));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cli_and_sti_change_vif_below_iopl_3),
		cmocka_unit_test(pushf_shows_vif_as_if_and_iopl_3),
		cmocka_unit_test(popf_sets_vif_and_refuses_what_the_monitor_must_see),
		cmocka_unit_test(iret_sets_vif),
		cmocka_unit_test(redirected_int_n_stays_in_the_program),
		cmocka_unit_test(int_n_with_its_bit_set_is_the_monitors),
		cmocka_unit_test(map_outside_the_tss_is_gp),
		cmocka_unit_test(int3_goes_through_the_idt),
		cmocka_unit_test(pvi_gives_cpl_3_a_vif),
		cmocka_unit_test(without_vme_iopl_alone_decides),
	};

	return cmocka_run_group_tests(tests, harness_setup, harness_teardown);
}
