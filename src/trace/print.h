/* A record as text, the kernel's: one function an event. */
#ifndef USERKVM_TRACE_PRINT_H
#define USERKVM_TRACE_PRINT_H

#include <stdio.h>

#include "trace/record.h"

#define EVENT(group, name, ...) void trace_print_##group##_##name(FILE *f, const void *record);
#include "trace/events.inc"

#endif
