/*
 * KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE: an L1's VMX operation, with L2 if it runs,
 * in the form of Linux's KVM (KVM API: "KVM_GET_NESTED_STATE").
 *
 *	struct kvm_nested_state, 128 bytes | vmcs12, 4096, if one is current (of an enlightened
 *	VMCS what has been copied of it) | the VMCS that
 *	it links for VMCS shadowing, 4096, in guest mode
 *
 * What of L2 is not in vmcs12 (registers, events, MSRs) is the client's to save and restore as
 * of any vCPU, around this. L1's memory need not be there yet: what vmcs12 names in it
 * is read before the next entry (pages_stale).
 *
 * Locks: vcpu->mutex.
 */
#include <string.h>

#include "lib/error.h"
#include "mmu/mmu.h"
#include "vmx/internal.h"
#include "vmx/nested_check.h"

#define KNOWN_FLAGS                                                                          \
	(KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_RUN_PENDING | KVM_STATE_NESTED_EVMCS | \
	 KVM_STATE_NESTED_MTF_PENDING | KVM_STATE_NESTED_GIF_SET)

static bool shadow_is_linked(const struct vmcs12 *v)
{
	return nested_cpu_has2(v, SECONDARY_EXEC_SHADOW_VMCS) && v->vmcs_link_pointer != INVALID_VMPTR;
}

uint32_t vmx_get_nested_state(struct kvm_vcpu *vcpu, struct vmx_nested_state *out)
{
	struct nested_vmx *n = &vcpu->vmx->nested;
	struct kvm_nested_state *s = &out->head;

	memset(s, 0, sizeof(*s));
	s->format = KVM_STATE_NESTED_FORMAT_VMX;
	s->size = sizeof(*s);
	s->hdr.vmx.vmxon_pa = s->hdr.vmx.vmcs12_pa = INVALID_VMPTR;
	if (!vcpu->vmx->head.vmxon && !n->smm.vmxon)
		return s->size;
	s->hdr.vmx.vmxon_pa = n->vmxon_ptr;
	s->hdr.vmx.vmcs12_pa = n->current_vmptr;
	s->hdr.vmx.smm.flags = (uint16_t)((n->smm.vmxon ? KVM_STATE_NESTED_SMM_VMXON : 0) |
					  (n->smm.guest_mode ? KVM_STATE_NESTED_SMM_GUEST_MODE : 0));
	if (n->current_vmptr == INVALID_VMPTR && n->evmcs.vmptr == INVALID_VMPTR)
		return s->size;
	s->size += VMCS12_SIZE;
	/* active, or restored and not looked for yet */
	if (n->evmcs.vmptr != INVALID_VMPTR)
		s->flags = KVM_STATE_NESTED_EVMCS;
	if (vcpu->vmx->head.guest_mode) {
		s->flags = (uint16_t)(s->flags | KVM_STATE_NESTED_GUEST_MODE |
				      (n->run_pending ? KVM_STATE_NESTED_RUN_PENDING : 0) |
				      (n->mtf_pending ? KVM_STATE_NESTED_MTF_PENDING : 0));
		if (n->timer.has_deadline && nested_cpu_has_preemption_timer(n->cached_vmcs12)) {
			s->hdr.vmx.flags |= KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE;
			s->hdr.vmx.preemption_timer_deadline = n->timer.deadline;
		}
		sync_vmcs02_to_vmcs12(vcpu, n->cached_vmcs12);
		if (shadow_is_linked(n->cached_vmcs12)) {
			s->size += VMCS12_SIZE;
			memcpy(&out->shadow_vmcs12, n->cached_shadow_vmcs12, VMCS12_SIZE);
		}
	}
	nested_shadowing_from_l1(vcpu);
	nested_evmcs_sync(vcpu);
	memcpy(&out->vmcs12, n->cached_vmcs12, VMCS12_SIZE);
	return s->size;
}

/* What can be said of the header alone, in Linux's order. */
static int check_head(struct kvm_vcpu *vcpu, const struct kvm_nested_state *s)
{
	const struct kvm_vmx_nested_state_hdr *h = &s->hdr.vmx;
	bool smm = vmx_services->in_smm(vcpu);

	if (s->size < sizeof(*s) || s->flags & ~KNOWN_FLAGS ||
	    ((s->flags & KVM_STATE_NESTED_RUN_PENDING) && !(s->flags & KVM_STATE_NESTED_GUEST_MODE)))
		return err_born(EINVAL, "nested state: size %u, flags %#x", s->size, s->flags);
	if (s->format != KVM_STATE_NESTED_FORMAT_VMX)
		return err_born(EINVAL, "nested state: format %u", s->format);
	if (h->vmxon_pa == INVALID_VMPTR) {
		if (h->smm.flags || h->vmcs12_pa != INVALID_VMPTR || s->flags & ~KVM_STATE_NESTED_EVMCS)
			return err_born(EINVAL, "nested state outside VMX operation");
	} else if (!vmx_params()->nested || !vmx_services->has_vmx(vcpu) || !nested_vmx_page_valid(vcpu, h->vmxon_pa)) {
		return err_born(EINVAL, "nested state: VMXON pointer %#llx", h->vmxon_pa);
	}
	if (h->smm.flags & ~(KVM_STATE_NESTED_SMM_VMXON | KVM_STATE_NESTED_SMM_GUEST_MODE) ||
	    h->smm.flags == KVM_STATE_NESTED_SMM_GUEST_MODE || h->flags & ~(uint32_t)KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE)
		return err_born(EINVAL, "nested state: SMM flags %#x, VMX flags %#x", h->smm.flags, h->flags);
	if (smm ? s->flags & (KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_RUN_PENDING) : h->smm.flags)
		return err_born(EINVAL, "nested state: an L2, or SMM flags, where none can be");
	if (s->flags & KVM_STATE_NESTED_EVMCS && (!vmx_services->has_vmx(vcpu) || !vcpu->vmx->nested.evmcs.enabled))
		return err_born(EINVAL, "nested state: no enlightened VMCS is enabled");
	return 0;
}

