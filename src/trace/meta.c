/*
 * Tables of the events. The text of the format is made from the same words the
 * printers of print.c are compiled from; __print_symbolic and its kin must not
 * be macros here.
 */
#include "trace/meta.h"

#include <string.h>

#include "sdm/exit_reasons.h"
#include "sdm/vmentry_checks.h"
#include "trace/print.h"

#pragma push_macro("errno")
#undef errno

#define FIELDS(...) __VA_ARGS__
#define F(type, name)                                                                              \
	{#type,                                                                                    \
	 #name,                                                                                    \
	 offsetof(RECORD, name),                                                                   \
	 sizeof(((RECORD *)0)->name),                                                              \
	 0,                                                                                        \
	 (__typeof__(((RECORD *)0)->name))-1 < (__typeof__(((RECORD *)0)->name))1},
#define A(type, name, n)                                                                           \
	{#type, #name, offsetof(RECORD, name), sizeof(((RECORD *)0)->name), n, false},
#define EVENT(group, name, fields, ...)                                                            \
	static const struct trace_field *fields_##group##_##name(void)                             \
	{                                                                                          \
		typedef struct trace_##group##_##name RECORD;                                      \
		static const struct trace_field table[] = {fields};                                \
                                                                                                   \
		return table;                                                                      \
	}
#include "trace/events.inc"
#undef F
#undef A
#undef FIELDS
#pragma pop_macro("errno")

/* Expanded once, so that lists of symbols are spelled out. */
#define TEXT(...)     #__VA_ARGS__
#define EXPANDED(...) TEXT(__VA_ARGS__)
#define EVENT(group, name, fields, ...)                                                            \
	{#group,                                                                                   \
	 #name,                                                                                    \
	 sizeof(struct trace_##group##_##name),                                                    \
	 fields_##group##_##name,                                                                  \
	 TRACE_FIELDS_##group##_##name,                                                            \
	 EXPANDED(__VA_ARGS__),                                                                    \
	 trace_print_##group##_##name},
const struct trace_event_meta trace_events[TRACE_NR_EVENTS] = {
#include "trace/events.inc"
};

uint64_t trace_field_value(const struct trace_field *field, const void *record)
{
	uint64_t v = 0;

	memcpy(&v, (const char *)record + field->offset, field->size <= 8 ? field->size : 8);
	if (field->is_signed && field->size < 8 && v >> (8 * field->size - 1))
		v |= ~0ULL << (8 * field->size);
	return v;
}

int trace_event_find(const char *group, const char *name)
{
	for (int i = 0; i < TRACE_NR_EVENTS; i++)
		if (strcmp(trace_events[i].group, group) == 0 &&
		    strcmp(trace_events[i].name, name) == 0)
			return i;
	return -1;
}
