/*
 * Far transfers, INTO, string I/O without an interceptor, expand-down segments and breakpoints
 * inside a repetition: what the SDM says of each, at its edges. Vol. 2, the instructions'
 * pseudo-code; Vol. 3, "Call Gates", "Limit Checking", "Interrupt and Exception Handling".
 */
#include "machine.h"

#define STATE struct machine *t = *state
#define TARGET 0x21000UL
#define POINTER 0x40000UL /* of the far CALL and JMP */
#define GATE 0x20	  /* selector of the call gate: two descriptors */
#define CODE32 0x30
#define CODE64_DPL1 0x38
#define GATE_TYPE (0x8cUL << 40)

static void set_descriptor(struct machine *t, unsigned selector, uint64_t d)
{
	guest64(t, GPA_GDT)[selector >> 3] = d;
}

static void set_call_gate(struct machine *t, uint16_t selector, uint64_t offset, uint64_t type)
{
	set_descriptor(t, GATE, (offset & 0xffff) | (uint64_t)selector << 16 | type | (offset & 0xffff0000) << 32);
	set_descriptor(t, GATE + 8, offset >> 32);
}

/* Long mode, a call gate to TARGET, exceptions exit. */
static void set_gates(struct machine *t)
{
	W(GUEST_GDTR_LIMIT, 0x7f);
	W(EXCEPTION_BITMAP, ~0u);
	set_call_gate(t, 8, TARGET, GATE_TYPE);
	set_descriptor(t, 0, 0x00af9b000000ffffULL); /* never looked at */
	set_descriptor(t, CODE32, 0x00cf9b000000ffffULL);
	set_descriptor(t, CODE64_DPL1, 0x00afbb000000ffffULL);
	t->ram[POINTER + 4] = GATE; /* the offset is not looked at */
	memset(t->ram + POINTER, 0xee, 4);
	t->ram[TARGET] = 0xf4;
}

static const uint8_t far_call[] = { 0xff, 0x1c, 0x25, 0, 0, 4, 0, 0xf4 };
static const uint8_t far_jmp[] = { 0xff, 0x2c, 0x25, 0, 0, 4, 0, 0xf4 };

static void put_code(struct machine *t, const uint8_t *code, size_t n)
{
	memcpy(t->ram + GPA_CODE, code, n);
	vmx_sync_code(t->cpu);
	W(GUEST_RIP, GPA_CODE);
	W(GUEST_RSP, GPA_STACK);
}

static void expect_exception(struct machine *t, unsigned vector, unsigned error)
{
	assert_int_equal(go(t), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(R(t, VM_EXIT_INTR_INFO) & 0xff, vector);
	assert_int_equal(R(t, VM_EXIT_INTR_ERROR_CODE), error);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE);
	assert_int_equal(R(t, GUEST_RSP), GPA_STACK);
}

static void call_gate_on_one_level_pushes_8_bytes_each(void **state)
{
	STATE;

	set_gates(t);
	put_code(t, far_call, sizeof(far_call));
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(R(t, GUEST_RIP), TARGET);
	assert_int_equal(R(t, GUEST_RSP), GPA_STACK - 16);
	assert_int_equal(*guest64(t, GPA_STACK - 16), GPA_CODE + 7);
	assert_int_equal(*guest64(t, GPA_STACK - 8), 8);
	memcpy(t->ram + TARGET, "\x48\xcb", 2); /* and retfq comes back */
	put_code(t, far_call, sizeof(far_call));
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE + 7);
	assert_int_equal(R(t, GUEST_RSP), GPA_STACK);
}

static void jmp_through_a_call_gate_pushes_nothing(void **state)
{
	STATE;

	set_gates(t);
	put_code(t, far_jmp, sizeof(far_jmp));
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(R(t, GUEST_RIP), TARGET);
	assert_int_equal(R(t, GUEST_RSP), GPA_STACK);
	assert_int_equal(R(t, GUEST_CS_SELECTOR), 8);
}

