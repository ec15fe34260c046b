/*
 * The userkvm command: one sub-command a file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/boot/vm.h"
#include "tools/userkvm/commands.h"

const struct cli *const cli_commands[] = {
	&cli_boot, &cli_run, &cli_check, &cli_walkthrough, &cli_lab, &cli_trace, &cli_ept, &cli_vmcs, &cli_explain, &cli_gdb, &cli_stat, &cli_doctor, &cli_completion, NULL,
};

static void usage(FILE *f)
{
	fputs("usage: userkvm COMMAND [ARGS]\n       userkvm help [COMMAND]\n       userkvm -h | --help | -V | --version\n\n"
	      "KVM in user space.\n\n", f);
	for (const struct cli *const *c = cli_commands; *c; c++)
		fprintf(f, "  %-11s %s\n", (*c)->name + strlen("userkvm "), (*c)->what);
	fputs("\n`userkvm COMMAND --help` says more; so do userkvm(1) and its neighbours.\n", f);
}

static const struct cli *find(const char *name)
{
	for (const struct cli *const *c = cli_commands; *c; c++)
		if (strcmp(name, (*c)->name + strlen("userkvm ")) == 0)
			return *c;
	return NULL;
}

static int no_command(const char *name)
{
	const char *names[16] = { "help" }, *near;
	size_t n = 1;

	for (const struct cli *const *c = cli_commands; *c; c++)
		names[n++] = (*c)->name + strlen("userkvm ");
	near = closest_word(name, names, n);
	if (near)
		return wrong_usage("userkvm", "no command '%s'; did you mean '%s'?", name, near);
	return wrong_usage("userkvm", "no command '%s'", name);
}

static int help(int argc, char **argv)
{
	const struct cli *c;

	if (argc > 3)
		return wrong_usage("userkvm", "help takes one command");
	if (argc < 3) {
		usage(stdout);
		return 0;
	}
	c = find(argv[2]);
	if (!c)
		return no_command(argv[2]);
	cli_help(c, stdout);
	return 0;
}

/* Standard streams that are closed: else a socket or a VM would get their number, and our lines. */
static void open_streams(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

/* The status of a command, but for one whose output nobody got. */
static int finish(int status)
{
	errno = 0;
	if (!fflush(stdout) && !ferror(stdout))
		return status;
	if (!errno && write(STDOUT_FILENO, "\n", 1) == 1) /* an earlier write failed: this one tells why */
		errno = EIO;
	fprintf(stderr, "userkvm: standard output: %s\n", strerror(errno ? errno : EIO));
	return status ? status : 1;
}

static int command(int argc, char **argv)
{
	const struct cli *c;

	if (argc < 2) {
		usage(stderr);
		return 2;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		usage(stdout);
		return 0;
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		puts("userkvm " USERKVM_VERSION);
		return 0;
	}
	if (strcmp(argv[1], "help") == 0)
		return help(argc, argv);
	c = find(argv[1]);
	return c ? c->run(argc - 1, argv + 1) : no_command(argv[1]);
}

int main(int argc, char **argv)
{
	/* What `run` becomes shall find its streams as they were. */
	if (argc < 2 || strcmp(argv[1], "run") != 0)
		open_streams();
	return finish(command(argc, argv));
}
