/* Accesses to the APIC-access page: which are virtualized, which exit and how, what follows a write. */
#include "apic_machine.h"

#define EXPECT(got, want) assert_int_equal((got), (want))

enum how { LOAD, STORE, RMW, HOWS };

static const struct form {
	uint8_t code[4], len, size;
} forms[HOWS][4] = {
	[LOAD] = { { { 0x8a, 0x03 }, 2, 1 },	   /* mov al,[rbx] */
		   { { 0x66, 0x8b, 0x03 }, 3, 2 },
		   { { 0x8b, 0x03 }, 2, 4 },
		   { { 0x48, 0x8b, 0x03 }, 3, 8 } },
	[STORE] = { { { 0x88, 0x03 }, 2, 1 },
		    { { 0x66, 0x89, 0x03 }, 3, 2 },
		    { { 0x89, 0x03 }, 2, 4 },
		    { { 0x48, 0x89, 0x03 }, 3, 8 } },
	[RMW] = { { { 0x08, 0x03 }, 2, 1 },	   /* or [rbx],al */
		  { { 0x66, 0x09, 0x03 }, 3, 2 },
		  { { 0x09, 0x03 }, 2, 4 },
		  { { 0x48, 0x09, 0x03 }, 3, 8 } },
};

/* The registers as the manual lists them, by their offsets: R readable, W writable. */
enum { R_ = 1, W_ = 2 };
static const struct {
	uint16_t first, last;
	unsigned rights;
} registers[] = {
	{ 0x020, 0x020, R_ | W_ }, /* ID */
	{ 0x030, 0x030, R_ },	   /* version */
	{ 0x080, 0x080, R_ | W_ }, /* TPR */
	{ 0x0b0, 0x0b0, R_ | W_ }, /* EOI */
	{ 0x0d0, 0x0d0, R_ | W_ }, /* LDR */
	{ 0x0e0, 0x0e0, R_ | W_ }, /* DFR */
	{ 0x0f0, 0x0f0, R_ | W_ }, /* SVR */
	{ 0x100, 0x170, R_ },	   /* ISR */
	{ 0x180, 0x1f0, R_ },	   /* TMR */
	{ 0x200, 0x270, R_ },	   /* IRR */
	{ 0x280, 0x280, R_ | W_ }, /* ESR */
	{ 0x300, 0x310, R_ | W_ }, /* ICR */
	{ 0x320, 0x370, R_ | W_ }, /* LVT timer, thermal, PMC, LINT0, LINT1, error */
	{ 0x380, 0x380, R_ | W_ }, /* initial count */
	{ 0x3e0, 0x3e0, R_ | W_ }, /* divide configuration */
};

static bool listed(unsigned offset, unsigned right)
{
	for (size_t n = 0; n < ARRAY_SIZE(registers); n++)
		if ((offset & ~15U) >= registers[n].first && (offset & ~15U) <= registers[n].last)
			return registers[n].rights & right;
	return false;
}

static bool virtualized(unsigned f, unsigned offset, unsigned size, unsigned right)
{
	if (!(f & SHADOW) || size > 4 || (offset & 15) + size > 4)
		return false;
	if (f & REG_VIRT)
		return listed(offset, right);
	return offset == 0x80 || ((f & VID) && (offset == 0xb0 || offset == 0x300));
}

/* What a virtualized write of `value` ends with: an exit reason, or HLT. */
static uint32_t after_write(unsigned f, unsigned offset, uint32_t icr)
{
	switch (offset & ~3U) {
	case 0x80:
	case 0x310:
		return EXIT_REASON_HLT;
	case 0xb0:
		return f & VID ? EXIT_REASON_HLT : EXIT_REASON_APIC_WRITE;
	case 0x300:
		/* shorthand self, fixed, edge, a vector that is none of the reserved ones */
		if ((f & VID) && (icr & 0xffffff00) == 0x00040000 && (icr & 0xff) >= 0x10)
			return EXIT_REASON_HLT;
		return EXIT_REASON_APIC_WRITE;
	default:
		return EXIT_REASON_APIC_WRITE;
	}
}

