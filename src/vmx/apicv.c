/*
 * APIC virtualization in the VMCS (Linux: vmx_set_virtual_apic_mode, vmx_refresh_apicv_exec_ctrl,
 * vmx_hwapic_irr_update, posted_intr.c), and its exits: 43, 44, 45, 56.
 *
 * Two things apart: what the APIC's mode asks for (TPR shadow; the APIC-access page in xAPIC mode,
 * MSR accesses in x2APIC mode), and what is on while nothing inhibits it (register virtualization,
 * virtual-interrupt delivery, posted interrupts).
 *
 * Invariant: the controls of VMCS01 are the only ones touched. While another VMCS is current, what
 * changes is remembered and done by vmx_apicv_vmcs01_loaded().
 *
 * Locks: owner thread, but for vmx_notify_posted().
 */
#include <string.h>

#include "trace/trace.h"
#include "vmx/internal.h"

/* Linux's POSTED_INTR_VECTOR. */
#define POSTED_INTR_VECTOR 0xf2

#define MODE_CONTROLS \
	(uint32_t)(SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES | SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE)
#define ACTIVE_CONTROLS (uint32_t)(SECONDARY_EXEC_APIC_REGISTER_VIRT | SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY)

#define INTR_STATUS_RVI 0x00ffU
#define INTR_STATUS_SVI_SHIFT 8

/* x2APIC MSRs: readable ones by number - 800h; 839h counts and is never right in a page. */
#define X2APIC_MSR(reg) (0x800U + (reg))
#define X2APIC_TPR 0x08U
#define X2APIC_EOI 0x0bU
#define X2APIC_SELF_IPI 0x3fU
#define X2APIC_READABLE 0x41fd01ffffffa50cULL

static bool vmcs01_is_current(const struct kvm_vcpu *vcpu)
{
	return vcpu->vmx->loaded_vmcs == &vcpu->vmx->vmcs01;
}

static void set_secondary(struct kvm_vcpu *vcpu, uint32_t clear, uint32_t set)
{
	struct loaded_vmcs *l = &vcpu->vmx->vmcs01;
	uint32_t v = (l->secondary & ~clear) | (set & vmcs_config()->secondary);

	if (v == l->secondary)
		return;
	l->secondary = v;
	vmcs_write32(vcpu, SECONDARY_VM_EXEC_CONTROL, v);
}

static void intercept_x2apic(struct kvm_vcpu *vcpu)
{
	const struct vmx_apicv *a = &vcpu->vmx->apicv;
	bool on = a->mode == VMX_APIC_X2APIC &&
		  (vmcs_config()->secondary & SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE);

	for (uint32_t reg = 0; reg < 0x100; reg++) {
		bool read = on && a->active && reg < 64 && (X2APIC_READABLE & BIT_ULL(reg));
		bool write = on && a->active && (reg == X2APIC_EOI || reg == X2APIC_SELF_IPI);

		if (on && reg == X2APIC_TPR)
			read = write = true;
		vmx_set_msr_intercept(vcpu, X2APIC_MSR(reg), true, false, !read);
		vmx_set_msr_intercept(vcpu, X2APIC_MSR(reg), false, true, !write);
	}
}

static void load_controls(struct kvm_vcpu *vcpu)
{
	const struct vmx_apicv *a = &vcpu->vmx->apicv;
	uint32_t pin = vmcs_config()->pin_based;
	uint32_t mode = 0;

	if (a->mode == VMX_APIC_XAPIC && vmx_params()->flexpriority)
		mode = (uint32_t)SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES;
	else if (a->mode == VMX_APIC_X2APIC)
		mode = (uint32_t)SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE;
	if (!a->active)
		pin &= ~(uint32_t)PIN_BASED_POSTED_INTR;
	vmcs_write32(vcpu, PIN_BASED_VM_EXEC_CONTROL, pin);
	set_secondary(vcpu, MODE_CONTROLS | ACTIVE_CONTROLS, mode | (a->active ? ACTIVE_CONTROLS : 0));
	intercept_x2apic(vcpu);
}

void vmx_apicv_init(struct kvm_vcpu *vcpu, hpa_t page, hpa_t descriptor, hpa_t access_page)
{
	const struct vmcs_config *c = vmcs_config();

	if (!(c->cpu_based & CPU_BASED_TPR_SHADOW))
		return;
	vcpu->vmx->apicv.tpr_shadow = true;
	vmcs_write64(vcpu, VIRTUAL_APIC_PAGE_ADDR, page);
	vmcs_write32(vcpu, TPR_THRESHOLD, 0);
	cpu_based_assign(vcpu, CPU_BASED_TPR_SHADOW, true);
	cpu_based_assign(vcpu, CPU_BASED_CR8_LOAD_EXITING | CPU_BASED_CR8_STORE_EXITING, false);
	if (vmx_params()->flexpriority)
		vmcs_write64(vcpu, APIC_ACCESS_ADDR, access_page);
	if (!vmx_params()->enable_apicv)
		return;
	for (uint32_t n = 0; n < 4; n++)
		vmcs_write64(vcpu, EOI_EXIT_BITMAP0 + 2 * n, 0);
	vmcs_write16(vcpu, GUEST_INTR_STATUS, 0);
	vmcs_write16(vcpu, POSTED_INTR_NV, POSTED_INTR_VECTOR);
	vmcs_write64(vcpu, POSTED_INTR_DESC_ADDR, descriptor);
}

