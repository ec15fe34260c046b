/*
 * /sys/kernel/mm/page_idle/bitmap as its file asks for it (mmu.h): pages are aged in every VM,
 * then flagged (idle_bits.c); or looked at in every VM, then their flags.
 *
 * Locks: vms_lock.
 */
#include "lib/bug.h"
#include "lib/error.h"
#include "mmu/internal.h"

/* vms_lock. Nothing is flagged before every processor has forgotten. */
static int set_idle(struct kvm_mmu_vm *vms, const hva_t *hva, unsigned n)
{
	uint64_t used = 0;
	int r = 0;

	for (struct kvm_mmu_vm *vm = vms; vm; vm = vm->next_vm) {
		uint64_t young = 0;

		mmu_age_begin(vm->kvm);
		for (unsigned i = 0; i < n; i++)
			if (mmu_age_hva(vm->kvm, hva[i], hva[i] + PAGE_SIZE, false, &young))
				used |= BIT_ULL(i);
		mmu_age_end(vm->kvm, young);
	}
	for (unsigned i = 0; i < n && !r; i++)
		if (used & BIT_ULL(i))
			r = mmu_idle_set(hva[i]);
	return r;
}

int kvm_mmu_set_idle(const hva_t *hva, unsigned n)
{
	int r;

	if (bug_on(n > 64) || !kvm_mmu_params()->ept || !mmu_have_vms())
		return 0;
	r = set_idle(mmu_vms_lock(), hva, n);
	mmu_vms_unlock();
	return r;
}

/* vms_lock. */
static bool test_idle(struct kvm_mmu_vm *vms, hva_t hva)
{
	uint64_t young = 0;
	bool used = false;

	if (!mmu_idle_test(hva))
		return false;
	for (struct kvm_mmu_vm *vm = vms; vm; vm = vm->next_vm)
		used |= mmu_age_hva(vm->kvm, hva, hva + PAGE_SIZE, true, &young);
	if (used && !young)
		return mmu_idle_test(hva);
	mmu_idle_clear(hva, hva + PAGE_SIZE);
	return false;
}

uint64_t kvm_mmu_test_idle(const hva_t *hva, unsigned n)
{
	struct kvm_mmu_vm *vms;
	uint64_t found = 0;

	if (bug_on(n > 64) || !READ_ONCE(mmu_idle_in_use) || !mmu_have_vms())
		return 0;
	vms = mmu_vms_lock();
	for (unsigned i = 0; i < n; i++)
		if (test_idle(vms, hva[i]))
			found |= BIT_ULL(i);
	mmu_vms_unlock();
	return found;
}

bool kvm_mmu_has_idle_flag(hva_t hva)
{
	return READ_ONCE(mmu_idle_in_use) && mmu_idle_test(hva);
}

void kvm_mmu_clear_idle(hva_t hva)
{
	mmu_idle_forget(hva, hva + PAGE_SIZE);
}
