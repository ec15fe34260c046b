/*
 * ioctls of a VM (KVM API: VM ioctls). Argument checks and errors are Linux's.
 */
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "abi/internal.h"
#include "abi/introspect.h"
#include "host/fault.h"
#include "hyperv/hyperv.h"
#include "lib/error.h"
#include "lib/own.h"
#include "trace/trace.h"
#include "virt/dirty_ring.h"
#include "virt/iodev.h"
#include "virt/irq_routing.h"
#include "virt/kvm_newer.h"
#include "x86/apicv.h"

static bool has_vcpus(struct kvm *kvm)
{
	return kvm_get_vcpu(kvm, 0) != NULL;
}

static long check_extension(struct abi_call *c)
{
	return kvm_check_extension(c->kvm, (long)c->arg);
}

static long enable_cap(struct abi_call *c)
{
	return kvm_vm_ioctl_enable_cap(c->kvm, c->data);
}

/* The descriptor is made last, so that a vCPU the client cannot reach never runs. */
static long kvm_vm_ioctl_create_vcpu(struct abi_call *c)
{
	uint32_t max = c->kvm->arch->max_vcpu_ids;
	struct kvm_vcpu *vcpu;
	int fd, r;

	TRACE_CALL(kvm_vm_ioctl_create_vcpu, (uint32_t)c->arg);
	if (c->arg >= KVM_MAX_VCPU_IDS || (max && c->arg >= max))
		return err_born(EINVAL, "vCPU id %lu", c->arg);
	r = kvm_create_vcpu(c->kvm, (uint32_t)c->arg, &vcpu);
	if (r)
		return r;
	/* The file of kvm_run is the client's descriptor from now on. */
	fd = vcpu->run_memfd;
	kvm_get_kvm(c->kvm);
	r = abi_object_bind(fd, ABI_VCPU, c->kvm, vcpu);
	if (r) {
		kvm_put_kvm(c->kvm);
		return r;
	}
	vcpu->run_memfd = -1;
	return fd;
}

static long set_user_memory_region(struct abi_call *c)
{
	return kvm_vm_ioctl_set_memory_region(c->kvm, c->data);
}

/* The first form and room for a guest_memfd, which is not offered: its flag is refused. */
static long set_user_memory_region2(struct abi_call *c)
{
	const struct kvm_userspace_memory_region2 *m = c->data;
	struct kvm_userspace_memory_region first = {
		.slot = m->slot,
		.flags = m->flags,
		.guest_phys_addr = m->guest_phys_addr,
		.memory_size = m->memory_size,
		.userspace_addr = m->userspace_addr,
	};

	return kvm_vm_ioctl_set_memory_region(c->kvm, &first);
}

static long get_dirty_log(struct abi_call *c)
{
	return kvm_vm_ioctl_get_dirty_log(c->kvm, c->data);
}

static long clear_dirty_log(struct abi_call *c)
{
	return kvm_vm_ioctl_clear_dirty_log(c->kvm, c->data);
}

static long reset_dirty_rings(struct abi_call *c)
{
	return kvm_vm_ioctl_reset_dirty_rings(c->kvm);
}

static long set_nr_mmu_pages(struct abi_call *c)
{
	return kvm_mmu_set_nr_mmu_pages(c->kvm, c->arg);
}

static long get_nr_mmu_pages(struct abi_call *c)
{
	return (int)kvm_mmu_nr_mmu_pages(c->kvm);
}

/* The TSS page is needed by no guest here: real mode is the processor's, or emulated. The address is kept and checked. */
static long set_tss_addr(struct abi_call *c)
{
	if (c->arg > (uint32_t)(-3 * (int)PAGE_SIZE))
		return err_born(EINVAL, "TSS at %#lx", c->arg);
	c->kvm->arch->tss_addr = c->arg;
	return 0;
}

static long set_identity_map_addr(struct abi_call *c)
{
	uint64_t addr;
	int r;

	if (has_vcpus(c->kvm))
		return err_born(EINVAL, "identity map after the first vCPU");
	r = host_copy_from(&addr, (const void *)c->arg, sizeof(addr));
	if (!r)
		c->kvm->arch->identity_map_addr = addr;
	return r;
}

static long set_boot_cpu_id(struct abi_call *c)
{
	if (has_vcpus(c->kvm))
		return err_born(EBUSY, "boot vCPU after the first vCPU");
	c->kvm->arch->bsp_vcpu_id = (uint32_t)c->arg;
	return 0;
}