static void one_access(struct machine *t, unsigned f, unsigned offset, enum how how, unsigned s)
{
	const struct form *m = &forms[how][s];
	bool ok = true;
	uint32_t got, want;
	uint64_t value = 0x1122334455667788ULL, before = 0;

	W(GUEST_INTR_STATUS, 0);
	for (unsigned n = 0; n < 4096; n++)
		vapic[n] = (uint8_t)(n * 7 + 1);
	memset(vapic + 0x80, 0, 0x30); /* TPR, PPR: an entry makes the latter of the former */
	memset(vapic + 0x100, 0, 0x180);
	memcpy(&before, vapic + offset, m->size);
	if (how != STORE)
		ok &= virtualized(f, offset, m->size, R_);
	if (how != LOAD)
		ok &= virtualized(f, offset, m->size, W_);
	got = run_code(t, m->code, m->len, APIC_AT + offset, value);
	if (!ok) {
		if (got != EXIT_REASON_APIC_ACCESS || R(t, EXIT_QUALIFICATION) != (offset | (how == LOAD ? 0 : 1) << 12) ||
		    R(t, GUEST_RIP) != GPA_CODE || R(t, VM_EXIT_INSTRUCTION_LEN) != m->len || gpr(t, RAX) != value ||
		    !(R(t, GUEST_RFLAGS) & X86_FLAGS_RF) || memcmp(&before, vapic + offset, m->size))
			fail_msg("features %u offset %#x how %d size %u: exit %u, qualification %#lx", f, offset, how,
				 m->size, got, R(t, EXIT_QUALIFICATION));
		return;
	}
	want = how == LOAD ? EXIT_REASON_HLT : after_write(f, offset, vapic32(0x300));
	if (got != want || R(t, GUEST_RIP) != GPA_CODE + m->len)
		fail_msg("features %u offset %#x how %d size %u: exit %u, not %u", f, offset, how, m->size, got, want);
	if (how == LOAD && memcmp(&t->cpu->cs.gpr[RAX], &before, m->size))
		fail_msg("features %u offset %#x size %u: read %#lx", f, offset, m->size, gpr(t, RAX));
	if (got == EXIT_REASON_APIC_WRITE) {
		EXPECT(R(t, EXIT_QUALIFICATION), offset);
		if (how == STORE)
			assert_memory_equal(vapic + offset, &value, m->size);
	}
}

static void every_offset_size_and_access_does_what_its_register_says(void **state)
{
	STATE;
	static const unsigned configs[] = { ACCESSES, ACCESSES | SHADOW, ACCESSES | SHADOW | VID,
					    ACCESSES | SHADOW | REG_VIRT, ACCESSES | SHADOW | REG_VIRT | VID };

	for (unsigned c = 0; c < ARRAY_SIZE(configs); c++) {
		features(t, configs[c]);
		for (unsigned unit = 0; unit < 0x1000; unit += 16)
			for (unsigned s = 0; s < 4; s++)
				for (enum how how = LOAD; how < HOWS; how++) {
					/* beyond 410h a sample will do; within, each byte of a unit at times */
					if (unit > 0x410 && unit != 0x800 && unit != 0xff0)
						continue;
					for (unsigned b = 0; b < 16; b += s == 3 ? 8 : forms[how][s].size)
						one_access(t, configs[c], unit + b, how, s);
				}
		for (unsigned b = 1; b < 4; b++) {
			one_access(t, configs[c], 0x80 + b, LOAD, 0);
			one_access(t, configs[c], 0x80 + b, LOAD, 1);
			one_access(t, configs[c], 0x320 + b, LOAD, 2);
		}
	}
	for (unsigned n = 0; n < 4096; n++)
		EXPECT(aap[n], 0xcc); /* the page itself is never touched */
}

