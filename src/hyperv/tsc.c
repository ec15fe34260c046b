/*
 * Hyper-V's time: the reference counter and the reference TSC page (TLFS
 * "Partition Reference Time Enlightenment").
 *
 * Invariant: while the page is in force the reference counter is computed from
 * the page's own numbers: the two never disagree.
 *
 * Locks: clock_lock guards struct kvm_hv. hv.page_lock, which is taken before it, is
 * held while the reference TSC page is written; no ioctl about the clock takes it.
 */
#include "hyperv/internal.h"
#include "x86/pvclock.h"

/* HV_REFERENCE_TSC_PAGE: time in 100 ns = (tsc * scale >> 64) + offset; sequence 0: not valid. */
struct hv_tsc_page {
	uint32_t sequence, reserved;
	uint64_t scale;
	int64_t offset;
};
static_assert(sizeof(struct hv_tsc_page) == 24, "guest ABI");

static uint64_t page_time(const struct kvm_hv *hv, uint64_t tsc)
{
	return (uint64_t)((unsigned __int128)tsc * hv->tsc_scale >> 64) + hv->tsc_offset;
}

uint64_t hv_reference_counter(struct kvm_vcpu *vcpu)
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

void hv_set_reference_tsc(struct kvm_vcpu *vcpu, uint64_t data)
{
	struct kvm_arch *ka = vcpu->kvm->arch;

	pthread_mutex_lock(&ka->clock_lock);
	ka->hv.reference_tsc = data;
	ka->hv.page_set = false;
	pthread_mutex_unlock(&ka->clock_lock);
	kvm_make_request(KVM_REQ_CLOCK_UPDATE, vcpu);
}
