/*
 * The part of Microsoft's hypervisor interface that guests with an idea of it
 * take their time from: identification, hypercall page, VP index, reference
 * counter and reference TSC page, frequencies (Hypervisor Top Level Functional
 * Specification; KVM API: KVM_CAP_HYPERV, KVM_GET_SUPPORTED_HV_CPUID).
 *
 * Invariants
 * 1. KVM_GET_SUPPORTED_HV_CPUID names what works and nothing else: no SynIC, no
 *    synthetic timers, no APIC assist, no TLB flush or IPI hypercalls.
 * 2. While the reference TSC page is in force the reference counter is computed
 *    from the page's own numbers: the two never disagree.
 *
 * Locks: clock_lock guards struct kvm_hv. hv.page_lock, which is taken before it, is
 * held while the reference TSC page is written; no ioctl about the clock takes it.
 */
#include <stdio.h>
#include <string.h>

#include "lib/error.h"
#include "x86/msr_row.h"
#include "x86/pvclock.h"
#include "x86/run.h"

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

/* HV_CPUID_FEATURES.EAX: partition privileges. */
#define HV_TIME_REF_COUNT BIT_ULL(1)
#define HV_APIC_ACCESS BIT_ULL(4)
#define HV_HYPERCALL BIT_ULL(5)
#define HV_VP_INDEX BIT_ULL(6)
#define HV_REFERENCE_TSC BIT_ULL(9)
#define HV_FREQUENCY BIT_ULL(11)
#define HV_REENLIGHTENMENT BIT_ULL(13)
#define HV_FEATURES                                                                \
	(HV_TIME_REF_COUNT | HV_HYPERCALL | HV_VP_INDEX | HV_REFERENCE_TSC | HV_FREQUENCY | \
	 HV_REENLIGHTENMENT)
#define HV_FREQUENCY_MSRS BIT_ULL(8)	/* ..EDX */
#define HV_RELAXED_TIMING BIT_ULL(5)	/* HV_CPUID_RECOMMENDATIONS.EAX */
#define HV_NO_CORE_SHARING BIT_ULL(18)
#define HV_SPIN_RETRIES 0xfff		/* ..EBX: before HVCALL_NOTIFY_LONG_SPIN_WAIT */
#define HV_NESTED_MSR_BITMAP BIT_ULL(19) /* a promise to VMX or SVM guests: there are none */

#define HV_MSR_ENABLE BIT_ULL(0)
#define HV_MSR_PAGE GENMASK_ULL(63, 12)
#define HVCALL_NOTIFY_LONG_SPIN_WAIT 8
#define HV_STATUS_SUCCESS 0
#define HV_STATUS_INVALID_HYPERCALL_CODE 2
#define APIC_FREQUENCY_HZ 1000000000ULL /* the timer counts nanoseconds */

/* HV_REFERENCE_TSC_PAGE: time in 100 ns = (tsc * scale >> 64) + offset; sequence 0: not valid. */
struct hv_tsc_page {
	uint32_t sequence, reserved;
	uint64_t scale;
	int64_t offset;
};
static_assert(sizeof(struct hv_tsc_page) == 24, "guest ABI");

/* --- CPUID --- */

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

	e->eax = HV_CPUID_DEBUG_CAPABILITIES; /* the last leaf */
	memcpy(&e->ebx, signature, 4);
	memcpy(&e->ecx, signature + 4, 4);
	memcpy(&e->edx, signature + 8, 4);
}

static void fill_leaf(struct kvm_cpuid_entry2 *e)
{
	switch (e->function) {
	case HV_CPUID_VENDOR:
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
		e->eax = HV_FEATURES;
		e->edx = HV_FREQUENCY_MSRS;
		break;
	case HV_CPUID_RECOMMENDATIONS:
		e->eax = (uint32_t)(HV_RELAXED_TIMING | (smt_possible() ? 0 : HV_NO_CORE_SHARING));
		e->ebx = HV_SPIN_RETRIES;
		break;
	case HV_CPUID_LIMITS:
		e->eax = KVM_MAX_VCPUS;
		e->ebx = 64;
		break;
	case HV_CPUID_NESTED:
		e->eax = HV_NESTED_MSR_BITMAP;
		break;
	case HV_CPUID_DEBUG_INTERFACE:
		e->eax = HV_DEBUG_INTERFACE;
		break;
	case HV_CPUID_DEBUG_CAPABILITIES: /* none */
		break;
	}
}

int kvm_get_hv_cpuid(struct kvm_cpuid_entry2 *entries, uint32_t *nent)
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
		fill_leaf(&entries[i]);
	}
	*nent = KVM_HV_CPUID_ENTRIES;
	return 0;
}

/* The client has given the guest the interface. */
static bool hv_enabled(struct kvm_vcpu *vcpu)
{
	const struct kvm_cpuid_entry2 *e = kvm_find_cpuid_entry(vcpu, HV_CPUID_INTERFACE, 0);

	return e && e->eax == HV_INTERFACE;
}

/* --- the reference TSC page --- */

static uint64_t page_time(const struct kvm_hv *hv, uint64_t tsc)
{
	return (uint64_t)((unsigned __int128)tsc * hv->tsc_scale >> 64) + hv->tsc_offset;
}

/* In 100 ns. */
static uint64_t reference_counter(struct kvm_vcpu *vcpu)
{
	struct kvm_arch *ka = vcpu->kvm->arch;
	bool from_page;
	uint64_t t = 0;

	pthread_mutex_lock(&ka->clock_lock);
	from_page = ka->hv.page_set;
	if (from_page)
		t = page_time(&ka->hv, kvm_read_guest_tsc(vcpu));
	pthread_mutex_unlock(&ka->clock_lock);
	return from_page ? t : kvm_clock_ns(vcpu->kvm) / 100;
}

