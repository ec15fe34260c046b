/*
 * The library's own memory: own.h says why, and the invariants.
 *
 * A unit's word in `unit[]` is its kind and, for the first unit of a run, the
 * run's length; of a slab, the index of its size and the objects in use. A slab with
 * none is given back unless it has the only free objects of its size.
 */
#include "lib/export.h"
#include "lib/own.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define UNIT_SHIFT 16
#define UNIT_BYTES (1ULL << UNIT_SHIFT)
#define AREA_BYTES (768ULL << 30)
/* Far below where the kernel maps and programs are loaded, above what sanitizers and Go use. */
#define AREA_FIRST 0x200000000000ULL
#define AREA_LAST 0x500000000000ULL
#define AREA_ALIGN (1ULL << 30)
#define AREA_TRIES 256 /* one in four has no round address */
#define NR_UNITS (AREA_BYTES >> UNIT_SHIFT)
#define FALLBACK_MAX (16ULL << 30)
#define FALLBACK_MIN (64ULL << 20)
#define LOW_BYTES (4ULL << 20)

enum unit_kind { UNIT_FREE, UNIT_RUN, UNIT_MORE, UNIT_SLAB };

struct unit {
	uint32_t kind : 2;
	uint32_t length : 30; /* units of a run; of a slab: CLASS, USED */
};
#define CLASS GENMASK_ULL(7, 0)	 /* index of the size */
#define USED GENMASK_ULL(29, 8) /* objects not free */
#define ONE_USED 0x100u

static const uint16_t size_of_class[] = {
	16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192, 16384,
};
#define NR_CLASSES ARRAY_SIZE(size_of_class)

struct free_object {
	struct free_object *next, **prev;
};

static struct {
	pthread_mutex_t lock;
	uint64_t start, end;	   /* (c) the area */
	uint64_t low_start, low_end; /* (c) below 4 GiB; 0: none */
	struct unit *unit;	   /* (c, a) mapped once, backed where touched; NULL: nothing is chosen, or not all of it */
	uint64_t beyond;	   /* units before it have been used at some time */
	uint64_t hint;		   /* no free unit before it */
	struct free_object *free[NR_CLASSES];
	uint32_t nr_free[NR_CLASSES];
	uint64_t low_used[LOW_BYTES / PAGE_SIZE / 64];
	uint64_t in_use;
	uint64_t nr, fail_at; /* allocations so far; the one that fails */
	bool fail_all;
} own = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* A child has the allocator as it is between two calls. */
static void lock_before_fork(void)
{
	pthread_mutex_lock(&own.lock);
}

static void unlock_after_fork(void)
{
	pthread_mutex_unlock(&own.lock);
}

__attribute__((constructor)) static void over_fork(void)
{
	pthread_atfork(lock_before_fork, unlock_after_fork, unlock_after_fork);
}

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#define RESERVED (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

/* Is nothing mapped in [at, at + bytes)? */
static bool is_empty(uint64_t at, uint64_t bytes)
{
	void *want = (void *)(uintptr_t)at;
	void *p = mmap(want, bytes, PROT_NONE, RESERVED | MAP_FIXED_NOREPLACE, -1, 0);

	if (p != MAP_FAILED)
		munmap(p, bytes);
	/* the kernel looks for other mappings before it looks at limits */
	return p == want || (p == MAP_FAILED && errno == ENOMEM);
}

static bool can_map_at(uint64_t at)
{
	void *want = (void *)(uintptr_t)at;
	void *p = mmap(want, PAGE_SIZE, PROT_NONE, RESERVED | MAP_FIXED_NOREPLACE, -1, 0);

	if (p != MAP_FAILED)
		munmap(p, PAGE_SIZE);
	return p == want;
}

