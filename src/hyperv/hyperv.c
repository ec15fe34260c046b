/*
 * Microsoft's hypervisor interface (Hypervisor Top Level Functional
 * Specification; KVM API: KVM_CAP_HYPERV): its MSRs, by a table of who may have
 * them and whose they are, and what leaves to the client.
 *
 * Locks: struct kvm_hv says.
 */
#include <pthread.h>
#include <string.h>

#include "host/thread.h"
#include "hyperv/internal.h"
#include "irq/apicdef.h"
#include "x86/run.h"

#define APIC_FREQUENCY_HZ 1000000000ULL /* the timer counts nanoseconds */
#define CRASH_NOTIFY BIT_ULL(63)	 /* HV_MSR_CRASH_CTL */
#define NS_PER_TICK 100

void kvm_hv_init_vm(struct kvm *kvm)
{
	pthread_mutex_init(&kvm->arch->hv.page_lock, NULL);
	pthread_mutex_init(&kvm->arch->hv.conn_lock, NULL);
}

void kvm_hv_destroy_vm(struct kvm *kvm)
{
	hv_connections_destroy(kvm);
	pthread_mutex_destroy(&kvm->arch->hv.conn_lock);
	pthread_mutex_destroy(&kvm->arch->hv.page_lock);
}

struct kvm_vcpu *hv_vcpu_by_vp_index(struct kvm *kvm, uint32_t vp_index)
{
	struct kvm_vcpu *vcpu = kvm_get_vcpu(kvm, vp_index);
	uint32_t i;

	if (vcpu && hv_vp_index(vcpu) == vp_index)
		return vcpu;
	kvm_for_each_vcpu(i, vcpu, kvm)
		if (hv_vp_index(vcpu) == vp_index)
			return vcpu;
	return NULL;
}

/* --- who the guest is, and where it calls --- */

