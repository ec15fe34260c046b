/*
 * The events' text, compiled from events.inc. The three __print_ helpers are
 * the format file's own; each use has a buffer of its own by its line-up in the
 * argument list (a compound literal).
 */
#include "trace/print.h"

#include <string.h>

#include "sdm/exit_reasons.h"
#include "sdm/vmentry_checks.h"

#pragma push_macro("errno")
#undef errno

#define BUFFER_BYTES 128

struct symbol {
	uint64_t value;
	const char *name;
};

static const char *symbolic(char *buf, uint64_t v, const struct symbol *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (s[i].value == v)
			return s[i].name;
	snprintf(buf, BUFFER_BYTES, "0x%llx", (unsigned long long)v);
	return buf;
}

static const char *flags(char *buf, uint64_t v, const char *delimiter, const struct symbol *s,
                         size_t n)
{
	size_t len = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < n; i++) {
		if (!s[i].value || (v & s[i].value) != s[i].value)
			continue;
		v &= ~s[i].value;
		len += (size_t)snprintf(buf + len, BUFFER_BYTES - len, "%s%s", len ? delimiter : "",
		                        s[i].name);
	}
	if (v && len < BUFFER_BYTES)
		snprintf(buf + len, BUFFER_BYTES - len, "%s0x%llx", len ? delimiter : "",
		         (unsigned long long)v);
	return buf;
}

static const char *hex(char *buf, const uint8_t *bytes, unsigned n)
{
	size_t len = 0;

	buf[0] = '\0';
	for (unsigned i = 0; i < n && i < BUFFER_BYTES / 3 - 1; i++)
		len += (size_t)snprintf(buf + len, BUFFER_BYTES - len, "%s%02x", i ? " " : "",
		                        bytes[i]);
	return buf;
}

#define BUFFER ((char[BUFFER_BYTES]){0})
#define LIST(...)                                                                                  \
	(const struct symbol[]){__VA_ARGS__},                                                      \
	    sizeof((struct symbol[]){__VA_ARGS__}) / sizeof(struct symbol)
#define __print_symbolic(value, ...)         symbolic(BUFFER, value, LIST(__VA_ARGS__))
#define __print_flags(value, delimiter, ...) flags(BUFFER, value, delimiter, LIST(__VA_ARGS__))
#define __print_hex(bytes, n)                hex(BUFFER, bytes, n)

#define EVENT(group, name, fields, ...)                                                            \
	void trace_print_##group##_##name(FILE *f, const void *record)                             \
	{                                                                                          \
		const struct trace_##group##_##name *REC = record;                                 \
                                                                                                   \
		fprintf(f, __VA_ARGS__);                                                           \
	}
#include "trace/events.inc"
#pragma pop_macro("errno")
