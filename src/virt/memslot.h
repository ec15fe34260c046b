/*
 * Memslots: what guest-physical memory there is (KVM API:
 * KVM_SET_USER_MEMORY_REGION).
 *
 * A struct kvm_memslots is one immutable generation of one address space. A
 * change builds the next generation, publishes it under RCU, tells the
 * listeners (the MMU) and frees the old one after a grace period; vCPUs run on
 * throughout.
 *
 * By id: O(1) (a two-level table whose chunks generations share, so that a
 * change copies 3 KiB and not one entry for each of 32,764 ids). By gfn:
 * O(log n), last-used cache first. By hva: every slot that intersects a range,
 * O(log n + hits) in the usual case.
 *
 * Field letters: virt/kvm.h.
 */
#ifndef USERKVM_VIRT_MEMSLOT_H
#define USERKVM_VIRT_MEMSLOT_H

#include <linux/kvm.h>

#include "lib/types.h"

struct kvm;
struct kvm_vcpu;

#define KVM_USER_MEM_SLOTS 32764 /* what a client may use */
/* The others, by Linux's numbers. */
#define APIC_ACCESS_PAGE_PRIVATE_MEMSLOT 32765
#define IDENTITY_PAGETABLE_PRIVATE_MEMSLOT 32766
#define KVM_MEM_SLOTS_NUM 32767	 /* with those the hypervisor keeps for itself */
#define KVM_MEM_MAX_NR_PAGES ((1UL << 31) - 1)
/* Not for clients: set while a slot is on its way out (KVM_MEMSLOT_INVALID). */
#define KVM_MEMSLOT_INVALID (1U << 16)

/* All of it (c), except the bits of dirty_bitmap (a). */
struct kvm_memory_slot {
	gfn_t base_gfn;
	uint64_t npages;
	hva_t userspace_addr;
	uint32_t flags;
	uint16_t id;
	uint16_t as_id;
	uint64_t *dirty_bitmap; /* one bit a page, NULL without logging or with rings; shared by generations */
	void *arch;		/* mmu room's per-slot data (write tracking, rmaps) */
};

#define KVM_ID_CHUNK_BITS 8
#define KVM_ID_CHUNK_SLOTS (1U << KVM_ID_CHUNK_BITS)
#define KVM_ID_CHUNKS ((KVM_MEM_SLOTS_NUM + KVM_ID_CHUNK_SLOTS - 1) / KVM_ID_CHUNK_SLOTS)
struct kvm_id_chunk {
	struct kvm_memory_slot *slot[KVM_ID_CHUNK_SLOTS];
};

struct kvm_memslots {
	uint64_t generation; /* (a) even: final; odd: an update is in progress */
	uint16_t as_id;	     /* (c) */
	uint32_t used_slots; /* (c) */
	uint32_t last_used;  /* (a) index into slots[], hint only */
	struct kvm_id_chunk **id_chunks; /* (c) KVM_ID_CHUNKS of them, NULL: no slot */
	struct kvm_memory_slot **by_hva; /* (c) the same slots by userspace_addr, ascending */
	hva_t *hva_max_end; /* (c) [i]: the greatest end of by_hva[0..i] */
	struct kvm_memory_slot *slots[]; /* (c) sorted by base_gfn, ascending */
};

/* What a change is; the listener hears of it before and after publication. */
enum kvm_mr_change { KVM_MR_CREATE, KVM_MR_DELETE, KVM_MR_MOVE, KVM_MR_FLAGS_ONLY };

