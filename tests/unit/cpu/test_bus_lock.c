/* "VMM bus-lock detection": what a bus lock is, and when its VM exit comes. */
#include "machine.h"

#include <pthread.h>
#include <sched.h>

#define STATE struct machine *t = *state
#define BUS_LOCK_EXIT (EXIT_REASON_BUS_LOCK | VMX_EXIT_REASONS_BUS_LOCK)
#define AT 0x40000UL /* a page of data */
#define MAX_CODE 8

static void detect(struct machine *t, bool on)
{
	uint64_t controls = R(t, SECONDARY_VM_EXEC_CONTROL);

	W(SECONDARY_VM_EXEC_CONTROL, on ? controls | SECONDARY_EXEC_BUS_LOCK_DETECTION
					: controls & ~SECONDARY_EXEC_BUS_LOCK_DETECTION);
}

/* What lies at `gpa`, aligned or not. */
static uint32_t word32(const struct machine *t, gpa_t gpa)
{
	uint32_t v;

	memcpy(&v, t->ram + gpa, sizeof(v));
	return v;
}

static uint16_t word16(const struct machine *t, gpa_t gpa)
{
	return (uint16_t)word32(t, gpa);
}

/* Run `code` at the start of the code page, RBX being what it works on; HLT follows. */
static uint32_t run_at(struct machine *t, const uint8_t *code, unsigned len, gva_t rbx)
{
	memcpy(t->ram + GPA_CODE, code, len);
	t->ram[GPA_CODE + len] = 0xf4;
	vmx_sync_code(t->cpu);
	W(GUEST_RIP, GPA_CODE);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED);
	vmx_gprs(t->cpu)[RAX] = 0;
	vmx_gprs(t->cpu)[RBX] = rbx;
	return go(t);
}

/* Every locked form, working on [rbx]; the first byte is LOCK, or the form implies it. */
static const struct form {
	uint8_t code[MAX_CODE];
	uint8_t len, size;
} forms[] = {
	{{0xf0, 0x66, 0x01, 0x03}, 4, 2},	/* add word [rbx],ax */
	{{0xf0, 0x01, 0x03}, 3, 4},		/* add */
	{{0xf0, 0x48, 0x01, 0x03}, 4, 8},
	{{0xf0, 0x09, 0x03}, 3, 4},		/* or */
	{{0xf0, 0x11, 0x03}, 3, 4},		/* adc */
	{{0xf0, 0x19, 0x03}, 3, 4},		/* sbb */
	{{0xf0, 0x21, 0x03}, 3, 4},		/* and */
	{{0xf0, 0x29, 0x03}, 3, 4},		/* sub */
	{{0xf0, 0x31, 0x03}, 3, 4},		/* xor */
	{{0xf0, 0x83, 0x03, 0x01}, 4, 4},	/* add, immediate */
	{{0xf0, 0x48, 0x81, 0x0b, 1}, 8, 8},	/* or, immediate */
	{{0xf0, 0xff, 0x03}, 3, 4},		/* inc */
	{{0xf0, 0x48, 0xff, 0x0b}, 4, 8},	/* dec */
	{{0xf0, 0xf7, 0x13}, 3, 4},		/* not */
	{{0xf0, 0xf7, 0x1b}, 3, 4},		/* neg */
	{{0xf0, 0x0f, 0xab, 0x03}, 4, 4},	/* bts [rbx],eax */
	{{0xf0, 0x0f, 0xb3, 0x03}, 4, 4},	/* btr */
	{{0xf0, 0x0f, 0xbb, 0x03}, 4, 4},	/* btc */
	{{0xf0, 0x48, 0x0f, 0xba, 0x2b, 5}, 6, 8}, /* bts, immediate */
	{{0xf0, 0x0f, 0xc1, 0x03}, 4, 4},	/* xadd */
	{{0xf0, 0x48, 0x0f, 0xc1, 0x03}, 5, 8},
	{{0xf0, 0x0f, 0xb1, 0x0b}, 4, 4},	/* cmpxchg [rbx],ecx */
	{{0xf0, 0x48, 0x0f, 0xb1, 0x0b}, 5, 8},
	{{0xf0, 0x0f, 0xc7, 0x0b}, 4, 8},	/* cmpxchg8b */
	{{0x66, 0x87, 0x03}, 3, 2},		/* xchg: LOCK is implied */
	{{0x87, 0x03}, 2, 4},
	{{0x48, 0x87, 0x03}, 3, 8},
	{{0xf0, 0x48, 0x87, 0x03}, 4, 8},
};

