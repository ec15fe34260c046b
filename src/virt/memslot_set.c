/*
 * One generation of memslots as a data structure: build, look up, free.
 *
 *   struct kvm_memslots ── slots[]        by base_gfn, binary search
 *                       ├─ by_hva[]       by userspace_addr ┐ an interval tree laid
 *                       ├─ hva_max_end[]  running maximum   ┘ flat: see next_in_hva_range
 *                       └─ id_chunks[] ─→ 256 slot pointers each; a generation owns
 *                                         a chunk alone only if its predecessor's
 *                                         differs: chunks are shared, never changed
 *
 * Invariants: 1. A set is immutable once published (generation and the hint
 * last_used excepted). 2. slots[] do not overlap. 3. Every slot is in slots[],
 * by_hva[] and the id table of the same set, exactly once.
 */
#include "virt/memslot_set.h"

#include <stdlib.h>
#include <string.h>

#define ID_CHUNK(id) ((unsigned)(id) >> KVM_ID_CHUNK_BITS)
#define ID_INDEX(id) ((unsigned)(id) & (KVM_ID_CHUNK_SLOTS - 1))

/* One allocation for all arrays, so that there is one thing that can fail. */
static struct kvm_memslots *set_alloc(uint32_t nr)
{
	size_t head = sizeof(struct kvm_memslots) + nr * sizeof(struct kvm_memory_slot *);
	size_t ids = KVM_ID_CHUNKS * sizeof(struct kvm_id_chunk *);
	struct kvm_memslots *s =
		malloc(head + ids + nr * (sizeof(struct kvm_memory_slot *) + sizeof(hva_t)));

	if (!s)
		return NULL;
	memset(s, 0, sizeof(*s));
	s->used_slots = nr;
	s->id_chunks = (void *)((char *)s + head);
	s->by_hva = (void *)((char *)s + head + ids);
	s->hva_max_end = (void *)(s->by_hva + nr);
	return s;
}

struct kvm_memslots *memslots_alloc_empty(int as_id)
{
	struct kvm_memslots *s = set_alloc(0);

	if (!s)
		return NULL;
	memset(s->id_chunks, 0, KVM_ID_CHUNKS * sizeof(s->id_chunks[0]));
	s->as_id = (uint16_t)as_id;
	/* Generations of the address spaces never meet: MMIO entries carry them. */
	s->generation = 2 * (uint64_t)as_id;
	return s;
}

static uint64_t key_gfn(const struct kvm_memory_slot *s)
{
	return s->base_gfn;
}

static uint64_t key_hva(const struct kvm_memory_slot *s)
{
	return s->userspace_addr;
}

/* Copy an array sorted by key, leaving `old` out and putting `new` in its place. */
static void merge(struct kvm_memory_slot **to, struct kvm_memory_slot *const *from, uint32_t nr,
		  const struct kvm_memory_slot *old, struct kvm_memory_slot *new,
		  uint64_t (*key)(const struct kvm_memory_slot *))
{
	uint32_t i, n = 0;

	for (i = 0; i < nr; i++) {
		if (from[i] == old)
			continue;
		if (new && key(new) < key(from[i])) {
			to[n++] = new;
			new = NULL;
		}
		to[n++] = from[i];
	}
	if (new)
		to[n] = new;
}

struct kvm_memslots *memslots_build(const struct kvm_memslots *from,
				    const struct kvm_memory_slot *old, struct kvm_memory_slot *new)
{
	struct kvm_memslots *s = set_alloc(from->used_slots - (old != NULL) + (new != NULL));
	unsigned id = new ? new->id : old->id;
	struct kvm_id_chunk *chunk = malloc(sizeof(*chunk));
	hva_t max_end = 0;
	uint32_t i;

	if (!s || !chunk) {
		free(s);
		free(chunk);
		return NULL;
	}
	s->as_id = from->as_id;
	s->generation = from->generation;
	merge(s->slots, from->slots, from->used_slots, old, new, key_gfn);
	merge(s->by_hva, from->by_hva, from->used_slots, old, new, key_hva);
	for (i = 0; i < s->used_slots; i++) {
		const struct kvm_memory_slot *slot = s->by_hva[i];

		max_end = max_u64(max_end, slot->userspace_addr + (slot->npages << PAGE_SHIFT));
		s->hva_max_end[i] = max_end;
	}
	memcpy(s->id_chunks, from->id_chunks, KVM_ID_CHUNKS * sizeof(s->id_chunks[0]));
	if (s->id_chunks[ID_CHUNK(id)])
		*chunk = *s->id_chunks[ID_CHUNK(id)];
	else
		memset(chunk, 0, sizeof(*chunk));
	chunk->slot[ID_INDEX(id)] = new;
	s->id_chunks[ID_CHUNK(id)] = chunk;
	return s;
}

void memslots_free(struct kvm_memslots *set, const struct kvm_memslots *successor)
{
	unsigned i;

	if (!set)
		return;
	for (i = 0; i < KVM_ID_CHUNKS; i++)
		if (!successor || set->id_chunks[i] != successor->id_chunks[i])
			free(set->id_chunks[i]);
	free(set);
}

