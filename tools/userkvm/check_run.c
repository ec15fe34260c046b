/*
 * The sanitizers' options, and what is told when the checked command has ended: see check.h.
 *
 * The library writes its reports to standard error as they come, and as lines of JSON to a file
 * (USERKVM_CHECK_LOG). The parent process reads that file when the command has ended: it names functions
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
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/params.h"
#include "tools/userkvm/check.h"
#include "tools/userkvm/child.h"
#include "tools/userkvm/commands.h"
#include "tools/userkvm/symbols.h"

#define DEFAULT_STATUS 66
/* Set for the checked command: a userkvm that it starts, or becomes at a reset of its guest, is counted already. */
#define BEGUN "userkvm_check_begun"

int check_take(struct check_choice *c, const char *command, int option, const char *value)
{
	char *end;

	switch (option) {
	case CHECK_WITH: c->with = value; break;
	case CHECK_LOG: c->log = value; break;
	case CHECK_SUPPRESS: c->suppress = value; break;
	case CHECK_SYMBOLS: c->symbols = value; break;
	default:
		c->status = (int)strtol(value, &end, 10);
		if (end == value || *end || c->status < 1 || c->status > 255)
			return wrong_usage(command, "--check-exit %s: not a status from 1 to 255", value);
	}
	return 0;
}

bool check_asked(const struct check_choice *c)
{
	return c->with || c->log || c->suppress || c->symbols || c->status;
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
	bool nested = strstr(line, "\"eptp\":"), entry = strstr(line, "\"access\":\"reachable\"");
	uint64_t lstar = number(line, "lstar");
	char user[80], by[80], old[40] = "";

	/* the RIP is of L2, whose kernel is another one, unless it is that of L1's VM entry */
	symbols_name(nested && !entry ? &(struct symbols){ 0 } : t, number(line, "rip"), lstar, user, sizeof(user));
	if (strstr(line, "\"old\":"))
		snprintf(old, sizeof(old), "%#llx -> ", (unsigned long long)number(line, "old"));
	fprintf(stderr, "userkvm check: %.*s: address %#llx, %s%llu at %s; entry %s%#llx by cpu%llu at %s\n",
		(int)strcspn(class, "\""), class, (unsigned long long)number(line, "address"), nested && entry ? "L2 entered by cpu" : nested ? "L2 of cpu" : "cpu",
		(unsigned long long)number(line, "cpu"), user, old, (unsigned long long)number(line, "new"),
		(unsigned long long)(writer ? number(writer, "cpu") : 0),
		symbols_name(t, writer ? number(writer, "rip") : 0, lstar, by, sizeof(by)));
}

/*
 * What was added to the log since `from`: reports; *ended: how many machines have told their counts. A machine
 * that was killed or replaced has told none: the lines behind the last counts are counted then, one for each bug.
 */
static unsigned long long read_log(const char *file, long from, const struct symbols *t, unsigned *ended)
{
	unsigned long long reports = 0, lines = 0;
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
			lines = 0;
		} else if (strncmp(line, "{\"class\":\"", 10) == 0 && !strstr(line, "\"suppressed\":true")) {
			lines++;
			if (t->nr)
				print_report(line, t);
		}
	}
	free(line);
	fclose(f);
	return reports + lines;
}

/* --- dividing --- */

/* The status of the child as a shell tells it. */
static int wait_for(pid_t child)
{
	int status = 0;

	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return CANNOT_RUN;
	child_ended();
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int fail(const char *name, const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", name, what, strerror(errno));
	return 1;
}

static void set_environment(const struct check_choice *c, const char *log)
{
	if (c->with)
		setenv("USERKVM_CHECK", c->with, 1);
	else if (!params_has_word("USERKVM_CHECK", "guesttlb") && !params_has_word("USERKVM_CHECK", "l1ept") &&
		 !params_has_word("USERKVM_CHECK", "l1vpid"))
		setenv("USERKVM_CHECK", "guesttlb", 1);
	if (c->suppress)
		setenv("USERKVM_CHECK_SUPPRESS", c->suppress, 1);
	setenv("USERKVM_CHECK_LOG", log, 1);
	setenv(BEGUN, "1", 1);
}

int check_begin(const char *name, const struct check_choice *c)
{
	char own[] = "/tmp/userkvm-check.XXXXXX", log[PATH_MAX];
	struct symbols symbols = { 0 };
	unsigned long long reports;
	pid_t child, parent = getpid();
	unsigned ended;
	struct stat st;
	int fd, status;

	if (getenv(BEGUN))
		return -1;
	if (c->symbols && !symbols_read(&symbols, c->symbols)) {
		fprintf(stderr, "%s: %s: no symbols in it\n", name, c->symbols);
		return 1;
	}
	fd = c->log ? open(c->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : mkostemp(own, O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) != 0 || !realpath(c->log ? c->log : own, log)) {
		free(symbols.s);
		return fail(name, c->log ? c->log : own);
	}
	close(fd);
	set_environment(c, log);
	if (cli_check_environment(name)) {
		free(symbols.s);
		if (!c->log)
			unlink(log);
		return 2;
	}
	child = child_fork();
	if (child == 0) {
		free(symbols.s);
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		if (getppid() != parent)
			raise(SIGTERM); /* it has gone before we asked */
		return -1;
	}
	status = child < 0 ? fail(name, "fork") : wait_for(child);
	reports = read_log(log, (long)st.st_size, &symbols, &ended);
	if (!c->log)
		unlink(log);
	free(symbols.s);
	if (ended || reports)
		fprintf(stderr, "userkvm check: %llu reports\n", reports);
	else
		fprintf(stderr, "userkvm check: no machine has told its counts: the command ran none, or was killed\n");
	if (status == 0 && !ended && !reports)
		return 1;
	return status == 0 && reports ? c->status ? c->status : DEFAULT_STATUS : status;
}
