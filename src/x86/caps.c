/*
 * KVM_CHECK_EXTENSION and KVM_ENABLE_CAP: what this KVM can do. The table says
 * yes only to what works; everything that is not in it is 0.
 *
 * Locks: kvm->lock for what must not change once vCPUs exist.
 */
#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/fault.h"
#include "lib/error.h"
#include "virt/dirty_ring.h"
#include "virt/kvm_newer.h"
#include "x86/apicv.h"
#include "x86/x86.h"

#define KVM_VALID_QUIRKS                                                                \
	(KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_LAPIC_MMIO_HOLE |                \
	 KVM_X86_QUIRK_OUT_7E_INC_RIP | KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT |            \
	 KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS | KVM_X86_QUIRK_FIX_HYPERCALL_INSN)
#define KVM_X2APIC_API_VALID_FLAGS                                                      \
	(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK)
#define KVM_VALID_GUESTDBG                                                              \
	(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_SW_BP |         \
	 KVM_GUESTDBG_USE_HW_BP | KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP |    \
	 KVM_GUESTDBG_BLOCKIRQ)
#define KVM_BUS_LOCK_DETECTION_VALID_MODE \
	(KVM_BUS_LOCK_DETECTION_OFF | KVM_BUS_LOCK_DETECTION_EXIT)
#define KVM_HC_MAP_GPA_RANGE 12 /* <linux/kvm_para.h>, whose MSR names are macros */
#define KVM_VALID_HYPERCALL_EXITS (1u << KVM_HC_MAP_GPA_RANGE)

/*
 * KVM_CAP_X86_DISABLE_EXITS: this processor has no MONITOR and MWAIT to offer,
 * and no MSRs that count C-states.
 */
#define KVM_DISABLE_EXITS_SUPPORTED (KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_PAUSE)

/* The inode of /proc/PID/ns/user in the first user namespace (Linux PROC_USER_INIT_INO). */
#define INIT_USER_NS_INO 0xEFFFFFFDu

