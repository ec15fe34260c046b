/*
 * Changing the memslots: KVM_SET_USER_MEMORY_REGION.
 *
 * A change classifies itself (create, delete, move, flags), builds everything
 * it will need, and only then begins to publish:
 *
 *   create, flags:  current ──────────────────────────────→ final
 *   delete, move:   current ─→ old slot marked INVALID ──→ final
 *                              (grace period, flush_shadow)
 *
 * Each arrow is install(): odd generation, pointer, grace period, even
 * generation. Invariants: 1. Until the first install nothing has changed, after
 * it nothing can fail. 2. A slot is freed after a grace period in which no
 * published set named it. 3. flush_shadow runs when nobody can be at work with
 * the slot as it was valid.
 *
 * Lock: slots_lock for all of it. vCPUs go on running.
 */
#include "lib/own.h"
#include "trace/trace.h"
#include "virt/memslot.h"

#include <string.h>

#include "lib/error.h"
#include "lib/rcu.h"
#include "virt/memslot_set.h"

/* The end of user addresses (access_ok of a 4-level x86-64 Linux). */
#define TASK_SIZE_MAX ((1ULL << 47) - PAGE_SIZE)
#define GENERATION_IN_PROGRESS 1ULL
#define GENERATION_STEP (2ULL * KVM_ADDRESS_SPACE_NUM)

static const struct kvm_memslot_listener no_listener;
static const struct kvm_memslot_listener *listener = &no_listener;

void kvm_register_memslot_listener(const struct kvm_memslot_listener *l)
{
	listener = l ? l : &no_listener;
}

void kvm_dirty_log_taken(struct kvm *kvm)
{
	if (listener->log_taken)
		listener->log_taken(kvm);
}

struct kvm_memslots *__kvm_memslots(struct kvm *kvm, int as_id)
{
	return __atomic_load_n(&kvm->memslots[as_id], __ATOMIC_ACQUIRE);
}

struct kvm_memory_slot *gfn_to_memslot_as(struct kvm *kvm, int as_id, gfn_t gfn)
{
	struct kvm_memory_slot *s = search_memslots(__kvm_memslots(kvm, as_id), gfn);

	return s && !(s->flags & KVM_MEMSLOT_INVALID) ? s : NULL;
}

int kvm_alloc_memslots(struct kvm *kvm)
{
	int as;

	TRACE_CALL(kvm_alloc_memslots, KVM_ADDRESS_SPACE_NUM);
	for (as = 0; as < KVM_ADDRESS_SPACE_NUM; as++) {
		kvm->memslots[as] = memslots_alloc_empty(as);
		if (!kvm->memslots[as]) {
			kvm_free_memslots(kvm);
			return err_born(ENOMEM, "no memory for a memslot set");
		}
		TRACE_LINE(id_to_index, (uint32_t)as, KVM_MEM_SLOTS_NUM,
			   (uintptr_t)kvm->memslots[as], kvm->memslots[as]->generation);
	}
	return 0;
}

static void free_slot(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	if (listener->free_slot)
		listener->free_slot(kvm, slot);
	own_free(slot->dirty_bitmap);
	own_free(slot);
}

void kvm_free_memslots(struct kvm *kvm)
{
	int as;
	uint32_t i;

	for (as = 0; as < KVM_ADDRESS_SPACE_NUM; as++) {
		struct kvm_memslots *s = kvm->memslots[as];

		for (i = 0; s && i < s->used_slots; i++)
			free_slot(kvm, s->slots[i]);
		memslots_free(s, NULL);
		kvm->memslots[as] = NULL;
	}
	kvm->nr_memslot_pages = 0;
}

/* Make `next` the current set of its address space and free the one before. */
static void install(struct kvm *kvm, struct kvm_memslots *next)
{
	struct kvm_memslots *prev = kvm->memslots[next->as_id];

	next->generation = prev->generation | GENERATION_IN_PROGRESS;
	next->last_used = 0;
	__atomic_store_n(&kvm->memslots[next->as_id], next, __ATOMIC_RELEASE);
	lib_rcu_synchronize();
	/*
	 * Only now, that nobody works with the old set, may an MMIO entry made
	 * under this generation be believed.
	 */
	__atomic_store_n(&next->generation, prev->generation + GENERATION_STEP, __ATOMIC_RELEASE);
	memslots_free(prev, next);
	if (listener->generation)
		listener->generation(kvm, next->generation);
}

/* Everything a change allocates, so that it can be dropped in one place. */
struct change {
	enum kvm_mr_change kind;
	struct kvm_memory_slot *old, *new; /* NULL: none */
	struct kvm_memory_slot *invalid;   /* old's copy while it goes away */
	struct kvm_memslots *invalid_set, *final_set;
};

static bool goes_away(const struct change *c)
{
	return c->kind == KVM_MR_DELETE || c->kind == KVM_MR_MOVE;
}

