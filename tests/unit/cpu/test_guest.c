/* Guests through vmlaunch: the processor as a whole. */
#include "machine.h"

#include "host/fault.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

#define STATE struct machine *t = *state

static void real_mode_code_runs_to_hlt(void **state)
{
	STATE;

	/* mov ax,1234h; mov bx,ax; add bx,1; mov [100h],bx; hlt */
	CODE(t, 0xb8, 0x34, 0x12, 0x89, 0xc3, 0x83, 0xc3, 0x01, 0x89, 0x1e, 0x00, 0x01, 0xf4);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RBX], 0x1235);
	assert_int_equal(*(uint16_t *)(t->ram + 0x100), 0x1235);
	assert_int_equal(R(t, GUEST_RIP), 12);
	assert_int_equal(R(t, VM_EXIT_INSTRUCTION_LEN), 1);
}

static void real_mode_interrupt_is_delivered_through_the_ivt(void **state)
{
	STATE;

	/* int 21h; hlt -- handler at 2100:0 : mov cx,77h; iret */
	CODE(t, 0xcd, 0x21, 0xf4);
	*(uint32_t *)(t->ram + 0x84) = 0x21000000;
	memcpy(t->ram + 0x21000, "\xb9\x77\x00\xcf", 4);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RCX], 0x77);
	assert_int_equal(R(t, GUEST_RIP), 2);
	assert_int_equal(R(t, GUEST_RSP), 0x8000);
}

static void long_mode_loop_sums(void **state)
{
	STATE;

	/* xor eax,eax; mov ecx,1000; 1: add rax,rcx; dec ecx; jnz 1b; hlt */
	CODE(t, 0x31, 0xc0, 0xb9, 0xe8, 0x03, 0x00, 0x00, 0x48, 0x01, 0xc8, 0xff, 0xc9, 0x75, 0xf9,
	     0xf4);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RAX], 500500);
}

static void out_exits_with_its_qualification_and_resumes(void **state)
{
	STATE;

	/* mov al,41h; mov dx,3f8h; out dx,al; hlt */
	CODE(t, 0xb0, 0x41, 0x66, 0xba, 0xf8, 0x03, 0xee, 0xf4);
	assert_int_equal(go(t), EXIT_REASON_IO_INSTRUCTION);
	assert_int_equal(R(t, EXIT_QUALIFICATION), 0x3f8UL << 16);
	assert_int_equal(R(t, VM_EXIT_INSTRUCTION_LEN), 1);
	W(GUEST_RIP, R(t, GUEST_RIP) + 1);
	assert_int_equal(go(t), EXIT_REASON_HLT);
}

static void unmapped_gpa_exits_with_48_and_runs_on_once_mapped(void **state)
{
	STATE;
	uint64_t leaf = *ept_leaf(t, 0x40000);

	/* mov [40008h],eax; hlt */
	CODE(t, 0x89, 0x04, 0x25, 0x08, 0x00, 0x04, 0x00, 0xf4);
	vmx_gprs(t->cpu)[RAX] = 0xabcd;
	*ept_leaf(t, 0x40000) = 0;
	assert_int_equal(go(t), EXIT_REASON_EPT_VIOLATION);
	assert_int_equal(R(t, GUEST_PHYSICAL_ADDRESS), 0x40008);
	assert_int_equal(R(t, GUEST_LINEAR_ADDRESS), 0x40008);
	assert_int_equal(R(t, EXIT_QUALIFICATION), EPT_VIOLATION_ACC_WRITE |
			 EPT_VIOLATION_GVA_IS_VALID | EPT_VIOLATION_GVA_TRANSLATED);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE);
	*ept_leaf(t, 0x40000) = leaf;
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(*(uint32_t *)(t->ram + 0x40008), 0xabcd);
}