/* --- interrupt controllers --- */

static long create_irqchip(struct abi_call *c)
{
	int r;

	if (irqchip_in_kernel(c->kvm))
		return err_born(EEXIST, "the irqchip exists");
	if (has_vcpus(c->kvm))
		return err_born(EINVAL, "irqchip after the first vCPU");
	r = kvm_irqchip_create(c->kvm);
	if (!r)
		kvm_set_or_clear_apicv_inhibit(c->kvm, APICV_INHIBIT_REASON_ABSENT, false);
	return r;
}

static long get_irqchip(struct abi_call *c)
{
	if (!pic_in_kernel(c->kvm))
		return err_born(ENXIO, "no irqchip");
	return kvm_vm_ioctl_get_irqchip(c->kvm, c->data);
}

static long set_irqchip(struct abi_call *c)
{
	if (!pic_in_kernel(c->kvm))
		return err_born(ENXIO, "no irqchip");
	return kvm_vm_ioctl_set_irqchip(c->kvm, c->data);
}

static long create_pit_flags(struct kvm *kvm, uint32_t flags)
{
	if (kvm->vpit)
		return err_born(EEXIST, "the PIT exists");
	return kvm_create_pit(kvm, flags);
}

static long create_pit(struct abi_call *c)
{
	return create_pit_flags(c->kvm, KVM_PIT_SPEAKER_DUMMY);
}

static long create_pit2(struct abi_call *c)
{
	const struct kvm_pit_config *config = c->data;

	return create_pit_flags(c->kvm, config->flags);
}

static long get_pit2(struct abi_call *c)
{
	return c->kvm->vpit ? kvm_vm_ioctl_get_pit2(c->kvm, c->data) : err_born(ENXIO, "no PIT");
}

static long set_pit2(struct abi_call *c)
{
	return c->kvm->vpit ? kvm_vm_ioctl_set_pit2(c->kvm, c->data) : err_born(ENXIO, "no PIT");
}

/* The first form is the second's channels. */
static long get_pit(struct abi_call *c)
{
	struct kvm_pit_state2 ps = { 0 };
	int r = c->kvm->vpit ? kvm_vm_ioctl_get_pit2(c->kvm, &ps) : err_born(ENXIO, "no PIT");

	memcpy(c->data, ps.channels, sizeof(ps.channels));
	return r;
}

static long set_pit(struct abi_call *c)
{
	struct kvm_pit_state2 ps = { 0 };
	int r = c->kvm->vpit ? kvm_vm_ioctl_get_pit2(c->kvm, &ps) : err_born(ENXIO, "no PIT");

	if (r)
		return r;
	memcpy(ps.channels, c->data, sizeof(ps.channels));
	return kvm_vm_ioctl_set_pit2(c->kvm, &ps);
}

static long reinject_control(struct abi_call *c)
{
	struct kvm_reinject_control control;
	int r = host_copy_from(&control, (const void *)c->arg, sizeof(control));

	if (r)
		return r;
	return c->kvm->vpit ? kvm_vm_ioctl_reinject(c->kvm, &control) : err_born(ENXIO, "no PIT");
}

static long irq_line(struct abi_call *c)
{
	if (!irqchip_in_kernel(c->kvm))
		return err_born(ENXIO, "no irqchip");
	return kvm_vm_ioctl_irq_line(c->kvm, c->data);
}

static long signal_msi(struct abi_call *c)
{
	return kvm_send_userspace_msi(c->kvm, c->data);
}

static long irqfd(struct abi_call *c)
{
	return kvm_irqfd(c->kvm, c->data);
}

static long ioeventfd(struct abi_call *c)
{
	return kvm_ioeventfd(c->kvm, c->data);
}

static long hv_eventfd(struct abi_call *c)
{
	return kvm_vm_ioctl_hv_eventfd(c->kvm, c->data);
}

static long set_gsi_routing(struct abi_call *c)
{
	struct kvm_irq_routing *user = (struct kvm_irq_routing *)c->arg, head;
	struct kvm_irq_routing_entry *entries;
	int r = host_copy_from(&head, user, sizeof(head));

	if (r)
		return r;
	if (!irqchip_in_kernel(c->kvm))
		return err_born(EINVAL, "routing without an irqchip");
	if (head.nr > KVM_MAX_IRQ_ROUTES || head.flags)
		return err_born(EINVAL, "%u routes, flags %#x", head.nr, head.flags);
	entries = own_calloc(head.nr ? head.nr : 1, sizeof(*entries));
	if (!entries)
		return err_born(ENOMEM, "routing entries");
	r = host_copy_from(entries, user->entries, head.nr * sizeof(*entries));
	if (!r)
		r = kvm_set_irq_routing(c->kvm, entries, head.nr, head.flags);
	own_free(entries);
	return r;
}