static void a_crossing_into_or_out_of_the_page_exits(void **state)
{
	STATE;

	features(t, ACCESSES | SHADOW | REG_VIRT | VID);
	EXPECT(RUN(APIC_AT + 0xffe, 0, 0x8b, 0x03), EXIT_REASON_APIC_ACCESS);
	EXPECT(R(t, EXIT_QUALIFICATION), 0xffe);
	EXPECT(RUN(APIC_AT - 2, 0, 0x8b, 0x03), EXIT_REASON_APIC_ACCESS);
	EXPECT(R(t, EXIT_QUALIFICATION), 0);
	EXPECT(RUN(APIC_AT - 2, 0, 0x89, 0x03), EXIT_REASON_APIC_ACCESS);
	EXPECT(R(t, EXIT_QUALIFICATION), 1 << 12);
	/* a page fault on the second page wins, and an EPT violation */
	guest64(t, GPA_PT)[(APIC_AT >> 12) + 1] = 0;
	EXPECT(invvpid(t->cpu, INVVPID_SINGLE_CONTEXT, 1, 0), VMX_SUCCEED);
	set_gate(t, 14, HANDLER_AT);
	EXPECT(RUN(APIC_AT + 0xffe, 0, 0x8b, 0x03), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_RIP), HANDLER_AT);
	guest64(t, GPA_PT)[(APIC_AT >> 12) + 1] = (APIC_AT + 0x1000) | PTE_P | PTE_RW;
	*ept_leaf(t, APIC_AT + 0x1000) = 0;
	EXPECT(invept(t->cpu, INVEPT_ALL_CONTEXT, 0), VMX_SUCCEED);
	EXPECT(RUN(APIC_AT + 0xffe, 0, 0x8b, 0x03), EXIT_REASON_EPT_VIOLATION);
}

static void accessed_and_dirty_flags_are_set_before_exit_44(void **state)
{
	STATE;
	uint64_t *pte = &guest64(t, GPA_PT)[APIC_AT >> 12];

	features(t, ACCESSES);
	EXPECT(RUN(APIC_AT, 0, 0x8b, 0x03), EXIT_REASON_APIC_ACCESS);
	assert_true(*pte & PTE_A);
	assert_false(*pte & PTE_D);
	EXPECT(RUN(APIC_AT, 0, 0x09, 0x03), EXIT_REASON_APIC_ACCESS);
	assert_true(*pte & PTE_D);
}

static void fetches_flushes_and_deliveries_have_their_types(void **state)
{
	STATE;

	features(t, ACCESSES | SHADOW | REG_VIRT | VID);
	EXPECT(RUN(APIC_AT + 0x20, 0, 0xff, 0xe3 /* jmp rbx */), EXIT_REASON_APIC_ACCESS);
	EXPECT(R(t, EXIT_QUALIFICATION), 2 << 12 | 0x20);
	EXPECT(R(t, GUEST_RIP), APIC_AT + 0x20);
	EXPECT(RUN(APIC_AT + 0x20, 0, 0x0f, 0xae, 0x3b /* clflush [rbx] */), EXIT_REASON_APIC_ACCESS);
	EXPECT(R(t, EXIT_QUALIFICATION), 0x20);
	EXPECT(RUN(APIC_AT + 0x20, 0, 0x0f, 0x18, 0x0b /* prefetcht0 [rbx] */), EXIT_REASON_HLT);
	EXPECT(RUN(APIC_AT + 0x20, 0, 0x0f, 0x01, 0x3b /* invlpg [rbx] */), EXIT_REASON_HLT);
	/* the frame of an event */
	EXPECT(RUN(APIC_AT + 0x88, 0, 0x48, 0x89, 0xdc /* mov rsp,rbx */, 0xcd, 0x40 /* int 40h */), EXIT_REASON_APIC_ACCESS);
	EXPECT(R(t, EXIT_QUALIFICATION) >> 12, 3);
	assert_true(R(t, IDT_VECTORING_INFO_FIELD) & INTR_INFO_VALID_MASK);
	EXPECT(R(t, IDT_VECTORING_INFO_FIELD) & 0xff, 0x40);
	/* page tables in the page: never virtualized */
	memset(aap, 0, 4096);
	guest64(t, GPA_PD)[1] = APIC_AT | PTE_P | PTE_RW;
	EXPECT(RUN(0x200000, 0, 0x8b, 0x03), EXIT_REASON_APIC_ACCESS);
	EXPECT(R(t, EXIT_QUALIFICATION), 15UL << 12);
	EXPECT(RUN(0x200100, 0, 0x48, 0x89, 0xdc, 0xcd, 0x40), EXIT_REASON_APIC_ACCESS);
	EXPECT(R(t, EXIT_QUALIFICATION), 10UL << 12);
}

