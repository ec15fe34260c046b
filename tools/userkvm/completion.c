/*
 * userkvm completion SHELL: a completion script from the tables of options.
 *
 * What a value is completed with follows from its name in the row: FILE is
 * completed with files, "a|b" with its alternatives, all else with nothing.
 */
#include <string.h>
#include <unistd.h>

#include "tools/userkvm/commands.h"

static const struct cli_option options[] = { { 0 } };

static int cmd_completion(int argc, char **argv);
const struct cli cli_completion = {
	.name = "userkvm completion",
	.what = "print a completion script for a shell",
	.synopsis = "userkvm completion bash|zsh|fish",
	.about = "Prints what completes userkvm's commands and options, e.g. in ~/.bashrc:\n"
		 "  eval \"$(userkvm completion bash)\"",
	.options = options,
	.words = "bash zsh fish",
	.run = cmd_completion,
};

static const char *short_name(const struct cli *c)
{
	return c->name + strlen("userkvm ");
}

/* "--lang --quiz -o": the options of a command. */
static void print_words(const struct cli *c)
{
	for (const struct cli_option *o = c->options; o->name || o->letter; o++) {
		if (o->name)
			printf("--%s ", o->name);
		if (o->letter)
			printf("-%c ", o->letter);
	}
	printf("--help");
}

static void bash(void)
{
	printf("# bash completion of userkvm(1)\n_userkvm()\n{\n"
	       "\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]} i\n"
	       "\tCOMPREPLY=()\n\tif [ \"$COMP_CWORD\" = 1 ]; then\n\t\tCOMPREPLY=($(compgen -W \"help");
	for (const struct cli *const *c = cli_commands; *c; c++)
		printf(" %s", short_name(*c));
	printf(" --help --version\" -- \"$cur\"))\n\t\treturn\n\tfi\n");
	printf("\tcase $command in\n");
	for (const struct cli *const *c = cli_commands; *c; c++) {
		printf("\t%s)\n", short_name(*c));
		if ((*c)->program) /* behind `--` or the first word stands another program's command line */
			printf("\t\tfor ((i = 2; i < COMP_CWORD; i++)); do\n"
			       "\t\t\tif [ \"${COMP_WORDS[i]}\" = -- ] && declare -F _command_offset >/dev/null; then\n"
			       "\t\t\t\t_command_offset $((i + 1))\n\t\t\t\treturn\n\t\t\tfi\n\t\tdone\n");
		printf("\t\tcase $prev in\n");
		for (const struct cli_option *o = (*c)->options; o->name || o->letter; o++) {
			if (!o->value)
				continue;
			if (o->name)
				printf("\t\t--%s%s", o->name, o->letter ? "|" : "");
			if (o->letter)
				printf("%s-%c", o->name ? "" : "\t\t", o->letter);
			if (strncmp(o->value, "FILE", 4) == 0)
				printf(") COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n");
			else if (strchr(o->value, '|')) {
				printf(") COMPREPLY=($(compgen -W \"");
				for (const char *p = o->value; *p; p++)
					putchar(*p == '|' ? ' ' : *p);
				printf("\" -- \"$cur\")); return ;;\n");
			} else {
				printf(") return ;;\n");
			}
		}
		printf("\t\tesac\n\t\tcase $cur in\n\t\t-*) COMPREPLY=($(compgen -W \"");
		print_words(*c);
		printf("\" -- \"$cur\")) ;;\n\t\t*)");
		if ((*c)->words)
			printf(" [ \"$COMP_CWORD\" = 2 ] && COMPREPLY=($(compgen -W \"%s\" -- \"$cur\"))\n\t\t\t", (*c)->words);
		if ((*c)->program)
			printf(" COMPREPLY=($(compgen -c -- \"$cur\"))");
		else if ((*c)->files)
			printf(" COMPREPLY+=($(compgen -f -- \"$cur\"))");
		printf(" ;;\n\t\tesac ;;\n");
	}
	printf("\thelp) COMPREPLY=($(compgen -W \"");
	for (const struct cli *const *c = cli_commands; *c; c++)
		printf("%s ", short_name(*c));
	printf("\" -- \"$cur\")) ;;\n\tesac\n}\ncomplete -o filenames -F _userkvm userkvm\n");
}

/* In single quotes; a row's help goes to its first newline. */
static void quoted(const char *text)
{
	putchar('\'');
	for (; *text && *text != '\n'; text++) {
		if (*text == '\'')
			fputs("'\\''", stdout);
		else
			putchar(*text);
	}
	putchar('\'');
}

