/*
 * userkvm check: run a command with a sanitizer on, count what it reports, and end with a status
 * that tells.
 *
 * The library writes its reports to standard error as they come, and as lines of JSON to a file
 * (USERKVM_CHECK_LOG). This program reads that file when the command has ended: it names functions
 * where there are symbols, and counts.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/userkvm/commands.h"
#include "tools/userkvm/symbols.h"

enum { WITH, EXIT, LOG_FILE, SUPPRESS, SYMBOLS };
static const struct cli_option options[] = {
	[WITH] = { "with", 0, "WORDS", "what to check, guesttlb by default (USERKVM_CHECK)" },
	[EXIT] = { "check-exit", 0, "N", "the status where the command ended with 0 and there were reports (66)" },
	[LOG_FILE] = { "check-log", 0, "FILE", "reports as JSON, one a line, added to FILE (USERKVM_CHECK_LOG)" },
	[SUPPRESS] = { "suppress", 0, "RANGES", "START-END,... hexadecimal: no reports of code there (USERKVM_CHECK_SUPPRESS)" },
	[SYMBOLS] = { "symbols", 0, "FILE", "the guest kernel's vmlinux (ELF) or System.map: functions are named" },
	{ 0 },
};

static int cmd_check(int argc, char **argv);
const struct cli cli_check = {
	.name = "userkvm check",
	.what = "run a command with a sanitizer for guests",
	.synopsis = "userkvm check [OPTIONS] [--] COMMAND [ARGS...]",
	.about = "Runs COMMAND, which may be one of userkvm's (boot, run), with USERKVM_CHECK=guesttlb, and counts the reports.",
	.options = options,
	.program = true,
	.run = cmd_check,
};

struct choice {
	const char *with, *log, *suppress, *symbols;
	int status;
};

static int take(void *arg, int option, const char *value)
{
	struct choice *c = arg;
	char *end;

	switch (option) {
	case WITH: c->with = value; break;
	case LOG_FILE: c->log = value; break;
	case SUPPRESS: c->suppress = value; break;
	case SYMBOLS: c->symbols = value; break;
	default:
		c->status = (int)strtol(value, &end, 10);
		if (end == value || *end || c->status < 1 || c->status > 255)
			return wrong_usage("userkvm check", "--check-exit %s: not a status from 1 to 255", value);
	}
	return 0;
}

/* --- the log --- */

/* The number behind "key":, from `from` on; 0 where there is none. */
static uint64_t number(const char *from, const char *key)
{
	char text[48];
	const char *p;

	snprintf(text, sizeof(text), "\"%s\":", key);
	p = strstr(from, text);
	if (!p)
		return 0;
	p += strlen(text);
	return strtoull(p + (*p == '"'), NULL, 0);
}

static void print_report(const char *line, const struct symbols *t)
{
	const char *writer = strstr(line, "\"writer\":"), *class = line + strlen("{\"class\":\"");
	uint64_t lstar = number(line, "lstar");
	char user[80], by[80];

	fprintf(stderr, "userkvm check: %.*s: address %#llx, cpu%llu at %s; entry %#llx -> %#llx by cpu%llu at %s\n",
		(int)strcspn(class, "\""), class, (unsigned long long)number(line, "address"), (unsigned long long)number(line, "cpu"),
		symbols_name(t, number(line, "rip"), lstar, user, sizeof(user)), (unsigned long long)number(line, "old"),
		(unsigned long long)number(line, "new"), (unsigned long long)(writer ? number(writer, "cpu") : 0),
		symbols_name(t, writer ? number(writer, "rip") : 0, lstar, by, sizeof(by)));
}

/* What was added to the log since `from`: reports; *ended: how many machines have told their counts. */
static unsigned long long read_log(const char *file, long from, const struct symbols *t, unsigned *ended)
{
	unsigned long long reports = 0;
	FILE *f = fopen(file, "re");
	char *line = NULL;
	size_t room = 0;

	*ended = 0;
	if (!f || fseek(f, from, SEEK_SET) != 0) {
		if (f)
			fclose(f);
		return 0;
	}
	while (getline(&line, &room, f) > 0) {
		if (strncmp(line, "{\"class\":\"end\"", 14) == 0) {
			reports += number(line, "told");
			++*ended;
		} else if (strncmp(line, "{\"class\":\"", 10) == 0 && !strstr(line, "\"suppressed\":true") && t->nr) {
			print_report(line, t);
		}
	}
	free(line);
	fclose(f);
	return reports;
}

/* --- running --- */

static bool is_ours(const char *word)
{
	for (const struct cli *const *c = cli_commands; *c; c++)
		if (strcmp((*c)->name + strlen("userkvm "), word) == 0)
			return true;
	return false;
}

static int run(char **argv)
{
	char self[PATH_MAX], *again[64] = { (char *)"userkvm" };
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	unsigned k = 0;

	if (!is_ours(argv[0])) {
		execvp(argv[0], argv);
	} else if (n > 0) {
		self[n] = '\0';
		while (argv[k] && k < 62) {
			again[k + 1] = argv[k];
			k++;
		}
		execv(self, again);
	}
	fprintf(stderr, "userkvm check: %s: %s\n", argv[0], strerror(errno));
	return errno == ENOENT ? NOT_FOUND : CANNOT_RUN;
}

/* Its status as a shell tells it. The terminal's signals are the command's. */
static int run_and_wait(char **argv)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN }, before_int, before_quit;
	int status = 0;
	pid_t p;

	fflush(NULL);
	sigaction(SIGINT, &ignore, &before_int);
	sigaction(SIGQUIT, &ignore, &before_quit);
	p = fork();
	if (p == 0) {
		sigaction(SIGINT, &before_int, NULL);
		sigaction(SIGQUIT, &before_quit, NULL);
		_exit(run(argv));
	}
	while (p > 0 && waitpid(p, &status, 0) < 0 && errno == EINTR)
		;
	if (p < 0)
		return CANNOT_RUN;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int cmd_check(int argc, char **argv)
{
	struct choice c = { .with = "guesttlb", .status = 66 };
	int status = cli_parse(&cli_check, argc, argv, take, &c), fd;
	char own[] = "/tmp/userkvm-check.XXXXXX", full[PATH_MAX];
	struct symbols symbols = { 0 };
	unsigned long long reports;
	unsigned ended;
	struct stat st;

	if (status >= 0)
		return status;
	if (optind >= argc)
		return wrong_usage("userkvm check", "which command?");
	if (c.symbols && !symbols_read(&symbols, c.symbols)) {
		fprintf(stderr, "userkvm check: %s: no symbols in it\n", c.symbols);
		return 1;
	}
	fd = c.log ? open(c.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : mkostemp(own, O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) != 0 || !realpath(c.log ? c.log : own, full)) {
		fprintf(stderr, "userkvm check: %s: %s\n", c.log ? c.log : own, strerror(errno));
		return 1;
	}
	close(fd);
	setenv("USERKVM_CHECK", c.with, 1);
	setenv("USERKVM_CHECK_LOG", full, 1);
	if (c.suppress)
		setenv("USERKVM_CHECK_SUPPRESS", c.suppress, 1);
	status = run_and_wait(argv + optind);
	reports = read_log(full, (long)st.st_size, &symbols, &ended);
	if (!c.log)
		unlink(full);
	free(symbols.s);
	if (ended)
		fprintf(stderr, "userkvm check: %llu reports\n", reports);
	else
		fprintf(stderr, "userkvm check: no machine has told its counts: the command ran none, or was killed\n");
	if (status == 0 && !ended)
		return 1;
	return status == 0 && reports ? c.status : status;
}