/* Of two pushes the second exits, and the first is not emulated. */
static void an_operation_with_writes_to_two_registers_exits_at_the_second(void **state)
{
	STATE;

	features(t, ACCESSES | SHADOW | REG_VIRT | VID);
	set_vector(VAPIC_ISR, 0x55);
	W(GUEST_INTR_STATUS, 0x5500);
	/* ENTER 0,1 with 2-byte operands: pushes at 0b2h and 0b0h, of one unit but not one offset */
	EXPECT(RUN(APIC_AT + 0xb4, 0, 0x48, 0x89, 0xdc, 0x66, 0xc8, 0, 0, 1), EXIT_REASON_APIC_ACCESS);
	assert_true(vector_set(VAPIC_ISR, 0x55));
	EXPECT(R(t, GUEST_INTR_STATUS), 0x5500);
	/* MOVS from register to register: a read, then a write */
	set_vapic32(0x20, 0x12345678);
	vmx_gprs(t->cpu)[RSI] = APIC_AT + 0x20;
	vmx_gprs(t->cpu)[RDI] = APIC_AT + 0xd0;
	EXPECT(RUN(0, 0, 0xa5), EXIT_REASON_APIC_WRITE);
	EXPECT(R(t, EXIT_QUALIFICATION), 0xd0);
	EXPECT(vapic32(0xd0), 0x12345678);
	EXPECT(R(t, GUEST_RIP), GPA_CODE + 1);
	/* REP STOS: each iteration is an operation of its own */
	vmx_gprs(t->cpu)[RDI] = APIC_AT + 0xd0;
	vmx_gprs(t->cpu)[RCX] = 3;
	EXPECT(RUN(0, 5, 0xf3, 0xab), EXIT_REASON_APIC_WRITE);
	EXPECT(gpr(t, RCX), 2);
	EXPECT(gpr(t, RDI), APIC_AT + 0xd4);
	EXPECT(R(t, GUEST_RIP), GPA_CODE);
	EXPECT(go(t), EXIT_REASON_APIC_ACCESS); /* 0d4h is within the unit, but no register */
	EXPECT(R(t, EXIT_QUALIFICATION), 0x10d4);
	/* four bytes of TPR one by one, each emulated (bytes 3:1 become 0) before the next; then behind STI */
	for (int n = 0; n < 4; n++) {
		vmx_gprs(t->cpu)[RDI] = APIC_AT + 0x80;
		vmx_gprs(t->cpu)[RCX] = 4;
		if (n & 1)
			EXPECT(RUN(0, 0x30, 0xfb, 0xf3, 0xaa), EXIT_REASON_HLT);
		else
			EXPECT(RUN(0, 0x30, 0x90, 0xf3, 0xaa), EXIT_REASON_HLT);
		EXPECT(gpr(t, RCX), 0);
		EXPECT(vapic32(0x80), 0x30);
	}
}

/* A write in the middle of a block: nothing behind it runs before its emulation, the first time and later. */
static void a_write_is_the_last_instruction_before_its_emulation(void **state)
{
	STATE;

	features(t, ACCESSES | SHADOW | REG_VIRT | VID);
	for (int n = 0; n < 4; n++) {
		EXPECT(RUN(APIC_AT + 0xf0, 0x1ff, 0x31, 0xc9, /* xor ecx,ecx */ 0xff, 0xc1, 0x89, 0x03, 0xff, 0xc1,
			   0xff, 0xc1), EXIT_REASON_APIC_WRITE);
		EXPECT(gpr(t, RCX), 1);
		EXPECT(R(t, GUEST_RIP), GPA_CODE + 6);
		EXPECT(go(t), EXIT_REASON_HLT);
		EXPECT(gpr(t, RCX), 3);
	}
	/* with LOCK, under TF, behind STI */
	EXPECT(RUN(APIC_AT + 0xf0, 0x100, 0x90, 0xf0, 0x09, 0x03, 0x90), EXIT_REASON_APIC_WRITE);
	EXPECT(R(t, GUEST_RIP), GPA_CODE + 4);
	EXPECT(RUN(APIC_AT + 0xf0, 0x100, 0xfb, 0x89, 0x03, 0x90), EXIT_REASON_APIC_WRITE);
	EXPECT(R(t, GUEST_INTERRUPTIBILITY_INFO), 0);
	EXPECT(RUN(APIC_AT + 0xf0, 0x100, 0x89, 0x03, 0xfb, 0x89, 0x03), EXIT_REASON_APIC_WRITE);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_TF);
	W(GUEST_RIP, GPA_CODE);
	EXPECT(go(t), EXIT_REASON_APIC_WRITE);
	EXPECT(R(t, GUEST_PENDING_DBG_EXCEPTIONS), DR6_BS);
	/* the emulation comes before the monitor trap */
	W(GUEST_PENDING_DBG_EXCEPTIONS, 0);
	W(CPU_BASED_VM_EXEC_CONTROL, R(t, CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_MONITOR_TRAP_FLAG);
	EXPECT(RUN(APIC_AT + 0xf0, 0x100, 0x89, 0x03), EXIT_REASON_APIC_WRITE);
	EXPECT(RUN(APIC_AT + 0x80, 0x10, 0x89, 0x03), EXIT_REASON_MONITOR_TRAP_FLAG);
	EXPECT(vapic32(0x80), 0x10);
}

