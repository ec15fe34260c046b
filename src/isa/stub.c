/*
 * The arena of silicon stubs (isa/stub.h).
 *
 * Invariants
 * 1. Chunks are appended, never unmapped; nr_chunks is published (release)
 *    after the chunk it counts, so that silicon_contains() reads it without a
 *    lock, from a signal handler.
 * 2. The first byte of the first chunk is a RET.
 * 3. An op and its code lie together in the arena; what has been returned
 *    by silicon_get() is not written again.
 *
 * Locks: arena.lock guards the table, the chunks' fill mark and appending.
 */
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "isa/stub.h"
#include "lib/fork.h"
#include "lib/log.h"
#include "lib/own.h"

#define CHUNK_BYTES (16u << 20)
#define NR_CHUNKS 128u /* 2 GiB of different instructions */
#define NR_BUCKETS (1u << 14)
#define RET_OPCODE 0xc3

static struct {
	pthread_mutex_t lock;
	uint8_t *chunk[NR_CHUNKS];
	uint32_t nr_chunks; /* (a) */
	uint32_t used;	    /* of the last chunk, bytes */
	bool complained;    /* that no chunk was to be had */
	const struct silicon_op *bucket[NR_BUCKETS];
} arena = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* What is in the buckets is whole at any time. */
static void unlock_in_child(void)
{
	pthread_mutex_init(&arena.lock, NULL);
}
LIB_IN_FORKED_CHILD(unlock_in_child)

static bool append_chunk(void)
{
	uint32_t n = arena.nr_chunks;
	uint8_t *p;

	if (n == NR_CHUNKS)
		return false;
	p = own_reserve(CHUNK_BYTES);
	if (!p)
		return false;
	if (mmap(p, CHUNK_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
		own_pages_free(p);
		return false;
	}
	p[0] = RET_OPCODE;
	arena.chunk[n] = p;
	arena.used = 64;
	__atomic_store_n(&arena.nr_chunks, n + 1, __ATOMIC_RELEASE);
	return true;
}

/* Room for an op with nr_bytes of code, cache-line aligned. */
static struct silicon_op *arena_alloc(unsigned nr_bytes)
{
	uint32_t size = ALIGN_UP((uint32_t)sizeof(struct silicon_op) + nr_bytes, 64u);
	struct silicon_op *op;

	if ((!arena.nr_chunks || arena.used + size > CHUNK_BYTES) && !append_chunk())
		return NULL;
	op = (struct silicon_op *)(arena.chunk[arena.nr_chunks - 1] + arena.used);
	arena.used += size;
	return op;
}

/* FNV-1a */
static uint32_t hash_bytes(uint32_t h, const void *p, size_t n)
{
	const uint8_t *b = p;

	while (n--)
		h = (h ^ *b++) * 16777619u;
	return h;
}

const struct silicon_op *silicon_get(const struct silicon_desc *desc, const uint8_t *code,
				     unsigned nr_bytes)
{
	uint32_t hash = hash_bytes(hash_bytes(2166136261u, desc, sizeof(*desc)), code, nr_bytes);
	const struct silicon_op **head = &arena.bucket[hash % NR_BUCKETS], *op;
	struct silicon_op *made;

	pthread_mutex_lock(&arena.lock);
	for (op = *head; op; op = op->next)
		if (op->hash == hash && op->nr_bytes == nr_bytes &&
		    !memcmp(&op->desc, desc, sizeof(*desc)) && !memcmp(op->code, code, nr_bytes))
			goto out;
	made = arena_alloc(nr_bytes);
	if (made) {
		made->desc = *desc;
		made->hash = hash;
		made->nr_bytes = nr_bytes;
		memcpy(made->code, code, nr_bytes);
		made->run = (silicon_fn *)(uintptr_t)made->code;
		made->next = *head;
		*head = made;
	}
	op = made;
	if (!made && !arena.complained) {
		arena.complained = true;
		log_always("no executable memory for x87/SSE/AVX stubs (%u chunks of %u bytes): "
			   "such instructions raise #UD", arena.nr_chunks, CHUNK_BYTES);
	}
out:
	pthread_mutex_unlock(&arena.lock);
	return op;
}

bool silicon_contains(uint64_t host_ip)
{
	uint32_t n = __atomic_load_n(&arena.nr_chunks, __ATOMIC_ACQUIRE);

	while (n--)
		if (host_ip - (uint64_t)(uintptr_t)arena.chunk[n] < CHUNK_BYTES)
			return true;
	return false;
}

uint64_t silicon_ret(void)
{
	return arena.nr_chunks ? (uint64_t)(uintptr_t)arena.chunk[0] : 0;
}
