/*
 * Hyper-V's CPUID leaves (KVM API: KVM_GET_SUPPORTED_HV_CPUID).
 *
 * Invariant: they name what works and nothing else. What needs a local APIC of
 * ours is not in a vCPU's list without one; the list of /dev/kvm has it.
 */
#include <stdio.h>
#include <string.h>

#include "hyperv/internal.h"
#include "lib/error.h"

#define HV_CPUID_VENDOR 0x40000000u
#define HV_CPUID_INTERFACE 0x40000001u
#define HV_CPUID_VERSION 0x40000002u
#define HV_CPUID_FEATURES 0x40000003u
#define HV_CPUID_RECOMMENDATIONS 0x40000004u
#define HV_CPUID_LIMITS 0x40000005u
#define HV_CPUID_NESTED 0x4000000au
#define HV_CPUID_DEBUG_VENDOR 0x40000080u
#define HV_CPUID_DEBUG_INTERFACE 0x40000081u
#define HV_CPUID_DEBUG_CAPABILITIES 0x40000082u
#define HV_INTERFACE 0x31237648u       /* Hv#1 */
#define HV_DEBUG_INTERFACE 0x31235356u /* VS#1 */

#define HV_SPIN_RETRIES 0xfff	 /* before HVCALL_NOTIFY_LONG_SPIN_WAIT */
#define HV_NESTED_MSR_BITMAP (1u << 19) /* of an enlightened VMCS */

/* Could two vCPUs share a core of this machine behind the guest's back? */
static bool smt_possible(void)
{
	FILE *f = fopen("/sys/devices/system/cpu/smt/control", "re");
	char state[32] = "";

	if (!f)
		return true;
	if (!fgets(state, sizeof(state), f))
		state[0] = 0;
	fclose(f);
	return strncmp(state, "forceoff", 8) != 0 && strncmp(state, "notsupported", 12) != 0;
}

static void fill_signature(struct kvm_cpuid_entry2 *e)
{
	static const char signature[12] = "Linux KVM Hv";

	memcpy(&e->ebx, signature, 4);
	memcpy(&e->ecx, signature + 4, 4);
	memcpy(&e->edx, signature + 8, 4);
}

static void fill_features(struct kvm_cpuid_entry2 *e, bool apic)
{
	e->eax = HV_VP_RUNTIME | HV_TIME_REF_COUNT | HV_SYNIC | HV_SYNTIMER | HV_APIC_ACCESS | HV_HYPERCALL |
		 HV_VP_INDEX | HV_RESET | HV_REFERENCE_TSC | HV_FREQUENCY | HV_REENLIGHTENMENT;
	e->ebx = HV_POST_MESSAGES | HV_SIGNAL_EVENTS | HV_DEBUGGING;
	e->edx = HV_GUEST_DEBUGGING | HV_XMM_INPUT | HV_FREQUENCY_MSRS | HV_GUEST_CRASH | HV_DEBUG_MSRS |
		 (apic ? HV_STIMER_DIRECT : 0);
}

static void fill_recommendations(struct kvm_cpuid_entry2 *e, bool apic, uint16_t evmcs)
{
	e->eax = HV_REMOTE_TLB_FLUSH | HV_APIC_MSRS | HV_RELAXED_TIMING | HV_DEPRECATING_AEOI |
		 HV_EX_PROCESSOR_MASKS | (apic ? HV_CLUSTER_IPI : 0) | (evmcs ? HV_ENLIGHTENED_VMCS : 0) |
		 (smt_possible() ? 0 : HV_NO_CORE_SHARING);
	e->ebx = HV_SPIN_RETRIES;
}

static void fill_leaf(struct kvm_cpuid_entry2 *e, bool apic, uint16_t evmcs)
{
	switch (e->function) {
	case HV_CPUID_VENDOR:
		e->eax = HV_CPUID_DEBUG_CAPABILITIES; /* the last leaf */
		fill_signature(e);
		break;
	case HV_CPUID_DEBUG_VENDOR:
		fill_signature(e);
		break;
	case HV_CPUID_INTERFACE:
		e->eax = HV_INTERFACE;
		break;
	case HV_CPUID_VERSION: /* build 14393, version 10.0: as KVM says */
		e->eax = 0x3839;
		e->ebx = 0x000a0000;
		break;
	case HV_CPUID_FEATURES:
		fill_features(e, apic);
		break;
	case HV_CPUID_RECOMMENDATIONS:
		fill_recommendations(e, apic, evmcs);
		break;
	case HV_CPUID_LIMITS:
		e->eax = KVM_MAX_VCPUS;
		e->ebx = 64;
		break;
	case HV_CPUID_NESTED:
		e->eax = evmcs | HV_NESTED_MSR_BITMAP;
		break;
	case HV_CPUID_DEBUG_INTERFACE:
		e->eax = HV_DEBUG_INTERFACE;
		break;
	case HV_CPUID_DEBUG_CAPABILITIES:
		e->eax = HV_ALLOW_KERNEL_DEBUGGING;
		break;
	}
}

int kvm_get_hv_cpuid(struct kvm_vcpu *vcpu, struct kvm_cpuid_entry2 *entries, uint32_t *nent)
{
	static const uint32_t leaves[KVM_HV_CPUID_ENTRIES] = {
		HV_CPUID_VENDOR, HV_CPUID_INTERFACE, HV_CPUID_VERSION, HV_CPUID_FEATURES,
		HV_CPUID_RECOMMENDATIONS, HV_CPUID_LIMITS, HV_CPUID_NESTED, HV_CPUID_DEBUG_VENDOR,
		HV_CPUID_DEBUG_INTERFACE, HV_CPUID_DEBUG_CAPABILITIES,
	};

	if (*nent < KVM_HV_CPUID_ENTRIES)
		return err_born(E2BIG, "room for %u Hyper-V CPUID entries", *nent);
	for (unsigned i = 0; i < KVM_HV_CPUID_ENTRIES; i++) {
		entries[i] = (struct kvm_cpuid_entry2){ .function = leaves[i] };
		fill_leaf(&entries[i], !vcpu || vcpu->apic, vmx_evmcs_version(vcpu));
	}
	*nent = KVM_HV_CPUID_ENTRIES;
	return 0;
}

void kvm_hv_set_cpuid(struct kvm_vcpu *vcpu)
{
	const struct kvm_cpuid_entry2 *e = kvm_find_cpuid_entry(vcpu, HV_CPUID_INTERFACE, 0);
	struct kvm_hv_cpuid *c = &vcpu->arch->hv.cpuid;

	*c = (struct kvm_hv_cpuid){ .enabled = e && e->eax == HV_INTERFACE };
	if (!c->enabled)
		return;
	e = kvm_find_cpuid_entry(vcpu, HV_CPUID_FEATURES, 0);
	if (e) {
		c->features_eax = e->eax;
		c->features_ebx = e->ebx;
		c->features_edx = e->edx;
	}
	e = kvm_find_cpuid_entry(vcpu, HV_CPUID_RECOMMENDATIONS, 0);
	if (e) {
		c->hints_eax = e->eax;
		c->hints_ebx = e->ebx;
	}
	e = kvm_find_cpuid_entry(vcpu, HV_CPUID_DEBUG_CAPABILITIES, 0);
	if (e)
		c->syndbg_eax = e->eax;
}
