/*
 * Dirty rings. See dirty_ring.h.
 *
 * Locks: ring->lock among those who push (the vCPU's thread, hardly ever
 * another); slots_lock for resetting. dirty_index is read without a lock.
 */
#include "lib/own.h"
#include "trace/trace.h"
#include "virt/dirty_ring.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/anon_file.h"
#include "lib/error.h"
#include "virt/internal.h"

int kvm_enable_dirty_ring(struct kvm *kvm, uint64_t size_bytes)
{
	int r = 0;

	if (!size_bytes || size_bytes & (size_bytes - 1) || size_bytes < PAGE_SIZE ||
	    size_bytes < KVM_DIRTY_RING_RSVD_ENTRIES * sizeof(struct kvm_dirty_gfn))
		return err_born(EINVAL, "dirty ring of %llu bytes", (unsigned long long)size_bytes);
	if (size_bytes > KVM_DIRTY_RING_MAX_ENTRIES * sizeof(struct kvm_dirty_gfn))
		return err_born(E2BIG, "dirty ring of %llu bytes", (unsigned long long)size_bytes);
	pthread_mutex_lock(&kvm->lock);
	if (kvm->dirty_ring_size || kvm->nr_created_vcpus)
		r = err_born(EINVAL, "dirty rings a second time, or after the first vCPU");
	else
		kvm->dirty_ring_size = (uint32_t)size_bytes;
	pthread_mutex_unlock(&kvm->lock);
	return r;
}

int kvm_dirty_ring_alloc(struct kvm_vcpu *vcpu)
{
	struct kvm_dirty_ring *ring = &vcpu->dirty_ring;
	uint32_t bytes = vcpu->kvm->dirty_ring_size;
	off_t offset = KVM_DIRTY_LOG_PAGE_OFFSET * (off_t)PAGE_SIZE;
	void *p;

	pthread_mutex_init(&ring->lock, NULL);
	if (!bytes)
		return 0;
	if (lib_anon_file_grow(vcpu->run_memfd, (uint64_t)offset + bytes))
		return err_born(ENOMEM, "vCPU %u: no room for a dirty ring", vcpu->vcpu_id);
	p = own_map_file(bytes, PROT_READ | PROT_WRITE, vcpu->run_memfd, offset);
	if (!p)
		return err_born(ENOMEM, "vCPU %u: a dirty ring cannot be mapped", vcpu->vcpu_id);
	ring->gfns = p;
	ring->size = bytes / (uint32_t)sizeof(struct kvm_dirty_gfn);
	ring->soft_limit = ring->size - KVM_DIRTY_RING_RSVD_ENTRIES;
	return 0;
}

void kvm_dirty_ring_free(struct kvm_vcpu *vcpu)
{
	struct kvm_dirty_ring *ring = &vcpu->dirty_ring;

	own_pages_free(ring->gfns);
	ring->gfns = NULL;
	pthread_mutex_destroy(&ring->lock);
}

static uint32_t ring_used(const struct kvm_dirty_ring *ring)
{
	return __atomic_load_n(&ring->dirty_index, __ATOMIC_ACQUIRE) -
	       __atomic_load_n(&ring->reset_index, __ATOMIC_ACQUIRE);
}

bool kvm_dirty_ring_soft_full(struct kvm_vcpu *vcpu)
{
	return vcpu->dirty_ring.size && ring_used(&vcpu->dirty_ring) >= vcpu->dirty_ring.soft_limit;
}

static int ring_index(const struct kvm_dirty_ring *ring)
{
	return (int)container_of(ring, struct kvm_vcpu, dirty_ring)->vcpu_idx;
}

/* False when it is full. */
static bool push(struct kvm_dirty_ring *ring, uint32_t slot, uint64_t offset)
{
	struct kvm_dirty_gfn *e;
	bool room;

	pthread_mutex_lock(&ring->lock);
	room = ring_used(ring) < ring->size;
	if (room) {
		e = &ring->gfns[ring->dirty_index & (ring->size - 1)];
		e->slot = slot;
		e->offset = offset;
		/* Slot and offset first: the client reads them after it has seen the flag. */
		__atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE);
		__atomic_store_n(&ring->dirty_index, ring->dirty_index + 1, __ATOMIC_RELEASE);
		TRACE(kvm, kvm_dirty_ring_push, ring_index(ring), ring->dirty_index,
		      ring->reset_index, slot, offset);
	}
	pthread_mutex_unlock(&ring->lock);
	return room;
}

