/*
 * Asynchronous page faults (KVM API: "KVM-specific MSRs", MSR_KVM_ASYNC_PF_EN,
 * _INT, _ACK): a guest that touches a page which the client has yet to bring is
 * told so, and may run something else until it is there.
 *
 *   EPT violation -> kvm_try_async_pf ──┬─ #PF, CR2 the token, flags = 1
 *                                       └─ the guest cannot take that now: it halts
 *   the page is there -> KVM_REQ_APF_READY -> token = the token, interrupt
 *                        the guest takes it, token = 0, _ACK: the next one
 *
 * Invariants
 * 1. Only for a guest that asked for both halves (ENABLED and DELIVERY_AS_INT).
 *    The faults of all others wait in KVM_RUN.
 * 2. One token at a time is in the guest's word: the next waits until it is 0.
 * 3. What is under way is no state of the vCPU's: enabling tells the guest with
 *    the token ~0 that every page it waits for may be there, so a restored guest
 *    tries again what it waited for before.
 *
 * The guest's page belongs to the normal address space, whatever the vCPU is in.
 * Locks: none; owner thread.
 */
#include <stddef.h>

#include "trace/trace.h"
#include "virt/async_pf.h"
#include "x86/msr_row.h"
#include "x86/run.h"

#define ASYNC_PF_ENABLED BIT_ULL(0)
#define ASYNC_PF_SEND_ALWAYS BIT_ULL(1) /* at CPL 0, too */
#define ASYNC_PF_DELIVERY_AS_PF_VMEXIT BIT_ULL(2)
#define ASYNC_PF_DELIVERY_AS_INT BIT_ULL(3)
#define ASYNC_PF_RESERVED_MASK GENMASK_ULL(5, 4)
#define ASYNC_PF_ADDRESS GENMASK_ULL(63, 6)
#define ASYNC_PF_VECTOR GENMASK_ULL(7, 0)
#define ASYNC_PF_ACK BIT_ULL(0)

#define PV_REASON_PAGE_NOT_PRESENT 1u
#define BROADCAST_TOKEN 0xffffffffu

/* The guest's page. */
struct kvm_vcpu_pv_apf_data {
	uint32_t flags; /* why a #PF is none of the guest's own; the guest clears it */
	uint32_t token; /* the page that is there; the guest clears it */
};

static bool enabled(uint64_t msr)
{
	uint64_t both = ASYNC_PF_ENABLED | ASYNC_PF_DELIVERY_AS_INT;

	return (msr & both) == both;
}

static int put_word(struct kvm_vcpu *vcpu, size_t offset, uint32_t v)
{
	gpa_t gpa = (vcpu->arch->apf.en_msr & ASYNC_PF_ADDRESS) + offset;

	return kvm_write_guest(vcpu->kvm, 0, gpa, &v, sizeof(v));
}

static bool token_slot_is_free(struct kvm_vcpu *vcpu)
{
	gpa_t gpa = (vcpu->arch->apf.en_msr & ASYNC_PF_ADDRESS) +
		    offsetof(struct kvm_vcpu_pv_apf_data, token);
	uint32_t v;

	return kvm_read_guest(vcpu->kvm, 0, gpa, &v, sizeof(v)) == 0 && v == 0;
}

/* --- a page is not there --- */

/* Without paging there is hardly a #PF handler. While L2 runs it is L1 that is told, by an exit, if it wants that. */
static bool can_deliver(struct kvm_vcpu *vcpu)
{
	if (unlikely(is_guest_mode(vcpu)))
		return vcpu->arch->apf.en_msr & ASYNC_PF_DELIVERY_AS_PF_VMEXIT;
	return ((vcpu->arch->apf.en_msr & ASYNC_PF_SEND_ALWAYS) || vmx_get_cpl(vcpu) != 0) &&
	       (vmx_get_cr0(vcpu) & X86_CR0_PG);
}

bool kvm_can_do_async_pf(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_arch *a = vcpu->arch;

	if (likely(!enabled(a->apf.en_msr)))
		return false;
	if (a->exception.pending || a->exception.injected || a->interrupt.injected || a->nmi_injected)
		return false;
	/* A guest that HLTs without our knowing is not halted by us either. */
	if ((vcpu->kvm->arch->disabled_exits & KVM_X86_DISABLE_EXITS_HLT) && !can_deliver(vcpu))
		return false;
	return vmx_interrupt_allowed(vcpu);
}