struct bad_gate {
	const char *name;
	uint16_t selector;
	uint64_t offset, type;
	unsigned gate_rpl, gdt_limit, high_type, vector, error;
};
static const struct bad_gate bad_gates[] = {
	{ "absent gate", 8, TARGET, 0x0cUL << 40, 0, 0x7f, 0, X86_TRAP_NP, GATE },
	{ "gate below the selector's RPL", 8, TARGET, GATE_TYPE, 3, 0x7f, 0, X86_TRAP_GP, GATE },
	{ "null target", 0, TARGET, GATE_TYPE, 0, 0x7f, 0, X86_TRAP_GP, 0 },
	{ "target beyond the GDT", 0x80, TARGET, GATE_TYPE, 0, 0x7f, 0, X86_TRAP_GP, 0x80 },
	{ "target that is data", 16, TARGET, GATE_TYPE, 0, 0x7f, 0, X86_TRAP_GP, 16 },
	{ "target of 32 bits", CODE32, TARGET, GATE_TYPE, 0, 0x7f, 0, X86_TRAP_GP, CODE32 },
	{ "target less privileged", CODE64_DPL1, TARGET, GATE_TYPE, 0, 0x7f, 0, X86_TRAP_GP, CODE64_DPL1 },
	{ "offset not canonical", 8, 1UL << 47, GATE_TYPE, 0, 0x7f, 0, X86_TRAP_GP, 0 },
	{ "type in the upper half", 8, TARGET, GATE_TYPE, 0, 0x7f, 1, X86_TRAP_GP, GATE },
	{ "upper half beyond the GDT", 8, TARGET, GATE_TYPE, 0, GATE + 7, 0, X86_TRAP_GP, GATE },
	{ "a 16-bit gate", 8, TARGET, 0x84UL << 40, 0, 0x7f, 0, X86_TRAP_GP, GATE },
	{ "a task gate", 8, TARGET, 0x85UL << 40, 0, 0x7f, 0, X86_TRAP_GP, GATE },
};

static void malformed_call_gates_fault(void **state)
{
	STATE;

	set_gates(t);
	for (size_t n = 0; n < 2 * ARRAY_SIZE(bad_gates); n++) {
		const struct bad_gate *b = &bad_gates[n / 2];

		set_call_gate(t, b->selector, b->offset, b->type);
		guest64(t, GPA_GDT)[GATE / 8 + 1] |= (uint64_t)b->high_type << 40;
		t->ram[POINTER + 4] = (uint8_t)(GATE | b->gate_rpl);
		W(GUEST_GDTR_LIMIT, b->gdt_limit);
		print_message("%s by %s\n", b->name, n & 1 ? "JMP" : "CALL");
		put_code(t, n & 1 ? far_jmp : far_call, sizeof(far_call));
		expect_exception(t, b->vector, b->error);
	}
}

/* rip, cs, rsp, ss above the stack pointer; retfq. */
static void put_far_return(struct machine *t, uint16_t cs, uint16_t ss)
{
	static const uint8_t retfq[] = { 0x48, 0xcb };
	uint64_t *frame = guest64(t, GPA_STACK);

	put_code(t, retfq, sizeof(retfq));
	frame[0] = TARGET;
	frame[1] = cs;
	frame[2] = 0x12345008;
	frame[3] = ss;
}

