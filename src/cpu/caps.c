/*
 * VMX capability MSRs (SDM Vol. 3, appendix "VMX Capability Reporting
 * Facility"): what this processor can do, said once. A feature that is not
 * implemented is not announced; the entry checks use the same words.
 */
#include "cpu/system.h"
#include "sdm/ept.h"

#define PIN_ALLOWED                                                           \
	(PIN_BASED_EXT_INTR_MASK | PIN_BASED_NMI_EXITING | PIN_BASED_VIRTUAL_NMIS | \
	 PIN_BASED_VMX_PREEMPTION_TIMER | PIN_BASED_POSTED_INTR)
#define PRIMARY_ALLOWED                                                           \
	(CPU_BASED_INTR_WINDOW_EXITING | CPU_BASED_USE_TSC_OFFSETTING |           \
	 CPU_BASED_HLT_EXITING | CPU_BASED_INVLPG_EXITING | CPU_BASED_MWAIT_EXITING | \
	 CPU_BASED_RDPMC_EXITING | CPU_BASED_RDTSC_EXITING |                      \
	 CPU_BASED_CR3_LOAD_EXITING | CPU_BASED_CR3_STORE_EXITING |               \
	 CPU_BASED_CR8_LOAD_EXITING | CPU_BASED_CR8_STORE_EXITING |               \
	 CPU_BASED_TPR_SHADOW |                                                   \
	 CPU_BASED_NMI_WINDOW_EXITING | CPU_BASED_MOV_DR_EXITING |                \
	 CPU_BASED_UNCOND_IO_EXITING | CPU_BASED_USE_IO_BITMAPS |                 \
	 CPU_BASED_MONITOR_TRAP_FLAG | CPU_BASED_USE_MSR_BITMAPS |                \
	 CPU_BASED_MONITOR_EXITING | CPU_BASED_PAUSE_EXITING |                    \
	 CPU_BASED_ACTIVATE_SECONDARY_CONTROLS)
#define SECONDARY_ALLOWED                                                     \
	(SECONDARY_EXEC_ENABLE_EPT | SECONDARY_EXEC_DESC |                    \
	 SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES |                            \
	 SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE |                              \
	 SECONDARY_EXEC_APIC_REGISTER_VIRT |                                  \
	 SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY |                               \
	 SECONDARY_EXEC_ENABLE_RDTSCP | SECONDARY_EXEC_ENABLE_VPID |          \
	 SECONDARY_EXEC_WBINVD_EXITING | SECONDARY_EXEC_UNRESTRICTED_GUEST |  \
	 SECONDARY_EXEC_ENABLE_INVPCID | SECONDARY_EXEC_ENABLE_XSAVES |       \
	 SECONDARY_EXEC_ENABLE_PML |                                          \
	 SECONDARY_EXEC_RDRAND_EXITING | SECONDARY_EXEC_RDSEED_EXITING |      \
	 SECONDARY_EXEC_TSC_SCALING | SECONDARY_EXEC_PAUSE_LOOP_EXITING |     \
	 SECONDARY_EXEC_BUS_LOCK_DETECTION | SECONDARY_EXEC_SHADOW_VMCS |     \
	 SECONDARY_EXEC_ENABLE_VMFUNC)
#define EXIT_ALLOWED                                                          \
	(VM_EXIT_SAVE_DEBUG_CONTROLS | VM_EXIT_HOST_ADDR_SPACE_SIZE |         \
	 VM_EXIT_ACK_INTR_ON_EXIT | VM_EXIT_SAVE_IA32_PAT | VM_EXIT_LOAD_IA32_PAT | \
	 VM_EXIT_SAVE_IA32_EFER | VM_EXIT_LOAD_IA32_EFER |                    \
	 VM_EXIT_SAVE_VMX_PREEMPTION_TIMER)
#define ENTRY_ALLOWED                                         \
	(VM_ENTRY_LOAD_DEBUG_CONTROLS | VM_ENTRY_IA32E_MODE | \
	 VM_ENTRY_LOAD_IA32_PAT | VM_ENTRY_LOAD_IA32_EFER)

/* The TRUE variants: default1 controls that may be 0. */
#define PRIMARY_MAY_CLEAR (CPU_BASED_CR3_LOAD_EXITING | CPU_BASED_CR3_STORE_EXITING)
#define EXIT_MAY_CLEAR VM_EXIT_SAVE_DEBUG_CONTROLS
#define ENTRY_MAY_CLEAR VM_ENTRY_LOAD_DEBUG_CONTROLS

/* IA32_VMX_BASIC */
#define BASIC_SIZE_SHIFT 32
#define BASIC_MEMTYPE_SHIFT 50
#define BASIC_INOUT BIT_ULL(54)
#define BASIC_TRUE_CTLS BIT_ULL(55)

/* IA32_VMX_MISC */
#define MISC_STORE_LMA BIT_ULL(5)
#define MISC_ACTIVITY_HLT BIT_ULL(6)
#define MISC_CR3_TARGETS (4ULL << 16)
#define MISC_VMWRITE_ANY BIT_ULL(29)
#define MISC_ZERO_LEN_INJECTION BIT_ULL(30)