static void injected_interrupt_runs_its_handler(void **state)
{
	STATE;

	/* nop; hlt -- handler: mov esi,5; iretq */
	CODE(t, 0x90, 0xf4);
	memcpy(t->ram + 0x21000, "\xbe\x05\x00\x00\x00\x48\xcf", 7);
	set_gate(t, 0x30, 0x21000);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_IF);
	W(VM_ENTRY_INTR_INFO_FIELD, INTR_INFO_VALID_MASK | 0x30);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RSI], 5);
	assert_int_equal(R(t, VM_ENTRY_INTR_INFO_FIELD), 0x30);
	assert_int_equal(R(t, GUEST_RSP), GPA_STACK);
}

static void ept_violation_in_delivery_reports_the_event(void **state)
{
	STATE;

	CODE(t, 0xf4);
	set_gate(t, 0x30, 0x21000);
	*ept_leaf(t, GPA_STACK - 0x1000) = 0;
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_IF);
	W(VM_ENTRY_INTR_INFO_FIELD, INTR_INFO_VALID_MASK | 0x30);
	assert_int_equal(go(t), EXIT_REASON_EPT_VIOLATION);
	assert_int_equal(R(t, IDT_VECTORING_INFO_FIELD), INTR_INFO_VALID_MASK | 0x30);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE);
	assert_int_equal(R(t, GUEST_RSP), GPA_STACK);
}

static void interrupt_window_opens_after_the_sti_shadow(void **state)
{
	STATE;

	/* sti; nop; nop; hlt */
	CODE(t, 0xfb, 0x90, 0x90, 0xf4);
	W(CPU_BASED_VM_EXEC_CONTROL,
	  R(t, CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_INTR_WINDOW_EXITING);
	assert_int_equal(go(t), EXIT_REASON_INTERRUPT_WINDOW);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE + 2);
	assert_int_equal(R(t, GUEST_INTERRUPTIBILITY_INFO), 0);
}

static void hlt_in_the_sti_shadow_reports_the_shadow(void **state)
{
	STATE;

	CODE(t, 0xfb, 0xf4);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(R(t, GUEST_INTERRUPTIBILITY_INFO), GUEST_INTR_STATE_STI);
}

static void page_fault_reaches_the_guest_handler_with_cr2(void **state)
{
	STATE;

	/* mov eax,[300000h] (not mapped) -- handler: pop rdi; hlt */
	CODE(t, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x30, 0x00, 0x90);
	memcpy(t->ram + 0x21000, "\x5f\xf4", 2);
	set_gate(t, X86_TRAP_PF, 0x21000);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_get_cr2(t->cpu), 0x300000);
	assert_int_equal(vmx_gprs(t->cpu)[RDI], 0);
	assert_int_equal(*guest64(t, R(t, GUEST_RSP)), GPA_CODE);
}

static void no_idt_ends_in_a_triple_fault(void **state)
{
	STATE;

	CODE(t, 0x0f, 0x0b);
	W(GUEST_IDTR_LIMIT, 0);
	assert_int_equal(go(t), EXIT_REASON_TRIPLE_FAULT);
}

static void single_step_traps_after_each_instruction(void **state)
{
	STATE;

	/* nop; nop; hlt -- #DB handler: inc esi; iretq */
	CODE(t, 0x90, 0x90, 0xf4);
	memcpy(t->ram + 0x21000, "\xff\xc6\x48\xcf", 4);
	set_gate(t, X86_TRAP_DB, 0x21000);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_TF);
	vmx_gprs(t->cpu)[RSI] = 0;
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RSI], 2);
	assert_int_equal(vmx_get_dr(t->cpu, 6) & DR6_BS, DR6_BS);
}

static void monitor_trap_flag_exits_after_one_instruction(void **state)
{
	STATE;

	CODE(t, 0x90, 0x90, 0xf4);
	W(CPU_BASED_VM_EXEC_CONTROL,
	  R(t, CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_MONITOR_TRAP_FLAG);
	assert_int_equal(go(t), EXIT_REASON_MONITOR_TRAP_FLAG);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE + 1);
}

