/*
 * userkvm stat: the counters of KVM_GET_STATS_FD, in kvm_stat's manner.
 *
 * What is present (pages_4k, blocking) is told as it is, what only grows as its
 * growth too.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/see/stat.h"
#include "tools/userkvm/commands.h"
#include "tools/userkvm/json.h"

enum { ONCE, LOG, CSV, JSON, APART, PID, DELAY, FIELDS, EXITS };
static const struct cli_option option_rows[] = {
	[ONCE] = { "once", '1', NULL, "print once: totals, and the growth in one interval" },
	[LOG] = { "log", 'l', NULL, "a line of growths each interval" },
	[CSV] = { "csv", 'c', NULL, "the same with commas, and seconds of the clock first" },
	[JSON] = { "json", 'j', NULL, "print once, as JSON" },
	[APART] = { "by-vcpu", 'b', NULL, "each VM and vCPU by itself" },
	[PID] = { "pid", 'p', "PID", "the VMs of this process only, like PID behind the options" },
	[DELAY] = { "set-delay", 's', "N", "seconds between looks (default 3; 1 with -1, -l, -c and -j)" },
	[FIELDS] = { "fields", 'f', "TEXT", "only counters whose name contains TEXT" },
	[EXITS] = { "exits", 'e', NULL, "VM exits by vCPU and reason, with the time in the host and in the client" },
	{ 0 },
};

static int cmd_stat(int argc, char **argv);
const struct cli cli_stat = {
	.name = "userkvm stat",
	.what = "show the counters of running VMs",
	.synopsis = "userkvm stat [OPTIONS] [PID]",
	.about = "The counters of the VMs of process PID, or of every process that can be looked at.",
	.more = "At the terminal: q ends, h tells the other keys. Where standard output is none, -1 is meant.",
	.options = option_rows,
	.run = cmd_stat,
};

struct options {
	struct stat_choice choice;
	bool once, log, csv, json, exits;
	double delay; /* 0: not said */
};

static int take_option(void *arg, int option, const char *value)
{
	struct options *o = arg;
	char *end;

	switch (option) {
	case ONCE: o->once = true; break;
	case LOG: o->log = true; break;
	case CSV: o->log = o->csv = true; break;
	case JSON: o->once = o->json = true; break;
	case EXITS: o->exits = true; break;
	case APART: o->choice.apart = true; break;
	case PID: return see_pid(value, &o->choice.pid) ? 0 : 1;
	case FIELDS:
		if (strlen(value) >= sizeof(o->choice.fields))
			return wrong_usage(see_command, "-f %s: too long for a counter's name", value);
		strcpy(o->choice.fields, value);
		break;
	default:
		o->delay = strtod(value, &end);
		if (end == value || *end || !(o->delay >= 0.1 && o->delay <= 3600))
			return wrong_usage(see_command, "-s %s: not a number of seconds from 0.1 to 3600", value);
	}
	return 0;
}

static void print_once(const struct stat_choice *c, const struct stat_sample *a, const struct stat_sample *b)
{
	char whose[40];

	for (unsigned i = 0; i < b->nr; i++) {
		const struct stat_row *r = &b->row[i];

		if (c->apart)
			printf("%-20s ", stat_whose(c, r, whose, sizeof(whose)));
		printf("%-42s %14llu", r->name, (ull)r->value);
		if (r->instant)
			printf("\n");
		else
			printf(" %12.0f\n", stat_rate(a, b, r));
	}
}

static void print_json(const struct stat_choice *c, const struct stat_sample *a, const struct stat_sample *b)
{
	struct json j = { .f = stdout };

	json_object(&j, NULL, false);
	json_double(&j, "seconds", b->at - a->at);
	json_array(&j, "counters", true);
	for (unsigned i = 0; i < b->nr; i++) {
		const struct stat_row *r = &b->row[i];

		json_object(&j, NULL, false);
		if (c->apart) {
			json_i64(&j, "pid", r->pid);
			json_u64(&j, "vm", r->vm);
			if (r->vcpu >= 0)
				json_i64(&j, "vcpu", r->vcpu);
		}
		json_string(&j, "name", r->name);
		json_u64(&j, "value", r->value);
		if (!r->instant)
			json_double(&j, "per_second", stat_rate(a, b, r));
		json_end(&j);
	}
	json_end(&j);
	json_end(&j);
}