void vmx_set_virtual_apic_mode(struct kvm_vcpu *vcpu, enum vmx_apic_mode mode)
{
	struct vmx_apicv *a = &vcpu->vmx->apicv;

	if (!a->tpr_shadow || a->mode == mode)
		return;
	a->mode = mode;
	a->controls_stale = true;
	/* the page's mappings are what the mode makes them */
	kvm_make_request(KVM_REQ_TLB_FLUSH, vcpu);
	if (vmcs01_is_current(vcpu))
		vmx_apicv_vmcs01_loaded(vcpu);
}

void vmx_refresh_apicv_exec_ctrl(struct kvm_vcpu *vcpu, bool active)
{
	struct vmx_apicv *a = &vcpu->vmx->apicv;

	if (!vmx_params()->enable_apicv || a->active == active)
		return;
	a->active = active;
	a->controls_stale = true;
	if (active) /* else it is written before each entry */
		a->threshold = 0;
	if (vmcs01_is_current(vcpu))
		vmx_apicv_vmcs01_loaded(vcpu);
}

void vmx_apicv_vmcs01_loaded(struct kvm_vcpu *vcpu)
{
	struct vmx_apicv *a = &vcpu->vmx->apicv;

	if (a->controls_stale) {
		a->controls_stale = false;
		load_controls(vcpu);
	}
	if (a->svi_stale) {
		a->svi_stale = false;
		vmx_hwapic_isr_update(vcpu, a->svi);
	}
	if (a->eoi_exit_stale) {
		a->eoi_exit_stale = false;
		vmx_load_eoi_exitmap(vcpu, a->eoi_exit);
	}
}

static void write_status(struct kvm_vcpu *vcpu, uint32_t clear, uint32_t set)
{
	uint32_t old = vmcs_read16(vcpu, GUEST_INTR_STATUS), v = (old & ~clear) | set;

	if (v != old)
		vmcs_write16(vcpu, GUEST_INTR_STATUS, (uint16_t)v);
}

bool vmx_hwapic_irr_update(struct kvm_vcpu *vcpu, int highest_irr)
{
	if (unlikely(!vmcs01_is_current(vcpu)))
		return false;
	write_status(vcpu, INTR_STATUS_RVI, highest_irr < 0 ? 0 : (uint32_t)highest_irr);
	return true;
}

void vmx_hwapic_isr_update(struct kvm_vcpu *vcpu, int highest_isr)
{
	if (unlikely(!vmcs01_is_current(vcpu))) {
		vcpu->vmx->apicv.svi = highest_isr;
		vcpu->vmx->apicv.svi_stale = true;
		return;
	}
	write_status(vcpu, ~INTR_STATUS_RVI, (highest_isr < 0 ? 0U : (uint32_t)highest_isr) << INTR_STATUS_SVI_SHIFT);
}

void vmx_load_eoi_exitmap(struct kvm_vcpu *vcpu, const uint64_t vectors[4])
{
	struct vmx_apicv *a = &vcpu->vmx->apicv;

	if (unlikely(!vmcs01_is_current(vcpu))) {
		memcpy(a->eoi_exit, vectors, sizeof(a->eoi_exit));
		a->eoi_exit_stale = true;
		return;
	}
	for (uint32_t n = 0; n < 4; n++)
		vmcs_write64(vcpu, EOI_EXIT_BITMAP0 + 2 * n, vectors[n]);
}

bool vmx_wants_tpr_threshold(struct kvm_vcpu *vcpu)
{
	return vcpu->vmx->apicv.tpr_shadow && !vcpu->vmx->apicv.active && vmcs01_is_current(vcpu);
}

void vmx_set_tpr_threshold(struct kvm_vcpu *vcpu, unsigned threshold)
{
	if (vcpu->vmx->apicv.threshold == threshold)
		return;
	vcpu->vmx->apicv.threshold = threshold;
	vmcs_write32(vcpu, TPR_THRESHOLD, threshold);
}

void vmx_notify_posted(struct kvm_vcpu *vcpu)
{
	vmx_notify(vcpu->vmx->cpu, POSTED_INTR_VECTOR);
}

/* --- exits --- */

int handle_tpr_below_threshold(struct kvm_vcpu *vcpu)
{
	vmx_services->apic_tpr_lowered(vcpu);
	return 1;
}

#define ACCESS_OFFSET 0xfffU
#define ACCESS_TYPE_SHIFT 12
#define ACCESS_TYPE_LINEAR_WRITE 1
#define APIC_EOI_OFFSET 0x0b0U

int handle_apic_access(struct kvm_vcpu *vcpu)
{
	uint64_t q = vmcs_readl(vcpu, EXIT_QUALIFICATION);

	/* the value of an EOI is of no account: no look at the instruction */
	if ((q & ACCESS_OFFSET) == APIC_EOI_OFFSET && q >> ACCESS_TYPE_SHIFT == ACCESS_TYPE_LINEAR_WRITE) {
		vmx_services->apic_eoi(vcpu);
		vmx_skip_emulated_instruction(vcpu);
		return 1;
	}
	return vmx_services->emulate_instruction(vcpu, false, ~0ULL);
}

int handle_apic_eoi_induced(struct kvm_vcpu *vcpu)
{
	vmx_services->apic_eoi_accelerated(vcpu, (uint8_t)vmcs_readl(vcpu, EXIT_QUALIFICATION));
	return 1;
}

int handle_apic_write(struct kvm_vcpu *vcpu)
{
	vmx_services->apic_write(vcpu, (uint32_t)vmcs_readl(vcpu, EXIT_QUALIFICATION) & ACCESS_OFFSET);
	return 1;
}
