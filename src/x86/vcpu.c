/*
 * Life of a VM and a vCPU as far as they are x86, and the introductions: what each room needs of the others is registered here, once.
 */
#include <pthread.h>
#include <string.h>

#include "lib/error.h"
#include "lib/own.h"
#include "lib/params.h"
#include "trace/trace.h"
#include "x86/apicv.h"
#include "x86/debugger.h"
#include "x86/identity_map.h"
#include "x86/run.h"

#define APIC_BASE_DEFAULT 0xfee00000ULL
#define APIC_BASE_BSP BIT_ULL(8)
#define APIC_BASE_ENABLE BIT_ULL(11)
#define APIC_BASE_EXTD BIT_ULL(10)

/* --- services for the vmx room --- */

static int service_set_cr(struct kvm_vcpu *vcpu, int nr, uint64_t v)
{
	switch (nr) {
	case 0: return kvm_set_cr0(vcpu, v);
	case 3: return kvm_set_cr3(vcpu, v);
	case 4: return kvm_set_cr4(vcpu, v);
	case 8: return kvm_set_cr8(vcpu, v);
	default: return 1;
	}
}

static int service_xsetbv(struct kvm_vcpu *vcpu)
{
	uint64_t *regs = vmx_regs(vcpu);
	uint64_t v = (regs[RDX] << 32) | (uint32_t)regs[RAX];

	if (vmx_get_cpl(vcpu) != 0 || kvm_set_xcr(vcpu, (uint32_t)regs[RCX], v)) {
		kvm_inject_gp(vcpu, 0);
		return 1;
	}
	vmx_skip_emulated_instruction(vcpu);
	return 1;
}

/* No performance counters are offered. */
static int service_rdpmc(struct kvm_vcpu *vcpu)
{
	kvm_inject_gp(vcpu, 0);
	return 1;
}

static uint32_t service_guest_debug(struct kvm_vcpu *vcpu)
{
	return vcpu->arch->guest_debug;
}

/* As no-ops for everybody, unless the client wants it by the book. */
static bool mwait_faults(struct kvm_vcpu *vcpu)
{
	uint64_t quirks = vcpu->kvm->arch->disabled_quirks;
	bool has = quirks & KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT
			   ? vcpu->arch->ia32_misc_enable & BIT_ULL(18) /* ENABLE MONITOR FSM */
			   : guest_cpuid_bit(vcpu, 1, 0, CPUID_ECX, 3);

	return (quirks & KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS) && !has;
}

static int service_emulate_instruction(struct kvm_vcpu *vcpu, bool has_gpa, gpa_t gpa)
{
	return kvm_emulator_ops->instruction(vcpu, has_gpa, gpa);
}

static int service_task_switch(struct kvm_vcpu *vcpu, uint16_t selector, int source, bool has_error_code,
			       uint32_t error_code, int idt_vector)
{
	return kvm_emulator_ops->task_switch(vcpu, selector, source, has_error_code, error_code, idt_vector);
}

static int service_handle_ud(struct kvm_vcpu *vcpu)
{
	return kvm_emulator_ops->handle_ud(vcpu);
}

static void service_insn_text(struct kvm_vcpu *vcpu, char *buf, size_t size)
{
	kvm_emulator_ops->insn_text(vcpu, buf, size);
}

static int service_get_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data)
{
	return kvm_get_msr(vcpu, msr, data, false);
}

static int service_set_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data)
{
	return kvm_set_msr(vcpu, msr, data, false);
}

static int guest_maxphyaddr(struct kvm_vcpu *vcpu)
{
	return vcpu->arch->maxphyaddr;
}

static uint64_t service_feature_control(struct kvm_vcpu *vcpu)
{
	return vcpu->arch->feat_ctl;
}

static bool service_x2apic_mode(struct kvm_vcpu *vcpu)
{
	return vcpu->apic && (kvm_get_apic_base(vcpu) & APIC_BASE_EXTD);
}

static bool service_in_smm(struct kvm_vcpu *vcpu)
{
	return vcpu->arch->smm;
}

static bool service_has_vmx(struct kvm_vcpu *vcpu)
{
	return guest_cpuid_bit(vcpu, 1, 0, CPUID_ECX, 5);
}