/* IA32_VMX_EPT_VPID_CAP */
#define CAP_EPT                                                                \
	(BIT_ULL(0) /* execute-only */ | BIT_ULL(6) /* walk of 4 */ |          \
	 EPT_CAP_5LEVELS |                                                    \
	 BIT_ULL(8) /* UC */ | BIT_ULL(14) /* WB */ | BIT_ULL(16) /* 2M */ |   \
	 BIT_ULL(17) /* 1G */ | BIT_ULL(20) /* INVEPT */ | BIT_ULL(21) /* A/D */ | \
	 BIT_ULL(25) /* single */ | BIT_ULL(26) /* all */)
#define CAP_VPID                                                                \
	(BIT_ULL(32) /* INVVPID */ | BIT_ULL(40) /* address */ |                \
	 BIT_ULL(41) /* single */ | BIT_ULL(42) /* all */ | BIT_ULL(43) /* retaining globals */)

#define CR4_SUPPORTED                                                             \
	(X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE | \
	 X86_CR4_MCE | X86_CR4_PGE | X86_CR4_PCE | X86_CR4_OSFXSR |               \
	 X86_CR4_OSXMMEXCPT | X86_CR4_UMIP | X86_CR4_VMXE | X86_CR4_FSGSBASE |    \
	 X86_CR4_PCIDE | X86_CR4_OSXSAVE | X86_CR4_SMEP | X86_CR4_SMAP |    \
	 X86_CR4_PKE)

/* Allowed-0 settings in the low half, allowed-1 settings in the high half. */
static uint64_t control(uint64_t must, uint64_t may)
{
	return must | (must | may) << 32;
}

static uint64_t highest_field_index(void)
{
	uint64_t max = 0;

#define MAX_INDEX(name, enc) max = max_u64(max, (enc) & 0x3fe);
	VMCS_FIELDS(MAX_INDEX)
#undef MAX_INDEX
	return max;
}

uint64_t vmx_capability_msr(uint32_t msr)
{
	switch (msr) {
	case MSR_IA32_VMX_BASIC:
		return VMCS_REVISION_ID | PAGE_SIZE << BASIC_SIZE_SHIFT |
		       (uint64_t)MT_WRBACK << BASIC_MEMTYPE_SHIFT | BASIC_INOUT |
		       BASIC_TRUE_CTLS;
	case MSR_IA32_VMX_PINBASED_CTLS:
	case MSR_IA32_VMX_TRUE_PINBASED_CTLS:
		return control(PIN_BASED_ALWAYSON_WITHOUT_TRUE_MSR, PIN_ALLOWED);
	case MSR_IA32_VMX_PROCBASED_CTLS:
		return control(CPU_BASED_ALWAYSON_WITHOUT_TRUE_MSR, PRIMARY_ALLOWED);
	case MSR_IA32_VMX_TRUE_PROCBASED_CTLS:
		return control(CPU_BASED_ALWAYSON_WITHOUT_TRUE_MSR & ~PRIMARY_MAY_CLEAR,
			       PRIMARY_ALLOWED);
	case MSR_IA32_VMX_PROCBASED_CTLS2:
		return control(0, SECONDARY_ALLOWED);
	case MSR_IA32_VMX_EXIT_CTLS:
		return control(VM_EXIT_ALWAYSON_WITHOUT_TRUE_MSR, EXIT_ALLOWED);
	case MSR_IA32_VMX_TRUE_EXIT_CTLS:
		return control(VM_EXIT_ALWAYSON_WITHOUT_TRUE_MSR & ~EXIT_MAY_CLEAR, EXIT_ALLOWED);
	case MSR_IA32_VMX_ENTRY_CTLS:
		return control(VM_ENTRY_ALWAYSON_WITHOUT_TRUE_MSR, ENTRY_ALLOWED);
	case MSR_IA32_VMX_TRUE_ENTRY_CTLS:
		return control(VM_ENTRY_ALWAYSON_WITHOUT_TRUE_MSR & ~ENTRY_MAY_CLEAR,
			       ENTRY_ALLOWED);
	case MSR_IA32_VMX_MISC:
		return CPU_PREEMPTION_TIMER_RATE | MISC_STORE_LMA | MISC_ACTIVITY_HLT |
		       MISC_CR3_TARGETS | MISC_VMWRITE_ANY | MISC_ZERO_LEN_INJECTION;
	case MSR_IA32_VMX_CR0_FIXED0:
		return X86_CR0_PE | X86_CR0_NE | X86_CR0_PG;
	case MSR_IA32_VMX_CR0_FIXED1:
		return 0xffffffffULL;
	case MSR_IA32_VMX_CR4_FIXED0:
		return X86_CR4_VMXE;
	case MSR_IA32_VMX_CR4_FIXED1:
		return CR4_SUPPORTED;
	case MSR_IA32_VMX_VMCS_ENUM:
		return highest_field_index();
	case MSR_IA32_VMX_EPT_VPID_CAP:
		return CAP_EPT | CAP_VPID;
	case MSR_IA32_VMX_VMFUNC: /* no function is ours: whichever it is, VMFUNC exits */
	default:
		return 0;
	}
}

bool cpu_control_allowed(uint32_t msr, uint32_t v)
{
	uint64_t cap = vmx_capability_msr(msr);

	return (v & (uint32_t)cap) == (uint32_t)cap && !(v & ~(uint32_t)(cap >> 32));
}
