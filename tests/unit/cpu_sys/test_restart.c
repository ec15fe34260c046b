/*
 * Whatever a system instruction does, it does completely or not at all: random
 * instructions over random descriptors, gates, stacks and registers; a fault
 * or a VM exit must leave every register as it was, success must leave
 * CPL == SS.DPL and a code mode that fits CS.
 */
#include "harness.h"

#define CASES 100000

static uint64_t seed = 0x9e3779b97f4a7c15;
static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* Selectors, small numbers and stack addresses more often than noise. */
static uint64_t interesting(void)
{
	switch (rnd() % 8) {
	case 0: return rnd();
	case 1: return rnd() % 16;
	case 2: return STACK_AT - rnd() % 64;
	case 3: return 0xffff - rnd() % 4;
	case 4: return MEM_SIZE - 8 + rnd() % 16;
	case 5: return rnd() & 0xffffffff;
	default: return rnd() % 0x80;
	}
}

static const uint8_t opcodes[][3] = {
	{ 0x8e }, { 0x8c }, { 0x1f }, { 0x17 }, { 0x07 }, { 0x06 }, { 0xea }, { 0x9a }, { 0xcb },
	{ 0xca }, { 0xcf }, { 0xcc }, { 0xcd }, { 0xf1 }, { 0xce }, { 0x9c }, { 0x9d }, { 0xfa },
	{ 0xfb }, { 0xe4 }, { 0xec }, { 0xef }, { 0x6c }, { 0x6f }, { 0xc4 }, { 0xc5 }, { 0x63 },
	{ 0xff, 0x1c, 0x25 }, { 0xff, 0x2c, 0x25 }, { 0x0f, 0xb2 }, { 0x0f, 0x00 }, { 0x0f, 0x01 },
	{ 0x0f, 0x02 }, { 0x0f, 0x03 }, { 0x0f, 0x05 }, { 0x0f, 0x07 }, { 0x0f, 0x20 },
	{ 0x0f, 0x22 }, { 0x0f, 0x21 }, { 0x0f, 0x23 }, { 0x0f, 0x30 }, { 0x0f, 0x32 },
	{ 0x0f, 0x34 }, { 0x0f, 0x35 }, { 0x0f, 0x06 }, { 0x0f, 0xae }, { 0x0f, 0xa1 },
	{ 0x0f, 0xa9 }, { 0x0f, 0xa0 },
};

static void random_state(void)
{
	struct cpu_state *cs = &cpu->cs;

	switch (rnd() % 5) {
	case 0: reset_real(); break;
	case 1: reset_protected(); if (rnd() & 1) set_cpl(SEL_CODE3, SEL_DATA3); break;
	case 2: reset_long(); if (rnd() & 1) set_cpl(SEL_CODE64_3, SEL_DATA3); break;
	case 3: reset_long(); set_cpl(SEL_CODE0, SEL_DATA0); break;
	default: reset_v86((unsigned)rnd() & 3);
	}
	for (unsigned n = 0; n < NR_GPRS; n++)
		if (n != RSP || !(rnd() & 7))
			cs->gpr[n] = interesting();
	for (unsigned n = 0; n < 4; n++) { /* a few random descriptors and gates */
		uint16_t sel = (uint16_t)(8 * (1 + rnd() % (SEL_LAST / 8)));

		if (rnd() & 1)
			set_descriptor(sel, gate((uint16_t)(rnd() % 0x80), (uint32_t)rnd(),
						 (unsigned)rnd() & 31, (unsigned)rnd() & 3,
						 rnd() & 7, (unsigned)rnd() & 31));
		else
			set_descriptor(sel, descriptor((uint32_t)(rnd() & 0xffff), (uint32_t)(rnd() & 0xfffff),
						       (unsigned)rnd() & 31, (unsigned)rnd() & 3,
						       rnd() & 7, (unsigned)rnd() & 15));
	}
	for (unsigned v = 0; v < 256; v++)
		poke(IDT_AT + v * (cs->efer & EFER_LMA ? 16 : 8), 8,
		     gate((uint16_t)(rnd() % 0x60), HANDLER_AT, (unsigned)(rnd() % 3 ? 14 : rnd() & 31),
			  (unsigned)rnd() & 3, rnd() & 7, (unsigned)(rnd() & 1)));
	for (unsigned n = 0; n < 16; n++) {
		unsigned size = rnd() & 1 ? 4 : 8;

		poke(STACK_AT + n * size, size, interesting());
		poke(0x5000 + n * size, size, interesting());
	}
	if (rnd() & 1) { /* a frame that IRET and RET may like */
		static const uint16_t code[] = { SEL_CODE0, SEL_CODE3, SEL_CODE64, SEL_CODE64_3 };
		static const uint16_t data[] = { SEL_DATA0, SEL_DATA3 };
		unsigned size = rnd() & 1 ? 4 : 8;

		poke(STACK_AT, size, rnd() & 1 ? rnd() : CODE_AT);
		poke(STACK_AT + size, size, code[rnd() % 4]);
		poke(STACK_AT + 2 * size, size, rnd());
		poke(STACK_AT + 3 * size, size, interesting());
		poke(STACK_AT + 4 * size, size, data[rnd() % 2]);
		cs->gpr[RSP] = STACK_AT;
	}
	cs->cr4 |= rnd() & (X86_CR4_FSGSBASE | X86_CR4_DE | X86_CR4_TSD | X86_CR4_UMIP);
	if (rnd() & 1)
		cpu->primary = (uint32_t)rnd();
	if (!(rnd() & 3))
		cpu->secondary = (uint32_t)rnd();
	cpu->sysenter_cs = rnd() & 1 ? SEL_CODE0 : 0;
	cs->rflags |= rnd() & (X86_FLAGS_IF | X86_FLAGS_IOPL);
}