/* Where the area lies is no guest's to know, and clients with addresses of their own like round ones. */
static uint64_t random_number(void)
{
	uint64_t v;

	if (syscall(SYS_getrandom, &v, sizeof(v), 1 /* GRND_NONBLOCK */) == sizeof(v))
		return v;
	return ((uint64_t)__builtin_ia32_rdtsc() ^ (uint64_t)(uintptr_t)&v) * 0x9e3779b97f4a7c15ULL >> 16;
}

/* Does a multiple of 1 TiB lie in the area that starts at `at`? */
static bool has_round_address(uint64_t at)
{
	return ALIGN_UP(at, 1ULL << 40) < at + AREA_BYTES;
}

static void choose_area(void)
{
	uint64_t at, bytes;

	for (unsigned n = 0; n < AREA_TRIES; n++) {
		at = AREA_FIRST + random_number() % ((AREA_LAST - AREA_FIRST) / AREA_ALIGN) * AREA_ALIGN;
		if (!has_round_address(at) && is_empty(at, AREA_BYTES) && can_map_at(at)) {
			own.start = at;
			own.end = at + AREA_BYTES;
			return;
		}
	}
	for (bytes = FALLBACK_MAX; bytes >= FALLBACK_MIN; bytes /= 4) {
		void *p = mmap(NULL, bytes, PROT_NONE, RESERVED, -1, 0);

		if (p == MAP_FAILED)
			continue;
		own.start = ALIGN_UP((uint64_t)(uintptr_t)p, UNIT_BYTES);
		own.end = ALIGN_DOWN((uint64_t)(uintptr_t)p + bytes, UNIT_BYTES);
		return;
	}
}

/* The table of units lies at the area's beginning. What a limit of the process keeps from being had is tried again. */
static void choose(void)
{
	uint64_t bytes, units;
	void *p = own.low_start ? MAP_FAILED : mmap(NULL, LOW_BYTES, PROT_NONE, RESERVED | MAP_32BIT, -1, 0);

	if (p != MAP_FAILED) {
		own.low_end = (uint64_t)(uintptr_t)p + LOW_BYTES;
		own.low_start = (uint64_t)(uintptr_t)p;
	}
	if (!own.start)
		choose_area();
	if (!own.start)
		return;
	units = (own.end - own.start) >> UNIT_SHIFT;
	bytes = ALIGN_UP(units * sizeof(struct unit), UNIT_BYTES);
	p = mmap((void *)(uintptr_t)own.start, bytes, PROT_READ | PROT_WRITE, RESERVED | MAP_FIXED, -1, 0);
	if (p == MAP_FAILED)
		return;
	own.beyond = own.hint = bytes >> UNIT_SHIFT;
	__atomic_store_n(&own.unit, p, __ATOMIC_RELEASE);
}

static bool ready(void)
{
	if (__atomic_load_n(&own.unit, __ATOMIC_ACQUIRE))
		return true;
	pthread_mutex_lock(&own.lock);
	if (!own.unit)
		choose();
	pthread_mutex_unlock(&own.lock);
	return __atomic_load_n(&own.unit, __ATOMIC_ACQUIRE);
}

bool own_overlaps(uint64_t start, uint64_t bytes)
{
	return (start < own.end && start + bytes > own.start) ||
	       (start < own.low_end && start + bytes > own.low_start);
}

void own_area(uint64_t *start, uint64_t *end)
{
	*start = own.start;
	*end = own.end;
}

/* own.lock held. */
static bool fails_now(void)
{
	own.nr++;
	return own.fail_at && (own.fail_all ? own.nr >= own.fail_at : own.nr == own.fail_at);
}

static void *unit_address(uint64_t n)
{
	return (void *)(uintptr_t)(own.start + (n << UNIT_SHIFT));
}