static void far_return_to_a_null_ss_is_for_64_bit_code_below_level_3(void **state)
{
	STATE;

	set_gates(t);
	memcpy(t->ram + TARGET, "\x0f\xa2", 2); /* cpuid exits at every level */
	put_far_return(t, CODE64_DPL1 | 1, 1);
	assert_int_equal(go(t), EXIT_REASON_CPUID);
	assert_int_equal(R(t, GUEST_CS_SELECTOR), CODE64_DPL1 | 1);
	assert_int_equal(R(t, GUEST_SS_SELECTOR), 1);
	assert_true(R(t, GUEST_SS_AR_BYTES) & VMX_AR_UNUSABLE);
	assert_int_equal(R(t, GUEST_RSP), 0x12345008);
	set_long_mode(t);
	set_gates(t);
	set_descriptor(t, CODE64_DPL1, 0x00affb000000ffffULL); /* level 3 now */
	put_far_return(t, CODE64_DPL1 | 3, 3);
	expect_exception(t, X86_TRAP_GP, 0);
	set_descriptor(t, CODE64_DPL1, 0x00cfbb000000ffffULL); /* level 1, 32 bits */
	put_far_return(t, CODE64_DPL1 | 1, 1);
	expect_exception(t, X86_TRAP_GP, 0);
}

/* The outer stack is of 16 bits: the rest of RSP stays. */
static void far_return_to_a_16_bit_stack_replaces_sp_only(void **state)
{
	STATE;

	set_gates(t);
	set_descriptor(t, CODE64_DPL1, 0x00cfbb000000ffffULL); /* level 1, 32 bits */
	set_descriptor(t, 0x40, 0x0000b3000000ffffULL);	       /* a stack of 16 bits */
	memcpy(t->ram + TARGET, "\x0f\xa2", 2);
	put_far_return(t, CODE64_DPL1 | 1, 0x40 | 1);
	assert_int_equal(go(t), EXIT_REASON_CPUID);
	assert_int_equal(R(t, GUEST_RSP), (GPA_STACK & ~0xffffUL) | 0x5008);
}

/* Compatibility mode. */
static void set_code32(struct machine *t)
{
	set_gates(t);
	set_segment(t, SREG_CS, CODE32, 0, 0xffffffff, 0xc09b);
}

