/*
 * Idle flags of host pages: set when a page has been aged, gone when a guest has
 * accessed it since. (Linux: page_is_idle, folio_set_idle, folio_clear_idle.)
 *
 *	hva   46 .. 27: chunk    26 .. 12: bit of it
 *
 * Invariants
 * 1. A flag goes with the knowledge that it rests on: when an accessed leaf loses its
 *    A bit or goes itself (mmu_leaf_forgotten, in one hold of mmu_lock for writing), and
 *    when other memory may come to be at its address (mmu_idle_forget).
 * 2. So a page with a flag has been accessed if and only if a leaf says so now:
 *    who asks looks at the leaves first and at the flag then.
 * 3. Chunks are never freed: flags are read and cleared without a lock.
 */
#include <sys/mman.h>

#include "lib/error.h"
#include "lib/own.h"
#include "mmu/internal.h"

#define CHUNK_BITS 15
#define CHUNK_PAGES (1ULL << CHUNK_BITS)
#define NR_CHUNKS (1ULL << (47 - PAGE_SHIFT - CHUNK_BITS)) /* user space, unless asked for more */

static struct {
	uint64_t **chunk; /* (a) NR_CHUNKS; NULL: nobody has ever marked a page */
} idle;

bool mmu_idle_in_use;

static uint64_t *chunk_of(uint64_t page)
{
	uint64_t **chunk = __atomic_load_n(&idle.chunk, __ATOMIC_ACQUIRE);

	return chunk && page >> CHUNK_BITS < NR_CHUNKS ? __atomic_load_n(&chunk[page >> CHUNK_BITS], __ATOMIC_ACQUIRE) : NULL;
}

/*
 * What *slot points to, made where it is NULL: size_bytes of zeroes. NULL: no memory. Neither malloc() nor
 * own_malloc(): a signal handler of the client's may be the one that marks.
 */
static void *made(void **slot, size_t size_bytes)
{
	void *there = __atomic_load_n(slot, __ATOMIC_ACQUIRE), *p;

	if (there)
		return there;
	p = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	if (__atomic_compare_exchange_n(slot, &there, p, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		return p;
	munmap(p, size_bytes);
	return there;
}

static uint64_t *chunk_make(uint64_t page)
{
	uint64_t **chunk = made((void **)&idle.chunk, NR_CHUNKS * sizeof(*chunk));

	return chunk ? made((void **)&chunk[page >> CHUNK_BITS], CHUNK_PAGES / 8) : NULL;
}

int mmu_idle_set(hva_t hva)
{
	uint64_t page = hva >> PAGE_SHIFT, *chunk;

	if (page >> CHUNK_BITS >= NR_CHUNKS)
		return 0;
	chunk = chunk_make(page);
	if (!chunk)
		return err_born(ENOMEM, "no memory for idle flags");
	WRITE_ONCE(mmu_idle_in_use, true);
	__atomic_fetch_or(&chunk[page % CHUNK_PAGES / 64], BIT_ULL(page % 64), __ATOMIC_SEQ_CST);
	return 0;
}

bool mmu_idle_test(hva_t hva)
{
	uint64_t page = hva >> PAGE_SHIFT, *chunk = chunk_of(page);

	return chunk && __atomic_load_n(&chunk[page % CHUNK_PAGES / 64], __ATOMIC_SEQ_CST) & BIT_ULL(page % 64);
}

/* The flags of pages [page, end), which one word has. */
static void clear_in_word(uint64_t *word, uint64_t page, uint64_t end)
{
	uint64_t mask = GENMASK_ULL((end - 1) % 64, page % 64);

	if (READ_ONCE(*word) & mask)
		__atomic_fetch_and(word, ~mask, __ATOMIC_SEQ_CST);
}

void mmu_idle_clear(hva_t start, hva_t end)
{
	uint64_t page = start >> PAGE_SHIFT, last = min_u64(end, 1ULL << 47) - 1, next;

	for (last >>= PAGE_SHIFT; page <= last; page = next) {
		uint64_t *chunk = chunk_of(page);

		if (!chunk) {
			next = ALIGN_DOWN(page, CHUNK_PAGES) + CHUNK_PAGES;
			continue;
		}
		next = min_u64(ALIGN_DOWN(page, 64ULL) + 64, last + 1);
		clear_in_word(&chunk[page % CHUNK_PAGES / 64], page, next);
	}
}