/* Initially all set: the client copies everything once anyhow. */
static int alloc_dirty_bitmap(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	size_t words = kvm_dirty_bitmap_words(slot);

	slot->dirty_bitmap = own_calloc(words, sizeof(uint64_t));
	if (!slot->dirty_bitmap)
		return err_born(ENOMEM, "no memory for the dirty bitmap of slot %u", slot->id);
	if (kvm->manual_dirty_log_protect & KVM_DIRTY_LOG_INITIALLY_SET) {
		memset(slot->dirty_bitmap, 0xff, words * sizeof(uint64_t));
		if (slot->npages % 64)
			slot->dirty_bitmap[words - 1] = BIT_ULL(slot->npages % 64) - 1;
	}
	return 0;
}

static int prepare(struct kvm *kvm, struct change *c)
{
	struct kvm_memory_slot *new = c->new;

	if (new && new->flags & KVM_MEM_LOG_DIRTY_PAGES && !kvm->dirty_ring_size) {
		new->dirty_bitmap = c->old ? c->old->dirty_bitmap : NULL;
		if (!new->dirty_bitmap && alloc_dirty_bitmap(kvm, new))
			return -ENOMEM;
	}
	if (new && c->old)
		new->arch = c->old->arch;
	return listener->prepare && new ? listener->prepare(kvm, c->old, new, c->kind) : 0;
}

static int build_sets(struct kvm *kvm, struct change *c)
{
	struct kvm_memslots *cur = kvm->memslots[c->new ? c->new->as_id : c->old->as_id];
	struct kvm_memory_slot *leaving = c->old;

	if (goes_away(c)) {
		c->invalid = own_malloc(sizeof(*c->invalid));
		if (!c->invalid)
			goto out_nomem;
		*c->invalid = *c->old;
		c->invalid->flags |= KVM_MEMSLOT_INVALID;
		c->invalid_set = memslots_build(cur, c->old, c->invalid);
		if (!c->invalid_set)
			goto out_nomem;
		cur = c->invalid_set;
		leaving = c->invalid;
	}
	c->final_set = memslots_build(cur, leaving, c->new);
	if (c->final_set)
		return 0;
out_nomem:
	return err_born(ENOMEM, "no memory for a memslot generation");
}

static void drop_change(struct kvm *kvm, struct change *c)
{
	if (c->new && c->new->dirty_bitmap && (!c->old || c->new->dirty_bitmap != c->old->dirty_bitmap))
		own_free(c->new->dirty_bitmap);
	if (c->new && c->new->arch && !c->old && listener->free_slot)
		listener->free_slot(kvm, c->new);
	memslots_free(c->invalid_set, kvm->memslots[c->new ? c->new->as_id : c->old->as_id]);
	own_free(c->invalid);
}

/* After the last install: what the old slot owned and the new one has not taken over. */
static void retire_old(struct kvm *kvm, struct change *c)
{
	if (!c->old)
		return;
	if (!c->new) {
		free_slot(kvm, c->old);
		return;
	}
	if (c->old->dirty_bitmap != c->new->dirty_bitmap)
		own_free(c->old->dirty_bitmap);
	own_free(c->old);
}

/* Linux: kvm_set_memslot. On an error `new` is still the caller's. */
static int kvm_set_memslot(struct kvm *kvm, struct change *c)
{
	int r = prepare(kvm, c);

	if (!r)
		r = build_sets(kvm, c);
	if (r) {
		drop_change(kvm, c);
		return r;
	}
	if (goes_away(c)) {
		install(kvm, c->invalid_set);
		if (listener->flush_shadow)
			listener->flush_shadow(kvm, c->old);
	}
	if (c->kind == KVM_MR_CREATE)
		kvm->nr_memslot_pages += c->new->npages;
	else if (c->kind == KVM_MR_DELETE)
		kvm->nr_memslot_pages -= c->old->npages;
	install(kvm, c->final_set);
	if (listener->commit)
		listener->commit(kvm, c->old, c->new, c->kind);
	retire_old(kvm, c);
	own_free(c->invalid);
	return 0;
}

/* KVM API: KVM_SET_USER_MEMORY_REGION, what the arguments alone tell. */
static int check_region(const struct kvm_userspace_memory_region *mem)
{
	if (mem->flags & ~(uint32_t)(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY))
		return err_told(EINVAL, "memory region: unknown flags %#x", mem->flags);
	if (!IS_ALIGNED(mem->memory_size, PAGE_SIZE) || !IS_ALIGNED(mem->guest_phys_addr, PAGE_SIZE) ||
	    !IS_ALIGNED(mem->userspace_addr, PAGE_SIZE))
		return err_told(EINVAL, "memory region: size or address not page-aligned");
	if (mem->memory_size > TASK_SIZE_MAX ||
	    mem->userspace_addr > TASK_SIZE_MAX - mem->memory_size)
		return err_told(EINVAL, "memory region: host address outside user space");
	if (mem->slot >> 16 >= KVM_ADDRESS_SPACE_NUM || (uint16_t)mem->slot >= KVM_MEM_SLOTS_NUM)
		return err_told(EINVAL, "memory region: no slot %#x", mem->slot);
	if (mem->guest_phys_addr + mem->memory_size < mem->guest_phys_addr)
		return err_told(EINVAL, "memory region: guest range wraps around");
	if (mem->memory_size >> PAGE_SHIFT > KVM_MEM_MAX_NR_PAGES)
		return err_told(EINVAL, "memory region: too many pages");
	return 0;
}

