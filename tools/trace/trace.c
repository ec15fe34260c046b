/*
 * userkvm trace: run a client and write down what KVM's tracepoints say.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/see/see.h"
#include "tools/trace/filter.h"
#include "tools/trace/output.h"
#include "tools/userkvm/commands.h"

#define MAX_OUTPUTS  8
#define MAX_FILTERS  16
#define RING_KIB     8192
#define RING_KIB_MAX (1u << 20)

enum { EVENT, EXCEPT, FILTER, OUTPUT, RING, PID, DURATION, LIST };
static const struct cli_option option_rows[] = {
	[EVENT] = { "event", 'e', "EVENT", "GROUP, GROUP:EVENT or EVENT, wildcards allowed (default: kvm)" },
	[EXCEPT] = { "except", 'x', "EVENT", "all but these" },
	[FILTER] = { "filter", 'f', "EVENT.FIELD==N", "of this event only those: == != < > <= >= &; may be given several times" },
	[OUTPUT] = { "output", 'o', "FILE", "by its suffix .dat (trace-cmd, KernelShark), .json (Perfetto), .txt;\n"
		     "may be given several times (default: text to standard output)" },
	[RING] = { "buffer", 'b', "KIB", "size of a thread's ring (default 8192)" },
	[PID] = { "pid", 'p', "PID", "a process that runs already, until Ctrl-C or it ends" },
	[DURATION] = { "duration", 'd', "SECONDS", "... for so long" },
	[LIST] = { "list", 0, NULL, "the events and their formats" },
	{ 0 },
};

static int cmd_trace(int argc, char **argv);
const struct cli cli_trace = {
	.name = "userkvm trace",
	.what = "run a KVM client and record KVM's tracepoints",
	.synopsis = "userkvm trace [OPTIONS] [--] PROGRAM [ARGS...]\n       userkvm trace [OPTIONS] -p PID [-d SECONDS]\n       userkvm trace --list [EVENT]...",
	.about = "Runs PROGRAM as `userkvm run` does and records KVM's tracepoints in it.",
	.more = "The exit status is PROGRAM's.",
	.options = option_rows,
	.program = true,
	.run = cmd_trace,
};

static const struct {
	const char *suffix;
	void (*write)(const struct capture *c, FILE *f);
} formats[] = {{".dat", output_dat}, {".json", output_json}, {".txt", output_text}};

struct options {
	struct event_set set;
	bool chosen;
	const char *file[MAX_OUTPUTS];
	int nr_files;
	unsigned long ring_kib;
	bool list;
	struct filter filter[MAX_FILTERS];
	unsigned nr_filters;
	pid_t pid; /* 0: a program is run */
	double seconds;
	int rest; /* index of the program */
};

static int format_of(const char *file)
{
	size_t n = strlen(file);

	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		size_t k = strlen(formats[i].suffix);

		if (n > k && strcmp(file + n - k, formats[i].suffix) == 0)
			return (int)i;
	}
	return -1;
}

static int no_event(const char *pattern)
{
	return wrong_usage("userkvm trace", "%s: no such event; `userkvm trace --list` has them", pattern);
}

static int bad(const char *what, const char *arg)
{
	fprintf(stderr, "userkvm trace: %s: %s\n", arg, what);
	return 1;
}

/* The ring size is a power of two, not smaller than asked for. */
static int parse_size(struct options *o, const char *arg)
{
	char *end;
	unsigned long want = strtoul(arg, &end, 10);

	if (*end || !want || want > RING_KIB_MAX)
		return wrong_usage("userkvm trace", "-b %s: not a ring size in KiB (1 to 1048576)", arg);
	for (o->ring_kib = 4; o->ring_kib < want; o->ring_kib *= 2)
		;
	return 0;
}

static int take(void *arg, int option, const char *value)
{
	struct options *o = arg;

	switch (option) {
	case EVENT:
		o->chosen = true;
		return event_set_change(&o->set, value, true)
		           ? 0
		           : no_event(value);
	case EXCEPT:
		if (!o->chosen)
			event_set_change(&o->set, "kvm", true);
		o->chosen = true;
		return event_set_change(&o->set, value, false)
		           ? 0
		           : no_event(value);
	case OUTPUT:
		if (o->nr_files == MAX_OUTPUTS)
			return wrong_usage("userkvm trace", "-o %s: too many outputs", value);
		if (format_of(value) < 0)
			return wrong_usage("userkvm trace", "-o %s: no format of that name: .dat, .json or .txt", value);
		o->file[o->nr_files++] = value;
		return 0;
	case FILTER:
		if (o->nr_filters < MAX_FILTERS && filter_parse(&o->filter[o->nr_filters], value)) {
			o->nr_filters++;
			return 0;
		}
		return wrong_usage("userkvm trace", "-f %s: no EVENT.FIELD with an operator and a number; `userkvm trace --list EVENT` has the fields", value);
	case PID: return capture_take_pid("userkvm trace", value, &o->pid);
	case DURATION: return capture_take_seconds("userkvm trace", value, &o->seconds);
	case LIST: o->list = true; return 0;
	default: return parse_size(o, value);
	}
}

