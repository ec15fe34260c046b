/*
 * What a vCPU does for the requests that were made of it, in the order of KVM_REQUESTS, before it enters the guest.
 * KVM_REQ_EVENT is not here: injection looks at it, after all others.
 *
 * Locks: vcpu->mutex is held by the caller.
 */
#include "lib/error.h"
#include "x86/apicv.h"
#include "x86/debugger.h"
#include "x86/run.h"

/* 1 go on; 0 leave with run->exit_reason; < 0 KVM_RUN's error. */
typedef int request_handler(struct kvm_vcpu *vcpu);

static int serve_vm_dead(struct kvm_vcpu *vcpu)
{
	return -EIO;
}

static int serve_tlb_flush(struct kvm_vcpu *vcpu)
{
	vmx_flush_tlb_all(vcpu);
	return 1;
}

static int serve_tlb_flush_guest(struct kvm_vcpu *vcpu)
{
	kvm_vcpu_flush_tlb_guest(vcpu);
	return 1;
}

static int serve_mmu_reload(struct kvm_vcpu *vcpu)
{
	kvm_mmu_unload(vcpu);
	return 1;
}

static int serve_mmu_sync(struct kvm_vcpu *vcpu)
{
	if (vcpu->mmu->sync_roots)
		vcpu->mmu->sync_roots(vcpu);
	return 1;
}

static int serve_clock_update(struct kvm_vcpu *vcpu)
{
	kvm_guest_time_update(vcpu);
	return 1;
}

static int serve_report_tpr(struct kvm_vcpu *vcpu)
{
	vcpu->run->exit_reason = KVM_EXIT_TPR_ACCESS;
	vcpu->run->tpr_access.rip = vcpu->arch->tpr_access_rip;
	vcpu->run->tpr_access.is_write = vcpu->arch->tpr_access_is_write;
	return 0;
}

static int serve_triple_fault(struct kvm_vcpu *vcpu)
{
	if (unlikely(is_guest_mode(vcpu))) {
		/* it is L2's, so L1 has an exit */
		kvm_make_request(KVM_REQ_EVENT, vcpu);
		kvm_nested_triple_fault(vcpu);
		return 1;
	}
	vcpu->run->exit_reason = KVM_EXIT_SHUTDOWN;
	return 0;
}

static int serve_nmi(struct kvm_vcpu *vcpu)
{
	kvm_process_nmi(vcpu);
	return 1;
}

static int serve_smi(struct kvm_vcpu *vcpu)
{
	kvm_process_smi(vcpu);
	return 1;
}

static int serve_apf_halt(struct kvm_vcpu *vcpu)
{
	vcpu->arch->apf.halted = true;
	return 1;
}

static int serve_apf_ready(struct kvm_vcpu *vcpu)
{
	kvm_check_async_pf_completion(vcpu);
	/* even where the guest cannot be told yet: it may be the page this one waits for */
	vcpu->arch->apf.halted = false;
	return 1;
}

static int serve_nothing(struct kvm_vcpu *vcpu)
{
	return 1;
}

static int serve_hv_crash(struct kvm_vcpu *vcpu)
{
	return kvm_hyperv_ops->serve_crash(vcpu);
}

static int serve_hv_reset(struct kvm_vcpu *vcpu)
{
	return kvm_hyperv_ops->serve_reset(vcpu);
}

static int serve_hv_exit(struct kvm_vcpu *vcpu)
{
	return kvm_hyperv_ops->serve_exit(vcpu);
}

static int serve_call(struct kvm_vcpu *vcpu)
{
	kvm_vcpu_serve_call(vcpu);
	return 1;
}

static int serve_hv_stimers(struct kvm_vcpu *vcpu)
{
	return kvm_hyperv_ops->serve_stimers(vcpu);
}

static const struct {
	enum kvm_request request;
	request_handler *serve;
} request_table[] = {
	{ KVM_REQ_VM_DEAD, serve_vm_dead },
	{ KVM_REQ_MMU_RELOAD, serve_mmu_reload },
	{ KVM_REQ_MMU_SYNC, serve_mmu_sync },
	{ KVM_REQ_TLB_FLUSH, serve_tlb_flush },
	{ KVM_REQ_TLB_FLUSH_GUEST, serve_tlb_flush_guest },
	{ KVM_REQ_MASTERCLOCK_UPDATE, serve_clock_update },
	{ KVM_REQ_CLOCK_UPDATE, serve_clock_update },
	{ KVM_REQ_REPORT_TPR_ACCESS, serve_report_tpr },
	{ KVM_REQ_TRIPLE_FAULT, serve_triple_fault },
	{ KVM_REQ_SMI, serve_smi },
	{ KVM_REQ_NMI, serve_nmi },
	{ KVM_REQ_APF_HALT, serve_apf_halt },
	{ KVM_REQ_APF_READY, serve_apf_ready },
	{ KVM_REQ_UNBLOCK, serve_nothing },
	{ KVM_REQ_OUTSIDE_GUEST, serve_nothing },
	{ KVM_REQ_APICV_UPDATE, kvm_serve_apicv_update },
	{ KVM_REQ_SCAN_IOAPIC, kvm_serve_scan_ioapic },
	{ KVM_REQ_HV_CRASH, serve_hv_crash },
	{ KVM_REQ_HV_RESET, serve_hv_reset },
	{ KVM_REQ_HV_EXIT, serve_hv_exit },
	/* after the clock, which the timers count by */
	{ KVM_REQ_HV_STIMER, serve_hv_stimers },
	{ KVM_REQ_CALL, serve_call },
};

int kvm_serve_requests(struct kvm_vcpu *vcpu)
{
	int r;

	if (likely(!__atomic_load_n(&vcpu->requests, __ATOMIC_RELAXED)))
		return 1;
	for (size_t i = 0; i < ARRAY_SIZE(request_table); i++) {
		if (!kvm_check_request(request_table[i].request, vcpu))
			continue;
		r = request_table[i].serve(vcpu);
		if (r <= 0)
			return r;
	}
	if (kvm_check_request(KVM_REQ_IOAPIC_EOI_EXIT, vcpu)) {
		vcpu->run->exit_reason = KVM_EXIT_IOAPIC_EOI;
		vcpu->run->eoi.vector = kvm_lapic_pending_ioapic_eoi(vcpu);
		return 0;
	}
	if (kvm_check_request(KVM_REQ_PENDING_TIMER, vcpu))
		kvm_make_request(KVM_REQ_EVENT, vcpu);
	return 1;
}
