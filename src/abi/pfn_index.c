/*
 * The index of guest memory by page frame: an array, sorted by frame.
 *
 * Memory is mapped, not allocated: a handler of the client's may have interrupted
 * malloc(). The arrays are as long as if every page of guest memory were there;
 * only what is used of them is ever touched. System calls are raw ones, since
 * libc's names may be the preload room's.
 */
#include "abi/pfn_index.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/error.h"
#include "lib/own.h"

#define PAGEMAP_PRESENT BIT_ULL(63)
#define PAGEMAP_PFN_MASK GENMASK_ULL(54, 0)

#define PFN_BITS 40 /* 52 bits of physical address */
#define HVA_BITS 57
#define DIGIT_BITS 10
#define DIGITS (1u << DIGIT_BITS)

struct hva_range {
	hva_t start, end;
};

/* --- sorting --- */

struct pair {
	uint64_t key, value;
};
_Static_assert(sizeof(struct pair) == sizeof(struct pfn_at) && sizeof(struct pair) == sizeof(struct hva_range),
	       "both are sorted as this");

/* From one array to the other, in the order of one digit; equal ones stay as they were. */
static void sort_digit(const struct pair *from, struct pair *to, size_t n, unsigned shift)
{
	size_t at[DIGITS] = { 0 }, sum = 0;

	for (size_t i = 0; i < n; i++)
		at[from[i].key >> shift & (DIGITS - 1)]++;
	for (unsigned d = 0; d < DIGITS; d++) {
		size_t count = at[d];

		at[d] = sum;
		sum += count;
	}
	for (size_t i = 0; i < n; i++)
		to[at[from[i].key >> shift & (DIGITS - 1)]++] = from[i];
}

/* By the low `bits` of the keys. */
static int sort(struct pair *p, size_t n, unsigned bits)
{
	size_t bytes = n * sizeof(*p);
	struct pair *scratch = own_pages(bytes + 1), *from = p, *to = scratch;

	if (!scratch)
		return err_born(ENOMEM, "no memory to sort %zu pages", n);
	for (unsigned shift = 0; shift < bits; shift += DIGIT_BITS) {
		struct pair *done = to;

		sort_digit(from, to, n, shift);
		to = from;
		from = done;
	}
	if (from != p)
		memcpy(p, from, bytes);
	own_pages_free(scratch);
	return 0;
}

/* --- building --- */

struct hva_ranges {
	struct hva_range *r;
	size_t nr, max; /* nr may be the greater: so many there are */
};

static void collect(void *arg, hva_t start, hva_t end)
{
	struct hva_ranges *all = arg;

	if (all->nr < all->max)
		all->r[all->nr] = (struct hva_range){ start, end };
	all->nr++;
}

/* To be unmapped by the caller, (max + 1) ranges. */
static int collect_all(struct hva_ranges *all, pfn_index_source *source)
{
	*all = (struct hva_ranges){ 0 };
	do {
		if (all->r)
			own_pages_free(all->r);
		all->max = all->nr;
		all->nr = 0;
		all->r = own_pages((all->max + 1) * sizeof(*all->r));
		if (!all->r)
			return err_born(ENOMEM, "no memory for %zu ranges", all->max);
		source(collect, all);
	} while (all->nr > all->max);
	return 0;
}

/* In order and apart: how many are left. */
static size_t merge_ranges(struct hva_range *r, size_t n)
{
	size_t last = 0;

	for (size_t i = 1; i < n; i++) {
		if (r[i].start > r[last].end)
			r[++last] = r[i];
		else
			r[last].end = max_u64(r[last].end, r[i].end);
	}
	return n ? last + 1 : 0;
}

