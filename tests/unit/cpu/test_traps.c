/* Debug traps, alignment checks, stack faults, IRET's exits, split locks. */
#include "machine.h"

#include <pthread.h>

#define STATE struct machine *t = *state

/* CPL 3: every page a user page. */
static void user_mode(struct machine *t)
{
	for (unsigned n = 0; n < 512; n++)
		guest64(t, GPA_PT)[n] |= PTE_US;
	for (int n = 0; n < NR_SREGS; n++)
		set_segment(t, (enum sreg)n, 16 | 3, 0, 0xffffffff, 0xc0f3);
	set_segment(t, SREG_CS, 8 | 3, 0, 0xffffffff, 0xa0fb);
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT);
}

static uint32_t exception_of(struct machine *t)
{
	W(EXCEPTION_BITMAP, ~0u);
	return go(t) == EXIT_REASON_EXCEPTION_NMI ? (uint32_t)R(t, VM_EXIT_INTR_INFO) & 0xff : 0xff;
}

static void alignment_check_wants_the_alignment_of_the_operand(void **state)
{
	static const struct {
		uint8_t code[8];
		unsigned align;
	} forms[] = {
	    {{0x8a, 0x03}, 1}, /* mov al,[rbx] */
	    {{0x66, 0x8b, 0x03}, 2},
	    {{0x8b, 0x03}, 4},
	    {{0x48, 0x89, 0x03}, 8},
	    {{0xd9, 0x03}, 4},              /* fld m32 */
	    {{0xdb, 0x2b}, 8},              /* fld m80 */
	    {{0xd9, 0x33}, 4},              /* fnstenv */
	    {{0x66, 0xd9, 0x33}, 2},        /* of 14 bytes */
	    {{0xdd, 0x33}, 4},              /* fnsave */
	    {{0x66, 0xdd, 0x33}, 2},        /* of 94 bytes */
	    {{0xdd, 0x23}, 4},              /* frstor */
	    {{0x66, 0xdd, 0x23}, 2},
	    {{0xc5, 0xfc, 0x10, 0x03}, 16}, /* vmovups ymm */
	    {{0xf3, 0x0f, 0x10, 0x03}, 4},  /* movss */
	    {{0x0f, 0x12, 0x03}, 8},        /* movlps */
	    {{0x0f, 0x10, 0x03}, 16},       /* movups */
	    {{0xf3, 0x0f, 0x7f, 0x03}, 16}, /* movdqu store */
	};

	for (unsigned n = 0; n < ARRAY_SIZE(forms); n++)
		for (unsigned off = 0; off < 16; off++) {
			struct machine *t;
			uint32_t got;

			machine_setup_long((void **)&t);
			user_mode(t);
			W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_OSXSAVE);
			vmx_set_xcr0(t->cpu, XFEATURE_MASK_FP | XFEATURE_MASK_SSE | XFEATURE_MASK_YMM);
			W(GUEST_CR0, R(t, GUEST_CR0) | X86_CR0_AM);
			W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_AC);
			memcpy(t->ram + GPA_CODE, forms[n].code, 8);
			memcpy(t->ram + GPA_CODE + 8, "\x0f\x0b", 2); /* ud2 */
			for (unsigned k = 0; k < 8; k++)
				if (!forms[n].code[k])
					t->ram[GPA_CODE + k] = 0x90;
			vmx_gprs(t->cpu)[RBX] = 0x40000 + off;
			got = exception_of(t);
			if (got != (off % forms[n].align ? X86_TRAP_AC : X86_TRAP_UD))
				fail_msg("form %u at +%u: vector %u", n, off, got);
			machine_teardown((void **)&t);
		}
}

static void without_am_or_at_cpl_0_nothing_is_checked(void **state)
{
	STATE;

	CODE(t, 0x8b, 0x03, 0xf4);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_AC);
	W(GUEST_CR0, R(t, GUEST_CR0) | X86_CR0_AM);
	vmx_gprs(t->cpu)[RBX] = 0x40001;
	assert_int_equal(go(t), EXIT_REASON_HLT);
}

