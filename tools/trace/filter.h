/*
 * Records kept by the values of their fields (filter.c has the notation).
 */
#ifndef USERKVM_TOOLS_TRACE_FILTER_H
#define USERKVM_TOOLS_TRACE_FILTER_H

#include "tools/trace/capture.h"

struct filter {
	int event;
	const struct trace_field *field;
	unsigned op; /* index of the operators */
	uint64_t value;
};

/* False: no such event or field (arrays are none), no operator, or no number. */
bool filter_parse(struct filter *f, const char *text);
/* Leaves those of c's records for which all filters of their event hold. */
void filter_apply(const struct filter *f, unsigned nr, struct capture *c);

#endif
