/*
 * Tracepoints: KVM's own events (groups kvm, kvmmmu) and the walk-through's
 * function calls (group userkvm).
 *
 *	TRACE(kvm, kvm_pio, rw, port, size, count, val);
 *	TRACE_CALL(kvm_mmu_load, vcpu->vcpu_id);	(first statement of a function)
 *	TRACE_LINE(allocate_vpid, vpid);
 *
 * The values are the event's fields, in their order (the files in events/). They are
 * evaluated only when the event is on. Each event has one key word:
 *
 *	31 ............ 16 | 15 ............ 0
 *	ring (trace tool)  | semaphore (USDT: perf, bpftrace count themselves in)
 *
 * Off, a tracepoint is a load of that word and a branch that is never taken. On,
 * the record goes to the thread's ring (trace/ring.h) and, or, to the probe.
 * With -Dtracepoints=false nothing is left of any of it.
 *
 * Context: any thread, any lock held. Not in the processor's rooms, whose code
 * runs while the guest's FPU state is loaded. errno is kept.
 */
#ifndef USERKVM_TRACE_TRACE_H
#define USERKVM_TRACE_TRACE_H

#include "lib/types.h"
#include "trace/record.h"

union trace_key {
	uint32_t word; /* (a) */
	struct {
		unsigned short semaphore, ring;
	};
};

#ifndef USERKVM_NO_TRACEPOINTS
#define EVENT(group, name, ...) extern union trace_key group##_##name##_semaphore;
#include "trace/events.inc"
#define TRACE_ON(group, name) unlikely(READ_ONCE(group##_##name##_semaphore.word))
#else
#define TRACE_ON(group, name) 0
#endif

/* How many values, to be compared with the event's fields. */
#define TRACE_NARGS(...) \
	TRACE_NARGS_(__VA_ARGS__, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
#define TRACE_NARGS_(a, b, c, d, e, f, g, h, i, j, k, l, m, n, count, ...) count

#define TRACE_EMIT(group, name, n, ...)                                                            \
	do {                                                                                       \
		_Static_assert(n == TRACE_FIELDS_##group##_##name, "fields of " #name);            \
		struct trace_##group##_##name trace_rec_ = {{0}, __VA_ARGS__};                     \
		trace_emit(TRACE_##group##_##name, &trace_rec_, sizeof(trace_rec_));               \
	} while (0)

#define TRACE(group, name, ...)                                                                    \
	do {                                                                                       \
		if (TRACE_ON(group, name))                                                         \
			TRACE_EMIT(group, name, TRACE_NARGS(__VA_ARGS__), __VA_ARGS__);            \
	} while (0)

#define TRACE_LINE(name, ...)                                                                      \
	do {                                                                                       \
		if (TRACE_ON(userkvm, name))                                                       \
			TRACE_EMIT(userkvm, name, TRACE_NARGS(0, __VA_ARGS__), trace_depth(),      \
			           __VA_ARGS__);                                                   \
	} while (0)

/* A declaration: the scope it stands in is the call. */
#define TRACE_CALL(name, ...) TRACE_CALL_IF(true, name, __VA_ARGS__)
#define TRACE_CALL_IF(condition, name, ...)                                                        \
	bool trace_call_ __attribute__((cleanup(trace_leave), unused)) = false;                    \
	if (TRACE_ON(userkvm, name) && (condition)) {                                              \
		trace_call_ = true;                                                                \
		TRACE_EMIT(userkvm, name, TRACE_NARGS(0, __VA_ARGS__), trace_enter(),              \
		           __VA_ARGS__);                                                           \
	}

/* An event whose values take more than an expression: body fills *REC. */
#define TRACE_FILL(group, name, REC, body)                                                         \
	do {                                                                                       \
		if (TRACE_ON(group, name)) {                                                       \
			struct trace_##group##_##name trace_rec_ = {{0}}, *REC = &trace_rec_;      \
			body;                                                                      \
			trace_emit(TRACE_##group##_##name, &trace_rec_, sizeof(trace_rec_));       \
		}                                                                                  \
	} while (0)

/* A member is set to what is called `value`, and that is told by a LINE with a field fn. */
#define TRACE_SET(object, member, value, event)                                                    \
	do {                                                                                       \
		(object)->member = (value);                                                        \
		TRACE_FILL(userkvm, event, trace_set_, {                                           \
			trace_set_->depth = trace_depth();                                         \
			trace_name(trace_set_->fn, sizeof(trace_set_->fn), #value);                                        \
		});                                                                                \
	} while (0)

/* Cuts what does not fit. */
void trace_name(char *to, size_t size, const char *name) __attribute__((cold));
void trace_emit(enum trace_event event, void *record, size_t size) __attribute__((cold, noinline));
/* ns, CLOCK_MONOTONIC. */
uint64_t trace_clock(void);
/* The depth of the call that begins; trace_depth: of what happens in it. */
uint32_t trace_enter(void) __attribute__((cold, noinline));
uint32_t trace_depth(void) __attribute__((cold, noinline));
void trace_left(void) __attribute__((cold, noinline));

static inline void trace_leave(bool *called)
{
	if (unlikely(*called))
		trace_left();
}

/*
 * If USERKVM_TRACE names a ring file (`userkvm trace` made it), record into it.
 * Called when the library is first used, and again after a fork. A file that is
 * none is reported on stderr and ignored.
 */
void trace_attach(void);
/*
 * The same while the process runs, into the ring file behind fd, which is not kept. 0, -EBUSY: it is traced
 * already; -EINVAL: the file is none of this version; -ENOSYS: built without tracepoints. Any thread.
 */
int trace_attach_fd(int fd);
/* Ends that. The file stays mapped: a thread may be writing its last record. */
void trace_detach(void);

/* role of KVM's MMU pages: union kvm_mmu_page_role's bits. */
static inline uint32_t trace_mmu_role(int level, bool direct, uint32_t access, bool ad_disabled,
                                      uint32_t as_id)
{
	return (uint32_t)level | (uint32_t)direct << 7 | access << 8 | (uint32_t)ad_disabled << 16 |
	       as_id << 24;
}

#endif
