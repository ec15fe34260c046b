/*
 * Guest-physical pages of the hypervisor's own. See private_page.h.
 *
 * Invariant: the slot is in both address spaces or in none.
 * Lock: slots_lock, the caller's.
 */
#include <sys/mman.h>

#include "lib/error.h"
#include "x86/private_page.h"

static int set_slot(struct kvm *kvm, uint32_t slot, gpa_t gpa, hva_t hva, uint64_t size)
{
	const struct kvm_userspace_memory_region r = {
		.slot = slot,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = hva,
	};

	return __kvm_set_memory_region(kvm, &r);
}

static int make_slots(struct kvm *kvm, uint32_t slot, gpa_t gpa, hva_t hva)
{
	int r = 0;

	for (uint32_t as = 0; as < KVM_ADDRESS_SPACE_NUM && !r; as++) {
		r = set_slot(kvm, slot | as << 16, gpa, hva, PAGE_SIZE);
		if (r && as)
			(void)set_slot(kvm, slot, gpa, hva, 0);
	}
	return r;
}

int kvm_private_page_create(struct kvm *kvm, uint32_t slot, gpa_t gpa, hva_t *page)
{
	void *p = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int r;

	if (p == MAP_FAILED)
		return err_born(ENOMEM, "no memory for the private page at %#llx", (unsigned long long)gpa);
	r = make_slots(kvm, slot, gpa, (hva_t)(uintptr_t)p);
	if (r)
		munmap(p, PAGE_SIZE);
	else
		*page = (hva_t)(uintptr_t)p;
	return r;
}

void kvm_private_page_free(hva_t page)
{
	if (page)
		munmap((void *)(uintptr_t)page, PAGE_SIZE);
}
