/* VM-entry checks: one broken field at a time, and the number it must give. */
#include "machine.h"

enum outcome { FAIL_7, FAIL_8, REASON_33, ENTERS };
/*
 * The valid state that is broken. RESTRICTED: 64-bit, without unrestricted guest. SHADOWED: a TPR shadow; POSTED: posted
 * interrupts, too; LINKED: VMCS shadowing and its VMCS.
 */
enum base { REAL, LONG, V86, V86_IN_LONG, RESTRICTED, SHADOWED, POSTED, LINKED };

struct entry_case {
	const char *name;
	uint32_t field;
	uint64_t clear, set; /* value = (old & ~clear) | set */
	enum outcome outcome;
	uint64_t qualification; /* ENTERS: the exit reason, 0: external interrupt */
	enum base base;
	uint32_t also;	 /* a second and a third field that the check depends on; 0: none */
	uint64_t also_set;
	uint32_t third;
	uint64_t third_set;
};

#define ALL ~0ULL
static const struct entry_case cases[] = {
	{ "untouched", GUEST_RIP, 0, 0, ENTERS, 0, REAL },
	{ "untouched in 64-bit mode", GUEST_RIP, 0, 0, ENTERS, 0, LONG },
	{ "pin-based must-be-1", PIN_BASED_VM_EXEC_CONTROL, 2, 0, FAIL_7, 0, REAL },
	{ "posted interrupts alone", PIN_BASED_VM_EXEC_CONTROL, 0, PIN_BASED_POSTED_INTR, FAIL_7, 0, REAL },
	{ "virtual NMIs without NMI exiting", PIN_BASED_VM_EXEC_CONTROL, PIN_BASED_NMI_EXITING,
	  PIN_BASED_VIRTUAL_NMIS, FAIL_7, 0, REAL },
	{ "NMI window without virtual NMIs", CPU_BASED_VM_EXEC_CONTROL, 0,
	  CPU_BASED_NMI_WINDOW_EXITING, FAIL_7, 0, REAL },
	{ "virtual-APIC page unaligned", VIRTUAL_APIC_PAGE_ADDR, 0, 8, FAIL_7, 0, REAL,
	  CPU_BASED_VM_EXEC_CONTROL, CPU_BASED_TPR_SHADOW },
	{ "unrestricted without EPT", SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC_ENABLE_EPT, 0, FAIL_7,
	  0, REAL },
	{ "VPID 0", VIRTUAL_PROCESSOR_ID, ALL, 0, FAIL_7, 0, REAL },
	{ "EPTP memory type", EPT_POINTER, 7, 1, FAIL_7, 0, REAL },
	{ "EPTP walk length 3", EPT_POINTER, EPTP_WALK_MASK, 0x10, FAIL_7, 0, REAL },
	{ "EPTP walk length 5", EPT_POINTER, EPTP_WALK_MASK, 0x20, ENTERS, 0, REAL },
	{ "EPTP walk length 6", EPT_POINTER, EPTP_WALK_MASK, 0x28, FAIL_7, 0, REAL },
	{ "EPTP reserved bit", EPT_POINTER, 0, 0x80, FAIL_7, 0, REAL },
	{ "five CR3 targets", CR3_TARGET_COUNT, 0, 5, FAIL_7, 0, REAL },
	{ "MSR area unaligned", VM_ENTRY_MSR_LOAD_COUNT, 0, 1, ENTERS, 0, REAL },
	{ "saving the timer that is off", VM_EXIT_CONTROLS, 0, VM_EXIT_SAVE_VMX_PREEMPTION_TIMER,
	  FAIL_7, 0, REAL },
	{ "entry to SMM", VM_ENTRY_CONTROLS, 0, VM_ENTRY_SMM, FAIL_7, 0, REAL },
	{ "injection of type 1", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000120, FAIL_7, 0, REAL },
	{ "#GP in real mode with error code", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000b0d, FAIL_7, 0,
	  REAL },
	{ "#GP without error code", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x8000030d, FAIL_7, 0, LONG },
	{ "host CR0.PE", HOST_CR0, X86_CR0_PE, 0, FAIL_8, 0, REAL },
	{ "host CR4.VMXE", HOST_CR4, X86_CR4_VMXE, 0, FAIL_8, 0, REAL },
	{ "host CS 0", HOST_CS_SELECTOR, ALL, 0, FAIL_8, 0, REAL },
	{ "host TR RPL", HOST_TR_SELECTOR, 0, 3, FAIL_8, 0, REAL },
	{ "host RIP", HOST_RIP, ALL, 1ULL << 60, FAIL_8, 0, REAL },
	{ "host is 64-bit", VM_EXIT_CONTROLS, VM_EXIT_HOST_ADDR_SPACE_SIZE, 0, FAIL_8, 0, REAL },
	{ "CR0.NE", GUEST_CR0, X86_CR0_NE, 0, REASON_33, 0, REAL },
	{ "PG without PE", GUEST_CR0, 0, X86_CR0_PG, REASON_33, 0, REAL },
	{ "CR4.VMXE", GUEST_CR4, X86_CR4_VMXE, 0, REASON_33, 0, REAL },
	{ "long mode without PAE", GUEST_CR4, X86_CR4_PAE, 0, REASON_33, 0, LONG },
	{ "PCIDE outside long mode", GUEST_CR4, 0, X86_CR4_PCIDE, REASON_33, 0, REAL },
	{ "EFER.LMA differs", GUEST_IA32_EFER, EFER_LMA, 0, REASON_33, 0, LONG },
	{ "EFER reserved", GUEST_IA32_EFER, 0, 2, REASON_33, 0, LONG },
	{ "link pointer", VMCS_LINK_POINTER, 1, 0, REASON_33, 4, REAL },
	{ "RFLAGS bit 1", GUEST_RFLAGS, 2, 0, REASON_33, 0, REAL },
	{ "RFLAGS bit 15", GUEST_RFLAGS, 0, 0x8000, REASON_33, 0, REAL },
	{ "RFLAGS.VM in long mode", GUEST_RFLAGS, 0, X86_FLAGS_VM, REASON_33, 0, LONG },
	{ "RIP over 32 bits", GUEST_RIP, 0, 1ULL << 32, REASON_33, 0, REAL },
	{ "RIP with bits 63:48 not identical", GUEST_RIP, 0, 1ULL << 50, REASON_33, 0, LONG },
	{ "RIP with bit 48 set alone", GUEST_RIP, 0, 1ULL << 48, REASON_33, 0, LONG },
	{ "RIP not canonical, but bits 63:48 identical", GUEST_RIP, ~0ULL, 1ULL << 47, ENTERS, 0, LONG },
	{ "CS both L and D", GUEST_CS_AR_BYTES, 0, VMX_AR_DB, REASON_33, 0, LONG },
	{ "CS not present", GUEST_CS_AR_BYTES, VMX_AR_P, 0, REASON_33, 0, REAL },
	{ "CS granularity", GUEST_CS_AR_BYTES, VMX_AR_G, 0, REASON_33, 0, LONG },
	{ "TR available", GUEST_TR_AR_BYTES, 2, 0, REASON_33, 0, REAL },
	{ "16-bit TR in long mode", GUEST_TR_AR_BYTES, 8, 0, REASON_33, 0, LONG },
	{ "TR unusable", GUEST_TR_AR_BYTES, 0, VMX_AR_UNUSABLE, REASON_33, 0, REAL },
	{ "LDTR type", GUEST_LDTR_AR_BYTES, 0, 1, REASON_33, 0, REAL },
	{ "LDTR unusable", GUEST_LDTR_AR_BYTES, ALL, VMX_AR_UNUSABLE, ENTERS, 0, REAL },
	{ "DS not accessed", GUEST_DS_AR_BYTES, 1, 0, REASON_33, 0, REAL },
	{ "DS unusable", GUEST_DS_AR_BYTES, ALL, VMX_AR_UNUSABLE, ENTERS, 0, LONG },
	{ "SS read-only", GUEST_SS_AR_BYTES, 2, 0, REASON_33, 0, REAL },
	{ "STI blocking with IF = 0", GUEST_INTERRUPTIBILITY_INFO, 0, 1, REASON_33, 0, REAL },
	{ "both shadows", GUEST_INTERRUPTIBILITY_INFO, 0, 3, REASON_33, 0, REAL },
	{ "blocking by SMI", GUEST_INTERRUPTIBILITY_INFO, 0, 4, REASON_33, 0, REAL },
	{ "activity 3", GUEST_ACTIVITY_STATE, 0, 3, REASON_33, 0, REAL },
	{ "interrupt with IF = 0", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000020, REASON_33, 0, REAL },
	{ "pending debug reserved", GUEST_PENDING_DBG_EXCEPTIONS, 0, 0x20, REASON_33, 0, REAL },
	{ "GDTR limit", GUEST_GDTR_LIMIT, 0, 0x10000, REASON_33, 0, REAL },

	/* "Checks on VMX Controls" */
	{ "primary must-be-1", CPU_BASED_VM_EXEC_CONTROL, 2, 0, FAIL_7, 0, REAL },
	{ "secondary not offered", SECONDARY_VM_EXEC_CONTROL, 0, BIT_ULL(15), FAIL_7, 0, REAL },
	{ "I/O bitmap A unaligned", IO_BITMAP_A, 0, 8, FAIL_7, 0, REAL, CPU_BASED_VM_EXEC_CONTROL,
	  CPU_BASED_USE_IO_BITMAPS },
	{ "I/O bitmap B too high", IO_BITMAP_B, 0, BIT_ULL(52), FAIL_7, 0, REAL,
	  CPU_BASED_VM_EXEC_CONTROL, CPU_BASED_USE_IO_BITMAPS },
	{ "I/O bitmap without its control", IO_BITMAP_A, 0, 8, ENTERS, 0, REAL },
	{ "MSR bitmap unaligned", MSR_BITMAP, 0, 1, FAIL_7, 0, REAL, CPU_BASED_VM_EXEC_CONTROL,
	  CPU_BASED_USE_MSR_BITMAPS },
	{ "EPTP over MAXPHYADDR", EPT_POINTER, 0, BIT_ULL(52), FAIL_7, 0, REAL },
	{ "exit controls must-be-1", VM_EXIT_CONTROLS, 1, 0, FAIL_7, 0, REAL },
	{ "exit controls not offered", VM_EXIT_CONTROLS, 0, BIT_ULL(12), FAIL_7, 0, REAL },
	{ "entry controls must-be-1", VM_ENTRY_CONTROLS, 1, 0, FAIL_7, 0, REAL },
	{ "exit MSR-store area unaligned", VM_EXIT_MSR_STORE_ADDR, 0, 8, FAIL_7, 0, REAL,
	  VM_EXIT_MSR_STORE_COUNT, 1 },
	{ "exit MSR-store area too high", VM_EXIT_MSR_STORE_ADDR, 0, GENMASK_ULL(51, 4), FAIL_7, 0,
	  REAL, VM_EXIT_MSR_STORE_COUNT, 2 },
	{ "exit MSR-load area unaligned", VM_EXIT_MSR_LOAD_ADDR, 0, 4, FAIL_7, 0, REAL,
	  VM_EXIT_MSR_LOAD_COUNT, 1 },
	{ "entry MSR-load area too high", VM_ENTRY_MSR_LOAD_ADDR, 0, BIT_ULL(52), FAIL_7, 0, REAL,
	  VM_ENTRY_MSR_LOAD_COUNT, 1 },
	{ "NMI with a vector other than 2", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000203, FAIL_7, 0, REAL },
	{ "exception over 31", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000320, FAIL_7, 0, LONG },
	{ "other event with a vector", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000701, FAIL_7, 0, REAL },
	{ "#UD with error code", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000b06, FAIL_7, 0, LONG },
	{ "interrupt with error code", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000820, FAIL_7, 0, LONG },
	{ "injection reserved bits", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80001306, FAIL_7, 0, LONG },
	{ "error code over 15 bits", VM_ENTRY_EXCEPTION_ERROR_CODE, ALL, 0x10000, FAIL_7, 0, LONG,
	  VM_ENTRY_INTR_INFO_FIELD, 0x80000b0d },
	{ "INT n of 16 bytes", VM_ENTRY_INSTRUCTION_LEN, ALL, 16, FAIL_7, 0, LONG,
	  VM_ENTRY_INTR_INFO_FIELD, 0x80000430 },

	/* "Checks on Host Control Registers, MSRs, and SSP", "… Segment and Descriptor-Table …" */
	{ "host CR0.PG", HOST_CR0, X86_CR0_PG, 0, FAIL_8, 0, REAL },
	{ "host CR0.NE", HOST_CR0, X86_CR0_NE, 0, FAIL_8, 0, REAL },
	{ "host CR0 bit 32", HOST_CR0, 0, BIT_ULL(32), FAIL_8, 0, REAL },
	{ "host CR4 not offered", HOST_CR4, 0, BIT_ULL(30), FAIL_8, 0, REAL },
	{ "host CR4.PAE", HOST_CR4, X86_CR4_PAE, 0, FAIL_8, 0, REAL },
	{ "host CR3", HOST_CR3, 0, BIT_ULL(52), FAIL_8, 0, REAL },
	{ "host SYSENTER_ESP", HOST_IA32_SYSENTER_ESP, 0, BIT_ULL(47), FAIL_8, 0, REAL },
	{ "host SYSENTER_EIP", HOST_IA32_SYSENTER_EIP, 0, BIT_ULL(63), FAIL_8, 0, REAL },
	{ "host PAT", HOST_IA32_PAT, ALL, 2, FAIL_8, 0, REAL, VM_EXIT_CONTROLS, VM_EXIT_LOAD_IA32_PAT },
	{ "host EFER reserved", HOST_IA32_EFER, 0, 0x502, FAIL_8, 0, REAL, VM_EXIT_CONTROLS,
	  VM_EXIT_LOAD_IA32_EFER },
	{ "host EFER.LMA", HOST_IA32_EFER, ALL, EFER_LME, FAIL_8, 0, REAL, VM_EXIT_CONTROLS,
	  VM_EXIT_LOAD_IA32_EFER },
	{ "host EFER as it must be", HOST_IA32_EFER, ALL, EFER_LME | EFER_LMA, ENTERS, 0, REAL,
	  VM_EXIT_CONTROLS, VM_EXIT_LOAD_IA32_EFER },
	{ "host ES RPL", HOST_ES_SELECTOR, 0, 1, FAIL_8, 0, REAL },
	{ "host CS TI", HOST_CS_SELECTOR, 0, 4, FAIL_8, 0, REAL },
	{ "host SS RPL", HOST_SS_SELECTOR, 0, 2, FAIL_8, 0, REAL },
	{ "host DS TI", HOST_DS_SELECTOR, 0, 4, FAIL_8, 0, REAL },
	{ "host FS RPL", HOST_FS_SELECTOR, 0, 3, FAIL_8, 0, REAL },
	{ "host GS RPL", HOST_GS_SELECTOR, 0, 3, FAIL_8, 0, REAL },
	{ "host TR 0", HOST_TR_SELECTOR, ALL, 0, FAIL_8, 0, REAL },
	{ "host FS base", HOST_FS_BASE, 0, BIT_ULL(48), FAIL_8, 0, REAL },
	{ "host GS base", HOST_GS_BASE, 0, BIT_ULL(48), FAIL_8, 0, REAL },
	{ "host GDTR base", HOST_GDTR_BASE, 0, BIT_ULL(48), FAIL_8, 0, REAL },
	{ "host IDTR base", HOST_IDTR_BASE, 0, BIT_ULL(48), FAIL_8, 0, REAL },
	{ "host TR base", HOST_TR_BASE, 0, BIT_ULL(48), FAIL_8, 0, REAL },

	/* "Checks on Guest Control Registers, Debug Registers, and MSRs" */
	{ "CR0 bit 32", GUEST_CR0, 0, BIT_ULL(32), REASON_33, 0, REAL },
	{ "CR4 not offered", GUEST_CR4, 0, BIT_ULL(30), REASON_33, 0, REAL },
	{ "CR4.SMXE, which CPUID hides", GUEST_CR4, 0, BIT_ULL(14), REASON_33, 0, REAL },
	{ "IA-32e mode without PG", GUEST_CR0, X86_CR0_PG, 0, REASON_33, 0, LONG },
	{ "CR3", GUEST_CR3, 0, BIT_ULL(52), REASON_33, 0, LONG },
	{ "DR7 high half", GUEST_DR7, 0, BIT_ULL(32), REASON_33, 0, REAL },
	{ "SYSENTER_ESP", GUEST_SYSENTER_ESP, 0, BIT_ULL(47), REASON_33, 0, REAL },
	{ "SYSENTER_EIP", GUEST_SYSENTER_EIP, 0, BIT_ULL(60), REASON_33, 0, REAL },
	{ "PAT", GUEST_IA32_PAT, ALL, 0x0300, REASON_33, 0, REAL, VM_ENTRY_CONTROLS,
	  VM_ENTRY_LOAD_IA32_PAT },
	{ "PAT as it may be", GUEST_IA32_PAT, ALL, 0x0706050401, ENTERS, 0, REAL, VM_ENTRY_CONTROLS,
	  VM_ENTRY_LOAD_IA32_PAT },
	{ "EFER.LME without LMA under paging", GUEST_IA32_EFER, EFER_LME, 0, REASON_33, 0, LONG },

	/* "Checks on Guest Segment Registers" */
	{ "TR TI", GUEST_TR_SELECTOR, 0, 4, REASON_33, 0, REAL },
	{ "LDTR TI", GUEST_LDTR_SELECTOR, 0, 4, REASON_33, 0, REAL },
	{ "TR base", GUEST_TR_BASE, 0, BIT_ULL(48), REASON_33, 0, REAL },
	{ "LDTR base", GUEST_LDTR_BASE, 0, BIT_ULL(48), REASON_33, 0, REAL },
	{ "FS base", GUEST_FS_BASE, 0, BIT_ULL(48), REASON_33, 0, LONG },
	{ "GS base", GUEST_GS_BASE, 0, BIT_ULL(48), REASON_33, 0, LONG },
	{ "CS base over 4 GiB", GUEST_CS_BASE, 0, BIT_ULL(32), REASON_33, 0, LONG },
	{ "SS base over 4 GiB", GUEST_SS_BASE, 0, BIT_ULL(32), REASON_33, 0, LONG },
	{ "DS base over 4 GiB", GUEST_DS_BASE, 0, BIT_ULL(32), REASON_33, 0, LONG },
	{ "ES base over 4 GiB", GUEST_ES_BASE, 0, BIT_ULL(32), REASON_33, 0, LONG },
	{ "CS type 7", GUEST_CS_AR_BYTES, 8, 4, REASON_33, 0, LONG },
	{ "CS not accessed", GUEST_CS_AR_BYTES, 1, 0, REASON_33, 0, LONG },
	{ "CS S", GUEST_CS_AR_BYTES, VMX_AR_S, 0, REASON_33, 0, LONG },
	{ "CS DPL differs from SS's", GUEST_CS_AR_BYTES, 0, 0x20, REASON_33, 0, LONG },
	{ "CS reserved bits", GUEST_CS_AR_BYTES, 0, 0x100, REASON_33, 0, LONG },
	{ "CS G with a byte limit", GUEST_CS_LIMIT, 1, 0, REASON_33, 0, LONG },
	{ "SS DPL in real mode", GUEST_SS_AR_BYTES, 0, 0x60, REASON_33, 0, REAL },
	{ "SS not present", GUEST_SS_AR_BYTES, VMX_AR_P, 0, REASON_33, 0, LONG },
	{ "SS S", GUEST_SS_AR_BYTES, VMX_AR_S, 0, REASON_33, 0, LONG },
	{ "SS reserved bits", GUEST_SS_AR_BYTES, 0, 0x800, REASON_33, 0, LONG },
	{ "SS granularity", GUEST_SS_AR_BYTES, VMX_AR_G, 0, REASON_33, 0, LONG },
	{ "DS S", GUEST_DS_AR_BYTES, VMX_AR_S, 0, REASON_33, 0, LONG },
	{ "DS not present", GUEST_DS_AR_BYTES, VMX_AR_P, 0, REASON_33, 0, LONG },
	{ "ES execute-only", GUEST_ES_AR_BYTES, 2, 8, REASON_33, 0, LONG },
	{ "FS reserved bits", GUEST_FS_AR_BYTES, 0, 0x400, REASON_33, 0, LONG },
	{ "GS granularity", GUEST_GS_AR_BYTES, VMX_AR_G, 0, REASON_33, 0, LONG },
	{ "TR S", GUEST_TR_AR_BYTES, 0, VMX_AR_S, REASON_33, 0, REAL },
	{ "TR not present", GUEST_TR_AR_BYTES, VMX_AR_P, 0, REASON_33, 0, REAL },
	{ "TR reserved bits", GUEST_TR_AR_BYTES, 0, 0x200, REASON_33, 0, REAL },
	{ "TR granularity", GUEST_TR_LIMIT, 0, 0x100000, REASON_33, 0, REAL },
	{ "LDTR S", GUEST_LDTR_AR_BYTES, 0, VMX_AR_S, REASON_33, 0, REAL },
	{ "LDTR not present", GUEST_LDTR_AR_BYTES, VMX_AR_P, 0, REASON_33, 0, REAL },
	{ "LDTR reserved bits", GUEST_LDTR_AR_BYTES, 0, 0x100, REASON_33, 0, REAL },
	{ "LDTR granularity", GUEST_LDTR_LIMIT, 0, 0x100000, REASON_33, 0, REAL },
	{ "virtual-8086 CS rights", GUEST_RFLAGS, 0, X86_FLAGS_VM, REASON_33, 0, REAL, GUEST_CR0,
	  X86_CR0_PE | X86_CR0_NE | X86_CR0_ET },

	/* "Checks on Guest Descriptor-Table Registers", "… RIP, RFLAGS, and SSP" */
	{ "GDTR base", GUEST_GDTR_BASE, 0, BIT_ULL(48), REASON_33, 0, REAL },
	{ "IDTR base", GUEST_IDTR_BASE, 0, BIT_ULL(48), REASON_33, 0, REAL },
	{ "IDTR limit", GUEST_IDTR_LIMIT, 0, 0x10000, REASON_33, 0, REAL },
	{ "RFLAGS bit 3", GUEST_RFLAGS, 0, 8, REASON_33, 0, REAL },
	{ "RFLAGS bit 5", GUEST_RFLAGS, 0, 0x20, REASON_33, 0, REAL },
	{ "RFLAGS bit 22", GUEST_RFLAGS, 0, BIT_ULL(22), REASON_33, 0, REAL },
	{ "RFLAGS.VM without PE", GUEST_RFLAGS, 0, X86_FLAGS_VM, REASON_33, 0, REAL },

	/* "Checks on Guest Non-Register State" */
	{ "HLT at CPL 3", GUEST_SS_AR_BYTES, 0, 0x60, REASON_33, 0, LONG, GUEST_ACTIVITY_STATE, 1 },
	{ "HLT in the STI shadow", GUEST_INTERRUPTIBILITY_INFO, 0, 1, REASON_33, 0, LONG,
	  GUEST_ACTIVITY_STATE, 1 },
	{ "#GP into HLT", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000b0d, REASON_33, 0, LONG,
	  GUEST_ACTIVITY_STATE, 1 },
	{ "interruptibility reserved bits", GUEST_INTERRUPTIBILITY_INFO, 0, 0x20, REASON_33, 0, REAL },
	{ "NMI in the MOV-SS shadow", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000202, REASON_33, 0, REAL,
	  GUEST_INTERRUPTIBILITY_INFO, 2 },
	{ "pending debug reserved, high", GUEST_PENDING_DBG_EXCEPTIONS, 0, BIT_ULL(32), REASON_33, 0,
	  REAL },
	{ "BS clear with TF in a shadow", GUEST_INTERRUPTIBILITY_INFO, 0, 2, REASON_33, 0, REAL,
	  GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_TF },
	{ "BS set without TF in a shadow", GUEST_PENDING_DBG_EXCEPTIONS, 0, DR6_BS, REASON_33, 0, REAL,
	  GUEST_INTERRUPTIBILITY_INFO, 2 },

	/* what only the check itself can find, and what it must let pass */
	{ "page-modification log without EPT", SECONDARY_VM_EXEC_CONTROL,
	  SECONDARY_EXEC_ENABLE_EPT | SECONDARY_EXEC_UNRESTRICTED_GUEST, SECONDARY_EXEC_ENABLE_PML, FAIL_7, 0,
	  LONG },
	{ "page-modification log unaligned", PML_ADDRESS, 0, 8, FAIL_7, 0, REAL, SECONDARY_VM_EXEC_CONTROL,
	  SECONDARY_EXEC_ENABLE_PML },
	{ "page-modification log", PML_ADDRESS, 0, 0x1000, ENTERS, 0, REAL, SECONDARY_VM_EXEC_CONTROL,
	  SECONDARY_EXEC_ENABLE_PML },
	{ "virtual NMIs", PIN_BASED_VM_EXEC_CONTROL, 0, PIN_BASED_VIRTUAL_NMIS, ENTERS, 0, REAL },
	{ "no NMI exiting", PIN_BASED_VM_EXEC_CONTROL, PIN_BASED_NMI_EXITING, 0, ENTERS, 0, REAL },
	{ "NMI window with virtual NMIs", CPU_BASED_VM_EXEC_CONTROL, 0, CPU_BASED_NMI_WINDOW_EXITING, ENTERS,
	  EXIT_REASON_NMI_WINDOW, REAL, PIN_BASED_VM_EXEC_CONTROL, PIN_BASED_VIRTUAL_NMIS },
	{ "saving the timer", VM_EXIT_CONTROLS, 0, VM_EXIT_SAVE_VMX_PREEMPTION_TIMER, ENTERS, 0, REAL,
	  PIN_BASED_VM_EXEC_CONTROL, PIN_BASED_VMX_PREEMPTION_TIMER, VMX_PREEMPTION_TIMER_VALUE, 0x7fffffff },
	{ "monitor trap", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000700, ENTERS, EXIT_REASON_MONITOR_TRAP_FLAG,
	  REAL },
	{ "host EFER.LME", HOST_IA32_EFER, ALL, EFER_LMA, FAIL_8, 0, REAL, VM_EXIT_CONTROLS,
	  VM_EXIT_LOAD_IA32_EFER },
	{ "EFER of no IA-32e mode", GUEST_IA32_EFER, EFER_LMA | EFER_LME, 0, REASON_33, 0, LONG },
	{ "virtual-8086 mode", GUEST_RIP, 0, 0, ENTERS, 0, V86 },
	{ "virtual-8086 mode in IA-32e mode", GUEST_RIP, 0, 0, REASON_33, 0, V86_IN_LONG },
	{ "virtual-8086 mode without PE", GUEST_CR0, X86_CR0_PE, 0, REASON_33, 0, V86 },
	{ "virtual-8086 base", GUEST_DS_BASE, 0, 1, REASON_33, 0, V86 },
	{ "virtual-8086 limit", GUEST_GS_LIMIT, 1, 0, REASON_33, 0, V86 },
	{ "virtual-8086 rights", GUEST_FS_AR_BYTES, 0x10, 0, REASON_33, 0, V86 },
	{ "restricted, untouched", GUEST_RIP, 0, 0, ENTERS, 0, RESTRICTED },
	{ "restricted without PE and PG", GUEST_CR0, X86_CR0_PG, 0, REASON_33, 0, RESTRICTED },
	{ "restricted: CS is data", GUEST_CS_AR_BYTES, 8, 0, REASON_33, 0, RESTRICTED },
	{ "CS is data", GUEST_CS_AR_BYTES, 8, 0, ENTERS, 0, REAL },
	{ "CS is data with a DPL", GUEST_CS_AR_BYTES, 8, 0x60, REASON_33, 0, REAL },
	{ "conforming CS over SS.DPL", GUEST_CS_AR_BYTES, 0, 0x64, REASON_33, 0, LONG },
	{ "conforming CS", GUEST_CS_AR_BYTES, 0, 4, ENTERS, 0, LONG },
	{ "level 3", GUEST_SS_AR_BYTES, 0, 0x60, ENTERS, 0, LONG, GUEST_CS_AR_BYTES, 0x60 },
	{ "conforming CS below SS.DPL", GUEST_CS_AR_BYTES, 0, 4, ENTERS, 0, LONG, GUEST_SS_AR_BYTES, 0x60 },
	{ "CS of type 9", GUEST_CS_AR_BYTES, 2, 0, ENTERS, 0, LONG },
	{ "CS of type 13", GUEST_CS_AR_BYTES, 2, 4, ENTERS, 0, LONG },
	{ "SS expands down", GUEST_SS_AR_BYTES, 0, 4, ENTERS, 0, LONG },
	{ "FS base in the upper half", GUEST_FS_BASE, 0, GENMASK_ULL(63, 47), ENTERS, 0, LONG },
	{ "base of an unusable DS", GUEST_DS_BASE, 0, BIT_ULL(48), ENTERS, 0, LONG, GUEST_DS_AR_BYTES,
	  VMX_AR_UNUSABLE },
	{ "DS is code that can be read", GUEST_DS_AR_BYTES, 0, 8, ENTERS, 0, LONG },
	{ "DS is read-only", GUEST_DS_AR_BYTES, 2, 0, ENTERS, 0, LONG },
	{ "16-bit TR", GUEST_TR_AR_BYTES, 8, 0, ENTERS, 0, REAL },
	{ "PCIDE in IA-32e mode", GUEST_CR4, 0, X86_CR4_PCIDE, ENTERS, 0, LONG },
	{ "EFER.LME without paging", GUEST_IA32_EFER, 0, EFER_LME, ENTERS, 0, REAL },
	{ "STI shadow with IF", GUEST_INTERRUPTIBILITY_INFO, 0, 1, ENTERS, 0, REAL, GUEST_RFLAGS, X86_FLAGS_IF },
	{ "SS.DPL with CS as data", GUEST_CS_AR_BYTES, 8, 0, REASON_33, 0, REAL, GUEST_CR0, X86_CR0_PE,
	  GUEST_SS_AR_BYTES, 0x60 },
	{ "SS.DPL in real mode, CS conforming", GUEST_CS_AR_BYTES, 0, 4, REASON_33, 0, REAL, GUEST_SS_AR_BYTES,
	  0x60 },
	{ "restricted: RPLs of CS and SS", GUEST_CS_SELECTOR, 0, 3, REASON_33, 0, RESTRICTED },
	{ "restricted: SS RPL and DPL", GUEST_SS_AR_BYTES, 0, 0x60, REASON_33, 0, RESTRICTED, GUEST_CS_AR_BYTES,
	  0x60 },
	{ "RPLs of CS and SS", GUEST_CS_SELECTOR, 0, 3, ENTERS, 0, LONG },
	{ "restricted: DS RPL over DPL", GUEST_DS_SELECTOR, 0, 3, REASON_33, 0, RESTRICTED },
	{ "DS RPL over DPL", GUEST_DS_SELECTOR, 0, 3, ENTERS, 0, LONG },
	{ "restricted: conforming DS RPL over DPL", GUEST_DS_SELECTOR, 0, 3, ENTERS, 0, RESTRICTED,
	  GUEST_DS_AR_BYTES, 0xc },
	{ "both shadows with IF", GUEST_INTERRUPTIBILITY_INFO, 0, 3, REASON_33, 0, REAL, GUEST_RFLAGS,
	  X86_FLAGS_IF },
	{ "interrupt into the STI shadow", GUEST_INTERRUPTIBILITY_INFO, 0, 1, REASON_33, 0, REAL, GUEST_RFLAGS,
	  X86_FLAGS_IF, VM_ENTRY_INTR_INFO_FIELD, 0x80000020 },
	{ "interrupt into the MOV-SS shadow", GUEST_INTERRUPTIBILITY_INFO, 0, 2, REASON_33, 0, REAL,
	  GUEST_RFLAGS, X86_FLAGS_IF, VM_ENTRY_INTR_INFO_FIELD, 0x80000020 },
	{ "NMI while virtual NMIs are blocked", GUEST_INTERRUPTIBILITY_INFO, 0, 8, REASON_33, 0, REAL,
	  PIN_BASED_VM_EXEC_CONTROL, PIN_BASED_VIRTUAL_NMIS, VM_ENTRY_INTR_INFO_FIELD, 0x80000202 },
	{ "NMI while NMIs are blocked", GUEST_INTERRUPTIBILITY_INFO, 0, 8, ENTERS, 0, LONG,
	  VM_ENTRY_INTR_INFO_FIELD, 0x80000202 },
	{ "HLT in the STI shadow with IF", GUEST_INTERRUPTIBILITY_INFO, 0, 1, REASON_33, 0, LONG,
	  GUEST_ACTIVITY_STATE, 1, GUEST_RFLAGS, X86_FLAGS_IF },
	{ "HLT in the MOV-SS shadow", GUEST_INTERRUPTIBILITY_INFO, 0, 2, REASON_33, 0, LONG,
	  GUEST_ACTIVITY_STATE, 1 },
	{ "HLT", GUEST_ACTIVITY_STATE, 0, 1, ENTERS, 0, LONG },
	{ "NMI into HLT", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000202, ENTERS, 0, LONG, GUEST_ACTIVITY_STATE, 1 },
	{ "#DB into HLT", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000301, ENTERS, 0, LONG, GUEST_ACTIVITY_STATE, 1 },
	{ "#MC into HLT", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000312, ENTERS, 0, LONG, GUEST_ACTIVITY_STATE, 1 },
	{ "monitor trap into HLT", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000700, ENTERS,
	  EXIT_REASON_MONITOR_TRAP_FLAG, LONG, GUEST_ACTIVITY_STATE, 1 },
	{ "software interrupt into HLT", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000430, REASON_33, 0, LONG,
	  GUEST_ACTIVITY_STATE, 1 },
	{ "interrupt into HLT", VM_ENTRY_INTR_INFO_FIELD, ALL, 0x80000030, ENTERS, 0, LONG,
	  GUEST_ACTIVITY_STATE, 1, GUEST_RFLAGS, X86_FLAGS_IF },

	/* one check alone, where the cases above break two */
	{ "HLT at CPL 3, as CS says too", GUEST_SS_AR_BYTES, 0, 0x60, REASON_33, 0, LONG, GUEST_ACTIVITY_STATE, 1,
	  GUEST_CS_AR_BYTES, 0x60 },
	{ "DEBUGCTL", GUEST_IA32_DEBUGCTL, 0, 4, REASON_33, 0, REAL, VM_ENTRY_CONTROLS, VM_ENTRY_LOAD_DEBUG_CONTROLS },
	{ "DEBUGCTL's BTF", GUEST_IA32_DEBUGCTL, 0, 2, ENTERS, 0, REAL, VM_ENTRY_CONTROLS, VM_ENTRY_LOAD_DEBUG_CONTROLS },
	{ "a reserved bit in PDPTE 0", VM_ENTRY_CONTROLS, VM_ENTRY_IA32E_MODE | VM_ENTRY_LOAD_IA32_EFER, 0, REASON_33, 2, LONG,
	  GUEST_PDPTR0, 3 },
	{ "APIC-access page unaligned", APIC_ACCESS_ADDR, 0, 8, FAIL_7, 0, SHADOWED, SECONDARY_VM_EXEC_CONTROL,
	  SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES },
	{ "x2APIC mode without TPR shadow", SECONDARY_VM_EXEC_CONTROL, 0, SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE, FAIL_7, 0, REAL },
	{ "x2APIC mode and APIC accesses", SECONDARY_VM_EXEC_CONTROL, 0,
	  SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE | SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES, FAIL_7, 0, SHADOWED },
	{ "TPR threshold of five bits", TPR_THRESHOLD, 0, 0x10, FAIL_7, 0, SHADOWED },
	{ "TPR threshold above the virtual TPR", TPR_THRESHOLD, 0, 1, FAIL_7, 0, SHADOWED },
	{ "virtual interrupts without interrupts' exits", PIN_BASED_VM_EXEC_CONTROL, PIN_BASED_EXT_INTR_MASK, 0, FAIL_7, 0, POSTED },
	{ "posted interrupts without virtual ones", SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY, 0, FAIL_7, 0,
	  POSTED },
	{ "posted interrupts that are not acknowledged", VM_EXIT_CONTROLS, VM_EXIT_ACK_INTR_ON_EXIT, 0, FAIL_7, 0, POSTED },
	{ "posted interrupts: vector of nine bits", POSTED_INTR_NV, 0, 0x100, FAIL_7, 0, POSTED },
	{ "posted interrupts: descriptor unaligned", POSTED_INTR_DESC_ADDR, 0, 32, FAIL_7, 0, POSTED },
	{ "VMREAD bitmap unaligned", VMREAD_BITMAP, 0, 8, FAIL_7, 0, LINKED },
	{ "VMWRITE bitmap unaligned", VMWRITE_BITMAP, 0, 8, FAIL_7, 0, LINKED },
	{ "a VM function", VM_FUNCTION_CONTROL, 0, 1, FAIL_7, 0, REAL, SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC_ENABLE_VMFUNC },
	{ "shadow VMCS unaligned", VMCS_LINK_POINTER, 0, 8, REASON_33, 4, LINKED },
	{ "shadow VMCS of no revision", VMCS_LINK_POINTER, 0, 0x1000, REASON_33, 4, LINKED },
};

