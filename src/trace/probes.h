/*
 * USDT probes: <group>:<event> with the event's fields as arguments (an array
 * as its address), for perf probe, bpftrace and SystemTap.
 */
#ifndef USERKVM_TRACE_PROBES_H
#define USERKVM_TRACE_PROBES_H

#include "trace/record.h"

/* The record's probe fires. Called when its semaphore says that somebody listens. */
void trace_probe(enum trace_event event, const void *record);

#endif