struct kvm_memory_slot *id_to_memslot(struct kvm_memslots *slots, int id)
{
	struct kvm_id_chunk *chunk;

	if (id < 0 || id >= KVM_MEM_SLOTS_NUM)
		return NULL;
	chunk = slots->id_chunks[ID_CHUNK(id)];
	return chunk ? chunk->slot[ID_INDEX(id)] : NULL;
}

static bool holds(const struct kvm_memory_slot *s, gfn_t gfn)
{
	return gfn - s->base_gfn < s->npages;
}

/* Index of the last slot that begins at or before gfn; used_slots when none does. */
static uint32_t last_at_or_before(const struct kvm_memslots *s, gfn_t gfn)
{
	uint32_t lo = 0, hi = s->used_slots;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (s->slots[mid]->base_gfn <= gfn)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo ? lo - 1 : s->used_slots;
}

static struct kvm_memory_slot *search(struct kvm_memslots *slots, gfn_t gfn, uint32_t *hint)
{
	uint32_t i = READ_ONCE(*hint);

	if (i < slots->used_slots && holds(slots->slots[i], gfn))
		return slots->slots[i];
	i = last_at_or_before(slots, gfn);
	if (i == slots->used_slots || !holds(slots->slots[i], gfn))
		return NULL;
	WRITE_ONCE(*hint, i);
	return slots->slots[i];
}

struct kvm_memory_slot *search_memslots(struct kvm_memslots *slots, gfn_t gfn)
{
	return search(slots, gfn, &slots->last_used);
}

struct kvm_memory_slot *kvm_vcpu_gfn_to_memslot(struct kvm_vcpu *vcpu, gfn_t gfn)
{
	struct kvm_memslots *slots = __kvm_memslots(vcpu->kvm, (int)vcpu->as_id);
	struct kvm_memory_slot *s = search(slots, gfn, &vcpu->last_used_slot[vcpu->as_id]);

	return s && !(s->flags & KVM_MEMSLOT_INVALID) ? s : NULL;
}

/*
 * by_hva[] is sorted by start, so the candidates end before the first slot that
 * begins at or after `end`; going down from there, hva_max_end says when nothing
 * lower can reach `start` any more. *pos is the next index + 1 on the way down.
 */
struct kvm_memory_slot *memslots_next_in_hva_range(struct kvm_memslots *slots, hva_t start,
						   hva_t end, uint32_t *pos)
{
	uint32_t i;

	if (*pos == UINT32_MAX || start >= end)
		return NULL;
	if (*pos == 0) {
		uint32_t lo = 0, hi = slots->used_slots;

		while (lo < hi) {
			uint32_t mid = (lo + hi) / 2;

			if (slots->by_hva[mid]->userspace_addr < end)
				lo = mid + 1;
			else
				hi = mid;
		}
		i = lo;
	} else {
		i = *pos - 1;
	}
	while (i-- > 0) {
		struct kvm_memory_slot *s = slots->by_hva[i];

		if (slots->hva_max_end[i] <= start)
			break;
		if (s->userspace_addr + (s->npages << PAGE_SHIFT) > start) {
			*pos = i ? i + 1 : UINT32_MAX;
			return s;
		}
	}
	*pos = UINT32_MAX;
	return NULL;
}

bool memslots_overlap(const struct kvm_memslots *set, int id, gfn_t start, gfn_t end)
{
	uint32_t i = last_at_or_before(set, end - 1);

	/* The slot itself (a move) may lie in between, so look past it. */
	while (i < set->used_slots) {
		const struct kvm_memory_slot *s = set->slots[i];

		if (s->base_gfn + s->npages <= start)
			return false;
		if (s->id != id)
			return true;
		i--;
	}
	return false;
}

static int check_set(struct kvm_memslots *s)
{
	uint32_t i, ids = 0;
	int faults = 0;

	for (i = 0; i < s->used_slots; i++) {
		struct kvm_memory_slot *a = s->slots[i], *b = s->by_hva[i];

		faults += a->as_id != s->as_id || a->npages == 0;
		faults += id_to_memslot(s, a->id) != a || id_to_memslot(s, b->id) != b;
		faults += i && s->slots[i - 1]->base_gfn + s->slots[i - 1]->npages > a->base_gfn;
		faults += i && s->by_hva[i - 1]->userspace_addr > b->userspace_addr;
		faults += i && s->hva_max_end[i - 1] > s->hva_max_end[i];
		faults += s->hva_max_end[i] < b->userspace_addr + (b->npages << PAGE_SHIFT);
	}
	for (i = 0; i < KVM_MEM_SLOTS_NUM; i++)
		ids += id_to_memslot(s, (int)i) != NULL;
	return faults + (ids != s->used_slots);
}

int kvm_memslots_check(struct kvm *kvm)
{
	uint64_t pages = 0;
	int as, faults = 0;
	uint32_t i;

	for (as = 0; as < KVM_ADDRESS_SPACE_NUM; as++) {
		struct kvm_memslots *s = __kvm_memslots(kvm, as);

		faults += check_set(s);
		for (i = 0; i < s->used_slots; i++)
			pages += s->slots[i]->npages;
		faults += s->generation & 1;
	}
	return faults + (pages != kvm->nr_memslot_pages);
}