static void stack_references_fault_with_ss_and_operands_with_gp(void **state)
{
	static const struct {
		uint8_t code[4];
		bool bad_rsp;
		uint8_t vector;
	} cases[] = {
	    {{0xff, 0x33}, true, X86_TRAP_SS},  /* push [rbx], RSP bad */
	    {{0xff, 0x33}, false, X86_TRAP_GP}, /* push [rbx], RBX bad */
	    {{0x8f, 0x03}, true, X86_TRAP_SS},  /* pop [rbx] */
	    {{0xff, 0x13}, true, X86_TRAP_SS},  /* call [rbx] */
	    {{0xc3}, true, X86_TRAP_SS},
	    {{0x9c}, true, X86_TRAP_SS},
	    {{0x8b, 0x03}, false, X86_TRAP_GP},
	    {{0x8b, 0x04, 0x24}, true, X86_TRAP_SS}, /* mov eax,[rsp] */
	    {{0x0f, 0xa0}, true, X86_TRAP_SS},       /* push fs */
	};

	for (unsigned n = 0; n < ARRAY_SIZE(cases); n++) {
		struct machine *t;

		machine_setup_long((void **)&t);
		memcpy(t->ram + GPA_CODE, cases[n].code, 4);
		vmx_gprs(t->cpu)[RBX] = cases[n].bad_rsp ? 0x40000 : 1ULL << 60;
		if (cases[n].bad_rsp)
			W(GUEST_RSP, 1ULL << 60);
		if (exception_of(t) != cases[n].vector)
			fail_msg("case %u: info %#lx", n, R(t, VM_EXIT_INTR_INFO));
		machine_teardown((void **)&t);
	}
}

static void virtual_nmis(struct machine *t)
{
	W(PIN_BASED_VM_EXEC_CONTROL, R(t, PIN_BASED_VM_EXEC_CONTROL) | PIN_BASED_VIRTUAL_NMIS);
	W(GUEST_INTERRUPTIBILITY_INFO, GUEST_INTR_STATE_NMI);
	CODE(t, 0x48, 0xcf, 0xf4); /* iretq */
	W(GUEST_RSP, 0x40000);
}

static void ept_violation_of_an_iret_reports_nmi_unblocking(void **state)
{
	STATE;
	uint64_t leaf = *ept_leaf(t, 0x40000);

	virtual_nmis(t);
	*ept_leaf(t, 0x40000) = 0;
	assert_int_equal(go(t), EXIT_REASON_EPT_VIOLATION);
	assert_true(R(t, EXIT_QUALIFICATION) & EPT_VIOLATION_NMI_UNBLOCK);
	assert_int_equal(R(t, GUEST_INTERRUPTIBILITY_INFO), 0);
	/* NMIs were not blocked before: bit 12 is clear */
	assert_int_equal(go(t), EXIT_REASON_EPT_VIOLATION);
	assert_false(R(t, EXIT_QUALIFICATION) & EPT_VIOLATION_NMI_UNBLOCK);
	*ept_leaf(t, 0x40000) = leaf;
}

static void exception_of_an_iret_reports_nmi_unblocking(void **state)
{
	STATE;

	virtual_nmis(t);
	W(GUEST_RSP, 0x300000); /* no page */
	assert_int_equal(exception_of(t), X86_TRAP_PF);
	assert_true(R(t, VM_EXIT_INTR_INFO) & INTR_INFO_UNBLOCK_NMI);
	assert_int_equal(R(t, GUEST_INTERRUPTIBILITY_INFO), 0);
}

static void exception_of_another_instruction_does_not(void **state)
{
	STATE;

	virtual_nmis(t);
	CODE(t, 0x0f, 0x0b);
	assert_int_equal(exception_of(t), X86_TRAP_UD);
	assert_false(R(t, VM_EXIT_INTR_INFO) & INTR_INFO_UNBLOCK_NMI);
	assert_int_equal(R(t, GUEST_INTERRUPTIBILITY_INFO), GUEST_INTR_STATE_NMI);
}