/* --- I/O, clock, MSRs --- */

static long register_coalesced(struct abi_call *c)
{
	return kvm_vm_ioctl_register_coalesced_mmio(c->kvm, c->data);
}

static long unregister_coalesced(struct abi_call *c)
{
	return kvm_vm_ioctl_unregister_coalesced_mmio(c->kvm, c->data);
}

static long set_tsc_khz(struct abi_call *c)
{
	if (c->arg != (uint32_t)c->arg)
		return err_born(EINVAL, "TSC of %lu kHz", c->arg);
	return kvm_vm_set_tsc_khz(c->kvm, (uint32_t)c->arg);
}

static long get_tsc_khz(struct abi_call *c)
{
	return (long)c->kvm->arch->default_tsc_khz;
}

static long get_clock(struct abi_call *c)
{
	return kvm_vm_ioctl_get_clock(c->kvm, c->data);
}

static long set_clock(struct abi_call *c)
{
	return kvm_vm_ioctl_set_clock(c->kvm, c->data);
}

static long set_msr_filter(struct abi_call *c)
{
	return kvm_vm_ioctl_set_msr_filter(c->kvm, c->data);
}

/* There are no devices of this kind on x86 but VFIO's and KVM's own: neither is here. */
static long create_device(struct abi_call *c)
{
	const struct kvm_create_device *d = c->data;

	return err_born(ENODEV, "no device of type %u", d->type);
}

static long get_stats_fd(struct abi_call *c)
{
	return kvm_vm_ioctl_get_stats_fd(c->kvm);
}