static int get_identity(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host)
{
	struct kvm_hv *hv = &vcpu->kvm->arch->hv;

	*data = msr == HV_MSR_GUEST_OS_ID ? READ_ONCE(hv->guest_os_id) : READ_ONCE(hv->hypercall);
	return 0;
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

static int set_identity(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data, bool host)
{
	struct kvm_hv *hv = &vcpu->kvm->arch->hv;

	if (msr == HV_MSR_HYPERCALL)
		return set_hypercall_page(vcpu, data);
	hv->guest_os_id = data;
	if (!data)
		hv->hypercall &= ~HV_MSR_ENABLE;
	return 0;
}

/* --- the virtual processor --- */

/* Of the thread that asks, which in the guest is the vCPU's. */
static uint64_t runtime(void)
{
	return host_thread_cpu_ns() / NS_PER_TICK;
}

static int get_vp(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host)
{
	struct kvm_vcpu_hv *hv = &vcpu->arch->hv;

	switch (msr) {
	case HV_MSR_VP_INDEX: *data = hv_vp_index(vcpu); return 0;
	case HV_MSR_VP_RUNTIME: *data = runtime() + hv->runtime_offset; return 0;
	default: *data = hv->assist_page; return 0;
	}
}

/* Guests give the page without asking. No EOI is ever assisted: the first word stays 0. */
static int set_assist_page(struct kvm_vcpu *vcpu, uint64_t data)
{
	uint32_t no_assist = 0;

	if ((data & HV_MSR_ENABLE) &&
	    kvm_vcpu_write_guest(vcpu, data & HV_MSR_PAGE, &no_assist, sizeof(no_assist)))
		return KVM_MSR_INVAL;
	vcpu->arch->hv.assist_page = data;
	return 0;
}

static int set_vp(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data, bool host)
{
	struct kvm_vcpu_hv *hv = &vcpu->arch->hv;

	if (msr == HV_MSR_VP_ASSIST_PAGE)
		return set_assist_page(vcpu, data);
	if (!host)
		return KVM_MSR_INVAL;
	if (msr == HV_MSR_VP_RUNTIME) {
		hv->runtime_offset = data - runtime();
		return 0;
	}
	if ((uint32_t)data >= KVM_MAX_VCPUS)
		return KVM_MSR_INVAL;
	WRITE_ONCE(hv->vp_index, (uint32_t)data);
	return 0;
}

/* --- time --- */

static int get_time(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host)
{
	switch (msr) {
	case HV_MSR_TIME_REF_COUNT: *data = hv_reference_counter(vcpu); return 0;
	case HV_MSR_REFERENCE_TSC: *data = READ_ONCE(vcpu->kvm->arch->hv.reference_tsc); return 0;
	case HV_MSR_TSC_FREQUENCY: *data = vcpu->arch->virtual_tsc_khz * 1000; return 0;
	default: *data = APIC_FREQUENCY_HZ; return 0;
	}
}

/* Read-only ones; a client that restores them is not told. */
static int set_time(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data, bool host)
{
	if (msr != HV_MSR_REFERENCE_TSC)
		return host ? 0 : KVM_MSR_INVAL;
	hv_set_reference_tsc(vcpu, data);
	return 0;
}

static int get_reenlightenment(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host)
{
	struct kvm_hv *hv = &vcpu->kvm->arch->hv;

	switch (msr) {
	case HV_MSR_REENLIGHTENMENT: *data = READ_ONCE(hv->reenlightenment_control); return 0;
	case HV_MSR_TSC_EMULATION_CONTROL: *data = READ_ONCE(hv->tsc_emulation_control); return 0;
	default: *data = READ_ONCE(hv->tsc_emulation_status); return 0;
	}
}

static int set_reenlightenment(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data, bool host)
{
	struct kvm_hv *hv = &vcpu->kvm->arch->hv;

	switch (msr) {
	case HV_MSR_REENLIGHTENMENT: hv->reenlightenment_control = data; return 0;
	case HV_MSR_TSC_EMULATION_CONTROL: hv->tsc_emulation_control = data; return 0;
	default:
		if (data && !host)
			return KVM_MSR_INVAL;
		hv->tsc_emulation_status = data;
		return 0;
	}
}

/* --- the APIC's registers --- */

static uint32_t apic_register(uint32_t msr)
{
	return msr == HV_MSR_EOI ? APIC_EOI : msr == HV_MSR_ICR ? APIC_ICR : APIC_TASKPRI;
}

static int get_vapic(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host)
{
	return kvm_hv_vapic_msr_read(vcpu, apic_register(msr), data) ? KVM_MSR_INVAL : 0;
}

static int set_vapic(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data, bool host)
{
	return kvm_hv_vapic_msr_write(vcpu, apic_register(msr), data) ? KVM_MSR_INVAL : 0;
}

/* --- reset and crash --- */

static int get_reset(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host)
{
	*data = 0;
	return 0;
}

static int set_reset(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data, bool host)
{
	if (data == 1)
		kvm_make_request(KVM_REQ_HV_RESET, vcpu);
	return 0;
}

static int get_crash(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host)
{
	struct kvm_hv *hv = &vcpu->kvm->arch->hv;

	*data = msr == HV_MSR_CRASH_CTL ? READ_ONCE(hv->crash_ctl)
					: READ_ONCE(hv->crash_param[msr - HV_MSR_CRASH_P0]);
	return 0;
}

static int set_crash(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data, bool host)
{
	struct kvm_hv *hv = &vcpu->kvm->arch->hv;

	if (msr != HV_MSR_CRASH_CTL)
		WRITE_ONCE(hv->crash_param[msr - HV_MSR_CRASH_P0], data);
	else if (host) /* what the guest finds there: whether it may notify */
		WRITE_ONCE(hv->crash_ctl, data & CRASH_NOTIFY);
	else if (data & CRASH_NOTIFY)
		kvm_make_request(KVM_REQ_HV_CRASH, vcpu);
	return 0;
}

/* --- the table --- */

static const struct hv_msrs {
	uint32_t first, last;
	uint32_t eax, edx; /* of HV_CPUID_FEATURES: the guest may use them */
	int (*get)(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host);
	int (*set)(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data, bool host);
} hv_msrs[] = {
	/* first those that guests use all the time */
	{ HV_MSR_EOI, HV_MSR_TPR, HV_APIC_ACCESS, 0, get_vapic, set_vapic },
	{ HV_MSR_STIMER0_CONFIG, HV_MSR_STIMER3_COUNT, HV_SYNTIMER, 0, hv_stimer_get_msr, hv_stimer_set_msr },
	{ HV_MSR_SCONTROL, HV_MSR_EOM, HV_SYNIC, 0, hv_synic_get_msr, hv_synic_set_msr },
	{ HV_MSR_SINT0, HV_MSR_SINT15, HV_SYNIC, 0, hv_synic_get_msr, hv_synic_set_msr },
	{ HV_MSR_TIME_REF_COUNT, HV_MSR_TIME_REF_COUNT, HV_TIME_REF_COUNT, 0, get_time, set_time },
	{ HV_MSR_GUEST_OS_ID, HV_MSR_HYPERCALL, HV_HYPERCALL, 0, get_identity, set_identity },
	{ HV_MSR_VP_INDEX, HV_MSR_VP_INDEX, HV_VP_INDEX, 0, get_vp, set_vp },
	{ HV_MSR_RESET, HV_MSR_RESET, HV_RESET, 0, get_reset, set_reset },
	{ HV_MSR_VP_RUNTIME, HV_MSR_VP_RUNTIME, HV_VP_RUNTIME, 0, get_vp, set_vp },
	{ HV_MSR_REFERENCE_TSC, HV_MSR_REFERENCE_TSC, HV_REFERENCE_TSC, 0, get_time, set_time },
	{ HV_MSR_TSC_FREQUENCY, HV_MSR_APIC_FREQUENCY, HV_FREQUENCY, 0, get_time, set_time },
	{ HV_MSR_VP_ASSIST_PAGE, HV_MSR_VP_ASSIST_PAGE, HV_APIC_ACCESS, 0, get_vp, set_vp },
	{ HV_MSR_SYNDBG_CONTROL, HV_MSR_SYNDBG_PENDING_BUFFER, 0, HV_DEBUG_MSRS, hv_syndbg_get_msr,
	  hv_syndbg_set_msr },
	{ HV_MSR_SYNDBG_OPTIONS, HV_MSR_SYNDBG_OPTIONS, 0, HV_DEBUG_MSRS, hv_syndbg_get_msr,
	  hv_syndbg_set_msr },
	{ HV_MSR_CRASH_P0, HV_MSR_CRASH_CTL, 0, HV_GUEST_CRASH, get_crash, set_crash },
	{ HV_MSR_REENLIGHTENMENT, HV_MSR_TSC_EMULATION_STATUS, HV_REENLIGHTENMENT, 0, get_reenlightenment,
	  set_reenlightenment },
};

/* NULL: none of ours, or not for this guest. */
static const struct hv_msrs *find_msr(struct kvm_vcpu *vcpu, uint32_t msr, bool host)
{
	const struct kvm_vcpu_hv *hv = &vcpu->arch->hv;
	const struct hv_msrs *m = hv_msrs;

	while (msr < m->first || msr > m->last)
		if (++m == hv_msrs + ARRAY_SIZE(hv_msrs))
			return NULL;
	if (host || (hv->cpuid.enabled && !hv->enforce_cpuid))
		return m;
	return hv->cpuid.enabled && ((hv->cpuid.features_eax & m->eax) || (hv->cpuid.features_edx & m->edx))
		       ? m
		       : NULL;
}

int kvm_hv_get_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host)
{
	const struct hv_msrs *m = find_msr(vcpu, msr, host);

	return m ? m->get(vcpu, msr, data, host) : KVM_MSR_INVAL;
}