/* SDM "Saving RIP, RSP, RFLAGS, and SSP": RF as 0, even if it was 1 before the instruction; EPT violations save 1. */
static void instruction_that_exits_saves_no_resume_flag(void **state)
{
	struct machine *t = *state;
	static const uint8_t code[][3] = { { 0xf4 }, { 0x0f, 0xa2 }, { 0x8a, 0x06 } }; /* HLT, CPUID, MOV AL,[RSI] */
	static const uint32_t reason[] = { EXIT_REASON_HLT, EXIT_REASON_CPUID, EXIT_REASON_EPT_VIOLATION };
	uint64_t leaf = *ept_leaf(t, 0x40000);

	*ept_leaf(t, 0x40000) = 0;
	for (unsigned n = 0; n < ARRAY_SIZE(code); n++) {
		memcpy(t->ram + GPA_CODE, code[n], 3);
		vmx_sync_code(t->cpu);
		W(GUEST_RIP, GPA_CODE);
		W(GUEST_RFLAGS, X86_FLAGS_RF | 2);
		vmx_gprs(t->cpu)[RSI] = 0x40000;
		assert_int_equal(go(t), reason[n]);
		assert_int_equal(R(t, GUEST_RIP), GPA_CODE);
		assert_int_equal(R(t, GUEST_RFLAGS) & X86_FLAGS_RF, n == 2 ? X86_FLAGS_RF : 0);
	}
	*ept_leaf(t, 0x40000) = leaf;
}

/* 64-bit: breakpoint on the second NOP; the handler sets RF in its frame. */
static void resume_flag_passes_one_instruction_breakpoint(void **state)
{
	STATE;

	/* mov ecx,3; 1: nop; dec ecx; jnz 1b; hlt */
	CODE(t, 0xb9, 3, 0, 0, 0, 0x90, 0xff, 0xc9, 0x75, 0xfb, 0xf4);
	/* inc esi; or dword [rsp+16],10000h; iretq */
	memcpy(t->ram + 0x21000, "\xff\xc6\x81\x4c\x24\x10\x00\x00\x01\x00\x48\xcf", 12);
	set_gate(t, X86_TRAP_DB, 0x21000);
	vmx_gprs(t->cpu)[RSI] = 0;
	vmx_set_dr(t->cpu, 2, GPA_CODE + 5);
	W(GUEST_DR7, DR7_FIXED_1 | 0x20);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RSI], 3);
	assert_int_equal(vmx_get_dr(t->cpu, 6) & 0xf, 4);
}

/* A repetition has met its breakpoint once, not before each iteration: single steps part them. */
static void breakpoint_on_a_repetition_is_met_once(void **state)
{
	STATE;

	CODE(t, 0xf3, 0xaa, 0xf4); /* rep stosb; hlt */
	vmx_gprs(t->cpu)[RDI] = 0x50000;
	vmx_gprs(t->cpu)[RCX] = 5;
	vmx_set_dr(t->cpu, 0, GPA_CODE);
	W(GUEST_DR7, DR7_FIXED_1 | 2);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_TF);
	assert_int_equal(exception_of(t), X86_TRAP_DB);
	assert_int_equal(R(t, EXIT_QUALIFICATION), 1);
	W(GUEST_RFLAGS, R(t, GUEST_RFLAGS) | X86_FLAGS_RF); /* as its handler does */
	for (unsigned left = 5; left--;) {
		assert_int_equal(exception_of(t), X86_TRAP_DB);
		assert_int_equal(R(t, EXIT_QUALIFICATION), DR6_BS);
		assert_int_equal(vmx_gprs(t->cpu)[RCX], left);
		assert_int_equal(R(t, GUEST_RIP), GPA_CODE + (left ? 0 : 2));
		assert_int_equal(R(t, GUEST_RFLAGS) & X86_FLAGS_RF, left ? X86_FLAGS_RF : 0);
	}
	assert_int_equal(go(t), EXIT_REASON_HLT);
}

