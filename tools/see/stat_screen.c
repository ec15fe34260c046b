/*
 * userkvm stat at a terminal, with kvm_stat's keys: see stat.h.
 *
 * Invariants
 * 1. The terminal's other screen is used, and left again however the program
 *    ends: the user finds the lines that stood there.
 * 2. No more lines and columns are written than the window has.
 */
#include <ctype.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "tools/see/stat.h"

#define NAME_COLUMNS 34
#define OTHER_SCREEN "\033[?1049h"
#define FIRST_SCREEN "\033[?1049l"
#define CLEAR	     "\033[H\033[2J"

static volatile sig_atomic_t ended, resized;

static void on_signal(int signo)
{
	if (signo == SIGWINCH)
		resized = 1;
	else
		ended = 1;
}

void stat_catch_signals(void)
{
	/* without SA_RESTART: poll() ends */
	struct sigaction sa = { .sa_handler = on_signal };

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	sigaction(SIGWINCH, &sa, NULL);
}

bool stat_ended(void)
{
	return ended;
}

bool stat_wait(double seconds)
{
	double until = stat_now() + seconds, left;

	while (!ended && (left = until - stat_now()) > 0)
		poll(NULL, 0, (int)(left * 1000) + 1);
	return ended;
}

int stat_screen_rows(void)
{
	struct winsize w;

	return !ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) && w.ws_row ? w.ws_row : 24;
}

struct screen {
	struct termios before, raw;
	bool keys; /* standard input is a terminal */
	int rows, columns, row;
	bool by_rate; /* order; else by total */
};

static void measure(struct screen *s)
{
	struct winsize w;

	s->rows = 24;
	s->columns = 80;
	if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) && w.ws_row && w.ws_col) {
		s->rows = w.ws_row;
		s->columns = w.ws_col;
	}
	resized = 0;
}

/* One line, cut at the window's edge; nothing below the last but one. */
static void __attribute__((format(printf, 2, 3))) line(struct screen *s, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	int n;

	if (s->row >= s->rows - 1)
		return;
	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (n > (int)sizeof(text) - 1)
		n = (int)sizeof(text) - 1;
	printf("%.*s\n", n < s->columns ? n : s->columns - 1, text);
	s->row++;
}

static const struct stat_sample *order_a, *order_b;
static bool order_by_rate;

static int by_order(const void *x, const void *y)
{
	const struct stat_row *a = x, *b = y;

	if (order_by_rate) {
		double ra = stat_rate(order_a, order_b, a), rb = stat_rate(order_a, order_b, b);

		if (ra != rb)
			return ra < rb ? 1 : -1;
	}
	if (a->value != b->value)
		return a->value < b->value ? 1 : -1;
	return strcmp(a->name, b->name);
}

/* Of a counter's name: in a narrow window it is cut, not the total. */
static int name_columns(const struct screen *s)
{
	int beside = 1 + 14 + 1; /* the total, and the column that stays free */

	return s->columns >= NAME_COLUMNS + beside ? NAME_COLUMNS : s->columns > 8 + beside ? s->columns - beside : 8;
}

/* Events with total, share and growth, then what is present. */
static void show(struct screen *s, const struct stat_choice *c, const struct stat_sample *a,
		 const struct stat_sample *b, const struct stat_sample *origin)
{
	struct stat_sample sorted = { .row = calloc(b->nr + 1, sizeof(*sorted.row)), .nr = b->nr };
	char whose[40], pid[32] = "all processes";
	int name = name_columns(s);
	double sum = 0;

	if (!sorted.row)
		return;
	memcpy(sorted.row, b->row, b->nr * sizeof(*b->row));
	for (unsigned i = 0; i < sorted.nr; i++) {
		const struct stat_row *zero = stat_find(origin, &sorted.row[i]);

		if (!sorted.row[i].instant && zero && zero->value <= sorted.row[i].value)
			sorted.row[i].value -= zero->value;
		if (!sorted.row[i].instant && !strstr(sorted.row[i].name, "_ns"))
			sum += (double)sorted.row[i].value;
	}
	order_a = a;
	order_b = b;
	order_by_rate = s->by_rate;
	qsort(sorted.row, sorted.nr, sizeof(*sorted.row), by_order);
	if (c->pid)
		snprintf(pid, sizeof(pid), "pid %d", (int)c->pid);
	fputs(CLEAR, stdout);
	s->row = 0;
	line(s, "userkvm statistics - %s%s%s", pid, *c->fields ? ", " : "", c->fields);
	line(s, "%s", "");
	line(s, "%-*s %14s %7s %12s %s", name, "Event", "Total", "%Total", "CurAvg/s", c->apart ? "pid/vm/vcpu" : "");
	for (int instant = 0; instant < 2; instant++) {
		for (unsigned i = 0; i < sorted.nr; i++) {
			const struct stat_row *r = &sorted.row[i];
			const struct stat_row *now = stat_find(b, r);

			if (r->instant != instant || (!r->instant && !r->value))
				continue;
			stat_whose(c, r, whose, sizeof(whose));
			if (instant)
				line(s, "%-*.*s %14llu %7s %12s %s", name, name, r->name, (ull)r->value, "", "", whose);
			else if (strstr(r->name, "_ns"))
				line(s, "%-*.*s %14llu %7s %12.0f %s", name, name, r->name, (ull)r->value, "",
				     now ? stat_rate(a, b, now) : 0.0, whose);
			else
				line(s, "%-*.*s %14llu %7.1f %12.0f %s", name, name, r->name, (ull)r->value,
				     sum > 0 ? 100.0 * (double)r->value / sum : 0.0, now ? stat_rate(a, b, now) : 0.0, whose);
		}
		if (!instant)
			line(s, "%s", "");
	}
	fflush(stdout);
	free(sorted.row);
}