static const struct {
	long ext;
	int value;
} capabilities[] = {
	/* memory */
	{ KVM_CAP_USER_MEMORY, 1 },
	{ KVM_CAP_DESTROY_MEMORY_REGION_WORKS, 1 },
	{ KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, 1 },
	{ KVM_CAP_SYNC_MMU, 1 },
	{ KVM_CAP_READONLY_MEM, 1 },
	{ KVM_CAP_NR_MEMSLOTS, KVM_USER_MEM_SLOTS },
	{ KVM_CAP_MULTI_ADDRESS_SPACE, KVM_ADDRESS_SPACE_NUM },
	{ KVM_CAP_USER_MEMORY2, 1 },
	{ KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_CAPS },
	{ KVM_CAP_DIRTY_LOG_RING, KVM_DIRTY_RING_MAX_ENTRIES * sizeof(struct kvm_dirty_gfn) },
	{ KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_DIRTY_RING_MAX_ENTRIES * sizeof(struct kvm_dirty_gfn) },
	{ KVM_CAP_MMU_SHADOW_CACHE_CONTROL, 1 },
	{ KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, 1 },
	{ KVM_CAP_SET_TSS_ADDR, 1 },
	{ KVM_CAP_SET_IDENTITY_MAP_ADDR, 1 },
	/* vCPUs */
	{ KVM_CAP_MAX_VCPUS, KVM_MAX_VCPUS },
	{ KVM_CAP_MAX_VCPU_ID, KVM_MAX_VCPU_IDS },
	{ KVM_CAP_SET_BOOT_CPU_ID, 1 },
	{ KVM_CAP_MP_STATE, 1 },
	{ KVM_CAP_HLT, 1 },
	{ KVM_CAP_X86_DISABLE_EXITS, KVM_DISABLE_EXITS_SUPPORTED },
	{ KVM_CAP_IMMEDIATE_EXIT, 1 },
	{ KVM_CAP_INTERNAL_ERROR_DATA, 1 },
	{ KVM_CAP_NOP_IO_DELAY, 1 },
	/* registers */
	{ KVM_CAP_EXT_CPUID, 1 },
	{ KVM_CAP_EXT_EMUL_CPUID, 1 },
	{ KVM_CAP_SREGS2, 1 },
	{ KVM_CAP_XSAVE, 1 },
	{ KVM_CAP_XSAVE2, sizeof(struct kvm_xsave) },
	{ KVM_CAP_DEBUGREGS, 1 },
	{ KVM_CAP_VCPU_EVENTS, 1 },
	{ KVM_CAP_EXCEPTION_PAYLOAD, 1 },
	{ KVM_CAP_SET_GUEST_DEBUG, 1 },
	{ KVM_CAP_SET_GUEST_DEBUG2, KVM_VALID_GUESTDBG },
	{ KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1 },
	{ KVM_CAP_SYNC_REGS, KVM_SYNC_X86_VALID_FIELDS },
	{ KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1 },
	{ KVM_CAP_EXIT_HYPERCALL, KVM_VALID_HYPERCALL_EXITS },
	{ KVM_CAP_GET_MSR_FEATURES, 1 },
	{ KVM_CAP_MSR_PLATFORM_INFO, 1 },
	{ KVM_CAP_X86_USER_SPACE_MSR, 1 },
	{ KVM_CAP_X86_MSR_FILTER, 1 },
	{ KVM_CAP_MCE, KVM_MAX_MCE_BANKS },
	{ KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1 },
	{ KVM_CAP_ASYNC_PF, 1 },
	{ KVM_CAP_ASYNC_PF_INT, 1 },
	{ KVM_CAP_DISABLE_QUIRKS, 1 },
	{ KVM_CAP_DISABLE_QUIRKS2, KVM_VALID_QUIRKS },
	/* interrupts */
	{ KVM_CAP_IRQCHIP, 1 },
	{ KVM_CAP_VAPIC, 1 },
	{ KVM_CAP_SPLIT_IRQCHIP, 1 },
	{ KVM_CAP_X2APIC_API, KVM_X2APIC_API_VALID_FLAGS },
	{ KVM_CAP_IRQ_INJECT_STATUS, 1 },
	{ KVM_CAP_IRQ_ROUTING, KVM_MAX_IRQ_ROUTES },
	{ KVM_CAP_SIGNAL_MSI, 1 },
	{ KVM_CAP_IRQFD, 1 },
	{ KVM_CAP_IRQFD_RESAMPLE, 1 },
	{ KVM_CAP_IOAPIC_POLARITY_IGNORED, 1 },
	{ KVM_CAP_USER_NMI, 1 },
	{ KVM_CAP_X86_SMM, 1 },
	{ KVM_CAP_PIT, 1 },
	{ KVM_CAP_PIT2, 1 },
	{ KVM_CAP_PIT_STATE2, 1 },
	{ KVM_CAP_REINJECT_CONTROL, 1 },
	{ KVM_CAP_TSC_DEADLINE_TIMER, 1 },
	/* I/O */
	{ KVM_CAP_IOEVENTFD, 1 },
	{ KVM_CAP_IOEVENTFD_NO_LENGTH, 1 },
	{ KVM_CAP_IOEVENTFD_ANY_LENGTH, 1 },
	{ KVM_CAP_COALESCED_MMIO, KVM_COALESCED_MMIO_PAGE_OFFSET },
	{ KVM_CAP_COALESCED_PIO, 1 },
	/* time */
	{ KVM_CAP_CLOCKSOURCE, 1 },
	{ KVM_CAP_ADJUST_CLOCK, KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC },
	{ KVM_CAP_KVMCLOCK_CTRL, 1 },
	{ KVM_CAP_GET_TSC_KHZ, 1 },
	{ KVM_CAP_VCPU_ATTRIBUTES, 1 },
	/* its CPUID says which parts */
	{ KVM_CAP_HYPERV, 1 },
	{ KVM_CAP_HYPERV_TIME, 1 },
	{ KVM_CAP_HYPERV_SPIN, 1 },
	{ KVM_CAP_HYPERV_VP_INDEX, 1 },
	{ KVM_CAP_HYPERV_CPUID, 1 },
	{ KVM_CAP_SYS_HYPERV_CPUID, 1 },
	{ KVM_CAP_HYPERV_ENFORCE_CPUID, 1 },
	{ KVM_CAP_HYPERV_VAPIC, 1 },
	{ KVM_CAP_HYPERV_SYNIC, 1 },
	{ KVM_CAP_HYPERV_SYNIC2, 1 },
	{ KVM_CAP_HYPERV_EVENTFD, 1 },
	{ KVM_CAP_HYPERV_TLBFLUSH, 1 },
	{ KVM_CAP_HYPERV_SEND_IPI, 1 },
	/* the interface itself */
	{ KVM_CAP_CHECK_EXTENSION_VM, 1 },
	{ KVM_CAP_ENABLE_CAP, 1 },
	{ KVM_CAP_ENABLE_CAP_VM, 1 },
	{ KVM_CAP_SYS_ATTRIBUTES, 1 },
	{ KVM_CAP_BINARY_STATS_FD, 1 },
};

