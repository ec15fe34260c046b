/*
 * JSON, written as it comes: see json.h.
 */
#include "tools/userkvm/json.h"

#include <inttypes.h>
#include <math.h>

static void text(FILE *f, const char *s)
{
	putc('"', f);
	for (; *s; s++) {
		unsigned char ch = (unsigned char)*s;

		if (ch < 0x20 || ch == 0x7f || ch == '<') /* "<": a page's script would end at </script> */
			fprintf(f, "\\u%04x", ch);
		else if (ch == '"' || ch == '\\')
			fprintf(f, "\\%c", ch);
		else
			putc(ch, f);
	}
	putc('"', f);
}

static void begin(struct json *j, const char *key)
{
	if (j->depth) {
		bool *more = &j->more[j->depth - 1];

		if (*more)
			putc(',', j->f);
		if (j->lines[j->depth - 1])
			putc('\n', j->f);
		*more = true;
	}
	if (key) {
		text(j->f, key);
		putc(':', j->f);
	}
}

static void open_bracket(struct json *j, const char *key, bool lines, char bracket)
{
	begin(j, key);
	putc(bracket, j->f);
	j->more[j->depth] = false;
	j->lines[j->depth] = lines;
	j->array[j->depth] = bracket == '[';
	if (j->depth + 1 < JSON_DEPTH)
		j->depth++;
}

void json_object(struct json *j, const char *key, bool lines)
{
	open_bracket(j, key, lines, '{');
}

void json_array(struct json *j, const char *key, bool lines)
{
	open_bracket(j, key, lines, '[');
}

void json_end(struct json *j)
{
	j->depth--;
	putc(j->array[j->depth] ? ']' : '}', j->f);
	if (!j->depth)
		putc('\n', j->f);
}

void json_u64(struct json *j, const char *key, uint64_t v)
{
	begin(j, key);
	fprintf(j->f, "%" PRIu64, v);
}

void json_i64(struct json *j, const char *key, int64_t v)
{
	begin(j, key);
	fprintf(j->f, "%" PRId64, v);
}

void json_double(struct json *j, const char *key, double v)
{
	begin(j, key);
	if (isfinite(v))
		fprintf(j->f, "%.3f", v);
	else
		fputs("null", j->f); /* JSON has no word for it */
}

void json_bool(struct json *j, const char *key, bool v)
{
	begin(j, key);
	fputs(v ? "true" : "false", j->f);
}

void json_string(struct json *j, const char *key, const char *v)
{
	begin(j, key);
	text(j->f, v);
}
