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
#include "lib/own.h"
#include "virt/memslot_set.h"

#include <string.h>

#define ID_CHUNK(id) ((unsigned)(id) >> KVM_ID_CHUNK_BITS)
#define ID_INDEX(id) ((unsigned)(id) & (KVM_ID_CHUNK_SLOTS - 1))

/*
 * One allocation for all arrays, so that there is one thing that can fail. Room
 * in steps: while slots come one by one, the next set then fits where the last
 * but one was, and malloc need not go to the kernel for fresh pages each time.
 */
#define ROOM_STEP 1024U

static struct kvm_memslots *set_alloc(uint32_t used)
{
	uint32_t nr = used > ROOM_STEP ? ALIGN_UP(used, ROOM_STEP) : used;
	size_t head = sizeof(struct kvm_memslots) + nr * sizeof(struct kvm_memory_slot *);
	size_t ids = KVM_ID_CHUNKS * sizeof(struct kvm_id_chunk *);
	struct kvm_memslots *s =
		own_malloc(head + ids + nr * (sizeof(struct kvm_memory_slot *) + sizeof(hva_t)));

	if (!s)
		return NULL;
	memset(s, 0, sizeof(*s));
	s->used_slots = used;
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

/* Where an array sorted by key first exceeds `value`. */
static uint32_t first_above(struct kvm_memory_slot *const *from, uint32_t nr, uint64_t value,
			    uint64_t (*key)(const struct kvm_memory_slot *))
{
	uint32_t lo = 0, hi = nr;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (key(from[mid]) <= value)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Where `s` is in such an array that holds it. */
static uint32_t index_of(struct kvm_memory_slot *const *from, uint32_t nr, const struct kvm_memory_slot *s,
			 uint64_t (*key)(const struct kvm_memory_slot *))
{
	uint32_t i = first_above(from, nr, key(s), key) - 1;

	while (from[i] != s)
		i--;
	return i;
}

static void copy_entries(struct kvm_memory_slot **to, struct kvm_memory_slot *const *from, uint32_t n)
{
	memcpy(to, from, n * sizeof(*to));
}

/*
 * Copy an array sorted by key, leaving `old` out and putting `new` in its place:
 * nothing but pointers is looked at, since there may be 32,764. Returns the
 * first index at which the two differ.
 */
static uint32_t merge(struct kvm_memory_slot **to, struct kvm_memory_slot *const *from, uint32_t nr,
		      const struct kvm_memory_slot *old, struct kvm_memory_slot *new,
		      uint64_t (*key)(const struct kvm_memory_slot *))
{
	uint32_t out = old ? index_of(from, nr, old, key) : nr;
	uint32_t in = new ? first_above(from, nr, key(new), key) : nr;

	if (!new) {
		copy_entries(to, from, out);
		copy_entries(to + out, from + out + 1, nr - out - 1);
		return out;
	}
	if (in <= out) { /* new, … old: what is in between moves up */
		copy_entries(to, from, in);
		to[in] = new;
		copy_entries(to + in + 1, from + in, out - in);
		if (old)
			copy_entries(to + out + 1, from + out + 1, nr - out - 1);
		return in;
	}
	copy_entries(to, from, out);
	copy_entries(to + out, from + out + 1, in - out - 1);
	to[in - 1] = new;
	copy_entries(to + in, from + in, nr - in);
	return out;
}

static hva_t slot_hva_end(const struct kvm_memory_slot *s)
{
	return s->userspace_addr + (s->npages << PAGE_SHIFT);
}

/*
 * The running maximum from index `first` on. Behind the changed entries it is
 * soon what it was (shifted by as many entries as came or went), and then stays so.
 */
static void set_max_end(struct kvm_memslots *s, const struct kvm_memslots *from, uint32_t first, uint32_t settled)
{
	int32_t shift = (int32_t)s->used_slots - (int32_t)from->used_slots;
	hva_t max_end = first ? from->hva_max_end[first - 1] : 0;
	uint32_t i;

	memcpy(s->hva_max_end, from->hva_max_end, first * sizeof(hva_t));
	for (i = first; i < s->used_slots; i++) {
		max_end = max_u64(max_end, slot_hva_end(s->by_hva[i]));
		s->hva_max_end[i] = max_end;
		if (i >= settled && from->hva_max_end[(int32_t)i - shift] == max_end)
			break;
	}
	if (++i < s->used_slots)
		memcpy(&s->hva_max_end[i], &from->hva_max_end[(int32_t)i - shift],
		       (s->used_slots - i) * sizeof(hva_t));
}

struct kvm_memslots *memslots_build(const struct kvm_memslots *from,
				    const struct kvm_memory_slot *old, struct kvm_memory_slot *new)
{
	struct kvm_memslots *s = set_alloc(from->used_slots - (old != NULL) + (new != NULL));
	unsigned id = new ? new->id : old->id;
	struct kvm_id_chunk *chunk = own_malloc(sizeof(*chunk));
	uint32_t first, settled;

	if (!s || !chunk) {
		own_free(s);
		own_free(chunk);
		return NULL;
	}
	s->as_id = from->as_id;
	s->generation = from->generation;
	merge(s->slots, from->slots, from->used_slots, old, new, key_gfn);
	first = merge(s->by_hva, from->by_hva, from->used_slots, old, new, key_hva);
	/* From here on both have the same entries. */
	settled = new ? index_of(s->by_hva, s->used_slots, new, key_hva) + 1 : 0;
	if (old)
		settled = (uint32_t)max_u64(settled, index_of(from->by_hva, from->used_slots, old, key_hva) +
							     (new != NULL));
	set_max_end(s, from, first, settled);
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
			own_free(set->id_chunks[i]);
	own_free(set);
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
		if (slot_hva_end(s) > start) {
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
		faults += s->hva_max_end[i] != max_u64(i ? s->hva_max_end[i - 1] : 0, slot_hva_end(b));
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