void kvm_dirty_ring_push(struct kvm *kvm, const struct kvm_memory_slot *slot, uint64_t offset)
{
	struct kvm_vcpu *own = kvm_get_running_vcpu(), *vcpu;
	uint32_t id = (uint32_t)slot->as_id << 16 | slot->id, i;

	if (own && own->kvm == kvm && push(&own->dirty_ring, id, offset))
		return;
	/* Writes from outside KVM_RUN, rare as they are, must not be lost. */
	kvm_for_each_vcpu(i, vcpu, kvm)
		if (push(&vcpu->dirty_ring, id, offset))
			return;
	if (i)
		kvm_vm_bugged(kvm, "every dirty ring is full beyond its limit");
}

/* --- giving entries back --- */

/* Neighbouring pages of one slot, to be protected together. */
struct batch {
	uint32_t slot;
	uint64_t offset, mask;
};

/* slots_lock held. */
static void protect_batch(struct kvm *kvm, const struct batch *b)
{
	uint32_t as_id = b->slot >> 16, id = (uint16_t)b->slot;
	struct kvm_memory_slot *slot;

	if (!b->mask || as_id >= KVM_ADDRESS_SPACE_NUM || id >= KVM_USER_MEM_SLOTS)
		return;
	slot = id_to_memslot(__kvm_memslots(kvm, (int)as_id), (int)id);
	if (!slot || b->offset >= slot->npages ||
	    b->offset + 63 - (unsigned)__builtin_clzll(b->mask) >= slot->npages)
		return;
	kvm_dirty_log_protect(kvm, slot, b->offset, b->mask);
}

/* Put a page into the batch; false when it does not fit there. */
static bool join_batch(struct batch *b, uint32_t slot, uint64_t offset)
{
	if (!b->mask) {
		*b = (struct batch){ slot, offset, 1 };
		return true;
	}
	if (slot != b->slot)
		return false;
	if (offset >= b->offset && offset - b->offset < 64) {
		b->mask |= BIT_ULL(offset - b->offset);
		return true;
	}
	/* Backwards, where the top of the mask has room. */
	if (offset < b->offset && b->offset - offset < 64 &&
	    (b->mask << (b->offset - offset)) >> (b->offset - offset) == b->mask) {
		b->mask = b->mask << (b->offset - offset) | 1;
		b->offset = offset;
		return true;
	}
	return false;
}

/* slots_lock held. */
static int reset_ring(struct kvm *kvm, struct kvm_dirty_ring *ring)
{
	struct batch b = { 0 };
	int count = 0;

	while (ring->size && ring_used(ring)) {
		struct kvm_dirty_gfn *e = &ring->gfns[ring->reset_index & (ring->size - 1)];
		uint32_t slot;
		uint64_t offset;

		if (!(__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_RESET))
			break;
		slot = READ_ONCE(e->slot);
		offset = READ_ONCE(e->offset);
		__atomic_store_n(&e->flags, 0, __ATOMIC_RELEASE);
		__atomic_store_n(&ring->reset_index, ring->reset_index + 1, __ATOMIC_RELEASE);
		count++;
		if (join_batch(&b, slot, offset))
			continue;
		protect_batch(kvm, &b);
		b = (struct batch){ slot, offset, 1 };
	}
	protect_batch(kvm, &b);
	TRACE(kvm, kvm_dirty_ring_reset, ring_index(ring), ring->dirty_index, ring->reset_index);
	return count;
}

int kvm_vm_ioctl_reset_dirty_rings(struct kvm *kvm)
{
	struct kvm_vcpu *vcpu;
	int count = 0;
	uint32_t i;

	if (!kvm->dirty_ring_size)
		return err_born(EINVAL, "the VM has no dirty rings");
	pthread_mutex_lock(&kvm->slots_lock);
	kvm_for_each_vcpu(i, vcpu, kvm)
		count += reset_ring(kvm, &vcpu->dirty_ring);
	if (count)
		kvm_flush_remote_tlbs(kvm);
	kvm_dirty_log_taken(kvm);
	pthread_mutex_unlock(&kvm->slots_lock);
	return count;
}