static void set_v86(struct machine *t)
{
	for (int n = 0; n < NR_SREGS; n++)
		set_segment(t, (enum sreg)n, 0x2000, 0x20000, 0xffff, 0xf3);
	W(GUEST_CR0, R(t, GUEST_CR0) | X86_CR0_PE);
	W(GUEST_RFLAGS, R(t, GUEST_RFLAGS) | X86_FLAGS_VM);
	W(GUEST_RIP, 0);
}

#define VAPIC_AT 0x50000UL
#define DESCRIPTOR_AT 0x51000UL
#define LINKED_AT 0x52000UL

static void set_apic(struct machine *t, bool posted)
{
	W(CPU_BASED_VM_EXEC_CONTROL, R(t, CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_TPR_SHADOW);
	W(VIRTUAL_APIC_PAGE_ADDR, (hpa_t)t->ram + VAPIC_AT);
	if (!posted)
		return;
	W(SECONDARY_VM_EXEC_CONTROL, R(t, SECONDARY_VM_EXEC_CONTROL) | SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY);
	W(PIN_BASED_VM_EXEC_CONTROL, R(t, PIN_BASED_VM_EXEC_CONTROL) | PIN_BASED_POSTED_INTR);
	W(VM_EXIT_CONTROLS, R(t, VM_EXIT_CONTROLS) | VM_EXIT_ACK_INTR_ON_EXIT);
	W(POSTED_INTR_NV, 0xf2);
	W(POSTED_INTR_DESC_ADDR, (hpa_t)t->ram + DESCRIPTOR_AT);
}

/* LONG has an IDT for what is injected. */
static void set_base(struct machine *t, enum base base)
{
	if (base == LONG || base == V86_IN_LONG || base == RESTRICTED)
		set_long_mode(t);
	if (base == V86 || base == V86_IN_LONG)
		set_v86(t);
	if (base == RESTRICTED)
		W(SECONDARY_VM_EXEC_CONTROL,
		  R(t, SECONDARY_VM_EXEC_CONTROL) & ~SECONDARY_EXEC_UNRESTRICTED_GUEST);
	if (base == SHADOWED || base == POSTED)
		set_apic(t, base == POSTED);
	if (base == LINKED) {
		W(SECONDARY_VM_EXEC_CONTROL, R(t, SECONDARY_VM_EXEC_CONTROL) | SECONDARY_EXEC_SHADOW_VMCS);
		*(uint32_t *)(t->ram + LINKED_AT) = VMCS_REVISION_ID | VMCS_REVISION_SHADOW;
		W(VMCS_LINK_POINTER, (hpa_t)t->ram + LINKED_AT);
	}
	if (base == LONG)
		for (unsigned vector = 0; vector < 0x40; vector++)
			set_gate(t, vector, GPA_CODE);
}

static void break_fields(struct machine *t, const struct entry_case *c)
{
	if (c->field == VM_ENTRY_MSR_LOAD_COUNT) {
		W(VM_ENTRY_MSR_LOAD_ADDR, (hpa_t)t->ram);
		*(uint32_t *)t->ram = MSR_TSC_AUX;
	}
	W(c->field, (R(t, c->field) & ~c->clear) | c->set);
	if (c->also)
		W(c->also, R(t, c->also) | c->also_set);
	if (c->third)
		W(c->third, R(t, c->third) | c->third_set);
}

/* `again`: after an entry with nothing broken, whose checks need not run a second time. */
static void check_case(const struct entry_case *c, bool again)
{
	struct machine *t;
	enum vmx_result r;

	machine_setup((void **)&t);
	set_base(t, c->base);
	if (again) {
		vmx_kick(t->cpu);
		r = vmlaunch(t->cpu);
		assert_int_equal(r, VMX_SUCCEED);
		assert_int_equal(t->vmcs->launched, c->base != V86_IN_LONG);
	}
	break_fields(t, c);
	vmx_kick(t->cpu); /* an entry that works leaves at once */
	r = t->vmcs->launched ? vmresume(t->cpu) : vmlaunch(t->cpu);
	if (c->outcome == FAIL_7 || c->outcome == FAIL_8) {
		if (r != VMX_FAIL_VALID || R(t, VM_INSTRUCTION_ERROR) != (c->outcome == FAIL_7 ? 7 : 8))
			fail_msg("%s: result %d error %lu", c->name, r, R(t, VM_INSTRUCTION_ERROR));
	} else {
		uint64_t want = c->outcome == REASON_33 ?
			EXIT_REASON_INVALID_STATE | VMX_EXIT_REASONS_FAILED_VMENTRY :
			c->qualification ? c->qualification : EXIT_REASON_EXTERNAL_INTERRUPT;

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
		check_case(&cases[n], false);
}

static void broken_after_an_entry_that_passed_it_fails_the_same_way(void **state)
{
	for (size_t n = 0; n < ARRAY_SIZE(cases); n++)
		check_case(&cases[n], true);
}

/* Of a 32-bit host, of what this processor has, and of rules that a hypervisor adds: tests/unit/vmx breaks these. */
static const enum vmentry_check not_the_processors[] = {
	VMENTRY_CHECK_CTL_EPTP_AD, VMENTRY_CHECK_CTL_EPTP_LIST, VMENTRY_CHECK_HOST_SIZE_32, VMENTRY_CHECK_HOST_PCIDE, VMENTRY_CHECK_HOST_SS_ZERO,
	VMENTRY_CHECK_GUEST_SEGMENTS,
};

static bool is_not_the_processors(enum vmentry_check check)
{
	for (size_t n = 0; n < ARRAY_SIZE(not_the_processors); n++)
		if (not_the_processors[n] == check)
			return true;
	return false;
}

/* Each row of sdm/vmentry_checks.h has a case that breaks it and nothing else. */
static void each_check_is_broken_alone_by_some_case(void **state)
{
	unsigned alone[NR_VMENTRY_CHECKS] = { 0 }, missing = 0;

	for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
		const struct entry_case *c = &cases[n];
		struct vmentry_failures f = { 0 };
		struct machine *t;

		if (c->outcome == ENTERS)
			continue;
		machine_setup((void **)&t);
		set_base(t, c->base);
		break_fields(t, c);
		vmx_entry_checks(t->cpu, &f);
		if (!f.nr)
			fail_msg("%s: no check fails", c->name);
		if (f.nr == 1)
			alone[f.at[0].check]++;
		machine_teardown((void **)&t);
	}
	for (unsigned n = 0; n < NR_VMENTRY_CHECKS; n++) {
		if (alone[n] || is_not_the_processors((enum vmentry_check)n))
			continue;
		print_error("%s: no case breaks it alone\n", vmentry_rows[n].name);
		missing++;
	}
	assert_int_equal(missing, 0);
}

static void what_failed_the_entry_fails_the_next_one(void **state)
{
	static const struct { uint32_t field; uint64_t broken; enum vmx_result r; } broken[] = {
		{ EPT_POINTER, 1, VMX_FAIL_VALID }, { HOST_CS_SELECTOR, 0, VMX_FAIL_VALID },
		{ GUEST_CS_AR_BYTES, 0, VMX_SUCCEED },
	};
	struct machine *t = *state;

	for (size_t n = 0; n < ARRAY_SIZE(broken); n++) {
		uint64_t good = R(t, broken[n].field);

		W(broken[n].field, broken[n].broken);
		for (int times = 0; times < 3; times++) {
			assert_int_equal(vmlaunch(t->cpu), broken[n].r);
			assert_false(t->vmcs->launched);
		}
		W(broken[n].field, good);
	}
	vmx_kick(t->cpu);
	assert_int_equal(go(t), EXIT_REASON_EXTERNAL_INTERRUPT);
}

static void another_vmcs_is_checked_though_the_last_one_passed(void **state)
{
	struct machine *t = *state;
	struct vmcs *other = test_pages(4096);

	vmx_kick(t->cpu);
	assert_int_equal(go(t), EXIT_REASON_EXTERNAL_INTERRUPT);
	memcpy(other, t->vmcs, 4096);
	other->HOST_RIP = BIT_ULL(60); /* while it is current nowhere, memory like any other */
	other->GUEST_CS_BASE = 0x12340;
	other->GUEST_CS_SELECTOR = 0x1234;
	assert_int_equal(vmptrld(t->cpu, (hpa_t)other), VMX_SUCCEED);
	assert_int_equal(vmresume(t->cpu), VMX_FAIL_VALID);
	assert_int_equal(R(t, VM_INSTRUCTION_ERROR), VMXERR_ENTRY_INVALID_HOST_STATE_FIELD);
	W(HOST_RIP, 0);
	vmx_kick(t->cpu);
	assert_int_equal(vmresume(t->cpu), VMX_SUCCEED);
	assert_int_equal(R(t, GUEST_CS_BASE), 0x12340);
	assert_int_equal(vmptrld(t->cpu, (hpa_t)t->vmcs), VMX_SUCCEED);
	vmx_kick(t->cpu);
	assert_int_equal(vmresume(t->cpu), VMX_SUCCEED);
	assert_int_not_equal(R(t, GUEST_CS_BASE), 0x12340);
	munmap(other, 4096);
}

/* What is stale of a VMCS stays so while another one is current, and VMCLEAR makes all of it so. */
static void a_write_is_checked_after_another_vmcs_was_current(void **state)
{
	struct machine *t = *state;
	struct vmcs *other = test_pages(4096);
	uint64_t good = R(t, GUEST_CS_BASE);

	vmx_kick(t->cpu);
	assert_int_equal(go(t), EXIT_REASON_EXTERNAL_INTERRUPT);
	memcpy(other, t->vmcs, 4096);
	W(HOST_RIP, BIT_ULL(60));
	W(GUEST_CS_BASE, 0x12340);
	assert_int_equal(vmptrld(t->cpu, (hpa_t)other), VMX_SUCCEED);
	vmx_kick(t->cpu);
	assert_int_equal(vmresume(t->cpu), VMX_SUCCEED);
	assert_int_equal(R(t, GUEST_CS_BASE), good);
	assert_int_equal(vmptrld(t->cpu, (hpa_t)t->vmcs), VMX_SUCCEED);
	assert_int_equal(vmresume(t->cpu), VMX_FAIL_VALID);
	assert_int_equal(R(t, VM_INSTRUCTION_ERROR), VMXERR_ENTRY_INVALID_HOST_STATE_FIELD);
	W(HOST_RIP, 0);
	vmx_kick(t->cpu);
	assert_int_equal(vmresume(t->cpu), VMX_SUCCEED);
	assert_int_equal(R(t, GUEST_CS_BASE), 0x12340);
	assert_int_equal(vmclear(t->cpu, (hpa_t)t->vmcs), VMX_SUCCEED);
	t->vmcs->HOST_RIP = BIT_ULL(60);
	assert_int_equal(vmptrld(t->cpu, (hpa_t)t->vmcs), VMX_SUCCEED);
	assert_int_equal(vmlaunch(t->cpu), VMX_FAIL_VALID);
	munmap(other, 4096);
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

/* 32-bit protected mode with PAE paging. */
static void set_pae(struct machine *t)
{
	set_long_mode(t);
	set_segment(t, SREG_CS, 8, 0, 0xffffffff, 0xc09b);
	W(VM_ENTRY_CONTROLS, R(t, VM_ENTRY_CONTROLS) & ~VM_ENTRY_IA32E_MODE);
	W(GUEST_IA32_EFER, 0);
	vmx_kick(t->cpu);
}

static const struct {
	uint64_t pdpte;
	bool ok;
} pdptes[] = {
	{ 0, true }, { 2, true }, { 0x5000 | PTE_P, true }, { BIT_ULL(63) | 4, true }, { PTE_P | 2, false },
	{ PTE_P | 4, false }, { PTE_P | 0x20, false }, { PTE_P | 0x100, false }, { PTE_P | BIT_ULL(52), false },
	{ PTE_P | BIT_ULL(63), false }, { PTE_P | 0xe18, true },
};

static void check_pdpte_entry(struct machine *t, bool ok)
{
	assert_int_equal(vmlaunch(t->cpu), VMX_SUCCEED);
	if (ok) {
		assert_int_equal(R(t, VM_EXIT_REASON), EXIT_REASON_EXTERNAL_INTERRUPT);
		return;
	}
	assert_int_equal(R(t, VM_EXIT_REASON), EXIT_REASON_INVALID_STATE | VMX_EXIT_REASONS_FAILED_VMENTRY);
	assert_int_equal(R(t, EXIT_QUALIFICATION), 2);
}

static void bad_pdpte_fails_with_qualification_2(void **state)
{
	static const uint32_t fields[] = { GUEST_PDPTR0, GUEST_PDPTR1, GUEST_PDPTR2, GUEST_PDPTR3 };
	struct machine *t;

	for (size_t n = 0; n < ARRAY_SIZE(pdptes); n++)
		for (size_t f = 0; f < ARRAY_SIZE(fields); f++) {
			machine_setup((void **)&t);
			set_pae(t);
			W(fields[f], pdptes[n].pdpte);
			check_pdpte_entry(t, pdptes[n].ok);
			machine_teardown((void **)&t);
		}
}

/* Without EPT they come from memory, at CR3. */
static void bad_pdpte_in_memory_fails_with_qualification_2(void **state)
{
	uint64_t *table = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	struct machine *t;

	assert_ptr_not_equal(table, MAP_FAILED);
	for (size_t n = 0; n < ARRAY_SIZE(pdptes); n++)
		for (unsigned k = 0; k < 4; k++) {
			machine_setup((void **)&t);
			set_pae(t);
			W(SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC_ENABLE_VPID);
			W(GUEST_CR3, (uint64_t)table);
			memset(table, 0, 32);
			table[k] = pdptes[n].pdpte;
			check_pdpte_entry(t, pdptes[n].ok);
			machine_teardown((void **)&t);
		}
	munmap(table, 4096);
}

static void virtual_8086_mode_set_after_an_entry_has_its_segments_checked(void **state)
{
	struct machine *t = *state;

	set_pae(t);
	assert_int_equal(go(t), EXIT_REASON_EXTERNAL_INTERRUPT);
	W(GUEST_RFLAGS, R(t, GUEST_RFLAGS) | X86_FLAGS_VM);
	assert_int_equal(vmresume(t->cpu), VMX_SUCCEED);
	assert_int_equal(R(t, VM_EXIT_REASON), EXIT_REASON_INVALID_STATE | VMX_EXIT_REASONS_FAILED_VMENTRY);
}

static void secondary_controls_written_after_an_entry_have_the_guest_checked(void **state)
{
	struct machine *t = *state;

	vmx_kick(t->cpu);
	assert_int_equal(go(t), EXIT_REASON_EXTERNAL_INTERRUPT); /* in real-address mode */
	W(SECONDARY_VM_EXEC_CONTROL, R(t, SECONDARY_VM_EXEC_CONTROL) & ~SECONDARY_EXEC_UNRESTRICTED_GUEST);
	assert_int_equal(vmresume(t->cpu), VMX_SUCCEED);
	assert_int_equal(R(t, VM_EXIT_REASON), EXIT_REASON_INVALID_STATE | VMX_EXIT_REASONS_FAILED_VMENTRY);
}

/*
 * No guest brings its processor into a state that VM entry refuses; were there one,
 * the entry after the exit that saved it would have to say so.
 */
static void state_that_an_exit_saved_is_checked(void **state)
{
	struct machine *t = *state;
	struct cpu_state *cs = &t->cpu->cs;
	struct { void *p; unsigned size; uint64_t broken; } saved[] = {
		{ &cs->cr0, 8, X86_CR0_ET }, { &cs->cr3, 8, BIT_ULL(52) }, { &cs->cr4, 8, 0 },
		{ &cs->dr7, 8, BIT_ULL(32) }, { &cs->efer, 8, BIT_ULL(1) }, { &t->cpu->pat, 8, 2 },
		{ &t->cpu->sysenter_esp, 8, BIT_ULL(50) }, { &t->cpu->sysenter_eip, 8, BIT_ULL(50) },
		{ &cs->seg[SREG_CS].ar, 4, 0 }, { &cs->seg[SREG_SS].ar, 4, 0 },
		{ &cs->seg[SREG_DS].ar, 4, 0 }, { &cs->seg[SREG_ES].limit, 4, 0x80000000 },
		{ &cs->seg[SREG_FS].base, 8, BIT_ULL(50) }, { &cs->seg[SREG_GS].base, 8, BIT_ULL(50) },
		{ &cs->tr.selector, 2, 4 }, { &cs->ldtr.ar, 4, VMX_AR_P },
		{ &cs->gdtr.base, 8, BIT_ULL(50) }, { &cs->idtr.limit, 4, 0x10000 },
		{ &cs->rflags, 8, X86_FLAGS_FIXED | X86_FLAGS_VM },
	};

	set_pae(t);
	W(VM_EXIT_CONTROLS, R(t, VM_EXIT_CONTROLS) | VM_EXIT_SAVE_DEBUG_CONTROLS | VM_EXIT_SAVE_IA32_PAT |
				    VM_EXIT_SAVE_IA32_EFER);
	W(VM_ENTRY_CONTROLS, R(t, VM_ENTRY_CONTROLS) | VM_ENTRY_LOAD_DEBUG_CONTROLS | VM_ENTRY_LOAD_IA32_PAT |
				     VM_ENTRY_LOAD_IA32_EFER);
	for (size_t n = 0; n < ARRAY_SIZE(saved); n++) {
		uint64_t good = 0;

		vmx_kick(t->cpu);
		assert_int_equal(go(t), EXIT_REASON_EXTERNAL_INTERRUPT);
		memcpy(&good, saved[n].p, saved[n].size);
		memcpy(saved[n].p, &saved[n].broken, saved[n].size);
		cpu_save_exit(t->cpu, &(struct cpu_exit){ .reason = EXIT_REASON_HLT, .rip = R(t, GUEST_RIP) });
		for (int times = 0; times < 2; times++) {
			uint64_t want = EXIT_REASON_INVALID_STATE | VMX_EXIT_REASONS_FAILED_VMENTRY;

			assert_int_equal(vmresume(t->cpu), VMX_SUCCEED);
			if (R(t, VM_EXIT_REASON) != want)
				fail_msg("saved %zu: reason %#lx", n, R(t, VM_EXIT_REASON));
		}
		memcpy(saved[n].p, &good, saved[n].size);
		cpu_save_exit(t->cpu, &(struct cpu_exit){ .reason = EXIT_REASON_HLT, .rip = R(t, GUEST_RIP) });
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_broken_field_fails_the_entry_its_own_way),
		cmocka_unit_test(each_check_is_broken_alone_by_some_case),
		cmocka_unit_test(broken_after_an_entry_that_passed_it_fails_the_same_way),
		TEST_REAL(what_failed_the_entry_fails_the_next_one),
		TEST_REAL(another_vmcs_is_checked_though_the_last_one_passed),
		TEST_REAL(a_write_is_checked_after_another_vmcs_was_current),
		TEST_REAL(virtual_8086_mode_set_after_an_entry_has_its_segments_checked),
		TEST_REAL(secondary_controls_written_after_an_entry_have_the_guest_checked),
		TEST_REAL(state_that_an_exit_saved_is_checked),
		TEST_REAL(msr_that_cannot_be_loaded_fails_with_34_and_its_index),
		cmocka_unit_test(bad_pdpte_fails_with_qualification_2),
		cmocka_unit_test(bad_pdpte_in_memory_fails_with_qualification_2),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
