/*
 * Where guest memory lies: page frames of the host, and the addresses at which
 * this process has them (proc_pid_pagemap(5)).
 *
 * A snapshot: a page may be elsewhere by now, so what is found has to be asked
 * for again (pagemap_has). Async-signal-safe; errors are -errno.
 */
#ifndef USERKVM_ABI_PFN_INDEX_H
#define USERKVM_ABI_PFN_INDEX_H

#include "lib/types.h"

/* A page at more addresses than these is the zero page or the like, and in no index. */
#define PFN_MAX_ADDRESSES 64

struct pfn_at {
	pfn_t pfn;
	hva_t hva;
};

struct pfn_index {
	struct pfn_at *at; /* by pfn, ascending */
	size_t nr;
	size_t mapped_bytes;
};

/* Calls fn for each range of client memory [start, end) that the index is to hold; they may overlap. */
typedef void pfn_index_source(void (*fn)(void *arg, hva_t start, hva_t end), void *arg);
/*
 * pagemap: a descriptor of /proc/self/pagemap. On an error *x is empty: -ENOMEM, pread(2)'s.
 * Without CAP_SYS_ADMIN Linux tells no frame, and the index is empty too.
 */
must_check int pfn_index_build(struct pfn_index *x, pfn_index_source *source, int pagemap);
void pfn_index_free(struct pfn_index *x);
/* The first entry whose page is pfn or beyond: its position, x->nr when there is none. */
size_t pfn_index_find(const struct pfn_index *x, pfn_t pfn);

/* Some entries of a pagemap, read ahead: what one call asks for is often close together. */
#define PAGEMAP_WINDOW 64
struct pagemap_window {
	int pagemap;
	unsigned ahead; /* how many at a time, a power of two */
	uint64_t first; /* page */
	unsigned nr;
	uint64_t entry[PAGEMAP_WINDOW];
};
/* The page at hva is pfn, as of this call or one before with this window. */
bool pagemap_has(struct pagemap_window *w, hva_t hva, pfn_t pfn);

#endif
