/*
 * userkvm walkthrough --follow FILE.md: a reader's own notes, with what this
 * run says to each line.
 *
 * What stands between ``` and ``` is a call tree: a line's indentation is its
 * depth, what follows // is a remark. A line that begins at the left is looked
 * for in every piece of the run, those below it in the same piece behind it and
 * deeper than the line that they stand under; of all pieces the one with the
 * most lines is taken. A line is ✓ when it happened there, or ✗. "a/b" in the
 * notes or in ours are two names of one thing.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/trace/walk.h"

#define TREE_LINES 128

struct note {
	char *text;	/* the whole line */
	char *words;	/* without indentation and remark */
	unsigned indent;
	const struct capture_record *found;
};

struct follow {
	const struct walk_pieces *p;
	const struct capture *c;
	struct teller *t;
	struct note note[TREE_LINES];
	unsigned nr;
	unsigned right, wrong;
};

/* Two texts without regard to spaces. */
static bool same_words(const char *a, size_t na, const char *b, size_t nb)
{
	while (na || nb) {
		while (na && isspace((unsigned char)*a))
			a++, na--;
		while (nb && isspace((unsigned char)*b))
			b++, nb--;
		if (!na || !nb)
			return !na && !nb;
		if (*a++ != *b++)
			return false;
		na--, nb--;
	}
	return true;
}

/* The next of "a/b/c" from *s on; a call's "()" does not count. */
static size_t alternative(const char *s, size_t *length)
{
	size_t n = strcspn(s, "/");

	*length = n >= 2 && strncmp(s + n - 2, "()", 2) == 0 ? n - 2 : n;
	return s[n] ? n + 1 : n;
}

static bool says(const char *note, const char *ours)
{
	size_t n, k;

	if (same_words(note, strlen(note), ours, strlen(ours)))
		return true;
	for (const char *a = note; *a; ) {
		const char *next = a + alternative(a, &n);

		for (const char *b = ours; *b; ) {
			const char *other = b + alternative(b, &k);

			if (n && same_words(a, n, b, k))
				return true;
			b = other;
		}
		a = next;
	}
	return false;
}

static bool matches(const struct note *n, const struct capture_record *r)
{
	char text[96];

	return says(n->words, walk_text(walk_line_of(capture_event(r)), r->ent, text, sizeof(text)));
}

/* Lines of note[first, end) in the piece, each behind the one before it; written to found[]. */
static unsigned match_piece(struct follow *f, const struct walk_piece *p, unsigned first, unsigned end,
			    const struct capture_record **found)
{
	unsigned at = 0, nr = 0;

	for (unsigned i = first; i < end; i++) {
		const struct capture_record *parent = NULL;

		found[i] = NULL;
		for (unsigned k = i; k-- > first && !parent;)
			if (f->note[k].indent < f->note[i].indent && found[k])
				parent = found[k];
		for (unsigned k = at; k < p->nr && !found[i]; k++) {
			const struct capture_record *r = &f->c->records[p->events[k]];

			if (parent && walk_depth(r) <= walk_depth(parent))
				break; /* out of what it stands under */
			if (!matches(&f->note[i], r))
				continue;
			found[i] = r;
			at = k + 1;
			nr++;
		}
		if (i == first && !found[i])
			return 0;
	}
	return nr;
}

static void match_tree(struct follow *f, unsigned first, unsigned end)
{
	const struct capture_record *found[TREE_LINES];
	unsigned best = 0;

	for (size_t i = 0; i < f->p->nr; i++) {
		unsigned nr = match_piece(f, &f->p->piece[i], first, end, found);

		if (nr <= best)
			continue;
		best = nr;
		for (unsigned k = first; k < end; k++)
			f->note[k].found = found[k];
	}
}

static void print_note(struct follow *f, const struct note *n)
{
	const struct walk_line *line;
	char values[256];

	if (!*n->words) {
		printf("   %s\n", n->text);
		return;
	}
	if (!n->found) {
		f->wrong++;
		printf("✗  %s\n", n->text);
		return;
	}
	f->right++;
	printf("✓  %s\n", n->text);
	line = walk_line_of(capture_event(n->found));
	tell_values(line, n->found->ent, values, sizeof(values));
	if (*values)
		printf("   %*s  → %s\n", (int)n->indent, "", values);
}

/* The tree between two ``` is complete. */
static void end_tree(struct follow *f)
{
	unsigned first = 0;

	for (unsigned i = 1; i <= f->nr; i++) {
		if (i < f->nr && (f->note[i].indent > f->note[first].indent || !*f->note[i].words))
			continue;
		match_tree(f, first, i);
		first = i;
	}
	for (unsigned i = 0; i < f->nr; i++) {
		print_note(f, &f->note[i]);
		free(f->note[i].text);
		free(f->note[i].words);
	}
	f->nr = 0;
}

static void take_note(struct follow *f, const char *line)
{
	struct note *n = &f->note[f->nr];
	char *remark;
	size_t end;

	if (f->nr == TREE_LINES)
		end_tree(f);
	n = &f->note[f->nr++];
	*n = (struct note){ .text = strdup(line), .indent = (unsigned)strspn(line, " \t") };
	n->words = strdup(line + n->indent);
	if (!n->words || !n->text)
		return;
	remark = strstr(n->words, "//");
	if (remark)
		*remark = '\0';
	for (end = strlen(n->words); end && isspace((unsigned char)n->words[end - 1]); end--)
		n->words[end - 1] = '\0';
}

int walk_follow(const struct walk_pieces *p, const struct capture *c, struct teller *t, FILE *notes)
{
	struct follow f = { .p = p, .c = c, .t = t };
	bool tree = false;
	char *line = NULL;
	size_t size = 0;

	while (getline(&line, &size, notes) >= 0) {
		line[strcspn(line, "\r\n")] = '\0';
		if (strncmp(line, "```", 3) == 0) {
			if (tree)
				end_tree(&f);
			tree = !tree;
			printf("   %s\n", line);
		} else if (tree) {
			take_note(&f, line);
		} else {
			printf("   %s\n", line);
		}
	}
	end_tree(&f);
	free(line);
	printf(t->lang == ZH ? "\n%u 行在本次运行中发生（✓），%u 行没有（✗）\n" : "\n%u lines happened in this run (✓), %u did not (✗)\n", f.right, f.wrong);
	return f.wrong || !f.right;
}