/* vmcs12 is in place, and L2 is to go on. */
static int enter(struct kvm_vcpu *vcpu, const struct vmx_nested_state *in)
{
	struct nested_vmx *n = &vcpu->vmx->nested;
	struct vmcs12 *v = n->cached_vmcs12;
	struct nested_checks f = { 0 };

	if (shadow_is_linked(v)) {
		if (in->head.size < sizeof(in->head) + 2 * VMCS12_SIZE ||
		    in->shadow_vmcs12.revision_id != (VMCS12_REVISION | VMCS12_SHADOW))
			return err_born(EINVAL, "nested state: no shadow VMCS");
		memcpy(n->cached_shadow_vmcs12, &in->shadow_vmcs12, VMCS12_SIZE);
	}
	n->run_pending = in->head.flags & KVM_STATE_NESTED_RUN_PENDING;
	n->mtf_pending = in->head.flags & KVM_STATE_NESTED_MTF_PENDING;
	n->timer.has_deadline = in->head.hdr.vmx.flags & KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE;
	n->timer.deadline = in->head.hdr.vmx.preemption_timer_deadline;
	nested_vmx_check_controls(vcpu, v, &f);
	nested_vmx_check_host_state(vcpu, v, &f);
	nested_vmx_check_guest_state(vcpu, v, &f);
	if (!f.nr_failed && nested_vmx_enter_non_root_mode(vcpu, false) == NVMX_VMENTRY_SUCCESS)
		return 0;
	n->run_pending = n->mtf_pending = false;
	return err_born(EINVAL, "nested state: %u checks of the VMCS fail", f.nr_failed);
}

int vmx_set_nested_state(struct kvm_vcpu *vcpu, const struct vmx_nested_state *in)
{
	const struct kvm_nested_state *s = &in->head;
	const struct kvm_vmx_nested_state_hdr *h = &s->hdr.vmx;
	struct nested_vmx *n = &vcpu->vmx->nested;
	int r = check_head(vcpu, s);

	if (r)
		return r;
	vmx_leave_nested(vcpu);
	if (h->vmxon_pa == INVALID_VMPTR)
		return 0;
	n->vmxon_ptr = h->vmxon_pa;
	r = enter_vmx_operation(vcpu);
	if (r)
		return r;
	if (s->size < sizeof(*s) + VMCS12_SIZE) {
		if (s->flags & (KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_EVMCS) || h->vmcs12_pa != INVALID_VMPTR)
			return err_born(EINVAL, "nested state without a VMCS");
		return 0;
	}
	/* where the enlightened VMCS is L1's assist page says, whose MSR the client may set later */
	if (h->vmcs12_pa == INVALID_VMPTR && s->flags & KVM_STATE_NESTED_EVMCS)
		nested_evmcs_restore(vcpu);
	else if (h->vmcs12_pa == h->vmxon_pa || !nested_vmx_page_valid(vcpu, h->vmcs12_pa))
		return err_born(EINVAL, "nested state: VMCS pointer %#llx", h->vmcs12_pa);
	n->current_vmptr = h->vmcs12_pa;
	if (h->smm.flags & KVM_STATE_NESTED_SMM_VMXON) {
		n->smm.vmxon = true;
		n->smm.guest_mode = h->smm.flags & KVM_STATE_NESTED_SMM_GUEST_MODE;
		vcpu->vmx->head.vmxon = false;
	}
	memcpy(n->cached_vmcs12, &in->vmcs12, VMCS12_SIZE);
	/* whether L2 runs or L1 is about to enter it: VMCS02 has nothing of this vmcs12 yet */
	n->dirty_vmcs12 = true;
	n->pages_stale = n->evmcs.vmptr != INVALID_VMPTR;
	nested_shadowing_switch(vcpu, vcpu->vmx->head.vmxon && n->current_vmptr != INVALID_VMPTR);
	if ((n->cached_vmcs12->revision_id & ~VMCS12_SHADOW) != VMCS12_REVISION)
		return err_born(EINVAL, "nested state: revision %#x", n->cached_vmcs12->revision_id);
	return s->flags & KVM_STATE_NESTED_GUEST_MODE ? enter(vcpu, in) : 0;
}