struct kvm_memslot_listener {
	/* Before CREATE/MOVE: allocate per-slot data of `new`. -ENOMEM refuses the change. */
	/* -EINVAL refuses a range that cannot be mapped. old NULL for CREATE. */
	int (*prepare)(struct kvm *kvm, const struct kvm_memory_slot *old,
		       struct kvm_memory_slot *new, enum kvm_mr_change change);
	/*
	 * DELETE/MOVE: the slot is marked KVM_MEMSLOT_INVALID, nobody who saw it
	 * valid is still at work; drop every translation of it. May sleep.
	 */
	void (*flush_shadow)(struct kvm *kvm, struct kvm_memory_slot *old);
	/*
	 * After publication, nobody uses the old generation any more:
	 * write-protect, recover huge pages, nothing. old NULL for CREATE, new
	 * NULL for DELETE.
	 */
	void (*commit)(struct kvm *kvm, const struct kvm_memory_slot *old,
		       const struct kvm_memory_slot *new, enum kvm_mr_change change);
	/* The slot is gone for good: free slot->arch. */
	void (*free_slot)(struct kvm *kvm, struct kvm_memory_slot *slot);
	/* A new generation is current: MMIO entries of older ones are stale. */
	void (*generation)(struct kvm *kvm, uint64_t gen);
	/* The client has taken bits of a dirty log or entries of rings; all flushed. slots_lock held. */
	void (*log_taken)(struct kvm *kvm);
};
void kvm_register_memslot_listener(const struct kvm_memslot_listener *l); /* once */
/* Tell the listener so. */
void kvm_dirty_log_taken(struct kvm *kvm);

/* Empty sets for both address spaces. -ENOMEM. */
must_check int kvm_alloc_memslots(struct kvm *kvm);
/* Nobody uses the VM any more. */
void kvm_free_memslots(struct kvm *kvm);

/*
 * KVM API: KVM_SET_USER_MEMORY_REGION. Every check and error of Linux's:
 * -EINVAL (flags, alignment, address space, id, wrap-around, size, hva outside
 * user space, nothing to delete, resize or new hva of a live slot, read-only
 * toggled), -EEXIST (overlap), -ENOMEM. On an error nothing has changed.
 * The first form takes client ids only, the second takes slots_lock, the third
 * wants it held. They wait for a grace period: never inside an RCU section.
 */
must_check int kvm_vm_ioctl_set_memory_region(struct kvm *kvm,
					      const struct kvm_userspace_memory_region *mem);
must_check int kvm_set_memory_region(struct kvm *kvm,
				     const struct kvm_userspace_memory_region *mem);
must_check int __kvm_set_memory_region(struct kvm *kvm,
				       const struct kvm_userspace_memory_region *mem);

/*
 * All look-ups: within an RCU read-side section (lib/rcu.h), or under
 * slots_lock. What they return lives as long as that.
 */
struct kvm_memslots *__kvm_memslots(struct kvm *kvm, int as_id);
/* NULL when there is none. O(1). */
struct kvm_memory_slot *id_to_memslot(struct kvm_memslots *slots, int id);
/* The slot that holds gfn, invalid ones included; NULL when none. */
struct kvm_memory_slot *search_memslots(struct kvm_memslots *slots, gfn_t gfn);
/*
 * The next slot that intersects [start, end) of host memory. *pos: 0 to begin
 * with, kept by the caller, not to be interpreted. NULL when there is no more.
 */
struct kvm_memory_slot *memslots_next_in_hva_range(struct kvm_memslots *slots, hva_t start,
						   hva_t end, uint32_t *pos);
/*
 * Order, cross references between the tables, no overlap: number of faults
 * found. slots_lock held.
 */
int kvm_memslots_check(struct kvm *kvm);

struct kvm_memory_slot *gfn_to_memslot_as(struct kvm *kvm, int as_id, gfn_t gfn);
/* NULL for none or an invalid slot. as_id of the vCPU (vcpu->as_id): normal, or SMM. */
struct kvm_memory_slot *kvm_vcpu_gfn_to_memslot(struct kvm_vcpu *vcpu, gfn_t gfn);

static inline hva_t gfn_to_hva_memslot(const struct kvm_memory_slot *slot, gfn_t gfn)
{
	return slot->userspace_addr + ((gfn - slot->base_gfn) << PAGE_SHIFT);
}

