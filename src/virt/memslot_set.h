/*
 * Inside virt: generations of memslots. See memslot_set.c.
 */
#ifndef USERKVM_VIRT_MEMSLOT_SET_H
#define USERKVM_VIRT_MEMSLOT_SET_H

#include "virt/kvm.h"

/* An empty set. NULL when there is no memory. */
struct kvm_memslots *memslots_alloc_empty(int as_id);
/*
 * The next generation: `from` without `old` (NULL: nothing leaves) and with
 * `new` (NULL: nothing comes). Its id table shares the untouched chunks.
 * NULL when there is no memory.
 */
struct kvm_memslots *memslots_build(const struct kvm_memslots *from,
				    const struct kvm_memory_slot *old, struct kvm_memory_slot *new);
/*
 * Free a generation that `successor` replaced, but what it shares with it;
 * successor NULL: all of it. The slots themselves are the caller's.
 */
void memslots_free(struct kvm_memslots *set, const struct kvm_memslots *successor);
/* Any slot but id in [start, end)? */
bool memslots_overlap(const struct kvm_memslots *set, int id, gfn_t start, gfn_t end);

#endif