static int online_cpus(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : n > KVM_MAX_VCPUS ? KVM_MAX_VCPUS : (int)n;
}

int kvm_check_extension(struct kvm *kvm, long ext)
{
	if (ext == KVM_CAP_NR_VCPUS)
		return online_cpus();
	if (ext == KVM_CAP_XCRS)
		return kvm_supported_xcr0() != 0;
	if (ext == KVM_CAP_PRE_FAULT_MEMORY)
		return kvm_mmu_params()->ept;
	/* the guest's MAXPHYADDR is the one that counts either way; KVM says so of shadow paging only */
	if (ext == KVM_CAP_SMALLER_MAXPHYADDR)
		return !kvm_mmu_params()->ept;
	if (ext == KVM_CAP_X86_BUS_LOCK_EXIT)
		return vmx_has_bus_lock_detection() ? KVM_BUS_LOCK_DETECTION_VALID_MODE : 0;
	if (ext == KVM_CAP_TSC_CONTROL || ext == KVM_CAP_VM_TSC_CONTROL)
		return kvm_has_tsc_control();
	if (ext == KVM_CAP_HYPERV_ENLIGHTENED_VMCS)
		return vmx_evmcs_version(NULL) != 0;
	if (ext == KVM_CAP_NESTED_STATE)
		return kvm_mmu_params()->nested ? (int)sizeof(struct vmx_nested_state) : 0;
	for (size_t i = 0; i < ARRAY_SIZE(capabilities); i++)
		if (capabilities[i].ext == ext)
			return capabilities[i].value;
	return 0;
}

static int enable_split_irqchip(struct kvm *kvm, uint64_t nr_pins)
{
	int r;

	if (nr_pins > KVM_MAX_IRQ_ROUTES)
		return err_born(EINVAL, "%lu IOAPIC pins", (unsigned long)nr_pins);
	pthread_mutex_lock(&kvm->lock);
	if (irqchip_in_kernel(kvm) || kvm_get_vcpu(kvm, 0))
		r = err_born(EEXIST, "split irqchip after the irqchip or a vCPU");
	else
		r = kvm_irqchip_create_split(kvm, (uint32_t)nr_pins);
	if (!r)
		kvm_set_or_clear_apicv_inhibit(kvm, APICV_INHIBIT_REASON_ABSENT, false);
	pthread_mutex_unlock(&kvm->lock);
	return r;
}

static int set_max_vcpu_id(struct kvm *kvm, uint64_t max)
{
	int r = 0;

	if (max > KVM_MAX_VCPU_IDS)
		return err_born(EINVAL, "%lu vCPU ids", (unsigned long)max);
	pthread_mutex_lock(&kvm->lock);
	if (kvm->arch->max_vcpu_ids == 0)
		kvm->arch->max_vcpu_ids = (uint32_t)max;
	else if (kvm->arch->max_vcpu_ids != max)
		r = err_born(EINVAL, "the number of vCPU ids is set already");
	pthread_mutex_unlock(&kvm->lock);
	return r;
}