/* own.lock held. The first of n free units at a multiple of `step` units, 0: none. */
static uint64_t find_units(uint64_t n, uint64_t step)
{
	uint64_t total = (own.end - own.start) >> UNIT_SHIFT, first = own.start >> UNIT_SHIFT;
	uint64_t at = own.hint, k;

	for (;;) {
		at = ALIGN_UP(first + at, step) - first;
		if (at + n > total)
			return 0;
		for (k = 0; k < n && at + k < own.beyond && own.unit[at + k].kind == UNIT_FREE; k++)
			;
		if (k == n || at + k >= own.beyond)
			return at;
		at += k;
		at += own.unit[at].kind == UNIT_RUN ? own.unit[at].length : 1;
	}
}

/* Addresses that were not used before; false: something of somebody else's is there, or no memory. */
static bool map_beyond(uint64_t at, uint64_t n)
{
	void *want = unit_address(at), *p;

	if (own.end - own.start != AREA_BYTES)
		return true; /* mapped without access from the start */
	p = mmap(want, n << UNIT_SHIFT, PROT_NONE, RESERVED | MAP_FIXED_NOREPLACE, -1, 0);
	if (p != MAP_FAILED && p != want)
		munmap(p, n << UNIT_SHIFT);
	return p == want;
}

static void mark(uint64_t at, uint64_t n)
{
	own.unit[at] = (struct unit){ .kind = UNIT_RUN, .length = (uint32_t)n };
	for (uint64_t k = 1; k < n; k++)
		own.unit[at + k] = (struct unit){ .kind = UNIT_MORE };
}

/* own.lock held. Zeroed and accessible by prot, or addresses only. */
static uint64_t take_units(uint64_t n, uint64_t step, int prot)
{
	uint64_t at, grow;

	while ((at = find_units(n, step)) != 0) {
		grow = at + n > own.beyond ? at + n - own.beyond : 0;
		if (!grow || map_beyond(own.beyond, grow)) {
			own.beyond += grow;
			break;
		}
		if (errno != EEXIST)
			return 0;
		mark(own.beyond, grow); /* lost to whoever is there */
		own.beyond += grow;
	}
	if (!at || (prot && mmap(unit_address(at), n << UNIT_SHIFT, prot, RESERVED | MAP_FIXED, -1, 0) == MAP_FAILED))
		return 0;
	mark(at, n);
	if (at == own.hint)
		own.hint = at + n;
	own.in_use += n << UNIT_SHIFT;
	return at;
}

/* own.lock held. */
static void give_units(uint64_t at, uint64_t n)
{
	/* the addresses stay reserved; a failure (too many mappings) leaves old pages there, emptied */
	if (mmap(unit_address(at), n << UNIT_SHIFT, PROT_NONE, RESERVED | MAP_FIXED, -1, 0) == MAP_FAILED)
		(void)madvise(unit_address(at), n << UNIT_SHIFT, MADV_DONTNEED);
	for (uint64_t k = 0; k < n; k++)
		own.unit[at + k] = (struct unit){ .kind = UNIT_FREE };
	if (at < own.hint)
		own.hint = at;
	own.in_use -= n << UNIT_SHIFT;
}

static void *take_pages(size_t bytes, size_t align, int prot)
{
	uint64_t n = ALIGN_UP((uint64_t)bytes, UNIT_BYTES) >> UNIT_SHIFT, at;

	if (!bytes || bytes > AREA_BYTES || !ready())
		return NULL;
	pthread_mutex_lock(&own.lock);
	at = fails_now() ? 0 : take_units(n, max_u64(align >> UNIT_SHIFT, 1), prot);
	pthread_mutex_unlock(&own.lock);
	return at ? unit_address(at) : NULL;
}

void *own_pages_aligned(size_t bytes, size_t align)
{
	return take_pages(bytes, align, PROT_READ | PROT_WRITE);
}

void *own_pages(size_t bytes)
{
	return own_pages_aligned(bytes, UNIT_BYTES);
}

void *own_reserve(size_t bytes)
{
	return take_pages(bytes, UNIT_BYTES, PROT_NONE);
}

