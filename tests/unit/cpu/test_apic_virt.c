/* Virtual interrupts: evaluation, delivery, EOI, self-IPI, posted interrupts. */
#include "apic_machine.h"

#include <pthread.h>

#define EXPECT(got, want) assert_int_equal((got), (want))
#define ALL (ACCESSES | SHADOW | REG_VIRT | VID)

/* NOP, HLT with these flags and interruptibility. */
static uint32_t run_flags(struct machine *t, uint64_t rflags, uint32_t shadow)
{
	memset(t->ram + GPA_CODE, 0x90, 2);
	t->ram[GPA_CODE + 2] = 0xf4;
	vmx_sync_code(t->cpu);
	W(GUEST_RIP, GPA_CODE);
	W(GUEST_RSP, GPA_STACK);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | rflags);
	W(GUEST_INTERRUPTIBILITY_INFO, shadow);
	W(GUEST_ACTIVITY_STATE, GUEST_ACTIVITY_ACTIVE);
	return go(t);
}

static uint64_t handler(unsigned v)
{
	return HANDLER_AT + 16 * v;
}

static void pend(struct machine *t, unsigned rvi, unsigned svi)
{
	memset(vapic + VAPIC_ISR, 0, 0x80);
	memset(vapic + VAPIC_IRR, 0, 0x80);
	if (rvi)
		set_vector(VAPIC_IRR, rvi);
	if (svi)
		set_vector(VAPIC_ISR, svi);
	W(GUEST_INTR_STATUS, svi << 8 | rvi);
}

static void a_vector_above_the_priority_is_delivered_at_entry(void **state)
{
	STATE;

	features(t, ALL);
	pend(t, 0x51, 0);
	set_vector(VAPIC_IRR, 0x33);
	EXPECT(run_flags(t, X86_FLAGS_IF, 0), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_RIP), handler(0x51));
	EXPECT(R(t, GUEST_INTR_STATUS), 0x5133);
	assert_true(vector_set(VAPIC_ISR, 0x51));
	assert_false(vector_set(VAPIC_IRR, 0x51));
	EXPECT(vapic32(VAPIC_PPR), 0x50);
	EXPECT(*guest64(t, GPA_STACK - 40), GPA_CODE);
	/* the same class as the priority is not enough */
	pend(t, 0x5f, 0);
	set_vapic32(VAPIC_TPR, 0x50);
	EXPECT(run_flags(t, X86_FLAGS_IF, 0), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_RIP), GPA_CODE + 2);
	EXPECT(vapic32(VAPIC_PPR), 0x50);
	pend(t, 0x5f, 0x51);
	set_vapic32(VAPIC_TPR, 0);
	EXPECT(run_flags(t, X86_FLAGS_IF, 0), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_RIP), GPA_CODE + 2);
	pend(t, 0x60, 0x51);
	EXPECT(run_flags(t, X86_FLAGS_IF, 0), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_RIP), handler(0x60));
}

static void flag_shadow_and_window_hold_it_back(void **state)
{
	STATE;

	features(t, ALL);
	pend(t, 0x51, 0);
	EXPECT(run_flags(t, 0, 0), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_RIP), GPA_CODE + 2);
	EXPECT(R(t, GUEST_INTR_STATUS), 0x51);
	EXPECT(run_flags(t, X86_FLAGS_IF, GUEST_INTR_STATE_STI), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_RIP), handler(0x51));
	EXPECT(*guest64(t, GPA_STACK - 40), GPA_CODE + 1); /* after one instruction */
	pend(t, 0x51, 0);
	W(CPU_BASED_VM_EXEC_CONTROL, R(t, CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_INTR_WINDOW_EXITING);
	EXPECT(run_flags(t, X86_FLAGS_IF, 0), EXIT_REASON_INTERRUPT_WINDOW);
	EXPECT(R(t, GUEST_INTR_STATUS), 0x51);
	W(CPU_BASED_VM_EXEC_CONTROL, R(t, CPU_BASED_VM_EXEC_CONTROL) & ~CPU_BASED_INTR_WINDOW_EXITING);
	EXPECT(RUN(0, 0, 0xfb, 0x90, 0x90), EXIT_REASON_HLT); /* STI opens it one instruction later */
	EXPECT(R(t, GUEST_RIP), handler(0x51));
	EXPECT(*guest64(t, GPA_STACK - 40), GPA_CODE + 2);
}

