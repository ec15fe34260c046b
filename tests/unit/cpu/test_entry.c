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
	uint32_t also;	 /* a second field that the check depends on; 0: none */
	uint64_t also_set;
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
	{ "EPTP walk length 3", EPT_POINTER, EPTP_WALK_MASK, 0x10, FAIL_7, 0, false },
	{ "EPTP walk length 5", EPT_POINTER, EPTP_WALK_MASK, 0x20, ENTERS, 0, false },
	{ "EPTP walk length 6", EPT_POINTER, EPTP_WALK_MASK, 0x28, FAIL_7, 0, false },
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

	/* "Checks on VMX Controls" */
	{ "primary must-be-1", CPU_BASED_VM_EXEC_CONTROL, 2, 0, FAIL_7, 0, false },
	{ "secondary not offered", SECONDARY_VM_EXEC_CONTROL, 0, BIT_ULL(14), FAIL_7, 0, false },
	{ "I/O bitmap A unaligned", IO_BITMAP_A, 0, 8, FAIL_7, 0, false, CPU_BASED_VM_EXEC_CONTROL,
	  CPU_BASED_USE_IO_BITMAPS },
	{ "I/O bitmap B too high", IO_BITMAP_B, 0, BIT_ULL(52), FAIL_7, 0, false,
	  CPU_BASED_VM_EXEC_CONTROL, CPU_BASED_USE_IO_BITMAPS },
	{ "I/O bitmap without its control", IO_BITMAP_A, 0, 8, ENTERS, 0, false },
	{ "MSR bitmap unaligned", MSR_BITMAP, 0, 1, FAIL_7, 0, false, CPU_BASED_VM_EXEC_CONTROL,
	  CPU_BASED_USE_MSR_BITMAPS },
	{ "EPTP over MAXPHYADDR", EPT_POINTER, 0, BIT_ULL(52), FAIL_7, 0, false },
	{ "exit controls must-be-1", VM_EXIT_CONTROLS, 1, 0, FAIL_7, 0, false },
	{ "exit controls not offered", VM_EXIT_CONTROLS, 0, BIT_ULL(12), FAIL_7, 0, false },
	{ "entry controls must-be-1", VM_ENTRY_CONTROLS, 1, 0, FAIL_7, 0, false },
	{ "exit MSR-store area unaligned", VM_EXIT_MSR_STORE_ADDR, 0, 8, FAIL_7, 0, false,
	  VM_EXIT_MSR_STORE_COUNT, 1 },
	{ "exit MSR-store area too high", VM_EXIT_MSR_STORE_ADDR, 0, GENMASK_ULL(51, 4), FAIL_7, 0,
	  false, VM_EXIT_MSR_STORE_COUNT, 2 },
	{ "exit MSR-load area unaligned", VM_EXIT_MSR_LOAD_ADDR, 0, 4, FAIL_7, 0, false,
	  VM_EXIT_MSR_LOAD_COUNT, 1 },
	{ "entry MSR-load area too high", VM_ENTRY_MSR_LOAD_ADDR, 0, BIT_ULL(52), FAIL_7, 0, false,
	  VM_ENTRY_MSR_LOAD_COUNT, 1 },
	{ "NMI with a vector other than 2", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000203, FAIL_7, 0, false },
	{ "exception over 31", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000320, FAIL_7, 0, true },
	{ "other event with a vector", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000701, FAIL_7, 0, false },
	{ "#UD with error code", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000b06, FAIL_7, 0, true },
	{ "interrupt with error code", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000820, FAIL_7, 0, true },
	{ "injection reserved bits", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80001306, FAIL_7, 0, true },
	{ "error code over 15 bits", VM_ENTRY_EXCEPTION_ERROR_CODE, ALL, 0x10000, FAIL_7, 0, true,
	  VM_ENTRY_INTR_INFO_FIELD, 0x80000b0d },
	{ "INT n of 16 bytes", VM_ENTRY_INSTRUCTION_LEN, ALL, 16, FAIL_7, 0, true,
	  VM_ENTRY_INTR_INFO_FIELD, 0x80000430 },

	/* "Checks on Host Control Registers, MSRs, and SSP", "… Segment and Descriptor-Table …" */
	{ "host CR0.PG", HOST_CR0, X86_CR0_PG, 0, FAIL_8, 0, false },
	{ "host CR0.NE", HOST_CR0, X86_CR0_NE, 0, FAIL_8, 0, false },
	{ "host CR0 bit 32", HOST_CR0, 0, BIT_ULL(32), FAIL_8, 0, false },
	{ "host CR4 not offered", HOST_CR4, 0, BIT_ULL(30), FAIL_8, 0, false },
	{ "host CR4.PAE", HOST_CR4, X86_CR4_PAE, 0, FAIL_8, 0, false },
	{ "host CR3", HOST_CR3, 0, BIT_ULL(52), FAIL_8, 0, false },
	{ "host SYSENTER_ESP", HOST_IA32_SYSENTER_ESP, 0, BIT_ULL(47), FAIL_8, 0, false },
	{ "host SYSENTER_EIP", HOST_IA32_SYSENTER_EIP, 0, BIT_ULL(63), FAIL_8, 0, false },
	{ "host PAT", HOST_IA32_PAT, ALL, 2, FAIL_8, 0, false, VM_EXIT_CONTROLS, VM_EXIT_LOAD_IA32_PAT },
	{ "host EFER reserved", HOST_IA32_EFER, 0, 0x502, FAIL_8, 0, false, VM_EXIT_CONTROLS,
	  VM_EXIT_LOAD_IA32_EFER },
	{ "host EFER.LMA", HOST_IA32_EFER, ALL, EFER_LME, FAIL_8, 0, false, VM_EXIT_CONTROLS,
	  VM_EXIT_LOAD_IA32_EFER },
	{ "host EFER as it must be", HOST_IA32_EFER, ALL, EFER_LME | EFER_LMA, ENTERS, 0, false,
	  VM_EXIT_CONTROLS, VM_EXIT_LOAD_IA32_EFER },
	{ "host ES RPL", HOST_ES_SELECTOR, 0, 1, FAIL_8, 0, false },
	{ "host CS TI", HOST_CS_SELECTOR, 0, 4, FAIL_8, 0, false },
	{ "host SS RPL", HOST_SS_SELECTOR, 0, 2, FAIL_8, 0, false },
	{ "host DS TI", HOST_DS_SELECTOR, 0, 4, FAIL_8, 0, false },
	{ "host FS RPL", HOST_FS_SELECTOR, 0, 3, FAIL_8, 0, false },
	{ "host GS RPL", HOST_GS_SELECTOR, 0, 3, FAIL_8, 0, false },
	{ "host TR 0", HOST_TR_SELECTOR, ALL, 0, FAIL_8, 0, false },
	{ "host FS base", HOST_FS_BASE, 0, BIT_ULL(48), FAIL_8, 0, false },
	{ "host GS base", HOST_GS_BASE, 0, BIT_ULL(48), FAIL_8, 0, false },
	{ "host GDTR base", HOST_GDTR_BASE, 0, BIT_ULL(48), FAIL_8, 0, false },
	{ "host IDTR base", HOST_IDTR_BASE, 0, BIT_ULL(48), FAIL_8, 0, false },
	{ "host TR base", HOST_TR_BASE, 0, BIT_ULL(48), FAIL_8, 0, false },

	/* "Checks on Guest Control Registers, Debug Registers, and MSRs" */
	{ "CR0 bit 32", GUEST_CR0, 0, BIT_ULL(32), REASON_33, 0, false },
	{ "CR4 not offered", GUEST_CR4, 0, BIT_ULL(30), REASON_33, 0, false },
	{ "IA-32e mode without PG", GUEST_CR0, X86_CR0_PG, 0, REASON_33, 0, true },
	{ "CR3", GUEST_CR3, 0, BIT_ULL(52), REASON_33, 0, true },
	{ "DR7 high half", GUEST_DR7, 0, BIT_ULL(32), REASON_33, 0, false },
	{ "SYSENTER_ESP", GUEST_SYSENTER_ESP, 0, BIT_ULL(47), REASON_33, 0, false },
	{ "SYSENTER_EIP", GUEST_SYSENTER_EIP, 0, BIT_ULL(60), REASON_33, 0, false },
	{ "PAT", GUEST_IA32_PAT, ALL, 0x0300, REASON_33, 0, false, VM_ENTRY_CONTROLS,
	  VM_ENTRY_LOAD_IA32_PAT },
	{ "PAT as it may be", GUEST_IA32_PAT, ALL, 0x0706050401, ENTERS, 0, false, VM_ENTRY_CONTROLS,
	  VM_ENTRY_LOAD_IA32_PAT },
	{ "EFER.LME without LMA under paging", GUEST_IA32_EFER, EFER_LME, 0, REASON_33, 0, true },

	/* "Checks on Guest Segment Registers" */
	{ "TR TI", GUEST_TR_SELECTOR, 0, 4, REASON_33, 0, false },
	{ "LDTR TI", GUEST_LDTR_SELECTOR, 0, 4, REASON_33, 0, false },
	{ "TR base", GUEST_TR_BASE, 0, BIT_ULL(48), REASON_33, 0, false },
	{ "LDTR base", GUEST_LDTR_BASE, 0, BIT_ULL(48), REASON_33, 0, false },
	{ "FS base", GUEST_FS_BASE, 0, BIT_ULL(48), REASON_33, 0, true },
	{ "GS base", GUEST_GS_BASE, 0, BIT_ULL(48), REASON_33, 0, true },
	{ "CS base over 4 GiB", GUEST_CS_BASE, 0, BIT_ULL(32), REASON_33, 0, true },
	{ "SS base over 4 GiB", GUEST_SS_BASE, 0, BIT_ULL(32), REASON_33, 0, true },
	{ "DS base over 4 GiB", GUEST_DS_BASE, 0, BIT_ULL(32), REASON_33, 0, true },
	{ "ES base over 4 GiB", GUEST_ES_BASE, 0, BIT_ULL(32), REASON_33, 0, true },
	{ "CS type 7", GUEST_CS_AR_BYTES, 8, 4, REASON_33, 0, true },
	{ "CS not accessed", GUEST_CS_AR_BYTES, 1, 0, REASON_33, 0, true },
	{ "CS S", GUEST_CS_AR_BYTES, VMX_AR_S, 0, REASON_33, 0, true },
	{ "CS DPL differs from SS's", GUEST_CS_AR_BYTES, 0, 0x20, REASON_33, 0, true },
	{ "CS reserved bits", GUEST_CS_AR_BYTES, 0, 0x100, REASON_33, 0, true },
	{ "CS G with a byte limit", GUEST_CS_LIMIT, 1, 0, REASON_33, 0, true },
	{ "SS DPL in real mode", GUEST_SS_AR_BYTES, 0, 0x60, REASON_33, 0, false },
	{ "SS not present", GUEST_SS_AR_BYTES, VMX_AR_P, 0, REASON_33, 0, true },
	{ "SS S", GUEST_SS_AR_BYTES, VMX_AR_S, 0, REASON_33, 0, true },
	{ "SS reserved bits", GUEST_SS_AR_BYTES, 0, 0x800, REASON_33, 0, true },
	{ "SS granularity", GUEST_SS_AR_BYTES, VMX_AR_G, 0, REASON_33, 0, true },
	{ "DS S", GUEST_DS_AR_BYTES, VMX_AR_S, 0, REASON_33, 0, true },
	{ "DS not present", GUEST_DS_AR_BYTES, VMX_AR_P, 0, REASON_33, 0, true },
	{ "ES execute-only", GUEST_ES_AR_BYTES, 2, 8, REASON_33, 0, true },
	{ "FS reserved bits", GUEST_FS_AR_BYTES, 0, 0x400, REASON_33, 0, true },
	{ "GS granularity", GUEST_GS_AR_BYTES, VMX_AR_G, 0, REASON_33, 0, true },
	{ "TR S", GUEST_TR_AR_BYTES, 0, VMX_AR_S, REASON_33, 0, false },
	{ "TR not present", GUEST_TR_AR_BYTES, VMX_AR_P, 0, REASON_33, 0, false },
	{ "TR reserved bits", GUEST_TR_AR_BYTES, 0, 0x200, REASON_33, 0, false },
	{ "TR granularity", GUEST_TR_LIMIT, 0, 0x100000, REASON_33, 0, false },
	{ "LDTR S", GUEST_LDTR_AR_BYTES, 0, VMX_AR_S, REASON_33, 0, false },
	{ "LDTR not present", GUEST_LDTR_AR_BYTES, VMX_AR_P, 0, REASON_33, 0, false },
	{ "LDTR reserved bits", GUEST_LDTR_AR_BYTES, 0, 0x100, REASON_33, 0, false },
	{ "LDTR granularity", GUEST_LDTR_LIMIT, 0, 0x100000, REASON_33, 0, false },
	{ "virtual-8086 CS rights", GUEST_RFLAGS, 0, X86_FLAGS_VM, REASON_33, 0, false, GUEST_CR0,
	  X86_CR0_PE | X86_CR0_NE | X86_CR0_ET },

	/* "Checks on Guest Descriptor-Table Registers", "… RIP, RFLAGS, and SSP" */
	{ "GDTR base", GUEST_GDTR_BASE, 0, BIT_ULL(48), REASON_33, 0, false },
	{ "IDTR base", GUEST_IDTR_BASE, 0, BIT_ULL(48), REASON_33, 0, false },
	{ "IDTR limit", GUEST_IDTR_LIMIT, 0, 0x10000, REASON_33, 0, false },
	{ "RFLAGS bit 3", GUEST_RFLAGS, 0, 8, REASON_33, 0, false },
	{ "RFLAGS bit 5", GUEST_RFLAGS, 0, 0x20, REASON_33, 0, false },
	{ "RFLAGS bit 22", GUEST_RFLAGS, 0, BIT_ULL(22), REASON_33, 0, false },
	{ "RFLAGS.VM without PE", GUEST_RFLAGS, 0, X86_FLAGS_VM, REASON_33, 0, false },

	/* "Checks on Guest Non-Register State" */
	{ "HLT at CPL 3", GUEST_SS_AR_BYTES, 0, 0x60, REASON_33, 0, true, GUEST_ACTIVITY_STATE, 1 },
	{ "HLT in the STI shadow", GUEST_INTERRUPTIBILITY_INFO, 0, 1, REASON_33, 0, true,
	  GUEST_ACTIVITY_STATE, 1 },
	{ "#GP into HLT", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000b0d, REASON_33, 0, true,
	  GUEST_ACTIVITY_STATE, 1 },
	{ "interruptibility reserved bits", GUEST_INTERRUPTIBILITY_INFO, 0, 0x20, REASON_33, 0, false },
	{ "NMI in the MOV-SS shadow", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000202, REASON_33, 0, false,
	  GUEST_INTERRUPTIBILITY_INFO, 2 },
	{ "pending debug reserved, high", GUEST_PENDING_DBG_EXCEPTIONS, 0, BIT_ULL(32), REASON_33, 0,
	  false },
	{ "BS clear with TF in a shadow", GUEST_INTERRUPTIBILITY_INFO, 0, 2, REASON_33, 0, false,
	  GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_TF },
	{ "BS set without TF in a shadow", GUEST_PENDING_DBG_EXCEPTIONS, 0, DR6_BS, REASON_33, 0, false,
	  GUEST_INTERRUPTIBILITY_INFO, 2 },
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
	if (c->also)
		W(c->also, R(t, c->also) | c->also_set);
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