/* The name of a column: the counter's, behind its VM's and vCPU's where they are apart. */
static const char *title(const struct stat_choice *c, const struct stat_row *r, char *buf, size_t size)
{
	char whose[40];

	stat_whose(c, r, whose, sizeof(whose));
	snprintf(buf, size, "%s%s%s", whose, *whose ? ":" : "", r->name);
	return buf;
}

static int width(const char *text)
{
	int n = (int)strlen(text);

	return n < 8 ? 8 : n;
}

static void print_log(const struct options *o, const struct stat_sample *a, const struct stat_sample *b, bool header)
{
	char text[96];

	if (o->csv && header)
		fputs("seconds,", stdout);
	for (unsigned i = 0; header && i < b->nr; i++) {
		title(&o->choice, &b->row[i], text, sizeof(text));
		printf("%*s%s", o->csv ? 0 : width(text), text, i + 1 == b->nr ? "\n" : o->csv ? "," : " ");
	}
	if (o->csv)
		printf("%.3f,", b->at);
	for (unsigned i = 0; i < b->nr; i++) {
		const struct stat_row *r = &b->row[i];

		title(&o->choice, r, text, sizeof(text));
		printf("%*.0f%s", o->csv ? 0 : width(text), r->instant ? (double)r->value : stat_rate(a, b, r),
		       i + 1 == b->nr ? "\n" : o->csv ? "," : " ");
	}
	fflush(stdout);
}

/* Looks again and again, or twice. Exit status. */
static int print(const struct options *o, double delay)
{
	struct stat_sample a = { 0 }, b = { 0 };
	unsigned lines = 0;
	int status = 1;

	if (!stat_take(&o->choice, &a))
		return 1;
	for (;;) {
		if (stat_wait(delay)) {
			status = 0;
			break;
		}
		if (!stat_take(&o->choice, &b))
			break;
		if (!o->log) {
			if (o->json)
				print_json(&o->choice, &a, &b);
			else
				print_once(&o->choice, &a, &b);
			status = 0;
			break;
		}
		/* in a table the header comes again; a CSV's stands for all lines, unless the columns have changed */
		print_log(o, &a, &b, o->csv ? !lines || a.nr != b.nr : lines % 20 == 0);
		lines++;
		stat_free(&a);
		a = b;
		b = (struct stat_sample){ 0 };
		if (ferror(stdout))
			break;
	}
	stat_free(&a);
	stat_free(&b);
	return status;
}

static int exits(const struct options *o)
{
	enum stat_form form = o->json ? STAT_JSON : o->csv ? STAT_CSV : o->log ? STAT_LINES : STAT_SCREEN;

	if (form == STAT_SCREEN && (o->once || !isatty(STDOUT_FILENO)))
		form = STAT_ONCE;
	return stat_exits(&o->choice, o->delay > 0 ? o->delay : form == STAT_SCREEN ? 3 : 1, form);
}

static int cmd_stat(int argc, char **argv)
{
	struct options o = { 0 };
	int status;

	see_command = cli_stat.name;
	status = cli_parse(&cli_stat, argc, argv, take_option, &o);
	if (status >= 0)
		return status;
	if (optind < argc && (optind + 1 < argc || o.choice.pid || argv[optind][strspn(argv[optind], "0123456789")]))
		return wrong_usage(see_command, "it takes no '%s'", argv[argc - 1]);
	if (optind < argc && !see_pid(argv[optind], &o.choice.pid))
		return 1;
	if (o.log && o.once)
		return wrong_usage(see_command, "-1 and -j print once, -l and -c do not");
	stat_catch_signals();
	if (o.exits)
		return exits(&o);
	if (o.once || o.log || !isatty(STDOUT_FILENO))
		return print(&o, o.delay > 0 ? o.delay : 1);
	return stat_watch(&o.choice, o.delay > 0 ? o.delay : 3);
}
