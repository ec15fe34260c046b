/*
 * TPR and EOI in loops: by a store to the APIC-access page, by MOV CR8, by WRMSR of the x2APIC. Translated, such a
 * loop stays within its unit until something follows of a write, which then comes before the next instruction.
 *
 * Invariant: each test also passes under the interpreter; only the counters are the translator's.
 */
#include "apic_machine.h"
#include "translator.h"

#define EXPECT(got, want) assert_int_equal((got), (want))
#define ROUNDS 40U
#define LAST 4U /* the round, counted downwards, whose value differs */
#define IN_SERVICE 0x35U

/* EDI rounds, each with its value of the table at RSI; RBX: the APIC's page. */
#define ROUND_BEGINS(name) #name ": mov eax, [rsi + rdi * 4 - 4]\n"
#define ROUND_ENDS(name) #name "_after: nop\n dec edi\n jnz " #name "\n hlt"
#define LOOP(name, text) \
	GUEST(name, ROUND_BEGINS(name##_1) text ROUND_ENDS(name##_1)); \
	extern const uint8_t name##_1_after[]
LOOP(tpr_store, "mov [rbx + 0x80], eax\n");
LOOP(tpr_cr8, "mov r8, cr8\n shr eax, 4\n mov cr8, rax\n");
LOOP(tpr_msr, "mov ecx, 0x808\n xor edx, edx\n wrmsr\n");
LOOP(eoi_store, "mov dword ptr [rbx + 0xb0], 0\n");
LOOP(eoi_msr, "xor eax, eax\n mov ecx, 0x80b\n xor edx, edx\n wrmsr\n");

struct loop {
	const uint8_t *code, *end, *after;
	unsigned features;
};
#define THE(name, f) { name, name##_end, name##_1_after, f }
static const struct loop tpr[] = {
	THE(tpr_store, ACCESSES | SHADOW | REG_VIRT),
	THE(tpr_cr8, SHADOW | REG_VIRT),
	THE(tpr_msr, SHADOW | REG_VIRT | X2APIC),
};
static const struct loop eoi[] = {
	THE(eoi_store, ACCESSES | SHADOW | REG_VIRT | VID),
	THE(eoi_msr, SHADOW | REG_VIRT | VID | X2APIC),
};

static uint8_t *msr_bitmap;

static void set_up(struct machine *t, const struct loop *l, unsigned more)
{
	features(t, l->features | more);
	if (!msr_bitmap)
		msr_bitmap = test_pages(4096);
	W(MSR_BITMAP, (uint64_t)msr_bitmap);
	W(CPU_BASED_VM_EXEC_CONTROL, R(t, CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_USE_MSR_BITMAPS);
	W(EXCEPTION_BITMAP, 0xffffffff);
	memset(vapic, 0, 4096);
	memcpy(t->ram + GPA_CODE, l->code, (size_t)(l->end - l->code));
	vmx_sync_code(t->cpu);
}

static uint64_t after(const struct loop *l)
{
	return GPA_CODE + (uint64_t)(l->after - l->code);
}

/* `most` in each round but LAST. */
static uint32_t run_loop(struct machine *t, uint32_t most, uint32_t last, uint64_t rflags)
{
	uint32_t *table = (uint32_t *)(void *)(t->ram + DATA_AT);

	for (unsigned n = 0; n < ROUNDS; n++)
		table[n] = n + 1 == LAST ? last : most;
	reg(t)[RSI] = DATA_AT;
	reg(t)[RDI] = ROUNDS;
	reg(t)[RBX] = APIC_AT;
	W(GUEST_RIP, GPA_CODE);
	W(GUEST_RSP, GPA_STACK);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | rflags);
	W(GUEST_ACTIVITY_STATE, GUEST_ACTIVITY_ACTIVE);
	return go(t);
}

/* All rounds, several times: translated, and known to write to the page. */
static void warm_up(struct machine *t, const struct loop *l)
{
	for (unsigned n = 0; n < 3; n++) {
		EXPECT(run_loop(t, 0xf0, 0xf0, 0), EXIT_REASON_HLT);
		EXPECT(R(t, GUEST_RIP), GPA_CODE + (uint64_t)(l->end - l->code) - 1);
		EXPECT(reg(t)[RDI], 0);
	}
}

static void expect_delivered(struct machine *t, const struct loop *l, unsigned vector)
{
	EXPECT(R(t, GUEST_RIP), HANDLER_AT + 16 * vector);
	EXPECT(*guest64(t, GPA_STACK - 40), after(l));
	EXPECT(reg(t)[RDI], LAST);
	EXPECT(R(t, GUEST_INTR_STATUS) >> 8, vector);
	assert_true(vector_set(VAPIC_ISR, vector));
}

static void pend(unsigned rvi, unsigned svi)
{
	memset(vapic + VAPIC_ISR, 0, 0x80);
	memset(vapic + VAPIC_IRR, 0, 0x80);
	if (rvi)
		set_vector(VAPIC_IRR, rvi);
	if (svi)
		set_vector(VAPIC_ISR, svi);
}

static void a_lower_priority_lets_the_interrupt_in_at_once(void **state)
{
	STATE;

	for (size_t n = 0; n < ARRAY_SIZE(tpr); n++) {
		set_up(t, &tpr[n], VID);
		warm_up(t, &tpr[n]);
		EXPECT(vapic32(VAPIC_PPR), 0xf0);
		pend(0x51, IN_SERVICE);
		W(GUEST_INTR_STATUS, IN_SERVICE << 8 | 0x51);
		EXPECT(run_loop(t, 0xf0, 0x40, X86_FLAGS_IF), EXIT_REASON_HLT);
		expect_delivered(t, &tpr[n], 0x51);
		/* not one of the same class */
		pend(0x51, IN_SERVICE);
		W(GUEST_INTR_STATUS, IN_SERVICE << 8 | 0x51);
		set_vapic32(VAPIC_TPR, 0xf0);
		EXPECT(run_loop(t, 0xf0, 0x50, X86_FLAGS_IF), EXIT_REASON_HLT);
		EXPECT(reg(t)[RDI], 0);
		EXPECT(R(t, GUEST_INTR_STATUS), IN_SERVICE << 8 | 0x51);
		/* nor while IF is 0 */
		EXPECT(run_loop(t, 0xf0, 0, 0), EXIT_REASON_HLT);
		EXPECT(reg(t)[RDI], 0);
		EXPECT(vapic32(VAPIC_PPR), 0xf0);
		EXPECT(R(t, GUEST_INTR_STATUS), IN_SERVICE << 8 | 0x51);
	}
}

static void below_the_threshold_is_an_exit(void **state)
{
	STATE;

	for (size_t n = 0; n < ARRAY_SIZE(tpr); n++) {
		set_up(t, &tpr[n], 0);
		warm_up(t, &tpr[n]);
		W(TPR_THRESHOLD, 5);
		EXPECT(run_loop(t, 0x50, 0x4f, 0), EXIT_REASON_TPR_BELOW_THRESHOLD);
		EXPECT(R(t, GUEST_RIP), after(&tpr[n]));
		EXPECT(reg(t)[RDI], LAST);
		EXPECT(vapic32(VAPIC_TPR) >> 4, 4);
		set_vapic32(VAPIC_TPR, 0xf0);
		EXPECT(run_loop(t, 0x70, 0x50, 0), EXIT_REASON_HLT);
		EXPECT(reg(t)[RDI], 0);
	}
}

static void what_no_priority_can_be_is_refused(void **state)
{
	STATE;

	for (size_t n = 1; n < ARRAY_SIZE(tpr); n++) {
		set_up(t, &tpr[n], VID);
		warm_up(t, &tpr[n]);
		EXPECT(run_loop(t, 0x20, 0x110, 0), EXIT_REASON_EXCEPTION_NMI);
		EXPECT(R(t, VM_EXIT_INTR_INFO) & 0xff, X86_TRAP_GP);
		EXPECT(reg(t)[RDI], LAST);
		EXPECT(vapic32(VAPIC_TPR), 0x20);
	}
	/* by memory the rest of the register is not there */
	set_up(t, &tpr[0], VID);
	warm_up(t, &tpr[0]);
	EXPECT(run_loop(t, 0xabcdef20, 0x12345630, 0), EXIT_REASON_HLT);
	EXPECT(vapic32(VAPIC_TPR), 0x20);
}

static void exits_that_the_controls_ask_for_come(void **state)
{
	STATE;

	set_up(t, &tpr[1], VID);
	warm_up(t, &tpr[1]);
	W(CPU_BASED_VM_EXEC_CONTROL, R(t, CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_CR8_LOAD_EXITING);
	EXPECT(run_loop(t, 0x20, 0x20, 0), EXIT_REASON_CR_ACCESS);
	W(CPU_BASED_VM_EXEC_CONTROL, (R(t, CPU_BASED_VM_EXEC_CONTROL) & ~CPU_BASED_CR8_LOAD_EXITING) |
					     CPU_BASED_CR8_STORE_EXITING);
	EXPECT(run_loop(t, 0x20, 0x20, 0), EXIT_REASON_CR_ACCESS);
	EXPECT(vapic32(VAPIC_TPR), 0xf0);
	set_up(t, &tpr[2], VID);
	warm_up(t, &tpr[2]);
	memset(msr_bitmap + 0x800, 0xff, 0x400);
	EXPECT(run_loop(t, 0x20, 0x20, 0), EXIT_REASON_MSR_WRITE);
	memset(msr_bitmap + 0x800, 0, 0x400);
	/* without the mode there are no such MSRs; others stay what they are */
	features(t, SHADOW | REG_VIRT);
	EXPECT(run_loop(t, 0x20, 0x20, 0), EXIT_REASON_EXCEPTION_NMI);
	EXPECT(vapic32(VAPIC_TPR), 0xf0);
}

static void the_end_of_one_interrupt_lets_the_next_in(void **state)
{
	STATE;

	for (size_t n = 0; n < ARRAY_SIZE(eoi); n++) {
		unsigned v = 0x30;

		set_up(t, &eoi[n], 0);
		warm_up(t, &eoi[n]);
		/* as many in service as rounds until LAST, then the one below them, which holds 41h back no more */
		pend(0x41, 0);
		for (; v < 0x30 + ROUNDS - LAST + 1; v++)
			set_vector(VAPIC_ISR, 0x42 + v);
		set_vector(VAPIC_ISR, IN_SERVICE);
		W(GUEST_INTR_STATUS, (0x42 + v - 1) << 8 | 0x41);
		EXPECT(run_loop(t, 0, 0, X86_FLAGS_IF), EXIT_REASON_HLT);
		expect_delivered(t, &eoi[n], 0x41);
		assert_true(vector_set(VAPIC_ISR, IN_SERVICE));
		for (unsigned x = 0x42; x < 256; x++)
			assert_false(vector_set(VAPIC_ISR, x));
	}
}

static void the_end_that_somebody_waits_for_is_an_exit(void **state)
{
	STATE;

	for (size_t n = 0; n < ARRAY_SIZE(eoi); n++) {
		set_up(t, &eoi[n], 0);
		warm_up(t, &eoi[n]);
		pend(0, 0x91);
		set_vector(VAPIC_ISR, 0x85);
		W(GUEST_INTR_STATUS, 0x9100);
		W(EOI_EXIT_BITMAP0 + 4, BIT_ULL(0x85 & 63));
		EXPECT(run_loop(t, 0, 0, 0), EXIT_REASON_EOI_INDUCED);
		EXPECT(R(t, EXIT_QUALIFICATION), 0x85);
		EXPECT(R(t, GUEST_RIP), after(&eoi[n]));
		EXPECT(reg(t)[RDI], ROUNDS - 1);
		EXPECT(R(t, GUEST_INTR_STATUS), 0);
		W(EOI_EXIT_BITMAP0 + 4, 0);
	}
}

/* The page is read-only, or another's, from the next INVLPG or entry on. */
static void stores_follow_the_translation(void **state)
{
	STATE;
	uint64_t *pte = &guest64(t, GPA_PT)[APIC_AT >> 12];
	static const uint64_t to[] = { APIC_AT | PTE_P, 0xa0000 | PTE_P | PTE_RW };

	set_up(t, &tpr[0], VID);
	W(GUEST_CR0, R(t, GUEST_CR0) | X86_CR0_WP);
	for (unsigned round = 0; round < 3; round++)
		for (unsigned n = 0; n < ARRAY_SIZE(to); n++) {
			*pte = APIC_AT | PTE_P | PTE_RW;
			EXPECT(invvpid(t->cpu, INVVPID_SINGLE_CONTEXT, 1, 0), VMX_SUCCEED);
			warm_up(t, &tpr[0]);
			*pte = to[n];
			EXPECT(invvpid(t->cpu, INVVPID_SINGLE_CONTEXT, 1, 0), VMX_SUCCEED);
			memset(t->ram + 0xa0000, 0, 4096);
			EXPECT(run_loop(t, 0x77, 0x77, 0), n ? EXIT_REASON_HLT : EXIT_REASON_EXCEPTION_NMI);
			EXPECT(vapic32(VAPIC_TPR), 0xf0);
			EXPECT(*(uint32_t *)(void *)(t->ram + 0xa0080), n ? 0x77 : 0);
		}
	*pte = APIC_AT | PTE_P | PTE_RW;
	EXPECT(invvpid(t->cpu, INVVPID_SINGLE_CONTEXT, 1, 0), VMX_SUCCEED);
}

/* mov [rbx+80h],eax; INVLPG of the page, whose PTE has been changed; again. */
GUEST(moves, "mov edi, 40\n"
	     "1: mov qword ptr [rdx], rcx\n invlpg [rbx]\n mov [rbx + 0x80], eax\n mov [rbx + 0x80], eax\n"
	     "mov qword ptr [rdx], rbp\n invlpg [rbx]\n mov [rbx + 0x80], edi\n mov [rbx + 0x80], edi\n"
	     "dec edi\n jnz 1b\n hlt");

static void invlpg_ends_quick_stores(void **state)
{
	STATE;

	set_up(t, &tpr[0], VID);
	PUT_AT(t, GPA_CODE, moves);
	vmx_sync_code(t->cpu);
	for (unsigned round = 0; round < 3; round++) {
		reg(t)[RDX] = GPA_PT + 8 * (APIC_AT >> 12);
		reg(t)[RCX] = APIC_AT | PTE_P | PTE_RW;
		reg(t)[RBP] = 0xa0000 | PTE_P | PTE_RW;
		reg(t)[RBX] = APIC_AT;
		reg(t)[RAX] = 0x60;
		W(GUEST_RIP, GPA_CODE);
		EXPECT(go(t), EXIT_REASON_HLT);
		EXPECT(vapic32(VAPIC_TPR), 0x60);
		EXPECT(*(uint32_t *)(void *)(t->ram + 0xa0080), 1);
	}
	guest64(t, GPA_PT)[APIC_AT >> 12] = APIC_AT | PTE_P | PTE_RW;
	EXPECT(invvpid(t->cpu, INVVPID_SINGLE_CONTEXT, 1, 0), VMX_SUCCEED);
}

static void nothing_leaves_the_unit(void **state)
{
	STATE;
	const struct vmx_counters *c = vmx_cpu_counters(t->cpu);

	if (!translating(t))
		skip();
	for (size_t n = 0; n < ARRAY_SIZE(tpr) + ARRAY_SIZE(eoi); n++) {
		const struct loop *l = n < ARRAY_SIZE(tpr) ? &tpr[n] : &eoi[n - ARRAY_SIZE(tpr)];
		uint64_t entries, stubs;

		set_up(t, l, VID);
		warm_up(t, l);
		entries = c->jit_entries;
		stubs = c->jit_stubs;
		EXPECT(run_loop(t, 0xf0, 0xe0, X86_FLAGS_IF), EXIT_REASON_HLT);
		assert_true(c->jit_entries - entries < 8);
		assert_true(c->jit_stubs - stubs < 8);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_APIC(a_lower_priority_lets_the_interrupt_in_at_once),
		TEST_APIC(below_the_threshold_is_an_exit),
		TEST_APIC(what_no_priority_can_be_is_refused),
		TEST_APIC(exits_that_the_controls_ask_for_come),
		TEST_APIC(the_end_of_one_interrupt_lets_the_next_in),
		TEST_APIC(the_end_that_somebody_waits_for_is_an_exit),
		TEST_APIC(stores_follow_the_translation),
		TEST_APIC(invlpg_ends_quick_stores),
		TEST_APIC(nothing_leaves_the_unit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