static void fish(void)
{
	printf("# fish completion of userkvm(1)\ncomplete -c userkvm -f\n");
	for (const struct cli *const *c = cli_commands; *c; c++) {
		printf("complete -c userkvm -n __fish_use_subcommand -a %s -d ", short_name(*c));
		quoted((*c)->what);
		putchar('\n');
	}
	for (const struct cli *const *c = cli_commands; *c; c++) {
		for (const struct cli_option *o = (*c)->options; o->name || o->letter; o++) {
			printf("complete -c userkvm -n '__fish_seen_subcommand_from %s'", short_name(*c));
			if (o->name)
				printf(" -l %s", o->name);
			if (o->letter)
				printf(" -s %c", o->letter);
			if (o->value)
				printf(strncmp(o->value, "FILE", 4) == 0 ? " -r -F" : " -x");
			if (o->value && strchr(o->value, '|')) {
				printf(" -a '");
				for (const char *p = o->value; *p; p++)
					putchar(*p == '|' ? ' ' : *p);
				putchar('\'');
			}
			printf(" -d ");
			quoted(o->help);
			putchar('\n');
		}
		if ((*c)->words)
			printf("complete -c userkvm -n '__fish_seen_subcommand_from %s' -a '%s'\n", short_name(*c), (*c)->words);
		if ((*c)->program)
			printf("complete -c userkvm -n '__fish_seen_subcommand_from %s' -a '(__fish_complete_subcommand)'\n",
			       short_name(*c));
		else if ((*c)->files)
			printf("complete -c userkvm -n '__fish_seen_subcommand_from %s' -F\n", short_name(*c));
	}
}

/* Within a spec of _arguments brackets and colons have a meaning. */
static void zsh_text(const char *text)
{
	for (; *text && *text != '\n'; text++) {
		if (*text == '\'')
			fputs("'\\''", stdout);
		else if (strchr("[]:\\", *text))
			printf("\\%c", *text);
		else
			putchar(*text);
	}
}

static void zsh(void)
{
	printf("#compdef userkvm\n# zsh completion of userkvm(1)\n_userkvm() {\n\tlocal -a commands\n\tcommands=(\n");
	for (const struct cli *const *c = cli_commands; *c; c++) {
		printf("\t\t'%s:", short_name(*c));
		zsh_text((*c)->what);
		printf("'\n");
	}
	printf("\t)\n\tif (( CURRENT == 2 )); then\n\t\t_describe command commands\n\t\treturn\n\tfi\n"
	       "\tlocal command=$words[2]\n\tshift words\n\t(( CURRENT-- ))\n\tcase $command in\n");
	for (const struct cli *const *c = cli_commands; *c; c++) {
		printf("\t%s) _arguments -S", short_name(*c));
		for (const struct cli_option *o = (*c)->options; o->name || o->letter; o++) {
			for (int form = 0; form < 2; form++) {
				if (form ? !o->letter : !o->name)
					continue;
				printf(" \\\n\t\t'");
				if (form)
					printf("-%c", o->letter);
				else
					printf("--%s", o->name);
				putchar('[');
				zsh_text(o->help);
				putchar(']');
				if (o->value) {
					putchar(':');
					zsh_text(o->value);
					putchar(':');
					if (strncmp(o->value, "FILE", 4) == 0)
						printf("_files");
					else if (strchr(o->value, '|')) {
						putchar('(');
						for (const char *p = o->value; *p; p++)
							putchar(*p == '|' ? ' ' : *p);
						putchar(')');
					}
				}
				putchar('\'');
			}
		}
		if ((*c)->words)
			printf(" \\\n\t\t'1:what:(%s)'", (*c)->words);
		if ((*c)->program)
			printf(" \\\n\t\t'*::program:_normal'");
		else if ((*c)->files)
			printf(" \\\n\t\t'*:file:_files'");
		printf(" ;;\n");
	}
	printf("\tesac\n}\n[ \"$funcstack[1]\" = _userkvm ] && _userkvm \"$@\" || compdef _userkvm userkvm\n");
}

static int cmd_completion(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*print)(void);
	} shells[] = { { "bash", bash }, { "zsh", zsh }, { "fish", fish } };
	int status = cli_parse(&cli_completion, argc, argv, NULL, NULL);

	if (status >= 0)
		return status;
	if (optind + 1 != argc)
		return wrong_usage(cli_completion.name, "one shell: bash, zsh or fish");
	for (size_t i = 0; i < sizeof(shells) / sizeof(shells[0]); i++)
		if (strcmp(argv[optind], shells[i].name) == 0) {
			shells[i].print();
			return 0;
		}
	return wrong_usage(cli_completion.name, "no shell '%s' that it knows: bash, zsh or fish", argv[optind]);
}
