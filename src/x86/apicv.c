/*
 * Whether APIC virtualization is on: the reasons that inhibit it, a VM's and a vCPU's state, and the
 * memslot of the APIC-access page. (Linux: __kvm_set_or_clear_apicv_inhibit, kvm_vcpu_update_apicv,
 * kvm_alloc_apic_access_page.)
 *
 * Invariants
 * 1. A vCPU's state is decided by its own thread, outside the guest, under apicv_update_lock (read).
 *    A change of the reasons holds it for writing until every vCPU is out and has the request.
 * 2. The APIC-access page is mapped only while no reason but DISABLE holds; kvm->apic_access_closed
 *    says so to page faults, and is stored before the mappings are dropped. (Linux refuses the page
 *    for DISABLE as well. Here enable_apicv=0 with flexpriority=1 leaves the TPR shadow and the page.)
 *
 * Lock order: kvm->lock > apicv_update_lock > mmu_lock. None is taken in guest mode.
 */
#include "x86/apicv.h"
#include "x86/private_page.h"
#include "x86/run.h"

/* Those of Linux's reasons that hold for VMX. */
#define CLOSING_REASONS (~BIT_ULL(APICV_INHIBIT_REASON_DISABLE))

static bool active_by(uint64_t reasons)
{
	return reasons == 0;
}

void kvm_set_or_clear_apicv_inhibit(struct kvm *kvm, enum apicv_inhibit reason, bool set)
{
	struct kvm_arch *a = kvm->arch;
	uint64_t old, new;
	bool closed;

	pthread_rwlock_wrlock(&a->apicv_update_lock);
	old = a->apicv_inhibit_reasons;
	new = set ? old | BIT_ULL(reason) : old & ~BIT_ULL(reason);
	TRACE(kvm, kvm_apicv_inhibit_changed, (int)reason, set, new);
	closed = new & CLOSING_REASONS;
	if (active_by(old) != active_by(new))
		kvm_make_all_cpus_request(kvm, KVM_REQ_APICV_UPDATE);
	__atomic_store_n(&a->apicv_inhibit_reasons, new, __ATOMIC_SEQ_CST);
	if (closed != kvm->apic_access_closed) {
		__atomic_store_n(&kvm->apic_access_closed, closed, __ATOMIC_SEQ_CST);
		if (closed && a->apic_access_page)
			kvm_mmu_invalidate_hva_range(a->apic_access_page, a->apic_access_page + PAGE_SIZE);
	}
	pthread_rwlock_unlock(&a->apicv_update_lock);
}

uint64_t kvm_apicv_inhibits(const struct kvm *kvm)
{
	return __atomic_load_n(&kvm->arch->apicv_inhibit_reasons, __ATOMIC_SEQ_CST);
}

int kvm_serve_apicv_update(struct kvm_vcpu *vcpu)
{
	struct kvm_arch *a = vcpu->kvm->arch;
	bool active;

	if (!vcpu->apic)
		return 1;
	pthread_rwlock_rdlock(&a->apicv_update_lock);
	active = active_by(a->apicv_inhibit_reasons) &&
		 (kvm_apic_xapic_mode(vcpu) || kvm_apic_x2apic_mode(vcpu));
	vmx_refresh_apicv_exec_ctrl(vcpu, active);
	kvm_apic_set_apicv(vcpu, active);
	pthread_rwlock_unlock(&a->apicv_update_lock);
	return 1;
}

int kvm_serve_scan_ioapic(struct kvm_vcpu *vcpu)
{
	kvm_apic_load_eoi_exitmap(vcpu);
	return 1;
}

void kvm_apicv_init_vm(struct kvm *kvm)
{
	struct kvm_arch *a = kvm->arch;

	pthread_rwlock_init(&a->apicv_update_lock, NULL);
	a->apicv_inhibit_reasons = BIT_ULL(APICV_INHIBIT_REASON_ABSENT);
	if (!vmx_params()->enable_apicv)
		a->apicv_inhibit_reasons |= BIT_ULL(APICV_INHIBIT_REASON_DISABLE);
	kvm->apic_access_closed = true;
	kvm->wants_scan = vmx_params()->enable_apicv;
}

/* --- the APIC-access page --- */

int kvm_alloc_apic_access_page(struct kvm *kvm)
{
	struct kvm_arch *a = kvm->arch;
	int r = 0;

	if (!vmx_params()->flexpriority || !irqchip_in_kernel(kvm))
		return 0;
	pthread_mutex_lock(&kvm->slots_lock);
	if (!a->apic_access_page)
		r = kvm_private_page_create(kvm, APIC_ACCESS_PAGE_PRIVATE_MEMSLOT, APIC_DEFAULT_PHYS_BASE, &a->apic_access_page);
	pthread_mutex_unlock(&kvm->slots_lock);
	return r;
}

void kvm_apicv_destroy_vm(struct kvm *kvm)
{
	kvm_private_page_free(kvm->arch->apic_access_page);
	pthread_rwlock_destroy(&kvm->arch->apicv_update_lock);
}

/* --- a vCPU and its APIC --- */

void kvm_apicv_init_vcpu(struct kvm_vcpu *vcpu)
{
	if (!vcpu->apic)
		return;
	vmx_apicv_init(vcpu, kvm_apic_page(vcpu), kvm_apic_posted_descriptor(vcpu),
		       vcpu->kvm->arch->apic_access_page);
	kvm_apicv_base_changed(vcpu);
	kvm_make_request(KVM_REQ_APICV_UPDATE, vcpu);
}

void kvm_apicv_base_changed(struct kvm_vcpu *vcpu)
{
	bool xapic = kvm_apic_xapic_mode(vcpu), x2apic = kvm_apic_x2apic_mode(vcpu);

	vmx_set_virtual_apic_mode(vcpu, xapic ? VMX_APIC_XAPIC : x2apic ? VMX_APIC_X2APIC : VMX_APIC_DISABLED);
	kvm_make_request(KVM_REQ_APICV_UPDATE, vcpu);
	if ((xapic || x2apic) && (kvm_get_apic_base(vcpu) & PAGE_MASK) != APIC_DEFAULT_PHYS_BASE)
		kvm_set_or_clear_apicv_inhibit(vcpu->kvm, APICV_INHIBIT_REASON_APIC_BASE_MODIFIED, true);
}

void kvm_xapic_id_modified(struct kvm_vcpu *vcpu)
{
	kvm_set_or_clear_apicv_inhibit(vcpu->kvm, APICV_INHIBIT_REASON_APIC_ID_MODIFIED, true);
}

void kvm_apicv_update_guest_debug(struct kvm *kvm)
{
	bool blocked = false;
	struct kvm_vcpu *vcpu;
	uint32_t i;

	kvm_for_each_vcpu(i, vcpu, kvm)
		blocked |= (READ_ONCE(vcpu->arch->guest_debug) & KVM_GUESTDBG_BLOCKIRQ) != 0;
	kvm_set_or_clear_apicv_inhibit(kvm, APICV_INHIBIT_REASON_BLOCKIRQ, blocked);
}

void kvm_apicv_auto_eoi(struct kvm *kvm, bool more)
{
	uint32_t n;

	pthread_mutex_lock(&kvm->arch->auto_eoi_lock);
	n = more ? kvm->arch->nr_auto_eoi++ : --kvm->arch->nr_auto_eoi;
	if (n == 0)
		kvm_set_or_clear_apicv_inhibit(kvm, APICV_INHIBIT_REASON_HYPERV, more);
	pthread_mutex_unlock(&kvm->arch->auto_eoi_lock);
}
