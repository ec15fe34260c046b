/*
 * userkvm trace: run a client and write down what KVM's tracepoints say.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/trace/output.h"
#include "tools/userkvm/commands.h"

#define MAX_OUTPUTS  8
#define RING_KIB     8192
#define RING_KIB_MAX (1u << 20)

static const char usage[] =
    "usage: userkvm trace [-e EVENT]... [-x EVENT]... [-o FILE]... [-b KIB] [--] PROGRAM "
    "[ARGS...]\n"
    "       userkvm trace --list [EVENT]...\n"
    "\n"
    "Runs PROGRAM as `userkvm run` does and records KVM's tracepoints in it.\n"
    "  -e EVENT   GROUP, GROUP:EVENT or EVENT, wildcards allowed (default: kvm)\n"
    "  -x EVENT   all but these\n"
    "  -o FILE    by its suffix .dat (trace-cmd, KernelShark), .json (Perfetto), .txt;\n"
    "             may be given several times (default: text to standard output)\n"
    "  -b KIB     size of a thread's ring (default 8192)\n"
    "  --list     the events and their formats\n"
    "The exit status is PROGRAM's.\n";

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
		return bad("not a ring size in KiB (1 to 1048576)", arg);
	for (o->ring_kib = 4; o->ring_kib < want; o->ring_kib *= 2)
		;
	return 0;
}

static int take_option(struct options *o, char option, const char *arg)
{
	switch (option) {
	case 'e':
		o->chosen = true;
		return event_set_change(&o->set, arg, true)
		           ? 0
		           : bad("no such event; see userkvm trace --list", arg);
	case 'x':
		if (!o->chosen)
			event_set_change(&o->set, "kvm", true);
		o->chosen = true;
		return event_set_change(&o->set, arg, false)
		           ? 0
		           : bad("no such event; see userkvm trace --list", arg);
	case 'o':
		if (o->nr_files == MAX_OUTPUTS)
			return bad("too many outputs", arg);
		if (format_of(arg) < 0)
			return bad("no format of that name: .dat, .json or .txt", arg);
		o->file[o->nr_files++] = arg;
		return 0;
	default: return parse_size(o, arg);
	}
}

/* -1: go on. Else the exit status. */
static int parse(struct options *o, int argc, char **argv)
{
	int i = 1;

	for (; i < argc && argv[i][0] == '-'; i++) {
		if (strcmp(argv[i], "--") == 0) {
			i++;
			break;
		}
		if (asks_help(argv[i])) {
			fputs(usage, stdout);
			return 0;
		}
		if (strcmp(argv[i], "--list") == 0) {
			o->list = true;
			continue;
		}
		if (argv[i][1] == '\0' || !strchr("exob", argv[i][1]) ||
		    (!argv[i][2] && i + 1 >= argc))
			return wrong_option("userkvm trace", argv[i]);
		if (take_option(o, argv[i][1], argv[i][2] ? argv[i] + 2 : argv[i + 1]))
			return 1;
		i += !argv[i][2];
	}
	o->rest = i;
	if (i >= argc && !o->list)
		return wrong_usage("userkvm trace", "which program?");
	return -1;
}

static int list(struct options *o, int argc, char **argv)
{
	if (o->rest < argc)
		memset(&o->set, 0, sizeof(o->set));
	for (int i = o->rest; i < argc; i++)
		if (!event_set_change(&o->set, argv[i], true))
			return bad("no such event", argv[i]);
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

int cmd_trace(int argc, char **argv)
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
	args = calloc((size_t)(argc - o.rest) + 3, sizeof(*args));
	if (!args)
		return 1;
	args[0] = (char[]){"run"};
	args[1] = (char[]){"--"};
	memcpy(args + 2, argv + o.rest, (size_t)(argc - o.rest) * sizeof(*args));
	r = capture_run(&c, &o.set, "userkvm trace", o.ring_kib << 10, start_client,
	                argc - o.rest + 2, args);
	free(args);
	if (r == 0)
		r = write_outputs(&o, &c, files);
	if (r == 0 && !c.attached && !capture_never_ran(&c)) {
		fprintf(stderr, "userkvm trace: %s did not open /dev/kvm: nothing was traced\n",
		        argv[o.rest]);
		r = 1;
	}
	if (c.nr_lost)
		fprintf(stderr, "userkvm trace: %llu events lost: no room in a ring (-b)\n",
		        (unsigned long long)c.nr_lost);
	if (c.nr_bad)
		fprintf(stderr, "userkvm trace: %llu pieces of the rings were damaged\n",
		        (unsigned long long)c.nr_bad);
	if (c.status)
		r = c.status;
	capture_free(&c);
	return r;
}