int kvm_hv_set_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data, bool host)
{
	const struct hv_msrs *m = find_msr(vcpu, msr, host);

	return m ? m->set(vcpu, msr, data, host) : KVM_MSR_INVAL;
}

/* --- to the client --- */

static int system_event(struct kvm_vcpu *vcpu, uint32_t type)
{
	vcpu->run->exit_reason = KVM_EXIT_SYSTEM_EVENT;
	vcpu->run->system_event.type = type;
	vcpu->run->system_event.ndata = 0;
	return 0;
}

int kvm_hv_serve_crash(struct kvm_vcpu *vcpu)
{
	return system_event(vcpu, KVM_SYSTEM_EVENT_CRASH);
}

int kvm_hv_serve_reset(struct kvm_vcpu *vcpu)
{
	return system_event(vcpu, KVM_SYSTEM_EVENT_RESET);
}

int kvm_hv_serve_exit(struct kvm_vcpu *vcpu)
{
	vcpu->run->exit_reason = KVM_EXIT_HYPERV;
	vcpu->run->hyperv = vcpu->arch->hv.exit;
	if (vcpu->run->hyperv.type == KVM_EXIT_HYPERV_SYNDBG)
		vcpu->arch->complete_userspace_io = hv_syndbg_complete;
	return 0;
}

static const struct kvm_hyperv_ops hyperv = {
	.init_vm = kvm_hv_init_vm,
	.destroy_vm = kvm_hv_destroy_vm,
	.vcpu_uninit = kvm_hv_vcpu_uninit,
	.set_cpuid = kvm_hv_set_cpuid,
	.get_msr = kvm_hv_get_msr,
	.set_msr = kvm_hv_set_msr,
	.activate_synic = kvm_hv_activate_synic,
	.synic_set_irq = kvm_hv_synic_set_irq,
	.synic_eoi = kvm_hv_synic_eoi,
	.has_stimer_pending = kvm_hv_has_stimer_pending,
	.update_tsc_page = kvm_hv_update_tsc_page,
	.hypercall_enabled = kvm_hv_hypercall_enabled,
	.hypercall = kvm_hv_hypercall,
	.serve_crash = kvm_hv_serve_crash,
	.serve_reset = kvm_hv_serve_reset,
	.serve_exit = kvm_hv_serve_exit,
	.serve_stimers = kvm_hv_serve_stimers,
};

void hyperv_init(void)
{
	kvm_register_hyperv(&hyperv);
}
