/*
 * What the machine is made of: frames for page tables, and the client's memory.
 *
 * __pa() and __va() are the identity: host-physical is this process's virtual
 * address space.
 */
#ifndef USERKVM_HOST_MEMORY_H
#define USERKVM_HOST_MEMORY_H

#include "lib/types.h"

static inline hpa_t __pa(const void *va)
{
	return (hpa_t)(uintptr_t)va;
}

static inline void *__va(hpa_t pa)
{
	return (void *)(uintptr_t)pa;
}

/*
 * Zeroed, page-aligned 4 KiB frames for page tables, VMCS regions, bitmaps.
 * NULL when there is no memory. Thread-safe. Kept in a per-process pool.
 */
void *host_frame_alloc(void);
void host_frame_free(void *frame);
/* Frames in use, for accounting and leak checks. */
uint64_t host_frames_in_use(void);

/*
 * Fault the client's page at hva in, as get_user_pages would: demand zero,
 * copy on write, file, hugetlbfs, userfaultfd (waits). With `write`, for
 * writing. 0; -EFAULT not mapped or not permitted; -EHWPOISON.
 * *writable (may be NULL): the page may be written even if only a read was asked.
 */
must_check int host_fault_in(hva_t hva, bool write, bool *writable);

/*
 * Largest power-of-two mapping size (4 KiB, 2 MiB, 1 GiB) that one EPT leaf at
 * hva may cover as far as the client's mapping is concerned: in userkvm any
 * range of one VMA with uniform permissions is contiguous "physical" memory.
 * Bounded by [start, start+size) of the memslot.
 */
int host_mapping_level(hva_t hva, hva_t start, uint64_t size_bytes, int max_level);

/* Number of this address space: changes in a forked child (DESIGN: -EIO). */
uint64_t host_mm_id(void);

#endif
