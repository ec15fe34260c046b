/*
 * The VMX capability MSRs that L1 reads, 480h to 491h: what is emulated for it,
 * cut down to what the processor has (SDM Vol. 3, appendix "VMX Capability
 * Reporting Facility"; Linux: nested_vmx_setup_ctls_msrs, vmx_set_vmx_msr).
 *
 * Of the controls only the TRUE variants are kept; 481h to 484h are these with
 * every default1 control required. The client may take features away
 * (KVM_SET_MSRS), always measured by what is supported and not by what it has
 * set before. L1 can write none of them.
 *
 * Locks: the supported values are made once; a vCPU's copy is its owner's.
 */
#include <pthread.h>

#include "lib/error.h"
#include "sdm/ept.h"
#include "sdm/regs.h"
#include "vmx/internal.h"

#define INDEX(msr) ((msr) - NESTED_VMX_FIRST_MSR)

/* What L1 may have of each control word. */
#define PIN_OFFERED (PIN_BASED_EXT_INTR_MASK | PIN_BASED_NMI_EXITING | PIN_BASED_VIRTUAL_NMIS)
#define PIN_EMULATED PIN_BASED_VMX_PREEMPTION_TIMER
#define PRIMARY_OFFERED                                                           \
	(CPU_BASED_INTR_WINDOW_EXITING | CPU_BASED_USE_TSC_OFFSETTING |           \
	 CPU_BASED_HLT_EXITING | CPU_BASED_INVLPG_EXITING | CPU_BASED_MWAIT_EXITING | \
	 CPU_BASED_RDPMC_EXITING | CPU_BASED_RDTSC_EXITING |                      \
	 CPU_BASED_CR3_LOAD_EXITING | CPU_BASED_CR3_STORE_EXITING |               \
	 CPU_BASED_CR8_LOAD_EXITING | CPU_BASED_CR8_STORE_EXITING |               \
	 CPU_BASED_NMI_WINDOW_EXITING | CPU_BASED_MOV_DR_EXITING |                \
	 CPU_BASED_UNCOND_IO_EXITING | CPU_BASED_USE_IO_BITMAPS |                 \
	 CPU_BASED_MONITOR_TRAP_FLAG | CPU_BASED_USE_MSR_BITMAPS |                \
	 CPU_BASED_MONITOR_EXITING | CPU_BASED_PAUSE_EXITING |                    \
	 CPU_BASED_TPR_SHADOW |                                                   \
	 CPU_BASED_ACTIVATE_SECONDARY_CONTROLS)
/* Bits of it that need no processor feature: they are emulated. */
#define SECONDARY_EMULATED (SECONDARY_EXEC_SHADOW_VMCS | SECONDARY_EXEC_ENABLE_PML)
#define SECONDARY_OFFERED                                            \
	(SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES | SECONDARY_EXEC_ENABLE_VMFUNC | \
	 SECONDARY_EXEC_DESC | SECONDARY_EXEC_ENABLE_RDTSCP |        \
	 SECONDARY_EXEC_ENABLE_EPT | SECONDARY_EXEC_ENABLE_VPID | SECONDARY_EXEC_UNRESTRICTED_GUEST | \
	 SECONDARY_EXEC_WBINVD_EXITING | SECONDARY_EXEC_ENABLE_INVPCID | \
	 SECONDARY_EXEC_ENABLE_XSAVES | SECONDARY_EXEC_TSC_SCALING |   \
	 SECONDARY_EXEC_RDRAND_EXITING | SECONDARY_EXEC_RDSEED_EXITING)
#define EXIT_OFFERED                                                                     \
	(VM_EXIT_HOST_ADDR_SPACE_SIZE | VM_EXIT_ACK_INTR_ON_EXIT | VM_EXIT_SAVE_IA32_PAT | \
	 VM_EXIT_LOAD_IA32_PAT | VM_EXIT_SAVE_IA32_EFER | VM_EXIT_LOAD_IA32_EFER)
#define ENTRY_OFFERED (VM_ENTRY_IA32E_MODE | VM_ENTRY_LOAD_IA32_PAT | VM_ENTRY_LOAD_IA32_EFER)

/* Default1 controls that may be 0, by the TRUE capability MSRs. */
#define PRIMARY_MAY_CLEAR (CPU_BASED_CR3_LOAD_EXITING | CPU_BASED_CR3_STORE_EXITING)

