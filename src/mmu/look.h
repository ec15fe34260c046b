/*
 * Looking at the tables from beside: no lock of the MMU, no effect on them.
 *
 * Every walk is an RCU read-side section of bounded length (1 GiB of guest
 * memory at most), so that zaps and memslot changes wait no longer for it than
 * for a page fault. What is seen is therefore not one moment's picture, but
 * every entry is one that stood there.
 *
 * EPT tables only: with ept=0 there is nothing here to see. EPT02, an L2's, is of shadow pages: look_l2.c.
 */
#ifndef USERKVM_MMU_LOOK_H
#define USERKVM_MMU_LOOK_H

#include "mmu/mmu.h"

struct kvm_mmu_root_view {
	int as_id;
	int level;
	bool ad; /* accessed and dirty bits are kept */
	hpa_t hpa;
};

/* One entry met on the way down. */
struct kvm_mmu_step {
	int level;
	unsigned index;
	hpa_t table;
	uint64_t entry;
};
#define KVM_MMU_MAX_STEPS 5

/* The VM's index-th root. False: there is none. */
bool kvm_mmu_look_root(struct kvm *kvm, unsigned index, struct kvm_mmu_root_view *v);
/* The way from that root to gpa: number of steps. 0: out of the tables' reach. */
int kvm_mmu_look_walk(struct kvm *kvm, unsigned root, gpa_t gpa,
		      struct kvm_mmu_step step[KVM_MMU_MAX_STEPS]);
/*
 * Each leaf and each MMIO entry of [start, end), upwards, until fn says false.
 * fn runs in an RCU read-side section.
 */
void kvm_mmu_look_leaves(struct kvm *kvm, unsigned root, gpa_t start, gpa_t end,
			 bool (*fn)(void *arg, gpa_t gpa, int level, uint64_t entry), void *arg);

/*
 * How the vCPU's guest pages: its control registers as of its last VM exit (it
 * is kicked for one when it is in the guest). pdptr: PAE only.
 */
struct kvm_mmu_guest_view {
	int level; /* 0 no paging, 2, 3, 4 */
	uint64_t cr0, cr3, cr4, efer;
	uint64_t pdptr[4];
	int maxphyaddr;
	uint32_t as_id;
};
void kvm_mmu_look_guest(struct kvm_vcpu *vcpu, struct kvm_mmu_guest_view *v);

/*
 * The L2 that a vCPU runs on EPT02, or was the last to run: where the vCPU is at rest (kvm_vcpu_call()).
 */
struct kvm_mmu_l2_view {
	bool any;     /* it has run one with EPT12 */
	bool current; /* it runs now */
	uint64_t eptp12;
	bool execonly; /* L1 is offered execute-only pages */
	int maxphyaddr; /* L1's */
	uint32_t as_id;
	uint32_t role; /* of the root */
};
void kvm_mmu_look_l2(struct kvm_vcpu *vcpu, struct kvm_mmu_l2_view *v);

/* A table of EPT02, copied. */
struct kvm_mmu_ept02_table {
	hpa_t hpa;
	bool unsync; /* it may lag behind EPT12's until INVEPT */
	bool direct; /* it stands for a large page of EPT12's, cut */
	uint64_t entry[512];
};
/* The one of `level` on the way to L2's gpa. False: there is none. Any thread; takes mmu_lock for reading. */
bool kvm_mmu_look_ept02(struct kvm *kvm, const struct kvm_mmu_l2_view *v, gpa_t gpa, int level,
			struct kvm_mmu_ept02_table *t);
/* A page that is a table of EPT12's, shadowed: L1 and L2 may not write it unnoticed. */
bool kvm_mmu_look_tracked(struct kvm *kvm, gpa_t gpa);

/* The head of the list of struct kvm_mmu_vm: for core files (control/beacon.h). */
const void *kvm_mmu_look_vms(void);

#endif
