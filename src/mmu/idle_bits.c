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
	uint64_t **chunk; /* (a) NR_CHUNKS; NULL: the bitmap was never open */
} idle;

bool mmu_idle_in_use;

static uint64_t *chunk_of(uint64_t page)
{
	uint64_t **chunk = __atomic_load_n(&idle.chunk, __ATOMIC_ACQUIRE);

	return chunk && page >> CHUNK_BITS < NR_CHUNKS ? __atomic_load_n(&chunk[page >> CHUNK_BITS], __ATOMIC_ACQUIRE) : NULL;
}

/*
 * The pointers lie in memory of the library's own, which no guest is given whatever its client
 * unmaps; a guest that came to a chunk could mislead its client about pages, no more.
 */
static uint64_t **table(void)
{
	uint64_t **there = __atomic_load_n(&idle.chunk, __ATOMIC_ACQUIRE), **made;

	if (there)
		return there;
	made = own_pages(NR_CHUNKS * sizeof(*made));
	if (!made || __atomic_compare_exchange_n(&idle.chunk, &there, made, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		return made;
	own_pages_free(made);
	return there;
}

int kvm_mmu_prepare_idle(void)
{
	return table() ? 0 : err_born(ENOMEM, "no memory for idle flags");
}

static uint64_t *chunk_make(uint64_t page)
{
	uint64_t **slot = table(), *chunk, *none = NULL;

	if (!slot)
		return NULL;
	slot += page >> CHUNK_BITS;
	chunk = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
	if (chunk)
		return chunk;
	/* Neither malloc() nor own_malloc(): a signal handler of the client's may be the one that marks. */
	chunk = mmap(NULL, CHUNK_PAGES / 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (chunk == MAP_FAILED)
		return NULL;
	if (__atomic_compare_exchange_n(slot, &none, chunk, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		return chunk;
	munmap(chunk, CHUNK_PAGES / 8);
	return none;
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