static uint32_t service_activity(struct kvm_vcpu *vcpu)
{
	switch (vcpu->arch->mp_state) {
	case KVM_MP_STATE_HALTED: return GUEST_ACTIVITY_HLT;
	case KVM_MP_STATE_INIT_RECEIVED: return GUEST_ACTIVITY_WAIT_SIPI;
	default: return GUEST_ACTIVITY_ACTIVE;
	}
}

static void service_wait_for_sipi(struct kvm_vcpu *vcpu)
{
	__atomic_store_n(&vcpu->arch->mp_state, KVM_MP_STATE_INIT_RECEIVED, __ATOMIC_SEQ_CST);
}

static void service_wake(struct kvm_vcpu *vcpu)
{
	__atomic_store_n(&vcpu->arch->mp_state, KVM_MP_STATE_RUNNABLE, __ATOMIC_SEQ_CST);
}

static bool service_hyperv_enabled(struct kvm_vcpu *vcpu)
{
	return vcpu->arch->hv.cpuid.enabled;
}

static bool service_hv_assist_page(struct kvm_vcpu *vcpu, gpa_t *page)
{
	*page = vcpu->arch->hv.assist_page & PAGE_MASK;
	return vcpu->arch->hv.assist_page & 1; /* enabled (TLFS "Virtual Processor Assist Page") */
}

static const struct vmx_services services = {
	.emulate_cpuid = kvm_emulate_cpuid,
	.mwait_faults = mwait_faults,
	.emulate_rdmsr = kvm_emulate_rdmsr,
	.emulate_wrmsr = kvm_emulate_wrmsr,
	.emulate_halt = kvm_emulate_halt,
	.emulate_hypercall = kvm_emulate_hypercall,
	.emulate_xsetbv = service_xsetbv,
	.emulate_rdpmc = service_rdpmc,
	.fast_pio = kvm_fast_pio,
	.emulate_instruction = service_emulate_instruction,
	.task_switch = service_task_switch,
	.set_cr = service_set_cr,
	.get_cr8 = kvm_get_cr8,
	.set_dr = kvm_set_dr,
	.get_dr = kvm_get_dr,
	.queue_exception = kvm_event_queue,
	.requeue_exception = kvm_event_requeue_exception,
	.requeue_interrupt = kvm_event_requeue_interrupt,
	.requeue_nmi = kvm_event_requeue_nmi,
	.guest_debug_exit = kvm_guest_debug_exit,
	.guest_debug = service_guest_debug,
	.handle_ud = service_handle_ud,
	.insn_text = service_insn_text,
	.event_delivered = kvm_events_entered,
	.apic_tpr_lowered = kvm_apic_update_ppr,
	.apic_eoi = kvm_apic_eoi,
	.apic_eoi_accelerated = kvm_apic_set_eoi_accelerated,
	.apic_write = kvm_apic_write_nodecode,
	.cr4_guest_rsvd_bits = kvm_cr4_guest_reserved_bits,
	.get_msr = service_get_msr,
	.set_msr = service_set_msr,
	.maxphyaddr = guest_maxphyaddr,
	.feature_control = service_feature_control,
	.x2apic_mode = service_x2apic_mode,
	.in_smm = service_in_smm,
	.has_vmx = service_has_vmx,
	.load_pdptrs = kvm_load_pdptrs,
	.write_guest = kvm_write_guest_as_processor,
	.injected_event = kvm_injected_event,
	.clear_events = kvm_clear_events,
	.take_interrupt = kvm_take_interrupt,
	.activity = service_activity,
	.wait_for_sipi = service_wait_for_sipi,
	.wake = service_wake,
	.hyperv_enabled = service_hyperv_enabled,
	.hv_assist_page = service_hv_assist_page,
};

/* --- for the MMU --- */

static uint64_t guest_pdptr(struct kvm_vcpu *vcpu, int index)
{
	uint64_t p[4];

	vmx_get_pdptrs(vcpu, p);
	return p[index & 3];
}

static bool guest_in_smm(struct kvm_vcpu *vcpu)
{
	return vcpu->arch->smm;
}