/* -1: go on. Else the exit status. */
static int parse(struct options *o, int argc, char **argv)
{
	int status = cli_parse(&cli_trace, argc, argv, take, o);

	if (status >= 0)
		return status;
	o->rest = optind;
	if (o->pid && o->rest < argc)
		return wrong_usage("userkvm trace", "a process (-p) or a program, not both");
	if (o->seconds > 0 && !o->pid)
		return wrong_usage("userkvm trace", "-d is for a process (-p)");
	if (o->rest >= argc && !o->list && !o->pid)
		return wrong_usage("userkvm trace", "which program?");
	return cli_check_environment("userkvm trace") ? 2 : -1;
}

static int list(struct options *o, int argc, char **argv)
{
	if (o->rest < argc)
		memset(&o->set, 0, sizeof(o->set));
	for (int i = o->rest; i < argc; i++)
		if (!event_set_change(&o->set, argv[i], true))
			return no_event(argv[i]);
	for (unsigned i = 0; i < TRACE_NR_EVENTS; i++) {
		if (o->rest >= argc)
			printf("%s:%s\n", trace_events[i].group, trace_events[i].name);
		else if (o->set.on[i])
			output_format(i, stdout);
	}
	return 0;
}

/* The files are opened first: a name that cannot be written is told before the client runs. */
static int open_outputs(const struct options *o, FILE **f)
{
	for (int i = 0; i < o->nr_files; i++) {
		f[i] = fopen(o->file[i], "we");
		if (!f[i])
			return bad(strerror(errno), o->file[i]);
	}
	return 0;
}

static int write_outputs(const struct options *o, const struct capture *c, FILE **f)
{
	int r = 0;

	if (!o->nr_files)
		output_text(c, stdout);
	for (int i = 0; i < o->nr_files; i++) {
		bool failed;

		errno = 0;
		formats[format_of(o->file[i])].write(c, f[i]);
		failed = ferror(f[i]);
		failed |= fclose(f[i]) != 0;
		if (failed)
			r = bad(errno ? strerror(errno) : "write error", o->file[i]);
	}
	return r;
}

static int start_client(int argc, char **argv)
{
	return cmd_run(argc, argv);
}

static void tell_losses(const struct capture *c)
{
	if (c->nr_lost)
		fprintf(stderr, "userkvm trace: %llu events lost: no room in a ring (-b)\n",
		        (unsigned long long)c->nr_lost);
	if (c->nr_bad)
		fprintf(stderr, "userkvm trace: %llu pieces of the rings were damaged\n",
		        (unsigned long long)c->nr_bad);
}

static int trace_process(const struct options *o, FILE **files)
{
	struct capture c;
	int r = capture_attach(&c, &o->set, "userkvm trace", o->ring_kib << 10, NULL, o->pid, o->seconds);

	filter_apply(o->filter, o->nr_filters, &c);
	if (r == 0)
		r = write_outputs(o, &c, files);
	tell_losses(&c);
	capture_free(&c);
	return r;
}

static int cmd_trace(int argc, char **argv)
{
	struct options o = {.ring_kib = RING_KIB};
	FILE *files[MAX_OUTPUTS] = {NULL};
	struct capture c;
	char **args;
	int r = parse(&o, argc, argv);

	if (r >= 0)
		return r;
	if (o.list)
		return list(&o, argc, argv);
	if (!o.chosen)
		event_set_change(&o.set, "kvm", true);
	if (open_outputs(&o, files))
		return 1;
	if (o.pid)
		return trace_process(&o, files);
	args = calloc((size_t)(argc - o.rest) + 3, sizeof(*args));
	if (!args)
		return 1;
	args[0] = (char[]){"run"};
	args[1] = (char[]){"--"};
	memcpy(args + 2, argv + o.rest, (size_t)(argc - o.rest) * sizeof(*args));
	r = capture_run(&c, &o.set, "userkvm trace", o.ring_kib << 10, NULL, start_client,
	                argc - o.rest + 2, args);
	free(args);
	filter_apply(o.filter, o.nr_filters, &c);
	if (r == 0)
		r = write_outputs(&o, &c, files);
	if (r == 0 && !c.attached && !capture_never_ran(&c)) {
		fprintf(stderr, "userkvm trace: %s did not open /dev/kvm: nothing was traced\n",
		        argv[o.rest]);
		r = 1;
	}
	tell_losses(&c);
	if (c.status)
		r = c.status;
	capture_free(&c);
	return r;
}
