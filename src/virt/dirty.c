/*
 * The dirty bitmap of a slot (KVM API: KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG).
 *
 * Bits are set by whoever lets a write through (page faults, page-modification
 * logs, our own accesses) and taken by the client.
 *
 *	guest writes ─→ fault or PML ─→ bit ─→ client
 *	                    ↑                    │ bit taken, then
 *	                    └── write access / D ┘ taken from the entries, flush
 *
 * Invariants
 * 1. A page that can be written unnoticed has its bit set, or is about to have
 *    it set by a thread in KVM_RUN. So bits are taken first, write access
 *    after, and the flush comes before the client's ioctl returns.
 * 2. With manual protection a bit stays set, and its page writable, until
 *    KVM_CLEAR_DIRTY_LOG names it.
 * 3. With rings (dirty_ring.h) there are no bitmaps.
 */

#include "host/fault.h"
#include "lib/error.h"
#include "lib/own.h"
#include "virt/dirty_ring.h"
#include "virt/kvm.h"

static kvm_write_protect_fn *write_protect;

void kvm_register_write_protect(kvm_write_protect_fn *fn)
{
	write_protect = fn;
}

void kvm_dirty_log_protect(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t offset, uint64_t mask)
{
	if (write_protect && mask)
		write_protect(kvm, slot, offset, mask);
}

void mark_page_dirty_in_slot(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t gfn)
{
	uint64_t rel, bit;

	if (likely(!slot || !kvm_slot_dirty_track_enabled(slot)))
		return;
	rel = gfn - slot->base_gfn;
	if (kvm->dirty_ring_size) {
		kvm_dirty_ring_push(kvm, slot, rel);
		return;
	}
	bit = BIT_ULL(rel % 64);
	if (!(READ_ONCE(slot->dirty_bitmap[rel / 64]) & bit))
		__atomic_fetch_or(&slot->dirty_bitmap[rel / 64], bit, __ATOMIC_RELEASE);
}

/*
 * What processors have noted by themselves (PML) reaches the bitmaps when they
 * leave the guest.
 */
static void sync_dirty_log(struct kvm *kvm)
{
	if (kvm->cpu_dirty_logging)
		kvm_make_all_cpus_request(kvm, KVM_REQ_OUTSIDE_GUEST);
}

/* slots_lock held. The slot of a request, or NULL with the error in *r. */
static struct kvm_memory_slot *logged_slot(struct kvm *kvm, uint32_t as_slot, int *r)
{
	uint32_t as_id = as_slot >> 16, id = (uint16_t)as_slot;
	struct kvm_memory_slot *slot;

	*r = 0;
	if (kvm->dirty_ring_size) {
		*r = err_born(ENXIO, "dirty log: the VM has dirty rings");
		return NULL;
	}
	if (as_id >= KVM_ADDRESS_SPACE_NUM || id >= KVM_USER_MEM_SLOTS) {
		*r = err_born(EINVAL, "dirty log: no slot %#x", as_slot);
		return NULL;
	}
	slot = id_to_memslot(__kvm_memslots(kvm, (int)as_id), (int)id);
	if (slot && slot->dirty_bitmap)
		return slot;
	*r = err_born(ENOENT, "dirty log: slot %#x is not logged", as_slot);
	return NULL;
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
		any |= copy[i] != 0;
		kvm_dirty_log_protect(kvm, slot, i * 64, copy[i]);
	}
	return any;
}

static int get_dirty_log(struct kvm *kvm, const struct kvm_dirty_log *log)
{
	struct kvm_memory_slot *slot;
	uint64_t *copy;
	size_t words;
	int r;

	slot = logged_slot(kvm, log->slot, &r);
	if (!slot)
		return r;
	sync_dirty_log(kvm);
	words = kvm_dirty_bitmap_words(slot);
	if (kvm->manual_dirty_log_protect)
		return host_copy_to(log->dirty_bitmap, slot->dirty_bitmap, words * sizeof(*copy));
	copy = own_malloc(words * sizeof(*copy));
	if (!copy)
		return err_born(ENOMEM, "dirty log: no memory for the copy");
	if (take_bits(kvm, slot, copy, words))
		kvm_flush_remote_tlbs(kvm);
	r = host_copy_to(log->dirty_bitmap, copy, words * sizeof(*copy));
	own_free(copy);
	return r;
}

int kvm_vm_ioctl_get_dirty_log(struct kvm *kvm, const struct kvm_dirty_log *log)
{
	int r;

	pthread_mutex_lock(&kvm->slots_lock);
	r = get_dirty_log(kvm, log);
	kvm_dirty_log_taken(kvm);
	pthread_mutex_unlock(&kvm->slots_lock);
	return r;
}

/* slots_lock held. Clear what is set in given[]: words from word `first` of the slot. */
static void clear_bits(struct kvm *kvm, struct kvm_memory_slot *slot, size_t first,
		       const uint64_t *given, size_t words)
{
	bool any = false;
	size_t i;

	for (i = 0; i < words; i++) {
		uint64_t mask = given[i];

		if (!mask)
			continue;
		mask &= __atomic_fetch_and(&slot->dirty_bitmap[first + i], ~mask, __ATOMIC_ACQ_REL);
		any |= mask != 0;
		kvm_dirty_log_protect(kvm, slot, (first + i) * 64, mask);
	}
	if (any)
		kvm_flush_remote_tlbs(kvm);
}

static int clear_dirty_log(struct kvm *kvm, const struct kvm_clear_dirty_log *log)
{
	struct kvm_memory_slot *slot;
	uint64_t first = log->first_page, n = log->num_pages;
	uint64_t *given;
	size_t words;
	int r;

	slot = logged_slot(kvm, log->slot, &r);
	if (first & 63 && (slot || r == -ENOENT))
		return err_born(EINVAL, "dirty log: first page %llu", (unsigned long long)first);
	if (!slot)
		return r;
	if (first > slot->npages || n > slot->npages - first || (n < slot->npages - first && n & 63))
		return err_born(EINVAL, "dirty log: pages %llu + %llu of %llu", (unsigned long long)first,
				(unsigned long long)n, (unsigned long long)slot->npages);
	words = (n + 63) / 64;
	if (!words)
		return 0;
	given = own_malloc(words * sizeof(*given));
	if (!given)
		return err_born(ENOMEM, "dirty log: no memory for the copy");
	sync_dirty_log(kvm);
	r = host_copy_from(given, log->dirty_bitmap, words * sizeof(*given));
	if (!r) {
		/* Bits beyond the slot's end mean nothing. */
		if (n % 64)
			given[words - 1] &= BIT_ULL(n % 64) - 1;
		clear_bits(kvm, slot, first / 64, given, words);
	}
	own_free(given);
	return r;
}

int kvm_vm_ioctl_clear_dirty_log(struct kvm *kvm, const struct kvm_clear_dirty_log *log)
{
	int r;

	pthread_mutex_lock(&kvm->slots_lock);
	r = clear_dirty_log(kvm, log);
	kvm_dirty_log_taken(kvm);
	pthread_mutex_unlock(&kvm->slots_lock);
	return r;
}

int kvm_enable_manual_dirty_log(struct kvm *kvm, uint64_t options)
{
	uint64_t allowed = options & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE
				   ? KVM_DIRTY_LOG_MANUAL_CAPS : KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;

	if (options & ~allowed)
		return err_born(EINVAL, "manual dirty log: options %#llx", (unsigned long long)options);
	pthread_mutex_lock(&kvm->slots_lock);
	kvm->manual_dirty_log_protect = options;
	pthread_mutex_unlock(&kvm->slots_lock);
	return 0;
}
