/* APIC virtualization: entry checks, TPR shadow, CR8, x2APIC MSRs. */
#include "apic_machine.h"

#define EXPECT(got, want) assert_int_equal((got), (want))

/* The entry fails with error 7, once; `undo` passes. */
static void refused(struct machine *t, uint32_t field, uint64_t bad)
{
	uint64_t good = R(t, field);
	enum vmx_result r;

	W(field, bad);
	r = t->vmcs->launched ? vmresume(t->cpu) : vmlaunch(t->cpu);
	if (r != VMX_FAIL_VALID)
		fail_msg("field %#x with %#lx: result %d", field, bad, r);
	EXPECT(R(t, VM_INSTRUCTION_ERROR), VMXERR_ENTRY_INVALID_CONTROL_FIELD);
	W(field, good);
	EXPECT(RUN(0, 0, 0x90), EXIT_REASON_HLT);
}

static void addresses_of_pages_are_checked(void **state)
{
	STATE;

	features(t, SHADOW | ACCESSES | REG_VIRT | VID | POSTED);
	refused(t, VIRTUAL_APIC_PAGE_ADDR, (uint64_t)vapic + 16);
	refused(t, VIRTUAL_APIC_PAGE_ADDR, BIT_ULL(52));
	refused(t, APIC_ACCESS_ADDR, (uint64_t)aap + 0x800);
	refused(t, APIC_ACCESS_ADDR, BIT_ULL(52));
	refused(t, POSTED_INTR_DESC_ADDR, (uint64_t)pid + 0x20);
	refused(t, POSTED_INTR_DESC_ADDR, BIT_ULL(52));
	W(POSTED_INTR_DESC_ADDR, (uint64_t)pid + 0x40);
	EXPECT(RUN(0, 0, 0x90), EXIT_REASON_HLT);
	refused(t, POSTED_INTR_NV, 0x100);
}

static void addresses_are_not_looked_at_without_their_control(void **state)
{
	STATE;

	features(t, 0);
	W(VIRTUAL_APIC_PAGE_ADDR, 1);
	W(APIC_ACCESS_ADDR, 1);
	W(POSTED_INTR_DESC_ADDR, 1);
	W(POSTED_INTR_NV, 0xffff);
	W(TPR_THRESHOLD, 0xffffffff);
	EXPECT(RUN(0, 0, 0x90), EXIT_REASON_HLT);
}

static void controls_that_need_others_are_refused_alone(void **state)
{
	STATE;
	static const unsigned bad[] = { REG_VIRT, VID, X2APIC, SHADOW | X2APIC | ACCESSES, SHADOW | POSTED };

	for (unsigned n = 0; n < ARRAY_SIZE(bad); n++) {
		uint64_t primary, secondary, pin;

		features(t, bad[n]);
		primary = R(t, CPU_BASED_VM_EXEC_CONTROL);
		secondary = R(t, SECONDARY_VM_EXEC_CONTROL);
		pin = R(t, PIN_BASED_VM_EXEC_CONTROL);
		features(t, 0);
		EXPECT(RUN(0, 0, 0x90), EXIT_REASON_HLT);
		W(CPU_BASED_VM_EXEC_CONTROL, primary);
		W(SECONDARY_VM_EXEC_CONTROL, secondary);
		W(PIN_BASED_VM_EXEC_CONTROL, pin);
		EXPECT(vmresume(t->cpu), VMX_FAIL_VALID);
		EXPECT(R(t, VM_INSTRUCTION_ERROR), VMXERR_ENTRY_INVALID_CONTROL_FIELD);
	}
	features(t, SHADOW | VID | POSTED);
	EXPECT(RUN(0, 0, 0x90), EXIT_REASON_HLT);
	refused(t, PIN_BASED_VM_EXEC_CONTROL, R(t, PIN_BASED_VM_EXEC_CONTROL) & ~PIN_BASED_EXT_INTR_MASK);
	refused(t, VM_EXIT_CONTROLS, R(t, VM_EXIT_CONTROLS) & ~VM_EXIT_ACK_INTR_ON_EXIT);
	features(t, SHADOW | X2APIC);
	EXPECT(RUN(0, 0, 0x90), EXIT_REASON_HLT);
}