static void monitor_trap_flag_exits_between_an_injected_event_and_its_handler(void **state)
{
	STATE;

	CODE(t, 0x90, 0xf4);
	memcpy(t->ram + 0x21000, "\xff\xc6\x48\xcf", 4); /* inc esi; iretq */
	set_gate(t, 0x40, 0x21000);
	W(CPU_BASED_VM_EXEC_CONTROL,
	  R(t, CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_MONITOR_TRAP_FLAG);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_IF);
	W(VM_ENTRY_INTR_INFO_FIELD, 0x40 | INTR_INFO_VALID_MASK);
	vmx_gprs(t->cpu)[RSI] = 0;
	assert_int_equal(go(t), EXIT_REASON_MONITOR_TRAP_FLAG);
	assert_int_equal(R(t, GUEST_RIP), 0x21000);
	assert_int_equal(vmx_gprs(t->cpu)[RSI], 0);
}

static void code_that_rewrites_the_next_instruction_runs_the_new_one(void **state)
{
	STATE;

	/* mov byte [rip+1],0x7b (imm of the next insn); mov al,1; hlt */
	CODE(t, 0xc6, 0x05, 0x01, 0x00, 0x00, 0x00, 0x7b, 0xb0, 0x01, 0xf4);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RAX] & 0xff, 0x7b);
}

static void code_rewritten_by_the_client_is_seen_after_sync(void **state)
{
	STATE;

	CODE(t, 0xb0, 0x01, 0xf4);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	t->ram[GPA_CODE + 1] = 2;
	W(GUEST_RIP, GPA_CODE);
	vmx_sync_code(t->cpu);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RAX] & 0xff, 2);
}

static void instruction_across_two_pages_runs(void **state)
{
	STATE;
	static const uint8_t code[] = { 0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xf4 };

	memcpy(t->ram + 0x22ffb, code, sizeof(code));
	W(GUEST_RIP, 0x22ffb);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RAX], 0x0807060504030201);
	t->ram[0x23000] = 0x55; /* the fourth byte of the immediate */
	W(GUEST_RIP, 0x22ffb);
	vmx_sync_code(t->cpu);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RAX], 0x0807060555030201);
}

static void access_across_two_scattered_pages_reads_and_writes_both(void **state)
{
	STATE;

	/* mov rax,[40ffch]; mov [42ffch],rax; hlt; with 41000h and 43000h swapped */
	CODE(t, 0x48, 0x8b, 0x04, 0x25, 0xfc, 0x0f, 0x04, 0x00, 0x48, 0x89, 0x04, 0x25, 0xfc, 0x2f,
	     0x04, 0x00, 0xf4);
	guest64(t, GPA_PT)[0x41] = 0x43000 | PTE_P | PTE_RW;
	guest64(t, GPA_PT)[0x43] = 0x41000 | PTE_P | PTE_RW;
	memcpy(t->ram + 0x40ffc, "abcd", 4);
	memcpy(t->ram + 0x43000, "efgh", 4);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_memory_equal(t->ram + 0x42ffc, "abcd", 4);
	assert_memory_equal(t->ram + 0x41000, "efgh", 4);
}

/* cmocka puts its own handler in front of ours for each test: ours, from main(). */
static struct sigaction our_segv;

static void vanished_memory_is_a_bus_error_and_restarts(void **state)
{
	STATE;

	/* mov rax,[80000h]; hlt */
	CODE(t, 0x48, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x08, 0x00, 0xf4);
	mprotect(t->ram + 0x80000, 4096, PROT_NONE);
	assert_int_equal(sigaction(SIGSEGV, &our_segv, NULL), 0);
	assert_int_equal(vmlaunch(t->cpu), VMX_BUS_ERROR);
	assert_int_equal(vmx_bus_error_address(t->cpu) & ~0xfffULL, (hpa_t)t->ram + 0x80000);
	assert_int_equal(R(t, VM_EXIT_REASON), EXIT_REASON_EXTERNAL_INTERRUPT);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE);
	mprotect(t->ram + 0x80000, 4096, PROT_READ | PROT_WRITE);
	*guest64(t, 0x80000) = 99;
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RAX], 99);
}

static void *kicker(void *cpu)
{
	usleep(20000);
	vmx_kick(cpu);
	return NULL;
}