static void it_wakes_from_hlt(void **state)
{
	STATE;

	features(t, ALL);
	W(CPU_BASED_VM_EXEC_CONTROL, R(t, CPU_BASED_VM_EXEC_CONTROL) & ~CPU_BASED_HLT_EXITING);
	pend(t, 0x51, 0);
	memset(t->ram + HANDLER_AT, 0xf4, 4096);
	W(CPU_BASED_VM_EXEC_CONTROL, R(t, CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_HLT_EXITING);
	run_flags(t, 0, 0);
	W(GUEST_ACTIVITY_STATE, GUEST_ACTIVITY_HLT);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_IF);
	EXPECT(go(t), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_RIP), handler(0x51));
	EXPECT(R(t, GUEST_ACTIVITY_STATE), GUEST_ACTIVITY_ACTIVE);
	/* not where nothing is recognised: a kick has to end that sleep */
	pend(t, 0x51, 0x51);
	W(GUEST_ACTIVITY_STATE, GUEST_ACTIVITY_HLT);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_IF);
	vmx_kick(t->cpu);
	EXPECT(go(t), EXIT_REASON_EXTERNAL_INTERRUPT);
	EXPECT(R(t, GUEST_ACTIVITY_STATE), GUEST_ACTIVITY_HLT);
}

static void its_place_is_behind_traps_and_nmi_window_and_before_a_kick(void **state)
{
	STATE;

	features(t, ALL);
	pend(t, 0x51, 0);
	vmx_kick(t->cpu);
	EXPECT(run_flags(t, X86_FLAGS_IF, 0), EXIT_REASON_EXTERNAL_INTERRUPT);
	EXPECT(R(t, GUEST_RIP), handler(0x51));
	pend(t, 0x51, 0);
	W(PIN_BASED_VM_EXEC_CONTROL, R(t, PIN_BASED_VM_EXEC_CONTROL) | PIN_BASED_VIRTUAL_NMIS);
	W(CPU_BASED_VM_EXEC_CONTROL, R(t, CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_NMI_WINDOW_EXITING);
	EXPECT(run_flags(t, X86_FLAGS_IF, 0), EXIT_REASON_NMI_WINDOW);
	EXPECT(R(t, GUEST_RIP), GPA_CODE);
	W(CPU_BASED_VM_EXEC_CONTROL, R(t, CPU_BASED_VM_EXEC_CONTROL) & ~CPU_BASED_NMI_WINDOW_EXITING);
	set_gate(t, 1, HANDLER_AT);
	W(GUEST_PENDING_DBG_EXCEPTIONS, DR6_BS);
	EXPECT(run_flags(t, X86_FLAGS_IF, 0), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_RIP), HANDLER_AT); /* whose gate has cleared IF */
}

static void an_exit_in_delivery_leaves_it_in_service(void **state)
{
	STATE;

	features(t, ALL);
	pend(t, 0x51, 0);
	*ept_leaf(t, GPA_STACK - 0x1000) = 0;
	EXPECT(run_flags(t, X86_FLAGS_IF, 0), EXIT_REASON_EPT_VIOLATION);
	EXPECT(R(t, IDT_VECTORING_INFO_FIELD), INTR_INFO_VALID_MASK | 0x51);
	EXPECT(R(t, GUEST_INTR_STATUS), 0x5100);
	EXPECT(R(t, GUEST_RIP), GPA_CODE);
	assert_true(vector_set(VAPIC_ISR, 0x51));
	assert_false(vector_set(VAPIC_IRR, 0x51));
}

