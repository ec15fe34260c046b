/*
 * userkvm stat: the counters of KVM_GET_STATS_FD, in kvm_stat's manner.
 *
 * All vCPUs' counters of a name are added up, as kvm_stat does; what is present
 * (pages_4k, blocking) is told as it is, what only grows as its growth too.
 */
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <linux/kvm.h>

#include "tools/see/see.h"
#include "tools/userkvm/commands.h"
#include "trace/stats.h"

enum { ONCE, LOG, PID, DELAY, FIELDS };
static const struct cli_option option_rows[] = {
	[ONCE] = { "once", '1', NULL, "print once: totals, and the growth in one interval" },
	[LOG] = { "log", 'l', NULL, "a line of growths each interval" },
	[PID] = { "pid", 'p', "PID", "the VMs of this process only" },
	[DELAY] = { "set-delay", 's', "N", "seconds between looks (default 3; 1 with -1 and -l)" },
	[FIELDS] = { "fields", 'f', "TEXT", "only counters whose name contains TEXT" },
	{ 0 },
};

static int cmd_stat(int argc, char **argv);
const struct cli cli_stat = {
	.name = "userkvm stat",
	.what = "show the counters of running VMs",
	.synopsis = "userkvm stat [OPTIONS]",
	.about = "The counters of the VMs of process PID, or of every process that can be looked at.",
	.more = "At the terminal: q ends.",
	.options = option_rows,
	.run = cmd_stat,
};

#define MAX_COUNTERS 96
#define MAX_PROCESSES 64

struct counter {
	char name[KVM_STATS_NAME_SIZE];
	uint64_t total;
	bool instant;
};

struct sample {
	struct counter c[MAX_COUNTERS];
	unsigned nr;
	double at; /* seconds */
};

struct options {
	pid_t pid; /* 0: all */
	bool once, log;
	double delay; /* 0: not said */
	const char *fields;
};

static volatile sig_atomic_t ended;

static void on_signal(int signo)
{
	ended = 1;
}

static bool is_instant(const struct kvm_stat_table *t, const char *name)
{
	for (unsigned i = 0; i < t->nr; i++)
		if (strcmp(t->rows[i].name, name) == 0)
			return (t->rows[i].flags & KVM_STATS_TYPE_MASK) == KVM_STATS_TYPE_INSTANT;
	return false;
}

static void add(struct sample *s, const char *name, uint64_t value)
{
	unsigned i = 0;

	while (i < s->nr && strcmp(s->c[i].name, name) != 0)
		i++;
	if (i == MAX_COUNTERS)
		return;
	if (i == s->nr) {
		s->nr++;
		s->c[i] = (struct counter){ .instant = is_instant(&kvm_vm_stat_table, name) ||
						       is_instant(&kvm_vcpu_stat_table, name) };
		snprintf(s->c[i].name, sizeof(s->c[i].name), "%s", name);
	}
	s->c[i].total += value;
}