/* Sequence 0 while the numbers change; at the end one that is neither 0 nor all ones. */
static bool write_page(struct kvm_vcpu *vcpu, gpa_t gpa, struct hv_tsc_page *page)
{
	uint32_t old, zero = 0;

	if (kvm_vcpu_read_guest(vcpu, gpa, &old, sizeof(old)) ||
	    kvm_vcpu_write_guest(vcpu, gpa, &zero, sizeof(zero)))
		return false;
	page->sequence = old + 1;
	if (page->sequence == 0 || page->sequence == ~0u)
		page->sequence = 1;
	__atomic_thread_fence(__ATOMIC_RELEASE);
	if (kvm_vcpu_write_guest(vcpu, gpa + 8, &page->scale, sizeof(*page) - 8))
		return false;
	__atomic_thread_fence(__ATOMIC_RELEASE);
	return kvm_vcpu_write_guest(vcpu, gpa, &page->sequence, sizeof(page->sequence)) == 0;
}

/* What the page is to say; false: nothing. *gpa is where. */
static bool plan_page(struct kvm_arch *ka, const struct pvclock_vcpu_time_info *clock, gpa_t *gpa,
		      struct hv_tsc_page *page)
{
	struct kvm_hv *hv = &ka->hv;
	bool wanted;

	pthread_mutex_lock(&ka->clock_lock);
	*gpa = hv->reference_tsc & HV_MSR_PAGE;
	/* a guest that was promised to be told of a change is not surprised by one */
	wanted = (hv->reference_tsc & HV_MSR_ENABLE) &&
		 !(hv->page_set && hv->reenlightenment_control && hv->tsc_emulation_control);
	pthread_mutex_unlock(&ka->clock_lock);
	/* ns = (delta << shift) * mul >> 32, and 100 ns = delta * scale >> 64 */
	page->scale = (uint64_t)(((unsigned __int128)clock->tsc_to_system_mul
				  << (32 + clock->tsc_shift)) / 100);
	page->offset = (int64_t)(clock->system_time / 100 -
				 (uint64_t)((unsigned __int128)clock->tsc_timestamp * page->scale >> 64));
	return wanted;
}

/* It is in force, unless the guest has taken it back or moved it meanwhile. */
static void page_written(struct kvm_arch *ka, gpa_t gpa, const struct hv_tsc_page *page, bool written)
{
	struct kvm_hv *hv = &ka->hv;

	pthread_mutex_lock(&ka->clock_lock);
	if ((hv->reference_tsc & HV_MSR_ENABLE) && (hv->reference_tsc & HV_MSR_PAGE) == gpa) {
		hv->page_set = written;
		hv->tsc_scale = page->scale;
		hv->tsc_offset = (uint64_t)page->offset;
	}
	pthread_mutex_unlock(&ka->clock_lock);
}

void kvm_hv_update_tsc_page(struct kvm_vcpu *vcpu, const struct pvclock_vcpu_time_info *clock)
{
	struct kvm_arch *ka = vcpu->kvm->arch;
	struct hv_tsc_page page = { 0 };
	gpa_t gpa;

	/* guest memory may have to be waited for: whoever brings it may ask for the clock */
	pthread_mutex_lock(&ka->hv.page_lock);
	if (plan_page(ka, clock, &gpa, &page))
		page_written(ka, gpa, &page, write_page(vcpu, gpa, &page));
	pthread_mutex_unlock(&ka->hv.page_lock);
}

/* --- MSRs --- */

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
	case HV_MSR_TIME_REF_COUNT: *data = reference_counter(vcpu); return 0;
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

static int set_reference_tsc(struct kvm_vcpu *vcpu, uint64_t data)
{
	struct kvm_arch *ka = vcpu->kvm->arch;

	pthread_mutex_lock(&ka->clock_lock);
	ka->hv.reference_tsc = data;
	ka->hv.page_set = false;
	pthread_mutex_unlock(&ka->clock_lock);
	kvm_make_request(KVM_REQ_CLOCK_UPDATE, vcpu);
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
	case HV_MSR_REFERENCE_TSC: return set_reference_tsc(vcpu, data);
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

/* --- hypercalls --- */

bool kvm_hv_hypercall_enabled(struct kvm_vcpu *vcpu)
{
	return unlikely(READ_ONCE(vcpu->kvm->arch->hv.guest_os_id)) && hv_enabled(vcpu);
}

/* Input value in RCX, or EDX:EAX; the status comes back in RAX, or EDX:EAX. */
int kvm_hv_hypercall(struct kvm_vcpu *vcpu, bool skip)
{
	uint64_t *regs = vmx_regs(vcpu);
	bool wide = vmx_is_64bit_code(vcpu);
	uint64_t input = wide ? regs[RCX] : (uint32_t)regs[RAX] | regs[RDX] << 32, status;

	if (vmx_get_cpl(vcpu) != 0 || !(vmx_get_cr0(vcpu) & X86_CR0_PE)) {
		kvm_queue_exception(vcpu, X86_TRAP_UD);
		return 1;
	}
	status = (input & 0xffff) == HVCALL_NOTIFY_LONG_SPIN_WAIT ? HV_STATUS_SUCCESS
								 : HV_STATUS_INVALID_HYPERCALL_CODE;
	regs[RAX] = status;
	if (!wide)
		regs[RDX] = 0;
	if (skip)
		vmx_skip_emulated_instruction(vcpu);
	return 1;
}