static const uint8_t eoi[] = { 0xc7, 0x83, 0xb0, 0, 0, 0, 0, 0, 0, 0 }; /* mov dword [rbx+0b0h],0 */

static uint32_t run_eoi(struct machine *t)
{
	return run_code(t, eoi, sizeof(eoi), APIC_AT, 0);
}

static void eoi_ends_the_highest_and_evaluates(void **state)
{
	STATE;

	features(t, ALL);
	pend(t, 0, 0x72);
	set_vector(VAPIC_ISR, 0x41);
	set_vapic32(VAPIC_EOI, 0x55);
	EXPECT(run_eoi(t), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_INTR_STATUS), 0x4100);
	EXPECT(vapic32(VAPIC_PPR), 0x40);
	EXPECT(vapic32(VAPIC_EOI), 0);
	EXPECT(run_eoi(t), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_INTR_STATUS), 0);
	EXPECT(run_eoi(t), EXIT_REASON_HLT); /* nothing in service */
	EXPECT(R(t, GUEST_INTR_STATUS), 0);
	/* one that waited comes right behind the EOI */
	pend(t, 0x45, 0x72);
	memcpy(t->ram + GPA_CODE, eoi, sizeof(eoi));
	memset(t->ram + GPA_CODE + sizeof(eoi), 0x90, 4);
	vmx_sync_code(t->cpu);
	W(GUEST_RIP, GPA_CODE);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_IF);
	EXPECT(go(t), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_RIP), handler(0x45));
	EXPECT(*guest64(t, GPA_STACK - 40), GPA_CODE + sizeof(eoi));
}

static void the_eoi_bitmap_exits_and_does_not_evaluate(void **state)
{
	STATE;

	features(t, ALL);
	for (unsigned v = 16; v < 256; v++) {
		W(EOI_EXIT_BITMAP0 + 2 * (v / 64), BIT_ULL(v % 64));
		pend(t, 0, v);
		EXPECT(run_eoi(t), EXIT_REASON_EOI_INDUCED);
		EXPECT(R(t, EXIT_QUALIFICATION), v);
		EXPECT(R(t, GUEST_RIP), GPA_CODE + sizeof(eoi));
		EXPECT(R(t, GUEST_INTR_STATUS), 0);
		assert_false(vector_set(VAPIC_ISR, v));
		W(EOI_EXIT_BITMAP0 + 2 * (v / 64), 0);
		pend(t, 0, v);
		EXPECT(run_eoi(t), EXIT_REASON_HLT);
	}
	W(EOI_EXIT_BITMAP0 + 2, BIT_ULL(0x72 - 64));
	pend(t, 0x45, 0x72);
	memcpy(t->ram + GPA_CODE, eoi, sizeof(eoi));
	vmx_sync_code(t->cpu);
	W(GUEST_RIP, GPA_CODE);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_IF);
	EXPECT(go(t), EXIT_REASON_EOI_INDUCED);
	EXPECT(R(t, GUEST_INTR_STATUS), 0x45);
	EXPECT(go(t), EXIT_REASON_HLT); /* the entry has evaluated */
	EXPECT(R(t, GUEST_RIP), handler(0x45));
}

static void lowering_the_task_priority_delivers(void **state)
{
	STATE;

	features(t, ALL);
	pend(t, 0x45, 0);
	set_vapic32(VAPIC_TPR, 0x80);
	memcpy(t->ram + GPA_CODE, "\xc7\x83\x80\0\0\0\x30\0\0\0\x90\xf4", 12); /* mov dword [rbx+80h],30h */
	vmx_sync_code(t->cpu);
	vmx_gprs(t->cpu)[RBX] = APIC_AT;
	W(GUEST_RIP, GPA_CODE);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_IF);
	EXPECT(go(t), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_RIP), handler(0x45));
	EXPECT(*guest64(t, GPA_STACK - 40), GPA_CODE + 10);
}