bool kvm_arch_async_page_not_present(struct kvm_vcpu *vcpu, const struct kvm_async_pf_info *info)
{
	struct kvm_page_fault_info fault = { .vector = X86_TRAP_PF, .address = info->token };

	TRACE(kvm, kvm_async_pf_not_present, info->token, info->addr);
	if (can_deliver(vcpu) && put_word(vcpu, offsetof(struct kvm_vcpu_pv_apf_data, flags),
					  PV_REASON_PAGE_NOT_PRESENT) == 0) {
		if (unlikely(is_guest_mode(vcpu)))
			kvm_queue_exception_vmexit(vcpu, X86_TRAP_PF, true, 0, true, info->token);
		else
			kvm_inject_page_fault(vcpu, &fault);
		return true;
	}
	kvm_make_request(KVM_REQ_APF_HALT, vcpu);
	return false;
}

/* --- it is there now --- */

static void page_present(struct kvm_vcpu *vcpu, const struct kvm_async_pf_info *info)
{
	TRACE(kvm, kvm_async_pf_ready, info->token, info->addr);
	if (info->told && put_word(vcpu, offsetof(struct kvm_vcpu_pv_apf_data, token), info->token) == 0)
		kvm_apic_set_irq(vcpu, (uint8_t)(vcpu->arch->apf.int_msr & ASYNC_PF_VECTOR));
}

static bool next_present(struct kvm_vcpu *vcpu, struct kvm_async_pf_info *info)
{
	if (!vcpu->arch->apf.wakeup_all)
		return kvm_take_async_pf(vcpu, info);
	vcpu->arch->apf.wakeup_all = false;
	*info = (struct kvm_async_pf_info){ .token = BROADCAST_TOKEN, .told = true };
	return true;
}

void kvm_check_async_pf_completion(struct kvm_vcpu *vcpu)
{
	struct kvm_async_pf_info info;

	while (kvm_lapic_enabled(vcpu) && enabled(vcpu->arch->apf.en_msr) && token_slot_is_free(vcpu) &&
	       next_present(vcpu, &info))
		page_present(vcpu, &info);
}

/* --- the MSRs --- */

static void forget(struct kvm_vcpu *vcpu)
{
	kvm_clear_async_pf_completion_queue(vcpu);
	vcpu->arch->apf.wakeup_all = vcpu->arch->apf.halted = false;
}

void kvm_async_pf_reset(struct kvm_vcpu *vcpu)
{
	vcpu->arch->apf.en_msr = vcpu->arch->apf.int_msr = 0;
	forget(vcpu);
}

static bool valid_en(struct kvm_vcpu *vcpu, uint64_t data)
{
	if (data & ASYNC_PF_RESERVED_MASK)
		return false;
	if ((data & ASYNC_PF_DELIVERY_AS_PF_VMEXIT) && !guest_pv_has(vcpu, KVM_FEATURE_ASYNC_PF_VMEXIT))
		return false;
	if ((data & ASYNC_PF_DELIVERY_AS_INT) && !guest_pv_has(vcpu, KVM_FEATURE_ASYNC_PF_INT))
		return false;
	if (!vcpu->apic)
		return data == 0;
	return !enabled(data) || kvm_gpa_is_writable(vcpu->kvm, 0, data & ASYNC_PF_ADDRESS);
}

static int set_en(struct kvm_vcpu *vcpu, uint64_t data)
{
	struct kvm_async_pf_arch *apf = &vcpu->arch->apf;

	if (!valid_en(vcpu, data))
		return KVM_MSR_INVAL;
	apf->en_msr = data;
	if (!enabled(data)) {
		forget(vcpu);
		return 0;
	}
	apf->wakeup_all = true;
	kvm_make_request(KVM_REQ_APF_READY, vcpu);
	return 0;
}

int msr_set_async_pf(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		     bool host)
{
	if (!guest_pv_has(vcpu, (int)row->value))
		return KVM_MSR_UNKNOWN;
	switch (msr) {
	case MSR_KVM_ASYNC_PF_EN:
		return set_en(vcpu, data);
	case MSR_KVM_ASYNC_PF_INT:
		if (data & ~ASYNC_PF_VECTOR || (data && !vcpu->apic))
			return KVM_MSR_INVAL;
		vcpu->arch->apf.int_msr = data;
		return 0;
	default:
		if (data & ASYNC_PF_ACK)
			kvm_check_async_pf_completion(vcpu);
		return 0;
	}
}

int msr_get_async_pf(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		     bool host)
{
	*data = msr == MSR_KVM_ASYNC_PF_EN    ? vcpu->arch->apf.en_msr
		: msr == MSR_KVM_ASYNC_PF_INT ? vcpu->arch->apf.int_msr
					      : 0;
	return guest_pv_has(vcpu, (int)row->value) ? 0 : KVM_MSR_UNKNOWN;
}