/*
 * KVM API: KVM_GET_DIRTY_LOG. Copies the slot's bitmap to log->dirty_bitmap,
 * clears it and takes write access away, so that the next write is noticed
 * (with manual protection it only copies). -EINVAL (address space, id),
 * -ENOENT (no slot, no logging), -ENXIO (dirty rings), -EFAULT. Takes
 * slots_lock.
 */
must_check int kvm_vm_ioctl_get_dirty_log(struct kvm *kvm, const struct kvm_dirty_log *log);
/*
 * KVM API: KVM_CLEAR_DIRTY_LOG. Clears the bits that are set in
 * log->dirty_bitmap and takes write access from their pages. Errors as above;
 * -EINVAL for a range that is not whole words of the slot.
 */
must_check int kvm_vm_ioctl_clear_dirty_log(struct kvm *kvm, const struct kvm_clear_dirty_log *log);
/* KVM API: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2. -EINVAL. Takes slots_lock. */
#define KVM_DIRTY_LOG_MANUAL_CAPS \
	(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET)
must_check int kvm_enable_manual_dirty_log(struct kvm *kvm, uint64_t options);
/* The MMU's part of it: bits of mask, of the 64 pages from slot->base_gfn + offset. */
typedef void kvm_write_protect_fn(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t offset,
				  uint64_t mask);
void kvm_register_write_protect(kvm_write_protect_fn *fn);
/* Call it; nothing to do for an empty mask. slots_lock held; the flush is the caller's. */
void kvm_dirty_log_protect(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t offset,
			   uint64_t mask);

/* Writes to the slot are logged, in its bitmap or in the vCPUs' rings. */
static inline bool kvm_slot_dirty_track_enabled(const struct kvm_memory_slot *slot)
{
	return slot->flags & KVM_MEM_LOG_DIRTY_PAGES;
}

/* Words of a slot's dirty bitmap. */
static inline size_t kvm_dirty_bitmap_words(const struct kvm_memory_slot *slot)
{
	return (slot->npages + 63) / 64;
}

/* Mark a page dirty in the slot's bitmap (and ring). Any thread. */
void mark_page_dirty_in_slot(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t gfn);

/*
 * The hypervisor's own accesses to guest memory, page by page through the
 * memslots (kvm_read_guest, kvm_write_guest). -EFAULT without a slot, on a
 * read-only slot (write) or a vanished mapping. Writes mark pages dirty.
 * They take the RCU read lock themselves, and may wait for the client's page
 * before: best called with nothing held.
 */
/* host memory behind gpa for one access that stays in its page; 0 when there is none. */
hva_t kvm_vcpu_gpa_to_hva(struct kvm_vcpu *vcpu, gpa_t gpa, bool write);
/* Memory that the guest may write; whether the client has it mapped is asked at its use. */
bool kvm_gpa_is_writable(struct kvm *kvm, int as_id, gpa_t gpa);
must_check int kvm_read_guest(struct kvm *kvm, int as_id, gpa_t gpa, void *data, size_t len);
must_check int kvm_write_guest(struct kvm *kvm, int as_id, gpa_t gpa, const void *data, size_t len);
must_check int kvm_vcpu_read_guest(struct kvm_vcpu *vcpu, gpa_t gpa, void *data, size_t len);
must_check int kvm_vcpu_write_guest(struct kvm_vcpu *vcpu, gpa_t gpa, const void *data, size_t len);
/*
 * An atomic exchange that stays in gpa's page, by `exchange` with the page's memory: 1 done (the page is dirty then),
 * 0 the memory is not what was expected, -EFAULT. The slot stays while it runs, which must not wait.
 */
typedef int kvm_exchange_fn(void *at, const void *what);
must_check int kvm_vcpu_exchange_guest(struct kvm_vcpu *vcpu, gpa_t gpa, kvm_exchange_fn *exchange, const void *what);
/* The exchange of an aligned entry of a paging structure. */
struct kvm_entry_exchange {
	uint64_t old, val;
	unsigned size; /* bytes: 4 or 8 */
};
kvm_exchange_fn kvm_exchange_entry;

#endif
