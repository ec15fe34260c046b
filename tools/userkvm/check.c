/*
 * userkvm check: run a command with a sanitizer on, count what it reports, and end with a status
 * that tells (check.h). Also a way to check a command that takes no options of ours.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/userkvm/check.h"
#include "tools/userkvm/commands.h"

static const struct cli_option options[] = {
	CHECK_OPTIONS(0, "with"),
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

static int take(void *arg, int option, const char *value)
{
	return check_take(arg, "userkvm check", option, value);
}

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

static int cmd_check(int argc, char **argv)
{
	struct check_choice c = { 0 };
	int status = cli_parse(&cli_check, argc, argv, take, &c);

	if (status >= 0)
		return status;
	if (optind >= argc)
		return wrong_usage("userkvm check", "which command?");
	status = check_begin("userkvm check", &c);
	return status >= 0 ? status : run(argv + optind);
}