static bool guest_in_guest_mode(struct kvm_vcpu *vcpu)
{
	return is_guest_mode(vcpu);
}

static uint32_t guest_pkru(struct kvm_vcpu *vcpu)
{
	return vmx_get_pkru(vmx_processor(vcpu));
}

static void guest_thread(struct kvm_vcpu *vcpu, uint64_t *cr3, uint64_t *fs_base)
{
	struct kvm_segment fs;

	vmx_get_segment(vcpu, &fs, SREG_FS);
	*cr3 = vmx_get_cr3(vcpu);
	*fs_base = fs.base;
}

static bool guest_calm_since(const struct kvm_vcpu *vcpu, uint64_t when)
{
	return vmx_check_calm_since(vmx_processor((struct kvm_vcpu *)(uintptr_t)vcpu), when);
}

static uint64_t guest_l1_lstar(const struct kvm_vcpu *vcpu)
{
	return vmx_check_l1_lstar(vmx_processor((struct kvm_vcpu *)(uintptr_t)vcpu));
}

static const struct kvm_mmu_guest_ops guest_ops = {
	.get_cr0 = vmx_get_cr0,
	.get_cr3 = vmx_get_cr3,
	.get_cr4 = vmx_get_cr4,
	.get_efer = vmx_get_efer,
	.get_rflags = vmx_get_rflags,
	.get_rip = vmx_get_rip,
	.get_thread = guest_thread,
	.calm_since = guest_calm_since,
	.l1_lstar = guest_l1_lstar,
	.get_pkru = guest_pkru,
	.get_pdptr = guest_pdptr,
	.get_maxphyaddr = guest_maxphyaddr,
	.get_cpl = vmx_get_cpl,
	.is_smm = guest_in_smm,
	.is_guest_mode = guest_in_guest_mode,
	.inject_page_fault = kvm_inject_page_fault,
	.inject_nested_fault = nested_ept_inject_page_fault,
	.log_l2_write = nested_vmx_log_write,
};

static void invalidate_code(struct kvm *kvm, hva_t start, uint64_t size_bytes)
{
	vmx_invalidate_code(kvm->arch->machine, start, size_bytes);
}

static const struct kvm_mmu_vendor_ops vendor_ops = {
	.set_tdp_cr3 = vmx_set_cr3,
	.flush_tlb_current = vmx_flush_tlb_current,
	.invalidate_code = invalidate_code,
};

/* --- for the interrupt controllers --- */

static uint64_t guest_tsc_khz(struct kvm_vcpu *vcpu)
{
	return vcpu->arch->virtual_tsc_khz;
}

static bool guest_has_x2apic(struct kvm_vcpu *vcpu)
{
	return guest_cpuid_bit(vcpu, 1, 0, CPUID_ECX, 21);
}

static void apicbase_changed(struct kvm_vcpu *vcpu)
{
	vcpu->arch->apic_base = kvm_get_apic_base(vcpu);
	kvm_apicv_base_changed(vcpu);
}

static bool guest_has_tsc_deadline(struct kvm_vcpu *vcpu)
{
	return guest_cpuid_bit(vcpu, 1, 0, CPUID_ECX, 24);
}

static bool is_bsp(struct kvm_vcpu *vcpu)
{
	return vcpu->vcpu_id == vcpu->kvm->arch->bsp_vcpu_id;
}

static bool vm_x2apic_format(struct kvm *kvm)
{
	return kvm->arch->x2apic_format;
}

static bool vm_x2apic_broadcast_quirk_disabled(struct kvm *kvm)
{
	return kvm->arch->x2apic_broadcast_quirk_disabled;
}

static bool vm_mmio_hole_quirk_disabled(struct kvm *kvm)
{
	return kvm->arch->disabled_quirks & KVM_X86_QUIRK_LAPIC_MMIO_HOLE;
}

static bool vm_lint0_quirk_disabled(struct kvm *kvm)
{
	return kvm->arch->disabled_quirks & KVM_X86_QUIRK_LINT0_REENABLED;
}

static void synic_eoi(struct kvm_vcpu *vcpu, uint8_t vector)
{
	kvm_hyperv_ops->synic_eoi(vcpu, vector);
}