static void kick_ends_an_endless_loop(void **state)
{
	STATE;
	pthread_t th;

	CODE(t, 0xeb, 0xfe);
	assert_int_equal(pthread_create(&th, NULL, kicker, t->cpu), 0);
	assert_int_equal(go(t), EXIT_REASON_EXTERNAL_INTERRUPT);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE);
	pthread_join(th, NULL);
}

static void kick_ends_the_hlt_activity(void **state)
{
	STATE;
	pthread_t th;

	CODE(t, 0xf4);
	W(CPU_BASED_VM_EXEC_CONTROL, R(t, CPU_BASED_VM_EXEC_CONTROL) & ~CPU_BASED_HLT_EXITING);
	assert_int_equal(pthread_create(&th, NULL, kicker, t->cpu), 0);
	assert_int_equal(go(t), EXIT_REASON_EXTERNAL_INTERRUPT);
	assert_int_equal(R(t, GUEST_ACTIVITY_STATE), GUEST_ACTIVITY_HLT);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE + 1);
	pthread_join(th, NULL);
}

static void preemption_timer_ends_an_endless_loop(void **state)
{
	STATE;

	CODE(t, 0xeb, 0xfe);
	W(PIN_BASED_VM_EXEC_CONTROL,
	  R(t, PIN_BASED_VM_EXEC_CONTROL) | PIN_BASED_VMX_PREEMPTION_TIMER);
	W(VMX_PREEMPTION_TIMER_VALUE, 1000);
	assert_int_equal(go(t), EXIT_REASON_PREEMPTION_TIMER);
}

static void xgetbv_reads_xcr0_and_what_is_in_use(void **state)
{
	STATE;

	/* xgetbv; hlt */
	CODE(t, 0x0f, 0x01, 0xd0, 0xf4);
	W(EXCEPTION_BITMAP, ~0u);
	vmx_gprs(t->cpu)[RCX] = 0;
	assert_int_equal(go(t), EXIT_REASON_EXCEPTION_NMI); /* without CR4.OSXSAVE */
	assert_int_equal(R(t, VM_EXIT_INTR_INFO) & 0xff, X86_TRAP_UD);
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_OSXSAVE | X86_CR4_OSFXSR);
	vmx_set_xcr0(t->cpu, 3);
	vmx_gprs(t->cpu)[RAX] = vmx_gprs(t->cpu)[RDX] = ~0ULL;
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RAX], 3);
	assert_int_equal(vmx_gprs(t->cpu)[RDX], 0);
	/* movd xmm0,eax puts SSE in use */
	CODE(t, 0x66, 0x0f, 0x6e, 0xc0, 0x0f, 0x01, 0xd0, 0xf4);
	vmx_sync_code(t->cpu);
	W(GUEST_RIP, GPA_CODE);
	vmx_gprs(t->cpu)[RCX] = 1;
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RAX] & 2, 2);
	W(GUEST_RIP, GPA_CODE);
	vmx_gprs(t->cpu)[RCX] = 2;
	assert_int_equal(go(t), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(R(t, VM_EXIT_INTR_INFO) & 0xff, X86_TRAP_GP);
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* The exit is late by a few of them, not by hundreds. */
static void preemption_timer_is_punctual_in_slow_code(void **state)
{
	STATE;
	enum { TRIES = 31, DIVISIONS = 30 };
	uint64_t late[TRIES];
	uint8_t *code = t->ram + GPA_CODE;

	for (unsigned n = 0; n < DIVISIONS; n++, code += 5)
		memcpy(code, "\x31\xd2\x48\xf7\xf1", 5); /* xor edx,edx; div rcx */
	memcpy(code, "\xe9\x65\xff\xff\xff", 5);
	assert_int_equal(code + 5 - 0x9b - (t->ram + GPA_CODE), 0);
	W(PIN_BASED_VM_EXEC_CONTROL, R(t, PIN_BASED_VM_EXEC_CONTROL) | PIN_BASED_VMX_PREEMPTION_TIMER);
	for (unsigned n = 0; n < TRIES; n++) {
		W(GUEST_RIP, GPA_CODE);
		W(VMX_PREEMPTION_TIMER_VALUE, 5000);
		vmx_gprs(t->cpu)[RAX] = ~0ULL;
		vmx_gprs(t->cpu)[RCX] = 1;
		assert_int_equal(go(t), EXIT_REASON_PREEMPTION_TIMER);
		late[n] = __builtin_ia32_rdtsc() - t->cpu->preemption_deadline;
	}
	qsort(late, TRIES, sizeof(late[0]), by_size);
	print_message("preemption timer: late by %lu ticks (median)\n", late[TRIES / 2]);
	assert_true(late[TRIES / 2] < 20000);
}

static void sse_state_survives_an_exit(void **state)
{
	STATE;

	/* mov eax,5; movd xmm1,eax; hlt; movd ebx,xmm1; hlt */
	CODE(t, 0xb8, 5, 0, 0, 0, 0x66, 0x0f, 0x6e, 0xc8, 0xf4, 0x66, 0x0f, 0x7e, 0xcb, 0xf4);
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_OSFXSR);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	W(GUEST_RIP, R(t, GUEST_RIP) + 1);
	vmx_gprs(t->cpu)[RBX] = 0;
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(vmx_gprs(t->cpu)[RBX], 5);
}