static void threshold_over_tpr_fails_without_and_exits_with_apic_accesses(void **state)
{
	STATE;

	features(t, SHADOW);
	refused(t, TPR_THRESHOLD, 0x10);
	set_vapic32(VAPIC_TPR, 0x20);
	refused(t, TPR_THRESHOLD, 3);
	W(TPR_THRESHOLD, 2);
	EXPECT(RUN(0, 0, 0x90), EXIT_REASON_HLT);
	/* memory is looked at again by each entry */
	set_vapic32(VAPIC_TPR, 0x10);
	EXPECT(vmresume(t->cpu), VMX_FAIL_VALID);

	features(t, SHADOW | ACCESSES);
	set_vapic32(VAPIC_TPR, 0x20);
	W(TPR_THRESHOLD, 3);
	EXPECT(RUN(0, 0, 0x90), EXIT_REASON_TPR_BELOW_THRESHOLD);
	EXPECT(R(t, GUEST_RIP), GPA_CODE);
	W(GUEST_ACTIVITY_STATE, GUEST_ACTIVITY_HLT);
	EXPECT(go(t), EXIT_REASON_TPR_BELOW_THRESHOLD);
	/* after the injection */
	W(GUEST_ACTIVITY_STATE, GUEST_ACTIVITY_ACTIVE);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_IF);
	W(VM_ENTRY_INTR_INFO_FIELD, INTR_INFO_VALID_MASK | 0x40);
	EXPECT(go(t), EXIT_REASON_TPR_BELOW_THRESHOLD);
	EXPECT(R(t, GUEST_RIP), HANDLER_AT + 16 * 0x40);

	features(t, SHADOW | ACCESSES | VID);
	W(TPR_THRESHOLD, 0xff);
	EXPECT(RUN(0, 0, 0x90), EXIT_REASON_HLT);
}

static void cr8_is_in_the_virtual_apic_page(void **state)
{
	STATE;

	features(t, SHADOW);
	set_vapic32(VAPIC_TPR, 0xffffff57);
	EXPECT(RUN(0, 0x9, 0x44, 0x0f, 0x20, 0xc3, /* mov rbx,cr8 */ 0x44, 0x0f, 0x22, 0xc0 /* mov cr8,rax */),
	       EXIT_REASON_HLT);
	EXPECT(gpr(t, RBX), 5);
	EXPECT(vapic32(VAPIC_TPR), 0x90);
	set_gate(t, 13, HANDLER_AT);
	EXPECT(RUN(0, 0x10, 0x44, 0x0f, 0x22, 0xc0), EXIT_REASON_HLT);
	EXPECT(R(t, GUEST_RIP), HANDLER_AT);
	EXPECT(vapic32(VAPIC_TPR), 0x90);
	features(t, 0);
	EXPECT(RUN(0, 0x3, 0x44, 0x0f, 0x22, 0xc0, 0x44, 0x0f, 0x20, 0xc3), EXIT_REASON_HLT);
	EXPECT(gpr(t, RBX), 3);
	EXPECT(vapic32(VAPIC_TPR), 0x90);
}

static void cr8_exits_behind_itself_below_the_threshold_only(void **state)
{
	STATE;

	features(t, SHADOW);
	set_vapic32(VAPIC_TPR, 0x90);
	W(TPR_THRESHOLD, 5);
	EXPECT(RUN(0, 5, 0x44, 0x0f, 0x22, 0xc0), EXIT_REASON_HLT);
	EXPECT(RUN(0, 4, 0x44, 0x0f, 0x22, 0xc0), EXIT_REASON_TPR_BELOW_THRESHOLD);
	EXPECT(R(t, GUEST_RIP), GPA_CODE + 4);
	EXPECT(R(t, EXIT_QUALIFICATION), 0);
	EXPECT(vapic32(VAPIC_TPR), 0x40);
	/* the exit comes before the trap of TF, which is saved */
	W(GUEST_RIP, GPA_CODE);
	set_vapic32(VAPIC_TPR, 0x90);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_TF);
	EXPECT(go(t), EXIT_REASON_TPR_BELOW_THRESHOLD);
	EXPECT(R(t, GUEST_PENDING_DBG_EXCEPTIONS), DR6_BS);
}

/* RDMSR or WRMSR of ECX = msr with EDX:EAX; #GP goes to a HLT of its own. */
static uint32_t msr_access(struct machine *t, bool write, uint32_t msr, uint64_t value)
{
	static const uint8_t rdmsr[] = { 0x0f, 0x32 }, wrmsr[] = { 0x0f, 0x30 };

	set_gate(t, 13, HANDLER_AT);
	vmx_gprs(t->cpu)[RCX] = msr;
	vmx_gprs(t->cpu)[RDX] = value >> 32;
	return run_code(t, write ? wrmsr : rdmsr, 2, 0, (uint32_t)value);
}

static bool faulted(struct machine *t)
{
	return R(t, GUEST_RIP) == HANDLER_AT;
}

