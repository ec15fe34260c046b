/*
 * The dirty bitmap of a slot.
 *
 * Bits are set by whoever lets a write through (page faults, our own accesses)
 * and taken by KVM_GET_DIRTY_LOG. Invariant: a page the guest can write without
 * a fault has its bit set; so bits are taken first, write access after, and the
 * flush comes before the client sees the bitmap.
 */
#include <stdlib.h>

#include "host/fault.h"
#include "lib/error.h"
#include "virt/kvm.h"

static kvm_write_protect_fn *write_protect;

void kvm_register_write_protect(kvm_write_protect_fn *fn)
{
	write_protect = fn;
}

void mark_page_dirty_in_slot(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t gfn)
{
	uint64_t rel, bit;

	if (likely(!slot || !slot->dirty_bitmap))
		return;
	rel = gfn - slot->base_gfn;
	bit = BIT_ULL(rel % 64);
	if (!(READ_ONCE(slot->dirty_bitmap[rel / 64]) & bit))
		__atomic_fetch_or(&slot->dirty_bitmap[rel / 64], bit, __ATOMIC_RELAXED);
}

/* slots_lock held. Takes the bits into copy[]; true when there were any. */
static bool take_bits(struct kvm *kvm, struct kvm_memory_slot *slot, uint64_t *copy, size_t words)
{
	bool any = false;
	size_t i;

	for (i = 0; i < words; i++) {
		copy[i] = READ_ONCE(slot->dirty_bitmap[i])
				  ? __atomic_exchange_n(&slot->dirty_bitmap[i], 0, __ATOMIC_ACQ_REL)
				  : 0;
		if (!copy[i])
			continue;
		any = true;
		if (write_protect)
			write_protect(kvm, slot, i * 64, copy[i]);
	}
	return any;
}

int kvm_vm_ioctl_get_dirty_log(struct kvm *kvm, const struct kvm_dirty_log *log)
{
	uint32_t as_id = log->slot >> 16, id = (uint16_t)log->slot;
	struct kvm_memory_slot *slot;
	uint64_t *copy;
	size_t words;
	int r;

	if (as_id >= KVM_ADDRESS_SPACE_NUM || id >= KVM_USER_MEM_SLOTS)
		return err_born(EINVAL, "dirty log: no slot %#x", log->slot);
	pthread_mutex_lock(&kvm->slots_lock);
	slot = id_to_memslot(__kvm_memslots(kvm, (int)as_id), (int)id);
	if (!slot || !slot->dirty_bitmap) {
		r = err_born(ENOENT, "dirty log: slot %#x is not logged", log->slot);
		goto out_unlock;
	}
	words = kvm_dirty_bitmap_words(slot);
	copy = malloc(words * sizeof(*copy));
	if (!copy) {
		r = err_born(ENOMEM, "dirty log: no memory for the copy");
		goto out_unlock;
	}
	if (take_bits(kvm, slot, copy, words))
		kvm_flush_remote_tlbs(kvm);
	r = host_copy_to(log->dirty_bitmap, copy, words * sizeof(*copy));
	free(copy);
out_unlock:
	pthread_mutex_unlock(&kvm->slots_lock);
	return r;
}
