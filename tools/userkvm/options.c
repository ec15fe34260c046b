/*
 * Options of every command: the parser and the help over struct cli's rows.
 */
#include "tools/userkvm/options.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "lib/params.h"

#define MAX_OPTIONS 24
#define FIRST_LONG 256 /* what getopt_long() returns for row i without a letter: FIRST_LONG + i */
#define HELP_COLUMN 22

int wrong_usage(const char *command, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s: ", command);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "; see %s --help\n", command);
	return 2;
}

/* Insertions, deletions and changes between two words (Levenshtein's distance), or 99 for long ones. */
static unsigned distance(const char *a, const char *b)
{
	size_t na = strlen(a), nb = strlen(b);
	unsigned row[32];

	if (nb >= sizeof(row) / sizeof(row[0]) || na >= sizeof(row) / sizeof(row[0]))
		return 99;
	for (size_t j = 0; j <= nb; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= na; i++) {
		unsigned diagonal = row[0];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= nb; j++) {
			unsigned best = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			best = row[j] + 1 < best ? row[j] + 1 : best;
			best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
			row[j] = best;
		}
	}
	return row[nb];
}

const char *closest_word(const char *word, const char *const *words, size_t n)
{
	unsigned nearest = strlen(word) >= 3 ? 3 : 2;
	const char *found = NULL;

	for (size_t i = 0; i < n; i++) {
		unsigned d = distance(word, words[i]);

		if (d < nearest) {
			nearest = d;
			found = words[i];
		}
	}
	return found;
}

static void print_option(const struct cli_option *o, FILE *f)
{
	int column = 2;
	const char *p = o->help;

	fputs("  ", f);
	if (o->letter)
		column += fprintf(f, "-%c%s", o->letter, o->name ? ", " : "");
	if (o->name)
		column += fprintf(f, "--%s", o->name);
	if (o->value)
		column += fprintf(f, " %s", o->value);
	if (column >= HELP_COLUMN) {
		fputc('\n', f);
		column = 0;
	}
	for (;;) {
		size_t n = strcspn(p, "\n");

		fprintf(f, "%*s%.*s\n", HELP_COLUMN - column, "", (int)n, p);
		if (!p[n])
			break;
		p += n + 1;
		column = 0;
	}
}

void cli_help(const struct cli *c, FILE *f)
{
	fprintf(f, "usage: %s\n\n%s\n", c->synopsis, c->about);
	for (const struct cli_option *o = c->options; o->name || o->letter; o++)
		print_option(o, f);
	if (c->more)
		fprintf(f, "%s\n", c->more);
}

/* argv[at] is no option of the command, or lacks its value. */
static int wrong_option(const struct cli *c, const char *word)
{
	const char *names[MAX_OPTIONS], *near;
	size_t n = 0, letters = strcspn(word, "=");

	for (const struct cli_option *o = c->options; o->name || o->letter; o++) {
		if ((o->letter && word[0] == '-' && word[1] == o->letter && !word[2]) ||
		    (o->name && strncmp(word, "--", 2) == 0 && strlen(o->name) == letters - 2 &&
		     strncmp(word + 2, o->name, letters - 2) == 0))
			return wrong_usage(c->name, o->value ? "option '%s' wants its %s" : "option '%s' takes no value%.0s",
					   word, o->value ? o->value : "");
		if (o->name)
			names[n++] = o->name;
	}
	near = strncmp(word, "--", 2) == 0 ? closest_word(word + 2, names, n) : NULL;
	if (near)
		return wrong_usage(c->name, "no option '%s'; did you mean '--%s'?", word, near);
	return wrong_usage(c->name, "no option '%s'", word);
}

int cli_parse(const struct cli *c, int argc, char **argv, cli_take *take, void *arg)
{
	struct option longs[MAX_OPTIONS + 2] = { { "help", no_argument, NULL, 'h' } };
	char shorts[2 * MAX_OPTIONS + 3], *s = shorts;
	int nr_longs = 1, got;

	if (c->program)
		*s++ = '+';
	*s++ = 'h';
	for (int i = 0; c->options[i].name || c->options[i].letter; i++) {
		const struct cli_option *o = &c->options[i];

		if (o->letter) {
			*s++ = o->letter;
			if (o->value)
				*s++ = ':';
		}
		if (o->name)
			longs[nr_longs++] = (struct option){ o->name, o->value ? required_argument : no_argument, NULL,
							     FIRST_LONG + i };
	}
	*s = 0;
	longs[nr_longs] = (struct option){ 0 };
	opterr = 0;
	optind = 0; /* trace and walkthrough come here again for the client they run */
	for (;;) {
		int at = optind ? optind : 1, row = 0, status;

		got = getopt_long(argc, argv, shorts, longs, NULL);
		if (got < 0)
			return -1;
		if (got == 'h') {
			cli_help(c, stdout);
			return 0;
		}
		if (got == '?') {
			/* within a cluster such as -lx, optopt names the letter */
			char letter[3] = { '-', (char)optopt, 0 };

			while (at < argc - 1 && argv[at][0] != '-')
				at++;
			return wrong_option(c, strncmp(argv[at], "--", 2) != 0 && optopt ? letter : argv[at]);
		}
		if (got >= FIRST_LONG)
			row = got - FIRST_LONG;
		else
			while (c->options[row].letter != got)
				row++;
		status = take(arg, row, c->options[row].value ? optarg : NULL);
		if (status)
			return status;
	}
}

static void tell_fault(void *command, const char *line)
{
	fprintf(stderr, "%s: %s\n", (const char *)command, line);
}

int cli_check_environment(const char *command)
{
	return params_faults(tell_fault, (void *)command) ? 2 : 0;
}
