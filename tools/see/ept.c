/*
 * userkvm ept: options and the choice of what to do.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/see/see.h"
#include "tools/userkvm/commands.h"

enum { JSON, OUTPUT, L2, GVA, GRID, VCPU, USER, VM, AS, INTERVAL, CORE };
static const struct cli_option option_rows[] = {
	[JSON] = { "json", 0, NULL, "dump, walk, explain, diff, idle: as JSON" },
	[OUTPUT] = { "output", 'o', "FILE", "dump, map, walk --grid (a picture): to FILE" },
	[L2] = { "l2", 0, NULL, "dump, walk, explain, map: of the guest's guest that runs, or was the last" },
	[GVA] = { "gva", 0, NULL, "walk, explain: ADDRESS is guest-virtual" },
	[GRID] = { "grid", 0, NULL, "walk --gva: the references, numbered, as a grid" },
	[VCPU] = { "vcpu", 0, "N", "... as vCPU N sees it, --l2: vCPU N's (default 0)" },
	[USER] = { "user", 0, NULL, "explain: an access of the guest's user mode" },
	[VM] = { "vm", 0, "N", "the process's N-th VM (default: the oldest)" },
	[AS] = { "as", 0, "N", "address space: 0 normal, 1 SMM" },
	[INTERVAL] = { "interval", 0, "SECONDS", "diff, idle: between two looks (default 1)" },
	[CORE] = { "core", 0, "FILE", "a core file of such a process, instead of PID" },
	{ 0 },
};

static int cmd_ept(int argc, char **argv);
const struct cli cli_ept = {
	.name = "userkvm ept",
	.what = "look at the extended page tables of a running VM",
	.synopsis = "userkvm ept dump    [--l2 [--vcpu N]] [--json] [-o FILE] PID\n"
		    "       userkvm ept walk    [--l2] [--json] [--gva [--vcpu N] [--grid [-o FILE.svg]]] [--as N] PID ADDRESS\n"
		    "       userkvm ept explain [--l2] [--json] [--gva [--vcpu N] [--user]] [--as N] PID ADDRESS [r|w|x]\n"
		    "       userkvm ept diff    [--interval SECONDS] [--json] PID | FILE FILE\n"
		    "       userkvm ept idle    [--interval SECONDS] [--json] PID\n"
		    "       userkvm ept map     [--l2 [--vcpu N]] [-o FILE.svg] PID | FILE",
	.about = "Looks at the extended page tables of the VM in process PID, which runs on.\n"
		 "ADDRESS is guest-physical; with --gva it is guest-virtual. With --l2 it is an\n"
		 "address of the guest's guest: EPT12, EPT01 and EPT02 are shown.",
	.more = "FILE is what `userkvm ept dump` wrote.",
	.options = option_rows,
	.words = "dump walk explain diff idle map",
	.files = true,
	.run = cmd_ept,
};

static const struct {
	const char *name;
	int (*fn)(struct see_options *o);
	int min_args, max_args; /* without the PID */
	bool files;		/* max_args + 1 words, or the last, may be dump files */
	bool live;		/* nothing for core files */
} commands[] = {
	{ "dump", see_dump, 0, 0, false },
	{ "walk", see_walk, 1, 1, false },
	{ "explain", see_explain, 1, 2, false },
	{ "diff", see_diff, 0, 0, true, true },
	{ "idle", see_idle, 0, 0, false, true },
	{ "map", see_map, 0, 0, true },
};

static int wrong_words(size_t which)
{
	return wrong_usage(see_command, "too few or too many words for '%s'", commands[which].name);
}

static int take(void *arg, int option, const char *value)
{
	struct see_options *o = arg;
	char *end = NULL;

	switch (option) {
	case JSON: o->json = true; return 0;
	case L2: o->l2 = true; return 0;
	case GVA: o->gva = true; return 0;
	case GRID: o->grid = true; return 0;
	case USER: o->user = true; return 0;
	case OUTPUT: o->output = value; return 0;
	case CORE: return see_open_core(value) ? 0 : 1;
	case VM: o->vm = strtoull(value, &end, 10); break;
	case VCPU: o->vcpu = (unsigned)strtoul(value, &end, 10); break;
	case AS: o->as = (int)strtol(value, &end, 10); break;
	case INTERVAL: o->interval = strtod(value, &end); break;
	}
	if (end != value && !*end && o->interval >= 0 && o->interval <= 3600 && (o->as == 0 || o->as == 1))
		return 0;
	return wrong_usage(see_command, "--%s %s: no good value", option_rows[option].name, value);
}

static bool is_number(const char *text)
{
	return *text && !text[strspn(text, "0123456789")];
}

static int run(size_t which, struct see_options *o, char **word, int nr)
{
	int files = commands[which].fn == see_diff ? 2 : 1;

	bool l2 = commands[which].fn != see_diff && commands[which].fn != see_idle;

	o->arg = word;
	o->nr_args = nr;
	if (o->json && commands[which].fn == see_map)
		return wrong_usage(see_command, "map draws a picture: --json is for the others");
	if (o->l2 && (!l2 || (!see_core_pid() && commands[which].files && nr && !is_number(word[0]))))
		return wrong_usage(see_command, "--l2 is for dump, walk, explain and map, of a process or a core file");
	if (commands[which].files && !see_core_pid() && nr == files && !is_number(word[0]))
		return commands[which].fn(o);
	if (see_core_pid()) {
		o->pid = see_core_pid();
		if (nr < commands[which].min_args || nr > commands[which].max_args || commands[which].live)
			return wrong_words(which);
		return commands[which].fn(o);
	}
	if (nr < 1 + commands[which].min_args || nr > 1 + commands[which].max_args)
		return wrong_words(which);
	o->arg++;
	o->nr_args--;
	if (!see_pid(word[0], &o->pid))
		return 1;
	return commands[which].fn(o);
}

static int cmd_ept(int argc, char **argv)
{
	struct see_options o = { .interval = 1 };
	const char *names[ARRAY_SIZE(commands)], *near;
	size_t which = 0;
	int status;

	see_command = cli_ept.name;
	status = cli_parse(&cli_ept, argc, argv, take, &o);
	if (status >= 0)
		return status;
	if (optind == argc)
		return wrong_usage(see_command, "what to do?");
	for (; which < ARRAY_SIZE(commands) && strcmp(argv[optind], commands[which].name) != 0; which++)
		names[which] = commands[which].name;
	if (which < ARRAY_SIZE(commands))
		return run(which, &o, argv + optind + 1, argc - optind - 1);
	near = closest_word(argv[optind], names, ARRAY_SIZE(names));
	if (near)
		return wrong_usage(see_command, "'%s' is nothing it does; did you mean '%s'?", argv[optind], near);
	return wrong_usage(see_command, "'%s' is nothing it does", argv[optind]);
}
