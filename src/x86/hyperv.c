/*
 * The MSRs of Microsoft's hypervisor interface (Hypervisor Top Level Functional
 * Specification; KVM API: KVM_CAP_HYPERV).
 */
#include <string.h>

#include "x86/hyperv.h"
#include "x86/msr_row.h"
#include "x86/run.h"

#define APIC_FREQUENCY_HZ 1000000000ULL /* the timer counts nanoseconds */

/* Bit of HV_CPUID_FEATURES.EAX that an MSR belongs to. */
static uint64_t privilege_of(uint32_t msr)
{
	switch (msr) {
	case HV_MSR_GUEST_OS_ID:
	case HV_MSR_HYPERCALL: return HV_HYPERCALL;
	case HV_MSR_VP_INDEX: return HV_VP_INDEX;
	case HV_MSR_TIME_REF_COUNT: return HV_TIME_REF_COUNT;
	case HV_MSR_REFERENCE_TSC: return HV_REFERENCE_TSC;
	case HV_MSR_VP_ASSIST_PAGE: return HV_APIC_ACCESS;
	case HV_MSR_TSC_FREQUENCY:
	case HV_MSR_APIC_FREQUENCY: return HV_FREQUENCY;
	default: return HV_REENLIGHTENMENT;
	}
}

static bool access_allowed(struct kvm_vcpu *vcpu, uint32_t msr, bool host)
{
	const struct kvm_cpuid_entry2 *e;

	if (host)
		return true;
	if (!hv_enabled(vcpu))
		return false;
	e = kvm_find_cpuid_entry(vcpu, HV_CPUID_FEATURES, 0);
	return !vcpu->arch->hv_enforce_cpuid || (e && (e->eax & privilege_of(msr)));
}

static uint32_t vp_index(struct kvm_vcpu *vcpu)
{
	uint32_t set = vcpu->arch->hv_vp_index;

	return set == KVM_HV_VP_INDEX_UNSET ? vcpu->vcpu_idx : set;
}

int msr_get_hyperv(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		   bool host)
{
	struct kvm_hv *hv = &vcpu->kvm->arch->hv;

	if (!access_allowed(vcpu, msr, host))
		return KVM_MSR_INVAL;
	switch (msr) {
	case HV_MSR_GUEST_OS_ID: *data = READ_ONCE(hv->guest_os_id); return 0;
	case HV_MSR_HYPERCALL: *data = READ_ONCE(hv->hypercall); return 0;
	case HV_MSR_VP_INDEX: *data = vp_index(vcpu); return 0;
	case HV_MSR_TIME_REF_COUNT: *data = hv_reference_counter(vcpu); return 0;
	case HV_MSR_REFERENCE_TSC: *data = READ_ONCE(hv->reference_tsc); return 0;
	case HV_MSR_TSC_FREQUENCY: *data = vcpu->arch->virtual_tsc_khz * 1000; return 0;
	case HV_MSR_APIC_FREQUENCY: *data = APIC_FREQUENCY_HZ; return 0;
	case HV_MSR_VP_ASSIST_PAGE: *data = vcpu->arch->hv_assist_page; return 0;
	case HV_MSR_REENLIGHTENMENT: *data = READ_ONCE(hv->reenlightenment_control); return 0;
	case HV_MSR_TSC_EMULATION_CONTROL: *data = READ_ONCE(hv->tsc_emulation_control); return 0;
	case HV_MSR_TSC_EMULATION_STATUS: *data = READ_ONCE(hv->tsc_emulation_status); return 0;
	default: return KVM_MSR_UNKNOWN;
	}
}

/* The page through which the guest calls: its own vendor's instruction, and a return. */
static int set_hypercall_page(struct kvm_vcpu *vcpu, uint64_t data)
{
	struct kvm_hv *hv = &vcpu->kvm->arch->hv;
	uint8_t code[4];

	if (!hv->guest_os_id)
		return 0;
	if (data & HV_MSR_ENABLE) {
		memcpy(code, kvm_native_hypercall(vcpu), 3);
		code[3] = 0xc3;
		if (kvm_write_guest_as_processor(vcpu, data & HV_MSR_PAGE, code, sizeof(code)))
			return KVM_MSR_INVAL;
	}
	hv->hypercall = data;
	return 0;
}

static int set_vp_index(struct kvm_vcpu *vcpu, uint64_t data, bool host)
{
	if (!host || (uint32_t)data >= KVM_MAX_VCPUS)
		return KVM_MSR_INVAL;
	vcpu->arch->hv_vp_index = (uint32_t)data;
	return 0;
}

/* Guests give the page without asking. No EOI is ever assisted: the first word stays 0. */
static int set_assist_page(struct kvm_vcpu *vcpu, uint64_t data)
{
	uint32_t no_assist = 0;

	if ((data & HV_MSR_ENABLE) &&
	    kvm_vcpu_write_guest(vcpu, data & HV_MSR_PAGE, &no_assist, sizeof(no_assist)))
		return KVM_MSR_INVAL;
	vcpu->arch->hv_assist_page = data;
	return 0;
}

int msr_set_hyperv(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		   bool host)
{
	struct kvm_hv *hv = &vcpu->kvm->arch->hv;

	if (!access_allowed(vcpu, msr, host))
		return KVM_MSR_INVAL;
	switch (msr) {
	case HV_MSR_GUEST_OS_ID:
		hv->guest_os_id = data;
		if (!data)
			hv->hypercall &= ~HV_MSR_ENABLE;
		return 0;
	case HV_MSR_HYPERCALL: return set_hypercall_page(vcpu, data);
	case HV_MSR_VP_INDEX: return set_vp_index(vcpu, data, host);
	case HV_MSR_REFERENCE_TSC: hv_set_reference_tsc(vcpu, data); return 0;
	case HV_MSR_VP_ASSIST_PAGE: return set_assist_page(vcpu, data);
	case HV_MSR_REENLIGHTENMENT: hv->reenlightenment_control = data; return 0;
	case HV_MSR_TSC_EMULATION_CONTROL: hv->tsc_emulation_control = data; return 0;
	case HV_MSR_TSC_EMULATION_STATUS:
		if (data && !host)
			return KVM_MSR_INVAL;
		hv->tsc_emulation_status = data;
		return 0;
	default: /* read-only; a client that restores it is not told */
		return host && msr == HV_MSR_TIME_REF_COUNT ? 0 : KVM_MSR_INVAL;
	}
}
