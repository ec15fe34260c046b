/*
 * Tracepoints into a ring file: what is written is what is read, what finds no
 * room is counted, what is masked is not there.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "trace/meta.h"
#include "trace/ring.h"
#include "trace/trace.h"

#define RING_BYTES 4096u
#define NR_RINGS   3u

static struct trace_ring_file *file;
static int fd;

/* Attaching is once for a process, so the file lives as long as the tests. */
static int make_file(void **state)
{
	uint64_t bytes = trace_file_bytes(NR_RINGS, RING_BYTES);
	char path[64];

	fd = memfd_create("test", 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	file = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(file != MAP_FAILED);
	file->magic = TRACE_RING_MAGIC;
	file->nr_events = TRACE_NR_EVENTS;
	file->nr_rings = NR_RINGS;
	file->ring_size = RING_BYTES;
	memset(file->enabled, 0xff, sizeof(file->enabled));
	file->enabled[TRACE_kvm_kvm_cr / 8] &= (uint8_t) ~(1 << TRACE_kvm_kvm_cr % 8);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	setenv("USERKVM_TRACE", path, 1);
	trace_attach();
	return 0;
}

/* The ring this thread writes to. */
static struct trace_ring *own_ring(void)
{
	for (uint32_t i = 0; i < NR_RINGS; i++)
		if (trace_ring_at(file, i)->owner == gettid())
			return trace_ring_at(file, i);
	return NULL;
}

/* Take the next record, past a filler. NULL: none. */
static const struct trace_entry *take(struct trace_ring *r)
{
	const struct trace_record_head *h;

	if (r->head == r->tail)
		return NULL;
	h = (const void *)(trace_ring_data(r) + r->tail % RING_BYTES);
	if (h->cpu == TRACE_FILLER) {
		r->tail += h->size;
		h = (const void *)(trace_ring_data(r) + r->tail % RING_BYTES);
	}
	r->tail += h->size;
	return (const void *)(h + 1);
}

static void empty(void)
{
	TRACE(kvm, kvm_fast_mmio, 0); /* so that there is a ring */
	own_ring()->tail = own_ring()->head;
	own_ring()->lost = 0;
}

static void fields_arrive_as_they_were_given(void **state)
{
	const struct trace_kvm_kvm_exit *e;

	empty();
	TRACE(kvm, kvm_exit, 48, 0x1234, 1, 0x182, 0, 7, 9, 3);
	e = (const void *)take(own_ring());
	assert_non_null(e);
	assert_int_equal(e->ent.common_type, TRACE_ID_BASE + TRACE_kvm_kvm_exit);
	assert_int_equal(e->ent.common_pid, gettid());
	assert_int_equal(e->exit_reason, 48);
	assert_int_equal(e->guest_rip, 0x1234);
	assert_int_equal(e->info1, 0x182);
	assert_int_equal(e->intr_info, 7);
	assert_int_equal(e->vcpu_id, 3);
	assert_null(take(own_ring()));
}

static void masked_event_is_not_evaluated_and_leaves_nothing(void **state)
{
	int evaluated = 0;

	empty();
	TRACE(kvm, kvm_cr, 1, 3, (unsigned long)++evaluated);
	assert_int_equal(evaluated, 0);
	assert_null(take(own_ring()));
}

static void listener_of_the_probe_turns_a_masked_event_on(void **state)
{
	int evaluated = 0;

	empty();
	kvm_kvm_cr_semaphore.semaphore++;
	TRACE(kvm, kvm_cr, 1, 3, (unsigned long)++evaluated);
	kvm_kvm_cr_semaphore.semaphore--;
	TRACE(kvm, kvm_cr, 1, 3, (unsigned long)++evaluated);
	assert_int_equal(evaluated, 1);
	assert_null(take(own_ring()));
}

static void many_records_wrap_around_and_keep_their_order(void **state)
{
	empty();
	for (uint64_t i = 0; i < 20000; i++) {
		const struct trace_kvm_kvm_fast_mmio *e;

		TRACE(kvm, kvm_fast_mmio, i);
		if (i % 3 == 0)
			TRACE(kvm, kvm_hypercall, i, 1, 2, 3, 4);
		e = (const void *)take(own_ring());
		assert_int_equal(e->gpa, i);
		if (i % 3 == 0)
			assert_int_equal(
			    ((const struct trace_kvm_kvm_hypercall *)take(own_ring()))->nr, i);
		assert_null(take(own_ring()));
	}
	assert_int_equal(own_ring()->lost, 0);
}

static void full_ring_counts_what_it_loses(void **state)
{
	uint64_t written = 0, n = 1000;

	empty();
	for (uint64_t i = 0; i < n; i++)
		TRACE(kvm, kvm_fast_mmio, i);
	for (const struct trace_kvm_kvm_fast_mmio *e; (e = (const void *)take(own_ring())) != NULL;
	     written++)
		assert_int_equal(e->gpa, written);
	assert_true(written > 0 && written < n);
	assert_int_equal(own_ring()->lost, n - written);
}

static uint32_t inner(void)
{
	TRACE_CALL(kvm_mmu_load, 0);
	TRACE_LINE(allocate_vpid, 5);
	return trace_depth();
}

static void calls_nest_and_come_back(void **state)
{
	uint32_t before = trace_depth();
	const struct trace_userkvm_allocate_vpid *line;
	const struct trace_userkvm_kvm_mmu_load *call;

	empty();
	{
		TRACE_CALL(kvm_mmu_reload, 0, 0);
		assert_int_equal(inner(), before + 2);
		assert_int_equal(trace_depth(), before + 1);
	}
	assert_int_equal(trace_depth(), before);
	take(own_ring());
	call = (const void *)take(own_ring());
	assert_int_equal(call->depth, before + 1);
	line = (const void *)take(own_ring());
	assert_int_equal(line->depth, before + 2);
	assert_int_equal(line->vpid, 5);
}

static void *trace_a_little(void *arg)
{
	TRACE(kvm, kvm_fast_mmio, 1);
	if (arg)
		pthread_barrier_wait(arg);
	if (arg)
		pthread_barrier_wait(arg);
	return NULL;
}

static void rings_of_ended_threads_are_used_again(void **state)
{
	pthread_t t;

	empty();
	file->lost = 0;
	for (int i = 0; i < 20; i++) {
		pthread_create(&t, NULL, trace_a_little, NULL);
		pthread_join(t, NULL);
	}
	assert_int_equal(file->lost, 0);
	for (uint32_t i = 0; i < NR_RINGS; i++)
		assert_true(trace_ring_at(file, i)->owner == 0 ||
		            trace_ring_at(file, i) == own_ring());
}

static void thread_without_a_ring_counts_as_lost(void **state)
{
	pthread_barrier_t b;
	pthread_t t[NR_RINGS];

	empty();
	file->lost = 0;
	pthread_barrier_init(&b, NULL, NR_RINGS + 1);
	for (uint32_t i = 0; i < NR_RINGS; i++)
		pthread_create(&t[i], NULL, trace_a_little, &b);
	pthread_barrier_wait(&b);
	assert_int_equal(file->lost, 1);
	pthread_barrier_wait(&b);
	for (uint32_t i = 0; i < NR_RINGS; i++)
		pthread_join(t[i], NULL);
}

static void forked_child_leaves_the_parents_ring_alone(void **state)
{
	uint64_t head;
	int status;
	pid_t pid;

	empty();
	head = own_ring()->head;
	pid = fork();
	if (pid == 0) {
		TRACE(kvm, kvm_fast_mmio, 1);
		_exit(TRACE_ON(kvm, kvm_fast_mmio) ? 1 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(own_ring()->head, head);
}

static void errno_is_kept(void **state)
{
	errno = EXDEV;
	TRACE(kvm, kvm_fast_mmio, 1);
	assert_int_equal(errno, EXDEV);
}

/* What a format file says of the fields is where the compiler puts them. */
static void fields_lie_in_order_inside_their_record(void **state)
{
	for (int i = 0; i < TRACE_NR_EVENTS; i++) {
		const struct trace_event_meta *m = &trace_events[i];
		uint32_t end = sizeof(struct trace_entry);

		assert_int_equal(trace_event_find(m->group, m->name), i);
		for (unsigned k = 0; k < m->nr_fields; k++) {
			const struct trace_field *f = &m->fields()[k];

			assert_true(f->offset >= end);
			end = f->offset + f->size;
			assert_true(end <= m->size);
		}
	}
}

static void text_is_the_kernels(void **state)
{
	struct trace_kvm_kvm_pio pio = {{0}, 1, 0x3f8, 1, 1, 0x41};
	struct trace_kvm_kvm_inj_exception ex = {{0}, 14, 1, 2, 0};
	struct trace_kvm_kvm_emulate_insn insn = {{0}, 0x1000, 0, 2, {0x8b, 0x00}, 4, 0};
	static const char *const expected =
	    "pio_write at 0x3f8 size 1 count 1 val 0x41 |#PF (0x2)|0:1000:8b 00 (prot64)|";
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);

	trace_events[TRACE_kvm_kvm_pio].print(f, &pio);
	putc('|', f);
	trace_events[TRACE_kvm_kvm_inj_exception].print(f, &ex);
	putc('|', f);
	trace_events[TRACE_kvm_kvm_emulate_insn].print(f, &insn);
	putc('|', f);
	fclose(f);
	assert_string_equal(text, expected);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(fields_arrive_as_they_were_given),
	    cmocka_unit_test(masked_event_is_not_evaluated_and_leaves_nothing),
	    cmocka_unit_test(listener_of_the_probe_turns_a_masked_event_on),
	    cmocka_unit_test(many_records_wrap_around_and_keep_their_order),
	    cmocka_unit_test(full_ring_counts_what_it_loses),
	    cmocka_unit_test(calls_nest_and_come_back),
	    cmocka_unit_test(rings_of_ended_threads_are_used_again),
	    cmocka_unit_test(thread_without_a_ring_counts_as_lost),
	    cmocka_unit_test(forked_child_leaves_the_parents_ring_alone),
	    cmocka_unit_test(errno_is_kept),
	    cmocka_unit_test(fields_lie_in_order_inside_their_record),
	    cmocka_unit_test(text_is_the_kernels),
	};

	return cmocka_run_group_tests(tests, make_file, NULL);
}
