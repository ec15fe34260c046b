/*
 * INIT and SIPI, which the local APIC collects, become the state of the vCPU
 * (SDM Vol. 3, "MP Initialization Protocol Algorithm").
 *
 * Context: the vCPU's owner thread, not in the guest.
 */
#include "x86/run.h"

/* In SMM an INIT waits for RSM, a SIPI is lost. */
void kvm_apic_accept_events(struct kvm_vcpu *vcpu)
{
	uint8_t vector = 0;
	unsigned ev;

	if (!vcpu->apic || !kvm_apic_init_sipi_pending(vcpu))
		return;
	if (vcpu->arch->smm || kvm_init_is_held_back(vcpu)) {
		kvm_apic_drop_sipi(vcpu);
		return;
	}
	if (unlikely(is_guest_mode(vcpu))) {
		(void)kvm_check_nested_events(vcpu);
		return;
	}
	ev = kvm_apic_take_init_sipi(vcpu, &vector);
	if (ev & 1) {
		kvm_vcpu_reset(vcpu, true);
		__atomic_store_n(&vcpu->arch->mp_state,
				 kvm_get_apic_base(vcpu) & BIT_ULL(8) ? KVM_MP_STATE_RUNNABLE
								      : KVM_MP_STATE_INIT_RECEIVED,
				 __ATOMIC_SEQ_CST);
	}
	if ((ev & 2) && vcpu->arch->mp_state == KVM_MP_STATE_INIT_RECEIVED) {
		kvm_vcpu_deliver_sipi_vector(vcpu, vector);
		__atomic_store_n(&vcpu->arch->mp_state, KVM_MP_STATE_RUNNABLE, __ATOMIC_SEQ_CST);
	}
}
