/*
 * Between the parts of mmu_check(): what has been found so far. And its
 * standing order: with USERKVM_CHECK=1 every operation of the MMU is followed by
 * a check, and a fault found ends the process.
 */
#ifndef USERKVM_MMU_CHECK_H
#define USERKVM_MMU_CHECK_H

#include "mmu/internal.h"

#define MMU_CHECK_SUSPECTS 64

struct mmu_check_result {
	const char *after; /* the operation; NULL: somebody asks, tell with USERKVM_LOG=info */
	int faults;
	unsigned nr_suspects;
	struct {
		int as_id;
		gfn_t gfn;
	} suspect[MMU_CHECK_SUSPECTS];
};

/* One more fault, told in one line. */
void mmu_check_fault(struct mmu_check_result *r, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/*
 * The page of a logged slot is clean and can be written unnoticed: a fault,
 * unless somebody is about to mark it, having made it so.
 */
void mmu_check_suspect(struct mmu_check_result *r, const struct kvm_memory_slot *slot, gfn_t gfn);

/* --- ept02_check.c: slots_lock, track_lock, RCU, mmu_lock --- */
void ept02_check(struct kvm *kvm, struct mmu_check_result *r);
bool ept02_check_wanted(void);

/*
 * With USERKVM_CHECK=1 or ept02: mmu_check(), and abort() after the faults have been told.
 * Nothing otherwise. No lock but slots_lock, no RCU section. If another thread
 * is changing slots, its own check comes after and this one is left out.
 */
void mmu_verify(struct kvm *kvm, const char *after);
/* slots_lock held. */
void mmu_verify_locked(struct kvm *kvm, const char *after);

#endif