static void into_is_a_trap_by_of_and_no_instruction_of_64_bit_mode(void **state)
{
	STATE;
	static const uint8_t into[] = { 0xce, 0xf4 };

	set_gates(t);
	put_code(t, into, sizeof(into));
	assert_int_equal(go(t), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(R(t, VM_EXIT_INTR_INFO) & 0xff, X86_TRAP_UD);
	set_code32(t);
	put_code(t, into, sizeof(into));
	assert_int_equal(go(t), EXIT_REASON_HLT);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_OF);
	put_code(t, into, sizeof(into));
	assert_int_equal(go(t), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(R(t, VM_EXIT_INTR_INFO), INTR_INFO_VALID_MASK | INTR_TYPE_SOFT_EXCEPTION << 8 | X86_TRAP_OF);
	assert_int_equal(R(t, VM_EXIT_INSTRUCTION_LEN), 1);
	/* nobody intercepts it: through the gate, with what follows as the return address */
	W(EXCEPTION_BITMAP, ~(1u << X86_TRAP_OF));
	set_gate(t, X86_TRAP_OF, TARGET);
	put_code(t, into, sizeof(into));
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(R(t, GUEST_RIP), TARGET);
	assert_int_equal(*guest64(t, R(t, GUEST_RSP)), GPA_CODE + 1);
}

/* Nothing is behind a port that nobody intercepts: all ones come in. */
static void string_io_nobody_intercepts_moves_the_pointers(void **state)
{
	STATE;
	static const uint8_t insns[][4] = { { 0xf3, 0x6d, 0xf4 }, { 0xf3, 0x6f, 0xf4 } };

	for (unsigned out = 0; out < 2; out++) {
		for (unsigned down = 0; down < 2; down++) {
			uint64_t *gpr = vmx_gprs(t->cpu), moved = down ? 0x50000 - 12 : 0x50000 + 12;

			set_gates(t);
			W(CPU_BASED_VM_EXEC_CONTROL,
			  R(t, CPU_BASED_VM_EXEC_CONTROL) & ~(uint64_t)CPU_BASED_UNCOND_IO_EXITING);
			W(GUEST_RFLAGS, X86_FLAGS_FIXED | (down ? X86_FLAGS_DF : 0));
			memset(t->ram + 0x50000 - 16, 0x11, 32);
			gpr[RCX] = 3;
			gpr[RDX] = 0x70;
			gpr[RSI] = gpr[RDI] = 0x50000;
			put_code(t, insns[out], sizeof(insns[out]));
			assert_int_equal(go(t), EXIT_REASON_HLT);
			assert_int_equal(gpr[RCX], 0);
			assert_int_equal(gpr[RDI], out ? 0x50000 : moved);
			assert_int_equal(gpr[RSI], out ? moved : 0x50000);
			for (int n = -16; n < 16; n++) {
				bool in = !out && (down ? n >= -8 && n < 4 : n >= 0 && n < 12);

				assert_int_equal(t->ram[0x50000 + n], in ? 0xff : 0x11);
			}
		}
	}
}

/* SDM Vol. 3, "Data Breakpoint Exceptions": after the iteration that matched, the rest to be done. */
static void data_breakpoint_traps_between_two_iterations(void **state)
{
	STATE;
	static const uint8_t stos[] = { 0xf3, 0xaa, 0xf4 };
	uint64_t *gpr = vmx_gprs(t->cpu);

	set_gates(t);
	gpr[RDI] = 0x50000;
	gpr[RCX] = 8;
	vmx_set_dr(t->cpu, 1, 0x50002);
	W(GUEST_DR7, DR7_FIXED_1 | 8 | 1 << 20); /* G1, writes of one byte */
	put_code(t, stos, sizeof(stos));
	assert_int_equal(go(t), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(R(t, VM_EXIT_INTR_INFO) & 0xff, X86_TRAP_DB);
	assert_int_equal(R(t, EXIT_QUALIFICATION) & 0xf, 2);
	assert_int_equal(gpr[RCX], 5);
	assert_int_equal(gpr[RDI], 0x50003);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(gpr[RCX], 0);
}

/* Offsets above the limit are the segment; its end is 64 KiB or 4 GiB by the B flag. */
static void expand_down_segment_lies_above_its_limit(void **state)
{
	STATE;
	static const uint8_t load[] = { 0x8b, 0x07, 0xf4 }; /* mov eax,[edi] */
	static const struct {
		uint32_t ar, limit, offset;
		bool ok;
	} c[] = {
		{ 0x4097, 0xfff, 0x1000, true },   { 0x4097, 0xfff, 0xfff, false },
		{ 0x4097, 0xfff, 0xffd, false },   { 0x0097, 0xfff, 0x1000, true },
		{ 0x4097, 0xfff, 0x100000, true }, { 0x0097, 0xfff, 0x100000, false },
		{ 0x0097, 0xfff, 0xfffc, true },   { 0x0097, 0xfff, 0xfffd, false },
		{ 0x4097, 0xfff, 0, false },
	};

	for (size_t n = 0; n < ARRAY_SIZE(c); n++) {
		set_code32(t);
		set_segment(t, SREG_DS, 16, 0, c[n].limit, c[n].ar);
		vmx_gprs(t->cpu)[RDI] = c[n].offset;
		put_code(t, load, sizeof(load));
		if (c[n].ok)
			assert_int_equal(go(t), EXIT_REASON_HLT);
		else
			expect_exception(t, X86_TRAP_GP, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_LONG(call_gate_on_one_level_pushes_8_bytes_each),
		TEST_LONG(jmp_through_a_call_gate_pushes_nothing),
		TEST_LONG(malformed_call_gates_fault),
		TEST_LONG(far_return_to_a_null_ss_is_for_64_bit_code_below_level_3),
		TEST_LONG(far_return_to_a_16_bit_stack_replaces_sp_only),
		TEST_LONG(into_is_a_trap_by_of_and_no_instruction_of_64_bit_mode),
		TEST_LONG(string_io_nobody_intercepts_moves_the_pointers),
		TEST_LONG(data_breakpoint_traps_between_two_iterations),
		TEST_LONG(expand_down_segment_lies_above_its_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