/* The page under other addresses, tables and controls: never by an older translation. */
static void the_window_closes_with_its_translation(void **state)
{
	STATE;
	uint64_t *pte = &guest64(t, GPA_PT)[APIC_AT >> 12];

	features(t, ACCESSES | SHADOW | REG_VIRT | VID);
	set_vapic32(0x20, 0xabc);
	*(uint32_t *)(void *)(t->ram + DATA_AT + 0x20) = 0xdef;
	/* mov eax,[rbx+20h]; the PTE now says DATA_AT; invlpg; mov ecx,[rbx+20h] */
	*pte = APIC_AT | PTE_P | PTE_RW;
	vmx_gprs(t->cpu)[RDX] = GPA_PT + 8 * (APIC_AT >> 12);
	vmx_gprs(t->cpu)[RSI] = DATA_AT | PTE_P | PTE_RW;
	EXPECT(RUN(APIC_AT, 0, 0x8b, 0x43, 0x20, 0x8b, 0x43, 0x20, 0x48, 0x89, 0x32, 0x0f, 0x01, 0x3b, 0x8b, 0x4b, 0x20),
	       EXIT_REASON_HLT);
	EXPECT(gpr(t, RAX), 0xabc);
	EXPECT(gpr(t, RCX), 0xdef);
	/* the same with MOV CR3 */
	*pte = APIC_AT | PTE_P | PTE_RW;
	EXPECT(invvpid(t->cpu, INVVPID_SINGLE_CONTEXT, 1, 0), VMX_SUCCEED);
	vmx_gprs(t->cpu)[RDI] = GPA_PML4;
	EXPECT(RUN(APIC_AT, 0, 0x8b, 0x43, 0x20, 0x8b, 0x43, 0x20, 0x48, 0x89, 0x32, 0x0f, 0x22, 0xdf, 0x8b, 0x4b, 0x20),
	       EXIT_REASON_HLT);
	EXPECT(gpr(t, RAX), 0xabc);
	EXPECT(gpr(t, RCX), 0xdef);
	/* the page is RAM without the control, and the APIC's again with it: no flush is asked for */
	*pte = APIC_AT | PTE_P | PTE_RW;
	EXPECT(invvpid(t->cpu, INVVPID_SINGLE_CONTEXT, 1, 0), VMX_SUCCEED);
	for (int n = 0; n < 3; n++) {
		features(t, SHADOW | REG_VIRT | VID);
		EXPECT(RUN(APIC_AT, 0, 0x8b, 0x43, 0x20, 0x89, 0x43, 0x24), EXIT_REASON_HLT);
		EXPECT(gpr(t, RAX), 0xcccccccc);
		features(t, ACCESSES | SHADOW | REG_VIRT | VID);
		EXPECT(RUN(APIC_AT, 0, 0x8b, 0x43, 0x20, 0x8b, 0x4b, 0x20), EXIT_REASON_HLT);
		EXPECT(gpr(t, RAX), 0xabc);
		EXPECT(gpr(t, RCX), 0xabc);
		features(t, ACCESSES);
		EXPECT(RUN(APIC_AT, 0, 0x8b, 0x43, 0x20), EXIT_REASON_APIC_ACCESS);
	}
	assert_true(cpu_tlb_check(t->cpu->tlb));
}