void *own_map_file(size_t bytes, int prot, int fd, int64_t offset)
{
	void *p = own_reserve(bytes);
	int e;

	if (!p) {
		errno = ENOMEM;
		return NULL;
	}
	if (mmap(p, bytes, prot, MAP_SHARED | MAP_FIXED, fd, offset) != MAP_FAILED)
		return p;
	e = errno;
	own_pages_free(p);
	errno = e;
	return NULL;
}

static uint64_t unit_of(const void *p)
{
	return ((uint64_t)(uintptr_t)p - own.start) >> UNIT_SHIFT;
}

void own_pages_free(void *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&own.lock);
	give_units(unit_of(p), own.unit[unit_of(p)].length);
	pthread_mutex_unlock(&own.lock);
}

/* --- below 4 GiB --- */

void *own_low_page(void)
{
	void *p = MAP_FAILED;
	unsigned n = 0;

	if (!ready() || !own.low_start)
		return NULL;
	pthread_mutex_lock(&own.lock);
	while (n < LOW_BYTES / PAGE_SIZE && own.low_used[n / 64] & BIT_ULL(n % 64))
		n++;
	if (!fails_now() && n < LOW_BYTES / PAGE_SIZE) {
		p = mmap((void *)(uintptr_t)(own.low_start + n * PAGE_SIZE), PAGE_SIZE, PROT_READ | PROT_WRITE,
			 RESERVED | MAP_FIXED, -1, 0);
		if (p != MAP_FAILED)
			own.low_used[n / 64] |= BIT_ULL(n % 64);
	}
	pthread_mutex_unlock(&own.lock);
	return p == MAP_FAILED ? NULL : p;
}

void own_low_page_free(void *p)
{
	uint64_t n;

	if (!p)
		return;
	n = ((uint64_t)(uintptr_t)p - own.low_start) / PAGE_SIZE;
	pthread_mutex_lock(&own.lock);
	if (mmap(p, PAGE_SIZE, PROT_NONE, RESERVED | MAP_FIXED, -1, 0) == MAP_FAILED)
		(void)madvise(p, PAGE_SIZE, MADV_DONTNEED);
	own.low_used[n / 64] &= ~BIT_ULL(n % 64);
	pthread_mutex_unlock(&own.lock);
}

/* --- objects --- */

static int class_of(size_t bytes, size_t align)
{
	for (unsigned c = 0; c < NR_CLASSES; c++)
		if (size_of_class[c] >= bytes && size_of_class[c] % align == 0)
			return (int)c;
	return -1;
}

/* own.lock held. */
static void push_free(unsigned c, void *p)
{
	struct free_object *f = p;

	f->next = own.free[c];
	f->prev = &own.free[c];
	if (f->next)
		f->next->prev = &f->next;
	own.free[c] = f;
	own.nr_free[c]++;
}

static void drop_free(unsigned c, struct free_object *f)
{
	own.nr_free[c]--;
	*f->prev = f->next;
	if (f->next)
		f->next->prev = f->prev;
}

/* own.lock held. */
static bool new_slab(unsigned c)
{
	uint64_t at = take_units(1, 1, PROT_READ | PROT_WRITE);
	unsigned n = (unsigned)(UNIT_BYTES / size_of_class[c]);
	char *base;

	if (!at)
		return false;
	base = unit_address(at);
	own.unit[at] = (struct unit){ .kind = UNIT_SLAB, .length = c };
	while (n--)
		push_free(c, base + n * size_of_class[c]);
	return true;
}

static void *take_object(unsigned c)
{
	struct free_object *f;

	pthread_mutex_lock(&own.lock);
	if (fails_now() || (!own.free[c] && !new_slab(c))) {
		pthread_mutex_unlock(&own.lock);
		return NULL;
	}
	f = own.free[c];
	drop_free(c, f);
	own.unit[unit_of(f)].length += ONE_USED;
	pthread_mutex_unlock(&own.lock);
	return f;
}