static int synic_set_irq(struct kvm *kvm, uint32_t vp_index, uint32_t sint)
{
	return kvm_hyperv_ops->synic_set_irq(kvm, vp_index, sint);
}

static void memory_announced(struct kvm *kvm)
{
	vmx_sync_machine_code(kvm->arch->machine);
}

static const struct kvm_lapic_ops lapic_ops = {
	.memory_announced = memory_announced,
	.read_guest_tsc = kvm_read_guest_tsc,
	.guest_tsc_khz = guest_tsc_khz,
	.has_x2apic = guest_has_x2apic,
	.apicbase_changed = apicbase_changed,
	.inject_nmi = kvm_inject_nmi,
	.inject_smi = kvm_inject_smi,
	.has_tsc_deadline = guest_has_tsc_deadline,
	.maxphyaddr = guest_maxphyaddr,
	.is_bsp = is_bsp,
	.x2apic_format = vm_x2apic_format,
	.x2apic_broadcast_quirk_disabled = vm_x2apic_broadcast_quirk_disabled,
	.mmio_hole_quirk_disabled = vm_mmio_hole_quirk_disabled,
	.lint0_quirk_disabled = vm_lint0_quirk_disabled,
	.notify = vmx_notify_posted,
	.hwapic_irr_update = vmx_hwapic_irr_update,
	.hwapic_isr_update = vmx_hwapic_isr_update,
	.load_eoi_exitmap = vmx_load_eoi_exitmap,
	.xapic_id_modified = kvm_xapic_id_modified,
	.synic_eoi = synic_eoi,
	.synic_set_irq = synic_set_irq,
};

/* --- VM --- */

/* kvm_arch_init_vm. -ENOMEM with nothing done. */
static int kvm_arch_init_vm(struct kvm *kvm)
{
	struct kvm_arch *arch = own_calloc(1, sizeof(*arch));
	int r;

	TRACE_CALL(kvm_arch_init_vm, (uintptr_t)kvm);
	if (!arch)
		return err_born(ENOMEM, "struct kvm_arch");
	pthread_mutex_init(&arch->clock_lock, NULL);
	pthread_mutex_init(&arch->auto_eoi_lock, NULL);
	pthread_mutex_init(&arch->debugger.lock, NULL);
	kvm->arch = arch;
	kvm_apicv_init_vm(kvm);
	kvm_hyperv_ops->init_vm(kvm);
	r = vmx_machine_create(&arch->machine);
	if (r)
		goto out_free;
	r = kvm_mmu_init_vm(kvm);
	if (r)
		goto out_machine;
	kvm->cpu_dirty_logging = vmx_params()->pml;
	kvm_clock_init_vm(kvm);
	return 0;

out_machine:
	vmx_machine_destroy(arch->machine);
out_free:
	kvm_hyperv_ops->destroy_vm(kvm);
	kvm_apicv_destroy_vm(kvm);
	pthread_mutex_destroy(&arch->clock_lock);
	own_free(arch);
	kvm->arch = NULL;
	return r;
}

static void kvm_arch_destroy_vm(struct kvm *kvm)
{
	if (!kvm->arch)
		return;
	if (kvm->vpit)
		kvm_free_pit(kvm);
	if (irqchip_in_kernel(kvm))
		kvm_irqchip_destroy(kvm);
	kvm_mmu_uninit_vm(kvm);
	kvm_x86_state_destroy_vm(kvm);
	vmx_machine_destroy(kvm->arch->machine);
	kvm_hyperv_ops->destroy_vm(kvm);
	kvm_apicv_destroy_vm(kvm);
	kvm_free_identity_map(kvm);
	pthread_mutex_destroy(&kvm->arch->clock_lock);
	own_free(kvm->arch);
	kvm->arch = NULL;
}

/* --- vCPU --- */

/* What the vendor's vmx_create_vcpu() asks for through kvm_vcpu_init(). */
static int kvm_arch_vcpu_init(struct kvm_vcpu *vcpu)
{
	int r;

	TRACE_CALL(kvm_arch_vcpu_init, vcpu->vcpu_id);
	r = kvm_mmu_create(vcpu);
	if (r || !irqchip_in_kernel(vcpu->kvm))
		return r;
	r = kvm_create_lapic(vcpu);
	if (r)
		kvm_mmu_destroy(vcpu);
	else
		kvm_apicv_init_vcpu(vcpu);
	return r;
}