/* STAC and CLAC take effect with the next access, whatever has been translated before. */
static void stac_opens_user_pages_to_the_supervisor_and_clac_closes_them(void **state)
{
	STATE;

	guest64(t, GPA_PT)[0x50] |= PTE_US;
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_SMAP);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_AC);
	/* mov eax,[rbx]; clac; stac; mov ecx,[rbx]; clac; mov edx,[rbx] */
	CODE(t, 0x8b, 0x03, 0x0f, 0x01, 0xca, 0x0f, 0x01, 0xcb, 0x8b, 0x0b, 0x0f, 0x01, 0xca, 0x8b, 0x13);
	*guest64(t, 0x50000) = 0x1234;
	vmx_gprs(t->cpu)[RBX] = 0x50000;
	assert_int_equal(exception_of(t), X86_TRAP_PF);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE + 13);
	assert_int_equal(vmx_gprs(t->cpu)[RAX], 0x1234);
	assert_int_equal(vmx_gprs(t->cpu)[RCX], 0x1234);
	assert_int_equal(R(t, VM_EXIT_INTR_ERROR_CODE), 1);
}

static void watchpoint_counts_every_write_of_a_loop(void **state)
{
	STATE;

	/* mov ecx,1000; 1: mov [40ffch],rcx (two pages); dec ecx; jnz 1b; hlt */
	CODE(t, 0xb9, 0xe8, 3, 0, 0, 0x48, 0x89, 0x0c, 0x25, 0xfc, 0x0f, 0x04, 0, 0xff, 0xc9, 0x75,
	     0xf4, 0xf4);
	memcpy(t->ram + 0x21000, "\xff\xc6\x48\xcf", 4);
	set_gate(t, X86_TRAP_DB, 0x21000);
	vmx_gprs(t->cpu)[RSI] = 0;
	vmx_set_dr(t->cpu, 0, 0x41003);
	W(GUEST_DR7, DR7_FIXED_1 | 2 | 1 << 16);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RSI], 1000);
}

/* SDM "Pending Debug Exceptions": held back behind MOV SS, an exit finds it there, bit 12 telling. */
static void watchpoint_met_by_mov_ss_is_pending_in_the_next_exit(void **state)
{
	STATE;

	CODE(t, 0x8e, 0x13, 0x0f, 0xa2, 0xf4); /* mov ss,[rbx]; cpuid */
	W(EXCEPTION_BITMAP, ~0u);
	vmx_gprs(t->cpu)[RBX] = 0x50000;
	*(uint16_t *)(t->ram + 0x50000) = 16;
	W(GUEST_GDTR_LIMIT, 0xff);
	vmx_set_dr(t->cpu, 1, 0x50000);
	W(GUEST_DR7, DR7_FIXED_1 | 8 | 7 << 20); /* G1, two bytes, reads and writes */
	assert_int_equal(go(t), EXIT_REASON_CPUID);
	assert_int_equal(R(t, GUEST_INTERRUPTIBILITY_INFO), GUEST_INTR_STATE_MOV_SS);
	assert_int_equal(R(t, GUEST_PENDING_DBG_EXCEPTIONS), BIT_ULL(12) | 2);
	/* and without an exit it comes behind that next instruction */
	CODE(t, 0x8e, 0x13, 0x90, 0x90, 0xf4);
	vmx_sync_code(t->cpu);
	W(GUEST_INTERRUPTIBILITY_INFO, 0);
	W(GUEST_PENDING_DBG_EXCEPTIONS, 0);
	W(GUEST_RIP, GPA_CODE);
	assert_int_equal(exception_of(t), X86_TRAP_DB);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE + 3);
	assert_int_equal(R(t, EXIT_QUALIFICATION) & 0xf, 2);
}

