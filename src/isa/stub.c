/*
 * Arenas of silicon stubs (isa/stub.h).
 *
 *     [ RET ... | op, code | op, code | ... free ... ]   written by rw, used by run
 *
 * Invariants
 * 1. The first byte is a RET, from creation on.
 * 2. An op and its code lie together; what silicon_get() has returned is not
 *    written again before silicon_arena_reset().
 * 3. The hash buckets hold addresses in the executable view.
 *
 * Locks: none; an arena is used by one thread at a time.
 */
#include <string.h>

#include "emit/exec.h"
#include "isa/simd_encode.h"
#include "isa/stub.h"
#include "lib/error.h"
#include "lib/own.h"

#define RET_OPCODE 0xc3
#define LINE 64u
#define STUB_ROOM ALIGN_UP((uint32_t)sizeof(struct silicon_op) + STUB_BYTES, LINE)
#define STUBS_EACH 4u /* an instruction's own and its helpers */

struct silicon_arena {
	struct exec_memory mem;
	uint32_t used;	      /* bytes */
	uint32_t nr_buckets;  /* a power of two */
	const struct silicon_op *bucket[];
};

static __thread struct silicon_arena *in_use;

int silicon_arena_create(struct silicon_arena **out, size_t bytes)
{
	uint32_t nr = bytes < (1u << 20) ? 16 : 4096;
	struct silicon_arena *a = own_calloc(1, sizeof(*a) + nr * sizeof(a->bucket[0]));
	int err;

	*out = NULL;
	if (!a)
		return err_born(ENOMEM, "no memory for stubs");
	err = exec_memory_create(&a->mem, bytes, NULL);
	if (err) {
		own_free(a);
		return err;
	}
	a->mem.rw[0] = RET_OPCODE;
	a->used = LINE;
	a->nr_buckets = nr;
	*out = a;
	return 0;
}

void silicon_arena_destroy(struct silicon_arena *a)
{
	if (!a)
		return;
	if (in_use == a)
		in_use = NULL;
	exec_memory_destroy(&a->mem);
	own_free(a);
}

void silicon_arena_reset(struct silicon_arena *a)
{
	memset(a->bucket, 0, a->nr_buckets * sizeof(a->bucket[0]));
	a->used = LINE;
}

bool silicon_arena_has_room(const struct silicon_arena *a, unsigned nr)
{
	return a->mem.size - a->used >= (size_t)nr * STUBS_EACH * STUB_ROOM;
}

void silicon_use(struct silicon_arena *a)
{
	in_use = a;
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
	uint32_t size = ALIGN_UP((uint32_t)sizeof(struct silicon_op) + nr_bytes, LINE);
	struct silicon_arena *a = in_use;
	const struct silicon_op **head, *op;
	struct silicon_op *made;

	if (!a)
		return NULL;
	head = &a->bucket[hash & (a->nr_buckets - 1)];
	for (op = *head; op; op = op->next)
		if (op->hash == hash && op->nr_bytes == nr_bytes &&
		    !memcmp(&op->desc, desc, sizeof(*desc)) && !memcmp(op->code, code, nr_bytes))
			return op;
	if (a->used + size > a->mem.size)
		return NULL;
	made = (struct silicon_op *)(a->mem.rw + a->used);
	op = (const struct silicon_op *)(a->mem.run + a->used);
	made->desc = *desc;
	made->hash = hash;
	made->nr_bytes = nr_bytes;
	memcpy(made->code, code, nr_bytes);
	made->run = (silicon_fn *)(uintptr_t)op->code;
	made->next = *head;
	*head = op;
	a->used += size;
	exec_memory_sync();
	return op;
}

bool silicon_contains(const struct silicon_arena *a, uint64_t host_ip)
{
	return a && host_ip - (uint64_t)(uintptr_t)a->mem.run < a->mem.size;
}

uint64_t silicon_ret(const struct silicon_arena *a)
{
	return (uint64_t)(uintptr_t)a->mem.run;
}
