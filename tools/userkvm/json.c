/*
 * JSON, written as it comes: see json.h.
 */
#include "tools/userkvm/json.h"

#include <inttypes.h>
#include <math.h>

/* Bytes of the character at s; 0: it is no UTF-8. */
static unsigned utf8(const char *s)
{
	unsigned char ch = (unsigned char)*s;
	unsigned n = ch < 0x80 ? 1 : ch < 0xc2 ? 0 : ch < 0xe0 ? 2 : ch < 0xf0 ? 3 : ch < 0xf5 ? 4 : 0;

	for (unsigned i = 1; i < n; i++)
		if (((unsigned char)s[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

static void text(FILE *f, const char *s)
{
	putc('"', f);
	for (; *s; s++) {
		unsigned char ch = (unsigned char)*s;
		unsigned n = utf8(s);

		if (n > 1) {
			fwrite(s, 1, n, f);
			s += n - 1;
			continue;
		}
		if (!n) { /* what a thread calls itself may be anything: its bytes as Latin-1 */
			fprintf(f, "\\u%04x", ch);
			continue;
		}

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

void json_null(struct json *j, const char *key)
{
	begin(j, key);
	fputs("null", j->f);
}

void json_string(struct json *j, const char *key, const char *v)
{
	begin(j, key);
	text(j->f, v);
}