static unsigned class_at(uint64_t at)
{
	return (unsigned)FIELD_GET(CLASS, own.unit[at].length);
}

/* own.lock held. No object of the slab is in use. */
static void give_slab(uint64_t at)
{
	unsigned c = class_at(at), n = (unsigned)(UNIT_BYTES / size_of_class[c]);
	char *base = unit_address(at);

	for (unsigned k = 0; k < n; k++)
		drop_free(c, (struct free_object *)(base + k * size_of_class[c]));
	give_units(at, 1);
}

static void free_object(void *p, uint64_t at)
{
	unsigned c;

	pthread_mutex_lock(&own.lock);
	c = class_at(at);
	push_free(c, p);
	own.unit[at].length -= ONE_USED;
	if (!FIELD_GET(USED, own.unit[at].length) && own.nr_free[c] > UNIT_BYTES / size_of_class[c])
		give_slab(at);
	pthread_mutex_unlock(&own.lock);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OWN_OBJECTS 0 /* the sanitizer's allocator knows every object's end and history */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define OWN_OBJECTS 0
#endif
#endif
#ifndef OWN_OBJECTS
#define OWN_OBJECTS 1
#endif

static bool sanitizer_fails(void)
{
	bool fails;

	pthread_mutex_lock(&own.lock);
	fails = fails_now();
	pthread_mutex_unlock(&own.lock);
	return fails;
}

void *own_aligned(size_t align, size_t bytes)
{
	void *p;
	int c;

	if (!ready())
		return NULL;
	if (!OWN_OBJECTS)
		return sanitizer_fails() || posix_memalign(&p, max_u64(align, sizeof(p)), bytes) ? NULL : p;
	c = class_of(bytes, align);
	return c < 0 ? own_pages(bytes) : take_object((unsigned)c);
}

USERKVM_SHARED void *own_malloc(size_t bytes)
{
	return own_aligned(16, bytes);
}

void *own_calloc(size_t n, size_t bytes)
{
	void *p;

	if (__builtin_mul_overflow(n, bytes, &bytes))
		return NULL;
	p = own_malloc(bytes);
	/* pages of a run are zero */
	if (p && (!OWN_OBJECTS || bytes <= size_of_class[NR_CLASSES - 1]))
		memset(p, 0, bytes);
	return p;
}

static bool is_own(const void *p)
{
	uint64_t a = (uint64_t)(uintptr_t)p;

	return a >= own.start && a < own.end;
}

static size_t size_of(const void *p)
{
	const struct unit *u = &own.unit[unit_of(p)];

	return u->kind == UNIT_SLAB ? size_of_class[FIELD_GET(CLASS, u->length)] : (size_t)u->length << UNIT_SHIFT;
}

USERKVM_SHARED void *own_realloc(void *p, size_t bytes)
{
	void *n;

	if (!p || !is_own(p))
		return p || !OWN_OBJECTS ? sanitizer_fails() ? NULL : realloc(p, bytes) : own_malloc(bytes);
	if (bytes <= size_of(p))
		return p;
	n = own_malloc(bytes);
	if (!n)
		return NULL;
	memcpy(n, p, size_of(p));
	own_free(p);
	return n;
}

USERKVM_SHARED void own_free(void *p)
{
	if (!p)
		return;
	if (!is_own(p))
		free(p);
	else if (own.unit[unit_of(p)].kind == UNIT_SLAB)
		free_object(p, unit_of(p));
	else
		own_pages_free(p);
}

/* --- for tests --- */

void own_fail_at(uint64_t n, bool all)
{
	pthread_mutex_lock(&own.lock);
	own.fail_at = n ? own.nr + n : 0;
	own.fail_all = all;
	pthread_mutex_unlock(&own.lock);
}

uint64_t own_allocations(void)
{
	return READ_ONCE(own.nr);
}

uint64_t own_in_use(void)
{
	return READ_ONCE(own.in_use);
}