static uint32_t run_icr(struct machine *t, uint32_t icr)
{
	memset(vapic + VAPIC_IRR, 0, 0x80);
	W(GUEST_INTR_STATUS, 0);
	return RUN(APIC_AT + 0x300, icr, 0x89, 0x03);
}

static void only_a_fixed_edge_self_ipi_is_virtualized(void **state)
{
	STATE;

	features(t, ALL);
	EXPECT(run_icr(t, 0x40010), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_INTR_STATUS), 0x10);
	assert_true(vector_set(VAPIC_IRR, 0x10));
	EXPECT(run_icr(t, 0x4000f), EXIT_REASON_APIC_WRITE);
	EXPECT(R(t, EXIT_QUALIFICATION), 0x300);
	for (unsigned bit = 8; bit < 32; bit++) {
		uint32_t icr = 0x40041U ^ (1U << bit);
		bool ignored = bit == 11 || bit == 14; /* destination mode, level: of no account with a shorthand */
		uint32_t got = run_icr(t, icr);

		if (got != (ignored ? EXIT_REASON_HLT : EXIT_REASON_APIC_WRITE))
			fail_msg("ICR %#x: exit %u", icr, got);
	}
	EXPECT(run_icr(t, 0x00041), EXIT_REASON_APIC_WRITE);
	EXPECT(run_icr(t, 0x80041), EXIT_REASON_APIC_WRITE);
	EXPECT(run_icr(t, 0xc0041), EXIT_REASON_APIC_WRITE);
	EXPECT(R(t, GUEST_INTR_STATUS), 0);
	features(t, ACCESSES | SHADOW | REG_VIRT);
	EXPECT(run_icr(t, 0x40041), EXIT_REASON_APIC_WRITE);
}

static void icr_high_keeps_its_destination_only(void **state)
{
	STATE;

	features(t, ALL);
	EXPECT(RUN(APIC_AT + 0x310, 0x12345678, 0x89, 0x03), EXIT_REASON_HLT);
	EXPECT(vapic32(VAPIC_ICR_HI), 0x12000000);
}

static void post(unsigned v)
{
	__atomic_fetch_or(&pid[v / 64], BIT_ULL(v % 64), __ATOMIC_SEQ_CST);
	__atomic_fetch_or(&pid[4], 1, __ATOMIC_SEQ_CST);
}

static void posted_vectors_are_taken_without_an_exit(void **state)
{
	STATE;

	features(t, ALL | POSTED);
	post(0x41);
	post(0x93);
	pid[4] |= 0xff00000002ULL; /* software's own bits stay */
	vmx_notify(t->cpu, NV);
	EXPECT(run_flags(t, X86_FLAGS_IF, 0), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_RIP), handler(0x93));
	EXPECT(R(t, GUEST_INTR_STATUS), 0x9341);
	EXPECT(pid[0] | pid[1] | pid[2] | pid[3], 0);
	EXPECT(pid[4], 0xff00000002ULL);
	/* ON alone, and an empty descriptor: nothing comes of them */
	pend(t, 0, 0);
	pid[4] = 1;
	vmx_notify(t->cpu, NV);
	EXPECT(run_flags(t, X86_FLAGS_IF, 0), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_RIP), GPA_CODE + 2);
	EXPECT(pid[4], 0);
	/* a lower vector does not lower RVI */
	pend(t, 0xa0, 0);
	post(0x20);
	vmx_notify(t->cpu, NV);
	EXPECT(run_flags(t, 0, 0), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_INTR_STATUS), 0xa0);
	assert_true(vector_set(VAPIC_IRR, 0x20));
	/* all of them */
	pend(t, 0, 0);
	for (unsigned v = 0; v < 256; v++)
		post(v);
	vmx_notify(t->cpu, NV);
	EXPECT(run_flags(t, 0, 0), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_INTR_STATUS), 0xff);
	for (unsigned v = 0; v < 256; v++)
		assert_true(vector_set(VAPIC_IRR, v));
}

