/*
 * What the processor has and what of it we use (SDM Vol. 3, appendix "VMX
 * Capability Reporting Facility").
 *
 * Each control field is negotiated the way KVM does it: a set it cannot work
 * without and a set it takes where there is one. Done once, read-only after.
 */
#include <pthread.h>

#include "lib/log.h"
#include "lib/params.h"
#include "mmu/mmu.h"
#include "vmx/internal.h"

#define VMX_BASIC_TRUE_CTLS BIT_ULL(55)

/* The controls KVM cannot work without (req) and those it likes to have (opt). */
#define PIN_REQ (PIN_BASED_EXT_INTR_MASK | PIN_BASED_NMI_EXITING | PIN_BASED_VIRTUAL_NMIS)
#define CPU_REQ                                                                             \
	(CPU_BASED_HLT_EXITING | CPU_BASED_CR8_LOAD_EXITING | CPU_BASED_CR8_STORE_EXITING | \
	 CPU_BASED_UNCOND_IO_EXITING | CPU_BASED_MOV_DR_EXITING |                           \
	 CPU_BASED_USE_TSC_OFFSETTING | CPU_BASED_MWAIT_EXITING | CPU_BASED_MONITOR_EXITING | \
	 CPU_BASED_RDPMC_EXITING | CPU_BASED_ACTIVATE_SECONDARY_CONTROLS)
#define CPU_OPT (CPU_BASED_USE_MSR_BITMAPS | CPU_BASED_TPR_SHADOW)
#define PIN_OPT PIN_BASED_POSTED_INTR
#define SECONDARY_REQ_EPT SECONDARY_EXEC_ENABLE_EPT
/* without EPT nobody but us may load CR3 or drop a translation */
#define CPU_REQ_SHADOW \
	(CPU_BASED_CR3_LOAD_EXITING | CPU_BASED_CR3_STORE_EXITING | CPU_BASED_INVLPG_EXITING)
#define SECONDARY_APICV (SECONDARY_EXEC_APIC_REGISTER_VIRT | SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY)
#define SECONDARY_OPT                                                                   \
	(SECONDARY_EXEC_ENABLE_VPID | SECONDARY_EXEC_WBINVD_EXITING |                   \
	 SECONDARY_EXEC_ENABLE_RDTSCP | SECONDARY_EXEC_ENABLE_INVPCID |                 \
	 SECONDARY_EXEC_ENABLE_XSAVES | SECONDARY_EXEC_TSC_SCALING |                    \
	 SECONDARY_EXEC_RDRAND_EXITING | SECONDARY_EXEC_RDSEED_EXITING |                \
	 SECONDARY_EXEC_PAUSE_LOOP_EXITING | SECONDARY_EXEC_BUS_LOCK_DETECTION |         \
	 SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES | SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE | \
	 SECONDARY_APICV)
#define EXIT_REQ (VM_EXIT_HOST_ADDR_SPACE_SIZE | VM_EXIT_SAVE_DEBUG_CONTROLS | \
		  VM_EXIT_SAVE_IA32_EFER | VM_EXIT_LOAD_IA32_EFER | VM_EXIT_ACK_INTR_ON_EXIT)
#define EXIT_OPT (VM_EXIT_SAVE_IA32_PAT | VM_EXIT_LOAD_IA32_PAT)
#define ENTRY_REQ (VM_ENTRY_LOAD_DEBUG_CONTROLS | VM_ENTRY_LOAD_IA32_EFER)
#define ENTRY_OPT VM_ENTRY_LOAD_IA32_PAT

static struct vmx_params params;
static struct vmcs_config config;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool ready; /* (a) */

static uint32_t adjust_vmx_controls(uint64_t cap, uint64_t req, uint64_t opt, const char *name)
{
	uint32_t may = (uint32_t)(cap >> 32), must = (uint32_t)cap;
	uint32_t ctl = (((uint32_t)(req | opt)) & may) | must;

	if ((uint32_t)req & ~ctl) {
		log_always("vmx: the processor lacks %s controls %x", name, (uint32_t)req & ~ctl);
		config.usable = false;
	}
	return ctl;
}

/* Controls that need others which are not there go; so do the knobs that stand for them. */
static void setup_apicv(void)
{
	if (!(config.cpu_based & CPU_BASED_TPR_SHADOW))
		config.secondary &= ~(uint32_t)(SECONDARY_APICV | SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE);
	if (!(config.secondary & SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY))
		config.pin_based &= ~(uint32_t)PIN_BASED_POSTED_INTR;
	if (!(config.cpu_based & CPU_BASED_TPR_SHADOW) ||
	    !(config.secondary & SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES))
		params.flexpriority = false;
	if ((config.secondary & SECONDARY_APICV) != SECONDARY_APICV ||
	    !(config.pin_based & PIN_BASED_POSTED_INTR) || !params.unrestricted_guest)
		params.enable_apicv = false; /* a guest that is emulated meets no virtual interrupt */
}

