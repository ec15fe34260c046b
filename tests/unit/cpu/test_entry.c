/* VM-entry checks: one broken field at a time, and the number it must give. */
#include "machine.h"

enum outcome { FAIL_7, FAIL_8, REASON_33, ENTERS };

struct entry_case {
	const char *name;
	uint32_t field;
	uint64_t clear, set; /* value = (old & ~clear) | set */
	enum outcome outcome;
	uint64_t qualification;
	bool long_mode;
};

#define ALL ~0ULL
static const struct entry_case cases[] = {
	{ "untouched", GUEST_RIP, 0, 0, ENTERS, 0, false },
	{ "untouched in 64-bit mode", GUEST_RIP, 0, 0, ENTERS, 0, true },
	{ "pin-based must-be-1", PIN_BASED_VM_EXEC_CONTROL, 2, 0, FAIL_7, 0, false },
	{ "posted interrupts", PIN_BASED_VM_EXEC_CONTROL, 0, PIN_BASED_POSTED_INTR, FAIL_7, 0, false },
	{ "virtual NMIs without NMI exiting", PIN_BASED_VM_EXEC_CONTROL, PIN_BASED_NMI_EXITING,
	  PIN_BASED_VIRTUAL_NMIS, FAIL_7, 0, false },
	{ "NMI window without virtual NMIs", CPU_BASED_VM_EXEC_CONTROL, 0,
	  CPU_BASED_NMI_WINDOW_EXITING, FAIL_7, 0, false },
	{ "TPR shadow is not offered", CPU_BASED_VM_EXEC_CONTROL, 0, CPU_BASED_TPR_SHADOW, FAIL_7, 0,
	  false },
	{ "unrestricted without EPT", SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC_ENABLE_EPT, 0, FAIL_7,
	  0, false },
	{ "VPID 0", VIRTUAL_PROCESSOR_ID, ALL, 0, FAIL_7, 0, false },
	{ "EPTP memory type", EPT_POINTER, 7, 1, FAIL_7, 0, false },
	{ "EPTP walk length", EPT_POINTER, EPTP_WALK_MASK, 0x20, FAIL_7, 0, false },
	{ "EPTP reserved bit", EPT_POINTER, 0, 0x80, FAIL_7, 0, false },
	{ "five CR3 targets", CR3_TARGET_COUNT, 0, 5, FAIL_7, 0, false },
	{ "MSR area unaligned", VM_ENTRY_MSR_LOAD_COUNT, 0, 1, ENTERS, 0, false },
	{ "saving the timer that is off", VM_EXIT_CONTROLS, 0, VM_EXIT_SAVE_VMX_PREEMPTION_TIMER,
	  FAIL_7, 0, false },
	{ "entry to SMM", VM_ENTRY_CONTROLS, 0, VM_ENTRY_SMM, FAIL_7, 0, false },
	{ "injection of type 1", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000120, FAIL_7, 0, false },
	{ "#GP in real mode with error code", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000b0d, FAIL_7, 0,
	  false },
	{ "#GP without error code", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x8000030d, FAIL_7, 0, true },
	{ "host CR0.PE", HOST_CR0, X86_CR0_PE, 0, FAIL_8, 0, false },
	{ "host CR4.VMXE", HOST_CR4, X86_CR4_VMXE, 0, FAIL_8, 0, false },
	{ "host CS 0", HOST_CS_SELECTOR, ALL, 0, FAIL_8, 0, false },
	{ "host TR RPL", HOST_TR_SELECTOR, 0, 3, FAIL_8, 0, false },
	{ "host RIP", HOST_RIP, ALL, 1ULL << 60, FAIL_8, 0, false },
	{ "host is 64-bit", VM_EXIT_CONTROLS, VM_EXIT_HOST_ADDR_SPACE_SIZE, 0, FAIL_8, 0, false },
	{ "CR0.NE", GUEST_CR0, X86_CR0_NE, 0, REASON_33, 0, false },
	{ "PG without PE", GUEST_CR0, 0, X86_CR0_PG, REASON_33, 0, false },
	{ "CR4.VMXE", GUEST_CR4, X86_CR4_VMXE, 0, REASON_33, 0, false },
	{ "long mode without PAE", GUEST_CR4, X86_CR4_PAE, 0, REASON_33, 0, true },
	{ "PCIDE outside long mode", GUEST_CR4, 0, X86_CR4_PCIDE, REASON_33, 0, false },
	{ "EFER.LMA differs", GUEST_IA32_EFER, EFER_LMA, 0, REASON_33, 0, true },
	{ "EFER reserved", GUEST_IA32_EFER, 0, 2, REASON_33, 0, true },
	{ "link pointer", VMCS_LINK_POINTER, 1, 0, REASON_33, 4, false },
	{ "RFLAGS bit 1", GUEST_RFLAGS, 2, 0, REASON_33, 0, false },
	{ "RFLAGS bit 15", GUEST_RFLAGS, 0, 0x8000, REASON_33, 0, false },
	{ "RFLAGS.VM in long mode", GUEST_RFLAGS, 0, X86_FLAGS_VM, REASON_33, 0, true },
	{ "RIP over 32 bits", GUEST_RIP, 0, 1ULL << 32, REASON_33, 0, false },
	{ "RIP not canonical", GUEST_RIP, 0, 1ULL << 50, REASON_33, 0, true },
	{ "CS both L and D", GUEST_CS_AR_BYTES, 0, VMX_AR_DB, REASON_33, 0, true },
	{ "CS not present", GUEST_CS_AR_BYTES, VMX_AR_P, 0, REASON_33, 0, false },
	{ "CS granularity", GUEST_CS_AR_BYTES, VMX_AR_G, 0, REASON_33, 0, true },
	{ "TR available", GUEST_TR_AR_BYTES, 2, 0, REASON_33, 0, false },
	{ "16-bit TR in long mode", GUEST_TR_AR_BYTES, 8, 0, REASON_33, 0, true },
	{ "TR unusable", GUEST_TR_AR_BYTES, 0, VMX_AR_UNUSABLE, REASON_33, 0, false },
	{ "LDTR type", GUEST_LDTR_AR_BYTES, 0, 1, REASON_33, 0, false },
	{ "LDTR unusable", GUEST_LDTR_AR_BYTES, ALL, VMX_AR_UNUSABLE, ENTERS, 0, false },
	{ "DS not accessed", GUEST_DS_AR_BYTES, 1, 0, REASON_33, 0, false },
	{ "DS unusable", GUEST_DS_AR_BYTES, ALL, VMX_AR_UNUSABLE, ENTERS, 0, true },
	{ "SS read-only", GUEST_SS_AR_BYTES, 2, 0, REASON_33, 0, false },
	{ "STI blocking with IF = 0", GUEST_INTERRUPTIBILITY_INFO, 0, 1, REASON_33, 0, false },
	{ "both shadows", GUEST_INTERRUPTIBILITY_INFO, 0, 3, REASON_33, 0, false },
	{ "blocking by SMI", GUEST_INTERRUPTIBILITY_INFO, 0, 4, REASON_33, 0, false },
	{ "activity 3", GUEST_ACTIVITY_STATE, 0, 3, REASON_33, 0, false },
	{ "interrupt with IF = 0", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000020, REASON_33, 0, false },
	{ "pending debug reserved", GUEST_PENDING_DBG_EXCEPTIONS, 0, 0x20, REASON_33, 0, false },
	{ "GDTR limit", GUEST_GDTR_LIMIT, 0, 0x10000, REASON_33, 0, false },
};