/* SDM Vol. 3, "Priority Among Concurrent Events": the trap comes before the handler's first instruction. */
static void watchpoint_on_the_frame_of_a_trap_comes_before_its_handler(void **state)
{
	STATE;

	CODE(t, 0x88, 0x04, 0x25, 0, 0, 5, 0, 0xf4); /* mov [50000h],al; hlt */
	memcpy(t->ram + 0x21000, "\xf4", 1);
	set_gate(t, X86_TRAP_DB, 0x21000);
	W(GUEST_RSP, 0x60000);
	vmx_set_dr(t->cpu, 0, 0x50000);
	vmx_set_dr(t->cpu, 1, 0x5fff8); /* where SS goes */
	W(GUEST_DR7, DR7_FIXED_1 | 2 | 1 << 16 | 8 | 9 << 20);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(R(t, GUEST_RIP), 0x21000);
	assert_int_equal(R(t, GUEST_RSP), 0x5ffa8);
	assert_int_equal(*guest64(t, 0x5ffa8), 0x21000); /* the second frame: nothing of the handler had run */
	assert_int_equal(*guest64(t, 0x5ffd8), GPA_CODE + 7);
	assert_int_equal(vmx_get_dr(t->cpu, 6) & 0xf, 2);
}

static void io_breakpoint_needs_cr4_de(void **state)
{
	for (unsigned de = 0; de < 2; de++) {
		struct machine *t;

		machine_setup_long((void **)&t);
		W(CPU_BASED_VM_EXEC_CONTROL,
		  R(t, CPU_BASED_VM_EXEC_CONTROL) & ~(uint64_t)CPU_BASED_UNCOND_IO_EXITING);
		if (de)
			W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_DE);
		CODE(t, 0xe6, 0x80, 0xf4);
		memcpy(t->ram + 0x21000, "\xff\xc6\x48\xcf", 4);
		set_gate(t, X86_TRAP_DB, 0x21000);
		vmx_gprs(t->cpu)[RSI] = 0;
		vmx_set_dr(t->cpu, 1, 0x80);
		W(GUEST_DR7, DR7_FIXED_1 | 4 | 2 << 20);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(vmx_gprs(t->cpu)[RSI], de);
		machine_teardown((void **)&t);
	}
}

static void branch_step_traps_on_taken_branches_only(void **state)
{
	STATE;

	/* nop; nop; jmp +0 (to next but one); nop; 1: nop; hlt */
	CODE(t, 0x90, 0x90, 0xeb, 0x01, 0x90, 0x90, 0xf4);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_TF);
	W(GUEST_IA32_DEBUGCTL, DEBUGCTLMSR_BTF);
	assert_int_equal(exception_of(t), X86_TRAP_DB);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE + 5);
}

/* Two processors add to one counter that lies across two scattered pages. */
#define ROUNDS 20000
static void *run_cpu(void *arg)
{
	return (void *)(uintptr_t)vmlaunch(arg);
}

static void split_locks_lose_no_update(void **state)
{
	STATE;
	struct vmx_cpu *other;
	struct vmcs *vmcs = test_pages(4096);
	pthread_t th;
	void *r;

	guest64(t, GPA_PT)[0x41] = 0x43000 | PTE_P | PTE_RW;
	/* mov ecx,ROUNDS; 1: lock inc qword [40ffch]; dec ecx; jnz 1b; hlt */
	CODE(t, 0xb9, ROUNDS & 255, ROUNDS >> 8 & 255, ROUNDS >> 16, 0, 0xf0, 0x48, 0xff, 0x04,
	     0x25, 0xfc, 0x0f, 0x04, 0, 0xff, 0xc9, 0x75, 0xf3, 0xf4);
	assert_int_equal(vmx_cpu_create(t->m, &other), 0);
	*vmcs = *t->vmcs;
	assert_int_equal(vmclear(other, (hpa_t)vmcs), VMX_SUCCEED);
	assert_int_equal(vmptrld(other, (hpa_t)vmcs), VMX_SUCCEED);
	assert_int_equal(pthread_create(&th, NULL, run_cpu, other), 0);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	pthread_join(th, &r);
	assert_int_equal((uintptr_t)r, VMX_SUCCEED);
	assert_int_equal(*(uint32_t *)(t->ram + 0x40ffc), 2 * ROUNDS);
	assert_int_equal(*(uint32_t *)(t->ram + 0x43000), 0);
	vmx_cpu_destroy(other);
	munmap(vmcs, 4096);
}