/* Which change makes `old` (NULL: none) what mem asks for; 1: nothing to change. */
static int classify(struct kvm *kvm, const struct kvm_userspace_memory_region *mem,
		    const struct kvm_memory_slot *old, enum kvm_mr_change *kind)
{
	uint64_t npages = mem->memory_size >> PAGE_SHIFT;

	if (!npages) {
		*kind = KVM_MR_DELETE;
		return old ? 0 : err_told(EINVAL, "memory region: no slot %#x to delete", mem->slot);
	}
	if (!old) {
		*kind = KVM_MR_CREATE;
		if (kvm->nr_memslot_pages + npages < npages)
			return err_told(EINVAL, "memory region: too many pages in all slots");
		return 0;
	}
	if (mem->userspace_addr != old->userspace_addr || npages != old->npages ||
	    (mem->flags ^ old->flags) & KVM_MEM_READONLY)
		return err_told(EINVAL, "memory region: slot %#x: size, host address and READONLY are fixed",
				mem->slot);
	*kind = mem->guest_phys_addr >> PAGE_SHIFT != old->base_gfn ? KVM_MR_MOVE : KVM_MR_FLAGS_ONLY;
	return *kind == KVM_MR_FLAGS_ONLY && mem->flags == old->flags;
}

int __kvm_set_memory_region(struct kvm *kvm, const struct kvm_userspace_memory_region *mem)
{
	int as_id = (int)(mem->slot >> 16), id = (uint16_t)mem->slot;
	gfn_t base_gfn = mem->guest_phys_addr >> PAGE_SHIFT;
	uint64_t npages = mem->memory_size >> PAGE_SHIFT;
	struct change c = { 0 };
	struct kvm_memslots *slots;
	int r = check_region(mem);

	TRACE_CALL(__kvm_set_memory_region, mem->slot);
	if (r)
		return r;
	TRACE_LINE(as_id, mem->slot, (uint32_t)as_id);
	TRACE_LINE(slot_id, mem->slot, (uint32_t)id);
	slots = __kvm_memslots(kvm, as_id);
	TRACE_LINE(__kvm_memslots, (uint32_t)as_id, slots->used_slots, (uintptr_t)slots,
		   slots->generation);
	c.old = id_to_memslot(slots, id);
	TRACE_LINE(id_to_memslot, (uint32_t)id, (uintptr_t)c.old, c.old ? c.old->base_gfn : 0,
		   c.old ? c.old->npages : 0);
	r = classify(kvm, mem, c.old, &c.kind);
	if (r)
		return r < 0 ? r : 0;
	if ((c.kind == KVM_MR_CREATE || c.kind == KVM_MR_MOVE) &&
	    memslots_overlap(slots, id, base_gfn, base_gfn + npages))
		return err_told(EEXIST, "memory region: slot %#x overlaps another", mem->slot);
	if (c.kind != KVM_MR_DELETE) {
		c.new = own_calloc(1, sizeof(*c.new));
		if (!c.new)
			return err_born(ENOMEM, "no memory for a memslot");
		*c.new = (struct kvm_memory_slot){
			.base_gfn = base_gfn,
			.npages = npages,
			.userspace_addr = mem->userspace_addr,
			.flags = mem->flags,
			.id = (uint16_t)id,
			.as_id = (uint16_t)as_id,
		};
	}
	TRACE_LINE(kvm_set_memslot, c.kind, (uint32_t)id, c.new ? base_gfn : c.old->base_gfn,
		   c.new ? npages : c.old->npages, c.new ? mem->userspace_addr : 0);
	r = kvm_set_memslot(kvm, &c);
	if (r)
		own_free(c.new);
	return r;
}

int kvm_set_memory_region(struct kvm *kvm, const struct kvm_userspace_memory_region *mem)
{
	int r;

	TRACE_CALL(kvm_set_memory_region, mem->slot);
	pthread_mutex_lock(&kvm->slots_lock);
	r = __kvm_set_memory_region(kvm, mem);
	pthread_mutex_unlock(&kvm->slots_lock);
	return r;
}

int kvm_vm_ioctl_set_memory_region(struct kvm *kvm, const struct kvm_userspace_memory_region *mem)
{
	TRACE_CALL(kvm_vm_ioctl_set_memory_region, mem->slot, mem->flags, mem->guest_phys_addr,
		   mem->memory_size, mem->userspace_addr);
	if ((uint16_t)mem->slot >= KVM_USER_MEM_SLOTS)
		return err_told(EINVAL, "memory region: slot %u is not the client's", mem->slot & 0xffff);
	return kvm_set_memory_region(kvm, mem);
}