const struct abi_row abi_vm_rows[] = {
	ABI_ROW(KVM_CHECK_EXTENSION, ABI_VM, ABI_ARG_VALUE, ABI_UNLOCKED, check_extension),
	ABI_ROW(KVM_ENABLE_CAP, ABI_VM, ABI_COPY_IN, ABI_UNLOCKED, enable_cap),
	ABI_ROW(KVM_CREATE_VCPU, ABI_VM, ABI_ARG_VALUE, ABI_UNLOCKED, kvm_vm_ioctl_create_vcpu),
	ABI_ROW(KVM_SET_USER_MEMORY_REGION, ABI_VM, ABI_COPY_IN, ABI_UNLOCKED,
		set_user_memory_region),
	ABI_ROW(KVM_SET_USER_MEMORY_REGION2, ABI_VM, ABI_COPY_IN, ABI_UNLOCKED,
		set_user_memory_region2),
	ABI_ROW(KVM_GET_DIRTY_LOG, ABI_VM, ABI_COPY_IN, ABI_UNLOCKED, get_dirty_log),
	ABI_ROW(KVM_CLEAR_DIRTY_LOG, ABI_VM, ABI_COPY_IN, ABI_UNLOCKED, clear_dirty_log),
	ABI_ROW(KVM_RESET_DIRTY_RINGS, ABI_VM, ABI_ARG_VALUE, ABI_UNLOCKED, reset_dirty_rings),
	ABI_ROW(KVM_SET_NR_MMU_PAGES, ABI_VM, ABI_ARG_VALUE, ABI_VM_LOCK, set_nr_mmu_pages),
	ABI_ROW(KVM_GET_NR_MMU_PAGES, ABI_VM, ABI_ARG_VALUE, ABI_VM_LOCK, get_nr_mmu_pages),
	ABI_ROW(KVM_SET_TSS_ADDR, ABI_VM, ABI_ARG_VALUE, ABI_VM_LOCK, set_tss_addr),
	ABI_ROW(KVM_SET_IDENTITY_MAP_ADDR, ABI_VM, ABI_ARG_VALUE, ABI_VM_LOCK, set_identity_map_addr),
	ABI_ROW(KVM_SET_BOOT_CPU_ID, ABI_VM, ABI_ARG_VALUE, ABI_VM_LOCK, set_boot_cpu_id),
	ABI_ROW(KVM_CREATE_IRQCHIP, ABI_VM, ABI_ARG_VALUE, ABI_VM_LOCK, create_irqchip),
	ABI_ROW(KVM_GET_IRQCHIP, ABI_VM, ABI_COPY_INOUT, ABI_UNLOCKED, get_irqchip),
	ABI_ROW(KVM_SET_IRQCHIP, ABI_VM, ABI_COPY_IN, ABI_UNLOCKED, set_irqchip),
	ABI_ROW(KVM_CREATE_PIT, ABI_VM, ABI_ARG_VALUE, ABI_VM_LOCK, create_pit),
	ABI_ROW(KVM_CREATE_PIT2, ABI_VM, ABI_COPY_IN, ABI_VM_LOCK, create_pit2),
	ABI_ROW(KVM_GET_PIT, ABI_VM, ABI_COPY_INOUT, ABI_UNLOCKED, get_pit),
	ABI_ROW(KVM_SET_PIT, ABI_VM, ABI_COPY_IN, ABI_UNLOCKED, set_pit),
	ABI_ROW(KVM_GET_PIT2, ABI_VM, ABI_COPY_OUT, ABI_UNLOCKED, get_pit2),
	ABI_ROW(KVM_SET_PIT2, ABI_VM, ABI_COPY_IN, ABI_UNLOCKED, set_pit2),
	ABI_ROW(KVM_REINJECT_CONTROL, ABI_VM, ABI_ARG_VALUE, ABI_UNLOCKED, reinject_control),
	ABI_ROW(KVM_IRQ_LINE, ABI_VM, ABI_COPY_IN, ABI_UNLOCKED, irq_line),
	ABI_ROW(KVM_IRQ_LINE_STATUS, ABI_VM, ABI_COPY_INOUT, ABI_UNLOCKED, irq_line),
	ABI_ROW(KVM_SIGNAL_MSI, ABI_VM, ABI_COPY_IN, ABI_UNLOCKED, signal_msi),
	ABI_ROW(KVM_IRQFD, ABI_VM, ABI_COPY_IN, ABI_UNLOCKED, irqfd),
	ABI_ROW(KVM_IOEVENTFD, ABI_VM, ABI_COPY_IN, ABI_UNLOCKED, ioeventfd),
	ABI_ROW(KVM_HYPERV_EVENTFD, ABI_VM, ABI_COPY_IN, ABI_UNLOCKED, hv_eventfd),
	ABI_ROW(KVM_SET_GSI_ROUTING, ABI_VM, ABI_ARG_VALUE, ABI_UNLOCKED, set_gsi_routing),
	ABI_ROW(KVM_REGISTER_COALESCED_MMIO, ABI_VM, ABI_COPY_IN, ABI_UNLOCKED, register_coalesced),
	ABI_ROW(KVM_UNREGISTER_COALESCED_MMIO, ABI_VM, ABI_COPY_IN, ABI_UNLOCKED,
		unregister_coalesced),
	ABI_ROW(KVM_SET_TSC_KHZ, ABI_VM, ABI_ARG_VALUE, ABI_VM_LOCK, set_tsc_khz),
	ABI_ROW(KVM_GET_TSC_KHZ, ABI_VM, ABI_ARG_VALUE, ABI_VM_LOCK, get_tsc_khz),
	ABI_ROW(KVM_GET_CLOCK, ABI_VM, ABI_COPY_OUT, ABI_UNLOCKED, get_clock),
	ABI_ROW(KVM_SET_CLOCK, ABI_VM, ABI_COPY_IN, ABI_UNLOCKED, set_clock),
	ABI_ROW(KVM_X86_SET_MSR_FILTER, ABI_VM, ABI_COPY_IN, ABI_UNLOCKED, set_msr_filter),
	ABI_ROW(KVM_GET_STATS_FD, ABI_VM, ABI_ARG_VALUE, ABI_VM_LOCK, get_stats_fd),
	ABI_ROW(KVM_CREATE_DEVICE, ABI_VM, ABI_COPY_IN, ABI_UNLOCKED, create_device),
	{ 0 },
};

void abi_vm_apicv_inhibits(struct kvm *kvm, void (*fn)(void *arg, const char *reason), void *arg)
{
	static const struct {
		const char *name;
		unsigned bit;
	} reasons[] = {
#define REASON_ROW(name, number) { #name, number },
		APICV_INHIBIT_REASONS(REASON_ROW)
#undef REASON_ROW
	};
	uint64_t set = kvm_apicv_inhibits(kvm);

	for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
		if (set & BIT_ULL(reasons[i].bit))
			fn(arg, reasons[i].name);
}