/* A loop that reads the window is made anew to look there first; what it may not read there is looked at as ever. */
static void loops_that_read_the_window_follow_it(void **state)
{
	STATE;
	uint64_t *pte = &guest64(t, GPA_PT)[APIC_AT >> 12], stubs;
	/* 1: mov eax,[rbx+rdi]; add edx,eax; dec ecx; jnz 1b; hlt */
	static const uint8_t loop[] = { 0x8b, 0x04, 0x3b, 0x01, 0xc2, 0xff, 0xc9, 0x75, 0xf7, 0xf4 };
	static const uint16_t apart[] = { 0x390, 0x24, 0x21, 0x23, 0x400, 0x3fc };

	features(t, ACCESSES | SHADOW | REG_VIRT | VID);
	memcpy(t->ram + GPA_CODE, loop, sizeof(loop));
	set_vapic32(0x20, 3);
	set_vapic32(0x30, 7);
	*(uint32_t *)(void *)(t->ram + DATA_AT + 0x20) = 0x100;
	for (int n = 0; n < 3; n++) {
		stubs = t->cpu->counters.jit_stubs;
		for (int moved = 0; moved < 2; moved++) {
			*pte = (moved ? DATA_AT : APIC_AT) | PTE_P | PTE_RW;
			EXPECT(invvpid(t->cpu, INVVPID_SINGLE_CONTEXT, 1, 0), VMX_SUCCEED);
			vmx_gprs(t->cpu)[RBX] = APIC_AT;
			vmx_gprs(t->cpu)[RDI] = 0x20;
			vmx_gprs(t->cpu)[RCX] = 300;
			vmx_gprs(t->cpu)[RDX] = 0;
			W(GUEST_RIP, GPA_CODE);
			EXPECT(go(t), EXIT_REASON_HLT);
			EXPECT(gpr(t, RDX), moved ? 300 * 0x100 : 300 * 3);
		}
		assert_true(t->cpu->counters.jit_stubs - stubs < (n ? 20 : 100));
	}
	*pte = APIC_AT | PTE_P | PTE_RW;
	EXPECT(invvpid(t->cpu, INVVPID_SINGLE_CONTEXT, 1, 0), VMX_SUCCEED);
	for (size_t n = 0; n < 2 * ARRAY_SIZE(apart); n++) {
		vmx_gprs(t->cpu)[RDI] = n & 1 ? 0x30 : 0x20; /* the window is open */
		vmx_gprs(t->cpu)[RDX] = 0;
		vmx_gprs(t->cpu)[RCX] = 2;
		W(GUEST_RIP, GPA_CODE);
		EXPECT(go(t), EXIT_REASON_HLT);
		EXPECT(gpr(t, RDX), n & 1 ? 14 : 6);
		vmx_gprs(t->cpu)[RDI] = apart[n / 2];
		W(GUEST_RIP, GPA_CODE);
		EXPECT(go(t), EXIT_REASON_APIC_ACCESS);
		EXPECT(R(t, GUEST_RIP), GPA_CODE);
		EXPECT(gpr(t, RDX), n & 1 ? 14 : 6);
	}
}

/* With the window open: each load at each offset, as the rules have it. */
static void loads_pass_by_the_open_window(void **state)
{
	STATE;

	features(t, ACCESSES | SHADOW | REG_VIRT | VID);
	for (unsigned n = 0; n < 4096; n++)
		vapic[n] = (uint8_t)(n * 7 + 1);
	for (unsigned s = 0; s < 3; s++) {
		const struct form *m = &forms[LOAD][s];
		uint8_t code[16] = { 0x8b, 0x4e, 0x20, 0x8b, 0x56, 0x30 }; /* mov ecx,[rsi+20h]; mov edx,[rsi+30h] */

		memcpy(code + 6, m->code, m->len);
		for (unsigned offset = 0; offset < 0xffc; offset++) {
			bool ok = virtualized(ACCESSES | SHADOW | REG_VIRT | VID, offset, m->size, R_);
			uint32_t want = ok ? EXIT_REASON_HLT : EXIT_REASON_APIC_ACCESS;

			W(GUEST_INTR_STATUS, 0);
			vmx_gprs(t->cpu)[RSI] = APIC_AT;
			EXPECT(run_code(t, code, m->len + 6U, APIC_AT + offset, 0), want);
			EXPECT(gpr(t, RDX) & 0xffffff, (vapic32(0x30) & 0xffffff));
			if (ok)
				assert_memory_equal(&t->cpu->cs.gpr[RAX], vapic + offset, m->size);
			else
				EXPECT(R(t, GUEST_RIP), GPA_CODE + 6);
		}
	}
}

