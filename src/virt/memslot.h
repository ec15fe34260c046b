/*
 * Memslots: what guest-physical memory there is (KVM API:
 * KVM_SET_USER_MEMORY_REGION).
 *
 * A struct kvm_memslots is one immutable generation of one address space. A
 * change builds the next generation, publishes it under RCU, tells the
 * listeners (the MMU) and frees the old one after a grace period; vCPUs run on
 * throughout.
 *
 * By id: O(1) (id_to_index). By gfn: O(log n), last-used cache first. By hva:
 * every slot that intersects a range.
 */
#ifndef USERKVM_VIRT_MEMSLOT_H
#define USERKVM_VIRT_MEMSLOT_H

#include <linux/kvm.h>

#include "lib/types.h"

struct kvm;
struct kvm_vcpu;

#define KVM_USER_MEM_SLOTS 32764
#define KVM_MEM_MAX_NR_PAGES ((1UL << 31) - 1)
/* Not for clients: set while a slot is on its way out (KVM_MEMSLOT_INVALID). */
#define KVM_MEMSLOT_INVALID (1U << 16)

struct kvm_memory_slot {
	gfn_t base_gfn;
	uint64_t npages;
	hva_t userspace_addr;
	uint32_t flags;
	uint16_t id;
	uint16_t as_id;
	uint64_t *dirty_bitmap; /* one bit a page, NULL without logging; shared by generations */
	void *arch;		/* mmu room's per-slot data (write tracking, rmaps) */
};

struct kvm_memslots {
	uint64_t generation; /* even: final; odd: an update is in progress */
	uint32_t used_slots;
	uint32_t last_used;  /* (a) hint only */
	int32_t *id_to_index; /* KVM_USER_MEM_SLOTS entries, -1 none */
	struct kvm_memory_slot *slots[]; /* sorted by base_gfn, ascending */
};

/* What a change is; the listener hears of it before and after publication. */
enum kvm_mr_change { KVM_MR_CREATE, KVM_MR_DELETE, KVM_MR_MOVE, KVM_MR_FLAGS_ONLY };

struct kvm_memslot_listener {
	/* Before CREATE/MOVE: allocate per-slot data of `new`. -ENOMEM refuses the change. */
	int (*prepare)(struct kvm *kvm, const struct kvm_memory_slot *old,
		       struct kvm_memory_slot *new, enum kvm_mr_change change);
	/* DELETE/MOVE: the slot is invisible now, drop every translation of it. */
	void (*flush_shadow)(struct kvm *kvm, struct kvm_memory_slot *old);
	/* After publication: write-protect, recover huge pages, nothing. */
	void (*commit)(struct kvm *kvm, const struct kvm_memory_slot *old,
		       const struct kvm_memory_slot *new, enum kvm_mr_change change);
	/* The slot is gone for good. */
	void (*free_slot)(struct kvm *kvm, struct kvm_memory_slot *slot);
	/* A new generation is current: MMIO entries of older ones are stale. */
	void (*generation)(struct kvm *kvm, uint64_t gen);
};
void kvm_register_memslot_listener(const struct kvm_memslot_listener *l); /* once */

must_check int kvm_alloc_memslots(struct kvm *kvm);
void kvm_free_memslots(struct kvm *kvm);

/*
 * KVM API: KVM_SET_USER_MEMORY_REGION. Every check and error of Linux's.
 * Takes slots_lock.
 */
must_check int kvm_vm_ioctl_set_memory_region(struct kvm *kvm,
					      const struct kvm_userspace_memory_region *mem);
must_check int kvm_set_memory_region(struct kvm *kvm,
				     const struct kvm_userspace_memory_region *mem);
must_check int __kvm_set_memory_region(struct kvm *kvm,
				       const struct kvm_userspace_memory_region *mem);

/* All look-ups: within an RCU read-side section, or under slots_lock. */
struct kvm_memslots *__kvm_memslots(struct kvm *kvm, int as_id);
struct kvm_memory_slot *id_to_memslot(struct kvm_memslots *slots, int id);
struct kvm_memory_slot *gfn_to_memslot_as(struct kvm *kvm, int as_id, gfn_t gfn);
/* NULL for none or an invalid slot. as_id of the vCPU: normal, or SMM. */
struct kvm_memory_slot *kvm_vcpu_gfn_to_memslot(struct kvm_vcpu *vcpu, gfn_t gfn);

static inline hva_t gfn_to_hva_memslot(const struct kvm_memory_slot *slot, gfn_t gfn)
{
	return slot->userspace_addr + ((gfn - slot->base_gfn) << PAGE_SHIFT);
}

/* Mark a page dirty in the slot's bitmap (and ring). Any thread. */
void mark_page_dirty_in_slot(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t gfn);

/*
 * The hypervisor's own accesses to guest memory, page by page through the
 * memslots (kvm_read_guest, kvm_write_guest). -EFAULT without a slot, on a
 * read-only slot (write) or a vanished mapping. Writes mark pages dirty.
 * They take the RCU read lock themselves.
 */
must_check int kvm_read_guest(struct kvm *kvm, int as_id, gpa_t gpa, void *data, size_t len);
must_check int kvm_write_guest(struct kvm *kvm, int as_id, gpa_t gpa, const void *data, size_t len);
must_check int kvm_vcpu_read_guest(struct kvm_vcpu *vcpu, gpa_t gpa, void *data, size_t len);
must_check int kvm_vcpu_write_guest(struct kvm_vcpu *vcpu, gpa_t gpa, const void *data, size_t len);

#endif
