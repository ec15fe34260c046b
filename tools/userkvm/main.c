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

static const struct {
	const char *name;
	int (*fn)(int argc, char **argv);
	const char *what;
} commands[] = {
	{"boot", cmd_boot, "boot a Linux kernel on the terminal"},
	{"run", cmd_run, "run a KVM client (QEMU, kvmtool, ...) on userkvm"},
	{"walkthrough", cmd_walkthrough, "show how a guest's memory is virtualized, step by step"},
	{"trace", cmd_trace, "run a KVM client and record KVM's tracepoints"},
	{"ept", cmd_ept, "look at the extended page tables of a running VM"},
	{"stat", cmd_stat, "show the counters of running VMs"},
	{"doctor", cmd_doctor, "say what this machine offers and what a client will see"},
};

static void usage(FILE *f)
{
	fputs("usage: userkvm COMMAND [ARGS]\n\nKVM in user space.\n\n", f);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(f, "  %-11s %s\n", commands[i].name, commands[i].what);
	fputs("\n`userkvm COMMAND --help` says more; so do userkvm(1) and its neighbours.\n", f);
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
	fprintf(stderr, "userkvm: standard output: %s\n", strerror(errno ? errno : EIO));
	return status ? status : 1;
}

static int command(int argc, char **argv)
{
	if (argc < 2) {
		usage(stderr);
		return 2;
	}
	if (asks_help(argv[1])) {
		usage(stdout);
		return 0;
	}
	if (strcmp(argv[1], "--version") == 0) {
		puts("userkvm " USERKVM_VERSION);
		return 0;
	}
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].fn(argc - 1, argv + 1);
	return wrong_usage("userkvm", "no command '%s'", argv[1]);
}

int main(int argc, char **argv)
{
	/* What `run` becomes shall find its streams as they were. */
	if (argc < 2 || strcmp(argv[1], "run") != 0)
		open_streams();
	return finish(command(argc, argv));
}
