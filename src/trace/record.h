/*
 * What a record looks like: the events as C structures, each begun by the
 * header Linux's ring buffer has, so that it goes to a trace.dat as it is.
 */
#ifndef USERKVM_TRACE_RECORD_H
#define USERKVM_TRACE_RECORD_H

#include <stdbool.h>
#include <stdint.h>

/* A field of KVM's has libc's name. */
#pragma push_macro("errno")
#undef errno

struct trace_entry {
	uint16_t common_type; /* TRACE_ID_BASE + enum trace_event */
	uint8_t common_flags;
	uint8_t common_preempt_count;
	int32_t common_pid; /* the thread */
};
#define TRACE_ID_BASE 1000

#define EVENT(group, name, ...) TRACE_##group##_##name,
enum trace_event {
#include "trace/events.inc"
	TRACE_NR_EVENTS
};

/* The names of types as they are in a format file. */
#define u8  uint8_t
#define u16 uint16_t
#define u32 uint32_t
#define u64 unsigned long long

#define FIELDS(...)      __VA_ARGS__
#define F(type, name)    type name;
#define A(type, name, n) type name[n];
#define EVENT(group, name, fields, ...)                                                            \
	struct trace_##group##_##name {                                                            \
		struct trace_entry ent;                                                            \
		fields                                                                             \
	};
#include "trace/events.inc"
#undef F
#undef A

#define F(type, name)                   +1
#define A(type, name, n)                +1
#define EVENT(group, name, fields, ...) enum { TRACE_FIELDS_##group##_##name = 0 fields };
#include "trace/events.inc"
#undef F
#undef A
#undef FIELDS

#undef u8
#undef u16
#undef u32
#undef u64

#pragma pop_macro("errno")

#endif
