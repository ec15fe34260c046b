/*
 * One function an event, with the event's one probe in it: the tracepoint calls
 * it, so that a probe is hit wherever the event happens.
 */
#include "trace/probes.h"

#if !defined(USERKVM_NO_TRACEPOINTS) && defined(USERKVM_USDT)

#define _SDT_HAS_SEMAPHORES 1
#define SDT_USE_VARIADIC
#include <sys/sdt.h>

#include "trace/trace.h"

#pragma push_macro("errno")
#undef errno

#define FIELDS(...)             __VA_ARGS__
#define F(type, name)           , r->name
#define A(type, name, n)        , (uintptr_t)r->name
#define PROBE(group, name, ...) STAP_PROBEV(group, name __VA_ARGS__)
#define EVENT(group, name, fields, ...)                                                            \
	static void probe_##group##_##name(const void *record)                                     \
	{                                                                                          \
		const struct trace_##group##_##name *r = record;                                   \
		PROBE(group, name, fields);                                                        \
	}
#include "trace/events.inc"

#pragma pop_macro("errno")

#define EVENT(group, name, ...) probe_##group##_##name,
static void (*const probes[])(const void *record) = {
#include "trace/events.inc"
};

void trace_probe(enum trace_event event, const void *record)
{
	probes[event](record);
}

#else

void trace_probe(enum trace_event event, const void *record)
{
	(void)event, (void)record;
}

#endif