#define expect(reason, wanted, what)                                                        \
	do {                                                                                \
		uint32_t got_ = (reason);                                                   \
		if (got_ != (wanted))                                                       \
			fail_msg("form %u, " what ": exit %#x, not %#x", n, got_, (wanted)); \
	} while (0)

static void every_locked_form_across_a_line_or_a_page_exits_behind_it(void **state)
{
	STATE;
	static const gva_t ends[] = {AT + 64, AT + 0x1000};

	detect(t, true);
	for (unsigned n = 0; n < ARRAY_SIZE(forms); n++)
		for (unsigned e = 0; e < ARRAY_SIZE(ends); e++) {
			const struct form *f = &forms[n];

			expect(run_at(t, f->code, f->len, ends[e] - f->size / 2), BUS_LOCK_EXIT, "split");
			assert_int_equal(R(t, GUEST_RIP), GPA_CODE + f->len);
			expect(go(t), EXIT_REASON_HLT, "after it");
			expect(run_at(t, f->code, f->len, ends[e] - 1), BUS_LOCK_EXIT, "one byte before");
			expect(run_at(t, f->code, f->len, ends[e] - f->size + 1), BUS_LOCK_EXIT, "one after");
		}
}

static void within_a_line_nothing_exits(void **state)
{
	STATE;

	detect(t, true);
	for (unsigned n = 0; n < ARRAY_SIZE(forms); n++) {
		const struct form *f = &forms[n];

		expect(run_at(t, f->code, f->len, AT), EXIT_REASON_HLT, "aligned");
		expect(run_at(t, f->code, f->len, AT + 64 - f->size), EXIT_REASON_HLT, "end of the line");
		expect(run_at(t, f->code, f->len, AT + 0x1000 - f->size), EXIT_REASON_HLT, "end of the page");
		expect(run_at(t, f->code, f->len, AT + 1), EXIT_REASON_HLT, "unaligned");
	}
}

/* Off at first, then on, then off again: what was decoded before does not matter. */
static void the_control_decides_from_the_next_entry_on(void **state)
{
	STATE;
	bool on = false;

	for (unsigned n = 0; n < ARRAY_SIZE(forms); n++) {
		const struct form *f = &forms[n];

		for (unsigned k = 0; k < 3; k++, on = !on) {
			detect(t, on);
			expect(run_at(t, f->code, f->len, AT + 63), on ? BUS_LOCK_EXIT : EXIT_REASON_HLT,
			       "control");
		}
	}
}

/* What a form leaves of the operand, the registers it names and the flags, from the same beginning. */
struct outcome {
	uint64_t operand, rax, rcx, rdx, rflags, split_locks;
};

static struct outcome outcome(struct machine *t, const struct form *f, gva_t at, bool second_equal)
{
	uint64_t before = t->cpu->counters.split_locks, *gprs = vmx_gprs(t->cpu);
	/* CMPXCHG: equal or not */
	uint64_t value = second_equal ? 0 : 0x80f17f018000ffffULL;
	struct outcome o = { 0 };

	gprs[RCX] = 0x1122334455667788ULL;
	gprs[RDX] = 0;
	memcpy(t->ram + at, &value, sizeof(value));
	assert_int_equal(run_at(t, f->code, f->len, at), EXIT_REASON_HLT);
	memcpy(&o.operand, t->ram + at, sizeof(o.operand));
	if (f->code[2] == 0xc7 && second_equal) /* CMPXCHG8B has put EBX there */
		o.operand -= at;
	o.rax = gprs[RAX];
	o.rcx = gprs[RCX];
	o.rdx = gprs[RDX];
	o.rflags = R(t, GUEST_RFLAGS);
	o.split_locks = t->cpu->counters.split_locks - before;
	return o;
}