/* SYSCALL with TF set, which IA32_FMASK masks or not. */
static void syscall_traps_by_the_tf_that_it_leaves(void **state)
{
	static const uint8_t code[] = { 0x0f, 0x05, 0x90, 0xf4 };

	for (int masked = 0; masked < 2; masked++) {
		struct machine *t;

		machine_setup_long((void **)&t);
		memcpy(t->ram + GPA_CODE, code, sizeof(code));
		memcpy(t->ram + GPA_CODE + 0x100, "\x90\xf4", 2); /* nop; hlt */
		W(GUEST_IA32_EFER, R(t, GUEST_IA32_EFER) | EFER_SCE);
		assert_int_equal(vmx_wrmsr(t->cpu, MSR_LSTAR, GPA_CODE + 0x100), 0);
		assert_int_equal(vmx_wrmsr(t->cpu, MSR_STAR, 8ULL << 32), 0);
		assert_int_equal(vmx_wrmsr(t->cpu, MSR_SYSCALL_MASK, masked ? X86_FLAGS_TF : 0), 0);
		W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_TF);
		W(EXCEPTION_BITMAP, 1u << X86_TRAP_DB);
		assert_int_equal(go(t), masked ? EXIT_REASON_HLT : EXIT_REASON_EXCEPTION_NMI);
		assert_int_equal(R(t, GUEST_RIP), GPA_CODE + 0x100 + (masked ? 1 : 0));
		machine_teardown((void **)&t);
	}
}

/* SYSRET to RFLAGS with TF: the trap comes before the first instruction there. */
static void sysret_to_tf_traps_at_once(void **state)
{
	STATE;
	static const uint8_t code[] = { 0x48, 0x0f, 0x07 };

	for (unsigned n = 0; n < 512; n++)
		guest64(t, GPA_PT)[n] |= PTE_US;
	memcpy(t->ram + GPA_CODE, code, sizeof(code));
	memcpy(t->ram + GPA_CODE + 0x100, "\x90\x90", 2);
	W(GUEST_IA32_EFER, R(t, GUEST_IA32_EFER) | EFER_SCE);
	assert_int_equal(vmx_wrmsr(t->cpu, MSR_STAR, 0x10ULL << 48), 0);
	vmx_gprs(t->cpu)[RCX] = GPA_CODE + 0x100;
	vmx_gprs(t->cpu)[R11] = X86_FLAGS_FIXED | X86_FLAGS_TF;
	W(EXCEPTION_BITMAP, 1u << X86_TRAP_DB);
	assert_int_equal(go(t), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE + 0x100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(alignment_check_wants_the_alignment_of_the_operand),
	    cmocka_unit_test(syscall_traps_by_the_tf_that_it_leaves),
	    TEST_LONG(sysret_to_tf_traps_at_once),
	    TEST_LONG(without_am_or_at_cpl_0_nothing_is_checked),
	    cmocka_unit_test(stack_references_fault_with_ss_and_operands_with_gp),
	    TEST_LONG(ept_violation_of_an_iret_reports_nmi_unblocking),
	    TEST_LONG(exception_of_an_iret_reports_nmi_unblocking),
	    TEST_LONG(exception_of_another_instruction_does_not),
	    TEST_LONG(resume_flag_passes_one_instruction_breakpoint),
	    TEST_LONG(instruction_that_exits_saves_no_resume_flag),
	    TEST_LONG(breakpoint_on_a_repetition_is_met_once),
	    TEST_LONG(stac_opens_user_pages_to_the_supervisor_and_clac_closes_them),
	    TEST_LONG(watchpoint_counts_every_write_of_a_loop),
	    TEST_LONG(watchpoint_met_by_mov_ss_is_pending_in_the_next_exit),
	    TEST_LONG(watchpoint_on_the_frame_of_a_trap_comes_before_its_handler),
	    cmocka_unit_test(io_breakpoint_needs_cr4_de),
	    TEST_LONG(branch_step_traps_on_taken_branches_only),
	    TEST_LONG(split_locks_lose_no_update),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
