/*
 * The synthetic debugger's MSRs, through which a guest's kernel talks to a
 * debugger that the client has (KVM API: KVM_EXIT_HYPERV_SYNDBG). They are the
 * VM's.
 */
#include "hyperv/internal.h"
#include "trace/trace.h"

bool hv_syndbg_enabled(struct kvm_vcpu *vcpu)
{
	return vcpu->arch->hv.cpuid.syndbg_eax & HV_ALLOW_KERNEL_DEBUGGING;
}

static uint64_t *value_of(struct kvm_vcpu *vcpu, uint32_t msr)
{
	struct kvm_hv *hv = &vcpu->kvm->arch->hv;

	switch (msr) {
	case HV_MSR_SYNDBG_CONTROL: return &hv->syndbg.control;
	case HV_MSR_SYNDBG_STATUS: return &hv->syndbg.status;
	case HV_MSR_SYNDBG_SEND_BUFFER: return &hv->syndbg.send_page;
	case HV_MSR_SYNDBG_RECV_BUFFER: return &hv->syndbg.recv_page;
	case HV_MSR_SYNDBG_PENDING_BUFFER: return &hv->syndbg.pending_page;
	default: return &hv->syndbg.options;
	}
}

static void tell_client(struct kvm_vcpu *vcpu, uint32_t msr)
{
	struct kvm_hv *hv = &vcpu->kvm->arch->hv;
	struct kvm_hyperv_exit *exit = &vcpu->arch->hv.exit;

	*exit = (struct kvm_hyperv_exit){ .type = KVM_EXIT_HYPERV_SYNDBG };
	exit->u.syndbg.msr = msr;
	exit->u.syndbg.control = READ_ONCE(hv->syndbg.control);
	exit->u.syndbg.send_page = READ_ONCE(hv->syndbg.send_page);
	exit->u.syndbg.recv_page = READ_ONCE(hv->syndbg.recv_page);
	exit->u.syndbg.pending_page = READ_ONCE(hv->syndbg.pending_page);
	kvm_make_request(KVM_REQ_HV_EXIT, vcpu);
}

int hv_syndbg_complete(struct kvm_vcpu *vcpu)
{
	const struct kvm_hyperv_exit *exit = &vcpu->run->hyperv;

	if (vcpu->arch->hv.exit.u.syndbg.msr == HV_MSR_SYNDBG_CONTROL)
		WRITE_ONCE(vcpu->kvm->arch->hv.syndbg.status, exit->u.syndbg.status);
	return 1;
}

int hv_syndbg_get_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host)
{
	if (!host && !hv_syndbg_enabled(vcpu))
		return KVM_MSR_INVAL;
	*data = READ_ONCE(*value_of(vcpu, msr));
	TRACE(kvm, kvm_hv_syndbg_get_msr, (int)vcpu->vcpu_id, hv_vp_index(vcpu), msr, *data);
	return 0;
}

int hv_syndbg_set_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data, bool host)
{
	if (!host && !hv_syndbg_enabled(vcpu))
		return KVM_MSR_INVAL;
	TRACE(kvm, kvm_hv_syndbg_set_msr, (int)vcpu->vcpu_id, hv_vp_index(vcpu), msr, data);
	WRITE_ONCE(*value_of(vcpu, msr), data);
	if (!host && (msr == HV_MSR_SYNDBG_CONTROL || msr == HV_MSR_SYNDBG_PENDING_BUFFER))
		tell_client(vcpu, msr);
	return 0;
}
