/*
 * What the files of Hyper-V's interface share (Hypervisor Top Level Functional
 * Specification): hyperv.c (MSRs), hyperv_cpuid.c, hyperv_tsc.c (reference
 * counter and page), hyperv_hypercall.c.
 *
 * Context: the vCPU's owner thread.
 */
#ifndef USERKVM_X86_HYPERV_H
#define USERKVM_X86_HYPERV_H

#include "x86/x86.h"

#define HV_MSR_GUEST_OS_ID 0x40000000u
#define HV_MSR_HYPERCALL 0x40000001u
#define HV_MSR_VP_INDEX 0x40000002u
#define HV_MSR_TIME_REF_COUNT 0x40000020u
#define HV_MSR_REFERENCE_TSC 0x40000021u
#define HV_MSR_TSC_FREQUENCY 0x40000022u
#define HV_MSR_APIC_FREQUENCY 0x40000023u
#define HV_MSR_VP_ASSIST_PAGE 0x40000073u
#define HV_MSR_REENLIGHTENMENT 0x40000106u
#define HV_MSR_TSC_EMULATION_CONTROL 0x40000107u
#define HV_MSR_TSC_EMULATION_STATUS 0x40000108u

#define HV_CPUID_INTERFACE 0x40000001u
#define HV_CPUID_FEATURES 0x40000003u
#define HV_INTERFACE 0x31237648u /* Hv#1 */

/* HV_CPUID_FEATURES.EAX: partition privileges. */
#define HV_TIME_REF_COUNT BIT_ULL(1)
#define HV_APIC_ACCESS BIT_ULL(4)
#define HV_HYPERCALL BIT_ULL(5)
#define HV_VP_INDEX BIT_ULL(6)
#define HV_REFERENCE_TSC BIT_ULL(9)
#define HV_FREQUENCY BIT_ULL(11)
#define HV_REENLIGHTENMENT BIT_ULL(13)

#define HV_MSR_ENABLE BIT_ULL(0)
#define HV_MSR_PAGE GENMASK_ULL(63, 12)

/* The client has given the guest the interface. */
bool hv_enabled(struct kvm_vcpu *vcpu);
/* In 100 ns. */
uint64_t hv_reference_counter(struct kvm_vcpu *vcpu);
/* MSR_REFERENCE_TSC: the page is there at the next entry. */
void hv_set_reference_tsc(struct kvm_vcpu *vcpu, uint64_t data);

#endif