/* As Linux: exits that exist and cannot be disabled here stay, without an error. */
static int disable_exits(struct kvm *kvm, uint64_t exits)
{
	int r = 0;

	if (exits & ~(uint64_t)KVM_X86_DISABLE_VALID_EXITS)
		return err_born(EINVAL, "exits %#lx", (unsigned long)exits);
	pthread_mutex_lock(&kvm->lock);
	if (kvm->nr_created_vcpus)
		r = err_born(EINVAL, "exits are disabled before the first vCPU only");
	else
		kvm->arch->disabled_exits |= exits & KVM_DISABLE_EXITS_SUPPORTED;
	pthread_mutex_unlock(&kvm->lock);
	return r;
}

/*
 * Linux asks for CAP_SYS_BOOT, and in the first user namespace: who may turn the
 * workaround off may bring the machine down.
 */
static bool may_reboot(void)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[_LINUX_CAPABILITY_U32S_3];
	struct stat ns;

	return syscall(SYS_capget, &h, d) == 0 && d[0].effective & 1u << CAP_SYS_BOOT &&
	       stat("/proc/self/ns/user", &ns) == 0 && ns.st_ino == INIT_USER_NS_INO;
}

static int disable_nx_huge_pages(struct kvm *kvm, uint64_t arg)
{
	int r = 0;

	if (!may_reboot())
		return err_born(EPERM, "NX huge pages are disabled by CAP_SYS_BOOT only");
	if (arg)
		return err_born(EINVAL, "NX huge pages: argument %#lx", (unsigned long)arg);
	pthread_mutex_lock(&kvm->lock);
	if (kvm->nr_created_vcpus)
		r = err_born(EINVAL, "NX huge pages are disabled before the first vCPU only");
	else
		kvm_mmu_disable_nx_huge_pages(kvm);
	pthread_mutex_unlock(&kvm->lock);
	return r;
}

/* As Linux: what is on stays on, for vCPUs made or given their CPUID from now on. */
static int set_bus_lock_exit(struct kvm *kvm, uint64_t mode)
{
	if (mode & ~(uint64_t)KVM_BUS_LOCK_DETECTION_VALID_MODE)
		return err_born(EINVAL, "bus-lock modes %#lx", (unsigned long)mode);
	if (mode == KVM_BUS_LOCK_DETECTION_VALID_MODE)
		return err_born(EINVAL, "bus-lock detection off and on");
	if ((mode & KVM_BUS_LOCK_DETECTION_EXIT) && vmx_has_bus_lock_detection())
		kvm->arch->bus_lock_detection_enabled = true;
	return 0;
}