static void supervisor_only_pages_stay_closed_to_users(void **state)
{
	STATE;

	features(t, ACCESSES | SHADOW | REG_VIRT | VID);
	set_gate(t, 14, HANDLER_AT);
	guest64(t, GPA_PT)[GPA_CODE >> 12] |= PTE_US;
	guest64(t, GPA_GDT)[3] = 0x00affb000000ffffULL; /* code, DPL 3 */
	guest64(t, GPA_GDT)[4] = 0x00cff3000000ffffULL; /* data, DPL 3 */
	/* read as supervisor, IRETQ to user code at GPA_CODE + 80h, which reads the same */
	static const uint8_t user[] = { 0x8b, 0x4b, 0x20, 0xf4 };
	memcpy(t->ram + GPA_CODE + 0x80, user, sizeof(user));
	uint64_t *frame = guest64(t, GPA_STACK - 40);
	frame[0] = GPA_CODE + 0x80;
	frame[1] = 0x1b;
	frame[2] = X86_FLAGS_FIXED;
	frame[3] = GPA_STACK;
	frame[4] = 0x23;
	W(EXCEPTION_BITMAP, BIT_ULL(X86_TRAP_PF));
	static const uint8_t code[] = { 0x8b, 0x43, 0x20, 0x8b, 0x43, 0x20, 0x48, 0x83, 0xec, 40, 0x48, 0xcf };
	EXPECT(run_code(t, code, sizeof(code), APIC_AT, 0), EXIT_REASON_EXCEPTION_NMI);
	EXPECT(R(t, EXIT_QUALIFICATION), APIC_AT + 0x20);
	EXPECT(R(t, VM_EXIT_INTR_ERROR_CODE), 5);
}

static void a_watchpoint_on_the_page_is_met(void **state)
{
	STATE;

	features(t, ACCESSES | SHADOW | REG_VIRT | VID);
	set_gate(t, 1, HANDLER_AT);
	W(GUEST_DR7, DR7_FIXED_1 | 1 | 0xf0000UL); /* DR0: reads and writes of 4 bytes */
	W(VM_ENTRY_CONTROLS, R(t, VM_ENTRY_CONTROLS) | VM_ENTRY_LOAD_DEBUG_CONTROLS);
	vmx_set_dr(t->cpu, 0, APIC_AT + 0x20);
	EXPECT(RUN(APIC_AT, 0, 0x8b, 0x43, 0x30, 0x8b, 0x43, 0x30, 0x8b, 0x43, 0x20, 0x90), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_RIP), HANDLER_AT);
	EXPECT(*guest64(t, GPA_STACK - 40), GPA_CODE + 9);
}

static void the_two_pages_may_be_one(void **state)
{
	STATE;

	features(t, ACCESSES | SHADOW | REG_VIRT | VID);
	W(APIC_ACCESS_ADDR, (uint64_t)vapic);
	*ept_leaf(t, APIC_AT) = (uint64_t)vapic | LEAF_RWX;
	set_vapic32(0x20, 0x77);
	EXPECT(RUN(APIC_AT, 0x30, 0x8b, 0x4b, 0x20, 0x89, 0x83, 0x80, 0, 0, 0), EXIT_REASON_HLT);
	EXPECT(gpr(t, RCX), 0x77);
	EXPECT(vapic32(0x80), 0x30);
	EXPECT(RUN(APIC_AT, 0, 0x8b, 0x83, 0x90, 3, 0, 0), EXIT_REASON_APIC_ACCESS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_APIC(every_offset_size_and_access_does_what_its_register_says),
		TEST_APIC(a_crossing_into_or_out_of_the_page_exits),
		TEST_APIC(accessed_and_dirty_flags_are_set_before_exit_44),
		TEST_APIC(fetches_flushes_and_deliveries_have_their_types),
		TEST_APIC(an_operation_with_writes_to_two_registers_exits_at_the_second),
		TEST_APIC(a_write_is_the_last_instruction_before_its_emulation),
		TEST_APIC(the_window_closes_with_its_translation),
		TEST_APIC(loops_that_read_the_window_follow_it),
		TEST_APIC(loads_pass_by_the_open_window),
		TEST_APIC(supervisor_only_pages_stay_closed_to_users),
		TEST_APIC(a_watchpoint_on_the_page_is_met),
		TEST_APIC(the_two_pages_may_be_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
