/*
 * The events as data, for whoever reads records: names, fields, the format
 * file's text, and a printer.
 */
#ifndef USERKVM_TRACE_META_H
#define USERKVM_TRACE_META_H

#include <stddef.h>
#include <stdio.h>

#include "trace/record.h"

struct trace_field {
	const char *type, *name;
	uint32_t offset, size; /* of the whole field */
	uint32_t nr;           /* elements of an array; 0: a scalar */
	bool is_signed;
};

struct trace_event_meta {
	const char *group, *name;
	size_t size;
	const struct trace_field *(*fields)(void);
	unsigned nr_fields;
	const char *print_fmt; /* as after "print fmt:" */
	void (*print)(FILE *f, const void *record);
};

extern const struct trace_event_meta trace_events[TRACE_NR_EVENTS];

/* A scalar field, sign-extended where it is signed. */
uint64_t trace_field_value(const struct trace_field *field, const void *record);
/* By group and name; -1: there is none. */
int trace_event_find(const char *group, const char *name);

#endif
