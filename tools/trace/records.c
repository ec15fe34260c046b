/*
 * What a collector has spooled, as records in order of time: see capture.h.
 *
 * Invariant: a record's head and sizes have been checked (capture_believable()) before anything else of it is used.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "tools/trace/capture.h"

bool capture_believable(const struct trace_record_head *h, uint64_t rest)
{
	const struct trace_entry *ent = (const void *)(h + 1);
	unsigned event;

	if (rest < sizeof(*h) + sizeof(*ent) || h->size < sizeof(*h) + sizeof(*ent) ||
	    h->size > rest || h->size % 8 || h->cpu > 0xffff || ent->common_type < TRACE_ID_BASE)
		return false;
	event = (unsigned)(ent->common_type - TRACE_ID_BASE);
	return event < TRACE_NR_EVENTS && h->size >= sizeof(*h) + trace_events[event].size;
}

/* Records of one piece; with c->records NULL they are counted only. */
static void take_piece(struct capture *c, const uint8_t *p, uint64_t n)
{
	while (n >= 8) {
		const struct trace_record_head *h = (const void *)p;

		if (h->cpu == TRACE_FILLER)
			return; /* to the end of the ring, where pieces end */
		if (!capture_believable(h, n)) {
			c->nr_bad += c->records != NULL;
			return;
		}
		if (c->records)
			c->records[c->nr_records] =
			    (struct capture_record){h, (const void *)(h + 1)};
		c->nr_records++;
		p += h->size;
		n -= h->size;
	}
}

static void take_pieces(struct capture *c)
{
	const uint8_t *p = c->spool, *end = p + c->spool_bytes;
	uint64_t n;

	c->nr_records = 0;
	while ((size_t)(end - p) > sizeof(n)) {
		memcpy(&n, p, sizeof(n));
		p += sizeof(n);
		if (n > (uint64_t)(end - p))
			return;
		take_piece(c, p, n);
		p += n;
	}
}

static int by_time(const void *a, const void *b)
{
	const struct capture_record *x = a, *y = b;

	if (x->head->ts != y->head->ts)
		return x->head->ts < y->head->ts ? -1 : 1;
	return x->head < y->head ? -1 : x->head > y->head;
}

int capture_load(struct capture *c, int spool, const struct trace_ring_file *file)
{
	struct stat st;

	if (fstat(spool, &st))
		return -1;
	c->spool_bytes = (size_t)st.st_size;
	if (c->spool_bytes) {
		c->spool = mmap(NULL, c->spool_bytes, PROT_READ, MAP_PRIVATE, spool, 0);
		if (c->spool == MAP_FAILED) {
			c->spool = NULL;
			return -1;
		}
	}
	take_pieces(c);
	c->records = calloc(c->nr_records + 1, sizeof(*c->records));
	if (!c->records)
		return -1;
	take_pieces(c);
	qsort(c->records, c->nr_records, sizeof(*c->records), by_time);

	c->nr_threads = file->nr_threads < TRACE_MAX_THREADS ? file->nr_threads : TRACE_MAX_THREADS;
	c->threads = calloc(c->nr_threads + 1, sizeof(*c->threads));
	if (!c->threads)
		return -1;
	memcpy(c->threads, file->threads, c->nr_threads * sizeof(*c->threads));
	for (uint32_t i = 0; i < c->nr_threads; i++)
		c->threads[i].comm[sizeof(c->threads[i].comm) - 1] = '\0';
	return 0;
}

void capture_free(struct capture *c)
{
	if (c->spool)
		munmap(c->spool, c->spool_bytes);
	free(c->records);
	free(c->threads);
}

static const struct trace_thread *find_thread(const struct capture *c, int32_t tid)
{
	for (uint32_t i = c->nr_threads; i-- > 0;)
		if (c->threads[i].tid == tid)
			return &c->threads[i];
	return NULL;
}

const char *capture_comm(const struct capture *c, int32_t tid)
{
	const struct trace_thread *t = find_thread(c, tid);

	return t ? t->comm : "<...>";
}

int32_t capture_pid(const struct capture *c, int32_t tid)
{
	const struct trace_thread *t = find_thread(c, tid);

	return t ? t->pid : tid;
}