static void check_case(const struct entry_case *c)
{
	struct machine *t;
	enum vmx_result r;
	uint64_t old;

	(c->long_mode ? machine_setup_long : machine_setup)((void **)&t);
	if (c->field == VM_ENTRY_MSR_LOAD_COUNT) {
		W(VM_ENTRY_MSR_LOAD_ADDR, (hpa_t)t->ram);
		*(uint32_t *)t->ram = MSR_TSC_AUX;
	}
	old = R(t, c->field);
	W(c->field, (old & ~c->clear) | c->set);
	vmx_kick(t->cpu); /* an entry that works leaves at once */
	r = vmlaunch(t->cpu);
	if (c->outcome == FAIL_7 || c->outcome == FAIL_8) {
		if (r != VMX_FAIL_VALID || R(t, VM_INSTRUCTION_ERROR) != (c->outcome == FAIL_7 ? 7 : 8))
			fail_msg("%s: result %d error %lu", c->name, r, R(t, VM_INSTRUCTION_ERROR));
	} else {
		uint64_t want = c->outcome == ENTERS ? EXIT_REASON_EXTERNAL_INTERRUPT :
			EXIT_REASON_INVALID_STATE | VMX_EXIT_REASONS_FAILED_VMENTRY;

		if (r != VMX_SUCCEED || R(t, VM_EXIT_REASON) != want ||
		    (c->outcome == REASON_33 && R(t, EXIT_QUALIFICATION) != c->qualification))
			fail_msg("%s: result %d reason %#lx qualification %lu error %lu", c->name, r,
				 R(t, VM_EXIT_REASON), R(t, EXIT_QUALIFICATION),
				 R(t, VM_INSTRUCTION_ERROR));
	}
	machine_teardown((void **)&t);
}

static void each_broken_field_fails_the_entry_its_own_way(void **state)
{
	for (size_t n = 0; n < ARRAY_SIZE(cases); n++)
		check_case(&cases[n]);
}

static void msr_that_cannot_be_loaded_fails_with_34_and_its_index(void **state)
{
	struct machine *t = *state;

	W(VM_ENTRY_MSR_LOAD_COUNT, 2);
	W(VM_ENTRY_MSR_LOAD_ADDR, (hpa_t)t->ram);
	*(uint32_t *)t->ram = MSR_TSC_AUX;
	*(uint32_t *)(t->ram + 16) = 0xdead;
	assert_int_equal(vmlaunch(t->cpu), VMX_SUCCEED);
	assert_int_equal(R(t, VM_EXIT_REASON),
			 EXIT_REASON_MSR_LOAD_FAIL | VMX_EXIT_REASONS_FAILED_VMENTRY);
	assert_int_equal(R(t, EXIT_QUALIFICATION), 2);
}

static void bad_pdpte_fails_with_qualification_2(void **state)
{
	struct machine *t = *state;

	set_long_mode(t);
	set_segment(t, SREG_CS, 8, 0, 0xffffffff, 0xc09b);
	W(VM_ENTRY_CONTROLS, R(t, VM_ENTRY_CONTROLS) & ~VM_ENTRY_IA32E_MODE);
	W(GUEST_IA32_EFER, 0);
	W(GUEST_PDPTR2, PTE_P | 2);
	assert_int_equal(vmlaunch(t->cpu), VMX_SUCCEED);
	assert_int_equal(R(t, VM_EXIT_REASON),
			 EXIT_REASON_INVALID_STATE | VMX_EXIT_REASONS_FAILED_VMENTRY);
	assert_int_equal(R(t, EXIT_QUALIFICATION), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_broken_field_fails_the_entry_its_own_way),
		TEST_REAL(msr_that_cannot_be_loaded_fails_with_34_and_its_index),
		TEST_REAL(bad_pdpte_fails_with_qualification_2),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