/* On the host a lock across lines would be one of the host's bus. */
static void a_lock_across_lines_is_made_in_two_parts_and_no_other(void **state)
{
	STATE;
	static const gva_t ends[] = {AT + 64, AT + 0x1000};

	for (unsigned n = 0; n < ARRAY_SIZE(forms); n++)
		for (unsigned equal = 0; equal < 2; equal++) {
			const struct form *f = &forms[n];
			struct outcome aligned = outcome(t, f, AT, equal), o;

			assert_int_equal(aligned.split_locks, 0);
			assert_int_equal(outcome(t, f, AT + 1, equal).split_locks, 0);
			for (unsigned e = 0; e < ARRAY_SIZE(ends); e++)
				for (gva_t at = ends[e] - 8; at <= ends[e]; at++) {
					o = outcome(t, f, at, equal);
					if (o.split_locks != (at < ends[e] && at + f->size > ends[e]))
						fail_msg("form %u at %#lx: %lu split locks", n, at, o.split_locks);
					o.split_locks = 0;
					assert_memory_equal(&o, &aligned, sizeof(o));
				}
		}
}

static void without_lock_there_is_no_bus_lock(void **state)
{
	STATE;

	detect(t, true);
	for (unsigned n = 0; n < ARRAY_SIZE(forms); n++)
		if (forms[n].code[0] == 0xf0 && forms[n].code[2] != 0x87)
			expect(run_at(t, forms[n].code + 1, forms[n].len - 1, AT + 63), EXIT_REASON_HLT,
			       "no LOCK");
}

static void the_result_is_that_of_the_instruction(void **state)
{
	STATE;
	static const uint8_t inc[] = {0xf0, 0x48, 0xff, 0x03};

	detect(t, true);
	for (unsigned k = 0; k < 3; k++) {
		assert_int_equal(run_at(t, inc, sizeof(inc), AT + 60), BUS_LOCK_EXIT);
		assert_int_equal(word32(t, AT + 60), k + 1);
	}
	/* two pages that are apart */
	guest64(t, GPA_PT)[0x41] = 0x43000 | PTE_P | PTE_RW;
	*guest64(t, AT + 0xff8) = ~0ULL;
	assert_int_equal(run_at(t, inc, sizeof(inc), AT + 0xffc), BUS_LOCK_EXIT);
	assert_int_equal(word32(t, AT + 0xffc), 0);
	assert_int_equal(word32(t, 0x43000), 1);
}