/* IA32_VMX_EPT_VPID_CAP */
#define EPT_OFFERED                                                                      \
	(BIT_ULL(0) /* execute-only */ | BIT_ULL(6) /* walk of 4 */ | EPT_CAP_5LEVELS | BIT_ULL(14) /* WB */ | \
	 BIT_ULL(16) /* 2M */ | BIT_ULL(17) /* 1G */ | BIT_ULL(20) /* INVEPT */ |         \
	 BIT_ULL(21) /* A/D */ | BIT_ULL(25) /* single */ | BIT_ULL(26) /* all */)
#define VPID_OFFERED                                                              \
	(BIT_ULL(32) /* INVVPID */ | BIT_ULL(40) /* address */ | BIT_ULL(41) /* single */ | \
	 BIT_ULL(42) /* all */ | BIT_ULL(43) /* retaining globals */)

#define BASIC_SIZE_MASK GENMASK_ULL(44, 32)
#define BASIC_REVISION_MASK GENMASK_ULL(30, 0)
#define BASIC_INOUT BIT_ULL(54)
#define BASIC_TRUE_CTLS BIT_ULL(55)
#define MISC_STORE_LMA BIT_ULL(5)
#define MISC_ACTIVITY_HLT BIT_ULL(6)
#define MISC_ACTIVITY_WAIT_SIPI BIT_ULL(8)
#define MISC_CR3_TARGETS_MASK GENMASK_ULL(24, 16)
#define MISC_MSR_LIST_MASK GENMASK_ULL(27, 25)
#define MISC_VMWRITE_ANY BIT_ULL(29)
#define MISC_MSEG_MASK GENMASK_ULL(63, 32)

static struct nested_vmx_msrs supported;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint64_t control(uint64_t must, uint64_t may)
{
	return must | (must | may) << 32;
}

static uint64_t has(uint32_t msr, uint64_t offered)
{
	return offered & vmx_capability_msr(msr) >> 32;
}

static void setup(void)
{
	uint64_t *v = supported.v, secondary = SECONDARY_OFFERED;

	if (!vmx_params()->unrestricted_guest)
		secondary &= ~(uint64_t)SECONDARY_EXEC_UNRESTRICTED_GUEST;
	v[INDEX(MSR_IA32_VMX_BASIC)] =
		VMCS12_REVISION | FIELD_PREP(BASIC_SIZE_MASK, VMCS12_SIZE) | BASIC_TRUE_CTLS |
		(uint64_t)MT_WRBACK << 50 | (vmx_capability_msr(MSR_IA32_VMX_BASIC) & BASIC_INOUT);
	v[INDEX(MSR_IA32_VMX_TRUE_PINBASED_CTLS)] =
		control(PIN_BASED_ALWAYSON_WITHOUT_TRUE_MSR,
			has(MSR_IA32_VMX_TRUE_PINBASED_CTLS, PIN_OFFERED) | PIN_EMULATED);
	v[INDEX(MSR_IA32_VMX_TRUE_PROCBASED_CTLS)] =
		control(CPU_BASED_ALWAYSON_WITHOUT_TRUE_MSR & ~PRIMARY_MAY_CLEAR,
			has(MSR_IA32_VMX_TRUE_PROCBASED_CTLS, PRIMARY_OFFERED));
	v[INDEX(MSR_IA32_VMX_PROCBASED_CTLS2)] =
		control(0, has(MSR_IA32_VMX_PROCBASED_CTLS2, secondary) | SECONDARY_EMULATED);
	v[INDEX(MSR_IA32_VMX_TRUE_EXIT_CTLS)] =
		control(VM_EXIT_ALWAYSON_WITHOUT_TRUE_MSR & ~VM_EXIT_SAVE_DEBUG_CONTROLS,
			has(MSR_IA32_VMX_TRUE_EXIT_CTLS, EXIT_OFFERED) | VM_EXIT_SAVE_DEBUG_CONTROLS |
				VM_EXIT_SAVE_VMX_PREEMPTION_TIMER);
	v[INDEX(MSR_IA32_VMX_TRUE_ENTRY_CTLS)] =
		control(VM_ENTRY_ALWAYSON_WITHOUT_TRUE_MSR & ~VM_ENTRY_LOAD_DEBUG_CONTROLS,
			has(MSR_IA32_VMX_TRUE_ENTRY_CTLS, ENTRY_OFFERED) | VM_ENTRY_LOAD_DEBUG_CONTROLS);
	v[INDEX(MSR_IA32_VMX_MISC)] = NESTED_PREEMPTION_TIMER_RATE | MISC_STORE_LMA | MISC_ACTIVITY_HLT |
				      MISC_ACTIVITY_WAIT_SIPI | MISC_VMWRITE_ANY;
	v[INDEX(MSR_IA32_VMX_CR0_FIXED0)] = X86_CR0_PE | X86_CR0_NE | X86_CR0_PG;
	v[INDEX(MSR_IA32_VMX_CR0_FIXED1)] = 0xffffffffULL;
	v[INDEX(MSR_IA32_VMX_CR4_FIXED0)] = X86_CR4_VMXE;
	v[INDEX(MSR_IA32_VMX_CR4_FIXED1)] = vmx_capability_msr(MSR_IA32_VMX_CR4_FIXED1);
	v[INDEX(MSR_IA32_VMX_VMCS_ENUM)] = vmcs12_enum();
	v[INDEX(MSR_IA32_VMX_EPT_VPID_CAP)] =
		vmx_capability_msr(MSR_IA32_VMX_EPT_VPID_CAP) & (EPT_OFFERED | VPID_OFFERED);
	/* the processor exits by each function; this one is emulated */
	if (v[INDEX(MSR_IA32_VMX_PROCBASED_CTLS2)] >> 32 & SECONDARY_EXEC_ENABLE_VMFUNC)
		v[INDEX(MSR_IA32_VMX_VMFUNC)] = VMFUNC_EPTP_SWITCHING;
}

