/*
 * The ring file: where a traced process leaves its records, and whoever traces
 * it takes them from. Shared memory (a memfd) that the tracer makes and sets up.
 *
 *   header: magic, sizes, which events, threads' names, lost records
 *   ring 0: head tail | data ......................................... |
 *   ring 1: ...         one writer (the thread that owns it), one reader
 *
 * Invariants: 1. head and tail only grow; head - tail <= ring_size. 2. A record
 * is complete before head passes it (release; the reader acquires). 3. Records
 * are 8-aligned and never wrap: a filler (cpu == TRACE_FILLER) takes the rest.
 * 4. What finds no place is counted in `lost`, never waited for. The reader
 * trusts nothing it finds: sizes are checked (tools/trace/capture.c).
 */
#ifndef USERKVM_TRACE_RING_H
#define USERKVM_TRACE_RING_H

#include <stdint.h>

#include "trace/record.h"

#define TRACE_RING_MAGIC  0x31676e72766b7375ULL /* "uskvrng1" */
#define TRACE_MAX_RINGS   256
#define TRACE_MAX_THREADS 4096
#define TRACE_FILLER      0xffffffffu

struct trace_record_head {
	uint32_t size; /* with this head; a multiple of 8 */
	uint32_t cpu;
	uint64_t ts; /* ns, CLOCK_MONOTONIC */
};

struct trace_thread {
	int32_t pid, tid;
	char comm[16];
};

struct trace_ring {
	int32_t owner; /* (a) tid; 0: free */
	uint64_t lost; /* (a) written by the owner */
	uint64_t head __attribute__((aligned(64)));
	uint64_t tail __attribute__((aligned(64)));
} __attribute__((aligned(4096)));

struct trace_ring_file {
	uint64_t magic;       /* (c) */
	uint32_t nr_events;   /* (c) TRACE_NR_EVENTS: both sides are of one build */
	uint32_t nr_rings;    /* (c) */
	uint64_t ring_size;   /* (c) bytes of data, a power of two */
	uint64_t lost;        /* (a) of threads that found no ring */
	uint32_t nr_threads;  /* (a) */
	uint32_t nr_attached; /* (a) processes */
	uint8_t enabled[(TRACE_NR_EVENTS + 7) / 8]; /* (c) */
	struct trace_thread threads[TRACE_MAX_THREADS];
};

static inline uint64_t trace_header_bytes(void)
{
	return (sizeof(struct trace_ring_file) + 4095) & ~4095ULL;
}

static inline uint64_t trace_file_bytes(uint32_t nr_rings, uint64_t ring_size)
{
	return trace_header_bytes() + nr_rings * (sizeof(struct trace_ring) + ring_size);
}

static inline struct trace_ring *trace_ring_at(struct trace_ring_file *f, uint32_t i)
{
	return (struct trace_ring *)((char *)f + trace_header_bytes() +
	                             i * (sizeof(struct trace_ring) + f->ring_size));
}

static inline uint8_t *trace_ring_data(struct trace_ring *r)
{
	return (uint8_t *)(r + 1);
}

#endif