static void allow_msrs(struct machine *t)
{
	static uint8_t bitmap[4096] __attribute__((aligned(4096)));

	W(CPU_BASED_VM_EXEC_CONTROL, R(t, CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_USE_MSR_BITMAPS);
	W(MSR_BITMAP, (uint64_t)bitmap);
}

static void x2apic_msrs_follow_the_controls(void **state)
{
	STATE;

	features(t, SHADOW | X2APIC);
	allow_msrs(t);
	set_vapic32(VAPIC_TPR, 0x35);
	set_vapic32(0x20, 0x77);
	EXPECT(msr_access(t, false, 0x808, 0), EXIT_REASON_HLT);
	assert_false(faulted(t));
	EXPECT((uint32_t)gpr(t, RAX), 0x35);
	EXPECT(msr_access(t, false, 0x802, 0), EXIT_REASON_HLT);
	assert_true(faulted(t));
	EXPECT(msr_access(t, true, 0x808, 0x100), EXIT_REASON_HLT);
	assert_true(faulted(t));
	EXPECT(msr_access(t, true, 0x808, 0x42), EXIT_REASON_HLT);
	assert_false(faulted(t));
	EXPECT(vapic32(VAPIC_TPR), 0x42);
	EXPECT(msr_access(t, true, 0x80b, 0), EXIT_REASON_HLT);
	assert_true(faulted(t)); /* no virtual-interrupt delivery */

	features(t, SHADOW | X2APIC | REG_VIRT | VID);
	allow_msrs(t);
	for (unsigned n = 0; n < 4096; n++)
		vapic[n] = (uint8_t)(n >> 4);
	for (unsigned msr = 0x800; msr < 0x900; msr++) { /* any of them, whatever it is */
		uint64_t want;

		memcpy(&want, vapic + ((msr & 0xff) << 4), 8);
		EXPECT(msr_access(t, false, msr, 0), EXIT_REASON_HLT);
		assert_false(faulted(t));
		EXPECT(gpr(t, RDX) << 32 | gpr(t, RAX), want);
	}
	for (unsigned msr = 0x800; msr < 0x900; msr++) {
		memset(vapic, 0, 4096);
		EXPECT(msr_access(t, true, msr, 0), msr == 0x83f ? EXIT_REASON_APIC_WRITE : EXIT_REASON_HLT);
		EXPECT(faulted(t), msr != 0x808 && msr != 0x80b && msr != 0x83f);
	}
	EXPECT(msr_access(t, true, 0x80b, 1), EXIT_REASON_HLT);
	assert_true(faulted(t));
	EXPECT(msr_access(t, true, 0x83f, 0x131), EXIT_REASON_HLT);
	assert_true(faulted(t));
	EXPECT(msr_access(t, true, 0x83f, 0x0f), EXIT_REASON_APIC_WRITE);
	EXPECT(R(t, EXIT_QUALIFICATION), 0x3f0);
	EXPECT(R(t, GUEST_RIP), GPA_CODE + 2);
	EXPECT(msr_access(t, true, 0x83f, 0x31), EXIT_REASON_HLT);
	assert_true(vector_set(VAPIC_IRR, 0x31));
	EXPECT(R(t, GUEST_INTR_STATUS), 0x31);
	/* without the mode there is no such MSR */
	features(t, SHADOW | REG_VIRT | VID);
	allow_msrs(t);
	EXPECT(msr_access(t, false, 0x808, 0), EXIT_REASON_HLT);
	assert_true(faulted(t));
}

static void a_kick_is_no_notification_vector(void **state)
{
	STATE;

	features(t, SHADOW | VID | POSTED);
	vmx_kick(t->cpu);
	EXPECT(RUN(0, 0, 0x90), EXIT_REASON_EXTERNAL_INTERRUPT);
	EXPECT(R(t, VM_EXIT_INTR_INFO), INTR_INFO_VALID_MASK | CPU_KICK_VECTOR);
	assert_int_not_equal(CPU_KICK_VECTOR, NV);
	W(POSTED_INTR_NV, CPU_KICK_VECTOR);
	vmx_kick(t->cpu);
	EXPECT(go(t), EXIT_REASON_EXTERNAL_INTERRUPT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_APIC(addresses_of_pages_are_checked),
		TEST_APIC(addresses_are_not_looked_at_without_their_control),
		TEST_APIC(controls_that_need_others_are_refused_alone),
		TEST_APIC(threshold_over_tpr_fails_without_and_exits_with_apic_accesses),
		TEST_APIC(cr8_is_in_the_virtual_apic_page),
		TEST_APIC(cr8_exits_behind_itself_below_the_threshold_only),
		TEST_APIC(x2apic_msrs_follow_the_controls),
		TEST_APIC(a_kick_is_no_notification_vector),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
