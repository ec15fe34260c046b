/*
 * Lines of the walk-through as text: words, values, remark, fields; on a
 * terminal folded to its width.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tools/trace/walk.h"

#define VALUES_COLUMN 58
#define REMARK_WIDTH  78
#define NARROWEST     30

void tell_begin(struct teller *t, enum lang lang, bool all)
{
	struct winsize size;

	*t = (struct teller){ .lang = lang, .all = all };
	if (isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= NARROWEST)
		t->width = size.ws_col;
}

/* Each remark once: the second time it is in the way. */
static bool new_remark(struct teller *t, const char *remark)
{
	for (unsigned i = 0; i < t->nr_told; i++)
		if (t->told[i] == remark)
			return false;
	if (t->nr_told < TELL_REMARKS)
		t->told[t->nr_told++] = remark;
	return true;
}

/* Bytes of the character at s, and the columns it takes: two for those of Chinese. */
static size_t character(const char *s, unsigned *columns)
{
	unsigned char ch = (unsigned char)*s;
	size_t n = ch < 0xc0 ? 1 : ch < 0xe0 ? 2 : ch < 0xf0 ? 3 : 4, left = strlen(s);

	*columns = n >= 3 && (unsigned char)s[0] >= 0xe3 ? 2 : 1;
	return n < left ? n : left;
}

/* One line of `width` columns at most (0: any), the rest below it, `hang` columns in. */
static void fold(const char *s, unsigned width, unsigned hang)
{
	unsigned margin = 0;

	while (*s) {
		size_t at = 0, space = 0;
		unsigned column = margin, columns;

		while (s[at]) {
			size_t n = character(s + at, &columns);

			if (width && column + columns > width)
				break;
			if (s[at] == ' ' && column > margin + 8)
				space = at;
			column += columns;
			at += n;
		}
		if (s[at] && space)
			at = space;
		printf("%*s%.*s\n", (int)margin, "", (int)at, s);
		s += at;
		while (margin && *s == ' ')
			s++;
		if (!margin)
			s += strspn(s, " ");
		margin = hang < width / 2 ? hang : 2;
	}
}

void tell_text(const struct teller *t, const char *text)
{
	fold(text, t->width, 2);
}

/* In lines of REMARK_WIDTH, where there are spaces to break at. */
static void tell_remark(const struct teller *t, const char *text, unsigned indent)
{
	char line[1024];

	snprintf(line, sizeof(line), "%*s  // %s", (int)indent, "", text);
	if (t->width) {
		unsigned hang = indent + 5;

		fold(line, t->width, hang);
		return;
	}
	while (*text) {
		size_t n = strlen(text);

		if (n > REMARK_WIDTH) {
			for (n = REMARK_WIDTH; n && text[n] != ' '; n--)
				;
			if (!n)
				n = strlen(text);
		}
		printf("%*s  // %.*s\n", (int)indent, "", (int)n, text);
		text += n;
		text += *text == ' ';
	}
}

/* What print() writes, folded line by line. */
static void tell_folded(const struct teller *t, struct out *o, void (*print)(struct out *o, const void *rec), const void *rec)
{
	char *text = NULL, *save = NULL;
	size_t size = 0;

	o->f = open_memstream(&text, &size);
	if (!o->f)
		return;
	print(o, rec);
	fclose(o->f);
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		fold(line, t->width, o->indent + 8);
	free(text);
}

void tell_values(const struct walk_line *line, const void *rec, char *buf, size_t size)
{
	struct out o = { .lang = EN };

	*buf = '\0';
	if (!line->values)
		return;
	o.f = fmemopen(buf, size, "w");
	if (!o.f)
		return;
	line->values(&o, rec);
	fclose(o.f);
	buf[size - 1] = '\0';
}

void tell_line(struct teller *t, const struct trace_entry *ent, unsigned level)
{
	const struct walk_line *line = walk_line_of((unsigned)(ent->common_type - TRACE_ID_BASE));
	const char *remark = line->choose ? line->choose(t->lang, ent) : line->remark[t->lang];
	struct out o = { .lang = t->lang, .indent = 2 * level + 2 };
	unsigned column = t->width && t->width < VALUES_COLUMN + 24 ? t->width / 2 : VALUES_COLUMN;
	char text[96], values[256], whole[512];
	int n;

	tell_values(line, ent, values, sizeof(values));
	n = snprintf(whole, sizeof(whole), "%*s%s", (int)o.indent, "", walk_text(line, ent, text, sizeof(text)));
	if (*values)
		snprintf(whole + n, sizeof(whole) - (size_t)n, "%*s%s", n < (int)column ? (int)column - n : 2, "", values);
	fold(whole, t->width, o.indent + 4);
	if (remark && (t->all || new_remark(t, remark)))
		tell_remark(t, remark, o.indent);
	if (line->details)
		tell_folded(t, &o, line->details, ent);
}