static void take_line(struct sample *s, const struct options *o, const char *line)
{
	char name[KVM_STATS_NAME_SIZE];
	ull value, vm;
	unsigned vcpu;
	int at = 0;

	/* A histogram has more than one value: it is not kvm_stat's matter. */
	if (sscanf(line, "vm %llu %47s %llu%n", &vm, name, &value, &at) != 3 &&
	    sscanf(line, "vcpu %llu %u %47s %llu%n", &vm, &vcpu, name, &value, &at) != 4)
		return;
	if (line[at] == '\0' && (!o->fields || strstr(name, o->fields)))
		add(s, name, value);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* False: nothing could be looked at, told if it was one process that was asked for. */
static bool take(const struct options *o, struct sample *s)
{
	pid_t pids[MAX_PROCESSES] = { o->pid };
	unsigned n = o->pid ? 1 : see_processes(pids, MAX_PROCESSES);
	bool any = false;

	s->nr = 0;
	s->at = now();
	for (unsigned i = 0; i < n; i++) {
		char *text = o->pid ? see_ask(o->pid, "stats\n") : see_ask_quietly(pids[i], "stats\n");
		char *save = NULL, *line;

		if (!text)
			continue;
		any |= *text != '\0';
		for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
			take_line(s, o, line);
		if (o->pid && !*text)
			see_fail("process %d has no VM at present", (int)o->pid);
		free(text);
	}
	if (!n)
		see_fail("no process with a VM of userkvm is to be seen");
	else if (!any && !o->pid)
		see_fail("no process could be looked at");
	return any;
}

static const struct counter *find(const struct sample *s, const char *name)
{
	for (unsigned i = 0; i < s->nr; i++)
		if (strcmp(s->c[i].name, name) == 0)
			return &s->c[i];
	return NULL;
}

static double rate(const struct sample *a, const struct sample *b, const struct counter *c)
{
	const struct counter *before = find(a, c->name);

	if (!before || c->total < before->total || b->at <= a->at)
		return 0;
	return (double)(c->total - before->total) / (b->at - a->at);
}

static int by_total(const void *a, const void *b)
{
	const struct counter *x = a, *y = b;

	return x->total == y->total ? strcmp(x->name, y->name) : x->total < y->total ? 1 : -1;
}

static void once(const struct sample *a, struct sample *b)
{
	for (unsigned i = 0; i < b->nr; i++)
		if (b->c[i].instant)
			printf("%-42s %14llu\n", b->c[i].name, (ull)b->c[i].total);
		else
			printf("%-42s %14llu %12.0f\n", b->c[i].name, (ull)b->c[i].total, rate(a, b, &b->c[i]));
}

/* Counters in two groups: events with growth and share, then what is present. */
static void screen(const struct sample *a, const struct sample *b, const struct options *o)
{
	struct sample s = *b;
	uint64_t sum = 0;

	qsort(s.c, s.nr, sizeof(s.c[0]), by_total);
	for (unsigned i = 0; i < s.nr; i++)
		sum += s.c[i].instant || strstr(s.c[i].name, "_ns") ? 0 : s.c[i].total;
	printf("\033[H\033[2Juserkvm statistics - %s%.0d\n\n%-34s %14s %7s %12s\n", o->pid ? "pid " : "all processes",
	       (int)o->pid, "Event", "Total", "%Total", "CurAvg/s");
	for (unsigned i = 0; i < s.nr; i++) {
		const struct counter *c = &s.c[i];

		if (c->instant || !c->total)
			continue;
		if (strstr(c->name, "_ns"))
			printf("%-34s %14llu %7s %12.0f\n", c->name, (ull)c->total, "", rate(a, b, c));
		else
			printf("%-34s %14llu %7.1f %12.0f\n", c->name, (ull)c->total,
			       sum ? 100.0 * (double)c->total / (double)sum : 0.0, rate(a, b, c));
	}
	printf("\n");
	for (unsigned i = 0; i < s.nr; i++)
		if (s.c[i].instant)
			printf("%-34s %14llu\n", s.c[i].name, (ull)s.c[i].total);
	fflush(stdout);
}

static int column(const struct counter *c)
{
	int n = (int)strlen(c->name);

	return n < 8 ? 8 : n;
}

static void log_line(const struct sample *a, const struct sample *b, bool header)
{
	for (unsigned i = 0; header && i < b->nr; i++)
		printf("%*s%s", column(&b->c[i]), b->c[i].name, i + 1 == b->nr ? "\n" : " ");
	for (unsigned i = 0; i < b->nr; i++) {
		const struct counter *c = &b->c[i];

		printf("%*.0f%s", column(c), c->instant ? (double)c->total : rate(a, b, c),
		       i + 1 == b->nr ? "\n" : " ");
	}
	fflush(stdout);
}

/* True: q was pressed, or standard input ended. */
static bool wait_key(double seconds, bool keys)
{
	struct pollfd p = { .fd = keys ? STDIN_FILENO : -1, .events = POLLIN };
	char key;

	if (poll(&p, 1, (int)(seconds * 1000)) <= 0)
		return ended;
	return read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || ended;
}

/* Keys without a newline; false: not at a terminal. */
static bool raw_keys(struct termios *before)
{
	struct termios t;

	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, before))
		return false;
	t = *before;
	t.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	return tcsetattr(STDIN_FILENO, TCSANOW, &t) == 0;
}

static int watch(const struct options *o, bool keys)
{
	double delay = o->delay > 0 ? o->delay : o->once || o->log ? 1 : 3;
	struct sample a, b;
	unsigned lines = 0;

	if (!take(o, &a))
		return 1;
	if (!o->once && !o->log)
		screen(&a, &a, o);
	while (!wait_key(delay, keys)) {
		if (!take(o, &b))
			return 1;
		if (o->once) {
			once(&a, &b);
			return 0;
		}
		if (o->log)
			log_line(&a, &b, lines++ % 20 == 0);
		else
			screen(&a, &b, o);
		a = b;
	}
	return 0;
}

static int take_option(void *arg, int option, const char *value)
{
	struct options *o = arg;
	char *end;

	switch (option) {
	case ONCE: o->once = true; break;
	case LOG: o->log = true; break;
	case PID: return see_pid(value, &o->pid) ? 0 : 1;
	case FIELDS: o->fields = value; break;
	default:
		o->delay = strtod(value, &end);
		if (end == value || *end || !(o->delay >= 0.1 && o->delay <= 3600))
			return wrong_usage(see_command, "-s %s: not a number of seconds from 0.1 to 3600", value);
	}
	return 0;
}

static int cmd_stat(int argc, char **argv)
{
	struct options o = { 0 };
	struct termios terminal;
	bool keys;
	int status;

	see_command = cli_stat.name;
	status = cli_parse(&cli_stat, argc, argv, take_option, &o);
	if (status >= 0)
		return status;
	if (optind < argc)
		return wrong_usage(see_command, "it takes no '%s'", argv[optind]);
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	keys = !o.once && !o.log && raw_keys(&terminal);
	status = watch(&o, keys);
	if (keys)
		tcsetattr(STDIN_FILENO, TCSANOW, &terminal);
	return status;
}