/* Not a judgement, a number: millions of simple instructions a second. */
static void straight_code_runs(void **state)
{
	STATE;
	struct timespec a, b;
	double s;

	/* mov ecx,20000000; 1: add rax,rcx; xor rdx,rax; mov [40000h],rdx; dec ecx; jnz 1b; hlt */
	CODE(t, 0xb9, 0x00, 0x2d, 0x31, 0x01, 0x48, 0x01, 0xc8, 0x48, 0x31, 0xc2, 0x48, 0x89, 0x14,
	     0x25, 0x00, 0x00, 0x04, 0x00, 0xff, 0xc9, 0x75, 0xee, 0xf4);
	clock_gettime(CLOCK_MONOTONIC, &a);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	clock_gettime(CLOCK_MONOTONIC, &b);
	s = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
	print_message("%.0f M instructions/s\n",
		      (double)vmx_cpu_counters(t->cpu)->instructions / s / 1e6);
	assert_int_equal(vmx_gprs(t->cpu)[RCX], 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_REAL(real_mode_code_runs_to_hlt),
		TEST_REAL(real_mode_interrupt_is_delivered_through_the_ivt),
		TEST_LONG(long_mode_loop_sums),
		TEST_LONG(out_exits_with_its_qualification_and_resumes),
		TEST_LONG(unmapped_gpa_exits_with_48_and_runs_on_once_mapped),
		TEST_LONG(injected_interrupt_runs_its_handler),
		TEST_LONG(ept_violation_in_delivery_reports_the_event),
		TEST_LONG(interrupt_window_opens_after_the_sti_shadow),
		TEST_LONG(hlt_in_the_sti_shadow_reports_the_shadow),
		TEST_LONG(page_fault_reaches_the_guest_handler_with_cr2),
		TEST_LONG(no_idt_ends_in_a_triple_fault),
		TEST_LONG(single_step_traps_after_each_instruction),
		TEST_LONG(monitor_trap_flag_exits_after_one_instruction),
		TEST_LONG(monitor_trap_flag_exits_between_an_injected_event_and_its_handler),
		TEST_LONG(code_that_rewrites_the_next_instruction_runs_the_new_one),
		TEST_LONG(code_rewritten_by_the_client_is_seen_after_sync),
		TEST_LONG(instruction_across_two_pages_runs),
		TEST_LONG(access_across_two_scattered_pages_reads_and_writes_both),
		TEST_LONG(vanished_memory_is_a_bus_error_and_restarts),
		TEST_LONG(kick_ends_an_endless_loop),
		TEST_LONG(kick_ends_the_hlt_activity),
		TEST_LONG(preemption_timer_ends_an_endless_loop),
		TEST_LONG(xgetbv_reads_xcr0_and_what_is_in_use),
		TEST_LONG(preemption_timer_is_punctual_in_slow_code),
		TEST_LONG(sse_state_survives_an_exit),
		TEST_LONG(straight_code_runs),
	};

	if (host_fault_init() || sigaction(SIGSEGV, NULL, &our_segv))
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
