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
 * NULL when there is no memory. Thread-safe. Kept in a per-process pool that
 * grows by 2 MiB and is never given back.
 */
void *host_frame_alloc(void);
void host_frame_free(void *frame); /* NULL is allowed */
/* One zeroed frame below 4 GiB, where a 32-bit CR3 reaches it. NULL: none there. */
void *host_low_frame_alloc(void);
void host_low_frame_free(void *frame);
/* Frames in use, for accounting and leak checks. */
uint64_t host_frames_in_use(void);

/*
 * Fault the client's page at hva in, as get_user_pages would: demand zero,
 * copy on write, file, hugetlbfs, userfaultfd (waits). With `write`, for
 * writing. 0; -EFAULT not mapped, not permitted or poisoned, or the library's own (lib/own.h).
 * *writable (may be NULL): the page may be written even if only a read was
 * asked. False may be pessimistic (no /proc); then a write asks again.
 */
must_check int host_fault_in(hva_t hva, bool write, bool *writable);

/*
 * Largest mapping level (1 4 KiB, 2 2 MiB, 3 1 GiB; at most max_level) that one
 * EPT leaf at hva may have as far as the client's mapping is concerned: any
 * range of uniform permissions is contiguous "physical" memory in userkvm.
 * Bounded by [start, start + size_bytes) of the memslot. The answer comes from
 * a picture of the client's mappings and may be out of date: a processor that
 * then meets a hole reports a bus error.
 * Where a userfaultfd is registered it is 1: a processor must never meet a page
 * that somebody has yet to bring.
 */
int host_mapping_level(hva_t hva, hva_t start, uint64_t size_bytes, int max_level);

/*
 * The client's mapping at hva: its bounds and whether it may be written.
 * (*writable is false where a userfaultfd may write-protect pages.) False when
 * there is none (readable), or when it cannot be known.
 */
bool host_mapping_find(hva_t hva, hva_t *start, hva_t *end, bool *writable);
/*
 * The two above answer by a picture of the client's mappings, which is kept up to date without system calls:
 * host_mapping_look() before the first fault in [start, end) (reads /proc, if the picture lacks some of it), then
 * host_mapping_update() for what the client does to it. host_mapping_stale(): the client has changed mappings elsewhere.
 */
enum host_mapping_news {
	HOST_MAPPING_AS_BEFORE, /* pages may be gone, the mapping is not */
	HOST_MAPPING_GONE,
	HOST_MAPPING_NEW,	/* with prot, as mmap(2) */
	HOST_MAPPING_PROTECTED, /* prot is new */
	HOST_MAPPING_USERFAULT, /* registered with a userfaultfd */
};
struct host_mapping_change {
	hva_t start, end;
	enum host_mapping_news what;
	int prot;
};
void host_mapping_look(hva_t start, hva_t end);
void host_mapping_update(const struct host_mapping_change *c);
void host_mapping_stale(void);
/* The client registers memory with a userfaultfd (userfaultfd(2)): the next look is for it, too. */
void host_userfault_seen(void);

/*
 * Whether a touch of hva would wait for the client: a page of memory that is registered with a
 * userfaultfd, not there. (As the picture says: see host_mapping_level().)
 */
bool host_page_is_awaited(hva_t hva);

/* Number of this address space: changes in a forked child (DESIGN: -EIO). Never 0. */
uint64_t host_mm_id(void);
/* True in a child of vfork(), posix_spawn() or clone(CLONE_VM): another process. One system call. Async-signal-safe. */
bool host_mm_is_borrowed(void);
/*
 * ... and it has descriptors, or signal actions, of its own, so that what the library keeps in memory about them is
 * the parent's. A child may have them in common with its parent by flags of clone() that were told before (CLONE_FILES,
 * CLONE_SIGHAND); then kcmp() is asked. Async-signal-safe.
 */
bool host_fds_are_apart(void);
bool host_actions_are_apart(void);
void host_mm_child_may_share(uint64_t clone_flags);

#endif
