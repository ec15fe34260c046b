/*
 * A reply's text. Running out of memory or of the bound never fails a request:
 * the reply ends there, with `truncated` as its last line.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "control/control.h"
#include "control/internal.h"
#include "lib/own.h"

#define LINE_MAX_LEN 1024 /* a histogram of 64 numbers is the longest */
static const char truncated[] = "truncated\n";

static bool make_room(struct reply *r)
{
	size_t size = r->size ? r->size * 2 : 4096;
	char *text;

	if (r->len + LINE_MAX_LEN + sizeof(truncated) <= r->size)
		return true;
	text = size <= CONTROL_REPLY_MAX ? own_realloc(r->text, size) : NULL;
	if (!text)
		return false;
	r->text = text;
	r->size = size;
	return true;
}

void reply_line(struct reply *r, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (r->full)
		return;
	if (!make_room(r)) {
		r->full = true;
		if (r->text) { /* make_room() has always left this much */
			memcpy(r->text + r->len, truncated, sizeof(truncated) - 1);
			r->len += sizeof(truncated) - 1;
		}
		return;
	}
	va_start(ap, fmt);
	n = vsnprintf(r->text + r->len, LINE_MAX_LEN - 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	r->len += (size_t)n < LINE_MAX_LEN - 1 ? (size_t)n : LINE_MAX_LEN - 2;
	r->text[r->len++] = '\n';
}

void reply_error(struct reply *r, const char *fmt, ...)
{
	char text[200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	r->len = 0;
	r->full = false;
	reply_line(r, "error %s", text);
}

void reply_free(struct reply *r)
{
	own_free(r->text);
	*r = (struct reply){ 0 };
}
