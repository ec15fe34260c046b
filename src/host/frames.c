/*
 * The pool of 4 KiB frames.
 *
 * Chunks of 2 MiB are mapped once and never given back; a free frame holds the
 * pointer to the next free one.
 * Invariants: 1. A frame is in the free list or its owner's, never both.
 * 2. A frame that was never handed out is zero (fresh from mmap), a recycled
 *    one is cleared when it is handed out again.
 * Lock: pool.lock, a leaf; held for a few instructions and the rare mmap.
 */
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "host/memory.h"
#include "lib/fork.h"

#define CHUNK_SIZE (2ULL << 20)

static struct frame_pool {
	pthread_mutex_t lock;
	void *free;		   /* chained through the first word */
	char *fresh, *fresh_end;   /* the rest of the newest chunk */
	uint64_t in_use;	   /* (a) */
} pool = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* Free frames may be half taken there; the child begins a chunk of its own. */
static void forget_in_child(void)
{
	memset(&pool, 0, sizeof(pool));
	pthread_mutex_init(&pool.lock, NULL);
}
LIB_IN_FORKED_CHILD(forget_in_child)

/* pool.lock held. The chunk is aligned to its size, so huge pages can back it. */
static bool map_chunk(void)
{
	char *p = mmap(NULL, 2 * CHUNK_SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *a;

	if (p == MAP_FAILED)
		return false;
	a = (char *)ALIGN_UP((uintptr_t)p, CHUNK_SIZE);
	if (a != p)
		munmap(p, (size_t)(a - p));
	if (a != p + CHUNK_SIZE)
		munmap(a + CHUNK_SIZE, (size_t)(p + CHUNK_SIZE - a));
	pool.fresh = a;
	pool.fresh_end = a + CHUNK_SIZE;
	return true;
}

void *host_frame_alloc(void)
{
	void *frame;
	bool recycled = false;

	pthread_mutex_lock(&pool.lock);
	frame = pool.free;
	if (frame) {
		pool.free = *(void **)frame;
		recycled = true;
	} else if (pool.fresh != pool.fresh_end || map_chunk()) {
		frame = pool.fresh;
		pool.fresh += PAGE_SIZE;
	}
	pthread_mutex_unlock(&pool.lock);
	if (!frame)
		return NULL;
	if (recycled)
		memset(frame, 0, PAGE_SIZE);
	__atomic_fetch_add(&pool.in_use, 1, __ATOMIC_RELAXED);
	return frame;
}

void host_frame_free(void *frame)
{
	if (!frame)
		return;
	pthread_mutex_lock(&pool.lock);
	*(void **)frame = pool.free;
	pool.free = frame;
	pthread_mutex_unlock(&pool.lock);
	__atomic_fetch_sub(&pool.in_use, 1, __ATOMIC_RELAXED);
}

/* Few are needed (one a vCPU): each is a mapping of its own. */
void *host_low_frame_alloc(void)
{
	void *p = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void host_low_frame_free(void *frame)
{
	if (frame)
		munmap(frame, PAGE_SIZE);
}

uint64_t host_frames_in_use(void)
{
	return READ_ONCE(pool.in_use);
}
