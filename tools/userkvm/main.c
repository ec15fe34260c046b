/*
 * The userkvm command: one sub-command a file.
 */
#include <stdio.h>
#include <string.h>

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

int main(int argc, char **argv)
{
	if (argc < 2) {
		usage(stderr);
		return 2;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
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
	fprintf(stderr, "userkvm: no command '%s'; see userkvm --help\n", argv[1]);
	return 2;
}