/* -ENOMEM with nothing done. */
static int kvm_arch_vcpu_create(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_arch *arch = own_calloc(1, sizeof(*arch));
	int r;

	TRACE_CALL(kvm_arch_vcpu_create, vcpu->vcpu_id);
	if (!arch)
		return err_born(ENOMEM, "struct kvm_vcpu_arch");
	vcpu->arch = arch;
	arch->pending_external_vector = -1;
	arch->maxphyaddr = 36; /* of a processor that does not say */
	kvm_debugger_init_vcpu(vcpu);
	r = kvm_alloc_apic_access_page(vcpu->kvm);
	if (!r)
		r = kvm_alloc_identity_map(vcpu->kvm);
	if (r)
		goto out_free;
	r = kvm_emulator_ops->create(vcpu);
	if (r)
		goto out_free;
	r = vmx_create_vcpu(vcpu, vcpu->kvm->arch->machine);
	if (r)
		goto out_emulator;
	vmx_set_identity_map(vcpu, kvm_identity_map_addr(vcpu->kvm));
	vmx_disable_exits(vcpu, vcpu->kvm->arch->disabled_exits & KVM_X86_DISABLE_EXITS_HLT,
			  vcpu->kvm->arch->disabled_exits & KVM_X86_DISABLE_EXITS_PAUSE);
	if (vcpu->kvm->arch->bus_lock_detection_enabled)
		vmx_detect_bus_locks(vcpu);
	return 0;

out_emulator:
	kvm_emulator_ops->destroy(vcpu);
out_free:
	own_free(arch);
	vcpu->arch = NULL;
	return r;
}

/* From RESET to the first entry. */
static void kvm_arch_vcpu_setup(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_arch *arch = vcpu->arch;

	TRACE_CALL(kvm_arch_vcpu_setup, vcpu->vcpu_id);
	arch->apic_base = APIC_BASE_DEFAULT | APIC_BASE_ENABLE | (is_bsp(vcpu) ? APIC_BASE_BSP : 0);
	arch->hv.vp_index = KVM_HV_VP_INDEX_UNSET;
	arch->mp_state = !irqchip_in_kernel(vcpu->kvm) || is_bsp(vcpu) ? KVM_MP_STATE_RUNNABLE
								       : KVM_MP_STATE_UNINITIALIZED;
	kvm_x86_state_init_vcpu(vcpu);
	kvm_vcpu_reset(vcpu, false);
	kvm_init_mmu(vcpu);
}

static void kvm_arch_vcpu_destroy(struct kvm_vcpu *vcpu)
{
	if (!vcpu->arch)
		return;
	kvm_hyperv_ops->vcpu_uninit(vcpu);
	if (vcpu->apic)
		kvm_free_lapic(vcpu);
	kvm_mmu_destroy(vcpu);
	kvm_x86_state_destroy_vcpu(vcpu);
	vmx_free_vcpu(vcpu);
	kvm_emulator_ops->destroy(vcpu);
	own_free(vcpu->arch);
	vcpu->arch = NULL;
}

static const struct kvm_arch_ops arch_ops = {
	.init_vm = kvm_arch_init_vm,
	.destroy_vm = kvm_arch_destroy_vm,
	.vcpu_create = kvm_arch_vcpu_create,
	.vcpu_init = kvm_arch_vcpu_init,
	.vcpu_setup = kvm_arch_vcpu_setup,
	.vcpu_destroy = kvm_arch_vcpu_destroy,
	.vcpu_runnable = kvm_arch_vcpu_runnable,
	.can_do_async_pf = kvm_can_do_async_pf,
	.async_page_not_present = kvm_arch_async_page_not_present,
};

static void register_all(void)
{
	kvm_register_arch(&arch_ops);
	vmx_register_services(&services);
	kvm_mmu_register_guest(&guest_ops, &vendor_ops);
	kvm_irq_register(&lapic_ops);
	params_check();
}

void kvm_x86_init(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, register_all);
}