/* The registers an instruction names, without what serves its running. */
struct registers {
	uint64_t gpr[NR_GPRS], rip, rflags;
	struct cpu_segment seg[NR_SREGS], ldtr, tr;
	struct cpu_dtable gdtr, idtr;
	uint64_t cr[6], dr[6];
	struct cpu_msrs msr;
	uint8_t cpl, code_mode;
};

static void snapshot(struct registers *r)
{
	const struct cpu_state *cs = &cpu->cs;

	memset(r, 0, sizeof(*r));
	memcpy(r->gpr, cs->gpr, sizeof(r->gpr));
	r->rip = cs->rip;
	r->rflags = cpu_rflags(cs);
	memcpy(r->seg, cs->seg, sizeof(r->seg));
	memcpy(&r->ldtr, &cs->ldtr, sizeof(r->ldtr));
	memcpy(&r->tr, &cs->tr, sizeof(r->tr));
	memcpy(&r->gdtr, &cs->gdtr, sizeof(r->gdtr));
	memcpy(&r->idtr, &cs->idtr, sizeof(r->idtr));
	memcpy(r->cr, (uint64_t[]){ cs->cr0, cs->cr2, cs->cr3, cs->cr4, cs->cr8, cs->efer },
	       sizeof(r->cr));
	memcpy(r->dr, (uint64_t[]){ cs->dr[0], cs->dr[1], cs->dr[2], cs->dr[3], cs->dr6, cs->dr7 },
	       sizeof(r->dr));
	r->msr = cpu->msr;
	r->cpl = cs->cpl;
	r->code_mode = cs->code_mode;
}

static void faults_and_exits_leave_every_register_alone(void **state)
{
	unsigned nr[4] = { 0 };

	for (unsigned n = 0; n < CASES; n++) {
		const uint8_t *op = opcodes[rnd() % ARRAY_SIZE(opcodes)];
		static const uint8_t iret[3] = { 0xcf };
		uint8_t bytes[15];
		struct registers before, after;
		unsigned at = 0, disp;
		enum outcome r;

		random_state();
		if (!(rnd() & 7))
			op = iret;
		if (!(rnd() & 3))
			bytes[at++] = 0x66;
		if (cpu->cs.code_mode == ISA_CODE64 && rnd() & 1)
			bytes[at++] = 0x48;
		memcpy(bytes + at, op, 3);
		at += op[2] ? 3 : op[0] == 0x0f ? 2 : 1;
		disp = at;
		for (; at < sizeof(bytes); at++)
			bytes[at] = (uint8_t)(rnd() % 3 ? interesting() : rnd());
		if (op[2])
			memcpy(bytes + disp, "\x00\x50\x00\x00", 4);
		snapshot(&before);
		r = run_bytes(bytes, sizeof(bytes));
		nr[r]++;
		if (r == FAULT || r == EXIT) {
			snapshot(&after);
			assert_memory_equal(&before, &after, sizeof(before));
		} else {
			assert_int_equal(cpu->cs.cpl, isa_ar_dpl(cpu->cs.seg[SREG_SS].ar));
		}
	}
	print_message("%u done, %u faults, %u exits\n", nr[DONE], nr[FAULT], nr[EXIT]);
	assert_true(nr[DONE] > CASES / 20 && nr[FAULT] > CASES / 20 && nr[EXIT] > CASES / 50);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(faults_and_exits_leave_every_register_alone),
	};

	return cmocka_run_group_tests(tests, harness_setup, harness_teardown);
}