static const struct nested_vmx_msrs *supported_msrs(void)
{
	pthread_once(&once, setup);
	return &supported;
}

/* 481h to 484h from the TRUE variants. */
static uint64_t read_msr(const struct nested_vmx_msrs *m, uint32_t msr)
{
	switch (msr) {
	case MSR_IA32_VMX_PINBASED_CTLS:
		return m->v[INDEX(MSR_IA32_VMX_TRUE_PINBASED_CTLS)] | PIN_BASED_ALWAYSON_WITHOUT_TRUE_MSR;
	case MSR_IA32_VMX_PROCBASED_CTLS:
		return m->v[INDEX(MSR_IA32_VMX_TRUE_PROCBASED_CTLS)] | CPU_BASED_ALWAYSON_WITHOUT_TRUE_MSR;
	case MSR_IA32_VMX_EXIT_CTLS:
		return m->v[INDEX(MSR_IA32_VMX_TRUE_EXIT_CTLS)] | VM_EXIT_ALWAYSON_WITHOUT_TRUE_MSR;
	case MSR_IA32_VMX_ENTRY_CTLS:
		return m->v[INDEX(MSR_IA32_VMX_TRUE_ENTRY_CTLS)] | VM_ENTRY_ALWAYSON_WITHOUT_TRUE_MSR;
	default:
		return m->v[INDEX(msr)];
	}
}

static bool is_capability_msr(uint32_t msr)
{
	return msr - NESTED_VMX_FIRST_MSR < NESTED_VMX_NR_MSRS;
}

int vmx_get_nested_msr_feature(uint32_t msr, uint64_t *data)
{
	if (!vmx_params()->nested || !is_capability_msr(msr))
		return 1;
	*data = read_msr(supported_msrs(), msr);
	return 0;
}

int vmx_get_nested_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host)
{
	if (!vmx_params()->nested || !is_capability_msr(msr))
		return 1;
	*data = host ? read_msr(&vcpu->vmx->nested.msrs, msr) : nested_vmx_cap(vcpu, msr);
	return 0;
}

uint64_t nested_vmx_cap(struct kvm_vcpu *vcpu, uint32_t msr)
{
	uint64_t v = read_msr(&vcpu->vmx->nested.msrs, msr);

	return nested_evmcs_offered(vcpu) ? nested_evmcs_filter(msr, v) : v;
}

static bool subset(uint64_t superset, uint64_t set, uint64_t mask)
{
	return !(set & mask & ~superset);
}

static bool basic_ok(uint64_t has_it, uint64_t v)
{
	/* bits 48, 49, 54 and 55 are features, the others that are no number are reserved */
	uint64_t features = BIT_ULL(48) | BIT_ULL(49) | BASIC_INOUT | BASIC_TRUE_CTLS | BIT_ULL(31) |
			    GENMASK_ULL(47, 45) | GENMASK_ULL(63, 56);

	return subset(has_it, v, features) && !((has_it ^ v) & BASIC_REVISION_MASK) &&
	       (v & BASIC_SIZE_MASK) >= (has_it & BASIC_SIZE_MASK);
}