static void another_vector_is_an_external_interrupt(void **state)
{
	STATE;

	features(t, ALL | POSTED);
	post(0x41);
	vmx_notify(t->cpu, 0xf0);
	EXPECT(run_flags(t, X86_FLAGS_IF, 0), EXIT_REASON_EXTERNAL_INTERRUPT);
	EXPECT(R(t, VM_EXIT_INTR_INFO), INTR_INFO_VALID_MASK | 0xf0);
	EXPECT(pid[1], 2);
	EXPECT(run_flags(t, X86_FLAGS_IF, 0), EXIT_REASON_HLT); /* once */
	features(t, ALL);
	vmx_notify(t->cpu, NV);
	EXPECT(run_flags(t, X86_FLAGS_IF, 0), EXIT_REASON_EXTERNAL_INTERRUPT);
	EXPECT(R(t, VM_EXIT_INTR_INFO), INTR_INFO_VALID_MASK | NV);
}

#define POSTS 200000
#define POSTERS 2
static struct vmx_cpu *target;
static uint32_t sent[1024] __attribute__((aligned(4096))); /* (a) acknowledgements that are outstanding */
static bool stop_posting;

/* Posts a vector of its own as soon as the one before was seen by the guest. */
static void *poster(void *arg)
{
	unsigned v = 0x40 + 0x10 * (unsigned)(uintptr_t)arg;

	for (unsigned n = 0; n < POSTS / 100; n++) {
		__atomic_store_n(&sent[v], 1, __ATOMIC_SEQ_CST);
		__atomic_fetch_or(&pid[v / 64], BIT_ULL(v % 64), __ATOMIC_SEQ_CST);
		if (!(__atomic_fetch_or(&pid[4], 1, __ATOMIC_SEQ_CST) & 1))
			vmx_notify(target, NV);
		while (__atomic_load_n(&sent[v], __ATOMIC_SEQ_CST) && !READ_ONCE(stop_posting))
			sched_yield();
	}
	return NULL;
}

static void *kicker(void *arg)
{
	pthread_t p[POSTERS];

	for (uintptr_t n = 0; n < POSTERS; n++)
		pthread_create(&p[n], NULL, poster, (void *)n);
	for (int n = 0; n < POSTERS; n++)
		pthread_join(p[n], NULL);
	vmx_kick(target);
	return NULL;
}

/* Each vector that is posted arrives once: the handlers count, and answer at `sent`. */
static void posts_of_other_threads_arrive_each_once(void **state)
{
	STATE;
	pthread_t th;
	uint32_t got;

	features(t, ALL | POSTED);
	target = t->cpu;
	/* the guest's page DATA_AT is sent[]'s host page; its loop: sti; jmp $ */
	for (unsigned k = 0; k < POSTERS; k++) {
		unsigned v = 0x40 + 0x10 * k;
		uint8_t code[] = { 0xff, 0x04, 0x25, 0, 0, 0, 0, /* inc dword [counter] */
				   0xc7, 0x83, 0xb0, 0, 0, 0, 0, 0, 0, 0, /* EOI */
				   0xc7, 0x04, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, /* mov dword [sent],0 */
				   0x48, 0xcf };
		uint32_t counter = (uint32_t)DATA_AT + 0x1000 + 4 * k;
		uint32_t ack = (uint32_t)DATA_AT + (uint32_t)((uintptr_t)&sent[v] & 0xfff);

		memcpy(code + 3, &counter, 4);
		memcpy(code + 20, &ack, 4);
		memcpy(t->ram + 0x70000 + 0x100 * k, code, sizeof(code));
		set_gate(t, v, 0x70000 + 0x100 * k);
	}
	*ept_leaf(t, DATA_AT) = ((uint64_t)&sent[0x40] & PAGE_MASK) | LEAF_RWX;
	memcpy(t->ram + GPA_CODE, "\xfb\xeb\xfe", 3);
	vmx_sync_code(t->cpu);
	vmx_gprs(t->cpu)[RBX] = APIC_AT;
	W(GUEST_RIP, GPA_CODE);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED);
	pthread_create(&th, NULL, kicker, NULL);
	got = go(t);
	WRITE_ONCE(stop_posting, true);
	pthread_join(th, NULL);
	EXPECT(got, EXIT_REASON_EXTERNAL_INTERRUPT);
	for (unsigned k = 0; k < POSTERS; k++)
		EXPECT(((uint32_t *)(void *)(t->ram + DATA_AT + 0x1000))[k], POSTS / 100);
	EXPECT(R(t, GUEST_INTR_STATUS), 0);
}