/* 16 bytes have to be aligned, and then are in one line. */
static void cmpxchg16b_is_never_a_split_lock(void **state)
{
	STATE;
	static const uint8_t code[] = {0xf0, 0x48, 0x0f, 0xc7, 0x0b};

	detect(t, true);
	W(EXCEPTION_BITMAP, ~0u);
	assert_int_equal(run_at(t, code, sizeof(code), AT + 48), EXIT_REASON_HLT);
	assert_int_equal(run_at(t, code, sizeof(code), AT + 56), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(R(t, VM_EXIT_INTR_INFO) & 0xff, X86_TRAP_GP);
}

/* BTS and its like with a bit offset in a register: what counts is where the bit is. */
static void the_operand_of_a_bit_string_is_where_its_bit_is(void **state)
{
	STATE;
	/* mov eax,15*32; lock bts [rbx],eax */
	static const uint8_t code[] = {0xb8, 0xe0, 1, 0, 0, 0xf0, 0x0f, 0xab, 0x03};

	detect(t, true);
	assert_int_equal(run_at(t, code, sizeof(code), AT + 2), BUS_LOCK_EXIT);
	assert_int_equal(word32(t, AT + 62), 1);
	assert_int_equal(run_at(t, code, sizeof(code), AT + 62), EXIT_REASON_HLT);
}

static const uint8_t lock_inc[] = {0xf0, 0xff, 0x03};

/* SDM "UC lock": a locked access whose memory type is not WB. */
static void a_lock_on_memory_that_is_not_write_back_is_one(void **state)
{
	STATE;
	uint64_t *pte = &guest64(t, GPA_PT)[AT >> 12], *leaf = ept_leaf(t, AT);
	uint64_t write_back = *leaf;

	detect(t, true);
	assert_int_equal(run_at(t, lock_inc, sizeof(lock_inc), AT), EXIT_REASON_HLT);
	*leaf &= ~EPT_MEMTYPE_MASK;
	assert_int_equal(invept(t->cpu, INVEPT_ALL_CONTEXT, 0), VMX_SUCCEED);
	assert_int_equal(run_at(t, lock_inc, sizeof(lock_inc), AT), BUS_LOCK_EXIT);
	*leaf = write_back;
	*pte |= PTE_PCD;
	assert_int_equal(invept(t->cpu, INVEPT_ALL_CONTEXT, 0), VMX_SUCCEED);
	assert_int_equal(run_at(t, lock_inc, sizeof(lock_inc), AT), BUS_LOCK_EXIT);
	*leaf |= EPT_IPAT;
	assert_int_equal(invept(t->cpu, INVEPT_ALL_CONTEXT, 0), VMX_SUCCEED);
	assert_int_equal(run_at(t, lock_inc, sizeof(lock_inc), AT), EXIT_REASON_HLT);
	W(GUEST_CR0, R(t, GUEST_CR0) | X86_CR0_CD);
	assert_int_equal(run_at(t, lock_inc, sizeof(lock_inc), AT), BUS_LOCK_EXIT);
}

static void an_instruction_that_does_not_complete_locks_nothing(void **state)
{
	STATE;
	uint64_t leaf = *ept_leaf(t, AT + 0x1000);

	detect(t, true);
	W(EXCEPTION_BITMAP, ~0u);
	guest64(t, GPA_PT)[(AT >> 12) + 2] = 0;
	assert_int_equal(run_at(t, lock_inc, sizeof(lock_inc), AT + 0x1ffe), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE);
	*ept_leaf(t, AT + 0x1000) = 0;
	assert_int_equal(invept(t->cpu, INVEPT_ALL_CONTEXT, 0), VMX_SUCCEED);
	assert_int_equal(run_at(t, lock_inc, sizeof(lock_inc), AT + 0xffe), EXIT_REASON_EPT_VIOLATION);
	*ept_leaf(t, AT + 0x1000) = leaf;
	assert_int_equal(go(t), BUS_LOCK_EXIT);
	assert_int_equal(word32(t, AT + 0xffe), 1);
	assert_int_equal(go(t), EXIT_REASON_HLT);
}

/* Its translations stay: a fault in the middle leaves the TLB of the mode in use. */
static void an_access_after_a_fault_of_a_locked_one_is_fast_again(void **state)
{
	STATE;

	detect(t, true);
	set_gate(t, X86_TRAP_PF, 0x21000);
	memcpy(t->ram + 0x21000, "\xf4", 1);
	guest64(t, GPA_PT)[(AT >> 12) + 1] = 0;
	assert_int_equal(run_at(t, lock_inc, sizeof(lock_inc), AT + 0xffe), EXIT_REASON_HLT);
	assert_ptr_equal(t->cpu->cs.tlb, t->cpu->fetch_tlb);
	assert_null(t->cpu->bus_lock_tlb);
}

static void other_exits_behind_a_bus_lock_say_so(void **state)
{
	STATE;

	detect(t, true);
	W(CPU_BASED_VM_EXEC_CONTROL, R(t, CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_MONITOR_TRAP_FLAG);
	assert_int_equal(run_at(t, lock_inc, sizeof(lock_inc), AT + 62),
			 EXIT_REASON_MONITOR_TRAP_FLAG | VMX_EXIT_REASONS_BUS_LOCK);
	assert_int_equal(run_at(t, lock_inc, sizeof(lock_inc), AT), EXIT_REASON_MONITOR_TRAP_FLAG);
}

/* The trap of TF is held back by the exit, and comes on the next entry. */
static void a_single_step_trap_waits_for_the_exit(void **state)
{
	STATE;

	detect(t, true);
	W(EXCEPTION_BITMAP, ~0u);
	memcpy(t->ram + GPA_CODE, "\xf0\xff\x03\xf4", 4);
	vmx_gprs(t->cpu)[RBX] = AT + 62;
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_TF);
	assert_int_equal(go(t), BUS_LOCK_EXIT);
	assert_int_equal(R(t, GUEST_PENDING_DBG_EXCEPTIONS), DR6_BS);
	assert_int_equal(go(t), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(R(t, EXIT_QUALIFICATION), DR6_BS);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE + 3);
}

static void a_watchpoint_on_a_split_lock_is_hit_once(void **state)
{
	STATE;

	detect(t, true);
	W(EXCEPTION_BITMAP, ~0u);
	vmx_set_dr(t->cpu, 0, AT + 64);
	W(GUEST_DR7, DR7_FIXED_1 | 2 | 1 << 16);
	assert_int_equal(run_at(t, lock_inc, sizeof(lock_inc), AT + 62), BUS_LOCK_EXIT);
	assert_int_equal(go(t), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(R(t, EXIT_QUALIFICATION), 1);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(word32(t, AT + 62), 1);
}

static void a_loop_of_bus_locks_exits_for_each(void **state)
{
	STATE;

	/* mov ecx,100; 1: inc rdx; xchg [rbx],eax; inc rdx; dec ecx; jnz 1b; hlt */
	CODE(t, 0xb9, 100, 0, 0, 0, 0x48, 0xff, 0xc2, 0x87, 0x03, 0x48, 0xff, 0xc2, 0xff, 0xc9, 0x75,
	     0xf4, 0xf4);
	detect(t, true);
	vmx_gprs(t->cpu)[RDX] = 0;
	vmx_gprs(t->cpu)[RBX] = AT + 61;
	for (unsigned n = 0; n < 100; n++) {
		assert_int_equal(go(t), BUS_LOCK_EXIT);
		assert_int_equal(vmx_gprs(t->cpu)[RDX], 2 * n + 1);
	}
	assert_int_equal(go(t), EXIT_REASON_HLT);
}

/* Kick once the second page is dirty: the instruction has its translations and wants the bus. */
static void *kick_when_it_waits(void *arg)
{
	struct machine *t = arg;

	while (!(__atomic_load_n(&guest64(t, GPA_PT)[0x41], __ATOMIC_ACQUIRE) & PTE_D))
		sched_yield();
	vmx_kick(t->cpu);
	return NULL;
}

/* Whoever has the bus may wait for memory: who waits for the bus still hears a kick. */
static void a_kick_ends_the_wait_for_the_bus(void **state)
{
	STATE;
	const uint64_t shadow = GUEST_INTR_STATE_STI;
	pthread_t th;

	guest64(t, GPA_PT)[0x41] = 0x43000 | PTE_P | PTE_RW;
	memcpy(t->ram + GPA_CODE, "\xf0\xff\x03\xf4", 4);
	vmx_gprs(t->cpu)[RBX] = AT + 0xffe;
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_IF | X86_FLAGS_RF);
	W(GUEST_INTERRUPTIBILITY_INFO, shadow);
	t->m->bus = 1; /* another processor's */
	assert_int_equal(pthread_create(&th, NULL, kick_when_it_waits, t), 0);
	assert_int_equal(go(t), EXIT_REASON_EXTERNAL_INTERRUPT);
	assert_int_equal(pthread_join(th, NULL), 0);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE);
	assert_int_equal(R(t, GUEST_INTERRUPTIBILITY_INFO), shadow);
	assert_true(R(t, GUEST_RFLAGS) & X86_FLAGS_RF);
	assert_int_equal(word16(t, AT + 0xffe), 0);
	assert_int_equal(t->m->bus, 1);
	t->m->bus = 0;
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(word16(t, AT + 0xffe), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_LONG(every_locked_form_across_a_line_or_a_page_exits_behind_it),
		TEST_LONG(within_a_line_nothing_exits),
		TEST_LONG(the_control_decides_from_the_next_entry_on),
		TEST_LONG(a_lock_across_lines_is_made_in_two_parts_and_no_other),
		TEST_LONG(without_lock_there_is_no_bus_lock),
		TEST_LONG(the_result_is_that_of_the_instruction),
		TEST_LONG(cmpxchg16b_is_never_a_split_lock),
		TEST_LONG(the_operand_of_a_bit_string_is_where_its_bit_is),
		TEST_LONG(a_lock_on_memory_that_is_not_write_back_is_one),
		TEST_LONG(an_instruction_that_does_not_complete_locks_nothing),
		TEST_LONG(an_access_after_a_fault_of_a_locked_one_is_fast_again),
		TEST_LONG(other_exits_behind_a_bus_lock_say_so),
		TEST_LONG(a_single_step_trap_waits_for_the_exit),
		TEST_LONG(a_watchpoint_on_a_split_lock_is_hit_once),
		TEST_LONG(a_loop_of_bus_locks_exits_for_each),
		TEST_LONG(a_kick_ends_the_wait_for_the_bus),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
