/*
 * When x87, SSE and AVX instructions are refused, and state that only a guest's
 * modes bring about. SDM Vol. 3, table "Action Taken for Combinations of ... EM, MP, and
 * TS", "x87 FPU Exception ..."; Vol. 2, each instruction's exceptions.
 */
#include <signal.h>

#include "../support/host_sets.h"
#include "host/fault.h"
#include "machine.h"

#include "host/fault.h"

#define STATE struct machine *t = *state
#define AREA 0x50000UL
#define NONE 0xff /* no exception: the HLT behind it */

static void allow_all(struct machine *t)
{
	W(EXCEPTION_BITMAP, ~0u);
	W(GUEST_CR0, X86_CR0_PE | X86_CR0_PG | X86_CR0_NE | X86_CR0_ET);
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_OSXSAVE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT);
	vmx_set_xcr0(t->cpu, XFEATURE_MASK_FP | XFEATURE_MASK_SSE | XFEATURE_MASK_YMM);
	vmx_gprs(t->cpu)[RBX] = AREA;
	vmx_gprs(t->cpu)[RAX] = 7;
	vmx_gprs(t->cpu)[RDX] = 0;
}

/* Run `code` and the HLT behind it; the vector it raised, or NONE. */
static unsigned outcome_of(struct machine *t, const void *code, size_t n)
{
	memcpy(t->ram + GPA_CODE, code, n);
	t->ram[GPA_CODE + n] = 0xf4;
	vmx_sync_code(t->cpu);
	W(GUEST_RIP, GPA_CODE);
	if (go(t) == EXIT_REASON_HLT)
		return NONE;
	assert_int_equal(R(t, VM_EXIT_REASON), EXIT_REASON_EXCEPTION_NMI);
	return R(t, VM_EXIT_INTR_INFO) & 0xff;
}
#define OUTCOME(t, ...) \
	outcome_of(t, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

/* With nothing set, TS, EM, TS and MP. */
static void each_class_is_refused_by_its_own_bits(void **state)
{
	static const uint64_t cr0[] = { 0, X86_CR0_TS, X86_CR0_EM, X86_CR0_TS | X86_CR0_MP };
	static const struct {
		const char *name;
		uint8_t code[8], n, vector[4];
	} forms[] = {
		{ "xsave [rbx]", { 0x0f, 0xae, 0x23 }, 3, { NONE, X86_TRAP_NM, NONE, X86_TRAP_NM } },
		{ "xrstor [rbx]", { 0x0f, 0xae, 0x2b }, 3, { NONE, X86_TRAP_NM, NONE, X86_TRAP_NM } },
		{ "fxsave [rbx]", { 0x0f, 0xae, 0x03 }, 3, { NONE, X86_TRAP_NM, X86_TRAP_NM, X86_TRAP_NM } },
		{ "fxrstor [rbx]", { 0x0f, 0xae, 0x0b }, 3, { NONE, X86_TRAP_NM, X86_TRAP_NM, X86_TRAP_NM } },
		{ "fld1", { 0xd9, 0xe8 }, 2, { NONE, X86_TRAP_NM, X86_TRAP_NM, X86_TRAP_NM } },
		{ "fnstenv [rbx]", { 0xd9, 0x33 }, 2, { NONE, X86_TRAP_NM, X86_TRAP_NM, X86_TRAP_NM } },
		{ "fwait", { 0x9b }, 1, { NONE, NONE, NONE, X86_TRAP_NM } },
		{ "emms", { 0x0f, 0x77 }, 2, { NONE, X86_TRAP_NM, X86_TRAP_UD, X86_TRAP_NM } },
		{ "paddb mm0,mm1", { 0x0f, 0xfc, 0xc1 }, 3, { NONE, X86_TRAP_NM, X86_TRAP_UD, X86_TRAP_NM } },
		{ "addps xmm0,xmm1", { 0x0f, 0x58, 0xc1 }, 3, { NONE, X86_TRAP_NM, X86_TRAP_UD, X86_TRAP_NM } },
		{ "stmxcsr [rbx]", { 0x0f, 0xae, 0x1b }, 3, { NONE, X86_TRAP_NM, X86_TRAP_UD, X86_TRAP_NM } },
		{ "vstmxcsr [rbx]", { 0xc5, 0xf8, 0xae, 0x1b }, 4, { NONE, X86_TRAP_NM, NONE, X86_TRAP_NM } },
		{ "vldmxcsr [rbx]", { 0xc5, 0xf8, 0xae, 0x13 }, 4, { NONE, X86_TRAP_NM, NONE, X86_TRAP_NM } },
		{ "vaddps ymm0,ymm0,ymm1", { 0xc5, 0xfc, 0x58, 0xc1 }, 4, { NONE, X86_TRAP_NM, NONE, X86_TRAP_NM } },
	};
	STATE;

	allow_all(t);
	NEED(AVX);
	for (size_t n = 0; n < ARRAY_SIZE(forms); n++)
		for (size_t k = 0; k < ARRAY_SIZE(cr0); k++) {
			print_message("%s, CR0 bits %#lx\n", forms[n].name, (unsigned long)cr0[k]);
			W(GUEST_CR0, (R(t, GUEST_CR0) & ~(uint64_t)(X86_CR0_TS | X86_CR0_EM | X86_CR0_MP)) | cr0[k]);
			assert_int_equal(outcome_of(t, forms[n].code, forms[n].n), forms[n].vector[k]);
		}
}

static void vldmxcsr_loads_and_checks_mxcsr(void **state)
{
	STATE;

	allow_all(t);
	*(uint32_t *)(t->ram + AREA) = 0x1f83;
	if (OUTCOME(t, 0xc5, 0xf8, 0xae, 0x13) != NONE)
		skip(); /* a host without AVX */
	assert_int_equal(OUTCOME(t, 0x0f, 0xae, 0x5b, 0x04), NONE); /* stmxcsr [rbx+4] */
	assert_int_equal(*(uint32_t *)(t->ram + AREA + 4), 0x1f83);
	*(uint32_t *)(t->ram + AREA) = 0x11f80;
	assert_int_equal(OUTCOME(t, 0xc5, 0xf8, 0xae, 0x13), X86_TRAP_GP);
}

/* The silicon's own environment, after the same instructions. */
static void environment_has_a_tag_for_what_each_register_holds(void **state)
{
	static const uint8_t denormal[10] = { 1 };
	struct {
		uint32_t fcw, fsw, ftw, fip, fcs, fdp, fds;
	} native, guest;
	STATE;

	allow_all(t);
	memcpy(t->ram + AREA + 64, denormal, sizeof(denormal));
	/* fninit; fldz; fld1; fld tbyte [rbx+64]; fldz; fchs; fnstenv [rbx] */
	assert_int_equal(OUTCOME(t, 0xdb, 0xe3, 0xd9, 0xee, 0xd9, 0xe8, 0xdb, 0x6b, 0x40, 0xd9, 0xee, 0xd9, 0xe0, 0xd9, 0x33),
			 NONE);
	__asm__ volatile("fninit; fldz; fld1; fldt %1; fldz; fchs; fnstenv %0; fninit"
			 : "=m"(native) : "m"(denormal));
	memcpy(&guest, t->ram + AREA, sizeof(guest));
	assert_int_equal(guest.ftw & 0xffff, native.ftw & 0xffff);
	assert_int_equal(guest.fcw & 0xffff, native.fcw & 0xffff);
	assert_int_equal(guest.fsw & 0xffff, native.fsw & 0xffff);
}

/* The x87 exception is older than the operand that is not where MMX and SSE want it. */
/* cmocka puts its own handler in front of ours for each test: ours, from main(). */
static struct sigaction our_fpe;

static void pending_x87_exception_comes_before_a_misaligned_operand(void **state)
{
	STATE;

	host_fault_reclaim(); /* from cmocka: translated code meets the exception on the host */
	allow_all(t);
	assert_int_equal(sigaction(SIGFPE, &our_fpe, NULL), 0); /* a translated instruction raises it on the silicon */
	/* cvtpi2pd wants no alignment, cvttpd2pi xmm/m128 does, and both are of MMX */
	assert_int_equal(OUTCOME(t, 0xdb, 0xe3, 0x66, 0x0f, 0x2c, 0x43, 0x01), X86_TRAP_GP);
	/* fninit; fldcw (all unmasked); fldz; fld1; fdivrp: #Z pending */
	*(uint16_t *)(t->ram + AREA + 64) = 0x340;
	assert_int_equal(OUTCOME(t, 0xdb, 0xe3, 0xd9, 0x6b, 0x40, 0xd9, 0xee, 0xd9, 0xe8, 0xde, 0xf1,
				 0x66, 0x0f, 0x2c, 0x43, 0x01), X86_TRAP_MF);
}

static void xgetbv_1_sees_mxcsr_in_use(void **state)
{
	STATE;

	allow_all(t);
	vmx_gprs(t->cpu)[RCX] = 1;
	/* xrstor [rbx]: nothing in use; xgetbv */
	memset(t->ram + AREA, 0, 576);
	*(uint32_t *)(t->ram + AREA + 24) = 0x1f80;
	NEED(XSAVE);
	assert_int_equal(OUTCOME(t, 0x0f, 0xae, 0x2b, 0x0f, 0x01, 0xd0), NONE);
	assert_int_equal(vmx_gprs(t->cpu)[RAX], 0);
	*(uint32_t *)(t->ram + AREA) = 0x1fa0;
	vmx_gprs(t->cpu)[RAX] = 7;
	assert_int_equal(OUTCOME(t, 0x0f, 0xae, 0x13, 0x0f, 0x01, 0xd0), NONE); /* ldmxcsr [rbx]; xgetbv */
	assert_int_equal(vmx_gprs(t->cpu)[RAX], XFEATURE_MASK_SSE);
	vmx_gprs(t->cpu)[RCX] = 2;
	assert_int_equal(OUTCOME(t, 0x0f, 0x01, 0xd0), X86_TRAP_GP);
}

static void xsaves_and_xrstors_are_for_level_0_and_need_their_control(void **state)
{
	STATE;

	allow_all(t);
	memset(t->ram + AREA, 0, 576);
	*guest64(t, AREA + 520) = 1ULL << 63; /* compacted */
	assert_int_equal(OUTCOME(t, 0x0f, 0xc7, 0x1b), X86_TRAP_UD);
	assert_int_equal(OUTCOME(t, 0x0f, 0xc7, 0x2b), X86_TRAP_UD);
	W(SECONDARY_VM_EXEC_CONTROL, R(t, SECONDARY_VM_EXEC_CONTROL) | SECONDARY_EXEC_ENABLE_XSAVES);
	if (OUTCOME(t, 0x0f, 0xc7, 0x1b) != NONE)
		skip();
	assert_int_equal(OUTCOME(t, 0x0f, 0xc7, 0x2b), NONE);
	memset(t->ram + AREA, 0, 576); /* the standard form is XRSTOR's only */
	assert_int_equal(OUTCOME(t, 0x0f, 0xc7, 0x1b), X86_TRAP_GP);
	*guest64(t, AREA + 520) = 1ULL << 63;
	for (unsigned n = 0; n < 512; n++)
		guest64(t, GPA_PT)[n] |= PTE_US;
	set_segment(t, SREG_CS, 8 | 3, 0, 0xffffffff, 0xa0fb);
	set_segment(t, SREG_SS, 16 | 3, 0, 0xffffffff, 0xc0f3);
	assert_int_equal(OUTCOME(t, 0x0f, 0xc7, 0x1b), X86_TRAP_GP);
	assert_int_equal(OUTCOME(t, 0x0f, 0xc7, 0x2b), X86_TRAP_GP);
}

/* XMM8-15 are not reached, and what they hold goes on being in use. */
static void xrstor_outside_64_bit_mode_leaves_the_upper_registers(void **state)
{
	STATE;

	allow_all(t);
	memset(t->ram + AREA, 0, 2048);
	memset(t->ram + AREA + 1024, 0x5a, 16);
	*(uint32_t *)(t->ram + AREA + 24) = 0x1f80;
	/* movups xmm9,[rbx+1024] */
	assert_int_equal(OUTCOME(t, 0x44, 0x0f, 0x10, 0x8b, 0, 4, 0, 0), NONE);
	set_segment(t, SREG_CS, 0x30, 0, 0xffffffff, 0xc09b);
	if (OUTCOME(t, 0x0f, 0xae, 0x2b) != NONE)
		skip();
	set_segment(t, SREG_CS, 8, 0, 0xffffffff, 0xa09b);
	/* movups [rbx+1040],xmm9 */
	assert_int_equal(OUTCOME(t, 0x44, 0x0f, 0x11, 0x8b, 0x10, 4, 0, 0), NONE);
	assert_memory_equal(t->ram + AREA + 1024, t->ram + AREA + 1040, 16);
	/* an XSAVE in 64-bit mode finds the component in use and stores them */
	assert_int_equal(OUTCOME(t, 0x0f, 0xae, 0x23), NONE);
	assert_true(*guest64(t, AREA + 512) & XFEATURE_MASK_SSE);
	assert_memory_equal(t->ram + AREA + 160 + 9 * 16, t->ram + AREA + 1040, 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_LONG(each_class_is_refused_by_its_own_bits),
		TEST_LONG(vldmxcsr_loads_and_checks_mxcsr),
		TEST_LONG(environment_has_a_tag_for_what_each_register_holds),
		TEST_LONG(pending_x87_exception_comes_before_a_misaligned_operand),
		TEST_LONG(xgetbv_1_sees_mxcsr_in_use),
		TEST_LONG(xsaves_and_xrstors_are_for_level_0_and_need_their_control),
		TEST_LONG(xrstor_outside_64_bit_mode_leaves_the_upper_registers),
	};

	if (host_fault_init() || sigaction(SIGFPE, NULL, &our_fpe))
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