/* call f; mov [DATA_AT],eax; and f: mov eax,imm32; ret */
#define CALL_F(from) 0xe8, (uint8_t)(F_AT - (from) - 5), (uint8_t)((F_AT - (from) - 5) >> 8), (uint8_t)((F_AT - (from) - 5) >> 16), 0
#define F_AT 0x75000UL

static void *announcer(void *arg)
{
	struct machine *t = arg;
	const uint32_t *result = (const uint32_t *)(t->ram + DATA_AT);

	while (__atomic_load_n(result, __ATOMIC_SEQ_CST) != 1 && !READ_ONCE(stop_posting))
		sched_yield();
	t->ram[F_AT + 1] = 2;
	vmx_sync_machine_code(t->m);
	post(0x41);
	vmx_notify(t->cpu, NV);
	return NULL;
}

/* A device writes code, the hypervisor says so and posts: the handler runs the new code, without an exit. */
static void code_announced_before_a_posted_vector_is_seen(void **state)
{
	STATE;
	const uint8_t loop[] = { 0xfb, CALL_F(GPA_CODE + 1), 0x89, 0x04, 0x25, 0, DATA_AT >> 8 & 255, DATA_AT >> 16, 0, 0xeb, 0xf2 };
	const uint8_t h[] = { CALL_F(0x70000), 0xf4 };
	pthread_t th;

	features(t, ALL | POSTED);
	pend(t, 0, 0);
	memcpy(t->ram + GPA_CODE, loop, sizeof(loop));
	memcpy(t->ram + 0x70000, h, sizeof(h));
	memcpy(t->ram + F_AT, "\xb8\x01\0\0\0\xc3", 6);
	set_gate(t, 0x41, 0x70000);
	vmx_sync_code(t->cpu);
	W(GUEST_RIP, GPA_CODE);
	W(GUEST_RSP, GPA_STACK);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED);
	stop_posting = false;
	assert_int_equal(pthread_create(&th, NULL, announcer, t), 0);
	EXPECT(go(t), EXIT_REASON_HLT);
	WRITE_ONCE(stop_posting, true);
	pthread_join(th, NULL);
	EXPECT(vmx_gprs(t->cpu)[RAX], 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_APIC(a_vector_above_the_priority_is_delivered_at_entry),
		TEST_APIC(flag_shadow_and_window_hold_it_back),
		TEST_APIC(it_wakes_from_hlt),
		TEST_APIC(its_place_is_behind_traps_and_nmi_window_and_before_a_kick),
		TEST_APIC(an_exit_in_delivery_leaves_it_in_service),
		TEST_APIC(eoi_ends_the_highest_and_evaluates),
		TEST_APIC(the_eoi_bitmap_exits_and_does_not_evaluate),
		TEST_APIC(lowering_the_task_priority_delivers),
		TEST_APIC(only_a_fixed_edge_self_ipi_is_virtualized),
		TEST_APIC(icr_high_keeps_its_destination_only),
		TEST_APIC(posted_vectors_are_taken_without_an_exit),
		TEST_APIC(another_vector_is_an_external_interrupt),
		TEST_APIC(posts_of_other_threads_arrive_each_once),
		TEST_APIC(code_announced_before_a_posted_vector_is_seen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