/* Exit information can be written: into a shadow VMCS it has to be. */
#define VMX_MISC_VMWRITE_ANY BIT_ULL(29)

static void setup(void)
{
	bool true_ctls = vmx_capability_msr(MSR_IA32_VMX_BASIC) & VMX_BASIC_TRUE_CTLS;
	uint64_t opt = SECONDARY_OPT, secondary_req = SECONDARY_REQ_EPT, cpu_req = CPU_REQ;

	config.usable = true;
	params.ept = kvm_mmu_params()->ept;
	params.unrestricted_guest = params_get_bool("unrestricted_guest");
	params.forget_invept = params_has_word("USERKVM_FORGET", "invept");
	params.vpid = params_get_bool("vpid");
	params.pml = params_get_bool("pml") && params.ept && kvm_mmu_params()->eptad;
	/* not driven yet, whatever the knobs say */
	params.flexpriority = params_get_bool("flexpriority");
	params.nested = kvm_mmu_params()->nested;
	params.enable_apicv = params_get_bool("enable_apicv");
	params.enable_shadow_vmcs = params.nested && params_get_bool("enable_shadow_vmcs") &&
				    vmx_capability_msr(MSR_IA32_VMX_PROCBASED_CTLS2) >> 32 & SECONDARY_EXEC_SHADOW_VMCS &&
				    vmx_capability_msr(MSR_IA32_VMX_MISC) & VMX_MISC_VMWRITE_ANY;

	/* SDM "VM-Execution Control Fields": unrestricted guest needs EPT */
	if (params.unrestricted_guest)
		opt |= SECONDARY_EXEC_UNRESTRICTED_GUEST;
	if (!params.ept) {
		opt &= ~SECONDARY_EXEC_UNRESTRICTED_GUEST;
		params.unrestricted_guest = false;
		secondary_req = 0;
		cpu_req |= CPU_REQ_SHADOW;
	}
	if (!params.vpid)
		opt &= ~SECONDARY_EXEC_ENABLE_VPID;
	if (params.pml)
		opt |= SECONDARY_EXEC_ENABLE_PML;
	config.pin_based = adjust_vmx_controls(
		vmx_capability_msr(true_ctls ? MSR_IA32_VMX_TRUE_PINBASED_CTLS
					     : MSR_IA32_VMX_PINBASED_CTLS),
		PIN_REQ, PIN_OPT, "pin-based");
	config.cpu_based = adjust_vmx_controls(
		vmx_capability_msr(true_ctls ? MSR_IA32_VMX_TRUE_PROCBASED_CTLS
					     : MSR_IA32_VMX_PROCBASED_CTLS),
		cpu_req, CPU_OPT, "processor-based");
	config.secondary = adjust_vmx_controls(vmx_capability_msr(MSR_IA32_VMX_PROCBASED_CTLS2),
					       secondary_req, opt, "secondary");
	config.vmexit = adjust_vmx_controls(
		vmx_capability_msr(true_ctls ? MSR_IA32_VMX_TRUE_EXIT_CTLS
					     : MSR_IA32_VMX_EXIT_CTLS),
		EXIT_REQ, EXIT_OPT, "exit");
	config.vmentry = adjust_vmx_controls(
		vmx_capability_msr(true_ctls ? MSR_IA32_VMX_TRUE_ENTRY_CTLS
					     : MSR_IA32_VMX_ENTRY_CTLS),
		ENTRY_REQ, ENTRY_OPT, "entry");
	config.cr0_fixed0 = vmx_capability_msr(MSR_IA32_VMX_CR0_FIXED0);
	config.cr0_fixed1 = vmx_capability_msr(MSR_IA32_VMX_CR0_FIXED1);
	config.cr4_fixed0 = vmx_capability_msr(MSR_IA32_VMX_CR4_FIXED0);
	config.cr4_fixed1 = vmx_capability_msr(MSR_IA32_VMX_CR4_FIXED1);

	setup_apicv();
	if (!(config.secondary & SECONDARY_EXEC_ENABLE_VPID))
		params.vpid = false;
	if (!(config.secondary & SECONDARY_EXEC_ENABLE_PML))
		params.pml = false;
	__atomic_store_n(&ready, true, __ATOMIC_RELEASE);
}

const struct vmcs_config *vmcs_config(void)
{
	pthread_once(&once, setup);
	return &config;
}

const struct vmx_params *vmx_params(void)
{
	/* pairs with setup()'s store: each exit asks */
	if (unlikely(!__atomic_load_n(&ready, __ATOMIC_ACQUIRE)))
		pthread_once(&once, setup);
	return &params;
}
