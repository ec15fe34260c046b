/*
 * What a tracepoint costs: off, and on into a ring that another thread empties.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "trace/ring.h"
#include "trace/trace.h"

#define ROUNDS_OFF 200000000ULL
#define ROUNDS_ON  4000000ULL
#define RING_BYTES (8u << 20)

static struct trace_ring_file *file;
static uint32_t done; /* (a) */

/* A loop of one addition; with_trace adds a tracepoint of seven fields that is off. */
static double loop_ns(int with_trace)
{
	uint64_t start = trace_clock(), sum = 0;

	if (with_trace) {
		for (uint64_t i = 0; i < ROUNDS_OFF; i++) {
			TRACE(kvm, kvm_exit, (unsigned)i, sum, 1, i, sum, 0, 0, 0);
			sum += i;
			__asm__ volatile("" : "+r"(sum));
		}
	} else {
		for (uint64_t i = 0; i < ROUNDS_OFF; i++) {
			sum += i;
			__asm__ volatile("" : "+r"(sum));
		}
	}
	return (double)(trace_clock() - start) / (double)ROUNDS_OFF;
}

/* The reader, as userkvm trace is one; without the disk. */
static void *drain(void *arg)
{
	struct trace_ring *r = trace_ring_at(file, 0);

	while (!__atomic_load_n(&done, __ATOMIC_ACQUIRE)) {
		__atomic_store_n(&r->tail, __atomic_load_n(&r->head, __ATOMIC_ACQUIRE),
		                 __ATOMIC_RELEASE);
		usleep(1000);
	}
	return NULL;
}

static int attach(void)
{
	uint64_t bytes = trace_file_bytes(1, RING_BYTES);
	int fd = memfd_create("bench", 0);
	char path[64];

	if (fd < 0 || ftruncate(fd, (off_t)bytes))
		return -1;
	file = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (file == MAP_FAILED)
		return -1;
	file->magic = TRACE_RING_MAGIC;
	file->nr_events = TRACE_NR_EVENTS;
	file->nr_rings = 1;
	file->ring_size = RING_BYTES;
	for (size_t i = 0; i < sizeof(file->enabled); i++)
		file->enabled[i] = 0xff;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	setenv("USERKVM_TRACE", path, 1);
	trace_attach();
	return 0;
}

int main(void)
{
	double bare = loop_ns(0), off = loop_ns(1), seconds;
	pthread_t reader;
	uint64_t start;

	printf("tracepoint off: %.2f ns a round, %.2f without it\n", off, bare);
	if (attach())
		return 1;
	pthread_create(&reader, NULL, drain, NULL);
	start = trace_clock();
	for (uint64_t i = 0; i < ROUNDS_ON; i++)
		TRACE(kvm, kvm_exit, (unsigned)i, i, 1, i, 0, 0, 0, 0);
	seconds = (double)(trace_clock() - start) / 1e9;
	__atomic_store_n(&done, 1, __ATOMIC_RELEASE);
	pthread_join(reader, NULL);
	printf("kvm_exit on: %.2f million events a second, %.0f ns each, %llu of %llu lost\n",
	       (double)ROUNDS_ON / seconds / 1e6, seconds / (double)ROUNDS_ON * 1e9,
	       (unsigned long long)trace_ring_at(file, 0)->lost, ROUNDS_ON);
	return 0;
}