/* One line of text from the keyboard, on the window's last. False: none was given. */
static bool prompt(struct screen *s, const char *what, char *buf, size_t size)
{
	bool got;

	printf("\033[%d;1H\033[K%s: ", s->rows, what);
	fflush(stdout);
	tcsetattr(STDIN_FILENO, TCSANOW, &s->before);
	got = fgets(buf, (int)size, stdin) != NULL;
	tcsetattr(STDIN_FILENO, TCSANOW, &s->raw);
	if (got)
		buf[strcspn(buf, "\n")] = '\0';
	clearerr(stdin);
	return got;
}

static void help(struct screen *s)
{
	char any;

	fputs(CLEAR "  b   VMs and vCPUs each by itself, or added up\n"
		    "  c   all counters again (after f)\n"
		    "  f   only counters whose name contains a text\n"
		    "  h   this\n"
		    "  o   by total, or by growth\n"
		    "  p   one process, or all\n"
		    "  q   end\n"
		    "  r   totals count from now\n"
		    "  s   seconds between looks\n\nany key: back\n", stdout);
	fflush(stdout);
	if (read(STDIN_FILENO, &any, 1) < 1)
		ended = 1;
}

/* True: the picture has changed. */
static bool press(struct screen *s, struct stat_choice *c, double *delay, struct stat_sample *origin, char key)
{
	char text[64], *end;

	switch (tolower((unsigned char)key)) {
	case 'q': ended = 1; return false;
	case 'b':
		c->apart = !c->apart;
		stat_free(origin);
		return true;
	case 'c': *c->fields = '\0'; return true;
	case 'o': s->by_rate = !s->by_rate; return true;
	case 'h': help(s); return true;
	case 'r':
		stat_take(c, origin);
		return true;
	case 'f':
		if (prompt(s, "counters whose name contains", text, sizeof(text)))
			snprintf(c->fields, sizeof(c->fields), "%s", text);
		return true;
	case 'p':
		if (prompt(s, "process (nothing: all)", text, sizeof(text))) {
			long pid = strtol(text, &end, 10);

			c->pid = end != text && !*end && pid > 0 ? (pid_t)pid : 0;
			stat_free(origin);
		}
		return true;
	case 's':
		if (prompt(s, "seconds between looks (0.1 to 3600)", text, sizeof(text))) {
			double d = strtod(text, &end);

			if (end != text && !*end && d >= 0.1 && d <= 3600)
				*delay = d;
		}
		return true;
	}
	return false;
}

int stat_watch(struct stat_choice *c, double delay)
{
	struct stat_sample a = { 0 }, b = { 0 }, origin = { 0 };
	struct screen s = { 0 };
	int status = 0;

	if (!stat_take(c, &a))
		return 1;
	s.keys = isatty(STDIN_FILENO) && !tcgetattr(STDIN_FILENO, &s.before);
	if (s.keys) {
		s.raw = s.before;
		s.raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		tcsetattr(STDIN_FILENO, TCSANOW, &s.raw);
	}
	fputs(OTHER_SCREEN, stdout);
	measure(&s);
	show(&s, c, &a, &a, &origin);
	while (!ended) {
		struct pollfd p = { .fd = s.keys ? STDIN_FILENO : -1, .events = POLLIN };
		double left = a.at + delay - stat_now();
		int got = poll(&p, 1, left > 0 ? (int)(left * 1000) + 1 : 0);
		bool again = false;
		char key;

		if (got > 0) {
			if (read(STDIN_FILENO, &key, 1) != 1)
				break;
			again = press(&s, c, &delay, &origin, key);
		}
		if (resized) {
			measure(&s);
			again = true;
		}
		if (ended || (!again && got != 0))
			continue;
		if (!stat_take(c, &b)) {
			status = 1;
			break;
		}
		show(&s, c, again ? &b : &a, &b, &origin);
		stat_free(&a);
		a = b;
		b = (struct stat_sample){ 0 };
	}
	fputs(FIRST_SCREEN, stdout);
	fflush(stdout);
	if (s.keys)
		tcsetattr(STDIN_FILENO, TCSANOW, &s.before);
	stat_free(&a);
	stat_free(&b);
	stat_free(&origin);
	return status;
}