static bool misc_ok(struct kvm_vcpu *vcpu, uint64_t has_it, uint64_t v)
{
	uint64_t features = MISC_STORE_LMA | GENMASK_ULL(8, 6) | GENMASK_ULL(15, 9) | GENMASK_ULL(31, 28);
	bool timer = nested_vmx_cap(vcpu, MSR_IA32_VMX_TRUE_PINBASED_CTLS) >> 32 &
		     PIN_BASED_VMX_PREEMPTION_TIMER;

	if (!subset(has_it, v, features) || (timer && ((v ^ has_it) & GENMASK_ULL(4, 0))))
		return false;
	return (v & MISC_CR3_TARGETS_MASK) <= (has_it & MISC_CR3_TARGETS_MASK) &&
	       (v & MISC_MSR_LIST_MASK) <= (has_it & MISC_MSR_LIST_MASK) &&
	       !((v ^ has_it) & MISC_MSEG_MASK);
}

int vmx_set_nested_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t v)
{
	struct nested_vmx *n = &vcpu->vmx->nested;
	uint64_t has_it;
	bool ok;

	if (!vmx_params()->nested || !is_capability_msr(msr) || vcpu->vmx->head.vmxon)
		return 1;
	has_it = read_msr(supported_msrs(), msr);
	switch (msr) {
	case MSR_IA32_VMX_TRUE_PINBASED_CTLS:
	case MSR_IA32_VMX_TRUE_PROCBASED_CTLS:
	case MSR_IA32_VMX_TRUE_EXIT_CTLS:
	case MSR_IA32_VMX_TRUE_ENTRY_CTLS:
	case MSR_IA32_VMX_PROCBASED_CTLS2:
		ok = subset(v, has_it, GENMASK_ULL(31, 0)) && subset(has_it, v, GENMASK_ULL(63, 32));
		break;
	case MSR_IA32_VMX_BASIC:
		ok = basic_ok(has_it, v);
		break;
	case MSR_IA32_VMX_MISC:
		ok = misc_ok(vcpu, has_it, v);
		break;
	case MSR_IA32_VMX_CR0_FIXED0:
	case MSR_IA32_VMX_CR4_FIXED0:
		ok = subset(v, has_it, ~0ULL);
		break;
	case MSR_IA32_VMX_EPT_VPID_CAP:
	case MSR_IA32_VMX_VMFUNC:
		ok = subset(has_it, v, ~0ULL);
		break;
	case MSR_IA32_VMX_VMCS_ENUM:
		ok = true;
		break;
	default:
		ok = false;
		break;
	}
	if (!ok)
		return 1;
	n->msrs.v[INDEX(msr)] = v;
	return 0;
}

void nested_vmx_init_msrs(struct kvm_vcpu *vcpu)
{
	if (vmx_params()->nested)
		vcpu->vmx->nested.msrs = *supported_msrs();
}

/* Linux vmx_adjust_secondary_exec_control and nested_vmx_cr_fixed1_bits_update: as the guest's CPUID says. */
void nested_vmx_after_set_cpuid(struct kvm_vcpu *vcpu, struct vmx_offered_insns offered)
{
	uint64_t *v = vcpu->vmx->nested.msrs.v, *secondary = &v[INDEX(MSR_IA32_VMX_PROCBASED_CTLS2)];
	uint64_t bits = (SECONDARY_EXEC_ENABLE_RDTSCP | SECONDARY_EXEC_ENABLE_INVPCID |
			 SECONDARY_EXEC_ENABLE_XSAVES | SECONDARY_EXEC_RDRAND_EXITING |
			 SECONDARY_EXEC_RDSEED_EXITING);
	uint64_t wanted = (offered.rdtscp ? SECONDARY_EXEC_ENABLE_RDTSCP : 0) |
			  (offered.invpcid ? SECONDARY_EXEC_ENABLE_INVPCID : 0) |
			  (offered.xsaves ? SECONDARY_EXEC_ENABLE_XSAVES : 0) |
			  (offered.rdrand ? SECONDARY_EXEC_RDRAND_EXITING : 0) |
			  (offered.rdseed ? SECONDARY_EXEC_RDSEED_EXITING : 0);

	if (!vmx_params()->nested)
		return;
	wanted &= supported_msrs()->v[INDEX(MSR_IA32_VMX_PROCBASED_CTLS2)] >> 32;
	*secondary = (*secondary & ~(bits << 32)) | wanted << 32;
	v[INDEX(MSR_IA32_VMX_CR4_FIXED1)] =
		supported_msrs()->v[INDEX(MSR_IA32_VMX_CR4_FIXED1)] &
		~(vmx_services->cr4_guest_rsvd_bits ? vmx_services->cr4_guest_rsvd_bits(vcpu) : 0);
}
