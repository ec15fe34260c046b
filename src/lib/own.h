/*
 * The library's own memory, as the host sees it.
 *
 * A guest's memory is whatever the client has at the addresses of its memslots,
 * and the client may unmap those while the slots stay. What the library
 * allocates must never come to lie there: decoded blocks, stubs, page tables
 * and vCPUs would be the guest's to read and write. So all of it comes from one
 * area of the address space, chosen before the first VM, and no page of the
 * area is ever a guest's: host_fault_in() and the memslots' accessors ask
 * own_overlaps().
 *
 *     area:  [ run | run | slab | ... | not mapped yet          ]   768 GiB
 *     low:   [ frames | not mapped ]                                  4 MiB, below 4 GiB
 *
 * Invariants
 * 1. The bounds of both are set once, before any allocation returns, and stay:
 *    own_overlaps() needs no lock, and an address is ours or the client's for good.
 * 2. The area was empty when it was chosen, at random, and lies where the host's
 *    kernel puts nothing by itself; a page is mapped into it only where nothing is mapped.
 * 3. The area is managed in units of 64 KiB. A unit is free, begins or continues a
 *    run (one allocation), or is a slab (objects of one size).
 * 4. Free units are mapped without access or not at all: memory given back is
 *    the host's again, and a pointer left over faults.
 *
 * Where nothing can be mapped at a chosen address (some sanitizers and
 * debuggers), the area is a mapping of 64 MiB to 16 GiB, where the host put it.
 *
 * Lock: one, a leaf, held for a few instructions and the rare mmap(). No
 * function but own_overlaps() may be called in a signal handler.
 */
#ifndef USERKVM_LIB_OWN_H
#define USERKVM_LIB_OWN_H

#include "lib/types.h"

/* Does [start, start + bytes) hold a page that can be the library's? Async-signal-safe. */
bool own_overlaps(uint64_t start, uint64_t bytes);
/* The bounds of the area: [*start, *end). */
void own_area(uint64_t *start, uint64_t *end);

/*
 * Objects, as malloc() and its kin; NULL when there is no memory. own_free() takes
 * what these gave, memory of libc's (for what libc allocates), and NULL.
 */
void *own_malloc(size_t bytes) __attribute__((malloc, alloc_size(1)));
void *own_calloc(size_t n, size_t bytes) __attribute__((malloc, alloc_size(1, 2)));
void *own_realloc(void *p, size_t bytes) __attribute__((alloc_size(2)));
/* align: a power of two, at most 64 KiB. */
void *own_aligned(size_t align, size_t bytes) __attribute__((malloc, alloc_size(2)));
void own_free(void *p);

/* Zeroed pages, aligned to 64 KiB (with `align`: to more); own_pages_free() gives them back. */
void *own_pages(size_t bytes);
void *own_pages_aligned(size_t bytes, size_t align);
/* Addresses only, without access: the caller maps over them (MAP_FIXED). */
void *own_reserve(size_t bytes);
/* A file's bytes; NULL with errno. */
void *own_map_file(size_t bytes, int prot, int fd, int64_t offset);
/* All of these are given back so; what was mapped over a part of them goes with it. */
void own_pages_free(void *p);

/* A zeroed page below 4 GiB. */
void *own_low_page(void);
void own_low_page_free(void *p);

/* For tests: the n-th allocation from now on fails, and all after it where `all`; 0: none. */
void own_fail_at(uint64_t n, bool all);
/* Allocations made so far, failed ones too. */
uint64_t own_allocations(void);
/* Bytes handed out (runs, and slabs that hold an object). */
uint64_t own_in_use(void);

#endif
