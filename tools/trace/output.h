/*
 * What becomes of a capture. Each writes to f, which is open and empty; errors
 * are the stream's (ferror).
 */
#ifndef USERKVM_TOOLS_TRACE_OUTPUT_H
#define USERKVM_TOOLS_TRACE_OUTPUT_H

#include <stdio.h>

#include "tools/trace/capture.h"

/* As trace-cmd report prints it. */
void output_text(const struct capture *c, FILE *f);
/* trace-cmd's own format, version 6: trace-cmd report, KernelShark. */
void output_dat(const struct capture *c, FILE *f);
/* Trace Event Format, for Perfetto and chrome://tracing. */
void output_json(const struct capture *c, FILE *f);
/* The format file of an event, as tracefs shows it. */
void output_format(unsigned event, FILE *f);

#endif
