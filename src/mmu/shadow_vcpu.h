/*
 * The vCPU's part of the shadow MMU: roots in use and remembered, pages taken
 * before the lock.
 *
 * Owner thread only; roots are changed with mmu_lock held.
 */
#ifndef USERKVM_MMU_SHADOW_VCPU_H
#define USERKVM_MMU_SHADOW_VCPU_H

#include "mmu/shadow.h"

/* One way down from the root, and four PAE roots. */
#define SHADOW_CACHE_PAGES 8
#define KVM_MMU_NUM_PREV_ROOTS 3

/* A root and the CR3 (PCID included) it was loaded for. */
struct shadow_root {
	struct shadow_page *sp; /* NULL: none */
	uint64_t cr3;
};

struct shadow_vcpu {
	struct shadow_page *cache[SHADOW_CACHE_PAGES];
	unsigned nr_cached;
	/*
	 * PAE: what GUEST_CR3 points to, below 4 GiB because CR3 has 32 bits in
	 * that mode; and the pages behind its four entries.
	 */
	uint64_t *pae_root;
	struct shadow_page *pae[NR_PAE_ROOTS];
	struct shadow_root root; /* 4-level; sp NULL without one */
	struct shadow_root prev[KVM_MMU_NUM_PREV_ROOTS];
	bool loaded;
};

#endif
