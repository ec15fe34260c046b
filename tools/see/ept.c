/*
 * userkvm ept: options and the choice of what to do.
 */
#include <stdlib.h>
#include <string.h>

#include "tools/see/see.h"
#include "tools/userkvm/commands.h"

static const char usage[] =
	"usage: userkvm ept dump    [--json] [-o FILE] PID\n"
	"       userkvm ept walk    [--gva [--vcpu N]] [--as N] PID ADDRESS\n"
	"       userkvm ept explain [--gva [--vcpu N] [--user]] [--as N] PID ADDRESS [r|w|x]\n"
	"       userkvm ept diff    [--interval SECONDS] PID | FILE FILE\n"
	"       userkvm ept idle    [--interval SECONDS] PID\n"
	"       userkvm ept map     [-o FILE.svg] PID | FILE\n"
	"\n"
	"Looks at the extended page tables of the VM in process PID, which runs on.\n"
	"ADDRESS is guest-physical; with --gva it is guest-virtual, as vCPU N sees it.\n"
	"  --vm N       the process's N-th VM (default: the oldest)\n"
	"  --as N       address space: 0 normal, 1 SMM\n"
	"  --user       explain an access of the guest's user mode\n"
	"  --core FILE  a core file of such a process, instead of PID\n"
	"FILE is what `userkvm ept dump` wrote.\n";

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

/* The option at argv[*i], with its value. False: wrong. */
static bool option(struct see_options *o, char **argv, int argc, int *i)
{
	const char *name = argv[*i], *value = *i + 1 < argc ? argv[*i + 1] : NULL;
	char *end = NULL;

	if (strcmp(name, "--json") == 0)
		return o->json = true;
	if (strcmp(name, "--gva") == 0)
		return o->gva = true;
	if (strcmp(name, "--user") == 0)
		return o->user = true;
	if (!value)
		return false;
	++*i;
	if (strcmp(name, "--core") == 0) {
		if (!see_open_core(value))
			exit(1);
		return true;
	}
	if (strcmp(name, "-o") == 0 || strcmp(name, "--output") == 0)
		o->output = value;
	else if (strcmp(name, "--vm") == 0)
		o->vm = strtoull(value, &end, 10);
	else if (strcmp(name, "--vcpu") == 0)
		o->vcpu = (unsigned)strtoul(value, &end, 10);
	else if (strcmp(name, "--as") == 0)
		o->as = (int)strtol(value, &end, 10);
	else if (strcmp(name, "--interval") == 0)
		o->interval = strtod(value, &end);
	else
		return false;
	return !end || (end != value && !*end && o->interval >= 0 && o->interval <= 3600 && (o->as == 0 || o->as == 1));
}

static bool is_number(const char *text)
{
	return *text && !text[strspn(text, "0123456789")];
}

static int run(size_t which, struct see_options *o, char **word, int nr)
{
	int files = commands[which].fn == see_diff ? 2 : 1;

	o->arg = word;
	o->nr_args = nr;
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

int cmd_ept(int argc, char **argv)
{
	struct see_options o = { .interval = 1 };
	char *word[4];
	size_t which = 0;
	int nr = 0;

	see_command = "userkvm ept";
	if (argc >= 2 && asks_help(argv[1])) {
		fputs(usage, stdout);
		return 0;
	}
	while (argc >= 2 && which < ARRAY_SIZE(commands) && strcmp(argv[1], commands[which].name) != 0)
		which++;
	if (argc < 2)
		return wrong_usage(see_command, "what to do?");
	if (which == ARRAY_SIZE(commands))
		return wrong_usage(see_command, "'%s' is nothing it does", argv[1]);
	for (int i = 2; i < argc; i++) {
		if (asks_help(argv[i])) {
			fputs(usage, stdout);
			return 0;
		}
		if (argv[i][0] == '-' && argv[i][1]) {
			const char *name = argv[i];

			if (!option(&o, argv, argc, &i))
				return wrong_usage(see_command, "no option '%s', or no good value for it", name);
		} else if (nr == (int)ARRAY_SIZE(word)) {
			return wrong_words(which);
		} else {
			word[nr++] = argv[i];
		}
	}
	return run(which, &o, word, nr);
}