int kvm_vm_ioctl_enable_cap(struct kvm *kvm, const struct kvm_enable_cap *cap)
{
	struct kvm_arch *ka = kvm->arch;
	uint64_t arg = cap->args[0];

	if (cap->flags)
		return err_born(EINVAL, "KVM_ENABLE_CAP flags %#x", cap->flags);
	switch (cap->cap) {
	case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
		return kvm_enable_manual_dirty_log(kvm, arg);
	case KVM_CAP_DIRTY_LOG_RING:
	case KVM_CAP_DIRTY_LOG_RING_ACQ_REL:
		return kvm_enable_dirty_ring(kvm, (uint32_t)arg);
	case KVM_CAP_DISABLE_QUIRKS2:
		if (arg & ~(uint64_t)KVM_VALID_QUIRKS)
			return err_born(EINVAL, "quirks %#lx", (unsigned long)arg);
		ka->disabled_quirks = arg;
		return 0;
	case KVM_CAP_DISABLE_QUIRKS:
		ka->disabled_quirks = arg;
		return 0;
	case KVM_CAP_SPLIT_IRQCHIP:
		return enable_split_irqchip(kvm, arg);
	case KVM_CAP_X2APIC_API:
		if (arg & ~(uint64_t)KVM_X2APIC_API_VALID_FLAGS)
			return err_born(EINVAL, "x2APIC API flags %#lx", (unsigned long)arg);
		if (arg & KVM_X2APIC_API_USE_32BIT_IDS)
			ka->x2apic_format = true;
		if (arg & KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK)
			ka->x2apic_broadcast_quirk_disabled = true;
		return 0;
	case KVM_CAP_MSR_PLATFORM_INFO:
		ka->platform_info_readable = arg;
		return 0;
	case KVM_CAP_EXCEPTION_PAYLOAD:
		ka->exception_payload_enabled = arg;
		return 0;
	case KVM_CAP_X86_TRIPLE_FAULT_EVENT:
		ka->triple_fault_event = arg;
		return 0;
	case KVM_CAP_EXIT_ON_EMULATION_FAILURE:
		if (arg & ~1ULL)
			return err_born(EINVAL, "exit on emulation failure: %#lx", (unsigned long)arg);
		ka->exit_on_emulation_error = arg;
		return 0;
	case KVM_CAP_EXIT_HYPERCALL:
		if (arg & ~(uint64_t)KVM_VALID_HYPERCALL_EXITS)
			return err_born(EINVAL, "hypercall exits %#lx", (unsigned long)arg);
		ka->hypercall_exit_enabled = arg;
		return 0;
	case KVM_CAP_X86_USER_SPACE_MSR:
		if (arg & ~(uint64_t)(KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN |
				      KVM_MSR_EXIT_REASON_FILTER))
			return err_born(EINVAL, "MSR exit reasons %#lx", (unsigned long)arg);
		ka->user_space_msr_mask = (uint32_t)arg;
		ka->user_space_msr_enabled = arg;
		return 0;
	case KVM_CAP_VM_DISABLE_NX_HUGE_PAGES:
		return disable_nx_huge_pages(kvm, arg);
	case KVM_CAP_X86_DISABLE_EXITS:
		return disable_exits(kvm, arg);
	case KVM_CAP_X86_BUS_LOCK_EXIT:
		return set_bus_lock_exit(kvm, arg);
	case KVM_CAP_MAX_VCPU_ID:
		return set_max_vcpu_id(kvm, arg);
	default:
		return err_born(EINVAL, "capability %u cannot be enabled", cap->cap);
	}
}

/* The client's two bytes at `version` say which versions the vCPU has. */
static int enable_evmcs(struct kvm_vcpu *vcpu, uint64_t version)
{
	uint16_t v;
	int r = vmx_enable_evmcs(vcpu);

	if (r)
		return r;
	v = vmx_evmcs_version(vcpu);
	return host_copy_to((void *)(uintptr_t)version, &v, sizeof(v));
}

int kvm_vcpu_ioctl_enable_cap(struct kvm_vcpu *vcpu, const struct kvm_enable_cap *cap)
{
	if (cap->flags)
		return err_born(EINVAL, "KVM_ENABLE_CAP flags %#x", cap->flags);
	switch (cap->cap) {
	case KVM_CAP_ENFORCE_PV_FEATURE_CPUID:
		vcpu->arch->pv_enforce_cpuid = cap->args[0];
		return 0;
	case KVM_CAP_HYPERV_ENFORCE_CPUID:
		vcpu->arch->hv.enforce_cpuid = cap->args[0];
		return 0;
	case KVM_CAP_HYPERV_ENLIGHTENED_VMCS:
		return enable_evmcs(vcpu, cap->args[0]);
	case KVM_CAP_HYPERV_SYNIC:
		return kvm_hyperv_ops->activate_synic(vcpu, true);
	case KVM_CAP_HYPERV_SYNIC2:
		if (cap->args[0])
			return err_born(EINVAL, "SynIC: argument %#llx", cap->args[0]);
		return kvm_hyperv_ops->activate_synic(vcpu, false);
	default:
		return err_born(EINVAL, "capability %u cannot be enabled on a vCPU", cap->cap);
	}
}
