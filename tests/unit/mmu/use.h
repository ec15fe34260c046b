/*
 * The guest accesses memory, as far as the MMU can see it.
 */
#ifndef TESTS_MMU_USE_H
#define TESTS_MMU_USE_H

#include "fixture.h"

#include "mmu/spte.h"

static inline void touch(gpa_t gpa, uint64_t error_code)
{
	assert_true(goes_on(take_fault(vcpu, gpa, error_code)));
}

static inline bool ad(void)
{
	return kvm_mmu_params()->eptad;
}

/* As the processor would. */
static inline void use(gpa_t gpa, uint64_t error_code)
{
	uint64_t *e, old;
	int level;

	if (!ad()) {
		touch(gpa, error_code);
		return;
	}
	old = ept_entry(gpa, &level);
	assert_true(spte_permits(old, error_code & PFERR_WRITE_MASK, false));
	e = (uint64_t *)(uintptr_t)fake.loaded_root;
	for (int l = 4; l > level; l--)
		e = (uint64_t *)(uintptr_t)(e[(gpa >> (12 + 9 * (l - 1))) & 511] & EPT_ADDR_MASK);
	e += (gpa >> (12 + 9 * (level - 1))) & 511;
	__atomic_fetch_or(e, EPT_ACCESSED | (error_code & PFERR_WRITE_MASK ? EPT_DIRTY : 0), __ATOMIC_ACQ_REL);
}

#endif
