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

#include "host/memory.h"
#include "lib/fork.h"
#include "lib/own.h"

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
	char *p = own_pages_aligned(CHUNK_SIZE, CHUNK_SIZE);

	if (!p)
		return false;
	pool.fresh = p;
	pool.fresh_end = p + CHUNK_SIZE;
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

/* Few are needed: one a vCPU. */
void *host_low_frame_alloc(void)
{
	return own_low_page();
}

void host_low_frame_free(void *frame)
{
	own_low_page_free(frame);
}

uint64_t host_frames_in_use(void)
{
	return READ_ONCE(pool.in_use);
}