static int add_range(struct pfn_index *x, const struct hva_range *r, int pagemap)
{
	uint64_t entry[512], page = r->start >> PAGE_SHIFT, end = r->end >> PAGE_SHIFT;

	while (page < end) {
		size_t want = min_u64(end - page, ARRAY_SIZE(entry)) * sizeof(*entry);
		ssize_t got = syscall(SYS_pread64, pagemap, entry, want, page * sizeof(*entry));

		if (got < 0)
			return err_born(errno, "pagemap of %#llx", (unsigned long long)(page << PAGE_SHIFT));
		if (got < (ssize_t)sizeof(*entry)) /* beyond user space */
			return 0;
		for (size_t i = 0; i < (size_t)got / sizeof(*entry); i++, page++) {
			pfn_t pfn = entry[i] & PAGEMAP_PFN_MASK;

			if (entry[i] & PAGEMAP_PRESENT && pfn)
				x->at[x->nr++] = (struct pfn_at){ pfn, page << PAGE_SHIFT };
		}
	}
	return 0;
}

/* Pages at too many addresses go. */
static void drop_common(struct pfn_index *x)
{
	size_t kept = 0, next;

	for (size_t i = 0; i < x->nr; i = next) {
		for (next = i; next < x->nr && x->at[next].pfn == x->at[i].pfn;)
			next++;
		if (next - i > PFN_MAX_ADDRESSES)
			continue;
		memmove(&x->at[kept], &x->at[i], (next - i) * sizeof(*x->at));
		kept += next - i;
	}
	x->nr = kept;
}

static int fill(struct pfn_index *x, const struct hva_range *ranges, size_t n, int pagemap)
{
	int r = 0;

	for (size_t i = 0; i < n && !r; i++)
		r = add_range(x, &ranges[i], pagemap);
	if (!r)
		r = sort((struct pair *)x->at, x->nr, PFN_BITS);
	if (!r)
		drop_common(x);
	return r;
}

static int build(struct pfn_index *x, struct hva_ranges *all, int pagemap)
{
	int r = sort((struct pair *)all->r, all->nr, HVA_BITS);
	uint64_t pages = 0;
	size_t n;

	if (r)
		return r;
	n = merge_ranges(all->r, all->nr);
	for (size_t i = 0; i < n; i++)
		pages += (all->r[i].end - all->r[i].start) >> PAGE_SHIFT;
	if (!pages)
		return 0;
	x->mapped_bytes = pages * sizeof(*x->at);
	x->at = own_pages(x->mapped_bytes);
	if (!x->at) {
		x->mapped_bytes = 0;
		return err_born(ENOMEM, "no memory for an index of %llu pages", (unsigned long long)pages);
	}
	r = fill(x, all->r, n, pagemap);
	if (r)
		pfn_index_free(x);
	return r;
}

int pfn_index_build(struct pfn_index *x, pfn_index_source *source, int pagemap)
{
	struct hva_ranges all;
	int r = collect_all(&all, source);

	*x = (struct pfn_index){ 0 };
	if (r)
		return r;
	r = build(x, &all, pagemap);
	own_pages_free(all.r);
	return r;
}

void pfn_index_free(struct pfn_index *x)
{
	if (x->at)
		own_pages_free(x->at);
	*x = (struct pfn_index){ 0 };
}

/* --- asking --- */

size_t pfn_index_find(const struct pfn_index *x, pfn_t pfn)
{
	size_t low = 0, high = x->nr;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (x->at[mid].pfn < pfn)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

bool pagemap_has(struct pagemap_window *w, hva_t hva, pfn_t pfn)
{
	uint64_t page = hva >> PAGE_SHIFT, e;

	if (page < w->first || page - w->first >= w->nr) {
		ssize_t got;

		w->first = ALIGN_DOWN(page, (uint64_t)w->ahead);
		got = syscall(SYS_pread64, w->pagemap, w->entry, w->ahead * sizeof(w->entry[0]),
			      w->first * sizeof(w->entry[0]));
		w->nr = got > 0 ? (unsigned)((size_t)got / sizeof(w->entry[0])) : 0;
		if (page - w->first >= w->nr)
			return false;
	}
	e = w->entry[page - w->first];
	return e & PAGEMAP_PRESENT && (e & PAGEMAP_PFN_MASK) == pfn;
}
